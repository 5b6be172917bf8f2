"""Every way back keeps the same contract: an answer to an alert is believed of known senders only, and confirmed when it is stored.

One suite over each, over real sockets: the webhook's call-back, ORA^R41 over MLLP (IHE PCD-05), a FHIR Communication.
"""

import asyncio
import logging
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from datetime import UTC, datetime

import httpx
import orjson
import pytest

from connectors.deliver.callback import CallbackServer
from connectors.deliver.fhir import communication_of
from connectors.deliver.notice import Notice
from connectors.deliver.pcd import message_of
from connectors.deliver.settings import CallbackSettings, PcdSettings
from connectors.deliver.signing import key_of, sign
from connectors.fhir.server import FhirServer
from connectors.fhir.settings import FhirSettings
from connectors.hl7.handling import Hl7Mapper
from connectors.hl7.sender import read_ack
from connectors.hl7.server import MllpServer
from connectors.hl7.settings import MllpSettings
from models.errors import Transient
from processors.events import Event, FeedbackEvent
from tests.deliveries import alert
from tests.edge import MemoryStore, RecordingPublisher, identities
from tests.receiver import SECRET

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
SECONDS = 0.5  # how long a confirmation may take in these tests
ALERT = alert("a" * 32, at=NOW)
TOKEN = "a-bearer-token-of-these-tests"


class Back(ABC):
    """A running way back. `known`: the sender is who it should be."""

    def __init__(self) -> None:
        self.publisher, self.port = RecordingPublisher(), 0
        self.stack = AsyncExitStack()

    @abstractmethod
    async def start(self, *, known: bool) -> None:
        """Open it."""

    @abstractmethod
    async def answer(self, said: str = "acknowledged", *, by: str = "nurse-7", number: int = 1) -> bool:
        """Give an answer (acknowledged, declined, retracted); tells whether it was taken as such."""

    async def garbage(self) -> None:
        _, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(b"\x00\xff garbage \x0b\x1c\r POST \x01\r\n\r\n")
        writer.close()

    @property
    def feedback(self) -> list[Event]:
        return [event for event in self.publisher.events if isinstance(event, FeedbackEvent)]


class CallBack(Back):
    async def start(self, *, known: bool) -> None:
        keys = {"pager": (key_of(SECRET if known else "another secret, long enough"),)}
        settings = CallbackSettings(port=0, publish_seconds=SECONDS)
        server = CallbackServer(settings, keys, publisher=self.publisher, now=lambda: NOW)
        _, self.port = await server.start()
        self.stack.push_async_callback(server.stop)
        self.client = await self.stack.enter_async_context(httpx.AsyncClient(timeout=20))

    async def answer(self, said: str = "acknowledged", *, by: str = "nurse-7", number: int = 1) -> bool:
        data = {"alert_id": ALERT.alert_id, "patient_id": ALERT.patient_id, "answer": said, "by": by, "reason": "busy"}
        body = orjson.dumps({"type": "vigil.feedback", "data": data})
        headers = sign([key_of(SECRET)], f"call-{number}", int(NOW.timestamp()), body)
        answer = await self.client.post(f"http://127.0.0.1:{self.port}/deliver/pager/feedback", content=body, headers=headers)
        return answer.is_success


class Pcd05(Back):
    async def start(self, *, known: bool) -> None:
        peer = {"addresses": ["127.0.0.0/8"], "answers_alerts": known}
        settings = MllpSettings.model_validate({"port": 0, "publish_seconds": SECONDS, "peers": {"manager": peer}})
        server = MllpServer(settings, Hl7Mapper(settings, identities()), self.publisher, lambda: NOW)
        _, self.port = await server.start()
        self.stack.push_async_callback(server.stop)

    async def answer(self, said: str = "acknowledged", *, by: str = "nurse-7", number: int = 1) -> bool:
        told = message_of(Notice("alert", ALERT.id, NOW, ALERT), PcdSettings(kind="pcd04", host="h", port=1))
        control = told.decode().split("\r")[0].split("|")[9]
        code, action = "AR" if said == "declined" else "AA", "DE" if said == "retracted" else "AD"
        person = [f"PRT|1|{action}||AAP^Alert Acknowledging Provider^HL70912|{by}^^^SITE"] if by else []
        header = f"MSH|^~\\&|MANAGER|SITE|VIGIL|VIGIL|20261123120000+0000||ORA^R41^ORA_R41|A{number}|P|2.6"
        message = "\r".join([header, f"MSA|{code}|{control}", *person])
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            writer.write(b"\x0b" + message.encode() + b"\x1c\r")
            async with asyncio.timeout(20):
                answer = await reader.read(65536)
        finally:
            writer.close()
        ack = read_ack(answer.strip(b"\x0b\x1c\r")) if answer else None
        return ack is not None and ack.code == "AA"


class FhirAnswer(Back):
    async def start(self, *, known: bool) -> None:
        peer = {"answers_alerts": known, "token": TOKEN}
        settings = FhirSettings.model_validate({"port": 0, "confirm_timeout": SECONDS, "peers": {"ehr": peer}})
        server = FhirServer(settings, publisher=self.publisher, store=MemoryStore(), identities=identities(), now=lambda: NOW)
        _, self.port = await server.start()
        self.stack.push_async_callback(server.stop)
        self.client = await self.stack.enter_async_context(httpx.AsyncClient(timeout=20))

    async def answer(self, said: str = "acknowledged", *, by: str = "nurse-7", number: int = 1) -> bool:
        told = communication_of(Notice("alert", ALERT.id, NOW, ALERT))
        resource = {
            "resourceType": "Communication",
            "identifier": [{"system": "urn:ehr", "value": str(number)}],
            "status": {"acknowledged": "completed", "declined": "not-done"}.get(said, "entered-in-error"),
            "subject": told["subject"],
            "inResponseTo": [{"identifier": told["identifier"][1]}],
            "sent": "2026-11-23T11:59:00Z",
            **({"sender": {"identifier": {"value": by}}} if by else {}),
        }
        headers = {"authorization": f"Bearer {TOKEN}"}
        answer = await self.client.post(f"http://127.0.0.1:{self.port}/fhir/Communication", json=resource, headers=headers)
        return answer.is_success


WAYS = (CallBack, Pcd05, FhirAnswer)


@pytest.fixture(params=WAYS, ids=lambda way: way.__name__)
async def back(request: pytest.FixtureRequest) -> AsyncIterator[Back]:
    made: Back = request.param()
    async with made.stack:
        await made.start(known=True)
        yield made


async def test_an_answer_becomes_feedback_that_names_alert_patient_and_person(back: Back) -> None:
    assert await back.answer()
    assert await back.answer("declined", number=2)
    assert await back.answer("retracted", number=3)
    said = [one for one in back.feedback if isinstance(one, FeedbackEvent)]
    assert [one.kind for one in said] == ["alert-acknowledged", "alert-declined", "alert-answer-retracted"]
    assert {(one.target_id, one.patient_id, one.by) for one in said} == {(ALERT.alert_id, ALERT.patient_id, "nurse-7")}


async def test_it_is_confirmed_after_it_is_stored(back: Back) -> None:
    back.publisher.delay = SECONDS / 2
    giving = asyncio.create_task(back.answer())
    done, _ = await asyncio.wait([giving], timeout=SECONDS / 4)
    assert not done
    assert back.publisher.calls == []
    assert await giving
    assert len(back.feedback) == 1


@pytest.mark.parametrize("trouble", [Transient("broker down"), RuntimeError("a bug of the publisher")])
async def test_what_is_not_stored_is_not_confirmed_and_the_repetition_is(back: Back, trouble: Exception) -> None:
    back.publisher.trouble = trouble
    assert not await back.answer()
    back.publisher.trouble = None
    assert await back.answer()
    assert len(back.feedback) == 1


async def test_a_repetition_is_the_same_feedback(back: Back) -> None:
    assert await back.answer()
    assert await back.answer()
    assert len({event.id for event in back.feedback}) == 1


async def test_an_answer_that_names_nobody_acknowledges_nothing(back: Back) -> None:
    await back.answer(by="")
    assert back.feedback == []


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
async def test_nobody_is_believed_whom_the_site_does_not_believe(way: type[Back]) -> None:
    made = way()
    async with made.stack:
        await made.start(known=False)
        await made.answer()
    assert made.feedback == []


async def test_garbage_hurts_nobody_else(back: Back) -> None:
    for _ in range(20):
        await back.garbage()
    assert await back.answer()
    assert len(back.feedback) == 1


async def test_no_log_line_shows_a_secret_or_who_answered(back: Back, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "connectors")
    await back.garbage()
    await back.answer()
    await back.answer("maybe", by="", number=2)
    back.publisher.trouble = Transient("broker down")
    await back.answer(number=3)
    for shown in (SECRET, TOKEN, "nurse-7", ALERT.patient_id):
        assert shown not in caplog.text
