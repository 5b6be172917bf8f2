"""A few rows of the fault matrix, as CI runs them; all of it by hand: `python -m tests.faults run --json FILE`."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from infra.kafka.jars import why_not
from tests import surroundings
from tests.faults import report
from tests.faults.__main__ import MATRIX, choose, main
from tests.faults.answers import Answers
from tests.faults.arena import Row
from tests.faults.inputs import Sender, Sent
from tests.faults.watch import Watch, Worker
from tests.kafka import VERSION
from tests.qdrant import binary

ROOT = Path(__file__).resolve().parents[2]


def test_a_choice_brings_the_undisturbed_runs_that_it_is_compared_with() -> None:
    assert [one.row for one in choose(["sigkill/images"], short=False)] == ["undisturbed/images", "sigkill/images"]
    assert [one.row for one in choose(["fhir-broker-kill/vitals"], short=False)] == ["fhir/vitals", "fhir-broker-kill/vitals"]
    assert {(one.like, one.lane) for one in MATRIX if one.same} <= {(one.name, one.lane) for one in MATRIX}
    assert choose(["no such fault"], short=False) == []
    assert len({one.row for one in MATRIX}) == len(MATRIX)


def test_the_parts_together_are_all_rows() -> None:
    parts = [{one.row for one in choose([], False, part, 3)} for part in (1, 2, 3)]
    assert set().union(*parts) == {one.row for one in MATRIX}
    again = parts[0] & parts[1]
    assert again <= {f"{one.like}/{one.lane}" for one in MATRIX}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--only", "sigkil", "--only", "sigkill"], "sigkil is not there"),
        (["--only", "sigkill/spam"], "sigkill/spam is not there"),
        (["--short", "--only", "sigkill", "--only", "late"], "late is not in the short form"),
        (["--part", "x"], "'x' is no K/N"),
        (["--part", "1/0"], "'1/0' is no K/N"),
        (["--part", "3/2"], "'3/2' is no K/N"),
        (["--part", "0/2"], "'0/2' is no K/N"),
        (["--only", "cut-off", "--part", "2/2"], "that part has none"),
    ],
)
def test_what_cannot_be_run_is_refused_in_words(arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["run", *arguments])
    assert ended.value.code == 2
    assert words in capsys.readouterr().err


def a_row(name: str, **more: Any) -> Row:
    return Row(name, "vitals", "words", **{"accepted": 3, **more})


def told(folder: Path, name: str, rows: list[Row], **more: Any) -> Path:
    """Write a run's report and return where."""
    file = folder / f"{name}.json"
    chosen = [f"{row.fault}/{row.lane}" for row in rows]
    given = {"seed": 1, "asked": "all rows", "chosen": chosen, "matrix": 3, "qdrant": "qdrant 1", **more}
    report.write(file, rows, report.Run(**given))
    return file


def test_a_report_says_of_what_code_and_where_it_was_taken_and_what_it_leaves_out(tmp_path: Path) -> None:
    left_out, chosen = {"c/vitals": "redis-server"}, ["a/vitals", "b/vitals", "c/vitals", "d/vitals"]
    file = told(tmp_path, "1", [a_row("a"), a_row("b", lost=1)], left_out=left_out, matrix=5, chosen=chosen)
    body = json.loads(file.read_text())
    assert body["commit"] == body["commit_at_end"] == surroundings.commit()
    assert (body["seed"], body["kafka"], body["qdrant"], body["left_out"]) == (1, VERSION, "qdrant 1", left_out)
    assert {"cpu", "cores", "memory_gb", "python"} <= body["machine"].keys()
    page = file.with_suffix(".md").read_text()
    for words in (
        body["commit"],
        body["machine"]["cpu"],
        f"Kafka {VERSION}",
        "qdrant 1",
        "1 of 2 rows run hold; 1 left out, for want of redis-server; 1 of the matrix's 5 not asked for; not run: d/vitals.",
        "- c/vitals: needs redis-server",
    ):
        assert words in page


def test_a_merged_report_hides_no_bad_row(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good, bad = a_row("a"), a_row("a", lost=1)
    files = [told(tmp_path, "1", [good, a_row("b")]), told(tmp_path, "2", [bad])]
    assert report.merge(files, tmp_path / "all.json", ["a/vitals", "b/vitals"]) == 1
    whole = json.loads((tmp_path / "all.json").read_text())
    assert [row["lost"] for row in whole["rows"]] == [1, 0]
    assert [one["lost"] for one in whole["rows"][0]["again"]] == [0]
    assert [part["asked"] for part in whole["parts"]] == ["all rows", "all rows"]
    assert "1 of 2 rows run hold; 1 were run more than once, and the worst run of each counts" in capsys.readouterr().out
    page = (tmp_path / "all.md").read_text()
    assert "- a/vitals: BROKEN (3 accepted, 1 lost, 0 doubled)" in page
    assert "- a/vitals: holds (3 accepted, 0 lost, 0 doubled)" in page
    assert report.merge(files[:1], tmp_path / "all.json", ["a/vitals", "b/vitals", "c/vitals"]) == 1
    assert "not run: c/vitals" in capsys.readouterr().out
    assert report.merge(files[:1], tmp_path / "all.json", ["a/vitals", "b/vitals"]) == 0


def test_a_row_that_one_part_left_out_counts_where_another_ran_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lacking = {"b/vitals": "libfaketime", "c/vitals": "redis-server"}
    files = [told(tmp_path, "1", [a_row("a")], left_out=lacking), told(tmp_path, "2", [a_row("b")])]
    assert report.merge(files, tmp_path / "all.json", ["a/vitals", "b/vitals", "c/vitals"]) == 1
    assert "2 of 2 rows run hold; 1 left out, for want of redis-server" in capsys.readouterr().out
    assert json.loads((tmp_path / "all.json").read_text())["left_out"] == {"c/vitals": "redis-server"}


def test_parts_of_different_code_or_seeds_make_no_report(tmp_path: Path) -> None:
    here, now = told(tmp_path, "1", [a_row("a")]), surroundings.commit()
    with pytest.raises(report.Unlike, match="are no parts of one run: seed 1 and 2"):
        report.merge([here, told(tmp_path, "2", [a_row("b")], seed=2)], tmp_path / "all.json", [])
    with pytest.raises(report.Unlike, match="the code was changed while it ran, from 0ddc0de to"):
        report.merge([here, told(tmp_path, "3", [a_row("b")], commit="0ddc0de")], tmp_path / "all.json", [])
    other = tmp_path / "4.json"
    other.write_text(here.read_text().replace(now, "0ddc0de"))
    with pytest.raises(report.Unlike, match=r"commit .* and 0ddc0de"):
        report.merge([here, other], tmp_path / "all.json", [])
    other.write_text(json.dumps({"date": "2026-11-29", "rows": []}))
    with pytest.raises(report.Unlike, match="does not say its commit"):
        report.merge([other], tmp_path / "all.json", [])


def test_an_operator_sees_that_a_worker_is_away_and_what_waits_meanwhile() -> None:
    watch = Watch("127.0.0.1:9", "group", (), list)
    worker, removed = (Worker("vitals", slot, {}, Path("/nowhere")) for slot in (0, 1))
    worker.wanted = True
    ready, loading = (200, '{"reason": ""}'), (503, '{"reason": "loading"}')
    for second, (status, body) in enumerate([ready, (0, ""), (0, ""), loading, ready, ready, (0, "")]):
        watch._hear(worker, status, body, float(second))
    watch._hear(removed, 0, "", 2.0)
    watch._note(0, 0)
    watch._note(10, 110)
    watch._note(110, 110)
    watch._over.set()
    for thread in watch._threads:
        thread.start()
    watch.__exit__()
    assert watch.not_ready["loading"] == 1.0
    assert watch.not_ready["unreachable"] > 2.0  # it still is when the row ends
    assert watch.most_behind == 100
    operator = {"log": {}, "metrics": {}, "exit_codes": []}
    operator |= {"not_ready_s": {"unreachable": 2.0, "loading": 1.0}, "longest_not_ready_s": 3.0, "lag_most": 100}
    seen = report.seen(a_row("a", operator=operator))
    assert seen == "not ready for 3 s on end (unreachable 2 s, loading 1 s); lag up to 100"


def test_a_worker_dies_at_the_moment_it_is_told_and_only_once_for_each(tmp_path: Path) -> None:
    file = tmp_path / "deaths"
    code = (
        "import sys; from pathlib import Path; from tests.faults.dying import Moments\n"
        "moments = Moments(Path(sys.argv[1]))\n"
        "for number in range(4): moments.pass_one(); print(number, flush=True)"
    )

    def run() -> tuple[int, str]:
        done = subprocess.run(
            [sys.executable, "-c", code, str(file)], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
        )
        return done.returncode, "".join(done.stdout.split())

    assert run() == (0, "0123")
    file.write_text("3\n1")
    assert [run(), run(), run()] == [(-signal.SIGKILL, "01"), (-signal.SIGKILL, ""), (0, "0123")]


def test_people_answer_each_step_that_asks_for_it_once_and_some_answers_come_twice() -> None:
    class Said(Sender):
        def __init__(self) -> None:
            self.said: list[Sent] = []

        def say(self, one: Sent) -> None:
            self.said.append(one)

    sender = Said()
    people = Answers("127.0.0.1:9", "", 1, sender)

    def step(patient: str, sequence: int, state: str, **more: Any) -> dict[str, Any]:
        told = {"id": f"{patient}-{sequence}", "patient_id": patient, "kind": "news2", "alert_id": f"of-{patient}"}
        return {**told, "sequence": sequence, "state": state, **more}

    for one in (
        step("patient-0003", 0, "raised"),
        step("patient-0003", 0, "raised"),  # a repeat
        step("patient-0003", 1, "acknowledged", by="nurse-7"),
        step("patient-0009", 0, "raised"),
        step("patient-0009", 1, "updated", by="nurse-7"),  # a note
        step("patient-0000", 0, "raised"),  # nobody answers
        {"id": "heartbeat", "lane": "vitals"},
    ):
        people._hear(one)
    said = [json.loads(one.value or b"") for one in sender.said]
    told = [(one["patient_id"], one["kind"], one["target_id"], one["sequence"]) for one in said]
    first = ("patient-0003", "alert-acknowledged", "of-patient-0003", 0)
    assert told == [first, first, ("patient-0009", "alert-declined", "of-patient-0009", 0)]
    assert said[0]["id"] == said[1]["id"] == sender.said[0].event_id
    people.stop()


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
