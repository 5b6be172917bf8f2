"""Ranking measures against their definitions, intervals against what they promise."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.evaluation.measures import Bootstrap, auroc, average_precision, calibration, calibration_error, wilson

Rows = st.lists(st.tuples(st.booleans(), st.integers(0, 6)), min_size=2, max_size=60).filter(
    lambda rows: 0 < sum(positive for positive, _ in rows) < len(rows)
)


@settings(max_examples=200)
@given(rows=Rows)
def test_auroc_is_the_chance_that_a_positive_outranks_a_negative(rows: list[tuple[bool, int]]) -> None:
    labels, scores = np.array([row[0] for row in rows]), np.array([row[1] for row in rows], float)
    pairs = [(p > n) + 0.5 * (p == n) for p in scores[labels] for n in scores[~labels]]
    assert auroc(labels, scores) == pytest.approx(np.mean(pairs))


@settings(max_examples=200)
@given(rows=Rows)
def test_average_precision_sums_the_steps(rows: list[tuple[bool, int]]) -> None:
    labels, scores = np.array([row[0] for row in rows]), np.array([row[1] for row in rows], float)
    expected, before = 0.0, 0.0
    for threshold in sorted(set(scores), reverse=True):
        flagged = scores >= threshold
        recall = labels[flagged].sum() / labels.sum()
        expected += (recall - before) * labels[flagged].mean()
        before = recall
    assert average_precision(labels, scores) == pytest.approx(expected)


def test_one_class_has_no_ranking() -> None:
    assert np.isnan(auroc(np.ones(3), np.arange(3.0)))
    assert np.isnan(average_precision(np.zeros(3), np.arange(3.0)))


def test_weights_of_the_bootstrap_are_repeats_of_patients() -> None:
    groups = np.array([0, 0, 1, 2, 2, 2])
    bootstrap = Bootstrap(groups, rounds=300, seed=1)
    value, drawn = bootstrap.over(lambda weights: float(weights.sum()))
    assert value == 6
    assert drawn.mean() == pytest.approx(6, abs=0.3)
    _, first = bootstrap.over(lambda weights: float(weights[0] - weights[1]))
    assert not first.any()  # a patient's rows come and go together


def test_intervals_hold_the_value_and_widen_with_fewer_patients() -> None:
    random = np.random.default_rng(0)
    widths = []
    for patients in (50, 800):
        groups = np.repeat(np.arange(patients), 5)
        labels = np.repeat(random.random(patients) < 0.3, 5).astype(float)
        scores = labels + random.normal(0, 1.5, len(labels))
        found = Bootstrap(groups, rounds=400).ranking(labels, {"model": scores, "chance": random.random(len(labels))})
        area = found["AUROC"]
        assert area.low < area.value < area.high
        assert area.n == patients
        difference = area.baselines["chance"].baselines["difference"]
        assert difference.value == pytest.approx(area.value - area.baselines["chance"].value)
        widths.append(area.high - area.low)
    assert widths[1] < widths[0] / 2


def test_the_same_score_differs_from_itself_by_nothing() -> None:
    random = np.random.default_rng(0)
    scores = random.random(100)
    found = Bootstrap(np.arange(100)).ranking(scores > random.random(100), {"model": scores, "twin": scores.copy()})
    difference = found["AUPRC"].baselines["twin"].baselines["difference"]
    assert (difference.low, difference.value, difference.high) == (0, 0, 0)


def test_calibration_of_a_perfect_and_of_a_shifted_score() -> None:
    random = np.random.default_rng(0)
    chance = random.random(20_000) * 0.5
    labels = random.random(20_000) < chance
    assert calibration_error(labels, chance) < 0.02
    assert calibration_error(labels, chance + 0.2) == pytest.approx(0.2, abs=0.02)
    bins = calibration(labels, chance, bins=7)
    assert sum(rows for *_, rows in bins) == 20_000
    assert [mean for mean, *_ in bins] == sorted(mean for mean, *_ in bins)


def test_no_interval_looks_surer_than_its_numbers() -> None:
    three = Bootstrap(np.arange(3)).ranking(np.array([0, 1, 1]), {"model": np.array([0.1, 0.8, 0.9]), "other": np.arange(3.0)})
    assert three["AUROC"].value == 1.0
    assert np.isnan([three["AUROC"].low, three["AUROC"].baselines["other"].baselines["difference"].high]).all()
    assert str(three["AUROC"]) == "1.000 (too few for an interval)"
    labels = np.array([1] * 4 + [0] * 36)  # forty patients, of whom four could say anything of the positives
    assert np.isnan(Bootstrap(np.arange(40)).ranking(labels, {"model": np.random.default_rng(0).random(40)})["AUROC"].low)
    always = Bootstrap(np.arange(30)).metric("recall@1", lambda weights: float((weights * 1.0).sum() / weights.sum()))
    assert np.isnan(always.low)
    assert str(always) == "1.000 (no interval)"
    assert np.isnan(wilson(0, 0)).all()
    low, high = wilson(1, 1)
    assert (low, high) == (pytest.approx(0.2065, abs=1e-3), 1.0)
