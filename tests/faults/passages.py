"""Notes of many passages, and faults under them: what is written by half, or left over of a longer version, shows in Qdrant."""

from typing import Any

from tests import load
from tests.faults.arena import Arena, Fault, Twist
from tests.faults.inputs import PHI, Load, Sent, sent
from tests.faults.messages import again
from tests.faults.proxy import Refuser
from tests.faults.stores import behind, qdrant_refuses
from tests.faults.workers import nothing, sigkill

RATE = 3.0  # notes a second


def long_notes(arena: Arena) -> Load:
    """Notes of 200 to 700 words: three of the ward's in one, which come to several passages."""
    parts = list(load.notes(arena.seed, 3 * int(arena.fault.seconds * RATE), patients=40))
    paced = []
    for one, *more in zip(parts[::3], parts[1::3], parts[2::3], strict=True):
        text = "\n\n".join([f"Mr {PHI}.", one.text, *(part.text for part in more)])
        paced.append(sent(one.model_copy(update={"text": text})))
    return Load([], paced, RATE)


def shortened(arena: Arena) -> Twist:
    """Every third long note comes again three records later, corrected to a short one: most of its passages are left over."""
    before: list[Sent] = []

    def twist(number: int, one: Sent) -> list[Sent]:
        before.append(one)
        if number % 3 or number < 3:
            return [one]
        old = before[number - 3]
        return [one, again(old, "-v2", text=f"Mr {PHI}. Corrected: mild cough.", relation="replacement")]

    return twist


CORRECTED: dict[str, Any] = {"twist": shortened}
FAULTS = [
    Fault(name, "notes-vectors", words, strike, load=long_notes, like="long", seconds=seconds, **more)
    for name, words, strike, seconds, more in (
        ("long", "no fault: notes of many passages", nothing, 20.0, {}),
        ("long-sigkill", "SIGKILL three times under notes of many passages", sigkill, 20.0, {}),
        ("long-corrected", "a third of the notes of many passages corrected to a short one", nothing, 14.0, CORRECTED),
        ("long-corrected-sigkill", "the same, and SIGKILL three times", sigkill, 20.0, CORRECTED),
        (
            "long-qdrant-refuses",
            "the same, and Qdrant refuses every other write for 8 s",
            qdrant_refuses,
            16.0,
            {**CORRECTED, "prepare": behind(Refuser), "seen": "store"},
        ),
    )
]
