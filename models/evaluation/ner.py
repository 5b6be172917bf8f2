"""Strict entity figures: a predicted span counts only where start, end and type all equal the gold one.

    precision = hits / predicted      recall = hits / gold      F1 = 2 P R / (P + R)

Micro averages sum the counts over types first (the convention of the BC5CDR and NCBI-disease papers). Intervals are
percentile bootstrap over documents, so that correlated spans of one document stay together.
"""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from models.evaluation.measures import Metric
from models.evaluation.ner_corpora import Document, labels_of, read_folder
from models.runtimes.tagging import Head
from models.runtimes.token_classifier import OnnxTokenClassifier
from models.tasks import Span


@dataclass(frozen=True, slots=True)
class Score:
    """Counts and what follows from them. `n` are the gold spans."""

    hits: int
    predicted: int
    n: int

    @property
    def precision(self) -> float:
        """Share of predictions that are right; 0 where nothing was predicted."""
        return self.hits / self.predicted if self.predicted else 0.0

    @property
    def recall(self) -> float:
        """Share of gold spans that were found; 0 where there is none."""
        return self.hits / self.n if self.n else 0.0

    @property
    def f1(self) -> float:
        """Harmonic mean of both."""
        return 2 * self.hits / (self.predicted + self.n) if self.predicted + self.n else 0.0


@dataclass(frozen=True, slots=True)
class NerFigures:
    """Strict span and type figures: micro over all types, per type, and the micro F1's 95% interval."""

    micro: Score
    by_label: Mapping[str, Score]
    low: float
    high: float
    documents: int


Mapped = Mapping[str, str]

# What Vigil's labels are called in the sets that know fewer: BC5CDR (chemicals, diseases), NCBI-disease.
AS_CHEMICAL_DISEASE: Final = {"condition": "Disease", "symptom": "Disease", "medication": "Chemical"}
AS_DISEASE: Final = {"condition": "Disease", "symptom": "Disease"}
PRECISE: Final = ("condition", "symptom", "medication")  # what alerts and search lean on: precision before recall


def evaluate_folder(data: Path, model: OnnxTokenClassifier) -> list[Metric]:
    """Measure a token classifier on every annotated file in a folder: strict precision, recall and micro F1 of each.

    Twice where it can be: by the head whose types are the file's own ("own head", no threshold), and as the notes lane
    publishes ("published"), labels mapped. Case reports also get each label's F1, and `PRECISE` together.
    """
    metrics: list[Metric] = []
    for name, documents in read_folder(data).items():
        texts = [document.text for document in documents]
        labels = labels_of(documents)
        own = next((head for head in model.heads.values() if set(_kinds(head)) == labels), None)
        if own is not None and labels <= {"Chemical", "Disease"}:
            speaking = model.speaking(Head(own.name, own.tags, own.first))
            metrics += _metrics(f"{name}, own head", strict(documents, speaking.find(texts)))
        said = model.find(texts)
        if labels == {"Disease"}:
            metrics += _metrics(f"{name}, published", strict(documents, said, predicted_as=AS_DISEASE))
        elif labels <= {"Chemical", "Disease"}:
            metrics += _metrics(f"{name}, published", strict(documents, said, predicted_as=AS_CHEMICAL_DISEASE))
        else:
            figures = strict(documents, said)
            metrics += _metrics(f"{name}, published", figures)
            metrics += _metrics(f"{name}, published, {' + '.join(PRECISE)}", strict(documents, said, only=PRECISE))
            metrics += [
                _metrics(f"{name}, published, {label}", strict(documents, said, only=[label]))[-1] for label in figures.by_label
            ]
    return metrics


def _kinds(head: Head) -> set[str]:
    return {tag[2:] for tag in head.tags if tag != "O"}


def _metrics(name: str, figures: NerFigures) -> list[Metric]:
    """Precision, recall and F1 of a set; the interval is the F1's, for the others Wilson's on their own counts."""
    micro = figures.micro
    return [
        Metric(f"{name}: precision", micro.precision, *_wilson(micro.hits, micro.predicted), micro.predicted),
        Metric(f"{name}: recall", micro.recall, *_wilson(micro.hits, micro.n), micro.n),
        Metric(f"{name}: F1", micro.f1, figures.low, figures.high, figures.documents),
    ]


def _wilson(hits: int, n: int) -> tuple[float, float]:
    """Interval of a share (Wilson 1927, z = 1.96); nothing counted leaves everything open."""
    if not n:
        return 0.0, 1.0
    z2 = 1.96**2
    centre = (hits + z2 / 2) / (n + z2)
    half = 1.96 / (n + z2) * math.sqrt(hits * (n - hits) / n + z2 / 4)
    return max(0.0, centre - half), min(1.0, centre + half)


def strict(
    documents: Sequence[Document],
    predictions: Sequence[Sequence[Span]],
    *,
    predicted_as: Mapped | None = None,
    gold_as: Mapped | None = None,
    only: Iterable[str] | None = None,
    skip_unjudged: bool = False,
    resamples: int = 500,
    seed: int = 7,
) -> NerFigures:
    """Compare predictions with gold, document by document.

    `predicted_as` and `gold_as` rename labels into a common set (a label that a given map lacks is left out); `only` keeps
    some labels. `skip_unjudged` drops predictions that touch a stretch the annotators filed under a heading that says nothing
    of its kind; without it they count as wrong.
    """
    if len(documents) != len(predictions):
        raise ValueError("as many predictions as documents are needed")
    kept = None if only is None else frozenset(only)
    per_document = [
        _counts(document, spans, predicted_as, gold_as, kept, skip_unjudged)
        for document, spans in zip(documents, predictions, strict=True)
    ]
    total: Counter[tuple[str, str]] = Counter()
    for counts in per_document:
        total.update(counts)
    labels = sorted({label for label, _ in total})
    by_label = {label: Score(total[label, "hit"], total[label, "said"], total[label, "gold"]) for label in labels}
    rows = np.array(
        [[sum(c for (_, kind), c in counts.items() if kind == k) for k in ("hit", "said", "gold")] for counts in per_document],
        dtype=np.int64,
    ).reshape(len(per_document), 3)
    low, high = _interval(rows, resamples, seed)
    hits, said, gold = (int(v) for v in rows.sum(axis=0))
    return NerFigures(Score(hits, said, gold), by_label, low, high, len(documents))


def _counts(
    document: Document,
    spans: Sequence[Span],
    predicted_as: Mapped | None,
    gold_as: Mapped | None,
    only: frozenset[str] | None,
    skip_unjudged: bool,
) -> Counter[tuple[str, str]]:
    gold = {
        (label, g.start, g.end) for g in document.gold if (label := _renamed(g.label, gold_as)) and (not only or label in only)
    }
    said = {
        (label, s.start, s.end)
        for s in spans
        if (label := _renamed(s.label, predicted_as))
        and (not only or label in only)
        and not (skip_unjudged and any(s.start < b and a < s.end for a, b in document.unjudged))
    }
    counts: Counter[tuple[str, str]] = Counter()
    for kind, items in (("gold", gold), ("said", said), ("hit", gold & said)):
        counts.update((label, kind) for label, _, _ in items)
    return counts


def _renamed(label: str, names: Mapped | None) -> str | None:
    return label if names is None else names.get(label)


def _interval(rows: np.ndarray, resamples: int, seed: int) -> tuple[float, float]:
    """Percentile bootstrap of micro F1 over rows of (hits, predicted, gold)."""
    if not len(rows) or not resamples:
        return 0.0, 0.0
    rng = np.random.default_rng(seed)
    draws = rng.integers(0, len(rows), size=(resamples, len(rows)))
    sums = rows[draws].sum(axis=1)
    f1 = 2 * sums[:, 0] / np.maximum(sums[:, 1] + sums[:, 2], 1)
    low, high = np.percentile(f1, [2.5, 97.5])
    return float(low), float(high)
