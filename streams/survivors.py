"""Where merged records went, as `clinical.patients` has it: the end of a chain of merges, whichever of them is processed first.

A context's key is its own patient, so two merges of a chain (a into b, b into c) may lie in two partitions and be met in either
order. Who processes "a into b" asks where a has gone by now: over b to c, or nowhere where it was undone.
"""

from datetime import datetime
from typing import Any, Final, NamedTuple

from connectors.contexts import surviving
from models.batching import MOVED
from models.errors import Poison
from processors.events import PatientEvent
from streams.reader import Reader
from streams.settings import KafkaSettings
from streams.wire import decode

_TOPIC: Final = PatientEvent.topic


class _Word(NamedTuple):
    at: datetime
    merged_into: str | None


class Survivors:
    """A copy of all merges. Of a patient the newest word counts (`effective_at`): a copy that was replayed undoes nothing."""

    def __init__(self, kafka: KafkaSettings) -> None:
        self._kafka = kafka
        self._ends: dict[int, int] = {}  # by partition, how far it was read
        self._words: dict[str, _Word] = {}  # of records that were ever merged, the newest

    async def catch_up(self) -> None:
        """Read what the topic holds by now. Raises `Transient` when no broker answers."""
        topic = self._kafka.topic_prefix + _TOPIC
        async with Reader(self._kafka, moved=MOVED.get() or (lambda: None)) as reader:
            await reader.require(topic)
            for number in await reader.partitions(topic):
                _, end = await reader.bounds(topic, number)
                start = self._ends.get(number, 0)
                async for records in reader.read(topic, number, start if start <= end else 0, end):  # else it was made anew
                    for record in records:
                        self._take(record)
                self._ends[number] = end

    def get(self, patient_id: str) -> _Word | None:
        """Return what was said last of a record's merging, None for one that never was merged."""
        return self._words.get(patient_id)

    def of(self, patient_id: str) -> str:
        """Return the record that stands for this one: itself where it was not merged, or that was undone."""
        return surviving(self, patient_id)

    def _take(self, record: Any) -> None:
        if record.value is None:
            return
        try:
            context = decode(PatientEvent, record)
        except Poison:
            return  # the lane makes it a dead letter
        known = self.get(context.patient_id)
        if context.merged_into if known is None else context.effective_at >= known.at:
            self._words[context.patient_id] = _Word(context.effective_at, context.merged_into)
