"""Answers to alerts: ORA^R41 (IHE PCD TF-2, PCD-05 Report Alert Status; HL7 v2.9 chapter 7, ORA_R41: MSH SFT UAC MSA ERR PRT).

MSA-2 is the control id of the ORU^R40 that it answers, from which alert and patient are read: Vigil's control ids name both
(`control_id`). Where it does not say (cut, another message's, no MSA), OBR-29 or OBR-3 names the alert, as Vigil writes them, and
PID-3 the patient: Vigil's pseudonym, else the hospital's number.

Each PRT tells what became of the alert at one recipient: PRT-3 the state, PRT-5 the person. States are read in any case and without
blanks, by the column PRT-3 as IHE ACM uses it; which words a manager sends was not to be had in a public table. Only what a person
did counts, for it ends the escalation: of several persons one who accepts stands for all, then one who takes an answer back, then
one who rejects.

| PRT-3                                                       | PRT-5  | becomes                                         |
|-------------------------------------------------------------|--------|-------------------------------------------------|
| Accepted (and AcceptedPositive and the like), Acknowledged  | named  | alert-acknowledged                              |
| Rejected, Declined                                          | named  | alert-declined, which ends the alert            |
| Received, Delivered, Read, Undeliverable, Cancelled, Callback | any  | noted: it has reached somebody, or nobody       |
| empty; PRT-4 empty or AAP (Alert Acknowledging Provider)    | named  | by MSA-1: AA, CA acknowledged; AE, AR, CE, CR declined |
| empty; another role in PRT-4                                | any    | noted                                           |
| an answer as above with PRT-2 DE                            | named  | alert-answer-retracted: the alert waits for one anew |
| any                                                         | nobody | noted                                           |
| anything else                                               | named  | a dead letter: the alert stays as it is         |

Undeliverable declines nothing: a declined alert is over, and nobody has seen this one. Vigil's escalation goes on.
"""

import re
from typing import Final, Literal
from uuid import UUID

from connectors.hl7.errors import Condition, Location
from connectors.hl7.mapping.reading import Reading
from connectors.hl7.message import Segment
from processors.events import AlertEvent, FeedbackEvent

Kind = Literal["alert-acknowledged", "alert-declined", "alert-answer-retracted"]

_CONTROL_ID: Final = re.compile(r"([0-9a-f]{32})\.(\d{1,9})\.([\w-]{1,64})")
_PSEUDONYM: Final = re.compile(r"[\w-]{1,64}")
_OURS: Final = "VIGIL"  # the namespace of ids of ours in OBR and PID (`connectors.deliver.pcd`)
_POSITIVE: Final = frozenset({"AA", "CA"})
_NEGATIVE: Final = frozenset({"AE", "AR", "CE", "CR"})
_ANSWERS: Final[tuple[tuple[str, Kind], ...]] = (
    ("accept", "alert-acknowledged"),
    ("acknowledge", "alert-acknowledged"),
    ("reject", "alert-declined"),
    ("decline", "alert-declined"),
)
_FIRST: Final[tuple[Kind, ...]] = ("alert-acknowledged", "alert-answer-retracted", "alert-declined")
_RECEIPTS: Final = ("received", "delivered", "read", "undeliver", "cancel", "callback")
_ACKNOWLEDGES: Final = frozenset({"", "AAP"})  # PRT-4 (table 0912)


def control_id(alert: AlertEvent) -> str:
    """Return MSH-10 of an alert's step: alert, step and patient, some 70 characters.

    MSH-10 and MSA-2 hold 199 from HL7 v2.6 on, which PCD-04 is (chapter 2, attribute tables of MSH and MSA); 20 up to v2.5.1.
    """
    return f"{UUID(alert.alert_id).hex}.{alert.sequence}.{alert.patient_id}"


def map_answer(reading: Reading) -> None:
    """Read an ORA^R41 into a `FeedbackEvent`."""
    message = reading.message
    msa = message.first("MSA")
    named = _alert(reading, msa)
    if named is None:
        where = msa.at(2) if msa else Location("MSA")
        reading.trouble("no control id of an alert that Vigil sent", where, Condition.UNKNOWN_KEY, stage="identify")
        return
    if msa is not None and msa.get(1).upper() not in _POSITIVE | _NEGATIVE:
        reading.trouble("no acknowledgement code", msa.at(1), Condition.TABLE_VALUE_NOT_FOUND)
        return
    if reading.processing != "production":
        reading.skipped["an answer that is test traffic"] += 1
        return
    given: dict[Kind, Segment] = {}
    for person in message.all("PRT"):
        if said := _said(reading, person, msa):
            given.setdefault(said, person)
    if not given:
        if not reading.troubles:
            reading.skipped["an alert's receipt that names nobody who answered"] += 1
        return
    kind = next(one for one in _FIRST if one in given)
    person, error = given[kind], message.first("ERR")
    alert_id, patient_id = named
    reading.events.append(
        FeedbackEvent(
            id=reading.event_id(FeedbackEvent),
            patient_id=patient_id,
            kind=kind,
            target_id=alert_id,
            by=person.get(5),
            reason=person.get(3, 2) or (error.get(8) if error else "") or (msa.get(3) if msa else "") or person.get(3),
            given_at=reading.sent_at,
            received_at=reading.received_at,
            origin=reading.origin,
        )
    )


def _said(reading: Reading, person: Segment, msa: Segment | None) -> Kind | None:
    """Return what a person of a PRT answered, or that they take it back; None where nobody did."""
    if not person.get(5):
        return None
    kind = _answer(reading, person, msa)
    return "alert-answer-retracted" if kind and person.get(2).upper() == "DE" else kind


def _answer(reading: Reading, person: Segment, msa: Segment | None) -> Kind | None:
    words = [word for part in (1, 2, 9) if (word := "".join(filter(str.isalpha, person.get(3, part))).casefold())]
    for word in words:
        if kind := next((kind for stem, kind in _ANSWERS if word.startswith(stem)), None):
            return kind
        if word.startswith(_RECEIPTS):
            return None
    if words:
        reading.trouble("a state of an alert that is not known", person.at(3), Condition.TABLE_VALUE_NOT_FOUND)
    elif person.get(4).upper() in _ACKNOWLEDGES and msa is not None:
        return "alert-acknowledged" if msa.get(1).upper() in _POSITIVE else "alert-declined"
    return None


def _alert(reading: Reading, msa: Segment | None) -> tuple[str, str] | None:
    """Return the ids of the alert that is answered and of its patient."""
    if msa and (named := _CONTROL_ID.fullmatch(msa.get(2))):
        return str(UUID(named[1])), named[3]
    order, pid = reading.message.first("OBR"), reading.message.first("PID")
    if order is None or pid is None:
        return None
    # OBR-3 names the alert in its first message, the step in later ones, where OBR-29 names the alert.
    places = ((order.get(29, 2), order.get(29, 2, 2)), (order.get(3), order.get(3, 2)))
    number = next((value for value, authority in places if authority == _OURS), "")
    try:
        alert_id = str(UUID(number))
    except ValueError:
        return None
    for n in range(1, pid.count(3) + 1):
        value = pid.get(3, repetition=n)
        if pid.get(3, 4, repetition=n) == _OURS and _PSEUDONYM.fullmatch(value):
            return alert_id, value
    subject = reading.watched(pid)
    return (alert_id, subject.patient_id) if subject else None
