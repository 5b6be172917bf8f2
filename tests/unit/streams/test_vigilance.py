"""The dead man's switch goes by the time that stands in heartbeats, and by none that has not come yet."""

from datetime import UTC, datetime, timedelta

import pytest

from connectors.deliver.settings import WebhookSettings
from streams.metrics import LaneMetrics
from streams.vigilance import Vigilance

START = datetime(2026, 11, 24, 8, tzinfo=UTC)


@pytest.mark.parametrize("ahead", [timedelta(minutes=30), timedelta(days=10)])
def test_a_heartbeat_of_a_time_to_come_hides_no_silence(ahead: timedelta) -> None:
    now = START
    own = WebhookSettings(kind="webhook", url="https://nurse-call.hospital/hook", secret="a secret of the test's own")
    vigilance = Vigilance("nurses", own, lambda: now, LaneMetrics("deliver-nurses"))
    vigilance.assigned([0])
    vigilance.beat(0, START + ahead)  # the lane's clock was wrong
    now += timedelta(seconds=10)
    vigilance.beat(0, now)
    assert vigilance.alive(now)
    now += timedelta(seconds=own.dead_after + 1)
    assert vigilance.silent(now) == {0: START + timedelta(seconds=10)}


def test_it_goes_by_right_heartbeats_though_its_own_clock_was_wrong() -> None:
    now = START + timedelta(days=10)
    own = WebhookSettings(kind="webhook", url="https://nurse-call.hospital/hook", secret="a secret of the test's own")
    vigilance = Vigilance("nurses", own, lambda: now, LaneMetrics("deliver-nurses"))
    vigilance.assigned([0])
    vigilance.beat(0, now)
    now = START
    vigilance.assigned([0])
    vigilance.beat(0, now)
    assert vigilance._heard == {0: START}


def test_it_hears_those_of_its_own_partitions_and_no_others() -> None:
    now = START
    own = WebhookSettings(kind="webhook", url="https://nurse-call.hospital/hook", secret="a secret of the test's own")
    vigilance = Vigilance("nurses", own, lambda: now, LaneMetrics("deliver-nurses"))
    vigilance.assigned([1, 3])
    vigilance.beat(1, now)
    vigilance.beat(2, now)  # another worker's
    assert not vigilance.alive(now)
    vigilance.beat(3, now)
    assert vigilance.alive(now)
    now += timedelta(seconds=own.dead_after + 1)
    vigilance.beat(2, now)
    vigilance.beat(3, now)
    assert vigilance.silent(now) == {1: START}
