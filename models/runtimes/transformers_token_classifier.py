"""Named entities from a `transformers` token classifier as the hub has it: a folder with config, weights and tokenizer.

What the folder says is used as it stands: `id2label` names the columns, in BIO, in BIOES or BILOU (their ends become B and I), or
in IO and IOB1, where a run of one type is one entity. The windows, words and characters are those of `WindowedTagger`.
`preprocessing` may say more: `types` renames the folder's types into published labels (and leaves the others out), `aggregation`
says how a word's score comes from its pieces ("first", as most are trained, "average", "max"), `window` and `overlap` in tokens.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal, cast

import numpy as np
import torch
import transformers
from numpy.typing import NDArray

from models.errors import Fatal
from models.registry import Weights
from models.runtimes import hub
from models.runtimes.onnx import finite
from models.runtimes.tagging import Head
from models.runtimes.token_classifier import OVERLAP, WindowedTagger
from models.tasks import Floats

Aggregation = Literal["first", "average", "max"]

_LONGEST: Final = 512  # tokens of a window where neither model nor tokenizer says less
_TAG: Final = re.compile(r"([BIESLU])[-_](.+)")
_BEGINS: Final = "BSU"  # S (single) and U (unit) are a beginning that is also the end
_NEVER: Final = -30.0  # a log-probability that no path takes


class TransformersTokenClassifier(WindowedTagger):
    """A `TokenClassifier` from a transformers folder."""

    def __init__(self, weights: Weights, *, threads: int) -> None:
        """Load it. Raises `Fatal` where files, label map and weights do not fit each other."""
        entry, where = weights.entry, hub.where(weights)
        raw = entry.preprocessing
        torch.set_num_threads(threads)
        model, tokenizer = _opened(weights)
        model = model.eval().to(hub.device_of(weights))
        labels = [str(model.config.id2label.get(i, "")) for i in range(model.config.num_labels)]
        self._labels = LabelMap(labels, where)
        head = Head("hub", self._labels.tags, types=_types(raw, where))
        if (problem := head.problem()) is not None:
            raise Fatal(f"{where}: {problem}")
        self._aggregation = _aggregation(raw, where)

        def emit(ids: NDArray[np.int64]) -> Floats:
            with hub.running(where):
                tokens = torch.from_numpy(ids).to(model.device)
                logits = model(input_ids=tokens, attention_mask=torch.ones_like(tokens)).logits
                values = np.asarray(logits.float().cpu().numpy(), dtype=np.float32)
            finite(values, where)
            return values

        window = int(raw.get("window", _longest(model.config, tokenizer)))
        super().__init__(
            entry.identity,
            hub.cutter(tokenizer, weights),
            emit,
            [head],
            thresholds=entry.thresholds,
            window=window,
            overlap=int(raw.get("overlap", min(OVERLAP, window // 4))),
        )

    def _words(self, logits: Floats, firsts: NDArray[np.int64]) -> Floats:
        return self._labels.bio(aggregated(logits, firsts, self._aggregation))


class LabelMap:
    """The columns of a model's output as BIO tags: "O" first, then B and I of each type in the order of the columns."""

    def __init__(self, labels: Sequence[str], where: str) -> None:
        """Read the labels. Raises `Fatal` where there is not exactly one "O", or they have no meaning."""
        if labels.count("O") != 1:
            raise Fatal(
                f"{where}: its labels ({', '.join(labels[:8])}) have not exactly one O",
                hint="id2label in config.json must name what each column means",
            )
        parts = {i: _TAG.fullmatch(label) for i, label in enumerate(labels) if label != "O"}
        self._outside = labels.index("O")
        self._begin: dict[str, list[int]] = {}
        self._inside: dict[str, list[int]] = {}
        for column, found in parts.items():
            kind = found[2] if found else labels[column]
            begins = found is not None and found[1] in _BEGINS
            for table, mine in ((self._begin, begins), (self._inside, not begins)):
                table.setdefault(kind, []).extend([column] if mine else [])
        self.types: tuple[str, ...] = tuple(self._begin)
        self.tags: tuple[str, ...] = ("O", *(f"{prefix}-{kind}" for kind in self.types for prefix in "BI"))
        # A type without a tag of its own for a beginning: its runs are its entities (IO, IOB1).
        self._runs = frozenset(kind for kind in self.types if not self._begin[kind])

    def bio(self, logits: Floats) -> Floats:
        """Turn [words, columns] logits into log-probabilities [words, tags]; columns of one tag are added as probabilities."""
        shifted = logits - logits.max(axis=-1, keepdims=True)
        p = np.exp(shifted)
        p /= p.sum(axis=-1, keepdims=True)
        columns: list[Floats] = [p[:, self._outside]]
        best = self._best(p)
        for number, kind in enumerate(self.types):
            begin, inside = p[:, self._begin[kind]].sum(axis=-1), p[:, self._inside[kind]].sum(axis=-1)
            if kind in self._runs:
                follows = np.concatenate(([False], best[:-1] == number))
                begin, inside = np.where(follows, 0.0, inside), np.where(follows, inside, 0.0)
            columns += [begin, inside]
        with np.errstate(divide="ignore"):
            return np.maximum(np.log(np.stack(columns, axis=-1)), _NEVER).astype(np.float32)

    def _best(self, p: Floats) -> NDArray[np.int64]:
        """Return each word's likeliest type by its number, -1 for outside."""
        of_type = [p[:, self._begin[kind] + self._inside[kind]].sum(axis=-1) for kind in self.types]
        return np.asarray(np.stack([p[:, self._outside], *of_type], axis=-1).argmax(axis=-1) - 1, dtype=np.int64)


def aggregated(logits: Floats, firsts: NDArray[np.int64], how: Aggregation) -> Floats:
    """Make a word's logits [words, columns] of its pieces' [pieces, columns]; `firsts` are the words' first pieces.

    "first": the first piece's. "average": the mean of the pieces' probabilities. "max": those of the piece with the surest label.
    """
    if how == "first" or len(firsts) == len(logits):
        return logits[firsts]
    p = np.exp(logits - logits.max(axis=-1, keepdims=True))
    p /= p.sum(axis=-1, keepdims=True)
    if how == "average":
        counts = np.diff(np.append(firsts, len(logits)))
        mean = np.add.reduceat(p, firsts, axis=0) / counts[:, None]
        return np.asarray(np.log(np.maximum(mean, 1e-12)), dtype=np.float32)
    surest = p.max(axis=-1)
    ends = [*firsts[1:].tolist(), len(logits)]
    chosen = [first + int(surest[first:end].argmax()) for first, end in zip(firsts.tolist(), ends, strict=True)]
    return logits[chosen]


def _opened(weights: Weights) -> tuple[Any, Any]:
    def opening(folder: Any) -> tuple[Any, Any]:
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True, use_fast=True)
        loaded = transformers.AutoModelForTokenClassification.from_pretrained(
            folder, local_files_only=True, output_loading_info=True, dtype=torch.float32
        )
        return hub.whole(loaded, weights), tokenizer

    return cast(tuple[Any, Any], hub.read(weights, "transformers folder", opening))


def _longest(config: Any, tokenizer: Any) -> int:
    """Return the tokens of a window: what tokenizer and positions allow. RoBERTa's kin keep two positions for padding."""
    positions = int(getattr(config, "max_position_embeddings", 0) or 0)
    kept = 2 if "roberta" in str(config.model_type) else 0
    said = int(getattr(tokenizer, "model_max_length", 0) or 0)
    return min([_LONGEST, *(limit for limit in (positions - kept, said) if limit > 0)])


def _types(raw: Mapping[str, Any], where: str) -> dict[str, str]:
    types = raw.get("types", {})
    if not isinstance(types, Mapping):
        raise Fatal(f"{where}: preprocessing.types is no table", hint='types = { problem = "condition" }')
    return {str(kind): str(label) for kind, label in types.items()}


def _aggregation(raw: Mapping[str, Any], where: str) -> Aggregation:
    how = raw.get("aggregation", "first")
    if how not in ("first", "average", "max"):
        raise Fatal(f"{where}: preprocessing.aggregation is {how!r}", hint="first, average or max")
    return cast(Aggregation, how)


def load(weights: Weights, *, threads: int) -> TransformersTokenClassifier:
    """Open it, for the registry."""
    return TransformersTokenClassifier(weights, threads=threads)
