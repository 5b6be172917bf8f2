"""Python's garbage collector, calmed: it stops the process while it looks, and an alert waits behind every look.

Nearly everything here dies by reference count; what the collector is for is the odd cycle. But it looks whenever more objects are
alive than a while ago, which in a batch of five hundred sets of vitals they always are: with the default thresholds it took more
time than decoding, scoring and encoding together, and stood still for a hundred milliseconds when it looked at a whole ward's
state. So it looks when little is in flight, at what is young and for a few milliseconds; at everything once in some minutes; and
never again at what was there when the process had started. The automatic look is left for when things get out of hand.
"""

import gc
import time
from typing import Final

_OUT_OF_HAND: Final = 200_000  # young objects: more than the batches in flight have
_FEW: Final = 20_000  # young objects: a look takes some milliseconds
_YOUNG_PER_MIDDLE: Final = 5
_NEVER: Final = 1_000_000
_FULL_EVERY: Final = 300.0  # seconds


class Collector:
    """Calms the collector of this process; call `look` twice a second or so."""

    def __init__(self) -> None:
        gc.set_threshold(_OUT_OF_HAND, _YOUNG_PER_MIDDLE, _NEVER)
        self._full = time.monotonic() + 5.0  # by then models are loaded and everything is imported
        self._frozen = False

    def look(self) -> None:
        """Collect what it is time for."""
        if time.monotonic() >= self._full:
            gc.collect()
            if not self._frozen:
                gc.freeze()
                self._frozen = True
            self._full = time.monotonic() + _FULL_EVERY
            return
        young, looks, _ = gc.get_count()
        if young < _FEW:
            gc.collect(1 if looks >= _YOUNG_PER_MIDDLE else 0)
