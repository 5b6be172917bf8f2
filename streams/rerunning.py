"""One partition of the vitals lane run again, in this process: what the topics hold through a monitor, in the journal's order.

Where the journal no longer holds the order (its entries go round a ring, and compaction keeps the newest of each: 18 hours of ticks
of a second), records are taken in the order in which they were written, and logged time is theirs.
"""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, suppress
from datetime import UTC, datetime, timedelta
from math import inf
from typing import Any, Final, Protocol

import orjson

from models.errors import Poison
from models.tasks import Floats
from processors.events import AlertEvent, Deterioration, Event, ScoreEvent, VitalsEvent
from processors.monitor import Monitor
from streams.deadletters import redriven
from streams.journal import Entry, Lapses, Memory, stretch
from streams.machine import SECONDARY, Machine
from streams.reader import Reader
from streams.scoring import Scoring
from streams.settings import Settings

_BATCH: Final = 256

Tell = Callable[[int, int], None]


class Wanted(Protocol):
    """Which of what is said is kept, and whose sets go to the model."""

    def takes(self, event: VitalsEvent | ScoreEvent) -> bool:
        """Tell whether a set, or its score, is asked for."""
        ...

    def hears(self, event: AlertEvent) -> bool:
        """Tell whether a step of an alert is asked for."""
        ...


class History(Memory):
    """All the entries that a journal partition still holds, beyond the last snapshot too."""

    def take(self, record: Any) -> None:
        """Read the next record of the journal; states and markers are of no use here, and states are large."""
        if record.value is not None and orjson.loads(record.value)["kind"] not in ("state", "marker"):
            super().take(record)

    @property
    def gaps(self) -> bool:
        """Tell whether some entries are no longer there."""
        numbers = [entry.number for entry in self.entries]
        return numbers != list(range(1, len(numbers) + 1))

    def begins_late(self, begin: int) -> bool:
        """Tell whether vitals, from `begin` on, come before the first entry of all: a journal before this one is lost."""
        return bool(self.entries) and self.entries[0].number == 1 and self.entries[0].at > begin


class Rerun:
    """One partition's inputs through one monitor, up to `last`; keeps the scores and the alerts' steps that were asked for."""

    def __init__(
        self,
        settings: Settings,
        number: int,
        asked: Wanted,
        monitor: Monitor,
        scoring: Scoring,
        last: int,
        tell: Tell,
        lapses: Lapses,
    ) -> None:
        self._settings = settings
        self._number = number
        self._asked = asked
        self._machine = Machine(monitor, number)
        self._scoring = scoring
        self._last = last
        self._tell = tell
        self._lapses = lapses  # of the model when it was so decided: it is not asked there
        self._heads: dict[type[Any], AsyncIterator[Any]] = {}
        self._next: dict[type[Any], Any] = {}
        self._step = settings.monitor.blind_after / 2  # logged time never stands still for an outage that was none
        self.scores: list[ScoreEvent] = []
        self.scored_at: list[datetime | None] = []  # each one's logged time
        self.alerts: list[AlertEvent] = []
        self.copies: dict[int, int] = {}  # of the sets asked for, those that were replayed or redriven: of which offset each is
        self.windows: dict[int, Floats] = {}  # what the model was given for the sets asked for, by their offsets
        self.sets = 0

    async def open(self, stack: AsyncExitStack) -> None:
        """Stand at the beginning of what the topics hold."""
        for kind in (VitalsEvent, *SECONDARY):
            reader = await stack.enter_async_context(Reader(self._settings.kafka))
            topic = self._settings.kafka.topic_prefix + kind.topic
            begin, end = await reader.bounds(topic, self._number)
            self._heads[kind] = stretch(reader, topic, self._number, begin, end)
            await self._take(kind)

    async def _take(self, kind: type[Any]) -> Any:
        record = self._next.get(kind)
        self._next[kind] = await anext(self._heads[kind], None)
        return record

    async def obey(self, entry: Entry, *, known: bool) -> None:
        """Apply what an entry says. Where it is not `known` what came before, that is taken in the order of writing."""
        await self.advance(entry.at, in_order=known, ends=None if known else entry.ends)
        for kind in SECONDARY:
            while (record := self._next[kind]) is not None and record.offset < entry.ends.get(kind.topic, 0):
                await self._take(kind)
                self._hear(kind, record)
        if entry.now is not None:
            if not known:
                self.pass_time(entry.now)
            self._tick(entry.now, entry.offset, entry.number)
        self._machine.entry = entry.number

    async def advance(self, upto: int, *, in_order: bool, ends: dict[str, int] | None = None) -> None:
        """Run the vitals below an offset. Unless the order is known, contexts and answers come in by when they were written."""
        batch: list[Any] = []
        while (record := self._next[VitalsEvent]) is not None and record.offset < upto:
            if not in_order:
                due = await self._due(written(record), ends)
                if batch and (due or written(record) - written(batch[-1]) >= timedelta(seconds=1)):
                    await self._work(batch)
                    batch = []
                for kind, one in due:
                    self._hear(kind, one)
                if not batch:
                    self.pass_time(written(record))
            batch.append(record)
            await self._take(VitalsEvent)
            if len(batch) >= _BATCH:
                await self._work(batch)
                batch = []
        await self._work(batch)

    async def _due(self, now: datetime, ends: dict[str, int] | None) -> list[tuple[type[Any], Any]]:
        due: list[tuple[type[Any], Any]] = []
        for kind in SECONDARY:
            topic = str(kind.topic)
            while (record := self._next[kind]) is not None and written(record) <= now:
                if ends is not None and record.offset >= ends.get(topic, inf):
                    break
                due.append((kind, record))
                await self._take(kind)
        return sorted(due, key=lambda one: written(one[1]))

    def pass_time(self, now: datetime) -> None:
        """Let logged time come to `now`, in steps that are no outage."""
        at = self._machine.monitor.now
        while at is not None and now - at > self._step:
            at += self._step
            self._tick(at, 0, 0)
        self._tick(now, 0, 0)

    def _tick(self, now: datetime, offset: int, number: int) -> None:
        self._keep(self._machine.tick(now, number=number, offset=offset))

    def _hear(self, kind: type[Any], record: Any) -> None:
        with suppress(Poison):
            self._keep(self._machine.hear(kind, record))

    def _keep(self, events: Sequence[Event]) -> None:
        scores = [event for event in events if isinstance(event, ScoreEvent) and self._asked.takes(event)]
        self.scores += scores
        self.scored_at += [self._machine.monitor.now] * len(scores)
        self.alerts += [event for event in events if isinstance(event, AlertEvent) and self._asked.hears(event)]

    async def _work(self, records: Sequence[Any]) -> None:
        made, mine, known = [], [], []
        for record in records:
            with suppress(Poison):
                one = self._machine.observe(record)
                made.append(one)
                if self._asked.takes(one.event):
                    mine.append(one)
                    if one.window is not None:
                        self.windows[record.offset] = one.window
                    known.append(self._lapses.why(self._machine.entry, record.offset))
                    if (source := redriven(record)) is not None:
                        self.copies[record.offset] = source.offset
        scored: dict[int, tuple[Deterioration | None, str]] = {}
        for one, answer in zip(mine, await self._scoring.score(mine, known) if mine else [], strict=True):
            scored[id(one)] = answer
        for one in made:
            with suppress(Poison):
                self._keep(self._machine.monitor.decide(one, *scored.get(id(one), (None, ""))))
        self.sets += len(records)
        if records:
            self._tell(records[-1].offset + 1, self._last)


def written(record: Any) -> datetime:
    """Return when a record was written."""
    return datetime.fromtimestamp(max(0, record.timestamp) / 1000, UTC)
