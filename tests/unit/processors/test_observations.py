"""A patient's observations over time: the hourly window against a plain oracle, the bounded history, the snapshot, the age."""

import random
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.tasks import ModelIdentity
from processors.deterioration import FEATURES, HOUR_MS, HOURS, HourlyWindow, deterioration_of, number
from processors.history import KEPT, History, Put
from processors.patients import adult_from, ms, when

MINUTE = 60_000
BASE = ms(datetime(2026, 11, 23, 8, 0, tzinfo=UTC))
OBSERVED = st.lists(
    st.tuples(st.sampled_from(FEATURES[:7]), st.integers(0, 40 * 60), st.sampled_from([50.0, 60.0, 70.0, 80.5])), max_size=60
)


def oracle(observed: list[tuple[str, int, float]], until: int) -> Any:
    """The window said plainly: for each hour and feature the last value of that hour; then the mean arterial pressure."""
    window = np.full((HOURS, len(FEATURES)), np.nan, np.float32)
    for row in range(HOURS):
        hour = until // HOUR_MS - (HOURS - 1 - row)
        for column, name in enumerate(FEATURES):
            inside = [(at, value) for one, at, value in observed if one == name and at // HOUR_MS == hour and at <= until]
            if inside:
                window[row, column] = max(inside, key=lambda pair: pair[0])[1]
        systolic, diastolic, mean = window[row, 4], window[row, 5], window[row, 6]
        if np.isnan(mean) and not np.isnan(systolic) and not np.isnan(diastolic):
            window[row, 6] = (float(systolic) + 2 * float(diastolic)) / 3
    return window


@given(OBSERVED)
def test_the_window_kept_up_and_the_window_built_anew_are_the_oracles(found: list[tuple[str, int, float]]) -> None:
    observed = [(name, BASE + minutes * MINUTE, value) for name, minutes, value in found]
    unique = {(name, at): value for name, at, value in observed}
    history, kept = History(), HourlyWindow()
    in_order = sorted((at, name, value) for (name, at), value in unique.items())
    for at, name, value in in_order:
        assert history.put(name, at, value, 0) is Put.NEW
        assert kept.put(name, at, value)
    if not in_order:
        assert kept.array() is None
        return
    until = in_order[-1][0]
    expected = oracle([(name, at, value) for (name, at), value in unique.items()], until)
    for window in (kept, HourlyWindow.of(history.entries, until)):
        np.testing.assert_array_equal(window.array(), expected)


@given(OBSERVED, st.randoms(use_true_random=False))
def test_the_order_of_arrival_does_not_matter_to_the_window(found: list[tuple[str, int, float]], rng: random.Random) -> None:
    unique = {(name, BASE + minutes * MINUTE): value for name, minutes, value in found if minutes < 20 * 60}
    if not unique:
        return
    until = max(at for _, at in unique)
    arrived = list(unique.items())
    rng.shuffle(arrived)
    history = History()
    for (name, at), value in arrived:
        assert history.put(name, at, value, 0) in (Put.NEW, Put.PAST)
    np.testing.assert_array_equal(
        HourlyWindow.of(history.entries, until).array(),
        oracle([(name, at, value) for (name, at), value in unique.items()], until),
    )


def test_the_window_ends_with_the_hour_of_the_newest_set() -> None:
    window = HourlyWindow()
    window.put("heart_rate", BASE, 70.0)
    window.put("heart_rate", BASE + 59 * MINUTE, 71.0)
    window.put("heart_rate", BASE + 60 * MINUTE, 72.0)
    array = window.array()
    assert array is not None
    assert array.shape == (24, 9)
    assert array.dtype == np.float32
    assert array[-2:, 0].tolist() == [71.0, 72.0]
    assert np.isnan(array[:-2]).all()
    array[:] = 0
    assert window.array()[-1, 0] == 72.0  # type: ignore[index]  # a copy


def test_what_the_model_sees_of_words() -> None:
    assert [number(value) for value in ("air", "oxygen", "A", "C", "V", "P", "U", 36.6)] == [0, 1, 0, 1, 1, 1, 1, 36.6]


def test_a_closed_hour_asks_for_a_new_window() -> None:
    window = HourlyWindow()
    window.put("heart_rate", BASE + 60 * MINUTE, 70.0)
    assert not window.put("spo2", BASE, 97.0)


# ------------------------------------------------------------------------------------------------------------ history


@given(st.lists(st.integers(0, 72 * 60), max_size=300))
def test_history_is_bounded_and_keeps_what_is_needed(minutes: list[int]) -> None:
    history = History()
    for minute in minutes:
        history.put("heart_rate", BASE + minute * MINUTE, 70.0 + minute, 0)
    entries = history.entries.get("heart_rate", [])
    assert len(entries) <= 33
    assert entries == sorted(entries)
    times = sorted({BASE + minute * MINUTE for minute in minutes})
    recent = [at for at in times[-KEPT:] if times[-1] - at < HOURS * HOUR_MS]
    assert {entry[0] for entry in entries} >= set(recent)


def test_within_an_hour_of_minutes_the_newest_few_and_the_last_of_each_hour_stay() -> None:
    history = History()
    for minute in range(200):
        history.put("heart_rate", BASE + minute * MINUTE, float(minute), 0)
    kept = [int(value) for _, value, _ in history.entries["heart_rate"]]
    assert {59, 119, 179} <= set(kept)
    assert kept[-KEPT:] == [196, 197, 198, 199]
    for minute in range(200, 200 + 32):
        history.put("heart_rate", BASE + minute * MINUTE, float(minute), 0)
        assert [value for _, value, _ in history.entries["heart_rate"]][-KEPT:] == [
            float(minute - back) for back in (3, 2, 1, 0)
        ]


def test_put_says_what_became_of_a_value() -> None:
    history = History()
    assert history.put("spo2", BASE, 97.0, 10) is Put.NEW
    assert history.put("spo2", BASE, 97.0, 20) is Put.SAME
    assert history.put("spo2", BASE, 96.0, 20) is Put.OUTRANKED
    assert history.put("spo2", BASE, 96.0, 20, correcting=True) is Put.CHANGED
    assert history.put("spo2", BASE, 95.0, 0) is Put.OUTRANKED  # a correction is replaced by corrections only
    assert history.put("spo2", BASE, 95.0, 20, correcting=True) is Put.CHANGED
    assert history.put("spo2", BASE - MINUTE, 94.0, 20) is Put.PAST
    assert history.entries["spo2"] == [(BASE - MINUTE, 94.0, 20), (BASE, 95.0, -1)]
    assert (history.latest("spo2", BASE - 1), history.latest("spo2", BASE - 2 * MINUTE)) == ((BASE - MINUTE, 94.0, 20), None)


def test_take_back() -> None:
    history = History()
    history.put("spo2", BASE, 97.0, 10)
    assert not history.remove("spo2", BASE + 1, None, 10)
    assert not history.remove("spo2", BASE, 60.0, 20)  # a lesser source's other value is not this one
    assert history.remove("spo2", BASE, 97.0, 20)
    assert (history.entries, history.newest) == ({}, None)
    assert history.put("spo2", BASE, 97.0, 10) is Put.TAKEN_BACK
    assert history.put("spo2", BASE, 96.0, 10) is Put.NEW
    assert history.put("spo2", BASE, 97.0, 10, correcting=True) is Put.CHANGED
    assert history.put("spo2", BASE, 97.0, 10) is Put.SAME


def test_what_is_taken_back_before_it_came_stays_away_and_the_memory_of_it_is_bounded() -> None:
    history = History()
    assert not history.remove("spo2", BASE, 60.0, 10)
    assert history.put("spo2", BASE, 60.0, 10) is Put.TAKEN_BACK
    for minute in range(100):
        history.remove("spo2", BASE + minute * MINUTE, 60.0, 10)
    assert len(history.gone["spo2"]) == 32


@pytest.mark.parametrize(
    ("minutes", "shown"),
    [
        ((0, 1), ()),  # two, and they span less than three take
        ((0, 1, 2), (0, 1, 2)),
        ((0, 1, 2, 3), (1, 2, 3)),
        ((0, 2), (0, 2)),
        ((0, 15), (0, 15)),
        ((0, 16), ()),
        ((0, 16, 17), ()),  # old ones say nothing about now
        ((0, 5, 4), ()),  # out of order
    ],
)
def test_which_samples_show_what_persists(minutes: tuple[int, ...], shown: tuple[int, ...]) -> None:
    history = History()
    for minute in minutes:
        got = history.sample("x", BASE + minute * MINUTE, 60.0, 0, samples=3, spacing=MINUTE, within=15 * MINUTE)
    assert tuple((at - BASE) // MINUTE for at, _, _ in got) == shown


def test_a_validated_value_answers_for_the_samples_up_to_its_time() -> None:
    history = History()
    for minute in (0, 2, 8):
        history.sample("x", BASE + minute * MINUTE, 97.0, 9, samples=3, spacing=MINUTE, within=15 * MINUTE)
    history.vouch("x", BASE + 4 * MINUTE, 80.0, 0)
    assert [value for _, value, _ in history.samples["x"]] == [80.0, 97.0]


# ---------------------------------------------------------------------------------------------------------------- age


@pytest.mark.parametrize(
    ("birth_date", "adult"),
    [
        ("2010-11-23", "2026-11-23"),
        ("2010-11", "2026-11-30"),
        ("2010", "2026-12-31"),
        ("2008-02-29", "2024-02-29"),
        ("2084-02-29", "2100-03-01"),
        ("2010-11-23T08:00:00", "2026-11-23"),
        *(
            (unusable, None)
            for unusable in (None, "", "unknown", "2010-13-01", "2010-02-30", "23.11.2010", "0010-01-01", "2010-11-23-1")
        ),
    ],
)
def test_when_somebody_is_certainly_sixteen(birth_date: str | None, adult: str | None) -> None:
    at = adult_from(birth_date)
    assert (None if at is None else when(at).date().isoformat()) == adult


@given(st.datetimes(datetime(1900, 1, 1), datetime(2100, 1, 1), timezones=st.just(UTC)))
def test_milliseconds_there_and_back(time: datetime) -> None:
    assert when(ms(time)) == time.replace(microsecond=time.microsecond // 1000 * 1000)


# --------------------------------------------------------------------------------------------------------- the answer


def test_the_models_answer_is_rounded_and_names_its_strongest_drivers() -> None:
    identity = ModelIdentity("lstm", "2", "a" * 64)
    made = deterioration_of(float(np.float32(0.123456)), [0.1, -0.5, 0.00001, 0.3, 0, 0, 0, 0.2, 0], identity, 24)
    assert made.probability == 0.1235
    assert [(one.name, one.effect) for one in made.drivers] == [
        ("respiratory_rate", -0.5),
        ("temperature", 0.3),
        ("oxygen", 0.2),
    ]
    assert (made.model.name, made.model.version, made.model.digest, made.horizon_hours) == ("lstm", "2", "a" * 64, 24)
    assert deterioration_of(0.5, None, identity, 24).drivers == ()
