"""Reading a stretch of a partition outside any group: for rebuilding state, replay, verifying."""

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError, OffsetOutOfRangeError

from models.errors import Permanent, Transient
from streams.kafka import aiokafka_config, require_broker, start_client
from streams.settings import KafkaSettings

_LOOKS: Final = 4  # a second apart: a topic that was just made is not named by the cluster before its leaders are there


@dataclass(frozen=True, slots=True)
class _Ahead:
    """Where a stretch ended that was read whole, and what came with it from beyond: the next one may begin there."""

    tp: TopicPartition
    end: int
    last: int  # the log's end, when it was asked
    position: int
    records: list[Any]


class Reader:
    """A consumer without a group. Use as `async with Reader(settings.kafka) as reader`.

    Stretches that follow each other are cheap: what was fetched beyond one is kept for the next.

    `moved` is called with every chunk read: who reads for long is not to be taken for one that hangs. Raises `Transient` when the
    broker does not answer.
    """

    def __init__(
        self,
        kafka: KafkaSettings,
        *,
        read_committed: bool = True,
        moved: Callable[[], object] = lambda: None,
        fetch_bytes: int = 4 * 1024 * 1024,
    ) -> None:
        """`fetch_bytes`: of a partition at a time, at most."""
        self._fetch_bytes = fetch_bytes
        self._kafka = kafka
        self._moved = moved
        self._isolation = "read_committed" if read_committed else "read_uncommitted"
        self._consumer: AIOKafkaConsumer = None
        self._ahead: _Ahead | None = None

    async def __aenter__(self) -> "Reader":
        await require_broker(self._kafka)  # a consumer whose token is refused says nothing, and tries for ever
        consumer = AIOKafkaConsumer(
            **aiokafka_config(self._kafka),
            enable_auto_commit=False,
            auto_offset_reset="none",
            isolation_level=self._isolation,
            max_partition_fetch_bytes=self._fetch_bytes,
            # What is read is there already. A fetch that waits at the end of one stretch holds up the next by so much; the embedded
            # broker answers an empty fetch only then.
            fetch_max_wait_ms=20 if self._kafka.embedded else 100,
        )
        await start_client(consumer, self._kafka)
        self._consumer = consumer
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._consumer.stop()

    def copies(self, tp: TopicPartition) -> tuple[int, int]:
        """Return how many copies of a partition, whose bounds were asked for, are in sync, and how many there are."""
        found = self._consumer._client.cluster._partitions[tp.topic][tp.partition]
        return len(found.isr), len(found.replicas)

    async def require(self, *topics: str) -> None:
        """Raise `Permanent` that names those of these topics that are not there.

        To ask for the partitions of one that is not makes aiokafka say so a dozen times in the log.
        """
        if missing := await self.missing(topics):
            prefix = self._kafka.topic_prefix
            raise Permanent(
                f"not on {self._kafka.bootstrap}: {', '.join(missing)}",
                hint=f"kafka.topic_prefix is {prefix!r}: is it this site's? `vigil topics create` makes what is missing",
            )
        for topic in topics:
            if not await self.partitions(topic):  # from a broker that goes away meanwhile: nothing is not what the topic holds
                raise Transient(f"the cluster does not say which partitions {topic} has")

    async def missing(self, topics: Collection[str], *, known: Collection[str] = ()) -> list[str]:
        """Return those of these topics that are not there. `known`: what was missing before is not looked for again and again."""
        missing = await self._missing(topics)
        for _ in range(_LOOKS - 1):
            if set(missing) <= set(known):
                break
            await asyncio.sleep(1)
            missing = await self._missing(topics)
        return missing

    async def _missing(self, topics: Iterable[str]) -> list[str]:
        try:
            there: set[str] = await self._consumer.topics()
        except KafkaError as error:
            raise Transient(f"the cluster does not say which topics it has ({type(error).__name__})") from error
        return sorted(set(topics) - there)

    async def partitions(self, topic: str) -> list[int]:
        """Return the topic's partition numbers, empty if there is no such topic."""
        found: Iterable[int] | None = self._consumer.partitions_for_topic(topic)
        if not found:
            await self._consumer._client.force_metadata_update()
            await self._consumer._client.add_topic(topic)
            found = self._consumer.partitions_for_topic(topic)
        return sorted(found or ())

    async def bounds(self, topic: str, partition: int) -> tuple[int, int]:
        """Return the first offset that the log still holds and the one after its last."""
        tp = TopicPartition(topic, partition)
        return (await self.all_bounds([tp]))[tp]

    async def all_bounds(self, partitions: Sequence[TopicPartition]) -> dict[TopicPartition, tuple[int, int]]:
        """Return the bounds of several partitions, asked for together."""
        try:
            begins = await self._consumer.beginning_offsets(partitions)
            ends = await self._consumer.end_offsets(partitions)
        except KafkaError as error:
            names = ", ".join(f"{one.topic}[{one.partition}]" for one in partitions[:3])
            raise Transient(f"the bounds of {names} cannot be read ({type(error).__name__})") from error
        return {one: (begins[one], ends[one]) for one in partitions}

    async def firsts(self, stretches: Mapping[TopicPartition, tuple[int, int]]) -> dict[TopicPartition, Any]:
        """Return the first record of each stretch, start <= offset < end; none where the log holds none any more.

        All are fetched together: one after the other would take half a second for each.
        """
        found: dict[TopicPartition, Any] = {}
        left, self._ahead = dict(stretches), None
        self._consumer.assign(list(left))
        for tp, (start, _) in left.items():
            self._consumer.seek(tp, start)
        while left:
            try:
                chunks = await self._consumer.getmany(timeout_ms=200)
                positions = {tp: await self._consumer.position(tp) for tp in left}
            except OffsetOutOfRangeError:  # retention took what stood there a moment ago
                for tp, (begin, _) in (await self.all_bounds(list(left))).items():
                    self._consumer.seek(tp, max(begin, left[tp][0]))
                continue
            except KafkaError as error:
                raise Transient(f"the partitions cannot be read ({type(error).__name__})") from error
            for tp, (start, end) in list(left.items()):
                first = next((record for record in chunks.get(tp, ()) if start <= record.offset < end), None)
                if first is not None:
                    found[tp] = first
                if first is not None or positions[tp] >= end:
                    del left[tp]
                    self._consumer.pause(tp)  # the others' turn
            self._moved()
        return found

    async def offset_at(self, topic: str, partition: int, when: datetime) -> int | None:
        """Return the first offset that was written at or after a time, the log's end if none was: all before it are older.

        None on the embedded broker, which has no look-up by time.
        """
        if self._kafka.embedded:
            return None
        begin, end = await self.bounds(topic, partition)
        tp = TopicPartition(topic, partition)
        try:
            found = await self._consumer.offsets_for_times({tp: int(when.timestamp() * 1000)})
        except KafkaError as error:
            raise Transient(f"{topic}[{partition}] cannot be searched by time ({type(error).__name__})") from error
        return end if found.get(tp) is None else max(begin, found[tp].offset)

    async def follow(self, topic: str) -> AsyncIterator[tuple[list[Any], bool]]:
        """Yield what all partitions of a topic hold, from their beginnings, and then what is added, for ever.

        With each chunk (an empty one, too) comes whether what was there at first has been read whole. Ends when the topic is not
        there, or comes to have other partitions: whoever follows begins anew.
        """
        numbers, self._ahead = await self.partitions(topic), None
        bounds = {TopicPartition(topic, number): await self.bounds(topic, number) for number in numbers}
        self._consumer.assign([*bounds])
        for tp, (begin, _) in bounds.items():
            self._consumer.seek(tp, begin)
        behind = {tp for tp, (begin, end) in bounds.items() if begin < end}
        while numbers and await self.partitions(topic) == numbers:
            try:
                found = await self._consumer.getmany(timeout_ms=200 if behind else 1000, max_records=2048)
                behind -= {tp for tp in behind if await self._consumer.position(tp) >= bounds[tp][1]}
            except KafkaError as error:
                raise Transient(f"{topic} cannot be read ({type(error).__name__})") from error
            self._moved()
            yield [record for records in found.values() for record in records], not behind

    async def tail(self, topic: str, positions: dict[int, int]) -> AsyncIterator[list[Any]]:
        """Yield what each partition holds from its position on, to the ends of now or a little further; `positions` move along.

        All are fetched together. For one who asks again and again, by a reader that does nothing else: the assignment stays, and
        what has nothing new costs two questions and is not fetched. A position that the log does not hold is that of another log:
        it begins anew.
        """
        partitions = [TopicPartition(topic, number) for number in await self.partitions(topic)]
        if not partitions:
            raise Transient(f"the cluster does not say which partitions {topic} has")
        bounds = await self.all_bounds(partitions)
        begins = self._consumer.assignment() != set(partitions)
        if begins:
            self._ahead = None
            self._consumer.assign(partitions)
        left: dict[TopicPartition, int] = {}
        for tp, (begin, end) in bounds.items():
            at = positions.get(tp.partition, begin)
            at = positions[tp.partition] = at if begin <= at <= end else begin
            if begins or await self._consumer.position(tp) != at:
                self._consumer.seek(tp, at)
            if at < end:
                left[tp] = end
                self._consumer.resume(tp)
            else:
                self._consumer.pause(tp)
        while left:
            try:
                chunks = await self._consumer.getmany(*left, timeout_ms=200, max_records=2048)
                reached = {tp: await self._consumer.position(tp) for tp in left}
            except OffsetOutOfRangeError:  # retention took what stood there a moment ago
                for tp, (begin, _) in (await self.all_bounds(list(left))).items():
                    self._consumer.seek(tp, max(begin, positions[tp.partition]))
                continue
            except KafkaError as error:
                raise Transient(f"{topic} cannot be read ({type(error).__name__})") from error
            for records in chunks.values():
                yield records
            for tp, at in reached.items():
                positions[tp.partition] = at
                if at >= left[tp]:
                    del left[tp]
                    self._consumer.pause(tp)
            self._moved()

    async def whole(
        self,
        topic: str,
        *,
        partitions: Collection[int] | None = None,
        progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> AsyncIterator[Any]:
        """Yield the records that a topic (or some of its partitions) holds now, one partition after the other.

        `progress(records read, of how many)`. Raises `Permanent` when there is no such topic.
        """
        await self.require(topic)
        numbers = [number for number in await self.partitions(topic) if partitions is None or number in partitions]
        bounds = await self.all_bounds([TopicPartition(topic, number) for number in numbers])
        total, done = sum(end - begin for begin, end in bounds.values()), 0
        for tp, (begin, end) in bounds.items():
            async for records in self.read(topic, tp.partition, begin, end):
                for record in records:
                    yield record
                done += len(records)
                progress(done, total)

    async def read(self, topic: str, partition: int, start: int, end: int) -> AsyncIterator[list[Any]]:
        """Yield the records with start <= offset < end, in order, in chunks. Offsets that the log no longer holds are skipped."""
        tp = TopicPartition(topic, partition)
        ahead, self._ahead = self._ahead, None
        if ahead is not None and ahead.tp == tp and ahead.end <= start <= ahead.position and end <= ahead.last:
            # To begin anew costs three questions and up to half a second, while a fetch of the stretch before is under way.
            last, position, found = ahead.last, ahead.position, ahead.records
        else:
            begin, last = await self.bounds(topic, partition)
            start, end, found = max(start, begin), min(end, last), []
            if start >= end:
                return
            self._consumer.assign([tp])
            self._consumer.seek(tp, start)
            position = start
        while True:
            records = [record for record in found if start <= record.offset < end]
            if records:
                self._moved()
                yield records
            if position >= end:
                break
            try:
                found = (await self._consumer.getmany(tp, timeout_ms=200, max_records=2048)).get(tp, [])
                position = await self._consumer.position(tp)
            except OffsetOutOfRangeError:
                found = []
                self._consumer.seek(tp, (await self.bounds(topic, partition))[0])
            except KafkaError as error:
                raise Transient(f"{topic}[{partition}] cannot be read ({type(error).__name__})") from error
        self._ahead = _Ahead(tp, end, last, position, [record for record in found if record.offset >= end])
