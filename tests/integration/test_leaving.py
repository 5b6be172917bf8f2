"""A lane whose model never answers stops as stalled, and its process ends: whoever supervises it can start it again."""

import asyncio
import contextlib
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from urllib.request import urlopen

import pytest

from connectors.child import free_port
from tests.clinic import Clinic, note
from tests.kafka import Kafka
from tests.lanes import until

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(200)]

LANE = """
import sys, threading
from models.batching import MicroBatcher
from streams import worker
from streams.clock import real_clock
from streams.partition import StatelessJob
from streams.settings import LaneSettings, load
from tests.lanes import Echo

class Hanging(Echo):
    async def process(self, inputs):
        print("asked", flush=True)
        await MicroBatcher(lambda items: threading.Event().wait(), name="hanging").map(inputs)

worker._CLOSING, worker._JOINING = 2.0, 1.0
make = lambda settings, outbox, metrics: StatelessJob(Hanging(settings, metrics), outbox, settings, real_clock)
sys.exit(worker.run(load(), "echo", make, LaneSettings(nice=0)))
"""


def _start(environment: dict[str, str], log: Path, *words: str) -> "subprocess.Popen[bytes]":
    with log.open("wb") as out:
        return subprocess.Popen([sys.executable, *words], env=environment, stdout=out, stderr=subprocess.STDOUT)


@pytest.mark.parametrize("told", [False, True])
async def test_a_lane_whose_model_hangs_leaves(kafka: Kafka, tmp_path: Path, told: bool) -> None:
    site = Clinic(kafka, tmp_path)
    await site.write(note("p", "n", "text"))
    own = site.settings
    environment = {
        **os.environ,
        "VIGIL_KAFKA__BOOTSTRAP": own.kafka.bootstrap,
        "VIGIL_KAFKA__TOPIC_PREFIX": own.kafka.topic_prefix,
        "VIGIL_KAFKA__EMBEDDED": str(own.kafka.embedded),
        "VIGIL_ENGINE__STALL_AFTER": "3600" if told else "2",
        "VIGIL_ENGINE__GRACE": "1",
    }
    log = tmp_path / "log"
    lane = _start(environment, log, "-c", LANE)
    try:

        async def asked() -> bool:
            assert lane.poll() is None or not told
            return "asked" in log.read_text()

        await until(asked, within=60, what="the model is asked")
        if told:
            lane.send_signal(signal.SIGTERM)
        assert await asyncio.to_thread(lane.wait, 90) == 70
        assert "model-hanging" in log.read_text()
    finally:
        lane.kill()


async def test_a_lane_in_the_middle_of_a_long_note_leaves_in_time(kafka: Kafka, tmp_path: Path) -> None:
    """A note of 120,000 characters takes a model longer than any grace: it is given up between two windows, unacked."""
    site = Clinic(kafka, tmp_path)
    await site.write(
        *(note("p", f"n{n}", f"{n} chest pain and fever since the morning, metformin given. " * 2000) for n in range(10))
    )
    own, port = site.settings, free_port()
    environment = {
        **os.environ,
        "VIGIL_KAFKA__BOOTSTRAP": own.kafka.bootstrap,
        "VIGIL_KAFKA__TOPIC_PREFIX": own.kafka.topic_prefix,
        "VIGIL_KAFKA__EMBEDDED": str(own.kafka.embedded).lower(),
        "VIGIL_ENGINE__GRACE": "3",
        "VIGIL_LANES__NOTES_ENTITIES__NICE": "0",
        "VIGIL_WORKER__HEALTH_PORT": str(port),
    }
    log = tmp_path / "log"
    lane = _start(environment, log, "-m", "streams.cli", "lane", "run", "notes-entities")
    try:

        async def at_work() -> bool:
            assert lane.poll() is None, log.read_text()
            with contextlib.suppress(OSError):
                page = await asyncio.to_thread(lambda: urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5).read().decode())
                return re.search(r'^vigil_in_flight\{lane="notes-entities"\} [1-9]', page, re.MULTILINE) is not None
            return False

        await until(at_work, within=150, what="the lane has notes in flight")
        await asyncio.sleep(1)
        lane.send_signal(signal.SIGTERM)
        assert await asyncio.to_thread(lane.wait, 60) == 0, log.read_text()
        assert "CRITICAL" not in log.read_text()
        assert "while it was starting" not in log.read_text()
    finally:
        lane.kill()
