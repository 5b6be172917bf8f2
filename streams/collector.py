"""Python's garbage collector, calmed: it stops the process while it looks, and an alert waits behind every look.

Nearly everything here dies by reference count; what the collector is for is the odd cycle. But it looks whenever more objects are
alive than a while ago, which in a batch of five hundred sets of vitals they always are: with the default thresholds it took more
time than decoding, scoring and encoding together, and stood still for a hundred milliseconds when it looked at a whole ward's
state. So it looks when little is in flight, at what is young and for a few milliseconds; at everything once in some minutes; and
never again at what was there when the process had started. The automatic look is left for when things get out of hand.
"""

import asyncio
import gc
import time
from typing import Final

_OUT_OF_HAND: Final = 200_000  # young objects: more than the batches in flight have
_FEW: Final = 10_000  # young objects: a look takes two or three milliseconds
_NEVER: Final = 1_000_000
_EVERY: Final = 0.1  # seconds
_FULL_EVERY: Final = 300.0  # seconds


class Collector:
    """Calms the collector of this process; `run` looks instead of it."""

    def __init__(self) -> None:
        gc.set_threshold(_OUT_OF_HAND, _NEVER, _NEVER)
        self._full = time.monotonic() + 5.0  # by then models are loaded and everything is imported
        self._frozen = False

    async def run(self) -> None:
        """Look now and then, until cancelled."""
        while True:
            await asyncio.sleep(_EVERY)
            self.look()

    def look(self) -> None:
        """Collect what it is time for."""
        if time.monotonic() >= self._full:
            gc.collect()
            if not self._frozen:
                gc.freeze()
                self._frozen = True
            self._full = time.monotonic() + _FULL_EVERY
        elif gc.get_count()[0] < _FEW:
            # The middle too, so that it stays empty: what survives one look is old, and is not looked at again for minutes.
            gc.collect(1)
