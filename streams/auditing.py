"""Looking things up in `clinical.audit`: which prediction, access or change an id names, and what was looked at of a patient.

The topic is read from its beginning (or from what retention has left): an id stands inside the entries of a micro-batch's record,
not in its key. Records are searched as bytes first and only decoded where the id is in them.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from models.errors import Permanent, Poison
from processors.events import AuditEntry, AuditEvent
from processors.identity import content_hash, natural_id
from streams.clock import Clock
from streams.outbox import Outbox
from streams.reader import Reader
from streams.settings import Settings
from streams.wire import decode

SHORTEST: Final = 8  # characters of an id: less is in every record


@dataclass(frozen=True, slots=True)
class Found:
    """One entry of the audit, or a record without entries (a change of a model). `repeats`: the same said again by a rerun."""

    record: AuditEvent
    entry: AuditEntry | None
    partition: int
    offset: int
    repeats: int = 0

    @property
    def what(self) -> tuple[object, ...]:
        """What is the same in a rerun's record, whatever batches it cut."""
        digest = self.record.model.digest if self.record.model else ""
        return (self.record.action, self.entry or self.record.id, digest)


@dataclass(frozen=True, slots=True)
class Question:
    """What to look for. `ids` are whole ids of outputs, inputs, requests or records, `patients` patient ids; either fits."""

    ids: tuple[str, ...] = ()
    patients: tuple[str, ...] = ()
    actions: tuple[str, ...] = ()
    since: datetime | None = None
    until: datetime | None = None

    def check(self) -> None:
        """Raise `Permanent` for what would find everything."""
        if not self.ids and not self.patients:
            raise Permanent("what should be looked up?", hint="the id of an output, an input or a request; or --patient ID")
        if any(len(one) < SHORTEST for one in (*self.ids, *self.patients)):
            raise Permanent(f"an id of fewer than {SHORTEST} characters is none of Vigil's", hint="give it whole")

    def takes(self, record: AuditEvent) -> bool:
        """Tell whether a record may hold what is looked for."""
        return (
            (not self.actions or record.action in self.actions)
            and (self.since is None or record.recorded_at >= self.since)
            and (self.until is None or record.recorded_at < self.until)
        )

    def entries(self, record: AuditEvent) -> list[AuditEntry | None]:
        """Return the entries that fit; None stands for the record itself."""
        found: list[AuditEntry | None] = [
            entry
            for entry in record.entries
            if entry.event_id in self.ids or entry.input_id in self.ids or entry.patient_id in self.patients
        ]
        if not found and (record.id in self.ids or record.subject in self.patients):
            found = [*record.entries] or [None]
        return found


class AuditLog:
    """The audit of a site. Use as an async context manager. Looking is an access too, and is on record before it is shown."""

    def __init__(self, settings: Settings, *, user: str, clock: Clock, outbox: Outbox) -> None:
        self._settings = settings
        self._user = user
        self._clock = clock
        self._outbox = outbox

    async def __aenter__(self) -> "AuditLog":
        await self._outbox.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._outbox.stop()

    async def find(
        self, question: Question, *, reason: str, progress: Callable[[int, int], None] = lambda done, total: None
    ) -> list[Found]:
        """Return what fits, oldest first. `progress(records read, of how many)`.

        Raises `Permanent` for an empty question, `Transient` when no broker answers.
        """
        question.check()
        found: dict[tuple[object, ...], Found] = {}
        wanted = [one.encode() for one in (*question.ids, *question.patients)]
        topic = self._settings.kafka.topic_prefix + AuditEvent.topic
        async with Reader(self._settings.kafka) as reader:
            bounds = {number: await reader.bounds(topic, number) for number in await reader.partitions(topic)}
            total, done = sum(end - begin for begin, end in bounds.values()), 0
            for number, (begin, end) in bounds.items():
                async for records in reader.read(topic, number, begin, end):
                    for record in records:
                        if record.value and any(one in record.value for one in wanted):
                            _add(found, question, record)
                    done += len(records)
                    progress(done, total)
        hits = sorted(found.values(), key=lambda one: (one.record.recorded_at, one.partition, one.offset))
        await self._record(question, hits, reason)
        return hits

    async def _record(self, question: Question, hits: Sequence[Found], reason: str) -> None:
        now = self._clock()
        asked = "\x1f".join((*question.ids, *question.patients))
        request = natural_id("access", self._user, "audit", asked, now.isoformat())
        patients = dict.fromkeys((*question.patients, *(one.entry.patient_id for one in hits if one.entry)))
        event = AuditEvent(
            id=request,
            action="access",
            agent=self._user,
            subject="audit",
            reason=reason,
            entries=tuple(
                AuditEntry(event_id=request, input_digest=content_hash(asked.encode()), outcome="shown", patient_id=patient)
                for patient in patients
            ),
            recorded_at=now,
        )
        await self._outbox.audit(event)


def _add(found: dict[tuple[object, ...], Found], question: Question, record: Any) -> None:
    try:
        event = decode(AuditEvent, record)
    except Poison:
        return  # of a version that is not known here; `vigil` of that version reads it
    if not question.takes(event):
        return
    for entry in question.entries(event):
        one = Found(event, entry, record.partition, record.offset)
        first = found.setdefault(one.what, one)
        if first is not one:
            found[one.what] = Found(first.record, first.entry, first.partition, first.offset, first.repeats + 1)
