"""The models that a lane has open for a task: champion, challenger, and who of them answers for which patient."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any, Final, Generic, TypeVar

from models.batching import MicroBatcher
from models.errors import VigilError
from models.registry import ModelEntry, Stage
from models.tasks import ModelIdentity
from streams.caching import PredictionCache, key_of_model

M = TypeVar("M")

CHAMPION: Final = "champion"
CHALLENGER: Final = "challenger"


@dataclass(slots=True, eq=False)
class Loaded(Generic[M]):
    """An open model with its micro-batcher; `users` are the batches that work with it, `role` what it is now."""

    model: M
    entry: ModelEntry
    role: str
    cache: PredictionCache | None = None
    batcher: MicroBatcher[Any, Any] = field(init=False)
    drift: Callable[[Sequence[Any], Sequence[Any]], None] | None = None  # told of items and answers
    users: int = 0
    key: bytes = field(init=False)  # of its predictions in the cache
    admitted: bool = False  # what its outputs need is ready: not asked of one in shadow, which writes none
    retired: bool = False
    failed: VigilError | None = None  # as a challenger, in a way that no single input explains
    failures: int = 0  # likewise, inputs at which it failed and the champion did not

    def __post_init__(self) -> None:
        self.key = key_of_model(self.entry)

    @property
    def identity(self) -> ModelIdentity:
        """Name, version and digest, for the outputs."""
        return self.entry.identity

    async def ask(self, items: Sequence[Any]) -> list[Any]:
        """Return results or errors as `MicroBatcher.map` does; what the cache remembers is not asked again."""
        with self.batcher.watched():
            if self.cache is None:
                answers: list[Any] = await self.batcher.map(items)
            else:
                answers = await self.cache.through(self.key, items, self.batcher.map)
        if self.drift is not None:
            good = [(item, answer) for item, answer in zip(items, answers, strict=True) if not isinstance(answer, Exception)]
            if good:
                self.drift(*map(list, zip(*good, strict=True)))
        return answers


@dataclass(frozen=True, slots=True, eq=False)
class Team(Generic[M]):
    """The models of one batch."""

    champion: Loaded[M]
    challenger: Loaded[M] | None = None
    stage: Stage = field(default_factory=lambda: Stage(champion="-"))

    @property
    def members(self) -> tuple[Loaded[M], ...]:
        """Everyone in it."""
        return (self.champion,) if self.challenger is None else (self.champion, self.challenger)

    @property
    def answering(self) -> Loaded[M] | None:
        """The challenger that answers for some of the patients: in a split, and not in shadow."""
        return self.challenger if self.stage.mode == "split" else None

    def of(self, patient: str) -> Loaded[M]:
        """Say who answers for a patient: the champion, or in a split the challenger for its share. The same at every call."""
        if (challenger := self.answering) is not None and in_share(patient, self.stage.share):
            return challenger
        return self.champion

    def beside(self, patient: str) -> Loaded[M] | None:
        """Say who is asked about a patient for comparison only: the challenger in shadow, for its share of the patients."""
        if self.challenger is not None and self.stage.mode == "shadow" and in_share(patient, self.stage.share):
            return self.challenger
        return None


def in_share(patient: str, percent: float) -> bool:
    """Tell whether a patient is among the `percent` that a split gives to the challenger.

    By a hash of the id alone: the same on every worker and every rerun, and a larger share holds the smaller one.
    """
    place = int.from_bytes(sha256(f"split\x1f{patient}".encode()).digest()[:8], "big")
    return place < percent / 100 * 2**64


async def let_go(one: Loaded[Any]) -> None:
    """End a retired model's thread once no batch works with it."""
    if one.retired and not one.users:
        await one.batcher.stop()
