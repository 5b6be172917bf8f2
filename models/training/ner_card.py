"""The card of an entity model: written from what was measured, so that no figure in it is typed, and what is read back from one."""

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from models.errors import Permanent
from models.evaluation.ner import LIKELY, PRECISE, NerFigures, Score
from models.evaluation.report import signed
from models.quantising import THREADS
from models.registry import ModelEntry
from models.training.ner import Corpus, Made, Recipe
from models.training.ner_tune import Tuning
from models.vocabulary import vocabulary

PRECISION_SOUGHT: Final = 0.85
ITEMS: Final = 12  # of each length whose time is taken
JUDGED: Final = "maccrobat, unjudged stretches left out"
PRECISELY: Final = f"maccrobat, {' + '.join(PRECISE)}"
_TIMES_SOUGHT: Final = 4  # as fast as torch, for one item on two threads
_DEFAULT_START: Final = "all-MiniLM-L6-v2"


@dataclass(frozen=True, slots=True)
class Measured:
    """Everything the card reports. Keys are corpus names."""

    own_head: Mapping[str, NerFigures]  # each dev part by the head of its own annotators' guide
    full_precision: Mapping[str, float]  # F1 of the same before INT8
    alone: Mapping[str, NerFigures]  # by served heads and thresholds, labels mapped; of maccrobat `_PARTS` too
    published: Mapping[str, NerFigures]  # the same as the notes lane publishes: the vocabulary, doses and values laid over
    choice: "Choice"
    speed: Sequence["Speed"]


@dataclass(frozen=True, slots=True)
class Speed:
    """Seconds that an item of so many tokens takes alone, as busy as the machine was."""

    threads: int
    tokens: int
    torch: float  # a network of the same shape
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


def told(path: Path, sets: Mapping[str, Corpus]) -> tuple[Made, dict[str, float], list[Speed]]:
    """Read from a card what is not measured anew: how the model was made, F1 before INT8, and speed."""
    text = path.read_text(encoding="utf-8")
    before = {name: float(f1) for name, f1 in re.findall(r"^\| (\S+) \|.*\*\*.* \| (\d\.\d+) \|$", text, re.MULTILINE)}
    start = re.search(r"One encoder \((.*), (\d+) layers, uncased\)", text)
    if start is None or before.keys() != sets.keys():
        raise Permanent(f"{path} is not a card of `vigil train ner` on these sets")
    steps = re.findall(r"^- ((?:train|tune), .*)$", text, re.MULTILINE)
    digests = re.findall(r"^\| the start's `(\S+)` \| `(\w+)` \|$", text, re.MULTILINE)
    rows = re.findall(r"^\| (\d+) \| (\d+) \| ([\d.]+) \| ([\d.]+) \| [\d.]+ \|$", text, re.MULTILINE)
    speed = [Speed(int(a), int(b), float(theirs) / 1e3, float(ours) / 1e3) for a, b, theirs, ours in rows]
    return Made(start[1], int(start[2]), tuple(steps), dict(digests)), before, speed


def command(entry: ModelEntry, made: Made) -> str:
    """Return the call of `vigil train ner` that makes these weights again; why there is none where it has no such options."""
    options = {"--start": "START"} if made.start != _DEFAULT_START else {}
    for step in made.steps:
        if found := re.fullmatch(r"train, seed (\d+), (\d+) epochs, (Recipe\(learning_rate=([\d.e-]+), .*\))", step):
            seed, epochs, recipe, rate = found.groups()
            same = recipe == repr(Recipe(learning_rate=float(rate)))
            options |= {"--seed": seed, "--epochs": epochs, "--rate": rate}
        elif found := re.fullmatch(
            r"tune, seed (\d+), (\d+) rounds of all steps, (Tuning\(learning_rate=([\d.e-]+), .*\))", step
        ):
            seed, rounds, recipe, rate = found.groups()
            same = recipe == repr(Tuning(learning_rate=float(rate))) and options.get("--seed") == seed
            options |= {"--rounds": rounds, "--rounds-rate": rate}
        else:
            same = False
        if not same:
            return f"(no command line has these settings: {step})"
    options |= {"--version": entry.version, "--licence": entry.licence}
    told = " ".join(f"{name} {shlex.quote(value)}" for name, value in options.items())
    return f"vigil train ner --data DIR --out OUT --registry FILE {told}"


def card(entry: ModelEntry, made: Made, measured: Measured, sets: Mapping[str, Corpus]) -> str:
    """Write the model's card from what was measured, and from how it was made."""
    rows = []
    for name, figures in measured.own_head.items():
        f1, precision, recall = figures.metrics()
        counts = f"{len(sets[name].dev)} | {figures.micro.n}"
        told = f"{precision.value:.3f} | {recall.value:.3f} | **{f1.value:.3f}** ({f1.low:.3f} to {f1.high:.3f})"
        rows.append(f"| {name} | {counts} | {told} | {measured.full_precision[name]:.3f} |")
    spoken = []
    for name, figures in measured.alone.items():
        ours = measured.published[name].metrics(beside={"alone": figures})
        for whose, metrics in (("the model alone", figures.metrics()), ("as published", ours)):
            f1, precision, recall = metrics
            spoken.append(f"| {name} | {whose} | {precision} | {recall} | {f1} |")
        gains = [signed(metric.baselines["alone"].baselines["difference"]) for metric in ours]
        spoken.append(f"| | paired difference | {gains[1]} | {gains[2]} | {gains[0]} |")
    labels = [
        _label_row(label, entry.thresholds.get(label, 0.0), score, measured.published["maccrobat"].by_label[label])
        for label, score in measured.alone["maccrobat"].by_label.items()
    ]
    choice = measured.choice
    balanced = ", ".join(f"{label} {score:.3f}" for label, score in choice.balanced.items())
    prices = [
        *((f"precision {sought} sought", score) for sought, score in choice.curve.items()),
        (f"precision {PRECISION_SOUGHT} sought, chosen without a fifth of the documents, measured on it", choice.elsewhere),
        (f"highest F1 of each ({balanced})", choice.balanced_score),
    ]
    files = [f"| `{name}` | `{sha}` |" for name, sha in sorted(entry.files.items())]
    files += [f"| the start's `{name}` | `{sha}` |" for name, sha in sorted(made.digests.items())]
    learned = ", ".join(f"{name} ({len(c.train)} {'documents' if c.head == 0 else 'sentences'})" for name, c in sets.items())
    terms = vocabulary()
    return _CARD.format(
        name=entry.name,
        version=entry.version,
        learned=learned,
        how=entry.thresholds_chosen,
        likely=LIKELY,
        serve=", ".join(entry.preprocessing["serve"]),
        rows="\n".join(rows),
        spoken="\n".join(spoken),
        terms=f"{len(terms):,} terms, digest `{terms.digest[:12]}`",
        reached=_reached(measured),
        labels="\n".join(labels),
        prices="\n".join(f"| {name} | {s.precision:.3f} | {s.recall:.3f} | {s.f1:.3f} |" for name, s in prices),
        speed="\n".join(
            f"| {s.threads} | {s.tokens} | {s.torch * 1e3:.3g} | {s.shipped * 1e3:.3g} | {s.torch / s.shipped:.1f} |"
            for s in measured.speed
        ),
        sought_times=_TIMES_SOUGHT,
        missed=_missed(measured.speed),
        items=ITEMS,
        threads=THREADS,
        start=f"{made.start}, {made.layers} layers",
        origin=made.start,
        command=command(entry, made),
        steps="\n".join(f"- {step}" for step in made.steps),
        files="\n".join(files),
    )


def _reached(measured: Measured) -> str:
    """Say whether the precision sought is reached by the model alone, and as published."""
    told = []
    for whose, found in (("the model alone", measured.alone), ("as published", measured.published)):
        precision = found[PRECISELY].metrics()[1]
        told.append(f"{whose} {'reaches' if precision.value >= PRECISION_SOUGHT else 'misses'} it, {precision}")
    return f"Precision {PRECISION_SOUGHT} was sought for condition, symptom and medication together: {'; '.join(told)}."


def _missed(speed: Sequence[Speed]) -> str:
    """Say for what lengths two threads are slower than sought."""
    slow = [s for s in speed if s.threads == THREADS and s.torch / s.shipped < _TIMES_SOUGHT]
    if not slow:
        return f"On {THREADS} threads that is reached at every length."
    told = ", ".join(f"{s.torch / s.shipped:.1f} at {s.tokens} tokens" for s in slow)
    return f"On {THREADS} threads that is missed: {told}."


def _label_row(label: str, threshold: float, alone: Score, published: Score) -> str:
    figures = " | ".join(f"{s.precision:.3f} | {s.recall:.3f} | {s.f1:.3f}" for s in (alone, published))
    return f"| {label} | {threshold:.3f} | {alone.n} | {figures} |"


_CARD: Final = """# {name} {version}, INT8

This card is written by `models/training/ner_export.py` from what it measured.

**What it is.** Named entities in clinical English: conditions, symptoms, medications, doses, procedures, tests, lab values,
anatomy. One encoder ({start}, uncased) with a head for each annotators' guide; ONNX, dynamic INT8, a scale
per channel, 7-bit weights so that it holds on processors without VNNI, outlying channels multiplied apart in fp32. A span's
score is the model's probability of exactly that span.

**Learned from.** {learned}: public, CC BY 4.0. No hospital's records.

**What it is not.** It learned from published case reports and abstracts, not from a ward's notes: shorthand, misspellings,
templates and tables are outside what it saw. Uncased: it cannot tell "US" from "us". It marks what is mentioned, not what
is true of the patient (negation and family history are the lane's work), and it does not diagnose. Discontinuous entities
are not found. A site measures it on its own notes before relying on it.

Strict figures: a span counts where start, end and type all equal the gold one. Micro averages over types; 95% intervals by
bootstrap over documents, of precision and recall too. Dev parts: they also chose the epoch and the thresholds, so expect a little
less on unseen text.

## Each set by the head of its own guide, spans of probability {likely} and more

| dev part | documents | gold spans | precision | recall | F1 | F1 before INT8 |
|---|---|---|---|---|---|---|
{rows}

## The model alone, and as the notes lane publishes (heads: {serve}; thresholds as below)

The lane's default lays the terms of `models/vocabulary.txt` over what the model finds, and reads doses and values by rule
({terms}; `lanes.notes_entities.vocabulary = false` leaves it out); that is "as
published", but for headings, which the lane leaves out. `vigil models evaluate ner --data DIR` measures both, by every label, on
these sets or a site's own. condition and symptom count as Disease, medication as Chemical, where a set knows no difference. The
guides differ, so these figures on BC5CDR and NCBI measure the distance between guides too.

{reached}

| dev part | | precision | recall | F1 |
|---|---|---|---|---|
{spoken}

Of maccrobat by label, the model alone and, to the right, as published:

| label | threshold | gold spans | precision | recall | F1 | precision | recall | F1 |
|---|---|---|---|---|---|---|---|---|
{labels}

Thresholds: {how}.

## What precision costs (maccrobat dev; condition, symptom and medication together)

| thresholds | precision | recall | F1 |
|---|---|---|---|
{prices}

A site that would rather find more than be right puts its own into its registry file, under `[thresholds.{name}]`.

## Speed

One item alone, milliseconds, as busy as the machine was ({items} items of each length, the best of three passes); torch runs a
network of the same shape:

| threads | tokens | torch, fp32 | this | times |
|---|---|---|---|---|
{speed}

Sought for the encoders that ship: {sought_times} times as fast as torch for one item on {threads} threads. {missed}

What was tried, and is in what ships: INT8 with a scale per channel; outlying channels apart in fp32, since half of what INT8 cost
of F1 was a handful of them; attention and biases fused, which ONNX Runtime's own optimiser does not do in quantised graphs; no
padding; layer norm unfused, as the fused one is slow on a CPU. The curve is the table: the longer the item, the less is gained, and
on two threads less than on one, for torch gains more from the second. The next step: attention, the fp32 part that grows with the
length, in fewer bits; or a network of fewer layers taught by this one.

## How it was made

    {command}

DIR has the folders BC5CDR-IOB, NCBI-disease-IOB and maccrobat, START {origin} (where from:
`models/training/starts.py`; its digests are below). The same seed, data and versions give the same weights on the same machine. In
all detail:

{steps}

| file | SHA-256 |
|---|---|
{files}
"""
