"""What is under way in a delivery: slices of which some records are open, steps of alerts, who gets them, and how one waits."""

import asyncio
import logging
import time
from collections import OrderedDict
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final

from connectors.deliver.settings import ReceiverSettings
from processors.events import AlertEvent, ScoreEvent
from streams.ledger import Slice
from streams.partition import Abandoned, Steps

log = logging.getLogger("vigil.deliver")

_REMEMBERED: Final = 10_000  # alerts that were sent, so that their further steps are, whatever the filter
_ENDS: Final = frozenset({"resolved", "declined", "withdrawn"})
_OF_PARTITIONS: Final = frozenset({"feed-stopped", "feed-late", "monitoring-blind"})
_ONE_CAUSE: Final = timedelta(minutes=15)  # within which partitions tell of the same outage or feed


@dataclass(slots=True)
class Parcel:
    """A slice of which some records are still under way."""

    piece: Slice
    left: int

    def done(self) -> None:
        """One more record is settled."""
        self.left -= 1
        if self.left == 0:
            self.piece.settle()


@dataclass(slots=True, eq=False)
class Step:
    """One step of an alert, or one score, on its way, and the earlier ones that it stands for."""

    event: AlertEvent | ScoreEvent
    record: Any
    parcels: list[Parcel]
    passed_over: list[str] = field(default_factory=list)

    @property
    def thread(self) -> str:
        """What it is one of: of two of the same thread the later one replaces the earlier."""
        return self.event.alert_id if isinstance(self.event, AlertEvent) else self.event.patient_id

    @property
    def since(self) -> datetime:
        """When it became known."""
        return self.event.decided_at if isinstance(self.event, AlertEvent) else self.event.received_at


@dataclass(slots=True)
class _Cause:
    """What several partitions tell of: the alert that speaks for all of them, when it was raised, and which have told."""

    alert_id: str
    at: datetime
    partitions: set[int]


class Filter:
    """Which alerts a receiver gets. A site's filter must not leave a receiver with an alert that it believes to be going on.

    One outage, and one feed that is silent or late, is one notice: of the partitions that tell of it at the same time the first
    speaks for all. That is remembered by this process alone, so each of several workers may tell once.
    """

    def __init__(self, settings: ReceiverSettings) -> None:
        self._settings = settings
        self._sent: OrderedDict[str, None] = OrderedDict()
        self._causes: dict[tuple[str, str], _Cause] = {}
        self._spoken_for: OrderedDict[str, None] = OrderedDict()

    def takes(self, alert: AlertEvent) -> bool:
        """Tell whether the receiver gets this step; remembers that it did."""
        if alert.kind in _OF_PARTITIONS and self._is_spoken_for(alert):
            return False
        own = self._settings
        told = {alert.route, *alert.routes}  # an alert that climbed and then gets graver or ends, does so for them too
        here = (not own.wards or any(name in own.wards for name in alert.location.ward_names)) and (
            not own.routes or not told.isdisjoint(own.routes)
        )
        grave = not own.severities or alert.severity in own.severities or alert.state in _ENDS
        if not (here and grave) and alert.alert_id not in self._sent:
            return False
        _remember(self._sent, alert.alert_id)
        return True

    def _is_spoken_for(self, alert: AlertEvent) -> bool:
        if alert.state != "raised" or alert.alert_id in self._spoken_for:
            return alert.alert_id in self._spoken_for
        cause, partition = self._causes.get((alert.kind, alert.peer)), alert.source.partition
        if cause is not None and cause.alert_id == alert.alert_id:
            return False
        if cause is None or partition in cause.partitions or abs(alert.decided_at - cause.at) > _ONE_CAUSE:
            self._causes[alert.kind, alert.peer] = _Cause(alert.alert_id, alert.decided_at, {partition})
            return False
        cause.partitions.add(partition)
        _remember(self._spoken_for, alert.alert_id)
        return True


def _remember(known: OrderedDict[str, None], one: str) -> None:
    known[one] = None
    known.move_to_end(one)
    if len(known) > _REMEMBERED:
        known.popitem(last=False)


class Holding:
    """Waits on behalf of one partition's deliveries, so that the engine sees that this is waiting, and why."""

    def __init__(self, steps: Steps) -> None:
        self._steps = steps
        self._reasons: dict[object, str] = {}

    async def wait(self, token: object, reason: str, seconds: float) -> None:
        """Wait; raises `Abandoned` when the partition is given up."""
        steps = self._steps
        if steps.held_since is None:
            steps.held_since = time.monotonic()
            log.warning("%s: held, %s; tried again in %.1f s and on", steps.name, reason, seconds)
        self._reasons[token] = steps.held_reason = reason
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            steps.progress = time.monotonic()  # an attempt was made: this is waiting, not hanging
            try:
                async with asyncio.timeout(min(left, 5.0)):
                    await steps.closing.wait()
                raise Abandoned
            except TimeoutError:
                pass
        steps.progress = time.monotonic()

    def over(self, token: object) -> None:
        """What `token` waited for has come."""
        steps = self._steps
        steps.progress = time.monotonic()
        if self._reasons.pop(token, None) is None:
            return
        if self._reasons:
            steps.held_reason = next(iter(self._reasons.values()))
        elif steps.held_since is not None:
            log.info("%s: goes on after %.1f s", steps.name, time.monotonic() - steps.held_since)
            steps.held_since = None


@dataclass(frozen=True, slots=True)
class Token:
    """One task's way to wait; `streams.courier.Waiting`."""

    holding: Holding
    key: object

    async def wait(self, reason: str, seconds: float) -> None:
        """Wait; raises `Abandoned`."""
        await self.holding.wait(self.key, reason, seconds)
