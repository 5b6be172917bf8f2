"""`vigil lag` and `vigil status`: how far each lane is, once or live."""

import asyncio
import logging
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from models.errors import Permanent, Transient, VigilError
from streams.settings import Settings, load

if TYPE_CHECKING:
    from streams.lagging import Lag, WorkerState

_WORST = 12  # partitions that the live view of the lanes shows below them, and that of the partitions at least
_AROUND = 8  # lines of a screen that are none of its rows: title, head, rims, what hangs
_SHORT_WHILE = 30.0  # seconds: as long as a broker takes that starts again, or a new cluster to find who keeps the offsets
_AGAIN = 1.0  # seconds between tries
_SILENT = 15.0  # seconds: Kafka answers each worker twice a second
_PORTS = 32  # workers of one `vigil up` that are looked for, from its first health port on

T = TypeVar("T")
Lanes = Annotated[list[str] | None, typer.Option("--lane", help="this lane only; may be repeated")]
Json = Annotated[bool, typer.Option("--json", help="one JSON object per line")]
Addresses = Annotated[
    list[str] | None, typer.Option("--worker", metavar="HOST:PORT", help="a worker's health address; may be repeated")
]
Every = Annotated[float, typer.Option(min=0.5, help="seconds between looks")]
FirstPort = Annotated[int, typer.Option(help="workers of `vigil up` on this machine: its --first-port")]


@dataclass(frozen=True, slots=True)
class Seen:
    """What one look found: each partition, what the workers that answered say, which of them hang or are not ready, in words."""

    found: "list[Lag]"
    said: "list[WorkerState]" = field(default_factory=list)
    trouble: dict[str, str] = field(default_factory=dict)  # by address
    at: float = field(default_factory=time.monotonic)  # when it was begun

    def lines(self) -> list[dict[str, object]]:
        """Return it for a machine."""
        workers: list[dict[str, object]] = [{"workers_of": one.lane, **one.facts()} for one in self.said]
        troubled: list[dict[str, object]] = [{"worker": address, "trouble": words} for address, words in self.trouble.items()]
        return [*(one.facts() for one in self.found), *workers, *troubled]


Show = Callable[[Seen, Console, bool], list[RenderableType]]
"""Makes what is shown of a look; the last: whether it is one of many, on a terminal's one screen."""


def lag(
    lane: Lanes = None,
    worker: Addresses = None,
    first_port: FirstPort = 9101,
    every: Every = 2.0,
    watch: Annotated[bool, typer.Option("--watch", help="look again and again, until Ctrl-C")] = False,
    json_: Json = False,
) -> None:
    """Print each lane's lag per partition: in records and seconds, rate, last commit, in flight, oldest that is not acknowledged.

    From Kafka's offsets, whatever the workers say: two looks, for the rate. In flight and for how long a partition is held only
    its worker knows (--worker), and the last commit to the moment; from Kafka it is known once it was seen to move.
    """
    _show(load(), lane or (), _addresses(worker, first_port), every, _of_partitions, live=watch, json_=json_)


def status(
    lane: Lanes = None,
    worker: Addresses = None,
    first_port: FirstPort = 9101,
    every: Every = 2.0,
    once: Annotated[bool, typer.Option("--once", help="two looks, for the rate, then end")] = False,
    json_: Json = False,
) -> None:
    """Show all lanes live: lag, rate, last commit, in flight, oldest record that is not acknowledged. Ends with Ctrl-C.

    Below them stand the partitions that are furthest behind.

    While no broker answers, what was seen last stays, and above it stands why there is no news, and what the workers say.
    """
    live = not (once or json_) and _console().is_terminal
    _show(load(), lane or (), _addresses(worker, first_port), every, _of_lanes, live=live, json_=json_)


def _show(
    settings: Settings, lanes: Sequence[str], addresses: list[str], every: float, show: Show, *, live: bool, json_: bool
) -> None:
    """Look twice and print it; or `live` again and again: on a terminal in place, else one look below the other."""
    _quiet()
    console = _console()

    async def tell() -> None:
        """Say what the workers say, who answer without Kafka."""
        seen = Seen([], trouble=await _trouble(addresses))
        if json_:
            _lines(seen.lines())
        else:
            for line in _troubled(seen.trouble):
                console.print(line)

    try:
        if live and console.is_terminal and not json_:
            asyncio.run(_watch(settings, lanes, addresses, every, console, show))
            return
        before: Seen | None = None
        while before is None or live:
            try:
                before = asyncio.run(_patiently(partial(_look, settings, lanes, addresses, every, before), tell))
            except Permanent:
                asyncio.run(tell())
                raise
            if json_:
                _lines(before.lines())
            else:
                console.print(*show(before, console, False))
    except KeyboardInterrupt:
        pass


def _of_partitions(seen: Seen, console: Console, live: bool) -> list[RenderableType]:
    rows = _worst(seen.found, max(_WORST, console.height - _AROUND)) if live else seen.found
    return [*_troubled(seen.trouble), _partitions(rows, len(seen.found) - len(rows))]


def _of_lanes(seen: Seen, console: Console, live: bool) -> list[RenderableType]:
    behind = _worst([one for one in seen.found if one.records], _WORST) if live else seen.found
    return [_lanes(seen.found, seen.said), *_troubled(seen.trouble), _partitions(behind)]


def _addresses(worker: list[str] | None, first_port: int) -> list[str]:
    return worker or [f"127.0.0.1:{first_port + i}" for i in range(_PORTS)]


def _quiet() -> None:
    """What aiokafka warns of while a broker is away, we say once and in words; its lines would go through the table."""
    for name in ("aiokafka", "kafka", "asyncio"):
        logging.getLogger(name).addHandler(logging.NullHandler())


async def _nothing() -> None:
    pass


async def _patiently(look: Callable[[], Awaitable[T]], tell: Callable[[], Awaitable[None]] = _nothing) -> T:
    """Look again for a short while when there is trouble that passes, and `tell` before; raises it when it did not."""
    until = time.monotonic() + _SHORT_WHILE
    told = False
    while True:
        try:
            return await look()
        except Transient as error:
            if not told:
                await tell()
            if time.monotonic() + _AGAIN > until:
                raise
            if not told:
                print(f"{error}; trying again for {_SHORT_WHILE:.0f} s", file=sys.stderr)
            told = True
        await asyncio.sleep(_AGAIN)


async def _lags(settings: Settings, lanes: Sequence[str], **more: Any) -> list["Lag"]:
    from streams.lagging import lags

    return await lags(settings, lanes, **more)


async def _look(
    settings: Settings, lanes: Sequence[str], addresses: list[str], every: float, before: Seen | None = None
) -> Seen:
    """Look `every` seconds after the look `before`, or after a first one now."""
    first = before or Seen(await _lags(settings, lanes, times=False))
    await asyncio.sleep(max(0.0, first.at + every - time.monotonic()))
    return await _seen(settings, lanes, addresses, first)


async def _seen(settings: Settings, lanes: Sequence[str], addresses: list[str], before: Seen | None) -> Seen:
    from streams.lagging import completed, workers

    now = time.monotonic()
    found = await _lags(settings, lanes, before=before.found if before else (), seconds=now - before.at if before else 0.0)
    said, trouble = await asyncio.gather(workers(addresses), _trouble(addresses))
    return Seen(completed(found, said, prefix=settings.kafka.topic_prefix), said, trouble, now)


async def _trouble(addresses: list[str]) -> dict[str, str]:
    """Ask the processes themselves, which answer without Kafka."""
    from streams.lagging import hung, unready

    hanging, reasons = await asyncio.gather(hung(addresses), unready(addresses))
    return {**reasons, **dict.fromkeys(hanging, "takes connections and does not answer: that process is frozen, or hangs")}


async def _watch(
    settings: Settings, lanes: Sequence[str], addresses: list[str], every: float, console: Console, show: Show
) -> None:
    before: Seen | None = None
    shown, newest = Group(), datetime.now()
    with Live(console=console, auto_refresh=False, screen=True) as live:
        while True:
            began = time.monotonic()
            try:
                before = await _seen(settings, lanes, addresses, before)
            except (Transient, Permanent) as error:
                if isinstance(error, Permanent) and before is None:
                    raise  # asked for what there is not; what was there a moment ago may come back
                live.update(Group(_no_news(error, newest), *_troubled(await _trouble(addresses)), shown), refresh=True)
            else:
                shown, newest = Group(*show(before, console, True)), datetime.now()
                live.update(shown, refresh=True)
            await asyncio.sleep(max(0.0, every - (time.monotonic() - began)))


def _no_news(error: VigilError, since: datetime) -> Text:
    now = datetime.now()
    return Text(
        f"No news since {since:%H:%M:%S} ({(now - since).total_seconds():.0f} s): {error.advice}. "
        f"Tried at {now:%H:%M:%S}, and again until Ctrl-C.",
        style="bold red",
    )


def _lanes(found: list["Lag"], said: list["WorkerState"]) -> Table:
    columns = (
        "lane",
        "lag",
        "event time",
        "oldest unacked",
        "rate/s",
        "partitions",
        "workers ready",
        "in flight",
        "last commit",
        "held",
    )
    table = Table(*columns, title="lanes")
    state = {one.lane: one for one in said}
    for lane in dict.fromkeys(one.lane for one in found):
        mine = [one for one in found if one.lane == lane and not one.missing]
        rates = [one.rate for one in mine if one.rate is not None]
        workers = state.get(lane)
        commits = [one.seconds_since_commit for one in mine if one.seconds_since_commit is not None]
        behind = sum(one.records > 0 for one in mine)
        table.add_row(
            lane,
            f"{sum(one.records for one in mine):,}",
            _seconds(max((one.event_seconds for one in mine if one.event_seconds is not None), default=None)),
            _seconds(max((one.oldest_unacked_seconds for one in mine if one.oldest_unacked_seconds is not None), default=None)),
            f"{sum(rates):.1f}" if rates else "",
            "; ".join((f"{behind} of {len(mine)} behind", *_remarks([one for one in found if one.lane == lane]))),
            f"{workers.ready} of {workers.workers}" if workers else "no answer",
            str(workers.in_flight) if workers else "",
            _ago(workers.seconds_since_commit if workers else min(commits, default=None)),
            _held(workers),
        )
    return table


def _remarks(found: list["Lag"]) -> list[str]:
    """Say of a lane's partitions what their numbers do not."""
    there = [one for one in found if not one.missing]
    said = [f"topic missing: {one.topic}" for one in found if one.missing]
    said += [f"log made anew: {topic}" for topic in dict.fromkeys(one.topic for one in there if one.anew)]
    if there and not any(one.anew or one.committed is not None for one in there):
        said.append("runs, nothing committed yet" if any(one.runs for one in there) else "never committed")
    return said


def _committed(lag: "Lag") -> str:
    if lag.missing:
        return "topic missing"
    if lag.anew:
        return "log made anew" if lag.committed is None else f"{lag.committed}, log made anew"
    if lag.committed is None:
        return "not yet" if lag.runs else "never"
    return str(lag.committed)


def _troubled(trouble: dict[str, str]) -> list[Text]:
    return [Text(f"{address}: {words}", style="bold red") for address, words in sorted(trouble.items())]


def _held(workers: "WorkerState | None") -> str:
    if workers is None:
        return ""
    held = [f"{workers.held_partitions} partitions"] if workers.held_partitions else []
    if workers.kafka_silent_seconds > _SILENT:
        held.append(f"cut off from Kafka for {workers.kafka_silent_seconds:.0f} s")
    return ", ".join(held)


def _worst(found: list["Lag"], most: int) -> list["Lag"]:
    """Return the partitions that are furthest behind, by age."""
    return sorted(found, key=lambda one: (-(one.oldest_unacked_seconds or 0.0), -one.records))[:most]


def _partitions(found: list["Lag"], left_out: int = 0) -> Table:
    offsets = ("lane", "topic", "partition", "committed", "end", "lag", "event time", "oldest unacked", "rate/s")
    columns = (*offsets, "in flight", "last commit", "held for")
    table = Table(*columns, title="partitions", caption=f"and {left_out} that are less behind" if left_out else None)
    for one in found:
        table.add_row(
            one.lane,
            one.topic,
            "" if one.missing else str(one.partition),
            _committed(one),
            str(one.end),
            f"{one.records:,}",
            _seconds(one.event_seconds),
            _seconds(one.oldest_unacked_seconds),
            "" if one.rate is None else f"{one.rate:.1f}",
            "" if one.in_flight is None else str(one.in_flight),
            _ago(one.seconds_since_commit),
            _seconds(one.held_seconds or None),
        )
    return table


def _seconds(seconds: float | None) -> str:
    return "" if seconds is None else f"{seconds:,.1f} s"


def _ago(seconds: float | None) -> str:
    return "" if seconds is None else f"{seconds:,.1f} s ago"


def _lines(objects: list[dict[str, object]]) -> None:
    import orjson

    for one in objects:
        print(orjson.dumps(one).decode(), flush=True)


def _console() -> Console:
    console = Console()
    if not console.is_terminal:
        console.width = 200  # for grep: a row stays a line
    return console
