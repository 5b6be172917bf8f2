"""Where objects lie: a local folder, durable and atomic by its own care, or any remote file system that fsspec knows.

Both hold a marker, so that an unmounted disk or a wrong bucket is told from an object that is gone.
"""

import contextlib
import os
import shutil
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, Protocol

import fsspec

from connectors.objects.settings import ObjectSettings
from models.errors import Permanent, Transient

MARKER: Final = ".vigil-objects"
_INCOMING: Final = ".incoming"
_ABANDONED_SECONDS: Final = 3600.0  # a draft this old belongs to a process that was killed


class Place(Protocol):
    """Bytes by relative path. Every method blocks, and raises `Transient` when the place itself is in trouble."""

    def size(self, path: str) -> int | None:
        """Return the object's size in bytes, None when there is none."""
        ...

    def write(self, path: str, data: bytes) -> None:
        """Store durably: when this returns the object is there whole, after a crash too; until then it is not visible."""
        ...

    def settle(self, path: str) -> None:
        """Make sure that an object that another process is storing at this moment is durable."""
        ...

    def read(self, path: str) -> bytes | None:
        """Return the bytes; None when the place answers and has no such object."""
        ...

    def free_bytes(self) -> int | None:
        """Return what is free, None where nobody can say."""
        ...


def place_of(settings: ObjectSettings) -> Place:
    """Return the place that the URL names. Raises `Permanent` for one that cannot be used."""
    scheme, _, rest = settings.url.rpartition("://")
    if scheme in ("", "file"):
        return Folder(Path(rest if scheme else settings.url).expanduser())
    return Remote(settings)


class Folder:
    """A local folder. Files are readable by their owner only."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._swept = False

    def size(self, path: str) -> int | None:
        """See `Place`."""
        with self._trouble("looking for an object"):
            try:
                return (self._root / path).stat(follow_symlinks=False).st_size
            except FileNotFoundError:
                return None

    def write(self, path: str, data: bytes) -> None:
        """See `Place`: a draft beside, synced, renamed, and the folders synced."""
        with self._trouble("storing an object"):
            self._prepare()
            draft, final = self._root / _INCOMING / uuid.uuid4().hex, self._root / path
            try:
                _write_synced(draft, data)
                _make_folders(final.parent, self._root)
                draft.replace(final)
            except BaseException:
                draft.unlink(missing_ok=True)
                raise
            _sync_folder(final.parent)

    def settle(self, path: str) -> None:
        """See `Place`: what is visible was synced before; its name, and its folders', may not be."""
        with self._trouble("storing an object"):
            for folder in (self._root / path).parents:
                _sync_folder(folder)
                if folder == self._root:
                    return

    def read(self, path: str) -> bytes | None:
        """See `Place`."""
        with self._trouble("reading an object"):
            try:
                descriptor = os.open(self._root / path, os.O_RDONLY | os.O_NOFOLLOW)
            except FileNotFoundError:
                if not (self._root / MARKER).exists():
                    raise Transient(f"the object store {self._root} is not there", hint="is its disk mounted?") from None
                return None
            with os.fdopen(descriptor, "rb") as file:
                return file.read()

    def free_bytes(self) -> int | None:
        """See `Place`: of the disk under the folder, or under where it will be made."""
        existing = next(path for path in (self._root.absolute(), *self._root.absolute().parents) if path.exists())
        if os.statvfs(existing).f_blocks == 0 or not os.access(existing, os.W_OK | os.X_OK):  # /proc holds no files
            raise Transient(
                f"objects cannot be kept at {self._root}: {existing} takes none from this account", hint="objects.url"
            )
        return shutil.disk_usage(existing).free

    def _prepare(self) -> None:
        incoming, marker = self._root / _INCOMING, self._root / MARKER
        if self._swept and marker.exists() and incoming.exists():
            return
        self._root.mkdir(parents=True, exist_ok=True, mode=0o700)
        incoming.mkdir(exist_ok=True, mode=0o700)
        for draft in incoming.iterdir():
            with contextlib.suppress(FileNotFoundError):
                if time.time() - draft.stat().st_mtime > _ABANDONED_SECONDS:
                    draft.unlink()
        if not marker.exists():
            _write_synced(marker, b"Vigil's object store: files are named by the SHA-256 of their content.\n")
        _sync_folder(self._root)
        _sync_folder(self._root.absolute().parent)
        self._swept = True

    @contextlib.contextmanager
    def _trouble(self, doing: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise Transient(f"{doing} in {self._root}: {error.strerror or type(error).__name__}") from error


def _write_synced(path: Path, data: bytes) -> None:
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _make_folders(folder: Path, root: Path) -> None:
    """Make a folder below `root`, each new one's entry synced: else a power failure could take the folder with its files."""
    if folder == root or folder.exists():
        return
    _make_folders(folder.parent, root)
    with contextlib.suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    _sync_folder(folder.parent)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class Remote:
    """S3, or another remote that fsspec knows. A put of one object is atomic there, and durable when it is answered."""

    def __init__(self, settings: ObjectSettings) -> None:
        self._url = settings.url.rstrip("/")
        try:
            self._files, root = fsspec.core.url_to_fs(self._url, **_options(settings))
        except (ImportError, ValueError) as error:
            hint = "pip install 'vigil-stream[s3]'" if self._url.startswith("s3:") else "a folder or an s3:// URL"
            raise Permanent(f"the object store {self._url} cannot be used: {error}", hint=hint) from error
        self._root = root.rstrip("/")
        self._marked = False

    def size(self, path: str) -> int | None:
        """See `Place`."""
        with self._trouble("looking for an object"):
            self._files.invalidate_cache()  # listings are cached, and another process may have stored it
            try:
                return int(self._files.info(f"{self._root}/{path}")["size"])
            except FileNotFoundError:
                return None

    def write(self, path: str, data: bytes) -> None:
        """See `Place`."""
        with self._trouble("storing an object"):
            if not self._marked:
                self._files.pipe_file(f"{self._root}/{MARKER}", b"Vigil's object store\n")
                self._marked = True
            self._files.pipe_file(f"{self._root}/{path}", data)

    def settle(self, path: str) -> None:
        """See `Place`: what a remote shows is stored."""

    def read(self, path: str) -> bytes | None:
        """See `Place`."""
        with self._trouble("reading an object"):
            self._files.invalidate_cache()
            try:
                return bytes(self._files.cat_file(f"{self._root}/{path}"))
            except FileNotFoundError:
                if not self._files.exists(f"{self._root}/{MARKER}"):
                    hint = "is it the right bucket and prefix?"
                    raise Transient(f"there is no object store at {self._url}", hint=hint) from None
                return None

    def free_bytes(self) -> int | None:
        """See `Place`: a remote does not say."""
        return None

    @contextlib.contextmanager
    def _trouble(self, doing: str) -> Iterator[None]:
        try:
            yield
        except Transient:
            raise
        except Exception as error:  # fsspec, botocore and aiohttp have no common ancestor; none of them is about the input
            raise Transient(f"{doing} at {self._url}: {type(error).__name__}") from error


def _options(settings: ObjectSettings) -> dict[str, Any]:
    if not settings.url.startswith(("s3://", "s3a://")):
        return {}
    options: dict[str, Any] = {
        "config_kwargs": {
            "connect_timeout": settings.timeout,
            "read_timeout": settings.timeout,
            "retries": {"max_attempts": 2, "mode": "standard"},
        },
        "use_listings_cache": False,
    }
    if settings.s3_endpoint:
        options["endpoint_url"] = settings.s3_endpoint
    if settings.s3_region:
        options["client_kwargs"] = {"region_name": settings.s3_region}
    if settings.s3_key:
        options["key"] = settings.s3_key
        options["secret"] = settings.s3_secret.get_secret_value() if settings.s3_secret else ""
    return options
