"""The synthetic ward's feed: everything its systems send in some hours, in order of time, and some garbage between.

    for message in ward(seed=7, hours=6, patients=26, epoch=datetime.now(UTC)):
        ...

The same arguments give the same bytes. The connectors need `SETTINGS` to understand the ward's own codes, and to know that the
record numbers of its two systems are the same. `python -m streams.demo.ward --out DIR` writes the feed as files to look at.
"""

import argparse
import heapq
import json
import re
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from streams.demo import fhir, radiographs
from streams.demo.hl7 import Charting, Writer
from streams.demo.people import AUTHORITY, Patient, people
from streams.demo.physiology import COURSES, Body, Vitals
from streams.demo.stays import FHIR_BASE, Sendable, Stay

__all__ = ["SETTINGS", "Sendable", "ward"]

# As environment variables, which is how an operator would set them.
SETTINGS: Final[Mapping[str, str]] = {
    "VIGIL_IDENTITY__ALIASES": json.dumps({fhir.MRN_SYSTEM: AUTHORITY, fhir.VISIT_SYSTEM: AUTHORITY}),
    "VIGIL_CONNECTORS__MLLP__CONTEXT_CODES": json.dumps(
        {"SPO2-SCALE^L": {"fact": "spo2_scale"}, "CEILING^L": {"fact": "ceiling_of_care"}}
    ),
}


def ward(seed: int = 7, hours: float = 6.0, patients: int = 26, *, epoch: datetime) -> Iterator[Sendable]:
    """Yield what the ward sends, in order of time; `epoch` (aware) is its hour 0.

    Raises `ValueError` for an epoch without a zone.
    """
    if epoch.tzinfo is None:
        raise ValueError("the ward's epoch needs a zone")
    epoch = epoch.replace(microsecond=0)
    inhabitants = people(seed, patients)
    stays = [Stay(patient, seed, hours, epoch).messages() for patient in inhabitants]
    yield from heapq.merge(*stays, _trouble(inhabitants[0], seed, hours, epoch), key=lambda message: message.at)


def _trouble(patient: Patient, seed: int, hours: float, epoch: datetime) -> Iterator[Sendable]:
    """Yield what no system should send and every feed contains."""
    hl7 = Writer(patient, epoch)

    def at(share: float) -> timedelta:
        return timedelta(seconds=round(share * hours * 3600))

    def when(share: float) -> datetime:
        return epoch + at(share)

    def control(data: bytes, number: int) -> bytes:  # control ids of their own: the patient's count goes on elsewhere
        return data.replace(b"WAR00001", b"BAD%05d" % number)

    calm = Body("calm", COURSES["stable"]).vitals(0)
    grave = Vitals(150, 34, 79, 70, 40, 39.9, "V", 0.0)
    plain = hl7.oru([(when(0.05), calm)], when(0.05), order="BAD")
    film = radiographs.draw(seed, "clear", 64)

    yield Sendable(at(0.06), "mllp", b"this is no HL7 message\r", "refused", "garbage instead of HL7")
    yield Sendable(at(0.10), "mllp", b"\x00\xff\xfe\x07 MSH", "refused", "binary garbage")
    stranger = control(plain, 1).replace(b"ORU^R01^ORU_R01", b"SIU^S12^SIU_S12")
    yield Sendable(at(0.14), "mllp", stranger, "ignored", "an appointment: a type that is not for Vigil")
    yield Sendable(
        at(0.18), "mllp", control(plain, 2).replace(b"|2.5.1|", b"|9.9|"), "refused", "a version that does not exist"
    )
    nobody = re.sub(rb"FIC\d+\^\^\^FICTION\^MR", b"", control(plain, 3))
    yield Sendable(at(0.22), "mllp", nobody, "dead-letter", "device data without a patient: held apart")
    test = control(hl7.oru([(when(0.26), grave)], when(0.26), order="TEST", how=Charting(processing="T")), 4)
    yield Sendable(at(0.26), "mllp", test, "accepted", "test traffic with grave values: must never alert")
    damaged = radiographs.dicom(film, patient, when(0.30), accession="BAD-1", form="damaged")
    yield Sendable(at(0.30), "dicom", damaged, "dead-letter", "a radiograph that cannot be decoded")
    unnamed = radiographs.dicom(film, patient, when(0.34), accession="BAD-2", named=False)
    yield Sendable(at(0.34), "dicom", unnamed, "dead-letter", "a radiograph without a patient id")
    incomplete = {"resourceType": "Observation", "valueQuantity": {"value": 88, "unit": "/min"}}
    yield Sendable(
        at(0.38), "fhir", fhir.wire(incomplete), "refused", "an observation without code and status", f"{FHIR_BASE}/Observation"
    )
    yield Sendable(at(0.42), "fhir", b'{"resourceType": "Patient", ', "refused", "broken JSON", f"{FHIR_BASE}/Patient")


def main(arguments: list[str] | None = None) -> int:
    """Write the feed as files: one a message, and `index.jsonl` with what each is."""
    parser = argparse.ArgumentParser(
        prog="python -m streams.demo.ward", description="Write the synthetic ward's feed as files."
    )
    parser.add_argument("--out", type=Path, required=True, help="folder to write into")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--hours", type=float, default=6.0)
    parser.add_argument("--patients", type=int, default=26)
    parser.add_argument(
        "--epoch", type=datetime.fromisoformat, default=datetime(2026, 1, 5, 7, tzinfo=UTC), help="with its zone"
    )
    given = parser.parse_args(arguments)
    if given.epoch.tzinfo is None:
        parser.error("--epoch needs a zone, for example 2026-01-05T07:00:00+00:00")
    suffixes = {"mllp": "hl7", "fhir": "json", "dicom": "dcm"}
    given.out.mkdir(parents=True, exist_ok=True)
    counts: Counter[str] = Counter()
    with (given.out / "index.jsonl").open("w", encoding="utf-8") as index:
        for number, message in enumerate(ward(given.seed, given.hours, given.patients, epoch=given.epoch)):
            name = f"{number:06d}.{suffixes[message.channel]}"
            (given.out / name).write_bytes(message.payload)
            row = {
                "file": name,
                "at": str(message.at),
                "channel": message.channel,
                "expect": message.expect,
                "what": message.what,
                "path": message.path,
            }
            index.write(json.dumps(row) + "\n")
            counts[f"{message.channel} {message.expect}"] += 1
    for kind, count in sorted(counts.items()):
        sys.stdout.write(f"{count:6d} {kind}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
