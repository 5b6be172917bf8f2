"""Models whose location is an address: a hub on this machine (its own client, real sockets), fetched by leave, whole, once."""

import os
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from models.errors import Fatal, Permanent, Transient
from models.hub_folders import add
from models.mirror import copied, fetched, pinned
from models.registering import record
from models.registry import ModelEntry, Registry, copy_of
from tests import tiny_models as tiny
from tests.hub_server import SECRET, Hub

pytest.importorskip("onnx", reason="tiny graphs are written by onnx (extra: train)")


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    tiny.classifier_folder(tmp_path / "hub" / "ward" / "tiny")
    with Hub(tmp_path / "hub").running() as running:
        monkeypatch.setenv("HF_ENDPOINT", running.address)
        yield running


@pytest.fixture
def entry(hub: Hub) -> ModelEntry:
    return tiny.entry_of(hub.root / "ward" / "tiny", location=f"hf://ward/tiny@{hub.commit}")


@pytest.fixture
def site(tmp_path: Path, entry: ModelEntry) -> Path:
    (tmp_path / "site").mkdir()
    record(entry, tmp_path / "site" / "registry.toml")
    return tmp_path / "site" / "registry.toml"


def here(site: Path) -> list[str]:
    return sorted(path.name for path in site.parent.iterdir() if not path.name.startswith("."))


def test_nothing_is_fetched_without_leave(hub: Hub, entry: ModelEntry, site: Path) -> None:
    with pytest.raises(Fatal, match=r"hf://ward/tiny@.* is not on this machine yet") as refused:
        Registry.load(site).open("ner")
    assert "vigil models pull tiny" in (refused.value.hint or "") and "models.fetch" in (refused.value.hint or "")
    assert (hub.asked, here(site)) == ([], ["registry.toml"])
    assert Registry.load(site).entry("ner") == entry  # it can be looked at


def test_with_leave_it_is_fetched_once_and_opened(hub: Hub, entry: ModelEntry, site: Path) -> None:
    model = Registry.load(site, fetch=fetched).open("ner")
    assert model.identity == entry.identity
    (spans,) = model.find(["mild fever"])
    assert [span.label for span in spans] == ["symptom"]
    assert sorted(hub.asked) == sorted(entry.files)
    assert here(site) == ["registry.toml", copy_of(entry, site.parent).name]
    Registry.load(site, fetch=fetched).open("ner")
    Registry.load(site).open("ner")
    assert len(hub.asked) == len(entry.files)


def test_workers_that_start_at_once_fetch_it_once(hub: Hub, entry: ModelEntry, site: Path) -> None:
    failed: list[BaseException] = []

    def start() -> None:
        try:
            Registry.load(site, fetch=fetched).weights("ner")
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=start) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    assert sorted(hub.asked) == sorted(entry.files)


def test_another_file_than_the_registry_names_is_refused_and_nothing_put_in_place(
    hub: Hub, entry: ModelEntry, site: Path
) -> None:
    graph = hub.root / "ward" / "tiny" / "model.onnx"
    whole = graph.read_bytes()
    graph.write_bytes(whole[:-1] + b"\0")
    with pytest.raises(Fatal, match=r"model\.onnx .*expected"):
        Registry.load(site, fetch=fetched).open("ner")
    assert here(site) == ["registry.toml"]
    graph.unlink()
    with pytest.raises(Permanent, match=r"has no model\.onnx"):
        Registry.load(site, fetch=fetched).open("ner")
    graph.write_bytes(whole)
    Registry.load(site, fetch=fetched).open("ner")


def test_a_hub_that_wants_to_know_who_asks_is_told(hub: Hub, site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.private = True
    with pytest.raises(Permanent, match="does not let us read") as refused:
        Registry.load(site, fetch=fetched).open("ner")
    assert "HF_TOKEN" in (refused.value.hint or "")
    monkeypatch.setenv("HF_TOKEN", SECRET)
    Registry.load(site, fetch=fetched).open("ner")


def test_files_without_digests_and_other_addresses_are_not_fetched(hub: Hub, entry: ModelEntry, site: Path) -> None:
    unsealed = entry.model_copy(update={"files": dict.fromkeys(entry.files, "")})
    with pytest.raises(Fatal, match="without digests"):
        fetched(unsealed, site.parent / "there")
    text = site.read_text()
    site.write_text(text.replace("hf://ward/tiny", "gs://ward/tiny"))
    with pytest.raises(Fatal, match="neither a folder nor hf:// nor s3://"):
        Registry.load(site)
    assert hub.asked == []


def test_a_place_that_cannot_be_written_is_told(hub: Hub, entry: ModelEntry, tmp_path: Path) -> None:
    if os.geteuid() == 0:
        (tmp_path / "file").write_text("")  # root writes everywhere but below a file
        folder = tmp_path / "file" / "copy"
    else:
        (tmp_path / "shut").mkdir(mode=0o500)
        folder = tmp_path / "shut" / "copy"
    with pytest.raises(Fatal, match="cannot be put beside the registry file"):
        fetched(entry, folder)


def test_an_address_is_pinned_to_what_it_means_now(hub: Hub) -> None:
    assert pinned("hf://ward/tiny") == pinned("hf://ward/tiny@main") == f"hf://ward/tiny@{hub.commit}"
    assert pinned("s3://bucket/models/tiny/") == "s3://bucket/models/tiny"
    for wrong, says in (
        ("hf://tiny", "hf://OWNER/NAME"),
        ("hf://ward/tiny/deep", "hf://OWNER/NAME"),
        ("gs://bucket/tiny", "not hf://"),
        ("s3://", "not hf://"),
        ("hf://ward/nobody", "has no"),
    ):
        with pytest.raises(Permanent, match=says):
            pinned(wrong)


def test_a_hub_that_is_away_is_to_be_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(Transient, match="cannot be read"):
        pinned("hf://ward/tiny")


def test_what_other_programs_read_is_left_there(hub: Hub, tmp_path: Path) -> None:
    folder = hub.root / "ward" / "tiny"
    for name in ("README.md", ".gitattributes", "tf_model.h5", "flax_model.msgpack", "pytorch_model.bin", "onnx/model.onnx"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"large")
    copied(pinned("hf://ward/tiny"), tmp_path / "copy", lambda file, size: None)
    assert sorted(hub.asked) == ["model.onnx", "pytorch_model.bin", "tokenizer.json"]
    (folder / "model.safetensors").write_bytes(b"the same")
    hub.asked.clear()
    copied(pinned("hf://ward/tiny"), tmp_path / "copy", lambda file, size: None)
    assert sorted(hub.asked) == ["model.onnx", "model.safetensors", "tokenizer.json"]
    assert not (tmp_path / "copy" / "pytorch_model.bin").exists()  # of the copy before


def test_what_is_added_by_its_address_says_where_it_came_from(hub: Hub, tmp_path: Path) -> None:
    kind, more = ("ner", "onnx-token-classifier"), {"preprocessing": {"heads": [{"name": "clinical", "tags": tiny.TAGS}]}}
    registry = tmp_path / "other" / "registry.toml"
    registry.parent.mkdir()
    address = pinned("hf://ward/tiny")
    copied(address, registry.parent / ".arriving", lambda file, size: None)
    made = add(registry.parent / ".arriving", registry, name="ours", kind=kind, more=more, address=address)
    assert made.location == address
    assert here(registry) == [copy_of(made, registry.parent).name, "registry.toml"]
    assert Registry.load(registry).open("ner", name="ours").identity == made.identity
    shutil.rmtree(copy_of(made, registry.parent))  # the same file on another machine
    assert Registry.load(registry, fetch=fetched).open("ner", name="ours").identity == made.identity
