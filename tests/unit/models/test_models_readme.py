"""What `models/README.md` says of entries and data is read as it stands there."""

import re
import tomllib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from models.evaluation import image_sets, ner_corpora, question_sets, vital_sets
from models.registry import LOADERS, MeantFor, ModelEntry

README = (Path(__file__).parents[3] / "models" / "README.md").read_text(encoding="utf-8")
FILES = dict(re.findall(r"^```\w+ (\S+)\n(.*?)^```$", README, re.MULTILINE | re.DOTALL))


@pytest.fixture
def data(tmp_path: Path) -> Path:
    for name, text in FILES.items():
        (tmp_path / name.split(".")[0]).mkdir(exist_ok=True)
        (tmp_path / name.split(".")[0] / name).write_text(text, encoding="utf-8")
    return tmp_path


def test_its_entry_is_one_and_its_table_has_every_runtime_a_site_brings() -> None:
    text, pictures = re.findall(r"^```toml\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
    entry = ModelEntry.model_validate(tomllib.loads(text)["model"][0])
    assert entry.runtime in LOADERS
    assert "" in MeantFor.model_validate(tomllib.loads(pictures)["model"]["meant_for"]).views
    missing = [runtime for runtime in LOADERS if f"`{runtime}`" not in README]
    assert missing == ["onnx-deterioration", "onnx-home"]  # these are trained here


def test_annotated_text_is_read(data: Path) -> None:
    (document,) = ner_corpora.read_iob(data / "devel" / "devel.tsv")
    assert [(gold.label, document.text[gold.start : gold.end]) for gold in document.gold] == [
        ("Chemical", "Aspirin"),
        ("Disease", "chest pain"),
    ]
    (report,) = ner_corpora.read_maccrobat(data / "reports" / "reports.jsonl")
    assert [report.text[gold.start : gold.end] for gold in report.gold] == ["fever"]
    first, second = ner_corpora.read_marked(data / "ward" / "ward.txt")
    assert first.text == "SOB since am, hx T2DM. On metformin 1 g bd."
    assert [(gold.label, first.text[gold.start : gold.end]) for gold in first.gold] == [
        ("symptom", "SOB"),
        ("condition", "T2DM"),
        ("medication", "metformin"),
        ("dose", "1 g bd"),
    ]
    assert second.text == "no chest pain, ECG done"
    (asserted,) = ner_corpora.read_marked(data / "asserted" / "asserted.txt")
    assert [(gold.label, gold.assertion) for gold in asserted.gold] == [
        ("symptom", "negated"),
        ("medication", "negated"),
        ("condition", "family"),
    ]


def test_vital_signs_are_read(data: Path) -> None:
    (data / "Outcomes-a" / "Outcomes-a.txt").rename(data / "set-a" / "Outcomes-a.txt")
    hourly, events = sorted(vital_sets.gather(data)[0], key=lambda stays: stays.name)
    assert (hourly.name, hourly.labels.tolist()) == ("cinc2019", [0, 1])
    assert np.isfinite(hourly.values).all(axis=0).sum() >= 7
    assert (events.name, events.labels.max()) == ("physionet2012-a", 1)


def test_images_and_questions_are_read(data: Path) -> None:
    for name in ("1.png", "2.png"):
        Image.new("L", (8, 8)).save(data / "labels" / name)
    assert [(image.label, image.patient) for image in image_sets.read(data / "labels")] == [
        ("no finding", "17"),
        ("pneumonia", "18"),
    ]
    (found,) = question_sets.gather(data / "questions")[0]
    assert found.questions == ("knee pain after a fall",)
