"""Rebuild: the collection made anew from the topics equals the one that the lanes left, point by point."""

import asyncio
import json
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer import Typer
from typer.testing import CliRunner

from connectors.objects import ObjectStore
from connectors.qdrant.embedded import EmbeddedQdrant
from connectors.qdrant.search import search_notes
from connectors.qdrant.settings import NOTES, VERSIONS, CollectionSpec, QdrantSettings, images
from connectors.qdrant.store import Point, VectorStore
from models.errors import Fatal, Permanent
from models.registering import promote, record
from models.registry import Registry
from processors.events import ImageEvent, NoteEvent, ObjectReference, PatientEvent
from processors.identity import natural_id
from streams import rebuilding
from streams.checks import run_checks
from streams.cli.rebuild import rebuild
from streams.demo import radiographs
from streams.outbox import Outbox
from streams.reapplying import Reapplying, _Worker
from streams.rebuilding import Agree, Rebuild, Rebuilt, Wish
from streams.settings import ModelSettings
from streams.staging import Building
from tests.clinic import ORIGIN, PARTITIONS, Clinic, note
from tests.kafka import Kafka, delete_records
from tests.qdrant import QdrantServer, binary

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(300)]

AT = note("a", "x", "").received_at
LONG = "".join(
    f"Day {day}: metformin 500 mg was given in the morning, and the patient walked on the ward. " for day in range(80)
)
PATIENTS = ("a", "b", "c", "d")


@pytest.fixture(params=["embedded", "server"])
def each_store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The address of a vector store; on the server every test finds the collections gone."""
    yield from _store(request, tmp_path, real=request.param == "server")


@pytest.fixture
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The real server where there is one: what a test of the rebuild's own steps needs is the same in both."""
    yield from _store(request, tmp_path, real=binary() is not None)


def _store(request: pytest.FixtureRequest, folder: Path, *, real: bool) -> Iterator[str]:
    if not real:
        with EmbeddedQdrant(folder / "vectors", sync=False) as embedded:
            yield embedded.url
        return
    server: QdrantServer = request.getfixturevalue("qdrant_server")

    async def clean() -> None:
        async with VectorStore(QdrantSettings(url=server.url)) as open_:
            for name in await open_.names():
                if name.startswith(("notes", "images")):
                    await open_.drop(plain(name))

    asyncio.run(clean())
    yield server.url
    asyncio.run(clean())


def plain(name: str) -> CollectionSpec:
    return CollectionSpec(name, "", 0, served=False)


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


async def rebuilt(site: Clinic, wish: Wish, file: Path | None = None, *, agree: Agree = lambda found: True) -> Rebuilt:
    outbox = Outbox(site.settings, source="/test")
    await outbox.start()
    try:
        return await Rebuild(site.settings, outbox, wish, user="ops-7").run(Building.open(file), agree=agree)
    finally:
        await outbox.stop()


async def names(site: Clinic) -> list[str]:
    async with VectorStore(site.settings.vectors) as open_:
        return [name for name in await open_.names() if name != VERSIONS.name]


async def served(site: Clinic) -> dict[str, str]:
    """The passages that are served, with whose they are."""
    found = await everything(site.settings.vectors, NOTES)
    return {point.payload["passage"]: point.payload["patient_id"] for point in found.values()}


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


async def test_a_rebuild_gives_back_what_a_merge_that_was_undone_took(kafka: Kafka, tmp_path: Path, each_store: str) -> None:
    site = Clinic(kafka, tmp_path, vectors=each_store)
    settled(site)
    unlinked = PatientEvent(
        id=natural_id("a37"), patient_id="a", effective_at=AT + timedelta(minutes=5), received_at=AT, origin=ORIGIN
    )
    async with site.running("notes-vectors"), site.running("merges"):
        await site.write(note("a", "n1", "Anaphylaxis to penicillin."), note("b", "n2", "Fracture of the wrist."))
        await site.until_done("notes-vectors", NoteEvent.topic)
        await site.write(merge("a", "b"), merge("c", "b"))
        await site.until_done("merges", PatientEvent.topic)
        await site.write(unlinked)
        await site.until_done("merges", PatientEvent.topic)
    assert set((await served(site)).values()) == {"b"}  # the lane moves nothing back
    done = await rebuilt(site, Wish("notes", "the link was an error"))
    assert done.merges == 1
    assert await served(site) == {"Anaphylaxis to penicillin.": "a", "Fracture of the wrist.": "b"}


async def test_a_rebuilt_collection_equals_the_old_one_point_by_point(kafka: Kafka, tmp_path: Path, each_store: str) -> None:
    site = Clinic(kafka, tmp_path, vectors=each_store)
    settled(site)
    await ward(site)
    before = await everything(site.settings.vectors, NOTES)
    assert {point.payload["patient_id"] for point in before.values()} == {"c"}
    looked = await rebuilt(site, Wish("notes", "proof", dry_run=True))
    assert looked.survey.equal
    assert (looked.records, looked.merges, looked.survey.same, looked.serves) == (11, 2, len(before), "")
    assert await names(site) == ["notes-0"]
    async with VectorStore(site.settings.vectors) as open_:
        await open_.drop(NOTES)
    done = await rebuilt(site, Wish("notes", "the disk is gone"))
    assert (done.survey.there, await names(site), done.points) == (False, [done.serves], len(before))
    assert_equal(await everything(site.settings.vectors, NOTES), before)
    audit = [one for one in await site.read("clinical.audit") if one["action"] == "replay"]
    assert [(one["agent"], one["subject"]) for one in audit] == [("ops-7", "vectors/notes")] * 4
    assert [one["reason"].split(":")[0] for one in audit] == [
        "rebuild begun (dry run); proof",
        "rebuild begun; the disk is gone",
        f"rebuild switches from nothing to {done.serves}",
        "rebuild done",
    ]


async def test_what_differs_is_mended_and_the_way_back_leads_back(kafka: Kafka, tmp_path: Path, store: str) -> None:
    site = Clinic(kafka, tmp_path, vectors=store)
    settled(site)
    await ward(site)
    before = await everything(site.settings.vectors, NOTES)
    ids = sorted(before)
    source = dict(before[ids[0]].payload)
    row = np.eye(1, NOTES.dimensions, dtype=np.float32)[0]
    stale = Point(natural_id("stale"), row, {**source, "note_id": "nobody's", "version": "-"})
    unknown = Point(natural_id("unknown"), row, {"patient_id": "z", "note_id": "from elsewhere", "passage": "-"})
    async with VectorStore(site.settings.vectors) as open_:
        await open_.delete_points(NOTES, [ids[0]])
        await open_.upsert(NOTES, [Point(ids[1], row, before[ids[1]].payload), stale, unknown])
    with pytest.raises(Permanent, match="no earlier collection"):
        await rebuilt(site, Wish("notes", "why", back=True))
    done = await rebuilt(site, Wish("notes", "it looks wrong"))
    found = done.survey
    assert (found.added, found.changed, found.stale, found.kept) == (1, 1, [stale.id], 1)
    assert_equal(await everything(site.settings.vectors, NOTES), {**before, unknown.id: unknown})
    assert (await names(site), done.before) == (["notes-0", done.serves], "notes-0")
    async with site.running("notes-vectors"):
        await site.write(later("c", "since", "Written since the switch.", 5))
        await site.until_done("notes-vectors", NoteEvent.topic)
    back = await rebuilt(site, Wish("notes", "no, the old one", back=True))
    assert (back.serves, back.before) == ("notes-0", done.serves)
    assert {"Written since the switch."} <= (await served(site)).keys()
    assert stale.id in await everything(site.settings.vectors, NOTES)
    with pytest.raises(Permanent, match="newer than what serves"):
        await rebuilt(site, Wish("notes", "again"))
    again = await rebuilt(site, Wish("notes", "again", restart=True))
    third = await rebuilt(site, Wish("notes", "and again"))
    assert (third.survey.equal, await names(site)) == (False, [again.serves, third.serves])  # the unknown one is carried on
    assert third.survey.kept == 1


@pytest.mark.real_kafka  # retention
async def test_what_is_sent_again_behind_its_correction_stays_replaced(
    kafka: Kafka, tmp_path: Path, store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = Clinic(kafka, tmp_path, vectors=store)
    settled(site)
    await ward(site)
    begins = dict.fromkeys(range(PARTITIONS), 0)
    for one in await site.records(NoteEvent.topic):
        begins[one.partition] = max(begins[one.partition], one.offset + 1)
    before = await everything(site.settings.vectors, NOTES)
    month = timedelta(days=30)
    async with site.running("notes-vectors"):
        await site.write(
            note("a", "corrected", LONG, received_at=AT + month),
            note("b", "cancelled", "Wrong patient.", received_at=AT + month),
            note("b", "old", "Left hip fracture after a fall.", received_at=AT + month),
            note("d", "more", "Sleeps.", relation="addendum", replaces=note("c", "kept", "").note_id, received_at=AT + month),
        )
        await site.until_done("notes-vectors", NoteEvent.topic)
    before_and_more = await everything(site.settings.vectors, NOTES)
    (more,) = before_and_more.keys() - before.keys()
    assert_equal({one: point for one, point in before_and_more.items() if one != more}, before)
    looked = await rebuilt(site, Wish("notes", "proof", dry_run=True))
    assert looked.survey.equal and looked.records == 11 + 4
    # Retention takes all but what was sent again: the corrections are no longer on the topic, and hold all the same.
    await delete_records(kafka.bootstrap, site.prefix + NoteEvent.topic, begins)
    file = tmp_path / "progress"
    with monkeypatch.context() as patched, pytest.raises(RuntimeError):
        patched.setattr(rebuilding, "survey", _crash)  # what was built is read anew then, and computed no more
        await rebuilt(site, Wish("notes", "proof"), file)
    done = await rebuilt(site, Wish("notes", "proof"), file)
    assert (done.survey.kept, done.survey.same, done.survey.stale, done.survey.changed) == (len(before), 1, [], 0)
    assert_equal(await everything(site.settings.vectors, NOTES), before_and_more)


async def _crash(*_: object) -> None:
    raise RuntimeError


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

    async def crash_after_the_switch(self: VectorStore, collection: CollectionSpec, to: str) -> None:
        await switch(self, collection, to)
        raise Crash

    wish, switch = Wish("notes", "why"), VectorStore.switch
    # In the middle of the build, before the switch, after it; the rebuild after a crash does as if it were another process.
    for owner, step, doing in (
        (VectorStore, "rekey_patient", crash),
        (VectorStore, "switch", crash),
        (VectorStore, "switch", crash_after_the_switch),
        (Reapplying, "catch_up", crash),
    ):
        with monkeypatch.context() as patched:
            patched.setattr(owner, step, doing)
            with pytest.raises(Crash):
                await rebuilt(site, wish, file)
        for restart in (False, True):
            with pytest.raises(Permanent, match="belongs to a rebuild of notes"):
                await rebuilt(site, Wish("images", "why", restart=restart), file)
        if doing is crash and step != "catch_up":
            with pytest.raises(Permanent, match="newer than what serves: an unfinished rebuild"):
                await rebuilt(site, wish)
    assert file.stat().st_mode & 0o077 == 0
    done = await rebuilt(site, wish, file)
    assert (await names(site), file.exists()) == (["notes-0", done.serves], False)
    assert_equal(await everything(site.settings.vectors, NOTES), before)
    with pytest.raises(Permanent, match="no collection"):
        Wish("patients", "why")
    file.write_text("{}")
    with pytest.raises(Permanent, match="no progress file"):
        Building.open(file)


async def test_live_lanes_go_on_and_nothing_that_comes_meanwhile_is_lost(
    kafka: Kafka, tmp_path: Path, store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Just before the switch a note is corrected, another cancelled, a third written and a patient merged; and again after it."""
    site = Clinic(kafka, tmp_path, vectors=store)
    settled(site)
    await ward(site)
    switch, apply, told = VectorStore.switch, _Worker.apply, []
    async with site.running("notes-vectors"), site.running("merges"):

        async def busy(self: VectorStore, collection: CollectionSpec, to: str) -> None:
            await site.write(
                later("c", "kept", "No chest pain.", 4, relation="edit"),
                later("b", "new", "", 4, status="cancelled", relation="cancel"),
                later("d", "fresh", "Asthma.", 4),
            )
            await site.until_done("notes-vectors", NoteEvent.topic)
            await site.write(merge("c", "d"))
            await site.until_done("merges", PatientEvent.topic)
            await switch(self, collection, to)
            told.append("switched")

        async def overtaken(self: _Worker, records: Sequence[Any]) -> None:
            if told == ["switched"]:  # the catching up: the lane stores the newest version before an older one is applied here
                told.append("overtaken")
                await site.write(later("c", "kept", "No chest pain, slept well.", 5, relation="edit"))
                await site.until_done("notes-vectors", NoteEvent.topic)
            await apply(self, records)

        # Both do the real thing, after what has to happen just before it: chance would seldom bring that about.
        monkeypatch.setattr(VectorStore, "switch", busy)
        monkeypatch.setattr(_Worker, "apply", overtaken)
        done = await rebuilt(site, Wish("notes", "why"))
        assert told == ["switched", "overtaken"]
        assert (done.survey.same, done.records) == (done.survey.served, 11 + 3 + 1)
    monkeypatch.undo()
    whose = await served(site)
    assert (whose["Asthma."], whose["Troponin is normal."]) == ("d", "d")
    assert "No chest pain, slept well." in whose and not {"No chest pain.", "Hip fracture, right."} & whose.keys()
    looked = await rebuilt(site, Wish("notes", "proof", dry_run=True))
    assert looked.survey.equal, looked.survey.words


async def test_a_store_of_the_time_before_aliases_and_a_model_that_is_promoted_meanwhile(
    kafka: Kafka, tmp_path: Path, store: str
) -> None:
    registry = tmp_path / "registry.toml"
    champion = Registry.load().entry("embedding", Registry.load().champion("embedding"))
    files = dict.fromkeys(champion.files, "0" * 64)
    record(champion.model_copy(update={"name": "other", "version": "9", "files": files}), registry)
    promote("embedding", champion.name, registry)
    site = Clinic(kafka, tmp_path, vectors=store, models=ModelSettings(registry=registry))
    async with VectorStore(site.settings.vectors) as open_:
        await open_.ensure([replace(NOTES, served=False)])
    async with site.running("notes-vectors"):
        await site.write(note("a", "one", "Asthma."), note("b", "two", "Hip fracture."))
        await site.until_done("notes-vectors", NoteEvent.topic)
        assert await names(site) == ["notes"]
        before = await everything(site.settings.vectors, NOTES)

        def promoted(found: object) -> bool:
            promote("embedding", "other", registry)
            return True

        with pytest.raises(Permanent, match="another model was promoted while"):
            await rebuilt(site, Wish("notes", "why"), agree=promoted)
        promote("embedding", champion.name, registry)
        done = await rebuilt(site, Wish("notes", "why", restart=True))
        assert (await names(site), done.before) == (["notes-0", done.serves], "notes-0")
        assert_equal(await everything(site.settings.vectors, plain_notes("notes-0")), before)
        await site.write(note("a", "three", "Gout."))
        await site.until_done("notes-vectors", NoteEvent.topic)
    assert (await served(site)).keys() == {"Asthma.", "Hip fracture.", "Gout."}
    assert len(await everything(site.settings.vectors, plain_notes("notes-0"))) == 2


async def test_a_store_of_the_time_before_words_is_rebuilt_and_then_found_by_them(
    kafka: Kafka, tmp_path: Path, each_store: str
) -> None:
    site = Clinic(kafka, tmp_path, vectors=each_store)
    wordless, embedder = replace(plain_notes("notes-0"), words=""), Registry.load().open("embedding")
    async with site.running("notes-vectors"):
        await site.write(note("a", "one", "Takes zoledronate."), note("b", "two", "Hip fracture."))
        await site.until_done("notes-vectors", NoteEvent.topic)
    before = await everything(site.settings.vectors, NOTES)
    async with VectorStore(site.settings.vectors) as open_:
        await open_.drop(NOTES)
        await open_.ensure([wordless])
        await open_.switch(NOTES, wordless.name)
        await open_.upsert(wordless, list(before.values()))
    with pytest.raises(Fatal, match="before search went by words"):
        async with site.running("notes-vectors"):
            await site.write(note("a", "three", "Gout."))
            await site.until_done("notes-vectors", NoteEvent.topic)
    assert await unfit(site) == ["collection notes: `vigil replay rebuild notes --reason ...` makes it anew from the topics"]
    done = await rebuilt(site, Wish("notes", "search by words"))
    assert (done.survey.same, done.survey.added, done.before, done.points) == (2, 1, "notes-0", 3)
    with pytest.raises(Fatal, match="before search went by words"):  # a way back that no lane could go
        await rebuilt(site, Wish("notes", "why", back=True))
    async with site.running("notes-vectors"):
        await site.write(note("b", "four", "Zoledronate stopped."))
        await site.until_done("notes-vectors", NoteEvent.topic)
    async with VectorStore(site.settings.vectors) as open_:
        found = await search_notes(open_, embedder, "zoledronate")
    assert await unfit(site) == []
    assert {hit.passage for hit in found if hit.words} == {"Zoledronate stopped.", "Takes zoledronate."} and len(found) == 4


async def unfit(site: Clinic) -> list[str]:
    """What `vigil doctor` finds wrong with the collections, and how it says to mend it."""
    checks = await run_checks(site.settings)
    return [f"{one.what}: {one.mend}" for one in checks if one.what.startswith("collection") and one.verdict == "wrong"]


def plain_notes(name: str) -> CollectionSpec:
    return replace(NOTES, name=name, served=False)


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
        body_part="CHEST",
        rows=160,
        columns=160,
        pixels=reference,
        acquired_at=AT,
        received_at=AT,
        origin=ORIGIN,
    )


def environment(site: Clinic) -> dict[str, str]:
    return {
        "VIGIL_KAFKA__BOOTSTRAP": site.kafka.bootstrap,
        "VIGIL_KAFKA__TOPIC_PREFIX": site.prefix,
        "VIGIL_KAFKA__EMBEDDED": str(site.kafka.kind == "embedded").lower(),
        "VIGIL_VECTORS__URL": site.settings.vectors.url,
    }


async def test_the_command_line(kafka: Kafka, tmp_path: Path, store: str) -> None:
    site = Clinic(kafka, tmp_path, vectors=store)
    async with site.running("notes-vectors"):
        await site.write(note("a", "one", "Mrs Jones coughs."), note("a", "two", "Asthma."))
        await site.until_done("notes-vectors", NoteEvent.topic)

    app = Typer()
    app.command()(rebuild)

    def vigil(*words: str) -> str:
        done = CliRunner().invoke(app, [*words], env=environment(site), input="n\n")
        if done.exception is not None:
            raise done.exception
        assert "Jones" not in done.output
        return done.stdout

    def work() -> None:
        for words, said in (
            (("notes",), "a reason is needed"),
            (("people", "--reason", "why"), "no collection 'people'"),
            (("notes", "--reason", "why", "--json"), "nobody is asked"),
            (("notes", "--reason", "why", "--back", "--dry-run"), "builds nothing"),
        ):
            with pytest.raises(Permanent, match=said):
                vigil(*words)
        assert "the two are equal, point by point" in vigil("notes", "--reason", "why", "--dry-run")
        assert "not switched" in vigil("notes", "--reason", "why")
        facts = json.loads(vigil("notes", "--reason", "why", "--yes", "--json"))
        assert (facts["same"], facts["equal"], facts["before"], facts["points"]) == (2, True, "notes-0", 2)
        assert f"notes is notes-0 now: 2 points; {facts['serves']} is kept" in vigil(
            "notes", "--reason", "no", "--back", "--yes"
        )

    await asyncio.to_thread(work)


async def test_after_sigkill_the_same_command_goes_on(kafka: Kafka, tmp_path: Path, store: str) -> None:
    site, file = Clinic(kafka, tmp_path, vectors=store), tmp_path / "progress"
    texts = [f"Note {number}: cough and fever for {number} days." for number in range(300)]
    await site.write(*(note(f"p{number % 7}", str(number), text) for number, text in enumerate(texts)))
    environ = {name: value for name, value in os.environ.items() if not name.startswith("VIGIL_")}
    command = [
        sys.executable,
        "-m",
        "streams.cli",
        "replay",
        "rebuild",
        "notes",
        "--reason",
        "why",
        "--yes",
        "--resume",
        str(file),
    ]
    killed = await asyncio.create_subprocess_exec(
        *command, env={**environ, "PYTHONPATH": str(Path(__file__).parents[2]), **environment(site)}, cwd=tmp_path
    )
    try:
        done = 0
        while not done:
            assert killed.returncode is None, "it was over before it could be killed"
            await asyncio.sleep(0.02)
            done = sum(Building.open(file).ends(NoteEvent.topic).values())
    finally:
        killed.kill()
        await killed.wait()
    found = await rebuilt(site, Wish("notes", "why"), file)
    assert 0 < found.records < 300
    assert (found.points, await names(site)) == (300, [found.serves])
