"""Where the sentences of a clinical text begin: what assertion is scoped by and what chunks are cut at.

Clinical notes break sentences by full stops, by lines, by bullets, by numbers ("1) no effusion 2) pneumonia") and by blank
lines, and wrap them in the middle as well (HL7 sends a report as one OBX per line). So a line end is a border only where the text
around it says so: before a capital where the text is wrapped at a width and the next word would not have fitted, never before a
heading ("PMH AF"). Many are typed without capitals ("no bleeding. now unresponsive"): a small letter behind a stop or a line end
begins a sentence too, where what stands before is no abbreviation, and the line was not full. Offsets are characters of the text as
given; no character is changed, so that CRLF, tabs and any Unicode keep their place.
"""

import math
import re
from collections.abc import Iterator
from itertools import pairwise
from typing import Final

from processors.sections import BARE

# A stop with what may stand behind it (quotes, a citation's number) and blanks, or a run of line ends.
# A column behind a tab is one too where it has a name: "No fever<tab>cough: productive".
_CANDIDATE: Final = re.compile(
    r"(?:[.!?]+[\"'”’)\]]*|(?<=[a-z)])\.\d{1,2}(?:[,–-]\d{1,2})*)\s+|[ \t\u00a0]*[\r\n]\s*|[ ]*\t[ \t]*(?=[A-Za-z][\w /-]{0,24}:)"
)

# "Dr. Li", "vs. placebo", "approx. 3 cm": a full stop that ends no sentence. Compared in lower case, without the stop.
_STOPPED: Final = """
dr mr mrs ms prof st no nos prev vs v approx ca cf eg e.g ie i.e al fig figs ref resp incl excl est max min temp wt ht hr
hrs wk wks mo mos yr yrs yo sec inj tab tabs cap caps susp sol amp vol dept hosp med mg ml kg cm mm hx fx tx dx rx sx
b.i.d t.i.d q.i.d q.d q.h p.o p.r.n i.v i.m s.c p.r a.m p.m o.d b.d t.d.s
"""
ABBREVIATIONS: Final = frozenset(_STOPPED.split())
# The same before a small letter alone: "neg. for", "Staph. aureus"; behind "Troponin neg." a capital begins a sentence.
_SHORTENED: Final = """
pt pts neg pos bilat unilat mod sev abd occ freq gen neuro psych card cont contd etc et spp sp subsp ssp var syn staph strep haem
hem klebs pseud mycobact enterobact lt rt lat post ant sup inf prox dist asst assoc postop preop periop intraop diff diam diag
"""
_ABBREVIATED: Final = ABBREVIATIONS | frozenset(_SHORTENED.split())
# ... and these may be either: "5 mg. now settled", "breast ca. pt has fibroids".
_EITHER: Final = "ca yo hr hrs wk wks mo mos yr yrs min sec dx hx rx sx tx fx cm mm kg ml mg wt ht tab tabs cap caps"
_UNITS: Final = frozenset(_EITHER.split())
_CAPITALS: Final = re.compile(r"[a-z0-9)][.!?] +[A-Z]")
_LONGER: Final = 6  # letters: a word this long is hardly an abbreviation
# What begins a sentence in small letters, whatever short word stands before the stop: "no rash. has cellulitis".
_SMALL_OPENERS: Final = re.compile(
    r"(?:has|have|had|is|was|are|were|now|no|not|denies|denied|he|she|they|it|the|there|pt|patient|given|started|also|will|then|"
    r"still|seen|reports|states|c/o|o/e|hx|pmh)\b"
)
# A line that ends or begins so goes on, however short it is.
_OPEN_END: Final = re.compile(
    r"(?:\b(?:a|an|the|of|in|on|at|to|for|with|without|and|or|nor|but|no|not|denies|denied|by|from|is|was|were|are|has|had|have|his|"
    r"her|their|any|as|than|which|that|who|per|via)|[-,/(&+])$",
    re.IGNORECASE,
)
# ... before a capital too: what can end nothing ("Smoker: no", "SOB denied" can), and more where the line is long
_OPEN_ANYWHERE: Final = re.compile(r"\b(?:an|the|of|with|without|and|or|nor|any|their|from|than)$", re.IGNORECASE)
_OPEN_LONG: Final = re.compile(
    r"\b(?:an|the|of|with|without|and|or|nor|any|their|from|than|no|not|denies|his|her|has|had|is|was)$"
)
_OPEN_START: Final = re.compile(r"(?:and|or|nor|but|of|in|on|at|to|for|with|without|by|from|than|as|which|who|that|per|via)\b")
_NARROW: Final = 30  # characters: a line shorter than this was ended by whoever wrote it
# After a single capital letter ("vitamin C. He ...") these say that a sentence begins; a name ("J. Smith") does not.
_OPENERS: Final = re.compile(r"(?:The|There|This|These|He|She|It|They|We|His|Her|No|Not|On|In|At|After|Patient|A|An)\b")
_BULLET: Final = re.compile(r"(?:[-*•·–—>#]|\(?\d{1,2}[.)](?!\d)|\(?[a-zA-Z][.)]\s)")
_NUMBERED: Final = re.compile(r"(?<![^\s:;,.])\(?(\d{1,2})\)(?=\s)")
_WRAPPED: Final = 55  # a line at least this long may have been wrapped, even when a capital follows
_FIRST_WORD: Final = re.compile(r"\S+")


def sentence_starts(text: str) -> list[int]:
    """Return the offset of each sentence's first character, ascending, the first always 0; [] for an empty text."""
    if not text:
        return []
    starts = [0]
    line = 0
    width, plain, wrapped = _width(text), _CAPITALS.search(text) is None, _wrapped_at(text)
    for candidate in _CANDIDATE.finditer(text):
        begin, end = candidate.span()
        if end >= len(text):
            break
        gap = candidate.group()
        breaks = "\n" in gap or "\r" in gap
        if gap[0] in ".!?":
            border = _ends_sentence(text, starts[-1], begin, end, plain) or (breaks and not text[end].islower())
        elif breaks:
            border = _line_is_border(text, line, begin, end, gap, width, wrapped)
        else:
            border = True
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


def _width(text: str) -> float:
    """Return how long a line is that may have been wrapped before a small letter: near the longest there is."""
    longest = max(map(len, re.split(r"[\r\n]", text)))
    return max(_NARROW, min(_WRAPPED, 0.75 * longest))


def _wrapped_at(text: str) -> float:
    """Return the width at which a system has wrapped a text; infinite for one whose lines were ended by whoever wrote it.

    A wrapped line is followed by a word for which there was no room. The longest line always is; so it takes another, and one of
    them before a small letter.
    """
    lines = [line.strip() for line in re.split(r"[\r\n]+", text)]
    longest = max(map(len, lines))
    if longest < _WRAPPED or len(lines) < 3:
        return math.inf
    full = [
        after[:1].islower()
        for line, after in pairwise(lines)
        if len(line) >= _WRAPPED and len(line) + 1 + len(after.split(" ", 1)[0]) > longest
    ]
    return longest if len(full) > 1 and any(full) else math.inf


def _ends_sentence(text: str, floor: int, stop: int, after: int, plain: bool) -> bool:
    following = text[after]
    if stop == floor or text[stop - 1].isspace():
        return False  # "? DVT"
    if text[stop] != "." or text[stop - 1 : stop] in ".!?":
        return not following.islower()
    word_start = stop
    while word_start > floor and not text[word_start - 1].isspace() and text[word_start - 1] not in "(,;:/":
        word_start -= 1
    word = text[word_start:stop]
    if word.isdigit() and word_start in (0, floor):
        return False  # "1. Aspirin": the number of a list, not a sentence
    if following.islower():
        return _ends_before_small(text, word_start, word, after, plain)
    if len(word) == 1 and word.isalpha():
        return word.isupper() and _OPENERS.match(text, after) is not None
    return word.lower() not in ABBREVIATIONS


def _ends_before_small(text: str, word_start: int, word: str, after: int, plain: bool) -> bool:
    """Say whether a sentence ends at a stop before a small letter: "gcs 15. seizure at 0200", not "2 mg p.o. daily".

    `plain`: nobody typed a capital behind a stop in this text.
    """
    half = word_start > 0 and text[word_start - 1] == "/"  # of "n/v."
    goes_on = _SMALL_OPENERS.match(text, after) is None
    known = word.lower() in _ABBREVIATED and (goes_on or word.lower() not in _UNITS)
    if "." in word or (not half and (known or (len(word) == 1 and not word.isdigit()))):
        return False
    if word.isdigit():  # "... 2. metformin" goes on with a list
        return len(word) > 1 or f"{int(word) - 1}." not in text[max(0, word_start - 200) : word_start]
    return plain or len(word) >= _LONGER or not word.isalpha() or not goes_on


def _line_is_border(text: str, line: int, begin: int, after: int, gap: str, width: float, wrapped: float) -> bool:
    if begin <= line:
        return True  # nothing on the line before
    if gap.count("\n") > 1 or (gap.count("\r") > 1 and "\n" not in gap):
        return True  # a blank line
    if text[begin - 1] in ".!?:;":
        return True
    if _BULLET.match(text, after):
        return True
    if text[after] in ",;)":
        return False
    long = begin - line >= _WRAPPED
    tail = text[max(line, begin - 10) : begin]
    if BARE.match(text, after):
        return _OPEN_ANYWHERE.search(tail) is None
    if text[after].islower():
        return not (begin - line >= width or _OPEN_END.search(text[line:begin]) or _OPEN_START.match(text, after))
    if text[begin - 1] in ",-" or (_OPEN_LONG if long else _OPEN_ANYWHERE).search(tail):
        return False
    word = _FIRST_WORD.match(text, after)
    return not (long and begin - line + 1 + len(word.group() if word else "") > wrapped)
