"""How commands print rows: a table for people, a line of JSON each for programs."""

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

if TYPE_CHECKING:
    from processors.events import Location


def print_table(table: Table) -> None:
    """Print a table; where nobody looks, so wide that a row stays a line for grep, with the longest message too."""
    console = Console()
    if not console.is_terminal:
        console.width = 400
    console.print(table)


def printable(text: str, keep: str = "") -> str:
    """Write what would steer the terminal, but for `keep`, as escapes: senders and producers name wards, texts, keys."""
    return "".join(c if c in keep or c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def cell(value: object) -> str:
    """Return what stands in a table's cell: no markup, nothing that steers the terminal."""
    return escape(printable(str(value)))


def as_json(rows: Iterable[Mapping[str, Any]]) -> None:
    """Print a JSON object per row."""
    import orjson

    for row in rows:
        print(orjson.dumps(row).decode())


def place_of(location: "Location") -> str:
    """Return ward, room and bed in one line, as far as they are known."""
    return " ".join(filter(None, (location.ward, location.room, location.bed)))
