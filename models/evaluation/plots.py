"""The plots of an evaluation as PNG files: ROC, precision-recall, calibration, confusion, and curves. Needs matplotlib.

matplotlib comes with the extras `train` and `bench`; who has neither gets the figures without the plots.
"""

import re
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

import numpy as np

from models.evaluation.report import Chart, Confusion, Curves, Evaluation, Ranking, Reliability

# Okabe and Ito's colours (2008): told apart by the colour blind too; the model's own comes first. Violet for their yellow, which
# a white sheet swallows.
_COLOURS: Final = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#999999", "#5D3A9B")
_DASHES: Final = ("-", "--", ":")  # of many curves three are drawn alike: colours that resemble each other lie further apart
_FEW: Final = 4  # curves from which on a legend would cover them: it stands beside
_SETTLED: Final = 10  # hits from which on a precision is more than luck
_MOST_POINTS: Final = 2000  # of one curve: more cannot be seen


def available() -> bool:
    """Say whether plots can be drawn here."""
    return find_spec("matplotlib") is not None


def draw(evaluation: Evaluation, folder: Path) -> list[Path]:
    """Draw every chart into `folder` and return the files, named for task, set and chart."""
    from matplotlib.figure import Figure  # no pyplot: it keeps global state and looks for a display

    folder.mkdir(parents=True, exist_ok=True)
    made: list[Path] = []
    for section in evaluation.sections:
        for chart in section.charts:
            for kind, panel in _panels(chart):
                drawing = Figure(figsize=_size(chart), dpi=120, layout="constrained")
                axes = drawing.add_subplot()
                panel(axes, chart)
                axes.set_title(f"{section.name}\n{chart.title}", fontsize=9)
                path = folder / f"{_slug(evaluation.task, section.name, chart.title, kind)}.png"
                drawing.savefig(path)
                made.append(path)
    return made


def _panels(chart: Chart) -> list[tuple[str, Any]]:
    match chart:
        case Ranking():
            return [("roc", _roc), ("pr", _precision_recall)]
        case Reliability():
            return [("calibration", _calibration)]
        case Confusion():
            return [("confusion", _confusion)]
        case Curves():
            return [("curve", _curves)]


def _size(chart: Chart) -> tuple[float, float]:
    if isinstance(chart, Confusion):
        return 3.2 + 0.62 * len(chart.columns), 2.6 + 0.5 * len(chart.rows)
    if isinstance(chart, Curves) and len(chart.lines) > _FEW:
        return 7.6, 5.0
    return 5.6, 5.0


def _slug(*parts: str) -> str:
    words: list[str] = []
    for part in parts:
        words += [word for word in re.findall(r"[a-z0-9]+", part.lower()) if not words or word != words[-1]]
    return "-".join(words)


def _roc(axes: Any, chart: Ranking) -> None:
    for colour, (name, scores) in zip(_COLOURS, chart.scores.items(), strict=False):
        true, false = _counts(chart.labels, scores)
        rate, other = true / true[-1], false / false[-1]
        area = float(np.trapezoid(rate, other))
        axes.plot(*_thinned(other, rate), color=colour, linewidth=1.8, label=f"{name}, AUROC {area:.3f}")
    axes.plot([0, 1], [0, 1], color="#bbbbbb", linewidth=1, linestyle="--", zorder=0)
    _frame(axes, "1 - specificity", "sensitivity")
    axes.legend(loc="lower right", frameon=False)


def _precision_recall(axes: Any, chart: Ranking) -> None:
    highest = 0.0
    for colour, (name, scores) in zip(_COLOURS, chart.scores.items(), strict=False):
        true, false = _counts(chart.labels, scores)
        recall, precision = true[1:] / true[-1], true[1:] / (true[1:] + false[1:])
        area = float((np.diff(recall, prepend=0.0) * precision).sum())
        axes.plot(*_thinned(recall, precision), color=colour, linewidth=1.8, label=f"{name}, AUPRC {area:.3f}")
        if (settled := precision[true[1:] >= _SETTLED]).size:
            highest = max(highest, float(settled.max()))
    rate = float(np.mean(chart.labels))
    most = min(1.0, 1.25 * max(highest, 2 * rate))  # where positives are rare all would lie on the floor of the unit square
    axes.axhline(rate, color="#bbbbbb", linewidth=1, linestyle="--", zorder=0, label=f"base rate {rate:.3f}")
    _frame(axes, "recall", "precision", most=most, wide=1.0)
    axes.legend(loc="lower left" if highest > 0.8 else "upper right", frameon=False)


def _counts(labels: Any, scores: Any) -> tuple[Any, Any]:
    """True and false positives at each distinct threshold, strictest first, from none on."""
    order = np.argsort(-np.asarray(scores, np.float64), kind="stable")
    descending = np.asarray(scores, np.float64)[order]
    last = np.flatnonzero(np.append(descending[1:] != descending[:-1], True))
    true = np.cumsum(np.asarray(labels, np.float64)[order])[last]
    return np.append(0.0, true), np.append(0.0, last + 1 - true)


def _thinned(x: Any, y: Any) -> tuple[Any, Any]:
    if len(x) <= _MOST_POINTS:
        return x, y
    kept = np.unique(np.linspace(0, len(x) - 1, _MOST_POINTS).astype(int))
    return x[kept], y[kept]


def _calibration(axes: Any, chart: Reliability) -> None:
    means = np.array([mean for mean, _, _ in chart.points])
    rates = np.array([rate for _, rate, _ in chart.points])
    most = min(1.0, float(max(means.max(), rates.max())) * 1.08 + 1e-9)
    axes.plot([0, most], [0, most], color="#bbbbbb", linewidth=1, linestyle="--", zorder=0, label="perfect")
    axes.plot(means, rates, color=_COLOURS[0], marker="o", linewidth=1.4, label="bins of equal size")
    _frame(axes, "mean score", f"observed rate: {chart.observed}", most=most)
    axes.legend(loc="upper left", frameon=False)


def _confusion(axes: Any, chart: Confusion) -> None:
    totals = np.maximum(chart.counts.sum(axis=1, keepdims=True), 1)
    share = chart.counts / totals
    axes.imshow(share, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    for row, column in np.ndindex(*chart.counts.shape):
        count = int(chart.counts[row, column])
        dark = share[row, column] > 0.55
        axes.text(column, row, f"{count:,}" if count else "", ha="center", va="center", color="white" if dark else "#222222")
    axes.set_xticks(range(len(chart.columns)), chart.columns, rotation=40, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(chart.rows)), chart.rows)
    axes.set_xlabel("said")
    axes.set_ylabel("is")


def _curves(axes: Any, chart: Curves) -> None:
    many = len(chart.lines) > _FEW
    for number, (name, (x, y)) in enumerate(chart.lines.items()):
        mark = "o" if len(x) == 1 else None
        dash = _DASHES[number // len(_DASHES) % len(_DASHES)] if many else "-"
        width = 2.6 if many and number == 0 else 1.8  # the first is of all together
        colour = _COLOURS[number % len(_COLOURS)]
        axes.plot(x, y, color=colour, linewidth=width, marker=mark, linestyle="" if mark else dash, label=name)
    _frame(axes, chart.x, chart.y, square=not chart.logarithmic)
    if chart.logarithmic:
        axes.set_xscale("log")
        axes.set_xticks(ticks := [k for k in (1, 3, 10, 30, 100) if k <= _last(chart)], [str(k) for k in ticks])
        axes.minorticks_off()
    if many:
        axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False, handlelength=3.2)
    else:
        axes.legend(loc="lower right" if chart.logarithmic else "lower left", frameon=False)


def _last(chart: Curves) -> float:
    return max((x[-1] for x, _ in chart.lines.values()), default=1)


def _frame(axes: Any, x: str, y: str, *, most: float = 1.0, wide: float | None = None, square: bool = True) -> None:
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.set_ylim(0, most * 1.01)
    if square:
        axes.set_xlim(0, (wide or most) * 1.01)
    axes.grid(color="#eeeeee")
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
