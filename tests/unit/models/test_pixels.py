"""How an exported image model sees an image, and what its ONNX runtime asks of entry and files; no torch in it."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from models.errors import Fatal, Permanent, Poison
from models.registry import Weights
from models.runtimes.pixels import Pixels
from tests import tiny_models as tiny

PLAIN = {"mean": [0.0, 0.0, 0.0], "std": [1.0, 1.0, 1.0], "factor": 1.0}


def ramp(height: int, width: int) -> np.ndarray:
    return np.broadcast_to(np.arange(width, dtype=np.uint8), (height, width)).copy()


def test_both_sides_or_the_shortest_and_a_crop_of_the_middle() -> None:
    seen = Pixels.from_registry({**PLAIN, "fit": [40, 60]}, "model x 1").of(ramp(40, 60))
    assert seen.shape == (3, 40, 60) and seen.dtype == np.float32
    np.testing.assert_array_equal(seen[1, 0], np.arange(60))
    for how, first in (("down", 12), ("even", 12)):
        cut = Pixels.from_registry({**PLAIN, "shortest": 40, "crop": [40, 40], "round": how}, "model x 1").of(ramp(40, 65))
        np.testing.assert_array_equal(cut[0, 0], np.arange(first, first + 40))
    even, down = (
        Pixels.from_registry({**PLAIN, "shortest": 40, "crop": [40, 40], "round": how}, "x") for how in ("even", "down")
    )
    assert (even.of(ramp(40, 67))[0, 0, 0], down.of(ramp(40, 67))[0, 0, 0]) == (14, 13)  # 13.5 pixels on either side


def test_values_are_scaled_by_channel_and_grey_is_one_channel() -> None:
    said = {"mean": [0.5, 0.25, 0.0], "std": [0.5, 1.0, 2.0], "fit": [32, 32]}
    seen = Pixels.from_registry(said, "x").of(np.full((32, 32, 3), 255, np.uint8))
    np.testing.assert_allclose(seen[:, 0, 0], [1.0, 0.75, 0.5], atol=1e-6)
    grey = Pixels.from_registry({"mean": [0.0], "std": [1.0], "fit": [32, 32]}, "x").of(np.full((40, 33, 3), 255, np.uint8))
    assert grey.shape == (1, 32, 32) and grey.max() == pytest.approx(1.0)
    with pytest.raises(Poison):
        Pixels.from_registry(said, "x").of(np.zeros((8, 8), np.uint8))


@pytest.mark.parametrize(
    "changed",
    [
        {"fit": [32]},
        {"fit": [32, 32], "shortest": 32},
        {"shortest": 32},
        {"fit": [32, -1]},
        {"fit": [32, 32], "std": [0.0, 1.0, 1.0]},
        {"fit": [32, 32], "mean": [0.0]},
        {"fit": [32, 32], "resample": "guess"},
        {"fit": [32, 32], "round": "up"},
        {"fit": [32, 32], "factor": "big"},
        {"fit": [32, 32], "sharpen": True},
        {"fit": 32},
    ],
)
def test_a_table_that_says_no_one_way_is_refused(changed: dict[str, Any]) -> None:
    with pytest.raises(Fatal, match=r"model x 1: preprocessing\.pixels"):
        Pixels.from_registry({**PLAIN, **changed}, "model x 1")


def test_a_table_comes_back_as_it_was() -> None:
    said = {**PLAIN, "shortest": 40, "crop": [32, 32], "round": "even", "resample": "bicubic"}
    assert dict(Pixels.from_registry(said, "x").to_registry()) == said


# --------------------------------------------------------------------------------------------------- its classifier


def classifier(folder: Path, head: np.ndarray | None = None, **changes: Any) -> Any:
    """A graph that gives the mean of each colour, and a last layer over it."""
    onnx = pytest.importorskip("onnx", reason="tiny graphs are written by onnx (extra: train)")
    from models.runtimes.image_classifier import load

    folder.mkdir(exist_ok=True)
    of, helper = onnx.TensorProto.FLOAT, onnx.helper
    graph = helper.make_graph(
        [helper.make_node("ReduceMean", ["image"], ["features"], axes=[2, 3], keepdims=0)],
        "means",
        [helper.make_tensor_value_info("image", of, ["n", 3, 32, 32])],
        [helper.make_tensor_value_info("features", of, ["n", 3])],
    )
    made = helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 17)])
    (folder / "model.onnx").write_bytes(made.SerializeToString())
    layer = np.array([[0, 0, 0, 0], [4, 0, 0, -2], [0, 0, 4, -2]], np.float32) if head is None else head
    np.save(folder / "classifier.npy", layer)
    said = {"columns": ["none", "red", "blue"], "pixels": {"mean": [0.0] * 3, "std": [1.0] * 3, "fit": [32, 32]}}
    entry = tiny.entry_of(
        folder,
        task="image-text",
        runtime="onnx-image-classifier",
        files={name: tiny.sha256_of(folder / name) for name in ("model.onnx", "classifier.npy")},
        preprocessing={**said, **changes},
    )
    return load(Weights(entry, folder), threads=1)


def test_its_scores_are_the_last_layers(tmp_path: Path) -> None:
    red = np.zeros((50, 40, 3), np.uint8)
    red[..., 0] = 255
    model = classifier(tmp_path / "net")
    vector = model.embed_images([red])
    assert np.linalg.norm(vector) == pytest.approx(1.0) and model.labels == ("none", "red", "blue")
    expected = np.exp([0.0, 2.0, -2.0]) / np.exp([0.0, 2.0, -2.0]).sum()
    np.testing.assert_allclose(model.classify(vector)[0], expected, atol=1e-5)
    each = classifier(tmp_path / "each", scores="sigmoid", findings={"blue": "sky", "red": "rose"})
    assert each.labels == ("rose", "sky")
    np.testing.assert_allclose(
        each.classify(each.embed_images([red]))[0], [1 / (1 + np.exp(-2)), 1 / (1 + np.exp(2))], atol=1e-5
    )
    with pytest.raises(Permanent, match="cannot embed a text"):
        model.embed_texts(["red"])
    with pytest.raises(Poison):
        model.classify(-vector)


def test_it_is_measured_as_every_image_model(tmp_path: Path) -> None:
    """It has no text tower: there is nothing to rank images by wordings with."""
    from models.evaluation import images

    for number in range(12):
        place = tmp_path / "data" / ("pneumonia" if number % 2 else "normal")
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((40, 40), 20 + 20 * number % 200, np.uint8)).save(place / f"{number}.png")
    model = classifier(tmp_path / "net", findings={"none": "no finding", "red": "pneumonia"})
    (found,) = images.evaluate_all(model, tmp_path / "data", tmp_path / "net", rounds=20)
    assert (found.images, found.wordings) == (12, ()) and {"AUROC", "AUPRC"} <= {metric.name for metric in found.metrics}


def test_files_and_entry_that_do_not_fit_are_named(tmp_path: Path) -> None:
    with pytest.raises(Fatal, match=r"classifier\.npy has shape \[3, 4\] for 2 columns"):
        classifier(tmp_path, columns=["none", "red"])
    with pytest.raises(Fatal, match=r"gives 3 values an image, classifier\.npy takes 4"):
        classifier(tmp_path, np.zeros((3, 5), np.float32))
    with pytest.raises(Fatal, match="not finite"):
        classifier(tmp_path, np.full((3, 4), np.nan, np.float32))
    with pytest.raises(Fatal, match=r"preprocessing\.scores is 'guess'"):
        classifier(tmp_path, scores="guess")
    with pytest.raises(Fatal, match=r"preprocessing\.columns is \[\]"):
        classifier(tmp_path, columns=[])
    with pytest.raises(Fatal, match=r"preprocessing\.findings is no table"):
        classifier(tmp_path, findings="red")
    with pytest.raises(Fatal, match=r"preprocessing\.size: the runtime onnx-image-classifier knows no such key"):
        classifier(tmp_path, size=32)
