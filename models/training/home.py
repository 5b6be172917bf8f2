"""Train the home monitoring model: a small LSTM over seven days of a diary, for the three days to come.

The network and its export are those of the inpatient model (`models.training.deterioration`), smaller. Patients are split by a
hash of their id: a quarter is kept for measuring, the rest is learned from. Calibration (a slope and an intercept on the
log-odds) comes from networks of the same recipe judging patients that each of them never saw.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from models.errors import Permanent
from models.evaluation.baselines import Logistic, fit_logistic, summary
from models.evaluation.home import LOGISTIC, TASK, evaluate_fresh
from models.evaluation.home_card import SYNTHETIC, write
from models.evaluation.home_sets import Diaries, checksums, require_enough
from models.evaluation.measures import auroc
from models.evaluation.report import Evaluation, Progress, silent
from models.evaluation.vital_sets import part
from models.registering import location, record
from models.registry import PACKAGED, WEIGHTS, ModelEntry, Registry, sha256_of
from models.runtimes.deterioration import Scaling, encode
from models.runtimes.home import DAYS, FEATURES, HORIZON_DAYS
from models.training import home_synthetic
from models.training.deterioration import build, export, platt
from models.training.home_synthetic import Cohort

NAME: Final = "home-deterioration"
DEV: Final = 0.25  # patients whose `part(id)` lies below it are never touched by training
_FOLDS: Final = 3


@dataclass(frozen=True, slots=True)
class Recipe:
    """Everything that shapes the weights besides data and seed."""

    hidden: int = 24
    steps: int = 1000
    batch: int = 256
    dropout: float = 0.2
    feature_dropout: float = 0.1  # chance that a sign is hidden from a window: what `attribute` relies on
    value_dropout: float = 0.05  # the same of a single value
    learning_rate: float = 5e-3
    weight_decay: float = 1e-2
    average: float = 0.99  # exponential average of the weights, which is what ships


@dataclass(slots=True)
class Report:
    """What a training run did."""

    patients: int
    days: int
    positive: int
    folds: list[float] = field(default_factory=list)  # AUROC on each calibration fold, of a network that never saw it
    calibration: tuple[float, float] = (1.0, 0.0)


def split(diaries: Diaries) -> tuple[Diaries, Diaries]:
    """Split by patient: (learn, dev)."""
    place = part(diaries.stays.ids)
    return diaries.take(place >= DEV), diaries.take(place < DEV)


def train(
    diaries: Diaries, out: Path, *, seed: int = 7, recipe: Recipe | None = None, threads: int = 1, progress: Progress = silent
) -> Report:
    """Train on the learning part of `diaries`; write `model.onnx`, `scaling.json`, whom it learned from, and the logistic baseline.

    Raises:
        Permanent: too few patients, days or deteriorations (`require_enough`), or a part of the split without any.
    """
    recipe = recipe or Recipe()
    learn, dev = split(require_enough(diaries))
    for name, each in (("learn from", learn), ("measure on", dev)):
        labels = each.stays.labels[each.rows()]
        if not 0 < labels.sum() < len(labels):
            raise Permanent(
                f"no deterioration among the {len(each.stays.ids)} patients to {name}",
                hint="patients are split by a hash of their id; more patients who deteriorated are needed",
            )
    rows = learn.rows()
    labels = learn.stays.labels[rows]
    report = Report(len(learn.stays.ids), len(rows), int(labels.sum()))
    fold = (part(learn.stays.ids, salt="calibration") * _FOLDS).astype(int)[learn.stays.stay_of[rows]]
    logits = np.empty(len(rows))
    for held in range(_FOLDS):
        network = fit(
            learn, rows[fold != held], seed=seed, recipe=recipe, threads=threads, progress=progress, what=f"fold {held + 1}"
        )
        mine = fold == held
        if mine.any():
            logits[mine] = logits_of(network, scaling_of(learn), learn, rows[mine])
            report.folds.append(auroc(labels[mine], logits[mine]))
    report.calibration = platt(logits, labels)
    network = fit(learn, rows, seed=seed, recipe=recipe, threads=threads, progress=progress, what="all")
    export(network, scaling_of(learn), out, calibration=report.calibration)
    np.save(out / "learned.npy", np.sort(checksums(learn)))
    baseline(learn).save(out / LOGISTIC)
    return report


def scaling_of(diaries: Diaries) -> Scaling:
    """Mean and standard deviation of what was reported."""
    mean, scale = [], []
    for column in diaries.stays.values.T.astype(np.float64):
        known = column[~np.isnan(column)]
        mean.append(round(float(known.mean()), 3) if len(known) else 0.0)
        scale.append(max(0.1, round(float(known.std()), 3)) if len(known) else 1.0)
    return Scaling(FEATURES, tuple(mean), tuple(scale), DAYS, HORIZON_DAYS * 24)


def baseline(diaries: Diaries) -> Logistic:
    """Fit the logistic model that the network is measured against, on the same windows."""
    rows = diaries.rows()
    return fit_logistic(summary(diaries.windows(rows)), diaries.stays.labels[rows], ridge=1.0)


def fit(
    diaries: Diaries,
    rows: NDArray[np.int64],
    *,
    seed: int,
    recipe: Recipe,
    threads: int = 1,
    progress: Progress = silent,
    what: str = "training",
) -> Any:
    """Fit a network on the windows that end at `rows`; return it with averaged weights."""
    import torch

    torch.manual_seed(seed)
    torch.set_num_threads(threads)
    random, scaling = np.random.default_rng(seed), scaling_of(diaries)
    network = build(recipe.hidden, recipe.dropout, inputs=3 * len(FEATURES))
    averaged = torch.optim.swa_utils.AveragedModel(
        network, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(recipe.average)
    )
    optimiser = torch.optim.AdamW(network.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, recipe.learning_rate, total_steps=recipe.steps)
    loss_of = torch.nn.functional.binary_cross_entropy_with_logits
    network.train()
    for step in range(recipe.steps):
        chosen = random.choice(rows, recipe.batch)
        windows = diaries.windows(chosen)
        windows[np.broadcast_to(random.random((len(windows), 1, len(FEATURES))) < recipe.feature_dropout, windows.shape)] = (
            np.nan
        )
        windows[random.random(windows.shape) < recipe.value_dropout] = np.nan
        logits = network(torch.from_numpy(encode(windows, scaling)))
        loss = loss_of(logits, torch.from_numpy(diaries.stays.labels[chosen]))
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        averaged.update_parameters(network)
        if (step + 1) % 100 == 0 or step + 1 == recipe.steps:
            progress(what, step + 1, recipe.steps)
    return averaged.module.eval()


def logits_of(network: Any, scaling: Scaling, diaries: Diaries, rows: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the network's log-odds for `rows`."""
    import torch

    with torch.inference_mode():
        found: NDArray[np.float64] = (
            network(torch.from_numpy(encode(diaries.windows(rows), scaling))).numpy().astype(np.float64)
        )
    return found


def ship(
    diaries: Diaries,
    *,
    origin: str,
    synthetic: bool = False,
    registry: Path = PACKAGED,
    out: Path | None = None,
    version: str = "1.0.0",
    licence: str = "Apache-2.0",
    seed: int = 7,
    rounds: int = 1000,
    progress: Progress = silent,
) -> tuple[ModelEntry, Evaluation]:
    """Train into the packaged weights (or `out`), measure on the patients left out, write the card and the registry's entry.

    `origin` says in words what was learned from, `synthetic` that a program made it; both stand in the entry and in the card.
    """
    folder = out or WEIGHTS / "home"
    train(diaries, folder, seed=seed, progress=progress)
    entry = ModelEntry(
        task=TASK,
        name=NAME,
        version=version,
        runtime="onnx-home",
        location=location(folder, registry),
        files={name: sha256_of(folder / name) for name in ("model.onnx", "scaling.json")},
        licence=licence,
        trained_on=(origin,),
        preprocessing={SYNTHETIC: True} if synthetic else {},
    )
    record(entry, registry)
    model = Registry.load(None if registry == PACKAGED else registry).open(TASK, name=NAME)
    section, notes = evaluate_fresh(model, diaries, folder, rounds=rounds, progress=progress)
    found = Evaluation(TASK, model.identity, () if section is None else (section,), tuple(notes))
    entry = entry.model_copy(update={"quality": found.quality()})
    record(entry, registry)
    (folder / "card.md").write_text(write(entry, found, ships=registry == PACKAGED), encoding="utf-8")
    return entry, found


def main(argv: Sequence[str] | None = None) -> int:
    """Run `python -m models.training.home [--seed N]`: train the weights that ship, on the generator, and register them."""
    parser = argparse.ArgumentParser(prog="python -m models.training.home")
    parser.add_argument("--seed", type=int, default=7)
    seed = parser.parse_args(argv).seed
    cohort = Cohort(seed=seed)
    entry, _ = ship(home_synthetic.diaries(cohort), origin=cohort.origin, synthetic=True, seed=seed)
    sys.stdout.write(f"{entry.name} {entry.version} {entry.digest}\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
