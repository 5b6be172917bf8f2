"""`vigil audit find`: a prediction by its id, its input or its patient, from the command line, on a real broker."""

import asyncio
import json
import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from connectors.deadletters import dead_letter as edge_letter
from models.errors import Poison
from models.registry import Registry
from processors.events import AuditEntry, AuditEvent, FeedbackEvent, NoteEvent
from streams.auditing import Answer, AuditLog, Question
from streams.clock import real_clock
from streams.deadletters import dead_letter
from streams.outbox import Outbox
from streams.settings import VitalsStateSettings
from tests.bedside import ILL, observation
from tests.clinic import ORIGIN, Clinic, note
from tests.kafka import Kafka
from tests.vitals import patient, vitals

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(240)]


def vigil(site: Clinic, *words: str) -> "subprocess.CompletedProcess[str]":
    env = {
        **{name: value for name, value in os.environ.items() if not name.startswith("VIGIL_")},
        "PYTHONPATH": str(Path(__file__).parents[2]),
        "VIGIL_KAFKA__BOOTSTRAP": site.kafka.bootstrap,
        "VIGIL_KAFKA__TOPIC_PREFIX": site.prefix,
        "VIGIL_KAFKA__EMBEDDED": str(site.kafka.kind == "embedded").lower(),
    }
    command = [sys.executable, "-m", "streams.cli", "audit", "find", *words]
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=120)


async def test_a_prediction_is_found_by_its_id_and_looking_is_audited(kafka: Kafka, tmp_path: Path) -> None:
    site = Clinic(kafka, tmp_path)
    notes = [note(f"patient-{n}", f"note-{n}", "No fever. Pneumonia treated with amoxicillin.") for n in range(6)]
    await site.write(*notes)
    async with site.running("notes-entities"):
        await site.until_done("notes-entities", "clinical.notes")
    wanted = next(one for one in await site.read("clinical.entities") if one["patient_id"] == "patient-3")

    told = await asyncio.to_thread(vigil, site, wanted["id"], "--reason", "complaint 7", "--json")
    assert told.returncode == 0, told.stderr
    (found,) = [json.loads(line) for line in told.stdout.splitlines()]
    (record,) = [one for one in await site.records("clinical.notes") if json.loads(one.value)["patient_id"] == "patient-3"]
    assert (found["action"], found["event_id"], found["outcome"]) == ("predict", wanted["id"], "ok")
    assert found["input_id"] == wanted["source"]["event_id"]
    assert found["input_digest"] == sha256(record.value).hexdigest()
    assert found["model_digest"] == Registry.load().entry("ner").digest
    assert found["agent"].startswith("notes-entities@")

    human = await asyncio.to_thread(vigil, site, found["input_id"], "--reason", "complaint 7")
    assert wanted["id"] in human.stdout and "about clinical.notes/" in human.stdout

    both = await asyncio.to_thread(vigil, site, "--patient", "patient-3", "--reason", "who looked?", "--json")
    seen = [json.loads(line) for line in both.stdout.splitlines()]
    assert [one["action"] for one in seen] == ["predict", "access", "access"]
    assert {one["reason"] for one in seen[1:]} == {"complaint 7"}
    assert all("amoxicillin" not in text.stdout + text.stderr for text in (told, human, both))


async def test_what_is_not_there_and_what_is_no_question(kafka: Kafka, tmp_path: Path) -> None:
    site = Clinic(kafka, tmp_path)
    nothing = await asyncio.to_thread(vigil, site, "0123456789abcdef", "--reason", "try")
    assert (nothing.returncode, "nothing of that" in nothing.stdout) == (1, True)
    for words, said in (
        ((), "what should be looked up?"),
        (("--since", "2026-01-01"), "what should be looked up?"),
        (("--action", "replays"), "no action 'replays'"),
        (("abc",), "fewer than 8"),
        (("0123456789abcdef",), "a reason"),
    ):
        why = () if said == "a reason" else ("--reason", "try")
        wrong = await asyncio.to_thread(vigil, site, *words, *why)
        assert (wrong.returncode, said in wrong.stderr) == (2, True), wrong.stderr


async def test_who_did_something_is_found_by_the_action_alone_within_a_day(kafka: Kafka, tmp_path: Path) -> None:
    site, now = Clinic(kafka, tmp_path), real_clock()
    entries = tuple(AuditEntry(event_id=f"request-{n}", input_id=f"note-{n}", outcome="replayed") for n in range(3))

    def replay(name: str, at: datetime) -> AuditEvent:
        told = {"action": "replay", "agent": name, "subject": "clinical.notes", "reason": f"why of {name}"}
        return AuditEvent(id=f"replay-of-{name}", entries=entries, recorded_at=at, **told)

    replays = [replay(f"ops-{n}", now - timedelta(hours=n)) for n in (30, 9, 2, 1)]
    other = AuditEvent(id="promotion", action="model-change", agent="ops-1", subject="model/ner", recorded_at=now)
    await site.write(*replays, replays[-1], other)

    def found(*words: str) -> tuple[list[tuple[str, int]], str]:
        told = vigil(site, "--action", "replay", "--reason", "who was it", "--json", *words)
        assert told.returncode == 0, told.stderr
        return [(one["agent"], one["entries"]) for one in map(json.loads, told.stdout.splitlines())], told.stderr

    told, beside = await asyncio.to_thread(found)
    assert told == [("ops-9", 3), ("ops-2", 3), ("ops-1", 3)]  # one for each replay, whatever it held
    assert "since" in beside and "left out" not in beside
    long_ago = (now - timedelta(days=3)).strftime("%Y-%m-%dT%H:%M:%S")
    assert len((await asyncio.to_thread(found, "--since", long_ago))[0]) == 4
    until = (now - timedelta(hours=20)).strftime("%Y-%m-%dT%H:%M:%S")
    assert (await asyncio.to_thread(found, "--until", until))[0] == [("ops-30", 3)]  # within the day before
    told, beside = await asyncio.to_thread(found, "--limit", "2")
    assert [agent for agent, _ in told] == ["ops-2", "ops-1"]  # the newest
    assert "left out: 1 older ones (--limit 2)" in beside
    (first, *_) = [one for one in await site.read("clinical.audit") if one["action"] == "access"]
    assert first["reason"].startswith("who was it (replay since ")


async def test_a_rerun_of_the_same_is_told_once(kafka: Kafka, tmp_path: Path) -> None:
    site = Clinic(kafka, tmp_path)
    written: list[NoteEvent] = [note("patient-1", f"note-{n}", "Cough.") for n in range(3)]
    for _ in range(2):  # the same events once more: the same ids
        await site.write(*written)
        async with site.running("notes-entities"):
            await site.until_done("notes-entities", "clinical.notes")
    outbox = Outbox(site.settings, source="/test")
    async with AuditLog(site.settings, user="test", clock=real_clock, outbox=outbox) as log:
        answer = await log.find(Question(ids=(written[0].id,)), reason="try")
        assert [(one.entry.input_id, one.repeats) for one in answer.found if one.entry] == [(written[0].id, 1)]
        assert await log.find(Question(ids=(written[0].id,), actions=("replay",)), reason="try") == Answer([], [])


async def test_an_alert_is_found_by_its_id_with_the_score_that_it_rests_on(kafka: Kafka, tmp_path: Path) -> None:
    site, now = Clinic(kafka, tmp_path, state=VitalsStateSettings(tick_seconds=0.2)), datetime.now(UTC)
    await site.write(patient(1, now - timedelta(hours=1)))
    async with site.running("vitals"):
        await site.until_done("vitals", "clinical.patients")
        observations = tuple(observation(name, value) for name, value in ILL.items())
        ill = next(iter(vitals(2, 1, now)))
        await site.write(ill.model_copy(update={"patient_id": "patient-0001", "observations": observations}))
        await site.until_done("vitals", "clinical.vitals")
        (raised,) = [one for one in await site.read("clinical.alerts") if one.get("state") == "raised"]
        answer = FeedbackEvent(
            id="answer-to-the-alert", patient_id="patient-0001", kind="alert-acknowledged", target_id=raised["alert_id"],
            by="nurse-7", given_at=now, received_at=now, origin=ORIGIN,
        )  # fmt: skip
        await site.write(answer)
        await site.until_done("vitals", "clinical.feedback")
    (score,) = await site.read("clinical.scores")

    by_step = await asyncio.to_thread(vigil, site, raised["id"], "--reason", "complaint 8", "--json")
    assert by_step.returncode == 0, by_step.stderr
    alert, entry = [json.loads(line) for line in by_step.stdout.splitlines()]
    assert (alert["found"], alert["alert_id"], alert["state"]) == ("alert", raised["alert_id"], "raised")
    assert alert["rests_on"] == score["id"] == entry["event_id"]
    assert (entry["found"], entry["action"], entry["input_id"]) == ("audit", "predict", ill.id)
    assert entry["model_digest"] == Registry.load().entry("deterioration").digest

    whole = await asyncio.to_thread(vigil, site, raised["alert_id"], "--reason", "complaint 8", "--json")
    found = [json.loads(line) for line in whole.stdout.splitlines()]
    assert [one.get("state") or one["action"] for one in found] == ["raised", "acknowledged", "predict"]

    human = await asyncio.to_thread(vigil, site, raised["alert_id"], "--reason", "complaint 8")
    assert human.returncode == 0
    assert f"alert raised  news2, high  rests on {score['id']}" in human.stdout
    assert ill.id in human.stdout and "about clinical.vitals/" in human.stdout
    (looked,) = {
        entry["patient_id"]
        for record in await site.read("clinical.audit")
        for entry in record["entries"]
        if record["action"] == "access"
    }
    assert looked == "patient-0001"


async def test_a_dead_letter_is_found_by_its_id_with_its_input(kafka: Kafka, tmp_path: Path) -> None:
    site, now = Clinic(kafka, tmp_path), datetime(2026, 11, 30, tzinfo=UTC)
    good = note("patient-1", "note-1", "No fever.")
    await site.write(good)
    async with site.running("notes-entities"):
        await site.until_done("notes-entities", "clinical.notes")
    outbox = Outbox(site.settings, source="/test")
    await outbox.start()
    (record,) = await site.records("clinical.notes")
    places: list[Any] = [record, record]
    failed = [
        dead_letter(one, Poison("too odd", stage="store"), lane="notes-vectors", failed_at=now + timedelta(minutes=late))
        for late, one in enumerate(places)
    ]  # the same letter: it failed again
    unread = edge_letter(b'{"id": "a-sender-s-own-id"}', connector="fhir", stage="map", message="no patient", failed_at=now)
    await outbox.send([outbox.encode(one) for one in (*failed, unread)])
    await outbox.stop()

    told = await asyncio.to_thread(vigil, site, failed[0].id, "--reason", "complaint 9", "--json")
    assert told.returncode == 0, told.stderr
    letter, entry = [json.loads(line) for line in told.stdout.splitlines()]
    assert (letter["found"], letter["lane"], letter["stage"]) == ("dead-letter", "notes-vectors", "store")
    assert letter["failed_at"] == "2026-11-30T00:01:00+00:00"
    assert letter["rests_on"] == good.id == entry["input_id"]
    assert letter["original"] == f"{site.prefix}clinical.notes/{record.partition}/{record.offset}"
    assert (entry["action"], entry["agent"].split("@")[0]) == ("predict", "notes-entities")

    human = await asyncio.to_thread(vigil, site, unread.id, "--reason", "complaint 9")
    assert human.returncode == 0
    assert "dead letter of connector.fhir, map  of what has no id" in human.stdout
    assert "nothing of what it rests on is on clinical.audit" in human.stdout
    assert "a-sender-s-own-id" not in human.stdout
