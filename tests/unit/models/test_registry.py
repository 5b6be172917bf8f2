"""The registry: what it refuses, and in which words; what a site lays over it; what sealing writes."""

import hashlib
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.errors import Fatal, Permanent
from models.registering import amend, challenge, main, own_name, promote, propose, record, rollback, seal
from models.registry import LOADERS, PACKAGED, ModelEntry, Registry, Stage, document_of
from models.tasks import TextEmbedder, TokenClassifier
from tests import tiny_models as tiny

pytest.importorskip("onnx", reason="tiny graphs are written by onnx (extra: train)")


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A site's registry file with a tiny token classifier in a folder beside it."""
    tiny.classifier_folder(tmp_path / "tiny")
    return tiny.toml_of(tiny.entry_of(tmp_path / "tiny", location="tiny"), tmp_path / "site.toml")


def test_a_sites_model_opens_by_name_and_serves_by_its_line(site: Path) -> None:
    registry = Registry.load(site)
    assert registry.champion("ner") == "tiny"
    model = registry.open("ner")
    assert isinstance(model, TokenClassifier)
    assert model.identity == registry.entry("ner", "tiny").identity
    assert [(s.label, s.start, s.end) for s in model.find(["Fever, aspirin."])[0]] == [("symptom", 0, 5), ("medication", 7, 14)]


def test_the_packaged_models_stay_reachable_under_a_sites_file(site: Path) -> None:
    registry = Registry.load(site)
    assert isinstance(registry.open("embedding"), TextEmbedder)


def test_a_site_has_its_own_thresholds_for_a_model_that_ships(tmp_path: Path) -> None:
    (tmp_path / "site.toml").write_text("[thresholds.clinical-ner]\ncondition = 0.25\nsymptom = 1\n")
    shipped, own = Registry.load().entry("ner"), Registry.load(tmp_path / "site.toml").entry("ner")
    assert own.thresholds == shipped.thresholds | {"condition": 0.25, "symptom": 1.0}
    assert own.thresholds_chosen == f"condition, symptom: this site's own. Else: {shipped.thresholds_chosen}"
    assert own.identity == shipped.identity
    text = ["No fever. The patient has pneumonia and took aspirin."]
    said = {span.label for span in Registry.load(tmp_path / "site.toml").open("ner").find(text)[0]}
    assert "symptom" not in said
    assert {"condition", "medication"} <= said


def test_a_site_says_which_pictures_a_model_that_ships_is_for(tmp_path: Path) -> None:
    (tmp_path / "site.toml").write_text('[meant_for.chest-xray]\nbody_parts = ["KLP"]\n')
    shipped, own = Registry.load().entry("image-text"), Registry.load(tmp_path / "site.toml").entry("image-text")
    assert shipped.meant_for is not None and own.meant_for is not None
    assert own.meant_for == shipped.meant_for.model_copy(update={"body_parts": ("KLP",)})
    assert own.identity == shipped.identity


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[meant_for.clinical-ner]\nviews = []", "meant_for.clinical-ner.*no image model has this name"),
        ("[meant_for.chest-xray]\nview = ['PA']", "meant_for.chest-xray.view.*Extra inputs"),
        ("[thresholds.clinical-ner]\nfever = 0.5", "no label 'fever'"),
        ("[thresholds.other]\ncondition = 0.5", "thresholds.other.*no model has this name"),
        ("[thresholds.clinical-ner]\ncondition = 1.5", "thresholds.clinical-ner.condition.*less than or equal to 1"),
        ("[thresholds]\nclinical-ner = 0.5", "thresholds.clinical-ner.*dictionary"),
    ],
)
def test_thresholds_of_nothing_are_fatal_and_say_of_what(tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "site.toml").write_text(text)
    with pytest.raises(Fatal, match=says):
        Registry.load(tmp_path / "site.toml")


def test_every_packaged_entry_is_sealed_and_has_a_loader() -> None:
    registry = Registry.load()
    assert registry.entries()
    for entry in registry.entries():
        assert registry.weights(entry.task, entry.name, beside=True).identity.digest == entry.digest
        there = {path.name for path in registry.folder(entry).iterdir() if path.suffix != ".md"}
        assert there == {*entry.files, *entry.beside}, "every file has a digest"
        assert entry.runtime in LOADERS


def test_the_digest_covers_every_file_and_no_order() -> None:
    a, b = "a" * 64, "b" * 64
    base = tiny_entry(files={"model.onnx": a, "tokenizer.json": b})
    assert base.digest == tiny_entry(files={"tokenizer.json": b, "model.onnx": a}).digest
    assert base.digest == hashlib.sha256(f"model.onnx {a}\ntokenizer.json {b}\n".encode()).hexdigest()
    assert base.digest != tiny_entry(files={"model.onnx": b, "tokenizer.json": a}).digest


def test_a_changed_byte_is_fatal_and_says_file_expected_and_found(site: Path) -> None:
    file = site.parent / "tiny" / "model.onnx"
    expected = hashlib.sha256(file.read_bytes()).hexdigest()
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    with pytest.raises(Fatal) as caught:
        Registry.load(site).open("ner")
    for part in (str(file), expected, hashlib.sha256(content).hexdigest()):
        assert part in str(caught.value)


def test_a_missing_file_is_fatal_with_a_hint(site: Path) -> None:
    (site.parent / "tiny" / "tokenizer.json").unlink()
    with pytest.raises(Fatal, match=r"tokenizer\.json") as caught:
        Registry.load(site).open("ner")
    assert caught.value.hint


def test_an_unsealed_file_is_refused(site: Path) -> None:
    text = site.read_text()
    for digest in Registry.load(site).entry("ner", "tiny").files.values():
        text = text.replace(digest, "")
    site.write_text(text)
    with pytest.raises(Fatal, match="unsealed"):
        Registry.load(site).open("ner")


@pytest.mark.parametrize(
    ("task", "name", "says"),
    [("ner", "nobody", "unknown model"), ("embedding", "tiny", "of the task 'ner'"), ("speech", None, "no model serves")],
)
def test_what_is_asked_wrongly_is_permanent(site: Path, task: str, name: str | None, says: str) -> None:
    with pytest.raises(Permanent, match=says):
        Registry.load(site).open(task, name=name)


def test_a_runtime_that_does_not_fill_the_task_is_fatal(tmp_path: Path) -> None:
    folder = tiny.classifier_folder(tmp_path / "tiny")
    path = tiny.toml_of(tiny.entry_of(folder, task="embedding", name="posing"), tmp_path / "site.toml")
    with pytest.raises(Fatal, match="does not fill in the task 'embedding'"):
        Registry.load(path).open("embedding", name="posing")


def test_expect_checks_a_task_of_the_sites_own(tmp_path: Path) -> None:
    folder = tiny.classifier_folder(tmp_path / "tiny")
    path = tiny.toml_of(tiny.entry_of(folder, task="drug-finder"), tmp_path / "site.toml")
    assert Registry.load(path).open("drug-finder", expect=TokenClassifier).find([""]) == [[]]
    with pytest.raises(Fatal, match="does not fill in"):
        Registry.load(path).open("drug-finder", expect=TextEmbedder)


def test_unknown_runtimes_and_extras_that_are_not_installed_are_permanent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tiny.classifier_folder(tmp_path / "tiny")
    with pytest.raises(Permanent, match="unknown runtime 'abacus'"):
        Registry([(tiny.entry_of(folder, runtime="abacus"), folder)], {}).open("ner", name="tiny")
    monkeypatch.setitem(LOADERS, "abacus", "models.runtimes.no_such_module:load")
    path = tiny.toml_of(tiny.entry_of(folder, runtime="abacus"), tmp_path / "site.toml")
    with pytest.raises(Permanent, match="cannot be imported") as caught:
        Registry.load(path).open("ner")
    assert "train" in (caught.value.hint or "")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[[model]\n", "not TOML"),
        ("bogus = 3\n", "is no registry: it has 'bogus'"),
        ('[[model]]\nname = "x"\n', "model 'x': task"),
        ("[tasks.ner]\n", "champion"),
        ('[tasks]\nner = "x"\n', "champion"),
        ("model = 3\n", "model"),
        ('model = ["x"]\n', "model '?'"),
        ("tasks = 3\n", "champion"),
    ],
)
def test_a_file_that_is_no_registry_is_fatal(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "site.toml"
    path.write_text(text)
    with pytest.raises(Fatal) as caught:
        Registry.load(path)
    assert says in f"{caught.value} {caught.value.hint}"
    assert str(path) in str(caught.value)


def test_a_registry_file_that_is_absent_is_fatal(tmp_path: Path) -> None:
    with pytest.raises(Fatal, match="missing"):
        Registry.load(tmp_path / "none.toml")


@pytest.mark.parametrize("name", ["../weights.onnx", "/etc/passwd", ""])
def test_a_file_name_cannot_leave_the_models_folder(name: str) -> None:
    with pytest.raises(ValueError, match="not a file name"):
        tiny_entry(files={name: "a" * 64})


def test_an_address_that_nothing_here_can_fetch_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "site.toml"
    with pytest.raises(Fatal, match="neither a folder nor hf://"):
        record(tiny_entry(files={"m": ""}, location="ftp://somebody/model"), path)
    assert not path.exists()
    path.write_text(
        '[[model]]\ntask = "ner"\nname = "x"\nversion = "1"\nruntime = "onnx-token-classifier"\n'
        'licence = "site"\nlocation = "gs://models/x"\n'
    )
    with pytest.raises(Fatal, match="neither a folder nor hf://"):
        Registry.load(path)


def test_weights_may_lie_in_an_installed_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "installed" / "ward_models"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError('to look is not to import')")
    monkeypatch.syspath_prepend(str(tmp_path / "installed"))
    path, files = tmp_path / "site.toml", {"weights.txt": hashlib.sha256(b"8").hexdigest()}
    (package / "toy").mkdir()
    (package / "toy" / "weights.txt").write_bytes(b"8")
    record(tiny_entry(location="package:ward_models/toy", files=files), path)
    assert Registry.load(path).weights("ner", "tiny").path("weights.txt") == package / "toy" / "weights.txt"
    record(tiny_entry(location="package:absent_models/toy", files=files), path)
    with pytest.raises(Fatal, match=r"package absent_models \(not installed\)"):
        Registry.load(path).weights("ner", "tiny")


def test_loaders_open_only_files_that_were_hashed(site: Path) -> None:
    (site.parent / "tiny" / "extra.bin").write_bytes(b"x")
    with pytest.raises(Fatal, match=r"lists no file 'extra\.bin'"):
        Registry.load(site).weights("ner", "tiny").path("extra.bin")


def test_sealing_takes_up_a_meant_change_and_keeps_the_rest(site: Path) -> None:
    site.write_text("# a head\n# of two lines\n" + site.read_text())
    before = Registry.load(site).entry("ner", "tiny")
    (site.parent / "tiny" / "tokenizer.json").write_text((site.parent / "tiny" / "tokenizer.json").read_text() + "\n")
    assert [entry.name for entry in seal(site)] == ["tiny"]
    assert seal(site) == []
    after = Registry.load(site).entry("ner", "tiny")
    assert after.digest != before.digest
    assert after == before.model_copy(update={"files": after.files})
    assert site.read_text().startswith("# a head\n# of two lines\n")
    assert Registry.load(site).open("ner").identity.digest == after.digest


def test_what_lies_beside_the_weights_is_sealed_and_no_part_of_the_digest(site: Path) -> None:
    before, folder = Registry.load(site).entry("ner", "tiny"), site.parent / "tiny"
    for name in ("drift.json", "logistic-hourly.json", "notes.txt"):
        (folder / name).write_text("{}")
    seal(site)
    after = Registry.load(site).entry("ner", "tiny")
    assert (after.digest, sorted(after.beside)) == (before.digest, ["drift.json", "logistic-hourly.json"])
    assert main(["verify", "tiny", "--registry", str(site)]) == 0
    (folder / "drift.json").write_text("{ }")
    assert main(["verify", "tiny", "--registry", str(site)]) == 1
    assert Registry.load(site).open("ner").identity == before.identity  # it serves all the same


def test_every_change_keeps_what_it_does_not_mean(site: Path) -> None:
    site.write_text(f"# ours\n{site.read_text()}\n# Ann: find more\n[thresholds.clinical-ner]\ncondition = 0.5  # measured\n")
    folder = site.parent / "tiny"
    (folder / "tokenizer.json").write_text((folder / "tokenizer.json").read_text() + "\n")
    seal(site)
    tiny_ = Registry.load(site).entry("ner", "tiny")
    record(tiny_.model_copy(update={"name": "second"}), site)
    promote("ner", "second", site)
    challenge("ner", Stage(champion="second", challenger="tiny"), site)
    challenge("ner", None, site)
    propose(tiny_.model_copy(update={"name": "third"}), site)
    amend(tiny_, site, quality={"f1": 0.5})
    assert site.read_text().startswith("# ours\n")
    assert "\n# Ann: find more\n[thresholds.clinical-ner]\ncondition = 0.5  # measured\n" in site.read_text()
    registry = Registry.load(site)
    assert registry.entry("ner", "clinical-ner").thresholds["condition"] == 0.5
    assert registry.entry("ner", "tiny").quality == {"f1": 0.5}


def test_figures_are_written_without_the_sites_thresholds(site: Path) -> None:
    site.write_text(site.read_text() + "\n[thresholds.tiny]\nsymptom = 0.5\n")
    amend(Registry.load(site).entry("ner", "tiny"), site, quality={"f1": 0.5})
    assert "thresholds" not in document_of(site)["model"][0]


def test_the_command_seals_and_verifies_with_an_exit_code(site: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", "tiny", "--registry", str(site)]) == 0
    (site.parent / "tiny" / "model.onnx").write_bytes(b"other")
    assert main(["verify", "--registry", str(site)]) == 1
    assert "differs" in capsys.readouterr().err
    assert main(["seal", "--registry", str(site)]) == 0
    assert main(["verify", "tiny", "--registry", str(site)]) == 0
    assert main(["verify", "typo", "--registry", str(site)]) == 1


def test_recording_replaces_an_entry_of_the_same_name_and_adds_others(site: Path) -> None:
    old = Registry.load(site).entry("ner", "tiny")
    record(old.model_copy(update={"version": "2", "quality": {"f1": 0.5}}), site)
    record(old.model_copy(update={"name": "second"}), site)
    registry = Registry.load(site)
    assert registry.entry("ner", "tiny").version == "2"
    assert registry.entry("ner", "tiny").quality == {"f1": 0.5}
    assert registry.champion("ner") == "tiny"
    assert registry.entry("ner", "second").version == "1"


MODEL = (
    '[[model]]\ntask = "ner"\nname = "own"\nversion = "1"\nruntime = "onnx-token-classifier"\nlocation = "own"\nlicence = "x"\n'
)


@pytest.mark.parametrize(
    ("text", "says", "meant"),
    [
        ('[tasks.ner]\nchampion = "clinical-nre"\n', "[tasks.ner] champion: no model of this task is called", "'clinical-ner'"),
        ('[tasks.ner]\nchampion = "all-MiniLM-L6-v2"\n', "champion: 'all-MiniLM-L6-v2' is of the task 'embedding'", "clinical-ner"),
        ('[tasks.ner]\nchampion = "clinical-ner"\nchallenger = "ghost"\n', "[tasks.ner] challenger: no model", "known: clinical"),
        ('[tasks.ner]\nchampion = "clinical-ner"\nchalenger = "x"\n', "[tasks.ner] chalenger: there is no", "'challenger'"),
        ('[tasks.ner]\nchampion = "clinical-ner"\nmod = "split"\n', "[tasks.ner] mod: there is no such key", "'mode'"),
        ('[tasks.nre]\nchampion = "clinical-ner"\n', "[tasks.nre]: no model is of this task", "did you mean 'ner'"),
        (MODEL.replace("onnx-token", "onxn-token"), "model 'own': runtime: unknown 'onxn-tok", "'onnx-token-classifier'"),
        (MODEL.replace('"ner"', '"nre"'), "model 'own': task: unknown 'nre'", "did you mean 'ner'"),
        (MODEL.replace("licence", "license"), "model 'own': licence: Field required", ""),
        (MODEL + 'threshold = {}\n', "model 'own': threshold: there is no such key", "'thresholds'"),
        (MODEL + MODEL, "model 'own' of the task ner stands there twice", ""),
        (MODEL + "thresholds = { a = 85.0 }\n", "model 'own': thresholds.a: ", ""),
        (MODEL + "thresholds = { a = -3 }\n", "model 'own': thresholds.a: ", ""),
        (MODEL + "thresholds = { a = nan }\n", "model 'own': thresholds.a: ", ""),
        (MODEL + 'labels = ["a"]\nthresholds = { b = 0.5 }\n', "model 'own': thresholds: no label 'b'; its labels: a", ""),
        ("[thresholds.clinical-nre]\ncondition = 0.5\n", "no model has this name", "'clinical-ner'"),
        ("[thresholds.clinical-ner]\ncondition = nan\n", "[thresholds.clinical-ner.condition]", ""),
    ],
)  # fmt: skip
def test_a_file_that_names_what_is_not_there_is_refused_with_the_place_and_what_was_meant(
    tmp_path: Path, text: str, says: str, meant: str
) -> None:
    path = tmp_path / "site.toml"
    path.write_text(text)
    with pytest.raises(Fatal) as caught:
        Registry.load(path)
    assert str(path) in str(caught.value) and says in str(caught.value)
    assert meant in (caught.value.hint or "")


def test_what_is_wrong_with_a_trial_is_not_said_to_be_the_champion(tmp_path: Path) -> None:
    (tmp_path / "site.toml").write_text('[tasks.ner]\nchampion = "clinical-ner"\npercent = 130\n')
    with pytest.raises(Fatal, match=r"percent: Input should be less than or equal to 100") as caught:
        Registry.load(tmp_path / "site.toml")
    assert caught.value.hint is None


def test_files_of_earlier_versions_load(tmp_path: Path) -> None:
    path = tmp_path / "site.toml"
    path.write_text(f'{MODEL}\n[tasks.ner]\nchampion = "own"\nprevious = "clinical-ner"\nchallenger = "clinical-ner"\n')
    assert Registry.load(path).stage("ner").previous == ("clinical-ner",)
    assert rollback("ner", path) == "clinical-ner"


def test_no_change_makes_a_file_that_does_not_load(site: Path) -> None:
    before, tiny_ = site.read_bytes(), Registry.load(site).entry("ner", "tiny")
    for entry in (tiny_.model_copy(update={"name": "x", "task": "nre"}), tiny_.model_copy(update={"thresholds": {"a": 9.0}})):
        with pytest.raises(Fatal):
            record(entry, site, serve=False)
    assert site.read_bytes() == before


def test_what_serves_is_on_trial_or_served_before_is_replaced_by_no_entry_of_its_name(site: Path) -> None:
    tiny_ = Registry.load(site).entry("ner", "tiny")
    for name in ("second", "third", "free"):
        record(tiny_.model_copy(update={"name": name}), site)
    promote("ner", "second", site)
    challenge("ner", Stage(champion="second", challenger="third"), site)
    for name, role in (("tiny", "rollback of ner"), ("second", "serves ner"), ("third", "is on trial")):
        with pytest.raises(Permanent, match=role) as caught:
            own_name(tiny_.model_copy(update={"name": name, "version": "9"}), site)
        assert "name of its own" in (caught.value.hint or "")
        own_name(tiny_.model_copy(update={"name": name}), site)  # as it stands there
    own_name(tiny_.model_copy(update={"name": "free", "version": "9"}), site)
    with pytest.raises(Permanent, match="serves image-text"):
        own_name(Registry.load().entry("image-text"), site)  # the one that ships, laid over by the site's


_plain = st.one_of(st.text(max_size=20), st.booleans(), st.integers(-(2**40), 2**40), st.floats(allow_nan=False, width=32))
_nested = st.recursive(
    _plain, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3), max_leaves=8
)


@given(preprocessing=st.dictionaries(st.text(max_size=8), _nested, max_size=4), licence=st.text(max_size=30))
def test_whatever_an_entry_holds_comes_back_from_the_file(
    tmp_path_factory: pytest.TempPathFactory, preprocessing: dict[str, Any], licence: str
) -> None:
    path = tmp_path_factory.mktemp("registry") / "site.toml"
    entry = tiny_entry(files={"m": "a" * 64}, preprocessing=preprocessing, licence=licence)
    record(entry, path)
    assert ModelEntry.model_validate(document_of(path)["model"][0]) == entry


def test_loading_the_registry_imports_no_torch() -> None:
    code = "import sys; from models.registry import Registry; Registry.load(); print('torch' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=PACKAGED.parents[1])
    assert found.stdout.strip() == "False"


def tiny_entry(**changes: Any) -> ModelEntry:
    values: dict[str, Any] = {
        "task": "ner",
        "name": "tiny",
        "version": "1",
        "runtime": "onnx-token-classifier",
        "location": "tiny",
        "files": {},
        "licence": "Apache-2.0",
    }
    return ModelEntry.model_validate(values | changes)
