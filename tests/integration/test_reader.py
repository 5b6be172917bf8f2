"""Reading stretches of a partition: whatever the cuts, every record once and in order."""

import itertools
import random
from collections.abc import Callable
from typing import Any

import pytest

from streams.reader import Reader
from streams.settings import KafkaSettings
from tests.kafka import Kafka
from tests.lanes import produce

pytestmark = pytest.mark.kafka
RECORDS = 300


class Counted(Reader):
    """Counts how often it asks where the log begins and ends."""

    asked = 0

    async def bounds(self, topic: str, partition: int) -> tuple[int, int]:
        self.asked += 1
        return await super().bounds(topic, partition)

    async def offsets(self, topic: str, start: int, end: int, partition: int = 0) -> list[int]:
        return [record.offset async for chunk in self.read(topic, partition, start, end) for record in chunk]


@pytest.fixture
async def topic(kafka: Kafka, make_topic: Callable[..., str]) -> str:
    name = make_topic(partitions=2)
    for partition_key in (b"a", b"b", b"c"):
        await produce(kafka.bootstrap, name, [(partition_key, b"%d" % n) for n in range(RECORDS)], 1)
    return name


def settings(kafka: Kafka) -> KafkaSettings:
    return KafkaSettings(bootstrap=kafka.bootstrap, embedded=kafka.kind == "embedded")


async def test_stretches_that_follow_each_other_ask_the_broker_once(kafka: Kafka, topic: str) -> None:
    cuts = sorted({0, 3 * RECORDS, *random.Random(1).sample(range(3 * RECORDS), 60)})
    found: list[int] = []
    async with Counted(settings(kafka)) as reader:
        for start, end in itertools.pairwise(cuts):
            stretch = await reader.offsets(topic, start, end)
            assert stretch == list(range(start, end))
            found += stretch
        assert reader.asked == 1
    assert found == list(range(3 * RECORDS))


async def test_stretches_in_any_order_are_read_right(kafka: Kafka, topic: str) -> None:
    rng = random.Random(2)
    async with Counted(settings(kafka)) as reader:
        for _ in range(8):
            start = rng.randrange(3 * RECORDS)
            end = start + rng.randrange(1, 120)
            assert await reader.offsets(topic, start, end) == list(range(start, min(end, 3 * RECORDS)))
            assert await reader.offsets(topic, 0, 10, partition=1) == []  # another partition in between


async def test_a_stretch_that_is_given_up_leaves_nothing_behind(kafka: Kafka, topic: str) -> None:
    async with Counted(settings(kafka)) as reader:
        stretch: Any = reader.read(topic, 0, 0, 500)
        assert next(record.offset for record in await anext(stretch)) == 0
        await stretch.aclose()
        assert await reader.offsets(topic, 400, 450) == list(range(400, 450))
        assert await reader.offsets(topic, 0, 30) == list(range(30))


async def test_what_came_since_is_read_too(kafka: Kafka, topic: str) -> None:
    end = 3 * RECORDS
    async with Counted(settings(kafka)) as reader:
        assert await reader.offsets(topic, 0, end + 50) == list(range(end))
        await produce(kafka.bootstrap, topic, [(b"d", b"later")] * 5, 1)
        assert await reader.offsets(topic, end, end + 50) == list(range(end, end + 5))
