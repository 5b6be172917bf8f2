"""Named entities from texts of any length: overlapping windows, whole words, characters of the text as given.

A text is cut into tokens once. Where it has more than one window holds, windows overlap, and each word's scores come from the
window in which it has most context (the cut lies in the middle of the overlap). Spans are then read off the whole text's words
in one go, so that none is cut or doubled at a border. A word's scores are those of its first piece.

One window is one run of the graph: dynamic INT8 scales activations over the whole run, so a batch would let a text's result
depend on its neighbours, and on a CPU it gains nothing (measured with six layers: 129 notes/s singly, 124 in batches of 8).
"""

import copy
import itertools
import unicodedata
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Self

import numpy as np
from numpy.typing import NDArray
from tokenizers import Encoding, Tokenizer

from models.errors import Fatal
from models.figures import whole
from models.registry import Weights
from models.runtimes.label_map import Columns
from models.runtimes.onnx import Session
from models.runtimes.said import Said
from models.runtimes.tagging import Head, decode
from models.tasks import Floats, ModelIdentity, Span

# Token ids [1, tokens] with their special ones -> logits [1, tokens, tags].
Emit = Callable[[NDArray[np.int64]], Floats]

WINDOW: Final = 256
OVERLAP: Final = 64
_PLAIN: Final = ("patient", "fever", "chest", "pain", "cough", "day")  # words of any vocabulary of English
# Drawn onto the character before them: they belong to its span although tokenizers drop them.
_JOINED: Final = frozenset({"\u200d", "\ufe0e", "\ufe0f"})


class WindowedTagger:
    """A `TokenClassifier` around anything that gives logits per token. `heads` are all that it has, speaking or not, by name."""

    def __init__(
        self,
        identity: ModelIdentity,
        tokenizer: Tokenizer,
        emit: Emit,
        heads: Sequence[Head],
        *,
        thresholds: Mapping[str, float] | None = None,
        window: int = WINDOW,
        overlap: int = OVERLAP,
    ) -> None:
        """Take the heads that speak, in order of precedence: a later one adds only spans that touch none before.

        `window` tokens go into one run, special ones included; neighbours share `overlap` of them. `thresholds` maps a
        published label to the lowest score that is published (default 0).
        """
        self._identity = identity
        self._tokenizer = tokenizer
        self._emit = emit
        self._heads = tuple(heads)
        self.heads: Mapping[str, Head] = {head.name: head for head in self._heads}
        self._thresholds = dict(thresholds or {})
        self._prefix, self._suffix = framing(tokenizer)
        self.room = window - len(self._prefix) - len(self._suffix)
        self._overlap = overlap
        if not 0 <= overlap < self.room:
            raise Fatal(f"model {identity.name}: overlap {overlap} does not fit a window of {window}")

    @property
    def identity(self) -> ModelIdentity:
        """Name, version and digest."""
        return self._identity

    @property
    def labels(self) -> tuple[str, ...]:
        """Every label that `find` can return."""
        return tuple(dict.fromkeys(label for head in self._heads for label in head.labels))

    @property
    def blind_to_capitals(self) -> bool:
        """Whether its tokenizer knows plain words and most of them not with a capital: it should lower them, and does not."""
        unknown = getattr(self._tokenizer.model, "unk_token", None)

        def known(word: str) -> bool:
            return unknown not in self._tokenizer.encode(word, add_special_tokens=False).tokens

        words = [word for word in _PLAIN if known(word)] if unknown else []
        return 2 * sum(not known(word.capitalize()) for word in words) > len(words)

    @property
    def speakers(self) -> tuple[Head, ...]:
        """The heads that speak, in order of precedence."""
        return self._heads

    def speaking(self, *heads: Head, thresholds: Mapping[str, float] | None = None) -> Self:
        """Return the same model with other heads and thresholds: what evaluation asks a data set's own head with.

        A copy, so that what a subclass makes of columns and pieces (its label map, its aggregation) goes with it.
        """
        other = copy.copy(self)
        other._heads, other._thresholds = heads, dict(thresholds or {})
        return other

    def cost(self, text: str) -> int:
        """Estimate the tokens of a text from its length: clinical English has about four characters to one."""
        return 2 + len(text) // 4

    def find(self, texts: Sequence[str]) -> list[list[Span]]:
        """Return the spans of each text, sorted by start, none overlapping, never starting or ending with white space.

        None begins or ends within a number either (`models.figures.whole`).

        Raises `Poison` (stage `model`) where the model gives values that are not finite.
        """
        return [self._find(text) for text in texts]

    def scores(self, text: str) -> Floats:
        """Return what the model itself says of a text's tokens, special ones left out: [tokens, columns]."""
        return self._token_logits(np.asarray(self._tokenizer.encode(text, add_special_tokens=False).ids, dtype=np.int64))

    def _find(self, text: str) -> list[Span]:
        encoding = self._tokenizer.encode(text, add_special_tokens=False)
        ids = np.asarray(encoding.ids, dtype=np.int64)
        firsts, lasts = words_of(encoding)
        if not len(firsts):
            return []
        logits = self._words(self._token_logits(ids), firsts)
        found: list[Span] = []
        for head in self._heads:
            new = self._spoken(head, logits, text, encoding.offsets, firsts, lasts)
            found = sorted([*found, *clear_of(new, found)], key=lambda span: span.start)
        return whole(text, found)

    def _spoken(
        self,
        head: Head,
        logits: Floats,
        text: str,
        offsets: Sequence[tuple[int, int]],
        firsts: NDArray[np.int64],
        lasts: NDArray[np.int64],
    ) -> list[Span]:
        spans: list[Span] = []
        for word_span in decode(logits[:, head.columns], head.tags):
            label = head.label(word_span.kind)
            if label is None or word_span.score < self._thresholds.get(label, 0.0):
                continue
            start, end = trimmed(text, offsets[firsts[word_span.first]][0], offsets[lasts[word_span.last]][1])
            if start < end:
                spans.append(Span(label, start, end, word_span.score))
        return spans

    def _words(self, logits: Floats, firsts: NDArray[np.int64]) -> Floats:
        """Make the words' scores [words, tags] of their pieces' [tokens, columns]; `firsts` are the words' first pieces."""
        return logits[firsts]

    def _token_logits(self, ids: NDArray[np.int64]) -> Floats:
        """Scores of each token [tokens, columns], from the window in which it has most context."""
        pieces: list[Floats] = []
        for start, end, keep_from, keep_to in windows(len(ids), self.room, self._overlap):
            framed = np.concatenate((self._prefix, ids[start:end], self._suffix)).astype(np.int64)[None]
            logits = self._emit(framed)[0]
            shift = len(self._prefix) - start
            pieces.append(logits[keep_from + shift : keep_to + shift])
        return np.concatenate(pieces)


def framing(tokenizer: Tokenizer) -> tuple[list[int], list[int]]:
    """Return the special tokens that a tokenizer puts before and behind a text: some have a beginning alone."""
    one = tokenizer.encode("a")
    own = [at for at, special in enumerate(one.special_tokens_mask) if not special]
    if not own:  # no token of its own for an "a"
        empty: list[int] = tokenizer.encode("").ids
        return empty[: len(empty) // 2], empty[len(empty) // 2 :]
    return list(one.ids[: own[0]]), list(one.ids[own[-1] + 1 :])


def windows(tokens: int, room: int, overlap: int) -> list[tuple[int, int, int, int]]:
    """Cut `tokens` into windows of at most `room`: (start, end, keep from, keep to) of each, in tokens.

    What is kept partitions the tokens: the cut between two windows lies in the middle of what they share. The windows are
    spread evenly, so that the last is as long as the others and no tail lacks context.
    """
    if tokens <= room:
        return [(0, tokens, 0, tokens)]
    count = -(-(tokens - overlap) // (room - overlap))
    starts = [round(index * (tokens - room) / (count - 1)) for index in range(count)]
    cuts = [0, *((left + room + right) // 2 for left, right in itertools.pairwise(starts)), tokens]
    return [(start, start + room, cuts[i], cuts[i + 1]) for i, start in enumerate(starts)]


def clear_of(spans: Sequence[Span], taken: Sequence[Span]) -> list[Span]:
    """Return the spans that overlap none of `taken`, which are sorted and lie apart."""
    ends = [span.end for span in taken]
    kept: list[Span] = []
    for span in spans:
        after = bisect_right(ends, span.start)  # the first taken one that ends behind this one's start
        if after == len(taken) or taken[after].start >= span.end:
            kept.append(span)
    return kept


def words_of(encoding: Encoding) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the first and the last token of each word, of an encoding without special tokens."""
    ids = np.asarray([-1 if word is None else word for word in encoding.word_ids], dtype=np.int64)
    if not len(ids):
        return ids, ids
    changes = np.concatenate(([True], ids[1:] != ids[:-1]))
    firsts = np.flatnonzero(changes)
    lasts = np.concatenate((firsts[1:] - 1, [len(ids) - 1]))
    return firsts.astype(np.int64), lasts.astype(np.int64)


def trimmed(text: str, start: int, end: int) -> tuple[int, int]:
    """Move a span's ends: off white space, and over the combining marks that belong to its last character."""
    while start < end and text[start].isspace():
        start += 1
    while end > start and text[end - 1].isspace():
        end -= 1
    while start < end < len(text) and (unicodedata.combining(text[end]) or text[end] in _JOINED):
        end += 1
    return start, end


def tokenizer_of(weights: Weights, file: str = "tokenizer.json") -> Tokenizer:
    """Load a tokenizer and switch off its cutting and padding. Raises `Fatal` where the file is no tokenizer."""
    return load_tokenizer(weights.path(file), f"model {weights.entry.name} {weights.entry.version}")


def load_tokenizer(path: Path, where: str) -> Tokenizer:
    """Load a tokenizer file; `where` opens the message of the `Fatal` that an unreadable one raises."""
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises bare Exception
        raise Fatal(f"{where}: {path} is no tokenizer that this version of tokenizers can read") from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def heads_of(weights: Weights) -> dict[str, Head]:
    """Read the heads of a registry entry: `preprocessing.heads`, each with `name`, `tags` and, if it renames, `types`.

    Raises `Fatal` where there is no label map or it is no BIO, naming the model and the tag.
    """
    where = f"model {weights.entry.name} {weights.entry.version}"
    described: Any = weights.entry.preprocessing.get("heads")
    if not described:
        raise Fatal(f"{where}: no label map", hint="give preprocessing.heads = [{name = ..., tags = [...]}] in the registry")
    heads: dict[str, Head] = {}
    first = 0
    for raw in described:
        try:
            head = Head(str(raw["name"]), tuple(map(str, raw["tags"])), first, dict(raw.get("types", {})))
        except (TypeError, KeyError, AttributeError) as error:
            raise Fatal(f"{where}: preprocessing.heads: each needs a name and tags") from error
        if (problem := head.problem()) is not None:
            raise Fatal(f"{where}: {problem}")
        heads[head.name] = head
        first += len(head.tags)
    return heads


class OnnxTokenClassifier(WindowedTagger):
    """The same, from an ONNX file whose graph gives `logits`.

    The label map is `preprocessing.heads`, or for a model exported from the hub's format `columns`, its labels as it has them, with
    the `types` and `aggregation` of `transformers-token-classifier`.
    """

    def __init__(self, weights: Weights, *, threads: int) -> None:
        """Load it. Raises `Fatal` where graph, tokenizer and label map do not fit each other."""
        keys = ("columns", "types", "aggregation") if "columns" in weights.entry.preprocessing else ("heads", "serve")
        entry, said = weights.entry, Said(weights, *keys, "window", "overlap", "device")
        where, window = said.where, said.whole("window", WINDOW)
        self._columns = _columns(said) if "columns" in keys else None
        heads = heads_of(weights) if self._columns is None else {self._columns.head.name: self._columns.head}
        session = Session(weights, "model.onnx", threads=threads, device=said.text("device", "cpu"))
        session.require(inputs=["input_ids"], outputs=["logits"])
        width = self._columns.width if self._columns else sum(len(head.tags) for head in heads.values())
        if (found := session.width("logits")) not in (None, width):
            raise Fatal(f"{where}: the graph gives {found} scores a token, its label map names {width} tags")
        serve = said.raw.get("serve", list(heads))
        if not isinstance(serve, list | tuple) or not serve:
            raise said.wrong("serve", f"a list of heads: {list(heads)}")
        names = [str(name) for name in serve]
        if unknown := [name for name in names if name not in heads]:
            raise Fatal(f"{where}: preprocessing.serve names no head: {', '.join(unknown)}")

        def emit(ids: NDArray[np.int64]) -> Floats:
            feeds = {"input_ids": ids}
            if "attention_mask" in session.inputs:
                feeds["attention_mask"] = np.ones_like(ids)
            if "token_type_ids" in session.inputs:
                feeds["token_type_ids"] = np.zeros_like(ids)
            logits = session.run("logits", feeds)
            if logits.shape[-1] != width:
                raise Fatal(f"{where}: the graph gives {logits.shape[-1]} scores a token, its label map names {width} tags")
            return logits

        super().__init__(
            entry.identity,
            tokenizer_of(weights),
            emit,
            [heads[name] for name in names],
            thresholds=entry.thresholds,
            window=window,
            overlap=said.whole("overlap", min(OVERLAP, window // 4), least=0),
        )
        self.heads = heads  # of which `names` speak

    def _words(self, logits: Floats, firsts: NDArray[np.int64]) -> Floats:
        return super()._words(logits, firsts) if self._columns is None else self._columns.words(logits, firsts)


def _columns(said: Said) -> Columns:
    named = said.raw["columns"]
    if not isinstance(named, list | tuple) or not named:
        raise said.wrong("columns", "the label of each column, in their order")
    return Columns([str(one) for one in named], said.raw, said.where)


def load(weights: Weights, *, threads: int) -> OnnxTokenClassifier:
    """Open it, for the registry."""
    return OnnxTokenClassifier(weights, threads=threads)
