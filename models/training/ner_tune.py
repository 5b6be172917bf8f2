"""Go on training an entity model against overfitting: mentions swapped, words masked, weights averaged; stops and resumes.

The three sets are small: a model of 22 M parameters knows their mentions by heart after a few epochs. Each epoch here reads other
sentences: a mention may be replaced by another of its type from the same set (Dai and Adel 2020, "An Analysis of Simple Data
Augmentation for Named Entity Recognition"), so that its neighbours have to tell what it is, and a share of the tokens is
masked. What is measured and kept is a running average of the weights (Polyak), which lies flatter than any single step.
"""

import copy
import logging
import random
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from models.evaluation.ner_corpora import Document, Gold, sentences_of
from models.runtimes.token_classifier import load_tokenizer
from models.training.ner import (
    MODEL,
    TOKENIZER,
    Corpus,
    Made,
    Recipe,
    Unit,
    as_unit,
    batch,
    build,
    corpora,
    evaluate,
    fix_seeds,
    keep,
    loss_of,
    pack,
    steps_of,
    tagger,
)

log = logging.getLogger(__name__)

STATE: Final = "state.pt"  # all that a resumed run needs
REPORT_EVERY: Final = 20  # steps


@dataclass(frozen=True, slots=True)
class Tuning:
    """What shapes a run besides its data, its start, seed and epochs."""

    learning_rate: float = 1e-4  # of the heads and the topmost layer
    layer_decay: float = 0.9  # the rate of a layer, as a share of the one above it
    warm_up: float = 0.05  # share of all steps
    weight_decay: float = 0.01
    swapped: float = 0.4  # share of mentions replaced by another of their type
    masked: float = 0.06  # share of tokens
    average: float = 0.998  # of the running average, what stays in a step
    dropout: float = 0.2  # before the heads
    learn_words: bool = False  # else the word vectors stay: half of all weights, and those of rare words are learnt by heart
    threads: int = 1
    recipe: Recipe = field(default_factory=Recipe)  # windows and steps


class Mentions:
    """The mentions of a set by type, to draw others from: each surface form once, so that rare ones come as often."""

    def __init__(self, documents: Sequence[Document]) -> None:
        forms: dict[str, dict[str, None]] = {}
        for document in documents:
            for gold in document.gold:
                forms.setdefault(gold.label, {})[document.text[gold.start : gold.end]] = None
        self._forms = {label: list(texts) for label, texts in forms.items()}

    def swapped(self, sentence: Document, share: float, rng: random.Random) -> Document:
        """Return the sentence with about `share` of its mentions replaced; unjudged stretches move with their text."""
        parts: list[str] = []
        gold: list[Gold] = []
        moves: list[tuple[int, int]] = [(0, 0)]  # from this character of the old text on, what to add
        at = length = 0
        for old in sentence.gold:
            given = sentence.text[old.start : old.end]
            new = rng.choice(self._forms[old.label]) if old.label in self._forms and rng.random() < share else given
            parts += [sentence.text[at : old.start], new]
            length += old.start - at
            gold.append(Gold(old.label, length, length + len(new)))
            length += len(new)
            at = old.end
            moves.append((old.end, length - old.end))
        parts.append(sentence.text[at:])
        unjudged = tuple((a + _move(moves, a), b + _move(moves, b)) for a, b in sentence.unjudged)
        return Document(sentence.id, "".join(parts), tuple(gold), tuple(span for span in unjudged if span[0] < span[1]))


def _move(moves: Sequence[tuple[int, int]], position: int) -> int:
    return next(move for start, move in reversed(moves) if start <= position)


def tune(
    data: Path,
    source: Path,
    out: Path,
    *,
    seed: int = 7,
    rounds: int = 6,
    steps: int | None = None,
    tuning: Tuning | None = None,
) -> list[Mapping[str, float]]:
    """Train on from `source`: a run's folder, as `ner.train` leaves it, or a plain encoder to start from.

    A round is `steps` steps of newly drawn sentences (default: an epoch). After each the averaged weights are measured on the
    dev parts; the best mean of micro F1s is kept in `out`, a run's folder too. A run that was stopped goes on after its last
    whole round: call it again with the same arguments. Returns the rounds' figures. Raises `Permanent` where the weights in
    `source` do not fit.
    """
    import torch

    chosen = tuning or Tuning()
    torch.set_num_threads(chosen.threads)
    sets = corpora(data)
    tokenizer = load_tokenizer(source / TOKENIZER, "training")
    model = build(source, chosen.dropout)
    keep(out, model, tokenizer, Made.of(source).then(f"tune, seed {seed}, {rounds} rounds of {steps or 'all'} steps, {chosen}"))
    model.encoder.embeddings.word_embeddings.weight.requires_grad_(chosen.learn_words)
    average = copy.deepcopy(model).eval()
    optimiser = _optimiser(model, chosen)
    history: list[Mapping[str, float]] = []
    if (out / STATE).is_file():
        kept = torch.load(out / STATE, map_location="cpu", weights_only=True)
        model.load_state_dict(kept["model"])
        average.load_state_dict(kept["average"])
        optimiser.load_state_dict(kept["optimiser"])
        history = list(kept["history"])
        log.info("goes on after round %d", len(history))
    for number in range(len(history) + 1, rounds + 1):
        began = time.monotonic()
        fix_seeds(seed + number)
        drawn = _steps(sets, tokenizer, chosen, random.Random(seed + number))[:steps]
        rates = [_rate(chosen, (number - 1 + i / len(drawn)) / rounds) for i in range(len(drawn))]
        loss = _round(model, average, drawn, tokenizer, optimiser, rates, chosen)
        figures = {c.name: evaluate(c, tagger(average, tokenizer)).micro.f1 for c in sets}
        best = max((_mean(row) for row in history), default=0.0)
        history.append({"loss": loss, **figures})
        log.info("round %d of %d %s, %.0f s", number, rounds, history[-1], time.monotonic() - began)
        if _mean(history[-1]) > best:
            torch.save(average.state_dict(), out / MODEL)
        _save(out / STATE, model, average, optimiser, history)
    return history


def _mean(row: Mapping[str, float]) -> float:
    figures = [value for name, value in row.items() if name != "loss"]
    return sum(figures) / len(figures)


def _save(path: Path, model: Any, average: Any, optimiser: Any, history: Sequence[Mapping[str, float]]) -> None:
    """Write beside, then rename: a run that is stopped here still has the epoch before."""
    import torch

    whole = {"model": model.state_dict(), "average": average.state_dict(), "optimiser": optimiser.state_dict()}
    torch.save({**whole, "history": [dict(row) for row in history]}, path.with_suffix(".new"))
    path.with_suffix(".new").replace(path)


def _steps(sets: Sequence[Corpus], tokenizer: Any, tuning: Tuning, rng: random.Random) -> list[list[Unit]]:
    windows: list[Unit] = []
    for corpus in sets:
        mentions = Mentions(corpus.train)
        for _ in range(corpus.weight):
            units = list(_units(corpus, mentions, tokenizer, tuning, rng))
            windows += pack(units, tuning.recipe, rng)
    return steps_of(windows, tuning.recipe, rng)


def _units(corpus: Corpus, mentions: Mentions, tokenizer: Any, tuning: Tuning, rng: random.Random) -> Iterator[Unit]:
    for document in corpus.train:
        for sentence in sentences_of(document):
            other = mentions.swapped(sentence, tuning.swapped, rng)
            if (unit := as_unit(other, corpus.head, tokenizer)) is not None:
                yield unit


def _round(
    model: Any,
    average: Any,
    steps: list[list[Unit]],
    tokenizer: Any,
    optimiser: Any,
    rates: Sequence[float],
    tuning: Tuning,
) -> float:
    """Take the steps, `average` following; return the mean loss."""
    import torch

    frame: list[int] = tokenizer.encode("").ids  # [CLS] and [SEP]
    mask_id = tokenizer.token_to_id("[MASK]")
    model.train()
    total, began = 0.0, time.monotonic()
    for number, (step, rate) in enumerate(zip(steps, rates, strict=True), 1):
        ids, attended, tags = batch(step, frame)
        if mask_id is not None:
            words = (attended == 1) & ~torch.isin(ids, torch.tensor(frame))
            ids = ids.masked_fill(words & (torch.rand(ids.shape) < tuning.masked), mask_id)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            logits = model(ids, attended)
        loss = loss_of(logits.float(), tags, [unit.head for unit in step])
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for group in optimiser.param_groups:
            group["lr"] = rate * group["share"]
        optimiser.step()
        with torch.no_grad():
            torch._foreach_lerp_(list(average.parameters()), list(model.parameters()), 1.0 - tuning.average)
        total += float(loss.detach())
        if number % REPORT_EVERY == 0:
            spent = (time.monotonic() - began) / number
            log.info("step %d of %d, loss %.4f, %.2f s a step", number, len(steps), total / number, spent)
    return total / len(steps)


def _optimiser(model: Any, tuning: Tuning) -> Any:
    """AdamW, the rate falling by `layer_decay` from the heads down to the embeddings."""
    import torch

    layers = int(model.encoder.config.num_hidden_layers)
    groups: list[dict[str, Any]] = []
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        if name.startswith("heads"):
            depth = layers
        elif "encoder.layer." in name:
            depth = int(name.split("encoder.layer.")[1].split(".")[0]) + 1
        else:
            depth = 0
        plain = name.endswith("bias") or "LayerNorm" in name
        share = tuning.layer_decay ** (layers - depth)
        groups.append({"params": [parameter], "weight_decay": 0.0 if plain else tuning.weight_decay, "share": share})
    return torch.optim.AdamW(groups, lr=tuning.learning_rate, fused=True)


def _rate(tuning: Tuning, progress: float) -> float:
    """Learning rate at a share of the whole run: up in a line during the warm-up, then down in a line to 10%."""
    if progress < tuning.warm_up:
        return tuning.learning_rate * max(0.01, progress / tuning.warm_up)
    return tuning.learning_rate * max(0.1, (1.0 - progress) / (1.0 - tuning.warm_up))
