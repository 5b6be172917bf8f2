"""An intake alone, without lane or engine: the test is the owner and settles slices by hand, in whatever order it likes."""

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable

from aiokafka import TopicPartition

from streams.intake import Intake
from streams.ledger import Slice
from tests.site import Site


class Hand:
    """Keeps what comes in; `on_revoke` is what it does while partitions are taken away."""

    def __init__(self) -> None:
        self.slices: list[Slice] = []
        self.assignments: list[list[TopicPartition]] = []
        self.revocations = 0
        self.failures: list[BaseException] = []
        self.losses: list[tuple[int, str, int]] = []
        self.on_revoke: Callable[[float], Awaitable[None]] | None = None

    def assigned(self, partitions: Iterable[TopicPartition]) -> None:
        self.assignments.append(list(partitions))

    async def revoked(self, *, within: float) -> None:
        self.revocations += 1
        if self.on_revoke is not None:
            await self.on_revoke(within)

    def missed(self, partition: TopicPartition, reason: str, records: int) -> None:
        self.losses.append((partition.partition, reason, records))

    async def put(self, piece: Slice) -> None:
        self.slices.append(piece)

    async def fail(self, error: BaseException) -> None:
        self.failures.append(error)

    @property
    def offsets(self) -> list[tuple[int, int]]:
        """(partition, offset) of every record, as they came in."""
        return [(record.partition, record.offset) for piece in self.slices for record in piece.records]


@contextlib.asynccontextmanager
async def intake(
    site: Site, *, slot: int = 0, slice_records: int = 1, stop: bool = True, **engine: float
) -> AsyncIterator[tuple[Intake, Hand]]:
    """Run an intake on the site's notes, in the Echo lane's group; one record is a slice unless told otherwise."""
    hand = Hand()
    running = Intake(
        site.settings(slot=slot, **{"grace": 0.1, **engine}),
        group=site.group,
        topics=(site.notes,),
        slice_records=slice_records,
        put=hand.put,
        owner=hand,
        fail=hand.fail,
    )
    await running.start()
    try:
        yield running, hand
    finally:
        if stop:
            await running.stop()
