"""A few rows of the fault matrix, as CI runs them; all of it by hand: `python -m tests.faults run --json FILE`."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from infra.kafka.jars import why_not
from tests.faults import report
from tests.faults.__main__ import MATRIX, choose
from tests.faults.arena import Row
from tests.qdrant import binary

ROOT = Path(__file__).resolve().parents[2]


def test_a_choice_brings_the_undisturbed_runs_that_it_is_compared_with() -> None:
    assert [one.row for one in choose(["sigkill/images"], short=False)] == ["undisturbed/images", "sigkill/images"]
    assert choose(["no such fault"], short=False) == []
    assert len({one.row for one in MATRIX}) == len(MATRIX)


def test_the_parts_together_are_all_rows() -> None:
    parts = [{one.row for one in choose([], False, part, 3)} for part in (1, 2, 3)]
    assert set().union(*parts) == {one.row for one in MATRIX}
    again = parts[0] & parts[1]
    assert all(row.startswith("undisturbed/") for row in again)


def test_a_merged_report_hides_no_bad_row(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good, bad = Row("a", "vitals", "words", accepted=3), Row("a", "vitals", "words", accepted=3, lost=1)
    report.write(tmp_path / "1.json", [good, Row("b", "vitals", "words", accepted=1)], 1)
    report.write(tmp_path / "2.json", [bad], 1)
    files = [tmp_path / "1.json", tmp_path / "2.json"]
    assert report.merge(files, tmp_path / "all.json", ["a/vitals", "b/vitals"]) == 1
    assert [row["lost"] for row in json.loads((tmp_path / "all.json").read_text())["rows"]] == [1, 0]
    assert report.merge(files[:1], tmp_path / "all.json", ["a/vitals", "b/vitals", "c/vitals"]) == 1
    assert "not run: c/vitals" in capsys.readouterr().out
    assert report.merge(files[:1], tmp_path / "all.json", ["a/vitals", "b/vitals"]) == 0


@pytest.mark.slow
@pytest.mark.real_kafka
@pytest.mark.timeout(600)
def test_the_short_matrix_holds(tmp_path: Path) -> None:
    if binary() is None or why_not():
        pytest.skip("needs the local Kafka and a real Qdrant server (VIGIL_TEST_QDRANT_BIN)")
    file = tmp_path / "faults.json"
    done = subprocess.run(
        [sys.executable, "-m", "tests.faults", "run", "--short", "--json", str(file)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=580,
    )
    assert done.returncode == 0, done.stdout + done.stderr[-4000:]
    rows = json.loads(file.read_text())["rows"]
    assert {f"{row['fault']}/{row['lane']}" for row in rows} == {one.row for one in choose([], short=True)}
    assert all(row["accepted"] and row["holds"] for row in rows)
