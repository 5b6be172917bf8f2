"""Settings: where they come from, what is refused, what never shows."""

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from pydantic import BaseModel, ValidationError

from models.errors import Permanent
from streams import checks, setting_names
from streams.cli.settings import rows
from streams.kafka import aiokafka_config, confluent_config, faust_config
from streams.setting_names import names
from streams.settings import KafkaSettings, Settings, load


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)


def test_environment_beats_file_and_file_beats_default(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "vigil.toml").write_text('[kafka]\nbootstrap = "file:1"\nclient_id = "from-file"\n')
    monkeypatch.setenv("VIGIL_KAFKA__BOOTSTRAP", "env:2")
    settings = load()
    assert (settings.kafka.bootstrap, settings.kafka.client_id) == ("env:2", "from-file")
    assert settings.kafka.security_protocol == "PLAINTEXT"


def test_a_typing_error_is_refused_and_named(tmp_path: Path) -> None:
    (tmp_path / "vigil.toml").write_text('[kafka]\nbootstrapp = "x:1"\n')
    with pytest.raises(Permanent, match=r"kafka\.bootstrapp"):
        load()


def test_a_broken_file_and_a_missing_one_are_said_in_words(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "vigil.toml").write_text("[kafka\n")
    with pytest.raises(Permanent, match="not TOML"):
        load()
    monkeypatch.setenv("VIGIL_CONFIG", str(tmp_path / "nowhere.toml"))
    with pytest.raises(Permanent, match="not there"):
        load()


def _fields(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, str]]:
    for name, field in model.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from _fields(kind, f"{prefix}{name}.")
        else:
            yield prefix + name, field.description or ""


def test_every_setting_of_the_moving_part_has_its_reason() -> None:
    ours = ("kafka.", "topics.", "engine.", "lanes.", "models.", "state.", "worker.", "clock.", "tracing.", "site.")
    silent = [name for name, reason in _fields(Settings) if name.startswith(ours) and not reason]
    assert not silent


def test_secrets_never_show(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VIGIL_IDENTITY__SITE_SECRET", "do-not-show-me-anywhere")
    monkeypatch.setenv("VIGIL_KAFKA__SASL_PASSWORD", "nor-me")
    settings = load()
    shown = " ".join(f"{row.name} {row.value}" for row in rows(settings)) + repr(settings) + settings.model_dump_json()
    assert "do-not-show" not in shown
    assert "nor-me" not in shown


def test_what_is_shown_can_be_written_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """A value as `vigil settings` prints it, put into its variable, is that value; and the default is told beside it."""
    shown = {row.name: row for row in rows(Settings())}
    assert shown["monitor.staleness"].value == "1h" and shown["monitor.carry_forward.spo2"].value == "6h"
    for row in shown.values():
        if row.value and row.value != "**********":
            monkeypatch.setenv(f"VIGIL_{row.name.upper().replace('.', '__')}", row.value)
    again = load()
    assert {row.name: row.value for row in rows(again)} == {name: row.value for name, row in shown.items()}
    monkeypatch.setenv("VIGIL_MONITOR__STALENESS", "45m")
    changed = {row.name: row for row in rows(load())}["monitor.staleness"]
    assert (changed.value, changed.default) == ("45m", "1h")


@pytest.mark.parametrize("mechanism", ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"])
def test_sasl_reaches_all_three_clients(mechanism: str) -> None:
    kafka = KafkaSettings(
        bootstrap="a:1,b:2",
        security_protocol="SASL_PLAINTEXT",
        sasl_mechanism=mechanism,
        sasl_username="vigil",
        sasl_password="pw",
    )
    one = aiokafka_config(kafka)
    assert (one["sasl_mechanism"], one["sasl_plain_username"], one["sasl_plain_password"]) == (mechanism, "vigil", "pw")
    two = confluent_config(kafka)
    assert (two["sasl.mechanisms"], two["sasl.username"], two["sasl.password"]) == (mechanism, "vigil", "pw")
    three = faust_config(kafka)
    assert three["broker"] == "kafka://a:1;kafka://b:2"
    assert three["broker_credentials"].mechanism.value == mechanism


async def test_an_oauth_token_is_read_anew_at_each_connect(tmp_path: Path) -> None:
    file = tmp_path / "token"
    kafka = KafkaSettings(security_protocol="SASL_PLAINTEXT", sasl_mechanism="OAUTHBEARER", oauth_token_file=file)
    provider = aiokafka_config(kafka)["sasl_oauth_token_provider"]
    for token in ("first", "second"):
        file.write_text(token + "\n")
        assert await provider.token() == token
        assert confluent_config(kafka)["oauth_cb"](None)[0] == token


@pytest.mark.parametrize(
    "wrong",
    [
        {"security_protocol": "SASL_SSL"},
        {"security_protocol": "SASL_SSL", "sasl_mechanism": "PLAIN"},
        {"security_protocol": "SASL_SSL", "sasl_mechanism": "OAUTHBEARER"},
    ],
)
def test_half_a_credential_is_refused(wrong: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="needed"):
        KafkaSettings(**wrong)


def test_a_missing_tls_file_is_named(tmp_path: Path) -> None:
    kafka = KafkaSettings(security_protocol="SSL", ca_file=tmp_path / "nowhere.pem")
    with pytest.raises(Permanent, match=r"nowhere\.pem"):
        aiokafka_config(kafka)


def test_a_site_that_names_its_peers_has_named_them_all(monkeypatch: pytest.MonkeyPatch) -> None:
    assert set(load().connectors.mllp.peers) == {"loopback"}
    monkeypatch.setenv("VIGIL_CONNECTORS__FHIR__PEERS", '{"portal": {"token": "sixteen characters at least"}}')
    monkeypatch.setenv("VIGIL_CONNECTORS__MLLP__PEERS", '{"ward": {"addresses": ["10.0.0.0/8"]}}')
    connectors = load().connectors
    assert set(connectors.fhir.peers) == {"portal"}
    assert set(connectors.mllp.peers) == {"ward"}, "the default peer is no longer let in"
    assert connectors.mllp.port == 2575


def test_a_section_keeps_the_defaults_of_what_is_not_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VIGIL_LANES__IMAGES__NICE", "3")
    monkeypatch.setenv("VIGIL_TOPICS__RETENTION_HOURS", '{"clinical.notes": 1}')
    settings = load()
    assert (settings.lanes.images.nice, settings.lanes.images.batch_records) == (3, 16)
    assert set(settings.topics.retention_hours) >= {"clinical.notes", "clinical.audit", "clinical.dead-letters"}


def test_nothing_listens_to_the_network_until_a_site_says_so() -> None:
    connectors = load().connectors
    hosts = {name: own.host for name, own in connectors if hasattr(own, "host")}
    assert set(hosts) >= {"mllp", "fhir", "dicom", "stow"}
    assert set(hosts.values()) == {"127.0.0.1"}


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("VIGIL_KAFAK__BOOTSTRAP", "VIGIL_KAFKA__BOOTSTRAP"),
        ("VIGIL_KAFKA_BOOTSTRAP", "VIGIL_KAFKA__BOOTSTRAP"),
        ("VIGIL_KAFKA__BOOTSTRAPP", "VIGIL_KAFKA__BOOTSTRAP"),
        ("VIGIL_SITE_SECRET", "VIGIL_IDENTITY__SITE_SECRET"),
        ("VIGIL_CONNECTORS_MLLP_PORT", "VIGIL_CONNECTORS__MLLP__PORT"),
        ("VIGIL_ENGINE__DRAIN__SECONDS", "VIGIL_ENGINE__DRAIN"),
    ],
)
def test_a_variable_that_names_no_setting_is_refused(monkeypatch: pytest.MonkeyPatch, name: str, near: str) -> None:
    monkeypatch.setenv(name, "nowhere:1")
    with pytest.raises(Permanent, match=rf"{name} \(did you mean {near}\?\)") as caught:
        load()
    assert "nowhere" not in caught.value.advice


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("VIGIL_TEST_KAFKA", "local"),
        ("VIGIL_HOME_SQL", "sqlite://"),
        ("VIGIL_PORT", "tcp://10.0.0.1:2575"),
        ("VIGIL_MLLP_SERVICE_HOST", "10.0.0.1"),
        ("VIGIL_PORT_2575_TCP_ADDR", "10.0.0.1"),
        ("vigil_kafka__bootstrap", "lower:1"),
        ("VIGIL_DELIVER", '{"pager": {"kind": "pcd04", "host": "pager", "port": 1}}'),
    ],
)
def test_other_variables_of_our_name_are_let_be(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)
    load()


def test_every_setting_may_stand_in_a_variable() -> None:
    found = list(names(Settings))
    assert "monitor.silence.zero" in found
    unknown = [name for name in found if not setting_names._at(Settings, name.split("."))]
    assert not unknown


@pytest.mark.parametrize("text", ["mllp,fhir", " mllp , fhir ", '["mllp","fhir"]'])
def test_a_list_may_be_written_plainly(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("VIGIL_CONNECTORS__ENABLED", text)
    assert load().connectors.enabled == ("mllp", "fhir")


def test_what_is_no_json_is_named_and_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VIGIL_CONNECTORS__FHIR__PEERS", '{"portal": {"token": hunter2')
    with pytest.raises(Permanent, match="VIGIL_CONNECTORS__FHIR__PEERS is not JSON") as caught:
        load()
    assert "hunter2" not in caught.value.advice


def test_a_file_that_is_not_utf_8_is_said_in_words(tmp_path: Path) -> None:
    (tmp_path / "vigil.toml").write_bytes('[site]\nname = "Clínica"\n'.encode("latin-1"))
    with pytest.raises(Permanent, match="not UTF-8"):
        load()


def test_a_section_that_is_none_is_refused_with_the_nearest_name(tmp_path: Path) -> None:
    (tmp_path / "vigil.toml").write_text('[topics]\npartition = 3\n[identity]\nsite_secrets = "do-not-show-me-anywhere"\n')
    with pytest.raises(Permanent, match=r"no setting topics\.partition; did you mean topics.partitions") as caught:
        load()
    assert "identity.site_secrets; did you mean identity.site_secret" in str(caught.value)
    assert "do-not-show" not in caught.value.advice


WRITTEN = [("30", 30), ("30s", 30), ("30m", 1800), ("1h", 3600), ("2d", 172_800), ("1h30m", 5400), ("PT30M", 1800)]


@pytest.mark.parametrize(("text", "seconds"), WRITTEN)
@pytest.mark.parametrize("where", ["environment", "file", "file, a number"])
def test_a_duration_is_written_the_same_everywhere(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, text: str, seconds: float, where: str
) -> None:
    if where == "environment":
        for name in ("VIGIL_MONITOR__STALENESS", "VIGIL_ENGINE__GRACE", "VIGIL_CONNECTORS__FHIR__RETRY_AFTER"):
            monkeypatch.setenv(name, text)
    else:
        value = f'"{text}"' if where == "file" else seconds
        (tmp_path / "vigil.toml").write_text(
            f"[monitor]\nstaleness = {value}\n[engine]\ngrace = {value}\n[connectors.fhir]\nretry_after = {value}\n"
        )
    found = load()
    assert found.monitor.staleness == timedelta(seconds=seconds)
    assert found.engine.grace == found.connectors.fhir.retry_after == seconds


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("MONITOR__STALENESS", "-3600", r"monitor.staleness = -3600: .*greater than 0.*never alerts"),
        ("MONITOR__HIGH_TOTAL", "3", r"monitor.medium_total \(5\) must be below monitor.high_total \(3\)"),
        ("MONITOR__SILENCE__ZERO", "-5", r"monitor.silence.zero = -5"),
        ("MONITOR__SILENCE__ZERO", "900d", r"monitor.forget_silent .* must be above"),
        ("MONITOR__CARRY_FORWARD__SPO2", "-1h", "monitor.carry_forward.spo2"),
        ("MONITOR__FORGET_AFTER", "99999d", "from 0 to 3653 days"),
        ("MONITOR__FEED_SILENCE__PEERS", '{"ehr": 0}', "monitor.feed_silence.peers.ehr = 0"),
        ("MONITOR__FEED_SILENCE__LIMIT", "7h", r"monitor.feed_silence.limit .* must not be above"),
        ("MONITOR__PERSISTENCE__SPACING", "4h", "no value of an unvalidated stream would ever count"),
        ("MONITOR__UNITLESS", '{"heart_rat": "/min"}', "nothing that is scored is called 'heart_rat'"),
        ("MONITOR__UNITLESS", '{"heart_rate": "Cel"}', "no unit of heart_rate"),
        ("MONITOR__BLIND_AFTER", "30s", r"monitor.heartbeat .* must be below monitor.blind_after"),
        ("ENGINE__COMMIT_EVERY", "inf", "engine.commit_every = inf: .*between commits"),
        ("ENGINE__COMMIT_EVERY", "nan", "engine.commit_every"),
        ("ENGINE__HEARTBEAT_INTERVAL", "99", r"engine.heartbeat_interval \(99\) must be at most a third .* \(30\)"),
        ("ENGINE__REQUEST_TIMEOUT", "1", r"engine.request_timeout \(1\) must be above engine.session_timeout \(30\)"),
        ("ENGINE__DRAIN", "500", r"engine.drain \(500\) must be below engine.rebalance_timeout \(60\)"),
        ("ENGINE__BACKOFF_FIRST", "1h", r"engine.backoff_first \(3600\) must not be above"),
        ("STATE__TICK_SECONDS", "30", r"state.tick_seconds \(30\) must be below"),
        ("KAFKA__TOPIC_PREFIX", "ward 7/", "kafka.topic_prefix"),
        ("CLOCK__EPOCH", "2026-01-01T00:00:00Z", "go together"),
        ("CLOCK__SPEED", "inf", "clock.speed = inf"),
        ("WORKER__HEALTH_PORT", "70000", "worker.health_port = 70000"),
        ("OBJECTS__LARGEST_BYTES", "1000", "connectors.dicom.largest_object .* must not be above objects.largest_bytes"),
        ("CONNECTORS__MLLP__BUFFERED_BYTES", "2000000", "mllp.message_bytes .* must not be above mllp.buffered_bytes"),
        ("CONNECTORS__FHIR__LARGEST_BODY", "200000000", r"fhir.largest_body \(200000000\) must not be above half"),
        ("TRACING__ENDPOINT", "collector:4318", "tracing.endpoint"),
        ("CONNECTORS__MLLP__PUBLISH_SECONDS", "-1", "connectors.mllp.publish_seconds = -1"),
        ("DELIVER", '{"a": {"kind": "pcd04", "host": "h", "port": 1, "dead_after": 50}}', r"a.dead_after \(50\) must be above"),
        ("IDENTITY__SITE_SECRET", "12345", "identity.site_secret: the site secret needs at least 16 bytes"),
    ],
)
def test_a_value_that_is_not_safe_is_refused_with_the_reason(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, words: str
) -> None:
    monkeypatch.setenv(f"VIGIL_{name}", value)
    with pytest.raises(Permanent, match=words) as caught:
        load()
    assert "12345" not in caught.value.advice


def test_no_duration_is_endless_or_negative() -> None:
    """Whichever setting is a duration: what is below zero or has no end is refused by its type, in each section."""

    def durations_of(model: type[BaseModel]) -> Iterator[tuple[type[BaseModel], str]]:
        for name, field in model.model_fields.items():
            kind = field.annotation
            if isinstance(kind, type) and issubclass(kind, BaseModel):
                yield from durations_of(kind)
            elif kind in (float, timedelta):
                yield model, name

    found = list(durations_of(Settings))
    assert len(found) > 60
    for model, name in found:
        for value in (-1, float("inf"), float("nan")):
            with pytest.raises(ValidationError) as caught:
                model.model_validate({name: value})
            assert any(error["loc"] == (name,) for error in caught.value.errors()), (model, name, value)


def test_a_wrong_key_of_a_peer_is_told_with_those_that_there_are(tmp_path: Path) -> None:
    (tmp_path / "vigil.toml").write_text('[connectors.mllp.peers.MON]\ntz = "Europe/Berlin"\nzones = "UTC"\n')
    with pytest.raises(Permanent) as refused:
        load()
    assert "no setting connectors.mllp.peers.MON.tz; there are addresses, " in str(refused.value)
    assert "no setting connectors.mllp.peers.MON.zones; did you mean zone?" in str(refused.value)


def test_every_setting_has_its_reason() -> None:
    assert [row.name for row in rows(Settings()) if not row.why] == []


async def test_departures_from_the_published_rules_are_named() -> None:
    (found,) = await checks._monitor(Settings())
    assert found.verdict == "ok"
    (found,) = await checks._monitor(Settings(monitor={"high_total": 9, "escalation": {"high": []}}))
    assert (found.verdict, found.found.rpartition(": ")[2]) == ("warning", "monitor.escalation, monitor.high_total")
