"""FHIR dates and times (https://hl7.org/fhir/R4/datatypes.html#dateTime) to instants."""

from datetime import UTC, date, datetime, time
from zoneinfo import ZoneInfo


def moment(value: object, zone: ZoneInfo) -> tuple[datetime, bool] | None:
    """Return the instant (UTC) of a date, dateTime or instant, and whether it has a time of day; None for what is no such thing.

    A time of day carries its own offset. A date alone is the start of that day in the peer's `zone`; a year or month likewise.
    """
    if not isinstance(value, str):
        return None
    text = value.strip()
    try:
        if "T" in text:
            found = datetime.fromisoformat(_without_leap_second(text))
            return (found if found.tzinfo else found.replace(tzinfo=zone)).astimezone(UTC), True
        parts = [int(part) for part in text.split("-")] + [1, 1]
        return datetime.combine(date(*parts[:3]), time(), tzinfo=zone).astimezone(UTC), False
    except (ValueError, OverflowError, TypeError):
        return None


def _without_leap_second(text: str) -> str:
    return text[:17] + "59" + text[19:] if text[17:19] == "60" else text
