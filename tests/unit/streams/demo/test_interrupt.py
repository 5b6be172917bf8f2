"""An interrupted demo: what was under way ends before it goes on, and the summary says what it knows, no more."""

import asyncio
from typing import Any

import pytest

from models.errors import Transient
from streams.demo.run import _unless
from streams.demo.stage import DemoPlan
from streams.demo.view import View


async def test_work_that_ends_first_is_returned() -> None:
    task = await _unless(asyncio.Event(), asyncio.sleep(0, "done"))
    assert task is not None
    assert task.result() == "done"


async def test_work_that_fails_raises_what_went_wrong() -> None:
    async def fail() -> None:
        raise Transient("the store is away")

    with pytest.raises(Transient):
        await _unless(asyncio.Event(), fail())


async def test_work_that_is_interrupted_has_ended_when_one_goes_on() -> None:
    event, ended = asyncio.Event(), []

    async def work() -> None:
        try:
            await asyncio.sleep(3600)
        finally:
            await asyncio.sleep(0)
            ended.append(True)

    asyncio.get_running_loop().call_later(0.05, event.set)
    assert await _unless(event, work()) is None
    assert ended == [True]


FOUR_WAIT: dict[str, Any] = {"accepted": 9, "accounted": 5, "unfinished": 4, "unfinished_in": {"notes-entities": 4}}


def _summary(**known: Any) -> dict[str, Any]:
    latency = {"n": 0, "p50": None, "p99": None}
    lanes = ("notes-entities", "notes-vectors", "images", "vitals")
    return {
        **dict.fromkeys(
            ("accepted", "accounted", "lost", "unfinished", "duplicated", "dead_lettered", "refused", "ignored"), 0
        ),
        "latency_ms": dict.fromkeys(lanes, latency),
        "alerts": {},
        "vectors": {"notes": None, "images": 3},
        "unfinished_in": {},
        "unaccounted": ["mllp a message"],
        "ward_hours": 6.0,
        "ward_time_played": "1:02:03",
        "interrupted": False,
        "settled": True,
        **known,
    }


def test_what_was_not_waited_for_is_not_called_lost(capsys: pytest.CaptureFixture[str]) -> None:
    View(DemoPlan()).end(_summary(**FOUR_WAIT, interrupted=True, settled=False))
    said = capsys.readouterr().out
    assert "interrupted after 1:02:03 of the ward's 6 hours" in said
    assert "4 were not finished when it was ended (4 in notes-entities)" in said
    assert "LOST" not in said
    assert "notes not counted, images 3" in said


def test_what_is_lost_is_called_so_interrupted_or_not(capsys: pytest.CaptureFixture[str]) -> None:
    for interrupted in (False, True):
        View(DemoPlan()).end(_summary(accepted=9, accounted=5, lost=4, interrupted=interrupted))
        assert "LOST: mllp a message" in capsys.readouterr().out


def test_what_a_slow_lane_has_yet_to_do_is_not_called_lost_either(capsys: pytest.CaptureFixture[str]) -> None:
    View(DemoPlan()).end(_summary(**FOUR_WAIT, settled=False))
    said = capsys.readouterr().out
    assert "accounted for 5, lost 0, not finished 4" in said
    assert "4 in notes-entities" in said
    assert "LOST" not in said
