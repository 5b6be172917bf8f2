"""Several messages in one: batch files (FHS, BHS, chapter 2.10.3), and files as people keep them, cut into single messages.

A batch's headers and trailers carry no patient data and are left out. Messages are answered one by one, not with a batch of
answers: a sender that sends batches over MLLP reads one answer for each message, in order. A frame with a batch without a message
is handed on as it is, and refused: over MLLP silence tells its sender nothing, and it would wait for its time-out.
"""

import re
from collections.abc import Iterator
from typing import Final

from connectors.hl7.charsets import unwrap

ENVELOPE: Final = frozenset({b"FHS", b"BHS", b"BTS", b"FTS"})
_LINE: Final = re.compile(rb"[^\r\n]*(?:\r\n|\r|\n|\Z)")
_MARKS: Final = bytes.maketrans(b"\x0b\x1c", b"\r\r")


def is_several(frame: bytes) -> bool:
    """Whether a frame is a batch or holds more than one message: the quick look that most frames need only."""
    head = frame[:16].lstrip(b"\xef\xbb\xbf \t\r\n")
    return head[:3] in ENVELOPE or b"\rMSH" in frame or b"\nMSH" in frame


def of_frame(frame: bytes) -> Iterator[bytes]:
    """Cut a frame into what is answered one by one: never nothing, since its sender waits for an answer."""
    empty = True
    if is_several(frame):
        for message in messages(frame):
            empty = False
            yield message
    if empty:
        yield frame


def messages(content: bytes) -> Iterator[bytes]:
    """Cut the content of a frame or a file into messages.

    Bytes before the first MSH come out as a piece of their own, so that nothing is left out without an outcome. MLLP marks (a
    capture of the wire) are taken for line ends, UTF-16 and UTF-32 (files only) become UTF-8.
    """
    content = unwrap(content).translate(_MARKS)
    piece: list[bytes] = []
    for found in _LINE.finditer(content):
        line = found[0]
        name = line.lstrip()[:3]
        if name in ENVELOPE and _is_header(line.lstrip()):
            continue
        if name == b"MSH" and _is_header(line.lstrip()) and piece:
            yield from _whole(piece)
            piece = []
        piece.append(line)
    yield from _whole(piece)


def miscounted(content: bytes) -> Iterator[tuple[str, int, int]]:
    """Yield each trailer of a file whose count is not what came: BTS-1 messages, FTS-1 batches (chapter 2.14.2); said, found."""
    found_messages = batches = 0
    for found in _LINE.finditer(unwrap(content).translate(_MARKS)):
        line = found[0].strip()
        name = line[:3]
        if not _is_header(line):
            continue
        if name == b"MSH":
            found_messages += 1
        elif name in (b"FHS", b"BHS"):
            found_messages = 0
            batches = 0 if name == b"FHS" else batches + 1
        elif name in (b"BTS", b"FTS"):
            said = line.split(line[3:4] or b"|")[1:2]
            count = found_messages if name == b"BTS" else batches
            implied = name == b"FTS" and not batches  # without BHS a file is one batch
            if said and said[0].isdigit() and int(said[0]) != count and not implied:
                yield name.decode(), int(said[0]), count


def _is_header(line: bytes) -> bool:
    return not line[3:4].isalnum()


def _whole(piece: list[bytes]) -> Iterator[bytes]:
    message = b"".join(piece).strip(b"\r\n\x00 \t")
    if message:
        yield message
