"""NEWS2 by the chart, of sets of vital signs as they lie on their topic: the verifier's own, of none of Vigil's code.

Royal College of Physicians, National Early Warning Score (NEWS) 2, 2017: charts 1 and 2, SpO2 scale 1. The loads' sets hold all
seven parameters, so what a set scores rests on nothing that came before; what corrects one stands beside it at the same time.
"""

from collections.abc import Iterable, Mapping
from typing import Any, Final

_NAMES: Final = {
    "9279-1": "respiratory_rate",
    "59408-5": "spo2",
    "2708-6": "spo2",
    "8480-6": "systolic",
    "8867-4": "heart_rate",
    "8310-5": "temperature",
    "3151-8": "oxygen",
    "67775-7": "consciousness",
}
PARAMETERS: Final = frozenset(_NAMES.values())
_ALERT: Final = frozenset({"A", "LA9340-6", "Alert"})  # a letter, LOINC's answer, its words
_AIR: Final = frozenset({"air", "RA", "room air"})
# Up to and with this value so many points; what lies above the last has its own.
_CHART: Final[Mapping[str, tuple[tuple[tuple[float, int], ...], int]]] = {
    "respiratory_rate": (((8, 3), (11, 1), (20, 0), (24, 2)), 3),
    "spo2": (((91, 3), (93, 2), (95, 1)), 0),
    "systolic": (((90, 3), (100, 2), (110, 1), (219, 0)), 3),
    "heart_rate": (((40, 3), (50, 1), (90, 0), (110, 1), (130, 2)), 3),
    "temperature": (((35.0, 3), (36.0, 1), (38.0, 0), (39.0, 1)), 2),
}
RANK: Final = {"low": 0, "low-medium": 1, "medium": 2, "high": 3}

Points = dict[str, int]


def points_of(observations: Iterable[Mapping[str, Any]]) -> Points:
    """Say what each parameter scores that observations give; one that cannot be read so is left out."""
    found: Points = {}
    for one in observations:
        name, value = _NAMES.get(one["code"]), one.get("value")
        if name is None or value is None or one.get("comparator") or one.get("observed_at"):
            continue
        if name == "consciousness":
            found[name] = 0 if str(value).partition("^")[0] in _ALERT else 3
        elif name == "oxygen":
            found[name] = 0 if value in _AIR or (isinstance(value, int | float) and value == 0) else 2
        elif isinstance(value, int | float):
            bands, above = _CHART[name]
            found[name] = next((points for most, points in bands if value <= most), above)
    return found


def band(points: Points) -> str:
    """Return the clinical risk: high from 7, medium from 5, low-medium for a single parameter with 3 points, else low."""
    total = sum(points.values())
    return "high" if total >= 7 else "medium" if total >= 5 else "low-medium" if 3 in points.values() else "low"
