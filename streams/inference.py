"""Models in a lane's process: opened from the registry, their digests verified, run through one micro-batcher each."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from models.batching import MicroBatcher
from models.errors import Transient, VigilError
from models.registry import Registry
from streams.metrics import LaneMetrics
from streams.priority import give_way_altogether
from streams.settings import ModelSettings

R = TypeVar("R")


async def open_model(settings: ModelSettings, task: str) -> Any:
    """Open the champion of a task off the event loop (hashing and loading take seconds); raises `Fatal` or `Permanent`.

    Never fetches one: whoever needs the model at once goes on without it.
    """
    registry = await asyncio.to_thread(Registry.load, settings.registry)
    return await asyncio.to_thread(lambda: registry.open(task, threads=settings.threads))


def batcher(
    run: Callable[[Sequence[Any]], Sequence[Any]],
    *,
    name: str,
    settings: ModelSettings,
    metrics: LaneMetrics,
    cost: Callable[[Any], int] | None = None,
    label: Callable[[], str] | None = None,
    start: Callable[[], None] = give_way_altogether,
) -> MicroBatcher[Any, Any]:
    """Return the model's micro-batcher with the site's settings, reporting to the lane's metrics (as `label` says, else `name`)."""
    return MicroBatcher(
        run,
        name=name,
        largest=settings.largest_batch,
        longest_delay=settings.longest_delay,
        queue=settings.queue,
        cost=cost,
        observe=lambda items, seconds: metrics.inference(label() if label else name, items, seconds),
        start=start,
    )


def raise_transient(results: Sequence[Any]) -> None:
    """Raise the first `Transient` among a batcher's results: the whole batch is tried again, in order."""
    for result in results:
        if isinstance(result, Transient):
            raise result


def is_error(result: Any) -> bool:
    """Tell whether a batcher's result is an error (and so the item a dead letter)."""
    return isinstance(result, VigilError)
