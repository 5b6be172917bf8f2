"""A vector store that was emptied: the lane waits and says so, and begins no empty collection unless it is told to."""

from pathlib import Path

import pytest

from connectors.qdrant.settings import NOTES, VERSIONS, CollectionSpec
from connectors.qdrant.store import VectorStore
from models.errors import Permanent
from processors.events import NoteEvent
from streams.checks import run_checks
from streams.engine import Engine
from streams.rebuilding import Wish
from tests.clinic import Clinic, note
from tests.integration.test_rebuild import rebuilt, served, store  # noqa: F401  # a fixture
from tests.kafka import Kafka
from tests.lanes import until

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(300)]
LANE = "notes-vectors"


async def emptied(site: Clinic) -> None:
    async with VectorStore(site.settings.vectors) as open_:
        for name in (NOTES.name, VERSIONS.name):
            await open_.drop(CollectionSpec(name, "", 0))


async def is_there(site: Clinic) -> bool:
    async with VectorStore(site.settings.vectors) as open_:
        return await open_.exists(NOTES)


def told(engine: Engine) -> bool:
    return bool(engine.metrics.registry.get_sample_value("vigil_collection_missing", {"lane": LANE}))


async def doctor(site: Clinic) -> list[str]:
    return [check.found + check.mend for check in await run_checks(site.settings) if check.what == "collection notes"]


async def test_a_lane_whose_collection_is_gone_waits_until_it_is_rebuilt(
    kafka: Kafka,
    tmp_path: Path,
    store: str,  # noqa: F811  # the fixture above, not a new name
) -> None:
    site = Clinic(kafka, tmp_path, vectors=store)
    assert not await doctor(site)  # a new site's lanes have yet to make it
    async with site.running(LANE) as engine:
        await site.write(note("a", "before", "Productive cough."), note("b", "too", "Left hip fracture."))
        await site.until_done(LANE, NoteEvent.topic)
        assert not told(engine) and not await doctor(site)
        await emptied(site)
        await site.write(note("a", "while", "Fever for four days."))
        await until(
            lambda: "collection notes is missing" in engine.unready(), what="the lane that works says what it waits for"
        )
        assert "replay rebuild notes" in engine.unready() and told(engine)
    async with site.running(LANE) as engine:
        await until(lambda: "collection notes is missing" in engine.unready(), what="the lane that starts says so too")
        assert engine.unready().startswith("loading") and told(engine)
        assert not await is_there(site)
        (words,) = await doctor(site)
        assert "is missing" in words and "replay rebuild notes" in words
        done = await rebuilt(site, Wish("notes", "the volume was lost"))
        assert done.points == 3
        await until(lambda: engine.unready() == "", what="the lane goes on", within=60)
        await site.until_done(LANE, NoteEvent.topic)
        assert not told(engine)
    assert set(await served(site)) == {"Productive cough.", "Left hip fracture.", "Fever for four days."}


async def test_an_empty_collection_is_begun_only_where_somebody_says_so(
    kafka: Kafka,
    tmp_path: Path,
    store: str,  # noqa: F811  # the fixture above, not a new name
) -> None:
    site = Clinic(kafka, tmp_path, vectors=store)
    async with site.running(LANE):
        await site.write(note("a", "before", "Productive cough."))
        await site.until_done(LANE, NoteEvent.topic)
    with pytest.raises(Permanent, match="notes is there"):
        await rebuilt(site, Wish("notes", "why", empty=True))
    await emptied(site)
    assert (await rebuilt(site, Wish("notes", "that data was a trial's", empty=True))).points == 0
    async with site.running(LANE) as engine:
        await site.write(note("a", "after", "Fever for four days."))
        await site.until_done(LANE, NoteEvent.topic)
        assert engine.unready() == ""
    assert set(await served(site)) == {"Fever for four days."}
    assert any("that data was a trial" in record["reason"] for record in await site.read("clinical.audit"))
