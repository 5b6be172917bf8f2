"""Rebuild: a collection of the vector store made anew from the topics, beside the one that serves, and then put in its place.

    build     what clinical.notes (or clinical.images) and the merges on clinical.patients hold, in the order in which they were
              written, through the lane's own process and store, into `notes-rebuild`
    survey    compare it with the collection that serves, point by point; what the topics no longer tell is carried over
    swap      store what differs into the collection that serves, then delete there what the topics do not say
    catch up  apply to it what was written meanwhile, until nothing is left; drop `notes-rebuild`

So search is never empty: the collection that serves keeps its points until the new ones are in. (`Wish.drop` begins with an empty
one, for a collection that is damaged or made for another model, and fills it without embedding anything.)

A live lane may go on. What it writes while the swap runs may be overwritten by an older version for a moment; whatever it has
written lies on the topic behind the place where the build stopped, and is applied once more at the end, until a look at the topics
finds nothing new. A crash in the middle: with a progress file the same command goes on where it was (each step may be repeated).
Without one the unfinished collection stays, and the next rebuild refuses to throw it away unasked.
"""

import asyncio
import heapq
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from typing import Any, Final

from aiokafka import TopicPartition

from connectors.qdrant.settings import CollectionSpec
from connectors.qdrant.store import VectorStore
from models.errors import Permanent, Poison
from processors.events import AuditEvent, Event, PatientEvent
from processors.identity import natural_id
from streams.clock import Clock, real_clock
from streams.journal import stretch
from streams.lane import Input, Outcome
from streams.lanes.images import ImagesToFindings
from streams.lanes.notes import NotesToVectors
from streams.metrics import LaneMetrics
from streams.outbox import Outbox
from streams.partition import Dead, PartitionWorker
from streams.reader import Reader
from streams.settings import Settings
from streams.staging import Building, Origins, Survey, survey, swap
from streams.tracing import Tracing
from streams.wire import decode, iso

BESIDE: Final = "-rebuild"
_TOGETHER: Final = 64  # records of one batch, as a lane's
_PASSES: Final = 5  # over what was written meanwhile, before the swap; the rest comes after it


Writer = NotesToVectors | ImagesToFindings

LANES: Final[Mapping[str, type[Writer]]] = {"notes": NotesToVectors, "images": ImagesToFindings}


@dataclass(frozen=True, slots=True)
class Wish:
    """What is asked: which collection, why; `drop`: begin with an empty one; `restart`: give up an unfinished rebuild."""

    collection: str
    reason: str
    dry_run: bool = False
    drop: bool = False
    restart: bool = False

    def __post_init__(self) -> None:
        if self.collection not in LANES:
            raise Permanent(f"there is no collection {self.collection!r} to rebuild", hint=f"one of: {', '.join(LANES)}")
        if not self.reason.strip():
            raise Permanent("a reason is needed", hint='--reason "why", for the audit')


@dataclass(slots=True)
class Rebuilt:
    """What came of it. `records` and `merges` were read; `failed` gave no point (dead letters, in the lane)."""

    model: str = ""
    records: int = 0
    merges: int = 0
    failed: int = 0
    points: int = 0  # in the collection that serves, at the end
    survey: Survey = field(default_factory=Survey)
    swapped: bool = False


Tell = Callable[[str, int, int], None]  # what is being done, how much of it is done, of how much
Agree = Callable[[Survey], bool]


class _Builder(PartitionWorker[Any]):
    """Works as the lane's own worker does, and writes to no topic: it remembers what would have been a dead letter."""

    failed: set[tuple[int, int]]
    owners: set[str]

    async def build(self, records: Sequence[Any]) -> None:
        """Process and store records, in order; transient trouble is waited for."""
        await self._work(records)

    async def _write(self, inputs: Sequence[Input[Any]], outcomes: Sequence[Outcome], dead: Sequence[Dead]) -> None:
        self.failed |= {(one.record.partition, one.record.offset) for one in dead}
        lost = {id(one.record) for one in dead}
        for one in inputs:
            if id(one.record) not in lost:
                self.owners.update(owned(one.event))


def owned(event: Event) -> Iterator[str]:
    """Say of what an event gives all the points that there are: the note, the one that it replaces, or the image."""
    for name in ("note_id", "replaces") if hasattr(event, "note_id") else ("id",):
        if value := getattr(event, name, None):
            yield value


class Rebuild:
    """One rebuild. `outbox` must be started: it is audited before anything is done."""

    def __init__(self, settings: Settings, outbox: Outbox, wish: Wish, *, user: str, clock: Clock = real_clock) -> None:
        self._settings = settings
        self._outbox = outbox
        self._wish = wish
        self._user = user
        self._clock = clock
        self._prefix = settings.kafka.topic_prefix
        self._store = VectorStore(settings.vectors)
        self._merged: dict[str, str] = {}
        self.rebuilt = Rebuilt()

    async def run(
        self,
        building: Building,
        *,
        tell: Tell = lambda doing, done, total: None,
        agree: Agree = lambda found: True,
    ) -> Rebuilt:
        """Do it; `agree` is asked before the collection that serves is touched.

        Raises `Permanent` for an unfinished rebuild that `building` does not go on with, `Transient` when broker or store are away
        at the start; what is away later is waited for.
        """
        lane = LANES[self._wish.collection](self._settings, LaneMetrics("rebuild"))
        lane.beside = BESIDE
        await self._audit("begun")
        try:
            await self._make_room(building)
            await lane.open()
            await self._work(lane, building, tell, agree)
            return self.rebuilt
        finally:
            await lane.close()
            await self._store.close()

    async def _make_room(self, building: Building) -> None:
        staged = CollectionSpec(self._wish.collection + BESIDE, "", 0)
        there = await self._store.exists(staged)
        if self._wish.restart:
            if there:
                await self._store.drop(staged)
            building.begin()
        elif not there and building.phase != "new":
            raise Permanent(f"{building.file} goes on with a collection that is no more", hint="--restart begins anew")
        elif there and building.phase == "new":
            raise Permanent(
                f"an unfinished rebuild lies in {staged.name}",
                hint="--resume FILE goes on with it; --restart gives it up, and the points that only it holds",
            )

    async def _work(self, lane: Writer, building: Building, tell: Tell, agree: Agree) -> None:
        assert lane.model is not None
        building.belongs_to(self._wish.collection, lane.model.digest)
        self.rebuilt.model = f"{lane.model.name}@{lane.model.version}"
        builder = _Builder(
            lane,
            TopicPartition(lane.kind.topic, -1),
            self._outbox,
            self._settings.engine,
            self._clock,
            "rebuild",
            Tracing(self._settings.tracing, "rebuild"),
        )
        builder.failed, builder.owners = building.failed, set()
        begins = await self._recall(lane, building, builder.owners)
        champion = lane.serving.champion
        assert champion is not None
        staged = lane.collection(champion.dimensions)
        if building.phase == "build":
            for _ in range(_PASSES):
                if await self._pass(builder, lane, building, tell) < _TOGETHER:
                    break
        serving = replace(staged, name=staged.name.removesuffix(BESIDE))
        origins = Origins(lane.kind.topic, begins, building.ends(lane.kind.topic), builder.failed, builder.owners)
        found = self.rebuilt.survey = await survey(
            self._store, serving, staged, origins, lambda done, total: tell("compare", done, total)
        )
        if not self._wish.dry_run and agree(found):
            await self._swap(lane, builder, building, serving, staged, tell)
        elif not self._wish.dry_run and building.file is not None:
            return  # what was built is kept for the same command
        await self._store.drop(staged)
        building.remove()

    async def _swap(
        self,
        lane: Writer,
        builder: _Builder,
        building: Building,
        serving: CollectionSpec,
        staged: CollectionSpec,
        tell: Tell,
    ) -> None:
        found = self.rebuilt.survey
        if self._wish.drop and building.phase != "swap":
            await builder.steps.persist("drop", lambda: self._store.drop(serving))
        elif not found.fits:
            raise Permanent(
                f"the collection {serving.name} is made for vectors of another length", hint="--drop begins with an empty one"
            )
        building.enter("swap")
        await self._store.ensure([serving])
        await swap(
            self._store, serving, staged, found.stale, builder.steps.persist, lambda done, total: tell("swap", done, total)
        )
        lane.beside = ""
        # Not kept in the file: it says how far the collection is that was built, and a rerun swaps that in again.
        since = Building(positions=dict(building.positions), failed=building.failed)
        while await self._pass(builder, lane, since, tell):
            pass
        self.rebuilt.points = await self._store.count(serving)
        self.rebuilt.swapped = True
        await self._audit("swapped")

    # ---------------------------------------------------------------------------------------------------------- reading

    async def _recall(self, lane: Writer, building: Building, owners: set[str]) -> dict[int, int]:
        """Return where the topic's partitions begin; read what the part that is built already was about, without embedding it."""
        begins: dict[int, int] = {}
        async with Reader(self._settings.kafka) as reader:
            for topic in (lane.kind.topic, PatientEvent.topic):
                for number in await reader.partitions(self._prefix + topic):
                    begin, _ = await reader.bounds(self._prefix + topic, number)
                    if topic == lane.kind.topic:
                        begins[number] = begin
                    done = building.position(topic, number)
                    async for record in stretch(reader, self._prefix + topic, number, begin, done):
                        if topic == PatientEvent.topic:
                            self._hear(record)
                        elif (number, record.offset) not in building.failed:
                            try:
                                owners.update(owned(decode(lane.kind, record)))
                            except Poison:
                                continue
        return begins

    async def _pass(self, builder: _Builder, lane: Writer, building: Building, tell: Tell) -> int:
        """Apply what lies on the topics from where the building stands to their present ends; return how many records that was."""
        topic = lane.kind.topic
        waiting: list[Any] = []
        done = 0

        async def flush() -> None:
            nonlocal done
            if waiting:
                await builder.build(waiting)
                self.rebuilt.records += len(waiting)
                done += len(waiting)
                waiting.clear()
            self.rebuilt.failed = len(building.failed)
            building.save()

        async with AsyncExitStack() as stack:
            heads, ends = await self._heads(stack, (topic, PatientEvent.topic), building)
            total = sum(end - building.position(*place) for place, end in ends.items() if place[0] == topic)
            read = 0
            tell("build", 0, total)
            async for record in in_order(heads):
                read += 1
                if record.topic == self._prefix + PatientEvent.topic:
                    if merge := self._hear(record):
                        await flush()
                        await self._rekey(builder, lane.collection(0), *merge)
                else:
                    waiting.append(record)
                building.move(record.topic.removeprefix(self._prefix), record.partition, record.offset + 1)
                if len(waiting) >= _TOGETHER:
                    await flush()
                    tell("build", done, total)
            await flush()
            for (name, number), end in ends.items():
                building.move(name, number, end)  # past what compaction took
            building.save()
        return read

    async def _heads(
        self, stack: AsyncExitStack, topics: Sequence[str], building: Building
    ) -> tuple[list[AsyncIterator[Any]], dict[tuple[str, int], int]]:
        """Open a reader for every partition that has something new: they are read side by side."""
        asks = await stack.enter_async_context(Reader(self._settings.kafka))
        heads: list[AsyncIterator[Any]] = []
        ends: dict[tuple[str, int], int] = {}
        for topic in topics:
            for number in await asks.partitions(self._prefix + topic):
                begin, end = await asks.bounds(self._prefix + topic, number)
                start = max(begin, building.position(topic, number))
                building.move(topic, number, start)
                ends[topic, number] = max(start, end)
                if start < end:
                    reader = await stack.enter_async_context(Reader(self._settings.kafka))
                    heads.append(stretch(reader, self._prefix + topic, number, start, end))
        return heads, ends

    # ----------------------------------------------------------------------------------------------------------- merges

    def _hear(self, record: Any) -> tuple[str, str] | None:
        """Take a patient's context; return (old, surviving) id for a merge; a chain ends at the last that is known."""
        try:
            event = decode(PatientEvent, record)
        except Poison:
            return None
        old, new = event.patient_id, event.merged_into
        if not new or new == old:
            self._merged.pop(old, None)
            return None
        self._merged[old] = new
        passed = {old}
        while new in self._merged and new not in passed:
            passed.add(new)
            new = self._merged[new]
        return old, new

    async def _rekey(self, builder: _Builder, collection: CollectionSpec, old: str, new: str) -> None:
        await builder.steps.persist("re-key", lambda: self._store.rekey_patient([collection], old=old, new=new))
        self.rebuilt.merges += 1

    # ------------------------------------------------------------------------------------------------------------ audit

    async def _audit(self, what: str) -> None:
        at = self._clock()
        found = self.rebuilt.survey
        counts = "" if what == "begun" else f": {found.words}"
        event = AuditEvent(
            id=natural_id("rebuild", self._user, self._wish.collection, what, at.isoformat()),
            action="replay",
            agent=self._user,
            subject=f"vectors/{self._wish.collection}",
            reason=f"rebuild {what}{' (dry run)' if self._wish.dry_run else ''}{counts}; {self._wish.reason}",
            recorded_at=at,
        )
        await self._outbox.send([self._outbox.encode(event, time=iso(at))])


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
