"""A shadow run: the same model finds no difference; what another one would say is counted by kind and by patient, and named."""

import asyncio
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from typer import Typer
from typer.testing import CliRunner

from models.errors import Permanent
from models.registering import record
from processors.events import EntitiesEvent, Entity
from streams.cli.replay import shadow as command
from streams.outbox import Outbox
from streams.replaying import Choice, Replays
from streams.shadowing import Diff, Shadow, compare
from tests import tiny_models
from tests.clinic import Clinic, note
from tests.kafka import Kafka

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(240)]


def _entity(start: int, label: str, score: float = 0.9) -> Entity:
    return Entity(label=label, text="x", start=start, end=start + 1, score=score)


def test_entities_are_compared_by_span() -> None:
    old = [_entity(0, "condition"), _entity(2, "condition"), _entity(4, "symptom"), _entity(8, "symptom")]
    new = [_entity(0, "condition", 0.905), _entity(2, "symptom"), _entity(6, "symptom"), _entity(8, "symptom", 0.8)]
    found = compare(old, new)
    assert [one.kind for one in found] == ["same", "changed", "removed", "added", "rescored"]
    was, now = ({"label": label, "assertion": "present", "score": 0.9} for label in ("condition", "symptom"))
    assert found[1].facts() == {"start": 2, "end": 3, "was": was, "now": now}  # and not the words of the note
    assert found[3].facts() == {"start": 6, "end": 7, "was": None, "now": now}


async def shadow(site: Clinic, choice: Choice, told: list[int]) -> Diff:
    outbox = Outbox(site.settings, source="/test")
    await outbox.start()
    try:
        chosen = await Replays(site.settings).choose(choice, limit=100)
        return await Shadow(site.settings, outbox, user="ml-3").run(chosen, choice, None, "a new model", tell=told.append)
    finally:
        await outbox.stop()


async def test_the_shadow_differs_where_the_outputs_do(kafka: Kafka, tmp_path: Path) -> None:
    site = Clinic(kafka, tmp_path)
    await site.write(
        note("p", "a", "She has pneumonia and type 2 diabetes mellitus."), note("q", "b", "Chest pain and asthma.")
    )
    async with site.running("notes-entities"):
        await site.until_done("notes-entities", "clinical.notes")
    told: list[int] = []
    alike = await shadow(site, Choice(topic="clinical.notes"), told)
    assert (set(alike.total), told) == ({"same"}, [2])
    (audit,) = [one for one in await site.read("clinical.audit") if one["action"] == "replay"]
    assert (audit["agent"], audit["subject"]) == ("ml-3", "shadow/ner")
    assert audit["reason"].startswith(f"a new model; 2 notes of 2 patients through {alike.model}; ")
    assert {(one["patient_id"], one["outcome"]) for one in audit["entries"]} == {("p", "shadowed"), ("q", "shadowed")}
    events = {one["patient_id"]: one for one in await site.read("clinical.entities")}
    assert alike.total["same"] == sum(len(one["entities"]) for one in events.values()) > 0
    # As another model would have left it: p's first entity with another label. It lies last on the topic, so it counts.
    found = EntitiesEvent.model_validate(events["p"])
    other = found.entities[0].model_copy(update={"label": "other"})
    outbox = Outbox(site.settings, source="/test")
    await outbox.start()
    await outbox.send([outbox.encode(found.model_copy(update={"entities": (other, *found.entities[1:])}))])
    await outbox.stop()
    differs = await shadow(site, Choice(topic="clinical.notes"), told)
    assert differs.patients["p"]["changed"] == 1
    assert differs.patients["q"] == alike.patients["q"]
    (one,) = differs.differ
    (changed,) = one.facts()["changed"]
    assert (one.note_id, one.patient_id, changed["was"]["label"]) == (found.note_id, "p", "other")
    assert (changed["now"]["label"], changed["start"]) == (found.entities[0].label, found.entities[0].start)
    assert [patient for patient, _ in differs.worst()] == ["p", "q"]
    only = await shadow(site, Choice(topic="clinical.notes", patients=("q",)), told)
    assert (only.total, list(only.patients)) == (alike.patients["q"], ["q"])


async def test_a_candidate_that_fails_on_notes_is_told_first_and_in_the_exit_code(kafka: Kafka, tmp_path: Path) -> None:
    site = Clinic(kafka, tmp_path)
    texts = ["She has pneumonia.", "Aspirin was given.", "Aspirin, mild pain."]
    await site.write(*(note(f"p{number}", "a", text) for number, text in enumerate(texts)))
    async with site.running("notes-entities"):
        await site.until_done("notes-entities", "clinical.notes")
    await site.write(note("p3", "late", "Cough."))  # no lane runs that would give it an output
    table = tiny_models.scores()
    table[tiny_models.IDS["aspirin"]] = np.nan
    registry = tmp_path / "candidate.toml"
    record(tiny_models.entry_of(tiny_models.classifier_folder(tmp_path / "candidate", table)), registry)
    env = {
        "VIGIL_KAFKA__BOOTSTRAP": kafka.bootstrap,
        "VIGIL_KAFKA__TOPIC_PREFIX": site.prefix,
        "VIGIL_KAFKA__EMBEDDED": str(kafka.kind == "embedded").lower(),
    }
    app, report = Typer(), tmp_path / "report"
    app.command()(command)

    def vigil(*words: str) -> str:
        done = CliRunner().invoke(app, ["--registry", str(registry), "--reason", "why", *words], env=env)
        if done.exception is not None and not isinstance(done.exception, SystemExit):
            raise done.exception
        assert done.exit_code == 1, done.output
        return done.stdout

    def work() -> None:
        said = vigil("--report", str(report)).splitlines()
        assert said[0] == "tiny@1 FAILED on 2 of 4 notes:"
        assert said[1] == "  2 x Poison (model): model tiny n: n of n output values are not finite"
        total, *rest = map(json.loads, report.read_text().splitlines())
        assert (total["notes"], total["failed"], total["not-compared"]) == (4, 2, 1)
        assert sum(total["failures"].values()) == 2
        patients, notes = rest[:4], rest[4:]
        assert [one["patient_id"] for one in patients][:2] == ["p1", "p2"]
        assert Counter("failed" in one for one in notes) == {True: 2, False: 1}
        assert {one["patient_id"] for one in notes} == {"p0", "p1", "p2"}
        assert report.stat().st_mode & 0o077 == 0
        assert vigil("--json") == report.read_text()
        assert not [word for word in ("neumonia", "spirin", "pain") if word in report.read_text()]
        audits = len(asyncio.run(site.read("clinical.audit")))
        for file in (tmp_path / "none" / "report", tmp_path):
            with pytest.raises(Permanent, match="cannot be written"):
                vigil("--report", str(file))
        assert len(asyncio.run(site.read("clinical.audit"))) == audits  # refused before anything was looked at

    await asyncio.to_thread(work)
