"""The verifier: knows what the senders were told, reads topics, group offsets and Qdrant, and uses nothing of Vigil's code."""

import json
from base64 import b64decode
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any, NamedTuple

from confluent_kafka import OFFSET_BEGINNING, Consumer, Message, TopicPartition
from qdrant_client import QdrantClient


@dataclass
class Reckoning:
    """What the verifier found; `wrong` holds a line for everything that breaks the promise."""

    accepted: dict[str, int] = field(default_factory=dict)
    outputs: dict[str, int] = field(default_factory=dict)
    repeats: dict[str, int] = field(default_factory=dict)  # records beyond the first of an id: allowed, counted
    dead_letters: dict[str, int] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)

    def blame(self, text: str, items: Any) -> None:
        """Note what is wrong, if anything is."""
        items = list(items)
        if items:
            self.wrong.append(f"{text}: {len(items)}, e.g. {items[:3]}")


@dataclass(slots=True)
class Came:
    """One input as it lies on its topic, and what came of it: what the audit has to say of it."""

    digests: set[str] = field(default_factory=set)  # SHA-256, hex, of the records that brought it; none: it lies there no more
    patients: set[str] = field(default_factory=set)
    outputs: dict[str, str] = field(default_factory=dict)  # id -> whose it is
    dead: bool = False  # a dead letter is about it
    erased: bool = False  # its outputs may be gone, with their topic


class Ledger:
    """Reads a cluster's topics."""

    def __init__(self, bootstrap: str, prefix: str) -> None:
        self._bootstrap, self._prefix = bootstrap, prefix

    def read(self, topic: str) -> Iterator[tuple[int, int, dict[str, Any]]]:
        """Yield (partition, offset, body) of every record."""
        for partition, offset, value in self.values(topic):
            yield partition, offset, json.loads(value)

    def values(self, topic: str) -> Iterator[tuple[int, int, bytes]]:
        """Yield (partition, offset, value) of every record, as it stands."""
        for message in self.records(topic):
            yield message.partition(), message.offset(), message.value()

    def records(self, topic: str) -> Iterator[Message]:
        """Yield every record, as the client gives it."""
        consumer = Consumer(
            {
                "bootstrap.servers": self._bootstrap,
                "group.id": "storm-verifier",
                "enable.auto.commit": False,
                "isolation.level": "read_committed",
            }
        )
        try:
            name = self._prefix + topic
            partitions = consumer.list_topics(name, timeout=30).topics[name].partitions
            left, most = {}, 0
            for number in partitions:
                low, high = consumer.get_watermark_offsets(TopicPartition(name, number), timeout=30)
                if high > low:
                    left[number] = high
                    most += high - low
            consumer.assign([TopicPartition(name, number, OFFSET_BEGINNING) for number in left])
            while left:
                for message in consumer.consume(
                    min(5000, max(1, most)), timeout=1.0
                ):  # it waits for as many as it is asked for
                    most -= 1
                    if message.error():
                        raise RuntimeError(str(message.error()))
                    yield message
                    if message.offset() + 1 >= left.get(message.partition(), 0):
                        left.pop(message.partition(), None)
        finally:
            consumer.close()

    def behind(self, group: str, topic: str) -> int:
        """Return how many records lie between the group's commit and the end."""
        consumer = Consumer({"bootstrap.servers": self._bootstrap, "group.id": self._prefix + group})
        try:
            name = self._prefix + topic
            numbers = consumer.list_topics(name, timeout=30).topics[name].partitions
            found = consumer.committed([TopicPartition(name, n) for n in numbers], timeout=30)
            behind = 0
            for one in found:
                _, high = consumer.get_watermark_offsets(TopicPartition(name, one.partition), timeout=30)
                behind += high - max(one.offset, 0)
            return behind
        finally:
            consumer.close()


GROUPS = {
    "vigil.notes-entities": ("clinical.notes",),
    "vigil.notes-vectors": ("clinical.notes",),
    "vigil.images": ("clinical.images",),
    "vigil.vitals": ("clinical.vitals", "clinical.patients"),
}
AUDITED = (
    ("notes-entities", "clinical.notes"),
    ("notes-vectors", "clinical.notes"),
    ("images", "clinical.images"),
    ("vitals", "clinical.vitals"),
)
OUTPUT_OF = {
    "clinical.notes": ("clinical.entities", "notes-entities"),
    "clinical.images": ("clinical.findings", "images"),
    "clinical.vitals": ("clinical.scores", "vitals"),
}


class Entry(NamedTuple):
    """One entry of a lane's audit."""

    input_id: str
    event_id: str
    digest: str
    patient: str
    outcome: str


def entries(bodies: Iterable[Mapping[str, Any]], lane: str) -> Iterator[Entry]:
    """Yield what audit records say of a lane's inputs."""
    for body in bodies:
        if body["action"] == "predict" and body["agent"].partition("@")[0] == lane:
            for one in body["entries"]:
                told = one.get("event_id", ""), one.get("input_digest", ""), one.get("patient_id", "")
                yield Entry(one["input_id"], *told, one["outcome"])


def untrue(told: Iterable[Entry], came: Mapping[str, Came], *, makes: bool) -> dict[str, list[str]]:
    """Return the ids of inputs of which the audit says what neither they nor their outputs bear out, by what that is.

    `makes`: the lane has a topic of outputs, else an entry is about the input itself. Which of the words for an input without an
    output is right (`no-text`, `outdated`, ...) is for the caller to say.
    """
    wrong: dict[str, set[str]] = defaultdict(set)
    for one in told:
        known = came.get(one.input_id)
        if known is None:
            wrong["audit entries of what was never accepted"].add(one.input_id)
            continue
        if known.digests and one.digest not in known.digests:
            wrong["audit entries with another digest than their input's"].add(one.input_id)
        whose = {known.outputs[one.event_id]} if one.event_id in known.outputs else known.patients
        if whose and one.patient not in whose:
            wrong["audit entries that name another patient"].add(one.input_id)
        itself = one.event_id == one.input_id
        match one.outcome:
            case "ok" | "withdraws":
                fits = (one.event_id in known.outputs or known.erased) if makes else itself
            case "dead-letter":
                fits = known.dead and itself
            case "repeat":
                fits = itself and bool(known.outputs or known.erased)
            case _:
                fits = itself or one.event_id in known.outputs
        if not fits:
            wrong["audit entries whose outcome or output is not what came of their input"].add(one.input_id)
    return {words: sorted(ids) for words, ids in wrong.items()}


def reckon(bootstrap: str, prefix: str, qdrant_url: str, accepted: Mapping[str, set[str]]) -> Reckoning:
    """Hold what came out against what was accepted (topic -> event ids)."""
    ledger, found = Ledger(bootstrap, prefix), Reckoning()
    found.accepted = {topic: len(ids) for topic, ids in accepted.items()}
    dead: dict[str, set[str]] = defaultdict(set)
    for _, _, letter in ledger.read("clinical.dead-letters"):
        dead[letter["lane"]].add(json.loads(b64decode(letter["original_value"])).get("id", "?"))
    found.dead_letters = {lane: len(ids) for lane, ids in dead.items()}
    for topic, ids in accepted.items():
        _outputs(ledger, found, topic, ids, dead)
    alerts(ledger, found)
    _audit(ledger, found, accepted, dead)
    _vectors(QdrantClient(url=qdrant_url), found, accepted, dead)
    for group, topics in GROUPS.items():
        for topic in topics:
            behind = ledger.behind(group, topic)
            if behind:
                found.wrong.append(f"{group} is {behind} records behind on {topic}")
    return found


def _outputs(ledger: Ledger, found: Reckoning, topic: str, ids: set[str], dead: Mapping[str, set[str]]) -> None:
    output, lane = OUTPUT_OF[topic]
    of_input: dict[str, set[str]] = defaultdict(set)
    said: dict[str, str] = {}
    other: dict[str, tuple[str, ...]] = {}  # of a repeat that says something else, the fields that differ
    records = 0
    for _, _, body in ledger.read(output):
        if body["source"].get("topic", topic) != topic:  # scored anew by a context that was read after the set
            continue
        records += 1
        of_input[body["source"]["event_id"]].add(body["id"])
        text = json.dumps({**body, "source": None}, sort_keys=True)
        if (first := said.setdefault(body["id"], text)) != text:
            before = json.loads(first)
            other[body["id"]] = tuple(
                sorted(name for name in before.keys() | body.keys() - {"source"} if before.get(name) != body.get(name))
            )
    found.outputs[output] = len(said)
    found.repeats[output] = records - len(said)
    have = set(of_input)
    found.blame(f"{topic}: accepted, and neither output nor dead letter", ids - have - dead.get(lane, set()))
    found.blame(f"{topic}: both output and dead letter", have & dead.get(lane, set()))
    found.blame(f"{topic}: outputs of what was never accepted", have - ids)
    found.blame(f"{output}: inputs with several logical outputs", [i for i, outs in of_input.items() if len(outs) > 1])
    for fields, number in Counter(other.values()).items():
        example = next(i for i, differs in other.items() if differs == fields)
        found.wrong.append(f"{output}: {number} repeats say something else in {', '.join(fields)}, e.g. {example}")


def alerts(ledger: Ledger, found: Reckoning) -> int:
    """Count what was said of alerts; return how many were raised twice or took a step twice, and blame them."""
    raised: dict[str, set[str]] = defaultdict(set)
    steps: dict[tuple[str, int], set[str]] = defaultdict(set)
    records: Counter[str] = Counter()
    for _, _, body in ledger.read("clinical.alerts"):
        if "alert_id" not in body:
            continue
        records[body["id"]] += 1
        steps[body["alert_id"], body["sequence"]].add(body["id"])
        if body["state"] == "raised":
            raised[body["alert_id"]].add(body["id"])
    found.outputs["alerts raised"] = len(raised)
    found.repeats["clinical.alerts"] = sum(n - 1 for n in records.values())
    twice = [alert for alert, ids in raised.items() if len(ids) > 1]
    split = [step for step, ids in steps.items() if len(ids) > 1]
    found.blame("alerts raised more than once", twice)
    found.blame("alerts with two different steps of one number", split)
    return len(twice) + len(split)


def _audit(ledger: Ledger, found: Reckoning, accepted: Mapping[str, set[str]], dead: Mapping[str, set[str]]) -> None:
    """Hold the audit of every lane against what was accepted and what came of it."""
    for lane, topic in AUDITED:
        if topic not in accepted:
            continue
        output, maker = OUTPUT_OF[topic]
        came = {one: Came(dead=one in dead.get(lane, ())) for one in accepted[topic]}
        contexts = ("clinical.patients",) if lane == "vitals" else ()  # where it scores anew
        for source in (topic, *contexts):
            for _, _, value in ledger.values(source):
                body = json.loads(value)
                known = came.setdefault(body["id"], Came()) if source in contexts else came.get(body["id"])
                if known is not None:
                    known.digests.add(sha256(value).hexdigest())
                    known.patients.add(body["patient_id"])
        if lane == maker:
            for _, _, body in ledger.read(output):
                if body["source"]["event_id"] in came:
                    came[body["source"]["event_id"]].outputs[body["id"]] = body["patient_id"]
        told = set(entries((body for _, _, body in ledger.read("clinical.audit")), lane))
        found.blame(f"{lane}: predictions without an audit entry", accepted[topic] - {one.input_id for one in told})
        for words, ids in untrue(told, came, makes=lane == maker).items():
            found.blame(f"{lane}: {words}", ids)


def _vectors(client: QdrantClient, found: Reckoning, accepted: Mapping[str, set[str]], dead: Mapping[str, set[str]]) -> None:
    for collection, topic, lane in (("notes", "clinical.notes", "notes-vectors"), ("images", "clinical.images", "images")):
        if topic not in accepted:
            continue
        versions: set[str] = set()
        points, offset = 0, None
        while True:
            page, offset = client.scroll(collection, limit=5000, offset=offset, with_payload=["version"], with_vectors=False)
            points += len(page)
            versions |= {point.payload["version"] for point in page}
            if offset is None:
                break
        found.outputs[f"points in {collection}"] = points
        found.blame(f"{collection}: accepted, and no vector", accepted[topic] - versions - dead.get(lane, set()))
        found.blame(f"{collection}: vectors of what was never accepted", versions - accepted[topic])
