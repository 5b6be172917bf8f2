"""The connectors' way into the stream: published means confirmed by Kafka, which is what an acknowledgement rests on.

Many messages are in flight at once, each small; a write for each would cost a broker round trip each. So what arrives within one
round trip is written together: a publish waits for the write in progress, then goes with all the others that wait (group commit).
"""

import asyncio
from collections.abc import Sequence

from models.errors import Poison, Transient
from processors.events import Event
from streams.clock import Clock
from streams.outbox import Outbox
from streams.tracing import Tracing
from streams.wire import Message, iso


class KafkaPublisher:
    """`connectors.publisher.Publisher` on the outbox. Order per patient is the order of the calls."""

    def __init__(
        self,
        outbox: Outbox,
        clock: Clock,
        tracing: Tracing,
        *,
        timeout: float,
        gather: float = 0.0,
        most_waiting: int = 20_000,
    ) -> None:
        self._outbox = outbox
        self._clock = clock
        self._tracing = tracing
        self._timeout = timeout
        self._gather = gather
        self._most = most_waiting
        self._waiting: list[tuple[list[Message], asyncio.Future[None]]] = []
        self._records = 0
        self._writer: asyncio.Task[None] | None = None
        self.published = 0

    async def publish(self, events: Sequence[Event], *, timeout: float | None = None) -> None:
        """Write the events of one message and return once every one is confirmed; see the protocol for what it raises."""
        if not events:
            return
        if self._records >= self._most:
            raise Transient(f"{self._records} records wait for Kafka already")
        time = iso(self._clock())
        work = self._tracing.publish(events[0].topic, len(events))
        try:
            await self._confirmed([self._outbox.encode(event, time=time, traceparent=work.header) for event in events], timeout)
        except (Exception, asyncio.CancelledError) as error:
            work.end(type(error).__name__.lower())
            raise
        work.end()

    async def _confirmed(self, messages: list[Message], timeout: float | None) -> None:
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((messages, done))
        self._records += len(messages)
        if self._writer is None or self._writer.done():
            self._writer = asyncio.create_task(self._write(), name="publisher")
        try:
            # Not cancelled on time-out: the write may yet succeed. The sender resends, and the same ids overwrite.
            async with asyncio.timeout(timeout or self._timeout):
                await asyncio.shield(done)
        except TimeoutError:
            raise Transient("Kafka did not confirm in time") from None

    async def _write(self) -> None:
        while self._waiting:
            batch, self._waiting = self._waiting, []
            try:
                await self._outbox.send([message for messages, _ in batch for message in messages])
            except Poison:
                await self._singly(batch)
            except Exception as error:
                for _, done in batch:
                    _settle(done, error)
            else:
                for _, done in batch:
                    _settle(done, None)
            self._records -= sum(len(messages) for messages, _ in batch)
            self.published += sum(len(messages) for messages, _ in batch)
            if len(batch) > 1:  # one sender that waits for each answer is never made to wait
                await asyncio.sleep(self._gather)

    async def _singly(self, batch: Sequence[tuple[list[Message], "asyncio.Future[None]"]]) -> None:
        # One message holds a record that no broker takes; the others are not to suffer for it.
        for messages, done in batch:
            try:
                await self._outbox.send(messages)
            except Exception as error:
                _settle(done, error)
            else:
                _settle(done, None)


def _settle(done: "asyncio.Future[None]", error: BaseException | None) -> None:
    if done.done():
        return
    if error is None:
        done.set_result(None)
    else:
        done.set_exception(error)
        done.exception()  # a caller that timed out has gone: nobody else will look
