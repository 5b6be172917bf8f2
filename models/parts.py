"""How a long piece of work on another thread says that it goes on: after each part, so that nobody takes it for one that hangs."""

import contextlib
import threading
from collections.abc import Callable, Iterator

_thread = threading.local()


def part_done() -> None:
    """Tell whoever listens on this thread that a part of its work is done."""
    told: Callable[[], None] | None = getattr(_thread, "told", None)
    if told is not None:
        told()


@contextlib.contextmanager
def listening(told: Callable[[], None]) -> Iterator[None]:
    """Have this thread's parts told, as long as the block lasts."""
    before: Callable[[], None] | None = getattr(_thread, "told", None)
    _thread.told = told
    try:
        yield
    finally:
        _thread.told = before
