"""`vigil models` run as a process on tiny data: what it prints, writes, and how it ends."""

import gzip
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from models.registering import record
from tests import tiny_models as tiny
from tests.hub_server import Hub

ROOT = Path(__file__).parents[3]
REPORTS = [
    {
        "id": str(number),
        "text": "no fever but mild cough",
        "entities": [
            {"label": "Sign_symptom", "spans": [[3, 8]], "attrs": {"POLARITY": "NEG"}},
            {"label": "Sign_symptom", "spans": [[18, 23]], "attrs": {}},
        ],
    }
    for number in range(4)
]


def vigil(*arguments: object, cwd: Path, seconds: float = 110) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    for name in [name for name in environment if name.startswith("VIGIL_")]:
        del environment[name]
    command = [sys.executable, "-m", "streams.cli", *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=seconds)


@pytest.fixture
def site(tmp_path: Path) -> Path:
    path = tmp_path / "site.toml"
    record(tiny.entry_of(tiny.classifier_folder(tmp_path / "tiny")), path)
    return path


def reports(folder: Path) -> Path:
    folder.mkdir()
    (folder / "held.jsonl").write_text("".join(json.dumps(one) + "\n" for one in REPORTS))
    return folder


def test_evaluate_prints_a_table_and_writes_figures_plots_and_json(tmp_path: Path, site: Path) -> None:
    data, out = reports(tmp_path / "data"), tmp_path / "out.json"
    for task, figure in (("ner", "held.jsonl, served: micro recall"), ("assertion", "held.jsonl: negation_f1")):
        ran = vigil("models", "evaluate", task, "--data", data, "--json", out, "--registry", site, "--rounds", 20, cwd=tmp_path)
        assert ran.returncode == 0, ran.stderr
        found = {metric["name"]: metric for metric in json.loads(out.read_text())["metrics"]}
        assert set(found[figure]) == {"name", "value", "low", "high", "n", "baselines"}
        assert found[figure]["value"] == 1.0
        assert "1.000" in ran.stdout
        assert (tmp_path / "out-plots" / "figures.md").read_text().startswith("## Measured by")


def test_evaluate_says_what_it_looked_for(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for task, layout in (
        ("ner", "*.tsv"),
        ("assertion", "*.jsonl"),
        ("deterioration", "hourly.csv.gz"),
        ("images", "labels.csv"),
        ("retrieval", "*.jsonl.gz"),
    ):
        ran = vigil("models", "evaluate", task, "--data", tmp_path / "empty", cwd=tmp_path)
        assert ran.returncode == 2
        assert layout in ran.stderr
        assert "Traceback" not in ran.stderr


def test_evaluate_says_which_file_was_cut_short(tmp_path: Path) -> None:
    """Not `Aborted.`, which is what the end of a truncated gzip looks like to a command line."""
    data = tmp_path / "data"
    data.mkdir()
    rows = "".join(json.dumps({"transcription": f"fever {n}", "description": f"{n}"}) + "\n" for n in range(500))
    hours = "patient,hour,HR,SepsisLabel\n" + "".join(f"{n},1,{n % 90},0\n" for n in range(3000))
    for name, text in (("q.jsonl.gz", rows), ("hourly.csv.gz", hours)):
        (data / name).write_bytes(gzip.compress(text.encode())[:-30])
    for task, name in (("retrieval", "q.jsonl.gz"), ("deterioration", "hourly.csv.gz")):
        ran = vigil("models", "evaluate", task, "--data", data, cwd=tmp_path)
        assert ran.returncode == 2
        assert f"{name}: it is damaged or cut short" in ran.stderr.replace("\n", " ")
        assert "Traceback" not in ran.stderr + ran.stdout


def test_evaluate_says_whose_thresholds_hold(tmp_path: Path, site: Path) -> None:
    data = reports(tmp_path / "data")
    for command, words in (
        (["--registry", site], "tiny as the site's registry has it, without thresholds: every span counts"),
        (["--registry", site, "--model", "clinical-ner"], "shipped heads and thresholds"),
    ):
        ran = vigil("models", "evaluate", "ner", "--data", data, *command, "--rounds", 20, cwd=tmp_path)
        assert words in " ".join(ran.stdout.split()), ran.stderr
    site.write_text(site.read_text() + "\n[thresholds.clinical-ner]\nsymptom = 0.5\n")
    ran = vigil("models", "evaluate", "ner", "--data", data, "--registry", site, "--model", "clinical-ner", cwd=tmp_path)
    assert "this site's own thresholds for symptom, else the shipped ones" in " ".join(ran.stdout.split()), ran.stderr


def test_figures_of_a_model_that_serves_are_recorded_only_when_somebody_says_so(tmp_path: Path, site: Path) -> None:
    data, before = reports(tmp_path / "data"), site.read_bytes()
    command = ("models", "evaluate", "ner", "--data", data, "--registry", site, "--rounds", 20, "--record")
    asked = vigil(*command, cwd=tmp_path)  # nobody answers
    assert asked.returncode == 1 and "tiny serves ner by site.toml" in " ".join((asked.stdout + asked.stderr).split())
    assert (site.read_bytes(), (tmp_path / "evaluation-ner").exists()) == (before, False)
    ran = vigil(*command, "--yes", cwd=tmp_path)
    assert ran.returncode == 0, ran.stderr
    assert "no audit record was written: no broker is configured" in " ".join(ran.stderr.split())
    assert b"quality" in site.read_bytes()
    rules = vigil("models", "evaluate", "assertion", "--data", data, "--registry", site, "--record", cwd=tmp_path)
    assert "rules stand in no registry" in rules.stderr


def test_verify_names_the_file_that_was_changed(tmp_path: Path, site: Path) -> None:
    assert vigil("models", "verify", "tiny", "--registry", site, cwd=tmp_path).returncode == 0
    graph = tmp_path / "tiny" / "model.onnx"
    graph.write_bytes(graph.read_bytes() + b"\0")
    ran = vigil("models", "verify", "--registry", site, cwd=tmp_path)
    assert ran.returncode == 1
    assert str(graph) in ran.stdout
    assert "all-MiniLM-L6-v2" in ran.stdout  # the others are verified all the same


def test_list_and_show_give_what_the_registry_knows(tmp_path: Path, site: Path) -> None:
    ran = vigil("models", "list", "--registry", site, "--json", cwd=tmp_path)
    models = {entry["name"]: entry for entry in map(json.loads, ran.stdout.splitlines())}
    assert models["tiny"]["serves"] is True
    assert models["clinical-ner"]["serves"] is False
    shown = vigil("models", "show", "deterioration", "--registry", site, cwd=tmp_path).stdout
    assert "cinc2019: AUROC" in shown  # the entry's figure
    assert "What it is not" in shown  # the card
    assert vigil("models", "show", "nobody", cwd=tmp_path).returncode == 2


def test_promote_and_roll_back_change_who_serves(tmp_path: Path, site: Path) -> None:
    site_ = ("--registry", site, "--no-audit", "--reason", "measured")
    assert vigil("models", "promote", "ner", "clinical-ner", *site_, cwd=tmp_path).returncode == 0
    assert '"clinical-ner"' in site.read_text()
    assert vigil("models", "rollback", "ner", *site_, cwd=tmp_path).returncode == 0
    assert "ner: tiny serves" not in vigil("models", "promote", "ner", "tiny", *site_, cwd=tmp_path).stdout  # it does already
    (tmp_path / "tiny" / "model.onnx").write_bytes(b"broken")
    vigil("models", "promote", "ner", "clinical-ner", *site_, cwd=tmp_path)
    refused = vigil("models", "rollback", "ner", *site_, cwd=tmp_path)
    assert refused.returncode == 2
    assert "digest" in refused.stderr


@pytest.mark.timeout(400)
def test_what_does_not_open_is_not_promoted_or_tried_and_a_trials_end_is_told(tmp_path: Path, site: Path) -> None:
    broken = tiny.classifier_folder(tmp_path / "broken")
    (broken / "model.onnx").write_bytes(b"no graph")
    record(tiny.entry_of(broken, name="broken"), site)
    before, site_ = site.read_bytes(), ("--registry", site, "--no-audit", "--reason", "measured")
    for command in (("promote", "ner", "broken"), ("challenge", "broken", "--shadow")):
        refused = vigil("models", *command, *site_, cwd=tmp_path)
        assert refused.returncode == 2 and "broken does not open" in refused.stderr and "--unopened" in refused.stderr
        assert site.read_bytes() == before
    assert vigil("models", "challenge", "broken", "--shadow", "--unopened", *site_, cwd=tmp_path).returncode == 0
    ran = vigil("models", "promote", "ner", "clinical-ner", *site_, cwd=tmp_path)
    assert "ner: clinical-ner serves, before tiny (the trial of broken ends)" in ran.stdout
    assert "nothing earlier is written down" in vigil("models", "rollback", "ner", *site_, cwd=tmp_path).stdout
    again = vigil("models", "rollback", "ner", *site_, cwd=tmp_path)
    assert again.returncode == 2 and "no earlier model" in again.stderr


def test_of_a_wrong_task_or_name_it_is_not_said_that_lanes_could_open_it(tmp_path: Path, site: Path) -> None:
    for name, says in (("all-MiniLM-L6-v2", "is of the task 'embedding', not 'ner'"), ("nobody", "unknown model 'nobody'")):
        refused = vigil("models", "promote", "ner", name, "--registry", site, "--no-audit", "--reason", "x", cwd=tmp_path)
        assert refused.returncode == 2 and says in " ".join(refused.stderr.split())
        assert "--unopened" not in refused.stderr


def test_add_does_not_replace_who_serves(tmp_path: Path, site: Path) -> None:
    before, kind = site.read_bytes(), ("--task", "ner", "--runtime", "onnx-token-classifier", "--unopened", "--registry", site)
    ran = vigil("models", "add", tmp_path / "tiny", "--version", 9, *kind, cwd=tmp_path)
    assert ran.returncode == 2 and "tiny serves ner" in ran.stderr and "a name of its own" in ran.stderr
    assert site.read_bytes() == before


@pytest.mark.torch
@pytest.mark.timeout(600)
def test_a_hub_folder_is_dropped_in_verified_and_promoted(tmp_path: Path) -> None:
    pytest.importorskip("sentence_transformers", reason="extra: train")
    from tests import tiny_hub as hub

    bert, site = hub.classifier_folder(tmp_path / "site-bert"), tmp_path / "site.toml"
    added = vigil("models", "add", bert, "--registry", site, cwd=tmp_path, seconds=280)
    assert added.returncode == 0, added.stderr
    assert "ner, transformers-token-classifier" in added.stdout
    assert "from any score on" in added.stdout and "[thresholds.site-bert] with medication = 0.5" in added.stdout
    assert vigil("models", "verify", "site-bert", "--registry", site, cwd=tmp_path).returncode == 0
    listed = {one["name"]: one for one in map(json.loads, _list(site, tmp_path))}
    assert (listed["site-bert"]["serves"], listed["clinical-ner"]["serves"]) == (False, True)  # until it is promoted
    promoted = vigil(
        "models", "promote", "ner", "site-bert", "--registry", site, "--no-audit", "--reason", "ours", cwd=tmp_path
    )
    assert promoted.returncode == 0, promoted.stderr
    assert "[thresholds.site-bert] with medication = 0.5" in promoted.stdout
    assert {one["name"] for one in map(json.loads, _list(site, tmp_path)) if one["serves"] and one["task"] == "ner"} == {
        "site-bert"
    }


def test_a_folder_that_is_no_model_is_refused_and_the_registry_left_alone(tmp_path: Path, site: Path) -> None:
    before, odd = site.read_bytes(), tmp_path / "odd"
    odd.mkdir()
    (odd / "config.json").write_text(json.dumps({"architectures": ["GPT2LMHeadModel"]}))
    unknown = vigil("models", "add", odd, "--registry", site, cwd=tmp_path)
    assert unknown.returncode == 2 and "GPT2LMHeadModel" in unknown.stderr
    broken = tiny.classifier_folder(tmp_path / "broken")
    (broken / "model.onnx").write_bytes(b"no graph")
    kind = ("--task", "ner", "--runtime", "onnx-token-classifier")
    refused = vigil("models", "add", broken, *kind, "--registry", site, cwd=tmp_path)
    assert refused.returncode == 2 and "no label map" in refused.stderr
    assert site.read_bytes() == before
    recorded = vigil("models", "add", broken, *kind, "--unopened", "--registry", site, cwd=tmp_path)
    assert recorded.returncode == 0 and "not opened" in recorded.stdout


def _list(site: Path, cwd: Path) -> list[str]:
    return vigil("models", "list", "--registry", site, "--json", cwd=cwd).stdout.splitlines()


@pytest.mark.timeout(400)  # a process for each command
def test_a_challenger_is_put_on_trial_shown_and_taken_out(tmp_path: Path, site: Path) -> None:
    record(tiny.entry_of(tiny.classifier_folder(tmp_path / "other"), name="other"), site)
    site_ = ("--registry", site, "--no-audit", "--reason", "measured")

    def trial() -> dict[str, object]:
        return {one["name"]: one["challenges"] for one in map(json.loads, _list(site, tmp_path)) if one["challenges"]}

    assert trial() == {}
    ran = vigil("models", "challenge", "other", "--shadow", *site_, cwd=tmp_path)
    assert ran.returncode == 0, ran.stderr
    assert "other challenges tiny, shadow for 100% of the patients" in ran.stdout
    assert trial() == {"other": {"mode": "shadow", "percent": 100.0}}
    assert vigil("models", "challenge", "other", "--split", "10%", *site_, cwd=tmp_path).returncode == 0
    assert trial() == {"other": {"mode": "split", "percent": 10.0}}
    assert "split 10%" in vigil("models", "list", "--registry", site, cwd=tmp_path).stdout
    record(tiny.entry_of(tmp_path / "other", name="third"), site)
    for wrong in (
        ("tiny", "--shadow"),  # it serves
        ("third", "--shadow"),  # another is on trial
        ("nobody", "--shadow"),
        ("other", "--split", "most"),
        ("other", "--shadow", "--split", "10%"),
        ("deterioration-lstm", "--shadow"),
    ):
        refused = vigil("models", "challenge", *wrong, *site_, cwd=tmp_path)
        assert refused.returncode == 2 and "Traceback" not in refused.stderr, wrong
    assert trial() == {"other": {"mode": "split", "percent": 10.0}}
    assert vigil("models", "challenge", "ner", "--stop", *site_, cwd=tmp_path).returncode == 0
    assert trial() == {}
    (tmp_path / "other" / "model.onnx").write_bytes(b"broken")
    assert "digest" in vigil("models", "challenge", "other", "--shadow", *site_, cwd=tmp_path).stderr


def test_a_model_is_pulled_from_a_folder_and_another_than_was_meant_is_not(tmp_path: Path, site: Path) -> None:
    mirror, here = tmp_path, tmp_path / "here" / "site.toml"
    here.parent.mkdir()
    site.rename(mirror / "registry.toml")
    index = mirror / "registry.toml"
    index.write_text(index.read_text().replace(str(tmp_path / "tiny"), "tiny"))
    refused = vigil("models", "pull", mirror, "tiny", "--digest", "0" * 64, "--registry", here, cwd=tmp_path)
    assert refused.returncode == 2 and "not 000" in refused.stderr
    pulled = vigil("models", "pull", mirror, "tiny", "--registry", here, cwd=tmp_path)
    assert pulled.returncode == 0, pulled.stderr
    assert "the mirror's own word" in pulled.stdout
    assert vigil("models", "verify", "tiny", "--registry", here, cwd=tmp_path).returncode == 0


def test_a_model_is_added_from_a_hub_and_fetched_anew_on_another_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny.classifier_folder(tmp_path / "hub" / "ward" / "tiny")
    entry, here, there = tmp_path / "entry.toml", tmp_path / "here" / "site.toml", tmp_path / "there" / "site.toml"
    tags = json.dumps(list(tiny.TAGS))
    entry.write_text(f'[preprocessing]\nheads = [{{ name = "clinical", tags = {tags} }}]\n')
    here.parent.mkdir()
    kind = ("--task", "ner", "--runtime", "onnx-token-classifier", "--entry", entry)
    with Hub(tmp_path / "hub").running() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.address)
        nobody = vigil("models", "add", "hf://ward/nobody", *kind, "--registry", here, cwd=tmp_path)
        assert nobody.returncode == 2 and "has no folder" in nobody.stderr and "HF_ENDPOINT" in nobody.stderr
        added = vigil("models", "add", "hf://ward/tiny", *kind, "--registry", here, cwd=tmp_path)
        assert added.returncode == 0, added.stderr
        assert "opened and recorded" in added.stdout
        assert f'location = "hf://ward/tiny@{hub.commit}"' in here.read_text()
        there.parent.mkdir()
        there.write_bytes(here.read_bytes())
        absent = vigil("models", "verify", "tiny", "--registry", there, cwd=tmp_path)
        assert absent.returncode == 1 and "not on this machine yet" in absent.stdout
        assert "(not on this machine)" in vigil("models", "show", "tiny", "--registry", there, cwd=tmp_path).stdout
        other = vigil("models", "pull", "tiny", "--digest", "0" * 64, "--registry", there, cwd=tmp_path)
        assert other.returncode == 2 and "nothing was fetched" in other.stderr
        pulled = vigil("models", "pull", "tiny", "--registry", there, cwd=tmp_path)
        assert pulled.returncode == 0 and "here and whole" in pulled.stdout, pulled.stderr
        assert vigil("models", "verify", "tiny", "--registry", there, cwd=tmp_path).returncode == 0
        strange = vigil("models", "pull", "clinical-ner", "--registry", there, cwd=tmp_path)
        assert strange.returncode == 2 and "with an address: tiny" in strange.stderr
