"""Drift in a running lane: a model with a reference is watched; metrics show its figures, log and audit tell of a shift."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from pathlib import Path

from models.batching import describe
from models.drift import SHIFTED, Drift, Figures, Reference, places
from models.errors import Permanent
from models.registry import ModelEntry, sha256_of
from models.tasks import ModelIdentity
from streams.metrics import LaneMetrics
from streams.settings import ModelSettings

log = logging.getLogger("vigil.drift")

Remark = Callable[[str, ModelIdentity, str], Awaitable[None]]
"""Told of a shift, for the audit: the task, the model, what shifted in words."""


def watch(
    settings: ModelSettings, metrics: LaneMetrics, entry: ModelEntry, folder: Path, remark: Callable[[], Remark | None]
) -> Drift | None:
    """Return the watch over a model, None where it has no reference. Called on the event loop; the watch may run on any thread.

    A reference that cannot be read is a log line: a model serves without one too.
    """
    found = next((path for path in places(entry, folder, settings.registry) if path.is_file()), None)
    if found is None or settings.drift_window == 0:
        return None
    try:
        if found.name in entry.beside and found.parent == folder and sha256_of(found) != entry.beside[found.name]:
            raise Permanent(f"digest of {found} differs from the registry's", hint="restore it, or seal the registry")
        reference = Reference.read(found)
    except Permanent as error:
        log.warning("%s: not watched for drift: %s", entry.name, error.advice)
        return None
    loop, telling = asyncio.get_running_loop(), set[asyncio.Task[None]]()

    async def tell(words: str) -> None:
        try:
            if (told := remark()) is not None:
                await told(entry.task, entry.identity, words)
        except Exception as error:  # the metric has it all the same
            log.warning("%s: a drift record was not written (%s)", entry.name, type(error).__name__)

    def begin(words: str) -> None:
        task = loop.create_task(tell(words))
        telling.add(task)
        task.add_done_callback(telling.discard)

    def alarm(figure: str, index: float) -> None:
        words = f"drift: {figure}, population stability index {index:.2f} (shifted from {SHIFTED}) against {reference.of}"
        log.warning("%s %s: %s", entry.task, entry.name, words)
        loop.call_soon_threadsafe(begin, words)

    return Drift(
        reference,
        window=settings.drift_window,
        publish=lambda figure, index, missing: metrics.drifted(entry.task, entry.name, figure, index, missing),
        alarm=alarm,
    )


def observe(drift: Drift, figures: Callable[[], Figures]) -> None:
    """Count a batch; whatever goes wrong in that is a log line, since the batch itself is well."""
    try:
        drift.observe(figures())
    except Exception as error:
        log.warning("a batch was not counted for drift: %s", describe(error))
