"""One row: a site of its own (topics, group, vector store, objects), workers of one lane, a load, a fault, the reckoning."""

import json
import os
import random
import re
import signal
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from infra.kafka.host import free_ports, wait_frozen
from infra.kafka.kafka import LocalKafka
from processors.events import TOPICS
from streams.journal import TOPIC as JOURNAL
from tests.faults import answers, inputs
from tests.faults.inputs import Course, Load, Place, Sender, Sent
from tests.faults.proxy import Proxy
from tests.faults.verify import INPUT, Judge, Verdict
from tests.faults.watch import Watch, Worker, log_lines
from tests.kafka import Kafka
from tests.qdrant import QdrantServer

SESSION = 6.0  # seconds
PARTITIONS = 2
VECTORS = ("notes-vectors", "images")  # lanes that write to Qdrant
STORES = (*VECTORS, "merges")  # lanes that have to do with it
SETTLE = 90.0  # seconds, a row's patience after its load
T = TypeVar("T")
Twist = Callable[[int, Sent], list[Sent]]


@dataclass(frozen=True)
class Fault:
    """One kind of trouble for one lane. `strike` does it while the load runs; `twist` spoils the load itself."""

    name: str
    lane: str
    words: str
    strike: "Callable[[Arena], None]"
    twist: "Callable[[Arena], Twist] | None" = None
    prepare: "Callable[[Arena], None] | None" = None  # before the workers start
    workers: int = 1
    seconds: float = 14.0
    short: bool = False
    brokers: int = 1
    settings: tuple[tuple[str, str], ...] = ()
    same: bool = True  # whether the outputs must equal those of an undisturbed run
    but: tuple[str, ...] = ()  # fields of outputs, and `deterioration`, that its own load has otherwise
    like: str = "undisturbed"  # which fault's run that is: the same load without a fault
    deaths: bool = False  # whether a worker may end by itself
    ends: int = 0  # the exit code of a worker that is told to stop
    seen: str = ""  # words (a regular expression) that an operator must find in log, health or metrics
    load: "Callable[[Arena], Load] | None" = None  # instead of the lane's own load
    over: float | None = None  # seconds that the lane's own load is spread over, where it is not sent in its own time
    settle: float = SETTLE  # seconds, its patience after the load
    needs: "Callable[[], str | None]" = lambda: None  # what this machine lacks for it, in words
    small_disk: bool = False  # whether the broker lies on a small file system of its own

    @property
    def row(self) -> str:
        """Its name with its lane: what --only takes."""
        return f"{self.name}/{self.lane}"


@dataclass
class Row:
    """One row of the report."""

    fault: str
    lane: str
    words: str
    sign: str = ""  # what an operator had to find
    accepted: int = 0
    lost: int = 0
    duplicated_effects: int = 0
    gone: int = 0  # what Kafka itself deleted before the lane read it: told to the operator to the record
    longest_stall_s: float = 0.0
    recovered_s: float | None = None
    dead_letters: int = 0
    ignored: dict[str, int] = field(default_factory=dict)
    repeats: int = 0
    moved: int = 0  # points that merges gave to another patient
    taken_back: int = 0  # images
    of_several: int = 0  # notes that have more than one passage
    answers: int = 0  # of people, to alerts
    escalated: int = 0  # steps of alerts that nobody answered
    compared: dict[str, int] = field(default_factory=dict)  # how much of each was held against the undisturbed run's
    seconds: float = 0.0
    operator: dict[str, Any] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)
    again: list[dict[str, Any]] = field(default_factory=list)  # what its other runs said, where reports were merged

    @property
    def good(self) -> bool:
        """Whether the promise held."""
        return bool(self.accepted) and not self.lost and not self.duplicated_effects and not self.wrong


class Arena:
    """The site of one row while it runs: what faults have in their hands."""

    def __init__(
        self, fault: Fault, kafka: Kafka, proxy: Proxy | None, qdrant: QdrantServer | None, folder: Path, seed: int
    ) -> None:
        self.fault, self.kafka, self.folder = fault, kafka, folder
        self._proxy = proxy
        self.stack = ExitStack()  # what ends with the row
        self._things: list[Any] = [qdrant] if qdrant else []
        self.seed = seed
        self.random = random.Random(f"{fault.row} {seed}")
        self.prefix = kafka.name("f." + fault.lane) + "."
        self.objects = folder / "objects"
        self.wrong: list[str] = []
        self.courses: dict[str, Course] = {}  # what must be said of patients whose context changes under the load, by their id
        self.marks = set(inputs.MARKS)  # what tells who somebody is, of all whom the load is about
        self.spoilt = 0  # records with an id that must end as dead letters
        self.gone = 0  # accepted records that Kafka deleted before they were read
        self.erased: dict[str, set[Place]] = {}  # by output topic that was deleted: what had been accepted by then
        self.workers: list[Worker] = []
        self.env = {
            "VIGIL_KAFKA__BOOTSTRAP": f"127.0.0.1:{proxy.port}" if proxy else kafka.bootstrap,
            "VIGIL_KAFKA__TOPIC_PREFIX": self.prefix,
            "VIGIL_VECTORS__URL": qdrant.url if qdrant else "http://127.0.0.1:9",
            "VIGIL_VECTORS__TIMEOUT": "3",
            "VIGIL_OBJECTS__URL": str(self.objects),
            "VIGIL_ENGINE__SESSION_TIMEOUT": str(SESSION),
            "VIGIL_ENGINE__HEARTBEAT_INTERVAL": "1",
            "VIGIL_ENGINE__BACKOFF_MOST": "1",
            "VIGIL_STATE__SNAPSHOT_SECONDS": "3",
            "VIGIL_WORKER__HOST": "faults",
            # Else the language and image lanes get what nobody else wants, which on a busy test machine is nothing.
            f"VIGIL_LANES__{fault.lane.upper().replace('-', '_')}__NICE": "0",
            **dict(fault.settings),
        }
        self.answered = fault.lane == "vitals" and fault.load is None  # whether people answer the alerts
        if self.answered:
            self.env["VIGIL_MONITOR__ESCALATION"] = json.dumps(answers.CHAIN)
        self.sender = Sender(kafka.bootstrap, self.prefix)
        self.over = threading.Event()
        self.watch: Watch

    # -- what faults do --------------------------------------------------------------------------------------------

    @property
    def input(self) -> str:
        """The topic that the lane reads, without prefix."""
        return INPUT[self.fault.lane]

    @property
    def group(self) -> str:
        """The lane's consumer group."""
        return f"{self.prefix}vigil.{self.fault.lane}"

    @property
    def broker(self) -> LocalKafka:
        """The cluster, to kill and freeze."""
        return self.kafka.control()

    @property
    def proxy(self) -> Proxy:
        """What lies between workers and the one broker."""
        assert self._proxy is not None, "three brokers have no proxy before them"
        return self._proxy

    def keep(self, thing: T) -> T:
        """Keep what a fault has set up, for its strike to `get`."""
        self._things.append(thing)
        return thing

    def get(self, kind: type[T]) -> T:
        """Return what of this kind stands here; a row that asks for what nobody has set up breaks."""
        for thing in self._things:
            if isinstance(thing, kind):
                return thing
        raise LookupError(f"{self.fault.row} has no {kind.__name__}")

    def worker(self, slot: int = 0) -> Worker:
        """The worker on a slot, made when it is asked for first."""
        for one in self.workers:
            if one.slot == slot:
                return one
        made = Worker(self.fault.lane, slot, self.env, self.folder)
        self.workers = [*self.workers, made]
        return made

    def sleep(self, least: float, most: float | None = None) -> None:
        """Let the load run: so many seconds, or at random between two (seeded)."""
        time.sleep(least if most is None else self.random.uniform(least, most))

    def freeze(self, pid: int, seconds: float) -> None:
        """SIGSTOP a process for so long."""
        os.kill(pid, signal.SIGSTOP)
        wait_frozen(pid)
        time.sleep(seconds)
        os.kill(pid, signal.SIGCONT)

    def stop(self, slot: int) -> None:
        """SIGTERM a worker: it must end in good order."""
        code = self.worker(slot).stop()
        if code != self.fault.ends:
            self.wrong.append(f"exit code {code} after SIGTERM")

    # -- the row ----------------------------------------------------------------------------------------------------

    def run(self, undisturbed: Verdict | None) -> tuple[Row, Verdict]:
        """Play the row."""
        began = time.monotonic()
        for topic in (*TOPICS, JOURNAL):
            self.kafka.create(self.prefix + topic, PARTITIONS)
        load = (
            self.fault.load(self)
            if self.fault.load
            else inputs.of_lane(self.fault.lane, self.seed, self.fault.seconds, str(self.objects))
        )
        if self.fault.over is not None:
            load = replace(load, rate=len(load.paced) / self.fault.over)
        if self.fault.prepare:
            self.fault.prepare(self)
        for slot in range(self.fault.workers):
            self.worker(slot).start()
        read = (self.input, *(sent.topic for sent in load.before), *(("clinical.feedback",) if self.answered else ()))
        topics = tuple(self.prefix + one for one in dict.fromkeys(read))
        people = answers.Answers(self.kafka.bootstrap, self.prefix, PARTITIONS, self.sender)
        if self.answered:
            people.start()
        try:
            with Watch(self.kafka.bootstrap, self.group, topics, lambda: self.workers) as self.watch:
                try:
                    self._play(load)
                    settled = self.watch.settled(self.fault.settle)
                finally:
                    people.stop()
                if not (settled and self.watch.settled(self.fault.settle)):  # also what was said last
                    self.wrong.append(f"not settled within {self.fault.settle:.0f} s: {self.watch.behind} records behind")
        finally:
            for worker in self.workers:
                self._end(worker)
        self.wrong += self.sender.reckon()
        store, names = self._store(), self.sender.names
        judge = Judge(
            self.fault.lane, self.kafka.bootstrap, self.prefix, self.sender.accepted, store, names, self.erased, self.marks,
            answers.AFTER if self.answered else None, self.courses,
        )  # fmt: skip
        logs = "\n".join(worker.log for worker in self.workers)
        seen = "\n".join([logs, *self.watch.not_ready, *self.watch.metrics])
        verdict = judge.judge(seen, undisturbed if self.fault.same else None, self.fault.but)
        return self._row(verdict, logs, time.monotonic() - began), verdict

    def _play(self, load: Load) -> None:
        for worker in self.workers:
            worker.until_ready()
        for record in load.before:
            self.sender.send(record)
        self.sender.flush()
        if load.before and not self.watch.settled(30.0):
            raise RuntimeError(f"{self.fault.row}: the contexts were not read")
        self.watch.begin()
        twist = self.fault.twist(self) if self.fault.twist else lambda _, one: [one]
        pacing = threading.Thread(target=self.sender.pace, args=(load, self.over), kwargs={"twist": twist}, daemon=True)
        pacing.start()
        try:
            self.sleep(2.0)
            self.fault.strike(self)
            self.watch.cleared()
            pacing.join(self.fault.seconds + self.fault.settle)
            if pacing.is_alive():
                raise RuntimeError(f"{self.fault.row}: the senders are not answered")
        except BaseException:
            self.over.set()
            raise
        self.sender.flush()

    def _end(self, worker: Worker) -> None:
        if worker.running and worker.wanted:
            worker.until_ready()  # one that was just started anew dies of a SIGTERM as any program does
            self.stop(worker.slot)
        elif worker.running:
            worker.kill()

    def _store(self) -> str | None:
        return self.get(QdrantServer).url if self.fault.lane in STORES else None

    def _row(self, verdict: Verdict, logs: str, seconds: float) -> Row:
        fault, watch = self.fault, self.watch
        wrong = [*self.wrong, *verdict.wrong]
        deaths = [code for worker in self.workers for code in worker.deaths]
        if deaths and not fault.deaths:
            wrong.append(f"a worker ended by itself, exit codes {deaths}")
        gone = self.erased.get("clinical.dead-letters", ())
        bad = [place for place, event_id in self.sender.accepted.at.items() if place[0] == self.input and not event_id]
        spoilt = len(set(bad) - set(gone))
        wanted = self.spoilt + spoilt
        if verdict.dead_letters != wanted:
            wrong.append(f"{verdict.dead_letters} dead letters, and {wanted} records were spoilt")
        missed = sum(value for name, value in watch.metrics.items() if name.startswith("vigil_missed_total"))
        if self.answered and not verdict.answers:
            wrong.append("nobody answered an alert: the row shows nothing")
        if missed != self.gone:
            wrong.append(f"{self.gone} records were gone before they were read, and the operator is told of {missed:.0f}")
        lines = log_lines(logs)
        sign = {line: times for line, times in lines.items() if fault.seen and re.search(fault.seen, line)}
        operator = {
            "log": dict([*Counter(sign).most_common(1), *((line, n) for line, n in lines.most_common(6) if line not in sign)]),
            "not_ready_s": {
                words: round(seconds, 1) for words, seconds in sorted(watch.not_ready.items(), key=lambda one: -one[1])
            },
            "longest_not_ready_s": round(watch.longest_not_ready, 1),
            "lag_most": watch.most_behind,
            "metrics": watch.metrics,
            "exit_codes": deaths,
        }
        if fault.seen and not re.search(fault.seen, str(operator)):
            wrong.append(f"an operator sees nothing of it: {fault.seen!r} in no log, health page or metric")
        return Row(
            fault.name,
            fault.lane,
            fault.words,
            fault.seen,
            accepted=verdict.accepted,
            lost=verdict.lost,
            duplicated_effects=verdict.duplicated,
            gone=self.gone,
            longest_stall_s=round(watch.longest_stall, 1),
            recovered_s=None if watch.recovered is None else round(watch.recovered, 1),
            dead_letters=verdict.dead_letters,
            ignored=verdict.ignored,
            repeats=verdict.repeats,
            moved=verdict.moved,
            taken_back=verdict.taken_back,
            of_several=verdict.of_several,
            answers=verdict.answers,
            escalated=verdict.escalated,
            compared=verdict.compared,
            seconds=round(seconds, 1),
            operator=operator,
            wrong=wrong,
        )


@contextmanager
def arena(fault: Fault, kafka: Kafka, proxy: Proxy | None, program: Path, seed: int) -> Iterator[Arena]:
    """Set up a row's site; what it started ends with the block."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="vigil-faults-", ignore_cleanup_errors=True)))
        qdrant = None
        if fault.lane in STORES:
            http, grpc = free_ports(2)
            place = folder / "qdrant"
            place.mkdir()
            qdrant = QdrantServer(program, place, http, grpc)
            qdrant.start()
            stack.callback(qdrant.stop)
        site = Arena(fault, kafka, proxy, qdrant, folder, seed)
        stack.enter_context(site.stack)
        try:
            yield site
        finally:
            for worker in site.workers:
                if worker.running:
                    worker.kill()
