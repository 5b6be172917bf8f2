"""A site with models named in a registry file, a running lane, and notes that keep coming: for tests of switches and trials."""

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from models.registering import record
from models.registry import ModelEntry
from streams.engine import Engine
from streams.settings import EntitiesSettings, LanesSettings, ModelSettings
from tests import tiny_models as tiny
from tests.clinic import Clinic, note
from tests.kafka import Kafka
from tests.lanes import until

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

    @property
    def challenger(self) -> str:
        team = self.engine.job.lane.serving._team  # type: ignore[attr-defined]
        return str(team.challenger.entry.name) if team.challenger else ""

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
async def ward(kafka: Kafka, folder: Path, *names: str, vocabulary: bool = False, **models: Any) -> AsyncIterator[Ward]:
    """Run the notes lane with tiny models of these names; without the `vocabulary`, what they say is theirs alone."""
    registry = folder / "registry.toml"
    for number, name in enumerate(names):
        record(entry(folder, name, keep=number / 1024), registry)  # the first one serves
    lanes = LanesSettings(notes_entities=EntitiesSettings(vocabulary=vocabulary))
    site = Clinic(kafka, folder, models=ModelSettings(registry=registry, watch_seconds=0.05, **models), lanes=lanes)
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
