"""Export: torch -> ONNX -> INT8, and how close what comes out is to what went in. Needs the `train` extra.

Dynamic INT8 with a scale per output channel: weights are stored as 8-bit integers, activations are scaled at run time, so no
calibration set is needed. `models.quantising` holds the other ways against it.
"""

import contextlib
import logging
import math
import shutil
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

import numpy as np
from numpy.typing import NDArray

from models.errors import Permanent

T = TypeVar("T")
Feeds = Mapping[str, NDArray[Any]]
Axes = Mapping[str, Mapping[int, str]]

# What MiniLM leaves in fp32: the inputs of this product reach far beyond the rest, so that one scale for all of them costs most of
# what INT8 loses in the whole model (recall@1 of mtsamples dev .675 with it in INT8, .687 without, .688 in fp32).
OUTLIERS: Final = ("layer.0/output/dense/MatMul",)


_WARNINGS, _ERRORS = 2, 3  # as ONNX Runtime numbers them; it begins with warnings
_FAR: Final = 4.0  # times what a channel reaches in the middle: one that reaches further is an outlier
_MOST_OUTLIERS: Final = 16  # channels of one input


@dataclass(frozen=True, slots=True)
class Parity:
    """How far an exported model is from its source, over `items` inputs."""

    items: int
    largest: float  # largest absolute difference of any output value
    cosine_mean: float  # of output rows (last axis)
    cosine_lowest: float


def to_onnx(
    model: Any,
    example: Sequence[Any],
    path: Path,
    *,
    inputs: Sequence[str],
    outputs: Sequence[str],
    dynamic: Axes,
    opset: int = 17,
) -> Path:
    """Write a torch module as ONNX.

    `example` are tensors for `inputs`, in order; `dynamic` names the axes whose length is open, by input or output name. A
    transformer must have been built with eager attention: fused kernels do not quantise.
    """
    import torch

    model.eval()
    path.parent.mkdir(parents=True, exist_ok=True)
    with torch.inference_mode(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the tracer warns of every Python branch; parity is measured afterwards
        torch.onnx.export(
            model,
            tuple(example),
            str(path),
            input_names=list(inputs),
            output_names=list(outputs),
            dynamic_axes={name: dict(axes) for name, axes in dynamic.items()},
            opset_version=opset,
            do_constant_folding=True,
            dynamo=False,
        )
    return path


def to_int8(
    source: Path,
    target: Path,
    *,
    reduce_range: bool = True,
    skip: Sequence[str] = (),
    per_channel: bool = True,
    kinds: Sequence[str] = (),
) -> Path:
    """Quantise weights to INT8, a scale per channel (or per tensor); activations at run time.

    `reduce_range` keeps weights to 7 bits: without VNNI instructions a processor adds products in 16 bits, where 8-bit weights
    can overflow. `skip` names graph nodes to leave as they are, `kinds` those to look at (none: all that the runtime knows).
    """
    from onnxruntime.quantization import QuantType, quantize_dynamic

    def write(prepared: str, written: str) -> None:
        quantize_dynamic(
            prepared,
            written,
            per_channel=per_channel,
            reduce_range=reduce_range,
            weight_type=QuantType.QInt8,
            nodes_to_exclude=list(skip),
            op_types_to_quantize=list(kinds) or None,
        )

    return quantised(source, target, write)


def quantised(source: Path, target: Path, write: Callable[[str, str], None]) -> Path:
    """Quantise by `write(prepared, written)`, both paths, from a graph made ready for it; `target` gets a whole file or none."""
    from onnxruntime.quantization.shape_inference import quant_pre_process

    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, _quiet():
        prepared, written = Path(folder) / "prepared.onnx", Path(folder) / "int8.onnx"
        # symbolic shapes fail on positions cut to the length of the input, and INT8 of products does not need them
        quant_pre_process(str(source), str(prepared), skip_symbolic_shape=True)
        write(str(prepared), str(written))
        shutil.copyfile(written, target)
    return target


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep to itself what the quantiser warns of, through the root logger and at the terminal: shapes that it does not need."""
    import onnxruntime

    def others(record: logging.LogRecord) -> bool:
        return "onnxruntime" not in record.pathname or record.levelno >= logging.ERROR

    root, silent = logging.getLogger(), logging.NullHandler()  # with a handler, logging.warning sets none up
    root.addFilter(others)
    root.addHandler(silent)
    onnxruntime.set_default_logger_severity(_ERRORS)
    try:
        yield
    finally:
        onnxruntime.set_default_logger_severity(_WARNINGS)
        root.removeHandler(silent)
        root.removeFilter(others)


def nodes(path: Path, endings: Sequence[str]) -> list[str]:
    """Return the names of the graph's nodes that end so, for `to_int8`'s `skip`.

    Raises `Permanent` where one of the endings fits none.
    """
    import onnx

    names = [node.name for node in onnx.load(path, load_external_data=False).graph.node]
    for ending in endings:
        if not any(name.endswith(ending) for name in names):
            raise Permanent(f"no node of the exported graph ends in {ending!r}")
    return [name for name in names if name.endswith(tuple(endings))]


def apart(source: Path, target: Path, feeds: Sequence[Feeds]) -> list[str]:
    """Write the graph with the outliers of its products' inputs multiplied apart; return the nodes to leave in fp32.

    x W = (x without its outlying channels) W + (those channels) (their rows of W). A few channels of a transformer's states reach
    tens of times as far as the others; one scale for all of an input's values leaves the others but a few steps. INT8 does the
    first product, fp32 the second, which is thin (Dettmers et al. 2022, LLM.int8()). `feeds` show which channels they are.
    """
    import onnx
    from onnx import helper, numpy_helper

    model = onnx.load(source)
    graph = model.graph
    weights = {one.name: one for one in graph.initializer}
    products = [node for node in graph.node if node.op_type == "MatMul" and node.input[1] in weights]
    left: list[str] = []
    inputs = dict.fromkeys(node.input[0] for node in products)
    for name, reach in _reach(model, inputs, feeds).items() if products else ():
        far = np.flatnonzero(reach > _FAR * np.median(reach))
        far = np.sort(far[np.argsort(-reach[far], kind="stable")][:_MOST_OUTLIERS])
        if not len(far):
            continue
        near = np.ones(len(reach), np.float32)
        near[far] = 0.0
        parts = {f"{name}/near": near, f"{name}/far": far.astype(np.int64)}
        graph.initializer.extend(numpy_helper.from_array(array, each) for each, array in parts.items())
        users = [node for node in products if node.input[0] == name]
        at = min(list(graph.node).index(node) for node in users)
        graph.node.insert(at, helper.make_node("Mul", [name, f"{name}/near"], [f"{name}/inner"]))
        graph.node.insert(at, helper.make_node("Gather", [name, f"{name}/far"], [f"{name}/outer"], axis=-1))
        for node in users:
            result, rows = node.output[0], numpy_helper.to_array(weights[node.input[1]])[far]
            graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(rows), f"{node.input[1]}/far"))
            at = list(graph.node).index(node)
            node.input[0], node.output[0] = f"{name}/inner", f"{result}/inner"
            thin = helper.make_node(
                "MatMul", [f"{name}/outer", f"{node.input[1]}/far"], [f"{result}/outer"], f"{node.name}/far"
            )
            graph.node.insert(at + 1, thin)
            graph.node.insert(at + 2, helper.make_node("Add", [f"{result}/inner", f"{result}/outer"], [result]))
            left.append(thin.name)
    target.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(model, target)
    return left


def _reach(model: Any, names: Iterable[str], feeds: Sequence[Feeds]) -> dict[str, NDArray[np.float32]]:
    """Return how far from 0 each channel (last axis) of some values inside a graph comes."""
    import onnx
    import onnxruntime as ort

    from models.runtimes.onnx import options

    probe, wanted = onnx.ModelProto(), list(names)
    probe.CopyFrom(model)
    probe.graph.output.extend(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in wanted)
    session = ort.InferenceSession(probe.SerializeToString(), options(1), providers=["CPUExecutionProvider"])
    found: dict[str, NDArray[np.float32]] = {}
    for feed in feeds:
        for name, value in zip(wanted, session.run(wanted, dict(feed)), strict=True):
            most = np.abs(value).reshape(-1, value.shape[-1]).max(axis=0)
            found[name] = np.maximum(found[name], most) if name in found else most
    return found


def run(path: Path, output: str, feeds: Iterable[Feeds], *, threads: int = 1) -> list[NDArray[Any]]:
    """Run an ONNX file on each feed and return one output of each."""
    session = _session(path, threads)
    return [np.asarray(session.run([output], dict(feed))[0]) for feed in feeds]


def parity(expected: Sequence[NDArray[Any]], found: Sequence[NDArray[Any]]) -> Parity:
    """Compare outputs, item by item: arrays of the same shapes. Raises `Permanent` where shapes differ or nothing is given."""
    if not expected or [a.shape for a in expected] != [b.shape for b in found]:
        raise Permanent("parity needs the same, at least one, item with the same shapes on both sides")
    a = np.concatenate([item.reshape(-1, item.shape[-1]) for item in expected]).astype(np.float64)
    b = np.concatenate([item.reshape(-1, item.shape[-1]) for item in found]).astype(np.float64)
    cosine = (a * b).sum(axis=1) / np.maximum(np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1), 1e-12)
    return Parity(len(expected), float(np.abs(a - b).max()), float(cosine.mean()), float(cosine.min()))


def seconds_per_item(path: Path, output: str, feeds: Sequence[Feeds], *, threads: int = 1, repeats: int = 3) -> float:
    """Time an ONNX file over feeds as `best_seconds` does."""
    session = _session(path, threads)
    return best_seconds(lambda feed: session.run([output], dict(feed)), feeds, repeats=repeats)


def torch_seconds_per_item(model: Any, feeds: Sequence[Feeds], *, threads: int = 1, repeats: int = 3) -> float:
    """Time the torch module that an ONNX file was made of over the same feeds, likewise."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with torch.inference_mode():
            items = [{name: torch.from_numpy(array) for name, array in feed.items()} for feed in feeds]
            return best_seconds(lambda item: model(**item), items, repeats=repeats)
    finally:
        torch.set_num_threads(before)


def best_seconds(run_one: Callable[[T], object], items: Sequence[T], *, repeats: int = 3) -> float:
    """Time something over items, one at a time: seconds per item, the best of `repeats` passes after a warm-up."""
    best = math.inf
    for repeat in range(repeats + 1):
        began = time.perf_counter()
        for item in items:
            run_one(item)
        if repeat:
            best = min(best, (time.perf_counter() - began) / len(items))
    return best


def _session(path: Path, threads: int) -> Any:
    from models.runtimes.onnx import options, session

    return session(path, options(threads))
