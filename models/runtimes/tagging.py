"""From scores per word and tag (BIO) to spans: the Viterbi path that obeys BIO, and the probability of exactly that span.

Pure arithmetic on numpy arrays, shared by serving, training and evaluation.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache

import numpy as np
from numpy.typing import NDArray

from models.tasks import Floats

# A word this sure to lie outside is taken as outside before the path is sought: most words are, and the search is a loop.
SURELY_OUTSIDE = 0.995


@dataclass(frozen=True, slots=True)
class Head:
    """A set of BIO tags over one stretch of a model's output columns.

    `tags` are in the order of the columns, from `first` on; exactly one is "O". `types` renames the tags' types into
    published labels; a type that a non-empty map lacks is not published.
    """

    name: str
    tags: tuple[str, ...]
    first: int = 0
    types: Mapping[str, str] = field(default_factory=dict)

    @property
    def columns(self) -> slice:
        """The columns of the model's output that are this head's."""
        return slice(self.first, self.first + len(self.tags))

    def label(self, kind: str) -> str | None:
        """Return the published label of a tag's type, None where it is not published."""
        return self.types.get(kind) if self.types else kind

    @property
    def kinds(self) -> tuple[str, ...]:
        """Return the tags' types."""
        return tuple(dict.fromkeys(tag[2:] for tag in self.tags if tag != "O"))

    @property
    def labels(self) -> tuple[str, ...]:
        """Return the labels that can be published."""
        return tuple(dict.fromkeys(label for kind in self.kinds if (label := self.label(kind)) is not None))

    def problem(self) -> str | None:
        """Say what is wrong with the tags, None where nothing is."""
        if self.tags.count("O") != 1:
            return f"head {self.name}: exactly one tag must be O"
        for tag in self.tags:
            if tag != "O" and not (tag[:2] in ("B-", "I-") and len(tag) > 2):
                return f"head {self.name}: {tag!r} is no BIO tag"
            if tag[:2] == "I-" and f"B-{tag[2:]}" not in self.tags:
                return f"head {self.name}: {tag!r} has no B- tag beside it"
        return None


@dataclass(frozen=True, slots=True)
class WordSpan:
    """A span in words: `first` to `last`, both within; `kind` as the tags name it; `score` in [0, 1]."""

    kind: str
    first: int
    last: int
    score: float


def softmax(logits: Floats) -> Floats:
    """Softmax over the last axis, safe for large values: same shape, rows sum to 1."""
    shifted = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return np.asarray(shifted / shifted.sum(axis=-1, keepdims=True), dtype=np.float32)


def decode(logits: Floats, tags: Sequence[str]) -> list[WordSpan]:
    """Return the spans of the best path under BIO's rules; logits are [words, len(tags)].

    A span's score is the model's probability of exactly that span, words taken as independent:
    P(B at the first) x product of P(I within) x (1 - P(I just after)).
    """
    if not len(logits):
        return []
    probabilities = softmax(logits)
    outside = tags.index("O")
    open_words = probabilities[:, outside] < SURELY_OUTSIDE
    spans: list[WordSpan] = []
    for first, last in _runs(open_words):
        path = _viterbi(np.log(probabilities[first:last] + 1e-12), tags)
        spans += _spans(path, first, probabilities, tags)
    return spans


def _runs(flags: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """Return [first, last) of every run of true flags."""
    edges = np.flatnonzero(np.diff(np.concatenate(([False], flags, [False])).astype(np.int8)))
    return [(int(a), int(b)) for a, b in zip(edges[::2], edges[1::2], strict=True)]


@cache
def _forbidden(tags: tuple[str, ...]) -> Floats:
    """Cost [from, to] of a step: I-x only after B-x or I-x."""
    cost = np.zeros((len(tags), len(tags)), dtype=np.float32)
    for j, to in enumerate(tags):
        if to[:2] == "I-":
            for i, source in enumerate(tags):
                if source == "O" or source[2:] != to[2:]:
                    cost[i, j] = -1e4
    return cost


def _viterbi(scores: Floats, tags: Sequence[str]) -> list[int]:
    steps = _forbidden(tuple(tags))
    start = np.array([-1e4 if tag[:2] == "I-" else 0.0 for tag in tags], dtype=np.float32)
    best = scores[0] + start
    back = np.zeros(scores.shape, dtype=np.int64)
    for word in range(1, len(scores)):
        candidates = best[:, None] + steps
        back[word] = candidates.argmax(axis=0)
        best = candidates.max(axis=0) + scores[word]
    tag = int(best.argmax())
    path = [tag]
    for word in range(len(scores) - 1, 0, -1):
        tag = int(back[word, tag])
        path.append(tag)
    return path[::-1]


def _spans(path: Sequence[int], offset: int, probabilities: Floats, tags: Sequence[str]) -> list[WordSpan]:
    spans: list[WordSpan] = []
    word = 0
    while word < len(path):
        tag = tags[path[word]]
        if tag == "O":
            word += 1
            continue
        kind, first = tag[2:], offset + word
        inside = tags.index(f"I-{kind}") if f"I-{kind}" in tags else None
        score = float(probabilities[first, path[word]])
        word += 1
        while inside is not None and word < len(path) and path[word] == inside:
            score *= float(probabilities[offset + word, inside])
            word += 1
        after = offset + word
        if inside is not None and after < len(probabilities):
            score *= 1.0 - float(probabilities[after, inside])
        spans.append(WordSpan(kind, first, after - 1, min(max(score, 0.0), 1.0)))
    return spans
