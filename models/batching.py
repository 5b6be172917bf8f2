"""One micro-batcher per model: gathers what waits, from all callers, into batches of like size, and runs them off the event loop.

    callers --map()--> [bounded waiting room] --like with like--> one executor thread --> futures

Bounded everywhere: at most `queue` items wait, then callers wait; at most `largest` items run at once. An item that fails alone
fails alone: a batch that raises is run again item by item, so one poisonous text does not take its neighbours along; one that found
no memory is run again in halves. A run that nobody waits for any more is given up after the part (`models.parts`) that it is at.
"""

import asyncio
import contextlib
import itertools
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from models.errors import Fatal, Poison, Transient, VigilError
from models.parts import listening

I = TypeVar("I")  # noqa: E741 - item in
O = TypeVar("O")  # noqa: E741 - result out

log = logging.getLogger("vigil.batching")

MOVED: ContextVar[Callable[[], None] | None] = ContextVar("moved", default=None)
"""Whom a task that waits for a model wants to be told of each run and each part of one: this is waiting, not hanging."""


class _GivenUp(Exception):
    """Nobody waits for what the run would give."""


_TOLD_EVERY = 0.25  # seconds at least between two parts that are told: a part may take milliseconds


@dataclass(slots=True, eq=False)
class _Waiting(Generic[I, O]):
    item: I
    cost: int
    priority: int
    order: int
    done: "asyncio.Future[O]" = field(repr=False)


class MicroBatcher(Generic[I, O]):
    """Runs `run(items) -> results` (same length, same order) on a thread of its own.

    `largest`: items of one run. `longest_delay`: seconds the first item waits for company. `queue`: items that may wait. `cost`
    gives an item's size (tokens): a batch is made of like sizes, since short items in a batch with a long one pay its padding.
    `observe(items, seconds)` is told of each run, for the metrics. `start` is called in the thread before its first run.
    """

    def __init__(
        self,
        run: Callable[[Sequence[I]], Sequence[O]],
        *,
        name: str,
        largest: int = 16,
        longest_delay: float = 0.002,
        queue: int = 1024,
        cost: Callable[[I], int] | None = None,
        observe: Callable[[int, float], None] | None = None,
        start: Callable[[], None] | None = None,
    ) -> None:
        self.name = name
        self._run = run
        self._largest = largest
        self._delay = longest_delay
        self._queue = queue
        self._cost = cost
        self._observe = observe
        self._waiting: list[_Waiting[I, O]] = []
        self._orders = itertools.count()
        self._arrived = asyncio.Event()
        self._room = asyncio.Condition()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=f"model-{name}", initializer=start)
        self._task: asyncio.Task[None] | None = None
        self._watchers: list[Callable[[], None]] = []
        self._told = 0.0

    @contextlib.contextmanager
    def watched(self) -> Iterator[None]:
        """Tell the task's `MOVED` of all that the model gets done, whose turn it may be: nobody is served out of order for long."""
        moved = MOVED.get()
        if moved is None:
            yield
            return
        self._watchers.append(moved)
        try:
            yield
        finally:
            self._watchers.remove(moved)

    def _moved(self) -> None:
        for moved in self._watchers:
            moved()

    @property
    def waiting(self) -> int:
        """How many items wait now."""
        return len(self._waiting)

    async def map(self, items: Sequence[I], *, deadline: float | None = None, priority: int = 0) -> list[O | VigilError]:
        """Return, for each item, its result or the error that it alone led to (`Poison`, `Transient`).

        `deadline`: seconds for all of them; an item that is not done by then gets `Transient` and is not run if it has not
        begun. Lower `priority` goes first. `Fatal` is raised, not returned.
        """
        if self._task is None:
            self._task = asyncio.create_task(self._loop(), name=f"batcher {self.name}")
        entries: list[_Waiting[I, O]] = []
        loop = asyncio.get_running_loop()
        until = None if deadline is None else loop.time() + deadline
        try:
            for item in items:
                await self._wait_for_room(until)
                cost = self._cost(item) if self._cost else 0
                entry = _Waiting[I, O](item, cost, priority, next(self._orders), loop.create_future())
                self._waiting.append(entry)
                entries.append(entry)
                self._arrived.set()
            left = None if until is None else max(0.0, until - loop.time())
            if entries:
                await asyncio.wait([entry.done for entry in entries], timeout=left)
        except TimeoutError:
            pass
        finally:
            self._abandon(entries)
        results: list[O | VigilError] = [_outcome(entry.done, self.name) for entry in entries]
        for result in results:
            if isinstance(result, Fatal):
                raise result
        return results + [_late(self.name)] * (len(items) - len(results))

    async def _wait_for_room(self, until: float | None) -> None:
        if len(self._waiting) < self._queue:
            return
        async with asyncio.timeout_at(until), self._room:
            await self._room.wait_for(lambda: len(self._waiting) < self._queue)

    def _abandon(self, entries: Sequence[_Waiting[I, O]]) -> None:
        late = {id(entry) for entry in entries if not entry.done.done()}
        if late:
            self._waiting = [entry for entry in self._waiting if id(entry) not in late]
            for entry in entries:
                entry.done.cancel()

    async def _loop(self) -> None:
        while True:
            await self._arrived.wait()
            if len(self._waiting) < self._largest and self._delay:
                await asyncio.sleep(self._delay)
            batch = self._take()
            if not self._waiting:
                self._arrived.clear()
            async with self._room:
                self._room.notify_all()
            if batch:
                await self._work(batch)

    def _take(self) -> list[_Waiting[I, O]]:
        if not self._waiting:
            return []
        # The one that waited longest is always in, so that nothing starves; the others are those nearest to it in size.
        first = min(self._waiting, key=lambda w: (w.priority, w.order))
        alike = sorted(self._waiting, key=lambda w: (w is not first, w.priority, abs(w.cost - first.cost), w.order))
        batch = alike[: self._largest]
        chosen = {id(entry) for entry in batch}
        self._waiting = [entry for entry in self._waiting if id(entry) not in chosen]
        return batch

    async def _work(self, batch: Sequence[_Waiting[I, O]]) -> None:
        batch = [entry for entry in batch if not entry.done.done()]  # whose caller still waits
        if not batch:
            return
        loop = asyncio.get_running_loop()
        try:
            results = await loop.run_in_executor(self._thread, self._timed, loop, batch)
        except _GivenUp:
            return
        except Exception as error:
            self._moved()
            if len(batch) == 1 or isinstance(error, Fatal):
                for entry in batch:
                    _fail(entry.done, error, self.name)
                return
            if isinstance(error, Transient):  # no memory for all of them at once: there may be for half
                half = len(batch) // 2
                log.warning("model %s: a run of %d items failed (%s); in two halves", self.name, len(batch), error)
                await self._work(batch[:half])
                await self._work(batch[half:])
                return
            for entry in batch:  # one of them spoilt it for all: find out which
                await self._work([entry])
            return
        self._moved()
        for entry, result in zip(batch, results, strict=True):
            if not entry.done.done():
                entry.done.set_result(result)

    def _timed(self, loop: asyncio.AbstractEventLoop, batch: Sequence[_Waiting[I, O]]) -> Sequence[O]:
        def told() -> None:
            if all(entry.done.done() for entry in batch):  # their callers were cancelled: a stop, a rebalance, a deadline
                raise _GivenUp
            if time.perf_counter() - self._told >= _TOLD_EVERY:
                self._told = time.perf_counter()
                with contextlib.suppress(RuntimeError):  # the loop has ended
                    loop.call_soon_threadsafe(self._moved)

        items, begun = [entry.item for entry in batch], time.perf_counter()
        with listening(told):
            results = self._run(items)
        if len(results) != len(items):
            raise Fatal(f"model {self.name}: {len(results)} results for {len(items)} items")
        if self._observe:
            self._observe(len(items), time.perf_counter() - begun)
        return results

    async def stop(self) -> None:
        """End the thread after the run in progress, or the part of it where nobody waits for it; items that wait are cancelled."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        for entry in self._waiting:
            entry.done.cancel()
        self._waiting = []
        self._thread.shutdown(wait=False, cancel_futures=True)


def _fail(done: "asyncio.Future[O]", error: Exception, name: str) -> None:
    if done.done():
        return
    if not isinstance(error, VigilError):
        # Its words may quote the input: only its kind and place are passed on.
        error = Poison(f"model {name} failed: {describe(error)}", stage="model")
    done.set_exception(error)


def _outcome(done: "asyncio.Future[Any]", name: str) -> Any:
    if done.cancelled() or not done.done():
        return _late(name)
    error = done.exception()
    return done.result() if error is None else error


def _late(name: str) -> Transient:
    return Transient(f"model {name} was late")


def describe(error: BaseException) -> str:
    """Say what an unforeseen exception was and where it was raised, without its words: they may quote patient text."""
    place, trace = "", error.__traceback__
    while trace is not None:
        code = trace.tb_frame.f_code
        place = f" at {'/'.join(code.co_filename.split('/')[-2:])}:{trace.tb_lineno}"
        trace = trace.tb_next
    return type(error).__name__ + place
