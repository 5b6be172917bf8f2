"""Rebuild: the collection made anew from the topics equals the one that the lanes left, point by point."""

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest

from connectors.objects import ObjectStore
from connectors.qdrant.embedded import EmbeddedQdrant
from connectors.qdrant.settings import NOTES, CollectionSpec, QdrantSettings, images
from connectors.qdrant.store import Point, VectorStore
from models.errors import Permanent
from models.registry import Registry
from processors.events import ImageEvent, NoteEvent, ObjectReference, PatientEvent
from processors.identity import natural_id
from streams.demo import radiographs
from streams.outbox import Outbox
from streams.rebuilding import BESIDE, Rebuild, Rebuilt, Wish
from streams.staging import Building
from tests.clinic import ORIGIN, Clinic, note
from tests.kafka import Kafka
from tests.qdrant import QdrantServer

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(300)]

AT = note("a", "x", "").received_at
LONG = "".join(
    f"Day {day}: metformin 500 mg was given in the morning, and the patient walked on the ward. " for day in range(80)
)
PATIENTS = ("a", "b", "c", "d")


@pytest.fixture(params=["embedded", "server"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The address of a vector store; on the server every test finds the collections gone."""
    if request.param == "embedded":
        with EmbeddedQdrant(tmp_path / "vectors", sync=False) as embedded:
            yield embedded.url
        return
    server: QdrantServer = request.getfixturevalue("qdrant_server")

    async def clean() -> None:
        async with VectorStore(QdrantSettings(url=server.url)) as open_:
            for name in ("notes", "images"):
                for end in ("", BESIDE):
                    await open_.drop(CollectionSpec(name + end, "", 0))

    asyncio.run(clean())
    yield server.url
    asyncio.run(clean())


def merge(old: str, new: str) -> PatientEvent:
    return PatientEvent(
        id=natural_id("merge", old, new), patient_id=old, merged_into=new, effective_at=AT, received_at=AT, origin=ORIGIN
    )


def later(patient: str, name: str, text: str, version: int, **fields: object) -> NoteEvent:
    return note(patient, name, text, version=version, received_at=AT + timedelta(hours=version), **fields)


async def everything(settings: QdrantSettings, collection: CollectionSpec) -> dict[str, Point]:
    async with VectorStore(settings) as store:
        return {point.id: point async for point in store.scan(collection)}


def assert_equal(left: dict[str, Point], right: dict[str, Point]) -> None:
    assert left.keys() == right.keys()
    for one, point in left.items():
        assert point.payload == right[one].payload
        np.testing.assert_allclose(point.vector, right[one].vector, atol=1e-6)


async def rebuilt(site: Clinic, wish: Wish, file: Path | None = None) -> Rebuilt:
    outbox = Outbox(site.settings, source="/test")
    await outbox.start()
    try:
        return await Rebuild(site.settings, outbox, wish, user="ops-7").run(Building.open(file))
    finally:
        await outbox.stop()


async def ward(site: Clinic) -> None:
    """Notes of every fate: written, corrected shorter, cancelled, replaced by another, added to; and a chain of merges."""
    async with site.running("notes-vectors"):
        await site.write(
            note("a", "plain", "Productive cough and fever for four days."),
            note("a", "corrected", LONG),
            note("b", "cancelled", "Wrong patient."),
            note("b", "old", "Left hip fracture after a fall."),
            note("c", "kept", "Chest pain at night."),
            note("d", "blank", " \n"),
        )
        await site.until_done("notes-vectors", NoteEvent.topic)
        await site.write(
            later("a", "corrected", "Metformin was stopped.", 2, status="corrected", relation="edit"),
            later("b", "cancelled", "Wrong patient.", 2, status="cancelled", relation="cancel"),
            later("b", "new", "Hip fracture, right.", 2, relation="replacement", replaces=note("b", "old", "").note_id),
            later("c", "added", "Troponin is normal.", 2, relation="addendum", replaces=note("c", "kept", "").note_id),
        )
        await site.until_done("notes-vectors", NoteEvent.topic)
        async with site.running("merges"):
            await site.write(merge("a", "b"), merge("b", "c"))
            await site.until_done("merges", PatientEvent.topic)
        await site.write(later("c", "corrected", "Metformin goes on.", 3, note_id=note("a", "corrected", "").note_id))
        await site.until_done("notes-vectors", NoteEvent.topic)


def settled(site: Clinic) -> None:
    """The merges do not wait for the images' lane, which does not run here."""
    lanes = site.settings.lanes
    merges = lanes.merges.model_copy(update={"follows": ("notes-vectors",)})
    site.settings = site.settings.model_copy(update={"lanes": lanes.model_copy(update={"merges": merges})})


async def test_a_rebuilt_collection_equals_the_old_one_point_by_point(kafka: Kafka, tmp_path: Path, store: str) -> None:
    site = Clinic(kafka, tmp_path, vectors=store)
    settled(site)
    await ward(site)
    before = await everything(site.settings.vectors, NOTES)
    assert {point.payload["patient_id"] for point in before.values()} == {"c"}
    looked = await rebuilt(site, Wish("notes", "proof", dry_run=True))
    assert looked.survey.equal
    assert (looked.records, looked.merges, looked.survey.same, looked.swapped) == (11, 2, len(before), False)
    async with VectorStore(site.settings.vectors) as open_:
        assert not await open_.exists(CollectionSpec("notes" + BESIDE, "", 0))
        await open_.drop(NOTES)
    done = await rebuilt(site, Wish("notes", "the disk is gone"))
    assert (done.survey.there, done.swapped, done.points) == (False, True, len(before))
    assert_equal(await everything(site.settings.vectors, NOTES), before)
    audit = [one for one in await site.read("clinical.audit") if one["action"] == "replay"]
    assert [(one["agent"], one["subject"]) for one in audit] == [("ops-7", "vectors/notes")] * 3
    assert [one["reason"].split(":")[0] for one in audit] == [
        "rebuild begun (dry run); proof", "rebuild begun; the disk is gone", "rebuild swapped",
    ]  # fmt: skip


@pytest.mark.parametrize("drop", [False, True], ids=["in place", "dropped"])
async def test_what_differs_is_mended_and_what_the_topics_no_longer_tell_is_kept(
    kafka: Kafka, tmp_path: Path, store: str, drop: bool
) -> None:
    site = Clinic(kafka, tmp_path, vectors=store)
    settled(site)
    await ward(site)
    before = await everything(site.settings.vectors, NOTES)
    ids = sorted(before)
    source = dict(before[ids[0]].payload)
    row = np.eye(1, NOTES.dimensions, dtype=np.float32)[0]
    stale = Point(natural_id("stale"), row, {**source, "note_id": "nobody's", "version": "-"})
    unknown = Point(natural_id("unknown"), row, {"patient_id": "z", "note_id": "from elsewhere"})
    async with VectorStore(site.settings.vectors) as open_:
        await open_.delete_points(NOTES, [ids[0]])
        await open_.upsert(NOTES, [Point(ids[1], row, before[ids[1]].payload), stale, unknown])
    done = await rebuilt(site, Wish("notes", "it looks wrong", drop=drop))
    found = done.survey
    assert (found.added, found.changed, found.stale, found.kept) == (1, 1, [stale.id], 1)
    assert_equal(await everything(site.settings.vectors, NOTES), {**before, unknown.id: unknown})


async def test_a_rebuild_goes_on_where_it_was(
    kafka: Kafka, tmp_path: Path, store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = Clinic(kafka, tmp_path, vectors=store)
    settled(site)
    await ward(site)
    before = await everything(site.settings.vectors, NOTES)
    file = tmp_path / "progress"

    class Crash(Exception):
        pass

    async def crash(*_: object, **__: object) -> None:
        raise Crash

    wish = Wish("notes", "why", drop=True)
    for step in ("rekey_patient", "delete_points"):  # in the middle of the build, and of the swap
        with monkeypatch.context() as patched:
            patched.setattr(VectorStore, step, crash)
            with pytest.raises(Crash):
                await rebuilt(site, wish, file)
        with pytest.raises(Permanent, match="an unfinished rebuild lies in notes-rebuild"):
            await rebuilt(site, wish)
    assert file.stat().st_mode & 0o077 == 0
    done = await rebuilt(site, wish, file)
    assert (done.swapped, file.exists()) == (True, False)
    assert_equal(await everything(site.settings.vectors, NOTES), before)
    with pytest.raises(Permanent, match="no collection"):
        Wish("patients", "why")
    file.write_text("{}")
    with pytest.raises(Permanent, match="no progress file"):
        Building.open(file)


async def test_a_live_lane_may_go_on(kafka: Kafka, tmp_path: Path, store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """While the points move in, a note is corrected, another cancelled, a third written and a patient merged."""
    site = Clinic(kafka, tmp_path, vectors=store)
    settled(site)
    await ward(site)
    upsert, fed = VectorStore.upsert, False
    async with site.running("notes-vectors"), site.running("merges"):

        async def feed(self: VectorStore, collection: CollectionSpec, points: list[Point]) -> None:
            nonlocal fed
            if not fed and collection.name == "notes":
                fed = True
                await site.write(
                    later("c", "kept", "No chest pain.", 4, relation="edit"),
                    later("b", "new", "", 4, status="cancelled", relation="cancel"),
                    later("d", "fresh", "Asthma.", 4),
                )
                await site.until_done("notes-vectors", NoteEvent.topic)
                await site.write(merge("c", "d"))
                await site.until_done("merges", PatientEvent.topic)
            await upsert(self, collection, points)

        monkeypatch.setattr(VectorStore, "upsert", feed)
        await rebuilt(site, Wish("notes", "why"))
        assert fed
    monkeypatch.undo()
    assert (await rebuilt(site, Wish("notes", "proof", dry_run=True))).survey.equal
    texts = {
        point.payload["passage"]: point.payload["patient_id"]
        for point in (await everything(site.settings.vectors, NOTES)).values()
    }
    assert texts["No chest pain."] == texts["Asthma."] == "d"
    assert not {"Chest pain at night.", "Hip fracture, right."} & texts.keys()


async def test_images_are_rebuilt_and_those_whose_pixels_are_gone_are_kept(kafka: Kafka, tmp_path: Path, store: str) -> None:
    site = Clinic(kafka, tmp_path, vectors=store)
    collection = images(Registry.load().open("image-text").dimensions)
    objects = ObjectStore(site.settings.objects)
    references = [await objects.put(radiographs.png(radiographs.draw(n, "clear", 160)), "image/png", ".png") for n in range(3)]
    films = [image(n, reference) for n, reference in enumerate(references)]
    async with site.running("images"):
        await site.write(*films)
        await site.until_done("images", ImageEvent.topic)
    before = await everything(site.settings.vectors, collection)
    assert len(before) == 3
    (tmp_path / "objects" / references[0].uri).unlink()
    async with VectorStore(site.settings.vectors) as open_:
        mine = [point.id for point in before.values() if point.payload["version"] == films[1].id]
        await open_.delete_points(collection, mine)
    done = await rebuilt(site, Wish("images", "one is missing"))
    assert (done.failed, done.survey.kept, done.survey.same, done.survey.added) == (1, 1, 1, 1)
    assert_equal(await everything(site.settings.vectors, collection), before)


def image(number: int, reference: ObjectReference) -> ImageEvent:
    return ImageEvent(
        id=natural_id("image", number),
        patient_id="a",
        study_uid="2.25.1",
        series_uid="2.25.2",
        instance_uid=f"2.25.3.{number}",
        modality="DX",
        rows=160,
        columns=160,
        pixels=reference,
        acquired_at=AT,
        received_at=AT,
        origin=ORIGIN,
    )


async def test_the_command_line(kafka: Kafka, tmp_path: Path, store: str) -> None:
    site = Clinic(kafka, tmp_path, vectors=store)
    async with site.running("notes-vectors"):
        await site.write(note("a", "one", "Mrs Jones coughs."), note("a", "two", "Asthma."))
        await site.until_done("notes-vectors", NoteEvent.topic)
    env = {
        **{name: value for name, value in os.environ.items() if not name.startswith("VIGIL_")},
        "PYTHONPATH": str(Path(__file__).parents[2]),
        "VIGIL_KAFKA__BOOTSTRAP": kafka.bootstrap,
        "VIGIL_KAFKA__TOPIC_PREFIX": site.prefix,
        "VIGIL_KAFKA__EMBEDDED": str(kafka.kind == "embedded").lower(),
        "VIGIL_VECTORS__URL": store,
    }

    def vigil(code: int, *words: str) -> str:
        command = [sys.executable, "-m", "streams.cli", "replay", "rebuild", *words]
        done = subprocess.run(command, env=env, cwd=tmp_path, capture_output=True, text=True, timeout=120, input="n\n")
        assert (done.returncode, "Traceback" in done.stderr) == (code, False), done.stdout + done.stderr
        assert "Jones" not in done.stdout + done.stderr
        return done.stdout if code == 0 else done.stderr

    def work() -> None:
        assert "a reason is needed" in vigil(2, "notes")
        assert "no collection 'people'" in vigil(2, "people", "--reason", "why")
        assert "the two are equal, point by point" in vigil(0, "notes", "--reason", "why", "--dry-run")
        assert "not swapped" in vigil(0, "notes", "--reason", "why")
        facts = json.loads(vigil(0, "notes", "--reason", "why", "--drop", "--yes", "--json"))
        assert (facts["same"], facts["equal"], facts["swapped"], facts["points"]) == (2, True, True, 2)

    await asyncio.to_thread(work)
