"""How a connector hands on what it made: published and stored mean confirmed, what an acknowledgement may rest on."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from processors.events import Event, ObjectReference


@dataclass(frozen=True, slots=True)
class NewObject:
    """Bytes that go into the object store before the sender is answered."""

    data: bytes
    media_type: str
    suffix: str


class Publisher(Protocol):
    """The way into the stream. The moving part implements it; connectors depend on nothing more."""

    async def publish(self, events: Sequence[Event], *, timeout: float | None = None) -> None:
        """Write the events of one message, in order, keyed by patient, and return once every one is confirmed.

        Raises `Transient` when the broker did not confirm within `timeout` seconds (the events may or may not be stored: the
        sender resends, and the same message gives the same ids), `Poison` for an event that no broker will take (too large).
        """
        ...


class Store(Protocol):
    """Where the bytes go (`connectors.objects.ObjectStore`); content addressed, so putting twice is putting once."""

    async def put(self, data: bytes, media_type: str, suffix: str = "") -> ObjectReference:
        """Store and return the reference once it is durable. Raises `Transient` when the store cannot confirm."""
        ...
