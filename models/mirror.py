"""Models fetched: from the site's own mirror (a folder, an HTTP server, an S3 bucket), or from where an entry's location says.

A mirror is what a site's registry file and its folders are, under one place: `registry.toml`, whose entries have relative
locations, and `LOCATION/FILE` for each file that an entry names. The mirror's digests show that nothing was damaged; that it is the
model that was meant shows `digest`, told another way.

An entry's location may also be an address, `hf://OWNER/NAME@REVISION` or `s3://BUCKET/FOLDER`: its files come from there into a
folder beside the registry file (`copy_of`), by `vigil models pull NAME`, or when a lane opens it where the site allows that
(`models.fetch`). The hub is the one that HF_ENDPOINT names, so that a site's own can stand in for it.

Every file is hashed as it arrives; a model is put in its place whole, or not at all. One that is there already is hashed too, and
what is missing or damaged of it fetched anew.
"""

import contextlib
import fcntl
import hashlib
import os
import re
import shutil
import tomllib
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, Final, Protocol
from urllib.parse import quote

import fsspec
import httpx

from models.errors import Fatal, Permanent, Transient
from models.registering import own_name, record
from models.registry import ModelEntry, copy_of, entry_of, sha256_of

INDEX: Final = "registry.toml"
_PIECE: Final = 1 << 20  # bytes
_LARGEST_INDEX: Final = 4 << 20  # bytes: thousands of entries
_ACCESS: Final = {  # of all that fsspec knows: what opens it, and what it needs
    "s3": "are its keys and endpoint in the environment (AWS_*)? what was whole is kept",
    "hf": "is HF_ENDPOINT the site's hub, and HF_TOKEN in the environment where it wants one? what was whole is kept",
}
# What a hub's folder has beside what the runtimes here read: other programs' forms of the same weights.
_OTHER_FORMS: Final = re.compile(r"\.(h5|msgpack|ot|tflite|mlmodel|gguf)$|^(onnx|openvino|coreml)/")
_REFUSED: Final = {httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN}
_PICKLED: Final = re.compile(r"pytorch_model.*\.(bin|bin\.index\.json)$")  # left out where the same lies there as safetensors
_TIMEOUTS: Final = httpx.Timeout(60.0, connect=10.0)


class Mirror(Protocol):
    """Where files come from."""

    def pieces(self, path: str) -> Iterator[bytes]:
        """Read a file below the mirror's place. Raises `Permanent` where there is none, `Transient` where it cannot be reached."""
        ...


class FolderMirror:
    """A folder: a share, a stick."""

    def __init__(self, place: Path) -> None:
        self._place = place

    def pieces(self, path: str) -> Iterator[bytes]:
        """Read a file."""
        try:
            with (self._place / path).open("rb") as stream:
                while piece := stream.read(_PIECE):
                    yield piece
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
            raise Permanent(f"the mirror {self._place} has no {path}") from error
        except OSError as error:
            raise Transient(f"{path} of the mirror {self._place} cannot be read ({type(error).__name__})") from error


class HttpMirror:
    """An HTTP server with the files under an address. Redirects are not followed: the address is the whole of what is trusted."""

    def __init__(self, address: str) -> None:
        self._address = address.rstrip("/")

    def pieces(self, path: str) -> Iterator[bytes]:
        """Read a file."""
        url = f"{self._address}/{quote(path)}"
        try:
            with httpx.stream("GET", url, timeout=_TIMEOUTS) as answer:
                if answer.status_code in (429, 500, 502, 503, 504):
                    raise Transient(f"{url} answers {answer.status_code}", hint="try again later")
                if answer.status_code != httpx.codes.OK:
                    raise Permanent(f"{url} answers {answer.status_code}", hint="is it the mirror's address?")
                yield from answer.iter_bytes(_PIECE)
        except httpx.HTTPError as error:
            raise Transient(
                f"{url} cannot be read ({type(error).__name__})", hint="try again; what was whole is kept"
            ) from error


class StoreMirror:
    """A folder of an object store or of a hub, through fsspec: keys and endpoint are those of the environment."""

    def __init__(self, address: str) -> None:
        self._address = address.rstrip("/")
        kind = address.partition("://")[0]
        self._hint = _ACCESS.get(kind, "what was whole is kept")
        self._hub = kind == "hf"
        try:
            self._files, root = fsspec.core.url_to_fs(self._address, **_endpoint(kind))
        except (ImportError, ValueError) as error:
            raise Permanent(f"{address} cannot be used: {error}", hint="pip install 'vigil-stream[s3]'") from error
        self._root = root.rstrip("/")

    def pieces(self, path: str) -> Iterator[bytes]:
        """Read a file."""
        try:
            if self._hub:
                self._files.resolve_path(f"{self._root}/{path}")  # says why not; `open` stumbles over it
            # whole and in order: the hub's client would ask for every piece by itself
            with self._files.open(f"{self._root}/{path}", "rb", **({"block_size": 0} if self._hub else {})) as stream:
                while piece := stream.read(_PIECE):
                    yield piece
        except Exception as error:
            raise self._told(error, path) from error

    def listed(self) -> list[str]:
        """Return every file's path below the folder. Raises as `pieces`; `Permanent` where there is none."""
        try:
            found = [str(path).removeprefix(f"{self._root}/") for path in self._files.find(self._root)]
        except Exception as error:
            raise self._told(error, "folder") from error
        if not found:
            raise Permanent(f"there is no file at {self._address}")
        return sorted(found)

    def _told(self, error: Exception, path: str) -> Exception:
        """Say what a store's client raised: it may be anything (keys, network, a bucket that is gone)."""
        chain: list[BaseException] = [error]  # the hub's client calls what it may not read "not found", from what says so
        while (cause := chain[-1].__cause__) is not None and len(chain) < 10:
            chain.append(cause)
        statuses = {getattr(getattr(one, "response", None), "status_code", None) for one in chain}
        if any(isinstance(one, PermissionError) for one in chain) or statuses & _REFUSED:
            return Permanent(f"{self._address} does not let us read", hint=self._hint)
        if any(isinstance(one, FileNotFoundError | IsADirectoryError) for one in chain) or httpx.codes.NOT_FOUND in statuses:
            return Permanent(f"{self._address} has no {path}", hint=self._hint if path == "folder" else "")
        return Transient(f"{path} of {self._address} cannot be read ({type(error).__name__})", hint=self._hint)


def _endpoint(kind: str) -> dict[str, Any]:
    """Return what a hub's client must be told: it reads the environment once, when it is imported."""
    hub = os.environ.get("HF_ENDPOINT")
    return {"endpoint": hub, "skip_instance_cache": True} if kind == "hf" and hub else {}


def pinned(address: str) -> str:
    """Return an address that stays what it is: a hub's with the commit that its branch or tag stands for now.

    Raises `Permanent` for what is neither `hf://OWNER/NAME[@REVISION]` nor `s3://...` and for a model that the hub has not, and
    `Transient`.
    """
    kind, _, rest = address.rstrip("/").partition("://")
    if kind not in _ACCESS or not rest:
        raise Permanent(f"{address}: not hf://OWNER/NAME or s3://BUCKET/FOLDER")
    if kind != "hf":
        return f"{kind}://{rest}"
    repository, _, revision = rest.partition("@")
    if repository.count("/") != 1 or "/" in revision:
        raise Permanent(f"{address}: a model of the hub is hf://OWNER/NAME, or hf://OWNER/NAME@REVISION")
    from huggingface_hub import HfApi  # takes a moment, and lanes with folders of their own never ask

    try:
        found = HfApi(endpoint=os.environ.get("HF_ENDPOINT")).repo_info(repository, revision=revision or None)
    except Exception as error:
        raise StoreMirror(address)._told(error, "folder") from error
    return f"hf://{repository}@{found.sha}"


def fetched(entry: ModelEntry, folder: Path, progress: Callable[[str, int], None] = lambda file, size: None) -> None:
    """Bring the files of an entry whose location is an address to `folder`, whole; several processes may try at once.

    Of a folder that is there what is missing or damaged is fetched. Raises `Permanent` (the place has no such file), `Fatal` (a
    file without a digest or with another, no room), `Transient`.
    """
    files = entry.files | entry.beside
    if not all(files.values()):
        raise Fatal(f"model {entry.name}: files without digests are not fetched", hint="`vigil models add ADDRESS` finds them")
    try:
        _arrive(lambda: StoreMirror(entry.location), "", files, folder, progress)
    except OSError as error:
        raise Fatal(
            f"model {entry.name}: its files cannot be put beside the registry file ({error.strerror})",
            hint=f"let this account write {folder.parent}, or fetch them there by `vigil models pull {entry.name}` as another",
        ) from error


def copied(address: str, folder: Path, progress: Callable[[str, int], None]) -> None:
    """Bring what a model needs of a place whose files nobody has described yet to `folder`, anew. Raises as `fetched`."""
    shutil.rmtree(folder, ignore_errors=True)
    source = StoreMirror(address)
    every = [path for path in source.listed() if not _OTHER_FORMS.search(path) and not path.endswith(".md")]
    tensors = any(path.endswith(".safetensors") for path in every)
    for path in every:
        if not any(part.startswith(".") for part in path.split("/")) and not (tensors and _PICKLED.search(path)):
            _fetch(source, path, folder / path, "", partial(progress, path))


def mirror(place: str) -> Mirror:
    """Return the mirror at an `http(s)://` or `s3://` address or in a folder."""
    if re.match(r"https?://", place):
        return HttpMirror(place)
    if place.partition("://")[0] in _ACCESS:
        return StoreMirror(place)
    if "://" in place:
        raise Permanent(f"{place}: not a folder, http(s) or s3", hint="copy the files into a folder and name that")
    return FolderMirror(Path(place))


def offered(source: Mirror) -> list[ModelEntry]:
    """Read what a mirror has. Raises `Permanent` where its `registry.toml` is none, or names files outside the mirror."""
    text = b""
    for piece in source.pieces(INDEX):
        text += piece
        if len(text) > _LARGEST_INDEX:
            raise Permanent(f"the mirror's {INDEX} is larger than {_LARGEST_INDEX} bytes")
    try:
        raw: Any = tomllib.loads(text.decode("utf-8")).get("model", [])
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise Permanent(f"the mirror's {INDEX} is not TOML: {error}") from error
    if not isinstance(raw, list):
        raise Permanent(f"the mirror's {INDEX} is no registry: models are described as [[model]] tables")
    try:
        entries = [entry_of(one, f"the mirror's {INDEX}") for one in raw]
    except Fatal as error:  # of the mirror: here nothing is wrong
        raise Permanent(str(error), hint=error.hint) from error
    for entry in entries:
        where = PurePosixPath(entry.location)
        if where.is_absolute() or ".." in where.parts or "://" in entry.location:
            raise Permanent(f"the mirror's {entry.name}: location {entry.location!r} is outside the mirror")
    return entries


def pull(
    source: Mirror,
    name: str,
    registry: Path,
    *,
    task: str = "",
    digest: str = "",
    called: str = "",
    progress: Callable[[str, int], None] = lambda file, size: None,
) -> ModelEntry:
    """Fetch a model into a folder beside the registry file and record it there; it serves nothing until it is promoted.

    `digest` is the model's, as somebody trusted told it; `called` is its name here, if not the mirror's. `progress(file, bytes)` is
    told of each piece. Files that are there whole, in place or from an earlier try, are not fetched again. Raises `Permanent` (no
    such model, another digest, the name of a model in use), `Fatal` (a file differs from its digest), `Transient`.
    """
    entry = _chosen(offered(source), name, task)
    if digest and digest != entry.digest:
        raise Permanent(
            f"the mirror's {name} {entry.version} has the digest {entry.digest}, not {digest}", hint="nothing was fetched"
        )
    files = entry.files | entry.beside
    if not entry.files or not all(files.values()):
        raise Permanent(f"the mirror's {name} has files without digests", hint="seal the mirror's registry")
    made = entry.model_copy(update={"name": called or entry.name})
    folder = copy_of(made, registry.parent)
    made = made.model_copy(update={"location": folder.name})
    own_name(made, registry)
    _arrive(lambda: source, f"{entry.location}/", files, folder, progress)
    record(made, registry, serve=False, in_use=False)
    return made


def _arrive(
    place: Callable[[], Mirror], below: str, files: Mapping[str, str], folder: Path, progress: Callable[[str, int], None]
) -> None:
    """Fetch files (name -> SHA-256 in hex), whose paths begin with `below`; the folder is there whole or not at all.

    Of one that is there the files that are missing or differ are fetched, all of them before the first is put in its place.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    arriving = folder.with_name(f".{folder.name}.partial")
    with (folder.parent / f".{folder.name}.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        there = folder.is_dir()
        wanted = {file: sha for file, sha in sorted(files.items()) if not (there and _is(folder / file, sha))}
        if there and not wanted:
            return
        source = place()
        for file, expected in wanted.items():
            _fetch(source, f"{below}{file}", arriving / file, expected, partial(progress, file))
        if not there:
            arriving.replace(folder)
            return
        for file in wanted:
            (folder / file).parent.mkdir(parents=True, exist_ok=True)
            (arriving / file).replace(folder / file)
        shutil.rmtree(arriving, ignore_errors=True)


def _is(path: Path, expected: str) -> bool:
    return path.is_file() and sha256_of(path) == expected


def _chosen(entries: list[ModelEntry], name: str, task: str) -> ModelEntry:
    found = [entry for entry in entries if entry.name == name and task in ("", entry.task)]
    if len(found) == 1:
        return found[0]
    if found:
        raise Permanent(f"{name!r} is a model of several tasks: {', '.join(e.task for e in found)}", hint="say --task")
    raise Permanent(f"the mirror has no model {name!r}", hint=f"it has: {', '.join(sorted(e.name for e in entries)) or 'none'}")


def _fetch(source: Mirror, path: str, target: Path, expected: str, progress: Callable[[int], None]) -> None:
    """Write a file; without `expected` whatever comes is right, and one that is there is fetched again."""
    if _is(target, expected):
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    if (free := shutil.disk_usage(target.parent).free) < 4 * _PIECE:
        raise Fatal(f"{target.parent} has {free} bytes left", hint="make room and pull again")
    hashed = hashlib.sha256()
    try:
        with target.open("wb") as stream:
            for piece in source.pieces(path):
                stream.write(piece)
                hashed.update(piece)
                progress(len(piece))
    except BaseException:
        with contextlib.suppress(OSError):
            target.unlink(missing_ok=True)
        raise
    if expected and hashed.hexdigest() != expected:
        target.unlink()
        raise Fatal(
            f"{path} of the mirror: expected {expected}, found {hashed.hexdigest()}",
            hint="damaged on its way or replaced: nothing of the model was put in place",
        )
