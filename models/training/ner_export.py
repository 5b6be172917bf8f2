"""From a training run to the files that ship: ONNX, INT8, thresholds, figures, registry entry and card, all by code."""

import math
import tempfile
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from models.errors import Permanent
from models.evaluation.ner import AS_CHEMICAL_DISEASE, AS_DISEASE, LIKELY, PRECISE, NerFigures, Score, strict
from models.evaluation.ner_corpora import Document
from models.export import Feeds, apart, seconds_per_item, to_int8, to_onnx, torch_seconds_per_item
from models.quantising import THREADS
from models.registering import location, record
from models.registry import PACKAGED, WEIGHTS, ModelEntry, Weights, sha256_of
from models.runtimes.token_classifier import OVERLAP, WINDOW, OnnxTokenClassifier, load_tokenizer
from models.tasks import Floats, Span
from models.training.ner import HEADS, TOKENIZER, Corpus, Made, build, corpora, evaluate

NAME: Final = "clinical-ner"
PRECISION_SOUGHT: Final = 0.85
_FOLDS: Final = 5  # parts of the dev documents that thresholds are chosen without, to see what they are worth elsewhere
_CURVE: Final = (0.7, 0.75, 0.8, 0.85, 0.9)  # precisions whose price the card tells
_TIMED: Final = 24  # windows
LARGEST_LOSS: Final = 0.01  # of any corpus's micro F1, INT8 to fp32: above it the export is refused
_SEEN: Final = 20  # documents of each set that outliers are looked for in


@dataclass(frozen=True, slots=True)
class Measured:
    """Everything the card reports. Keys are corpus names."""

    own_head: Mapping[str, NerFigures]  # each dev part by the head of its own annotators' guide
    full_precision: Mapping[str, NerFigures]  # the same before INT8
    published: Mapping[str, NerFigures]  # as the notes lane publishes, labels mapped
    judged: NerFigures  # maccrobat as published, predictions on unjudged stretches left out
    precise: NerFigures  # maccrobat as published, `PRECISE` labels together
    choice: "Choice"
    speed: "Speed"


@dataclass(frozen=True, slots=True)
class Speed:
    """Seconds that a window takes alone, on `THREADS` threads, as busy as the machine was."""

    windows: int
    tokens: int  # of a window, on average
    torch: float  # the network that was trained
    shipped: float


@dataclass(frozen=True, slots=True)
class Choice:
    """The thresholds that are published by, and what others would give. Scores are of the `PRECISE` labels together."""

    thresholds: Mapping[str, float]
    how: str  # in words
    elsewhere: Score  # the same way of choosing, on documents that it did not see
    balanced: Mapping[str, float]  # of the `PRECISE` labels: each at its highest F1
    balanced_score: Score
    curve: Mapping[float, Score]  # by the precision sought; what cannot be reached is not in it


def export(
    run: Path,
    data: Path,
    *,
    version: str,
    out: Path | None = None,
    registry: Path = PACKAGED,
    licence: str = "Apache-2.0",
    serve: Sequence[str] = ("clinical",),
) -> tuple[ModelEntry, Measured]:
    """Export what a run's folder holds, measure it on the dev parts in `data`, write files, card, entry.

    `serve` names the heads that speak in the notes lane, in order of precedence. Raises `Permanent` where INT8 loses more
    than `LARGEST_LOSS` of F1 on a corpus.
    """
    made = Made.of(run)
    folder = out or WEIGHTS / "ner"
    folder.mkdir(parents=True, exist_ok=True)
    sets = {corpus.name: corpus for corpus in corpora(data)}
    with tempfile.TemporaryDirectory() as scratch:
        full = _traced(run, Path(scratch) / "fp32" / "model.onnx")
        tokenizer = (run / TOKENIZER).read_bytes()
        (full.parent / TOKENIZER).write_bytes(tokenizer)
        (folder / TOKENIZER).write_bytes(tokenizer)
        split = Path(scratch) / "split.onnx"
        left = apart(full, split, _feeds(folder, [d for c in sets.values() for d in c.train[:_SEEN]]))
        to_int8(split, folder / "model.onnx", reduce_range=True, skip=left)
        before = {name: evaluate(c, opened(full.parent, version), least=LIKELY) for name, c in sets.items()}
    speed = _speed(run, folder, sets["maccrobat"].dev)
    learned = (*(f"{name} (CC BY 4.0)" for name in sets), f"what {made.start} had learned, the start")
    entry = _entry(folder, version, serve, licence)
    entry = entry.model_copy(update={"location": location(folder, registry), "trained_on": learned})
    model = OnnxTokenClassifier(Weights(entry, folder), threads=1)
    after = {name: evaluate(c, model, least=LIKELY) for name, c in sets.items()}
    for name, figures in after.items():
        if (loss := before[name].micro.f1 - figures.micro.f1) > LARGEST_LOSS:
            raise Permanent(f"INT8 loses {loss:.3f} of F1 on {name}")
    clinical = sets["maccrobat"].dev
    choice = choose_thresholds(clinical, model.find([d.text for d in clinical]))
    entry = entry.model_copy(update={"thresholds": choice.thresholds, "thresholds_chosen": choice.how})
    measured = _measure(OnnxTokenClassifier(Weights(entry, folder), threads=1), sets, before, after, choice, speed)
    entry = entry.model_copy(update={"quality": _quality(measured)})
    (folder / "card.md").write_text(card(entry, made, measured, sets), encoding="utf-8")
    record(entry, registry)
    return entry, measured


def opened(folder: Path, version: str) -> OnnxTokenClassifier:
    """Open an exported folder without a registry, no thresholds."""
    return OnnxTokenClassifier(Weights(_entry(folder, version, ("clinical",), ""), folder), threads=1)


_PRECISE_HOW: Final = (
    f"{', '.join(PRECISE)}: the scores that find most among those that reach precision {PRECISION_SOUGHT} together on the "
    "maccrobat dev part; the other labels: each the score of highest F1 there"
)
_F1_HOW: Final = f"each label: the score of highest F1 on the maccrobat dev part; none reaches precision {PRECISION_SOUGHT}"

Rows = Mapping[str, Sequence[tuple[float, bool]]]  # by label: the score of a prediction, and whether it is right


def choose_thresholds(documents: Sequence[Document], predictions: Sequence[Sequence[Span]]) -> Choice:
    """Choose the lowest published score of each label, from predictions made without thresholds."""
    pairs = list(zip(documents, predictions, strict=True))
    rows, gold = _rows(pairs)
    by_f1 = {label: _best_f1(found, gold[label]) for label, found in sorted(rows.items())}
    precise = {label: rows[label] for label in PRECISE if label in rows}
    balanced = {label: by_f1[label] for label in precise}
    sought = {target: found for target in _CURVE if (found := _most_at(precise, target)) is not None}
    shipped = sought.get(PRECISION_SOUGHT)
    elsewhere = Score(0, 0, 0)
    for fold in range(_FOLDS):
        seen, _ = _rows([pair for number, pair in enumerate(pairs) if number % _FOLDS != fold])
        unseen, count = _rows(pairs[fold::_FOLDS])
        found = _most_at({label: seen[label] for label in PRECISE if label in seen}, PRECISION_SOUGHT) or balanced
        one = _score(unseen, count, found)
        elsewhere = Score(elsewhere.hits + one.hits, elsewhere.predicted + one.predicted, elsewhere.n + one.n)
    return Choice(
        # 1.0 for a label with nothing worth its price
        by_f1 if shipped is None else by_f1 | {label: shipped.get(label, 1.0) for label in precise},
        _F1_HOW if shipped is None else _PRECISE_HOW,
        elsewhere,
        balanced,
        _score(rows, gold, balanced),
        {target: _score(rows, gold, found) for target, found in sought.items()},
    )


def _rows(pairs: Iterable[tuple[Document, Sequence[Span]]]) -> tuple[Rows, Counter[str]]:
    """Return the predictions of documents by label, and how many gold spans each label has.

    Scores are cut to three digits, as thresholds are: no threshold then lets in a span that it was chosen without.
    """
    rows: dict[str, list[tuple[float, bool]]] = {}
    counts: Counter[str] = Counter()
    for document, spans in pairs:
        gold = {(g.label, g.start, g.end) for g in document.gold}
        counts.update(g.label for g in document.gold)
        for span in spans:
            score = math.floor(span.score * 1000) / 1000
            rows.setdefault(span.label, []).append((score, (span.label, span.start, span.end) in gold))
    return rows, counts


def _score(rows: Rows, gold: Mapping[str, int], thresholds: Mapping[str, float]) -> Score:
    """Return the `PRECISE` labels together at these thresholds; a label without one says nothing."""
    said = [hit for label in PRECISE for score, hit in rows.get(label, ()) if score >= thresholds.get(label, math.inf)]
    return Score(sum(said), len(said), sum(gold[label] for label in PRECISE if label in gold))


def _most_at(rows: Rows, sought: float) -> dict[str, float] | None:
    """Return the thresholds that find most among those with the precision sought, all labels together; None if none has it.

    Label by label: for each number of right ones, the most that any thresholds leave of right ones less what the wrong ones cost.
    """
    total = sum(sum(hit for _, hit in found) for found in rows.values())
    left = np.full(total + 1, -np.inf)  # by the number of right ones
    left[0] = 0.0
    taken: list[tuple[str, NDArray[np.float64], NDArray[np.int64]]] = []  # label, its threshold and right ones by the number
    for label, found in rows.items():
        scores, hits, counts = _at_each_score(found)
        before, left = left, np.full(total + 1, -np.inf)
        threshold, own = np.full(total + 1, np.inf), np.zeros(total + 1, np.int64)
        for score, right, spare in zip((np.inf, *scores), (0, *hits), (0.0, *(hits - sought * counts)), strict=True):
            made = np.full(total + 1, -np.inf)
            made[right:] = before[: total + 1 - right] + spare
            better = made > left
            left[better], threshold[better], own[better] = made[better], score, right
        taken.append((label, threshold, own))
    number = int(np.flatnonzero(left > -1e-9)[-1])  # 0 right ones, and none said, always do
    chosen: dict[str, float] = {}
    for label, threshold, own in reversed(taken):
        if np.isfinite(threshold[number]):
            chosen[label] = float(threshold[number])
        number -= int(own[number])
    return chosen or None


def _at_each_score(found: Sequence[tuple[float, bool]]) -> tuple[Floats, NDArray[np.int64], NDArray[np.int64]]:
    """Return the scores there are, highest first, and how many predictions at each or above are right, and how many there are."""
    scores = np.array([score for score, _ in found])
    hits = np.array([hit for _, hit in found], dtype=np.int64)
    order = np.argsort(-scores, kind="stable")
    last = np.flatnonzero(np.append(np.diff(scores[order]) != 0, True))
    return scores[order][last], hits[order].cumsum()[last], last + 1


def _best_f1(found: Sequence[tuple[float, bool]], gold: int) -> float:
    scores, hits, counts = _at_each_score(found)
    return float(scores[(2 * hits / (counts + gold)).argmax()])


def _speed(run: Path, folder: Path, documents: Sequence[Document]) -> Speed:
    feeds = _feeds(folder, documents[:_TIMED])
    return Speed(
        len(feeds),
        round(sum(feed["input_ids"].shape[1] for feed in feeds) / len(feeds)),
        torch_seconds_per_item(build(run).eval(), feeds, threads=THREADS),
        seconds_per_item(folder / "model.onnx", "logits", feeds, threads=THREADS),
    )


def _feeds(folder: Path, documents: Sequence[Document]) -> list[Feeds]:
    """Return the first window of each document as a graph takes it."""
    tokenizer = load_tokenizer(folder / TOKENIZER, "export")
    rows = [np.asarray([tokenizer.encode(document.text).ids[:WINDOW]], dtype=np.int64) for document in documents]
    return [{"input_ids": row, "attention_mask": np.ones_like(row)} for row in rows]


def _traced(run: Path, path: Path) -> Path:
    import torch

    network = build(run)
    example = torch.ones(2, 8, dtype=torch.long)
    names = ("input_ids", "attention_mask", "logits")
    axes = {0: "batch", 1: "tokens"}
    return to_onnx(
        network,
        (example, example),
        path,
        inputs=names[:2],
        outputs=names[2:],
        dynamic=dict.fromkeys(names, axes),
    )


def _entry(folder: Path, version: str, serve: Sequence[str], licence: str) -> ModelEntry:
    heads: list[dict[str, Any]] = [
        {"name": head.name, "tags": list(head.tags), **({"types": dict(head.types)} if head.types else {})} for head in HEADS
    ]
    spoken = [head for head in HEADS if head.name in serve]
    return ModelEntry(
        task="ner",
        name=NAME,
        version=version,
        runtime="onnx-token-classifier",
        location="ner",
        files={name: sha256_of(folder / name) for name in ("model.onnx", TOKENIZER)},
        licence=licence,
        labels=tuple(dict.fromkeys(label for head in spoken for label in head.labels)),
        preprocessing={"window": WINDOW, "overlap": OVERLAP, "serve": list(serve), "heads": heads},
    )


def _measure(
    model: OnnxTokenClassifier,
    sets: Mapping[str, Corpus],
    before: Mapping[str, NerFigures],
    after: Mapping[str, NerFigures],
    choice: Choice,
    speed: Speed,
) -> Measured:
    published: dict[str, NerFigures] = {}
    clinical = sets["maccrobat"].dev
    for name, corpus in sets.items():
        said = model.find([d.text for d in corpus.dev])
        if name == "maccrobat":
            published[name] = strict(corpus.dev, said)
            judged = strict(corpus.dev, said, skip_unjudged=True)
            precise = strict(clinical, said, predicted_as=_same(PRECISE), gold_as=_same(PRECISE))
        else:
            mapped = AS_DISEASE if HEADS[corpus.head].name == "disease" else AS_CHEMICAL_DISEASE
            published[name] = strict(corpus.dev, said, predicted_as=mapped)
    return Measured(after, before, published, judged, precise, choice, speed)


def _same(labels: Sequence[str]) -> dict[str, str]:
    return {label: label for label in labels}


def _quality(measured: Measured) -> dict[str, float]:
    quality: dict[str, float] = {}
    for name, figures in measured.own_head.items():
        key = name.split("-")[0].lower()
        quality |= {f"{key}_f1": figures.micro.f1, f"{key}_f1_low": figures.low, f"{key}_f1_high": figures.high}
    quality["published_precision_condition_symptom_medication"] = measured.precise.micro.precision
    quality["published_recall_condition_symptom_medication"] = measured.precise.micro.recall
    return {key: round(value, 4) for key, value in quality.items()}


def card(entry: ModelEntry, made: Made, measured: Measured, sets: Mapping[str, Corpus]) -> str:
    """Write the model's card from what was measured."""
    rows = [
        f"| {name} | {len(sets[name].dev)} | {f.micro.n} | {f.micro.precision:.3f} | {f.micro.recall:.3f} | **{f.micro.f1:.3f}** "
        f"({f.low:.3f} to {f.high:.3f}) | {measured.full_precision[name].micro.f1:.3f} |"
        for name, f in measured.own_head.items()
    ]
    spoken = [
        f"| {name} | {f.micro.precision:.3f} | {f.micro.recall:.3f} | {f.micro.f1:.3f} ({f.low:.3f} to {f.high:.3f}) |"
        for name, f in (
            *measured.published.items(),
            ("maccrobat, unjudged stretches left out", measured.judged),
            (f"maccrobat, {' + '.join(PRECISE)}", measured.precise),
        )
    ]
    labels = [
        _label_row(label, score, entry.thresholds.get(label, 0.0))
        for label, score in measured.published["maccrobat"].by_label.items()
    ]
    choice = measured.choice
    balanced = ", ".join(f"{label} {score:.3f}" for label, score in choice.balanced.items())
    prices = [
        *((f"precision {sought} sought", score) for sought, score in choice.curve.items()),
        (f"precision {PRECISION_SOUGHT} sought, chosen without a fifth of the documents, measured on it", choice.elsewhere),
        (f"highest F1 of each ({balanced})", choice.balanced_score),
    ]
    files = [f"| `{name}` | `{sha}` |" for name, sha in sorted(entry.files.items())]
    learned = ", ".join(f"{name} ({len(c.train)} {'documents' if c.head == 0 else 'sentences'})" for name, c in sets.items())
    return _CARD.format(
        name=entry.name,
        version=entry.version,
        learned=learned,
        how=entry.thresholds_chosen,
        likely=LIKELY,
        serve=", ".join(entry.preprocessing["serve"]),
        rows="\n".join(rows),
        spoken="\n".join(spoken),
        labels="\n".join(labels),
        prices="\n".join(f"| {name} | {s.precision:.3f} | {s.recall:.3f} | {s.f1:.3f} |" for name, s in prices),
        speed=measured.speed,
        times=measured.speed.torch / measured.speed.shipped,
        threads=THREADS,
        torch_ms=measured.speed.torch * 1e3,
        shipped_ms=measured.speed.shipped * 1e3,
        start=made.start,
        layers=made.layers,
        steps="\n".join(f"- {step}" for step in made.steps),
        files="\n".join(files),
    )


def _label_row(label: str, score: Score, threshold: float) -> str:
    return f"| {label} | {threshold:.3f} | {score.n} | {score.precision:.3f} | {score.recall:.3f} | {score.f1:.3f} |"


_CARD: Final = """# {name} {version}, INT8

This card is written by `models/training/ner_export.py` from what it measured.

**What it is.** Named entities in clinical English: conditions, symptoms, medications, doses, procedures, tests, lab values,
anatomy. One encoder ({start}, {layers} layers, uncased) with a head for each annotators' guide; ONNX, dynamic INT8, a scale
per channel, 7-bit weights so that it holds on processors without VNNI, outlying channels multiplied apart in fp32. A span's
score is the model's probability of exactly that span.

**Learned from.** {learned}: public, CC BY 4.0. No hospital's records.

**What it is not.** It learned from published case reports and abstracts, not from a ward's notes: shorthand, misspellings,
templates and tables are outside what it saw. Uncased: it cannot tell "US" from "us". It marks what is mentioned, not what
is true of the patient (negation and family history are the lane's work), and it does not diagnose. Discontinuous entities
are not found. A site measures it on its own notes before relying on it.

Strict figures: a span counts where start, end and type all equal the gold one. Micro averages over types; 95% intervals by
bootstrap over documents. Dev parts: they also chose the epoch and the thresholds, so expect a little less on unseen text.

## Each set by the head of its own guide, spans of probability {likely} and more

| dev part | documents | gold spans | precision | recall | F1 | F1 before INT8 |
|---|---|---|---|---|---|---|
{rows}

## As published by the notes lane (heads: {serve}; thresholds as below)

condition and symptom count as Disease, medication as Chemical, where a set knows no difference. The guides differ, so these
figures on BC5CDR and NCBI measure the distance between guides too.

| dev part | precision | recall | F1 |
|---|---|---|---|
{spoken}

| label (maccrobat dev) | threshold | gold spans | precision | recall | F1 |
|---|---|---|---|---|---|
{labels}

Thresholds: {how}.

## What precision costs (maccrobat dev; condition, symptom and medication together)

| thresholds | precision | recall | F1 |
|---|---|---|---|
{prices}

A site that would rather find more than be right puts its own into its registry file, under `[thresholds.{name}]`.

## Speed

A window alone ({speed.tokens} tokens on average, {speed.windows} windows, {threads} threads, as busy as the export's machine was):
{shipped_ms:.1f} ms; the torch network that was trained {torch_ms:.1f} ms, {times:.1f} times as long.

## How it was made (`vigil train ner`)

From {start}:

{steps}

| file | SHA-256 |
|---|---|
{files}
"""
