"""What operators do about dead letters: find them, look into one, give them back to their topic, set them aside.

What was done stands beside the letter as a mark (`streams.letters`). Whatever is done is audited first: what cannot be accounted
for is not done. A crash between a step and the next leaves letters open that were redriven; redriving them again overwrites the
same ids. An original is written once, however many lanes' letters are about it: every lane that reads its topic reads the copy.

Redriven input is late data. What could do harm as such is held back, and the plan says why:
- vitals younger than the monitor's staleness limit, for the lane would take them for news and alert live;
- a note or a patient's context that a newer record of its topic has replaced, for it would take the newer one's place.
"""

from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final, Literal, Self

from pydantic import TypeAdapter, ValidationError

from models.errors import Permanent, Poison
from processors.events import (
    AlertEvent,
    AuditEntry,
    AuditEvent,
    DeadLetterEvent,
    DeadLetterMarkEvent,
    FeedbackEvent,
    ImageEvent,
    NoteEvent,
    PatientEvent,
    VitalsEvent,
)
from processors.identity import natural_id
from streams.clock import Clock, real_clock
from streams.deadletters import original, redrive, redriven
from streams.letters import STATES, Found, Letter, State, Which, choose, fold
from streams.outbox import Outbox
from streams.reader import Reader
from streams.settings import Settings
from streams.survivors import Survivors
from streams.wire import Message, body_of, decode, iso, key_of
from streams.yielding import SECONDS, Room

__all__ = ["DeadLetters", "Letter", "Plan", "State", "Which", "counts"]  # a desk's letters are those of `streams.letters`

INPUTS: Final = (NoteEvent.topic, ImageEvent.topic, VitalsEvent.topic, PatientEvent.topic, FeedbackEvent.topic)
_TOGETHER: Final = 100  # letters that are audited, written and marked together
_TICK: Final = timedelta(minutes=1)  # the lane's logged time stands still for a tick, and clocks differ a little
_TIME: Final[TypeAdapter[datetime]] = TypeAdapter(datetime)

CONNECTOR = "from a connector: it never was a record; its sender has to send it again"
CUT = "too large for a letter: the whole is at its place for as long as its topic keeps it"
NO_INPUT = "its topic is no input of this site's lanes"
YOUNG = "vitals that could still alert live; they can be redriven when they are history"
REPLACED = "a newer version is on its topic and would be overwritten"
UNKNOWN = "its topic no longer shows whether a newer version came (--unverified)"


@dataclass(frozen=True, slots=True)
class Concerned:
    """A patient whom letters are about: how many, the newest's time and reason, and of a delivery's the alert that is untold."""

    patient_id: str
    letters: int
    failed_at: datetime
    message: str
    alert: AlertEvent | None


@dataclass(slots=True)
class Plan:
    """What a redrive would do: `ready` in the order of the originals, and what is held back, by reason.

    `merged`: how many of what is ready give vectors and are of records that were merged into others.
    """

    ready: list[Letter] = field(default_factory=list)
    held: dict[str, list[Letter]] = field(default_factory=lambda: defaultdict(list))
    merged: int = 0

    @property
    def words(self) -> list[str]:
        """Say what is held back, and what of the rest does not stay where its record says."""
        held = [f"held back: {len(letters)} x {why}" for why, letters in self.held.items()]
        return [
            *held,
            *([f"of merged records: {self.merged}; their vectors are the surviving records'"] if self.merged else []),
        ]


class DeadLetters:
    """The dead letters of a site. Use as an async context manager; without an outbox they can only be found and counted."""

    def __init__(self, settings: Settings, *, outbox: Outbox | None = None, user: str = "", clock: Clock = real_clock) -> None:
        self._settings = settings
        self._prefix = settings.kafka.topic_prefix
        self._outbox = outbox
        self._user = user
        self._clock = clock

    async def __aenter__(self) -> Self:
        if self._outbox is not None:
            await self._outbox.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._outbox is not None:
            await self._outbox.stop()

    # ------------------------------------------------------------------------------------------------------------- finding

    async def find(
        self, which: Which, *, states: Sequence[State] = ("open",), whole: bool = False, limit: int | None = None
    ) -> list[Letter]:
        """Return the letters of `look`."""
        return (await self.look(which, states=states, whole=whole, limit=limit)).letters

    async def look(
        self,
        which: Which,
        *,
        states: Sequence[State] = ("open",),
        whole: bool = False,
        limit: int | None = None,
        apart: Callable[[DeadLetterEvent], str] = lambda event: "",
    ) -> Found:
        """Find the letters in these states, oldest failure first, the first `limit` of them (see `streams.letters.choose`).

        Originals only if `whole`, in a second pass, of the `letters` that are returned: a burst of them need not fit into memory.
        Raises `Transient` when no broker answers, `Permanent` when the topic is not there or no letter begins with an id.
        """
        letters: dict[str, Letter] = {}
        async for record in self._records():
            fold(letters, record)
        found = choose(letters.values(), which, states, limit, apart)
        if whole and found.letters:
            wanted = {(letter.partition, letter.offset): letter for letter in found.letters}
            async for record in self._records({partition for partition, _ in wanted}):
                if letter := wanted.get((record.partition, record.offset)):
                    letter.event = decode(DeadLetterEvent, record).model_copy(update={"attempts": letter.event.attempts})
        return found

    async def _records(self, partitions: Collection[int] | None = None) -> AsyncIterator[Any]:
        topic = self._prefix + DeadLetterEvent.topic
        async with Reader(self._settings.kafka) as reader:
            async for record in reader.whole(topic, partitions=partitions):
                yield record

    async def one(self, letter_id: str) -> Letter:
        """Return a letter whole, by its id or the beginning of it; raises `Permanent` where that is none or several."""
        found = await self.find(Which(ids=(letter_id,)), states=STATES, whole=True)
        if len(found) > 1:
            raise Permanent(f"{len(found)} dead letters begin with {letter_id}", hint="give more of the id")
        return found[0]

    async def disclose(self, letter: Letter, reason: str) -> bytes | None:
        """Return the original value, once it is on record who asked for it and why."""
        await self._audit("access", [letter], "shown", reason)
        return original(letter.event)

    async def concerned(self, which: Which, reason: str, *, states: Sequence[State] = ("open",)) -> list["Concerned"]:
        """Return whom letters are about, the newest failure first, once it is on record who asked and why.

        Of a delivery's letter the alert that was not told is named.
        """
        found = (await self.look(which, states=states, whole=True)).letters
        letters = [letter for letter in found if _patient(letter.event)]
        await self._audit("access", letters, "shown", reason)
        by_patient: dict[str, list[Letter]] = defaultdict(list)
        for letter in sorted(letters, key=lambda one: one.event.failed_at, reverse=True):
            by_patient[_patient(letter.event)].append(letter)
        return [
            Concerned(patient, len(some), some[0].event.failed_at, some[0].event.message, _alert(some[0].event))
            for patient, some in by_patient.items()
        ]

    # ------------------------------------------------------------------------------------------------------------- redriving

    async def prepare(self, which: Which, *, limit: int | None = None, unverified: bool = False) -> tuple[Found, Plan]:
        """Find open letters and plan their redrive. The limit counts those that can be redriven at all, now or one day."""
        found = await self.look(which, whole=True, limit=limit, apart=self._never)
        plan = await self.plan(found.letters, unverified=unverified)
        for reason, letters in found.apart.items():
            plan.held[reason] += letters
        return found, plan

    def _never(self, event: DeadLetterEvent) -> str:
        """Say why a letter can never be redriven; "" where it can."""
        if event.original_partition < 0:
            return CONNECTOR
        if event.cut is not None:
            return CUT
        topic = self._topic(event)
        return NO_INPUT if topic not in INPUTS or event.original_topic != self._prefix + topic else ""

    async def plan(self, letters: Sequence[Letter], *, unverified: bool = False) -> Plan:
        """Sort letters (whole ones) into those that can be redriven now and those that are held back."""
        plan, at = Plan(), self._clock()
        versioned: dict[tuple[str, int], list[Letter]] = defaultdict(list)
        for letter in sorted(letters, key=lambda one: _place(one.event)):
            topic = self._topic(letter.event)
            if never := self._never(letter.event):
                plan.held[never].append(letter)
            elif topic == VitalsEvent.topic and at < self._history_from(letter):
                plan.held[YOUNG].append(letter)
            else:
                plan.ready.append(letter)
                if topic in (NoteEvent.topic, PatientEvent.topic):
                    versioned[letter.event.original_topic, letter.event.original_partition].append(letter)
        for reason, held in (await self._replaced(versioned)).items():
            if reason == UNKNOWN and unverified:
                continue
            ids = {letter.event.id for letter in held}
            plan.ready = [letter for letter in plan.ready if letter.event.id not in ids]
            plan.held[reason] += held
        plan.merged = await self._merged(plan.ready)
        return plan

    async def _merged(self, letters: Sequence[Letter]) -> int:
        """Count those that give vectors and are of merged records."""
        bodies = [
            body_of(original(one.event)) for one in letters if self._topic(one.event) in (NoteEvent.topic, ImageEvent.topic)
        ]
        if not bodies:
            return 0
        survivors = Survivors(self._settings.kafka)
        try:
            await survivors.catch_up()
        except Permanent:  # there is no topic, and so no merge: the lanes say what is missing
            return 0
        finally:
            await survivors.close()
        patients = (str(body.get("patient_id", "")) for body in bodies)
        return sum(survivors.of(one) != one for one in patients)

    def _history_from(self, letter: Letter) -> datetime:
        """Say from when on the vitals lane takes a set for history, whatever it says about itself.

        A set counts as of its own time unless that lies in the future of its receipt, and it was received before it failed.
        """
        rules = self._settings.monitor
        counts_as_of = letter.first_failed_at + rules.future_tolerance
        try:
            observed = _TIME.validate_python(body_of(original(letter.event)).get("observed_at"))
            counts_as_of = min(counts_as_of, observed) if observed.tzinfo is not None else counts_as_of
        except ValidationError:
            pass
        return counts_as_of + rules.staleness + _TICK

    async def _replaced(self, versioned: Mapping[tuple[str, int], Sequence[Letter]]) -> dict[str, list[Letter]]:
        """Find the letters of which the topic holds a newer version, or no longer tells."""
        held: dict[str, list[Letter]] = defaultdict(list)
        if not versioned:  # a consumer that is stopped before it did anything raises CancelledError (aiokafka 0.14)
            return held
        async with Reader(self._settings.kafka) as reader:
            for (topic, partition), letters in versioned.items():
                begin, end = await reader.bounds(topic, partition)
                first = min(letter.event.original_offset for letter in letters)
                newest: dict[object, tuple[int, object]] = {}
                wanted = {one for letter in letters for one in _things(letter, self._prefix)}
                async for records in reader.read(topic, partition, first + 1, end):
                    for record in records:
                        source = redriven(record)
                        offset = record.offset if source is None else source.offset
                        things = wanted.intersection(_replaces(topic.removeprefix(self._prefix), record.key, record.value))
                        if things and not _stands(topic.removeprefix(self._prefix), record):
                            continue
                        for thing in things:
                            if offset > newest.get(thing, (-1, None))[0]:
                                newest[thing] = (offset, body_of(record.value).get("id"))
                for letter in letters:
                    for thing in _things(letter, self._prefix):
                        offset, event_id = newest.get(thing, (-1, None))
                        if offset > letter.event.original_offset and event_id != body_of(original(letter.event)).get("id"):
                            held[REPLACED].append(letter)
                        elif offset < 0 and not _told(letter.event, begin, end):
                            held[UNKNOWN].append(letter)
        return held

    async def redrive(
        self,
        letters: Sequence[Letter],
        reason: str,
        *,
        seconds: float = SECONDS,
        progress: Callable[[int], None] = lambda done: None,
        waits: Callable[[str], None] = lambda words: None,
    ) -> int:
        """Write planned letters back to their topics, in their order, audited and marked; return how many.

        An original is written once, with the attempts of each of its letters. Yields to live traffic: no more is written at a time
        than what the lanes that read the topics do in `seconds`, and not before they have done half of it (`streams.yielding`). A
        topic whose lanes are behind holds no other up, nor does a lane that stands still and that no letter is of.
        Raises `Transient` or `Fatal` as the outbox does: what was not marked is open still.
        """
        assert self._outbox is not None
        done, todo = 0, dict[str, list[list[Letter]]]()
        for group in _originals(letters):
            todo.setdefault(self._topic(group[0].event), []).append(group)
        room = Room(self._settings, seconds=seconds, waits=waits)
        while todo := {topic: groups for topic, groups in todo.items() if groups}:
            lanes = {topic: {one.event.lane for group in groups for one in group} for topic, groups in todo.items()}
            topic, may = await room.first(lanes)
            originals = todo[topic]
            groups = _part(originals, min(may, _TOGETHER))
            del originals[: len(groups)]
            part = [letter for group in groups for letter in group]
            await self._audit("redrive", part, "redriven", reason)
            await self._outbox.send([self._copy(group) for group in groups])
            room.wrote()
            await self.mark(part, "redriven")
            done += len(part)
            progress(done)
        return done

    def _topic(self, event: DeadLetterEvent) -> str:
        return event.original_topic.removeprefix(self._prefix)

    def _copy(self, group: Sequence[Letter]) -> Message:
        event, *others = (letter.event for letter in group)
        return redrive(event, *others, topic=self._topic(event))

    async def discard(
        self, letters: Sequence[Letter], reason: str, *, progress: Callable[[int], None] = lambda done: None
    ) -> int:
        """Set letters aside, audited and marked; the topic's retention takes them in its time. Return how many."""
        for start in range(0, len(letters), _TOGETHER):
            part = letters[start : start + _TOGETHER]
            await self._audit("discard", part, "discarded", reason)
            await self.mark(part, "discarded")
            progress(start + len(part))
        return len(letters)

    # ------------------------------------------------------------------------------------------------------------- records

    async def mark(self, letters: Sequence[Letter], state: Literal["redriven", "discarded"]) -> None:
        """Write beside the letters, as they stand here, what was done about them; who does it has audited it."""
        assert self._outbox is not None
        at = self._clock()
        messages: list[Message] = []
        for letter in letters:
            event = letter.event
            mark = DeadLetterMarkEvent(
                id=natural_id("dead-letter-mark", event.id, state, event.attempts, event.failed_at.isoformat()),
                letter_id=event.id,
                state=state,
                attempts=event.attempts,
                tried_offset=event.tried_offset,
                failed_at=event.failed_at,
                by=self._user,
                marked_at=at,
            )
            message = self._outbox.encode(mark, time=iso(at))
            message.partition = letter.partition  # beside the letter, so that it is read after it
            messages.append(message)
        await self._outbox.send(messages)

    async def _audit(
        self, action: Literal["access", "redrive", "discard"], letters: Sequence[Letter], outcome: str, reason: str
    ) -> None:
        if self._outbox is None:
            raise Permanent("dead letters were opened for reading only: nothing can be audited, so nothing is done")
        if not reason.strip():
            raise Permanent("a reason is needed", hint='--reason "why", for the audit')
        at = self._clock()
        request = natural_id(action, self._user, at.isoformat(), *(letter.event.id for letter in letters))
        entries = tuple(
            AuditEntry(
                event_id=request,
                input_id=letter.event.id,
                input_digest=letter.digest,
                outcome=outcome,
                patient_id=_patient(letter.event),
            )
            for letter in letters
        )
        event = AuditEvent(
            id=request,
            action=action,
            agent=self._user,
            subject=DeadLetterEvent.topic,
            entries=entries,
            reason=reason,
            recorded_at=at,
        )
        await self._outbox.audit(event)


def counts(letters: Sequence[Letter]) -> list[tuple[str, str, str, str, str, int]]:
    """Return (lane, stage, error class, error, model digest, how many), the most first."""
    events = [letter.event for letter in letters]
    found = Counter((one.lane, one.stage, one.error_class, one.error, one.model_digest) for one in events)
    return [(*kind, number) for kind, number in sorted(found.items(), key=lambda item: (-item[1], item[0]))]


def _originals(letters: Sequence[Letter]) -> list[list[Letter]]:
    """Sort into the letters of one original each; their order stays."""
    groups: dict[tuple[str, int, int], list[Letter]] = {}
    for letter in letters:
        groups.setdefault(_place(letter.event), []).append(letter)
    return list(groups.values())


def _part(originals: Sequence[list[Letter]], most: int) -> list[list[Letter]]:
    """Return the first originals, with `most` letters in all or those of the first one."""
    part, letters = [originals[0]], len(originals[0])
    for group in originals[1:]:
        letters += len(group)
        if letters > most:
            break
        part.append(group)
    return part


def _place(letter: DeadLetterEvent) -> tuple[str, int, int]:
    return letter.original_topic, letter.original_partition, letter.original_offset


def _things(letter: Letter, prefix: str) -> set[object]:
    """Return what a letter's original is a version of."""
    event = letter.event
    message = redrive(event, topic=event.original_topic.removeprefix(prefix))
    if message.topic == PatientEvent.topic:
        return {message.key} if message.key is not None else set()
    note_id = body_of(message.value).get("note_id")
    return {note_id} if isinstance(note_id, str) else set()


def _told(letter: DeadLetterEvent, begin: int, end: int) -> bool:
    """Tell whether a log of these bounds shows all that followed a letter's original."""
    if end <= letter.original_offset:
        return False  # the topic was made anew since
    return begin <= letter.original_offset + 1 or letter.original_topic.endswith(
        PatientEvent.topic
    )  # compaction keeps the newest


def _replaces(topic: str, key: bytes | None, value: bytes | None) -> set[object]:
    """Return what a record is a newer version of, or takes the place of."""
    if topic == PatientEvent.topic:
        return {key}
    body = body_of(value)
    things = {body.get("note_id")}
    if body.get("relation") in ("replacement", "edit", "cancel"):
        things.add(body.get("replaces"))
    return {thing for thing in things if isinstance(thing, str)}


def _stands(topic: str, record: Any) -> bool:
    """Tell whether a record takes another's place at all: one that no lane can read is a dead letter itself."""
    if record.value is None:
        return topic == PatientEvent.topic  # forgotten
    try:
        decode(PatientEvent if topic == PatientEvent.topic else NoteEvent, record)
    except Poison:
        return False
    return True


def _alert(letter: DeadLetterEvent) -> AlertEvent | None:
    try:
        return AlertEvent.model_validate_json(original(letter) or b"") if letter.lane.startswith("deliver-") else None
    except ValidationError:
        return None


def _patient(letter: DeadLetterEvent) -> str:
    key = key_of(letter)
    return "" if key is None else key.decode(errors="replace")
