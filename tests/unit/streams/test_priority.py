"""How a lane gives way."""

import subprocess
import sys

import pytest

LOOK = """
import asyncio, os, sys
from models.batching import MicroBatcher
from streams.priority import give_way, give_way_altogether
give_way(int(sys.argv[1]))

async def look():
    batcher = MicroBatcher(lambda items: [os.sched_getscheduler(0)] * len(items), name="x", start=give_way_altogether)
    found = await batcher.map([1])
    await batcher.stop()
    return found[0]

model = asyncio.run(look())
print(os.nice(0), os.sched_getscheduler(0) == os.SCHED_IDLE, model == os.SCHED_IDLE)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="scheduling policies are Linux's")
@pytest.mark.parametrize(("nice", "said"), [("5", "5 False False"), ("19", "19 False True")])
def test_the_models_thread_gives_way_altogether_and_the_event_loop_does_not(nice: str, said: str) -> None:
    run = subprocess.run([sys.executable, "-c", LOOK, nice], capture_output=True, text=True, check=True, start_new_session=True)
    assert run.stdout.strip() == said
