"""The Kafka of infra/kafka: it starts, keeps what was written through kill, freeze and restart, and says what is wrong."""

import contextlib
import io
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from confluent_kafka import KafkaException, Producer

from infra.kafka import kafka as script
from infra.kafka.host import LocalKafkaError
from infra.kafka.jars import why_not
from infra.kafka.kafka import LocalKafka
from tests.kafka import Kafka, local_kafka

pytestmark = [
    pytest.mark.kafka,
    pytest.mark.real_kafka,
    pytest.mark.skipif(why_not() is not None, reason=f"needs the local Kafka, and there is {why_not()}"),
]


@pytest.fixture(scope="module")
def broker() -> Iterator[Kafka]:
    """One of this module's own: it is killed, and its files are spoilt."""
    with local_kafka() as local:
        yield Kafka("local", local.bootstrap, local=local)


@pytest.fixture(autouse=True)
def well_again(broker: Kafka) -> Iterator[None]:
    yield
    broker.mend()


def write(broker: Kafka, topic: str, *values: bytes) -> None:
    producer = Producer({"bootstrap.servers": broker.bootstrap, "enable.idempotence": True, "log_level": 2})
    failed = []
    for value in values:
        producer.produce(topic, value, on_delivery=lambda error, _: error and failed.append(error))
    assert producer.flush(60) == 0
    assert failed == []


def values(broker: Kafka, topic: str) -> list[bytes | None]:
    return sorted(record.value or b"" for record in broker.read(topic))


def test_what_was_confirmed_survives_sigkill(broker: Kafka) -> None:
    topic = broker.topic(partitions=2)
    write(broker, topic, b"a", b"b")
    broker.kill()
    assert [one.pid for one in broker.control().status()] == [None]
    broker.start()
    write(broker, topic, b"c")
    assert values(broker, topic) == [b"a", b"b", b"c"]


def test_restart_keeps_address_and_records(broker: Kafka) -> None:
    topic, address = broker.topic(partitions=1), broker.bootstrap
    write(broker, topic, b"a")
    broker.restart()
    assert broker.control().bootstrap == address
    assert values(broker, topic) == [b"a"]


def test_frozen_it_answers_nothing_and_thawed_all(broker: Kafka) -> None:
    topic = broker.topic(partitions=1)
    broker.freeze()
    assert [one.answers for one in broker.control().status()] == [False]
    threading.Timer(2.0, broker.thaw).start()
    began = time.monotonic()
    write(broker, topic, b"late")
    assert time.monotonic() - began > 1.0
    assert values(broker, topic) == [b"late"]


def test_a_dead_letter_of_almost_eight_megabytes_fits(broker: Kafka) -> None:
    topic = broker.topic(partitions=1)
    producer = Producer({"bootstrap.servers": broker.bootstrap, "message.max.bytes": 9_000_000})
    producer.produce(topic, bytes(8_000_000))
    assert producer.flush(60) == 0
    assert [len(value or b"") for value in values(broker, topic)] == [8_000_000]


def test_a_topic_is_read_by_kafkas_own_consumer(broker: Kafka) -> None:
    topic = broker.topic()
    write(broker, topic, b"first", b"second")
    command = [sys.executable, script.__file__, "read", topic, "--data", str(broker.control().data)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as reading:
        try:
            assert reading.stdout is not None
            assert sorted(reading.stdout.readline().strip() for _ in range(2)) == ["first", "second"]
        finally:
            reading.kill()


def test_a_misspelt_topic_does_not_appear(broker: Kafka) -> None:
    with pytest.raises(KafkaException, match="UNKNOWN_TOPIC_OR_PART"):
        broker.read(broker.name("never-created"))


def test_started_twice_it_stays_one(broker: Kafka) -> None:
    local = broker.control()
    before = [one.pid for one in local.status()]
    assert local.start() == broker.bootstrap
    assert LocalKafka(local.data).start() == broker.bootstrap  # as another process sees it
    assert [one.pid for one in local.status()] == before


def test_a_stale_pid_file_is_seen_through(broker: Kafka) -> None:
    local = broker.control()
    local.kill()
    for stale in (str(os.getpid()), "99999999", "not a number", ""):
        (local.folder(local.nodes[0]) / "pid").write_text(stale)
        assert LocalKafka(local.data).status()[0].pid is None
        local.stop()  # must not hit whoever has that number now
    broker.start()
    assert local.status()[0].answers


def test_a_taken_port_is_named(tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(LocalKafkaError, match=f"port {port} is taken"):
            LocalKafka(tmp_path, port=port).start()
    assert LocalKafka(tmp_path).nodes == []  # so that another port can be chosen


def test_another_shape_than_the_folder_holds_is_refused(broker: Kafka) -> None:
    with pytest.raises(LocalKafkaError, match=r"holds a cluster of 1 broker"):
        LocalKafka(broker.control().data, brokers=3).start()


def test_a_broker_that_cannot_start_says_why(tmp_path: Path) -> None:
    local = LocalKafka(tmp_path, port=0, settings={"num.network.threads": "none"}, die_with_parent=True)
    with pytest.raises(LocalKafkaError, match=r"num\.network\.threads"):
        local.start()


def test_it_ends_with_its_parent(tmp_path: Path) -> None:
    if sys.platform != "linux":
        pytest.skip("prctl is Linux's")
    code = (
        "import sys, time; from pathlib import Path; from infra.kafka.kafka import LocalKafka;"
        "k = LocalKafka(Path(sys.argv[1]), port=0, die_with_parent=True); k.start(); print('up', flush=True); time.sleep(120)"
    )
    root = Path(__file__).parent.parent.parent
    with subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], cwd=root, stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == b"up\n"
        local = LocalKafka(tmp_path)
        assert local.status()[0].answers
        parent.kill()
    deadline = time.monotonic() + 10
    while local.status()[0].pid and time.monotonic() < deadline:
        time.sleep(0.05)
    assert local.status()[0].pid is None


def test_the_command_line(tmp_path: Path, broker: Kafka) -> None:
    def run(*arguments: str) -> tuple[int, str]:
        said = io.StringIO()
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            code = script.main(list(arguments))
        return code, said.getvalue()

    data = str(broker.control().data)
    assert run("status", "--data", str(tmp_path)) == (1, f"no Kafka was ever started in {tmp_path}\n")
    code, said = run("wait", "--data", str(tmp_path))
    assert (code, said) == (1, f"kafka: no Kafka runs in {tmp_path}\n")
    code, said = run("status", "--data", data)
    assert code == 0
    assert "ready" in said
    assert run("kill", "--data", data)[0] == 0
    code, said = run("status", "--data", data)
    assert code == 1
    assert "stopped" in said
    code, said = run("restart", "--data", data)
    assert code == 0, said
    assert run("status", "--data", data)[0] == 0


@pytest.mark.slow
@pytest.mark.timeout(300)  # seven starts of a JVM
def test_three_brokers_outlive_one(three_brokers: LocalKafka) -> None:
    broker = Kafka("local", three_brokers.bootstrap, local=three_brokers)
    topic = broker.topic(partitions=3)
    write(broker, topic, b"a")
    three_brokers.kill(broker=three_brokers.nodes[0].id)
    write(broker, topic, b"b", b"c")  # two in sync are enough
    deadline = time.monotonic() + 30
    while values(broker, topic) != [b"a", b"b", b"c"] and time.monotonic() < deadline:
        time.sleep(0.2)  # a new leader shows what it has only when the other replica has confirmed it to it
    assert values(broker, topic) == [b"a", b"b", b"c"]
    three_brokers.start()
    assert [one.answers for one in three_brokers.status()] == [True] * 3
    three_brokers.stop()
    assert [one.pid for one in three_brokers.status()] == [None] * 3
    three_brokers.start()
    assert values(broker, topic) == [b"a", b"b", b"c"]
