"""What a mention asserts: present, negated, historical, hypothetical, or about the family. ConText-style rules.

A trigger ("denies", "history of", "if") opens a scope in its sentence, forward or backward; a stop word ("but", "which") or the
sentence's end closes it; a pseudo-trigger ("gram negative") only hides the triggers inside it. A mention inside a scope takes the
scope's effect; in several, the first of `ORDER` wins. Sections give a default where no scope says otherwise. The words are data
(`processors.triggers`, with the sources), the algorithm is Chapman 2001 (NegEx) and Harkema 2009 (ConText).

Why not a library: medspacy 1.3.1 and negspacy 1.1.0 need spaCy (67 and 45 distributions, and medspacy's pins hold numpy below 2),
pyConTextNLP 0.7 had its last release years ago and compiles a regular expression per trigger and call. None is fit for a light
base install at thousands of notes a second.
"""

import re
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from types import MappingProxyType
from typing import Final

from processors.events import Assertion
from processors.sections import Section, section_at
from processors.sentences import sentence_starts
from processors.triggers import CLAUSE_VERBS, PREPOSITIONS, TRIGGERS, Effect, Group

# Where several hold, the first wins. Hypothetical stands before negated ("return if no better" denies nothing), negated before
# uncertain ("no signs suggesting X") and family ("no family history of X" is a risk nobody has), family before historical
# ("mother had a history of X"). What is uncertain is published as hypothetical.
ORDER: Final[Mapping[Effect, Assertion]] = MappingProxyType(
    {
        "hypothetical": "hypothetical",
        "negated": "negated",
        "uncertain": "hypothetical",
        "family": "family",
        "historical": "historical",
    }
)

# What a section says about its mentions when no words do.
SECTION_DEFAULTS: Final[Mapping[str, Assertion]] = MappingProxyType(
    {
        "family-history": "family",
        "past-medical-history": "historical",
        "past-surgical-history": "historical",
        "instructions": "hypothetical",
    }
)


def _words(text: str) -> list[str]:
    return text.split()


_TOKEN: Final = re.compile(r"[^\W_]+(?:['’][a-z]*)?|\(-\)|[;:?,]|(?<!\w)[-–—](?!\w)")
_SHORT: Final = re.compile(r"\b[whsrWHSR]/[oOpP]\b")  # w/o, h/o, s/p, r/o

# Labels, as models spell them in lower case, of what is done or where, not of what is wrong: a test with a negative result is
# still a test that was done. A label that does not stand here is taken for a condition, a symptom or a medication.
TESTS: Final = frozenset(
    _words("""
    test tests lab lab_test lab_value measurement imaging diagnostic_procedure procedure therapeutic_procedure treatment
    clinical_event event anatomy body_part biological_structure
    """)
)


@dataclass(frozen=True, slots=True)
class _Trigger:
    words: tuple[str, ...]
    group: Group


@dataclass(frozen=True, slots=True)
class _Scope:
    group: Group
    start: int
    end: int
    trigger: tuple[int, int]  # in characters
    reaches_tests: int  # where a forward scope ends for a test or a procedure


class Asserter:
    """Decides assertions by a table of triggers. Made once, used from any thread."""

    def __init__(
        self, triggers: Sequence[Group] = TRIGGERS, section_defaults: Mapping[str, Assertion] = SECTION_DEFAULTS
    ) -> None:
        self._sections = dict(section_defaults)
        self._by_first: dict[str, list[_Trigger]] = {}
        for group in triggers:
            for words in {words for phrase in group.phrases for words in _spellings(phrase)}:
                self._by_first.setdefault(words[0], []).append(_Trigger(words, group))
        for listed in self._by_first.values():
            listed.sort(key=lambda trigger: -len(trigger.words))

    def decide(
        self,
        text: str,
        spans: Sequence[tuple[int, int]],
        sections: Sequence[Section] = (),
        labels: Sequence[str] | None = None,
    ) -> list[Assertion]:
        """Return the assertion of each span `(start, end)` of a text, in the order given.

        `sections` as `Sectioner.split` gives them; `labels`, one per span, let a negative test stay a test that was done.
        """
        starts = sentence_starts(text)
        scopes: dict[int, list[_Scope]] = {}
        decided: list[Assertion] = []
        for position, (start, end) in enumerate(spans):
            index = bisect_right(starts, start) - 1
            if index not in scopes:
                finish = starts[index + 1] if index + 1 < len(starts) else len(text)
                scopes[index] = self._scopes(text, starts[index], finish)
            test = labels is not None and labels[position].lower() in TESTS
            hit = {scope.group.effect for scope in scopes[index] if _holds(scope, start, end, test)}
            decided.append(next((ORDER[effect] for effect in ORDER if effect in hit), self._default(sections, start)))
        return decided

    def _default(self, sections: Sequence[Section], start: int) -> Assertion:
        return self._sections.get(section_at(sections, start), "present") if sections else "present"

    def _scopes(self, text: str, start: int, end: int) -> list[_Scope]:
        tokens = _tokens(text, start, end)
        words = [word for word, _, _ in tokens]
        found = self._find(words)
        stopping = [(trigger.group.direction, first, last) for trigger, first, last in found if trigger.group.effect == "stop"]
        stops = [first for direction, first, _ in stopping if direction != "backward"] + _clauses(words)
        stop_ends = [last for direction, _, last in stopping if direction != "forward"]
        scopes = []
        for trigger, first, last in found:
            group = trigger.group
            if group.effect in ("stop", "pseudo"):
                continue
            own = (tokens[first][1], tokens[last - 1][2])
            if group.direction == "forward":
                limit = min((stop for stop in stops if stop >= last), default=len(tokens))
                if group.reach is not None:
                    limit = min(limit, last + group.reach + 1)
                tests = next((i for i in range(last, limit) if tokens[i][0] in PREPOSITIONS), limit)
                scopes.append(_Scope(group, own[1], _position(tokens, limit, end), own, _position(tokens, tests, end)))
            else:
                limit = max((stop for stop in stop_ends if stop <= first), default=0)
                if group.reach is not None:
                    limit = max(limit, first - group.reach - 1)
                scopes.append(_Scope(group, tokens[limit][1] if limit else start, own[0], own, own[0]))
        return scopes

    def _find(self, words: Sequence[str]) -> list[tuple[_Trigger, int, int]]:
        """Find the triggers, (trigger, first token, token after the last); the longest at a place hides what lies inside it."""
        found: list[tuple[_Trigger, int, int]] = []
        position = 0
        while position < len(words):
            length = 1
            for trigger in self._by_first.get(words[position], ()):
                size = len(trigger.words)
                if size < length:
                    break
                if size == 1 or _same(trigger.words, words[position : position + size]):
                    found.append((trigger, position, position + size))
                    length = size
            position += length
        return found


def _tokens(text: str, start: int, end: int) -> list[tuple[str, int, int]]:
    tokens = [(match.group().lower(), match.start(), match.end()) for match in _TOKEN.finditer(text, start, end)]
    shorts = [(match.group().lower(), match.start(), match.end()) for match in _SHORT.finditer(text, start, end)]
    if shorts:
        taken = {match[1] for match in shorts} | {match[1] + 2 for match in shorts}
        tokens = sorted([token for token in tokens if token[1] not in taken] + shorts, key=lambda token: token[1])
    return tokens


def _spellings(phrase: str) -> Iterator[tuple[str, ...]]:
    for words in product(*(word.split("|") for word in phrase.split())):
        if spelled := tuple(word for word in words if word):
            yield spelled


def _same(pattern: tuple[str, ...], words: Sequence[str]) -> bool:
    if len(words) < len(pattern):
        return False
    return all(p == w or p == "~" or (p == "#" and w.isdigit()) for p, w in zip(pattern, words, strict=True))


def _clauses(words: Sequence[str]) -> list[int]:
    """Find the commas that begin a clause, "no neck rigidity, diuresis was preserved": a verb comes before the list goes on."""
    commas = []
    for comma, word in enumerate(words):
        if word != ",":
            continue
        for following in words[comma + 1 : comma + 8]:
            if following in (",", "or", "and", "nor"):
                break
            if following in CLAUSE_VERBS:
                commas.append(comma)
                break
    return commas


def _position(tokens: Sequence[tuple[str, int, int]], index: int, end: int) -> int:
    return tokens[index][1] if index < len(tokens) else end


def _holds(scope: _Scope, start: int, end: int, test: bool) -> bool:
    if test and scope.group.about_results:
        return False
    opened, closed = scope.trigger
    if opened < start < closed:
        return scope.group.effect == "negated"  # "not palpable", "not involved by tumour": the mention is part of the trigger
    if scope.group.direction == "backward":
        return scope.start < end <= scope.end
    # a mention that brings its own trigger is meant too: "no fever" marked whole
    return scope.start <= start < (scope.reaches_tests if test else scope.end) or (opened == start and closed < end)
