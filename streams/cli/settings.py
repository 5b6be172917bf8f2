"""`vigil settings`: every setting with its value, its default and the reason for it."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from pydantic import BaseModel, SecretStr
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from processors import durations
from streams.settings import load

_PIPED = 500


@dataclass(frozen=True, slots=True)
class Row:
    """One setting: its name in the TOML file, its value and default as they are written there, and why there is one."""

    name: str
    value: str
    default: str
    why: str


def rows(settings: BaseModel, defaults: BaseModel | None = None, prefix: str = "") -> Iterator[Row]:
    """Yield every setting; secrets stay hidden. `defaults` is the same section without anybody's choices."""
    for name, field in type(settings).model_fields.items():
        value = getattr(settings, name)
        default = getattr(defaults, name) if defaults is not None else field.get_default(call_default_factory=True)
        if isinstance(value, BaseModel):
            yield from rows(value, default if isinstance(default, BaseModel) else None, f"{prefix}{name}.")
        else:
            yield Row(prefix + name, written(value), written(default), field.description or "")


def written(value: Any) -> str:
    """Return a value as a variable of the environment takes it; nothing for what is not set."""
    plain = _plain(value)
    return "" if plain is None else plain if isinstance(plain, str) else json.dumps(plain, ensure_ascii=False)


def _plain(value: Any) -> Any:
    match value:
        case timedelta():
            return durations.written(value)
        case SecretStr():
            return str(value)
        case BaseModel():
            return {name: _plain(getattr(value, name)) for name in type(value).model_fields}
        case dict():
            return {str(key): _plain(one) for key, one in value.items()}
        case set() | frozenset():
            return sorted(map(_plain, value))
        case list() | tuple():
            return [_plain(one) for one in value]
        case None | bool() | int() | float() | str():
            return value
    return str(value)  # a path, an address


def show() -> None:
    """Print every setting: its name in the TOML file, its value now, its default where that is another, and the reason."""
    table = Table("setting", "value", "default, if another", "why", show_lines=False)
    for row in rows(load()):
        changed = row.value != row.default
        name, value = (escape(one) for one in (row.name, row.value))
        table.add_row(f"[bold]{name}[/]" if changed else name, value, escape(row.default) if changed else "", escape(row.why))
    console = Console()
    if not console.is_terminal:
        console.width = _PIPED  # for grep: a row stays a line
    console.print(table)
