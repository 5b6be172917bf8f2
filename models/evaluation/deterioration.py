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

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.errors import Permanent
from models.evaluation.baselines import Logistic, news2, qsofa
from models.evaluation.measures import Array, Bootstrap, Metric, calibration, calibration_metric
from models.evaluation.report import Chart, Evaluation, Progress, Ranking, Reliability, Section, silent
from models.evaluation.vital_sets import Stays, gather, unseen
from models.runtimes.deterioration import FEATURES, VITALS
from models.tasks import DeteriorationModel, Floats, HomeModel

_REFRACTORY_HOURS = 6  # an alert raised stands so long: a score still high within them is no new alert
_LEAD_HOURS = 24  # an alert counts for an onset at most so many hours later
_ONSET_AFTER_FIRST_LABEL = 6  # cinc2019 labels from 6 hours before onset
DRIVERS = 3  # effects that a score is published with at most
DRIVERS_FROM = 0.015  # the score from which they are, by the setting's default


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
    hourly: bool = True

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


def evaluate(
    model: DeteriorationModel,
    stays: Stays,
    *,
    logistic: Logistic | None = None,
    rounds: int = 1000,
    seed: int = 0,
    progress: Progress = silent,
) -> SetFigures:
    """Score every judged hour of `stays` and measure. The stays must be new to the model (`vital_sets.unseen`)."""
    rows = stays.scored_rows()
    kinds: dict[str, Any] = {"model": model.score, "NEWS2": news2, "qSOFA": qsofa}
    if logistic is not None:
        kinds["logistic"] = logistic
    parts: dict[str, list[Floats]] = {kind: [] for kind in kinds}
    done = 0
    for windows in stays.batches(rows, model.hours):
        progress(stays.name, done, len(rows))
        for kind, score in kinds.items():
            parts[kind].append(score(windows))
        done += len(windows)
    progress(f"{stays.name}, intervals", done, len(rows))
    scores = {kind: np.concatenate(found) for kind, found in parts.items()}
    labels, groups = stays.labels[rows], stays.stay_of[rows]
    bootstrap = Bootstrap(groups, rounds=rounds, seed=seed)
    metrics = [*bootstrap.ranking(labels, scores).values()]
    if stays.hourly:
        metrics += calibration_metrics(bootstrap, labels, scores["model"])
        metrics += _alert_metrics(_Judged(labels, groups, rows - stays.starts[groups]), scores, rounds)
        told = np.flatnonzero(scores["model"] >= DRIVERS_FROM)
        if len(told):
            metrics.append(faithfulness_as_published(model, stays.windows(rows[told], model.hours), groups[told]))
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
        stays.hourly,
    )


def faithfulness(
    model: DeteriorationModel | HomeModel, windows: Floats, groups: NDArray[np.int64], *, remove: int = 3
) -> Metric:
    """Check attributions by deletion: the share of a score that goes when its strongest drivers are taken away together.

    Drivers here are what raised the score most. The baseline takes away as many features at random, of those the window has.
    Attribution looks at one feature at a time, so that taking several together is a test of it.
    """
    present = ~np.isnan(windows).all(axis=1)
    effects = np.where(present, model.attribute(windows), -np.inf)
    chosen = np.argsort(np.argsort(-effects, axis=1), axis=1) < remove
    return _deletion(f"share of a high score lost without its {remove} strongest drivers", model, windows, groups, chosen)


def faithfulness_as_published(model: DeteriorationModel, windows: Floats, groups: NDArray[np.int64]) -> Metric:
    """As `faithfulness`, of the drivers that a score is published with, those that lowered it among them."""
    name = f"share of a score from {DRIVERS_FROM} on lost without the drivers published with it"
    return _deletion(name, model, windows, groups, published(model.attribute(windows)))


def published(effects: Floats) -> NDArray[np.bool_]:
    """Say which effects a score is published with: [n, f], the strongest of either sign, none that is 0 in 4 decimals."""
    size = np.abs(np.round(effects.astype(np.float64), 4))
    rank = np.argsort(np.argsort(-size, axis=1, kind="stable"), axis=1)
    return (rank < DRIVERS) & (size > 0)


def _deletion(
    name: str, model: DeteriorationModel | HomeModel, windows: Floats, groups: NDArray[np.int64], chosen: NDArray[np.bool_]
) -> Metric:
    """Measure what is lost without the `chosen` features [n, f], beside as many at random of those there are."""
    random = np.random.default_rng(0)
    base, present = model.score(windows), ~np.isnan(windows).all(axis=1)
    order = np.argsort(-(present + random.random(present.shape)), axis=1)
    chance = np.argsort(order, axis=1) < chosen.sum(axis=1, keepdims=True)
    _, numbered = np.unique(groups, return_inverse=True)
    bootstrap = Bootstrap(numbered, rounds=500)
    falls = {}
    for kind, features in (("drivers", chosen), ("at random", chance)):
        without = np.where(features[:, None, :], np.float32(np.nan), windows)
        falls[kind] = partial(_mean, (base - model.score(without)) / base)
    return bootstrap.against(name, falls, ends=())


def calibration_metrics(bootstrap: Bootstrap, labels: Floats, scores: Floats) -> list[Metric]:
    """Measure how true calibrated scores are: observed / expected, Brier score and skill, expected calibration error."""
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

    return [
        bootstrap.metric("observed / expected", ratio),
        bootstrap.metric("Brier score", brier),
        bootstrap.metric("Brier skill (over the base rate)", skill),
        calibration_metric(bootstrap, labels, scores),
    ]


@dataclass(frozen=True, slots=True)
class _Alerts:
    """What one threshold would have done, per patient."""

    raised: Array  # alerts
    days: Array  # patient-days before the first positive hour's end
    septic: Array  # 1.0 for patients with an onset in the record
    caught: Array  # 1.0 where an alert came within `_LEAD_HOURS` before the onset
    lead: Array  # hours from the first such alert to the onset, 0 where none


@dataclass(frozen=True, slots=True)
class _Judged:
    """The judged hours, patient by patient in order of time."""

    labels: Floats  # [n]
    groups: NDArray[np.int64]  # [n]: the patient, numbered from 0
    hours: NDArray[np.int64]  # [n]: since the patient's first


def _alerts(judged: _Judged, high: NDArray[np.bool_]) -> _Alerts:
    labels, groups = judged.labels, judged.groups
    count = int(groups.max()) + 1
    found = _Alerts(*(np.zeros(count) for _ in range(5)))
    edges = np.searchsorted(groups, np.arange(count + 1))
    for patient in range(count):
        at = slice(edges[patient], edges[patient + 1])
        hours = judged.hours[at]
        positive = hours[labels[at] > 0]
        onset = positive[0] + _ONSET_AFTER_FIRST_LABEL if len(positive) else math.inf
        raised: list[int] = []
        for hour in hours[high[at]].tolist():
            if hour < onset and (not raised or hour >= raised[-1] + _REFRACTORY_HOURS):
                raised.append(hour)
        found.days[patient] = min(hours[-1] + 1, onset) / 24
        found.raised[patient] = len(raised)
        if len(positive):
            found.septic[patient] = 1
            lead = max((onset - hour for hour in raised if onset - hour <= _LEAD_HOURS), default=0)
            found.caught[patient], found.lead[patient] = float(lead > 0), lead
    return found


def _alert_metrics(judged: _Judged, scores: dict[str, Floats], rounds: int) -> list[Metric]:
    """Alerts per patient-day and lead time at thresholds that catch as many onsets as NEWS2 >= 5 and >= 7 do."""
    patients = Bootstrap(np.arange(int(judged.groups.max()) + 1), rounds=rounds, seed=1)
    metrics: list[Metric] = []
    for points in (5, 7):
        news = _alerts(judged, scores["NEWS2"] >= points)
        ours = _matching(judged, scores["model"], news)
        name = f"at the sensitivity of NEWS2 >= {points}"
        for what, measure in (("onsets caught", _caught), ("alerts per patient-day", _per_day), ("lead time (h)", _lead)):
            both = {"model": partial(measure, ours), "NEWS2": partial(measure, news)}
            metrics.append(patients.against(f"{what}, {name}", both))
    return metrics


def _mean(values: Floats, weights: Array) -> float:
    return float((weights * values).sum() / weights.sum())


def _caught(alerts: _Alerts, weights: Array) -> float:
    return _ratio((weights * alerts.caught).sum(), (weights * alerts.septic).sum())


def _per_day(alerts: _Alerts, weights: Array) -> float:
    return _ratio((weights * alerts.raised).sum(), (weights * alerts.days).sum())


def _lead(alerts: _Alerts, weights: Array) -> float:
    return _ratio((weights * alerts.lead).sum(), (weights * alerts.caught).sum())


def _ratio(part: float, whole: float) -> float:
    return float(part / whole) if whole > 0 else float("nan")  # nobody caught has no lead time


def _matching(judged: _Judged, scores: Floats, news: _Alerts) -> _Alerts:
    """Find the highest threshold of the model at which it catches no fewer onsets than NEWS2 does."""
    candidates = np.quantile(scores, np.linspace(0, 0.9995, 200))
    low, high = 0, len(candidates) - 1
    found = _alerts(judged, scores >= candidates[0])
    while low < high:
        middle = (low + high + 1) // 2
        tried = _alerts(judged, scores >= candidates[middle])
        if tried.caught.sum() >= news.caught.sum():
            low, found = middle, tried
        else:
            high = middle - 1
    return found


def speed(model: DeteriorationModel, windows: Floats, sizes: Sequence[int] = (1, 64, 256, 4096)) -> dict[int, float]:
    """Windows scored per second of this thread's own processor time, in calls of so many: a busy machine does not change it.

    The same windows again and again: what a model makes of the hours before the newest is known to it, as within an hour on a ward.
    """
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


def evaluate_all(
    model: DeteriorationModel,
    data: Path,
    weights: Path,
    *,
    rounds: int = 1000,
    notes: list[str] | None = None,
    progress: Progress = silent,
) -> list[SetFigures]:
    """Evaluate on every set in `data`, leaving out whom the model learned from (`learned.npy` beside its weights).

    What is left out is said in `notes`.
    """
    said = [] if notes is None else notes
    learned = np.load(weights / "learned.npy") if (weights / "learned.npy").is_file() else None
    if learned is None:
        said.append("the model keeps no list of whom it learned from: nobody was left out, figures on its own sets flatter it")
    figures = []
    sets, passed = gather(data)
    said += passed
    for stays in sets:
        fresh = stays if learned is None else unseen(stays, learned)
        if gone := len(stays.ids) - len(fresh.ids):
            said.append(f"{stays.name}: {gone:,} of {len(stays.ids):,} patients left out, the model learned from them")
        labels = fresh.labels[fresh.scored_rows()]
        if not 0 < labels.sum() < len(labels):
            said.append(f"{stays.name}: no figures, of {len(fresh.ids):,} patients left none or all are positive")
            continue
        path = weights / f"logistic-{'hourly' if stays.hourly else 'outcome'}.json"
        logistic = Logistic.load(path) if path.is_file() else None
        figures.append(evaluate(model, fresh, logistic=logistic, rounds=rounds, progress=progress))
        if stays.hourly:
            figures.append(evaluate(model, sparse(fresh), logistic=logistic, rounds=rounds, progress=progress))
    return figures


def report(model: DeteriorationModel, figures: Sequence[SetFigures], notes: Sequence[str]) -> Evaluation:
    """Put the figures of `evaluate_all` into the shape of every task. Raises `Permanent` where there are none."""
    if not figures:
        raise Permanent("nobody to measure on: " + "; ".join(notes), hint="give patients that the model did not learn from")
    sections = []
    for each in figures:
        about = (
            f"{each.patients:,} patients ({each.positive_patients:,} positive), {each.hours:,} scored hours, "
            f"{100 * each.prevalence:.1f}% positive; intervals bootstrapped by patient"
        )
        charts: list[Chart] = [Ranking("deterioration", each.labels, each.scores)]
        if each.hourly:  # a single outcome (death) is not what the score is calibrated to
            charts.append(Reliability("deterioration", each.reliability, "hours labelled positive"))
        sections.append(Section(each.name, about, each.metrics, tuple(charts)))
    return Evaluation("deterioration", model.identity, tuple(sections), tuple(notes))


def sample_windows() -> Floats:
    """A few windows of no one, half of their values missing: what speed is measured on."""
    random = np.random.default_rng(0)
    windows = random.normal(80, 15, (64, 24, len(FEATURES))).astype(np.float32)
    windows[:, :, VITALS:] = 0
    windows[random.random(windows.shape) < 0.5] = np.nan
    return windows
