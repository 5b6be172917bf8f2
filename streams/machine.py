"""A monitor at its place in one partition's history: live, in a rebuild and in a rerun the same records go into it the same way."""

from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from datetime import datetime
from typing import Any, Final

from processors.events import Event, FeedbackEvent, PatientEvent, Source, VitalsEvent
from processors.monitor import Assessment, Monitor
from streams.deadletters import redriven
from streams.journal import TOPIC, Entry, stretch
from streams.reader import Reader
from streams.wire import decode

# Applied in this order within an entry: context before what people answered.
SECONDARY: Final[tuple[type[PatientEvent] | type[FeedbackEvent], ...]] = (PatientEvent, FeedbackEvent)


class Machine:
    """The monitor of partition `number`, and how far it has come: vitals below `at`, entry `entry`, the others below `ends`."""

    def __init__(self, monitor: Monitor, number: int) -> None:
        self.monitor = monitor
        self.number = number
        self.at = 0
        self.entry = 0
        self.ends: dict[str, int] = {}

    def observe(self, record: Any) -> Assessment:
        """Chart a set of vital signs, to be decided by `monitor.decide`. Raises `Poison`."""
        event, again = decode(VitalsEvent, record), redriven(record) is not None
        return self.monitor.observe(event, _source(VitalsEvent, record, event), history=again)

    def hear(self, kind: type[PatientEvent] | type[FeedbackEvent], record: Any) -> list[Event]:
        """Take a patient's context, or an answer. Raises `Poison`."""
        event = decode(kind, record)
        source = _source(kind, record, event)
        return self.monitor.patient(event, source) if isinstance(event, PatientEvent) else self.monitor.feedback(event, source)

    def tick(self, now: datetime, *, number: int, offset: int) -> list[Event]:
        """Let logged time be `now`, as entry `number` at that offset of the journal says."""
        name = f"{self.number}/{number}"
        return self.monitor.tick(now, Source(topic=TOPIC, partition=self.number, offset=max(offset, 0), event_id=name))

    async def context(
        self,
        entry: Entry,
        log: Callable[[], AbstractAsyncContextManager[Reader]],
        prefix: str,
        in_hand: Mapping[str, list[Any]],
    ) -> list[tuple[type[PatientEvent] | type[FeedbackEvent], Any]]:
        """Return the records that an entry takes: those `in_hand`, by topic, where they are whole, else from the `log`."""
        found: list[tuple[type[PatientEvent] | type[FeedbackEvent], Any]] = []
        for kind in SECONDARY:
            start, end = self.ends.get(kind.topic, 0), entry.ends.get(kind.topic, 0)
            if start >= end:
                continue
            records = in_hand.get(kind.topic)
            if not records or records[-1].offset + 1 < end:
                async with log() as reader:
                    records = [record async for record in stretch(reader, prefix + kind.topic, self.number, start, end)]
            found += [(kind, record) for record in records if start <= record.offset < end]
        return found


def _source(kind: type[Event], record: Any, event: Event) -> Source:
    return Source(topic=kind.topic, partition=record.partition, offset=record.offset, event_id=event.id)
