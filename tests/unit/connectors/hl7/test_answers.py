"""ORA^R41: what of an Alert Manager's states ends an alert's escalation, whose it is, and which alert it is about."""

import pytest

from connectors.deliver.notice import Notice
from connectors.deliver.pcd import message_of
from connectors.deliver.settings import PcdSettings
from connectors.hl7.handling import Outcome
from connectors.hl7.mapping.answers import control_id
from processors.events import DeadLetterEvent, FeedbackEvent, Identifier
from tests.deliveries import alert
from tests.edge import identities
from tests.hl7_messages import NOW, message, reader

ALERT = alert("a" * 32, at=NOW)
MSA = f"MSA|AA|{control_id(ALERT)}"
AAP = "AAP^Alert Acknowledging Provider^HL70912"


def answered(*segments: str, processing: str = "P") -> Outcome:
    return reader(answers_alerts=True)(message(*segments, kind="ORA^R41^ORA_R41", processing=processing))


def feedback(outcome: Outcome) -> list[tuple[str, str, str]]:
    assert outcome.code == "AA"
    return [(one.kind, one.by, one.target_id) for one in outcome.events if isinstance(one, FeedbackEvent)]


def prt(state: str, by: str = "N7^Nurse^Ann", *, role: str = AAP, action: str = "AD") -> str:
    return f"PRT||{action}|{state}|{role}|{by}"


@pytest.mark.parametrize(
    "state", ["Accepted", "ACCEPTED", "accepted positive", "AcceptedNotRelevant", "Acknowledged", "A^Accepted"]
)
def test_only_a_person_who_accepts_acknowledges(state: str) -> None:
    outcome = answered(MSA, prt(state))
    assert feedback(outcome) == [("alert-acknowledged", "N7", ALERT.alert_id)]
    assert feedback(answered(MSA, prt(state, by=""))) == []
    assert feedback(answered(MSA, prt(state), processing="T")) == []


@pytest.mark.parametrize("state", ["Rejected", "rejected", "R^Rejected", "Declined"])
def test_a_person_who_rejects_declines_whatever_msa_says(state: str) -> None:
    assert feedback(answered(MSA, prt(state))) == [("alert-declined", "N7", ALERT.alert_id)]


@pytest.mark.parametrize(
    "state",
    ["Received", "Delivered", "Read", "READ", "Undeliverable", "Cancelled", "Cancelled Other", "Callback Start", "CallbackEnd"],
)
def test_what_reached_somebody_or_nobody_ends_no_escalation(state: str) -> None:
    outcome = answered(MSA, prt(state))
    assert outcome.verdict == "ignored"
    assert "receipt" in outcome.reason


def test_each_recipient_is_read_and_one_who_accepts_stands_for_all() -> None:
    device = "PRT||AD|Delivered|RCT|||||DEV1"
    accepted, rejected = prt("Accepted", "N2^Two"), prt("Rejected", "N3^Three")
    for first in (device, prt("Delivered", "N1^One"), rejected):
        assert feedback(answered(MSA, first, accepted)) == [("alert-acknowledged", "N2", ALERT.alert_id)]
    assert feedback(answered(MSA, device, rejected)) == [("alert-declined", "N3", ALERT.alert_id)]


def test_without_a_state_the_role_says_who_acknowledges_and_msa_whether() -> None:
    assert feedback(answered(MSA, prt(""))) == [("alert-acknowledged", "N7", ALERT.alert_id)]
    assert feedback(answered(MSA.replace("AA", "AR", 1), prt("", role=""))) == [("alert-declined", "N7", ALERT.alert_id)]
    assert feedback(answered(MSA, prt("", role="RCT^Result Copies To^HL70912"))) == []


@pytest.mark.parametrize("state", ["Accepted", "Rejected", ""])
def test_an_answer_is_taken_back_by_the_action_code(state: str) -> None:
    back = prt(state, action="DE")
    assert feedback(answered(MSA, back)) == [("alert-answer-retracted", "N7", ALERT.alert_id)]
    assert feedback(answered(MSA, back, prt("Accepted", "N8"))) == [("alert-acknowledged", "N8", ALERT.alert_id)]
    assert feedback(answered(MSA, prt("Read", action="DE"))) == []


def test_what_is_not_understood_leaves_the_alert_and_is_kept() -> None:
    outcome = answered(MSA, prt("Enroute"))
    assert [type(one) for one in outcome.events] == [DeadLetterEvent]


@pytest.mark.parametrize("step", [0, 3])
@pytest.mark.parametrize("msa", [MSA[:26], "MSA|AA|4711", ""])
def test_an_alert_is_known_by_the_number_that_stood_in_obr_too(step: int, msa: str) -> None:
    told = alert("a" * 32, sequence=step, at=NOW)
    sent = message_of(Notice("alert", told.id, NOW, told), PcdSettings(kind="pcd04", host="h", port=1)).decode().split("\r")
    [pid] = [one for one in sent if one.startswith("PID")]
    [obr] = [one for one in sent if one.startswith("OBR")]
    outcome = answered(*filter(None, (msa, pid, obr, prt("Accepted"))))
    assert feedback(outcome) == [("alert-acknowledged", "N7", told.alert_id)]
    assert {one.patient_id for one in outcome.events if isinstance(one, FeedbackEvent)} == {told.patient_id}
    own = answered(*filter(None, (msa, "PID|||4711^^^HOSP^MR", obr, prt("Accepted"))))
    named = identities().patient(Identifier(authority="HOSP", value="4711", kind="MR"))
    assert {one.patient_id for one in own.events if isinstance(one, FeedbackEvent)} == {named}
    somebody_elses = answered(*filter(None, (msa, pid, obr.replace("VIGIL", "OTHER"), prt("Accepted"))))
    assert [type(one) for one in somebody_elses.events] == [DeadLetterEvent]
