"""From a training run to the files that ship: ONNX, INT8, thresholds, figures, registry entry and card, all by code.

`python -m models.training.ner_export --data DIR` measures what ships anew, for its card and the registry's figures; with
`--version V` it is fitted anew too, as that version (`refitted`).
"""

import argparse
import math
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from models.errors import Permanent
from models.evaluation.ner import LIKELY, PRECISE, NerFigures, Score, counted_as, strict
from models.evaluation.ner_corpora import Document, labels_of
from models.export import Feeds, apart, seconds_per_item, to_int8, to_onnx, torch_seconds_per_item
from models.fusing import fused
from models.quantising import THREADS
from models.registering import location, record
from models.registry import PACKAGED, WEIGHTS, ModelEntry, Registry, Weights, sha256_of
from models.runtimes.token_classifier import OVERLAP, WINDOW, OnnxTokenClassifier, load_tokenizer
from models.tasks import Floats, Span
from models.training.ner import HEADS, TOKENIZER, Corpus, Made, build, corpora, evaluate
from models.training.ner_card import ITEMS, JUDGED, PRECISELY, PRECISION_SOUGHT, Choice, Measured, Speed, card, told
from models.vocabulary import vocabulary

NAME: Final = "clinical-ner"
_FOLDS: Final = 5  # parts of the dev documents that thresholds are chosen without, to see what they are worth elsewhere
_CURVE: Final = (0.7, 0.75, 0.8, 0.85, 0.9)  # precisions whose price the card tells
_TIMED: Final = (32, 64, 128, WINDOW)  # tokens of an item whose time is taken
LARGEST_LOSS: Final = 0.01  # of any corpus's micro F1, INT8 to fp32: above it the export is refused
_ATTENTION: Final = 12  # heads of each attention of what ships
_SEEN: Final = 20  # documents of each set that outliers are looked for in


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
    sets = {corpus.name: corpus for corpus in corpora(data)}
    with tempfile.TemporaryDirectory() as scratch:
        full, small = (Path(scratch) / name / "model.onnx" for name in ("fp32", "int8"))
        network = _traced(run, full)
        for path in (full, small):
            path.parent.mkdir(exist_ok=True)
            shutil.copyfile(run / TOKENIZER, path.parent / TOKENIZER)
        split, quantised = Path(scratch) / "split.onnx", Path(scratch) / "quantised.onnx"
        left = apart(full, split, _feeds(full.parent, [d for c in sets.values() for d in c.train[:_SEEN]]))
        to_int8(split, quantised, reduce_range=True, skip=left)
        fused(quantised, small, heads=network.encoder.config.num_attention_heads, padded=False)
        before = {name: evaluate(c, opened(full.parent, version), least=LIKELY).micro.f1 for name, c in sets.items()}
        learned = (*(f"{name} (CC BY 4.0)" for name in sets), f"what {made.start} had learned, the start")
        entry = _entry(small.parent, version, serve, licence)
        entry = entry.model_copy(update={"location": location(folder, registry), "trained_on": learned})
        return _ship(entry, small.parent, folder, sets, before, _speeds(network, small.parent), made, registry)


def refitted(data: Path, *, version: str, registry: Path = PACKAGED) -> tuple[ModelEntry, Measured]:
    """Measure the entity model in a registry anew, its graph fused where it was not; write it, card and entry, as `version`.

    Weights and training stay what they are: how it was made, and F1 before INT8, are taken from its card. Raises as `export`.
    """
    known = Registry.load(None if registry == PACKAGED else registry)
    old = known.entry("ner", NAME)
    folder = known.weights("ner", NAME).folder
    sets = {corpus.name: corpus for corpus in corpora(data)}
    made, before, _ = told(folder / "card.md", sets)
    with tempfile.TemporaryDirectory() as scratch:
        small = Path(scratch) / "model.onnx"
        shutil.copyfile(folder / TOKENIZER, small.parent / TOKENIZER)
        fused(folder / "model.onnx", small, heads=_ATTENTION, padded=False)
        fitted = _entry(small.parent, version, tuple(old.preprocessing["serve"]), old.licence)
        # no thresholds: they are chosen anew, from all that it finds
        entry = old.model_copy(update={"version": version, "files": fitted.files, "thresholds": {}, "thresholds_chosen": ""})
        return _ship(entry, small.parent, folder, sets, before, _speeds(_alike(), small.parent), made, registry)


def remeasured(data: Path, *, start: Path | None = None, registry: Path = PACKAGED) -> tuple[ModelEntry, Measured]:
    """Measure the entity model in a registry as it is, and write its card and figures; all else, its speed too, stays.

    `start` is the folder that it started from, where the card does not have the digests yet. Raises `Permanent` where the card is
    none of `export`'s on these sets.
    """
    known = Registry.load(None if registry == PACKAGED else registry)
    entry, weights = known.entry("ner", NAME), known.weights("ner", NAME)
    sets = {corpus.name: corpus for corpus in corpora(data)}
    made, before, speed = told(weights.folder / "card.md", sets)
    if start is not None:
        made = replace(made, digests=Made.of(start).digests)
    plain = OnnxTokenClassifier(replace(weights, entry=entry.model_copy(update={"thresholds": {}})), threads=1)
    clinical = sets["maccrobat"].dev
    choice = choose_thresholds(clinical, plain.find([d.text for d in clinical]))
    after = {name: evaluate(c, plain, least=LIKELY) for name, c in sets.items()}
    measured = _measure(OnnxTokenClassifier(weights, threads=1), sets, before, after, choice, speed)
    entry = entry.model_copy(update={"quality": _quality(measured)})
    (weights.folder / "card.md").write_text(card(entry, made, measured, sets), encoding="utf-8")
    record(entry, registry)
    return entry, measured


def _ship(
    entry: ModelEntry,
    made: Path,
    folder: Path,
    sets: Mapping[str, Corpus],
    before: Mapping[str, float],
    speed: Sequence[Speed],
    origin: Made,
    registry: Path,
) -> tuple[ModelEntry, Measured]:
    """Measure what lies in `made`, refuse it or put it into `folder` with its card, and record it."""
    model = OnnxTokenClassifier(Weights(entry, made), threads=1)
    after = {name: evaluate(c, model, least=LIKELY) for name, c in sets.items()}
    for name, figures in after.items():
        if (loss := before[name] - figures.micro.f1) > LARGEST_LOSS:
            raise Permanent(f"INT8 loses {loss:.3f} of F1 on {name}", hint="nothing was written")
    clinical = sets["maccrobat"].dev
    choice = choose_thresholds(clinical, model.find([d.text for d in clinical]))
    entry = entry.model_copy(update={"thresholds": choice.thresholds, "thresholds_chosen": choice.how})
    measured = _measure(OnnxTokenClassifier(Weights(entry, made), threads=1), sets, before, after, choice, speed)
    entry = entry.model_copy(update={"quality": _quality(measured)})
    folder.mkdir(parents=True, exist_ok=True)
    for name in entry.files:
        shutil.copyfile(made / name, folder / name)
    (folder / "card.md").write_text(card(entry, origin, measured, sets), encoding="utf-8")
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


def _speeds(network: Any, folder: Path) -> list[Speed]:
    """Time a graph and the network that it was made of, or one of its shape: what the tokens are does not matter."""
    random, found = np.random.default_rng(7), []
    for threads in (1, THREADS):
        for tokens in _TIMED:
            ids = [random.integers(0, network.encoder.config.vocab_size, (1, tokens)) for _ in range(ITEMS)]
            full: list[Feeds] = [{"input_ids": one, "attention_mask": np.ones_like(one)} for one in ids]
            short: list[Feeds] = [{"input_ids": one} for one in ids]
            torch = torch_seconds_per_item(network, full, threads=threads)
            found.append(
                Speed(threads, tokens, torch, seconds_per_item(folder / "model.onnx", "logits", short, threads=threads))
            )
    return found


def _alike() -> Any:
    """Return a network of the shape of the one that ships, of no use but to be timed."""
    from transformers import BertConfig, BertModel

    shape = BertConfig(hidden_size=384, num_hidden_layers=12, num_attention_heads=_ATTENTION, intermediate_size=1536)
    return BertModel(shape, add_pooling_layer=False).eval()


def _feeds(folder: Path, documents: Sequence[Document]) -> list[Feeds]:
    """Return the first window of each document as a graph takes it."""
    tokenizer = load_tokenizer(folder / TOKENIZER, "export")
    rows = [np.asarray([tokenizer.encode(document.text).ids[:WINDOW]], dtype=np.int64) for document in documents]
    return [{"input_ids": row, "attention_mask": np.ones_like(row)} for row in rows]


def _traced(run: Path, path: Path) -> Any:
    """Write a run's network as ONNX, and return the network."""
    import torch

    network = build(run)
    example = torch.ones(2, 8, dtype=torch.long)
    names = ("input_ids", "attention_mask", "logits")
    axes = {0: "batch", 1: "tokens"}
    to_onnx(network, (example, example), path, inputs=names[:2], outputs=names[2:], dynamic=dict.fromkeys(names, axes))
    return network


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
    before: Mapping[str, float],
    after: Mapping[str, NerFigures],
    choice: Choice,
    speed: Sequence[Speed],
) -> Measured:
    terms = vocabulary()
    alone: dict[str, NerFigures] = {}
    published: dict[str, NerFigures] = {}
    for name, corpus in sets.items():
        said = model.find([d.text for d in corpus.dev])
        joined = [terms.join(d.text, spans, model.labels)[0] for d, spans in zip(corpus.dev, said, strict=True)]
        for found, spoken in ((alone, said), (published, joined)):
            if name == "maccrobat":
                found[name] = strict(corpus.dev, spoken)
                found[JUDGED] = strict(corpus.dev, spoken, skip_unjudged=True)
                found[PRECISELY] = strict(corpus.dev, spoken, only=PRECISE)
            else:
                mapped = counted_as(model, {*model.labels}, labels_of(corpus.dev))
                found[name] = strict(corpus.dev, spoken, predicted_as=mapped)
    return Measured(after, before, alone, published, choice, speed)


def _quality(measured: Measured) -> dict[str, float]:
    quality: dict[str, float] = {}
    for name, figures in measured.own_head.items():
        key, f1 = name.split("-")[0].lower(), figures.metrics()[0]
        quality |= {f"{key}_f1": f1.value, f"{key}_f1_low": f1.low, f"{key}_f1_high": f1.high}
    for whose, found in (("alone", measured.alone), ("published", measured.published)):
        for metric in found[PRECISELY].metrics(f"{whose}_{{}}_condition_symptom_medication")[1:]:
            what = metric.name.rsplit(" ", 1)
            quality[what[0].format(what[1])] = metric.value
    return {key: round(value, 4) for key, value in quality.items() if math.isfinite(value)}


def main() -> None:
    """Measure what ships anew."""
    parser = argparse.ArgumentParser(prog="python -m models.training.ner_export", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="the folder of BC5CDR-IOB, NCBI-disease-IOB and maccrobat")
    parser.add_argument("--version", help="fit it anew, as this version; else weights, thresholds and speed stay")
    parser.add_argument("--start", type=Path, help="the folder that it started from, for its digests")
    parser.add_argument("--registry", type=Path, default=PACKAGED)
    chosen = parser.parse_args()
    if chosen.version:
        entry, _ = refitted(chosen.data, version=chosen.version, registry=chosen.registry)
    else:
        entry, _ = remeasured(chosen.data, start=chosen.start, registry=chosen.registry)
    sys.stdout.write(f"{entry.name} {entry.version} {entry.digest}\n")


if __name__ == "__main__":
    main()
