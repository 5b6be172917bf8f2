"""Settings of the DICOM connector, each with its default and the reason for it."""

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from connectors.zones import known_zone
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

    host: str = Field("0.0.0.0", description="address to listen on")  # noqa: S104  modalities are other machines
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
    connections: int = Field(2000, ge=1, description="open connections; silent ones are cheap and closed after `acse_timeout`")
    decoders: int = Field(2, ge=1, description="objects decoded at once: bounds memory, about 30 bytes a sample each")
    min_free_bytes: int = Field(2 * 2**30, ge=0, description="below this on the object store's disk associations are rejected")

    confirm_timeout: float = Field(
        20.0, gt=0, description="seconds for object store and Kafka to confirm; then A700. Below the 30-60 s that senders wait"
    )
    acse_timeout: float = Field(10.0, gt=0, description="seconds to negotiate an association")
    dimse_timeout: float = Field(30.0, gt=0, description="seconds for the rest of a message that has begun")
    network_timeout: float = Field(
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
