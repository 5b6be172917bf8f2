"""Files of data opened for reading, and the words for one that is damaged, in another encoding, or written by another program."""

import csv
import gzip
import zlib
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, TextIO, cast

from models.errors import Permanent

DAMAGE: Final = (OSError, EOFError, zlib.error, UnicodeDecodeError, csv.Error)
"""What reading a damaged file raises. A truncated gzip is an EOFError, which the command line takes for Ctrl-D."""
_SEPARATORS: Final = ",;\t|"


def opened(path: Path) -> TextIO:
    """Open a file as text: UTF-8, with or without a byte order mark (Excel writes one), unpacked where it is gzip."""
    if path.suffix == ".gz":
        return cast(TextIO, gzip.open(path, "rt", newline="", encoding="utf-8-sig"))
    return path.open(newline="", encoding="utf-8-sig")


def damage(error: BaseException) -> str:
    """Say what is wrong with a file that could not be read, without a word of what is in it."""
    if isinstance(error, UnicodeDecodeError):
        return "it is not UTF-8"
    if isinstance(error, csv.Error):
        return "it is no CSV"
    if isinstance(error, OSError) and error.strerror:
        return f"it cannot be read ({error.strerror})"
    return f"it is damaged or cut short ({type(error).__name__})"


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn what a damaged file raises into words. A part of a set is never measured on as if it were the whole.

    Raises:
        Permanent: the file cannot be read to its end; names it and says why.
    """
    try:
        yield
    except DAMAGE as error:
        hint = "copy it again from where it came, or leave it out"
        if isinstance(error, UnicodeDecodeError):
            hint = "convert it, such as by: iconv -f latin1 -t utf-8"
        raise Permanent(f"{path}: {damage(error)}", hint=hint) from error


def header(file: TextIO, wanted: Collection[str]) -> tuple[list[str], str]:
    """Read a table's first line; return its columns, and the separator that gives most of the `wanted` ones (Excel's differ)."""
    line = file.readline()
    rows = {one: [name.strip() for name in next(csv.reader([line], delimiter=one), [])] for one in _SEPARATORS}
    separator = max(_SEPARATORS, key=lambda one: len(set(rows[one]) & set(wanted)))
    return rows[separator], separator
