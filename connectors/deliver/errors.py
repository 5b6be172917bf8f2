"""What a receiver's answer asks of the courier.

Unavailable (Transient)   silence, a lost connection, 5xx, 429, AE: the same notice may be taken later     -> try again
Refused     (Permanent)   400, 401, 404, 410, 422, AR, CR: the same notice is refused again                -> pass over
"""

from models.errors import Permanent, Transient


class Unavailable(Transient):
    """The receiver did not confirm. `retry_after`: seconds that it asked us to wait, if it did."""

    def __init__(self, message: str, *, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class Refused(Permanent):
    """The receiver said that it will not take this notice."""
