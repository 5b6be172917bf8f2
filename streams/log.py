"""Logging: one line an event on stderr, written for whoever reads it at three in the morning; never patient text."""

import logging
import sys
import time
import traceback
from typing import Any

from models.batching import describe
from models.errors import VigilError

_FORMAT = "%(asctime)s.%(msecs)03d %(levelname)-8s {name} %(message)s"


class Limit(logging.Filter):
    """Lets one line a second of each (logger, message pattern) through, and says how many it kept back.

    While a broker is down aiokafka writes about 80 lines a second, which would bury the one line that matters.
    """

    def __init__(self, seconds: float = 5.0) -> None:
        super().__init__()
        self._seconds = seconds
        self._last: dict[tuple[str, str], tuple[float, int]] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Say whether this line goes out."""
        key = (record.name, str(record.msg))
        now = time.monotonic()
        last, kept = self._last.get(key, (0.0, 0))
        if now - last < self._seconds:
            self._last[key] = (last, kept + 1)
            return False
        self._last[key] = (now, 0)
        if kept:
            record.msg = f"{record.msg} (and {kept} more like it)"
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
