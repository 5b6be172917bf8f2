"""A shadow run: the same model finds no difference; what another one would say is counted by kind and by patient."""

from pathlib import Path

import pytest

from processors.events import EntitiesEvent, Entity
from streams.outbox import Outbox
from streams.replaying import Choice, Replays
from streams.shadowing import Diff, Shadow, compare
from tests.clinic import Clinic, note
from tests.kafka import Kafka

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(240)]


def _entity(start: int, label: str) -> Entity:
    return Entity(label=label, text="x", start=start, end=start + 1, score=0.9)


def test_entities_are_compared_by_span() -> None:
    old = [_entity(0, "condition"), _entity(2, "condition"), _entity(4, "symptom")]
    new = [_entity(0, "condition"), _entity(2, "symptom"), _entity(6, "symptom")]
    assert compare(old, new) == {"same": 1, "changed": 1, "removed": 1, "added": 1}


async def shadow(site: Clinic, choice: Choice, told: list[int]) -> Diff:
    outbox = Outbox(site.settings, source="/test")
    await outbox.start()
    try:
        chosen = await Replays(site.settings).choose(choice, limit=100)
        return await Shadow(site.settings, outbox, user="ml-3").run(chosen, choice, None, "a new model", tell=told.append)
    finally:
        await outbox.stop()


async def test_the_shadow_differs_where_the_outputs_do(kafka: Kafka, tmp_path: Path) -> None:
    site = Clinic(kafka, tmp_path)
    await site.write(
        note("p", "a", "She has pneumonia and type 2 diabetes mellitus."), note("q", "b", "Chest pain and asthma.")
    )
    async with site.running("notes-entities"):
        await site.until_done("notes-entities", "clinical.notes")
    told: list[int] = []
    alike = await shadow(site, Choice(topic="clinical.notes"), told)
    assert (set(alike.total), told) == ({"same"}, [2])
    (audit,) = [one for one in await site.read("clinical.audit") if one["action"] == "replay"]
    assert (audit["agent"], audit["subject"]) == ("ml-3", "shadow/ner")
    assert audit["reason"].startswith(f"a new model; 2 notes of 2 patients through {alike.model}; ")
    assert {(one["patient_id"], one["outcome"]) for one in audit["entries"]} == {("p", "shadowed"), ("q", "shadowed")}
    events = {one["patient_id"]: one for one in await site.read("clinical.entities")}
    assert alike.total["same"] == sum(len(one["entities"]) for one in events.values()) > 0
    # As another model would have left it: p's first entity with another label. It lies last on the topic, so it counts.
    found = EntitiesEvent.model_validate(events["p"])
    other = found.entities[0].model_copy(update={"label": "other"})
    outbox = Outbox(site.settings, source="/test")
    await outbox.start()
    await outbox.send([outbox.encode(found.model_copy(update={"entities": (other, *found.entities[1:])}))])
    await outbox.stop()
    differs = await shadow(site, Choice(topic="clinical.notes"), told)
    assert differs.patients["p"]["changed"] == 1
    assert differs.patients["q"] == alike.patients["q"]
    only = await shadow(site, Choice(topic="clinical.notes", patients=("q",)), told)
    assert (only.total, list(only.patients)) == (alike.patients["q"], ["q"])
