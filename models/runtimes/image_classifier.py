"""Findings from an image classifier of the hub's kind (ViT, ResNet, ConvNeXt, Swin, ...), on torch or exported to ONNX.

It fills in `ImageTextModel` so that the image lane runs it as it stands. Its vector is what its last layer saw, with a 1 put
behind it, scaled to unit length: neighbours by cosine are images that it takes for alike, and dividing by the last value gives
back what the layer saw, so `classify` gives the classifier's own scores. It has no text tower: images cannot be searched by words.

Scores are a softmax over all its labels, or a sigmoid each. `preprocessing` may say `findings`, which renames labels into published
findings and leaves the others out, and `batch`, the images of one run. The ONNX one needs more (`load`).
"""

import io
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from models.errors import Fatal, Permanent, Poison
from models.registry import Weights
from models.runtimes.image_text import softmax
from models.runtimes.onnx import Session
from models.runtimes.pixels import Pixels
from models.runtimes.said import Said
from models.runtimes.text_embedder import unit
from models.tasks import Floats, ModelIdentity

SOFTMAX, SIGMOID = "softmax", "sigmoid"
CLASSIFIER: Final = "classifier.npy"


@dataclass(frozen=True, slots=True, eq=False)
class LastLayer:
    """What makes scores of features: `matrix` [columns, features], `bias` [columns], and softmax or sigmoid."""

    matrix: Floats
    bias: Floats
    scores: str

    def of(self, features: Floats) -> Floats:
        """Return the scores of features [n, features]: [n, columns]."""
        logits = features @ self.matrix.T + self.bias
        return 1 / (1 + np.exp(-logits)) if self.scores == SIGMOID else softmax(logits)


class ImageClassifier(ABC):
    """An `ImageTextModel` without a text tower. A subclass says what the last layer sees."""

    def __init__(self, weights: Weights, where: str, columns: Sequence[str], layer: LastLayer, *, batch: int) -> None:
        """Take the last layer and the labels of its columns. Raises `Fatal` where these name no findings."""
        self._identity, self._where, self._layer, self._batch = weights.identity, where, layer, batch
        chosen = _findings(weights.entry.preprocessing.get("findings"), columns, where)
        self._columns, self.labels = list(chosen), tuple(chosen.values())
        self.thresholds: Mapping[str, float] = dict.fromkeys(self.labels, 0.5) | weights.entry.thresholds
        self.dimensions: int = layer.matrix.shape[1] + 1

    @property
    def identity(self) -> ModelIdentity:
        """Name, version and digest."""
        return self._identity

    @abstractmethod
    def features(self, images: Sequence[NDArray[np.uint8]]) -> Floats:
        """Return what the last layer sees of one run's images: [n, features]."""

    def embed_images(self, images: Sequence[NDArray[np.uint8]]) -> Floats:
        """Embed 8-bit greyscale [h, w] or RGB [h, w, 3] images: [len(images), dimensions], unit length.

        Raises:
            Poison: an image is not such an image, or the model answered with NaN.
        """
        rows = np.empty((len(images), self.dimensions), np.float32)
        for at in range(0, len(images), self._batch):
            features = self.features(images[at : at + self._batch])
            rows[at : at + len(features)] = unit(np.concatenate([features, np.ones((len(features), 1), np.float32)], axis=1))
        return rows

    def embed_texts(self, texts: Sequence[str]) -> Floats:
        """Raise `Permanent`: there is no text tower."""
        if not texts:
            return np.empty((0, self.dimensions), np.float32)
        raise Permanent(
            f"{self._where} is an image classifier: it cannot embed a text",
            hint="to search images by words, let an image-text model (open-clip, transformers-clip) serve the task",
        )

    def classify(self, embeddings: Floats) -> Floats:
        """Return the classifier's scores, [n, len(labels)], of vectors that `embed_images` gave."""
        if embeddings.ndim != 2 or embeddings.shape[1] != self.dimensions or not (embeddings[:, -1] > 0).all():
            raise Poison(f"{self._where}: embeddings of shape {embeddings.shape} that are not its own", stage="model")
        scores = self._layer.of(embeddings[:, :-1] / embeddings[:, -1:])
        return np.asarray(scores[:, self._columns], dtype=np.float32)


def _findings(renamed: Any, labels: Sequence[str], where: str) -> dict[int, str]:
    """Return the columns that are published, and as what."""
    if not isinstance(renamed, Mapping | None):
        raise Fatal(f"{where}: preprocessing.findings is no table", hint='findings = { LABEL_1 = "pneumonia" }')
    chosen = {
        i: label if renamed is None else str(renamed[label])
        for i, label in enumerate(labels)
        if renamed is None or label in renamed
    }
    bad = [label for label in chosen.values() if not label or label.startswith("LABEL_")]
    if bad or not chosen or len(set(chosen.values())) != len(chosen):
        raise Fatal(
            f"{where}: its labels ({', '.join(labels[:8])}) do not name findings, each once",
            hint='name them: preprocessing.findings = { LABEL_1 = "pneumonia" }, or id2label in config.json',
        )
    return chosen


class OnnxImageClassifier(ImageClassifier):
    """The same, from an ONNX file whose graph takes `image` [n, channels, height, width] and gives `features`."""

    def __init__(self, weights: Weights, *, threads: int) -> None:
        """Load it. Raises `Fatal` where files and entry do not fit each other."""
        said = Said(weights, "columns", "scores", "findings", "pixels", "batch", "device")
        columns, scores = said.raw.get("columns"), said.text("scores", SOFTMAX)
        if not isinstance(columns, list | tuple) or not columns:
            raise said.wrong("columns", "the label of each column, in their order")
        if scores not in (SOFTMAX, SIGMOID):
            raise said.wrong("scores", f"{SOFTMAX} or {SIGMOID}")
        try:
            held = np.load(io.BytesIO(weights.path(CLASSIFIER).read_bytes()), allow_pickle=False).astype(np.float32)
        except ValueError as error:
            raise Fatal(f"{said.where}: {CLASSIFIER} is unusable") from error
        if held.ndim != 2 or len(held) != len(columns) or not np.isfinite(held).all():
            raise Fatal(f"{said.where}: {CLASSIFIER} has shape {list(held.shape)} for {len(columns)} columns, or is not finite")
        self._pixels = Pixels.from_registry(said.raw.get("pixels", {}), said.where)
        self._session = Session(weights, "model.onnx", threads=threads, device=said.text("device", "cpu"))
        self._session.require(inputs=["image"], outputs=["features"])
        if (found := self._session.width("features")) not in (None, held.shape[1] - 1):
            raise Fatal(f"{said.where}: the graph gives {found} values an image, {CLASSIFIER} takes {held.shape[1] - 1}")
        layer = LastLayer(held[:, :-1], held[:, -1], scores)
        super().__init__(weights, said.where, [str(one) for one in columns], layer, batch=said.whole("batch", 1))

    def features(self, images: Sequence[NDArray[np.uint8]]) -> Floats:
        """Return what the last layer sees: [n, features]. Raises `Poison` as `embed_images`."""
        return self._session.run("features", {"image": np.stack([self._pixels.of(image) for image in images])})


def load(weights: Weights, *, threads: int) -> OnnxImageClassifier:
    """Open a verified model (the registry's loader for `onnx-image-classifier`): `model.onnx`, `classifier.npy`.

    `[model.preprocessing]` gives columns, scores, findings and pixels (`models.runtimes.pixels`); `classifier.npy` is the last
    layer [columns, features + 1], its bias behind.
    """
    return OnnxImageClassifier(weights, threads=threads)
