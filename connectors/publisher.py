"""How a connector hands events on: published means confirmed by Kafka (`acks=all`), what an acknowledgement may rest on."""

from collections.abc import Sequence
from typing import Protocol

from processors.events import Event


class Publisher(Protocol):
    """The way into the stream. The moving part implements it; connectors depend on nothing more."""

    async def publish(self, events: Sequence[Event], *, timeout: float | None = None) -> None:
        """Write the events of one message, in order, keyed by patient, and return once every one is confirmed.

        Raises `Transient` when the broker did not confirm within `timeout` seconds (the events may or may not be stored: the
        sender resends, and the same message gives the same ids), `Poison` for an event that no broker will take (too large).
        """
        ...
