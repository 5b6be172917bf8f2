"""Frontal chest X-rays and texts in one space: an image tower in ONNX Runtime, and a projection on top of the text embedder.

The text side is the text embedder that ships anyway (by its name in the registry) and a matrix: no second copy of its weights.
`prepare` is the whole of the preprocessing, the same code in training and serving; it needs numpy and Pillow only.

A CLIP of the hub, exported, has two towers of its own and sees images as `pixels` says (`models.runtimes.pixels`).
"""

import io
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from models.errors import Fatal, Poison
from models.registry import Registry, Weights
from models.runtimes.onnx import Session
from models.runtimes.pixels import SMALLEST, Pixels, picture
from models.runtimes.said import Said
from models.runtimes.text_embedder import OnnxTextEmbedder, unit
from models.tasks import Floats, ModelIdentity, TextEmbedder

BATCH = 8  # images per run: more gains nothing on a CPU and costs memory
_MIDDLE, _HALF = 127.0, 128.0  # the scaling that the ImageNet weights learned with


def prepare(image: NDArray[np.uint8], size: int) -> Floats:
    """Turn one 8-bit greyscale [h, w] or RGB [h, w, 3] image into [1, size, size] float32, about -1 to 1.

    Colour becomes luminance (ITU-R 601); the whole image is kept: shrunk or grown to fit, centred, black around it.

    Raises:
        Poison: not such an image.
    """
    grey = picture(image).convert("L")
    scale = size / max(grey.size)
    fitted = (max(1, round(grey.width * scale)), max(1, round(grey.height * scale)))
    if grey.size != fitted:
        grey = grey.resize(fitted, Image.Resampling.BICUBIC)
    canvas = np.zeros((size, size), np.float32)
    left, top = (size - fitted[0]) // 2, (size - fitted[1]) // 2
    canvas[top : top + fitted[1], left : left + fitted[0]] = np.asarray(grey, np.float32)
    prepared: Floats = ((canvas - _MIDDLE) / _HALF)[None].astype(np.float32)
    return prepared


@dataclass(frozen=True, slots=True)
class Prompts:
    """What a label is asked by, and how its likeness becomes a score.

    `classify` is softmax over labels of `scale` x cosine(image, mean prompt) + offset; scale and offsets are fitted on
    images that training did not see. So there are two labels at least: of one alone every image would be sure.
    """

    texts: Mapping[str, tuple[str, ...]]  # label -> wordings
    scale: float
    offsets: Mapping[str, float] = field(default_factory=dict)  # label -> offset; 0 where none is given

    @classmethod
    def from_registry(cls, raw: Mapping[str, Any], labels: Sequence[str], where: str) -> "Prompts":
        """Read `[model.preprocessing]`; `where` names the model in errors.

        Raises `Fatal` where prompts and labels are not of the same names, two at least, each label asked by a wording, or where
        scale or offsets are no such numbers.
        """
        needs = "[model.preprocessing] needs scale = number and prompts = { label = [wordings] } for every label"
        prompts = raw.get("prompts", {})
        if not isinstance(prompts, Mapping) or {type(texts) for texts in prompts.values()} - {list, tuple}:
            raise Fatal(f"{where}: its prompts are no table of lists", hint=needs)
        texts = {label: tuple(str(text) for text in prompts.get(label, ())) for label in labels}
        if unasked := [label for label, wordings in texts.items() if not wordings]:
            raise Fatal(f"{where}: no prompts for its labels {', '.join(unasked)}", hint=needs)
        if unlisted := [str(label) for label in prompts if label not in texts]:
            raise Fatal(
                f"{where}: prompts for {', '.join(unlisted)}, which its labels ({', '.join(labels) or 'none'}) do not name",
                hint=f"labels = [{', '.join(repr(str(label)) for label in prompts)}] in its entry",
            )
        if not texts:
            raise Fatal(f"{where}: no prompts: what should its images be scored for?", hint=f"{needs}, and labels in the entry")
        if len(texts) < 2:
            raise Fatal(
                f"{where}: {', '.join(labels) or 'no label'} alone: one label gets the whole score of every image",
                hint="give it a counterpart, such as normal, in labels and prompts",
            )
        try:
            offsets = {str(label): float(value) for label, value in raw.get("offsets", {}).items()}
            scale = float(raw["scale"])
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise Fatal(f"{where}: its scale or offsets are unusable: {error}", hint=needs) from error
        if not 0 < scale < math.inf:
            raise Fatal(f"{where}: a scale of {scale} is no positive number", hint=f"{needs}; a model's own is damaged then")
        if unfit := [label for label, value in offsets.items() if not math.isfinite(value)]:
            raise Fatal(f"{where}: offsets for {', '.join(unfit)} that are no numbers", hint=needs)
        if strange := sorted(offsets.keys() - texts.keys()):
            raise Fatal(f"{where}: offsets for {', '.join(strange)}, which its labels do not name", hint=needs)
        return cls(texts, scale, offsets)


class ImageTower(Protocol):
    """The part of `models.runtimes.onnx.Session` used here."""

    def run(self, output: str, feeds: Mapping[str, NDArray[Any]]) -> Floats:
        """Run the graph."""
        ...


class PromptedImageText(ABC):
    """What every CLIP-like runtime has once its towers embed: labels, asked for by prompts. A subclass has the towers."""

    dimensions: int

    def __init__(self, identity: ModelIdentity, prompts: Prompts, thresholds: Mapping[str, float] | None) -> None:
        """Embed the prompts: the towers stand by now. `thresholds`: 0.5 for a label that has none."""
        self._identity, self._prompts = identity, prompts
        self.labels = tuple(prompts.texts)
        self.thresholds: Mapping[str, float] = dict.fromkeys(self.labels, 0.5) | dict(thresholds or {})
        self._label_vectors = np.stack([unit(self.embed_texts(texts).mean(axis=0)) for texts in prompts.texts.values()])
        self._offsets = np.array([prompts.offsets.get(label, 0.0) for label in self.labels], np.float32)

    @property
    def identity(self) -> ModelIdentity:
        """Name, version and digest."""
        return self._identity

    @abstractmethod
    def embed_texts(self, texts: Sequence[str]) -> Floats:
        """Embed texts: [len(texts), dimensions], unit length. A text over the tower's limit raises `Poison`."""

    def classify(self, embeddings: Floats) -> Floats:
        """Return scores by the label prompts, [n, len(labels)], each row summing to 1."""
        if embeddings.ndim != 2 or embeddings.shape[1] != self.dimensions:
            raise Poison(f"{self._identity.name}: embeddings of shape {embeddings.shape}", stage="model")
        return softmax(self._prompts.scale * (embeddings @ self._label_vectors.T) + self._offsets)


class OnnxImageText(PromptedImageText):
    """`ImageTextModel` on ONNX Runtime. The graph takes `image` [n, channels, h, w] and gives `embedding` [n, d], unit length."""

    def __init__(
        self,
        tower: ImageTower,
        text: TextEmbedder,
        projection: Floats | None,
        prompts: Prompts,
        identity: ModelIdentity,
        *,
        see: Callable[[NDArray[np.uint8]], Floats],
        thresholds: Mapping[str, float] | None = None,
        batch: int = BATCH,
    ) -> None:
        """Take towers; `projection` [text dimensions, d] maps the embedder's vectors into the common space (None: they are in it).

        `see` makes of an image what the graph takes. `thresholds` is the lowest score per label that counts as found; 0.5 where
        none is given.
        """
        if projection is not None and (projection.ndim != 2 or projection.shape[0] != text.dimensions):
            raise Fatal(f"{identity.name}: projection of shape {projection.shape} on text of {text.dimensions} dimensions")
        self._tower, self._text, self._projection, self._see, self._batch = tower, text, projection, see, batch
        self.dimensions: int = text.dimensions if projection is None else projection.shape[1]
        super().__init__(identity, prompts, thresholds)

    def embed_images(self, images: Sequence[NDArray[np.uint8]]) -> Floats:
        """Embed 8-bit greyscale [h, w] or RGB [h, w, 3] images of any size: [len(images), dimensions], unit length.

        Raises:
            Poison: an image is not such an image, or the tower answered with NaN.
        """
        found = np.empty((len(images), self.dimensions), np.float32)
        for at in range(0, len(images), self._batch):
            prepared = np.stack([self._see(image) for image in images[at : at + self._batch]])
            rows = self._tower.run("embedding", {"image": prepared})
            if rows.shape != (len(prepared), self.dimensions):  # one column would be taken for all of them
                raise Fatal(
                    f"model {self._identity.name} {self._identity.version}: the graph gives {rows.shape[-1]} values an image, "
                    f"{'the text tower' if self._projection is None else 'text_projection.npy'} {self.dimensions} a text"
                )
            found[at : at + len(prepared)] = rows
        return found

    def embed_texts(self, texts: Sequence[str]) -> Floats:
        """Embed texts: [len(texts), dimensions], unit length. A text over the embedder's limit raises `Poison`."""
        if not texts:
            return np.empty((0, self.dimensions), np.float32)
        vectors = self._text.embed(texts)
        return vectors if self._projection is None else unit(vectors @ self._projection)


def softmax(logits: Floats) -> Floats:
    """Return the rows as probabilities."""
    raised = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(raised / raised.sum(axis=1, keepdims=True), dtype=np.float32)


def load(weights: Weights, *, threads: int = 1) -> OnnxImageText:
    """Open a verified model (the registry's loader for `onnx-image-text`): `model.onnx`, `text_projection.npy`.

    `[model.preprocessing]` gives size, text_tower (an embedding model of the registry), prompts, scale and offsets; with `pixels`
    in place of the first two it is a model of two towers (`_towers`).

    Raises:
        Fatal: files or settings do not make such a model.
    """
    entry = weights.entry
    if "pixels" in entry.preprocessing:
        return _towers(weights, threads)
    said = Said(weights, "size", "text_tower", "prompts", "scale", "offsets", "device", "images_learned")
    size, name = said.whole("size", 0, least=SMALLEST), said.text("text_tower", "")
    tower = Session(weights, "model.onnx", threads=threads, device=said.text("device", "cpu"))
    tower.require(inputs=["image"], outputs=["embedding"])
    if (found := tower.width("image")) not in (None, size):
        raise Fatal(f"{said.where}: the graph takes images of {found} pixels, preprocessing.size is {size}")
    try:
        projection = np.load(io.BytesIO(weights.path("text_projection.npy").read_bytes()), allow_pickle=False)
        matrix = projection.astype(np.float32)
    except ValueError as error:
        raise Fatal(f"{said.where}: text_projection.npy is unusable") from error
    if not np.isfinite(matrix).all():
        raise Fatal(f"{said.where}: text_projection.npy has values that are not finite", hint="it is damaged: train it again")
    text = Registry.load().open("embedding", name=name, threads=threads)
    prompts = Prompts.from_registry(said.raw, entry.labels, said.where)
    return OnnxImageText(
        tower, text, matrix, prompts, weights.identity, see=partial(prepare, size=size), thresholds=entry.thresholds
    )


def _towers(weights: Weights, threads: int) -> OnnxImageText:
    """Open two towers: `model.onnx` of images, `text.onnx` (`input_ids` [, `attention_mask`]) with `tokenizer.json` of texts.

    `limit` are the tokens of a text, `batch` the images of one run: 1 (the default) lets a vector depend on nothing but its image.
    """
    said = Said(weights, "pixels", "limit", "dimensions", "prompts", "scale", "offsets", "batch", "device")
    pixels = Pixels.from_registry(said.raw["pixels"], said.where)
    tower = Session(weights, "model.onnx", threads=threads, device=said.text("device", "cpu"))
    tower.require(inputs=["image"], outputs=["embedding"])
    text = OnnxTextEmbedder.tower(weights, said, "text.onnx", threads=threads)
    prompts = Prompts.from_registry(said.raw, weights.entry.labels, said.where)
    thresholds, batch = weights.entry.thresholds, said.whole("batch", 1)
    return OnnxImageText(tower, text, None, prompts, weights.identity, see=pixels.of, thresholds=thresholds, batch=batch)
