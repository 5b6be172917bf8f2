"""vitals -> scores -> alerts: the lane that meets vitals, patients, feedback and time. The deciding is `processors.monitor`."""

import asyncio
import logging
from collections import defaultdict
from collections.abc import Iterable
from typing import get_args

from aiokafka import TopicPartition

from models.drift import Drift
from models.errors import Fatal, Permanent
from models.registry import Registry
from processors.events import AlertState, FeedbackEvent, PatientEvent, VitalsEvent
from processors.monitor import Monitor
from streams.audit import drift_audit, recorder
from streams.clock import Clock, SteadyClock
from streams.drifting import watch
from streams.inference import open_model
from streams.intake import Intake
from streams.journal import TOPIC as JOURNAL
from streams.metrics import LaneMetrics
from streams.monitoring import MonitorWorker, Rounds
from streams.outbox import Outbox
from streams.partition import Worker
from streams.scoring import Scoring
from streams.settings import Settings
from streams.tracing import Tracing

log = logging.getLogger("vigil.vitals")

_COUNTED = (
    *("unmatched-feedback", "score-late", "score-failed", "set-late", *(f"alert-{state}" for state in get_args(AlertState))),
    "unmatched-retraction",
    *("clock-step", "clock-followed", "clock-refused", "time-set-back", "output-too-large", "state-too-large", "journal-lost"),
)
_AT_ONCE = 2  # partitions that decide: while one waits for the model, the other decodes


class VitalsJob:
    """The vitals lane as the engine runs it: one worker for each partition number."""

    name = "vitals"

    def __init__(self, settings: Settings, outbox: Outbox, metrics: LaneMetrics, clock: Clock) -> None:
        self._settings = settings
        self._outbox = outbox
        self._metrics = metrics
        self._clock = clock
        self._tracing = Tracing(settings.tracing, self.name)
        self._scoring: Scoring | None = None
        self._used = 0  # partitions of the topics that meet
        self._room = asyncio.Semaphore(_AT_ONCE)
        self._rounds = Rounds(settings.engine.gather)
        self._logged = SteadyClock(clock, settings.clock, count=metrics.event)  # of all partitions: more witnesses
        metrics.expect(_COUNTED)

    @property
    def topics(self) -> tuple[str, ...]:
        """Return the topics that meet."""
        return (VitalsEvent.topic, PatientEvent.topic, FeedbackEvent.topic)

    @property
    def needs(self) -> tuple[str, ...]:
        """Return these and the journal."""
        return (*self.topics, JOURNAL)

    @property
    def batch_records(self) -> int:
        """Return the records of one batch at most."""
        return self._settings.lanes.vitals.batch_records

    async def open(self) -> None:
        """Check that the topics can meet, load the model; where none can be had, NEWS2 stands alone, labelled so."""
        prefix = self._settings.kafka.topic_prefix
        counts = {topic: await self._outbox.partitions(prefix + topic) for topic in self.needs}
        if len(set(counts.values())) != 1:
            raise Fatal(
                f"vitals: topics that meet differ in partitions: {counts}",
                hint=f"set topics.partitions to {min(counts.values())}: of more, the others' further ones stay empty then",
            )
        self._used = counts[VitalsEvent.topic]
        try:
            model = await open_model(self._settings.models, "deterioration")
        except (Permanent, Fatal) as error:
            # A registry that names what is not there, or a damaged file of weights, is no reason to watch nobody.
            log.error("vitals: no deterioration model (%s): NEWS2 stands alone", error)
            model = None
        self._metrics.serves("deterioration", "champion", model.identity if model else None)
        drift = await self._watched() if model else None
        self._scoring = Scoring(model, self._settings.models, self._metrics, drift)

    async def _watched(self) -> Drift | None:
        registry = await asyncio.to_thread(Registry.load, self._settings.models.registry)
        entry = registry.entry("deterioration")
        remark = recorder(drift_audit, self._outbox, self._settings.worker.agent(self.name), self._clock)
        return watch(self._settings.models, self._metrics, entry, registry.folder(entry), lambda: remark)

    async def close(self) -> None:
        """End the model's thread."""
        self._tracing.stop()
        if self._scoring:
            await self._scoring.stop()

    def workers(self, partitions: Iterable[TopicPartition], intake: Intake) -> dict[TopicPartition, Worker]:
        """Return one worker for each partition number, shared by the topics that meet."""
        assert self._scoring is not None
        numbers: dict[int, list[TopicPartition]] = defaultdict(list)
        for tp in partitions:
            numbers[tp.partition].append(tp)
        workers: dict[TopicPartition, Worker] = {}
        if beyond := sorted(number for number in numbers if number >= self._used):
            log.error(
                "vitals: partitions %s were added: the settings (topics.partitions) spread patients over %d, so nothing of Vigil's "
                "comes there, and whatever else does is not read",
                beyond, self._used,
            )  # fmt: skip
        for number, meeting in numbers.items():
            if number >= self._used:
                continue
            if len(meeting) != len(self.topics):
                log.error(
                    "vitals: assigned only %s of partition %d: it waits for the rest",
                    sorted(tp.topic for tp in meeting),
                    number,
                )
                continue
            worker = MonitorWorker(
                number,
                settings=self._settings,
                outbox=self._outbox,
                intake=intake,
                metrics=self._metrics,
                clock=self._clock,
                scoring=self._scoring,
                new_monitor=self._new_monitor,
                agent=self._settings.worker.agent(self.name),
                tracing=self._tracing,
                room=self._room,
                rounds=self._rounds,
                logged=self._logged,
            )
            workers.update(dict.fromkeys(meeting, worker))
        return workers

    def _new_monitor(self, number: int) -> Monitor:
        assert self._scoring is not None
        return Monitor(self._settings.monitor, partition=number, model=self._scoring.identity)
