"""The columns of a token classifier as the hub has them: what each means, and a word's scores from its pieces'.

Labels are in BIO, in BIOES or BILOU (their ends become B and I), in IO, where a run of one type is one entity, or in IOB1, where a
B only parts neighbours of one type. Needs no torch: the folder's network on torch and its export read their columns alike.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal, cast

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from models.errors import Fatal
from models.runtimes.tagging import Head
from models.tasks import Floats

Aggregation = Literal["first", "average", "max"]

_MARKS: Final = "BIESLU"
_BEGINS: Final = "BSU"  # S (single) and U (unit) are a beginning that is also the end
_BEFORE: Final = re.compile(rf"([{_MARKS}])[-_](.+)")
_BEFORE_SMALL: Final = re.compile(rf"([{_MARKS}])[-_](.+)", re.IGNORECASE)
_BEHIND: Final = re.compile(rf"(.+)[-_]([{_MARKS}])", re.IGNORECASE)
_ALONE: Final = re.compile(rf"([{_MARKS}])[-_]?", re.IGNORECASE)
# What training frameworks call columns that stand for no word: padding, later pieces, the ends of a text.
_SPECIAL: Final = re.compile(r"x|pad|\[.*\]|<.*>", re.IGNORECASE)
_MEANINGLESS: Final = re.compile(r"[\W\d_]*|LABEL_\d+", re.IGNORECASE)  # as a type: no letter, or the library's stand-in
_UNREAD: Final = re.compile(rf"[{_MARKS}][-_]?|[BI][-_].+|.+[-_][BI]", re.IGNORECASE)  # what a label may not be as it stands
_NEVER: Final = -30.0  # a log-probability that no path takes
# A type's share of a word below which an I behind it begins an entity: by BIO there would be none (IOB1, as CoNLL 2003 has it).
_APART: Final = 0.05


class Columns:
    """What an entry makes of its model's labels (`id2label`, in the order of the columns): one head, and how a word is read.

    Of the entry's `preprocessing` it reads `types` and `aggregation`.
    """

    def __init__(self, labels: Sequence[str], raw: Mapping[str, Any], where: str) -> None:
        """Read them. Raises `Fatal` as `LabelMap`, and for types or an aggregation that are none."""
        types = _types(raw, where)
        self._map, self._how = LabelMap(labels, where, types), _aggregation(raw, where)
        self.width = len(labels)
        self.head = Head("hub", self._map.tags, types=types)
        if (problem := self.head.problem()) is not None:
            raise Fatal(f"{where}: {problem}")

    def words(self, logits: Floats, firsts: NDArray[np.int64]) -> Floats:
        """Turn pieces' logits [pieces, columns] into words' log-probabilities [words, tags of the head]."""
        return self._map.bio(aggregated(logits, firsts, self._how))


class LabelMap:
    """The columns of a model's output as BIO tags: "O" first, then B and I of each type in the order of the columns.

    A mark stands before its type (B-problem) or behind it (problem-B); small, or behind, it is read as one where some type has both
    B and I so: hepatitis_b is a type. Columns of no word ([PAD], X, [CLS], [SEP]) count as outside. A map of marks alone (B, I, O)
    is of one type, called as its beginning's column. A label that `types` names is a type as it stands.
    """

    def __init__(self, labels: Sequence[str], where: str, types: Mapping[str, str] | None = None) -> None:
        """Read the labels; `types` are those that the entry renames (none: all are published as they are called).

        Raises `Fatal` where there is not exactly one "O", or what would be published means nothing.
        """
        if (outside := [label.upper() for label in labels].count("O")) != 1:
            raise Fatal(
                f"{where}: its {len(labels)} labels ({', '.join(labels[:8])}) have not exactly one O",
                hint="id2label in config.json must name what each column means" + ("" if outside else _outside_hint(labels)),
            )
        types = types or {}
        read = _tags([label for label in labels if label.upper() != "O"], types)
        self._outside = [i for i, label in enumerate(labels) if label.upper() == "O" or read[label] is None]
        self._begin: dict[str, list[int]] = {}
        self._inside: dict[str, list[int]] = {}
        for column, label in enumerate(labels):
            if column in self._outside or (tag := read[label]) is None:
                continue
            mark, kind = tag
            for table, mine in ((self._begin, mark in _BEGINS), (self._inside, mark not in _BEGINS)):
                table.setdefault(kind, []).extend([column] if mine else [])
        if not self._begin:
            raise Fatal(
                f"{where}: its labels ({', '.join(labels[:8])}) name no type", hint="id2label in config.json must name them"
            )
        if strange := sorted(types.keys() - self._begin.keys()):
            raise Fatal(f"{where}: preprocessing.types names {', '.join(strange)}", hint=f"its types: {', '.join(self._begin)}")
        if (
            bad := [
                kind for kind in self._begin if _MEANINGLESS.fullmatch(kind) or (kind in labels and _UNREAD.fullmatch(kind))
            ]
            if not types
            else []
        ):
            raise Fatal(
                f"{where}: its labels ({', '.join(labels[:8])}) give types that mean nothing: {', '.join(map(repr, bad[:4]))}",
                hint=f"say what they are: preprocessing.types = {{ {bad[0]!r} = 'condition' }} (a type that it does not name is "
                "not published), or id2label in config.json",
            )
        self.types: tuple[str, ...] = tuple(self._begin)
        self.tags: tuple[str, ...] = ("O", *(f"{prefix}-{kind}" for kind in self.types for prefix in "BI"))
        # A type without a tag of its own for a beginning: its runs are its entities (IO).
        self._runs = frozenset(kind for kind in self.types if not self._begin[kind])

    def bio(self, logits: Floats) -> Floats:
        """Turn [words, columns] logits into log-probabilities [words, tags]; columns of one tag are added as probabilities."""
        shifted = logits - logits.max(axis=-1, keepdims=True)
        p = np.exp(shifted)
        p /= p.sum(axis=-1, keepdims=True)
        columns: list[Floats] = [p[:, self._outside].sum(axis=-1)]
        best = self._best(p)
        for number, kind in enumerate(self.types):
            begin, inside = p[:, self._begin[kind]].sum(axis=-1), p[:, self._inside[kind]].sum(axis=-1)
            if kind in self._runs:
                follows = np.concatenate(([False], best[:-1] == number))
                begin, inside = np.where(follows, 0.0, inside), np.where(follows, inside, 0.0)
            else:
                opens = (np.concatenate(([0.0], (begin + inside)[:-1])) < _APART) & (inside > begin)
                begin, inside = np.where(opens, begin + inside, begin), np.where(opens, 0.0, inside)
            columns += [begin, inside]
        with np.errstate(divide="ignore"):
            return np.maximum(np.log(np.stack(columns, axis=-1)), _NEVER).astype(np.float32)

    def _best(self, p: Floats) -> NDArray[np.int64]:
        """Return each word's likeliest type by its number, -1 for outside."""
        of_type = [p[:, self._begin[kind] + self._inside[kind]].sum(axis=-1) for kind in self.types]
        return np.asarray(np.stack([p[:, self._outside].sum(axis=-1), *of_type], axis=-1).argmax(axis=-1) - 1, dtype=np.int64)


def _outside_hint(labels: Sequence[str]) -> str:
    """Say which column is meant for outside, where all the others carry marks, and the line to write."""
    bare = [column for column, label in enumerate(labels) if not _BEFORE.fullmatch(label) and not _BEHIND.fullmatch(label)]
    if len(bare) != 1 or len(labels) < 2:
        return ""
    return (
        f'; column {bare[0]} ({labels[bare[0]]!r}) seems to be outside: "id2label": {{ "{bare[0]}": "O", ... }}, label2id too'
    )


def _tags(labels: Sequence[str], types: Mapping[str, str]) -> dict[str, tuple[str, str] | None]:
    """Return the mark (capital) and the type of each label but O, None for one of no word. A type without marks has an I."""
    words = {label for label in labels if label in types or not _SPECIAL.fullmatch(label)}
    alone = {label: found[1].upper() for label in labels if (found := _ALONE.fullmatch(label))}
    if {"B", "I"} <= {*alone.values()} and words == alone.keys():
        called = next(label for label, mark in alone.items() if mark == "B")
        return {label: (alone[label], called) if label in alone else None for label in labels}
    read = {label: ("I", label) for label in words}
    open_ = words - types.keys()
    for pattern in (_BEHIND, _BEFORE_SMALL):
        parts = [(label, found) for label in open_ if (found := pattern.fullmatch(label))]
        tags = {
            label: (found[2].upper(), found[1]) if pattern is _BEHIND else (found[1].upper(), found[2])
            for label, found in parts
        }
        if any(("I", kind) in tags.values() for mark, kind in tags.values() if mark == "B"):
            read |= tags
    read |= {label: (found[1], found[2]) for label in open_ if (found := _BEFORE.fullmatch(label))}
    return {label: read.get(label) for label in labels}


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


def capitals_lost(tokenizer: Tokenizer) -> int:
    """Count the entries of a vocabulary that no text reaches: they have a capital, and the normalizer makes it small.

    Many mean a cased model under a tokenizer that nobody told so: the library's default makes letters small.
    """
    if tokenizer.normalizer is None:
        return 0
    cased = (
        word for word in tokenizer.get_vocab(with_added_tokens=False) if not word.islower() and not _SPECIAL.fullmatch(word)
    )
    return sum(any(map(str.isupper, word)) and tokenizer.normalizer.normalize_str(word).islower() for word in cased)
