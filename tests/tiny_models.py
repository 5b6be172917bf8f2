"""Models of a few bytes in the real formats: a table of scores per token as an ONNX graph, a word-piece tokenizer, an entry."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

from models.registry import ModelEntry, Weights, sha256_of
from tests.drawings import drawing

LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789"
WORDS = ("fever", "aspirin", "mild", "cough", "pain", "chest")
PUNCTUATION = (".", ",", "-", "(", ")", "/", "%", ":")
TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORDS, *PUNCTUATION, *LETTERS, *(f"##{c}" for c in LETTERS))
IDS = {token: index for index, token in enumerate(TOKENS)}
TAGS = ("O", "B-symptom", "I-symptom", "B-medication", "I-medication")


def tokenizer() -> Tokenizer:
    """BERT's way of cutting, over a vocabulary of letters and six words."""
    made = Tokenizer(models.WordPiece(dict(IDS), unk_token="[UNK]", max_input_chars_per_word=100))
    made.normalizer = normalizers.BertNormalizer(lowercase=True)
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", IDS["[CLS]"]), ("[SEP]", IDS["[SEP]"])]
    )
    return made


def scores() -> np.ndarray:
    """Scores [tokens, tags]: fever, cough and pain begin a symptom, aspirin a medication, chest goes on with a symptom."""
    table = np.zeros((len(TOKENS), len(TAGS)), dtype=np.float32)
    table[:, 0] = 8.0
    for word, tag in (("fever", 1), ("cough", 1), ("chest", 1), ("pain", 2), ("aspirin", 3)):
        table[IDS[word], 0] = 0.0
        table[IDS[word], tag] = 8.0
    return table


def write_table(path: Path, table: np.ndarray, *, output: str = "logits", extra_inputs: Sequence[str] = ()) -> None:
    """Write an ONNX graph that looks each token up in a table: input_ids [batch, tokens] -> [batch, tokens, columns]."""
    from onnx import TensorProto, helper, numpy_helper

    names = ["input_ids", *extra_inputs]
    graph = helper.make_graph(
        [helper.make_node("Gather", ["table", "input_ids"], [output], axis=0)],
        "table",
        [helper.make_tensor_value_info(name, TensorProto.INT64, ["batch", "tokens"]) for name in names],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, ["batch", "tokens", table.shape[1]])],
        [numpy_helper.from_array(table, "table")],
    )
    path.write_bytes(helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 17)]).SerializeToString())


def entry_of(folder: Path, **changes: Any) -> ModelEntry:
    """Describe the files of a folder as a token classifier of one head, digests right."""
    values: dict[str, Any] = {
        "task": "ner",
        "name": "tiny",
        "version": "1",
        "runtime": "onnx-token-classifier",
        "location": str(folder),
        "licence": "Apache-2.0",
        "files": {path.name: sha256_of(path) for path in sorted(folder.iterdir()) if path.suffix in (".onnx", ".json")},
        "preprocessing": {"heads": [{"name": "only", "tags": list(TAGS)}]},
    }
    if changes.get("runtime", values["runtime"]) != values["runtime"]:
        del values["preprocessing"]
    return ModelEntry.model_validate(values | changes)


def classifier_folder(folder: Path, table: np.ndarray | None = None) -> Path:
    """Write a whole token classifier."""
    folder.mkdir(parents=True, exist_ok=True)
    write_table(folder / "model.onnx", scores() if table is None else table)
    tokenizer().save(str(folder / "tokenizer.json"))
    return folder


def embedder_folder(folder: Path, table: np.ndarray | None = None) -> Path:
    """Write a whole text embedder of 4 dimensions."""
    folder.mkdir(parents=True, exist_ok=True)
    values = np.random.default_rng(3).normal(size=(len(TOKENS), 4)).astype(np.float32) if table is None else table
    write_table(folder / "model.onnx", values, output="last_hidden_state", extra_inputs=["attention_mask"])
    tokenizer().save(str(folder / "tokenizer.json"))
    return folder


def image_text_site(folder: Path) -> Path:
    """Write a site's registry whose image-text champion is `tiny-xray`: 64 patches of a picture, projected; return the file."""
    from onnx import TensorProto, helper, numpy_helper

    random = np.random.default_rng(5)
    held = folder / "tiny-xray"
    held.mkdir(parents=True)
    nodes = [
        helper.make_node("AveragePool", ["image"], ["patches"], kernel_shape=[8, 8], strides=[8, 8]),
        helper.make_node("Flatten", ["patches"], ["flat"]),
        helper.make_node("Sub", ["flat", "mean"], ["centred"]),
        helper.make_node("MatMul", ["centred", "axes"], ["seen"]),
        helper.make_node("LpNormalization", ["seen"], ["embedding"], axis=1, p=2),
    ]
    mean = np.stack([drawing(opaque=False, seed=seed) for seed in range(20)]).mean(axis=0) / 128.0 - 127 / 128
    tables = {
        "mean": mean.reshape(8, 8, 8, 8).mean(axis=(1, 3)).reshape(1, 64).astype(np.float32),
        "axes": random.normal(size=(64, 32)).astype(np.float32),
    }
    graph = helper.make_graph(
        nodes,
        "tower",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["n", 1, 64, 64])],
        [helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["n", 32])],
        [numpy_helper.from_array(table, name) for name, table in tables.items()],
    )
    made = helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 17)])
    (held / "model.onnx").write_bytes(made.SerializeToString())
    np.save(held / "text_projection.npy", (random.normal(size=(384, 32)) / 20).astype(np.float32))
    np.save(held / "learned.npy", np.array([7], np.uint32))
    entry = entry_of(
        held,
        task="image-text",
        name="tiny-xray",
        runtime="onnx-image-text",
        files={name: sha256_of(held / name) for name in ("model.onnx", "text_projection.npy")},
        labels=("no finding", "pneumonia"),
        preprocessing={
            "size": 64,
            "text_tower": "all-MiniLM-L6-v2",
            "scale": 5.0,
            "prompts": {"no finding": ["clear lungs"], "pneumonia": ["consolidation"]},
        },
    )
    return toml_of(entry, folder / "registry.toml")


def weights_of(folder: Path, **changes: Any) -> Weights:
    """Hand a folder to a loader as the registry would, without its checks."""
    return Weights(entry_of(folder, **changes), folder)


def toml_of(entry: Mapping[str, Any] | ModelEntry, path: Path) -> Path:
    """Write a site's registry with one entry that serves its task."""
    from models.registering import record

    record(entry if isinstance(entry, ModelEntry) else ModelEntry.model_validate(entry), path)
    return path
