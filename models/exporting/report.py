"""What an export measured, as a table, as JSON and as the card of what it wrote."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from models.export import Parity
from models.exporting.trials import Trial
from models.registry import ModelEntry


@dataclass(frozen=True, slots=True)
class Compared:
    """One model's figures of the task (0 to 1), and seconds an item alone, by the number of threads."""

    metrics: Mapping[str, float]
    seconds: Mapping[int, float]


@dataclass(frozen=True, slots=True)
class Way:
    """One way: its folder, figures and speed, and how near its outputs are to torch. `agreement`: share of the same decisions.

    `integers` says whether anything was quantised.
    """

    name: str
    folder: Path
    measured: Compared
    parity: Parity
    agreement: float | None
    megabytes: float
    integers: bool


@dataclass(frozen=True, slots=True, eq=False)
class Made:
    """A whole export: the entry that was written, what it was made of, and every way against torch."""

    entry: ModelEntry
    source: ModelEntry
    torch: Compared
    ways: tuple[Way, ...]
    chosen: Way
    trial: Trial
    tolerance: float

    def table(self) -> list[list[str]]:
        """Return every way as text, the head first: for the card and for the terminal."""
        threads, names = list(self.torch.seconds), list(self.torch.metrics)
        agreed = ["agreement"] if self.chosen.agreement is not None else []
        head = ["way", "largest difference", "mean cosine", *agreed, *names]
        head += [f"{'ms' if what else 'times torch'}, threads {n}" for n in threads for what in (True, False)] + ["MB"]
        lines = [["torch", "", "", *[""] * len(agreed), *(f"{value:.4f}" for value in self.torch.metrics.values())]]
        lines[0] += [cell for n in threads for cell in (f"{1000 * self.torch.seconds[n]:.2f}", "1.0")] + [""]
        for way in self.ways:
            marks = ["written"] * (way is self.chosen) + ["nothing to quantise"] * (
                not way.integers and way is not self.ways[0]
            )
            row = [f"{way.name} ({', '.join(marks)})" if marks else way.name]
            row += [f"{way.parity.largest:.3g}", f"{way.parity.cosine_mean:.5f}"]
            row += [f"{way.agreement:.4f}"] if way.agreement is not None else []
            row += [f"{way.measured.metrics.get(name, float('nan')):.4f}" for name in names]
            for n in threads:
                took = way.measured.seconds[n]
                row += [f"{1000 * took:.2f}", f"{self.torch.seconds[n] / took:.1f}"]
            lines.append([*row, f"{way.megabytes:.1f}"])
        return [head, *lines]

    def as_json(self) -> dict[str, Any]:
        """Return the report: everything is against torch, on the same items in the same run."""
        return {
            "source": self.source.model_dump(include={"task", "name", "version", "runtime"}) | {"digest": self.source.digest},
            "entry": self.entry.model_dump(include={"task", "name", "version", "runtime"}) | {"digest": self.entry.digest},
            "tolerance_points": self.tolerance,
            "measured_on": self.trial.measured_on,
            "calibrated_on": self.trial.calibrated_on,
            "notes": list(self.trial.notes),
            "items_compared": self.chosen.parity.items,
            "torch": {"metrics": dict(self.torch.metrics), "seconds": dict(self.torch.seconds)},
            "written": self.chosen.name,
            "ways": [
                {
                    "name": way.name,
                    "parity": asdict(way.parity),
                    "agreement": way.agreement,
                    "metrics": dict(way.measured.metrics),
                    "seconds": dict(way.measured.seconds),
                    "times_torch": {n: self.torch.seconds[n] / took for n, took in way.measured.seconds.items()},
                    "megabytes": way.megabytes,
                    "integers": way.integers,
                }
                for way in self.ways
            ],
        }


def card(made: Made) -> str:
    """Return the card as Markdown."""
    entry, source = made.entry, made.source
    head, *rows = ("| " + " | ".join(cells) + " |" for cells in made.table())
    files = "\n".join(f"| `{name}` | `{sha}` |" for name, sha in sorted(entry.files.items()))
    learned = "; ".join(entry.trained_on) or "not said"
    notes = "".join(f"\n- {note}" for note in made.trial.notes)
    return f"""# {entry.name} {entry.version}

Written by `vigil models export` from what it measured.

Exported from {source.name} {source.version} (runtime {source.runtime}, digest `{source.digest}`): {made.chosen.name}.
Nothing was trained. Labels, thresholds and preprocessing are the source's. Licence: {entry.licence}. Learned from: {learned}.

Measured on {made.trial.measured_on}. Static scales are from {made.trial.calibrated_on}. No figure of the task might fall by
more than {made.tolerance:g} points. Outputs are compared with torch's on {made.chosen.parity.items} items; an item alone is
timed as a lane asks it, on the machine of the export, as busy as it was.{notes}

{head}
|{"---|" * head.count(" | ")}---|
{chr(10).join(rows)}

| file | SHA-256 |
|---|---|
{files}
"""
