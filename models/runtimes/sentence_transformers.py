"""Sentence embeddings from a `sentence-transformers` folder: pooling, dense layers and normalisation as its modules.json says.

Vectors are scaled to unit length at the end, whatever the folder does: the stores compare by cosine. `preprocessing` may say
`prompt`, the name of a prompt of the folder that is put before every text (default: the folder's own default), `limit` (tokens),
and `batch`: texts of one run. 1 (the default) lets a text's vector depend on nothing but the text.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import sentence_transformers
import torch

from models.errors import Fatal, Permanent, Poison
from models.registry import Weights
from models.runtimes import hub
from models.runtimes.onnx import finite
from models.tasks import Floats, ModelIdentity

_LONGEST = 512  # tokens, where neither folder nor tokenizer says less


class SentenceTransformersEmbedder:
    """A `TextEmbedder` from a sentence-transformers folder."""

    def __init__(self, weights: Weights, *, threads: int) -> None:
        """Load it. Raises `Fatal` where the folder does not open or its settings do not fit."""
        raw = weights.entry.preprocessing
        self._identity, self._where = weights.identity, hub.where(weights)
        torch.set_num_threads(threads)
        device = hub.device_of(weights)

        def opening(folder: Path) -> Any:
            _only_own_modules(folder, self._where)
            return sentence_transformers.SentenceTransformer(str(folder), device=device, local_files_only=True)

        self._model: Any = hub.read(weights, "sentence-transformers folder", opening).eval()
        self._tokenizer = hub.cutter(self._model.tokenizer, weights)
        self._prompt = self._prompt_of(raw.get("prompt", self._model.default_prompt_name))
        self._batch = int(raw.get("batch", 1))
        said = [int(limit) for limit in (self._model.max_seq_length, raw.get("limit"), _LONGEST) if limit]
        # What the prompt takes is not there for the text.
        self.limit = min(said) - len(self._tokenizer.encode(self._prompt, add_special_tokens=False).ids)
        if self.limit < 3 or self._batch < 1:
            raise Fatal(f"{self._where}: a limit of {self.limit} tokens or a batch of {self._batch} leaves no room")
        self.dimensions: int = self._encoded(["a"]).shape[1]

    def _prompt_of(self, name: object) -> str:
        prompts: dict[str, str | None] = self._model.prompts
        if name is None:
            return ""
        if name not in prompts:
            known = ", ".join(sorted(prompts)) or "none"
            raise Permanent(f"{self._where}: no prompt {name!r}", hint=f"the folder has: {known}")
        return prompts[str(name)] or ""

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
        for index, text in enumerate(texts):
            if (tokens := len(self._tokenizer.encode(text).ids)) > self.limit:
                raise Poison(
                    f"{self._where}: text {index} of {len(texts)} has {tokens} tokens, more than {self.limit}",
                    stage="model",
                    hint="cut it into chunks by offsets()",
                )
        if not texts:
            return np.empty((0, self.dimensions), np.float32)
        return self._encoded(texts)

    def _encoded(self, texts: Sequence[str]) -> Floats:
        with hub.running(self._where):
            rows = self._model.encode(
                list(texts), prompt=self._prompt, batch_size=self._batch, show_progress_bar=False, convert_to_numpy=True
            )
        vectors = np.asarray(rows, dtype=np.float32)
        finite(vectors, self._where)
        return np.asarray(vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12), dtype=np.float32)


def _only_own_modules(folder: Path, where: str) -> None:
    """Raise `Fatal` where modules.json names a class of anything but the library: before 6.0 it would be imported and run."""
    listed = folder / "modules.json"
    if not listed.is_file():
        return  # a plain transformers folder: the library puts mean pooling on top
    foreign = sorted({str(one["type"]) for one in json.loads(listed.read_text(encoding="utf-8"))})
    if foreign := [name for name in foreign if not name.startswith("sentence_transformers.")]:
        raise Fatal(
            f"{where}: modules.json names code of its own: {', '.join(foreign)}",
            hint="no code of a model's folder is run; export the model to ONNX where it is trusted",
        )


def load(weights: Weights, *, threads: int) -> SentenceTransformersEmbedder:
    """Open it, for the registry."""
    return SentenceTransformersEmbedder(weights, threads=threads)
