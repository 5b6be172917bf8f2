"""Named entities from a `transformers` token classifier as the hub has it: a folder with config, weights and tokenizer.

What the folder says is used as it stands: `id2label` names the columns, in BIO, in BIOES or BILOU (their ends become B and I), or
in IO and IOB1, where a run of one type is one entity (`models.runtimes.label_map`). The windows, words and characters are those
of `WindowedTagger`. `preprocessing` may say more: `types` renames the folder's types into published labels (and leaves the others
out), `aggregation` says how a word's score comes from its pieces ("first", as most are trained, "average", "max"), `window` and
`overlap` in tokens.
"""

from typing import Any, Final, cast

import numpy as np
import torch
import transformers
from numpy.typing import NDArray

from models.registry import Weights
from models.runtimes import hub
from models.runtimes.exportable import TOKENIZER, Network, Plan
from models.runtimes.label_map import Columns, capitals_lost
from models.runtimes.onnx import finite
from models.runtimes.said import Said
from models.runtimes.token_classifier import OVERLAP, WindowedTagger
from models.tasks import Floats

_LONGEST: Final = 512  # tokens of a window where neither model nor tokenizer says less


class TransformersTokenClassifier(WindowedTagger):
    """A `TokenClassifier` from a transformers folder."""

    def __init__(self, weights: Weights, *, threads: int) -> None:
        """Load it. Raises `Fatal` where files, label map and weights do not fit each other."""
        entry, said = weights.entry, Said(weights, "types", "aggregation", "window", "overlap", "device")
        self._raw, where = said.raw, said.where
        torch.set_num_threads(threads)
        model, tokenizer = _opened(weights)
        model = model.eval().to(hub.device_of(weights))
        self._model, self._named = model, [str(model.config.id2label.get(i, "")) for i in range(model.config.num_labels)]
        self._columns = Columns(self._named, said.raw, where)

        def emit(ids: NDArray[np.int64]) -> Floats:
            with hub.running(where):
                tokens = torch.from_numpy(ids).to(model.device)
                logits = model(input_ids=tokens, attention_mask=torch.ones_like(tokens)).logits
                values = np.asarray(logits.float().cpu().numpy(), dtype=np.float32)
            finite(values, where)
            return values

        self._window = said.whole("window", _longest(model.config, tokenizer))
        self._shared = said.whole("overlap", min(OVERLAP, self._window // 4), least=0)
        cutter = hub.cutter(tokenizer, weights, rows=hub.rows_of(model.config))
        self.capitals_lost = capitals_lost(cutter)
        super().__init__(
            entry.identity,
            cutter,
            emit,
            [self._columns.head],
            thresholds=entry.thresholds,
            window=self._window,
            overlap=self._shared,
        )

    def _words(self, logits: Floats, firsts: NDArray[np.int64]) -> Floats:
        return self._columns.words(logits, firsts)

    def plan(self) -> Plan:
        """Say how it is exported: its columns stay as they are, and what they mean stands in the entry."""

        def feed(text: str) -> dict[str, Any]:
            ids = torch.tensor([self._tokenizer.encode(text).ids[: self._window]])
            return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}

        def call(input_ids: Any, attention_mask: Any) -> Any:
            return self._model(input_ids=input_ids, attention_mask=attention_mask).logits

        heads = hub.heads_of(self._model.config)
        network = Network("model.onnx", hub.traceable(self._model), call, feed, "logits", heads=heads)
        kept = {key: self._raw[key] for key in ("types", "aggregation") if key in self._raw}
        more = {"columns": self._named, "window": self._window, "overlap": self._shared}
        return Plan(
            "onnx-token-classifier",
            (network,),
            more | kept,
            self.labels,
            lambda folder: self._tokenizer.save(str(folder / TOKENIZER), pretty=False),
        )


def _opened(weights: Weights) -> tuple[Any, Any]:
    def opening(folder: Any) -> tuple[Any, Any]:
        hub.holds_tokenizer(weights)
        model = hub.whole(transformers.AutoModelForTokenClassification.from_pretrained(folder, **hub.TOLD), weights)
        return model, transformers.AutoTokenizer.from_pretrained(folder, **hub.OFFLINE, use_fast=True)

    return cast(tuple[Any, Any], hub.read(weights, "transformers folder", opening))


def _longest(config: Any, tokenizer: Any) -> int:
    """Return the tokens of a window: what tokenizer and positions allow. RoBERTa's kin keep two positions for padding."""
    positions = int(getattr(config, "max_position_embeddings", 0) or 0)
    kept = 2 if "roberta" in str(config.model_type) else 0
    said = int(getattr(tokenizer, "model_max_length", 0) or 0)
    return min([_LONGEST, *(limit for limit in (positions - kept, said) if limit > 0)])


def load(weights: Weights, *, threads: int) -> TransformersTokenClassifier:
    """Open it, for the registry."""
    return TransformersTokenClassifier(weights, threads=threads)
