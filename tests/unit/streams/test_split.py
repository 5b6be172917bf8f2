"""A challenger in a split that fails, once it is open: the champion's patients are served, and its own by the champion."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import ANY

import pytest

from models.errors import Fatal, Poison, Transient, VigilError
from models.registering import challenge, record
from models.registry import ModelEntry, Stage
from models.runtimes.token_classifier import OnnxTokenClassifier
from streams.metrics import LaneMetrics
from streams.serving import Serving, infer
from streams.settings import ModelSettings
from tests import tiny_models as tiny

pytest.importorskip("onnx", reason="tiny graphs are written by onnx (extra: train)")
PATIENTS = [f"patient-{number}" for number in range(40)]


def site(folder: Path) -> tuple[Path, ModelEntry]:
    """A registry whose challenger has half of the patients."""
    entry, path = tiny.entry_of(tiny.classifier_folder(folder / "tiny")), folder / "site.toml"
    for name in ("old", "new"):
        record(entry.model_copy(update={"name": name}), path)
    challenge("ner", Stage(champion="old", challenger="new", mode="split", percent=50), path)
    return path, entry


async def answered(serving: Serving[Any], text: str = "mild fever") -> tuple[list[str], list[Any]]:
    """Who answers for each patient, and what."""
    async with serving.batch() as team:
        models = [team.of(patient) for patient in PATIENTS]
        return [one.entry.name for one in models], await infer([(one, text) for one in models])


@pytest.mark.parametrize("error", [Fatal("of another length"), Transient("no memory")])
async def test_a_challenger_that_fails_is_left_out_and_the_batch_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: VigilError
) -> None:
    path, entry = site(tmp_path)
    find, broken = OnnxTokenClassifier.find, True

    def told(self: Any, texts: Any) -> Any:
        if broken and self.identity.name == "new" and "fever" in texts[0]:
            raise error
        return find(self, texts)

    monkeypatch.setattr(OnnxTokenClassifier, "find", told)
    metrics = LaneMetrics("notes-entities")
    serving: Serving[Any] = Serving(ModelSettings(registry=path), metrics, "ner", lambda model: model.find)
    await serving.open()
    with pytest.raises(Transient, match="the challenger new failed, and is left out"):
        await answered(serving)
    names, spans = await answered(serving)
    assert set(names) == {"old"} and all([span.label for span in of_one] == ["symptom"] for of_one in spans)
    refused = {"lane": "notes-entities", "task": "ner", "role": "challenger"}
    assert metrics.registry.get_sample_value("vigil_models_refused_total", refused) == 1
    broken = False
    path.write_text(path.read_text() + "\n# something else\n")
    await serving.look()
    assert set((await answered(serving))[0]) == {"old"}, "not before its own entry changes"
    record(entry.model_copy(update={"name": "new", "version": "2"}), path)
    await serving.look()
    assert set((await answered(serving))[0]) == {"old", "new"}
    await serving.close()


async def test_what_a_challenger_cannot_bear_the_champion_answers_and_at_the_third_input_it_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, _ = site(tmp_path)
    find, failing = OnnxTokenClassifier.find, {"new"}
    error: VigilError = Poison("not finite", stage="model")

    def told(self: Any, texts: Any) -> Any:
        if self.identity.name in failing and "fever" in texts[0]:
            raise error
        return find(self, texts)

    monkeypatch.setattr(OnnxTokenClassifier, "find", told)
    metrics = LaneMetrics("x")
    serving: Serving[Any] = Serving(ModelSettings(registry=path), metrics, "ner", lambda model: model.find)
    await serving.open()

    async def asked(*texts: str) -> tuple[list[str], list[Any]]:
        """Who answers for patients of the challenger's, one for each text, and what."""
        async with serving.batch() as team:
            his = [patient for patient in PATIENTS if team.of(patient) is team.challenger] or PATIENTS
            notes = [SimpleNamespace(event=SimpleNamespace(patient_id=his[0], text=text)) for text in texts]
            by, found = await serving.answers(team, notes, ask)
            return [one.entry.name for one in by], found

    async def ask(notes: Any, models: Any) -> list[Any]:
        return await infer([(by, one.event.text) for one, by in zip(notes, models, strict=True)])

    assert await asked("mild fever", "well today") == (["old", "new"], [ANY, []])
    failing.add("old")
    names, found = await asked("high fever", "no fever")
    assert names == ["old", "old"] and all(isinstance(one, Poison) for one in found), "the inputs' own fault"
    failing.remove("old")
    assert (await asked("some fever"))[0] == ["old"]
    assert (await asked("well again"))[0] == ["new"], "it goes on until the third"
    names, found = await asked("a fever", "quite well")
    assert names == ["old", "new"] and [span.label for span in found[0]] == ["symptom"]
    assert (await asked("well once more"))[0] == ["old"]
    assert metrics.registry.get_sample_value("vigil_events_total", {"lane": "x", "kind": "challenger-failed"}) == 3
    refused = {"lane": "x", "task": "ner", "role": "challenger"}
    assert metrics.registry.get_sample_value("vigil_models_refused_total", refused) == 1
    failing, error = {"old"}, Fatal("of another length")
    with pytest.raises(Fatal):
        await answered(serving, "another fever")  # nobody remembers an answer
    await serving.close()
