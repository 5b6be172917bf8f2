"""When a message came is told by a clock whose steps are distrusted, as the lane's is."""

from datetime import UTC, datetime, timedelta

import pytest

from streams import edge
from streams.settings import Settings

START = datetime(2026, 11, 24, 8, tzinfo=UTC)


@pytest.mark.parametrize("step", [timedelta(hours=1), -timedelta(hours=1)])
def test_a_step_of_the_clock_does_not_make_a_message_an_hour_old_or_early(
    step: timedelta, monkeypatch: pytest.MonkeyPatch
) -> None:
    wall = [START]
    monkeypatch.setattr(edge, "clock_of", lambda settings: lambda: wall[0])
    clock = edge.Edge(Settings())._clock
    assert clock() == START
    wall[0] = START + step
    assert abs(clock() - START) < timedelta(seconds=20)
    wall[0] = START
    assert abs(clock() - START) < timedelta(seconds=20)
