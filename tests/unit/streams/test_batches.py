"""A batch is bounded by records and by bytes: long notes take long."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from aiokafka import TopicPartition

from processors.events import NoteEvent
from streams.clock import real_clock
from streams.lane import Input, Outcome
from streams.ledger import Slice
from streams.metrics import LaneMetrics
from streams.outbox import Outbox
from streams.partition import PartitionWorker
from streams.settings import LaneSettings, Settings
from streams.tracing import Tracing
from streams.wire import Message
from tests.lanes import Echo, note


@dataclass
class Record:
    offset: int
    value: bytes
    topic: str = "clinical.notes"
    partition: int = 0
    timestamp: int = 1_700_000_000_000
    key: bytes | None = b"p"
    headers: Sequence[tuple[str, bytes]] = ()


class Counting(Echo):
    batches: list[int]

    @property
    def config(self) -> LaneSettings:
        return LaneSettings(batch_records=4, batch_bytes=10_000)

    async def process(self, inputs: Sequence[Input[NoteEvent]]) -> list[Outcome]:
        self.batches.append(len(inputs))
        return await super().process(inputs)


class Taken(Outbox):
    async def send(self, messages: Sequence[Message]) -> None:
        self.sent += len(messages)


class Settled:
    def __init__(self, records: list[Any]) -> None:
        self.records = records
        self.settled = False

    def settle(self) -> None:
        self.settled = True


async def test_a_batch_is_bounded_by_bytes_as_by_records() -> None:
    settings = Settings()
    lane = Counting(settings, LaneMetrics("echo"))
    lane.batches = []
    worker = PartitionWorker(
        lane, TopicPartition("clinical.notes", 0), Taken(settings, source="/test"), settings.engine, real_clock, "test",
        Tracing(settings.tracing, "echo"),
    )  # fmt: skip
    sizes = [100, 100, 100, 100, 100, 6000, 6000, 50_000, 100, 100]
    records = [Record(n, note(n, text="x" * size).model_dump_json().encode()) for n, size in enumerate(sizes)]
    piece: Any = Settled(records)
    await worker._settle([piece])
    assert lane.batches == [4, 2, 1, 1, 2]
    assert piece.settled and len(lane.seen) == len(sizes)
    waiting: list[Slice] = [piece, piece]  # each more than a batch: taken one at a time
    for one in waiting:
        worker.accept(one)
    assert len(await worker._take()) == 1
