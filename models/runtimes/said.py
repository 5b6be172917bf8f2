"""What an entry says under `[model.preprocessing]`, read key by key.

A key that the runtime does not know, or a value that is none of its kind, is refused by its name: passed over, a misspelt `window`
would leave the default in its place without a word.
"""

from collections.abc import Mapping
from typing import Any

from models.errors import Fatal
from models.registry import Weights, nearest


class Said:
    """The table of one entry. `keys` are all that its runtime knows."""

    def __init__(self, weights: Weights, *keys: str) -> None:
        """Raise `Fatal` for a key that is none of these."""
        self.where = f"model {weights.entry.name} {weights.entry.version}"
        self.raw: Mapping[str, Any] = weights.entry.preprocessing
        if strange := sorted(self.raw.keys() - set(keys)):
            raise Fatal(
                f"{self.where}: preprocessing.{strange[0]}: the runtime {weights.entry.runtime} knows no such key",
                hint=nearest(strange[0], keys),
            )

    def whole(self, key: str, default: int, *, least: int = 1) -> int:
        """Return a whole number of at least `least`. Raises `Fatal` for anything else."""
        value = self.raw.get(key, default)
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise self.wrong(key, f"a whole number of at least {least}")
        return value

    def text(self, key: str, default: str) -> str:
        """Return words. Raises `Fatal` for anything else."""
        value = self.raw.get(key, default)
        if not isinstance(value, str) or not value:
            raise self.wrong(key, f"words, {default!r} say" if default else "words")
        return value

    def wrong(self, key: str, needs: str) -> Fatal:
        """Return the error that says what a key has and what it may be."""
        found = f"is {self.raw[key]!r}" if key in self.raw else "is not there"
        return Fatal(f"{self.where}: preprocessing.{key} {found}", hint=f"it is to be {needs}")
