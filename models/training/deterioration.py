"""Train the deterioration model: an LSTM over hourly windows, on cinc2019 (sepsis) and physionet2012 a (death).

    cinc2019          per hour: the set's SepsisLabel, 1 from 6 hours before the onset of sepsis on   -> the score
    physionet2012 a   per stay: in-hospital death, at random hours                                    -> a second task

The second task teaches the same network what the first set never shows (consciousness) or rarely (oxygen): its log-odds are
an affine function of the score's, learned beside it. Both learn a teacher's log-odds beside the labels
(`deterioration_teacher`). What ships is the first task's output, calibrated by cross-fitting.
"""

import argparse
import logging
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.errors import Permanent
from models.evaluation.baselines import Logistic, fit_logistic, summary
from models.evaluation.measures import auroc
from models.evaluation.vital_sets import Stays, gather, part
from models.registering import location, record
from models.registry import PACKAGED, WEIGHTS, ModelEntry, sha256_of
from models.runtimes.deterioration import BLOCK, FEATURES, HOURS, INPUTS, VITALS, Scaling, encode
from models.tasks import Floats
from models.training.deterioration_teacher import soft_targets

_log = logging.getLogger(__name__)
NAME = "deterioration-lstm"
HORIZON_HOURS = 6
DEV = 0.25  # patients whose `part(id)` lies below it are never touched by training
_CALIBRATION_FOLDS = 3


@dataclass(frozen=True, slots=True)
class Recipe:
    """Everything that shapes the weights besides data and seed."""

    hidden: int = 64
    steps: int = 3000
    batch: int = 512
    positives: float = 0.1  # share of positive windows in a batch
    soft: float = 0.5  # weight of the squared distance to the teacher's log-odds
    hard: float = 0.3  # weight of the labels themselves
    second_task: float = 0.6
    second_batch: int = 128
    feature_dropout: float = 0.15  # chance that a feature is hidden from a window: what `attribute` relies on
    thinned: float = 0.25  # share of windows cut to a set of observations every 2 to 12 hours, as wards chart
    dropout: float = 0.3
    learning_rate: float = 2e-3
    weight_decay: float = 1e-2
    average: float = 0.995  # exponential average of the weights, which is what ships


@dataclass(slots=True)
class Report:
    """What a training run did."""

    recipe: Recipe
    seed: int
    patients: dict[str, int] = field(default_factory=dict)
    losses: list[tuple[int, float]] = field(default_factory=list)  # step, loss
    folds: list[float] = field(default_factory=list)  # AUROC on each calibration fold, of a network that never saw it
    calibration: tuple[float, float] = (1.0, 0.0)  # slope and intercept on the log-odds


def scaling_of(stays: Stays, horizon_hours: int = HORIZON_HOURS) -> Scaling:
    """Mean and standard deviation of what was measured in `stays`."""
    mean, scale = np.zeros(len(FEATURES)), np.ones(len(FEATURES))
    for at in range(VITALS):  # yes/no features stay as they are
        known = stays.values[:, at][~np.isnan(stays.values[:, at])].astype(np.float64)
        mean[at], scale[at] = round(float(known.mean()), 3), round(float(known.std()), 3)
    return Scaling(FEATURES, tuple(mean.tolist()), tuple(scale.tolist()), HOURS, horizon_hours)


def split(stays: Stays) -> tuple[Stays, Stays]:
    """Split by patient: (learn, dev)."""
    place = part(stays.ids)
    return stays.take(place >= DEV), stays.take(place < DEV)


def train(data: Path, out: Path, *, seed: int = 20261123, recipe: Recipe | None = None, threads: int = 1) -> Report:
    """Train on the sets in `data`; write `model.onnx`, `scaling.json`, whom it learned from, and the logistic baselines.

    Calibration comes from cross-fitting: networks of the same recipe judge the patients that each of them never saw, and the
    slope and intercept that put those right go onto the network that learned from all.

    Raises:
        Permanent: `data` has neither layout, or lacks cinc2019.
    """
    recipe = recipe or Recipe()
    found, notes = gather(data)
    for note in notes:
        _log.warning("%s", note)
    sets = {stays.name: stays for stays in found}
    if "cinc2019" not in sets:
        raise Permanent("training needs cinc2019 (hourly.csv.gz)")
    stays, _ = split(sets["cinc2019"])
    first = Taught(stays, soft_targets(stays, seed=seed))
    other = sets.get("physionet2012-a")
    second = None if other is None else Taught(other, soft_targets(other, seed=seed))
    report = Report(recipe, seed, {each.stays.name: len(each.stays.ids) for each in (first, second) if each is not None})
    fold = (part(stays.ids, salt="calibration") * _CALIBRATION_FOLDS).astype(int)
    judged, logits = stays.scored_rows(), np.empty(len(stays.labels))
    for held in range(_CALIBRATION_FOLDS):
        network, _ = fit(first.take(fold != held), second, seed=seed, recipe=recipe, threads=threads)
        rows = judged[(fold == held)[stays.stay_of[judged]]]
        logits[rows] = logits_of(network, scaling_of(stays.take(fold != held)), stays, rows)
        report.folds.append(auroc(stays.labels[rows], logits[rows]))
    report.calibration = platt(logits[judged], stays.labels[judged])
    network, report.losses = fit(first, second, seed=seed, recipe=recipe, threads=threads)
    export(network, scaling_of(stays), out, calibration=report.calibration)
    learned = [each.stays.checksums() for each in (first, second) if each is not None]
    np.save(out / "learned.npy", np.sort(np.concatenate(learned)))
    baseline(stays).save(out / "logistic-hourly.json")
    if other is not None:
        baseline(other).save(out / "logistic-outcome.json")
    return report


def baseline(stays: Stays) -> Logistic:
    """Fit the logistic model that the network is measured against, on the judged hours of `stays`."""
    rows = stays.scored_rows()
    columns = [summary(windows) for windows in stays.batches(rows)]
    return fit_logistic(np.concatenate(columns), stays.labels[rows])


@dataclass(frozen=True, slots=True)
class Taught:
    """Stays with the teacher's log-odds for each hour."""

    stays: Stays
    soft: Floats  # [hours]

    def take(self, chosen: NDArray[np.bool_]) -> "Taught":
        """Keep the stays where `chosen` [stays] is true."""
        return Taught(self.stays.take(chosen), self.soft[chosen[self.stays.stay_of]])


def fit(
    first: Taught, second: Taught | None, *, seed: int, recipe: Recipe, threads: int = 1
) -> tuple[Any, list[tuple[int, float]]]:
    """Fit a network; return it, with averaged weights, and the losses by step."""
    import torch

    torch.manual_seed(seed)
    torch.set_num_threads(threads)
    scaling, network = scaling_of(first.stays), build(recipe.hidden, recipe.dropout)
    averaged = torch.optim.swa_utils.AveragedModel(
        network, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(recipe.average)
    )
    affine = torch.nn.Parameter(torch.tensor([0.0, 0.0]))  # the second task's log slope and intercept
    optimiser = torch.optim.AdamW([*network.parameters(), affine], lr=recipe.learning_rate, weight_decay=recipe.weight_decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, recipe.learning_rate, total_steps=recipe.steps)
    random, losses = np.random.default_rng(seed), []
    draws = [_Draw(first, recipe, random, recipe.batch, recipe.positives)]
    if second is not None:
        draws.append(_Draw(second, recipe, random, recipe.second_batch, None))
    for step in range(recipe.steps):
        network.train()
        batches = [draw.batch() for draw in draws]
        windows = np.concatenate([batch[0] for batch in batches])
        logits = network(torch.from_numpy(encode(windows, scaling)))
        loss = _loss(logits[: recipe.batch], batches[0], draws[0].shift, recipe)
        if second is not None:
            other = affine[0].exp() * logits[recipe.batch :] + affine[1]
            loss = loss + recipe.second_task * _loss(other, batches[1], 0.0, recipe)
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        averaged.update_parameters(network)
        if (step + 1) % max(1, recipe.steps // 5) == 0:
            losses.append((step + 1, float(loss.detach())))
    return averaged.module.eval(), losses


Batch = tuple[Floats, Floats, Floats]  # windows, labels, the teacher's log-odds


def _loss(logits: Any, batch: Batch, shift: float, recipe: Recipe) -> Any:
    """Squared distance to the teacher, and cross-entropy; `shift` undoes the batch's surplus of positives."""
    import torch
    from torch.nn import functional

    _, labels, soft = (torch.from_numpy(part_) for part_ in batch)
    return recipe.soft * functional.mse_loss(logits, soft) + recipe.hard * functional.binary_cross_entropy_with_logits(
        logits + shift, labels
    )


class _Draw:
    """Batches of augmented windows, with a fixed share of positive hours or (None) hours as they come."""

    def __init__(self, taught: Taught, recipe: Recipe, random: np.random.Generator, size: int, positives: float | None) -> None:
        stays = self._stays = taught.stays
        self._soft, self._recipe, self._random = taught.soft, recipe, random
        share = float(np.nanmean(stays.labels))
        self._count = 0 if positives is None else round(size * positives)
        self._positive = np.flatnonzero(stays.labels > 0)
        self._others = np.arange(len(stays.labels)) if positives is None else np.flatnonzero(stays.labels == 0)
        self._size = size
        self.shift = 0.0 if positives is None else math.log(positives / (1 - positives) * (1 - share) / share)

    def batch(self) -> Batch:
        chosen = [
            self._random.choice(self._positive, self._count),
            self._random.choice(self._others, self._size - self._count),
        ]
        rows = np.concatenate(chosen)
        return self._augment(self._stays.windows(rows)), self._stays.labels[rows], self._soft[rows]

    def _augment(self, windows: Floats) -> Floats:
        count, hours, width = windows.shape
        hidden = self._random.random((count, 1, width)) < self._recipe.feature_dropout
        every = self._random.choice([2, 4, 6, 8, 12], (count, 1))
        off = (np.arange(hours)[None] + self._random.integers(0, 12, (count, 1))) % every != 0
        thinned = off & (self._random.random((count, 1)) < self._recipe.thinned)
        found: Floats = np.where(hidden | thinned[:, :, None], np.float32(np.nan), windows)
        return found


def build(hidden: int, dropout: float, inputs: int = INPUTS) -> Any:
    """Return the torch network: encoded [hours, n, inputs] -> log-odds [n]."""
    import torch

    class Network(torch.nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.lstm = torch.nn.LSTM(inputs, hidden)
            self.dropout = torch.nn.Dropout(dropout)
            self.head = torch.nn.Linear(hidden, 1)
            with torch.no_grad():  # remember by default
                self.lstm.bias_ih_l0[hidden : 2 * hidden] = 1.0

        def forward(self, encoded: Any) -> Any:
            _, (state, _) = self.lstm(encoded)
            return self.head(self.dropout(state[0]))[:, 0]

    return Network()


def logits_of(network: Any, scaling: Scaling, stays: Stays, rows: NDArray[np.int64] | None = None) -> NDArray[np.float64]:
    """Return the network's log-odds for the scored hours of `stays` (or `rows`)."""
    import torch

    network.eval()
    with torch.inference_mode():
        found = [
            network(torch.from_numpy(encode(windows, scaling))).numpy()
            for windows in stays.batches(stays.scored_rows() if rows is None else rows)
        ]
    return np.concatenate(found).astype(np.float64)


def platt(logits: NDArray[np.float64], labels: Floats) -> tuple[float, float]:
    """Fit slope and intercept of sigmoid(slope * logit + intercept) by Newton's method (Platt 1999, without priors)."""
    design = np.stack([logits, np.ones_like(logits)], axis=1)
    weights = np.array([1.0, 0.0])
    for _ in range(50):
        probability = 1 / (1 + np.exp(-design @ weights))
        gradient = design.T @ (probability - labels)
        hessian = (design * (probability * (1 - probability))[:, None]).T @ design + 1e-9 * np.eye(2)
        move = np.linalg.solve(hessian, gradient)
        weights -= move
        if np.abs(move).max() < 1e-10:
            break
    if not math.isfinite(weights.sum()):
        return 1.0, 0.0
    return float(weights[0]), float(weights[1])


def export(network: Any, scaling: Scaling, out: Path, *, calibration: tuple[float, float]) -> None:
    """Write `out/model.onnx`, with the calibration folded into the last layer, and `out/scaling.json`."""
    import copy

    import torch

    from models.export import to_onnx

    class Calibrated(torch.nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.network = copy.deepcopy(network).eval()
            slope, intercept = calibration
            with torch.no_grad():
                self.network.head.weight.mul_(slope)
                self.network.head.bias.mul_(slope).add_(intercept)

        def forward(self, x: Any) -> Any:
            return torch.sigmoid(self.network(x))

    to_onnx(
        Calibrated(),
        (torch.zeros(scaling.hours, BLOCK, network.lstm.input_size),),
        out / "model.onnx",
        inputs=["x"],
        outputs=["probability"],
        dynamic={"x": {1: "n"}, "probability": {0: "n"}},
    )
    with_states(out / "model.onnx")
    (out / "scaling.json").write_text(scaling.to_json(), encoding="utf-8")


def with_states(path: Path) -> None:
    """Make an exported graph take the LSTM's state and give it, over any number of hours and rows.

    torch's exporter bakes zeros for the example's number of rows into it.
    """
    import onnx
    from onnx import TensorProto, helper

    model = onnx.load(path)
    graph = model.graph
    (lstm,) = (node for node in graph.node if node.op_type == "LSTM")
    state = lstm.output[1]
    hidden = next(one.i for one in lstm.attribute if one.name == "hidden_size")
    del lstm.input[5:]
    lstm.input.extend(("hidden", "cell"))
    lstm.output[:] = [lstm.output[0], "hidden_out", "cell_out"]
    for node in graph.node:
        node.input[:] = ["hidden_out" if name == state else name for name in node.input]
    states = ((graph.input, ("hidden", "cell")), (graph.output, ("hidden_out", "cell_out")))
    for values, names in states:
        values.extend(helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, "n", hidden]) for name in names)
    needed, kept = {output.name for output in graph.output}, []
    for node in reversed(graph.node):
        if needed & set(node.output):
            kept.append(node)
            needed |= set(node.input)
    del graph.node[:]
    graph.node.extend(reversed(kept))
    graph.input[0].type.tensor_type.shape.dim[0].dim_param = "hours"
    for value, axis in ((graph.input[0], 1), (graph.output[0], 0)):
        value.type.tensor_type.shape.dim[axis].dim_param = "n"
    onnx.checker.check_model(model)
    onnx.save(model, path)


def ship(data: Path, *, registry: Path = PACKAGED, out: Path | None = None, seed: int = 20261123) -> ModelEntry:
    """Train into the packaged weights (or `out`) and write the registry's entry; figures and card come from evaluation."""
    folder = out or WEIGHTS / "deterioration"
    train(data, folder, seed=seed)
    entry = ModelEntry(
        task="deterioration",
        name=NAME,
        version="1.1.0",
        runtime="onnx-deterioration",
        location=location(folder, registry),
        files={name: sha256_of(folder / name) for name in ("model.onnx", "scaling.json")},
        licence="Apache-2.0",
        trained_on=("cinc2019 (CC BY 4.0)", "physionet2012 set a (ODC-BY 1.0)"),
    )
    record(entry, registry)
    return entry


def main(argv: Sequence[str] | None = None) -> int:
    """Run `python -m models.training.deterioration --data DIR [--seed N]`: train the weights that ship, and register them."""
    parser = argparse.ArgumentParser(prog="python -m models.training.deterioration")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=20261123)
    chosen = parser.parse_args(argv)
    entry = ship(chosen.data, seed=chosen.seed)
    sys.stdout.write(f"{entry.name} {entry.version} {entry.digest}\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
