"""The card of a home monitoring model: written from its evaluation, so that no figure in it is typed."""

from typing import Final

from models.evaluation import home, home_sets
from models.evaluation.report import Evaluation
from models.registry import ModelEntry
from models.runtimes.home import DAYS, HORIZON_DAYS, IN_WORDS, UNITS

SYNTHETIC: Final = "synthetic"  # what such a model's entry says under `preprocessing`, by its training run
_BEFORE: Final = "synthetic diaries: "  # what runs wrote of such a model before they noted it there: it stays one

WARNING: Final = (
    "It learned from synthetic diaries, made by a program. It is not to be used for patients: "
    "its scores say nothing about them."
)

_SYNTHETIC = """\
**{warning}** {why}, from a table to scores with
what drove them; the figures below say how well a network finds what the generator put in, and nothing about people. A site trains
its own: `vigil train deterioration --home --data FILE` (or `--sql URL --table NAME`)."""

_SHIPS = "It ships so that the path can be tried"
_MADE = "It lets the path be tried"

_OWN = """\
It learned from a site's own diaries. Its figures hold for that site's patients and its definition of deterioration, and it has not
been validated elsewhere. It is assistive: it points at change and diagnoses nothing."""


def is_synthetic(entry: ModelEntry) -> bool:
    """Say whether a model learned from synthetic diaries, as its training run noted."""
    return entry.preprocessing.get(SYNTHETIC) is True or any(origin.startswith(_BEFORE) for origin in entry.trained_on)


def write(entry: ModelEntry, found: Evaluation, *, ships: bool = False) -> str:
    """Return the card as Markdown; `ships`: of the weights that come with the project."""
    rules = (home.__doc__ or "").split("\n\n")
    asked = (home_sets.__doc__ or "").strip().split("\n\n")[-1]
    inputs = ", ".join(f"{name} ({IN_WORDS[unit]})" for name, unit in UNITS.items())
    parts = [
        f"# {entry.name} {entry.version}",
        "Written by `vigil train deterioration --home`; do not edit.",
        _SYNTHETIC.format(warning=WARNING, why=_SHIPS if ships else _MADE) if is_synthetic(entry) else _OWN,
        f"An LSTM over the last {DAYS} days of a home monitoring diary. It answers with the calibrated probability that the "
        f"patient deteriorates within {HORIZON_DAYS} days, and with what drove it: by sign, and by sign and day.",
        f"Licence of the weights: {entry.licence}. Digest: `{entry.digest}`.",
        "## Inputs",
        f"{inputs}, daily, newest last; NaN where not reported. How long ago a sign was reported is an input too.",
        "## Learned from",
        "\n".join(f"- {origin}" for origin in entry.trained_on),
        "Split by patient, by a hash of the id: a quarter is measured on below, the rest learned from. Calibration comes from "
        "networks of the same recipe judging patients that they never saw.",
        "## What is asked",
        " ".join(asked.split()),
        found.as_markdown().strip().replace(home.TASK, "deterioration"),  # as the command calls it
        "## Rules fixed before looking",
        "\n".join(line.strip() for line in rules[2].splitlines()),
    ]
    return "\n\n".join(parts) + "\n"
