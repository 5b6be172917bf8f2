"""Logging: one line an event on stderr, written for whoever reads it at three in the morning; never patient text."""

import logging
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from models.batching import describe
from models.errors import VigilError

_FORMAT = "%(asctime)s.%(msecs)03d %(levelname)-8s {name} %(message)s"


_LONGEST_PAUSE = 3600.0  # seconds


@dataclass(slots=True)
class _Heard:
    written: float  # when one was let through
    latest: float  # when the last came, let through or not
    pause: float  # seconds from `written` on in which none is
    kept: int = 0


class Limit(logging.Filter):
    """Lets one line of each (logger, message pattern) through, then ever fewer of them, and says how many it kept back.

    While a broker is down aiokafka writes about 80 lines a second, which would bury the one line that matters. The first pause is
    `seconds`, each one after it twice as long, an hour at most: what a third party repeats for ever is no news. A line that was
    not heard for a whole pause is news again.
    """

    def __init__(self, seconds: float = 5.0, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._seconds = seconds
        self._clock = clock
        self._last: dict[tuple[str, str], _Heard] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Say whether this line goes out."""
        key = (record.name, str(record.msg))
        now = self._clock()
        heard = self._last.get(key)
        if heard is None:
            self._last[key] = _Heard(now, now, self._seconds)
            return True
        quiet, heard.latest = now - heard.latest, now
        if now - heard.written < heard.pause:
            heard.kept += 1
            return False
        if heard.kept:
            record.msg = f"{record.msg} (and {heard.kept} more like it)"
        heard.pause = self._seconds if quiet >= heard.pause else min(2 * heard.pause, _LONGEST_PAUSE)
        heard.written, heard.kept = now, 0
        return True


class SafeFormatter(logging.Formatter):
    """Writes an exception as its kind and its frames, without its words: they may quote patient text.

    Vigil's own errors keep their words, which are written to be read, and need no frames.
    """

    def formatException(self, ei: Any) -> str:  # noqa: N802 - logging's name
        """Return the exception's lines."""
        _, error, trace = ei
        if isinstance(error, VigilError):
            return f"{type(error).__name__}: {error}"
        return "".join(traceback.format_tb(trace)) + describe(error) if error is not None else ""


def setup_logging(name: str, level: int = logging.INFO) -> None:
    """Log `vigil` at `level` and third parties from WARNING on, rate-limited."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(SafeFormatter(_FORMAT.format(name=name), "%H:%M:%S"))
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger("vigil").setLevel(level)
    quiet = logging.StreamHandler(sys.stderr)
    quiet.setFormatter(handler.formatter)
    quiet.addFilter(Limit())
    for noisy in ("aiokafka", "kafka", "faust", "mode", "httpx", "asyncio"):
        logger = logging.getLogger(noisy)
        logger.handlers = [quiet]
        logger.propagate = False
        logger.setLevel(logging.WARNING)
    # A crash is said once, by the engine; mode says it three times, with a traceback whose words may quote patient text.
    for crash in ("mode", "streams"):
        logging.getLogger(crash).setLevel(logging.CRITICAL + 1)
    # Said on every rebalance and of no use to a reader: the intake says how many partitions it got.
    logging.getLogger("aiokafka.consumer.group_coordinator").setLevel(logging.ERROR)
