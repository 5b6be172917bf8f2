"""What a receiver's answer means.

| HTTP                                                     | means        |
|----------------------------------------------------------|--------------|
| 200 to 299                                               | confirmed    |
| 408, 425, 429, 500 to 599; no answer, no connection      | try again; 429 and 503 with Retry-After (RFC 9110 10.2.3): then |
| all others (redirects too: alerts go nowhere else)       | refused      |

| HL7 v2 (table 0008) | means     |
|---------------------|-----------|
| AA, CA              | confirmed |
| AE, CE, no answer   | try again |
| AR, CR              | refused   |
"""

from collections.abc import Mapping
from datetime import datetime
from email.utils import parsedate_to_datetime
from typing import Final

from connectors.deliver.errors import Refused, Unavailable

AGAIN: Final = frozenset({408, 425, 429})
CONFIRMED: Final = frozenset({"AA", "CA"})
REFUSED: Final = frozenset({"AR", "CR"})


def judge_http(status: int, headers: Mapping[str, str], now: datetime) -> None:
    """Return when the receiver confirmed. Raises `Unavailable` or `Refused`."""
    if 200 <= status <= 299:
        return
    if status in AGAIN or status >= 500:
        wait = retry_after(headers.get("retry-after", ""), now) if status in (429, 503) else None
        raise Unavailable(f"HTTP {status}", retry_after=wait)
    raise Refused(f"HTTP {status}", hint=_HINTS.get(status))


_HINTS: Final = {
    400: "the receiver does not understand what Vigil sends: see infra/schemas",
    401: "is the secret or the token the receiver's?",
    403: "the receiver knows us and does not let us",
    404: "is the URL right?",
    410: "the receiver says that it is gone for good",
    422: "the receiver does not accept the content",
}


def retry_after(text: str, now: datetime) -> float | None:
    """Read Retry-After, seconds or a date; None for anything else."""
    text = text.strip()
    if text.isascii() and text.isdigit() and len(text) < 10:
        return float(text)
    try:
        when = parsedate_to_datetime(text)
    except ValueError:
        return None
    return max(0.0, (when - now).total_seconds()) if when.tzinfo else None


def judge_hl7(code: str) -> None:
    """Return when the receiver confirmed. Raises `Unavailable` or `Refused`."""
    if code in CONFIRMED:
        return
    if code in REFUSED:
        raise Refused(f"answered {code}")
    raise Unavailable(f"answered {code}" if code else "no answer")
