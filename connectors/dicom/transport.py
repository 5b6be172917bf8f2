"""pynetdicom's server with the limits that an open port needs (read in 3.0.4; each hole named where it is closed)."""

import logging
import select
import selectors
import socket
import ssl
import threading
from collections import Counter
from contextlib import suppress
from socketserver import BaseServer
from time import monotonic
from typing import Any

from pynetdicom import AE, evt
from pynetdicom.presentation import AllStoragePresentationContexts, build_context
from pynetdicom.sop_class import Verification
from pynetdicom.transport import AssociationSocket, RequestHandler, ThreadedAssociationServer

from connectors.dicom.settings import DicomSettings

logger = logging.getLogger(__name__)

# Every transfer syntax that pydicom with pylibjpeg decodes; what a sender offers in no other (video) is not negotiated.
TRANSFER_SYNTAXES = (
    "1.2.840.10008.1.2.1",  # Explicit VR Little Endian
    "1.2.840.10008.1.2",  # Implicit VR Little Endian
    "1.2.840.10008.1.2.2",  # Explicit VR Big Endian (retired)
    "1.2.840.10008.1.2.1.99",  # Deflated Explicit VR Little Endian
    "1.2.840.10008.1.2.5",  # RLE Lossless
    "1.2.840.10008.1.2.4.70",  # JPEG Lossless SV1
    "1.2.840.10008.1.2.4.57",  # JPEG Lossless
    "1.2.840.10008.1.2.4.80",  # JPEG-LS Lossless
    "1.2.840.10008.1.2.4.90",  # JPEG 2000 Lossless
    "1.2.840.10008.1.2.4.201",  # HTJ2K Lossless
    "1.2.840.10008.1.2.4.202",  # HTJ2K Lossless RPCL
    "1.2.840.10008.1.2.4.50",  # JPEG Baseline
    "1.2.840.10008.1.2.4.51",  # JPEG Extended
    "1.2.840.10008.1.2.4.81",  # JPEG-LS Near-lossless
    "1.2.840.10008.1.2.4.91",  # JPEG 2000
    "1.2.840.10008.1.2.4.203",  # HTJ2K
)
_READ = 1 << 16  # bytes asked of the socket at once; pynetdicom asks for 4,096
_QUEUED_MESSAGES = 2  # a sender waits for each answer, so more than this unanswered is a flood


class BoundedSocket(AssociationSocket):  # type: ignore[misc]
    """Reads no PDU longer than announced: the length field of a PDU is 32 bits, and pynetdicom would collect 4 GiB."""

    largest = 1 << 20

    @property
    def ready(self) -> bool:
        """Tell whether there is something to read. pynetdicom asks `select`, which cannot see a descriptor above 1,023."""
        if self.socket is None or not self._is_connected:
            return False
        if isinstance(self.socket, ssl.SSLSocket) and self.socket.pending():
            return True
        try:
            poll = select.poll()
            poll.register(self.socket, select.POLLIN)
            return bool(poll.poll(0))
        except (OSError, ValueError):
            self.event_queue.put("Evt17")  # transport connection closed
            return False

    def _shutdown_socket(self) -> None:
        """Close, also where the peer has gone already: pynetdicom then leaves the descriptor open."""
        with suppress(OSError, AttributeError):
            self.socket.shutdown(socket.SHUT_RDWR)
        with suppress(OSError, AttributeError):
            self.socket.close()

    def recv(self, nr_bytes: int) -> bytearray:
        """Read exactly `nr_bytes`, or fewer where the peer has gone. Raises `OSError` beyond the limit: the connection closes."""
        if nr_bytes > self.largest:
            raise OSError("a PDU is longer than announced")
        data = bytearray()
        while len(data) < nr_bytes:
            part = self.socket.recv(min(_READ, nr_bytes - len(data)))
            if not part:
                break
            data += part
        return data


class BoundedHandler(RequestHandler):  # type: ignore[misc]
    """Gives each association a bounded socket."""

    def _create_association(self) -> Any:
        association = super()._create_association()
        association.dul.event_queue.get_nowait()  # the plain socket has announced the connection (Evt5); ours does it again
        bounded = BoundedSocket(association, client_socket=self.request)
        bounded.largest = max(1 << 20, 2 * association.acceptor.maximum_length)  # room for the longest A-ASSOCIATE-RQ
        association.dul.socket = bounded
        return association


class BoundedServer(ThreadedAssociationServer):  # type: ignore[misc]
    """Accepts with a time-out, in a bounded number, and never does a TLS handshake on the accepting thread."""

    connections = 2000
    threads = 60
    threads_of_one = 30  # address
    silence = 10.0
    idle_timeout = 60.0
    daemon_threads = True
    request_queue_size = 128  # pynetdicom's 5 makes a burst of modalities wait for a second SYN

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._lobby = selectors.DefaultSelector()
        super().__init__(*args, **kwargs)

    def get_request(self) -> tuple[Any, Any]:
        """Accept. pynetdicom shakes hands here, without a time-out: one silent client would lock everybody out."""
        client, address = self.socket.accept()
        client.settimeout(self.idle_timeout)  # else half a PDU holds its thread for ever
        if self.ssl_context:
            # the handshake happens at the first read, on the association's own thread
            client = self.ssl_context.wrap_socket(client, server_side=True, do_handshake_on_connect=False)
        return client, address

    def shutdown(self) -> None:
        """Stop accepting and free the port; pynetdicom's own expects to have been started by its application entity."""
        BaseServer.shutdown(self)
        self.server_close()

    def verify_request(self, request: Any, client_address: Any) -> bool:
        """Close at once what would be one connection too many, in all or of its address."""
        waiting = Counter(key.data[1][0] for key in self._lobby.get_map().values())
        standing = self.addresses()
        address = client_address[0]
        of_one = waiting[address] + standing[address]
        if waiting.total() + standing.total() < self.connections and of_one < max(1, self.connections // 2):
            return True
        logger.warning(
            "DICOM: more than %d connections, or half of that from one address: one more was closed", self.connections
        )
        return False

    def addresses(self, *, established: bool = False) -> Counter[str]:
        """Count the associations of each address: all that have a thread, or those that are established."""
        active = self.active_associations
        return Counter(str(one.requestor.address) for one in active if one.is_established or not established)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Let a connection wait in the lobby until it says something: an association costs two threads that poll."""
        self._lobby.register(request, selectors.EVENT_READ, (monotonic() + self.silence, client_address))

    def service_actions(self) -> None:
        """Called by the accepting loop between two polls: admit who has spoken, close who was silent for too long.

        Instead of pynetdicom's, which collects garbage every 60th time: at our pace that would be every second.
        """
        standing = self.addresses()
        for key, _ in self._lobby.select(0):
            address = key.data[1][0]
            if standing.total() >= self.threads:
                break
            if standing[address] >= self.threads_of_one:  # waits, and takes no thread from others
                continue
            self._lobby.unregister(key.fileobj)
            if _gone(key.fileobj):
                self.shutdown_request(key.fileobj)
            else:
                standing[address] += 1
                super().process_request(key.fileobj, key.data[1])
        now = monotonic()
        for key in [key for key in self._lobby.get_map().values() if key.data[0] < now]:
            self._lobby.unregister(key.fileobj)
            self.shutdown_request(key.fileobj)

    def server_close(self) -> None:
        """Free the port and close everybody in the lobby."""
        super().server_close()
        for key in list(self._lobby.get_map().values()):
            self.shutdown_request(key.fileobj)
        self._lobby.close()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Log without a trace on the terminal: a peer that disconnects is no news."""
        logger.info("DICOM: a connection ended before it began", exc_info=True)


def _gone(connection: Any) -> bool:
    """Tell whether what there is to read is only the end; below TLS, which has not shaken hands yet."""
    try:
        return not socket.socket.recv(connection, 1, socket.MSG_PEEK)
    except BlockingIOError:
        return False
    except OSError:
        return True


class Intake:
    """Cuts off an association whose message grows beyond the limit while it arrives, or that does not wait for answers."""

    def __init__(self, largest_object: int) -> None:
        self._limit = largest_object
        self._lock = threading.Lock()
        self._arrived: dict[int, int] = {}

    def handlers(self) -> list[tuple[Any, Any]]:
        """Return the event handlers to bind."""
        return [
            (evt.EVT_PDU_RECV, self._on_pdu),
            (evt.EVT_DIMSE_RECV, self._on_message),
            (evt.EVT_CONN_CLOSE, self._on_close),
        ]

    def _on_pdu(self, event: Any) -> None:
        items = getattr(event.pdu, "presentation_data_value_items", None)
        if not items:
            return
        size = sum(len(item.presentation_data_value) for item in items if item.presentation_data_value)
        with self._lock:
            total = self._arrived[id(event.assoc)] = self._arrived.get(id(event.assoc), 0) + size
        if total > self._limit or event.assoc.dimse.msg_queue.qsize() > _QUEUED_MESSAGES:
            logger.warning("DICOM: association aborted, an object exceeds %d bytes or the sender does not wait", self._limit)
            event.assoc.abort()

    def _on_message(self, event: Any) -> None:
        with self._lock:
            self._arrived.pop(id(event.assoc), None)

    _on_close = _on_message


def application_entity(settings: DicomSettings) -> Any:
    """Return the configured application entity, supporting C-ECHO and C-STORE of every standard storage class."""
    entity = AE(ae_title=settings.ae_title)
    entity.supported_contexts = [
        build_context(Verification),
        *(build_context(context.abstract_syntax, list(TRANSFER_SYNTAXES)) for context in AllStoragePresentationContexts),
    ]
    entity.require_called_aet = settings.require_called_ae_title
    entity.require_calling_aet = [peer.ae_title for peer in settings.peers]
    entity.maximum_associations = 1_000_000  # pynetdicom counts the not yet negotiated too: `DicomServer` counts itself
    entity.maximum_pdu_size = settings.largest_pdu
    entity.acse_timeout = settings.acse_timeout
    entity.dimse_timeout = settings.dimse_timeout
    entity.network_timeout = settings.network_timeout
    return entity
