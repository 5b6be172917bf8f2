"""What is seen from outside while a row runs: how far the group has committed, the workers' health pages, metrics and logs.

It also plays the supervisor: a worker that ends by itself is started again, as `vigil up` does.
"""

import json
import re
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from confluent_kafka import Consumer, KafkaException, TopicPartition

from infra.kafka.host import free_ports
from tests.vitals import LaneProcess

LOOK = 0.25  # seconds between looks at the offsets
ASK = 0.5  # seconds between looks at the health pages
UNREACHABLE = "unreachable"  # what a monitoring system says of a page that does not answer
TOLD = ("vigil_retries_total", "vigil_dead_lettered_total", "vigil_missed_total", "vigil_events_total")
_LINE = re.compile(r"^\d\d:\d\d:\d\d\.\d+ (WARNING|ERROR|CRITICAL)\s+(.*)$", re.MULTILINE)


class Worker(LaneProcess):
    """A worker of a lane (or whatever `command` starts) on a slot and a health port of its own."""

    def __init__(self, lane: str, slot: int, env: Mapping[str, str], folder: Path, *, command: Sequence[str] = ()) -> None:
        (self.port,) = free_ports(1)
        own = {**env, "VIGIL_WORKER__SLOT": str(slot), "VIGIL_WORKER__HEALTH_PORT": str(self.port)}
        super().__init__(lane, own, folder / f"{lane}-{slot}.log", command=command)
        self.slot = slot
        self.wanted = False  # whether the supervisor would have it run
        self.deaths: list[int] = []  # exit codes of ends that nobody asked for

    def log_to(self, file: Path) -> None:
        """Let its log go elsewhere, from its next start on; what is no plain file is not read."""
        self._log = file

    @property
    def log(self) -> str:
        """What it has logged."""
        return super().log if self._log.is_file() else ""

    def start(self) -> None:
        """Start it, and want it to run."""
        super().start()
        self.wanted = True

    def kill(self) -> None:
        """SIGKILL it, and leave it dead until it is started again."""
        self.wanted = False
        super().kill()

    def stop(self) -> int:
        """SIGTERM it, and leave it."""
        self.wanted = False
        return super().stop()

    def page(self, name: str) -> tuple[int, str]:
        """Ask a health page; (0, "") where nothing answers."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/{name}", timeout=0.5) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()
        except (OSError, ValueError):
            return 0, ""

    def until_ready(self, within: float = 60.0) -> None:
        """Wait for /ready, or fail with the end of the log."""
        deadline = time.monotonic() + within
        while self.page("ready")[0] != 200:
            if time.monotonic() > deadline or not self.running:
                raise RuntimeError(f"{self.name} is not ready; its log ends:\n{self.log[-2000:]}")
            time.sleep(0.1)


class Watch:
    """Looks at a lane four times a second, in a thread of its own, and at its workers' pages twice a second, in another."""

    def __init__(self, bootstrap: str, group: str, topics: tuple[str, ...], workers: Callable[[], list[Worker]]) -> None:
        self._consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": group, "log_level": 0})
        self._topics = topics
        self._workers = workers
        self._over = threading.Event()
        self._threads = [threading.Thread(target=one, daemon=True) for one in (self._look, self._ask)]
        self._lock = threading.Lock()
        self.longest_stall = 0.0
        self.behind: int | None = None  # None: not known now
        self.done = 0
        self.ends = 0
        self.most_behind = 0
        self.not_ready: dict[str, float] = {}  # what /ready said instead -> seconds, of all workers together
        self.longest_not_ready = 0.0  # seconds on end, of one worker
        self._outages: dict[Worker, Outage] = {}
        self.metrics: dict[str, float] = {}
        self.recovered: float | None = None
        self._cleared: float | None = None
        self._target = 0
        self._progress = time.monotonic()

    def __enter__(self) -> "Watch":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join(60)
        self._consumer.close()
        for worker, outage in list(self._outages.items()):
            if worker.wanted:  # one that was taken away for good is no outage, and nobody asks for it any more
                self._tell(worker, outage, time.monotonic())

    def begin(self) -> None:
        """Say that the load begins: what was before, the start of the workers, is not told."""
        with self._lock:
            self.longest_stall, self.longest_not_ready, self.most_behind = 0.0, 0.0, 0
            self.not_ready.clear()
            self._outages.clear()

    def cleared(self) -> None:
        """Say that the fault is over now: recovery is measured from here, to what was written by now."""
        with self._lock:
            self._cleared, self._target = time.monotonic(), self.ends

    def settled(self, within: float) -> bool:
        """Wait until nothing is behind, and stays so for a second."""
        deadline, quiet = time.monotonic() + within, 0
        while time.monotonic() < deadline:
            quiet = quiet + 1 if self.behind == 0 else 0
            if quiet * LOOK >= 1.0:
                return True
            time.sleep(LOOK)
        return False

    def _look(self) -> None:
        while not self._over.wait(LOOK):
            try:
                done, ends = self._offsets()
            except KafkaException:
                done, ends = None, None
            self._note(done, ends)
            for worker in self._workers():
                if worker.wanted and not worker.running:
                    worker.deaths.append(worker.code or 0)
                    worker.start()

    def _offsets(self) -> tuple[int, int]:
        places = []
        for topic in self._topics:
            found = self._consumer.list_topics(topic, timeout=2).topics[topic]
            places += [TopicPartition(topic, number) for number in found.partitions]
        done = ends = 0
        for one in self._consumer.committed(places, timeout=2):
            low, high = self._consumer.get_watermark_offsets(TopicPartition(one.topic, one.partition), timeout=2)
            done += max(one.offset, low) if 0 <= one.offset <= high else low  # beyond the end: of a topic that was there before
            ends += high
        return done, ends

    def _note(self, done: int | None, ends: int | None) -> None:
        now = time.monotonic()
        with self._lock:
            if done is None or ends is None:
                self.behind = None
                self.longest_stall = max(self.longest_stall, now - self._progress)
                return
            if done != self.done or done >= ends:
                self._progress = now
            self.longest_stall = max(self.longest_stall, now - self._progress)
            self.done, self.ends, self.behind = done, ends, ends - done
            self.most_behind = max(self.most_behind, self.behind)
            if self._cleared is not None and self.recovered is None and done >= self._target:
                self.recovered = now - self._cleared

    def _ask(self) -> None:
        while not self._over.wait(ASK):
            for worker in self._workers():
                status, body = worker.page("ready")
                self._hear(worker, status, body, time.monotonic())
                status, body = worker.page("metrics")
                for line in body.splitlines() if status == 200 else ():
                    name, _, value = line.rpartition(" ")
                    if name.partition("{")[0] in TOLD and float(value):
                        self.metrics[name] = max(self.metrics.get(name, 0.0), float(value))

    def _hear(self, worker: Worker, status: int, body: str, now: float) -> None:
        with self._lock:
            outage = self._outages.get(worker)
            if status == 200:
                if outage is not None:
                    self._tell(worker, outage, now)
                return
            if outage is None:
                outage = self._outages[worker] = Outage(now, now)
            outage.go_on(UNREACHABLE if status == 0 else _reason(body), now)

    def _tell(self, worker: Worker, outage: "Outage", now: float) -> None:
        outage.go_on("", now)
        del self._outages[worker]
        for words, seconds in outage.seconds.items():
            self.not_ready[words] = self.not_ready.get(words, 0.0) + seconds
        self.longest_not_ready = max(self.longest_not_ready, now - outage.began)


@dataclass
class Outage:
    """One worker, not ready since `began`: what it said meanwhile, and for how long each."""

    began: float
    last: float
    words: str = ""
    seconds: dict[str, float] = field(default_factory=dict)

    def go_on(self, words: str, now: float) -> None:
        """Until now it was as it was said to be last; from now on it is `words`."""
        if self.words:
            self.seconds[self.words] = self.seconds.get(self.words, 0.0) + now - self.last
        self.words, self.last = words, now


def _reason(body: str) -> str:
    try:
        return plain(str(json.loads(body)["reason"]))
    except (ValueError, KeyError, TypeError):
        return "503 without a reason"


def plain(line: str) -> str:
    """Return a line without what differs from run to run, so that equal lines count as one."""
    line = re.sub(r"\b(f|r)\.[\w-]+\.[0-9a-f]{8}\.", "", line)
    line = re.sub(r"127\.0\.0\.1:\d+|localhost:\d+", "HOST", line)
    line = re.sub(r"\[\d+\]", "[n]", line)
    return re.sub(r"\b\d+(\.\d+)?\b", "n", line)[:240]


def log_lines(logs: str) -> Counter[str]:
    """Count the warnings and errors of a log, by their words."""
    return Counter(f"{level} {plain(words)}" for level, words in _LINE.findall(logs))
