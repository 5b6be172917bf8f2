"""The demo interrupted as by Ctrl-C in a terminal, where the whole process group gets SIGINT: it ends in order, with words."""

import json
import os
import re
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.vitals import LaneProcess

pytestmark = [pytest.mark.slow, pytest.mark.timeout(500)]


@pytest.fixture
def demo(tmp_path: Path) -> Iterator[LaneProcess]:
    command = [sys.executable, "-m", "streams.cli", "demo", "--for", "200s", "--hours", "6", "--out", str(tmp_path / "out")]
    env = {"PYTHONPATH": str(Path(__file__).parents[2]), "PYTHONUNBUFFERED": "1"}
    process = LaneProcess("demo", env, tmp_path / "demo.log", command=command)
    process.start()
    yield process
    if process.running:
        process.kill()


def _comes(demo: LaneProcess, pattern: str, within: float = 320.0) -> None:
    deadline = time.monotonic() + within
    while not re.search(pattern, demo.log):
        assert demo.running, demo.log
        assert time.monotonic() < deadline, demo.log
        time.sleep(0.1)


def _interrupt(demo: LaneProcess) -> list[psutil.Process]:
    assert demo._process is not None
    children = psutil.Process(demo._process.pid).children(recursive=True)
    os.killpg(demo._process.pid, signal.SIGINT)
    return children


def _ended(demo: LaneProcess, children: list[psutil.Process]) -> int:
    assert demo._process is not None
    code = demo._process.wait(120)
    _, alive = psutil.wait_procs(children, timeout=10)
    assert not alive, "nothing is left running"
    assert "Traceback" not in demo.log
    assert not re.search("Transient|Fatal|Permanent", demo.log), demo.log
    return code


def test_interrupted_while_it_starts_it_ends_with_a_line(demo: LaneProcess) -> None:
    _comes(demo, "starting lanes and connectors")
    assert _ended(demo, _interrupt(demo)) == 130, demo.log
    assert demo.log.splitlines()[-1].endswith(
        "interrupted before the ward was played: nothing was sent, and nothing is left running"
    )


def test_interrupted_at_play_it_finishes_what_was_accepted(demo: LaneProcess, tmp_path: Path) -> None:
    _comes(demo, r"accepted [1-9]\d+  outputs [1-9]")
    assert _ended(demo, _interrupt(demo)) == 0, demo.log
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["interrupted"]
    assert summary["settled"]
    assert summary["lost"] == 0
    assert summary["accepted"] == summary["accounted"] > 0
    assert summary["vectors"]["notes"] is not None, "Ctrl-C is not for the store, which is needed to the end"
    assert summary["ward_time_played"] < "6:00:00"
    assert f"accepted {summary['accepted']}, accounted for {summary['accepted']}, lost 0" in demo.log
    assert "interrupted after" in demo.log
