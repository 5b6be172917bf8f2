"""Rule 11: a partition of the vitals lane, killed and restored at random, says what one undisturbed run says, and nothing else.

The worker is the real one, on real topics and a real journal; only the group is played here, so that a commit may lag behind what
was published as it pleases. The judge reads the journal and the inputs for itself, lets one machine run over that history from its
beginning, without snapshots, and holds everything that was ever published against what the machine says.
"""

import asyncio
import random
import re
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import count, pairwise
from typing import Any

import orjson
import pytest
from aiokafka import AIOKafkaProducer, ConsumerRecord, TopicPartition
from prometheus_client import generate_latest

from models.registry import Registry
from models.tasks import DeteriorationModel
from processors.events import TOPICS, FeedbackEvent, Observation, Origin, PatientEvent, Source, VitalsEvent
from processors.identity import natural_id
from processors.monitor import Monitor, MonitorRules
from streams import journal, monitoring, stamp
from streams.journal import TOPIC as JOURNAL
from streams.journal import Superseded
from streams.ledger import Ledger
from streams.metrics import LaneMetrics
from streams.monitoring import MonitorWorker
from streams.outbox import Outbox
from streams.restoring import Restoring
from streams.scoring import LATE, Scoring
from streams.settings import ClockSettings, EngineSettings, KafkaSettings, ModelSettings, Settings, VitalsStateSettings
from streams.tracing import Tracing
from streams.wire import Message, decode
from tests.bedside import ILL, observation
from tests.kafka import Kafka
from tests.lanes import until
from tests.told import Told
from tests.vitals import patient, vitals

pytestmark = [pytest.mark.kafka, pytest.mark.real_kafka]
START = datetime(2026, 3, 1, 8, tzinfo=UTC)
DEADLINE = 0.05  # seconds for the model
STEPS = ClockSettings(step_seconds=3600)  # the ward's clock runs far ahead of what passes
INPUTS: tuple[type[Any], ...] = (VitalsEvent, PatientEvent, FeedbackEvent)


@dataclass
class Group:
    """What a consumer group and its intake are to a worker: ledgers of one assignment, and commits that outlive it."""

    prefix: str
    commits: dict[TopicPartition, int] = field(default_factory=dict)
    ledgers: dict[TopicPartition, Ledger] = field(default_factory=dict)

    def assign(self) -> None:
        event = asyncio.Event()
        self.ledgers = {tp: Ledger(tp, event) for kind in INPUTS for tp in [TopicPartition(self.prefix + kind.topic, 0)]}

    async def committed(self, partition: TopicPartition) -> int | None:
        return self.commits.get(partition)

    def commit(self, most: int = 1_000_000) -> None:
        """Commit up to so many slices of each partition's settled prefix."""
        for tp, ledger in self.ledgers.items():
            end = None
            for piece in list(ledger.slices)[:most]:
                if not piece.settled:
                    break
                end = piece.end
            if end is not None:
                self.commits[tp] = end
                ledger.forget(end)


class Ward:
    """One partition of the vitals lane: its topics, its lives one after the other, and what became of it all."""

    def __init__(
        self,
        kafka: Kafka,
        seed: int,
        *,
        tick_seconds: float = 0.03,
        snapshot_seconds: float = 0.15,
        steps: ClockSettings = STEPS,
        model: DeteriorationModel | None = None,
    ) -> None:
        self.kafka = kafka
        self.random = random.Random(seed)
        self.prefix = kafka.name("w") + "."
        for topic in (*TOPICS, JOURNAL):
            kafka.create(self.prefix + topic, 1)
        self.settings = Settings(
            kafka=KafkaSettings(bootstrap=kafka.bootstrap, topic_prefix=self.prefix, embedded=kafka.kind == "embedded"),
            engine=EngineSettings(),
            state=VitalsStateSettings(tick_seconds=tick_seconds, snapshot_seconds=snapshot_seconds),
            clock=steps,
            models=ModelSettings(vitals_deadline=DEADLINE),
            monitor=MonitorRules(model_pages=True, model_threshold=0.02),
        )
        self.rules = self.settings.monitor  # of the next life
        self.model = model
        self.group = Group(self.prefix)
        self.time = START
        self.wrong = timedelta()  # what the clock of the worker's host is off by
        self.metrics = LaneMetrics("vitals")
        self.outbox = Outbox(self.settings, source="/test")
        self.senders = Outbox(self.settings, source="/test")
        self.records: dict[type[Any], list[Any]] = {kind: [] for kind in INPUTS}
        self.worker: MonitorWorker | None = None
        self.task: asyncio.Task[None] | None = None
        self.fed: dict[type[Any], int] = {}

    async def __aenter__(self) -> "Ward":
        await self.outbox.start()
        await self.senders.start()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.die()
        await self.outbox.stop()
        await self.senders.stop()

    def clock(self) -> datetime:
        """A clock that goes on by a second or two at every look."""
        self.time += timedelta(seconds=self.random.uniform(0.5, 2.0))
        return self.time + self.wrong

    def tp(self, kind: type[Any]) -> TopicPartition:
        return TopicPartition(self.prefix + kind.topic, 0)

    async def write(self, events: Iterable[Any]) -> None:
        """Send inputs; what was sent is kept for the judge, too."""
        for event in events:
            value = event.model_dump_json().encode()
            offset = await self.senders.append(Message(event.topic, event.patient_id.encode(), value, partition=0))
            known = self.records[type(event)]
            assert offset == len(known)
            topic = self.prefix + event.topic
            size = len(value)
            key = event.patient_id.encode()
            known.append(ConsumerRecord(topic, 0, offset, 0, 0, key, value, None, len(key), size, ()))

    def live(self, *, slow: bool = False) -> None:
        """Begin a life: assigned anew, from the commit on; with a model that is late where told so."""
        self.group.assign()
        model = Told(self.model, seconds=3 * DEADLINE) if self.model is not None and slow else self.model
        # A fast one has the time that it takes where other tests keep the machine busy.
        models = self.settings.models if slow else ModelSettings(vitals_deadline=30)
        self.scoring = Scoring(model, models, self.metrics)
        self.worker = MonitorWorker(
            0,
            settings=self.settings,
            outbox=self.outbox,
            intake=self.group,  # type: ignore[arg-type]
            metrics=self.metrics,
            clock=self.clock,
            scoring=self.scoring,
            new_monitor=lambda number: Monitor(self.rules, partition=number, model=self.scoring.identity),
            agent="test",
            tracing=Tracing(self.settings.tracing, "vitals"),
        )
        self.fed = {kind: self.group.commits.get(self.tp(kind), 0) for kind in INPUTS}
        self.task = asyncio.create_task(self.worker.run())

    def feed(self, kind: type[Any], most: int) -> None:
        """Hand on the next records that the intake would deliver."""
        start = self.fed[kind]
        records = self.records[kind][start : start + most]
        if records:
            assert self.worker is not None
            self.worker.accept(self.group.ledgers[self.tp(kind)].enter(records))
            self.fed[kind] = start + len(records)

    async def make_anew(self, kind: type[Any]) -> None:
        """Delete an input topic and create it again, empty. Its offsets begin anew, and the group's are gone."""
        await asyncio.to_thread(self.kafka.make_anew, self.prefix + kind.topic, 1)
        self.records[kind].clear()
        self.group.commits.pop(self.tp(kind), None)
        self.fed[kind] = 0

    async def fed_is_done(self) -> None:
        """Wait until all that was fed is published and committed."""

        def done() -> bool:
            self.group.commit()
            return all(self.group.commits.get(self.tp(kind), 0) == self.fed[kind] for kind in INPUTS)

        await until(done, what="everything fed is committed")

    async def die(self) -> None:
        """Die where it stands: nothing is finished, nothing settled is committed any more."""
        if self.task is None:
            return
        while not self.task.done():  # again: aiokafka swallows a cancellation that meets it while it closes a consumer
            self.task.cancel()
            await asyncio.wait([self.task], timeout=0.2)
        with suppress(asyncio.CancelledError):
            self.task.result()
        self.task = None
        await self.scoring.stop()

    async def live_for_a_while(self, patience: float = 0.4) -> None:
        """Feed in pieces, commit now and then some of what is settled, and stop anywhere."""
        end = asyncio.get_running_loop().time() + self.random.uniform(0.05, patience)
        while asyncio.get_running_loop().time() < end:
            kind = self.random.choice([VitalsEvent, VitalsEvent, PatientEvent])
            self.feed(kind, self.random.randint(1, 12))
            if self.random.random() < 0.4:
                self.group.commit(self.random.randint(1, 4))
            assert self.task is not None
            if self.task.done():
                self.task.result()
                return
            await asyncio.sleep(self.random.choice([0, 0.001, 0.005, 0.02]))

    async def finish(self) -> None:
        """Feed all there is and let the last life end when it is done and committed."""
        for kind in INPUTS:
            self.feed(kind, 1_000_000)

        def done() -> bool:
            assert self.task is not None
            if self.task.done():
                self.task.result()
            self.group.commit()
            return all(self.group.commits.get(self.tp(kind), 0) == len(self.records[kind]) for kind in INPUTS)

        await until(done, what="everything is committed")
        await asyncio.sleep(0.2)
        await self.die()
        await asyncio.sleep(0.5)  # what it had on the way arrives

    # ------------------------------------------------------------------------------------------------- the judge

    async def published(self) -> dict[str, list[dict[str, Any]]]:
        """Everything that was published about patients and the partition, by id; the copies in the order of their offsets."""
        found: dict[str, list[dict[str, Any]]] = {}
        for topic in ("clinical.scores", "clinical.alerts"):
            for record in await asyncio.to_thread(self.kafka.read, self.prefix + topic):
                body = orjson.loads(record.value)
                found.setdefault(body["id"], []).append(body)
        return found

    async def history(self) -> list[dict[str, Any]]:
        """The journalled entries that count: those of whoever had the last claim before them; the last of each number."""
        epoch, entries = -1, {}
        for record in await asyncio.to_thread(self.kafka.read, self.prefix + JOURNAL):
            body = orjson.loads(record.value) if record.value is not None else {"kind": "tombstone"}
            if body["kind"] == "epoch":
                epoch = record.offset
            elif body["kind"] == "entry" and body["epoch"] == epoch:
                entries[body["number"]] = {**body, "offset": record.offset}
        return [entries[number] for number in sorted(entries)]

    async def silences(self) -> dict[tuple[int, int], str]:
        """Why NEWS2 went out alone, by entry and offset, as the journal has it first."""
        epoch, found = -1, dict[tuple[int, int], str]()
        for record in await asyncio.to_thread(self.kafka.read, self.prefix + JOURNAL):
            body = orjson.loads(record.value) if record.value is not None else {"kind": "tombstone"}
            if body["kind"] == "epoch":
                epoch = record.offset
            elif body["kind"] == "lapse" and body["epoch"] == epoch:
                for offset in range(body["first"], body["end"]):
                    found.setdefault((body["number"], offset), body["reason"])
        return found

    async def expected(self) -> dict[str, dict[str, Any]]:
        """What one machine says that runs over the whole history, undisturbed."""
        scoring = Scoring(self.model, ModelSettings(vitals_deadline=600), self.metrics)
        monitor = Monitor(self.settings.monitor, partition=0, model=scoring.identity)
        silences = await self.silences()
        said: list[Any] = []
        at, number, ends = 0, 0, dict.fromkeys((PatientEvent.topic, FeedbackEvent.topic), 0)

        async def advance(upto: int) -> None:
            nonlocal at
            for record in self.records[VitalsEvent][at:upto]:
                event = decode(VitalsEvent, record)
                source = Source(topic=VitalsEvent.topic, partition=0, offset=record.offset, event_id=event.id)
                made = monitor.observe(event, source)
                (score,) = await scoring.score([made], [silences.get((number, record.offset), "")])
                said.extend(monitor.decide(made, *score))
            at = max(at, upto)

        for entry in await self.history():
            await advance(entry["at"])
            for kind in (PatientEvent, FeedbackEvent):
                for record in self.records[kind][ends[kind.topic] : entry["ends"].get(kind.topic, 0)]:
                    event = decode(kind, record)
                    source = Source(topic=kind.topic, partition=0, offset=record.offset, event_id=event.id)
                    said.extend(monitor.patient(event, source) if kind is PatientEvent else monitor.feedback(event, source))
                ends[kind.topic] = max(ends[kind.topic], entry["ends"].get(kind.topic, 0))
            if entry["now"]:
                source = Source(topic=JOURNAL, partition=0, offset=entry["offset"], event_id=f"0/{entry['number']}")
                said.extend(monitor.tick(datetime.fromisoformat(entry["now"]), source))
            number = entry["number"]
        await advance(len(self.records[VitalsEvent]))
        await scoring.stop()
        return {event.id: orjson.loads(event.model_dump_json()) for event in said}

    async def judge(self) -> None:
        """Everything published is what the undisturbed machine says, every copy of it, and nothing is missing."""
        published, expected = await self.published(), await self.expected()
        for name, copies in published.items():
            assert name in expected, f"published, though no undisturbed run says it: {copies[0]}"
            for copy in copies:
                differs = {key: (copy.get(key), value) for key, value in expected[name].items() if copy.get(key) != value}
                assert not differs, f"a copy of {name} says something else: {differs}"
        missing = [body for name, body in expected.items() if name not in published]
        assert not missing, f"{len(missing)} were never published, e.g. {missing[0]}"
        raised = [body["alert_id"] for copies in published.values() for body in copies[:1] if body.get("state") == "raised"]
        assert len(raised) == len(set(raised))


def contexts(patients: int, rng: random.Random, step: int) -> list[PatientEvent]:
    """New contexts for some: another SpO2 scale, another bed; each changes what scores or alerts say from then on."""
    events = []
    for number in rng.sample(range(patients), 3):
        base = patient(number, START)
        scale = rng.choice([1, 2])
        events.append(
            base.model_copy(
                update={
                    "id": natural_id("test-context", number, step),
                    "spo2_scale": scale,
                    "spo2_scale_decided_by": "a clinician" if scale == 2 else None,
                    "location": base.location.model_copy(update={"bed": f"{step}-{number}"}) if base.location else None,
                }
            )
        )
    return events


@pytest.mark.parametrize("seed", range(4))
async def test_killed_and_restored_at_random_it_says_what_an_undisturbed_run_says(kafka: Kafka, seed: int) -> None:
    patients = 24  # more than a snapshot writes at once
    async with Ward(kafka, seed, tick_seconds=[0.03, 0.3][seed % 2]) as ward:
        await ward.write([patient(number, START) for number in range(patients)])
        sets = list(vitals(patients, 40, START, every=timedelta(seconds=40), seed=seed))
        lives = 14
        for life in range(lives):
            await ward.write(sets[life * len(sets) // lives : (life + 1) * len(sets) // lives])
            if life:
                await ward.write(contexts(patients, ward.random, life))
            ward.live()
            await ward.live_for_a_while()
            await ward.die()
        ward.live()
        await ward.finish()
        await ward.judge()


@pytest.mark.parametrize("seed", range(3))
async def test_a_model_that_was_late_is_late_again_and_one_that_answered_is_waited_for(kafka: Kafka, seed: int) -> None:
    """What went out without the model, or with it, is what a rerun says: also where the model pages."""
    async with Ward(kafka, 40 + seed, tick_seconds=0.3, model=Registry.load().open("deterioration")) as ward:
        await ward.write([patient(number, START) for number in range(12)])
        sets = list(vitals(12, 40, START, every=timedelta(minutes=4), seed=seed))
        lives = 10
        for life in range(lives):
            await ward.write(sets[life * len(sets) // lives : (life + 1) * len(sets) // lives])
            ward.live(slow=ward.random.random() < 0.5)
            await ward.live_for_a_while(1.5)
            await ward.die()
        ward.live()
        await ward.finish()
        published = (await ward.published()).values()
        assert any(copies[0].get("kind") == "deterioration" for copies in published), "the model pages"
        await ward.judge()


@pytest.mark.parametrize("slow", [True, False], ids=["late, then not", "not late, then late"])
async def test_what_a_set_was_said_with_is_said_again(kafka: Kafka, slow: bool) -> None:
    """Scores go out, nothing is committed, the worker dies; the next one's model is late where this one's was not, and back."""
    async with Ward(kafka, 0, snapshot_seconds=600, model=Registry.load().open("deterioration")) as ward:
        await ward.write([patient(number, START) for number in range(3)])
        await ward.write(vitals(3, 12, START, every=timedelta(minutes=4), seed=5))
        ward.live(slow=slow)
        ward.feed(PatientEvent, 10)
        await asyncio.sleep(0.5)
        ward.feed(VitalsEvent, 36)
        await until(lambda: said_scores(ward, 36), what="all scores are out")
        await ward.die()
        ward.live(slow=not slow)
        await ward.finish()
        copies = [copies for copies in (await ward.published()).values() if "deterioration" in copies[0]]
        assert {len(each) for each in copies} == {2}
        assert {one["deterioration_reason"] for each in copies for one in each} == ({LATE} if slow else {""})
        await ward.judge()


async def test_what_was_published_before_a_context_arrived_is_not_decided_anew_with_it(kafka: Kafka) -> None:
    """Scores go out, nothing is committed, the worker dies; the context comes before the vitals are read again."""
    async with Ward(kafka, 0, tick_seconds=20) as ward:  # no entry after the scores that would vouch for them
        await ward.write([patient(number, START) for number in range(3)])
        sets = list(vitals(3, 12, START, every=timedelta(seconds=40), seed=5))
        await ward.write(sets)
        ward.live()
        ward.feed(PatientEvent, 10)
        await asyncio.sleep(0.1)
        ward.feed(VitalsEvent, len(sets))
        await until(lambda: said_scores(ward, len({event.id for event in sets})), what="all scores are out")
        await ward.die()
        other_scale = {"id": natural_id("test-context", "scale"), "spo2_scale": 2, "spo2_scale_decided_by": "a clinician"}
        await ward.write([patient(number, START).model_copy(update=other_scale) for number in range(3)])
        ward.live()
        ward.feed(PatientEvent, 10)
        await asyncio.sleep(0.1)
        await ward.finish()
        await ward.judge()


async def half_a_snapshot(ward: Ward, writes: int | None = None) -> None:
    """Let the worker take a snapshot now and write its states, or so many writes of them, and never its marker."""
    assert ward.worker is not None
    worker, cut = ward.worker, asyncio.Event()
    done, save = 0, worker._journal.save

    async def saved(*given: Any) -> None:
        nonlocal done
        await save(*given)
        done += 1
        if done == writes:
            cut.set()
            await asyncio.sleep(3600)  # where it is killed

    async def mark(*_: object) -> None:
        worker._snapshots.due = float("inf")  # no other one would end it
        cut.set()

    # The real journal, stopped where a kill would have to strike within a millisecond.
    worker._journal.save = saved  # type: ignore[method-assign]
    worker._journal.mark = mark  # type: ignore[method-assign]
    worker._snapshots.due = 0.0
    worker._arrived.set()
    async with asyncio.timeout(20):
        await cut.wait()


async def a_snapshot(ward: Ward) -> None:
    """Let the worker take a whole snapshot now, unless the one after its restore holds everything."""
    assert ward.worker is not None
    worker, before = ward.worker, ward.worker._snapshots.marked
    worker._snapshots.due = 0.0
    worker._arrived.set()

    def taken() -> bool:
        return worker._snapshots.marked > before or (worker._snapshots._taken is None and not worker._machine.monitor.dirty())

    await until(taken, what="all is in a snapshot")
    worker._snapshots.due = float("inf")


async def test_what_a_restore_had_to_replay_the_next_one_has_not(kafka: Kafka, caplog: pytest.LogCaptureFixture) -> None:
    """Else kills that come faster than snapshots would make each restore longer than the last."""
    caplog.set_level("INFO", logger="vigil.vitals")

    def replayed() -> list[int]:
        return [int(found[1]) for line in caplog.messages if (found := re.search(r"\((\d+) sets replayed", line))]

    async with Ward(kafka, 3, snapshot_seconds=600) as ward:
        await ward.write([patient(number, START) for number in range(20)])
        await ward.write(list(vitals(20, 10, START, every=timedelta(seconds=40), seed=3)))
        ward.live()
        for kind in (PatientEvent, VitalsEvent):
            ward.feed(kind, 1_000)
        await ward.fed_is_done()
        await ward.die()
        for life in (2, 3):
            ward.live()
            worker = ward.worker
            assert worker is not None
            await until(lambda life=life: len(replayed()) == life, what="the state is restored")
            if life == 2:
                await until(
                    lambda worker=worker: worker._snapshots.marked > 0 and worker._snapshots._taken is None,
                    what="a snapshot is whole",
                )
            await ward.die()
        assert replayed() == [0, 200, 0]


@pytest.mark.parametrize("snapshot", [True, False], ids=["snapshot", "none"])
async def test_vitals_made_anew_neither_stop_the_time_nor_what_a_restore_replays(
    kafka: Kafka, snapshot: bool, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="vigil.vitals")
    async with Ward(kafka, 4, tick_seconds=0.1, snapshot_seconds=600) as ward:
        sets = list(vitals(5, 12, START, every=timedelta(seconds=40), seed=3))
        await ward.write([patient(number, START) for number in range(5)])
        await ward.write(sets[:50])
        ward.live()
        ward.feed(PatientEvent, 10)
        ward.feed(VitalsEvent, 50)
        await ward.fed_is_done()
        await a_snapshot(ward)
        await ward.die()
        await ward.make_anew(VitalsEvent)
        await ward.write(sets[50:])
        ward.live()
        worker = ward.worker
        assert worker is not None
        if not snapshot:
            worker._snapshots.due = float("inf")
        ward.feed(VitalsEvent, 10)
        await ward.fed_is_done()
        assert "the topic of vitals was made anew" in caplog.text
        before = worker._machine.entry
        await until(lambda: worker._machine.entry > before + 3, what="time goes on")
        if snapshot:
            await a_snapshot(ward)
        await ward.die()
        ward.live()
        await until(lambda: caplog.text.count("sets replayed") == 3, what="the state is restored")
        assert "restored to offset 10 in" in caplog.text
        assert f"({0 if snapshot else 10} sets replayed" in [line for line in caplog.messages if "sets replayed" in line][-1]
        await ward.finish()
        assert len([body for body in (await ward.published()).values() if "deterioration_reason" in body[0]]) == 60


def beds(ward: Ward, moved: Iterable[PatientEvent]) -> bool:
    """Tell whether the worker knows these patients where these contexts say."""
    assert ward.worker is not None
    known = ward.worker._machine.monitor._patients
    return all(event.patient_id in known and known[event.patient_id].context.location == event.location for event in moved)


@pytest.mark.parametrize("alive", [True, False], ids=["while it works", "while it is away"])
async def test_contexts_made_anew_are_taken(kafka: Kafka, alive: bool, caplog: pytest.LogCaptureFixture) -> None:
    """Their offsets are lower than those that were taken; what they say is new."""
    async with Ward(kafka, 4, tick_seconds=0.1) as ward:
        await ward.write([patient(number, START) for number in range(8)])
        await ward.write(list(vitals(8, 4, START, every=timedelta(seconds=40), seed=3)))
        ward.live()
        ward.feed(PatientEvent, 10)
        ward.feed(VitalsEvent, 50)
        await ward.fed_is_done()
        await a_snapshot(ward)
        if not alive:
            await ward.die()
        await ward.make_anew(PatientEvent)
        moved = contexts(8, ward.random, 7)
        await ward.write(moved)
        if not alive:
            ward.live()
        ward.feed(PatientEvent, 10)
        await ward.fed_is_done()
        assert "was made anew" in caplog.text
        await until(lambda: beds(ward, moved), what="the patients lie where they were moved")
        await ward.die()
        ward.live()
        await until(lambda: beds(ward, moved), what="and so they do after a restore")
        await ward.finish()


async def test_contexts_made_anew_that_come_in_while_an_entry_is_written_are_taken(kafka: Kafka) -> None:
    """The entry's end is of the log before: what lies below it in the new one is not applied yet."""
    async with Ward(kafka, 4, tick_seconds=0.1) as ward:
        await ward.write([patient(number, START) for number in range(8)])
        ward.live()
        ward.feed(PatientEvent, 10)
        await ward.fed_is_done()
        assert ward.worker is not None
        own, written, go_on = ward.worker._journal, asyncio.Event(), asyncio.Event()
        enter = own.enter

        async def slowly(entry: journal.Entry) -> journal.Entry:
            made = await enter(entry)
            written.set()
            await go_on.wait()
            return made

        await ward.make_anew(PatientEvent)
        moved = contexts(8, ward.random, 7)
        await ward.write(moved)
        own.enter = slowly  # type: ignore[method-assign]  # the real one, held up while something else comes in
        await written.wait()
        ward.feed(PatientEvent, 10)
        go_on.set()
        await ward.fed_is_done()
        await until(lambda: beds(ward, moved), what="the patients lie where they were moved")
        await ward.finish()


def breathless(number: int, step: int, at: datetime, *, not_so: bool = False) -> VitalsEvent:
    """One parameter of 3 points: an alert that a ward's budget may send to the worklist. `not_so` takes the 3 back."""
    well = next(iter(vitals(1, 1, at)))
    rate = Observation(code="9279-1", value=16 if not_so else 26, unit="/min", status="corrected" if not_so else "final")
    observations = tuple(rate if one.code == rate.code else one for one in well.observations)
    return well.model_copy(
        update={
            "id": natural_id("test-breathless", number, step),
            "patient_id": f"patient-{number:04d}",
            "encounter_id": f"encounter-{number}",
            "observations": observations,
        }
    )


@pytest.mark.parametrize("writes", [1, None], ids=["first states", "all states"])
async def test_a_snapshot_cut_short_leaves_the_partitions_own_state_as_it_was(kafka: Kafka, writes: int | None) -> None:
    """What patients whose states were written did counts for their ward: its budget is used up, or it is not."""
    async with Ward(kafka, 1, tick_seconds=20, snapshot_seconds=600) as ward:
        await ward.write([patient(number, START) for number in range(40)])
        ward.live()
        ward.feed(PatientEvent, 40)
        await ward.fed_is_done()
        await a_snapshot(ward)
        sets = [breathless(number, 1, ward.time) for number in (*range(20), 30)]
        sets.append(breathless(30, 2, sets[-1].observed_at, not_so=True))  # withdrawn: the next may come at once
        await ward.write(sets)
        ward.feed(VitalsEvent, len(sets))
        await ward.fed_is_done()
        await half_a_snapshot(ward, writes)
        await ward.die()
        await ward.write([breathless(30, 3, ward.time + timedelta(seconds=1))])
        ward.live()
        await ward.finish()
        routes = {
            (body["state"], body["route"])
            for copies in (await ward.published()).values()
            for body in copies
            if body.get("patient_id") == "patient-0030" and "alert_id" in body
        }
        assert routes == {("raised", "default"), ("withdrawn", "default"), ("raised", "worklist")}
        await ward.judge()


@pytest.mark.parametrize("goes_on", [False, True], ids=["quiet", "busy"])
async def test_a_snapshot_cut_short_loses_nobody(kafka: Kafka, goes_on: bool) -> None:
    """Its states stand for a moment at which nothing was committed since the last entry, or for one between two entries."""
    patients = 20
    async with Ward(kafka, 1, tick_seconds=20, snapshot_seconds=60) as ward:
        sets = list(vitals(patients, 12, START, every=timedelta(seconds=40), seed=6))
        half = len(sets) // 2
        await ward.write([patient(number, START) for number in range(patients)])
        await ward.write(sets[:half])
        ward.live()
        ward.feed(PatientEvent, patients)
        await ward.fed_is_done()
        ward.feed(VitalsEvent, half)
        await ward.fed_is_done()
        await ward.write(contexts(patients, ward.random, 1))
        if goes_on:
            await half_a_snapshot(ward)
            await ward.write(sets[half:])
            ward.feed(VitalsEvent, patients)
            await ward.fed_is_done()
            ward.feed(PatientEvent, 10)
            await ward.fed_is_done()
            ward.feed(VitalsEvent, 2 * patients)
            await ward.fed_is_done()
        else:
            ward.feed(PatientEvent, 10)
            await ward.fed_is_done()
            await half_a_snapshot(ward)
            await ward.write(sets[half:])
        await ward.die()
        ward.live()
        await ward.finish()
        await ward.judge()


async def test_after_an_outage_time_comes_first(kafka: Kafka, monkeypatch: pytest.MonkeyPatch) -> None:
    """What came while nobody worked is decided as of now: a state of then, over since, alerts nobody."""
    monkeypatch.setattr(journal, "SKEW", 0.5)  # half a minute of waiting otherwise
    async with Ward(kafka, 1, tick_seconds=0.3, snapshot_seconds=600) as ward:
        await ward.write([patient(0, START)])
        await ward.write(vitals(1, 1, START))
        ward.live()
        ward.feed(PatientEvent, 1)
        await ward.fed_is_done()
        ward.feed(VitalsEvent, 1)
        await ward.fed_is_done()
        await ward.die()
        await asyncio.sleep(2.0)  # longer than a tick and the clocks' difference
        began, ward.time = ward.time, ward.time + timedelta(minutes=40)
        bad, well = breathless(0, 1, began + timedelta(minutes=5)), next(vitals(1, 1, began + timedelta(minutes=38), seed=2))
        await ward.write([bad, well])
        ward.live()
        await ward.finish()
        await ward.judge()
        bodies = [body for copies in (await ward.published()).values() for body in copies]
        assert not [body for body in bodies if body.get("kind") == "news2"]
        assert [body for body in bodies if body.get("kind") == "monitoring-blind"]
        flags = {body["observed_at"]: body["flags"] for body in bodies if "deterioration_reason" in body}
        assert ["catching-up" in flags[orjson.loads(one.model_dump_json())["observed_at"]] for one in (bad, well)] == [
            True,
            True,
        ]


async def test_time_goes_on_where_the_log_ends_in_an_aborted_transaction(kafka: Kafka) -> None:
    """Nobody waits for a record at an offset that holds none."""
    async with Ward(kafka, 1, tick_seconds=0.2, snapshot_seconds=600) as ward:
        await ward.write([patient(0, START)])
        await ward.write(vitals(1, 1, START))
        ward.live()
        ward.feed(PatientEvent, 1)
        ward.feed(VitalsEvent, 1)
        await ward.fed_is_done()
        await ward.die()
        producer = AIOKafkaProducer(bootstrap_servers=kafka.bootstrap, transactional_id=ward.prefix)
        await producer.start()
        await producer.begin_transaction()
        await producer.send_and_wait(ward.prefix + VitalsEvent.topic, b"never", partition=0)
        await producer.abort_transaction()
        await producer.stop()
        ward.live()
        assert ward.worker is not None
        worker = ward.worker
        await until(lambda: worker._machine.entry, what="the state is restored")
        entry = worker._machine.entry
        await until(lambda: worker._machine.entry > entry + 2, what="time goes on")


def ill(number: int, now: datetime, step: int) -> VitalsEvent:
    """A set of somebody whose NEWS2 is 8, observed and received just now."""
    return VitalsEvent(
        id=natural_id("test-ill", number, step),
        patient_id=patient(number, START).patient_id,
        observed_at=now,
        received_at=now,
        observations=tuple(observation(name, value) for name, value in ILL.items()),
        origin=Origin(protocol="hl7v2", peer="test-monitor"),
    )


@pytest.mark.parametrize("seed", range(2))
async def test_with_a_clock_that_jumps_it_says_what_an_undisturbed_run_says_and_alerts_when_the_clock_is_right(
    kafka: Kafka, seed: int
) -> None:
    """The worker's host is set wrong, now in flight, now before a start; at last from ten days ahead."""
    patients, lives = 24, 8
    jumps = [timedelta(minutes=30), timedelta(hours=2), timedelta(days=10), -timedelta(hours=1), timedelta(), timedelta()]
    async with Ward(kafka, seed, steps=ClockSettings(step_seconds=60, hold_seconds=0.1)) as ward:
        await ward.write([patient(number, START) for number in range(patients)])
        sets = list(vitals(patients, 30, START, every=timedelta(seconds=40), seed=seed))
        for life in range(lives):
            ward.wrong = ward.random.choice(jumps)
            ward.live()
            ward.feed(VitalsEvent, 1_000_000)  # what the log holds comes before any tick of this life
            await ward.live_for_a_while()
            ward.wrong = ward.random.choice(jumps)
            await ward.write(sets[life * len(sets) // lives : (life + 1) * len(sets) // lives])
            await ward.write(contexts(patients, ward.random, life))
            await ward.live_for_a_while()
            await ward.die()
        for wrong in (timedelta(days=10), timedelta()):  # of the last life but one the journal keeps a time to come
            await ward.die()
            ward.wrong = wrong
            ward.live()
            ward.feed(VitalsEvent, 1_000_000)
            await until(lambda: logs_its_clock(ward), what="the host's clock is logged")
        since = ward.time
        await ward.write([patient(patients, START)])
        ward.feed(PatientEvent, 1_000)
        await ward.fed_is_done()
        await ward.write([ill(patients, ward.time, 0)])
        await ward.finish()
        await ward.judge()
        raised = [
            copies[0]
            for copies in (await ward.published()).values()
            if copies[0].get("state") == "raised" and copies[0]["patient_id"] == patient(patients, START).patient_id
        ]
        assert [one["kind"] for one in raised] == ["news2"]
        assert since <= datetime.fromisoformat(raised[0]["decided_at"]) <= ward.time
        now = [datetime.fromisoformat(one["now"]) for one in await ward.history()]
        assert sum(later < earlier - timedelta(minutes=1) for earlier, later in pairwise(now)) >= 1


def logs_its_clock(ward: Ward) -> bool:
    assert ward.worker is not None
    assert ward.task is not None
    if ward.task.done():
        ward.task.result()
    now = ward.worker._machine.monitor.now
    return now is not None and abs(now - ward.time - ward.wrong) < timedelta(minutes=1)


async def said_scores(ward: Ward, number: int) -> bool:
    found = await ward.published()
    return sum("deterioration_reason" in copies[0] for copies in found.values()) == number


async def test_how_late_a_feed_is_stands_in_the_metrics_of_who_has_the_partition(kafka: Kafka) -> None:
    async with Ward(kafka, 7) as ward:
        sets = [
            one.model_copy(update={"received_at": one.observed_at + timedelta(hours=2)})
            for one in vitals(1, 6, START, every=timedelta(seconds=40), seed=7)
        ]
        shown = f'vigil_feed_behind_seconds{{lane="vitals",partition="0",peer="{sets[0].origin.peer}"}} 7200.0'
        ward.time += timedelta(hours=2)
        await ward.write([patient(0, START)])
        await ward.write(sets)
        ward.live()
        for kind in (PatientEvent, VitalsEvent):
            ward.feed(kind, 10)
        await ward.fed_is_done()
        await until(lambda: shown in generate_latest(ward.metrics.registry).decode(), what="the feed's lateness is shown")
        assert 'vigil_events_total{kind="set-late",lane="vitals"} 6.0' in generate_latest(ward.metrics.registry).decode()
        assert ward.worker is not None
        ward.worker.close()
        assert "vigil_feed_behind_seconds{" not in generate_latest(ward.metrics.registry).decode()
        await ward.die()
        await ward.judge()


async def lose_the_journal(ward: Ward) -> None:
    await asyncio.to_thread(ward.kafka.make_anew, ward.prefix + JOURNAL, 1)


async def steps_of(ward: Ward, kind: str = "news2") -> list[dict[str, Any]]:
    """The steps of alerts, in the order of their writing."""
    records = await asyncio.to_thread(ward.kafka.read, ward.prefix + "clinical.alerts")
    return [body for body in (orjson.loads(record.value) for record in records) if body.get("kind") == kind]


def answer(step: dict[str, Any], kind: Any, at: datetime, number: int = 0) -> FeedbackEvent:
    return FeedbackEvent(
        id=natural_id("test-answer", step["alert_id"], kind, number),
        patient_id=step["patient_id"],
        kind=kind,
        target_id=step["alert_id"],
        by="nurse-7",
        given_at=at,
        received_at=at,
        origin=Origin(protocol="vigil", peer="test-pager"),
    )


@pytest.mark.parametrize("again", [False, True], ids=["once", "and killed at once"])
async def test_a_journal_that_is_lost_takes_no_answer_back_and_says_nothing_twice(kafka: Kafka, again: bool) -> None:
    """One alert was acknowledged, one was escalated, one was declined, one waits: those that nobody answered climb on."""
    async with Ward(kafka, 7, tick_seconds=0.1, snapshot_seconds=600) as ward:
        await ward.write([patient(number, START) for number in range(4)])
        ward.live()
        ward.feed(PatientEvent, 4)
        await ward.fed_is_done()
        await ward.write([ill(number, ward.time, 0) for number in range(3)])
        ward.feed(VitalsEvent, 10)
        await ward.fed_is_done()
        raised = {step["patient_id"]: step for step in await steps_of(ward)}
        acknowledged, escalated, declined, waits = (patient(number, START).patient_id for number in range(4))
        await ward.write([answer(raised[acknowledged], "alert-acknowledged", ward.time)])
        # Of an emergency the first two are passed on, to each link of the chain.
        await ward.write([answer(raised[declined], "alert-declined", ward.time, number) for number in range(3)])
        ward.feed(FeedbackEvent, 10)
        await ward.fed_is_done()
        ward.time += timedelta(minutes=4, seconds=30)  # less than an outage
        await until_said(ward, lambda steps: any(s["patient_id"] == escalated and s["state"] == "escalated" for s in steps))
        await ward.write([ill(3, ward.time, 0)])
        ward.feed(VitalsEvent, 10)
        await ward.fed_is_done()
        await ward.die()
        before = await steps_of(ward)
        assert {step["patient_id"]: step["state"] for step in before} == {
            acknowledged: "acknowledged",
            escalated: "escalated",
            declined: "declined",
            waits: "raised",
        }
        await lose_the_journal(ward)
        ward.live()
        if again:
            assert ward.worker is not None
            await until(lambda: logs_its_clock(ward), what="the first tick")
            await ward.die()
            ward.live()
        await until(lambda: logs_its_clock(ward), what="time goes on")
        ward.time += timedelta(minutes=5)
        await until_said(ward, lambda steps: any(s["patient_id"] == waits and s["state"] == "escalated" for s in steps))
        await ward.finish()
        after = await steps_of(ward)
        assert after[: len(before)] == before
        new = after[len(before) :]
        assert {step["state"] for step in new} == {"escalated"}
        assert waits in {step["patient_id"] for step in new} <= {escalated, waits}
        assert len({step["id"] for step in after}) == len(after)
        for name in (escalated, waits):
            mine = [step for step in after if step["patient_id"] == name]
            assert [step["sequence"] for step in mine] == list(range(len(mine)))
            assert len({step["alert_id"] for step in mine}) == 1
        assert ward.metrics.registry.get_sample_value("vigil_events_total", {"lane": "vitals", "kind": "journal-lost"}) == 1


async def test_what_was_not_committed_when_the_journal_was_lost_is_said_once_and_taken_once(kafka: Kafka) -> None:
    async with Ward(kafka, 7, tick_seconds=0.1, snapshot_seconds=600) as ward:
        await ward.write([patient(number, START) for number in range(3)])
        ward.live()
        ward.feed(PatientEvent, 3)
        await ward.write([ill(0, ward.time, 0)])
        ward.feed(VitalsEvent, 1)
        await ward.fed_is_done()
        (raised,) = await steps_of(ward)
        await ward.write([answer(raised, "alert-acknowledged", ward.time)])
        await ward.write([answer(raised, "alert-answer-retracted", ward.time)])
        await ward.write([ill(1, ward.time, 0), ill(2, ward.time, 0)])
        ward.feed(FeedbackEvent, 2)
        ward.feed(VitalsEvent, 2)
        before = await until_said(ward, lambda steps: len(steps) == 5)
        await ward.die()
        await lose_the_journal(ward)
        ward.live()
        for kind in INPUTS:
            ward.feed(kind, 100)
        await until(lambda: logs_its_clock(ward), what="time goes on")
        await ward.die()  # killed while it takes them once more
        ward.live()
        await ward.finish()
        assert await steps_of(ward) == before
        for copies in (await ward.published()).values():
            assert all(copy == copies[0] for copy in copies), "one id says two things"


async def until_said(ward: Ward, enough: Any) -> list[dict[str, Any]]:
    async with asyncio.timeout(30):
        while not enough(steps := await steps_of(ward)):  # noqa: ASYNC110  what is waited for is on a topic
            await asyncio.sleep(0.2)
    return steps


async def test_a_journal_made_anew_under_a_worker_ends_it_before_it_writes_half_a_state(kafka: Kafka) -> None:
    async with Ward(kafka, 7, tick_seconds=0.1, snapshot_seconds=600) as ward:
        await ward.write([patient(number, START) for number in range(3)])
        ward.live()
        ward.feed(PatientEvent, 4)
        await ward.fed_is_done()
        await ward.write([ill(number, ward.time, 0) for number in range(2)])
        ward.feed(VitalsEvent, 10)
        await ward.fed_is_done()
        await a_snapshot(ward)
        before = await steps_of(ward)
        anew = asyncio.create_task(asyncio.to_thread(ward.kafka.make_anew, ward.prefix + JOURNAL, 1, absent=3.0))
        await until(lambda: ward.outbox.missing() == {ward.prefix + JOURNAL}, what="it is named while it is not there")
        await anew
        task = ward.task
        assert task is not None
        await until(task.done, what="the worker has ended")
        assert isinstance(task.exception(), Superseded)
        ward.task = None
        await ward.scoring.stop()
        await ward.write([ill(2, ward.time, 0)])
        ward.live()
        await ward.finish()
        after = await steps_of(ward)
        assert after[:2] == before and [step["state"] for step in after] == ["raised"] * 3
        assert ward.metrics.registry.get_sample_value("vigil_events_total", {"lane": "vitals", "kind": "journal-lost"}) == 1


VERSIONS = count()


def another_version(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the code be another's from the next life on."""
    version = str(next(VERSIONS))
    monkeypatch.setattr(stamp, "_code", lambda: version)


@pytest.mark.parametrize("seed", range(3))
async def test_versions_that_decide_alike_say_what_one_undisturbed_run_says(
    kafka: Kafka, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed at random and restored by another version each time, which goes by what was told: nothing is lost or said twice."""
    patients = 24
    async with Ward(kafka, 70 + seed, tick_seconds=[0.03, 0.3][seed % 2]) as ward:
        await ward.write([patient(number, START) for number in range(patients)])
        sets = list(vitals(patients, 40, START, every=timedelta(seconds=40), seed=seed))
        lives = 14
        for life in range(lives):
            await ward.write(sets[life * len(sets) // lives : (life + 1) * len(sets) // lives])
            another_version(monkeypatch)
            ward.live()
            await ward.live_for_a_while()
            await ward.die()
        another_version(monkeypatch)
        ward.live()
        await ward.finish()
        await ward.judge()


async def raised_and_killed(ward: Ward, *, committed: bool) -> dict[str, Any]:
    """Have an alert raised upon a set of 50 minutes ago, after the last snapshot, and stop the worker at once; return the step."""
    await ward.write([patient(number, START) for number in range(3)])
    ward.live()
    ward.feed(PatientEvent, 10)
    await ward.fed_is_done()
    await a_snapshot(ward)
    old = ill(0, ward.time - timedelta(minutes=50), 0)
    await ward.write([old.model_copy(update={"received_at": ward.time})])
    ward.feed(VitalsEvent, 10)
    (step,) = await until_said(ward, bool)
    if committed:
        await ward.fed_is_done()
    await ward.die()
    return step


STALE_SOONER = {"staleness": timedelta(minutes=45)}


@pytest.mark.parametrize("committed", [True, False], ids=["committed", "not committed"])
@pytest.mark.parametrize("course", ["goes on", "killed again", "back to the old rules"])
async def test_what_was_told_stays_told_under_other_rules(kafka: Kafka, committed: bool, course: str) -> None:
    """It climbs on, it can be answered, it is not told once more, whoever has the partition until the next snapshot."""
    async with Ward(kafka, 7, tick_seconds=0.1, snapshot_seconds=600) as ward:
        rules = ward.rules = ward.rules.model_copy(update={"queue_age": timedelta(hours=2)})
        told = await raised_and_killed(ward, committed=committed)
        ward.rules = rules.model_copy(update=STALE_SOONER)
        for _ in range({"goes on": 1, "killed again": 2, "back to the old rules": 1}[course]):
            ward.live()
            assert ward.worker is not None
            ward.worker._snapshots.due = float("inf") if course != "goes on" else 0.0
            ward.feed(VitalsEvent, 10)
            await ward.fed_is_done()
            await until(lambda: logs_its_clock(ward), what="time goes on")
            if course != "goes on":
                await ward.die()
        if course != "goes on":
            ward.rules = ward.rules if course == "killed again" else rules
            ward.live()
            await until(lambda: logs_its_clock(ward), what="time goes on")
        ward.time += timedelta(minutes=5)
        steps = await until_said(ward, lambda steps: steps[-1]["state"] == "escalated")
        await ward.write([answer(told, "alert-acknowledged", ward.time)])
        ward.feed(FeedbackEvent, 10)
        steps = await until_said(ward, lambda steps: steps[-1]["state"] == "acknowledged")
        await ward.finish()
        steps = list({step["id"]: step for step in await steps_of(ward)}.values())
        assert [step["state"] for step in steps] == ["raised", "escalated", "acknowledged"]
        assert [step["sequence"] for step in steps] == [0, 1, 2]
        assert {step["alert_id"] for step in steps} == {told["alert_id"]}
        unmatched = {"lane": "vitals", "kind": "unmatched-feedback"}
        assert not ward.metrics.registry.get_sample_value("vigil_events_total", unmatched)


async def test_what_other_rules_would_have_raised_is_told_and_not_only_believed(kafka: Kafka) -> None:
    """A replay that took it for raised would keep it from everybody."""
    async with Ward(kafka, 7, tick_seconds=0.1, snapshot_seconds=600) as ward:
        rules = ward.rules
        ward.rules = rules.model_copy(update={"high_total": 20, "medium_total": 19, "single_three": False})
        await ward.write([patient(0, START)])
        ward.live()
        ward.feed(PatientEvent, 10)
        await ward.fed_is_done()
        await a_snapshot(ward)
        await ward.write([ill(0, ward.time, 0)])
        ward.feed(VitalsEvent, 10)
        await ward.fed_is_done()
        await ward.die()
        assert await steps_of(ward) == []
        ward.rules = rules
        ward.live()
        (step,) = await until_said(ward, bool)
        assert step["state"] == "raised"
        await ward.finish()
        assert len(await steps_of(ward)) == 1


async def test_a_journal_of_before_stamps_is_of_another_version(kafka: Kafka, monkeypatch: pytest.MonkeyPatch) -> None:
    async with Ward(kafka, 7, tick_seconds=0.1, snapshot_seconds=600) as ward:
        ward.rules = ward.rules.model_copy(update={"queue_age": timedelta(hours=2)})
        with monkeypatch.context() as older:
            older.setattr(monitoring, "stamp", lambda monitor: "")  # read like none
            older.setattr(journal.Journal, "sign", lambda *_: asyncio.sleep(0))
            told = await raised_and_killed(ward, committed=True)
        ward.rules = ward.rules.model_copy(update=STALE_SOONER)
        ward.live()
        await until(lambda: logs_its_clock(ward), what="time goes on")
        ward.time += timedelta(minutes=5)
        steps = await until_said(ward, lambda steps: steps[-1]["state"] == "escalated")
        assert [step["alert_id"] for step in steps] == [told["alert_id"]] * 2
        await ward.finish()


async def test_a_restore_by_the_same_rules_reads_no_alerts(kafka: Kafka, monkeypatch: pytest.MonkeyPatch) -> None:
    async with Ward(kafka, 7, tick_seconds=0.1, snapshot_seconds=600) as ward:
        await raised_and_killed(ward, committed=True)
        monkeypatch.setattr(Restoring, "_as_told", None)  # to ask for it would raise
        for _ in range(2):
            ward.live()
            await until(lambda: logs_its_clock(ward), what="time goes on")
            await ward.die()
