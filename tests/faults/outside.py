"""Faults of what carries the records: the broker, its disk, its answers, the network, the topics."""

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any

from confluent_kafka.admin import AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource

from infra.kafka.host import LocalKafkaError
from processors.events import TOPICS
from streams.journal import TOPIC as JOURNAL
from tests import vitals
from tests.faults.arena import PARTITIONS, SESSION, Arena, Fault
from tests.faults.disk import full, no_mounting
from tests.faults.inputs import COURSE, Load, sent
from tests.faults.messages import poison
from tests.kafka import delete_records

CUT_OFF = 180.0  # seconds


def broker_kill(arena: Arena) -> None:
    """SIGKILL the broker, 4 s later start it."""
    arena.kafka.kill()
    arena.sleep(4.0)
    arena.kafka.start()


def broker_restart(arena: Arena) -> None:
    """Stop the broker in good order and start it."""
    arena.kafka.restart()


def broker_freeze(arena: Arena) -> None:
    """The broker answers nothing for 8 s, longer than the session."""
    arena.kafka.freeze()
    arena.sleep(8.0)
    arena.kafka.thaw()


def partition(arena: Arena) -> None:
    """Nothing passes between workers and broker for longer than the session; connections stay open."""
    arena.proxy.block()
    arena.sleep(SESSION + 3.0)
    arena.proxy.heal()


def cut_off(arena: Arena) -> None:
    """Nothing passes between worker and broker for three minutes, many times as long as a session; senders write on."""
    arena.proxy.block()
    arena.sleep(CUT_OFF)
    arena.proxy.heal()


def resets(arena: Arena) -> None:
    """All connections to the broker break, five times within as many seconds."""
    for _ in range(5):
        arena.proxy.reset()
        arena.sleep(1.0)


def slow_network(arena: Arena) -> None:
    """Each packet is 150 ms late, and no more than 100 kB/s pass, for 8 s."""
    arena.proxy.slow(0.15, 100_000)
    arena.sleep(8.0)
    arena.proxy.heal()


def leader_change(arena: Arena) -> None:
    """Of three brokers each goes in turn: two in good order, the third by SIGKILL, 8 s gone."""
    for number in (1, 2):
        arena.broker.restart(broker=number)
        arena.sleep(2.0)
    arena.broker.kill(broker=3)
    arena.sleep(8.0)
    arena.broker.start(broker=3)


def refused(topics: Callable[[Arena], Sequence[str]]) -> Callable[[Arena], None]:
    """The brokers refuse every write to some topics for 8 s: they want three replicas in sync, and one of three brokers is dead."""

    def strike(arena: Arena) -> None:
        arena.broker.kill(broker=3)
        arena.sleep(9.0)  # until the controllers have noticed
        _alter(arena, topics(arena), "min.insync.replicas", "3")
        arena.sleep(8.0)
        _alter(arena, topics(arena), "min.insync.replicas", "2")
        arena.broker.start(broker=3)

    return strike


def _outputs(arena: Arena) -> list[str]:
    return [arena.prefix + topic for topic in (*TOPICS, JOURNAL) if topic != arena.input]


def _commits(arena: Arena) -> list[str]:
    return ["__consumer_offsets"]


def _admin(arena: Arena) -> Any:
    return AdminClient({"bootstrap.servers": arena.kafka.bootstrap, "log_level": 2})


def _alter(arena: Arena, topics: Sequence[str], name: str, value: str) -> None:
    entry = ConfigEntry(name, value, incremental_operation=AlterConfigOpType.SET)
    asked = [ConfigResource(ConfigResource.Type.TOPIC, topic, incremental_configs=[entry]) for topic in topics]
    admin = _admin(arena)
    for answer in admin.incremental_alter_configs(asked).values():
        answer.result()


def backlog(arena: Arena) -> None:
    """The worker is down while everything is written, and finds it all at once."""
    arena.stop(0)
    arena.sleep(arena.fault.seconds)
    arena.worker().start()


def many_sets(arena: Arena) -> Load:
    """100,000 sets of 500 patients, as fast as they can be sent."""
    start = datetime.now(UTC)
    people = [sent(vitals.patient(number, start - timedelta(hours=1))) for number in range(500)]
    sets = vitals.vitals(500, 200, start, every=timedelta(seconds=1), seed=arena.seed)
    return Load(people, [sent(one) for one in sets], rate=8_000.0)


def retention(arena: Arena) -> None:
    """While the worker is down Kafka deletes twenty records of each partition that it has not read."""
    arena.stop(0)
    arena.sleep(5.0)
    arena.sender.flush()
    name = arena.prefix + arena.input
    committed = arena.kafka.committed(arena.group, name)
    begins = {number: committed.get(number, 0) + 20 for number in range(PARTITIONS)}
    asyncio.run(delete_records(arena.kafka.bootstrap, name, begins))
    for number, begin in begins.items():
        for offset in range(committed.get(number, 0), begin):
            del arena.sender.accepted.at[arena.input, number, offset]
            arena.gone += 1
    arena.worker().start()


def recreated(absent: float) -> Callable[[Arena], None]:
    """Delete the input topic under the working lane and, so many seconds later, make it anew, empty. All in it had been read."""
    return lambda arena: _recreate(arena, absent)


def _recreate(arena: Arena, absent: float) -> None:
    with arena.sender.held():
        if not arena.watch.settled(30.0):
            raise RuntimeError("the lane did not read what was there")
        name = arena.prefix + arena.input
        lain = [(one.partition, -1 - one.offset, one.value) for one in arena.kafka.read(name)]
        arena.kafka.make_anew(name, PARTITIONS, absent=absent)
        accepted = arena.sender.accepted
        accepted.lain = lain
        accepted.at = {
            (topic, number, -1 - offset if topic == arena.input else offset): event_id  # offsets begin anew
            for (topic, number, offset), event_id in accepted.at.items()
        }


def output_recreated(topic: str) -> Callable[[Arena], None]:
    """Delete a topic that the lane writes to, under its load, and make it anew 3 s later: what lay on it is gone, and no more."""

    def strike(arena: Arena) -> None:
        arena.sleep(9.0)  # until alerts stand
        with ThreadPoolExecutor(1) as other:
            with arena.sender.held():
                if not arena.watch.settled(30.0):
                    raise RuntimeError("the lane did not read what was there")
                arena.erased[topic] = set(arena.sender.accepted.at)
                name, admin = arena.prefix + topic, _admin(arena)
                made = other.submit(arena.kafka.make_anew, name, PARTITIONS, absent=3.0)
                while name in admin.list_topics(timeout=10).topics and not made.done():
                    arena.sleep(0.05)
            made.result()

    return strike


def full_disk(arena: Arena) -> None:
    """Nothing more fits on the broker's disk for 8 s; then there is room again, and the broker is started."""
    with full(arena.broker.data):
        arena.sleep(8.0)
    with suppress(LocalKafkaError):
        arena.kafka.kill()  # it may have ended by itself, as Kafka does when it has no disk left
    arena.kafka.start()


FAULTS = [
    *(
        Fault("broker-kill", lane, "the broker killed, started 4 s later", broker_kill, seconds=18, short=lane == "vitals")
        for lane in ("vitals", "notes-entities", "notes-vectors", "images")
    ),
    *(
        Fault("broker-restart", lane, "the broker restarted in good order", broker_restart)
        for lane in ("vitals", "notes-entities")
    ),
    *(
        Fault("broker-freeze", lane, "the broker frozen for 8 s", broker_freeze, seconds=18)
        for lane in ("vitals", "notes-entities")
    ),
    *(
        Fault("partition", lane, "nothing passes to or from the broker for 9 s", partition, seconds=20, workers=workers)
        for lane, workers in (("vitals", 1), ("notes-entities", 1))
    ),
    Fault(
        "cut-off",
        "vitals",
        "nothing passes to or from the broker for 3 minutes, while and after which the load goes on",
        cut_off,
        seconds=float(COURSE),
        over=CUT_OFF + 30.0,
        seen="Kafka has not answered",
    ),
    *(Fault("resets", lane, "connections to the broker break, five times", resets) for lane in ("vitals", "notes-entities")),
    *(
        Fault("slow-network", lane, "150 ms, 100 kB/s to the broker, 8 s", slow_network, seconds=18)
        for lane in ("vitals", "images")
    ),
    *(
        Fault("backlog", lane, "all of the load waits for a worker that starts", backlog)
        for lane in ("vitals", "notes-vectors")
    ),
    Fault(
        "backlog-100k",
        "vitals",
        "100,000 sets wait for a worker that starts",
        backlog,
        load=many_sets,
        seconds=20,
        settle=300,
        same=False,
    ),
    *(
        Fault(name, lane, words, refused(topics), brokers=3, seconds=24, seen=seen)
        for name, words, topics, seen in (
            ("produce-error", "the brokers refuse what the lane writes for 8 s", _outputs, "NotEnoughReplicas"),
            ("commit-error", "the brokers refuse every offset commit for 8 s", _commits, "no commit has been taken"),
        )
        for lane in ("vitals", "notes-entities", "notes-vectors")
    ),
    *(
        Fault(
            "retention",
            lane,
            "retention takes forty records before they are read",
            retention,
            same=lane != "vitals",  # without them a patient's course is another: the chart alone says what is right
            seen="are lost",
        )
        for lane in ("vitals", "notes-entities")
    ),
    *(
        Fault(name, lane, words, recreated(absent), seconds=20)
        for name, words, absent in (
            ("recreated", "the input topic deleted and, 3 s later, made anew, empty", 3.0),
            ("recreated-at-once", "the input topic deleted and made anew at once, empty", 0.0),
        )
        for lane in ("vitals", "notes-entities")
    ),
    *(
        Fault(
            f"recreated-{topic.partition('.')[2]}",
            "vitals",
            f"{topic} deleted under the load and, 3 s later, made anew, empty",
            output_recreated(topic),
            twist=poison if topic == "clinical.dead-letters" else None,
            seconds=24,
        )
        for topic in ("clinical.scores", "clinical.alerts", "clinical.audit", "clinical.dead-letters")
    ),
    *(
        Fault(
            "broker-disk-full",
            lane,
            "nothing fits on the broker's disk for 8 s",
            full_disk,
            seconds=20,
            small_disk=True,
            needs=no_mounting,
            # A broker that cannot write its log ends: whether it still answers the write that failed is chance.
            seen="KafkaStorageError|Kafka has not answered",
        )
        for lane in ("vitals", "notes-entities")
    ),
    *(
        Fault("leader-change", lane, "each of three brokers goes in turn", leader_change, brokers=3, seconds=24)
        for lane in ("vitals", "notes-entities")
    ),
]
