"""A lane's model changed by the registry file while notes flow: none lost, none done twice, each with the digest of who did it."""

from pathlib import Path

import pytest

from models.hub_folders import add
from models.registering import promote, record
from models.vocabulary import vocabulary
from processors.identity import natural_id
from tests import tiny_hub as hub
from tests import tiny_models as tiny
from tests.clinic import audited
from tests.hub_server import Hub
from tests.kafka import Kafka
from tests.lanes import until
from tests.ward import entry, fed, runs, ward

pytest.importorskip("onnx", reason="tiny graphs are written by onnx (extra: train)")
pytestmark = [pytest.mark.kafka, pytest.mark.timeout(240)]


async def test_a_model_is_switched_live_and_back_with_no_note_lost_or_done_twice(kafka: Kafka, tmp_path: Path) -> None:
    async with ward(kafka, tmp_path, "old", "new") as here:
        old, new = (tiny.entry_of(tmp_path / name).digest for name in ("old", "new"))
        assert old != new
        async with fed(here):
            await here.more(40)
            promote("ner", "new", here.registry)
            await here.until_serves("new")
            assert here.sample("model_info", task="ner", role="champion", model="new", version="1", digest=new) == 1
            assert here.sample("model_info", task="ner", role="champion", model="old", version="1", digest=old) == 0
            await here.more(80)
            promote("ner", "old", here.registry)
            await here.until_serves("old")
            await here.more(80)
    events, audit = await here.site.read("clinical.entities"), await here.site.read("clinical.audit")
    assert sorted(e["source"]["event_id"] for e in events) == sorted(here.written), "one event for each note"
    digests = {"old": old, "new": new}
    for event in events:
        assert event["model"]["digest"] == digests[event["model"]["name"]]
        assert event["id"] == natural_id(event["source"]["event_id"], "entities", event["model"]["digest"])
        assert [one["text"] for one in event["entities"]] == ["Fever", "cough", "Aspirin"]
    for partition in {e["source"]["partition"] for e in events}:
        assert runs(events, partition) == ["old", "new", "old"]
    audited_by = {event_id: audit_record["model"]["digest"] for event_id, _, audit_record in audited(audit)}
    assert audited_by == {event["id"]: event["model"]["digest"] for event in events}
    changes = [(one["model"]["name"], one["subject"], one["agent"]) for one in audit if one["action"] == "model-change"]
    assert changes == [(name, "model/ner", "notes-entities@test-0") for name in ("new", "old")]
    assert not await here.site.read("clinical.dead-letters")


async def test_the_vocabulary_is_laid_over_what_the_model_finds(kafka: Kafka, tmp_path: Path) -> None:
    async with ward(kafka, tmp_path, "old", vocabulary=True) as here:
        with here.registry.open("a") as file:
            file.write("\n[thresholds.old]\nsymptom = 1\n")  # the model says nothing of symptoms
        await until(lambda: here.sample("events_total", kind="champion-switched") > 0, what="the thresholds are taken")
        async with fed(here):
            await here.more(20)
    events = await here.site.read("clinical.entities")
    said = {tuple((one["text"], one["found_by"]) for one in event["entities"]) for event in events}
    assert said == {(("Fever", "vocabulary"), ("cough", "vocabulary"), ("Aspirin", "model"))}
    terms = vocabulary().digest
    for event in events:
        assert event["vocabulary"] == terms
        assert event["id"] == natural_id(event["source"]["event_id"], "entities", event["model"]["digest"], terms)


async def test_a_sites_own_thresholds_are_taken_live(kafka: Kafka, tmp_path: Path) -> None:
    async with ward(kafka, tmp_path, "old") as here, fed(here):
        await here.more(20)
        with here.registry.open("a") as file:
            file.write("\n[thresholds.old]\nmedication = 1\n")
        await until(lambda: here.sample("events_total", kind="champion-switched") > 0, what="the thresholds are taken")
        await here.more(20)
    events = await here.site.read("clinical.entities")
    assert sorted(e["source"]["event_id"] for e in events) == sorted(here.written), "one event for each note"
    said = [tuple(one["text"] for one in event["entities"]) for event in sorted(events, key=lambda e: e["source"]["offset"])]
    assert set(said) == {("Fever", "cough", "Aspirin"), ("Fever", "cough")}
    assert said[-1] == ("Fever", "cough")
    (change,) = (one for one in await here.site.read("clinical.audit") if one["action"] == "model-change")
    assert change["model"]["name"] == "old"
    assert change["reason"].startswith("live, the same, its entry changed: thresholds.medication none -> 1.0, ")


async def test_what_cannot_serve_is_refused_and_the_old_model_serves_on(
    kafka: Kafka, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with ward(kafka, tmp_path, "good", "damaged") as here:
        graph = tmp_path / "damaged" / "model.onnx"
        whole = graph.read_bytes()
        async with fed(here):
            await here.more(10)
            graph.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
            for spoil in (
                lambda: promote("ner", "damaged", here.registry),
                lambda: here.registry.write_text(here.registry.read_text().replace('"damaged"', '"nobody"', 1)),
                lambda: here.registry.write_text("no TOML ["),
                lambda: here.registry.unlink(),
            ):
                refused = here.sample("models_refused_total", task="ner", role="champion")
                spoil()
                await until(
                    lambda before=refused: here.sample("models_refused_total", task="ner", role="champion") > before,
                    what="it is refused",
                )
                await here.more(20)
                assert here.serves == "good"
                assert here.engine.unready() == ""
            graph.write_bytes(whole)
            record(tiny.entry_of(tmp_path / "damaged", name="damaged"), here.registry)  # whole again, and the file is back
            await here.until_serves("damaged")
            await here.more(20)
    events = await here.site.read("clinical.entities")
    assert sorted(e["source"]["event_id"] for e in events) == sorted(here.written)
    for partition in {e["source"]["partition"] for e in events}:
        assert runs(events, partition) == ["good", "damaged"]
    told = [one.getMessage() for one in caplog.records if "refused" in one.getMessage()]
    assert [word for word in ("digest", "nobody", "not TOML", "missing") if not any(word in line for line in told)] == []


@pytest.mark.torch
async def test_a_transformers_folder_takes_over_by_the_registry_alone(kafka: Kafka, tmp_path: Path) -> None:
    pytest.importorskip("transformers", reason="extra: train")
    import models.runtimes.transformers_token_classifier  # noqa: F401 - its libraries take a cold disk longer than a test waits

    folder = hub.classifier_folder(tmp_path / "site-bert")
    async with ward(kafka, tmp_path, "old") as here, fed(here):
        await here.more(30)
        added = add(folder, here.registry)
        promote("ner", "site-bert", here.registry)
        await here.until_serves("site-bert")
        await here.more(30)
    events = await here.site.read("clinical.entities")
    assert sorted(e["source"]["event_id"] for e in events) == sorted(here.written), "one event for each note"
    digests = {"old": tiny.entry_of(tmp_path / "old").digest, "site-bert": added.digest}
    for event in events:
        assert event["model"]["digest"] == digests[event["model"]["name"]]
        assert [one["text"] for one in event["entities"]] == ["Fever", "cough", "Aspirin"]
    for partition in {e["source"]["partition"] for e in events}:
        assert runs(events, partition) == ["old", "site-bert"]
    assert not await here.site.read("clinical.dead-letters")


async def test_a_model_of_the_sites_hub_is_fetched_live_where_the_site_lets_lanes(
    kafka: Kafka, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = entry(tmp_path / "hub" / "ward", "new", keep=1 / 1024)
    with Hub(tmp_path / "hub").running() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.address)
        async with ward(kafka, tmp_path, "old", fetch=True) as here, fed(here):
            await here.more(20)
            record(there.model_copy(update={"location": f"hf://ward/new@{hub.commit}"}), here.registry, serve=False)
            promote("ner", "new", here.registry)
            await here.until_serves("new")
            await here.more(20)
    events = await here.site.read("clinical.entities")
    assert sorted(e["source"]["event_id"] for e in events) == sorted(here.written), "one event for each note"
    digests = {"old": tiny.entry_of(tmp_path / "old").digest, "new": there.digest}
    assert {event["model"]["digest"] for event in events} == set(digests.values())
    for event in events:
        assert event["model"]["digest"] == digests[event["model"]["name"]]
