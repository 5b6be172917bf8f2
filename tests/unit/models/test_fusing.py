"""Fewer operators, the same function: a BERT as torch exports it, quantised and fused."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from models.errors import Permanent
from models.export import Feeds, apart, parity, run, to_int8, to_onnx
from models.fusing import fused

onnx = pytest.importorskip("onnx", reason="graphs are written by onnx (extra: train)")
pytest.importorskip("torch", reason="extra: train")
pytest.importorskip("transformers", reason="extra: train")
pytestmark = [pytest.mark.torch, pytest.mark.timeout(600)]  # importing the libraries takes a cold disk minutes


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import torch
    from transformers import BertConfig, BertModel

    torch.manual_seed(0)
    config = BertConfig(vocab_size=50, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64)
    config._attn_implementation = "eager"
    model = BertModel(config, add_pooling_layer=False)
    for layer in model.encoder.layer:  # one channel far out, as in a trained one's states
        layer.attention.output.LayerNorm.weight.data[3] = 30.0

    class Network(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, input_ids: Any, attention_mask: Any) -> Any:
            return self.model(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state

    example = torch.ones(2, 8, dtype=torch.long)
    names = ("input_ids", "attention_mask", "states")
    axes = {name: {0: "batch", 1: "tokens"} for name in names}
    path = tmp_path_factory.mktemp("whole") / "model.onnx"
    return to_onnx(Network(), (example, example), path, inputs=names[:2], outputs=names[2:], dynamic=axes)


def feeds(*lengths: int, padded: int = 0) -> list[Feeds]:
    random = np.random.default_rng(1)
    found: list[Feeds] = []
    for length in lengths:
        mask = np.ones((1, length + padded), np.int64)
        mask[:, length:] = 0
        found.append({"input_ids": random.integers(0, 50, mask.shape), "attention_mask": mask})
    return found


def without_mask(some: list[Feeds]) -> list[Feeds]:
    return [{"input_ids": one["input_ids"]} for one in some]


def count(path: Path, kind: str) -> int:
    return sum(node.op_type == kind for node in onnx.load(path).graph.node)


def test_fused_it_is_the_same_function_with_one_operator_for_each_attention(whole: Path, tmp_path: Path) -> None:
    items = feeds(1, 5, 17, 64)
    assert fused(whole, tmp_path / "fused.onnx", heads=4, padded=False) == 2
    assert parity(run(whole, "states", items), run(tmp_path / "fused.onnx", "states", without_mask(items))).largest < 1e-4
    assert (count(tmp_path / "fused.onnx", "MultiHeadAttention"), count(tmp_path / "fused.onnx", "Softmax")) == (2, 0)
    assert [one.name for one in onnx.load(tmp_path / "fused.onnx").graph.input] == ["input_ids"]
    assert fused(tmp_path / "fused.onnx", tmp_path / "again.onnx", heads=4, padded=False) == 2
    assert (tmp_path / "again.onnx").read_bytes() == (tmp_path / "fused.onnx").read_bytes()


def test_quantised_with_outliers_apart_it_stays_as_near_to_fp32(whole: Path, tmp_path: Path) -> None:
    items = feeds(*range(3, 40))
    left = apart(whole, tmp_path / "split.onnx", items)
    assert left
    to_int8(tmp_path / "split.onnx", tmp_path / "int8.onnx", skip=left)
    fused(tmp_path / "int8.onnx", tmp_path / "fused.onnx", heads=4, padded=False)
    expected = run(whole, "states", items)
    before = parity(expected, run(tmp_path / "int8.onnx", "states", items))
    after = parity(expected, run(tmp_path / "fused.onnx", "states", without_mask(items)))
    assert after.cosine_mean > before.cosine_mean - 1e-3
    sums = [node for node in onnx.load(tmp_path / "fused.onnx").graph.node if node.op_type == "Add"]
    makers = {name: node for node in onnx.load(tmp_path / "fused.onnx").graph.node for name in node.output}
    outer = [one for one in sums if one.input[1] in makers and makers[one.input[1]].name in left]
    assert outer  # the outliers' part comes last: what is before it is an integer product with its bias
    for one in outer:
        assert one.input[0] in makers and makers[one.input[0]].op_type == "Add"


def test_with_its_mask_kept_padding_does_not_count(whole: Path, tmp_path: Path) -> None:
    fused(whole, tmp_path / "fused.onnx", heads=4, padded=True)
    for one, padded in zip(feeds(5, 9), feeds(5, 9, padded=7), strict=True):
        length = one["input_ids"].shape[1]
        padded = {**padded, "input_ids": np.concatenate([one["input_ids"], padded["input_ids"][:, length:]], axis=1)}
        (alone,), (beside,) = run(tmp_path / "fused.onnx", "states", [one]), run(tmp_path / "fused.onnx", "states", [padded])
        np.testing.assert_allclose(beside[:, :length], alone, atol=1e-4)
        (expected,) = run(whole, "states", [padded])
        np.testing.assert_allclose(beside[:, :length], expected[:, :length], atol=1e-4)


def test_what_has_no_attention_of_this_shape_is_refused(tmp_path: Path) -> None:
    helper, proto = onnx.helper, onnx.TensorProto
    for nodes, says in (
        ([helper.make_node("Relu", ["x"], ["y"])], "has no attention"),
        ([helper.make_node("Relu", ["x"], ["r"]), helper.make_node("Softmax", ["r"], ["y"])], "is not made by Add"),
    ):
        ends = [helper.make_tensor_value_info(name, proto.FLOAT, [1, 4]) for name in "xy"]
        graph = helper.make_graph(nodes, "g", ends[:1], ends[1:])
        onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), tmp_path / "odd.onnx")
        with pytest.raises(Permanent, match=says):
            fused(tmp_path / "odd.onnx", tmp_path / "out.onnx", heads=4, padded=False)
    assert not (tmp_path / "out.onnx").exists()
