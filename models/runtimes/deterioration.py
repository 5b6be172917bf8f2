"""Hourly vital signs into the probability of deterioration: an LSTM in ONNX Runtime, one file, no torch.

What a window becomes before the network sees it is `encode`, used by training and serving alike: per hour and vital sign
the last known value (normalised), whether it was measured in that hour, and the hours since it was. Missingness is thus an
input: a vital sign that nobody takes any more is information. Oxygen and consciousness enter with their value alone, not
recorded as 0: in the sets learned from, recording them at all marks the sicker patients, and on a ward it does not.

Results do not depend, bit for bit, on what else is in the batch: the network runs on blocks of exactly so many rows (the last
one filled up) on one thread, so each row meets the same kernels in the same order.

A monitor sends many sets an hour, and only the newest hour of a patient's window differs between them. So what the network makes
of the hours before is kept, and a set costs one step of the network, not all (`_Past`).
"""

import json
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from models.errors import Fatal, Poison
from models.registry import Weights
from models.runtimes.onnx import Session
from models.runtimes.said import Said
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
BLOCK = 8  # rows per run over whole windows: a row costs 10 us in blocks of 8, 8.4 in blocks of 64, 25 alone
_STEP_BLOCK: Final = 32  # rows per run of one step, where a run costs no more with 32 rows than with 8
_KEPT: Final = 8192  # pasts that are kept at most: some 1.7 kB each
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
    return _encode(windows, scaling, *_nothing_yet(len(windows), windows.shape[2]))


def _nothing_yet(count: int, width: int) -> tuple[Floats, Floats]:
    """Return the last known values [n, f] and the hours since [n, vitals] before the first hour."""
    return np.zeros((count, width), np.float32), np.ones((count, min(VITALS, width)), np.float32)


def _encode(windows: Floats, scaling: Scaling, carried: Floats, since: Floats) -> Floats:
    """Encode hours that follow on others, whose last known values and hours since are given; both are brought up to date."""
    hours, width = windows.shape[1:]
    vitals = since.shape[1]
    raw = np.ascontiguousarray(windows.transpose(1, 0, 2), dtype=np.float32)
    values = (raw - np.array(scaling.mean, np.float32)) / np.array(scaling.scale, np.float32)
    np.clip(values, -_CLIP, _CLIP, out=values)
    seen = ~np.isnan(raw)
    encoded = np.empty((hours, len(windows), width + 2 * vitals), np.float32)
    hour = np.float32(1 / scaling.hours)
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

    inputs: tuple[str, ...]

    def run(self, output: str, feeds: Mapping[str, NDArray[Any]]) -> Floats:
        """Run the graph."""
        ...

    def run_for(self, outputs: Sequence[str], feeds: Mapping[str, NDArray[Any]]) -> list[Floats]:
        """Run the graph for several outputs."""
        ...

    def width(self, output: str) -> int | None:
        """Return the length of an output's last axis."""
        ...


class _Past:
    """What the network and its encoding make of all hours of windows but the newest, by the values of those hours; bounded.

    An entry is a function of its key alone, so a score is the same bits whether it was kept or is made anew.
    """

    def __init__(self, network: Network, scaling: Scaling, hidden: int, most: int) -> None:
        self._network = network
        self._scaling = scaling
        self._most = most
        width = len(scaling.features)
        self._slots: dict[bytes, int] = {}
        self._state = np.empty((2, most, hidden), np.float32)  # the network's: hidden, cell
        self._carried, self._since = (np.empty((most, values.shape[1]), np.float32) for values in _nothing_yet(0, width))

    def of(self, past: Floats) -> tuple[Floats, Floats, Floats]:
        """Return copies, for [n, hours - 1, f]: state [2, n, hidden], last known values [n, f], hours since [n, vitals]."""
        keys = [row.tobytes() for row in past]
        slots = self._slots
        missing = {key: row for row, key in enumerate(keys) if key not in slots}
        if missing:
            if len(slots) + len(missing) > self._most:
                slots.clear()
                missing = {key: row for row, key in enumerate(keys)}
            first = len(slots)
            self._fill(past[list(missing.values())], first)
            slots.update(zip(missing, range(first, first + len(missing)), strict=True))
        found = [slots[key] for key in keys]
        return self._state[:, found], self._carried[found], self._since[found]

    def _fill(self, past: Floats, first: int) -> None:
        count = len(past)
        full = _filled_up(past, BLOCK)
        carried, since = _nothing_yet(len(full), full.shape[2])
        encoded = _encode(full, self._scaling, carried, since)
        zero = np.zeros((1, BLOCK, self._state.shape[2]), np.float32)
        for at in range(0, len(full), BLOCK):
            block = np.ascontiguousarray(encoded[:, at : at + BLOCK])
            states = self._network.run_for(("hidden_out", "cell_out"), {"x": block, "hidden": zero, "cell": zero})
            kept = min(BLOCK, count - at)
            for which, state in enumerate(states):
                self._state[which, first + at : first + at + kept] = state[0, :kept]
        self._carried[first : first + count] = carried[:count]
        self._since[first : first + count] = since[:count]


def _filled_up(windows: Floats, block: int) -> Floats:
    """Return windows with empty ones after them, so that they make whole blocks."""
    full = np.full((-(-len(windows) // block) * block, *windows.shape[1:]), np.nan, np.float32)
    full[: len(windows)] = windows
    return full


class OnnxDeterioration:
    """`DeteriorationModel` on ONNX Runtime; make it with one intra-op thread, or results may vary with the batch.

    The graph takes `x` [hours, n, INPUTS] float32 and gives `probability` [n], calibrated. One that takes its state too (`hidden`
    and `cell`, [1, n, its width] float32) and gives it (`hidden_out`, `cell_out`) runs over any number of hours, so that the past
    of a window is worked out once.
    """

    def __init__(self, network: Network, scaling: Scaling, identity: ModelIdentity, *, kept: int = _KEPT) -> None:
        """Take the graph; `kept` pasts are remembered at most."""
        self._network = network
        self._piece = min(_PIECE, kept)  # the pasts of one piece have room
        self._scaling = scaling
        self._identity = identity
        self.hours = scaling.hours
        self.features = scaling.features
        self.horizon_hours = scaling.horizon_hours
        self._past: _Past | None = None
        self._one_at_a_time = threading.Lock()
        if "hidden" in network.inputs and (hidden := network.width("hidden_out")):
            self._past = _Past(network, scaling, hidden, kept)

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
        for at in range(0, len(windows), self._piece):
            piece = windows[at : at + self._piece]
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
        if self._past is None:
            return self._in_blocks(encode(_filled_up(piece, BLOCK), self._scaling), BLOCK)[: len(piece)]
        with self._one_at_a_time:
            state, carried, since = self._past.of(piece[:, :-1].astype(np.float32, copy=False))
        count, whole = len(piece), -(-len(piece) // _STEP_BLOCK) * _STEP_BLOCK
        encoded = _encode(piece[:, -1:], self._scaling, carried, since)
        step = np.zeros((1, whole, encoded.shape[2]), np.float32)
        hidden, cell = np.zeros((2, 1, whole, state.shape[2]), np.float32)
        step[:, :count], hidden[0, :count], cell[0, :count] = encoded, *state
        return self._in_blocks(step, _STEP_BLOCK, hidden=hidden, cell=cell)[:count]

    def _in_blocks(self, encoded: Floats, rows: int, **state: Floats) -> Floats:
        feeds = {"x": encoded, **state}
        answers = [
            self._network.run("probability", {name: np.ascontiguousarray(of[:, at : at + rows]) for name, of in feeds.items()})
            for at in range(0, encoded.shape[1], rows)
        ]
        return np.concatenate(answers) if answers else np.empty(0, np.float32)

    def _check(self, windows: Floats) -> None:
        expected = (self.hours, len(self.features))
        if windows.ndim != 3 or windows.shape[1:] != expected:
            raise Poison(
                f"{self._identity.name}: windows of shape {windows.shape}, expected (n, {expected[0]}, {expected[1]})",
                stage="model",
            )
        if np.isinf(windows).any():
            raise Poison(f"{self._identity.name}: an infinite value in a window", stage="model")


def attribute_steps(score: Callable[[Floats], Floats], windows: Floats) -> Floats:
    """Say which values drove each score: [n, steps, f] float32, the score less the score had that one value not been taken.

    Positive raised the risk; exactly 0 where there is no value. A sign that is taken at every step is told by its neighbours too,
    so these effects do not add up to those of whole signs. Costs a score over the whole window for each value, up to steps x f of
    them: for who looks closer at one score, not for a stream.
    """
    base = score(windows)
    row, step, feature = np.nonzero(~np.isnan(windows))
    without = windows[row]
    without[np.arange(len(row)), step, feature] = np.nan
    effect = np.zeros(windows.shape, np.float32)
    effect[row, step, feature] = base[row] - score(without)
    return effect


def load(weights: Weights, *, threads: int = 1) -> OnnxDeterioration:
    """Open a verified model (the registry's loader for `onnx-deterioration`): `model.onnx` and `scaling.json`.

    `threads` is not used: more than one would make a score depend on its neighbours in the last bits.

    Raises:
        Fatal: the files are no such model.
    """
    Said(weights)
    session = Session(weights, "model.onnx", threads=1)
    session.require(inputs=["x"], outputs=["probability"])
    scaling = Scaling.from_json(weights.path("scaling.json").read_text(encoding="utf-8"))
    return OnnxDeterioration(session, scaling, weights.identity)
