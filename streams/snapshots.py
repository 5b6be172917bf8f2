"""Snapshots of a partition's machine: dumped a few states at a time between two batches, journalled once the commit is there.

    nothing -> dumping -> dumped, waits for the commit -> being written -> marked -> nothing

What is dumped is the machine at one moment, whatever it decides meanwhile (`Monitor.begin_snapshot`). It is written when the group
has committed up to that moment (journal rule 2), and counts with its marker, the last record.
"""

import logging
import time
from dataclasses import dataclass
from typing import Final

from models.errors import Poison
from streams.journal import Journal, Moment
from streams.machine import Machine
from streams.metrics import LaneMetrics
from streams.partition import Steps
from streams.settings import VitalsStateSettings

log = logging.getLogger("vigil.vitals")

_ENTRIES_PER_MARKER: Final = 100
_STATES_A_TURN: Final = 16  # dumped or written between two batches: a millisecond or two, so that no alert waits for a snapshot


@dataclass(slots=True)
class _Snapshot:
    """One being taken: `states` once all of them are dumped, of which `written` are in the journal."""

    moment: Moment
    ends: dict[str, int]
    states: list[tuple[str, bytes | None]] | None = None
    written: int = 0


class Snapshots:
    """Takes the snapshots of partition `number`, a turn at a time."""

    def __init__(
        self, steps: Steps, journal: Journal, number: int, settings: VitalsStateSettings, metrics: LaneMetrics
    ) -> None:
        self._steps = steps
        self._journal = journal
        self._every = settings.snapshot_seconds
        self._metrics = metrics
        self.marked = 0  # number of the entry that the last marker stands for
        # The first at once: kills that come faster than snapshots would each leave the next restore more to replay.
        self.due = 0.0
        # Partitions take turns afterwards: eight snapshots at once would hold each other up.
        self._delay = self._every * (number % 8 / 8)
        self._taken: _Snapshot | None = None

    def ripe(self, committed: int) -> bool:
        """Tell whether one is being taken and can go on now; `committed`: vitals below this offset are."""
        return self._taken is not None and self._can_go_on(self._taken, committed)

    @staticmethod
    def _can_go_on(snapshot: _Snapshot, committed: int) -> bool:
        return snapshot.states is None or snapshot.written > 0 or committed >= snapshot.moment.at

    async def turn(self, machine: Machine, committed: int, *, begin: bool) -> None:
        """Do a little of what is to be done: begin one that is due (only if it may `begin`), dump or write some states, mark it."""
        snapshot = self._taken
        if snapshot is None:
            if begin and time.monotonic() >= self.due:
                self._begin(machine)
        elif snapshot.states is None:
            found = machine.monitor.snapshot(_STATES_A_TURN)
            if found is not None:
                # The partition's own state last: it counts what the patients' states say.
                snapshot.states = sorted(found.items(), key=lambda item: (item[0] == machine.monitor.id, item[0]))
        elif self._can_go_on(snapshot, committed):
            await self._write(machine, snapshot, snapshot.states)

    def _begin(self, machine: Machine) -> None:
        # A night without vitals: a marker alone spares a restart the thousands of ticks since the last one.
        if machine.monitor.dirty() or machine.entry - self.marked > _ENTRIES_PER_MARKER:
            machine.monitor.begin_snapshot()
            self._taken = _Snapshot(Moment(machine.at, machine.entry), dict(machine.ends))
        self.due = time.monotonic() + self._every + self._delay
        self._delay = 0.0

    async def _write(self, machine: Machine, snapshot: _Snapshot, states: list[tuple[str, bytes | None]]) -> None:
        few = states[snapshot.written : snapshot.written + _STATES_A_TURN]
        if few:
            try:
                await self._steps.persist("snapshot", lambda: self._journal.save(snapshot.moment, few))
            except Poison as error:
                # Without it no marker may be written: a rebuild goes on from the last one, further back each time.
                log.error("%s: a state is too large for the journal, no snapshot until it shrinks: %s", self._steps.name, error)
                self._metrics.event("state-too-large")
                machine.monitor.not_saved(patient for patient, _ in states)
                self._taken = None
                return
            snapshot.written += len(few)
            return
        forgotten = [patient for patient, state in states if state is None]
        await self._steps.persist("snapshot", lambda: self._journal.mark(snapshot.moment, snapshot.ends, forgotten))
        self.marked = snapshot.moment.number
        self._taken = None
