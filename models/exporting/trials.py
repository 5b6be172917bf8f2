"""What an export is measured by: a task's metric on data of the site, and the items that outputs and speed are compared on.

The data is read as `vigil models evaluate` reads it. A part of it, every fifth item, gives the scales of static quantising; what is
measured on has none of it, nor a copy of it under another name.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from models.errors import Permanent, Poison
from models.evaluation import image_sets, ner_report, question_sets
from models.evaluation.images import POSITIVE
from models.evaluation.measures import auroc
from models.evaluation.ner import counted_as, strict
from models.evaluation.ner_corpora import labels_of
from models.evaluation.report import Progress
from models.runtimes.token_classifier import WindowedTagger
from models.tasks import Floats, ImageTextModel, TextEmbedder

CALIBRATED: Final = 64  # items that scales are taken from, at most
COMPARED: Final = 64  # items that outputs are compared on
TIMED: Final = 16
_EVERY: Final = 5  # of so many items one calibrates
_AT_ONCE: Final = 8  # items between two reports of progress
_MARGIN: Final = 8  # tokens that a text cut by another cutting may gain
# Asked of the text tower of an image model, beside its prompts: its data has no texts.
_WORDS: Final = (
    "consolidation in the right lower lobe",
    "no acute cardiopulmonary process",
    "small left pleural effusion, heart size normal",
    "endotracheal tube 3 cm above the carina",
    "pneumothorax after central line placement",
)


@dataclass(frozen=True, slots=True, eq=False)
class Trial:
    """How models of one task are held against each other.

    `metrics` gives figures between 0 and 1 by name, the same names for every model. `outputs` makes rows of an item, `decide` of
    rows what they say (None: they are vectors and say nothing). `ask` is what a lane does with one item. `words` are texts for a
    tower.
    """

    items: tuple[Any, ...]
    calibration: tuple[Any, ...]
    words: tuple[str, ...]
    metrics: Callable[[Any, Progress], dict[str, float]]
    outputs: Callable[[Any, Any], Floats]
    decide: Callable[[Any, Floats], NDArray[np.int64]] | None
    ask: Callable[[Any, Any], object]
    measured_on: str
    calibrated_on: str
    notes: tuple[str, ...] = ()


def entities(model: Any, data: Path) -> Trial:
    """Measure token classifiers by strict micro F1 as they are served, on each annotated file that has a type they know.

    Raises `Permanent` where there is none.
    """
    if not isinstance(model, WindowedTagger):
        raise Permanent(f"{model.identity.name} gives no scores a token to compare")
    corpora, notes = ner_report.gather(data)
    kept: list[ner_report.Corpus] = []
    calibration: list[str] = []
    for corpus in corpora:
        if not counted_as(model, {*model.labels}, labels_of(corpus.documents)):
            notes.append(f"{corpus.name}: not measured on, {model.identity.name} has none of its types")
            continue
        drawn = [one.text for one in (corpus.training or corpus.documents[::_EVERY])[: _share(CALIBRATED, len(corpora))]]
        left = tuple(one for one in corpus.documents if one.text not in drawn)
        if left and labels_of(left):
            calibration += drawn
            kept.append(replace(corpus, documents=left))
        else:
            notes.append(f"{corpus.name}: not measured on, too few documents to calibrate on one part and measure on the other")
    if not kept:
        raise Permanent(
            f"nothing to measure {model.identity.name} by: {'; '.join(notes)}",
            hint=f"its types are {', '.join(model.labels)}; preprocessing.types of its entry renames them",
        )
    documents = [one for corpus in kept for one in corpus.documents]
    calibrated = tuple(dict.fromkeys(calibration))
    seen = {*calibrated}
    kept = [replace(corpus, documents=tuple(one for one in corpus.documents if one.text not in seen)) for corpus in kept]

    def metrics(asked: Any, progress: Progress) -> dict[str, float]:
        found: dict[str, float] = {}
        for corpus in kept:
            said = []
            for at in range(0, len(corpus.documents), _AT_ONCE):
                progress(corpus.name, at, len(corpus.documents))
                said += asked.find([one.text for one in corpus.documents[at : at + _AT_ONCE]])
            progress(corpus.name, len(corpus.documents), len(corpus.documents))
            names = counted_as(asked, {*asked.labels}, labels_of(corpus.documents))
            found[f"{corpus.name}, served: micro F1"] = strict(corpus.documents, said, predicted_as=names).micro.f1
        return found

    items = _spread([one.text for one in documents if one.text.strip() and one.text not in seen], COMPARED)
    return Trial(
        items,
        calibrated,
        (),
        metrics,
        lambda asked, text: asked.scores(text),
        lambda asked, rows: rows.argmax(axis=-1),
        lambda asked, text: asked.find([text]),
        "; ".join(f"{corpus.name}, {len(corpus.documents):,} documents" for corpus in kept),
        f"{len(calibrated)} documents that are not measured on",
        tuple(notes),
    )


def texts(
    model: TextEmbedder, data: Path, quality: Callable[[TextEmbedder, question_sets.Questions, Progress], Mapping[str, float]]
) -> Trial:
    """Measure text embedders by how well descriptions find their notes: `quality` of each file of questions.

    Raises `Permanent` where there are none, or too few.
    """
    files, notes = question_sets.gather(data)
    drawn = [note for asked in files for note in asked.notes[::_EVERY][: _share(CALIBRATED, len(files))] if note.strip()]
    kept = [left for asked in files if (left := _without(asked, {*drawn})).questions]
    if not kept or not drawn:
        raise Permanent(f"too few notes in {data}: one part calibrates, the others are measured on", hint="ten at least")

    def metrics(asked: Any, progress: Progress) -> dict[str, float]:
        return {f"{file.name}: {name}": value for file in kept for name, value in quality(asked, file, progress).items()}

    def opening(note: str) -> str:
        offsets = model.offsets(note)
        most = max(1, model.limit - _MARGIN)
        return note if len(offsets) <= most else note[: offsets[most - 1][1]]

    items = _spread([opening(note) for asked in kept for note in asked.notes if note.strip()], COMPARED)
    return Trial(
        items,
        tuple(opening(note) for note in dict.fromkeys(drawn)),
        (),
        metrics,
        lambda asked, text: asked.embed([text]),
        None,
        lambda asked, text: asked.embed([text]),
        "; ".join(f"{asked.name}, {len(asked.questions):,} questions to {len(asked.notes):,} notes" for asked in kept),
        f"{len({*drawn})} notes that are not measured on, nor asked for",
        tuple(notes),
    )


def pictures(model: ImageTextModel, data: Path, learned: NDArray[Any] | None = None) -> Trial:
    """Measure image models by the AUROC of `images.POSITIVE` on each set of labelled images.

    Left out is whom the model learned from (`learned`), and whose images calibrate. Raises `Permanent` where nothing is left.
    """
    if POSITIVE not in model.labels:
        raise Permanent(
            f"{model.identity.name} does not say {POSITIVE!r}, which labelled images are measured by",
            hint=f"it says {', '.join(model.labels)}: preprocessing.findings, or prompts and labels, name what is {POSITIVE}",
        )
    sets, notes = image_sets.gather(data)
    kept: dict[str, list[image_sets.LabelledImage]] = {}
    drawn: list[image_sets.LabelledImage] = []
    for name, images in sets.items():
        readable, unread = image_sets.readable(images)
        fresh = readable if learned is None else _fresh(readable, learned)
        people = sorted({image.patient for image in fresh})
        calibrating = {*people[::_EVERY][: _share(CALIBRATED, len(sets))]}
        left = [image for image in fresh if image.patient not in calibrating]
        notes += [f"{name}: {unread}"] if unread else []
        if gone := len(readable) - len(fresh):
            notes.append(f"{name}: {gone:,} images left out, the model learned from them or their patients")
        if len({image.label for image in left}) < 2:
            notes.append(f"{name}: not measured on, the {len(left):,} images left are not of both classes")
            continue
        kept[name] = left
        drawn += [image for image in fresh if image.patient in calibrating]
    if not kept:
        raise Permanent(f"no images to measure on: {'; '.join(notes)}", hint="give images of patients it did not learn from")

    def metrics(asked: Any, progress: Progress) -> dict[str, float]:
        column, found = asked.labels.index(POSITIVE), dict[str, float]()
        for name, images in kept.items():
            scores: list[Floats] = []
            for at in range(0, len(images), _AT_ONCE):
                progress(name, at, len(images))
                some = [picture for _, picture in image_sets.decoded(images[at : at + _AT_ONCE])]
                scores.append(asked.classify(asked.embed_images(some))[:, column])
            progress(name, len(images), len(images))
            gold = np.array([image.label == POSITIVE for image in images], np.float32)
            found[f"{name}: AUROC"] = auroc(gold, np.concatenate(scores))
        return found

    words = tuple(text for text in _WORDS if _takes(model, text))
    every = _spread([image for images in kept.values() for image in images], COMPARED)
    return Trial(
        tuple(picture for _, picture in image_sets.decoded(every)),
        tuple(picture for _, picture in image_sets.decoded(drawn[:CALIBRATED])),
        words,
        metrics,
        lambda asked, item: asked.embed_texts([item]) if isinstance(item, str) else asked.embed_images([item]),
        lambda asked, rows: asked.classify(rows).argmax(axis=-1),
        lambda asked, image: asked.classify(asked.embed_images([image])),
        "; ".join(f"{name}, {len(images):,} images" for name, images in kept.items()),
        f"{len(drawn[:CALIBRATED])} images of patients that are not measured on"
        + (f"; of the text tower its prompts and {len(words)} findings" if words else ""),
        tuple(notes),
    )


def _takes(model: ImageTextModel, text: str) -> bool:
    """Say whether it has a text tower that takes a text of this length."""
    try:
        return bool(len(model.embed_texts([text])))
    except (Permanent, Poison):
        return False


def _fresh(images: Sequence[image_sets.LabelledImage], learned: NDArray[Any]) -> list[image_sets.LabelledImage]:
    seen = image_sets.known(images, learned)
    return [image for image, out in zip(images, seen, strict=True) if not out]


def _without(asked: question_sets.Questions, drawn: set[str]) -> question_sets.Questions:
    """Return a file without some notes and the questions to them."""
    kept = [at for at, note in enumerate(asked.notes) if note not in drawn]
    places = {old: new for new, old in enumerate(kept)}
    pairs = [(text, places[at]) for text, at in zip(asked.questions, asked.answers, strict=True) if at in places]
    notes = tuple(asked.notes[at] for at in kept)
    return question_sets.Questions(asked.name, notes, tuple(text for text, _ in pairs), tuple(at for _, at in pairs))


def _share(of: int, among: int) -> int:
    return max(1, of // max(1, among))


def _spread(items: Sequence[Any], most: int) -> tuple[Any, ...]:
    """Return at most so many items, spread over all."""
    if len(items) <= most:
        return tuple(items)
    return tuple(items[at * len(items) // most] for at in range(most))
