"""What lies between an outcome and its answer: publishing in order per patient, and knowing a resend.

1. Events go to the publisher as soon as their message is mapped, but behind those of earlier messages about the same patients,
   whatever connection these came by. When one of those fails, this one fails too (`Unconfirmed`), and is sent again after it.
2. `publish` returned: the message is confirmed. Its answers are remembered by peer and content, so that a resend is answered
   without publishing again. That memory only saves work: a resend that it forgot is published again under the same ids.
3. `publish` did not return in time, or failed: `Unconfirmed`. The events may be stored or not; the resend decides it.
   What it said of patients is taken back from the contexts: else the resend would add nothing to them, and never be published.
   Of documents it stays remembered: the resend says the same of them.
4. `Poison`: the broker will never take these events (too large). The message goes to the dead letters whole; does not even that
   fit, it is refused, and stays with its sender.
"""

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Collection
from datetime import datetime
from typing import Final

from connectors.hl7.handling import Hl7Mapper, Outcome
from connectors.hl7.settings import Peer
from connectors.publisher import Publisher
from models.errors import Poison, Transient, VigilError
from processors.events import PatientEvent

log = logging.getLogger(__name__)

GUARD_SECONDS: Final = 2.0  # that a publisher may take above the timeout which it was given


class Unconfirmed(Transient):
    """Whether the message is stored is not known, or known not to be."""


class Publishing:
    """Publishes outcomes for all connections of a server."""

    def __init__(self, mapper: Hl7Mapper, publisher: Publisher, seconds: float, remembered: int) -> None:
        self._mapper = mapper
        self._publisher = publisher
        self._seconds = seconds
        self._remembered = remembered
        self._last: dict[str, asyncio.Task[Outcome]] = {}  # patient -> the last publishing about it
        self._stored: dict[str, PatientEvent | None] = {}  # patient with a publishing -> the context as last confirmed
        self._answers: OrderedDict[tuple[str, str], tuple[bytes, ...]] = OrderedDict()
        self._digests: OrderedDict[tuple[str, ...], str] = OrderedDict()
        self.reused_control_ids = 0

    def answers_to(self, peer: str, digest: str) -> tuple[bytes, ...] | None:
        """Return the answers that a message got when it was stored, None when it is not remembered."""
        return self._answers.get((peer, digest))

    def start(self, raw: bytes, peer: Peer, at: datetime, outcome: Outcome) -> "asyncio.Task[Outcome] | Outcome":
        """Put an outcome's events on their way. The task ends with the outcome to answer by, or raises `Unconfirmed`.

        What it says of patients and documents is remembered at once: the next message about them may be mapped before this one is
        confirmed.
        """
        if not outcome.events:
            return outcome
        before = {task for key in outcome.keys if key and (task := self._last.get(key))}
        task = asyncio.create_task(self._publish(raw, peer, at, outcome, before))
        for key in outcome.keys - {""}:
            if key not in self._last:
                self._stored[key] = self._mapper.contexts.get(key)
            self._last[key] = task
        task.add_done_callback(lambda done: self._ended(done, outcome))
        self._mapper.learn(outcome)
        return task

    async def _publish(
        self, raw: bytes, peer: Peer, at: datetime, outcome: Outcome, before: "Collection[asyncio.Task[Outcome]]"
    ) -> Outcome:
        for task in before:
            await asyncio.shield(task)
        try:
            await self._confirmed(outcome)
        except Poison as error:
            log.warning("a message of peer %s cannot be stored as it is (%s)", peer.name, type(error).__name__)
            outcome = await self._whole(raw, peer, at)
        self._remember(peer.name, outcome)
        return outcome

    async def _whole(self, raw: bytes, peer: Peer, at: datetime) -> Outcome:
        reason = "the broker does not take what the message became (too large)"
        instead = self._mapper.poisoned(raw, peer, at, reason)
        try:
            await self._confirmed(instead)
        except Poison:
            return self._mapper.unstorable(raw, peer, at, reason)
        return instead

    async def _confirmed(self, outcome: Outcome) -> None:
        try:
            async with asyncio.timeout(self._seconds + GUARD_SECONDS):
                await self._publisher.publish(outcome.events, timeout=self._seconds)
        except Poison:
            raise
        except Exception as error:  # an unforeseen failure is not a confirmation either
            if not isinstance(error, (Transient, TimeoutError)):
                log.error("publishing failed: %s", error.advice if isinstance(error, VigilError) else type(error).__name__)
            raise Unconfirmed(f"not confirmed: {type(error).__name__}") from None

    def _ended(self, task: "asyncio.Task[Outcome]", outcome: Outcome) -> None:
        # the connection's writer asks for the exception too, unless the connection is gone
        confirmed = not task.cancelled() and task.exception() is None and task.result() is outcome
        for context in outcome.contexts:
            if confirmed:
                self._stored[context.patient_id] = context
            else:
                self._mapper.contexts.take_back(context, self._stored[context.patient_id])
        for key in outcome.keys:
            if self._last.get(key) is task:
                del self._last[key], self._stored[key]

    def _remember(self, peer: str, outcome: Outcome) -> None:
        if outcome.verdict == "refused":
            return
        if outcome.control_id and self._digests.get(outcome.key, outcome.digest) != outcome.digest:
            self.reused_control_ids += 1
            log.warning("peer %s used a control id for two different messages; both are stored", peer)
        self._answers[peer, outcome.digest] = tuple(data for _, data in outcome.answers)
        self._digests[outcome.key] = outcome.digest
        for book in (self._answers, self._digests):
            while len(book) > self._remembered:
                book.popitem(last=False)
