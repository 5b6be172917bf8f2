"""The journal: what a stateful lane must remember besides its inputs, so that a rerun decides the same.

The vitals lane reads several topics that meet (vitals, patients, feedback) and the time. In which order they met is nowhere in
those topics: so the lane writes it down, in one partition of the journal topic for each partition that it works on.

    entry   "at vitals offset `at`: take patients up to `ends[..]`, feedback up to `ends[..]`, then let the time be `now`"
    state   one patient's state as of (vitals offset, entry number)
    marker  "every state changed up to (vitals offset, entry number) has been written": a rebuild starts here
    epoch   "from here on I own this partition": its own offset is the epoch's number, and entries of other epochs that follow
            it are a zombie's and do not count

Rules
 1. An entry is confirmed before its effects are. So whatever was published was decided in a journalled order.
 2. A state or marker is written only when the vitals offset it stands for is committed. So nothing in the journal lies past the
    commit but entries, and compaction (newest record of each key) never removes what a rebuild needs.
 3. A rebuild loads the states as of the marker and replays the inputs from there to the commit, in the journalled order, writing
    nothing. A state newer than the marker (a snapshot cut short) waits until the replay reaches the moment it stands for.
 4. Entries at or past the commit are obeyed by the lane as it goes on, so a rerun of what was published but not committed
    decides the same, and the same ids overwrite.
"""

import logging
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any
from uuid import uuid4

import orjson

from streams.outbox import Outbox
from streams.reader import Reader
from streams.wire import Message

log = logging.getLogger("vigil.journal")

TOPIC = "vigil.vitals.journal"
# Entry keys are reused round this ring, so compaction bounds the journal; snapshots come far more often.
_RING = 65_536


@dataclass(frozen=True, slots=True)
class Moment:
    """A point in a partition's history: vitals below `at` and entries up to `number` have been applied."""

    at: int
    number: int

    def reached_by(self, at: int, number: int) -> bool:
        """Tell whether history at (at, number) includes this moment."""
        return at >= self.at and number >= self.number


@dataclass(frozen=True, slots=True)
class Entry:
    """One journalled decision; `offset` is its own place in the journal."""

    number: int
    at: int
    ends: dict[str, int]
    now: datetime | None
    offset: int = -1


@dataclass(slots=True)
class Memory:
    """What a journal partition holds."""

    epoch: int = -1
    marker: Moment = field(default_factory=lambda: Moment(-1, 0))
    ends: dict[str, int] = field(default_factory=dict)
    states: dict[str, tuple[Moment, bytes]] = field(default_factory=dict)
    entries: list[Entry] = field(default_factory=list)

    def take(self, record: Any) -> None:
        """Read the next record of the journal."""
        if record.value is None:
            self.states.pop(record.key.decode().removeprefix("state/"), None)
            return
        body = orjson.loads(record.value)
        kind = body["kind"]
        if kind == "epoch":
            self.epoch = record.offset
            return
        if body["epoch"] != self.epoch and kind != "state":
            # A zombie's entry or marker. (A state is right whoever wrote it: it stands for a committed offset.)
            if body["epoch"] > self.epoch:  # the epoch record itself was compacted away by a newer one: cannot be older
                self.epoch = body["epoch"]
            elif body["epoch"] < self.epoch:
                return
        moment = Moment(body["at"], body["number"])
        if kind == "state":
            self.states[body["patient"]] = (moment, orjson.dumps(body["state"]))
        elif kind == "marker":
            self.marker, self.ends = moment, body["ends"]
            self.entries = [entry for entry in self.entries if entry.number > moment.number]
        elif kind == "entry":
            now = datetime.fromisoformat(body["now"]) if body["now"] else None
            # A successor's entries renumber those of a predecessor that it never saw applied: none, since it reads to its epoch.
            self.entries.append(Entry(body["number"], body["at"], body["ends"], now, record.offset))


class Journal:
    """One partition of the journal, as its owner writes it."""

    def __init__(self, outbox: Outbox, partition: int) -> None:
        self._outbox = outbox
        self.partition = partition
        self.epoch = -1
        self._claim = orjson.dumps({"kind": "epoch", "owner": str(uuid4())})

    async def claim(self) -> None:
        """Begin an epoch: everything before its record is what a rebuild reads, everything a zombie writes after it is void."""
        self.epoch = await self._outbox.append(self._message(b"epoch", self._claim))

    async def remember(self, reader: Reader, topic: str) -> Memory:
        """Read the partition up to the own claim."""
        memory = Memory()
        async for records in reader.read(topic, self.partition, 0, self.epoch):
            for record in records:
                memory.take(record)
        return memory

    async def enter(self, entry: Entry) -> Entry:
        """Write an entry, confirmed (rule 1); returns it with its offset."""
        body = {
            "kind": "entry",
            "epoch": self.epoch,
            "number": entry.number,
            "at": entry.at,
            "ends": entry.ends,
            "now": entry.now.isoformat() if entry.now else None,
        }
        key = f"entry/{entry.number % _RING}".encode()
        offset = await self._outbox.append(self._message(key, orjson.dumps(body)))
        return replace(entry, offset=offset)

    async def save(self, moment: Moment, ends: dict[str, int], states: dict[str, bytes | None]) -> None:
        """Write a snapshot: states, then the marker, then the tombstones of patients forgotten before it (rule 2)."""
        common = {"epoch": self.epoch, "at": moment.at, "number": moment.number}
        written, forgotten = [], []
        for patient, state in states.items():
            key = f"state/{patient}".encode()
            if state is None:
                forgotten.append(self._message(key, None))
            else:
                body = {"kind": "state", **common, "patient": patient, "state": orjson.Fragment(state)}
                written.append(self._message(key, orjson.dumps(body)))
        await self._outbox.send(written)
        await self._outbox.append(self._message(b"marker", orjson.dumps({"kind": "marker", **common, "ends": ends})))
        await self._outbox.send(forgotten)

    def _message(self, key: bytes, value: bytes | None) -> Message:
        return Message(TOPIC, key, value, partition=self.partition)


async def stretch(reader: Reader, topic: str, partition: int, start: int, end: int) -> AsyncIterator[Any]:
    """Yield the records of a stretch one by one."""
    async for records in reader.read(topic, partition, start, end):
        for record in records:
            yield record
