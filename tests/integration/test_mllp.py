"""The MLLP server over real sockets, with a publisher that records (tests/edge.py) and a clock that is given."""

import asyncio
import contextlib
import logging
import ssl
import sys
import threading
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from connectors.contexts import MemoryContexts
from connectors.hl7.framing import Framer, Oversize, frame
from connectors.hl7.handling import Hl7Mapper
from connectors.hl7.message import parse
from connectors.hl7.sender import MllpSender, messages
from connectors.hl7.server import MllpServer
from connectors.hl7.settings import MllpSettings
from models.errors import Permanent, Poison, Transient
from processors.events import DeadLetterEvent, Event, PatientEvent, VitalsEvent
from tests.edge import RecordingPublisher, certificate, identities
from tests.hl7_messages import NOW, PULSE, message, obx, vitals

PATIENTS = [f"PID|1||P{n}^^^HOSP^MR" for n in range(50)]


class Gate(RecordingPublisher):
    """Confirms only when told to; `fails` names the control ids that are not confirmed, with their error."""

    def __init__(self) -> None:
        super().__init__()
        self.open = asyncio.Event()
        self.open.set()
        self.fails: dict[str, Exception] = {}
        self.started: list[str] = []

    async def publish(self, events: Sequence[Event], *, timeout: float | None = None) -> None:
        name = next((event.origin.message_id for event in events if hasattr(event, "origin")), "dead-letter")
        self.started.append(name)
        await self.open.wait()
        if name in self.fails:
            raise self.fails[name]
        await super().publish(events, timeout=timeout)


class Listening(MllpServer):
    """A server that knows where it listens, and its test peers."""

    address = ("", 0)

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.peers: list[Peer] = []


@contextlib.asynccontextmanager
async def serving(publisher: Any, contexts: MemoryContexts | None = None, **settings: Any) -> AsyncIterator[Listening]:
    made = MllpSettings.model_validate({"port": 0, "stop_seconds": 2, **settings})
    server = Listening(made, Hl7Mapper(made, identities(), contexts), publisher, lambda: NOW)
    server.address = await server.start()
    try:
        yield server
    finally:
        await server.stop()
        for peer in server.peers:
            peer.writer.transport.abort()
            with contextlib.suppress(OSError):
                await peer.writer.wait_closed()
        assert server.connections == 0
        assert server.buffered == 0


class Peer:
    """A sender that does exactly as it is told."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer, self.framer = reader, writer, Framer(1 << 20)
        self.frames: list[bytes | Oversize] = []

    @classmethod
    async def to(cls, server: Listening, tls: ssl.SSLContext | None = None) -> "Peer":
        host, port = server.address
        peer = cls(*await asyncio.open_connection(host, port, ssl=tls, server_hostname="localhost" if tls else None))
        server.peers.append(peer)
        return peer

    async def send(self, *raw: bytes) -> None:
        for one in raw:
            self.writer.write(one)
        await self.writer.drain()

    async def answer(self) -> tuple[str, str]:
        """The next answer: MSA-1 and MSA-2."""
        async with asyncio.timeout(30):
            while not self.frames:
                data = await self.reader.read(65536)
                if not data:
                    raise EOFError
                self.frames += self.framer.feed(data)
        one = self.frames.pop(0)
        assert isinstance(one, bytes)
        msa = parse(one).first("MSA")
        assert msa is not None
        return msa.get(1), msa.get(2)

    async def closed(self, within: float = 5) -> bool:
        """Whether the other side closes without another byte."""
        try:
            async with asyncio.timeout(within):
                return await self.reader.read(1) == b""
        except ConnectionError:
            return True
        except TimeoutError:
            return False

    async def silent(self, seconds: float = 0.15) -> bool:
        try:
            async with asyncio.timeout(seconds):
                return not await self.reader.read(1)
        except TimeoutError:
            return True

    def close(self) -> None:
        self.writer.close()


def of(n: int, patient: int = 0, **header: str) -> bytes:
    return vitals(PULSE, pid=PATIENTS[patient], pv1="", control_id=f"M{n}", **header)


async def until(condition: Any, seconds: float = 30) -> None:
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110  what is waited for has no event of its own
            await asyncio.sleep(0.005)


# ---------------------------------------------------------------------------------------------------------- the promise


async def test_stored_then_acknowledged() -> None:
    publisher = Gate()
    publisher.open.clear()
    async with serving(publisher) as server:
        peer = await Peer.to(server)
        await peer.send(frame(of(1)))
        await until(lambda: publisher.started == ["M1"])
        assert await peer.silent()
        publisher.open.set()
        assert await peer.answer() == ("AA", "M1")
        (event,) = publisher.events
        assert isinstance(event, VitalsEvent)
        assert event.received_at == NOW


async def test_enhanced_mode_commits_then_accepts() -> None:
    async with serving(Gate()) as server:
        peer = await Peer.to(server)
        await peer.send(frame(of(1, accept="AL", application="AL")))
        assert [await peer.answer(), await peer.answer()] == [("CA", "M1"), ("AA", "M1")]


@pytest.mark.parametrize("error", [Transient("down"), TimeoutError(), RuntimeError("a bug")])
async def test_unconfirmed_closes_without_an_answer(error: Exception) -> None:
    publisher = Gate()
    publisher.fails["M1"] = error
    async with serving(publisher) as server:
        peer = await Peer.to(server)
        await peer.send(frame(of(1)))
        assert await peer.closed()
        assert publisher.events == []
        assert server.counts["closed-unconfirmed"] == 1


async def test_a_publisher_that_never_returns_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("connectors.hl7.publishing.GUARD_SECONDS", 0.1)
    publisher = Gate()
    publisher.open.clear()
    async with serving(publisher, publish_seconds=0.1) as server:
        peer = await Peer.to(server)
        await peer.send(frame(of(1)))
        assert await peer.closed()


@pytest.mark.parametrize("code", ["AR", "AE"])
async def test_unconfirmed_is_answered_where_the_peer_wants_it_and_the_connection_stays(code: str) -> None:
    publisher = Gate()
    publisher.fails["M1"] = Transient("down")
    peers = {"p": {"addresses": ["127.0.0.1"], "unconfirmed": code}}
    async with serving(publisher, peers=peers) as server:
        peer = await Peer.to(server)
        await peer.send(frame(of(1)), frame(of(2, 1)))
        assert [await peer.answer(), await peer.answer()] == [(code, "M1"), ("AA", "M2")]
        del publisher.fails["M1"]
        await peer.send(frame(of(1)))
        assert await peer.answer() == ("AA", "M1")


async def test_unconfirmed_in_enhanced_mode_is_ce() -> None:
    publisher = Gate()
    publisher.fails["M1"] = Transient("down")
    async with serving(publisher) as server:
        peer = await Peer.to(server)
        await peer.send(frame(of(1, accept="AL", application="AL")))
        assert await peer.answer() == ("CE", "M1")


async def test_a_message_too_large_for_the_broker_becomes_a_dead_letter_or_is_refused() -> None:
    publisher = Gate()
    publisher.fails["M1"] = publisher.fails["M2"] = Poison("too large")
    async with serving(publisher) as server:
        peer = await Peer.to(server)
        await peer.send(frame(of(1)))
        assert await peer.answer() == ("AA", "M1")
        (letter,) = publisher.events
        assert isinstance(letter, DeadLetterEvent)
        assert letter.stage == "store"
        publisher.fails["dead-letter"] = Poison("too large")
        await peer.send(frame(of(2)), frame(of(3)))
        assert [await peer.answer(), await peer.answer()] == [("AE", "M2"), ("AA", "M3")]


# ------------------------------------------------------------------------------------------------- order and resending


async def test_answers_in_order_while_messages_are_in_flight() -> None:
    class Uneven(RecordingPublisher):
        async def publish(self, events: Sequence[Event], *, timeout: float | None = None) -> None:
            (event,) = events
            assert isinstance(event, VitalsEvent)
            await asyncio.sleep(0.05 if int(event.origin.message_id[1:]) % 2 else 0.001)
            await super().publish(events, timeout=timeout)

    publisher = Uneven()
    async with serving(publisher) as server:
        peer = await Peer.to(server)
        await peer.send(*(frame(of(n, n)) for n in range(40)))
        assert [await peer.answer() for _ in range(40)] == [("AA", f"M{n}") for n in range(40)]
        assert [e.origin.message_id for e in publisher.events if isinstance(e, VitalsEvent)] != [f"M{n}" for n in range(40)]


async def test_one_patients_messages_are_published_one_after_the_other_even_over_connections() -> None:
    publisher = Gate()
    publisher.open.clear()
    async with serving(publisher) as server:
        one, two = await Peer.to(server), await Peer.to(server)
        await one.send(frame(of(1, 0)), frame(of(2, 0)), frame(of(3, 1)))
        await until(lambda: set(publisher.started) == {"M1", "M3"})
        await two.send(frame(of(4, 0)))
        await asyncio.sleep(0.05)
        assert set(publisher.started) == {"M1", "M3"}
        publisher.open.set()
        assert [await one.answer() for _ in range(3)] == [("AA", "M1"), ("AA", "M2"), ("AA", "M3")]
        assert await two.answer() == ("AA", "M4")
        assert [n for n in publisher.started if n != "M3"] == ["M1", "M2", "M4"]


async def test_what_failed_holds_back_what_is_behind_it_about_the_same_patient() -> None:
    publisher = Gate()
    publisher.fails["M1"] = Transient("down")
    async with serving(publisher) as server:
        peer = await Peer.to(server)
        await peer.send(frame(of(1, 0)), frame(of(2, 0)))
        assert await peer.closed()
        assert publisher.events == []
        publisher.fails.clear()
        again = await Peer.to(server)
        await again.send(frame(of(1, 0)), frame(of(2, 0)))
        assert [await again.answer(), await again.answer()] == [("AA", "M1"), ("AA", "M2")]


async def test_resend_is_answered_again_and_not_published_twice() -> None:
    publisher = Gate()
    async with serving(publisher) as server:
        peer = await Peer.to(server)
        await peer.send(frame(of(1)), frame(of(1)))
        assert [await peer.answer(), await peer.answer()] == [("AA", "M1"), ("AA", "M1")]
        await peer.send(frame(of(1)))
        assert await peer.answer() == ("AA", "M1")
        assert len({event.id for event in publisher.events}) == 1
        assert server.counts["resent"] >= 1


async def test_without_memory_a_resend_has_the_same_ids() -> None:
    publisher = Gate()
    async with serving(publisher, remembered=0) as server:
        peer = await Peer.to(server)
        for _ in range(2):
            await peer.send(frame(of(1)))
            assert await peer.answer() == ("AA", "M1")
        assert len(publisher.events) == 2
        assert publisher.events[0] == publisher.events[1]


async def test_control_id_used_twice_is_two_messages_and_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    publisher = Gate()
    async with serving(publisher) as server:
        peer = await Peer.to(server)
        await peer.send(frame(of(1, 0)), frame(of(1, 1)))
        assert [await peer.answer(), await peer.answer()] == [("AA", "M1"), ("AA", "M1")]
        assert len({event.id for event in publisher.events}) == 2
        assert server.publishing.reused_control_ids == 1
    assert "control id" in caplog.text


async def test_contexts_are_known_to_the_next_message_before_they_are_confirmed() -> None:
    publisher, contexts = Gate(), MemoryContexts()
    publisher.open.clear()
    async with serving(publisher, contexts) as server:
        peer = await Peer.to(server)
        pid = "PID|1||9^^^HOSP^MR||||19500321"
        first = message("EVN|A01|202603020900", pid, "PV1|1|I|W1", kind="ADT^A01", control_id="M1")
        second = message("EVN|A08|202603020901", "PID|1||9^^^HOSP^MR", kind="ADT^A08", control_id="M2")
        await peer.send(frame(first), frame(second))
        await until(lambda: publisher.started == ["M1"])
        publisher.open.set()
        assert [await peer.answer(), await peer.answer()] == [("AA", "M1"), ("AA", "M2")]
        assert [event.birth_date for event in publisher.events] == ["1950-03-21"] * 2  # type: ignore[attr-defined]


async def test_no_promise_is_said_once_when_a_peer_wants_no_answers(caplog: pytest.LogCaptureFixture) -> None:
    publisher = Gate()
    async with serving(publisher) as server:
        peer = await Peer.to(server)
        await peer.send(frame(of(1, accept="NE", application="NE")), frame(of(2, accept="NE", application="NE")))
        await until(lambda: len(publisher.events) == 2)
        assert await peer.silent()
        assert server.counts["no-promise"] == 1
    assert caplog.text.count("cannot be told") == 1


# --------------------------------------------------------------------------------------------------- hostile and odd peers


async def test_bytes_one_by_one_and_several_messages_at_once() -> None:
    async with serving(Gate()) as server:
        peer = await Peer.to(server)
        for n in range(len(frame(of(1)))):
            await peer.send(frame(of(1))[n : n + 1])
        assert await peer.answer() == ("AA", "M1")
        await peer.send(b"garbage" + frame(of(2)) + b"\r\n" + frame(of(3)))
        assert [await peer.answer(), await peer.answer()] == [("AA", "M2"), ("AA", "M3")]
        await until(lambda: server.counts["garbage-bytes"] == 7)


async def test_a_frame_without_its_carriage_return_is_answered() -> None:
    async with serving(Gate(), trailer_seconds=0.05) as server:
        peer = await Peer.to(server)
        await peer.send(frame(of(1))[:-1])
        assert await peer.answer() == ("AA", "M1")


async def test_a_sender_that_shuts_down_its_side_still_gets_its_answers() -> None:
    async with serving(Gate()) as server:
        peer = await Peer.to(server)
        await peer.send(frame(of(1)), frame(of(2))[:-1])
        peer.writer.write_eof()
        assert [await peer.answer(), await peer.answer()] == [("AA", "M1"), ("AA", "M2")]
        assert await peer.closed()


async def test_a_batch_is_answered_message_by_message() -> None:
    async with serving(Gate()) as server:
        peer = await Peer.to(server)
        await peer.send(frame(b"FHS|^~\\&|x\rBHS|^~\\&|x\r" + of(1) + of(2) + b"BTS|2\rFTS|1\r"))
        assert [await peer.answer(), await peer.answer()] == [("AA", "M1"), ("AA", "M2")]


async def test_a_batch_without_a_message_is_refused_and_not_left_without_an_answer() -> None:
    async with serving(Gate()) as server:
        peer = await Peer.to(server)
        await peer.send(frame(b"FHS|^~\\&|x\rBHS|^~\\&|x\rBTS|0\rFTS|1\r"), frame(of(1)))
        assert [await peer.answer(), await peer.answer()] == [("AR", ""), ("AA", "M1")]


async def test_oversize_is_refused_and_the_next_message_is_read() -> None:
    async with serving(Gate(), message_bytes=4096) as server:
        peer = await Peer.to(server)
        big = of(1) + b"NTE|1||" + b"x" * 100_000
        await peer.send(frame(big), frame(of(2)))
        assert [await peer.answer(), await peer.answer()] == [("AR", "M1"), ("AA", "M2")]
        assert server.counts["oversize"] == 1


async def test_unreadable_is_refused_and_the_connection_lives() -> None:
    async with serving(Gate()) as server:
        peer = await Peer.to(server)
        await peer.send(frame(b"\x00\xff\xfe rubbish"), frame(b""), frame(of(1)))
        assert [await peer.answer() for _ in range(3)] == [("AR", ""), ("AR", ""), ("AA", "M1")]


async def test_slow_loris_is_cut_off_and_nobody_notices() -> None:
    async with serving(Gate(), frame_seconds=0.3) as server:
        slow, good = await Peer.to(server), await Peer.to(server)
        await slow.send(b"\x0bMSH")

        async def drip() -> None:
            with contextlib.suppress(ConnectionError):
                for _ in range(40):
                    await slow.send(b"|")
                    await asyncio.sleep(0.02)

        dripping = asyncio.create_task(drip())
        await good.send(frame(of(1)))
        assert await good.answer() == ("AA", "M1")
        assert await slow.closed(within=2)
        await dripping
        assert server.counts["cut-off-slow"] == 1
        assert server.counts["broken-frames"] == 1


async def test_idle_connection_is_closed_by_setting_only() -> None:
    async with serving(Gate(), idle_seconds=0.1) as server:
        peer = await Peer.to(server)
        await peer.send(frame(of(1)))
        assert await peer.answer() == ("AA", "M1")
        assert await peer.closed(within=2)
        assert server.counts["cut-off-idle"] == 1


async def test_a_peer_that_does_not_read_its_answers_is_cut_off() -> None:
    async with serving(Gate(), answer_seconds=0.3, in_flight=4) as server:
        peer = await Peer.to(server)
        peer.writer.transport.pause_reading()  # type: ignore[attr-defined]
        raw = frame(message("PID|1", kind="XXX^" + "Z" * 4000, control_id="M" * 180))

        async def flood() -> None:
            with contextlib.suppress(ConnectionError):
                for _ in range(20_000):
                    await peer.send(raw)

        flooding = asyncio.create_task(flood())
        await until(lambda: server.counts["cut-off-unread"] == 1, 20)
        flooding.cancel()
        good = await Peer.to(server)
        await good.send(frame(of(1)))
        assert await good.answer() == ("AA", "M1")


async def test_backpressure_reaches_the_socket() -> None:
    publisher = Gate()
    publisher.open.clear()
    async with serving(publisher, in_flight=4) as server:
        peer = await Peer.to(server)
        raw = of(0, 0) + b"NTE|1||" + b"x" * 50_000
        sent = 0

        async def push() -> None:
            nonlocal sent
            for n in range(2000):
                await peer.send(frame(raw.replace(b"|M0|", b"|M%d|" % n)))
                sent += 1

        pushing = asyncio.create_task(push())
        await asyncio.sleep(0.5)
        held = sent
        assert held < 500
        assert server.buffered < 1_000_000
        await asyncio.sleep(0.2)
        assert sent == held
        pushing.cancel()
        publisher.open.set()
        assert await peer.answer() == ("AA", "M0")
        peer.close()


async def test_half_messages_above_the_memory_limit_are_cut_off_and_small_ones_served() -> None:
    async with serving(Gate(), buffered_bytes=2 * 2**20, message_bytes=2**20) as server:
        hogs = [await Peer.to(server) for _ in range(4)]
        for hog in hogs:
            with contextlib.suppress(ConnectionError):
                await hog.send(b"\x0bMSH" + b"x" * 900_000)
        await until(lambda: server.counts["cut-off-memory"] >= 1)
        assert server.buffered <= 2 * 2**20 + 65536
        good = await Peer.to(server)
        await good.send(frame(of(1)))
        assert await good.answer() == ("AA", "M1")
        for hog in hogs:
            hog.close()


async def test_a_thousand_idle_connections() -> None:
    async with serving(Gate()) as server:
        idle = [await Peer.to(server) for _ in range(1000)]
        good = await Peer.to(server)
        await good.send(*(frame(of(n, n % 50)) for n in range(200)))
        assert [await good.answer() for _ in range(200)] == [("AA", f"M{n}") for n in range(200)]
        assert server.connections == 1001
        await idle[500].send(frame(of(999)))
        assert await idle[500].answer() == ("AA", "M999")
        for peer in idle:
            peer.close()
        await until(lambda: server.connections == 1)


async def test_strangers_and_too_many_are_refused() -> None:
    peers = {"p": {"addresses": ["10.1.2.3"]}}
    async with serving(Gate(), peers=peers) as server:
        assert await (await Peer.to(server)).closed()
        assert server.counts["refused-stranger"] == 1
    async with serving(Gate(), peers={"p": {"addresses": ["127.0.0.1"], "connections": 1}}) as server:
        first = await Peer.to(server)
        await first.send(frame(of(1)))
        assert await first.answer() == ("AA", "M1")
        assert await (await Peer.to(server)).closed()
        assert server.counts["p:refused-too-many"] == 1
        await first.send(frame(of(2)))
        assert await first.answer() == ("AA", "M2")


async def test_peers_at_one_address_are_told_apart_by_msh(caplog: pytest.LogCaptureFixture) -> None:
    here = {"addresses": ["127.0.0.1"]}
    peers = {
        "adt": here | {"applications": ["EPIC"], "zone": "America/New_York"},
        "monitors": here | {"applications": ["MON"], "facilities": ["ICU"], "zone": "America/Chicago", "charted": False},
    }
    seen: list[tuple[str, str]] = []
    publisher = RecordingPublisher()
    async with serving(publisher, peers=peers) as server:
        server.observe = lambda peer, outcome, seconds: seen.append((peer.name, outcome.verdict))
        peer = await Peer.to(server)
        ours = vitals(PULSE, obr="OBR|1||F9|VS^Vitals|||20260302035500", control_id="1")  # of MON, ICU
        epic = ours.replace(b"|MON|ICU|", b"|EPIC|ICU|").replace(b"|1|P|", b"|2|P|").replace(b"0355", b"0455")
        lab = ours.replace(b"|MON|", b"|LAB|")
        await peer.send(frame(ours), frame(epic), frame(lab))
        assert [await peer.answer() for _ in range(3)] == [("AA", "1"), ("AA", "2"), ("AR", "1")]
        await peer.send(frame(lab.replace(b"ORU^R01^ORU_R01", b"ACK")), frame(ours))
        assert await peer.answer() == ("AA", "1")
        await until(lambda: len(seen) == 4)  # the acknowledgement is not acknowledged
        assert seen == [("monitors", "accepted"), ("adt", "accepted"), ("?", "refused"), ("?", "ignored")]
        assert server.counts["monitors:resent"] == 1
        assert server.counts["refused-sender"] == 2
        first, second = (event for event in publisher.events if isinstance(event, VitalsEvent))
        assert (first.origin.peer, first.charted) == ("monitors", False)
        assert (second.origin.peer, second.charted) == ("adt", True)
        assert first.observed_at == second.observed_at  # each in its own zone
    assert "(there: monitors, adt)" in caplog.text


async def test_stop_answers_what_is_in_flight() -> None:
    publisher = Gate()
    publisher.open.clear()
    async with serving(publisher) as server:
        peer = await Peer.to(server)
        await peer.send(frame(of(1)))
        await until(lambda: publisher.started == ["M1"])
        stopping = asyncio.create_task(server.stop())
        await asyncio.sleep(0.05)
        publisher.open.set()
        await stopping
        assert await peer.answer() == ("AA", "M1")
        assert await peer.closed()


async def test_stop_does_not_wait_for_ever() -> None:
    publisher = Gate()
    publisher.open.clear()
    async with serving(publisher, stop_seconds=0.1) as server:
        peer = await Peer.to(server)
        await peer.send(frame(of(1)))
        await until(lambda: publisher.started == ["M1"])
        async with asyncio.timeout(2):
            await server.stop()
        assert await peer.closed()


async def test_a_large_message_does_not_hold_up_the_others() -> None:
    async with serving(Gate()) as server:
        big, small = await Peer.to(server), await Peer.to(server)
        lines = "".join(f"OBX|{n}|TX|18842-5^DS^LN||{'text ' * 20}||||||F\r" for n in range(20_000))
        await big.send(frame(of(1) + lines.encode()))
        await small.send(frame(of(2, 1)))
        assert await small.answer() == ("AA", "M2")
        assert await big.answer() == ("AA", "M1")


async def test_reading_an_embedded_pdf_does_not_hold_up_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    reading = threading.Event()
    monkeypatch.setattr("connectors.texts.text_of_pdf", lambda data: "found" if reading.wait(20) else "")
    publisher = Gate()
    async with serving(publisher) as server:
        slow, quick = await Peer.to(server), await Peer.to(server)
        document = "OBX|1|ED|18842-5^DS^LN||^application^pdf^Base64^JVBERi0xLjQ=||||||F"
        await slow.send(frame(vitals(document, control_id="M1")))
        await quick.send(frame(of(2, 1)))
        assert await quick.answer() == ("AA", "M2")
        reading.set()
        assert await slow.answer() == ("AA", "M1")


async def test_no_patient_data_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    publisher = Gate()
    publisher.fails["M7"] = Transient("down")
    async with serving(publisher, message_bytes=4096) as server:
        peer = await Peer.to(server)
        secret = "PID|1||SECRETMRN^^^HOSP^MR||SECRETNAME^X||SECRETBIRTH"
        bad = obx("8867-4^HR^LN", "SECRETVALUE", "SECRETUNIT")
        await peer.send(
            frame(vitals(bad, pid=secret, control_id="M5")),
            frame(message(secret, kind="SECRETTYPE")),
            frame(b"SECRET rubbish"),
            b"SECRET garbage",
            frame(b"MSH|^~\\&|SECRET" + b"SECRET" * 2000),
            frame(vitals(PULSE, pid=secret, control_id="M7")),
        )
        for _ in range(4):
            await peer.answer()
        assert await peer.closed()
    assert "SECRET" not in caplog.text
    assert "loopback" in caplog.text


# ------------------------------------------------------------------------------------------------------------------- TLS


async def test_tls_and_mutual_tls(tmp_path: Path) -> None:
    crt, key = certificate(tmp_path)
    client_crt, client_key = certificate(tmp_path, "monitor")
    tls = {"certificate_file": crt, "key_file": key, "ca_file": client_crt}
    peers = {"mon": {"certificates": ["monitor"]}, "other": {"certificates": ["other"]}}
    trust = ssl.create_default_context(cafile=str(crt))
    async with serving(Gate(), tls=tls, peers=peers) as server:
        anonymous = None
        with contextlib.suppress(ssl.SSLError, ConnectionError):
            anonymous = await Peer.to(server, trust)
            await anonymous.send(frame(of(1)))
            with contextlib.suppress(ssl.SSLError):
                assert await anonymous.closed()
        trust.load_cert_chain(client_crt, client_key)
        peer = await Peer.to(server, trust)
        await peer.send(frame(of(1)))
        assert await peer.answer() == ("AA", "M1")
        assert server.counts["mon:accepted"] == 1
        assert server.counts["accepted"] == 1
        peer.close()
        if anonymous:
            anonymous.close()


def test_tls_files_that_are_missing(tmp_path: Path) -> None:
    from connectors.hl7.settings import Hl7Tls
    from connectors.hl7.transport import server_context

    with pytest.raises(Permanent, match="TLS"):
        server_context(Hl7Tls(certificate_file=tmp_path / "no.crt", key_file=tmp_path / "no.key"))


# ---------------------------------------------------------------------------------------------------------------- sender


async def test_sender_resends_until_it_is_stored() -> None:
    publisher = Gate()
    publisher.fails["M1"] = Transient("down")
    async with serving(publisher) as server:
        async with MllpSender(*server.address, pause=0.01) as sender:
            sending = asyncio.create_task(sender.send(of(1)))
            await until(lambda: server.counts["closed-unconfirmed"] >= 3)
            publisher.fails.clear()
            ack = await sending
            assert (ack.code, ack.control_id, ack.stored) == ("AA", "M1", True)
            assert ack.attempts >= 4
            assert (await sender.send(of(2))).attempts == 1
        assert len(publisher.events) == 2


async def test_sender_gives_up_after_its_attempts_and_takes_a_final_refusal() -> None:
    async with serving(Gate()) as server, MllpSender(*server.address, attempts=2, pause=0.01) as sender:
        with pytest.raises(Transient, match="AE"):
            await sender.send(message(kind="ADT^A01"))
        with pytest.raises(Permanent, match="CR"):
            await sender.send(of(1, version="9", accept="AL"))
    async with MllpSender("127.0.0.1", 1, attempts=2, pause=0.01) as nobody:
        with pytest.raises(Transient, match="no answer"):
            await nobody.send(of(1))


async def test_senders_and_a_publisher_that_fails_now_and_then_lose_and_double_nothing() -> None:
    class Flaky(RecordingPublisher):
        """Fails every seventh time, half of these after storing."""

        def __init__(self) -> None:
            super().__init__()
            self.n = 0

        async def publish(self, events: Sequence[Event], *, timeout: float | None = None) -> None:
            self.n += 1
            n = self.n
            await asyncio.sleep(0)
            if n % 14 == 0:
                await super().publish(events, timeout=timeout)
            if n % 7 == 0:
                raise Transient("lost")
            await super().publish(events, timeout=timeout)

    publisher = Flaky()
    async with serving(publisher) as server:

        async def ward(number: int) -> None:
            async with MllpSender(*server.address, pause=0.001, timeout=5) as sender:
                for n in range(30):
                    assert (await sender.send(of(number * 1000 + n, number))).stored

        await asyncio.gather(*(ward(number) for number in range(10)))
    stored = {event.origin.message_id: event.id for event in publisher.events if isinstance(event, VitalsEvent)}
    assert len(stored) == 300
    assert len({event.id for event in publisher.events}) == 300
    for number in range(10):  # per patient in order, but for the repeats
        seen: list[int] = []
        for event in publisher.events:
            n = int(event.origin.message_id[1:]) if isinstance(event, VitalsEvent) else -1
            if n // 1000 == number and n not in seen:
                seen.append(n)
        assert seen == sorted(seen)


async def test_the_readmes_message_is_stored_as_typed(tmp_path: Path) -> None:
    """Sent as the README says, a segment a line, it is one whole set of a patient of known age."""
    readme = (Path(__file__).parents[2] / "README.md").read_text("utf-8")
    typed = readme.partition("connectors.hl7.sender localhost:2575 <<END\n")[2].partition("\nEND\n")[0]
    typed = typed.replace("$now", f"{NOW:%Y%m%d%H%M%S%z}")
    (tmp_path / "message").write_text(typed)
    publisher = RecordingPublisher()
    async with serving(publisher) as server:
        host, port = server.address
        command = [sys.executable, "-m", "connectors.hl7.sender", f"{host}:{port}"]
        sending = await asyncio.create_subprocess_exec(
            *command, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, cwd=Path(__file__).parents[2]
        )
        said, _ = await sending.communicate(typed.encode())
        assert (sending.returncode, said.decode().split()[0]) == (0, "AA")
        again = await asyncio.create_subprocess_exec(
            *command, str(tmp_path / "message"), "/dev/null", stdout=asyncio.subprocess.PIPE, cwd=Path(__file__).parents[2]
        )
        assert (await again.communicate())[0].startswith(b"AA")
    (found,) = [event for event in publisher.events if isinstance(event, VitalsEvent)]
    assert len(found.observations) == 7
    (context,) = [event for event in publisher.events if isinstance(event, PatientEvent)]
    assert context.birth_date is not None


def test_messages_are_told_apart_however_lines_end() -> None:
    one, two = b"MSH|^~\\&|A\rPID|1\r", b"MSH|^~\\&|B\rPID|2\r"
    for text in (one + two, one.replace(b"\r", b"\n") + b"\n" + two.replace(b"\r", b"\r\n"), frame(one) + frame(two)):
        assert messages(text) == [one, two]
    assert messages(b"\n") == []
