"""The embedded vector store and a real Qdrant server do the same: every test here runs against both.

The real server is found by VIGIL_TEST_QDRANT_BIN and driven over HTTP and over gRPC; without it those runs are skipped.
"""

import asyncio
import math
import random
import re
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from qdrant_client import models as api

from connectors.qdrant.embedded import EmbeddedQdrant
from connectors.qdrant.search import search_images, search_notes, similar_patients
from connectors.qdrant.settings import NOTES, CollectionSpec, QdrantSettings, images
from connectors.qdrant.store import Point, VectorStore, Where
from models.errors import Fatal, Permanent, Poison, Transient
from models.tasks import Floats, ModelIdentity
from processors.synonyms import asked
from processors.words import fused, of_passage, words
from tests.qdrant import QdrantServer

pytestmark = pytest.mark.qdrant

RUN = uuid.uuid4().hex[:12]
START = datetime(2026, 3, 1, tzinfo=UTC)


@pytest.fixture(scope="module")
def embedded_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with EmbeddedQdrant(tmp_path_factory.mktemp("vectors")) as embedded:
        yield embedded.url


@pytest.fixture(params=["embedded", "server", "server-grpc"])
def settings(request: pytest.FixtureRequest) -> QdrantSettings:
    if request.param == "embedded":
        return QdrantSettings(url=request.getfixturevalue("embedded_url"))
    server: QdrantServer = request.getfixturevalue("qdrant_server")
    return QdrantSettings(url=server.url, grpc_port=server.grpc_port, prefer_grpc=request.param == "server-grpc")


@pytest.fixture
async def store(settings: QdrantSettings) -> AsyncIterator[VectorStore]:
    async with VectorStore(settings) as opened:
        yield opened


@pytest.fixture
async def notes(store: VectorStore, settings: QdrantSettings) -> AsyncIterator[CollectionSpec]:
    """An empty collection of 8 dimensions: one per store, since a server takes seconds to make one, emptied after each test."""
    collection = replace(NOTES, name=f"notes-{RUN}-{'grpc' if settings.prefer_grpc else 'http'}", dimensions=8)
    await store.ensure([collection])
    yield collection
    await store._client.delete(collection.name, points_selector=api.FilterSelector(filter=api.Filter()), wait=True)


def a_point(number: int, vector: Sequence[float] | Floats | None = None, **payload: Any) -> Point:
    numbers = np.random.default_rng(number).normal(size=8) if vector is None else vector
    return Point(str(uuid.UUID(int=number)), np.asarray(numbers, dtype=np.float32), payload)


async def ids_in(store: VectorStore, collection: CollectionSpec, where: Where | None = None) -> list[int]:
    return [uuid.UUID(point.id).int async for point in store.scan(collection, where)]


# ------------------------------------------------------------------------------------------------------------- collections


async def test_ensure_may_be_repeated_and_raced(store: VectorStore, settings: QdrantSettings) -> None:
    name = f"raced-{uuid.uuid4().hex[:12]}"
    collection = replace(NOTES, name=name)
    async with VectorStore(settings) as other:
        await asyncio.gather(*(one.ensure([collection]) for one in (store, other, store, other)))
    await store.upsert(collection, [Point(str(uuid.UUID(int=1)), np.ones(384, np.float32), {"patient_id": "p"})])
    await store.ensure([collection])
    assert await store.count(collection) == 1
    made = (await store._client.get_collection(name)).payload_schema
    assert {field: str(index.data_type.value) for field, index in made.items()} == dict(collection.indexes)
    await store.drop(collection)
    assert await store.target(collection) is None


@pytest.mark.parametrize("other", [{"dimensions": 384}, {"vector": "image"}])
async def test_ensure_for_another_model_is_fatal(store: VectorStore, notes: CollectionSpec, other: dict[str, Any]) -> None:
    with pytest.raises(Fatal, match=r'holds "text" 8 Cosine; this model needs "\w+" \d+ Cosine'):
        await store.ensure([replace(notes, **other)])


async def test_an_alias_is_switched_and_what_it_led_to_stays(store: VectorStore) -> None:
    served = replace(NOTES, name=f"served-{uuid.uuid4().hex[:12]}", dimensions=8)
    other = replace(served, name=f"{served.name}-1", served=False)
    assert await store.target(served) is None
    await store.ensure([served, other])
    assert (await store.target(served), await store.target(other)) == (f"{served.name}-0", other.name)
    await store.upsert(served, [a_point(1)])
    await store.upsert(other, [a_point(2), a_point(3)])
    await store.switch(served, other.name)
    assert (await store.target(served), await ids_in(store, served)) == (other.name, [2, 3])
    await store.ensure([served])  # what is there is left as it is
    assert await store.count(served) == 2 and await store.settled(served)
    await store.switch(served, f"{served.name}-0")
    assert await ids_in(store, served) == [1]
    assert {f"{served.name}-0", other.name} <= set(await store.names()) and served.name not in await store.names()
    with pytest.raises(Transient, match="does not exist"):
        await store.switch(served, f"{served.name}-2")
    await store.drop(served)
    await store.drop(other)
    assert not await store.exists(served)


async def test_version(store: VectorStore) -> None:
    assert re.fullmatch(r"qdrant.* 1\.\d+\.\d+", await store.version())


# -------------------------------------------------------------------------------------------------- writing, reading back


async def test_points_come_back_as_they_were(store: VectorStore, notes: CollectionSpec) -> None:
    payload = {
        "patient_id": "p1", "passage": "Atemnot seit 3 Tagen – SpO₂ 88 %\n\t\"q\" \\ 🫁", "start": 0, "end": 2**40,
        "nested": {"a": [1, 2.5, None, True, {"b": "c"}]}, "nothing": None, "empty": "", "score": 0.1,
    }  # fmt: skip
    point = a_point(1, **payload)
    await store.upsert(notes, [point])
    (found,) = [one async for one in store.scan(notes)]
    assert found.id == point.id
    assert dict(found.payload) == payload
    np.testing.assert_allclose(found.vector, point.vector / np.linalg.norm(point.vector), atol=1e-6)
    (hit,) = await store.search(notes, point.vector)
    assert (hit.id, dict(hit.payload)) == (point.id, payload)
    assert hit.score == pytest.approx(1.0, abs=1e-5)


async def test_a_repeat_overwrites(store: VectorStore, notes: CollectionSpec) -> None:
    for version in ("one", "two"):
        await store.upsert(notes, [a_point(number, version=version) for number in range(5)])
        await store.upsert(notes, [a_point(number, version=version) for number in range(5)])
    assert await store.count(notes) == 5
    assert {point.payload["version"] async for point in store.scan(notes)} == {"two"}


async def test_many_points_travel_in_bounded_calls(settings: QdrantSettings, notes: CollectionSpec) -> None:
    async with VectorStore(settings.model_copy(update={"points_per_call": 7})) as small:
        await small.upsert(notes, [a_point(number) for number in range(50)])
        assert await ids_in(small, notes) == list(range(50))
        await small.upsert(notes, [])


async def test_search_is_the_nearest_by_cosine_best_first(store: VectorStore, notes: CollectionSpec) -> None:
    points = [a_point(number) for number in range(200)]
    await store.upsert(notes, points)
    rows = np.stack([point.vector / np.linalg.norm(point.vector) for point in points])
    for seed in range(20):
        query = np.random.default_rng(1000 + seed).normal(size=8).astype(np.float32)
        scores = rows @ query / np.linalg.norm(query)
        best = np.argsort(-scores)[:10]
        hits = await store.search(notes, query, limit=10)
        assert [uuid.UUID(hit.id).int for hit in hits] == best.tolist()
        np.testing.assert_allclose([hit.score for hit in hits], scores[best], atol=1e-5)
        least = float(np.median(scores[best]))
        assert len(await store.search(notes, query, limit=10, least_score=least)) == 5


async def test_equal_scores_come_in_the_order_of_ids(store: VectorStore, notes: CollectionSpec) -> None:
    await store.upsert(notes, [a_point(number, [1, 0, 0, 0, 0, 0, 0, 0]) for number in (9, 3, 7, 1)])
    hits = await store.search(notes, np.eye(8, dtype=np.float32)[0])
    assert [uuid.UUID(hit.id).int for hit in hits] == [1, 3, 7, 9]


# ---------------------------------------------------------------------------------------------------------------- filters


def random_payload(chance: random.Random) -> dict[str, Any]:
    payload: dict[str, Any] = {
        "patient_id": f"p{chance.randrange(6)}",
        "note_id": f"n{chance.randrange(40)}",
        "type": chance.choice(["11506-3", "18842-5", "CR", "ü-Brief"]),
        "model_digest": chance.choice(["a" * 64, "b" * 64]),
        "time": (START + timedelta(minutes=chance.randrange(3000), microseconds=chance.randrange(10**6))).isoformat(),
    }
    if chance.random() < 0.7:
        payload["encounter_id"] = f"e{chance.randrange(5)}"
    if chance.random() < 0.7:
        payload["processing"] = chance.choice(["production", "production", "training", "debugging"])
    return payload


def random_where(chance: random.Random) -> Where:
    def some(values: list[str]) -> tuple[str, ...]:
        return tuple(chance.sample(values, chance.randint(1, 3))) if chance.random() < 0.35 else ()

    def instant() -> datetime | None:
        zone = timezone(timedelta(hours=chance.choice([-5, 0, 1])))
        return START.astimezone(zone) + timedelta(minutes=chance.randrange(3000)) if chance.random() < 0.35 else None

    return Where(
        patient_ids=some([f"p{i}" for i in range(8)]),
        not_patient_ids=some([f"p{i}" for i in range(8)]),
        encounter_ids=some([f"e{i}" for i in range(5)]),
        note_ids=some([f"n{i}" for i in range(40)]),
        types=some(["11506-3", "18842-5", "CR", "ü-Brief"]),
        model_digests=some(["a" * 64, "b" * 64, "c" * 64]),
        since=instant(),
        until=instant(),
        production=chance.random() < 0.35,
    )


def holds(where: Where, payload: Mapping[str, Any]) -> bool:
    """What `Where` means, in plain Python."""
    any_of = {
        "patient_id": where.patient_ids, "encounter_id": where.encounter_ids, "note_id": where.note_ids,
        "type": where.types, "model_digest": where.model_digests,
    }  # fmt: skip
    when = datetime.fromisoformat(payload["time"])
    return (
        all(payload.get(name) in wanted for name, wanted in any_of.items() if wanted)
        and payload["patient_id"] not in where.not_patient_ids
        and (where.since is None or when >= where.since)
        and (where.until is None or when < where.until)
        and not (where.production and payload.get("processing", "production") != "production")
    )


async def test_filters_mean_what_they_say(store: VectorStore, notes: CollectionSpec) -> None:
    chance = random.Random(20261123)
    points = [a_point(number, **random_payload(chance)) for number in range(300)]
    await store.upsert(notes, points)
    query = np.ones(8, dtype=np.float32)
    sizes = set()
    for _ in range(60):
        where = random_where(chance)
        expected = [uuid.UUID(point.id).int for point in points if holds(where, point.payload)]
        sizes.add(len(expected))
        assert await store.count(notes, where) == len(expected), where
        assert await ids_in(store, notes, where) == expected, where
        found = await store.search(notes, query, where=where, limit=1000)
        assert sorted(uuid.UUID(hit.id).int for hit in found) == expected, where
    contradiction = Where(patient_ids=["p5"], not_patient_ids=["p5"])
    assert (await store.count(notes, contradiction), await ids_in(store, notes, contradiction)) == (0, [])
    assert len(sizes) > 10  # the filters were neither all empty nor all alike


async def test_time_bounds_are_instants(store: VectorStore, notes: CollectionSpec) -> None:
    noon = datetime(2026, 3, 29, 12, 0, tzinfo=UTC)
    await store.upsert(
        notes,
        [
            a_point(1, time="2026-03-29T11:59:59.999999Z"),
            a_point(2, time="2026-03-29T12:00:00Z"),
            a_point(3, time="2026-03-29T14:00:00+02:00"),  # the same instant as 2
            a_point(4, time="2026-03-29T12:00:00.000001Z"),
            a_point(5),  # no time: never within bounds
        ],
    )
    summer = timezone(timedelta(hours=2))
    assert await ids_in(store, notes, Where(since=noon)) == [2, 3, 4]
    told = [point.payload async for point in store.scan(notes, Where(since=noon), payloads=["time"])]
    assert [set(payload) for payload in told] == [{"time"}] * 3
    assert await ids_in(store, notes, Where(since=noon.astimezone(summer))) == [2, 3, 4]
    assert await ids_in(store, notes, Where(until=noon)) == [1]
    assert await ids_in(store, notes, Where(since=noon, until=noon)) == []
    with pytest.raises(Permanent, match="zone"):
        Where(since=datetime(2026, 3, 29, 12, 0))


# -------------------------------------------------------------------------------------------------------------- replacing


async def test_a_corrected_note_replaces_its_chunks(store: VectorStore, notes: CollectionSpec) -> None:
    await store.upsert(notes, [a_point(100, note_id="other")])
    old = [a_point(number, note_id="n", version=1) for number in (1, 2, 3)]
    new = [a_point(number, note_id="n", version=2) for number in (1, 4)]
    await store.replace(notes, owner_field="note_id", owner_id="n", points=old)
    for _ in range(2):  # a repeat changes nothing
        await store.replace(notes, owner_field="note_id", owner_id="n", points=new)
        found = {uuid.UUID(point.id).int: point.payload async for point in store.scan(notes)}
        assert found == {1: {"note_id": "n", "version": 2}, 4: {"note_id": "n", "version": 2}, 100: {"note_id": "other"}}
    await store.replace(notes, owner_field="note_id", owner_id="n", points=[])  # a withdrawn note
    assert await ids_in(store, notes) == [100]
    with pytest.raises(Permanent):
        await store.replace(notes, owner_field="note_id", owner_id="", points=[])


async def test_many_notes_are_replaced_at_once(store: VectorStore, notes: CollectionSpec) -> None:
    def chunks(note: int, count: int) -> list[Point]:
        return [a_point(note * 10 + chunk, note_id=f"n{note}") for chunk in range(count)]

    await store.replace_all(notes, owner_field="note_id", owners={f"n{note}": chunks(note, 4) for note in range(150)})
    assert await store.count(notes) == 600
    await store.replace_all(notes, owner_field="note_id", owners={f"n{note}": chunks(note, note % 3) for note in range(140)})
    assert await store.count(notes) == sum(note % 3 for note in range(140)) + 40


async def test_no_moment_without_the_note(store: VectorStore, notes: CollectionSpec) -> None:
    query = np.ones(8, dtype=np.float32)
    await store.upsert(notes, [a_point(0, query, note_id="n")])
    done = asyncio.Event()
    looks = 0

    async def look() -> None:
        nonlocal looks
        while not done.is_set():
            assert await store.search(notes, query, where=Where(note_ids=["n"])), "the note was gone for a moment"
            looks += 1

    looking = asyncio.create_task(look())
    for version in range(1, 60):
        points = [a_point(chunk, note_id="n", version=version) for chunk in range(1 + version % 3)]
        await store.replace(notes, owner_field="note_id", owner_id="n", points=points)
    done.set()
    await looking
    assert looks > 20


async def test_a_merge_rekeys_the_patients_points(store: VectorStore, notes: CollectionSpec) -> None:
    await store.upsert(notes, [a_point(n, patient_id=f"p{n % 3}", note_id=f"n{n}", passage="kept") for n in range(9)])
    before = {point.id: point async for point in store.scan(notes)}
    assert await store.rekey_patient([notes], old="p1", new="p2") == 3
    assert await store.count(notes, Where(patient_ids=["p1"])) == 0
    assert await ids_in(store, notes, Where(patient_ids=["p2"])) == [1, 2, 4, 5, 7, 8]
    async for point in store.scan(notes):
        assert {**point.payload, "patient_id": ""} == {**before[point.id].payload, "patient_id": ""}
        np.testing.assert_array_equal(point.vector, before[point.id].vector)
    assert await store.rekey_patient([notes], old="p1", new="p2") == 0
    for old, new in (("", "p"), ("p", "")):
        with pytest.raises(Permanent):
            await store.rekey_patient([notes], old=old, new=new)


async def test_delete_where(store: VectorStore, notes: CollectionSpec) -> None:
    await store.upsert(notes, [a_point(n, patient_id=f"p{n % 3}", type=f"t{n % 2}") for n in range(12)])
    await store.delete_where(notes, Where(patient_ids=["p0"], types=["t0"]))
    assert await ids_in(store, notes) == [1, 2, 3, 4, 5, 7, 8, 9, 10, 11]
    await store.delete_where(notes, Where(patient_ids=["nobody"]))
    assert await store.count(notes) == 10
    with pytest.raises(Permanent, match="refusing"):
        await store.delete_where(notes, Where())


# ---------------------------------------------------------------------------------------------------------------- trouble


async def test_an_unknown_collection_is_transient_and_named(store: VectorStore) -> None:
    nowhere = CollectionSpec("nowhere", "text", 8)
    attempts: list[Callable[[], Any]] = [
        lambda: store.upsert(nowhere, [a_point(1)]),
        lambda: store.search(nowhere, np.ones(8, np.float32)),
        lambda: store.count(nowhere),
        lambda: store.delete_where(nowhere, Where(note_ids=["n"])),
        lambda: store.replace(nowhere, owner_field="note_id", owner_id="n", points=[]),
        lambda: store.rekey_patient([nowhere], old="a", new="b"),
    ]
    for attempt in attempts:
        with pytest.raises(Transient, match=r"in nowhere|searching nowhere") as caught:
            await attempt()
        assert "does not exist" in str(caught.value)
        assert caught.value.hint


async def test_the_wrong_dimension_is_fatal(store: VectorStore, notes: CollectionSpec) -> None:
    with pytest.raises(Fatal, match=r"shape \[4\].*8 numbers"):
        await store.upsert(notes, [a_point(1, [1, 2, 3, 4])])
    believed = replace(notes, dimensions=4)  # a reader or lane that never asked
    with pytest.raises(Fatal, match="holds vectors of 8 numbers, the model gives 4"):
        await store.upsert(believed, [a_point(1, [1, 2, 3, 4])])
    with pytest.raises(Fatal, match="holds vectors of 8 numbers, the model gives 4"):
        await store.search(believed, np.ones(4, np.float32))
    with pytest.raises(Fatal, match="no such vector"):
        await store.upsert(replace(notes, vector="image"), [a_point(1)])
    with pytest.raises(Fatal, match="no such vector"):
        await store.search(replace(notes, vector="image"), np.ones(8, np.float32))
    assert await store.count(notes) == 0


@pytest.mark.parametrize("number", [np.nan, np.inf])
async def test_a_vector_that_is_not_finite_is_poison(store: VectorStore, notes: CollectionSpec, number: float) -> None:
    with pytest.raises(Poison) as caught:
        await store.upsert(notes, [a_point(1), a_point(2, [number] * 8)])
    assert caught.value.stage == "store"
    with pytest.raises(Permanent):
        await store.search(notes, np.full(8, number, dtype=np.float32))
    assert await store.count(notes) == 0


async def test_a_refused_write_is_poison_and_quotes_nothing(store: VectorStore, notes: CollectionSpec) -> None:
    with pytest.raises(Poison) as caught:
        await store.upsert(notes, [Point("Doe, Jane", np.ones(8, np.float32), {"passage": "Jane Doe fell"})])
    assert caught.value.stage == "store"
    assert "Jane" not in str(caught.value)


# ----------------------------------------------------------------------------------------------------------------- asking


@dataclass(frozen=True)
class ToyText:
    """Embeds a text as what it says of eight words. A `TextEmbedder` whose space can be followed by eye."""

    digest: str = "d" * 64
    dimensions: int = 8
    limit: int = 50

    @property
    def identity(self) -> ModelIdentity:
        return ModelIdentity("toy", "1", self.digest)

    def offsets(self, text: str) -> list[tuple[int, int]]:
        return [found.span() for found in re.finditer(r"\w+", text)]

    def embed(self, texts: Sequence[str]) -> Floats:
        words = ("chest", "pain", "dyspnea", "fever", "cough", "fall", "fracture", "anxiety")
        rows = np.array([[0.01 + text.lower().count(word) for word in words] for text in texts], dtype=np.float32)
        if any(len(self.offsets(text)) > self.limit for text in texts):
            raise Poison("too long", stage="model")
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)

    embed_texts = embed


PASSAGES = [  # note, patient, type, passages
    ("n1", "p1", "H&P", ["chest pain and dyspnea since noon", "no fever"]),
    ("n2", "p1", "Progress", ["pain better", "slept well"]),
    ("n3", "p2", "H&P", ["fever and cough", "cough cough, some dyspnea"]),
    ("n4", "p3", "H&P", ["a fall at home", "fracture of the hip after the fall"]),
    ("n5", "p4", "H&P", ["chest pain, anxiety", "chest pain again"]),
]


async def fill(store: VectorStore, collection: CollectionSpec, model: ToyText) -> None:
    points = []
    for minutes, (note, patient, kind, passages) in enumerate(PASSAGES):
        time = (START + timedelta(minutes=minutes)).isoformat()
        for chunk, (passage, row) in enumerate(zip(passages, model.embed(passages), strict=True)):
            payload = {
                "note_id": note, "patient_id": patient, "encounter_id": None, "type": kind, "type_display": kind, "status": "final",
                "time": time, "chunk": chunk, "start": chunk * 100, "end": chunk * 100 + len(passage), "passage": passage,
                "model_digest": model.digest,
            }  # fmt: skip
            point_id = uuid.uuid5(uuid.NAMESPACE_OID, f"{note}{chunk}{model.digest}")
            points.append(Point(str(point_id), row, payload))
    await store.upsert(collection, points)


async def test_words_are_weighed_by_how_rare_they_are(store: VectorStore) -> None:
    """BM25 as `processors.words` has it: the store adds the idf over all points, deleted ones and their words gone."""
    collection = replace(NOTES, name=f"words-{uuid.uuid4().hex[:12]}", dimensions=8, served=False)
    await store.ensure([collection])
    texts = ["warfarin 5 mg", "pain, pain and more pain", "pain at night", "no pain", "warfarin stopped", "☐"]
    await store.upsert(collection, [a_point(n, passage=text, patient_id=f"p{n}") for n, text in enumerate(texts)])
    count = len([text for text in texts if words(text)])

    def bm25(text: str) -> float:
        weights = dict(zip(of_passage(text).indices, of_passage(text).values, strict=True))
        found = 0.0
        for word in ("pain", "warfarin"):
            having = sum(word in words(one) for one in texts)
            rare = math.log(1 + (count - having + 0.5) / (having + 0.5))
            found += rare * weights.get(asked(word).words.indices[0], 0.0)
        return found

    async def found(question: str, where: Where | None = None) -> dict[int, float]:
        _, scores = await store.search_both(collection, np.ones(8, np.float32), asked(question).words, where=where, limit=10)
        return {uuid.UUID(one).int: score for one, score in scores.items()}

    expected = {n: bm25(text) for n, text in enumerate(texts) if bm25(text)}
    assert await found("Pain warfarin?") == pytest.approx(expected, rel=1e-4)
    at_p4 = await found("Pain warfarin?", Where(patient_ids=["p4"]))
    assert at_p4 == pytest.approx({4: expected[4]}, rel=1e-4)  # rarity is the whole collection's
    assert await found("heparin") == await found("☐") == {}
    # what a corrected note no longer says does not find it
    await store.upsert(collection, [a_point(0, passage="heparin", patient_id="p0")])
    assert set(await found("warfarin")) == {4}
    assert (await store.spec(collection)).words == "passage"
    await store.drop(collection)


async def test_what_meaning_or_words_found_is_scored_by_both(store: VectorStore) -> None:
    notes = replace(NOTES, name=f"both-{uuid.uuid4().hex[:12]}", dimensions=8, served=False)  # rarity outlives the deleted
    await store.ensure([notes])
    rng = np.random.default_rng(3)
    rows = rng.normal(size=(60, notes.dimensions)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    texts = [" ".join(rng.choice(["pain", "fever", "cough", "fall", "rash"], size=3, replace=False)) for _ in rows]
    points = [a_point(n, row, passage=text, type=f"t{n % 2}") for n, (row, text) in enumerate(zip(rows, texts, strict=True))]
    await store.upsert(notes, points)
    question, chosen = asked("pain rash").words, Where(types=["t0"])
    evens = [one for n, one in enumerate(points) if n % 2 == 0]
    everything, by_words = await store.search_both(notes, rows[5], question, where=chosen, limit=60)
    cosines = {one.id: float(one.vector @ rows[5]) for one in evens}
    assert {hit.id: hit.score for hit in everything} == pytest.approx(cosines, abs=1e-5)
    having = {one.id for one in evens if set(words(str(one.payload["passage"]))) & {"pain", "rash"}}
    assert set(by_words) == having and len(having) < len(evens)
    hits, some = await store.search_both(notes, rows[5], question, where=chosen, limit=4)
    nearest = sorted(cosines, key=lambda one: -cosines[one])[:4]
    least = sorted(by_words.values())[-4] - 1e-5
    ids = [hit.id for hit in hits]
    assert ids == sorted(ids, key=lambda one: -cosines[one]) and set(nearest) <= set(ids) and 4 < len(ids) <= 8
    assert all(by_words[one] >= least for one in set(ids) - set(nearest))
    assert {hit.id: hit.score for hit in hits} == pytest.approx({one: cosines[one] for one in ids}, abs=1e-5)
    assert some == pytest.approx({one: by_words[one] for one in ids if one in by_words}, abs=1e-5)
    await store.drop(notes)


async def test_a_collection_of_the_time_before_words_is_fatal_and_says_what_to_do(store: VectorStore) -> None:
    collection = replace(NOTES, name=f"before-{uuid.uuid4().hex[:12]}", dimensions=8, served=False)
    await store.ensure([replace(collection, words="")])
    assert (await store.spec(collection)).words == ""
    with pytest.raises(Fatal, match="before search went by words") as caught:
        await store.ensure([collection])
    assert "vigil replay rebuild" in caught.value.hint
    await store.drop(collection)


async def test_search_finds_by_words_what_means_nothing_to_the_model(store: VectorStore, notes: CollectionSpec) -> None:
    model = ToyText()
    await fill(store, notes, model)
    (row,) = model.embed(["fall"])
    await store.upsert(notes, [a_point(77, row, note_id="n9", passage="on Zoledronate", model_digest=model.digest)])
    (first, *others) = await search_notes(store, model, "zoledronate", collection=notes)
    assert (first.note_id, first.words) == ("n9", 1.0) and first.score == pytest.approx(fused(first.meaning, 1))
    assert others and all(hit.words == 0 and hit.score == pytest.approx(fused(hit.meaning, 0)) for hit in others)
    # asked for by one of the two only, it has both scores
    (hit,) = await search_notes(store, model, "zoledronate", limit=1, collection=notes)
    assert hit == first
    # half the words and all of the meaning comes first, and what has half the words alone is among the first
    found = await search_notes(store, model, "fracture, zoledronate", limit=3, collection=notes)
    assert found[0].note_id == "n4" and "n9" in {hit.note_id for hit in found}


async def test_search_finds_notes_once_with_their_best_passage(store: VectorStore, notes: CollectionSpec) -> None:
    model = ToyText()
    await fill(store, notes, model)
    await fill(store, notes, ToyText(digest="e" * 64))  # what another model embedded is not compared with
    hits = await search_notes(store, model, "chest pain, dyspnea?", limit=3, collection=notes)
    assert [hit.note_id for hit in hits] == ["n1", "n5", "n2"]
    first = hits[0]
    assert (first.patient_id, first.type, first.time) == ("p1", "H&P", START)
    assert (first.passage, first.start, first.end) == ("chest pain and dyspnea since noon", 0, 33)
    assert first.score > 0.99
    assert len(await search_notes(store, model, "fever", limit=50, collection=notes)) == len(PASSAGES)
    at_p4 = await search_notes(store, model, "chest pain", where=Where(patient_ids=["p4"]), collection=notes)
    assert [hit.note_id for hit in at_p4] == ["n5"]
    late = Where(since=START + timedelta(minutes=3), types=["H&P"])
    assert {hit.note_id for hit in await search_notes(store, model, "pain", where=late, collection=notes)} == {"n4", "n5"}
    for empty in ("", "  \n", "word " * 60):
        with pytest.raises(Permanent):
            await search_notes(store, model, empty, collection=notes)


async def test_search_goes_on_when_one_note_has_all_the_nearest_chunks(store: VectorStore, notes: CollectionSpec) -> None:
    model = ToyText()
    near, far = model.embed(["chest pain", "chest fall"])
    digest = {"model_digest": model.digest}
    await store.upsert(notes, [a_point(n, near, note_id="long", **digest) for n in range(300)])
    await store.upsert(notes, [a_point(1000 + n, far, note_id=f"short{n}", **digest) for n in range(5)])
    hits = await search_notes(store, model, "chest pain", limit=3, collection=notes)
    assert [hit.note_id for hit in hits] == ["long", "short0", "short1"]


async def test_similar_patients(store: VectorStore, notes: CollectionSpec) -> None:
    model = ToyText()
    await fill(store, notes, model)
    hits = await similar_patients(store, model, "p1", collection=notes)
    assert hits[0].patient_id == "p4"
    assert sorted(hit.patient_id for hit in hits) == ["p2", "p3", "p4"]
    assert hits[0].nearest.note_id == "n5"
    cohort = await similar_patients(store, model, "p1", where=Where(patient_ids=["p1", "p3"]), collection=notes)
    assert [hit.patient_id for hit in cohort] == ["p3"]
    assert await similar_patients(store, model, "p1", where=Where(patient_ids=["p1"]), collection=notes) == []
    with pytest.raises(Permanent, match="nothing of this patient"):
        await similar_patients(store, model, "p9", collection=notes)


async def test_images_by_text(store: VectorStore) -> None:
    digest = uuid.uuid4().hex * 2  # the images' collection has one name: other runs' points are told apart by the model
    model = ToyText(digest=digest)
    collection = images(8)
    await store.ensure([collection])
    payload = {"patient_id": "p1", "study_uid": "1.2", "type": "CR", "body_part": "CHEST", "view": "PA", "time": START.isoformat(),
               "uri": "ab/cd/x.png", "model_digest": digest}  # fmt: skip
    rows = model.embed(["fracture", "cough fever"])
    await store.upsert(
        collection,
        [Point(str(uuid.uuid4()), row, {**payload, "instance_uid": f"1.2.{n}"}) for n, row in enumerate(rows)],
    )
    hits = await search_images(store, model, "fever", limit=5)  # type: ignore[arg-type]  # has what is asked of it
    assert [hit.instance_uid for hit in hits] == ["1.2.1", "1.2.0"]
    assert (hits[0].modality, hits[0].uri, hits[0].time) == ("CR", "ab/cd/x.png", START)
    await store.drop(collection)  # the server is the session's: the lanes' images have another length


# ------------------------------------------------------------------------------------------------------------------- size


async def test_ten_thousand_points(store: VectorStore, settings: QdrantSettings, capsys: pytest.CaptureFixture[str]) -> None:
    """10,000 points of 384 numbers: all there, the nearest found; how long it took is printed and not asserted."""
    collection = replace(NOTES, name=f"many-{uuid.uuid4().hex[:12]}")
    await store.ensure([collection])
    rows = np.random.default_rng(0).normal(size=(10_000, 384)).astype(np.float32)
    shared = {"type": "11506-3", "model_digest": "d" * 64, "passage": "a passage of some length, as a note has it. " * 10}
    points = [
        Point(str(uuid.UUID(int=n)), row, {**shared, "patient_id": f"p{n % 100}", "note_id": f"n{n // 3}",
                                            "time": (START + timedelta(minutes=n)).isoformat()})
        for n, row in enumerate(rows)
    ]  # fmt: skip
    began = time.perf_counter()
    await store.upsert(collection, points)
    stored = time.perf_counter() - began
    assert await store.count(collection) == 10_000
    took: list[float] = []
    for n in range(0, 10_000, 50):
        began = time.perf_counter()
        (hit, *_) = await store.search(collection, rows[n], limit=40, where=Where(model_digests=["d" * 64]))
        took.append((time.perf_counter() - began) * 1000)
        assert hit.id == points[n].id
    p50, p99 = np.percentile(took, [50, 99])
    with capsys.disabled():
        wire = "gRPC" if settings.prefer_grpc else "HTTP"
        print(f"\n  {await store.version()} ({wire}): 10,000 points stored in {stored:.1f} s, "
              f"search p50 {p50:.1f} ms, p99 {p99:.1f} ms")  # fmt: skip
    await store.drop(collection)


# ------------------------------------------------------------------------------------------------- the REST answers themselves

UUID_1 = "00000000-0000-0000-0000-000000000001"
UPSERT = "/points?wait=true"
QUERY = {"query": [1, 0, 0, 0], "using": "text"}
OTHER = {"query": [3, 1, 0, 0], "using": "text"}
LAST = {"next_page_offset": None}
COMPLETED = {"status": "completed"}
P1 = {"id": UUID_1, "payload": {"patient_id": "p", "time": "2026-01-01T00:00:00Z", "tags": ["a", "b"]}}
P7 = {"id": 7, "payload": {}}
ANY = object()  # a success whose result is not compared

# (method, path below /collections/<name>, body, status, result); one after the other, on one collection
EXCHANGE: list[tuple[str, str, Any, int, Any]] = [
    ("GET", "/exists", None, 200, {"exists": False}),
    ("GET", "", None, 404, None),
    ("POST", "/points/count", {}, 404, None),
    ("PUT", "", {"vectors": {"text": {"size": 0, "distance": "Cosine"}}}, 400, None),
    ("PUT", "", {"vectors": {"text": {"size": 4, "distance": "cos"}}}, 400, None),
    ("PUT", "", {"vectors": {"text": {"size": 4, "distance": "Cosine"}}}, 200, True),
    ("PUT", "", {"vectors": {"text": {"size": 4, "distance": "Cosine"}}}, 409, None),
    ("GET", "/exists", None, 200, {"exists": True}),
    ("PUT", "/index?wait=true", {"field_name": "patient_id", "field_schema": "keyword"}, 200, COMPLETED),
    ("PUT", "/index?wait=true", {"field_name": "patient_id", "field_schema": "keyword"}, 200, COMPLETED),
    ("PUT", "/index?wait=true", {"field_name": "time", "field_schema": {"type": "datetime"}}, 200, COMPLETED),
    ("PUT", "/index?wait=true", {"field_name": "x", "field_schema": "nonsense"}, 400, None),
    ("PUT", UPSERT, {"points": [{**P1, "vector": {"text": [1, 0, 0, 0]}}, {"id": 7, "vector": {"text": [0, 1, 0, 0]}}]},
     200, COMPLETED),
    ("PUT", UPSERT, {"points": [{"id": 9, "vector": {"text": [1, 0, 0]}}]}, 400, None),
    ("PUT", UPSERT, {"points": [{"id": 8, "vector": {"text": [1, 0, 0, 0]}},
                                         {"id": 9, "vector": {"text": [1]}}]}, 400, None),
    ("PUT", UPSERT, {"points": [{"id": 9, "vector": {"other": [1, 0, 0, 0]}}]}, 400, None),
    ("PUT", UPSERT, {"points": [{"id": 9, "vector": [1, 0, 0, 0]}]}, 400, None),
    ("PUT", UPSERT, {"points": [{"id": "abc", "vector": {"text": [1, 0, 0, 0]}}]}, 400, None),
    ("PUT", UPSERT, {"points": [{"id": -1, "vector": {"text": [1, 0, 0, 0]}}]}, 400, None),
    ("PUT", UPSERT, {"points": [{"id": 9, "vector": {"text": [1, None, 0, 0]}}]}, 400, None),
    ("PUT", UPSERT, {"points": [{"id": 9, "vector": {"text": [1, 0, 0, 0]}, "payload": [1]}]}, 400, None),
    ("PUT", UPSERT, {"points": []}, 400, None),
    ("PUT", UPSERT, "garbage", 400, None),
    ("PUT", UPSERT, {"batch": {"ids": [41], "vectors": {"text": [[0, 0, 2, 0]]}, "payloads": [{"b": 1}]}},
     200, COMPLETED),
    ("PUT", "/points", {"points": [{"id": 42, "vector": {"text": [0, 0, 0, 0]}}]}, 200, {"status": "acknowledged"}),
    ("PUT", UPSERT, {"points": [{"id": 43, "vector": {}}]}, 200, COMPLETED),
    ("POST", "/points/count", {"exact": True}, 200, {"count": 5}),
    ("POST", "/points", {"ids": [7, UUID_1, 55], "with_payload": True}, 200, [P7, P1]),
    ("POST", "/points", {"ids": [7]}, 200, [{"id": 7}]),
    ("POST", "/points", {"ids": [41], "with_payload": ["zz"], "with_vector": ["text"]}, 200,
     [{"id": 41, "payload": {}, "vector": {"text": [0, 0, 1, 0]}}]),
    ("GET", "/points/7", None, 200, {**P7, "vector": {"text": [0, 1, 0, 0]}}),
    ("GET", f"/points/{UUID_1}", None, 200, {**P1, "vector": {"text": [1, 0, 0, 0]}}),
    ("GET", "/points/55", None, 404, None),
    ("GET", "/points/zzz", None, 400, None),
    ("POST", "/points/query", {**OTHER, "limit": 2, "with_payload": True}, 200,
     {"points": [{**P1, "score": 0.948683}, {**P7, "score": 0.316228}]}),
    ("POST", "/points/query", {**OTHER, "limit": 1, "offset": 1}, 200, {"points": [{"id": 7, "score": 0.316228}]}),
    ("POST", "/points/query", {**OTHER, "score_threshold": 0.5}, 200, {"points": [{"id": UUID_1, "score": 0.948683}]}),
    ("POST", "/points/query", {"query": {"nearest": UUID_1}, "using": "text", "limit": 9, "score_threshold": 0.5}, 200,
     {"points": []}),
    ("POST", "/points/query", {"query": 999, "using": "text"}, 404, None),
    ("POST", "/points/query", {"query": [1, 0, 0], "using": "text"}, 400, None),
    ("POST", "/points/query", {"query": [1, 0, 0, 0]}, 400, None),
    ("POST", "/points/query", {"query": [1, 0, 0, 0], "using": "zz"}, 400, None),
    ("POST", "/points/query", {**QUERY, "limit": 0}, 422, None),
    ("POST", "/points/query", {**QUERY, "filter": {"bogus": []}}, 400, None),
    ("POST", "/points/query", {**QUERY, "filter": {"must": {"key": "tags"}}}, 422, None),
    ("POST", "/points/query", {**QUERY, "filter": {"must": {"key": "tags", "match": {"value": 1.5}}}},
     400, None),
    ("POST", "/points/query", {**QUERY, "filter": {"must": {"key": "time", "range": {"gte": "soon"}}}},
     400, None),
    ("POST", "/points/query/batch", {"searches": [{**QUERY, "limit": 1}] * 2}, 200,
     [{"points": [{"id": UUID_1, "score": 1.0}]}] * 2),
    ("POST", "/points/search", {"vector": {"name": "text", "vector": [0, 3, 1, 0]}, "limit": 2}, 200,
     [{"id": 7, "score": 0.948683}, {"id": 41, "score": 0.316228}]),
    ("POST", "/points/scroll", {"limit": 2}, 200, {"points": [P7, {"id": 41, "payload": {"b": 1}}], "next_page_offset": 42}),
    ("POST", "/points/scroll", {"offset": UUID_1, "with_payload": {"exclude": ["time"]}}, 200,
     {"points": [{"id": UUID_1, "payload": {"patient_id": "p", "tags": ["a", "b"]}}], **LAST}),
    ("POST", "/points/scroll", {"limit": 0}, 422, None),
    *[
        ("POST", "/points/scroll", {"filter": wanted, "with_payload": False}, 200,
         {"points": [{"id": one} for one in found], **LAST})
        for wanted, found in [
            ({"must": [{"key": "patient_id", "match": {"value": "p"}}]}, [UUID_1]),
            ({"must": {"key": "tags", "match": {"any": ["z", "b"]}}}, [UUID_1]),
            ({"must": {"key": "tags", "match": {"except": ["a"]}}}, [UUID_1]),
            ({"must_not": [{"key": "patient_id", "match": {"value": "p"}}]}, [7, 41, 42, 43]),
            ({"should": [{"has_id": [7]}, {"key": "b", "range": {"gte": 1}}]}, [7, 41]),
            ({"min_should": {"conditions": [{"has_id": [7, 41]}, {"key": "b", "range": {"lt": 2}}], "min_count": 2}}, [41]),
            ({"must": [{"should": [{"has_id": [7]}, {"has_id": [41]}]}, {"must_not": [{"has_id": [41]}]}]}, [7]),
            ({"must": [{"is_empty": {"key": "b"}}, {"is_empty": {"key": "patient_id"}}]}, [7, 42, 43]),
            ({"must": [{"is_null": {"key": "b"}}]}, []),
            ({"must": [{"key": "tags", "values_count": {"gte": 2}}]}, [UUID_1]),
            ({"must": [{"key": "patient_id", "match": {"text": "p"}}]}, [UUID_1]),
            ({"must": [{"key": "b", "match": {"value": 1}}]}, [41]),
            ({"must": [{"key": "b", "match": {"value": True}}]}, []),
            ({"must": [{"has_vector": "text"}], "must_not": [{"has_id": [42]}]}, [7, 41, UUID_1]),
            ({"must": [{"key": "time", "range": {"gt": "2025-12-31T23:00:00-01:00", "lte": "2026-01-02T00:00:00Z"}}]}, []),
            ({"must": [{"key": "time", "range": {"gte": "2025-12-31T23:00:00-01:00"}}]}, [UUID_1]),
            ({}, [7, 41, 42, 43, UUID_1]),
        ]
    ],
    ("POST", "/points/payload?wait=true", {"points": [7], "payload": {"q": {"r": 1}}}, 200, COMPLETED),
    ("POST", "/points/payload?wait=true", {"points": [7], "payload": {"s": 2}, "key": "q"}, 200, COMPLETED),
    ("GET", "/points/7", None, 200, {"id": 7, "payload": {"q": {"r": 1, "s": 2}}, "vector": {"text": [0, 1, 0, 0]}}),
    ("POST", "/points/payload?wait=true", {"points": [99], "payload": {"q": 1}}, 404, None),
    ("POST", "/points/payload?wait=true", {"payload": {"q": 1}}, 400, None),
    ("POST", "/points/payload?wait=true", {"filter": {"must": [{"has_id": [41, 99]}]}, "payload": {"z": 1}}, 200, COMPLETED),
    ("GET", "/points/41", None, 200, {"id": 41, "payload": {"b": 1, "z": 1}, "vector": {"text": [0, 0, 1, 0]}}),
    ("PUT", "/points/payload?wait=true", {"points": [41], "payload": {"only": True}}, 200, COMPLETED),
    ("POST", "/points/payload/delete?wait=true", {"points": [7], "keys": ["q", "never"]}, 200, COMPLETED),
    ("POST", "/points/scroll", {"limit": 2}, 200, {"points": [P7, {"id": 41, "payload": {"only": True}}], "next_page_offset": 42}),
    ("POST", "/points/batch?wait=true", {"operations": [
        {"delete": {"points": [42]}}, {"set_payload": {"filter": {"must": {"has_id": [7]}}, "payload": {"v": 1}}},
        {"upsert": {"points": [{"id": 44, "vector": {"text": [1, 1, 1, 1]}}]}}]}, 200, [COMPLETED] * 3),
    ("POST", "/points/batch?wait=true", {"operations": [
        {"delete": {"points": [44]}}, {"set_payload": {"points": [99], "payload": {"a": 1}}}]}, 404, None),
    ("POST", "/points/batch?wait=true", {"operations": [{"nonsense": {}}]}, 400, None),
    ("POST", "/points/batch?wait=true", {"operations": []}, 200, []),
    ("POST", "/points/scroll", {"with_payload": False}, 200,
     {"points": [{"id": 7}, {"id": 41}, {"id": 43}, {"id": UUID_1}], **LAST}),
    ("POST", "/points/delete?wait=true", {"points": [999]}, 200, COMPLETED),
    ("POST", "/points/delete?wait=true", {}, 400, None),
    ("POST", "/points/delete?wait=true", {"filter": {"must": [{"key": "only", "match": {"value": True}}]}}, 200, COMPLETED),
    ("POST", "/points/count", {"filter": {"must": {"has_id": [41, 7]}}}, 200, {"count": 1}),
    ("GET", "", None, 200, ANY),
    ("DELETE", "/index/time?wait=true", None, 200, COMPLETED),
    ("DELETE", "", None, 200, True),
    ("DELETE", "", None, 200, False),
]  # fmt: skip


def without(value: Any, *names: str) -> Any:
    """Return JSON without the fields that differ from run to run, numbers rounded."""
    if isinstance(value, dict):
        return {key: without(one, *names) for key, one in value.items() if key not in names}
    if isinstance(value, list):
        return [without(one, *names) for one in value]
    return round(value, 6) if isinstance(value, float) else value


async def unlike(base: str, exchange: Sequence[tuple[str, str, Any, int, Any]]) -> list[str]:
    """Make the requests, one after the other; return those that were not answered as they should have been."""
    wrong = []
    async with httpx.AsyncClient(trust_env=False) as client:
        for method, path, body, status, result in exchange:
            content = {"content": body} if isinstance(body, str) else {"json": body} if body is not None else {}
            answer = await client.request(method, base + path, **content)
            said = answer.json()
            got = without(said.get("result"), "operation_id", "version")
            fits = answer.status_code == status and (result is ANY or status != 200 or got == without(result))
            if status != 200:
                fits = fits and isinstance(said["status"]["error"], str) and set(said) == {"status", "time"}
            if not fits:
                wrong.append(f"{method} {path} {body}: {answer.status_code} {answer.text}, not {status} {result}")
    return wrong


@pytest.mark.parametrize("settings", ["embedded", "server"], indirect=True)
async def test_the_rest_answers(settings: QdrantSettings) -> None:
    """Each request is answered with the status and the result that a Qdrant server gives."""
    base = f"{settings.url}/collections/rest-{uuid.uuid4().hex[:12]}"
    assert await unlike(base, EXCHANGE) == []


def setting(collection: str, alias: str) -> dict[str, Any]:
    return {"create_alias": {"collection_name": collection, "alias_name": alias}}


def taking(alias: str) -> dict[str, Any]:
    return {"delete_alias": {"alias_name": alias}}


@pytest.mark.parametrize("settings", ["embedded", "server"], indirect=True)
async def test_the_rest_answers_about_aliases(settings: QdrantSettings) -> None:
    """Those before a refused action stay done; an alias is no collection, and goes with the one that it leads to."""
    name = f"al-{uuid.uuid4().hex[:8]}"
    one, two, no, alias, later = (f"{name}-{end}" for end in ("one", "two", "no", "alias", "later"))
    vectors = {"vectors": {"text": {"size": 4, "distance": "Cosine"}}}
    leads = {"aliases": [{"alias_name": alias, "collection_name": one}]}
    exchange: list[tuple[str, str, Any, int, Any]] = [
        ("PUT", f"/{one}", vectors, 200, True),
        ("PUT", f"/{two}", vectors, 200, True),
        ("POST", "/aliases", {"actions": [setting(one, alias)]}, 200, True),
        ("POST", "/aliases", {"actions": [setting(one, alias)]}, 200, True),
        ("GET", f"/{one}/aliases", None, 200, leads),
        ("GET", f"/{alias}/aliases", None, 200, {"aliases": []}),
        ("GET", f"/{alias}/exists", None, 200, {"exists": True}),
        ("PUT", f"/{alias}/points?wait=true", {"points": [{"id": 1, "vector": {"text": [1, 0, 0, 0]}}]}, 200, COMPLETED),
        ("POST", f"/{one}/points/count", {}, 200, {"count": 1}),
        ("POST", "/aliases", {"actions": [setting(two, alias)]}, 200, True),
        ("POST", f"/{alias}/points/count", {}, 200, {"count": 0}),
        ("POST", "/aliases", {"actions": [taking(alias), setting(one, alias)]}, 200, True),
        ("PUT", f"/{alias}", vectors, 400, None),
        ("POST", "/aliases", {"actions": [setting(no, alias)]}, 404, None),
        ("POST", "/aliases", {"actions": [setting(alias, later)]}, 404, None),
        ("POST", "/aliases", {"actions": [setting(one, two)]}, 409, None),
        ("POST", "/aliases", {"actions": [taking(no)]}, 200, True),
        ("POST", "/aliases", {"actions": []}, 200, True),
        ("POST", "/aliases", {}, 400, None),
        ("GET", f"/{one}/aliases", None, 200, leads),
        ("POST", "/aliases", {"actions": [{"rename_alias": {"old_alias_name": alias, "new_alias_name": later}}]}, 200, True),
        ("POST", "/aliases", {"actions": [taking(later), setting(no, later)]}, 404, None),
        ("GET", f"/{one}/aliases", None, 200, {"aliases": []}),
        ("POST", "/aliases", {"actions": [setting(one, alias)]}, 200, True),
        ("DELETE", f"/{alias}", None, 200, False),
        ("DELETE", f"/{one}", None, 200, True),
        ("GET", f"/{alias}", None, 404, None),
        ("GET", f"/{alias}/exists", None, 200, {"exists": False}),
        ("DELETE", f"/{two}", None, 200, True),
    ]
    assert await unlike(f"{settings.url}/collections", exchange) == []


@pytest.mark.parametrize("settings", ["embedded", "server"], indirect=True)
@pytest.mark.parametrize("name", ["a%2Fb", "a%3Cb", "x" * 256])
async def test_names_that_no_collection_may_have(settings: QdrantSettings, name: str, tmp_path: Path) -> None:
    async with httpx.AsyncClient(trust_env=False) as client:
        body = {"vectors": {"text": {"size": 4, "distance": "Cosine"}}}
        assert (await client.put(f"{settings.url}/collections/{name}", json=body)).status_code == 422
