"""Outlying channels multiplied apart: the same product in fp32, and what INT8 loses by one scale for all is not lost."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from models.export import apart, parity, run, to_int8

onnx = pytest.importorskip("onnx", reason="graphs are written by onnx (extra: train)")
FEEDS = [{"x": np.random.default_rng(seed).normal(size=(1, 20, 64)).astype(np.float32)} for seed in range(8)]
for feed in FEEDS:
    feed["x"][..., 7] *= 200  # one channel far out, as in a transformer's states


def graph(path: Path, **weights: np.ndarray) -> Path:
    """Products of the same input, added up."""
    helper, proto = onnx.helper, onnx.TensorProto
    nodes: list[Any] = [helper.make_node("MatMul", ["x", name], [f"y{name}"], name=f"product{name}") for name in weights]
    nodes.append(helper.make_node("Sum", [f"y{name}" for name in weights], ["y"]))
    made = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", proto.FLOAT, [1, "n", 64])],
        [helper.make_tensor_value_info("y", proto.FLOAT, [1, "n", 32])],
        [onnx.numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    onnx.save(helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def weights(seed: int) -> np.ndarray:
    return (np.random.default_rng(seed).normal(size=(64, 32)) / 8).astype(np.float32)


def test_the_split_graph_is_the_same_function_and_loses_less_in_int8(tmp_path: Path) -> None:
    whole = graph(tmp_path / "whole.onnx", a=weights(1), b=weights(2))
    left = apart(whole, tmp_path / "split.onnx", FEEDS)
    assert left == ["producta/far", "productb/far"]
    expected = run(whole, "y", FEEDS)
    assert parity(expected, run(tmp_path / "split.onnx", "y", FEEDS)).largest < 1e-3
    plain = parity(expected, run(to_int8(whole, tmp_path / "plain.onnx"), "y", FEEDS))
    split = parity(expected, run(to_int8(tmp_path / "split.onnx", tmp_path / "int8.onnx", skip=left), "y", FEEDS))
    assert split.largest < plain.largest / 5


def test_without_outliers_nothing_is_split(tmp_path: Path) -> None:
    calm = [{"x": feed["x"] / np.abs(feed["x"]).max(axis=(0, 1))} for feed in FEEDS]
    whole = graph(tmp_path / "whole.onnx", a=weights(1))
    assert apart(whole, tmp_path / "split.onnx", calm) == []
    assert onnx.load(tmp_path / "split.onnx").graph.node[0].input[0] == "x"
