"""How good the chest X-ray model is: ranking, calibration, search by words, and what the same network does without words.

    AUROC         of the "pneumonia" score (zero-shot: from the label prompts), images of patients the model never saw
    sensitivity, specificity at the shipped threshold
    held wording  AUROC when images are ranked by one wording that training never used, as in a search
    alike         share of an image's five nearest images that have its label

Intervals are 95%, bootstrapped by patient (one patient may have several images).
"""

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.errors import Permanent
from models.evaluation.image_prompts import HELD
from models.evaluation.image_sets import LabelledImage, decoded, gather, known, readable, unreadable
from models.evaluation.measures import Array, Bootstrap, Metric, auroc, calibration, calibration_metric
from models.evaluation.report import Chart, Confusion, Evaluation, Progress, Ranking, Reliability, Section, silent
from models.registering import record
from models.registry import WEIGHTS, ModelEntry, Registry
from models.tasks import Floats, ImageTextModel

POSITIVE = "pneumonia"


@dataclass(frozen=True, slots=True)
class ImageFigures:
    """The figures of one folder of images."""

    name: str
    images: int
    patients: int
    positive: int
    metrics: tuple[Metric, ...]
    wordings: tuple[tuple[str, str, float], ...]  # label, wording, AUROC of ranking by it
    reliability: tuple[tuple[float, float, int], ...]
    images_per_second: float
    scores: NDArray[Any] = field(repr=False)  # [images], of the positive class
    labels: NDArray[Any] = field(repr=False)  # [images], 1 where positive
    threshold: float = 0.5

    def as_json(self) -> dict[str, Any]:
        """Return the JSON report."""
        return {
            "set": self.name,
            "images": self.images,
            "patients": self.patients,
            "positive": self.positive,
            "metrics": [metric.as_json() for metric in self.metrics],
            "wordings": [list(one) for one in self.wordings],
            "reliability": [list(point) for point in self.reliability],
        }


def evaluate(
    model: ImageTextModel,
    images: Sequence[LabelledImage],
    *,
    name: str,
    rounds: int = 1000,
    seed: int = 0,
    progress: Progress = silent,
) -> ImageFigures:
    """Embed and classify every image that can be read, and measure. The images must be new to the model.

    Raises:
        Permanent: there are not images of both classes.
    """
    _both(name, [image.label for image in images])
    start = time.thread_time()
    parts, every, images = [], len(images), list(images)
    kept: list[LabelledImage] = []
    for at in range(0, every, 8):
        progress(name, at, every)
        if batch := list(decoded(images[at : at + 8])):
            kept += [image for image, _ in batch]
            parts.append(model.embed_images([picture for _, picture in batch]))
    progress(name, every, every)
    seconds = time.thread_time() - start
    images = kept
    labels = _both(name, [image.label for image in images])
    patients, groups = np.unique([image.patient for image in images], return_inverse=True)
    embeddings = np.concatenate(parts)
    scores = model.classify(embeddings)[:, model.labels.index(POSITIVE)]
    bootstrap = Bootstrap(groups, rounds=rounds, seed=seed)
    found = scores >= model.thresholds[POSITIVE]
    near = _alike(embeddings, labels, groups)
    usual = np.full(len(labels), labels.mean() >= 0.5)  # who says of every image what most are
    chance = np.full(len(labels), labels.mean(), np.float32)  # who gives every image the same score
    metrics = [
        *bootstrap.ranking(labels, {"model": scores, "base rate": chance}).values(),
        _beside(bootstrap, "sensitivity", labels, found, usual),
        _beside(bootstrap, "specificity", 1 - labels, ~found, ~usual),
        _beside(bootstrap, "alike (5 nearest images, other patients)", np.ones_like(labels), near, _others(labels, groups)),
        calibration_metric(bootstrap, labels, scores),
    ]
    return ImageFigures(
        name,
        len(images),
        len(patients),
        int(labels.sum()),
        tuple(metrics),
        _by_wording(model, embeddings, labels),
        tuple(calibration(labels, scores, bins=6)),
        len(images) / max(seconds, 1e-9),
        scores,
        labels,
        model.thresholds[POSITIVE],
    )


def _by_wording(model: ImageTextModel, embeddings: Floats, labels: Floats) -> tuple[tuple[str, str, float], ...]:
    """Rank images by each wording that training never used: label, wording, AUROC; none of a model without a text tower."""
    try:
        vectors = {label: model.embed_texts(texts) for label, texts in HELD.items()}
    except Permanent:
        return ()
    return tuple(
        (label, text, auroc(labels, (1 if label == POSITIVE else -1) * (embeddings @ vector)))
        for label, texts in HELD.items()
        for text, vector in zip(texts, vectors[label], strict=True)
    )


def _both(name: str, labels: Sequence[str]) -> Floats:
    """Return 1 where positive; refuse images of one class."""
    found = np.array([label == POSITIVE for label in labels], np.float32)
    if not 0 < found.sum() < len(found):
        raise Permanent(f"{name}: measuring needs unseen images of both classes, found {len(found)} images")
    return found


def _beside(bootstrap: Bootstrap, name: str, among: Floats, hit: NDArray[Any], other: NDArray[Any]) -> Metric:
    """Measure the share of `hit` among some images, and beside it what needs no look at an image."""
    kind = "majority class" if other.dtype == np.bool_ else "at random"
    return bootstrap.against(name, {"model": partial(_share, among, hit), kind: partial(_share, among, other)})


def _others(labels: Floats, groups: NDArray[np.int64]) -> Array:
    """Share of the images of other patients that have an image's label: what five drawn at random would have."""
    count = int(groups.max()) + 1
    same = np.stack([np.bincount(groups, labels == one, count) for one in (0, 1)])[labels.astype(int), groups]
    of_label = np.array([(labels == one).sum() for one in (0, 1)])[labels.astype(int)]
    found: Array = (of_label - same) / np.maximum(len(labels) - np.bincount(groups, minlength=count)[groups], 1)
    return found


def _share(among: Floats, hit: NDArray[Any], weights: Array) -> float:
    weights = weights * among
    total = float(weights.sum())
    return float((weights * hit).sum()) / total if total > 0 else float("nan")


def _alike(embeddings: Floats, labels: Floats, groups: NDArray[np.int64]) -> Array:
    likeness = embeddings @ embeddings.T
    likeness[groups[:, None] == groups[None]] = -np.inf
    nearest = np.argsort(-likeness, axis=1)[:, :5]
    share: Array = (labels[nearest] == labels[:, None]).mean(axis=1)
    return share


def evaluate_all(
    model: ImageTextModel,
    data: Path,
    weights: Path,
    *,
    rounds: int = 1000,
    notes: list[str] | None = None,
    progress: Progress = silent,
) -> list[ImageFigures]:
    """Evaluate on every set of images in `data`, leaving out whose images the model learned from (`learned.npy`).

    What is left out is said in `notes`.
    """
    said = [] if notes is None else notes
    path = weights / "learned.npy"
    learned = np.load(path) if path.is_file() else None
    if learned is None:
        said.append(
            "the model keeps no list of whose images it learned from: none was left out, figures on its own set flatter it"
        )
    sets, passed = gather(data)
    said += passed
    figures = []
    for name, images in sets.items():
        seen = np.zeros(len(images), np.bool_) if learned is None else known(images, learned)
        fresh = [image for image, out in zip(images, seen, strict=True) if not out]
        if gone := len(images) - len(fresh):
            said.append(f"{name}: {gone:,} of {len(images):,} images left out, the model learned from them or their patients")
        if len({image.label for image in fresh}) < 2:
            said.append(f"{name}: no figures, the {len(fresh):,} images left are not of both classes")
            continue
        try:
            found = evaluate(model, fresh, name=name, rounds=rounds, progress=progress)
        except Permanent as error:  # both classes were there, before the images were opened
            said.append(f"{error}; {readable(fresh)[1]}")
            continue
        if note := unreadable(len(fresh) - found.images, len(fresh)):
            said.append(f"{name}: {note}")
        figures.append(found)
    if not figures:
        raise Permanent("no images to measure on: " + "; ".join(said), hint="give images of patients it did not learn from")
    return figures


def report(model: ImageTextModel, figures: Sequence[ImageFigures], notes: Sequence[str]) -> Evaluation:
    """Put the figures of `evaluate_all` into the shape of every task."""
    sections = []
    for each in figures:
        about = (
            f"{each.images:,} images of {each.patients:,} patients, {each.positive:,} with {POSITIVE} by their label; "
            "intervals bootstrapped by patient"
        )
        positive = each.labels > 0
        found = each.scores >= each.threshold
        names = (POSITIVE, f"no {POSITIVE}")
        counts = np.array([[(found & is_so).sum(), (~found & is_so).sum()] for is_so in (positive, ~positive)], np.int64)
        charts: tuple[Chart, ...] = (
            Ranking(POSITIVE, each.labels, {"model": each.scores}),
            Reliability(POSITIVE, each.reliability, f"labelled {POSITIVE}"),
            Confusion(f"{POSITIVE} at the shipped threshold {each.threshold:g}", names, names, counts),
        )
        sections.append(Section(each.name, about, each.metrics, charts))
    return Evaluation("images", model.identity, tuple(sections), tuple(notes))


_WHAT = """\
Frontal chest X-rays and words in one space. An image gets scores for its label prompts ({labels}) without a classifier of its
own, and vectors by which images are found by words or by another image.

**What it is not.** It is assistive: it points at images worth a look and diagnoses nothing. It learned from {learned} images
whose labels were mined from reports by software and are known to be wrong in part; "pneumonia" is a finding in a report, not
a confirmed infection. It knows two classes: for any other finding its words mean little. Adults' frontal views only: a
score of a lateral view, a child, another body part or a photograph means nothing. Lanes ask it about no picture of another
modality, body part or view than its entry lists (`meant_for`), nor of an unnamed body part; they go by what the sender says, and
ask it about a child's picture and one of an unnamed view all the same. Portable (AP) takes of sicker patients look different for
reasons other than pneumonia, and part of what it learned may be that. It is not validated at your site. Scores are calibrated to
an even mix of both classes: on a ward with little pneumonia they are too high."""

_LEARNED = """\
NIH ChestX-ray14 (Wang et al., CVPR 2017; NIH Clinical Center, USA; free use with attribution), a balanced selection of two
classes, No_findings and Pneumonia. The image tower starts from EfficientNet-lite0's ImageNet weights (Apache-2.0); the text
tower is the shipped sentence embedder ({tower}) and a projection. Split by patient, by a hash of the id: 20% never seen
(the figures below), 12% to calibrate, the rest learned from.

Preprocessing: luminance, whole image fitted to {size} x {size}, black around it; no cropping."""


def card(entry: ModelEntry, figures: ImageFigures, learned: int) -> str:
    """Return the card as Markdown."""
    lines = [
        f"# {entry.name} {entry.version}",
        "Written by `python -m models.evaluation.images`; do not edit.",
        _WHAT.format(labels=", ".join(entry.labels), learned=learned),
        f"Licence of the weights: {entry.licence}. Digest: `{entry.digest}`.",
        "## Learned from",
        _LEARNED.format(tower=entry.preprocessing["text_tower"], size=entry.preprocessing["size"]),
        f"## Measured on {figures.name}",
        f"{figures.images} images of {figures.patients} patients, {figures.positive} with pneumonia by their label. 95% "
        "intervals, bootstrapped by patient.",
        "\n".join(["| | |", "|---|---|", *(f"| {metric.name} | {metric} |" for metric in figures.metrics)]),
        f"Threshold {entry.thresholds.get(POSITIVE, 0.5)}: {entry.thresholds_chosen}",
        "\n".join(
            [
                "| mean score | labelled pneumonia | images |",
                "|---|---|---|",
                *(f"| {mean:.2f} | {rate:.2f} | {count} |" for mean, rate, count in figures.reliability),
            ]
        ),
        "Ranking images by one wording that training never used:",
        "\n".join(
            [
                "| wording | of | AUROC |",
                "|---|---|---|",
                *(f"| {text} | {label} | {value:.3f} |" for label, text, value in figures.wordings),
            ]
        ),
        "## Speed",
        f"{figures.images_per_second:.0f} images/s with decoding, per second of one core of the machine that wrote this card.",
    ]
    return "\n\n".join(lines) + "\n"


def main(argv: Sequence[str] | None = None) -> int:
    """Run `python -m models.evaluation.images --data DIR [--model NAME] [--json FILE] [--card]`."""
    parser = argparse.ArgumentParser(prog="python -m models.evaluation.images")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--model")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--card", action="store_true", help="write the card and the registry's figures of a packaged model")
    chosen = parser.parse_args(argv)
    registry = Registry.load()
    entry, model = registry.entry("image-text", chosen.model), registry.open("image-text", name=chosen.model)
    folder = WEIGHTS / entry.location
    figures, *_ = evaluate_all(model, chosen.data, folder)
    text = card(entry, figures, int(entry.preprocessing.get("images_learned", 0)))
    sys.stdout.write(text)
    if chosen.json:
        chosen.json.write_text(json.dumps(figures.as_json(), indent=1) + "\n", encoding="utf-8")
    if chosen.card:
        (folder / "card.md").write_text(text, encoding="utf-8")
        quality = {f"{figures.name}: {metric.name}": round(metric.value, 4) for metric in figures.metrics}
        record(entry.model_copy(update={"quality": quality}))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
