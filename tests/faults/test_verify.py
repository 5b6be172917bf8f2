"""The verifier finds what it is there for: a lost input, two outputs of one, an output beside a dead letter, a name in a log."""

import base64
import json
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Producer
from qdrant_client import QdrantClient
from qdrant_client.models import Distance, PointStruct, VectorParams

from connectors.qdrant.embedded import EmbeddedQdrant
from tests.faults import inputs
from tests.faults.inputs import PHI, Accepted
from tests.faults.verify import Judge, Verdict, _placeless
from tests.kafka import Kafka

pytestmark = pytest.mark.kafka


def _output(source: str, output: str, entities: str = "") -> dict[str, Any]:
    return {"id": output, "source": {"event_id": source}, "entities": entities}


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
            {
                "id": "a",
                "action": "predict",
                "agent": "notes-entities@test",
                "entries": [{"input_id": one, "outcome": "ok"} for one in ("good", "twice", "both", "says-otherwise")],
            }
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
        "a log tells of a patient",
    ):
        assert words in wrong


def _score(source: str, risk: float | None, reason: str = "", total: int = 3) -> dict[str, Any]:
    deterioration = None if risk is None else {"probability": risk}
    said = {"news2": {"total": total}, "news2_reason": "", "rejected": [], "deterioration": deterioration}
    return {"id": f"score-{source}", "source": {"event_id": source}, "patient_id": "p", **said, "deterioration_reason": reason}


def _step(source: str, sequence: int, state: str, kind: str = "news2") -> dict[str, Any]:
    told = {"patient_id": "p", "alert_id": kind, "sequence": sequence, "kind": kind, "state": state, "severity": "high"}
    return {"id": f"{kind} {sequence} {state}", "source": {"event_id": source}, **told}


LATE = "the deterioration model was late: NEWS2 alone"


def _vitals(
    kafka: Kafka, scores: list[dict[str, Any]], alerts: list[dict[str, Any]], undisturbed: Verdict | None = None
) -> Verdict:
    """Judge a run of the vitals lane that said this."""
    prefix = kafka.name("v") + "."
    names = [score["source"]["event_id"] for score in scores]
    audit = {"id": "a", "action": "predict", "agent": "vitals@test"}
    entries = [{"input_id": one, "outcome": "ok"} for one in names]
    _write(
        kafka,
        prefix,
        {
            "clinical.scores": scores,
            "clinical.alerts": alerts,
            "clinical.audit": [{**audit, "entries": entries}],
            "clinical.dead-letters": [],
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
    assert same.compared == {"outputs": 3, "points": 0, "events": 0, "contexts": 0, "deterioration": 2, "alert_steps": 2}

    changed = [_score("s1", 0.1), _score("s2", 0.9), _score("s3", 0.3, total=5)]
    other = _vitals(kafka, changed, [_step("s1", 0, "raised"), alerts[1], _step("journal", 2, "withdrawn")], first)
    assert other.wrong == [
        "outputs that an undisturbed run says otherwise: 1, e.g. ['s3']",
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
    empty: dict[str, list[dict[str, Any]]] = {f"clinical.{one}": [] for one in ("scores", "audit", "dead-letters", "vitals")}
    _write(kafka, prefix, {**empty, "clinical.alerts": alerts, "clinical.feedback": answers})
    accepted = Accepted({("clinical.feedback", 0, offset): one["id"] for offset, one in enumerate(answers)})
    return Judge("vitals", kafka.bootstrap, prefix, accepted, None, **more).judge("")


def test_each_answer_ends_in_one_step_and_what_was_acknowledged_does_not_climb(kafka: Kafka) -> None:
    def life(alert: str, *steps: tuple[str, str], **more: Any) -> list[dict[str, Any]]:
        return [
            {**_step(source, number, state), "alert_id": alert, "id": f"{alert}-{number}", **more}
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
    def through(run: str, value: int = 72, ward: str | None = "A", first: int = 3, second: int = 4) -> Judge:
        prefix, ids = kafka.name("v") + ".", [f"{run}-{number}" for number in range(2)]
        measured = {"patient_id": "p", "observed_at": run, "observations": [{"code": "8867-4", "value": value}]}
        scores = [
            {**_score(one, 0.1, total=total), "id": f"score-{one}"} for one, total in zip(ids, (first, second), strict=True)
        ]
        context = {"id": f"{run}-c", "patient_id": "p", "location": {"ward": ward}, "effective_at": run}
        entries = [{"input_id": one, "outcome": "ok"} for one in ids]
        written = {
            "clinical.vitals": [{"id": one, **measured} for one in ids],
            "clinical.scores": scores,
            "clinical.patients": [{**context, "location": {"ward": "before"}}, context] if ward else [],
            "clinical.audit": [{"id": "a", "action": "predict", "agent": "vitals@test", "entries": entries}],
        }
        _write(kafka, prefix, {**written, "clinical.alerts": [], "clinical.dead-letters": []})
        accepted = Accepted({("clinical.vitals", 0, offset): one for offset, one in enumerate(ids)})
        return Judge("vitals", kafka.bootstrap, prefix, accepted, None, dict(zip(ids, ("MSG-0", "MSG-1"), strict=True)))

    one = through("one").judge("")
    same = through("two", first=5).judge("", one)  # other times, ids of their own; the first set met another context, or none
    assert (same.wrong, same.compared["events"], same.compared["contexts"], same.compared["outputs"]) == ([], 2, 1, 1)
    assert through("three", value=71, ward="B").judge("", one).wrong == [
        "messages of which an undisturbed run makes something else: 2, e.g. ['MSG-0', 'MSG-1']",
        "patients whose context an undisturbed run has otherwise: 1, e.g. ['p']",
    ]
    assert through("four", ward=None, second=5).judge("", one).wrong == [
        "outputs that an undisturbed run says otherwise: 1, e.g. ['MSG-1']",
        "patients whose context an undisturbed run has otherwise: 1, e.g. ['p']",  # it is lost
    ]


def test_a_note_that_is_sent_again_has_an_output_for_each_time_it_came(kafka: Kafka) -> None:
    def judged(*outputs: dict[str, Any]) -> Verdict:
        prefix = kafka.name("v") + "."
        notes = [{"id": "n", "note_id": "n", "received_at": at} for at in ("10:00", "10:05")]
        entries = [{"input_id": "n", "outcome": "ok"}]
        audit = {"id": "a", "action": "predict", "agent": "notes-entities@test", "entries": entries}
        written = {"clinical.notes": notes, "clinical.audit": [audit], "clinical.dead-letters": []}
        _write(kafka, prefix, {**written, "clinical.entities": list(outputs)})
        accepted = Accepted({("clinical.notes", 0, 0): "n", ("clinical.notes", 0, 1): "n"})
        return Judge("notes-entities", kafka.bootstrap, prefix, accepted, None).judge("")

    good = [{**_output("n", "o"), "received_at": at} for at in ("10:00", "10:05", "10:05")]
    verdict = judged(*good)
    assert (verdict.wrong, verdict.repeats) == ([], 2)
    assert judged(*good, {**_output("n", "o", "fever"), "received_at": "11:00"}).wrong == [
        "a repeat says something else: 1, e.g. ['o']",
        "outputs that name another receipt than their input's: 1, e.g. ['o']",
    ]


def test_a_load_of_which_nobody_is_told_shows_nothing(kafka: Kafka) -> None:
    found = _vitals(kafka, [_score(f"s{number}", 0.1) for number in range(60)], [])
    assert found.wrong == ["60 scores and no alert: the row shows nothing"]


def test_order_and_place_of_outputs_are_checked(kafka: Kafka) -> None:
    prefix = kafka.name("v") + "."
    names, offsets = ("first", "second", "third", "elsewhere"), (0, 1, 2, 3)
    outputs = [
        {"id": f"o-{name}", "patient_id": "p", "source": {"event_id": name, "partition": 0, "offset": offset}}
        for name, offset in zip(names, offsets, strict=True)
    ]
    outputs[3]["source"] = {"event_id": "elsewhere", "partition": 0, "offset": 2}
    turned = [outputs[1], outputs[0], outputs[1], outputs[2], outputs[3]]  # the repeat of the second is none
    entries = [{"input_id": one, "outcome": "ok"} for one in names]
    audit = {"id": "a", "action": "predict", "agent": "notes-entities@test", "entries": entries}
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
        audit = {"id": "a", "action": "predict", "agent": "notes-entities@test"}
        entries = [{"input_id": one, "outcome": "ok"} for one in names]
        written = {"clinical.entities": outputs, "clinical.audit": [{**audit, "entries": entries}], "clinical.dead-letters": []}
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
    notes = [{"id": str(number), "text": "x" * number} for number in range(3)]
    whole = [base64.b64encode(json.dumps(one).encode()).decode() for one in notes]
    letters = [
        {**_letter(0, prefix), "original_value": whole[0]},
        {**_letter(1, prefix), "original_value": whole[0]},  # another's
        {**_letter(2, prefix), "original_value": whole[2][:8], "cut": {"value": True}},
    ]
    _write(
        kafka,
        prefix,
        {"clinical.notes": notes, "clinical.entities": [], "clinical.audit": [], "clinical.dead-letters": letters},
    )
    accepted = Accepted({("clinical.notes", 0, offset): "" for offset in range(3)})
    verdict = Judge("notes-entities", kafka.bootstrap, prefix, accepted, None).judge("")
    assert verdict.lost == 1
    assert verdict.wrong == ["dead letters that do not hold their original: 1, e.g. [('clinical.notes', 0, 1)]"]


def test_merges_are_reckoned_by_where_the_points_stand(kafka: Kafka, tmp_path: Path) -> None:
    prefix = kafka.name("v") + "."
    merges = {"a": "b", "c": "d", "b": "e"}  # a's end with e
    patients = [{"id": f"merge-{old}", "patient_id": old, "merged_into": new} for old, new in merges.items()]
    patients.append({"id": "context-e", "patient_id": "e", "merged_into": None})
    entries = [{"input_id": one["id"], "outcome": "merged" if one["merged_into"] else "no-merge"} for one in patients]
    _write(
        kafka,
        prefix,
        {
            "clinical.patients": patients,
            "clinical.notes": [{"id": f"note-{one}", "patient_id": one} for one in "abcd"],
            "clinical.audit": [{"id": "a", "action": "predict", "agent": "merges@test", "entries": entries}],
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
    assert _placeless({"version": "n1", "offset": 1, "partition": 0}) == _placeless(
        {"offset": 7, "partition": 1, "version": "n1"}
    )


@pytest.mark.parametrize(("now", "begins"), [("17:59:40", "17:59:35"), ("17:59:59", "17:59:35"), ("18:00:00", "18:00:00")])
def test_a_course_lies_in_one_hour(monkeypatch: pytest.MonkeyPatch, now: str, begins: str) -> None:
    class Clock(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> datetime:
            return datetime.fromisoformat(f"2026-01-01T{now}+00:00")

    monkeypatch.setattr(inputs, "datetime", Clock)
    assert f"{inputs.beginning():%H:%M:%S}" == begins
