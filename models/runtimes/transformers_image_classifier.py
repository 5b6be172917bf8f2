"""Findings from a `transformers` image classifier (ViT, ResNet, ConvNeXt, Swin, ...): its own image processor, its own labels.

It fills in `ImageTextModel` so that the image lane runs it as it stands. Its vector is what its last layer saw, with a 1 put
behind it, scaled to unit length: neighbours by cosine are images that it takes for alike, and dividing by the last value gives
back what the layer saw, so `classify` gives the classifier's own scores. It has no text tower: images cannot be searched by words.

Scores are a softmax over all its labels, or a sigmoid each where the config says `multi_label_classification`. `preprocessing` may
say `findings`, which renames labels into published findings and leaves the others out, and `batch`, the images of one run.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import torch
import transformers
from numpy.typing import NDArray
from PIL import Image

from models.errors import Fatal, Permanent, Poison
from models.registry import Weights
from models.runtimes import hub
from models.runtimes.image_text import picture, softmax, unit
from models.runtimes.onnx import finite
from models.runtimes.said import Said
from models.tasks import Floats, ModelIdentity

_HEADS: Final = ("classifier", "head", "fc", "score")  # what the architectures call their last part
_CLOSE: Final = 1e-3  # of logits computed twice


class TransformersImageClassifier:
    """An `ImageTextModel` without a text tower, from a transformers folder."""

    def __init__(self, weights: Weights, *, threads: int) -> None:
        """Load it. Raises `Fatal` where files, labels and weights do not fit, or the head is not one linear layer."""
        said = Said(weights, "findings", "batch", "device")
        torch.set_num_threads(threads)
        self._identity, self._where, self._batch = weights.identity, said.where, said.whole("batch", 1)
        self._device = hub.device_of(weights)
        model, self._processor = hub.read(weights, "transformers folder", lambda folder: _opened(folder, weights))
        self._model = model.eval().to(self._device)
        config = model.config
        self._channels = "L" if int(getattr(config, "num_channels", 3)) == 1 else "RGB"
        self._many = config.problem_type == "multi_label_classification"
        chosen = _findings(weights, [str(config.id2label.get(i, "")) for i in range(config.num_labels)])
        self._columns, self.labels = list(chosen), tuple(chosen.values())
        self.thresholds: Mapping[str, float] = dict.fromkeys(self.labels, 0.5) | weights.entry.thresholds
        self._seen: Any = None
        layer = self._head(config.num_labels)
        self._matrix = layer.weight.detach().float().cpu().numpy()
        self._bias = (
            np.zeros(config.num_labels, np.float32) if layer.bias is None else layer.bias.detach().float().cpu().numpy()
        )
        self.dimensions: int = self._matrix.shape[1] + 1
        self._probe()

    @property
    def identity(self) -> ModelIdentity:
        """Name, version and digest."""
        return self._identity

    def embed_images(self, images: Sequence[NDArray[np.uint8]]) -> Floats:
        """Embed 8-bit greyscale [h, w] or RGB [h, w, 3] images: [len(images), dimensions], unit length.

        Raises:
            Poison: an image is not such an image, or the model answered with NaN.
        """
        rows = np.empty((len(images), self.dimensions), np.float32)
        for at in range(0, len(images), self._batch):
            pictures = [picture(image).convert(self._channels) for image in images[at : at + self._batch]]
            features, _ = self._run(pictures)
            rows[at : at + len(pictures)] = unit(np.concatenate([features, np.ones((len(features), 1), np.float32)], axis=1))
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
        logits = (embeddings[:, :-1] / embeddings[:, -1:]) @ self._matrix.T + self._bias
        scores = 1 / (1 + np.exp(-logits)) if self._many else softmax(logits)
        return np.asarray(scores[:, self._columns], dtype=np.float32)

    def _head(self, labels: int) -> Any:
        """Find the last layer, and listen to what it sees."""
        found = [
            module
            for name, module in self._model.named_modules()
            if isinstance(module, torch.nn.Linear) and module.out_features == labels and name.split(".")[0] in _HEADS
        ]
        if len(found) != 1:
            raise Fatal(
                f"{self._where}: {type(self._model).__name__} has {len(found)} last linear layers, not one",
                hint="export it to ONNX with an image tower and prompts, or choose another architecture",
            )

        def listen(module: Any, inputs: tuple[Any, ...]) -> None:
            self._seen = inputs[0]

        found[0].register_forward_pre_hook(listen)
        return found[0]

    def _run(self, pictures: Sequence[Image.Image]) -> tuple[Floats, Floats]:
        with hub.running(self._where):
            pixels = self._processor(images=list(pictures), return_tensors="pt")["pixel_values"].to(self._device)
            logits = self._model(pixel_values=pixels).logits.float().cpu().numpy()
            features = self._seen.float().cpu().numpy()
        finite(features, self._where)
        finite(logits, self._where)
        return features, logits

    def _probe(self) -> None:
        """Hold the way through the vector to the model's own answer, once."""
        shades = np.tile(np.arange(64, dtype=np.uint8) * 4, (64, 1))
        features, logits = self._run([Image.fromarray(shades).convert(self._channels)])
        same = features.ndim == 2 and np.allclose(features @ self._matrix.T + self._bias, logits, atol=_CLOSE, rtol=_CLOSE)
        if not same:
            raise Fatal(f"{self._where}: its scores are not its last layer's: this architecture is not supported")


def _opened(folder: Any, weights: Weights) -> tuple[Any, Any]:
    loaded = transformers.AutoModelForImageClassification.from_pretrained(folder, **hub.TOLD)
    return hub.whole(loaded, weights), transformers.AutoImageProcessor.from_pretrained(folder, **hub.OFFLINE)


def _findings(weights: Weights, labels: Sequence[str]) -> dict[int, str]:
    """Return the columns that are published, and as what."""
    renamed = weights.entry.preprocessing.get("findings")
    if not isinstance(renamed, Mapping | None):
        raise Fatal(f"{hub.where(weights)}: preprocessing.findings is no table", hint='findings = { LABEL_1 = "pneumonia" }')
    chosen = {
        i: label if renamed is None else str(renamed[label])
        for i, label in enumerate(labels)
        if renamed is None or label in renamed
    }
    bad = [label for label in chosen.values() if not label or label.startswith("LABEL_")]
    if bad or not chosen or len(set(chosen.values())) != len(chosen):
        raise Fatal(
            f"{hub.where(weights)}: its labels ({', '.join(labels[:8])}) do not name findings, each once",
            hint='name them: preprocessing.findings = { LABEL_1 = "pneumonia" }, or id2label in config.json',
        )
    return chosen


def load(weights: Weights, *, threads: int) -> TransformersImageClassifier:
    """Open it, for the registry."""
    return TransformersImageClassifier(weights, threads=threads)
