"""The lane that gives a merged patient's vectors to the surviving one: merges over notes whose vectors stand, and its faults."""

import time
from typing import Any

from processors.identity import natural_id
from tests import load
from tests.faults import inputs
from tests.faults.arena import Arena, Fault
from tests.faults.inputs import Load, Sent, sent
from tests.faults.outside import backlog, broker_kill
from tests.faults.stores import qdrant_down
from tests.faults.watch import Worker
from tests.faults.workers import nothing, sigkill, zombie

LANE = "merges"
NOTES, PATIENTS, SURVIVORS = 80, 40, 10
EVERY = 4  # of so many records one is a merge; the others change nothing here
RATE = 12.0  # records a second
SLOT = 80  # of the worker that writes the vectors: no other has it


def merges(arena: Arena) -> Load:
    """Contexts of a ward of 40, among which thirty patients turn out to be one of the other ten."""
    people = list(load.contexts(arena.seed, PATIENTS))
    staying, going = people[:SURVIVORS], people[SURVIVORS:]
    paced: list[Sent] = []
    for number in range(int(arena.fault.seconds * RATE)):
        turn, other = divmod(number, EVERY)
        changes: dict[str, Any] = {"id": natural_id("faults", arena.seed, number)}
        one = arena.random.choice(staying)
        if not other and turn < len(going):
            one, changes["merged_into"] = going[turn], one.patient_id
        paced.append(sent(one.model_copy(update=changes)))
    return Load([], paced, RATE)


def vectors_stand(arena: Arena) -> None:
    """Have the notes' own lane embed the load's notes, and end it in good order: the merges wait for nobody."""
    arena.env |= {"VIGIL_LANES__NOTES_VECTORS__NICE": "0", "VIGIL_LANES__MERGES__FOLLOWS": '["notes-vectors"]'}
    writer = Worker("notes-vectors", SLOT, arena.env, arena.folder)
    writer.start()
    arena.stack.callback(writer.kill)
    writer.until_ready()
    for note in inputs.notes(arena.seed, NOTES):
        arena.sender.send(sent(note))
    arena.sender.flush()
    deadline = time.monotonic() + 120.0
    while sum(arena.kafka.committed(f"{arena.prefix}vigil.notes-vectors", arena.prefix + "clinical.notes").values()) < NOTES:
        if time.monotonic() > deadline:
            raise RuntimeError(f"{arena.fault.row}: the notes' vectors do not stand")
        time.sleep(0.5)
    if code := writer.stop():
        raise RuntimeError(f"{arena.fault.row}: the notes' lane ended with exit code {code}")


def row(name: str, words: str, strike: Any, **more: Any) -> Fault:
    """Make a row of this lane. Where every point must stand at the end is known without an undisturbed run."""
    return Fault(name, LANE, words, strike, prepare=vectors_stand, load=merges, same=False, **more)


FAULTS = [
    row("undisturbed", "no fault: thirty patients are merged into ten", nothing),
    row("sigkill", "SIGKILL three times at random moments", sigkill, seconds=20),
    row("zombie", "one of two workers frozen past its session, then it wakes up", zombie, workers=2, seconds=18),
    row("broker-kill", "the broker killed, started 4 s later", broker_kill, seconds=18),
    row("qdrant-down", "Qdrant killed, started 6 s later", qdrant_down, seen="store"),
    row("backlog", "all of the load waits for a worker that starts", backlog),
]
