"""The model's side of a patient: the hourly window it looks at, and its answer as an event carries it."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from models.runtimes.deterioration import FEATURES, HOURS, attribute_steps
from models.tasks import DeteriorationModel, Floats, ModelIdentity
from processors.events import Deterioration, Driver, ModelRef, trusted

__all__ = [
    "FEATURES",
    "HOURS",
    "HOUR_MS",
    "HourDriver",
    "HourlyWindow",
    "deterioration_of",
    "drivers_by_hour",
    "number",
    "reference",
]

HOUR_MS = 3_600_000
_COLUMN = {name: column for column, name in enumerate(FEATURES)}
_SYSTOLIC, _DIASTOLIC, _MEAN = (_COLUMN[name] for name in ("systolic", "diastolic", "mean_arterial"))

_NAN = float("nan")

Row = list[float]
Entries = Iterable[tuple[int, float | str, int]]  # (observed, ms since 1970; value; rank, not used here), oldest first


def number(value: float | str) -> float:
    """Return a reading as the model takes it: 1 on oxygen, 0 on air; 0 alert, 1 for every other ACVPU letter."""
    if isinstance(value, str):
        return 0.0 if value in ("air", "A") else 1.0
    return value


class HourlyWindow:
    """The last `HOURS` clock hours of one patient, [HOURS, len(FEATURES)], the last value of each hour, newest hour last.

    A cache over a patient's history: `put` keeps it up in order, `of` builds it anew; both give the same array. Hours are those
    of UTC; the last row is the hour of the newest observation and usually not over yet. Where the mean arterial pressure was not
    measured it is (systolic + 2 * diastolic) / 3 of the same hour.
    """

    __slots__ = ("_hour", "_past", "_row")

    def __init__(self) -> None:
        self._past = np.full((HOURS, len(FEATURES)), np.nan, np.float32)  # its last row is filled in by `array`
        self._row: Row = [_NAN] * len(FEATURES)  # the newest hour, as measured
        self._hour = -1  # hours since 1970 of the newest row; -1: empty

    @classmethod
    def of(cls, entries: Mapping[str, Entries], until: int) -> "HourlyWindow":
        """Build it from a history of each parameter, leaving out what was observed after `until` (ms)."""
        window = cls()
        last = until // HOUR_MS
        rows: dict[int, Row] = {}
        for name, values in entries.items():
            column = _COLUMN[name]
            for at, value, _ in values:
                hour = at // HOUR_MS
                if at <= until and last - hour < HOURS:
                    if hour not in rows:
                        rows[hour] = [_NAN] * len(FEATURES)
                    rows[hour][column] = number(value)
        if rows:
            window._hour = last
            window._row = rows.pop(last, window._row)
            for hour, row in rows.items():
                window._past[HOURS - 1 - (last - hour)] = _derived(row)
        return window

    def put(self, parameter: str, at: int, value: float | str) -> bool:
        """Add the newest value of a parameter; false: it belongs to an hour that is closed, and `of` must build anew."""
        hour = at // HOUR_MS
        if hour != self._hour:
            if hour < self._hour:
                return False
            self._advance(hour)
        self._row[_COLUMN[parameter]] = number(value)
        return True

    def _advance(self, hour: int) -> None:
        by = hour - self._hour
        if self._hour < 0 or by >= HOURS:
            self._past.fill(np.nan)
        else:
            self._past[-1] = _derived(self._row)
            self._past[:-by] = self._past[by:]
            self._past[-by:] = np.nan
        self._row = [_NAN] * len(FEATURES)
        self._hour = hour

    def array(self) -> Floats | None:
        """Return a copy for the model, NaN where not measured, or None when nothing at all is known."""
        if self._hour < 0:
            return None
        values = self._past.copy()
        values[-1] = _derived(self._row)
        return values


def _derived(row: Row) -> Row:
    """Return an hour's row with the mean arterial pressure, if it was not measured and can be had from the others."""
    if row[_MEAN] == row[_MEAN] or row[_SYSTOLIC] != row[_SYSTOLIC]:
        return row
    return [*row[:_MEAN], (row[_SYSTOLIC] + 2 * row[_DIASTOLIC]) / 3, *row[_MEAN + 1 :]]


@lru_cache(maxsize=64)
def reference(identity: ModelIdentity) -> ModelRef:
    """Return a model's identity as events carry it."""
    return ModelRef(name=identity.name, version=identity.version, digest=identity.digest)


def deterioration_of(
    probability: float,
    drivers: Sequence[float] | None,
    identity: ModelIdentity | ModelRef,
    horizon_hours: int,
    *,
    most: int = 3,
) -> Deterioration:
    """Put the model's answer into words: rounded to 4 decimals, so that a figure is the same wherever it is computed.

    `drivers` are the signed effects in the order of `FEATURES` (None: not asked for); the `most` strongest that are not 0 are kept.
    """
    named = [
        (name, round(float(effect), 4)) for name, effect in zip(FEATURES, () if drivers is None else drivers, strict=False)
    ]
    strongest = sorted((one for one in named if one[1]), key=lambda one: -abs(one[1]))[:most]
    if not 0 <= probability <= 1:
        raise ValueError("a probability outside 0 to 1")
    return trusted(
        Deterioration,
        {
            "probability": round(float(probability), 4),
            "horizon_hours": horizon_hours,
            "drivers": tuple(Driver(name=name, effect=effect) for name, effect in strongest),
            "model": identity if isinstance(identity, ModelRef) else reference(identity),
        },
    )


@dataclass(frozen=True, slots=True)
class HourDriver:
    """How far one value moved a score (signed, in probability): the vital sign, hours before the newest, value measured."""

    name: str
    hours_ago: int
    value: float
    effect: float


def drivers_by_hour(model: DeteriorationModel, window: Floats) -> tuple[HourDriver, ...]:
    """Say which values of a window [hours, f] drove its score, strongest first; those that changed nothing are left out.

    Up to hours x f scores: for who looks closer at one score. Raises `Poison` as the model does.
    """
    effects = attribute_steps(model.score, window[None])[0]
    told = [
        HourDriver(model.features[column], model.hours - 1 - hour, float(window[hour, column]), float(effects[hour, column]))
        for hour, column in np.argwhere(effects).tolist()
    ]
    return tuple(sorted(told, key=lambda one: -abs(one.effect)))
