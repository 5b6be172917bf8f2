"""Faults of the load itself: poison, oversized, duplicate, late, corrected, taken back, and from the future."""

import json
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from tests.faults.arena import Arena, Fault, Twist
from tests.faults.inputs import LATE, PHI, Sent
from tests.faults.workers import nothing, sigkill

BIG = 4_000_000  # bytes: topics.largest_message_bytes


def poison(arena: Arena) -> Twist:
    """Among the good records: no JSON, no UTF-8, no value, another event's fields, a field of the wrong kind."""

    def twist(number: int, one: Sent) -> list[Sent]:
        if number % 30 != 10:
            return [one]
        bad: list[bytes | None] = [
            f"not JSON of {PHI}".encode(),
            b"\xff\xfe" + PHI.encode(),
            None,
            b"",
            json.dumps({"id": PHI}).encode(),
            json.dumps({**json.loads(one.value or b""), "received_at": PHI}).encode(),
        ]
        return [Sent(one.topic, one.key, bad[(number // 30) % len(bad)]), one]

    return twist


def oversized(arena: Arena) -> Twist:
    """A record of 4 MB, the most that an input topic takes, that is no event: its dead letter is larger still."""

    def twist(number: int, one: Sent) -> list[Sent]:
        return [Sent(one.topic, one.key, b"[" + b" " * BIG), one] if number == 40 else [one]

    return twist


def duplicate(arena: Arena) -> Twist:
    """Every third record twice in a row, and again thirty records later."""
    before: list[Sent] = []

    def twist(number: int, one: Sent) -> list[Sent]:
        before.append(one)
        again = [before[number - 30]] if number % 3 == 0 and number >= 30 else []
        return [one, one, *again] if number % 3 == 0 else [one, *again]

    return twist


def future(arena: Arena) -> Twist:
    """Fields that this version does not know go through; one whose needed field was renamed is a dead letter."""

    def twist(number: int, one: Sent) -> list[Sent]:
        body = json.loads(one.value or b"")
        newer = replace(one, value=json.dumps({**body, "posture": "sitting", "schema": 7, "origin2": {"a": [1]}}).encode())
        if number % 40 == 5:
            renamed = {name + ("_v9" if name == "received_at" else ""): value for name, value in body.items()}
            return [Sent(one.topic, one.key, json.dumps(renamed).encode()), newer]
        return [newer]

    return twist


def again(one: Sent, name: str, minutes: float = 5.0, **changes: Any) -> Sent:
    """Return a record as a version of its own, received so much later."""
    old = json.loads(one.value or b"")
    later = (datetime.fromisoformat(old["received_at"]) + timedelta(minutes=minutes)).isoformat()
    body = {**old, "id": old["id"] + name, "received_at": later, **changes}
    return Sent(one.topic, body["patient_id"].encode(), json.dumps(body).encode(), body["id"])


def newer(one: Sent) -> Sent:
    """Return a note's correction."""
    return again(one, "-v2", text=json.loads(one.value or b"")["text"] + " Corrected.", relation="replacement")


def corrected(arena: Arena) -> Twist:
    """Every fifth note comes again ten records later as a new version; each replaces what was there."""
    before: list[Sent] = []

    def twist(number: int, one: Sent) -> list[Sent]:
        before.append(one)
        return [one] if number % 5 or number < 10 else [one, newer(before[number - 10])]

    return twist


def turned(arena: Arena) -> Twist:
    """Notes leave in reverse order, two dozen at a time, every fifth with a correction, which so comes before what it corrects."""
    held: list[Sent] = []

    def twist(number: int, one: Sent) -> list[Sent]:
        held.extend([one] if number % 5 else [one, newer(one)])
        if len(held) < 24:
            return []
        out = held[::-1]
        held.clear()
        return out

    return twist


def late_notes(arena: Arena) -> Twist:
    """Every seventh note is followed by one that was written and received a day before, by turns another or an old version."""

    def twist(number: int, one: Sent) -> list[Sent]:
        if number % 7:
            return [one]
        old = json.loads(one.value or b"")
        day = (datetime.fromisoformat(old["authored_at"]) - timedelta(days=1)).isoformat()
        note = {} if number % 14 else {"note_id": old["note_id"] + LATE}
        return [one, again(one, LATE, -24 * 60, authored_at=day, **note)]

    return twist


def corrected_sets(arena: Arena) -> Twist:
    """Every fifth set is followed at once by a correction of one value of it; two in three of those let it look graver."""

    def twist(number: int, one: Sent) -> list[Sent]:
        if number % 5:
            return [one]
        value = (28.0, 16.0, 23.0)[number // 5 % 3]
        rate = {"code": "9279-1", "value": value, "unit": "/min", "status": "corrected"}
        return [one, again(one, "-v2", 0.0, observations=[rate])]

    return twist


def retaken(arena: Arena) -> Twist:
    """Every fifth image comes again ten records later: taken back by its archive, with other pixels, or under another patient."""
    before: list[Sent] = []

    def twist(number: int, one: Sent) -> list[Sent]:
        before.append(one)
        if number % 5 or number < 10:
            return [one]
        old = before[number - 10]
        match number // 5 % 3:
            case 0:
                gone = {"status": "entered-in-error", "reason": "Rejected for Quality Reasons"}
                nothing = dict.fromkeys(("pixels", "rows", "columns"))
                return [one, again(old, "-gone", modality="", body_part="", view="", **gone, **nothing)]
            case 1:
                return [one, again(old, "-v2", pixels=json.loads(one.value or b"")["pixels"])]
            case _:
                return [one, again(old, "-other", patient_id=json.loads(one.value or b"")["patient_id"])]

    return twist


def late(arena: Arena) -> Twist:
    """Every seventh set comes again with a time an hour before: history, that never alerts."""

    def twist(number: int, one: Sent) -> list[Sent]:
        if number % 7:
            return [one]
        body = json.loads(one.value or b"")
        hour = (datetime.fromisoformat(body["observed_at"]) - timedelta(hours=1)).isoformat()
        old = {**body, "id": body["id"] + LATE, "observed_at": hour}
        return [one, Sent(one.topic, one.key, json.dumps(old).encode(), old["id"])]

    return twist


def reordered(arena: Arena) -> Twist:
    """Two rounds of sets leave in reverse order: of each patient the later set comes first."""
    held: list[Sent] = []

    def twist(number: int, one: Sent) -> list[Sent]:
        held.append(one)
        if len(held) < 24:
            return []
        out = held[::-1]
        held.clear()
        return out

    return twist


ALL = ("vitals", "notes-entities", "notes-vectors", "images")
FAULTS = [
    *(
        Fault(
            "poison",
            lane,
            "what no lane can read, among good records",
            nothing,
            twist=poison,
            short=lane == "vitals",
            seen="dead_lettered",
        )
        for lane in ALL
    ),
    *(
        Fault("oversized", lane, "a record of 4 MB that is no event", nothing, twist=oversized, seen="dead_lettered")
        for lane in ALL
    ),
    *(Fault("duplicate", lane, "a third of the records two or three times", nothing, twist=duplicate) for lane in ALL),
    *(
        Fault("future-schema", lane, "fields of a later version; some without a field that is needed", nothing, twist=future)
        for lane in ALL
    ),
    *(
        Fault("corrected", lane, "a fifth of the notes come again, corrected", nothing, twist=corrected)
        for lane in ("notes-entities", "notes-vectors")
    ),
    *(
        Fault(name, "vitals", words, strike, twist=corrected_sets, like="corrected", seconds=seconds)
        for name, words, strike, seconds in (
            ("corrected", "a fifth of the sets are corrected at once", nothing, 24),
            ("corrected-sigkill", "the same, and SIGKILL three times", sigkill, 20),
        )
    ),
    Fault(
        "late",
        "vitals",
        "a seventh of the sets again, an hour old",
        nothing,
        twist=late,
        but=("deterioration",),  # history is in the model's window
    ),
    # The later of two sets comes first, so all that follows is another course: the chart alone says what is right.
    Fault("reordered", "vitals", "two rounds of sets leave in reverse order", nothing, twist=reordered, same=False),
    *(
        Fault(name, lane, words, nothing, twist=twist)
        for name, words, twist in (
            ("reordered", "notes leave in reverse order, corrections before what they correct", turned),
            ("late", "a seventh of the notes again, a day old, as another note or as an old version", late_notes),
        )
        for lane in ("notes-entities", "notes-vectors")
    ),
    Fault(
        "retaken",
        "images",
        "a fifth of the images taken back, taken anew, or another patient's",
        nothing,
        twist=retaken,
        like="retaken",
        seconds=20,
    ),
    Fault(
        "retaken-sigkill",
        "images",
        "the same, and SIGKILL of one of two workers three times",
        sigkill,
        twist=retaken,
        workers=2,
        like="retaken",
        seconds=20,
    ),
]
