"""How long a lane is away after SIGKILL of its worker: from the signal to the first score of a set that was written after it.

Vitals come at a fixed rate whether anybody reads them or not. The worker is killed at a random moment, and started again after the
second that `vigil up` waits; it imports, joins the group, restores its state and scores. When it scored is the broker's own
timestamp of the score. So the figure holds everything that an operator waits for, and the backlog's first set.
"""

import random
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from itertools import count
from statistics import median
from typing import Any

import orjson
from confluent_kafka import Consumer, Producer, TopicPartition

from tests.bench.programs import lane
from tests.bench.rate import encoded, fill
from tests.bench.stage import PARTITIONS, Site, Stage
from tests.vitals import patient, vitals

PATIENTS = 100
RATE = 50.0  # sets a second
_SUPERVISED = 1.0  # seconds until `vigil up` starts again what ended
_PATIENCE = 120.0  # seconds after which a round counts as failed


def kills(stage: Stage) -> list[float]:
    """Return the seconds of each round."""
    return stage.once("recovery", lambda: _kills(stage))  # type: ignore[no-any-return]


def summary(rounds: list[float]) -> dict[str, Any]:
    """Return what stands behind the median."""
    ordered = sorted(rounds)
    return {
        "rounds": [round(one, 2) for one in rounds],
        "fastest": round(ordered[0], 2),
        "median": round(median(rounds), 2),
        "slowest": round(ordered[-1], 2),
    }


def _kills(stage: Stage) -> list[float]:
    site, rng, found = stage.site("recovery"), random.Random("recovery"), []
    fill(site.bootstrap, site.topic("clinical.patients"), encoded(patient(n, datetime.now(UTC)) for n in range(PATIENTS)))
    with _load(site), _Scores(site) as scores:
        worker = lane("vitals", site.env, site.folder)
        try:
            worker.until_ready()
            scores.first_past(scores.ends(), [worker.check])
            for number in range(stage.sizes.kills):
                time.sleep(rng.uniform(1.0, 3.0))
                worker.process.kill()
                worker.process.wait()
                killed, ends = time.time(), scores.ends()
                time.sleep(_SUPERVISED)
                worker = lane("vitals", site.env, site.folder)
                found.append(scores.first_past(ends, [worker.check]) - killed)
                stage.say(f"recovery, kill {number + 1}: scores again after {found[-1]:.1f} s")
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
