"""A model tried out before anybody relies on it: by a short input, and by the longest one that a lane would send.

A file of the right digest may still be of another width than its entry says, full of NaN, or too short for its own limit: then the
lane would find out at the first patient. One run of each costs milliseconds. What is asked has no clinical meaning: any answer of
the right form counts.
"""

from collections.abc import Callable, Mapping
from typing import Any, Final

import numpy as np

from models.errors import Fatal, Permanent, VigilError
from models.tasks import DeteriorationModel, Floats, HomeModel, ImageTextModel, TextEmbedder, TokenClassifier

_SHORT: Final = "a"
_WORD: Final = "today"  # one token in the vocabularies of English
_SPECIAL: Final = 2  # tokens that a chunker leaves room for
_UNIT: Final = 1e-3  # by which a vector's length may be off 1
_PICTURE: Final = (480, 640)  # pixels, rows and columns


def probe(model: Any, protocol: type, where: str) -> None:
    """Run a model that fills in a protocol of `models.tasks`; another protocol has no trial. `where` names the model in errors.

    Raises `Fatal`: a run failed, or its answer is of another shape than the model says, not finite, or out of range.
    """
    tried = _PROBES.get(protocol)
    if tried is None:
        return
    try:
        tried(model)
    except _WrongError as error:
        hint = "its files and its entry do not fit each other, or it is damaged: mend the entry, or export it again"
        raise Fatal(f"{where}: {error}", hint=hint) from error
    except (Fatal, Permanent):
        raise
    except Exception as error:  # Poison, Transient, or whatever numpy finds odd; there is no patient's text in it
        raise failed(error, where) from error


def failed(error: Exception, where: str) -> Fatal:
    """Return what is raised where a trial run raised this."""
    words = str(error).removeprefix(f"{where}: ") if isinstance(error, VigilError) else f"{type(error).__name__}: {error}"
    return Fatal(
        f"{where}: a trial run failed: {' '.join(words.split())[:300]}",
        hint="does it take inputs as long, or as large, as [model.preprocessing] says? else its weights are damaged",
    )


class _WrongError(Exception):
    """An answer that cannot be right, in words."""


def _embedder(model: TextEmbedder) -> None:
    for what, text in (("a short text", _SHORT), (f"a text of up to {model.limit} tokens", _filling(model))):
        _vectors(model.embed([text]), model.dimensions, what)


def _filling(model: TextEmbedder) -> str:
    """Return as many whole words as a chunk may have tokens, or as fit."""
    of_a_word = max(1, len(model.offsets(_WORD)))
    return " ".join([_WORD] * ((model.limit - _SPECIAL) // of_a_word)) or _SHORT


def _classifier(model: TokenClassifier) -> None:
    room = int(getattr(model, "room", 64))  # tokens of one run, where the model cuts by them
    for what, text in (("a short text", _SHORT), (f"a text of {room} words", " ".join([_WORD] * room))):
        for span in model.find([text])[0]:
            if not (0 <= span.start < span.end <= len(text) and 0 <= span.score <= 1):
                raise _WrongError(f"to {what} it gives {span.label} at {span.start} to {span.end} with score {span.score}")


def _image_text(model: ImageTextModel) -> None:
    shades = np.broadcast_to(np.linspace(0, 255, _PICTURE[1]).astype(np.uint8), _PICTURE).copy()
    vectors = model.embed_images([shades])
    _vectors(vectors, model.dimensions, "an image")
    _within(model.classify(vectors), (1, len(model.labels)), "of an image its scores")
    try:
        _vectors(model.embed_texts(["pneumonia"]), model.dimensions, "a word")
    except Permanent:
        return  # an image classifier: it has no text tower


def _deterioration(model: DeteriorationModel) -> None:
    _windows(model.score, model.hours, len(model.features))


def _home(model: HomeModel) -> None:
    _windows(model.score, model.days, len(model.features))


def _windows(score: Callable[[Floats], Floats], steps: int, features: int) -> None:
    newest, full = np.full((1, steps, features), np.nan, np.float32), np.ones((1, steps, features), np.float32)
    newest[:, -1] = 1.0
    for what, windows in (("the newest values alone", newest), ("a full window", full)):
        _within(score(windows), (1,), f"to {what} its score")


def _vectors(rows: Any, dimensions: int, what: str) -> None:
    found = np.asarray(rows)
    if found.shape != (1, dimensions):
        raise _WrongError(f"to {what} it gives numbers of shape {list(found.shape)}, not {[1, dimensions]}")
    length = float(np.linalg.norm(found[0]))  # NaN where a number is not finite
    if not abs(length - 1) <= _UNIT:
        raise _WrongError(f"to {what} it gives a vector of length {length:.3g}, not 1")


def _within(values: Any, shape: tuple[int, ...], what: str) -> None:
    found = np.asarray(values)
    if found.shape != shape:
        raise _WrongError(f"{what} are of shape {list(found.shape)}, not {list(shape)}")
    if not ((found >= 0) & (found <= 1)).all():  # nor is NaN
        raise _WrongError(f"{what} are not between 0 and 1: {', '.join(f'{value:.3g}' for value in found.ravel()[:4])}")


_PROBES: Final[Mapping[type, Callable[[Any], None]]] = {
    TextEmbedder: _embedder,
    TokenClassifier: _classifier,
    ImageTextModel: _image_text,
    DeteriorationModel: _deterioration,
    HomeModel: _home,
}
