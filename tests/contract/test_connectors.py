"""Every connector keeps the same contract: a positive answer means stored, a resend has the same ids, garbage hurts only itself.

One suite, run against each of them over real sockets: HL7 v2 over MLLP, FHIR R4, DICOM C-STORE, STOW-RS.
"""

import asyncio
from contextlib import AsyncExitStack
from datetime import UTC, datetime

import httpx
import pytest
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian
from pynetdicom import AE

from connectors.dicom.server import DicomServer
from connectors.dicom.settings import DicomSettings, StowSettings
from connectors.dicom.web import StowServer
from connectors.fhir.server import FhirServer
from connectors.fhir.settings import FhirSettings
from connectors.hl7.handling import Hl7Mapper
from connectors.hl7.sender import read_ack
from connectors.hl7.server import MllpServer
from connectors.hl7.settings import MllpSettings
from models.errors import Transient
from tests.dicom_objects import encode, make
from tests.edge import MemoryStore, RecordingPublisher, identities
from tests.fhir_resources import observation

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
SECONDS = 0.5  # how long a confirmation may take in these tests


class Feed:
    """A running connector and a sender of its protocol. `message(n)` is the n-th message; `send` says whether it was accepted."""

    def __init__(self) -> None:
        self.publisher, self.store, self.port = RecordingPublisher(), MemoryStore(), 0
        self.stack = AsyncExitStack()

    async def start(self) -> None:
        raise NotImplementedError

    def message(self, n: int):
        raise NotImplementedError

    async def send(self, message) -> bool:
        raise NotImplementedError

    garbage = b"\x00\xff garbage \x0b\x1c\r GET \x01\x00"


class Mllp(Feed):
    async def start(self):
        settings = MllpSettings(port=0, publish_seconds=SECONDS)
        server = MllpServer(settings, Hl7Mapper(settings, identities()), self.publisher, lambda: NOW)
        _, self.port = await server.start()
        self.stack.push_async_callback(server.stop)

    def message(self, n):
        lines = (
            f"MSH|^~\\&|MON|WARD|VIGIL|SITE|20261123100000+0000||ORU^R01|M{n}|P|2.5",
            "PID|1||P1^^^HOSP^MR",
            "OBR|1||F1|VITALS|||20261123100000+0000",
            f"OBX|1|NM|8867-4^HR^LN||{60 + n}|/min|||||F",
        )
        return "\r".join(lines).encode()

    async def send(self, message):
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            writer.write(b"\x0b" + message + b"\x1c\r")
            async with asyncio.timeout(20):
                answer = await reader.read(65536)
        finally:
            writer.close()
        ack = read_ack(answer.strip(b"\x0b\x1c\r")) if answer else None
        return ack is not None and ack.code == "AA"


class Fhir(Feed):
    async def start(self):
        settings = FhirSettings(port=0, confirm_timeout=SECONDS)
        server = FhirServer(settings, publisher=self.publisher, store=self.store, identities=identities(), now=lambda: NOW)
        _, self.port = await server.start()
        self.stack.push_async_callback(server.stop)
        self.client = await self.stack.enter_async_context(httpx.AsyncClient(timeout=20))

    def message(self, n):
        return observation(value=60 + n)

    async def send(self, message):
        answer = await self.client.post(f"http://127.0.0.1:{self.port}/fhir/Observation", json=message)
        return answer.is_success


class Dicom(Feed):
    async def start(self):
        settings = DicomSettings(port=0, associations_of_one=12, confirm_timeout=SECONDS)
        server = DicomServer(settings, publisher=self.publisher, store=self.store, identities=identities(), now=lambda: NOW)
        _, self.port = await server.start()
        self.stack.push_async_callback(server.stop)

    def message(self, n):
        return make(SOPInstanceUID=f"1.2.3.{n}", StudyInstanceUID="1.2.4", SeriesInstanceUID="1.2.5")

    async def send(self, message):
        def store():
            entity = AE()
            entity.add_requested_context(CTImageStorage, ExplicitVRLittleEndian)
            # from another address than those that only disturb: what one may hold is limited
            association = entity.associate("127.0.0.1", self.port, bind_address=("127.0.0.2", 0))
            try:
                return association.send_c_store(message).get("Status") == 0x0000
            finally:
                association.release()

        return await asyncio.to_thread(store)


class Stow(Dicom):
    async def start(self):
        server = StowServer(
            StowSettings(port=0, in_flight=24),  # all from one address
            DicomSettings(confirm_timeout=SECONDS),
            publisher=self.publisher,
            store=self.store,
            identities=identities(),
            now=lambda: NOW,
        )
        _, self.port = await server.start()
        self.stack.push_async_callback(server.stop)
        self.client = await self.stack.enter_async_context(httpx.AsyncClient(timeout=20))

    async def send(self, message):
        body = b"--cut\r\nContent-Type: application/dicom\r\n\r\n" + encode(message) + b"\r\n--cut--"
        headers = {"Content-Type": 'multipart/related; type="application/dicom"; boundary=cut'}
        answer = await self.client.post(f"http://127.0.0.1:{self.port}/dicom-web/studies", content=body, headers=headers)
        return answer.is_success


@pytest.fixture(params=[Mllp, Fhir, Dicom, Stow])
async def feed(request):
    made = request.param()
    async with made.stack:
        await made.start()
        yield made


async def test_a_positive_answer_comes_after_the_confirmation(feed):
    feed.publisher.delay = SECONDS / 2
    sending = asyncio.create_task(feed.send(feed.message(1)))
    done, _ = await asyncio.wait([sending], timeout=SECONDS / 4)
    assert not done
    assert feed.publisher.calls == []
    assert await sending
    assert len(feed.publisher.events) == 1


@pytest.mark.parametrize("trouble", [Transient("broker down"), RuntimeError("a bug of the publisher")])
async def test_what_is_not_confirmed_is_not_accepted_and_the_resend_is(feed, trouble):
    feed.publisher.trouble = trouble
    assert not await feed.send(feed.message(1))
    feed.publisher.trouble = None
    assert await feed.send(feed.message(1))
    assert len(feed.publisher.events) == 1


async def test_a_broker_that_does_not_answer_is_waited_for_a_bounded_time(feed):
    feed.publisher.delay = 60
    started = asyncio.get_running_loop().time()
    assert not await feed.send(feed.message(1))
    assert asyncio.get_running_loop().time() - started < SECONDS + 5


async def test_the_same_message_has_the_same_ids_and_others_have_others(feed):
    for n in (1, 2, 1, 3):
        assert await feed.send(feed.message(n))
    assert len({event.id for event in feed.publisher.events}) == 3


async def test_ids_do_not_depend_on_the_process(feed):
    assert await feed.send(feed.message(1))
    other = type(feed)()
    async with other.stack:
        await other.start()
        assert await other.send(other.message(1))
    assert [event.id for event in feed.publisher.events] == [event.id for event in other.publisher.events]


async def test_no_record_number_travels_outside_contexts_and_dead_letters(feed):
    assert await feed.send(feed.message(1))
    assert all(
        '"P1"' not in event.model_dump_json() and "P0001" not in event.model_dump_json() for event in feed.publisher.events
    )


async def test_garbage_and_silence_hurt_nobody_else(feed):
    opened = [await asyncio.open_connection("127.0.0.1", feed.port) for _ in range(60)]
    for n, (_, writer) in enumerate(opened[:40]):
        writer.write(feed.garbage * (1 + n * 50))
    for _, writer in opened[40:50]:
        writer.close()
    assert await feed.send(feed.message(1))
    assert len(feed.publisher.events) == 1
    for _, writer in opened:
        writer.close()


async def test_many_senders_at_once(feed):
    accepted = await asyncio.gather(*(feed.send(feed.message(n)) for n in range(12)))
    assert all(accepted)
    assert len({event.id for event in feed.publisher.events}) == 12
