"""CLIP-like models on torch: an image tower and a text tower in one space, findings by prompt. Who made the towers is the loader's.

`preprocessing` has the prompts as for `onnx-image-text`; `scale` is the model's own where it is left out, `batch` the images or
texts of one run. 1 (the default) lets a vector depend on nothing but what it is of.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from models.errors import Fatal, Poison
from models.registry import Weights
from models.runtimes import hub
from models.runtimes.image_text import PromptedImageText, Prompts, picture, unit
from models.runtimes.onnx import finite
from models.runtimes.said import Said
from models.tasks import Floats


class TorchImageText(PromptedImageText):
    """An `ImageTextModel` of two towers, each a function from its inputs to a tensor [n, dimensions]."""

    def __init__(
        self,
        weights: Weights,
        images: Callable[[Sequence[Image.Image]], Any],
        texts: Callable[[Sequence[str]], Any],
        *,
        tokens: Callable[[str], int],
        limit: int,
        scale: float,
    ) -> None:
        """Take the towers; `tokens` counts a text's, special ones included, of which `limit` may be.

        Raises `Fatal` where the towers' dimensions differ or prompts are missing.
        """
        said = Said(weights, "prompts", "scale", "offsets", "batch", "device")
        self._where, self._batch = said.where, said.whole("batch", 1)
        self._images, self._texts, self._tokens, self._limit = images, texts, tokens, limit
        seen, read = self._run(images, [Image.new("RGB", (32, 32))]), self._run(texts, ["a"])
        if seen.shape != read.shape:
            raise Fatal(f"{self._where}: images have {seen.shape[1]} dimensions, texts {read.shape[1]}")
        self.dimensions: int = seen.shape[1]
        prompts = Prompts.from_registry({"scale": scale, **said.raw}, weights.entry.labels, self._where)
        super().__init__(weights.identity, prompts, weights.entry.thresholds)

    def embed_images(self, images: Sequence[NDArray[np.uint8]]) -> Floats:
        """Embed 8-bit greyscale [h, w] or RGB [h, w, 3] images: [len(images), dimensions], unit length.

        Raises:
            Poison: an image is not such an image, or the tower answered with NaN.
        """
        return self._run(self._images, [picture(image).convert("RGB") for image in images])

    def embed_texts(self, texts: Sequence[str]) -> Floats:
        """Embed texts: [len(texts), dimensions], unit length. A text over the tower's limit raises `Poison`: none is cut."""
        for index, text in enumerate(texts):
            if (tokens := self._tokens(text)) > self._limit:
                raise Poison(
                    f"{self._where}: text {index} of {len(texts)} has {tokens} tokens, more than {self._limit}", stage="model"
                )
        return self._run(self._texts, texts)

    def _run(self, tower: Callable[[Any], Any], items: Sequence[Any]) -> Floats:
        found: list[Floats] = []
        for at in range(0, len(items), self._batch):
            with hub.running(self._where):
                vectors = tower(items[at : at + self._batch]).float().cpu().numpy()
            found.append(np.asarray(vectors, dtype=np.float32))
        if not found:
            return np.empty((0, self.dimensions), np.float32)
        rows = np.concatenate(found)
        finite(rows, self._where)
        return unit(rows)


def scale_of(model: Any) -> float:
    """Return the factor of the cosines that the model learned (CLIP, Radford et al. 2021, 2.3)."""
    return float(torch.as_tensor(model.logit_scale).detach().exp().item())
