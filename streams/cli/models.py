"""`vigil models`: which models there are, how good they are, and which one serves."""

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from models.errors import Fatal, Permanent, VigilError
from streams.cli.evaluate import evaluate
from streams.cli.model_export import export
from streams.cli.model_in_use import audit_change
from streams.cli.model_intake import add, pull, tell
from streams.cli.model_reference import reference
from streams.settings import load

if TYPE_CHECKING:
    from models.registry import ModelEntry, Registry

app = typer.Typer(
    help="The models: list, show, verify, add, pull, evaluate, challenge, promote, roll back, export.", no_args_is_help=True
)
app.command("add")(add)
app.command("pull")(pull)
app.command("evaluate")(evaluate)
app.command("reference")(reference)
app.command("export")(export)

Site = Annotated[Path | None, typer.Option("--registry", help="a site's registry file; default: the setting models.registry")]
Unopened = Annotated[
    bool, typer.Option("--unopened", help="verify its files, but do not try to open it here (no train extra, no memory)")
]
NoStore = Annotated[
    bool,
    typer.Option(
        "--no-store",
        help="do not ask the vector store whether its vectors fit: it is away, or `vigil replay rebuild` follows at once",
    ),
]
Task = Annotated[str, typer.Argument(help="a task of the registry: ner, embedding, image-text, deterioration")]


@app.command("list")
def list_models(
    registry: Site = None, json_: Annotated[bool, typer.Option("--json", help="one object per model")] = False
) -> None:
    """Print every model of the registry: a star marks the one that serves its task, and a challenger shows its trial."""
    from models.registry import Registry

    known = Registry.load(_site(registry))
    table = Table("", "task", "model", "version", "runtime", "licence", "digest")
    for entry in known.entries():
        serves, trial = known.serves(entry), known.trial(entry)
        if json_:
            shown = entry.model_dump(mode="json", include={"task", "name", "version", "runtime", "licence", "quality"})
            mode = {"mode": trial.mode, "percent": trial.share} if trial else None
            print(json.dumps(shown | {"digest": entry.digest, "serves": serves, "challenges": mode}))
        role = "*" if serves else (f"{trial.mode} {trial.share:g}%" if trial else "")
        table.add_row(role, entry.task, entry.name, entry.version, entry.runtime, entry.licence, entry.digest[:12])
    if not json_:
        _console().print(table)


@app.command("show")
def show(
    name: Annotated[str, typer.Argument(help="a model's name, or a task for the one that serves it")],
    registry: Site = None,
    json_: Annotated[bool, typer.Option("--json", help="the whole entry as JSON, without the card")] = False,
) -> None:
    """Print a model's entry, its measured figures and its card."""
    from models.registry import Registry

    known = Registry.load(_site(registry))
    tasks = {entry.task for entry in known.entries()}
    chosen = [e for e in known.entries() if e.name == name or (name in tasks and e.task == name and known.serves(e))]
    if not chosen:
        names = ", ".join(sorted({entry.name for entry in known.entries()} | tasks))
        raise Permanent(f"unknown model {name!r}", hint=f"known: {names}")
    console = _console()
    for entry in chosen:
        if json_:
            print(json.dumps(entry.model_dump(mode="json") | {"digest": entry.digest, "serves": known.serves(entry)}))
            continue
        table = Table(show_header=False, title=f"{entry.name} {entry.version}", title_justify="left")
        facts = {
            "task": f"{entry.task}{', serves' if known.serves(entry) else ''}",
            "runtime": entry.runtime,
            "location": entry.location + ("" if known.folder(entry).is_dir() else " (not on this machine)"),
            "licence": entry.licence,
            "trained on": "; ".join(entry.trained_on),
            "labels": ", ".join(entry.labels),
            "thresholds": ", ".join(f"{label} {value:g}" for label, value in entry.thresholds.items()),
            "thresholds chosen": entry.thresholds_chosen,
            "meant for": "; ".join(f"{key}: {', '.join(said)}" for key, said in entry.meant_for or () if said),
            "digest": entry.digest,
            "made of": _made_of(entry),
        }
        for fact, value in (facts | {f"figure: {metric}": f"{v:g}" for metric, v in entry.quality.items()}).items():
            table.add_row(fact, escape(value))
        console.print(table)
        for part in ("card.md", "figures.md"):
            path = known.folder(entry) / part
            if path.is_file():
                console.print(path.read_text(encoding="utf-8"), markup=False, highlight=False, soft_wrap=True)
            elif part == "card.md":
                console.print(f"no card: {part} is not beside the weights", style="yellow", highlight=False)


def _made_of(entry: "ModelEntry") -> str:
    """Say what an exported model was made of, and how."""
    if (source := entry.made_of) is None:
        return ""
    scales = f", scales of {source.calibrated_on}" if source.calibrated_on else ""
    return (
        f"{source.name} {source.version} ({source.runtime}, {source.digest}), {source.way}{scales}; measured on "
        f"{source.measured_on}, tolerance {source.tolerance:g} points"
    )


@app.command("verify")
def verify(
    names: Annotated[list[str] | None, typer.Argument(help="models; default: all")] = None, registry: Site = None
) -> None:
    """Hash every file of every model, and what drift and evaluations are held against.

    Exits 1 and names the file where a digest differs or a file is missing.
    """
    from models.registry import Registry

    known = Registry.load(_site(registry))
    if unknown := set(names or ()) - {entry.name for entry in known.entries()}:
        raise Permanent(f"unknown model {', '.join(sorted(unknown))}", hint="`vigil models list` shows them")
    console, bad = _console(), 0
    for entry in known.entries():
        if names and entry.name not in names:
            continue
        try:
            known.weights(entry.task, entry.name, beside=True)
        except VigilError as error:
            bad += 1
            console.print(f"[bold red]bad [/] {escape(str(error))}", highlight=False, soft_wrap=True)
            if error.hint:
                console.print(f"       -> {escape(error.hint)}", highlight=False, soft_wrap=True)
        else:
            count = f"{len(entry.files)} file{'s' if len(entry.files) != 1 else ''}"
            count += f" and {len(entry.beside)} beside" if entry.beside else ""
            console.print(f"[green]ok  [/] {escape(entry.name)} {entry.version}: {count}, {entry.digest}", highlight=False)
    if bad:
        raise typer.Exit(1)


@app.command("promote")
def promote_model(
    task: Task,
    name: Annotated[str, typer.Argument(help="the model that shall serve it")],
    reason: Annotated[str, typer.Option(help="why, for the audit")],
    registry: Site = None,
    no_audit: Annotated[bool, typer.Option("--no-audit", help="without Kafka: the registry file alone remembers it")] = False,
    unopened: Unopened = False,
    no_store: NoStore = False,
) -> None:
    """Let a model serve a task, by a line in the site's registry file; its files are verified and it is tried out first.

    Running lanes see it within `models.watch_seconds`, open it and switch between batches; the vitals lane takes it at its next
    start, since a rerun after a crash must score as the first run did. Vectors of two models cannot be compared: after another
    embedding or image-text model is promoted, searches find what came before only once `vigil replay rebuild` has made it anew. A
    trial ends.
    """
    from models.registering import promote
    from models.registry import Registry

    site = _writable(registry)
    known = Registry.load(site)
    stored = _stored(task, name, _try(known, task, name, unopened=unopened), no_store=no_store)
    seen = known.stage(task)
    _change(site, known, task, name, reason, lambda: promote(task, name, site, seen=seen), audit=not no_audit)
    _left(task, stored)


@app.command("rollback")
def rollback_model(
    task: Task,
    reason: Annotated[str, typer.Option(help="why, for the audit")],
    registry: Site = None,
    no_audit: Annotated[bool, typer.Option("--no-audit", help="without Kafka: the registry file alone remembers it")] = False,
    unopened: Unopened = False,
    no_store: NoStore = False,
) -> None:
    """Let the model serve that served before the last promotion, opened first. Running lanes switch as they do for `promote`.

    A second rollback goes one further back, never to the model that was left. A trial ends.
    """
    from models.registering import previous, rollback
    from models.registry import Registry

    site = _writable(registry)
    known = Registry.load(site if site.is_file() else None)
    name, seen = previous(task, site), known.stage(task)
    stored = _stored(task, name, _try(known, task, name, unopened=unopened), no_store=no_store)
    _change(site, known, task, name, reason, lambda: rollback(task, site, seen=seen), audit=not no_audit)
    _left(task, stored)
    further = Registry.load(site).stage(task).previous
    back = f"rolled back again: {further[-1]}" if further else "nothing earlier is written down"
    _console().print(f"{back}; forward again: vigil models promote", style="dim", highlight=False)


@app.command("challenge")
def challenge_model(
    name: Annotated[str, typer.Argument(help="the model on trial, or with --stop the task whose trial ends")],
    reason: Annotated[str, typer.Option(help="why, for the audit")],
    shadow: Annotated[
        bool, typer.Option("--shadow", help="compare it and nothing else: its answers reach no live topic")
    ] = False,
    split: Annotated[str, typer.Option(help="let it answer for this share of the patients, say 10%")] = "",
    share: Annotated[str, typer.Option(help="with --shadow: compare on this share of the patients")] = "100%",
    stop: Annotated[bool, typer.Option("--stop", help="end the trial; the champion serves all")] = False,
    registry: Site = None,
    no_audit: Annotated[bool, typer.Option("--no-audit", help="without Kafka: the registry file alone remembers it")] = False,
    unopened: Unopened = False,
    no_store: NoStore = False,
) -> None:
    """Put a model on trial beside the champion, in shadow or for a share of the patients; running lanes take it up live.

    In shadow it is asked after the champion has answered: its answers go to clinical.shadow, vigil_shadow_items_total counts where
    the two agreed, differed, or the challenger failed or was too slow. In a split the same patients get the same model at every
    note, and each output names the model that made it. `vigil models promote` ends the trial as well.
    """
    from models.registering import challenge, free_to_try
    from models.registry import Registry, Stage

    if [shadow, bool(split), stop].count(True) != 1:
        raise Permanent("say one of --shadow, --split SHARE and --stop")
    site = _writable(registry)
    known = Registry.load(site)
    if stop:
        task, champion = name, known.champion(name)
        entry, stage = known.entry(task), None
        words = f"{task}: the trial ends, {champion} serves all"
    else:
        entry = _only(known, name)
        task, champion = entry.task, known.champion(entry.task)
        if task == "deterioration":
            raise Permanent("the vitals lane knows no trials", hint="compare with `vigil models evaluate`, then promote")
        free_to_try(known.stage(task), task, name)
        percent = _percent(split or share)
        model = _try(known, task, name, unopened=unopened)
        if split:
            _stored(task, name, model, no_store=no_store)
        stage = Stage(champion=champion, challenger=name, mode="split" if split else "shadow", percent=percent)
        words = f"{task}: {name} challenges {champion}, {stage.mode} for {percent:g}% of the patients"
    if not reason.strip():
        raise Permanent("a reason is needed", hint='--reason "why", for the audit')
    if audit := not no_audit:
        asyncio.run(audit_change(load(), task, entry.identity, f"{words}: {reason}"))
    challenge(task, stage, site, seen=known.stage(task))
    told = "an audit record is written" if audit else "no audit record was written (--no-audit)"
    _console().print(f"{words}; {told}. Running lanes take it up within seconds; vigil_model_info shows it.", highlight=False)


def _only(known: "Registry", name: str) -> "ModelEntry":
    found = [entry for entry in known.entries() if entry.name == name]
    if len(found) != 1:
        tasks = ", ".join(entry.task for entry in found)
        problem = f"{name!r} is a model of several tasks: {tasks}" if found else f"unknown model {name!r}"
        raise Permanent(problem, hint="`vigil models list` shows them")
    return found[0]


def _percent(said: str) -> float:
    try:
        value = float(said.strip().removesuffix("%"))
    except ValueError:
        value = -1.0
    if not 0 < value <= 100:
        raise Permanent(f"{said!r} is no share of the patients", hint="say 10%")
    return value


def _try(known: "Registry", task: str, name: str, *, unopened: bool) -> Any:
    """Open a model, or with `unopened` verify its files alone and return None: what does not open is not written down."""
    if unopened:
        known.weights(task, name)
        return None
    from streams.checks import remarks

    entry = known.entry(task, name)  # an unknown name, or of another task, is no matter of opening
    try:
        model = known.open(task, name=name)
    except VigilError as error:
        words = f"{name} does not open: {error}; nothing was changed"
        raise Permanent(words, hint=f"{error.hint or 'mend it'}; where only lanes can open it: --unopened") from error
    tell(asyncio.run(remarks(load(), entry, model)), _console())
    return model


def _stored(task: str, name: str, model: Any, *, no_store: bool) -> int | None:
    """Ask the vector store whether a model's vectors fit what is stored; return how many points there are of others.

    None where it is not asked: not opened here, `--no-store`, or a task without vectors.
    """
    from streams.checks import COLLECTIONS, points_of_others

    if task not in COLLECTIONS:
        return None
    if model is None or no_store:
        _console().print("not asked: whether its vectors fit what the vector store holds", style="yellow", highlight=False)
        return None
    collection = COLLECTIONS[task].name
    try:
        return asyncio.run(points_of_others(load(), task, model))
    except Fatal as error:
        raise Permanent(
            f"{name}: {error}; nothing was changed",
            hint="lanes would refuse it, and not start again. To change to its vectors: promote it with --no-store, and at once "
            f"`vigil replay rebuild {collection} --reason ...`",
        ) from error
    except VigilError as error:
        raise Permanent(
            f"whether the vectors of {name} fit what is stored cannot be told: {error}; nothing was changed",
            hint=f"{error.hint or 'is it up, and is vectors.url its address?'}; without asking: --no-store",
        ) from error


def _left(task: str, stored: int | None) -> None:
    """Say, after another model serves, what searches no longer find."""
    from streams.checks import COLLECTIONS

    if task not in COLLECTIONS or stored == 0:
        return
    collection = COLLECTIONS[task].name
    points = "What other models stored is" if stored is None else f"{stored:,} points of other models are"
    words = f"{points} not found by searches until `vigil replay rebuild {collection} --reason ...` has run."
    _console().print(words, style="yellow", highlight=False, soft_wrap=True)


def _change(
    site: Path, known: "Registry", task: str, name: str, reason: str, change: Callable[[], str], *, audit: bool
) -> None:
    """Audit first, then change: a change that nobody can trace is worse than a record of one that failed.

    Raises `Permanent` where the file says another thing of the task or the model than it did when the model was opened.
    """
    from models.registering import as_seen
    from models.registry import Registry

    if not reason.strip():
        raise Permanent("a reason is needed", hint='--reason "why", for the audit')
    stage, entry = known.stage(task), known.entry(task, name)
    before, now = stage.champion, Registry.load(site)
    as_seen(now, task, stage)
    if now.entry(task, name) != entry:
        raise Permanent(f"{name} was replaced meanwhile, by another command: nothing was changed", hint="say it again")
    if before == name:
        raise Permanent(f"{name} serves {task} already")
    ends = f" (the trial of {stage.challenger} ends)" if stage.challenger not in ("", before) else ""
    if audit:
        asyncio.run(audit_change(load(), task, entry.identity, f"{before} -> {name}{ends}: {reason}"))
    change()
    told = "an audit record is written" if audit else "no audit record was written (--no-audit)"
    _console().print(f"{task}: {name} serves, before {before}{ends}; {told}. {_reaches(task)}", highlight=False)


def _reaches(task: str) -> str:
    if task == "deterioration":
        return "Restart the vitals lane: it takes a model at its start."
    return "Running lanes switch within seconds; vigil_model_info shows it."


def _site(registry: Path | None) -> Path | None:
    return registry or load().models.registry


def _writable(registry: Path | None) -> Path:
    if (site := _site(registry)) is None:
        raise Permanent(
            "promotion is written into a site's registry file, and there is none",
            hint="set models.registry (VIGIL_MODELS__REGISTRY) to a file; it may be empty",
        )
    return site


def _console() -> Console:
    console = Console()
    if not console.is_terminal:
        console.width = 200  # for grep: a row stays a line
    return console
