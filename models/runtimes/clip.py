"""CLIP-like models on torch: an image tower and a text tower in one space, findings by prompt. Who made the towers is the loader's.

`preprocessing` has the prompts as for `onnx-image-text`; `scale` is the model's own where it is left out, `batch` the images or
texts of one run. 1 (the default) lets a vector depend on nothing but what it is of.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from tokenizers import Tokenizer

from models.errors import Fatal, Poison
from models.registry import Weights
from models.runtimes import hub
from models.runtimes.exportable import TOKENIZER, Network, Plan
from models.runtimes.image_text import PromptedImageText, Prompts
from models.runtimes.onnx import finite
from models.runtimes.pixels import Pixels, picture
from models.runtimes.said import Said
from models.runtimes.text_embedder import POOLED, unit
from models.tasks import Floats


@dataclass(frozen=True, slots=True, eq=False)
class Tower:
    """One tower: `prepare` makes tensors by name of items, `run` takes these and gives [n, dimensions]."""

    prepare: Callable[[Sequence[Any]], Mapping[str, Any]]
    run: Callable[..., Any]


@dataclass(frozen=True, slots=True, eq=False)
class Export:
    """What an export asks of the loader: the network, and what its libraries do with an image and a text, in other words.

    `pixels` and `tokenizer` raise `Permanent` where there are none for it. `context` is the length that the text tower wants its
    tokens filled up to with `pad`, 0 where it takes any.
    """

    module: Any
    pixels: Callable[[], Pixels]
    tokenizer: Callable[[], Tokenizer]
    context: int = 0
    pad: int = 0


class TorchImageText(PromptedImageText):
    """An `ImageTextModel` of two towers."""

    def __init__(
        self,
        weights: Weights,
        images: Tower,
        texts: Tower,
        *,
        tokens: Callable[[str], int],
        limit: int,
        scale: float,
        export: Export,
    ) -> None:
        """Take the towers; `tokens` counts a text's, special ones included, of which `limit` may be.

        Raises `Fatal` where the towers' dimensions differ or prompts are missing.
        """
        said = Said(weights, "prompts", "scale", "offsets", "batch", "device")
        self._where, self._batch = said.where, said.whole("batch", 1)
        self._images, self._texts, self._tokens, self._limit, self._export = images, texts, tokens, limit, export
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

    def plan(self) -> Plan:
        """Say how it is exported: a graph for each tower, prompts and scale in the entry."""
        export, prompts = self._export, self._prompts
        tokenizer, pixels = export.tokenizer(), export.pixels()
        hub.traceable(export.module)

        def see(image: NDArray[np.uint8]) -> Mapping[str, Any]:
            return self._images.prepare([picture(image).convert("RGB")])

        def cut(text: str) -> Mapping[str, Any]:
            ids = torch.tensor([tokenizer.encode(text).ids])
            return {"input_ids": ids} if "attention_mask" not in probe else {"input_ids": ids, "attention_mask": ids * 0 + 1}

        def image(pixels: Any) -> Any:
            (name,) = shown
            return torch.nn.functional.normalize(self._images.run(**{name: pixels}), dim=-1)

        def text(input_ids: Any, *mask: Any) -> Any:
            if export.context:
                input_ids = torch.nn.functional.pad(input_ids, (0, export.context - input_ids.shape[1]), value=export.pad)
            return self._texts.run(input_ids, *mask)

        probe, shown = self._texts.prepare(["a"]), self._images.prepare([Image.new("RGB", (32, 32))])
        networks = (
            Network(
                "model.onnx", export.module, image, lambda item: {"image": next(iter(see(item).values()))}, "embedding", False
            ),
            Network("text.onnx", export.module, text, cut, POOLED),
        )
        said = {"pixels": pixels.to_registry(), "limit": self._limit, "dimensions": self.dimensions}
        said |= {"scale": prompts.scale, "prompts": {label: list(asked) for label, asked in prompts.texts.items()}}
        return Plan(
            "onnx-image-text",
            networks,
            said | ({"offsets": dict(prompts.offsets)} if prompts.offsets else {}),
            self.labels,
            lambda folder: tokenizer.save(str(folder / TOKENIZER), pretty=False),
            tuple(text for asked in prompts.texts.values() for text in asked),
        )

    def _run(self, tower: Tower, items: Sequence[Any]) -> Floats:
        found: list[Floats] = []
        for at in range(0, len(items), self._batch):
            with hub.running(self._where):
                vectors = tower.run(**tower.prepare(items[at : at + self._batch])).float().cpu().numpy()
            found.append(np.asarray(vectors, dtype=np.float32))
        if not found:
            return np.empty((0, self.dimensions), np.float32)
        rows = np.concatenate(found)
        finite(rows, self._where)
        return unit(rows)


def scale_of(model: Any) -> float:
    """Return the factor of the cosines that the model learned (CLIP, Radford et al. 2021, 2.3)."""
    return float(torch.as_tensor(model.logit_scale).detach().exp().item())
