"""Words of the ward: terms that need no guess, laid over what an entity model finds.

The model that ships learned from case reports and abstracts, and a ward writes otherwise: "T2DM", "#NOF", "IECOPD", "co-amox". A
table of such terms, the way clinical text systems have always had one beside their models (cTAKES, MedLEx), finds them for
certain, in microseconds, and a site adds its own without training. `vocabulary.txt` says how it is written.

How the two are put together (`Vocabulary.join`): a term stands where the model published nothing, or only parts of it, or the same
span under another label; it yields to a longer span of the model ("severe sepsis") and to one that crosses its border, unless that
is a value or a part of the body, of which the model takes in too much in telegram style ("HR 118 BP 82/40", "right clavicle
fracture"): of a value what has figures is left. Where both have the same span and differ in condition or symptom alone, the
model's word stands: guides differ there, and it learned one. Then doses and values are read beside the names
(`models.figures`); where one is a part of the model's, the model's stands ("10mg" of "10mg with meals").
"""

import re
from collections.abc import Collection, Iterator, Sequence
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Final

from models.errors import Fatal
from models.figures import DIGEST, DOSE, VALUE, Line, beside, no_value, whole
from models.tasks import Span

PACKAGED: Final = Path(__file__).with_name("vocabulary.txt")
SILENT: Final = "-"  # the group of terms that say nothing
NOTHING: Final = "--"  # of those that are nothing, whatever the model says
_GROUP: Final = re.compile(r"\[(\S+)\]")
_TOKEN: Final = re.compile(r"[^\W_]+|[^\w\s]|_")
_PLURALS: Final = ("s", "es")
_STEM: Final = 4  # letters that a word has before the ending of a plural: "MIs" is none
_APART: Final = frozenset({"non", "anti", "pre"})  # "non-asthma": another word
_GREEDY: Final = frozenset({VALUE, "anatomy"})  # labels whose spans take in what stands beside
_FIGURES: Final = re.compile(r"[^\s.,;:()]*\d(?:.*[^\s.,;:()])?")
_BEHIND: Final = re.compile(r"\s?[:=]?\s?[<>≤≥~+±–−-]?\.?\d\S*\s*|\s(?:positive|negative|pos|neg|normal)", re.IGNORECASE)
# What a model's dose has behind the one that is read, in that sentence, and its value: more than a comma or an "of"; "ng/mL/h".
_MORE: Final = re.compile(
    r"(?!\W{0,9}(?:of|in|and|or|to|for|with|then)?\W{0,9}\Z)(?:(?![.;]\s|[.;]?\s{0,9}(?:\n|\Z)).)+", re.IGNORECASE
)
_UNIT: Final = re.compile(r"[^\S\n]?[^\W\d_]+/\S*[^\W_]\Z")
_LIKE: Final = frozenset({"condition", "symptom"})
_Words = tuple[str, ...]


class Vocabulary:
    """Finds terms in texts. Made once, used from any thread.

    `digest` is the SHA-256 (hex) over all its files, `labels` are those that terms have.
    """

    def __init__(self, *files: Path) -> None:
        """Read tables, later ones over earlier ones. Raises `Fatal` (file and line named) where one is missing or no table."""
        self._as_written: dict[_Words, str] = {}
        self._any_case: dict[_Words, str] = {}
        digest = sha256(DIGEST)
        for file in files:
            try:
                text = file.read_text(encoding="utf-8")
            except (OSError, UnicodeDecodeError) as error:
                what = f"the vocabulary {file} cannot be read: {type(error).__name__}"
                raise Fatal(what, hint="a text file in UTF-8 is expected") from error
            digest.update(sha256(text.encode()).digest())
            for words, label in _entries(file, text):
                table = self._any_case if all(word == word.casefold() for word in words) else self._as_written
                table[words] = label
        self.digest = digest.hexdigest()
        self.labels = frozenset((*self._as_written.values(), *self._any_case.values())) - {SILENT, NOTHING}
        self._longest: dict[str, int] = {}  # by a term's first word, any case: most words of such a term
        for words in (*self._as_written, *self._any_case):
            first = words[0].casefold()
            self._longest[first] = max(self._longest.get(first, 0), len(words))
            if len(words) == 1:  # found by its plural too
                for ending in _PLURALS:
                    self._longest.setdefault(first + ending, 1)

    def __len__(self) -> int:
        return len(self._as_written) + len(self._any_case)

    def find(self, text: str) -> list[Span]:
        """Return the terms of a text from left to right, the longest first, none overlapping; score 1."""
        return [term for term in self._terms(text) if term.label not in (SILENT, NOTHING)]

    def _terms(self, text: str) -> Iterator[Span]:
        tokens = [(match[0], match.start(), match.end()) for match in _TOKEN.finditer(text)]
        words = tuple(word.replace("’", "'") for word, _, _ in tokens)
        folded = tuple(word.casefold() for word in words)
        at = 0
        while at < len(tokens):
            size, label = self._at(words, folded, at)
            if label is not None and not _joined(tokens, at):
                yield Span(label, tokens[at][1], tokens[at + size - 1][2], 1.0)
            at += size

    def _at(self, words: _Words, folded: _Words, at: int) -> tuple[int, str | None]:
        """Return how many words the longest term at a place has, and its label; (1, None) for none."""
        for size in range(min(self._longest.get(folded[at], 0), len(words) - at), 0, -1):
            label = self._as_written.get(words[at : at + size]) or self._named(folded[at : at + size])
            if label is not None:
                return size, label
        return 1, None

    def _named(self, words: _Words) -> str | None:
        if (label := self._any_case.get(words)) is not None:
            return label
        last = words[-1]
        for ending in _PLURALS:
            if last.endswith(ending) and len(last) >= _STEM + len(ending):
                label = self._any_case.get((*words[:-1], last.removesuffix(ending)))
                if label is not None:
                    return label
        return None

    def join(self, text: str, spans: Sequence[Span], labels: Collection[str]) -> tuple[list[Span], frozenset[tuple[int, int]]]:
        """Lay the terms over a model's spans (none overlapping): return all, and the places (start, end) that are terms' alone.

        Terms under a label that is not in `labels`, the model's own, are left out: a site's model with other names keeps to them.
        """
        terms = [*self._terms(text)]
        nothing = {(term.start, term.end) for term in terms if term.label == NOTHING}
        nothing |= {(span.start, span.end) for span in spans if span.label == VALUE and no_value(text, span.start, span.end)}
        line = Line(span for span in spans if (span.start, span.end) not in nothing)
        ours: set[Span] = set()
        for term in terms:
            touched = line.touched(term)
            if term.label in labels and all(_gives_way(text, span, term) for span in touched):
                rest = [part for span in touched if span.label == VALUE for part in _around(text, span, term)]
                line.put(term, *rest)
                ours.add(term)
        for figure in [*_as_wide(text, line, [*beside(text, line.spans)])]:
            if figure.label in labels and all(span in ours or _yields(span, figure) for span in line.touched(figure)):
                line.put(figure)
                ours.add(figure)
        found = whole(text, line.spans)  # a value was cut by a term
        return found, frozenset((span.start, span.end) for span in found if span in ours)


def _as_wide(text: str, line: Line, figures: Sequence[Span]) -> Iterator[Span]:
    """Yield the figures that are read (in order), as wide as the model's that they touch: "10mg" of its "10mg weekly".

    A dose reaches to where the model's begins and to its end, in the sentence; a value takes in the unit behind it. Of several in
    one of the model's, which takes in too much then, only the first reaches to its start and the last to its end.
    """
    for before, figure, behind in zip((None, *figures), figures, (*figures[1:], None), strict=False):
        start, end, scores = figure.start, figure.end, [figure.score]
        for span in line.touched(figure):
            if span.label != figure.label or span.label not in (DOSE, VALUE):
                continue
            if span.start < start and span.label == DOSE and (before is None or before.end <= span.start):
                start = span.start
                scores.append(span.score)
            if end < span.end and (behind is None or span.end <= behind.start):
                rest = (_MORE if span.label == DOSE else _UNIT).match(text, end, span.end)
                if rest is not None:
                    end = rest.end()
                    scores.append(span.score)
        yield Span(figure.label, start, end, min(scores))


def _yields(span: Span, figure: Span) -> bool:
    """Whether a model's span gives way to a dose or value that it touches."""
    same = (span.start, span.end, span.label) == (figure.start, figure.end, figure.label)
    return not same and (span.label in (figure.label, *_GREEDY) or (figure.start <= span.start and span.end <= figure.end))


def _gives_way(text: str, span: Span, term: Span) -> bool:
    """Whether a model's span gives way to a term that it touches.

    It does where it is a part of it, the same under a label that is another thing, or the term and a figure ("Hb 71").
    """
    if (span.start, span.end) == (term.start, term.end):
        return span.label != term.label and not {span.label, term.label} <= _LIKE
    if span.start == term.start and term.end < span.end and _BEHIND.fullmatch(text, term.end, span.end):
        return True
    return (term.start <= span.start and span.end <= term.end) or span.label in _GREEDY


def _around(text: str, span: Span, term: Span) -> Iterator[Span]:
    """Return what a value has before and behind a term, where that has figures."""
    for start, end in ((span.start, term.start), (term.end, span.end)):
        if (found := _FIGURES.search(text, start, max(start, end))) is not None:
            yield Span(span.label, found.start(), found.end(), span.score)


def _joined(tokens: Sequence[tuple[str, int, int]], at: int) -> bool:
    """Whether a prefix and a hyphen before a term make it another word."""
    if at < 2:
        return False
    (before, _, end), (hyphen, start, stop) = tokens[at - 2], tokens[at - 1]
    return hyphen in "-‐‑" and end == start and stop == tokens[at][1] and before.casefold() in _APART


def _entries(file: Path, text: str) -> Iterator[tuple[_Words, str]]:
    label = ""
    for number, raw in enumerate(text.splitlines(), 1):
        line = raw.strip()
        if not line or line.startswith("# "):
            continue
        if (group := _GROUP.fullmatch(line)) is not None:
            label = group[1]
            continue
        if not label:
            raise Fatal(
                f"{file}:{number}: a term before the first group", hint="a group opens with its label, as in [condition]"
            )
        for term in line.split(","):
            if words := tuple(match[0] for match in _TOKEN.finditer(term.replace("’", "'"))):
                yield words, label


@cache
def vocabulary(*files: Path) -> Vocabulary:
    """Return the packaged vocabulary with a site's files laid over it; read once."""
    return Vocabulary(PACKAGED, *files)
