"""How good a home monitoring model is: ranking, calibration, lead time and attributions, beside simple rules on the same days.

Rules fixed before looking, the same for the model and all it is measured against:

    - All see the same seven days. The days that are judged, and what is asked of them, are those of `home_sets`.
    - Last severity: the last reported symptom severity; never reported in the window counts as 0.
    - Mean severity: the mean of the reported symptom severities of the last three days, else as above.
    - Rise in severity: the mean of the last three days less the mean of the four before; 0 where either is unknown.
    - Logistic: per sign the last, mean, lowest and highest value and the days since reported, standardised, learned from the
      patients that the model learned from.
    - Alerts: a score alerts at the threshold at which it raises one alert in four patient-weeks on these patients; an alert stands
      for three days. An onset is caught by an alert in the three days before it.

Patients the model learned from are left out. Intervals are 95%, bootstrapped by patient.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from models.errors import Permanent
from models.evaluation.baselines import Logistic, last_values
from models.evaluation.deterioration import calibration_metrics, faithfulness
from models.evaluation.home_sets import Diaries, checksums, found_in, read_csv
from models.evaluation.measures import Array, Bootstrap, Metric, calibration
from models.evaluation.report import Evaluation, Progress, Ranking, Reliability, Section, silent
from models.runtimes.home import FEATURES, HORIZON_DAYS
from models.tasks import Floats, HomeModel

TASK: Final = "deterioration-home"
LOGISTIC: Final = "logistic.json"
_BUDGET: Final = 1 / 28  # alerts a patient-day
_RECENT: Final = 3  # days
_SEVERITY: Final = FEATURES.index("symptom_severity")


def last_severity(windows: Floats) -> Floats:
    """Score by the last reported severity: [n]."""
    found: Floats = np.nan_to_num(last_values(windows)[:, _SEVERITY], nan=0.0)
    return found


def mean_severity(windows: Floats) -> Floats:
    """Score by the mean severity of the last three days, else by the last known one: [n]."""
    mean = _mean(windows[:, -_RECENT:, _SEVERITY])
    return np.where(np.isnan(mean), last_severity(windows), mean)


def rise(windows: Floats) -> Floats:
    """Score by how far the last three days' mean severity lies above that of the days before: [n]."""
    found: Floats = np.nan_to_num(
        _mean(windows[:, -_RECENT:, _SEVERITY]) - _mean(windows[:, :-_RECENT, _SEVERITY]), nan=0.0
    ).astype(np.float32)
    return found


def _mean(values: Floats) -> Floats:
    seen = ~np.isnan(values)
    count = seen.sum(axis=1)
    total = np.where(seen, values, 0).sum(axis=1)
    found: Floats = np.where(count > 0, total / np.maximum(count, 1), np.nan).astype(np.float32)
    return found


def evaluate(
    model: HomeModel,
    diaries: Diaries,
    *,
    logistic: Logistic | None = None,
    rounds: int = 1000,
    seed: int = 0,
    progress: Progress = silent,
) -> Section:
    """Score every judged day of `diaries` and measure.

    Raises:
        Permanent: no judged day is followed by a deterioration, or all are.
    """
    rows = diaries.rows()
    labels, groups = diaries.stays.labels[rows], _numbered(diaries.stays.stay_of[rows])
    if not 0 < labels.sum() < len(labels):
        raise Permanent(f"{diaries.stays.name}: of {len(labels):,} judged days none or all come before a deterioration")
    windows = diaries.windows(rows)
    progress(diaries.stays.name, 0, 1)
    scores: dict[str, Floats] = {
        "model": model.score(windows),
        "last severity": last_severity(windows),
        "mean severity": mean_severity(windows),
        "rise in severity": rise(windows),
    }
    if logistic is not None:
        scores["logistic"] = logistic(windows)
    bootstrap = Bootstrap(groups, rounds=rounds, seed=seed)
    metrics = [*bootstrap.ranking(labels, scores).values(), *calibration_metrics(bootstrap, labels, scores["model"])]
    metrics += _alert_metrics(diaries, rows, scores, rounds=rounds)
    high = np.argsort(-scores["model"], kind="stable")[: max(50, len(rows) // 50)]
    metrics.append(faithfulness(model, windows[high], groups[high], remove=2))
    progress(diaries.stays.name, 1, 1)
    positive, count = len(np.unique(groups[labels > 0])), len(np.unique(groups))
    about = (
        f"{count:,} patients ({positive:,} with a deterioration), {len(rows):,} judged days, {100 * labels.mean():.1f}% of them "
        f"before one; intervals bootstrapped by patient"
    )
    points = tuple(calibration(labels, scores["model"]))
    title = "deterioration within three days"
    charts = (Ranking(title, labels, scores), Reliability(title, points, "days before a deterioration"))
    return Section(diaries.stays.name, about, tuple(metrics), charts)


def evaluate_all(model: HomeModel, data: Path, weights: Path, *, rounds: int = 1000, progress: Progress = silent) -> Evaluation:
    """Evaluate on every diary at or below `data`, leaving out whom the model learned from (`learned.npy` beside its weights).

    Raises:
        Permanent: no diary there, or nobody left to measure on.
    """
    notes, sections = [], []
    for path in found_in(data):
        section, said = evaluate_fresh(model, read_csv(path), weights, rounds=rounds, progress=progress)
        notes += said
        sections += [] if section is None else [section]
    if not sections:
        raise Permanent(
            "nobody to measure on" + "".join(f"; {note}" for note in notes),
            hint="a CSV file with the columns of home monitoring, of patients that the model did not learn from",
        )
    return Evaluation(TASK, model.identity, tuple(sections), tuple(notes))


def evaluate_fresh(
    model: HomeModel, diaries: Diaries, weights: Path, *, rounds: int = 1000, progress: Progress = silent
) -> tuple[Section | None, list[str]]:
    """Evaluate on the patients whom the model did not learn from; also say what was left out."""
    notes, fresh = [], diaries
    if (weights / "learned.npy").is_file():
        fresh = diaries.take(~np.isin(checksums(diaries), np.load(weights / "learned.npy")))
    else:
        notes.append("the model keeps no list of whom it learned from: nobody was left out, figures on its own set flatter it")
    if gone := len(diaries.stays.ids) - len(fresh.stays.ids):
        notes.append(
            f"{diaries.stays.name}: {gone:,} of {len(diaries.stays.ids):,} patients left out, the model learned from them"
        )
    if diaries.implausible:
        notes.append(f"{diaries.stays.name}: {diaries.implausible:,} values out of range, counted as not reported")
    labels = fresh.stays.labels[fresh.rows()]
    if not 0 < labels.sum() < len(labels):
        notes.append(
            f"{diaries.stays.name}: no figures, of {len(labels):,} judged days none or all come before a deterioration"
        )
        return None, notes
    path = weights / LOGISTIC
    logistic = Logistic.load(path) if path.is_file() else None
    return evaluate(model, fresh, logistic=logistic, rounds=rounds, progress=progress), notes


@dataclass(frozen=True, slots=True)
class _Alerts:
    """What one threshold would have done, per patient."""

    raised: Array
    onsets: Array
    caught: Array
    lead: Array  # days from the first alert within the horizon to the onset, summed


def _alerts(diaries: Diaries, rows: NDArray[np.int64], high: NDArray[np.bool_]) -> _Alerts:
    count, owner = len(diaries.stays.ids), diaries.stays.stay_of
    found = _Alerts(*(np.zeros(count) for _ in range(4)))
    alerts: set[int] = set()
    last = -HORIZON_DAYS * 2
    for row in rows[high].tolist():
        if row >= last + HORIZON_DAYS or owner[row] != owner[last]:
            alerts.add(row)
            found.raised[owner[row]] += 1
            last = row
    judged = np.zeros(len(owner), np.bool_)
    judged[rows] = True
    for onset in diaries.onsets().tolist():
        patient = owner[onset]
        before = [day for day in range(onset - HORIZON_DAYS, onset) if day >= 0 and owner[day] == patient and judged[day]]
        if not before:
            continue  # nobody could have known: no judged day came before
        lead = max((onset - day for day in before if day in alerts), default=0)
        found.onsets[patient] += 1
        found.caught[patient] += lead > 0
        found.lead[patient] += lead
    return found


def _alert_metrics(diaries: Diaries, rows: NDArray[np.int64], scores: dict[str, Floats], *, rounds: int) -> list[Metric]:
    """Onsets caught and lead time of each score where all raise equally many alerts."""
    patients = Bootstrap(np.arange(len(diaries.stays.ids)), rounds=rounds, seed=1)
    days = np.bincount(diaries.stays.stay_of[rows], minlength=len(diaries.stays.ids)).astype(np.float64)
    by_kind = {kind: _within_budget(diaries, rows, score, _BUDGET * float(days.sum())) for kind, score in scores.items()}
    metrics = []
    shares: Sequence[tuple[str, Callable[[_Alerts], tuple[Array, Array]]]] = (
        ("onsets caught", lambda alerts: (alerts.caught, alerts.onsets)),
        ("lead time (days)", lambda alerts: (alerts.lead, alerts.caught)),
        ("alerts per patient-week", lambda alerts: (7 * alerts.raised, days)),
    )
    for name, share in shares:
        measures = {}
        for kind, alerts in by_kind.items():
            part, whole = share(alerts)
            measures[kind] = partial(_share, part=part, whole=whole)
        title = name if name.startswith("alerts") else f"{name}, at one alert in four patient-weeks"
        metrics.append(patients.against(title, measures))
    return metrics


def _share(weights: Array, part: Array, whole: Array) -> float:
    total = float((weights * whole).sum())
    return float((weights * part).sum()) / total if total > 0 else float("nan")


def _within_budget(diaries: Diaries, rows: NDArray[np.int64], scores: Floats, budget: float) -> _Alerts:
    """Find the lowest threshold that raises no more than `budget` alerts."""
    candidates = np.unique(np.quantile(scores, np.linspace(0, 1, 400)))
    low, high = 0, len(candidates) - 1
    while low < high:
        middle = (low + high) // 2
        if _alerts(diaries, rows, scores >= candidates[middle]).raised.sum() <= budget:
            high = middle
        else:
            low = middle + 1
    found = _alerts(diaries, rows, scores >= candidates[low])
    if found.raised.sum() > budget:  # even the highest score is too common: nothing is alerted
        return _alerts(diaries, rows, np.zeros(len(rows), np.bool_))
    return found


def _numbered(groups: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.unique(groups, return_inverse=True)[1].astype(np.int64)
