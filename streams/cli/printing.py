"""How commands print rows: a table for people, a line of JSON each for programs."""

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from processors.events import Location


def print_table(table: Table) -> None:
    """Print a table; where nobody looks, so wide that a row stays a line for grep, with the longest message too."""
    console = Console()
    if not console.is_terminal:
        console.width = 400
    console.print(table)


def as_json(rows: Iterable[Mapping[str, Any]]) -> None:
    """Print a JSON object per row."""
    import orjson

    for row in rows:
        print(orjson.dumps(row).decode())


def place_of(location: "Location") -> str:
    """Return ward, room and bed in one line, as far as they are known."""
    return " ".join(filter(None, (location.ward, location.room, location.bed)))
