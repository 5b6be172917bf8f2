"""How a duration is written in a setting, the same everywhere: `30` (seconds), `250ms`, `30s`, `30m`, `1h`, `2d`, ISO 8601.

A setting is a number of seconds (`Seconds`, `WholeSeconds`) or a `timedelta` (`Duration`); neither is ever negative or endless.
"""

import re
from datetime import timedelta
from typing import Annotated, Final

from pydantic import AfterValidator, BeforeValidator, Field, TypeAdapter, ValidationError

_UNITS: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86_400.0}
_NUMBER: Final = re.compile(r"-?\d+(?:\.\d+)?(?:e-?\d+)?", re.IGNORECASE)
_PART: Final = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|min|m|h|d)\s*")
_ISO: Final = TypeAdapter(timedelta)
LONGEST: Final = timedelta(days=3653)
"""Ten years: what is longer is meant to be endless, and overflows where it is added to a time."""


def seconds(value: object) -> object:
    """Return a duration in seconds; what is neither text nor a timedelta as it is. Raises `ValueError` for other text."""
    if isinstance(value, timedelta):
        return value.total_seconds()
    if not isinstance(value, str):
        return value
    text = value.strip()
    if _NUMBER.fullmatch(text):
        return float(text)
    if text and not _PART.sub("", text):
        return sum(float(number) * _UNITS[unit] for number, unit in _PART.findall(text))
    try:
        return _ISO.validate_python(text).total_seconds()
    except ValidationError:
        raise ValueError("is no duration: write 30 or 30s, 30m, 1h, 2d, or ISO 8601 (PT30M)") from None


def written(value: timedelta) -> str:
    """Return a duration as a setting may have it: `1h30m`, `250ms`."""
    left, parts = round(value / timedelta(milliseconds=1)), []
    for unit in ("d", "h", "m", "s", "ms"):
        count, left = divmod(left, round(_UNITS[unit] * 1000))
        parts += [f"{count}{unit}"] if count else []
    return "".join(parts) or "0s"


def bounded(value: timedelta) -> timedelta:
    """Return a duration that is neither negative nor endless; raises `ValueError` for another."""
    if not timedelta() <= value <= LONGEST:
        raise ValueError(f"must be from 0 to {LONGEST.days} days")
    return value


Seconds = Annotated[float, BeforeValidator(seconds), Field(ge=0, le=LONGEST.total_seconds(), allow_inf_nan=False)]
WholeSeconds = Annotated[int, BeforeValidator(seconds), Field(ge=0, le=int(LONGEST.total_seconds()))]
Duration = Annotated[timedelta, BeforeValidator(seconds), AfterValidator(bounded)]
