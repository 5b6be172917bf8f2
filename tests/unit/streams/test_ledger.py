"""The commit algorithm: never past an unsettled record, whatever settles when."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

import pytest
from aiokafka import TopicPartition
from hypothesis import given
from hypothesis import strategies as st

from streams.ledger import Ledger, Slice

TP = TopicPartition("t", 0)


@dataclass
class Record:
    offset: int
    value: bytes = b"xx"
    key: bytes | None = b"k"


def ledger() -> Ledger:
    return Ledger(TP, asyncio.Event())


def records(offsets: Sequence[int]) -> list[Record]:
    return [Record(offset) for offset in offsets]


def test_nothing_may_be_committed_before_the_first_slice_is_settled() -> None:
    book = ledger()
    first, second = book.enter(records([0, 1])), book.enter(records([2]))
    second.settle()
    assert book.settled_end() is None  # Faust would commit 3 here (faust Consumer._new_offset)
    first.settle()
    assert book.settled_end() == 3


def test_gaps_in_the_offsets_do_not_matter() -> None:
    book = ledger()
    a, b = book.enter(records([5, 9])), book.enter(records([20, 30]))
    a.settle()
    assert book.settled_end() == 10
    b.settle()
    assert book.settled_end() == 31


def test_a_failed_commit_forgets_nothing() -> None:
    book = ledger()
    book.enter(records([0])).settle()
    assert book.settled_end() == 1
    assert book.settled_end() == 1  # the commit failed: the next one carries it
    book.forget(1)
    assert book.settled_end() is None
    assert (book.records, book.bytes, book.committed) == (0, 0, 1)


def test_records_taken_in_twice_are_a_fault_of_the_intake_and_said_so() -> None:
    book = ledger()
    book.enter(records([4, 5]))
    with pytest.raises(AssertionError, match="taken in again"):
        book.enter(records([5]))


def test_the_bound_counts_records_and_bytes() -> None:
    book = ledger()
    book.enter(records(range(10)))
    assert book.full(10, 10_000)
    assert not book.full(11, 10_000)
    assert book.full(11, 30)


@given(st.lists(st.integers(1, 5), min_size=1, max_size=30), st.randoms())
def test_whatever_settles_when_the_end_never_passes_an_unsettled_record(sizes: list[int], rng: object) -> None:
    book = ledger()
    pieces: list[Slice] = []
    offset = 0
    for size in sizes:
        pieces.append(book.enter(records(range(offset, offset + size))))
        offset += size
    order = list(pieces)
    rng.shuffle(order)  # type: ignore[attr-defined]
    for piece in order:
        piece.settle()
        end = book.settled_end()
        unsettled = min((p.records[0].offset for p in pieces if not p.settled), default=offset)
        assert end is None or end <= unsettled
        if end is not None:
            assert end == unsettled if unsettled == offset else end <= unsettled
            if rng.random() < 0.5:  # type: ignore[attr-defined]
                book.forget(end)
    assert book.settled_end() in (offset, None)
    assert book.oldest_unsettled() is None
