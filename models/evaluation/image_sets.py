"""Folders of labelled chest X-rays, read for training and measuring.

Two layouts: `labels.csv` with columns file, label and (optionally) nih_patient; or one folder per class with images in it.
"""

import csv
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from models.errors import Permanent

# What the sets call a class -> the label that the model's prompts ask for.
LABELS = {
    "no_findings": "no finding",
    "no finding": "no finding",
    "no_finding": "no finding",
    "normal": "no finding",
    "pneumonia": "pneumonia",
}
_ENDINGS = {".png", ".jpg", ".jpeg"}


@dataclass(frozen=True, slots=True)
class LabelledImage:
    """One image with its label, and the patient it is of (the file's name where the set does not say)."""

    path: Path
    label: str
    patient: str


def read(folder: Path) -> list[LabelledImage]:
    """List the labelled images of a folder.

    Raises:
        Permanent: nothing there has a known layout.
    """
    if (folder / "labels.csv").is_file():
        found = list(_by_table(folder))
    elif folder.is_dir():
        found = list(_by_class(folder))
    else:
        found = []
    if not found:
        raise Permanent(
            f"no labelled images found in {folder.name}",
            hint=f"expected labels.csv (file, label, nih_patient), or a folder per class: {', '.join(sorted(LABELS))}",
        )
    return found


def checksums(images: Sequence[LabelledImage]) -> NDArray[np.uint32]:
    """Return the CRC-32 of each image's patient: kept beside the weights, to know again whom the model learned from."""
    return np.array([zlib.crc32(f"image:{image.patient}".encode()) for image in images], np.uint32)


def pixels(path: Path) -> NDArray[np.uint8]:
    """Decode one image to 8-bit greyscale [h, w]."""
    with Image.open(path) as picture:
        return np.asarray(picture.convert("L"), np.uint8)


def _by_table(folder: Path) -> Iterator[LabelledImage]:
    with (folder / "labels.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            label = LABELS.get(row["label"].lower())
            if label is not None:
                yield LabelledImage(folder / row["file"], label, row.get("nih_patient") or row["file"])


def _by_class(folder: Path) -> Iterator[LabelledImage]:
    for place in sorted(path for path in folder.iterdir() if path.is_dir()):
        label = LABELS.get(place.name.lower())
        for path in sorted(place.iterdir()) if label else []:
            if path.suffix.lower() in _ENDINGS:
                # NIH ChestX-ray14 names files <patient>_<number>.png
                yield LabelledImage(path, label or "", path.name.split("_")[0])
