"""What is said of a model that opens, and of which a lane would make something that nobody meant."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from models.registry import MeantFor, Registry
from streams.checks import _models, remarks
from streams.settings import EntitiesSettings, LanesSettings, ModelSettings, Settings
from tests import tiny_models as tiny

pytest.importorskip("onnx", reason="tiny graphs are written by onnx (extra: train)")
PLAIN = Settings().model_copy(update={"lanes": LanesSettings(notes_entities=EntitiesSettings(vocabulary=False))})


async def test_of_the_models_that_ship_nothing_is_said() -> None:
    for task in ("ner", "embedding", "image-text", "deterioration"):
        known = Registry.load()
        assert await remarks(Settings(), known.entry(task), known.open(task)) == []


async def test_labels_that_the_table_does_not_know_and_thresholds_that_are_not_there_are_told_with_the_line(
    tmp_path: Path,
) -> None:
    entry = tiny.entry_of(tiny.classifier_folder(tmp_path / "tiny"))
    foreign = SimpleNamespace(identity=entry.identity, labels=("problem", "test", "treatment"))
    terms, scores = await remarks(Settings(), entry, foreign)
    assert "condition, dose" in terms.found and "are never found: tiny has no such label" in terms.found
    assert 'types = { problem = "condition", test = "test", treatment = "medication" }' in terms.mend
    assert "problem, test, treatment from any score on" in scores.found
    assert "[thresholds.tiny] with problem = 0.5" in scores.mend
    half = entry.model_copy(update={"thresholds": {"problem": 0.5, "test": 0.5}})
    (scores,) = await remarks(PLAIN, half, foreign)
    assert "as treatment from" in scores.found
    whole = half.model_copy(update={"thresholds": half.thresholds | {"treatment": 0.5}})
    assert await remarks(PLAIN, whole, foreign) == []
    foreign.blind_to_capitals = True
    (capitals,) = await remarks(PLAIN, whole, foreign)
    assert "no word with a capital" in capitals.found and '"do_lower_case": true' in capitals.mend
    foreign.blind_to_capitals, foreign.capitals_lost = False, 12
    (lost,) = await remarks(PLAIN, whole, foreign)
    assert "has 12 words with capitals" in lost.found and '"do_lower_case": false' in lost.mend


async def test_an_image_model_that_judges_every_picture_is_told_by_doctor_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tiny.image_text_site(tmp_path)
    known = Registry.load(path)
    entry, model = known.entry("image-text"), known.open("image-text")
    (every,) = await remarks(Settings(), entry, model)
    assert "tiny-xray judges every picture" in every.found and "[meant_for.tiny-xray]" in every.mend
    assert await remarks(Settings(), entry.model_copy(update={"meant_for": MeantFor(modalities=("DX",))}), model) == []

    async def fits(*asked: object) -> list[object]:
        return []

    monkeypatch.setattr("streams.checks._fit", fits)
    told = await _models(Settings().model_copy(update={"models": ModelSettings(registry=path)}))
    assert [one.what for one in told if one.verdict != "ok"] == ["pictures"]
    assert "vocabulary" in [one.what for one in told]
