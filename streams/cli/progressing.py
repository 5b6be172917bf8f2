"""How far a command is that takes long, on the standard error output: a bar on a terminal, else a few plain lines."""

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from typing import Final, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

APART: Final = 10.0  # seconds between two lines, at least: a job's log is read, and kept


class Bar:
    """A bar of one task. Use as a context manager.

    Without a terminal what the command does, or why it waits, is said in a line when it changes; that it does at first what it was
    asked for is not worth one. What changed and changed back within `APART` seconds of a line is not said.
    """

    def __init__(
        self,
        doing: str,
        total: int | None,
        done: int = 0,
        *,
        console: Console | None = None,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        self._console = console or Console(stderr=True)
        self._bar = Progress(*columns, console=self._console, transient=True, disable=not self._console.is_terminal)
        self._task = self._bar.add_task(doing, total=total, completed=done)
        self._doing, self._total, self._done = doing, total, done
        self._said, self._at, self._now = doing, -APART, now

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def update(self, *, doing: str = "", done: int | None = None, total: int | None = None) -> None:
        """Say what is done now, how much of it, of how much; what is not given stays."""
        self._doing, self._total = doing or self._doing, self._total if total is None else total or None
        self._done = self._done if done is None else done
        self._bar.update(self._task, description=self._doing, completed=self._done, total=self._total)
        if not self._console.is_terminal and self._doing != self._said and self._now() - self._at >= APART:
            self._said, self._at = self._doing, self._now()
            of = f" of {self._total:,}" if self._total else ""
            print(f"{self._doing} ({self._done:,}{of} done)", file=sys.stderr, flush=True)

    @contextlib.contextmanager
    def away(self) -> Iterator[None]:
        """Let somebody be asked within the block."""
        self._bar.stop()
        try:
            yield
        finally:
            self._bar.start()
