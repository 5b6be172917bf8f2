"""What lies between an object and its answer, for C-STORE, STOW-RS and the importer alike: store, then publish, in bounded time.

1. Every object of the outcome is in the object store, confirmed.
2. Only then the events that refer to it go to Kafka, confirmed.
3. Only then there is a positive answer. A stop in between leaves an object that nothing refers to, and a sender that sends again:
   the same content has the same place and the same ids.
"""

import asyncio
import logging
import threading
from collections import OrderedDict
from time import monotonic
from typing import Final

from connectors.dicom.acknowledgement import status_of
from connectors.dicom.mapping import Outcome
from connectors.publisher import Publisher, Store
from models.errors import VigilError

log = logging.getLogger(__name__)

_REMEMBERED: Final = 100_000  # instance UIDs kept to notice one that comes back with other content: about 20 MB


class Publishing:
    """Makes outcomes durable. `confirm` belongs on the event loop, `notice` may come from any thread."""

    def __init__(self, publisher: Publisher, store: Store, *, seconds: float) -> None:
        """`seconds`: how long store and broker together may take."""
        self.seconds = seconds
        self._publisher = publisher
        self._store = store
        self._seen: OrderedDict[str, str] = OrderedDict()
        self._lock = threading.Lock()

    async def confirm(self, outcome: Outcome) -> None:
        """Store, then publish; returns once both are durable. Raises `TimeoutError`, `Transient` or what the two raise."""
        if outcome.verdict == "refused":
            return
        async with asyncio.timeout(self.seconds):
            started = monotonic()
            references = [await self._store.put(one.data, one.media_type, one.suffix) for one in outcome.objects]
            if events := outcome.events(references):
                await self._publisher.publish(events, timeout=max(0.1, self.seconds - (monotonic() - started)))

    async def answer(self, outcome: Outcome) -> int:
        """Confirm, and return the status to answer with."""
        self.notice(outcome)
        try:
            await self.confirm(outcome)
        except Exception as error:
            log_failure(error)
            return status_of(error)
        return outcome.status

    def notice(self, outcome: Outcome) -> None:
        """Warn when an instance UID returns with other content: somebody should know, whether it is kept too or a correction."""
        subject = outcome.subject
        if not subject.instance_uid or outcome.verdict == "refused":
            return
        with self._lock:
            before = self._seen.pop(subject.instance_uid, subject.digest)
            self._seen[subject.instance_uid] = subject.digest
            if len(self._seen) > _REMEMBERED:
                self._seen.popitem(last=False)
        if before != subject.digest:
            log.warning(
                "DICOM: an instance UID came again with other content (digest %s): kept too, or a correction", subject.digest
            )


def log_failure(error: BaseException) -> None:
    """Log what went wrong on our side: our own errors' words, which quote nothing; of others the class only."""
    if isinstance(error, VigilError):
        log.warning("DICOM: not confirmed: %s", error.advice)
    elif isinstance(error, TimeoutError):
        log.warning("DICOM: not confirmed in time")
    else:
        log.error("DICOM: unforeseen %s while storing", type(error).__name__)
