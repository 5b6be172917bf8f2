"""Where merged records went, as `clinical.patients` has it: the end of a chain of merges, whichever of them is processed first.

A context's key is its own patient, so two merges of a chain (a into b, b into c) may lie in two partitions and be met in either
order. Who processes "a into b" asks where a has gone by now: over b to c, or nowhere where it was undone.

Who stores points asks too, right before: an input may be older than the merge that moved what it gave (replayed, redriven), or come
after it from a process that has not heard of it. A merge that is written after this look moves them: its lane waits for those that
write points (`streams.lanes.merges`).
"""

import asyncio
from collections.abc import Collection
from datetime import datetime
from typing import Any, Final, NamedTuple

from connectors.contexts import surviving
from models.batching import MOVED
from models.errors import Permanent, Poison, Transient
from processors.events import PatientEvent
from processors.vectors import Point
from streams.reader import Reader
from streams.settings import KafkaSettings
from streams.wire import body_of, decode

_TOPIC: Final = PatientEvent.topic


class _Word(NamedTuple):
    at: datetime
    merged_into: str | None


class Survivors:
    """A copy of all merges. Of a patient the newest word counts (`effective_at`): a copy that was replayed undoes nothing."""

    def __init__(self, kafka: KafkaSettings) -> None:
        self._kafka = kafka
        self._reader: Reader | None = None  # kept: what is asked before each batch must not cost a connection each time
        self._positions: dict[int, int] = {}  # by partition, how far it was read
        self._words: dict[str, _Word] = {}  # of records that were ever merged, the newest
        self._looking = asyncio.Lock()
        self._begun = self._done = 0  # looks

    async def catch_up(self) -> None:
        """Read what the topic holds by now. Raises `Transient` when no broker answers, `Permanent` when there is no such topic.

        Several may ask at once: a look that another began since serves all who wait.
        """
        begun = self._begun
        async with self._looking:
            if self._done > begun:
                return
            self._begun += 1
            try:
                await self._look()
            except BaseException:
                await self.close()
                raise
            self._done = self._begun

    async def _look(self) -> None:
        topic = self._kafka.topic_prefix + _TOPIC
        if self._reader is None:
            self._reader = await Reader(self._kafka, moved=_moved).__aenter__()
            await self._reader.require(topic)
        async for records in self._reader.tail(topic, self._positions):
            for record in records:
                self._take(record)

    async def hear(self) -> None:
        """Catch up, for a lane of another topic: where this one is gone it waits, for to file by what was known undoes merges."""
        try:
            await self.catch_up()
        except Permanent as error:
            raise Transient(f"which records were merged is not known: {error}", hint=error.hint) from error

    async def close(self) -> None:
        """Close the connections; what was read stays known."""
        reader, self._reader = self._reader, None
        if reader is not None:
            await reader.__aexit__()

    def get(self, patient_id: str) -> _Word | None:
        """Return what was said last of a record's merging, None for one that never was merged."""
        return self._words.get(patient_id)

    def of(self, patient_id: str) -> str:
        """Return the record that stands for this one: itself where it was not merged, or that was undone."""
        return surviving(self, patient_id)

    def under(self, patient_ids: Collection[str]) -> set[str]:
        """Return the records that were merged into these, over several merges."""
        found = set(patient_ids)
        while more := {old for old, word in self._words.items() if word.merged_into in found and old not in found}:
            found |= more
        return found.difference(patient_ids)

    def filed(self, point: Point) -> Point:
        """Return the point as one of the record that stands for its patient's."""
        survivor = self.of(own := point.payload["patient_id"])
        return point if survivor == own else Point(point.id, point.vector, {**point.payload, "patient_id": survivor})

    def _take(self, record: Any) -> None:
        body = body_of(record.value)
        if not body.get("merged_into") and body.get("patient_id") not in self._words:
            return  # nearly all: to check a context whole takes ten times as long
        try:
            context = decode(PatientEvent, record)
        except Poison:
            return  # the lane makes it a dead letter
        known = self.get(context.patient_id)
        if context.merged_into if known is None else context.effective_at >= known.at:
            self._words[context.patient_id] = _Word(context.effective_at, context.merged_into)


def _moved() -> None:
    """Say that something moves, for whoever's batch it is that waits for this look."""
    if moved := MOVED.get():
        moved()
