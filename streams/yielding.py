"""Giving way to live traffic: who writes records to a topic again waits while a lane that reads it is behind."""

import asyncio
from collections import Counter
from collections.abc import Callable, Collection
from typing import Final

from models.errors import Transient
from streams.lagging import READS, lags
from streams.settings import Settings

MOST_LAG: Final = 500  # records behind, of one lane: a few batches
_LOOK: Final = 1.0  # seconds between looks at a lane that is behind


async def until_near(settings: Settings, topics: Collection[str], most: int, waits: Callable[[str], object]) -> None:
    """Return once no lane that reads these topics lags by more than `most` records; `waits` hears at each look who does.

    A lane that never committed does not run here, and is not waited for. A cluster that is busy with itself and does not say is.
    """
    while words := await _behind(settings, topics, most):
        waits(words)
        await asyncio.sleep(_LOOK)


async def _behind(settings: Settings, topics: Collection[str], most: int) -> str:
    lanes = [lane for lane, read in READS.items() if not set(read).isdisjoint(topics)]
    records: Counter[str] = Counter()
    try:
        found = await lags(settings, lanes, times=False) if lanes else ()
    except Transient as error:
        return str(error)
    for one in found:
        if one.committed is not None:
            records[one.lane] += one.records
    return next((f"{lane} is {number:,} records behind" for lane, number in records.most_common(1) if number > most), "")
