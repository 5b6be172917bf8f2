"""Every setting of the moving part, with its default and the reason for it.

Read from, strongest first: arguments, environment variables (`VIGIL_KAFKA__BOOTSTRAP=...`, two underscores between levels), the
TOML file named by `VIGIL_CONFIG` (default `vigil.toml` in the working folder, if it is there), the defaults below. `vigil settings`
prints them all. Secrets are `SecretStr`: they never show in logs or in `vigil settings`.

A name that is no setting is refused wherever it stands, with the nearest that is. Durations are written as `processors.durations`
says. In a variable a list may stand as in JSON or as a plain `mllp,fhir`, a table as in JSON only.
"""

import os
import socket
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, SecretStr, ValidationError, model_validator
from pydantic.fields import FieldInfo
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
    TomlConfigSettingsSource,
)
from pydantic_settings.sources import DefaultSettingsSource

from connectors.deliver.settings import AnyReceiver, CallbackSettings, chain
from connectors.dicom.settings import DicomSettings, StowSettings
from connectors.fhir.settings import FhirSettings
from connectors.hl7.settings import MllpSettings
from connectors.identity import IdentitySettings
from connectors.objects import ObjectSettings
from connectors.qdrant.settings import QdrantSettings
from models.errors import Permanent
from processors.durations import Seconds
from processors.events import TOPICS
from processors.rules import MonitorRules
from streams.setting_names import HINT, is_list, nearest, not_json, refuse_unknown_variables, wrong
from streams.topic_options import FIXED_CLEANUP, JOURNAL, MEET, cleanup_of


class Section(BaseModel):
    """A group of settings: unknown names are refused, so a typing error is seen at start and not after an incident."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class KafkaSettings(Section):
    """How to reach Kafka; the same for aiokafka, confluent-kafka and Faust."""

    bootstrap: str = Field(
        "localhost:9092", pattern=r"^\S+(\s*,\s*\S+)*$", description="host:port of one or more brokers, comma separated"
    )
    security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = Field(
        "PLAINTEXT", description="PLAINTEXT only inside a protected network"
    )
    ca_file: Path | None = Field(None, description="PEM of the brokers' authority; the system's store if unset")
    certificate_file: Path | None = Field(None, description="PEM client certificate, for mutual TLS")
    key_file: Path | None = Field(None, description="PEM key of the client certificate")
    key_password: SecretStr | None = Field(None, description="password of the key file")
    check_hostname: bool = Field(True, description="refuse a broker whose certificate names another host")
    sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER"] | None = Field(
        None, description="needed with SASL_*"
    )
    sasl_username: str = Field("", description="for PLAIN and SCRAM")
    sasl_password: SecretStr | None = Field(None, description="for PLAIN and SCRAM")
    oauth_token_file: Path | None = Field(
        None, description="OAUTHBEARER: a file that holds the token, read anew at each connect"
    )
    client_id: str = Field("vigil", description="shown in the brokers' logs and quotas")
    topic_prefix: str = Field(
        "",
        pattern=r"^[A-Za-z0-9._-]{0,200}$",
        description="put before every topic name, for several sites or tests on one cluster",
    )
    embedded: bool = Field(False, description="the broker is the embedded one: no topic creation call, 5 MB kept per partition")

    @model_validator(mode="after")
    def _complete(self) -> "KafkaSettings":
        if self.security_protocol.startswith("SASL"):
            if self.sasl_mechanism is None:
                raise ValueError("kafka.sasl_mechanism is needed with a SASL security protocol")
            if self.sasl_mechanism == "OAUTHBEARER":
                if self.oauth_token_file is None:
                    raise ValueError("kafka.oauth_token_file is needed with OAUTHBEARER")
            elif not self.sasl_username or self.sasl_password is None:
                raise ValueError("kafka.sasl_username and kafka.sasl_password are needed with PLAIN and SCRAM")
        return self


_TOPICS = (*TOPICS, JOURNAL)
_LONGEST_RETENTION = 100 * 365.25 * 24  # hours


class TopicSettings(Section):
    """How `vigil topics create` makes the topics."""

    partitions: int = Field(
        12,
        ge=1,
        le=10_000,
        description="of every topic that `partitions_of` does not name. Patients are spread over so many, also where a topic has "
        "got more since; for topics in use it stays as it is",
    )
    partitions_of: dict[str, Annotated[int, Field(ge=1, le=10_000)]] = Field(
        default_factory=dict,
        description="per topic; vitals, patients, feedback and the vitals lane's journal meet in a lane and must agree",
    )
    replication: int = Field(3, ge=1, le=100, description="copies of each partition; 1 on a single broker")
    replication_of: dict[str, Annotated[int, Field(ge=1, le=100)]] = Field(default_factory=dict, description="per topic")
    min_insync: int | None = Field(
        None, ge=1, description="copies that must confirm a write, not above `replication`; default: one less, at least 1"
    )
    cleanup_of: dict[str, Literal["delete", "compact", "compact,delete"]] = Field(
        default_factory=dict,
        description="per topic: `compact,delete` keeps a patient's newest record only, where Vigil needs no more (entities,"
        " findings, shadow); clinical.patients is always compacted, the others never",
    )
    retention_hours: dict[str, Annotated[float, Field(gt=0, le=_LONGEST_RETENTION)]] = Field(
        default_factory=lambda: {
            "clinical.audit": 6 * 365.25 * 24,  # six years by convention (HIPAA 164.316(b)(2)(i))
            "clinical.dead-letters": 90 * 24,
        },
        description="per topic; others keep `default_retention_hours`",
    )
    default_retention_hours: float = Field(
        14 * 24, gt=0, le=_LONGEST_RETENTION, description="two weeks: an outage over a holiday loses nothing"
    )
    largest_message_bytes: int = Field(
        4_000_000, ge=100_000, le=2**30 - 1, description="of an input; dead letters may be larger (base64)"
    )

    def partitions_for(self, name: str) -> int:
        """Return how many partitions a topic is made with."""
        return self.partitions_of.get(name, self.partitions)

    def used(self, name: str, there: int) -> int:
        """Return how many of the partitions that are there keys are spread over: no more than the topic was made with.

        By those that somebody adds most patients would move, and what is known of them would stay where it is.
        """
        return min(there, self.partitions_for(name))

    @model_validator(mode="after")
    def _topics_are_ours(self) -> "TopicSettings":
        for setting in ("partitions_of", "replication_of", "cleanup_of", "retention_hours"):
            for name in getattr(self, setting):
                if name not in _TOPICS:
                    raise ValueError(f"topics.{setting}: there is no topic {name!r}{nearest(name, _TOPICS)}")
        return self

    @model_validator(mode="after")
    def _topics_meet(self) -> "TopicSettings":
        counts = {name: self.partitions_for(name) for name in MEET}
        if len(set(counts.values())) > 1:
            raise ValueError(
                "topics.partitions_of: these meet in the vitals lane, where all of a patient's records must lie in one partition: "
                f"give them the same number ({', '.join(f'{name} has {count}' for name, count in counts.items())})"
            )
        return self

    @model_validator(mode="after")
    def _enough_copies_to_confirm(self) -> "TopicSettings":
        for name in _TOPICS:
            copies = self.replication_of.get(name, self.replication)
            if self.min_insync is not None and self.min_insync > copies:
                raise ValueError(
                    f"topics.min_insync ({self.min_insync}) must not be above the copies that {name} has ({copies}, by "
                    "topics.replication and replication_of): brokers would refuse every write"
                )
        return self

    @model_validator(mode="after")
    def _cleaned_up_safely(self) -> "TopicSettings":
        for name, policy in self.cleanup_of.items():
            usual, why = cleanup_of(name), FIXED_CLEANUP.get(name)
            if why is not None and policy != usual:
                raise ValueError(f"topics.cleanup_of: {name} must stay {usual!r}, not {policy!r}: {why}")
            if why is None and policy == "compact":
                raise ValueError(
                    f"topics.cleanup_of: {name} may be 'delete' or 'compact,delete', not 'compact': what was said of a patient "
                    "would be kept for ever"
                )
        for name in self.retention_hours:
            if cleanup_of(name) == "compact":
                raise ValueError(f"topics.retention_hours: {name} is kept without limit: {FIXED_CLEANUP[name]}")
        return self


class EngineSettings(Section):
    """How a lane takes in, settles and commits (`streams.ledger` has the algorithm)."""

    slice_records: int = Field(512, ge=1, description="records of one slice at most")
    held_records: int = Field(1024, ge=1, description="unsettled records per partition: the bound on memory; then it is paused")
    held_bytes: int = Field(8_000_000, ge=1, description="unsettled bytes per partition, likewise")
    gather: Seconds = Field(
        0.004,
        le=1,
        description="seconds that a connector's writes and the vitals lane's small batches keep apart under load, so that what "
        "comes meanwhile goes together: every write has its price. The first after a quiet time goes at once",
    )
    commit_every: Seconds = Field(0.25, gt=0, le=60, description="seconds between commits: what a SIGKILL repeats at most")
    drain: Seconds = Field(5.0, gt=0, description="seconds that a rebalance waits for what is in flight")
    grace: Seconds = Field(
        10.0, gt=0, description="seconds that a stop waits for what is in flight before it abandons it unacked"
    )
    stall_after: Seconds = Field(60.0, gt=0, description="seconds of lag without any progress or retry: unready, then exit")
    silence_after: Seconds = Field(
        15.0,
        gt=0,
        description="seconds without an answer from Kafka, to a fetch or to a write, after which a lane is not ready",
    )
    log_check_every: Seconds = Field(
        15.0, gt=0, description="seconds between looks whether retention overtook a partition that was held"
    )
    session_timeout: Seconds = Field(
        30.0,
        gt=0,
        le=1800,
        description="a static member may be gone this long before it loses its partitions; brokers take up to half an hour",
    )
    heartbeat_interval: Seconds = Field(
        3.0, ge=0.01, description="a tenth of the session time-out; at most a third, so that one that is lost costs nothing"
    )
    request_timeout: Seconds = Field(40.0, gt=0, le=3600, description="of a produce or fetch: above the session time-out")
    rebalance_timeout: Seconds = Field(
        60.0, gt=0, le=3600, description="above `drain`, so that draining never loses the membership"
    )
    rebalances_per_minute: int = Field(20, ge=2, description="more mean two processes with one instance id: exit")
    backoff_first: Seconds = Field(0.2, gt=0, description="seconds before the first retry of a transient failure")
    backoff_most: Seconds = Field(30.0, gt=0, description="seconds between retries at most")
    publish_timeout: Seconds = Field(
        20.0, gt=0, description="seconds a connector waits for Kafka before it answers nothing positive"
    )

    @model_validator(mode="after")
    def _times_fit(self) -> "EngineSettings":
        if self.heartbeat_interval > self.session_timeout / 3:
            raise ValueError(
                f"engine.heartbeat_interval ({self.heartbeat_interval:g}) must be at most a third of engine.session_timeout "
                f"({self.session_timeout:g}): else a heartbeat that is late loses the lane its partitions"
            )
        if self.request_timeout <= self.session_timeout:
            raise ValueError(
                f"engine.request_timeout ({self.request_timeout:g}) must be above engine.session_timeout "
                f"({self.session_timeout:g}): a request that joins a group may be held that long"
            )
        if self.drain >= self.rebalance_timeout:
            raise ValueError(
                f"engine.drain ({self.drain:g}) must be below engine.rebalance_timeout ({self.rebalance_timeout:g}): else draining "
                "loses the membership"
            )
        if self.backoff_first > self.backoff_most:
            raise ValueError(
                f"engine.backoff_first ({self.backoff_first:g}) must not be above engine.backoff_most ({self.backoff_most:g}), "
                "up to which it doubles"
            )
        return self


class LaneSettings(Section):
    """One lane."""

    batch_records: int = Field(32, ge=1, description="records of one batch of a partition at most")
    batch_bytes: int = Field(
        256_000,
        ge=1,
        description="bytes of their values at most, one record always: what long notes cost, some 15 s of a core for the "
        "default; the vitals lane goes by records",
    )
    nice: int = Field(
        19,
        ge=0,
        le=19,
        description="CPU priority: vitals go first (0), language and image models yield (19: on Linux their models' "
        "threads get what nobody else wants, SCHED_IDLE)",
    )


class EntitiesSettings(LaneSettings):
    """The lane that finds entities."""

    vocabulary: bool = Field(
        True,
        description="lay the terms of the ward (models/vocabulary.txt) over what the model finds: it learned from case "
        "reports, and misses much that clinicians abbreviate; and read doses and values beside names by rule. Such entities say "
        "`found_by` vocabulary; false: the model alone",
    )
    own_terms: tuple[Path, ...] = Field(
        (), description="the site's own tables, written as that one: a term given again goes by the last, [-] silences it"
    )


class MergesSettings(LaneSettings):
    """The lane that re-keys vectors."""

    batch_records: int = Field(256, ge=1, description="records of one batch of a partition at most")
    follows: tuple[Literal["notes-vectors", "images"], ...] = Field(
        ("notes-vectors", "images"),
        description="lanes that write vectors: a merge waits until they have passed what came before it. Take out one that the "
        "site does not run",
    )


class LanesSettings(Section):
    """The lanes' own settings."""

    notes_entities: EntitiesSettings = Field(default_factory=EntitiesSettings, description="notes -> entities")
    notes_vectors: LaneSettings = Field(default_factory=LaneSettings, description="notes -> vectors")
    images: LaneSettings = Field(LaneSettings(batch_records=16), description="images -> findings and vectors")
    merges: MergesSettings = Field(default_factory=MergesSettings, description="patients -> vectors: what merges re-key")
    vitals: LaneSettings = Field(LaneSettings(batch_records=512, nice=0), description="vitals -> scores and alerts")


class CacheSettings(Section):
    """Predictions remembered by model and input (`streams.caching`); never for vitals."""

    megabytes: float = Field(
        8.0, ge=0, description="memory for them in each worker, 0: none; a resent or replayed note is answered from it"
    )
    seconds: Seconds = Field(3600.0, gt=0, description="how long one is kept, in Redis too")
    redis: SecretStr | None = Field(
        None,
        description="address of a Redis that workers share (redis://, rediss://), with its password; needs the redis extra",
    )
    redis_patience: Seconds = Field(0.1, gt=0, description="seconds Redis may take before the model runs without it")


class ModelSettings(Section):
    """Which models, and how inference is batched."""

    registry: Path | None = Field(None, description="a site's registry file, laid over the packaged one")
    fetch: bool = Field(
        False,
        description="lanes fetch models whose location is hf:// or s3:// (by digest, beside the registry file); the vitals lane "
        "never does: it would watch nobody meanwhile. Off: only `vigil models add` and `pull` do",
    )
    watch_seconds: Seconds = Field(
        5.0, gt=0, description="how often a running lane looks whether the site's registry file names another model"
    )
    threads: int = Field(
        1, ge=1, le=1024, description="ONNX Runtime threads per model: lanes scale by processes, not by threads"
    )
    largest_batch: int = Field(16, ge=1, description="items of one inference; on a CPU more buys little and padding costs")
    longest_delay: Seconds = Field(0.002, le=10, description="seconds the first item waits for company")
    queue: int = Field(1024, ge=1, description="items that may wait; then callers wait")
    cache: CacheSettings = Field(default_factory=lambda: CacheSettings(), description="predictions remembered")
    drift_window: int = Field(
        500,
        ge=0,
        description="inputs that are compared with the model's reference at a time, where it has one; 0: no watch. "
        "Smaller windows take chance for drift",
    )
    shadow_queue: int = Field(
        256, ge=1, description="inputs that may wait for a challenger in shadow; what comes on top is left out, and counted"
    )
    shadow_bytes: int = Field(64_000_000, ge=1, description="bytes of them at most: images are large")
    drivers_from: float = Field(
        0.015,
        ge=0,
        le=1,
        description="a deterioration score from this on names what drove it; where NEWS2 asks for a response, every score does. "
        "Just above the rate in what the shipped model learned from (1.4%); 0: always, at several times the cost of scoring",
    )
    vitals_deadline: Seconds = Field(
        0.5, gt=0, description="seconds NEWS2 waits for the model, then goes out alone, labelled so"
    )


class VitalsStateSettings(Section):
    """How the vitals lane's state is kept (`streams.journal`)."""

    tick_seconds: Seconds = Field(1.0, gt=0, description="how often logged time moves: the grain of silence and escalation")
    snapshot_seconds: Seconds = Field(20.0, gt=0, description="how often changed patients are written; what a restart replays")


class SiteSettings(Section):
    """Who we are."""

    name: str = Field("site", min_length=1, description="stands in CloudEvents `source`")


DEMO_SECRET = "change-me: the demo's secret"  # noqa: S105 - public on purpose
"""Lets everything start out of the box; `vigil doctor` warns of it."""


class ConnectorSettings(Section):
    """The edges: what listens, and how."""

    mllp: MllpSettings = Field(default_factory=lambda: MllpSettings(), description="HL7 v2 over MLLP")
    fhir: FhirSettings = Field(default_factory=lambda: FhirSettings(), description="FHIR R4 over HTTP")
    dicom: DicomSettings = Field(default_factory=lambda: DicomSettings(), description="DICOM C-STORE")
    stow: StowSettings = Field(
        default_factory=lambda: StowSettings(), description="DICOM over HTTP (STOW-RS); objects are read as `dicom` says"
    )
    callback: CallbackSettings = Field(
        default_factory=lambda: CallbackSettings(), description="answers to alerts from the webhook receivers of `deliver`"
    )
    enabled: tuple[Literal["mllp", "fhir", "dicom", "stow", "callback"], ...] = Field(
        ("mllp", "fhir", "dicom"),
        description="what `vigil serve` runs; `stow` where a sender speaks DICOMweb, `callback` where webhook receivers answer",
    )


class WorkerSettings(Section):
    """Which worker of a lane this process is."""

    host: str = Field(default_factory=socket.gethostname, min_length=1, description="with `slot` names the static group member")
    slot: int = Field(0, ge=0, description="0, 1, ... per lane on one host; stable over restarts")
    health_port: int = Field(0, ge=0, le=65535, description="/live, /ready, /metrics; 0: any free port, written to the log")
    health_host: str = Field("127.0.0.1", description="0.0.0.0 to let Prometheus scrape from outside")

    def agent(self, lane: str) -> str:
        """Return who a worker of a lane is in the audit."""
        return f"{lane}@{self.host}-{self.slot}"


class ClockSettings(Section):
    """When a step of the wall clock is believed; and an accelerated clock for the demo, which a site leaves alone."""

    epoch: AwareDatetime | None = Field(None, description="what the clock showed at `started`")
    started: AwareDatetime | None = Field(None, description="real time when it showed `epoch`")
    speed: float = Field(1.0, gt=0, description="seconds of the clock per real second")
    step_seconds: Seconds = Field(
        30.0, gt=0, description="vitals: the wall clock has stepped when it differs by more from the time that has passed"
    )
    hold_seconds: Seconds = Field(
        120.0, description="vitals: a step is believed once it has lasted so long; a clock that is put right steps back"
    )

    @model_validator(mode="after")
    def _both(self) -> "ClockSettings":
        if (self.epoch is None) != (self.started is None):
            raise ValueError("clock.epoch and clock.started go together")
        return self


class TracingSettings(Section):
    """OpenTelemetry."""

    endpoint: str = Field(
        "",
        pattern=r"^(https?://\S+)?$",
        description="OTLP/HTTP endpoint (extra `otlp`); empty: traceparent is passed on, nothing is sent",
    )
    ratio: float = Field(
        1.0,
        ge=0,
        le=1,
        description="share of the traces begun here, where a message brings none, that are sampled; lower it at thousands a second",
    )


class _Environment(EnvSettingsSource):
    """A list may stand in a variable as people write one: `mllp,fhir`."""

    def decode_complex_value(self, field_name: str, field: FieldInfo | None, value: Any) -> Any:
        """Read a value that is no single word."""
        try:
            # A field is None for a part of a table, which the library's own types do not say.
            return super().decode_complex_value(field_name, field, value)  # type: ignore[arg-type]
        except ValueError:
            if field is None or not is_list(field.annotation) or str(value).lstrip()[:1] in "[{":
                raise
            return [part.strip() for part in str(value).split(",") if part.strip()]


class _Defaults(DefaultSettingsSource):
    """What a section keeps of its defaults when a site sets one of its values: all, but for the peers.

    A site that names its senders has named them all. Merged in, the default peer would stay on the allow list, and one without
    a token beside those with one is refused at start.
    """

    def __init__(self, settings_cls: type[BaseSettings]) -> None:
        super().__init__(settings_cls, nested_model_default_partial_update=True)
        self.defaults = {**self.defaults, "connectors": _without_peers(self.defaults["connectors"])}


def _without_peers(values: dict[str, Any]) -> dict[str, Any]:
    return {
        name: _without_peers(value) if isinstance(value, dict) else value for name, value in values.items() if name != "peers"
    }


class Settings(BaseSettings):
    """All of it."""

    model_config = SettingsConfigDict(env_prefix="VIGIL_", env_nested_delimiter="__", frozen=True, extra="forbid")

    site: SiteSettings = SiteSettings()
    kafka: KafkaSettings = KafkaSettings()
    topics: TopicSettings = TopicSettings()
    engine: EngineSettings = EngineSettings()
    lanes: LanesSettings = LanesSettings()
    models: ModelSettings = ModelSettings()
    monitor: MonitorRules = MonitorRules()
    state: VitalsStateSettings = VitalsStateSettings()
    vectors: QdrantSettings = QdrantSettings()
    identity: IdentitySettings = IdentitySettings(site_secret=SecretStr(DEMO_SECRET))
    connectors: ConnectorSettings = ConnectorSettings()
    deliver: dict[str, AnyReceiver] = Field({}, description="who is told of alerts, by name; each has a group of its own")
    objects: ObjectSettings = ObjectSettings()
    worker: WorkerSettings = WorkerSettings()
    clock: ClockSettings = ClockSettings()
    tracing: TracingSettings = TracingSettings()

    @model_validator(mode="after")
    def _receivers_fall_back(self) -> "Settings":
        for name in self.deliver:
            if not name.replace("-", "").replace("_", "").isalnum():
                raise ValueError("a receiver's name is made of letters, digits, - and _")
            chain(self.deliver, name)
        return self

    @model_validator(mode="after")
    def _ticks_show_a_zombie(self) -> "Settings":
        if self.state.tick_seconds >= self.engine.session_timeout:
            raise ValueError(
                f"state.tick_seconds ({self.state.tick_seconds:g}) must be below engine.session_timeout "
                f"({self.engine.session_timeout:g}): a tick shows a worker that it was replaced"
            )
        if self.monitor.blind_after.total_seconds() <= self.state.tick_seconds:
            raise ValueError(
                f"monitor.blind_after ({self.monitor.blind_after}) must be above state.tick_seconds ({self.state.tick_seconds:g}): "
                "else each tick would end an outage"
            )
        return self

    @model_validator(mode="after")
    def _sections_fit(self) -> "Settings":
        dicom, stored = self.connectors.dicom.largest_object, self.objects.largest_bytes
        if dicom > stored:
            raise ValueError(
                f"connectors.dicom.largest_object ({dicom}) must not be above objects.largest_bytes ({stored}), which "
                "refuses it"
            )
        for name, receiver in self.deliver.items():
            if receiver.dead_after <= self.monitor.heartbeat.total_seconds():
                raise ValueError(
                    f"deliver.{name}.dead_after ({receiver.dead_after:g}) must be above monitor.heartbeat "
                    f"({self.monitor.heartbeat}): else the receiver is told that monitoring is dead between two of them"
                )
        return self

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Arguments, then environment, then the TOML file."""
        file = Path(os.environ.get("VIGIL_CONFIG", "vigil.toml"))
        toml = TomlConfigSettingsSource(settings_cls, toml_file=file)
        return init_settings, _Environment(settings_cls), toml, _Defaults(settings_cls)


def load(**arguments: Any) -> Settings:
    """Read the settings; raises `Permanent` that names each setting that is wrong, without showing secrets."""
    named = os.environ.get("VIGIL_CONFIG")
    if named and not Path(named).is_file():
        raise Permanent(f"VIGIL_CONFIG names {named}, which is not there", hint="create it, or unset VIGIL_CONFIG")
    refuse_unknown_variables(Settings)
    try:
        return Settings(**arguments)
    except tomllib.TOMLDecodeError as error:
        raise Permanent(f"{named or 'vigil.toml'} is not TOML: {error}") from error
    except UnicodeDecodeError as error:
        raise Permanent(f"{named or 'vigil.toml'} is not UTF-8, as TOML must be (at byte {error.start})") from None
    except OSError as error:
        raise Permanent(f"{named or 'vigil.toml'} cannot be read: {error.strerror}") from error
    except SettingsError:
        raise Permanent(f"settings: {'; '.join(not_json(Settings))}", hint=HINT) from None
    except ValidationError as error:
        raise Permanent(f"settings: {'; '.join(wrong(Settings, one) for one in error.errors())}", hint=HINT) from None
