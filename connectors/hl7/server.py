"""The MLLP server: frames in, events to the publisher, answers out, in the order in which the messages came.

One connection is two tasks around a bounded queue:

    reader    bytes -> frames -> `Hl7Mapper.handle` -> starts publishing -> queue
    writer    queue -> waits until that message's events are confirmed -> its answers

Up to `in_flight` messages of a connection are on their way to Kafka at once; then nothing more is read and TCP slows the sender
down. Messages about the same patient are published one after the other, over all connections, so that one which fails holds those
behind it back. What is not confirmed is not answered: the connection is closed (or AR, AE, CE as `acknowledgement` says), with
everything behind it unanswered, and the sender sends again. Nothing positive is ever said before `publish` returned.
"""

import asyncio
import logging
import ssl
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from connectors.hl7.batches import of_frame
from connectors.hl7.framing import Framer, Oversize, frame
from connectors.hl7.handling import Hl7Mapper, Outcome
from connectors.hl7.message import sent_by
from connectors.hl7.publishing import Publishing, Unconfirmed
from connectors.hl7.settings import MllpSettings, Peer
from connectors.hl7.transport import certificate_names, keep_alive, server_context
from connectors.publisher import Publisher
from processors.identity import content_hash

log = logging.getLogger(__name__)

READ_BYTES: Final = 64 * 1024
SMALL: Final = 64 * 1024  # a connection may always hold this much
OFF_LOOP: Final = 128 * 1024  # larger messages, and embedded documents, are mapped in a thread: the others must not wait
CLOSE_SECONDS: Final = 2.0  # for a TLS peer to say goodbye

Observer = Callable[[Peer, Outcome, float], None]


class _Hangup(Exception):
    """This side ends the connection. The message is the name that it is counted by."""


@dataclass(slots=True)
class _Due:
    """An answer that is due: that of a message being published, or one that is known already."""

    result: "asyncio.Task[Outcome] | Outcome | tuple[bytes, ...]"
    outcome: Outcome | None
    peer: Peer
    size: int
    since: float


class MllpServer:
    """Listens for HL7 v2 senders.

    `counts` says what happened since the start, by name and by `peer:name` (the names stand in CONFORMANCE.md); `observe` is
    called with peer, outcome and seconds for each message once it is answered, for metrics.
    """

    def __init__(
        self,
        settings: MllpSettings,
        mapper: Hl7Mapper,
        publisher: Publisher,
        clock: Callable[[], datetime],
        *,
        observe: Observer | None = None,
    ) -> None:
        self.settings = settings
        self.mapper = mapper
        self.clock = clock
        self.observe = observe
        self.counts: Counter[str] = Counter()
        self.publishing = Publishing(mapper, publisher, settings.publish_seconds, settings.remembered)
        self.buffered = 0  # bytes of half and unanswered messages, of all connections
        self._server: asyncio.Server | None = None
        self._connections: dict[_Connection, asyncio.Task[None]] = {}

    async def start(self) -> tuple[str, int]:
        """Listen. Returns the address and port, the latter the one chosen where the setting is 0."""
        context = server_context(self.settings.tls) if self.settings.tls else None
        self._server = await asyncio.start_server(
            self._accept, self.settings.host, self.settings.port, ssl=context, limit=READ_BYTES, backlog=1024
        )
        host, port = self._server.sockets[0].getsockname()[:2]
        return str(host), int(port)

    async def stop(self) -> None:
        """Take no more messages, answer those in flight for at most `stop_seconds`, close."""
        if self._server is None:
            return
        self._server.close()
        tasks = [*self._connections.values()]
        for connection in [*self._connections]:
            connection.stop_reading()
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=self.settings.stop_seconds)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)
        await self._server.wait_closed()
        self._server = None

    @property
    def connections(self) -> int:
        """Open connections."""
        return len(self._connections)

    def count(self, peer: str, what: str, times: int = 1) -> None:
        """Count an occurrence, over all and by peer."""
        self.counts[what] += times
        self.counts[f"{peer}:{what}"] += times

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        address = str((writer.get_extra_info("peername") or ("",))[0])
        peers = self.settings.peers_of(address, certificate_names(writer))
        if not peers or self._is_full(peers[0]):
            name, what = (peers[0].name, "refused-too-many") if peers else ("?", "refused-stranger")
            self.count(name, what)
            log.warning("connection from %s: %s", address, what)
            writer.transport.abort()
            return
        keep_alive(writer)
        connection = _Connection(self, peers, reader, writer)
        task = asyncio.current_task()
        assert task is not None
        self._connections[connection] = task
        self.count(connection.peer.name, "connected")
        try:
            await connection.run()
        except asyncio.CancelledError:
            pass  # by `stop`, whose patience is over; before 3.12 asyncio's own callback would log it as an error
        finally:
            del self._connections[connection]

    def _is_full(self, peer: Peer) -> bool:
        of_peer = sum(connection.peer.name == peer.name for connection in self._connections)
        return self.connections >= self.settings.connections or of_peer >= peer.settings.connections


class _Connection:
    """One connection, of one peer or of several at one address. `peer`: the first of them, by which the connection itself goes."""

    def __init__(
        self, server: MllpServer, peers: tuple[Peer, ...], reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self.peer = peers[0]
        self._peers = peers
        self._server = server
        self._settings = server.settings
        self._reader = reader
        self._writer = writer
        self._framer = Framer(self._settings.message_bytes)
        self._queue: asyncio.Queue[_Due | None] = asyncio.Queue(self._settings.in_flight)
        self._in_frame = 0  # bytes of a half frame, as counted in `server.buffered`
        self._in_queue = 0  # bytes of unanswered messages, likewise
        self._begun = 0.0  # when the frame being read began
        self._warned: set[str] = set()  # peers that want no answers, and "" for a sender that is none of them
        self._loop = asyncio.get_running_loop()

    def stop_reading(self) -> None:
        """Take nothing more; what is in flight is still answered."""
        self._writer.transport.pause_reading()  # type: ignore[attr-defined]  # typed as a write transport, is both
        self._reader.feed_eof()

    async def run(self) -> None:
        """Serve until either side ends it."""
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._read())
                group.create_task(self._answer())
        except* _Hangup as hangups:
            what = str(hangups.exceptions[0])
            self._server.count(self.peer.name, what)
            log.warning("closed a connection of peer %s: %s", self.peer.name, what)
        except* (OSError, ssl.SSLError):
            self._server.count(self.peer.name, "connection-lost")
        finally:
            self._framer.close()
            self._count_framer()
            self._server.buffered -= self._in_frame + self._in_queue
            await self._close()

    async def _close(self) -> None:
        self._writer.close()
        try:
            async with asyncio.timeout(CLOSE_SECONDS):
                await self._writer.wait_closed()
        except (OSError, ssl.SSLError, TimeoutError):
            self._writer.transport.abort()

    # ---------------------------------------------------------------------------------------------------------------- reader

    async def _read(self) -> None:
        while True:
            frames = await self._next_frames()
            if frames is None:
                break
            for one in frames:
                await self._take(one)
        await self._queue.put(None)

    async def _next_frames(self) -> list[bytes | Oversize] | None:
        """Read once. Returns the frames that are complete, None at the end of the connection."""
        framer = self._framer
        try:
            async with asyncio.timeout(self._patience()):
                data = await self._reader.read(READ_BYTES)
        except TimeoutError:
            if framer.ending:
                return framer.end_of_silence()
            raise _Hangup("cut-off-slow" if framer.inside else "cut-off-idle") from None
        if not data:
            return framer.end_of_silence() or None
        was_inside = framer.inside
        frames = framer.feed(data)
        if framer.inside and (frames or not was_inside):
            self._begun = self._loop.time()
        self._hold_frame(framer.buffered)
        self._count_framer()
        return frames

    def _patience(self) -> float | None:
        """Return how long to wait for the next bytes."""
        settings = self._settings
        if self._framer.ending:
            return settings.trailer_seconds
        if self._framer.inside:
            allowed = settings.frame_seconds + self._framer.buffered / settings.frame_bytes_per_second
            return max(0.0, self._begun + allowed - self._loop.time())
        return settings.idle_seconds or None

    def _hold_frame(self, size: int) -> None:
        self._server.buffered += size - self._in_frame
        self._in_frame = size
        if self._server.buffered > self._settings.buffered_bytes and self._in_frame + self._in_queue > SMALL:
            raise _Hangup("cut-off-memory")

    def _count_framer(self) -> None:
        framer = self._framer
        for what, times in (("garbage-bytes", framer.garbage), ("broken-frames", framer.broken)):
            if times:
                self._server.count(self.peer.name, what, times)
        framer.garbage = framer.broken = 0

    async def _take(self, one: bytes | Oversize) -> None:
        server = self._server
        if isinstance(one, Oversize):
            peer = self._sender(one.head) or self.peer
            outcome = server.mapper.oversize(one.head, peer, server.clock(), self._settings.message_bytes)
            server.count(peer.name, "oversize")
            await self._put(outcome, outcome, peer, len(one.head))
            return
        for raw in of_frame(one):
            await self._handle(raw)

    def _sender(self, raw: bytes) -> Peer | None:
        """Return whose message it is, None where no peer at this address sends as its MSH-3 and MSH-4 say.

        What has no MSH that can be read is refused whoever sent it, and counted as the first one's.
        """
        if not any(self.peer.settings.kinds_of_mark[1:]):
            return self.peer
        if (named := sent_by(raw)) is None:
            return self.peer
        return next((peer for peer in self._peers if peer.settings.sends_as(*named)), None)

    async def _handle(self, raw: bytes) -> None:
        server, at = self._server, self._server.clock()
        peer = self._sender(raw)
        if peer is None:
            await self._refuse(raw, at)
            return
        known = server.publishing.answers_to(peer.name, content_hash(raw))
        if known is not None:
            server.count(peer.name, "resent")
            await self._put(known, None, peer, len(raw))
            return
        if len(raw) > OFF_LOOP or raw[3:4] + b"ED" + raw[3:4] in raw:
            outcome = await asyncio.to_thread(server.mapper.handle, raw, peer, at)
        else:
            outcome = server.mapper.handle(raw, peer, at)
        if not outcome.promise and peer.name not in self._warned:
            self._warned.add(peer.name)
            server.count(peer.name, "no-promise")
            log.warning("peer %s wants no acknowledgements (NE): it cannot be told what was not stored", peer.name)
        await self._put(server.publishing.start(raw, peer, at, outcome), outcome, peer, len(raw))

    async def _refuse(self, raw: bytes, at: datetime) -> None:
        nobody = Peer("?", self.peer.settings)
        self._server.count(nobody.name, "refused-sender")
        if "" not in self._warned:
            self._warned.add("")
            names = ", ".join(peer.name for peer in self._peers)
            log.warning("refused: MSH-3 and MSH-4 of a message are of no peer at its address (there: %s)", names)
        outcome = self._server.mapper.stranger(raw, nobody, at)
        await self._put(outcome, outcome, nobody, len(raw))

    async def _put(
        self, result: "asyncio.Task[Outcome] | Outcome | tuple[bytes, ...]", outcome: Outcome | None, peer: Peer, size: int
    ) -> None:
        self._in_queue += size
        self._server.buffered += size
        await self._queue.put(_Due(result, outcome, peer, size, self._loop.time()))

    # ---------------------------------------------------------------------------------------------------------------- writer

    async def _answer(self) -> None:
        while (due := await self._queue.get()) is not None:
            if isinstance(due.result, tuple):
                answers = due.result
            else:
                answers = await self._settled(due)
            for answer in answers:
                self._writer.write(frame(answer))
            try:
                async with asyncio.timeout(self._settings.answer_seconds):
                    await self._writer.drain()
            except TimeoutError:
                self._writer.transport.abort()
                raise _Hangup("cut-off-unread") from None
            self._in_queue -= due.size
            self._server.buffered -= due.size

    async def _settled(self, due: _Due) -> tuple[bytes, ...]:
        """Wait until a message is stored, or known not to be. Returns the bytes to send; hangs up where that is the answer."""
        server, name = self._server, due.peer.name
        server.count(name, "messages")
        try:
            outcome = await asyncio.shield(due.result) if isinstance(due.result, asyncio.Task) else due.result
        except Unconfirmed:
            server.count(name, "unconfirmed")
            assert due.outcome is not None
            if not due.outcome.unconfirmed:
                raise _Hangup("closed-unconfirmed") from None
            return tuple(data for _, data in due.outcome.unconfirmed)
        assert isinstance(outcome, Outcome)
        server.count(name, outcome.verdict)
        if server.observe:
            server.observe(due.peer, outcome, self._loop.time() - due.since)
        return tuple(data for _, data in outcome.answers)
