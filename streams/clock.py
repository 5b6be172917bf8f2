"""The clock that lanes and connectors are given: real time, or the demo's accelerated time."""

from datetime import UTC, datetime, timedelta
from typing import Protocol

from streams.settings import ClockSettings


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
