"""How far apart two models' answers are."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.tasks import Span
from processors.comparing import labels_apart, spans_apart, vectors_apart

SPANS = st.lists(st.builds(lambda label, start: Span(label, start, start + 3, 0.9), st.sampled_from("ab"), st.integers(0, 5)))


@given(SPANS, SPANS)
def test_spans_are_apart_from_none_to_all_and_both_ways_alike(one: list[Span], other: list[Span]) -> None:
    apart = spans_apart(one, other)
    assert 0 <= apart <= 1
    assert apart == spans_apart(other, one)
    assert (apart == 0) == ({(s.label, s.start) for s in one} == {(s.label, s.start) for s in other})


def test_a_span_agrees_by_label_and_both_ends_whatever_its_score() -> None:
    span = Span("symptom", 2, 7, 0.9)
    assert spans_apart([span], [Span("symptom", 2, 7, 0.5)]) == 0
    assert spans_apart([span], [Span("symptom", 2, 8, 0.9)]) == spans_apart([span], [Span("test", 2, 7, 0.9)]) == 1
    assert spans_apart([span, Span("test", 9, 12, 1)], [span]) == pytest.approx(1 / 3)


def test_labels_and_vectors() -> None:
    assert labels_apart([], []) == 0
    assert labels_apart(["a", "b"], ["b", "c"]) == pytest.approx(2 / 3)
    one, other = np.array([1, 0], np.float32), np.array([0.6, 0.8], np.float32)
    assert vectors_apart(one, one) == 0
    assert vectors_apart(one, other) == pytest.approx(0.4)
    assert vectors_apart(one, -one) == 1
    assert vectors_apart(one, np.ones(3, np.float32)) is None
