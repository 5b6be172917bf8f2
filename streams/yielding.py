"""Giving way to live traffic: who writes records to a topic again keeps what lies before a live one small, in the lane's own time.

A lag that a lane of vital signs works off in a blink keeps a live note waiting for a minute. So what is allowed is said in seconds,
and how many records that is, is measured: what each lane commits from one look to another, while it has something to do.
"""

import asyncio
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from models.errors import Transient
from streams.lagging import READS, Lag, lags, unattended
from streams.settings import Settings

SECONDS: Final = 1.0  # that a live record may wait behind what is written again
_LEAST: Final = 10  # records that may lie before it in any case: a lane commits four times a second, and its lag is seldom 0
_SPAN: Final = 1.0  # seconds over which the speed of a lane that is behind is measured, at least: a few commits
_LOOKS: Final = 4  # at a lane that is behind, in the time that is allowed
_STILL: Final = 2.0  # seconds without a commit after which it is asked whether anybody runs a lane that is behind
_STANDS: Final = 60.0  # seconds after which one that somebody runs counts as standing still: a batch may take half of them


@dataclass(slots=True)
class _Speed:
    """How fast one lane is, measured while it is `busy`: since then, and from what it had `done` by then.

    `last` is what it had done at the look before, `moved` when that was last seen to change.
    """

    since: float
    done: int
    busy: bool
    per_second: float = 0.0
    last: int = -1
    moved: float = 0.0
    asked: float = -_STILL  # when it was asked whether anybody runs it, and what was said
    nobody: bool = False

    def seen(self, now: float, done: int, lag: int) -> None:
        """Take in a look at the lane."""
        if done != self.last or not lag:
            self.last, self.moved, self.nobody = done, now, False
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
    """How many records may be written to topics again, so that no lane has more than `seconds` of its work before a live one.

    A lane that stands still has no live record that these would keep waiting. It is waited for all the same where they are for it.
    """

    def __init__(
        self, settings: Settings, *, seconds: float = SECONDS, waits: Callable[[str], object] = lambda words: None
    ) -> None:
        self._settings = settings
        self._seconds = seconds
        self._waits = waits
        self._speeds: dict[str, _Speed] = {}

    async def wait(self, topics: Collection[str]) -> int:
        """Return how many may be written now, once no lane that reads the topics has more than half of what is allowed before it.

        A lane that never committed and has no workers does not run here, and is not waited for. A cluster that is busy with itself
        and does not say is. `waits` hears at each look which lane is behind.
        """
        while True:
            room, behind = await self._may(topics, READS)
            if not behind:
                return room
            await self._wait(behind)

    async def first(self, topics: Mapping[str, Collection[str]]) -> tuple[str, int]:
        """Return the first of these topics that may be written now, and how many records, as `wait` does for one.

        With each topic stand the lanes for which what is written to it is: others that read it and stand still are not waited for.
        """
        while True:
            words = []
            for topic, meant in topics.items():
                room, behind = await self._may({topic}, meant)
                if not behind:
                    return topic, room
                words.append(behind)
            await self._wait(", ".join(dict.fromkeys(words)))

    async def _wait(self, behind: str) -> None:
        self._waits(behind)
        await asyncio.sleep(self._seconds / _LOOKS)

    async def _may(self, topics: Collection[str], meant: Collection[str]) -> tuple[int, str]:
        """Return how many records may be written to the topics now, and why it is to be waited."""
        lanes = [lane for lane, read in READS.items() if not set(read).isdisjoint(topics)]
        try:
            return await self._look(await lags(self._settings, lanes, times=False) if lanes else (), meant)
        except Transient as error:
            return 0, str(error)

    async def _look(self, found: Sequence[Lag], meant: Collection[str]) -> tuple[int, str]:
        """Return the room that the slowest lane leaves, and the words for a lane that is to be waited for."""
        lanes = defaultdict(list)
        for one in found:
            lanes[one.lane].append(one)
        now, room, behind = asyncio.get_running_loop().time(), 2**31, (0, "")
        for lane, partitions in lanes.items():
            if not any(one.runs or one.committed is not None for one in partitions):
                continue
            lag, done = sum(one.records for one in partitions), sum(one.committed or 0 for one in partitions)
            speed = self._speeds.setdefault(lane, _Speed(now, done, lag > 0))
            speed.seen(now, done, lag)
            allowed = max(_LEAST, int(speed.per_second * self._seconds))
            if lag > allowed / 2 and now - speed.moved >= _STILL and now - speed.asked >= _STILL:
                speed.asked, speed.nobody = now, await unattended(self._settings, lane)
            if lane not in meant and (speed.nobody or now - speed.moved >= _STANDS):
                continue
            room = min(room, allowed - lag)
            if lag > allowed / 2:
                nobody = f", and nobody runs it: `vigil lane run {lane}`" if speed.nobody else ""
                behind = max(behind, (lag, f"{lane} is {lag:,} records behind{nobody}"))
        return room, behind[1]

    def wrote(self) -> None:
        """Say that records were written: from now on each lane has something to do, whatever the look before it said."""
        now = asyncio.get_running_loop().time()
        for speed in self._speeds.values():
            if not speed.busy:
                speed.since, speed.busy = now, True
