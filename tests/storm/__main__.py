"""Runs the storm; see the package's docstring."""

import argparse
import asyncio
import json
import random
import sys
import tempfile
import time
from contextlib import ExitStack, suppress
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from confluent_kafka import KafkaException, Producer
from confluent_kafka.admin import AdminClient, NewTopic

from connectors.objects import ObjectStore
from connectors.objects.settings import ObjectSettings
from processors.events import TOPICS, ObjectReference
from streams.journal import TOPIC as JOURNAL
from tests import load
from tests.kafka import local_kafka
from tests.qdrant import binary, qdrant_server
from tests.storm.verify import GROUPS, Ledger, reckon
from tests.surroundings import commit, machine
from tests.vitals import LaneProcess, patient, vitals

LANES = ("vitals", "notes-entities", "notes-vectors", "images")
PARTITIONS = 4
FILMS = 24  # images differ in what refers to them


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.storm", description=__doc__)
    parser.add_argument("--notes", type=int, default=20_000)
    parser.add_argument("--images", type=int, default=2_000)
    parser.add_argument("--vitals", type=int, default=200_000)
    parser.add_argument("--kills", type=int, default=20, help="SIGKILLs of each lane, at least")
    parser.add_argument("--minutes", type=float, default=60.0, help="give up after this long")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="vigil-storm-", ignore_cleanup_errors=True)))
        kafka = stack.enter_context(local_kafka())
        program = binary()
        if program is None:
            sys.exit("the storm needs a real Qdrant server: set VIGIL_TEST_QDRANT_BIN to its binary")
        qdrant = stack.enter_context(qdrant_server(program))
        storm = Storm(arguments, folder, kafka.bootstrap, qdrant.url)
        result = asyncio.run(storm.run())
    result |= {"commit": commit(), "machine": machine(), "seed": arguments.seed}
    result["date"] = datetime.now(UTC).date().isoformat()
    print(json.dumps(result, indent=2))
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=2) + "\n")
    return 0 if not result["wrong"] else 1


class Storm:
    """Load, kills, joins, and the reckoning."""

    def __init__(self, arguments: argparse.Namespace, folder: Path, bootstrap: str, qdrant: str) -> None:
        self.arguments = arguments
        self.folder = folder
        self.bootstrap = bootstrap
        self.qdrant = qdrant
        self.prefix = "storm."
        self.accepted: dict[str, set[str]] = {}
        self.kills: dict[str, int] = dict.fromkeys(LANES, 0)
        self.joins = 0
        self.behind: dict[str, tuple[int, int]] = {}  # lane -> records now, and at most
        self.over = asyncio.Event()
        self.random = random.Random(arguments.seed)
        self.env = {
            "VIGIL_KAFKA__BOOTSTRAP": bootstrap,
            "VIGIL_KAFKA__TOPIC_PREFIX": self.prefix,
            "VIGIL_VECTORS__URL": qdrant,
            "VIGIL_OBJECTS__URL": str(folder / "objects"),
            "VIGIL_ENGINE__SESSION_TIMEOUT": "6",
            "VIGIL_ENGINE__HEARTBEAT_INTERVAL": "1",
            "VIGIL_STATE__SNAPSHOT_SECONDS": "5",
            "VIGIL_WORKER__HOST": "storm",
            # Else the language and image lanes get what nobody else wants, which on a busy machine is nothing.
            "VIGIL_LANES__NOTES_ENTITIES__NICE": "0",
            "VIGIL_LANES__NOTES_VECTORS__NICE": "0",
            "VIGIL_LANES__IMAGES__NICE": "0",
            "VIGIL_MODELS__CACHE__MEGABYTES": "0",  # every input is to be worked on
        }

    async def run(self) -> dict[str, Any]:
        began = time.monotonic()
        self._create_topics()
        workers = {lane: self._worker(lane, 0) for lane in LANES}
        for worker in workers.values():
            worker.start()
        try:
            feeding = asyncio.create_task(asyncio.to_thread(self._feed))
            raging = [asyncio.create_task(self._rage(lane, worker)) for lane, worker in workers.items()]
            await feeding
            settled = await self._settle(began)
            self.over.set()
            await asyncio.gather(*raging)
        finally:
            codes = {lane: worker.stop() for lane, worker in workers.items()}
        found = await asyncio.to_thread(reckon, self.bootstrap, self.prefix, self.qdrant, self.accepted)
        if not settled:
            found.wrong.append(f"not settled within {self.arguments.minutes} minutes")
        return {
            **asdict(found),
            "kills": self.kills,
            "joins_and_leaves": self.joins,
            "exit_codes_after_sigterm": codes,
            "seconds": round(time.monotonic() - began, 1),
        }

    def _worker(self, lane: str, slot: int) -> LaneProcess:
        env = {**self.env, "VIGIL_WORKER__SLOT": str(slot)}
        return LaneProcess(lane, env, self.folder / f"{lane}-{slot}.log")

    async def _rage(self, lane: str, worker: LaneProcess) -> None:
        """Kill the lane again and again at random moments; now and then a second worker joins and leaves, in order or not."""
        while not await self._is_over(self.random.uniform(1.0, 15.0) * (1 if self._owes(lane) else 4)):
            if not self._due(lane):
                continue
            if self.random.random() < 0.25:
                second = self._worker(lane, 1)
                second.start()
                await asyncio.sleep(self.random.uniform(4.0, 12.0))
                await asyncio.to_thread(second.stop if self.random.random() < 0.5 else second.kill)
                self.joins += 1
            await asyncio.to_thread(worker.kill)
            self.kills[lane] += 1
            worker.start()
            print(f"[{time.strftime('%H:%M:%S')}] {lane} killed {self.kills[lane]}/{self.arguments.kills}", file=sys.stderr)

    def _due(self, lane: str) -> bool:
        """Spread the kills over the lane's work, however slow the machine; now and then kill while it still starts or restores."""
        behind, most = self.behind.get(lane, (0, 0))
        done = 1.0 - behind / most if most else 1.0
        return self.kills[lane] <= done * self.arguments.kills or self.random.random() < 0.1

    def _owes(self, lane: str) -> bool:
        return self.kills[lane] < self.arguments.kills

    async def _is_over(self, within: float) -> bool:
        """Wait so long; tell whether everything was worked off meanwhile."""
        with suppress(TimeoutError):
            async with asyncio.timeout(within):
                await self.over.wait()
        return self.over.is_set()

    async def _settle(self, began: float) -> bool:
        """Wait until every lane was killed as often as asked and everything is committed."""
        ledger = Ledger(self.bootstrap, self.prefix)
        while time.monotonic() - began < self.arguments.minutes * 60:
            try:
                behind = {
                    g: sum([await asyncio.to_thread(ledger.behind, g, t) for t in topics]) for g, topics in GROUPS.items()
                }
            except KafkaException as error:  # the broker makes its own topic of offsets when the first group asks
                print(f"[{time.strftime('%H:%M:%S')}] {error}; asked again", file=sys.stderr)
                await asyncio.sleep(5)
                continue
            print(f"[{time.strftime('%H:%M:%S')}] behind: {behind}", file=sys.stderr)
            for group, left in behind.items():
                lane = group.removeprefix("vigil.")
                self.behind[lane] = (left, max(left, self.behind.get(lane, (0, 0))[1]))
            if not any(behind.values()) and not any(self._owes(lane) for lane in LANES):
                return True
            await asyncio.sleep(5)
        return False

    def _create_topics(self) -> None:
        admin = AdminClient({"bootstrap.servers": self.bootstrap})
        topics = [NewTopic(self.prefix + name, PARTITIONS, 1) for name in (*TOPICS, JOURNAL)]
        for future in admin.create_topics(topics, operation_timeout=30).values():
            future.result()

    def _films(self) -> list[ObjectReference]:
        store = ObjectStore(ObjectSettings(url=self.env["VIGIL_OBJECTS__URL"]))
        return [store.put_now(data, "image/png", ".png") for _, data in load.pixel_objects(self.arguments.seed, FILMS)]

    def _feed(self) -> None:
        """Write everything, as fast as the broker confirms; what it confirmed is what was accepted."""
        producer = Producer(
            {
                "bootstrap.servers": self.bootstrap,
                "acks": "all",
                "enable.idempotence": True,
                "linger.ms": 20,
                "partitioner": "murmur2_random",
            }
        )
        a = self.arguments
        patients = max(20, min(2000, a.vitals // 100))
        sets = max(1, a.vitals // patients)
        start = datetime.now(UTC) - timedelta(hours=2)
        feeds = {
            "clinical.patients": [patient(n, start) for n in range(patients)],
            "clinical.notes": load.notes(a.seed, a.notes),
            "clinical.images": load.images(a.seed, a.images, self._films()),
            "clinical.vitals": vitals(patients, sets, start, every=timedelta(hours=2) / sets, seed=a.seed),
        }
        for topic, events in feeds.items():
            accepted: set[str] = self.accepted.setdefault(topic, set()) if topic != "clinical.patients" else set()

            def stored(error: Any, message: Any, accepted: set[str] = accepted) -> None:
                if error is None:
                    accepted.add(json.loads(message.value())["id"])

            for event in events:
                while True:
                    try:
                        value = event.model_dump_json().encode()
                        producer.produce(self.prefix + topic, value, event.patient_id.encode(), on_delivery=stored)
                        break
                    except BufferError:
                        producer.poll(0.1)
                producer.poll(0)
            producer.flush()


if __name__ == "__main__":
    sys.exit(main())
