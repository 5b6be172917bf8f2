"""What the vitals lane's decisions follow from beside its inputs: the rules, the code, and the model where it pages.

Two workers whose stamps are equal decide the same upon the same history; where they differ, they may not (journal rule 8).
"""

from functools import cache
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path

import processors
from processors.monitor import Monitor
from streams.differing import lines

_LETTERS = 12  # of a digest: it is to tell versions apart, nothing more


def stamp(monitor: Monitor) -> str:
    """Return a monitor's stamp: words for the log, to be compared as a whole."""
    pages = f", model {monitor.model.digest[:_LETTERS] if monitor.model else 'none'}" if monitor.rules.model_pages else ""
    return f"{version('vigil-stream')}, code {_code()}, rules {_digest(monitor.rules.model_dump_json().encode())}{pages}"


def basis(monitor: Monitor) -> dict[str, str]:
    """Return what a monitor decides by, as names and values: each rule, version, code, and the model even where it only scores.

    Tables are told line by line (`monitor.silence.high`). No secret and no patient is among them.
    """
    model = monitor.model
    return {
        "version": version("vigil-stream"),
        "code": _code(),
        "model": f"{model.name} {model.version} ({model.digest[:_LETTERS]})" if model else "none",
        **dict(lines("monitor", monitor.rules.model_dump(mode="json"))),
    }


@cache
def _code() -> str:
    """Return the digest of the sources that decide: a version that a site has patched has the number of the one that it was."""
    (folder,) = processors.__path__
    return _digest(b"\0".join(file.read_bytes() for file in sorted(Path(folder).glob("*.py"))))


def _digest(content: bytes) -> str:
    return sha256(content).hexdigest()[:_LETTERS]
