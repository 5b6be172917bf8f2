"""The image-text runtime: preprocessing, scores by prompts, and the weights that ship."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from models.errors import Fatal, Poison
from models.evaluation.image_prompts import LEARNED
from models.registry import Registry
from models.runtimes.image_text import OnnxImageText, Prompts, prepare
from models.tasks import Floats, ImageTextModel, ModelIdentity


def chest(height: int = 320, width: int = 320, seed: int = 0) -> NDArray[np.uint8]:
    """Two dark lungs in a bright body, and noise: enough for arithmetic."""
    y, x = np.mgrid[0 : 1 : complex(height), 0 : 1 : complex(width)]
    lungs = np.exp(-(((x - 0.3) / 0.12) ** 2 + ((y - 0.5) / 0.3) ** 2)) + np.exp(
        -(((x - 0.7) / 0.12) ** 2 + ((y - 0.5) / 0.3) ** 2)
    )
    noise = np.random.default_rng(seed).normal(0, 4, (height, width))
    pixels: NDArray[np.uint8] = np.clip(190 - 150 * lungs + noise, 0, 255).astype(np.uint8)
    return pixels


# ------------------------------------------------------------------------------------------------- preprocessing


@settings(deadline=None, max_examples=50)
@given(height=st.integers(32, 700), width=st.integers(32, 700))
def test_any_shape_fits_whole_and_centred(height: int, width: int) -> None:
    prepared = prepare(np.full((height, width), 255, np.uint8), 64)
    assert prepared.shape == (1, 64, 64)
    assert prepared.dtype == np.float32
    lit = prepared[0] > 0
    rows, columns = np.flatnonzero(lit.any(axis=1)), np.flatnonzero(lit.any(axis=0))
    assert max(len(rows), len(columns)) == 64
    assert len(rows) == max(1, round(height * 64 / max(height, width)))
    assert abs(rows[0] - (63 - rows[-1])) <= 1
    assert abs(columns[0] - (63 - columns[-1])) <= 1
    assert prepared.min() >= -127 / 128
    assert prepared.max() <= 1


def test_grey_and_equal_colours_are_the_same_image() -> None:
    grey = chest()
    assert np.array_equal(prepare(grey, 320), prepare(np.repeat(grey[:, :, None], 3, axis=2), 320))


def test_an_image_of_the_right_size_is_left_as_it_is() -> None:
    grey = chest()
    assert np.array_equal(np.rint(prepare(grey, 320)[0] * 128 + 127).astype(np.uint8), grey)


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((64, 64), np.uint16),
        np.zeros((64, 64), np.float32),
        np.zeros((64, 64, 4), np.uint8),
        np.zeros((64,), np.uint8),
        np.zeros((0, 64), np.uint8),
        np.zeros((8, 64), np.uint8),
        np.zeros((64, 30_000), np.uint8),
    ],
)
def test_what_is_no_such_image_is_poison(image: Any) -> None:
    with pytest.raises(Poison):
        prepare(image, 320)


# --------------------------------------------------------------------------------------------- scores by prompts


class Words:
    """A text embedder that knows four words."""

    dimensions, limit = 2, 8
    identity = ModelIdentity("words", "0", "0")
    known: Mapping[str, tuple[float, float]] = {"clear": (1, 0), "normal": (0.9, 0.1), "opaque": (0, 1), "infected": (0.1, 0.9)}

    def embed(self, texts: Sequence[str]) -> Floats:
        rows = np.array([self.known[text] for text in texts], np.float32)
        return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), np.float32)

    def offsets(self, text: str) -> list[tuple[int, int]]:
        return [(0, len(text))]


class Brightness:
    """An image tower that sees one thing."""

    def run(self, output: str, feeds: Mapping[str, NDArray[Any]]) -> Floats:
        angle = (feeds["image"].mean(axis=(1, 2, 3)) + 1) * np.pi / 4
        return np.stack([np.cos(angle), np.sin(angle)], axis=1).astype(np.float32)


PROMPTS = Prompts({"no finding": ("clear", "normal"), "pneumonia": ("opaque", "infected")}, scale=5.0)


def small(prompts: Prompts = PROMPTS) -> OnnxImageText:
    identity = ModelIdentity("small", "1", "ab")
    return OnnxImageText(Brightness(), Words(), np.eye(2, dtype=np.float32), prompts, identity, see=partial(prepare, size=64))


def test_scores_follow_the_prompts_and_sum_to_one() -> None:
    model = small()
    images = [np.full((64, 64), level, np.uint8) for level in (0, 60, 127, 200, 255)]
    scores = model.classify(model.embed_images(images))
    assert scores.shape == (5, 2)
    assert np.allclose(scores.sum(axis=1), 1)
    assert np.all(np.diff(scores[:, 1]) > 0)
    assert scores[0, 1] < 0.1 < 0.9 < scores[-1, 1]


def test_an_offset_moves_its_label_alone() -> None:
    moved = Prompts(PROMPTS.texts, PROMPTS.scale, {"pneumonia": 2.0})
    image = [np.full((64, 64), 127, np.uint8)]
    plain, shifted = small(), small(moved)
    before, after = plain.classify(plain.embed_images(image)), shifted.classify(shifted.embed_images(image))
    odds = np.log(after[0, 1] / after[0, 0]) - np.log(before[0, 1] / before[0, 0])
    assert odds == pytest.approx(2.0, abs=1e-4)


def test_thresholds_stand_for_every_label() -> None:
    assert small().thresholds == {"no finding": 0.5, "pneumonia": 0.5}


def test_embeddings_of_another_space_are_poison() -> None:
    with pytest.raises(Poison, match="shape"):
        small().classify(np.zeros((1, 3), np.float32))


ASKED = {"no finding": ["clear"], "pneumonia": ["opaque"]}


@pytest.mark.parametrize(
    ("raw", "says"),
    [
        ({}, "no prompts for its labels no finding, pneumonia"),
        ({"scale": 1.0, "prompts": {"no finding": ["clear"]}}, "no prompts for its labels pneumonia"),
        ({"scale": 1.0, "prompts": {"no finding": ["clear"], "pneumonia": []}}, "no prompts for its labels pneumonia"),
        ({"scale": 1.0, "prompts": {"no finding": "clear", "pneumonia": ["opaque"]}}, "no table of lists"),
        ({"scale": 1.0, "prompts": ASKED | {"effusion": ["fluid"]}}, r"effusion, which its labels \(no finding, pneumonia\)"),
        ({"prompts": ASKED}, "'scale'"),
        ({"scale": 0.0, "prompts": ASKED}, "scale of 0.0"),
        ({"scale": "much", "prompts": ASKED}, "much"),
        ({"scale": 1.0, "prompts": ASKED, "offsets": {"effusion": 1.0}}, "offsets for effusion"),
    ],
)
def test_prompts_that_cannot_work_are_refused(raw: dict[str, Any], says: str) -> None:
    with pytest.raises(Fatal, match=f"^model x 1: .*{says}"):
        Prompts.from_registry(raw, ("no finding", "pneumonia"), "model x 1")


def test_one_label_alone_is_refused_for_it_would_be_found_in_every_image() -> None:
    with pytest.raises(Fatal, match="model x 1: pneumonia alone") as refused:
        Prompts.from_registry({"scale": 1.0, "prompts": {"pneumonia": ["opaque"]}}, ("pneumonia",), "model x 1")
    assert "counterpart" in str(refused.value.hint)


def test_without_prompts_it_is_said_that_they_are_missing() -> None:
    with pytest.raises(Fatal, match="model x 1: no prompts") as refused:
        Prompts.from_registry({"scale": 1.0}, (), "model x 1")
    assert "prompts = { label = [wordings] }" in str(refused.value.hint)


def test_a_projection_that_does_not_fit_the_text_is_refused() -> None:
    with pytest.raises(Fatal, match="projection"):
        see = partial(prepare, size=64)
        OnnxImageText(Brightness(), Words(), np.eye(3, dtype=np.float32), PROMPTS, ModelIdentity("x", "1", "a"), see=see)


# ------------------------------------------------------------------------------------------ the weights that ship


@pytest.fixture(scope="module")
def model() -> ImageTextModel:
    return Registry.load().open("image-text")


def test_the_shipped_model_fills_in_the_protocol(model: ImageTextModel) -> None:
    images = [chest(), chest(500, 400), np.repeat(chest(64, 64)[:, :, None], 3, axis=2)]
    seen = model.embed_images(images)
    assert model.labels == ("no finding", "pneumonia")
    assert seen.shape == (3, model.dimensions)
    assert seen.dtype == np.float32
    assert np.allclose(np.linalg.norm(seen, axis=1), 1, atol=1e-4)
    scores = model.classify(seen)
    assert np.all((scores >= 0) & (scores <= 1))
    assert set(model.thresholds) == set(model.labels)
    assert model.embed_images([]).shape == (0, model.dimensions)
    assert model.classify(model.embed_images([])).shape == (0, 2)
    assert model.embed_texts([]).shape == (0, model.dimensions)


def test_an_image_hardly_changes_with_its_company(model: ImageTextModel) -> None:
    images = [chest(seed=seed) for seed in range(10)]
    together = model.embed_images(images)
    for at in (0, 7, 9):
        assert np.abs(together[at] - model.embed_images([images[at]])[0]).max() < 1e-5


def test_resolution_hardly_changes_an_image(model: ImageTextModel) -> None:
    large = chest(1024, 1024)
    small_ = large.reshape(512, 2, 512, 2).mean(axis=(1, 3)).astype(np.uint8)
    first, second = model.embed_images([large, small_])
    assert first @ second > 0.97


SICK = ["lung infection", "infected lung", "chest infection with consolidation"]
WELL = ["no abnormality seen", "radiograph of a healthy chest", "nothing abnormal seen in the lungs"]


def test_words_that_were_not_learned_lie_on_their_classs_side(model: ImageTextModel) -> None:
    """How images are ranked by words: by which class's prompts a wording is nearer to, whatever words it shares with others."""
    prompts = {label: model.embed_texts(texts).mean(0) for label, texts in LEARNED.items()}
    axis = prompts["pneumonia"] - prompts["no finding"]
    assert not {*SICK, *WELL} & {text for texts in LEARNED.values() for text in texts}
    assert min(model.embed_texts(SICK) @ axis) > max(model.embed_texts(WELL) @ axis)
