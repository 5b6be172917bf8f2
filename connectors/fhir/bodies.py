"""What the bodies of requests may hold of memory, from their first byte until they are answered."""

from collections import Counter
from types import TracebackType
from typing import Final, Self

SMALL: Final = 64 * 1024  # a body may always hold this much: who fills the memory shuts out large ones only
_SHARE: Final = 2  # one address holds at most this part of the whole: the rest is everybody else's


class Room:
    """The memory of all bodies together: `limit` bytes, and what `SMALL` ones hold above it (bounded by the connections)."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self.held = 0
        self._of: Counter[str] = Counter()

    def body(self, address: str) -> "Body":
        """Return the place of one body, sent from an address. Use as a context manager: what it holds is given back."""
        return Body(self, address)

    def take(self, address: str, size: int) -> None:
        """Count bytes (given back: negative)."""
        self.held += size
        self._of[address] += size
        if not self._of[address]:
            del self._of[address]

    def is_full(self, address: str) -> bool:
        """Whether it, or the share of an address, is used up."""
        return self.held > self._limit or self._of[address] > self._limit // _SHARE


class Body:
    """One body while it is read and answered."""

    def __init__(self, room: Room, address: str) -> None:
        self._room, self._address = room, address
        self.data = bytearray()

    def add(self, chunk: bytes) -> bool:
        """Take in what has come; False where there is no room for it."""
        self.data += chunk
        self._room.take(self._address, len(chunk))
        return len(self.data) <= SMALL or not self._room.is_full(self._address)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._room.take(self._address, -len(self.data))
        self.data = bytearray()
