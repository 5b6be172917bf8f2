"""A `transformers` image classifier as the hub has it: its own image processor, its own labels (see `image_classifier`)."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
import transformers
from numpy.typing import NDArray

from models.errors import Fatal
from models.registry import Weights
from models.runtimes import hub
from models.runtimes.exportable import Network, Plan
from models.runtimes.image_classifier import CLASSIFIER, SIGMOID, SOFTMAX, ImageClassifier, LastLayer
from models.runtimes.onnx import finite
from models.runtimes.pixels import picture
from models.runtimes.said import Said
from models.tasks import Floats

_HEADS: Final = ("classifier", "head", "fc", "score")  # what the architectures call their last part
_CLOSE: Final = 1e-3  # of logits computed twice


class TransformersImageClassifier(ImageClassifier):
    """An `ImageTextModel` without a text tower, from a transformers folder."""

    def __init__(self, weights: Weights, *, threads: int) -> None:
        """Load it. Raises `Fatal` where files, labels and weights do not fit, or the head is not one linear layer."""
        self._said = Said(weights, "findings", "batch", "device")
        torch.set_num_threads(threads)
        where = self._said.where
        self._device = hub.device_of(weights)
        model, self._processor = hub.read(weights, "transformers folder", lambda folder: _opened(folder, weights))
        self._model = model.eval().to(self._device)
        config = model.config
        self._channels = int(getattr(config, "num_channels", 3))
        self._labels = [str(config.id2label.get(i, "")) for i in range(config.num_labels)]
        self._seen: Any = None
        layer = self._head(config.num_labels, where)
        matrix = layer.weight.detach().float().cpu().numpy()
        bias = np.zeros(config.num_labels, np.float32) if layer.bias is None else layer.bias.detach().float().cpu().numpy()
        scores = SIGMOID if config.problem_type == "multi_label_classification" else SOFTMAX
        last = LastLayer(matrix, bias, scores)
        super().__init__(weights, where, self._labels, last, batch=self._said.whole("batch", 1))
        self._probe()

    def features(self, images: Sequence[NDArray[np.uint8]]) -> Floats:
        """Return what the last layer sees of one run's images: [n, features]."""
        return self._run(self._prepared(images))[0]

    def plan(self) -> Plan:
        """Say how it is exported: what the last layer sees is the graph's, the layer itself a table beside it."""
        pixels = hub.pixels_of(self._processor, self._channels, self._where)

        def write(folder: Path) -> None:
            np.save(folder / CLASSIFIER, np.concatenate([self._layer.matrix, self._layer.bias[:, None]], axis=1))

        def call(image: Any) -> Any:
            self._model(pixel_values=image)
            return self._seen

        network = Network(
            "model.onnx",
            hub.traceable(self._model),
            call,
            lambda image: {"image": self._prepared([image])},
            "features",
            of_texts=False,
        )
        kept = {key: self._said.raw[key] for key in ("findings",) if key in self._said.raw}
        more = {"columns": self._labels, "scores": self._layer.scores, "pixels": pixels.to_registry()}
        return Plan("onnx-image-classifier", (network,), kept | more, self.labels, write)

    def _prepared(self, images: Sequence[NDArray[np.uint8]]) -> Any:
        mode = "L" if self._channels == 1 else "RGB"
        pictures = [picture(image).convert(mode) for image in images]
        with hub.running(self._said.where):
            return self._processor(images=pictures, return_tensors="pt")["pixel_values"].to(self._device)

    def _head(self, labels: int, where: str) -> Any:
        """Find the last layer, and listen to what it sees."""
        found = [
            module
            for name, module in self._model.named_modules()
            if isinstance(module, torch.nn.Linear) and module.out_features == labels and name.split(".")[0] in _HEADS
        ]
        if len(found) != 1:
            raise Fatal(
                f"{where}: {type(self._model).__name__} has {len(found)} last linear layers, not one",
                hint="export it to ONNX with an image tower and prompts, or choose another architecture",
            )

        def listen(module: Any, inputs: tuple[Any, ...]) -> None:
            self._seen = inputs[0]

        found[0].register_forward_pre_hook(listen)
        return found[0]

    def _run(self, pixels: Any) -> tuple[Floats, Floats]:
        with hub.running(self._where):
            logits = self._model(pixel_values=pixels).logits.float().cpu().numpy()
            features = self._seen.float().cpu().numpy()
        finite(features, self._where)
        finite(logits, self._where)
        return features, logits

    def _probe(self) -> None:
        """Hold the way through the vector to the model's own answer, once."""
        features, logits = self._run(self._prepared([np.tile(np.arange(64, dtype=np.uint8) * 4, (64, 1))]))
        own = self._layer
        same = features.ndim == 2 and np.allclose(features @ own.matrix.T + own.bias, logits, atol=_CLOSE, rtol=_CLOSE)
        if not same:
            raise Fatal(f"{self._where}: its scores are not its last layer's: this architecture is not supported")


def _opened(folder: Any, weights: Weights) -> tuple[Any, Any]:
    loaded = transformers.AutoModelForImageClassification.from_pretrained(folder, **hub.TOLD)
    return hub.whole(loaded, weights), transformers.AutoImageProcessor.from_pretrained(folder, **hub.OFFLINE)


def load(weights: Weights, *, threads: int) -> TransformersImageClassifier:
    """Open it, for the registry."""
    return TransformersImageClassifier(weights, threads=threads)
