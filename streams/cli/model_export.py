"""`vigil models export`: a model on torch to ONNX and INT8, held against torch on the site's data, refused where it loses."""

import json
import os
import platform
from collections.abc import Callable, Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from models.errors import Permanent
from streams.cli.evaluate import console
from streams.cli.model_intake import more_of
from streams.cli.progressing import Bar
from streams.keeping import try_out
from streams.settings import load

if TYPE_CHECKING:
    from models.evaluation.question_sets import Questions
    from models.evaluation.report import Progress
    from models.exporting.report import Made
    from models.exporting.trials import Trial
    from models.quantising import Comparison
    from models.registry import ModelEntry, Weights
    from models.tasks import TextEmbedder
    from models.training.embedding_export import Judged


class Precision(StrEnum):
    """What is written."""

    INT8 = "int8"
    FP32 = "fp32"


def export(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL|FOLDER",
            help="a model of the registry, or a folder as the hub has it; or what ships, anew: embedding, or ner with --run",
        ),
    ],
    data: Annotated[
        Path | None,
        typer.Option(
            help="a folder of data, as for `vigil models evaluate`: what the model is measured on before and after, and (another "
            "part of it) calibrated on"
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="folder for what is made, not there yet; default: beside the registry file, by its name")
    ] = None,
    registry: Annotated[
        Path | None,
        typer.Option("--registry", help="the registry file that gets the entry; default: the setting models.registry"),
    ] = None,
    name: Annotated[
        str, typer.Option(help="what the exported model is called; default: the model's name and its precision")
    ] = "",
    version: Annotated[str, typer.Option(help="its version; default: the model's own")] = "",
    tolerance: Annotated[
        float,
        typer.Option(help="points (hundredths) that any figure of the task may fall by; where it is more nothing is written"),
    ] = 1.0,
    precision: Annotated[Precision, typer.Option(help="what is written; both are measured")] = Precision.INT8,
    entry: Annotated[
        Path | None, typer.Option(help="of a folder: a TOML file with more of its entry, as `vigil models add` takes it")
    ] = None,
    task: Annotated[str, typer.Option(help="the model's task, where the registry has several of that name")] = "",
    report: Annotated[Path | None, typer.Option(help="write every figure of every way here, as JSON")] = None,
    run: Annotated[Path | None, typer.Option(help="ner: the folder of a training run (model.pt, made.json)")] = None,
) -> None:
    """Export a model from torch to ONNX, in fp32 and in every way of quantising, and record the best as a model of its own.

    Token classifiers and image classifiers of transformers, sentence-transformers, and CLIP (open_clip, transformers) are taken.
    Its files are verified first. Each way is held against torch in one run: outputs, the task's figures on --data (ner: strict
    F1; embedding: recall and nDCG; image-text: AUROC), and speed for one item on 1 and 2 threads. The fastest way with a scale
    per channel and 7-bit weights that loses no more than the tolerance is written. It serves nothing until `vigil models
    promote`. Needs the train extra.
    """
    try_out(report, "comparison")
    if model in ("embedding", "ner"):
        _what_ships(model, data, out, registry, version, report, run)
        return
    if data is None:
        raise Permanent(
            "--data is needed: what an export loses is measured", hint="a folder as `vigil models evaluate` takes it"
        )
    if not data.exists():
        raise Permanent(f"no such folder: {data}", hint="--data takes a folder of data")
    site = registry or load().models.registry
    if site is None:
        raise Permanent(
            "there is no registry file of the site", hint="set models.registry (VIGIL_MODELS__REGISTRY), or --registry"
        )
    try:
        from models.exporting.course import Target
        from models.exporting.course import export as exported
    except ImportError as error:
        raise Permanent(f"an export needs {error.name}", hint="pip install 'vigil-stream[train]'") from error

    source = _source(model, site, task, entry)
    name = name or f"{source.entry.name}-{precision}"
    folder = out or site.parent / name
    target = Target(folder, site, name, version or source.entry.version, tolerance, precision.value)
    with Bar(f"export of {source.entry.name}", None) as bar:

        def told(what: str, done: int, total: int) -> None:
            bar.update(doing=what, done=done, total=total)

        made = exported(source, lambda opened: _trial(opened, source, data), target, progress=told)
    _tell(made, folder)
    if report is not None:
        report.write_text(json.dumps(made.as_json(), indent=1) + "\n", encoding="utf-8")


def _source(model: str, site: Path, task: str, more: Path | None) -> "Weights":
    """Find a model by its name, or take a folder, and verify its files. Raises `Permanent` where it is neither."""
    from models.hub_folders import described
    from models.registry import Registry, Weights, nearest

    known = Registry.load(site if site.is_file() else None)
    found = [one for one in known.entries() if one.name == model and task in ("", one.task)]
    if len(found) > 1:
        raise Permanent(f"{model!r} is a model of several tasks: {', '.join(one.task for one in found)}", hint="say --task")
    if found:
        if more is not None:
            raise Permanent(f"{model} stands in the registry: --entry is of a folder", hint="change its entry there")
        return known.weights(found[0].task, model)
    if (folder := Path(model)).is_dir():
        return Weights(described(folder, site, more=more_of(more)), folder)
    raise Permanent(
        f"{model!r} is no model of the registry, and no folder", hint=nearest(model, {one.name for one in known.entries()})
    )


def _trial(opened: Any, source: "Weights", data: Path) -> "Trial":
    """Return what a model is measured by."""
    import numpy as np

    from models.exporting import trials
    from processors import retrieval_quality

    match source.entry.task:
        case "ner":
            return trials.entities(opened, data)
        case "embedding":
            quality: Callable[[TextEmbedder, Questions, Progress], Mapping[str, float]] = retrieval_quality.by_meaning
            return trials.texts(opened, data, quality)
        case "image-text":
            learned = source.folder / "learned.npy"
            return trials.pictures(opened, data, np.load(learned) if learned.is_file() else None)
    raise Permanent(f"no measure for the task {source.entry.task!r}: it cannot be exported", hint="ner, embedding, image-text")


def _tell(made: "Made", folder: Path) -> None:
    shown = console()
    head, *rows = made.table()
    table = Table(*head, title="against torch, in one run", title_justify="left")
    for row in rows:
        table.add_row(*row)
    shown.print(table)
    for note in made.trial.notes:
        shown.print(f"- {escape(note)}", highlight=False, soft_wrap=True)
    shown.print(
        f"measured on {escape(made.trial.measured_on)}; calibrated on {escape(made.trial.calibrated_on)}", highlight=False
    )
    entry = made.entry
    shown.print(
        f"{entry.name} {entry.version} ({entry.task}, {entry.runtime}), {made.chosen.name}: {entry.digest} in {folder}; recorded",
        highlight=False,
        soft_wrap=True,
    )
    shown.print(f'let it serve:  vigil models promote {entry.task} {entry.name} --reason "..."', style="dim", highlight=False)


def _what_ships(
    task: str, data: Path | None, out: Path | None, registry: Path | None, version: str, report: Path | None, run: Path | None
) -> None:
    """Make again what ships: all-MiniLM-L6-v2 quantised, or an entity model of a training run."""
    if registry is None or out is None:
        raise Permanent(
            f"{task} makes what ships: it needs --out and --registry",
            hint="a site's own model is exported by its name or folder",
        )
    if report is not None and (task != "embedding" or data is None):
        raise Permanent("--report writes the comparison that `embedding --data` makes")
    entry: ModelEntry
    if task == "embedding":
        from models.training import embedding_export

        made = embedding_export.export(out, registry=registry, judged=_judged(data) if data else None)
        entry = made.entry
        if made.ways:
            console().print(_ways(made.ways))
            if report:
                report.write_text(json.dumps(asdict(made.ways), indent=1) + "\n")
    else:
        if run is None or data is None:
            raise Permanent("ner needs --run and --data", hint="`vigil train ner` makes the run's folder")
        from models.training import ner_export

        entry, _ = ner_export.export(run, data, version=version or "1", out=out, registry=registry)
    console().print(f"{entry.name} {entry.version} {entry.digest} in {out}", highlight=False, soft_wrap=True)
    for metric, value in entry.quality.items():
        console().print(f"  {metric}: {value:g}", highlight=False)


def _judged(data: Path) -> "Judged":
    from models.evaluation.question_sets import gather
    from models.training.embedding_export import Judged
    from processors import retrieval_quality

    files, _ = gather(data)
    texts = [note[:1500] for asked in files for note in asked.notes if note.strip()][:128]

    def told(name: str) -> None:
        Console(stderr=True).print(f"{name} ...", highlight=False)

    about = ", ".join(f"{len(asked.questions):,} questions to the notes of {asked.name}" for asked in files)
    machine = f"{os.cpu_count()} cores, {platform.processor() or platform.machine()}, {datetime.now(UTC):%Y-%m-%d}"
    return Judged(texts, "recall@1", lambda model: retrieval_quality.first(model, files), about, machine, told)


def _ways(ways: "Comparison") -> Table:
    head, *rows = ways.table()
    table = Table(*head, title="against fp32", title_justify="left")
    for row in rows:
        table.add_row(*row)
    return table
