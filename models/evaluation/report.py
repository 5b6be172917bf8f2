"""What an evaluation hands out: figures with intervals, what plots are drawn from, and what was left out and why.

One shape for every task, so that the table, the JSON file, the plots and the card's figures each have one writer.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.evaluation.measures import FEWEST, FEWEST_OF_A_CLASS, Metric
from models.tasks import ModelIdentity

# Called as work goes on: (what, done, of how many).
Progress = Callable[[str, int, int], None]


def silent(what: str, done: int, total: int) -> None:
    """Show nothing."""


@dataclass(frozen=True, slots=True, eq=False)
class Ranking:
    """Scores of several methods on the same yes/no labels: drawn as a ROC and a precision-recall curve."""

    title: str
    labels: NDArray[Any]  # [n], 1 where positive
    scores: Mapping[str, NDArray[Any]]  # method -> [n], the model's first


@dataclass(frozen=True, slots=True, eq=False)
class Reliability:
    """Calibration: (mean score, observed rate, items) for each bin, lowest first."""

    title: str
    points: tuple[tuple[float, float, int], ...]
    observed: str  # what the observed rate is of


@dataclass(frozen=True, slots=True, eq=False)
class Confusion:
    """Counts of what is so (rows) against what was said (columns)."""

    title: str
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    counts: NDArray[np.int64]  # [rows, columns]


@dataclass(frozen=True, slots=True, eq=False)
class Curves:
    """Lines in the unit square or over a count: name -> (x, y). A single point is drawn as a mark."""

    title: str
    x: str
    y: str
    lines: Mapping[str, tuple[Sequence[float], Sequence[float]]]
    logarithmic: bool = False


Chart = Ranking | Reliability | Confusion | Curves


@dataclass(frozen=True, slots=True, eq=False)
class Section:
    """One set of data: what it is in numbers, its figures, and its charts."""

    name: str
    about: str
    metrics: tuple[Metric, ...]
    charts: tuple[Chart, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class Evaluation:
    """A whole evaluation. `notes` say what was left out or passed over, and why."""

    task: str
    model: ModelIdentity | None  # None: rules, which have no weights
    sections: tuple[Section, ...]
    notes: tuple[str, ...] = ()

    @property
    def remarks(self) -> tuple[str, ...]:
        """The notes, and why there is no interval where there is none."""
        metrics = [metric for section in self.sections for metric in section.metrics]
        if all(math.isfinite(metric.low) for metric in metrics):
            return self.notes
        return (
            *self.notes,
            f"an interval is resampled from at least {FEWEST} ({FEWEST_OF_A_CLASS} of either class for a ranking); there is none "
            "either where every resample says 0 or every one 1: take such a figure as an example, not as a measurement",
        )

    def as_json(self) -> dict[str, Any]:
        """Return the report: `metrics` holds one object per figure (name, value, low, high, n, baselines).

        A baseline is such an object too; its own `baselines` hold the paired `difference`, the figure less the baseline.

        What cannot be told (an interval that is not bootstrapped, a figure of one class alone) is null, never NaN.
        """
        model = None
        if self.model is not None:
            model = {"name": self.model.name, "version": self.model.version, "digest": self.model.digest}
        return {
            "task": self.task,
            "model": model,
            "sets": [{"name": section.name, "about": section.about} for section in self.sections],
            "notes": list(self.remarks),
            "metrics": [
                _plain(metric.as_json()) | {"name": f"{section.name}: {metric.name}"}
                for section in self.sections
                for metric in section.metrics
            ],
        }

    def as_markdown(self) -> str:
        """Return the figures as the card shows them."""
        by = f"{self.model.name} {self.model.version}, digest `{self.model.digest}`" if self.model else "rules, no weights"
        parts = [f"## Measured by `vigil models evaluate {self.task}`", f"{by}. Intervals are 95%."]
        for section in self.sections:
            parts += [f"### {section.name}", section.about, "\n".join(_rows(section))]
        if self.remarks:
            parts += ["### Left out", "\n".join(f"- {note}" for note in self.remarks)]
        return "\n\n".join(parts) + "\n"

    def quality(self) -> dict[str, float]:
        """Return the figures as a registry entry keeps them: name -> value, rounded; what cannot be told is left out."""
        found = {f"{section.name}: {metric.name}": metric.value for section in self.sections for metric in section.metrics}
        return {name: round(value, 4) for name, value in found.items() if math.isfinite(value)}


def beside(metric: Metric) -> str:
    """Write a figure's baselines in one line, with the paired difference where it was measured."""
    parts = []
    for name, other in metric.baselines.items():
        gain = other.baselines.get("difference")
        parts.append(f"{name} {other}" + (f", difference {signed(gain)}" if gain and math.isfinite(gain.value) else ""))
    return "; ".join(parts)


def signed(difference: Metric) -> str:
    """Write a paired difference with its sign, and its interval where there is one."""
    if math.isfinite(difference.low) and math.isfinite(difference.high):
        return f"{difference.value:+.3f} ({difference.low:+.3f} to {difference.high:+.3f})"
    return f"{difference.value:+.3f}"


def _rows(section: Section) -> list[str]:
    rows = ["| | value (95%) | n | beside it |", "|---|---|---|---|"]
    return rows + [f"| {m.name} | {m} | {m.n:,} | {beside(m)} |" for m in section.metrics]


def _plain(raw: dict[str, Any]) -> dict[str, Any]:
    """JSON has no NaN."""
    plain: dict[str, Any] = {}
    for key, value in raw.items():
        if key == "baselines":
            plain[key] = {name: _plain(other) for name, other in value.items()}
        else:
            plain[key] = None if isinstance(value, float) and not math.isfinite(value) else value
    return plain
