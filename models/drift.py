"""Drift: how far what a model sees and says now is from what it saw and said when it was measured.

A reference is a histogram of each figure (a note's length, entities of a label, a vital sign's last value, the score), written by
`vigil models reference`. While the model serves, the same figures are counted in windows and compared by the population
stability index, PSI = sum over bins of (now - then) x ln(now / then) (Lewis 1994; by convention < 0.1 stable, > 0.25 shifted).
Counts only: no text, no patient, no time.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from models.errors import Permanent
from models.registry import DRIFT, ModelEntry
from models.tasks import Floats, Span

BINS: Final = 10  # by deciles of the reference; with 500 observations a stable figure stays below 0.05
SHIFTED: Final = 0.25
STABLE: Final = 0.1
_SMOOTH: Final = 0.5  # observations added to every bin: an empty one would make the index infinite
_ENTITIES: Final = "entities: "
_SIDE: Final = 256  # pixels a side that brightness is taken from: a large image would hold the loop up
FEWEST: Final = 100  # observations that make a reference
_DIRECTIONS: Final = 8  # that vectors are seen along

Figures = Mapping[str, NDArray[Any]]
"""Name -> one value of each observation, NaN where there is none."""


@dataclass(frozen=True, slots=True)
class Histogram:
    """`edges` are inner, ascending; `counts` has a bin below each edge, one above the last, and one for what is missing."""

    edges: tuple[float, ...]
    counts: tuple[int, ...]

    def count(self, values: NDArray[Any]) -> NDArray[np.int64]:
        """Count values into the bins."""
        there = values[~np.isnan(values)]
        found = np.bincount(np.searchsorted(self.edges, there, side="left"), minlength=len(self.edges) + 1)
        return np.append(found, len(values) - len(there)).astype(np.int64)


def psi(then: Sequence[int] | NDArray[np.int64], now: Sequence[int] | NDArray[np.int64]) -> float:
    """Return the population stability index of two counts over the same bins."""
    shares = [(np.asarray(counts, float) + _SMOOTH) / (np.sum(counts) + _SMOOTH * len(counts)) for counts in (then, now)]
    return float(((shares[1] - shares[0]) * np.log(shares[1] / shares[0])).sum())


@dataclass(frozen=True, slots=True)
class Reference:
    """What is compared with, and what it was made of, in words."""

    of: str
    figures: Mapping[str, Histogram]

    def write(self, path: Path) -> None:
        """Write it."""
        body = {"of": self.of, "figures": {name: {"edges": h.edges, "counts": h.counts} for name, h in self.figures.items()}}
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(body, indent=1) + "\n", encoding="utf-8")

    @classmethod
    def read(cls, path: Path) -> "Reference":
        """Read it. Raises `Permanent` where the file is no reference."""
        try:
            body = json.loads(path.read_text(encoding="utf-8"))
            figures = {
                str(name): Histogram(tuple(map(float, one["edges"])), tuple(map(int, one["counts"])))
                for name, one in body["figures"].items()
            }
            if any(len(h.counts) != len(h.edges) + 2 for h in figures.values()):
                raise ValueError("counts and edges differ in length")
            return cls(str(body["of"]), figures)
        except (ValueError, KeyError, TypeError, AttributeError, UnicodeDecodeError) as error:
            raise Permanent(f"{path} is no reference of drift", hint="make it anew: vigil models reference") from error


def places(entry: ModelEntry, folder: Path, site: Path | None) -> list[Path]:
    """Return where a model's reference may lie, the site's own first: beside its registry file, named by the model's digest."""
    own = [site.parent / "drift" / f"{entry.name}-{entry.digest[:12]}.json"] if site is not None else []
    return [*own, folder / DRIFT]


def measured(figures: Figures, of: str) -> Reference:
    """Make a reference. Raises `Permanent` for fewer than `FEWEST` observations."""
    made: dict[str, Histogram] = {}
    for name, values in figures.items():
        if len(values) < FEWEST:
            raise Permanent(f"a reference of {len(values)} observations says nothing", hint=f"give at least {FEWEST}")
        there = values[~np.isnan(values)]
        bins = Histogram(tuple(_edges(there).tolist()), ())
        made[name] = Histogram(bins.edges, tuple(bins.count(values).tolist()))
    return Reference(of, made)


def _edges(values: NDArray[Any]) -> NDArray[np.float64]:
    """Cut by deciles; a value that many share (a count of none, a constant) gets a bin of its own, so that less of it shows too."""
    if not len(values):
        return np.empty(0)
    deciles = np.quantile(values.astype(float), np.linspace(0, 1, BINS + 1))
    shared = deciles[1:][np.diff(deciles) == 0]
    return np.unique(np.concatenate([deciles[1:-1], shared, np.nextafter(shared, -np.inf)]))


class Drift:
    """Counts what a model sees and says, and compares once a window is full."""

    def __init__(
        self,
        reference: Reference,
        *,
        window: int,
        publish: Callable[[str, float, float], None],
        alarm: Callable[[str, float], None],
    ) -> None:
        """`publish(figure, psi, share missing)` is told of each full window, `alarm(figure, psi)` once when one has shifted."""
        self.reference, self._window = reference, window
        self._publish, self._alarm = publish, alarm
        self._shifted: set[str] = set()
        self._empty()

    def _empty(self) -> None:
        self._seen = 0
        self._counts = {name: np.zeros(len(h.counts), np.int64) for name, h in self.reference.figures.items()}

    def observe(self, figures: Figures) -> None:
        """Count observations. Figures that the reference lacks are passed over."""
        known = {name: values for name, values in figures.items() if name in self._counts}
        if not known:
            return
        for name, values in known.items():
            self._counts[name] += self.reference.figures[name].count(values)
        self._seen += max(len(values) for values in known.values())
        if self._seen >= self._window:
            self._compare()
            self._empty()

    def _compare(self) -> None:
        for name, now in self._counts.items():
            if not now.sum():
                continue
            index = psi(self.reference.figures[name].counts, now)
            self._publish(name, index, float(now[-1] / now.sum()))
            if index >= SHIFTED and name not in self._shifted:
                self._shifted.add(name)
                self._alarm(name, index)
            elif index < STABLE:
                self._shifted.discard(name)


def of_notes(texts: Sequence[str], found: Sequence[Sequence[Span]], labels: Sequence[str]) -> Figures:
    """Return the figures of notes and of the entities found in them; entities by 1,000 characters: long notes are as short ones."""
    thousands = np.maximum(np.array([len(text) for text in texts], float), 1.0) / 1000
    figures: dict[str, NDArray[Any]] = {
        "characters": thousands * 1000,
        "entities": np.array([len(spans) for spans in found]) / thousands,
        "mean score": np.array([np.mean([span.score for span in spans]) if spans else np.nan for spans in found], float),
    }
    for label in labels:
        figures[_ENTITIES + label] = np.array([sum(span.label == label for span in spans) for spans in found]) / thousands
    return figures


def labels_in(reference: Reference) -> list[str]:
    """Return the entity labels that a reference counts."""
    return [name.removeprefix(_ENTITIES) for name in reference.figures if name.startswith(_ENTITIES)]


def of_texts(texts: Sequence[str], vectors: Floats) -> Figures:
    """Return the figures of passages and of their vectors [n, dimensions], seen along a few fixed directions.

    The directions are the first rows of the discrete cosine transform: orthogonal, the same on every machine, and of no meaning;
    where a set of vectors moves, most projections of it move.
    """
    size = vectors.shape[1]
    waves = np.arange(1, _DIRECTIONS + 1)[:, None] * (np.arange(size) + 0.5) * (np.pi / size)
    along = vectors @ (np.cos(waves) * np.sqrt(2 / size)).T
    figures: dict[str, NDArray[Any]] = {"characters": np.array([len(text) for text in texts], float)}
    return {**figures, **{f"direction {number}": along[:, number - 1] for number in range(1, _DIRECTIONS + 1)}}


def of_images(images: Sequence[NDArray[np.uint8]], scores: Floats, labels: Sequence[str]) -> Figures:
    """Return the figures of 8-bit images, brightness and contrast in 0 to 1, and of their scores [n, labels]."""
    small = [image[:: 1 + image.shape[0] // _SIDE, :: 1 + image.shape[1] // _SIDE] for image in images]
    figures: dict[str, NDArray[Any]] = {
        "brightness": np.array([image.mean() for image in small]) / 255,
        "contrast": np.array([image.std() for image in small]) / 255,
        "width by height": np.array([image.shape[1] / image.shape[0] for image in images], float),
    }
    return {**figures, **{f"score: {label}": scores[:, column] for column, label in enumerate(labels)}}


def of_windows(windows: Floats, features: Sequence[str], scores: Floats) -> Figures:
    """Return the figures of vital signs [n, hours, features], the last value of each or NaN, and of their scores [n]."""
    hours = windows.shape[1]
    newest = hours - 1 - np.argmax(~np.isnan(windows[:, ::-1]), axis=1)  # the newest hour where there is none at all: NaN
    last = np.take_along_axis(windows, newest[:, None], axis=1)[:, 0]
    return {**{name: last[:, column] for column, name in enumerate(features)}, "score": scores}
