"""Outputs, confirmed: the only way in which the moving part writes to Kafka.

One idempotent producer with `acks=all`. `send` returns only when every record is confirmed by all in-sync replicas; a confirmation
that fails is an error of the caller's, never a log line.
"""

import asyncio
import contextlib
import logging
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.errors import (
    ClusterAuthorizationFailedError,
    IncompatibleBrokerVersion,
    InvalidTimestampError,
    InvalidTopicError,
    KafkaError,
    MessageSizeTooLargeError,
    ProducerFenced,
    RecordListTooLargeError,
    TopicAuthorizationFailedError,
    UnknownTopicOrPartitionError,
    UnsupportedVersionError,
)
from aiokafka.partitioner import murmur2

from models.errors import Fatal, Poison, Transient
from processors.events import AuditEvent, DeadLetterEvent, Event
from streams.kafka import aiokafka_config, require_broker, start_client
from streams.settings import Settings
from streams.topic_options import JOURNAL
from streams.wire import Message, encode, iso

log = logging.getLogger("vigil.outbox")

_BATCH, _HEADER = 128, 10  # bytes of a batch and its one record, and of a header, around what they hold (KIP-98), at most
_PACE = 0.1  # seconds between two questions what the cluster looks like
_TOO_LARGE = (MessageSizeTooLargeError, RecordListTooLargeError)
_NEVER = (
    TopicAuthorizationFailedError,
    ClusterAuthorizationFailedError,
    InvalidTopicError,
    UnsupportedVersionError,
    IncompatibleBrokerVersion,
    ProducerFenced,
)

_DENIED = (TopicAuthorizationFailedError, ClusterAuthorizationFailedError)


class Outbox:
    """Writes batches of records, partition by partition, and waits for the brokers' confirmation."""

    def __init__(self, settings: Settings, *, source: str) -> None:
        self._settings = settings
        self._prefix = settings.kafka.topic_prefix
        # Dead letters carry the original as base64 (4/3) and more around it; `letter_room` is what they may have of it.
        self._largest = 2 * settings.topics.largest_message_bytes
        self._producer: AIOKafkaProducer = None
        self._spent: AIOKafkaProducer = None
        self._renewing = asyncio.Lock()
        self._retiring: set[asyncio.Task[None]] = set()
        self._partition_counts: dict[str, int] = {}
        self._hashes: dict[bytes, int] = {}
        self._under_way: dict[object, tuple[float, set[TopicPartition]]] = {}  # since when, to where
        self.source = source
        self.sent = 0
        self._refused: dict[str, str] = {}  # topics that the broker does not take from us, and why; until it takes something

    @property
    def letter_room(self) -> int:
        """Return the bytes that a record of the dead-letter topic may have, as `vigil topics create` makes it."""
        return self._largest

    async def start(self) -> None:
        """Connect; raises `Transient` when no broker answers."""
        self._producer = await self._new_producer()

    async def _new_producer(self) -> AIOKafkaProducer:
        await require_broker(self._settings.kafka)  # a producer whose token is refused says nothing, and tries for ever
        producer = AIOKafkaProducer(
            **aiokafka_config(self._settings.kafka),
            acks="all",
            enable_idempotence=True,
            max_batch_size=min(512 * 1024, self._settings.topics.largest_message_bytes),  # what every topic takes
            max_request_size=self._largest,
            request_timeout_ms=int(self._settings.engine.request_timeout * 1000),
            metadata_max_age_ms=30_000,
        )
        unhurried(producer.client)
        await start_client(producer, self._settings.kafka)
        return producer

    async def stop(self) -> None:
        """Disconnect. Nothing is flushed here: every `send` has waited for its own confirmations."""
        if self._producer is not None:
            try:
                async with asyncio.timeout(10):
                    await self._producer.stop()
            except (TimeoutError, KafkaError):
                log.warning("the producer did not close in time; what it held was not confirmed and will be made again")
        for task in self._retiring:
            task.cancel()
        await asyncio.gather(*self._retiring, return_exceptions=True)

    async def _current(self) -> AIOKafkaProducer:
        """Return the producer, a new one when a batch of the last one failed.

        A batch that failed has used up sequence numbers that the broker never saw: whatever the same idempotent producer writes
        to that partition afterwards is refused as out of order, for ever (aiokafka 0.14, `MessageAccumulator._pop_batch`).
        """
        async with self._renewing:
            if self._spent is self._producer:
                old, self._producer = self._producer, await self._new_producer()
                # What others have in flight on the old one may still be confirmed, or fails and is written again.
                task = asyncio.create_task(old.stop(), name="retiring producer")
                self._retiring.add(task)
                task.add_done_callback(self._retiring.discard)
            return self._producer

    def encode(self, event: Event, *, time: bytes = b"", traceparent: bytes | None = None) -> Message:
        """Return the record of an event with this outbox's CloudEvents source."""
        return encode(event, source=self.source, time=time, traceparent=traceparent)

    async def send(self, messages: Sequence[Message]) -> None:
        """Write the records and return once every one is confirmed.

        Order is kept per partition. Raises `Transient` (write them all again: the same ids overwrite), `Poison` for a record
        that no broker will take, `Fatal` where retrying is pointless (not authorised, fenced).
        """
        if not messages:
            return
        try:
            await self._send(messages)
        except _TOO_LARGE as error:
            raise Poison(f"an output is too large for its topic ({type(error).__name__})", stage="produce") from error
        except _NEVER as error:
            raise self._refusal(messages, error) from error
        except (KafkaError, OSError, TimeoutError) as error:
            raise _unconfirmed(error) from error
        self.sent += len(messages)
        if self._refused:
            for topic in {message.topic for message in messages}:
                self._refused.pop(topic, None)

    async def _send(self, messages: Sequence[Message]) -> None:
        with self._waiting() as places:
            await self._write(messages, places)

    async def _write(self, messages: Sequence[Message], places: set[TopicPartition]) -> None:
        producer = await self._current()
        by_partition: dict[tuple[str, int], list[Message]] = defaultdict(list)
        for message in messages:
            if (size := _size(message)) > self._limit(message.topic):  # before anything is written: all of a message or nothing
                raise MessageSizeTooLargeError(f"{size} bytes for {message.topic}")
            topic = self._prefix + message.topic
            by_partition[topic, await self._partition(message, topic)].append(message)
        for topic in {topic for topic, _ in by_partition}:
            await _require(producer, topic)
        places |= {TopicPartition(*place) for place in by_partition}
        confirmations: list[asyncio.Future[Any]] = []
        results: list[Any] = []
        try:
            for (topic, partition), group in by_partition.items():
                for batch in _batches(producer, group):
                    confirmations.append(await producer.send_batch(batch, topic, partition=partition))
        except (KafkaError, OSError, TimeoutError) as error:
            results.append(error)
        # All are awaited even when one fails, so that none is still on its way when the caller writes them again.
        results += await asyncio.gather(*confirmations, return_exceptions=True)
        errors = [result for result in results if isinstance(result, BaseException)]
        if errors:
            self._spent = producer
            # One that is too large fails its successors by its gap in the sequence: it is the cause.
            raise next((error for error in errors if isinstance(error, _TOO_LARGE)), errors[0])

    def _limit(self, topic: str) -> int:
        return self._largest if topic == DeadLetterEvent.topic else self._settings.topics.largest_message_bytes

    async def audit(self, event: AuditEvent) -> None:
        """Write an audit record, confirmed. Raises as `send`."""
        await self.send([self.encode(event, time=iso(event.recorded_at))])

    async def append(self, message: Message) -> int:
        """Write one record and return the offset that it got. Raises as `send`."""
        topic = self._prefix + message.topic
        try:
            partition = await self._partition(message, topic)
            with self._waiting() as places:
                producer = await self._current()
                await _require(producer, topic)
                places.add(TopicPartition(topic, partition))
                try:
                    written = await producer.send_and_wait(
                        topic, key=message.key, value=message.value, headers=message.headers, partition=partition
                    )
                except KafkaError:
                    self._spent = producer
                    raise
        except _TOO_LARGE as error:
            raise Poison(f"a record is too large for {message.topic} ({type(error).__name__})", stage="produce") from error
        except _NEVER as error:
            raise self._refusal([message], error) from error
        except (KafkaError, OSError, TimeoutError) as error:
            raise _unconfirmed(error) from error
        self.sent += 1
        offset: int = written.offset
        return offset

    def _refusal(self, messages: Sequence[Message], error: Exception) -> Fatal:
        """Note that writes are refused for good, and return what to raise: which topic of a batch it was nobody can tell."""
        topics = sorted({message.topic for message in messages})
        words = (
            f"the broker refuses what is written to {', '.join(self._prefix + one for one in topics)} ({type(error).__name__})"
        )
        self._refused |= dict.fromkeys(topics, words)
        needs = "this account needs WRITE and DESCRIBE on each of them" if isinstance(error, _DENIED) else None
        return Fatal(words, hint=needs)

    @property
    def refused(self) -> str:
        """Return why the broker takes something for good not, in words; empty where it takes all, as far as was tried."""
        return next(iter(self._refused.values()), "")

    @contextlib.contextmanager
    def _waiting(self) -> Iterator[set[TopicPartition]]:
        """Note, for `unconfirmed`, that a write is under way to the places that the caller adds."""
        write, places = object(), set[TopicPartition]()
        self._under_way[write] = time.monotonic(), places
        try:
            yield places
        finally:
            del self._under_way[write]

    def unconfirmed(self, limit: float = 0.0) -> tuple[float, set[TopicPartition]]:
        """Return for how many seconds the oldest write has been under way, and the places of those older than `limit` seconds.

        aiokafka's idempotent producer tries for ever what a broker does not answer or refuses for the moment, and says nothing.
        """
        now, writes = time.monotonic(), list(self._under_way.values())
        late = (places for since, places in writes if now - since > limit)
        return now - min((since for since, _ in writes), default=now), set().union(*late)

    def missing(self) -> set[str]:
        """Return the topics of writes under way that the cluster says are not there: no write to them can be confirmed."""
        topics = {tp.topic for _, places in list(self._under_way.values()) for tp in places}
        asked_for = self._producer.client._topics if self._producer is not None else ()  # of none: the cluster tells of all
        return {one for one in topics if (one in asked_for or not asked_for) and _is_missing(self._producer, one)}

    async def answers(self) -> bool:
        """Tell whether a broker answers now; for whoever has nothing to write and wants to know."""
        try:
            async with asyncio.timeout(5):
                return bool(await self._producer.client.force_metadata_update())
        except (KafkaError, OSError, TimeoutError):
            return False

    async def _partition(self, message: Message, topic: str) -> int:
        count = await self.partitions(topic)
        if message.partition is None:
            return partition_of(message.key, count, self._hashes)
        if message.topic == JOURNAL and message.partition >= count:  # another partition's state lies where it would come round
            raise Fatal(f"{topic} has no partition {message.partition} of its own", hint="it must agree with clinical.vitals")
        return message.partition % count

    async def partitions(self, topic: str) -> int:
        """Return how many partitions of a topic (with the site's prefix) are used; remembered, since outputs must not move about.

        Raises `Transient` when it is not there, after the time that a request may take: it may be about to be made.
        """
        count = self._partition_counts.get(topic)
        if count is None:
            try:
                there = len(await self._producer.partitions_for(topic))
            except UnknownTopicOrPartitionError as error:
                raise Transient(f"{topic} is not there", hint="run `vigil topics create`") from error
            count = self._partition_counts[topic] = self._settings.topics.used(topic.removeprefix(self._prefix), there)
        return count


def _size(message: Message) -> int:
    """Return the bytes of a batch with this record alone, at most: what a broker holds against `max.message.bytes`."""
    headers = sum(len(name) + len(value) + _HEADER for name, value in message.headers)
    return _BATCH + len(message.key or b"") + len(message.value or b"") + headers


def unhurried(client: Any) -> None:
    """Let a client ask what the cluster looks like ten times a second at most.

    aiokafka asks with every answer again for as long as a partition that something is to be written to has no leader
    (0.14, `Sender._sender_routine`): hundreds of times a second while a topic is gone.
    """
    ask, last = client._metadata_update, -_PACE

    async def paced(*of: Any) -> Any:
        nonlocal last
        await asyncio.sleep(max(0.0, last + _PACE - time.monotonic()))
        last = time.monotonic()
        return await ask(*of)

    client._metadata_update = paced


def _is_missing(producer: AIOKafkaProducer, topic: str) -> bool:
    return producer.client.cluster.partitions_for_topic(topic) is None


async def _require(producer: AIOKafkaProducer, topic: str) -> None:
    """Raise `Transient` where a topic is not there (any more).

    A record for it would lie with aiokafka for as long as a request may take, and say nothing.
    """
    client = producer.client
    if not _is_missing(producer, topic):
        return
    if client._topics:  # the cluster is asked for these alone; of none it tells of all
        await client.add_topic(topic)
    if _is_missing(producer, topic) and await client.force_metadata_update() and _is_missing(producer, topic):
        if topic in client.cluster.unauthorized_topics:
            raise TopicAuthorizationFailedError(topic)
        raise Transient(f"{topic} is not there", hint="run `vigil topics create`")


def _unconfirmed(error: Exception) -> Transient:
    """Return what is raised for a write that may succeed later; with the cause where only its name would be told."""
    words = f"the broker did not confirm ({type(error).__name__})"
    if isinstance(error, InvalidTimestampError):  # by default a broker takes what is up to an hour ahead (KIP-937)
        return Transient(
            f"{words}: this host's clock is ahead of the broker's, or far behind it",
            hint="`vigil doctor` compares them; set the clock that is wrong, and it goes on by itself",
        )
    return Transient(words)


def _batches(producer: AIOKafkaProducer, messages: Sequence[Message]) -> Iterator[Any]:
    batch = producer.create_batch()
    for message in messages:
        # None: the batch is full. The first record of a batch is always taken, however large.
        if batch.append(timestamp=None, key=message.key, value=message.value, headers=message.headers) is None:
            yield batch
            batch = producer.create_batch()
            batch.append(timestamp=None, key=message.key, value=message.value, headers=message.headers)
    yield batch


def partition_of(key: bytes | None, partitions: int, hashes: dict[bytes, int] | None = None) -> int:
    """Return the partition that Kafka's default partitioner (murmur2) gives a key, the same as the Java client's.

    `hashes` remembers what was hashed: murmur2 in Python takes as long as encoding an event. Records without a key go to
    partition 0: there are few of them, and order among them is worth more than balance.
    """
    if key is None:
        return 0
    hashes = {} if hashes is None else hashes
    value = hashes.get(key)
    if value is None:
        if len(hashes) > 100_000:  # patients of a large site, and a bound
            hashes.clear()
        value = hashes[key] = murmur2(key) & 0x7FFFFFFF
    return value % partitions
