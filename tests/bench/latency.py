"""From a socket to a readable alert, while the language and image lanes are saturated on the same two cores.

    sender --MLLP--> vigil serve --> clinical.vitals --> vitals lane --> clinical.alerts --> watcher

Sets come at a fixed rate whatever becomes of the ones before (no set waits for an answer; every answer is checked). Time runs from
just before a message's bytes are written to its socket until another process has the alert in hand. The lanes beside it have a
backlog that outlasts the measurement, and the `nice` that the settings give them.

The echo is what two cores under that load allow at all: the same sets at the same rate written to Kafka by a plain producer, one
process of bare aiokafka that copies them, the same watcher.
"""

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import orjson
from confluent_kafka import Producer

from connectors.hl7.framing import Framer, Oversize, frame
from connectors.hl7.sender import read_ack
from streams.settings import DEMO_SECRET
from tests import load
from tests.bench.memory import keep_objects
from tests.bench.programs import Program, lane, peer, until_shared
from tests.bench.rate import Tail, encoded, fill
from tests.bench.stage import Site, Stage
from tests.bench.wardload import People, Planned, plan, stamped

CONNECTIONS = 8
_PATIENCE = 30.0  # seconds that answers and alerts may be late before the run counts as failed


@dataclass
class Latencies:
    """Milliseconds of each alert of one run, and what else was seen."""

    ms: list[float]
    sets: int
    late_ms: float  # the sender's own lateness: 99th percentile of the time between plan and writing
    beside: dict[str, float]  # what the lanes beside did meanwhile, notes and images a second
    cpu_us: dict[str, float]  # CPU microseconds a set of each program on the way

    def percentile(self, which: float) -> float:
        return float(np.percentile(self.ms, which))

    def summary(self) -> dict[str, Any]:
        names = {"p50": 50, "p90": 90, "p99": 99, "p999": 99.9, "max": 100}
        found = {name: round(self.percentile(which), 2) for name, which in names.items()}
        curve = (*range(0, 99, 2), 99, 99.5, 99.9, 100)
        return {
            "alerts": len(self.ms),
            "sets": self.sets,
            **found,
            "sender_late_p99_ms": round(self.late_ms, 2),
            "beside_per_s": self.beside,
            "cpu_us_per_set": self.cpu_us,
            "percentiles": {str(which): round(self.percentile(which), 2) for which in curve},
        }


def alerts(stage: Stage) -> dict[str, Latencies]:
    """Return the latencies at 200 and 1,000 sets a second, and of the echo at 1,000."""
    return stage.once("alerts", lambda: _alerts(stage))


def _alerts(stage: Stage) -> dict[str, Latencies]:
    site = stage.site("alerts", {"VIGIL_CONNECTORS__ENABLED": '["mllp"]', "VIGIL_CONNECTORS__MLLP__PORT": "0"})
    found: dict[str, Latencies] = {}
    with ExitStack() as stack:
        beside = _saturate(stage, site, stack)
        vitals = stack.enter_context(lane("vitals", site.env, site.folder))
        vitals.until_ready()
        where = site.folder / "addresses.json"
        serve = ["-m", "streams.cli", "serve", "--addresses", str(where)]
        edge = stack.enter_context(Program(serve, site.env, site.folder / "serve.log"))
        address = _address(where, edge)
        for rate in (200, 1000):
            run = _MllpRun(stage, rate, address)
            found[str(rate)] = _measured(stage, site, run, beside, {"connectors": edge, "vitals": vitals})
        vitals.stop()
        edge.stop()
        echo_site = stage.site("echo")
        env = {"BENCH_BOOTSTRAP": site.bootstrap, "BENCH_PREFIX": echo_site.prefix}
        echo = stack.enter_context(peer("aiokafka_echo", env, echo_site.folder))
        until_shared(site.bootstrap, f"{echo_site.prefix}echo", 1, [echo])
        found["echo"] = _measured(stage, echo_site, _EchoRun(stage, 1000, echo_site), beside, {"echo": echo})
    return found


# ------------------------------------------------------------------------------------------------------- the lanes beside


@dataclass
class _Beside:
    """The lanes that have more to do than they can, and what shows that they do it."""

    programs: list[Program]
    tails: dict[str, Tail]
    totals: dict[str, int]

    def done(self) -> dict[str, int]:
        return {name: tail.count() for name, tail in self.tails.items()}


def _saturate(stage: Stage, site: Site, stack: ExitStack) -> _Beside:
    sizes = stage.sizes
    fill(site.bootstrap, site.topic("clinical.notes"), encoded(load.notes(300, sizes.backlog_notes)))
    references = keep_objects(site)
    fill(site.bootstrap, site.topic("clinical.images"), encoded(load.images(300, sizes.backlog_images, references)))
    names = ("notes-entities", "notes-vectors", "images")
    programs = [stack.enter_context(lane(name, site.env, site.folder)) for name in names]
    for program in programs:
        program.until_ready()
    tails = {
        "notes": Tail(site.bootstrap, site.topic("clinical.entities")),
        "images": Tail(site.bootstrap, site.topic("clinical.findings")),
    }
    for tail in tails.values():
        stack.callback(tail.close)
        tail.until(1, within=120, alive=programs)
    return _Beside(programs, tails, {"notes": sizes.backlog_notes, "images": sizes.backlog_images})


def _address(file: Path, edge: Program, within: float = 60.0) -> tuple[str, int]:
    deadline = time.monotonic() + within
    while not file.exists():
        edge.check()
        if time.monotonic() > deadline:
            raise TimeoutError(f"no address within {within:.0f} s:\n{edge.log.read_text()[-2000:]}")
        time.sleep(0.1)
    host, port = orjson.loads(file.read_bytes())["mllp"]
    return host, port


# ---------------------------------------------------------------------------------------------------------- one measurement

Sent = dict[tuple[str, str], float]  # patient, observed time -> when it was written (s)


def _measured(stage: Stage, site: Site, run: "_MllpRun | _EchoRun", beside: _Beside, way: Mapping[str, Program]) -> Latencies:
    asyncio.run(run.prepare())
    with watching(site) as seen:
        done, begun, cpu = beside.done(), time.monotonic(), {name: program.cpu for name, program in way.items()}
        sent, late = asyncio.run(run.run())
        seconds = time.monotonic() - begun
        arrived = _arrivals(seen, sent, [*way.values(), *beside.programs])
        cpu_us = {name: round(1e6 * (program.cpu - cpu[name]) / len(run.planned), 1) for name, program in way.items()}
    after = beside.done()
    for name, total in beside.totals.items():
        if after[name] >= total and not stage.quick:
            raise RuntimeError(f"{name}: the backlog of {total} was worked off before the end, so nothing was saturated")
    rates = {name: round((after[name] - done[name]) / seconds, 1) for name in done}
    found = Latencies([1000 * (arrived[key] - at) for key, at in sent.items()], run.sets, late, rates, cpu_us)
    stage.say(f"alerts, {run.rate} sets/s, {run.name}: p50 {found.percentile(50):.1f} ms, p99 {found.percentile(99):.1f} ms")
    return found


@contextlib.contextmanager
def watching(site: Site) -> Iterator[Callable[[], list[list[str]]]]:
    """Watch a site's alerts from another process; gives what reads its notes so far."""
    file = site.folder / f"seen-{time.time_ns()}"
    arguments = [site.topic("clinical.alerts"), str(file)]
    with peer("watcher", {"BENCH_BOOTSTRAP": site.bootstrap}, site.folder, arguments=arguments) as watcher:
        deadline = time.monotonic() + 60
        while not (file.exists() and file.read_bytes().startswith(b"ready")):
            watcher.check()
            if time.monotonic() > deadline:
                raise TimeoutError("the watcher did not start")
            time.sleep(0.1)
        yield lambda: [line.split() for line in file.read_text().splitlines()[1:] if line.count(" ") == 3]


def _arrivals(seen: Callable[[], list[list[str]]], sent: Sent, programs: Sequence[Program]) -> dict[tuple[str, str], float]:
    """Return when the alert of each set was readable first; fails when one is missing."""
    deadline = time.monotonic() + _PATIENCE
    while True:
        arrived: dict[tuple[str, str], float] = {}
        for at, patient, observed, _ in seen():
            arrived.setdefault((patient, observed), int(at) / 1e6)
        missing = sent.keys() - arrived.keys()
        if not missing:
            return arrived
        for program in programs:
            program.check()
        if time.monotonic() > deadline:
            raise RuntimeError(f"{len(missing)} of {len(sent)} alerts did not come within {_PATIENCE:.0f} s")
        time.sleep(0.2)


def _key(patient: str, at: datetime) -> tuple[str, str]:
    return patient, at.isoformat().replace("+00:00", "Z")  # as pydantic writes it


def _now() -> datetime:
    """Return the time to the millisecond, and never a whole second, whose text would be another."""
    now = datetime.now(UTC)
    return now.replace(microsecond=max(1, now.microsecond // 1000) * 1000)


class _Run:
    """A planned load: warm-up first, whose latencies do not count."""

    name = ""
    groups = 0  # every run has people of its own

    def __init__(self, stage: Stage, rate: int) -> None:
        sizes = stage.sizes
        _Run.groups += 1
        self.rate = rate
        self.warm = sizes.alert_warm
        self.planned = plan(_Run.groups, sizes.alert_patients, rate, sizes.alert_warm + sizes.alert_seconds)
        self.people = People(100_000 * _Run.groups, sizes.alert_patients, DEMO_SECRET.encode())
        self.sets = sum(one.due >= self.warm for one in self.planned)

    async def _paced(self, send: Callable[[int, Planned], datetime]) -> tuple[Sent, float]:
        """Send each set when it is due. Returns when those that alert were written, and how late the 99th percentile was (ms)."""
        sent: Sent = {}
        late: list[float] = []
        begun = time.time() + 0.2
        for number, planned in enumerate(self.planned):
            wait = begun + planned.due - time.time()
            if wait > 0:
                await asyncio.sleep(wait)
            elif number % 16 == 0:
                await asyncio.sleep(0)  # behind: still let the answers in
            written = time.time()
            at = send(number, planned)
            if planned.due >= self.warm:
                late.append(written - begun - planned.due)
                if planned.alerts:
                    sent[_key(self.people.ids[planned.patient], at)] = written
        return sent, 1000 * float(np.percentile(late, 99))


class _MllpRun(_Run):
    """The load as HL7 over several connections."""

    name = "MLLP"

    def __init__(self, stage: Stage, rate: int, address: tuple[str, int]) -> None:
        super().__init__(stage, rate)
        self._address = address
        self._messages = [self.people.message(one) for one in self.planned]

    async def prepare(self) -> None:
        """Admit everybody."""
        async with _Connections(self._address, CONNECTIONS) as connections:
            for number, message in enumerate(self.people.admissions()):
                connections.write(number, message)
                if number % 200 == 199:
                    await connections.answered(number + 1)
            await connections.answered(len(self.people.ids))

    async def run(self) -> tuple[Sent, float]:
        """Send all."""
        async with _Connections(self._address, CONNECTIONS) as connections:

            def send(number: int, planned: Planned) -> datetime:
                at = _now()
                connections.write(planned.patient, stamped(self._messages[number], at))
                return at

            result = await self._paced(send)
            await connections.answered(len(self.planned))
            return result


class _EchoRun(_Run):
    """The same load, written to Kafka at once."""

    name = "echo"

    def __init__(self, stage: Stage, rate: int, site: Site) -> None:
        super().__init__(stage, rate)
        self._site = site

    async def prepare(self) -> None:
        """Nothing to prepare."""

    async def run(self) -> tuple[Sent, float]:
        """Send all. Those that alert carry a header, by which the echo knows them."""
        producer = Producer({"bootstrap.servers": self._site.bootstrap, "acks": "all", "linger.ms": 0, "log_level": 2})
        topic = self._site.topic("clinical.vitals")

        def send(_: int, planned: Planned) -> datetime:
            at = _now()
            headers = [("alert", b"1")] if planned.alerts else None
            value = self.people.event(planned, at).model_dump_json()[:-1] + ',"state":"raised"}'
            producer.produce(topic, value.encode(), self.people.ids[planned.patient].encode(), headers=headers)
            producer.poll(0)
            return at

        result = await self._paced(send)
        await asyncio.to_thread(producer.flush)
        return result


class _Connections:
    """MLLP connections that never wait for an answer and check every one."""

    def __init__(self, address: tuple[str, int], number: int) -> None:
        self._address, self._number = address, number
        self._writers: list[asyncio.StreamWriter] = []
        self._readers: list[asyncio.Task[None]] = []
        self._positive = 0
        self._refused: list[str] = []

    async def __aenter__(self) -> "_Connections":
        for _ in range(self._number):
            reader, writer = await asyncio.open_connection(*self._address)
            self._writers.append(writer)
            self._readers.append(asyncio.create_task(self._read(reader)))
        return self

    def write(self, patient: int, message: bytes) -> None:
        """Write a message; those of one patient go over one connection."""
        self._writers[patient % self._number].write(frame(message))

    async def _read(self, reader: asyncio.StreamReader) -> None:
        framer = Framer(1 << 20)
        while data := await reader.read(65536):
            for one in framer.feed(data):
                ack = None if isinstance(one, Oversize) else read_ack(one)
                if ack is None or not ack.stored:
                    self._refused.append("no answer" if ack is None else f"{ack.code} {ack.text}")
                else:
                    self._positive += 1

    async def answered(self, count: int) -> None:
        """Wait until `count` messages were answered positively; any other answer is a failure."""
        deadline = time.monotonic() + _PATIENCE
        while self._positive < count:
            if self._refused:
                raise RuntimeError(f"{len(self._refused)} messages were refused: {self._refused[0]}")
            if time.monotonic() > deadline:
                raise TimeoutError(f"{self._positive} of {count} messages answered within {_PATIENCE:.0f} s")
            await asyncio.sleep(0.02)

    async def __aexit__(self, *_: object) -> None:
        for writer in self._writers:
            writer.close()
        for task in self._readers:
            task.cancel()
        await asyncio.gather(*self._readers, return_exceptions=True)
