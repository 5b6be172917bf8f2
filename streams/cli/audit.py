"""`vigil audit find`: which prediction, access or change an id names, by which model, of which input, when."""

import asyncio
import getpass
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.text import Text

from models.errors import Permanent
from streams.settings import Settings, load

if TYPE_CHECKING:
    from streams.auditing import Found, Question

app = typer.Typer(help="The audit: every prediction, access, replay and change, on clinical.audit.", no_args_is_help=True)


@app.callback()
def _group() -> None:
    """Keep `find` a command of its own."""


@app.command("find")
def find(
    ids: Annotated[list[str] | None, typer.Argument(help="ids of outputs, inputs, requests or records, whole")] = None,
    patient: Annotated[list[str] | None, typer.Option(help="all that concerns this patient id; may be repeated")] = None,
    action: Annotated[list[str] | None, typer.Option(help="only predict, access, replay, ...; may be repeated")] = None,
    since: Annotated[datetime | None, typer.Option(help="recorded at or after")] = None,
    until: Annotated[datetime | None, typer.Option(help="recorded before")] = None,
    reason: Annotated[str, typer.Option(help="why you look, for the audit")] = "",
    json_: Annotated[bool, typer.Option("--json", help="one JSON object per entry")] = False,
) -> None:
    """Find what an id names in the audit: who or what did it, by which model, of which input, when. Exits 1 for nothing.

    Looking is audited too, with the reason.
    """
    from streams.auditing import Question

    if not reason.strip():
        raise Permanent("a reason is needed", hint='--reason "why": looking into the audit is an access itself')
    question = Question(
        ids=tuple(ids or ()),
        patients=tuple(patient or ()),
        actions=tuple(action or ()),
        since=since.astimezone() if since else None,
        until=until.astimezone() if until else None,
    )
    question.check()
    found = asyncio.run(_find(load(), question, reason))
    for one in found:
        _print_json(one) if json_ else _print(one)
    if not found and not json_:
        print("nothing of that is on clinical.audit; what retention has taken is not there either")
    raise typer.Exit(0 if found else 1)


async def _find(settings: Settings, question: "Question", reason: str) -> list["Found"]:
    from streams.auditing import AuditLog
    from streams.clock import clock_of
    from streams.outbox import Outbox

    outbox = Outbox(settings, source=f"/vigil/{settings.site.name}/cli")
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    async with AuditLog(settings, user=getpass.getuser(), clock=clock_of(settings.clock), outbox=outbox) as log:
        with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
            task = bar.add_task("records read", total=None)
            return await log.find(
                question, reason=reason, progress=lambda done, total: bar.update(task, completed=done, total=total)
            )


def _facts(one: "Found") -> dict[str, Any]:
    record, entry, model = one.record, one.entry, one.record.model
    return {
        "recorded_at": record.recorded_at.isoformat(timespec="seconds"),
        "action": record.action,
        "agent": record.agent,
        "subject": record.subject,
        "event_id": entry.event_id if entry else record.id,
        "input_id": entry.input_id if entry else "",
        "input_digest": entry.input_digest if entry else "",
        "outcome": entry.outcome if entry else "",
        "patient_id": entry.patient_id if entry else "",
        "model": f"{model.name} {model.version}" if model else "",
        "model_digest": model.digest if model else "",
        "reason": record.reason,
        "record": f"clinical.audit/{one.partition}/{one.offset}",
        "repeats": one.repeats,
    }


def _print_json(one: "Found") -> None:
    import orjson

    print(orjson.dumps(_facts(one)).decode())


def _print(one: "Found") -> None:
    facts = _facts(one)
    lines = [
        f"  {name.replace('_', ' '):<13} {facts[name]}"
        for name in (
            "event_id",
            "input_id",
            "input_digest",
            "patient_id",
            "outcome",
            "model",
            "model_digest",
            "reason",
            "record",
        )
        if facts[name]
    ]
    if one.repeats:
        lines.append(f"  {'said again':<13} {one.repeats} times, by reruns")
    console = Console()
    head = f"{facts['recorded_at']}  {facts['action']}  by {facts['agent']}  about {facts['subject']}"
    console.print(Text(head, style="bold"), soft_wrap=True)
    console.print(Text("\n".join(lines)), soft_wrap=True)
