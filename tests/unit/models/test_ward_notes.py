"""Entities in notes as wards write them, by the shipped model and with the vocabulary laid over.

`ward_notes` are made up, written and marked by one who had not seen the vocabulary. Its gaps were mended by what `read.txt` showed;
`unread.txt` was never looked at. `vigil models evaluate ner --data tests/unit/models/ward_notes` gives all figures, with intervals.
"""

from pathlib import Path

import pytest

from models.evaluation import ner_report
from models.evaluation.measures import Metric
from models.registry import Registry
from models.tasks import TokenClassifier
from models.vocabulary import vocabulary

NOTES = Path(__file__).with_name("ward_notes")
THREE = "condition + symptom + medication"


@pytest.fixture(scope="module")
def figures() -> dict[str, dict[str, Metric]]:
    model = Registry.load(None).open("ner", expect=TokenClassifier)
    found = ner_report.evaluate(model, NOTES, vocabulary=vocabulary(), resamples=20)
    return {section.name: {metric.name: metric for metric in section.metrics} for section in found.sections}


@pytest.mark.parametrize("notes", ["read.txt", "unread.txt"])
def test_the_vocabulary_finds_what_the_model_leaves_out_and_keeps_its_precision(
    figures: dict[str, dict[str, Metric]], notes: str
) -> None:
    alone, both = figures[f"{notes}, served"], figures[f"{notes}, served with the vocabulary"]
    assert both[f"{THREE} recall"].value > alone[f"{THREE} recall"].value + 0.4
    assert both[f"{THREE} precision"].value > max(0.85, alone[f"{THREE} precision"].value)
    assert both["condition recall"].value > 6 * alone["condition recall"].value
    for label, more in {"test": 0.3, "procedure": 0.3, "dose": 0.2, "lab_value": 0.3, "anatomy": 0.0}.items():
        assert both[f"{label} F1"].value > alone[f"{label} F1"].value + more, label
