"""`transformers` CLIP folders (CLIPModel and its kin): both towers, the folder's own tokenizer and image processor."""

from collections.abc import Sequence
from typing import Any

import torch
import transformers
from PIL import Image

from models.registry import Weights
from models.runtimes import hub
from models.runtimes.clip import Export, TorchImageText, Tower, scale_of


def load(weights: Weights, *, threads: int) -> TorchImageText:
    """Open it, for the registry. Raises `Fatal` where files and config do not fit each other."""
    torch.set_num_threads(threads)
    device = hub.device_of(weights)
    model, tokenizer, processor = hub.read(weights, "transformers folder", lambda folder: _opened(folder, weights))
    model = model.eval().to(device)
    limit = int(model.config.text_config.max_position_embeddings)

    def see(pictures: Sequence[Image.Image]) -> dict[str, Any]:
        return {"pixel_values": processor(images=list(pictures), return_tensors="pt")["pixel_values"].to(device)}

    def cut(given: Sequence[str]) -> dict[str, Any]:
        tokens = tokenizer(list(given), padding=True, return_tensors="pt").to(device)
        return {key: tokens[key] for key in ("input_ids", "attention_mask")}

    def texts(input_ids: Any, attention_mask: Any) -> Any:
        return _features(model.get_text_features(input_ids=input_ids, attention_mask=attention_mask))

    return TorchImageText(
        weights,
        Tower(see, lambda pixel_values: _features(model.get_image_features(pixel_values=pixel_values))),
        Tower(cut, texts),
        tokens=lambda text: len(tokenizer(text, truncation=False)["input_ids"]),
        limit=limit,
        scale=scale_of(model),
        export=Export(
            model,
            lambda: hub.pixels_of(processor, 3, hub.where(weights)),
            lambda: hub.cutter(tokenizer, weights, rows=hub.rows_of(model.config)),
        ),
    )


def _opened(folder: Any, weights: Weights) -> tuple[Any, Any, Any]:
    hub.holds_tokenizer(weights)
    model = hub.whole(transformers.AutoModel.from_pretrained(folder, **hub.TOLD), weights)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, **hub.OFFLINE)
    hub.fitting(tokenizer, weights, rows=hub.rows_of(model.config))
    return model, tokenizer, transformers.AutoImageProcessor.from_pretrained(folder, **hub.OFFLINE)


def _features(found: Any) -> Any:
    return found if isinstance(found, torch.Tensor) else found.pooler_output  # since transformers 5
