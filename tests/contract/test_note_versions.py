"""The notes' vectors lane over a real store: whichever order versions of a note come in and however often, the newest stands.

Without Kafka: the lane is given records as the engine would give them.
"""

import uuid
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from itertools import permutations
from types import SimpleNamespace
from typing import Any

import pytest

from connectors.hl7.settings import Hl7Peer, Peer
from connectors.qdrant.embedded import EmbeddedQdrant
from connectors.qdrant.settings import NOTES, QdrantSettings
from connectors.qdrant.store import Point, VectorStore, Where
from models.errors import Transient
from processors.events import NoteEvent, Source
from streams.deadletters import ATTEMPTS, LETTER, SOURCE
from streams.lane import Input
from streams.lanes.notes import NotesToVectors
from streams.metrics import LaneMetrics
from streams.searching import Searcher
from streams.settings import Settings
from streams.survivors import Survivors
from tests.clinic import note, note_id
from tests.hl7_messages import NOW, PID, mapper, message

pytestmark = [pytest.mark.qdrant, pytest.mark.timeout(300)]

LONG = "Productive cough and fever, seen on the round. " * 30  # several chunks


@pytest.fixture(scope="module", params=["embedded", "server"])
def url(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    if request.param == "server":
        yield request.getfixturevalue("qdrant_server").url
        return
    with EmbeddedQdrant(tmp_path_factory.mktemp("vectors"), sync=False) as embedded:
        yield embedded.url


@dataclass
class Desk:
    """A lane, and one patient's notes."""

    lane: NotesToVectors
    settings: Settings
    patient: str
    offset: int = 0

    def version(self, name: str, text: str, number: int, **fields: Any) -> NoteEvent:
        """Version `number` of a note, received in that hour."""
        received = note("", "", "").received_at + timedelta(hours=number)
        return note(self.patient, name, text, version=number, **{"received_at": received, **fields})

    async def come(self, *events: NoteEvent, batch: int = 1, original: int | None = None) -> list[str]:
        """Give events to the lane, in batches; return what the audit says of each. `original`: the offset of what is redriven."""
        headers = []
        if original is not None:
            headers = [(LETTER, b"l"), (ATTEMPTS, b"1"), (SOURCE, f"0/{original}".encode())]
        words = []
        for start in range(0, len(events), batch):
            inputs = []
            for event in events[start : start + batch]:
                source = Source(topic="clinical.notes", partition=0, offset=self.offset, event_id=event.id)
                inputs.append(Input(event, source, SimpleNamespace(headers=headers, partition=0, offset=self.offset)))
                self.offset += 1
            words += await self.pass_on(inputs)
        return words

    async def pass_on(self, inputs: Sequence[Input[NoteEvent]]) -> list[str]:
        outcomes = await self.lane.process(inputs)
        await self.lane.store(inputs, outcomes)
        return [outcome.word for outcome in outcomes]

    async def held(self, *names: str) -> list[Point]:
        """What the store has of the patient's notes (of these)."""
        where = Where(patient_ids=[self.patient], note_ids=[note_id(self.patient, name) for name in names])
        async with VectorStore(self.settings.vectors) as store:
            return [point async for point in store.scan(NOTES, where)]

    async def passages(self, *names: str) -> list[str]:
        return [str(point.payload["passage"]) for point in await self.held(*names)]


@pytest.fixture(autouse=True)
def nobody_was_merged(monkeypatch: pytest.MonkeyPatch) -> None:
    """No broker is asked."""

    async def hear(self: Survivors) -> None:
        pass

    monkeypatch.setattr(Survivors, "hear", hear)


@pytest.fixture
async def desk(url: str) -> AsyncIterator[Desk]:
    settings = Settings(vectors=QdrantSettings(url=url))
    async with VectorStore(settings.vectors) as store:
        await store.ensure([NOTES])  # there, so that the lane asks no broker whether it lost them
    lane = NotesToVectors(settings, LaneMetrics("notes-vectors"))
    await lane.open()
    yield Desk(lane, settings, f"p-{uuid.uuid4().hex[:8]}")
    await lane.close()


def again(event: NoteEvent) -> NoteEvent:
    """The event of a message that its sender repeats after a restart: the same but for its receipt."""
    return event.model_copy(update={"received_at": event.received_at + timedelta(days=30)})


async def test_an_original_that_is_sent_again_does_not_come_back(desk: Desk) -> None:
    first = desk.version("a", LONG + "Patient has endocarditis.", 1)
    second = desk.version("a", "Corrected: no endocarditis found.", 2, status="corrected", relation="edit")
    assert await desk.come(first, second, again(first), first) == ["ok", "ok", "outdated", "outdated"]
    assert await desk.passages() == [second.text]
    # Nor when the lane has forgotten everything, as a restarted one.
    other = Desk(NotesToVectors(desk.settings, LaneMetrics("other")), desk.settings, desk.patient, desk.offset)
    await other.lane.open()
    assert await other.come(again(again(first))) == ["outdated"]
    await other.lane.close()
    assert await desk.passages() == [second.text]
    async with Searcher(desk.settings) as searcher:
        (hit,) = await searcher.search("endocarditis", where={"patient_ids": [desk.patient]})
    assert hit["passage"] == second.text
    # A message of its own that says the first text once more is news.
    assert await desk.come(desk.version("a", "Patient has endocarditis.", 3, relation="edit")) == ["ok"]
    assert await desk.passages() == ["Patient has endocarditis."]
    assert await desk.come(again(second), again(first)) == ["outdated"] * 2
    assert await desk.passages() == ["Patient has endocarditis."]


@pytest.mark.parametrize("status", ["entered-in-error", "cancelled"])
async def test_a_withdrawn_note_stays_withdrawn(desk: Desk, status: str) -> None:
    first = desk.version("a", LONG, 1)
    withdrawn = desk.version("a", "", 2, status=status)
    await desk.come(first, withdrawn, again(first))
    assert await desk.held() == []
    other, taken_back = desk.version("b", LONG, 1), desk.version("b", "", 2, status=status)
    await desk.come(taken_back, other)  # the note itself comes late
    assert await desk.held() == []
    back = desk.version("a", "Right patient after all.", 3)
    await desk.come(back, again(first), again(withdrawn))
    assert await desk.passages() == [back.text]


async def test_a_replaced_note_stays_replaced(desk: Desk) -> None:
    old = desk.version("old", LONG, 1)
    new = desk.version("new", "No endocarditis.", 2, relation="replacement", replaces=old.note_id)
    for number, order in enumerate(permutations((old, new, again(old)))):
        mine = Desk(desk.lane, desk.settings, f"{desk.patient}-{number}")
        old_id = note_id(mine.patient, "old")
        events = []
        for one in order:
            name = "new" if one is new else "old"
            changes = {"patient_id": mine.patient, "note_id": note_id(mine.patient, name), "replaces": one.replaces and old_id}
            events.append(one.model_copy(update={**changes, "id": f"{mine.patient}-{one.id}"}))
        await mine.come(*events)
        assert await mine.passages() == [new.text], number
    added = desk.version("added", "Addendum.", 3, relation="addendum", replaces=desk.version("kept", "", 1).note_id)
    await desk.come(desk.version("kept", "Walks.", 1), added)
    assert sorted(await desk.passages()) == ["Addendum.", "Walks."]
    revived = desk.version("old", "A version of its own, later.", 4)
    await desk.come(old, new, revived, again(old))
    assert await desk.passages("old") == [revived.text]


async def test_what_an_addendum_adds_to_stands_whatever_number_it_comes_under(desk: Desk) -> None:
    reader, peer = mapper(), Peer("ris", Hl7Peer())
    feed = [
        ("T02", "D1", "", "DI", "Large subdural haematoma."),
        ("T06", "D1", "", "AU", "Neurosurgery called."),
        ("T06", "D2", "D1", "AU", "Dictated by Dr X."),
        ("T06", "D2", "D1", "AU", "Read again by Dr Y."),
        ("T03", "D1", "", "AU", ""),
    ]

    async def send(trigger: str, number: str, parent: str, status: str, text: str) -> None:
        lines = [f"OBX|1|TX|18842-5^Summary^LN||{text}||||||F"] if text else []
        raw = message(PID, f"TXA|1|DS|TX|||||||||{number}|{parent}||||{status}", *lines, kind=f"MDM^{trigger}")
        outcome = reader.handle(raw, peer, NOW + timedelta(minutes=desk.offset))
        reader.learn(outcome)
        made = [event for event in outcome.events if isinstance(event, NoteEvent)]
        assert made
        await desk.come(*(event.model_copy(update={"patient_id": desk.patient}) for event in made))

    for one in feed:
        await send(*one)
    assert sorted(await desk.passages()) == sorted(text for *_, text in feed if text)
    assert {point.payload["status"] for point in await desk.held()} == {"final"}
    assert sorted(str(point.payload["relation"]) for point in await desk.held()) == ["addendum"] * 3 + ["original"]
    await send("T03", "D1", "", "AU||CA", "")
    assert sorted(await desk.passages()) == ["Dictated by Dr X.", "Read again by Dr Y."]


async def test_every_order_and_every_batch_ends_alike(desk: Desk) -> None:
    texts = {1: LONG, 2: "", 3: "Short.", 4: LONG[:1000]}
    ends: list[dict[str, dict[str, Any]]] = []
    for number, order in enumerate(permutations((1, 2, 3, 4))):
        name = f"n{number}"
        versions = {one: desk.version(name, text, one) for one, text in texts.items()}
        await desk.come(*(versions[one] for one in order), again(versions[order[0]]), batch=1 + number % 6)
        assert {point.payload["version"] for point in await desk.held(name)} == {versions[4].id}, order
        placeless = ("offset", "note_id", "version")
        ends.append(
            {str(p.payload["chunk"]): {k: v for k, v in p.payload.items() if k not in placeless} for p in await desk.held(name)}
        )
    assert all(end == ends[0] for end in ends)


async def test_of_versions_of_one_moment_the_later_on_the_topic_stands(desk: Desk) -> None:
    first, second = (
        desk.version("a", text, n, received_at=desk.version("a", "", 1).received_at) for n, text in ((1, "A."), (2, "B."))
    )
    await desk.come(first, second, first)
    assert await desk.passages() == ["B."]
    # A letter's original that never was stored, redriven: it counts as of its own place.
    third, fourth = (one.model_copy(update={"note_id": note_id(desk.patient, "b")}) for one in (first, second))
    desk.offset += 1  # the original of the third
    await desk.come(fourth)
    assert await desk.come(third, original=desk.offset - 2) == ["outdated"]
    assert await desk.passages("b") == ["B."]


async def test_test_traffic_takes_the_place_of_nothing_real_and_is_found_only_when_asked_for(desk: Desk) -> None:
    real = desk.version("a", "Endocarditis.", 1)
    drill = desk.version("a", "Drill: endocarditis.", 2, processing="training")
    other = desk.version(
        "b", "Drill: endocarditis, too.", 3, processing="debugging", replaces=real.note_id, relation="replacement"
    )
    await desk.come(real, drill, other)
    where = {"patient_ids": [desk.patient]}
    async with Searcher(desk.settings) as searcher:
        (hit,) = await searcher.search("endocarditis", where=where)
        assert (hit["passage"], "processing" in hit) == (real.text, False)
        both = await searcher.search("endocarditis", where={**where, "production": False})
    assert {hit["passage"]: hit.get("processing", "") for hit in both} == {real.text: "", other.text: "debugging"}
    await desk.come(real.model_copy(update={"id": "late", "note_id": other.note_id, "text": "Real."}))
    assert await desk.passages("b") == ["Real."]


async def test_points_of_an_earlier_release_are_known_by_what_they_say(desk: Desk) -> None:
    first, second = desk.version("a", LONG, 1), desk.version("a", "Corrected.", 2)
    await desk.come(second)
    held = await desk.held()
    async with VectorStore(desk.settings.vectors) as store:
        for point in held:
            old = {name: value for name, value in point.payload.items() if name != "processing"}
            await store.upsert(NOTES, [Point(point.id, point.vector, old)])
    assert await desk.come(first) == ["outdated"]
    assert await desk.passages() == ["Corrected."]
    async with Searcher(desk.settings) as searcher:
        assert len(await searcher.search("corrected", where={"patient_ids": [desk.patient]})) == 1


async def test_killed_between_two_steps_it_does_the_same_again(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second, withdrawn = (
        desk.version("a", LONG, 1),
        desk.version("a", "Corrected.", 2),
        desk.version("b", "", 2, status="cancelled"),
    )
    await desk.come(first, desk.version("b", LONG, 1))
    for step, after in (("upsert", 0), ("upsert", 1), ("batch_update_points", 0)):
        done = 0

        assert desk.lane._store is not None
        client = desk.lane._store._client
        real = getattr(client, step)

        async def some(*arguments: Any, _after: int = after, _real: Any = real, **named: Any) -> Any:
            nonlocal done
            done += 1
            if done > _after:
                raise Transient("killed")
            return await _real(*arguments, **named)

        inputs = [
            Input(one, Source(topic="clinical.notes", partition=0, offset=10 + n, event_id=one.id), SimpleNamespace(headers=[]))
            for n, one in enumerate((second, withdrawn))
        ]
        with monkeypatch.context() as patched, pytest.raises(Transient):
            patched.setattr(client, step, some)
            await desk.pass_on(inputs)
        shown = set(await desk.passages("a"))
        assert shown, "never neither"
    await desk.pass_on(inputs)
    assert await desk.passages() == ["Corrected."]
    desk.offset = 20
    await desk.come(again(first), again(desk.version("b", LONG, 1)))
    assert await desk.passages() == ["Corrected."]
