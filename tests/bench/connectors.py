"""How many messages a second the connectors acknowledge, which means: stored in Kafka. `python -m tests.bench connectors`.

    senders --C connections, each waits for its answer--> vigil serve --acks=all--> one local broker

Beside each, on the same broker, just before and just after: a plain librdkafka producer (`acks=all`) writes what such a message
becomes, with as many records in flight as there are connections. It parses nothing and answers nobody, so the ratio is what the
whole connector (socket, parser, mapping, identity, encoding, answer) leaves of what the broker allows. "cpu_us" is the CPU time of
`vigil serve` for one message; unlike rates it hardly changes when the machine is busy with other things.
"""

import asyncio
import itertools
import multiprocessing
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import numpy as np
import orjson
from confluent_kafka import Producer

from processors.events import TOPICS
from tests.bench.programs import Program
from tests.bench.rate import create, fill
from tests.bench.stage import PARTITIONS
from tests.dicom_objects import make
from tests.fhir_resources import MRN, observation
from tests.hl7_messages import obx, vitals
from tests.kafka import Kafka

CONNECTIONS: Final = (1, 4, 16, 64)
ASSOCIATIONS: Final = (1, 4, 16)
PATIENTS: Final = 500
BATCH: Final = 50  # entries of a FHIR batch
SIDE: Final = 256  # pixels of an image's side, 16 bits each
_PREFIX: Final = "connectors."


@dataclass(frozen=True, slots=True)
class Plan:
    """Seconds of each measurement and of the warm-up before it."""

    seconds: float = 6.0
    warm: float = 1.5
    connections: tuple[int, ...] = CONNECTIONS
    associations: tuple[int, ...] = ASSOCIATIONS


QUICK = Plan(seconds=1.0, warm=0.5, connections=(1, 4), associations=(1,))


@dataclass(frozen=True, slots=True)
class Point:
    """One measurement. Rates a second; `producer_per_s`: before and after; `cpu_us`: of `vigil serve`, each message."""

    feed: str
    connections: int
    per_s: float
    producer_per_s: tuple[float, float]
    ratio: float
    cpu_us: float
    p50_ms: float
    p99_ms: float


class Negative(RuntimeError):
    """An answer that is not positive: nothing was overloaded, so there should be none."""


Exchange = Callable[[], Awaitable[None]]  # sends one message and returns once its positive answer is there


# ------------------------------------------------------------------------------------------------------------------------- feeds


def hl7_messages(tag: str) -> Iterator[bytes]:
    """Frames, no two alike: four vital signs of a bedside gateway, as PCD-01 senders pack them."""
    for number in itertools.count():
        at = datetime.now(UTC).strftime("%Y%m%d%H%M%S.%f")[:-2] + "+0000"
        lines = (
            obx("8867-4^Heart rate^LN", str(50 + number % 60), "/min^^UCUM"),
            obx("9279-1^Respiration^LN", str(12 + number % 8), "/min^^UCUM", number=2),
            obx("59408-5^SpO2^LN", str(94 + number % 6), "%^^UCUM", number=3),
            obx("8480-6^Systolic^LN", str(100 + number % 50), "mm[Hg]^^UCUM", number=4),
        )
        pid = f"PID|1||{1 + number % PATIENTS}^^^HOSP^MR"
        yield b"\x0b" + vitals(*lines, pid=pid, obr=f"OBR|1||F{number}|VS|||{at}", control_id=f"{tag}-{number}") + b"\x1c\r"


def fhir_requests(tag: str, host: str, entries: int) -> Iterator[bytes]:
    """HTTP requests, no two alike: an Observation, or a batch of them."""
    for number in itertools.count():
        at = datetime.now(UTC).isoformat()
        made = [
            observation(
                value=50 + n % 60,
                effectiveDateTime=at,
                subject={"identifier": {"system": MRN, "value": str(1 + (number + n) % PATIENTS)}},
                identifier=[{"system": "urn:bench", "value": f"{tag}-{number}-{n}"}],
            )
            for n in range(entries)
        ]
        request = {"method": "POST", "url": "Observation"}
        bundle = {"resourceType": "Bundle", "type": "batch", "entry": [{"resource": one, "request": request} for one in made]}
        body = orjson.dumps(made[0] if entries == 1 else bundle)
        path = "/fhir/Observation" if entries == 1 else "/fhir"
        head = f"POST {path} HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/fhir+json\r\nContent-Length: {len(body)}\r\n\r\n"
        yield head.encode() + body


@dataclass
class Talk:
    """One connection."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    messages: Iterator[bytes]

    async def mllp(self) -> None:
        self.writer.write(next(self.messages))
        answer = await self.reader.readuntil(b"\x1c\r")
        if b"\rMSA|AA|" not in answer:
            raise Negative("an answer that is not AA")

    async def http(self) -> None:
        self.writer.write(next(self.messages))
        head = await self.reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length:")[2].partition(b"\r")[0])
        body = await self.reader.readexactly(length)
        if head[9:12] not in (b"200", b"201") or b'"status":"4' in body:
            raise Negative(f"an answer {head[9:12].decode()}")


@dataclass(frozen=True, slots=True)
class Counted:
    """What one run of senders came to."""

    n: int
    seconds: float
    ms: Sequence[float]


async def _talk(
    address: tuple[str, int], connections: int, plan: Plan, open_talk: Callable[[int, Any, Any], Exchange]
) -> Counted:
    """Keep `connections` senders busy for the plan's time; count the exchanges that began after the warm-up and ended in it."""
    streams = [await asyncio.open_connection(*address) for _ in range(connections)]
    begin = time.perf_counter() + plan.warm
    end = begin + plan.seconds
    taken: list[float] = []

    async def send(exchange: Exchange) -> None:
        while (at := time.perf_counter()) < end:
            await exchange()
            if at >= begin:
                taken.append(1000 * (time.perf_counter() - at))

    async with asyncio.TaskGroup() as group:
        for number, (reader, writer) in enumerate(streams):
            group.create_task(send(open_talk(number, reader, writer)))
    for _, writer in streams:
        writer.close()
    return Counted(len(taken), time.perf_counter() - begin, taken)


def mllp(address: tuple[str, int], connections: int, plan: Plan, tag: str) -> Counted:
    """MLLP senders."""
    return asyncio.run(_talk(address, connections, plan, lambda n, r, w: Talk(r, w, hl7_messages(f"{tag}-{n}")).mllp))


def fhir(address: tuple[str, int], connections: int, plan: Plan, tag: str, entries: int = 1) -> Counted:
    """FHIR senders; a batch counts as its entries."""
    host = f"{address[0]}:{address[1]}"
    found = asyncio.run(
        _talk(address, connections, plan, lambda n, r, w: Talk(r, w, fhir_requests(f"{tag}-{n}", host, entries)).http)
    )
    return replace(found, n=found.n * entries)


def dicom(address: tuple[str, int], connections: int, plan: Plan, tag: str) -> Counted:
    """C-STORE senders: pynetdicom, whose own cost is in the rate."""
    from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid
    from pynetdicom import AE

    begin = time.perf_counter() + plan.warm
    end = begin + plan.seconds

    def send(number: int) -> list[float]:
        pixels = np.random.default_rng(number).integers(0, 4096, (SIDE, SIDE)).astype(np.uint16)
        image, entity, taken = make(pixels), AE(), []
        entity.add_requested_context(CTImageStorage, ExplicitVRLittleEndian)
        association = entity.associate(*address)
        if not association.is_established:
            raise Negative("no association")
        while (at := time.perf_counter()) < end:
            image.SOPInstanceUID = image.file_meta.MediaStorageSOPInstanceUID = generate_uid()
            image.PixelData = at.hex().encode().ljust(32)[:32] + image.PixelData[32:]  # no two alike in the object store
            if association.send_c_store(image).get("Status") != 0x0000:
                raise Negative("a status that is not 0000")
            if at >= begin:
                taken.append(1000 * (time.perf_counter() - at))
        association.release()
        return taken

    with ThreadPoolExecutor(connections) as pool:
        ms = [one for taken in pool.map(send, range(connections)) for one in taken]
    return Counted(len(ms), time.perf_counter() - begin, ms)


SENDERS: Final[dict[str, Callable[..., Counted]]] = {"mllp": mllp, "fhir": fhir, "dicom": dicom}


def _apart(sender: str, *given: Any) -> Counted:
    """Run senders in a process of their own, so that what this one holds does not slow them."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(SENDERS[sender], given)


# ---------------------------------------------------------------------------------------------------------------------- producer


def producer(bootstrap: str, topic: str, records: Sequence[tuple[bytes, bytes]], in_flight: int, plan: Plan) -> float:
    """Return the records a second that a plain producer gets confirmed with so many in flight."""
    writer = Producer({"bootstrap.servers": bootstrap, "acks": "all", "linger.ms": 0, "partitioner": "murmur2_random"})
    supply = itertools.cycle(records)
    begin = time.perf_counter() + plan.warm
    end = begin + plan.seconds / 2
    counted, open_ = 0, 0

    def confirmed(error: Any, _: Any) -> None:
        nonlocal counted, open_
        if error is not None:
            raise RuntimeError(str(error))
        open_ -= 1
        counted += time.perf_counter() >= begin

    while time.perf_counter() < end:
        while open_ < in_flight:
            key, value = next(supply)
            writer.produce(topic, value, key, on_delivery=confirmed)
            open_ += 1
        writer.poll(0.1)
    writer.flush()
    return counted / (time.perf_counter() - begin)


def limit(bootstrap: str, topic: str, records: Sequence[tuple[bytes, bytes]]) -> float:
    """Return the records a second that the broker confirms when they are batched at will."""
    many = list(itertools.islice(itertools.cycle(records), 60_000))
    began = time.perf_counter()
    fill(bootstrap, topic, many)
    return len(many) / (time.perf_counter() - began)


# ------------------------------------------------------------------------------------------------------------------------- a run


@dataclass
class Bench:
    """A broker, `vigil serve` on it, and what each feed's messages become."""

    bootstrap: str
    edge: Program
    addresses: dict[str, tuple[str, int]]
    plan: Plan
    say: Callable[[str], None]

    def point(self, feed: str, sender: str, connections: int, records: Sequence[tuple[bytes, bytes]], *more: Any) -> Point:
        """Measure one feed at one number of connections, between two measurements of the producer."""
        plan, topic, address = self.plan, f"{_PREFIX}plain", self.addresses[sender]
        before = producer(self.bootstrap, topic, records, connections, plan)
        cpu = self.edge.cpu
        found = _apart(sender, address, connections, plan, f"{feed}{connections}-{time.time_ns()}", *more)
        # the warm-up's CPU is in: the share of the time that counts is taken
        used = (self.edge.cpu - cpu) * plan.seconds / (plan.seconds + plan.warm)
        after = producer(self.bootstrap, topic, records, connections, plan)
        self.edge.check()
        rate = found.n / found.seconds
        middle, worst = (float(np.percentile(found.ms, which)) for which in (50, 99))
        ratio = 2 * rate / (before + after)
        self.say(f"{feed}, {connections} connections: {rate:,.0f}/s, {1e6 * used / found.n:,.0f} µs CPU each, "
                 f"p99 {worst:.1f} ms; producer {before:,.0f} and {after:,.0f}/s")  # fmt: skip
        return Point(
            feed,
            connections,
            round(rate, 1),
            (round(before, 1), round(after, 1)),
            round(ratio, 3),
            round(1e6 * used / found.n, 1),
            round(middle, 2),
            round(worst, 2),
        )

    def samples(self, topic: str) -> list[tuple[bytes, bytes]]:
        """Return what a topic holds, to be written again by the plain producer."""
        found = Kafka("given", self.bootstrap).read(_PREFIX + topic)
        return [(one.key or b"", one.value or b"") for one in found[:2000]]


@contextmanager
def serving(bootstrap: str, folder: Path, plan: Plan, say: Callable[[str], None]) -> Iterator[Bench]:
    """Run `vigil serve` with three connectors on topics of its own."""
    create(bootstrap, [_PREFIX + topic for topic in (*TOPICS, "plain")], PARTITIONS)
    where = folder / "addresses.json"
    env = {
        "VIGIL_KAFKA__BOOTSTRAP": bootstrap,
        "VIGIL_KAFKA__TOPIC_PREFIX": _PREFIX,
        "VIGIL_OBJECTS__URL": str(folder / "objects"),
        "VIGIL_CONNECTORS__ENABLED": '["mllp","fhir","dicom"]',
        "VIGIL_CONNECTORS__DICOM__MIN_FREE_BYTES": "1000",
        "VIGIL_CONNECTORS__DICOM__ASSOCIATIONS_OF_ONE": str(max(ASSOCIATIONS)),
        "VIGIL_WORKER__HEALTH_PORT": "0",
        **{f"VIGIL_CONNECTORS__{name}__PORT": "0" for name in ("MLLP", "FHIR", "DICOM")},
    }
    with Program(["-m", "streams.cli", "serve", "--addresses", str(where)], env, folder / "serve.log") as edge:
        deadline = time.monotonic() + 60
        while not where.exists():
            edge.check()
            if time.monotonic() > deadline:
                raise TimeoutError(f"vigil serve has no addresses:\n{edge.log.read_text()[-2000:]}")
            time.sleep(0.1)
        addresses = {name: (host, port) for name, (host, port) in orjson.loads(where.read_bytes()).items()}
        yield Bench(bootstrap, edge, addresses, plan, say)


def measure(bootstrap: str, folder: Path, plan: Plan, say: Callable[[str], None], feeds: Sequence[str]) -> dict[str, Any]:
    """Take all points; returns the JSON's part that is measured."""
    points: list[Point] = []
    with serving(bootstrap, folder, plan, say) as bench:
        warm = replace(plan, seconds=0.5, warm=0)
        _apart("mllp", bench.addresses["mllp"], 4, warm, f"first-{time.time_ns()}")
        sets = bench.samples("clinical.vitals")
        most = limit(bootstrap, f"{_PREFIX}plain", sets)
        say(f"the broker confirms {most:,.0f} records/s of {len(sets[0][1])} bytes when they are batched at will")
        if "mllp" in feeds:
            points += [bench.point("mllp", "mllp", n, sets) for n in plan.connections]
        if "fhir" in feeds:
            points += [bench.point("fhir", "fhir", n, sets) for n in plan.connections]
            points += [bench.point("fhir-batch", "fhir", n, sets, BATCH) for n in plan.connections[:2]]
        if "dicom" in feeds:
            _apart("dicom", bench.addresses["dicom"], 1, warm, "first")
            images = bench.samples("clinical.images")
            points += [bench.point("dicom", "dicom", n, images) for n in plan.associations]
    return {"broker_limit_per_s": round(most), "record_bytes": len(sets[0][1]), "points": [asdict(one) for one in points]}
