"""From a model on torch to folders that its task's ONNX runtime opens: one in fp32, and one of each way of quantising."""

import contextlib
import shutil
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from models.errors import Permanent, VigilError
from models.export import Feeds, apart, parity, run, to_onnx
from models.fusing import fused
from models.quantising import FP32, Make, ways
from models.runtimes.exportable import Network, Plan

_TRIED: Final = 8  # items on which an attention in one operator is held against the one that it stands for
_ALIKE: Final = 1e-3  # of the furthest value: sums come in another order
_INTEGERS: Final = ("MatMulInteger", "ConvInteger", "DynamicQuantizeLinear", "QuantizeLinear", "DequantizeLinear")


def in_fp32(plan: Plan, items: Sequence[Any], words: Sequence[str], folder: Path, where: str) -> Path:
    """Trace every network of a plan and put the files beside. Raises `Permanent` where torch cannot trace one."""
    folder.mkdir(parents=True)
    for network in plan.networks:
        try:
            traced(network, _given(network, plan, items, words)[0], folder / network.file)
        except VigilError:
            raise
        except Exception as error:  # whatever torch's exporter runs into; its words are of the model, though an item was run
            raise Permanent(
                f"{where}: torch cannot write its {network.file} ({type(error).__name__})",
                hint="this architecture cannot be exported here: let it serve on torch, as it does",
            ) from error
    if {path.name for path in folder.iterdir()} != {network.file for network in plan.networks}:
        raise Permanent(f"{where}: its weights do not fit one ONNX file (2 GB)", hint="let it serve on torch, as it does")
    plan.write(folder)
    return folder


def traced(network: Network, item: Any, path: Path) -> Path:
    """Write one network as ONNX; how many items, and how long texts are, stays open."""
    import torch

    class Called(torch.nn.Module):  # type: ignore[misc]  # torch ships no types that mypy is shown
        def __init__(self) -> None:
            super().__init__()
            self.module = network.module

        def forward(self, *tensors: Any) -> Any:
            return network.call(*tensors)

    example = {name: torch.cat([value, value]).cpu() for name, value in network.feed(item).items()}
    axes = {0: "batch", 1: "tokens"} if network.of_texts else {0: "batch"}
    torch.backends.mha.set_fastpath_enabled(False)  # one operator for a whole attention, which ONNX has not
    with torch.inference_mode():
        wide = network.call(*example.values()).ndim == 3  # a row for each token
    dynamic = dict.fromkeys(example, axes) | {network.output: axes if wide else {0: "batch"}}
    return to_onnx(Called(), tuple(example.values()), path, inputs=tuple(example), outputs=(network.output,), dynamic=dynamic)


def quantised(
    plan: Plan,
    full: Path,
    calibration: Sequence[Any],
    words: Sequence[str],
    scratch: Path,
    told: Callable[[str], None] = lambda way: None,
) -> Mapping[str, Callable[[], Path]]:
    """Return each way of quantising by name: called, it makes a folder of it. `told` hears what is looked for beforehand."""
    made: dict[str, Mapping[str, Make | None]] = {}
    heads: dict[str, int] = {}
    for network in plan.networks:
        told(f"outliers of {network.file}")
        takes = inputs_of(full / network.file)
        feeds = [_plain(network.feed(item), takes) for item in _given(network, plan, calibration, words)]
        split = scratch / "split" / network.file
        left = apart(full / network.file, split, feeds)
        made[network.file] = ways(feeds, left, split=split, convolutions=not network.of_texts)
        if network.heads and _fuses(network, full / network.file, feeds[:_TRIED], scratch / "fused" / network.file):
            heads[network.file] = network.heads

    def make(way: str) -> Path:
        folder = scratch / way.replace(",", "").replace(" ", "-")
        folder.mkdir()
        for path in full.iterdir():
            if path.name not in made:
                shutil.copyfile(path, folder / path.name)
        for file, ways_of_it in made.items():
            if (write := ways_of_it[way]) is not None:
                write(full / file, folder / file)
            if file in heads:
                with contextlib.suppress(Permanent):  # static has integers within the attention: it stays as it is
                    fused(folder / file, folder / file, heads=heads[file], padded=True)
        return folder

    names = next(iter(made.values()))
    return {way: lambda way=way: make(way) for way in names if way != FP32}  # type: ignore[misc]  # mypy: a default for a lambda


def _fuses(network: Network, full: Path, feeds: Sequence[Feeds], scratch: Path) -> bool:
    """Say whether an encoder's attention can be one operator (`models.fusing`): it is found, and in fp32 gives the same."""
    try:
        fused(full, scratch, heads=network.heads, padded=True)
    except Permanent:
        return False
    one, other = (run(path, network.output, feeds) for path in (full, scratch))
    reach = max(float(np.abs(values).max()) for values in one)
    return parity(one, other).largest <= _ALIKE * reach


def _given(network: Network, plan: Plan, items: Sequence[Any], words: Sequence[str]) -> Sequence[Any]:
    """Return the items that a network takes: a text tower beside images has its prompts and some words."""
    texts = any(isinstance(item, str) for item in items)
    return items if texts == network.of_texts else (*plan.texts, *words)


def _plain(tensors: Mapping[str, Any], takes: Collection[str]) -> Feeds:
    return {name: np.ascontiguousarray(value.cpu().numpy()) for name, value in tensors.items() if name in takes}


def inputs_of(path: Path) -> set[str]:
    """Return the names of what a graph takes: of what it was given in the tracing, what it looks at."""
    import onnx

    return {one.name for one in onnx.load(path, load_external_data=False).graph.input}


def in_integers(plan: Plan, folder: Path) -> bool:
    """Say whether a graph of a folder computes with integers: a way that finds nothing to quantise leaves a model in fp32."""
    import onnx

    graphs = [onnx.load(folder / network.file, load_external_data=False).graph for network in plan.networks]
    return any(node.op_type in _INTEGERS for graph in graphs for node in graph.node)
