"""A BERT that is at hand as an ONNX export only becomes the network that it was."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

from models.errors import Permanent
from models.export import to_onnx
from models.training.starts import EXPORT, encoder


def network(hidden: int = 64, heads: int = 4) -> Any:
    import torch
    from transformers import BertConfig, BertModel

    torch.manual_seed(1)
    config = BertConfig(
        vocab_size=50, hidden_size=hidden, num_hidden_layers=2, num_attention_heads=heads, intermediate_size=96,
        max_position_embeddings=32, attn_implementation="eager",
    )  # fmt: skip

    class Traced(BertModel):  # type: ignore[misc]  # torch ships no types that mypy is shown
        def forward(self, input_ids: Any, attention_mask: Any = None) -> Any:
            return super().forward(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state

    made = Traced(config, add_pooling_layer=False).eval()
    for parameter in made.parameters():  # an exporter keeps like weights, as an untrained network's biases are, once
        torch.nn.init.normal_(parameter, std=0.2)
    return made


def exported(model: Any, folder: Path) -> Path:
    import torch

    ids = torch.zeros((1, 5), dtype=torch.int64)
    names = ("input_ids", "attention_mask")
    axes = {name: {0: "batch", 1: "tokens"} for name in (*names, "last_hidden_state")}
    to_onnx(model, (ids, torch.ones_like(ids)), folder / EXPORT, inputs=names, outputs=("last_hidden_state",), dynamic=axes)
    return folder


@pytest.mark.parametrize("heads", [2, 4, 8])
def test_the_export_of_a_bert_is_that_bert(tmp_path: Path, heads: int) -> None:
    import torch

    theirs = network(heads=heads)
    ours = encoder(exported(theirs, tmp_path))
    assert ours.config.num_attention_heads == heads
    ids = torch.from_numpy(np.random.default_rng(1).integers(0, 50, (3, 20)))
    with torch.inference_mode():
        assert torch.allclose(ours.eval()(ids).last_hidden_state, theirs(ids), atol=1e-5)


def test_a_folder_in_the_hubs_format_is_read_as_such(tmp_path: Path) -> None:
    theirs = network()
    theirs.save_pretrained(tmp_path)
    assert encoder(tmp_path).config.num_hidden_layers == 2


def test_another_network_is_refused(tmp_path: Path) -> None:
    import torch

    other = torch.nn.Sequential(torch.nn.Linear(4, 4))
    to_onnx(other, (torch.zeros((1, 4)),), tmp_path / EXPORT, inputs=("x",), outputs=("last_hidden_state",), dynamic={})
    with pytest.raises(Permanent, match="is no BERT encoder"):
        encoder(tmp_path)
