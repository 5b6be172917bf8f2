"""Time travel for vitals: what the monitor said about one patient in a stretch of time, said again, with the state as it was.

The state "as it was" is rebuilt from the beginning of what the topics still hold, not from a snapshot: the journal keeps only each
patient's newest. The whole partition is run through the pure monitor in this process, in the order that the journal has written
down (other patients' sets move the feeds' clocks and the catching-up after an outage); only the asked patient's windows go to the
model.

Where the journal no longer holds the order (its entries go round a ring, and compaction keeps the newest of each: 18 hours of ticks
of a second), records are taken in the order in which they were written, and logged time is theirs. What retention and compaction
have taken is said in `Travel.notes`, and a score that differs names which of these may be why.

Nothing is written but the audit record of the access, before anything is shown.
"""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from math import isclose
from typing import Any, Final

import orjson

from models.errors import Permanent, Poison
from processors.events import (
    AuditEntry,
    AuditEvent,
    Deterioration,
    FeedbackEvent,
    PatientEvent,
    ScoreEvent,
    Source,
    VitalsEvent,
)
from processors.identity import natural_id
from processors.monitor import Monitor
from streams.clock import Clock, real_clock
from streams.inference import open_model
from streams.journal import TOPIC as JOURNAL
from streams.journal import Entry, Memory, stretch
from streams.metrics import LaneMetrics
from streams.outbox import Outbox, partition_of
from streams.reader import Reader
from streams.scoring import ABSENT, FAILED, LATE, Scoring
from streams.settings import Settings
from streams.wire import decode, iso

_BATCH: Final = 256
_NO_HURRY: Final = 600.0  # seconds for the model: here it is never late
_FIELDS: Final = ("late", "news2", "news2_reason", "deterioration_reason", "rejected", "flags", "processing")

Tell = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Asked:
    """Whose sets: those observed at or after `since` and before `until`."""

    patient: str
    since: datetime
    until: datetime
    reason: str = ""

    def __post_init__(self) -> None:
        if self.since.tzinfo is None or self.until.tzinfo is None:
            raise Permanent("a time without a zone cannot be compared", hint="say which: 2026-01-31T08:00:00+01:00")
        if not self.patient or self.since >= self.until:
            raise Permanent("whose vitals, and from when until when?", hint="--patient ID --from TIME --until a later TIME")

    def takes(self, event: VitalsEvent | ScoreEvent) -> bool:
        """Tell whether a set, or its score, is one of these."""
        return event.patient_id == self.patient and self.since <= event.observed_at < self.until


@dataclass(frozen=True, slots=True)
class Row:
    """One set: the score that the monitor gives now, the one on clinical.scores, in which fields they differ, what may be why."""

    score: ScoreEvent
    published: ScoreEvent | None
    differs: tuple[str, ...] = ()
    why: tuple[str, ...] = ()

    @property
    def equal(self) -> bool:
        """Tell whether this was said then, too."""
        return self.published is not None and not self.differs


@dataclass(slots=True)
class Travel:
    """What came of it. `notes` say in words what of the past is no longer there; `sets` were run through the monitor."""

    rows: list[Row] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    sets: int = 0
    model: str = ""


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


class TimeTravel:
    """Runs one patient's past again. `outbox` must be started: an access that cannot be accounted for is no access."""

    def __init__(self, settings: Settings, outbox: Outbox, *, user: str, clock: Clock = real_clock) -> None:
        self._settings = settings
        self._outbox = outbox
        self._user = user
        self._clock = clock
        self._prefix = settings.kafka.topic_prefix

    async def go(self, asked: Asked, tell: Tell = lambda done, total: None) -> Travel:
        """Return each set's score of then, in the order in which they were decided; raises `Transient` when no broker answers."""
        async with Reader(self._settings.kafka) as reader:
            numbers = await reader.partitions(self._prefix + VitalsEvent.topic)
            if not numbers:
                raise Permanent("there is no clinical.vitals here", hint="`vigil doctor`")
            number = partition_of(asked.patient.encode(), len(numbers))
            last, oldest = await self._last(reader, number, asked)
            published, scores_cut = await self._published(reader, asked)
            await self._audit(asked)
            travel = Travel()
            run = await self._run(reader, number, asked, last, travel, tell) if last else []
            await self._note_retention(reader, number, asked, travel, oldest)
        reasons = tuple(travel.notes)
        travel.rows = [compared(score, published.get(score.source.event_id), reasons, scores_cut) for score in run]
        return travel

    async def _last(self, reader: Reader, number: int, asked: Asked) -> tuple[int, datetime | None]:
        """Return the offset after the last set that is asked for, 0 when there is none; and when the oldest was written.

        Only this patient's are decoded.
        """
        topic, key, last = self._prefix + VitalsEvent.topic, asked.patient.encode(), 0
        oldest: datetime | None = None
        begin, end = await reader.bounds(topic, number)
        async for record in stretch(reader, topic, number, begin, end):
            oldest = oldest or _written(record)
            if record.key == key:
                with suppress(Poison):
                    if asked.takes(decode(VitalsEvent, record)):
                        last = record.offset + 1
        return last, oldest

    async def _published(self, reader: Reader, asked: Asked) -> tuple[dict[str, ScoreEvent], bool]:
        """Return what was said then, the newest by the set's id, and whether retention has taken some of that topic."""
        topic, key = self._prefix + ScoreEvent.topic, asked.patient.encode()
        found: dict[str, ScoreEvent] = {}
        numbers = await reader.partitions(topic)
        if not numbers:
            return found, False
        number = partition_of(key, len(numbers))
        begin, end = await reader.bounds(topic, number)
        async for record in stretch(reader, topic, number, begin, end):
            if record.key == key:
                with suppress(Poison):
                    event = decode(ScoreEvent, record)
                    if asked.takes(event):
                        found[event.source.event_id] = event
        return found, begin > 0

    # -------------------------------------------------------------------------------------------------------- the machine

    async def _run(self, reader: Reader, number: int, asked: Asked, last: int, travel: Travel, tell: Tell) -> list[ScoreEvent]:
        history = History()
        begin, end = await reader.bounds(self._prefix + JOURNAL, number)
        async for record in stretch(reader, self._prefix + JOURNAL, number, begin, end):
            history.take(record)
        if history.gaps or not history.entries:
            since = next((f" before {entry.now:%Y-%m-%d %H:%M} UTC" for entry in history.entries if entry.now), "")
            travel.notes.append(
                f"the journal no longer holds the order of what happened{since}: records are taken in the order of their writing"
            )
        models = self._settings.models.model_copy(update={"vitals_deadline": _NO_HURRY})
        try:
            model = await open_model(models, "deterioration")
        except Permanent:
            model = None
        scoring = Scoring(model, models, LaneMetrics("replay"))
        travel.model = f"{scoring.identity.name}@{scoring.identity.version}" if scoring.identity else "none"
        monitor = Monitor(self._settings.monitor, partition=number, model=scoring.identity)
        async with AsyncExitStack() as stack:
            stack.push_async_callback(scoring.stop)
            rerun = Rerun(self._settings, number, asked, monitor, scoring, last, tell)
            await rerun.open(stack)
            number_before = 0
            for entry in history.entries:
                if entry.at >= last:
                    break
                await rerun.obey(entry, known=entry.number == number_before + 1)
                number_before = entry.number
            await rerun.advance(last, in_order=bool(history.entries))
        travel.sets = rerun.sets
        return rerun.scores

    async def _note_retention(self, reader: Reader, number: int, asked: Asked, travel: Travel, oldest: datetime | None) -> None:
        begin, _ = await reader.bounds(self._prefix + VitalsEvent.topic, number)
        if begin > 0:
            since = f" (what is left was written from {oldest:%Y-%m-%d %H:%M} UTC on)" if oldest else ""
            travel.notes.append(
                f"retention has taken the first {begin:,} vitals{since}: earlier values are not carried forward"
            )
        holes, context = await self._contexts(reader, number, asked)
        if holes:
            travel.notes.append(
                "clinical.patients is compacted: contexts that newer ones replaced are gone (age, SpO2 scale, ward)"
            )
        if not context:
            travel.notes.append(
                "clinical.patients holds no context of this patient that was written before the end of this time"
            )

    async def _contexts(self, reader: Reader, number: int, asked: Asked) -> tuple[bool, bool]:
        """Tell whether contexts are missing in the log, and whether there is one of this patient from before the end."""
        topic, key = self._prefix + PatientEvent.topic, asked.patient.encode()
        begin, end = await reader.bounds(topic, number)
        following, holes, context = 0, False, False
        async for record in stretch(reader, topic, number, begin, end):
            holes = holes or record.offset > following
            following = record.offset + 1
            context = context or (record.key == key and _written(record) < asked.until)
        return holes, context

    async def _audit(self, asked: Asked) -> None:
        at = self._clock()
        request = natural_id("access", self._user, "vitals", asked.patient, at.isoformat())
        entry = AuditEntry(event_id=request, outcome="shown", patient_id=asked.patient)
        event = AuditEvent(
            id=request,
            action="access",
            agent=self._user,
            subject=VitalsEvent.topic,
            entries=(entry,),
            reason=f"time travel {asked.since.isoformat()} to {asked.until.isoformat()}; {asked.reason}".removesuffix("; "),
            recorded_at=at,
        )
        await self._outbox.send([self._outbox.encode(event, time=iso(at))])


class Rerun:
    """One partition's inputs through one monitor, up to `last`; keeps the scores that were asked for."""

    def __init__(
        self, settings: Settings, number: int, asked: Asked, monitor: Monitor, scoring: Scoring, last: int, tell: Tell
    ) -> None:
        self._settings = settings
        self._number = number
        self._asked = asked
        self._monitor = monitor
        self._scoring = scoring
        self._last = last
        self._tell = tell
        self._heads: dict[type[Any], AsyncIterator[Any]] = {}
        self._next: dict[type[Any], Any] = {}
        self._step = settings.monitor.blind_after / 2  # logged time never stands still for an outage that was none
        self.scores: list[ScoreEvent] = []
        self.sets = 0

    async def open(self, stack: AsyncExitStack) -> None:
        """Stand at the beginning of what the topics hold."""
        for kind in (VitalsEvent, PatientEvent, FeedbackEvent):
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
        for kind in (PatientEvent, FeedbackEvent):
            while (record := self._next[kind]) is not None and record.offset < entry.ends.get(kind.topic, 0):
                await self._take(kind)
                self._hear(kind, record)
        if entry.now is not None:
            if not known:
                self._pass_time(entry.now)
            self._tick(entry.now, entry.offset, entry.number)

    async def advance(self, upto: int, *, in_order: bool, ends: dict[str, int] | None = None) -> None:
        """Run the vitals below an offset. Unless the order is known, contexts and answers come in by when they were written."""
        batch: list[Any] = []
        while (record := self._next[VitalsEvent]) is not None and record.offset < upto:
            if not in_order:
                due = await self._due(_written(record), ends)
                if batch and (due or _written(record) - _written(batch[-1]) >= timedelta(seconds=1)):
                    await self._work(batch)
                    batch = []
                for kind, one in due:
                    self._hear(kind, one)
                if not batch:
                    self._pass_time(_written(record))
            batch.append(record)
            await self._take(VitalsEvent)
            if len(batch) >= _BATCH:
                await self._work(batch)
                batch = []
        await self._work(batch)

    async def _due(self, now: datetime, ends: dict[str, int] | None) -> list[tuple[type[Any], Any]]:
        due: list[tuple[type[Any], Any]] = []
        for kind in (PatientEvent, FeedbackEvent):
            topic = str(kind.topic)
            while (record := self._next[kind]) is not None and _written(record) <= now:
                if ends is not None and record.offset >= ends.get(topic, 0):
                    break
                due.append((kind, record))
                await self._take(kind)
        return sorted(due, key=lambda one: _written(one[1]))

    def _pass_time(self, now: datetime) -> None:
        at = self._monitor.now
        while at is not None and now - at > self._step:
            at += self._step
            self._tick(at, 0, 0)
        self._tick(now, 0, 0)

    def _tick(self, now: datetime, offset: int, number: int) -> None:
        name = f"{self._number}/{number}"
        self._monitor.tick(now, Source(topic=JOURNAL, partition=self._number, offset=max(offset, 0), event_id=name))

    def _hear(self, kind: type[Any], record: Any) -> None:
        with suppress(Poison):
            event = decode(kind, record)
            source = Source(topic=kind.topic, partition=record.partition, offset=record.offset, event_id=event.id)
            self._monitor.patient(event, source) if kind is PatientEvent else self._monitor.feedback(event, source)

    async def _work(self, records: Sequence[Any]) -> None:
        made = []
        for record in records:
            with suppress(Poison):
                event = decode(VitalsEvent, record)
                source = Source(topic=VitalsEvent.topic, partition=record.partition, offset=record.offset, event_id=event.id)
                made.append(self._monitor.observe(event, source))
        mine = [one for one in made if self._asked.takes(one.event)]
        scored: dict[int, tuple[Deterioration | None, str]] = {}
        for one, answer in zip(mine, await self._scoring.score(mine) if mine else [], strict=True):
            scored[id(one)] = answer
        for one in made:
            with suppress(Poison):
                events = self._monitor.decide(one, *scored.get(id(one), (None, "")))
                self.scores += [event for event in events if isinstance(event, ScoreEvent) and self._asked.takes(event)]
        self.sets += len(records)
        if records:
            self._tell(records[-1].offset + 1, self._last)


def compared(score: ScoreEvent, published: ScoreEvent | None, notes: Sequence[str], scores_cut: bool) -> Row:
    """Hold a score against the one that was published, and say what may be why where they differ."""
    if published is None:
        gone = "retention may have taken it from clinical.scores" if scores_cut else "the lane has not come to it, or could not"
        return Row(score, None, ("missing",), (gone,))
    differs = [name for name in _FIELDS if getattr(score, name) != getattr(published, name)]
    if not _same(score.deterioration, published.deterioration):
        differs.append("deterioration")
    if not differs:
        return Row(score, published)
    why: list[str] = []
    then, now = published.deterioration, score.deterioration
    if then is not None and now is not None and then.model != now.model:
        why.append(f"another model: {then.model.name}@{then.model.version} then, {now.model.name}@{now.model.version} now")
    if published.deterioration_reason in (ABSENT, LATE, FAILED):
        why.append(published.deterioration_reason)
    if not why or set(differs) - {"deterioration", "deterioration_reason"}:
        why += notes or ["rules or code have changed since"]
    return Row(score, published, tuple(differs), tuple(why))


def _same(now: Deterioration | None, then: Deterioration | None) -> bool:
    if now is None or then is None:
        return now is then
    return now.model == then.model and isclose(now.probability, then.probability, abs_tol=1e-6)


def _written(record: Any) -> datetime:
    return datetime.fromtimestamp(max(0, record.timestamp) / 1000, UTC)
