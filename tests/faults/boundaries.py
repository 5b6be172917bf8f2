"""SIGKILL of a worker exactly between two steps: before its outputs, before its commit, before its next batch."""

import signal
import sys
import time
from collections.abc import Callable

from tests.faults.arena import Arena, Fault
from tests.faults.dying import PLACES
from tests.faults.watch import Worker

DEATHS = 2


def dying(place: str) -> Callable[[Arena], None]:
    """Let the row's worker be one that can die there."""

    def prepare(arena: Arena) -> None:
        lane = arena.fault.lane
        command = [sys.executable, "-m", "tests.faults.dying", place, str(arena.folder / "deaths"), "lane", "run", lane]
        arena.workers = [Worker(lane, 0, arena.env, arena.folder, command=command)]

    return prepare


def dies(arena: Arena) -> None:
    """Have it die at one of the next such moments, and when it was started again, at the first."""
    worker, deadline = arena.worker(), time.monotonic() + 60.0
    (arena.folder / "deaths").write_text(f"{arena.random.randint(1, 6)}" + "\n1" * (DEATHS - 1))
    while len(worker.deaths) < DEATHS or worker.page("ready")[0] != 200:
        if time.monotonic() > deadline:
            arena.wrong.append(f"the worker died {len(worker.deaths)} times there, and not {DEATHS}")
            return
        time.sleep(0.1)
    if set(worker.deaths) != {-signal.SIGKILL}:
        arena.wrong.append(f"the worker ended otherwise: exit codes {worker.deaths}")


FAULTS = [
    Fault(
        f"sigkill-{place}",
        lane,
        f"SIGKILL when {words}, twice",
        dies,
        prepare=dying(place),
        seconds=24,
        deaths=True,
        settle=150,
    )
    for place, words in PLACES.items()
    for lane in ("vitals", "notes-entities", "notes-vectors")
]
