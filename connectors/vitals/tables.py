"""The rows of a CSV, TSV or JSON lines file, plain or gzip. A line that is no row comes out as it stood, with what is wrong:

| a line | |
|---|---|
| JSON that is no object, no JSON, not UTF-8 | is no row |
| CSV that is not UTF-8, has a NUL, or has more values than the file has columns (blank ones aside) | is no row: which is which? |
| CSV with a quote that does not close, or goes on behind its end | is no row; what the quote would swallow is read line by line |
| the last line of a CSV, without a line end and with values missing | is no row: it was cut, and so may its last value be |
| any other CSV line with fewer values than columns | is a row; the others are missing |
| of more than 1 MiB, or a heading that is not UTF-8 or lacks a column of the mapping | the file is no table: nothing more is read |
"""

import csv
import gzip
import io
import zlib
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TextIO

import orjson

from connectors.vitals.settings import FileMapping
from models.errors import Permanent

JSON_LINES: Final = frozenset({".jsonl", ".ndjson"})
_LONGEST: Final = 1 << 20  # characters of one line; a file without line ends is no table
_KEPT: Final = "surrogateescape"  # bytes that are no UTF-8 go through text and back unchanged


@dataclass(frozen=True, slots=True)
class Row:
    """A line that says something, by column. `number`: of its (first) line in the file, from 1."""

    number: int
    values: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Broken:
    """A line that is no row, byte for byte with its end. `reason` quotes nothing of it."""

    number: int
    line: bytes
    reason: str


def rows(path: Path, mapping: FileMapping) -> Iterator[Row | Broken]:
    """Yield the rows of a CSV, TSV or JSON lines file. Raises `Permanent` when it is no such file."""
    suffixes = [one.lower() for one in path.suffixes]
    try:
        with _opened(path, packed=".gz" in suffixes) as file:
            lines = _Lines(file, path.name)
            if JSON_LINES & set(suffixes):
                yield from _json_lines(lines)
            else:
                yield from _table(lines, mapping, mapping.delimiter or ("\t" if ".tsv" in suffixes else ","))
    except (OSError, EOFError, zlib.error, csv.Error) as error:
        raise Permanent(f"{path.name} cannot be read as a table ({type(error).__name__})") from error


def _opened(path: Path, *, packed: bool) -> TextIO:
    binary = gzip.open(path, "rb") if packed else path.open("rb")  # noqa: SIM115  the wrapper closes it
    return io.TextIOWrapper(binary, encoding="utf-8-sig", errors=_KEPT, newline="")


class _Lines:
    """A file's lines, counted. `taken` are those that were read since `begin`; all but the first can be given back."""

    def __init__(self, file: TextIO, name: str) -> None:
        self._file = file
        self._name = name
        self._again: deque[str] = deque()
        self.number = 0
        self.taken: list[str] = []

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = self._again.popleft() if self._again else self._file.readline(_LONGEST)
        if not line:
            raise StopIteration
        self.number += 1
        if len(line) == _LONGEST:
            what = f"line {self.number} has {_LONGEST} characters or more"
            raise Permanent(f"{self._name} cannot be read as a table: {what}")
        self.taken.append(line)
        return line

    def begin(self) -> None:
        """Begin another row."""
        self.taken = []

    def row(self, values: Mapping[str, Any]) -> Row:
        """Return a row made of the lines taken."""
        return Row(self.number - len(self.taken) + 1, values)

    def broken(self, reason: str) -> Broken:
        """Return what was taken as no row."""
        return Broken(self.number - len(self.taken) + 1, _bytes("".join(self.taken)), reason)

    def give_back(self) -> None:
        """Let all lines but the first that was taken be read again, as lines of their own."""
        first, *others = self.taken
        self._again.extendleft(reversed(others))
        self.number -= len(others)
        self.taken = [first]


def _table(lines: _Lines, mapping: FileMapping, delimiter: str) -> Iterator[Row | Broken]:
    csv.field_size_limit(_LONGEST)
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    columns = next(reader, [])
    if not _is_utf8("".join(columns)):
        raise Permanent("the file cannot be read as a table: its first line is not UTF-8")
    if absent := sorted(mapping.wanted - set(columns)):
        alike = sorted(set(columns) & {column for column in columns for one in absent if column.casefold() == one.casefold()})
        what = f", but {', '.join(map(repr, alike))}" if alike else ""
        hint = "the mapping names the columns as the file's first line writes them"
        raise Permanent(f"the file has no column {', '.join(map(repr, absent))}{what}", hint=hint)
    while True:
        lines.begin()
        try:
            values = next(reader)
        except StopIteration:
            return
        except csv.Error:
            lines.give_back()
            yield lines.broken("its quotes do not match")
            continue
        if not values:
            continue
        if reason := _fault(values, columns, "".join(lines.taken)):
            yield lines.broken(reason)
        else:
            yield lines.row(dict(zip(columns, values + [""] * (len(columns) - len(values)), strict=False)))


def _fault(values: list[str], columns: list[str], text: str) -> str:
    """Return why a line of a table is no row, "" for one that is."""
    if not _is_utf8(text):
        return "not UTF-8"
    if "\x00" in text:
        return "a NUL character"
    if any(value.strip() for value in values[len(columns) :]):
        return f"{len(values)} values for {len(columns)} columns"
    if len(values) < len(columns) and not text.endswith(("\n", "\r")):
        return f"cut at the end of the file: {len(values)} values for {len(columns)} columns"
    return ""


def _json_lines(lines: _Lines) -> Iterator[Row | Broken]:
    for line in lines:
        lines.taken = [line]
        if not line.strip():
            continue
        if not _is_utf8(line):
            yield lines.broken("not UTF-8")
            continue
        try:
            found = orjson.loads(line)
        except orjson.JSONDecodeError:
            yield lines.broken("no JSON")
            continue
        yield lines.row(found) if isinstance(found, dict) else lines.broken("no JSON object")


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", _KEPT)
