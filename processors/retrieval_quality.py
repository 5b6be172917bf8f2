"""How well notes are found: a description asks, the note that it describes is the one right answer.

A file has two sections: by meaning alone, which is the model's, and by meaning and words, as `vigil search` asks.

Layout: `models.evaluation.question_sets`. Every note of a file is in the index, cut as the vectors lane cuts it; a note
counts with its best chunk.

    recall@k   share of questions whose note is among the first k
    nDCG@10    with one right answer: 1 / log2(1 + its rank), 0 past the tenth

A note that ties with others takes the worst place among them. Intervals are 95%, bootstrapped over questions; where that says
nothing (few questions, or all alike) recall has Wilson's and nDCG none. Baselines: the same network in fp32, where the caller has
it, and BM25.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from models.evaluation.measures import Bootstrap, Metric, wilson
from models.evaluation.question_sets import Questions, gather, notes_in
from models.evaluation.report import Curves, Evaluation, Progress, Section, silent
from models.tasks import Floats, TextEmbedder
from processors.synonyms import Asked
from processors.synonyms import asked as put
from processors.vectors import chunks
from processors.words import K1, B, fused, of_passage, scale, words

_DEEPEST: Final = 100  # of the plotted recall


def evaluate(
    model: TextEmbedder,
    data: Path,
    *,
    full: TextEmbedder | None = None,
    rounds: int = 1000,
    progress: Progress = silent,
) -> Evaluation:
    """Measure an embedder on every file of the layout; `full` is the same network in fp32. Raises `Permanent` as `gather`."""
    files, notes = gather(data)
    sections = []
    for asked in files:
        index = _index(model, asked, progress, asked.name)
        ranks = {"model": _places(_by_meaning(index, asked), asked)}
        if full is not None:
            ranks["fp32"] = _places(embedded_scores(full, asked, progress, f"{asked.name}, fp32"), asked)
        ranks["BM25"] = _places(bm25_scores(asked.notes, asked.questions), asked)
        both = {"search": _places(_by_both(index, asked), asked), "meaning": ranks["model"], "BM25": ranks["BM25"]}
        deep = [k for k in range(1, _DEEPEST + 1) if k <= len(asked.notes)]
        lines = {
            kind: (deep, [float((places <= k).mean()) for k in deep])
            for kind, places in {**ranks, "search": both["search"]}.items()
        }
        chart = Curves("the note among the first k", "k", "recall@k", lines, logarithmic=True)
        about = (
            f"{len(asked.questions):,} questions to {len(asked.notes):,} notes; intervals bootstrapped over questions, "
            "Wilson's for recall where that says nothing"
        )
        sections.append(Section(asked.name, about, tuple(figures(ranks, rounds)), (chart,)))
        sections.append(Section(f"{asked.name}, by meaning and words", about, tuple(figures(both, rounds))))
    return Evaluation("retrieval", model.identity, tuple(sections), tuple(notes))


def first(model: TextEmbedder, files: Sequence[Questions]) -> float:
    """Return recall@1 over all questions of the files: one figure, to compare models of one run by."""
    found = np.concatenate([_places(embedded_scores(model, asked), asked) for asked in files])
    return float((found <= 1).mean())


def by_meaning(model: TextEmbedder, asked: Questions, progress: Progress = silent) -> dict[str, float]:
    """Return recall@1, recall@10 and nDCG@10 of one file by meaning alone, as `evaluate` has them."""
    places = _places(embedded_scores(model, asked, progress, asked.name), asked)
    return {name: float(gain(places).mean()) for name, gain in _GAINS.items()}


def figures(ranks: Mapping[str, NDArray[np.int64]], rounds: int) -> list[Metric]:
    """Recall@1, recall@10 and nDCG@10 of the first method, with the others as baselines and the paired differences."""
    bootstrap = Bootstrap(np.arange(len(next(iter(ranks.values())))), rounds=rounds)
    found = []
    for name, gain in _GAINS.items():
        gains = {kind: gain(places) for kind, places in ranks.items()}
        mine, *_ = gains.values()
        baselines = {}
        for kind, other in list(gains.items())[1:]:
            one = _mean(bootstrap, name, other)
            difference = _mean(bootstrap, name, mine - other, ends=())
            baselines[kind] = Metric(name, one.value, one.low, one.high, one.n, {"difference": difference})
        own = _mean(bootstrap, name, mine)
        found.append(Metric(name, own.value, own.low, own.high, own.n, baselines))
    return found


def _mean(bootstrap: Bootstrap, name: str, gains: NDArray[np.float64], *, ends: Sequence[float] = (0.0, 1.0)) -> Metric:
    found = bootstrap.metric(name, lambda weights: float((weights * gains).sum() / weights.sum()), ends=ends)
    if ends and not math.isfinite(found.low) and np.isin(gains, (0, 1)).all() and not name.startswith("nDCG"):
        low, high = wilson(int(gains.sum()), len(gains))
        return Metric(name, found.value, low, high, found.n)
    return found


def _recall(k: int) -> Any:
    return lambda places: (places <= k).astype(np.float64)


def _ndcg(places: NDArray[np.int64]) -> NDArray[np.float64]:
    return np.where(places <= 10, 1 / np.log2(1 + places.astype(np.float64)), 0.0)


_GAINS: Final[Mapping[str, Callable[[NDArray[np.int64]], NDArray[np.float64]]]] = {
    "recall@1": _recall(1),
    "recall@10": _recall(10),
    "nDCG@10": _ndcg,
}


def _places(scores: NDArray[np.float32], asked: Questions) -> NDArray[np.int64]:
    """Rank of the right note for each question, from 1."""
    right = scores[np.arange(len(asked.answers)), list(asked.answers)]
    places: NDArray[np.int64] = (scores >= right[:, None]).sum(axis=1)
    return places


def embedded_scores(model: TextEmbedder, asked: Questions, progress: Progress = silent, what: str = "") -> NDArray[np.float32]:
    """Cosine of each question to each note's best chunk: [questions, notes]. A question too long asks with its first chunk."""
    return _by_meaning(_index(model, asked, progress, what), asked)


@dataclass(frozen=True, slots=True, eq=False)
class _Index:
    """All passages of a file's notes: `owners` [passages] say of which note; the others are [n, dimensions].

    `questions` are as they stand, `put` as `vigil search` puts them.
    """

    passages: list[str]
    owners: NDArray[np.int64]
    vectors: Floats
    questions: Floats
    put: Floats


def _index(model: TextEmbedder, asked: Questions, progress: Progress, what: str) -> _Index:
    pieces: list[str] = []
    owners: list[int] = []
    rows = [np.empty((0, model.dimensions), np.float32)]
    for at, note in enumerate(asked.notes):
        progress(what, at, len(asked.notes) + 1)
        if own := _cut(model, note):
            pieces += own
            owners += [at] * len(own)
            rows.append(model.embed(own))
    questions = model.embed([_opening(model, text) for text in asked.questions])
    spoken = model.embed([_opening(model, put(text).text) for text in asked.questions])
    progress(what, len(asked.notes) + 1, len(asked.notes) + 1)
    return _Index(pieces, np.array(owners, np.int64), np.concatenate(rows), questions, spoken)


def _opening(model: TextEmbedder, question: str) -> str:
    return (_cut(model, question)[:1] or [""])[0]


def _by_meaning(index: _Index, asked: Questions) -> Floats:
    return _best(index, asked, (index.vectors @ question for question in index.questions))


def _by_both(index: _Index, asked: Questions) -> Floats:
    """Score as `vigil search` does, over all passages: `processors.words.fused`."""
    bm25 = _Words(index.passages)

    def scores() -> Iterator[Floats]:
        for text, vector in zip(asked.questions, index.put, strict=True):
            question = put(text)
            found = bm25.scores(question)
            by = scale(float(found.max()), question.share(index.passages[int(found.argmax())])) if len(found) else 0.0
            cosines = (index.vectors @ vector).tolist()
            yield np.array([fused(one, word * by) for one, word in zip(cosines, found.tolist(), strict=True)], np.float32)

    return _best(index, asked, scores())


def _best(index: _Index, asked: Questions, scores: Iterable[Floats]) -> Floats:
    """Give each note its best passage's score: [questions, notes], from scores [passages] of each question."""
    found = np.full((len(asked.questions), len(asked.notes)), -1.0, np.float32)
    for row, of_passages in zip(found, scores, strict=True):
        np.maximum.at(row, index.owners, of_passages)
    return found


class _Words:
    """BM25 over passages as the vector store has it: weights by `processors.words`, the idf over all of them."""

    def __init__(self, passages: Sequence[str]) -> None:
        self._number = len(passages)
        self._where: dict[int, list[int]] = {}
        self._weights: dict[int, list[float]] = {}
        for at, passage in enumerate(passages):
            vector = of_passage(passage)
            for place, weight in zip(vector.indices, vector.values, strict=True):
                self._where.setdefault(place, []).append(at)
                self._weights.setdefault(place, []).append(weight)

    def scores(self, question: Asked) -> Floats:
        """Return BM25 of each passage: [passages]."""
        found = np.zeros(self._number, np.float32)
        vector = question.words
        for place, times in zip(vector.indices, vector.values, strict=True):
            if where := self._where.get(place):
                found[where] += _rarity(self._number, len(where)) * times * np.array(self._weights[place], np.float32)
        return found


def _rarity(number: int, having: int) -> float:
    """Lucene's idf of a word that so many of so many texts have."""
    return math.log(1 + (number - having + 0.5) / (having + 0.5))


def passages(model: TextEmbedder, data: Path) -> list[str]:
    """Return the passages of a folder's notes, cut as the vectors lane cuts them. Raises `Permanent` where there are none."""
    return [piece for note in notes_in(data) for piece in _cut(model, note)]


def _cut(model: TextEmbedder, text: str) -> list[str]:
    return [text[chunk.start : chunk.end] for chunk in chunks(text, model.offsets(text), model.limit)]


def bm25_scores(notes: Sequence[str], questions: Sequence[str]) -> NDArray[np.float32]:
    """Okapi BM25 (Robertson and Zaragoza 2009, with Lucene's idf, never negative) of each question to each note.

    sum over the question's words of  log(1 + (N - df + 0.5) / (df + 0.5)) * tf (k1 + 1) / (tf + k1 (1 - b + b length / mean))
    Words are those of `processors.words`.
    """
    counts = [Counter(words(note)) for note in notes]
    lengths = np.array([sum(count.values()) for count in counts], np.float64)
    stretch = K1 * (1 - B + B * lengths / max(float(lengths.mean()), 1e-9))
    postings: dict[str, tuple[list[int], list[int]]] = {}
    for at, count in enumerate(counts):
        for word, times in count.items():
            places, often = postings.setdefault(word, ([], []))
            places.append(at)
            often.append(times)
    scores = np.zeros((len(questions), len(notes)), np.float32)
    for row, question in enumerate(questions):
        for word in words(question):
            if word in postings:
                where, times_ = np.array(postings[word][0]), np.array(postings[word][1], np.float64)
                scores[row, where] += _rarity(len(notes), len(where)) * times_ * (K1 + 1) / (times_ + stretch[where])
    return scores
