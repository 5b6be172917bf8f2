"""The verifier finds what it is there for: a lost input, two outputs of one, an output beside a dead letter, a name in a log."""

import base64
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Producer
from qdrant_client import QdrantClient
from qdrant_client.models import Distance, PointStruct, VectorParams

from connectors.qdrant.embedded import EmbeddedQdrant
from processors.alerts import news2_detail, news2_title
from processors.events import News2
from tests.faults import inputs, report
from tests.faults.arena import Row
from tests.faults.inputs import PHI, Accepted, dates
from tests.faults.verify import Judge, Verdict
from tests.kafka import Kafka
from tests.storm.verify import Ledger, Reckoning
from tests.storm.verify import _audit as storm_audit

pytestmark = pytest.mark.kafka


def _output(source: str, output: str, entities: str = "") -> dict[str, Any]:
    return {"id": output, "source": {"event_id": source}, "entities": entities}


def _entry(one: str, output: str = "", outcome: str = "ok", **more: Any) -> dict[str, Any]:
    """What the audit says of an input: that it led to this output, or to none."""
    return {"input_id": one, "event_id": output or one, "outcome": outcome, **more}


def _audit(lane: str, *entries: dict[str, Any]) -> dict[str, Any]:
    return {"id": "a", "action": "predict", "agent": f"{lane}@test", "entries": list(entries)}


def _digest(body: dict[str, Any]) -> str:
    return sha256(json.dumps(body).encode()).hexdigest()


def _letter(offset: int, prefix: str) -> dict[str, Any]:
    place = {"original_topic": prefix + "clinical.notes", "original_partition": 0, "original_offset": offset}
    return {"id": f"letter-{offset}", "lane": "notes-entities", **place}


def _write(kafka: Kafka, prefix: str, written: dict[str, list[dict[str, Any]]]) -> None:
    producer = Producer({"bootstrap.servers": kafka.bootstrap})
    for topic, bodies in written.items():
        kafka.create(prefix + topic, 1)
        for body in bodies:
            producer.produce(prefix + topic, json.dumps(body).encode(), b"k")
    assert producer.flush(30) == 0


def test_the_verifier_finds_what_breaks_the_promise(kafka: Kafka) -> None:
    prefix = kafka.name("v") + "."
    written: dict[str, list[dict[str, Any]]] = {
        "clinical.entities": [
            _output("good", "o-good"),
            _output("good", "o-good"),  # a repeat: allowed
            _output("twice", "o-1"),
            _output("twice", "o-2"),
            _output("both", "o-both"),
            _output("says-otherwise", "o-s", "fever"),
            _output("says-otherwise", "o-s", "no fever"),
        ],
        "clinical.dead-letters": [_letter(2, prefix), _letter(5, prefix)],
        "clinical.audit": [
            _audit(
                "notes-entities",
                *(_entry(*of) for of in (("good", "o-good"), ("twice", "o-1"), ("both", "o-both"), ("says-otherwise", "o-s"))),
            )
        ],
    }
    _write(kafka, prefix, written)
    names = ("good", "twice", "both", "says-otherwise", "lost", "dead")
    accepted = Accepted({("clinical.notes", 0, offset): name for offset, name in enumerate(names)})
    verdict = Judge("notes-entities", kafka.bootstrap, prefix, accepted, None).judge(f"INFO of Mr {PHI}")
    assert (verdict.accepted, verdict.lost, verdict.duplicated, verdict.dead_letters) == (6, 1, 3, 2)
    wrong = "\n".join(verdict.wrong)
    for words in (
        "neither output nor dead letter nor ignored: 1, e.g. [('clinical.notes', 0, 4)]",
        "several logical outputs: 1, e.g. ['twice']",
        "both output and dead letter: 1",
        "a repeat says something else: 1, e.g. ['o-s']",
        "without an audit entry: 1, e.g. ['lost']",
        "a log or metric tells who somebody is (1 times)",
    ):
        assert words in wrong


AT = datetime(2026, 1, 5, 7, tzinfo=UTC)


def _score(source: str, risk: float | None, reason: str = "", total: int = 3, **more: Any) -> dict[str, Any]:
    deterioration = None if risk is None else {"probability": risk}
    said = {"news2": {"total": total}, "news2_reason": "", "rejected": [], "deterioration": deterioration}
    said |= {"late": False, "flags": [], "deterioration_reason": reason, "patient_id": "p"}
    return {"id": f"score-{source}", "source": {"event_id": source}, **said, **more}


def _step(source: str, sequence: int, state: str, kind: str = "news2", **more: Any) -> dict[str, Any]:
    told = {"patient_id": "p", "alert_id": kind, "sequence": sequence, "kind": kind, "state": state, "severity": "high"}
    return {"id": f"{kind} {sequence} {state}", "source": {"event_id": source}, "score_id": "score-s1", **told, **more}


LATE = "the deterioration model was late: NEWS2 alone"


def _vitals(
    kafka: Kafka, scores: list[dict[str, Any]], alerts: list[dict[str, Any]], undisturbed: Verdict | None = None
) -> Verdict:
    """Judge a run of the vitals lane that said this."""
    prefix = kafka.name("v") + "."
    names = [score["source"]["event_id"] for score in scores]
    entries = [_entry(one["source"]["event_id"], one["id"], patient_id=one["patient_id"]) for one in scores]
    place = {"encounter_id": None, "location": {"ward": "B"}}
    _write(
        kafka,
        prefix,
        {
            "clinical.scores": scores,
            "clinical.alerts": alerts,
            "clinical.audit": [_audit("vitals", *entries)],
            "clinical.dead-letters": [],
            "clinical.patients": [{"id": f"c-{n}", "patient_id": "p", **one} for n, one in enumerate(({}, place))],
        },
    )
    accepted = Accepted({("clinical.vitals", 0, offset): name for offset, name in enumerate(names)})
    return Judge("vitals", kafka.bootstrap, prefix, accepted, None).judge("", undisturbed)


def test_scores_and_alerts_are_held_against_an_undisturbed_run_both_ways(kafka: Kafka) -> None:
    scores = [_score("s1", 0.1), _score("s2", 0.2), _score("s3", 0.3)]
    alerts = [_step("s2", 0, "raised"), _step("s3", 1, "updated"), _step("tick", 0, "raised", "feed-stopped")]
    first = _vitals(kafka, scores, alerts)
    assert first.wrong == []

    # Another run of more sets: the model was late once, and a feed did not stop.
    more = [*scores[:2], _score("s3", None, LATE), _score("s4", 0.4)]
    same = _vitals(kafka, more, [*alerts[:2], _step("s4", 2, "resolved")], first)
    assert same.wrong == []
    wanted = {"outputs": 3, "points": 0, "events": 0, "contexts": 0, "deterioration": 2, "alert_steps": 2}
    assert same.compared == {"charted": 0, **wanted}

    changed = [_score("s1", 0.1), _score("s2", 0.9), _score("s3", 0.3, total=5)]
    other = _vitals(kafka, changed, [_step("s1", 0, "raised"), alerts[1], _step("journal", 2, "withdrawn")], first)
    assert other.wrong == [
        "outputs that an undisturbed run says otherwise: 1, e.g. ['s3 (news2)']",
        "deterioration that an undisturbed run says otherwise: 1, e.g. ['s2']",
        "steps of alerts that an undisturbed run has and this one has not: 1, e.g. [('s2', 'p news2 raised high')]",
        "steps of alerts that an undisturbed run has not: 2, "
        "e.g. [('', 'p news2 withdrawn high'), ('s1', 'p news2 raised high')]",
    ]


def test_what_is_sent_as_history_leads_to_no_alert(kafka: Kafka) -> None:
    found = _vitals(kafka, [_score("s1", 0.1), _score("s1-late", 0.1)], [_step("s1-late", 0, "raised")])
    assert found.wrong == ["steps of alerts that history led to: 1, e.g. ['news2 0 raised']"]


def test_what_was_said_of_alerts_is_held_against_itself(kafka: Kafka) -> None:
    scores = [{**_score("s1", 0.1, total=9), "patient_id": "ill"}, _score("s2", 0.2), _score("s3", 0.3)]
    moved = {**_step("s2", 0, "raised"), "location": {"ward": "B"}}
    again = {**_step("s2", 0, "raised"), "id": "another", "alert_id": "news2 too"}
    found = _vitals(kafka, scores, [_step("s2", 0, "raised"), moved, again])
    assert "alert events that say two things: 1, e.g. ['news2 0 raised']" in found.wrong
    assert "patients with a NEWS2 of 7 and more of whom nobody was told: 1, e.g. ['ill']" in found.wrong
    assert found.duplicated
    once = _vitals(kafka, scores[1:], [_step("s2", 0, "raised")])
    twice = _vitals(kafka, scores[1:], [_step("s2", 0, "raised"), again], once)  # the same words under two ids
    elsewhere = _vitals(kafka, scores[1:], [moved], once)
    assert "steps of alerts that an undisturbed run has not: 1, e.g. [('s2', 'p news2 raised high')]" in twice.wrong
    assert "steps of alerts that an undisturbed run has not: 1, e.g. [('s2', 'p news2 raised high B')]" in elsewhere.wrong


def _answer(number: int, alert: str, kind: str = "alert-acknowledged", patient: str = "p") -> dict[str, Any]:
    return {"id": f"answer-{number}", "patient_id": patient, "target_id": alert, "kind": kind}


def _lived(kafka: Kafka, alerts: list[dict[str, Any]], answers: list[dict[str, Any]], **more: Any) -> Verdict:
    """Judge a run of the vitals lane in which people answered."""
    prefix = kafka.name("v") + "."
    empty: dict[str, list[dict[str, Any]]] = {f"clinical.{one}": [] for one in ("dead-letters", "vitals", "patients")}
    written = {
        **empty,
        "clinical.scores": [_score("s1", 0.1)],
        "clinical.audit": [_audit("vitals", _entry("s1", "score-s1", patient_id="p"))],
    }
    _write(kafka, prefix, {**written, "clinical.alerts": alerts, "clinical.feedback": answers})
    accepted = Accepted({("clinical.feedback", 0, offset): one["id"] for offset, one in enumerate(answers)})
    accepted.at["clinical.vitals", 0, 0] = "s1"
    return Judge("vitals", kafka.bootstrap, prefix, accepted, None, **more).judge("")


def test_each_answer_ends_in_one_step_and_what_was_acknowledged_does_not_climb(kafka: Kafka) -> None:
    def life(alert: str, *steps: tuple[str, str], **more: Any) -> list[dict[str, Any]]:
        return [
            # One patient has no two at once of a kind and a feed.
            {**_step(source, number, state), "alert_id": alert, "id": f"{alert}-{number}", "peer": alert, **more}
            for number, (source, state) in enumerate(steps)
        ]

    good = [
        *life("a", ("s1", "raised"), ("answer-0", "acknowledged"), ("s2", "updated"), ("tick", "escalated")),
        *life("b", ("s1", "raised"), ("answer-1", "declined")),
        *life("c", ("s1", "raised"), ("tick", "escalated"), ("answer-2", "escalated"), ("s9", "resolved")),
    ]
    answers = [
        _answer(0, "a"),
        _answer(1, "b", "alert-declined"),
        _answer(2, "c", "alert-declined"),
        _answer(3, "c"),  # it came when the alert was over
        _answer(0, "a"),  # sent twice
    ]
    told = _lived(kafka, good, answers)
    assert (told.wrong, told.lost, told.duplicated) == ([], 0, 0)
    assert (told.answers, told.escalated, told.declined) == (4, 3, {"p"})

    bad = [
        *life("a", ("s1", "raised"), ("answer-0", "acknowledged"), ("answer-0", "acknowledged"), ("tick", "escalated")),
        *life("b", ("s1", "raised"), ("answer-1", "declined"), ("s2", "updated")),
        *life("c", ("s1", "raised"), ("s3", "updated"), ("s2", "updated"))[::2],
        *life("d", ("s1", "raised"), ("s2", "updated"))[::-1],
        *life("e", ("s1", "raised"), ("s2", "updated"), route="elsewhere", routes=["default", "elsewhere"]),
    ]
    found = _lived(kafka, bad, [_answer(0, "a"), _answer(1, "b", "alert-declined"), _answer(2, "c"), _answer(3, "nowhere")])
    assert found.wrong == [
        "alerts whose steps stand in another order than their numbers: 1, e.g. ['d']",
        "alerts of which a step is missing: 1, e.g. ['c']",
        "alerts that go on after their end: 1, e.g. ['b']",
        "alerts that climb though somebody has acknowledged them: 1, e.g. ['a-3']",
        "steps on another route than the alert's, though nobody was called in: 2, e.g. ['e-0', 'e-1']",
        "answers that led to several steps: 1, e.g. ['answer-0']",
        "answers that no step tells of, to alerts that waited for one: 2, e.g. ['answer-2', 'answer-3']",
    ]
    assert (found.lost, found.duplicated) == (2, 1)

    # Nobody answers: after three seconds the chain's link is called. Logged time came so far, by the heartbeats.
    waits = {"waiting_since": AT.isoformat(), "links": 0}
    alone = [{**one, "decided_at": AT.isoformat(), "answering": waits} for one in life("a", ("s1", "raised"))]
    beats = [{"id": f"beat-{n}", "decided_at": (AT + timedelta(seconds=n)).isoformat(), "partition": 0} for n in (5, 7)]
    climbs = [{**alone[0], "id": "a-1", "sequence": 1, "state": "escalated", "answering": {**waits, "links": 1}}]
    uncalled = ["emergencies that nobody answered and that call nobody in: 1, e.g. ['a-0']"]
    assert _lived(kafka, [*alone, *beats], [], calls_after=3.0).wrong == uncalled
    assert _lived(kafka, [*alone, *climbs, *beats], [], calls_after=3.0).wrong == []
    assert _lived(kafka, [*alone, beats[0]], [], calls_after=3.0).wrong == []  # not yet
    declined = [
        {**alone[0], "id": "a-1", "sequence": 1, "state": "declined", "decided_at": beats[1]["decided_at"], "answering": None}
    ]
    assert _lived(kafka, [*alone, *declined], [], calls_after=3.0).wrong == uncalled  # that came too late
    for second, wrong in ((1, []), (7, uncalled)):  # it was heard late, and had come in time, or not
        said = {**_answer(1, "a", "alert-declined"), "received_at": (AT + timedelta(seconds=second)).isoformat()}
        heard = {**declined[0], "source": {**declined[0]["source"], "event_id": "answer-1"}}
        assert _lived(kafka, [*alone, heard], [said], calls_after=3.0).wrong == wrong

    erased = {"clinical.alerts": {("clinical.feedback", 0, 0)}}  # the topic was deleted after the first answer
    rest = _lived(
        kafka, life("a", ("s1", "raised"), ("s2", "updated"), ("s3", "updated"))[1:], [_answer(0, "a")], erased=erased
    )
    assert rest.wrong == []


def test_what_was_erased_with_its_topic_is_not_lost_and_what_came_later_is(kafka: Kafka) -> None:
    prefix = kafka.name("v") + "."
    audit = {"id": "a", "action": "predict", "agent": "notes-entities@test", "entries": []}
    _write(
        kafka, prefix, {"clinical.notes": [], "clinical.entities": [], "clinical.audit": [audit], "clinical.dead-letters": []}
    )
    accepted = Accepted({("clinical.notes", 0, offset): name for offset, name in enumerate(("old", "", "new", ""))})
    before = {("clinical.notes", 0, 0), ("clinical.notes", 0, 1)}
    erased = dict.fromkeys(("clinical.entities", "clinical.dead-letters", "clinical.audit"), before)
    verdict = Judge("notes-entities", kafka.bootstrap, prefix, accepted, None, erased=erased).judge("")
    assert (verdict.lost, verdict.ignored) == (2, {"erased": 2})
    assert verdict.wrong == [
        "accepted, and neither output nor dead letter nor ignored: 2, e.g. [('clinical.notes', 0, 2), ('clinical.notes', 0, 3)]",
        "predictions without an audit entry: 1, e.g. ['new']",
    ]


def test_what_connectors_make_is_held_against_an_undisturbed_run(kafka: Kafka) -> None:
    def through(
        run: int,
        value: int = 72,
        ward: str | None = "A",
        first: int = 3,
        second: int = 4,
        after: int = 0,
        rests_on: int | None = None,
    ) -> Judge:
        prefix, ids = kafka.name("v") + ".", [f"{run}-{number}" for number in range(2)]
        began = AT + timedelta(hours=run)
        time = {"observed_at": began.isoformat(), "received_at": (began + timedelta(seconds=run)).isoformat()}
        measured = {"patient_id": "p", "observations": [{"code": "8867-4", "value": value}], **time}
        later = (began + timedelta(seconds=1 + after)).isoformat()
        sets = [{"id": ids[0], **measured}, {"id": ids[1], **measured, "observed_at": later}]
        scores = [
            _score(one["id"], 0.1, total=total, observed_at=one["observed_at"], received_at=one["received_at"])
            for one, total in zip(sets, (first, second), strict=True)
        ]
        context = {"id": f"{run}-c", "patient_id": "p", "location": {"ward": ward}, "effective_at": began.isoformat()}
        entries = [_entry(one["id"], f"score-{one['id']}", patient_id="p", input_digest=_digest(one)) for one in sets]
        written = {
            "clinical.vitals": sets,
            "clinical.scores": scores,
            "clinical.patients": [{**context, "location": {"ward": "before"}}, context] if ward else [],
            "clinical.audit": [_audit("vitals", *entries)],
        }
        steps = []
        if rests_on is not None:  # the context led to it
            at = {"observed_at": sets[rests_on]["observed_at"], "location": {"ward": ward}, "encounter_id": None}
            steps = [_step(f"{run}-c", 0, "updated", score_id=f"score-{ids[rests_on]}", **at)]
        _write(kafka, prefix, {**written, "clinical.alerts": steps, "clinical.dead-letters": []})
        accepted = Accepted({("clinical.vitals", 0, offset): one for offset, one in enumerate(ids)})
        return Judge("vitals", kafka.bootstrap, prefix, accepted, None, dict(zip(ids, ("MSG-0", "MSG-1"), strict=True)))

    one = through(1).judge("")
    same = through(2, first=5).judge("", one)  # other times, ids of their own; the first set met another context, or none
    assert (same.wrong, same.compared["events"], same.compared["contexts"], same.compared["outputs"]) == ([], 2, 1, 1)
    assert through(3, value=71, ward="B").judge("", one).wrong == [
        "messages of which an undisturbed run makes something else: 2, e.g. ['MSG-0 (observations)', 'MSG-1 (observations)']",
        "patients whose context an undisturbed run has otherwise: 1, e.g. ['p (location)']",
    ]
    assert through(4, ward=None, second=5).judge("", one).wrong == [
        "outputs that an undisturbed run says otherwise: 1, e.g. ['MSG-1 (news2)']",
        # it is lost
        "patients whose context an undisturbed run has otherwise: 1, e.g. ['p (location, patient_id)']",
    ]
    led_to = "steps of alerts that an undisturbed run has not: 1, e.g. [('', 'p news2 updated high"
    assert led_to in str(through(6, rests_on=1).judge("", one).wrong)
    assert led_to not in str(through(7, rests_on=0).judge("", one).wrong)  # the context and the first set: either comes first
    assert through(5, after=60).judge("", one).wrong == [
        "outputs that an undisturbed run says otherwise: 1, e.g. ['MSG-1 (observed_at)']",
        "messages of which an undisturbed run makes something else: 1, e.g. ['MSG-1 (observed_at)']",
    ]


def test_a_note_that_is_sent_again_has_an_output_for_each_time_it_came(kafka: Kafka) -> None:
    def judged(*outputs: dict[str, Any]) -> Verdict:
        prefix = kafka.name("v") + "."
        notes = [{"id": "n", "note_id": "n", "received_at": at} for at in ("10:00", "10:05")]
        audit = _audit("notes-entities", *(_entry("n", "o", input_digest=_digest(note)) for note in notes))
        written = {"clinical.notes": notes, "clinical.audit": [audit], "clinical.dead-letters": []}
        _write(kafka, prefix, {**written, "clinical.entities": list(outputs)})
        accepted = Accepted({("clinical.notes", 0, 0): "n", ("clinical.notes", 0, 1): "n"})
        return Judge("notes-entities", kafka.bootstrap, prefix, accepted, None).judge("")

    good = [{**_output("n", "o"), "note_id": "n", "received_at": at} for at in ("10:00", "10:05", "10:05")]
    verdict = judged(*good)
    assert (verdict.wrong, verdict.repeats) == ([], 2)
    assert judged(*good, {**good[0], "entities": "fever", "received_at": "11:00"}).wrong == [
        "a repeat says something else: 1, e.g. ['o']",
        "outputs that tell otherwise of their input than it does: 1, e.g. ['o']",
    ]


def test_a_load_of_which_nobody_is_told_shows_nothing(kafka: Kafka) -> None:
    found = _vitals(kafka, [_score(f"s{number}", 0.1) for number in range(60)], [])
    assert found.wrong == ["60 scores and no alert: the row shows nothing", "0 of 60 scores were held against the chart alone"]


def test_order_and_place_of_outputs_are_checked(kafka: Kafka) -> None:
    prefix = kafka.name("v") + "."
    names, offsets = ("first", "second", "third", "elsewhere"), (0, 1, 2, 3)
    outputs = [
        {"id": f"o-{name}", "patient_id": "p", "source": {"event_id": name, "partition": 0, "offset": offset}}
        for name, offset in zip(names, offsets, strict=True)
    ]
    outputs[3]["source"] = {"event_id": "elsewhere", "partition": 0, "offset": 2}
    turned = [outputs[1], outputs[0], outputs[1], outputs[2], outputs[3]]  # the repeat of the second is none
    audit = _audit("notes-entities", *(_entry(one, f"o-{one}", patient_id="p") for one in names))
    _write(kafka, prefix, {"clinical.entities": turned, "clinical.audit": [audit], "clinical.dead-letters": []})
    accepted = Accepted({("clinical.notes", 0, offset): name for offset, name in enumerate(names)})
    verdict = Judge("notes-entities", kafka.bootstrap, prefix, accepted, None).judge("")
    assert verdict.wrong == [
        "outputs that name another place than their input's: 1, e.g. ['o-elsewhere']",
        "outputs of one patient that stand before those of earlier inputs: 1, e.g. ['o-first']",
    ]


def test_a_topic_that_was_made_anew_begins_its_offsets_anew(kafka: Kafka) -> None:
    def judged(*places: int) -> list[str]:
        prefix = kafka.name("v") + "."
        names = [f"n{number}" for number in range(len(places))]
        outputs = [
            {"id": f"o-{name}", "patient_id": "p", "source": {"event_id": name, "partition": 0, "offset": offset}}
            for name, offset in zip(names, places, strict=True)
        ]
        audit = _audit("notes-entities", *(_entry(one, f"o-{one}", patient_id="p") for one in names))
        written = {"clinical.entities": outputs, "clinical.audit": [audit], "clinical.dead-letters": []}
        _write(kafka, prefix, {**written, "clinical.notes": []})
        stood = (-1, -2, 0, 1)  # two on the log before, two on the new one
        accepted = Accepted({("clinical.notes", 0, offset): name for offset, name in zip(stood, names, strict=True)})
        return Judge("notes-entities", kafka.bootstrap, prefix, accepted, None).judge("").wrong

    assert judged(0, 1, 0, 1) == []
    assert judged(1, 0, 1, 0) == [
        "outputs that name another place than their input's: 4, e.g. ['o-n0', 'o-n1', 'o-n2']",
        "outputs of one patient that stand before those of earlier inputs: 2, e.g. ['o-n1', 'o-n3']",
    ]


def test_a_note_that_was_spoilt_replaces_nothing(kafka: Kafka) -> None:
    prefix = kafka.name("v") + "."
    notes = [{"id": "n", "note_id": "n", "received_at": "2026-01-01T00:00:00+00:00"}]
    spoilt = [{**notes[0], "received_at": "nobody knows"}, {"id": "n", "note_id": "n"}]
    _write(kafka, prefix, {"clinical.notes": [*notes, *spoilt]})
    accepted = Accepted({("clinical.notes", 0, offset): event_id for offset, event_id in enumerate(("n", "", ""))})
    assert Judge("notes-vectors", kafka.bootstrap, prefix, accepted, None)._replaced() == set()


def test_a_dead_letter_holds_its_original_whole(kafka: Kafka) -> None:
    prefix = kafka.name("v") + "."
    notes = [{"id": str(number), "text": "x" * number} for number in range(5)]
    key = {"original_key": base64.b64encode(b"k").decode()}
    whole = [base64.b64encode(json.dumps(one).encode()).decode() for one in notes]
    letters = [
        {**_letter(0, prefix), **key, "original_value": whole[0]},
        {**_letter(1, prefix), **key, "original_value": whole[0]},  # another's
        {**_letter(2, prefix), **key, "original_value": whole[2][:8], "cut": {"value": True}},
        {**_letter(3, prefix), "original_value": whole[3]},  # its key is lost
        {**_letter(4, prefix), **key, "original_value": whole[4], "original_headers": [{"name": "x", "value": None}]},
    ]
    _write(
        kafka,
        prefix,
        {"clinical.notes": notes, "clinical.entities": [], "clinical.audit": [], "clinical.dead-letters": letters},
    )
    accepted = Accepted({("clinical.notes", 0, offset): "" for offset in range(5)})
    verdict = Judge("notes-entities", kafka.bootstrap, prefix, accepted, None).judge("")
    assert verdict.lost == 3
    [told] = verdict.wrong
    assert told.startswith(
        "dead letters that do not hold their original: 3, e.g. [('clinical.notes', 0, 1), ('clinical.notes', 0, 3)"
    )


def test_merges_are_reckoned_by_where_the_points_stand(kafka: Kafka, tmp_path: Path) -> None:
    prefix = kafka.name("v") + "."
    merges = {"a": "b", "c": "d", "b": "e"}  # a's end with e
    patients = [{"id": f"merge-{old}", "patient_id": old, "merged_into": new} for old, new in merges.items()]
    patients.append({"id": "context-e", "patient_id": "e", "merged_into": None})
    entries = [_entry(one["id"], outcome="merged" if one["merged_into"] else "no-merge") for one in patients]
    for one, entry in zip(patients, entries, strict=True):
        entry.update(patient_id=one["patient_id"], input_digest=_digest(one))
    _write(
        kafka,
        prefix,
        {
            "clinical.patients": patients,
            "clinical.notes": [{"id": f"note-{one}", "patient_id": one} for one in "abcd"],
            "clinical.audit": [_audit("merges", *entries)],
            "clinical.dead-letters": [],
        },
    )
    accepted = Accepted({("clinical.patients", 0, offset): one["id"] for offset, one in enumerate(patients)})
    stands = {"note-a": ("e", "e"), "note-b": ("e",), "note-c": ("d", "c"), "note-d": ("d",)}  # one of c's points stayed
    with EmbeddedQdrant(tmp_path / "vectors", sync=False) as store:
        client = QdrantClient(url=store.url, check_compatibility=False)
        client.create_collection("notes", VectorParams(size=2, distance=Distance.COSINE))
        payloads = [{"version": note, "patient_id": one} for note, under in stands.items() for one in under]
        points = [PointStruct(id=number, vector=[1.0, 0.0], payload=payload) for number, payload in enumerate(payloads)]
        client.upsert("notes", points, wait=True)
        verdict = Judge("merges", kafka.bootstrap, prefix, accepted, store.url).judge("")
        client.close()
    assert (verdict.accepted, verdict.lost, verdict.moved, verdict.ignored) == (4, 1, 3, {"no-merge": 1})
    assert verdict.wrong == [
        "patients of whom points stand under another than the survivor: 1, e.g. ['c']",
        "accepted, and neither output nor dead letter nor ignored: 1, e.g. [('clinical.patients', 0, 1)]",
    ]


def test_points_are_held_against_an_undisturbed_run() -> None:
    judge = Judge("notes-vectors", "nowhere", "", Accepted(), None)
    judge.verdict.points = {"n1": ["1", "2"], "n2": ["3"], "more": ["4"]}
    judge.verdict.vectors = {"n1": [[1.0, 0.0], [0.0, 1.0]], "n2": [[1.0, 0.0]]}
    judge._compare(
        Verdict(points={"n1": ["1"], "n2": ["3"], "replaced": ["5"]}, vectors={"n1": [[1.0, 0.0]], "n2": [[0.6, 0.8]]})
    )
    assert judge.found.wrong == [
        "points that an undisturbed run has otherwise: 1, e.g. ['n1']",
        "vectors that an undisturbed run has otherwise: 1, e.g. ['n2']",
    ]
    assert judge.verdict.compared["points"] == 2


@pytest.mark.parametrize(("now", "begins"), [("17:59:40", "17:59:35"), ("17:59:59", "17:59:35"), ("18:00:00", "18:00:00")])
def test_a_course_lies_in_one_hour(monkeypatch: pytest.MonkeyPatch, now: str, begins: str) -> None:
    class Clock(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> datetime:
            return datetime.fromisoformat(f"2026-01-01T{now}+00:00")

    monkeypatch.setattr(inputs, "datetime", Clock)
    assert f"{inputs.beginning():%H:%M:%S}" == begins


# ---- what a lane may get wrong without losing anything: each of these was once done to it, and the verifier saw nothing

PARAMETERS = [
    {"name": "respiratory_rate", "value": 26, "unit": "/min", "points": 3, "observed_at": "2026-01-05T07:00:00Z"},
    {"name": "heart_rate", "value": 95, "unit": "/min", "points": 1, "observed_at": "2026-01-05T07:00:00Z"},
    {"name": "systolic", "value": 120, "unit": "mm[Hg]", "points": 0, "observed_at": "2026-01-05T06:50:00Z"},
]
Twist = Callable[[dict[str, Any]], dict[str, Any]]


def _run(kafka: Kafka, number: int = 0, score: Twist = dict, step: Twist = dict, entry: Twist = dict) -> Judge:
    """A run of the vitals lane: one set, its score, its alert, its audit; each may be spoilt. `number`: hours later."""

    def at(minutes: float) -> str:
        return (AT + timedelta(hours=number, minutes=minutes)).isoformat().replace("+00:00", "Z")

    prefix = kafka.name("v") + "."
    where = {"encounter_id": "stay", "location": {"ward": "A", "room": "1", "bed": "4"}}
    parameters = [{**one, "observed_at": at(-10 if one["name"] == "systolic" else 0)} for one in PARAMETERS]
    news2 = {"total": 4, "at_least": False, "missing": [], "single_three": True, "scale": 1, "band": "low-medium"}
    news2 |= {"parameters": parameters, "refused": []}
    scored = News2.model_validate(news2)
    came = {"id": "s1", "patient_id": "p", "encounter_id": "stay", "observed_at": at(0), "received_at": at(1)}
    came |= {"processing": "production", "observations": []}
    shared = {name: came[name] for name in ("observed_at", "received_at")}
    made = _score("s1", 0.1, **shared, encounter_id="stay", processing="production") | {"news2": news2}
    now = datetime.fromisoformat(at(5 + number))  # as of then, where that is a while ago
    words = {
        "title": news2_title(scored, None, now),
        "detail": news2_detail(scored, "raised", "low-medium", "low-medium", now, told="NEWS2 4"),
        "reason": "a single parameter scores 3",
    }
    told = _step("s1", 0, "raised", **shared, **where, **words, news2=news2, decided_at=at(5), severity="low-medium")
    said = _entry("s1", "score-s1", patient_id="p", input_digest=_digest(came))
    written = {
        "clinical.vitals": [came],
        "clinical.patients": [{"id": "c", "patient_id": "p", **where}],
        "clinical.scores": [score(made)],
        "clinical.alerts": [step(told)],
        "clinical.audit": [_audit("vitals", entry(said))],
        "clinical.dead-letters": [],
    }
    _write(kafka, prefix, written)
    return Judge("vitals", kafka.bootstrap, prefix, Accepted({("clinical.vitals", 0, 0): "s1"}), None)


def _with(**changes: Any) -> Twist:
    return lambda body: {**body, **changes}


def test_a_score_is_held_against_its_set_and_whole_against_an_undisturbed_run(kafka: Kafka) -> None:
    undisturbed = _run(kafka).judge("")
    assert undisturbed.wrong == []
    same = _run(kafka, 9).judge("", undisturbed)  # nine hours later
    assert (same.wrong, same.compared["outputs"], same.compared["alert_steps"]) == ([], 1, 1)

    input_said = "outputs that tell otherwise of their input than it does: 1, e.g. ['score-s1']"
    for changes in (
        {"observed_at": "2026-01-04T22:00:00Z"},
        {"received_at": "2027-02-09T07:01:00Z"},
        {"encounter_id": "somebody-elses"},
        {"processing": "training"},
    ):
        assert input_said in _run(kafka, score=_with(**changes)).judge("").wrong
    for name, value in (("late", True), ("flags", ["not-watched", "test-traffic"])):
        found = _run(kafka, score=_with(**{name: value})).judge("", undisturbed).wrong
        assert found == [f"outputs that an undisturbed run says otherwise: 1, e.g. ['s1 ({name})']"]
    silent = _with(deterioration=None, deterioration_reason=LATE)
    assert _run(kafka, score=silent).judge("", undisturbed).wrong == [
        "the deterioration model answered in both runs of 0 in 1 sets alone"
    ]


def test_a_step_of_an_alert_is_held_against_score_and_context_and_whole_against_an_undisturbed_run(kafka: Kafka) -> None:
    undisturbed = _run(kafka).judge("")
    elsewhere = {"ward": "A", "room": "99", "bed": "13"}
    words = {
        "steps of alerts that rest on no score of their patient's": {"score_id": "score-s2"},
        "steps of alerts that name another stay or place than the patient's contexts": {"location": elsewhere},
        "steps of alerts that name times of no set of their patient's": {"observed_at": "1970-01-01T00:00:00Z"},
        "steps of alerts whose words are not their NEWS2": {"title": "all is well", "detail": "do not go there"},
    }
    for blame, changes in words.items():
        for people in ({}, {"by": "nurse-7", "state": "acknowledged"}):  # these no other run has: but they rest on the same
            assert f"{blame}: 1, e.g. ['news2 0 raised']" in _run(kafka, step=_with(**changes, **people)).judge("").wrong
    other = _run(kafka, step=_with(encounter_id="somebody-elses", detail="Go there. (0)", reason="nobody knows"))
    assert other.judge("", undisturbed).wrong == [
        "steps of alerts that name another stay or place than the patient's contexts: 1, e.g. ['news2 0 raised']",
        "steps of alerts that an undisturbed run says otherwise: 1, "
        "e.g. ['s1: p news2 raised low-medium A 4 (detail, encounter_id, reason)']",
    ]
    sunk = _run(kafka, step=lambda body: {**body, "news2": {**body["news2"], "single_three": False}}).judge("").wrong
    assert sunk == ["steps of alerts whose NEWS2 is not that of their score: 1, e.g. ['news2 0 raised']"]
    # The lane's logged time, and with it when people are called, is each run's own.
    calm = _run(kafka, step=_with(decided_at="2026-01-05T09:00:00Z", sequence=0, answering={"links": 2})).judge("", undisturbed)
    assert calm.wrong == []


def test_what_the_audit_says_is_held_against_input_and_output(kafka: Kafka) -> None:
    for blame, changes in {
        "audit entries of what was never accepted": {"input_id": "s9"},
        "audit entries with another digest than their input's": {"input_digest": "0" * 64},
        "audit entries that name another patient": {"patient_id": "another patient"},
        "audit entries whose outcome or output is not what came of their input": {"event_id": "nonsense"},
    }.items():
        assert any(one.startswith(f"{blame}: 1") for one in _run(kafka, entry=_with(**changes)).judge("").wrong)
    for outcome in ("dead-letter", "repeat"):
        found = _run(kafka, entry=_with(outcome=outcome)).judge("").wrong
        assert found == ["audit entries whose outcome or output is not what came of their input: 1, e.g. ['s1']"]


def test_the_storm_holds_the_audit_likewise() -> None:
    came = {"id": "s1", "patient_id": "p"}
    score = {"id": "score-s1", "patient_id": "p", "source": {"event_id": "s1"}}

    def told(**changes: Any) -> list[str]:
        entry = _entry("s1", "score-s1", patient_id="p", input_digest=_digest(came)) | changes
        bodies = {"clinical.vitals": [came], "clinical.scores": [score], "clinical.audit": [_audit("vitals", entry)]}

        class Written(Ledger):
            def values(self, topic: str) -> Iterator[tuple[int, int, bytes]]:
                return ((0, offset, json.dumps(one).encode()) for offset, one in enumerate(bodies.get(topic, [])))

        found = Reckoning()
        storm_audit(Written("nowhere", ""), found, {"clinical.vitals": {"s1"}}, {})
        return found.wrong

    assert told() == []
    assert told(patient_id="another") == ["vitals: audit entries that name another patient: 1, e.g. ['s1']"]
    assert told(input_id="s2") == [
        "vitals: predictions without an audit entry: 1, e.g. ['s1']",
        "vitals: audit entries of what was never accepted: 1, e.g. ['s2']",
    ]
    for changes in ({"event_id": "nonsense"}, {"outcome": "dead-letter"}):
        words = "audit entries whose outcome or output is not what came of their input"
        assert told(**changes) == [f"vitals: {words}: 1, e.g. ['s1']"]


def test_that_a_note_has_no_text_is_for_the_note_to_say(kafka: Kafka, tmp_path: Path) -> None:
    prefix = kafka.name("v") + "."
    texts = {"worked": "cough", "dropped": "fever", "blank": " \n", "withdrawn": "cough"}
    notes = [
        {"id": one, "note_id": one, "patient_id": "p", "text": text, "status": "cancelled" if one == "withdrawn" else "final"}
        for one, text in texts.items()
    ]
    for note in notes:
        note["received_at"] = AT.isoformat()
    entries = [
        _entry(note["id"], outcome="ok" if note["id"] == "worked" else "no-text", patient_id="p", input_digest=_digest(note))
        for note in notes
    ]
    audit = _audit("notes-vectors", *entries)
    _write(kafka, prefix, {"clinical.notes": notes, "clinical.audit": [audit], "clinical.dead-letters": []})
    accepted = Accepted({("clinical.notes", 0, offset): one for offset, one in enumerate(texts)})
    with EmbeddedQdrant(tmp_path / "vectors", sync=False) as store:
        client = QdrantClient(url=store.url, check_compatibility=False)
        client.create_collection("notes", VectorParams(size=2, distance=Distance.COSINE))
        told = {"version": "worked", "note_id": "worked", "patient_id": "p", "topic": "clinical.notes"}
        client.upsert("notes", [PointStruct(id=1, vector=[1.0, 0.0], payload=told)], wait=True)
        judge = Judge("notes-vectors", kafka.bootstrap, prefix, accepted, store.url)
        verdict = judge.judge("", Verdict(points={"blank": ["a point"]}))
        other = {**told, "patient_id": "another patient"}
        client.upsert("notes", [PointStruct(id=1, vector=[1.0, 0.0], payload=other)], wait=True)
        of_another = Judge("notes-vectors", kafka.bootstrap, prefix, accepted, store.url).judge("")
        client.close()
    assert (verdict.lost, verdict.ignored) == (1, {"no-text": 2})
    assert verdict.wrong == [
        "accepted, and neither output nor dead letter nor ignored: 1, e.g. [('clinical.notes', 0, 1)]",
        "audit entries of a word that their input denies: 1, e.g. ['dropped']",
        "inputs ignored of which an undisturbed run makes something: 1, e.g. ['blank']",
        "nothing was compared with an undisturbed run: points",
    ]
    assert "points that tell otherwise of their input than it does: 1, e.g. ['worked']" in of_another.wrong


def test_every_value_that_tells_who_somebody_is_is_looked_for_in_each_format() -> None:
    marks = {PHI, "FIC100001", "Lotte", *dates(datetime(1962, 3, 7).date())}

    def told(log: str) -> list[str]:
        judge = Judge("vitals", "nowhere", "", Accepted(), None, marks=marks)
        judge._silence(log)
        return judge.found.wrong

    for log in (
        "number=FIC100001^^^FICTION^MR",
        "given ['Lotte']",
        "LOTTE^",
        "1962-03-07",
        "born 19620307",
        "date(1962, 3, 7)",
    ):
        assert told(log) == ["a log or metric tells who somebody is (1 times)"]
    assert told("Lotteries of 1962, lotte_3: FIC1000") == []


def test_a_row_of_which_nothing_was_compared_is_broken() -> None:
    judge = Judge("notes-entities", "nowhere", "", Accepted(), None)
    judge.verdict.said = {"mine": {}}
    judge._compare(Verdict(said={"theirs": {}}))
    assert judge.found.wrong == ["nothing was compared with an undisturbed run: outputs"]
    judge = Judge("notes-entities", "nowhere", "", Accepted(), None)
    judge._compare(Verdict())
    assert judge.found.wrong == ["nothing was compared with an undisturbed run: it has nothing"]


def test_a_report_says_what_was_ignored_and_what_was_compared() -> None:
    row = Row(
        "corrected", "notes-vectors", "words", accepted=3, ignored={"replaced": 32}, compared={"outputs": 0, "points": 136}
    )
    told = report.table([row, replace(row, ignored={}, compared={})]).splitlines()
    head, cells, none = ([cell.strip() for cell in line.strip("|").split("|")] for line in (told[0], *told[2:]))
    assert [cells[head.index(one)] for one in ("ignored", "compared")] == ["replaced 32", "points 136"]
    assert [none[head.index(one)] for one in ("ignored", "compared")] == ["-", "-"]
