"""A Communication as an answer to alerts: which one is, who may give it, of which alerts."""

from datetime import UTC, datetime
from typing import Any

import orjson
import pytest
from pydantic import ValidationError

from connectors.deliver.fhir import communication_of
from connectors.deliver.notice import Notice
from connectors.fhir.handling import FhirMapper, Outcome, Request
from connectors.fhir.settings import FhirPeer, FhirSettings
from processors.events import DeadLetterEvent, FeedbackEvent, NoteEvent
from streams.checks import _answers
from streams.settings import Settings
from tests.deliveries import alert
from tests.edge import identities
from tests.fhir_resources import MRN

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
ALERT = alert("a" * 32, at=NOW)
OURS = communication_of(Notice("alert", ALERT.id, NOW, ALERT))
MAPPER = FhirMapper(FhirSettings(peers={"ehr": FhirPeer(answers_alerts=True)}), identities())


def handled(resource: dict[str, Any]) -> Outcome:
    return MAPPER.handle(orjson.dumps(resource), MAPPER.sender("ehr", NOW), Request())


def named(alert_id: str) -> dict[str, Any]:
    return {"identifier": {"system": "urn:vigil:alert", "value": alert_id}}


def said(**more: Any) -> dict[str, Any]:
    """An answer; None leaves an element out."""
    given = {
        "resourceType": "Communication",
        "status": "completed",
        "subject": {"identifier": {"system": MRN, "value": "P1"}},
        "sender": {"reference": "Practitioner/n7"},
        "sent": "2026-11-23T11:59:00Z",
        "inResponseTo": [named(ALERT.alert_id)],
        **more,
    }
    return {name: value for name, value in given.items() if value is not None}


def feedback(outcome: Outcome) -> list[tuple[str, str, str]]:
    return [(one.kind, one.target_id, one.by) for one in outcome.events if isinstance(one, FeedbackEvent)]


@pytest.mark.parametrize("element", ["about", "basedOn"])
def test_a_message_about_an_alert_is_a_message_and_no_answer(element: str) -> None:
    message = said(inResponseTo=None, payload=[{"contentString": "Please look in."}]) | {element: [named(ALERT.alert_id)]}
    assert [type(one) for one in handled(message).events] == [NoteEvent]


@pytest.mark.parametrize(
    ("sender", "by"),
    [
        ({"reference": "Practitioner/n7"}, "Practitioner/n7"),
        ({"reference": "https://ehr.example/fhir/PractitionerRole/r2"}, "https://ehr.example/fhir/PractitionerRole/r2"),
        ({"identifier": {"value": "nurse-7"}}, "nurse-7"),
        ({"type": "Practitioner", "identifier": {"value": "nurse-7"}}, "nurse-7"),
        ({"reference": "#me"}, "nurse-8"),
    ],
)
def test_one_of_the_staff_answers(sender: dict[str, Any], by: str) -> None:
    contained = [{"resourceType": "Practitioner", "id": "me", "identifier": [{"value": "nurse-8"}]}]
    assert feedback(handled(said(sender=sender, contained=contained))) == [("alert-acknowledged", ALERT.alert_id, by)]


@pytest.mark.parametrize(
    "sender",
    [
        {"reference": "Device/gateway"},
        {"reference": "Organization/ward", "identifier": {"value": "W1"}},
        {"reference": "Patient/7"},
        {"type": "Device", "identifier": {"value": "gateway"}},
        {"reference": "#me"},
        {"reference": "urn:uuid:0b0f6c1e-6f0b-4b0e-9f62-6f0f2a7b9a11"},
        {"display": "Ann"},
        None,
    ],
)
def test_nobody_else_does_and_it_is_kept_and_said(sender: dict[str, Any] | None) -> None:
    outcome = handled(said(sender=sender, contained=[{"resourceType": "Device", "id": "me", "identifier": [{"value": "D"}]}]))
    assert [type(one) for one in outcome.events] == [DeadLetterEvent]
    assert "answer to an alert" in outcome.reason


def test_an_answer_to_several_alerts_answers_each() -> None:
    others = ["b-2", "b-3"]
    answer = said(status="not-done", inResponseTo=[named(one) for one in (ALERT.alert_id, *others, "b-2")])
    outcome = handled(answer)
    assert [(kind, target) for kind, target, _ in feedback(outcome)] == [
        ("alert-declined", one) for one in (ALERT.alert_id, *others)
    ]
    assert len({one.id for one in outcome.events}) == 3


def test_an_answer_that_was_entered_in_error_is_taken_back() -> None:
    given, back = (handled(said(id="c1", status=status)) for status in ("completed", "entered-in-error"))
    assert feedback(given) == [("alert-acknowledged", ALERT.alert_id, "Practitioner/n7")]
    assert feedback(back) == [("alert-answer-retracted", ALERT.alert_id, "Practitioner/n7")]
    assert given.events[0].id != back.events[0].id


def test_test_traffic_answers_nothing() -> None:
    outcome = handled(said(meta={"tag": [{"code": "HTEST"}]}))
    assert outcome.events == ()
    assert "answers no alert" in outcome.reason


def test_an_id_of_the_ehrs_own_is_said_not_to_be_known_and_one_that_came_along_is() -> None:
    own = [{"reference": "Communication/123"}]
    outcome = handled(said(inResponseTo=own))
    assert [type(one) for one in outcome.events] == [DeadLetterEvent]
    assert "urn:vigil:alert names one" in outcome.reason
    step = handled(said(inResponseTo=[{"identifier": OURS["identifier"][0]}]))  # of the step, where the alert's was meant
    assert [type(one) for one in step.events] == [DeadLetterEvent]
    note = handled(said(inResponseTo=own, payload=[{"contentString": "On my way."}]))
    assert [type(one) for one in note.events] == [NoteEvent]
    assert "urn:vigil:alert names one" in note.reason
    along = said(inResponseTo=[{"reference": "#123"}], contained=[OURS | {"id": "123"}])
    assert feedback(handled(along)) == [("alert-acknowledged", ALERT.alert_id, "Practitioner/n7")]


@pytest.mark.parametrize("known", [{"token": "t" * 16}, {}])
async def test_answers_need_more_than_to_reach_the_port(known: dict[str, Any], tmp_path: Any) -> None:
    peers = {"ehr": {"answers_alerts": True, **known}}
    if not known:
        with pytest.raises(ValidationError, match="ehr: `answers_alerts` ends escalations"):
            FhirSettings.model_validate({"host": "0.0.0.0", "peers": peers})
        tls = dict.fromkeys(("certificate_file", "key_file", "ca_file"), tmp_path / "file.pem")
        FhirSettings.model_validate({"host": "0.0.0.0", "peers": peers, "tls": tls})
    manager = {"addresses": ["10.1.1.1/32"], "answers_alerts": True, **({"certificates": ["manager"]} if known else {})}
    connectors = {"enabled": ["fhir", "mllp"], "fhir": {"peers": peers}, "mllp": {"peers": {"manager": manager}}}
    found = await _answers(Settings.model_validate({"connectors": connectors}))
    assert [one.verdict for one in found] == ([] if known else ["warning"] * 2)
    assert [name in one.found for name, one in zip(("manager", "ehr"), found, strict=False)] == [True] * len(found)
