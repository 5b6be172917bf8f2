"""`vigil replay vitals`: what was said about one patient, said again with the state as it was."""

import asyncio
import getpass
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from streams.settings import Settings, load

if TYPE_CHECKING:
    from processors.events import ScoreEvent
    from streams.timetravel import Asked, Row, Travel


def vitals(
    patient: Annotated[str, typer.Option(help="Vigil's own id of the patient")],
    since: Annotated[datetime, typer.Option("--from", help="observed at or after")],
    until: Annotated[datetime, typer.Option("--until", help="observed before")],
    reason: Annotated[str, typer.Option(help="why you look, for the audit")] = "",
    json_: Annotated[bool, typer.Option("--json", help="one JSON object per line: what is told of all, then each set")] = False,
) -> None:
    """Run a patient's past through the monitor again, here, and hold its scores against those that were published.

    The state is rebuilt from the beginning of what the topics still hold, in the order that the journal has. Writes nothing but the
    audit of this access. Exits 1 where a score differs, or where there is none.
    """
    from streams.timetravel import Asked

    asked = Asked(patient, since.astimezone(), until.astimezone(), reason)
    found = asyncio.run(_travel(load(), asked))
    _print_json(found) if json_ else _print(found)
    raise typer.Exit(0 if found.rows and all(row.equal for row in found.rows) else 1)


async def _travel(settings: Settings, asked: "Asked") -> "Travel":
    from streams.clock import clock_of
    from streams.outbox import Outbox
    from streams.timetravel import TimeTravel

    outbox = Outbox(settings, source=f"/vigil/{settings.site.name}/cli")
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    await outbox.start()
    try:
        travel = TimeTravel(settings, outbox, user=getpass.getuser(), clock=clock_of(settings.clock))
        with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
            task = bar.add_task("vitals", total=None)
            return await travel.go(asked, lambda done, total: bar.update(task, completed=done, total=total))
    finally:
        await outbox.stop()


def _print_json(found: "Travel") -> None:
    import orjson

    equal = sum(row.equal for row in found.rows)
    told = {"scores": len(found.rows), "equal": equal, "sets_run": found.sets, "model": found.model, "notes": found.notes}
    print(orjson.dumps(told).decode())
    for row in found.rows:
        print(orjson.dumps(_facts(row)).decode())


def _facts(row: "Row") -> dict[str, Any]:
    return {
        "observed_at": row.score.observed_at.isoformat(),
        "input_id": row.score.source.event_id,
        "equal": row.equal,
        "differs": row.differs,
        "why": row.why,
        "score": row.score.model_dump(mode="json"),
        "published": row.published.model_dump(mode="json") if row.published else None,
    }


def _print(found: "Travel") -> None:
    table = Table("observed (UTC)", "NEWS2", "published", "model", "published", "", title=f"{len(found.rows)} scores")
    for row in found.rows:
        verdict = "equal" if row.equal else f"{', '.join(row.differs)}: {'; '.join(row.why)}"
        at = f"{row.score.observed_at:%Y-%m-%d %H:%M:%S}" + (" late" if row.score.late else "")
        now, then = _words(row.score), _words(row.published)
        table.add_row(at, now[0], then[0], now[1], then[1], verdict)
    console = Console()
    if not console.is_terminal:
        console.width = 200  # for grep: a row stays a line
    console.print(table)
    for note in found.notes:
        print(f"note: {note}")
    print(f"{sum(row.equal for row in found.rows)} of {len(found.rows)} equal what was published; {found.sets:,} sets were run")


def _words(score: "ScoreEvent | None") -> tuple[str, str]:
    """Return NEWS2 and the model's probability, or why there is none."""
    if score is None:
        return "-", "-"
    news2, deterioration = score.news2, score.deterioration
    total = score.news2_reason if news2 is None else f"{'at least ' if news2.at_least else ''}{news2.total}"
    return total, score.deterioration_reason if deterioration is None else f"{deterioration.probability:.3f}"
