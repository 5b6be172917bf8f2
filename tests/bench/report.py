"""What a run leaves: a table on the terminal, a JSON file, a plot beside it."""

import json
import os
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from tests.bench.figures import Figure, Value
from tests.surroundings import commit, machine

Values = Mapping[str, Value | str]  # a text where a figure could not be taken: why

_GOOD, _BAD, _OURS, _OTHERS = "#2a9d5c", "#d1495b", "#2a6f97", "#9aa5b1"


class Surroundings:
    """What else the machine did: its load before, and the CPU that others had meanwhile (1.0: one whole core)."""

    def __init__(self) -> None:
        self.load_before = os.getloadavg()[0]
        self.began = datetime.now(UTC)


def document(figures: Sequence[Figure], values: Values, *, quick: bool, stores: str, around: Surroundings) -> dict[str, Any]:
    """Return the JSON: each figure by its name at the top, and what stands behind it."""
    numbers: dict[str, Any] = {}
    details: dict[str, Any] = {}
    for figure in figures:
        value = values[figure.name]
        taken = isinstance(value, Value)
        numbers[figure.name] = value.value if isinstance(value, Value) else None
        details[figure.name] = {
            "what": figure.what,
            "unit": figure.unit,
            "target": f"{'>=' if figure.at_least else '<='} {figure.target:g}",
            "met": figure.met(value.value) if isinstance(value, Value) else None,
            **({"of": value.of} if isinstance(value, Value) else {"why_not": value}),
        }
        assert taken or isinstance(value, str)
    return {**surrounded(numbers, quick=quick, around=around), "vector_store": stores, "figures": details}


def surrounded(numbers: Mapping[str, Any], *, quick: bool, around: Surroundings) -> dict[str, Any]:
    """Return what was measured with when, on what, and of which commit."""
    return {
        **numbers,
        "quick": quick,
        "date": around.began.isoformat(timespec="seconds"),
        "seconds": round((datetime.now(UTC) - around.began).total_seconds()),
        "commit": commit(),
        "machine": machine(),
        "load_before": round(around.load_before, 2),
    }


def table(figures: Sequence[Figure], values: Values, *, title: str) -> Table:
    """Return the table."""
    made = Table(title=title, title_justify="left", caption_justify="left")
    for heading, side in (("figure", "left"), ("", "right"), ("target", "right"), ("", "left"), ("what", "left")):
        made.add_column(heading, justify=side)  # type: ignore[arg-type]
    for figure in figures:
        value = values[figure.name]
        target = f"{'≥' if figure.at_least else '≤'} {figure.target:,g}"
        if isinstance(value, Value):
            met = figure.met(value.value)
            mark = "[green]met[/]" if met else "[red]not met[/]"
            made.add_row(figure.name, f"{value.value:,g} {figure.unit}", target, mark, figure.what)
        else:
            made.add_row(figure.name, "-", target, "[yellow]not taken[/]", value.splitlines()[0][:80])
    return made


def show(console: Console, figures: Sequence[Figure], values: Values, *, quick: bool) -> None:
    """Print the table."""
    title = "vigil, quick form: shows that it works, the figures mean nothing" if quick else "vigil on the local Kafka"
    console.print(table(figures, values, title=title))


def plot(file: Path, figures: Sequence[Figure], values: Values, about: Mapping[str, Any]) -> None:
    """Draw the figures against their targets, the throughputs side by side, and how the alert latencies are distributed."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    fig, axes = plt.subplots(1, 3, figsize=(19, 5.6), width_ratios=(1.5, 1.2, 1.1), layout="constrained")
    _against_targets(axes[0], [(f, v) for f in figures if isinstance(v := values[f.name], Value)])
    _side_by_side(axes[1], values)
    _alerts(axes[2], values)
    own = about["machine"]
    quick = "QUICK FORM, FIGURES MEAN NOTHING · " if about["quick"] else ""
    words = f"{about['date'][:10]} · {own['cores']} cores {own['cpu']}, {own['memory_gb']} GB · commit {about['commit']}"
    fig.suptitle(quick + words, fontsize=10, x=0.005, ha="left")
    fig.savefig(file, dpi=110)
    plt.close(fig)


def _against_targets(axis: Any, taken: Sequence[tuple[Figure, Value]]) -> None:
    axis.set_title("against the target (1 = met, to the right is better)", fontsize=10, loc="left")
    names, lengths, colours, words = [], [], [], []
    for figure, value in reversed(taken):
        better = value.value / figure.target if figure.at_least else figure.target / max(value.value, 1e-9)
        names.append(figure.name)
        lengths.append(min(max(better, 0.02), 50))
        colours.append(_GOOD if figure.met(value.value) else _BAD)
        words.append(f" {value.value:,g} {figure.unit}  ({'≥' if figure.at_least else '≤'} {figure.target:,g})")
    bars = axis.barh(names, lengths, color=colours)
    axis.bar_label(bars, words, fontsize=8)
    axis.axvline(1, color="black", linewidth=0.8)
    axis.set_xscale("log")
    axis.set_xlim(0.02, 500)
    axis.tick_params(labelsize=8)
    axis.spines[["top", "right"]].set_visible(False)


_PAIRS = (
    ("vitals_over_quix", "lane_per_s", "vitals: lane", _OURS),
    ("vitals_over_quix", "quix_per_s", "vitals: Quix Streams", _OTHERS),
    ("vitals_over_faust_guide", "faust_per_s", "vitals: Faust's guide", _OTHERS),
    ("notes_over_bare_model", "lane_per_s", "notes → entities: lane", _OURS),
    ("notes_over_bare_model", "bare_per_s", "notes → entities: bare model", _OTHERS),
    ("notes_over_guide", "lane_per_s", "notes → vectors: lane", _OURS),
    ("notes_over_guide", "guide_per_s", "notes → vectors: Faust's guide", _OTHERS),
)


def _side_by_side(axis: Any, values: Values) -> None:
    axis.set_title("events a second (each round a dot)", fontsize=10, loc="left")
    rows = [
        (label, value.of[key], colour) for name, key, label, colour in _PAIRS if isinstance(value := values.get(name), Value)
    ]
    for place, (_, rounds, colour) in enumerate(reversed(rows)):
        middle = sorted(rounds)[len(rounds) // 2]
        axis.barh(place, middle, color=colour)
        axis.plot(rounds, [place] * len(rounds), "o", color="black", markersize=3)
        axis.text(middle * 1.25, place, f"{middle:,.0f}", va="center", fontsize=8)
    axis.set_yticks(range(len(rows)), [label for label, _, _ in reversed(rows)], fontsize=8)
    if rows:
        axis.set_xscale("log")
        axis.set_xlim(left=1)
    axis.spines[["top", "right"]].set_visible(False)


def _alerts(axis: Any, values: Values) -> None:
    axis.set_title("alert latency, other lanes saturated (ms)", fontsize=10, loc="left")
    found = {}
    for name, label in (("alert_p99_ms_200", "200 sets/s"), ("alert_p99_ms_1000", "1,000 sets/s")):
        if isinstance(value := values.get(name), Value):
            found[label] = value.of
    if isinstance(value := values.get("alert_p99_over_echo_1000"), Value):
        found["bare echo, 1,000/s"] = value.of["echo"]
    for (label, of), colour in zip(found.items(), (_OURS, "#61a5c2", _OTHERS), strict=False):
        shown = of["percentiles"]
        axis.plot(
            [float(ms) for ms in shown.values()],
            [float(which) for which in shown],
            color=colour,
            label=f"{label}: p99 {of['p99']:g}",
        )
    if found:
        axis.axvline(100, color=_BAD, linewidth=0.8, linestyle="--")
        axis.set_xscale("log")
        axis.set_ylabel("percentile", fontsize=8)
        axis.legend(fontsize=8, loc="lower right")
    axis.tick_params(labelsize=8)
    axis.spines[["top", "right"]].set_visible(False)


def write(file: Path, body: Mapping[str, Any]) -> None:
    """Write the JSON."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(body, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
