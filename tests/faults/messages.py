"""Faults of the load itself: poison, oversized, duplicate, late, corrected, and from the future."""

import json
from dataclasses import replace
from datetime import datetime, timedelta

from tests.faults.arena import Arena, Fault, Twist
from tests.faults.inputs import LATE, PHI, Sent
from tests.faults.workers import nothing

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


def corrected(arena: Arena) -> Twist:
    """Every fifth note comes again ten records later as a new version; each replaces what was there."""
    before: list[Sent] = []

    def twist(number: int, one: Sent) -> list[Sent]:
        before.append(one)
        if number % 5 or number < 10:
            return [one]
        old = json.loads(before[number - 10].value or b"")
        later = (datetime.fromisoformat(old["received_at"]) + timedelta(minutes=5)).isoformat()
        body = {
            **old,
            "id": old["id"] + "-v2",
            "text": old["text"] + " Corrected.",
            "relation": "replacement",
            "received_at": later,
        }
        return [one, Sent(one.topic, before[number - 10].key, json.dumps(body).encode(), body["id"])]

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
    Fault("late", "vitals", "a seventh of the sets again, an hour old", nothing, twist=late, same=False),
    Fault("reordered", "vitals", "two rounds of sets leave in reverse order", nothing, twist=reordered, same=False),
]
