"""The connectors' process: `vigil serve`. Sockets on one side, the publisher on the other; nothing of the lanes runs here."""

import asyncio
import contextlib
import logging
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import orjson

from connectors.contexts import MemoryContexts
from connectors.dicom.server import DicomServer, disk_pressure
from connectors.fhir.server import FhirServer
from connectors.hl7.handling import Hl7Mapper
from connectors.hl7.server import MllpServer
from connectors.identity import Identities
from connectors.objects import ObjectStore
from models.errors import Poison, Transient
from processors.events import PatientEvent
from streams.clock import Clock, clock_of
from streams.outbox import Outbox
from streams.publisher import KafkaPublisher
from streams.reader import Reader
from streams.settings import Settings
from streams.wire import decode

log = logging.getLogger("vigil.edge")


async def serve(settings: Settings, addresses: Path | None = None) -> None:
    """Run the connectors until SIGINT or SIGTERM. `addresses`: where to write, as JSON, what listens where."""
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stopping.set)
    async with Edge(settings) as edge:
        if addresses is not None:
            await asyncio.to_thread(_write, addresses, edge.addresses)
        for name, (host, port) in edge.addresses.items():
            log.info("%s listens on %s:%d", name, host, port)
        await stopping.wait()
        log.info("stopping: what is in flight is answered first")


class Edge:
    """The servers of `settings.connectors.enabled`, started in order and stopped in reverse. Use as an async context manager."""

    def __init__(self, settings: Settings, clock: Clock | None = None) -> None:
        self._settings = settings
        self._clock = clock or clock_of(settings.clock)
        self._stack = contextlib.AsyncExitStack()
        self.addresses: dict[str, tuple[str, int]] = {}

    async def __aenter__(self) -> "Edge":
        settings = self._settings
        outbox = Outbox(settings, source=f"/vigil/{settings.site.name}/connectors")
        await _until_it_works("Kafka", outbox.start, settings)
        self._stack.push_async_callback(outbox.stop)
        publisher = KafkaPublisher(outbox, self._clock, timeout=settings.engine.publish_timeout)
        identities = Identities(settings.identity)
        contexts = MemoryContexts()
        known = await _until_it_works("the patients' contexts", lambda: read_contexts(settings, contexts), settings)
        log.info("contexts of %d patients are known", known)
        starts = {"mllp": self._mllp, "fhir": self._fhir, "dicom": self._dicom}
        for name in settings.connectors.enabled:
            self.addresses[name] = await starts[name](publisher, identities, contexts)
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._stack.aclose()

    async def _mllp(self, publisher: KafkaPublisher, identities: Identities, contexts: MemoryContexts) -> tuple[str, int]:
        own = self._settings.connectors.mllp
        server = MllpServer(own, Hl7Mapper(own, identities, contexts), publisher, self._clock)
        address = await server.start()
        self._stack.push_async_callback(server.stop)
        return address

    async def _dicom(self, publisher: KafkaPublisher, identities: Identities, contexts: MemoryContexts) -> tuple[str, int]:
        own, objects = self._settings.connectors.dicom, ObjectStore(self._settings.objects)
        pressure = disk_pressure(Path(self._settings.objects.url), own.min_free_bytes)
        server = DicomServer(
            own, publisher=publisher, store=objects, identities=identities, now=self._clock, under_pressure=pressure
        )
        await server.start()
        self._stack.push_async_callback(server.stop)
        return own.host, server.port

    async def _fhir(self, publisher: KafkaPublisher, identities: Identities, contexts: MemoryContexts) -> tuple[str, int]:
        own = self._settings.connectors.fhir
        server = FhirServer(own, publisher=publisher, identities=identities, now=self._clock, contexts=contexts)
        address = await server.start()
        self._stack.push_async_callback(server.stop)
        return address


async def read_contexts(settings: Settings, contexts: MemoryContexts) -> int:
    """Fill the contexts from `clinical.patients`; returns how many patients are known. Raises `Transient` without a broker."""
    topic = settings.kafka.topic_prefix + PatientEvent.topic
    async with Reader(settings.kafka) as reader:
        for partition in await reader.partitions(topic):
            begin, end = await reader.bounds(topic, partition)
            async for records in reader.read(topic, partition, begin, end):
                for record in records:
                    with contextlib.suppress(Poison):  # the lane makes it a dead letter
                        contexts.remember(decode(PatientEvent, record))
    return len(contexts)


async def _until_it_works(what: str, work: Any, settings: Settings) -> Any:
    wait = settings.engine.backoff_first
    while True:
        try:
            return await work()
        except Transient as error:
            log.warning("%s not there yet: %s; trying again in %.1f s", what, error, wait)
            await asyncio.sleep(wait)
            wait = min(2 * wait, settings.engine.backoff_most)


@contextlib.asynccontextmanager
async def running(settings: Settings, clock: Clock | None = None) -> AsyncIterator[dict[str, tuple[str, int]]]:
    """Run the connectors inside this event loop, for tests; gives what listens where."""
    async with Edge(settings, clock) as edge:
        yield edge.addresses


def _write(file: Path, addresses: dict[str, tuple[str, int]]) -> None:
    part = file.with_suffix(".part")
    part.write_bytes(orjson.dumps(addresses))
    part.rename(file)  # whoever waits for the file finds it whole
