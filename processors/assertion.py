"""What a mention asserts: present, negated, historical, hypothetical, or about the family. ConText-style rules.

A trigger ("denies", "history of", "if") opens a scope in its sentence, forward or backward; a stop word ("but", "which") or the
sentence's end closes it, a condition only what cannot go on with it ("if he develops fever, is sick or there is pain"); a heading
begins a sentence; a pseudo-trigger ("gram negative") only hides the triggers inside it. A mention inside a scope takes the
scope's effect; in several, the first of `ORDER` wins. Sections give a default where no scope says otherwise. The words are data
(`processors.triggers`, with the sources), the algorithm is Chapman 2001 (NegEx) and Harkema 2009 (ConText).

Why not a library: medspacy 1.3.1 and negspacy 1.1.0 need spaCy (67 and 45 distributions, and medspacy's pins hold numpy below 2),
pyConTextNLP 0.7 had its last release years ago and compiles a regular expression per trigger and call. None is fit for a light
base install at thousands of notes a second.
"""

import re
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from processors.events import Assertion
from processors.sections import Section, section_at
from processors.sentences import sentence_starts
from processors.triggers import CLAUSE_VERBS, PREPOSITIONS, TRIGGERS, Effect, Group

# Where several hold, the first wins. Conditional and hypothetical stand before negated ("return if no better" denies nothing),
# negated before uncertain ("no signs suggesting X") and family ("no family history of X" is a risk nobody has), family before
# historical ("mother had a history of X"). What is conditional or uncertain is published as hypothetical.
ORDER: Final[Mapping[Effect, Assertion]] = MappingProxyType(
    {
        "conditional": "hypothetical",
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


_TOKEN: Final = re.compile(r"[^\W_]+(?:['’][a-z]*)?|[;:?,∅☐□☑☒]|\[[ xX✓✔]?\]|[-+]ve\b|\([-+]\)|(?<!\w)[-–—](?!\w)")
_SHORT: Final = re.compile(r"\b(?:[whsrcWHSRC]/[oOpP]|[pP]/[wW])\b")  # w/o, h/o, s/p, r/o, c/o, p/w

# Labels, as models spell them in lower case, of what is done or where, not of what is wrong: a test with a negative result is
# still a test that was done. A label that does not stand here is taken for a condition, a symptom or a medication.
TESTS: Final = frozenset(
    _words("""
    test tests lab lab_test lab_value measurement imaging diagnostic_procedure procedure therapeutic_procedure treatment
    clinical_event event anatomy body_part biological_structure
    """)
)


class _Node:
    """A place in the tree of phrases: which words may follow, and which groups have a phrase that ends here."""

    __slots__ = ("after", "any_number", "any_word", "groups")

    def __init__(self) -> None:
        self.after: dict[str, _Node] = {}
        self.any_word: _Node | None = None  # behind "~"
        self.any_number: _Node | None = None  # behind "#"
        self.groups: list[Group] = []

    def insert(self, phrase: Sequence[str], group: Group) -> None:
        """Add every spelling of a phrase; its words may be alternatives."""
        if not phrase:
            if group not in self.groups:
                self.groups.append(group)
            return
        for word in phrase[0].split("|"):
            self._next(word).insert(phrase[1:], group)

    def _next(self, word: str) -> "_Node":
        if not word:
            return self
        if word == "~":
            self.any_word = self.any_word or _Node()
            return self.any_word
        if word == "#":
            self.any_number = self.any_number or _Node()
            return self.any_number
        return self.after.setdefault(word, _Node())

    def longest(self, words: Sequence[str], position: int) -> tuple[int, Sequence[Group]]:
        """Return where the longest phrase that begins at a position ends, and its groups; (position, ()) for none."""
        best: tuple[int, Sequence[Group]] = (position, self.groups)
        if position < len(words):
            word = words[position]
            for node in (
                self.after.get(word),
                self.any_word,
                self.any_number if self.any_number and word.isdigit() else None,
            ):
                if node is not None:
                    found = node.longest(words, position + 1)
                    if found[1] and (found[0] > best[0] or not best[1]):
                        best = found
        return best


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
        self._tree = _Node()
        for group in triggers:
            for phrase in group.phrases:
                self._tree.insert(phrase.lower().split(), group)

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
        starts = sorted({0, *sentence_starts(text), *(section.header for section in sections)})
        scopes: dict[int, list[_Scope]] = {}
        decided: list[Assertion] = []
        for position, (start, end) in enumerate(spans):
            index = bisect_right(starts, start) - 1
            if index not in scopes:
                finish = starts[index + 1] if index + 1 < len(starts) else len(text)
                scopes[index] = self._scopes(text, starts[index], finish)
            test = labels is not None and labels[position].lower() in TESTS
            hit = {s.group.effect for s in scopes[index] if _holds(s, start, end, test) and not _part_of_a_name(s, spans)}
            decided.append(next((ORDER[effect] for effect in ORDER if effect in hit), self._default(sections, start)))
        return decided

    def _default(self, sections: Sequence[Section], start: int) -> Assertion:
        return self._sections.get(section_at(sections, start), "present") if sections else "present"

    def _scopes(self, text: str, start: int, end: int) -> list[_Scope]:
        tokens = [*_tokens(text, start, end), (".", end, end)]
        words = [word for word, _, _ in tokens]
        found = self._find(words)
        stops = [trigger for trigger in found if trigger[0].effect == "stop"]
        opening = [trigger for trigger in found if trigger[0].effect not in ("stop", "pseudo")]
        clauses = _clauses(words) if opening else []
        scopes = []
        for group, first, last in opening:
            own = (tokens[first][1], tokens[last - 1][2])
            mine = [stop for stop in stops if group.effect not in stop[0].spares]
            if group.direction == "forward":
                ends = [begin for stop, begin, _ in mine if begin >= last and stop.direction != "backward"]
                conditional = group.effect == "conditional"
                ends += [c for c, verb in clauses if c >= last and (not conditional or _came_to_pass(words, c, verb))]
                limit = min(ends, default=len(tokens))
                if group.reach is not None:  # the words right behind: "negative cultures | has endocarditis"
                    limit = min(limit, last + group.reach + 1)
                    limit = next((i for i in range(last + 1, limit) if words[i] in CLAUSE_VERBS), limit)
                tests = next((i for i in range(last, limit) if tokens[i][0] in PREPOSITIONS), limit)
                scopes.append(_Scope(group, own[1], _position(tokens, limit, end), own, _position(tokens, tests, end)))
            else:
                # a stop right before belongs to the trigger: "has | been excluded"
                limit = max((after for stop, _, after in mine if after < first and stop.direction != "forward"), default=0)
                if group.reach is not None:
                    limit = max(limit, first - group.reach - 1)
                scopes.append(_Scope(group, tokens[limit][1] if limit else start, own[0], own, own[0]))
        return scopes

    def _find(self, words: Sequence[str]) -> list[tuple[Group, int, int]]:
        """Find the triggers, (group, first token, token after the last); the longest at a place hides what lies inside it."""
        found: list[tuple[Group, int, int]] = []
        begins, number, position = self._tree.after, self._tree.any_number, 0
        while position < len(words):
            word = words[position]
            node = begins.get(word) or (number if word.isdigit() else None)
            if node is None:
                position += 1
                continue
            last, groups = node.longest(words, position + 1)
            found.extend((group, position, last) for group in groups)
            position = last if groups else position + 1
        return found


def _tokens(text: str, start: int, end: int) -> list[tuple[str, int, int]]:
    tokens = [
        (match.group().lower().replace(" ", ""), match.start(), match.end()) for match in _TOKEN.finditer(text, start, end)
    ]
    if text.find("/", start, end) >= 0:
        shorts = [(match.group().lower(), match.start(), match.end()) for match in _SHORT.finditer(text, start, end)]
        taken = {match[1] for match in shorts} | {match[1] + 2 for match in shorts}
        tokens = sorted([token for token in tokens if token[1] not in taken] + shorts, key=lambda token: token[1])
    return tokens


def _clauses(words: Sequence[str]) -> list[tuple[int, int]]:
    """Find the commas that begin a clause, "no neck rigidity, diuresis was preserved": a verb comes before the list goes on.

    Gives (comma, verb) as indices of `words`.
    """
    commas = []
    aside = False  # "his brother, who lives abroad, was treated": the second comma goes on with the first clause
    for comma, word in enumerate(words):
        if word != ",":
            continue
        closes, aside = aside, words[comma + 1 : comma + 2] in (["who"], ["whose"])
        if closes:
            continue
        joined = words[comma + 1 : comma + 2] == [
            "and"
        ]  # ", and the rest was normal" begins one only where one was told before
        if joined and CLAUSE_VERBS.isdisjoint(words[max(0, comma - 8) : comma]):
            continue
        for verb, following in enumerate(words[comma + 1 + joined : comma + 8], comma + 1 + joined):
            if following in (",", "or", "and", "nor"):
                break
            if following in CLAUSE_VERBS or (following == "present" and _each_denied(words, comma)):
                commas.append((comma, verb))
                break
    return commas


def _each_denied(words: Sequence[str], comma: int) -> bool:
    """Say whether two items before a comma have a "no" each: in "no SOB, no CP, cough present" the third is told apart."""
    before = [i for i in range(comma) if words[i] == ","]
    return bool(before) and words[before[-1] + 1] in ("no", "nil") and not {"no", "nil"}.isdisjoint(words[: before[-1]])


def _came_to_pass(words: Sequence[str], comma: int, verb: int) -> bool:
    """Say whether a clause tells what happened, with a subject: "unclear if viral, the film was normal" ends the condition."""
    return verb > comma + 1 and words[verb] in ("was", "were", "had")


def _position(tokens: Sequence[tuple[str, int, int]], index: int, end: int) -> int:
    return tokens[index][1] if index < len(tokens) else end


def _part_of_a_name(scope: _Scope, spans: Sequence[tuple[int, int]]) -> bool:
    """Say whether a mention was marked together with the trigger: "absence of appetite" is what the patient has."""
    opened, closed = scope.trigger
    return scope.group.nominal and any(start <= opened and closed < end for start, end in spans)


def _holds(scope: _Scope, start: int, end: int, test: bool) -> bool:
    if test and scope.group.about_results:
        return False
    opened, closed = scope.trigger
    if opened < start < closed:
        # the mention is part of the trigger: "not palpable", "not involved by tumour"; "should pain recur"
        return scope.group.effect in ("negated", "conditional")
    if scope.group.direction == "backward":
        return scope.start < end <= scope.end
    # a mention that brings its own trigger is meant too: "no fever" marked whole
    return scope.start <= start < (scope.reaches_tests if test else scope.end) or (opened == start and closed < end)
