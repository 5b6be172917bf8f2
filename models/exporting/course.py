"""The course of an export: the source traced, quantised in every way, each held against torch, the best written or none.

A way may be taken where no figure of the task's metric falls by more than the tolerance. Of these the fastest is taken, among the
ways with a scale per channel and 7-bit weights: eight bits overflow on a processor without VNNI, which the machine that exports
need not be.
"""

import contextlib
import math
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from models.errors import Permanent, VigilError
from models.evaluation.report import Progress, silent
from models.export import Parity, best_seconds, parity
from models.exporting.graphs import in_fp32, in_integers, quantised
from models.exporting.report import Compared, Made, Way, card
from models.exporting.trials import TIMED, Trial
from models.quantising import EIGHT_BITS, FP32, PER_TENSOR
from models.registering import location, record
from models.registry import ModelEntry, Origin, Registry, Weights, sha256_of
from models.runtimes.exportable import Exportable, Plan

THREADS: Final = (1, 2)
# From which on fp32 is not the model of torch: numbers rounded otherwise and pixels resized otherwise leave more than this.
_SAME: Final = 0.999  # mean cosine of outputs
# Below it a way is taken only where none is above: few questions find a note by vectors that lie far off, too.
_NEAR: Final = 0.99
_MEASURED_ONLY: Final = (PER_TENSOR, EIGHT_BITS)
# Runtimes on torch, of which a model can be exported; another is ONNX as it is.
TORCH: Final = (
    "transformers-token-classifier",
    "sentence-transformers",
    "open-clip",
    "transformers-clip",
    "transformers-image-classifier",
)


@dataclass(frozen=True, slots=True)
class Target:
    """What is to come out: a folder that is not there yet, and a name of its own in a registry file."""

    folder: Path
    registry: Path
    name: str
    version: str
    tolerance: float = 1.0  # points of the task's metric
    precision: Literal["int8", "fp32"] = "int8"


def export(source: Weights, make_trial: Callable[[Any], Trial], target: Target, *, progress: Progress = silent) -> Made:
    """Export a verified model on torch, measure it, write folder, card and registry entry, and say what was measured.

    `make_trial` says what it is measured by. Raises `Permanent` for a model that is none on torch, a target that cannot be, and
    where too much is lost, `Fatal` where the model does not open: then nothing is left at the target.
    """
    entry = source.entry
    where = f"model {entry.name} {entry.version}"
    if entry.runtime not in TORCH:
        raise Permanent(
            f"{where} is of the runtime {entry.runtime}, which is no torch: there is nothing to export",
            hint=f"runtimes that can be: {', '.join(TORCH)}",
        )
    _free(target, entry)
    progress("opening", 0, 1)
    torch_model = _on_torch(entry, source.folder)
    if not isinstance(torch_model, Exportable):
        raise Permanent(f"{where}: the runtime {entry.runtime} does not say how it is exported")
    progress("opening", 1, 1)
    trial = make_trial(torch_model)
    with tempfile.TemporaryDirectory(prefix="vigil-export-") as name:
        scratch = Path(name)
        torch = _measured("torch", torch_model, trial, progress)
        seconds = {threads: _torch_seconds(torch_model, trial, threads) for threads in THREADS}
        before = Compared(torch, seconds)
        plan = torch_model.plan()
        described = _Described(entry, plan)
        full = in_fp32(plan, trial.items, trial.words, scratch / "full", where)
        ways = [described.way(FP32, full, trial, torch_model, progress)]
        _is_the_model(ways[0], where, target.tolerance, before)
        failed: list[str] = []
        if target.precision == "int8":
            for way, make in quantised(
                plan, full, trial.calibration, trial.words, scratch, lambda what: progress(what, 0, 1)
            ).items():
                progress(f"{way}: quantising", 0, 1)
                try:
                    ways.append(described.way(way, make(), trial, torch_model, progress))
                except OSError:
                    raise
                except (
                    Exception
                ) as error:  # whatever the quantiser runs into, and what does not open or answers NaN: another may do
                    words = f": {error}" if isinstance(error, VigilError) else ""
                    failed.append(f"{way}: of no use here ({type(error).__name__}{words})")
                progress(f"{way}: quantising", 1, 1)
        trial = replace(trial, notes=(*trial.notes, *failed))
        chosen = _chosen(ways, before, target, where, failed)
        made = Made(
            _entry(source, described, chosen, before, trial, target),
            entry,
            before,
            tuple(ways),
            chosen,
            trial,
            target.tolerance,
        )
        _put(made, source, target)
    return made


class _Described:
    """Opens folders of an export as the entry will have them, and measures them."""

    def __init__(self, source: ModelEntry, plan: Plan) -> None:
        self.source, self.plan = source, plan

    def entry(self, folder: Path) -> ModelEntry:
        """Describe what lies in a folder; the source's thresholds and list of pictures are the new one's."""
        return self.source.model_copy(
            update={
                "runtime": self.plan.runtime,
                "location": str(folder),
                "files": {path.name: sha256_of(path) for path in sorted(folder.iterdir())},
                "beside": {},
                "labels": self.source.labels or self.plan.labels,
                "preprocessing": dict(self.plan.preprocessing),
            }
        )

    def way(self, name: str, folder: Path, trial: Trial, torch_model: Any, progress: Progress) -> Way:
        """Hold what lies in a folder against torch, opened as a lane opens it."""
        entry = self.entry(folder)
        opened = Registry([(entry, folder)], {})
        model = opened.open(entry.task, name=entry.name, threads=1)
        seconds = {1: _seconds(model, trial)}
        for threads in THREADS[1:]:
            seconds[threads] = _seconds(opened.open(entry.task, name=entry.name, threads=threads), trial)
        near, agreement = _near(torch_model, model, trial)
        size = sum(path.stat().st_size for path in folder.iterdir())
        small, measured = in_integers(self.plan, folder), Compared(_measured(name, model, trial, progress), seconds)
        return Way(name, folder, measured, near, agreement, size / 1e6, small)


def _on_torch(entry: ModelEntry, folder: Path) -> Any:
    """Open the source on this processor, wherever its entry says that it runs."""
    said = {key: value for key, value in entry.preprocessing.items() if key != "device"}
    entry = entry.model_copy(update={"preprocessing": said})
    return Registry([(entry, folder)], {}).open(entry.task, name=entry.name, threads=1)


def _measured(name: str, model: Any, trial: Trial, progress: Progress) -> Mapping[str, float]:
    return trial.metrics(model, lambda what, done, total: progress(f"{name}: {what}", done, total))


def _seconds(model: Any, trial: Trial) -> float:
    return best_seconds(lambda item: trial.ask(model, item), trial.items[:TIMED])


def _torch_seconds(model: Any, trial: Trial, threads: int) -> float:
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        return _seconds(model, trial)
    finally:
        torch.set_num_threads(before)


def _near(torch_model: Any, model: Any, trial: Trial) -> tuple[Parity, float | None]:
    """Compare outputs item by item, and what is decided by them (None: nothing is)."""
    items = [*trial.items, *trial.words]
    pairs = [(trial.outputs(torch_model, item), trial.outputs(model, item)) for item in items]
    pairs = [(a, b) for a, b in pairs if len(a)]
    agreement = None
    if trial.decide is not None:
        decided = pairs[: len(pairs) - len(trial.words)]  # words are no items that anything is decided of
        said: list[NDArray[np.bool_]] = [trial.decide(torch_model, a) == trial.decide(model, b) for a, b in decided]
        agreement = float(np.concatenate(said).mean())
    return parity([a for a, _ in pairs], [b for _, b in pairs]), agreement


def _is_the_model(way: Way, where: str, tolerance: float, before: Compared) -> None:
    """Raise `Permanent` where fp32 is not what torch is: the graph, or what comes before it, is of another model."""
    lost = fallen(way.measured, before)
    if way.parity.cosine_mean >= _SAME and lost.points <= tolerance:
        return
    raise Permanent(
        f"{where}: its graph in fp32 is not what torch gives: mean cosine {way.parity.cosine_mean:.4f}, largest difference "
        f"{way.parity.largest:.3g}; {lost}; nothing was written",
        hint="its tokenizer, image processor or network does what no ONNX entry here can say: keep it on torch",
    )


@dataclass(frozen=True, slots=True)
class Fallen:
    """The figure that fell most, in points (0 where none did)."""

    metric: str
    before: float
    after: float

    @property
    def points(self) -> float:
        """By how much, rounded so that a tolerance of 1 point is met by 1 point."""
        return round(100 * (self.before - self.after), 6)

    def __str__(self) -> str:
        return f"{self.metric} {self.before:.4f} before and {self.after:.4f} after, {self.points:+.2f} points lost"


def fallen(after: Compared, before: Compared) -> Fallen:
    """Return the figure that fell most. A figure that was there and is none any more has fallen to 0."""
    pairs = [
        Fallen(name, value, now if math.isfinite(now := after.metrics.get(name, 0.0)) else 0.0)
        for name, value in before.metrics.items()
        if math.isfinite(value)
    ]
    return max(pairs, key=lambda one: one.points)


def _chosen(ways: list[Way], before: Compared, target: Target, where: str, failed: Sequence[str]) -> Way:
    """Return the way that is written. Raises `Permanent`, with figures, where each loses too much."""
    if target.precision == "fp32":
        return ways[0]
    candidates = [way for way in ways if way.integers and way.name not in _MEASURED_ONLY]
    if not candidates:
        raise Permanent(
            f"{where}: no way finds anything to quantise{''.join(f'; {one}' for one in failed)}; nothing was written",
            hint="--precision fp32 writes it as it is",
        )
    passing = [way for way in candidates if fallen(way.measured, before).points <= target.tolerance]
    if not passing:
        best = min(candidates, key=lambda way: fallen(way.measured, before).points)
        raise Permanent(
            f"{where}: every way of quantising loses more than {target.tolerance:g} points: the best, {best.name}, "
            f"{fallen(best.measured, before)}; nothing was written",
            hint="--precision fp32 writes it unquantised, --tolerance lets more be lost, and it can stay on torch",
        )
    near = [way for way in passing if way.parity.cosine_mean >= _NEAR]
    return min(near or passing, key=lambda way: way.measured.seconds[THREADS[0]])


def _free(target: Target, source: ModelEntry) -> None:
    """Raise `Permanent` where the target cannot be, before there is work that would be lost by it."""
    if not (math.isfinite(target.tolerance) and target.tolerance >= 0):
        raise Permanent(f"a tolerance of {target.tolerance} points is none", hint="0 or more")
    if target.folder.exists() or target.folder.is_symlink():
        raise Permanent(f"{target.folder} is there already: nothing was written", hint="name a folder that is not there yet")
    for place in (target.folder.parent, target.registry.parent):
        try:
            with tempfile.TemporaryDirectory(dir=place, prefix=".vigil-"):
                pass
        except OSError as error:
            raise Permanent(f"{place} cannot be written into ({error.strerror})", hint="name a folder of yours") from error
    known = Registry.load(target.registry) if target.registry.is_file() else Registry.load()
    if target.name in {one.name for one in known.entries(source.task)}:
        raise Permanent(
            f"{target.name} is a model of the task {source.task} already: nothing was written",
            hint="--name gives the exported one a name of its own",
        )


def _entry(source: Weights, described: _Described, chosen: Way, before: Compared, trial: Trial, target: Target) -> ModelEntry:
    entry, measured = source.entry, chosen.measured
    quality = dict(measured.metrics) | {f"{name}, on torch": value for name, value in before.metrics.items()}
    quality |= {"largest difference to torch": chosen.parity.largest, "mean cosine to torch": chosen.parity.cosine_mean}
    if chosen.agreement is not None:
        quality["agreement with torch"] = chosen.agreement
    quality |= {f"times as fast as torch, threads {n}": before.seconds[n] / measured.seconds[n] for n in THREADS}
    origin = Origin(
        name=entry.name,
        version=entry.version,
        runtime=entry.runtime,
        digest=entry.digest,
        way=chosen.name,
        calibrated_on=trial.calibrated_on if chosen.name.startswith("static") else "",
        measured_on=trial.measured_on,
        tolerance=target.tolerance,
    )
    return described.entry(chosen.folder).model_copy(
        update={
            "name": target.name,
            "version": target.version,
            "location": location(target.folder, target.registry),
            "beside": entry.beside,
            "quality": {name: round(value, 4) for name, value in quality.items() if math.isfinite(value)},
            "made_of": origin,
        }
    )


def _put(made: Made, source: Weights, target: Target) -> None:
    """Put files, card and entry where they belong, whole or not at all."""
    with _gone_on_error(target.folder) as arriving:
        try:
            shutil.copytree(made.chosen.folder, arriving, dirs_exist_ok=True)
            for file in made.entry.beside:
                (arriving / file).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(source.folder / file, arriving / file)
            (arriving / "card.md").write_text(card(made), encoding="utf-8")
            arriving.chmod(0o755)
            arriving.replace(target.folder)
        except OSError as error:
            raise Permanent(f"{target.folder} cannot be written ({error.strerror})", hint="is there room?") from error
        record(made.entry, target.registry, serve=False, in_use=False)


@contextlib.contextmanager
def _gone_on_error(folder: Path) -> Iterator[Path]:
    """Lend a folder beside the target; neither is left where the block fails."""
    arriving = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
    try:
        yield arriving
    except BaseException:
        shutil.rmtree(arriving, ignore_errors=True)
        shutil.rmtree(folder, ignore_errors=True)
        raise
