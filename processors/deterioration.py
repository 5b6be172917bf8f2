"""The model's side of a patient: the hourly window it looks at, and its answer as an event carries it."""

from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache

import numpy as np

from models.runtimes.deterioration import FEATURES, HOURS
from models.tasks import Floats, ModelIdentity
from processors.events import Deterioration, Driver, ModelRef

__all__ = ["FEATURES", "HOURS", "HOUR_MS", "HourlyWindow", "deterioration_of", "number", "reference"]

HOUR_MS = 3_600_000
_COLUMN = {name: column for column, name in enumerate(FEATURES)}
_SYSTOLIC, _DIASTOLIC, _MEAN = (_COLUMN[name] for name in ("systolic", "diastolic", "mean_arterial"))

Entries = Iterable[tuple[int, float | str, int]]  # (observed, ms since 1970; value; rank, not used here), oldest first


def number(value: float | str) -> float:
    """Return a reading as the model takes it: 1 on oxygen, 0 on air; 0 alert, 1 for every other ACVPU letter."""
    if isinstance(value, str):
        return 0.0 if value in ("air", "A") else 1.0
    return value


class HourlyWindow:
    """The last `HOURS` clock hours of one patient, [HOURS, len(FEATURES)], the last value of each hour, newest hour last.

    A cache over a patient's history: `put` keeps it up in order, `of` builds it anew; both give the same array. Hours are those
    of UTC; the last row is the hour of the newest observation and usually not over yet.
    """

    __slots__ = ("_hour", "_values")

    def __init__(self) -> None:
        self._values = np.full((HOURS, len(FEATURES)), np.nan, np.float32)
        self._hour = -1  # hours since 1970 of the last row; -1: empty

    @classmethod
    def of(cls, entries: Mapping[str, Entries], until: int) -> "HourlyWindow":
        """Build it from a history of each parameter, leaving out what was observed after `until` (ms)."""
        window = cls()
        window._hour = until // HOUR_MS
        for name, values in entries.items():
            column = _COLUMN[name]
            for at, value, _ in values:
                row = HOURS - 1 - (window._hour - at // HOUR_MS)
                if at <= until and row >= 0:
                    window._values[row, column] = number(value)
        return window

    def put(self, parameter: str, at: int, value: float | str) -> None:
        """Add the newest value of a parameter."""
        hour = at // HOUR_MS
        if hour > self._hour:
            self._advance(hour)
        row = HOURS - 1 - (self._hour - hour)
        if row >= 0:
            self._values[row, _COLUMN[parameter]] = number(value)

    def _advance(self, hour: int) -> None:
        by = hour - self._hour
        if self._hour < 0 or by >= HOURS:
            self._values.fill(np.nan)
        else:
            self._values[:-by] = self._values[by:]
            self._values[-by:] = np.nan
        self._hour = hour

    def array(self) -> Floats | None:
        """Return a copy for the model, NaN where not measured, or None when nothing at all is known.

        Where the mean arterial pressure was not measured it is (systolic + 2 * diastolic) / 3 of the same hour.
        """
        values = self._values.copy()
        mean = values[:, _MEAN]
        derived = (values[:, _SYSTOLIC] + 2 * values[:, _DIASTOLIC]) / 3
        np.copyto(mean, derived, where=np.isnan(mean))
        return None if np.isnan(values).all() else values


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
        Driver(name=name, effect=round(float(effect), 4))
        for name, effect in zip(FEATURES, () if drivers is None else drivers, strict=False)
    ]
    strongest = sorted((one for one in named if one.effect), key=lambda one: -abs(one.effect))[:most]
    return Deterioration(
        probability=round(float(probability), 4),
        horizon_hours=horizon_hours,
        drivers=tuple(strongest),
        model=identity if isinstance(identity, ModelRef) else reference(identity),
    )
