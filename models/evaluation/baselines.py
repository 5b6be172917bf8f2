"""Scores that a deterioration model is measured against: NEWS2, qSOFA, and a logistic model on the same windows.

All take windows [n, hours, features] as the model does; what is missing is dealt with by the rules in `deterioration`.
"""

import json
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from models.evaluation.measures import Array
from models.runtimes.deterioration import FEATURES, VITALS
from models.tasks import Floats

# NEWS2 bands: (upper bound of the band, points), lowest first; the last holds for everything above.
_BANDS: dict[str, tuple[tuple[float, int], ...]] = {
    "respiratory_rate": ((8, 3), (11, 1), (20, 0), (24, 2), (math.inf, 3)),
    "spo2": ((91, 3), (93, 2), (95, 1), (math.inf, 0)),
    "systolic": ((90, 3), (100, 2), (110, 1), (219, 0), (math.inf, 3)),
    "heart_rate": ((40, 3), (50, 1), (90, 0), (110, 1), (130, 2), (math.inf, 3)),
    "temperature": ((35.0, 3), (36.0, 1), (38.0, 0), (39.0, 1), (math.inf, 2)),
    "oxygen": ((0, 0), (math.inf, 2)),
    "consciousness": ((0, 0), (math.inf, 3)),
}


def last_values(windows: Floats) -> Floats:
    """Return the last known value of each feature: [n, f], NaN where the window holds none."""
    hours = windows.shape[1]
    index = np.where(np.isnan(windows), -1, np.arange(hours)[None, :, None]).max(axis=1)
    found: Floats = np.take_along_axis(windows, np.maximum(index, 0)[:, None], axis=1)[:, 0]
    return found


def news2(windows: Floats) -> Floats:
    """Aggregate NEWS2 points of the last values: [n] (see the module's rules for what is missing)."""
    last = last_values(windows).astype(np.float64)
    points = np.zeros(len(last))
    for name, bands in _BANDS.items():
        unit = 10 if name == "temperature" else 1
        value = np.floor(last[:, FEATURES.index(name)] * unit + 0.5) / unit
        upper, given = np.array([bound for bound, _ in bands]), np.array([score for _, score in bands])
        known = np.isfinite(value)
        points[known] += given[np.searchsorted(upper, value[known], side="left")]
    return points.astype(np.float32)


def qsofa(windows: Floats) -> Floats:
    """QSOFA points of the last values: [n]."""
    last = last_values(windows)
    respiratory, systolic, consciousness = (FEATURES.index(name) for name in ("respiratory_rate", "systolic", "consciousness"))
    with np.errstate(invalid="ignore"):
        points = (last[:, respiratory] >= 22).astype(np.float32) + (last[:, systolic] <= 100) + (last[:, consciousness] >= 1)
    return points.astype(np.float32)


@dataclass(frozen=True, slots=True)
class Logistic:
    """The logistic model on the same windows, kept beside the weights as the figure to beat."""

    mean: Array
    scale: Array
    weights: Array  # [columns + 1], the intercept last

    def __call__(self, windows: Floats) -> Floats:
        """Score windows: [n] probabilities."""
        design = (summary(windows) - self.mean) / self.scale
        design = np.where(np.isnan(design), 0.0, design)
        log_odds: Array = design @ self.weights[:-1] + self.weights[-1]
        return (1 / (1 + np.exp(-log_odds))).astype(np.float32)

    def save(self, path: Path) -> None:
        """Write as JSON."""
        raw = {name: np.round(getattr(self, name), 6).tolist() for name in ("mean", "scale", "weights")}
        path.write_text(json.dumps(raw) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> "Logistic":
        """Read `save`'s file."""
        raw = json.loads(path.read_text(encoding="utf-8"))
        return cls(*(np.array(raw[name], np.float64) for name in ("mean", "scale", "weights")))


def summary(windows: Floats) -> Array:
    """Per feature: last, mean, lowest, highest value of the window, NaN where none; hours since measured: [n, columns]."""
    seen = ~np.isnan(windows)
    count = seen.sum(axis=1)
    filled = np.where(seen, windows, 0.0).astype(np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = np.where(count > 0, filled.sum(axis=1) / np.maximum(count, 1), np.nan)
    lowest = np.where(count > 0, np.where(seen, windows, np.inf).min(axis=1), np.nan)
    highest = np.where(count > 0, np.where(seen, windows, -np.inf).max(axis=1), np.nan)
    hours = windows.shape[1]
    since = hours - 1 - np.where(seen, np.arange(hours)[None, :, None], -1).max(axis=1)
    yes_no = np.nan_to_num(last_values(windows)[:, VITALS:], nan=0.0)
    vital = slice(0, VITALS)
    return np.concatenate(
        [last_values(windows)[:, vital], mean[:, vital], lowest[:, vital], highest[:, vital], since[:, vital], yes_no], axis=1
    ).astype(np.float64)


def fit_logistic(columns: Array, labels: Floats, *, ridge: float = 30.0) -> Logistic:
    """Fit on columns of `summary`: Newton's method on the ridge-penalised likelihood; deterministic."""
    known = ~np.isnan(columns)
    count = np.maximum(known.sum(axis=0), 1)
    mean = np.where(known, columns, 0.0).sum(axis=0) / count
    scale = np.sqrt((np.where(known, columns - mean, 0.0) ** 2).sum(axis=0) / count)
    scale = np.where(scale > 0, scale, 1.0)
    standard = np.where(known, (columns - mean) / scale, 0.0)
    design = np.concatenate([standard, np.ones((len(labels), 1))], axis=1)
    penalty = np.append(np.full(columns.shape[1], ridge), 1e-6)
    weights = np.zeros(design.shape[1])
    for _ in range(25):
        chance = 1 / (1 + np.exp(-design @ weights))
        gradient = design.T @ (chance - labels) + penalty * weights
        curvature = (design * (chance * (1 - chance))[:, None]).T @ design + np.diag(penalty)
        move = np.linalg.solve(curvature, gradient)
        weights -= move
        if np.abs(move).max() < 1e-6:
            break
    return Logistic(mean, scale, weights)
