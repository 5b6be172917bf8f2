"""A model fetched from a mirror, a folder or a real HTTP server: whole and of the right digests, or not at all."""

import http.server
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from models.errors import Fatal, Permanent, Transient
from models.mirror import mirror, offered, pull
from models.registering import record
from models.registry import Registry
from tests import tiny_models as tiny

pytest.importorskip("onnx", reason="tiny graphs are written by onnx (extra: train)")


class Served(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *words: Any) -> None:
        pass


@pytest.fixture
def share(tmp_path: Path) -> Path:
    folder = tiny.classifier_folder(tmp_path / "share" / "tiny model")
    record(tiny.entry_of(folder, location="tiny model", quality={"f1": 0.9}), tmp_path / "share" / "registry.toml")
    return tmp_path / "share"


@pytest.fixture(params=["folder", "http", "store"])
def place(request: pytest.FixtureRequest, share: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    if request.param == "folder":
        yield str(share)
        return
    if request.param == "store":
        monkeypatch.setattr("models.mirror._ACCESS", {"file": ""})  # through fsspec, as s3 is
        yield f"file://{share}/"
        return
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Served, directory=str(share))) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}/"
        server.shutdown()
        thread.join()


@pytest.fixture
def site(tmp_path: Path) -> Path:
    (tmp_path / "site").mkdir()
    return tmp_path / "site" / "registry.toml"


def left(site: Path) -> list[str]:
    return sorted(path.name for path in site.parent.iterdir() if not path.name.startswith("."))


def test_a_model_comes_whole_is_recorded_and_serves_only_when_promoted(place: str, site: Path, tmp_path: Path) -> None:
    arrived: dict[str, int] = {}
    there = offered(mirror(place))[0]
    entry = pull(
        mirror(place), "tiny", site, digest=there.digest, progress=lambda f, n: arrived.update({f: arrived.get(f, 0) + n})
    )
    assert (entry.identity, entry.quality) == (there.identity, {"f1": 0.9})
    assert arrived == {name: (tmp_path / "share" / "tiny model" / name).stat().st_size for name in entry.files}
    assert left(site) == ["registry.toml", entry.location]
    assert Registry.load(site).champion("ner") == "clinical-ner"
    (spans,) = Registry.load(site).open("ner", name="tiny").find(["mild fever"])
    assert [span.label for span in spans] == ["symptom"]
    pull(mirror(place), "tiny", site)  # again: it is there
    assert left(site) == ["registry.toml", entry.location]


def test_a_file_that_is_not_what_it_is_said_to_be_is_refused_and_nothing_put_in_place(
    place: str, share: Path, site: Path
) -> None:
    graph = share / "tiny model" / "model.onnx"
    whole = graph.read_bytes()
    graph.write_bytes(whole[:-1] + b"\0")
    with pytest.raises(Fatal, match=r"model\.onnx of the mirror: expected"):
        pull(mirror(place), "tiny", site)
    assert left(site) == []
    graph.unlink()
    with pytest.raises(Permanent, match=r"model\.onnx"):
        pull(mirror(place), "tiny", site)
    graph.write_bytes(whole)
    pull(mirror(place), "tiny", site)


def test_what_is_there_and_damaged_is_fetched_anew(place: str, site: Path) -> None:
    folder = site.parent / pull(mirror(place), "tiny", site).location
    (folder / "model.onnx").write_bytes((folder / "model.onnx").read_bytes()[:-40])
    (folder / "tokenizer.json").unlink()
    arrived: set[str] = set()
    pull(mirror(place), "tiny", site, progress=lambda file, size: arrived.add(file))
    assert arrived == {"model.onnx", "tokenizer.json"}
    assert Registry.load(site).open("ner", name="tiny").find(["fever"])[0]
    arrived.clear()
    (folder / "model.onnx").write_bytes(b"damaged")
    pull(mirror(place), "tiny", site, progress=lambda file, size: arrived.add(file))
    assert arrived == {"model.onnx"}  # and nothing that is whole
    assert left(site) == ["registry.toml", folder.name]


def test_another_model_than_was_meant_is_refused_before_anything_is_fetched(place: str, site: Path) -> None:
    with pytest.raises(Permanent, match="not " + "0" * 64):
        pull(mirror(place), "tiny", site, digest="0" * 64)
    with pytest.raises(Permanent, match="no model 'nobody'"):
        pull(mirror(place), "nobody", site)
    assert left(site) == []


def test_a_mirror_cannot_name_files_outside_itself(share: Path, site: Path) -> None:
    index = share / "registry.toml"
    good = index.read_text()
    for wrong, says in (
        (good.replace('location = "tiny model"', 'location = "../elsewhere"'), "outside the mirror"),
        (good.replace('location = "tiny model"', 'location = "/etc"'), "outside the mirror"),
        (
            good.replace('"model.onnx"', '"../model.onnx"'),
            r"mirror's registry.toml: model 'tiny': files.*\.\./model\.onnx.*not a file name inside the model's folder",
        ),
        (good.replace('licence = "', 'license = "'), "model 'tiny': licence: Field required"),
        ("model = 3", r"\[\[model\]\] tables"),
        ("no TOML [", "is not TOML"),
        (good.replace('name = "tiny"', 'name = "../tiny"'), "folder's name"),
    ):
        index.write_text(wrong)
        with pytest.raises(Permanent, match=says):
            pull(mirror(str(share)), "../tiny" if "../tiny" in wrong else "tiny", site)
    assert left(site) == []


def test_a_mirror_that_does_not_answer_is_to_be_tried_again(site: Path) -> None:
    with pytest.raises(Transient, match="ConnectError"):
        pull(mirror("http://127.0.0.1:9"), "tiny", site)
    with pytest.raises(Permanent, match="not a folder"):
        mirror("ftp://there")


def test_a_model_in_use_is_replaced_by_no_pull_and_another_name_is_given(share: Path, site: Path) -> None:
    record(tiny.entry_of(share / "tiny model", version="0"), site)
    before = site.read_bytes()
    with pytest.raises(Permanent, match="tiny serves ner"):
        pull(mirror(str(share)), "tiny", site)
    assert site.read_bytes() == before and left(site) == [site.name]  # refused before anything was fetched
    entry = pull(mirror(str(share)), "tiny", site, called="tiny-1")
    assert (entry.name, entry.version) == ("tiny-1", "1")
    assert Registry.load(site).champion("ner") == "tiny"
    assert Registry.load(site).open("ner", name="tiny-1").identity == entry.identity


def test_no_other_place_is_a_mirror() -> None:
    with pytest.raises(Permanent, match="not a folder, http"):
        mirror("gs://bucket/models")
