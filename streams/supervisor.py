"""`vigil up`: runs every lane as a process of its own, restarts what fails or hangs with back-off, stops all in order.

Small on purpose: where there is Kubernetes or systemd, they run `vigil lane run NAME` themselves and this is not needed. It scales
by processes: `--workers N` starts N of each lane with slots 0..N-1, and other machines' workers join the same groups.
"""

import asyncio
import contextlib
import logging
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from connectors.child import command, environment, free_port
from streams.health import asked_at

log = logging.getLogger("vigil.supervisor")

_PORT = "VIGIL_WORKER__HEALTH_PORT"
_ASK, _ANSWER = 5.0, 3.0  # seconds between questions for /live, and for its answer
_HUNG = 6  # questions without an answer, 30 to 48 s, after which a process in which nothing runs is killed
_STARVED = 75  # the same, 6 to 10 minutes, where something does: other programs may have the cores
_FIRST, _MOST, _CALM = 1.0, 60.0, 120.0  # seconds: first wait, longest wait, after this long a run counts as good


@dataclass(slots=True)
class Child:
    """One process that is kept running; it is asked for /live where `env` gives it a health port, 0 for any."""

    name: str
    command: Sequence[str]
    env: dict[str, str] = field(default_factory=dict)
    log: Path | None = None  # where its output goes; else where ours does
    process: asyncio.subprocess.Process | None = None
    port: int = 0  # of its health page, in this run; 0: it has none
    restarts: int = 0
    wait: float = _FIRST

    @property
    def running(self) -> bool:
        """Tell whether it runs now."""
        return self.process is not None and self.process.returncode is None


class Supervisor:
    """Keeps children running until told to stop."""

    def __init__(self, children: Sequence[Child], *, grace: float = 20.0, health_host: str = "127.0.0.1") -> None:
        """`health_host`: where the children's health ports listen."""
        self.children = list(children)
        self._host = asked_at(health_host)
        self._grace = grace
        self._stopping = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Start every child; each is watched by a task of its own."""
        for child in self.children:
            self._tasks.append(asyncio.create_task(self._keep(child), name=child.name))

    async def run(self) -> None:
        """Run until SIGINT or SIGTERM."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._stopping.set)
        await self.start()
        await self._stopping.wait()
        await self.stop()

    async def _keep(self, child: Child) -> None:
        while not self._stopping.is_set():
            began = time.monotonic()
            try:
                child.process = await self._spawn(child)
            except OSError as error:  # no process or no memory to be had, or nowhere to write its log
                ended = f"cannot be started ({error.strerror})"
            else:
                if self._stopping.is_set():  # told to stop while it was being started: `stop` did not see it yet
                    with contextlib.suppress(ProcessLookupError):
                        child.process.terminate()
                watch = asyncio.create_task(self._watch(child, child.process))
                ended = _said(await child.process.wait())
                watch.cancel()
            if self._stopping.is_set():
                return
            child.wait = _FIRST if time.monotonic() - began > _CALM else child.wait
            log.warning("%s %s; started again in %.0f s", child.name, ended, child.wait)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(child.wait):
                    await self._stopping.wait()
            child.wait = min(2 * child.wait, _MOST)
            child.restarts += 1

    async def _watch(self, child: Child, process: asyncio.subprocess.Process) -> None:
        """Kill a child that hangs: one that was frozen, or whose loop waits for ever, ends by itself never or late."""
        silent, idle = 0, True
        while child.port:
            await asyncio.sleep(_ASK)
            if await _answers(self._host, child.port):
                silent, idle = 0, True
                continue
            silent, idle = silent + 1, idle and not _runs(process.pid)
            if silent >= (_HUNG if idle else _STARVED):
                log.error("%s has not answered %d times on its health port and hangs: killed", child.name, silent)
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
                return

    async def _spawn(self, child: Child) -> asyncio.subprocess.Process:
        own = dict(child.env)
        if _PORT in own:
            child.port = int(own[_PORT]) or free_port()
            own[_PORT] = str(child.port)
        with child.log.open("ab") if child.log else contextlib.nullcontext() as output:
            return await asyncio.create_subprocess_exec(
                *child.command,
                env={**environment(), **own},
                stdout=output,
                stderr=output,
                start_new_session=True,  # Ctrl-C is ours to pass on, once and in order
                preexec_fn=_die_with_parent if sys.platform == "linux" else None,
            )

    async def stop(self) -> None:
        """SIGTERM to all, wait for the grace time, SIGKILL to whoever is left."""
        self._stopping.set()
        running = [child.process for child in self.children if child.process is not None and child.running]
        for process in running:
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
        waits = [asyncio.create_task(process.wait()) for process in running]
        if waits:
            _, late = await asyncio.wait(waits, timeout=self._grace)
            for process in running:
                if process.returncode is None:
                    log.warning("process %d did not end within %.0f s: killed", process.pid, self._grace)
                    with contextlib.suppress(ProcessLookupError):
                        process.kill()
            if late:
                await asyncio.wait(late, timeout=5)
        await asyncio.gather(*self._tasks, return_exceptions=True)


def _said(code: int) -> str:
    return f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"


async def _answers(host: str, port: int) -> bool:
    """Tell whether /live is answered, whatever it says: a process that is about to end says so there."""
    try:
        async with asyncio.timeout(_ANSWER):
            reader, writer = await asyncio.open_connection(host, port)
            try:
                writer.write(b"GET /live HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
                return bool(await reader.read(1))
            finally:
                writer.transport.abort()
    except (OSError, TimeoutError):
        return False


def _runs(pid: int) -> bool:
    """Tell whether a thread of a process computes, waits for a core or for a disk; yes where that cannot be known (not Linux)."""
    try:
        # pid (name) state ...; the name may hold anything
        states = [file.read_text().rpartition(")")[2].split()[0] for file in Path(f"/proc/{pid}/task").glob("*/stat")]
    except (OSError, IndexError):
        return True
    return not states or bool({"R", "D"} & set(states))


def _die_with_parent() -> None:
    # A supervisor that was killed must not leave orphans that hold the group's partitions (prctl PR_SET_PDEATHSIG).
    import ctypes

    ctypes.CDLL(None, use_errno=True).prctl(1, signal.SIGTERM)


def lane_children(
    lanes: Sequence[str], workers: int, *, env: dict[str, str] | None = None, first_port: int = 0, first_slot: int = 0
) -> list[Child]:
    """Return the processes of `workers` workers of each lane. `first_port`: health ports from there on, 0 for any."""
    children = []
    for slot in range(workers):
        for i, lane in enumerate(lanes):
            port = first_port + slot * len(lanes) + i if first_port else 0
            own = {"VIGIL_WORKER__SLOT": str(first_slot + slot), "VIGIL_WORKER__HEALTH_PORT": str(port)}
            lane_run = command("streams.cli", "lane", "run", lane)
            children.append(Child(f"{lane}-{first_slot + slot}", lane_run, {**(env or {}), **own}))
    return children
