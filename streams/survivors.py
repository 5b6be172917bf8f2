"""Where merged records went, as `clinical.patients` has it: the end of a chain of merges, whichever of them is processed first.

A context's key is its own patient, so two merges of a chain (a into b, b into c) may lie in two partitions and be met in either
order. Who processes "a into b" asks where a has gone by now: over b to c, or nowhere where it was undone.
"""

from datetime import datetime
from typing import Any, Final

from models.batching import MOVED
from models.errors import Poison
from processors.events import PatientEvent
from streams.reader import Reader
from streams.settings import KafkaSettings
from streams.wire import decode

_TOPIC: Final = PatientEvent.topic


class Survivors:
    """A copy of all merges. Of a patient the newest word counts (`effective_at`): a copy that was replayed undoes nothing."""

    def __init__(self, kafka: KafkaSettings) -> None:
        self._kafka = kafka
        self._ends: dict[int, int] = {}  # by partition, how far it was read
        self._into: dict[str, tuple[datetime, str]] = {}  # of records that were ever merged; "" where that was undone

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

    def of(self, patient_id: str) -> str:
        """Return the record that stands for this one; of a circle of merges one that is in it."""
        seen = {patient_id}
        while (into := self._into.get(patient_id, (None, ""))[1]) and into not in seen:
            seen.add(into)
            patient_id = into
        return patient_id

    def _take(self, record: Any) -> None:
        if record.value is None:
            return
        try:
            context = decode(PatientEvent, record)
        except Poison:
            return  # the lane makes it a dead letter
        patient, into = context.patient_id, context.merged_into or ""
        known = self._into.get(patient)
        if (known is None and into) or (known is not None and context.effective_at >= known[0]):
            self._into[patient] = (context.effective_at, into)
