"""Strict entity figures: a predicted span counts only where start, end and type all equal the gold one.

    precision = hits / predicted      recall = hits / gold      F1 = 2 P R / (P + R)

Micro averages sum the counts over types first (the convention of the BC5CDR and NCBI-disease papers). Intervals, of all three, are
percentile bootstrap over documents, so that correlated spans of one document stay together.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Final

import numpy as np
from numpy.typing import NDArray

from models.evaluation.measures import FEWEST, Array, Bootstrap, Metric
from models.evaluation.ner_corpora import Document
from models.runtimes.tagging import Head
from models.runtimes.token_classifier import WindowedTagger
from models.tasks import Span, TokenClassifier


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
    """Strict span and type figures: micro over all types, per type, and the counts that intervals are resampled from."""

    micro: Score
    by_label: Mapping[str, Score]
    counts: NDArray[np.int64] = field(repr=False)  # [documents, 3]: hits, predicted, gold

    def metrics(
        self, name: str = "micro", beside: Mapping[str, "NerFigures"] | None = None, rounds: int = 1000
    ) -> list[Metric]:
        """Return F1, precision and recall with their intervals, those of others on the same documents beside them.

        `n` are the documents that have something to count: from fewer than `FEWEST` there is no interval, however many there are.
        Where nothing was said there is no precision (NaN).
        """
        bootstrap, every = Bootstrap(np.arange(len(self.counts)), rounds=rounds), {"model": self, **(beside or {})}
        found = []
        for what, columns in (("F1", (_SAID, _GOLD)), ("precision", (_SAID,)), ("recall", (_GOLD,))):
            telling = int((self.counts[:, columns].sum(axis=1) > 0).sum())
            measures = {
                kind: partial(_share, one.counts[:, _HIT], one.counts[:, columns].mean(axis=1)) for kind, one in every.items()
            }
            metric = bootstrap.against(f"{name} {what}", measures, few=telling < FEWEST)
            found.append(replace(metric, n=telling))
        return found


_HIT, _SAID, _GOLD = range(3)


def _share(hits: NDArray[np.int64], of: Array, weights: Array) -> float:
    """F1 is a share too: of the mean of what was said and what there is."""
    whole = float(weights @ of)
    return float(weights @ hits) / whole if whole else float("nan")


Mapped = Mapping[str, str]

# What Vigil's labels are called in the sets that know fewer: BC5CDR (chemicals, diseases), NCBI-disease.
_AS_CHEMICAL_DISEASE: Final = {"condition": "Disease", "symptom": "Disease", "medication": "Chemical"}
PRECISE: Final = ("condition", "symptom", "medication")  # what alerts and search lean on: precision before recall
LIKELY: Final = 0.5  # of a span's probability


def by_own_guide(model: WindowedTagger, head: Head, least: float = LIKELY) -> WindowedTagger:
    """Return the model as a set's own guide asks it: by this head, in its own types, spans of this probability and more.

    The best path alone has spans of which no one part is likelier outside, though the whole is likely wrong (a border is off).
    """
    own = Head(head.name, head.tags, head.first)
    return model.speaking(own, thresholds=dict.fromkeys(own.labels, least))


def alike(kinds: Iterable[str], labels: frozenset[str]) -> dict[str, str]:
    """Map types to the set's of the same name, in whatever case."""
    by_name = {label.casefold(): label for label in sorted(labels)}
    return {kind: by_name[kind.casefold()] for kind in kinds if kind.casefold() in by_name} | {
        kind: kind for kind in kinds if kind in labels
    }


def counted_as(model: TokenClassifier, published: set[str], labels: frozenset[str]) -> dict[str, str]:
    """Say what type of a set (`labels`) each label that a model publishes counts as; what is not in it has none there.

    The set's type of its name (in either case), else the type that a head which speaks made it of, else, where the set knows
    nothing but chemicals and diseases and none of these heads has its type, what resembles it.
    """
    names: dict[str, str] = {}
    if isinstance(model, WindowedTagger):
        for head in model.speakers:
            of = alike(head.kinds, labels)
            names |= {label: of[kind] for kind in of if (label := head.label(kind)) in published}
    names |= alike(published, labels)
    told = set(names.values())
    for label, kind in _AS_CHEMICAL_DISEASE.items():
        if labels <= set(_AS_CHEMICAL_DISEASE.values()) and label in published and kind in labels - told:
            names.setdefault(label, kind)
    return names


def strict(
    documents: Sequence[Document],
    predictions: Sequence[Sequence[Span]],
    *,
    predicted_as: Mapped | None = None,
    gold_as: Mapped | None = None,
    only: Iterable[str] | None = None,
    skip_unjudged: bool = False,
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
    hits, said, gold = (int(v) for v in rows.sum(axis=0))
    return NerFigures(Score(hits, said, gold), by_label, rows)


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
