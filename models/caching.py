"""Answers of one model to inputs that it has seen, in memory: bounded in number and age, found by the input's digest.

A cache belongs to one open model and goes with it, so an answer never crosses models. It holds digests and answers, never an input.
Only a model whose answer depends on its input alone may have one; a vital sign's window never comes twice, so vitals have none.
"""

import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from hashlib import sha256
from typing import Any, Generic, TypeVar

O = TypeVar("O")  # noqa: E741 - result out


def text_key(text: str) -> bytes:
    """Return the digest that a text is found by."""
    return sha256(text.encode("utf-8", "surrogatepass")).digest()


class PredictionCache(Generic[O]):
    """The last `items` answers, each for `seconds`; the one unused for longest goes first."""

    def __init__(
        self,
        *,
        items: int,
        seconds: float,
        key: Callable[[Any], bytes] = text_key,
        observe: Callable[[int, int], None] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`observe(hits, misses)` is told of each look-up; an input that stands twice in one is a hit the second time."""
        self._items, self._seconds = items, seconds
        self._key, self._observe, self._clock = key, observe, clock
        self._known: OrderedDict[bytes, tuple[float, O]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._known)

    def split(self, asked: Sequence[Any]) -> "Lookup[O]":
        """Look the inputs up: what is known, and what is to be asked, each input once."""
        now = self._clock()
        keys = [self._key(item) for item in asked]
        known: dict[bytes, O] = {}
        missing: dict[bytes, Any] = {}
        for key, item in zip(keys, asked, strict=True):
            found = self._known.get(key)
            if found is not None and now - found[0] < self._seconds:
                self._known.move_to_end(key)
                known[key] = found[1]
            else:
                missing[key] = item
        if self._observe and asked:
            self._observe(len(keys) - len(missing), len(missing))
        return Lookup(self, keys, known, list(missing), list(missing.values()))

    def put(self, key: bytes, answer: O) -> None:
        """Remember an answer."""
        self._known[key] = (self._clock(), answer)
        self._known.move_to_end(key)
        while len(self._known) > self._items:
            self._known.popitem(last=False)


class Lookup(Generic[O]):
    """One look-up: `missing` is to be asked of the model, `answers` puts both together in the order asked."""

    def __init__(
        self, cache: PredictionCache[O], keys: Sequence[bytes], known: dict[bytes, O], of: Sequence[bytes], missing: list[Any]
    ) -> None:
        self._cache, self._keys, self._known, self._of = cache, keys, known, of
        self.missing = missing

    def answers(self, found: Sequence[Any]) -> list[Any]:
        """Take the model's answers to `missing`; errors among them are passed on and not remembered."""
        for key, answer in zip(self._of, found, strict=True):
            if not isinstance(answer, Exception):
                self._cache.put(key, answer)
        every = {**self._known, **dict(zip(self._of, found, strict=True))}
        return [every[key] for key in self._keys]
