"""Time zones in settings: an IANA name, checked when the settings are read and not when the first message comes."""

from zoneinfo import ZoneInfo


def known_zone(name: str) -> str:
    """Return the name. Raises `ValueError` for no zone; zoneinfo's own `KeyError` and `OSError` would pass through pydantic."""
    try:
        ZoneInfo(name)
    except (KeyError, ValueError, OSError):
        raise ValueError(f"no time zone of that name: {name!r}") from None
    return name
