"""A shadow run: another registry's model over chosen notes, in this process, and what it says differently.

Nothing is written to a topic but the audit of the access.

The lane's own batch function does the work (`streams.lanes.notes`); what it gives is compared with the newest event of each note
version on `clinical.entities`.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final

from models.errors import Permanent, Poison, VigilError
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
from streams.replaying import Choice, audit_entry
from streams.settings import Settings
from streams.wire import body_of, decode

KINDS = ("added", "removed", "changed", "rescored", "same", "not-compared", "failed")
_CHANGES: Final = ("added", "removed", "changed")
_NUMBER: Final = re.compile(r"\b\d+\b")
_RESCORED: Final = 0.01  # a score differs by so much or more; less is another machine's rounding
_TOGETHER: Final = 32
_AUDITED: Final = 500  # notes of one audit record
_FOR_EVER: Final = 1e9  # seconds


@dataclass(frozen=True, slots=True)
class Difference:
    """What became of one entity, by the kind of it: as it stands on `clinical.entities`, as the candidate has it."""

    kind: str
    was: Entity | None
    now: Entity | None

    def facts(self) -> dict[str, Any]:
        """Return it for a machine, without the words that it stands on: they are the note's."""
        one = self.was or self.now
        assert one is not None
        sides = {"was": self.was, "now": self.now}
        return {
            "start": one.start,
            "end": one.end,
            **{
                side: entity and {"label": entity.label, "assertion": entity.assertion, "score": entity.score}
                for side, entity in sides.items()
            },
        }


@dataclass(frozen=True, slots=True)
class NoteDiff:
    """One note version whose outputs differ, or on which the candidate failed. Ids and places only, no text."""

    input_id: str  # of the note's version
    note_id: str
    patient_id: str
    place: tuple[int, int]  # partition, offset
    differences: tuple[Difference, ...] = ()
    failed: str = ""

    def facts(self) -> dict[str, Any]:
        """Return it for a machine."""
        found: dict[str, Any] = {
            "input_id": self.input_id,
            "note_id": self.note_id,
            "patient_id": self.patient_id,
            "partition": self.place[0],
            "offset": self.place[1],
        }
        if self.failed:
            found["failed"] = self.failed
        for one in self.differences:
            found.setdefault(one.kind, []).append(one.facts())
        return found


@dataclass(slots=True)
class Diff:
    """Entities by what became of them, in total and per patient, and each note that differs.

    `not-compared` counts notes: no output, or no longer readable. `failed` counts notes on which the candidate failed.
    """

    model: str = ""
    digest: str = ""
    notes: int = 0
    total: Counter[str] = field(default_factory=Counter)
    patients: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    failures: Counter[str] = field(default_factory=Counter)  # notes, by why; without its numbers, which are each note's own
    differ: list[NoteDiff] = field(default_factory=list)

    def count(self, patient: str, kinds: Mapping[str, int]) -> None:
        """Add one note's."""
        self.total.update(kinds)
        self.patients[patient].update(kinds)

    def fail(self, note: Input[NoteEvent], why: str) -> None:
        """Add a note on which the candidate failed."""
        self.count(note.event.patient_id, {"failed": 1})
        self.failures[_NUMBER.sub("n", why)] += 1
        self.differ.append(_note(note, failed=why))

    def worst(self) -> list[tuple[str, Counter[str]]]:
        """Return the patients, those with the most failures and changes first."""

        def most(item: tuple[str, Counter[str]]) -> tuple[int, int, int, str]:
            patient, kinds = item
            return -kinds["failed"], -sum(kinds[kind] for kind in _CHANGES), -kinds["rescored"], patient

        return sorted(self.patients.items(), key=most)

    def facts(self) -> Iterator[dict[str, Any]]:
        """Return it for a machine: the total, then each patient, then each note that differs."""
        yield {
            "model": self.model,
            "digest": self.digest,
            "notes": self.notes,
            **self.total,
            "failures": dict(self.failures.most_common()),
        }
        for patient, kinds in self.worst():
            yield {"patient_id": patient, **kinds}
        for note in self.differ:
            yield note.facts()


def compare(old: Sequence[Entity], new: Sequence[Entity]) -> list[Difference]:
    """Compare by span, in the note's order: only in `new`, only in `old`, in both with another label or assertion, or alike.

    What is alike is `rescored` where its score is another.
    """
    before = {(one.start, one.end): one for one in old}
    after = {(one.start, one.end): one for one in new}
    spans = sorted(before.keys() | after.keys())
    return [Difference(_kind(before.get(span), after.get(span)), before.get(span), after.get(span)) for span in spans]


def _kind(was: Entity | None, now: Entity | None) -> str:
    if was is None:
        return "added"
    if now is None:
        return "removed"
    if (was.label, was.assertion) != (now.label, now.assertion):
        return "changed"
    return "same" if abs(was.score - now.score) < _RESCORED else "rescored"


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
        if outcome.error is not None:
            diff.fail(one, _why(outcome.error))
            continue
        old = outputs.get(one.event.id)
        if old is None:
            diff.count(one.event.patient_id, {"not-compared": 1})
            continue
        (new,) = outcome.events
        assert isinstance(new, EntitiesEvent)
        found = compare(old.entities, new.entities)
        diff.count(one.event.patient_id, Counter(each.kind for each in found))
        if differences := tuple(each for each in found if each.kind != "same"):
            diff.differ.append(_note(one, differences))


def _note(one: Input[NoteEvent], differences: tuple[Difference, ...] = (), failed: str = "") -> NoteDiff:
    event, place = one.event, (one.source.partition, one.source.offset)
    return NoteDiff(event.id, event.note_id, event.patient_id, place, differences, failed)


def _why(error: VigilError) -> str:
    """Say why the candidate failed, as a dead letter would: an error's words hold no patient's text."""
    stage = f" ({error.stage})" if isinstance(error, Poison) else ""
    return f"{type(error).__name__}{stage}: {error}"


async def _outputs(settings: Settings, wanted: Collection[str]) -> dict[str, EntitiesEvent]:
    """Return the newest entities of each of these note versions, by the note event's id."""
    found: dict[str, EntitiesEvent] = {}
    topic = settings.kafka.topic_prefix + EntitiesEvent.topic
    async with Reader(settings.kafka) as reader:
        async for record in reader.whole(topic):
            try:
                event = decode(EntitiesEvent, record)
            except Poison:
                continue
            if event.source.event_id in wanted:
                found[event.source.event_id] = event
    return found
