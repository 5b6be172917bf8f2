"""What goes together: small batches of the vitals lane begin in rounds, a connector's writes keep apart under load."""

import asyncio
import gc
from datetime import UTC, datetime
from typing import Any

import pytest

from streams.clock import clock_of
from streams.collector import Collector
from streams.monitoring import Rounds
from streams.publisher import KafkaPublisher
from streams.settings import Settings
from streams.tracing import Tracing
from tests.vitals import patient

AT = datetime(2026, 11, 24, tzinfo=UTC)


async def test_the_first_after_a_quiet_time_begins_at_once() -> None:
    rounds, loop = Rounds(5.0), asyncio.get_running_loop()
    began = loop.time()
    await rounds.next()
    assert loop.time() - began < 1.0


async def test_those_within_the_gathering_time_begin_together_when_it_is_over() -> None:
    rounds, loop = Rounds(0.2), asyncio.get_running_loop()
    await rounds.next()
    first = loop.time()

    async def one(wait: float) -> float:
        await asyncio.sleep(wait)
        await rounds.next()
        return loop.time()

    times = await asyncio.gather(one(0.01), one(0.05), one(0.1))
    assert max(times) - min(times) < 0.05
    assert min(times) - first >= 0.19
    # That was a round as well: what comes right after it waits for the next.
    assert await one(0.0) - min(times) >= 0.19


async def test_one_that_is_cancelled_leaves_the_others_waiting() -> None:
    rounds = Rounds(0.1)
    await rounds.next()
    tasks = [asyncio.create_task(rounds.next()) for _ in range(2)]
    await asyncio.sleep(0)
    tasks[0].cancel()
    async with asyncio.timeout(5):
        await tasks[1]
    assert tasks[0].cancelled()


class _Outbox:
    """Notes the writes; each takes as long as a broker's round trip."""

    def __init__(self) -> None:
        self.writes: list[int] = []

    def encode(self, event: Any, **_: Any) -> Any:
        return event

    async def send(self, messages: list[Any]) -> None:
        await asyncio.sleep(0.002)
        self.writes.append(len(messages))


def _publisher(outbox: _Outbox, gather: float) -> KafkaPublisher:
    settings = Settings()
    tracing = Tracing(settings.tracing, "connectors")
    return KafkaPublisher(outbox, clock_of(settings.clock), tracing, timeout=10, gather=gather)  # type: ignore[arg-type]


async def test_under_load_a_publishers_writes_keep_apart() -> None:
    outbox = _Outbox()
    publisher = _publisher(outbox, 0.1)

    async def sender(number: int) -> None:
        for _ in range(4):
            await publisher.publish([patient(1, AT)])
            await asyncio.sleep(0.001 * number)

    await asyncio.gather(*(sender(number) for number in range(8)))
    assert sum(outbox.writes) == 32
    assert len(outbox.writes) <= 6  # the very first alone, then all eight senders' together


async def test_a_sender_who_is_alone_is_never_made_to_wait() -> None:
    publisher = _publisher(_Outbox(), 60.0)
    async with asyncio.timeout(10):
        for _ in range(20):
            await publisher.publish([patient(1, AT)])


@pytest.fixture
def _as_it_was() -> Any:
    thresholds = gc.get_threshold()
    yield
    gc.set_threshold(*thresholds)
    gc.unfreeze()


@pytest.mark.usefixtures("_as_it_was")
def test_the_collector_finds_young_cycles_and_leaves_the_old_alone() -> None:
    collector = Collector()
    gc.collect()

    class Node:
        alive = 0

        def __init__(self) -> None:
            self.me = self
            Node.alive += 1

        def __del__(self) -> None:
            Node.alive -= 1

    Node()
    collector.look()
    assert Node.alive == 0
    kept = Node()
    collector.look()  # it is old from now on
    del kept
    collector.look()
    assert Node.alive == 1
    collector._full = 0.0
    collector.look()
    assert Node.alive == 0
