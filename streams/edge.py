"""The connectors' process: `vigil serve`. Sockets on one side, the publisher on the other; nothing of the lanes runs here."""

import asyncio
import contextlib
import logging
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from time import monotonic
from typing import Any, Final, TypeVar

import orjson
from aiokafka import TopicPartition

from connectors.contexts import MemoryContexts
from connectors.deliver.callback import CallbackServer
from connectors.deliver.settings import WebhookSettings
from connectors.dicom.mapping import Outcome as DicomOutcome
from connectors.dicom.server import DicomServer
from connectors.dicom.web import StowServer
from connectors.documents import Former
from connectors.fhir.acknowledgement import Answer
from connectors.fhir.handling import Outcome as FhirOutcome
from connectors.fhir.server import FhirServer
from connectors.hl7.handling import Hl7Mapper
from connectors.hl7.handling import Outcome as Hl7Outcome
from connectors.hl7.server import MllpServer
from connectors.hl7.settings import Peer as Hl7Peer
from connectors.identity import Identities
from connectors.objects import ObjectStore
from connectors.publisher import Publisher
from models.batching import describe
from models.errors import Fatal, Poison, Transient, VigilError
from processors.events import Event, NoteEvent, PatientEvent
from streams import placement
from streams.clock import Clock, SteadyClock, clock_of
from streams.collector import Collector
from streams.health import EdgePages
from streams.lagging import lags
from streams.metrics import EdgeMetrics
from streams.outbox import Outbox
from streams.publisher import KafkaPublisher
from streams.reader import Reader
from streams.settings import DEMO_SECRET, Settings
from streams.tracing import REQUEST, Tracing, of_request
from streams.wire import decode

log = logging.getLogger("vigil.edge")

T = TypeVar("T")
_LOOK: Final = 2.0  # seconds between looks whether Kafka answers
_KNOWN: Final = 8  # patients by whom it is certain whether the secret is the one of before
_TOLD: Final = 5.0  # seconds between words of progress
_LANES: Final = 30.0  # seconds between looks at the lanes' groups, and for one of them: its rule waits for many minutes


async def serve(settings: Settings, addresses: Path | None = None, *, leaving: Callable[[], object] = lambda: None) -> None:
    """Run the connectors until SIGINT or SIGTERM. `addresses`: where to write, as JSON, what listens where.

    `leaving` is called when they begin to stop, for whatever reason: the process is to end in time then.

    Raises `Fatal` when a connector cannot listen, or no longer does.
    """
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stopping.set)
    edge = Edge(settings)
    async with EdgePages(edge.unready, edge.metrics, settings.worker, edge.addresses) as pages:
        log.info("health and metrics on http://%s:%d", *pages.address)
        running = asyncio.create_task(_run(edge, pages, addresses))
        stop = asyncio.create_task(stopping.wait())
        await asyncio.wait({running, stop}, return_when=asyncio.FIRST_COMPLETED)
        leaving()
        if stopping.is_set():
            log.info("stopping: what is in flight is answered first")
        running.cancel()  # while Kafka is away it may not even have started
        stop.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await running


async def _run(edge: "Edge", pages: EdgePages, addresses: Path | None) -> None:
    async with edge:
        if addresses is not None:
            await asyncio.to_thread(_write, addresses, {**edge.addresses, "health": pages.address})
        for name, (host, port) in edge.addresses.items():
            log.info("%s listens on %s:%d", name, host, port)
        await asyncio.gather(edge.watch(), edge.watch_lanes(), Collector().run())


class Edge:
    """The servers of `settings.connectors.enabled`, started in order and stopped in reverse. Use as an async context manager."""

    def __init__(self, settings: Settings, clock: Clock | None = None) -> None:
        self._settings, engine = settings, settings.engine
        # When a message came decides whether its set is history, and which version of a note stands: no bad answer of a time server
        # is to say so. Its steps are told in the log.
        self._clock = clock or SteadyClock(clock_of(settings.clock), settings.clock, count=lambda _: None)
        self._stack = contextlib.AsyncExitStack()
        self._outbox = Outbox(settings, source=f"/vigil/{settings.site.name}/connectors")
        self._tracing = Tracing(settings.tracing, "connectors")
        self._publisher = KafkaPublisher(
            self._outbox, self._clock, self._tracing, timeout=engine.publish_timeout, gather=engine.gather
        )
        self._former = Former(0)
        self._trouble = "starting"
        self.metrics = EdgeMetrics()
        self.addresses: dict[str, tuple[str, int]] = {}

    def unready(self) -> str:
        """Return why nothing can be taken now, in words; empty when it can."""
        return self._trouble

    async def __aenter__(self) -> "Edge":
        try:
            await self._start()
        except BaseException:
            await self._stack.aclose()
            raise
        self._trouble = ""
        return self

    async def _start(self) -> None:
        settings = self._settings
        self._stack.push_async_callback(asyncio.to_thread, self._tracing.stop)
        self._stack.push_async_callback(self._outbox.stop)
        await self._until_it_works("Kafka", self._outbox.start)
        identities = Identities(settings.identity)
        contexts = MemoryContexts()
        known = await self._until_it_works("the patients' contexts", lambda: read_contexts(settings, contexts))
        log.info("contexts of %d patients are known", known)
        if settings.identity.site_secret.get_secret_value() == DEMO_SECRET and not settings.kafka.embedded:
            log.error("the site secret is the demo's, which everybody can read: VIGIL_IDENTITY__SITE_SECRET sets it")
        self._former = Former(settings.connectors.former_notes)
        if {"mllp", "fhir"} & {*settings.connectors.enabled}:
            await self._until_it_works("the notes that were filed", lambda: read_notes(settings, self._former))
        starts = {"mllp": self._mllp, "fhir": self._fhir, "dicom": self._dicom, "stow": self._stow, "callback": self._callback}
        for name in dict.fromkeys(settings.connectors.enabled):  # one that is named twice is started once
            self.addresses[name] = await starts[name](Measured(self._publisher, name, self.metrics), identities, contexts)

    async def __aexit__(self, *exc: object) -> None:
        self._trouble = "stopping"
        await self._stack.aclose()

    async def watch(self) -> None:
        """Look now and then whether Kafka still answers, for `unready`: where nothing arrives, nothing would notice."""
        while True:
            await asyncio.sleep(_LOOK)
            was, answers = self._trouble, await self._outbox.answers()
            self._trouble = self._outbox.refused if answers else "Kafka does not answer"
            if was != self._trouble:
                log.warning("not ready: %s", self._trouble) if self._trouble else log.info("ready again: Kafka answers")

    async def watch_lanes(self) -> None:
        """Look now and then how far the lanes' groups are: a lane that nobody runs tells nothing of itself.

        Here, for wherever something comes in the connectors run, whatever runs of the lanes. Trouble is told once, and no reason
        to end: while a look fails nothing is shown, since what was true may be no more.
        """
        said = ""
        while True:
            began, found, why = monotonic(), [], ""
            try:
                async with asyncio.timeout(_LANES):
                    found = await lags(self._settings, times=False)
            except Exception as error:  # the connectors must outlive whatever a look can come to
                why = error.advice if isinstance(error, VigilError) else describe(error)
            lanes = {lane: [one for one in found if one.lane == lane] for lane in {one.lane for one in found}}
            self.metrics.groups(
                {
                    lane: (sum(one.records for one in places), sum(one.committed or 0 for one in places))
                    for lane, places in lanes.items()
                    if any(one.committed is not None for one in places)
                }
            )
            if why != said:
                said = why
                log.warning("how far the lanes are is not known: %s", why) if why else log.info("the lanes' lag is known again")
            await asyncio.sleep(max(0.0, began + _LANES - monotonic()))

    async def _until_it_works(self, what: str, work: Callable[[], Awaitable[T]]) -> T:
        engine = self._settings.engine
        wait = engine.backoff_first
        while True:
            try:
                return await work()
            except Transient as error:
                self._trouble = f"{what}: {error}"
                log.warning("%s not there yet: %s; trying again in %.1f s", what, error.advice, wait)
                await asyncio.sleep(wait)
                wait = min(2 * wait, engine.backoff_most)

    def _objects(self) -> ObjectStore:
        objects = ObjectStore(self._settings.objects)
        self.metrics.watch_disk(objects.free_bytes, self._settings.connectors.dicom.min_free_bytes)
        return objects

    async def _mllp(self, publisher: Publisher, identities: Identities, contexts: MemoryContexts) -> tuple[str, int]:
        own, metrics = self._settings.connectors.mllp, self.metrics

        def observe(peer: Hl7Peer, outcome: Hl7Outcome, seconds: float) -> None:
            metrics.message("mllp", peer.name, outcome.verdict)
            metrics.answer("mllp", outcome.code, seconds)

        server = MllpServer(own, Hl7Mapper(own, identities, contexts, self._former), publisher, self._clock, observe=observe)
        try:
            address = await server.start()
        except (OSError, ValueError) as error:
            raise Fatal(f"MLLP cannot listen on {own.host}:{own.port}: {error}", hint="is the port taken?") from error
        self._stack.push_async_callback(server.stop)
        metrics.watch("mllp", lambda: server.connections, server.counts)
        return address

    async def _dicom(self, publisher: Publisher, identities: Identities, contexts: MemoryContexts) -> tuple[str, int]:
        own, objects, metrics = self._settings.connectors.dicom, self._objects(), self.metrics

        def observe(outcome: DicomOutcome, status: int, seconds: float) -> None:
            metrics.message("dicom", "", outcome.verdict)
            metrics.answer("dicom", f"{status:04X}", seconds)

        server = DicomServer(
            own,
            publisher=publisher,
            store=objects,
            identities=identities,
            now=self._clock,
            contexts=contexts,
            under_pressure=lambda: disk_nearly_full(objects, own.min_free_bytes),
            observe=observe,
        )
        await server.start()
        self._stack.push_async_callback(server.stop)
        metrics.watch("dicom", lambda: server.associations)
        return own.host, server.port

    async def _stow(self, publisher: Publisher, identities: Identities, contexts: MemoryContexts) -> tuple[str, int]:
        own, objects, metrics = self._settings.connectors, self._objects(), self.metrics

        def observe(outcome: DicomOutcome, status: int, seconds: float) -> None:
            metrics.message("stow", "", outcome.verdict)

        server = StowServer(
            own.stow,
            own.dicom,
            publisher=publisher,
            store=objects,
            identities=identities,
            now=self._clock,
            contexts=contexts,
            under_pressure=lambda: disk_nearly_full(objects, own.dicom.min_free_bytes),
            observe=observe,
        )
        requests = Requests("stow", metrics)
        server.app.add_middleware(requests.around)
        address = await server.start()
        self._stack.push_async_callback(server.stop)
        metrics.watch("stow", lambda: requests.under_way)
        return address

    async def _callback(self, publisher: Publisher, identities: Identities, contexts: MemoryContexts) -> tuple[str, int]:
        own, metrics = self._settings.connectors.callback, self.metrics
        keys = {name: one.keys for name, one in self._settings.deliver.items() if isinstance(one, WebhookSettings)}

        def observe(receiver: str, status: int, seconds: float) -> None:
            metrics.message("callback", receiver, "accepted" if status < 300 else "refused")

        server = CallbackServer(own, keys, publisher=publisher, now=self._clock, observe=observe)
        requests = Requests("callback", metrics)
        server.app.add_middleware(requests.around)
        address = await server.start()
        self._stack.push_async_callback(server.stop)
        metrics.watch("callback", lambda: requests.under_way)
        return address

    async def _fhir(self, publisher: Publisher, identities: Identities, contexts: MemoryContexts) -> tuple[str, int]:
        own, metrics = self._settings.connectors.fhir, self.metrics

        def observe(peer: str, outcome: FhirOutcome, answer: Answer, seconds: float) -> None:
            metrics.message("fhir", peer, outcome.verdict)

        server = FhirServer(
            own,
            publisher=publisher,
            store=self._objects(),
            identities=identities,
            now=self._clock,
            contexts=contexts,
            former=self._former,
            observe=observe,
        )
        requests = Requests("fhir", metrics)
        server.app.add_middleware(requests.around)
        address = await server.start()
        self._stack.push_async_callback(server.stop)
        metrics.watch("fhir", lambda: requests.under_way)
        return address


class Measured:
    """A connector's way to the publisher, which counts what goes through it."""

    def __init__(self, publisher: Publisher, connector: str, metrics: EdgeMetrics) -> None:
        self._publisher = publisher
        self._connector = connector
        self._metrics = metrics

    async def publish(self, events: Sequence[Event], *, timeout: float | None = None) -> None:
        """Publish, and count; raises what the publisher raises."""
        began = monotonic()
        try:
            await self._publisher.publish(events, timeout=timeout)
        except (Exception, asyncio.CancelledError) as error:
            self._metrics.unconfirmed(self._connector, type(error).__name__.lower())
            raise
        self._metrics.published(self._connector, (event.topic for event in events), monotonic() - began)


class Requests:
    """ASGI middleware: counts every answer, those too that are given before a request is read; takes over a request's trace."""

    def __init__(self, connector: str, metrics: EdgeMetrics) -> None:
        self._connector = connector
        self._metrics = metrics
        self.under_way = 0

    def around(self, app: Any) -> Any:
        """Return the app with this around it."""

        async def counted(scope: Any, receive: Any, send: Any) -> None:
            began = monotonic()
            REQUEST.set(of_request(scope.get("headers", ())))  # of this request's task alone: each has its own

            async def sent(message: Any) -> None:
                if message["type"] == "http.response.start":
                    self._metrics.answer(self._connector, str(message["status"]), monotonic() - began)
                await send(message)

            self.under_way += 1
            try:
                await app(scope, receive, sent)
            finally:
                self.under_way -= 1

        return counted


def disk_nearly_full(objects: ObjectStore, least: int) -> bool:
    """Whether fewer than `least` bytes are free where the objects lie; never of a remote store, whose disk is its own business."""
    try:
        free = objects.free_bytes()
    except Transient:
        return True  # none can be kept there at all
    return free is not None and free < least


async def read_contexts(settings: Settings, contexts: MemoryContexts) -> int:
    """Fill the contexts from `clinical.patients`; returns how many patients are known.

    Raises `Transient` without a broker, `Fatal` where the settings have another number of partitions than patients lie by, or
    another secret than their pseudonyms were made with.
    """
    identities, same, others = Identities(settings.identity), 0, 0
    topic, places = settings.kafka.topic_prefix + PatientEvent.topic, set[tuple[bytes, int]]()
    async with Reader(settings.kafka) as reader:
        async for records, whole in reader.follow(topic):
            for record in records:
                if record.key is not None and len(places) < placement.MOST:
                    places.add((record.key, record.partition))
                with contextlib.suppress(Poison):  # the lane makes it a dead letter
                    context = decode(PatientEvent, record)
                    contexts.remember(context)
                    if same < _KNOWN and context.identifiers:
                        own = any(identities.patient(one) == context.patient_id for one in context.identifiers)
                        same, others = same + own, others + (not own)
            if whole:
                break
        there = len(await reader.partitions(topic))
    placement.require(topic, places, settings.topics.used(PatientEvent.topic, there), there)
    if others >= _KNOWN and not same:
        raise Fatal(
            f"none of {others} patients on {topic} has the pseudonym that identity.site_secret gives: it is another secret",
            hint="set VIGIL_IDENTITY__SITE_SECRET to the one of before: by another one every patient is a stranger, and "
            "what corrects a document finds it no more",
        )
    return len(contexts)


async def read_notes(settings: Settings, former: Former) -> bool:
    """Take over the newest notes of each partition, as many as are kept; returns whether all were read in time.

    Raises `Transient` without a broker.
    """
    own, topic = settings.connectors, settings.kafka.topic_prefix + NoteEvent.topic
    if not own.former_notes:
        return True
    began = told = monotonic()
    async with Reader(settings.kafka) as reader:
        if not (numbers := await reader.partitions(topic)):
            return True
        bounds = await reader.all_bounds([TopicPartition(topic, number) for number in numbers])
        each = max(1, own.former_notes // len(bounds))
        wanted = {tp.partition: (max(begin, end - each), end) for tp, (begin, end) in bounds.items()}
        total, done = sum(end - begin for begin, end in wanted.values()), 0
        for number, (begin, end) in wanted.items():
            async for records in reader.read(topic, number, begin, end):
                for record in records:
                    with contextlib.suppress(Poison):  # the lanes make it a dead letter
                        former.take(decode(NoteEvent, record))
                done, now = done + len(records), monotonic()
                if now - began > own.former_notes_within and done < total:
                    log.warning(
                        "of %d notes %d were read back in time: corrections of the others are not known as such", total, done
                    )
                    return False
                if now - told > _TOLD:
                    told = now
                    log.info("reading back what was filed: %d of %d notes", done, total)
                await asyncio.sleep(0)
    log.info("%d notes that were filed before are known", len(former))
    return True


@contextlib.asynccontextmanager
async def running(settings: Settings, clock: Clock | None = None) -> AsyncIterator[dict[str, tuple[str, int]]]:
    """Run the connectors inside this event loop, for tests; gives what listens where."""
    async with Edge(settings, clock) as edge:
        yield edge.addresses


def _write(file: Path, addresses: dict[str, tuple[str, int]]) -> None:
    part = file.with_suffix(".part")
    part.write_bytes(orjson.dumps(addresses))
    part.rename(file)  # whoever waits for the file finds it whole
