"""From scores to spans: BIO's rules hold whatever the scores, and a span's score is its probability."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from models.runtimes.tagging import Head, decode, softmax

TAGS = ("O", "B-x", "I-x", "B-y", "I-y")


def logits(*words: str, strength: float = 12.0) -> np.ndarray:
    made = np.zeros((len(words), len(TAGS)), dtype=np.float32)
    for row, tag in enumerate(words):
        made[row, TAGS.index(tag)] = strength
    return made


def spans(scores: np.ndarray) -> list[tuple[str, int, int]]:
    return [(s.kind, s.first, s.last) for s in decode(scores, TAGS)]


def test_spans_are_read_off() -> None:
    assert spans(logits("O", "B-x", "I-x", "O", "B-y", "B-y", "I-y")) == [("x", 1, 2), ("y", 4, 4), ("y", 5, 6)]
    assert spans(logits("O", "O")) == []
    assert decode(np.zeros((0, 5), dtype=np.float32), TAGS) == []


def test_an_inside_without_a_beginning_becomes_the_likeliest_legal_path() -> None:
    scores = logits("O", "I-x", "I-x", "O")
    scores[1, TAGS.index("B-x")] = 11.0  # all but as likely as the illegal tag
    assert spans(scores) == [("x", 1, 2)]


def test_types_do_not_mix_within_a_span() -> None:
    assert all(kind in "xy" and first <= last for kind, first, last in spans(logits("B-x", "I-y", "I-x", "I-y")))


def test_the_score_is_the_probability_of_exactly_that_span() -> None:
    scores = np.log(
        np.array([[0.1, 0.8, 0.05, 0.03, 0.02], [0.2, 0.05, 0.7, 0.03, 0.02], [0.6, 0.05, 0.3, 0.03, 0.02]], dtype=np.float32)
    )
    (span,) = decode(scores, TAGS)
    assert (span.first, span.last) == (0, 1)
    assert span.score == pytest.approx(0.8 * 0.7 * (1 - 0.3), abs=1e-5)


@given(hnp.arrays(np.float32, st.tuples(st.integers(0, 12), st.just(5)), elements=st.floats(-30, 30, width=32)))
def test_whatever_the_scores_spans_are_ordered_apart_and_scored(scores: np.ndarray) -> None:
    found = decode(scores, TAGS)
    assert all(0 <= s.first <= s.last < len(scores) and 0.0 <= s.score <= 1.0 for s in found)
    assert all(a.last < b.first for a, b in itertools.pairwise(found))


@given(hnp.arrays(np.float32, st.tuples(st.integers(1, 5), st.just(3)), elements=st.floats(-4, 4, width=32)))
def test_the_path_is_the_best_legal_one(scores: np.ndarray) -> None:
    tags = ("O", "B-x", "I-x")
    log = np.log(softmax(scores) + 1e-12)
    legal = [
        path
        for path in itertools.product(range(3), repeat=len(scores))
        if all(tag != 2 or (i and path[i - 1] in (1, 2)) for i, tag in enumerate(path))
    ]
    best = max(sum(log[i, tag] for i, tag in enumerate(path)) for path in legal)
    found = [0] * len(scores)
    for span in decode(scores, tags):
        found[span.first : span.last + 1] = [1] + [2] * (span.last - span.first)
    assert sum(log[i, tag] for i, tag in enumerate(found)) == pytest.approx(best, abs=1e-4)


@pytest.mark.parametrize(
    ("tags", "says"),
    [
        (("B-x", "I-x"), "exactly one tag must be O"),
        (("O", "O", "B-x"), "exactly one"),
        (("O", "LABEL_1"), "no BIO tag"),
        (("O", "B-"), "no BIO tag"),
        (("O", "I-x"), "no B- tag"),
    ],
)
def test_a_label_map_that_is_no_bio_is_told(tags: tuple[str, ...], says: str) -> None:
    assert says in (Head("h", tags).problem() or "")


def test_a_head_renames_and_leaves_out() -> None:
    head = Head("h", TAGS, types={"x": "condition"})
    assert head.labels == ("condition",)
    assert head.label("y") is None
    assert Head("h", TAGS).labels == ("x", "y")
    assert Head("h", TAGS, first=3).columns == slice(3, 8)
    assert Head("h", TAGS).problem() is None
