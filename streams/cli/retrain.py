"""`vigil retrain`: a challenger from what people said of findings. It proposes; only `vigil models promote` lets a model serve."""

import asyncio
import json
from collections import Counter
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer
from rich.markup import escape
from rich.table import Table

from models.errors import Permanent
from streams.cli.evaluate import bars, console
from streams.cli.model_in_use import audit_change
from streams.keeping import try_out
from streams.settings import Settings, load

if TYPE_CHECKING:
    from models.training.image_retrain import Outcome
    from streams.feedback import Labels


class Task(StrEnum):
    """What feedback could be about."""

    IMAGES = "images"
    NER = "ner"
    DETERIORATION = "deterioration"


_WITHOUT: Final = {
    Task.NER: "feedback names a note and a label, and not which words of the note are meant",
    Task.DETERIORATION: "an answer to an alert says what was done about it, and not whether the patient deteriorated",
}


def retrain(
    task: Annotated[Task, typer.Argument(help="what to retrain: images")],
    fixed: Annotated[Path, typer.Option("--fixed", help="the fixed set: a labels.csv with its images, or a folder per class")],
    out: Annotated[Path, typer.Option("--out", help="a new folder for the challenger's weights and the report")],
    registry: Annotated[
        Path | None, typer.Option("--registry", help="the site's registry file that gets the challenger; default: the setting")
    ] = None,
    least: Annotated[int, typer.Option(min=10, help="labels without which nothing is trained")] = 20,
    rounds: Annotated[int, typer.Option(min=10, help="resamples of each bootstrapped interval")] = 1000,
) -> None:
    """Train a challenger from the champion by the labelled feedback on clinical.feedback, and measure both on a fixed set.

    Writes a report (card.md, report.json) and proposes the challenger in the registry, in shadow, unless it ranks the fixed set
    worse. It never promotes.
    """
    if task in _WITHOUT:
        raise Permanent(f"{task} cannot be retrained from feedback: {_WITHOUT[task]}", hint="vigil retrain images")
    if not fixed.exists():
        raise Permanent(f"no such fixed set: {fixed}", hint="--fixed takes a labels.csv, or a folder with a folder per class")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise Permanent(
            f"{out} is no empty folder", hint="name a new folder: a challenger's weights are never written over others"
        )
    settings = load()
    site = registry or settings.models.registry
    if site is None:
        raise Permanent(
            "the proposal is written into a site's registry file, and there is none",
            hint="set models.registry (VIGIL_MODELS__REGISTRY) to a file, or give --registry; it may be absent",
        )
    # Before there is work that would be lost: training takes minutes.
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise Permanent(f"the folder {out} cannot be made ({error.strerror})", hint="name one in a folder of yours") from error
    try_out(out / "report.json", "report")
    try_out(site, "registry")
    _run(settings, fixed, out, site, least, rounds)


def _run(settings: Settings, fixed: Path, out: Path, site: Path, least: int, rounds: int) -> None:
    from models.registering import propose
    from models.registry import Registry
    from models.training import image_retrain
    from streams.feedback import labelled_images

    known = Registry.load(site if site.is_file() else None)
    labels = asyncio.run(labelled_images(settings, known.entry(image_retrain.TASK).labels))
    _say_labels(labels)
    examples = [image_retrain.Example(one.image, one.label, one.feedback_id) for one in labels.found]
    version = datetime.now(UTC).strftime("%Y%m%d-%H%M%S")
    with bars() as progress:
        found = image_retrain.retrain(
            known, examples, fixed, out, site=site, version=version, least=least, rounds=rounds, progress=progress
        )
    report = image_retrain.document(found, examples) | {"passed_over": dict(labels.passed_over)}
    (out / "report.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    _say_figures(found, out)
    if found.worse:
        console().print("not proposed: it ranks the fixed set worse than the champion. The registry is as it was.")
        raise typer.Exit(1)
    _audit(settings, found)
    champion = propose(found.entry, site)
    told = f"{found.entry.name} is proposed as challenger in {site.name}, in shadow; {champion} goes on serving"
    console().print(f"{told}. An audit record is written.", highlight=False, soft_wrap=True)
    console().print(
        f"it has no drift reference yet: vigil models reference {found.entry.name} --data DIR", style="dim", highlight=False
    )
    console().print(
        f'to let it serve: vigil models promote {found.entry.task} {found.entry.name} --reason "..."',
        style="dim",
        highlight=False,
        soft_wrap=True,
    )


def _audit(settings: Settings, found: "Outcome") -> None:
    """Audit first, then change, as for a promotion."""
    reason = f"proposed as challenger of {found.champion.name}: {sum(found.labels.values())} labels of clinical.feedback"
    asyncio.run(audit_change(settings, found.entry.task, found.entry.identity, reason))


def _say_labels(labels: "Labels") -> None:
    counts = Counter(one.label for one in labels.found)
    by = ", ".join(f"{count} {label}" for label, count in sorted(counts.items())) or "none"
    console().print(f"labels on clinical.feedback: {by}", highlight=False)
    for reason, count in labels.passed_over.most_common():
        console().print(f"- {count} passed over: {reason}", highlight=False, soft_wrap=True)


def _say_figures(found: "Outcome", out: Path) -> None:
    from models.evaluation.report import beside

    table = Table(
        "figure", "challenger (95%)", "beside it", title=f"the fixed set, {found.images} images", title_justify="left"
    )
    for metric in found.metrics:
        table.add_row(escape(metric.name), str(metric), escape(beside(metric)))
    console().print(table)
    for note in found.notes:
        console().print(f"- {escape(note)}", highlight=False, soft_wrap=True)
    console().print(f"report.json and card.md in {out}", style="dim", highlight=False, soft_wrap=True)
