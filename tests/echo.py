"""The Echo lane as a process of its own: `python -m tests.echo`, settings by environment as for `vigil lane run`."""

import sys
from pathlib import Path

from streams.clock import real_clock
from streams.metrics import LaneMetrics
from streams.outbox import Outbox
from streams.partition import StatelessJob
from streams.settings import LaneSettings, Settings, load
from streams.worker import run
from tests.lanes import Echo
from tests.vitals import LaneProcess


def make(settings: Settings, outbox: Outbox, metrics: LaneMetrics) -> StatelessJob:
    """The job that `streams.worker` runs."""
    return StatelessJob(Echo(settings, metrics), outbox, settings, real_clock)


def process(env: dict[str, str], log: Path) -> LaneProcess:
    """The lane as a process that can be killed, frozen and asked for its log."""
    return LaneProcess("echo", env, log, command=[sys.executable, "-m", "tests.echo"])


if __name__ == "__main__":
    sys.exit(run(load(), "echo", make, LaneSettings(nice=0)))
