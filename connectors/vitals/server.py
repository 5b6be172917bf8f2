"""Plays a file of vital signs into the stream, at its own pace or faster: for demonstrations, trials and tests.

`FileReplay` is an asynchronous iterator of events, each when it is due; `replay` publishes them. A batch that Kafka does not
confirm is sent again until it is: a file, unlike a ward, can wait.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from pathlib import Path

from connectors.identity import Identities
from connectors.publisher import Publisher
from connectors.vitals.acknowledgement import Bookmark
from connectors.vitals.mapping import Reading, RowMapper, Unusable, joined
from connectors.vitals.settings import FileMapping, ReplaySettings
from connectors.vitals.tables import Broken, rows
from models.errors import Permanent, Transient
from processors.events import Event, VitalsEvent

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a replay is. `at` is the file's time; `total` is None where the file is streamed and not read first."""

    sets: int = 0
    total: int | None = None
    events: int = 0
    vitals: int = 0
    dead_letters: int = 0
    repeated: int = 0  # batches that were not confirmed at the first try
    at: datetime | None = None
    troubles: Counter[str] = field(default_factory=Counter)
    flags: Counter[str] = field(default_factory=Counter)  # what was read by a rule
    unread: tuple[str, ...] = ()  # what the mapping names and the file, read to its end, never had


class FileReplay:
    """The events of a file, each when it is due. Iterate once: `async for sets, event in FileReplay(...)`."""

    def __init__(
        self,
        path: Path,
        mapping: FileMapping,
        settings: ReplaySettings = ReplaySettings(),  # noqa: B008  frozen
        *,
        identities: Identities,
        now: Callable[[], datetime],
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        skip: int = 0,
        shift: timedelta | None = None,
    ) -> None:
        """`now` gives aware times (an accelerated clock, where there is one) and `sleep` waits in its seconds.

        `skip` sets are passed over, and `shift` moves all times (instead of what `settings.times` says): to go on where a
        run ended.
        """
        self.path = path
        self.settings = settings
        self.troubles: Counter[str] = Counter()
        self.total: int | None = None
        self.shift = shift
        self._mapper = RowMapper(mapping, identities, name=path.name)
        self._now = now
        self._sleep = sleep
        self._skip = skip
        self._lost: list[Event] = []

    @property
    def flags(self) -> Counter[str]:
        """What was read by a rule so far."""
        return self._mapper.flags

    @property
    def unread(self) -> tuple[str, ...]:
        """What the mapping names and no row had so far."""
        return self._mapper.unread

    async def __aiter__(self) -> AsyncIterator[tuple[int, Event]]:
        """Yield (number of the set from 1, event), waiting until each is due.

        Raises `Permanent` when the file cannot be read or the mapping does not fit it.
        """
        sets = await asyncio.to_thread(self._sorted) if self.settings.order == "time" else joined(self._readings())
        began: datetime | None = None
        first: datetime | None = None
        for count, one in enumerate(sets, 1):
            if self.shift is None:
                self.shift = self._now() - one.at if self.settings.times == "from-now" else timedelta()
            if count <= self._skip:
                continue
            if began is None or first is None:
                began, first = self._now(), one.at
            if self.settings.speed:
                due = began + (one.at - first) / self.settings.speed
                if (wait := (due - self._now()).total_seconds()) > 0:
                    await self._sleep(wait)
            elif count % 500 == 0:
                await asyncio.sleep(0)  # others share the loop
            for event in self._mapper.events(one, shift=self.shift, received_at=self._now()):
                yield count, event
            while self._lost:
                yield count, self._lost.pop()
        while self._lost:
            yield self._skip, self._lost.pop()

    def _sorted(self) -> list[Reading]:
        # stable: within one time and patient the file's own order
        readings = sorted(self._readings(), key=lambda one: one.key)
        sets = [*joined(readings)]
        self.total = len(sets)
        return sets

    def _readings(self) -> Iterator[Reading]:
        """Read the rows; those that cannot be used, and lines that are none, become dead letters."""
        useful = 0
        for count, row in enumerate(rows(self.path, self._mapper.mapping), 1):
            try:
                if isinstance(row, Broken):
                    raise Unusable(row.reason)
                found = self._mapper.read(row)
            except Unusable as error:
                self.troubles[str(error)] += 1
                self._lost.append(self._mapper.letter(str(error), row, self._now()))
            else:
                self.troubles.update(reason for reason, _ in found.troubles)
                useful += bool(found.values)
                if found.values or found.age is not None or found.troubles:
                    yield found
            if not useful and count >= self.settings.unfit_after:
                most = ", ".join(reason for reason, _ in self.troubles.most_common(2)) or "no column or name that it knows"
                raise Permanent(f"the mapping does not fit {self.path.name}: {count} rows without one vital sign ({most})")


async def replay(
    source: FileReplay,
    publisher: Publisher,
    *,
    progress: Callable[[Progress], None] = lambda progress: None,
    bookmark: Bookmark | None = None,
) -> Progress:
    """Publish a file's events to its end and return what was done.

    Events go out in batches: all that are due, at most `settings.batch`. `progress` is called after each confirmed batch, and the
    `bookmark` moved on. Raises `Permanent` for a file or mapping that does not work, `Poison` for an event no broker takes.
    """
    player = _Player(source, publisher, progress, bookmark)
    due: asyncio.Queue[tuple[int, Event] | None] = asyncio.Queue(maxsize=2 * source.settings.batch)

    async def read() -> None:
        try:
            async for item in source:
                await due.put(item)
        finally:
            await due.put(None)

    reading = asyncio.create_task(read())
    try:
        await player.play(due)
    finally:
        reading.cancel()
        await asyncio.wait([reading])
    if not reading.cancelled() and (error := reading.exception()):
        raise error
    await player.close()
    return replace(player.done, flags=Counter(source.flags), unread=source.unread)


class _Player:
    def __init__(
        self, source: FileReplay, publisher: Publisher, progress: Callable[[Progress], None], bookmark: Bookmark | None
    ) -> None:
        self._source = source
        self._publisher = publisher
        self._progress = progress
        self._bookmark = bookmark
        self.done = Progress()

    async def play(self, due: "asyncio.Queue[tuple[int, Event] | None]") -> None:
        ended = False
        while not ended:
            batch = [await due.get()]
            while batch[-1] is not None and len(batch) < self._source.settings.batch and not due.empty():
                batch.append(due.get_nowait())
            ended = batch[-1] is None
            if items := [item for item in batch if item is not None]:
                await self._publish(items)

    async def _publish(self, items: list[tuple[int, Event]]) -> None:
        settings, tries = self._source.settings, 0
        events = [event for _, event in items]
        while True:
            try:
                await self._publisher.publish(events, timeout=settings.confirm_timeout)
                break
            except Transient:
                tries += 1
                log.warning("replay: %d events not confirmed, sending them again in %.0f s", len(events), settings.retry_after)
                await asyncio.sleep(settings.retry_after)
        vitals = sum(isinstance(event, VitalsEvent) for event in events)
        letters = sum(event.topic == "clinical.dead-letters" for event in events)
        before = self.done
        self.done = replace(
            before,
            sets=items[-1][0],
            total=self._source.total,
            events=before.events + len(events),
            vitals=before.vitals + vitals,
            dead_letters=before.dead_letters + letters,
            repeated=before.repeated + tries,
            at=next((event.observed_at for event in reversed(events) if isinstance(event, VitalsEvent)), before.at),
            troubles=Counter(self._source.troubles),
        )
        if self._bookmark is not None:
            # the newest set may have more events to come: the one before it is certainly whole
            await self._mark(items[-1][0] - 1)
        self._progress(self.done)

    async def close(self) -> None:
        """Mark the end."""
        if self._bookmark is not None:
            await self._mark(self.done.sets)

    async def _mark(self, sets: int) -> None:
        assert self._bookmark is not None
        shift = (self._source.shift or timedelta()).total_seconds()
        await asyncio.to_thread(self._bookmark.save, self._source.path, max(0, sets), shift)
