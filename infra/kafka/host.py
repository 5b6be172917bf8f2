"""What the local Kafka asks of the machine: processes, ports, and whether a broker answers."""

import contextlib
import ctypes
import os
import random
import signal
import socket
import struct
import subprocess
import time
from pathlib import Path

_PR_SET_PDEATHSIG = 1  # <linux/prctl.h>


class LocalKafkaError(RuntimeError):
    """The local Kafka cannot be had, with the reason in plain words."""


def end_with_parent() -> None:
    """Run in a new child before its program: Linux kills it when the thread that started it ends."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def command_line(pid: int) -> str:
    """The command line of a live process; empty for one that is dead or not yet reaped."""
    if Path("/proc/self/cmdline").exists():
        try:
            return Path(f"/proc/{pid}/cmdline").read_text(errors="replace")
        except OSError:
            return ""
    return subprocess.run(["ps", "-ww", "-o", "command=", "-p", str(pid)], capture_output=True, text=True).stdout


def rss_mb_of(pid: int) -> int | None:
    """The resident memory of a process in MB, where the system tells (Linux)."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return None
    return next((int(line.split()[1]) // 1024 for line in status.splitlines() if line.startswith("VmRSS")), None)


def send(pid: int, number: signal.Signals) -> None:
    """Send a signal to a process that may be gone."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def wait_frozen(pid: int, timeout: float = 5.0) -> None:
    """SIGSTOP reaches a busy process thread by thread: wait until the last one stands still (Linux; a moment elsewhere)."""
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        time.sleep(0.01)
        try:
            stats = [(task / "stat").read_text() for task in Path(f"/proc/{pid}/task").iterdir()]
        except OSError:
            return
        if all(stat.rpartition(")")[2].split()[0] == "T" for stat in stats):
            return


def write(file: Path, text: str) -> None:
    """Write a file that others find whole or not at all."""
    scratch = file.with_suffix(".new")
    scratch.write_text(text)
    scratch.replace(file)


def free_ports(count: int) -> list[int]:
    """Free ports below the range that outgoing connections use: a client that retries a dead broker must not get its port."""
    found: list[int] = []
    for port in random.sample(range(20_000, 32_000), 1_000):
        with contextlib.suppress(LocalKafkaError):
            require_free(port)
            found.append(port)
        if len(found) == count:
            return found
    raise LocalKafkaError("no free ports between 20000 and 32000")


def require_free(port: int, patience: float = 0.0) -> None:
    """Raise when a port is taken; `patience` (s) is for a killed broker whose last threads still hold it."""
    deadline = time.monotonic() + patience
    while True:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
                return
            except OSError as error:
                if time.monotonic() > deadline:
                    reason = f"port {port} is taken by another program ({error.strerror}): choose another --port"
                    raise LocalKafkaError(reason) from error
        time.sleep(0.05)


def members(port: int) -> int:
    """How many brokers the one at this port knows as alive; 0 when it does not answer. (Kafka's Metadata request, version 4.)"""
    client = b"vigil"
    header = struct.pack(">hhih", 3, 4, 1, len(client)) + client
    request = header + struct.pack(">i?", 0, False)  # no topics, and none created
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=2.0) as peer:
            peer.sendall(struct.pack(">i", len(request)) + request)
            with peer.makefile("rb") as answer:
                start = answer.read(16)  # size, correlation id, throttle time, number of brokers
        return int(struct.unpack(">iiii", start)[3])
    except (OSError, struct.error):
        return 0
