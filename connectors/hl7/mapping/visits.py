"""What an ADT message says of a visit (PV1, by its trigger), and whether it is about the stay that the patient is watched by.

The rule stands in `connectors.stays`. What each trigger about *another* visit than the context's does:

| trigger | while a stay is in progress | otherwise |
|---|---|---|
| A01, A06 | takes over, unless PV1-2 is an outpatient's (O, R, P: day cases are A01 too) or, in A01, not known | begins a stay |
| A04 | takes over where PV1-2 is I or E | begins a stay |
| A02 | takes over where PV1-2 is I or E and PV1-44 is later than the stay's: A01 of this visit was lost | begins a stay |
| A07, A12, A13 | not used | begins a stay |
| A03, A05, A11, A14, A23, A38 | not used, nor while the stay's status is unknown | used |
| A08, A09, A10, A17, A28, A31-A33, A50 | not used | where PV1-2 is I or E and PV1-45 empty: the stay, status unknown; else no |

A05, A14 and A38 of the *same* visit change nothing while it is in progress: a bed that is planned is not where the patient lies.

To A01, A02, A04, A06, A07, A12 and A13 a stay in progress that is an outpatient's gives way. None is used that is recorded before
what is known, none takes over that has been discharged (PV1-45) or began before the stay in progress (PV1-44, in A01 and A04 else
EVN-6). An A50 whose MRG-5 is the stay's number gives it the new one. Which visit it is PV1-19 tells, else the account (PID-18),
else, where the stay is a bed's, the class: an outpatient's message that names nothing comparable is of another visit. Not used is
the visit alone (numbers, class, place, status, PV1-15); what the message says of the person is used all the same.
"""

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final

from connectors.contexts import in_future
from connectors.hl7.mapping.reading import Reading, Subject
from connectors.hl7.message import Segment
from connectors.hl7.times import parse_stamp
from connectors.stays import NEW_STAY, OPEN, Class, Named, begins_earlier, class_of, gives_way, in_bed, is_it
from processors.events import Location as Place
from processors.events import PatientEvent
from processors.patients import NOT_HERE

# trigger -> encounter status; None: as known (an update of person or bed does not change it), or in progress if nothing is known
SNAPSHOTS: Final[dict[str, str | None]] = {
    "A01": "in-progress",
    "A02": "in-progress",
    "A03": "finished",
    "A04": "in-progress",
    "A05": "planned",
    "A06": "in-progress",
    "A07": "in-progress",
    "A08": None,
    "A09": None,
    "A10": None,
    "A11": "cancelled",
    "A12": "in-progress",
    "A13": "in-progress",
    "A14": "planned",
    "A17": None,
    "A23": "cancelled",
    "A28": None,
    "A31": None,
    "A32": None,
    "A33": None,
    "A38": "cancelled",
    "A50": None,
}
PASSED_OVER: Final = "about another visit than the patient's stay: that visit is not used"
UNKNOWN_CLASS: Final = "about another visit than the patient's stay, of a class that is not known (`classes`): not used"
PLANNED: Final = "a plan of the visit that is in progress: not used"
_ADMISSIONS: Final = frozenset({"A01", "A04", "A05"})
_BEGINS: Final = frozenset({"A01", "A02", "A04"})  # takes over from a stay in progress where its class says so
_PLANS: Final = frozenset({"A05", "A14", "A38"})  # and what takes one back: a stay in progress is no plan any more
_EMPTIES: Final = frozenset({"A11", "A38", "A23"})  # nobody is in that place any more
_PREGNANT: Final = "B6"  # table 0009, ambulatory status (PV1-15)
_DAY: Final = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Visit:
    """What a message says of a visit: fields of `PatientEvent`, but for its numbers, which are `named`.

    `latest`: when it began at the latest; None where nobody says. `unclear`: its class (PV1-2) is one of which nothing is known.
    """

    said: dict[str, Any] = field(default_factory=dict)
    latest: datetime | None = None
    discharged: bool = False
    named: Named = field(default_factory=Named)
    unclear: bool = False

    @property
    def in_bed(self) -> bool:
        """Whether the patient lies in the house by it."""
        return in_bed(self.said.get("encounter_class"))


def read_visit(reading: Reading, pv1: Segment | None, subject: Subject, trigger: str = "") -> Visit:
    """Read a PV1 and what its trigger says."""
    said: dict[str, Any] = {}
    if status := SNAPSHOTS.get(trigger):
        said["encounter_status"] = status
    named = reading.named(pv1, subject)
    if pv1 is None:
        return Visit(said | ({"location": Place()} if trigger in _EMPTIES else {}), named=named)
    place = place_of(pv1)
    if place != Place():
        said["location"] = place
    if trigger in _EMPTIES:
        said["location"] = Place()
    written = class_of(pv1.get(2), reading.peer.settings.classes)
    unclear = written is None and pv1.get(2).upper() not in OPEN | {""}
    if kind := _class(written, trigger, unclear=unclear):
        said["encounter_class"] = kind
    earliest, latest = _began(reading, pv1, trigger)
    if earliest:
        said["encounter_since"] = earliest
    if pv1.raw(15):
        said["pregnant"] = any(pv1.get(15, repetition=n) == _PREGNANT for n in range(1, pv1.count(15) + 1)) or None
    return Visit(said, latest, bool(pv1.get(45)), named, unclear)


def place_of(pv1: Segment) -> Place:
    """Return the assigned place (PV1-3), empty where none is said: a facility alone is no place."""
    ward, room, bed = (pv1.get(3, part) for part in (1, 2, 3))
    facility = pv1.get(3, 4) or pv1.get(3, 4, 2)
    return Place(ward=ward, room=room, bed=bed, facility=facility) if ward or room or bed else Place()


def _class(written: Class | None, trigger: str, *, unclear: bool) -> Class | None:
    """Return the kind of visit: by PV1-2; where it says nothing, by the trigger (chapter 3.3: A01 and A06 assign a bed).

    An A01 with a class of the site's own says something that we do not know: day cases and appointments are sent as A01 too. A06
    and A07 are changes of the class, so there the trigger is what the class says.
    """
    by_trigger: dict[str, Class] = {"A06": "inpatient", "A07": "outpatient"}
    return written or by_trigger.get(trigger) or ("inpatient" if trigger == "A01" and not unclear else None)


def _began(reading: Reading, pv1: Segment, trigger: str) -> tuple[datetime | None, datetime | None]:
    """Return when the visit began, at the earliest and at the latest (a day without the hour)."""
    places: list[tuple[Segment | None, int]] = [(pv1, 44)]
    if trigger in ("A01", "A04"):
        places.append((reading.message.first("EVN"), 6))
    for segment, position in places:
        precision = _precision(segment, position)
        if precision in ("", "year", "month"):
            continue
        began = reading.moment_or_none(segment, position)
        if began and not in_future(began, reading.received_at):  # a mistyped year would hold off every admission until then
            return began, began + _DAY if precision == "day" else began
    return None, None


def _precision(segment: Segment | None, position: int) -> str:
    try:
        stamp = parse_stamp(segment.get(position)) if segment else None
    except ValueError:
        return ""
    return stamp.precision if stamp else ""


def about_the_stay(
    visit: Visit, trigger: str, known: PatientEvent | None, *, late: bool, renumbered: Named | None = None
) -> dict[str, Any] | str:
    """Return what a snapshot says of the visit as it bears on what is known; why it is not used, where it is not.

    `late`: recorded before what is known. `renumbered`: the number that an A50 takes away.
    """
    said = visit.said | visit.named.said
    if known is None:
        return said
    another = is_another(visit, known, trigger)
    if renumbered and is_it(known, renumbered):
        another = False
    elif not another:
        said = visit.said | numbers_of(visit.named, known)
    if trigger in _PLANS and _may_lie_there(known):
        return PASSED_OVER if another else PLANNED
    if not another:
        return _of_the_stay(visit, said, trigger, known)
    status = SNAPSHOTS.get(trigger)
    used = _lies_there(visit, known) if status is None else _gives_way(visit, trigger, status, known)
    if used and not late:
        return NEW_STAY | {"encounter_status": "unknown"} | said
    return UNKNOWN_CLASS if visit.unclear and trigger in _BEGINS and not late else PASSED_OVER


def is_another(visit: Visit, known: PatientEvent, trigger: str = "") -> bool:
    """Whether a visit is another than the context's stay: by its numbers, else by its class (rule 1 of `connectors.stays`).

    An A07 is of the stay: it makes an outpatient of an inpatient.
    """
    told = is_it(known, visit.named)
    if told is not None:
        return not told
    outpatient = visit.said.get("encounter_class") == "outpatient" and trigger != "A07"
    return outpatient and known.encounter_class != "outpatient" and _may_lie_there(known)


def numbers_of(named: Named, known: PatientEvent) -> dict[str, Any]:
    """Return what the numbers of a message about the context's stay add to it: a stay keeps the number that it has."""
    said = named.said
    if known.encounter_id is None:
        return said
    return {name: value for name, value in said.items() if name == "account" and is_it(known, named)}


def _may_lie_there(known: PatientEvent) -> bool:
    """Whether the context's stay is in progress, or may be, in a bed."""
    unclear = known.encounter_status == "unknown" and in_bed(known.encounter_class)
    return known.encounter_status == "in-progress" or unclear


def _of_the_stay(visit: Visit, said: dict[str, Any], trigger: str, known: PatientEvent) -> dict[str, Any]:
    if in_bed(known.encounter_class) and not visit.in_bed and trigger not in ("A04", "A05", "A07"):
        said.pop("encounter_class", None)  # a bed is left by A07, not by a class that nobody has brought up to date
    numbered = visit.named.encounter_id is not None
    over = known.encounter_status in NOT_HERE and is_it(known, visit.named) is None
    if trigger in _ADMISSIONS and numbered and (known.encounter_id is None or over):
        said = NEW_STAY | said | visit.named.said
    if trigger in _PLANS and known.encounter_status == "unknown" and known.location != Place():
        said["location"] = known.location  # where vital signs come from, not where the patient is going to lie
    return said


def _lies_there(visit: Visit, known: PatientEvent) -> bool:
    """Whether an update of another visit shows that the patient lies there now, or still."""
    earlier = known.encounter_status == "unknown" and begins_earlier(known, visit.latest)
    return known.encounter_status != "in-progress" and visit.in_bed and not visit.discharged and not earlier


def _gives_way(visit: Visit, trigger: str, status: str, known: PatientEvent) -> bool:
    if status == known.encounter_status == "in-progress" and visit.discharged:
        return False
    if trigger == "A02":
        since, began = known.encounter_since, visit.said.get("encounter_since")
        takes_over = bool(visit.in_bed and since and began and began > since)
    else:
        takes_over = trigger in ("A01", "A04", "A06") and visit.in_bed
    return gives_way(known, status, takes_over=takes_over, latest=visit.latest)
