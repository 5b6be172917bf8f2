"""Faults of what a lane stands on: the broker and the vector store."""

from tests.faults.arena import Arena, Fault


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
]
