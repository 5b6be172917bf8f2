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
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from processors.events import Assertion
from processors.sections import Section, section_at
from processors.sentences import sentence_starts
from processors.triggers import TRIGGERS, Direction, Effect

# Where several hold, the first wins. Hypothetical stands before negated ("return if no better" denies nothing), negated before
# family ("no family history of X" is a risk nobody has), family before historical ("mother had a history of X").
ORDER: Final[tuple[Assertion, ...]] = ("hypothetical", "negated", "family", "historical")

# What a section says about its mentions when no words do.
SECTION_DEFAULTS: Final[Mapping[str, Assertion]] = MappingProxyType(
    {
        "family-history": "family",
        "past-medical-history": "historical",
        "past-surgical-history": "historical",
        "instructions": "hypothetical",
    }
)

_TOKEN: Final = re.compile(r"[^\W_]+(?:['’][a-z]+)?|\(-\)|w/o|h/o|s/p|r/o|[;:?,()]|(?<!\w)[-–—](?!\w)")


@dataclass(frozen=True, slots=True)
class _Trigger:
    words: tuple[str, ...]
    effect: Effect
    direction: Direction


@dataclass(frozen=True, slots=True)
class _Scope:
    effect: Effect
    start: int
    end: int
    trigger_start: int
    trigger_end: int


class Asserter:
    """Decides assertions by a table of triggers. Made once, used from any thread."""

    def __init__(
        self,
        triggers: Mapping[tuple[Effect, Direction], Sequence[str]] = TRIGGERS,
        section_defaults: Mapping[str, Assertion] = SECTION_DEFAULTS,
    ) -> None:
        self._sections = dict(section_defaults)
        self._by_first: dict[str, list[_Trigger]] = {}
        for (effect, direction), phrases in triggers.items():
            for phrase in phrases:
                words = tuple(phrase.lower().split())
                self._by_first.setdefault(words[0], []).append(_Trigger(words, effect, direction))
        for listed in self._by_first.values():
            listed.sort(key=lambda trigger: -len(trigger.words))

    def decide(self, text: str, spans: Sequence[tuple[int, int]], sections: Sequence[Section] = ()) -> list[Assertion]:
        """Return the assertion of each span `(start, end)` of a text, in the order given. `sections` as `Sectioner` gives them."""
        starts = sentence_starts(text)
        scopes: dict[int, list[_Scope]] = {}
        decided: list[Assertion] = []
        for start, end in spans:
            index = bisect_right(starts, start) - 1
            if index not in scopes:
                finish = starts[index + 1] if index + 1 < len(starts) else len(text)
                scopes[index] = self._scopes(text, starts[index], finish)
            hit = {scope.effect for scope in scopes[index] if _holds(scope, start, end)}
            decided.append(next((effect for effect in ORDER if effect in hit), self._default(sections, start)))
        return decided

    def _default(self, sections: Sequence[Section], start: int) -> Assertion:
        return self._sections.get(section_at(sections, start), "present") if sections else "present"

    def _scopes(self, text: str, start: int, end: int) -> list[_Scope]:
        tokens = [(match.group().lower(), match.start(), match.end()) for match in _TOKEN.finditer(text, start, end)]
        words = [word for word, _, _ in tokens]
        found: list[tuple[_Trigger, int, int]] = []
        position = 0
        while position < len(words):
            matches = self._matches(words, position)
            if not matches:
                position += 1
                continue
            length = len(matches[0].words)
            found.extend((trigger, position, position + length) for trigger in matches)
            position += length
        stops = [(tokens[a][1], tokens[b - 1][2]) for trigger, a, b in found if trigger.effect == "stop"]
        scopes = []
        for trigger, first, last in found:
            if trigger.effect in ("stop", "pseudo"):
                continue
            opened, closed = tokens[first][1], tokens[last - 1][2]
            if trigger.direction != "backward":
                limit = min((s for s, _ in stops if s >= closed), default=end)
                scopes.append(_Scope(trigger.effect, closed, limit, opened, closed))
            if trigger.direction != "forward":
                limit = max((e for _, e in stops if e <= opened), default=start)
                scopes.append(_Scope(trigger.effect, limit, opened, opened, closed))
        return scopes

    def _matches(self, words: list[str], position: int) -> list[_Trigger]:
        candidates = self._by_first.get(words[position])
        if not candidates:
            return []
        found: list[_Trigger] = []
        for trigger in candidates:
            size = len(trigger.words)
            if found and size < len(found[0].words):
                break
            if size == 1 or _same(trigger.words, words[position : position + size]):
                found.append(trigger)
        return found


def _same(pattern: tuple[str, ...], words: list[str]) -> bool:
    if len(words) < len(pattern):
        return False
    return all(p == w or p == "~" or (p == "#" and w.isdigit()) for p, w in zip(pattern, words, strict=True))


def _holds(scope: _Scope, start: int, end: int) -> bool:
    if scope.start <= start and end <= scope.end:
        return True
    # a mention that brings its own trigger: "no fever" marked whole
    return scope.trigger_start == start and scope.trigger_end < end
