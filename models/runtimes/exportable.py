"""What a model on torch says of itself to whoever exports it: its networks, and what its task's ONNX runtime needs."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Protocol, runtime_checkable

TOKENIZER: Final = "tokenizer.json"


@dataclass(frozen=True, slots=True, eq=False)
class Network:
    """One graph to be: `module` has the weights, `call` takes the tensors that `feed` makes of an item, in that order."""

    file: str
    module: Any
    call: Callable[..., Any]
    feed: Callable[[Any], Mapping[str, Any]]  # of one text or one 8-bit image: name -> tensor [1, ...]
    output: str
    of_texts: bool = True  # else of images
    heads: int = 0  # of each attention of a transformer's encoder, 0 where it is none or not known


@dataclass(frozen=True, slots=True, eq=False)
class Plan:
    """A model as its task's ONNX runtime has it. `write` puts the files beside the graphs, which are no network, into a folder."""

    runtime: str
    networks: tuple[Network, ...]
    preprocessing: Mapping[str, Any]
    labels: tuple[str, ...]
    write: Callable[[Path], None]
    texts: tuple[str, ...] = field(default=())  # texts that it asks by itself: prompts


@runtime_checkable
class Exportable(Protocol):
    """A runtime object that can be exported."""

    def plan(self) -> Plan:
        """Return it. Raises `Permanent` where the model does what no ONNX entry can say."""
        ...
