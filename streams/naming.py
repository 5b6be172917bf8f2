"""Follows `clinical.patients`, so that a delivery can name its patients in the hospital's own numbers.

A consumer of its own, without a group: every delivery reads all partitions from their beginnings, since a merged record and the one
that survives it may lie in two, and an alert in a third. Nothing waits for it but the start, for a few seconds:
an alert whose patient is not known, or cannot be since the topic is away, goes out under Vigil's pseudonym alone.
"""

import asyncio
import contextlib
import logging
from typing import Any, Final

from connectors.deliver.person import People, Person
from models.batching import describe
from models.errors import Poison, VigilError
from processors.events import AlertEvent, PatientEvent, ScoreEvent
from streams.reader import Reader
from streams.settings import EngineSettings, KafkaSettings
from streams.wire import decode

log = logging.getLogger("vigil.deliver")

_PATIENCE: Final = 5.0  # seconds at the start: no more than joining a group takes, and the backlog then names its patients


class Naming:
    """Knows the patients as the topic has them, from `start` to `stop`."""

    def __init__(self, kafka: KafkaSettings, engine: EngineSettings, people: People) -> None:
        self._people = people
        self._kafka = kafka
        self._engine = engine
        self._pause = engine.backoff_first
        self._looked = asyncio.Event()  # the topic was read to its end, or that failed
        self._running: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begin, and return once the topic was read to its end, or cannot be, or after a few seconds."""
        self._running = asyncio.create_task(self._run(), name="patients' numbers")
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_PATIENCE):
                await self._looked.wait()

    async def stop(self) -> None:
        """Follow no longer."""
        if self._running is not None:
            self._running.cancel()
            await asyncio.gather(self._running, return_exceptions=True)

    def find(self, event: AlertEvent | ScoreEvent) -> Person | None:
        """Return whom an alert or a score is about; None where no number of theirs is known."""
        try:
            return self._people.find(event.patient_id, event.encounter_id)
        except Exception as error:  # our own fault: the alert goes out all the same
            log.error("the patient of %s cannot be named: unforeseen %s", event.id, type(error).__name__)
            return None

    async def _run(self) -> None:
        while True:
            try:
                await self._follow()
                reason = "it has other partitions than before"
            except VigilError as error:
                reason = str(error)
            except Exception as error:  # alerts go out all the same
                reason = describe(error)
            self._looked.set()
            pause, self._pause = self._pause, min(2 * self._pause, self._engine.backoff_most)
            log.warning(
                "alerts may name nobody: clinical.patients cannot be followed (%s); tried again in %.1f s", reason, pause
            )
            await asyncio.sleep(pause)

    async def _follow(self) -> None:
        topic, told = self._kafka.topic_prefix + PatientEvent.topic, False
        async with Reader(self._kafka) as reader:
            await reader.require(topic)  # to ask for one that is not there may make it, and not as it should be
            async for records, whole in reader.follow(topic):
                for record in records:
                    self._take(record)
                if whole and not told:
                    log.info("the numbers of %d patients are known", len(self._people))
                    told, self._pause = True, self._engine.backoff_first
                    self._looked.set()

    def _take(self, record: Any) -> None:
        if record.value is None:  # deleted, as for one who is to be forgotten
            self._people.forget((record.key or b"").decode(errors="replace"))
            return
        with contextlib.suppress(Poison):  # the lane makes it a dead letter
            self._people.remember(decode(PatientEvent, record))
