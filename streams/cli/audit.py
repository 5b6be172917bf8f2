"""`vigil audit find`: which prediction, access or change an id names, by which model, of which input, when."""

import asyncio
import getpass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from models.errors import Permanent
from streams.cli.printing import printable
from streams.cli.progressing import Bar
from streams.settings import Settings, load

if TYPE_CHECKING:
    from streams.auditing import Answer, Found, Lead, Question

_A_DAY = timedelta(days=1)

app = typer.Typer(help="The audit: every prediction, access, replay and change, on clinical.audit.", no_args_is_help=True)


@app.callback()
def _group() -> None:
    """Keep `find` a command of its own."""


@app.command("find")
def find(
    ids: Annotated[
        list[str] | None, typer.Argument(help="ids of outputs, inputs, requests, records, alerts or dead letters, whole")
    ] = None,
    patient: Annotated[list[str] | None, typer.Option(help="all that concerns this patient id; may be repeated")] = None,
    action: Annotated[list[str] | None, typer.Option(help="only predict, access, replay, ...; may be repeated")] = None,
    since: Annotated[
        datetime | None, typer.Option(help="recorded at or after; where --action alone asks, within a day if not given")
    ] = None,
    until: Annotated[datetime | None, typer.Option(help="recorded before")] = None,
    limit: Annotated[int, typer.Option(min=1, help="where --action alone asks: the newest so many")] = 200,
    reason: Annotated[str, typer.Option(help="why you look, for the audit")] = "",
    json_: Annotated[bool, typer.Option("--json", help="one JSON object per entry")] = False,
) -> None:
    """Find what an id names in the audit: who or what did it, by which model, of which input, when. Exits 1 for nothing.

    --action without an id or a patient finds who did such a thing at all: `--action replay` who replayed what since yesterday.

    An alert (its alert_id, or a step's id) and a dead letter are shown with what they rest on: the score, the input, who was told.
    Looking is audited too, with the reason.
    """
    from streams.auditing import Question
    from streams.clock import clock_of

    if not reason.strip():
        raise Permanent("a reason is needed", hint='--reason "why": looking into the audit is an access itself')
    settings = load()
    if action and not (ids or patient or since):
        since = (until.astimezone() if until else clock_of(settings.clock)()) - _A_DAY
    question = Question(
        ids=tuple(ids or ()),
        patients=tuple(patient or ()),
        actions=tuple(action or ()),
        since=since.astimezone() if since else None,
        until=until.astimezone() if until else None,
    )
    question.check()
    answer = asyncio.run(_find(settings, question, reason, limit))
    facts = [*map(_lead, answer.leads), *map(_facts, answer.found)]
    for one in facts:
        _print_json(one) if json_ else _print(one)
    if not answer.found and not json_:
        what = "what it rests on" if answer.leads else "that"
        print(f"nothing of {what} is on clinical.audit; what retention has taken is not there either")
    if question.general and question.since:
        typer.echo(f"looked at what was recorded since {question.since:%Y-%m-%d %H:%M %Z} (--since)", err=True)
    if answer.left_out:
        typer.echo(f"left out: {answer.left_out:,} older ones (--limit {limit})", err=True)
    raise typer.Exit(0 if facts else 1)


async def _find(settings: Settings, question: "Question", reason: str, limit: int) -> "Answer":
    from streams.auditing import AuditLog
    from streams.clock import clock_of
    from streams.outbox import Outbox

    outbox = Outbox(settings, source=f"/vigil/{settings.site.name}/cli")
    async with AuditLog(settings, user=getpass.getuser(), clock=clock_of(settings.clock), outbox=outbox) as log:
        with Bar("records read", None) as bar:
            return await log.find(
                question, reason=reason, limit=limit, progress=lambda done, total: bar.update(done=done, total=total)
            )


def _facts(one: "Found") -> dict[str, Any]:
    record, entry, model = one.record, one.entry, one.record.model
    return {
        "found": "audit",
        "recorded_at": record.recorded_at.isoformat(timespec="seconds"),
        "action": record.action,
        "agent": record.agent,
        "subject": record.subject,
        "event_id": entry.event_id if entry else record.id,
        "input_id": entry.input_id if entry else "",
        "input_digest": entry.input_digest if entry else "",
        "patient_id": entry.patient_id if entry else "",
        "outcome": entry.outcome if entry else "",
        "entries": "" if entry or not record.entries else len(record.entries),
        "model": f"{model.name} {model.version}" if model else "",
        "model_digest": model.digest if model else "",
        "reason": record.reason,
        "changes": [change.model_dump() for change in record.changes],
        "record": f"clinical.audit/{one.partition}/{one.offset}",
        "repeats": one.repeats,
    }


def _lead(one: "Lead") -> dict[str, Any]:
    from processors.events import AlertEvent

    event = one.event
    facts: dict[str, Any] = {"patient_id": one.patient_id, "rests_on": one.rests_on}
    facts["record"] = f"{event.topic}/{one.partition}/{one.offset}"
    if isinstance(event, AlertEvent):
        return {
            "found": "alert",
            "decided_at": event.decided_at.isoformat(timespec="seconds"),
            "event_id": event.id,
            "alert_id": event.alert_id,
            "sequence": event.sequence,
            "state": event.state,
            "kind": event.kind,
            "severity": event.severity,
            "by": event.by,
            **facts,
        }
    return {
        "found": "dead-letter",
        "failed_at": event.failed_at.isoformat(timespec="seconds"),
        "event_id": event.id,
        "lane": event.lane,
        "stage": event.stage,
        "error": event.error,
        "message": event.message,
        "original": f"{event.original_topic}/{event.original_partition}/{event.original_offset}",
        "model_digest": event.model_digest,
        **facts,
    }


def _print_json(facts: dict[str, Any]) -> None:
    import orjson

    print(orjson.dumps(facts).decode())


def _print(facts: dict[str, Any]) -> None:
    head, named = _head(facts)
    lines = [
        f"  {name.replace('_', ' '):<13} {printable(str(value))}"
        for name, value in facts.items()
        if name not in ("found", "repeats", "changes", *named) and value != ""
    ]
    lines += [f"  {_change(one)}" for one in facts.get("changes", ())]
    if repeats := facts.get("repeats"):
        lines.append(f"  {'said again':<13} {repeats} times, by reruns")
    console = Console()
    console.print(Text(head, style="bold"), soft_wrap=True)
    console.print(Text("\n".join(lines)), soft_wrap=True)


def _change(one: dict[str, str | None]) -> str:
    before, after = ("none" if value is None else value for value in (one["before"], one["after"]))
    return printable(f"{one['name']}: {before} -> {after}")


def _head(facts: dict[str, Any]) -> tuple[str, tuple[str, ...]]:
    """Return the line that says what was found, and the facts that it holds."""
    on = facts.get("rests_on")
    if facts["found"] == "audit":
        head = "{recorded_at}  {action}  by {agent}  about {subject}".format_map(facts)
        return head, ("recorded_at", "action", "agent", "subject")
    if facts["found"] == "alert":
        head = "{decided_at}  alert {state}  {kind}, {severity}".format_map(facts)
        why = f"  rests on {on}" if on else "  rests on silence, on no prediction"
        return head + why, ("decided_at", "state", "kind", "severity", "rests_on")
    head = "{failed_at}  dead letter of {lane}, {stage}".format_map(facts)
    return head + (f"  of the input {on}" if on else "  of what has no id"), ("failed_at", "lane", "stage", "rests_on")
