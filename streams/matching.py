"""What a rerun says held against what was published: scores by the very record that each was made of, alerts' steps by their ids.

The id alone does not do for a score: of a set that was given to the lane again, a replay or redrive, and was scored again there,
both scores have the same one.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import isclose
from typing import Final

from processors.deterioration import HourDriver
from processors.events import AlertEvent, Deterioration, ScoreEvent, VitalsEvent
from streams.scoring import ABSENT, FAILED, LATE

_SCORE: Final = ("late", "news2", "news2_reason", "deterioration_reason", "rejected", "flags", "processing")
_ALERT: Final = ("kind", "state", "severity", "title", "detail", "reason", "route", "observed_at")


class Said:
    """The scores on clinical.scores. `copies`: offsets of vitals that were replayed or redriven, and of their originals."""

    def __init__(self, scores: Iterable[ScoreEvent], copies: Mapping[int, int]) -> None:
        self.copies = copies
        self._of: dict[tuple[str, int, int], ScoreEvent] = {}
        self._last: dict[str, ScoreEvent] = {}
        for one in scores:
            self._of[made_of(one)] = self._last[one.source.event_id] = one

    def of(self, score: ScoreEvent) -> ScoreEvent | None:
        """Return what was said of the same record; of an original that has none (any more) what stands under its id."""
        found = self._of.get(made_of(score))
        return found if found or score.source.offset in self.copies else self._last.get(score.source.event_id)


@dataclass(frozen=True, slots=True)
class Row:
    """One set: the score that the monitor gives now, the one on clinical.scores, in which fields they differ, what may be why.

    `copy_of`: the set came once more, by a replay or redrive; the original's offset. `hours`: which values drove the model.
    """

    score: ScoreEvent
    published: ScoreEvent | None
    differs: tuple[str, ...] = ()
    why: tuple[str, ...] = ()
    copy_of: int | None = None
    hours: tuple[HourDriver, ...] = ()

    @property
    def equal(self) -> bool:
        """Tell whether this was said then, too."""
        return self.published is not None and not self.differs


@dataclass(frozen=True, slots=True)
class Step:
    """One step of an alert: as it is decided now, as it was published; one of them may be missing."""

    now: AlertEvent | None
    published: AlertEvent | None
    differs: tuple[str, ...] = ()

    @property
    def equal(self) -> bool:
        """Tell whether this was said then, too."""
        return self.now is not None and self.published is not None and not self.differs

    @property
    def said(self) -> AlertEvent:
        """The step as it is now, else as it was."""
        found = self.now or self.published
        assert found is not None
        return found


def compared(score: ScoreEvent, said: Said, notes: Sequence[str], scores_cut: bool) -> Row:
    """Hold a score against the one that was published, and say what may be why where they differ."""
    published = said.of(score)
    copy_of = said.copies.get(score.source.offset) if score.source.topic == VitalsEvent.topic else None
    if published is None:
        gone = "retention may have taken it from clinical.scores" if scores_cut else "the lane has not come to it, or could not"
        return Row(score, None, ("missing",), (gone,), copy_of)
    differs = [name for name in _SCORE if getattr(score, name) != getattr(published, name)]
    if not _same(score.deterioration, published.deterioration):
        differs.append("deterioration")
    if not differs:
        return Row(score, published, copy_of=copy_of)
    if made_of(published) != made_of(score) and published.source.offset in said.copies:
        copied = f"what stands is of a copy, by a replay or redrive (offset {published.source.offset}); its own is not there"
        return Row(score, published, tuple(differs), (copied,), copy_of)
    why: list[str] = []
    then, now = published.deterioration, score.deterioration
    if then is not None and now is not None and then.model != now.model:
        why.append(f"another model: {then.model.name}@{then.model.version} then, {now.model.name}@{now.model.version} now")
    if published.deterioration_reason in (ABSENT, LATE, FAILED):
        why.append(published.deterioration_reason)
    if not why or set(differs) - {"deterioration", "deterioration_reason"}:
        why += notes
    return Row(score, published, tuple(differs), tuple(why), copy_of)


def steps(now: Sequence[AlertEvent], then: Sequence[AlertEvent]) -> list[Step]:
    """Hold the alerts' steps against those that were published, by their ids, in the order in which they were decided."""
    before = {one.id: one for one in then}
    found = []
    for one in now:
        was = before.pop(one.id, None)
        differs = () if was is None else tuple(name for name in _ALERT if getattr(one, name) != getattr(was, name))
        found.append(Step(one, was, differs))
    found += [Step(None, one) for one in before.values()]
    return sorted(found, key=lambda step: (step.said.decided_at, step.said.sequence))


def made_of(score: ScoreEvent) -> tuple[str, int, int]:
    """Return the record that a score was made of: the id of the set (or context), and where it lies on its topic."""
    return score.source.event_id, score.source.partition, score.source.offset


def _same(now: Deterioration | None, then: Deterioration | None) -> bool:
    if now is None or then is None:
        return now is then
    return now.model == then.model and isclose(now.probability, then.probability, abs_tol=1e-6)
