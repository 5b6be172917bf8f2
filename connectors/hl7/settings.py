"""Settings of the HL7 v2 connector, each with its default and the reason for it."""

from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from itertools import combinations
from pathlib import Path
from typing import Annotated, Final, Literal
from zoneinfo import ZoneInfo

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, IPvAnyNetwork, field_validator, model_validator

from connectors.stays import Class
from connectors.zones import known_zone
from processors import ucum
from processors.durations import Seconds
from processors.events import ProcessingId


class Section(BaseModel):
    """A group of settings: unknown names are refused, so that a typing error is seen at start."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class LocalCode(Section):
    """What a sender's own observation code means."""

    loinc: str = Field(pattern=r"^\d{1,7}-\d$", description="the LOINC code of the same observation")
    unit: str = Field("", description="UCUM unit where the sender leaves OBX-6 empty")
    values: dict[str, float | str] = Field(
        default_factory=dict, description="coded value as sent -> value, e.g. `RA` -> 0 for an oxygen flow of none"
    )


class ContextCode(Section):
    """An observation code that says something lasting about a patient."""

    fact: Literal["pregnant", "spo2_scale", "ceiling_of_care"] = Field(description="the field of the patient's context")
    values: dict[str, bool | int | str | None] = Field(
        default_factory=dict, description="coded value as sent -> value; empty: the text as sent (`1` or `2` for the scale)"
    )


def _known(unit: str) -> str:
    if not any(ucum.conversion(unit, target) for target in ucum.UNITS):
        raise ValueError(f"{unit} is no unit of a vital sign: {', '.join(ucum.UNITS)}, [degF], kPa, ...")
    return unit


Letter = Literal["A", "B", "C", "D", "F", "I", "N", "O", "P", "R", "S", "U", "V", "W", "X"]  # table 0085
Units = dict[str, Annotated[str, AfterValidator(_known)]]


class Hl7Peer(Section):
    """One sender and what is particular about it."""

    addresses: tuple[IPvAnyNetwork, ...] = Field((), description="where it connects from: addresses or networks")
    certificates: tuple[str, ...] = Field((), description="common or DNS names of its certificate, with mutual TLS")
    applications: tuple[str, ...] = Field(
        (),
        description="MSH-3 (sending application) of its messages, the whole field as sent: tells apart peers of one address, as "
        "behind an interface engine. What no peer of an address sends as is refused there (AR)",
    )
    facilities: tuple[str, ...] = Field(
        (), description="MSH-4 (sending facility) of its messages, likewise; with both, both count"
    )
    zone: str = Field("", description="IANA zone of times without an offset; empty: the offset of MSH-7, else UTC")
    charset: str = Field("cp1252", description="read what does not decode as declared in this (Python codec name)")
    authority: str = Field("", description="assigning authority of identifiers that name none; empty: MSH-4, the facility")
    codes: dict[str, LocalCode] = Field(
        default_factory=dict, description="its local codes: `CODE` or `CODE^SYSTEM` of OBX-3; before the common table"
    )
    units: Units = Field(default_factory=dict, description="its ways to write a unit: OBX-6 as sent -> UCUM unit; likewise")
    statuses: dict[str, Letter] = Field(
        default_factory=dict,
        description="its own words in OBX-11 and OBR-25 as sent -> the letter of table 0085 that they mean, e.g. `In Error` -> `D`",
    )
    classes: dict[str, Class] = Field(
        default_factory=dict,
        description="its own classes of visits: PV1-2 as sent -> inpatient, emergency or outpatient; before table 0004. One "
        "that is not known displaces no stay in progress",
    )
    unconfirmed: Literal["close", "AR", "AE"] = Field(
        "close",
        description="when Kafka does not confirm in time: products differ in which answer they resend, all resend on silence",
    )
    not_for_us: Literal["AA", "AR"] = Field(
        "AA", description="a message type that is not mapped: AA keeps the feed flowing, AR shows the misrouting to its sender"
    )
    unmapped: Literal["count", "dead-letter"] = Field(
        "count", description="numeric observations whose code is not known: counted (a laboratory feed has thousands), or kept"
    )
    charted: bool | None = Field(
        None, description="are its vitals validated by staff? unset: no for device data (MDC codes) and status R, yes otherwise"
    )
    text_types: frozenset[str] = Field(
        frozenset({"TX", "FT", "ED"}),
        description="OBX-2 types that are report text in an ORU; add ST for senders of reports in ST",
    )
    empty_processing: ProcessingId = Field(
        "production", description="an empty MSH-11: production, since a missed alert is the worse error"
    )
    test_contexts: bool = Field(
        False, description="take patients' contexts from test traffic too: only where its patients exist nowhere else"
    )
    answers_alerts: bool = Field(
        False,
        description="believe its ORA^R41 (IHE PCD-05): an Alert Manager that says who acknowledged an alert. They end escalation: "
        "better known by `certificates` than by an address alone",
    )
    connections: int = Field(1024, ge=1, description="open connections of this peer; one more is refused")

    @property
    def kinds_of_mark(self) -> tuple[bool, ...]:
        """Whether it is known by a certificate, an application, a facility: who has more of these comes before who has fewer."""
        return bool(self.certificates), bool(self.applications), bool(self.facilities)

    def sends_as(self, application: str, facility: str) -> bool:
        """Whether a message with that MSH-3 and MSH-4 may be of this peer."""
        return (not self.applications or application in self.applications) and (
            not self.facilities or facility in self.facilities
        )

    @field_validator("zone")
    @classmethod
    def _known_zone(cls, zone: str) -> str:
        return known_zone(zone) if zone else zone

    @field_validator("charset")
    @classmethod
    def _known_codec(cls, charset: str) -> str:
        try:
            b"a".decode(charset)  # an empty one would not even look the name up
        except LookupError:
            raise ValueError(f"no character set of that name: {charset!r}") from None
        return charset


class Hl7Tls(Section):
    """Transport security (IHE ATNA)."""

    certificate_file: Path = Field(description="PEM certificate chain of this server")
    key_file: Path = Field(description="PEM key of this server")
    ca_file: Path | None = Field(
        None, description="PEM authorities of the senders; given: every sender must show a certificate"
    )


_ANYWHERE: Final = frozenset({ip_network("0.0.0.0/0"), ip_network("::/0")})


def _networks(peer: Hl7Peer) -> frozenset[IPv4Network | IPv6Network]:
    return frozenset(peer.addresses) or _ANYWHERE


def _alike(one: Hl7Peer, other: Hl7Peer) -> bool:
    """Whether something may fit both of two peers that have the same kinds of marks."""
    marks = ((one.certificates, other.certificates), (one.applications, other.applications), (one.facilities, other.facilities))
    return all(not mine or set(mine) & set(others) for mine, others in marks)


LOOPBACK = {"loopback": Hl7Peer.model_validate({"addresses": ("127.0.0.0/8", "::1/128")})}


class MllpSettings(Section):
    """The MLLP server."""

    host: str = Field("127.0.0.1", description="address to listen on; 0.0.0.0 once the peers are listed")
    port: int = Field(2575, ge=0, le=65535, description="the port IANA registered for HL7; 0: any free one")
    tls: Hl7Tls | None = Field(None, description="unset: plain TCP, only inside a protected network")
    peers: dict[str, Hl7Peer] = Field(
        default_factory=lambda: dict(LOOPBACK),
        description="the allow list, by name; the name stands in events. Default: this machine only",
    )
    codes: dict[str, LocalCode] = Field(default_factory=dict, description="local codes of all peers")
    units: Units = Field(
        default_factory=dict, description="ways of all peers to write a unit: OBX-6 as sent -> UCUM unit, e.g. `grd` -> `Cel`"
    )
    context_codes: dict[str, ContextCode] = Field(
        default_factory=dict,
        description="codes (`CODE` or `CODE^SYSTEM`) that set a patient's SpO2 scale, ceiling of care, pregnancy",
    )
    facility: str = Field("VIGIL", description="MSH-3 and MSH-4 of answers to a message that names no receiver")

    message_bytes: int = Field(16 * 2**20, ge=1024, description="largest message; reports with embedded PDFs reach a few MiB")
    buffered_bytes: int = Field(
        256 * 2**20, ge=2**20, description="all half and unanswered messages together; above it, those over 64 KiB are cut off"
    )
    connections: int = Field(4096, ge=1, description="open connections in all")
    in_flight: int = Field(32, ge=1, description="unanswered messages per connection; then nothing more is read from it")
    idle_seconds: Seconds = Field(0, description="close a connection that sends nothing; 0: never, quiet feeds are normal")
    frame_seconds: Seconds = Field(
        60, gt=0, description="a message must be complete this long after its first byte, plus time at ..."
    )
    frame_bytes_per_second: int = Field(16_384, ge=1, description="... this rate for a large one; slower senders are cut off")
    publish_seconds: Seconds = Field(
        10, gt=0, description="wait this long for Kafka; below the 30 s after which many senders give up"
    )
    answer_seconds: Seconds = Field(30, gt=0, description="a peer that does not read its answers for this long is cut off")
    trailer_seconds: Seconds = Field(
        0.5, gt=0, description="silence after 0x1C that counts as the end of a frame without its 0x0D"
    )
    stop_seconds: Seconds = Field(15, description="on stopping, wait this long for messages in flight")
    remembered: int = Field(20_000, ge=0, description="answers kept to recognise a resend without publishing it again")
    set_seconds: Seconds = Field(300, description="observations of one order this close together are one set of vitals")

    @model_validator(mode="after")
    def _someone_may_connect(self) -> "MllpSettings":
        nobody = [name for name, peer in self.peers.items() if not peer.addresses and not peer.certificates]
        if nobody:
            raise ValueError(f"peers without addresses and certificates can never connect: {', '.join(nobody)}")
        if self.message_bytes > self.buffered_bytes:
            raise ValueError(
                f"mllp.message_bytes ({self.message_bytes}) must not be above mllp.buffered_bytes ({self.buffered_bytes}), in "
                "which a message is held until it is answered"
            )
        return self

    @model_validator(mode="after")
    def _are_told_apart(self) -> "MllpSettings":
        for (name, one), (other, two) in combinations(self.peers.items(), 2):
            if one.kinds_of_mark == two.kinds_of_mark and (places := _networks(one) & _networks(two)) and _alike(one, two):
                where = "any address" if _ANYWHERE & places else ", ".join(sorted(map(str, places)))
                raise ValueError(
                    f"mllp.peers {name} and {other} cannot be told apart: both send from {where}. Give one of them, or each, "
                    "`applications` (MSH-3 of its messages) or `facilities` (MSH-4), none in both; or `certificates`, by mutual TLS"
                )
        return self

    def peers_of(self, address: str, certificate_names: tuple[str, ...] = ()) -> "tuple[Peer, ...]":
        """Return who may send from an address with a certificate; none for a stranger.

        A message is the first one's that sends as its MSH-3 and MSH-4 say (`Hl7Peer.sends_as`): the narrowest network comes first,
        then who is known by a certificate, by an application, by a facility.
        """
        try:
            source = ip_address(address.split("%")[0])
        except ValueError:
            return ()
        source = getattr(source, "ipv4_mapped", None) or source
        found: list[tuple[int, tuple[bool, ...], str]] = []
        for name, peer in self.peers.items():
            if peer.certificates and not set(peer.certificates) & set(certificate_names):
                continue
            widths = [one.prefixlen for one in peer.addresses if one.version == source.version and source in one]
            if not peer.addresses:
                widths = [0]
            if widths:
                found.append((max(widths), peer.kinds_of_mark, name))
        found.sort(key=lambda one: one[:2], reverse=True)
        return tuple(Peer(name, self.peers[name]) for _, _, name in found)


class Peer:
    """A sender by its name, with its settings."""

    __slots__ = ("name", "settings", "zone")

    def __init__(self, name: str, settings: Hl7Peer | None = None) -> None:
        self.name = name
        self.settings = settings or Hl7Peer.model_construct()
        self.zone = ZoneInfo(self.settings.zone) if self.settings.zone else None
