"""Files that a command keeps for who called it: progress to go on from, a comparison to read later. Nobody else may read them."""

import os
import tempfile
from pathlib import Path

from models.errors import Permanent


def try_out(file: Path | None, what: str) -> None:
    """Raise `Permanent` where a file cannot be written, before there is work that would be lost by it; leaves all as it is."""
    if file is None:
        return
    try:
        if file.is_dir():
            raise IsADirectoryError(0, "it is a folder")
        part = _part(file)
        if part.exists() and not os.access(part, os.W_OK):
            raise PermissionError(0, f"{part.name} beside it is somebody else's")
        with tempfile.TemporaryFile(dir=file.parent):  # not the part itself: another command may be writing it just now
            pass
    except OSError as error:
        raise _refused(file, what, error) from error


def keep(file: Path, content: bytes, what: str) -> None:
    """Write a file, whole or not at all; raises `Permanent` where that cannot be."""
    part = _part(file)
    try:
        with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as out:
            out.write(content)
            out.flush()
            os.fsync(out.fileno())
        part.replace(file)
    except OSError as error:
        raise _refused(file, what, error) from error


def _part(file: Path) -> Path:
    return file.with_name(file.name + ".part")


def _refused(file: Path, what: str, error: OSError) -> Permanent:
    return Permanent(f"the {what} {file} cannot be written ({error.strerror})", hint="name a file in a folder of yours")
