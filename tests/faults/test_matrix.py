"""A few rows of the fault matrix, as CI runs them; all of it by hand: `python -m tests.faults run --json FILE`."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from infra.kafka.jars import why_not
from tests.faults.__main__ import MATRIX, choose
from tests.qdrant import binary

ROOT = Path(__file__).resolve().parents[2]


def test_a_choice_brings_the_undisturbed_runs_that_it_is_compared_with() -> None:
    assert [one.row for one in choose(["sigkill/images"], short=False)] == ["undisturbed/images", "sigkill/images"]
    assert choose(["no such fault"], short=False) == []
    assert len({one.row for one in MATRIX}) == len(MATRIX)


@pytest.mark.slow
@pytest.mark.real_kafka
@pytest.mark.timeout(600)
def test_the_short_matrix_holds(tmp_path: Path) -> None:
    if binary() is None or why_not():
        pytest.skip("needs the local Kafka and a real Qdrant server (VIGIL_TEST_QDRANT_BIN)")
    report = tmp_path / "faults.json"
    done = subprocess.run(
        [sys.executable, "-m", "tests.faults", "run", "--short", "--json", str(report)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=580,
    )
    assert done.returncode == 0, done.stdout + done.stderr[-4000:]
    rows = json.loads(report.read_text())["rows"]
    assert {f"{row['fault']}/{row['lane']}" for row in rows} == {one.row for one in choose([], short=True)}
    assert all(row["accepted"] and row["holds"] for row in rows)
