"""Giving way to live traffic: who writes records to a topic again keeps what lies before a live one small, in the lane's own time.

A lag that a lane of vital signs works off in a blink keeps a live note waiting for a minute. So what is allowed is said in seconds,
and how many records that is, is measured: what each lane commits from one look to another, while it has something to do.
"""

import asyncio
from collections import defaultdict
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Final

from models.errors import Transient
from streams.lagging import READS, Lag, lags
from streams.settings import Settings

SECONDS: Final = 1.0  # that a live record may wait behind what is written again
_LEAST: Final = 10  # records that may lie before it in any case: a lane commits four times a second, and its lag is seldom 0
_SPAN: Final = 1.0  # seconds over which the speed of a lane that is behind is measured, at least: a few commits
_LOOKS: Final = 4  # at a lane that is behind, in the time that is allowed


@dataclass(slots=True)
class _Speed:
    """How fast one lane is, measured while it is `busy`: since then, and from what it had `done` by then."""

    since: float
    done: int
    busy: bool
    per_second: float = 0.0

    def seen(self, now: float, done: int, lag: int) -> None:
        """Take in a look at the lane."""
        seconds = now - self.since
        if self.busy and lag and seconds < _SPAN:
            return
        if self.busy and seconds > 0:
            found = (done - self.done) / seconds
            if lag and self.per_second:
                self.per_second = (self.per_second + found) / 2  # one look is not all
            else:
                self.per_second = max(found, self.per_second)  # it was through before this look: faster than that
        self.since, self.done, self.busy = now, done, lag > 0


class Room:
    """How many records may be written to topics again, so that no lane has more than `seconds` of its work before a live one."""

    def __init__(
        self, settings: Settings, *, seconds: float = SECONDS, waits: Callable[[str], object] = lambda words: None
    ) -> None:
        self._settings = settings
        self._seconds = seconds
        self._waits = waits
        self._speeds: dict[str, _Speed] = {}

    async def wait(self, topics: Collection[str]) -> int:
        """Return how many may be written now, once no lane that reads the topics has more than half of what is allowed before it.

        A lane that never committed does not run here, and is not waited for. A cluster that is busy with itself and does not say
        is. `waits` hears at each look which lane is behind.
        """
        lanes = [lane for lane, read in READS.items() if not set(read).isdisjoint(topics)]
        while True:
            try:
                room, behind = self._look(await lags(self._settings, lanes, times=False) if lanes else ())
            except Transient as error:
                behind = str(error)
            if not behind:
                return room
            self._waits(behind)
            await asyncio.sleep(self._seconds / _LOOKS)

    def _look(self, found: Sequence[Lag]) -> tuple[int, str]:
        """Return the room that the slowest lane leaves, and the words for a lane that is to be waited for."""
        lanes = defaultdict(list)
        for one in found:
            if one.committed is not None:
                lanes[one.lane].append(one)
        now, room, behind = asyncio.get_running_loop().time(), 2**31, (0, "")
        for lane, partitions in lanes.items():
            lag, done = sum(one.records for one in partitions), sum(one.committed or 0 for one in partitions)
            speed = self._speeds.setdefault(lane, _Speed(now, done, lag > 0))
            speed.seen(now, done, lag)
            allowed = max(_LEAST, int(speed.per_second * self._seconds))
            room = min(room, allowed - lag)
            if lag > allowed / 2:
                behind = max(behind, (lag, f"{lane} is {lag:,} records behind"))
        return room, behind[1]

    def wrote(self) -> None:
        """Say that records were written: from now on each lane has something to do, whatever the look before it said."""
        now = asyncio.get_running_loop().time()
        for speed in self._speeds.values():
            if not speed.busy:
                speed.since, speed.busy = now, True
