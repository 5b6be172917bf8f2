"""A topic's records and the merges, in the order in which they were written, through a lane's own process and store.

Nothing is written to a topic: what would have been a dead letter there is remembered here. Every record may be applied again.
"""

import asyncio
import heapq
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from contextlib import AsyncExitStack
from typing import Any, Final

from aiokafka import TopicPartition

from connectors.qdrant.store import VectorStore
from models.errors import Poison
from processors.events import Event, NoteEvent, PatientEvent
from processors.vectors import owners
from streams.clock import Clock
from streams.journal import stretch
from streams.lane import OUTDATED, Input, Outcome
from streams.lanes.images import ImagesToFindings
from streams.lanes.notes import NotesToVectors
from streams.outbox import Outbox
from streams.partition import Dead, PartitionWorker
from streams.reader import Reader
from streams.settings import Settings
from streams.staging import Building
from streams.tracing import Tracing
from streams.wire import decode

TOGETHER: Final = 64  # records of one batch, as a lane's

Writer = NotesToVectors | ImagesToFindings
LANES: Final[Mapping[str, type[Writer]]] = {"notes": NotesToVectors, "images": ImagesToFindings}

Tell = Callable[[str, int, int], None]  # what is being done, how much of it is done, of how much


def owned(event: Event) -> Collection[str]:
    """Say of what an event gives all the points that there are: the note, the one that it replaces, or the image."""
    return owners(event, ()) if isinstance(event, NoteEvent) else (event.id,)


class _Worker(PartitionWorker[Any]):
    """Works as the lane's own worker does, transient trouble is waited for; each record ends in `failed`, `passed` or `owners`."""

    failed: set[tuple[int, int]]
    passed: set[tuple[int, int]]
    owners: set[str]

    async def apply(self, records: Sequence[Any]) -> None:
        """Process and store records, in order."""
        await self._work(records)

    async def _write(self, inputs: Sequence[Input[Any]], outcomes: Sequence[Outcome], dead: Sequence[Dead]) -> None:
        self.failed |= {(one.record.partition, one.record.offset) for one in dead}
        lost = {id(one.record) for one in dead}
        for one, outcome in zip(inputs, outcomes, strict=True):
            if id(one.record) in lost:
                continue
            if outcome.word == OUTDATED:  # it gave nothing: the newer version may lie where the topic no longer reaches
                self.passed.add((one.record.partition, one.record.offset))
            else:
                self.owners.update(owned(one.event))


class Reapplying:
    """Applies to the lane's collection what its topic and `clinical.patients` hold, from where `building` stands.

    `records` and `merges` count what was applied, `owners` is of what all points were written (notes, images).
    """

    def __init__(
        self, settings: Settings, outbox: Outbox, clock: Clock, lane: Writer, store: VectorStore, building: Building
    ) -> None:
        self._settings = settings
        self._prefix = settings.kafka.topic_prefix
        self._lane = lane
        self._store = store
        self._building = building
        self._topics = (lane.kind.topic, PatientEvent.topic)
        tracing = Tracing(settings.tracing, "rebuild")
        place = TopicPartition(lane.kind.topic, -1)
        self._worker = _Worker(lane, place, outbox, settings.engine, clock, "rebuild", tracing)
        self._worker.failed, self._worker.passed, self._worker.owners = building.failed, building.passed, set()
        self._survivors = lane.survivors  # the lane closes it
        self.records = 0
        self.merges = 0

    @property
    def owners(self) -> set[str]:
        """Of what all points were written."""
        return self._worker.owners

    async def recall(self) -> dict[int, int]:
        """Return where the topic's partitions begin; read what was applied already, without computing anything."""
        begins: dict[int, int] = {}
        async with Reader(self._settings.kafka) as reader:
            topic = self._lane.kind.topic
            for number in await reader.partitions(self._prefix + topic):
                begin, _ = await reader.bounds(self._prefix + topic, number)
                begins[number] = begin
                done = self._building.position(topic, number)
                async for record in stretch(reader, self._prefix + topic, number, begin, done):
                    self._remember(record)
        return begins

    def _remember(self, record: Any) -> None:
        if not any((record.partition, record.offset) in ones for ones in (self._building.failed, self._building.passed)):
            try:
                self.owners.update(owned(decode(self._lane.kind, record)))
            except Poison:
                return

    async def catch_up(self, tell: Tell) -> None:
        """Apply what lies on the topics up to now, while a live lane writes to the same collection.

        A record that is applied here may put an older version over the one that the lane has just stored. So what has come
        meanwhile is read for the notes, images and patients that were touched, and applied once more, until nothing of them is new.
        """
        touched: set[str] | None = None
        while touched is None or touched:
            kept, self._worker.owners = self._worker.owners, set()
            _, moved = await self.run(tell, only=touched)
            touched = self._worker.owners | moved
            self._worker.owners = kept | self._worker.owners

    async def run(self, tell: Tell, *, only: Collection[str] | None = None) -> tuple[int, set[str]]:
        """Apply what lies on the topics from where the building stands to their present ends.

        Return how many records were read, and the patients whose points were moved by merges. `only`: records of these owners and
        patients; all merges.
        """
        topic = self._lane.kind.topic
        waiting: list[Any] = []
        moved: set[str] = set()
        read = done = 0

        async def flush() -> None:
            nonlocal done
            if waiting:
                await self._worker.apply(waiting)
                self.records += len(waiting)
                done += len(waiting)
                waiting.clear()
            self._building.save()

        async with AsyncExitStack() as stack:
            heads, ends = await self._heads(stack)
            await self._survivors.catch_up()  # a merge that was undone moves nothing: points have forgotten whose they were
            total = sum(end - self._building.position(*place) for place, end in ends.items() if place[0] == topic)
            tell("build", 0, total)
            async for record in in_order(heads):
                read += 1
                if record.topic == self._prefix + PatientEvent.topic:
                    if merge := self._merge(record):
                        await flush()
                        await self._rekey(*merge)
                        moved.update(merge)
                elif only is None or self._concerns(record, only):
                    waiting.append(record)
                self._building.move(record.topic.removeprefix(self._prefix), record.partition, record.offset + 1)
                if len(waiting) >= TOGETHER:
                    await flush()
                    tell("build", done, total)
            await flush()
            for (name, number), end in ends.items():
                self._building.move(name, number, end)  # past what compaction took
            self._building.save()
        return read, moved

    def _concerns(self, record: Any, only: Collection[str]) -> bool:
        try:
            event = decode(self._lane.kind, record)
        except Poison:
            return False
        return getattr(event, "patient_id", "") in only or any(one in only for one in owned(event))

    async def _heads(self, stack: AsyncExitStack) -> tuple[list[AsyncIterator[Any]], dict[tuple[str, int], int]]:
        """Open a reader for every partition that has something new: they are read side by side."""
        asks = await stack.enter_async_context(Reader(self._settings.kafka))
        heads: list[AsyncIterator[Any]] = []
        ends: dict[tuple[str, int], int] = {}
        for topic in self._topics:
            for number in await asks.partitions(self._prefix + topic):
                begin, end = await asks.bounds(self._prefix + topic, number)
                start = max(begin, self._building.position(topic, number))
                self._building.move(topic, number, start)
                ends[topic, number] = max(start, end)
                if start < end:
                    reader = await stack.enter_async_context(Reader(self._settings.kafka))
                    heads.append(stretch(reader, self._prefix + topic, number, start, end))
        return heads, ends

    def _merge(self, record: Any) -> tuple[str, str] | None:
        """Return (old, surviving) id of a merge as it stands at the ends of the topic; None for one that was undone since."""
        try:
            event = decode(PatientEvent, record)
        except Poison:
            return None
        survivor = self._survivors.of(event.patient_id)
        return (event.patient_id, survivor) if event.merged_into and survivor != event.patient_id else None

    async def settle(self) -> None:
        """Give what lies under a record that was merged to the one that stands for it, whatever wrote it there or left it."""
        await self._survivors.catch_up()
        collection, whose = self._lane.collection(0), set[str]()
        async for point in self._store.scan(collection, vectors=False, payloads=("patient_id",)):
            whose.add(str(point.payload["patient_id"]))
        for old in sorted(whose):
            if (survivor := self._survivors.of(old)) != old:
                await self._store.rekey_patient([collection], old=old, new=survivor)

    async def _rekey(self, old: str, new: str) -> None:
        collection = self._lane.collection(0)  # only its name is asked for
        await self._worker.steps.persist("re-key", lambda: self._store.rekey_patient([collection], old=old, new=new))
        self.merges += 1


async def in_order(heads: Sequence[AsyncIterator[Any]]) -> AsyncIterator[Any]:
    """Yield the records of several partitions by the time when they were written; each partition's own order is kept.

    Of records of one moment those of another topic than the patients' come first: a merge moves what was there before it.
    """
    waiting: list[tuple[int, bool, int, Any]] = []

    async def take(index: int) -> None:
        record = await anext(heads[index], None)
        if record is not None:
            heapq.heappush(waiting, (record.timestamp, record.topic.endswith(PatientEvent.topic), index, record))

    await asyncio.gather(*(take(index) for index in range(len(heads))))
    while waiting:
        _, _, index, record = heapq.heappop(waiting)
        yield record
        await take(index)
