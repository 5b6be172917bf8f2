"""Faults of workers: ended, killed, frozen, added and removed."""

import os
import shutil
import time
from pathlib import Path

from tests.faults.arena import SESSION, Arena, Fault
from tests.faults.inputs import COURSE
from tests.faults.watch import Worker
from tests.versions import another_version

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
    arena.freeze(arena.worker(0).pid, SESSION + 4.0)


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


def upgrade(arena: Arena) -> None:
    """Replace every worker in turn by one of another version with other rules, and kill the last of those."""
    env, command = another_version(arena.folder)
    for slot in range(arena.fault.workers):
        arena.stop(slot)
        new = Worker(arena.fault.lane, slot, {**arena.env, **env}, arena.folder, command=[*command, arena.fault.lane])
        arena.workers = [new if one.slot == slot else one for one in arena.workers]
        new.start()
        new.until_ready()
        arena.sleep(1.0)
    new.kill()
    new.start()
    new.until_ready()


def twin(arena: Arena) -> None:
    """A second process comes with the same instance id, as after a slip in a deployment, and goes when one of both gave up."""
    folder = arena.folder / "twin"
    folder.mkdir()
    second = Worker(arena.fault.lane, 0, arena.env, folder)
    second.start()
    second.wanted = False  # nobody starts it again
    first = arena.worker()
    arena.workers = [*arena.workers, second]
    until = time.monotonic() + 60.0
    arena.sleep(16.0)
    while not first.deaths and not second.deaths and time.monotonic() < until:  # as many rebalances take a slow machine longer
        arena.sleep(1.0)
    if second.running:
        second.kill()


def no_room_for_logs(arena: Arena) -> None:
    """The file that the worker's log goes to lies on a full disk: every write to it fails."""
    arena.worker().log_to(Path("/dev/full"))


def much_to_log(arena: Arena) -> None:
    """Break all connections twice, of which a worker warns; and see that its warnings go where nothing fits."""
    for _ in range(2):
        arena.proxy.reset()
        arena.sleep(3.0)
    if not all(os.path.samefile(f"/proc/{arena.worker().pid}/fd/{number}", "/dev/full") for number in (1, 2)):
        arena.wrong.append("the worker's log does not lie on the full disk")


FAKETIME = "libfaketimeMT.so.1"


def no_faketime() -> str | None:
    """libfaketime has to be there."""
    return None if _faketime() else "libfaketime (Debian package faketime)"


def _faketime() -> Path | None:
    return next(Path("/usr/lib").glob(f"**/faketime/{FAKETIME}"), None) if shutil.which("faketime") else None


def fake_clock(arena: Arena) -> None:
    """Let the worker see the wall clock through a file that a fault may set; the monotonic one stays true."""
    file = arena.folder / "clock"
    file.write_text("+0")
    arena.env |= {
        "LD_PRELOAD": str(_faketime()),  # there: the row `needs` it
        "FAKETIME_TIMESTAMP_FILE": str(file),
        "FAKETIME_CACHE_DURATION": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    }


def clock_jumps(arena: Arena) -> None:
    """The worker's clock jumps an hour ahead for 4 s, then an hour back for 4 s."""
    for offset in ("+3600", "-3600", "+0"):
        (arena.folder / "clock").write_text(offset)
        arena.sleep(4.0)


FAULTS = [
    *(  # as long as the longest row that is compared with it: what follows a fault is compared too
        Fault("undisturbed", lane, "no fault: the run that others are compared with", nothing, seconds=float(COURSE))
        for lane in ALL
    ),
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
        for lane in ALL
    ),
    *(Fault("rebalance", lane, "workers added and removed mid-batch", rebalance, seconds=24) for lane in ALL),
    *(Fault("rolling-restart", lane, "all workers restarted in turn", rolling, workers=2) for lane in ALL),
    Fault(
        "rolling-upgrade",
        "vitals",
        "all workers replaced in turn by another version with other rules, the last one killed in addition",
        upgrade,
        workers=2,
        seconds=20,
        settings=(("VIGIL_STATE__SNAPSHOT_SECONDS", "60"),),  # all that is told lies after the last snapshot
        seen="alerts go by what was told",
    ),
    *(
        Fault(
            "fenced",
            lane,
            "a second process with the same instance id for 16 s, or until one gives up",
            twin,
            seconds=24,
            deaths=True,
            seen="another",
        )
        for lane in ("vitals", "notes-entities")
    ),
    *(
        Fault(
            "log-disk-full",
            lane,
            "the worker's log lies on a full disk, and broken connections make it log",
            much_to_log,
            prepare=no_room_for_logs,
        )
        for lane in ("vitals", "notes-entities")
    ),
    *(
        Fault(
            "clock-jump",
            lane,
            "the worker's clock an hour ahead, then an hour back, 4 s each",
            clock_jumps,
            prepare=fake_clock,
            seconds=18,
            needs=no_faketime,
            seen="the clock stepped" if lane == "vitals" else "",
        )
        for lane in ("vitals", "notes-entities")
    ),
]
