"""Embeddings: unit length, order kept, nothing cut, the published weights' own vectors."""

from functools import cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.errors import Fatal, Poison
from models.registry import Registry
from models.runtimes.text_embedder import load, mean_pooled
from models.tasks import TextEmbedder
from tests import tiny_models as tiny

pytest.importorskip("onnx", reason="tiny graphs are written by onnx (extra: train)")


def embedder(folder: Path, table: np.ndarray | None = None, **preprocessing: object) -> TextEmbedder:
    weights = tiny.weights_of(
        tiny.embedder_folder(folder, table), task="embedding", runtime="onnx-text-embedder", preprocessing=preprocessing
    )
    return load(weights, threads=1)


def test_rows_are_of_unit_length_in_the_order_given(tmp_path: Path) -> None:
    model = embedder(tmp_path, batch=2)
    texts = ["chest pain and cough", "fever", "", "aspirin, mild fever", "cough"]
    vectors = model.embed(texts)
    assert vectors.shape == (5, 4)
    assert vectors.dtype == np.float32
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    alone = np.concatenate([embedder(tmp_path).embed([text]) for text in texts])
    assert np.allclose(vectors, alone, atol=1e-6)
    assert model.embed([]).shape == (0, 4)


def test_pooling_takes_real_tokens_only() -> None:
    states = np.array([[[3.0, 0.0], [0.0, 4.0], [99.0, 99.0]]], dtype=np.float32)
    assert np.allclose(mean_pooled(states, np.array([[1, 1, 0]])), [[0.6, 0.8]])


def test_a_text_over_the_limit_is_refused_not_cut(tmp_path: Path) -> None:
    model = embedder(tmp_path, limit=8)
    assert model.limit == 8
    assert model.embed(["fever " * 6]).shape == (1, 4)  # 6 and two special tokens
    with pytest.raises(Poison, match="text 1 of 2 has 9 tokens, more than 8") as caught:
        model.embed(["fever", "fever " * 7])
    assert caught.value.stage == "model"


@cache
def shipped_model() -> TextEmbedder:
    return Registry.load().open("embedding")


@given(st.text(max_size=60))
@settings(max_examples=50, deadline=None)
def test_offsets_lie_in_the_text_and_count_what_embed_counts(text: str) -> None:
    offsets = shipped_model().offsets(text)
    assert all(0 <= a <= b <= len(text) for a, b in offsets)
    assert offsets == sorted(offsets)


def test_values_that_are_not_finite_are_poison_of_the_model(tmp_path: Path) -> None:
    table = np.ones((len(tiny.TOKENS), 4), dtype=np.float32)
    table[tiny.IDS["cough"]] = np.nan
    model = embedder(tmp_path, table)
    assert np.allclose(model.embed(["fever"]), 0.5)
    with pytest.raises(Poison, match="not finite") as caught:
        model.embed(["cough"])
    assert caught.value.stage == "model"


def test_a_graph_of_other_dimensions_is_fatal(tmp_path: Path) -> None:
    with pytest.raises(Fatal, match=r"gives 4 values a token, preprocessing\.dimensions is 5"):
        embedder(tmp_path, dimensions=5)


def test_a_token_classifiers_graph_is_no_embedder(tmp_path: Path) -> None:
    folder = tiny.classifier_folder(tmp_path)
    with pytest.raises(Fatal, match="the graph has no"):
        load(tiny.weights_of(folder, task="embedding", runtime="onnx-text-embedder"), threads=1)


# --- the model that ships ---


@pytest.fixture
def shipped() -> TextEmbedder:
    return shipped_model()


def test_meaning_is_near_meaning(shipped: TextEmbedder) -> None:
    assert (shipped.dimensions, shipped.limit) == (384, 256)
    query, near, far = shipped.embed(
        [
            "heart attack",
            "ST-elevation myocardial infarction, taken for coronary angioplasty.",
            "Sutures removed from the left knee.",
        ]
    )
    assert query @ near > query @ far + 0.2


def test_a_vector_depends_on_nothing_but_its_text(shipped: TextEmbedder) -> None:
    texts = ["Wound clean and dry.", "Potassium 5.9, ramipril held. " * 12, "Afebrile."]
    together = shipped.embed(texts)
    assert all(np.array_equal(together[i], shipped.embed([text])[0]) for i, text in enumerate(texts))


def test_the_limit_counts_special_tokens(shipped: TextEmbedder) -> None:
    assert len(shipped.offsets("pain " * 254)) == 254
    assert shipped.embed(["pain " * 254]).shape == (1, 384)
    with pytest.raises(Poison):
        shipped.embed(["pain " * 255])


@pytest.mark.torch
def test_vectors_are_those_of_the_published_weights(shipped: TextEmbedder) -> None:
    """INT8 against torch fp32: mean cosine at least 0.99, as the card says."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    from models.runtimes.token_classifier import load_tokenizer
    from models.training.embedding_export import SAMPLES
    from models.training.ner import default_start

    tokenizer = load_tokenizer(default_start() / "tokenizer.json", "test")
    bert = transformers.BertModel.from_pretrained(str(default_start())).eval()
    with torch.inference_mode():
        ids = [torch.tensor([tokenizer.encode(text).ids]) for text in SAMPLES]
        expected = [bert(row).last_hidden_state.numpy() for row in ids]
    rows = np.concatenate([mean_pooled(states, np.ones(states.shape[:2], dtype=np.int64)) for states in expected])
    cosines = (rows * shipped.embed(SAMPLES)).sum(axis=1)
    assert cosines.mean() >= 0.99
    assert cosines.min() >= 0.98


# --- graphs that pool themselves, as they are exported from the hub's format ---


def pooled(folder: Path, *, masked: bool, **preprocessing: object) -> TextEmbedder:
    """Give the sum of a table's rows over the tokens, whatever the mask says."""
    from onnx import TensorProto, helper, numpy_helper

    table = np.random.default_rng(3).normal(size=(len(tiny.TOKENS), 4)).astype(np.float32)
    names = ["input_ids", *(["attention_mask"] if masked else [])]
    graph = helper.make_graph(
        [
            helper.make_node("Gather", ["table", "input_ids"], ["rows"], axis=0),
            helper.make_node("ReduceSum", ["rows", "over"], ["sentence_embedding"], keepdims=0),
        ],
        "pooled",
        [helper.make_tensor_value_info(name, TensorProto.INT64, ["batch", "tokens"]) for name in names],
        [helper.make_tensor_value_info("sentence_embedding", TensorProto.FLOAT, ["batch", 4])],
        [numpy_helper.from_array(table, "table"), numpy_helper.from_array(np.array([1], np.int64), "over")],
    )
    model = helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 17)])
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    tiny.tokenizer().save(str(folder / "tokenizer.json"))
    return load(tiny.weights_of(folder, task="embedding", runtime="onnx-text-embedder", preprocessing=preprocessing), threads=1)


def test_a_graph_that_pools_is_taken_at_its_word(tmp_path: Path) -> None:
    texts = ["chest pain and cough", "fever", ""]
    model = pooled(tmp_path, masked=False, batch=3, limit=12)
    vectors = model.embed(texts)
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    # without a mask texts of different lengths never share a run, whatever `batch` says
    assert np.array_equal(vectors, np.concatenate([model.embed([text]) for text in texts]))
    asked = pooled(tmp_path, masked=True, prompt="mild ", limit=12)
    assert np.allclose(asked.embed(["cough"]), model.embed(["mild cough"]))
    assert asked.embed(["fever " * 10]).shape == (1, 4)  # its prompt is none of the 12 tokens
    with pytest.raises(Poison, match="has 13 tokens, more than 12"):
        asked.embed(["fever " * 11])
    with pytest.raises(Fatal, match="gives 4 values a text"):
        pooled(tmp_path, masked=True, dimensions=5)
