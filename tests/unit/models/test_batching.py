"""The micro-batcher: what is gathered, what waits, what fails alone."""

import asyncio
import threading
import time
from collections.abc import Sequence

import pytest

from models.batching import MicroBatcher, describe
from models.errors import Fatal, Poison, Transient


class Model:
    """Doubles numbers; remembers its batches; can be held."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.go = threading.Event()
        self.go.set()
        self.fits = 1000  # items that find memory together

    def __call__(self, items: Sequence[int]) -> list[int]:
        self.go.wait(5)
        self.batches.append(list(items))
        if 13 in items:
            raise ValueError("Mr. Smith's note")
        if 99 in items:
            raise Fatal("wrong weights")
        if len(items) > self.fits:
            raise Transient("out of memory")
        return [2 * item for item in items]


async def test_items_of_many_callers_go_together_and_each_gets_its_own() -> None:
    model = Model()
    batcher = MicroBatcher[int, int](model, name="m", largest=8, longest_delay=0.02)
    results = await asyncio.gather(*(batcher.map([n, n + 100]) for n in range(4)))
    assert results == [[2 * n, 2 * (n + 100)] for n in range(4)]
    assert len(model.batches) == 1
    await batcher.stop()


async def test_batches_are_of_like_sizes() -> None:
    model = Model()
    batcher = MicroBatcher[int, int](model, name="m", largest=4, longest_delay=0.02, cost=lambda item: item)
    await batcher.map([1, 1000, 2, 1001, 3, 1002, 4, 1003])
    assert sorted(map(sorted, model.batches)) == [[1, 2, 3, 4], [1000, 1001, 1002, 1003]]
    await batcher.stop()


async def test_an_item_that_fails_fails_alone_and_its_words_are_not_passed_on() -> None:
    batcher = MicroBatcher[int, int](Model(), name="m", largest=8, longest_delay=0.01)
    good, bad, other = await batcher.map([1, 13, 2])
    assert (good, other) == (2, 4)
    assert isinstance(bad, Poison)
    assert "Smith" not in str(bad)
    assert "ValueError" in str(bad)
    await batcher.stop()


async def test_fatal_is_raised() -> None:
    batcher = MicroBatcher[int, int](Model(), name="m")
    with pytest.raises(Fatal, match="wrong weights"):
        await batcher.map([1, 99])
    await batcher.stop()


async def test_a_batch_without_memory_goes_in_halves_and_an_item_without_waits() -> None:
    model = Model()
    model.fits = 2
    batcher = MicroBatcher[int, int](model, name="m", largest=8, longest_delay=0.02)
    assert await batcher.map([1, 2, 3, 4, 5, 6, 7]) == [2, 4, 6, 8, 10, 12, 14]
    assert [len(batch) for batch in model.batches] == [7, 3, 1, 2, 4, 2, 2]
    model.fits = 0
    [result] = await batcher.map([1])
    assert isinstance(result, Transient)
    await batcher.stop()


async def test_a_batch_that_nobody_waits_for_any_more_is_not_tried_in_parts() -> None:
    model = Model()
    model.fits = 0
    model.go.clear()
    batcher = MicroBatcher[int, int](model, name="m", largest=8, longest_delay=0.02)
    late = await batcher.map([1, 2, 3], deadline=0.2)
    assert all(isinstance(result, Transient) for result in late)
    model.go.set()
    [result] = await batcher.map([4])
    assert isinstance(result, Transient) and model.batches == [[1, 2, 3], [4]]
    await batcher.stop()


async def test_what_is_late_is_transient_and_is_not_run_any_more() -> None:
    model = Model()
    model.go.clear()
    batcher = MicroBatcher[int, int](model, name="m", largest=1)
    began = time.monotonic()
    results = await batcher.map([1, 2, 3], deadline=0.1)
    assert time.monotonic() - began < 2
    assert all(isinstance(result, Transient) for result in results)
    model.go.set()
    assert await batcher.map([4]) == [8]
    assert [2] not in model.batches
    assert [3] not in model.batches
    await batcher.stop()


async def test_the_waiting_room_is_bounded_and_callers_wait() -> None:
    model = Model()
    model.go.clear()
    batcher = MicroBatcher[int, int](model, name="m", largest=2, queue=4, longest_delay=0)
    call = asyncio.create_task(batcher.map(list(range(20, 40))))
    await asyncio.sleep(0.1)
    assert batcher.waiting <= 4
    model.go.set()
    assert await call == [2 * n for n in range(20, 40)]
    await batcher.stop()


async def test_priority_goes_first() -> None:
    model = Model()
    model.go.clear()
    batcher = MicroBatcher[int, int](model, name="m", largest=1, longest_delay=0)
    blocker = asyncio.create_task(batcher.map([0]))
    await asyncio.sleep(0.05)
    later, urgent = asyncio.create_task(batcher.map([1], priority=5)), None
    await asyncio.sleep(0.01)
    urgent = asyncio.create_task(batcher.map([2], priority=0))
    await asyncio.sleep(0.01)
    model.go.set()
    await asyncio.gather(blocker, later, urgent)
    assert model.batches == [[0], [2], [1]]
    await batcher.stop()


async def test_a_model_that_answers_with_another_number_is_fatal() -> None:
    batcher = MicroBatcher[int, int](lambda items: [1], name="m", longest_delay=0.01)
    with pytest.raises(Fatal, match="1 results for 3 items"):
        await batcher.map([1, 2, 3])
    await batcher.stop()


def test_an_unforeseen_error_is_described_without_its_words() -> None:
    try:
        int("Mr. Smith")
    except ValueError as error:
        said = describe(error)
    assert said.startswith("ValueError at models/test_batching.py:")
    assert "Smith" not in said
