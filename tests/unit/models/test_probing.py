"""What opens is tried out first: a file of the right digest that cannot do its task is refused, with its name and why."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import processors

from models.errors import Fatal, Permanent
from models.registry import ModelEntry, Registry, Stage, sha256_of
from models.runtimes.token_classifier import framing
from tests import tiny_models as tiny

onnx = pytest.importorskip("onnx", reason="tiny graphs are written by onnx (extra: train)")

EMBEDDER = {"task": "embedding", "runtime": "onnx-text-embedder"}
WIDE = np.random.default_rng(4).normal(size=(len(tiny.TOKENS), 6)).astype(np.float32)


def opened(entry: ModelEntry) -> Any:
    return Registry([(entry, Path(entry.location))], {entry.task: Stage(champion=entry.name)}).open(entry.task)


def refused(entry: ModelEntry, says: str) -> str:
    """Open it, and hold what is said against `says`; return the hint."""
    with pytest.raises((Fatal, Permanent), match=says) as caught:
        opened(entry)
    assert entry.name in str(caught.value)
    return caught.value.hint or ""


def open_width(folder: Path, table: np.ndarray, output: str) -> Path:
    """A folder whose graph leaves the length of its last axis open."""
    from onnx import TensorProto, helper, numpy_helper

    names = ["input_ids", "attention_mask"]
    graph = helper.make_graph(
        [helper.make_node("Gather", ["table", "input_ids"], [output], axis=0)],
        "table",
        [helper.make_tensor_value_info(name, TensorProto.INT64, ["batch", "tokens"]) for name in names],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, ["batch", "tokens", "width"])],
        [numpy_helper.from_array(table, "table")],
    )
    made = helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 17)])
    folder.mkdir()
    (folder / "model.onnx").write_bytes(made.SerializeToString())
    tiny.tokenizer().save(str(folder / "tokenizer.json"))
    return folder


def test_an_embedder_of_another_width_than_its_entry_says_is_refused(tmp_path: Path) -> None:
    said = tiny.embedder_folder(tmp_path / "said", WIDE)
    assert "dimensions = 6" in refused(tiny.entry_of(said, preprocessing={"dimensions": 4}, **EMBEDDER), "gives 6 .* is 4")
    found = open_width(tmp_path / "open", WIDE, "last_hidden_state")  # by ONNX Runtime, from the graph
    refused(tiny.entry_of(found, preprocessing={"dimensions": 4}, **EMBEDDER), "gives 6 .* is 4")
    assert opened(tiny.entry_of(found, **EMBEDDER)).dimensions == 6


def test_vectors_of_nothing_and_numbers_that_are_none_are_refused(tmp_path: Path) -> None:
    for name, value, says in (("zero", 0.0, "vector of length 0, not 1"), ("nan", np.nan, "trial run failed.*not finite")):
        refused(tiny.entry_of(tiny.embedder_folder(tmp_path / name, np.full_like(WIDE, value)), name=name, **EMBEDDER), says)
    broken = tiny.classifier_folder(tmp_path / "ner", np.full_like(tiny.scores(), np.nan))
    refused(tiny.entry_of(broken), "trial run failed.*not finite")
    refused(tiny.entry_of(open_width(tmp_path / "wide", np.tile(tiny.scores(), (1, 2)), "logits")), "gives 10 scores a token")


def test_a_limit_that_the_graph_cannot_take_is_refused(tmp_path: Path) -> None:
    """Positions for 16 tokens: a short text does not find out."""
    from onnx import TensorProto, helper, numpy_helper

    folder = tiny.embedder_folder(tmp_path / "short", WIDE)
    nodes = [
        helper.make_node("Shape", ["input_ids"], ["tokens"], start=1, end=2),
        helper.make_node("Squeeze", ["tokens"], ["count"]),
        helper.make_node("Range", ["zero", "count", "one"], ["places"]),
        helper.make_node("Gather", ["positions", "places"], ["placed"], axis=0),
        helper.make_node("Gather", ["table", "input_ids"], ["looked_up"], axis=0),
        helper.make_node("Add", ["looked_up", "placed"], ["last_hidden_state"]),
    ]
    tables = {"table": WIDE, "positions": WIDE[:16], "zero": np.int64(0), "one": np.int64(1)}
    graph = helper.make_graph(
        nodes,
        "positions",
        [
            helper.make_tensor_value_info(name, TensorProto.INT64, ["batch", "tokens"])
            for name in ("input_ids", "attention_mask")
        ],
        [helper.make_tensor_value_info("last_hidden_state", TensorProto.FLOAT, ["batch", "tokens", 6])],
        [numpy_helper.from_array(np.asarray(table), name) for name, table in tables.items()],
    )
    made = helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 17)])
    (folder / "model.onnx").write_bytes(made.SerializeToString())
    assert "preprocessing" in refused(tiny.entry_of(folder, **EMBEDDER), "trial run failed")
    assert opened(tiny.entry_of(folder, preprocessing={"limit": 16}, **EMBEDDER)).limit == 16


def tower(folder: Path, width: int, *, projection: np.ndarray, **preprocessing: Any) -> ModelEntry:
    """An image tower of 32 pixels that gives `width` numbers, and a projection of texts."""
    from onnx import TensorProto, helper, numpy_helper

    folder.mkdir()
    axes = np.random.default_rng(2).normal(size=(32 * 32, width)).astype(np.float32)
    nodes = [
        helper.make_node("Flatten", ["image"], ["flat"], axis=1),
        helper.make_node("MatMul", ["flat", "axes"], ["seen"]),
        helper.make_node("LpNormalization", ["seen"], ["embedding"], axis=1, p=2),
    ]
    graph = helper.make_graph(
        nodes,
        "tower",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["n", 1, 32, 32])],
        [helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["n", "width"])],
        [numpy_helper.from_array(axes, "axes")],
    )
    made = helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 17)])
    (folder / "model.onnx").write_bytes(made.SerializeToString())
    np.save(folder / "text_projection.npy", projection)
    said = {
        "size": 32,
        "text_tower": "all-MiniLM-L6-v2",
        "scale": 5.0,
        "prompts": {"normal": ["clear"], "pneumonia": ["opacity"]},
    }
    return tiny.entry_of(
        folder,
        task="image-text",
        name=folder.name,
        runtime="onnx-image-text",
        files={path.name: sha256_of(path) for path in folder.iterdir()},
        labels=("normal", "pneumonia"),
        preprocessing=said | preprocessing,
    )


def test_towers_that_do_not_fit_each_other_are_refused_and_no_finding_is_made_up(tmp_path: Path) -> None:
    eight = np.random.default_rng(3).normal(size=(384, 8)).astype(np.float32)
    assert opened(tower(tmp_path / "fits", 8, projection=eight)).dimensions == 8
    for width in (1, 5):  # numpy would take one column for all of eight
        refused(tower(tmp_path / f"of-{width}", width, projection=eight), f"gives {width} values an image.* 8 a text")
    refused(tower(tmp_path / "size", 8, projection=eight, size=64), "images of 32 pixels, preprocessing.size is 64")
    holed = eight.copy()
    holed[0, 0] = np.nan
    refused(tower(tmp_path / "holed", 8, projection=holed), r"text_projection\.npy has values that are not finite")
    refused(tower(tmp_path / "scale", 8, projection=eight, scale=float("inf")), "scale of inf")


@pytest.mark.parametrize(
    ("preprocessing", "says", "hint"),
    [
        ({"windw": 32}, r"preprocessing\.windw: the runtime onnx-token-classifier knows no such key", "'window'"),
        ({"window": "big"}, r"preprocessing\.window is 'big'", "a whole number of at least 1"),
        ({"window": True}, r"preprocessing\.window is True", "a whole number"),
        ({"overlap": -1}, r"preprocessing\.overlap is -1", "at least 0"),
        ({"serve": "clinical"}, r"preprocessing\.serve is 'clinical'", "a list of heads"),
        ({"device": 3}, r"preprocessing\.device is 3", "words"),
        ({"device": "gpu"}, "no device 'gpu'", "cpu"),
    ],
)
def test_a_key_that_is_not_known_or_a_value_of_another_kind_is_named(
    tmp_path: Path, preprocessing: dict[str, Any], says: str, hint: str
) -> None:
    heads = {"heads": [{"name": "only", "tags": list(tiny.TAGS)}]}
    entry = tiny.entry_of(tiny.classifier_folder(tmp_path / "tiny"), preprocessing=heads | preprocessing)
    with pytest.raises((Fatal, Permanent), match=says) as caught:
        opened(entry)
    assert hint in (caught.value.hint or "")


def test_every_runtime_that_ships_knows_the_keys_of_its_entry() -> None:
    for entry in Registry.load().entries():
        Registry.load().open(entry.task, name=entry.name)


def test_a_threshold_of_a_label_that_the_model_has_not_is_refused(tmp_path: Path) -> None:
    entry = tiny.entry_of(tiny.classifier_folder(tmp_path / "tiny"), thresholds={"symptm": 0.99})
    assert "did you mean 'symptom'" in refused(entry, "no label 'symptm'")


def test_weights_beside_the_graph_are_opened_only_where_they_have_a_digest(tmp_path: Path) -> None:
    folder = tiny.classifier_folder(tmp_path / "tiny")
    onnx.save_model(
        onnx.load(folder / "model.onnx"),
        folder / "model.onnx",
        save_as_external_data=True,
        location="model.onnx_data",
        size_threshold=0,
    )
    assert "model.onnx_data" in refused(tiny.entry_of(folder), "no model that ONNX Runtime")
    files = {path.name: sha256_of(path) for path in folder.iterdir()}
    entry = tiny.entry_of(folder, files=files)
    assert [span.label for span in opened(entry).find(["fever"])[0]] == ["symptom"]
    (folder / "model.onnx_data").write_bytes(bytes(len((folder / "model.onnx_data").read_bytes())))
    refused(entry, re.escape("model.onnx_data differs"))


@pytest.mark.parametrize(
    ("single", "before", "behind"),
    [("[CLS] $A", ["[CLS]"], []), ("$A [SEP]", [], ["[SEP]"]), ("[CLS] $A [SEP]", ["[CLS]"], ["[SEP]"]), ("$A", [], [])],
)
def test_special_tokens_stand_where_the_tokenizer_puts_them(single: str, before: list[str], behind: list[str]) -> None:
    tokenizer = tiny.tokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single=single, special_tokens=[(name, tiny.IDS[name]) for name in ("[CLS]", "[SEP]")]
    )
    assert framing(tokenizer) == ([tiny.IDS[name] for name in before], [tiny.IDS[name] for name in behind])
