"""`vigil check-feed`: a sample of a feed tried before go-live, offline. The servers' own code; nothing is published or stored."""

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncIterator, Callable
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from models.errors import Permanent
from streams.settings import Settings, load

if TYPE_CHECKING:
    from connectors.checking import Checker, ModelOf, Row, Sample, Totals

_PIPED = 200
_COLOURS = {"accepted": "green", "ignored": "dim", "dead-letter": "yellow", "refused": "bold red"}
_FINDINGS_SHOWN = 25
_REASONS_SHOWN = 15
_CODES_SHOWN = 8


class Feed(StrEnum):
    """What can be tried."""

    HL7 = "hl7"
    FHIR = "fhir"
    DICOM = "dicom"


def check_feed(
    feed: Annotated[Feed, typer.Argument(help="what the files hold")],
    paths: Annotated[list[Path], typer.Argument(help="files or folders (with all below); .gz is unpacked")],
    peer: Annotated[str, typer.Option(help="the sender whose settings apply: a peer's name (hl7, fhir) or AE title")] = "",
    json_: Annotated[Path | None, typer.Option("--json", help="write every row and the totals to this file")] = None,
    rows: Annotated[int, typer.Option(min=0, help="rows shown at most, what needs attention first; all are in --json")] = 40,
    every_frame: Annotated[
        bool, typer.Option(help="dicom: decode all frames for the figures in --json, or only the one that a server keeps")
    ] = True,
    strict: Annotated[bool, typer.Option(help="exit with 1 when a message would be refused: for a go-live checklist")] = False,
    show_phi: Annotated[
        bool, typer.Option("--show-phi", help="show message types and control ids as sent, whatever they are")
    ] = False,
) -> None:
    """Try a sample of a feed: what each message would be answered, what would come of it, and which settings are missing.

    Needs no broker and stores nothing. Exits 0 when every message got a row, whatever it says; with --strict only when nothing
    would be refused. File names are shown as they are: rename files that are named after patients.
    """
    from connectors.checking import Totals, samples

    logging.getLogger("connectors").addHandler(logging.NullHandler())  # what they warn of stands in the rows
    settings = load()
    if json_ is not None and not json_.absolute().parent.is_dir():
        raise Permanent(f"{json_} cannot be written: there is no such folder")
    found, passed = samples(paths)
    if not found:
        raise Permanent("no files to try", hint="give files, or folders that hold some")
    checker = _checker(feed, settings, peer, every_frame=every_frame, show_phi=show_phi)
    totals = Totals()
    tried = asyncio.run(_run(checker, found, totals.add))
    if json_ is not None:
        _write(json_, tried, totals)
    _print(tried, totals, passed, most=rows, elsewhere=json_ is not None)
    if strict and totals.refused:
        raise typer.Exit(1)


async def _run(checker: "Checker", files: "list[Sample]", add: Callable[["Row"], None]) -> "list[Row]":
    tried: list[Row] = []
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("files", total=len(files))
        for file in files:
            async for row in _rows(checker, file):
                tried.append(row)
                add(row)
            bar.advance(task)
    return tried


async def _rows(checker: "Checker", file: "Sample") -> "AsyncIterator[Row]":
    """Yield a file's rows, at least one, whatever happens."""
    from connectors.checking import UNREADABLE, failed

    try:
        content = await asyncio.to_thread(file.read)
    except UNREADABLE as error:
        yield failed(file.name, 0, f"the file cannot be read ({type(error).__name__})", checker.nothing)
        return
    index = -1
    try:
        async for row in checker.check(file.name, content):
            index = row.index
            yield row
    except Exception as error:  # a message that breaks the check has an outcome too; the class only, no patient text
        yield failed(file.name, index + 1, f"the check itself failed ({type(error).__name__})", checker.nothing)


def _checker(feed: Feed, settings: Settings, peer: str, *, every_frame: bool, show_phi: bool) -> "Checker":
    from connectors.identity import Identities
    from streams.clock import clock_of

    shared: dict[str, Any] = {
        "identities": Identities(settings.identity),
        "listed": settings.identity.authorities,
        "now": clock_of(settings.clock),
        "largest_record": settings.topics.largest_message_bytes,
    }
    if feed is Feed.DICOM:
        from connectors.dicom.checking import DicomChecker
        from connectors.dicom.settings import DicomPeer

        own = settings.connectors.dicom
        listed = [one.ae_title.strip() for one in own.peers]
        title = _chosen(peer, listed, "AE title") if listed else peer or "CHECK"
        sender = own.peer(title) if listed else DicomPeer(ae_title=title[:16])
        shared |= {"largest_object": settings.objects.largest_bytes, "model_of": _model_of(settings)}
        return DicomChecker(own, sender, every_frame=every_frame, **shared)
    shared |= {"unitless": settings.monitor.unitless, "own_section": bool(peer), "show_phi": show_phi}
    if feed is Feed.FHIR:
        from connectors.fhir.checking import FhirChecker

        fhir = settings.connectors.fhir
        shared |= {"largest_object": settings.objects.largest_bytes, "model_of": _model_of(settings)}
        return FhirChecker(fhir, _chosen(peer, [*fhir.peers], "peer"), **shared)
    from connectors.hl7.checking import Hl7Checker
    from connectors.hl7.settings import Peer

    mllp = settings.connectors.mllp
    name = _chosen(peer, [*mllp.peers], "peer")
    return Hl7Checker(mllp, Peer(name, mllp.peers[name]), **shared)


def _model_of(settings: Settings) -> "ModelOf":
    """Return who is asked about a patient's pictures, as the images lane has it (`team.Team.of`); no model is opened."""
    from models.registry import Registry
    from streams.team import in_share

    registry = Registry.load(settings.models.registry)
    stage = registry.stage("image-text")
    champion = registry.entry("image-text")
    challenger = registry.entry("image-text", stage.challenger) if stage.challenger and stage.mode == "split" else champion
    return lambda patient: challenger if in_share(patient, stage.share) else champion


def _chosen(peer: str, known: list[str], what: str) -> str:
    """Return which sender's settings apply: the one that was named, else the only one."""
    if peer and peer not in known:
        raise Permanent(f"no {what} {peer!r} in the settings", hint=f"there are: {', '.join(known)}")
    if not peer and len(known) > 1:
        raise Permanent("the settings name several senders: say whose files these are with --peer", hint=", ".join(known))
    return peer or known[0]


def _write(path: Path, tried: "list[Row]", totals: "Totals") -> None:
    import orjson

    report = {"totals": totals.json(), "rows": [row.json() for row in tried]}
    try:
        path.write_bytes(orjson.dumps(report, option=orjson.OPT_INDENT_2) + b"\n")
    except OSError as error:
        raise Permanent(f"{path} cannot be written ({type(error).__name__})") from error


# --------------------------------------------------------------------------------------------------------------- on the terminal


def _print(tried: "list[Row]", totals: "Totals", passed: Counter[str], *, most: int, elsewhere: bool) -> None:
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = _PIPED
    shown = _worst(tried, most)
    if shown:
        console.print(_table(shown))
    if len(shown) < len(tried):
        where = "all in the --json file" if elsewhere else "see --rows and --json"
        console.print(f"{len(tried) - len(shown)} rows more than are shown, {where}")
    console.print(
        f"\n[bold]{totals.rows} messages[/]: " + ", ".join(f"{n} {what}" for what, n in totals.outcomes.most_common())
    )
    console.print("answers: " + ", ".join(f"{n} x {escape(code)}" for code, n in totals.codes.most_common()))
    console.print("events:  " + (", ".join(f"{n} {_short(kind)}" for kind, n in totals.events.most_common()) or "none"))
    if pictures := totals.pictures.total():
        models = ", ".join(dict.fromkeys(model for model, _ in totals.pictures))
        console.print(f"judged:  {totals.judged} of {pictures} pictures, by {escape(models)}")
    for suffix, n in passed.most_common():
        console.print(f"passed over in folders: {n} x {escape(suffix)}")
    _reasons(console, totals)
    _findings(console, totals)
    if lines := totals.settings():
        console.print("\n[bold]Settings to consider[/] (merge them into vigil.toml; check each guess):")
        console.print(escape(lines), soft_wrap=True)
    verdict = f"[bold red]{totals.refused} would be refused[/]" if totals.refused else "[green]nothing would be refused[/]"
    console.print(f"\n{verdict}")


def _worst(tried: "list[Row]", most: int) -> "list[Row]":
    """Return the rows to show, in their order: refused ones first in line for a place, plainly accepted ones last."""
    rank = {"refused": 0, "dead-letter": 1, "ignored": 2, "accepted": 3}
    places = sorted(range(len(tried)), key=lambda n: (not tried[n].refused, rank[tried[n].outcome]))[:most]
    return [tried[n] for n in sorted(places)]


def _table(rows: "list[Row]") -> Table:
    pictures = any("judged" in row.details for row in rows)
    table = Table("file", "#", "kind", "outcome", "answer", "events", *(("judged",) if pictures else ()), "why")
    for row in rows:
        events = Counter(_short(one.type) for one in row.events)
        colour = _COLOURS["refused" if row.refused else row.outcome]
        kind = next(
            (str(row.details[name]) for name in ("message_type", "resource_type", "sop_class") if row.details.get(name)), ""
        )
        judged = {True: "yes", False: "no", None: ""}[row.details.get("judged")]
        cells = (
            row.file,
            str(row.index),
            kind,
            f"[{colour}]{row.outcome}[/]",
            row.code or "none",
            ", ".join(f"{n} {what}" for what, n in events.items()),
            *((judged,) if pictures else ()),
        )
        why = "; ".join(filter(None, (row.reason, row.details.get("not_judged", ""))))
        table.add_row(*(cell if n == 3 else escape(cell) for n, cell in enumerate(cells)), escape(why))
    return table


def _short(kind: str) -> str:
    """`org.vigil.dead-letter.v1` -> `dead-letter`."""
    return kind.removeprefix("org.vigil.").rsplit(".v", 1)[0]


def _reasons(console: Console, totals: "Totals") -> None:
    if not totals.reasons:
        return
    console.print("\n[bold]Why[/]")
    for (outcome, reason), n in totals.reasons.most_common(_REASONS_SHOWN):
        console.print(f"  {n:>5} x [{_COLOURS[outcome]}]{outcome}[/]: {escape(reason)}", soft_wrap=True)
    if (more := len(totals.reasons) - _REASONS_SHOWN) > 0:
        console.print(f"        and {more} other reasons")


def _findings(console: Console, totals: "Totals") -> None:
    if not totals.findings:
        return
    console.print("\n[bold]Look at[/]")
    plain = {one: n for one, n in totals.findings.items() if one.line or one.about != "unknown code"}
    ranked = sorted(plain.items(), key=lambda item: (not item[0].line, -item[1]))  # what a setting mends first
    for one, n in ranked[:_FINDINGS_SHOWN]:
        mend = f" -> {one.mend}" if one.mend else ""
        console.print(f"  {n:>5} x {one.about}: {escape(one.what)}{escape(mend)}", soft_wrap=True)
    if len(ranked) > _FINDINGS_SHOWN:
        console.print(f"        and {len(ranked) - _FINDINGS_SHOWN} others")
    rest: dict[str, Counter[str]] = {}
    for one, n in totals.findings.items():
        if one not in plain:
            rest.setdefault(one.mend, Counter())[one.what] += n
    for mend, codes in rest.items():
        few = ", ".join(f"{code} ({n})" for code, n in codes.most_common(_CODES_SHOWN))
        more = f", and {len(codes) - _CODES_SHOWN} more" if len(codes) > _CODES_SHOWN else ""
        console.print(f"  {codes.total():>5} x unknown code: {escape(few)}{more} -> {escape(mend)}", soft_wrap=True)
