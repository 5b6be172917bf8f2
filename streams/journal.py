"""The journal: what a stateful lane must remember besides its inputs, so that a rerun decides the same.

The vitals lane reads several topics that meet (vitals, patients, feedback) and the time. In which order they met is nowhere in
those topics: so the lane writes it down, in one partition of the journal topic for each partition that it works on.

    entry   "at vitals offset `at`: take patients up to `ends[..]`, feedback up to `ends[..]`, then let the time be `now`;
            vitals below `reach` are decided as of this entry, and may be published, unless another entry comes before them"
    reach   "the last entry reaches further: to `upto`"
    lapse   "the model did not answer for vitals `first` to below `end`, decided as of entry `number`: NEWS2 went out alone"
    state   one patient's state as of (vitals offset, entry number); null: forgotten as of then. Each patient has two places, which
            snapshots write in turn: the last state that a marker stands for is never written over
    marker  "every state changed up to (vitals offset, entry number) has been written, as decided by `stamp`": a rebuild starts here
    stamp   "since the last marker it was, or will be, decided by these": rules, code, the model that pages (`streams.stamp`)
    basis   "from here on I decide by these settings, this version, code and model": names and values, for whoever asks later
    epoch   "from here on I own this partition": its own offset is the epoch's number, and what other epochs write after it is
            a zombie's and does not count

Rules
 1. An entry is confirmed before its effects are, and vitals are published only below the last entry's reach. So whatever was
    published was decided in a journalled order: a rerun takes what the log holds of the vitals below the reach before it writes an
    entry of its own. The reach is ahead of the vitals, so that it costs a write only where thousands come in between ticks. But
    as of an entry only those vitals are decided that came in within a tick of it; so of what the log holds below the reach, a rerun
    takes what was stamped up to then, give or take `SKEW` between clocks. Whatever came later, while nobody worked, comes after
    the first entry of the next owner, whose time tells it how long that was.
 2. A state or marker is written only when the vitals offset it stands for is committed. So nothing in the journal lies past the
    commit but entries, reaches and lapses, and compaction (newest record of each key) never removes what a rebuild needs.
 3. A rebuild loads the states as of the marker and replays the inputs from there to the commit, in the journalled order, writing
    nothing. States newer than the marker are of a snapshot cut short: they count for nothing, whosever they are.
 4. Entries at or past the commit are obeyed by the lane as it goes on, so a rerun of what was published but not committed
    decides the same, and the same ids overwrite.
 5. The journal shows its writer that it still owns the partition: it is the only one who writes there, so each record's offset
    follows the last one's. Where it does not, what lies between is read; if it holds a claim, another worker rebuilt the state
    without what was written after it, and this one, a zombie, stops before it publishes anything of that (`Superseded`). What it
    has in hand when it wakes lay in the log when its successor read the reach, and is decided by both alike; what it would take in
    then comes after a tick, which is due by then, since ticks are closer together than the session is long.
 6. A lapse is confirmed before what went out without the model is. So a rerun knows for which of the vitals that may have been
    published the model had been late or had failed, says so again without asking it, and waits for its answer for the others.
 7. A journal that holds nothing though offsets are committed was lost: whoever finds it so takes the alerts from what was told of
    them, and writes a snapshot of all of it before any entry. The first entry lets no time pass: it reaches over the vitals that
    may have been published before the loss, so that whoever reruns them decides them as of the same time (`streams.restoring`).
 8. Other rules, or another version of the code, decide otherwise upon the same history. So who finds that somebody with another
    stamp has decided since the marker replays for what was observed, but takes the alerts as of the marker and leads them on by
    what was told since. Whose stamp is not among those since the marker adds it, confirmed, before anything is published: so
    whoever comes next knows, and be it the older version again. A marker begins anew with its writer's. Where there is none, since
    the journal is older than stamps, another version decided.
 9. Whose basis is not the last one in the partition has the change audited (`streams.configuration`) and adds it, confirmed, before
    anything is published. No rebuild goes by it; time travel says by what it was decided then (`streams.timetravel`).
"""

import logging
import math
import time
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any
from uuid import uuid4

import orjson

from models.errors import Fatal
from streams.outbox import Outbox
from streams.reader import Reader
from streams.settings import KafkaSettings
from streams.topic_options import JOURNAL
from streams.wire import Message, header

log = logging.getLogger("vigil.journal")

TOPIC = JOURNAL
# Keys of entries and of lapses are reused round this ring, so compaction bounds the journal; snapshots come far more often.
_RING = 65_536
_FRESH = 1.0  # seconds that the partition is taken for one's own after a write that showed it
_PLACES = ("state/", "state-b/")
_BASES = 256  # changes of the basis that a partition remembers, 5 kB each
SKEW = 30.0  # seconds that the clocks of those who write vitals and of the lane's hosts may differ (rule 1)


class Superseded(Fatal):
    """Another worker has claimed the partition: whatever this one writes or publishes from now on is a zombie's."""


@dataclass(frozen=True, slots=True)
class Moment:
    """A point in a partition's history: vitals below `at` and entries up to `number` have been applied."""

    at: int
    number: int

    def reached_by(self, at: int, number: int) -> bool:
        """Tell whether history at (at, number) includes this moment. Entries count first: offsets begin anew with a new topic."""
        return (number, at) >= (self.number, self.at)


@dataclass(frozen=True, slots=True)
class Entry:
    """One journalled decision; `offset` is its own place in the journal."""

    number: int
    at: int
    ends: dict[str, int]
    now: datetime | None
    reach: int
    offset: int = -1
    written: float = -math.inf  # seconds since 1970


@dataclass(frozen=True, slots=True)
class Lapse:
    """For these vitals NEWS2 went out alone, for that `reason`; `offset` is its own place in the journal."""

    number: int
    first: int
    end: int
    reason: str
    offset: int = -1


@dataclass(frozen=True, slots=True)
class Basis:
    """What decided `since` a logged time, until the next one's: names and values (`streams.stamp.basis`).

    Vitals from `at` on are decided by it, those too that came in before `since`, while nobody worked.
    """

    number: int
    at: int
    since: datetime
    values: dict[str, str]


class Lapses:
    """Those of a partition, looked up by set."""

    def __init__(self, lapses: Sequence[Lapse] = ()) -> None:
        self._by_entry: dict[int, list[Lapse]] = {}
        for lapse in lapses:
            self._by_entry.setdefault(lapse.number, []).append(lapse)

    def why(self, number: int, at: int) -> str:
        """Return why NEWS2 stood alone for the set at an offset, decided as of entry `number`; empty where it did not."""
        # The first that was written: a later one, of a rerun, may span sets that it did not ask the model about, as known.
        return next((lapse.reason for lapse in self._by_entry.get(number, ()) if lapse.first <= at < lapse.end), "")


@dataclass(slots=True)
class Memory:
    """What a journal partition holds. A state of None is that of a patient who was forgotten then."""

    epoch: int = -1
    marker: Moment = field(default_factory=lambda: Moment(-1, 0))
    ends: dict[str, int] = field(default_factory=dict)
    states: dict[str, dict[int, tuple[Moment, bytes | None]]] = field(default_factory=dict)  # by patient and place
    entries: list[Entry] = field(default_factory=list)
    lapses: list[Lapse] = field(default_factory=list)
    reach: int = -1
    written: float = -math.inf  # when the last entry was, seconds since 1970
    bases: list[Basis] = field(default_factory=list)
    stamps: set[str] = field(default_factory=set)  # by which it was decided since the marker; "": by nobody knows what (rule 8)
    _marked: float = math.inf  # when the marker was written, seconds since 1970

    @property
    def since(self) -> float:
        """When what the marker stands for was over, about, seconds since 1970; long ago where there is no marker."""
        if self.marker.at < 0:
            return -math.inf
        return min([self._marked, *(entry.written for entry in self.entries[:1])])

    def take(self, record: Any) -> None:
        """Read the next record of the journal."""
        if record.value is None:
            if int(header(record, "epoch") or -1) >= self.epoch:
                patient, place = _whose(record.key)
                self.states.get(patient, {}).pop(place, None)
            return
        body = orjson.loads(record.value)
        kind = body["kind"]
        if kind == "epoch":
            self._begin(record.offset)
            return
        if body["epoch"] > self.epoch:  # its claim was compacted away by a newer one
            self._begin(body["epoch"])
        void = body["epoch"] < self.epoch  # written after a newer claim: by a zombie
        if kind == "state":
            self._state(body, _whose(record.key)[1], void)
        elif kind == "stamp":  # a zombie's too: it may have taken the owner's place, and one too many costs little
            self.stamps.update(body["stamps"])
        elif void:
            return
        elif kind == "marker":
            self.marker, self.ends = Moment(body["at"], body["number"]), body["ends"]
            self.stamps, self._marked = {body.get("stamp", "")}, record.timestamp / 1000
            self.entries = [entry for entry in self.entries if entry.number > self.marker.number]
            at, number = self.marker.at, self.marker.number
            self.lapses = [lapse for lapse in self.lapses if not Moment(lapse.end, lapse.number).reached_by(at, number)]
        elif kind == "reach":
            self.reach = body["upto"]
        elif kind == "basis":
            self.bases.append(Basis(body["number"], body["at"], datetime.fromisoformat(body["since"]), body["values"]))
        elif kind == "lapse":
            self.lapses.append(Lapse(body["number"], body["first"], body["end"], body["reason"], record.offset))
        elif kind == "entry":
            now = datetime.fromisoformat(body["now"]) if body["now"] else None
            # The same number twice: a write that was confirmed only when repeated. What it led to goes by the last.
            while self.entries and self.entries[-1].number >= body["number"]:
                self.entries.pop()
            self.reach, self.written = body["reach"], record.timestamp / 1000
            self.stamps = self.stamps or {""}
            self.entries.append(Entry(body["number"], body["at"], body["ends"], now, self.reach, record.offset, self.written))

    def _begin(self, epoch: int) -> None:
        # What was taken for valid although it lies behind the claim of this epoch (which was compacted away) is a zombie's.
        self.entries = [entry for entry in self.entries if entry.offset < epoch]
        self.lapses = [lapse for lapse in self.lapses if lapse.offset < epoch]
        self.epoch = epoch

    def _state(self, body: dict[str, Any], place: int, void: bool) -> None:
        # A zombie's is older than what the owner wrote since. If the owner wrote none, nothing changed since, or it was
        # compacted away by this very record: then it is the best there is.
        if void and self.states.get(body["patient"]):
            return
        state = None if body["state"] is None else orjson.dumps(body["state"])
        self.states.setdefault(body["patient"], {})[place] = (Moment(body["at"], body["number"]), state)

    def standing(self) -> Iterator[tuple[str, int, bytes | None]]:
        """Yield each patient's last state that the marker stands for, with its place (rule 3)."""
        at, number = self.marker.at, self.marker.number
        for patient, places in self.states.items():
            known = [
                (moment.number, moment.at, place, state)
                for place, (moment, state) in places.items()
                if moment.reached_by(at, number)
            ]
            if known:
                _, _, place, state = max(known, key=lambda one: one[:3])
                yield patient, place, state


class Journal:
    """One partition of the journal, as its owner writes it. Every method that writes raises `Superseded` (rule 5)."""

    def __init__(self, outbox: Outbox, partition: int, kafka: KafkaSettings, stamp: str) -> None:
        self._outbox = outbox
        self._kafka = kafka
        self.partition = partition
        self.stamp = stamp  # what its owner decides by
        self.epoch = -1
        self._next = -1  # the offset that the next record gets, if nobody else writes
        self._seen = -math.inf  # when it was last certain that nobody else does
        self._claim = orjson.dumps({"kind": "epoch", "owner": str(uuid4())})
        self._places: dict[str, int] = {}  # where the last marked state of each patient lies
        self._written: dict[str, int] = {}  # where those of the snapshot being taken lie

    async def claim(self) -> None:
        """Begin an epoch: everything before its record is what a rebuild reads, everything a zombie writes after it is void."""
        self.epoch = await self._outbox.append(self._message(b"epoch", self._claim))
        self._next = self.epoch + 1

    async def remember(self, reader: Reader, topic: str) -> Memory:
        """Read the partition up to the own claim."""
        memory = Memory()
        async for records in reader.read(topic, self.partition, 0, self.epoch):
            for record in records:
                memory.take(record)
        self._places = {patient: place for patient, place, _ in memory.standing()}
        self._written = {}
        return memory

    async def sign(self, stamps: Iterable[str]) -> None:
        """Write, confirmed, by what it was decided since the marker and will be, before anything is published (rule 8)."""
        await self._append(b"stamp", {"kind": "stamp", "epoch": self.epoch, "stamps": sorted(stamps)})

    async def found(self, basis: Basis) -> None:
        """Write, confirmed, what is decided by from now on, before anything is published (rule 9)."""
        body = {"number": basis.number, "at": basis.at, "since": basis.since.isoformat(), "values": basis.values}
        await self._append(f"basis/{basis.number % _BASES}".encode(), {"kind": "basis", "epoch": self.epoch, **body})

    async def enter(self, entry: Entry) -> Entry:
        """Write an entry, confirmed (rule 1); returns it with its offset."""
        body = {
            "kind": "entry",
            "epoch": self.epoch,
            "number": entry.number,
            "at": entry.at,
            "ends": entry.ends,
            "now": entry.now.isoformat() if entry.now else None,
            "reach": entry.reach,
        }
        offset = await self._append(f"entry/{entry.number % _RING}".encode(), body)
        return replace(entry, offset=offset)

    async def reach(self, upto: int) -> None:
        """Write, confirmed, that the last entry reaches further, before anything that is decided so is published (rule 1)."""
        await self._append(b"reach", {"kind": "reach", "epoch": self.epoch, "upto": upto})

    async def lapse(self, lapse: Lapse) -> None:
        """Write, confirmed, that the model did not answer, before anything goes out without it (rule 6)."""
        body = {"first": lapse.first, "end": lapse.end, "reason": lapse.reason}
        if time.monotonic() - self._seen > _FRESH:
            await self._check_in()
        key = f"lapse/{lapse.first % _RING}".encode()
        await self._append(key, {"kind": "lapse", "epoch": self.epoch, "number": lapse.number, **body})

    async def save(self, moment: Moment, states: Sequence[tuple[str, bytes | None]]) -> None:
        """Write a few of a snapshot's states, confirmed (rule 2). What else the worker does may come in between."""
        if time.monotonic() - self._seen > _FRESH:
            await self._check_in()
        written = []
        for patient, state in states:
            body = {
                "kind": "state",
                "epoch": self.epoch,
                "at": moment.at,
                "number": moment.number,
                "patient": patient,
                "state": None if state is None else orjson.Fragment(state),
            }
            self._written[patient] = 1 - self._places.get(patient, 1)
            written.append(self._message(_state_key(patient, self._written[patient]), orjson.dumps(body)))
        await self._outbox.send(written)
        self._next += len(written)

    async def mark(self, moment: Moment, ends: dict[str, int], forgotten: Sequence[str]) -> None:
        """End a snapshot, all of whose states are written: the marker, then the tombstones of patients forgotten before it."""
        at = {"at": moment.at, "number": moment.number, "ends": ends}
        body = {"kind": "marker", "epoch": self.epoch, "stamp": self.stamp, **at}
        await self._append(b"marker", body)
        self._places |= self._written
        self._written = {}
        gone = [self._message(_state_key(patient, place), None) for patient in forgotten for place in (0, 1)]
        await self._outbox.send(gone)
        self._next += len(gone)
        for patient in forgotten:
            self._places.pop(patient, None)

    async def _check_in(self) -> None:
        """Make sure that this is no zombie about to write over its successor's states and lapses."""
        await self._append(b"present", {"kind": "present", "epoch": self.epoch})

    async def _append(self, key: bytes, body: dict[str, Any]) -> int:
        offset = await self._outbox.append(self._message(key, orjson.dumps(body)))
        if 0 <= offset < self._next:  # below: one that was taken before, and its place is not known
            raise Superseded(
                f"vitals[{self.partition}]: the journal was made anew while this worker wrote it",
                hint="it is to be started anew: what was in it is lost, and alerts go on from what was told of them",
            )
        if offset != self._next:
            await self._look(self._next, offset)
        self._next = offset + 1
        self._seen = time.monotonic()
        return offset

    async def _look(self, start: int, end: int) -> None:
        """Read what others wrote, or this one twice: rule 5."""
        async with Reader(self._kafka) as reader:
            async for record in stretch(reader, self._kafka.topic_prefix + TOPIC, self.partition, start, end):
                if record.key == b"epoch" and record.value != self._claim:
                    raise Superseded(
                        f"vitals[{self.partition}]: another worker has claimed this partition",
                        hint="this one was frozen or cut off for longer than its session; it is to be started anew",
                    )

    def _message(self, key: bytes, value: bytes | None) -> Message:
        headers = [("epoch", str(self.epoch).encode())] if value is None else []
        return Message(TOPIC, key, value, headers, partition=self.partition)


def _state_key(patient: str, place: int) -> bytes:
    return f"{_PLACES[place]}{patient}".encode()


def _whose(key: bytes) -> tuple[str, int]:
    """Return the patient and the place of a state's key."""
    text = key.decode()
    place = 1 if text.startswith(_PLACES[1]) else 0
    return text.removeprefix(_PLACES[place]), place


async def stretch(reader: Reader, topic: str, partition: int, start: int, end: int) -> AsyncIterator[Any]:
    """Yield the records of a stretch one by one."""
    async for records in reader.read(topic, partition, start, end):
        for record in records:
            yield record
