"""`vigil train`: the trainings that made the shipped weights, on a folder of data. Needs the train extra."""

import logging
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from models.errors import Permanent
from streams.cli.evaluate import bars, console, table_of
from streams.cli.model_in_use import InUse, Yes

app = typer.Typer(
    help="Train a model on a folder of data; `vigil models evaluate` then measures it. Needs the train extra.",
    no_args_is_help=True,
)

Data = Annotated[Path, typer.Option("--data", help="the folder of data")]
Out = Annotated[Path, typer.Option("--out", help="folder for the weights; never the packaged ones")]
Site = Annotated[Path, typer.Option("--registry", help="the registry file that gets the entry; made if absent")]
Seed = Annotated[int, typer.Option(help="the same seed, data and versions give the same weights")]


@app.command("ner")
def ner(
    data: Data,
    out: Out,
    registry: Site,
    version: Annotated[str, typer.Option(help="version of what is made")] = "1",
    epochs: Annotated[int, typer.Option(min=1, help="of plain training")] = 6,
    rate: Annotated[float, typer.Option(min=0.0, help="learning rate of plain training")] = 2e-4,
    rounds: Annotated[
        int, typer.Option(min=0, help="then, rounds against overfitting: mentions swapped, weights averaged")
    ] = 0,
    rounds_rate: Annotated[float, typer.Option(min=0.0, help="learning rate of the rounds")] = 1e-4,
    seed: Seed = 7,
    start: Annotated[
        Path | None,
        typer.Option(
            help="a folder with a BERT to start from, in the hub's format or as model.onnx; default: all-MiniLM-L6-v2"
        ),
    ] = None,
    trained: Annotated[
        Path | None,
        typer.Option("--from", help="a run of before (its folder `run` or `tuned`): no plain training, only --rounds"),
    ] = None,
    licence: Annotated[str, typer.Option(help="of what is made; that of the start counts too")] = "Apache-2.0",
    yes: Yes = False,
) -> None:
    """Train the entity model on BC5CDR-IOB, NCBI-disease-IOB and maccrobat, keep the best epoch, export it to INT8 ONNX.

    Rounds that were stopped go on where the same command is given again with --from OUT/run.
    """
    if trained is not None and (start is not None or rounds == 0):
        raise Permanent("--from is a run to go on from", hint="with --rounds, and without --start")
    _ready(data)
    from models.training import ner as training
    from models.training import ner_export, ner_tune

    in_use = InUse.ask(registry, "ner", ner_export.NAME, yes=yes)
    run = trained or out / "run"
    if trained is None:
        training.train(data, run, seed=seed, epochs=epochs, recipe=training.Recipe(learning_rate=rate), start=start)
    if rounds:
        tuning = ner_tune.Tuning(learning_rate=rounds_rate)
        ner_tune.tune(data, run, out / "tuned", seed=seed, rounds=rounds, tuning=tuning)
        run = out / "tuned"
    with in_use.recording("vigil train ner") as place:
        entry, _ = ner_export.export(run, data, version=version, out=out, registry=place, licence=licence)
    _say(entry.name, entry.version, entry.digest, out)


@app.command("deterioration")
def deterioration(
    out: Out,
    registry: Site,
    data: Annotated[Path | None, typer.Option("--data", help="the folder of data; with --home a CSV file of diaries")] = None,
    seed: Annotated[int | None, typer.Option(help="the same seed, data and versions give the same weights")] = None,
    home: Annotated[bool, typer.Option("--home", help="home monitoring instead: 7 days of a diary, 3 days ahead")] = False,
    sql: Annotated[
        str | None,
        typer.Option("--sql", envvar="VIGIL_HOME_SQL", help="with --home: the database's SQLAlchemy URL, for --table"),
    ] = None,
    table: Annotated[str, typer.Option("--table", help="with --sql: a table, or a SELECT that names the columns")] = "diaries",
    patients: Annotated[int, typer.Option(min=1, help="with --home alone: synthetic patients")] = 800,
    synthetic: Annotated[
        bool,
        typer.Option("--synthetic", help="with --home: what --data or --sql gives was made by a program, and is not marked so"),
    ] = False,
    version: Annotated[str, typer.Option(help="with --home: version of what is made")] = "1",
    yes: Yes = False,
) -> None:
    """Train the deterioration model on cinc2019 and physionet2012 set a, by patient; others stay unseen for measuring.

    With --home: from a CSV file (--data) or a database (--sql, --table) with the columns patient, day, facial_pain,
    self_reported_pain, respiratory_rate, symptom_severity, deteriorated; at least 50 patients with 14 days. Without either it
    learns from synthetic diaries, and says so in its card: such a model is not for patients. So does one that learns from a table
    whose column synthetic has a 1, as `vigil home generate` writes it, or with --synthetic.
    """
    if home:
        drawn = 7 if seed is None else seed
        _home(out, registry, data, sql, table, patients, made=synthetic, seed=drawn, version=version, yes=yes)
        return
    if sql is not None:
        raise Permanent("--sql is for home monitoring", hint="add --home, or give --data")
    if data is None:
        raise Permanent("--data is missing", hint="the folder with cinc2019 and physionet2012, or --home")
    _ready(data)
    from models.training import deterioration as training

    in_use = InUse.ask(registry, "deterioration", training.NAME, yes=yes)
    with in_use.recording("vigil train deterioration") as place:
        entry = training.ship(data, registry=place, out=out, seed=20261123 if seed is None else seed)
    _say(entry.name, entry.version, entry.digest, out)


def _home(
    out: Path,
    registry: Path,
    data: Path | None,
    sql: str | None,
    table: str,
    patients: int,
    *,
    made: bool,
    seed: int,
    version: str,
    yes: bool,
) -> None:
    from models.evaluation.home import TASK
    from models.evaluation.home_sets import read_csv, read_sql
    from models.training import home_synthetic
    from models.training.home_synthetic import Cohort

    _needs_torch()
    from models.training import home as training

    if data is not None and sql is not None:
        raise Permanent("--data and --sql are two sources", hint="give one of them")
    if data is not None:
        diaries, origin, licence = read_csv(data), "a site's own diaries, from CSV", "site"
    elif sql is not None:
        diaries, origin, licence = read_sql(sql, table), "a site's own diaries, from its database", "site"
    else:
        cohort = Cohort(patients, seed=seed)
        diaries, origin, licence = home_synthetic.diaries(cohort), cohort.origin, "Apache-2.0"
    if (made := made or diaries.synthetic) and (data is not None or sql is not None):
        origin = f"synthetic diaries of {len(diaries.stays.ids)} patients, read from a table"
    in_use = InUse.ask(registry, TASK, training.NAME, yes=yes)
    with in_use.recording("vigil train deterioration --home") as place, bars() as progress:
        entry, found = training.ship(
            diaries,
            origin=origin,
            synthetic=made,
            registry=place,
            out=out,
            version=version,
            licence=licence,
            seed=seed,
            progress=progress,
        )
    table_of(console(), found)
    _say(entry.name, entry.version, entry.digest, out)


@app.command("images")
def images(data: Data, out: Out, registry: Site, seed: Seed = 20261123, yes: Yes = False) -> None:
    """Train the chest X-ray model on images of two classes, by patient; a fifth of the patients stays unseen for measuring."""
    _ready(data)
    from models.training import image_text as training

    in_use = InUse.ask(registry, "image-text", training.NAME, yes=yes)
    with in_use.recording("vigil train images") as place:
        entry = training.ship(data, registry=place, out=out, seed=seed)
    _say(entry.name, entry.version, entry.digest, out)


def _needs_torch() -> None:
    if find_spec("torch") is None:
        raise Permanent("training needs torch, which is not installed", hint="pip install 'vigil-stream[train]'")


def _ready(data: Path) -> None:
    _needs_torch()
    if not data.is_dir():
        raise Permanent(f"no such folder: {data}", hint="--data takes a folder of data")
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")  # steps and losses


def _say(name: str, version: str, digest: str, out: Path) -> None:
    said = Console(soft_wrap=True)
    said.print(f"{name} {version} {digest} in {out}", highlight=False)
    said.print("`vigil models evaluate` measures it, `vigil models promote` lets it serve", style="dim", highlight=False)
