"""Whom the monitor is shown and cannot alert on, and why: what stands in each score by itself, in sum.

Counted are patients of whom a set came lately, within the longest interval that charts have (`monitor.silence.unscored`).
"""

from collections import Counter
from collections.abc import Iterable
from datetime import timedelta
from typing import Final, Literal, get_args

from processors.patients import Patient
from processors.rules import MonitorRules

Reason = Literal["age-unknown", "not-applicable", "not-watched", "nothing-counts", "late"]
REASONS: Final[tuple[Reason, ...]] = get_args(Reason)

_MS = timedelta(milliseconds=1)


class Blindspots:
    """Counts them by the rules. Times are milliseconds since 1970."""

    def __init__(self, rules: MonitorRules) -> None:
        self._lately = rules.silence.unscored // _MS
        self._staleness = rules.staleness // _MS
        self._grace = rules.observed_after_end // _MS

    def count(self, patients: Iterable[Patient], now: int) -> tuple[int, dict[str, int]]:
        """Return how many patients are observed (logged time `now`), and of them how many cannot alert, by reason."""
        observed, blind = 0, Counter[str]()
        for patient in patients:
            if patient.score_id is None or now - patient.received > self._lately or self._is_gone(patient):
                continue
            observed += 1
            if reason := self._why(patient, now):
                blind[reason] += 1
        return observed, {reason: blind[reason] for reason in REASONS if blind[reason]}

    def _is_gone(self, patient: Patient) -> bool:
        """Tell whether a patient's watch is over, and rightly so: watched under another record, or not observed since."""
        after, newest = patient.ended_at, patient.newest
        ended = bool(patient.ended)
        return ended and (
            patient.context.merged_into is not None or after is None or newest is None or newest - after < self._grace
        )

    def _why(self, patient: Patient, now: int) -> Reason | None:
        if patient.ended:
            return "not-watched"
        newest = patient.newest
        unfit = patient.context.not_applicable(now if newest is None else newest)
        if unfit:
            return "age-unknown" if unfit == "age unknown" else "not-applicable"
        if newest is None:
            return "nothing-counts"
        return "late" if patient.received - newest > self._staleness else None
