"""`vigil models evaluate`: how good a model is on a folder of data; table, JSON, plots, the card's figures."""

import json
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from models.errors import Permanent
from streams.cli.model_in_use import InUse, Yes
from streams.keeping import try_out
from streams.settings import load

if TYPE_CHECKING:
    from models.evaluation.report import Evaluation
    from models.evaluation.report import Progress as Report
    from models.registry import ModelEntry, Registry


class Task(StrEnum):
    """What can be measured."""

    NER = "ner"
    ASSERTION = "assertion"
    DETERIORATION = "deterioration"
    IMAGES = "images"
    RETRIEVAL = "retrieval"


# What the registry calls the task of each; assertion is rules and has no model.
REGISTERED: Final = {
    Task.NER: "ner",
    Task.DETERIORATION: "deterioration",
    Task.IMAGES: "image-text",
    Task.RETRIEVAL: "embedding",
}


def evaluate(
    task: Annotated[Task, typer.Argument(help="what to measure")],
    data: Annotated[Path, typer.Option("--data", help="a folder of data (or of several sets), searched to its depths")],
    model: Annotated[str | None, typer.Option("--model", help="a model of the registry; default: the one that serves")] = None,
    json_: Annotated[Path | None, typer.Option("--json", help="write every figure into this file")] = None,
    plots: Annotated[
        Path | None, typer.Option("--plots", help="folder for plots and figures.md; default: beside the JSON file, else here")
    ] = None,
    registry: Annotated[Path | None, typer.Option("--registry", help="a site's registry file; default: the setting")] = None,
    rounds: Annotated[int, typer.Option(min=10, help="resamples of each bootstrapped interval")] = 1000,
    record: Annotated[
        bool, typer.Option("--record", help="put figures into the registry's entry, figures.md beside the weights")
    ] = False,
    yes: Yes = False,
) -> None:
    """Measure a model on a folder of data that it did not learn from, with 95% intervals and baselines.

    Files are told by what is in them: IOB *.tsv (ner), case reports *.jsonl and notes with marks *.txt (ner, assertion), cinc2019
    and physionet2012 tables or home monitoring diaries (deterioration), images with a labels.csv or in a folder per class (images),
    notes with descriptions *.jsonl.gz (retrieval).
    What the model learned from is left out, and what was passed over is said.
    """
    from models.evaluation import plots as drawing
    from models.registry import Registry

    if not data.exists():
        raise Permanent(f"no such folder: {data}", hint="--data takes a folder of data")
    if json_ is not None and json_.parent.is_dir():  # else it is made, once there is something to put into it
        try_out(json_, "report")
    site = registry or load().models.registry
    known = Registry.load(site)
    in_use = _asked(known, site, _registered(task, known, data, model), model, yes=yes) if record else None
    began = time.monotonic()
    with bars() as report:
        found = _MEASURES[task](known, data, model, rounds, report)
    shown = console()
    table_of(shown, found)
    folder = plots or (json_.with_name(f"{json_.stem}-plots") if json_ else Path(f"evaluation-{task}"))
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "figures.md").write_text(found.as_markdown(), encoding="utf-8")
    if json_ is not None:
        json_.parent.mkdir(parents=True, exist_ok=True)
        json_.write_text(json.dumps(found.as_json(), indent=1, allow_nan=False) + "\n", encoding="utf-8")
    if drawing.available():
        drawn = f"{len(drawing.draw(found, folder))} plots and figures.md in {folder}"
    else:
        drawn = f"figures.md in {folder}; no plots: matplotlib is not installed (pip install 'vigil-stream[bench]')"
    shown.print(f"{drawn}; {time.monotonic() - began:.0f} s", style="dim", highlight=False, soft_wrap=True)
    if in_use is not None:
        _record(shown, known, in_use, found)


def _ner(registry: "Registry", data: Path, name: str | None, rounds: int, report: "Report") -> "Evaluation":
    from models.evaluation import ner_report
    from models.vocabulary import vocabulary

    whose, lane = _thresholds(registry.entry("ner", name)), load().lanes.notes_entities
    terms = vocabulary(*lane.own_terms) if lane.vocabulary else None
    model = registry.open("ner", name=name)
    return ner_report.evaluate(model, data, thresholds=whose, vocabulary=terms, resamples=rounds, progress=report)


def _thresholds(entry: "ModelEntry") -> str:
    """Say whose model and thresholds an entity model is served with."""
    from models.registry import Registry

    shipped = next(
        (one for one in Registry.load().entries("ner") if (one.name, one.digest) == (entry.name, entry.digest)), None
    )
    if shipped is None:
        model = f"{entry.name} as the site's registry has it"
        return f"{model}, with its thresholds" if entry.thresholds else f"{model}, without thresholds: every span counts"
    own = [label for label, score in entry.thresholds.items() if shipped.thresholds.get(label) != score]
    if own:
        return f"shipped heads, this site's own thresholds for {', '.join(own)}, else the shipped ones"
    return "shipped heads and thresholds"


def _assertion(registry: "Registry", data: Path, name: str | None, rounds: int, report: "Report") -> "Evaluation":
    from processors import assertion_quality

    if name is not None:
        raise Permanent("assertion is rules, there is no model to choose", hint="leave --model out")
    return assertion_quality.evaluate(data, rounds=rounds, progress=report)


def _deterioration(registry: "Registry", data: Path, name: str | None, rounds: int, report: "Report") -> "Evaluation":
    from models.evaluation import deterioration, home

    if _registered(Task.DETERIORATION, registry, data, name) == home.TASK:
        weights, monitor = registry.weights(home.TASK, name, beside=True), registry.open(home.TASK, name=name)
        return home.evaluate_all(monitor, data, weights.folder, rounds=rounds, progress=report)
    weights, model, notes = (
        registry.weights("deterioration", name, beside=True),
        registry.open("deterioration", name=name),
        list[str](),
    )
    figures = deterioration.evaluate_all(model, data, weights.folder, rounds=rounds, notes=notes, progress=report)
    return deterioration.report(model, figures, notes)


def _images(registry: "Registry", data: Path, name: str | None, rounds: int, report: "Report") -> "Evaluation":
    from models.evaluation import images

    weights, model, notes = (
        registry.weights("image-text", name, beside=True),
        registry.open("image-text", name=name),
        list[str](),
    )
    figures = images.evaluate_all(model, data, weights.folder, rounds=rounds, notes=notes, progress=report)
    return images.report(model, figures, notes)


def _retrieval(registry: "Registry", data: Path, name: str | None, rounds: int, report: "Report") -> "Evaluation":
    from dataclasses import replace

    from models.training import embedding_export
    from processors import retrieval_quality

    model = registry.open("embedding", name=name)
    with tempfile.TemporaryDirectory() as scratch:
        full, without = None, ""
        if model.identity.name != embedding_export.NAME:
            without = f"no fp32 baseline: that of {model.identity.name} is not known here"
        else:
            try:
                full = embedding_export.full_precision(Path(scratch))
            except Permanent as error:
                without = f"no fp32 baseline: {error} ({error.hint})"
        found = retrieval_quality.evaluate(model, data, full=full, rounds=rounds, progress=report)
    return replace(found, notes=(*found.notes, without)) if without else found


_MEASURES: Final[dict[Task, Callable[["Registry", Path, str | None, int, "Report"], "Evaluation"]]] = {
    Task.NER: _ner,
    Task.ASSERTION: _assertion,
    Task.DETERIORATION: _deterioration,
    Task.IMAGES: _images,
    Task.RETRIEVAL: _retrieval,
}


@contextmanager
def bars() -> "Iterator[Report]":
    """Show a bar for each stretch of work, on standard error; nothing where nobody looks."""
    columns = TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        shown = {}

        def report(what: str, done: int, total: int) -> None:
            if what not in shown:
                shown[what] = progress.add_task(what, total=total)
            progress.update(shown[what], completed=done, total=total)

        yield report


def console() -> Console:
    """Return the console; where nobody looks it is wide."""
    made = Console()
    if not made.is_terminal:
        made.width = 480  # for grep: a row stays a line, with four baselines and their differences
    return made


def table_of(console: Console, found: "Evaluation") -> None:
    """Print an evaluation: a table for each set, then the notes."""
    from models.evaluation.report import beside

    by = f"{found.model.name} {found.model.version}, digest {found.model.digest[:12]}" if found.model else "rules"
    console.print(f"{found.task}: {by}", highlight=False)
    for section in found.sections:
        table = Table("figure", "value (95%)", "n", "beside it", title=escape(section.name), title_justify="left")
        table.caption, table.caption_justify = escape(section.about), "left"
        for metric in section.metrics:
            table.add_row(escape(metric.name), str(metric), f"{metric.n:,}", escape(beside(metric)))
        console.print(table)
    for note in found.remarks:
        console.print(f"- {escape(note)}", highlight=False, soft_wrap=True)


def _registered(task: Task, registry: "Registry", data: Path, name: str | None) -> str:
    """Return what the registry calls the task of what is measured; "" for rules."""
    from models.evaluation import home, home_sets

    if task is Task.DETERIORATION:
        names = {entry.name for entry in registry.entries(home.TASK)}
        if name in names or (name is None and home_sets.found_in(data)):
            return home.TASK
    return REGISTERED.get(task, "")


def _asked(registry: "Registry", site: Path | None, task: str, name: str | None, *, yes: bool) -> InUse:
    """Ask before the work whether figures may be written into the entry."""
    from models.registering import holder

    if not task:
        raise Permanent("nothing to record: rules stand in no registry", hint="leave --record out")
    entry = registry.entry(task, name)
    return InUse.ask(holder(entry, site), task, entry.name, yes=yes)


def _record(console: Console, registry: "Registry", in_use: InUse, found: "Evaluation") -> None:
    from models.registering import amend

    weights, where = registry.weights(in_use.task, in_use.name), in_use.site
    in_use.audit(weights.entry, "the figures of vigil models evaluate --record")
    amend(weights.entry, where, quality=found.quality())  # its thresholds may be the site's own, not the entry's
    (weights.folder / "figures.md").write_text(found.as_markdown(), encoding="utf-8")
    console.print(f"recorded in {where.name} and {weights.folder.name}/figures.md", style="dim", highlight=False)
