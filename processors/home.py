"""Scores of home monitoring diaries, with what drove them. Assistive: it points at change, never a diagnosis, and alerts nobody.

It runs on a table and not in the vitals lane, whose state holds a day of hourly vital signs, not a week of reported symptoms.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np

from models.evaluation.home_sets import Diaries
from models.tasks import HomeModel

_PIECE: Final = 1024  # windows at once


@dataclass(frozen=True, slots=True)
class HomeDriver:
    """How far one sign moved a score (signed, in probability), and the days whose values did: (days ago, value, effect)."""

    name: str
    effect: float
    days: tuple[tuple[int, float, float], ...]


@dataclass(frozen=True, slots=True)
class HomeScore:
    """One patient's probability of deterioration within `horizon_days` after `day`; drivers, strongest first.

    `probability` is None where no value was reported in the days that the model looks at.
    """

    patient: str
    day: str
    probability: float | None
    horizon_days: int
    drivers: tuple[HomeDriver, ...]


def scores(model: HomeModel, diaries: Diaries, *, every_day: bool = False) -> Iterator[HomeScore]:
    """Score each patient's last day (or every day), in order of patient and day; the unscored too, so that nobody is missing.

    Raises `Poison` where the model answers with NaN.
    """
    stays = diaries.stays
    rows = np.arange(len(stays.values)) if every_day else stays.starts[1:] - 1
    owner = stays.stay_of
    for at in range(0, len(rows), _PIECE):
        chosen = rows[at : at + _PIECE]
        windows = diaries.windows(chosen)
        some = np.asarray(~np.isnan(windows).all(axis=(1, 2)), np.bool_)
        at_scored = np.cumsum(some) - 1
        windows = windows[some]
        if len(windows):
            found, signs, days = model.score(windows), model.attribute(windows), model.attribute_days(windows)
        for row, scored, number in zip(chosen.tolist(), some.tolist(), at_scored.tolist(), strict=True):
            if not scored:
                yield HomeScore(stays.ids[owner[row]], diaries.day(row), None, model.horizon_days, ())
                continue
            drivers = []
            for column in np.argsort(-np.abs(signs[number]), kind="stable").tolist():
                told = [
                    (model.days - 1 - day, float(windows[number, day, column]), float(days[number, day, column]))
                    for day in range(model.days)
                    if not np.isnan(windows[number, day, column])
                ]
                if told:
                    drivers.append(HomeDriver(model.features[column], float(signs[number, column]), tuple(told)))
            yield HomeScore(stays.ids[owner[row]], diaries.day(row), float(found[number]), model.horizon_days, tuple(drivers))
