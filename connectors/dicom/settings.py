"""Settings of the DICOM connector, each with its default and the reason for it."""

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator, model_validator

from connectors.zones import known_zone
from processors.durations import Seconds, WholeSeconds
from processors.events import ProcessingId

FramePolicy = Literal["first", "middle"]


class Section(BaseModel):
    """A group of settings: unknown names are refused, so that a typing error is seen at start."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class DicomPeer(Section):
    """One sender, by its AE title."""

    ae_title: str = Field(min_length=1, max_length=16, description="calling AE title (PS3.5: at most 16 characters)")
    name: str = Field("", description="stands in events as the origin; the AE title where empty")
    authority: str = Field(
        "", description="assigning authority of its Patient IDs where the object names none; else the default"
    )
    zone: str = Field("", description="IANA zone of its times where the object names no offset; else the default")
    processing: ProcessingId = Field(
        "production", description="a test modality's images never alert: `training` or `debugging`"
    )

    @field_validator("zone")
    @classmethod
    def _known_zone(cls, zone: str) -> str:
        return known_zone(zone) if zone else zone


class DicomTls(Section):
    """Secure transport (PS3.15 B.12, BCP 195)."""

    certificate_file: Path = Field(description="PEM certificate of this server")
    key_file: Path = Field(description="PEM key of this server")
    ca_file: Path | None = Field(
        None, description="PEM authorities of the senders; given: every sender must show a certificate"
    )


class DicomSettings(Section):
    """The Storage SCP."""

    host: str = Field(
        "127.0.0.1",
        description="address to listen on; 0.0.0.0, for modalities on other machines, once `peers` lists them or TLS is set",
    )
    port: int = Field(11112, ge=0, le=65535, description="the registered port that needs no root (104 does); 0: any")
    ae_title: str = Field("VIGIL", min_length=1, max_length=16, description="our AE title")
    require_called_ae_title: bool = Field(False, description="refuse senders that call us otherwise; many are set up loosely")
    peers: tuple[DicomPeer, ...] = Field(
        (), description="the allow list of calling AE titles; empty: everyone, for first tests"
    )
    tls: DicomTls | None = Field(None, description="unset: plain TCP, only inside a protected network")

    authority: str = Field("", description="assigning authority of Patient IDs where neither object nor peer names one")
    zone: str = Field("UTC", description="IANA zone of times where neither object nor peer names one")
    frame: FramePolicy = Field("first", description="which one frame stands for a multi-frame object; `middle` suits volumes")
    unmapped: Literal["store", "refuse"] = Field(
        "store",
        description="objects that are no pictures (SR, RT, SEG, ...): `store` keeps them and answers 0000, because a sender "
        "that routes whole studies stops at the first failure; `refuse` answers 0122",
    )
    burned_in: Literal["accept", "dead-letter"] = Field(
        "accept", description="what to do where (0028,0301) says YES: text in the pixels is not removed, see CONFORMANCE.md"
    )

    largest_object: int = Field(
        256 * 2**20,
        ge=1,
        description="bytes; a longer object is cut off (aborted) on arrival. Not above `objects.largest_bytes`",
    )
    largest_frame: int = Field(
        100_000_000, ge=1, description="samples of one frame: a mammogram has 25 million, a bomb has more"
    )
    associations: int = Field(
        25, ge=1, description="open associations; one more is rejected as transient (local limit exceeded)"
    )
    associations_of_one: int = Field(
        10,
        ge=1,
        description="open associations of one address; one more is rejected alike. Higher where one router sends for all",
    )
    connections: int = Field(
        2000,
        ge=1,
        description="open connections, half of them for one address; silent ones are cheap and closed after `acse_timeout`",
    )
    decoders: int = Field(2, ge=1, description="objects decoded at once: bounds memory, about 30 bytes a sample each")
    min_free_bytes: int = Field(2 * 2**30, ge=0, description="below this on the object store's disk associations are rejected")

    confirm_timeout: Seconds = Field(
        20.0, gt=0, description="seconds for object store and Kafka to confirm; then A700. Below the 30-60 s that senders wait"
    )
    acse_timeout: Seconds = Field(10.0, gt=0, description="seconds to negotiate an association")
    dimse_timeout: Seconds = Field(30.0, gt=0, description="seconds for the rest of a message that has begun")
    network_timeout: Seconds = Field(
        60.0, gt=0, description="seconds an idle association is kept: modalities pause between images"
    )
    largest_pdu: int = Field(
        131_072, ge=4096, description="bytes of one PDU that we announce: fewer reads than the usual 16 KiB"
    )

    @field_validator("zone")
    @classmethod
    def _known_zone(cls, zone: str) -> str:
        return known_zone(zone)

    def peer(self, ae_title: str) -> DicomPeer:
        """Return the peer of a calling AE title; one without settings of its own gets the defaults."""
        title = ae_title.strip()
        return next((peer for peer in self.peers if peer.ae_title.strip() == title), DicomPeer(ae_title=title or "UNKNOWN"))


class StowPeer(Section):
    """One sender over HTTP, by its bearer token."""

    token: SecretStr | None = Field(None, description="its bearer token; with several senders each needs one")
    authority: str = Field("", description="assigning authority of its Patient IDs where the object names none; else the SCP's")
    zone: str = Field("", description="IANA zone of its times where the object names no offset; else the SCP's")
    processing: ProcessingId = Field("production", description="a test system's images never alert: `training` or `debugging`")

    @field_validator("zone")
    @classmethod
    def _known_zone(cls, zone: str) -> str:
        return known_zone(zone) if zone else zone


class StowSettings(Section):
    """The STOW-RS endpoint; how objects are read stands in `DicomSettings`."""

    host: str = Field("127.0.0.1", description="address to listen on; 0.0.0.0 once tokens or TLS are set")
    port: int = Field(8091, ge=0, le=65535, description="0: any free one")
    path: str = Field("/dicom-web", pattern=r"^(/[A-Za-z0-9._~-]+)*$", description="base of the DICOMweb interface")
    tls: DicomTls | None = Field(None, description="unset: plain HTTP, only behind a proxy or inside a protected network")
    peers: dict[str, StowPeer] = Field(
        default_factory=lambda: {"stow": StowPeer.model_validate({})},
        min_length=1,
        description="senders by name, told apart by token",
    )
    connections: int = Field(256, ge=1, description="open connections; one more is closed")
    in_flight: int = Field(
        16,
        ge=1,
        description="requests being taken, half of them of one address; one more is told 503. Each holds up to the largest object",
    )
    header_timeout: Seconds = Field(10.0, gt=0, description="seconds until a request's headers are complete, else it is closed")
    silence: Seconds = Field(
        30.0, gt=0, description="seconds in which a body must end or come on at 16 KiB/s, else 400; storing does not count"
    )
    idle_timeout: Seconds = Field(
        65.0, gt=0, description="seconds an idle connection is kept; above the 60 s that proxies reuse it"
    )
    retry_after: WholeSeconds = Field(10, ge=1, description="seconds that a 503 asks the sender to wait")

    @model_validator(mode="after")
    def _tokens(self) -> "StowSettings":
        tokens = [peer.token.get_secret_value() for peer in self.peers.values() if peer.token]
        if len(self.peers) > 1 and (len(tokens) < len(self.peers) or len(set(tokens)) < len(tokens)):
            raise ValueError("with several stow peers each needs a token of its own: they could not be told apart")
        if any(len(token) < 16 for token in tokens):
            raise ValueError("a token needs at least 16 characters; a good one: openssl rand -hex 32")
        return self
