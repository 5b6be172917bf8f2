"""The object store: named by content, whole or absent, checked on reading, closed to paths that are not its own."""

import asyncio
import base64
import os
import signal
import subprocess
import sys
import threading
import time
from hashlib import sha256
from pathlib import Path

import fsspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import SecretStr, ValidationError

from connectors.objects import ObjectSettings, ObjectStore
from models.errors import Fatal, Permanent, Poison, Transient
from processors.events import ObjectReference

KEY = SecretStr(base64.b64encode(bytes(range(32))).decode())
OTHER_KEY = SecretStr(base64.b64encode(bytes(range(1, 33))).decode())
PNG = b"\x89PNG pretend" * 100


@pytest.fixture(params=["folder", "memory", "s3"])
def url(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Every kind of store; S3 where VIGIL_TEST_S3_ENDPOINT names one (`moto_server -p 5000`, MinIO)."""
    if request.param == "folder":
        return str(tmp_path / "objects")
    if request.param == "memory":
        return f"memory://objects-{time.monotonic_ns()}"
    endpoint = os.environ.get("VIGIL_TEST_S3_ENDPOINT")
    if not endpoint:
        pytest.skip("needs an S3 store: VIGIL_TEST_S3_ENDPOINT names none")
    names = {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_REGION": "us-east-1",
    }
    for name, value in names.items():
        monkeypatch.setenv(name, os.environ.get(name, value))
    bucket = f"vigil-{time.monotonic_ns()}"
    fsspec.filesystem("s3").mkdir(bucket)
    return f"s3://{bucket}/objects"


def objects_in(url: str) -> dict[str, bytes]:
    """Every object by its path, drafts and marker left out."""
    files, root = fsspec.core.url_to_fs(url)
    files.invalidate_cache()
    found = {path.removeprefix(root).lstrip("/"): files.cat_file(path) for path in files.find(root)}
    return {path: data for path, data in found.items() if not path.startswith(".")}


async def test_what_is_put_is_got(url: str) -> None:
    store = ObjectStore(ObjectSettings(url=url))
    reference = await store.put(PNG, "image/png", ".png")
    digest = sha256(PNG).hexdigest()
    assert reference == ObjectReference(
        uri=f"{digest[:2]}/{digest[2:4]}/{digest}.png", sha256=digest, media_type="image/png", bytes=len(PNG)
    )
    assert await store.get(reference) == PNG
    assert await ObjectStore(ObjectSettings(url=url)).get(reference) == PNG
    assert objects_in(url) == {reference.uri: PNG}


async def test_the_same_content_is_stored_once(url: str, tmp_path: Path) -> None:
    store = ObjectStore(ObjectSettings(url=url))
    first = await store.put(PNG, "image/png", ".png")
    before = (tmp_path / "objects" / first.uri).stat() if "://" not in url else None
    assert await asyncio.gather(*(store.put(PNG, "image/png", ".png") for _ in range(8))) == [first] * 8
    assert objects_in(url) == {first.uri: PNG}
    if before is not None:
        assert (tmp_path / "objects" / first.uri).stat().st_mtime_ns == before.st_mtime_ns


async def test_a_damaged_object_is_stored_again(tmp_path: Path) -> None:
    store = ObjectStore(ObjectSettings(url=str(tmp_path)))
    reference = await store.put(PNG, "image/png", ".png")
    (tmp_path / reference.uri).write_bytes(PNG[:10])
    with pytest.raises(Poison):
        await store.get(reference)
    assert await store.put(PNG, "image/png", ".png") == reference
    assert await store.get(reference) == PNG


async def test_an_altered_object_is_poison(url: str) -> None:
    store = ObjectStore(ObjectSettings(url=url))
    reference = await store.put(PNG, "image/png", ".png")
    files, root = fsspec.core.url_to_fs(url)
    files.pipe_file(f"{root}/{reference.uri}", PNG[:-1] + b"?")
    with pytest.raises(Poison, match="other content") as caught:
        await store.get(reference)
    assert caught.value.stage == "fetch"


async def test_a_missing_object_is_poison_and_a_missing_store_is_transient(url: str) -> None:
    store = ObjectStore(ObjectSettings(url=url))
    digest = sha256(b"never stored").hexdigest()
    never = ObjectReference(uri=f"{digest[:2]}/{digest[2:4]}/{digest}.png", sha256=digest, media_type="image/png", bytes=12)
    with pytest.raises(Transient):  # nothing was ever stored here: an unmounted disk looks the same
        await store.get(never)
    await store.put(PNG, "image/png", ".png")
    with pytest.raises(Poison) as caught:
        await store.get(never)
    assert caught.value.stage == "fetch"


@pytest.mark.parametrize(
    "uri",
    ["../../../etc/passwd", "/etc/passwd", "{d}", "ab/cd/{d}.png", "{p}/../{d}.png", "{p}/{d}.png/..", "{p}/{d}.p/g", "",
     "{p}/{d}.png\n", "{p}/{d}.PNG", "file:///etc/passwd", "{p}/{d}.enc.enc", "{p}/{D}.png", "{p}/{d}.png\0.enc"],
)  # fmt: skip
async def test_a_reference_cannot_leave_the_store(uri: str, tmp_path: Path) -> None:
    store = ObjectStore(ObjectSettings(url=str(tmp_path)))
    await store.put(PNG, "image/png", ".png")
    d = sha256(PNG).hexdigest()
    uri = uri.format(d=d, D=d.upper(), p=f"{d[:2]}/{d[2:4]}")
    with pytest.raises(Poison):
        await store.get(ObjectReference(uri=uri, sha256=d, media_type="image/png", bytes=len(PNG)))


async def test_a_link_in_the_store_is_not_followed(tmp_path: Path) -> None:
    store = ObjectStore(ObjectSettings(url=str(tmp_path / "objects")))
    reference = await store.put(PNG, "image/png", ".png")
    (tmp_path / "elsewhere").write_bytes(PNG)
    place = tmp_path / "objects" / reference.uri
    place.unlink()
    place.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(Transient):
        await store.get(reference)


@pytest.mark.parametrize("suffix", ["png", "/x", "../x", ".", ".a/b", ".enc", ".toolongsuffix", ".P"])
async def test_a_suffix_is_plain(suffix: str, tmp_path: Path) -> None:
    with pytest.raises(Permanent):
        await ObjectStore(ObjectSettings(url=str(tmp_path))).put(PNG, "image/png", suffix)


async def test_size_limit_on_storing_and_on_reading(url: str) -> None:
    small = ObjectStore(ObjectSettings(url=url, largest_bytes=100))
    await small.put(b"x" * 100, "application/octet-stream")
    with pytest.raises(Poison, match="over the limit") as caught:
        await small.put(b"x" * 101, "application/octet-stream")
    assert caught.value.stage == "store"
    reference = await ObjectStore(ObjectSettings(url=url)).put(b"x" * 1000, "application/octet-stream")
    with pytest.raises(Poison, match="over the limit") as caught:
        await small.get(reference)
    assert caught.value.stage == "fetch"


# ------------------------------------------------------------------------------------------------------------ encryption


async def test_encrypted_objects_show_nothing_and_come_back(url: str) -> None:
    store = ObjectStore(ObjectSettings(url=url, encryption_key=KEY))
    reference = await store.put(PNG, "image/png", ".png")
    assert reference.sha256 == sha256(PNG).hexdigest()
    assert reference.bytes == len(PNG)
    ((path, raw),) = objects_in(url).items()
    assert path == reference.uri
    assert path.endswith(".png.enc")
    assert b"PNG" not in raw
    assert await store.get(reference) == PNG
    assert await store.put(PNG, "image/png", ".png") == reference
    assert objects_in(url)[path] == raw  # a repeat stores nothing


async def test_plain_objects_are_read_after_a_key_was_set_and_both_after_it_changed(url: str) -> None:
    plain = await ObjectStore(ObjectSettings(url=url)).put(PNG, "image/png", ".png")
    sealed = await ObjectStore(ObjectSettings(url=url, encryption_key=KEY)).put(PNG, "image/png", ".png")
    changed = ObjectStore(ObjectSettings(url=url, encryption_key=OTHER_KEY, previous_keys=(KEY,)))
    assert await changed.get(plain) == await changed.get(sealed) == PNG
    with pytest.raises(Fatal, match="not configured"):
        await ObjectStore(ObjectSettings(url=url, encryption_key=OTHER_KEY)).get(sealed)
    with pytest.raises(Fatal, match="no key"):
        await ObjectStore(ObjectSettings(url=url)).get(sealed)


async def test_an_encrypted_object_cannot_be_altered_or_pass_for_another(tmp_path: Path) -> None:
    store = ObjectStore(ObjectSettings(url=str(tmp_path), encryption_key=KEY))
    one, two = await store.put(b"one", "text/plain", ".txt"), await store.put(b"two", "text/plain", ".txt")
    raw = (tmp_path / one.uri).read_bytes()
    for damaged in (raw[:-1] + bytes([raw[-1] ^ 1]), raw[:20], b"", b"plain", (tmp_path / two.uri).read_bytes()):
        (tmp_path / one.uri).write_bytes(damaged)
        with pytest.raises(Poison) as caught:
            await store.get(one)
        assert caught.value.stage == "fetch"


@settings(max_examples=30, deadline=None)
@given(data=st.binary(max_size=2000))
def test_any_bytes_come_back(data: bytes, tmp_path_factory: pytest.TempPathFactory) -> None:
    url = str(tmp_path_factory.getbasetemp() / "any")
    for key in (None, KEY):
        store = ObjectStore(ObjectSettings(url=url, encryption_key=key))
        assert store.get_now(store.put_now(data, "application/octet-stream")) == data


@pytest.mark.parametrize("key", ["", "short", base64.b64encode(b"31 bytes long, which is too few").decode(), "é" * 44])
def test_a_key_that_is_none_is_refused_without_being_shown(key: str) -> None:
    with pytest.raises(ValidationError) as caught:
        ObjectSettings(encryption_key=SecretStr(key))
    assert len(key) < 5 or key not in str(caught.value)


# ---------------------------------------------------------------------------------------------------------------- trouble


async def test_a_folder_that_cannot_be_written_is_transient_and_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    store = ObjectStore(ObjectSettings(url=str(tmp_path / "file" / "objects")))
    with pytest.raises(Transient):
        await store.put(PNG, "image/png", ".png")
    with pytest.raises(Transient):
        await store.put(PNG, "image/png", ".png")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
async def test_a_full_disk_is_transient_and_leaves_no_draft(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = ObjectStore(ObjectSettings(url=str(tmp_path)))
    await store.put(b"first", "text/plain")
    real_open = os.open

    def onto_a_full_disk(path: str | Path, flags: int, mode: int = 0o777) -> int:
        descriptor = real_open(path, flags, mode)
        if ".incoming" in str(path):
            full = real_open("/dev/full", os.O_WRONLY)
            os.dup2(full, descriptor)
            os.close(full)
        return descriptor

    monkeypatch.setattr(os, "open", onto_a_full_disk)
    with pytest.raises(Transient, match="No space left"):
        await store.put(PNG, "image/png", ".png")
    assert set(objects_in(str(tmp_path))) == {store._path_of(store.put_now(b"first", "text/plain"))[0]}
    assert not list((tmp_path / ".incoming").iterdir())  # a start sweeps what the dead left


def test_files_are_for_their_owner_only(tmp_path: Path) -> None:
    root = tmp_path / "objects"
    reference = ObjectStore(ObjectSettings(url=str(root))).put_now(PNG, "image/png", ".png")
    assert (root / reference.uri).stat().st_mode & 0o777 == 0o600
    assert root.stat().st_mode & 0o777 == 0o700


def test_free_bytes(tmp_path: Path) -> None:
    free = ObjectStore(ObjectSettings(url=str(tmp_path / "not" / "yet"))).free_bytes()
    assert free is not None
    assert free > 0
    assert ObjectStore(ObjectSettings(url="memory://x")).free_bytes() is None
    with pytest.raises(Transient, match="objects cannot be kept at /proc/x: /proc takes none"):
        ObjectStore(ObjectSettings(url="/proc/x")).free_bytes()


def test_an_unknown_kind_of_store_is_refused() -> None:
    with pytest.raises(Permanent, match="cannot be used"):
        ObjectStore(ObjectSettings(url="nosuch://place"))


async def test_an_s3_store_that_does_not_answer_is_transient(tmp_path: Path) -> None:
    pytest.importorskip("s3fs", reason="needs the s3 extra")
    absent = ObjectSettings(
        url="s3://bucket/x", s3_endpoint="http://127.0.0.1:9", s3_key="k", s3_secret=SecretStr("s"), s3_region="r", timeout=1
    )
    store = ObjectStore(absent)
    with pytest.raises(Transient, match="s3://bucket/x"):
        await store.put(PNG, "image/png", ".png")
    reference = ObjectStore(ObjectSettings(url=str(tmp_path))).put_now(PNG, "image/png", ".png")
    with pytest.raises(Transient):
        await store.get(reference)


WRITER = """
import os, sys
from connectors.objects import ObjectSettings, ObjectStore
store = ObjectStore(ObjectSettings(url=sys.argv[1]))
for number in range(1_000_000):
    reference = store.put_now(number.to_bytes(4, "big") * 500_000, "application/octet-stream", ".bin")
    print(reference.uri, flush=True)
"""


def test_a_kill_during_put_leaves_whole_objects_only(tmp_path: Path) -> None:
    """Six writers, each killed at another instant while it stores objects of 2 MB."""
    confirmed: set[str] = set()
    for attempt in range(6):
        writer = subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE, text=True)
        assert writer.stdout is not None
        confirmed.add(writer.stdout.readline().strip())
        killer = threading.Timer(0.007 * attempt, lambda victim=writer: os.kill(victim.pid, signal.SIGKILL))
        killer.start()
        confirmed.update(line.strip() for line in writer.stdout if line.endswith("\n"))
        writer.wait()
        writer.stdout.close()
        killer.join()
    stored = objects_in(str(tmp_path))
    assert all(sha256(data).hexdigest() == Path(path).stem and len(data) == 2_000_000 for path, data in stored.items())
    assert confirmed <= set(stored)
    assert len(confirmed) >= 2
    drafts = list((tmp_path / ".incoming").iterdir())
    for draft in drafts:
        os.utime(draft, (0, 0))
    ObjectStore(ObjectSettings(url=str(tmp_path))).put_now(b"after", "text/plain")
    assert not list((tmp_path / ".incoming").iterdir())  # a start sweeps what the dead left
