"""Faults of workers: ended, killed, frozen, added and removed."""

from tests.faults.arena import SESSION, Arena, Fault

ALL = ("vitals", "notes-entities", "notes-vectors", "images")


def nothing(arena: Arena) -> None:
    """Let the load run."""


def sigkill(arena: Arena) -> None:
    """SIGKILL at three random moments, started again at once."""
    for _ in range(3):
        arena.sleep(0.2, 2.0)
        arena.worker().kill()
        arena.worker().start()
        arena.worker().until_ready()


def sigterm(arena: Arena) -> None:
    """SIGTERM twice in the middle of work, started again."""
    for _ in range(2):
        arena.sleep(0.5, 2.0)
        arena.stop(0)
        arena.worker().start()
        arena.worker().until_ready()


def zombie(arena: Arena) -> None:
    """SIGSTOP one of two workers for longer than the session: the other takes over, then the frozen one wakes up."""
    process = arena.worker(0)._process
    assert process is not None
    arena.freeze(process.pid, SESSION + 4.0)


def rebalance(arena: Arena) -> None:
    """Two workers come and go while the first works, one in good order, one by SIGKILL."""
    for slot in (1, 2):
        arena.worker(slot).start()
        arena.worker(slot).until_ready()
        arena.sleep(0.5, 2.0)
    arena.stop(1)
    arena.worker(2).kill()
    arena.sleep(SESSION)  # a static member that is gone keeps its partitions for as long


def rolling(arena: Arena) -> None:
    """Restart every worker in turn, each when the one before it is ready again."""
    for slot in range(arena.fault.workers):
        arena.stop(slot)
        arena.worker(slot).start()
        arena.worker(slot).until_ready()
        arena.sleep(1.0)


FAULTS = [
    *(Fault("undisturbed", lane, "no fault: the run that others are compared with", nothing) for lane in ALL),
    *(
        Fault("sigkill", lane, "SIGKILL three times at random moments", sigkill, short=lane == "vitals", seconds=20)
        for lane in ALL
    ),
    *(Fault("sigterm", lane, "SIGTERM twice in the middle of work", sigterm) for lane in ALL),
    *(
        Fault(
            "zombie",
            lane,
            "one of two workers frozen past its session, then it wakes up",
            zombie,
            workers=2,
            seconds=18,
            deaths=lane == "vitals",
        )  # it finds itself replaced in the journal and stops
        for lane in ("vitals", "notes-entities", "notes-vectors")
    ),
    *(Fault("rebalance", lane, "workers added and removed mid-batch", rebalance, seconds=24) for lane in ALL),
    *(Fault("rolling-restart", lane, "all workers restarted in turn", rolling, workers=2) for lane in ALL),
]
