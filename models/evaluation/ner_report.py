"""`vigil models evaluate ner`: strict span figures on any folder of annotated text, up to three times for each file.

own guide   by the head that knows the file's own types, spans more likely right than not: what the literature reports
served      the model as the notes lane asks it, with the entry's heads, types and thresholds
vocabulary  the same with the terms of the ward laid over (`models.vocabulary`), as the notes lane publishes it

A published label counts as the set's type of its name (in either case), else as the type that the entry's `types` made it of, else
as `condition` and `symptom` are Diseases and `medication` is a Chemical (`models.evaluation.ner.counted_as`, of the heads that
serve): the figure then also measures the distance between guides.
What the set has no type for counts neither way. Beside the figures stands a dictionary of the set's training part (`train.*` in the
same folder; of case reports the documents learned from), where that is at hand.

Everything is counted strictly: start, end and type all equal. With the vocabulary the figures without it stand beside too, and the
paired difference.
"""

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import numpy as np

from models.errors import Permanent
from models.evaluation.measures import Metric
from models.evaluation.ner import LIKELY, PRECISE, alike, by_own_guide, counted_as, strict
from models.evaluation.ner_corpora import (
    MARK,
    SENTENCES_TOGETHER,
    Document,
    labels_of,
    read_iob,
    read_maccrobat,
    read_marked,
    split_by_document,
    token_and_tag,
)
from models.evaluation.ner_dictionary import Dictionary
from models.evaluation.reading import DAMAGE, damage
from models.evaluation.report import Chart, Confusion, Curves, Evaluation, Progress, Reliability, Section, silent
from models.runtimes.tagging import Head
from models.runtimes.token_classifier import WindowedTagger
from models.tasks import Span, TokenClassifier
from models.vocabulary import Vocabulary

LOOKED_FOR: Final = (
    "*.tsv (IOB or BIOES: token, tab or spaces, tag), *.jsonl (case reports: id, text, entities with label and spans) or *.txt "
    "(notes with marks: [T2DM|condition])"
)
_PATTERNS: Final = ("*.tsv", "*.jsonl", "*.txt")
_GUIDES: Final = {"bc5cdr": "chemical-disease", "ncbi": "disease"}  # a file's path may name the guide it follows
_SNIFFED: Final = 50  # lines looked at to tell a layout
_AT_ONCE: Final = 8  # documents between two reports of progress
_NAMED: Final = 'preprocessing.types of the entry names what a type is published as: types = { problem = "condition" }'


@dataclass(frozen=True, slots=True)
class Corpus:
    """One annotated file, read, and what its set has for training, as far as that is at hand."""

    name: str
    documents: tuple[Document, ...]
    training: tuple[Document, ...] = ()


def gather(data: Path) -> tuple[list[Corpus], list[str]]:
    """Read what may be measured on in a folder and all below it (or one file), and say what was left out and why.

    A file named `train.*` is what the model learned from; of a `train.jsonl` the dev part (every fifth document) is not.
    Raises `Permanent` where nothing fits, or a file of a known layout is damaged.
    """
    corpora: list[Corpus] = []
    notes: list[str] = []
    base = data.parent if data.is_file() else data
    for path in [data] if data.is_file() else sorted(path for kind in _PATTERNS for path in data.rglob(kind)):
        if not path.is_file():
            continue
        name = path.relative_to(base).as_posix()
        try:
            layout = _layout(path)
        except DAMAGE as error:
            notes.append(f"{name}: passed over, {damage(error)}")
            continue
        training: Sequence[Document] = ()
        if layout == "iob":
            if path.stem.lower() == "train":
                notes.append(f"{name}: left out, the model learned from files of this name")
                continue
            documents = read_iob(path, sentences=SENTENCES_TOGETHER)
            training = _training(path)
        elif layout == "reports":
            documents = read_maccrobat(path)
            if path.stem.lower() == "train":
                every = len(documents)
                training, documents = split_by_document(documents)
                notes.append(f"{name}: {every - len(documents)} of {every} documents left out, the model learned from them")
                name = f"{name}, every fifth document"
        elif layout == "marked":
            documents = read_marked(path)
        else:
            notes.append(f"{name}: passed over, neither IOB columns, case reports nor notes with marks")
            continue
        if documents and labels_of(documents):
            corpora.append(Corpus(name, tuple(documents), tuple(training)))
        else:
            notes.append(f"{name}: passed over, no annotated entity in it")
    if not corpora:
        found = f"; {'; '.join(notes)}" if notes else ""
        raise Permanent(f"no annotated text to measure on in {data}{found}", hint=f"looked for {LOOKED_FOR}")
    return corpora, notes


def _training(path: Path) -> Sequence[Document]:
    """Read the training part beside an IOB file, where there is one: the dictionary's, never measured on."""
    beside = path.with_name("train.tsv")
    return read_iob(beside, sentences=SENTENCES_TOGETHER) if beside.is_file() and _layout(beside) == "iob" else ()


def evaluate(
    model: TokenClassifier,
    data: Path,
    *,
    thresholds: str = "the model's own heads and thresholds",
    vocabulary: Vocabulary | None = None,
    resamples: int = 1000,
    progress: Progress = silent,
) -> Evaluation:
    """Measure a token classifier on every annotated file; `thresholds` says in words whose hold where it is served.

    With a `vocabulary`, once more as the lane publishes: its terms, and the doses and values beside them, laid over.
    Raises `Permanent` where nothing fits the layouts, or no set has a type that the model knows.
    """
    corpora, notes = gather(data)
    sections: list[Section] = []
    for corpus in corpora:
        sections += _sections(model, corpus, notes, thresholds, vocabulary, resamples, progress)
    if not sections:
        raise Permanent(f"nothing to measure {model.identity.name} by: {'; '.join(notes)}", hint=_NAMED)
    return Evaluation("ner", model.identity, tuple(sections), tuple(notes))


def _sections(
    model: TokenClassifier,
    corpus: Corpus,
    notes: list[str],
    thresholds: str,
    vocabulary: Vocabulary | None,
    resamples: int,
    progress: Progress,
) -> Iterator[Section]:
    labels = labels_of(corpus.documents)
    about = f"{len(corpus.documents):,} documents, {sum(len(d.gold) for d in corpus.documents):,} gold spans"
    known = Dictionary(corpus.training) if corpus.training else None
    beside: dict[str, Sequence[Sequence[Span]]] = {}
    if known is not None:
        beside["dictionary"] = [known.find(document.text) for document in corpus.documents]
    else:
        notes.append(f"{corpus.name}: no dictionary beside the figures, its set's training part is not at hand (train.tsv)")
    if isinstance(model, WindowedTagger) and (own := _own_head(model, corpus.name, labels)) is not None:
        said = _find(by_own_guide(model, own), corpus, f"{corpus.name}, own guide", progress)
        how = f"{about}; head {own.name}, spans of probability {LIKELY} and more"
        names = alike(own.kinds, labels)
        yield _section(f"{corpus.name}, own guide", how, corpus, said, names, beside, resamples)
    else:
        notes.append(
            f"{corpus.name}: no head of {model.identity.name} knows the types {', '.join(sorted(labels))}: served only"
        )
    said = _find(model, corpus, f"{corpus.name}, served", progress)
    published = {*model.labels, *(span.label for spans in said for span in spans)}
    if not (names := counted_as(model, published, labels)):
        notes.append(
            f"{corpus.name}: no figures as served, {model.identity.name} publishes {', '.join(sorted(published)) or 'nothing'}, "
            f"the set has {', '.join(sorted(labels))}"
        )
        return
    yield _section(f"{corpus.name}, served", f"{about}; {thresholds}", corpus, said, names, beside, resamples)
    if vocabulary is not None:
        joined = [vocabulary.join(one.text, spans, model.labels)[0] for one, spans in zip(corpus.documents, said, strict=True)]
        title, how = f"{corpus.name}, served with the vocabulary", f"{about}; {thresholds}; {len(vocabulary):,} terms laid over"
        yield _section(title, how, corpus, joined, names, beside | {"the model alone": _renamed(said, names)}, resamples)


def _own_head(model: WindowedTagger, name: str, labels: frozenset[str]) -> Head | None:
    """Find the head of a set's annotation guide: the one the path names, else the one with fewest other types."""
    fitting = [head for head in model.heads.values() if labels <= set(alike(head.kinds, labels).values())]
    for word, guide in _GUIDES.items():
        if word in name.lower() and (named := next((head for head in fitting if head.name == guide), None)):
            return named
    return min(fitting, key=lambda head: len(head.kinds), default=None)


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
    names: Mapping[str, str],
    beside: Mapping[str, Sequence[Sequence[Span]]],
    resamples: int,
) -> Section:
    documents = corpus.documents
    labels = sorted(labels_of(documents))
    spoken = _renamed(said, names)
    parts: list[tuple[str, Sequence[str]]] = [("micro", labels)]
    if set(PRECISE) <= set(labels):
        parts.append((" + ".join(PRECISE), PRECISE))
    if len(labels) > 1:
        parts += [(label, [label]) for label in labels]
    metrics: list[Metric] = []
    for title, only in parts:
        others = {kind: strict(documents, spans, only=only) for kind, spans in beside.items()}
        metrics += strict(documents, spoken, only=only).metrics(title, others, resamples)
    if other := sorted({span.label for spans in said for span in spans} - names.keys()):
        about += f"; not counted, the set has no such type: {', '.join(other)}"
    about += "; intervals bootstrapped over documents"
    return Section(name, about, tuple(metrics), tuple(_charts(documents, spoken, labels)))


def _renamed(said: Sequence[Sequence[Span]], names: Mapping[str, str]) -> list[list[Span]]:
    return [[Span(names[s.label], s.start, s.end, s.score) for s in spans if s.label in names] for spans in said]


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


def _layout(path: Path) -> Literal["iob", "reports", "marked"] | None:
    """Tell a file's layout by its first lines: most have a tag, the first is a case report, one has a mark. None: no such file."""
    with path.open(encoding="utf-8-sig", errors="replace") as lines:
        rows = [line for _, line in zip(range(_SNIFFED), lines, strict=False) if line.strip()]
    if path.suffix == ".txt":
        return "marked" if any(MARK.search(row) for row in rows) else None
    if path.suffix == ".tsv":
        return "iob" if rows and 2 * sum(token_and_tag(row) is not None for row in rows) > len(rows) else None
    try:
        raw = json.loads(rows[0]) if rows else None
    except (ValueError, RecursionError):
        return None
    return "reports" if isinstance(raw, dict) and "text" in raw and "entities" in raw else None
