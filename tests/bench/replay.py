"""A replay under live load: how long a live note takes to its entities before, while and after thousands of others are replayed.

The notes to be replayed stand on the topic, and the lane's group has committed past them, as if it had done them once. Live notes
come at a fixed rate, whatever becomes of the ones before. A latency is the time from writing a note to when the broker took its
entities. The replay is `vigil replay run` as an operator types it, which yields to live traffic by itself.
"""

import threading
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import count, pairwise
from typing import Any

import numpy as np
import orjson
from confluent_kafka import Consumer, Producer, TopicPartition

from tests import load
from tests.bench.programs import Program, lane
from tests.bench.rate import encoded, fill
from tests.bench.stage import Site, Stage

_NOTES, _ENTITIES = "clinical.notes", "clinical.entities"
_NICE = {"VIGIL_LANES__NOTES_ENTITIES__NICE": "0"}  # as in `notes`: on a machine that does nothing else it changes nothing
_PATIENCE = 120.0  # seconds that the last live notes may take


@dataclass
class _Live:
    """Notes written at a fixed rate by a thread, until stopped; `sent` keeps when, by the event's id."""

    site: Site
    rate: float
    sent: dict[str, float] = field(default_factory=dict)
    stop: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        """Write."""
        producer = Producer({"bootstrap.servers": self.site.bootstrap, "acks": "all", "linger.ms": 0, "log_level": 2})
        begun = time.time()
        for group in count():
            for number, note in enumerate(load.notes(700_000 + group, 1000)):
                due = begun + (group * 1000 + number) / self.rate
                if self.stop.wait(max(0.0, due - time.time())):
                    producer.flush()
                    return
                value = note.model_dump_json().encode()
                self.sent[note.id] = time.time()
                producer.produce(self.site.topic(_NOTES), value, note.patient_id.encode())
                producer.poll(0)


def replayed(stage: Stage) -> dict[str, Any]:
    """Return the percentiles of the three phases (s), and how long the replay took."""
    return stage.once("replay", lambda: _replayed(stage))


def _replayed(stage: Stage) -> dict[str, Any]:
    site, sizes = stage.site("replay", _NICE), stage.sizes
    fill(site.bootstrap, site.topic(_NOTES), encoded(load.notes(600, sizes.replayed_notes)))
    _done_once(site)
    time.sleep(1.0)  # the command line takes whole seconds
    until = datetime.now(UTC)
    live = _Live(site, sizes.live_notes_per_s)
    writer = threading.Thread(target=live.run, daemon=True)
    marks: list[float] = []
    with lane("notes-entities", site.env, site.folder) as worker:
        worker.until_ready()
        writer.start()
        try:
            time.sleep(sizes.live_seconds / 2)  # the model warms up
            marks.append(time.time())
            time.sleep(sizes.live_seconds)
            marks.append(time.time())
            _replay(site, until, sizes.replayed_notes)
            marks.append(time.time())
            time.sleep(sizes.live_seconds)
            marks.append(time.time())
        finally:
            live.stop.set()
            writer.join(30)
        arrived = _arrivals(site, live.sent, worker)
    phases = dict(zip(("before", "during", "after"), pairwise(marks), strict=True))
    found: dict[str, Any] = {name: _summary(live.sent, arrived, *span) for name, span in phases.items()}
    seconds = round(marks[2] - marks[1], 1)
    stage.say(
        f"replay of {sizes.replayed_notes:,} notes in {seconds:.0f} s: live p99 {found['before']['p99']:.2f} s before, "
        f"{found['during']['p99']:.2f} s during, {found['after']['p99']:.2f} s after"
    )
    return {**found, "notes": sizes.replayed_notes, "seconds": seconds, "live_per_s": sizes.live_notes_per_s}


def _done_once(site: Site) -> None:
    """Commit the ends of the topic for the lane's group, before it runs."""
    group = Consumer({"bootstrap.servers": site.bootstrap, "group.id": site.group("notes-entities"), "log_level": 2})
    topic = site.topic(_NOTES)
    numbers = group.list_topics(topic, timeout=30).topics[topic].partitions
    ends = [TopicPartition(topic, n, group.get_watermark_offsets(TopicPartition(topic, n), timeout=10)[1]) for n in numbers]
    group.commit(offsets=ends, asynchronous=False)
    group.close()


def _replay(site: Site, until: datetime, notes: int) -> None:
    asked = ["--topic", _NOTES, "--until", f"{until.astimezone():%Y-%m-%dT%H:%M:%S}", "--limit", str(notes)]
    rest = ["--resume", str(site.folder / "progress"), "--reason", "bench", "--yes"]
    with Program(["-m", "streams.cli", "replay", "run", *asked, *rest], site.env, site.folder / "replay.log") as program:
        if program.process.wait(4 * 3600):
            program.check()
        said = program.log.read_text()
    if f"{notes} replayed" not in said:
        raise RuntimeError(f"not all were replayed:\n{said[-2000:]}")


def _arrivals(site: Site, sent: dict[str, float], worker: Program) -> dict[str, float]:
    """Return when the broker took the first entities of each live note; fails when one is missing."""
    reader = Consumer({"bootstrap.servers": site.bootstrap, "group.id": f"bench-{time.time_ns()}", "log_level": 2})
    topic = site.topic(_ENTITIES)
    reader.assign([TopicPartition(topic, n, 0) for n in reader.list_topics(topic, timeout=30).topics[topic].partitions])
    found: dict[str, float] = {}
    deadline = time.monotonic() + _PATIENCE
    try:
        while len(found) < len(sent):
            worker.check()
            if time.monotonic() > deadline:
                raise RuntimeError(f"{len(sent) - len(found)} of {len(sent)} live notes have no entities")
            for message in reader.consume(5000, timeout=2.0):
                event_id = orjson.loads(message.value())["source"]["event_id"]
                if event_id in sent:
                    found.setdefault(event_id, message.timestamp()[1] / 1000)
    finally:
        reader.close()
    return found


def _summary(sent: dict[str, float], arrived: dict[str, float], begin: float, end: float) -> dict[str, float]:
    seconds = [arrived[one] - at for one, at in sent.items() if begin <= at < end]
    p50, p99, most = (round(float(np.percentile(seconds, which)), 3) for which in (50, 99, 100))
    return {"notes": len(seconds), "p50": p50, "p99": p99, "max": most}
