"""Deliveries: `vigil deliver run NAME`, a small consumer of `clinical.alerts` with a group of its own, on the lanes' engine.

A receiver of scores (`fhir-scores`) is the same on `clinical.scores`; there is no heartbeat on it, hence no dead man's switch.

One alert's offset is settled (and then committed) only after its receiver confirmed it, or its fallback did, or a dead letter was
written because it was refused; and after the audit record of that. So a receiver that is down delays its own alerts, loses none,
and delays nobody else. A crash repeats what was under way: at least once, with the same id.

A patient's alerts go one after the other, each confirmed before the next; patients go side by side. After an outage, of several
steps of one alert the newest is sent, marked late, and names those that it stands for.

Whom an alert is about in the hospital's own numbers is learnt from `clinical.patients` (`streams.naming`), at each attempt as it is
known then; an alert never waits for it.
"""

import asyncio
import contextlib
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from datetime import datetime
from typing import Any, TypeVar

from aiokafka import TopicPartition

from connectors.deliver.errors import Refused, Unavailable
from connectors.deliver.notice import Notice
from connectors.deliver.opening import open_receiver
from connectors.deliver.person import People
from connectors.deliver.settings import AnyReceiver, chain
from connectors.identity import Identities
from models.errors import Permanent, Poison, Transient
from processors.events import (
    AlertEvent,
    AuditEntry,
    AuditEvent,
    Event,
    HeartbeatEvent,
    News2,
    ScoreEvent,
    Source,
    VitalsEvent,
)
from processors.identity import natural_id
from streams.clock import Clock, clock_of
from streams.courier import Courier, Delivered, Way
from streams.deadletters import dead_letter, redriven
from streams.intake import Intake
from streams.ledger import Slice
from streams.metrics import LaneMetrics
from streams.naming import Naming
from streams.outbox import Outbox
from streams.parcels import Filter, Holding, Parcel, Step, Token
from streams.partition import Abandoned, Steps, Worker
from streams.settings import EngineSettings, Settings
from streams.topics import partition_counts
from streams.vigilance import Vigilance
from streams.wire import decode, header, iso

log = logging.getLogger("vigil.deliver")

T = TypeVar("T")

_COUNTED = ("delivered", "fallback", "refused", "passed-over", "unnamed", "silence", "silence-over", "heartbeat")
_SLICE = 16  # records settled together: few, since the slowest of them holds the others' commit


class DeliveryWorker:
    """Delivers one partition's alerts: a queue per patient, patients side by side."""

    def __init__(self, job: "DeliveryJob", partition: TopicPartition) -> None:
        self._job = job
        self._partition = partition
        self.steps = Steps(f"{job.name} {partition.topic}[{partition.partition}]", job.engine, job.metrics)
        self._holding = Holding(self.steps)
        self._waiting: deque[Slice] = deque()
        self._arrived = asyncio.Event()
        self._patients: dict[str, deque[Step]] = {}

    def accept(self, piece: Slice) -> None:
        """Queue a slice; the ledger's limit bounds the queue."""
        self._waiting.append(piece)
        self._arrived.set()

    def close(self) -> None:
        """Take nothing further; what waits for a receiver is given up now, what is being told is finished."""
        self.steps.closing.set()
        self._arrived.set()

    async def run(self) -> None:
        """Work until closed."""
        try:
            async with asyncio.TaskGroup() as tasks:
                while not self.steps.closing.is_set():
                    if self._waiting:
                        with contextlib.suppress(Abandoned):  # closing: what was not handed out stays unsettled
                            await self._hand_out(self._waiting.popleft(), tasks)
                    else:
                        self._arrived.clear()
                        await self._arrived.wait()
        except BaseExceptionGroup as group:
            raise group.exceptions[0] from None

    # ------------------------------------------------------------------------------------------------- one slice

    async def _hand_out(self, piece: Slice, tasks: asyncio.TaskGroup) -> None:
        parcel = Parcel(piece, len(piece.records))
        for record in list(piece.records):  # settling lets go of them
            try:
                event = self._read(record)
            except Poison as error:
                await self._bury(record, error)
                event = None
            if isinstance(event, ScoreEvent) or (isinstance(event, AlertEvent) and self._job.filter.takes(event)):
                queue = self._patients.get(event.patient_id)
                if queue is None:
                    queue = self._patients[event.patient_id] = deque()
                    tasks.create_task(self._patient(event.patient_id, queue))
                queue.append(Step(event, record, [parcel]))
            else:
                parcel.done()

    def _read(self, record: Any) -> Event | None:
        """Return what a record holds for us; None for nothing. Raises `Poison`."""
        source = redriven(record)
        own = ("dead-letter", self._job.name, record.topic)
        if source is not None and natural_id(*own, source.partition, source.offset) not in source.attempts:
            return None  # given back for another receiver
        kind = header(record, "ce_type")
        if kind == HeartbeatEvent.type.encode():
            beat = decode(HeartbeatEvent, record)
            self._job.vigilance.beat(beat.partition, beat.decided_at)
            return None
        if kind not in (None, self._job.reads.type.encode()):
            raise Poison("nothing of a kind and version that is known", stage="decode")
        return decode(self._job.reads, record)

    # ------------------------------------------------------------------------------------------------- one patient

    async def _patient(self, patient: str, queue: deque[Step]) -> None:
        try:
            while queue and not self.steps.closing.is_set():
                step = queue.popleft()
                if self._merged(step, queue):
                    continue
                await self._deliver(step)
        except Abandoned:
            return
        # No await between the last look at the queue and here: nothing can be queued that nobody takes.
        del self._patients[patient]

    def _merged(self, step: Step, queue: deque[Step]) -> bool:
        """Have a later step of the same alert stand for this one, if this one is late."""
        now = self._job.clock()
        if (now - step.since).total_seconds() <= self._job.own.late_after:
            return False
        later = next((one for one in queue if one.thread == step.thread), None)
        if later is None:
            return False
        later.parcels[:0] = step.parcels
        later.passed_over[:0] = [*step.passed_over, step.event.id]
        self._job.metrics.event("passed-over")
        return True

    async def _deliver(self, step: Step) -> None:
        job, token = self._job, Token(self._holding, step)

        def make(now: datetime, instead_of: str) -> Notice:
            late = (now - step.since).total_seconds() > job.own.late_after
            passed, event = tuple(step.passed_over), step.event
            alert, score = (event, None) if isinstance(event, AlertEvent) else (None, event)
            person = job.naming.find(event)  # at each attempt: it may have become known
            return Notice("alert", event.id, now, alert, late, passed, instead_of, person=person, score=score)

        done = await job.courier.deliver(make, token)
        for name, error in done.refusals:
            await self._bury(step.record, Poison(f"{name} refuses: {error}", stage="deliver"))
        await self._audit(step, done)
        self._holding.over(step)
        job.metrics.event("delivered" if done.by == job.receiver else "fallback" if done.by else "refused")
        if job.own.identify and job.naming.find(step.event) is None:
            job.metrics.event("unnamed")
        job.metrics.consumed.inc()
        job.metrics.end_to_end.observe(max(0.0, time.time() - step.record.timestamp / 1000))
        for parcel in step.parcels:
            parcel.done()

    # ------------------------------------------------------------------------------------------------- what is written

    async def _audit(self, step: Step, done: Delivered) -> None:
        now = self._job.clock()
        entry = AuditEntry(
            event_id=step.event.id,
            input_id=step.event.id,
            outcome=f"told {done.by}" if done.by else "refused",
            patient_id=step.event.patient_id,
        )
        audit = AuditEvent(
            id=natural_id("delivered", self._job.name, step.event.id, done.by),
            action="access",
            agent=self._job.agent,
            subject=f"{self._job.reads.topic}/{self._partition.partition}",
            entries=(entry,),
            recorded_at=now,
        )
        await self._write(audit, now)

    async def _bury(self, record: Any, error: Poison) -> None:
        now = self._job.clock()
        letter = dead_letter(record, error, lane=self._job.name, failed_at=now, room=self._job.outbox.letter_room)
        log.warning("%s offset %d: dead letter %s (%s: %s)", self.steps.name, record.offset, letter.id, letter.stage, error)
        await self._write(letter, now)
        self._job.metrics.dead_lettered(letter.stage, letter.error)

    async def _write(self, event: Event, now: datetime) -> None:
        message = self._job.outbox.encode(event, time=iso(now))
        await self._persist("produce", lambda: self._job.outbox.send([message]))
        self._job.metrics.produced(message.topic)

    async def _persist(self, step: str, work: Callable[[], Awaitable[T]]) -> T:
        token, pause = object(), self._job.engine.backoff_first
        while True:
            try:
                result = await work()
            except Transient as error:
                self._job.metrics.retried(step)
                await self._holding.wait(token, f"{step}: {error}", pause)
                pause = min(2 * pause, self._job.engine.backoff_most)
            else:
                self._holding.over(token)
                return result


class DeliveryJob:
    """One receiver as the engine runs it."""

    def __init__(self, receiver: str, settings: Settings, outbox: Outbox, metrics: LaneMetrics) -> None:
        self.receiver = receiver
        self.name = lane_name(receiver)
        self.own: AnyReceiver = receiver_settings(settings, receiver)
        self.reads: type[AlertEvent] | type[ScoreEvent] = ScoreEvent if self.own.kind == "fhir-scores" else AlertEvent
        self.engine: EngineSettings = settings.engine
        self.outbox = outbox
        self.metrics = metrics
        self.clock: Clock = clock_of(settings.clock)
        self.agent = settings.worker.agent(self.name)
        self.filter = Filter(self.own)
        self.courier = Courier((), self.clock)
        self.vigilance = Vigilance(receiver, self.own, self.clock, metrics)
        metrics.expect(_COUNTED)
        metrics.watch_silence(lambda: len(self.vigilance.silent(self.clock())))
        self.naming = Naming(settings.kafka, settings.engine, People(Identities(settings.identity)))
        self._settings = settings
        self._spread = (0, 1)  # partitions of the vitals lane, and of the topic on which they are heard
        self._watching: asyncio.Task[None] | None = None

    @property
    def topics(self) -> tuple[str, ...]:
        """Return the one topic that is read."""
        return (self.reads.topic,)

    @property
    def needs(self) -> tuple[str, ...]:
        """Return the same: without `clinical.patients` alerts go out all the same, under pseudonyms."""
        return self.topics

    @property
    def batch_records(self) -> int:
        """Return the records of one slice at most."""
        return _SLICE

    async def open(self) -> None:
        """Make the ways to the receiver and its fallbacks. Raises `Permanent` for files that are not what they should be."""
        self.courier = make_courier(self._settings, self.receiver, self.clock, self.metrics.retried)
        if self.reads is AlertEvent:
            counts = await partition_counts(self._settings)
            heard = counts.get(AlertEvent.topic, 1)
            # The lane's topic may be hidden from this account, or not be made yet: mostly all have the same number.
            self._spread = counts.get(VitalsEvent.topic, heard), heard
        if any(way.settings.identify for way in self.courier.ways):
            await self.naming.start()
        self._watching = asyncio.create_task(self.vigilance.watch(self.courier), name="dead man's switch")

    async def close(self) -> None:
        """Undo `open`."""
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.gather(self._watching, return_exceptions=True)
        await self.naming.stop()
        for way in self.courier.ways:
            await way.receiver.close()

    def workers(self, partitions: Iterable[TopicPartition], intake: Intake) -> dict[TopicPartition, Worker]:
        """Return a worker for each partition."""
        partitions = list(partitions)
        if self.reads is AlertEvent:
            (lane, heard), held = self._spread, {tp.partition for tp in partitions}
            self.vigilance.assigned(number for number in range(lane) if number % heard in held)
        return {tp: DeliveryWorker(self, tp) for tp in partitions}


def lane_name(receiver: str) -> str:
    """Return the name under which a delivery runs: of its group, its metrics and its dead letters."""
    return f"deliver-{receiver}"


def receiver_settings(settings: Settings, name: str) -> AnyReceiver:
    """Return a receiver's settings; raises `Permanent` for a name that is none."""
    found = settings.deliver.get(name)
    if found is None:
        known = ", ".join(settings.deliver) or "none is set up: [deliver.NAME] in vigil.toml"
        raise Permanent(f"there is no receiver {name!r}", hint=f"receivers: {known}")
    return found


def make_courier(settings: Settings, name: str, clock: Clock, retried: Callable[[str], None]) -> Courier:
    """Return a courier along a receiver and its fallbacks. Raises `Permanent` for files that are not what they should be."""
    ways = []
    for one in chain(settings.deliver, name):
        own = settings.deliver[one]
        ways.append(Way(one, own, open_receiver(own), asyncio.Semaphore(own.concurrency)))
    return Courier(ways, clock, retried)


async def tell_test(settings: Settings, name: str) -> tuple[str, str, float]:
    """Send a receiver an alert that is marked as a test; return what went wrong (or nothing), a hint, and the seconds it took."""
    own, clock, began = receiver_settings(settings, name), clock_of(settings.clock), time.monotonic()
    now = clock()
    receiver = open_receiver(own)
    try:
        await receiver.send(_trial(own, name, now))
    except (Unavailable, Refused) as error:
        return str(error), error.hint or "", time.monotonic() - began
    finally:
        await receiver.close()
    return "", "", time.monotonic() - began


def _trial(own: AnyReceiver, name: str, now: datetime) -> Notice:
    key = natural_id("test", name, now.isoformat())
    if own.kind != "fhir-scores":
        return Notice("test", key, now, trial_alert(name, now))
    source = Source(topic=ScoreEvent.topic, partition=0, offset=0, event_id=key)
    news2 = News2(total=0, at_least=False, single_three=False, scale=1, band="low", parameters=())
    return Notice("test", key, now, score=ScoreEvent(
        id=key, patient_id="test", source=source, observed_at=now, received_at=now, news2=news2, processing="training"
    ))  # fmt: skip


def trial_alert(name: str, now: datetime) -> AlertEvent:
    """Return an alert about nobody."""
    key = natural_id("test", name, now.isoformat())
    return AlertEvent(
        id=key,
        patient_id="test",
        source=Source(topic=AlertEvent.topic, partition=0, offset=0, event_id=key),
        alert_id=key,
        sequence=0,
        kind="news2",
        state="raised",
        severity="information",
        title="a message to try the way, nothing happened",
        detail="Sent by `vigil deliver test`. There is no patient; nobody has to do anything.",
        reason="test",
        observed_at=now,
        received_at=now,
        decided_at=now,
    )
