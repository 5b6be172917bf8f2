"""The worker of one number of the topics that meet in the vitals lane: vitals, patients, feedback, and the time.

    wait -> [journal an entry] -> apply -> outputs confirmed -> settle -> (snapshot now and then) -> wait

The deciding is `processors.monitor.Monitor`, a deterministic machine; this worker feeds it in an order that `streams.journal`
makes repeatable, and writes what it says. `streams.restoring` brings it to where the commit is before the first live record.
"""

import asyncio
import contextlib
import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from aiokafka import TopicPartition
from aiokafka.errors import KafkaError

from models.batching import MOVED
from models.errors import Fatal, Poison, Transient, VigilError
from processors.blindspots import REASONS
from processors.events import AuditEntry, DeadLetterEvent, Event, ScoreEvent, VitalsEvent
from processors.monitor import Assessment, Monitor
from streams.audit import portions, prediction_audit
from streams.clock import Clock, SteadyClock
from streams.configuration import Configuration
from streams.deadletters import dead_letter, failed_before
from streams.intake import Intake
from streams.journal import Basis, Entry, Journal, Lapse
from streams.ledger import Slice
from streams.machine import SECONDARY, Machine
from streams.metrics import LaneMetrics
from streams.outbox import Outbox
from streams.partition import Abandoned, Steps
from streams.reader import Reader
from streams.restoring import Restoring
from streams.scoring import Retold, Scoring
from streams.settings import Settings
from streams.snapshots import Snapshots
from streams.stamp import basis, stamp
from streams.tracing import Tracing, Work
from streams.wire import Message, iso

log = logging.getLogger("vigil.vitals")

_AHEAD = 2048  # vitals that an entry reaches ahead: what comes in between two ticks, mostly
_SMALL = 64  # sets of a batch that asks for no room of its own: side by side such batches share one run of the model


class _Queue:
    """Records that wait, with the slice that each ends (a slice is settled with its last record)."""

    def __init__(self) -> None:
        self.records: deque[tuple[Any, Slice | None]] = deque()
        self.end = 0  # records below this offset came in

    def accept(self, piece: Slice) -> None:
        self.end = piece.records[-1].offset + 1
        last = len(piece.records) - 1
        self.records.extend((record, piece if i == last else None) for i, record in enumerate(piece.records))

    def take(self, most: int, below: int | None = None) -> tuple[list[Any], list[Slice]]:
        """Take up to `most` records, only those with offset < `below`; and the slices that they complete."""
        records: list[Any] = []
        complete: list[Slice] = []
        waiting = self.records
        while waiting and len(records) < most and (below is None or waiting[0][0].offset < below):
            record, piece = waiting.popleft()
            records.append(record)
            if piece is not None:
                complete.append(piece)
        return records, complete

    @property
    def next_offset(self) -> int | None:
        return self.records[0][0].offset if self.records else None


class Rounds:
    """Begins the small batches of all partitions together, so that they share a run of the model and a write.

    The first after a quiet time begins at once; whatever comes within `seconds` of it begins together, when they are over.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._last = -seconds
        self._waiting: asyncio.Future[None] | None = None

    async def next(self) -> None:
        """Wait for the next round to begin."""
        loop = asyncio.get_running_loop()
        if self._waiting is None:
            left = self._last + self._seconds - loop.time()
            if left <= 0:
                self._last = loop.time()
                return
            self._waiting = loop.create_future()
            loop.call_later(left, self._begin, self._waiting)
        await asyncio.shield(self._waiting)

    def _begin(self, waiting: "asyncio.Future[None]") -> None:
        self._waiting = None
        self._last = asyncio.get_running_loop().time()
        waiting.set_result(None)


@dataclass(frozen=True, slots=True)
class Written:
    """What is to be written, and the input that it comes of; None where it comes of the time or of a whole batch."""

    message: Message
    record: Any = None


@dataclass(frozen=True, slots=True)
class _Decided:
    """What a batch of vitals led to: outputs with their audit, dead letters, the steps of alerts, where the model was silent."""

    messages: list[Written]
    dead: list[tuple[Any, Poison]]
    steps: list[Event]
    lapse: Lapse | None


class MonitorWorker:
    """Works on partition `number` of vitals, patients and feedback."""

    def __init__(
        self,
        number: int,
        *,
        settings: Settings,
        outbox: Outbox,
        intake: Intake,
        metrics: LaneMetrics,
        clock: Clock,
        scoring: Scoring,
        new_monitor: Callable[[int], Monitor],
        agent: str,
        tracing: Tracing,
        room: asyncio.Semaphore | None = None,
        rounds: "Rounds | None" = None,
        logged: SteadyClock | None = None,
        configuration: Configuration | None = None,
    ) -> None:
        self.number = number
        # Decoded sets are large, and deciding is the processor's work: more partitions at it at once would only hold more memory.
        self._room = room or asyncio.Semaphore()
        self._rounds = rounds or Rounds(0.0)
        self.steps = Steps(f"vitals[{number}]", settings.engine, metrics)
        self._settings = settings
        self._outbox = outbox
        self._intake = intake
        self._metrics = metrics
        self._clock = clock
        self._logged = logged or SteadyClock(clock, settings.clock, count=metrics.event)
        self._scoring = scoring
        self._agent = agent
        self._configuration = configuration or Configuration("vitals", settings, outbox, agent)
        self._basis: Basis | None = None  # what was decided by here last
        self._tracing = tracing
        self._traces: dict[int, Work] = {}  # of the records in hand, by their identity
        self._new_monitor = new_monitor
        self._machine = Machine(new_monitor(number), number)
        self._journal = Journal(outbox, number, settings.kafka, stamp(self._machine.monitor))
        self._vitals = _Queue()
        self._others: dict[str, _Queue] = {kind.topic: _Queue() for kind in SECONDARY}
        self._anew: set[str] = set()  # of the others, those whose offsets went back
        self._arrived = asyncio.Event()
        self._forced: deque[Entry] = deque()
        self._reach = 0  # vitals below this offset may be published as decided (journal rule 1)
        self._word = 0  # vitals below this offset come before the first entry of this worker's own, likewise
        self._said = 0  # vitals below this offset may have been published by somebody before
        self._retold = Retold(scoring, self.steps.name)
        self._covers = 0.0  # vitals that came in before (monotonic seconds) are decided as of the last entry (journal rule 1),
        self._covered = 0  # those below this offset
        self._accepted = 0  # vitals below this offset came in
        self._next_tick = 0.0
        self._snapshots = Snapshots(self.steps, self._journal, number, settings.state, metrics)
        self._prefix = settings.kafka.topic_prefix
        self._most = settings.lanes.vitals.batch_records

    def accept(self, piece: Slice) -> None:
        """Queue a slice of any of the topics that meet."""
        topic = piece.ledger.partition.topic.removeprefix(self._prefix)
        if topic == VitalsEvent.topic:
            self._vitals.accept(piece)
            self._accepted = piece.records[-1].offset + 1
            if time.monotonic() < self._covers:
                self._covered = self._accepted
        else:
            if piece.records[0].offset < self._others[topic].end:
                self._anew.add(topic)
            self._others[topic].accept(piece)
        self._arrived.set()

    def close(self) -> None:
        """Take nothing further."""
        self.steps.closing.set()
        self._arrived.set()
        self._metrics.left(self.number)

    async def run(self) -> None:
        """Restore the state, then work until closed."""
        MOVED.set(self.steps.moved)  # of this task's own context
        try:
            await self.steps.persist("claim the journal", self._journal.claim)
            await self.steps.persist("restore the state", self._restore)
            await self.steps.persist("tell what decides", self._tell_basis)
            while not self.steps.closing.is_set():
                await self._turn()
                await self._snapshots.turn(self._machine, self._committed(), begin=not self._forced)
        except Abandoned:
            return

    async def _turn(self) -> None:
        if self._forced:
            await self._obey(self._forced[0])
        elif self._machine.at < self._word:
            await self._advance(self._word)
        elif any(queue.records for queue in self._others.values()) or time.monotonic() >= self._next_tick:
            await self._decide_order()
        elif self._vitals.records and self._vitals.records[0][0].offset < self._covered:
            if len(self._vitals.records) <= _SMALL:
                await self._rounds.next()
            await self._work(*self._vitals.take(self._most, below=self._covered))
        else:
            await self._wait(0 if self._snapshots.ripe(self._committed()) else self._next_tick - time.monotonic())

    async def _wait(self, seconds: float) -> None:
        self._arrived.clear()
        try:
            async with asyncio.timeout(max(0.0, seconds)):
                await self._arrived.wait()
        except TimeoutError:
            pass

    # ------------------------------------------------------------------------------------------------- order

    async def _decide_order(self) -> None:
        """Journal that what waits beside the vitals, and the time, come now; then apply it (journal rule 1)."""
        for topic in self._anew:  # its offsets began anew: the old ones would hide what it holds now
            log.error("%s: %s was made anew: it is read from its beginning", self.steps.name, topic)
            self._machine.ends[topic] = 0
        self._anew.clear()
        ends, slices = dict(self._machine.ends), []
        for topic, queue in self._others.items():
            records, complete = queue.take(self._most)
            slices += complete
            if records:
                ends[topic] = max(ends.get(topic, 0), records[-1].offset + 1)
        entry = Entry(self._machine.entry + 1, self._machine.at, ends, self._logged(), self._machine.at + _AHEAD)
        tick = self._settings.state.tick_seconds
        self._covers, self._covered = time.monotonic() + tick, self._accepted
        entry = await self.steps.persist("journal", lambda: self._journal.enter(entry))
        # When this entry's cover ends, so that no set waits for the next one; but where the journal is slow, vitals get a turn.
        self._next_tick = max(self._covers, time.monotonic() + tick / 2)
        await self._apply(entry, slices)

    async def _obey(self, entry: Entry) -> None:
        """Go on in the order that was journalled before the restart."""
        if await self._advance(entry.at):
            self._forced.popleft()
            await self._apply(entry, [])

    async def _advance(self, upto: int) -> bool:
        """Work on a batch of the vitals below an offset, or wait for them; tell whether all of them are done."""
        records, complete = self._vitals.take(self._most, below=upto)
        following = self._vitals.next_offset
        if records:
            await self._work(records, complete)
        elif self._machine.at < upto and following is not None and following >= upto:
            self._machine.at = upto  # the log no longer holds what lay between
        elif self._machine.at < upto:
            await self._wait(1.0)
        return self._machine.at >= upto

    async def _apply(self, entry: Entry, slices: Sequence[Slice]) -> None:
        events: list[tuple[Event, Any]] = []
        dead: list[tuple[Any, Poison]] = []
        records = await self.steps.persist("read context", lambda: self._context(entry, slices))
        self._begin([record for _, record in records])
        for kind, record in records:
            counts = self._machine.monitor.counts
            unmatched = counts["unmatched_feedback"]
            try:
                events += [(event, record) for event in self._machine.hear(kind, record)]
            except Poison as error:
                dead.append((record, error))
            if counts["unmatched_feedback"] > unmatched:  # somebody believes that they have answered an alert
                log.warning("%s: the answer at %s offset %d fits no alert", self.steps.name, record.topic, record.offset)
                self._metrics.event("unmatched-feedback")
        if entry.now is not None:
            ticked = self._machine.tick(entry.now, number=entry.number, offset=entry.offset)
            events += [(event, None) for event in ticked]
        self._machine.entry, self._machine.ends, self._reach = entry.number, entry.ends, entry.reach
        now = self._clock()
        outputs = [self._written(event, record, iso(now)) for event, record in events]
        scores = [(event, record) for event, record in events if isinstance(event, ScoreEvent)]
        await self._write([*outputs, *self._audits_of_contexts(scores, now)], dead)
        self._end()
        for piece in slices:
            piece.settle()
        self._settle_applied()
        self._count([event for event, _ in events])
        if not self.steps.closing.is_set():
            monitor = self._machine.monitor
            self._metrics.feeds(self.number, monitor.behind)
            self._metrics.patients(self.number, monitor.observed, monitor.cannot_alert, REASONS)

    async def _context(self, entry: Entry, slices: Sequence[Slice]) -> list[tuple[type[Any], Any]]:
        """Return the records that an entry takes, from the slices in hand or, after a restart, from the log."""
        in_hand: dict[str, list[Any]] = {}
        for piece in slices:
            in_hand.setdefault(piece.ledger.partition.topic.removeprefix(self._prefix), []).extend(piece.records)
        return await self._machine.context(entry, lambda: Reader(self._settings.kafka), self._prefix, in_hand)

    def _settle_applied(self) -> None:
        # What an obeyed entry read from the log may still come in through the intake: it is applied already.
        for topic, queue in self._others.items():
            if topic in self._anew:  # these came in while the entry was written: its end is of the log before
                continue
            _, complete = queue.take(1_000_000_000, below=self._machine.ends.get(topic, 0))
            for piece in complete:
                piece.settle()

    # ------------------------------------------------------------------------------------------------- vitals

    async def _work(self, records: Sequence[Any], complete: Sequence[Slice]) -> None:
        """Take a batch of vitals: observe all, score all at once, decide in order, write, settle."""
        self._begin(records)
        async with self._room if len(records) > _SMALL else contextlib.nullcontext():
            decided = await self._decide(records)
        if self._machine.at > self._reach and not self._forced:  # below a journalled entry the order is known anyway
            reach = self._machine.at + _AHEAD
            await self.steps.persist("journal", lambda: self._journal.reach(reach))
            self._reach = reach
        if (lapse := decided.lapse) is not None:
            await self.steps.persist("journal", lambda: self._journal.lapse(lapse))
        await self._write(decided.messages, decided.dead)
        self._end()
        for piece in complete:
            piece.settle()
        self._metrics.consumed.inc(len(records))
        self._metrics.batch.observe(len(records))
        self._observe_latency(records)
        self._count(decided.steps)

    async def _decide(self, records: Sequence[Any]) -> _Decided:
        assessments: list[tuple[Any, Assessment]] = []
        dead: list[tuple[Any, Poison]] = []
        for record in records:
            try:
                assessments.append((record, self._machine.observe(record)))
            except Poison as error:
                dead.append((record, error))
        if self._logged.doubts:
            for _, assessment in assessments:
                self._logged.witness(assessment.event.observed_at, assessment.event.received_at)
        again = self._machine.at < self._said
        scores, lapse = await self._retold.score(assessments, self._machine.entry, again=again)
        messages: list[Written] = []
        entries: list[AuditEntry] = []
        decided: list[Any] = []
        steps: list[Event] = []
        now = self._clock()
        time_header = iso(now)
        counts = self._machine.monitor.counts
        for (record, assessment), (deterioration, reason) in zip(assessments, scores, strict=True):
            unmatched = counts["unmatched_retractions"]
            try:
                events = self._machine.monitor.decide(assessment, deterioration, reason)
            except Poison as error:
                dead.append((record, error))
                continue
            if counts["unmatched_retractions"] > unmatched:  # what was meant may still stand, and alert
                peer = assessment.event.origin.peer
                log.warning(
                    "%s: what the set at offset %d of peer %s takes back is not known", self.steps.name, record.offset, peer
                )
                self._metrics.event("unmatched-retraction")
            messages += [self._written(out, record, time_header) for out in events]
            steps += events[1:]
            if events and getattr(events[0], "late", False):
                self._metrics.event("set-late")
            entries.append(self._scoring.audit_entry(assessment.event.id, assessment.event.patient_id, record, events))
            decided.append(record)
        done = 0
        for some in portions(entries, self._settings.topics.largest_message_bytes):
            whole = len(some) == len(entries)
            messages.append(Written(self._audit(some, records if whole else decided[done : done + len(some)], now)))
            done += len(some)
        self._machine.at = records[-1].offset + 1
        return _Decided(messages, dead, steps, lapse)

    # ------------------------------------------------------------------------------------------------- writing

    def _begin(self, records: Sequence[Any]) -> None:
        self._traces = dict(zip(map(id, records), self._tracing.begin(records), strict=True))

    def _end(self) -> None:
        for work in self._traces.values():
            work.end()

    def _written(self, event: Event, record: Any, time_header: bytes) -> Written:
        """Return an event with the trace of the record that it comes of; what the time leads to has none."""
        traceparent = None if record is None else self._traces[id(record)].header
        return Written(self._outbox.encode(event, time=time_header, traceparent=traceparent), record)

    def _audit(self, entries: Sequence[AuditEntry], records: Sequence[Any], now: Any, subject: str = "") -> Message:
        audit = prediction_audit(
            entries,
            agent=self._agent,
            subject=subject or f"{VitalsEvent.topic}/{self.number}",
            first_offset=records[0].offset,
            last_offset=records[-1].offset,
            model=self._scoring.identity,
            recorded_at=now,
        )
        return self._outbox.encode(audit, time=iso(now))

    def _audits_of_contexts(self, scores: Sequence[tuple[ScoreEvent, Any]], now: Any) -> list[Written]:
        """Return the audit of what was scored anew by contexts, each a record of its own: they are few."""
        made = []
        for score, record in scores:
            entry = self._scoring.audit_entry(score.source.event_id, score.patient_id, record, [score])
            subject = f"{score.source.topic}/{self.number}"
            made.append(Written(self._audit([entry], [record], now, subject)))
        return made

    async def _write(self, messages: list[Written], dead: Sequence[tuple[Any, VigilError]]) -> None:
        letters = [self._letter(record, error) for record, error in dead]
        unfit = await self._send([*messages, *letters])
        # What fits goes out, whatever becomes of the rest: the machine has taken the step. A rerun finds the same unfit.
        again: dict[int, Written] = {}
        for one, error in unfit:
            if one.message.topic == DeadLetterEvent.topic:
                raise Fatal(
                    f"{self.steps.name}: a dead letter cannot be written: {error}",
                    hint="the topic takes less than topics.largest_message_bytes says: `vigil topics create` sets it",
                ) from error
            if one.record is None:
                log.error("%s: what the time led to is too large for %s and is lost", self.steps.name, one.message.topic)
                self._metrics.event("output-too-large")
            elif id(one.record) not in again:
                again[id(one.record)] = self._letter(one.record, error)
        if again:
            await self._write(list(again.values()), ())

    def _letter(self, record: Any, error: VigilError) -> Written:
        digest = self._scoring.identity.digest if self._scoring.identity else ""
        room = self._outbox.letter_room
        now = self._clock()
        letter = dead_letter(record, error, lane="vitals", failed_at=now, model_digest=digest, room=room)
        log.warning("%s offset %d: dead letter %s (%s)", self.steps.name, record.offset, letter.id, letter.message)
        self._metrics.dead_lettered(letter.stage, letter.error, again=failed_before(record, "vitals"))
        return self._written(letter, record, iso(now))

    async def _send(self, messages: Sequence[Written]) -> list[tuple[Written, Poison]]:
        """Write, in order, what fits; return what no broker takes."""
        try:
            await self.steps.persist("produce", lambda: self._outbox.send([one.message for one in messages]))
        except Poison as error:
            if len(messages) == 1:
                return [(messages[0], error)]
            half = len(messages) // 2
            return [*await self._send(messages[:half]), *await self._send(messages[half:])]
        for one in messages:
            self._metrics.produced(one.message.topic)
        return []

    def _observe_latency(self, records: Sequence[Any]) -> None:
        now = time.time()
        # One observation a batch is enough at thousands a second: the oldest of it, which is the worst.
        self._metrics.end_to_end.observe(max(0.0, now - records[0].timestamp / 1000))

    def _count(self, events: Sequence[Event]) -> None:
        for event in events:
            state = getattr(event, "state", None)
            if state is not None:
                self._metrics.event(f"alert-{state}")
            if back := getattr(event, "set_back_seconds", 0.0):
                log.error("%s: logged time was set back by %.0f s: a clock was, or is, wrong", self.steps.name, back)
                self._metrics.event("time-set-back")

    def _committed(self) -> int:
        ledger = self._intake.ledgers.get(TopicPartition(self._prefix + VitalsEvent.topic, self.number))
        if ledger is None:
            return -1
        if not ledger.slices:  # everything taken in is committed
            return max(self._machine.at, ledger.committed)
        return ledger.committed

    # ------------------------------------------------------------------------------------------------- restore

    async def _restore(self) -> None:
        """Bring a new machine to where the group's commit is; may be repeated."""
        topics = (VitalsEvent.topic, *self._others)
        try:
            committed = {
                topic: await self._intake.committed(TopicPartition(self._prefix + topic, self.number)) for topic in topics
            }
        except KafkaError as error:
            raise Transient(f"the group's commit cannot be read ({type(error).__name__})") from error
        # A machine of its own each time: a try that broke off half-way has moved the old one.
        monitor = self._new_monitor(self.number)
        moved, count = self.steps.moved, self._metrics.event
        restoring = Restoring(self.steps.name, monitor, self.number, self._settings, self._scoring, moved, count)
        restored = await restoring.run(self._journal, committed)
        self._machine, self._forced = restored.machine, restored.forced
        self._reach, self._word, self._snapshots.marked = restored.reach, restored.word, restored.marked
        self._said, self._retold = restored.said, restored.retold
        self._basis = restored.basis
        for lapse in restored.lapses:  # whoever comes next restores what this worker goes on with
            await self._journal.lapse(lapse)

    async def _tell_basis(self) -> None:
        """Have it on record, before anything is published, that other rules, another version or another model decide here now."""
        values, before = basis(self._machine.monitor), self._basis
        if before is not None and before.values == values:
            return
        number = before.number + 1 if before else 1
        try:
            await self._configuration.tell(values, self._journal.stamp, self._clock())
            await self._journal.found(Basis(number, self._machine.at, self._logged(), values))
        except Poison as error:
            log.error("%s: what it decides by is too large to be written down: %s", self.steps.name, error)
