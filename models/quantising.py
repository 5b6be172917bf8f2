"""Ways to make a graph small, compared in one run: dynamic and static INT8, a scale per tensor or per channel. Needs `train`.

Dynamic: weights are integers, activations are scaled anew in each run. Static: activations have scales too, from a calibration
set, so a run saves the looking; what lies outside of what the calibration saw is cut off.
"""

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from models.export import Feeds, Parity, parity, quantised, run, seconds_per_item, to_int8

Vectors = Callable[[Path], Sequence[np.ndarray]]
Metric = Callable[[Path], float]

THREADS: Final = 2
FP32: Final = "fp32"
PER_TENSOR: Final = "dynamic, per tensor"
EIGHT_BITS: Final = "dynamic, per channel"
SHIPPED: Final = "dynamic, per channel, 7-bit weights, outliers left"


@dataclass(frozen=True, slots=True)
class Row:
    """One way: its parity to fp32, milliseconds an item alone (`THREADS` threads), megabytes, and the task's metric if asked."""

    name: str
    parity: Parity
    milliseconds: float
    megabytes: float
    metric: float | None


@dataclass(frozen=True, slots=True)
class Comparison:
    """All ways on one machine, and torch's milliseconds for the same items, likewise alone. `metric_name` is the task's."""

    rows: Sequence[Row]
    torch_milliseconds: float
    metric_name: str

    def table(self) -> list[list[str]]:
        """Return it as text, the head first: for the card and for the terminal."""
        torch = self.torch_milliseconds
        head = ["way", "mean cosine", "lowest", self.metric_name, "ms an item", "times torch", "MB"]
        lines = [["torch, fp32", "", "", "", f"{torch:.1f}", "1.0", ""]]
        for row in self.rows:
            cosines = [f"{row.parity.cosine_mean:.4f}", f"{row.parity.cosine_lowest:.4f}"]
            speed = [f"{row.milliseconds:.1f}", f"{torch / row.milliseconds:.1f}"]
            metric = "" if row.metric is None else f"{row.metric:.3f}"
            lines.append([row.name, *cosines, metric, *speed, f"{row.megabytes:.0f}"])
        return [head, *lines]


def compare(
    full: Path,
    feeds: Sequence[Feeds],
    *,
    output: str,
    vectors: Vectors,
    calibration: Sequence[Feeds],
    skip: Sequence[str],
    metric: Metric | None = None,
    told: Callable[[str], None] = lambda name: None,
) -> list[Row]:
    """Quantise `full` in every way and measure each on `feeds`, one item at a time.

    `vectors` makes of a graph what parity is measured on (one array an item). `calibration` is what static scales are taken from,
    `skip` the nodes left in fp32 where outliers are left. `metric` is asked of each graph. `told` hears which is at work.
    """
    rows: list[Row] = []
    expected = vectors(full)
    with tempfile.TemporaryDirectory() as scratch:
        for name, make in ways(calibration, skip).items():
            told(name)
            path = full if make is None else make(full, Path(scratch) / f"{len(rows)}" / "model.onnx")
            rows.append(
                Row(
                    name,
                    parity(expected, vectors(path)),
                    1000 * seconds_per_item(path, output, feeds, threads=THREADS),
                    path.stat().st_size / 1e6,
                    metric(path) if metric else None,
                )
            )
    return rows


Make = Callable[[Path, Path], Path]


def ways(
    calibration: Sequence[Feeds], skip: Sequence[str], *, split: Path | None = None, convolutions: bool = False
) -> Mapping[str, Make | None]:
    """Return the ways by name; fp32 is None, for nothing is to be made.

    `split` is the graph with its outliers multiplied apart, of which `skip` are the nodes (`models.export.apart`); without, `skip`
    are nodes of the graph itself. With `convolutions` static quantises those too; dynamic leaves them, for the runtime has no fast
    product of integers with a scale per channel for them.
    """
    only: Sequence[str] = ("MatMul",) if convolutions else ()
    kinds: Sequence[str] = ("MatMul", "Conv") if convolutions else ("MatMul",)
    return {
        FP32: None,
        PER_TENSOR: lambda full, to: to_int8(full, to, per_channel=False, reduce_range=False, kinds=only),
        EIGHT_BITS: lambda full, to: to_int8(full, to, reduce_range=False, kinds=only),
        "dynamic, per channel, 7-bit weights": lambda full, to: to_int8(full, to, kinds=only),
        SHIPPED: lambda full, to: to_int8(split or full, to, skip=skip, kinds=only),
        "static, per channel": lambda full, to: to_static(full, to, calibration, kinds=kinds),
        "static, per channel, outliers left": lambda full, to: to_static(
            split or full, to, calibration, skip=skip, kinds=kinds
        ),
    }


def to_static(
    source: Path, target: Path, calibration: Sequence[Feeds], *, skip: Sequence[str] = (), kinds: Sequence[str] = ("MatMul",)
) -> Path:
    """Quantise matrix products to INT8 with activation scales from `calibration` (smallest and largest value seen).

    Only products: their neighbours in a transformer (softmax, layer norm) lose much and cost little. `kinds` of nodes.
    """
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.calibrate import CalibrationDataReader

    class Reader(CalibrationDataReader):  # type: ignore[misc]  # its base is Any here: onnxruntime ships no types
        def __init__(self) -> None:
            self._left = iter(calibration)

        def get_next(self) -> Any:
            feed = next(self._left, None)
            return None if feed is None else dict(feed)

    def write(prepared: str, written: str) -> None:
        quantize_static(
            prepared,
            written,
            Reader(),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=list(kinds),
            per_channel=True,
            reduce_range=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            nodes_to_exclude=list(skip),
            calibrate_method=CalibrationMethod.MinMax,
        )

    return quantised(source, target, write)


def pooled(output: str, feeds: Sequence[Feeds], pool: Callable[[np.ndarray, Feeds], np.ndarray]) -> Vectors:
    """Return `vectors` that runs a graph on feeds and pools what comes out."""
    return lambda path: [pool(states, feed) for states, feed in zip(run(path, output, feeds), feeds, strict=True)]
