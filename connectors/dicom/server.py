"""The DICOM Storage SCP: C-ECHO and C-STORE, a positive answer only for what the object store and Kafka have confirmed.

pynetdicom runs one thread per association beside the event loop. There an object is read, decoded and rendered; storing and
publishing happen on the loop, and the thread waits for them a bounded time. A sender waits for each answer before it sends on,
so a slow store or broker is felt at the socket and nothing piles up here.
"""

import asyncio
import logging
import threading
from collections.abc import Callable
from concurrent.futures import Future
from datetime import datetime
from time import monotonic
from typing import Any, Self

from pydicom.dataset import Dataset
from pynetdicom import _config as pynetdicom_config
from pynetdicom import evt

from connectors.contexts import Contexts
from connectors.dicom.acknowledgement import CONGESTED, LIMIT_EXCEEDED, OUT_OF_RESOURCES, SUCCESS, status_of
from connectors.dicom.mapping import Command, Context, Outcome, handle
from connectors.dicom.publishing import Publishing, log_failure
from connectors.dicom.settings import DicomSettings
from connectors.dicom.transport import BoundedHandler, BoundedServer, Intake, application_entity
from connectors.identity import Identities
from connectors.publisher import Publisher, Store
from connectors.serving import server_context
from models.errors import Fatal

logger = logging.getLogger(__name__)

_POLL = 0.02  # seconds between looks at who connected: the delay of a new association, against 50 wake-ups a second
_COMMENT = 64  # characters that (0000,0902) Error Comment holds


Observer = Callable[[Outcome, int, float], None]  # outcome, the status that was sent, seconds


class DicomServer:
    """The Storage SCP beside an event loop. Use as an async context manager, or `start` and `stop`."""

    def __init__(
        self,
        settings: DicomSettings,
        *,
        publisher: Publisher,
        store: Store,
        identities: Identities,
        now: Callable[[], datetime],
        contexts: Contexts | None = None,
        under_pressure: Callable[[], bool] = lambda: False,
        observe: Observer = lambda outcome, status, seconds: None,
    ) -> None:
        """`now` gives aware times; `contexts` is what is known of patients; `under_pressure` says that the store's disk is nearly
        full; `observe` is called from the association's thread after each answer (for metrics).
        """
        self.settings = settings
        self._publishing = Publishing(publisher, store, seconds=settings.confirm_timeout)
        self._identities = identities
        self._now = now
        self._contexts = contexts
        self._under_pressure = under_pressure
        self._observe = observe
        self._decoders = threading.BoundedSemaphore(settings.decoders)
        self._server: Any = None
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    @property
    def port(self) -> int:
        """The port that is listened on."""
        return int(self._server.server_address[1])

    @property
    def associations(self) -> int:
        """Open associations."""
        server = self._server
        return sum(one.is_established for one in server.active_associations) if server is not None else 0

    async def start(self) -> tuple[str, int]:
        """Listen, and return the address. Raises `Fatal` when the address cannot be had or the TLS files cannot be used."""
        self._loop = asyncio.get_running_loop()
        # pynetdicom logs what it receives, down to attribute values: that is patient data
        pynetdicom_config.LOG_HANDLER_LEVEL = "none"
        logging.getLogger("pynetdicom").setLevel(logging.CRITICAL)
        settings = self.settings
        tls = settings.tls
        context = server_context(tls.certificate_file, tls.key_file, tls.ca_file) if tls else None
        try:
            self._server = application_entity(settings).make_server(
                (settings.host, settings.port),
                ssl_context=context,
                evt_handlers=[
                    (evt.EVT_REQUESTED, self._on_requested),
                    (evt.EVT_C_STORE, self._on_store),
                    *Intake(settings.largest_object).handlers(),
                ],
                server_class=BoundedServer,
                request_handler=BoundedHandler,
            )
        except (OSError, ValueError) as error:
            raise Fatal(f"DICOM cannot listen on {settings.host}:{settings.port}: {error}") from error
        self._server.connections = settings.connections
        self._server.threads = 2 * settings.associations + 10  # those that negotiate, beside those that stand
        self._server.threads_of_one = min(2 * settings.associations_of_one + 10, self._server.threads)
        self._server.silence = settings.acse_timeout
        self._server.idle_timeout = settings.network_timeout
        self._thread = threading.Thread(target=self._server.serve_forever, args=(_POLL,), name="dicom-accept", daemon=True)
        self._thread.start()
        return settings.host, self.port

    async def stop(self, grace: float = 5.0) -> None:
        """Accept no more, let objects under way be answered for `grace` seconds, then abort what is left."""
        if self._server is None:
            return
        server, self._server = self._server, None
        await asyncio.to_thread(server.shutdown)
        deadline = monotonic() + grace
        for association in server.active_associations:
            if association.is_established:  # one that has not negotiated yet has nothing under way
                await asyncio.to_thread(association.join, max(0.0, deadline - monotonic()))
            if association.is_alive():
                await asyncio.to_thread(association.abort)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    # ------------------------------------------------------------------------------------------ on the associations' threads

    def _on_requested(self, event: Any) -> None:
        """Refuse for the moment, before any object is sent: disk nearly full, or too many associations (PS3.8 9.3.4).

        Those of one address are fewer than all: one that opens them and is silent shuts out itself.
        """
        try:
            full = self._under_pressure()
        except OSError:
            full = True
        open_now = event.assoc._server.addresses(established=True)
        of_one = open_now[str(event.assoc.requestor.address)]
        too_many = open_now.total() >= self.settings.associations or of_one >= self.settings.associations_of_one
        reason = CONGESTED if full else LIMIT_EXCEEDED if too_many else None
        if reason is not None:
            count = f"{open_now.total()} are open, {of_one} of its address"
            logger.warning("DICOM: association rejected, %s", "the disk is nearly full" if full else count)
            event.assoc.acse.send_reject(*reason)
            event.assoc.kill()

    def _on_store(self, event: Any) -> Dataset:
        started = monotonic()
        outcome = Outcome("refused", OUT_OF_RESOURCES, "not yet handled")
        status = OUT_OF_RESOURCES
        try:
            request = event.request
            command = Command(str(request.AffectedSOPClassUID or ""), str(request.AffectedSOPInstanceUID or ""))
            peer = self.settings.peer(event.assoc.requestor.ae_title or "")
            context = Context(self.settings, self._identities, peer, self._now(), contexts=self._contexts)
            with self._decoders:
                outcome = handle(event.encoded_dataset(), context, command=command)
            self._publishing.notice(outcome)
            status = outcome.status if outcome.verdict == "refused" else self._confirmed(outcome)
        except BaseException as error:  # whatever leaves here becomes C211, which senders take as final
            status = status_of(error)
            log_failure(error)
        self._answered(outcome, status, monotonic() - started)
        return _response(status, outcome)

    def _confirmed(self, outcome: Outcome) -> int:
        loop, patience = self._loop, self.settings.confirm_timeout
        assert loop is not None
        future: Future[None] = asyncio.run_coroutine_threadsafe(self._publishing.confirm(outcome), loop)
        try:
            future.result(timeout=patience + 1)  # one more second: the loop's own limit answers first, unless the loop is stuck
        except BaseException:
            future.cancel()
            raise
        return outcome.status

    def _answered(self, outcome: Outcome, status: int, seconds: float) -> None:
        if status != SUCCESS or outcome.verdict == "dead-letter":
            logger.warning("DICOM: %s with %04X: %s", outcome.verdict, status, outcome.reason or "not confirmed")
        try:
            self._observe(outcome, status, seconds)
        except Exception:
            logger.exception("DICOM: the observer failed")


def _response(status: int, outcome: Outcome) -> Dataset:
    answer = Dataset()
    answer.Status = status
    if status != SUCCESS:
        reason = outcome.reason if outcome.status == status else "not confirmed, send again"
        answer.ErrorComment = reason[:_COMMENT]
    return answer
