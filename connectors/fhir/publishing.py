"""What lies between a body and its answer, for the endpoint and the puller alike: mapping, publishing, remembering.

1. A long body is mapped in a thread, so that others do not wait the milliseconds it takes.
2. Pictures are in the object store, confirmed, before the events that refer to them are published.
3. `publish` returned: confirmed. What the body says about patients and stays, and what its Observations said, is remembered from
   then on, not before.
4. Whole contexts are published one body after the other, each made from what the one before has published.
5. `publish` failed or took too long: `Unconfirmed`. The events may be stored or not; the resend decides, under the same ids.
6. `Poison`: no broker or object store will ever take a part of it (too large). Refused; it stays with its sender.
7. Content that a resource names by URL is fetched before (`contents`, of a peer whose server we fetch from), and the body mapped
   again with it. Who waits for an answer waits `seconds` for that, then `Unconfirmed`, nothing stored; a pull as long as it takes.
8. What was fetched has no sender who would send it again: what is refused of it goes into a dead letter (`keep`), confirmed too.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from types import MappingProxyType
from typing import Final

from connectors.fhir.acknowledgement import MEDIA_TYPE
from connectors.fhir.contents import Contents
from connectors.fhir.handling import FhirMapper, Outcome, Request
from connectors.fhir.letters import beginning_of_refused, letter_of_refused
from connectors.publisher import NewObject, Publisher, Store
from models.errors import Permanent, Poison, Transient, VigilError
from processors.events import DeadLetterEvent, Event, ImageEvent

log = logging.getLogger(__name__)

_GUARD: Final = 2.0  # seconds that a publisher may take above the timeout which it was given
_LONG: Final = 32 * 1024  # bytes


class Unconfirmed(Transient):
    """Whether the body is stored is not known, or known not to be."""


class Publishing:
    """Takes bodies in, from whatever door."""

    def __init__(
        self, mapper: FhirMapper, publisher: Publisher, store: Store, *, now: Callable[[], datetime], seconds: float
    ) -> None:
        """`now` gives aware times; `seconds` is how long a confirmation may take."""
        self.mapper = mapper
        self._publisher = publisher
        self._store = store
        self._now = now
        self._seconds = seconds
        self.contents: dict[str, Contents] = {}  # peer -> where the content is fetched that its resources name by URL
        self._contexts = asyncio.Lock()
        self._generation = 0

    async def take(self, body: bytes, peer: str, asked: Request, *, unhurried: bool = False) -> Outcome:
        """Map and publish, and return the outcome to answer by. Raises `Unconfirmed`.

        `unhurried`: no sender waits for the answer. Then it also raises `Permanent`, where the server that content is fetched from
        does not let us in.
        """
        generation, outcome = self._generation, await self._map(body, peer, asked)
        if not outcome.wanted or peer not in self.contents:
            return await self._published(outcome, generation, body, peer, asked)
        try:
            async with self.contents[peer].of(outcome.wanted, None if unhurried else self._seconds) as fetched:
                if fetched:
                    asked = replace(asked, fetched=fetched)
                    generation, outcome = self._generation, await self._map(body, peer, asked)
                return await self._published(outcome, generation, body, peer, asked)
        except Poison:
            return self.mapper.too_large(outcome)
        except TimeoutError:
            raise Unconfirmed("content that it names by URL was not to be had in time") from None
        except Permanent as error:
            if unhurried:
                raise
            log.error("FHIR: content of %s cannot be fetched: %s", peer, error.advice)
            raise Unconfirmed("content that it names by URL cannot be fetched") from None

    async def _published(self, outcome: Outcome, generation: int, body: bytes, peer: str, asked: Request) -> Outcome:
        """Publish what a body was mapped to in that generation of contexts: mapped again where they have moved on since."""
        try:
            if outcome.contexts:
                async with self._contexts:
                    if self._generation != generation:
                        outcome = await self._map(body, peer, asked)
                    await self._confirm(outcome.events, outcome.pictures)
                    self._generation += 1
                    self.mapper.learn(outcome)
            elif outcome.events:
                await self._confirm(outcome.events, outcome.pictures)
                self.mapper.learn(outcome)
        except Poison:
            return self.mapper.too_large(outcome)
        return outcome

    async def keep(self, original: bytes, peer: str, reason: str) -> None:
        """Publish as a dead letter what was refused and nobody will send again. Raises `Unconfirmed`."""
        now = self._now()
        try:
            await self._confirm((letter_of_refused(original, peer, reason, now),))
        except Poison:  # larger than a record
            await self._confirm((await self._elsewhere(original, peer, reason, now),))

    async def _elsewhere(self, original: bytes, peer: str, reason: str, now: datetime) -> DeadLetterEvent:
        """Return a letter that refers to the object store, or holds a beginning only, where that does not take the whole either."""
        try:
            async with asyncio.timeout(self._seconds + _GUARD):
                return letter_of_refused(await self._store.put(original, MEDIA_TYPE, ".json"), peer, reason, now)
        except Poison:
            return beginning_of_refused(original, peer, reason, now)
        except Exception as error:
            raise Unconfirmed(f"not confirmed: {type(error).__name__}") from None

    async def _map(self, body: bytes, peer: str, asked: Request) -> Outcome:
        sender = self.mapper.sender(peer, self._now())
        if len(body) > _LONG or asked.fetched:
            return await asyncio.to_thread(self.mapper.handle, body, sender, asked)
        return self.mapper.handle(body, sender, asked)

    async def _confirm(self, given: Sequence[Event], pictures: Mapping[str, NewObject] = MappingProxyType({})) -> None:
        try:
            async with asyncio.timeout(self._seconds + _GUARD):
                events = [await self._stored(event, pictures.get(event.id)) for event in given]
                await self._publisher.publish(events, timeout=self._seconds)
        except Poison:
            raise
        except Exception as error:  # an unforeseen failure is not a confirmation either
            if not isinstance(error, (Transient, TimeoutError)):
                log.error(
                    "FHIR: publishing failed: %s", error.advice if isinstance(error, VigilError) else type(error).__name__
                )
            raise Unconfirmed(f"not confirmed: {type(error).__name__}") from None

    async def _stored(self, event: Event, picture: NewObject | None) -> Event:
        """Return the event as it is published: that of a picture with the place where the picture now lies."""
        if picture is None or not isinstance(event, ImageEvent):
            return event
        reference = await self._store.put(picture.data, picture.media_type, picture.suffix)
        return event.model_copy(update={"pixels": reference})
