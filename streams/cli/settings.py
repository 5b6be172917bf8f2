"""`vigil settings`: every setting with its value, its default and the reason for it."""

from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from streams.settings import load

_PIPED = 400


def rows(model: BaseModel, prefix: str = "") -> Iterator[tuple[str, Any, str]]:
    """Yield name, value and reason of every setting; secrets stay hidden."""
    for name, field in type(model).model_fields.items():
        value = getattr(model, name)
        if isinstance(value, BaseModel):
            yield from rows(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value, field.description or ""


def show() -> None:
    """Print every setting: its name in the TOML file, its value now, and the reason for its default."""
    table = Table("setting", "value", "why", show_lines=False)
    for name, value, why in rows(load()):
        table.add_row(name, escape(str(value)), escape(why))
    console = Console()
    if not console.is_terminal:
        console.width = _PIPED  # for grep: a row stays a line
    console.print(table)
