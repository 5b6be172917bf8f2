"""The commit algorithm: what of a partition is settled, and how far its offset may be committed.

One ledger per partition *and assignment*. Numbered, with what a crash (SIGKILL, power) right after each step leads to:

 1. The intake fetches records and cuts them into slices: at most N consecutive records of one partition.
    Crash: nothing committed, nothing written. The next owner reads the same records.
 2. Each slice is entered in its partition's ledger, in offset order, before anything else happens to it; between fetch and entry
    nothing is awaited, so no rebalance can fall between. The ledger's unsettled records and bytes are the bound on memory: at the
    bound the partition is paused.
    Crash: as 1.
 3. A worker decodes the slice's records, processes them and writes every output: topic records and audit, each confirmed by all
    in-sync replicas; vectors confirmed by the store; or the dead letter, confirmed.
    Crash: outputs may stand without a commit. The next owner makes the same ones again, with the same ids: effects are once.
 4. When every record of the slice has all its outputs confirmed, the slice is settled. A slice is settled by nothing else: not by
    an exception, not by a stop, not by a time-out.
    Crash: as 3.
 5. Regularly, and when a partition is about to be taken away, `settled_end` gives the end of the contiguous settled prefix:
    last offset + 1 of the last slice before the first unsettled one. Gaps (compaction, transaction markers) do not matter.
    Crash: as 3.
 6. That end is committed to the group. Kafka refuses a commit from a member that lost the partition.
    Crash before the broker has it: as 3. After: the records are done, and everything they led to is confirmed.
 7. Only when the commit succeeded are the slices taken out of the ledger (`forget`); a failed commit is carried by the next one.
 8. When a partition is revoked its ledger is dropped, after waiting a bounded time for what is in flight and one last commit. A
    slice that is settled later points at the dropped ledger and touches nothing. A new assignment starts a new, empty ledger and
    reads on from the committed offset: whatever was dropped is read again.

So the committed offset never passes an unsettled record, and an unsettled record is always read again by whoever comes next.
"""

import asyncio
import math
import time
from collections import deque
from collections.abc import Sequence
from typing import Any

from aiokafka import ConsumerRecord, TopicPartition

Record = ConsumerRecord  # key and value are bytes or None


class Slice:
    """Consecutive records of one partition; settled when every one of them is."""

    __slots__ = ("bytes", "end", "entered", "ledger", "records", "settled")

    def __init__(self, records: Sequence[Any], ledger: "Ledger", entered: float) -> None:
        self.records = records
        self.ledger = ledger
        self.entered = entered
        self.end: int = records[-1].offset + 1
        self.bytes: int = sum(len(record.value or b"") + len(record.key or b"") for record in records)
        self.settled = False

    def settle(self) -> None:
        """Mark every record of the slice as settled (step 4), and let go of them: what waits for its commit is an offset."""
        if not self.settled:
            self.settled = True
            self.ledger.release(self)
            self.ledger.settled.set()


class Ledger:
    """The slices of one partition in order, for one assignment. `records` and `bytes` count what is not settled.

    `settled` is set at each settlement, for whoever drains. `position` is the offset after the last record taken in; `read` is
    how far the consumer read, markers and gaps included, and `moved` when that last changed (monotonic seconds). `heard` is when a
    fetch was last answered, which a broker does twice a second where nothing comes, or when none was made (monotonic seconds), and
    `answer` the stamp of that answer. `gap` is where the first jump in the offsets began that nobody has looked into yet, `alarmed`
    up to where losses were reported. `since` is when it was last committed (monotonic seconds), NaN until it was.
    """

    __slots__ = (
        "alarmed", "answer", "bytes", "committed", "dropped", "gap", "heard", "moved", "partition", "position", "read", "records",
        "settled", "since", "slices",
    )  # fmt: skip

    def __init__(self, partition: TopicPartition, settled: asyncio.Event) -> None:
        self.partition = partition
        self.slices: deque[Slice] = deque()
        self.records = 0
        self.bytes = 0
        self.position = -1
        self.committed = -1
        self.since = math.nan
        self.read = -1
        self.moved = self.heard = time.monotonic()
        self.answer: int | None = None
        self.gap = -1
        self.alarmed = -1
        self.settled = settled
        self.dropped = False

    def enter(self, records: Sequence[Any]) -> Slice:
        """Enter the next slice (step 2)."""
        piece = Slice(records, self, time.monotonic())
        if self.slices and records[0].offset < self.slices[-1].end:
            raise AssertionError(f"{self.partition}: record {records[0].offset} taken in again before {self.slices[-1].end}")
        self.slices.append(piece)
        self.records += len(records)
        self.bytes += piece.bytes
        self.position = piece.end
        return piece

    def full(self, most_records: int, most_bytes: int) -> bool:
        """Tell whether the partition must be paused."""
        return self.records >= most_records or self.bytes >= most_bytes

    def settled_end(self) -> int | None:
        """Return the offset that may be committed (step 5), None if nothing new may be."""
        end = None
        for piece in self.slices:
            if not piece.settled:
                break
            end = piece.end
        return end

    def forget(self, end: int) -> None:
        """Take out what was committed (step 7)."""
        self.committed, self.since = end, time.monotonic()
        while self.slices and self.slices[0].end <= end:
            self.release(self.slices.popleft())

    def release(self, piece: Slice) -> None:
        """Let go of a slice's records: they no longer count against the bound."""
        self.records -= len(piece.records)
        self.bytes -= piece.bytes
        piece.records, piece.bytes = (), 0

    def oldest_unsettled(self) -> float | None:
        """Return when the oldest unsettled slice was entered (monotonic seconds), None if all are settled."""
        return next((piece.entered for piece in self.slices if not piece.settled), None)
