"""A letter, its redriven record, and the letter that comes of that again."""

from dataclasses import dataclass, replace
from datetime import UTC, datetime
from hashlib import sha256

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.errors import Permanent, Poison
from processors.events import DeadLetterEvent
from streams.deadletters import ATTEMPTS, LETTER, SOURCE, WRITTEN, dead_letter, original, redrive, redriven
from streams.wire import encode

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
LATER = datetime(2026, 1, 2, 12, tzinfo=UTC)


@dataclass(frozen=True)
class Record:
    key: bytes | None = b"patient"
    value: bytes | None = b"{}"
    headers: tuple[tuple[str, bytes | None], ...] = (("ce_id", b"1"),)
    timestamp: int = 1_700_000_000_123
    topic: str = "site.clinical.notes"
    partition: int = 3
    offset: int = 41


def _letter(record: Record, lane: str = "notes-entities", at: datetime = NOON) -> DeadLetterEvent:
    return dead_letter(record, Poison("cannot", stage="model"), lane=lane, failed_at=at)


def _written(letter: DeadLetterEvent, *others: DeadLetterEvent) -> Record:
    """The redriven record as a lane reads it."""
    message = redrive(letter, *others, topic="clinical.notes")
    assert message.partition == letter.original_partition
    now = round(LATER.timestamp() * 1000)
    return Record(message.key, message.value, tuple(message.headers), now, partition=message.partition, offset=900)


names = st.sampled_from(["ce_id", "traceparent", "x", "", LETTER.upper()])
records = st.builds(
    Record,
    key=st.none() | st.binary(max_size=20),
    value=st.none() | st.binary(max_size=200),
    headers=st.lists(st.tuples(names, st.none() | st.binary(max_size=9)), max_size=5).map(tuple),
    timestamp=st.integers(0, 4_000_000_000_000) | st.just(-1),
    partition=st.integers(0, 99),
    offset=st.integers(0, 10**15),
)


@given(records, st.integers(1, 5))
def test_a_second_failure_returns_as_the_same_letter_with_the_attempts_added_up(record: Record, times: int) -> None:
    first = letter = _letter(record)
    for _ in range(times):
        letter = _letter(_written(letter), at=LATER)
    assert letter == first.model_copy(update={"attempts": 1 + times, "failed_at": LATER, "tried_offset": 900})
    assert original(letter) == record.value


@given(records)
def test_what_is_redriven_is_the_original_byte_for_byte_and_four_headers(record: Record) -> None:
    written = _written(_letter(record))
    assert (written.key, written.value, written.headers[:-4]) == (record.key, record.value, record.headers)
    assert {name for name, _ in written.headers[-4:]} == {LETTER, ATTEMPTS, SOURCE, WRITTEN}


def test_another_lane_that_fails_on_it_makes_a_letter_of_its_own_about_the_original() -> None:
    record = Record()
    letter = _letter(record)
    other = _letter(_written(letter), lane="notes-vectors")
    assert other.id == _letter(record, lane="notes-vectors").id != letter.id
    assert (other.attempts, other.original_offset) == (1, record.offset)


def test_one_copy_goes_on_with_the_attempts_of_each_lanes_letter() -> None:
    record = Record()
    mine = _letter(record).model_copy(update={"attempts": 4})
    other = _letter(record, lane="notes-vectors")
    for copy in (_written(mine, other), _written(other, mine)):
        assert copy.headers[:-6] == record.headers
        assert _letter(copy).attempts == 5
        assert _letter(copy, lane="notes-vectors").attempts == 2
        assert _letter(copy, lane="a-third").attempts == 1


def test_a_copy_that_names_no_letter_is_redriven_all_the_same() -> None:
    copy = _written(_letter(Record()))
    nameless = replace(copy, headers=tuple(one for one in copy.headers if one[0] != LETTER))
    source = redriven(nameless)
    assert source is not None and not source.attempts
    assert _letter(nameless) == _letter(copy).model_copy(update={"attempts": 1})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        (SOURCE, b"3"),
        (SOURCE, b"-1/2"),
        (SOURCE, b"3/x"),
        (SOURCE, b"\xff/1"),
        (ATTEMPTS, b"0"),
        (ATTEMPTS, b"many"),
        (ATTEMPTS, b""),
    ],
)
def test_headers_that_make_no_sense_are_a_records_own(name: str, value: bytes) -> None:
    good = _written(_letter(Record()))
    assert redriven(good) is not None
    bad = replace(good, headers=tuple((n, value if n == name else v) for n, v in good.headers))
    assert redriven(bad) is None
    letter = _letter(bad)
    assert (letter.original_offset, letter.attempts, len(letter.original_headers)) == (900, 1, len(bad.headers))


def test_a_record_without_headers_is_not_redriven() -> None:
    assert redriven(Record(headers=())) is None


@given(records, st.integers(17_000, 40_000), st.integers(0, 60_000), st.integers(0, 2000), st.integers(0, 60_000))
@settings(max_examples=50, deadline=None)
def test_a_letter_always_fits_its_room_and_keeps_what_it_can(
    record: Record, room: int, key: int, headers: int, value: int
) -> None:
    giant = replace(record, key=b"k" * key, value=b"v" * value, headers=(("name", b"x"),) * headers)
    letter = dead_letter(giant, Poison("cannot"), lane="x", failed_at=NOON, room=room)
    message = encode(letter, source="/vigil/site/lanes/x", time=b"2026-01-01T12:00:00.000Z")
    size = sum(len(part or b"") for part in (message.key, message.value, *(v for _, v in message.headers)))
    assert size <= room
    assert giant.value is not None and giant.value.startswith(original(letter) or b"")
    whole = dead_letter(giant, Poison("cannot"), lane="x", failed_at=NOON)
    if letter.cut is None:
        assert letter == whole
    else:
        assert (letter.cut.key_bytes, letter.cut.value_bytes, letter.cut.headers) == (key, value, headers)
        assert letter.cut.sha256 == sha256(giant.value).hexdigest()
        with pytest.raises(Permanent):
            redrive(letter, topic="clinical.notes")
