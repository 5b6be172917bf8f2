"""Character sets of HL7 v2 (MSH-18, table 0211) to text and back.

A message is decoded before it is split: in Shift_JIS, GB 18030 and Big5 the second byte of a character may equal a delimiter.
MSH-18 repeats: its first value is the set at the start, the others may be switched to by ISO 2022 escape sequences. Those are
decoded segment by segment, because a sender that forgets to switch back before the end of one must not garble the next.

What does not decode as declared is tried as UTF-8, then as the peer's fallback, and the outcome says so: text with a wrong
accent is better than no text, and a declared charset is wrong more often than the bytes are. Any byte decodes as ISO 8859, so
there (and for Windows-1252) the bytes are asked first: letters of it that make a whole message of UTF-8 do not occur, and where
control characters C1 stand, Windows meant its own quotes and dashes.
"""

import codecs
import re
from collections.abc import Sequence
from typing import Final

# HL7 table 0211 and the spellings seen in the field -> Python codec
TABLE_0211: Final[dict[str, str]] = {
    "": "ascii",
    "ASCII": "ascii",
    "ISO IR6": "ascii",
    "US-ASCII": "ascii",
    "ISO IR14": "shift_jis",  # JIS X 0201, one byte; Shift_JIS contains it
    "ISO IR13": "shift_jis",
    "ISO IR87": "iso2022_jp_ext",  # JIS X 0208
    "ISO IR159": "iso2022_jp_ext",  # JIS X 0212
    "GB 18030-2000": "gb18030",
    "KS X 1001": "euc_kr",
    "BIG-5": "big5hkscs",
    "UNICODE": "utf-8",
    "UNICODE UTF-8": "utf-8",
    "UTF-8": "utf-8",
    "UTF8": "utf-8",
    "UNICODE UTF-16": "utf-16",  # travels in files only: its bytes would break the frame
    "UNICODE UTF-32": "utf-32",
    "ISO IR100": "iso8859-1",
    "WINDOWS-1252": "cp1252",
    "CP1252": "cp1252",
    "SHIFT_JIS": "cp932",
    "SJIS": "cp932",
    "MS932": "cp932",
    "CP932": "cp932",
    "EUC-JP": "euc_jp",
    "ISO-2022-JP": "iso2022_jp_ext",
    "GB2312": "gb18030",
    "GBK": "gb18030",
    "EUC-KR": "euc_kr",
    "BIG5": "big5hkscs",
}
_LATIN: Final = re.compile(r"(?:ISO[ -]?)?8859[/_-]?(1[0-6]|[1-9])")
_C1: Final = re.compile("[\x80-\x9f]")
_WINDOWS: Final = {
    "iso8859-1": "cp1252",
    "iso8859-15": "cp1252",
    "iso8859-2": "cp1250",
    "iso8859-9": "cp1254",
}  # what is meant then
_OTHERWISE: Final = "the bytes are not of the declared character set"
_BOMS: Final = ((codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF32_LE, "utf-32"), (codecs.BOM_UTF32_BE, "utf-32"))
_BOMS_16: Final = ((codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))
_WIDE: Final = frozenset({"utf-16", "utf-32"})
_SWITCH: Final = (b"\x1b$", b"\x1b(")  # ISO 2022 designations


def codec_of(name: str) -> str | None:
    """Return the Python codec of a charset name, None for one that is not known. Never looks an arbitrary name up."""
    folded = " ".join(name.upper().split())
    if folded in TABLE_0211:
        return TABLE_0211[folded]
    latin = _LATIN.fullmatch(folded)
    return f"iso8859-{latin[1]}" if latin and latin[1] != "12" else None  # there never was a part 12


def declared(raw: bytes) -> tuple[str, ...]:
    """Read MSH-18 from the bytes of a message: the charset names, stripped; empty when there are none."""
    if not raw.startswith(b"MSH") or len(raw) < 5:
        return ()
    header = re.split(rb"[\r\n]", raw, maxsplit=1)[0]
    fields = header.split(raw[3:4])
    if len(fields) < 18:
        return ()
    repetition = fields[1][1:2]
    names = fields[17].split(repetition) if repetition else [fields[17]]
    return tuple(name.decode("ascii", "replace").strip() for name in names)


_WIDE_HEADERS: Final = tuple(
    (codec, tuple(name.encode(codec) for name in ("MSH", "FHS", "BHS")))
    for codec in ("utf-32-le", "utf-32-be", "utf-16-le", "utf-16-be")
)


def unwrap(raw: bytes) -> bytes:
    """Bring a file's bytes to what may travel: byte order marks are taken off, UTF-16 and UTF-32 become UTF-8.

    Wide encodings are known by their mark, or by the zeros around an `MSH` at the start.
    """
    for mark, codec in (*_BOMS, *_BOMS_16):
        if raw.startswith(mark):
            return raw[len(mark) :] if codec == "utf-8" else raw.decode(codec, "replace").encode()
    start = raw[:32].lstrip()
    for codec, headers in _WIDE_HEADERS:
        if start.startswith(headers):
            return raw.decode(codec, "replace").encode()
    return raw


def decode(raw: bytes, fallback: str) -> tuple[str, str, str]:
    """Decode a message as it declares. Returns the text, the codec that did it, and a warning ("" when all is as declared)."""
    names = declared(raw)
    known = [codec for name in names if (codec := codec_of(name))]
    warning = "" if len(known) == len(names) else "MSH-18 names an unknown character set"
    if raw.isascii() and not any(switch in raw for switch in _SWITCH):
        return raw.decode("ascii"), next((codec for codec in known if codec not in _WIDE), "ascii"), warning
    for codec in _candidates(raw, known):
        try:
            text = _strictly(raw, codec)
        except UnicodeDecodeError:
            continue
        if codec.startswith("iso8859") and _C1.search(text):
            return *_of_windows(raw, text, codec), warning or _OTHERWISE
        return text, codec, warning or _surprise(codec, known)
    return raw.decode(fallback, "replace"), fallback, warning or _OTHERWISE


def _of_windows(raw: bytes, text: str, codec: str) -> tuple[str, str]:
    """Return the text of bytes that Windows meant, and its codec; what they are as declared where it has no such bytes either."""
    try:
        return raw.decode(meant := _WINDOWS.get(codec, codec)), meant
    except UnicodeDecodeError:
        return text, codec


def _candidates(raw: bytes, known: Sequence[str]) -> list[str]:
    tried = [codec for codec in known if codec not in _WIDE]
    if any(switch in raw for switch in _SWITCH):  # escape sequences speak for themselves, even undeclared
        tried.insert(0, "iso2022_kr" if "euc_kr" in tried else "iso2022_jp_ext")
    elif tried and (tried[0].startswith("iso8859") or tried[0] == "cp1252"):
        tried.insert(0, "utf-8")
    return [*dict.fromkeys((*tried, "utf-8"))]


def _surprise(codec: str, known: Sequence[str]) -> str:
    if codec == "utf-8" and not _WIDE.isdisjoint(
        known
    ):  # a file's, which was brought to UTF-8 (`unwrap`), or a sender's mistake
        return "MSH-18 declares UTF-16 or UTF-32, which cannot travel over MLLP: read as UTF-8"
    return "" if codec in known or codec.startswith("iso2022") else "the bytes are UTF-8 and not of the declared character set"


def _strictly(raw: bytes, codec: str) -> str:
    if not codec.startswith("iso2022"):
        return raw.decode(codec)
    return "".join(part.decode(codec) for part in re.split(rb"(?<=[\r\n])", raw))
