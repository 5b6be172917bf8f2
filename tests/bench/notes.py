"""The notes lanes: entities beside the bare model loop, vectors beside Faust's guide with sentence-transformers.

The lanes' `nice` is set to 0 here: on a machine that does nothing else it changes nothing, and the bare loop has none.
"""

import asyncio
import json
from contextlib import ExitStack
from pathlib import Path

from connectors.qdrant.settings import NOTES, CollectionSpec, QdrantSettings
from connectors.qdrant.store import VectorStore
from tests import load
from tests.bench.programs import lane, peer, until_shared
from tests.bench.rate import Rate, encoded, entries
from tests.bench.stage import Site, Stage
from tests.bench.vitals import rate_of

_NICE = {"VIGIL_LANES__NOTES_ENTITIES__NICE": "0", "VIGIL_LANES__NOTES_VECTORS__NICE": "0"}
GUIDE = CollectionSpec("guide", NOTES.vector, NOTES.dimensions, NOTES.indexes)


def entities(stage: Stage) -> dict[str, list[Rate]]:
    """Return notes a second of the bare loop and the lane, one worker, the same notes, taken in turn."""
    return stage.once("notes", lambda: _entities(stage))


def _entities(stage: Stage) -> dict[str, list[Rate]]:
    found: dict[str, list[Rate]] = {"bare": [], "lane": []}
    count = stage.sizes.notes
    warm = max(8, count // 10)
    for number in range(stage.sizes.rounds):
        notes = list(load.notes(100 + number, warm + count))
        file = stage.folder / f"notes-{number}.jsonl"
        file.write_bytes(b"\n".join(note.model_dump_json().encode() for note in notes))
        bare = _bare(stage, file, warm)
        found["bare"].append(bare)
        site = stage.site("n-lane", _NICE)
        with lane("notes-entities", site.env, site.folder) as worker:
            until_shared(site.bootstrap, site.group("notes-entities"), 1, [worker])
            records = encoded(notes)
            rate = rate_of(site, "clinical.notes", "clinical.entities", records[:warm], records[warm:], [worker])
        found["lane"].append(rate)
        stage.say(f"notes -> entities, round {number + 1}: bare {bare.per_second:.1f}, lane {rate.per_second:.1f} notes/s")
    return found


def _bare(stage: Stage, file: Path, warm: int) -> Rate:
    with peer("bare_ner", {}, stage.folder, arguments=[str(file), str(warm)]) as program:
        if program.process.wait(1800):
            program.check()
        answer = json.loads(program.log.read_text().splitlines()[-1])
        return Rate(answer["notes"], answer["seconds"])


def vectors(stage: Stage) -> dict[str, list[Rate]]:
    """Return notes a second into Qdrant of the guide and the lane: as many workers, one model thread each, the same notes."""
    return stage.once("vectors", lambda: _vectors(stage))


def _vectors(stage: Stage) -> dict[str, list[Rate]]:
    sizes = stage.sizes
    found: dict[str, list[Rate]] = {"guide": [], "lane": []}
    asyncio.run(_ensure(stage))
    for number in range(sizes.rounds):
        for name, count in (("guide", sizes.guide_notes), ("lane", sizes.vector_notes)):
            warm = max(8, count // 10)
            records = encoded(load.notes(200 + number, warm + count))  # the guide's are the first of the lane's
            site = stage.site(f"n-{name}", _NICE)
            with ExitStack() as stack:
                workers = [stack.enter_context(_worker(stage, site, name, slot)) for slot in range(sizes.workers)]
                group = site.group("notes-vectors") if name == "lane" else f"{site.prefix}guide"
                until_shared(site.bootstrap, group, sizes.workers, workers)
                weigh = {"weigh": entries} if name == "lane" else {}
                rate = rate_of(site, "clinical.notes", "clinical.audit", records[:warm], records[warm:], workers, **weigh)
            found[name].append(rate)
            stage.say(f"notes -> vectors, round {number + 1}, {name}: {rate.per_second:.1f} notes/s")
    return found


def _worker(stage: Stage, site: Site, name: str, slot: int):  # type: ignore[no-untyped-def]
    if name == "lane":
        return lane("notes-vectors", site.env, site.folder, slot=slot)
    env = {
        "BENCH_BOOTSTRAP": site.bootstrap,
        "BENCH_PREFIX": site.prefix,
        "BENCH_QDRANT": stage.qdrant,
        "BENCH_THREADS": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_OFFLINE": "1",
    }
    return peer("faust_notes", env, site.folder, slot=slot)


async def _ensure(stage: Stage) -> None:
    async with VectorStore(QdrantSettings(url=stage.qdrant)) as store:
        await store.ensure([GUIDE, NOTES])
