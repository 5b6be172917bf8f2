"""The ways of quantising held against each other, on a graph of one product."""

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("onnx")

from models.quantising import FP32, SHIPPED, compare, pooled, to_static

ITEMS, WIDTH = 40, 16


def graph(path: Path) -> Path:
    """One product: [n, WIDTH] -> [n, WIDTH], whose output channels reach from a hundredth to ten."""
    from onnx import TensorProto, helper, numpy_helper

    weights = np.random.default_rng(7).normal(size=(WIDTH, WIDTH)) * np.geomspace(0.01, 10, WIDTH)
    made = helper.make_graph(
        [helper.make_node("MatMul", ["rows", "weights"], ["out"], name="/the/MatMul")],
        "product",
        [helper.make_tensor_value_info("rows", TensorProto.FLOAT, ["n", WIDTH])],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, ["n", WIDTH])],
        [numpy_helper.from_array(weights.astype(np.float32), "weights")],
    )
    model = helper.make_model(made, ir_version=8, opset_imports=[helper.make_opsetid("", 17)])
    path.write_bytes(model.SerializeToString())
    return path


def feeds(first: int, last: int) -> list[dict[str, np.ndarray]]:
    """Items, each one row; the values of item 0 are a hundred times the others'."""
    rows = np.random.default_rng(8).normal(size=(ITEMS, 1, WIDTH)).astype(np.float32)
    rows[0] *= 100
    return [{"rows": row} for row in rows[first:last]]


def test_every_way_is_measured_against_fp32(tmp_path: Path) -> None:
    full, items, asked = graph(tmp_path / "model.onnx"), feeds(0, ITEMS), list[str]()
    rows = compare(
        full,
        items,
        output="out",
        vectors=pooled("out", items, lambda rows, _: rows),
        calibration=items,
        skip=["/the/MatMul"],
        metric=lambda path: float(path.stat().st_size),
        told=asked.append,
    )
    found = {row.name: row for row in rows}
    assert list(found) == asked and all(row.milliseconds > 0 and row.metric for row in rows)
    assert found[FP32].parity.cosine_lowest == pytest.approx(1.0) and found[FP32].parity.largest == 0
    assert found[SHIPPED].parity.largest == 0  # its one product was left as it was
    assert found["static, per channel, outliers left"].parity.largest == 0
    per_tensor, per_channel = found["dynamic, per tensor"], found["dynamic, per channel"]
    assert 0 < per_channel.parity.largest < per_tensor.parity.largest
    # One scale for item 0 and all the others: static loses what dynamic, which looks anew each time, does not.
    assert found["static, per channel"].parity.cosine_lowest < 0.9 < per_channel.parity.cosine_lowest


def test_what_the_calibration_has_not_seen_is_cut_off(tmp_path: Path) -> None:
    full, ordinary, outlier = graph(tmp_path / "model.onnx"), feeds(1, ITEMS), feeds(0, 1)
    small = to_static(full, tmp_path / "static.onnx", ordinary)

    def largest(items: list[dict[str, np.ndarray]]) -> float:
        vectors = pooled("out", items, lambda rows, _: rows)
        return float(max(np.abs(a - b).max() / np.abs(a).max() for a, b in zip(vectors(full), vectors(small), strict=True)))

    assert largest(ordinary) < 0.1 < 0.5 < largest(outlier)
