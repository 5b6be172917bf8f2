"""A challenger in shadow: asked what the champion was asked, after the champion has answered; compared, counted, written aside.

    lane --offer (never waits)--> [bounded queue] --> challenger, on a thread of its own behind the others --> judged
                 | full: dropped, counted                                                                       |
                                                                            metrics, and `clinical.shadow` <----+

Nothing of it is part of the promise about data: an input whose comparison was dropped, failed, or was lost in a crash is not asked
again, and no offset waits for it. It has a queue, a thread and (`report`) a producer of its own, so that what goes wrong here goes
wrong here alone: every error ends in a count and, once for each kind, in a log line.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, Generic, Protocol, TypeVar

from models.batching import MicroBatcher, describe
from models.errors import VigilError
from models.tasks import ModelIdentity
from processors.events import ModelRef, ShadowEvent, Source
from processors.identity import natural_id
from streams.inference import batcher
from streams.metrics import LaneMetrics
from streams.priority import step_back
from streams.settings import ModelSettings
from streams.team import Loaded, Team

M = TypeVar("M")

log = logging.getLogger("vigil.trial")

STAGE: Final = "shadow"
_NOTICEABLE: Final = 1e-3  # below it two answers are the same: float arithmetic differs between runtimes


@dataclass(frozen=True, slots=True)
class Verdict:
    """How far apart two answers are (0 to 1, None: not to be compared), and what of the challenger's is written down."""

    disagreement: float | None
    said: dict[str, Any]  # fields of `ShadowEvent`: entities, findings


class Subject(Protocol):
    """An input as a lane has it."""

    @property
    def event(self) -> Any:
        """What was asked about."""
        ...

    @property
    def source(self) -> Source:
        """Where it stood."""
        ...


Judge = Callable[[Any, Loaded[Any], Any, Loaded[Any], Any], Verdict]
"""(input, champion, its answer, challenger, its answer) -> verdict. Called on a thread; pure."""


@dataclass(frozen=True, slots=True, eq=False)
class _Asked(Generic[M]):
    one: Subject
    item: Any
    size: int
    champion: Loaded[M]
    answer: Any
    challenger: Loaded[M]


class Shadow(Generic[M]):
    """The queue and the worker of a task's shadow; the worker starts with the first offer."""

    def __init__(
        self,
        settings: ModelSettings,
        metrics: LaneMetrics,
        task: str,
        run: Callable[[M], Callable[[Sequence[Any]], Sequence[Any]]],
        judge: Judge,
        *,
        size: Callable[[Any], int] = len,
    ) -> None:
        """`run` makes a model's batch function; `size` gives an item's bytes."""
        self.report: Callable[[Sequence[ShadowEvent]], Awaitable[None]] | None = None
        self.clock: Callable[[], datetime] = lambda: datetime.now(UTC)
        self._settings = settings
        self._metrics = metrics
        self._task = task
        self._run = run
        self._judge = judge
        self._size = size
        self._waiting: deque[_Asked[M]] = deque()
        self._bytes = 0
        self._arrived = asyncio.Event()
        self._worker: asyncio.Task[None] | None = None
        self._open: tuple[Loaded[M], MicroBatcher[Any, Any]] | None = None
        self._told: set[str] = set()

    def offer(self, team: Team[M], asked: Iterable[tuple[Subject, Any, Any]]) -> None:
        """Queue (input, item, champion's answer) for the challenger in shadow; they are not looked at if there is none."""
        if team.challenger is None:
            return
        for one, item, answer in asked:
            challenger = team.beside(one.event.patient_id)
            if challenger is None or isinstance(answer, Exception):
                continue
            size = self._size(item)
            room = len(self._waiting) < self._settings.shadow_queue and self._bytes + size <= self._settings.shadow_bytes
            if not room:
                self._metrics.shadowed(self._task, "dropped")
                continue
            self._waiting.append(_Asked(one, item, size, team.champion, answer, challenger))
            self._bytes += size
        if self._waiting and self._worker is None:
            self._worker = asyncio.create_task(self._work(), name=f"shadow {self._task}")
        if self._waiting:
            self._arrived.set()

    async def stop(self) -> None:
        """End the worker; what waits is dropped."""
        if self._worker is not None:
            self._worker.cancel()
            await asyncio.gather(self._worker, return_exceptions=True)
        await self._let_go()

    # ------------------------------------------------------------------------------------------------- the worker

    async def _work(self) -> None:
        while True:
            await self._arrived.wait()
            batch = self._take()
            if not batch:
                self._arrived.clear()
                continue
            try:
                await self._compare(batch)
            except Exception as error:  # the champion must never hear of it
                self._metrics.shadowed(self._task, "failed", len(batch))
                self._tell(error)

    def _take(self) -> list[_Asked[M]]:
        """Take the next few inputs of one challenger; those of one that was withdrawn meanwhile are dropped."""
        batch: list[_Asked[M]] = []
        while self._waiting and len(batch) < self._settings.largest_batch:
            if batch and self._waiting[0].challenger is not batch[0].challenger:
                break
            first = self._waiting.popleft()
            self._bytes -= first.size
            if first.challenger.retired:
                self._metrics.shadowed(self._task, "dropped")
            else:
                batch.append(first)
        return batch

    async def _compare(self, batch: Sequence[_Asked[M]]) -> None:
        answers = await (await self._batcher(batch[0].challenger)).map([asked.item for asked in batch])
        events = await asyncio.to_thread(lambda: [self._event(*pair) for pair in zip(batch, answers, strict=True)])
        for event in events:
            self._count(event)
        if self.report is not None:
            try:
                await self.report(events)
            except Exception as error:
                self._metrics.shadow_unwritten(self._task, len(events))
                self._tell(error)

    def _event(self, asked: _Asked[M], answer: Any) -> ShadowEvent:
        verdict, failure = Verdict(None, {}), answer if isinstance(answer, Exception) else None
        if failure is None:
            try:
                verdict = self._judge(asked.one, asked.champion, asked.answer, asked.challenger, answer)
            except Exception as error:  # an answer outside the text, of another shape, ...
                failure = error
        if failure is not None:
            self._tell(failure)
        champion, challenger = asked.champion.identity, asked.challenger.identity
        return ShadowEvent(
            id=natural_id(asked.one.event.id, STAGE, self._task, champion.digest, challenger.digest),
            patient_id=asked.one.event.patient_id,
            source=asked.one.source,
            task=self._task,
            champion=_ref(champion),
            challenger=_ref(challenger),
            disagreement=verdict.disagreement,
            error=type(failure).__name__ if failure is not None else "",
            compared_at=self.clock(),
            **verdict.said,
        )

    def _count(self, event: ShadowEvent) -> None:
        if event.error:
            self._metrics.shadowed(self._task, "failed")
        elif event.disagreement is None:
            self._metrics.shadowed(self._task, "incomparable")
        else:
            self._metrics.shadowed(self._task, "agreed" if event.disagreement < _NOTICEABLE else "differed")
            self._metrics.disagreed(self._task, event.disagreement)

    async def _batcher(self, challenger: Loaded[M]) -> MicroBatcher[Any, Any]:
        if self._open is None or self._open[0] is not challenger:
            await self._let_go()
            made = batcher(
                self._run(challenger.model),
                name=f"{self._task}-{STAGE}",
                settings=self._settings,
                metrics=self._metrics,
                start=step_back,
            )
            self._open = (challenger, made)
            self._told.clear()
        return self._open[1]

    async def _let_go(self) -> None:
        if self._open is not None:
            old, self._open = self._open, None
            await old[1].stop()

    def _tell(self, error: Exception) -> None:
        said = str(error) if isinstance(error, VigilError) else describe(error)
        if type(error).__name__ not in self._told:  # once for each kind, and not for every note
            self._told.add(type(error).__name__)
            log.warning("%s: the challenger in shadow: %s; the champion is not touched by it", self._task, said)


def _ref(model: ModelIdentity) -> ModelRef:
    return ModelRef(name=model.name, version=model.version, digest=model.digest)
