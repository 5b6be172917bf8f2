"""Measures of ranking and calibration with intervals, in numpy.

auroc               Mann-Whitney, ties count half
average_precision   area under the precision-recall steps (no interpolation)
Bootstrap           percentile intervals (2.5%, 97.5%) over resampled groups, the same resamples for every score, so
                    that differences between scores get paired intervals
"""

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Metric:
    """One figure of an evaluation. `low` and `high` are the 95% interval; `n` counts what was resampled."""

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
        return f"{self.value:.3f} ({self.low:.3f} to {self.high:.3f})"


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
        """AUROC and AUPRC of the first score, with those of the others, and of the differences, as baselines.

        The difference (first less other) stands in a baseline's own `baselines` under `difference`.
        """
        target = labels.astype(np.float64)
        found: dict[str, Metric] = {}
        for name, area in (("AUROC", _auroc), ("AUPRC", _average_precision)):
            values: dict[str, tuple[float, Array]] = {}
            for kind, score in scores.items():
                ranked = _Sorted(target, score.astype(np.float64))
                values[kind] = self.over(lambda weights, ranked=ranked, area=area: area(*ranked.curve(weights)))  # type: ignore[misc]
            (value, drawn), *_ = values.values()
            others = {
                kind: self._metric(name, other, resampled, {"difference": self._metric(name, value - other, drawn - resampled)})
                for kind, (other, resampled) in list(values.items())[1:]
            }
            found[name] = self._metric(name, value, drawn, others)
        return found

    def metric(self, name: str, measure: Callable[[Array], float]) -> Metric:
        """Return one measure with its interval."""
        return self._metric(name, *self.over(measure))

    def _metric(self, name: str, value: float, drawn: Array, baselines: dict[str, Metric] | None = None) -> Metric:
        known = drawn[np.isfinite(drawn)]
        low, high = np.quantile(known, [0.025, 0.975]) if len(known) else (float("nan"), float("nan"))
        return Metric(name, value, float(low), float(high), self.count, baselines or {})


def wilson(hits: int, n: int) -> tuple[float, float]:
    """Interval of a share (Wilson 1927, z = 1.96); nothing counted leaves everything open."""
    if not n:
        return 0.0, 1.0
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
