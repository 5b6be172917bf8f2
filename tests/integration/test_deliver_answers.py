"""Answers to alerts become feedback, confirmed before they are acknowledged: webhook call-backs and ORA^R41, over real sockets."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx
import orjson
import pytest

from connectors.deliver.notice import Notice
from connectors.deliver.pcd import message_of
from connectors.deliver.settings import PcdSettings
from connectors.deliver.signing import key_of, sign
from connectors.hl7.sender import MllpSender
from processors.identity import natural_id
from streams.clock import real_clock
from streams.edge import running
from streams.settings import Settings
from tests.deliveries import alert, site
from tests.kafka import Kafka
from tests.lanes import bodies
from tests.receiver import SECRET

pytestmark = pytest.mark.kafka
ALERT = alert("0" * 32)
FINDING = natural_id("finding")


def answering(kafka: Kafka) -> Settings:
    peers = {"manager": {"addresses": ["127.0.0.0/8"], "answers_alerts": True}}
    connectors = {"enabled": ["callback", "mllp"], "callback": {"port": 0}, "mllp": {"port": 0, "peers": peers}}
    deliver = {"pager": {"kind": "webhook", "url": "http://127.0.0.1:9/", "secret": SECRET}}
    return site(kafka, deliver, connectors=connectors)


@pytest.fixture
async def edge(kafka: Kafka) -> AsyncIterator[tuple[Settings, dict[str, tuple[str, int]]]]:
    settings = answering(kafka)
    async with running(settings) as addresses:
        yield settings, addresses


async def feedback(kafka: Kafka, settings: Settings) -> list[dict[str, Any]]:
    return bodies(await asyncio.to_thread(kafka.read, settings.kafka.topic_prefix + "clinical.feedback"))


def call(body: dict[str, Any], *, key: str = SECRET, call_id: str = "call-1", shift: int = 0) -> dict[str, Any]:
    raw = orjson.dumps(body)
    return {"content": raw, "headers": sign([key_of(key)], call_id, int(real_clock().timestamp()) + shift, raw)}


def said(answer: str = "acknowledged", **more: Any) -> dict[str, Any]:
    data = {
        "alert_id": ALERT.alert_id,
        "patient_id": ALERT.patient_id,
        "answer": answer,
        "by": "nurse-7",
        "reason": "on my way",
    }
    return {"type": "vigil.feedback", "data": data | more}


async def test_a_signed_call_back_is_stored_before_it_is_answered(kafka: Kafka, edge: Any) -> None:
    settings, addresses = edge
    async with httpx.AsyncClient(base_url="http://{}:{}".format(*addresses["callback"])) as client:
        answer = await client.post("/deliver/pager/feedback", **call(said()))
        assert answer.status_code == 204
        [event] = await feedback(kafka, settings)
        assert event["kind"] == "alert-acknowledged"
        assert (event["target_id"], event["patient_id"]) == (ALERT.alert_id, ALERT.patient_id)
        assert (event["by"], event["reason"], event["origin"]["peer"]) == ("nurse-7", "on my way", "pager")
        again = await client.post("/deliver/pager/feedback", **call(said()))
        assert again.status_code == 204  # a replay within the window: taken note of, stored once
        other = await client.post("/deliver/pager/feedback", **call(said("declined")))
        assert other.status_code == 422  # another answer under an id that was taken is not thrown away in silence
        declined = await client.post("/deliver/pager/feedback", **call(said("declined"), call_id="call-2"))
        assert declined.status_code == 204
    assert [one["kind"] for one in await feedback(kafka, settings)] == ["alert-acknowledged", "alert-declined"]


def of_finding(answer: str, **more: Any) -> dict[str, Any]:
    data = {"finding_id": FINDING, "patient_id": ALERT.patient_id, "answer": answer, "by": "radiologist-3"}
    return {"type": "vigil.feedback", "data": data | more}


async def test_what_a_person_says_of_a_finding_is_a_label(kafka: Kafka, edge: Any) -> None:
    settings, addresses = edge
    async with httpx.AsyncClient(base_url="http://{}:{}".format(*addresses["callback"])) as client:
        for number, body in enumerate((of_finding("corrected", label="pneumonia"), of_finding("confirmed"))):
            answer = await client.post("/deliver/pager/feedback", **call(body, call_id=f"call-{number}"))
            assert answer.status_code == 204
        nothing = await client.post("/deliver/pager/feedback", **call(of_finding("corrected", label=" "), call_id="call-9"))
        assert nothing.status_code == 422  # a correction without the label that is right
        alert_s = await client.post("/deliver/pager/feedback", **call(of_finding("acknowledged"), call_id="call-10"))
        assert alert_s.status_code == 422
    told = await feedback(kafka, settings)
    assert [(one["kind"], one["target_id"], one["label"]) for one in told] == [
        ("finding-corrected", FINDING, "pneumonia"),
        ("finding-confirmed", FINDING, ""),
    ]


@pytest.mark.parametrize(
    ("path", "given", "status"),
    [
        ("pager", call(said(), key="another secret, long enough"), 401),
        ("pager", call(said(), shift=-3600), 401),
        ("pager", {"content": b"{}"}, 401),
        ("nobody", call(said()), 404),
        ("pager", call(said("maybe")), 422),
        ("pager", call(said(by="")), 422),
        ("pager", call(said(alert_id="an id of the receiver's own")), 422),
        ("pager", call(said(reason="x" * 20_000)), 413),
    ],
)
async def test_what_is_not_believed_or_no_answer_is_refused_and_not_stored(
    kafka: Kafka, edge: Any, path: str, given: dict[str, Any], status: int
) -> None:
    settings, addresses = edge
    given = dict(given)
    if given.get("headers") and status in (413, 422):  # signed when the tests were collected: that may be a while ago
        given["headers"] = sign([key_of(SECRET)], "call-1", int(real_clock().timestamp()), given["content"])
    async with httpx.AsyncClient(base_url="http://{}:{}".format(*addresses["callback"])) as client:
        answer = await client.post(f"/deliver/{path}/feedback", **given)
        assert answer.status_code == status
    assert await feedback(kafka, settings) == []


async def test_a_call_that_does_not_come_to_its_end_is_given_up(
    kafka: Kafka, edge: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, addresses = edge
    monkeypatch.setattr("connectors.deliver.callback._SLOWEST", 0.3)  # the same, sooner: 10 s are long for a test
    reader, writer = await asyncio.open_connection(*addresses["callback"])
    try:
        writer.write(b"POST /deliver/pager/feedback HTTP/1.1\r\nHost: vigil\r\nContent-Length: 1000\r\n\r\n{")
        async with asyncio.timeout(10):
            assert (await reader.readline()).split()[1] == b"408"
    finally:
        writer.close()


def control_of(message: bytes) -> str:
    return message.decode().split("\r")[0].split("|")[9]


def ora(code: str, control_id: str, *more: str, processing: str = "P") -> bytes:
    msh = f"MSH|^~\\&|MANAGER|SITE|VIGIL|VIGIL|20260101120000||ORA^R41^ORA_R41|{code}-{len(more)}|{processing}|2.6"
    return "\r".join([msh, f"MSA|{code}|{control_id}", *more]).encode()


PERSON = "PRT|1|AD||AAP^Alert Acknowledging Provider^HL70912|nurse-7^^^SITE"


async def test_an_alert_managers_answer_that_names_a_person_is_feedback(kafka: Kafka, edge: Any) -> None:
    settings, (host, port) = edge[0], edge[1]["mllp"]
    own = PcdSettings(kind="pcd04", host="127.0.0.1", port=1)
    control_id = control_of(message_of(Notice("alert", ALERT.id, real_clock(), ALERT), own))
    async with MllpSender(host, port, attempts=1) as sender:
        assert (await sender.send(ora("AA", control_id, PERSON))).code == "AA"
        assert (await sender.send(ora("AR", control_id, "ERR||||E||||busy", PERSON))).code == "AA"
        assert (await sender.send(ora("AA", control_id))).code == "AA"  # a receipt: no person has seen it
        assert (await sender.send(ora("AA", control_id, PERSON, "NTE|1", processing="T"))).code == "AA"  # test traffic
    events = await feedback(kafka, settings)
    assert [(one["kind"], one["by"], one["reason"]) for one in events] == [
        ("alert-acknowledged", "nurse-7", ""),
        ("alert-declined", "nurse-7", "busy"),
    ]
    assert {(one["target_id"], one["patient_id"]) for one in events} == {(ALERT.alert_id, ALERT.patient_id)}


async def test_an_answer_to_nothing_of_ours_is_a_dead_letter(kafka: Kafka, edge: Any) -> None:
    settings, (host, port) = edge[0], edge[1]["mllp"]
    async with MllpSender(host, port, attempts=1) as sender:
        assert (await sender.send(ora("AA", "12345", PERSON))).code == "AA"
    assert await feedback(kafka, settings) == []
    letters = bodies(await asyncio.to_thread(kafka.read, settings.kafka.topic_prefix + "clinical.dead-letters"))
    assert [letter["stage"] for letter in letters] == ["identify"]
