"""Models that fail in their real runtime: graphs of a few bytes whose ONNX Runtime session gives NaN or raises. Needs `onnx`."""

import json
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from tests.clinic import site_registry
from tests.faults.arena import Arena, Fault, Twist
from tests.faults.inputs import PHI, Sent
from tests.faults.workers import nothing
from tests.tiny_models import IDS, classifier_folder, entry_of, scores

RAISES = "x9"  # its second token is the vocabulary's last: the table ends before it
SPOILS = "aspirin"


def nan_table() -> np.ndarray:
    """Scores that are not a number for one word."""
    table = scores()
    table[IDS[SPOILS]] = np.nan
    return table


def short_table() -> np.ndarray:
    """Scores without the last token's: ONNX Runtime raises when it is asked for."""
    return scores()[:-1]


def model_of(table: Callable[[], np.ndarray]) -> Callable[[Arena], None]:
    """Lay a registry over the packaged one, with a tiny named-entity model of this table as champion."""

    def prepare(arena: Arena) -> None:
        folder = classifier_folder(arena.folder / "model", table())
        entry = entry_of(folder).model_dump(exclude_defaults=True)
        registry = site_registry(arena.folder, champions={"ner": "tiny"}, models=[entry])
        arena.env["VIGIL_MODELS__REGISTRY"] = str(registry)

    return prepare


def texts(trouble: str) -> Callable[[Arena], Twist]:
    """Give every tenth note the word that the model cannot bear; its neighbours are well."""

    def prepare(arena: Arena) -> Twist:
        def twist(number: int, one: Sent) -> list[Sent]:
            bad = number % 10 == 4
            arena.spoilt += bad
            body = {**json.loads(one.value or b""), "text": f"mild cough, {PHI} {trouble if bad else 'fever'}."}
            return [replace(one, value=json.dumps(body).encode())]

        return twist

    return prepare


FAULTS = [
    Fault(
        name,
        "notes-entities",
        words,
        nothing,
        twist=texts(trouble),
        prepare=model_of(table),
        same=False,
        seen="dead_lettered",
    )
    for name, words, trouble, table in (
        ("model-raises", "ONNX Runtime raises on a tenth of the notes", RAISES, short_table),
        ("model-nan", "the model's scores are not a number for a tenth of the notes", SPOILS, nan_table),
    )
]
