"""A shadow run: another registry's model over chosen notes, in this process, and what it says differently.

Nothing is written to a topic but the audit of the access.

The lane's own batch function does the work (`streams.lanes.notes`); what it gives is compared with the newest event of each note
version on `clinical.entities`.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final

from models.errors import Permanent, Poison
from processors.events import AuditEvent, EntitiesEvent, Entity, NoteEvent
from processors.identity import natural_id
from streams.clock import Clock, real_clock
from streams.deadletters import original
from streams.lane import Input
from streams.lanes.notes import NotesToEntities
from streams.metrics import LaneMetrics
from streams.outbox import Outbox
from streams.reader import Reader
from streams.redriving import Letter
from streams.replaying import Choice, audit_entry, body_of
from streams.settings import Settings
from streams.wire import decode

KINDS = ("added", "removed", "changed", "same", "not-compared")
_TOGETHER: Final = 32
_AUDITED: Final = 500  # notes of one audit record
_FOR_EVER: Final = 1e9  # seconds


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


class Shadow:
    """Compares a model with what was published. `outbox` must be started: an access that cannot be accounted for is no access."""

    def __init__(self, settings: Settings, outbox: Outbox, *, user: str, clock: Clock = real_clock) -> None:
        self._settings = settings
        self._outbox = outbox
        self._user = user
        self._clock = clock

    async def run(
        self,
        letters: Sequence[Letter],
        choice: Choice,
        registry: Path | None,
        reason: str,
        *,
        tell: Callable[[int], None] = lambda done: None,
    ) -> Diff:
        """Run the champion "ner" model of `registry` (the site's own if None) over notes, the originals behind `letters`.

        Raises as the lane's `open` does, and `Permanent` for a record that is no note's. Audited before anything is shown.
        """
        if strange := [one for one in letters if not one.event.original_topic.endswith(NoteEvent.topic)]:
            raise Permanent(
                f"a shadow run reads notes, not {strange[0].event.original_topic}", hint="choose letters of notes only"
            )
        # One model from beginning to end, whoever is promoted meanwhile: without a watch on the registry.
        changed: dict[str, Any] = {"watch_seconds": _FOR_EVER} | ({} if registry is None else {"registry": registry})
        models = self._settings.models.model_copy(update=changed)
        lane = NotesToEntities(self._settings.model_copy(update={"models": models}), LaneMetrics("shadow"))
        try:
            await lane.open()
            assert lane.model is not None
            diff = Diff(f"{lane.model.name}@{lane.model.version}", lane.model.digest)
            await self._audit(letters, choice, diff, reason)
            outputs = await _outputs(self._settings, {str(body_of(original(one.event)).get("id")) for one in letters})
            for start in range(0, len(letters), _TOGETHER):
                part = letters[start : start + _TOGETHER]
                await _compare(lane, _inputs(lane, part, diff), outputs, diff)
                tell(start + len(part))
            return diff
        finally:
            await lane.close()

    async def _audit(self, letters: Sequence[Letter], choice: Choice, diff: Diff, reason: str) -> None:
        at = self._clock()
        patients = {str(body_of(original(letter.event)).get("patient_id", "")) for letter in letters}
        for start in range(0, max(1, len(letters)), _AUDITED):
            request = natural_id("shadow", self._user, diff.digest, at.isoformat(), start)
            entries = tuple(audit_entry(letter, request, "shadowed") for letter in letters[start : start + _AUDITED])
            event = AuditEvent(
                id=request,
                action="replay",
                agent=self._user,
                subject="shadow/ner",
                entries=entries,
                reason=f"{reason}; {len(letters)} notes of {len(patients)} patients through {diff.model}; {choice.words}",
                recorded_at=at,
            )
            await self._outbox.audit(event)


def _inputs(lane: NotesToEntities, letters: Sequence[Letter], diff: Diff) -> list[Input[NoteEvent]]:
    inputs = []
    for letter in letters:
        place = letter.event.original_partition, letter.event.original_offset
        record = SimpleNamespace(value=original(letter.event), partition=place[0], offset=place[1], headers=())
        try:
            inputs.append(lane.decode(record))
        except Poison:
            diff.total["not-compared"] += 1
    return inputs


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


async def _outputs(settings: Settings, wanted: Collection[str]) -> dict[str, EntitiesEvent]:
    """Return the newest entities of each of these note versions, by the note event's id."""
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
                    if event.source.event_id in wanted:
                        found[event.source.event_id] = event
    return found
