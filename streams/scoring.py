"""The deterioration model in the vitals lane: all windows of a batch at once, within a deadline, or NEWS2 goes out alone."""

import logging
import math
import time
from collections.abc import Sequence
from hashlib import sha256
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from models.batching import MicroBatcher
from models.drift import Drift, of_windows
from models.errors import Poison, Transient
from models.tasks import DeteriorationModel, Floats, ModelIdentity
from processors.deterioration import deterioration_of
from processors.events import AuditEntry, Deterioration, Event, trusted
from processors.monitor import Assessment
from streams.drifting import observe
from streams.inference import batcher
from streams.journal import Lapse, Lapses
from streams.metrics import LaneMetrics
from streams.settings import ModelSettings

log = logging.getLogger("vigil.vitals")

Scored = tuple[Deterioration | None, str]
_Asked = tuple[Floats, NDArray[np.bool_]]  # windows, and of which NEWS2 makes somebody ask what drove the score

ABSENT = "no deterioration model is installed: NEWS2 alone"
LATE = "the deterioration model was late: NEWS2 alone"
FAILED = "the deterioration model failed: NEWS2 alone"
NOTHING = "no vital sign that the model knows"
_SILENT: Final = frozenset({LATE, FAILED})  # what another run of the same vitals might not find
_PATIENCE: Final = 10.0  # seconds in all that a restart waits for the model's answers to what it may have answered before
_ANOTHER: Final = 60.0  # seconds without such a question: the next is of another restart, or of other partitions
_TOLD_EVERY: Final = 60.0  # seconds between two lines about a model that fails
_COUNTED: Final = 64  # windows that are counted for drift together


class Scoring:
    """Scores assessments; never raises for the model's sake, since vitals do not wait for a model."""

    def __init__(
        self,
        model: DeteriorationModel | None,
        settings: ModelSettings,
        metrics: LaneMetrics,
        drift: Drift | None = None,
        *,
        patience: float = _PATIENCE,
    ) -> None:
        self._model = model
        self._drift = drift
        self._uncounted: list[tuple[Floats, Floats]] = []  # windows and scores
        self._deadline = settings.vitals_deadline
        self._drivers_from = settings.drivers_from
        self._longest = patience
        self._again = self._until = -math.inf  # when it was last waited for longer, and how long it may be
        self._quiet = -math.inf  # until when a failure is not told once more
        self._metrics = metrics
        self._batcher: MicroBatcher[Any, Any] | None = None
        if model is not None:
            # One item is a whole batch of windows: at thousands of sets a second a future for each would cost more than the model.
            # None waits for company: batches gather while the model is busy, and a patient's alert waits behind every delay.
            at_once = settings.model_copy(update={"longest_delay": 0.0})
            self._batcher = batcher(self._run, name="deterioration", settings=at_once, metrics=metrics)

    @property
    def identity(self) -> ModelIdentity | None:
        """The model."""
        return self._model.identity if self._model else None

    def _run(self, batches: Sequence[_Asked]) -> list[tuple[Floats, dict[int, Sequence[float]]]]:
        # All at once: the model works in blocks of rows, and under a trickle each partition's batch is a single row.
        scores, drivers = self._score(*(batches[0] if len(batches) == 1 else map(np.concatenate, zip(*batches, strict=True))))
        results: list[tuple[Floats, dict[int, Sequence[float]]]] = []
        first = 0
        for windows, _ in batches:
            end = first + len(windows)
            results.append((scores[first:end], {row - first: of for row, of in drivers.items() if first <= row < end}))
            first = end
        return results

    def _score(self, windows: Floats, of_interest: NDArray[np.bool_]) -> tuple[Floats, dict[int, Sequence[float]]]:
        """Score windows; say what drove the scores that somebody may ask about: it costs several scores each.

        Which those are follows from NEWS2 and the score alone, so that a rerun says the same.
        """
        assert self._model is not None
        scores = self._model.score(windows)
        if not ((scores >= 0) & (scores <= 1)).all():  # NaN is neither
            raise Poison("the deterioration model answered with NaN, or with what is no probability", stage="model")
        if self._drift is not None:
            self._watch(self._drift, self._model.features, windows, scores)
        of_note = np.flatnonzero(of_interest | (scores >= self._drivers_from))
        drivers = self._model.attribute(windows[of_note]).tolist() if len(of_note) else []
        return scores, dict(zip(of_note.tolist(), drivers, strict=True))

    def _watch(self, drift: Drift, features: Sequence[str], windows: Floats, scores: Floats) -> None:
        """Count for drift, some at a time: for two or three sets it would cost a quarter of scoring them."""
        self._uncounted.append((windows, scores))
        if sum(len(some) for _, some in self._uncounted) < _COUNTED:
            return
        seen, self._uncounted = self._uncounted, []
        every = np.concatenate([some for some, _ in seen])
        observe(drift, lambda: of_windows(every, features, np.concatenate([some for _, some in seen])))

    async def score(self, assessments: Sequence[Assessment], known: Sequence[str] = (), *, again: bool = False) -> list[Scored]:
        """Return, for each assessment, its score or the reason why NEWS2 stands alone.

        `known` gives such reasons by assessment, from an earlier run: the model is asked only where there is none. `again`: it may
        have answered in that run, so it is waited for longer.
        """
        if self._model is None or self._batcher is None:
            return [(None, ABSENT)] * len(assessments)
        wanted = [i for i, assessment in enumerate(assessments) if assessment.needs_model]
        scored: list[Scored] = [(None, NOTHING)] * len(assessments)
        if known:
            for i in wanted:
                scored[i] = (None, known[i])
            wanted = [i for i in wanted if not known[i]]
        if not wanted:
            return scored
        windows = np.stack([window for i in wanted if (window := assessments[i].window) is not None])
        of_interest = np.array([assessments[i].of_interest for i in wanted])
        asked: _Asked = (windows, of_interest)
        (result,) = await self._batcher.map([asked], deadline=self._patience() if again else self._deadline)
        if isinstance(result, Exception):
            late = isinstance(result, Transient)
            self._metrics.event("score-late" if late else "score-failed", len(wanted))
            if not late and time.monotonic() >= self._quiet:
                log.warning("the deterioration model fails: %s; NEWS2 stands alone", result)
                self._quiet = time.monotonic() + _TOLD_EVERY
            reason = LATE if late else FAILED
            for i in wanted:
                scored[i] = (None, reason)
            return scored
        scores, drivers = result
        for row, i in enumerate(wanted):
            scored[i] = (
                deterioration_of(float(scores[row]), drivers.get(row), self._model.identity, self._model.horizon_hours),
                "",
            )
        return scored

    def _patience(self) -> float:
        """Return the seconds to wait: what is left of one restart's budget, of all partitions; an alert may stand behind each."""
        now = time.monotonic()
        if now - self._again > _ANOTHER:
            self._until = now + self._longest
        self._again = now
        return max(self._deadline, self._until - now)

    def audit_entry(self, input_id: str, patient_id: str, record: Any, events: Sequence[Event]) -> AuditEntry:
        """Return the audit entry of one input; a repeat has no output of its own."""
        return trusted(
            AuditEntry,
            {
                "event_id": events[0].id if events else input_id,
                "input_id": input_id,
                "input_digest": sha256(record.value).hexdigest(),
                "outcome": "ok" if events else "repeat",
                "patient_id": patient_id,
            },
        )

    async def stop(self) -> None:
        """End the model's thread."""
        if self._batcher is not None:
            await self._batcher.stop()


class Retold:
    """Scoring in one partition, by what an earlier worker may have published of it (journal rule 6).

    There a set is said with its score if it had one, and the model is waited for; where the model had been silent, it is not asked.
    """

    def __init__(self, scoring: Scoring, name: str, lapses: Lapses | None = None) -> None:
        self._scoring = scoring
        self._name = name
        self._lapses = lapses or Lapses()
        self._told = False

    async def score(
        self, assessed: Sequence[tuple[Any, Assessment]], entry: int, *, again: bool
    ) -> tuple[list[Scored], Lapse | None]:
        """Score sets (record, assessment) as of an entry, `again` where they may have been published.

        Returns the model's lapse too, if there was one: it is to be journalled before anything goes out.
        """
        known = [self._lapses.why(entry, record.offset) for record, _ in assessed] if again else []
        scores = await self._scoring.score([assessment for _, assessment in assessed], known, again=again)
        silent = [i for i, (_, reason) in enumerate(scores) if reason in _SILENT and not (known and known[i])]
        if not silent:
            return scores, None
        if again and not self._told:
            self._told = True
            log.warning("%s: the model does not answer for sets that may have been published with its score", self._name)
        first, last = assessed[silent[0]][0], assessed[silent[-1]][0]
        return scores, Lapse(entry, first.offset, last.offset + 1, scores[silent[0]][1])
