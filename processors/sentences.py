"""Where the sentences of a clinical text begin: what assertion is scoped by and what chunks are cut at.

Clinical notes break sentences by full stops, by lines, by bullets, by numbers ("1) no effusion 2) pneumonia") and by blank
lines, and wrap them in the middle as well (HL7 sends a report as one OBX per line). So a line end is a border only where the text
around it says so. Offsets are characters of the text as given; no character is changed, so that CRLF, tabs and any Unicode keep
their place.
"""

import re
from collections.abc import Iterator
from typing import Final

# A stop with what may stand behind it (quotes, a citation's number) and blanks, or a run of line ends.
_CANDIDATE: Final = re.compile(r"(?:[.!?]+[\"'”’)\]]*|(?<=[a-z)])\.\d{1,2}(?:[,–-]\d{1,2})*)\s+|[ \t\u00a0]*[\r\n]\s*")

# "Dr. Li", "vs. placebo", "approx. 3 cm": a full stop that ends no sentence. Compared in lower case, without the stop.
_STOPPED: Final = """
dr mr mrs ms prof st no nos prev vs v approx ca cf eg e.g ie i.e al fig figs ref resp incl excl est max min temp wt ht hr
hrs wk wks mo mos yr yrs yo sec inj tab tabs cap caps susp sol amp vol dept hosp med mg ml kg cm mm hx fx tx dx rx sx
b.i.d t.i.d q.i.d q.d q.h p.o p.r.n i.v i.m s.c p.r a.m p.m o.d b.d t.d.s
"""
ABBREVIATIONS: Final = frozenset(_STOPPED.split())
# After a single capital letter ("vitamin C. He ...") these say that a sentence begins; a name ("J. Smith") does not.
_OPENERS: Final = re.compile(r"(?:The|There|This|These|He|She|It|They|We|His|Her|No|Not|On|In|At|After|Patient|A|An)\b")
_BULLET: Final = re.compile(r"(?:[-*•·–—>#]|\(?\d{1,2}[.)](?!\d)|\(?[a-zA-Z][.)]\s)")
_NUMBERED: Final = re.compile(r"(?<![^\s:;,.])\(?(\d{1,2})\)(?=\s)")
_WRAPPED: Final = 55  # a line at least this long that ends without a stop has been wrapped, even when a capital follows


def sentence_starts(text: str) -> list[int]:
    """Return the offset of each sentence's first character, ascending, the first always 0; [] for an empty text."""
    if not text:
        return []
    starts = [0]
    line = 0
    for candidate in _CANDIDATE.finditer(text):
        begin, end = candidate.span()
        if end >= len(text):
            break
        gap = candidate.group()
        breaks = "\n" in gap or "\r" in gap
        if gap[0] in ".!?":
            border = _ends_sentence(text, starts[-1], begin, end) or (breaks and not text[end].islower())
        else:
            border = _line_is_border(text, line, begin, end, gap)
        if border:
            starts.append(end)
        if breaks:
            line = end
    return sorted({*starts, *_numbered(text)}) if "2)" in text else starts


def _numbered(text: str) -> Iterator[int]:
    """Find the items of lists inside a line, "1) ... 2) ...": a number behind its predecessor."""
    before = 0
    for item in _NUMBERED.finditer(text):
        number = int(item[1])
        if number > 1 and number == before + 1:
            yield item.start()
        before = number


def _ends_sentence(text: str, floor: int, stop: int, after: int) -> bool:
    following = text[after]
    if following.islower() or stop == floor or text[stop - 1].isspace():
        return False  # "2 mg p.o. daily"; "? DVT"
    if text[stop] != "." or text[stop - 1 : stop] in ".!?":
        return True
    word_start = stop
    while word_start > floor and not text[word_start - 1].isspace() and text[word_start - 1] not in "(,;:/":
        word_start -= 1
    word = text[word_start:stop]
    if len(word) == 1 and word.isalpha():
        return word.isupper() and _OPENERS.match(text, after) is not None
    if word.isdigit() and word_start in (0, floor):
        return False  # "1. Aspirin": the number of a list, not a sentence
    return word.lower() not in ABBREVIATIONS


def _line_is_border(text: str, line: int, begin: int, after: int, gap: str) -> bool:
    if begin <= line:
        return True  # nothing on the line before
    if gap.count("\n") > 1 or (gap.count("\r") > 1 and "\n" not in gap):
        return True  # a blank line
    if text[begin - 1] in ".!?:;":
        return True
    if _BULLET.match(text, after):
        return True
    if text[after].islower() or text[after] in ",;)":
        return False
    return not (text[begin - 1] in ",-" or begin - line >= _WRAPPED)
