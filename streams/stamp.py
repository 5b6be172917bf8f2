"""What the vitals lane's decisions follow from beside its inputs: the rules, the code, and the model where it pages.

Two workers whose stamps are equal decide the same upon the same history; where they differ, they may not (journal rule 8).
"""

from functools import cache
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path

import processors
from processors.monitor import Monitor

_LETTERS = 12  # of a digest: it is to tell versions apart, nothing more


def stamp(monitor: Monitor) -> str:
    """Return a monitor's stamp: words for the log, to be compared as a whole."""
    pages = f", model {monitor.model.digest[:_LETTERS] if monitor.model else 'none'}" if monitor.rules.model_pages else ""
    return f"{version('vigil-stream')}, code {_code()}, rules {_digest(monitor.rules.model_dump_json().encode())}{pages}"


@cache
def _code() -> str:
    """Return the digest of the sources that decide: a version that a site has patched has the number of the one that it was."""
    (folder,) = processors.__path__
    return _digest(b"\0".join(file.read_bytes() for file in sorted(Path(folder).glob("*.py"))))


def _digest(content: bytes) -> str:
    return sha256(content).hexdigest()[:_LETTERS]
