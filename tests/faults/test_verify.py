"""The verifier finds what it is there for: a lost input, two outputs of one, an output beside a dead letter, a name in a log."""

import base64
import json
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Producer
from qdrant_client import QdrantClient
from qdrant_client.models import Distance, PointStruct, VectorParams

from connectors.qdrant.embedded import EmbeddedQdrant
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
    assert same.compared == {"outputs": 3, "points": 0, "deterioration": 2, "alert_steps": 2}

    changed = [_score("s1", 0.1), _score("s2", 0.9), _score("s3", 0.3, total=5)]
    other = _vitals(kafka, changed, [_step("s1", 0, "raised"), alerts[1], _step("journal", 2, "withdrawn")], first)
    assert other.wrong == [
        "outputs that an undisturbed run says otherwise: 1, e.g. ['s3']",
        "deterioration that an undisturbed run says otherwise: 1, e.g. ['s2']",
        "steps of alerts that an undisturbed run has and this one has not: 1, e.g. [('s2', 'p news2 0 raised high')]",
        "steps of alerts that an undisturbed run has not: 2, "
        "e.g. [('', 'p news2 2 withdrawn high'), ('s1', 'p news2 0 raised high')]",
    ]


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
    assert "steps of alerts that an undisturbed run has not: 1, e.g. [('s2', 'p news2 0 raised high')]" in twice.wrong
    assert "steps of alerts that an undisturbed run has not: 1, e.g. [('s2', 'p news2 0 raised high B')]" in elsewhere.wrong


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
