"""`vigil replay vitals`: what was said about one patient, said again with the state as it was."""

import asyncio
import getpass
from collections.abc import Iterator
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from streams.settings import Settings, load

if TYPE_CHECKING:
    from processors.events import ScoreEvent
    from streams.matching import Row, Step
    from streams.timetravel import Asked, Other, Travel


def vitals(
    patient: Annotated[str, typer.Option(help="Vigil's own id of the patient")],
    since: Annotated[datetime, typer.Option("--from", help="observed at or after")],
    until: Annotated[datetime, typer.Option("--until", help="observed before")],
    rules: Annotated[
        Path | None, typer.Option(metavar="FILE", help="other rules: TOML with fields of `monitor`, laid over the site's")
    ] = None,
    registry: Annotated[
        Path | None, typer.Option(metavar="FILE", help="another model: a registry file whose deterioration champion answers")
    ] = None,
    report: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="write the comparison here too, as --json prints it; only you can read it"),
    ] = None,
    hours: Annotated[
        bool,
        typer.Option(
            "--hours", help="say which values, of which hours, drove the model's answer: some 200 runs for each score"
        ),
    ] = False,
    reason: Annotated[str, typer.Option(help="why you look, for the audit; needed")] = "",
    json_: Annotated[
        bool,
        typer.Option("--json", help="one JSON object per line: what is told of all, then each set, then each alert's step"),
    ] = False,
) -> None:
    """Run a patient's past through the monitor again, here, and compare its scores and alerts with those that were published.

    With --rules or --registry: what the machine would have said.

    The state is rebuilt from the beginning of what the topics still hold, in the order that the journal has.

    Writes to no topic but the audit of this access. Exits 1 where anything differs, or where there is no score.
    """
    from streams.keeping import keep, try_out
    from streams.timetravel import Asked, Other

    asked = Asked(patient, since.astimezone(), until.astimezone(), reason, hours)
    try_out(report, "report")
    found = asyncio.run(_travel(load(), asked, Other(rules, registry)))
    if report is not None:
        keep(report, "".join(f"{line}\n" for line in _lines(found)).encode(), "report")
    if json_:
        for line in _lines(found):
            print(line)
    else:
        _print(found)
    raise typer.Exit(0 if found.equal else 1)


async def _travel(settings: Settings, asked: "Asked", other: "Other") -> "Travel":
    from streams.clock import clock_of
    from streams.outbox import Outbox
    from streams.timetravel import TimeTravel

    outbox = Outbox(settings, source=f"/vigil/{settings.site.name}/cli")
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    await outbox.start()
    try:
        travel = TimeTravel(settings, outbox, user=getpass.getuser(), clock=clock_of(settings.clock), other=other)
        with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
            task = bar.add_task("vitals", total=None)
            return await travel.go(asked, lambda done, total: bar.update(task, completed=done, total=total))
    finally:
        await outbox.stop()


def _lines(found: "Travel") -> Iterator[str]:
    import orjson

    told = {
        "scores": len(found.rows),
        "equal": sum(row.equal for row in found.rows),
        "copies": found.copies,
        "alert_steps": len(found.alerts),
        "alert_steps_equal": sum(step.equal for step in found.alerts),
        "alerts_raised": sum(step.now is not None and step.now.state == "raised" for step in found.alerts),
        "alerts_raised_then": sum(step.published is not None and step.published.state == "raised" for step in found.alerts),
        "sets_run": found.sets,
        "model": found.model,
        "notes": found.notes,
    }
    for line in (told, *map(_facts, found.rows), *map(_alert_facts, found.alerts)):
        yield orjson.dumps(line).decode()


def _facts(row: "Row") -> dict[str, Any]:
    return {
        "observed_at": row.score.observed_at.isoformat(),
        "input_id": row.score.source.event_id,
        "equal": row.equal,
        "differs": row.differs,
        "why": row.why,
        "copy_of": row.copy_of,
        "score": row.score.model_dump(mode="json"),
        "published": row.published.model_dump(mode="json") if row.published else None,
        "hours": [asdict(one) for one in row.hours],
    }


def _alert_facts(step: "Step") -> dict[str, Any]:
    return {
        "decided_at": step.said.decided_at.isoformat(),
        "alert_id": step.said.alert_id,
        "equal": step.equal,
        "differs": step.differs,
        "alert": step.now.model_dump(mode="json") if step.now else None,
        "published": step.published.model_dump(mode="json") if step.published else None,
    }


def _print(found: "Travel") -> None:
    table = Table("observed (UTC)", "NEWS2", "published", "model", "published", "", title=f"{len(found.rows)} scores")
    for row in found.rows:
        verdict = "equal" if row.equal else f"{', '.join(row.differs)}: {'; '.join(row.why)}"
        if row.copy_of is not None:
            verdict = f"replay or redrive of offset {row.copy_of}: {verdict}"
        at = f"{row.score.observed_at:%Y-%m-%d %H:%M:%S}" + (" late" if row.score.late else "")
        now, then = _words(row.score), _words(row.published)
        table.add_row(at, now[0], then[0], now[1], then[1], verdict)
    console = Console()
    if not console.is_terminal:
        console.width = 200  # for grep: a row stays a line
    console.print(table)
    if any(row.hours for row in found.rows):
        console.print(_hours_table(found.rows))
    if found.alerts:
        console.print(_alert_table(found.alerts))
    for note in found.notes:
        print(f"note: {note}")
    again = f" ({found.copies} of them came again, by a replay or redrive)" if found.copies else ""
    equal = sum(row.equal for row in found.rows)
    print(f"{equal} of {len(found.rows)} equal what was published{again}; {found.sets:,} sets were run")
    alike = sum(step.equal for step in found.alerts)
    print(f"{alike} of {len(found.alerts)} steps of alerts are as they were published" if found.alerts else "no alerts")


def _hours_table(rows: "list[Row]") -> Table:
    table = Table("observed (UTC)", "model", "what drove it, by value", title="the strongest values (--json has all)")
    for row in rows:
        if row.hours:
            told = (f"{one.name} {one.value:g}, {one.hours_ago} h before: {one.effect:+.4f}" for one in row.hours[:4])
            table.add_row(f"{row.score.observed_at:%Y-%m-%d %H:%M:%S}", _words(row.score)[1], "; ".join(told))
    return table


def _alert_table(alerts: "list[Step]") -> Table:
    table = Table("decided (UTC)", "alert", "now", "published", "", title=f"{len(alerts)} steps of alerts")
    for step in alerts:
        now, then = (f"{one.state}, {one.severity}, {one.route}" if one else "-" for one in (step.now, step.published))
        missing = "only now" if step.published is None else "not now" if step.now is None else ""
        verdict = "equal" if step.equal else missing or ", ".join(step.differs)
        table.add_row(f"{step.said.decided_at:%Y-%m-%d %H:%M:%S}", step.said.kind, now, then, verdict)
    return table


def _words(score: "ScoreEvent | None") -> tuple[str, str]:
    """Return NEWS2 and the model's probability, or why there is none."""
    if score is None:
        return "-", "-"
    news2, deterioration = score.news2, score.deterioration
    total = score.news2_reason if news2 is None else f"{'at least ' if news2.at_least else ''}{news2.total}"
    return total, score.deterioration_reason if deterioration is None else f"{deterioration.probability:.3f}"
