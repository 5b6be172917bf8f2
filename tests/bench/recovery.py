"""How long a lane is away after SIGKILL of its worker: from the signal to the first score of a set that was written after it.
And what sets of vitals wait while the lane's workers are upgraded one after the other.

Vitals come at a fixed rate whether anybody reads them or not. The worker is killed at a random moment between two snapshots of its
state, and started again after the second that `vigil up` waits; it imports, joins the group, restores its state and scores. When it
scored is the broker's own timestamp of the score. So the figure holds everything that an operator waits for, and the
backlog's first set.
"""

import random
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import count
from statistics import median
from typing import Any

import numpy as np
import orjson
from confluent_kafka import Consumer, Producer, TopicPartition

from tests.bench.programs import lane, until_shared
from tests.bench.rate import encoded, fill
from tests.bench.stage import PARTITIONS, Site, Stage
from tests.vitals import patient, vitals

PATIENTS = 100
RATE = 50.0  # sets a second
_SUPERVISED = 1.0  # seconds until `vigil up` starts again what ended
_PATIENCE = 120.0  # seconds after which a round counts as failed


@dataclass(frozen=True, slots=True)
class Kill:
    """Seconds until scores came again, and of those the CPU seconds that the new worker needed: on a busy machine, much less."""

    seconds: float
    cpu: float


def kills(stage: Stage) -> list[Kill]:
    """Return the rounds."""
    return stage.once("recovery", lambda: _kills(stage))


def summary(found: list[Kill]) -> dict[str, Any]:
    """Return what stands behind the median."""
    rounds = [one.seconds for one in found]
    ordered = sorted(rounds)
    return {
        "rounds": [round(one, 2) for one in rounds],
        "cpu_s": [round(one.cpu, 2) for one in found],
        "fastest": round(ordered[0], 2),
        "median": round(median(rounds), 2),
        "slowest": round(ordered[-1], 2),
    }


def _kills(stage: Stage) -> list[Kill]:
    site, rng = stage.site("recovery"), random.Random("recovery")
    found: list[Kill] = []
    fill(site.bootstrap, site.topic("clinical.patients"), encoded(patient(n, datetime.now(UTC)) for n in range(PATIENTS)))
    with _load(site), _Scores(site) as scores:
        worker = lane("vitals", site.env, site.folder)
        try:
            worker.until_ready()
            scores.first_past(scores.ends(), [worker.check])
            for number in range(stage.sizes.kills):
                time.sleep(
                    rng.uniform(1.0, 25.0)
                )  # a snapshot is written every 20 s: sometimes just before, sometimes long before
                worker.process.kill()
                worker.process.wait()
                killed, ends = time.time(), scores.ends()
                time.sleep(_SUPERVISED)
                worker = lane("vitals", site.env, site.folder)
                found.append(Kill(scores.first_past(ends, [worker.check]) - killed, worker.cpu))
                stage.say(
                    f"recovery, kill {number + 1}: scores again after {found[-1].seconds:.1f} s, {found[-1].cpu:.1f} s of CPU"
                )
                worker.until_ready()
        finally:
            worker.stop()
    return found


class _Scores:
    """Looks for scores of sets that were written after some moment."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._consumer = Consumer(
            {
                "bootstrap.servers": site.bootstrap,
                "group.id": f"bench-{time.time_ns()}",
                "enable.auto.commit": False,
                "log_level": 2,
            }
        )
        topic = site.topic("clinical.scores")
        self._consumer.assign([TopicPartition(topic, number, 0) for number in range(PARTITIONS)])

    def ends(self) -> dict[int, int]:
        """Return where the vitals end now, by partition."""
        topic = self._site.topic("clinical.vitals")
        places = [TopicPartition(topic, number) for number in range(PARTITIONS)]
        return {one.partition: self._consumer.get_watermark_offsets(one, timeout=10)[1] for one in places}

    def first_past(self, ends: dict[int, int], alive: list[Any]) -> float:
        """Return when (s since 1970, by the broker) the first score of a set past `ends` was written."""
        deadline = time.monotonic() + _PATIENCE
        while time.monotonic() < deadline:
            for check in alive:
                check()
            for message in self._consumer.consume(1000, timeout=0.2):
                if message.error():
                    raise RuntimeError(str(message.error()))
                source = orjson.loads(message.value())["source"]
                if source["offset"] >= ends[source["partition"]]:
                    stamp: int = message.timestamp()[1]
                    return stamp / 1000
        raise TimeoutError(f"no score within {_PATIENCE:.0f} s")

    def __enter__(self) -> "_Scores":
        return self

    def __exit__(self, *_: object) -> None:
        self._consumer.close()


@contextmanager
def _load(site: Site) -> Iterator[None]:
    """Write sets at the fixed rate, in a thread, until the block ends."""
    over = threading.Event()
    producer = Producer({"bootstrap.servers": site.bootstrap, "acks": "all", "partitioner": "murmur2_random", "log_level": 2})
    thread = threading.Thread(target=_write, args=(site, producer, over), daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join(30)


def _write(site: Site, producer: Producer, over: threading.Event) -> None:
    began, sent = time.monotonic(), 0
    for turn in count():  # everybody in turn
        for event in vitals(PATIENTS, 1, datetime.now(UTC) - timedelta(seconds=1), seed=turn):
            if over.wait(max(0.0, began + sent / RATE - time.monotonic())):
                producer.flush(10)
                return
            producer.produce(site.topic("clinical.vitals"), event.model_dump_json().encode(), event.patient_id.encode())
            producer.poll(0)
            sent += 1


# ------------------------------------------------------------------------------------------------------ a rolling upgrade


@dataclass(frozen=True, slots=True)
class Rolling:
    """Seconds from each set on the log to its score on the log, before and during; sets that have no score."""

    before: list[float]
    during: list[float]
    lost: int

    def summary(self) -> dict[str, Any]:
        """Return the percentiles."""
        found: dict[str, Any] = {"lost": self.lost}
        for name, seconds in (("before", self.before), ("during", self.during)):
            found[name] = {"sets": len(seconds), **{f"p{p}": round(float(np.percentile(seconds, p)), 3) for p in (50, 99, 100)}}
        return found


def rolling(stage: Stage) -> Rolling:
    """Return what becomes of sets while both workers of the lane are stopped in good order and started again, in turn."""
    return stage.once("rolling", lambda: _rolling(stage))


def _rolling(stage: Stage) -> Rolling:
    site = stage.site("rolling")
    fill(site.bootstrap, site.topic("clinical.patients"), encoded(patient(n, datetime.now(UTC)) for n in range(PATIENTS)))
    workers = [lane("vitals", site.env, site.folder, slot=slot) for slot in range(2)]
    try:
        until_shared(site.bootstrap, site.group("vitals"), 2, workers)
        for worker in workers:
            worker.until_ready()
        with _load(site):
            time.sleep(stage.sizes.calm_seconds)
            began = time.time()
            for slot in range(2):
                workers[slot].stop()
                workers[slot] = lane("vitals", site.env, site.folder, slot=slot)
                workers[slot].until_ready()
                stage.say(f"rolling upgrade: worker {slot} is back after {time.time() - began:.1f} s in all")
            ended = time.time()
        return _followed(site, began, ended)
    finally:
        for worker in workers:
            worker.stop()


def _followed(site: Site, began: float, ended: float) -> Rolling:
    """Read both topics to the end; the lane has caught up when every set has a score, or never will."""
    sets = {(one.partition(), one.offset()): one.timestamp()[1] / 1000 for one in _all(site, "clinical.vitals")}
    deadline, scored = time.monotonic() + _PATIENCE, {}
    while len(scored) < len(sets) and time.monotonic() < deadline:
        for one in _all(site, "clinical.scores"):
            source = orjson.loads(one.value())["source"]
            # The first score of a set counts: what is written again after a restart has the same id.
            scored.setdefault((source["partition"], source["offset"]), one.timestamp()[1] / 1000)
    waited = {place: scored[place] - at for place, at in sets.items() if place in scored}
    before = [waited[place] for place, at in sets.items() if place in waited and at < began]
    during = [waited[place] for place, at in sets.items() if place in waited and began <= at <= ended]
    return Rolling(before, during, len(sets) - len(waited))


def _all(site: Site, name: str) -> list[Any]:
    """Every message of a topic, to its present end."""
    settings = {"bootstrap.servers": site.bootstrap, "group.id": f"bench-{time.time_ns()}", "log_level": 2}
    consumer = Consumer({**settings, "enable.auto.commit": False})
    try:
        places = [TopicPartition(site.topic(name), number, 0) for number in range(PARTITIONS)]
        wanted = sum(consumer.get_watermark_offsets(one, timeout=10)[1] for one in places)
        consumer.assign(places)
        found: list[Any] = []
        deadline = time.monotonic() + _PATIENCE
        while len(found) < wanted and time.monotonic() < deadline:
            found += [one for one in consumer.consume(10_000, timeout=0.5) if one.error() is None]
        return found
    finally:
        consumer.close()
