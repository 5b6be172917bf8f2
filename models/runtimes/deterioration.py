"""Hourly vital signs into the probability of deterioration: an LSTM in ONNX Runtime, one file, no torch.

What a window becomes before the network sees it is `encode`, used by training and serving alike: per hour and vital sign
the last known value (normalised), whether it was measured in that hour, and the hours since it was. Missingness is thus an
input: a vital sign that nobody takes any more is information. Oxygen and consciousness enter with their value alone, not
recorded as 0: in the sets learned from, recording them at all marks the sicker patients, and on a ward it does not.

Results do not depend, bit for bit, on what else is in the batch: the network runs on blocks of exactly `BLOCK` rows (the last
one filled up with empty windows) on one thread, so each row meets the same kernels in the same order.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from models.errors import Fatal, Poison
from models.registry import Weights
from models.runtimes.onnx import Session
from models.tasks import Floats, ModelIdentity

# Names, units (UCUM) and order of the columns: the contract with processors.deterioration.
UNITS: dict[str, str] = {
    "heart_rate": "/min",
    "respiratory_rate": "/min",
    "spo2": "%",
    "temperature": "Cel",
    "systolic": "mm[Hg]",
    "diastolic": "mm[Hg]",
    "mean_arterial": "mm[Hg]",
    "oxygen": "1",  # 0 on air, 1 on oxygen
    "consciousness": "1",  # 0 alert, 1 not alert (new confusion, voice, pain, unresponsive)
}
FEATURES: tuple[str, ...] = tuple(UNITS)
VITALS = 7  # the first so many are measurements; the others are yes/no
INPUTS = len(FEATURES) + 2 * VITALS  # columns of what the network sees
HOURS = 24
BLOCK = 8  # rows per run of the network: a row costs 10 us in blocks of 8, 8.4 in blocks of 64, 25 alone
_PIECE = 2048  # windows encoded at once: a multiple of BLOCK that stays in cache
_CLIP = 5.0  # standard deviations: an extreme but possible value counts as very extreme, not as unbounded


@dataclass(frozen=True, slots=True)
class Scaling:
    """What `encode` needs: kept beside the network in `scaling.json`, so that the model's digest covers it."""

    features: tuple[str, ...]
    mean: tuple[float, ...]
    scale: tuple[float, ...]  # standard deviation; 1 for yes/no features
    hours: int
    horizon_hours: int

    def to_json(self) -> str:
        """Return the text of `scaling.json`."""
        return json.dumps(asdict(self), sort_keys=True, indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str) -> "Scaling":
        """Read `to_json`'s text. Raises `Fatal` when it is not that."""
        try:
            raw = json.loads(text)
            return cls(
                features=tuple(raw["features"]),
                mean=tuple(float(value) for value in raw["mean"]),
                scale=tuple(float(value) for value in raw["scale"]),
                hours=int(raw["hours"]),
                horizon_hours=int(raw["horizon_hours"]),
            )
        except (ValueError, KeyError, TypeError) as error:
            raise Fatal(f"deterioration model: scaling.json is unusable ({type(error).__name__})") from error


def encode(windows: Floats, scaling: Scaling) -> Floats:
    """Encode [n, hours, f] raw values (NaN = not measured) as [hours, n, INPUTS]: last values, measured, hours since.

    The hours since a measurement are in units of the window's length, 1 where there was none at all. The last two blocks
    hold the first `VITALS` features only (all of them where a model, as that of home monitoring, has fewer).
    """
    hours, width = windows.shape[1:]
    vitals = min(VITALS, width)
    raw = np.ascontiguousarray(windows.transpose(1, 0, 2), dtype=np.float32)
    values = (raw - np.array(scaling.mean, np.float32)) / np.array(scaling.scale, np.float32)
    np.clip(values, -_CLIP, _CLIP, out=values)
    seen = ~np.isnan(raw)
    encoded = np.empty((hours, len(windows), width + 2 * vitals), np.float32)
    carried = np.zeros((len(windows), width), np.float32)
    since = np.ones((len(windows), vitals), np.float32)
    hour = np.float32(1 / hours)
    for at in range(hours):
        np.copyto(carried, values[at], where=seen[at])
        np.minimum(since + hour, 1.0, out=since)
        np.copyto(since, 0.0, where=seen[at, :, :vitals])
        encoded[at, :, :width] = carried
        encoded[at, :, width : width + vitals] = seen[at, :, :vitals]
        encoded[at, :, width + vitals :] = since
    return encoded


class Network(Protocol):
    """The part of `models.runtimes.onnx.Session` used here."""

    def run(self, output: str, feeds: Mapping[str, NDArray[Any]]) -> Floats:
        """Run the graph."""
        ...


class OnnxDeterioration:
    """`DeteriorationModel` on ONNX Runtime; make it with one intra-op thread, or results may vary with the batch.

    The graph takes `x` [hours, n, INPUTS] float32 and gives `probability` [n], calibrated.
    """

    def __init__(self, network: Network, scaling: Scaling, identity: ModelIdentity) -> None:
        self._network = network
        self._scaling = scaling
        self._identity = identity
        self.hours = scaling.hours
        self.features = scaling.features
        self.horizon_hours = scaling.horizon_hours

    @property
    def identity(self) -> ModelIdentity:
        """Name, version and digest."""
        return self._identity

    def score(self, windows: Floats) -> Floats:
        """Score [n, hours, f] raw values in `UNITS`, NaN where not measured: [n] float32 probabilities.

        A window without any value scores what is known of a patient about whom nothing is known: callers skip those.

        Raises:
            Poison: the shape is not [n, hours, f], a value is infinite, or the network answered with NaN.
        """
        self._check(windows)
        scores = np.empty(len(windows), np.float32)
        for at in range(0, len(windows), _PIECE):
            piece = windows[at : at + _PIECE]
            scores[at : at + len(piece)] = self._run(piece)
        return scores

    def attribute(self, windows: Floats) -> Floats:
        """Say what drove each score: [n, f] float32, the score less the score had this vital sign not been taken.

        Positive raised the risk, negative lowered it; exactly 0 where the window has no value of that feature. Costs up to
        f + 1 scores a window, so ask for it where a score is of note.

        Raises:
            Poison: as `score`.
        """
        self._check(windows)
        present = ~np.all(np.isnan(windows), axis=1)  # [n, f]
        row, feature = np.nonzero(present)
        without = windows[row]
        without[np.arange(len(row)), :, feature] = np.nan
        base = self.score(windows)
        effect = np.zeros((len(windows), len(self.features)), np.float32)
        effect[row, feature] = base[row] - self.score(without)
        return effect

    def _run(self, piece: Floats) -> Floats:
        blocks = -(-len(piece) // BLOCK)
        full = np.full((blocks * BLOCK, *piece.shape[1:]), np.nan, np.float32)
        full[: len(piece)] = piece
        encoded = encode(full, self._scaling)
        answers = [
            self._network.run("probability", {"x": np.ascontiguousarray(encoded[:, at : at + BLOCK])})
            for at in range(0, len(full), BLOCK)
        ]
        return np.concatenate(answers)[: len(piece)] if answers else np.empty(0, np.float32)

    def _check(self, windows: Floats) -> None:
        expected = (self.hours, len(self.features))
        if windows.ndim != 3 or windows.shape[1:] != expected:
            raise Poison(
                f"{self._identity.name}: windows of shape {windows.shape}, expected (n, {expected[0]}, {expected[1]})",
                stage="model",
            )
        if np.isinf(windows).any():
            raise Poison(f"{self._identity.name}: an infinite value in a window", stage="model")


def load(weights: Weights, *, threads: int = 1) -> OnnxDeterioration:
    """Open a verified model (the registry's loader for `onnx-deterioration`): `model.onnx` and `scaling.json`.

    `threads` is not used: more than one would make a score depend on its neighbours in the last bits.

    Raises:
        Fatal: the files are no such model.
    """
    session = Session(weights, "model.onnx", threads=1)
    session.require(inputs=["x"], outputs=["probability"])
    scaling = Scaling.from_json(weights.path("scaling.json").read_text(encoding="utf-8"))
    return OnnxDeterioration(session, scaling, weights.identity)
