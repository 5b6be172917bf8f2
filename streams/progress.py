"""How far another lane is, seen from outside its group: for a lane whose work must come after another's."""

import contextlib
from collections.abc import AsyncIterator, Collection, Iterable
from dataclasses import dataclass
from operator import attrgetter

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError

from models.errors import Transient
from streams.kafka import aiokafka_config, start_client
from streams.outbox import partition_of
from streams.reader import Reader
from streams.settings import Settings


@dataclass(frozen=True, slots=True)
class Mark:
    """A place in a log: everything of a key that was written before it lies below `offset`."""

    topic: str
    partition: int
    offset: int


class Progress:
    """Compares lanes' commits with places in the log. Every call raises `Transient` when the broker does not answer."""

    def __init__(self, settings: Settings) -> None:
        self._kafka, self._topics = settings.kafka, settings.topics

    async def marks(self, topic: str, keys: Iterable[str]) -> dict[str, Mark]:
        """Return, for each key, the present end of the partition that its records lie in; nothing when there is no such topic."""
        name = self._kafka.topic_prefix + topic
        async with Reader(self._kafka) as reader:
            partitions = await reader.partitions(name)
            if not partitions:
                return {}
            used = self._topics.used(topic, len(partitions))
            places = {key: partition_of(key.encode(), used) for key in keys}
            ends = {number: (await reader.bounds(name, number))[1] for number in set(places.values())}
        return {key: Mark(name, number, ends[number]) for key, number in places.items()}

    async def began(self, lane: str, topic: str) -> bool:
        """Tell whether a lane has ever committed something of a topic."""
        name = self._kafka.topic_prefix + topic
        async with Reader(self._kafka) as reader:
            partitions = [TopicPartition(name, number) for number in await reader.partitions(name)]
        async with self._asking(lane) as consumer:
            return any([bool(await consumer.committed(tp)) for tp in partitions])

    async def behind(self, lane: str, marks: Collection[Mark]) -> int:
        """Return how many offsets a lane has still to commit up to the marks; 0 when it has passed them all."""
        ends = {TopicPartition(mark.topic, mark.partition): mark.offset for mark in sorted(marks, key=attrgetter("offset"))}
        if not ends:
            return 0
        async with self._asking(lane) as consumer:
            begins: dict[TopicPartition, int] = await consumer.beginning_offsets(list(ends))
            # What retention took is never committed.
            return sum([max(0, end - max(await consumer.committed(tp) or 0, begins[tp])) for tp, end in ends.items()])

    @contextlib.asynccontextmanager
    async def _asking(self, lane: str) -> AsyncIterator[AIOKafkaConsumer]:
        # Without a topic of its own it joins nothing and only asks.
        group = f"{self._kafka.topic_prefix}vigil.{lane}"
        consumer = AIOKafkaConsumer(**aiokafka_config(self._kafka), group_id=group, enable_auto_commit=False)
        await start_client(consumer, self._kafka)
        try:
            yield consumer
        except KafkaError as error:
            raise Transient(f"the commits of {lane} cannot be read ({type(error).__name__})") from error
        finally:
            await consumer.stop()
