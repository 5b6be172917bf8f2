"""`vigil alerts open`: which alerts stand, of whom, and where they lie."""

import asyncio
import getpass
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from models.errors import Permanent
from streams.cli.printing import as_json, cell, place_of, print_table
from streams.cli.progressing import Bar
from streams.settings import Settings, load

if TYPE_CHECKING:
    from streams.whereabouts import Standing, Whereabouts

app = typer.Typer(help="Alerts as they stand: for when nobody is told by the usual way.", no_args_is_help=True)


@app.callback()
def _group() -> None:
    """Keep `open` a command of its own."""


@app.command("open")
def open_alerts(
    ward: Annotated[list[str] | None, typer.Option(help="only this ward's; may be repeated")] = None,
    reason: Annotated[str, typer.Option(help="why you look, for the audit")] = "",
    json_: Annotated[bool, typer.Option("--json", help="one JSON object per alert")] = False,
) -> None:
    """List the alerts that stand, the gravest first: since when, what, the bed, the hospital's own number, who was told last.

    Looking is audited, with the reason.
    """
    if not reason.strip():
        raise Permanent("a reason is needed", hint='--reason "why": who looks at patients\' alerts is audited')
    found, known = asyncio.run(_look(load(), tuple(ward or ()), reason))
    rows = [_row(one, known) for one in found]
    if json_:
        as_json(rows)
        return
    if not rows:
        print("no alert stands" + (f" on {', '.join(ward)}" if ward else ""))
        return
    columns = ("since", "severity", "state", "place", "number", "title", "told", "alert_id")
    table = Table(*columns, title=f"{len(rows)} alerts stand")
    for row in rows:
        table.add_row(*(cell(row[name]) for name in columns))
    print_table(table)


def _row(one: "Standing", known: "Whereabouts") -> dict[str, Any]:
    alert = one.alert
    return {
        "since": one.since.isoformat(timespec="seconds"),
        "severity": alert.severity,
        "state": alert.state,
        "place": place_of(alert.location if alert.location.ward else known.place(alert.patient_id)),
        "number": ", ".join(known.numbers(alert.patient_id)),
        "title": alert.title,
        "told": ", ".join(alert.routes or (alert.route,)),
        "alert_id": alert.alert_id,
        "patient_id": alert.patient_id,
        "sequence": alert.sequence,
    }


async def _look(settings: Settings, wards: tuple[str, ...], reason: str) -> "tuple[list[Standing], Whereabouts]":
    from streams.clock import clock_of
    from streams.outbox import Outbox
    from streams.whereabouts import Whereabouts, account, standing

    outbox = Outbox(settings, source=f"/vigil/{settings.site.name}/cli")
    await outbox.start()
    try:
        with Bar("records read", None) as bar:

            def progress(done: int, total: int) -> None:
                bar.update(done=done, total=total)

            found = await standing(settings, wards=wards, progress=progress)
            known = await Whereabouts.read(settings, progress)
        patients = [one.alert.patient_id for one in found]
        await account(outbox, clock_of(settings.clock), getpass.getuser(), patients, reason)
    finally:
        await outbox.stop()
    return found, known
