"""Figures beside names: the dose that a note gives of a medication, the value that it gives of a test.

In telegram style ("furosemide 80mg IV bd", "Na 134 K 3.4 CRP 88") both follow a grammar so plain that it needs no guess, and a
model that learned from prose loses it: it begins a dose at the route, or takes three values for one. What is read stands directly
behind the name: at most a form ("cream", "MR"), a word of being ("is", "was") or a sign lies between. All that repeats is bounded:
no text makes it slow.
"""

import re
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from hashlib import sha256
from itertools import takewhile
from typing import Final

from models.tasks import Span

MEDICATION: Final = "medication"
DOSE: Final = "dose"
TEST: Final = "test"
VALUE: Final = "lab_value"


def _any(*ways: str) -> str:
    """Return a pattern of ways to write something, in the order in which they are tried; words are parted by spaces."""
    return f"(?:{'|'.join(way for words in ways for way in words.split(' '))})"


# ------------------------------------------------------------------------------------------------------------------ doses

_NUMBER: Final = r"(?>\d{1,7}(?:[.,]\d{1,7}){0,2})"
_RANGE: Final = rf"{_NUMBER}(?:\s?[-–/]\s?{_NUMBER}){{0,2}}"
_STRENGTH: Final = rf"{_NUMBER}/{_NUMBER}(?:/{_NUMBER})?"  # of a combination: 30/500, 300/150
_COUNT: Final = r"(?:one|two|three|four|half(?:\sa)?|\d{1,3}(?:[-–]\d{1,3})?)"
_AMOUNT: Final = _any(
    r"micrograms? milligrams? mcg µg μg ug ng mg grams? gm? kg mls? litres? l cc units? iu mu u mmol meq",
    r"tab(?:let)?s? cap(?:sule)?s? puffs? drops? gtts? sachets? sprays? patch(?:es)? amp(?:oule)?s? vials? lozenges?",
    r"suppositor(?:y|ies) nebs? nebules? actuations? scoops?",
)
_PER: Final = rf"(?:\s?/\s?\d{{0,2}}\s?{_any('kg m2 m² hours? hrs? h mins? days? d doses? wk weeks? mls? l')}){{0,3}}"
_QUANTITY: Final = rf"(?:{_NUMBER}u/{_NUMBER}u\b|(?:{_RANGE}|{_COUNT})\s?{_AMOUNT}\b{_PER}|{_RANGE}\s?%)"
_ROUTE: Final = _any(
    r"p\.?o i\.?v i\.?m s/?c sq subcut subcutaneous(?:ly)? pr pv s/?l sublingual(?:ly)? ng peg nebs? nebuli[sz]ed inh inhaled top",
    r"topical(?:ly)? odt oral(?:ly)? by\smouth intravenous(?:ly)? intramuscular(?:ly)? infusion bolus buccal",
    r"(?:in(?:to)?\s)?(?:the\s)?(?:R|L|right|left|both|each)\s(?:eyes?|ears?|nostrils?)",
)
_OFTEN: Final = _any(
    r"(?-i:ON|OM)(?=\s*(?:[,;.)\n]|$))",  # at night, in the morning; not "ON TIME"
    r"o\.?d b\.?d bid b\.i\.d tds tid t\.i\.d qds qid q\.i\.d qd daily nightly nocte mane prn stat weekly fortnightly monthly",
    r"hourly \d{1,2}(?:[-–]\d{1,2})?\s?(?:hrly|hourly) q\s?\d{1,2}(?:[-–]\d{1,2})?\s?(?:hours|hrs?|h) qam qpm qhs ac pc hs",
    r"(?:once|twice|three\stimes|four\stimes|\d\s?x)\s?(?:/|a\s|per\s|every\s)?(?:daily|day|week|night|month)",
    r"every\s(?:other\s)?(?:\d{1,2}\s)?(?:hours?|days?|mornings?|evenings?|nights?|weeks?|months?) alternate\sdays at\snight",
    r"in\sthe\s(?:morning|evening) each\s(?:morning|evening|night) as\s(?:required|needed)",
)
_PART: Final = rf"(?:{_QUANTITY}|{_ROUTE}\b|{_OFTEN}\b)"
_BARE: Final = (
    rf"(?:{_STRENGTH}|{_RANGE})\s(?={_OFTEN}\b|{_COUNT}\s(?:{_AMOUNT}|{_OFTEN})\b)(?:{_COUNT}\s)?"  # "bisoprolol 2.5 od"
)
_DOSE: Final = re.compile(
    rf"(?:{_BARE})?{_PART}(?:\s(?:{_COUNT}\s(?={_OFTEN}\b))?{_PART}){{0,6}}(?!\w)",
    re.IGNORECASE,
)
_BY_ITSELF: Final = re.compile(  # a dose whatever stands before it: "restart 750mg bd", "then 800mcg iv"
    rf"(?<![\w./-]){_RANGE}\s?(?:mg|mcg|micrograms?|g|units|iu)\b{_PER}(?:\s(?:{_ROUTE}|{_OFTEN})(?!\w)){{1,4}}", re.IGNORECASE
)
_AMOUNTS_TO: Final = re.compile(rf"\d|\b{_COUNT}\b|\b{_OFTEN}\b", re.IGNORECASE)  # a route alone is no dose
_FORM: Final = _any(
    r"cream ointment gel inhaler patch syrup liquid suspension tablets? capsules? (?:eye\s)?drops nasal\sspray",
    r"mr sr xl xr cr er ec la dose at increased\sto reduced\sto up\sto",
)
_TO_DOSE: Final = re.compile(rf"(?:\s?[:@(=]\s?|\s)(?:{_FORM}\s)?", re.IGNORECASE)
_NEXT_DOSE: Final = re.compile(r",?\s(?:then|to|up\sto|reducing\sto)\s|\s?(?:→|->|>)\s?", re.IGNORECASE)

# ----------------------------------------------------------------------------------------------------------------- values

_UNIT: Final = _any(
    r"% [mµμunp]?mol/l micromol/l mmol/mol mosm(?:ol)?/kg [mnµμu]?g/d?l mcg/l [np]g/ml mg/mmol m?i?u/m?l meq/l kpa mm\s?hg",
    r"cm\s?h2o bpm (?:breaths)?/min l/min (?:cc|mls?)/(?:kg/)?(?:hr?|h|day) °\s?[cf] degc mls? cc litres? kg mcg cm mm secs?",
    r"seconds ms x\s?10\^?9(?:/l)? /hpf mm/hr",
)
_MEASURED: Final = rf"(?:[<>≤≥~+-]=?\s?)?{_NUMBER}(?:[/:–-]{_NUMBER})?(?:(?:\s?{_UNIT}|[lgskmc])(?![\w/]))?(?![\w/])"
_SAID: Final = _any(
    "negative neg -ve positive pos \\+ve normal nad unremarkable undetectable absent present raised elevated stable clear"
)
_VALUE: Final = re.compile(rf"{_MEASURED}|{_SAID}(?![\w-])|\+{{1,4}}(?!\w)", re.IGNORECASE)
_BEING: Final = r"(?:is|was|of|at|were|are|now|today|currently|still|came\sback|on\sadmission|up\sto|down\sto)"
_TO_VALUE: Final = re.compile(rf"\s?(?:[:=]|\s-(?=\s))\s?|\s(?:{_BEING}\s)?", re.IGNORECASE)
_NEXT_VALUE: Final = re.compile(r"\s?(?:→|->|>)\s?|\s(?:to|from)\s", re.IGNORECASE)
_LATER: Final = _any("mins? hours? hrs? hrly hourly days? weeks? months? years? yrs? h d wks? am pm")
# Behind a number that is none of the test's: how often, how long ago, until when.
_NO_VALUE: Final = re.compile(rf"\s?(?:/(?:7|12|52)\b|{_LATER}\b|x\b|(?:st|nd|rd|th)\b)")
_SEEN: Final = re.compile(  # tests behind which a number is no value, but a date, a size or how often
    r"\b"
    + _any(
        "ct mri? x-?ray cxr axr uss? ultrasound scan ogd oesophago endoscop colonoscop sigmoidosc angio biops echo ecg ekg eeg",
        "doppler bloods? culture screen",
    ),
    re.IGNORECASE,
)
_NAME: Final = re.compile(  # too short to be a test by themselves, and one before a figure
    r"(?<![\w/.-])(?:"
    r"(?-i:T)(?=\s?[:=]?\s?(?:3[2-9]|4[0-3]|9\d|10\d)(?:\.\d)?(?![\w/]))|"
    r"K\+?(?=\s?[:=]?\s?\d(?:\.\d{1,2})?(?![\w/]|\.\d))|"
    r"level(?=\s?[<>]?\s?(?:\d{2,}|[4-9]|\d\.\d))|"
    r"(?-i:Ca)(?=\s?[:=]?\s?\d\.\d)|"  # calcium, and no tumour marker
    + _any(
        r"(?-i:Na|Mg|Cl|Cr|Ur|Hb|Hgb|WBC|WCC|Plts?|PO4|Alb|Tmax|BMs?|BE) temp lac bm ph pa?co2 pa?o2 hco3 bicarb gluc ck wt",
        r"na cr hb mews pews cd4",
    )
    + r"(?=\s?[:=]?\s?[<>~-]?\s?\d))",
    re.IGNORECASE,
)
_NONE: Final = re.compile(
    r"\d{1,3}\s?(?:yo|y/o|yrs?|M|F)\b.*|\d+(?:-\d+)?/(?:7|12|52|40)\b.*|x\s?\d+", re.IGNORECASE | re.DOTALL
)

_RULES: Final = (
    *(_DOSE, _BY_ITSELF, _AMOUNTS_TO, _TO_DOSE, _NEXT_DOSE),
    *(_VALUE, _TO_VALUE, _NEXT_VALUE, _NO_VALUE, _SEEN, _NAME, _NONE),
)
DIGEST: Final = sha256("\n".join(one.pattern for one in _RULES).encode()).digest()  # other rules find other entities


def no_value(text: str) -> bool:
    """Tell whether what a model took for a value is an age, a span of time or a number of times ("86M", "5/7", "x2")."""
    return _NONE.fullmatch(text) is not None


class Line:
    """Spans of a text in order, none overlapping."""

    def __init__(self, spans: Iterable[Span] = ()) -> None:
        self.spans = sorted(spans, key=lambda span: span.start)
        self._starts = [span.start for span in self.spans]

    def touched(self, other: Span) -> list[Span]:
        """Return those that share a character with another span."""
        return self.spans[self._place(other)]

    def put(self, *new: Span) -> None:
        """Put the first in the place of all that it touches, and beside it what is left of those."""
        place, ordered = self._place(new[0]), sorted(new, key=lambda span: span.start)
        self.spans[place] = ordered
        self._starts[place] = [span.start for span in ordered]

    def _place(self, other: Span) -> slice:
        first, last = bisect_left(self._starts, other.start), bisect_left(self._starts, other.end)
        if first and self.spans[first - 1].end > other.start:
            first -= 1
        return slice(first, max(first, last))


def beside(text: str, spans: Sequence[Span]) -> Iterator[Span]:
    """Yield the doses behind the medications among the spans (in order, none overlapping) and the values behind the tests; score 1.

    Of tests that are none of the spans, since only a figure behind them makes them one ("K 3.4"), the names too.
    """
    line, until = Line(spans), 0
    named = [Span(TEST, found.start(), found.end(), 1.0) for found in _NAME.finditer(text)]
    named = [one for one in named if all(span.label == VALUE for span in line.touched(one))]
    alone = [Span(DOSE, found.start(), found.end(), 1.0) for found in _BY_ITSELF.finditer(text)]
    begins = [*((span, False) for span in spans), *((one, True) for one in named), *((one, True) for one in alone)]
    for span, new in sorted(begins, key=lambda one: one[0].start):
        if span.start < until:  # "neb", inside a dose
            continue
        figures: Iterable[Span] = ()
        if span.label == MEDICATION:
            figures = _doses(text, span)
        elif span.label == TEST:
            figures = _values(text, span)
        found = [*figures]
        if new and (found or span.label == DOSE):
            found.insert(0, span)
        yield from found
        until = found[-1].end if found else until


def _doses(text: str, medication: Span) -> Iterator[Span]:
    doses = _run(text, medication.end, DOSE, _TO_DOSE, _DOSE, _NEXT_DOSE)
    return takewhile(lambda dose: _AMOUNTS_TO.search(text, dose.start, dose.end), doses)


def _values(text: str, test: Span) -> Iterator[Span]:
    seen = _SEEN.search(text, test.start, test.end) is not None
    for value in _run(text, test.end, VALUE, _TO_VALUE, _VALUE, _NEXT_VALUE):
        numeric = any(map(str.isdigit, text[value.start : value.end]))
        if (seen and numeric) or _NO_VALUE.match(text, value.end) is not None:
            return
        yield value


def _run(
    text: str, at: int, label: str, first: re.Pattern[str], figure: re.Pattern[str], more: re.Pattern[str]
) -> Iterator[Span]:
    gap = first
    while (between := gap.match(text, at)) is not None and (found := figure.match(text, between.end())) is not None:
        yield Span(label, found.start(), found.end(), 1.0)
        at, gap = found.end(), more
