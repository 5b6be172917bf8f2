"""Folders in the hub's own formats, opened offline: a view of the verified files alone, and what went wrong in words.

The libraries look for files by many names. They are given a folder of links to the files that the entry names, each hashed a moment
ago: a file beside them that nobody sealed (a second weight file, code) is not there for them. Nothing is fetched. No code of a
model's folder is run: `auto_map`, by which a file names a class of the folder, is refused before any library sees it, and every
call says `trust_remote_code=False`, for what is left unsaid is asked at the terminal. Pickled weights are read as tensors only
(`torch.load(weights_only=True)`, as these libraries do from the versions on that pyproject.toml asks for).
"""

import contextlib
import json
import logging
import pickle
import re
import threading
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import torch
import transformers
from huggingface_hub.utils.tqdm import disable_progress_bars
from PIL import Image
from safetensors import SafetensorError, safe_open
from tokenizers import Tokenizer

from models.errors import Fatal, Permanent, Poison, Transient
from models.parts import part_done
from models.registering import files_of
from models.registry import Weights
from models.runtimes.pixels import Pixels

# For every from_pretrained; the second for a model's, whose answer goes to `whole`.
OFFLINE: Final[Mapping[str, Any]] = {"local_files_only": True, "trust_remote_code": False}
TOLD: Final = {**OFFLINE, "output_loading_info": True, "ignore_mismatched_sizes": True, "dtype": torch.float32}

_ZIP: Final = b"PK"  # how a file of torch.save begins since 1.6; before, as a pickle
_PICKLED: Final = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
_UNNAMED: Final = 'name the columns in config.json, "id2label": { "0": "its meaning", ... }, and seal the registry again'
_STAND_IN: Final = re.compile(r"LABEL_\d+|")
_COPY: Final = "a file is missing, damaged or of another model: copy the folder again"
_CUTTING: Final = (
    ".model",
    "tokenizer.json",
    "vocab.txt",
    "vocab.json",
    "vocab.bpe",
    "bpe.codes",
)  # how a tokenizer's files end
# Said of a patient, in short words: a vocabulary of any language with Latin letters has a piece of one of them.
_PLAIN: Final = "a mild fever chest pain cough the patient was seen today"
_SMALLEST: Final = 0.5  # of the embedding's rows: models round them up by some hundreds, not to twice as many
_STRETCHED: Final = 384  # pixels from which ConvNeXT's processor cuts nothing off
_one_at_a_time = threading.Lock()


def where(weights: Weights) -> str:
    """Return how an error names the model."""
    return f"model {weights.entry.name} {weights.entry.version}"


def read(weights: Weights, what: str, opening: Callable[[Path], Any]) -> Any:
    """Open something of the verified folder; a library's error becomes `Fatal` that says what it was and keeps its words.

    There is no patient's text yet, so the words may be shown: which file or key is missing.
    """
    _quiet()
    _look_over(weights)
    with weights.view() as folder:
        try:
            return opening(folder)
        except (Fatal, Permanent):
            raise
        except Exception as error:  # these libraries raise whatever they like
            words = " ".join(str(error).replace(str(folder), str(weights.folder)).split())
            pickled = ", ".join(file for file in weights.entry.files if file.endswith(_PICKLED))
            if isinstance(error, pickle.UnpicklingError) or "Weights only load failed" in words:
                raise Fatal(
                    f"{where(weights)}: {pickled or 'a file'} holds more than tensors, or is damaged",
                    hint="no code of a model's folder is run: save the weights as safetensors where they are trusted",
                ) from error
            raise Fatal(
                f"{where(weights)}: its {what} cannot be read ({type(error).__name__}: {words[:300]})"
                + (f"; its weights are {pickled}" if pickled else ""),
                hint=_why_not(weights),
            ) from error


def _quiet() -> None:
    """Silence what the libraries say of their own on opening: bars, and reports of which the openers here make errors."""
    disable_progress_bars()
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    for name in ("sentence_transformers", "huggingface_hub", "timm"):
        logging.getLogger(name).setLevel(logging.ERROR)


def _look_over(weights: Weights) -> None:
    """Raise `Fatal` where there are no weights, or a file is damaged, by its name, or names code of the folder."""
    if not any(file.endswith((".safetensors", *_PICKLED)) for file in weights.entry.files):
        raise Fatal(f"{where(weights)}: its weights cannot be read: no file of it is *.safetensors", hint=_why_not(weights))
    for file in weights.entry.files:
        path = weights.path(file)
        try:
            if file.endswith(".json"):
                found: Any = json.loads(path.read_text(encoding="utf-8"))
            elif file.endswith(".safetensors"):
                with safe_open(path, framework="pt"):
                    continue
            else:
                if file.endswith(_PICKLED):
                    _whole_pickle(weights, file)
                continue
        except (ValueError, SafetensorError) as error:
            kind = "JSON" if file.endswith(".json") else "whole safetensors file"
            raise Fatal(f"{where(weights)}: {file} is no {kind} ({' '.join(str(error).split())[:200]})", hint=_COPY) from error
        if (named := _auto_map(found)) is not None:
            raise Fatal(
                f"{where(weights)}: {file} names code of its own to run (auto_map: {json.dumps(named)[:200]})",
                hint="no code of a model's folder is run: where the library knows the architecture itself, take auto_map out and "
                "seal the registry again; else export the model to ONNX where it is trusted",
            )
        if file == "config.json":
            _one_map(found, weights)


def _one_map(config: Any, weights: Weights) -> None:
    """Raise `Fatal` where config.json names a column otherwise in `label2id` than in `id2label`: one of the two is wrong.

    The library's stand-ins (LABEL_0) say nothing.
    """
    by_number, by_name = (config.get(key) for key in ("id2label", "label2id")) if isinstance(config, dict) else (None, None)
    if not isinstance(by_number, dict) or not isinstance(by_name, dict):
        return
    for name, number in by_name.items():
        there = str(by_number.get(str(number), ""))
        if there != name and not any(_STAND_IN.fullmatch(one) for one in (name, there)):
            raise Fatal(
                f"{where(weights)}: config.json contradicts itself: column {number} is {name!r} by label2id, {there!r} by id2label",
                hint="which of the two the weights learned its publisher knows; mend the other and seal the registry again",
            )


def _whole_pickle(weights: Weights, file: str) -> None:
    """Raise `Fatal` where a file of pickled weights is empty, or an archive without its end: cut short."""
    path = weights.path(file)
    with path.open("rb") as stream:
        head = stream.read(2)
    if not head or (head == _ZIP and not zipfile.is_zipfile(path)):
        raise Fatal(f"{where(weights)}: {file} is {'cut short' if head else 'empty'}", hint=_COPY)


def _auto_map(found: Any) -> Any:
    """Return what a file's `auto_map` says, wherever it stands; a token of this name in a vocabulary has a number and is none."""
    if isinstance(found, dict):
        named = found.get("auto_map")
        if named is not None and not isinstance(named, int | float):
            return named
    inner: Iterable[Any] = found.values() if isinstance(found, dict) else found if isinstance(found, list) else ()
    return next((named for one in inner if isinstance(one, dict | list) and (named := _auto_map(one)) is not None), None)


def _why_not(weights: Weights) -> str:
    """Return a hint: files that lie in the folder and are not sealed, or that the folder lacks what the library looked for."""
    if unsealed := [file for file in files_of(weights.folder) if file not in weights.entry.files]:
        return f"in the folder but not in [model.files]: {', '.join(unsealed[:4])}; clear [model.files] and seal the registry again"
    return _COPY


def whole(loaded: tuple[Any, Mapping[str, Any]], weights: Weights, *, unused: str = "") -> Any:
    """Return the model of `from_pretrained(..., output_loading_info=True, ignore_mismatched_sizes=True)`.

    `unused` is a part whose weights may be missing. Raises `Fatal` where the files lack some of its weights, or have them in other
    sizes than config.json says: the library would go on with random numbers in their place, and warn.
    """
    model, told = loaded
    for key, has, wants in sorted(told.get("mismatched_keys", ())):
        if len(has) == len(wants) and tuple(has[1:]) == tuple(wants[1:]) and wants[0] == model.config.num_labels:
            raise Fatal(
                f"{where(weights)}: its head ({key}) has {has[0]} labels, {_labels_named(weights)}",
                hint=_UNNAMED,
            )
        raise Fatal(
            f"{where(weights)}: {key} is of size {tuple(has)} in its weights and {tuple(wants)} by config.json", hint=_COPY
        )
    missing = sorted(key for key in told["missing_keys"] if not unused or unused not in key.split("."))
    if missing:
        body = f"{model.base_model_prefix}."
        lost = any(key.startswith(body) for key in missing) or not hasattr(model, model.base_model_prefix)
        raise Fatal(
            f"{where(weights)}: its weights lack {', '.join(missing[:4])}"
            + (f" and {len(missing) - 4} more" if len(missing) > 4 else ""),
            hint=_COPY if lost else "it was not trained for this task: a base model must be fine-tuned first",
        )
    return model


def _labels_named(weights: Weights) -> str:
    named = json.loads(weights.path("config.json").read_text(encoding="utf-8")).get("id2label")
    return "config.json has no id2label" if named is None else f"id2label in config.json names {len(named)}"


@contextlib.contextmanager
def loading_told() -> Iterator[list[tuple[Any, Mapping[str, Any]]]]:
    """Gather, for `whole`, what is told of each transformers model that is opened in the block by a library that does not ask."""
    told: list[tuple[Any, Mapping[str, Any]]] = []
    kind = transformers.PreTrainedModel
    original = kind.__dict__["from_pretrained"]

    def telling(cls: Any, /, *args: Any, output_loading_info: bool = False, **options: Any) -> Any:
        found = original.__func__(cls, *args, **options | {"output_loading_info": True, "ignore_mismatched_sizes": True})
        told.append(found)
        return found if output_loading_info else found[0]

    with _one_at_a_time:
        kind.from_pretrained = classmethod(telling)
        try:
            yield told
        finally:
            kind.from_pretrained = original


def cutter(tokenizer: Any, weights: Weights, *, rows: int | None) -> Tokenizer:
    """Return a copy of a fast tokenizer's own cutter, which neither truncates nor pads.

    Raises `Fatal` for a slow tokenizer and for a static embedding's, and as `fitting`.
    """
    if isinstance(tokenizer, Tokenizer):  # of sentence-transformers' StaticEmbedding
        raise Fatal(
            f"{where(weights)}: a table of static embeddings is not served, only networks of transformers",
            hint="another sentence-transformers model",
        )
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if not isinstance(backend, Tokenizer):
        raise Fatal(
            f"{where(weights)}: its tokenizer gives no character offsets",
            hint="save it once as a fast tokenizer: AutoTokenizer.from_pretrained(..., use_fast=True).save_pretrained(...)",
        )
    fitting(tokenizer, weights, rows=rows)
    copy = Tokenizer.from_str(backend.to_str())
    copy.no_truncation()
    copy.no_padding()
    return copy


def holds_tokenizer(weights: Weights) -> None:
    """Raise `Fatal` where no file is a tokenizer's: the library would say something else, or make an empty one."""
    if not any(file.endswith(_CUTTING) for file in weights.entry.files):
        raise Fatal(
            f"{where(weights)}: its tokenizer is not in the folder: no tokenizer.json, vocab.txt, vocab.json or *.model",
            hint=_why_not(weights),
        )


def fitting(tokenizer: Any, weights: Weights, *, rows: int | None) -> None:
    """Hold a tokenizer of transformers to the folder and to the `rows` of the embedding (None: not known).

    Raises `Fatal` where its merges are not there (the library goes on without, letter by letter), where its vocabulary is larger
    than the embedding or far smaller (the library makes one of special tokens alone where it finds none), and where it knows none
    of some plain words.
    """
    here, merges = {Path(file).name for file in weights.entry.files}, tokenizer.vocab_files_names.get("merges_file")
    if merges and not here & {"tokenizer.json", merges}:
        raise Fatal(f"{where(weights)}: its tokenizer is not whole: no {merges}", hint=_why_not(weights))
    vocabulary = tokenizer.get_vocab()
    entries, last = len(vocabulary), max(vocabulary.values(), default=-1)
    if rows is not None and (last >= rows or entries < _SMALLEST * rows):
        raise Fatal(
            f"{where(weights)}: its tokenizer has {entries} entries (the last is {last}), its embedding {rows} rows",
            hint="the tokenizer is of another model: copy the folder again",
        )
    unknown = tokenizer.unk_token_id
    if unknown is not None and {*tokenizer(_PLAIN, add_special_tokens=False)["input_ids"]} == {unknown}:
        raise Fatal(
            f"{where(weights)}: its tokenizer knows not one word of {_PLAIN!r}",
            hint="its vocabulary is empty or damaged: copy the folder again",
        )


def rows_of(config: Any) -> int | None:
    """Return the rows of the embedding of tokens, by a transformers config (of the text tower, where there are two)."""
    rows = getattr(getattr(config, "text_config", None) or config, "vocab_size", None)
    return None if rows is None else int(rows)


def traceable(model: Any) -> Any:
    """Return a model with attention in plain products, where it has any: fused kernels are not traced into what quantises."""
    for part in model.modules():
        if isinstance(part, transformers.PreTrainedModel):
            part.set_attn_implementation("eager")
    return model


def heads_of(config: Any) -> int:
    """Return the heads of each attention, by a transformers config; 0 where it does not say."""
    return int(getattr(config, "num_attention_heads", 0) or 0)


def pixels_of(processor: Any, channels: int, where: str) -> Pixels:
    """Say in numbers what an image processor of transformers does. Raises `Permanent` where it does what cannot be said so."""
    size, crop = (getattr(processor, name, None) or {} for name in ("size", "crop_size"))
    shortest, resized = _side(size, "shortest_edge"), (_side(size, "height"), _side(size, "width"))
    cut = (_side(crop, "height"), _side(crop, "width")) if getattr(processor, "do_center_crop", False) else (0, 0)
    if shortest and hasattr(processor, "crop_pct"):  # ConvNeXT: resized by more and cut back, or from 384 pixels on stretched
        wide = shortest >= _STRETCHED
        resized, cut = ((shortest, shortest), (0, 0)) if wide else (resized, (shortest, shortest))
        shortest = 0 if wide else int(shortest / processor.crop_pct)
    if not getattr(processor, "do_resize", False) or not (all(resized) or (shortest and all(cut))):
        raise Permanent(
            f"{where}: its {type(processor).__name__} does not bring an image to one size",
            hint="an ONNX entry can say height and width, or a shortest side and a crop: mend preprocessor_config.json",
        )
    scaled = getattr(processor, "do_normalize", False)
    mean, std = processor.image_mean if scaled else 0.0, processor.image_std if scaled else 1.0
    return Pixels(
        _by_channel(mean, channels),
        _by_channel(std, channels),
        factor=float(processor.rescale_factor) if getattr(processor, "do_rescale", False) else 1.0,
        fit=resized if all(resized) else (),
        shortest=0 if all(resized) else shortest,
        crop=cut if all(cut) else (),
        resample=Image.Resampling(int(processor.resample)).name.lower(),
    )


def _by_channel(said: Any, channels: int) -> tuple[float, ...]:
    return tuple(map(float, said if isinstance(said, list | tuple) else [said] * channels))


def _side(size: Any, name: str) -> int:
    found = size.get(name) if isinstance(size, Mapping) else getattr(size, name, None)
    return int(found or 0)


def device_of(weights: Weights) -> str:
    """Return `preprocessing.device`, "cpu" by default. Raises `Permanent` for one that is not here."""
    device = str(weights.entry.preprocessing.get("device", "cpu"))
    try:
        torch.empty(1, device=device).cpu()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        hint = 'set preprocessing.device = "cpu"; of GPUs "cuda", or "cuda:1" for the second'
        raise Permanent(f"{where(weights)}: torch finds no device {device!r} here", hint=hint) from error
    return device


@contextlib.contextmanager
def running(name: str) -> Iterator[None]:
    """Run a model: without gradients; what it raises is `Transient` (memory) or `Poison`, without words that may quote a text."""
    try:
        with torch.inference_mode():
            yield
        part_done()
    except torch.OutOfMemoryError as error:
        raise Transient(f"{name}: out of memory in a run") from error
    except (RuntimeError, ValueError, IndexError, TypeError, KeyError) as error:
        if "allocate" in str(error).lower():
            raise Transient(f"{name}: out of memory in a run") from error
        raise Poison(f"{name}: the run failed ({type(error).__name__})", stage="model") from error
