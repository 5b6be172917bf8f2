"""Synthetic HL7 v2 messages for tests."""

from collections.abc import Callable
from datetime import UTC, datetime

from connectors.contexts import Contexts
from connectors.hl7.handling import Hl7Mapper, Outcome
from connectors.hl7.settings import Hl7Peer, MllpSettings, Peer
from tests.edge import identities

NOW = datetime(2026, 3, 2, 10, 0, tzinfo=UTC)
PID = "PID|1||4711^^^HOSP^MR||DOE^JANE||19500321|F"
PV1 = "PV1|1|I|W1^R2^B3" + "|" * 16 + "V77"


def message(
    *segments: str,
    kind: str = "ORU^R01^ORU_R01",
    control_id: str = "M1",
    processing: str = "P",
    version: str = "2.6",
    accept: str = "",
    application: str = "",
    charset: str = "",
    sent: str = "20260302100000+0000",
) -> bytes:
    msh = f"MSH|^~\\&|MON|ICU|VIGIL|HOSP|{sent}||{kind}|{control_id}|{processing}|{version}|||{accept}|{application}||{charset}"
    return "".join(segment + "\r" for segment in (msh, *segments)).encode()


def obx(
    code: str,
    value: str,
    unit: str = "",
    *,
    kind: str = "NM",
    status: str = "F",
    at: str = "",
    number: int = 1,
    device: str = "",
) -> str:
    return f"OBX|{number}|{kind}|{code}||{value}|{unit}|||||{status}|||{at}||||{device}"


def vitals(
    *lines: str, pid: str = PID, pv1: str = PV1, obr: str = "OBR|1||F9|VS^Vitals|||20260302095500+0000", **header: str
) -> bytes:
    return message(*(segment for segment in (pid, pv1, obr) if segment), *lines, **header)


PULSE = obx("8867-4^Heart rate^LN", "80", "/min^^UCUM")


def mapper(settings: MllpSettings | None = None, contexts: Contexts | None = None) -> Hl7Mapper:
    return Hl7Mapper(settings or MllpSettings(), identities(), contexts)


def reader(contexts: Contexts | None = None, **peer: object) -> Callable[[bytes], Outcome]:
    """A function from a message to its outcome, for a peer with these settings."""
    made = mapper(contexts=contexts)
    sender = Peer("bedside", Hl7Peer.model_validate(peer))
    return lambda raw: made.handle(raw, sender, NOW)
