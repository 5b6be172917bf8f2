"""The lane's time follows the wall clock, and a step of it only once that has lasted."""

from collections import Counter
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.clock import SteadyClock, passed
from streams.settings import ClockSettings

START = datetime(2026, 11, 24, 8, tzinfo=UTC)
JUMPS = [timedelta(minutes=30), timedelta(hours=2), timedelta(days=10), -timedelta(hours=1)]


class Host:
    """A machine with a wall clock that somebody sets, and the seconds that really pass."""

    def __init__(self, **settings: float) -> None:
        self.seconds = 1000.0
        self.off = timedelta()
        self.counts: Counter[str] = Counter()
        self.logged = SteadyClock(
            self.wall,
            ClockSettings(**settings),  # type: ignore[arg-type]
            count=lambda kind: self.counts.update([kind]),
            elapsed=lambda: self.seconds,
        )

    @property
    def true(self) -> datetime:
        return START + timedelta(seconds=self.seconds - 1000)

    def wall(self) -> datetime:
        return self.true + self.off

    def error(self) -> timedelta:
        return self.logged() - self.true

    def run(self, seconds: int, *, observed: timedelta | None = None, received: timedelta | None = None) -> set[timedelta]:
        """Let time pass; sets come whose own clocks are off by so much. What logged time was off by."""
        errors = set()
        for _ in range(seconds):
            self.seconds += 1
            if observed is not None:
                self.logged.witness(self.true + observed, self.true + (received or timedelta()))
            errors.add(self.error())
        return errors


@pytest.mark.parametrize("jump", JUMPS)
@pytest.mark.parametrize("lasts", [1, 119])
def test_a_step_that_does_not_last_is_not_followed(jump: timedelta, lasts: int) -> None:
    host = Host()
    host.run(10)
    host.off = jump
    assert host.run(lasts) == {timedelta()}
    host.off = timedelta()
    assert host.run(500) == {timedelta()}
    assert host.counts == {"clock-step": 1}


@pytest.mark.parametrize("jump", JUMPS)
def test_a_step_that_lasts_is_followed(jump: timedelta) -> None:
    host = Host()
    host.run(10)
    host.off = jump
    assert host.run(120) == {timedelta()}
    assert host.run(100) == {jump}
    assert host.counts == {"clock-step": 1, "clock-followed": 1}


@pytest.mark.parametrize("jump", JUMPS)
def test_a_first_look_is_believed_until_it_is_put_right(jump: timedelta) -> None:
    host = Host()
    host.off = jump
    assert host.run(300) == {jump}
    host.off = timedelta()
    assert host.run(120) == {jump}
    assert host.run(10) == {timedelta()}


def test_a_step_that_changes_begins_anew() -> None:
    host = Host()
    host.run(1)
    for minutes in (60, 50, 40):
        host.off = timedelta(minutes=minutes)
        assert host.run(100) == {timedelta()}
    assert host.counts["clock-step"] == 3


@pytest.mark.parametrize("together", [False, True], ids=["connectors-elsewhere", "connectors-on-this-host"])
def test_sets_bear_witness_against_a_clock_far_ahead(together: bool) -> None:
    host = Host()
    host.run(10)
    host.off = timedelta(hours=2)
    received = host.off if together else timedelta()  # by connectors whose clock is this host's
    assert host.run(3600, observed=-timedelta(seconds=20), received=received) == {timedelta()}
    assert host.counts == {"clock-step": 1, "clock-refused": 1}
    host.off = timedelta()
    assert host.run(60) == {timedelta()}


def test_sets_bear_witness_for_a_clock_that_was_put_right() -> None:
    host = Host()
    host.off = -timedelta(hours=2)  # wrong from the start on
    host.run(10)
    host.off = timedelta()
    host.run(120, observed=-timedelta(minutes=10))
    assert host.run(10, observed=-timedelta(minutes=10)) == {timedelta()}


def test_a_few_minutes_ahead_are_followed_whatever_late_charting_says() -> None:
    host = Host()
    host.run(10)
    host.off = timedelta(minutes=10)
    host.run(120, observed=-timedelta(minutes=15))
    assert host.run(10, observed=-timedelta(minutes=15)) == {host.off}


@given(st.lists(st.floats(-29, 29), max_size=50))
def test_what_a_time_server_corrects_is_followed_at_once(corrections: list[float]) -> None:
    host = Host()
    host.run(1)
    for seconds in corrections:
        host.off += timedelta(seconds=seconds)
        host.seconds += 1
        assert host.error() == host.off
    assert not host.counts


@given(st.lists(st.tuples(st.sampled_from([*JUMPS, timedelta()]), st.integers(1, 400)), max_size=6))
def test_whatever_the_wall_clock_did_it_is_followed_two_minutes_after_the_last_of_it(
    steps: list[tuple[timedelta, int]],
) -> None:
    host = Host()
    for off, lasts in steps:
        host.off = off
        host.run(lasts)
    host.off = timedelta()
    host.run(121)
    assert host.run(5) == {timedelta()}


def test_an_accelerated_clock_does_not_step() -> None:
    elapsed = iter(range(1000, 2000))
    now = iter(START + timedelta(minutes=minute) for minute in range(1000))
    settings = ClockSettings(epoch=START, started=START, speed=60)
    counts: Counter[str] = Counter()
    clock = SteadyClock(lambda: next(now), settings, count=lambda kind: counts.update([kind]), elapsed=lambda: next(elapsed))
    assert [clock() for _ in range(500)] == [START + timedelta(minutes=minute) for minute in range(500)]
    assert not counts


def test_what_passes_does_not_go_back() -> None:
    looks = [passed() for _ in range(1000)]
    assert looks == sorted(looks)
