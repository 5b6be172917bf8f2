"""Who serves a task in a running lane: the registry's champion, changed live, between batches.

    registry file --every models.watch_seconds--> another champion named --off the loop--> verified, loaded
                                                                                              |
    batch n   [ old champion ................ ] settled                                    audited, then
    batch n+1                                   [ new champion ...                         switched

A batch takes the models as they are when its inference begins (`batch`) and keeps them to the end of it, so a note is the work of
one model, whole, and its output carries that model's digest. The old model is let go once its last batch has finished. A model that
cannot be opened (digest, format, memory, other vectors than the store holds) is refused: a log line, a metric, and the old one
serves on. It is tried again when the file changes, and every minute: a folder may still be on its way.

A challenger that answers for patients and fails as no single input explains (other vectors than it said, no memory) is left out at
once, and its patients' batch is tried again with the champion: until its entry changes, or the lane starts anew. Where it fails at
an input (NaN), the champion is asked, and what he says stands; at the third that he can do it is left out likewise.
"""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any, Final, Generic, TypeVar

from models.batching import describe
from models.drift import Figures, Reference
from models.errors import Fatal, Permanent, Poison, Transient, VigilError
from models.mirror import fetched
from models.registry import ModelEntry, Registry
from models.tasks import ModelIdentity
from streams.caching import PredictionCache, key_of_model
from streams.differing import differences, lines, short
from streams.drifting import Remark, observe, watch
from streams.inference import batcher
from streams.metrics import LaneMetrics
from streams.settings import ModelSettings
from streams.team import CHALLENGER, CHAMPION, Loaded, Team, let_go
from streams.trial import Judge, Shadow, Subject

M = TypeVar("M")
S = TypeVar("S", bound=Subject)

log = logging.getLogger("vigil.serving")

AGAIN: Final = 60.0  # seconds until a refused model is tried again without any change of the registry file

FAILURES: Final = 3  # inputs at which a challenger fails and the champion does not, until it is left out

Announce = Callable[[str, ModelIdentity, str], Awaitable[None]]
"""Told of a switch before it takes place: the task, who serves it from now on, who served before, in words."""


class Serving(Generic[M]):
    """Holds a task's models open for a lane. `open` may be called again; `close` ends the threads.

    `run` makes a model's batch function, `cost` its measure of an item. `admit` is asked before a model serves: it makes ready what
    the model's outputs need, and raises where that cannot be. `judge` compares a challenger's answer with the champion's (`size`
    gives an item's bytes); without it the task knows no shadow. `figures` of items and answers are watched for drift.
    """

    def __init__(
        self,
        settings: ModelSettings,
        metrics: LaneMetrics,
        task: str,
        run: Callable[[M], Callable[[Sequence[Any]], Sequence[Any]]],
        *,
        cost: Callable[[M], Callable[[Any], int]] | None = None,
        admit: Callable[[M], Awaitable[None]] | None = None,
        judge: Judge | None = None,
        size: Callable[[Any], int] = len,
        figures: Callable[[M, Reference, Sequence[Any], Sequence[Any]], Figures] | None = None,
    ) -> None:
        self.task = task
        self.remark: Remark | None = None
        self._figures = figures
        self.shadow: Shadow[M] | None = Shadow(settings, metrics, task, run, judge, size=size) if judge else None
        self.announce: Announce | None = None
        self._settings = settings
        self._metrics = metrics
        self._run = run
        self._cost = cost
        self._admit = admit
        self._cache = PredictionCache.of(settings.cache, metrics, task)
        self._team: Team[M] | None = None
        self._seen = b""
        self._refused_at: float | None = None  # loop time
        self._said = ""
        self._failed: dict[bytes, VigilError] = {}  # challengers that were left out, by the key of their entry
        self._watcher: asyncio.Task[None] | None = None

    @property
    def identity(self) -> ModelIdentity | None:
        """The champion, once it is open."""
        return self._team.champion.identity if self._team else None

    @property
    def champion(self) -> M | None:
        """The champion itself, once it is open."""
        return self._team.champion.model if self._team else None

    # ------------------------------------------------------------------------------------------------- for a batch

    @contextlib.asynccontextmanager
    async def batch(self) -> AsyncIterator[Team[M]]:
        """Lend the models as they are now, until the block ends; they stay open for so long, whoever is promoted meanwhile."""
        team = self._team
        assert team is not None, "a lane is opened before it processes"
        for one in team.members:
            one.users += 1
        try:
            yield team
        finally:
            if team.challenger is not None and team.challenger.failed is not None:
                self._leave_out(team.challenger, team.challenger.failed)
            for one in team.members:
                one.users -= 1
                await let_go(one)

    async def answers(
        self, team: Team[M], inputs: Sequence[S], ask: Callable[[Sequence[S], Sequence[Loaded[M]]], Awaitable[list[Any]]]
    ) -> tuple[list[Loaded[M]], list[Any]]:
        """Ask for each input whom the team says; return who answered, and what. `ask` gives an answer or an error for each.

        What a challenger cannot bear (`Poison`) the champion is asked, and that answer stands, whatever it is.
        """
        models = [team.of(one.event.patient_id) for one in inputs]
        found = await ask(inputs, models)
        challenger = team.answering
        again = [i for i, by in enumerate(models) if by is challenger and isinstance(found[i], Poison)]
        if challenger is None or not again:
            return models, found
        answers = await ask([inputs[i] for i in again], [team.champion] * len(again))
        for i, answer in zip(again, answers, strict=True):
            if not isinstance(answer, Exception):
                self._fails(challenger, found[i])
            models[i], found[i] = team.champion, answer
        return models, found

    def _fails(self, challenger: Loaded[M], error: Poison) -> None:
        """Count an input at which a challenger failed and the champion did not."""
        challenger.failures += 1
        self._metrics.event("challenger-failed")
        if challenger.failures == 1:
            log.warning("%s: the challenger failed at an input that the champion can do: %s", self.task, error.advice)
        if challenger.failures >= FAILURES:
            challenger.failed = error

    def _leave_out(self, challenger: Loaded[M], why: VigilError) -> None:
        team = self._team
        if team is None or team.challenger is not challenger:
            return
        self._failed[challenger.key] = why
        self._refuse(CHALLENGER, why)
        challenger.retired = True
        self._install(Team(team.champion, None, team.stage))

    # ------------------------------------------------------------------------------------------------- life

    async def open(self) -> None:
        """Open the champion; raises as `Registry.open` and `admit` do. From then on the registry file is watched."""
        if self._team is not None:
            if self._admit:
                await self._admit(self._team.champion.model)
            return
        self._seen = await asyncio.to_thread(self._fingerprint)
        registry = await asyncio.to_thread(self._registry)
        self._install(await self._arrange(registry, None))
        if self._settings.registry is not None:
            self._watcher = asyncio.create_task(self._watch(), name=f"registry watch {self.task}")

    async def close(self) -> None:
        """End the watch and the models' threads."""
        if self._watcher is not None:
            self._watcher.cancel()
            await asyncio.gather(self._watcher, return_exceptions=True)
        if self.shadow is not None:
            await self.shadow.stop()
        for one in self._team.members if self._team else ():
            await one.batcher.stop()
        if self._cache is not None:
            await self._cache.close()

    # ------------------------------------------------------------------------------------------------- the watch

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(self._settings.watch_seconds)
            try:
                await self.look()
            except Exception as error:  # the watch must outlive whatever a file or a model can do
                self._refuse(CHAMPION, error)

    async def look(self) -> None:
        """Look at the registry file once, and switch where it names other models. A `VigilError` says why it was refused."""
        seen = await asyncio.to_thread(self._fingerprint)
        now = asyncio.get_running_loop().time()
        due = self._refused_at is not None and now - self._refused_at >= AGAIN
        if seen == self._seen and not due:
            return
        self._seen, self._refused_at = seen, None
        registry = await asyncio.to_thread(self._registry)
        old = self._team
        assert old is not None
        new = await self._arrange(registry, old)
        try:
            await self._tell(old, new)
        except BaseException:
            await self._drop(new, keep=old)
            raise
        self._install(new)
        if self._refused_at is None:
            self._said = ""
        await self._drop(old, keep=new)

    async def _tell(self, old: Team[M], new: Team[M]) -> None:
        """Announce who answers for patients from now on: another champion, a challenger's share in a split."""
        if self.announce is None:
            return
        if new.champion is not old.champion:
            before, now = old.champion.identity, new.champion.identity
            was = f"before {before.name} {before.version}"
            if before == now:
                was = f"the same, its entry changed: {_changes(old.champion.entry, new.champion.entry)}"
            await self.announce(self.task, now, f"live, {was}")
        if new.answering and (new.challenger, new.stage.share) != (old.answering, old.stage.share):
            await self.announce(
                self.task, new.answering.identity, f"live, as a challenger for {new.stage.share:g}% of the patients"
            )

    def _registry(self) -> Registry:
        return Registry.load(self._settings.registry, fetch=fetched if self._settings.fetch else None)

    def _fingerprint(self) -> bytes:
        path = self._settings.registry
        try:
            return sha256(path.read_bytes()).digest() if path is not None else b""
        except OSError:
            return b"unreadable"  # loading says what is wrong

    async def _arrange(self, registry: Registry, old: Team[M] | None) -> Team[M]:
        """Open who is named and not open yet. A challenger that fails is left out; a champion that fails raises."""
        stage = registry.stage(self.task)
        champion = await self._member(registry, stage.champion, old, serves=True)
        challenger = None
        if stage.challenger and stage.challenger != stage.champion:
            try:
                if self.shadow is None and stage.mode == "shadow":
                    raise Permanent(f"the task {self.task!r} knows no challenger in shadow")
                if (why := self._failed.get(key_of_model(registry.entry(self.task, stage.challenger)))) is not None:
                    raise why
                challenger = await self._member(registry, stage.challenger, old, serves=stage.mode == "split")
            except Exception as error:  # whatever a library raises: the champion serves all the same
                self._refuse(CHALLENGER, error)
        return Team(champion, challenger, stage)

    async def _member(self, registry: Registry, name: str, old: Team[M] | None, *, serves: bool) -> Loaded[M]:
        entry = registry.entry(self.task, name)
        for one in old.members if old else ():
            if one.entry == entry and one.failed is None:  # a challenger that is promoted is not loaded twice
                await self._ready(one, serves=serves)
                return one
        # Off the loop: hashing and loading take seconds, and batches go on meanwhile.
        model: Any = await asyncio.to_thread(lambda: registry.open(self.task, name=name, threads=self._settings.threads))
        loaded: Loaded[M] = Loaded(model, entry, CHALLENGER, self._cache)
        await self._ready(loaded, serves=serves)
        loaded.batcher = batcher(
            self._run(model),
            name=self.task,
            settings=self._settings,
            metrics=self._metrics,
            cost=self._cost(model) if self._cost else None,
            label=lambda: self.task if loaded.role == CHAMPION else f"{self.task}-{loaded.role}",
        )
        loaded.drift = self._watched(model, entry, registry.folder(entry))
        return loaded

    def _watched(self, model: M, entry: ModelEntry, folder: Path) -> Callable[[Sequence[Any], Sequence[Any]], None] | None:
        figures = self._figures
        drift = watch(self._settings, self._metrics, entry, folder, lambda: self.remark) if figures is not None else None
        if drift is None or figures is None:
            return None
        return lambda items, answers: observe(drift, lambda: figures(model, drift.reference, items, answers))

    async def _ready(self, one: Loaded[M], *, serves: bool) -> None:
        """Admit a model whose outputs are stored. One in shadow stores none: its vectors may be of another length."""
        if serves and self._admit and not one.admitted:
            await self._admit(one.model)
        one.admitted = one.admitted or serves

    def _install(self, team: Team[M]) -> None:
        """Let the next batch have this team, but for a challenger that failed while it was put together."""
        if team.challenger is not None and team.challenger.failed is not None:
            team = Team(team.champion, None, team.stage)
        before, self._team = self._team, team
        team.champion.role = CHAMPION
        self._metrics.serves(self.task, CHAMPION, team.champion.identity)
        if team.challenger is not None:
            team.challenger.role = CHALLENGER
        self._metrics.serves(self.task, CHALLENGER, team.challenger.identity if team.challenger else None)
        if before is None:
            return
        for role, was, now in ((CHAMPION, before.champion, team.champion), (CHALLENGER, before.challenger, team.challenger)):
            if was is not now:
                self._metrics.event(f"{role}-switched")
                named = "none" if now is None else f"{now.entry.name} {now.entry.version} ({now.entry.digest[:12]})"
                log.info("%s: the %s is %s, before %s", self.task, role, named, "none" if was is None else was.entry.name)

    async def _drop(self, team: Team[M], *, keep: Team[M]) -> None:
        for one in team.members:
            if one not in keep.members:
                one.retired = True
                await let_go(one)

    def _refuse(self, role: str, error: Exception) -> None:
        self._refused_at = asyncio.get_running_loop().time()
        self._metrics.model_refused(self.task, role)
        said = error.advice if isinstance(error, VigilError) else describe(error)
        if said != self._said:  # once, and not at every try
            self._said = said
            log.error("%s: %s refused, what served goes on: %s", self.task, role, said)


def _changes(before: ModelEntry, after: ModelEntry) -> str:
    """Say what an entry says otherwise: thresholds, what it is meant for, figures."""
    was, now = (dict(lines("", one.model_dump(mode="json"))) for one in (before, after))
    return ", ".join(f"{name} {short(old)} -> {short(new)}" for name, old, new in differences(was, now))


async def infer(asked: Sequence[tuple[Loaded[Any], Any]]) -> list[Any]:
    """Run each item through its model, all models at once; results or errors in the order given, as `MicroBatcher.map` does.

    Raises `Fatal` of the champion's, and `Transient` where a challenger failed (`Loaded.failed`): without it the same may work.
    """
    groups: dict[int, list[int]] = {}
    for index, (model, _) in enumerate(asked):
        groups.setdefault(id(model), []).append(index)
    answers = await asyncio.gather(*(_ask(asked[indices[0]][0], [asked[i][1] for i in indices]) for indices in groups.values()))
    results: list[Any] = [None] * len(asked)
    for indices, found in zip(groups.values(), answers, strict=True):
        for index, result in zip(indices, found, strict=True):
            results[index] = result
    return results


async def _ask(one: Loaded[Any], items: Sequence[Any]) -> list[Any]:
    failed: VigilError | None
    try:
        answers = await one.ask(items)
        failed = next((answer for answer in answers if isinstance(answer, Transient)), None)
    except Fatal as error:
        if one.role == CHAMPION:
            raise
        answers, failed = [], error
    if failed is None or one.role == CHAMPION:
        return answers
    one.failed = failed
    raise Transient(f"the challenger {one.entry.name} failed, and is left out: {failed}") from failed
