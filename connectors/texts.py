"""The text of an embedded document, whatever feed brought it: plain text, HTML, CDA, RTF, PDF (a scanned page has none).

Of a MIME package (how HL7's CDA standard puts a CDA into an ED value) it is that of the first part that has one, or of all of a
`multipart/mixed`. Base64 is never a text: what stays base64 has none.
"""

import binascii
import re
from base64 import b64decode
from collections.abc import Callable
from email import message_from_bytes
from html import escape, unescape
from typing import Final

from connectors.pdf import text_of_pdf

TEXT_BYTES: Final = 8 * 2**20  # a report's text is far below; what is above is no text

_BLOCKS: Final = frozenset(
    {"p", "br", "div", "tr", "li", "table", "section", "title", "paragraph", "item", "h1", "h2", "h3", "h4"}
)
_SILENT: Final = frozenset({"script", "style", "head"})
# What a document shows by its beginning, whatever is said of it: no sentence of a report begins so
_RTF: Final = re.compile(r"[\s\ufeff]*\{\\rtf")
_MIME: Final = re.compile(r"\s*(?:mime-version:|content-type:\s*multipart/)", re.I)
_XML: Final = re.compile(r"[\s\ufeff]*<(?:\?xml\b|!doctype\b|html\b|(?:\w+:)?clinicaldocument\b)", re.I)
_FRAGMENT: Final = re.compile(
    r"\s*<(p|div|span|body|table|h[1-6]|ul|ol|pre|center|section|b|i|u|strong|em|font)\b[^<>]*>", re.I
)
_HEAD: Final = 200
_ENCODED: Final = re.compile(r"[A-Za-z0-9+/]{60}[A-Za-z0-9+/\r\n]*={0,2}")  # a line without a blank that long is no word
_PACKAGES: Final = 16  # packages inside a package: each is read once more for all that it stands in
_UNREADABLE: Final = "embedded data that cannot be read"
_TAG: Final = re.compile(r"([/!?]?)([a-z][a-z0-9:._-]{0,40})")


def text_of(data: bytes, kind: str, codec: str = "utf-8") -> str:
    """Return the text of a document. `kind`: its media type or other words that name the format, where it does not show it itself.

    `codec` is tried where the bytes are no UTF-8. Raises `ValueError` with the reason, not the content, when there is no text.
    """
    reader = _reader(data, kind.lower())
    try:
        text = reader(data, codec)
    except ValueError as error:
        raise ValueError(str(error) if str(error).startswith("embedded") else _UNREADABLE) from None
    except Exception:  # a reader of foreign data may fail in any way; its message may quote the document
        raise ValueError(_UNREADABLE) from None
    text = text.replace("\r\n", "\n").replace("\r", "\n").strip("\x00\ufeff \n")
    if not text.strip():
        raise ValueError("embedded data without text")
    if is_base64(text):
        raise ValueError("embedded data that is base64 once more")
    return text


def text_of_words(words: str) -> str:
    """Return the text of what a feed has as text: of a document that stands there whole (RTF, HTML, CDA, base64), else itself.

    Raises `ValueError` as `text_of` does.
    """
    if begins_document(words):
        return text_of(words.encode(), "")
    if (tag := _FRAGMENT.match(words)) and f"</{tag[1].lower()}" in words.lower():
        return text_of(words.encode(), "html")
    if is_base64(words):
        try:
            data = b64decode("".join(words.split()), validate=True)
        except binascii.Error:
            raise ValueError("text that is base64 and cannot be decoded") from None
        return text_of(data, "")
    return words


def begins_document(words: str) -> bool:
    """Whether text begins as RTF, HTML, CDA or a MIME package do."""
    head = words[:_HEAD]
    return any(beginning.match(head) for beginning in (_RTF, _MIME, _XML))


def is_base64(text: str) -> bool:
    """Whether a text is nothing but base64, and enough of it: letters of both cases, digits, and no blank."""
    return bool(_ENCODED.fullmatch(text.strip())) and all(re.search(some, text) for some in ("[a-z]", "[A-Z]", "[0-9]"))


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


def _package(data: bytes, codec: str) -> str:
    """Take a MIME package apart. One whose own header went with the value that it came in begins with its boundary."""
    lower = data.lower()
    if len(data) > TEXT_BYTES or lower.count(b"multipart/") + lower.count(b"mime-version:") > _PACKAGES:
        raise ValueError("embedded package is too large")
    if (start := data.lstrip()).startswith(b"--"):
        boundary = start.split(b"\n", 1)[0].strip().removeprefix(b"--")
        data = b'Content-Type: multipart/related; boundary="%s"\n\n%s' % (boundary, start)
    elif not _MIME.match(_head(data)):
        return text_of(data, "", codec)  # it says so, and is none
    package = message_from_bytes(data.lstrip())
    found: list[str] = []
    reason = "embedded package without text"
    for part in package.walk():
        payload = part.get_payload(decode=True)
        if part.get_content_maintype() == "multipart" or not isinstance(payload, bytes):
            continue  # a package within, or one whose boundary is not there
        try:
            found.append(text_of(payload, part.get_content_type(), part.get_content_charset() or codec))
        except ValueError as error:
            reason = str(error)
            continue
        if package.get_content_subtype() != "mixed":
            break
    if not found:
        raise ValueError(reason)
    return "\n".join(found)


def _rtf(data: bytes, codec: str) -> str:
    from striprtf.striprtf import rtf_to_text

    return str(rtf_to_text(_plain(data, codec), errors="replace"))


def _pdf(data: bytes, codec: str) -> str:
    return text_of_pdf(data)


Reader = Callable[[bytes, str], str]
_READERS: Final[tuple[tuple[str, Reader], ...]] = (
    ("multipart", _package),
    ("pdf", _pdf),
    ("rtf", _rtf),
    ("html", _markup),
    ("xml", _markup),
    ("cda", _markup),
)


def _reader(data: bytes, names: str) -> Reader:
    head = _head(data)
    if head.lstrip().startswith("%PDF"):
        return _pdf
    if _RTF.match(head):
        return _rtf
    if _MIME.match(head):
        return _package
    named = next((read for word, read in _READERS if word in names), None)
    return named or (_markup if _XML.match(head) else _plain)


def _head(data: bytes) -> str:
    return data[:_HEAD].removeprefix(b"\xef\xbb\xbf").decode("latin-1")
