"""Folders in the hub's own formats, opened offline: a view of the verified files alone, and what went wrong in words.

The libraries look for files by many names. They are given a folder of links to the files that the entry names, each hashed a moment
ago: a file beside them that nobody sealed (a second weight file, code) is not there for them. Nothing is fetched, no code of a
model's folder is run (`trust_remote_code` stays off), and pickled weights are read as tensors only.
"""

import contextlib
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer

from models.errors import Fatal, Permanent, Poison, Transient
from models.parts import part_done
from models.registry import Weights


@contextlib.contextmanager
def verified(weights: Weights) -> Iterator[Path]:
    """Show the entry's files as a folder of their own while the block runs."""
    with tempfile.TemporaryDirectory(prefix="vigil-model-") as name:
        view = Path(name)
        for file in weights.entry.files:
            link = view / file
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(weights.path(file).resolve())
        yield view


def where(weights: Weights) -> str:
    """Return how an error names the model."""
    return f"model {weights.entry.name} {weights.entry.version}"


def read(weights: Weights, what: str, opening: Callable[[Path], Any]) -> Any:
    """Open something of the verified folder; a library's error becomes `Fatal` that says what it was and keeps its words.

    There is no patient's text yet, so the words may be shown: which file or key is missing.
    """
    with verified(weights) as folder:
        try:
            return opening(folder)
        except (Fatal, Permanent):
            raise
        except Exception as error:  # these libraries raise whatever they like
            first = (str(error).strip().splitlines() or [""])[0].replace(str(folder), str(weights.folder))
            raise Fatal(
                f"{where(weights)}: its {what} cannot be read ({type(error).__name__}: {first[:300]})",
                hint="[model.files] must name every file of the folder: clear it and seal the registry again",
            ) from error


def whole(loaded: tuple[Any, Mapping[str, Any]], weights: Weights) -> Any:
    """Return the model of `from_pretrained(..., output_loading_info=True)`.

    Raises `Fatal` where the files lack some of its weights: the library would go on with random numbers in their place, and warn.
    """
    model, told = loaded
    if missing := sorted(told["missing_keys"]) + sorted(str(one) for one in told.get("mismatched_keys", ())):
        raise Fatal(
            f"{where(weights)}: its weights lack {', '.join(missing[:4])}",
            hint="it was not trained for this task: a base model must be fine-tuned first",
        )
    return model


def cutter(tokenizer: Any, weights: Weights) -> Tokenizer:
    """Return a copy of a fast tokenizer's own cutter, which neither truncates nor pads. Raises `Fatal` for a slow tokenizer."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if not isinstance(backend, Tokenizer):
        raise Fatal(
            f"{where(weights)}: its tokenizer gives no character offsets",
            hint="save it once as a fast tokenizer: AutoTokenizer.from_pretrained(..., use_fast=True).save_pretrained(...)",
        )
    copy = Tokenizer.from_str(backend.to_str())
    copy.no_truncation()
    copy.no_padding()
    return copy


def device_of(weights: Weights) -> str:
    """Return `preprocessing.device`, "cpu" by default. Raises `Permanent` for one that is not here."""
    device = str(weights.entry.preprocessing.get("device", "cpu"))
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise Permanent(f"{where(weights)}: torch finds no {device!r} here", hint='set preprocessing.device = "cpu"')
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
