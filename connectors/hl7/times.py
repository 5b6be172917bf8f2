"""HL7 timestamps (TS, DTM; chapter 2A) to instants.

Which zone a time without an offset is in: the peer's configured zone; else the offset of MSH-7, which the standard makes the
message's default; else UTC. The zone comes first because MSH-7's offset is that of the sending, and a result of last winter sent
in summer would be an hour off.

Daylight saving: a local time that occurred twice is read as the later one that is not after the message's own time (with five
minutes of tolerance for skewed clocks), because observations are sent after they are made and usually at once. A local time that
never occurred is read with the offset from before the jump. Both are flagged.
"""

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from functools import lru_cache
from typing import Final, Literal

Precision = Literal["year", "month", "day", "hour", "minute", "second"]

SKEW: Final = timedelta(minutes=5)
_DTM: Final = re.compile(
    r"(?P<year>\d{4})(?:(?P<month>\d\d)(?:(?P<day>\d\d)(?:(?P<hour>\d\d)(?:(?P<minute>\d\d)(?:(?P<second>\d\d)"
    r"(?:\.?(?P<fraction>\d{1,9}))?)?)?)?)?)?(?P<offset>[+-]\d\d:?\d\d|[Zz])?",
    re.ASCII,
)
_ISO: Final = re.compile(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d")  # not HL7, and sent all the same


@dataclass(frozen=True, slots=True)
class Stamp:
    """A timestamp as sent: local time, what is known of it, and the offset if there was one."""

    local: datetime  # naive
    precision: Precision
    offset: timezone | None


@lru_cache(maxsize=4096)
def parse_stamp(text: str) -> Stamp | None:
    """Read a timestamp; None for an empty one. Raises `ValueError` (without the value) when it is none."""
    text = text.strip()
    if not text:
        return None
    if _ISO.match(text):
        return _iso(text)
    found = _DTM.fullmatch(text)
    if not found:
        raise ValueError("not an HL7 timestamp")
    parts = {name: int(found[name]) for name in ("year", "month", "day", "hour", "minute", "second") if found[name]}
    precision: Precision = [*parts][-1]  # type: ignore[assignment]  # the keys are the literals, in order
    if found["fraction"]:
        parts["microsecond"] = int(found["fraction"][:6].ljust(6, "0"))
    midnight = parts.get("hour") == 24 and not any(parts.get(name) for name in ("minute", "second", "microsecond"))
    if midnight:  # ISO 8601's end of the day
        parts["hour"] = 0
    try:
        offset = _offset(found["offset"])
        year, month, day = parts["year"], parts.get("month", 1), parts.get("day", 1)
        hour, minute, second = (parts.get(name, 0) for name in ("hour", "minute", "second"))
        local = datetime(year, month, day, hour, minute, second, parts.get("microsecond", 0)) + timedelta(days=midnight)
        return Stamp(local, precision, offset)
    except (ValueError, OverflowError):
        raise ValueError("not a time of the calendar") from None


def resolve(stamp: Stamp, zone: tzinfo, sent: datetime) -> tuple[datetime, str]:
    """Return the instant (UTC) and a flag: "", "ambiguous" or "nonexistent". `sent` is when the message was sent (aware)."""
    if stamp.offset is not None:
        return _utc(stamp.local.replace(tzinfo=stamp.offset)), ""
    first, second = (_utc(stamp.local.replace(tzinfo=zone, fold=fold)) for fold in (0, 1))
    if first == second:
        return first, ""
    if first > second:  # a gap: fold 0 has the offset from before it, and lands after it
        return first, "nonexistent"
    return (second if second <= sent + SKEW else first), "ambiguous"


def _utc(moment: datetime) -> datetime:
    try:
        return moment.astimezone(UTC)
    except OverflowError:  # the first and last days of the calendar
        return moment.replace(tzinfo=UTC)


def _offset(text: str | None) -> timezone | None:
    if text is None:
        return None
    if text in ("Z", "z"):
        return timezone(timedelta(0))
    hours, minutes = int(text[1:3]), int(text[-2:])
    if hours > 14 or minutes > 59:
        raise ValueError
    sign = -1 if text[0] == "-" else 1
    return timezone(sign * timedelta(hours=hours, minutes=minutes))


def _iso(text: str) -> Stamp:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError("not an HL7 timestamp") from None
    offset = moment.utcoffset()
    return Stamp(
        moment.replace(tzinfo=None), "second" if text[16:17] == ":" else "minute", None if offset is None else timezone(offset)
    )
