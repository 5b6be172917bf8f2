"""Who has the ports that the connectors listen on: nobody, a `vigil serve` of ours, or another program.

A port is tried by binding it for a moment. Of one that is taken the health pages on this machine are asked first: a `vigil serve`
says there where its connectors listen. Then Linux is asked whose socket it is; of other users' processes it tells root alone.
Nothing is sent to the port itself: to whoever has it that would be a message.
"""

import asyncio
import errno
import socket
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Final, Literal

import orjson

from streams.settings import Settings

_PATIENCE: Final = 5.0  # seconds for a page
_LISTENS: Final = "0A"  # in /proc/net/tcp
_PROC: Final = Path("/proc")
_OWN: Final = frozenset({"vigil", "streams.cli"})  # by what of a command line ours is known, beside `serve`


@dataclass(frozen=True, slots=True)
class Listener:
    """A connector's port. `own`: a `vigil serve` of ours has it; `unknown`: taken, nobody tells by whom; `barred`: not for us."""

    name: str
    host: str
    port: int
    state: Literal["free", "own", "other", "unknown", "barred"]
    who: str = ""  # the program that has it, or why it cannot be had

    @property
    def place(self) -> str:
        """Return where it listens."""
        return f"{self.host}:{self.port}"


async def listeners(settings: Settings, pages: Sequence[str]) -> list[Listener]:
    """Look at the port of every connector that is enabled and has one of its own. `pages`: where health pages may be."""
    connectors = settings.connectors
    places = [
        (name, getattr(connectors, name).host, getattr(connectors, name).port) for name in dict.fromkeys(connectors.enabled)
    ]
    tried = [(*place, trouble(*place[1:])) for place in places if place[2]]
    known: set[int] = set()
    if any(error is not None and error.errno == errno.EADDRINUSE for *_, error in tried):
        for ports in await asyncio.gather(*(asyncio.to_thread(_told, page) for page in pages)):
            known |= ports
    return [await asyncio.to_thread(_seen, name, host, port, error, known) for name, host, port, error in tried]


def trouble(host: str, port: int) -> OSError | None:
    """Bind a port as a server would, and let it go; return what stands in the way."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        with socket.socket(family, kind, protocol) as tried:
            tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # what is only closing is no hindrance
            tried.bind(address)
    except OSError as error:
        return error
    return None


def _seen(name: str, host: str, port: int, error: OSError | None, known: set[int]) -> Listener:
    if error is None:
        return Listener(name, host, port, "free")
    if error.errno != errno.EADDRINUSE:
        return Listener(name, host, port, "barred", error.strerror or str(error))
    if port in known:
        return Listener(name, host, port, "own")
    for number in _owners(port):
        try:
            command = (_PROC / number / "cmdline").read_bytes().decode(errors="replace").split("\0")
            program = (_PROC / number / "comm").read_text().strip()
        except OSError:  # gone
            continue
        if "serve" in command and _OWN & {Path(word).name for word in command}:
            return Listener(name, host, port, "own")
        return Listener(name, host, port, "other", f"{program} (process {number})")
    return Listener(name, host, port, "unknown")


def _told(page: str) -> set[int]:
    """Return on which ports the connectors listen whose health page this is; none where it is another's, or nobody answers."""
    try:
        with urllib.request.urlopen(f"http://{page}/live", timeout=_PATIENCE) as answer:
            told = orjson.loads(answer.read())
        return {int(port) for _, port in told["connectors"].values()}
    except (OSError, HTTPException, ValueError, KeyError, TypeError, AttributeError):  # none of ours
        return set()


def _owners(port: int) -> Iterator[str]:
    """Yield the processes (numbers in /proc) that listen on a port, as far as this user may see them."""
    try:
        sockets = {f"socket:[{inode}]" for inode in _inodes(port)}
        numbers = [one.name for one in _PROC.iterdir() if one.name.isdecimal()] if sockets else []
    except OSError:  # not Linux
        return
    for number in numbers:
        try:
            if any(str(handle.readlink()) in sockets for handle in (_PROC / number / "fd").iterdir()):
                yield number
        except OSError:  # another user's, or gone
            continue


def _inodes(port: int) -> Iterator[str]:
    for table in ("tcp", "tcp6"):
        for line in (_PROC / "net" / table).read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == _LISTENS and int(fields[1].rpartition(":")[2], 16) == port:
                yield fields[9]
