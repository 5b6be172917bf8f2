"""Watches the topics as any Kafka client could, accounts for every input, measures latencies, keeps what the view shows."""

import asyncio
import re
from base64 import b64decode
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson
from aiokafka import AIOKafkaConsumer, TopicPartition

from connectors.objects import ObjectStore
from processors.events import TOPICS, ObjectReference
from processors.identity import content_hash
from streams.demo.play import Sent
from streams.kafka import aiokafka_config
from streams.settings import Settings

# Which lanes must account for an input on a topic.
LANES_OF = {
    "clinical.notes": ("notes-entities", "notes-vectors"),
    "clinical.images": ("images",),
    "clinical.vitals": ("vitals",),
}
_UID = re.compile(rb"[0-9]+(?:\.[0-9]+){2,}")  # what names a DICOM object, wherever in its bytes it stands
PATIENCE, MOST = 120.0, 900.0  # seconds: without any progress, in all
_NEWS = 10.0  # seconds between lines about what is waited for
_ONCE = ("clinical.entities", "clinical.findings", "clinical.scores")


@dataclass
class Account:
    """What was seen on the topics."""

    per_topic: Counter[str] = field(default_factory=Counter)
    inputs: dict[str, dict[str, float]] = field(default_factory=lambda: defaultdict(dict))  # topic -> id -> ms since 1970
    places: dict[str, tuple[str, int, int]] = field(default_factory=dict)  # input id -> topic, partition, offset
    done: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))  # lane -> input ids
    outputs: dict[str, dict[str, str]] = field(default_factory=lambda: defaultdict(dict))  # lane -> input id -> what came of it
    early: dict[str, dict[str, float]] = field(
        default_factory=lambda: defaultdict(dict)
    )  # lane -> inputs read after their audit
    latencies: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))  # lane -> ms
    origins: set[str] = field(default_factory=set)  # digests and message ids that reached a topic
    dead: Counter[str] = field(default_factory=Counter)
    alerts: Counter[str] = field(default_factory=Counter)
    ids: Counter[str] = field(default_factory=Counter)
    raised: Counter[str] = field(default_factory=Counter)
    objects: ObjectStore | None = None
    told: Callable[[dict[str, Any]], None] | None = None  # is told of each alert
    recent: deque[dict[str, Any]] = field(default_factory=lambda: deque(maxlen=8))

    def take(self, topic: str, record: Any) -> None:
        """Account for one record."""
        self.per_topic[topic] += 1
        body = orjson.loads(record.value)
        origin = body.get("origin")
        if origin:
            self.origins |= {origin["digest"], origin["message_id"]}
        if topic in LANES_OF:
            self.inputs[topic].setdefault(body["id"], record.timestamp)
            for lane in LANES_OF[topic]:
                if (at := self.early[lane].pop(body["id"], None)) is not None:
                    self.latencies[lane].append(at - record.timestamp)
            self.places.setdefault(body["id"], (topic, record.partition, record.offset))
        elif topic in _ONCE:
            self.ids[body["id"]] += 1
        elif topic == "clinical.audit" and body["action"] == "predict":
            self._audit(body, record.timestamp)
        elif topic == "clinical.dead-letters" and "stage" in body:  # else an operator's mark
            self.dead[body["stage"]] += 1
            self._dead(body)
        elif topic == "clinical.alerts" and "alert_id" in body:
            self.alerts[body["state"]] += 1
            self.raised[body["alert_id"]] += body["state"] == "raised"
            self.recent.append(body)
            if self.told is not None:
                self.told(body)

    def _audit(self, body: dict[str, Any], at: float) -> None:
        lane = body["agent"].partition("@")[0]
        topic = body["subject"].rpartition("/")[0]
        for entry in body["entries"]:
            if entry["input_id"] in self.done[lane]:
                continue
            self.done[lane].add(entry["input_id"])
            if entry.get("outcome") == "ok" and entry["event_id"] != entry["input_id"]:
                self.outputs[lane][entry["input_id"]] = entry["event_id"]
            known = self.inputs[topic].get(entry["input_id"])
            if known is None:  # topics are read side by side
                self.early[lane][entry["input_id"]] = at
            else:
                self.latencies[lane].append(at - known)

    def _dead(self, body: dict[str, Any]) -> None:
        original = b64decode(body["original_value"] or "")
        self.origins.add(content_hash(original))
        try:
            letter = orjson.loads(original)
        except orjson.JSONDecodeError:
            return
        if "sha256" in letter and self.objects is not None:  # an object that is too large for a letter: kept in the store
            held = self.objects.get_now(ObjectReference.model_validate(letter))
            self.origins |= {uid.decode() for uid in _UID.findall(held)}
        if body["lane"] in self.done or any(body["lane"] in lanes for lanes in LANES_OF.values()):
            self.done[body["lane"]].add(letter.get("id", ""))  # a lane's letter holds the input

    def missing(self) -> list[tuple[str, str]]:
        """Return (lane, input id) of what is on an input topic and not accounted for by a lane: by its audit and its output."""
        return [
            (lane, one)
            for topic, lanes in LANES_OF.items()
            for lane in lanes
            for one in self.inputs[topic]
            if one not in self.done[lane] or self._without_output(lane, one)
        ]

    def _without_output(self, lane: str, one: str) -> bool:
        output = self.outputs[lane].get(one)
        return output is not None and output not in self.ids

    def passed_over(self, committed: Mapping[tuple[str, str, int], int]) -> list[tuple[str, str]]:
        """Return those of the missing that their lane has passed: nothing will come of them any more.

        `committed`: what each lane has committed, by lane, topic and partition, as of before the topics were read to their ends.
        """
        found = []
        for lane, one in self.missing():
            topic, partition, offset = self.places[one]
            if offset < committed.get((lane, topic, partition), 0):
                found.append((lane, one))
        return found

    def duplicated(self) -> int:
        """Count outputs written more than once, and alerts raised more than once."""
        return sum(n - 1 for n in self.ids.values() if n > 1) + sum(n - 1 for n in self.raised.values() if n > 1)

    def percentile(self, lane: str, share: float) -> float | None:
        """Return a lane's latency: from the input's record to the audit record of its outputs, in ms."""
        values = sorted(self.latencies[lane])
        return values[min(len(values) - 1, int(share * len(values)))] if values else None


def unaccounted(sent: Iterable[Sent], account: Account) -> list[Sent]:
    """Return what was accepted at a socket and is on no topic, but for what the connector counts as ignored."""
    return [one for one in sent if one.accepted and not one.quiet and not one.keys & account.origins]


class Watcher:
    """Follows all topics from their beginning. Use as an async context manager."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.account = Account(objects=ObjectStore(settings.objects))
        self._consumer: AIOKafkaConsumer = None
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> "Watcher":
        kafka = self._settings.kafka
        self._consumer = AIOKafkaConsumer(
            **aiokafka_config(kafka),
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            fetch_max_wait_ms=20 if kafka.embedded else 100,
        )
        await self._consumer.start()
        partitions = []
        for topic in TOPICS:
            name = kafka.topic_prefix + topic
            await self._consumer._client.add_topic(name)
            partitions += [TopicPartition(name, p) for p in sorted(self._consumer.partitions_for_topic(name) or ())]
        self._consumer.assign(partitions)
        await self._consumer.seek_to_beginning()
        self._task = asyncio.create_task(self._follow(), name="watcher")
        return self

    async def __aexit__(self, *exc: object) -> None:
        assert self._task is not None
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        await self._consumer.stop()

    async def _follow(self) -> None:
        prefix = self._settings.kafka.topic_prefix
        while True:
            found = await self._consumer.getmany(timeout_ms=100, max_records=2000)
            for tp, records in found.items():
                for record in records:
                    self.account.take(tp.topic.removeprefix(prefix), record)

    async def settle(self, say: Callable[[str], None], *, patience: float = PATIENCE, most: float = MOST) -> bool:
        """Wait until every input is accounted for and nothing more comes.

        A note takes a slow machine seconds, and hundreds of them stand in line: as long as anything moves, it is waited for, and
        `say` is told. False if nothing moves for `patience` seconds, or if it takes longer than `most`.
        """
        clock = asyncio.get_running_loop().time
        began = said = moved = came = clock()
        inputs = done = -1
        while True:
            now, before = clock(), (inputs, done)
            inputs = sum(self.account.per_topic[topic] for topic in LANES_OF)
            done = sum(map(len, self.account.done.values()))
            came = came if inputs == before[0] else now
            moved = moved if (inputs, done) == before else now
            missing = self.account.missing()
            if now - came > 1.0 and not missing:
                return True
            if now - moved > patience or now - began > most:
                return not missing
            if missing and now - said > _NEWS:
                said = now
                say(
                    f"still at work: {in_lanes(missing)}; waiting while it moves, {patience:.0f} s without, {most:.0f} s at most"
                )
            await asyncio.sleep(0.1)

    async def catch_up(self, within: float = 30.0) -> bool:
        """Read to where all topics end now; False if that takes longer than `within` seconds."""
        try:
            async with asyncio.timeout(within):
                ends = await self._consumer.end_offsets(list(self._consumer.assignment()))
                for partition, end in ends.items():
                    while await self._consumer.position(partition) < end:  # noqa: ASYNC110 - `_follow` moves it
                        await asyncio.sleep(0.05)
        except TimeoutError:
            return False
        return True


def in_lanes(missing: Iterable[tuple[str, str]]) -> str:
    """Say how many are where: `22 in notes-entities`."""
    return ", ".join(f"{count} in {lane}" for lane, count in Counter(lane for lane, _ in missing).items())
