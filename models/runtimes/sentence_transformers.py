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
import transformers
from sentence_transformers.util import import_from_string

from models.errors import Fatal, Permanent, Poison
from models.registry import Weights
from models.runtimes import hub
from models.runtimes.exportable import TOKENIZER, Network, Plan
from models.runtimes.onnx import finite
from models.runtimes.said import Said
from models.runtimes.text_embedder import POOLED
from models.tasks import Floats, ModelIdentity

_LONGEST = 512  # tokens, where neither folder nor tokenizer says less


class SentenceTransformersEmbedder:
    """A `TextEmbedder` from a sentence-transformers folder."""

    def __init__(self, weights: Weights, *, threads: int) -> None:
        """Load it. Raises `Fatal` where the folder does not open or its settings do not fit."""
        said = Said(weights, "prompt", "limit", "batch", "device")
        self._identity, self._where, self._batch = weights.identity, said.where, said.whole("batch", 1)
        asked = said.whole("limit", _LONGEST, least=3)
        torch.set_num_threads(threads)
        device = hub.device_of(weights)

        def opening(folder: Path) -> Any:
            hub.holds_tokenizer(weights)
            _only_own_modules(folder, self._where)
            with hub.loading_told() as told:
                model = sentence_transformers.SentenceTransformer(str(folder), device=device, **hub.OFFLINE)
            for inner in told:
                hub.whole(inner, weights, unused=_unused(model))
            return model

        self._model: Any = hub.read(weights, "sentence-transformers folder", opening).eval()
        inner = next((part for part in self._model.modules() if isinstance(part, transformers.PreTrainedModel)), None)
        rows = None if inner is None else hub.rows_of(inner.config)
        self._tokenizer = hub.cutter(self._model.tokenizer, weights, rows=rows)
        self._prompt = self._prompt_of(said.raw.get("prompt", self._model.default_prompt_name))
        longest = min(asked, int(self._model.max_seq_length or _LONGEST), _LONGEST)
        # What the prompt takes is not there for the text.
        self.limit = longest - len(self._tokenizer.encode(self._prompt, add_special_tokens=False).ids)
        if self.limit < 3:
            raise Fatal(f"{self._where}: a limit of {self.limit} tokens leaves no room")
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

    def plan(self) -> Plan:
        """Say how it is exported: with all its modules in the graph. Raises `Permanent` for a prompt that pooling leaves out."""
        pooling = next((part for part in self._model if hasattr(part, "include_prompt")), None)
        if self._prompt and pooling is not None and not pooling.include_prompt:
            raise Permanent(
                f"{self._where}: its pooling leaves the prompt out, which an ONNX graph here cannot",
                hint='prompt = "..." in [model.preprocessing] names another of its prompts, an empty one say',
            )

        def feed(text: str) -> dict[str, Any]:
            ids = torch.tensor([self._tokenizer.encode(self._prompt + text).ids])
            return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}

        def call(input_ids: Any, attention_mask: Any) -> Any:
            features = {"input_ids": input_ids, "attention_mask": attention_mask}
            for module in self._model:
                features = module(features)
            return features["sentence_embedding"]

        inner = next((part for part in self._model.modules() if isinstance(part, transformers.PreTrainedModel)), None)
        heads = 0 if inner is None else hub.heads_of(inner.config)
        said: dict[str, Any] = {"dimensions": self.dimensions, "limit": self.limit}
        return Plan(
            "onnx-text-embedder",
            (Network("model.onnx", hub.traceable(self._model), call, feed, POOLED, heads=heads),),
            said | ({"prompt": self._prompt} if self._prompt else {}),
            (),
            lambda folder: self._tokenizer.save(str(folder / TOKENIZER), pretty=False),
        )

    def _encoded(self, texts: Sequence[str]) -> Floats:
        with hub.running(self._where):
            rows = self._model.encode(
                list(texts), prompt=self._prompt, batch_size=self._batch, show_progress_bar=False, convert_to_numpy=True
            )
        vectors = np.asarray(rows, dtype=np.float32)
        finite(vectors, self._where)
        return np.asarray(vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12), dtype=np.float32)


def _unused(model: Any) -> str:
    """Return the part of the transformer that no module looks at: BERT's pooler, where pooling is of the tokens' last states."""
    return "pooler" if getattr(model[0], "module_output_name", "token_embeddings") == "token_embeddings" else ""


def _only_own_modules(folder: Path, where: str) -> None:
    """Raise `Fatal` where the folder names a class of anything but the library: before 6.0 it would be imported and run.

    A module is one of the library's (modules.json, and a router's own list), an activation one of torch: any other is passed over
    by the library, and the vectors are not those of the model.
    """
    listed = folder / "modules.json"
    if not listed.is_file():
        return  # a plain transformers folder: the library puts mean pooling on top
    modules = {str(one["type"]): "modules.json" for one in json.loads(listed.read_text(encoding="utf-8"))}
    activations: dict[str, str] = {}
    for path in (*folder.rglob("config.json"), *folder.rglob("router_config.json")):
        found, file = json.loads(path.read_text(encoding="utf-8")), path.relative_to(folder).as_posix()
        if isinstance(types := found.get("types"), dict):
            modules |= {str(kind): file for kind in types.values()}
        if "." in str(found.get("activation_function", "")):  # a transformer's own has a short name: gelu
            activations[str(found["activation_function"])] = file
    foreign = {name: file for name, file in modules.items() if not _own(name)}
    foreign |= {name: file for name, file in activations.items() if not name.startswith("torch.nn.")}
    if foreign:
        raise Fatal(
            f"{where}: code of its own is named: {', '.join(f'{name} in {file}' for name, file in sorted(foreign.items()))}",
            hint="no code of a model's folder is run; export the model to ONNX where it is trusted",
        )


def _own(name: str) -> bool:
    """Say whether a dotted name is a class of modules of the library. Nothing outside the library is imported to find out."""
    if not name.startswith("sentence_transformers."):
        return False
    kind = import_from_string(name)
    return isinstance(kind, type) and issubclass(kind, torch.nn.Module)


def load(weights: Weights, *, threads: int) -> SentenceTransformersEmbedder:
    """Open it, for the registry."""
    return SentenceTransformersEmbedder(weights, threads=threads)
