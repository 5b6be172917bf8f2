"""Figures beside names: the dose that a note gives of a medication, the value that it gives of a test.

In telegram style ("furosemide 80mg IV bd", "Na 134 K 3.4 CRP 88") both follow a grammar so plain that it needs no guess, and a
model that learned from prose loses it: it begins a dose at the route, or takes three values for one. What is read stands directly
behind the name: at most a form ("cream", "MR"), a word of being ("is", "was") or a sign lies between. All that repeats is bounded,
or a number that is read once: no text makes it slow.

A figure is published whole or not at all (`whole`): "125 mg" of ".125 mg" is the thousandfold dose. To a model's tokenizer the
point, the comma, the sign and the hyphen of a number are words of their own, and it may leave them outside.
"""

import re
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from hashlib import sha256
from itertools import takewhile
from typing import Final

from models.tasks import Span

MEDICATION: Final = "medication"
DOSE: Final = "dose"
TEST: Final = "test"
VALUE: Final = "lab_value"
_FIGURES: Final = (DOSE, VALUE)


def _any(*ways: str) -> str:
    """Return a pattern of ways to write something, in the order in which they are tried; words are parted by spaces."""
    return f"(?:{'|'.join(way for words in ways for way in words.split(' '))})"


# ---------------------------------------------------------------------------------------------------------------- numbers

_POINT: Final = r"(?<![^\s(\[@=:<>≤≥≈~/×+±–−-])[.,](?=\d)"  # begins a number, ".5", and ends no sentence
_OH: Final = r"[oO](?![\w/])"  # for a nought: "3.O"
_FRACTION: Final = "[½¼¾]"
_PLAIN: Final = rf"(?>(?:{_POINT})?\d+(?:[.,](?:\d+|{_OH}))*{_FRACTION}?|{_FRACTION})"
_WHOLE: Final = re.compile(rf"{_PLAIN}(?:[-–−/:^*]{_PLAIN})*")  # "4-6-4", "1/2", "118/72", "10^9", "1:10,000"
_BEGUN: Final = re.compile(rf"(?:{_POINT})?\d|{_FRACTION}")
_UNFINISHED: Final = r"(?![.,:/^*–−-]?[.,]?\d)"  # behind a number that does not go on
_BLANK: Final = "[ \u00a0\u2009\u202f]"
_THOUSANDS: Final = rf"\d{{1,3}}(?:{_BLANK}\d{{3}})+(?!\d)"  # "10 000 units"
_MIXED: Final = rf"\d{{1,2}}{_BLANK}(?:[1-3]/[2-4](?!\d)|{_FRACTION})"  # "1 1/2 tablets"
# What stands before a figure, up to it, and belongs to it: in a dose the first part of "10 000", "1 1/2", and of a "1 0" that is
# none; a comparison, no arrow ("3.4 > 5.1"); in a value a sign, no range ("36 -38") and no dash ("Na-134").
_FIRST_PART: Final = re.compile(rf"(?<![\w.,/:–−-])\d{{1,3}}{_BLANK}\Z")
_SECOND_PART: Final = re.compile(rf"\d{{3}}(?!\d)|[1-3]/[2-4](?!\d)|{_FRACTION}|0(?![\d.,])")
_COMPARED: Final = re.compile(r"(?<![-=–−<>\d])(?<!\d\s)(?:[<>]=?|[≤≥≈~])\s?\Z")
_SIGNED: Final = re.compile(r"(?:(?<![^\s(\[=:])|(?<=\b(?i:BE)))(?<!\d\s)[+±–−-]\Z")
_HANGING: Final = re.compile(r"\s+(?:[<>]=?|[≤≥≈~+±–−-])\Z")  # the same at the end of a name: "BE -"
_NO_TIME: Final = r"(?!0\d{3}\b)"  # a number that is no time of day: "0800"
_NO_DOSE: Final = re.compile(  # a time of day; what is left of a number whose first part lies elsewhere, "000 units"
    r"(?:(?:[01]\d|2[0-3])[0-5]\d|\d{1,2}:[0-5]\d)(?:\s?(?:h|hrs?|hours|am|pm))?\Z|00\d", re.IGNORECASE
)

# ------------------------------------------------------------------------------------------------------------------ doses

_NUMBER: Final = rf"(?>(?:{_POINT})?\d{{1,7}}(?:[.,](?:\d{{1,7}}|{_OH})){{0,2}}{_FRACTION}?|{_FRACTION})"
_RANGE: Final = rf"{_NUMBER}(?:\s?[-–/]\s?{_NUMBER}){{0,2}}"
_STRENGTH: Final = rf"{_NUMBER}/{_NUMBER}(?:/{_NUMBER})?"  # of a combination: 30/500, 300/150
_COUNT: Final = r"(?:one|two|three|four|half(?:\sa)?|\d{1,3}(?:[-–]\d{1,3})?)"
_AMOUNT: Final = _any(
    r"micrograms? milligrams? mcg µg μg ug ng mg grams? gm? kg mls? litres? l cc units? iu mu u mmol meq",
    r"tab(?:let)?s? cap(?:sule)?s? puffs? drops? gtts? sachets? sprays? patch(?:es)? amp(?:oule)?s? vials? lozenges?",
    r"suppositor(?:y|ies) nebs? nebules? actuations? scoops?",
)
_PER: Final = rf"(?:\s?/\s?\d{{0,2}}\s?{_any('kg m2 m² hours? hrs? h mins? days? d doses? wk weeks? mls? l')}){{0,3}}"
_QUANTITY: Final = rf"(?:{_NUMBER}u/{_NUMBER}u\b|(?:{_THOUSANDS}|{_MIXED}|{_RANGE}|{_COUNT})\s?{_AMOUNT}\b{_PER}|{_RANGE}\s?%)"
_ROUTE: Final = _any(
    r"p\.?o i\.?v i\.?m s/?c sq subcut subcutaneous(?:ly)? pr pv s/?l sublingual(?:ly)? ng peg nebs? nebuli[sz]ed inh inhaled top",
    r"topical(?:ly)? odt oral(?:ly)? by\smouth intravenous(?:ly)? intramuscular(?:ly)? infusion bolus buccal",
    r"(?:in(?:to)?\s)?(?:the\s)?(?:R|L|right|left|both|each)\s(?:eyes?|ears?|nostrils?)",
)
_OFTEN: Final = _any(
    r"(?-i:ON|OM)(?=\s*(?:[,;.)\n]|$))",  # at night, in the morning; not "ON TIME"
    r"o\.?d b\.?d bid b\.i\.d tds tid t\.i\.d qds qid q\.i\.d qd daily nightly nocte mane prn stat weekly fortnightly monthly",
    r"hourly \d{1,2}(?:[-–]\d{1,2})?\s?(?:hrly|hourly)",
    r"q\s?\d{1,2}(?:[-–]\d{1,2})?\s?(?:hours|hrs?|h|mins?|days?|d|wks?|weeks?) qam qpm qhs ac pc hs",
    r"(?:once|twice|thrice|(?:three|four|five|six|\d{1,2})\stimes|\d\s?x)\s?(?:/|a\s|per\s|every\s)?"
    r"(?:daily|day|nightly|night|weekly|week|fortnightly|fortnight|monthly|month|yearly|year|hourly)",
    r"every\s(?:other\s)?(?:\d{1,2}\s)?(?:mins?|minutes?|hours?|days?|mornings?|evenings?|nights?|weeks?|months?)",
    r"alternate\sdays at\snight",
    r"in\sthe\s(?:morning|evening) each\s(?:morning|evening|night) as\s(?:required|needed)",
)
_PART: Final = rf"(?:{_QUANTITY}|{_ROUTE}\b|{_OFTEN}\b)"
_BARE: Final = (  # "bisoprolol 2.5 od"
    rf"{_NO_TIME}(?:{_STRENGTH}|{_RANGE})\s(?={_OFTEN}\b|{_COUNT}\s(?:{_AMOUNT}|{_OFTEN})\b)(?:{_COUNT}\s)?"
)
_DOSE: Final = re.compile(
    rf"(?:{_BARE})?{_PART}(?:\s(?:{_COUNT}\s(?={_OFTEN}\b))?{_PART}){{0,6}}(?!\w)",
    re.IGNORECASE,
)
_BY_ITSELF: Final = re.compile(  # a dose whatever stands before it: "restart 750mg bd", "then 800mcg iv"
    rf"(?<![\w.,/–−-])(?!00\d)(?:{_THOUSANDS}|{_RANGE})\s?(?:mg|mcg|micrograms?|g|units|iu)\b{_PER}"
    rf"(?:\s(?:{_ROUTE}|{_OFTEN})(?!\w)){{1,4}}",
    re.IGNORECASE,
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
    r"cm\s?h2o bpm (?:breaths)?/min l/min (?:cc|mls?)/(?:kg/)?(?:hr?|h|day|min(?:/1\.73\s?m[2²])?) °\s?[cf] degc mls? cc",
    r"litres? kg mcg cm mm secs? seconds ms x\s?10[\^*]?\d{1,2}(?:/l)? /hpf mm/hr sd",
)
_COUNTED: Final = rf"{_NO_TIME}{_NUMBER}(?:[/:–-]{_NUMBER})?{_UNFINISHED}"
_MEASURED: Final = rf"(?:[<>≤≥≈~+-]=?\s?|[±–−])?{_COUNTED}(?:(?:\s?{_UNIT}|[lgskmc])(?![\w/]))?(?![\w/])"
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
    r"level(?=\s?[<>]?\s?(?:\d{2,}|[4-9]|\d?\.\d))|"
    r"(?-i:Ca)(?=\s?[:=]?\s?\d?\.\d)|"  # calcium, and no tumour marker
    + _any(
        r"(?-i:Na|Mg|Cl|Cr|Ur|Hb|Hgb|WBC|WCC|Plts?|PO4|Alb|Tmax|BMs?|BE) temp lac bm ph pa?co2 pa?o2 hco3 bicarb gluc ck wt",
        r"na cr hb mews pews cd4",
    )
    + r"(?=\s?[:=]?\s?[<>≤≥≈~+±–−-]?\s?\.?\d))",
    re.IGNORECASE,
)
_NONE: Final = re.compile(
    r"\d{1,3}\s?(?:yo|y/o|yrs?|M|F)\b.*|\d+(?:-\d+)?/(?:7|12|52|40)\b.*|x\s?\d+(?:/(?:7|12|52))?|0\d{3}(?:\s?(?:h|hrs?|hours))?",
    re.IGNORECASE | re.DOTALL,
)
_DENIAL: Final = re.compile(r"(?:no|nil)(?=\s[^\W\d])", re.IGNORECASE)  # "Nil PMH", at the beginning of what is said

_RULES: Final = (
    *(_WHOLE, _BEGUN, _FIRST_PART, _SECOND_PART, _COMPARED, _SIGNED, _HANGING, _NO_DOSE),
    *(_DOSE, _BY_ITSELF, _AMOUNTS_TO, _TO_DOSE, _NEXT_DOSE),
    *(_VALUE, _TO_VALUE, _NEXT_VALUE, _NO_VALUE, _SEEN, _NAME, _NONE, _DENIAL),
)
DIGEST: Final = sha256("\n".join(one.pattern for one in _RULES).encode()).digest()  # other rules find other entities


def no_value(text: str, start: int, end: int) -> bool:
    """Tell whether what a model took for a value is an age, a span or a point of time or a number of times ("86M", "5/7", "x2").

    Or the "no" of "No pulse"; in "ketones nil" it is a value.
    """
    if _NONE.fullmatch(text, start, end) is not None:
        return True
    opens = text[max(0, start - 2) : start].rstrip(" ")[-1:] in ("", ".", ",", ";", "\n")
    return opens and (found := _DENIAL.match(text, start)) is not None and found.end() == end


def whole(text: str, spans: Iterable[Span]) -> list[Span]:
    """Return spans (in order, none overlapping) of which none begins or ends within a number; scores stay.

    One that did is made wider; doses and values take in the comparison before them, values the sign too, which a name before
    gives up ("BE -"). Two of one label that share a number become one; of two labels the first has it. Doses and values that
    cannot be made whole are left out ("food.5 mg": a point, or the end of a sentence), and doses that are a time of day.
    """
    numbers = [found.span() for found in _WHOLE.finditer(text)]
    starts = [start for start, _ in numbers]

    def around(at: int) -> tuple[int, int]:
        start, end = numbers[before] if (before := bisect_left(starts, at) - 1) >= 0 else (at, at)
        return (start, end) if at < end else (at, at)

    kept: list[Span] = []
    for span in spans:
        figure = span.label in _FIGURES
        start, end = around(span.start)[0], around(span.end)[1]
        if figure and _BEGUN.match(text, start) is not None:
            start = _opened(text, start, span.label, kept[-1].end if kept else 0)
        elif _BEGUN.match(text, end) is not None and (hanging := _HANGING.search(text, max(start, end - 4), end)) is not None:
            end = hanging.start()
        if figure and (
            (text[start].isdigit() and text[start - 1 : start] in (".", ","))
            or (span.label == DOSE and _NO_DOSE.match(text, start, end) is not None)
        ):
            continue
        if kept and start < kept[-1].end:
            last = kept.pop()
            if last.label == span.label:
                start, end, score = min(last.start, start), max(last.end, end), min(last.score, span.score)
                kept.append(Span(span.label, start, end, score))
                continue
            if last.end > span.start:  # the number is the first one's
                kept.append(last)
                start = last.end + len(text[last.end : end]) - len(text[last.end : end].lstrip())
                if figure or start >= end:
                    continue
            elif before := text[last.start : start].rstrip():  # the sign is the figure's
                kept.append(replace(last, end=last.start + len(before)))
        kept.append(replace(span, start=start, end=end))
    return kept


def _opened(text: str, start: int, label: str, after: int) -> int:
    """Return where a dose or value begins whose number begins at `start`; the span before it ends at `after`."""
    if label == DOSE and _SECOND_PART.match(text, start) is not None:
        first = _FIRST_PART.search(text, max(0, start - 4), start)
        if first is not None and first.start() >= after:
            start = first.start()
    for sign in (_COMPARED, *((_SIGNED,) if label == VALUE else ())):
        found: re.Match[str] | None = sign.search(text, max(0, start - 3), start)
        if found is not None:
            return found.start()
    return start


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
    named = [one for one in named if all(span.label == VALUE or _with_figure(text, span, one) for span in line.touched(one))]
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


def _with_figure(text: str, span: Span, name: Span) -> bool:
    """Say whether what a model took for a test is a name and the figure behind it: "BE -18"."""
    between = _TO_VALUE.match(text, name.end, span.end) if span.label == TEST and span.start == name.start else None
    return between is not None and _VALUE.fullmatch(text, between.end(), span.end) is not None


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
