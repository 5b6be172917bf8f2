"""The deterioration model in the vitals lane: all windows of a batch at once, within a deadline, or NEWS2 goes out alone."""

from collections.abc import Sequence
from hashlib import sha256
from typing import Any, Final

import numpy as np

from models.batching import MicroBatcher
from models.drift import Drift, of_windows
from models.errors import Poison, Transient
from models.tasks import DeteriorationModel, Floats, ModelIdentity
from processors.deterioration import deterioration_of
from processors.events import AuditEntry, Deterioration, Event, VitalsEvent, trusted
from processors.monitor import Assessment
from streams.drifting import observe
from streams.inference import batcher
from streams.journal import Lapse, Lapses
from streams.metrics import LaneMetrics
from streams.settings import ModelSettings

Scored = tuple[Deterioration | None, str]

ABSENT = "no deterioration model is installed: NEWS2 alone"
LATE = "the deterioration model was late: NEWS2 alone"
FAILED = "the deterioration model failed: NEWS2 alone"
NOTHING = "no vital sign that the model knows"
_SILENT: Final = frozenset({LATE, FAILED})  # what another run of the same vitals might not find
_PATIENCE: Final = 10.0  # seconds for the model where it may have answered before
_COUNTED: Final = 64  # windows that are counted for drift together
NOTEWORTHY = 0.1  # below this the drivers of a score interest nobody, and they cost several scores each


class Scoring:
    """Scores assessments; never raises for the model's sake, since vitals do not wait for a model."""

    def __init__(
        self, model: DeteriorationModel | None, settings: ModelSettings, metrics: LaneMetrics, drift: Drift | None = None
    ) -> None:
        self._model = model
        self._drift = drift
        self._uncounted: list[tuple[Floats, Floats]] = []  # windows and scores
        self._deadline = settings.vitals_deadline
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

    def _run(self, batches: Sequence[Floats]) -> list[tuple[Floats, dict[int, Sequence[float]]]]:
        # All at once: the model works in blocks of rows, and under a trickle each partition's batch is a single row.
        scores, drivers = self._score(batches[0] if len(batches) == 1 else np.concatenate(batches))
        results: list[tuple[Floats, dict[int, Sequence[float]]]] = []
        first = 0
        for windows in batches:
            end = first + len(windows)
            results.append((scores[first:end], {row - first: of for row, of in drivers.items() if first <= row < end}))
            first = end
        return results

    def _score(self, windows: Floats) -> tuple[Floats, dict[int, Sequence[float]]]:
        assert self._model is not None
        scores = self._model.score(windows)
        if not np.isfinite(scores).all():
            raise Poison("the deterioration model answered with NaN", stage="model")
        if self._drift is not None:
            self._watch(self._drift, self._model.features, windows, scores)
        of_note = np.flatnonzero(scores >= NOTEWORTHY)
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

    async def score(
        self, assessments: Sequence[Assessment], known: Sequence[str] = (), *, deadline: float | None = None
    ) -> list[Scored]:
        """Return, for each assessment, its score or the reason why NEWS2 stands alone.

        `known` gives such reasons by assessment, from an earlier run: the model is asked only where there is none. `deadline`:
        seconds, instead of the one in the settings.
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
        (result,) = await self._batcher.map([windows], deadline=deadline or self._deadline)
        if isinstance(result, Exception):
            late = isinstance(result, Transient)
            self._metrics.event("score-late" if late else "score-failed", len(wanted))
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

    def audit_entry(self, event: VitalsEvent, record: Any, events: Sequence[Event]) -> AuditEntry:
        """Return the audit entry of one set; a repeat has no output of its own."""
        return trusted(
            AuditEntry,
            {
                "event_id": events[0].id if events else event.id,
                "input_id": event.id,
                "input_digest": sha256(record.value).hexdigest(),
                "outcome": "ok" if events else "repeat",
                "patient_id": event.patient_id,
            },
        )

    async def stop(self) -> None:
        """End the model's thread."""
        if self._batcher is not None:
            await self._batcher.stop()


class Retold:
    """Scoring in a partition that another worker may have had before (journal rule 6).

    Of what may have been published, a set is said with its score where it had one, and the model is waited for; where the model
    had been silent, it is not asked. Once it fails to answer even so, it is waited for no longer than otherwise.
    """

    def __init__(self, scoring: Scoring, lapses: Lapses | None = None) -> None:
        self._scoring = scoring
        self._lapses = lapses or Lapses()
        self._patient = True

    async def score(
        self, assessed: Sequence[tuple[Any, Assessment]], entry: int, *, again: bool
    ) -> tuple[list[Scored], Lapse | None]:
        """Score sets (record, assessment) as of an entry, `again` where they may have been published.

        Returns the model's lapse too, if there was one: it is to be journalled before anything goes out.
        """
        known = [self._lapses.why(entry, record.offset) for record, _ in assessed] if again else []
        deadline = _PATIENCE if again and self._patient else None
        scores = await self._scoring.score([assessment for _, assessment in assessed], known, deadline=deadline)
        silent = [i for i, (_, reason) in enumerate(scores) if reason in _SILENT and not (known and known[i])]
        if not silent:
            return scores, None
        self._patient = False
        first, last = assessed[silent[0]][0], assessed[silent[-1]][0]
        return scores, Lapse(entry, first.offset, last.offset + 1, scores[silent[0]][1])
