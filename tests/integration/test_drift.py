"""A lane watches its model for drift: nothing where the notes are as the reference's, a metric and one audit record where not."""

from pathlib import Path

import pytest

from models.drift import SHIFTED, STABLE, places
from models.evaluation.drift_reference import reference
from models.registering import record
from models.registry import Registry
from tests.kafka import Kafka
from tests.lanes import until
from tests.ward import TEXT, Ward, entry, fed, ward

pytest.importorskip("onnx", reason="tiny graphs are written by onnx (extra: train)")
pytestmark = [pytest.mark.kafka, pytest.mark.timeout(240)]


def refer(folder: Path, text: str) -> None:
    """A site's reference: two hundred notes that say the same."""
    registry = folder / "registry.toml"
    record(entry(folder, "old", keep=0), registry)
    notes = folder / "notes"
    notes.mkdir()
    for number in range(200):
        (notes / f"{number}.txt").write_text(text, encoding="utf-8")
    known = Registry.load(registry)
    model = known.entry("ner")
    reference(known, model, notes, most=2000).write(places(model, known.folder(model), registry)[0])


def index(here: Ward, figure: str) -> float | None:
    labels = {"lane": "notes-entities", "task": "ner", "model": "old", "figure": figure}
    return here.engine.metrics.registry.get_sample_value("vigil_drift_psi", labels)


@pytest.mark.parametrize("shifted", [False, True])
async def test_notes_unlike_the_reference_are_told_of_once(kafka: Kafka, tmp_path: Path, shifted: bool) -> None:
    refer(tmp_path, "Aspirin given, much aspirin and nothing else." if shifted else TEXT)
    async with ward(kafka, tmp_path, "old", drift_window=50) as here, fed(here):
        await until(lambda: index(here, "characters") is not None, what="a window is full")
        await here.more(120)
        seen = {figure: index(here, figure) or 0.0 for figure in ("characters", "entities", "entities: medication")}
    live = await here.site.read("clinical.entities")
    assert sorted(e["source"]["event_id"] for e in live) == sorted(here.written), "one event for each note"
    told = [one for one in await here.site.read("clinical.audit") if one["action"] == "lifecycle"]
    if not shifted:
        assert all(value < STABLE for value in seen.values()) and told == []
        return
    assert seen["characters"] > SHIFTED and seen["entities: medication"] > SHIFTED
    reasons = [one["reason"] for one in told]
    assert sum("characters" in reason for reason in reasons) == 1, "once, however many windows"
    assert {one["model"]["name"] for one in told} == {"old"}
    assert "200 inputs of notes" in reasons[0] and "aspirin" not in " ".join(reasons).lower()
