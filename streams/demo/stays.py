"""What the ward's systems send about one patient, from admission to discharge: the quirks of `people` are made here.

Every patient's messages come in order of time. Sets of vitals are sent half a minute to a minute and a half after they were
observed; a patient who left the ward has no more of them.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final, Literal

from streams.demo import fhir, notes, radiographs
from streams.demo.hl7 import CEILING_CODE, PLAIN, SCALE_CODE, Charting, Writer
from streams.demo.notes import Kind
from streams.demo.people import Patient
from streams.demo.physiology import COURSES, Body, Vitals
from streams.demo.pictures import PICTURES

Expected = Literal["accepted", "refused", "ignored", "dead-letter", "repeat"]
FHIR_BASE: Final = "/fhir"
CLINICIAN: Final = "4711^Makebelieve^Dr"  # who recorded decisions


@dataclass(frozen=True, slots=True)
class Sendable:
    """One message at its time.

    `expect`: what a connector should make of it (the words of `vigil check-feed`; `repeat`: accepted, and no event that was not
    there before). `path`: where FHIR goes, below the server's address. `what` says in words why it is sent; no names.
    """

    at: timedelta
    channel: Literal["mllp", "fhir", "dicom"]
    payload: bytes
    expect: Expected
    what: str
    path: str = ""


@dataclass
class Stay:
    """One patient's messages within `hours` of the epoch."""

    patient: Patient
    seed: int
    hours: float
    epoch: datetime
    _sent: list[Sendable] = field(default_factory=list)
    _charted: list[tuple[float, Vitals]] = field(default_factory=list)

    def __post_init__(self) -> None:
        patient = self.patient
        self._rng = random.Random(f"stay {self.seed} {patient.number}")
        self._hl7 = Writer(patient, self.epoch)
        self._begins = max(patient.admitted, patient.number * 1.5 / 3600)
        leaves = [hour for hour in (patient.transferred, patient.discharged) if hour is not None]
        self._ends = min([self.hours, *leaves])

    def messages(self) -> list[Sendable]:
        """Return all of them, in order of time."""
        if self._begins >= self.hours:
            return []
        self._registration()
        if self.patient.feed == "fhir":
            self._fhir_vitals()
        else:
            self._vitals()
        self._notes()
        self._radiographs()
        return sorted(self._sent, key=_at)

    # ----------------------------------------------------------------------------------------------------------- plumbing

    def _when(self, hours: float) -> datetime:
        return self.epoch + timedelta(seconds=round(hours * 3600))

    def _send(
        self,
        hours: float,
        payload: bytes,
        what: str,
        expect: Expected = "accepted",
        channel: Literal["mllp", "fhir", "dicom"] = "mllp",
        path: str = "",
    ) -> None:
        if hours < self.hours:
            at = self._when(hours) - self.epoch
            self._sent.append(Sendable(at, channel, payload, expect, what, path))

    def _post(self, hours: float, resource: fhir.Resource, what: str) -> None:
        kind = "" if resource["resourceType"] == "Bundle" else f"/{resource['resourceType']}"
        self._send(hours, fhir.wire(resource), what, channel="fhir", path=FHIR_BASE + kind)

    # ------------------------------------------------------------------------------------------------------- registration

    def _registration(self) -> None:
        patient, begins = self.patient, self._begins
        if patient.feed == "fhir":
            self._post(begins, fhir.person(patient, self.epoch), "patient")
            self._post(begins + 0.001, fhir.stay(patient, self._when(patient.admitted)), "encounter in progress")
        else:
            self._send(begins, self._hl7.adt("A01", self._when(begins)), "admission")
        facts = []
        if patient.scale_2:
            facts.append((SCALE_CODE, "2", CLINICIAN))
        if patient.ceiling:
            facts.append((CEILING_CODE, patient.ceiling, CLINICIAN))
        if facts:
            hours = begins + 0.006
            self._send(hours, self._hl7.adt("A08", self._when(hours), facts=facts), "a clinician's recorded decision")
        if patient.transferred is not None:
            hours = patient.transferred
            self._send(hours, self._hl7.adt("A02", self._when(hours), ward="INTENSIVE CARE"), "transfer to intensive care")
        if patient.discharged is not None:
            self._send(patient.discharged, self._hl7.adt("A03", self._when(patient.discharged)), "discharge")

    # ------------------------------------------------------------------------------------------------------------- vitals

    def _sets(self, every: int) -> Iterator[tuple[int, float, Vitals]]:
        """Yield (number, hours, vitals) at the patient's interval, the first within a quarter of an hour or one interval."""
        body = Body(f"{self.seed} {self.patient.number}", COURSES[self.patient.course])
        hours = self._begins + 0.02 + (self.patient.number * 37 % min(every, 15)) / 60
        number = 0
        while hours < self._ends:
            vitals = body.vitals(hours)
            self._charted.append((hours, vitals))
            yield number, hours, vitals
            hours += every / 60
            number += 1

    def _fhir_vitals(self) -> None:
        for number, hours, vitals in self._sets(self.patient.every):
            key = f"{self.patient.mrn}-{number}"
            bundle = fhir.vitals_bundle(self.patient, self._when(hours), vitals, number=key)
            self._post(hours + self._lag(), bundle, "vitals")

    def _lag(self) -> float:
        return self._rng.uniform(30, 90) / 3600

    def _oru(
        self, hours: float, vitals: Vitals, order: str, what: str = "vitals", how: Charting = PLAIN, lag: float = 0
    ) -> bytes:
        sends = hours + (lag or self._lag())
        message = self._hl7.oru([(self._when(hours), vitals)], self._when(sends), order=order, how=how)
        self._send(sends, message, what)
        return message

    def _vitals(self) -> None:
        quirks, withheld = self.patient.quirks, []
        charting = Charting(
            fahrenheit="fahrenheit" in quirks,
            comma="comma" in quirks,
            without=("temperature", "consciousness", "oxygen") if "missing" in quirks else (),
            device=f"MON{self.patient.bed}" if "monitor" in quirks else "",
        )
        for number, hours, vitals in self._sets(self.patient.every):
            order = f"O{self.patient.number}-{number}"
            if "late" in quirks and 0.8 <= hours <= min(2.6, self.hours * 0.6):
                withheld.append((self._when(hours), vitals))
            elif not self._odd(number, hours, vitals, order):
                if charting.device and number % 12 == 0:
                    self._oru(hours, vitals, f"{order}C")  # the nurse's hourly set beside the monitor's stream
                message = self._oru(hours, vitals, order, "monitor, not validated" if charting.device else "vitals", charting)
                if "duplicated" in quirks and number % 2 == 1:
                    self._send(self._sent[-1].at / timedelta(hours=1) + 8 / 3600, message, "the same message again", "repeat")
        if withheld:
            hours = min(2.7, self.hours * 0.62)
            message = self._hl7.oru(withheld, self._when(hours), order=f"O{self.patient.number}-late")
            self._send(hours, message, f"a late batch of {len(withheld)} sets")

    def _odd(self, number: int, hours: float, vitals: Vitals, order: str) -> bool:
        """Send a set that is not as it should be, where this patient's quirk asks for one now."""
        quirks = self.patient.quirks
        if "artefact" in quirks and number % 5 == 2:
            self._oru(hours, vitals._replace(spo2=62), order, "the probe slipped: an extreme value")
            self._oru(hours + 0.05, vitals, order + "B", "vitals repeated after an artefact")
        elif "impossible" in quirks and number in (1, 3):
            sign, text = ("spo2", "150") if number == 1 else ("temperature", "371")
            self._oru(hours, vitals, order, f"an impossible value ({sign})", Charting(instead={sign: text}))
        elif "refused-value" in quirks and number == 1:
            how = Charting(instead={"heart_rate": "refused"})
            self._oru(hours, vitals, order, "words where a number is needed: that value in a dead letter, the rest used", how)
        elif "corrected" in quirks and number == 2:
            self._oru(hours, vitals._replace(heart_rate=188, systolic=84), order, "a mistyped set")
            self._oru(hours, vitals, order, "its correction", Charting(status="C"), lag=0.2)
        elif "wrong-patient" in quirks and number == 2:
            wrong = Vitals(141, 31, 84, 82, 44, 39.6, "V", 0.0)
            self._oru(hours, wrong, order, "another patient's vitals")
            self._oru(hours, wrong, order, "taken back: wrong patient", Charting(status="W"), lag=0.25)
            self._oru(hours + 0.3, vitals, order + "B", "vitals")
        else:
            return False
        return True

    # -------------------------------------------------------------------------------------------------------------- notes

    def _known(self, hours: float) -> Vitals | None:
        return next((vitals for at, vitals in reversed(self._charted) if at <= hours), None)

    def _note(self, hours: float, kind: Kind, text: str, number: str, trigger: str = "T02", parent: str = "") -> None:
        if hours >= self.hours:
            return
        what = {"T02": "note", "T06": "addendum", "T10": "replacement", "T11": "cancelled note"}[trigger]
        if self.patient.feed == "fhir":
            document = fhir.document(self.patient, self._when(hours), text, kind, number=number)
            self._post(hours, document, f"{what}: {kind.display}")
            return
        lines = self._rng.random() < 0.7
        message = self._hl7.mdm(trigger, self._when(hours), text, kind, number=number, parent=parent, lines=lines)
        self._send(hours, message, f"{what}: {kind.display}")

    def _notes(self) -> None:
        patient, rng = self.patient, self._rng
        count = 0

        def write(hours: float, kind: Kind, writer: notes.Writer) -> str:
            nonlocal count
            count += 1
            number = f"D{patient.number}-{count}"
            self._note(hours, kind, writer(rng, patient, self._known(hours)), number)
            return number

        if patient.admitted >= 0:
            write(self._begins + 0.5, notes.ADMISSION, notes.admission)
        for every, first, kind, writer in (
            (3.0, 0.7 + patient.number % 5 * 0.4, notes.NURSING, notes.nursing),
            (4.0, 0.5 + patient.number % 7 * 0.3, notes.PROGRESS, notes.progress),
        ):
            hours = self._begins + first
            while hours < self._ends:
                number = write(hours, kind, writer)
                if kind is notes.PROGRESS and hours - self._begins - first < 0.01:
                    self._versions(hours, number)
                hours += every
        if patient.discharged is not None:
            write(patient.discharged - 0.2, notes.DISCHARGE, notes.discharge)

    def _versions(self, hours: float, number: str) -> None:
        """Let the first progress note of some have an addendum, a replacement, or be cancelled."""
        patient, rng = self.patient, self._rng
        if patient.feed == "fhir" or patient.number % 3 != 1:
            return
        if patient.number % 2 == 1:
            text = notes.addendum(rng, patient, self._known(hours + 0.5))
            self._note(hours + 0.5, notes.PROGRESS, text, f"{number}A", "T06", number)
        else:
            text = notes.progress(rng, patient, self._known(hours + 0.3))
            self._note(hours + 0.3, notes.PROGRESS, text, f"{number}R", "T10", number)
        if "wrong-patient" in patient.quirks or patient.number % 9 == 1:
            wrong = f"{number}X"
            self._note(hours + 0.7, notes.NURSING, notes.nursing(rng, patient, None), wrong)
            self._note(hours + 0.9, notes.NURSING, "Written for another patient.", wrong, "T11")

    # --------------------------------------------------------------------------------------------------------- radiographs

    def _radiographs(self) -> None:
        patient, rng = self.patient, self._rng
        forms: tuple[radiographs.Form, ...] = ("plain", "monochrome1", "jpeg2000")
        for number in range(patient.radiographs):
            hours = self._begins + 0.4 + patient.number * 0.07 + number * 2.2
            if hours >= self._ends:
                return
            sign = PICTURES[patient.diagnosis].image
            accession = f"X{patient.number}-{number}"
            picture = radiographs.draw(self.seed * 1000 + patient.number * 10 + number, sign)
            form = forms[(patient.number + number) % len(forms)]
            data = radiographs.dicom(picture, patient, self._when(hours), accession=accession, form=form)
            self._send(hours + 0.02, data, f"chest film ({form})", channel="dicom")
            report = notes.radiology(rng, patient, None, sign=sign)
            read = hours + 0.4
            self._send(read, self._hl7.report(self._when(read), report, notes.RADIOLOGY, order=accession), "radiology report")


def _at(message: Sendable) -> timedelta:
    return message.at
