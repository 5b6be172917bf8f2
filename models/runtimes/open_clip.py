"""`open_clip` folders (BiomedCLIP, OpenAI's CLIP): open_clip_config.json, weights and, where its text tower has one, a tokenizer.

A text tower that is a transformers model (BiomedCLIP's is a BERT) is named in the config by its place on the hub. Nothing is
fetched: its own config.json is looked for in the subfolder `text_model` of the folder. OpenAI's tokenizer comes with the library.
"""

import contextlib
import json
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import open_clip
import torch
from open_clip.hf_model import HFTextEncoder
from tokenizers import Regex, Tokenizer, normalizers, pre_tokenizers, processors
from tokenizers import models as bpe

from models.errors import Fatal, Permanent
from models.registry import Weights
from models.runtimes import hub
from models.runtimes.clip import Export, TorchImageText, Tower, scale_of
from models.runtimes.pixels import Pixels

_CONFIG: Final = "open_clip_config.json"
_TEXT: Final = "text_model"
_ENDS: Final = ("<start_of_text>", "<end_of_text>")
_WORDS: Final = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"  # open_clip's own, ends left out


def load(weights: Weights, *, threads: int) -> TorchImageText:
    """Open it, for the registry. Raises `Fatal` where files and config do not fit each other."""
    torch.set_num_threads(threads)
    device = hub.device_of(weights)
    model, prepare, tokenizer = hub.read(weights, "open_clip folder", lambda folder: _opened(folder, device, weights))
    model.eval()
    return TorchImageText(
        weights,
        Tower(lambda images: {"image": torch.stack([prepare(image) for image in images]).to(device)}, model.encode_image),
        Tower(lambda texts: {"text": tokenizer(list(texts)).to(device)}, model.encode_text),
        tokens=_counter(tokenizer),
        limit=int(tokenizer.context_length),
        scale=scale_of(model),
        export=Export(
            model,
            lambda: _pixels(model, weights),
            lambda: _cutter(tokenizer, weights),
            # A tower of open_clip's own has a mask of the whole context's size; one of transformers takes any length.
            context=0 if isinstance(getattr(model, "text", None), HFTextEncoder) else int(tokenizer.context_length),
            pad=int(getattr(getattr(model, "text", model), "pad_id", 0) or 0),
        ),
    )


def _pixels(model: Any, weights: Weights) -> Pixels:
    said = dict(model.visual.preprocess_cfg)
    height, width = said["size"] if isinstance(said["size"], list | tuple) else (said["size"], said["size"])
    mode = said["resize_mode"]
    if mode not in ("shortest", "squash") or (mode == "shortest" and height != width):
        raise Permanent(
            f"{hub.where(weights)}: {_CONFIG} has resize_mode {mode!r} to {width} x {height}, which no ONNX entry can say",
            hint="resize_mode shortest (of a square) and squash can be exported",
        )
    size = {"shortest": height, "crop": (height, width), "round": "even"} if mode == "shortest" else {"fit": (height, width)}
    return Pixels(tuple(map(float, said["mean"])), tuple(map(float, said["std"])), resample=said["interpolation"], **size)


def _cutter(tokenizer: Any, weights: Weights) -> Tokenizer:
    """Return the folder's tokenizer, or OpenAI's, which the library has in a form of its own, as `tokenizers` has it."""
    inner = getattr(tokenizer, "tokenizer", None)
    if inner is not None:
        return hub.cutter(inner, weights, rows=None)
    vocabulary, (first, last) = tokenizer.encoder, _ENDS
    made = Tokenizer(bpe.BPE(dict(vocabulary), list(tokenizer.bpe_ranks), end_of_word_suffix="</w>", unk_token=last))
    made.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    words = pre_tokenizers.Split(Regex(_WORDS), behavior="removed", invert=True)
    made.pre_tokenizer = pre_tokenizers.Sequence([words, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    ends = [(token, vocabulary[token]) for token in _ENDS]
    made.post_processor = processors.TemplateProcessing(single=f"{first} $A {last}", special_tokens=ends)
    return made


def _opened(folder: Path, device: str, weights: Weights) -> tuple[Any, Any, Any]:
    config = folder / _CONFIG
    described = json.loads(config.read_text(encoding="utf-8"))
    text, vision = (described.get("model_cfg", {}).get(f"{tower}_cfg", {}) for tower in ("text", "vision"))
    if ":" in str(vision.get("timm_model_name", "")):  # a place on a hub or another folder: fetched, or never hashed
        raise Fatal(
            f"{hub.where(weights)}: {_CONFIG} takes its image tower from {vision['timm_model_name']}",
            hint="name an architecture of timm there, without a place",
        )
    if text.get("hf_model_name"):
        if not (folder / _TEXT / "config.json").is_file():
            raise Fatal(
                f"{hub.where(weights)}: the config of its text tower ({text['hf_model_name']}) is not in the folder",
                hint=f"save it once where the hub can be reached: AutoConfig.from_pretrained({text['hf_model_name']!r})"
                f".save_pretrained('{weights.folder / _TEXT}'), and seal the registry again",
            )
        text["hf_model_name"] = str(folder / _TEXT)
        config.unlink()  # a link to the sealed file: this view of it alone says where the text tower lies
        config.write_text(json.dumps(described), encoding="utf-8")
    if text.get("hf_tokenizer_name"):
        hub.holds_tokenizer(weights)
    place = f"local-dir:{folder}"
    with _root_quiet():
        model, prepare = open_clip.create_model_from_pretrained(place, device=device, weights_only=True)
        # What the config says of the tokenizer's arguments is laid under these.
        more = {"trust_remote_code": False} if text.get("hf_tokenizer_name") else {}
        tokenizer = open_clip.get_tokenizer(place, **more)
    _fitting(tokenizer, int(getattr(model, "vocab_size", 0) or model.text.vocab_size), weights)
    return model, prepare, tokenizer


@contextlib.contextmanager
def _root_quiet() -> Iterator[None]:
    """Keep out of the log what open_clip says through the root logger itself, and keep it from setting that logger up."""

    def others(record: logging.LogRecord) -> bool:
        return "open_clip" not in record.pathname

    root, silent = logging.getLogger(), logging.NullHandler()
    root.addFilter(others)
    root.addHandler(silent)
    try:
        yield
    finally:
        root.removeHandler(silent)
        root.removeFilter(others)


def _fitting(tokenizer: Any, rows: int, weights: Weights) -> None:
    """Raise `Fatal` where the tokenizer does not fit the text tower's embedding; the library's own (no files) by its size alone."""
    inner = getattr(tokenizer, "tokenizer", None)
    if inner is not None:
        hub.fitting(inner, weights, rows=rows)
    elif tokenizer.vocab_size > rows:
        raise Fatal(
            f"{hub.where(weights)}: the tokenizer of open_clip has {tokenizer.vocab_size} entries, its text tower {rows} rows",
            hint=f"hf_tokenizer_name in {_CONFIG} must name the tokenizer, and the folder hold it",
        )


def _counter(tokenizer: Any) -> Callable[[str], int]:
    """Count a text's tokens uncut: the tokenizers themselves cut at the context's length, and say nothing."""
    inner = getattr(tokenizer, "tokenizer", None)
    if inner is not None:
        return lambda text: len(inner(text, truncation=False)["input_ids"])
    return lambda text: len(tokenizer.encode(text)) + 2  # start and end
