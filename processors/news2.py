"""NEWS2: the National Early Warning Score 2 of the Royal College of Physicians (London, 2017), exactly.

Reference: RCP, "National Early Warning Score (NEWS) 2: Standardising the assessment of acute-illness severity in the NHS",
updated report of a working party, 2017; chart 1 (the score), chart 2 (thresholds and triggers). For 16 years and older, not in
pregnancy; with care after spinal cord injury, which Vigil cannot know of. Scale 2 for SpO2 only on a clinician's recorded decision.

Values are rounded first, half up: temperature to 0.1, the others to whole numbers. What is missing scores nothing and is named: a
total with something missing is "at least".
"""

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from datetime import datetime
from decimal import ROUND_HALF_UP, Decimal
from functools import lru_cache
from typing import Literal

from processors.events import News2, Parameter, RefusedReading, trusted

Scale = Literal[1, 2]
Band = Literal["low", "low-medium", "medium", "high"]

# In the chart's order; the names are those of processors.deterioration.FEATURES.
PARAMETERS: tuple[str, ...] = (
    "respiratory_rate",
    "spo2",
    "oxygen",
    "systolic",
    "heart_rate",
    "consciousness",
    "temperature",
)
UNITS: dict[str, str] = {
    "respiratory_rate": "/min",
    "spo2": "%",
    "oxygen": "",
    "systolic": "mm[Hg]",
    "heart_rate": "/min",
    "consciousness": "",
    "temperature": "Cel",
}

Chart = tuple[tuple[float, int], ...]  # (highest value of the band, points); values above the last one score OVER
_REST = float("inf")
CHART: dict[str, Chart] = {
    "respiratory_rate": ((8, 3), (11, 1), (20, 0), (24, 2), (_REST, 3)),
    "systolic": ((90, 3), (100, 2), (110, 1), (219, 0), (_REST, 3)),
    "heart_rate": ((40, 3), (50, 1), (90, 0), (110, 1), (130, 2), (_REST, 3)),
    "temperature": ((35.0, 3), (36.0, 1), (38.0, 0), (39.0, 1), (_REST, 2)),
}
SPO2_SCALE_1: Chart = ((91, 3), (93, 2), (95, 1), (_REST, 0))
SPO2_SCALE_2_ON_AIR: Chart = ((83, 3), (85, 2), (87, 1), (_REST, 0))  # 93 and more on air is no fault of treatment
SPO2_SCALE_2_ON_OXYGEN: Chart = ((83, 3), (85, 2), (87, 1), (92, 0), (94, 1), (96, 2), (_REST, 3))
WORDS: dict[str, dict[str, int]] = {
    "oxygen": {"air": 0, "oxygen": 2},
    "consciousness": {"A": 0, "C": 3, "V": 3, "P": 3, "U": 3},
}

URGENT = 5  # total that asks for an urgent response (medium)
EMERGENCY = 7  # total that asks for an emergency response (high)

_TENTH, _WHOLE = Decimal("0.1"), Decimal("1")


def rounded(name: str, value: float) -> float:
    """Round as the chart is read: half up, on the decimal digits (the binary 38.05 lies below 38.05)."""
    step = _TENTH if name == "temperature" else _WHOLE
    return float(Decimal(repr(float(value))).quantize(step, ROUND_HALF_UP))


@lru_cache(maxsize=16384)
def points(name: str, value: float | str, scale: Scale = 1, on_oxygen: bool | None = None) -> tuple[float | str, int]:
    """Return the value as the chart reads it and its points.

    `scale` and `on_oxygen` matter for SpO2 alone. On scale 2 with oxygen unknown a saturation above 92 scores nothing: it may be
    on air, the true points may be higher, and oxygen is named as missing.

    Raises:
        KeyError: no parameter of NEWS2 has this name, or the word is not one of `WORDS`.
    """
    if isinstance(value, str):
        return value, WORDS[name][value]
    if name != "spo2":
        chart = CHART[name]
    elif scale == 1:
        chart = SPO2_SCALE_1
    else:
        chart = SPO2_SCALE_2_ON_OXYGEN if on_oxygen else SPO2_SCALE_2_ON_AIR
    number = rounded(name, value)
    return number, chart[bisect_left(chart, (number,))][1]


def one_band(name: str, bound: float, *, above: bool) -> bool:
    """Tell whether all values above a bound, or below it, have the same points as it, on either scale and on air or oxygen.

    Raises `KeyError` for what has no number in NEWS2.
    """
    charts = (SPO2_SCALE_1, SPO2_SCALE_2_ON_AIR, SPO2_SCALE_2_ON_OXYGEN) if name == "spo2" else (CHART[name],)
    number = rounded(name, bound)
    return all(bisect_left(chart, (number,)) == (len(chart) - 1 if above else 0) for chart in charts)


def total(
    parameters: Sequence[Parameter], missing: Sequence[str], scale: Scale, refused: Sequence[RefusedReading] = ()
) -> News2:
    """Add up what was scored. `missing` names the parameters that are not known, `refused` says why of some."""
    scored = [one.points for one in parameters]
    sum_, three = sum(scored), 3 in scored
    return trusted(
        News2,
        {
            "total": sum_,
            "at_least": bool(missing),
            "missing": tuple(missing),
            "single_three": three,
            "scale": scale,
            "band": band(sum_, three),
            "parameters": tuple(parameters),
            "refused": tuple(refused),
        },
    )


def band(total: int, single_three: bool) -> Band:
    """Return the clinical risk: high from 7, medium from 5, low-medium for a single parameter with 3 points, else low."""
    if total >= EMERGENCY:
        return "high"
    if total >= URGENT:
        return "medium"
    return "low-medium" if single_three else "low"


def score(values: Mapping[str, tuple[float | str, datetime]], *, scale: Scale = 1) -> News2:
    """Score what is known of one patient: name -> (value in `UNITS`, ACVPU letter, air or oxygen; when observed)."""
    known = values.get("oxygen")
    on_oxygen = None if known is None else known[0] == "oxygen"
    found: list[Parameter] = []
    for name in PARAMETERS:
        if name in values:
            value, one = points(name, values[name][0], scale, on_oxygen)
            found.append(Parameter(name=name, value=value, unit=UNITS[name], points=one, observed_at=values[name][1]))
    return total(found, [name for name in PARAMETERS if name not in values], scale)
