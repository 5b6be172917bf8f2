"""The vitals lane with the shipped model on a broker: context, corrections, answers, escalation, and NEWS2 alone."""

import asyncio
from collections import defaultdict
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Any

import orjson
import pytest

from models.registry import Registry
from processors.events import FeedbackEvent, Location, PatientEvent, VitalsEvent
from processors.identity import natural_id
from processors.rules import CeilingPolicy, EscalationStep, MonitorRules
from streams.partition import Steps
from streams.scoring import ABSENT
from streams.settings import ModelSettings, VitalsStateSettings
from tests import clinic
from tests.bedside import ILL, WELL, observation
from tests.clinic import ORIGIN, Clinic, audited
from tests.kafka import Kafka, Record
from tests.lanes import bodies, until

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(300)]

ESCALATES_AFTER = timedelta(seconds=3)
RULES = MonitorRules(
    escalation={"high": (EscalationStep(after=ESCALATES_AFTER, route="nurse-in-charge"),)},
    ceilings={"ward-based care": CeilingPolicy(route="palliative-team")},
)
STATE = VitalsStateSettings(tick_seconds=0.2, snapshot_seconds=1.0)
HYPERCAPNIC = {**WELL, "spo2": 89, "flow": 0}  # scale 1: three points; scale 2: none

CONTEXTS: dict[str, dict[str, Any]] = {
    "adult": {},
    "unanswered": {},
    "answered": {},
    "child": {"birth_date": "2015-01-01"},
    "pregnant": {"birth_date": "1995-01-01", "pregnant": True},
    "scale-1": {},
    "scale-2": {"spo2_scale": 2, "spo2_scale_decided_by": "dr-7"},
    "undecided": {"spo2_scale": 2},
    "corrected": {},
    "mixed-up": {},
    "ceiling": {"ceiling_of_care": "ward-based care"},
    "ceiling-later": {},
    "merged": {},
    "surviving": {},
}
SETS: dict[str, dict[str, Any]] = {
    **dict.fromkeys((patient for patient in CONTEXTS if patient != "surviving"), ILL),
    "unknown": ILL,
    **dict.fromkeys(("scale-1", "scale-2", "undecided"), HYPERCAPNIC),
}


@dataclass
class Course:
    """What a run left: scores and alerts by patient in order, and the audit."""

    scores: dict[str, list[dict[str, Any]]]
    alerts: dict[str, list[dict[str, Any]]]
    audit: list[dict[str, Any]]
    inputs: dict[str, Record]
    dead: list[dict[str, Any]]

    def states(self, patient: str) -> list[tuple[str, str]]:
        return [(alert["state"], alert["route"]) for alert in self.alerts[patient]]


def context(patient: str, at: datetime, number: int = 0, **fields: Any) -> PatientEvent:
    return PatientEvent(
        **{
            "id": natural_id("context", patient, number),
            "patient_id": patient,
            "birth_date": "1950-01-01",
            "encounter_id": f"encounter-{patient}",
            "encounter_status": "in-progress",
            "location": Location(ward="A"),
            "effective_at": at,
            "received_at": at,
            "origin": ORIGIN,
            **fields,
        }
    )


def charted(patient: str, at: datetime, values: dict[str, Any], *, status: str = "final", number: int = 0) -> VitalsEvent:
    return VitalsEvent(
        id=natural_id("set", patient, number),
        patient_id=patient,
        encounter_id=f"encounter-{patient}",
        observed_at=at,
        received_at=datetime.now(UTC),
        observations=tuple(observation(name, value, status=status) for name, value in values.items()),
        origin=ORIGIN,
    )


async def collect(site: Clinic) -> Course:
    scores: dict[str, list[dict[str, Any]]] = defaultdict(list)
    alerts: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for score in await site.read("clinical.scores"):
        scores[score["patient_id"]].append(score)
    for alert in await site.read("clinical.alerts"):
        if "alert_id" in alert:
            alerts[alert["patient_id"]].append(alert)
    inputs = {bodies([record])[0]["id"]: record for record in await site.records("clinical.vitals")}
    return Course(scores, alerts, await site.read("clinical.audit"), inputs, await site.read("clinical.dead-letters"))


@pytest.fixture(scope="module")
def course(kafka: Kafka, tmp_path_factory: pytest.TempPathFactory) -> Course:
    return asyncio.run(_play(Clinic(kafka, tmp_path_factory.mktemp("vitals"), monitor=RULES, state=STATE)))


async def _play(site: Clinic) -> Course:
    """Admit, chart, and then answer, correct, take back, re-route and merge what was raised."""
    admitted = datetime.now(UTC) - timedelta(hours=1)
    seen = datetime.now(UTC)
    await site.write(*(context(patient, admitted, **fields) for patient, fields in CONTEXTS.items()))
    async with site.running("vitals"):
        await site.until_done("vitals", "clinical.patients")
        await site.write(*(charted(patient, seen, values) for patient, values in SETS.items()))
        await site.until_done("vitals", "clinical.vitals")
        raised = {patient: steps[0] for patient, steps in (await collect(site)).alerts.items()}
        now = datetime.now(UTC)
        await site.write(
            FeedbackEvent(
                id=natural_id("answer", 1), patient_id="answered", kind="alert-acknowledged", by="nurse-7", reason="on my way",
                target_id=raised["answered"]["alert_id"], given_at=now, received_at=now, origin=ORIGIN,
            ),
            charted("corrected", seen, WELL, status="corrected", number=1),
            charted("mixed-up", seen, ILL, status="entered-in-error", number=1),
            context("ceiling-later", now, 1, ceiling_of_care="ward-based care"),
            context("merged", now, 1, merged_into="surviving"),
        )  # fmt: skip

        async def escalated() -> bool:
            return "escalated" in [state for state, _ in (await collect(site)).states("unanswered")]

        await until(escalated, what="nobody answered: the alert climbs")
        for topic in ("clinical.vitals", "clinical.patients", "clinical.feedback"):
            await site.until_done("vitals", topic)
        await asyncio.sleep(ESCALATES_AFTER.total_seconds())  # what else would climb has had its time
    return await collect(site)


def test_a_grave_set_raises_one_alert_that_names_what_it_rests_on(course: Course) -> None:
    alert, *_ = course.alerts["adult"]
    (score,) = course.scores["adult"]
    assert (alert["state"], alert["kind"], alert["severity"], alert["score_id"]) == ("raised", "news2", "high", score["id"])
    assert score["news2"]["total"] == alert["news2"]["total"] == 8
    assert "8" in alert["title"]
    assert 0 <= score["deterioration"]["probability"] <= 1
    assert score["deterioration"]["model"]["digest"] == Registry.load().entry("deterioration").digest
    assert not course.dead


@pytest.mark.parametrize(
    ("patient", "reason"), [("child", "under 16"), ("pregnant", "pregnancy recorded"), ("unknown", "age unknown")]
)
def test_where_news2_does_not_apply_nothing_alerts_and_the_reason_is_published(
    course: Course, patient: str, reason: str
) -> None:
    (score,) = course.scores[patient]
    assert score["news2"] is None
    assert reason in score["news2_reason"]
    assert not course.alerts[patient]


def test_scale_2_counts_by_a_recorded_decision_only(course: Course) -> None:
    one, two, undecided = (course.scores[patient][0] for patient in ("scale-1", "scale-2", "undecided"))
    assert [score["news2"]["scale"] for score in (one, two, undecided)] == [1, 2, 1]
    assert [score["news2"]["total"] for score in (one, two, undecided)] == [3, 0, 3]
    assert undecided["flags"] == ["scale-2-without-decision"]
    assert course.alerts["scale-1"] and course.alerts["undecided"] and not course.alerts["scale-2"]


@pytest.mark.parametrize("patient", ["corrected", "mixed-up"])
def test_an_alert_that_rested_on_wrong_values_is_withdrawn(course: Course, patient: str) -> None:
    raised, withdrawn = course.alerts[patient]
    assert (raised["state"], withdrawn["state"]) == ("raised", "withdrawn")
    assert withdrawn["alert_id"] == raised["alert_id"]
    assert withdrawn["reason"].startswith("corrected or taken back")


def test_a_merge_takes_the_alert_to_the_surviving_id(course: Course) -> None:
    raised, withdrawn = course.alerts["merged"]
    assert (raised["state"], withdrawn["state"]) == ("raised", "withdrawn")
    assert withdrawn["reason"] == "merged into surviving: watched there from now on"
    again = course.alerts["surviving"][0]
    assert (again["state"], again["severity"], again["observed_at"]) == ("raised", raised["severity"], raised["observed_at"])
    (score,) = course.scores["surviving"]
    assert score["news2"]["total"] == 8
    assert orjson.loads(course.inputs[score["source"]["event_id"]].value or b"")["moved_from"] == ["merged"]


def test_an_answer_stops_the_escalation(course: Course) -> None:
    assert course.states("unanswered") == [("raised", "default"), ("escalated", "nurse-in-charge")]
    assert course.states("answered") == [("raised", "default"), ("acknowledged", "default")]
    assert course.alerts["answered"][1]["by"] == "nurse-7"


def test_a_ceiling_of_care_reroutes_and_does_not_escalate(course: Course) -> None:
    assert course.states("ceiling") == [("raised", "palliative-team")]
    assert course.states("ceiling-later") == [("raised", "default"), ("updated", "palliative-team")]
    assert "ward-based care" in course.alerts["ceiling-later"][1]["reason"]


def test_every_score_is_found_in_the_audit(course: Course) -> None:
    digest = Registry.load().entry("deterioration").digest
    entries = {event_id: (entry, record) for event_id, entry, record in audited(course.audit)}
    scores = [score for scores in course.scores.values() for score in scores]
    assert set(entries) == {score["id"] for score in scores}
    for score in scores:
        entry, record = entries[score["id"]]
        value = course.inputs[score["source"]["event_id"]].value or b""
        assert (entry["input_id"], entry["input_digest"]) == (score["source"]["event_id"], sha256(value).hexdigest())
        assert record["model"]["digest"] == digest
        assert record["subject"] == f"clinical.vitals/{score['source']['partition']}"


@pytest.mark.parametrize("wrong", ["absent", "registry", "weights"])
async def test_without_a_model_news2_stands_alone_and_says_so(
    kafka: Kafka, tmp_path: Any, caplog: pytest.LogCaptureFixture, wrong: str
) -> None:
    if wrong == "weights":
        models = clinic.damaged_model(tmp_path, "deterioration")
    else:
        registry = clinic.site_registry(tmp_path, champions={"deterioration": "absent"})
        if wrong == "registry":
            registry.write_text("[tasks.deterioration\n")
        models = ModelSettings(registry=registry)
    site = Clinic(kafka, tmp_path, state=STATE, models=models)
    now = datetime.now(UTC)
    await site.write(context("adult", now))
    async with site.running("vitals"):
        await site.until_done("vitals", "clinical.patients")
        await site.write(charted("adult", now, ILL))
        await site.until_done("vitals", "clinical.vitals")
    found = await collect(site)
    (score,) = found.scores["adult"]
    assert score["news2"]["total"] == 8
    assert (score["deterioration"], score["deterioration_reason"]) == (None, ABSENT)
    assert found.states("adult") == [("raised", "default")]
    (record,) = (one for one in found.audit if one["action"] == "predict")  # beside the first word of what the lane decides by
    assert record["model"] is None and record["entries"][0]["event_id"] == score["id"]
    assert "NEWS2 stands alone" in caplog.text


async def test_one_odd_record_stops_nobody_elses_monitoring_also_after_a_restart(
    kafka: Kafka, tmp_path: Any, caplog: pytest.LogCaptureFixture
) -> None:
    site, now = Clinic(kafka, tmp_path, state=STATE), datetime.now(UTC)
    far = datetime(9999, 12, 31, 23, 59, tzinfo=UTC)
    stray = FeedbackEvent(
        id=natural_id("answer", 2), patient_id="adult", kind="alert-acknowledged", by="nurse-7", target_id="no such alert",
        given_at=now, received_at=now, origin=ORIGIN,
    )  # fmt: skip
    await site.write(context("placeholder", now, birth_date="9999-12-31"), context("adult", now), stray)
    await site.write(charted("adult", now, ILL).model_copy(update={"id": "far", "observed_at": far}))
    async with site.running("vitals"):
        for topic in ("clinical.vitals", "clinical.patients", "clinical.feedback"):
            await site.until_done("vitals", topic)
    assert "fits no alert" in caplog.text
    async with site.running("vitals"):
        await site.write(charted("adult", now, ILL, number=2), charted("placeholder", now, ILL, number=2))
        await site.until_done("vitals", "clinical.vitals")
    found = await collect(site)
    assert found.states("adult") == [("raised", "default")]
    assert found.scores["placeholder"][0]["news2_reason"] == "age unknown"
    (letter,) = found.dead
    assert (letter["stage"], letter["message"]) == ("process", "a time outside the years 1800 to 2999")


async def test_a_long_rebuild_shows_that_it_goes_on(kafka: Kafka, tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Taken for a stall, it is killed at the same place at every start."""
    site, now = Clinic(kafka, tmp_path, state=VitalsStateSettings(tick_seconds=0.2, snapshot_seconds=3600)), datetime.now(UTC)
    sets = [charted("adult", now - timedelta(seconds=number), WELL, number=number) for number in range(2100)]
    await site.write(*sets)
    async with site.running("vitals"):
        await site.until_done("vitals", "clinical.vitals")
    moved: list[str] = []
    move = Steps.moved

    def seen(steps: Steps) -> None:  # the real one, looked at
        moved.append(steps.name)
        move(steps)

    monkeypatch.setattr(Steps, "moved", seen)
    async with site.running("vitals"):
        await site.write(charted("adult", now, WELL, number=5000))
        await site.until_done("vitals", "clinical.vitals")
    partition = next(record.partition for record in await site.records("clinical.vitals"))
    assert moved.count(f"vitals[{partition}]") >= 3  # the journal, and two chunks of the vitals at least
