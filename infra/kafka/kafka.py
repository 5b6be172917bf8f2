"""A real Apache Kafka 4 (KRaft) on this machine, without Docker: for tests, benchmarks and a first look.

    python infra/kafka/kafka.py start [--brokers 3] [--port 19092] [--data DIR]
    python infra/kafka/kafka.py status | wait | stop | restart | kill
    python infra/kafka/kafka.py read TOPIC      (Kafka's own console consumer, from the beginning, until Ctrl-C)

It needs Java 17 or newer, and Maven the first time: the jars (54 MB, versions pinned in pom.xml) are copied once into
$VIGIL_KAFKA_JARS, else $XDG_CACHE_HOME/vigil/kafka-VERSION, else ~/.cache/vigil/kafka-VERSION. Standard library only, so that
it runs with any Python 3.11; the tests use the class `LocalKafka`.

It listens on 127.0.0.1 only, without TLS or passwords, and replicates nothing unless asked for three brokers: it is no
broker for patients' data.
"""

import argparse
import contextlib
import fcntl
import json
import os
import signal
import subprocess
import sys
import time
import uuid
from base64 import urlsafe_b64encode
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

if not __package__:  # run as a script: its neighbours are found from the project's folder
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))

from infra.kafka.host import (
    LocalKafkaError,
    command_line,
    end_with_parent,
    free_ports,
    members,
    require_free,
    rss_mb_of,
    send,
    wait_frozen,
    write,
)
from infra.kafka.jars import fetch_jars, java

HERE = Path(__file__).resolve().parent
DEFAULT_DATA = HERE / "data"
DEFAULT_PORT = 19092
HEAP_MB = 512

SETTINGS: Mapping[str, str] = {
    # a test says how many partitions it wants; a misspelt topic is an error, not a new topic
    "auto.create.topics.enable": "false",
    "num.partitions": "4",
    # a dead letter holds the whole original message with its headers: 8 MB
    "message.max.bytes": str(8 * 1024 * 1024),
    "replica.fetch.max.bytes": str(8 * 1024 * 1024),
    "replica.fetch.response.max.bytes": str(16 * 1024 * 1024),
    # 50 internal partitions each are for large sites: four start and recover faster
    "offsets.topic.num.partitions": "4",
    "transaction.state.log.num.partitions": "4",
    "share.coordinator.state.topic.num.partitions": "4",
    "group.initial.rebalance.delay.ms": "0",
    "group.min.session.timeout.ms": "1000",
    # compaction and retention that a test can wait for
    "log.cleaner.backoff.ms": "1000",
    "log.retention.check.interval.ms": "5000",
    "log.segment.delete.delay.ms": "1000",
    # memory and disk of a small machine: the cleaner's default buffer alone is 128 MB
    "log.cleaner.dedupe.buffer.size": str(8 * 1024 * 1024),
    "log.index.size.max.bytes": str(1024 * 1024),
    "log.segment.bytes": str(256 * 1024 * 1024),
    "num.io.threads": "4",
    "num.network.threads": "2",
    "background.threads": "4",
}

_STARTED: dict[int, "subprocess.Popen[bytes]"] = {}
"""The brokers that this process started, by pid: kept, for they outlive the object that started them, and are reaped here."""


@dataclass(frozen=True)
class Node:
    """One broker, which is a controller too: its id and its two ports on 127.0.0.1."""

    id: int
    port: int
    controller_port: int


@dataclass(frozen=True)
class NodeStatus:
    """What `status` tells of one broker: `answers` is true when it takes part in the cluster."""

    node: Node
    pid: int | None
    answers: bool
    rss_mb: int | None


class LocalKafka:
    """One Kafka cluster on this machine, in one data folder; a later process may take it over by the same folder.

    `port=0` picks free ports (kept in the folder, so a restart has the same). `die_with_parent` ends the brokers when the
    thread that started them ends, however it ends (Linux). Raises `LocalKafkaError` wherever it cannot do what was asked.
    """

    def __init__(
        self,
        data: Path = DEFAULT_DATA,
        *,
        brokers: int | None = None,
        port: int | None = None,
        settings: Mapping[str, str] | None = None,
        die_with_parent: bool = False,
        report: Callable[[str], None] = lambda line: None,
    ) -> None:
        self.data = data.resolve()
        self._wanted_brokers, self._wanted_port = brokers, port
        self._settings = dict(settings or {})
        self._die_with_parent = die_with_parent
        self._report = report

    # -- what is there -------------------------------------------------------------------------------------------------

    @property
    def nodes(self) -> list[Node]:
        """The brokers of this data folder; empty before the first start."""
        try:
            found = json.loads((self.data / "cluster.json").read_text())
        except FileNotFoundError:
            return []
        return [Node(**node) for node in found["nodes"]]

    @property
    def bootstrap(self) -> str:
        """The bootstrap address, `host:port[,host:port...]`."""
        nodes = self.nodes
        if not nodes:
            raise LocalKafkaError(f"no Kafka was ever started in {self.data}")
        return ",".join(f"127.0.0.1:{node.port}" for node in nodes)

    def folder(self, node: Node) -> Path:
        """Where one broker keeps its settings, pid, logs and data."""
        return self.data / f"broker-{node.id}"

    def pid(self, node: Node) -> int | None:
        """The process id of a running broker. A stale pid file, or one whose number another program got, counts for nothing."""
        try:
            pid = int((self.folder(node) / "pid").read_text())
        except (FileNotFoundError, ValueError):
            return None
        if (child := _STARTED.get(pid)) and child.poll() is None:
            return pid  # without a look at its command line, which is empty for a moment after the start
        return pid if str(self.folder(node) / "server.properties") in command_line(pid) else None

    def status(self) -> list[NodeStatus]:
        """Tell of every broker whether it runs and answers, and its resident memory in MB."""
        told = []
        for node in self.nodes:
            pid = self.pid(node)
            told.append(NodeStatus(node, pid, pid is not None and members(node.port) > 0, rss_mb_of(pid) if pid else None))
        return told

    # -- start and stop ------------------------------------------------------------------------------------------------

    def start(self, *, broker: int | None = None, timeout: float = 90.0) -> str:
        """Start all brokers (or the one with this id) that do not run yet, wait until they answer, return the bootstrap address."""
        jars = fetch_jars(self._report)
        with self._alone():
            new = not self.nodes
            nodes, cluster_id = self._cluster()
            todo = [node for node in nodes if broker in (None, node.id) and self.pid(node) is None]
            try:
                for node in todo:
                    for port in (node.port, node.controller_port):
                        require_free(port, patience=5.0)
            except LocalKafkaError:
                if new:  # so that another port can be chosen
                    (self.data / "cluster.json").unlink()
                raise
            self._format(jars, cluster_id, [node for node in todo if self._prepare(node, nodes)])
            for node in todo:
                self._launch(jars, node)
        self.wait(timeout=timeout)
        return self.bootstrap

    def wait(self, *, timeout: float = 90.0) -> None:
        """Wait until every running broker answers and sees every other running one; say why when one ends instead."""
        deadline = time.monotonic() + timeout
        running = {node.id for node in self.nodes if self.pid(node)}
        if not running:
            raise LocalKafkaError(f"no Kafka runs in {self.data}")
        for node in self.nodes:
            while node.id in running and members(node.port) < len(running):
                if self.pid(node) is None:
                    raise LocalKafkaError(f"broker {node.id} ended while starting; the end of its log:\n{self._log_tail(node)}")
                if time.monotonic() > deadline:
                    raise LocalKafkaError(
                        f"broker {node.id} did not answer within {timeout:.0f} s; the end of its log:\n{self._log_tail(node)}"
                    )
                time.sleep(0.1)

    def stop(self, *, broker: int | None = None, timeout: float = 20.0) -> None:
        """Stop all brokers (or one) in good order. One that does not end in time is killed: its next start recovers the log."""
        with self._alone():
            for _, pid in self._running(broker):
                send(pid, signal.SIGCONT)  # a frozen one could not hear the next
                send(pid, signal.SIGTERM)
            # Brokers that stop together lose the controllers' majority; the last one would wait five minutes for it.
            if not self._gone(broker, timeout if broker or len(self.nodes) == 1 else min(timeout, 8.0)):
                self._kill(broker)

    def kill(self, *, broker: int | None = None) -> None:
        """End all brokers (or one) by SIGKILL, as a power cut would; returns when they are gone."""
        with self._alone():
            self._kill(broker)

    def restart(self, *, broker: int | None = None, timeout: float = 90.0) -> str:
        """Stop, then start; a broker that was killed is just started."""
        self.stop(broker=broker)
        return self.start(broker=broker, timeout=timeout)

    def read(self, topic: str) -> None:
        """Become Kafka's console consumer of a topic, from its beginning, until Ctrl-C."""
        consumer = ["org.apache.kafka.tools.consumer.ConsoleConsumer", "--from-beginning"]
        # Only what it prints counts: the log that it would write has no configuration of its own.
        command = [*java(fetch_jars(self._report), 128), "-Dlog4j2.level=ERROR", *consumer]
        # In place of this process, so that Ctrl-C and a closed pipe end Kafka's consumer itself; no shell reads the topic's name.
        os.execv(command[0], [*command, "--bootstrap-server", self.bootstrap, "--topic", topic])  # noqa: S606 - see above

    def freeze(self, *, broker: int | None = None) -> None:
        """SIGSTOP: connections stay open and nothing answers, as a long pause or a cut cable looks."""
        for _, pid in self._running(broker):
            send(pid, signal.SIGSTOP)
            wait_frozen(pid)

    def thaw(self, *, broker: int | None = None) -> None:
        """SIGCONT after `freeze`."""
        for _, pid in self._running(broker):
            send(pid, signal.SIGCONT)

    def __enter__(self) -> "LocalKafka":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    # -- inside --------------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Two starts at once must not format one folder twice."""
        self.data.mkdir(parents=True, exist_ok=True)
        with (self.data / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _cluster(self) -> tuple[list[Node], str]:
        """Read cluster.json, or choose ids and ports and write it."""
        file = self.data / "cluster.json"
        if nodes := self.nodes:
            if self._wanted_brokers not in (None, len(nodes)) or self._wanted_port not in (None, 0, nodes[0].port):
                raise LocalKafkaError(
                    f"{self.data} holds a cluster of {len(nodes)} broker(s) at port {nodes[0].port}: "
                    "use it as it is, choose another --data, or stop it and delete the folder"
                )
            return nodes, json.loads(file.read_text())["id"]
        count = self._wanted_brokers or 1
        if count not in (1, 3):
            raise LocalKafkaError(f"1 or 3 brokers, not {count}")
        first = DEFAULT_PORT if self._wanted_port is None else self._wanted_port
        ports = [*range(first, first + 2 * count)] if first else free_ports(2 * count)
        nodes = [Node(i + 1, ports[i], ports[count + i]) for i in range(count)]
        cluster_id = urlsafe_b64encode(b"v" + uuid.uuid4().bytes[1:]).decode().rstrip("=")  # must not begin with a dash
        write(file, json.dumps({"id": cluster_id, "nodes": [asdict(node) for node in nodes]}, indent=1))
        return nodes, cluster_id

    def _prepare(self, node: Node, nodes: list[Node]) -> bool:
        """Write a broker's settings; tell whether its data folder still has to be formatted."""
        folder = self.folder(node)
        (folder / "data").mkdir(parents=True, exist_ok=True)
        copies = len(nodes)
        chosen = {
            "process.roles": "broker,controller",
            "node.id": str(node.id),
            "listeners": f"PLAINTEXT://127.0.0.1:{node.port},CONTROLLER://127.0.0.1:{node.controller_port}",
            "controller.listener.names": "CONTROLLER",
            "controller.quorum.voters": ",".join(f"{other.id}@127.0.0.1:{other.controller_port}" for other in nodes),
            "log.dirs": str(folder / "data"),
            "default.replication.factor": str(copies),
            "min.insync.replicas": str(copies // 2 + 1),
            # After SIGKILL the controllers let a broker in again only when its old session is over: 9 s by default.
            "broker.session.timeout.ms": "3000" if copies == 1 else "6000",
            "broker.heartbeat.interval.ms": "500",
            "offsets.topic.replication.factor": str(copies),
            "transaction.state.log.replication.factor": str(copies),
            "transaction.state.log.min.isr": str(copies // 2 + 1),
            "share.coordinator.state.topic.replication.factor": str(copies),
            "share.coordinator.state.topic.min.isr": str(copies // 2 + 1),
            **SETTINGS,
            **self._settings,
        }
        write(folder / "server.properties", "".join(f"{key}={value}\n" for key, value in chosen.items()))
        return not (folder / "data" / "meta.properties").exists()

    def _format(self, jars: Path, cluster_id: str, nodes: list[Node]) -> None:
        command = [*java(jars, 128), "kafka.tools.StorageTool", "format", "--ignore-formatted", "--cluster-id", cluster_id]
        running = {
            node.id: subprocess.Popen(
                [*command, "--config", str(self.folder(node) / "server.properties")],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
            )
            for node in nodes
        }
        for number, process in running.items():
            said, _ = process.communicate(timeout=60)
            if process.returncode:
                raise LocalKafkaError(f"formatting the folder of broker {number} failed:\n{said.decode(errors='replace')}")

    def _launch(self, jars: Path, node: Node) -> None:
        folder = self.folder(node)
        command = [
            *java(jars, HEAP_MB),
            # kept small, and an out-of-memory broker ends instead of limping
            *("-XX:+UseG1GC", "-XX:MaxGCPauseMillis=20", "-XX:+ExitOnOutOfMemoryError", "-XX:MaxDirectMemorySize=128m"),
            f"-Dlog4j2.configurationFile={HERE / 'log4j2.properties'}",
            f"-Dvigil.kafka.folder={folder}",
            *("kafka.Kafka", str(folder / "server.properties")),
        ]
        with (folder / "console.log").open("wb") as console:
            child = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=subprocess.STDOUT,
                cwd=folder,
                start_new_session=True,  # Ctrl-C in the terminal is not for the broker
                preexec_fn=end_with_parent if self._die_with_parent and sys.platform == "linux" else None,
            )
        _STARTED[child.pid] = child
        write(folder / "pid", str(child.pid))

    def _running(self, broker: int | None) -> list[tuple[Node, int]]:
        return [(node, pid) for node in self.nodes if broker in (None, node.id) and (pid := self.pid(node))]

    def _gone(self, broker: int | None, timeout: float) -> bool:
        deadline = time.monotonic() + timeout
        while self._running(broker):
            if time.monotonic() > deadline:
                return False
            time.sleep(0.05)
        return True

    def _kill(self, broker: int | None) -> None:
        for _, pid in self._running(broker):
            send(pid, signal.SIGKILL)
        if not self._gone(broker, 10.0):
            raise LocalKafkaError("a broker outlived SIGKILL for 10 s")

    def _log_tail(self, node: Node, lines: int = 15) -> str:
        told = []
        for name in ("server.log", "console.log"):
            with contextlib.suppress(FileNotFoundError):
                told += (self.folder(node) / name).read_text(errors="replace").splitlines()[-lines:]
        return "\n".join(told) or "(empty)"


# -- command line ------------------------------------------------------------------------------------------------------


def _tell(kafka: LocalKafka) -> bool:
    told = kafka.status()
    if not told:
        print(f"no Kafka was ever started in {kafka.data}")
    for one in told:
        state = f"pid {one.pid}, {one.rss_mb} MB, {'ready' if one.answers else 'not answering'}" if one.pid else "stopped"
        print(f"broker {one.node.id} at 127.0.0.1:{one.node.port}: {state}")
    return bool(told) and all(one.answers for one in told)


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; 0 when all went well (for `status`: when every broker answers)."""
    parser = argparse.ArgumentParser(description="A real Apache Kafka on this machine, without Docker.")
    parser.add_argument("do", choices=["start", "stop", "status", "kill", "restart", "wait", "read"])
    parser.add_argument("topic", nargs="?", help="of which `read` prints the records")
    parser.add_argument("--brokers", type=int, choices=[1, 3], help="brokers of a new cluster (1)")
    parser.add_argument("--port", type=int, help=f"first port of a new cluster ({DEFAULT_PORT}); 0 picks free ones")
    parser.add_argument("--broker", type=int, help="only the broker with this id (stop, kill, start, restart)")
    parser.add_argument("--data", type=Path, default=DEFAULT_DATA, help=f"data folder ({DEFAULT_DATA})")
    given = parser.parse_args(arguments)
    kafka = LocalKafka(given.data, brokers=given.brokers, port=given.port, report=lambda line: print(line, flush=True))
    try:
        if given.do in ("start", "restart"):
            began = time.monotonic()
            address = getattr(kafka, given.do)(broker=given.broker)
            print(f"Kafka answers at {address} after {time.monotonic() - began:.1f} s; logs in {kafka.data}")
        elif given.do in ("stop", "kill"):
            getattr(kafka, given.do)(broker=given.broker)
        elif given.do == "wait":
            kafka.wait()
        elif given.do == "read":
            if not given.topic:
                parser.error("read needs a topic")
            kafka.read(given.topic)
        return 0 if given.do != "status" or _tell(kafka) else 1
    except LocalKafkaError as error:
        print(f"kafka: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
