"""The clock that lanes and connectors are given: real time, or the demo's accelerated time; and one that distrusts its steps."""

import logging
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Protocol

from streams.settings import ClockSettings

log = logging.getLogger("vigil.clock")

# A clock that is ahead by less makes no set stale (60 minutes) that comes within half an hour of its observation.
_HARMLESS = timedelta(minutes=30)


class Clock(Protocol):
    """Tells the time as an aware datetime in UTC."""

    def __call__(self) -> datetime:
        """Return now."""
        ...


def real_clock() -> datetime:
    """Return the time of day."""
    return datetime.now(UTC)


def clock_of(settings: ClockSettings) -> Clock:
    """Return the clock that the settings describe."""
    if settings.epoch is None or settings.started is None:
        return real_clock
    epoch, started, speed = settings.epoch, settings.started, settings.speed

    def accelerated() -> datetime:
        passed = (datetime.now(UTC) - started).total_seconds()
        return epoch + timedelta(seconds=passed * speed)

    return accelerated


def passed() -> float:
    """Return seconds that pass whatever becomes of the wall clock, those in which the machine slept included where it tells."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()


class SteadyClock:
    """The wall clock, but for its steps: by one bad answer of a time server all patients' sets would be history.

    A step is followed once it has lasted for `hold_seconds`; until then time goes on by what passes. A step ahead that would make
    sets stale is not followed as long as sets come (`witness`) whose own times say that it is wrong. A first look cannot be
    distrusted: there, an outage and a step are alike.
    """

    def __init__(
        self,
        clock: Clock,
        settings: ClockSettings,
        *,
        count: Callable[[str], None],
        elapsed: Callable[[], float] = passed,
    ) -> None:
        self._clock = clock
        self._count = count
        self._elapsed = elapsed
        self._speed = 1.0 if settings.epoch is None else settings.speed
        self._step = timedelta(seconds=settings.step_seconds) * self._speed
        self._hold = settings.hold_seconds
        self._last: tuple[datetime, float] | None = None  # what was told, and when
        self._off: timedelta | None = None  # a step that is not believed yet
        self._since = 0.0
        self._newest: datetime | None = None  # the newest time that a set has shown since then
        self._refused = False

    def __call__(self) -> datetime:
        """Return the time to log. It may be earlier than the last one: when a step back is believed."""
        wall, elapsed = self._clock(), self._elapsed()
        told = wall
        if self._last is not None:
            expected = self._last[0] + timedelta(seconds=(elapsed - self._last[1]) * self._speed)
            told = self._judge(wall, expected, elapsed)
        self._last = told, elapsed
        return told

    @property
    def doubts(self) -> bool:
        """Tell whether a step is not believed yet: only then are witnesses asked."""
        return self._off is not None

    def witness(self, observed: datetime, received: datetime) -> None:
        """Take note of a set's own times: two clocks, of which the earlier one has been reached."""
        if self.doubts:
            shown = min(observed, received)
            self._newest = shown if self._newest is None else max(self._newest, shown)

    def _judge(self, wall: datetime, expected: datetime, elapsed: float) -> datetime:
        off = wall - expected
        if abs(off) <= self._step:
            if self._off is not None:
                log.warning("the clock is back after a step of %+.0f s, which was not followed", self._off.total_seconds())
                self._off = None
            return wall
        if self._off is None or abs(off - self._off) > self._step:
            self._off, self._since, self._newest, self._refused = off, elapsed, None, False
            log.error(
                "the clock stepped by %+.0f s: logged time does not follow before this has lasted for %.0f s",
                off.total_seconds(), self._hold,
            )  # fmt: skip
            self._count("clock-step")
        if elapsed - self._since < self._hold:
            return expected
        if off > _HARMLESS and self._newest is not None and self._newest <= expected + self._step:
            if not self._refused:
                log.error(
                    "the clock is %+.0f s ahead of the sets' own times: logged time does not follow; set this host's clock",
                    off.total_seconds(),
                )
                self._count("clock-refused")
            self._refused = True
            return expected
        log.error("the clock has kept its step of %+.0f s: logged time follows", off.total_seconds())
        self._count("clock-followed")
        self._off = None
        return wall
