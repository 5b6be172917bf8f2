"""The Kafka that a test run works against, chosen once: a given one, Docker's, the local one (infra/kafka), or the embedded broker.

`VIGIL_TEST_KAFKA` decides when it is set: a bootstrap address (`host:9092`), or one of the words docker, local, embedded. Else the
best that is there is taken, in that order. The choice is printed in pytest's header.
"""

import contextlib
import os
import shutil
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal
from xml.etree import ElementTree

import pytest
from aiokafka import TopicPartition as AioPartition
from aiokafka.admin import AIOKafkaAdminClient, RecordsToDelete
from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from infra.kafka.host import free_ports
from infra.kafka.jars import why_not
from infra.kafka.kafka import SETTINGS, LocalKafka
from streams.broker import CLIENT_SETTINGS, EmbeddedBroker

Kind = Literal["given", "docker", "local", "embedded"]
VERSION = ElementTree.parse(Path(__file__).parent.parent / "infra" / "kafka" / "pom.xml").findtext(".//{*}kafka.version")


@dataclass(frozen=True)
class Choice:
    """Which Kafka, and why in words."""

    kind: Kind
    words: str
    address: str = ""


@dataclass(frozen=True)
class Record:
    """One record as read back from a topic; `timestamp` in milliseconds since 1970."""

    topic: str
    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes], ...]
    timestamp: int


def choose(wish: str | None = None) -> Choice:
    """Choose a Kafka: the wish (by default VIGIL_TEST_KAFKA), or the best there is. A wish that cannot be had is an error."""
    wish = os.environ.get("VIGIL_TEST_KAFKA", "") if wish is None else wish
    if ":" in wish:
        return Choice("given", f"the one at {wish} (VIGIL_TEST_KAFKA)", wish)
    if wish not in ("", "docker", "local", "embedded"):
        raise pytest.UsageError(f"VIGIL_TEST_KAFKA={wish!r}: neither host:port nor docker, local or embedded")
    if wish == "embedded":
        return Choice("embedded", "the embedded broker (VIGIL_TEST_KAFKA); tests marked real_kafka are skipped")
    if wish in ("", "docker"):
        if _docker_answers():
            return Choice("docker", f"apache/kafka:{VERSION} in Docker")
        if wish:
            raise pytest.UsageError("VIGIL_TEST_KAFKA=docker, but no Docker daemon answers")
    reason = why_not()
    if reason is None:
        return Choice("local", f"local Apache Kafka {VERSION} (infra/kafka)")
    if wish:
        raise pytest.UsageError(f"VIGIL_TEST_KAFKA=local, but there is {reason}")
    return Choice("embedded", f"the embedded broker, for there is {reason}; tests marked real_kafka are skipped")


@dataclass
class Kafka:
    """What the fixture `kafka` gives. Topics and groups get names of their own, so tests share one broker undisturbed."""

    kind: Kind
    bootstrap: str
    local: LocalKafka | None = None
    embedded: EmbeddedBroker | None = None
    _made: list[str] = field(default_factory=list)

    @property
    def consumer_settings(self) -> Mapping[str, int]:
        """What an aiokafka consumer needs here besides a test's own settings: nothing, but on the embedded broker."""
        return CLIENT_SETTINGS if self.kind == "embedded" else {}

    def name(self, stem: str) -> str:
        """Make a name for a topic or group that nothing else has."""
        return f"{stem}.{uuid.uuid4().hex[:8]}"

    def topic(self, stem: str = "topic", partitions: int = 4, **config: str) -> str:
        """Create a topic under a new name and return that; `config` in Kafka's names with _ for . (`cleanup_policy="compact"`)."""
        name = self.name(stem)
        self.create(name, partitions, **config)
        return name

    def create(self, name: str, partitions: int, **config: str) -> None:
        """Create a topic under this very name."""
        if self.embedded:
            self.embedded.create_topic(name, partitions)
            return
        topic = NewTopic(name, partitions, config={key.replace("_", "."): value for key, value in config.items()})
        for last in (False, False, True):
            admin = self._admin()  # held until the answer: a client that goes away takes its calls along
            try:
                admin.create_topics([topic], operation_timeout=30, request_timeout=10 + 30 * last)[name].result()
                break
            except KafkaException as error:
                # A broker whose heartbeat was late (a machine that stood still) names no broker, no controller, until it is let in
                # again; a client that was told so at its first question never asks again. (`list_topics` would, and costs 80 ms.)
                if last or error.args[0].code() != KafkaError._TIMED_OUT:
                    raise
        self._made.append(name)

    def make_anew(self, name: str, partitions: int, *, absent: float = 0.0) -> None:
        """Delete a topic and, so many seconds later, create it again, empty: its offsets begin anew."""
        admin = self._admin()
        admin.delete_topics([name], operation_timeout=30)[name].result()
        time.sleep(absent)
        deadline = time.monotonic() + 30.0
        while True:
            try:
                self.create(name, partitions)
                return
            except KafkaException:  # it is still being deleted
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.2)

    def read(self, topic: str, *, timeout: float = 30.0, committed_only: bool = True) -> list[Record]:
        """Read a topic from its start to its present end, sorted by partition and offset. Blocks (asyncio.to_thread helps)."""
        consumer = Consumer(
            {
                "bootstrap.servers": self.bootstrap,
                "group.id": self.name("reader"),
                "enable.auto.commit": False,
                "enable.partition.eof": True,
                "isolation.level": "read_committed" if committed_only else "read_uncommitted",
                "fetch.wait.max.ms": 20,
                "log_level": 2,
            }
        )
        try:
            found = consumer.list_topics(topic, timeout=timeout).topics[topic]
            if found.error:
                raise KafkaException(found.error)
            partitions = found.partitions
            consumer.assign([TopicPartition(topic, number, OFFSET_BEGINNING) for number in partitions])
            return sorted(_to_the_end(consumer, set(partitions), timeout), key=lambda record: (record.partition, record.offset))
        finally:
            consumer.close()

    def committed(self, group: str, topic: str) -> dict[int, int]:
        """The offsets that a group has committed, by partition; partitions without one are left out."""
        consumer = Consumer({"bootstrap.servers": self.bootstrap, "group.id": group, "log_level": 2})
        try:
            numbers = consumer.list_topics(topic, timeout=30).topics[topic].partitions
            found = _patiently(lambda: consumer.committed([TopicPartition(topic, number) for number in numbers], timeout=30))
            return {one.partition: one.offset for one in found if one.offset >= 0}
        finally:
            consumer.close()

    # -- faults, on the local Kafka only -------------------------------------------------------------------------------

    def control(self) -> LocalKafka:
        """The local Kafka, to kill, freeze and restart; skips the test where the broker is another."""
        if self.local is None:
            pytest.skip(f"needs the local Kafka, to kill and freeze; this is the {self.kind} one")
        return self.local

    def kill(self) -> None:
        """SIGKILL the broker."""
        self.control().kill()

    def start(self) -> None:
        """Start it again, where it was."""
        self.control().start()

    def restart(self) -> None:
        """Stop it in good order and start it."""
        self.control().restart()

    def freeze(self) -> None:
        """SIGSTOP the broker: open connections, no answers."""
        self.control().freeze()

    def thaw(self) -> None:
        """SIGCONT after `freeze`."""
        self.control().thaw()

    def mend(self) -> None:
        """After a test that may have left the broker frozen or dead: make it answer again."""
        if self.local:
            self.local.thaw()
            self.local.start()

    def tidy(self) -> None:
        """Take the tests' topics from a cluster that was there before."""
        if self.kind == "given" and self._made:
            admin = self._admin()
            for result in admin.delete_topics(self._made, operation_timeout=30).values():
                with contextlib.suppress(KafkaException):
                    result.result()

    def _admin(self) -> Any:
        return AdminClient({"bootstrap.servers": self.bootstrap, "log_level": 2})


def _patiently(ask: Callable[[], Any], timeout: float = 30.0) -> Any:
    """Ask again while the broker finds its feet: after a start it is no group's coordinator for a moment."""
    deadline = time.monotonic() + timeout
    while True:
        try:
            return ask()
        except KafkaException as error:
            finding = (
                KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
                KafkaError.COORDINATOR_NOT_AVAILABLE,
                KafkaError.NOT_COORDINATOR,
            )
            if error.args[0].code() not in finding or time.monotonic() > deadline:
                raise
            time.sleep(0.2)


def _to_the_end(consumer: Any, open_partitions: set[int], timeout: float) -> Iterator[Record]:
    deadline = time.monotonic() + timeout
    while open_partitions:
        if time.monotonic() > deadline:
            raise TimeoutError(f"partitions {sorted(open_partitions)} not read to their end within {timeout:.0f} s")
        for message in consumer.consume(1000, timeout=0.2):
            error = message.error()
            if error is None:
                headers = tuple(message.headers() or ())
                where = (message.topic(), message.partition(), message.offset())
                yield Record(*where, message.key(), message.value(), headers, message.timestamp()[1])
            elif error.code() == KafkaError._PARTITION_EOF:
                open_partitions.discard(message.partition())
            elif not error.retriable():
                raise KafkaException(error)


async def delete_records(bootstrap: str, topic: str, before: Mapping[int, int]) -> None:
    """Take records from the start of a topic, as retention does: those below the offset given for each partition.

    By aiokafka: confluent-kafka before 2.16 gives back a reference too many there (its issue 2275), and Python crashes in some
    later collection of garbage.
    """
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    try:
        await admin.delete_records({AioPartition(topic, n): RecordsToDelete(offset) for n, offset in before.items()})
    finally:
        await admin.close()


@contextlib.contextmanager
def running(choice: Choice) -> Iterator[Kafka]:
    """Run the chosen Kafka; what was started ends with the block (and with this process, should it be killed)."""
    match choice.kind:
        case "given":
            kafka = Kafka("given", choice.address)
            try:
                yield kafka
            finally:
                kafka.tidy()
        case "docker":
            with _docker_kafka() as address:
                yield Kafka("docker", address)
        case "local":
            with local_kafka() as local:
                yield Kafka("local", local.bootstrap, local=local)
        case "embedded":
            broker = EmbeddedBroker()
            with broker as address:
                yield Kafka("embedded", address, embedded=broker)


@contextlib.contextmanager
def local_kafka(brokers: int = 1) -> Iterator[LocalKafka]:
    """A local Kafka in a folder of its own on free ports, thrown away at the end."""
    with TemporaryDirectory(prefix="vigil-kafka-", ignore_cleanup_errors=True) as folder:
        local = LocalKafka(Path(folder), brokers=brokers, port=0, die_with_parent=True, report=print)
        local.start()
        try:
            yield local
        finally:
            local.kill()


def _docker_answers() -> bool:
    """Ask by the command line: docker's Python client, asked in vain, left finalizers behind that broke a later import."""
    if not shutil.which("docker"):
        return False
    try:
        return subprocess.run(["docker", "version"], capture_output=True, timeout=10).returncode == 0
    except subprocess.TimeoutExpired:
        return False


@contextlib.contextmanager
def _docker_kafka() -> Iterator[str]:
    """Apache's own image, which takes its settings from KAFKA_*; the port is the same inside and out, as it is advertised."""
    from testcontainers.core.container import DockerContainer
    from testcontainers.core.waiting_utils import wait_for_logs

    port = free_ports(1)[0]
    settings = {
        "node.id": "1",
        "process.roles": "broker,controller",
        "listeners": f"PLAINTEXT://:{port},CONTROLLER://:9093",
        "advertised.listeners": f"PLAINTEXT://localhost:{port}",
        "controller.listener.names": "CONTROLLER",
        "listener.security.protocol.map": "CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT",
        "controller.quorum.voters": "1@localhost:9093",
        "offsets.topic.replication.factor": "1",
        "transaction.state.log.replication.factor": "1",
        "transaction.state.log.min.isr": "1",
        **SETTINGS,
    }
    container = DockerContainer(f"apache/kafka:{VERSION}").with_bind_ports(port, port)
    for key, value in settings.items():
        container.with_env("KAFKA_" + key.upper().replace(".", "_"), value)
    with container:
        wait_for_logs(container, "Kafka Server started", timeout=120)
        yield f"localhost:{port}"
