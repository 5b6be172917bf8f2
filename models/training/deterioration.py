"""Train the deterioration model: an LSTM over hourly windows, on cinc2019 (sepsis) and physionet2012 a (death).

    cinc2019          per hour: the set's SepsisLabel, 1 from 6 hours before the onset of sepsis on   -> the score
    physionet2012 a   per stay: in-hospital death, at random hours                                    -> a second task

The second task teaches the same network what the first set never shows (consciousness) or rarely (oxygen): its log-odds are
an affine function of the score's, learned beside it. What ships is the first task's output, calibrated on patients that
training did not see.
"""

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.evaluation.measures import auroc
from models.runtimes.deterioration import BLOCK, FEATURES, HOURS, INPUTS, VITALS, Scaling, encode
from models.tasks import Floats
from models.training.vital_sets import Stays, part, read

HORIZON_HOURS = 6
# Patients by `part(id)`: [0, DEV) never touched by training, [DEV, CALIBRATE) for stopping and calibration, the rest learned from.
DEV = 0.25
CALIBRATE = 0.35


@dataclass(frozen=True, slots=True)
class Recipe:
    """Everything that shapes the weights besides data and seed."""

    hidden: int = 48
    steps: int = 3000
    batch: int = 512
    positives: float = 0.25  # share of positive windows in a batch: the intercept is put right by calibration
    second_task: float = 0.3  # its weight in the loss
    second_batch: int = 128
    feature_dropout: float = 0.15  # chance that a feature is hidden from a window: what `attribute` relies on
    dropout: float = 0.3
    learning_rate: float = 2e-3
    weight_decay: float = 1e-2
    average: float = 0.998  # exponential average of the weights, which is what ships


@dataclass(slots=True)
class Report:
    """What a training run did."""

    recipe: Recipe
    seed: int
    patients: dict[str, int] = field(default_factory=dict)
    losses: list[tuple[int, float, float]] = field(default_factory=list)  # step, loss, AUROC on the calibration part
    calibration: tuple[float, float] = (1.0, 0.0)  # slope and intercept on the log-odds


def scaling_of(stays: Stays, horizon_hours: int = HORIZON_HOURS) -> Scaling:
    """Mean and standard deviation of what was measured in `stays`."""
    mean, scale = np.zeros(len(FEATURES)), np.ones(len(FEATURES))
    for at in range(VITALS):  # yes/no features stay as they are
        if True:
            known = stays.values[:, at][~np.isnan(stays.values[:, at])].astype(np.float64)
            mean[at], scale[at] = round(float(known.mean()), 3), round(float(known.std()), 3)
    return Scaling(FEATURES, tuple(mean.tolist()), tuple(scale.tolist()), HOURS, horizon_hours)


def split(stays: Stays) -> tuple[Stays, Stays, Stays]:
    """Split by patient: (learn, calibrate, dev)."""
    place = part(stays.ids)
    return stays.take(place >= CALIBRATE), stays.take((place >= DEV) & (place < CALIBRATE)), stays.take(place < DEV)


def train(data: Path, out: Path, *, seed: int = 20261123, recipe: Recipe | None = None, threads: int = 1) -> Report:
    """Train on the sets in `data` and write `out/model.onnx`.

    Raises:
        Permanent: `data` has neither layout.
    """
    recipe = recipe or Recipe()
    sets = {stays.name: stays for stays in read(data)}
    first, held, _ = split(sets["cinc2019"])
    second = sets.get("physionet2012-a")
    network, report = fit(first, held, second, seed=seed, recipe=recipe, threads=threads)
    export(network, scaling_of(first), out, calibration=report.calibration)
    return report


def fit(first: Stays, held: Stays, second: Stays | None, *, seed: int, recipe: Recipe, threads: int = 1) -> tuple[Any, Report]:
    """Fit the network; return it (with averaged weights) and the report, calibrated on `held`."""
    import torch

    torch.manual_seed(seed)
    torch.set_num_threads(threads)
    random = np.random.default_rng(seed)
    scaling = scaling_of(first)
    network = build(recipe)
    averaged = torch.optim.swa_utils.AveragedModel(
        network, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(recipe.average)
    )
    second_affine = torch.nn.Parameter(torch.tensor([0.0, -1.8]))  # log slope, intercept
    optimiser = torch.optim.AdamW(
        [*network.parameters(), second_affine], lr=recipe.learning_rate, weight_decay=recipe.weight_decay
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, recipe.learning_rate, total_steps=recipe.steps)
    report = Report(recipe, seed, {"learn": len(first.ids), "calibrate": len(held.ids)})
    if second is not None:
        report.patients["second"] = len(second.ids)
    draw = _Draw(first, recipe, random)
    for step in range(recipe.steps):
        network.train()
        windows, labels = draw.batch()
        windows, labels = draw.augment(windows), labels
        size = len(labels)
        if second is not None:
            rows = random.integers(0, len(second.labels), recipe.second_batch)
            windows = np.concatenate([windows, draw.augment(second.windows(rows))])
            labels = np.concatenate([labels, second.labels[rows]])
        logits = network(torch.from_numpy(encode(windows, scaling)))
        target = torch.from_numpy(labels)
        loss = torch.nn.functional.binary_cross_entropy_with_logits(logits[:size], target[:size])
        if second is not None:
            other = second_affine[0].exp() * logits[size:] + second_affine[1]
            loss = loss + recipe.second_task * torch.nn.functional.binary_cross_entropy_with_logits(other, target[size:])
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        averaged.update_parameters(network)
        if (step + 1) % max(1, recipe.steps // 6) == 0:
            report.losses.append(
                (step + 1, float(loss.detach()), auroc(held.labels, logits_of(averaged.module, scaling, held)))
            )
    best = averaged.module.eval()
    report.calibration = platt(logits_of(best, scaling, held), held.labels)
    return best, report


class _Draw:
    """Batches with a fixed share of positive hours, every patient's hours alike likely."""

    def __init__(self, stays: Stays, recipe: Recipe, random: np.random.Generator) -> None:
        self._stays, self._recipe, self._random = stays, recipe, random
        self._positive = np.flatnonzero(stays.labels > 0)
        self._negative = np.flatnonzero(stays.labels == 0)

    def batch(self) -> tuple[Floats, Floats]:
        count = round(self._recipe.batch * self._recipe.positives)
        rows = np.concatenate(
            [self._random.choice(self._positive, count), self._random.choice(self._negative, self._recipe.batch - count)]
        )
        return self._stays.windows(rows), self._stays.labels[rows]

    def augment(self, windows: Floats) -> Floats:
        hidden = self._random.random((len(windows), 1, windows.shape[2])) < self._recipe.feature_dropout
        return np.where(hidden, np.float32(np.nan), windows)


def build(recipe: Recipe) -> Any:
    """Return the torch network: encoded [hours, n, INPUTS] -> log-odds [n]."""
    import torch

    class Network(torch.nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.lstm = torch.nn.LSTM(INPUTS, recipe.hidden)
            self.dropout = torch.nn.Dropout(recipe.dropout)
            self.head = torch.nn.Linear(recipe.hidden, 1)
            with torch.no_grad():  # remember by default
                self.lstm.bias_ih_l0[recipe.hidden : 2 * recipe.hidden] = 1.0

        def forward(self, encoded: Any) -> Any:
            _, (hidden, _) = self.lstm(encoded)
            return self.head(self.dropout(hidden[0]))[:, 0]

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

    out.mkdir(parents=True, exist_ok=True)
    torch.onnx.export(
        Calibrated().eval(),
        (torch.zeros(scaling.hours, BLOCK, INPUTS),),
        str(out / "model.onnx"),
        dynamo=False,  # the traced LSTM becomes ONNX's LSTM operator, which ONNX Runtime runs fastest
        opset_version=17,
        input_names=["x"],
        output_names=["probability"],
    )
    (out / "scaling.json").write_text(scaling.to_json(), encoding="utf-8")
