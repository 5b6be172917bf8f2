"""`vigil replay rebuild`: a collection of the vector store made anew from the topics."""

import asyncio
import getpass
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from streams.cli.progressing import Bar
from streams.settings import Settings, load

if TYPE_CHECKING:
    from streams.rebuilding import Rebuilt, Wish
    from streams.staging import Survey


def rebuild(
    collection: Annotated[str, typer.Argument(help="notes or images")],
    reason: Annotated[str, typer.Option(help="why, for the audit")] = "",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="build and compare point by point; change nothing")] = False,
    back: Annotated[
        bool, typer.Option("--back", help="switch to the collection that served before, once it has what came since")
    ] = False,
    resume: Annotated[
        Path | None, typer.Option(metavar="FILE", help="keep the progress here; the same command again goes on from it")
    ] = None,
    restart: Annotated[
        bool, typer.Option("--restart", help="drop what an unfinished rebuild has built, and begin anew")
    ] = False,
    empty: Annotated[
        bool, typer.Option("--empty", help="where the collection is missing: begin with an empty one, without what was there")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="do not ask before the switch")] = False,
    json_: Annotated[bool, typer.Option("--json", help="the outcome as one JSON object; asks nothing, so needs --yes")] = False,
) -> None:
    """Build a collection anew from its topic and the merges, compare it with the one that serves, then switch to it at once.

    Search and the lanes go on meanwhile, and nothing that arrives is lost.

    Points whose record the topics no longer hold are carried over.

    What served before is kept until the next rebuild has switched: --back is the way back.
    """
    import orjson

    from models.errors import Permanent
    from streams.rebuilding import Wish

    if json_ and not (yes or dry_run):
        raise Permanent("with --json nobody is asked", hint="--yes, or --dry-run")
    wish = Wish(collection, reason, dry_run=dry_run, back=back, restart=restart, empty=empty)

    def agree(found: "Survey") -> bool:
        if not (json_ or back or empty):
            _print(found)
        to = "what served before" if back else "an empty collection" if empty else "what was built"
        return yes or typer.confirm(f"switch {collection} to {to}?")

    done = asyncio.run(_rebuild(load(), wish, resume, agree))
    if json_:
        print(orjson.dumps(_facts(done)).decode())
        return
    if dry_run:
        _print(done.survey)
    print(f"{done.records:,} records and {done.merges:,} merges read, through {done.model}")
    if done.failed:
        print(f"{done.failed:,} records gave nothing: a lane makes them dead letters")
    if done.serves:
        print(
            f"{collection} is {done.serves} now: {done.points:,} points" + (f"; {done.before} is kept" if done.before else "")
        )
    else:
        print("dry run: nothing was changed" if dry_run else "not switched: nothing was changed")


async def _rebuild(settings: Settings, wish: "Wish", file: Path | None, agree: "Callable[[Survey], bool]") -> "Rebuilt":
    from streams.clock import clock_of
    from streams.outbox import Outbox
    from streams.rebuilding import Rebuild
    from streams.staging import Building

    building = Building.open(file)
    outbox = Outbox(settings, source=f"/vigil/{settings.site.name}/cli")
    await outbox.start()
    try:
        work = Rebuild(settings, outbox, wish, user=getpass.getuser(), clock=clock_of(settings.clock))
        with Bar("open", None) as bar:

            def ask(found: "Survey") -> bool:
                with bar.away():
                    return agree(found)

            return await work.run(
                building, tell=lambda doing, done, total: bar.update(doing=doing, done=done, total=total), agree=ask
            )
    finally:
        await outbox.stop()


def _facts(done: "Rebuilt") -> dict[str, object]:
    return {
        "model": done.model,
        "records": done.records,
        "merges": done.merges,
        "failed": done.failed,
        **done.survey.counts,
        "farthest": done.survey.farthest,
        "equal": done.survey.equal,
        "serves": done.serves,
        "before": done.before,
        "points": done.points,
    }


def _print(found: "Survey") -> None:
    if not found.there:
        print(f"there is no collection that serves; {found.built:,} points were built")
        return
    print(f"{found.built:,} points were built, {found.served:,} are served")
    says = {
        "same": "equal in id, payload and vector",
        "changed": f"with another payload or vector (components differ by up to {found.farthest:.2g})",
        "added": "only built",
        "removed": "served, and not in the topics",
        "kept": "carried over: the topics no longer tell (retention, or pixels that are gone)",
        "lost": "not carried over: the topics no longer tell, and they are of another vector length",
        "later": "written meanwhile: they come in after the switch",
    }
    for name, words in says.items():
        if number := found.counts[name]:
            print(f"  {number:>9,}  {words}")
    if found.equal:
        print("  the two are equal, point by point")
