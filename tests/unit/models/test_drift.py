"""Drift against a reference: nothing where nothing changed, an alarm once where it did, counts only."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.drift import (
    FEWEST,
    SHIFTED,
    STABLE,
    Drift,
    Figures,
    Reference,
    labels_in,
    measured,
    of_images,
    of_notes,
    of_texts,
    of_windows,
    places,
    psi,
)
from models.errors import Permanent
from models.registry import ModelEntry, Registry
from models.tasks import DeteriorationModel, ImageTextModel, Span, TextEmbedder, TokenClassifier

COUNTS = st.integers(2, 12).flatmap(lambda bins: st.tuples(*[st.lists(st.integers(0, 500), min_size=bins, max_size=bins)] * 2))


def normal(n: int, mean: float = 0.0, seed: int = 1, missing: float = 0.0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.where(rng.random(n) < missing, np.nan, rng.normal(mean, 1, n))


@given(COUNTS)
def test_the_index_is_never_negative_the_same_both_ways_and_nothing_for_the_same(counts: tuple[list[int], list[int]]) -> None:
    then, now = counts
    assert psi(then, now) >= -1e-12
    assert psi(then, now) == pytest.approx(psi(now, then), abs=1e-9)
    assert psi(then, then) == 0


def test_the_index_is_as_its_formula_says() -> None:
    # half and half against 9 to 1, so many that smoothing does not matter: .4 ln 1.8 + .4 ln 5
    assert psi([500_000, 500_000], [900_000, 100_000]) == pytest.approx(0.4 * np.log(1.8) + 0.4 * np.log(5), abs=1e-4)


def watched(reference: Reference, window: int = 500) -> tuple[Drift, dict[str, tuple[float, float]], list[str]]:
    shown: dict[str, tuple[float, float]] = {}
    alarms: list[str] = []
    drift = Drift(
        reference,
        window=window,
        publish=lambda name, index, missing: shown.update({name: (index, missing)}),
        alarm=lambda name, index: alarms.append(name),
    )
    return drift, shown, alarms


def test_what_did_not_change_is_stable_and_what_did_alarms_once_until_it_is_stable_again() -> None:
    reference = measured({"a": normal(4000), "b": normal(4000, seed=2, missing=0.1)}, "a test")
    drift, shown, alarms = watched(reference)
    for seed in range(10, 15):  # in pieces, as batches come
        drift.observe({"a": normal(100, seed=seed), "b": normal(100, seed=seed + 50, missing=0.1), "unknown": normal(100)})
    assert set(shown) == {"a", "b"} and all(index < STABLE for index, _ in shown.values())
    assert alarms == []
    for seed in (20, 21):
        drift.observe({"a": normal(500, mean=1, seed=seed), "b": normal(500, seed=seed, missing=0.6)})
    assert shown["a"][0] > SHIFTED and shown["b"][0] > SHIFTED
    assert shown["b"][1] == pytest.approx(0.6, abs=0.1)
    assert sorted(alarms) == ["a", "b"]
    drift.observe({"a": normal(500, seed=30), "b": normal(500, seed=31, missing=0.1)})
    drift.observe({"a": normal(500, mean=1, seed=32), "b": normal(500, seed=33, missing=0.1)})
    assert sorted(alarms) == ["a", "a", "b"]


def test_a_reference_is_read_as_it_was_written_and_holds_counts_alone(tmp_path: Path) -> None:
    made = measured({"characters": normal(200, mean=50, missing=0.2)}, "200 notes")
    path = tmp_path / "drift" / "a.json"
    made.write(path)
    assert Reference.read(path) == made
    assert sum(made.figures["characters"].counts) == 200
    body = json.loads(path.read_text())
    body["figures"]["characters"]["counts"].pop()
    path.write_text(json.dumps(body))
    with pytest.raises(Permanent, match="no reference"):
        Reference.read(path)
    with pytest.raises(Permanent, match="99 observations"):
        measured({"a": normal(99)}, "few")


def test_a_figure_of_one_value_and_one_never_there() -> None:
    figures: Figures = {"same": np.full(100, 3.0), "never": np.full(100, np.nan)}
    drift, shown, alarms = watched(measured(figures, "odd"), window=100)
    drift.observe(figures)
    assert alarms == [] and shown["same"][0] < 0.01 and shown["never"] == (pytest.approx(0, abs=0.01), 1.0)
    for other in (4.0, 2.0):
        drift.observe({"same": np.full(100, other), "never": np.full(100, 1.0)})
        assert shown["same"][0] > SHIFTED, "more of it and less of it"
    assert alarms == ["same", "never"]


def test_figures_of_notes_and_windows() -> None:
    spans = [[Span("symptom", 0, 5, 0.8), Span("test", 6, 9, 0.6)], []]
    figures = of_notes(["x" * 500, ""], spans, ["symptom"])
    assert figures["characters"].tolist() == [500, 1]
    assert figures["entities"].tolist() == [4, 0]
    assert figures["entities: symptom"].tolist() == [2, 0]
    assert figures["mean score"][0] == pytest.approx(0.7) and np.isnan(figures["mean score"][1])
    windows = np.array([[[1, np.nan], [2, np.nan], [np.nan, np.nan]]], np.float32)
    found = of_windows(windows, ["pulse", "pressure"], np.array([0.25], np.float32))
    assert found["pulse"].tolist() == [2] and np.isnan(found["pressure"][0]) and found["score"].tolist() == [0.25]


def test_vectors_that_move_show_and_those_that_do_not_are_stable() -> None:
    def passages(n: int, centre: int, seed: int) -> Figures:
        vectors = np.random.default_rng(seed).normal(0, 1, (n, 384))
        vectors[:, centre] += 12
        return of_texts(["x" * 100] * n, (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32))

    reference = measured(passages(2000, 3, 1), "passages")
    drift, shown, alarms = watched(reference)
    drift.observe(passages(500, 3, 2))
    assert set(shown) == {"characters", *(f"direction {number}" for number in range(1, 9))} and alarms == []
    drift.observe(passages(500, 200, 3))
    assert len(alarms) >= 4 and "characters" not in alarms, "about other things, though as long"


@pytest.mark.parametrize(
    "entry", [one for one in Registry.load(None).entries() if one.task != "deterioration-home"], ids=lambda entry: entry.task
)
def test_every_model_that_ships_for_a_lane_has_a_reference_of_its_own_figures(entry: ModelEntry) -> None:
    registry = Registry.load(None)
    (place,) = places(entry, registry.folder(entry), None)
    found = Reference.read(place)
    assert "inputs of " in found.of and all(sum(h.counts) >= FEWEST for h in found.figures.values())
    model = registry.open(entry.task)
    if isinstance(model, TokenClassifier):
        text = "Aspirin for chest pain. Blood pressure 120/80."
        figures = of_notes([text], model.find([text]), labels_in(found))
    elif isinstance(model, DeteriorationModel):
        window = np.full((1, model.hours, len(model.features)), np.nan, np.float32)
        figures = of_windows(window, model.features, np.zeros(1, np.float32))
    elif isinstance(model, ImageTextModel):
        figures = of_images([np.zeros((8, 8), np.uint8)], np.zeros((1, len(model.labels)), np.float32), model.labels)
    else:
        assert isinstance(model, TextEmbedder)
        figures = of_texts(["cough"], model.embed(["cough"]))
    assert set(found.figures) == set(figures)
