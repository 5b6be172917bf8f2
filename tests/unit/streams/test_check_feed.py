"""`vigil check-feed` as its user has it: no broker, an exit code, a report."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import ClassVar

import pytest
import typer
from typer.testing import CliRunner

from connectors.checking import Row, Sample
from models.errors import Permanent
from streams.cli.check_feed import _rows, check_feed
from streams.team import in_share
from tests.dicom_objects import encode, make
from tests.fhir_resources import observation
from tests.hl7_messages import PULSE, message, vitals

app = typer.Typer()
app.command()(check_feed)


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("VIGIL_CONFIG", raising=False)
    return tmp_path


def run(*arguments: str) -> tuple[int, str]:
    done = CliRunner().invoke(app, [*arguments])
    if done.exception and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done.exit_code, done.stdout


def test_a_good_feed_of_each_kind(tmp_path: Path) -> None:
    (tmp_path / "a.hl7").write_bytes(vitals(PULSE))
    (tmp_path / "a.json").write_text(json.dumps(observation()))
    (tmp_path / "a.dcm").write_bytes(encode(make()))
    for feed, name, code in (("hl7", "a.hl7", "AA"), ("fhir", "a.json", "201"), ("dicom", "a.dcm", "0000")):
        rc, out = run(feed, name, "--json", "out.json")
        report = json.loads((tmp_path / "out.json").read_bytes())
        assert rc == 0, out
        assert "1 accepted" in out and f"1 x {code}" in out and "nothing would be refused" in out
        assert report["totals"]["messages"] == len(report["rows"]) == 1
        assert [report["rows"][0][key] for key in ("file", "index", "outcome", "code")] == [name, 0, "accepted", code]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.dcm", "a.hl7", "a.json", "out.json"]  # nothing is stored


KEYS = {"file", "index", "outcome", "code", "reason", "events", "seconds"}
OWN_KEYS = {
    "hl7": {"message_type", "version", "control_id"},
    "fhir": {"resource_type", "issues"},
    "dicom": {"sop_class", "transfer_syntax", "shape", "dtype", "min", "max", "judged", "model", "not_judged"},
}


@pytest.mark.parametrize(("feed", "code"), [("hl7", "AR"), ("fhir", "400"), ("dicom", "C001")])
def test_every_row_has_every_key_whatever_is_in_the_file(tmp_path: Path, feed: str, code: str) -> None:
    folder = tmp_path / "feed"
    folder.mkdir()
    for name, content in (
        ("a", b""),
        ("b", b""),
        ("c.ndjson", b"\n"),
        ("d", b"\x0b\x1c\r"),
        ("e", b"FHS|^~\\&\r"),
        ("f", b"words"),
    ):
        (folder / name).write_bytes(content)
    (folder / "z.gz").write_bytes(b"no gzip")
    assert run(feed, "feed", "--json", "out.json")[0] == 0
    *rows, unread = json.loads((tmp_path / "out.json").read_bytes())["rows"]
    assert len(rows) == 6
    for row in (*rows, unread):
        assert row.keys() >= KEYS | OWN_KEYS[feed]
    assert {row["outcome"] for row in rows} == {"refused"}
    assert [row["code"] for row in rows[:2]] == [code] * 2
    assert all(row["code"] for row in rows)
    assert (unread["code"], unread["reason"]) == ("", "the file cannot be read (BadGzipFile)")  # nobody was asked


def test_one_that_would_be_refused_is_shown_first_and_is_what_strict_minds(tmp_path: Path) -> None:
    feed = tmp_path / "feed"
    feed.mkdir()
    for n in range(5):
        (feed / f"{n}.hl7").write_bytes(vitals(PULSE, control_id=f"M{n}"))
    (feed / "9.hl7").write_bytes(message(kind="ORU^R01", version="9"))
    rc, out = run("hl7", str(feed), "--rows", "1")
    assert rc == 0 and run("hl7", str(feed), "--strict")[0] == 1
    assert "feed/9.hl7" in out and "feed/0.hl7" not in out
    assert "1 would be refused" in out


def test_the_settings_of_the_sender_apply(tmp_path: Path) -> None:
    (tmp_path / "vigil.toml").write_text(
        '[connectors.mllp.peers.a]\naddresses = ["10.0.0.1"]\nnot_for_us = "AR"\n'
        '[connectors.mllp.peers.b]\naddresses = ["10.0.0.2"]\n'
    )
    (tmp_path / "a.hl7").write_bytes(message(kind="SIU^S12"))
    assert run("hl7", "a.hl7", "--peer", "a", "--strict")[0] == 1
    assert run("hl7", "a.hl7", "--peer", "b", "--strict")[0] == 0
    for wrong in ((), ("--peer", "c")):
        with pytest.raises(Permanent):
            run("hl7", "a.hl7", *wrong)


def test_wrong_requests(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for wrong in (("hl7", "nothing"), ("hl7", "empty"), ("hl7", "empty", "--json", "no/such/folder.json")):
        with pytest.raises(Permanent):
            run(*wrong)
    (tmp_path / "bad.json.gz").write_bytes(b"\x1f\x8bno gzip")
    assert run("fhir", "bad.json.gz", "--strict")[0] == 1


async def test_a_message_that_breaks_the_check_has_a_row_without_its_text(tmp_path: Path) -> None:
    class Broken:
        nothing: ClassVar = {"control_id": ""}

        async def check(self, name: str, content: bytes) -> AsyncIterator[Row]:
            yield Row(name, 0, "accepted", "AA")
            raise ValueError(content.decode())

    (tmp_path / "a").write_bytes(b"DOE^JANE")
    tried = [row async for row in _rows(Broken(), Sample(tmp_path / "a", "a"))]
    assert [(row.index, row.refused, row.reason) for row in tried] == [
        (0, False, ""),
        (1, True, "the check itself failed (ValueError)"),
    ]
    assert tried[1].json()["control_id"] == ""


SITE = """
[meant_for.chest-xray]
modalities = ["DX"]
body_parts = ["TORSO"]
"""


def test_what_a_model_would_judge_is_told_by_the_words_of_the_site(tmp_path: Path) -> None:
    feed = tmp_path / "feed"
    feed.mkdir()
    for name, part in (("1.dcm", "TORSO"), ("2.dcm", "CHEST"), ("3.dcm", "TORSO")):
        (feed / name).write_bytes(encode(make(Modality="DX", BodyPartExamined=part)))
    (tmp_path / "models.toml").write_text(SITE)
    (tmp_path / "vigil.toml").write_text('[models]\nregistry = "models.toml"\n')
    rc, out = run("dicom", "feed", "--json", "out.json")
    assert rc == 0, out
    report = json.loads((tmp_path / "out.json").read_bytes())
    assert [row["judged"] for row in report["rows"]] == [True, False, True]
    assert {row["model"].partition(" ")[0] for row in report["rows"]} == {"chest-xray"}
    why = "another body part than the model is meant for: TORSO"
    assert [(one["judged"], one["not_judged"], one["count"]) for one in report["totals"]["pictures"]] == [
        (True, "", 2),
        (False, why, 1),
    ]
    assert "judged:  2 of 3 pictures, by chest-xray " in out
    (unjudged,) = (line for line in out.splitlines() if "2.dcm" in line)
    assert [cell.strip() for cell in unjudged.strip("│┃ ").split("│")][-2:] == ["no", why]
    assert "list the site's own words in [meant_for.chest-xray] of the registry file" in out


SPLIT = """
[tasks.image-text]
champion = "chest-xray"
challenger = "everything"
mode = "split"
percent = 50

[[model]]
task = "image-text"
name = "everything"
version = "2"
runtime = "onnx-image-text"
location = "not-here"
licence = "the site's own"
"""


def test_in_a_split_each_patient_is_told_by_the_model_that_answers_for_them(tmp_path: Path) -> None:
    feed = tmp_path / "feed"
    feed.mkdir()
    for n in range(12):
        (feed / f"{n:02}.dcm").write_bytes(encode(make(PatientID=f"P{n}")))
    (tmp_path / "models.toml").write_text(SPLIT)
    (tmp_path / "vigil.toml").write_text('[models]\nregistry = "models.toml"\n')
    assert run("dicom", "feed", "--json", "out.json")[0] == 0
    rows = json.loads((tmp_path / "out.json").read_bytes())["rows"]
    shared = [in_share(row["events"][0]["key"], 50) for row in rows]
    assert 0 < sum(shared) < 12
    assert [(row["judged"], row["model"] == "everything 2") for row in rows] == [(one, one) for one in shared]
