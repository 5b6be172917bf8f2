"""`vigil models evaluate ner`: strict span figures on any folder of annotated text, twice for each file.

own guide   by the head that learned the file's own annotation guide, spans more likely right than not: what the literature reports
served      as the notes lane publishes, with the shipped heads and thresholds. Where a set knows fewer types, `condition` and
            `symptom` count as Disease and `medication` as Chemical: the figure then also measures the distance between guides

Everything is counted strictly: start, end and type all equal.
"""

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from models.errors import Permanent
from models.evaluation.measures import Metric, wilson
from models.evaluation.ner import AS_CHEMICAL_DISEASE, AS_DISEASE, LIKELY, PRECISE, NerFigures, Score, by_own_guide, strict
from models.evaluation.ner_corpora import (
    SENTENCES_TOGETHER,
    Document,
    labels_of,
    read_iob,
    read_maccrobat,
    split_by_document,
)
from models.evaluation.report import Chart, Confusion, Curves, Evaluation, Progress, Reliability, Section, silent
from models.runtimes.tagging import Head
from models.runtimes.token_classifier import OnnxTokenClassifier
from models.tasks import Span, TokenClassifier

LOOKED_FOR: Final = "*.tsv (IOB: token, tab, tag) or *.jsonl (case reports: id, text, entities with label and spans)"
_GUIDES: Final = {"bc5cdr": "chemical-disease", "ncbi": "disease"}  # a file's path may name the guide it follows
_SNIFFED: Final = 50  # lines looked at to tell a layout
_AT_ONCE: Final = 8  # documents between two reports of progress


@dataclass(frozen=True, slots=True)
class Corpus:
    """One annotated file, read."""

    name: str
    documents: tuple[Document, ...]


def gather(data: Path) -> tuple[list[Corpus], list[str]]:
    """Read what may be measured on in a folder and all below it (or one file), and say what was left out and why.

    A file named `train.*` is what the model learned from; of a `train.jsonl` the dev part (every fifth document) is not.
    Raises `Permanent` where nothing fits.
    """
    corpora: list[Corpus] = []
    notes: list[str] = []
    base = data.parent if data.is_file() else data
    for path in [data] if data.is_file() else sorted([*data.rglob("*.tsv"), *data.rglob("*.jsonl")]):
        name = path.relative_to(base).as_posix()
        if path.suffix == ".tsv" and _is_iob(path):
            if path.stem.lower() == "train":
                notes.append(f"{name}: left out, the model learned from files of this name")
                continue
            documents = read_iob(path, sentences=SENTENCES_TOGETHER)
        elif path.suffix == ".jsonl" and _is_case_reports(path):
            documents = read_maccrobat(path)
            if path.stem.lower() == "train":
                every = len(documents)
                documents = split_by_document(documents)[1]
                notes.append(f"{name}: {every - len(documents)} of {every} documents left out, the model learned from them")
                name = f"{name}, every fifth document"
        else:
            notes.append(f"{name}: passed over, neither IOB columns nor case reports")
            continue
        if documents and labels_of(documents):
            corpora.append(Corpus(name, tuple(documents)))
        else:
            notes.append(f"{name}: passed over, no annotated entity in it")
    if not corpora:
        found = f"; {'; '.join(notes)}" if notes else ""
        raise Permanent(f"no annotated text to measure on in {data}{found}", hint=f"looked for {LOOKED_FOR}")
    return corpora, notes


def evaluate(model: TokenClassifier, data: Path, *, resamples: int = 500, progress: Progress = silent) -> Evaluation:
    """Measure a token classifier on every annotated file. Raises `Permanent` where nothing fits the layouts."""
    corpora, notes = gather(data)
    sections: list[Section] = []
    for corpus in corpora:
        sections += _sections(model, corpus, notes, resamples, progress)
    return Evaluation("ner", model.identity, tuple(sections), tuple(notes))


def _sections(
    model: TokenClassifier, corpus: Corpus, notes: list[str], resamples: int, progress: Progress
) -> Iterator[Section]:
    labels = labels_of(corpus.documents)
    about = f"{len(corpus.documents):,} documents, {sum(len(d.gold) for d in corpus.documents):,} gold spans"
    own = _own_head(model, corpus.name, labels) if isinstance(model, OnnxTokenClassifier) else None
    if own is None:
        notes.append(
            f"{corpus.name}: no head of {model.identity.name} knows the types {', '.join(sorted(labels))}: served only"
        )
    elif isinstance(model, OnnxTokenClassifier):
        said = _find(by_own_guide(model, own), corpus, f"{corpus.name}, own guide", progress)
        how = f"{about}; head {own.name}, spans of probability {LIKELY} and more"
        yield _section(f"{corpus.name}, own guide", how, corpus, said, None, resamples)
    said = _find(model, corpus, f"{corpus.name}, served", progress)
    names = AS_DISEASE if labels == {"Disease"} else AS_CHEMICAL_DISEASE if labels <= {"Chemical", "Disease"} else None
    yield _section(f"{corpus.name}, served", f"{about}; shipped heads and thresholds", corpus, said, names, resamples)


def _own_head(model: OnnxTokenClassifier, name: str, labels: frozenset[str]) -> Head | None:
    """Find the head of a set's annotation guide: the one the path names, else the one with fewest other types."""
    fitting = [head for head in model.heads.values() if labels <= _kinds(head)]
    for word, guide in _GUIDES.items():
        if word in name.lower() and (named := next((head for head in fitting if head.name == guide), None)):
            return named
    return min(fitting, key=lambda head: len(_kinds(head)), default=None)


def _kinds(head: Head) -> set[str]:
    return {tag[2:] for tag in head.tags if tag != "O"}


def _find(model: TokenClassifier, corpus: Corpus, what: str, progress: Progress) -> list[list[Span]]:
    found: list[list[Span]] = []
    for at in range(0, len(corpus.documents), _AT_ONCE):
        progress(what, at, len(corpus.documents))
        found += model.find([document.text for document in corpus.documents[at : at + _AT_ONCE]])
    progress(what, len(corpus.documents), len(corpus.documents))
    return found


def _section(
    name: str,
    about: str,
    corpus: Corpus,
    said: Sequence[Sequence[Span]],
    names: Mapping[str, str] | None,
    resamples: int,
) -> Section:
    documents = corpus.documents
    labels = sorted(labels_of(documents))
    metrics = _metrics("micro", strict(documents, said, predicted_as=names, resamples=resamples))
    if set(PRECISE) <= set(labels):
        metrics += _metrics(" + ".join(PRECISE), strict(documents, said, only=PRECISE, resamples=resamples))
    if len(labels) > 1:
        for label in labels:
            metrics += _metrics(label, strict(documents, said, predicted_as=names, only=[label], resamples=resamples))
    spoken = [_renamed(spans, names) for spans in said]
    return Section(name, about, tuple(metrics), tuple(_charts(documents, spoken, labels)))


def _renamed(spans: Sequence[Span], names: Mapping[str, str] | None) -> list[Span]:
    if names is None:
        return list(spans)
    return [Span(names[s.label], s.start, s.end, s.score) for s in spans if s.label in names]


def _metrics(name: str, figures: NerFigures) -> list[Metric]:
    """F1's interval is bootstrapped over documents (`n`); precision's and recall's are Wilson's on their own counts (`n`)."""
    score: Score = figures.micro
    return [
        Metric(f"{name} F1", score.f1, figures.low, figures.high, figures.documents),
        Metric(f"{name} precision", score.precision, *wilson(score.hits, score.predicted), score.predicted),
        Metric(f"{name} recall", score.recall, *wilson(score.hits, score.n), score.n),
    ]


def _charts(documents: Sequence[Document], said: Sequence[Sequence[Span]], labels: Sequence[str]) -> Iterator[Chart]:
    gold = sum(len(document.gold) for document in documents)
    scored = [
        (span.score, any((g.label, g.start, g.end) == (span.label, span.start, span.end) for g in document.gold), span.label)
        for document, spans in zip(documents, said, strict=True)
        for span in spans
    ]
    if scored:
        lines = {"all": _by_threshold([(s, hit) for s, hit, _ in scored], gold)}
        for label in labels if len(labels) > 1 else ():
            mine = [(s, hit) for s, hit, kind in scored if kind == label]
            count = sum(g.label == label for document in documents for g in document.gold)
            if mine and count:
                lines[label] = _by_threshold(mine, count)
        yield Curves("precision and recall over the score's threshold", "recall", "precision", lines)
        ordered = sorted((score, float(hit)) for score, hit, _ in scored)
        bins = [part for part in np.array_split(np.array(ordered), min(10, len(ordered))) if len(part)]
        points = tuple((float(part[:, 0].mean()), float(part[:, 1].mean()), len(part)) for part in bins)
        yield Reliability("calibration of span scores", points, "spans that are exactly right")
    yield _confusion(documents, said, labels)


def _by_threshold(scored: Sequence[tuple[float, bool]], gold: int) -> tuple[list[float], list[float]]:
    hits = np.cumsum([hit for _, hit in sorted(scored, key=lambda one: -one[0])])
    return (hits / gold).tolist(), (hits / np.arange(1, len(hits) + 1)).tolist()


def _confusion(documents: Sequence[Document], said: Sequence[Sequence[Span]], labels: Sequence[str]) -> Confusion:
    """Pair spans that overlap, each once, most overlap first: what a gold span of a type was taken for."""
    counts: Counter[tuple[str, str]] = Counter()
    spoken = list(dict.fromkeys([*labels, *sorted({span.label for spans in said for span in spans})]))
    for document, spans in zip(documents, said, strict=True):
        pairs = sorted(
            (
                (min(g.end, s.end) - max(g.start, s.start), i, j)
                for i, g in enumerate(document.gold)
                for j, s in enumerate(spans)
            ),
            key=lambda pair: (-pair[0], pair[1], pair[2]),
        )
        taken_gold: set[int] = set()
        taken_said: set[int] = set()
        for overlap, i, j in pairs:
            if overlap > 0 and i not in taken_gold and j not in taken_said:
                taken_gold.add(i)
                taken_said.add(j)
                counts[document.gold[i].label, spans[j].label] += 1
        counts.update((g.label, "missed") for i, g in enumerate(document.gold) if i not in taken_gold)
        counts.update(("nothing", s.label) for j, s in enumerate(spans) if j not in taken_said)
    rows, columns = (*spoken, "nothing"), (*spoken, "missed")
    table = np.array([[counts[row, column] for column in columns] for row in rows], np.int64)
    return Confusion("types of overlapping spans (borders may differ)", rows, columns, table)


def _is_iob(path: Path) -> bool:
    with path.open(encoding="utf-8", errors="replace") as lines:
        rows = [line.rstrip("\r\n") for _, line in zip(range(_SNIFFED), lines, strict=False) if line.strip()]
    tags = [row.rpartition("\t")[2] for row in rows if "\t" in row]
    return bool(rows) and sum(tag == "O" or tag[:2] in ("B-", "I-") for tag in tags) * 2 > len(rows)


def _is_case_reports(path: Path) -> bool:
    with path.open(encoding="utf-8", errors="replace") as lines:
        first = next((line for line in lines if line.strip()), "")
    try:
        raw = json.loads(first)
    except ValueError:
        return False
    return isinstance(raw, dict) and "text" in raw and "entities" in raw
