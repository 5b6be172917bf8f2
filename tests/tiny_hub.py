"""Models of a few kilobytes in the hub's own formats, written by the libraries themselves; what they say is known beforehand.

Their BERT has no layers: a token's last state is the layer norm of a one-hot row. A linear head over it can be made to give any
table of scores by token, exactly, so the same texts give the same spans as the ONNX tables of `tests.tiny_models`.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from models.registering import files_of
from models.registry import ModelEntry, sha256_of
from tests import tiny_models as tiny

WIDE = len(tiny.TOKENS)
LONGEST = 64  # positions


def _bert(**changes: Any) -> Any:
    from transformers import BertConfig

    return BertConfig(
        vocab_size=WIDE, hidden_size=WIDE, num_hidden_layers=0, num_attention_heads=1, intermediate_size=8,
        max_position_embeddings=LONGEST, hidden_dropout_prob=0.0, pad_token_id=0, **changes,
    )  # fmt: skip


def _fill(bert: Any, rows: np.ndarray) -> None:
    import torch

    with torch.no_grad():
        bert.embeddings.word_embeddings.weight.copy_(torch.from_numpy(rows))
        bert.embeddings.position_embeddings.weight.zero_()
        bert.embeddings.token_type_embeddings.weight.zero_()


def tokenizer(folder: Path) -> Any:
    """BERT's way of cutting, saved beside the model."""
    from transformers import PreTrainedTokenizerFast

    names = {"unk_token": "[UNK]", "pad_token": "[PAD]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    made = PreTrainedTokenizerFast(tokenizer_object=tiny.tokenizer(), model_max_length=LONGEST, **names)
    made.save_pretrained(folder)
    return made


def classifier_folder(folder: Path, labels: Sequence[str] = tiny.TAGS, table: np.ndarray | None = None) -> Path:
    """A transformers token classifier that gives `table` [tokens, labels]."""
    import torch
    from transformers import BertForTokenClassification

    scores = tiny.scores() if table is None else table
    config = _bert(id2label=dict(enumerate(labels)), label2id={label: i for i, label in enumerate(labels)})
    model = BertForTokenClassification(config)
    _fill(model.bert, np.eye(WIDE, dtype=np.float32))
    # layer norm of a one-hot row: (row - 1/n) / spread
    spread = float(np.sqrt((1 / WIDE) * (1 - 1 / WIDE) + config.layer_norm_eps))
    with torch.no_grad():
        model.classifier.weight.copy_(torch.from_numpy(scores.T * spread))
        model.classifier.bias.copy_(torch.from_numpy(scores.mean(axis=0)))
    model.save_pretrained(folder)
    tokenizer(folder)
    return folder


def embedder_folder(folder: Path, *, pooling: str, normalize: bool, dense: int = 0, **options: Any) -> Path:
    """A sentence-transformers folder of any pooling, with a dense layer of so many dimensions and a normalisation where asked."""
    import torch
    from sentence_transformers import SentenceTransformer
    from transformers import BertModel

    try:  # where they stand since 5.4
        from sentence_transformers.sentence_transformer.modules import Dense, Normalize, Pooling, Transformer
    except ImportError:
        from sentence_transformers.models import Dense, Normalize, Pooling, Transformer

    inner = folder.with_name(folder.name + "-inner")
    torch.manual_seed(5)
    bert = BertModel(_bert())
    _fill(bert, np.random.default_rng(5).normal(size=(WIDE, WIDE)).astype(np.float32))
    bert.save_pretrained(inner)
    tokenizer(inner)
    modules: list[Any] = [Transformer(str(inner), max_seq_length=32), Pooling(WIDE, pooling_mode=pooling)]
    if dense:
        modules.append(Dense(WIDE, dense))
    if normalize:
        modules.append(Normalize())
    SentenceTransformer(modules=modules, device="cpu", **options).save(str(folder))
    return folder


def tensors(file: Path) -> dict[str, Any]:
    """The tensors of a safetensors file."""
    from safetensors.torch import load_file

    return load_file(file)


def put_tensors(file: Path, named: dict[str, Any]) -> None:
    """Write them in its place."""
    from safetensors.torch import save_file

    file.unlink()
    save_file(named, file, metadata={"format": "pt"})


def entry_of(folder: Path, task: str, runtime: str, **changes: Any) -> ModelEntry:
    """An entry that names every file of the folder, and nothing else: the folder says the rest."""
    values: dict[str, Any] = {
        "task": task,
        "name": folder.name,
        "version": "1",
        "runtime": runtime,
        "location": str(folder),
        "licence": "Apache-2.0",
        "files": {file: sha256_of(folder / file) for file in files_of(folder)},
    }
    return ModelEntry.model_validate(values | changes)


# --------------------------------------------------------------------------------------------------- images


def image_classifier_folder(folder: Path, labels: Sequence[str], *, architecture: str = "vit", **config: Any) -> Path:
    """A transformers image classifier with weights by chance; `channels` 1 is one of greyscale images."""
    import torch
    from transformers import (
        ResNetConfig,
        ResNetForImageClassification,
        ViTConfig,
        ViTForImageClassification,
        ViTImageProcessor,
    )

    torch.manual_seed(11)
    named = {"id2label": dict(enumerate(labels)), "label2id": {label: i for i, label in enumerate(labels)}, **config}
    if architecture == "vit":
        model: Any = ViTForImageClassification(
            ViTConfig(
                hidden_size=16,
                num_hidden_layers=1,
                num_attention_heads=2,
                intermediate_size=16,
                image_size=32,
                patch_size=16,
                **named,
            )
        )
    else:
        model = ResNetForImageClassification(
            ResNetConfig(embedding_size=8, hidden_sizes=[8, 12], depths=[1, 1], layer_type="basic", **named)
        )
    with torch.no_grad():
        for weights in model.classifier.parameters():
            weights.add_(0.5 * torch.randn_like(weights))  # as made, it says about the same of everything
    model.save_pretrained(folder)
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


def clip_folder(folder: Path) -> Path:
    """A transformers CLIP of two tiny towers."""
    import torch
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPTextConfig, CLIPVisionConfig

    torch.manual_seed(12)
    tower = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    special = {"pad_token_id": 0, "bos_token_id": tiny.IDS["[CLS]"], "eos_token_id": tiny.IDS["[SEP]"]}
    text = CLIPTextConfig(vocab_size=WIDE, max_position_embeddings=16, **tower, **special)
    model = CLIPModel(
        CLIPConfig(
            text_config=text.to_dict(),
            vision_config=CLIPVisionConfig(image_size=32, patch_size=16, **tower).to_dict(),
            projection_dim=8,
        )
    )
    model.save_pretrained(folder)
    tokenizer(folder)
    CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


OPEN_CLIP_VISION = {"image_size": 32, "layers": 1, "width": 16, "head_width": 8, "patch_size": 16}


def open_clip_folder(folder: Path, *, hub_text: bool) -> Path:
    """An open_clip folder: with a text tower of transformers and a timm image tower as BiomedCLIP has them, or OpenAI's way."""
    import torch
    from open_clip.factory import set_model_preprocess_cfg
    from open_clip.model import CLIP, CustomTextCLIP
    from open_clip.push_to_hf_hub import save_config_for_hf
    from safetensors.torch import save_file

    torch.manual_seed(13)
    folder.mkdir(parents=True)
    if hub_text:
        _bert(architectures=["BertModel"]).save_pretrained(folder / "text_model")
        tokenizer(folder)
        text: dict[str, Any] = {"hf_model_name": "nobody/not-on-any-hub", "hf_tokenizer_name": "nobody/not-on-any-hub"}
        text |= {"hf_proj_type": "mlp", "hf_pooler_type": "cls_last_hidden_state_pooler", "hf_model_pretrained": False}
        vision: dict[str, Any] = {
            "timm_model_name": "test_vit",
            "timm_model_pretrained": False,
            "timm_pool": "",
            "image_size": 160,
        }
        config: dict[str, Any] = {"embed_dim": 8, "vision_cfg": vision, "text_cfg": text | {"context_length": 24}}
        here = {"hf_model_name": str(folder / "text_model")}
        model: Any = CustomTextCLIP(**{**config, "text_cfg": config["text_cfg"] | here})
    else:
        text = {"context_length": 24, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1}
        config = {"embed_dim": 8, "vision_cfg": OPEN_CLIP_VISION, "text_cfg": text}
        model = CLIP(**config)
    scaled = {"mean": (0.48, 0.46, 0.41), "std": (0.27, 0.26, 0.28), "interpolation": "bicubic"}
    set_model_preprocess_cfg(model, scaled)
    save_file(model.state_dict(), folder / "open_clip_model.safetensors")
    save_config_for_hf(model, folder / "open_clip_config.json", model_config=config)
    return folder
