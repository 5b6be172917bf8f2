"""`vigil home`: home monitoring diaries scored, and synthetic ones to try it with."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from models.errors import Permanent
from streams.settings import load

if TYPE_CHECKING:
    from processors.home import HomeScore

app = typer.Typer(
    help="Home monitoring: diaries of pain, respiratory rate and severity scored for the 3 days ahead. Assists, never diagnoses.",
    no_args_is_help=True,
)


@app.command("score")
def score(
    file: Annotated[
        Path,
        typer.Argument(
            help="CSV: patient, day, facial_pain, self_reported_pain, respiratory_rate, symptom_severity; a row for each day"
        ),
    ],
    model: Annotated[str | None, typer.Option("--model", help="a model of the registry; default: the one that serves")] = None,
    registry: Annotated[Path | None, typer.Option("--registry", help="a site's registry file; default: the setting")] = None,
    every_day: Annotated[bool, typer.Option("--every-day", help="every day, not just each patient's last one")] = False,
    json_: Annotated[bool, typer.Option("--json", help="one object per score, with what each value did to it")] = False,
) -> None:
    """Score each patient's last day: the probability of deterioration within 3 days, and which signs drove it.

    The model that ships learned from synthetic diaries and is not for patients; `vigil train deterioration --home` makes one from
    a site's own. Who reported nothing in the last 7 days is listed without a score; values out of range are left out and told.
    """
    from models.evaluation.home_card import WARNING, is_synthetic
    from models.evaluation.home_sets import read_csv
    from models.registry import Registry
    from processors.home import scores

    known = Registry.load(registry or load().models.registry)
    serving = known.open("deterioration-home", name=model)
    synthetic = is_synthetic(known.entry("deterioration-home", model))
    diaries = read_csv(file, labelled=False)
    found = scores(serving, diaries, every_day=every_day)
    by = serving.identity
    if synthetic:
        Console(stderr=True).print(f"{by.name} {by.version}: {WARNING}", style="yellow", highlight=False, soft_wrap=True)
    for patient, count in zip(diaries.stays.ids, diaries.left_out, strict=True):
        if count:
            told = f"{escape(patient)}: {count:,} values out of range, counted as not reported"
            Console(stderr=True).print(told, style="yellow", highlight=False, soft_wrap=True)
    if json_:
        for one in found:
            print(json.dumps(asdict(one) | {"model": asdict(by), "synthetic": synthetic}))
        return
    table = Table("patient", "day", f"within {serving.horizon_days} days", "what drove it")
    for one in sorted(found, key=lambda one: 0 if one.probability is None else -one.probability - 1):
        if one.probability is None:
            table.add_row(escape(one.patient), one.day, "-", f"nothing reported in the {serving.days} days up to it")
        else:
            table.add_row(escape(one.patient), one.day, f"{one.probability:.3f}", _drivers(one))
    console = Console()
    if not console.is_terminal:
        console.width = 200  # for grep: a row stays a line
    console.print(table)


def _drivers(one: "HomeScore") -> str:
    return ", ".join(
        f"{driver.name} {driver.effect:+.3f} ({driver.days[-1][1]:g}{_ago(driver.days[-1][0])})" for driver in one.drivers[:3]
    )


def _ago(days: int) -> str:
    return f", {days} d ago" if days else ""


@app.command("generate")
def generate(
    out: Annotated[Path, typer.Argument(help="the CSV file to write")],
    patients: Annotated[int, typer.Option(min=1)] = 800,
    days: Annotated[int, typer.Option(min=14)] = 90,
    seed: Annotated[int, typer.Option(help="the same seed gives the same diaries")] = 7,
) -> None:
    """Write synthetic diaries as CSV, in the columns that training and scoring read. No person is behind them."""
    from models.training import home_synthetic
    from models.training.home_synthetic import Cohort

    if out.exists():
        raise Permanent(f"{out} is there already", hint="name a file that is not, or remove it")
    home_synthetic.write_csv(Cohort(patients, days, seed), out)
    Console().print(f"{patients} synthetic patients of {days} days in {out}", highlight=False, soft_wrap=True)
