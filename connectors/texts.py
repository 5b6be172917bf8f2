"""The text of an embedded document, whatever feed brought it: plain text, HTML, CDA, RTF, PDF (a scanned page has none)."""

import io
import logging
from collections.abc import Callable
from html.parser import HTMLParser
from typing import Final

TEXT_BYTES: Final = 8 * 2**20  # a report's text is far below; what is above is no text
PAGES: Final = 200
CHARACTERS: Final = 2_000_000

_BLOCKS: Final = frozenset(
    {"p", "br", "div", "tr", "li", "table", "section", "title", "paragraph", "item", "h1", "h2", "h3", "h4"}
)
_SILENT: Final = frozenset({"script", "style", "head"})


def text_of(data: bytes, kind: str, codec: str = "utf-8") -> str:
    """Return the text of a document. `kind`: its media type or other words that name the format; unknown ones are sniffed.

    `codec` is tried where the bytes are no UTF-8. Raises `ValueError` with the reason, not the content, when there is no text.
    """
    names = kind.lower()
    reader = next((read for word, read in _READERS if word in names), None) or _sniff(data)
    text = reader(data, codec).replace("\r\n", "\n").replace("\r", "\n").strip("\x00\ufeff \n")
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
    from pypdf import PdfReader  # on first use: 0.2 s

    logging.getLogger("pypdf").setLevel(logging.CRITICAL)  # it quotes what it stumbles over
    try:
        reader = PdfReader(io.BytesIO(data), strict=False)
        if reader.is_encrypted and not reader.decrypt(""):
            raise ValueError("embedded PDF is encrypted")
        if len(reader.pages) > PAGES:
            raise ValueError("embedded PDF has too many pages")
        text = ""
        for page in reader.pages:
            text += page.extract_text() + "\n"
            if len(text) > CHARACTERS:
                raise ValueError("embedded PDF is too long")
    except ValueError as error:
        if str(error).startswith("embedded PDF"):
            raise
        raise ValueError("embedded PDF that cannot be read") from None
    except Exception:  # a parser of foreign data may fail in any way; its message may quote the document
        raise ValueError("embedded PDF that cannot be read") from None
    return text


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
