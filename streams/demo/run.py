"""A synthetic ward, played through real sockets into every lane, accounted for to the last message."""

import asyncio
import contextlib
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator, Coroutine, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

import orjson

from connectors.qdrant.store import VectorStore
from models.errors import VigilError
from streams.clock import clock_of
from streams.demo.play import Player, Sent
from streams.demo.staff import Staff
from streams.demo.stage import DemoPlan, Stage
from streams.demo.view import View
from streams.demo.ward import ward
from streams.demo.watch import LANES_OF, Account, Watcher, unaccounted
from streams.lagging import lags
from streams.outbox import Outbox
from streams.settings import Settings

COLLECTIONS = ("notes", "images")
INTERRUPTED = 130  # 128 + SIGINT, as shells have it
T = TypeVar("T")
Committed = Mapping[tuple[str, str, int], int]  # by lane, topic and partition
_LANES = tuple(dict.fromkeys(lane for lanes in LANES_OF.values() for lane in lanes))


async def run(plan: DemoPlan, json_file: Path | None = None) -> int:
    """Play the ward; return 0 only if every accepted input was accounted for, 130 if it was interrupted before that was known.

    Interrupted once (Ctrl-C, SIGTERM) it sends nothing more, finishes what was accepted and tells of that; twice, it ends at once.
    """
    began = time.monotonic()
    stage, view = Stage(plan), View(plan)
    interrupts = _Interrupts(view)
    summary = None
    try:
        view.say("starting broker and vector store")
        await stage.build(datetime.now(UTC).replace(microsecond=0))
        view.say("starting lanes and connectors")
        if await _unless(interrupts.first, stage.raise_curtain(view.say)):
            summary = await _play(stage, view, interrupts, began)
    finally:
        view.say("stopping")
        await stage.strike()
    if summary is None:
        view.say("interrupted before the ward was played: nothing was sent, and nothing is left running")
        return INTERRUPTED
    for file in filter(None, (plan.out / "summary.json", json_file)):
        await asyncio.to_thread(file.write_bytes, orjson.dumps(summary, option=orjson.OPT_INDENT_2))
    view.end(summary)
    if interrupts.second.is_set() and not summary["settled"]:
        return INTERRUPTED
    return 0 if summary["settled"] and not summary["lost"] and not summary["unfinished"] else 1


class _Interrupts:
    """SIGINT and SIGTERM, counted up to two."""

    def __init__(self, view: View) -> None:
        self.first, self.second = asyncio.Event(), asyncio.Event()
        self._view = view
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, self._come)

    def _come(self) -> None:
        if not self.first.is_set():
            self.first.set()
            self._view.say("interrupted: what was accepted is finished first; interrupt once more to end at once")
        elif not self.second.is_set():
            self.second.set()
            self._view.say("interrupted again: ending at once")


async def _unless(event: asyncio.Event, work: Coroutine[Any, Any, T]) -> "asyncio.Task[T] | None":
    """Do the work and return its finished task; None if the event came first: then the work was cancelled, and has ended."""
    task, came = asyncio.create_task(work), asyncio.create_task(event.wait())
    await asyncio.wait([task, came], return_when=asyncio.FIRST_COMPLETED)
    came.cancel()
    if task.done():
        task.result()  # what went wrong is raised here
        return task
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    return None


async def _play(stage: Stage, view: View, interrupts: _Interrupts, began: float) -> dict[str, Any]:
    plan, settings = stage.plan, stage.settings()
    now = clock_of(settings.clock)
    outbox = Outbox(settings, source="/vigil/demo-ward/staff")
    async with Watcher(settings) as watcher, Staff(outbox, now, plan.seed) as staff:
        player = Player(dict(stage.addresses))
        start = now()
        watcher.account.told = staff.see
        messages = ward(seed=plan.seed, hours=plan.hours, patients=plan.patients, epoch=start)
        async with _shown(view, watcher, player, now, start):
            whole = await _unless(interrupts.first, player.play(messages, now, start))
            played = timedelta(hours=plan.hours) if whole else now() - start
            settled = await _unless(interrupts.second, watcher.settle(view.say))
        done = settled is not None and settled.result()
        passed = await _unless(interrupts.second, _passed(stage.settings(), watcher))
        committed = None if passed is None else passed.result()
        summary = await _summary(stage, watcher, player, done, committed, time.monotonic() - began)
    return {**summary, "interrupted": whole is None, "ward_time_played": str(played).partition(".")[0]}


@contextlib.asynccontextmanager
async def _shown(view: View, watcher: Watcher, player: Player, now: Any, start: datetime) -> AsyncIterator[None]:
    async def follow() -> None:
        while True:
            view.show(watcher.account, player, now() - start)
            await asyncio.sleep(view.every)

    task = asyncio.create_task(follow())
    with view:
        try:
            yield
        finally:
            view.show(watcher.account, player, now() - start)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


async def _passed(settings: Settings, watcher: Watcher) -> Committed | None:
    """Return what each lane has committed, when all that it wrote before was seen too; None where that cannot be told."""
    try:
        found = await lags(settings, _LANES, topics=tuple(LANES_OF), times=False)
    except VigilError:
        return None
    return {(one.lane, one.topic, one.partition): one.committed or 0 for one in found} if await watcher.catch_up() else None


def reckon(sent: Sequence[Sent], account: Account, committed: Committed | None) -> dict[str, Any]:
    """Return what became of what was accepted: how many are accounted for, lost, and not finished, and where.

    Lost is what was accepted and is on no topic, and what its lane has passed without a word. Anything else that is missing lies on
    its topic, and its lane has yet to come to it. Where it is not known what lanes have passed (`committed` is None), nothing that
    is missing may be called lost.
    """
    accepted = sum(one.accepted for one in sent)
    nowhere, missing = unaccounted(sent, account), account.missing()
    passed = [] if committed is None else account.passed_over(committed)
    waiting = Counter(lane for lane, one in missing if (lane, one) not in set(passed))
    gone = {one for _, one in passed}
    unfinished = len({one for _, one in missing} - gone)
    if committed is None and nowhere:
        unfinished, waiting["not seen on a topic yet"] = unfinished + len(nowhere), len(nowhere)
        nowhere = []
    lost = len(nowhere) + len(gone)
    return {
        "accepted": accepted,
        "accounted": accepted - lost - unfinished,
        "lost": lost,
        "unfinished": unfinished,
        "unfinished_in": dict(waiting),
        "unaccounted": [*(f"{one.channel} {one.what}" for one in nowhere), *(f"{lane} {one}" for lane, one in passed)][:20],
    }


async def _summary(
    stage: Stage, watcher: Watcher, player: Player, settled: bool, committed: Committed | None, seconds: float
) -> dict[str, Any]:
    account = watcher.account
    reckoned = reckon(player.sent, account, committed)
    async with VectorStore(stage.settings().vectors) as store:
        vectors = {name: await _points(store, name) for name in COLLECTIONS}
    return {
        **reckoned,
        "duplicated": account.duplicated(),
        "dead_lettered": sum(account.dead.values()),
        "refused": sum(not one.accepted for one in player.sent),
        "ignored": sum(one.quiet for one in player.sent),
        "settled": settled and not reckoned["unfinished"],
        "answers": dict(sorted(player.answers.items())),
        "outputs": dict(sorted(account.per_topic.items())),
        "vectors": vectors,
        "alerts": dict(account.alerts),
        "latency_ms": {
            lane: {
                "p50": account.percentile(lane, 0.5),
                "p99": account.percentile(lane, 0.99),
                "n": len(account.latencies[lane]),
            }
            for lane in _LANES
        },
        "seconds": round(seconds, 1),
        "ward_hours": stage.plan.hours,
        "patients": stage.plan.patients,
        "embedded": {"broker": stage.broker is not None, "vectors": stage.store is not None},
        "ended": datetime.now(UTC).isoformat(timespec="seconds"),
    }


async def _points(store: VectorStore, collection: str) -> int | None:
    """Count a collection's points; None where that cannot be told: it is not there yet, or the store no more."""
    from connectors.qdrant.settings import CollectionSpec

    try:
        return await store.count(CollectionSpec(collection, vector="", dimensions=0))
    except VigilError:
        return None
