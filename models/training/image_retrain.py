"""Retrain the image-text champion from labelled feedback: a challenger with the champion's own image tower.

A hospital's feedback is tens or hundreds of labels, too few for a network. So the image tower stays as it is, file for file, and
what maps words to images learns on: the text projection, the scale and the offsets, starting from the champion's and held near
them. Classes count alike, as in the champion's calibration, whatever their share of the feedback. It takes numpy alone, no torch.
"""

import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from models.errors import Permanent
from models.evaluation import images as measuring
from models.evaluation.image_sets import LabelledImage, content, gather, known, pixels, readable
from models.evaluation.measures import Array, Bootstrap, Metric
from models.evaluation.report import Progress, beside, silent
from models.registering import location
from models.registry import ModelEntry, Registry, Weights, sha256_of
from models.tasks import Floats, ImageTextModel, ModelIdentity

TASK: Final = "image-text"
LEAST: Final = 20  # labels in all, by default
LEAST_OF_A_CLASS: Final = 5
_RUNTIME: Final = "onnx-image-text"


@dataclass(frozen=True, slots=True, eq=False)
class Example:
    """One image with the label that a person gave it; `feedback` is the event's id."""

    image: NDArray[np.uint8]
    label: str
    feedback: str


@dataclass(frozen=True, slots=True)
class Recipe:
    """Everything that shapes the weights besides data and champion."""

    steps: int = 200
    rate: float = 3e-3
    anchor: float = 3.0  # weight of the projection's squared distance from the champion's, per column
    settle: float = 0.1  # the same of scale (its logarithm) and offsets


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a retraining came to. `worse`: the challenger ranks the fixed set's images worse than the champion."""

    entry: ModelEntry
    champion: ModelIdentity
    labels: dict[str, int]
    metrics: tuple[Metric, ...]  # the challenger's, each with the champion's beside it
    images: int  # of the fixed set
    worse: bool
    notes: tuple[str, ...]

    def as_markdown(self) -> str:
        """Write the report."""
        counts = ", ".join(f"{count} {label}" for label, count in sorted(self.labels.items()))
        old = f"{self.champion.name} {self.champion.version}, digest `{self.champion.digest}`"
        rows = [f"| {metric.name} | {metric} | {beside(metric)} |" for metric in self.metrics]
        parts = [
            f"# {self.entry.name} {self.entry.version}",
            "Written by `vigil retrain`; do not edit.",
            f"Retrained from {old}, by {counts} labelled by people through `clinical.feedback`. Digest: `{self.entry.digest}`. It "
            "is proposed, and never serves before somebody promotes it. What holds for the champion's card holds for it.",
            f"## Measured on the fixed set ({self.images} images)",
            "\n".join(["| | challenger (95%) | champion |", "|---|---|---|", *rows]),
        ]
        if self.notes:
            parts += ["## Left out", "\n".join(f"- {note}" for note in self.notes)]
        return "\n\n".join(parts) + "\n"


def require_enough(labels: Sequence[str], known: Sequence[str], least: int = LEAST) -> None:
    """Raise `Permanent` where there are too few labels, saying how many of what there are and what is lacking."""
    counts = Counter(labels)
    lacking = [f"{LEAST_OF_A_CLASS - counts[one]} more of {one!r}" for one in known if counts[one] < LEAST_OF_A_CLASS]
    if len(labels) < least:
        lacking.insert(0, f"{least - len(labels)} more in all")
    if lacking:
        there = ", ".join(f"{counts[one]} of {one!r}" for one in known)
        raise Permanent(
            f"too few labels to retrain from: {len(labels)} ({there}); lacking: {', '.join(lacking)}",
            hint="labels are feedback events of the kinds finding-confirmed and finding-corrected on findings that are still there",
        )


def retrain(
    registry: Registry,
    examples: Sequence[Example],
    fixed: Path,
    out: Path,
    *,
    site: Path,
    version: str,
    least: int = LEAST,
    recipe: Recipe | None = None,
    rounds: int = 1000,
    progress: Progress = silent,
) -> Outcome:
    """Train a challenger from the champion into `out` and measure both on the fixed set. Writes no registry.

    `fixed` is a folder of labelled images, or its labels.csv; what the champion learned from, and what is in the feedback, is left
    out of the one or the other. `site` is the registry file that the entry is meant for.

    Raises:
        Permanent: too few labels, a champion of another runtime, or a fixed set without both classes.
    """
    weights = registry.weights(TASK)
    if weights.entry.runtime != _RUNTIME or "text_tower" not in weights.entry.preprocessing:
        hint = f"only models of the runtime {_RUNTIME} can, with a text_tower that their projection is fitted on"
        raise Permanent(f"{weights.entry.name} cannot be retrained here", hint=hint)
    notes: list[str] = []
    images = _fixed(fixed, weights, notes)
    kept = _apart(examples, images, notes)
    require_enough([one.label for one in kept], weights.entry.labels, least)
    champion = registry.open(TASK)
    learned = [champion.embed_images([one.image for one in kept[at : at + 8]]) for at in range(0, len(kept), 8)]
    labels = np.array([weights.entry.labels.index(one.label) for one in kept])
    entry = _fit(registry, weights, np.concatenate(learned), labels, out, site, version, recipe or Recipe())
    before = np.load(path) if (path := weights.folder / "learned.npy").is_file() else np.empty(0, np.uint32)
    np.save(out / "learned.npy", np.union1d(before, np.array([content(one.image) for one in kept], np.uint32)))
    challenger = Registry([(entry, out)], {}).open(TASK, name=entry.name)
    metrics = _compare(champion, challenger, images, rounds, progress)
    gain = metrics[0].baselines["champion"].baselines["difference"].value
    entry = entry.model_copy(update={"quality": {f"fixed set: {metric.name}": round(metric.value, 4) for metric in metrics}})
    counts = dict(Counter(one.label for one in kept))
    found = Outcome(entry, champion.identity, counts, metrics, len(images), bool(gain < 0), tuple(notes))
    (out / "card.md").write_text(found.as_markdown(), encoding="utf-8")
    return found


def _fixed(fixed: Path, weights: Weights, notes: list[str]) -> list[LabelledImage]:
    """List the fixed set's images, without those of patients that the champion learned from."""
    sets, passed = gather(fixed.parent if fixed.is_file() else fixed)
    notes += passed
    images, unread = readable([image for found in sets.values() for image in found])
    notes += [unread] if unread else []
    if (path := weights.folder / "learned.npy").is_file():
        fresh = [image for image, seen in zip(images, known(images, np.load(path)), strict=True) if not seen]
        if gone := len(images) - len(fresh):
            words = "the champion learned from them or their patients"
            notes.append(f"{gone} of {len(images)} images of the fixed set left out, {words}")
        images = fresh
    if len({image.label for image in images}) < 2:
        raise Permanent(
            f"the fixed set has {len(images)} images to measure on, and not of both classes",
            hint="a labels.csv (file, label, nih_patient) of images that no model learns from",
        )
    return images


def _apart(examples: Sequence[Example], images: Sequence[LabelledImage], notes: list[str]) -> list[Example]:
    """Leave out the feedback whose image stands in the fixed set: what is measured on is never learned from."""
    held = {content(pixels(image.path)) for image in images}
    kept = [one for one in examples if content(one.image) not in held]
    if gone := len(examples) - len(kept):
        notes.append(f"{gone} labels left out, their images are in the fixed set")
    return kept


def _fit(
    registry: Registry,
    weights: Weights,
    seen: Floats,
    labels: NDArray[np.int64],
    out: Path,
    site: Path,
    version: str,
    recipe: Recipe,
) -> ModelEntry:
    """Fit projection, scale and offsets; write the challenger's folder and return its entry."""
    old = weights.entry
    raw = old.preprocessing
    text = registry.open("embedding", name=str(raw["text_tower"]))
    words = [text.embed(list(raw["prompts"][label])) for label in old.labels]
    start = np.load(weights.path("text_projection.npy")).astype(np.float32)
    offsets = [float(raw.get("offsets", {}).get(label, 0.0)) for label in old.labels]
    projection, scale, moved = _learn(seen, labels, words, start, float(raw["scale"]), offsets, recipe)
    out.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(weights.path("model.onnx"), out / "model.onnx")
    np.save(out / "text_projection.npy", projection)
    names = ("model.onnx", "text_projection.npy")
    return old.model_copy(
        update={
            "name": f"{old.name.partition('-retrained-')[0]}-retrained-{version}",
            "version": version,
            "location": location(out, site),
            "files": {name: sha256_of(out / name) for name in names},
            "beside": {},  # sealed when it is recorded; it has no drift reference yet
            "trained_on": (*old.trained_on, f"{len(labels)} labels of clinical.feedback, from {old.name} {old.version}"),
            "preprocessing": raw | {"scale": scale, "offsets": dict(zip(old.labels, moved, strict=True))},
            "quality": {},
        }
    )


def _learn(
    seen: Floats,
    labels: NDArray[np.int64],
    words: Sequence[Floats],
    start: Floats,
    scale: float,
    offsets: Sequence[float],
    recipe: Recipe,
) -> tuple[Floats, float, list[float]]:
    """Move projection [text dimensions, d], scale and offsets so that images [n, d] get their labels; deterministic (Adam)."""
    asked = Asked(
        seen.astype(np.float64),
        labels,
        [one.astype(np.float64) for one in words],
        start.astype(np.float64),
        scale,
        offsets,
        recipe,
    )
    values = np.concatenate([start.ravel().astype(np.float64), np.zeros(1 + len(words))])
    first, second = np.zeros_like(values), np.zeros_like(values)
    for step in range(1, recipe.steps + 1):
        _, slope = asked.loss(values)
        first, second = 0.9 * first + 0.1 * slope, 0.999 * second + 0.001 * slope**2
        values = values - recipe.rate * (first / (1 - 0.9**step)) / (np.sqrt(second / (1 - 0.999**step)) + 1e-8)
    projection, stretch, shift = asked.parts(values)
    moved = [round(float(old + change), 6) for old, change in zip(offsets, shift, strict=True)]
    return projection.astype(np.float32), round(scale * float(np.exp(stretch)), 6), moved


@dataclass(frozen=True, slots=True, eq=False)
class Asked:
    """What is minimised, over the projection, the scale's logarithm and the offsets in one vector.

    Cross-entropy of softmax(scale x cosine(image, label) + offset), classes weighted alike, and the squared distances from the
    champion's. A label's vector is the mean of its wordings', each of unit length, brought to unit length: as it is served.
    """

    seen: Array  # [images, d], unit length
    labels: NDArray[np.int64]  # [images]
    words: Sequence[Array]  # per label [wordings, text dimensions]
    start: Array  # [text dimensions, d]
    scale: float
    offsets: Sequence[float]
    recipe: Recipe

    def parts(self, values: Array) -> tuple[Array, float, Array]:
        """Take the vector apart: projection, scale's logarithm, offsets, the latter two as changes."""
        size = self.start.size
        return values[:size].reshape(self.start.shape), float(values[size]), values[size + 1 :]

    def loss(self, values: Array) -> tuple[float, Array]:
        """Return the loss and its gradient."""
        projection, stretch, shift = self.parts(values)
        raw = [one @ projection for one in self.words]
        lengths = [np.linalg.norm(one, axis=1, keepdims=True) for one in raw]
        unit = [one / length for one, length in zip(raw, lengths, strict=True)]
        means = np.stack([one.mean(axis=0) for one in unit])
        sizes = np.linalg.norm(means, axis=1, keepdims=True)
        centres = means / sizes
        factor = self.scale * np.exp(stretch)
        cosine = self.seen @ centres.T
        logits = factor * cosine + np.asarray(self.offsets) + shift
        logits -= logits.max(axis=1, keepdims=True)
        chance = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        share = np.bincount(self.labels, minlength=len(self.words))
        weight = 1 / share[self.labels] / np.count_nonzero(share)  # sums to 1, each class to the same
        rows = np.arange(len(self.labels))
        away = projection - self.start
        columns = self.start.shape[1]
        value = -(weight * np.log(np.maximum(chance[rows, self.labels], 1e-300))).sum()
        value += self.recipe.anchor * (away**2).sum() / columns + self.recipe.settle * (stretch**2 + (shift**2).sum())
        by_logit = chance * weight[:, None]
        by_logit[rows, self.labels] -= weight
        by_centre = factor * by_logit.T @ self.seen
        by_mean = (by_centre - centres * (centres * by_centre).sum(axis=1, keepdims=True)) / sizes
        slope = 2 * self.recipe.anchor * away / columns
        for at, one in enumerate(self.words):
            by_unit = by_mean[at] / len(one)
            by_raw = (by_unit - unit[at] * (unit[at] @ by_unit)[:, None]) / lengths[at]
            slope = slope + one.T @ by_raw
        by_stretch = (by_logit * factor * cosine).sum() + 2 * self.recipe.settle * stretch
        by_shift = by_logit.sum(axis=0) + 2 * self.recipe.settle * shift
        return float(value), np.concatenate([slope.ravel(), [by_stretch], by_shift])


def _compare(
    champion: ImageTextModel, challenger: ImageTextModel, images: Sequence[LabelledImage], rounds: int, progress: Progress
) -> tuple[Metric, ...]:
    """Measure both on the same images: the challenger's figures, the champion's beside them, the ranking's difference paired."""
    old = measuring.evaluate(champion, images, name="champion", rounds=rounds, progress=progress)
    new = measuring.evaluate(challenger, images, name="challenger", rounds=rounds, progress=progress)
    _, groups = np.unique([image.patient for image in images], return_inverse=True)
    paired = Bootstrap(groups.astype(np.int64), rounds=rounds).ranking(
        new.labels, {"challenger": new.scores, "champion": old.scores}
    )
    rest = [
        Metric(mine.name, mine.value, mine.low, mine.high, mine.n, {"champion": other})
        for mine, other in zip(new.metrics, old.metrics, strict=True)
        if mine.name not in paired
    ]
    return (*paired.values(), *rest)


def document(found: Outcome, examples: Sequence[Example]) -> dict[str, Any]:
    """Return the report as JSON, with the feedback events that it learned from."""
    return {
        "task": TASK,
        "challenger": {"name": found.entry.name, "version": found.entry.version, "digest": found.entry.digest},
        "champion": {"name": found.champion.name, "version": found.champion.version, "digest": found.champion.digest},
        "labels": found.labels,
        "fixed_images": found.images,
        "worse": found.worse,
        "metrics": [metric.as_json() for metric in found.metrics],
        "notes": list(found.notes),
        "feedback": sorted(one.feedback for one in examples),
    }
