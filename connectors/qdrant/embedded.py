"""The embedded vector store as a process: `python -m connectors.qdrant.embedded --data DIR --port 0 --address-file FILE`.

One process owns the data folder; lanes, search and any Qdrant client share it over HTTP on the loopback address. What is
promised about the data stands in `engine`, what is answered in `server`.
"""

import argparse
import asyncio
import contextlib
import ipaddress
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final, Self

from pydantic import SecretStr

from connectors import child
from models.errors import Fatal, Permanent, VigilError

_KEY_VARIABLE: Final = "VIGIL_EMBEDDED_QDRANT_API_KEY"  # in the environment: command lines are readable by everybody
_POLL_SECONDS: Final = 0.02


class EmbeddedQdrant:
    """The embedded store as a child process that ends with this one, however this one ends.

    The child holds the reading end of a pipe and leaves when the writing end closes, which the kernel does for a killed parent
    too. (PR_SET_PDEATHSIG would fire when the *thread* that started the child ends.)
    """

    def __init__(
        self,
        data: Path,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        api_key: SecretStr | None = None,
        sync: bool = True,
        log: Path | None = None,
    ) -> None:
        self.data = data
        self._host = host
        self._port = port
        self._api_key = api_key
        self._sync = sync
        self._log = log or data / "embedded.log"
        self._child: subprocess.Popen[bytes] | None = None
        self.url = ""

    @property
    def pid(self) -> int | None:
        """The child's process id, while there is one."""
        return self._child.pid if self._child is not None else None

    def start(self, *, timeout: float = 30.0) -> str:
        """Start the child and return its URL once it answers. Raises `Fatal` with its last words when it does not start."""
        if self._child is not None:
            return self.url
        self.data.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._log.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="vigil-") as folder:
            address = Path(folder) / "address"
            command = [
                *child.command("connectors.qdrant.embedded", "--data", str(self.data), "--host", self._host),
                *("--port", str(self._port), "--address-file", str(address), "--exit-on-stdin-eof"),
                *([] if self._sync else ["--no-sync"]),
            ]
            environment = child.environment()
            if self._api_key is not None:
                environment[_KEY_VARIABLE] = self._api_key.get_secret_value()
            with self._log.open("ab") as log:
                self._child = subprocess.Popen(  # noqa: S603 - our own interpreter and module
                    command,
                    stdin=subprocess.PIPE,
                    stdout=log,
                    stderr=log,
                    env=environment,
                    start_new_session=True,  # Ctrl-C is for whoever started it: it stays until they have finished
                )
            self.url = self._wait_for(address, timeout)
        return self.url

    def _wait_for(self, address: Path, timeout: float) -> str:
        assert self._child is not None
        deadline = time.monotonic() + timeout
        while not address.exists():
            if self._child.poll() is not None or time.monotonic() > deadline:
                self.stop(grace=0)
                last = self._log.read_text(errors="replace").strip().rsplit("\n", 1)[-1]
                raise Fatal(f"the embedded vector store did not start: {last}", hint=f"its log is {self._log}")
            time.sleep(_POLL_SECONDS)
        return address.read_text().strip()

    def stop(self, *, grace: float = 10.0) -> None:
        """Let the child flush and end; kill it after `grace` seconds. What it answered is on disk either way."""
        child, self._child, self.url = self._child, None, ""
        if child is None:
            return
        assert child.stdin is not None
        child.stdin.close()
        try:
            child.wait(grace)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()

    def kill(self) -> None:
        """Kill the child by SIGKILL, as a fault would."""
        if self._child is not None:
            self._child.kill()
            self.stop()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


# ------------------------------------------------------------------------------------------------------------- the child


async def serve(
    data: Path, *, host: str, port: int, address_file: Path | None, sync: bool, exit_on_stdin_eof: bool, api_key: str | None
) -> None:
    """Serve `data` until SIGTERM, SIGINT or, if asked, the end of standard input."""
    from aiohttp import web

    from connectors.qdrant.engine import Collections, write_durably
    from connectors.qdrant.server import application

    if not _is_loopback(host) and not api_key:
        raise Permanent(
            f"refusing to serve patients' vectors on {host} without an API key",
            hint=f"set {_KEY_VARIABLE}, or listen on 127.0.0.1",
        )
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    if exit_on_stdin_eof:
        threading.Thread(target=_until_eof, args=(loop, stopping), daemon=True).start()
    runner = web.AppRunner(application(Collections(data, sync=sync), api_key=api_key), access_log=None)
    await runner.setup()
    try:
        listener = socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
        await web.SockSite(runner, listener, shutdown_timeout=5.0).start()
        shown = f"[{host}]" if ":" in host else host
        url = f"http://{shown}:{listener.getsockname()[1]}"
        if address_file is not None:
            write_durably(address_file, f"{url}\n".encode())
        print(f"embedded vector store: {url}, data in {data}", flush=True)  # noqa: T201 - its log
        await stopping.wait()
    finally:
        await runner.cleanup()


def _is_loopback(host: str) -> bool:
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host == "localhost"


def _until_eof(loop: asyncio.AbstractEventLoop, stopping: asyncio.Event) -> None:
    while os.read(0, 4096):
        pass
    with contextlib.suppress(RuntimeError):  # the loop is closed already
        loop.call_soon_threadsafe(stopping.set)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the embedded store in this process."""
    parser = argparse.ArgumentParser(prog="python -m connectors.qdrant.embedded", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="the folder that holds the vectors (made if absent)")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0, help="0: a free one, written to --address-file")
    parser.add_argument("--address-file", type=Path, help="where to write the URL once the store answers")
    parser.add_argument("--no-sync", action="store_true", help="answer before the log is synced to disk")
    parser.add_argument("--exit-on-stdin-eof", action="store_true", help="end when the process that started it ends")
    given = parser.parse_args(arguments)
    try:
        asyncio.run(
            serve(
                given.data,
                host=given.host,
                port=given.port,
                address_file=given.address_file,
                sync=not given.no_sync,
                exit_on_stdin_eof=given.exit_on_stdin_eof,
                api_key=os.environ.get(_KEY_VARIABLE),
            )
        )
    except VigilError as error:
        print(error.advice, file=sys.stderr)  # noqa: T201 - a program's last words, to who started it
        return 1
    except OSError as error:
        print(f"cannot listen on {given.host}:{given.port}: {error}", file=sys.stderr)  # noqa: T201
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
