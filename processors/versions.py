"""Which version of a note stands: the one that came last, each counted by when it came *first*.

A version may come more than once: a sender repeats a message that was acknowledged (its copy has the same event id, and a later
`received_at`), an operator redrives or replays a record. So neither the order on the topic nor that of receipt alone says what is
newest: an original that is sent again behind its correction is not the newer one. Kept is, of each version, its first coming, and
a smallest and a largest are the same in whatever order and however often records are read: so are the outcomes of a rerun.

A document that takes the place of another (a replacement, edit or cancellation that names it) is a version of that other one too,
without a text. Test traffic (MSH-11 T and D) never takes the place of anything that is not.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from processors.events import ImageEvent, NoteEvent
from processors.identity import natural_id
from processors.vectors import Point, instant

_SEEN: Final = "versions"


@dataclass(frozen=True, slots=True, order=True)
class Coming:
    """A record that brought a version; by their order the later one stands. `received` is as `instant` writes it."""

    production: bool
    received: str
    partition: int
    offset: int

    @classmethod
    def of(cls, event: NoteEvent | ImageEvent, partition: int, offset: int) -> "Coming":
        """Of a record; of a redriven one partition and offset are the original's."""
        return cls(event.processing == "production", instant(event.received_at), partition, offset)

    @classmethod
    def read(cls, payload: Mapping[str, Any]) -> "Coming":
        """Of a point, which tells of the version that it is of (`processors.vectors`), or of one that remembers it."""
        production = payload.get("processing", "production") == "production"  # points of earlier releases do not say it
        return cls(production, payload["received"], payload["partition"], payload["offset"])


class Versions:
    """The versions of one note that came so far. `held` are those of which the store has points."""

    def __init__(self) -> None:
        self._first: dict[str, Coming] = {}
        self._recalled: dict[str, Coming] = {}
        self.held: set[str] = set()

    def take(self, version: str, coming: Coming) -> None:
        """Note that a version (an event's id) came."""
        self._first[version] = min(coming, self._first.get(version, coming))

    def first(self, version: str) -> Coming:
        """Return when a version came first."""
        return self._first[version]

    @property
    def newest(self) -> str:
        """The version that stands, "" before any came."""
        return max(self._first, key=lambda version: (self._first[version], version), default="")

    def hold(self, payload: Mapping[str, Any]) -> None:
        """Take what a point of the note tells."""
        self.take(payload["version"], Coming.read(payload))
        self.held.add(payload["version"])

    def recall(self, payload: Mapping[str, Any]) -> None:
        """Take what `point` wrote."""
        self._recalled = {one["version"]: Coming.read(one) for one in payload[_SEEN]}
        for version, coming in self._recalled.items():
            self.take(version, coming)

    def to_remember(self, held: bool) -> bool:
        """Tell whether the store would forget something: all that it is told of is the newest version, by its points if `held`."""
        return self._first != self._recalled and not (held and len(self._first) == 1)

    def point(self, note_id: str) -> Point:
        """Return what is to be remembered of the note: no text and no patient, and a vector that says nothing."""
        seen = [
            {
                "version": version,
                "processing": "production" if coming.production else "test",
                "received": coming.received,
                "partition": coming.partition,
                "offset": coming.offset,
            }
            for version, coming in sorted(self._first.items())
        ]
        return Point(point_id(note_id), np.ones(1, np.float32), {"kind": "versions", "note_id": note_id, _SEEN: seen})

    def placed(self, points: Sequence[Point], version: str) -> list[Point]:
        """Let the points of a version say where it came from first, whichever of its copies they were made of."""
        first = self._first[version]
        place = {"received": first.received, "partition": first.partition, "offset": first.offset}
        return [Point(point.id, point.vector, {**point.payload, **place}) for point in points]


def point_id(note_id: str) -> str:
    """Name the point that remembers a note's versions."""
    return natural_id(note_id, _SEEN)
