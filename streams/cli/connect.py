"""`vigil connect`: feeds that are fetched or played rather than received."""

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator, Coroutine, Iterator
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar
from urllib.parse import urlsplit

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from models.errors import Permanent
from streams.clock import Clock, clock_of
from streams.settings import Settings, load

if TYPE_CHECKING:
    from collections import Counter

    from connectors.dicom.importing import Imported
    from connectors.dicom.settings import DicomPeer, DicomSettings
    from connectors.fhir.pull import Pulled
    from connectors.fhir.settings import FhirPeer, FhirSettings
    from connectors.publisher import Publisher
    from connectors.vitals.server import Progress as Played

app = typer.Typer(help="Feeds that are played or fetched; `vigil serve` is for those that connect to us.", no_args_is_help=True)

T = TypeVar("T")
_INTERRUPTED = 130  # as a shell says it
_SHOWN = 10  # reasons of a summary


# ------------------------------------------------------------------------------------------------------------------- vitals


@app.command("vitals")
def vitals(
    file: Annotated[Path, typer.Argument(help="CSV, pipe separated or JSON lines", exists=True)],
    mapping: Annotated[str, typer.Option(help="a mapping file (.toml), or the name of a packaged one (cinc2019, ...)")],
    speed: Annotated[str, typer.Option(help="60x: an hour a minute; 0: as fast as Kafka confirms")] = "0",
    from_now: Annotated[bool, typer.Option(help="move all times so that the first is now; else it is history")] = False,
    resume: Annotated[bool, typer.Option(help="keep a bookmark beside the file and go on where the last run ended")] = True,
) -> None:
    """Play a file of vital signs into the stream, as a bedside gateway would send it."""
    done = _run(_vitals(load(), file, mapping, speed=_speed(speed), from_now=from_now, resume=resume), resumable=resume)
    print(f"{done.sets} sets, {done.vitals} published, {done.dead_letters} dead letters, {done.repeated} batches repeated")
    _print_reasons(done.troubles)
    if done.flags:
        print("read by a rule, see CONFORMANCE.md:")
        _print_reasons(done.flags)
    if done.unread:
        print(f"warning: the mapping names what the file never has: {', '.join(map(repr, done.unread))}")


def _speed(text: str) -> float:
    try:
        return float(text.strip().lower().removesuffix("x"))
    except ValueError:
        raise Permanent(f"{text!r} is no speed", hint="write 60x, or 0 for as fast as Kafka confirms") from None


async def _vitals(settings: Settings, file: Path, mapping: str, *, speed: float, from_now: bool, resume: bool) -> "Played":
    from connectors.identity import Identities
    from connectors.vitals.acknowledgement import Bookmark
    from connectors.vitals.server import FileReplay, replay
    from connectors.vitals.settings import FileMapping, ReplaySettings

    clock = clock_of(settings.clock)
    bookmark = Bookmark(file.with_name(file.name + ".bookmark")) if resume else None
    mark = bookmark.load(file) if bookmark else None
    source = FileReplay(
        file,
        FileMapping.load(mapping),
        ReplaySettings(speed=speed, times="from-now" if from_now else "kept"),
        identities=Identities(settings.identity),
        now=clock,
        skip=mark.sets if mark else 0,
        shift=timedelta(seconds=mark.shift) if mark else None,
    )
    async with _stream(settings, clock) as publisher:
        with _bar(BarColumn(), MofNCompleteColumn()) as bar:
            task = bar.add_task(file.name, total=None)
            return await replay(
                source,
                publisher,
                progress=lambda done: bar.update(task, completed=done.sets, total=done.total),
                bookmark=bookmark,
            )


# --------------------------------------------------------------------------------------------------------------------- FHIR


@app.command("fhir")
def fhir(
    base: Annotated[str, typer.Option(help="the server's base URL, e.g. https://ehr.example/fhir/r4")],
    since: Annotated[str, typer.Option(help="what changed from then on: 2026-11-01, 2026-11-01T08:00+01:00; else all")] = "",
    kind: Annotated[list[str] | None, typer.Option("--type", help="only these resource types; may be repeated")] = None,
    export: Annotated[bool, typer.Option("--export", help="by a Bulk Data export (NDJSON) instead of page by page")] = False,
    group: Annotated[str, typer.Option(help="with --export: of this Group only")] = "",
    every: Annotated[str, typer.Option(help="look again every so often (60s, 5m) until stopped; else once")] = "",
    peer: Annotated[str, typer.Option(help="which of connectors.fhir.peers this is; else the one with this `base`")] = "",
    token_file: Annotated[
        Path | None, typer.Option(help="file with the bearer token; else the peer's fetch_token_file")
    ] = None,
    ca_file: Annotated[
        Path | None,
        typer.Option(help="PEM authorities of the server, in place of the usual ones; else the peer's fetch_ca_file"),
    ] = None,
    certificate_file: Annotated[
        Path | None, typer.Option(help="our PEM certificate, for mutual TLS; else the peer's fetch_certificate_file")
    ] = None,
    key_file: Annotated[Path | None, typer.Option(help="its PEM key, where that is a file of its own")] = None,
    bookmark: Annotated[
        Path | None, typer.Option(help="where to go on; default: fhir-HOST-....bookmark, in this folder")
    ] = None,
    resume: Annotated[bool, typer.Option(help="go on where the last run ended: then --since counts for the first run")] = True,
) -> None:
    """Fetch from a FHIR server what it does not push: by _lastUpdated, or as a Bulk Data export."""
    from connectors.fhir.client import checked_base

    settings, base = load(), checked_base(base)
    own, name = fhir_peer(settings.connectors.fhir, base, peer)
    asked = _credentials(own.peers[name], token_file, ca_file, certificate_file, key_file)
    if export and every:
        raise Permanent("--every and --export do not go together", hint="export once, then fetch what changes with --every")
    if group and not export:
        raise Permanent("--group needs --export")
    mark = (bookmark or Path(_mark_name(base))) if resume else None
    begin, kinds, pause = _since(since), _kinds(kind or []), _pause(every)
    work = _fhir(settings, own, name, base, asked, mark, begin, kinds, export=export, group=group, every=pause)
    done = _run(work, resumable=resume)
    kept = f" ({done.kept} kept: vigil dead-letters list)" if done.kept else ""
    print(f"{done.resources} resources, {done.events} events published, {done.refused} not taken{kept}")
    if mark:
        print(f"the next run goes on from {mark}")


def fhir_peer(settings: "FhirSettings", base: str, name: str) -> tuple["FhirSettings", str]:
    """Return the settings and the peer's name to fetch from `base` with. Raises `Permanent` when it is none of the site's peers.

    Ids without a system are a peer's own: taken under another peer, two patients could become one.
    """
    from connectors.fhir.settings import FhirPeer, FhirSettings

    known = ", ".join(settings.peers)
    if name:
        if name not in settings.peers:
            raise Permanent(f"there is no FHIR peer {name!r}", hint=f"connectors.fhir.peers has {known}")
        return settings, name
    same = [name for name, peer in settings.peers.items() if peer.base.rstrip("/") == base]
    if len(same) == 1:
        return settings, same[0]
    if settings.peers == FhirSettings().peers:  # nothing was set up: the server's URL tells its ids from all others
        return settings.model_copy(update={"peers": {"fhir": FhirPeer.model_validate({"base": base})}}), "fhir"
    hint = f"--peer NAME (of {known}), or set connectors.fhir.peers.NAME.base"
    raise Permanent(f"which of connectors.fhir.peers is {base}?", hint=hint)


def _credentials(
    peer: "FhirPeer", token: Path | None, ca: Path | None, certificate: Path | None, key: Path | None
) -> "FhirPeer":
    """Return a peer's settings with what the command line says of how to get in. Raises `Permanent` for a key by itself."""
    if key and not certificate:
        raise Permanent("--key-file is the key of a --certificate-file")
    said: dict[str, Any] = {"fetch_token_file": token, "fetch_smart": None} if token else {}
    said |= {"fetch_ca_file": ca} if ca else {}
    said |= {"fetch_certificate_file": certificate, "fetch_key_file": key} if certificate else {}
    return peer.model_copy(update=said)


async def _fhir(
    settings: Settings,
    own: "FhirSettings",
    peer: str,
    base: str,
    credentials: "FhirPeer",
    mark: Path | None,
    since: datetime | None,
    kinds: tuple[str, ...],
    *,
    export: bool,
    group: str,
    every: float,
) -> "Pulled":
    from connectors.contexts import MemoryContexts
    from connectors.fhir.bookmarks import Bookmark
    from connectors.fhir.client import client
    from connectors.fhir.handling import FhirMapper
    from connectors.fhir.publishing import Publishing
    from connectors.fhir.pull import Puller
    from connectors.identity import Identities
    from connectors.objects import ObjectStore
    from streams.edge import read_contexts

    clock, contexts = clock_of(settings.clock), MemoryContexts()
    async with client(base, credentials, clock) as http, _stream(settings, clock) as publisher:
        await read_contexts(settings, contexts)  # a patient's context is published whole: what others said stays in it
        mapper = FhirMapper(own, Identities(settings.identity), contexts)
        publishing = Publishing(mapper, publisher, ObjectStore(settings.objects), now=clock, seconds=own.confirm_timeout)
        with _bar(TextColumn("{task.completed} resources, {task.fields[events]} events {task.fields[newest]}")) as bar:
            task = bar.add_task(base, total=None, events=0, newest="")

            def progress(done: "Pulled") -> None:
                newest = f"to {done.newest}" if done.newest else ""
                bar.update(task, description=done.kind, completed=done.resources, events=done.events, newest=newest)

            overlap = timedelta(seconds=own.peers[peer].fetch_overlap)
            puller = Puller(
                base, peer, http, publishing, now=clock, bookmark=Bookmark(mark, base), overlap=overlap, progress=progress
            )
            served = await puller.check(searched=not export)
            if missing := [kind for kind in kinds if kind not in served]:
                bar.console.print(f"the server has no {', '.join(missing)}", markup=False, soft_wrap=True)
            kinds = tuple(kind for kind in kinds if kind in served)
            if export:
                return await puller.export(since, kinds, group)
            if every:
                await puller.follow(every, since, kinds)
            return await puller.pull(since, kinds)


def _since(text: str) -> datetime | None:
    if not text:
        return None
    try:
        since = datetime.fromisoformat(text)
    except ValueError:
        raise Permanent(f"{text!r} is no time", hint="write 2026-11-01, or 2026-11-01T08:00+01:00") from None
    return since if since.tzinfo else since.replace(tzinfo=UTC)


def _pause(text: str) -> float:
    from streams.cli.run import seconds

    pause = seconds(text) if text else 0.0
    if text and pause < 1:
        raise Permanent("--every needs a second at least")
    return pause


def _kinds(wanted: list[str]) -> tuple[str, ...]:
    from connectors.fhir.pull import ORDER

    if unknown := sorted(set(wanted) - set(ORDER)):
        raise Permanent(f"not fetched: {', '.join(unknown)}", hint=f"types: {', '.join(ORDER)}")
    return tuple(kind for kind in ORDER if kind in wanted or not wanted)


def _mark_name(base: str) -> str:
    return f"fhir-{urlsplit(base).hostname}-{sha256(base.encode()).hexdigest()[:8]}.bookmark"


# -------------------------------------------------------------------------------------------------------------------- DICOM


@app.command("dicom")
def dicom(
    source: Annotated[Path, typer.Argument(help="a folder with all below it, a .zip or .tar(.gz) archive, or one file")],
    peer: Annotated[str, typer.Option(help="AE title of one of connectors.dicom.peers: its authority and zone hold")] = "",
    journal: Annotated[Path | None, typer.Option(help="what is done, one for each source; default: SOURCE.journal")] = None,
    resume: Annotated[bool, typer.Option(help="keep the journal and pass over what an earlier run has done")] = True,
) -> None:
    """Bring in DICOM files, as if a modality had sent them."""
    source = source.resolve()
    if not source.exists():
        raise Permanent(f"{source} is not there")
    settings = load()
    where = (journal or source.with_name(source.name + ".journal")) if resume else None
    known = _dicom_peer(settings.connectors.dicom, peer)
    done = _run(_dicom(settings, source, known, where), resumable=resume)
    counts = ", ".join(f"{count} {verdict}" for verdict, count in done.verdicts.most_common())
    print(f"{done.files} files ({done.bytes / 1e6:.1f} MB): {counts or 'nothing to do'}; {done.skipped} done earlier")
    _print_reasons(done.reasons)


def _dicom_peer(settings: "DicomSettings", title: str) -> "DicomPeer | None":
    known = [one.ae_title.strip() for one in settings.peers]
    if title and title.strip() not in known:
        raise Permanent(f"there is no DICOM peer {title!r}", hint=f"connectors.dicom.peers has {', '.join(known) or 'none'}")
    return settings.peer(title) if title else None


async def _dicom(settings: Settings, source: Path, peer: "DicomPeer | None", journal: Path | None) -> "Imported":
    from connectors.contexts import MemoryContexts
    from connectors.dicom.importing import Imported, Journal, bring_in
    from connectors.dicom.publishing import Publishing
    from connectors.identity import Identities
    from connectors.objects import ObjectStore
    from streams.edge import disk_nearly_full, read_contexts

    own, objects, clock = settings.connectors.dicom, ObjectStore(settings.objects), clock_of(settings.clock)

    def needs_disk() -> None:
        if disk_nearly_full(objects, own.min_free_bytes):
            hint = "make room and run it again: it goes on where it ended (connectors.dicom.min_free_bytes is the limit)"
            raise Permanent("the disk of the object store is nearly full", hint=hint)

    await asyncio.to_thread(needs_disk)
    contexts = MemoryContexts()
    async with _stream(settings, clock) as publisher:
        await read_contexts(settings, contexts)  # who was merged into whom, and whose number is whose
        with _bar(BarColumn(), MofNCompleteColumn()) as bar:
            task = bar.add_task(source.name, total=None)

            def progress(done: Imported) -> None:
                bar.update(task, completed=done.files + done.skipped, total=done.total)
                needs_disk()

            done = await bring_in(
                [source],
                own,
                Publishing(publisher, objects, seconds=own.confirm_timeout),
                identities=Identities(settings.identity),
                now=clock,
                peer=peer,
                contexts=contexts,
                journal=Journal(journal),
                progress=progress,
            )
            bar.update(task, completed=done.files + done.skipped, total=done.total)
            return done


# ------------------------------------------------------------------------------------------------------------------ for all


def _run(work: Coroutine[Any, Any, T], *, resumable: bool) -> T:
    """Run, and say on Ctrl-C what a second run does."""
    try:
        return asyncio.run(work)
    except KeyboardInterrupt:
        print(
            "stopped; " + ("the same command goes on from here" if resumable else "nothing was kept to go on from"),
            file=sys.stderr,
        )
        raise typer.Exit(_INTERRUPTED) from None


@contextlib.asynccontextmanager
async def _stream(settings: Settings, clock: Clock) -> "AsyncIterator[Publisher]":
    """The way into the stream. Raises `Transient` without a broker."""
    from streams.outbox import Outbox
    from streams.publisher import KafkaPublisher
    from streams.tracing import Tracing

    outbox = Outbox(settings, source=f"/vigil/{settings.site.name}/connectors")
    tracing = Tracing(settings.tracing, "connectors")
    try:
        await outbox.start()
        yield KafkaPublisher(outbox, clock, tracing, timeout=settings.engine.publish_timeout)
    finally:
        await outbox.stop()
        await asyncio.to_thread(tracing.stop)


@contextlib.contextmanager
def _bar(*columns: Any) -> Iterator[Progress]:
    from streams.log import setup_logging

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), *columns, TimeElapsedColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        setup_logging("connect")  # within: its lines go above the bar and not through it
        yield bar


def _print_reasons(reasons: "Counter[str]") -> None:
    for reason, count in reasons.most_common(_SHOWN):
        print(f"  {count} x {reason}")
