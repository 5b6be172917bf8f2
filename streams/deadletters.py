"""Dead letters: what could not be processed, whole, so that nothing is lost and it can be redriven byte for byte.

A redriven record is the original's bytes and headers, and headers more that say which letters it comes from, how often each lane
tried it, and where the original stood. A lane that fails on it again makes the same letter, with the attempts added up.
"""

import json
import re
from base64 import b64decode, b64encode
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any, Final

import orjson

from models.batching import describe
from models.errors import Permanent, Poison, VigilError
from processors.events import Cut, DeadLetterEvent, Header
from processors.identity import natural_id
from streams.wire import Headers, Message

LETTER: Final = "vigil-redriven-letter"  # the dead letter's id; once for each lane's letter, in the order of the attempts
ATTEMPTS: Final = "vigil-redriven-attempts"  # how often the letter's lane tried the original so far
SOURCE: Final = "vigil-redriven-source"  # partition/offset of the original on this topic
WRITTEN: Final = "vigil-redriven-written"  # the original record's timestamp, ms since 1970, or nothing
_AROUND: Final = 16 * 1024  # bytes of a letter's record besides the original: its words and places, its own headers
_HEADER: Final = 24  # bytes of a header in a letter besides its name and value
_MOST_WORDS: Final = 2000  # characters of a letter's message
_OURS: Final = frozenset({LETTER, ATTEMPTS, SOURCE, WRITTEN})
_PLACE: Final = re.compile(rb"(\d{1,9})/(\d{1,18})")
_COUNT: Final = re.compile(rb"\d{1,9}")
_TIME: Final = re.compile(rb"\d{1,14}")
_PEER: Final = re.compile(r"[\w.:-]{1,64}")
_KIND: Final = re.compile(r"[A-Z]{3}(?:\^[A-Z]\d{2}(?:\^[A-Z]{3}_[A-Z]\d{2})?)?|[A-Za-z0-9.]{1,64}")


@dataclass(frozen=True, slots=True)
class Redriven:
    """Where a redriven record comes from. `written` is the original's timestamp in ms, negative where it had none."""

    attempts: Mapping[str, int]  # so far, by letter: several lanes may have failed on the one original
    partition: int
    offset: int
    written: int


def redriven(record: Any) -> Redriven | None:
    """Return where a record was redriven from; None for any other record, and for headers that make no sense."""
    ours = [(name, value) for name, value in record.headers or () if name in _OURS and value is not None]
    found, counts = dict(ours), [value for name, value in ours if name == ATTEMPTS]
    place, written = _PLACE.fullmatch(found.get(SOURCE, b"")), found.get(WRITTEN, b"")
    if place is None or not counts or not all(_COUNT.fullmatch(count) and int(count) > 0 for count in counts):
        return None
    letters = [value.decode(errors="replace") for name, value in ours if name == LETTER]
    attempts = dict(zip(letters, map(int, counts), strict=False))  # a record without a letter is a copy all the same: late data
    return Redriven(attempts, int(place[1]), int(place[2]), int(written) if _TIME.fullmatch(written) else -1)


def redrive(letter: DeadLetterEvent, *others: DeadLetterEvent, topic: str) -> Message:
    """Return the original record, byte for byte and for the partition it stood in, marked as redriven from `letter`.

    `others` are letters of other lanes about the same original: every lane that reads the topic reads the one copy.
    Raises `Permanent` for a letter that holds only the original's beginnings.
    """
    if letter.cut is not None:
        place = f"{letter.original_topic}[{letter.original_partition}] offset {letter.original_offset}"
        raise Permanent(
            f"letter {letter.id} has no room for its original ({letter.cut.value_bytes} bytes, {letter.cut.headers} headers)",
            hint=f"the whole is at {place} for as long as that topic keeps it; discard the letter once it is dealt with",
        )
    written = letter.original_timestamp
    # Kafka allows headers without a value, and clients send them; the type says what we write ourselves.
    headers: Headers = [(header.name, _bytes(header.value)) for header in letter.original_headers]  # type: ignore[misc]
    for one in (letter, *others):
        headers += [(LETTER, one.id.encode()), (ATTEMPTS, str(one.attempts).encode())]
    headers += [
        (SOURCE, f"{letter.original_partition}/{letter.original_offset}".encode()),
        (WRITTEN, b"" if written is None else str(round(written.timestamp() * 1000)).encode()),
    ]
    key, value = _bytes(letter.original_key), _bytes(letter.original_value)
    return Message(topic, key, value, headers, letter.original_partition)


def original(letter: DeadLetterEvent) -> bytes | None:
    """Return the original record's value."""
    return _bytes(letter.original_value)


def dead_letter(
    record: Any,
    error: BaseException,
    *,
    lane: str,
    failed_at: datetime,
    attempts: int = 1,
    model_digest: str = "",
    room: int | None = None,
) -> DeadLetterEvent:
    """Make the dead letter of a Kafka record. The same record and lane give the same id, however often it is read or redriven.

    Of a redriven record it is the original's letter: the original's place, time and headers. `attempts` are added to those before
    where it was this lane that failed then; a lane that fails on it for the first time makes a letter of its own.

    `room`: bytes that a record of the dead-letter topic may have. An original that does not fit is cut, and the letter says so
    (`Cut`): the letter of whatever a topic took can be written. The same original is cut the same.
    """
    source = redriven(record)
    partition, offset, timestamp = record.partition, record.offset, record.timestamp
    if source is not None:
        partition, offset, timestamp = source.partition, source.offset, source.written
    letter_id = _letter_id(lane, record.topic, partition, offset)
    if source is not None:
        attempts += source.attempts.get(letter_id, 0)
    headers = tuple((name, value) for name, value in record.headers if source is None or name not in _OURS)
    whole = _Original(record.key, record.value, headers)
    kept = whole if room is None else whole.within(room - _AROUND)
    cut = None if kept is whole else whole.sizes()
    stage = error.stage if isinstance(error, Poison) else "process"
    # An unforeseen exception's words may quote the input: only its kind and place are kept.
    message = (str(error) if isinstance(error, VigilError) else describe(error))[:_MOST_WORDS]
    if cut is not None:
        message += f" (cut, the original fits no letter: {cut.value_bytes} bytes, {cut.headers} headers)"
    peer, kind = _sender(record.value)
    return DeadLetterEvent(
        id=letter_id,
        lane=lane,
        stage=stage,
        error_class="Permanent" if isinstance(error, Permanent) else "Poison",
        error=type(error).__name__,
        message=message,
        attempts=attempts,
        model_digest=model_digest,
        peer=peer,
        message_type=kind,
        original_topic=record.topic,
        original_partition=partition,
        original_offset=offset,
        original_timestamp=datetime.fromtimestamp(timestamp / 1000, UTC) if timestamp >= 0 else None,
        original_key=_base64(kept.key),
        original_value=_base64(kept.value),
        original_headers=tuple(Header(name=name, value=_base64(value)) for name, value in kept.headers),
        cut=cut,
        tried_offset=record.offset,
        failed_at=failed_at,
    )


def failed_before(record: Any, lane: str) -> bool:
    """Tell whether a record is a copy of what this lane has failed on: its letter is known, and comes back."""
    source = redriven(record)
    return source is not None and _letter_id(lane, record.topic, source.partition, source.offset) in source.attempts


def _letter_id(lane: str, topic: str, partition: int, offset: int) -> str:
    return natural_id("dead-letter", lane, topic, partition, offset)


def _sender(value: bytes | None) -> tuple[str, str]:
    """Return the peer and the message type that an event says it is from, as far as it can be read and they look like such."""
    try:
        origin = orjson.loads(value or b"").get("origin")
        peer, kind = origin.get("peer"), origin.get("message_type")
    except (orjson.JSONDecodeError, AttributeError):
        return "", ""
    fits = isinstance(peer, str) and _PEER.fullmatch(peer)
    return str(peer) if fits else "", str(kind) if isinstance(kind, str) and _KIND.fullmatch(kind) else ""


@dataclass(frozen=True, slots=True)
class _Original:
    """A record's own bytes, or the beginnings of them."""

    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes | None], ...]

    def sizes(self) -> Cut:
        return Cut(
            key_bytes=len(self.key or b""),
            value_bytes=len(self.value or b""),
            headers=len(self.headers),
            header_bytes=sum(len(name.encode(errors="replace")) + len(value or b"") for name, value in self.headers),
            sha256=sha256(self.value or b"").hexdigest(),
        )

    def within(self, room: int) -> "_Original":
        """Return what fits so many bytes of a letter's record: itself, or first some of the key, then the value, then headers."""
        most = room // 16  # of a key: it stands in the letter and is the letter's own key too
        key = self.key if self.key is None else self.key[:most]
        left = room - _in_base64(key) - len(key or b"")
        value = self.value
        if value is not None and _in_base64(value) > left:
            value = value[: left // 4 * 3]
        left -= _in_base64(value)
        headers: list[tuple[str, bytes | None]] = []
        for name, data in self.headers:
            left -= _HEADER + len(json.dumps(name)) + _in_base64(data)
            if left < 0:
                break
            headers.append((name, data))
        if (key, value, len(headers)) == (self.key, self.value, len(self.headers)):
            return self
        return _Original(key, value, tuple(headers))


def _in_base64(data: bytes | None) -> int:
    return 0 if data is None else -(-len(data) // 3) * 4


def _base64(data: bytes | None) -> str | None:
    return None if data is None else b64encode(data).decode()


def _bytes(text: str | None) -> bytes | None:
    return None if text is None else b64decode(text)
