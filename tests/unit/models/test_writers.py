"""Several who change one registry file at once: every change counts, and one that was decided on what is no longer so does not."""

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from models import registering
from models.errors import Fatal, Permanent
from models.hub_folders import add
from models.registering import challenge, promote, record, rollback
from models.registry import Registry, Stage
from tests import tiny_models as tiny

pytest.importorskip("onnx", reason="tiny graphs are written by onnx (extra: train)")
KIND = ("ner", "onnx-token-classifier")
HEADS = {"preprocessing": {"heads": [{"name": "only", "tags": list(tiny.TAGS)}]}}


@pytest.fixture
def site(tmp_path: Path) -> Path:
    entry = tiny.entry_of(tiny.classifier_folder(tmp_path / "tiny"))
    for name in ("tiny", "second", "third"):
        record(entry.model_copy(update={"name": name}), tmp_path / "site.toml")
    return tmp_path / "site.toml"


def test_what_two_write_at_once_both_stands(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slow: Callable[..., str] = registering.rewritten

    def rewritten(*parts: Any) -> str:
        time.sleep(0.02)  # both have read by now, where nobody waits
        return slow(*parts)

    monkeypatch.setattr(registering, "rewritten", rewritten)
    entry, failed = Registry.load(site).entry("ner", "tiny"), []

    def one(name: str) -> None:
        try:
            record(entry.model_copy(update={"name": name}), site)
        except Exception as error:
            failed.append(error)

    threads = [threading.Thread(target=one, args=(f"model-{number}",)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
    assert {f"model-{number}" for number in range(6)} <= {one.name for one in Registry.load(site).entries("ner")}
    assert [path.name for path in site.parent.iterdir() if path.suffix == ".tmp"] == []


def test_a_change_that_was_decided_on_what_is_no_longer_so_is_refused(site: Path) -> None:
    seen = Registry.load(site).stage("ner")
    assert promote("ner", "second", site, seen=seen) == "tiny"
    trial = Stage(champion="-", challenger="third")
    for change in (
        lambda: promote("ner", "third", site, seen=seen),
        lambda: rollback("ner", site, seen=seen),
        lambda: challenge("ner", trial, site, seen=seen),
    ):
        before = site.read_bytes()
        with pytest.raises(Permanent, match=r"changed meanwhile.*it has second now"):
            change()
        assert site.read_bytes() == before
    assert rollback("ner", site, seen=Registry.load(site).stage("ner")) == "tiny"


def test_a_trial_is_not_replaced_by_another_unasked(site: Path) -> None:
    challenge("ner", Stage(champion="-", challenger="second"), site)
    with pytest.raises(Permanent, match="second is on trial for ner already") as caught:
        challenge("ner", Stage(champion="-", challenger="third"), site)
    assert "--stop" in (caught.value.hint or "")
    challenge("ner", Stage(champion="-", challenger="second", mode="split"), site)  # the same one, otherwise
    assert Registry.load(site).stage("ner").mode == "split"


def test_an_add_that_fails_undoes_nothing_that_came_meanwhile(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    promote("ner", "second", site)
    broken = tiny.classifier_folder(site.parent / "broken")
    (broken / "model.onnx").write_bytes(b"no graph")
    opening = Registry.open

    def meanwhile(self: Registry, *args: Any, **options: Any) -> Any:
        rollback("ner", site)
        return opening(self, *args, **options)

    monkeypatch.setattr(Registry, "open", meanwhile)
    with pytest.raises(Fatal, match="no model that ONNX Runtime"):
        add(broken, site, kind=KIND, more=HEADS, opened=True)
    assert Registry.load(site).champion("ner") == "tiny"
    assert "broken" not in site.read_text()


def test_what_is_added_is_opened_and_its_labels_are_the_models(site: Path) -> None:
    folder = tiny.classifier_folder(site.parent / "another")
    assert add(folder, site, kind=KIND, more=HEADS, opened=True).labels == ("symptom", "medication")
    site.write_text(site.read_text() + "\n[thresholds.another]\nsymptm = 0.99\n")
    with pytest.raises(Fatal, match="no label 'symptm'"):
        Registry.load(site)


def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path, site: Path) -> None:
    entry = Registry.load(site).entry("ner", "tiny")
    with pytest.raises(Fatal, match="cannot be changed"):
        record(entry, tmp_path / "nowhere" / "site.toml")
