"""The text of an ED value (encapsulated data, chapter 2A): base64, hexadecimal or plain; text, HTML, CDA, RTF, PDF."""

import binascii
from base64 import b64decode
from collections.abc import Callable
from html.parser import HTMLParser
from typing import Final

from connectors.hl7.message import Segment

TEXT_BYTES: Final = 8 * 2**20  # a report's text is far below; what is above is no text

_BLOCKS: Final = frozenset(
    {"p", "br", "div", "tr", "li", "table", "section", "title", "paragraph", "item", "h1", "h2", "h3", "h4"}
)
_SILENT: Final = frozenset({"script", "style", "head"})


def text_of(obx: Segment, codec: str) -> str:
    """Return the text of an OBX-5 of type ED. Raises `ValueError` with the reason, not the content, when there is none."""
    data = _data(obx)
    names = " ".join(obx.get(5, n) for n in (2, 3)).lower()
    reader = next((read for word, read in _READERS if word in names), None) or _sniff(data)
    text = reader(data, codec).replace("\r\n", "\n").replace("\r", "\n").strip("\x00\ufeff \n")
    if not text.strip():
        raise ValueError("embedded data without text")
    return text


def _data(obx: Segment) -> bytes:
    encoding = obx.get(5, 4).lower()
    content = obx.get(5, 5)
    if not content:
        raise ValueError("embedded data is empty")
    try:
        if encoding == "base64":
            return b64decode("".join(content.split()), validate=True)
        if encoding == "hex":
            return bytes.fromhex(content)
    except (binascii.Error, ValueError):
        raise ValueError(f"embedded data is not {encoding}") from None
    if encoding in ("a", ""):
        return content.encode()
    raise ValueError("embedded data in an unknown encoding")


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


class _Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.parts: list[str] = []
        self._silent = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._silent += tag in _SILENT
        if tag in _BLOCKS:
            self.parts.append("\n")

    def handle_endtag(self, tag: str) -> None:
        self._silent = max(0, self._silent - (tag in _SILENT))
        if tag in _BLOCKS:
            self.parts.append("\n")

    def handle_data(self, data: str) -> None:
        if not self._silent:
            self.parts.append(data)


def _markup(data: bytes, codec: str) -> str:
    tags = _Tags()
    tags.feed(_plain(data, codec))
    tags.close()
    lines = (" ".join(line.split()) for line in "".join(tags.parts).splitlines())
    return "\n".join(line for line in lines if line)


def _rtf(data: bytes, codec: str) -> str:
    from striprtf.striprtf import rtf_to_text

    try:
        return str(rtf_to_text(_plain(data, codec), errors="replace"))
    except Exception:  # a converter of foreign data may fail in any way; its message may quote the document
        raise ValueError("embedded RTF that cannot be read") from None


def _pdf(data: bytes, codec: str) -> str:
    from connectors.hl7.mapping.pdf import text_of_pdf

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
