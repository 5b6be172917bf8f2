"""Which stay a patient's context is about, where messages speak of several: one rule for HL7 v2 and FHIR.

A context holds one stay. By it a patient is watched and alerts are routed, so what is said of another visit (dialysis, a clinic, a
planned admission, an old stay that is tidied up) must not end, cancel or move it. But where the end of the old stay was lost, a new
admission must take over, or the patient is watched under a ward that was left long ago. What stands against what:

1. Only what is named differs (`is_it`): by the visit number, where one side has none by the account's. Where nothing can be
   compared there is one stay and the message is about it, unless the stay is a bed's and the message an outpatient's.
2. The end, cancellation or plan of another visit is never used while a stay is in progress, or may be (`unknown`). A plan of the
   same visit is not either: the number of who waits in the emergency room for a bed upstairs is that of the stay upstairs.
3. A visit that begins takes over from a stay in progress when it puts the patient into a bed or an emergency room, or when the stay
   is known to be an outpatient one (those are often never ended). A class that is not known protects the stay that has it, and
   displaces none: a hospital's own word for an X-ray appointment looks no other than its word for an admission (`classes` of a
   peer says which is which).
4. Not where it begins before the stay in progress, as far as both say when: it is entered late. What only may be earlier is not.

Where the two mistakes weigh against each other: a stay that is displaced wrongly ends with the visit that displaced it, and nobody
watches; one that is kept wrongly is watched and alerts, in its old place, until its own end or the next admission.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final, Literal, NamedTuple

from processors.events import Identifier, Location, PatientEvent
from processors.patients import NOT_HERE

Class = Literal["inpatient", "emergency", "outpatient"]

# HL7 v2 table 0004, and the v3 ActCodes that FHIR's Encounter.class takes, and what both are called in words.
CLASSES: Final[dict[str, Class]] = {
    "I": "inpatient",
    "E": "emergency",
    "O": "outpatient",
    "P": "outpatient",  # preadmit: in no bed yet
    "R": "outpatient",  # recurring, dialysis for one
    "IMP": "inpatient",
    "ACUTE": "inpatient",
    "NONAC": "inpatient",
    "SS": "inpatient",  # short stay
    "OBSENC": "inpatient",  # observation: in a bed
    "EMER": "emergency",
    "AMB": "outpatient",
    "FLD": "outpatient",
    "HH": "outpatient",
    "PRENC": "outpatient",
    "VR": "outpatient",
    "INPATIENT": "inpatient",
    "IP": "inpatient",
    "EMERGENCY": "emergency",
    "ED": "emergency",
    "OUTPATIENT": "outpatient",
    "OP": "outpatient",
}
OPEN: Final = frozenset({"B", "C", "N", "U"})  # table 0004: obstetrics, commercial account, not applicable, unknown
ACCOUNT: Final = "AN"  # table 0203, of the number of a stay that has none but its account's
NUMBERS: Final = ("encounter_id", "visit", "account")
NEW_STAY: Final[dict[str, Any]] = {  # what a stay does not take over from the one before
    "account": None,
    "location": Location(),
    "encounter_class": None,
    "encounter_since": None,
    "pregnant": None,
    "ceiling_of_care": None,
}


class Number(NamedTuple):
    """A number of a visit or an account. `stated`: its sender says whose it is; else its authority is only taken to be."""

    identifier: Identifier
    stated: bool = True

    def same(self, other: "Number") -> bool:
        """Whether two numbers are one; of one that does not say whose it is the value alone tells.

        What its authority is taken to be is that of the patient's number, and a merge changes that.
        """
        one, two = self.identifier, other.identifier
        alike = one.authority.casefold() == two.authority.casefold() or not (self.stated and other.stated)
        return alike and one.value == two.value


class Named(NamedTuple):
    """What a message names a stay by, if anything. `encounter_id`: the pseudonym of the visit's number, else the account's."""

    visit: Number | None = None
    account: Number | None = None
    encounter_id: str | None = None

    @classmethod
    def of(cls, known: PatientEvent | None) -> "Named":
        """Return what a context names its stay by."""
        if known is None:
            return cls()
        visit, account = known.visit, known.account
        if visit and visit.kind == ACCOUNT:
            visit, account = None, visit
        return cls(Number(visit) if visit else None, Number(account) if account else None, known.encounter_id)

    @property
    def said(self) -> dict[str, Any]:
        """By field of `PatientEvent`; empty without a number."""
        number = self.visit or self.account
        if self.encounter_id is None:
            return {}
        account = {"account": self.account.identifier} if self.account else {}
        return {"encounter_id": self.encounter_id, "visit": number and number.identifier} | account


def is_it(known: PatientEvent | None, named: Named) -> bool | None:
    """Whether a message names the context's stay; None where nothing can be compared."""
    own = Named.of(known)
    if None in (own.encounter_id, named.encounter_id):
        return None
    if named.encounter_id == own.encounter_id:
        return True
    if named.visit and own.visit:
        return named.visit.same(own.visit)
    pairs = [(given, kept) for given in (named.visit, named.account) for kept in (own.visit, own.account) if given and kept]
    if any(given.same(kept) for given, kept in pairs):  # some put one number in both places
        return True
    nothing = own.visit is None and own.account is None  # a resource's id, or a record of before numbers were kept
    return False if (named.account and own.account) or (named.visit and nothing) else None


def class_of(code: str, own: Mapping[str, Class], system: str = "") -> Class | None:
    """Return the kind of visit that a class is, without case: by `own` (`CODE^SYSTEM`, then `CODE`), then by `CLASSES`.

    None for one of which nothing is known, and for one that leaves it `OPEN`.
    """
    named = {name.upper(): kind for name, kind in own.items()}
    code = code.upper()
    return named.get(f"{code}^{system.upper()}") or named.get(code) or CLASSES.get(code)


def in_bed(kind: Class | None) -> bool:
    """Whether a class says that the patient lies in the house."""
    return kind in ("inpatient", "emergency")


def begins_earlier(known: PatientEvent, latest: datetime | None) -> bool:
    """Whether a visit that began at the latest then began before the context's stay: certain, or False."""
    return known.encounter_since is not None and latest is not None and latest < known.encounter_since


def gives_way(known: PatientEvent, status: str, *, takes_over: bool, latest: datetime | None) -> bool:
    """Whether the context's stay gives way to another visit of that status.

    `takes_over`: that visit puts the patient into a bed (rule 3). `latest`: when it began at the latest, None where nobody says.
    """
    if status in NOT_HERE:
        return known.encounter_status not in ("in-progress", "unknown")
    if known.encounter_status != "in-progress":
        return True
    lesser = known.encounter_class == "outpatient"
    return status == "in-progress" and (takes_over or lesser) and not begins_earlier(known, latest)
