"""How a lane gives way."""

import subprocess
import sys

import pytest

LOOK = """
import os, sys, threading
from streams.worker import give_way
give_way(int(sys.argv[1]))
found = []
thread = threading.Thread(target=lambda: found.append(os.sched_getscheduler(0)))
thread.start(); thread.join()
print(os.nice(0), os.sched_getscheduler(0) == os.SCHED_IDLE, found[0] == os.SCHED_IDLE)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="scheduling policies are Linux's")
@pytest.mark.parametrize(("nice", "said"), [("5", "5 False False"), ("19", "19 True True")])
def test_a_lane_that_gives_way_altogether_runs_when_nobody_else_wants_to(nice: str, said: str) -> None:
    run = subprocess.run([sys.executable, "-c", LOOK, nice], capture_output=True, text=True, check=True, start_new_session=True)
    assert run.stdout.strip() == said
