"""`vigil lag` and `vigil status` against a lane that is behind, and one that is not."""

import asyncio
import json
import os
import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from streams.lagging import READS, lags, workers
from streams.lanes import LANES
from streams.metrics import LaneMetrics
from streams.outbox import Outbox
from tests.clinic import Clinic, note
from tests.kafka import Kafka

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(240)]


def vigil(site: Clinic, *words: str) -> list[dict[str, Any]]:
    env = {
        **{name: value for name, value in os.environ.items() if not name.startswith("VIGIL_")},
        "PYTHONPATH": str(Path(__file__).parents[2]),
        "VIGIL_KAFKA__BOOTSTRAP": site.kafka.bootstrap,
        "VIGIL_KAFKA__TOPIC_PREFIX": site.prefix,
        "VIGIL_KAFKA__EMBEDDED": str(site.kafka.kind == "embedded").lower(),
    }
    command = [sys.executable, "-m", "streams.cli", *words, "--json"]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


async def test_lag_is_what_a_lane_has_not_committed(kafka: Kafka, tmp_path: Path) -> None:
    site = Clinic(kafka, tmp_path)
    first = note("p", "n0", "Cough.")
    await site.write(first)
    async with site.running("notes-entities"):
        await site.until_done("notes-entities", "clinical.notes")
        (port,) = [engine.settings.worker.health_port for engine in site._engines]
        assert port == 0  # no page of this one: its workers do not answer
    assert await workers(["127.0.0.1:9"]) == []
    done = await lags(site.settings, ["notes-entities"])
    assert sum(one.records for one in done) == 0
    assert {one.oldest_unacked_seconds for one in done} == {None}
    later = [note("p", f"n{i}", "Cough.", received_at=first.received_at + timedelta(seconds=30 * i)) for i in range(1, 4)]
    await site.write(*later)
    behind = [one for one in await lags(site.settings, ["notes-entities"]) if one.records]
    assert [(one.records, one.event_seconds) for one in behind] == [(3, 60.0)]
    assert behind[0].oldest_unacked_seconds is not None
    never = [one for one in await lags(site.settings, ["notes-vectors"]) if one.records]
    assert [(one.records, one.committed) for one in never] == [(4, None)]
    told = await asyncio.to_thread(vigil, site, "lag", "--lane", "notes-entities")
    assert sum(one["records"] for one in told) == 3
    told = await asyncio.to_thread(vigil, site, "status", "--once", "--every", "0.5", "--lane", "notes-entities")
    assert [one["rate"] for one in told if one["records"]] == [0.0]


def test_the_table_of_what_lanes_read_is_true(kafka: Kafka, tmp_path: Path) -> None:
    settings = Clinic(kafka, tmp_path).settings
    for name, make in LANES.items():
        assert make(settings, Outbox(settings, source="/test"), LaneMetrics(name)).topics == READS[name]
    assert set(LANES) == set(READS)
