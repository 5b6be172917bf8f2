"""What rows of the matrix are there for is seen when it happens: each outcome here is one that a broken lane would leave behind."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from types import SimpleNamespace
from typing import Any

import pytest

from tests.faults import chart, contexts, verify
from tests.faults.__main__ import MATRIX
from tests.faults.inputs import Accepted
from tests.faults.verify import Judge, Reader, Verdict

START = datetime(2026, 1, 5, 7, 0, 0, 123_789, tzinfo=UTC)
Written = dict[str, list[dict[str, Any]]]


class Topics(Reader):
    """A ledger over what is given, each topic one partition."""

    def __init__(self, written: Written) -> None:
        self.written = written

    def values(self, topic: str) -> Iterator[tuple[int, int, bytes]]:
        """Yield as the real one does."""
        return ((0, offset, json.dumps(body).encode()) for offset, body in enumerate(self.written.get(topic, [])))


def judge(lane: str, written: Written, **more: Any) -> Judge:
    """A judge of a run that wrote this; all of the lane's inputs were accepted but those that the lane wrote itself."""
    topic = verify.INPUT[lane]
    places = {
        (topic, 0, offset): body["id"] for offset, body in enumerate(written.get(topic, [])) if not body.get("moved_from")
    }
    made = Judge(lane, "nowhere", "", Accepted(places), "nowhere" if lane in verify.COLLECTION else None, **more)
    made.ledger = Topics(written)
    return made


def vital_set(one: str, at: int = 0, patient: str = "p", state: str = "calm", **more: Any) -> dict[str, Any]:
    """A set of the loads' kind, so many seconds after the start."""
    time = (START + timedelta(seconds=at)).isoformat()
    given = [{"code": code, "value": value, "status": "final"} for code, value in contexts.STATES[state].items()]
    given.append({"code": "67775-7", "value": "A", "status": "final"})
    body = {"id": one, "patient_id": patient, "encounter_id": None, "observed_at": time, "received_at": time}
    return body | {"processing": "production", "observations": given} | more


def score(of: dict[str, Any], points: dict[str, int] | None = None, **more: Any) -> dict[str, Any]:
    """What the chart gives for a set, or what is given."""
    points = chart.points_of(of["observations"]) if points is None else points
    told = [{"name": name, "points": each, "observed_at": of["observed_at"]} for name, each in points.items()]
    news2 = {"total": sum(points.values()), "missing": [], "band": chart.band(points), "parameters": told}
    carried = {name: of[name] for name in ("patient_id", "encounter_id", "observed_at", "received_at", "processing")}
    said = {"id": f"score-{of['id']}", "source": {"event_id": of["id"]}, "news2": news2, "news2_reason": "", "rejected": []}
    return {**carried, **said, "late": False, "flags": [], "deterioration": None, "deterioration_reason": "x", **more}


def step(of: str, state: str, severity: str, *, alert: str = "a", number: int = 0, **more: Any) -> dict[str, Any]:
    """A step of an alert by NEWS2."""
    told = {"id": f"{alert}-{number}", "alert_id": alert, "sequence": number, "kind": "news2", "patient_id": "p"}
    where = {"encounter_id": None, "location": {"ward": None}, "score_id": f"score-{of}", "route": "default"}
    told |= {"state": state, "severity": severity, "source": {"event_id": of}, "title": "", "detail": ""}
    times = {"observed_at": START.isoformat(), "received_at": START.isoformat()}
    return told | where | {"routes": ["default"]} | times | more


def audited(sets: list[dict[str, Any]], scores: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The audit of a vitals lane that told the truth."""
    made = {one["source"]["event_id"]: one["id"] for one in scores}
    entries = [
        {
            "input_id": one["id"],
            "event_id": made.get(one["id"], one["id"]),
            "outcome": "ok",
            "patient_id": one["patient_id"],
            "input_digest": sha256(json.dumps(one).encode()).hexdigest(),
        }
        for one in sets
    ]
    return [{"id": "audit", "action": "predict", "agent": "vitals@test", "entries": entries}]


def vitals(sets: list[dict[str, Any]], scores: list[dict[str, Any]], alerts: list[dict[str, Any]], **more: Any) -> list[str]:
    """What is wrong with a run of the vitals lane, as to what these tests are about."""
    written = {"clinical.vitals": sets, "clinical.scores": scores, "clinical.alerts": alerts}
    found = judge("vitals", {**written, "clinical.audit": audited(sets, scores)}, **more).judge("")
    words = (
        "chart",
        "graver",
        "another tells",
        "contexts have it",
        "context of then",
        "survivor",
        "passed on",
        "never accepted",
    )
    return [one for one in found.wrong if any(word in one for word in words)]


# ---- NEWS2 by the chart, where there is no run to compare with


def test_the_chart_is_that_of_the_college() -> None:
    def scored(**values: Any) -> int:
        codes = {name: code for code, name in chart._NAMES.items()}
        [points] = chart.points_of([{"code": codes[name], "value": value} for name, value in values.items()]).values()
        return points

    for name, values in {
        "respiratory_rate": ((8, 3), (9, 1), (11, 1), (12, 0), (20, 0), (21, 2), (24, 2), (25, 3)),
        "spo2": ((91, 3), (92, 2), (93, 2), (94, 1), (95, 1), (96, 0)),
        "systolic": ((90, 3), (91, 2), (100, 2), (101, 1), (110, 1), (111, 0), (219, 0), (220, 3)),
        "heart_rate": ((40, 3), (41, 1), (50, 1), (51, 0), (90, 0), (91, 1), (110, 1), (111, 2), (130, 2), (131, 3)),
        "temperature": ((35.0, 3), (35.1, 1), (36.0, 1), (36.1, 0), (38.0, 0), (38.1, 1), (39.0, 1), (39.1, 2)),
        "oxygen": ((0, 0), (2.0, 2), ("air", 0)),
        "consciousness": (("A", 0), ("LA9340-6^Alert", 0), ("C", 3), ("V", 3), ("U", 3)),
    }.items():
        for value, points in values:
            assert scored(**{name: value}) == points, (name, value)
    assert [chart.band(one) for one in ({"a": 4}, {"a": 3}, {"a": 2, "b": 3}, {"a": 3, "b": 3, "c": 1})] == [
        "low",
        "low-medium",
        "medium",
        "high",
    ]


def test_a_score_that_is_not_what_the_chart_gives_is_seen_without_a_run_to_compare_with() -> None:
    sets = [vital_set("s1"), vital_set("s2", 1, state="medium")]
    good, told = [score(one) for one in sets], [step("s2", "raised", "medium")]
    assert vitals(sets, good, told) == []
    lower = score(sets[1], {**chart.points_of(sets[1]["observations"]), "heart_rate": 1})
    wrong = "scores whose NEWS2 is not what the chart gives for their set: 1, e.g. ['s2']"
    assert vitals(sets, [good[0], lower], told) == [wrong]
    old = score(sets[1])
    old["news2"]["parameters"][0]["observed_at"] = sets[0]["observed_at"]  # a value of before stands in
    assert vitals(sets, [good[0], old], told) == [wrong]
    assert vitals(sets, [good[0], {**good[1], "news2": None, "news2_reason": "age unknown"}], told) == [wrong]  # context lost


def test_what_a_correction_comes_to_is_held_against_the_chart_too() -> None:
    first = vital_set("s1", state="medium")
    rate = {"code": "9279-1", "value": 28.0, "status": "corrected"}
    sets = [first, {**first, "id": "s1-v2", "observations": [rate]}]
    points = chart.points_of(first["observations"])
    right = [score(first), score(sets[1], {**points, "respiratory_rate": 3})]
    told = [step("s1", "raised", "medium")]
    assert vitals(sets, right, told) == []  # 6: medium still
    assert vitals(sets, [right[0], score(sets[1], points)], told)[0].startswith("scores whose NEWS2 is not")


def test_a_lost_alert_of_five_or_six_is_seen_and_of_what_is_not_to_alert_none_is_asked() -> None:
    sets = [vital_set("s1"), vital_set("s2", 1, state="medium"), vital_set("s3", 2, state="high")]
    scores = [score(one) for one in sets]
    told = [step("s2", "raised", "medium"), step("s3", "updated", "high", number=1)]
    assert vitals(sets, scores, told) == []
    untold = "sets that were graver than all before and that no step of an alert tells of: 1, e.g. ['{}']"
    assert vitals(sets, scores, told[1:]) == [untold.format("s2")]
    assert vitals(sets, scores, told[:1]) == [untold.format("s3")]
    assert vitals(sets, scores, [told[0], {**told[1], "severity": "medium"}]) == [untold.format("s3")]
    late = [*scores[:2], {**scores[2], "late": True}]
    assert vitals(sets, late, told[:1]) == []
    assert vitals(sets, [*scores[:2], {**scores[2], "flags": ["catching-up"]}], told[:1]) == []
    assert vitals([*sets, vital_set("s4", 3, state="medium")], [*scores, score(vital_set("s4", 3, state="medium"))], told) == []


def test_one_condition_that_is_raised_under_two_ids_is_seen() -> None:
    sets = [vital_set("s1", state="medium"), vital_set("s2", 1, state="medium")]
    scores, first = [score(one) for one in sets], step("s1", "raised", "medium")
    again = step("s2", "raised", "medium", alert="b")
    assert vitals(sets, scores, [first, again]) == ["alerts raised while another tells of the same: 1, e.g. ['b']"]
    over = step("s2", "resolved", "medium", number=1)
    assert vitals(sets, scores, [first, over, first, again]) == []  # the first comes twice, and is over


def test_scores_of_a_topic_that_was_deleted_are_held_against_what_lay_on_it() -> None:
    old, new = vital_set("old", state="medium"), vital_set("new", 1, state="medium")
    scores, told = [score(old), score(new)], [step("old", "raised", "medium")]
    written = {"clinical.vitals": [new], "clinical.scores": scores, "clinical.audit": audited([old, new], scores)}

    def found(alerts: list[dict[str, Any]]) -> str:
        made = judge("vitals", {**written, "clinical.alerts": alerts})
        made.accepted.at["clinical.vitals", 0, -1] = "old"
        made.accepted.lain = [(0, -1, json.dumps(old).encode())]
        return "\n".join(made.judge("").wrong)

    assert "no step of an alert" not in found(told)
    assert "that no step of an alert tells of: 1, e.g. ['old']" in found([])
    assert "that no step of an alert tells of: 1, e.g. ['old']" in found([step("new", "raised", "medium")])  # late


def test_what_remains_when_a_topic_was_deleted_is_compared_and_no_more() -> None:
    sets = [vital_set("s1"), vital_set("s2", 1, state="medium"), vital_set("s3", 2, state="high")]
    scores = [score(one) for one in sets]
    told = [step("s2", "raised", "medium"), step("s3", "updated", "high", number=1)]

    def run(alerts: list[dict[str, Any]], like: Verdict | None = None, **more: Any) -> Verdict:
        written = {"clinical.vitals": sets, "clinical.scores": scores, "clinical.alerts": alerts}
        return judge("vitals", {**written, "clinical.audit": audited(sets, scores)}, **more).judge("", like)

    erased = {"clinical.alerts": {("clinical.vitals", 0, 0), ("clinical.vitals", 0, 1)}}
    whole = run(told)
    lost = "steps of alerts that an undisturbed run has and this one has not: 1"
    assert not any("undisturbed" in one for one in run(told[1:], whole, erased=erased).wrong)
    assert any(one.startswith(lost) for one in run([], whole, erased=erased).wrong)
    assert any(one.startswith(lost) for one in run(told[1:], whole).wrong)


# ---- contexts that change under the load


def story(name: str) -> tuple[Written, dict[str, Any]]:
    """A run in which a story was told as it is to be: its records, scores and steps; and the courses that it is held against."""
    told, courses = contexts.told(name, 0, START, 1)
    written: Written = {"clinical.vitals": [], "clinical.patients": [], "clinical.scores": [], "clinical.alerts": []}
    for record in told.records:
        written[record.topic].append(json.loads(record.value or b""))
    for body in list(written["clinical.vitals"]):
        flag, reason = courses[body["patient_id"]].sets[body["id"]]
        made = score(body, flags=[flag] if flag else [], news2_reason=reason)
        written["clinical.scores"].append({**made, "news2": None} if reason else made)
    merges = [body for body in written["clinical.patients"] if body["merged_into"]]
    for merge in merges:
        heir, old = merge["merged_into"], merge["patient_id"]
        flagged = [one for one, (flag, _) in courses[old].sets.items() if flag == "moved"]
        own = [body for body in written["clinical.vitals"] if body["patient_id"] == old]
        before = [
            {**one, "observed_at": body["observed_at"]}
            for body in own
            if body["id"] not in flagged
            for one in body["observations"]
        ]
        moved = {**own[-1], "id": "moved-history", "patient_id": heir, "moved_from": [old], "observations": before}
        after = [
            {**body, "id": f"moved-{body['id']}", "patient_id": heir, "moved_from": [old]}
            for body in own
            if body["id"] in flagged
        ]
        written["clinical.vitals"] += [moved, *after]
        written["clinical.scores"] += [score(one) for one in (moved, *after)]
    for patient, course in courses.items():
        ids = iter(
            [body["id"] for body in written["clinical.vitals"] if body.get("moved_from") and body["patient_id"] == patient]
        )
        for number, (led, state, severity, ward, stay) in enumerate(course.steps):
            one = step(next(ids) if led == "moved" else led, state, severity, alert=f"{patient}-{number}")
            written["clinical.alerts"].append(
                {**one, "patient_id": patient, "location": {"ward": ward}, "encounter_id": stay, "score_id": None}
            )
    return written, courses


def told_of(written: Written, courses: dict[str, Any]) -> list[str]:
    sets, scores = written["clinical.vitals"], written["clinical.scores"]
    made = judge("vitals", {**written, "clinical.audit": audited(sets, scores)}, courses=courses)
    made.judge("")
    words = ("contexts have it", "context of then", "survivor", "passed on", "never accepted")
    return [one for one in made.found.wrong if any(word in one for word in words)]


@pytest.mark.parametrize("name", contexts.STORIES)
def test_a_story_that_is_told_as_it_is_to_be_is_right(name: str) -> None:
    assert told_of(*story(name)) == []


@pytest.mark.parametrize("name", contexts.STORIES)
def test_a_context_that_is_lost_shows(name: str) -> None:
    """As if the lane had never read the context that makes the story: what it led to is missing, and its sets say otherwise."""
    written, courses = story(name)
    last = [body for body in written["clinical.patients"] if name != "readmission" or body["encounter_status"] == "finished"][
        -1
    ]
    written["clinical.alerts"] = [one for one in written["clinical.alerts"] if one["source"]["event_id"] != last["id"]]
    assert any("are not as their contexts have it: 1" in one for one in told_of(written, courses))


def test_a_transfer_that_is_lost_shows_by_where_the_alerts_go_on() -> None:
    written, courses = story("transfer")
    for one in written["clinical.alerts"]:
        one["location"]["ward"] = "A"
    [found] = told_of(written, courses)
    assert "step 1 is" in found
    assert "'B'" in found


def test_a_discharge_that_is_lost_shows_by_what_later_scores_say() -> None:
    written, courses = story("discharge-cancelled")
    for one in written["clinical.scores"]:
        one["flags"] = []
    assert any(one.startswith("scores that do not go by the context of then: 1") for one in told_of(written, courses))


def test_a_merge_that_loses_or_doubles_what_it_passes_on_shows() -> None:
    left = "merged patients whose observations did not go to the survivor, each once: 1"

    def after(change: Any) -> list[str]:
        written, courses = story("merge")
        written["clinical.vitals"] = change(written["clinical.vitals"])
        return told_of(written, courses)

    assert any(one.startswith(left) for one in after(lambda sets: [one for one in sets if one["id"] != "moved-history"]))
    assert any(one.startswith(left) for one in after(lambda sets: sets[:-1]))
    assert any(one.startswith(left) for one in after(lambda sets: [*sets, {**sets[-1], "id": "moved-twice"}]))
    half = after(
        lambda sets: [{**one, "observations": one["observations"][:8]} if one["id"] == "moved-history" else one for one in sets]
    )
    assert any(one.startswith(left) for one in half)
    stray = after(lambda sets: [*sets, {**sets[0], "id": "stray", "moved_from": ["nobody"]}])
    assert "sets passed on of patients whom nobody merged: 1, e.g. ['nobody']" in stray
    assert not after(lambda sets: [*sets, sets[-1]])  # a repeat of the same id


def test_a_record_of_a_story_leaves_when_the_lane_has_committed_the_one_before() -> None:
    narrator = contexts.Narrator(SimpleNamespace(kafka=SimpleNamespace(bootstrap="127.0.0.1:9"), prefix=""))  # type: ignore[arg-type]
    told, _ = contexts.told("transfer", 1, START, 1)
    narrator._stories = [told]

    def ready(committed: int, since: float = 9.0) -> bool:
        return bool(list(narrator._ready({("clinical.patients", 0): committed}, since)))

    assert not ready(0, since=1.0)  # the second copy begins later
    assert ready(0)
    told.sent = 1
    assert not ready(9)  # the broker has not confirmed it
    narrator.accepted.at["clinical.patients", 0, 5] = told.records[0].event_id
    assert not ready(5)
    assert ready(6)
    told.sent = len(told.records)
    assert not ready(9)


# ---- passages


def notes(points: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> Verdict:
    text = "Mild cough. Fever since Monday."
    note = {"id": "n", "note_id": "n", "patient_id": "p", "text": text, "status": "final", "received_at": START.isoformat()}
    entry = {"input_id": "n", "event_id": "n", "outcome": "ok", "patient_id": "p"}
    entry["input_digest"] = sha256(json.dumps(note).encode()).hexdigest()
    audit = [{"id": "a", "action": "predict", "agent": "notes-vectors@test", "entries": [entry]}]
    payload = {"version": "n", "note_id": "n", "patient_id": "p", "chunks": 2}
    found = [
        {**payload, "chunk": number, "start": start, "end": end, "passage": text[start:end], **more}
        for one in points
        for number, start, end, more in [(one["chunk"], *one["span"], one.get("more", {}))]
    ]
    monkeypatch.setattr(verify, "_scroll", lambda *_: [(one, [1.0, 0.0]) for one in found])
    return judge("notes-vectors", {"clinical.notes": [note], "clinical.audit": audit}).judge("")


def test_a_note_that_is_written_by_half_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = {"chunk": 0, "span": (0, 11)}, {"chunk": 1, "span": (12, 31)}
    whole = notes([first, second], monkeypatch)
    assert (whole.wrong, whole.lost, whole.passages, whole.of_several) == ([], 0, 2, 1)
    torn = "notes of which passages are missing, or left over: 1, e.g. ['n']"
    assert notes([first], monkeypatch).wrong == [torn]
    assert notes([second], monkeypatch).wrong == [torn]
    left_over = notes([first, second, {"chunk": 2, "span": (12, 31)}], monkeypatch)
    assert (left_over.wrong, left_over.lost) == ([torn], 1)
    assert notes([first, {"chunk": 1, "span": (20, 31)}], monkeypatch).wrong == [torn]  # words between the two are in none
    other = {**second, "more": {"passage": "No fever."}}
    assert notes([first, other], monkeypatch).wrong == ["points whose passage is not their note's words: 1, e.g. ['n']"]


# ---- images that are taken back


def images(monkeypatch: pytest.MonkeyPatch, vectors: list[str], said: list[tuple[str, str]]) -> Verdict:
    """Judge a run over three pictures and what takes them back. `said`: (by whose word, image) of what is said to be withdrawn."""

    def image(one: str, uid: str, patient: str, minutes: int, status: str = "final") -> dict[str, Any]:
        at = (START + timedelta(minutes=minutes)).isoformat()
        return {"id": one, "instance_uid": uid, "patient_id": patient, "status": status, "received_at": at, "acquired_at": at}

    sent = [
        image("one", "1", "p", 0),
        image("one-gone", "1", "p", 5, "entered-in-error"),
        image("two", "2", "p", 0),
        image("two-other", "2", "q", 5),
        image("three", "3", "p", 0),
        image("three-v2", "3", "p", 5),
    ]
    by_id = {one["id"]: one for one in sent}

    def event(one: str, by: str = "", **more: Any) -> dict[str, Any]:
        body = {name: by_id[one][name] for name in ("patient_id", "instance_uid", "acquired_at")}
        name = f"withdrawn-{one}" if by else f"found-{one}"
        return {**body, "id": name, "image_id": one, "image_status": "final", "source": {"event_id": by or one}, **more}

    found = [event(one) for one in ("one", "two", "two-other", "three", "three-v2")]
    found += [event(one, by, image_status="entered-in-error") for by, one in said]
    entries = []
    for body in sent:
        [output, *_] = [one["id"] for one in found if one["source"]["event_id"] == body["id"]] or [body["id"]]
        whole = {"input_digest": sha256(json.dumps(body).encode()).hexdigest(), "patient_id": body["patient_id"]}
        entries.append(
            {"input_id": body["id"], "event_id": output, "outcome": "withdrawn" if body["status"] != "final" else "ok"} | whole
        )
    audit = [{"id": "a", "action": "predict", "agent": "images@test", "entries": entries}]
    points = [
        {"version": one, "patient_id": by_id[one]["patient_id"], "instance_uid": by_id[one]["instance_uid"]} for one in vectors
    ]
    monkeypatch.setattr(verify, "_scroll", lambda *_: [(one, [1.0, 0.0]) for one in points])
    return judge("images", {"clinical.images": sent, "clinical.findings": found, "clinical.audit": audit}).judge("")


def test_an_image_that_was_taken_back_and_stays_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    stand, gone = ["two-other", "three", "three-v2"], [("one-gone", "one-gone"), ("one-gone", "one"), ("two-other", "two")]
    right = images(monkeypatch, stand, gone)
    assert (right.wrong, right.lost, right.duplicated, right.taken_back) == ([], 0, 0, 3)
    stays = images(monkeypatch, [*stand, "one"], gone)
    assert "images that were taken back and have a vector: 1, e.g. ['one']" in stays.wrong
    untold = images(monkeypatch, stand, gone[:2])
    assert (untold.lost, untold.wrong[0]) == (
        1,
        "accepted, and neither output nor dead letter nor ignored: 1, e.g. [('clinical.images', 0, 2)]",
    )
    wronged = images(monkeypatch, stand, [*gone, ("three-v2", "three")])
    assert "images of which it is said that they were taken back, and nobody did: 1, e.g. ['three']" in wronged.wrong
    assert images(monkeypatch, stand[1:], gone).lost == 1  # what came of another patient stands, and has no vector


# ---- the matrix


def test_only_rows_with_a_reason_are_compared_with_no_other_run() -> None:
    alone = {one.row for one in MATRIX if not one.same}
    merges = {one.row for one in MATRIX if one.lane == "merges"}  # where each point must stand is known by itself
    models = {one.row for one in MATRIX if one.name.startswith("model-") and one.lane == "notes-entities"}  # another model
    assert alone - merges - models == {"backlog-100k/vitals", "retention/vitals", "reordered/vitals"}
