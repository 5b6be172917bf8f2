"""References of drift from a folder of data: the layouts that `vigil models evaluate` reads, and plain notes."""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar

import numpy as np
from numpy.typing import NDArray

from models.drift import Figures, Reference, measured, of_images, of_notes, of_texts, of_windows
from models.errors import Permanent
from models.evaluation import image_sets, ner_report, question_sets, vital_sets
from models.evaluation.report import Progress, silent
from models.registry import ModelEntry, Registry
from models.tasks import TextEmbedder

T = TypeVar("T")
Learned = NDArray[np.uint32]
Passages = Callable[[TextEmbedder, Path], list[str]]
"""Reads a folder's notes and cuts them as a lane does, which is above this floor."""
SEED: Final = 2026
_TOGETHER: Final = 16


def reference(
    registry: Registry,
    entry: ModelEntry,
    data: Path,
    *,
    most: int,
    of: str = "",
    passages: Passages | None = None,
    progress: Progress = silent,
) -> Reference:
    """Run a model over a folder of data and count what it saw and said; of more than `most` inputs, some by chance (seeded).

    Whom it learned from (`learned.npy` beside its weights) is left out. `of` says in words what the data are (default: the
    folder's name). `passages` cuts a folder's notes for an embedder.

    Raises `Permanent` for a task without figures, a folder where nothing fits, or fewer than `models.drift.FEWEST` inputs.
    """
    makers: dict[str, Callable[..., Figures]] = {"ner": _notes, "deterioration": _windows, "image-text": _images}
    if passages is not None:
        makers["embedding"] = partial(_texts, passages)
    if (made := makers.get(entry.task)) is None:
        raise Permanent(f"no figures of drift for the task {entry.task!r}", hint=f"there are for {', '.join(makers)}")
    known = registry.folder(entry) / "learned.npy"  # whom it learned from: of those its scores are better than of anybody else
    learned = np.load(known) if known.is_file() else np.empty(0, np.uint32)
    figures = made(registry.open(entry.task, name=entry.name), data, learned, most, progress)
    seen = max((len(values) for values in figures.values()), default=0)
    return measured(figures, f"{seen:,} inputs of {of or data.resolve().name}")


def _notes(model: Any, data: Path, learned: Learned, most: int, progress: Progress) -> Figures:
    try:
        texts = question_sets.notes_in(data)
    except Permanent:
        texts = [one.text for corpus in ner_report.gather(data)[0] for one in corpus.documents]
    texts = _some(texts, most)
    found: list[Any] = []
    for piece in _pieces(texts, progress):
        found += model.find(piece)
    labels = sorted({span.label for spans in found for span in spans})
    return of_notes(texts, found, labels)


def _texts(passages: Passages, model: Any, data: Path, learned: Learned, most: int, progress: Progress) -> Figures:
    texts = _some(passages(model, data), most)
    return of_texts(texts, np.concatenate([model.embed(piece) for piece in _pieces(texts, progress)]))


def _windows(model: Any, data: Path, learned: Learned, most: int, progress: Progress) -> Figures:
    windows = []
    sets = [vital_sets.unseen(stays, learned) for stays in vital_sets.gather(data)[0]]
    for stays in sets:
        rows = np.array(_some(stays.scored_rows().tolist(), most // len(sets)), np.int64)
        windows.append(stays.windows(rows, model.hours))
    every = np.concatenate(windows)
    return of_windows(every, model.features, model.score(every))


def _images(model: Any, data: Path, learned: Learned, most: int, progress: Progress) -> Figures:
    listed = image_sets.read(data)
    seen = image_sets.known(listed, learned)
    chosen = [listed[at] for at in _some(np.flatnonzero(~seen).tolist(), most)]
    images = [picture for _, picture in image_sets.decoded(chosen)]
    vectors = np.concatenate([model.embed_images(piece) for piece in _pieces(images, progress)])
    return of_images(images, model.classify(vectors), model.labels)


def _some(every: list[T], most: int) -> list[T]:
    if len(every) <= most:
        return every
    chosen = np.random.default_rng(SEED).choice(len(every), most, replace=False)
    return [every[index] for index in sorted(chosen)]


def _pieces(items: list[T], progress: Progress) -> Iterator[list[T]]:
    for at in range(0, len(items), _TOGETHER):
        yield items[at : at + _TOGETHER]
        progress("inputs", min(at + _TOGETHER, len(items)), len(items))
