"""`vigil lag` and `vigil status`: how far each lane is, once or live."""

import asyncio
import logging
import sys
import time
from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from models.errors import Permanent, Transient, VigilError
from streams.settings import Settings, load

if TYPE_CHECKING:
    from streams.lagging import Lag, WorkerState

_WORST = 12  # partitions that the live view shows
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
FirstPort = Annotated[int, typer.Option(help="workers of `vigil up` on this machine: its --first-port")]


def lag(lane: Lanes = None, json_: Json = False) -> None:
    """Print each lane's lag per partition, in records and in seconds, from Kafka's offsets. Asks no worker."""
    from streams.lagging import lags

    _quiet()
    settings = load()
    found = asyncio.run(_patiently(lambda: lags(settings, lane or ())))
    if json_:
        _lines([one.facts() for one in found])
        return
    _console().print(_partitions(found))


def status(
    lane: Lanes = None,
    worker: Addresses = None,
    first_port: FirstPort = 9101,
    every: Annotated[float, typer.Option(min=0.5, help="seconds between looks")] = 2.0,
    once: Annotated[bool, typer.Option("--once", help="two looks, for the rate, then end")] = False,
    json_: Json = False,
) -> None:
    """Show all lanes live: lag, rate, last commit, in flight, oldest record that is not acknowledged. Ends with Ctrl-C.

    Below them stand the partitions that are furthest behind.

    While no broker answers, what was seen last stays, and why there is no news stands above it.
    """
    _quiet()
    addresses = worker or [f"127.0.0.1:{first_port + i}" for i in range(_PORTS)]
    settings = load()
    console = _console()
    try:
        if once or json_ or not console.is_terminal:
            found, said, hanging = asyncio.run(_patiently(lambda: _look(settings, lane or (), addresses, every)))
            if json_:
                _lines([one.facts() for one in found])
                _lines([{"workers_of": one.lane, **one.facts()} for one in said])
                _lines([{"hangs": address} for address in hanging])
            else:
                console.print(_lanes(found, said), *_hanging(hanging), _partitions(found, asked=True))
            return
        asyncio.run(_watch(settings, lane or (), addresses, every, console))
    except KeyboardInterrupt:
        pass


def _quiet() -> None:
    """What aiokafka warns of while a broker is away, we say once and in words; its lines would go through the table."""
    for name in ("aiokafka", "kafka", "asyncio"):
        logging.getLogger(name).addHandler(logging.NullHandler())


async def _patiently(look: Callable[[], Awaitable[T]]) -> T:
    """Look again for a short while when there is trouble that passes; raises it when it did not."""
    until = time.monotonic() + _SHORT_WHILE
    told = False
    while True:
        try:
            return await look()
        except Transient as error:
            if time.monotonic() + _AGAIN > until:
                raise
            if not told:
                print(f"{error}; trying again for {_SHORT_WHILE:.0f} s", file=sys.stderr)
            told = True
        await asyncio.sleep(_AGAIN)


async def _look(
    settings: Settings, lanes: list[str] | tuple[()], addresses: list[str], every: float
) -> tuple[list["Lag"], list["WorkerState"], list[str]]:
    from streams.lagging import completed, hung, lags, workers

    first, began = await lags(settings, lanes, times=False), time.monotonic()
    await asyncio.sleep(every)
    found = await lags(settings, lanes, before=first, seconds=time.monotonic() - began)
    said, hanging = await asyncio.gather(workers(addresses), hung(addresses))
    return completed(found, said, prefix=settings.kafka.topic_prefix), said, hanging


async def _watch(
    settings: Settings, lanes: list[str] | tuple[()], addresses: list[str], every: float, console: Console
) -> None:
    from streams.lagging import completed, hung, lags, workers

    before: list[Lag] = []
    at, seen, newest = time.monotonic(), Group(), datetime.now()
    with Live(console=console, auto_refresh=False, screen=True) as live:
        while True:
            began = time.monotonic()
            try:
                found = await lags(settings, lanes, before=before, seconds=began - at)
            except (Transient, Permanent) as error:
                if isinstance(error, Permanent) and not before:
                    raise  # asked for what there is not; what was there a moment ago may come back
                live.update(Group(_no_news(error, newest), seen), refresh=True)
            else:
                said, hanging = await asyncio.gather(workers(addresses), hung(addresses))
                found = completed(found, said, prefix=settings.kafka.topic_prefix)
                seen = Group(_lanes(found, said), *_hanging(hanging), _partitions(_worst(found), asked=True))
                live.update(seen, refresh=True)
                before, at, newest = found, began, datetime.now()
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
        mine = [one for one in found if one.lane == lane]
        rates = [one.rate for one in mine if one.rate is not None]
        workers = state.get(lane)
        behind = sum(one.records > 0 for one in mine)
        table.add_row(
            lane,
            f"{sum(one.records for one in mine):,}",
            _seconds(max((one.event_seconds for one in mine if one.event_seconds is not None), default=None)),
            _seconds(max((one.oldest_unacked_seconds for one in mine if one.oldest_unacked_seconds is not None), default=None)),
            f"{sum(rates):.1f}" if rates else "",
            f"{behind} of {len(mine)} behind",
            f"{workers.ready} of {workers.workers}" if workers else "no answer",
            str(workers.in_flight) if workers else "",
            f"{workers.seconds_since_commit:.1f} s ago" if workers else "",
            _held(workers),
        )
    return table


def _hanging(addresses: list[str]) -> list[Text]:
    return [
        Text(f"{address} takes connections and does not answer: that process is frozen, or hangs", style="bold red")
        for address in addresses
    ]


def _held(workers: "WorkerState | None") -> str:
    if workers is None:
        return ""
    held = [f"{workers.held_partitions} partitions"] if workers.held_partitions else []
    if workers.kafka_silent_seconds > _SILENT:
        held.append(f"cut off from Kafka for {workers.kafka_silent_seconds:.0f} s")
    return ", ".join(held)


def _worst(found: list["Lag"]) -> list["Lag"]:
    behind = [one for one in found if one.records]
    return sorted(behind, key=lambda one: -(one.oldest_unacked_seconds or 0.0))[:_WORST]


def _partitions(found: list["Lag"], *, asked: bool = False) -> Table:
    """Show partitions; `asked`: with what the workers said of them."""
    columns = ("lane", "topic", "partition", "committed", "end", "lag", "event time", "oldest unacked", "rate/s")
    table = Table(*columns, *(("in flight", "last commit", "held for") if asked else ()), title="partitions")
    for one in found:
        committed = "never" if one.committed is None else str(one.committed)
        table.add_row(
            one.lane,
            one.topic,
            str(one.partition),
            committed,
            str(one.end),
            f"{one.records:,}",
            _seconds(one.event_seconds),
            _seconds(one.oldest_unacked_seconds),
            "" if one.rate is None else f"{one.rate:.1f}",
            *(_said(one) if asked else ()),
        )
    return table


def _said(one: "Lag") -> tuple[str, str, str]:
    return (
        "" if one.in_flight is None else str(one.in_flight),
        "" if one.seconds_since_commit is None else f"{one.seconds_since_commit:.1f} s ago",
        _seconds(one.held_seconds or None),
    )


def _seconds(seconds: float | None) -> str:
    return "" if seconds is None else f"{seconds:,.1f} s"


def _lines(objects: list[dict[str, object]]) -> None:
    import orjson

    for one in objects:
        print(orjson.dumps(one).decode())


def _console() -> Console:
    console = Console()
    if not console.is_terminal:
        console.width = 200  # for grep: a row stays a line
    return console
