"""Events in bulk for benches and fault tests: the ward's people, bodies and notes without the wards' messages around them.

    for event in load.vitals(seed=1, count=200_000): ...
    for event in load.notes(seed=1, count=20_000): ...
    objects = load.pixel_objects(seed=1, count=24)            # (reference, PNG bytes): put them into the object store once
    for event in load.images(seed=1, count=2_000, objects=objects): ...

The same arguments give the same events; ids differ within a run and between seeds. Everything is an iterator: nothing is held.
"""

import random
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from hashlib import sha256
from typing import Any, TypeVar

from processors.events import (
    Coding,
    Event,
    ImageEvent,
    Location,
    NoteEvent,
    ObjectReference,
    Observation,
    Origin,
    PatientEvent,
    VitalsEvent,
)
from processors.identity import natural_id, patient_id
from streams.demo import radiographs
from streams.demo.hl7 import WARD
from streams.demo.notes import MIX
from streams.demo.people import AUTHORITY, Patient, people
from streams.demo.physiology import COURSES, Body, Vitals

EPOCH = datetime(2026, 1, 5, 7, tzinfo=UTC)
SECRET = b"the load tests' secret"
PATIENTS = 2_000

_SIGNS = (
    ("heart_rate", "8867-4", "/min"),
    ("respiratory_rate", "9279-1", "/min"),
    ("spo2", "59408-5", "%"),
    ("systolic", "8480-6", "mm[Hg]"),
    ("diastolic", "8462-4", "mm[Hg]"),
    ("temperature", "8310-5", "Cel"),
    ("consciousness", "67775-7", ""),
    ("oxygen", "3151-8", "L/min"),
)
_ORIGIN = Origin(protocol="file", peer="load")
E = TypeVar("E", bound=Event)


@lru_cache(maxsize=8)
def _ward(seed: int, patients: int) -> tuple[tuple[Patient, str, str], ...]:
    return tuple(
        (patient, patient_id(SECRET, AUTHORITY, patient.mrn), natural_id("visit", patient.visit))
        for patient in people(seed, patients)
    )


def _made(kind: type[E], checked: bool, fields: dict[str, Any]) -> E:
    # Validation is what costs most here. The first of every kind is checked; the rest differ in nothing that it looks at.
    return kind(**fields) if checked else kind.model_construct(**fields)


def contexts(seed: int, patients: int = PATIENTS, *, epoch: datetime = EPOCH) -> Iterator[PatientEvent]:
    """Yield the context of every patient: adults and children, the cast's pregnancies and SpO2 scales."""
    for patient, who, encounter in _ward(seed, patients):
        yield PatientEvent(
            id=natural_id("load", "context", seed, patient.number),
            patient_id=who,
            birth_date=None if "unknown-age" in patient.quirks else patient.born(epoch.date()).isoformat(),
            pregnant=patient.pregnant or None,
            spo2_scale=2 if patient.scale_2 else 1,
            spo2_scale_decided_by="a clinician" if patient.scale_2 else None,
            ceiling_of_care=patient.ceiling or None,
            encounter_id=encounter,
            encounter_status="in-progress",
            location=Location(ward=WARD, room=patient.room, bed=patient.bed),
            effective_at=epoch,
            received_at=epoch,
            origin=_ORIGIN,
        )


def vitals(
    seed: int, count: int, patients: int = PATIENTS, *, epoch: datetime = EPOCH, every: timedelta = timedelta(minutes=15)
) -> Iterator[VitalsEvent]:
    """Yield sets in order of time: each patient once every `every`, spread evenly over it."""
    ward = _ward(seed, patients)
    bodies = [Body(f"load {seed} {patient.number}", COURSES[patient.course]) for patient, _, _ in ward]
    step, hours = every / patients, every / timedelta(hours=1)
    for number in range(count):
        turn, place = divmod(number, patients)
        _, who, encounter = ward[place]
        at = epoch + step * number
        yield _made(
            VitalsEvent,
            number < patients,
            {
                "id": natural_id("load", "vitals", seed, number),
                "patient_id": who,
                "encounter_id": encounter,
                "observed_at": at,
                "received_at": at,
                "observations": _observations(bodies[place].vitals(turn * hours), number < patients),
                "origin": _ORIGIN,
            },
        )


def _observations(signs: Vitals, checked: bool) -> tuple[Observation, ...]:
    make: Any = Observation if checked else Observation.model_construct
    found = []
    for name, code, unit in _SIGNS:
        value = getattr(signs, name)
        found.append(make(code=code, value=value if isinstance(value, str) else float(value), unit=unit))
    return tuple(found)


def notes(seed: int, count: int, patients: int = PATIENTS, *, epoch: datetime = EPOCH) -> Iterator[NoteEvent]:
    """Yield notes of 80 to 250 words, a minute apart; the kinds in the ward's proportions."""
    rng = random.Random(f"load notes {seed}")
    ward = _ward(seed, patients)
    kinds = [(kind, write) for kind, write, _ in MIX]
    weights = [weight for _, _, weight in MIX]
    for number in range(count):
        patient, who, encounter = rng.choice(ward)
        kind, write = rng.choices(kinds, weights)[0]
        signs = Body(f"load {seed} {number}", COURSES[patient.course]).vitals(rng.uniform(0, 8))
        at = epoch + timedelta(minutes=number)
        yield _made(
            NoteEvent,
            number < 100,
            {
                "id": natural_id("load", "note", seed, number, "v1"),
                "patient_id": who,
                "encounter_id": encounter,
                "note_id": natural_id("load", "note", seed, number),
                "note_type": Coding(system="http://loinc.org", code=kind.loinc, display=kind.display),
                "text": write(rng, patient, signs),
                "authored_at": at,
                "received_at": at,
                "origin": _ORIGIN,
            },
        )


def pixel_objects(seed: int, count: int = 24, *, side: int = 224) -> list[tuple[ObjectReference, bytes]]:
    """Draw `count` chest films as PNG, with references as the object store would give them: content addressed."""
    found = []
    for number in range(count):
        data = radiographs.png(radiographs.draw(seed * 1000 + number, radiographs.SIGNS[number % len(radiographs.SIGNS)], side))
        digest = sha256(data).hexdigest()
        uri = f"{digest[:2]}/{digest}.png"
        found.append((ObjectReference(uri=uri, sha256=digest, media_type="image/png", bytes=len(data)), data))
    return found


def images(
    seed: int,
    count: int,
    objects: Sequence[tuple[ObjectReference, bytes]] | Sequence[ObjectReference],
    patients: int = PATIENTS,
    *,
    side: int = 224,
    epoch: datetime = EPOCH,
) -> Iterator[ImageEvent]:
    """Yield images that share the pixels of `objects`, two minutes apart."""
    rng = random.Random(f"load images {seed}")
    ward = _ward(seed, patients)
    references = [one if isinstance(one, ObjectReference) else one[0] for one in objects]
    for number in range(count):
        _, who, encounter = rng.choice(ward)
        at = epoch + timedelta(minutes=2 * number)
        yield ImageEvent(
            id=natural_id("load", "image", seed, number),
            patient_id=who,
            encounter_id=encounter,
            study_uid=radiographs.uid("load", "study", seed, number),
            series_uid=radiographs.uid("load", "series", seed, number),
            instance_uid=radiographs.uid("load", "instance", seed, number),
            modality="DX",
            body_part="CHEST",
            view="PA",
            rows=side,
            columns=side,
            pixels=references[number % len(references)],
            acquired_at=at,
            received_at=at,
            origin=_ORIGIN,
        )
