"""What is applied again after a merge: vectors are the surviving record's, whoever's the input was when it was written."""

import asyncio
from collections import Counter
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

import pytest
from typer.testing import CliRunner

from connectors.objects import ObjectStore
from connectors.qdrant.embedded import EmbeddedQdrant
from connectors.qdrant.settings import NOTES, images
from connectors.qdrant.store import VectorStore
from models.errors import Poison
from processors.events import ImageEvent, NoteEvent, PatientEvent
from processors.identity import natural_id
from streams.cli.replay import app
from streams.clock import real_clock
from streams.deadletters import dead_letter
from streams.demo import radiographs
from streams.outbox import Outbox
from streams.rebuilding import Wish
from streams.redriving import DeadLetters, Which
from streams.replaying import Choice, Pace, Plan, Progress
from tests.clinic import ORIGIN, Clinic, note
from tests.integration.test_rebuild import (
    AT,
    environment,
    everything,
    image,
    later,
    merge,
    rebuilt,
    served,
    settled,
    store,
)
from tests.integration.test_replay import replays_of
from tests.kafka import Kafka

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(300)]
__all__ = ["store"]  # a fixture


async def replay(site: Clinic, choice: Choice) -> Plan:
    async with replays_of(site.settings) as replays:
        plan = await replays.plan(await replays.choose(choice, limit=100))
        site.written[choice.topic] += await replays.run(
            plan.ready, choice, "again", pace=Pace(), progress=Progress.open(None, choice)
        )
    return plan


def unlinked(patient: str) -> PatientEvent:
    return PatientEvent(
        id=natural_id("a37", patient), patient_id=patient, effective_at=AT + timedelta(minutes=5), received_at=AT, origin=ORIGIN
    )


async def test_notes_that_come_again_after_a_merge_are_the_survivors(kafka: Kafka, tmp_path: Path, store: str) -> None:
    site = Clinic(kafka, tmp_path, vectors=store)
    settled(site)
    poison = note("a", "n9", "Redriven.")
    async with site.running("notes-vectors"), site.running("merges"):
        await site.write(*(note(one, f"n{n}", f"{one}{n}") for one in "abcd" for n in range(2)))
        await site.until_done("notes-vectors", NoteEvent.topic)
        await site.write(merge("a", "b"), merge("b", "c"))
        await site.until_done("merges", PatientEvent.topic)
        assert Counter((await served(site)).values()) == {"c": 6, "d": 2}
        plan = await replay(site, Choice(topic=NoteEvent.topic, patients=("a",)))
        assert (len(plan.ready), plan.merged) == (2, 2)
        await site.until_done("notes-vectors", NoteEvent.topic)
        assert Counter((await served(site)).values()) == {"c": 6, "d": 2}
        plan = await replay(site, Choice(topic=NoteEvent.topic))
        assert (len(plan.ready), plan.merged) == (8, 4)
        # A correction, and a note that comes only now, both from a process that has not heard of the merge; and a redrive.
        await site.write(later("b", "n0", "corrected", 2, relation="edit"), note("a", "late", "late"))
        await _letter(site, poison)
        async with DeadLetters(site.settings, outbox=Outbox(site.settings, source="/test"), user="ops-7") as desk:
            _, found = await desk.prepare(Which(), unverified=True)
            assert found.merged == 1
            site.written[NoteEvent.topic] += await desk.redrive(found.ready, "mended")
        await site.until_done("notes-vectors", NoteEvent.topic)
        whose = await served(site)
        assert Counter(whose.values()) == {"c": 8, "d": 2}
        assert {"corrected", "late", "Redriven."} < whose.keys() and "b0" not in whose
        # What is undone is undone for what comes again: its notes were the patient's own.
        await site.write(unlinked("b"))
        await site.until_done("merges", PatientEvent.topic)
        await replay(site, Choice(topic=NoteEvent.topic, patients=("b",)))
        await site.until_done("notes-vectors", NoteEvent.topic)
        assert Counter((await served(site)).values()) == {"c": 2, "b": 6, "d": 2}
    looked = await rebuilt(site, Wish("notes", "proof", dry_run=True))
    assert looked.survey.equal, looked.survey.words


async def _letter(site: Clinic, event: NoteEvent) -> None:
    """Write a note that the lane takes for itself, and a letter about it, as if it had failed."""
    await site.write(event)
    record = next(one for one in await site.records(NoteEvent.topic) if event.id.encode() in (one.value or b""))
    outbox = Outbox(site.settings, source="/test")
    await outbox.start()
    await outbox.send([outbox.encode(dead_letter(record, Poison("cannot"), lane="notes-vectors", failed_at=real_clock()))])
    await outbox.stop()


async def test_a_rebuild_mends_what_an_earlier_release_undid_and_what_it_carries_over(
    kafka: Kafka, tmp_path: Path, store: str
) -> None:
    site = Clinic(kafka, tmp_path, vectors=store)
    settled(site)
    async with site.running("notes-vectors"), site.running("merges"):
        await site.write(note("a", "one", "Gout."), note("b", "two", "Asthma."))
        await site.until_done("notes-vectors", NoteEvent.topic)
        await site.write(merge("a", "b"))
        await site.until_done("merges", PatientEvent.topic)
        await site.write(note("a", "one", "Gout."))  # a copy that lies behind the merge
        await site.until_done("notes-vectors", NoteEvent.topic)
    async with VectorStore(site.settings.vectors) as open_:
        (mine,) = [
            one for one in (await everything(site.settings.vectors, NOTES)).values() if "Gout." in one.payload["passage"]
        ]
        wrong = {**mine.payload, "patient_id": "a"}
        kept = {**wrong, "note_id": "gone", "version": "gone", "passage": "Gone.", "topic": "an older one"}
        await open_.upsert(NOTES, [type(mine)(mine.id, mine.vector, wrong)])
        await open_.upsert(NOTES, [type(mine)(natural_id("kept"), mine.vector, kept)])  # the topic no longer has it
    looked = await rebuilt(site, Wish("notes", "proof", dry_run=True))
    assert (looked.survey.same, looked.survey.changed, looked.survey.kept) == (1, 1, 1)
    await rebuilt(site, Wish("notes", "the replay of May"))
    assert await served(site) == {"Gout.": "b", "Asthma.": "b", "Gone.": "b"}


async def test_images_that_come_again_after_a_merge_are_the_survivors(kafka: Kafka, tmp_path: Path) -> None:
    with EmbeddedQdrant(tmp_path / "vectors", sync=False) as embedded:
        site = Clinic(kafka, tmp_path, vectors=embedded.url)
        lanes = site.settings.lanes
        merges = lanes.merges.model_copy(update={"follows": ("images",)})
        site.settings = site.settings.model_copy(update={"lanes": lanes.model_copy(update={"merges": merges})})
        objects = ObjectStore(site.settings.objects)
        films = [
            image(n, await objects.put(radiographs.png(radiographs.draw(n, "clear", 160)), "image/png", ".png"))
            for n in range(3)
        ]
        async with site.running("images"), site.running("merges"):
            await site.write(*films[:2])
            await site.until_done("images", ImageEvent.topic)
            await site.write(merge("a", "b"))
            await site.until_done("merges", PatientEvent.topic)
            assert (await replay(site, Choice(topic=ImageEvent.topic))).merged == 2
            await site.write(films[2])
            await site.until_done("images", ImageEvent.topic)
        found = await everything(site.settings.vectors, images(0))
        assert [point.payload["patient_id"] for point in found.values()] == ["b"] * 3


async def chosen(site: Clinic, *patients: str) -> Sequence[str]:
    async with replays_of(site.settings) as replays:
        letters = await replays.choose(Choice(topic=NoteEvent.topic, patients=patients), limit=100)
    return sorted((one.event.original_key or "") for one in letters)


async def test_a_patients_records_are_chosen_with_those_that_were_merged_into_it(
    kafka: Kafka, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = Clinic(kafka, tmp_path)
    await site.write(*(note(one, "n", one) for one in "abcde"))
    assert len(await chosen(site, "c")) == 1
    await site.write(merge("a", "b"), merge("b", "c"), merge("d", "c"), unlinked("d"))
    assert len(await chosen(site, "c")) == 3
    assert len(await chosen(site, "b")) == 2
    assert len(await chosen(site, "a", "e")) == 2
    for name, value in environment(site).items():
        monkeypatch.setenv(name, value)
    said = await asyncio.to_thread(CliRunner().invoke, app, ["run", "--topic", NoteEvent.topic, "--patient", "c", "--dry-run"])
    assert "3 to replay" in said.output and "of merged records: 2; their vectors are the surviving records'" in said.output
