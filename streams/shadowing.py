"""A shadow run: another registry's model over chosen notes, in this process, and what it says differently. Nothing is written.

The lane's own batch function does the work (`streams.lanes.notes`); what it gives is compared with the newest event of each note
version on `clinical.entities`.
"""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

from models.errors import Poison
from processors.events import EntitiesEvent, Entity, NoteEvent
from streams.deadletters import original
from streams.lane import Input
from streams.lanes.notes import NotesToEntities
from streams.metrics import LaneMetrics
from streams.reader import Reader
from streams.redriving import Letter
from streams.settings import Settings
from streams.wire import decode

KINDS = ("added", "removed", "changed", "same", "not-compared")
_TOGETHER = 32


@dataclass(slots=True)
class Diff:
    """Entities by what became of them, in total and per patient. `not-compared` counts notes: no output, or no longer readable."""

    model: str = ""
    digest: str = ""
    notes: int = 0
    total: Counter[str] = field(default_factory=Counter)
    patients: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))

    def count(self, patient: str, kinds: Mapping[str, int]) -> None:
        """Add one note's."""
        self.total.update(kinds)
        self.patients[patient].update(kinds)


def compare(old: Sequence[Entity], new: Sequence[Entity]) -> Counter[str]:
    """Count entities by span: only in `new`, only in `old`, in both with another label or assertion, in both alike."""
    before = {(one.start, one.end): (one.label, one.assertion) for one in old}
    after = {(one.start, one.end): (one.label, one.assertion) for one in new}
    found: Counter[str] = Counter()
    for span in before.keys() | after.keys():
        if span not in before:
            found["added"] += 1
        elif span not in after:
            found["removed"] += 1
        else:
            found["same" if before[span] == after[span] else "changed"] += 1
    return found


async def shadow(settings: Settings, letters: Sequence[Letter], registry: Path | None) -> Diff:
    """Run the champion "ner" model of `registry` (the site's own if None) over notes; raises as the lane's `open` does."""
    models = settings.models if registry is None else settings.models.model_copy(update={"registry": registry})
    lane = NotesToEntities(settings.model_copy(update={"models": models}), LaneMetrics("shadow"))
    outputs = await _outputs(settings)
    await lane.open()
    try:
        assert lane.model is not None
        diff = Diff(f"{lane.model.name}@{lane.model.version}", lane.model.digest)
        for start in range(0, len(letters), _TOGETHER):
            inputs = []
            for letter in letters[start : start + _TOGETHER]:
                place = letter.event.original_partition, letter.event.original_offset
                record = SimpleNamespace(value=original(letter.event), partition=place[0], offset=place[1], headers=())
                try:
                    inputs.append(lane.decode(record))
                except Poison:
                    diff.total["not-compared"] += 1
            await _compare(lane, inputs, outputs, diff)
        return diff
    finally:
        await lane.close()


async def _compare(
    lane: NotesToEntities,
    inputs: Sequence[Input[NoteEvent]],
    outputs: Mapping[str, EntitiesEvent],
    diff: Diff,
) -> None:
    for one, outcome in zip(inputs, await lane.process(inputs), strict=True):
        diff.notes += 1
        old = outputs.get(one.event.id)
        if old is None or outcome.error is not None:
            diff.count(one.event.patient_id, {"not-compared": 1})
            continue
        (new,) = outcome.events
        assert isinstance(new, EntitiesEvent)
        diff.count(one.event.patient_id, compare(old.entities, new.entities))


async def _outputs(settings: Settings) -> dict[str, EntitiesEvent]:
    """Return the newest entities of each note version, by the note event's id."""
    found: dict[str, EntitiesEvent] = {}
    topic = settings.kafka.topic_prefix + EntitiesEvent.topic
    async with Reader(settings.kafka) as reader:
        for number in await reader.partitions(topic):
            begin, end = await reader.bounds(topic, number)
            async for records in reader.read(topic, number, begin, end):
                for record in records:
                    try:
                        event = decode(EntitiesEvent, record)
                    except Poison:
                        continue
                    found[event.source.event_id] = event
    return found
