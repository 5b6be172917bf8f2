"""What clinicians call one thing: a search for "heart attack" asks for "NSTEMI" too, and one for "broken hip" for "#NOF".

A general model of meaning knows few of a ward's abbreviations, and words alone find none but their own. So a question asks for all
names of what it names (`synonyms.txt`): the model reads the plain full name in an abbreviation's place, BM25 is asked for the other
names' words beside the question's own, and a passage that has one of the names has what was asked (`Asked.share`). Notes are left
as they are: the table may change without a rebuild.
"""

import re
from collections import defaultdict
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

from processors.words import Words, words, words_of

TABLE: Final = Path(__file__).with_name("synonyms.txt")
_BESIDE: Final = 0.5  # what another name weighs, its words together, of a word that was asked for
_WORD: Final = re.compile(r"[^\W_]+")
_Name = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Part:
    """A stretch of a question, `text[start:end]`: its own words, and the other names of what they name (a plain word: none)."""

    own: _Name
    others: tuple[_Name, ...]
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Asked:
    """A question as it is put: `text` to the model, `words` to BM25."""

    text: str
    words: Words
    _parts: tuple[_Part, ...]

    def share(self, passage: str) -> float:
        """Return which share of the question's words a passage has, each once, by any of their names: in [0, 1]."""
        there = set(words(passage))
        weights = {part.own: len(set(part.own)) for part in self._parts}
        had = {part.own: _had(part, there) for part in self._parts}
        return sum(had[own] * weight for own, weight in weights.items()) / sum(weights.values()) if weights else 0.0


def _had(part: _Part, there: Collection[str]) -> float:
    if any(all(word in there for word in name) for name in part.others):
        return 1.0
    own = set(part.own)
    return sum(word in there for word in own) / len(own)


def asked(question: str) -> Asked:
    """Put a question together with the other names of what it names."""
    full, sets = _table()
    parts = tuple(_parts(question, sets))
    weights: dict[str, float] = defaultdict(float)
    for part in parts:
        for word in part.own:
            weights[word] += 1.0
    for name in {name for part in parts for name in part.others}:
        for word in name:
            weights[word] = max(weights[word], _BESIDE / len(name))
    text, at = "", 0
    for part in parts:
        if (plain := full.get(part.own)) is not None:
            text, at = text + question[at : part.start] + plain, part.end
    return Asked(text + question[at:], words_of(weights), parts)


def _parts(question: str, sets: dict[_Name, tuple[_Name, ...]]) -> Iterator[_Part]:
    found = [(match.start(), match.end()) for match in _WORD.finditer(question)]
    spelled = [question[start:end].casefold() for start, end in found]
    at = 0
    while at < len(found):
        for size in range(min(_longest(), len(found) - at), 0, -1):
            own = tuple(spelled[at : at + size])
            if own in sets or size == 1:
                yield _Part(own, sets.get(own, ()), found[at][0], found[at + size - 1][1])
                at += size
                break


@cache
def _table() -> tuple[dict[_Name, str], dict[_Name, tuple[_Name, ...]]]:
    """Return the plain full name of each abbreviation, and of each name all others of its sets."""
    full: dict[_Name, str] = {}
    sets: dict[_Name, tuple[_Name, ...]] = {}
    for line in TABLE.read_text(encoding="utf-8").splitlines():
        if not line.strip() or line.startswith("#"):
            continue
        alike, _, kinds = line.partition("<")
        names = [name.strip() for name in alike.split("|")]
        keys = {tuple(words(name)): name for name in names}
        every = (*keys, *(tuple(words(name)) for name in kinds.split("|") if name.strip()))
        for key, name in keys.items():
            sets[key] = tuple(dict.fromkeys((*sets.get(key, ()), *(other for other in every if other != key))))
            if name != names[0] and name != name.lower():
                full.setdefault(key, names[0])
    return full, sets


@cache
def _longest() -> int:
    return max(map(len, _table()[1]))
