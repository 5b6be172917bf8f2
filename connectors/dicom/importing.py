"""Brings in a folder or an archive of DICOM files: the same reading and the same promise as C-STORE, with progress, resumable.

What is done stands in a journal, a line per file after its confirmation; a second run passes over those. A file that is not
confirmed is tried again until it is, with back-off: an archive, unlike a modality, can wait.
"""

import asyncio
import logging
import lzma
import tarfile
import threading
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from connectors.contexts import Contexts
from connectors.dicom.acknowledgement import OUT_OF_RESOURCES, SUCCESS
from connectors.dicom.mapping import Context, Outcome, handle, is_directory
from connectors.dicom.publishing import Publishing
from connectors.dicom.settings import DicomPeer, DicomSettings
from connectors.identity import Identities
from models.errors import Fatal, Permanent

log = logging.getLogger(__name__)

_LONGEST_WAIT: Final = 60.0
_UNREADABLE: Final = Outcome("refused", OUT_OF_RESOURCES, "cannot be read from disk")


@dataclass(frozen=True, slots=True)
class Imported:
    """How far an import is; `total` is None while the files are still being listed."""

    files: int = 0
    total: int | None = None
    skipped: int = 0  # done in an earlier run
    bytes: int = 0
    verdicts: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)


class Journal:
    """What is done: a text file, one name a line, written after each confirmation."""

    def __init__(self, path: Path | None) -> None:
        """None: remembered only while the process runs. Raises `Permanent` when it cannot be read."""
        self._path = path
        try:
            self._done = set(path.read_text("utf-8").splitlines()) if path and path.exists() else set()
        except (OSError, UnicodeDecodeError) as error:
            raise Permanent("the journal cannot be read", hint="delete it to begin anew") from error

    def __contains__(self, name: str) -> bool:
        return _line(name) in self._done

    def add(self, name: str) -> None:
        """Write down that a file is done."""
        self._done.add(_line(name))
        if self._path:
            try:
                with self._path.open("a", encoding="utf-8") as file:
                    file.write(_line(name) + "\n")
            except OSError as error:
                raise Fatal(f"the journal {self._path.name} cannot be written") from error


async def bring_in(
    sources: list[Path],
    settings: DicomSettings,
    publishing: Publishing,
    *,
    identities: Identities,
    now: Callable[[], datetime],
    peer: DicomPeer | None = None,
    contexts: Contexts | None = None,
    journal: Journal | None = None,
    sleep: Callable[[float], Any] = asyncio.sleep,
    progress: Callable[[Imported], None] = lambda imported: None,
) -> Imported:
    """Bring in files, folders (with all below) and archives (.zip, .tar, .tar.gz, ...) and return what was done.

    `peer` gives authority, zone and processing of the files, `contexts` say what is known of patients. Raises `Permanent` for a
    source that is not there or no archive.
    """
    journal, done = journal or Journal(None), Imported()
    peer = peer or DicomPeer(ae_title="IMPORT", name="import")
    with ExitStack() as opened:
        files = await asyncio.to_thread(lambda: [one for source in sources for one in _listed(source, opened)])
        done = replace(done, total=len(files))
        gate = asyncio.Semaphore(settings.decoders)

        async def one(name: str, size: int, read: Callable[[], bytes]) -> None:
            nonlocal done
            async with gate:
                outcome = await _brought(
                    size, read, Context(settings, identities, peer, now(), contexts=contexts), publishing, sleep
                )
            if outcome is not _UNREADABLE:  # a disk or share may have had a bad moment: the next run tries again
                journal.add(name)
            done = replace(
                done,
                files=done.files + 1,
                bytes=done.bytes + size,
                verdicts=done.verdicts + Counter([outcome.verdict]),
                reasons=done.reasons + Counter([outcome.reason] if outcome.reason else []),
            )
            progress(done)

        waiting: set[asyncio.Task[None]] = set()
        try:
            for name, size, read in files:
                if name in journal:
                    done = replace(done, skipped=done.skipped + 1)
                    continue
                waiting.add(asyncio.create_task(one(name, size, read)))
                if len(waiting) >= 2 * settings.decoders:
                    ended, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                    for task in ended:
                        task.result()
            await asyncio.gather(*waiting)
        finally:
            for task in waiting:
                task.cancel()
            await asyncio.gather(*waiting, return_exceptions=True)
    return done


async def _brought(
    size: int,
    read: Callable[[], bytes],
    context: Context,
    publishing: Publishing,
    sleep: Callable[[float], Any],
) -> Outcome:
    if size > context.settings.largest_object:
        return Outcome("refused", OUT_OF_RESOURCES, "longer than the limit of an object")
    try:
        data = await asyncio.to_thread(read)
    except (OSError, zipfile.BadZipFile, tarfile.TarError, RuntimeError, EOFError, ValueError) as error:
        log.warning("DICOM: a file cannot be read (%s)", type(error).__name__)
        return _UNREADABLE
    if is_directory(data):
        return Outcome("ignored", SUCCESS, "a DICOMDIR lists files and is none")
    outcome = await asyncio.to_thread(handle, data, context)
    wait = 0.5
    while (status := await publishing.answer(outcome)) == OUT_OF_RESOURCES:
        await sleep(wait)
        wait = min(2 * wait, _LONGEST_WAIT)
    if outcome.verdict != "refused" and status != SUCCESS:
        return replace(outcome, verdict="refused", status=status, reason="no store or broker takes it")
    return outcome


File = tuple[str, int, Callable[[], bytes]]  # name, bytes, how to read it


def _listed(source: Path, opened: ExitStack) -> list[File]:
    try:
        return list(_files(source, opened))
    except (OSError, EOFError, tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError) as error:
        raise Permanent(f"{source.name} cannot be read: {type(error).__name__}", hint="is the archive whole?") from error


def _files(source: Path, opened: ExitStack) -> Iterator[File]:
    if source.is_dir():
        for path in sorted(one for one in source.rglob("*") if one.is_file() and not one.is_symlink()):
            yield str(path.relative_to(source.parent)), path.stat().st_size, path.read_bytes
    elif zipfile.is_zipfile(source):
        archive = opened.enter_context(zipfile.ZipFile(source))
        for entry in archive.infolist():
            if not entry.is_dir():
                yield f"{source.name}!{entry.filename}", entry.file_size, lambda entry=entry: archive.read(entry)  # type: ignore[misc]
    elif source.is_file() and tarfile.is_tarfile(source):
        tar = opened.enter_context(tarfile.open(source))  # noqa: SIM115
        lock = threading.Lock()  # one stream: two threads would read each other's bytes
        for member in tar:
            if member.isfile():
                name = f"{source.name}!{member.name}"
                yield name, member.size, lambda member=member: _member(tar, member, lock)  # type: ignore[misc]
    elif source.is_file():
        yield source.name, source.stat().st_size, source.read_bytes
    else:
        raise Permanent(f"{source.name} is not there")


def _member(tar: tarfile.TarFile, member: tarfile.TarInfo, lock: threading.Lock) -> bytes:
    with lock:
        file = tar.extractfile(member)
        return file.read() if file else b""


def _line(name: str) -> str:
    return name.replace("\\", "\\\\").replace("\n", "\\n").replace("\r", "\\r")
