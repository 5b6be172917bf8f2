"""Settings, rules and models' entries as names and values, all text; and in which of them two differ."""

from collections.abc import Iterator, Mapping
from typing import Any, Final

import orjson

_LONG: Final = 60  # characters of a value that are told in words


def lines(name: str, value: Any) -> Iterator[tuple[str, str]]:
    """Yield what a JSON value holds: tables line by line (`monitor.silence.high`), a text as it is, all else as JSON."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from lines(f"{name}.{key}" if name else key, inner)
    else:
        yield name, value if isinstance(value, str) else orjson.dumps(value).decode()


def differences(before: Mapping[str, str], after: Mapping[str, str]) -> list[tuple[str, str | None, str | None]]:
    """Return (name, before, after) of each that differs, in the order of their names; None: it is not there."""
    names = sorted({**before, **after})
    return [(one, before.get(one), after.get(one)) for one in names if before.get(one) != after.get(one)]


def short(value: str | None) -> str:
    """Say a value in words that stand in a line."""
    return "none" if value is None else value if len(value) <= _LONG else f"{value[:_LONG]}..."
