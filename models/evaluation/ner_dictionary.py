"""A dictionary of a set's training part: what an entity model is measured against, where that part is at hand.

Every marked mention is looked for again, word for word and whatever its case, the longest first, from left to right. A mention
speaks that is marked in at least half of the places where the training part has it, as the type that it most often has there.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from models.evaluation.ner_corpora import Document
from models.tasks import Span

_WORD: Final = re.compile(r"\w+|[^\w\s]")
_Words = tuple[str, ...]


class Dictionary:
    """Finds the mentions of documents in other texts, in the types of their gold spans."""

    def __init__(self, documents: Sequence[Document]) -> None:
        marked: dict[_Words, Counter[str]] = defaultdict(Counter)
        for document in documents:
            for gold in document.gold:
                if words := tuple(word for word, _, _ in _words(document.text[gold.start : gold.end])):
                    marked[words][gold.label] += 1
        longest = max(map(len, marked), default=0)
        seen: Counter[_Words] = Counter()
        for document in documents:
            words = tuple(word for word, _, _ in _words(document.text))
            for start in range(len(words)):
                for size in range(1, min(longest, len(words) - start) + 1):
                    if (some := words[start : start + size]) in marked:
                        seen[some] += 1
        self._types: Mapping[_Words, str] = {
            words: labels.most_common(1)[0][0] for words, labels in marked.items() if 2 * labels.total() >= seen[words]
        }
        self._longest = max(map(len, self._types), default=0)

    def find(self, text: str) -> list[Span]:
        """Return the mentions of a text, none overlapping, each with the score 1."""
        words = list(_words(text))
        found: list[Span] = []
        at = 0
        while at < len(words):
            for size in range(min(self._longest, len(words) - at), 0, -1):
                if (label := self._types.get(tuple(word for word, _, _ in words[at : at + size]))) is not None:
                    found.append(Span(label, words[at][1], words[at + size - 1][2], 1.0))
                    at += size
                    break
            else:
                at += 1
        return found


def _words(text: str) -> Iterator[tuple[str, int, int]]:
    for found in _WORD.finditer(text):
        yield found[0].casefold(), found.start(), found.end()
