"""The embedded broker: librdkafka's mock cluster, which the confluent-kafka package brings, in a process of its own.

It speaks the Kafka protocol from memory and starts in a quarter of a second, so the demo and the fast tests need nothing
installed. It is a mock: never for patients' data. Each line below was tried with aiokafka 0.14.0 and confluent-kafka 2.12.2;
tests/integration/test_embedded_broker.py keeps those that Vigil leans on.

Works:
- idempotent producer, acks=all, keys, headers; an ack in 1 ms; 109,000 records of 100 bytes a second through one producer.
- topics of any number of partitions, by `EmbeddedBroker.create_topic`; others appear on first use, with 4. The Kafka call
  CreateTopics is not answered (the cluster names no controller).
- a group of one member, commits, `committed()`, `earliest`, watermarks, the list of topics.

Does not, so:
- Two members in one group: the leader's SyncGroup completes the group before the follower's came, which is then refused with
  error 42, and aiokafka's start raises. One worker per lane, and no rolling restarts.
- A quick rejoin: every rebalance but a group's first lasts the session time-out less a second; after SIGKILL the dead member is
  waited for as well, so twice as long. Hence `CLIENT_SETTINGS`.
- Static membership: `group_instance_id` is accepted and only makes a rejoin slower.
- Long polling: an empty fetch is answered when `fetch_max_wait_ms` is over, whatever comes in meanwhile. At aiokafka's 500 ms
  a record is seen after 470 ms; at 20 ms after 10, for 1 % of a core per consumer.
- Keeping everything: a partition keeps about 5 MB (or 100,000 batches), then the oldest go. A batch that is larger by itself
  is confirmed and lost.
- Time: `offsets_for_times` finds nothing; `RecordMetadata.timestamp` is a constant (records keep their own).
- Compaction, retention by time, the description of groups, transactions' isolation, TLS and SASL: not there.
"""

import argparse
import ctypes
import select
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from connectors.child import command, environment
from models.errors import Fatal, Permanent

CLIENT_SETTINGS: Mapping[str, int] = MappingProxyType(
    {
        "session_timeout_ms": 3_000,  # a rejoin after a clean stop waits 2 s, after SIGKILL 5 s
        "heartbeat_interval_ms": 500,
        "fetch_max_wait_ms": 20,  # see "long polling" above
    }
)
"""What an aiokafka consumer should be given against this broker; no `group_instance_id` either."""

DEFAULT_PARTITIONS = 4
"""Partitions of a topic that appears on first use (librdkafka's constant)."""

_TOPIC_ALREADY_EXISTS = 36  # Kafka's error code


class MockCluster:
    """librdkafka's mock cluster of one broker in this process, by its C interface (rdkafka_mock.h, marked experimental).

    Python's binding shows only the setting `test.mock.num.brokers`, which can neither create topics nor name the address.
    The symbols are found through the binding's own shared object, whatever librdkafka it was built with.
    """

    def __init__(self) -> None:
        from confluent_kafka import cimpl

        self._lib = _declare(ctypes.CDLL(cimpl.__file__))
        said = ctypes.create_string_buffer(512)
        settings = self._lib.rd_kafka_conf_new()
        self._lib.rd_kafka_conf_set(settings, b"log_level", b"2", said, len(said))  # not: "no bootstrap.servers configured"
        self._client = self._lib.rd_kafka_new(0, settings, said, len(said))
        if not self._client:
            raise Fatal(f"librdkafka gave no client: {said.value.decode()}")
        self._cluster = self._lib.rd_kafka_mock_cluster_new(self._client, 1)
        if not self._cluster:
            raise Fatal("librdkafka gave no mock cluster", hint="are local ports to be had on 127.0.0.1?")
        self._lib.rd_kafka_mock_group_initial_rebalance_delay_ms(self._cluster, 0)

    @property
    def bootstrap(self) -> str:
        """The address, host:port on the loopback interface."""
        address: bytes = self._lib.rd_kafka_mock_cluster_bootstraps(self._cluster)
        return address.decode()

    def create_topic(self, name: str, partitions: int) -> None:
        """Create a topic; raises `Permanent` when it is there already or the name or number will not do."""
        if partitions < 1:
            raise Permanent(f"a topic has at least one partition, not {partitions}")
        if code := self._lib.rd_kafka_mock_topic_create(self._cluster, name.encode(), partitions, 1):
            raise Permanent(
                f"topic {name!r} refused" + (": it exists" if code == _TOPIC_ALREADY_EXISTS else f" with error {code}")
            )


class EmbeddedBroker:
    """The embedded broker as a child process: it ends when `stop` is called or this process does, however it does.

    with EmbeddedBroker({"clinical.vitals": 4}) as bootstrap: ...
    """

    def __init__(self, topics: Mapping[str, int] | None = None) -> None:
        self._topics = dict(topics or {})
        self._child: subprocess.Popen[bytes] | None = None
        self._bootstrap = ""

    @property
    def bootstrap(self) -> str:
        """The address, once started."""
        if not self._bootstrap:
            raise Fatal("the embedded broker was not started")
        return self._bootstrap

    @property
    def alive(self) -> bool:
        """Whether the process runs."""
        return self._child is not None and self._child.poll() is None

    def start(self, *, timeout: float = 20.0) -> str:
        """Start the process and create the topics; return the bootstrap address. Raises `Fatal` when it does not come up."""
        if self.alive:
            return self.bootstrap
        self._child = subprocess.Popen(  # noqa: S603 - our own interpreter and module
            command("streams.broker", "--until-stdin-closes"),
            env=environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
            start_new_session=True,  # Ctrl-C is for the lanes: the broker stays until they have finished
        )
        self._bootstrap = self._answer(timeout)
        for name, partitions in self._topics.items():
            self.create_topic(name, partitions)
        return self._bootstrap

    def create_topic(self, name: str, partitions: int = DEFAULT_PARTITIONS) -> None:
        """Create a topic. Raises `Permanent` when the broker refuses it, because it exists, say."""
        child = self._child
        if child is None or child.stdin is None or not self.alive:
            raise Fatal("the embedded broker does not run")
        child.stdin.write(f"{name} {partitions}\n".encode())
        if said := self._answer(5.0):
            raise Permanent(said)

    def stop(self) -> None:
        """End the process; what it held is gone."""
        child, self._child, self._bootstrap = self._child, None, ""
        if child is None:
            return
        for pipe in (child.stdin, child.stdout):
            if pipe:
                pipe.close()
        try:
            child.wait(5)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()

    def __enter__(self) -> str:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _answer(self, timeout: float) -> str:
        """Read the child's next line, within `timeout` seconds."""
        child = self._child
        assert child is not None
        assert child.stdout is not None
        line, deadline = b"", time.monotonic() + timeout
        while not line.endswith(b"\n"):
            ready, _, _ = select.select([child.stdout], [], [], max(0.0, deadline - time.monotonic()))
            if not ready or not (piece := child.stdout.read(4096)):
                code = child.poll()
                self.stop()
                raise Fatal(
                    "the embedded broker " + (f"did not answer within {timeout:.0f} s" if not ready else f"ended ({code})")
                )
            line += piece
        return line.decode().strip()


def _declare(lib: ctypes.CDLL) -> Any:
    """Tell ctypes the types, without which it cuts pointers to 32 bits. Raises `Fatal` when the library lacks the calls."""
    pointer, text, number = ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int
    calls: dict[str, tuple[Any, list[Any]]] = {
        "rd_kafka_conf_new": (pointer, []),
        "rd_kafka_conf_set": (number, [pointer, text, text, text, ctypes.c_size_t]),
        "rd_kafka_new": (pointer, [number, pointer, text, ctypes.c_size_t]),
        "rd_kafka_mock_cluster_new": (pointer, [pointer, number]),
        "rd_kafka_mock_cluster_bootstraps": (text, [pointer]),
        "rd_kafka_mock_topic_create": (number, [pointer, text, number, number]),
        "rd_kafka_mock_group_initial_rebalance_delay_ms": (None, [pointer, ctypes.c_int32]),
    }
    for name, (result, arguments) in calls.items():
        try:
            call = getattr(lib, name)
        except AttributeError as error:
            hint = "install confluent-kafka from its wheel, or give the address of a real Kafka"
            raise Fatal(f"this confluent-kafka has no {name}: no embedded broker", hint=hint) from error
        call.restype, call.argtypes = result, arguments
    return lib


def _serve_commands(cluster: MockCluster) -> None:
    """Create the topics asked for, one `name partitions` a line, each answered by a line (empty when done), until stdin closes."""
    for line in sys.stdin:
        said = ""
        try:
            name, partitions = line.split()
            cluster.create_topic(name, int(partitions))
        except (ValueError, Permanent) as error:
            said = str(error).replace("\n", " ")
        sys.stdout.write(said + "\n")
        sys.stdout.flush()


def main(arguments: list[str] | None = None) -> None:
    """Run the broker in this process: print its address, stay until SIGTERM or Ctrl-C (or until stdin closes)."""
    parser = argparse.ArgumentParser(
        prog="python -m streams.broker", description="Embedded broker: in memory, for demos and tests."
    )
    parser.add_argument(
        "--topic", action="append", default=[], metavar="NAME=PARTITIONS", help="create a topic (again and again)"
    )
    parser.add_argument("--address-file", type=Path, help="write the address here, too")
    parser.add_argument("--until-stdin-closes", action="store_true", help="take commands from stdin and end with it")
    given = parser.parse_args(arguments)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: sys.exit(0))
    cluster = MockCluster()
    for name, _, partitions in (topic.partition("=") for topic in given.topic):
        cluster.create_topic(name, int(partitions or DEFAULT_PARTITIONS))
    if given.address_file:
        scratch = given.address_file.with_suffix(".new")
        scratch.write_text(cluster.bootstrap)
        scratch.replace(given.address_file)  # whoever waits for the file finds it whole
    sys.stdout.write(cluster.bootstrap + "\n")
    sys.stdout.flush()
    if given.until_stdin_closes:
        _serve_commands(cluster)
    else:
        signal.pause()


if __name__ == "__main__":
    main()
