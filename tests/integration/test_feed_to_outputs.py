"""From the senders' sockets to the outputs: the connectors, every lane as a process, a broker, a vector store.

What was acknowledged comes out: a ward's feed over MLLP, HTTP and C-STORE is accounted for message by message.
"""

import asyncio
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from connectors.hl7.sender import MllpSender
from connectors.objects import ObjectStore
from connectors.qdrant.settings import NOTES
from connectors.qdrant.store import Point, VectorStore
from processors.events import TOPICS
from processors.identity import patient_id
from streams import edge
from streams.demo.play import Player, Sent
from streams.demo.ward import SETTINGS, Sendable, ward
from streams.demo.watch import Account, unaccounted
from streams.lanes import LANES
from streams.settings import Settings, load
from tests import clinic
from tests import qdrant as qdrants
from tests.clinic import Clinic, audited
from tests.hl7_messages import PV1, message, obx, vitals
from tests.kafka import Kafka
from tests.lanes import until
from tests.vitals import LaneProcess

pytestmark = [pytest.mark.kafka, pytest.mark.qdrant, pytest.mark.slow, pytest.mark.timeout(400)]

LANE_INPUTS = {
    "notes-entities": "clinical.notes",
    "notes-vectors": "clinical.notes",
    "images": "clinical.images",
    "vitals": "clinical.vitals",
    "merges": "clinical.patients",
}
NOTE = "Transferred from the emergency department with severe sepsis, fluids and meropenem started."


@dataclass
class Feed:
    """A run: what was sent and answered, what stood on the topics afterwards, and the notes' points."""

    settings: Settings
    messages: list[Sendable]
    sent: list[Sent]
    topics: dict[str, list[dict[str, Any]]]
    account: Account
    points: list[Point]
    codes: dict[str, int]

    def patient(self, number: str) -> str:
        """The pseudonym of one of the two who are merged."""
        return patient_id(self.settings.identity.site_secret.get_secret_value().encode(), "HOSP", number)

    def outcomes(self, lane: str) -> Counter[tuple[str, str]]:
        """What became of each input in a lane, by the audit."""
        return Counter(
            (entry["input_id"], entry["outcome"])
            for _, entry, record in audited(self.topics["clinical.audit"])
            if record["agent"].startswith(f"{lane}@")
        )


@pytest.fixture(scope="module")
def feed(kafka: Kafka, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Feed]:
    folder = tmp_path_factory.mktemp("feed")
    with clinic.killable_store(folder / "store", qdrants.binary()) as store, pytest.MonkeyPatch.context() as patch:
        site = Clinic(kafka, folder, vectors=store.url)
        env = environment(site, folder, store.url)
        for name, value in env.items():
            patch.setenv(name, value)
        yield asyncio.run(_play(site, load(), folder))


def environment(site: Clinic, folder: Path, vectors: str) -> dict[str, str]:
    """The settings of connectors and lanes as an operator gives them."""
    return {
        **SETTINGS,
        "VIGIL_KAFKA__BOOTSTRAP": site.kafka.bootstrap,
        "VIGIL_KAFKA__TOPIC_PREFIX": site.prefix,
        "VIGIL_KAFKA__EMBEDDED": str(site.kafka.kind == "embedded").lower(),
        "VIGIL_VECTORS__URL": vectors,
        "VIGIL_OBJECTS__URL": str(folder / "objects"),
        "VIGIL_WORKER__HOST": "test",
        "VIGIL_STATE__TICK_SECONDS": "0.3",
        "VIGIL_CONNECTORS__MLLP__PORT": "0",
        "VIGIL_CONNECTORS__FHIR__PORT": "0",
        "VIGIL_CONNECTORS__DICOM__PORT": "0",
    }


async def _play(site: Clinic, settings: Settings, folder: Path) -> Feed:
    # Under way for two hours when the last message is sent: all at once, in order.
    epoch = datetime.now(UTC) - timedelta(hours=2)
    messages = list(ward(seed=7, hours=2.0, patients=10, epoch=epoch))
    lanes = [LaneProcess(name, {}, folder / f"{name}.log") for name in LANES]
    try:
        for lane in lanes:
            lane.start()
        async with edge.running(settings) as addresses:
            player = Player(dict(addresses))
            await player.play(messages, lambda: datetime.now(UTC), epoch)
            await _merge(site, addresses["mllp"])
        await _until_all_is_done(site, lanes)
    finally:
        codes = {lane.name: lane.stop() for lane in lanes}
    account = Account(objects=ObjectStore(settings.objects))
    topics: dict[str, list[dict[str, Any]]] = {}
    for topic in TOPICS:
        topics[topic] = await site.read(topic)
        for record in await site.records(topic):  # the topics stand still now
            account.take(topic, record)
    async with VectorStore(settings.vectors) as store:
        held = [point async for point in store.scan(NOTES)]
    return Feed(settings, messages, player.sent, topics, account, held, codes)


async def _until_all_is_done(site: Clinic, lanes: list[LaneProcess]) -> None:
    totals = {topic: len(await site.records(topic)) for topic in set(LANE_INPUTS.values())}

    async def done() -> bool:
        for lane in lanes:
            assert lane.running, lane.log[-2000:]
        wanted = {*LANE_INPUTS.items(), ("vitals", "clinical.patients")}
        return all([await site.committed(lane, topic) >= totals[topic] for lane, topic in wanted])

    await until(done, within=180, what="every lane commits all that was acknowledged")


async def _merge(site: Clinic, address: tuple[str, int]) -> None:
    """A grave set and a note under one number; once the alert is out, registration merges it into another."""
    stamp = datetime.now(UTC).strftime("%Y%m%d%H%M%S+0000")
    old = "PID|1||OLD1^^^HOSP^MR||DOE^JANE||19500321|F"
    new = "PID|1||NEW1^^^HOSP^MR||DOE^JANE||19500321|F"
    grave = [
        obx("9279-1^RR^LN", "26", "/min^^UCUM"),
        obx("59408-5^SpO2^LN", "91", "%^^UCUM", number=2),
        obx("3151-8^O2 flow^LN", "2", "L/min^^UCUM", number=3),
        obx("8480-6^SBP^LN", "120", "mm[Hg]^^UCUM", number=4),
        obx("8867-4^HR^LN", "70", "/min^^UCUM", number=5),
        obx("8310-5^Temp^LN", "36.8", "Cel^^UCUM", number=6),
    ]
    document = f"TXA|1|PN|TX|{stamp}||{stamp}||||||DOC1^EHR|||||AU"
    text = f"OBX|1|TX|11506-3^Progress note^LN||{NOTE}||||||F"
    event = f"EVN|A01|{stamp}"

    def header(kind: str, number: int) -> dict[str, str]:
        return {"kind": kind, "control_id": f"MERGE{number}", "sent": stamp}

    async with MllpSender(*address, timeout=30.0) as sender:
        for raw in (
            message(event, old, PV1, **header("ADT^A01^ADT_A01", 1)),
            vitals(*grave, pid=old, obr=f"OBR|1||F9|VS^Vitals|||{stamp}", **header("ORU^R01^ORU_R01", 2)),
            message(event, old, PV1, document, text, **header("MDM^T02^MDM_T02", 3)),
        ):
            assert (await sender.send(raw)).code == "AA"

        async def raised() -> bool:
            return any(one.get("location", {}).get("bed") == "B3" for one in await site.read("clinical.alerts"))

        await until(raised, within=120, what="the alert under the old number")
        merge = message(f"EVN|A40|{stamp}", new, "MRG|OLD1^^^HOSP^MR", **header("ADT^A40^ADT_A39", 4))
        assert (await sender.send(merge)).code == "AA"


def test_every_message_is_answered_as_it_deserves(feed: Feed) -> None:
    assert len(feed.sent) == len(feed.messages) > 80
    assert {one.channel for one in feed.sent} == {"mllp", "fhir", "dicom"}
    answers: dict[str, set[bool]] = defaultdict(set)
    for one in feed.sent:
        answers[one.what].add(one.accepted)
    assert answers == {message.what: {message.expect != "refused"} for message in feed.messages}


def test_whatever_was_acknowledged_is_on_a_topic(feed: Feed) -> None:
    assert [(one.channel, one.what) for one in unaccounted(feed.sent, feed.account)] == []


def test_every_input_is_in_one_output_or_dead_letter_of_each_lane(feed: Feed) -> None:
    dead = Counter(letter["lane"] for letter in feed.topics["clinical.dead-letters"])
    assert not set(dead) & set(LANES), "what the connectors let through, the lanes can use"
    assert set(LANE_INPUTS) == set(LANES)
    for lane, topic in LANE_INPUTS.items():
        inputs = {event["id"] for event in feed.topics[topic]}
        assert inputs, topic
        outcomes = feed.outcomes(lane)
        assert {input_id for input_id, _ in outcomes} == inputs, lane
    for topic, lane in (("entities", "notes-entities"), ("findings", "images"), ("scores", "vitals")):
        outputs = Counter(event["source"]["event_id"] for event in feed.topics[f"clinical.{topic}"])
        assert set(outputs) == {event["id"] for event in feed.topics[LANE_INPUTS[lane]]}
        assert set(outputs.values()) == {1}, "nothing was killed: once each"


def test_the_vector_store_holds_each_document_as_it_stands(feed: Feed) -> None:
    standing: dict[str, tuple[str, str]] = {}
    for event in sorted(feed.topics["clinical.notes"], key=lambda event: event["received_at"]):
        if event["relation"] in ("replacement", "edit", "cancel") and event["replaces"]:
            standing.pop(event["replaces"], None)
        standing.pop(event["note_id"], None)
        if event["status"] not in ("cancelled", "entered-in-error"):
            standing[event["note_id"]] = (event["id"], event["text"])
    held: dict[str, set[str]] = defaultdict(set)
    for point in feed.points:
        held[str(point.payload["note_id"])].add(str(point.payload["version"]))
        assert str(point.payload["passage"]) in standing[str(point.payload["note_id"])][1]
    assert held == {note: {version} for note, (version, _) in standing.items()}
    relations = Counter(event["relation"] for event in feed.topics["clinical.notes"])
    assert {"addendum", "replacement", "cancel"} <= set(relations), "the feed has what this is about"


def test_an_alert_id_is_raised_once_and_test_traffic_never(feed: Feed) -> None:
    raised = [one for one in feed.topics["clinical.alerts"] if one.get("state") == "raised" and one["kind"] == "news2"]
    assert raised
    assert Counter(one["alert_id"] for one in raised).most_common(1)[0][1] == 1
    rehearsed = {event["id"] for event in feed.topics["clinical.vitals"] if event["processing"] != "production"}
    assert rehearsed and not rehearsed & {one["source"]["event_id"] for one in raised}


def test_a_merge_takes_the_alert_along_to_the_surviving_record(feed: Feed) -> None:
    steps = [one for one in feed.topics["clinical.alerts"] if one.get("patient_id") == feed.patient("OLD1")]
    assert [one["state"] for one in steps if one["kind"] == "news2"] == ["raised", "withdrawn"]
    assert steps[-1]["reason"] == f"merged into {feed.patient('NEW1')}: watched there from now on"
    there = [one for one in feed.topics["clinical.alerts"] if one.get("patient_id") == feed.patient("NEW1")]
    assert [one["state"] for one in there if one["kind"] == "news2"][:1] == ["raised"]


def test_vectors_follow_a_merge(feed: Feed) -> None:
    (point,) = [point for point in feed.points if point.payload["passage"] == NOTE]
    assert point.payload["patient_id"] == feed.patient("NEW1")


def test_the_lanes_ended_in_good_order(feed: Feed) -> None:
    assert feed.codes == dict.fromkeys(LANES, 0)
