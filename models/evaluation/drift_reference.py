"""References of drift from a folder of data: the layouts that `vigil models evaluate` reads, and plain notes."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final, TypeVar

import numpy as np

from models.drift import Figures, Reference, measured, of_images, of_notes, of_windows
from models.errors import Permanent
from models.evaluation import image_sets, ner_report, vital_sets
from models.evaluation.report import Progress, silent
from models.registry import ModelEntry, Registry

T = TypeVar("T")
SEED: Final = 2026
_TOGETHER: Final = 16


def reference(registry: Registry, entry: ModelEntry, data: Path, *, most: int, progress: Progress = silent) -> Reference:
    """Run a model over a folder of data and count what it saw and said; of more than `most` inputs, some by chance (seeded).

    Raises `Permanent` for a task without figures, a folder where nothing fits, or fewer than `models.drift.FEWEST` inputs.
    """
    makers: dict[str, Callable[..., Figures]] = {"ner": _notes, "deterioration": _windows, "image-text": _images}
    if (made := makers.get(entry.task)) is None:
        raise Permanent(f"no figures of drift for the task {entry.task!r}", hint=f"there are for {', '.join(makers)}")
    model = registry.open(entry.task, name=entry.name)
    figures = made(model, data, most, progress)
    seen = max((len(values) for values in figures.values()), default=0)
    return measured(figures, f"{seen} inputs of {data.resolve().name}")


def _notes(model: Any, data: Path, most: int, progress: Progress) -> Figures:
    texts = [path.read_text(encoding="utf-8") for path in sorted(data.rglob("*.txt"))]
    if not texts:
        texts = [one.text for corpus in ner_report.gather(data)[0] for one in corpus.documents]
    texts = _some(texts, most)
    found: list[Any] = []
    for piece in _pieces(texts, progress):
        found += model.find(piece)
    labels = sorted({span.label for spans in found for span in spans})
    return of_notes(texts, found, labels)


def _windows(model: Any, data: Path, most: int, progress: Progress) -> Figures:
    windows = []
    sets = vital_sets.gather(data)[0]
    for stays in sets:
        rows = np.array(_some(stays.scored_rows().tolist(), most // len(sets)), np.int64)
        windows.append(stays.windows(rows, model.hours))
    every = np.concatenate(windows)
    return of_windows(every, model.features, model.score(every))


def _images(model: Any, data: Path, most: int, progress: Progress) -> Figures:
    images = [image_sets.pixels(one.path) for one in _some(image_sets.read(data), most)]
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
