"""Settings of the FHIR connector, each with its default and the reason for it."""

from ipaddress import ip_address
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator, model_validator

from connectors.hl7.settings import ContextCode, LocalCode
from connectors.stays import Class
from connectors.zones import known_zone
from processors.durations import Seconds, WholeSeconds
from processors.events import ProcessingId


class Section(BaseModel):
    """A group of settings: unknown names are refused, so that a typing error is seen at start."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class SmartClient(Section):
    """Who we are to a server that lets programs in by SMART Backend Services (private_key_jwt)."""

    client_id: str = Field(min_length=1, description="as the server has registered us")
    key_file: Path = Field(
        description="our private key, not encrypted: PEM or JWK, RSA (signs RS384) or EC on P-384 (ES384); read for each token. "
        "The server knows the public one"
    )
    key_id: str = Field("", description="`kid` by which the server knows the key; empty: the JWK's own")
    scope: str = Field("system/*.rs", description="what is asked for; servers of SMART 1 want `system/*.read`")
    token_endpoint: str = Field("", description="empty: as the server's .well-known/smart-configuration says")


class FhirPeer(Section):
    """One sender and what is particular about it."""

    token: SecretStr | None = Field(None, description="its bearer token; with several senders each needs one")
    base: str = Field(
        "", description="the server's base URL: scopes its resource ids, so `Patient/7` of two servers are two; else its name"
    )
    fetch: bool = Field(
        False,
        description="fetch from `base` what its notifications only announce, and what was lost between them; without it they are "
        "refused (422), since accepting them would lose what they announce. Also Binaries there whose URLs stand in its resources",
    )
    fetch_ca_file: Path | None = Field(None, description="PEM authorities of the server at `base`, in place of the usual ones")
    fetch_token_file: Path | None = Field(
        None, description="a file that holds the bearer token we show when we fetch from `base`; read anew at each request"
    )
    fetch_smart: SmartClient | None = Field(
        None, description="fetch a token of minutes by SMART Backend Services, in place of `fetch_token_file`"
    )
    fetch_certificate_file: Path | None = Field(
        None, description="PEM certificate chain that we show when we fetch from `base` (mutual TLS)"
    )
    fetch_key_file: Path | None = Field(
        None, description="its PEM key, not encrypted; unset: it is in `fetch_certificate_file`"
    )
    fetch_overlap: Seconds = Field(
        300.0,
        ge=0,
        description="seconds before what was fetched last from which a fetch begins: a server may show a resource so long after "
        "its stamp, at the end of a long transaction. What comes again has the same ids",
    )
    authority: str = Field("", description="assigning authority of identifiers that name no system; empty: `base`")
    zone: str = Field("UTC", description="IANA zone of times that are only a date; FHIR times of day carry their offset")
    codes: dict[str, LocalCode] = Field(
        default_factory=dict, description="its local codes: `CODE` or `CODE^SYSTEM-URI` of Observation.code; first looked up"
    )
    classes: dict[str, Class] = Field(
        default_factory=dict,
        description="its own classes of visits: `CODE` or `CODE^SYSTEM-URI` of Encounter.class -> inpatient, emergency or "
        "outpatient; first looked up. One that is not known displaces no stay in progress",
    )
    processing: ProcessingId = Field("production", description="a test system's data never alerts: `training` or `debugging`")
    charted: bool | None = Field(
        None, description="are its vitals validated by staff? unset: no for device data (MDC codes) and `preliminary`"
    )
    test_contexts: bool = Field(
        False, description="take patients' contexts from test data too: only where its patients exist nowhere else"
    )
    answers_alerts: bool = Field(
        False,
        description="believe its Communications that answer our alerts: they end escalation, so only of a peer that shows a token "
        "or a certificate and names the person who answered",
    )

    @field_validator("zone")
    @classmethod
    def _known_zone(cls, zone: str) -> str:
        return known_zone(zone)

    @model_validator(mode="after")
    def _where_from(self) -> "FhirPeer":
        if self.fetch and not self.base:
            raise ValueError("a FHIR peer with `fetch` needs a `base` to fetch from")
        if self.fetch_smart and self.fetch_token_file:
            raise ValueError("`fetch_smart` fetches the token that `fetch_token_file` would hold: one of the two")
        if self.fetch_key_file and not self.fetch_certificate_file:
            raise ValueError("`fetch_key_file` is the key of a `fetch_certificate_file`")
        return self


class FhirTls(Section):
    """Transport security."""

    certificate_file: Path = Field(description="PEM certificate chain of this server")
    key_file: Path = Field(description="PEM key of this server")
    ca_file: Path | None = Field(
        None, description="PEM authorities of the senders; given: every sender must show a certificate"
    )


class FhirSettings(Section):
    """The FHIR R4 endpoint."""

    host: str = Field("127.0.0.1", description="address to listen on; 0.0.0.0 once tokens or TLS are set")
    port: int = Field(8090, ge=0, le=65535, description="0: any free one")
    path: str = Field("/fhir", pattern=r"^(/[A-Za-z0-9._~-]+)*$", description="base of the RESTful interface")
    hook: str = Field("/hook", pattern=r"^(/[A-Za-z0-9._~-]+)+$", description="where rest-hook subscriptions are delivered")
    tls: FhirTls | None = Field(None, description="unset: plain HTTP, only behind a proxy or inside a protected network")
    peers: dict[str, FhirPeer] = Field(
        default_factory=lambda: {"fhir": FhirPeer.model_validate({})},
        description="senders by name, told apart by their tokens; the name stands in events. Default: one, without a token",
    )
    codes: dict[str, LocalCode] = Field(default_factory=dict, description="local observation codes of all peers")
    context_codes: dict[str, ContextCode] = Field(
        default_factory=dict, description="observation codes that set a patient's SpO2 scale, ceiling of care, pregnancy"
    )
    not_for_us: Literal["accept", "refuse"] = Field(
        "accept",
        description="what is mapped in no way (a laboratory value, a Claim in a transaction): `accept` answers 200 with a note, so "
        "that a feed of everything flows; `refuse` answers 422. A type posted alone that is not supported is always 404",
    )
    unmapped: Literal["ignore", "dead-letter"] = Field(
        "ignore", description="an Observation whose code is no vital sign: counted, or kept as a dead letter"
    )

    bookmarks: Path | None = Field(
        None,
        description="folder that keeps how far the fetching for notifications is; unset: ten minutes are looked back at a start",
    )

    largest_body: int = Field(
        16 * 2**20,
        ge=1024,
        description="bytes of a request, or of content that is fetched; documents with embedded PDFs reach a few MiB",
    )
    deepest: int = Field(50, ge=10, description="levels of nesting; the deepest real resource has about 20")
    largest_picture: int = Field(
        100_000_000, ge=1, description="pixels of a picture in a Media: a mammogram has 25 million, a bomb has more"
    )
    remembered_observations: int = Field(
        100_000,
        ge=0,
        description="ids of Observations of which is remembered what they said (about 1 KB each), those heard of last: a later "
        "version with another value corrects that, one for another patient or time takes it back",
    )
    most_entries: int = Field(
        5000, ge=1, description="entries of a Bundle, and of any one element of a resource (components, identifiers, ...)"
    )
    connections: int = Field(2048, ge=1, description="open connections; one more is closed")
    connections_of_one: int = Field(
        512,
        ge=1,
        description="open connections of one address; one more is closed. Higher where a proxy stands before many senders",
    )
    in_flight: int = Field(
        64, ge=1, description="requests whose body is whole, being answered; one more is told 503, try again"
    )
    buffered_bytes: int = Field(
        256 * 2**20,
        ge=2**20,
        description="bodies being read or answered, all together, half of it for one address; above it those over 64 KiB are told "
        "503, try again",
    )
    confirm_timeout: Seconds = Field(
        15.0, gt=0, description="seconds for Kafka to confirm; then 503. Below the usual client's 30 s"
    )
    header_timeout: Seconds = Field(10.0, gt=0, description="seconds until a request's headers are complete, else it is closed")
    body_timeout: Seconds = Field(
        30.0, gt=0, description="seconds in which a request's body must be complete, or have come on at ..."
    )
    body_bytes_per_second: int = Field(16_384, ge=1, description="... this rate, for a large one over a slow line; else 408")
    idle_timeout: Seconds = Field(
        65.0, gt=0, description="seconds an idle connection is kept; above the 60 s that proxies reuse it"
    )
    retry_after: WholeSeconds = Field(5, ge=1, description="seconds that a 503 asks the sender to wait")

    @model_validator(mode="after")
    def _bodies_fit(self) -> "FhirSettings":
        if self.largest_body > self.buffered_bytes // 2:
            raise ValueError(
                f"fhir.largest_body ({self.largest_body}) must not be above half of fhir.buffered_bytes ({self.buffered_bytes}), "
                "which is what one address may fill"
            )
        return self

    @model_validator(mode="after")
    def _tokens(self) -> "FhirSettings":
        tokens = [peer.token.get_secret_value() for peer in self.peers.values() if peer.token]
        if not self.peers:
            raise ValueError("fhir.peers must name at least one sender")
        if len(set(tokens)) != len(tokens):
            raise ValueError("two fhir.peers have the same token: they could not be told apart")
        if any(len(token) < 16 for token in tokens):
            raise ValueError("a token needs at least 16 characters; a good one: openssl rand -hex 32")
        unknown = [name for name, peer in self.peers.items() if peer.answers_alerts and not self.authenticates(peer)]
        if unknown and not is_loopback(self.host):
            raise ValueError(
                f"{', '.join(unknown)}: `answers_alerts` ends escalations, so the peer needs a token, or tls.ca_file to ask every "
                "sender for a certificate: else whoever reaches the port answers"
            )
        if len(self.peers) > 1 and len(tokens) < len(self.peers):
            raise ValueError("with several fhir.peers each needs a token: they could not be told apart")
        return self

    @property
    def needs_token(self) -> bool:
        """Whether senders must show a bearer token."""
        return any(peer.token for peer in self.peers.values())

    def authenticates(self, peer: FhirPeer) -> bool:
        """Whether it takes more than to reach the port to pass for a peer: a token, or a certificate."""
        return peer.token is not None or (self.tls is not None and self.tls.ca_file is not None)


def is_loopback(host: str) -> bool:
    """Whether a host is this machine."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
