"""The text of an embedded document, whatever feed brought it: plain text, HTML, CDA, RTF, PDF (a scanned page has none)."""

import re
from collections.abc import Callable
from html import escape, unescape
from typing import Final

from connectors.pdf import text_of_pdf

TEXT_BYTES: Final = 8 * 2**20  # a report's text is far below; what is above is no text

_BLOCKS: Final = frozenset(
    {"p", "br", "div", "tr", "li", "table", "section", "title", "paragraph", "item", "h1", "h2", "h3", "h4"}
)
_SILENT: Final = frozenset({"script", "style", "head"})
_UNREADABLE: Final = "embedded data that cannot be read"
_TAG: Final = re.compile(r"([/!?]?)([a-z][a-z0-9:._-]{0,40})")


def text_of(data: bytes, kind: str, codec: str = "utf-8") -> str:
    """Return the text of a document. `kind`: its media type or other words that name the format; unknown ones are sniffed.

    `codec` is tried where the bytes are no UTF-8. Raises `ValueError` with the reason, not the content, when there is no text.
    """
    names = kind.lower()
    reader = next((read for word, read in _READERS if word in names), None) or _sniff(data)
    try:
        text = reader(data, codec)
    except ValueError as error:
        raise ValueError(str(error) if str(error).startswith("embedded") else _UNREADABLE) from None
    except Exception:  # a reader of foreign data may fail in any way; its message may quote the document
        raise ValueError(_UNREADABLE) from None
    text = text.replace("\r\n", "\n").replace("\r", "\n").strip("\x00\ufeff \n")
    if not text.strip():
        raise ValueError("embedded data without text")
    return text


def _plain(data: bytes, codec: str) -> str:
    if len(data) > TEXT_BYTES:
        raise ValueError("embedded text is too large")
    for name in ("utf-8-sig", codec, "cp1252", "latin-1"):  # the last takes anything
        try:
            text = data.decode(name)
        except (UnicodeDecodeError, LookupError):
            continue
        break
    if "\x00" in text or sum(c < " " and c not in "\t\n\r\f" for c in text) > len(text) // 20:
        raise ValueError("embedded data is not text")
    return text


def _markup(data: bytes, codec: str) -> str:
    """Take the tags off. Own code, in linear time: Python's parser raises on `<![x`, and takes the square of a hostile length."""
    source = _plain(data, codec)
    lower = source.lower()
    parts: list[str] = []
    at = 0
    while (start := source.find("<", at)) >= 0:
        parts.append(source[at:start])
        at = _after_tag(source, lower, start, parts)
    parts.append(source[at:])
    lines = (" ".join(line.split()) for line in unescape("".join(parts)).splitlines())
    return "\n".join(line for line in lines if line)


def _after_tag(source: str, lower: str, start: int, parts: list[str]) -> int:
    """Return where the text goes on after what begins at a `<`; what the tag means to the text is added to the parts."""
    if source.startswith("<!--", start):
        return _past(source, "-->", start + 4)
    if source.startswith("<![CDATA[", start):
        end = _past(source, "]]>", start + 9)
        parts.append(escape(source[start + 9 : end].removesuffix("]]>")))
        return end
    tag = _TAG.match(lower, start + 1)
    if not tag:
        parts.append("<")  # `BP < 90` is text
        return start + 1
    end = _past(source, ">", tag.end())
    name = tag[2].rpartition(":")[2]
    if name in _BLOCKS:
        parts.append("\n")
    if name in _SILENT and not tag[1]:
        closing = lower.find(f"</{name}", end)
        return len(source) if closing < 0 else closing
    return end


def _past(text: str, mark: str, start: int) -> int:
    found = text.find(mark, start)
    return len(text) if found < 0 else found + len(mark)


def _rtf(data: bytes, codec: str) -> str:
    from striprtf.striprtf import rtf_to_text

    return str(rtf_to_text(_plain(data, codec), errors="replace"))


def _pdf(data: bytes, codec: str) -> str:
    return text_of_pdf(data)


Reader = Callable[[bytes, str], str]
_READERS: Final[tuple[tuple[str, Reader], ...]] = (
    ("pdf", _pdf),
    ("rtf", _rtf),
    ("html", _markup),
    ("xml", _markup),
    ("cda", _markup),
)


def _sniff(data: bytes) -> Reader:
    head = data[:64].lstrip()
    if head.startswith(b"%PDF"):
        return _pdf
    if head.startswith(b"{\\rtf"):
        return _rtf
    return _markup if head[:6].lower() in (b"<?xml ", b"<html>") or head[:9].lower() == b"<!doctype" else _plain
