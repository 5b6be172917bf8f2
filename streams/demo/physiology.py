"""How vital signs go: a hidden severity over time, and what it does to each sign. Plausible on a chart, no model of a body.

A course gives severity in [0, 1] at hours since the epoch, by straight lines between points. Each sign is the patient's own
baseline, moved by severity, with noise that stays for a while (autoregressive), because people do not jump from beat to beat.
"""

import random
from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, NamedTuple


class Vitals(NamedTuple):
    """One set: /min, /min, %, mm[Hg], mm[Hg], Cel, ACVPU letter, oxygen L/min (0: room air)."""

    heart_rate: int
    respiratory_rate: int
    spo2: int
    systolic: int
    diastolic: int
    temperature: float
    consciousness: str
    oxygen: float


@dataclass(frozen=True, slots=True)
class Effect:
    """What full severity adds to each sign."""

    heart_rate: float = 45
    respiratory_rate: float = 14
    spo2: float = -9
    systolic: float = -45
    temperature: float = 1.9
    drowsy_from: float = 0.75  # severity from which consciousness changes
    drowsy: str = "C"


@dataclass(frozen=True, slots=True)
class Course:
    """Severity over hours, what it does, and the baseline where it is not an ordinary adult's."""

    points: tuple[tuple[float, float], ...]
    effect: Effect = Effect()
    baseline: Mapping[str, float] | None = None
    oxygen_from: float = 0.35  # severity from which staff give oxygen; above 1: never
    oxygen_base: float = 0.0

    def severity(self, hours: float) -> float:
        """Return the severity at a time."""
        index = bisect_right(self.points, hours, key=_hour)
        if index == 0:
            return self.points[0][1]
        if index == len(self.points):
            return self.points[-1][1]
        (a, low), (b, high) = self.points[index - 1], self.points[index]
        return low + (high - low) * (hours - a) / (b - a)


def _hour(point: tuple[float, float]) -> float:
    return point[0]


_SEPSIS: Final = Effect(heart_rate=52, respiratory_rate=16, spo2=-9, systolic=-52, temperature=2.3)
COURSES: Final[Mapping[str, Course]] = {
    "stable": Course(((0, 0.05),)),
    "sepsis-early": Course(((0, 0.12), (0.75, 0.2), (3, 0.85), (6, 0.95)), _SEPSIS),
    "sepsis-treated": Course(((0, 0.3), (1, 0.75), (2.5, 0.8), (6, 0.25), (12, 0.1)), _SEPSIS),
    "sepsis-late": Course(((0, 0.08), (2, 0.12), (5, 0.8), (9, 0.9)), _SEPSIS),
    "recovering": Course(((0, 0.4), (8, 0.1), (24, 0.05))),
    "fluid": Course(((0, 0.2), (4, 0.45), (10, 0.5)), Effect(30, 10, -7, 10, 0)),
    # home for these two is 88-92 %: on scale 1 they would alarm all day
    "copd": Course(((0, 0.05),), Effect(), {"spo2": 90, "respiratory_rate": 19}, oxygen_base=1.0),
    "copd-worse": Course(((0, 0.1), (2, 0.2), (5, 0.7)), Effect(30, 12, -7, 5, 0.6, drowsy_from=0.6, drowsy="V"),
                         {"spo2": 90, "respiratory_rate": 20}, oxygen_base=1.0),
    "child": Course(((0, 0.25), (6, 0.1)), Effect(40, 16, -5, -5, 1.2),
                    {"heart_rate": 98, "respiratory_rate": 24, "systolic": 100}),
    "pregnant": Course(((0, 0.3), (6, 0.15)), Effect(30, 8, -2, -12, 1.6), {"heart_rate": 92, "systolic": 108}, 2),
    "post-op": Course(((0, 0.22), (4, 0.1), (12, 0.05)), Effect(25, 6, -5, -18, 0.8), oxygen_base=1.0),
    "bleeding": Course(((0, 0.1), (2, 0.15), (4, 0.75), (5, 0.85), (8, 0.3)), Effect(62, 10, -3, -68, -0.8, 0.8)),
    "palliative": Course(((0, 0.5), (12, 0.75)), Effect(25, 8, -8, -35, 0.4, 0.7, "V"), oxygen_from=2),
    "opioid": Course(((0, 0.1), (2.5, 0.15), (4, 0.9), (5, 0.9), (6, 0.2)), Effect(-18, -9, -10, -18, -0.3, 0.6, "V")),
}  # fmt: skip

# sign: mean and spread over people, noise, how much noise stays from set to set
_BASE: Final = {
    "heart_rate": (76.0, 6.0, 3.0),
    "respiratory_rate": (15.5, 1.2, 0.9),
    "spo2": (97.0, 0.8, 0.6),
    "systolic": (128.0, 6.0, 4.0),
    "temperature": (36.7, 0.15, 0.12),
}
_STAYS: Final = 0.7


class Body:
    """One patient's signs over time. Ask in ascending time; the same seed gives the same answers."""

    __slots__ = ("_baseline", "_course", "_noise", "_rng")

    def __init__(self, seed: str, course: Course) -> None:
        self._rng = rng = random.Random(seed)
        self._course = course
        own = course.baseline or {}
        self._baseline = {sign: rng.gauss(own.get(sign, mean), spread) for sign, (mean, spread, _) in _BASE.items()}
        self._noise = dict.fromkeys(_BASE, 0.0)

    def vitals(self, hours: float) -> Vitals:
        """Return the set that would be charted at a time."""
        rng, course, effect, base, noise = self._rng, self._course, self._course.effect, self._baseline, self._noise
        severity = course.severity(hours)
        for sign, (_, _, spread) in _BASE.items():
            noise[sign] = _STAYS * noise[sign] + rng.gauss(0, spread)
        oxygen = course.oxygen_base
        if severity >= course.oxygen_from:
            oxygen += 2.0 if severity < 0.6 else 4.0
        relief = min(oxygen - course.oxygen_base, 4.0) * 0.6
        spo2 = base["spo2"] + effect.spo2 * severity + relief + noise["spo2"]
        systolic = base["systolic"] + effect.systolic * severity + noise["systolic"]
        return Vitals(
            heart_rate=_within(base["heart_rate"] + effect.heart_rate * severity + noise["heart_rate"], 28, 210),
            respiratory_rate=_within(
                base["respiratory_rate"] + effect.respiratory_rate * severity + noise["respiratory_rate"], 5, 55
            ),
            spo2=_within(spo2, 65, 100),
            systolic=_within(systolic, 55, 230),
            diastolic=_within(systolic * 0.6 + 4 + noise["heart_rate"] * 0.5, 30, 130),
            temperature=round(base["temperature"] + effect.temperature * severity + noise["temperature"], 1),
            consciousness=effect.drowsy if severity >= effect.drowsy_from else "A",
            oxygen=oxygen,
        )


def _within(value: float, low: int, high: int) -> int:
    return max(low, min(high, round(value)))
