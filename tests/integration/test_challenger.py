"""A challenger beside the champion while notes flow: in shadow it touches nothing live, in a split it answers for its share."""

import time
from pathlib import Path
from typing import Any

import pytest

from models.registering import challenge, promote, record
from models.registry import Stage
from streams.team import in_share
from tests import tiny_models as tiny
from tests.kafka import Kafka
from tests.lanes import until
from tests.ward import Ward, fed, ward

pytest.importorskip("onnx", reason="tiny graphs are written by onnx (extra: train)")
pytestmark = [pytest.mark.kafka, pytest.mark.timeout(240)]


def shadowed(here: Ward, outcome: str) -> float:
    return here.sample("shadow_items_total", task="ner", outcome=outcome)


def deaf(folder: Path, name: str) -> None:
    """A challenger that does not know what a fever is."""
    table = tiny.scores()
    table[tiny.IDS["fever"]] = table[tiny.IDS["mild"]]
    tiny.classifier_folder(folder / name, table)
    record(tiny.entry_of(folder / name, name=name), folder / "registry.toml")


def trial(here: Ward, mode: str, percent: float | None = None, name: str = "new") -> None:
    stage = Stage.model_validate({"champion": "old", "challenger": name, "mode": mode, "percent": percent})
    challenge("ner", stage, here.registry)


async def until_open(here: Ward, name: str) -> None:
    digest = tiny.entry_of(here.registry.parent / name).digest
    labels = {"task": "ner", "role": "challenger", "model": name, "version": "1", "digest": digest}
    await until(lambda: here.sample("model_info", **labels) == 1, what=f"{name} is on trial")


async def test_in_shadow_it_is_compared_and_nothing_else(kafka: Kafka, tmp_path: Path) -> None:
    async with ward(kafka, tmp_path, "old") as here:
        deaf(tmp_path, "new")
        async with fed(here):
            await here.more(10)
            assert await here.site.read("clinical.shadow") == []
            trial(here, "shadow", 60)
            await until_open(here, "new")
            await here.more(60)
            challenge("ner", None, here.registry)
            await until(lambda: here.challenger == "", what="the trial ends")
        await until(lambda: shadowed(here, "differed") > 0, what="something was compared")
    live, aside = await here.site.read("clinical.entities"), await here.site.read("clinical.shadow")
    assert sorted(e["source"]["event_id"] for e in live) == sorted(here.written), "one event for each note"
    assert {e["model"]["name"] for e in live} == {"old"}
    assert aside
    old, new = (tiny.entry_of(tmp_path / name).digest for name in ("old", "new"))
    assert {(e["champion"]["digest"], e["challenger"]["digest"]) for e in aside} == {(old, new)}
    # 3 entities against 2 of them: F1 = 4/5
    assert {round(e["disagreement"], 6) for e in aside} == {0.2}
    assert {tuple(one["text"] for one in e["entities"]) for e in aside} == {("cough", "Aspirin")}
    assert all(in_share(e["patient_id"], 60) for e in aside)
    assert {e["source"]["event_id"] for e in aside} <= set(here.written)
    assert len({e["id"] for e in aside}) == len(aside)
    audit = await here.site.read("clinical.audit")
    assert {one["model"]["name"] for one in audit if one["action"] == "predict"} == {"old"}, "a comparison is no prediction"
    assert not await here.site.read("clinical.dead-letters")


async def test_a_challenger_that_fails_or_is_slow_never_touches_the_champion(
    kafka: Kafka, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from models.runtimes.token_classifier import OnnxTokenClassifier

    find = OnnxTokenClassifier.find

    def told(self: Any, texts: Any) -> Any:
        if self.identity.name == "slow":
            time.sleep(0.3)  # a big model on a small machine
        if self.identity.name == "failing" and "Fever" in texts[0]:
            raise RuntimeError("patient text in it: " + texts[0])
        return find(self, texts)

    # The real runtime all the same: no small model fails, or takes its time, when it is asked to.
    monkeypatch.setattr(OnnxTokenClassifier, "find", told)
    async with ward(kafka, tmp_path, "old", "failing", "slow", shadow_queue=4) as here, fed(here):
        trial(here, "shadow", name="failing")
        await until(lambda: shadowed(here, "failed") > 5, what="it failed")
        challenge("ner", None, here.registry)
        trial(here, "shadow", name="slow")
        await until(lambda: shadowed(here, "dropped") > 20, what="what it could not keep up with was dropped")
        await here.more(40)
        record(tiny.entry_of(tmp_path / "old", name="gone", location=str(tmp_path / "gone")), here.registry)
        here.registry.write_text(here.registry.read_text().replace('challenger = "slow"', 'challenger = "gone"'))
        await until(lambda: here.sample("models_refused_total", task="ner", role="challenger") > 0, what="it is refused")
        here.registry.write_text(here.registry.read_text().replace('challenger = "gone"', 'challenger = "nobody"'))
        await until(lambda: here.sample("models_refused_total", task="ner", role="champion") > 0, what="the file is refused")
        await here.more(20)
        assert here.engine.unready() == ""
    live = await here.site.read("clinical.entities")
    assert sorted(e["source"]["event_id"] for e in live) == sorted(here.written), "one event for each note"
    assert {e["model"]["name"] for e in live} == {"old"}
    failed = [e for e in await here.site.read("clinical.shadow") if e["challenger"]["name"] == "failing"]
    assert failed and {(e["error"], e["disagreement"]) for e in failed} == {("Poison", None)}
    assert not await here.site.read("clinical.dead-letters")


async def test_in_a_split_a_patients_notes_are_always_the_work_of_the_same_model(kafka: Kafka, tmp_path: Path) -> None:
    async with ward(kafka, tmp_path, "old", "new") as here:
        trial(here, "split", 40)
        await until_open(here, "new")
        async with fed(here):
            await here.more(100)
            promote("ner", "new", here.registry)  # which ends the trial
            await here.until_serves("new")
            await here.more(20)
    live, audit = await here.site.read("clinical.entities"), await here.site.read("clinical.audit")
    assert sorted(e["source"]["event_id"] for e in live) == sorted(here.written), "one event for each note"
    digests = {name: tiny.entry_of(tmp_path / name).digest for name in ("old", "new")}
    assert all(e["model"]["digest"] == digests[e["model"]["name"]] for e in live)
    share = {patient for patient in {e["patient_id"] for e in live} if in_share(patient, 40)}
    assert share and share != {e["patient_id"] for e in live}
    for event in live:
        if event["patient_id"] in share:
            assert event["model"]["name"] == "new"
    others = [e["model"]["name"] for e in live if e["patient_id"] not in share]
    assert set(others) == {"old", "new"}  # until, and after, the promotion
    changes = [one["reason"] for one in audit if one["action"] == "model-change"]
    assert len(changes) == 2 and "40% of the patients" in changes[0] and "before old" in changes[1]
    assert await here.site.read("clinical.shadow") == []


async def test_models_remember_and_their_answers_never_cross(kafka: Kafka, tmp_path: Path) -> None:
    async with ward(kafka, tmp_path, "old") as here, fed(here):
        deaf(tmp_path, "new")
        await here.more(30)
        promote("ner", "new", here.registry)
        await here.until_serves("new")
        await here.more(30)
        hits, misses = (here.sample("cached_predictions_total", task="ner", outcome=outcome) for outcome in ("hit", "miss"))
        assert hits > misses
    live = await here.site.read("clinical.entities")
    assert sorted(e["source"]["event_id"] for e in live) == sorted(here.written), "one event for each note"
    said = {(e["model"]["name"], tuple(one["text"] for one in e["entities"])) for e in live}
    assert said == {("old", ("Fever", "cough", "Aspirin")), ("new", ("cough", "Aspirin"))}
