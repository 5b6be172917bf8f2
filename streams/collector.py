"""Python's garbage collector, calmed: it stops the process while it looks, and an alert waits behind every look.

Nearly everything here dies by reference count; what the collector is for is the odd cycle. With the default thresholds it looks at
all that lives whenever that has grown by a quarter (a hundred milliseconds for the state of a ward), and at young objects thousands
of times a second. So: short looks at what is young, none at what is old but one every few minutes, and what was there once the
process had started is never looked at again.
"""

import gc
import time

_YOUNG = 5_000  # objects: a look takes a few milliseconds
_MIDDLE = 5  # young looks per look at those that survived one
_NEVER = 1_000_000
_FULL_EVERY = 300.0  # seconds


class Collector:
    """Calms the collector of this process; call `look` every second or so."""

    def __init__(self) -> None:
        gc.set_threshold(_YOUNG, _MIDDLE, _NEVER)
        self._next = time.monotonic() + 5.0  # by then models are loaded and everything is imported
        self._frozen = False

    def look(self) -> None:
        """Collect everything, if it is time."""
        if time.monotonic() < self._next:
            return
        gc.collect()
        if not self._frozen:
            gc.freeze()
            self._frozen = True
        self._next = time.monotonic() + _FULL_EVERY
