"""The courier: brings one notice to a receiver, or to its fallback, for as long as it takes. Knows nothing of Kafka.

1. The receiver is tried; silence, 5xx and the like are tried again after a jittered, doubling, capped pause (Retry-After heeded).
2. A refusal (4xx, AR) is tried a few times, since a proxy being set up refuses, too; then the fallback is told, and the refusal is
   given back to the caller, for a dead letter.
3. A receiver that has confirmed nothing for `silent_after` seconds is passed over: its fallback is told, and both are tried on
   until one confirms. Without a fallback we go on trying.
"""

import asyncio
import logging
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from time import monotonic
from typing import Protocol

from connectors.deliver.errors import Refused, Unavailable
from connectors.deliver.notice import Notice, Receiver
from connectors.deliver.settings import ReceiverSettings
from models.batching import describe
from streams.clock import Clock

log = logging.getLogger("vigil.courier")

Make = Callable[[datetime, str], Notice]  # now, the receiver that this is told instead of


class Waiting(Protocol):
    """How a courier waits: whoever owns it may end that, and wants to know why it waits."""

    async def wait(self, reason: str, seconds: float) -> None:
        """Wait. Raises whatever ends the courier's work."""
        ...


@dataclass(slots=True)
class Way:
    """A receiver with its settings, and how it fares. Shared by all that is under way to it."""

    name: str
    settings: ReceiverSettings
    receiver: Receiver
    slots: asyncio.Semaphore
    failing_since: float | None = None  # monotonic; of the first failure since it last answered
    not_before: float = 0.0  # monotonic: it asked us to wait


@dataclass(slots=True)
class _Try:
    """How one notice fares with one way."""

    way: Way
    refusals: int = 0
    refused: Refused | None = None
    failed_since: float | None = None

    def given_up(self) -> bool:
        return self.refusals >= self.way.settings.refused_tries

    def passed_over(self, now: float) -> bool:
        """It has been silent for too long: to this notice, or to all of late."""
        since = [one for one in (self.failed_since, self.way.failing_since) if one is not None]
        return bool(since) and now - min(since) >= self.way.settings.silent_after


@dataclass(frozen=True, slots=True)
class Delivered:
    """How it ended: who confirmed (empty: nobody, all refused), and who refused, with the error."""

    by: str
    refusals: tuple[tuple[str, Refused], ...] = ()


@dataclass(slots=True)
class Courier:
    """Brings notices along a chain of ways: a receiver and its fallbacks."""

    ways: Sequence[Way]
    clock: Clock
    retried: Callable[[str], None] = lambda name: None
    jitter: random.Random = field(default_factory=random.Random)

    async def deliver(self, make: Make, waiting: Waiting) -> Delivered:
        """Return once one of the ways has confirmed, or all have refused for good."""
        tries = [_Try(way) for way in self.ways]
        pause = self.ways[0].settings.backoff_first
        while True:
            confirmed, reason = await self._round(tries, make)
            refusals = tuple((one.way.name, one.refused) for one in tries if one.given_up() and one.refused is not None)
            if confirmed or len(refusals) == len(tries):
                return Delivered(confirmed, refusals)
            now = monotonic()
            asked = [one.way.not_before - now for one in tries if not one.given_up()]
            await waiting.wait(reason, max(pause * self.jitter.uniform(0.5, 1.0), min(asked)))
            pause = min(2 * pause, self.ways[0].settings.backoff_most)

    async def once(self, notice: Notice) -> bool:
        """Tell the first receiver once, for what has no worth later; tells whether it confirmed."""
        way = self.ways[0]
        try:
            async with way.slots:
                await way.receiver.send(notice)
        except (Unavailable, Refused) as error:
            log.info("%s did not take a %s: %s", way.name, notice.kind, error)
            return False
        return True

    async def _round(self, tries: Sequence[_Try], make: Make) -> tuple[str, str]:
        """Try each way that is due; return who confirmed, or why none did."""
        reason = ""
        for number, one in enumerate(tries):
            if one.given_up():
                continue
            try:
                await self._attempt(one, make, "" if number == 0 else tries[0].way.name)
            except Refused as error:
                one.refusals += 1
                one.refused = error
                reason = reason or f"{one.way.name} refuses: {error}"
                if not one.given_up():
                    break  # it may be a passing state of its own: ask again before anybody else is told
                log.warning("%s refused for good: %s", one.way.name, error.advice)
            except Unavailable as error:
                reason = reason or f"{one.way.name}: {error}"
                if not one.passed_over(monotonic()):
                    break
            else:
                return one.way.name, ""
            self.retried(one.way.name)
        return "", reason

    async def _attempt(self, one: _Try, make: Make, instead_of: str) -> None:
        way = one.way
        if monotonic() < way.not_before:
            raise Unavailable("it asked us to wait")
        try:
            async with way.slots:
                notice = make(self.clock(), instead_of)
                if not way.settings.identify:  # a fallback may be told less than whom it stands in for
                    notice = replace(notice, person=None)
                try:
                    await way.receiver.send(notice)
                except (Unavailable, Refused):
                    raise
                except Exception as error:  # our own fault: the notice must reach somebody all the same
                    raise Refused(f"it cannot be told: {describe(error)}") from error
        except Unavailable as error:
            now = monotonic()
            way.failing_since = way.failing_since if way.failing_since is not None else now
            one.failed_since = one.failed_since if one.failed_since is not None else now
            if error.retry_after is not None:
                way.not_before = max(way.not_before, now + min(error.retry_after, way.settings.retry_after_most))
            raise
        except Refused:
            way.failing_since = None
            raise
        way.failing_since = None
