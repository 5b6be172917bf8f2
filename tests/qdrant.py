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


@dataclass(frozen=True)
class QdrantServer:
    """Where it answers: REST at `url`, gRPC at `grpc_port` on 127.0.0.1."""

    url: str
    http_port: int
    grpc_port: int
    process: subprocess.Popen[bytes]


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
        settings = {
            "QDRANT__STORAGE__STORAGE_PATH": f"{folder}/storage",
            "QDRANT__STORAGE__SNAPSHOTS_PATH": f"{folder}/snapshots",
            "QDRANT__SERVICE__HOST": "127.0.0.1",
            "QDRANT__SERVICE__HTTP_PORT": str(http),
            "QDRANT__SERVICE__GRPC_PORT": str(grpc),
            "QDRANT__TELEMETRY_DISABLED": "true",
        }
        log = Path(folder) / "log"
        with log.open("wb") as out:
            process = subprocess.Popen([str(program)], env=os.environ | settings, cwd=folder, stdout=out, stderr=out)
        try:
            server = QdrantServer(f"http://127.0.0.1:{http}", http, grpc, process)
            _wait_until_ready(server, log)
            yield server
        finally:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _wait_until_ready(server: QdrantServer, log: Path, timeout: float = 60.0) -> None:
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline and server.process.poll() is None:
        try:
            with urllib.request.urlopen(f"{server.url}/readyz", timeout=2):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.05)
    raise RuntimeError(f"the Qdrant server did not come up:\n{log.read_text(errors='replace')[-2000:]}")
