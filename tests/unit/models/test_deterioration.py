"""The deterioration runtime with the weights that ship: bits, garbage, explanations."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.errors import Fatal, Poison
from models.registry import Registry
from models.runtimes.deterioration import (
    BLOCK,
    FEATURES,
    HOURS,
    INPUTS,
    VITALS,
    OnnxDeterioration,
    Scaling,
    attribute_steps,
    encode,
)
from models.runtimes.onnx import Session
from models.tasks import DeteriorationModel, Floats, ModelIdentity
from processors.deterioration import drivers_by_hour

NORMAL = np.array([72, 15, 98, 36.8, 124, 72, 89, 0, 0], np.float32)
SICK = np.array([138, 31, 87, 39.4, 84, 44, 57, 1, 1], np.float32)


@pytest.fixture(scope="module")
def model() -> DeteriorationModel:
    return Registry.load().open("deterioration")


def window(*rows: Floats, hours: int = HOURS) -> Floats:
    """Newest last, nothing known before."""
    empty = np.full((hours, len(FEATURES)), np.nan, np.float32)
    if rows:
        empty[-len(rows) :] = np.stack(rows)
    return empty


def ward(count: int, seed: int) -> Floats:
    random = np.random.default_rng(seed)
    sick = random.random((count, 1, 1))
    values = NORMAL + sick * (SICK - NORMAL) + random.normal(0, 3, (count, HOURS, len(FEATURES)))
    values[:, :, VITALS:] = random.random((count, HOURS, 2)) < sick * 0.5
    values[random.random(values.shape) < random.choice([0.1, 0.6, 0.95], (count, 1, 1))] = np.nan
    return values.astype(np.float32)


POOL = ward(400, seed=1)


@pytest.fixture(scope="module")
def alone(model: DeteriorationModel) -> Floats:
    return np.concatenate([model.score(POOL[at : at + 1]) for at in range(len(POOL))])


@settings(deadline=None, max_examples=60)
@given(chosen=st.lists(st.integers(0, len(POOL) - 1), min_size=1, max_size=3 * BLOCK + 1))
def test_a_score_is_the_same_bits_in_any_company(model: DeteriorationModel, alone: Floats, chosen: list[int]) -> None:
    together = model.score(POOL[chosen])
    assert together.tobytes() == alone[chosen].tobytes()


def test_a_score_is_the_same_bits_across_pieces(model: DeteriorationModel, alone: Floats) -> None:
    chosen = np.random.default_rng(2).integers(0, len(POOL), 5000)
    assert model.score(POOL[chosen]).tobytes() == alone[chosen].tobytes()


@settings(deadline=None, max_examples=15)
@given(chosen=st.lists(st.integers(0, len(POOL) - 1), min_size=1, max_size=40))
def test_an_attribution_is_the_same_bits_in_any_company(model: DeteriorationModel, chosen: list[int]) -> None:
    together = model.attribute(POOL[chosen])
    assert together[-1:].tobytes() == model.attribute(POOL[chosen[-1:]]).tobytes()


def test_it_fills_in_the_protocol_and_leaves_its_input_alone(model: DeteriorationModel) -> None:
    before = POOL.copy()
    scores = model.score(POOL)
    model.attribute(POOL[:10])
    assert (model.hours, model.features, model.horizon_hours) == (HOURS, FEATURES, 6)
    assert scores.dtype == np.float32
    assert scores.shape == (len(POOL),)
    assert np.all((scores >= 0) & (scores <= 1))
    assert np.array_equal(before, POOL, equal_nan=True)
    assert model.score(POOL[:0]).shape == (0,)
    assert model.attribute(POOL[:0]).shape == (0, len(FEATURES))


def test_a_sick_patient_scores_far_above_a_well_one(model: DeteriorationModel) -> None:
    well, ill = window(*[NORMAL] * 8), window(*[NORMAL] * 4, *[SICK] * 4)
    scores = model.score(np.stack([well, ill]))
    assert scores[0] < 0.02
    assert scores[1] > 3 * scores[0]


def test_recording_air_and_alert_is_not_itself_alarming(model: DeteriorationModel) -> None:
    full = window(*[NORMAL] * HOURS)
    unrecorded = full.copy()
    unrecorded[:, VITALS:] = np.nan
    assert model.score(full[None]) == model.score(unrecorded[None])


def test_attribution_is_what_the_score_loses_without_the_feature(model: DeteriorationModel) -> None:
    windows = POOL[:50]
    effects, base = model.attribute(windows), model.score(windows)
    for feature in range(len(FEATURES)):
        without = windows.copy()
        without[:, :, feature] = np.nan
        assert np.array_equal(effects[:, feature], base - model.score(without))


def test_what_was_never_measured_drove_nothing(model: DeteriorationModel) -> None:
    windows = POOL[:50].copy()
    windows[:, :, 3] = np.nan
    assert not model.attribute(windows)[:, 3].any()


def test_a_values_effect_is_what_the_score_loses_without_it(model: DeteriorationModel) -> None:
    windows = POOL[:5]
    effects, base = attribute_steps(model.score, windows), model.score(windows)
    assert (effects.shape, bool(effects[np.isnan(windows)].any())) == (windows.shape, False)
    for row, hour, feature in np.argwhere(~np.isnan(windows))[::7].tolist():
        without = windows[row : row + 1].copy()
        without[0, hour, feature] = np.nan
        assert effects[row, hour, feature] == base[row] - model.score(without)[0]
    one = drivers_by_hour(model, windows[0])
    strongest = one[0]
    assert abs(strongest.effect) == np.abs(effects[0]).max()
    at = HOURS - 1 - strongest.hours_ago, FEATURES.index(strongest.name)
    assert (strongest.value, strongest.effect) == (windows[0][at], effects[0][at])


def test_values_that_drove_a_score_matter_more_together_than_others(model: DeteriorationModel) -> None:
    """Faithful by deletion: each effect is of one value alone, so taking several together is a test of it."""
    windows = POOL[np.argsort(-model.score(POOL))[:60]]
    effects, base = attribute_steps(model.score, windows), model.score(windows)
    drawn = np.random.default_rng(3).random(windows.shape)
    falls = []
    for order in (effects, drawn):
        rank = np.where(np.isnan(windows), -np.inf, order).reshape(len(windows), -1)
        without = windows.copy()
        np.put_along_axis(without.reshape(len(windows), -1), np.argsort(-rank, axis=1)[:, :5], np.nan, axis=1)
        falls.append(float(((base - model.score(without)) / base).mean()))
    drivers, chance = falls
    assert drivers > 0.2 and drivers > 3 * abs(chance)


@pytest.mark.parametrize("shape", [(HOURS, 9), (1, HOURS - 1, 9), (1, HOURS, 8), (1, HOURS, 9, 1)])
def test_a_wrong_shape_is_poison(model: DeteriorationModel, shape: tuple[int, ...]) -> None:
    with pytest.raises(Poison, match="shape"):
        model.score(np.zeros(shape, np.float32))


@pytest.mark.parametrize("value", [np.inf, -np.inf])
def test_infinity_is_poison_not_a_number_to_clip(model: DeteriorationModel, value: float) -> None:
    windows = POOL[:3].copy()
    windows[1, 5, 0] = value
    with pytest.raises(Poison, match="infinite"):
        model.score(windows)


def test_extreme_but_finite_values_still_score(model: DeteriorationModel) -> None:
    scores = model.score(np.stack([window(np.full(9, 1e30, np.float32)), window(np.full(9, -1e30, np.float32))]))
    assert np.all(np.isfinite(scores))


def test_twice_the_precision_is_taken_as_it_is(model: DeteriorationModel) -> None:
    assert model.score(POOL[:5].astype(np.float64)).tobytes() == model.score(POOL[:5]).tobytes()


class Whole:
    """The same graph run over whole windows, as one without states."""

    inputs = ("x",)

    def __init__(self, network: Any) -> None:
        self._network = network

    def run(self, output: str, feeds: Mapping[str, Any]) -> Floats:
        zero = np.zeros((1, feeds["x"].shape[1], self._network.width("hidden_out")), np.float32)
        answer: Floats = self._network.run(output, {**feeds, "hidden": zero, "cell": zero})
        return answer

    def run_for(self, outputs: Sequence[str], feeds: Mapping[str, Any]) -> list[Floats]:
        return [self.run(output, feeds) for output in outputs]

    def width(self, output: str) -> int | None:
        return None


@pytest.fixture
def whole() -> OnnxDeterioration:
    weights = Registry.load().weights("deterioration")
    scaling = Scaling.from_json(weights.path("scaling.json").read_text())
    return OnnxDeterioration(Whole(Session(weights, "model.onnx", threads=1)), scaling, weights.identity)


def test_a_kept_past_gives_the_bits_of_the_whole_window(model: DeteriorationModel, whole: OnnxDeterioration) -> None:
    windows = ward(1000, seed=3)
    for newest in (windows[:, -1], SICK, np.full(len(FEATURES), np.nan, np.float32)):  # as an hour goes on
        windows[:, -1] = newest
        expected = whole.score(windows).tobytes()
        assert model.score(windows).tobytes() == expected
        assert model.score(windows).tobytes() == expected
    windows[:, 0] = NORMAL  # another past
    assert model.score(windows).tobytes() == whole.score(windows).tobytes()


class Counted:
    """The shipped graph, with a note of the hours that each run went over."""

    def __init__(self, network: Session) -> None:
        self.inputs, self.width, self.hours = network.inputs, network.width, list[int]()
        self._network = network

    def run(self, output: str, feeds: Mapping[str, Any]) -> Floats:
        return self.run_for((output,), feeds)[0]

    def run_for(self, outputs: Sequence[str], feeds: Mapping[str, Any]) -> list[Floats]:
        self.hours.append(feeds["x"].shape[0])
        return self._network.run_for(outputs, feeds)


def counted(kept: int) -> tuple[OnnxDeterioration, Counted]:
    weights = Registry.load().weights("deterioration")
    scaling = Scaling.from_json(weights.path("scaling.json").read_text())
    network = Counted(Session(weights, "model.onnx", threads=1))
    return OnnxDeterioration(network, scaling, weights.identity, kept=kept), network


def test_a_set_within_the_hour_costs_one_step_of_the_network() -> None:
    model, network = counted(kept=8)
    one = ward(1, seed=4)
    for _ in range(3):
        model.score(one)
        one[:, -1, 0] += 1
    assert network.hours == [HOURS - 1, 1, 1, 1]


def test_pasts_are_kept_within_a_bound(whole: OnnxDeterioration) -> None:
    small, network = counted(kept=50)
    for seed in (6, 7):
        chosen = POOL[np.random.default_rng(seed).integers(0, 120, 500)]
        assert small.score(chosen).tobytes() == whole.score(chosen).tobytes()
    assert small._past is not None and 0 < len(small._past._slots) <= 50
    assert HOURS - 1 in network.hours


SCALING = Scaling(FEATURES, (80.0,) * 7 + (0.0, 0.0), (10.0,) * 7 + (1.0, 1.0), HOURS, 6)


def test_encoding_carries_values_forward_and_counts_the_hours() -> None:
    values = window()
    values[-3, 0] = 90
    encoded = encode(values[None], SCALING)[:, 0]
    assert encoded.shape == (HOURS, INPUTS)
    last, measured, since = encoded[:, 0], encoded[:, len(FEATURES)], encoded[:, len(FEATURES) + VITALS]
    assert last[:-3].tolist() == [0] * (HOURS - 3)
    assert last[-3:].tolist() == [1, 1, 1]
    assert measured.nonzero()[0].tolist() == [HOURS - 3]
    assert since[:-3].tolist() == [1] * (HOURS - 3)
    assert since[-3:] * HOURS == pytest.approx([0, 1, 2])


def test_scaling_survives_its_file_and_refuses_garbage() -> None:
    assert Scaling.from_json(SCALING.to_json()) == SCALING
    for text in ("", "{}", "[]", '{"features": 3}'):
        with pytest.raises(Fatal, match=r"scaling\.json"):
            Scaling.from_json(text)


def test_a_network_that_answers_nonsense_is_not_passed_on() -> None:
    class Broken(Whole):
        def run(self, output: str, feeds: object) -> Floats:
            raise Poison("not finite", stage="model")

    broken = OnnxDeterioration(Broken(None), SCALING, ModelIdentity("broken", "0", "0"))
    with pytest.raises(Poison):
        broken.score(POOL[:1])
