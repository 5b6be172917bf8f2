"""A synthetic generator of home monitoring diaries. Nothing in it was fitted to patients; it shows that the path works.

Each patient has

    usual levels   of the four signs, drawn once; and a share of pain (the rest is respiratory) that says what a flare shows in
    stoicism       a factor of 0.3 to 1.2 on what pain is reported of what the face shows
    good, bad days an autoregressive drift (0.8 from day to day) in reported pain and severity, which means nothing
    courses        flares of a burden s(t): 0, a rise over 1 to 7 days (one in eight comes within a day), a peak of 0.4 to 1.7,
                   1 to 5 days at it, a fall over 3 to 10 days, then at least 10 and on average 35 quiet days

**The event.** A day is *deteriorated* where s(t) >= 1: where the patient would have sought care outside the plan. Flares whose
peak stays below 1 look the same at first and never become events. The event is of the hidden burden, not of what is reported,
so that no rule on the four signs gives it exactly.

What is seen is the usual level plus the burden's share plus daily noise, on the scales of `home_sets.COLUMNS` (reported pain,
severity and respiratory rate are whole numbers). Days go missing (12%, and more the worse the patient is), so do single signs
(respiratory rate 20%, facial pain 10%, others 5%), and one patient in four pauses for 3 to 10 days.
"""

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from models.errors import Permanent
from models.evaluation.home_card import SYNTHETIC
from models.evaluation.home_sets import COLUMNS, MADE, Diaries, from_rows
from models.runtimes.home import FEATURES

SET: Final = SYNTHETIC
_START: Final = date(2026, 1, 1)
_USUAL: Final = ((1.5, 0.8), (2.5, 1.2), (16.0, 2.0), (2.5, 1.0))  # mean, deviation over patients: in the order of FEATURES
_NOISE: Final = (1.0, 0.9, 1.3, 0.9)  # from day to day
_MISSING: Final = (0.10, 0.05, 0.20, 0.05)
_DAY_MISSING: Final = 0.12
_EVENT: Final = 1.0  # burden


@dataclass(frozen=True, slots=True)
class Cohort:
    """What is generated; the same numbers give the same diaries."""

    patients: int = 800
    days: int = 90
    seed: int = 7

    @property
    def origin(self) -> str:
        """Say in the registry and the card what was learned from."""
        size = f"{self.patients} patients of {self.days} days, seed {self.seed}"
        return f"{SYNTHETIC} diaries: {size} (models/training/home_synthetic.py)"


def diaries(cohort: Cohort) -> Diaries:
    """Generate diaries, as `read_csv` would read them."""
    return from_rows(SET, rows(cohort))


def write_csv(cohort: Cohort, path: Path) -> None:
    """Write the diaries as a CSV file with the columns that a site's own would have, and the one that says that they are made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, (*COLUMNS, MADE))
        writer.writeheader()
        writer.writerows(rows(cohort))


def rows(cohort: Cohort) -> Iterator[dict[str, Any]]:
    """Yield one row a patient and day, as far as something was reported or the patient is deteriorated.

    Raises:
        Permanent: fewer than one patient, or than 14 days.
    """
    if cohort.patients < 1 or cohort.days < 14:
        raise Permanent("a cohort has at least 1 patient and 14 days")
    for number in range(cohort.patients):
        random = np.random.default_rng([cohort.seed, number])  # a patient stays the same in a larger cohort
        values, burden = _patient(random, cohort.days)
        first = _START + timedelta(days=int(random.integers(0, 180)))
        for day in range(cohort.days):
            seen, bad = values[day], burden[day] >= _EVENT
            if np.isnan(seen).all() and not bad:
                continue
            reported = {
                feature: "" if np.isnan(value) else f"{value:g}" for feature, value in zip(FEATURES, seen.tolist(), strict=True)
            }
            when = (first + timedelta(days=day)).isoformat()
            yield {"patient": f"{SET}-{cohort.seed}-{number:05d}", "day": when, **reported, "deteriorated": int(bad), MADE: 1}


def _patient(random: np.random.Generator, days: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return what is seen [days, 4], NaN where missing, and the hidden burden [days]."""
    burden = _burden(random, days)
    pain, stoicism = random.beta(0.8, 0.8), random.uniform(0.3, 1.2)
    usual = np.array([random.normal(mean, spread) for mean, spread in _USUAL])
    shown = np.array([3.0 * pain, 3.5 * pain * stoicism, 7.0 * (1 - pain), 1.5 + 1.5 * stoicism])
    values = usual + burden[:, None] * shown + random.normal(0, _NOISE, (days, len(_USUAL)))
    drift = 0.0
    for day in range(days):
        drift = 0.8 * drift + random.normal(0, 0.6)
        values[day, [1, 3]] += drift
    values[:, 0] = np.round(values[:, 0], 1)
    values[:, 1:] = np.round(values[:, 1:])
    values[:, [0, 1, 3]] = np.clip(values[:, [0, 1, 3]], 0, 10)
    values[:, 2] = np.clip(values[:, 2], 6, 60)
    values[random.random(values.shape) < _MISSING] = np.nan
    values[random.random(days) < _DAY_MISSING + 0.15 * np.minimum(burden, 1)] = np.nan
    if random.random() < 0.25:
        start = random.integers(0, days)
        values[start : start + random.integers(3, 11)] = np.nan
    return values, burden


def _burden(random: np.random.Generator, days: int) -> NDArray[np.float64]:
    burden = np.zeros(days)
    at = random.exponential(35)  # the first flare of a patient who enrols at any time
    while at < days:
        sudden = random.random() < 0.125
        rise = 1.0 if sudden else float(random.integers(2, 8))
        peak, stay, fall = random.uniform(0.4, 1.7), float(random.integers(1, 6)), float(random.integers(3, 11))
        times = np.cumsum([at, rise, stay, fall])
        burden = np.maximum(burden, np.interp(np.arange(days), times, [0, peak, peak, 0], left=0, right=0))
        at = times[-1] + 10 + random.exponential(25)
    return burden
