"""How good a deterioration model is: ranking, calibration, alerts and lead time, beside the scores a ward knows.

The rules for what the sets lack were written down before any figure was looked at, and are the same for every baseline:

    - A baseline sees the same 24-hour window as the model. A parameter's value is the last one in it.
    - A parameter that the window does not hold counts 0 points: for the baseline's arithmetic alone, never on a ward.
    - Consciousness not recorded counts as alert, oxygen not recorded as air (the model reads them so too).
    - NEWS2: Royal College of Physicians 2017, SpO2 scale 1, rounded half up before banding.
    - qSOFA: Singer et al., JAMA 2016: one point each for respiration >= 22, systolic <= 100, not alert.
    - Logistic: per feature the last, mean, lowest and highest value and the hours since measured, standardised; one for
      each kind of label, learned from that set alone (cinc2019: the patients the model learned from; physionet2012: set a at
      hour 48, the very question), which favours it.

An hour is positive by the set's own label (cinc2019: SepsisLabel; physionet2012: in-hospital death, judged once at hour 48).
Patients the model learned from, or was calibrated on, are left out. Intervals are 95%, bootstrapped by patient.
"""

import argparse
import json
import math
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.evaluation.measures import Array, Bootstrap, Metric, calibration, calibration_error
from models.runtimes.deterioration import FEATURES, VITALS
from models.tasks import DeteriorationModel, Floats
from models.training.vital_sets import Stays, read, unseen

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
_REFRACTORY_HOURS = 6  # an alert raised stands so long: a score still high within them is no new alert
_LEAD_HOURS = 24  # an alert counts for an onset at most so many hours later
_ONSET_AFTER_FIRST_LABEL = 6  # cinc2019 labels from 6 hours before onset


@dataclass(frozen=True, slots=True)
class SetFigures:
    """One set's figures, and what plots are drawn from."""

    name: str
    patients: int
    positive_patients: int
    hours: int
    prevalence: float
    metrics: tuple[Metric, ...]
    reliability: tuple[tuple[float, float, int], ...]  # mean score, observed rate, hours
    scores: dict[str, Floats] = field(repr=False)
    labels: Floats = field(repr=False)

    def as_json(self) -> dict[str, Any]:
        """Return the set's part of the JSON report."""
        return {
            "set": self.name,
            "patients": self.patients,
            "positive_patients": self.positive_patients,
            "hours": self.hours,
            "prevalence": self.prevalence,
            "metrics": [metric.as_json() for metric in self.metrics],
            "reliability": [list(point) for point in self.reliability],
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


def evaluate(
    model: DeteriorationModel, stays: Stays, *, logistic: Logistic | None = None, rounds: int = 1000, seed: int = 0
) -> SetFigures:
    """Score every judged hour of `stays` and measure. The stays must be new to the model (`vital_sets.unseen`)."""
    rows = stays.scored_rows()
    kinds: dict[str, Any] = {"model": model.score, "NEWS2": news2, "qSOFA": qsofa}
    if logistic is not None:
        kinds["logistic"] = logistic
    parts: dict[str, list[Floats]] = {kind: [] for kind in kinds}
    for windows in stays.batches(rows, model.hours):
        for kind, score in kinds.items():
            parts[kind].append(score(windows))
    scores = {kind: np.concatenate(found) for kind, found in parts.items()}
    labels, groups = stays.labels[rows], stays.stay_of[rows]
    bootstrap = Bootstrap(groups, rounds=rounds, seed=seed)
    metrics = [*bootstrap.ranking(labels, scores).values()]
    if stays.hourly:
        metrics += _calibration_metrics(bootstrap, labels, scores["model"])
        metrics += _alert_metrics(bootstrap, labels, scores, groups)
    positive = len(np.unique(groups[labels > 0]))
    return SetFigures(
        stays.name,
        len(stays.ids),
        positive,
        len(rows),
        float(labels.mean()),
        tuple(metrics),
        tuple(calibration(labels, scores["model"])),
        scores,
        labels,
    )


def _calibration_metrics(bootstrap: Bootstrap, labels: Floats, scores: Floats) -> list[Metric]:
    target, chance = labels.astype(np.float64), scores.astype(np.float64)
    squared = (chance - target) ** 2

    def ratio(weights: Array) -> float:
        expected = float((weights * chance).sum())
        return float((weights * target).sum()) / expected if expected > 0 else float("nan")

    def brier(weights: Array) -> float:
        return float((weights * squared).sum() / weights.sum())

    def skill(weights: Array) -> float:
        rate = float((weights * target).sum() / weights.sum())
        return 1 - brier(weights) / (rate * (1 - rate)) if 0 < rate < 1 else float("nan")

    error = calibration_error(labels, scores)
    return [
        bootstrap.metric("observed / expected", ratio),
        bootstrap.metric("Brier score", brier),
        bootstrap.metric("Brier skill (over the base rate)", skill),
        Metric("expected calibration error", error, float("nan"), float("nan"), bootstrap.count),
    ]


@dataclass(frozen=True, slots=True)
class _Alerts:
    """What one threshold would have done, per patient."""

    raised: Array  # alerts
    days: Array  # patient-days before the first positive hour's end
    septic: Array  # 1.0 for patients with an onset in the record
    caught: Array  # 1.0 where an alert came within `_LEAD_HOURS` before the onset
    lead: Array  # hours from the first such alert to the onset, 0 where none


def _alerts(labels: Floats, groups: NDArray[np.int64], high: NDArray[np.bool_]) -> _Alerts:
    count = int(groups.max()) + 1
    found = _Alerts(*(np.zeros(count) for _ in range(5)))
    edges = np.searchsorted(groups, np.arange(count + 1))
    for patient in range(count):
        at = slice(edges[patient], edges[patient + 1])
        positive = np.flatnonzero(labels[at] > 0)
        onset = positive[0] + _ONSET_AFTER_FIRST_LABEL if len(positive) else math.inf
        raised: list[int] = []
        for hour in np.flatnonzero(high[at]).tolist():
            if hour < onset and (not raised or hour >= raised[-1] + _REFRACTORY_HOURS):
                raised.append(hour)
        found.days[patient] = min(edges[patient + 1] - edges[patient], onset) / 24
        found.raised[patient] = len(raised)
        if len(positive):
            found.septic[patient] = 1
            lead = max((onset - hour for hour in raised if onset - hour <= _LEAD_HOURS), default=0)
            found.caught[patient], found.lead[patient] = float(lead > 0), lead
    return found


def _alert_metrics(bootstrap: Bootstrap, labels: Floats, scores: dict[str, Floats], groups: NDArray[np.int64]) -> list[Metric]:
    """Alerts per patient-day and lead time at thresholds that catch as many onsets as NEWS2 >= 5 and >= 7 do."""
    patients = Bootstrap(np.arange(bootstrap.count), rounds=1000, seed=1)
    metrics: list[Metric] = []
    for points in (5, 7):
        news = _alerts(labels, groups, scores["NEWS2"] >= points)
        ours = _matching(labels, groups, scores["model"], news)
        name = f"at the sensitivity of NEWS2 >= {points}"
        for what, measure in (("onsets caught", _caught), ("alerts per patient-day", _per_day), ("lead time (h)", _lead)):
            other = patients.metric("NEWS2", lambda w, measure=measure, news=news: measure(news, w))  # type: ignore[misc]
            mine = patients.metric(what, lambda w, measure=measure, ours=ours: measure(ours, w))  # type: ignore[misc]
            metrics.append(Metric(f"{what}, {name}", mine.value, mine.low, mine.high, mine.n, {"NEWS2": other}))
    return metrics


def _caught(alerts: _Alerts, weights: Array) -> float:
    return float((weights * alerts.caught).sum() / max(1e-9, (weights * alerts.septic).sum()))


def _per_day(alerts: _Alerts, weights: Array) -> float:
    return float((weights * alerts.raised).sum() / max(1e-9, (weights * alerts.days).sum()))


def _lead(alerts: _Alerts, weights: Array) -> float:
    return float((weights * alerts.lead).sum() / max(1e-9, (weights * alerts.caught).sum()))


def _matching(labels: Floats, groups: NDArray[np.int64], scores: Floats, news: _Alerts) -> _Alerts:
    """Find the highest threshold of the model at which it catches no fewer onsets than NEWS2 does."""
    candidates = np.quantile(scores, np.linspace(0, 0.9995, 200))
    low, high = 0, len(candidates) - 1
    found = _alerts(labels, groups, scores >= candidates[0])
    while low < high:
        middle = (low + high + 1) // 2
        tried = _alerts(labels, groups, scores >= candidates[middle])
        if tried.caught.sum() >= news.caught.sum():
            low, found = middle, tried
        else:
            high = middle - 1
    return found


def speed(model: DeteriorationModel, windows: Floats, sizes: Sequence[int] = (1, 64, 256, 4096)) -> dict[int, float]:
    """Windows scored per second of this thread's own processor time, in calls of so many: a busy machine does not change it."""
    found = {}
    for size in sizes:
        part = np.resize(windows, (size, *windows.shape[1:]))
        model.score(part)
        calls = max(5, 2000 // size)
        start = time.thread_time()
        for _ in range(calls):
            model.score(part)
        found[size] = size * calls / (time.thread_time() - start)
    return found


def sparse(stays: Stays, every: int = 4) -> Stays:
    """Keep only every so many hours' values, as a ward charts them; hours and labels stay."""
    values = stays.values.copy()
    since = np.arange(len(values)) - np.repeat(stays.starts[:-1], np.diff(stays.starts))
    values[since % every != 0] = np.nan
    return replace(stays, name=f"{stays.name}, charted every {every} hours", values=values)


def evaluate_all(model: DeteriorationModel, data: Path, weights: Path, *, rounds: int = 1000) -> list[SetFigures]:
    """Evaluate on every set in `data`, leaving out whom the model learned from (`learned.npy` beside its weights)."""
    learned = np.load(weights / "learned.npy") if (weights / "learned.npy").is_file() else np.array([], np.uint32)
    figures = []
    for stays in read(data):
        fresh = unseen(stays, learned)
        if not 0 < fresh.labels.sum() < len(fresh.labels):
            continue
        path = weights / f"logistic-{'hourly' if stays.hourly else 'outcome'}.json"
        logistic = Logistic.load(path) if path.is_file() else None
        figures.append(evaluate(model, fresh, logistic=logistic, rounds=rounds))
        if stays.hourly:
            figures.append(evaluate(model, sparse(fresh), logistic=logistic, rounds=rounds))
    return figures


def main(argv: Sequence[str] | None = None) -> int:
    """Run `python -m models.evaluation.deterioration --data DIR [--model NAME] [--json FILE] [--card]`."""
    from models.evaluation import deterioration_card
    from models.registry import WEIGHTS, Registry, record

    parser = argparse.ArgumentParser(prog="python -m models.evaluation.deterioration")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--model")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--card", action="store_true", help="write the card and the registry's figures of a packaged model")
    parser.add_argument("--rounds", type=int, default=1000)
    chosen = parser.parse_args(argv)
    registry = Registry.load()
    entry, model = registry.entry("deterioration", chosen.model), registry.open("deterioration", name=chosen.model)
    folder = WEIGHTS / entry.location
    figures = evaluate_all(model, chosen.data, folder, rounds=chosen.rounds)
    rates = speed(model, sample_windows())
    text = deterioration_card.write(entry, model, figures, rows_per_second=rates)
    sys.stdout.write(text)
    if chosen.json:
        chosen.json.write_text(json.dumps([each.as_json() for each in figures], indent=1) + "\n", encoding="utf-8")
    if chosen.card:
        (folder / "card.md").write_text(text, encoding="utf-8")
        quality = {f"{each.name}: {metric.name}": round(metric.value, 4) for each in figures for metric in each.metrics[:2]}
        record(entry.model_copy(update={"quality": quality}))
    return 0


def sample_windows() -> Floats:
    """A few windows of no one, half of their values missing: what speed is measured on."""
    random = np.random.default_rng(0)
    windows = random.normal(80, 15, (64, 24, len(FEATURES))).astype(np.float32)
    windows[:, :, VITALS:] = 0
    windows[random.random(windows.shape) < 0.5] = np.nan
    return windows


if __name__ == "__main__":
    raise SystemExit(main())
