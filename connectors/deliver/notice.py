"""What a receiver is told. Made anew for each attempt, so that its age is right when it arrives; its id stays."""

from collections.abc import Awaitable
from dataclasses import dataclass
from datetime import datetime
from typing import Literal, Protocol

from connectors.deliver.person import Person
from processors.events import AlertEvent, ScoreEvent

# alert: one step in an alert's life. test: the same, clearly marked, about nobody.
# heartbeat: Vigil's whole chain up to here is alive. silence: nothing is heard of the lane that raises alerts; silence-over: it is
# heard of again.
Kind = Literal["alert", "test", "heartbeat", "silence", "silence-over"]


@dataclass(frozen=True, slots=True)
class Notice:
    """One thing to tell. `id` is the same at every attempt: whoever reads it twice has read the same thing."""

    kind: Kind
    id: str
    at: datetime  # when this attempt was made
    alert: AlertEvent | None = None
    late: bool = False  # older than the receiver's `late_after`: the state as it stands now, not news
    passed_over: tuple[str, ...] = ()  # ids of earlier steps of the same alert that were not sent, since this one replaces them
    instead_of: str = ""  # the receiver that did not take it, where this is its fallback
    since: datetime | None = None  # silence: since when
    partitions: tuple[int, ...] = ()  # silence: of the vitals lane
    person: Person | None = None  # in the hospital's own numbers; None: not known, or not for this receiver
    score: ScoreEvent | None = None  # in place of `alert`, for a receiver of scores

    @property
    def age(self) -> float:
        """Seconds since the alert's step was decided; 0 for what is no alert."""
        return max(0.0, (self.at - self.alert.decided_at).total_seconds()) if self.alert else 0.0

    @property
    def title(self) -> str:
        """One line for a small screen, marked where it is a test or late."""
        if self.alert is not None:
            marks = "TEST, no patient: " if self.kind == "test" else f"LATE by {self.age / 60:.0f} min: " if self.late else ""
            return marks + self.alert.title
        return {
            "heartbeat": "Vigil watches",
            "silence": "Vigil is blind: nothing is heard of the lane that raises alerts. Watch the patients by other means",
            "silence-over": "Vigil watches again",
        }[self.kind]


class Receiver(Protocol):
    """A way to one receiver."""

    def send(self, notice: Notice) -> Awaitable[None]:
        """Tell it, and return once it has confirmed. Raises `Unavailable` or `Refused`."""
        ...

    def close(self) -> Awaitable[None]:
        """Let go of connections."""
        ...
