"""Looking things up in `clinical.audit`: which prediction, access or change an id names, and what was looked at of a patient.

The topic is read from its beginning (or from what retention has left): an id stands inside the entries of a micro-batch's record,
not in its key. Records are searched as bytes first and only decoded where the id is in them.

An alert and a dead letter are no predictions and have no entry of their own: what is asked for is looked for among them first, on
their topics, and what they rest on is asked for too: of an alert its score, of a dead letter its input.

Who did something of a kind (a replay, a change of a model) is asked by the action alone, within a time: that finds whole records.
"""

from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, Final, get_args

from models.errors import Permanent, Poison
from processors.events import AlertEvent, AuditEntry, AuditEvent, DeadLetterEvent, VitalsEvent
from processors.identity import content_hash, natural_id
from streams.clock import Clock
from streams.deadletters import original
from streams.outbox import Outbox
from streams.reader import Reader
from streams.settings import Settings
from streams.wire import body_of, decode, key_of

SHORTEST: Final = 8  # characters of an id: less is in every record
ACTIONS: Final[tuple[str, ...]] = get_args(AuditEvent.model_fields["action"].annotation)
# By which a record may say that it was recorded after it was written: a clock was set back.
_DISORDER: Final = timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class Found:
    """One entry of the audit, or a whole record: a change of a model, or what an action alone asked for.

    `repeats`: the same said again by a rerun.
    """

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
class Lead:
    """A step of an alert, or a dead letter, that was asked for; the newest record of it."""

    event: AlertEvent | DeadLetterEvent
    partition: int
    offset: int

    @property
    def rests_on(self) -> str:
        """The id of an alert's score, or of the input; empty where there is none: of silence, or what no lane could read."""
        event = self.event
        if isinstance(event, AlertEvent):
            return event.score_id or (event.source.event_id if event.source.topic == VitalsEvent.topic else "")
        if event.original_partition < 0:
            return ""  # a sender's message, whose ids are its own
        named = body_of(original(event)).get("id")
        return named if isinstance(named, str) else ""

    @property
    def patient_id(self) -> str:
        """Whom it is about, as far as the record says."""
        return (key_of(self.event) or b"").decode(errors="replace")


@dataclass(frozen=True, slots=True)
class Answer:
    """What was found: `leads` among alerts and dead letters, and the audit's own about them and what they rest on.

    `left_out`: so many older ones were found beyond the limit.
    """

    leads: list[Lead]
    found: list[Found]
    left_out: int = 0


@dataclass(frozen=True, slots=True)
class Question:
    """What to look for. `ids` are whole ids of outputs, inputs, requests, records, alerts or dead letters; `patients` patient ids.

    Either fits. With neither, whole records of these `actions` are found, from `since` on.
    """

    ids: tuple[str, ...] = ()
    patients: tuple[str, ...] = ()
    actions: tuple[str, ...] = ()
    since: datetime | None = None
    until: datetime | None = None

    @property
    def general(self) -> bool:
        """Tell whether it asks for actions of a kind, whatever they were about."""
        return not (self.ids or self.patients)

    @property
    def words(self) -> str:
        """Say what is asked in general, for the audit."""
        until = f" until {self.until.isoformat(timespec='seconds')}" if self.until else ""
        since = f" since {self.since.isoformat(timespec='seconds')}" if self.since else ""
        return f"{', '.join(self.actions)}{since}{until}"

    def check(self) -> None:
        """Raise `Permanent` for what would find everything, and for an action that there is not."""
        if self.general and not self.actions:
            raise Permanent(
                "what should be looked up?",
                hint="the id of an output, an input or a request; or --patient ID; or --action replay: who did that",
            )
        if self.general and self.since is None:
            raise Permanent("actions of all time are everything", hint="from when on?")
        if strange := [one for one in self.actions if one not in ACTIONS]:
            raise Permanent(f"there is no action {strange[0]!r}", hint=f"actions: {', '.join(ACTIONS)}")
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
        if self.general:
            return [None]
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
        self,
        question: Question,
        *,
        reason: str,
        limit: int = 1000,
        progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> Answer:
        """Return what fits, oldest first; of what is asked in general the newest `limit`. `progress(records read, of how many)`.

        Raises `Permanent` for an empty question, `Transient` when no broker answers.
        """
        question.check()
        found: dict[tuple[object, ...], Found] = {}
        leads: dict[str, Lead] = {}
        asked, left_out = question.ids, 0
        async with Reader(self._settings.kafka) as reader:
            search = _Search(reader, self._settings.kafka.topic_prefix, progress)
            await search.expect(*((DeadLetterEvent.topic, AlertEvent.topic) if asked else ()))
            await search.expect(AuditEvent.topic, since=question.since)
            if asked:
                async for record in search.having(DeadLetterEvent.topic, asked):
                    _lead(leads, DeadLetterEvent, asked, record)
                asked = _with(asked, leads)  # the letter of a delivery rests on an alert
                async for record in search.having(AlertEvent.topic, asked):
                    _lead(leads, AlertEvent, asked, record)
                asked = _with(asked, leads)
            wider = replace(question, ids=asked)
            named = tuple(f'"{action}"' for action in question.actions) if question.general else (*asked, *question.patients)
            async for record in search.having(AuditEvent.topic, named):
                _add(found, wider, record)
                if question.general and len(found) >= 2 * limit:  # held in memory: what would be left out anyway
                    left_out += _keep_newest(found, limit)
            if question.general:
                left_out += _keep_newest(found, limit)
        hits = sorted(found.values(), key=_recorded)
        answer = Answer(sorted(leads.values(), key=lambda one: (_when(one.event), one.event.id)), hits, left_out)
        await self._record(question, answer, reason)
        return answer

    async def _record(self, question: Question, answer: Answer, reason: str) -> None:
        now = self._clock()
        asked = "\x1f".join((*question.ids, *question.patients))
        request = natural_id("access", self._user, "audit", asked, now.isoformat())
        of_leads = (one.patient_id for one in answer.leads)
        patients = dict.fromkeys((*question.patients, *of_leads, *(one.entry.patient_id for one in answer.found if one.entry)))
        event = AuditEvent(
            id=request,
            action="access",
            agent=self._user,
            subject="audit",
            reason=f"{reason} ({question.words})" if question.general else reason,
            entries=tuple(
                AuditEntry(event_id=request, input_digest=content_hash(asked.encode()), outcome="shown", patient_id=patient)
                for patient in patients
            ),
            recorded_at=now,
        )
        await self._outbox.audit(event)


class _Search:
    """Reads topics whole, one after the other, and says how far it is with all of them."""

    def __init__(self, reader: Reader, prefix: str, progress: Callable[[int, int], None]) -> None:
        self._reader = reader
        self._prefix = prefix
        self._progress = progress
        self._bounds: dict[str, dict[int, tuple[int, int]]] = {}
        self._done = 0

    async def expect(self, *topics: str, since: datetime | None = None) -> None:
        """Look how much there is to read; `since`: of what says that it was recorded from then on."""
        for topic in topics:
            name = self._prefix + topic
            bounds = self._bounds[topic] = {n: await self._reader.bounds(name, n) for n in await self._reader.partitions(name)}
            if since is not None:
                for number, (begin, end) in bounds.items():
                    at = await self._reader.offset_at(name, number, since - _DISORDER)
                    bounds[number] = (begin if at is None else at, end)

    async def having(self, topic: str, ids: Sequence[str]) -> AsyncIterator[Any]:
        """Yield the records of an expected topic that hold one of the ids anywhere."""
        wanted = [one.encode() for one in ids]
        total = sum(end - begin for bounds in self._bounds.values() for begin, end in bounds.values())
        for number, (begin, end) in self._bounds[topic].items():
            async for records in self._reader.read(self._prefix + topic, number, begin, end):
                for record in records:
                    if record.value and any(one in record.value for one in wanted):
                        yield record
                self._done += len(records)
                self._progress(self._done, total)


def _lead(leads: dict[str, Lead], kind: type[AlertEvent] | type[DeadLetterEvent], ids: Sequence[str], record: Any) -> None:
    try:
        event = decode(kind, record)
    except Poison:
        return  # a heartbeat, a mark, or of a version that is not known here
    if event.id in ids or (isinstance(event, AlertEvent) and event.alert_id in ids):
        before = leads.get(event.id)
        if before is None or _when(before.event) <= _when(event):
            leads[event.id] = Lead(event, record.partition, record.offset)


def _when(event: AlertEvent | DeadLetterEvent) -> datetime:
    return event.decided_at if isinstance(event, AlertEvent) else event.failed_at


def _with(ids: Sequence[str], leads: dict[str, Lead]) -> tuple[str, ...]:
    """Return these ids, those of what they led to (deliveries name an alert's step) and of what that rests on."""
    more = (one for lead in leads.values() for one in (lead.event.id, lead.rests_on) if one)
    return tuple(dict.fromkeys((*ids, *more)))


def _recorded(one: Found) -> tuple[datetime, int, int]:
    return one.record.recorded_at, one.partition, one.offset


def _keep_newest(found: dict[tuple[object, ...], Found], most: int) -> int:
    """Forget all but the newest; return how many."""
    older = sorted(found.items(), key=lambda item: _recorded(item[1]))[: max(0, len(found) - most)]
    for what, _ in older:
        del found[what]
    return len(older)


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
