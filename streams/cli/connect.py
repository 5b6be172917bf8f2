"""`vigil connect`: feeds that are fetched or played rather than received."""

import asyncio
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from models.errors import Permanent
from streams.settings import Settings, load

if TYPE_CHECKING:
    from connectors.vitals.server import Progress as Played

app = typer.Typer(help="Feeds that are played or fetched; `vigil serve` is for those that connect to us.", no_args_is_help=True)


@app.command("vitals")
def vitals(
    file: Annotated[Path, typer.Argument(help="CSV, pipe separated or JSON lines", exists=True)],
    mapping: Annotated[str, typer.Option(help="a mapping file (.toml), or the name of a packaged one (cinc2019, ...)")],
    speed: Annotated[str, typer.Option(help="60x: an hour a minute; 0: as fast as Kafka confirms")] = "0",
    from_now: Annotated[bool, typer.Option(help="move all times so that the first is now; else it is history")] = False,
    resume: Annotated[bool, typer.Option(help="keep a bookmark beside the file and go on where the last run ended")] = True,
) -> None:
    """Play a file of vital signs into the stream, as a bedside gateway would send it."""
    done = asyncio.run(_vitals(load(), file, mapping, speed=_speed(speed), from_now=from_now, resume=resume))
    print(f"{done.sets} sets, {done.vitals} published, {done.dead_letters} dead letters, {done.repeated} batches repeated")
    for reason, count in done.troubles.most_common(10):
        print(f"  {count} x {reason}")


def _speed(text: str) -> float:
    try:
        return float(text.strip().lower().removesuffix("x"))
    except ValueError:
        raise Permanent(f"{text!r} is no speed", hint="write 60x, or 0 for as fast as Kafka confirms") from None


async def _vitals(settings: Settings, file: Path, mapping: str, *, speed: float, from_now: bool, resume: bool) -> "Played":
    from connectors.identity import Identities
    from connectors.vitals.acknowledgement import Bookmark
    from connectors.vitals.server import FileReplay, replay
    from connectors.vitals.settings import FileMapping, ReplaySettings
    from streams.clock import clock_of
    from streams.outbox import Outbox
    from streams.publisher import KafkaPublisher

    clock = clock_of(settings.clock)
    bookmark = Bookmark(file.with_name(file.name + ".bookmark")) if resume else None
    mark = bookmark.load(file) if bookmark else None
    source = FileReplay(
        file,
        FileMapping.load(mapping),
        ReplaySettings(speed=speed, times="from-now" if from_now else "kept"),
        identities=Identities(settings.identity),
        now=clock,
        skip=mark.sets if mark else 0,
        shift=timedelta(seconds=mark.shift) if mark else None,
    )
    outbox = Outbox(settings, source=f"/vigil/{settings.site.name}/connectors")
    await outbox.start()
    try:
        publisher = KafkaPublisher(outbox, clock, timeout=settings.engine.publish_timeout)
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        with Progress(*columns) as bar:
            task = bar.add_task(file.name, total=None)
            return await replay(
                source,
                publisher,
                progress=lambda done: bar.update(task, completed=done.sets, total=done.total),
                bookmark=bookmark,
            )
    finally:
        await outbox.stop()
