"""`vigil dead-letters`: what could not be processed, looked into, redriven, discarded."""

import asyncio
import getpass
from base64 import b64decode
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from models.errors import Permanent
from streams.cli.printing import as_json, cell, place_of, print_table, printable
from streams.cli.progressing import Bar
from streams.settings import Settings, load

if TYPE_CHECKING:
    from streams.letters import Found, Letter, Which
    from streams.redriving import Concerned, DeadLetters, Plan
    from streams.whereabouts import Whereabouts

app = typer.Typer(help="What could not be processed: look into it, redrive it, discard it.", no_args_is_help=True)

Ids = Annotated[list[str] | None, typer.Argument(help="letter ids, or their beginnings")]
Lanes = Annotated[list[str] | None, typer.Option("--lane", help="of this lane; may be repeated")]
Stages = Annotated[list[str] | None, typer.Option("--stage", help="failed at this stage (decode, model, ...); may be repeated")]
Classes = Annotated[list[str] | None, typer.Option("--class", help="Poison, Permanent or an error's name; may be repeated")]
Models = Annotated[list[str] | None, typer.Option("--model", help="model digest or its beginning; may be repeated")]
Since = Annotated[datetime | None, typer.Option(help="failed at or after")]
Until = Annotated[datetime | None, typer.Option(help="failed before")]
All = Annotated[bool, typer.Option("--all", help="every open letter, where nothing else is asked")]
Limit = Annotated[int, typer.Option(min=1, help="the oldest so many at most; they are held in memory whole")]
MaxWait = Annotated[
    float,
    typer.Option(
        min=0.1, max=3600, metavar="SECONDS", help="a live record waits no longer behind these, by the lanes' own speed"
    ),
]
Reason = Annotated[str, typer.Option(help="why, for the audit")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="print the counts and do nothing")]
Yes = Annotated[bool, typer.Option("--yes", help="do not ask")]

_REASONS_SHOWN = 15
_WORDS = 120  # characters of a reason in a table; `show` and --json have it whole
_SHORT = 12  # characters of a model's digest: what `vigil models list` shows, and enough for --model
_STATES = {"open": ("open",), "redriven": ("redriven",), "discarded": ("discarded",), "any": ("open", "redriven", "discarded")}


@app.command("list")
def list_letters(
    ids: Ids = None,
    lane: Lanes = None,
    stage: Stages = None,
    class_: Classes = None,
    model: Models = None,
    since: Since = None,
    until: Until = None,
    state: Annotated[str, typer.Option(help="open, redriven, discarded or any")] = "open",
    limit: Annotated[int, typer.Option(min=1, help="letters shown, the newest; all are counted")] = 50,
    json_: Annotated[bool, typer.Option("--json", help="one JSON object per letter, no counts")] = False,
) -> None:
    """Count the dead letters by class, model and reason, and list them, the newest first. Shows nothing of what they hold."""
    which = _which(ids, lane, stage, class_, model, since, until)
    if state not in _STATES:
        raise Permanent(f"there is no state {state!r}", hint=f"states: {', '.join(_STATES)}")
    found = asyncio.run(_look(load(), which, _STATES[state]))
    letters = sorted(found.letters, key=_when, reverse=True)
    _tell(found)
    if json_:
        as_json(map(_facts, letters[:limit]))
        if (left := len(letters) - limit) > 0:
            typer.echo(f"left out: {left:,} older ones (--limit {limit})", err=True)
        return
    _print_counts(letters, f"{len(letters)} dead letters" + ("" if state == "any" else f", {state}"))
    if letters:
        _print_reasons(letters)
        columns = ("id", "failed", "lane", "stage", "error", "attempts", "state", "model", "from", "message")
        table = Table(*columns, title=f"the newest {limit}" if len(letters) > limit else None)
        for letter in letters[:limit]:
            facts = _facts(letter) | {"from": _from(letter)}
            facts |= {"model": facts["model"][:_SHORT], "message": _brief(facts["message"])}
            table.add_row(*(cell(facts[name]) for name in columns))
        print_table(table)


@app.command("show")
def show(
    letter_id: Annotated[str, typer.Argument(metavar="ID", help="a letter's id, or its beginning")],
    phi: Annotated[bool, typer.Option("--phi", help="show the original too; who asks and why is audited first")] = False,
    reason: Reason = "",
) -> None:
    """Show one letter: what failed and how, and with --phi what it holds."""
    if phi and not reason.strip():
        raise Permanent("--phi needs a reason", hint='--reason "why", for the audit')
    letter, value = asyncio.run(_open(load(), letter_id, reason if phi else None))
    event = letter.event
    names = ", ".join(header.name for header in event.original_headers)
    facts = {**_facts(letter), "first failed": _second(letter.first_failed_at)}
    facts |= {"original written": _second(event.original_timestamp), "bytes": letter.size, "sha256": letter.digest}
    facts |= {"headers": names, "by": letter.by}
    if event.original_partition < 0:
        facts["original"] = ""  # it never was a record
    if event.tried_offset not in (None, event.original_offset):  # the lane's log names the copy
        facts["copy tried last"] = f"{event.original_topic}/{event.original_partition}/{event.tried_offset}"
    width = max(map(len, facts))
    for name, fact in facts.items():
        if fact not in ("", None):
            print(f"{name.replace('_', ' '):<{width}}  {fact}")
    if not phi:
        print("\nThe original is not shown. --phi --reason WHY shows it, which is audited.")
        return
    print(f"\n{'key':<{width}}  {_printable(b64decode(event.original_key or ''))}")
    for header in event.original_headers:
        print(f"{header.name:<{width}}  {_printable(b64decode(header.value or ''))}")
    print("\n" + ("(no value)" if value is None else _printable(value)))


@app.command("patients")
def patients(
    ids: Ids = None,
    lane: Lanes = None,
    stage: Stages = None,
    class_: Classes = None,
    since: Since = None,
    until: Until = None,
    reason: Reason = "",
    json_: Annotated[bool, typer.Option("--json", help="one JSON object per patient")] = False,
) -> None:
    """Name the patients whom open letters are about, the bed and the hospital's own number; of deliveries the alert that is untold.

    Looking is audited, with the reason.
    """
    if not reason.strip():
        raise Permanent("a reason is needed", hint='--reason "why": who looks at patients is audited')
    which = _which(ids, lane, stage, class_, None, since, until)
    found, known = asyncio.run(_concerned(load(), which, reason))
    rows = []
    for one in found:
        place = one.alert.location if one.alert and one.alert.location.ward else known.place(one.patient_id)
        what = f"{one.alert.severity}: {one.alert.title}" if one.alert else one.message
        row = {"place": place_of(place), "number": ", ".join(known.numbers(one.patient_id)), "letters": one.letters}
        rows.append({**row, "newest": _second(one.failed_at), "what": what, "patient_id": one.patient_id})
    if json_:
        as_json(rows)
        return
    if not rows:
        print("no open letter is about a patient")
        return
    table = Table(*rows[0], title=f"{len(rows)} patients")
    for row in rows:
        table.add_row(*(cell(_brief(str(value)) if name == "what" else value) for name, value in row.items()))
    print_table(table)


@app.command("redrive")
def redrive(
    ids: Ids = None,
    lane: Lanes = None,
    stage: Stages = None,
    class_: Classes = None,
    model: Models = None,
    since: Since = None,
    until: Until = None,
    all_: All = False,
    unverified: Annotated[
        bool, typer.Option("--unverified", help="also notes whose topic no longer shows whether a newer version came")
    ] = False,
    limit: Limit = 10_000,
    max_wait: MaxWait = 1.0,
    reason: Reason = "",
    dry_run: DryRun = False,
    yes: Yes = False,
) -> None:
    """Give open letters' originals back to their topics, byte for byte, as late data. Prints the counts, then asks.

    Each hundred is marked once it is written: stopped in between, the same command goes on with what is open still.
    """
    which = _which(ids, lane, stage, class_, model, since, until)
    _bounded(which, all_)
    settings = load()
    found, plan = asyncio.run(_plan(settings, which, limit, unverified))
    _tell(found)
    _print_counts(plan.ready, f"{len(plan.ready)} to redrive")
    for words in plan.words:
        print(words)
    _tell_left(found)
    if _go(dry_run, yes, reason, "redrive", len(plan.ready)):
        print(f"{asyncio.run(_redrive(settings, plan.ready, reason, max_wait))} redriven")


@app.command("discard")
def discard(
    ids: Ids = None,
    lane: Lanes = None,
    stage: Stages = None,
    class_: Classes = None,
    model: Models = None,
    since: Since = None,
    until: Until = None,
    all_: All = False,
    limit: Limit = 10_000,
    reason: Reason = "",
    dry_run: DryRun = False,
    yes: Yes = False,
) -> None:
    """Set open letters aside: they are no longer listed as open, and the topic's retention takes them in its time."""
    which = _which(ids, lane, stage, class_, model, since, until)
    _bounded(which, all_)
    settings = load()
    found = asyncio.run(_look(settings, which, _STATES["open"], limit))
    letters = found.letters
    _tell(found)
    _print_counts(letters, f"{len(letters)} to discard")
    _tell_left(found)
    if _go(dry_run, yes, reason, "discard", len(letters)):
        print(f"{asyncio.run(_discard(settings, letters, reason))} discarded")


# ---------------------------------------------------------------------------------------------------------------- asking


def _which(
    ids: list[str] | None,
    lanes: list[str] | None,
    stages: list[str] | None,
    classes: list[str] | None,
    models: list[str] | None,
    since: datetime | None,
    until: datetime | None,
) -> "Which":
    from streams.redriving import Which

    return Which(
        ids=tuple(ids or ()),
        lanes=tuple(lanes or ()),
        stages=tuple(stages or ()),
        classes=tuple(classes or ()),
        models=tuple(models or ()),
        since=since.astimezone() if since else None,
        until=until.astimezone() if until else None,
    )


def _bounded(which: "Which", all_: bool) -> None:
    if which.everything and not all_:
        raise Permanent("which letters?", hint="give ids or filters, or --all")


def _go(dry_run: bool, yes: bool, reason: str, what: str, count: int) -> bool:
    if dry_run:
        print("dry run: nothing was done")
        return False
    if not reason.strip():
        raise Permanent("a reason is needed", hint='--reason "why", for the audit')
    return count > 0 and (yes or typer.confirm(f"{what} {count}?", abort=True))


# ----------------------------------------------------------------------------------------------------------------- doing


def _desk(settings: Settings, *, writing: bool) -> "DeadLetters":
    from streams.clock import clock_of
    from streams.outbox import Outbox
    from streams.redriving import DeadLetters

    outbox = Outbox(settings, source=f"/vigil/{settings.site.name}/cli") if writing else None
    return DeadLetters(settings, outbox=outbox, user=getpass.getuser(), clock=clock_of(settings.clock))


async def _look(settings: Settings, which: "Which", states: Any, limit: int | None = None) -> "Found":
    async with _desk(settings, writing=False) as desk:
        return await desk.look(which, states=states, limit=limit)


async def _open(settings: Settings, letter_id: str, reason: str | None) -> tuple["Letter", bytes | None]:
    async with _desk(settings, writing=reason is not None) as desk:
        letter = await desk.one(letter_id)
        return letter, None if reason is None else await desk.disclose(letter, reason)


async def _plan(settings: Settings, which: "Which", limit: int, unverified: bool) -> tuple["Found", "Plan"]:
    async with _desk(settings, writing=False) as desk:
        return await desk.prepare(which, limit=limit, unverified=unverified)


async def _redrive(settings: Settings, letters: list["Letter"], reason: str, max_wait: float) -> int:
    async with _desk(settings, writing=True) as desk:
        with Bar("redrive", len(letters)) as bar:
            return await desk.redrive(
                letters,
                reason,
                seconds=max_wait,
                progress=lambda done: bar.update(doing="redrive", done=done),
                waits=lambda words: bar.update(doing=f"waiting: {words}"),
            )


async def _concerned(settings: Settings, which: "Which", reason: str) -> "tuple[list[Concerned], Whereabouts]":
    from streams.whereabouts import Whereabouts

    async with _desk(settings, writing=True) as desk:
        return await desk.concerned(which, reason), await Whereabouts.read(settings)


async def _discard(settings: Settings, letters: list["Letter"], reason: str) -> int:
    async with _desk(settings, writing=True) as desk:
        with Bar("discard", len(letters)) as bar:
            return await desk.discard(letters, reason, progress=lambda done: bar.update(done=done))


# --------------------------------------------------------------------------------------------------------------- showing


def _facts(letter: "Letter") -> dict[str, Any]:
    event = letter.event
    return {
        "id": event.id,
        "failed": _second(event.failed_at),
        "lane": event.lane,
        "stage": event.stage,
        "error": event.error if event.error == event.error_class else f"{event.error_class} {event.error}",
        "attempts": event.attempts,
        "state": letter.state,
        "model": event.model_digest,
        "original": f"{event.original_topic}/{event.original_partition}/{event.original_offset}",
        "peer": event.peer,
        "message_type": event.message_type,
        "message": printable(event.message),
    }


def _from(letter: "Letter") -> str:
    """Say where an original stands; of a connector's, which never was a record, who sent it and what it is."""
    event = letter.event
    if event.original_partition >= 0:
        return f"{event.original_topic}/{event.original_partition}/{event.original_offset}"
    return " ".join(filter(None, (event.peer, event.message_type))) or "a sender"


def _brief(words: str) -> str:
    return words if len(words) <= _WORDS else words[: _WORDS - 1] + "…"


def _when(letter: "Letter") -> tuple[datetime, int, str]:
    event = letter.event
    return event.failed_at, event.original_offset, event.id  # a batch fails in one moment


def _printable(data: bytes) -> str:
    """Write bytes as text, what is no text or would steer the terminal as escapes."""
    return printable(data.decode(errors="backslashreplace"), keep="\n\t")


def _second(time: datetime | None) -> str:
    return "" if time is None else time.isoformat(timespec="seconds")


def _tell(found: "Found") -> None:
    """Say what was asked for in vain, beside what is printed: a misspelt word is not to look like good news."""
    for sentence in found.unknown:
        typer.echo(sentence, err=True)
    for letter in found.otherwise:
        typer.echo(f"{letter.event.id} is {letter.state}" + (f", by {letter.by}" if letter.by else ""), err=True)


def _tell_left(found: "Found") -> None:
    if left := found.total - len(found.letters):
        print(f"left out: {left:,} newer, for --limit takes the oldest {len(found.letters):,}")


def _print_counts(letters: list["Letter"], title: str) -> None:
    from streams.redriving import counts

    if not letters:
        print(title)
        return
    table = Table("lane", "stage", "class", "error", "model", "letters", title=title)
    for *kind, model, number in counts(letters):
        table.add_row(*map(cell, (*kind, model[:_SHORT], number)))
    print_table(table)


def _print_reasons(letters: list["Letter"]) -> None:
    from streams.letters import reasons

    found = reasons(letters)
    shown = found[:_REASONS_SHOWN]
    table = Table("lane", "peer", "type", "reason", "letters", title="by reason")
    for lane, peer, kind, reason, number in shown:
        table.add_row(*map(cell, (lane, peer, kind, _brief(reason), number)))
    print_table(table)
    if (more := len(found) - len(shown)) > 0:
        print(f"and {more} other reasons, of {sum(number for *_, number in found[_REASONS_SHOWN:])} letters")
