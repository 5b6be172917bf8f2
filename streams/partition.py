"""The worker of one partition: takes every slice that waits, makes a batch, has it processed, written and confirmed, settles it.

One batch at a time per partition, so records of one patient stay in order; partitions work side by side, and the micro-batchers
gather their items. Steps that fail for the moment are repeated one by one (a lost broker does not repeat the inference).
"""

import asyncio
import contextlib
import logging
import random
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Generic, Protocol, TypeVar

from aiokafka import TopicPartition

from models.batching import MOVED, describe
from models.errors import Fatal, Poison, Transient, VigilError
from models.tasks import ModelIdentity
from processors.events import AuditEntry, Event, ShadowEvent
from streams.audit import drift_audit, model_change_audit, prediction_audit, recorder
from streams.clock import Clock
from streams.deadletters import dead_letter, failed_before
from streams.intake import Intake
from streams.lane import Input, Lane, Outcome
from streams.ledger import Slice
from streams.metrics import LaneMetrics
from streams.outbox import Outbox
from streams.settings import EngineSettings, Settings
from streams.tracing import Tracing, Work
from streams.wire import Message, iso

E = TypeVar("E", bound=Event)
T = TypeVar("T")

log = logging.getLogger("vigil.lane")


class Worker(Protocol):
    """Works on one partition, or on the partitions of one number of topics that meet."""

    steps: "Steps"

    def accept(self, piece: Slice) -> None:
        """Queue a slice."""
        ...

    async def run(self) -> None:
        """Work until closed."""
        ...

    def close(self) -> None:
        """Take nothing further."""
        ...


class Abandoned(Exception):
    """The step was given up because the worker closes; its records stay unsettled and are read again."""


@dataclass(frozen=True, slots=True)
class Dead:
    """An input that becomes a dead letter; `model` is who was asked, None where none was."""

    record: Any
    error: BaseException
    model: ModelIdentity | None = None


class Steps:
    """Repeats steps that fail for the moment, and knows since when and why it waits."""

    def __init__(self, name: str, engine: EngineSettings, metrics: LaneMetrics) -> None:
        self.name = name
        self.closing = asyncio.Event()
        self.held_since: float | None = None
        self.held_reason = ""
        self.progress = time.monotonic()
        self.attempts = 1
        self._engine = engine
        self._metrics = metrics

    def moved(self) -> None:
        """Something got done: whoever looks for a stall begins to count anew."""
        self.progress = time.monotonic()

    async def persist(self, step: str, work: Callable[[], Awaitable[T]]) -> T:
        """Do the work; on `Transient` wait (jittered, doubling, capped) and do it again, for as long as it takes."""
        wait = self._engine.backoff_first
        self.attempts = 1
        while True:
            try:
                result = await work()
            except Transient as error:
                self._hold(step, error, wait)
            else:
                if self.held_since is not None:
                    log.info("%s: %s works again after %.1f s", self.name, step, time.monotonic() - self.held_since)
                self.held_since = None
                self.progress = time.monotonic()
                return result
            try:
                # Jitter: partitions and workers that wait for the same thing do not come back all at once.
                async with asyncio.timeout(wait * random.uniform(0.5, 1.0)):
                    await self.closing.wait()
                raise Abandoned
            except TimeoutError:
                pass
            wait = min(2 * wait, self._engine.backoff_most)
            self.attempts += 1

    def _hold(self, step: str, error: Transient, wait: float) -> None:
        self.progress = time.monotonic()  # an attempt was made: this is waiting, not hanging
        self._metrics.retried(step)
        self.held_reason = f"{step}: {error.advice}"
        if self.held_since is None:
            self.held_since = time.monotonic()
            log.warning("%s: held, %s; tried again in %.1f s and on", self.name, self.held_reason, wait)


class PartitionWorker(Generic[E]):
    """Works on one partition of a stateless lane."""

    def __init__(
        self,
        lane: Lane[E],
        partition: TopicPartition,
        outbox: Outbox,
        engine: EngineSettings,
        clock: Clock,
        agent: str,
        tracing: Tracing,
    ) -> None:
        self.lane = lane
        self.partition = partition
        self.steps = Steps(f"{lane.name} {partition.topic}[{partition.partition}]", engine, lane.metrics)
        self._outbox = outbox
        self._clock = clock
        self._agent = agent
        self._tracing = tracing
        self._traces: dict[int, Work] = {}  # of the batch in hand, by the record's identity
        self._waiting: deque[Slice] = deque()
        self._arrived = asyncio.Event()

    def accept(self, piece: Slice) -> None:
        """Queue a slice; the ledger's limit bounds the queue."""
        self._waiting.append(piece)
        self._arrived.set()

    async def run(self) -> None:
        """Work until closed."""
        MOVED.set(self.steps.moved)  # of this task's own context
        while not self.steps.closing.is_set():
            pieces = await self._take()
            if pieces:
                try:
                    await self._settle(pieces)
                except Abandoned:
                    return

    async def _take(self) -> list[Slice]:
        while not self._waiting:
            if self.steps.closing.is_set():
                return []
            self._arrived.clear()
            await self._arrived.wait()
        pieces: list[Slice] = []
        records = size = 0
        most = self.lane.config
        while self._waiting:
            records, size = records + len(self._waiting[0].records), size + sum(map(_bytes, self._waiting[0].records))
            if pieces and (records > most.batch_records or size > most.batch_bytes):
                break
            pieces.append(self._waiting.popleft())
        return pieces

    def close(self) -> None:
        """Take no further batch; a step that waits to be repeated is given up now."""
        self.steps.closing.set()
        self._arrived.set()

    async def _settle(self, pieces: Sequence[Slice]) -> None:
        records = [record for piece in pieces for record in piece.records]
        most = self.lane.config
        batch: list[Any] = []
        size = 0
        for record in records:  # a slice may be larger than this lane's batch
            if batch and (len(batch) >= most.batch_records or size + _bytes(record) > most.batch_bytes):
                await self._work(batch)
                batch, size = [], 0
            batch.append(record)
            size += _bytes(record)
        await self._work(batch)
        for piece in pieces:
            piece.settle()
        self.lane.metrics.consumed.inc(len(records))

    async def _work(self, records: Sequence[Any]) -> None:
        inputs: list[Input[E]] = []
        dead: list[Dead] = []
        self._traces = dict(zip(map(id, records), self._tracing.begin(records), strict=True))
        for record in records:
            try:
                inputs.append(self.lane.decode(record))
            except Poison as error:
                dead.append(Dead(record, error))
        outcomes = await self._process(inputs) if inputs else []
        outcomes = await self._store(inputs, outcomes)
        dead += [Dead(i.record, o.error, o.model) for i, o in zip(inputs, outcomes, strict=True) if o.error is not None]
        await self._write(inputs, outcomes, dead)
        for work in self._traces.values():
            work.end()
        now = time.time()
        self.lane.metrics.batch.observe(len(records))
        for record in records:
            self.lane.metrics.end_to_end.observe(max(0.0, now - record.timestamp / 1000))

    # ------------------------------------------------------------------------------------------------- the steps

    async def _process(self, inputs: list[Input[E]]) -> list[Outcome]:
        try:
            outcomes = await self.steps.persist("process", lambda: self.lane.process(inputs))
        except (Abandoned, Fatal, asyncio.CancelledError):
            raise
        except Exception as error:
            if len(inputs) == 1:
                return [Outcome(error=_poison(error))]
            # One of them spoils it for all: halve until it stands alone.
            half = len(inputs) // 2
            return [*await self._process(inputs[:half]), *await self._process(inputs[half:])]
        if len(outcomes) != len(inputs):
            raise Fatal(f"{self.lane.name}: {len(outcomes)} outcomes for {len(inputs)} inputs")
        return outcomes

    async def _store(self, inputs: list[Input[E]], outcomes: list[Outcome]) -> list[Outcome]:
        if not any(outcome.effect is not None for outcome in outcomes):
            return outcomes
        try:
            await self.steps.persist("store", lambda: self._put(inputs, outcomes))
        except (Abandoned, Fatal, asyncio.CancelledError):
            raise
        except Exception as error:
            if len(inputs) == 1:
                return [Outcome(error=_poison(error, stage="store"))]
            half = len(inputs) // 2
            left = await self._store(inputs[:half], outcomes[:half])
            return [*left, *await self._store(inputs[half:], outcomes[half:])]
        return outcomes

    async def _put(self, inputs: Sequence[Input[E]], outcomes: Sequence[Outcome]) -> None:
        async with self.lane.custody.watched() if self.lane.custody is not None else contextlib.nullcontext():
            await self.lane.store(inputs, outcomes)

    async def _write(self, inputs: Sequence[Input[E]], outcomes: Sequence[Outcome], dead: Sequence[Dead]) -> None:
        now = self._clock()
        messages = self._messages(inputs, outcomes, now) + [self._dead(one, now) for one in dead]
        try:
            await self.steps.persist("produce", lambda: self._outbox.send(messages))
        except Poison as error:
            await self._write_singly(inputs, outcomes, dead, error)
            return
        for message in messages:
            self.lane.metrics.produced(message.topic)
        for one in dead:
            stage = one.error.stage if isinstance(one.error, Poison) else "process"
            again = failed_before(one.record, self.lane.name)
            self.lane.metrics.dead_lettered(stage, type(one.error).__name__, again=again)

    async def _write_singly(
        self,
        inputs: Sequence[Input[E]],
        outcomes: Sequence[Outcome],
        dead: Sequence[Dead],
        error: Poison,
    ) -> None:
        """Some output is too large: find whose it is, and make that input a dead letter."""
        if len(dead) == 1 and (not inputs or (len(inputs) == 1 and outcomes[0].error is not None)):
            raise Fatal(f"{self.lane.name}: a dead letter cannot be written: {error}") from error
        if len(inputs) == 1 and not dead:
            model = outcomes[0].model
            await self._write(inputs, [Outcome(error=error, model=model)], [Dead(inputs[0].record, error, model)])
            return
        letters = {id(one.record): one for one in dead}
        for one, outcome in zip(inputs, outcomes, strict=True):
            await self._write([one], [outcome], [letters.pop(id(one.record))] if outcome.error is not None else [])
        for letter in letters.values():
            await self._write([], [], [letter])

    def _messages(self, inputs: Sequence[Input[E]], outcomes: Sequence[Outcome], now: datetime) -> list[Message]:
        time_header = iso(now)
        messages: list[Message] = []
        # One audit record for each model: a split gives a batch's notes to two, and a promotion may come between halves of one.
        answered: dict[ModelIdentity | None, list[tuple[int, AuditEntry]]] = {}
        for one, outcome in zip(inputs, outcomes, strict=True):
            entries = answered.setdefault(outcome.model or self.lane.model, [])
            if outcome.error is not None:
                entries.append((one.record.offset, self._entry(one, None, "dead-letter")))
                continue
            traceparent = self._traces[id(one.record)].header
            for event in outcome.events:
                messages.append(self._outbox.encode(event, time=time_header, traceparent=traceparent))
            first, *others = outcome.events or (None,)
            entries.append((one.record.offset, self._entry(one, first, outcome.word)))
            entries += [(one.record.offset, self._entry(one, event, outcome.others)) for event in others]
        for model, entries in answered.items():
            audit = prediction_audit(
                [entry for _, entry in entries],
                agent=self._agent,
                subject=f"{self.lane.kind.topic}/{self.partition.partition}",
                first_offset=entries[0][0],
                last_offset=entries[-1][0],
                model=model,
                recorded_at=now,
            )
            messages.append(self._outbox.encode(audit, time=time_header))
        return messages

    def _entry(self, one: Input[E], output: Event | None, word: str) -> AuditEntry:
        about = output or one.event
        return AuditEntry(
            event_id=about.id,
            input_id=one.event.id,
            input_digest=one.digest,
            outcome=word,
            patient_id=getattr(about, "patient_id", ""),
        )

    def _dead(self, dead: Dead, now: datetime) -> Message:
        record, model = dead.record, dead.model or self.lane.model
        letter = dead_letter(
            record,
            dead.error,
            lane=self.lane.name,
            failed_at=now,
            attempts=self.steps.attempts,
            model_digest=model.digest if model else "",
            room=self._outbox.letter_room,
        )
        log.warning(
            "%s offset %d: dead letter %s (%s: %s)", self.steps.name, record.offset, letter.id, letter.stage, letter.message
        )
        return self._outbox.encode(letter, time=iso(now), traceparent=self._traces[id(record)].header)


class StatelessJob:
    """A stateless lane as the engine runs it: one worker per partition."""

    def __init__(self, lane: Lane[Any], outbox: Outbox, settings: Settings, clock: Clock) -> None:
        self.lane = lane
        self.name = lane.name
        self._outbox = outbox
        self._settings = settings
        self._clock = clock
        self._tracing = Tracing(settings.tracing, lane.name)
        self._aside: Outbox | None = None  # of its own: a comparison that is too large must not spend the lane's producer

    @property
    def topics(self) -> tuple[str, ...]:
        """Return the one topic that the lane reads."""
        return (self.lane.kind.topic,)

    @property
    def needs(self) -> tuple[str, ...]:
        """Return the same: it keeps no state elsewhere."""
        return self.topics

    @property
    def batch_records(self) -> int:
        """Return the records of one batch at most."""
        return self.lane.config.batch_records

    async def open(self) -> None:
        """Open the lane."""
        if self.lane.serving is not None:
            told = self._outbox, self._settings.worker.agent(self.name), self._clock
            self.lane.serving.announce = recorder(model_change_audit, *told)
            self.lane.serving.remark = recorder(drift_audit, *told)
            if self.lane.serving.shadow is not None:
                self.lane.serving.shadow.report, self.lane.serving.shadow.clock = self._put_aside, self._clock
        await self.lane.open()

    async def close(self) -> None:
        """Close the lane."""
        self._tracing.stop()
        await self.lane.close()
        if self._aside is not None:
            await self._aside.stop()

    async def _put_aside(self, events: Sequence[ShadowEvent]) -> None:
        """Write what a challenger in shadow said, on its own topic."""
        if self._aside is None:
            aside = Outbox(self._settings, source=self._outbox.source)
            await aside.start()
            self._aside = aside
        now = iso(self._clock())
        await self._aside.send([self._aside.encode(event, time=now) for event in events])

    def workers(self, partitions: Iterable[TopicPartition], intake: Intake) -> dict[TopicPartition, Worker]:
        """Return a worker for each partition."""
        own = (self._outbox, self._settings.engine, self._clock, self._settings.worker.agent(self.name), self._tracing)
        return {tp: PartitionWorker(self.lane, tp, *own) for tp in partitions}


def _bytes(record: Any) -> int:
    """What a record costs, about: inference takes as long as its text is."""
    return len(record.value or b"")


def _poison(error: Exception, *, stage: str = "process") -> VigilError:
    return error if isinstance(error, VigilError) else Poison(describe(error), stage=stage)
