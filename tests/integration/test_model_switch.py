"""A lane's model changed by the registry file while notes flow: none lost, none done twice, each with the digest of who did it."""

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from models.registry import ModelEntry, promote, record
from processors.identity import natural_id
from streams.engine import Engine
from streams.settings import ModelSettings
from tests import tiny_models as tiny
from tests.clinic import Clinic, audited, note
from tests.kafka import Kafka
from tests.lanes import until

pytest.importorskip("onnx", reason="tiny graphs are written by onnx (extra: train)")
pytestmark = [pytest.mark.kafka, pytest.mark.timeout(240)]

TEXT = "Fever and mild cough. Aspirin given."


@dataclass
class Ward:
    """A site with a registry file of two models, and notes that keep coming."""

    site: Clinic
    registry: Path
    engine: Engine
    written: list[str] = field(default_factory=list)  # ids of note versions, in order
    fed: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def serves(self) -> str:
        return str(self.engine.job.lane.model.name)  # type: ignore[attr-defined]

    def sample(self, name: str, **labels: str) -> float:
        return self.engine.metrics.registry.get_sample_value(f"vigil_{name}", {"lane": "notes-entities", **labels}) or 0.0

    async def until_serves(self, name: str) -> None:
        await until(lambda: self.serves == name, what=f"{name} serves")

    async def more(self, notes: int) -> None:
        """Wait until so many more notes are settled than now: batches that began before are behind us."""
        at = self.sample("consumed_total")
        await until(lambda: self.sample("consumed_total") >= at + notes, what=f"{notes} more notes are settled")

    async def feed(self) -> None:
        for number in itertools.count():
            if self.fed.is_set():
                return
            notes = [note(f"patient-{number % 13}", f"{number}-{i}", TEXT) for i in range(5)]
            await self.site.write(*notes)
            self.written += [one.id for one in notes]
            await asyncio.sleep(0.01)


def entry(folder: Path, name: str, *, keep: float) -> ModelEntry:
    """A tiny classifier: `keep` tells one's weights from the other's, and so the digests."""
    table = tiny.scores()
    table[:, 0] += keep
    tiny.classifier_folder(folder / name, table)
    return tiny.entry_of(folder / name, name=name)


@contextlib.asynccontextmanager
async def ward(kafka: Kafka, folder: Path, *names: str) -> AsyncIterator[Ward]:
    registry = folder / "registry.toml"
    for number, name in enumerate(names):
        record(entry(folder, name, keep=number / 1024), registry)  # the first one serves
    site = Clinic(kafka, folder, models=ModelSettings(registry=registry, watch_seconds=0.05))
    async with site.running("notes-entities") as engine:
        await until(lambda: engine.unready() == "", what="the lane is ready")
        yield Ward(site, registry, engine)


@contextlib.asynccontextmanager
async def fed(ward: Ward) -> AsyncIterator[None]:
    """Notes flow while the block runs; after it all of them are settled."""
    feeding = asyncio.create_task(ward.feed())
    try:
        yield
    finally:
        ward.fed.set()
        await feeding
    await ward.site.until_done("notes-entities", "clinical.notes")


def runs(events: list[dict[str, Any]], partition: int) -> list[str]:
    """Who answered, in the order of the notes of a partition, repeats taken together."""
    mine = sorted((e for e in events if e["source"]["partition"] == partition), key=lambda e: int(e["source"]["offset"]))
    return [name for name, _ in itertools.groupby(e["model"]["name"] for e in mine)]


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
