"""From an image's bytes to pixels, and from a model's scores to the event on `clinical.findings`."""

import io
import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from models.errors import Fatal, Poison
from models.tasks import Floats, ModelIdentity
from processors.events import Finding, FindingsEvent, ImageEvent, ModelRef, Source
from processors.identity import natural_id

STAGE: Final = "findings"
MAX_PIXELS: Final = (
    64_000_000  # the largest radiographs are about 18 megapixels; at 64 the decoded image already takes 64-192 MB
)
DEFAULT_THRESHOLD: Final = 0.5
_FORMATS: Final = ("PNG", "JPEG")  # what the connectors store; every other decoder of Pillow stays out of reach
_RGB_MODES: Final = frozenset({"RGB", "RGBA", "P", "PA", "CMYK", "YCbCr"})
_TOLERANCE: Final = 1e-4  # a float32 sigmoid may end a hair outside 0..1


def pixels(data: bytes, *, max_pixels: int = MAX_PIXELS) -> NDArray[np.uint8]:
    """Decode a stored PNG or JPEG: [rows, columns] greyscale or [rows, columns, 3] RGB, uint8; 16-bit grey is scaled down.

    Raises `Poison` (stage "decode") for bytes that are no such image, a truncated one, or one of more than `max_pixels`, which is
    refused by its header, before anything is inflated.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # our own limit is checked below
            with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
                columns, rows = image.size
                if columns * rows > max_pixels:
                    raise Poison(f"an image of {columns} x {rows} pixels is over the limit of {max_pixels}", stage="decode")
                return _to_uint8(image)
    except Poison:
        raise
    except (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError, MemoryError) as error:
        # Pillow's messages may quote the bytes; the class says enough
        raise Poison(f"the image cannot be decoded ({type(error).__name__})", stage="decode") from None


def _to_uint8(image: Image.Image) -> NDArray[np.uint8]:
    if image.mode.startswith("I;16") or image.mode in ("I", "F"):
        values = np.asarray(image, dtype=np.float64)
        if image.mode == "F" or values.min(initial=0) < 0 or values.max(initial=0) > 65535:
            raise Poison("the image's values are not 8 or 16 bit", stage="decode")
        return (values / 257.0 + 0.5).astype(np.uint8)  # 65535 / 257 = 255
    image.load()
    return np.asarray(image.convert("RGB" if image.mode in _RGB_MODES else "L"), dtype=np.uint8)


def findings_event(
    image: ImageEvent,
    source: Source,
    scores: Sequence[float] | Floats,
    labels: Sequence[str],
    thresholds: Mapping[str, float],
    model: ModelIdentity,
) -> FindingsEvent:
    """Turn one row of calibrated scores, [len(labels)], into findings, highest score first (then by label).

    `thresholds` gives the lowest score per label that counts as found; 0.5 for a label it does not name. Raises `Poison` (stage
    "model") for a score that is NaN or outside 0..1, and `Fatal` when the row does not fit the labels: then every image would
    get the wrong names.
    """
    values = [float(score) for score in scores]
    if len(values) != len(labels):
        raise Fatal(f"the model {model.name} gave {len(values)} scores for {len(labels)} labels")
    if not all(math.isfinite(value) and -_TOLERANCE <= value <= 1 + _TOLERANCE for value in values):
        raise Poison(f"the model {model.name} gave a score that is no probability", stage="model")
    found = [
        Finding(label=label, score=min(max(value, 0.0), 1.0), above_threshold=value >= thresholds.get(label, DEFAULT_THRESHOLD))
        for label, value in zip(labels, values, strict=True)
    ]
    return _event(image, source, model, findings=tuple(sorted(found, key=lambda finding: (-finding.score, finding.label))))


def not_judged(image: ImageEvent, source: Source, why: str, model: ModelIdentity) -> FindingsEvent:
    """Say that a model was not asked about an image, and why."""
    return _event(image, source, model, findings=(), not_judged=why)


def _event(image: ImageEvent, source: Source, model: ModelIdentity, **said: Any) -> FindingsEvent:
    return FindingsEvent(
        id=natural_id(image.id, STAGE, model.digest),
        patient_id=image.patient_id,
        source=source,
        encounter_id=image.encounter_id,
        study_uid=image.study_uid,
        instance_uid=image.instance_uid,
        image_id=image.id,
        acquired_at=image.acquired_at,
        processing=image.processing,
        modality=image.modality,
        body_part=image.body_part,
        view=image.view,
        model=ModelRef(name=model.name, version=model.version, digest=model.digest),
        **said,
    )
