"""A real Redis for the tests, from Debian's redis-server."""

import os
import shutil
import signal
import subprocess
from pathlib import Path

from pydantic import SecretStr

from infra.kafka.host import free_ports


def why_no_redis() -> str | None:
    """What is missing, in words."""
    return None if shutil.which("redis-server") else "redis-server (Debian package redis-server)"


class Redis:
    """One server with a password, in a folder; may be killed and started again where it was, empty."""

    def __init__(self, folder: Path) -> None:
        [self.port] = free_ports(1)
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> SecretStr:
        """Its address, the same over restarts."""
        return SecretStr(f"redis://:s3cret-word@127.0.0.1:{self.port}/0")

    def start(self) -> None:
        """Start it."""
        listen = ["--port", str(self.port), "--bind", "127.0.0.1"]
        options = ["--requirepass", "s3cret-word", "--save", "", "--dir", str(self._folder)]
        self._process = subprocess.Popen(["redis-server", *listen, *options], stdout=subprocess.DEVNULL)

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        if self._process is None:
            raise RuntimeError("the server was not started")
        os.kill(self._process.pid, number)

    def stop(self) -> None:
        """SIGKILL it: it keeps nothing anyway."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(10)
