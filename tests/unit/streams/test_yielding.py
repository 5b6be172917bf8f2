"""How much a replay may write: against simulated lanes of every speed, in a time that passes only when everybody waits."""

import asyncio
import random
import selectors
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

from models.errors import Transient
from streams import yielding
from streams.lagging import Lag
from streams.settings import Settings
from streams.yielding import Room

NOTES = "clinical.notes"
COMMITS = 0.25  # seconds between a lane's commits


class _Selector(selectors.DefaultSelector):
    """Nothing comes from outside: who would wait has waited."""

    now = 0.0

    def select(self, timeout: float | None = None) -> list[Any]:
        self.now += timeout or 0.0
        return super().select(0)


def run(test: Coroutine[Any, Any, None]) -> None:
    selector = _Selector()
    loop = asyncio.SelectorEventLoop(selector)
    loop.time = lambda: selector.now  # type: ignore[method-assign]  # the loop's own clock is what is replaced
    try:
        loop.run_until_complete(test)
    finally:
        loop.close()


@dataclass
class Lane:
    """Works off what it is given at a speed, first come first served, and commits four times a second."""

    name: str
    per_second: float
    topic: str = NOTES
    ended: bool = False  # nobody runs it
    free: float = 0.0  # when it is through with all that it has
    ready: list[float] = field(default_factory=list)  # of each record, when it is done

    def take(self, now: float, count: int = 1) -> float:
        """Give it records; return how long the last one takes."""
        for _ in range(count):
            self.free = max(self.free, now) + 1 / self.per_second
            self.ready.append(self.free)
        return self.free - now

    def lag(self, now: float) -> Lag:
        committed = sum(one <= now // COMMITS * COMMITS for one in self.ready)
        return Lag(self.name, self.topic, 0, committed, len(self.ready), len(self.ready) - committed)


@pytest.fixture
def lanes(monkeypatch: pytest.MonkeyPatch) -> list[Lane]:
    there: list[Lane] = []

    async def lags(_: Settings, lanes: Sequence[str], **__: Any) -> list[Lag]:
        await asyncio.sleep(0.02)
        return [lane.lag(asyncio.get_running_loop().time()) for lane in there if lane.name in lanes]

    async def unattended(_: Settings, lane: str) -> bool:
        return next(one for one in there if one.name == lane).ended

    monkeypatch.setattr(yielding, "lags", lags)
    monkeypatch.setattr(yielding, "unattended", unattended)
    return there


@pytest.mark.parametrize("load", [0.0, 0.4])
@pytest.mark.parametrize("speed", [3, 16, 150, 2_000])
def test_a_live_record_waits_no_longer_than_allowed_and_the_lane_is_kept_busy(
    lanes: list[Lane], speed: int, load: float
) -> None:
    """Two lanes read the topic; the slower one is what counts."""
    lanes += [Lane("notes-entities", speed), Lane("notes-vectors", 5 * speed)]
    waited: list[float] = []
    total = speed * 30

    async def live() -> None:
        rng = random.Random(4)
        while load:
            await asyncio.sleep(rng.expovariate(load * speed))
            now = asyncio.get_running_loop().time()
            waited.append(max(lane.take(now) for lane in lanes))

    async def replay() -> None:
        loop, room, done = asyncio.get_running_loop(), Room(Settings()), 0
        beside = asyncio.create_task(live())
        await asyncio.sleep(2)
        del waited[:]
        begun = loop.time()
        while done < total:
            count = min(await room.wait({NOTES}), total - done, 100)
            for lane in lanes:
                lane.take(loop.time(), count)
            room.wrote()
            done += count
        beside.cancel()
        # As fast as a look every 20 ms and parts of a hundred allow, half of what the lane has left at least.
        assert loop.time() - begun < 2 * max(30 / (1 - load), total / 100 * 0.02) + 3

    run(replay())
    if load:
        waited.sort()
        behind = max(1.0, 10 / speed)  # seconds allowed: ten records in any case
        assert waited[int(len(waited) * 0.99)] < 1.5 * behind + 0.5


def test_a_lane_that_stops_is_waited_for_and_the_rest_is_not_written(lanes: list[Lane]) -> None:
    lanes.append(Lane("notes-entities", 100))
    said: list[str] = []

    async def replay() -> None:
        loop, room = asyncio.get_running_loop(), Room(Settings(), waits=said.append)
        for _ in range(30):
            count = min(await room.wait({NOTES}), 100)
            lanes[0].take(loop.time(), count)
            room.wrote()
        lanes[0].free += 1e9
        written = 0
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(60):
                while True:
                    count = await room.wait({NOTES})
                    lanes[0].take(loop.time(), count)
                    room.wrote()
                    written += count
        assert written < 150

    run(replay())
    assert said[-1].startswith("notes-entities is ")


def test_a_lane_that_never_ran_and_topics_that_none_reads_hold_nobody_up(lanes: list[Lane]) -> None:
    async def ask() -> None:
        assert await Room(Settings()).wait({"clinical.audit"}) > 1000
        assert await Room(Settings()).wait({NOTES}) > 1000

    run(ask())


def _stopped(lane: Lane) -> Lane:
    """Let it have done something, and have a backlog that it never works off."""
    lane.ready = [-1.0] * 5 + [1e9] * 8
    return lane


@pytest.mark.parametrize(("ended", "after"), [(True, 3), (False, 62)])
def test_a_lane_that_stands_still_is_waited_for_only_where_it_is_meant(lanes: list[Lane], ended: bool, after: float) -> None:
    patients, feedback = "clinical.patients", "clinical.feedback"
    lanes += [Lane("vitals", 1000, topic=patients), _stopped(Lane("merges", 1000, topic=patients, ended=ended))]
    said: list[str] = []

    async def ask() -> None:
        loop, room = asyncio.get_running_loop(), Room(Settings(), waits=said.append)
        topic, may = await room.first({patients: {"vitals"}})
        assert (topic, may > 0) == (patients, True) and loop.time() < after
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(120):
                await room.first({patients: {"vitals", "merges"}})
        began = loop.time()
        topic, may = await room.first({patients: {"merges"}, feedback: {"vitals"}})  # holds no other topic up
        assert (topic, may > 0) == (feedback, True) and loop.time() - began < 1
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(120):
                await room.wait({patients, feedback})

    run(ask())
    nobody = ", and nobody runs it: `vigil lane run merges`"
    assert said[0] == "merges is 8 records behind" and said[-1] == said[0] + (nobody if ended else "")


def test_a_lane_of_which_nothing_is_known_and_that_runs_is_waited_for(
    lanes: list[Lane], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = [Lag("notes-entities", NOTES, 0, None, 90, 90, runs=True), Lag("vitals", NOTES, 0, None, 90, 90)]
    said: list[str] = []

    async def lags(*_: Any, **__: Any) -> list[Lag]:
        return [] if len(said) > 3 else found  # the log was made anew: its commits went with it

    monkeypatch.setattr(yielding, "lags", lags)
    run(_once(Room(Settings(), waits=said.append)))
    assert said == ["notes-entities is 90 records behind"] * 4


def test_a_cluster_that_does_not_say_is_waited_for(lanes: list[Lane], monkeypatch: pytest.MonkeyPatch) -> None:
    look, troubles, said = yielding.lags, [Transient("NOT_COORDINATOR")] * 3, list[str]()

    async def lags(*args: Any, **named: Any) -> list[Lag]:
        if troubles:
            raise troubles.pop()
        return await look(*args, **named)

    monkeypatch.setattr(yielding, "lags", lags)
    run(_once(Room(Settings(), waits=said.append)))
    assert said == ["NOT_COORDINATOR"] * 3


async def _once(room: Room) -> None:
    assert await room.wait({NOTES}) > 0
