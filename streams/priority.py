"""CPU priority: who gives way to whom, on Linux; elsewhere `nice` is all there is.

A lane with the lowest priority gives way in two ways. Its process is nice, and so is its session's autogroup; its model's thread,
which does nearly all of the work, runs only when nobody else wants to. The event loop does not: it keeps the group membership and
answers the health pages, and what starves that long loses its partitions.
"""

import logging
import os
from pathlib import Path
from typing import Final

log = logging.getLogger("vigil.worker")

LOWEST: Final = 19  # nice
_BEHIND: Final = 5  # nice: about a third of the CPU that each of the others gets while all want it (sched(7))


def give_way(nice: int) -> None:
    """Lower this process's CPU priority by `nice`; threads that are started later inherit it.

    Linux's autogroups (sched(7)) share the CPU between sessions first and heed `nice` only within one; the supervisor starts each
    lane in a session of its own, so the session's group is lowered too. Elsewhere (cgroups, other systems) `nice` is all there is.
    """
    os.nice(nice)
    if os.getsid(0) == os.getpid():  # else it would lower those it shares the session with
        try:
            Path("/proc/self/autogroup").write_text(str(nice), encoding="ascii")
        except OSError:
            log.debug("no autogroups here")


def give_way_altogether() -> None:
    """Let this thread run only when nobody else wants to, if its process has the lowest priority.

    Whoever else wakes up goes first at once (SCHED_IDLE, sched(7)); by niceness alone it waits for the end of a slice.
    """
    if hasattr(os, "SCHED_IDLE") and os.getpriority(os.PRIO_PROCESS, 0) >= LOWEST:  # both are per thread on Linux
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))


def step_back() -> None:
    """Let this thread go behind the others of its process, on Linux, where niceness is a thread's own.

    Not to the very end: it holds the interpreter's lock at times, and whoever waits for that would wait for the CPU with it.
    """
    if hasattr(os, "SCHED_IDLE"):
        os.setpriority(os.PRIO_PROCESS, 0, min(LOWEST, os.getpriority(os.PRIO_PROCESS, 0) + _BEHIND))
    give_way_altogether()
