"""A partition of the vitals lane brought back to the group's commit, from the journal and the topics (journal rules 3 and 4).

    states as of the marker -> inputs up to the commit, in the journalled order, writing nothing -> entries left to obey

Where the journal is lost: contexts and vitals up to the commit, then the alerts as they were told on clinical.alerts, and all of it
is journalled as a first snapshot: who is killed a moment later loses it no more.

Where others decided since the marker, by other rules or another version of the code (journal rule 8), the inputs are replayed all
the same, for what was observed; but the alerts are those of the marker, led on by what was told since. Of the entries left to obey
none lets time pass up to when something was told, and a patient's sets up to the last upon which something was told move no alert.

The worker goes on from there: it obeys the entries, takes the vitals below `word` as they may have been published, and only then
journals an entry of its own.
"""

import contextlib
import heapq
import logging
import math
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from itertools import islice, takewhile
from typing import Any

from models.errors import Poison
from processors.events import AlertEvent, HeartbeatEvent, PatientEvent, VitalsEvent
from processors.monitor import Assessment, Monitor
from streams import journal, placement
from streams.journal import TOPIC, Entry, Journal, Lapse, Lapses, Memory, Moment, stretch
from streams.machine import SECONDARY, Machine, entry_of
from streams.reader import Reader
from streams.scoring import Retold, Scored, Scoring
from streams.settings import Settings
from streams.wire import decode, header

log = logging.getLogger("vigil.vitals")

_CLOCKS = timedelta(minutes=10)  # by which a worker's clock may differ from another's, or be set
_STATES = 64  # written at once


@dataclass(frozen=True, slots=True)
class Restored:
    """A machine at the commit, and what binds whoever goes on with it."""

    machine: Machine
    forced: deque[Entry]  # to be obeyed
    reach: int  # vitals below this offset may be published as decided (journal rule 1)
    word: int  # vitals below this offset come before the first entry of the new owner's own, likewise
    marked: int  # number of the entry that the last marker stands for
    said: int  # vitals below this offset may have been published by somebody before
    retold: Retold  # scores for those
    lapses: list[Lapse] = field(default_factory=list)  # of the model in this restore: to be journalled before anything goes out


class Restoring:
    """One restore of partition `number`. `moved` is called as it goes on: a long one is not to be taken for a stall.

    `count` is told of what is lost, by its kind of event.
    """

    def __init__(
        self,
        name: str,
        monitor: Monitor,
        number: int,
        settings: Settings,
        scoring: Scoring,
        moved: Callable[[], object],
        count: Callable[[str], object],
    ) -> None:
        self._name = name
        self._machine = Machine(monitor, number)
        self._settings = settings
        self._prefix = settings.kafka.topic_prefix
        self._scoring = scoring
        self._moved = moved
        self._count = count
        self._sets = 0
        self._retold = Retold(scoring, name)
        self._lapses: list[Lapse] = []
        # Where the journal is lost: those that are yet to be taken, and the next of them.
        self._contexts: AsyncIterator[Any] | None = None
        self._context: Any = None

    async def run(self, own: Journal, committed: Mapping[str, int | None]) -> Restored:
        """Restore; `committed` gives the group's offset by topic, None where it has none. Raises `Transient`: begin anew then."""
        began, kafka = time.monotonic(), self._settings.kafka
        machine, topic = self._machine, self._prefix + VitalsEvent.topic
        # Two, since each goes on cheaply from where it is: vitals and contexts come in turns.
        async with Reader(kafka, moved=self._moved) as reader, Reader(kafka, moved=self._moved) as contexts:
            memory = await own.remember(reader, self._prefix + TOPIC)
            await self._placed(reader, memory)
            self._retold = Retold(self._scoring, self._name, Lapses(memory.lapses))
            begin, end = await reader.bounds(topic, machine.number)
            given = committed.get(VitalsEvent.topic)
            commit = begin if given is None or given > end else given
            start = self._start(memory, given, begin, end)
            if memory.marker.at >= 0 and begin > start:
                log.error(
                    "%s: the log begins at %d, the last snapshot stands at %d: retention overtook the lane, state is incomplete",
                    self._name, begin, start,
                )  # fmt: skip
            patients = self._load(memory)
            await self._forget_ends(contexts, memory, committed)
            # Nothing is committed before there is an entry that it was decided by, and the first one stays until there is a marker.
            lost = memory.marker.at < 0 and any(committed.values()) and (not memory.entries or memory.entries[0].number > 1)
            if lost:
                memory.entries.clear()  # one that was under way when the topic was made anew
                await self._without_journal(contexts, committed)
            before = self._before(memory, start) if memory.stamps - {own.stamp} and not lost else None
            machine.at = max(begin, start)
            forced = await self._replay(reader, contexts, memory, commit)
            machine.at = max(commit, begin, machine.at)
            if lost:
                await self._until(math.inf)
                word = await self._vouched(reader, end, await self._as_told(contexts))
                await self._save(own)
                forced = [await self._begin(own, word)]
                memory.reach = word
            else:
                word = await self._vouched(reader, min(memory.reach, end), memory.written)
                if before is not None:
                    log.warning(
                        "%s: the last snapshot, or what came since, was decided by %s; this is %s: alerts go by what was told",
                        self._name, " and by ".join(one or "an older version" for one in sorted(memory.stamps)), own.stamp,
                    )  # fmt: skip
                    await self._as_told(contexts, before)
                    forced = [self._untold(entry) for entry in forced]
                if own.stamp not in memory.stamps:
                    await own.sign(memory.stamps | {own.stamp})
        log.info(
            "%s: state of %d patients restored to offset %d in %.2f s (%d sets replayed, %d entries to obey)",
            self._name, patients, commit, time.monotonic() - began, self._sets, len(forced),
        )  # fmt: skip
        # The log may end earlier than it did: a new topic, or one restored from a backup. Nobody waits for what it lost.
        obeyed = deque(replace(entry, at=min(entry.at, end)) for entry in forced)
        said = max([word, *(entry.at for entry in obeyed)])
        return Restored(machine, obeyed, memory.reach, word, memory.marker.number, said, self._retold, self._lapses)

    async def _placed(self, reader: Reader, memory: Memory) -> None:
        """Raise `Fatal` where the patients whose state is kept belong elsewhere by the partitions in use now."""
        topic, own = self._prefix + VitalsEvent.topic, self._machine.monitor.id
        there = len(await reader.partitions(topic))
        places = [(one.encode(), self._machine.number) for one in islice(memory.states, placement.MOST) if one != own]
        placement.require(topic, places, self._settings.topics.used(VitalsEvent.topic, there), there, whole=False)

    def _start(self, memory: Memory, committed: int | None, begin: int, end: int) -> int:
        """Return the vitals offset to go on from: the marker's, or the log's beginning where the topic was made anew since."""
        marker = memory.marker.at
        ats = [marker, *(entry.at for entry in memory.entries)]
        older = _of_an_older_log(ats, end, gone=committed is None and marker > begin)
        if older is None:
            return marker
        log.error(
            "%s: the topic of vitals was made anew since the last snapshot: what was not read of the old one is gone",
            self._name,
        )
        # What was journalled of the old log happened before all that this one holds.
        memory.entries[:older] = [replace(entry, at=begin) for entry in memory.entries[:older]]
        return begin

    async def _forget_ends(self, contexts: Reader, memory: Memory, committed: Mapping[str, int | None]) -> None:
        """Where a topic of contexts or answers was made anew, its old offsets would hide what it holds now."""
        for kind in SECONDARY:
            topic = kind.topic
            _, end = await contexts.bounds(self._prefix + topic, self._machine.number)
            ends = [memory.ends.get(topic, 0), *(entry.ends.get(topic, 0) for entry in memory.entries)]
            older = _of_an_older_log(ends, end, gone=committed.get(topic) is None and ends[0] > 0)
            if older is not None:
                log.error("%s: %s was made anew since the last snapshot: it is read from its beginning", self._name, topic)
                self._machine.ends[topic] = 0
                memory.entries[:older] = [replace(one, ends={**one.ends, topic: 0}) for one in memory.entries[:older]]

    def _load(self, memory: Memory) -> int:
        """Take the states as of the marker; return how many."""
        machine = self._machine
        machine.entry, machine.ends = memory.marker.number, dict(memory.ends)
        return _load(machine.monitor, memory)

    def _before(self, memory: Memory, start: int) -> "_Before":
        """Return how all stood as of the marker, and what is told of a later time."""
        monitor = Monitor(self._machine.monitor.rules, partition=self._machine.number)
        _load(monitor, memory)
        since = None if memory.since == -math.inf else datetime.fromtimestamp(memory.since, UTC) - _CLOCKS
        taken = {VitalsEvent.topic: start, **dict(self._machine.ends)}
        return _Before(monitor, memory.marker.number, taken, since)

    def _untold(self, entry: Entry) -> Entry:
        """Return an entry that lets no time pass once more that something was told in."""
        now = self._machine.monitor.now
        return entry if entry.now is None or now is None or entry.now > now else replace(entry, now=None)

    async def _replay(self, reader: Reader, contexts: Reader, memory: Memory, commit: int) -> list[Entry]:
        """Run what lies between the marker and the commit; return the entries at or past the commit."""
        machine = self._machine
        past = list(takewhile(lambda entry: entry.at < commit, memory.entries))
        for entry in past:
            await self._vitals(reader, entry.at)
            for kind, record in await machine.context(entry, lambda: contextlib.nullcontext(contexts), self._prefix, {}):
                with contextlib.suppress(Poison):
                    machine.hear(kind, record)
            if entry.now is not None:
                machine.tick(entry.now, number=entry.number, offset=entry.offset)
            self._moved()
            machine.entry, machine.ends = entry.number, entry.ends
        await self._vitals(reader, commit)
        return memory.entries[len(past) :]

    async def _vitals(self, reader: Reader, end: int) -> None:
        machine = self._machine
        if machine.at >= end:  # most entries are ticks with nothing between: spare the broker the question
            return
        async for records in reader.read(self._prefix + VitalsEvent.topic, machine.number, machine.at, end):
            left = records
            while left:
                await self._until(left[0].timestamp)
                some = left if self._context is None else list(takewhile(self._before_context, left))
                await self._decide(some)
                left = left[len(some) :]
            self._sets += len(records)
        machine.at = max(machine.at, end)

    async def _decide(self, records: Sequence[Any]) -> None:
        machine, assessed = self._machine, []
        for record in records:
            with contextlib.suppress(Poison):
                assessed.append((record, machine.observe(record)))
        for (_, assessment), (deterioration, reason) in zip(assessed, await self._scores(assessed), strict=True):
            with contextlib.suppress(Poison):
                machine.monitor.decide(assessment, deterioration, reason)

    async def _scores(self, assessed: Sequence[tuple[Any, Assessment]]) -> list[Scored]:
        if not self._settings.monitor.model_pages:  # then the state knows nothing of scores, and nobody waits for them here
            return [(None, "")] * len(assessed)
        scores, lapse = await self._retold.score(assessed, self._machine.entry, again=True)
        if lapse is not None:
            if not self._lapses:  # said once
                log.error("%s: the model did not answer in a restore: alerts that it raised may not be known", self._name)
            self._lapses.append(lapse)
        return scores

    async def _vouched(self, reader: Reader, reach: int, stamp: float) -> int:
        """Return below which offset vitals may have been published as of the last entry, written at `stamp` (journal rule 1)."""
        latest = (stamp + self._settings.state.tick_seconds + journal.SKEW) * 1000
        word, number = self._machine.at, self._machine.number
        async for record in stretch(reader, self._prefix + VitalsEvent.topic, number, word, reach):
            if record.timestamp > latest:
                break
            word = record.offset + 1
        return word

    async def _without_journal(self, contexts: Reader, committed: Mapping[str, int | None]) -> None:
        """Offsets were committed, and the journal holds nothing: it was deleted, or never restored from a backup.

        Who the patients are stands in the compacted topic, and all vitals that the log holds are replayed. What came in beside them
        and is committed counts as taken; the rest comes in anew. A patient's first context that is left holds from the beginning,
        since compaction took those before it, and each further one from when it was written.
        """
        log.error(
            "%s: the journal is empty though offsets are committed: it was lost. State is rebuilt from the topics alone, alerts "
            "from what was told of them",
            self._name,
        )
        self._count("journal-lost")
        for kind in SECONDARY:
            _, end = await contexts.bounds(self._prefix + kind.topic, self._machine.number)
            given = committed.get(kind.topic) or 0
            self._machine.ends[kind.topic] = given if given <= end else 0
        topic, number, end = self._prefix + PatientEvent.topic, self._machine.number, self._machine.ends[PatientEvent.topic]
        known: set[bytes] = set()
        async for record in stretch(contexts, topic, number, 0, end):
            if record.key not in known:
                known.add(record.key)
                self._hear(record)
        self._contexts = stretch(contexts, topic, number, 0, end)
        self._context = await anext(self._contexts, None)

    async def _until(self, written: float) -> None:
        """Take the contexts that were written by then (ms since 1970), where no journal says when they came in."""
        while self._contexts is not None and self._context is not None and self._context.timestamp <= written:
            self._hear(self._context)
            self._context = await anext(self._contexts, None)

    def _before_context(self, record: Any) -> bool:
        return bool(record.timestamp < self._context.timestamp)

    def _hear(self, record: Any) -> None:
        with contextlib.suppress(Poison):
            self._machine.hear(PatientEvent, record)

    async def _as_told(self, reader: Reader, before: "_Before | None" = None) -> float:
        """Take the alerts, and logged time, from what was published of them; return when the last was (seconds since 1970).

        As they were `before`, and led on by what was published since; or, where nothing is left of that, from all that was.
        """
        topic, machine = self._prefix + AlertEvent.topic, self._machine
        told: list[list[tuple[int, AlertEvent | HeartbeatEvent]]] = []
        numbers = await reader.partitions(topic)
        for number in numbers:
            begin, end = await reader.bounds(topic, number)
            if before is not None and before.since is not None:
                begin = await reader.offset_at(topic, number, before.since) or begin
            told.append([])
            async for record in stretch(reader, topic, number, begin, end):
                beat = header(record, "ce_type") == HeartbeatEvent.type.encode()
                if beat and number != machine.number % self._settings.topics.used(AlertEvent.topic, len(numbers)):
                    continue
                with contextlib.suppress(Poison):
                    event = decode(HeartbeatEvent, record) if beat else decode(AlertEvent, record)
                    of = event.partition if isinstance(event, HeartbeatEvent) else event.source.partition
                    if of == machine.number and (before is None or before.precedes(event)):
                        told[-1].append((record.timestamp, event))
        written = list(heapq.merge(*told, key=lambda one: one[0]))  # of one partition in its order, whatever the clocks were
        taken = {VitalsEvent.topic: machine.at, **machine.ends}
        stand = machine.monitor.resume((event for _, event in written), taken, before.monitor if before is not None else None)
        log.warning("%s: %d alerts stand by what was told on %s", self._name, stand, AlertEvent.topic)
        return written[-1][0] / 1000 if written else -math.inf

    async def _save(self, own: Journal) -> None:
        """Journal all states at once: until they are marked, the next restore would have to find them like this one."""
        machine = self._machine
        monitor, moment = machine.monitor, Moment(machine.at, machine.entry)
        ids = sorted(monitor.dirty(), key=lambda one: (one == monitor.id, one))  # the partition's own last
        try:
            for i in range(0, len(ids), _STATES):
                await own.save(moment, [(one, monitor.dump(one)) for one in ids[i : i + _STATES]])
                self._moved()
        except Poison as error:
            log.error("%s: a state is too large for the journal, no snapshot until it shrinks: %s", self._name, error)
            self._count("state-too-large")
            machine.entry = 1  # the next restore finds neither a marker nor a first entry: it is lost still
            return
        await own.mark(moment, machine.ends, ())
        monitor.clean()

    async def _begin(self, own: Journal, word: int) -> Entry:
        """Journal that vitals below `word` may have been published as of the time that was told last: a rerun decides them so."""
        machine = self._machine
        return await own.enter(Entry(machine.entry + 1, machine.at, dict(machine.ends), None, word))


@dataclass(frozen=True, slots=True)
class _Before:
    """How all stood as of the marker: entries up to `number`, and of each topic what lies below `taken`, were applied."""

    monitor: Monitor
    number: int
    taken: Mapping[str, int]
    since: datetime | None  # whatever was told of a later time was written since then; None: who knows

    def precedes(self, event: AlertEvent | HeartbeatEvent) -> bool:
        """Tell whether something was told of a time after this."""
        if isinstance(event, HeartbeatEvent):
            return self.monitor.now is None or event.decided_at > self.monitor.now
        source = event.source
        if source.topic == TOPIC:
            return entry_of(source) > self.number
        return source.offset >= self.taken.get(source.topic, 0)


def _load(monitor: Monitor, memory: Memory) -> int:
    states = list(memory.standing())
    for patient, _, state in states:
        monitor.load(patient, state)
    return len(states)


def _of_an_older_log(points: Sequence[int], end: int, *, gone: bool) -> int | None:
    """Return how many entries tell of a log that a newer one has replaced; None where there is no sign of that.

    `points`: the offsets in a topic that the marker and the entries stand for; they begin anew with the topic. `end`: of the log
    that is there. `gone`: the group's commit has gone with the topic, as in Kafka 4.
    """
    if end < points[-1]:
        return len(points) - 1
    drops = [i for i in range(1, len(points)) if points[i] < points[i - 1]]
    if drops:
        return drops[-1] - 1
    return len(points) - 1 if gone else None
