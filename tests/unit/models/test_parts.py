"""Waiting for a model that works is no stall: what waits is told of each run, and of each part of a long one."""

import asyncio
import threading
from collections.abc import Sequence

import pytest

from models import batching
from models.batching import MOVED, MicroBatcher
from models.parts import listening, part_done


async def _ask(batcher: MicroBatcher[str, str], text: str, told: list[str]) -> None:
    MOVED.set(lambda: told.append(text))  # of this task's own context
    with batcher.watched():
        await batcher.map([text])


async def test_a_run_is_told_to_all_who_wait() -> None:
    gate = threading.Event()

    def run(items: Sequence[str]) -> Sequence[str]:
        if items == ["first"]:
            gate.wait()
        return items

    batcher = MicroBatcher(run, name="m", largest=1, longest_delay=0)
    first: list[str] = []
    second: list[str] = []
    tasks = [asyncio.create_task(_ask(batcher, "first", first)), asyncio.create_task(_ask(batcher, "second", second))]
    await asyncio.sleep(0.05)
    assert (first, second) == ([], [])  # the model hangs for all that anybody can tell
    gate.set()
    await asyncio.gather(*tasks)
    assert first == ["first"] and second == ["second", "second"]
    await batcher.stop()


async def test_the_parts_of_a_long_run_are_told_while_it_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batching, "_TOLD_EVERY", 0.0)  # every part is told: the pause only spares the loop
    told = asyncio.Event()
    go_on = threading.Event()

    def run(items: Sequence[str]) -> Sequence[str]:
        part_done()
        go_on.wait()
        return items

    batcher = MicroBatcher(run, name="m", longest_delay=0)
    MOVED.set(told.set)
    with batcher.watched():
        task = asyncio.create_task(batcher.map(["long"]))
        await told.wait()
    assert not task.done()
    go_on.set()
    await task
    await batcher.stop()
    part_done()  # nobody listens any more


def test_who_listens_within_listens_alone() -> None:
    told: list[str] = []
    with listening(lambda: told.append("outer")):
        with listening(lambda: told.append("inner")):
            part_done()
        part_done()
    part_done()
    assert told == ["inner", "outer"]


async def test_a_run_that_nobody_waits_for_is_given_up_at_the_next_part() -> None:
    begun, go_on, runs = threading.Event(), threading.Event(), []

    def run(items: Sequence[str]) -> Sequence[str]:
        for part in range(1000 if items == ["long"] else 1):
            runs.append((items[0], part))
            begun.set()
            go_on.wait(10)
            part_done()
        return items

    batcher = MicroBatcher(run, name="m", longest_delay=0)
    asking = asyncio.create_task(batcher.map(["long"]))
    await asyncio.to_thread(begun.wait, 10)
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)
    go_on.set()
    assert await batcher.map(["next"], deadline=10) == ["next"], "the thread is free"
    assert runs == [("long", 0), ("next", 0)]
    await batcher.stop()


async def test_a_run_that_one_of_several_waits_for_goes_on() -> None:
    begun, go_on = threading.Event(), threading.Event()

    def run(items: Sequence[str]) -> Sequence[str]:
        begun.set()
        go_on.wait(10)
        part_done()
        return items

    batcher = MicroBatcher(run, name="m", longest_delay=0.05)
    one, other = (asyncio.create_task(batcher.map([name])) for name in ("one", "other"))
    await asyncio.to_thread(begun.wait, 10)
    one.cancel()
    await asyncio.gather(one, return_exceptions=True)
    go_on.set()
    assert await other == ["other"]
    await batcher.stop()
