"""Answers to alerts: ORA^R41 (IHE PCD TF-2, PCD-05 Report Alert Status; HL7 v2.9 chapter 7, ORA_R41: MSH SFT UAC MSA ERR PRT).

MSA-2 is the control id of the ORU^R40 that it answers, from which alert, step and patient are read: Vigil's control ids name them
(`control_id`). Only an answer that names a person counts, for it ends the escalation: an Alert Manager says AA for *received* too.

| MSA-1  | PRT-5 (who)   | becomes                                          |
|--------|---------------|--------------------------------------------------|
| AA, CA | named         | alert-acknowledged, reason PRT-3 or MSA-3         |
| AE, AR, CE, CR | named | alert-declined, reason PRT-3, ERR-8 or MSA-3      |
| any    | nobody        | noted: delivered or read, no answer              |
"""

import re
from typing import Final
from uuid import UUID

from connectors.hl7.errors import Condition, Location
from connectors.hl7.mapping.reading import Reading
from processors.events import AlertEvent, FeedbackEvent

_CONTROL_ID: Final = re.compile(r"([0-9a-f]{32})\.(\d{1,9})\.([\w-]{1,64})")
_POSITIVE: Final = frozenset({"AA", "CA"})
_NEGATIVE: Final = frozenset({"AE", "AR", "CE", "CR"})


def control_id(alert: AlertEvent) -> str:
    """Return MSH-10 of an alert's step: alert, step and patient, some 70 characters.

    MSH-10 and MSA-2 hold 199 from HL7 v2.6 on, which PCD-04 is (chapter 2, attribute tables of MSH and MSA); 20 up to v2.5.1.
    """
    return f"{UUID(alert.alert_id).hex}.{alert.sequence}.{alert.patient_id}"


def map_answer(reading: Reading) -> None:
    """Read an ORA^R41 into a `FeedbackEvent`."""
    msa = reading.message.first("MSA")
    named = _CONTROL_ID.fullmatch(msa.get(2)) if msa else None
    if msa is None or named is None:
        where = msa.at(2) if msa else Location("MSA")
        reading.trouble("no control id of an alert that Vigil sent", where, Condition.UNKNOWN_KEY, stage="identify")
        return
    code, person = msa.get(1).upper(), reading.message.first("PRT")
    by = person.get(5) if person else ""
    if code not in _POSITIVE | _NEGATIVE:
        reading.trouble("no acknowledgement code", msa.at(1), Condition.TABLE_VALUE_NOT_FOUND)
        return
    if reading.processing != "production":
        reading.skipped["an answer that is test traffic"] += 1
        return
    if not by:
        reading.skipped["an alert's receipt that names nobody"] += 1
        return
    error = reading.message.first("ERR")
    why = (person.get(3, 2) or person.get(3) if person else "") or (error.get(8) if error else "") or msa.get(3)
    reading.events.append(
        FeedbackEvent(
            id=reading.event_id(FeedbackEvent),
            patient_id=named[3],
            kind="alert-acknowledged" if code in _POSITIVE else "alert-declined",
            target_id=str(UUID(named[1])),
            sequence=int(named[2]),
            by=by,
            reason=why,
            given_at=reading.sent_at,
            received_at=reading.received_at,
            origin=reading.origin,
        )
    )
