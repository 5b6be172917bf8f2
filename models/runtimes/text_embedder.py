"""Sentence embeddings: tokens in, mean of the last states over real tokens, scaled to unit length.

The graph gives `last_hidden_state` [batch, tokens, dimensions]; pooling is done here, in numpy, so that the file is the encoder
as published. Or it pools itself, in whatever way (`sentence_embedding` [batch, dimensions], as exported from the hub's format);
then `prompt` may be the words that go before every text. A text longer than `limit` is refused, never cut: chunking is the
processor's work, by `offsets`.

Dynamic INT8 scales activations over a whole run, so what shares a run with a text would change its vector a little, and a
rerun batches otherwise. `batch` = 1 (the default) makes a text's vector depend on nothing but the text; more is for
processors where batching pays (CUDA), where runs are of like lengths to save padding.
"""

from collections.abc import Sequence
from typing import Final, Self

import numpy as np
from numpy.typing import NDArray
from tokenizers import Encoding

from models.errors import Fatal, Poison
from models.registry import Weights
from models.runtimes.exportable import TOKENIZER
from models.runtimes.onnx import Session
from models.runtimes.said import Said
from models.runtimes.token_classifier import tokenizer_of
from models.tasks import Floats, ModelIdentity

POOLED: Final = "sentence_embedding"
STATES: Final = "last_hidden_state"
LIMIT: Final = 256  # tokens, special ones included: what all-MiniLM-L6-v2's configuration says


class OnnxTextEmbedder:
    """A `TextEmbedder` from an ONNX encoder and its tokenizer."""

    def __init__(self, weights: Weights, *, threads: int) -> None:
        """Load it. Raises `Fatal` where graph and tokenizer do not fit."""
        self._read(weights, Said(weights, "dimensions", "limit", "batch", "prompt", "device"), "model.onnx", threads)

    @classmethod
    def tower(cls, weights: Weights, said: Said, file: str, *, threads: int) -> Self:
        """Load the text tower of another kind of model from one of its files; the entry's `limit` is the tower's.

        Raises `Fatal` as the constructor.
        """
        made = cls.__new__(cls)
        made._read(weights, said, file, threads, batch=1)
        return made

    def _read(self, weights: Weights, said: Said, file: str, threads: int, batch: int = 0) -> None:
        self._identity, self._where = weights.identity, said.where
        self.limit, self._prompt = said.whole("limit", LIMIT, least=3), said.text("prompt", "") if "prompt" in said.raw else ""
        self._tokenizer = tokenizer_of(weights, TOKENIZER)
        self._session = Session(weights, file, threads=threads, device=said.text("device", "cpu"))
        self._output = POOLED if POOLED in self._session.outputs else STATES
        masked = "attention_mask" in self._session.inputs
        self._session.require(
            inputs=["input_ids", *(["attention_mask"] if self._output == STATES else [])], outputs=[self._output]
        )
        self._batch = batch or (said.whole("batch", 1) if masked else 1)  # without a mask nothing may be filled up
        width = self._session.width(self._output)
        self.dimensions = said.whole("dimensions", width or 0)
        if width not in (None, self.dimensions):
            raise Fatal(
                f"{self._where}: the graph gives {width} values a {self._each}, preprocessing.dimensions is {self.dimensions}",
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
        if self._prompt:  # which the limit does not count
            encodings = [self._tokenizer.encode(self._prompt + text) for text in texts]
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
        feeds: dict[str, NDArray[np.int64]] = {"input_ids": ids}
        if "attention_mask" in self._session.inputs:
            feeds["attention_mask"] = mask
        if "token_type_ids" in self._session.inputs:
            feeds["token_type_ids"] = np.zeros_like(ids)
        found = self._session.run(self._output, feeds)
        pooled = self._output == POOLED
        if found.shape != ((len(ids), self.dimensions) if pooled else (*ids.shape, self.dimensions)):
            raise Fatal(f"{self._where}: the graph gives {found.shape[-1:]} values a {self._each}, not {self.dimensions}")
        return unit(found) if pooled else mean_pooled(found, mask)

    @property
    def _each(self) -> str:
        return "text" if self._output == POOLED else "token"


def mean_pooled(states: Floats, mask: NDArray[np.int64]) -> Floats:
    """Mean over real tokens of [n, tokens, dimensions], then unit length: [n, dimensions].

    Sentence-BERT's pooling (Reimers and Gurevych 2019, section 3): sum of states x mask / sum of mask.
    """
    weights = mask[..., None].astype(np.float32)
    mean = (states * weights).sum(axis=1) / np.maximum(weights.sum(axis=1), 1.0)
    return unit(mean)


def unit(rows: Floats) -> Floats:
    """Scale rows to unit length."""
    return np.asarray(rows / np.maximum(np.linalg.norm(rows, axis=-1, keepdims=True), 1e-12), dtype=np.float32)


def load(weights: Weights, *, threads: int) -> OnnxTextEmbedder:
    """Open it, for the registry."""
    return OnnxTextEmbedder(weights, threads=threads)
