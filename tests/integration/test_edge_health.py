"""The connectors' process as its operator sees it: /live, /ready, /metrics of `vigil serve`, a real process on a real broker."""

import asyncio
import signal
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from confluent_kafka import Consumer, TopicPartition
from pydicom.uid import SecondaryCaptureImageStorage
from pynetdicom import AE

from connectors.hl7.sender import MllpSender
from models.errors import Transient
from processors.events import TOPICS
from streams import edge
from streams.lagging import Lag
from streams.settings import Settings
from tests import dicom_objects, fhir_resources
from tests.hl7_messages import vitals
from tests.kafka import Kafka
from tests.lanes import produce, until
from tests.serving import Serving

pytestmark = [pytest.mark.kafka, pytest.mark.slow]

SURNAME = "Verylongpatientname"


@pytest.fixture
async def serving(kafka: Kafka, tmp_path: Path) -> AsyncIterator[Serving]:
    prefix = kafka.name("edge") + "."
    for topic in TOPICS:
        kafka.create(prefix + topic, 1)
    serving = Serving(kafka.bootstrap, tmp_path, prefix=prefix, embedded=kafka.kind == "embedded")
    serving.process.start()
    try:
        await until(lambda: asyncio.to_thread(serving.ready), within=60, what="ready")
        yield serving
    finally:
        code = await asyncio.to_thread(serving.process.stop)
    assert code == 0, serving.process.log


async def test_messages_are_counted_by_connector_and_answer(serving: Serving) -> None:
    where = serving.addresses
    assert where["health"] == ["127.0.0.1", serving.port]
    before = serving.metrics()
    assert before["vigil_connectors_ready",] == 1
    assert before["vigil_connector_unconfirmed_total", "mllp", "transient"] == 0

    pid = f"PID|1||12345678^^^HOSP^MR||{SURNAME}^Ann"
    async with MllpSender(*where["mllp"], timeout=10, pause=0.05, longest_pause=1) as sender:
        ack = await sender.send(vitals("OBX|1|NM|8867-4^Heart rate^LN||72|/min|||||F", pid=pid, control_id="1"))
        assert ack.code in ("AA", "CA")
        await sender.send(b"MSH|^~\\&|A|B|C|D|20260101||ZZZ^Z99|2|P|2.5.1\r")
        await until(lambda: serving.metrics()["vigil_connector_connections", "mllp"] == 1, what="a connection is seen")
    base = "http://{}:{}/fhir".format(*where["fhir"])
    async with httpx.AsyncClient(headers={"content-type": "application/fhir+json"}) as client:
        assert (await client.post(f"{base}/Observation", json=fhir_resources.observation())).status_code == 201
        assert (await client.post(f"{base}/Observation", content=b"{")).status_code == 400
        assert (await client.post(f"{base}/nowhere/at/all", content=b"{}")).status_code == 404
    status = await asyncio.to_thread(_store, where["dicom"])
    assert status == 0

    found = serving.metrics()
    assert found["vigil_connector_answers_total", ack.code, "mllp"] >= 1
    assert found["vigil_connector_messages_total", "mllp", "loopback", "accepted"] == 1
    assert found["vigil_connector_occurrences_total", "mllp", "loopback", "connected"] == 1
    assert found["vigil_connector_published_total", "mllp", "clinical.vitals"] >= 1
    for answer in ("201", "400", "404"):
        assert found["vigil_connector_answers_total", answer, "fhir"] == 1
    assert found["vigil_connector_published_total", "fhir", "clinical.vitals"] == 1
    assert found["vigil_connector_answers_total", "0000", "dicom"] == 1
    assert found["vigil_connector_published_total", "dicom", "clinical.images"] == 1
    for connector in ("mllp", "fhir", "dicom"):
        assert found["vigil_connector_answer_seconds_count", connector] >= 1
        assert found["vigil_connector_publish_seconds_count", connector] >= 1
    page = serving.page("/metrics").text
    assert SURNAME not in page
    assert "12345678" not in page
    listening = {name: where[name] for name in ("mllp", "fhir", "dicom")}
    assert serving.page("/live").json() == {"live": True, "connectors": listening}


def _store(address: list[Any]) -> int:
    """C-STORE one picture; returns the status."""
    dataset = dicom_objects.make()
    entity = AE(ae_title="TEST")
    entity.add_requested_context(dataset.SOPClassUID or SecondaryCaptureImageStorage, dataset.file_meta.TransferSyntaxUID)
    association = entity.associate(address[0], address[1])
    assert association.is_established
    try:
        return int(association.send_c_store(dataset).Status)
    finally:
        association.release()


async def test_how_far_a_lane_is_that_nobody_runs_is_told(serving: Serving, kafka: Kafka) -> None:
    group = {"bootstrap.servers": kafka.bootstrap, "group.id": f"{serving.prefix}vigil.images"}
    consumer = Consumer({**group, "enable.auto.commit": False})
    await produce(kafka.bootstrap, f"{serving.prefix}clinical.images", [(b"p", b"{}")] * 5, 1)
    consumer.commit(offsets=[TopicPartition(f"{serving.prefix}clinical.images", 0, 2)], asynchronous=False)
    consumer.close()
    await until(lambda: serving.metrics().get(("vigil_group_lag", "images")) == 3, within=90, what="its lag is told")
    found = serving.metrics()
    assert found["vigil_group_committed", "images"] == 2
    assert {labels for name, *labels_ in found if name == "vigil_group_lag" for labels in labels_} == {
        "images"
    }  # the others never ran


async def test_what_a_look_at_the_lanes_comes_to_ends_nothing(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    answers: list[Any] = [
        [Lag("images", "clinical.images", 0, 4, 9, 5), Lag("merges", "clinical.patients", 0, None, 9, 9)],
        Transient("no broker answers"),
        Transient("no broker answers"),
        RuntimeError("nobody thought of it"),
        [Lag("images", "clinical.images", 0, 9, 9, 0)],
    ]
    shown = []

    async def lags(*_: object, **__: object) -> list[Lag]:
        shown.append(dict(one.metrics._groups))
        if not answers:
            raise asyncio.CancelledError
        if isinstance(answers[0], Exception):
            raise answers.pop(0)
        return answers.pop(0)  # type: ignore[no-any-return]  # errors and lags are in one list, in the order in which they come

    monkeypatch.setattr(edge, "lags", lags)
    monkeypatch.setattr(edge, "_LANES", 0.01)
    one = edge.Edge(Settings())
    with caplog.at_level("INFO"), pytest.raises(asyncio.CancelledError):
        await one.watch_lanes()
    assert shown == [{}, {"images": (5, 4)}, {}, {}, {}, {"images": (0, 9)}]
    told = [record.getMessage() for record in caplog.records]
    assert [words.split(" at ")[0] for words in told] == [
        "how far the lanes are is not known: no broker answers",
        "how far the lanes are is not known: RuntimeError",
        "the lanes' lag is known again",
    ]


@pytest.mark.real_kafka
async def test_a_broker_that_goes_away_makes_it_unready_and_counts(serving: Serving, kafka: Kafka) -> None:
    kafka.kill()
    await until(lambda: asyncio.to_thread(lambda: not serving.ready()), what="not ready")
    assert serving.page("/ready").json() == {"ready": False, "reason": "Kafka does not answer"}
    assert serving.page("/live").status_code == 200  # a restart would mend nothing
    assert serving.metrics()["vigil_connectors_ready",] == 0
    with pytest.raises(Transient):
        async with MllpSender(*serving.addresses["mllp"], timeout=6, attempts=1) as sender:
            await sender.send(vitals("OBX|1|NM|8867-4^Heart rate^LN||72|/min|||||F", control_id="2"))
    assert serving.metrics()["vigil_connector_unconfirmed_total", "mllp", "transient"] >= 1
    kafka.start()  # not in a thread: the broker ends with the thread that started it
    await until(lambda: asyncio.to_thread(serving.ready), what="ready again")
    assert "ready again: Kafka answers" in serving.process.log


async def test_without_a_broker_it_says_so_and_still_stops_when_told(tmp_path: Path) -> None:
    serving = Serving("127.0.0.1:1", tmp_path)
    serving.process.start()
    try:
        await until(lambda: asyncio.to_thread(_answers, serving, "/live"), what="alive")
        await until(lambda: "nothing listens" in serving.page("/ready").json()["reason"], what="the reason")
        assert serving.page("/ready").status_code == 503
        serving.process.signal(signal.SIGTERM)
        await until(lambda: not serving.process.running, within=5, what="the end")
        assert serving.process.code == 0
    finally:
        if serving.process.running:
            serving.process.kill()


def _answers(serving: Serving, path: str) -> bool:
    try:
        return serving.page(path).status_code == 200
    except httpx.TransportError:
        return False


@pytest.mark.parametrize("taken", ["MLLP", "FHIR", "DICOM", "health"])
async def test_a_port_that_is_taken_is_said_in_words(kafka: Kafka, tmp_path: Path, taken: str) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = str(other.getsockname()[1])
        name = "VIGIL_WORKER__HEALTH_PORT" if taken == "health" else f"VIGIL_CONNECTORS__{taken}__PORT"
        serving = Serving(kafka.bootstrap, tmp_path, embedded=kafka.kind == "embedded", **{name: port})
        serving.process.start()
        try:
            await until(lambda: not serving.process.running, within=40, what="the end")
        finally:
            if serving.process.running:
                serving.process.kill()
        assert serving.process.code == 2
        assert f"cannot listen on 127.0.0.1:{port}" in serving.process.log.replace("\n", " ")
        assert "Traceback" not in serving.process.log
