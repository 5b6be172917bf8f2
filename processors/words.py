"""The words of texts, for search by words beside search by meaning: Okapi BM25 as sparse vectors, and how the two are put together.

    BM25(question, passage) = sum over the question's words of  idf(word) * tf (k1 + 1) / (tf + k1 (1 - b + b length / usual))

(Robertson and Zaragoza 2009.) A passage's vector holds the second factor, word by word; the first changes with every passage that
is stored, so it is the vector store's (Qdrant's modifier "idf"), which multiplies and adds. A word's place in the vector is a hash
of it, so no vocabulary is kept: of 100,000 words one or two share a place. `usual` is fixed, so that a passage's vector depends on
nothing but the passage.

Words are runs of letters and digits, compatibility forms composed (NFKC), case folded; no stemming, no stop words: idf weighs
them down.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import blake2b
from typing import Final

K1: Final = 1.2  # as Lucene has it
B: Final = 0.75
USUAL: Final = 150  # words of a passage: what 256 tokens of clinical English hold
_WORD: Final = re.compile(r"[^\W_]+")
BY_MEANING: Final = 0.6  # of a fused score, the rest is by words: best of .4 to .8 on mtsamples and on questions in other words


@dataclass(frozen=True, slots=True)
class Words:
    """A sparse vector: `values` at `indices`, which differ and ascend. Empty for a text without words."""

    indices: tuple[int, ...]
    values: tuple[float, ...]


def words(text: str) -> list[str]:
    """Return a text's words, in order."""
    return _WORD.findall(unicodedata.normalize("NFKC", text).casefold())


def of_passage(text: str) -> Words:
    """Return what a passage is found by: each word's weight, from 0 to `K1 + 1`."""
    counts = Counter(words(text))
    stretch = K1 * (1 - B + B * counts.total() / USUAL)
    return words_of({word: times * (K1 + 1) / (times + stretch) for word, times in counts.items()})


def words_of(weights: Mapping[str, float]) -> Words:
    """Return words with their weights as a vector."""
    places: dict[int, float] = {}
    for word, weight in weights.items():
        place = int.from_bytes(blake2b(word.encode(), digest_size=4).digest(), "big")
        places[place] = places.get(place, 0.0) + weight
    ordered = sorted(places)
    return Words(tuple(ordered), tuple(round(float(places[place]), 6) for place in ordered))


def scale(highest: float, share: float) -> float:
    """Return by what BM25 scores come to lie in [0, 1], given the highest and which share of the question its passage has.

    A question none of whose words but "the" occurs anywhere has a highest score too, which must not count as a find.
    """
    return share / highest if highest > 0 else 0.0


def fused(cosine: float, word: float) -> float:
    """Put a cosine and a score by words in [0, 1] together: in [0, 1].

    A convex combination of both scaled: better than fusing ranks (Bruch, Gai and Ingber 2023), and it says how good the best is.
    """
    return BY_MEANING * max(0.0, cosine) + (1 - BY_MEANING) * word
