"""Folders of labelled chest X-rays, read for training and measuring.

Two layouts: `labels.csv` with columns file, label and (optionally) nih_patient; or one folder per class with images in it.
"""

import csv
import re
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from models.errors import Permanent
from models.evaluation.reading import header, opened, reading

# What the sets call a class -> the label that the model's prompts ask for.
LABELS = {
    "no_findings": "no finding",
    "no_finding": "no finding",
    "normal": "no finding",
    "pneumonia": "pneumonia",
}
_ENDINGS = {".png", ".jpg", ".jpeg"}


@dataclass(frozen=True, slots=True)
class LabelledImage:
    """One image with its label, and the patient it is of (the file's place in the set where the set does not say)."""

    path: Path
    label: str
    patient: str


def read(folder: Path) -> list[LabelledImage]:
    """List the labelled images of a folder and all below it (see `gather`).

    Raises:
        Permanent: nothing there has a known layout.
    """
    return [image for images in gather(folder)[0].values() for image in images]


def gather(folder: Path) -> tuple[dict[str, list[LabelledImage]], list[str]]:
    """List the labelled images below a folder by set: the folder that holds a labels.csv, or one folder per class.

    Returns them by the set's name, and a note for everything that was passed over.

    Raises:
        Permanent: nothing there has a known layout.
    """
    found: dict[str, list[LabelledImage]] = {}
    notes: list[str] = []
    places = [folder, *sorted(path for path in folder.rglob("*") if path.is_dir())] if folder.is_dir() else []
    for place in places:
        name = place.relative_to(folder).as_posix() if place != folder else folder.resolve().name
        reader = _by_table if (place / "labels.csv").is_file() else _by_class
        if images := list(reader(place, name, notes)):
            found[name] = images
    if not found:
        told = f"; {'; '.join(notes)}" if notes else ""
        raise Permanent(
            f"no labelled images found in {folder.name}{told}",
            hint=f"expected labels.csv (file, label, nih_patient), or a folder per class: {', '.join(sorted(LABELS))}",
        )
    return found, notes


def learned_from(images: Sequence[LabelledImage]) -> NDArray[np.uint32]:
    """Return what is kept beside the weights (`learned.npy`) to know again whom and what a model learned from, sorted.

    The patients' sums and the images' own: copied under another name an image says no more whose it is.
    """
    return np.union1d(checksums(images), np.array([content(picture) for _, picture in decoded(images)], np.uint32))


def checksums(images: Sequence[LabelledImage]) -> NDArray[np.uint32]:
    """Return the CRC-32 of each image's patient."""
    return np.array([zlib.crc32(f"image:{image.patient}".encode()) for image in images], np.uint32)


def content(image: NDArray[np.uint8]) -> int:
    """Return the CRC-32 of one image's pixels: known again by it under any name and in any lossless format."""
    return zlib.crc32(f"{image.shape}".encode() + image.tobytes())


def known(images: Sequence[LabelledImage], learned: NDArray[np.uint32]) -> NDArray[np.bool_]:
    """Say of each image whether a model that keeps `learned` saw it or another of its patient: [images]."""
    by_patient = np.isin(checksums(images), learned)
    seen = {image.path for image, picture in decoded(images) if np.isin(content(picture), learned)}
    return by_patient | np.array([image.path in seen for image in images], np.bool_)


def pixels(path: Path) -> NDArray[np.uint8]:
    """Decode one image to 8-bit greyscale [h, w].

    Raises:
        Permanent: there is none, it is damaged or cut short, or it is no image.
    """
    try:
        with Image.open(path) as picture:
            return np.asarray(picture.convert("L"), np.uint8)
    except Exception as error:  # Pillow's decoders raise whatever their parsing runs into
        raise Permanent(f"{path}: no image that can be read ({type(error).__name__})", hint="leave it out") from None


def decoded(images: Iterable[LabelledImage]) -> Iterator[tuple[LabelledImage, NDArray[np.uint8]]]:
    """Decode images one by one, passing over those that cannot be: who asks counts them."""
    for image in images:
        try:
            yield image, pixels(image.path)
        except Permanent:
            continue


def readable(images: Sequence[LabelledImage]) -> tuple[list[LabelledImage], str]:
    """Return the images that can be read, and a note of those that cannot (empty where all can)."""
    kept = [image for image, _ in decoded(images)]
    return kept, unreadable(len(images) - len(kept), len(images))


def unreadable(gone: int, every: int) -> str:
    """Say how many images could not be read."""
    return f"{gone:,} of {every:,} images passed over, they are not there or cannot be read as images" if gone else ""


def _by_table(folder: Path, name: str, notes: list[str]) -> Iterator[LabelledImage]:
    path = folder / "labels.csv"
    with reading(path), opened(path) as file:
        names, separator = header(file, ("file", "label", "nih_patient"))
        table = csv.DictReader(file, names, delimiter=separator)
        if not {"file", "label"} <= set(names):
            notes.append(f"{name}/labels.csv: passed over, it has no columns file and label")
            return
        others: Counter[str] = Counter()
        for row in table:
            label = _label(row["label"] or "")
            if not row["file"]:
                others["no file"] += 1
            elif label is not None:
                yield LabelledImage(folder / row["file"], label, row.get("nih_patient") or _patient(row["file"]))
            else:
                others[row["label"] or "no label"] += 1
        notes += [f"{name}: {count} images of the class {other!r} passed over" for other, count in others.items()]


def _by_class(folder: Path, name: str, notes: list[str]) -> Iterator[LabelledImage]:
    with reading(folder):
        children = sorted(path for path in folder.iterdir() if path.is_dir())
    if not any(_label(place.name) for place in children):
        return
    for place in children:
        label = _label(place.name)
        files = [path for path in sorted(place.rglob("*")) if path.suffix.lower() in _ENDINGS and path.is_file()]
        if label is None:
            notes.append(f"{name}: {len(files)} images of the class {place.name!r} passed over")
            continue
        for path in files:
            yield LabelledImage(path, label, _patient(path.relative_to(folder).as_posix()))


def _label(name: str) -> str | None:
    return LABELS.get(re.sub(r"[\s_-]+", "_", name.strip().lower()))


def _patient(name: str) -> str:
    """Tell the patient from a file's name as NIH ChestX-ray14 gives it, <patient>_<number>; else the file is its own patient.

    By its place in the set, since classes number their files alike: NORMAL/0.png and PNEUMONIA/0.png are two patients.
    """
    numbered = re.search(r"(?<!\d)(\d{8})_\d{3}(?!\d)", name)
    return numbered[1] if numbered else name
