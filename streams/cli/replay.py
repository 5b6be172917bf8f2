"""`vigil replay`: records of a topic given to the lanes again, or to another model beside them."""

import asyncio
import getpass
import re
import sys
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import orjson
import typer
from rich.console import Console
from rich.table import Table

from models.errors import Permanent
from streams.cli.progressing import Bar
from streams.settings import Settings, load

if TYPE_CHECKING:
    from streams.redriving import Letter, Plan
    from streams.replaying import Choice, Pace, Progress
    from streams.shadowing import Diff

app = typer.Typer(help="Give records of a topic to the lanes again, as late data.", no_args_is_help=True)

Topic = Annotated[str, typer.Option(help="clinical.notes, clinical.images, clinical.vitals or clinical.patients")]
Offsets = Annotated[
    list[str] | None, typer.Option(metavar="P:A-B", help="partition P, offsets A to B, both included; may be repeated")
]
Since = Annotated[datetime | None, typer.Option("--from", help="first written at or after")]
Until = Annotated[datetime | None, typer.Option("--until", help="first written before")]
Patients = Annotated[
    list[str] | None,
    typer.Option("--patient", help="Vigil's own id of a patient, with what was merged into it; may be repeated"),
]
Encounters = Annotated[list[str] | None, typer.Option("--encounter", help="of this encounter; may be repeated")]
Types = Annotated[list[str] | None, typer.Option("--type", help="code of a note's type; may be repeated")]
Letters = Annotated[list[str] | None, typer.Option("--letter", help="the original behind a dead letter; may be repeated")]
Limit = Annotated[int, typer.Option(min=1, help="refuse to choose more: they are held in memory whole")]
MaxWait = Annotated[
    float,
    typer.Option(
        min=0.1, max=3600, metavar="SECONDS", help="a live record waits no longer behind these, by the lanes' own speed"
    ),
]
Reason = Annotated[str, typer.Option(help="why, for the audit")]

NOTES, VITALS = "clinical.notes", "clinical.vitals"
_SHOWN = 20  # patients, and reasons of failure
_RANGE = re.compile(r"(\d+):(\d+)-(\d+)")


@app.command("run")
def run(
    topic: Topic = "",
    offsets: Offsets = None,
    since: Since = None,
    until: Until = None,
    patient: Patients = None,
    encounter: Encounters = None,
    type_: Types = None,
    letter: Letters = None,
    limit: Limit = 10_000,
    rate: Annotated[float, typer.Option(min=0, help="records a second at most; 0: as fast as the lanes take them")] = 0.0,
    max_wait: MaxWait = 1.0,
    resume: Annotated[
        Path | None, typer.Option(metavar="FILE", help="keep the progress here; the same command again goes on from it")
    ] = None,
    unverified: Annotated[
        bool, typer.Option("--unverified", help="also notes whose topic no longer shows whether a newer version came")
    ] = False,
    rescore: Annotated[
        bool, typer.Option("--rescore", help="also vitals whose score stands: scored anew from what the lane still knows")
    ] = False,
    reason: Reason = "",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="print the counts and do nothing")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="do not ask")] = False,
) -> None:
    """Write chosen records to their topic again, byte for byte: outputs overwrite by the same ids, and nothing alerts.

    What could alert live, or would overwrite something newer or better, is held back; the counts say why. What failed before is
    counted too, by its dead letters, which are marked as redriven.
    """
    from streams.replaying import Pace, Progress

    choice = _choice(topic, offsets, since, until, patient, encounter, type_, letter)
    settings = load()
    progress, pace = Progress.open(resume, choice), Pace(rate, max_wait)
    plan = asyncio.run(_plan(settings, choice, limit, unverified, rescore))
    _print_counts(plan.ready, f"{len(plan.ready)} to replay")
    _print_failures(plan.ready)
    for words in plan.words:
        print(words)
    if rescore and any(one.event.original_topic == f"{settings.kafka.topic_prefix}{VITALS}" for one in plan.ready):
        print(
            "vitals the lane has forgotten are scored from the state as it is now: that replaces what stands, mostly by worse"
        )
    progress.check([*plan.ready, *(one for held in plan.held.values() for one in held)])
    before = sum(not progress.wants(one) for one in plan.ready)
    told = f", {before} were done before" if before else ""
    if dry_run:
        print(f"dry run: nothing was done{told}")
        return
    if not reason.strip():
        raise Permanent("a reason is needed", hint='--reason "why", for the audit')
    if not plan.ready and not plan.held:
        print("no record fulfils all conditions: `vigil lag` shows the topics' ends, `vigil dead-letters list` the letters")
        return
    if plan.ready and (yes or typer.confirm(f"replay {len(plan.ready) - before}{told}?", abort=True)):
        try:
            done = asyncio.run(_run(settings, plan, choice, reason, pace, progress))
        except BaseException:  # Ctrl-C too: who stopped it has to know where it stands
            print(_where(progress, len(plan.ready)), file=sys.stderr)
            raise
        print(f"{done} replayed{told}")


@app.command("shadow")
def shadow(
    offsets: Offsets = None,
    since: Since = None,
    until: Until = None,
    patient: Patients = None,
    encounter: Encounters = None,
    type_: Types = None,
    letter: Letters = None,
    limit: Limit = 10_000,
    registry: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="registry whose champion entity model is tried; the site's own if not given"),
    ] = None,
    reason: Reason = "",
    report: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="write the comparison here too, as --json prints it; only you can read it"),
    ] = None,
    json_: Annotated[
        bool,
        typer.Option("--json", help="one JSON object per line: the total, each patient, each note that differs and in what"),
    ] = False,
) -> None:
    """Run another entity model over chosen notes, here, and say what differs from clinical.entities.

    Of a note that differs --json and --report name ids, labels, places and scores, and not its words.

    Writes to no topic but the audit of this access. Exits 1 where the model failed on a note.
    """
    from streams.keeping import keep, try_out

    if not reason.strip():
        raise Permanent("a reason is needed", hint='--reason "why", for the audit')
    try_out(report, "report")
    choice = _choice(NOTES, offsets, since, until, patient, encounter, type_, letter)
    diff = asyncio.run(_shadow(load(), choice, limit, registry, reason))
    lines = b"".join(orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE) for line in diff.facts())
    if report is not None:
        keep(report, lines, "report")
    if json_:
        print(lines.decode(), end="")
    else:
        _print_diff(diff)
    raise typer.Exit(1 if diff.failures else 0)


def _print_diff(diff: "Diff") -> None:
    from streams.shadowing import KINDS

    if diff.failures:
        print(f"{diff.model} FAILED on {diff.failures.total()} of {diff.notes} notes:")
        for why, number in diff.failures.most_common(_SHOWN):
            print(f"  {number:,} x {why}")
    table = Table("patient", *KINDS, title=f"{diff.notes} notes through {diff.model}, against clinical.entities")
    patients = diff.worst()
    for one, kinds in [("all", diff.total), *patients[:_SHOWN]]:
        table.add_row(one, *(f"{kinds[kind]:,}" for kind in KINDS))
    console = Console()
    if not console.is_terminal:
        console.width = 200  # for grep: a row stays a line
    console.print(table)
    if len(patients) > _SHOWN:
        print(f"and {len(patients) - _SHOWN:,} patients with fewer changes")
    if diff.differ:
        print(f"{len(diff.differ):,} notes differ; --report FILE or --json names them, and what differs")


def _where(progress: "Progress", chosen: int) -> str:
    """Say where a replay stopped. What was under way is not counted: it may be written, and is then written once more."""
    stands = f"stopped: {progress.done} of {chosen} are done"
    if progress.file is None:
        return f"{stands}. Without --resume FILE the position is not kept: the same command begins anew (by the same ids)"
    return f"{stands}. The same command goes on from there (--resume {progress.file})"


def _choice(
    topic: str,
    offsets: list[str] | None,
    since: datetime | None,
    until: datetime | None,
    patients: list[str] | None,
    encounters: list[str] | None,
    types: list[str] | None,
    letters: list[str] | None,
) -> "Choice":
    from streams.replaying import Choice

    return Choice(
        topic=topic,
        ranges=tuple(_range(one) for one in offsets or ()),
        since=since.astimezone() if since else None,
        until=until.astimezone() if until else None,
        patients=tuple(patients or ()),
        encounters=tuple(encounters or ()),
        note_types=tuple(types or ()),
        letters=tuple(letters or ()),
    )


def _range(text: str) -> tuple[int, int, int]:
    found = _RANGE.fullmatch(text)
    if found is None or int(found[2]) > int(found[3]):
        raise Permanent(f"{text!r} is no range of offsets", hint="partition:first-last, as in 0:1200-1499")
    return int(found[1]), int(found[2]), int(found[3]) + 1


async def _plan(settings: Settings, choice: "Choice", limit: int, unverified: bool, rescore: bool) -> "Plan":
    from streams.clock import clock_of
    from streams.replaying import Replays

    replays = Replays(settings, clock=clock_of(settings.clock))
    return await replays.plan(await replays.choose(choice, limit=limit), unverified=unverified, rescore=rescore)


async def _run(
    settings: Settings,
    plan: "Plan",
    choice: "Choice",
    reason: str,
    pace: "Pace",
    progress: "Progress",
) -> int:
    from streams import replaying
    from streams.clock import clock_of
    from streams.outbox import Outbox

    outbox = Outbox(settings, source=f"/vigil/{settings.site.name}/cli")
    replays = replaying.Replays(settings, outbox, getpass.getuser(), clock_of(settings.clock))
    await outbox.start()
    try:
        with Bar("replay", len(plan.ready), progress.done) as bar:

            def tell(told: replaying.Told) -> None:
                bar.update(doing=f"waiting: {told.waits}" if told.waits else "replay", done=told.done)

            held = [letter for letters in plan.held.values() for letter in letters]
            return await replays.run(plan.ready, choice, reason, pace=pace, progress=progress, held=held, tell=tell)
    finally:
        await outbox.stop()


async def _shadow(settings: Settings, choice: "Choice", limit: int, registry: Path | None, reason: str) -> "Diff":
    from streams.clock import clock_of
    from streams.outbox import Outbox
    from streams.replaying import Replays
    from streams.shadowing import Shadow

    outbox = Outbox(settings, source=f"/vigil/{settings.site.name}/cli")
    await outbox.start()
    try:
        with Bar("choose", None) as bar:
            letters = await Replays(settings).choose(choice, limit=limit)
            bar.update(doing="shadow", total=len(letters))
            work = Shadow(settings, outbox, user=getpass.getuser(), clock=clock_of(settings.clock))
            return await work.run(letters, choice, registry, reason, tell=lambda done: bar.update(done=done))
    finally:
        await outbox.stop()


def _print_counts(letters: list["Letter"], title: str) -> None:
    from streams.replaying import counts

    if not letters:
        print(title)
        return
    table = Table("topic", "note type", "records", "patients", title=title)
    for topic, kind, records, patients in counts(letters):
        table.add_row(topic, kind, f"{records:,}", f"{patients:,}")
    console = Console()
    if not console.is_terminal:
        console.width = 200  # for grep: a row stays a line
    console.print(table)


def _print_failures(letters: list["Letter"]) -> None:
    """Say which of these failed before, by lane, stage and class, and what becomes of their letters."""
    from streams.redriving import counts
    from streams.replaying import failures

    before = failures(letters)
    if not before:
        return
    records = sum(bool(failures([letter])) for letter in letters)
    table = Table(
        "lane", "stage", "class", "error", "model", "letters", title=f"{records} of these failed before, and may again"
    )
    for lane, stage, class_, error, model, number in counts(before):
        table.add_row(lane, stage, class_, error, model[:12], f"{number:,}")
    console = Console()
    if not console.is_terminal:
        console.width = 200  # for grep: a row stays a line
    console.print(table)
    open_ = sum(letter.state == "open" for letter in before)
    rest = f", {len(before) - open_} are not open now" if open_ < len(before) else ""
    print(f"open letters, which then count as redriven: {open_}{rest}; what fails again is the same letter, open again")
