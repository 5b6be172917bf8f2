"""A real Qdrant server for the tests, from the binary that VIGIL_TEST_QDRANT_BIN names."""

import contextlib
import os
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from infra.kafka.host import free_ports


@dataclass
class QdrantServer:
    """Where it answers: REST at `url`, gRPC at `grpc_port` on 127.0.0.1. May be killed and started again where it was."""

    program: Path
    folder: Path
    http_port: int
    grpc_port: int
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Its address, the same over restarts."""
        return f"http://127.0.0.1:{self.http_port}"

    @property
    def pid(self) -> int:
        """Of the running server."""
        if self.process is None:
            raise RuntimeError("the server was not started")
        return self.process.pid

    def start(self) -> None:
        """Start it and wait until it answers."""
        settings = {
            "QDRANT__STORAGE__STORAGE_PATH": f"{self.folder}/storage",
            "QDRANT__STORAGE__SNAPSHOTS_PATH": f"{self.folder}/snapshots",
            "QDRANT__SERVICE__HOST": "127.0.0.1",
            "QDRANT__SERVICE__HTTP_PORT": str(self.http_port),
            "QDRANT__SERVICE__GRPC_PORT": str(self.grpc_port),
            "QDRANT__TELEMETRY_DISABLED": "true",
        }
        log = self.folder / "log"
        with log.open("ab") as out:
            self.process = subprocess.Popen(
                [str(self.program)], env=os.environ | settings, cwd=self.folder, stdout=out, stderr=out
            )
        _wait_until_ready(self, self.process, log)

    def kill(self) -> None:
        """SIGKILL it."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def stop(self) -> None:
        """Stop it in good order, or else kill it."""
        if self.process is None:
            return
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.kill()


def binary() -> Path | None:
    """The server's binary, or None when none is named. One that is named and not there is an error."""
    named = os.environ.get("VIGIL_TEST_QDRANT_BIN")
    if not named:
        return None
    path = Path(named).resolve()
    if not os.access(path, os.X_OK):
        raise FileNotFoundError(f"VIGIL_TEST_QDRANT_BIN={named}: no program there")
    return path


@contextlib.contextmanager
def qdrant_server(program: Path) -> Iterator[QdrantServer]:
    """Run the server in a temporary folder on free ports."""
    http, grpc = free_ports(2)
    with TemporaryDirectory(prefix="vigil-qdrant-", ignore_cleanup_errors=True) as folder:
        server = QdrantServer(program, Path(folder), http, grpc)
        try:
            server.start()
            yield server
        finally:
            server.stop()


def _wait_until_ready(server: QdrantServer, process: subprocess.Popen[bytes], log: Path, timeout: float = 60.0) -> None:
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with urllib.request.urlopen(f"{server.url}/readyz", timeout=2):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.05)
    raise RuntimeError(f"the Qdrant server did not come up:\n{log.read_text(errors='replace')[-2000:]}")
