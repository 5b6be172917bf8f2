"""ONNX Runtime sessions as Vigil wants them: threads set on purpose, no spinning, failures typed, outputs checked.

A session is safe to call from several threads at once; `models.batching` gives each model one thread all the same.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray
from onnxruntime.capi import onnxruntime_pybind11_state as native

from models.errors import Fatal, Permanent, Poison, Transient
from models.parts import part_done
from models.registering import files_of
from models.registry import Weights
from models.tasks import Floats

_UNLOADABLE: Final = (
    native.Fail,
    native.InvalidArgument,
    native.InvalidGraph,
    native.InvalidProtobuf,
    native.NoSuchFile,
    native.NotImplemented,
    native.RuntimeException,
)
_FAILED_RUN: Final = (native.Fail, native.InvalidArgument, native.RuntimeException, native.NotImplemented)
_PROVIDERS: Final[Mapping[str, str]] = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
# On a CPU the fused kernel goes number by number, and the two that it stands for use vectors: 8 to 12% of a whole encoder's time
# (ONNX Runtime 1.32, AVX-512).
_SLOWER: Final[Mapping[str, Sequence[str]]] = {"cpu": ("SkipLayerNormFusion",), "cuda": ()}


class Session:
    """One verified ONNX file, loaded. `inputs` and `outputs` are the graph's own names."""

    def __init__(self, weights: Weights, file: str, *, threads: int, device: str = "cpu") -> None:
        """Load `file` with `threads` intra-op threads on `device` ("cpu" or "cuda").

        Raises `Fatal` where the file is not a model that this ONNX Runtime can run, `Permanent` for a device that it lacks.
        """
        provider = _PROVIDERS.get(device)
        if provider is None or provider not in ort.get_available_providers():
            raise Permanent(f"ONNX Runtime has no device {device!r} here", hint="install onnxruntime-gpu, or set it to cpu")
        entry, path = weights.entry, weights.path(file)
        self._where = f"model {entry.name} {entry.version}"
        try:
            with weights.view() as folder:  # a graph may keep its weights in a file beside it: in one that was hashed too
                self._session = session(folder / file, options(threads), device)
        except _UNLOADABLE as error:
            unsealed = [name for name in files_of(weights.folder) if name not in entry.files | entry.beside]
            beside = f", unless it needs what is not in [model.files]: {', '.join(unsealed[:4])}" if unsealed else ""
            raise Fatal(
                f"{self._where}: {path} is no model that ONNX Runtime {ort.__version__} can run ({type(error).__name__})",
                hint=f"the digest is right, so the file was sealed broken: export it again{beside}",
            ) from error
        self.inputs: tuple[str, ...] = tuple(item.name for item in self._session.get_inputs())
        self.outputs: tuple[str, ...] = tuple(item.name for item in self._session.get_outputs())
        self._widths: dict[str, Any] = {
            item.name: item.shape[-1] for item in (*self._session.get_inputs(), *self._session.get_outputs()) if item.shape
        }

    def width(self, name: str) -> int | None:
        """Return the length of an input's or output's last axis, None where the graph leaves it open."""
        width = self._widths.get(name)
        return width if isinstance(width, int) else None

    def require(self, *, inputs: Sequence[str], outputs: Sequence[str]) -> None:
        """Raise `Fatal` where the graph lacks an input or output that the runtime feeds or reads."""
        missing = [name for name in inputs if name not in self.inputs] + [n for n in outputs if n not in self.outputs]
        if missing:
            raise Fatal(
                f"{self._where}: the graph has no {', '.join(missing)}",
                hint=f"its inputs are {', '.join(self.inputs)}; its outputs {', '.join(self.outputs)}",
            )

    def run(self, output: str, feeds: Mapping[str, NDArray[Any]]) -> Floats:
        """Run the graph and return one output as float32. Raises as `run_for`."""
        return self.run_for((output,), feeds)[0]

    def run_for(self, outputs: Sequence[str], feeds: Mapping[str, NDArray[Any]]) -> list[Floats]:
        """Run the graph and return these of its outputs as float32.

        Raises `Poison` (stage `model`) where the run fails or an output is not finite: the same input would do it again;
        `Transient` where memory ran out, or a GPU failed.
        """
        try:
            results = self._session.run(outputs, dict(feeds))
        except native.EPFail as error:
            raise Transient(f"{self._where}: the device failed in a run") from error
        except _FAILED_RUN as error:
            # the native message may quote the input: only its class is passed on
            if "allocate" in str(error).lower():
                raise Transient(f"{self._where}: out of memory in a run") from error
            raise Poison(f"{self._where}: the run failed ({type(error).__name__})", stage="model") from error
        part_done()
        found = [np.asarray(result, dtype=np.float32) for result in results]
        for values in found:
            finite(values, self._where)
        return found


def session(path: Path, chosen: Any, device: str = "cpu") -> Any:
    """Open an ONNX file on this device and no other, without the optimisations that make it slower there.

    Raises what ONNX Runtime raises, and `Permanent` where it went on with the CPU: so it does where CUDA's libraries do not load.
    """
    wanted, slower = _PROVIDERS[device], list(_SLOWER[device])
    made = ort.InferenceSession(str(path), chosen, providers=[wanted], disabled_optimizers=slower, enable_fallback=0)
    if wanted not in (there := made.get_providers()):
        raise Permanent(
            f"ONNX Runtime opens {path.name} on {', '.join(there)}, not on the device {device!r}: that one's libraries do not load",
            hint='does the installed CUDA fit onnxruntime-gpu? else set preprocessing.device = "cpu"',
        )
    return made


def finite(values: Floats, where: str) -> None:
    """Raise `Poison` (stage `model`) where a model gave a NaN or an infinity."""
    if not np.isfinite(values).all():
        bad = int(values.size - np.count_nonzero(np.isfinite(values)))
        raise Poison(f"{where}: {bad} of {values.size} output values are not finite", stage="model")


def options(threads: int) -> Any:
    """Build session options: `threads` within an operator, one operator at a time, idle threads asleep, memory given back.

    Spinning threads win microseconds and burn a whole core, which on a small machine is the event loop's.
    """
    chosen = ort.SessionOptions()
    chosen.intra_op_num_threads = threads
    chosen.inter_op_num_threads = 1
    chosen.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    chosen.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    chosen.add_session_config_entry("session.intra_op.allow_spinning", "0")
    chosen.add_session_config_entry("session.inter_op.allow_spinning", "0")
    chosen.enable_mem_pattern = False  # shapes differ from run to run: a plan per shape would only pile up
    chosen.log_severity_level = 3  # errors; they come as exceptions anyway
    return chosen
