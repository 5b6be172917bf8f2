"""Programs that a figure needs, each a process of its own: lanes as an operator runs them, and peers."""

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

import psutil
from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from infra.kafka.host import free_ports

ROOT = Path(__file__).resolve().parents[2]


class Program:
    """`python -m MODULE ...` in the bench's folder. Use as a context manager: it ends with the block, and with this process."""

    def __init__(self, arguments: Sequence[str], env: Mapping[str, str], log: Path, *, ready_port: int = 0) -> None:
        self.log = log
        self._ready_port = ready_port
        path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
        with log.open("ab") as out:
            self.process = subprocess.Popen(
                [sys.executable, *arguments],
                env={**os.environ, **env, "PYTHONPATH": path},
                cwd=log.parent,
                stdout=out,
                stderr=out,
                start_new_session=True,
                preexec_fn=_die_with_parent,
            )

    @property
    def rss(self) -> int:
        """Resident bytes."""
        return int(psutil.Process(self.process.pid).memory_info().rss)

    @property
    def cpu(self) -> float:
        """CPU seconds so far."""
        times = psutil.Process(self.process.pid).cpu_times()
        return float(times.user + times.system)

    def check(self) -> None:
        """Fail, with the end of the log, when the program has ended."""
        if self.process.poll() is not None:
            raise RuntimeError(f"{self.log.stem} ended with {self.process.returncode}:\n{self.log.read_text()[-3000:]}")

    def until_ready(self, within: float = 120.0) -> None:
        """Wait for /ready."""
        deadline = time.monotonic() + within
        while not _answers(f"http://127.0.0.1:{self._ready_port}/ready"):
            self.check()
            if time.monotonic() > deadline:
                raise TimeoutError(f"{self.log.stem} not ready within {within:.0f} s:\n{self.log.read_text()[-3000:]}")
            time.sleep(0.1)

    def stop(self) -> None:
        """SIGTERM, and SIGKILL to what does not end."""
        if self.process.poll() is None:
            self.process.terminate()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def __enter__(self) -> "Program":
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def lane(name: str, env: Mapping[str, str], folder: Path, *, slot: int = 0) -> Program:
    """Start a worker of a lane."""
    (port,) = free_ports(1)
    own = {**env, "VIGIL_WORKER__SLOT": str(slot), "VIGIL_WORKER__HEALTH_PORT": str(port)}
    arguments = ["-m", "streams.cli", "lane", "run", name]
    return Program(arguments, own, folder / f"{name}-{slot}-{time.time_ns()}.log", ready_port=port)


def peer(module: str, env: Mapping[str, str], folder: Path, *, slot: int = 0, arguments: Sequence[str] = ()) -> Program:
    """Start a program of `tests.bench.peers`."""
    own = folder / f"{module}-{slot}-{time.time_ns()}"  # a folder of its own: Faust and Quix keep state in theirs
    own.mkdir()
    return Program(["-m", f"tests.bench.peers.{module}", *arguments], env, own / f"{module}.log")


def until_shared(bootstrap: str, group: str, members: int, programs: Sequence[Program], *, within: float = 120.0) -> None:
    """Wait until a consumer group has so many members and each has partitions, and stays so for a moment."""
    admin = AdminClient({"bootstrap.servers": bootstrap, "log_level": 2})
    deadline = time.monotonic() + within
    times = 0
    while times < 3:
        for program in programs:
            program.check()
        if time.monotonic() > deadline:
            logs = "\n".join(program.log.read_text()[-1500:] for program in programs)
            raise TimeoutError(f"group {group} has no {members} members with work within {within:.0f} s\n{logs}")
        try:
            found = admin.describe_consumer_groups([group], request_timeout=10)[group].result().members
            working = [member for member in found if member.assignment and member.assignment.topic_partitions]
        except KafkaException:
            working = []
        times = times + 1 if len(working) == members else 0
        time.sleep(0.3)


def _answers(url: str) -> bool:
    try:
        with urlopen(url, timeout=2) as answer:
            return bool(answer.status == 200)
    except (URLError, OSError):
        return False


def _die_with_parent() -> None:
    # A bench that is killed leaves no lane behind (prctl PR_SET_PDEATHSIG).
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(1, signal.SIGTERM)
