"""Who an alert is about, in the hospital's own numbers: what a delivery keeps of `clinical.patients`, and what of it goes out.

Vigil's own patient id is a pseudonym that no receiver can look up. A receiver that is to be told more (`identify`) gets

1. the number that the pseudonym was made of, which by that is known to be this patient's;
2. the patient's numbers from the authorities that the site lists (`identity.authorities`), in that order;
3. the visit number, where it is the visit that the alert names (its pseudonym is the alert's `encounter_id`).

Nothing else: no name, no birth date, no number of an authority that the site does not use to name its patients. Of a record that
was merged away it is the surviving record's numbers that go out: the other one is no longer a number of the hospital's.
"""

import sys
from collections import OrderedDict
from dataclasses import dataclass
from typing import Final, NamedTuple

from connectors.contexts import surviving
from connectors.identity import LOGICAL, Identities
from processors.events import Identifier, PatientEvent

_LIMIT: Final = 200_000  # patients; about half a kilobyte each


class Number(NamedTuple):
    """A number that the hospital gave. `kind` as in HL7 table 0203; `system`: the authority's URI, empty where none is known."""

    authority: str
    value: str
    kind: str = ""
    system: str = ""


@dataclass(frozen=True, slots=True)
class Person:
    """Whom a notice is about. The first of `numbers` is the one by which Vigil itself tells patients apart."""

    numbers: tuple[Number, ...]
    visit: Number | None = None


@dataclass(frozen=True, slots=True)
class _Known:
    """What is kept of a context."""

    numbers: tuple[Number, ...]
    visit: Number | None
    merged_into: str | None


class People:
    """The numbers of the patients heard of most recently, at most `limit`; forgets the oldest above that.

    Of one patient the record read last counts, as on the compacted topic: it is whole.
    """

    def __init__(self, identities: Identities, limit: int = _LIMIT) -> None:
        self._identities = identities
        self._limit = limit
        self._known: OrderedDict[str, _Known] = OrderedDict()

    def __len__(self) -> int:
        return len(self._known)

    def get(self, patient_id: str) -> _Known | None:
        """Return what is kept of a patient, None when nothing is known."""
        return self._known.get(patient_id)

    def remember(self, context: PatientEvent) -> None:
        """Take over a patient's context."""
        numbers = tuple(_number(one) for one in context.identifiers if one.kind != LOGICAL and one.value.strip())
        visit = _number(context.visit) if context.visit and context.visit.value.strip() else None
        self._known[context.patient_id] = _Known(numbers, visit, context.merged_into)
        self._known.move_to_end(context.patient_id)
        if len(self._known) > self._limit:
            self._known.popitem(last=False)

    def forget(self, patient_id: str) -> None:
        """Drop a patient whose record was deleted."""
        self._known.pop(patient_id, None)

    def find(self, patient_id: str, encounter_id: str | None) -> Person | None:
        """Return whom an alert is about; None where no number of theirs is known."""
        survivor = surviving(self, patient_id)
        for one in dict.fromkeys((survivor, patient_id)):  # a survivor that is not known yet: the record's own numbers
            known = self._known.get(one)
            numbers = self._shown(one, known.numbers) if known else ()
            if known and numbers:
                return Person(numbers, self._visit(encounter_id, known, self._known.get(patient_id)))
        return None

    def _shown(self, patient_id: str, numbers: tuple[Number, ...]) -> tuple[Number, ...]:
        identities = self._identities
        given = [Identifier(authority=one.authority, value=one.value, kind=one.kind) for one in numbers]
        own = next((one for one in given if identities.patient(one) == patient_id), None)
        if own is None:
            return ()
        chosen = dict.fromkeys((own, *identities.listed(given)))
        return tuple(_number(one, identities.system(one.authority)) for one in chosen)

    def _visit(self, encounter_id: str | None, *records: _Known | None) -> Number | None:
        for known in records:
            visit = known.visit if known else None
            if known is None or visit is None or self._identities.encounter(visit.authority, visit.value) != encounter_id:
                continue
            if visit.authority in {one.authority for one in known.numbers}:
                return visit  # it may have named none, and been given the patient's: whose system is that of patients' numbers
            return visit._replace(system=self._identities.system(visit.authority))
        return None


def _number(one: Identifier, system: str = "") -> Number:
    return Number(sys.intern(one.authority), one.value, sys.intern(one.kind), system)
