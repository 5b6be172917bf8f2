"""The prediction cache: answers by input digest, bounded in number and age, errors and inputs never kept."""

from collections.abc import Sequence
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from models.caching import PredictionCache, text_key
from models.errors import Poison


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def ask(cache: PredictionCache[Any], texts: Sequence[str], asked: list[str]) -> list[Any]:
    """A model that answers with the text in capitals, and fails at a question mark; `asked` is what it was asked."""
    lookup = cache.split(texts)
    asked += lookup.missing
    return lookup.answers([Poison("no") if "?" in text else text.upper() for text in lookup.missing])


@given(st.lists(st.lists(st.text("abc", max_size=2), max_size=8), max_size=8), st.integers(1, 4))
def test_answers_are_those_of_the_model_in_order_and_never_more_are_kept_than_said(
    batches: list[list[str]], items: int
) -> None:
    asked: list[str] = []
    cache: PredictionCache[Any] = PredictionCache(items=items, seconds=10)
    for batch in batches:
        before = len(asked)
        assert ask(cache, batch, asked) == [text.upper() for text in batch]
        assert len(set(asked[before:])) == len(asked[before:]), "each text once"
        assert len(cache) <= items


def test_what_is_known_is_not_asked_again_until_its_time_is_over() -> None:
    clock, counts, asked = Clock(), [], []
    cache: PredictionCache[Any] = PredictionCache(items=9, seconds=10, clock=clock, observe=lambda *seen: counts.append(seen))
    assert ask(cache, ["a", "b", "a"], asked) == ["A", "B", "A"]
    clock.now = 9.9
    ask(cache, ["b", "c"], asked)
    clock.now = 10.1
    ask(cache, ["a", "c"], asked)
    assert asked == ["a", "b", "c", "a"]
    assert counts == [(1, 2), (1, 1), (1, 1)]


def test_an_error_is_passed_on_and_asked_again_and_no_text_is_kept() -> None:
    asked: list[str] = []
    cache: PredictionCache[Any] = PredictionCache(items=9, seconds=10)
    for _ in range(2):
        (answer,) = ask(cache, ["why?"], asked)
        assert isinstance(answer, Poison)
    assert asked == ["why?", "why?"]
    ask(cache, ["secret"], asked)
    assert list(cache._known) == [text_key("secret")]


def test_the_one_unused_for_longest_goes_first() -> None:
    asked: list[str] = []
    cache: PredictionCache[Any] = PredictionCache(items=2, seconds=10)
    for texts in (["a"], ["b"], ["a"], ["c"], ["a"], ["b"]):
        ask(cache, texts, asked)
    assert asked == ["a", "b", "c", "b"]
