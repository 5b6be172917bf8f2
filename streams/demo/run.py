"""A synthetic ward, played through real sockets into every lane, accounted for to the last message."""

import asyncio
import contextlib
import signal
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import orjson

from connectors.qdrant.store import VectorStore
from streams.clock import clock_of
from streams.demo.play import Player
from streams.demo.staff import Staff
from streams.demo.stage import DemoPlan, Stage
from streams.demo.view import View
from streams.demo.ward import ward
from streams.demo.watch import LANES_OF, Watcher, unaccounted
from streams.outbox import Outbox

COLLECTIONS = ("notes", "images")
_LANES = tuple(dict.fromkeys(lane for lanes in LANES_OF.values() for lane in lanes))


async def run(plan: DemoPlan, json_file: Path | None = None) -> int:
    """Play the ward; return 0 only if every accepted input was accounted for."""
    began = time.monotonic()
    stopping = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    epoch = datetime.now(UTC).replace(microsecond=0)
    stage, view = Stage(plan), View(plan)
    try:
        view.say("starting broker and vector store")
        await stage.build(epoch)
        view.say("starting lanes and connectors")
        await stage.raise_curtain()
        settings = stage.settings()
        now = clock_of(settings.clock)
        outbox = Outbox(settings, source="/vigil/demo-ward/staff")
        async with Watcher(settings) as watcher, Staff(outbox, now, plan.seed) as staff:
            player = Player(dict(stage.addresses))
            start = now()
            watcher.account.told = staff.see
            messages = ward(seed=plan.seed, hours=plan.hours, patients=plan.patients, epoch=start)
            async with _shown(view, watcher, player, now, start):
                playing = asyncio.create_task(player.play(messages, now, start))
                interrupted = asyncio.create_task(stopping.wait())
                await asyncio.wait([playing, interrupted], return_when=asyncio.FIRST_COMPLETED)
                if interrupted.done():
                    playing.cancel()
                    view.say("stopping: what was accepted is finished first")
                await asyncio.gather(playing, return_exceptions=interrupted.done())
                interrupted.cancel()
                settled = await watcher.settle(within=60.0)
            summary = await _summary(stage, watcher, player, settled, time.monotonic() - began)
    finally:
        view.say("stopping")
        await stage.strike()
    for file in filter(None, (plan.out / "summary.json", json_file)):
        await asyncio.to_thread(file.write_bytes, orjson.dumps(summary, option=orjson.OPT_INDENT_2))
    view.end(summary)
    return 0 if summary["lost"] == 0 and settled else 1


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


async def _summary(stage: Stage, watcher: Watcher, player: Player, settled: bool, seconds: float) -> dict[str, Any]:
    account = watcher.account
    nowhere = unaccounted(player.sent, account)
    accepted = sum(one.accepted for one in player.sent)
    unfinished = {one for _, one in account.missing()}
    lost = len(nowhere) + len(unfinished)
    async with VectorStore(stage.settings().vectors) as store:
        vectors = {name: await _points(store, name) for name in COLLECTIONS}
    return {
        "accepted": accepted,
        "accounted": accepted - lost,
        "lost": lost,
        "duplicated": account.duplicated(),
        "dead_lettered": sum(account.dead.values()),
        "refused": sum(not one.accepted for one in player.sent),
        "ignored": sum(one.quiet for one in player.sent),
        "settled": settled,
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
        "unaccounted": [f"{one.channel} {one.what}" for one in nowhere][:20],
        "ended": datetime.now(UTC).isoformat(timespec="seconds"),
        "ward_time_played": str(timedelta(hours=stage.plan.hours)),
    }


async def _points(store: VectorStore, collection: str) -> int:
    from connectors.qdrant.settings import CollectionSpec

    return await store.count(CollectionSpec(collection, vector="", dimensions=0))
