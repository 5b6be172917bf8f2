"""Search by meaning over 10,000 notes: the time of one question, its embedding included, as `vigil search` asks it.

1,500 notes are embedded for real (all 10,000 would take minutes and change nothing that a search sees); the others are those, each
vector moved a little at random and scaled back to unit length, under ids, patients and times of their own. Every question has other
words. Six in ten ask without a filter, the others by document type, patient or time.
"""

import asyncio
import random
import time
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import timedelta
from typing import Any

import numpy as np
from qdrant_client import QdrantClient

from connectors.qdrant.embedded import EmbeddedQdrant
from connectors.qdrant.settings import NOTES, QdrantSettings
from connectors.qdrant.store import VectorStore
from models.registry import Registry
from models.tasks import Floats, TextEmbedder
from processors.events import NoteEvent, Source
from processors.vectors import Chunk, Point, chunks, note_points
from streams.searching import Searcher
from streams.settings import Settings
from tests import load
from tests.bench.stage import Stage
from tests.qdrant import binary, qdrant_server

_MOVED = 0.05  # length of the random move; the vectors have length 1
_WHAT = (
    "shortness of breath", "chest pain", "fever and rigors", "falling blood pressure", "new confusion", "low sodium",
    "raised lactate", "a fall on the ward", "wound infection", "acute kidney injury", "atrial fibrillation", "black stools",
    "swollen leg", "poor urine output", "high glucose", "productive cough", "abdominal distension", "itching rash",
)  # fmt: skip
_WHEN = (
    "after the operation", "since admission", "overnight", "in spite of antibiotics", "on the second day", "worse when lying flat",
    "with oxygen", "in the family", "treated before", "not seen today", "on mobilising", "after a transfusion",
)  # fmt: skip
_WHO = (
    "elderly patient",
    "diabetic",
    "smoker",
    "patient with heart failure",
    "patient on warfarin",
    "frail woman",
    "young man",
)


def search(stage: Stage) -> dict[str, dict[str, Any]]:
    """Return milliseconds (p50, p99, ...) over each vector store there is: the real server first where there is one."""
    return stage.once("search", lambda: _search(stage))


def _search(stage: Stage) -> dict[str, dict[str, Any]]:
    notes = list(load.notes(600, stage.sizes.searched_notes))
    settings = Settings()
    embedder = Registry.load(settings.models.registry).open("embedding", threads=settings.models.threads)
    points = list(_points(notes, embedder, stage.sizes.embedded_notes))
    found = {}
    with ExitStack() as stack:
        urls = {}
        if (program := binary()) is not None:
            urls["server"] = stack.enter_context(qdrant_server(program)).url
        folder = stage.folder / "search"
        folder.mkdir()
        urls["embedded"] = stack.enter_context(EmbeddedQdrant(folder)).start()
        for name, url in urls.items():
            found[name] = asyncio.run(_asked(stage, url, points, notes))
            stage.say(f"search over {len(notes):,} notes ({len(points):,} points), {name}: {found[name]}")
    return found


def _points(notes: list[NoteEvent], embedder: TextEmbedder, real: int) -> Iterator[Point]:
    rng = np.random.default_rng(6)
    known: list[tuple[list[Chunk], Floats]] = []
    for number, note in enumerate(notes):
        source = Source(topic=NoteEvent.topic, partition=0, offset=number, event_id=note.id)
        if number < real:
            cut = chunks(note.text, embedder.offsets(note.text), embedder.limit)
            known.append((cut, embedder.embed([note.text[chunk.start : chunk.end] for chunk in cut])))
            yield from note_points(note, source, cut, known[-1][1], embedder.identity)
        else:
            cut, vectors = known[number % real]
            moves = rng.normal(size=vectors.shape).astype(np.float32)
            moved = vectors + _MOVED * moves / np.linalg.norm(moves, axis=1, keepdims=True)
            yield from note_points(note, source, cut, moved / np.linalg.norm(moved, axis=1, keepdims=True), embedder.identity)


async def _asked(stage: Stage, url: str, points: list[Point], notes: list[NoteEvent]) -> dict[str, Any]:
    vectors = QdrantSettings(url=url)
    async with VectorStore(vectors) as store:
        await store.ensure([NOTES])
        await store.upsert(NOTES, points)
    await asyncio.to_thread(_until_indexed, url)
    rng = random.Random(6)
    seconds = []
    async with Searcher(Settings(vectors=vectors)) as searcher:
        for number in range(stage.sizes.searches + 20):
            question, where = _question(rng, number), _where(rng, notes)
            begun = time.perf_counter()
            hits = await searcher.search(question, where=where)
            if number >= 20:  # the first ones load the model and open connections
                seconds.append(time.perf_counter() - begun)
            if not hits:
                raise RuntimeError(f"nothing found for {where}")
    ms = 1000 * np.array(seconds)
    return {"searches": len(ms), "points": len(points)} | {
        name: round(float(np.percentile(ms, which)), 2) for name, which in (("p50", 50), ("p90", 90), ("p99", 99), ("max", 100))
    }


def _question(rng: random.Random, number: int) -> str:
    return f"{rng.choice(_WHO)}, {rng.choice(_WHAT)} {rng.choice(_WHEN)}, bed {number}"


def _where(rng: random.Random, notes: list[NoteEvent]) -> dict[str, Any]:
    one, chance = rng.choice(notes), rng.random()
    if chance < 0.6:
        return {}
    if chance < 0.8:
        return {"types": (one.note_type.code,)}
    if chance < 0.9:
        return {"patient_ids": (one.patient_id,)}
    return {"since": one.authored_at - timedelta(days=2), "until": one.authored_at + timedelta(days=2)}


def _until_indexed(url: str, within: float = 120.0) -> None:
    """Wait until a server has built what it builds in the background: a search meets that while notes come in, not for long."""
    client = QdrantClient(url=url, check_compatibility=False, timeout=30)
    try:
        deadline = time.monotonic() + within
        while str(client.get_collection(NOTES.name).status) != "green" and time.monotonic() < deadline:
            time.sleep(0.2)
    finally:
        client.close()
