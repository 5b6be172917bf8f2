"""The dead man's switch of a delivery: the receiver hears regularly that it is watched for, and is told when it is not.

Each partition of the vitals lane says on `clinical.alerts` that it is alive. When one says nothing for `dead_after` seconds, by the
time that stands in its heartbeats and not by when we happened to read them, the receiver is told `silence`; when all are heard
again, `silence-over`. While all is well a webhook gets `heartbeat`: when that stays away, it is we or the way to it that is down.

Partition n of the lane speaks on partition n of the topic, counted round where the topic has fewer (`streams.wire`): so of several
workers of a delivery each knows which ones it must hear. What counts is the number that the heartbeat names, wherever it lies.
"""

import asyncio
import logging
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from time import monotonic
from typing import Final

from connectors.deliver.notice import Kind, Notice
from connectors.deliver.settings import AnyReceiver
from models.batching import describe
from processors.identity import natural_id
from streams.clock import Clock
from streams.courier import Courier
from streams.metrics import LaneMetrics

log = logging.getLogger("vigil.deliver")

_LOOK: Final = 1.0  # seconds between looks at most


@dataclass(slots=True)
class _Sleep:
    """Waits without ado: the task that waits is cancelled at the end."""

    async def wait(self, reason: str, seconds: float) -> None:
        log.warning("a notice of silence is not taken: %s", reason)
        await asyncio.sleep(seconds)


class Vigilance:
    """Knows which partitions of the vitals lane are alive, and tells the receiver."""

    def __init__(self, receiver: str, own: AnyReceiver, clock: Clock, metrics: LaneMetrics) -> None:
        self._receiver = receiver
        self._own = own
        self._clock = clock
        self._metrics = metrics
        self._since: dict[int, datetime] = {}  # since when a partition is to be heard
        self._heard: dict[int, datetime] = {}  # decided_at of its newest heartbeat
        self.told_since: datetime | None = None  # the silence that the receiver knows of

    def assigned(self, partitions: Iterable[int]) -> None:
        """Watch these partitions of the lane from now on; what was heard of one that stays is kept."""
        now = self._clock()
        self._since = {number: self._since.get(number, now) for number in partitions}
        self._heard = {number: at for number, at in self._heard.items() if number in self._since}

    def beat(self, partition: int, decided_at: datetime) -> None:
        """Take note of a heartbeat; old ones that are read after an outage are what they are."""
        if partition not in self._since:  # another worker's to hear
            return
        heard, now = self._heard.get(partition), self._clock()
        if (
            heard is None or decided_at > heard or heard > now
        ):  # ahead of us: a clock was wrong, and no silence may hide behind it
            self._heard[partition] = min(decided_at, now)

    def silent(self, now: datetime) -> dict[int, datetime]:
        """Return the partitions that have been silent for too long, and since when."""
        last = {number: max(since, self._heard.get(number, since)) for number, since in self._since.items()}
        limit = timedelta(seconds=self._own.dead_after)
        return {number: at for number, at in last.items() if now - at > limit}

    def alive(self, now: datetime) -> bool:
        """Tell whether every partition was heard lately; before each was heard once, nobody can say so."""
        return bool(self._since) and self._since.keys() == self._heard.keys() and not self.silent(now)

    async def watch(self, courier: Courier) -> None:
        """Watch until cancelled."""
        due = 0.0
        while True:
            await asyncio.sleep(min(_LOOK, self._own.dead_after / 4, self._own.heartbeat_every / 2))
            try:
                await self._look(courier)
                if self._own.kind == "webhook" and monotonic() >= due and self.alive(self._clock()):
                    due = monotonic() + self._own.heartbeat_every
                    await self._beat_on(courier)
            except Exception as error:  # alerts go on whatever becomes of this
                log.error("the dead man's switch of %s failed: %s", self._receiver, describe(error))

    async def _look(self, courier: Courier) -> None:
        silent = self.silent(self._clock())
        if silent and self.told_since is None:
            since = min(silent.values())
            log.error(
                "nothing is heard of %d partitions of the vitals lane since %s", len(silent), since.isoformat("T", "seconds")
            )
            if await self._tell(courier, "silence", since, tuple(sorted(silent))):
                self.told_since = since
        elif self.told_since is not None and not silent and await self._tell(courier, "silence-over", self.told_since, ()):
            self.told_since = None

    async def _tell(self, courier: Courier, kind: Kind, since: datetime, partitions: tuple[int, ...]) -> bool:
        key = natural_id(kind, self._receiver, since.isoformat(), *partitions)

        def make(now: datetime, instead_of: str) -> Notice:
            return Notice(kind, key, now, instead_of=instead_of, since=since, partitions=partitions)

        done = await courier.deliver(make, _Sleep())
        self._metrics.event(kind if done.by else f"{kind}-refused")
        return bool(done.by)

    async def _beat_on(self, courier: Courier) -> None:
        now = self._clock()
        notice = Notice("heartbeat", natural_id("heartbeat", self._receiver, now.isoformat()), now)
        if await courier.once(notice):
            self._metrics.event("heartbeat")
