"""A model fetched from the site's own mirror, a folder, an HTTP server or an S3 bucket: only by command, never by a running lane.

A mirror is what a site's registry file and its folders are, under one place: `registry.toml`, whose entries have relative
locations, and `LOCATION/FILE` for each file that an entry names. Every file is hashed as it arrives; a model is put in its place
whole, or not at all. The mirror's digests show that nothing was damaged; that it is the model that was meant shows `digest`, told
another way.
"""

import contextlib
import hashlib
import re
import shutil
import tomllib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, Final, Protocol
from urllib.parse import quote

import fsspec
import httpx
from pydantic import ValidationError

from models.errors import Fatal, Permanent, Transient
from models.registering import own_name, record
from models.registry import ModelEntry, sha256_of

INDEX: Final = "registry.toml"
_PIECE: Final = 1 << 20  # bytes
_LARGEST_INDEX: Final = 4 << 20  # bytes: thousands of entries
_STORES: Final = {"s3"}  # of all that fsspec knows: its hf:// would go to the internet
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
    """A folder of an object store, through fsspec: keys and endpoint are those of the environment (AWS_*, FSSPEC_S3_*)."""

    def __init__(self, address: str) -> None:
        self._address = address.rstrip("/")
        try:
            self._files, root = fsspec.core.url_to_fs(self._address)
        except (ImportError, ValueError) as error:
            raise Permanent(f"{address} cannot be used: {error}", hint="pip install 'vigil-stream[s3]'") from error
        self._root = root.rstrip("/")

    def pieces(self, path: str) -> Iterator[bytes]:
        """Read a file."""
        try:
            with self._files.open(f"{self._root}/{path}", "rb") as stream:
                while piece := stream.read(_PIECE):
                    yield piece
        except (FileNotFoundError, IsADirectoryError) as error:
            raise Permanent(f"the mirror {self._address} has no {path}") from error
        except Exception as error:  # whatever a store's client raises: keys, network, a bucket that is gone
            raise Transient(
                f"{path} of the mirror {self._address} cannot be read ({type(error).__name__})",
                hint="are its keys and endpoint in the environment (AWS_*)? what was whole is kept",
            ) from error


def mirror(place: str) -> Mirror:
    """Return the mirror at an `http(s)://` or `s3://` address or in a folder."""
    if re.match(r"https?://", place):
        return HttpMirror(place)
    if place.partition("://")[0] in _STORES:
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
        raw: list[Any] = tomllib.loads(text.decode("utf-8")).get("model", [])
        entries = [ModelEntry.model_validate(one) for one in raw]
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, ValidationError, TypeError) as error:
        raise Permanent(f"the mirror's {INDEX} is no registry ({type(error).__name__})") from error
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
    told of each piece. Files that an earlier try left whole are not fetched again. Raises `Permanent` (no such model, another
    digest, the name of a model in use), `Fatal` (a file differs from its digest), `Transient`.
    """
    entry = _chosen(offered(source), name, task)
    if digest and digest != entry.digest:
        raise Permanent(
            f"the mirror's {name} {entry.version} has the digest {entry.digest}, not {digest}", hint="nothing was fetched"
        )
    files = entry.files | entry.beside
    if not entry.files or not all(files.values()):
        raise Permanent(f"the mirror's {name} has files without digests", hint="seal the mirror's registry")
    folder = f"{called or entry.name}-{entry.digest[:12]}"
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", folder):
        raise Permanent(f"{called or entry.name!r} cannot be a folder's name")
    made = entry.model_copy(update={"name": called or entry.name, "location": folder})
    own_name(made, registry)
    final, arriving = registry.parent / folder, registry.parent / f".{folder}.partial"
    if not final.is_dir():
        for file, expected in sorted(files.items()):
            _fetch(source, f"{entry.location}/{file}", arriving / file, expected, partial(progress, file))
        arriving.replace(final)
    record(made, registry, serve=False)
    return made


def _chosen(entries: list[ModelEntry], name: str, task: str) -> ModelEntry:
    found = [entry for entry in entries if entry.name == name and task in ("", entry.task)]
    if len(found) == 1:
        return found[0]
    if found:
        raise Permanent(f"{name!r} is a model of several tasks: {', '.join(e.task for e in found)}", hint="say --task")
    raise Permanent(f"the mirror has no model {name!r}", hint=f"it has: {', '.join(sorted(e.name for e in entries)) or 'none'}")


def _fetch(source: Mirror, path: str, target: Path, expected: str, progress: Callable[[int], None]) -> None:
    if target.is_file() and sha256_of(target) == expected:
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
    if hashed.hexdigest() != expected:
        target.unlink()
        raise Fatal(
            f"{path} of the mirror: expected {expected}, found {hashed.hexdigest()}",
            hint="damaged on its way or replaced: nothing of the model was put in place",
        )
