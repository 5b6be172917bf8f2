"""An image as a network of the hub was trained to see it: resized, cut, scaled; with numpy and Pillow alone.

`[model.preprocessing.pixels]` says it: `fit` [height, width] resizes both sides, or `shortest` the shorter one; `crop` [height,
width] cuts out the middle, where `round` says how half a pixel is dealt with ("down", as transformers does, or "even", as
torchvision); `resample` is Pillow's; a value is then (level x `factor` - `mean`) / `std`, by channel. One `mean` is a network of
greyscale images.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final, Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from models.errors import Fatal, Poison
from models.tasks import Floats

SMALLEST: Final = 32  # pixels a side; below it there is nothing to see
_LONGEST: Final = 20_000  # pixels a side; above it no X-ray
ROUNDS: Final = ("down", "even")


def picture(image: NDArray[np.uint8]) -> Image.Image:
    """Return an 8-bit greyscale [h, w] or RGB [h, w, 3] image as Pillow's, as it is. Raises `Poison` where it is no such image."""
    if image.dtype != np.uint8 or not (image.ndim == 2 or (image.ndim == 3 and image.shape[2] == 3)):
        raise Poison(f"image of type {image.dtype} and shape {image.shape}, expected 8-bit [h, w] or [h, w, 3]", stage="model")
    height, width = image.shape[:2]
    if min(height, width) < SMALLEST or max(height, width) > _LONGEST:
        raise Poison(f"image of {width} x {height} pixels cannot be judged", stage="model")
    return Image.fromarray(np.ascontiguousarray(image))


@dataclass(frozen=True, slots=True)
class Pixels:
    """How an image becomes [channels, height, width] float32."""

    mean: tuple[float, ...]
    std: tuple[float, ...]
    factor: float = 1 / 255
    fit: tuple[int, ...] = ()
    shortest: int = 0
    crop: tuple[int, ...] = ()
    round: str = "down"
    resample: str = "bilinear"

    @classmethod
    def from_registry(cls, raw: Any, where: str) -> Self:
        """Read the table; `where` names the model in errors. Raises `Fatal` where it is none or does not say one size."""
        needs = "pixels = { fit = [224, 224], resample = 'bicubic', factor = 0.00392, mean = [0.5, ...], std = [0.5, ...] }"
        try:
            said: dict[str, Any] = {key: tuple(one) if isinstance(one, list) else one for key, one in dict(raw).items()}
            made = cls(**said)
            sound = (
                len(made.mean) == len(made.std)
                and len(made.std) in (1, 3)
                and min(*made.fit, *made.crop, 1, 1) > 0
                and min(made.std) > 0
                and made.factor > 0
                and len(made.size) == 2
                and bool(made.fit) != bool(made.shortest)
                and made.round in ROUNDS
                and made.resample.upper() in Image.Resampling.__members__
            )
        except (TypeError, ValueError, AttributeError) as error:
            raise Fatal(f"{where}: preprocessing.pixels is unusable: {error}", hint=needs) from error
        if not sound:
            raise Fatal(f"{where}: preprocessing.pixels does not say one way to see an image", hint=needs)
        return made

    def to_registry(self) -> Mapping[str, Any]:
        """Return the table, without what it leaves at its default."""
        plain = asdict(type(self)(self.mean, self.std))
        kept = {key: said for key, said in asdict(self).items() if key in ("mean", "std", "factor") or said != plain[key]}
        return {key: list(said) if isinstance(said, tuple) else said for key, said in kept.items()}

    @property
    def size(self) -> tuple[int, ...]:
        """Height and width of what the network sees."""
        return self.crop or self.fit

    @property
    def mode(self) -> str:
        """Pillow's name of its colours."""
        return "L" if len(self.mean) == 1 else "RGB"

    def of(self, image: NDArray[np.uint8]) -> Floats:
        """Turn an 8-bit greyscale [h, w] or RGB [h, w, 3] image into [channels, height, width]. Raises `Poison` for any other."""
        shown = picture(image).convert(self.mode)
        wanted = (self.fit[1], self.fit[0]) if self.fit else _shortest(shown.size, self.shortest)
        if shown.size != wanted:
            shown = shown.resize(wanted, Image.Resampling[self.resample.upper()])
        if self.crop:
            height, width = self.crop
            left, top = self._half(shown.width - width), self._half(shown.height - height)
            shown = shown.crop((left, top, left + width, top + height))  # black where it reaches outside
        levels = np.asarray(shown, np.float32).reshape(shown.height, shown.width, -1)
        values = (levels * np.float32(self.factor) - np.array(self.mean, np.float32)) / np.array(self.std, np.float32)
        return np.ascontiguousarray(values.transpose(2, 0, 1), dtype=np.float32)

    def _half(self, rest: int) -> int:
        return round(rest / 2) if self.round == "even" else int(rest / 2)


def _shortest(size: Sequence[int], shortest: int) -> tuple[int, int]:
    """Return width and height with the shorter one at a length, the other cut to whole pixels, as the libraries do."""
    width, height = size
    return (shortest, int(shortest * height / width)) if width <= height else (int(shortest * width / height), shortest)
