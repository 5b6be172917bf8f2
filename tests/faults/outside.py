"""Faults of what a lane stands on: the broker, the network, the vector store, the objects, the topics."""

import json
from collections.abc import Callable
from pathlib import Path

from tests.faults.arena import SESSION, Arena, Fault, Twist
from tests.faults.inputs import Sent
from tests.faults.workers import nothing


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


def qdrant_down(arena: Arena) -> None:
    """SIGKILL Qdrant, 6 s later start it with its data."""
    assert arena.qdrant is not None
    arena.qdrant.kill()
    arena.sleep(6.0)
    arena.qdrant.start()


def qdrant_restart(arena: Arena) -> None:
    """Stop Qdrant in good order and start it."""
    assert arena.qdrant is not None
    arena.qdrant.stop()
    arena.qdrant.start()


def qdrant_hangs(arena: Arena) -> None:
    """Qdrant takes connections and answers none for 8 s, past the client's time-out."""
    assert arena.qdrant is not None and arena.qdrant.process is not None
    arena.freeze(arena.qdrant.process.pid, 8.0)


def partition(arena: Arena) -> None:
    """Nothing passes between workers and broker for longer than the session; connections stay open."""
    arena.proxy.block()
    arena.sleep(SESSION + 3.0)
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


def _films(arena: Arena) -> list[Path]:
    return sorted(path for path in arena.objects.rglob("*.png") if path.is_file())


def spoil_film(spoil: Callable[[Path], object]) -> Callable[[Arena], Twist]:
    """Spoil one film's file before the first image leaves: every image that refers to it is spoilt."""

    def prepare(arena: Arena) -> Twist:
        film = _films(arena)[0]
        spoil(film)

        def twist(number: int, one: Sent) -> list[Sent]:
            arena.spoilt += json.loads(one.value or b"")["pixels"]["sha256"] == film.stem
            return [one]

        return twist

    return prepare


def backlog(arena: Arena) -> None:
    """The worker is down while everything is written, and finds it all at once."""
    arena.stop(0)
    arena.sleep(arena.fault.seconds)
    arena.worker().start()


VECTORS = ("notes-vectors", "images")
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
        Fault(
            "qdrant-down",
            lane,
            "Qdrant killed, started 6 s later",
            qdrant_down,
            short=lane == "notes-vectors",
            seen="store",
        )
        for lane in VECTORS
    ),
    *(Fault("qdrant-restart", lane, "Qdrant restarted in good order", qdrant_restart) for lane in VECTORS),
    *(
        Fault("qdrant-hangs", lane, "Qdrant answers nothing for 8 s", qdrant_hangs, seconds=16, seen="store")
        for lane in VECTORS
    ),
    *(
        Fault("partition", lane, "nothing passes to or from the broker for 9 s", partition, seconds=20, workers=workers)
        for lane, workers in (("vitals", 1), ("notes-entities", 1))
    ),
    *(Fault("resets", lane, "connections to the broker break, five times", resets) for lane in ("vitals", "notes-entities")),
    *(
        Fault("slow-network", lane, "150 ms, 100 kB/s to the broker, 8 s", slow_network, seconds=18)
        for lane in ("vitals", "images")
    ),
    Fault("object-missing", "images", "a film's file is gone", nothing, twist=spoil_film(Path.unlink), seen="dead_lettered"),
    Fault(
        "object-corrupt",
        "images",
        "a film's file has other bytes",
        nothing,
        twist=spoil_film(lambda path: path.write_bytes(b"x" * 100)),
        seen="dead_lettered",
    ),
    *(
        Fault("backlog", lane, "all of the load waits for a worker that starts", backlog)
        for lane in ("vitals", "notes-vectors")
    ),
    *(
        Fault("leader-change", lane, "each of three brokers goes in turn", leader_change, brokers=3, seconds=24)
        for lane in ("vitals", "notes-entities")
    ),
]
