"""Home monitoring: seven days of what a patient reports and a camera sees, into the probability of deterioration.

The network, its encoding (last known value, reported that day, days since) and its bit-for-bit repeatability are those of
`models.runtimes.deterioration`; here a step is a day. It is a task of its own, `deterioration-home`, so that no line in a
registry can put it in the place of the inpatient model.
"""

from typing import Final

from models.errors import Fatal
from models.registry import Weights
from models.runtimes.deterioration import OnnxDeterioration, Scaling, attribute_steps
from models.runtimes.onnx import Session
from models.runtimes.said import Said
from models.tasks import Floats, ModelIdentity

# Names, units (UCUM) and order of the columns; NaN where nothing was reported that day.
UNITS: Final[dict[str, str]] = {
    "facial_pain": "{score}",  # 0 to 10, as a camera's pain score or an observer's scale gives it
    "self_reported_pain": "{score}",  # 0 to 10, numeric rating scale (LOINC 72514-3)
    "respiratory_rate": "/min",  # at rest
    "symptom_severity": "{score}",  # 0 to 10, worst symptom of the day, by the patient
}
IN_WORDS: Final = {"{score}": "0 to 10", "/min": "per minute"}  # what these units are called to people
FEATURES: Final = tuple(UNITS)
DAYS: Final = 7
HORIZON_DAYS: Final = 3


class OnnxHome:
    """`HomeModel` on ONNX Runtime: the inpatient model's runtime with days for hours."""

    def __init__(self, network: OnnxDeterioration) -> None:
        self._network = network
        self.days = network.hours
        self.features = network.features
        self.horizon_days = network.horizon_hours // 24

    @property
    def identity(self) -> ModelIdentity:
        """Name, version and digest."""
        return self._network.identity

    def score(self, windows: Floats) -> Floats:
        """Score [n, days, f] raw values, newest day last, NaN where missing: [n] float32. Raises `Poison` as the runtime does."""
        return self._network.score(windows)

    def attribute(self, windows: Floats) -> Floats:
        """Say what drove each score: [n, f], the score less the score had this sign not been reported at all."""
        return self._network.attribute(windows)

    def attribute_days(self, windows: Floats) -> Floats:
        """Say which values drove each score: [n, days, f], the score less the score had that one value not been reported."""
        return attribute_steps(self.score, windows)


def load(weights: Weights, *, threads: int = 1) -> OnnxHome:
    """Open a verified model (the registry's loader for `onnx-home`): `model.onnx` and `scaling.json`, whose steps are days.

    `threads` is not used, as for the inpatient model.

    Raises:
        Fatal: the files are no such model.
    """
    Said(weights, "synthetic")
    session = Session(weights, "model.onnx", threads=1)
    session.require(inputs=["x"], outputs=["probability"])
    scaling = Scaling.from_json(weights.path("scaling.json").read_text(encoding="utf-8"))
    if scaling.features != FEATURES or scaling.hours != DAYS:
        raise Fatal(
            f"model {weights.entry.name} {weights.entry.version}: its scaling.json is of {', '.join(scaling.features)} over "
            f"{scaling.hours} steps, not of {', '.join(FEATURES)} over {DAYS} days",
            hint="a home monitoring model comes from `vigil train deterioration --home`",
        )
    return OnnxHome(OnnxDeterioration(session, scaling, weights.identity))
