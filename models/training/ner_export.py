"""From a training run to the files that ship: ONNX, INT8, thresholds, figures, registry entry and card, all by code."""

import math
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from models.errors import Permanent
from models.evaluation.ner import AS_CHEMICAL_DISEASE, AS_DISEASE, PRECISE, NerFigures, Score, strict
from models.evaluation.ner_corpora import Document
from models.export import OUTLIERS, nodes, to_int8, to_onnx
from models.registering import location, record
from models.registry import PACKAGED, WEIGHTS, ModelEntry, Weights, sha256_of
from models.runtimes.token_classifier import OVERLAP, WINDOW, OnnxTokenClassifier
from models.tasks import Span
from models.training.ner import HEADS, Corpus, build, corpora, default_start, evaluate

NAME: Final = "clinical-ner"
PRECISION_SOUGHT: Final = 0.85
RECALL_KEPT: Final = 0.5  # a precision that is bought with more than half of what there is to find is not worth shipping
LARGEST_LOSS: Final = 0.01  # of any corpus's micro F1, INT8 to fp32: above it the export is refused


@dataclass(frozen=True, slots=True)
class Measured:
    """Everything the card reports. Keys are corpus names."""

    own_head: Mapping[str, NerFigures]  # each dev part by the head of its own annotators' guide, no threshold
    full_precision: Mapping[str, NerFigures]  # the same before INT8
    published: Mapping[str, NerFigures]  # as the notes lane publishes, labels mapped
    judged: NerFigures  # maccrobat as published, predictions on unjudged stretches left out
    precise: NerFigures  # maccrobat as published, `PRECISE` labels together


def export(
    run: Path,
    data: Path,
    *,
    version: str,
    out: Path | None = None,
    registry: Path = PACKAGED,
    start: Path | None = None,
    serve: Sequence[str] = ("clinical",),
) -> tuple[ModelEntry, Measured]:
    """Export the best epoch of a run (`model.pt` in `run`), measure it on the dev parts in `data`, write files, card, entry.

    `serve` names the heads that speak in the notes lane, in order of precedence. Raises `Permanent` where INT8 loses more
    than `LARGEST_LOSS` of F1 on a corpus.
    """
    folder = out or WEIGHTS / "ner"
    folder.mkdir(parents=True, exist_ok=True)
    sets = {corpus.name: corpus for corpus in corpora(data)}
    with tempfile.TemporaryDirectory() as scratch:
        full = _traced(run / "model.pt", start or default_start(), Path(scratch) / "fp32" / "model.onnx")
        tokenizer = (run / "tokenizer.json").read_bytes()
        (full.parent / "tokenizer.json").write_bytes(tokenizer)
        (folder / "tokenizer.json").write_bytes(tokenizer)
        to_int8(full, folder / "model.onnx", reduce_range=True, skip=nodes(full, OUTLIERS))
        before = {name: evaluate(c, opened(full.parent, version)) for name, c in sets.items()}
    entry = _entry(folder, version, serve, sets).model_copy(update={"location": location(folder, registry)})
    model = OnnxTokenClassifier(Weights(entry, folder), threads=1)
    after = {name: evaluate(c, model) for name, c in sets.items()}
    for name, figures in after.items():
        if (loss := before[name].micro.f1 - figures.micro.f1) > LARGEST_LOSS:
            raise Permanent(f"INT8 loses {loss:.3f} of F1 on {name}")
    clinical = sets["maccrobat"].dev
    thresholds, how = choose_thresholds(clinical, model.find([d.text for d in clinical]))
    entry = entry.model_copy(update={"thresholds": thresholds, "thresholds_chosen": how})
    measured = _measure(OnnxTokenClassifier(Weights(entry, folder), threads=1), sets, before, after)
    entry = entry.model_copy(update={"quality": _quality(measured)})
    (folder / "card.md").write_text(card(entry, measured, sets), encoding="utf-8")
    record(entry, registry)
    return entry, measured


def opened(folder: Path, version: str) -> OnnxTokenClassifier:
    """Open an exported folder without a registry, no thresholds."""
    return OnnxTokenClassifier(Weights(_entry(folder, version, ("clinical",), {}), folder), threads=1)


_PRECISE_HOW: Final = (
    f"{', '.join(PRECISE)}: the lowest score from which on they reach precision {PRECISION_SOUGHT} together on the maccrobat "
    "dev part; the other labels: each the score of highest F1 there"
)
_F1_HOW: Final = "each label: the score of highest F1 on the maccrobat dev part"


def choose_thresholds(documents: Sequence[Document], predictions: Sequence[Sequence[Span]]) -> tuple[dict[str, float], str]:
    """Choose the lowest published score of each label, from predictions made without thresholds; say how, in words."""
    rows: dict[str, list[tuple[float, bool]]] = {}
    for document, spans in zip(documents, predictions, strict=True):
        gold = {(g.label, g.start, g.end) for g in document.gold}
        for span in spans:
            rows.setdefault(span.label, []).append((span.score, (span.label, span.start, span.end) in gold))
    counts = {label: sum(g.label == label for d in documents for g in d.gold) for label in rows}
    chosen = {label: _best_f1(found, counts[label]) for label, found in sorted(rows.items())}
    together = [row for label in PRECISE for row in rows.get(label, [])]
    shared = _lowest_for_precision(together, PRECISION_SOUGHT)
    recalled = sum(hit for score, hit in together if shared is not None and score >= shared)
    recall = recalled / max(1, sum(counts.get(label, 0) for label in PRECISE))
    precise = shared is not None and recall >= RECALL_KEPT
    how = _PRECISE_HOW if precise else _F1_HOW
    if shared is not None and not precise:
        how += (
            f". Precision {PRECISION_SOUGHT} for {', '.join(PRECISE)} together would take a score of {shared:.3f} and leave "
            f"recall {recall:.2f}, less than {RECALL_KEPT}, so it was not sought"
        )
    if precise and shared is not None:
        chosen |= {label: shared for label in PRECISE if label in rows}
    # rounded down: a threshold rounded up would leave out the very span that it was read from
    return {label: math.floor(value * 1000) / 1000 for label, value in chosen.items()}, how


def _lowest_for_precision(rows: Sequence[tuple[float, bool]], sought: float) -> float | None:
    """Return the lowest score at which all that scores as much or more has the precision sought, None if none has."""
    ordered = sorted(rows, reverse=True)
    right = np.cumsum([hit for _, hit in ordered])
    enough = np.flatnonzero(right >= sought * np.arange(1, len(ordered) + 1))
    return ordered[int(enough[-1])][0] if len(enough) else None


def _best_f1(rows: Sequence[tuple[float, bool]], gold: int) -> float:
    ordered = sorted(rows, reverse=True)
    right = np.cumsum([hit for _, hit in ordered])
    f1 = 2 * right / (np.arange(1, len(ordered) + 1) + gold)
    return ordered[int(f1.argmax())][0]


def _traced(state: Path, start: Path, path: Path) -> Path:
    import torch

    network = build(start)
    network.load_state_dict(torch.load(state, map_location="cpu", weights_only=True))
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


def _entry(folder: Path, version: str, serve: Sequence[str], sets: Mapping[str, Corpus]) -> ModelEntry:
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
        files={name: sha256_of(folder / name) for name in ("model.onnx", "tokenizer.json")},
        licence="Apache-2.0",
        trained_on=tuple(f"{name} (CC BY 4.0)" for name in sets),
        labels=tuple(dict.fromkeys(label for head in spoken for label in head.labels)),
        preprocessing={"window": WINDOW, "overlap": OVERLAP, "serve": list(serve), "heads": heads},
    )


def _measure(
    model: OnnxTokenClassifier,
    sets: Mapping[str, Corpus],
    before: Mapping[str, NerFigures],
    after: Mapping[str, NerFigures],
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
    return Measured(after, before, published, judged, precise)


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


def card(entry: ModelEntry, measured: Measured, sets: Mapping[str, Corpus]) -> str:
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
    files = [f"| `{name}` | `{sha}` |" for name, sha in sorted(entry.files.items())]
    learned = ", ".join(f"{name} ({len(c.train)} {'documents' if c.head == 0 else 'sentences'})" for name, c in sets.items())
    return _CARD.format(
        name=entry.name,
        version=entry.version,
        learned=learned,
        how=entry.thresholds_chosen,
        serve=", ".join(entry.preprocessing["serve"]),
        rows="\n".join(rows),
        spoken="\n".join(spoken),
        labels="\n".join(labels),
        files="\n".join(files),
    )


def _label_row(label: str, score: Score, threshold: float) -> str:
    return f"| {label} | {threshold:.3f} | {score.n} | {score.precision:.3f} | {score.recall:.3f} | {score.f1:.3f} |"


_CARD: Final = """# {name} {version}, INT8

This card is written by `models/training/ner_export.py` from what it measured.

**What it is.** Named entities in clinical English: conditions, symptoms, medications, doses, procedures, tests, lab values,
anatomy. One encoder (all-MiniLM-L6-v2, 6 layers, uncased) with a head for each annotators' guide; ONNX, dynamic INT8, a scale
per channel, 7-bit weights so that it holds on processors without VNNI. A span's score is the model's probability of exactly
that span.

**Learned from.** {learned}: public, CC BY 4.0. No hospital's records.

**What it is not.** It learned from published case reports and abstracts, not from a ward's notes: shorthand, misspellings,
templates and tables are outside what it saw. Uncased: it cannot tell "US" from "us". It marks what is mentioned, not what
is true of the patient (negation and family history are the lane's work), and it does not diagnose. Discontinuous entities
are not found. A site measures it on its own notes before relying on it.

Strict figures: a span counts where start, end and type all equal the gold one. Micro averages over types; 95% intervals by
bootstrap over documents. Dev parts: they also chose the epoch and the thresholds, so expect a little less on unseen text.

## Each set by the head of its own guide, no threshold

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

| file | SHA-256 |
|---|---|
{files}
"""
