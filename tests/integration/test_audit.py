"""`vigil audit find`: a prediction by its id, its input or its patient, from the command line, on a real broker."""

import asyncio
import json
import os
import subprocess
import sys
from hashlib import sha256
from pathlib import Path

import pytest

from models.registry import Registry
from processors.events import NoteEvent
from streams.auditing import AuditLog, Question
from streams.clock import real_clock
from streams.outbox import Outbox
from tests.clinic import Clinic, note
from tests.kafka import Kafka

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
    for words, said in (((), "what should be looked up?"), (("abc",), "fewer than 8"), (("0123456789abcdef",), "a reason")):
        why = () if said == "a reason" else ("--reason", "try")
        wrong = await asyncio.to_thread(vigil, site, *words, *why)
        assert (wrong.returncode, said in wrong.stderr) == (2, True), wrong.stderr


async def test_a_rerun_of_the_same_is_told_once(kafka: Kafka, tmp_path: Path) -> None:
    site = Clinic(kafka, tmp_path)
    written: list[NoteEvent] = [note("patient-1", f"note-{n}", "Cough.") for n in range(3)]
    for _ in range(2):  # the same events once more: the same ids
        await site.write(*written)
        async with site.running("notes-entities"):
            await site.until_done("notes-entities", "clinical.notes")
    outbox = Outbox(site.settings, source="/test")
    async with AuditLog(site.settings, user="test", clock=real_clock, outbox=outbox) as log:
        found = await log.find(Question(ids=(written[0].id,)), reason="try")
        assert [(one.entry.input_id, one.repeats) for one in found if one.entry] == [(written[0].id, 1)]
        assert await log.find(Question(ids=(written[0].id,), actions=("replay",)), reason="try") == []
