"""How another process of our own is started: this interpreter and one of our modules, found where this process found it."""

import os
import site
import socket
import sys
from pathlib import Path

_ROOT = str(Path(__file__).resolve().parents[1])  # the folder that our packages lie in


def command(module: str, *arguments: str) -> list[str]:
    """Return the command line that runs one of our modules.

    With `-m` alone the working folder stands first on the import path: a `models/` or an `nt.py` that happens to lie there would be
    run in place of ours or of the standard library's.
    """
    return [sys.executable, "-P", "-m", module, *arguments]


def environment() -> dict[str, str]:
    """Return our environment, in which the child finds our packages, wherever it is started.

    A source tree may be known to this process by its working folder alone. Where packages are installed nothing is added: what is
    in PYTHONPATH comes before the standard library.
    """
    found = dict(os.environ)
    if _ROOT not in {str(Path(one).resolve()) for one in (*site.getsitepackages(), site.getusersitepackages())}:
        found["PYTHONPATH"] = os.pathsep.join(filter(None, (_ROOT, found.get("PYTHONPATH"))))
    return found


def free_port() -> int:
    """Return a TCP port that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
