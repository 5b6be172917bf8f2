"""What a set of vitals costs, stage by stage, in one process: `python -m tests.bench profile`.

The lane's own parts run one after the other over batches as the worker runs them, on the local Kafka. Cost is CPU time of the
process (all its threads), so that a busy machine hardly changes it; "at most" is what one core could do if nothing else were to do.
"""

import asyncio
import gc
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition

from models.registry import Registry
from processors.events import TOPICS, PatientEvent, Source, VitalsEvent
from processors.monitor import Monitor
from streams.audit import prediction_audit
from streams.collector import Collector
from streams.kafka import aiokafka_config
from streams.ledger import Ledger
from streams.metrics import LaneMetrics
from streams.outbox import Outbox
from streams.scoring import Scoring
from streams.settings import Settings
from streams.wire import decode, iso, traceparent_of
from tests.bench.rate import create, encoded, fill
from tests.vitals import patient, vitals

PREFIX = "profile."
PATIENTS = 500
STAGES = ("intake", "decode", "observe", "score", "decide", "encode", "audit", "send")


@dataclass
class Costs:
    """CPU and wall seconds by stage."""

    sets: int = 0
    cpu: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    wall: dict[str, float] = field(default_factory=lambda: defaultdict(float))

    @contextmanager
    def of(self, stage: str) -> Iterator[None]:
        cpu, wall = time.process_time(), time.perf_counter()
        try:
            yield
        finally:
            self.cpu[stage] += time.process_time() - cpu
            self.wall[stage] += time.perf_counter() - wall

    def each(self, stage: str) -> float:
        """CPU microseconds a set."""
        return self.cpu[stage] / self.sets * 1e6

    def summary(self) -> dict[str, Any]:
        total = sum(self.each(stage) for stage in STAGES)
        return {
            "sets": self.sets,
            "cpu_us_per_set": {stage: round(self.each(stage), 2) for stage in STAGES},
            "wall_us_per_set": {stage: round(self.wall[stage] / self.sets * 1e6, 2) for stage in STAGES},
            "cpu_us_per_set_total": round(total, 2),
            "sets_per_core_second_at_most": round(1e6 / total),
        }


async def run(bootstrap: str, *, sets: int = 40_000, batch: int = 1024, warm: int = 5_000) -> dict[str, Any]:
    """Profile `sets` sets after `warm` unmeasured ones."""
    settings = Settings(kafka={"bootstrap": bootstrap, "topic_prefix": PREFIX})
    create(bootstrap, [PREFIX + topic for topic in TOPICS], 1)
    now = datetime.now(UTC)
    steps = -(-(warm + sets + batch) // PATIENTS)
    start = now - timedelta(minutes=45)
    fill(bootstrap, f"{PREFIX}clinical.vitals", encoded(vitals(PATIENTS, steps, start, every=timedelta(minutes=44) / steps)))
    costs, unmeasured = Costs(), Costs()
    lane = await _Lane.open(settings, now)
    consumer = AIOKafkaConsumer(
        **aiokafka_config(settings.kafka),
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        isolation_level="read_committed",
    )
    await consumer.start()
    gc.collect()
    Collector()
    try:
        tp = TopicPartition(f"{PREFIX}clinical.vitals", 0)
        consumer.assign([tp])
        await consumer.seek_to_beginning(tp)
        while costs.sets < sets:
            now_measured = costs if unmeasured.sets >= warm else unmeasured
            with now_measured.of("intake"):
                records = [r for found in (await consumer.getmany(timeout_ms=2000, max_records=batch)).values() for r in found]
                if not records:
                    continue
                piece = lane.ledger.enter(records)
            await lane.work(records, now_measured)
            with now_measured.of("intake"):
                piece.settle()
                lane.ledger.forget(lane.ledger.settled_end() or 0)
            now_measured.sets += len(records)
    finally:
        await consumer.stop()
        await lane.close()
    return costs.summary()


class _Lane:
    """The stages of `streams.monitoring.MonitorWorker._work`, apart."""

    def __init__(self, settings: Settings, outbox: Outbox, scoring: Scoring, monitor: Monitor) -> None:
        self.settings, self.outbox, self.scoring, self.monitor = settings, outbox, scoring, monitor
        self.ledger = Ledger(TopicPartition("clinical.vitals", 0), asyncio.Event())

    @classmethod
    async def open(cls, settings: Settings, now: datetime) -> "_Lane":
        outbox = Outbox(settings, source="/vigil/bench/lanes/vitals")
        await outbox.start()
        scoring = Scoring(Registry.load().open("deterioration"), settings.models, LaneMetrics("profile"))
        monitor = Monitor(settings.monitor, model=scoring.identity)
        source = Source(topic=PatientEvent.topic, partition=0, offset=0, event_id="start")
        for number in range(PATIENTS):
            monitor.patient(patient(number, now - timedelta(hours=1)), source)
        monitor.tick(now, source)
        return cls(settings, outbox, scoring, monitor)

    async def work(self, records: Sequence[Any], costs: Costs) -> None:
        outbox, monitor = self.outbox, self.monitor
        with costs.of("decode"):
            taken = []
            for record in records:
                event = decode(VitalsEvent, record)
                source = Source(topic=VitalsEvent.topic, partition=record.partition, offset=record.offset, event_id=event.id)
                taken.append((record, event, source))
        with costs.of("observe"):
            assessments = [monitor.observe(event, source) for _, event, source in taken]
        with costs.of("score"):
            scores = await self.scoring.score(assessments)
        with costs.of("decide"):
            said = [monitor.decide(made, *scored) for made, scored in zip(assessments, scores, strict=True)]
        with costs.of("encode"):
            now = iso(datetime.now(UTC))
            messages = [
                outbox.encode(out, time=now, traceparent=traceparent_of(record))
                for (record, _, _), events in zip(taken, said, strict=True)
                for out in events
            ]
        with costs.of("audit"):
            audit = prediction_audit(
                [
                    self.scoring.audit_entry(event.id, event.patient_id, record, out)
                    for (record, event, _), out in zip(taken, said, strict=True)
                ],
                agent="vitals@bench-0",
                subject="clinical.vitals/0",
                first_offset=records[0].offset,
                last_offset=records[-1].offset,
                model=self.scoring.identity,
                recorded_at=datetime.now(UTC),
            )
            messages.append(outbox.encode(audit, time=iso(datetime.now(UTC))))
        with costs.of("send"):
            await outbox.send(messages)

    async def close(self) -> None:
        await self.scoring.stop()
        await self.outbox.stop()
