"""Alerts to an Alert Manager (PCD-04) over a real MLLP socket: ORU^R40, judged by its answer."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import pytest

from connectors.hl7.framing import Framer, Oversize, frame
from connectors.hl7.message import Message, parse
from tests.deliveries import alert, delivering, offset_group, site, write
from tests.kafka import Kafka
from tests.lanes import bodies, until

pytestmark = pytest.mark.kafka


@dataclass
class AlertManager:
    """Answers each message with the next of `codes`, then with AA; empty: says nothing."""

    codes: list[str] = field(default_factory=list)
    taken: list[Message] = field(default_factory=list)
    seen: list[str] = field(default_factory=list)
    port: int = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        framer = Framer(1_000_000)
        while data := await reader.read(65536):
            for raw in framer.feed(data):
                assert not isinstance(raw, Oversize)
                message = parse(raw)
                code = self.codes.pop(0) if self.codes else "CA"
                self.seen.append(code)
                if code in ("AA", "CA"):
                    self.taken.append(message)
                if code:
                    answer = f"MSH|^~\\&|M||VIGIL||20260101||ACK^R40^ACK|1|P|2.6\rMSA|{code}|{message.header.raw(10)}\r"
                    writer.write(frame(answer.encode()))
        writer.close()


@pytest.fixture
async def manager() -> AsyncIterator[AlertManager]:
    one = AlertManager()
    server = await asyncio.start_server(one.serve, "127.0.0.1", 0)
    one.port = server.sockets[0].getsockname()[1]
    yield one
    server.close()


async def test_alerts_reach_the_manager_in_order_and_a_refusal_is_kept(kafka: Kafka, manager: AlertManager) -> None:
    manager.codes = ["AE", "", "CA", "CR", "CR"]
    own = {"kind": "pcd04", "host": "127.0.0.1", "port": manager.port, "timeout": 1.0, "refused_tries": 2}
    settings = site(kafka, {"nurses": own})
    sent = [alert("p"), alert("p", 1), alert("p", sequence=1, state="resolved")]
    await write(settings, sent)
    topic = settings.kafka.topic_prefix + "clinical.alerts"
    async with delivering(settings, "nurses"):

        async def done() -> bool:
            return sum((await asyncio.to_thread(kafka.committed, offset_group(settings, "nurses"), topic)).values()) == 3

        await until(done, what="everything committed")
    assert manager.seen == ["AE", "", "CA", "CR", "CR", "CA"]
    first, last = manager.taken
    assert first.header.raw(9) == "ORU^R40^ORU_R40"
    assert [segment.get(5) for segment in first.all("OBX")][2:7] == ["start", "active", "enabled", "PH", "SA"]
    assert [segment.get(5) for segment in last.all("OBX")][2:4] == ["end", "inactive"]
    assert [segment.raw(8) for segment in first.all("OBX")] == ["PH~SA"] + [""] * 7  # the profile: on the first facet only
    orders = first.first("OBR"), last.first("OBR")
    assert orders[0] is not None and orders[1] is not None
    assert orders[0].get(3) == orders[1].get(29, 2, 1) == sent[0].alert_id
    letters = bodies(await asyncio.to_thread(kafka.read, settings.kafka.topic_prefix + "clinical.dead-letters"))
    assert [letter["message"] for letter in letters] == ["nurses refuses: answered CR"]
