"""Measures of ranking and calibration with intervals, in numpy.

auroc               Mann-Whitney, ties count half
average_precision   area under the precision-recall steps (no interpolation)
Bootstrap           percentile intervals (2.5%, 97.5%) over resampled groups, the same resamples for every score, so
                    that differences between scores get paired intervals
Wilson              interval of a share, honest for few too

Where too little is known there is no interval (NaN, null in JSON), rather than one that looks sure: from fewer than `FEWEST`
groups, of a ranking from fewer than `FEWEST_OF_A_CLASS` groups of either class, and where a figure at an end of its scale (0 or 1)
is the same in every resample, as 1.000 of three images is.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
FEWEST: Final = 10  # groups from which on resampling says something of others
FEWEST_OF_A_CLASS: Final = 5
NOT_TOLD: Final = (float("nan"), float("nan"))


@dataclass(frozen=True, slots=True)
class Metric:
    """One figure of an evaluation. `low` and `high` are the 95% interval; `n` counts what was resampled. NaN: cannot be told."""

    name: str
    value: float
    low: float
    high: float
    n: int
    baselines: dict[str, "Metric"] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """Return the object that `vigil models evaluate --json` writes."""
        return asdict(self)

    def __str__(self) -> str:
        if not math.isfinite(self.value):
            return "-"
        if math.isfinite(self.low) and math.isfinite(self.high):
            return f"{self.value:.3f} ({self.low:.3f} to {self.high:.3f})"
        return f"{self.value:.3f} ({'too few for an interval' if self.n < FEWEST else 'no interval'})"


class _Sorted:
    """A score sorted once, so that many weightings of the same rows are cheap."""

    def __init__(self, labels: Array, scores: Array) -> None:
        self.order = np.argsort(-scores, kind="stable")
        descending = scores[self.order]
        self.last = np.flatnonzero(np.append(descending[1:] != descending[:-1], True))  # ends of groups of equal scores
        self.positive = labels[self.order]

    def curve(self, weights: Array) -> tuple[Array, Array]:
        """Return true and false positives at each distinct threshold, from the strictest on."""
        weight = weights[self.order]
        true = np.cumsum(weight * self.positive)[self.last]
        return true, np.cumsum(weight)[self.last] - true


def _auroc(true: Array, false: Array) -> float:
    positives, negatives = true[-1], false[-1]
    if positives == 0 or negatives == 0:
        return float("nan")
    width = np.diff(false, prepend=0.0)
    height = (true + np.concatenate([[0.0], true[:-1]])) / 2
    return float((width * height).sum() / (positives * negatives))


def _average_precision(true: Array, false: Array) -> float:
    if true[-1] == 0:
        return float("nan")
    precision = true / np.maximum(true + false, 1e-12)
    return float((np.diff(true, prepend=0.0) * precision).sum() / true[-1])


def auroc(labels: NDArray[Any], scores: NDArray[Any]) -> float:
    """Area under the ROC curve; NaN where only one class is there."""
    return _auroc(*_Sorted(labels.astype(np.float64), scores.astype(np.float64)).curve(np.ones(len(labels))))


def average_precision(labels: NDArray[Any], scores: NDArray[Any]) -> float:
    """Average precision; NaN without positives."""
    ranked = _Sorted(labels.astype(np.float64), scores.astype(np.float64))
    return _average_precision(*ranked.curve(np.ones(len(labels))))


def _area(area: Callable[[Array, Array], float], ranked: _Sorted, weights: Array) -> float:
    return area(*ranked.curve(weights))


class Bootstrap:
    """Resamples of groups (patients), drawn once and shared by all scores of an evaluation."""

    def __init__(self, groups: NDArray[np.int64], *, rounds: int = 1000, seed: int = 0) -> None:
        """Take the group of each row, numbered from 0."""
        self.groups = groups
        self.count = int(groups.max()) + 1 if len(groups) else 0
        random = np.random.default_rng(seed)
        self._draws = random.multinomial(self.count, np.full(self.count, 1 / self.count), size=rounds).astype(np.float64)

    def over(self, measure: Callable[[Array], float]) -> tuple[float, Array]:
        """Return `measure(weights per row)` with all weights 1, and over the resamples."""
        return measure(np.ones(len(self.groups))), np.array([measure(draw[self.groups]) for draw in self._draws])

    def ranking(self, labels: NDArray[Any], scores: dict[str, NDArray[Any]]) -> dict[str, Metric]:
        """AUROC and AUPRC of the first score, with those of the others as baselines (see `against`)."""
        target = labels.astype(np.float64)
        few = min(len(np.unique(self.groups[target == one])) for one in (0, 1)) < FEWEST_OF_A_CLASS
        ranked = {kind: _Sorted(target, score.astype(np.float64)) for kind, score in scores.items()}
        return {
            name: self.against(name, {kind: partial(_area, area, one) for kind, one in ranked.items()}, few=few)
            for name, area in (("AUROC", _auroc), ("AUPRC", _average_precision))
        }

    def against(
        self,
        name: str,
        measures: Mapping[str, Callable[[Array], float]],
        *,
        few: bool = False,
        ends: Sequence[float] = (0.0, 1.0),
    ) -> Metric:
        """Return one measure of the first method, with those of the others as baselines.

        The paired difference (first less other, by the same resamples) stands in a baseline's own `baselines` under `difference`.
        """
        values = {kind: self.over(measure) for kind, measure in measures.items()}
        (value, drawn), *_ = values.values()
        others = {
            kind: self._metric(
                name,
                other,
                resampled,
                {"difference": self._metric(name, value - other, drawn - resampled, few=few, ends=())},
                few=few,
                ends=ends,
            )
            for kind, (other, resampled) in list(values.items())[1:]
        }
        return self._metric(name, value, drawn, others, few=few, ends=ends)

    def metric(self, name: str, measure: Callable[[Array], float], *, ends: Sequence[float] = (0.0, 1.0)) -> Metric:
        """Return one measure with its interval. `ends` are those of its scale: none for a difference."""
        return self._metric(name, *self.over(measure), ends=ends)

    def _metric(
        self,
        name: str,
        value: float,
        drawn: Array,
        baselines: dict[str, Metric] | None = None,
        *,
        few: bool = False,
        ends: Sequence[float] = (0.0, 1.0),
    ) -> Metric:
        known = drawn[np.isfinite(drawn)]
        low, high = NOT_TOLD
        if len(known) and self.count >= FEWEST and not few:
            low, high = (float(one) for one in np.quantile(known, [0.025, 0.975]))
        return Metric(name, value, *interval(value, low, high, self.count, ends=ends), self.count, baselines or {})


def interval(value: float, low: float, high: float, n: int, *, ends: Sequence[float] = (0.0, 1.0)) -> tuple[float, float]:
    """Return a resampled interval as far as it says something (see above), else NaN."""
    if n < FEWEST or (low == high == value and value in ends):
        return NOT_TOLD
    return low, high


def wilson(hits: int, n: int) -> tuple[float, float]:
    """Interval of a share (Wilson 1927, z = 1.96); of nothing there is none."""
    if not n:
        return NOT_TOLD
    z2 = 1.96**2
    centre = (hits + z2 / 2) / (n + z2)
    half = 1.96 / (n + z2) * math.sqrt(hits * (n - hits) / n + z2 / 4)
    return max(0.0, centre - half), min(1.0, centre + half)


def calibration(labels: NDArray[Any], scores: NDArray[Any], bins: int = 10) -> list[tuple[float, float, int]]:
    """Return (mean score, observed rate, rows) for equally filled bins of the score, lowest first."""
    order = np.argsort(scores, kind="stable")
    parts = [rows for rows in np.array_split(order, bins) if len(rows)]
    return [(float(scores[rows].mean()), float(labels[rows].mean()), len(rows)) for rows in parts]


def calibration_error(labels: NDArray[Any], scores: NDArray[Any], bins: int = 10) -> float:
    """Expected calibration error over equally filled bins."""
    found = calibration(labels, scores, bins)
    return sum(rows * abs(mean - rate) for mean, rate, rows in found) / max(1, sum(rows for *_, rows in found))


def calibration_metric(bootstrap: Bootstrap, labels: NDArray[Any], scores: NDArray[Any], bins: int = 10) -> Metric:
    """Return `calibration_error` with its interval; the bins stay as all rows give them."""
    parts = [rows for rows in np.array_split(np.argsort(scores, kind="stable"), bins) if len(rows)]
    gap = scores.astype(np.float64) - labels.astype(np.float64)

    def error(weights: Array) -> float:
        total = float(weights.sum())
        return sum(abs(float((weights[rows] * gap[rows]).sum())) for rows in parts) / total if total else float("nan")

    return bootstrap.metric("expected calibration error", error)
