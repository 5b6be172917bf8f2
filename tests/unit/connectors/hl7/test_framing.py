from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectors.hl7.framing import CR, END, HEAD_BYTES, START, Framer, Oversize, frame

MESSAGE = b"MSH|^~\\&|A|B\rPID|1"
LIMIT = 10_000


def fed(*pieces: bytes, limit: int = LIMIT) -> tuple[list[bytes | Oversize], Framer]:
    framer = Framer(limit)
    return [one for piece in pieces for one in framer.feed(piece)], framer


def test_one_frame() -> None:
    frames, framer = fed(frame(MESSAGE))
    assert frames == [MESSAGE]
    assert (framer.garbage, framer.broken, framer.inside, framer.buffered) == (0, 0, False, 0)


def test_many_frames_in_one_segment() -> None:
    assert fed(frame(b"MSH1") + frame(b"MSH2") + frame(b"MSH3"))[0] == [b"MSH1", b"MSH2", b"MSH3"]


def test_garbage_between_frames_is_dropped_and_counted_but_line_ends_are_not() -> None:
    frames, framer = fed(b"hello\r\n" + frame(MESSAGE) + b"\r\n\x00" + frame(MESSAGE) + b"xx")
    assert frames == [MESSAGE, MESSAGE]
    assert framer.garbage == 7


def test_end_without_carriage_return_before_the_next_frame() -> None:
    frames, framer = fed(b"\x0bMSH|1\x1c\x0bMSH|2\x1c\r")
    assert frames == [b"MSH|1", b"MSH|2"]
    assert framer.broken == 0


def test_end_without_carriage_return_is_decided_by_silence() -> None:
    frames, framer = fed(b"\x0bMSH|1\x1c")
    assert frames == []
    assert framer.ending
    assert framer.end_of_silence() == [b"MSH|1"]
    assert not framer.inside
    assert framer.end_of_silence() == []


def test_end_mark_inside_text_stays_text() -> None:
    assert fed(b"\x0bMSH|a\x1cb\x1c\r")[0] == [b"MSH|a\x1cb"]


def test_start_mark_inside_text_stays_text() -> None:
    assert fed(b"\x0bMSH|pasted\x0btext\x1c\r")[0] == [b"MSH|pasted\x0btext"]


def test_half_frame_before_a_new_one_is_dropped_and_counted() -> None:
    frames, framer = fed(b"\x0bMSH|half\rPID", b"|1\x0bMS", b"H|whole\x1c\r")
    assert frames == [b"MSH|whole"]
    assert framer.broken == 1


def test_half_frame_at_the_end_of_the_connection_is_counted() -> None:
    _, framer = fed(b"\x0bMSH|half")
    framer.close()
    assert framer.broken == 1
    assert framer.buffered == 0


def test_empty_frame_is_a_frame() -> None:
    assert fed(b"\x0b\x1c\r")[0] == [b""]


def test_oversize_keeps_the_head_and_memory_is_bounded() -> None:
    framer = Framer(LIMIT)
    found = framer.feed(b"\x0bMSH|big|")
    for _ in range(1000):
        found += framer.feed(b"x" * 1000)
        assert framer.buffered <= LIMIT + 1000
    found += framer.feed(b"\x1c\r" + frame(MESSAGE))
    assert found == [Oversize((b"MSH|big|" + b"x" * HEAD_BYTES)[:HEAD_BYTES]), MESSAGE]


def test_oversize_in_one_read() -> None:
    assert fed(frame(b"MSH" + b"x" * LIMIT))[0] == [Oversize((b"MSH" + b"x" * LIMIT)[:HEAD_BYTES])]


def test_oversize_whose_end_mark_is_the_last_byte_of_a_read() -> None:
    assert fed(b"\x0b" + b"x" * (LIMIT + 5) + b"\x1c", b"\r" + frame(MESSAGE))[0] == [Oversize(b"x" * HEAD_BYTES), MESSAGE]


def test_the_limit_itself_still_fits() -> None:
    assert fed(frame(b"x" * LIMIT))[0] == [b"x" * LIMIT]


payload = st.binary(max_size=60).map(lambda raw: raw.replace(b"\x1c", b"").replace(b"\x0b", b""))


@given(messages=st.lists(payload, max_size=8), cuts=st.lists(st.integers(0, 600), max_size=12))
def test_where_the_stream_is_cut_does_not_matter(messages: list[bytes], cuts: list[int]) -> None:
    stream = b"".join(map(frame, messages))
    edges = [0, *sorted(min(cut, len(stream)) for cut in cuts), len(stream)]
    pieces = [stream[a:b] for a, b in pairwise(edges)]
    frames, framer = fed(*pieces)
    assert frames == messages
    assert framer.garbage == framer.broken == 0


noise = st.lists(
    st.one_of(
        st.sampled_from(
            [b"\x0b", b"\x1c", b"\r", b"\x1c\r", b"\x0bMSH", b"MSH", b"M", b"\n", b"FHS", b"\x00", b"\xef\xbb\xbf"]
        ),
        st.binary(max_size=40),
    ),
    max_size=40,
)


@given(pieces=noise)
def test_any_bytes_in_any_pieces_give_the_same_frames_in_bounded_memory(pieces: list[bytes]) -> None:
    together, one = fed(b"".join(pieces), limit=50)
    framer = Framer(50)
    apart: list[bytes | Oversize] = []
    for piece in pieces:
        for n in range(len(piece)):
            apart += framer.feed(piece[n : n + 1])
            assert framer.buffered <= 50 + 4
    assert apart == together
    assert (framer.garbage, framer.broken, framer.inside) == (one.garbage, one.broken, one.inside)


@given(pieces=noise)
def test_a_frame_after_any_noise_is_found_once_silence_has_closed_what_was_open(pieces: list[bytes]) -> None:
    framer = Framer(200)
    for piece in pieces:
        framer.feed(piece)
    framer.end_of_silence()
    assert framer.feed(frame(MESSAGE))[-1:] == [MESSAGE]


@pytest.mark.parametrize("pending", [END, START, START + b"M", START + b"\xef\xbb"])
def test_a_mark_at_the_end_of_every_read_does_not_let_an_oversized_frame_grow(pending: bytes) -> None:
    """Found by fuzzing: the limit was not looked at while the byte behind a mark was waited for."""
    framer = Framer(4096)
    framer.feed(START + b"MSH|")
    for _ in range(50):
        assert framer.feed(b"x" * 1000 + pending) == []
        assert framer.buffered <= 4096 + 1000 + len(pending)
    (oversize,) = framer.feed(b"x" + END + CR)
    assert isinstance(oversize, Oversize)
    assert framer.feed(frame(b"MSH|^~")) == [b"MSH|^~"]
