"""Sentence embeddings: tokens in, mean of the last states over real tokens, scaled to unit length.

The graph gives `last_hidden_state` [batch, tokens, dimensions]; pooling is done here, in numpy, so that the file is the encoder
as published. A text longer than `limit` is refused, never cut: chunking is the processor's work, by `offsets`.

Dynamic INT8 scales activations over a whole run, so what shares a run with a text would change its vector a little, and a
rerun batches otherwise. `batch` = 1 (the default) makes a text's vector depend on nothing but the text; more is for
processors where batching pays (CUDA), where runs are of like lengths to save padding.
"""

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray
from tokenizers import Encoding

from models.errors import Fatal, Poison
from models.registry import Weights
from models.runtimes.onnx import Session
from models.runtimes.said import Said
from models.runtimes.token_classifier import tokenizer_of
from models.tasks import Floats, ModelIdentity

LIMIT: Final = 256  # tokens, special ones included: what all-MiniLM-L6-v2's configuration says


class OnnxTextEmbedder:
    """A `TextEmbedder` from an ONNX encoder and its tokenizer."""

    def __init__(self, weights: Weights, *, threads: int) -> None:
        """Load it. Raises `Fatal` where graph and tokenizer do not fit."""
        said = Said(weights, "dimensions", "limit", "batch", "device")
        self._identity, self._where = weights.identity, said.where
        self._batch = said.whole("batch", 1)
        self.limit = said.whole("limit", LIMIT, least=3)
        self._tokenizer = tokenizer_of(weights)
        self._session = Session(weights, "model.onnx", threads=threads, device=said.text("device", "cpu"))
        self._session.require(inputs=["input_ids", "attention_mask"], outputs=["last_hidden_state"])
        width = self._session.width("last_hidden_state")
        self.dimensions = said.whole("dimensions", width or 0)
        if width not in (None, self.dimensions):
            raise Fatal(
                f"{self._where}: the graph gives {width} values a token, preprocessing.dimensions is {self.dimensions}",
                hint=f"dimensions = {width}, or another graph",
            )

    @property
    def identity(self) -> ModelIdentity:
        """Name, version and digest."""
        return self._identity

    def offsets(self, text: str) -> list[tuple[int, int]]:
        """Return the character span of each token, nothing cut. The special tokens, which `limit` counts, are not here."""
        return list(self._tokenizer.encode(text, add_special_tokens=False).offsets)

    def embed(self, texts: Sequence[str]) -> Floats:
        """Embed texts: [len(texts), dimensions] float32, rows of unit length, in the order given.

        Raises `Poison` (stage `model`) for a text of more than `limit` tokens (special ones included), and where the model
        gives values that are not finite; `Transient` where memory ran out.
        """
        encodings = [self._tokenizer.encode(text) for text in texts]
        for index, encoding in enumerate(encodings):
            if (tokens := len(encoding.ids)) > self.limit:
                raise Poison(
                    f"{self._where}: text {index} of {len(texts)} has {tokens} tokens, more than {self.limit}",
                    stage="model",
                    hint="cut it into chunks by offsets()",
                )
        vectors = np.empty((len(texts), self.dimensions), dtype=np.float32)
        by_length = sorted(range(len(texts)), key=lambda i: len(encodings[i].ids))
        for at in range(0, len(texts), self._batch):
            indices = by_length[at : at + self._batch]
            vectors[indices] = self._run([encodings[i] for i in indices])
        return vectors

    def _run(self, encodings: Sequence[Encoding]) -> Floats:
        longest = max(len(encoding.ids) for encoding in encodings)
        ids = np.zeros((len(encodings), longest), dtype=np.int64)
        mask = np.zeros_like(ids)
        for row, encoding in enumerate(encodings):
            ids[row, : len(encoding.ids)] = encoding.ids
            mask[row, : len(encoding.ids)] = 1
        feeds: dict[str, NDArray[np.int64]] = {"input_ids": ids, "attention_mask": mask}
        if "token_type_ids" in self._session.inputs:
            feeds["token_type_ids"] = np.zeros_like(ids)
        states = self._session.run("last_hidden_state", feeds)
        if states.shape != (*ids.shape, self.dimensions):
            raise Fatal(f"{self._where}: the graph gives {states.shape[-1:]} values a token, not {self.dimensions}")
        return mean_pooled(states, mask)


def mean_pooled(states: Floats, mask: NDArray[np.int64]) -> Floats:
    """Mean over real tokens of [n, tokens, dimensions], then unit length: [n, dimensions].

    Sentence-BERT's pooling (Reimers and Gurevych 2019, section 3): sum of states x mask / sum of mask.
    """
    weights = mask[..., None].astype(np.float32)
    mean = (states * weights).sum(axis=1) / np.maximum(weights.sum(axis=1), 1.0)
    return np.asarray(mean / np.maximum(np.linalg.norm(mean, axis=1, keepdims=True), 1e-12), dtype=np.float32)


def load(weights: Weights, *, threads: int) -> OnnxTextEmbedder:
    """Open it, for the registry."""
    return OnnxTextEmbedder(weights, threads=threads)
