"""What is wrong with the invented patients, in words: read from `pictures.toml`, which was written for this project."""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final


@dataclass(frozen=True, slots=True)
class Picture:
    """One diagnosis. `complaints` and `signs` are there, `denied` and `absent` are not; `image`: what a chest film shows."""

    name: str
    image: str
    complaints: tuple[str, ...]
    denied: tuple[str, ...]
    signs: tuple[str, ...]
    absent: tuple[str, ...]
    tests: tuple[str, ...]
    drugs: tuple[str, ...]
    plans: tuple[str, ...]
    nursing: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Reading:
    """How a radiologist words what a film shows."""

    findings: str
    impression: str


def _frozen(table: Mapping[str, Any]) -> dict[str, Any]:
    return {key: tuple(value) if isinstance(value, list) else value for key, value in table.items()}


_DATA: Final = tomllib.loads(Path(__file__).with_suffix(".toml").read_text(encoding="utf-8"))
COMMON: Final[Mapping[str, tuple[str, ...]]] = _frozen(_DATA["common"])
PICTURES: Final[Mapping[str, Picture]] = {name: Picture(**_frozen(table)) for name, table in _DATA["pictures"].items()}
READINGS: Final[Mapping[str, Reading]] = {name: Reading(**table) for name, table in _DATA["readings"].items()}
