"""Receivers of alerts that do as they are told: one for each kind of delivery, real sockets, one script for all.

`answers` holds what is said to the next messages, one each: ok, again (the receiver cannot now), refuse (it never will), silent,
garbage (bytes of no protocol), cut (half an answer, then the end). When it is empty: ok.
"""

import asyncio
import contextlib
import ssl
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson

from connectors.hl7.message import parse
from processors.events import AlertEvent, News2, Parameter, ScoreEvent, Source
from processors.identity import natural_id
from streams.clock import real_clock
from tests.deliveries import alert
from tests.receiver import SECRET

WORDS = "Zebrafinch"  # stands in all that is told, and may stand in no log
TITLES: dict[str, str] = {}  # of each event that was made, by its id: patient and step


@dataclass
class Scripted:
    """`tries`: titles of the alerts, each time one came; `taken`: those that were answered with ok."""

    answers: list[str] = field(default_factory=list)
    tries: list[str] = field(default_factory=list)
    taken: list[str] = field(default_factory=list)
    bytes_in: int = 0
    delay: float = 0.0
    port: int = 0
    tls: tuple[Path, Path] | None = None
    _server: asyncio.Server | None = None
    _open: set[asyncio.StreamWriter] = field(default_factory=set)

    kind = ""
    topic = "clinical.alerts"

    @classmethod
    def event(cls, patient: str, step: int) -> AlertEvent | ScoreEvent:
        """Return a step of a patient's alert (or a score), and remember its title."""
        made = alert(patient, sequence=step, title=f"{WORDS} {patient} {step}")
        TITLES[made.id] = made.title
        return made

    def settings(self, **more: Any) -> dict[str, Any]:
        """Return the settings of a delivery to it."""
        raise NotImplementedError

    async def _read(self, reader: asyncio.StreamReader) -> bytes:
        raise NotImplementedError

    def _title(self, message: bytes) -> str:
        raise NotImplementedError

    def _say(self, answer: str, message: bytes) -> bytes:
        raise NotImplementedError

    async def start(self) -> None:
        context = None
        if self.tls:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(*self.tls)
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port, ssl=context)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
            for writer in [*self._open]:
                writer.transport.abort()
            self._server = None

    async def __aenter__(self) -> "Scripted":
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open.add(writer)
        try:
            with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError, ssl.SSLError):
                while await self._exchange(reader, writer):
                    pass
        finally:
            self._open.discard(writer)
            writer.transport.abort()

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        message = await self._read(reader)
        self.bytes_in += len(message)
        title = self._title(message)
        self.tries.append(title)
        answer = self.answers.pop(0) if self.answers else "ok"
        if self.delay:
            await asyncio.sleep(self.delay)
        match answer:
            case "silent":
                await reader.read()  # until the other side gives up
                return False
            case "garbage":
                writer.write(b"\x00\xff\x1c\r garbage \x0b\r\n\r\n")
                await writer.drain()
                return False
            case "cut":
                writer.write(self._say("ok", message)[:12])
                await writer.drain()
                return False
        if answer == "ok":
            self.taken.append(title)
        writer.write(self._say(answer, message))
        await writer.drain()
        return True


class _Http(Scripted):
    @property
    def base(self) -> str:
        return f"{'https' if self.tls else 'http'}://localhost:{self.port}"

    async def _read(self, reader: asyncio.StreamReader) -> bytes:
        head = await reader.readuntil(b"\r\n\r\n")
        length = head.lower().partition(b"content-length:")[2].partition(b"\r")[0]
        return head + await reader.readexactly(int(length))

    def _say(self, answer: str, message: bytes) -> bytes:
        status = {"ok": b"204 No Content", "again": b"503 Service Unavailable", "refuse": b"410 Gone"}[answer]
        return b"HTTP/1.1 " + status + b"\r\nContent-Length: 0\r\n\r\n"


class Webhook(_Http):
    kind = "webhook"

    def settings(self, **more: Any) -> dict[str, Any]:
        return {"kind": "webhook", "url": f"{self.base}/alerts", "secret": SECRET, **more}

    def _title(self, message: bytes) -> str:
        return str(orjson.loads(message.partition(b"\r\n\r\n")[2])["data"]["title"])


class Fhir(_Http):
    """Without Flags, so that an alert is one request; both are tested in test_deliver_fhir."""

    kind = "fhir"
    token_file: Path | None = None

    def settings(self, **more: Any) -> dict[str, Any]:
        token = {"token_file": str(self.token_file)} if self.token_file else {}
        return {"kind": "fhir", "url": f"{self.base}/fhir", "flag": False, **token, **more}

    def _title(self, message: bytes) -> str:
        return str(orjson.loads(message.partition(b"\r\n\r\n")[2])["payload"][0]["contentString"])


class Scores(Fhir):
    """The same for scores; each gives one RiskAssessment."""

    kind = "fhir-scores"
    topic = "clinical.scores"

    @classmethod
    def event(cls, patient: str, step: int) -> ScoreEvent:
        at = real_clock()
        key = natural_id("test-score", patient, step)
        TITLES[key] = f"{WORDS} {patient} {step}"
        seen = Parameter(name="pulse", value=WORDS, unit="", points=3, observed_at=at)
        return ScoreEvent(
            id=key,
            patient_id=patient,
            source=Source(topic="clinical.vitals", partition=0, offset=step, event_id=natural_id("set", patient, step)),
            observed_at=at,
            received_at=at,
            news2=News2(total=3, at_least=False, single_three=True, scale=1, band="low-medium", parameters=(seen,)),
        )

    def settings(self, **more: Any) -> dict[str, Any]:
        own = super().settings(**more)
        del own["flag"]
        return {**own, "kind": "fhir-scores"}

    def _title(self, message: bytes) -> str:
        return TITLES[orjson.loads(message.partition(b"\r\n\r\n")[2])["identifier"][0]["value"].removesuffix("-news2")]


class Manager(Scripted):
    """An IHE ACM Alert Manager."""

    kind = "pcd04"

    def settings(self, **more: Any) -> dict[str, Any]:
        return {"kind": "pcd04", "host": "localhost", "port": self.port, "connections": 4, **more}

    async def _read(self, reader: asyncio.StreamReader) -> bytes:
        return (await reader.readuntil(b"\x1c\r")).strip(b"\x0b\x1c\r")

    def _title(self, message: bytes) -> str:
        return [*parse(message).all("OBX")][7].get(5)

    def _say(self, answer: str, message: bytes) -> bytes:
        code = {"ok": "CA", "again": "CE", "refuse": "CR"}[answer]
        control = parse(message).header.raw(10)
        return f"\x0bMSH|^~\\&|M||VIGIL||20260101||ACK^R40^ACK|1|P|2.6\rMSA|{code}|{control}\r\x1c\r".encode()


KINDS = (Webhook, Fhir, Scores, Manager)
