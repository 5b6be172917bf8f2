"""What the journal remembers of the model's silences."""

from types import SimpleNamespace
from typing import Any

import orjson

from streams.journal import Lapses, Memory


def memory(*bodies: dict[str, Any]) -> Memory:
    found = Memory()
    for offset, body in enumerate(bodies):
        found.take(SimpleNamespace(key=b"", value=orjson.dumps(body), offset=offset, timestamp=0, headers=()))
    return found


def lapse(number: int, first: int, end: int, reason: str = "late", epoch: int = 0) -> dict[str, Any]:
    return {"kind": "lapse", "epoch": epoch, "number": number, "first": first, "end": end, "reason": reason}


EPOCH = {"kind": "epoch", "owner": "one"}
MARKER = {"kind": "marker", "epoch": 0, "at": 20, "number": 3, "ends": {}}


def test_a_set_was_said_without_the_model_as_of_the_entry_of_a_lapse_and_no_other() -> None:
    found = Lapses(memory(EPOCH, lapse(3, 10, 20)).lapses)
    assert [found.why(3, at) for at in (9, 10, 19, 20)] == ["", "late", "late", ""]
    assert found.why(2, 10) == found.why(4, 10) == ""


def test_the_first_lapse_counts_where_a_rerun_wrote_another() -> None:
    found = Lapses(memory(EPOCH, lapse(3, 10, 20), lapse(3, 5, 30, "failed")).lapses)
    assert [found.why(3, at) for at in (5, 10, 25)] == ["failed", "late", "failed"]


def test_a_marker_ends_the_lapses_that_it_stands_for() -> None:
    kept = memory(EPOCH, lapse(2, 30, 40), lapse(3, 10, 20), lapse(3, 10, 21), lapse(4, 1, 2), MARKER).lapses
    assert [(one.number, one.end) for one in kept] == [(3, 21), (4, 2)]


def test_a_lapse_of_a_worker_that_was_replaced_is_void() -> None:
    kept = memory(EPOCH, lapse(1, 0, 9), EPOCH, lapse(1, 10, 19, epoch=0)).lapses
    assert [one.end for one in kept] == [9]
