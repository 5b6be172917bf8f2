"""Replay into the live lanes: records chosen from a topic are written to it again, byte for byte, as late data.

It is the redrive's own mechanism (`streams.deadletters`, `streams.redriving`): a chosen record is put into a dead letter's form,
the redrive's plan says what would do harm and holds it back (vitals that could still alert, a version that a newer one replaced),
and what goes out carries the redrive's headers, by which a lane knows late data. Ids are the input's, so outputs overwrite; but for
vitals whose score stands (`streams.standing`): those are held back too, unless they are to be scored anew.

Each part (a hundred, or fewer where a lane is slow) is audited, then written and confirmed, then noted in the progress
file: a crash between two steps repeats at most that many, which overwrites the same ids. What failed before goes out as by a
redrive, whether it was chosen by its letter or not: the open letters about it are marked as redriven before it is noted, and what
fails once more is the same letter, open again, its attempts added up (and counted apart: `LaneMetrics.dead_lettered`).
"""

import asyncio
import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

import orjson

from models.errors import Permanent
from processors.events import AuditEntry, AuditEvent, DeadLetterEvent, ImageEvent, NoteEvent, PatientEvent, VitalsEvent
from processors.identity import natural_id
from streams.clock import Clock, real_clock
from streams.deadletters import dead_letter, original, redrive, redriven
from streams.keeping import keep, try_out
from streams.outbox import Outbox
from streams.reader import Reader
from streams.redriving import DeadLetters, Letter, Plan
from streams.redriving import Which as WhichLetters
from streams.settings import Settings
from streams.standing import standing
from streams.survivors import Survivors
from streams.wire import body_of
from streams.yielding import SECONDS, Room

REPLAYABLE: Final = (NoteEvent.topic, ImageEvent.topic, VitalsEvent.topic, PatientEvent.topic)
"""Not what people did (`clinical.feedback`): an acknowledgement of then would be one of now."""

_REPLAY: Final = "replay"  # the lane of a letter that is none: a record in a letter's form
_TOGETHER: Final = 100  # records that are audited and written together, at most
_DISORDER: Final = timedelta(days=1)  # by which a record's time may be behind that of one before it in the log

Place = tuple[str, int, int]  # topic, partition, offset
Range = tuple[int, int, int]  # partition, first offset, the one after the last


@dataclass(frozen=True, slots=True)
class Choice:
    """Which records: all conditions hold, lists are any-of; empty asks nothing.

    `since` (inclusive) and `until` (exclusive) are of the time when the record was first written. `letters` are ids of dead letters
    or their beginnings: the originals behind them are chosen, as far as they fulfil the other conditions. A patient's records are
    those of the records that were merged into this one too.
    """

    topic: str = ""
    ranges: Sequence[Range] = ()
    since: datetime | None = None
    until: datetime | None = None
    patients: Sequence[str] = ()
    encounters: Sequence[str] = ()
    note_types: Sequence[str] = ()  # codes
    letters: Sequence[str] = ()

    def __post_init__(self) -> None:
        if not (self.topic or self.letters):
            raise Permanent("records of a topic or behind dead letters are replayed", hint="--topic, or --letter")
        if not all(one.strip() for one in (*self.patients, *self.encounters, *self.note_types, *self.letters)):
            # Every id begins with nothing: an empty variable in a script would choose all letters.
            raise Permanent("an empty id or code chooses nothing", hint="leave the option out, or give it a value")
        if self.ranges and not self.topic:
            raise Permanent("offsets are those of a topic", hint="--topic says of which")
        if self.topic and self.topic not in REPLAYABLE:
            raise Permanent(f"{self.topic} is not replayed", hint=f"topics: {', '.join(REPLAYABLE)}")
        if any(bound is not None and bound.tzinfo is None for bound in (self.since, self.until)):
            raise Permanent("a time without a zone cannot be compared", hint="say which: 2026-01-31T08:00:00+01:00")
        if self.since is not None and self.until is not None and self.since >= self.until:
            raise Permanent("nothing lies between these times", hint="--from comes before --until")
        if any(not 0 <= first < end <= 2**63 for _, first, end in self.ranges):
            raise Permanent("an offset is a number of 63 bits")
        if self.note_types and self.topic not in ("", NoteEvent.topic):
            raise Permanent("only notes have a note type", hint=f"--topic {NoteEvent.topic}")

    @property
    def digest(self) -> str:
        """SHA-256 of what was asked, hex: a progress file belongs to one choice."""
        return sha256(orjson.dumps(asdict(self), option=orjson.OPT_SORT_KEYS)).hexdigest()

    @property
    def words(self) -> str:
        """Say what was asked, for the audit."""
        asked = {name: value for name, value in asdict(self).items() if value}
        return orjson.dumps(asked).decode()

    def takes(self, written: datetime | None, value: bytes | None) -> bool:
        """Tell whether a record is one of these, by what lies in it."""
        if written is not None and ((self.since and written < self.since) or (self.until and written >= self.until)):
            return False
        if not (self.patients or self.encounters or self.note_types):
            return True
        body = body_of(value)
        kind = body.get("note_type")
        return (
            (not self.patients or body.get("patient_id") in self.patients)
            and (not self.encounters or body.get("encounter_id") in self.encounters)
            and (not self.note_types or (isinstance(kind, dict) and kind.get("code") in self.note_types))
        )


@dataclass(slots=True)
class Pace:
    """How fast: records a second (0: as fast as may be), and the seconds that a live record may wait behind replayed ones."""

    rate: float = 0.0
    seconds: float = SECONDS

    def __post_init__(self) -> None:
        if not (math.isfinite(self.rate) and math.isfinite(self.seconds)):
            raise Permanent("a rate and a wait are finite", hint="--rate 0 is as fast as the lanes take them")


@dataclass(slots=True)
class Progress:
    """How far a replay is, kept in a file that only its owner reads; without one it is kept in memory."""

    file: Path | None
    choice: str
    done: int = 0
    # Of each partition by itself: what has come to a lower one since is not done because a higher one is.
    last: dict[tuple[str, int], int] = field(default_factory=dict)
    marks: dict[tuple[str, int], str] = field(default_factory=dict)  # the digest of what stands there
    held: set[Place] = field(default_factory=set)  # passed over: they were held back when it was their turn

    @classmethod
    def open(cls, file: Path | None, choice: Choice) -> "Progress":
        """Go on from a file, if there is one; raises `Permanent` for one of another choice, or that cannot be written."""
        try_out(file, "progress")
        if file is None or not file.exists():
            return cls(file, choice.digest)
        try:
            kept = orjson.loads(file.read_bytes())
            last = {(str(topic), int(number)): int(offset) for topic, number, offset, _ in kept["last"]}
            marks = {(str(topic), int(number)): str(digest) for topic, number, _, digest in kept["last"]}
            held = {(str(one[0]), int(one[1]), int(one[2])) for one in kept.get("held", ())}
            found = cls(file, str(kept["choice"]), int(kept["done"]), last, marks, held)
        except (OSError, orjson.JSONDecodeError, KeyError, TypeError, ValueError, IndexError) as error:
            raise Permanent(f"{file} is no progress file of a replay", hint="name another file, or remove it") from error
        if found.choice != choice.digest:
            raise Permanent(f"{file} belongs to a replay of other records", hint="give the same options, or another file")
        return found

    def check(self, letters: Iterable[Letter]) -> None:
        """Raise `Permanent` where a topic is not the one that the progress is of: made anew, or another cluster's.

        What was chosen before is chosen again, and from the same place: but for what retention and compaction took.
        """
        chosen: dict[tuple[str, int], dict[int, str]] = defaultdict(dict)
        for letter in letters:
            topic, number, offset = _place(letter)
            chosen[topic, number][offset] = letter.digest
        for partition, offset in self.last.items():
            there = chosen[partition]
            gone = offset not in there and min(there, default=offset) < offset and not partition[0].endswith(PatientEvent.topic)
            if gone or there.get(offset, self.marks[partition]) != self.marks[partition]:
                topic, number = partition
                raise Permanent(
                    f"{self.file} is of another {topic}: what was replayed last does not stand at {number}/{offset}",
                    hint="it was made anew, or is another cluster's: remove the file to begin anew",
                )

    def hold(self, letters: Iterable[Letter]) -> None:
        """Remember what is held back and has not had its turn: by the time of a resumption it may be ready."""
        self.held |= {place for place in map(_place, letters) if self._ahead(place)}

    def wants(self, letter: Letter) -> bool:
        """Tell whether a record is still to be replayed."""
        place = _place(letter)
        return self._ahead(place) or place in self.held

    def _ahead(self, place: Place) -> bool:
        topic, number, offset = place
        return offset > self.last.get((topic, number), -1)

    def note(self, letters: Sequence[Letter]) -> None:
        """Keep that these, and all before them but those held back, are confirmed."""
        places = [_place(letter) for letter in letters]
        self.held.difference_update(places)
        for letter, (topic, number, offset) in zip(letters, places, strict=True):
            if self._ahead((topic, number, offset)):
                self.last[topic, number], self.marks[topic, number] = offset, letter.digest
        self.done += len(places)
        if self.file is not None:
            last = [(*partition, offset, self.marks[partition]) for partition, offset in sorted(self.last.items())]
            body = {"choice": self.choice, "done": self.done, "last": last, "held": sorted(self.held)}
            keep(self.file, orjson.dumps(body), "progress")


@dataclass(slots=True)
class Told:
    """What a running replay says: how many are done, and which lane it waits for."""

    done: int
    waits: str = ""


@dataclass(slots=True)
class Replays:
    """Chooses, plans and runs replays. `outbox` must be started; without one records can only be chosen and counted."""

    settings: Settings
    outbox: Outbox | None = None
    user: str = ""
    clock: Clock = real_clock
    _prefix: str = field(init=False)

    def __post_init__(self) -> None:
        self._prefix = self.settings.kafka.topic_prefix

    async def choose(self, choice: Choice, *, limit: int) -> list[Letter]:
        """Return the records chosen, in the form of letters, in the order of their originals; each original once.

        Raises `Permanent` when there are more than `limit`: they are held in memory whole.
        """
        choice = await self._widened(choice)
        if choice.letters:
            return await self._of_letters(choice, limit)
        chosen: dict[tuple[str, int, int], Letter] = {}
        topic = self._prefix + choice.topic
        spans: dict[int, list[tuple[int, int]]] = defaultdict(list)
        for number, first, end in choice.ranges:
            spans[number].append((first, end))
        async with Reader(self.settings.kafka) as reader:
            await reader.require(topic)
            numbers = await reader.partitions(topic)
            if strange := set(spans) - set(numbers):
                raise Permanent(f"{topic} has no partition {min(strange)}", hint=f"it has {len(numbers)}")
            for number in numbers if not spans else sorted(spans):
                begin, end = await self._span(reader, topic, number, choice)
                for first, last in spans.get(number, [(begin, end)]):
                    # Without a time to stop at, what is written while this reads is not chosen: `end` was taken before.
                    async for records in reader.read(topic, number, max(first, begin), min(last, end)):
                        _take(records, choice, chosen)
                        _bounded(chosen, limit)
        return [chosen[place] for place in sorted(chosen)]

    async def _widened(self, choice: Choice) -> Choice:
        """Return the choice with the records that were merged into its patients': inputs of before a merge name those."""
        if not choice.patients:
            return choice
        survivors = Survivors(self.settings.kafka)
        try:
            await survivors.catch_up()
        finally:
            await survivors.close()
        return replace(choice, patients=(*choice.patients, *sorted(survivors.under(choice.patients))))

    async def _span(self, reader: Reader, topic: str, number: int, choice: Choice) -> tuple[int, int]:
        """Return the offsets between which the records of the chosen time lie; what is in between may still be of another."""
        begin, end = await reader.bounds(topic, number)
        if choice.since is not None and (at := await reader.offset_at(topic, number, choice.since)) is not None:
            begin = max(begin, at)
        if choice.until is not None and (at := await reader.offset_at(topic, number, choice.until + _DISORDER)) is not None:
            end = min(end, at)
        return begin, end

    async def _of_letters(self, choice: Choice, limit: int) -> list[Letter]:
        async with Reader(self.settings.kafka) as reader:
            await reader.require(self._prefix + DeadLetterEvent.topic)
        async with DeadLetters(self.settings) as desk:
            found = await desk.find(
                WhichLetters(ids=choice.letters), states=("open", "redriven", "discarded"), whole=True, limit=limit + 1
            )
        if missing := [one for one in choice.letters if not any(letter.event.id.startswith(one) for letter in found)]:
            raise Permanent(
                f"no dead letter begins with {missing[0]}", hint="`vigil dead-letters list --state any` shows the ids"
            )
        chosen: dict[Place, Letter] = {}
        for letter in found:
            if self._asked_for(letter, choice):
                first = chosen.setdefault(_place(letter), letter)
                if first is not letter:
                    first.twins.append(letter)
        if found and not chosen:
            raise Permanent(
                f"none of {len(found)} dead letters fulfils the other conditions",
                hint="all conditions that are given must hold",
            )
        _bounded(chosen, limit)
        return [chosen[place] for place in sorted(chosen)]

    def _asked_for(self, letter: Letter, choice: Choice) -> bool:
        topic, number, offset = _place(letter)
        return (
            (not choice.topic or topic == self._prefix + choice.topic)
            and (not choice.ranges or any(number == of and first <= offset < end for of, first, end in choice.ranges))
            and choice.takes(letter.event.original_timestamp, original(letter.event))
        )

    async def plan(self, letters: Sequence[Letter], *, unverified: bool = False, rescore: bool = False) -> Plan:
        """Sort into what can be replayed now and what is held back, by the redrive's own rules and `streams.standing`'s.

        `rescore`: vitals whose score stands are not held back. Letters about what is ready are its `twins` (`failures`).
        """
        async with DeadLetters(self.settings, clock=self.clock) as desk:
            plan = await desk.plan(letters, unverified=unverified)
            before = await desk.find(WhichLetters(), states=("open", "discarded"))
        why = {} if rescore else await standing(self.settings, plan.ready)
        for letter in plan.ready:
            if letter.event.id in why:
                plan.held[why[letter.event.id]].append(letter)
        plan.ready = [letter for letter in plan.ready if letter.event.id not in why]
        plan.ready.sort(key=_place)
        ready = {(*_place(letter), letter.event.original_timestamp): letter for letter in plan.ready}
        for letter in before:
            one = ready.get((*_place(letter), letter.event.original_timestamp))  # the time: a topic may be made anew
            if one is not None and letter.event.id not in {known.event.id for known in failures([one])}:
                one.twins.append(letter)
        return plan

    async def run(
        self,
        letters: Sequence[Letter],
        choice: Choice,
        reason: str,
        *,
        pace: Pace,
        progress: Progress,
        held: Iterable[Letter] = (),
        tell: Callable[[Told], None] = lambda told: None,
    ) -> int:
        """Write planned records to their topics again; return how many this run wrote. `held`: what the plan holds back.

        Yields to live traffic: no more is written at a time than what the lanes that read the topic do in `pace.seconds`, and not
        before they have done half of it (`streams.yielding`). Raises as the outbox does; what the progress file has is done.
        """
        if self.outbox is None:
            raise Permanent("opened for reading only: nothing can be audited, so nothing is replayed")
        if not reason.strip():
            raise Permanent("a reason is needed", hint='--reason "why", for the audit')
        progress.hold(held)
        todo = [letter for letter in letters if progress.wants(letter)]
        before = progress.done
        most = max(1, min(_TOGETHER, int(pace.rate or _TOGETHER)))
        loop, start = asyncio.get_running_loop(), 0
        room = Room(self.settings, seconds=pace.seconds, waits=lambda words: tell(Told(progress.done, words)))
        while start < len(todo):
            may = await room.wait({self._topic(one) for one in todo[start : start + most]})
            part = todo[start : start + min(most, may)]
            start += len(part)
            began = loop.time()
            await self._audit(part, choice, reason)
            await self.outbox.send(
                [redrive(one.event, *(twin.event for twin in one.twins), topic=self._topic(one)) for one in part]
            )
            room.wrote()
            # Else the next redrive of what is open would do them once more.
            asked = tuple(choice.letters)
            if again := [one for one in failures(part) if one.state == "open" or one.event.id.startswith(asked)]:
                desk = DeadLetters(self.settings, outbox=self.outbox, user=self.user, clock=self.clock)
                await desk.mark(again, "redriven")
            progress.note(part)
            tell(Told(progress.done))
            if pace.rate and start < len(todo):
                await asyncio.sleep(max(0.0, len(part) / pace.rate - (loop.time() - began)))
        return progress.done - before

    def _topic(self, letter: Letter) -> str:
        return letter.event.original_topic.removeprefix(self._prefix)

    async def _audit(self, letters: Sequence[Letter], choice: Choice, reason: str) -> None:
        assert self.outbox is not None
        at = self.clock()
        request = natural_id("replay", self.user, at.isoformat(), *map(str, _place(letters[0])))
        entries = tuple(audit_entry(letter, request, "replayed") for letter in letters)
        event = AuditEvent(
            id=request,
            action="replay",
            agent=self.user,
            subject="dead letters" if choice.letters else choice.topic,
            entries=entries,
            reason=f"{reason} {choice.words}",
            recorded_at=at,
        )
        await self.outbox.audit(event)


def _take(records: Iterable[Any], choice: Choice, chosen: dict[Place, Letter]) -> None:
    for record in records:
        if record.value is None or (choice.ranges and redriven(record) is not None):
            continue  # a range names records by their own offsets: a copy in it is not its original
        letter = as_letter(record)
        if choice.takes(letter.event.original_timestamp, record.value):
            chosen.setdefault(_place(letter), letter)


def as_letter(record: Any) -> Letter:
    """Put a record into a dead letter's form: the original's place, bytes and headers, of a copy those of its original."""
    written = datetime.fromtimestamp(max(0, record.timestamp) / 1000).astimezone()
    # When it was written bounds when it was received, by which the redrive's plan knows whether vitals are history.
    event = dead_letter(record, Permanent("replayed"), lane=_REPLAY, failed_at=written)
    value = record.value or b""
    return Letter(event, "open", record.partition, record.offset, written, len(value), sha256(value).hexdigest())


def counts(letters: Sequence[Letter]) -> list[tuple[str, str, int, int]]:
    """Return (topic, note type's code, records, patients), the most first."""
    records: Counter[tuple[str, str]] = Counter()
    patients: dict[tuple[str, str], set[object]] = {}
    for letter in letters:
        body = body_of(original(letter.event))
        kind: Mapping[str, Any] = body["note_type"] if isinstance(body.get("note_type"), dict) else {}
        which = (letter.event.original_topic, str(kind.get("code", "")))
        records[which] += 1
        patients.setdefault(which, set()).add(body.get("patient_id"))
    return [(*which, number, len(patients[which])) for which, number in records.most_common()]


def failures(letters: Iterable[Letter]) -> list[Letter]:
    """Return the letters about chosen records: lanes failed on these before, and may again."""
    return [one for letter in letters for one in (letter, *letter.twins) if one.event.lane != _REPLAY]


def audit_entry(letter: Letter, request: str, outcome: str) -> AuditEntry:
    """Say in the audit what became of a record that was chosen, and whose it is."""
    body = body_of(original(letter.event))
    return AuditEntry(
        event_id=request,
        input_id=str(body.get("id", "")),
        input_digest=letter.digest,
        outcome=outcome,
        patient_id=str(body.get("patient_id", "")),
    )


def _place(letter: Letter) -> Place:
    event = letter.event
    return event.original_topic, event.original_partition, event.original_offset


def _bounded(chosen: Mapping[Any, Any], limit: int) -> None:
    if len(chosen) > limit:
        raise Permanent(f"more than {limit:,} records are chosen", hint="narrow the choice by time or range, or raise --limit")
