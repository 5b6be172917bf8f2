"""Retraining the image-text champion: what it starts from, what it refuses, and that it is measured on what it never saw."""

import csv
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from models.errors import Permanent
from models.evaluation.image_sets import known, read
from models.registering import propose, record
from models.registry import ModelEntry, Registry, Stage
from models.training.image_retrain import Asked, Example, Outcome, Recipe, require_enough, retrain
from tests import tiny_models as tiny
from tests.drawings import drawing

LABELS = ("no finding", "pneumonia")


def example(number: int) -> Example:
    return Example(drawing(opaque=bool(number % 2), seed=number), LABELS[number % 2], f"feedback-{number}")


def fixed_set(folder: Path, numbers: range, *, swapped: bool = False) -> Path:
    """A labels.csv with its images; `swapped` calls each image what it is not."""
    folder.mkdir()
    with (folder / "labels.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["file", "label", "nih_patient"])
        for number in numbers:
            Image.fromarray(drawing(opaque=bool(number % 2), seed=number)).save(folder / f"{number}.png")
            writer.writerow([f"{number}.png", LABELS[(number + swapped) % 2], f"fixed-{number}"])
    return folder / "labels.csv"


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        (
            [],
            r"0 \(0 of 'no finding', 0 of 'pneumonia'\); lacking: 20 more in all, 5 more of 'no finding', 5 more of 'pneumonia'",
        ),
        (["pneumonia"] * 30, "30 .* lacking: 5 more of 'no finding'$"),
        (["pneumonia"] * 9 + ["no finding"] * 9, "18 .* lacking: 2 more in all$"),
    ],
)
def test_too_few_labels_say_what_is_lacking(labels: list[str], words: str) -> None:
    with pytest.raises(Permanent, match=words):
        require_enough(labels, LABELS)


def test_enough_is_enough() -> None:
    require_enough(["pneumonia"] * 15 + ["no finding"] * 5, LABELS)


def test_the_gradient_is_that_of_the_loss() -> None:
    random = np.random.default_rng(1)
    seen = random.normal(size=(9, 4))
    seen /= np.linalg.norm(seen, axis=1, keepdims=True)
    labels = np.array([0, 0, 0, 0, 0, 0, 1, 1, 1])
    words = [random.normal(size=(3, 5)), random.normal(size=(2, 5))]
    asked = Asked(seen, labels, words, random.normal(size=(5, 4)), 4.0, [0.1, -0.2], Recipe())
    values = np.concatenate([asked.start.ravel(), np.zeros(3)]) + random.normal(size=23) / 5
    _, slope = asked.loss(values)
    steps = 1e-6 * np.eye(len(values))
    measured = [(asked.loss(values + step)[0] - asked.loss(values - step)[0]) / 2e-6 for step in steps]
    np.testing.assert_allclose(slope, measured, rtol=1e-5, atol=1e-7)


@pytest.fixture(scope="module")
def retrained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Outcome, Path]:
    pytest.importorskip("onnx")
    folder = tmp_path_factory.mktemp("retrained")
    site = tiny.image_text_site(folder)
    fixed = fixed_set(folder / "fixed", range(100, 130))
    examples = [*map(example, range(40)), example(104)]  # the last one's image stands in the fixed set
    return retrain(Registry.load(site), examples, fixed, folder / "new", site=site, version="1", rounds=20), folder


def test_the_challenger_keeps_the_champions_tower_and_fits_the_labels_better(retrained: tuple[Outcome, Path]) -> None:
    found, folder = retrained
    champion = Registry.load(folder / "registry.toml").weights("image-text")
    assert found.champion.name == "tiny-xray"
    assert found.entry.name == "tiny-xray-retrained-1"
    assert found.entry.files["model.onnx"] == champion.entry.files["model.onnx"]
    assert found.entry.digest != champion.entry.digest
    auroc = found.metrics[0]
    assert auroc.name == "AUROC"
    assert auroc.value > auroc.baselines["champion"].value + 0.1
    assert not found.worse


def test_what_it_learned_from_is_known_again_and_the_champions_too(retrained: tuple[Outcome, Path], tmp_path: Path) -> None:
    _, folder = retrained
    learned = np.load(folder / "new/learned.npy")
    assert set(np.load(folder / "tiny-xray/learned.npy")) < set(learned)
    assert known(read(fixed_set(tmp_path / "again", range(36, 44)).parent), learned).tolist() == [True] * 4 + [False] * 4


def test_what_is_proposed_is_whole(retrained: tuple[Outcome, Path], tmp_path: Path) -> None:
    """Its seal names what is there: the champion's drift reference is not its own."""
    found, folder = retrained
    site = tmp_path / "site.toml"
    site.write_bytes((folder / "registry.toml").read_bytes())
    for name in ("tiny-xray", "new"):
        (tmp_path / name).symlink_to(folder / name)
    propose(found.entry.model_copy(update={"location": "new"}), site)
    sealed = Registry.load(site).weights("image-text", found.entry.name, beside=True).entry.beside
    assert list(sealed) == ["learned.npy"]


def test_what_is_measured_on_is_not_learned_from(retrained: tuple[Outcome, Path]) -> None:
    found, folder = retrained
    assert found.labels == {"no finding": 20, "pneumonia": 20}
    assert "1 labels left out, their images are in the fixed set" in found.notes
    assert found.entry.digest in (folder / "new/card.md").read_text()


def test_it_starts_from_the_champion(retrained: tuple[Outcome, Path]) -> None:
    _, folder = retrained
    old, new = (np.load(folder / name / "text_projection.npy") for name in ("tiny-xray", "new"))
    assert 0 < np.linalg.norm(new - old) < 0.7 * np.linalg.norm(old)


def test_one_that_ranks_the_fixed_set_worse_says_so(tmp_path: Path) -> None:
    pytest.importorskip("onnx")
    site = tiny.image_text_site(tmp_path)
    fixed = fixed_set(tmp_path / "fixed", range(100, 130), swapped=True)
    examples = [example(number) for number in range(40)]
    assert retrain(Registry.load(site), examples, fixed, tmp_path / "new", site=site, version="1", rounds=20).worse


@pytest.mark.slow
def test_the_champion_that_ships_can_be_retrained(tmp_path: Path) -> None:
    fixed = fixed_set(tmp_path / "fixed", range(100, 112))
    examples = [example(number) for number in range(24)]
    site = tmp_path / "registry.toml"
    found = retrain(Registry.load(), examples, fixed, tmp_path / "new", site=site, version="1", rounds=20)
    assert not found.worse
    (error,) = [metric for metric in found.metrics if metric.name == "expected calibration error"]
    assert error.value < error.baselines["champion"].value


# -- the proposal ----------------------------------------------------------------------------------------------------


def entry(name: str) -> ModelEntry:
    return Registry.load().entry("image-text").model_copy(update={"name": name, "location": name})


def test_a_proposal_names_a_challenger_and_leaves_the_champion(tmp_path: Path) -> None:
    site = tmp_path / "registry.toml"
    assert propose(entry("new"), site) == "chest-xray"
    registry = Registry.load(site)
    assert registry.champion("image-text") == "chest-xray"
    assert registry.stage("image-text").model_dump(include={"challenger", "mode"}) == {"challenger": "new", "mode": "shadow"}
    propose(entry("new"), site)  # again is the same
    assert [one.name for one in Registry.load(site).entries("image-text")] == ["chest-xray", "new"]


def test_a_sites_own_champion_and_its_way_back_stay(tmp_path: Path) -> None:
    site = tmp_path / "registry.toml"
    record(entry("own"), site)
    site.write_text(site.read_text().replace('champion = "own"', 'champion = "own"\nprevious = "chest-xray"'))
    propose(entry("new"), site)
    assert Registry.load(site).stage("image-text") == Stage(
        champion="own", challenger="new", mode="shadow", previous=("chest-xray",)
    )
    assert 'previous = "chest-xray"' in site.read_text()


def test_a_trial_under_way_is_not_replaced(tmp_path: Path) -> None:
    site = tmp_path / "registry.toml"
    propose(entry("first"), site)
    before = site.read_text()
    with pytest.raises(Permanent, match="first is on trial"):
        propose(entry("second"), site)
    with pytest.raises(Permanent, match="a name of its own"):
        propose(entry("chest-xray"), site)
    assert site.read_text() == before
