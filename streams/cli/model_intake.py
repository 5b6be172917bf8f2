"""`vigil models add` and `pull`: a model of the site's own into the site's registry file: its folder, a hub's, or a mirror's."""

import asyncio
import contextlib
import shutil
import tomllib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import DownloadColumn, Progress, TaskID

from models.errors import Permanent, VigilError
from streams.settings import load

if TYPE_CHECKING:
    from models.registry import ModelEntry
    from streams.checks import Check


def add(
    source: Annotated[
        str,
        typer.Argument(
            metavar="FOLDER|ADDRESS",
            help="a model's folder as the hub has it, on this machine; or hf://OWNER/NAME[@REVISION], s3://BUCKET/FOLDER",
        ),
    ],
    name: Annotated[str, typer.Option(help="what it is called here; default: as its place calls it")] = "",
    version: Annotated[str, typer.Option(help="its version; a changed model is a new one")] = "1",
    licence: Annotated[str, typer.Option(help="the licence it came under")] = "site",
    task: Annotated[str, typer.Option(help="its task, where the folder does not say it (with --runtime)")] = "",
    runtime: Annotated[str, typer.Option(help="what opens it, where the folder does not say it (with --task)")] = "",
    entry: Annotated[
        Path | None, typer.Option(help="a TOML file with more of the entry: labels, thresholds, preprocessing (prompts, types)")
    ] = None,
    registry: Annotated[
        Path | None, typer.Option("--registry", help="a site's registry file; default: the setting models.registry")
    ] = None,
    unopened: Annotated[
        bool, typer.Option("--unopened", help="do not try to open it here (no train extra, no memory)")
    ] = False,
) -> None:
    """Put a model into the site's registry: what opens it is found out, its files are hashed, and it is opened and tried out first.

    Knows folders of transformers (token and image classification, CLIP), sentence-transformers and open_clip. Of a hub
    (HF_ENDPOINT, HF_TOKEN) or a bucket (AWS_*) a copy is fetched beside the registry file; the entry names the address, a hub's
    with its commit, so that other machines can fetch the same. No code of the folder is run. It serves nothing until `vigil models
    promote`, or `vigil models challenge` to try it beside the champion: the name of a model that serves, is on trial or is a
    rollback's is refused.
    """
    from models.hub_folders import add as record_folder
    from models.mirror import copied, pinned
    from models.registry import is_address
    from streams.checks import remarks

    site = _site(registry)
    folder, address = Path(source), ""
    if bool(task) != bool(runtime):
        raise Permanent("--task and --runtime go together", hint="leave both out where the folder says what it is")
    kind, more = (task, runtime) if task else None, more_of(entry)
    if is_address(source):
        address = pinned(source)
        name = name or address.partition("@")[0].rpartition("/")[2]
        folder = site.parent / f".{Path(name).name}.partial"
        with _arriving() as arrived:
            copied(address, folder, arrived)
    said = {"name": name, "version": version, "licence": licence, "address": address}
    noted: list[Check] = []

    def looked(entry: "ModelEntry", model: Any) -> None:
        noted.extend(asyncio.run(remarks(load(), entry, model)))

    try:
        made = record_folder(folder, site, kind=kind, more=more, opened=not unopened, seen=looked, **said)
    except VigilError:
        if address:
            shutil.rmtree(folder, ignore_errors=True)
        raise
    console = Console(soft_wrap=True, highlight=False)
    opened = "recorded, not opened" if unopened else "opened and recorded"
    console.print(f"{made.name} {made.version} ({made.task}, {made.runtime}): {len(made.files)} files, {made.digest}; {opened}")
    tell(noted, console)
    console.print(f'let it serve:  vigil models promote {made.task} {made.name} --reason "..."', style="dim")


def tell(noted: Sequence["Check"], console: Console) -> None:
    """Print what a lane would do with a model, and how to mend it."""
    for one in noted:
        console.print(f"{one.found}\n  -> {one.mend}", style="yellow", markup=False)


def pull(
    source: Annotated[
        str,
        typer.Argument(
            metavar="MIRROR|NAME",
            help="the mirror: a folder, or an http(s):// or s3:// address, with a registry.toml in it; alone, a model of the "
            "site's own registry whose location is an address",
        ),
    ],
    name: Annotated[str, typer.Argument(help="the model, as the mirror's registry.toml calls it")] = "",
    task: Annotated[str, typer.Option(help="its task, where the mirror has several of that name")] = "",
    called: Annotated[str, typer.Option("--as", help="what it is called here; default: as the mirror calls it")] = "",
    digest: Annotated[str, typer.Option(help="the model's digest, as somebody trusted told it: another one is refused")] = "",
    registry: Annotated[
        Path | None, typer.Option("--registry", help="a site's registry file; default: the setting models.registry")
    ] = None,
) -> None:
    """Fetch a model from the site's mirror into a folder beside the registry file, and record it there.

    Every file is hashed as it arrives, and the model is put in place whole or not at all; again, what is missing or damaged of it
    is fetched anew. It serves nothing until `vigil models promote`: the name of a model in use is refused (--as gives it another).
    With the name alone it fetches what the site's registry names by hf:// or s3://, which lanes do by themselves only where
    models.fetch is true.
    """
    from models import mirror

    site, console = _site(registry), Console(soft_wrap=True, highlight=False)
    if not name:
        _pull_own(source, task, digest, site, console)
        return
    with _arriving() as arrived:
        entry = mirror.pull(mirror.mirror(source), name, site, task=task, digest=digest, called=called, progress=arrived)
    console.print(
        f"{entry.name} {entry.version} ({entry.task}, {entry.runtime}): {len(entry.files)} files, {entry.digest}; recorded"
    )
    if not digest:
        console.print("its digest is the mirror's own word: compare it, or pull with --digest", style="yellow")
    console.print(f'let it serve:  vigil models promote {entry.task} {entry.name} --reason "..."', style="dim")


def _pull_own(name: str, task: str, digest: str, site: Path, console: Console) -> None:
    """Fetch a model that the site's registry names by an address."""
    from models.mirror import fetched
    from models.registry import Registry, is_address

    known = Registry.load(site)
    entries = [e for e in known.entries() if e.name == name and task in ("", e.task) and is_address(e.location)]
    if len(entries) != 1:
        there = ", ".join(e.name for e in known.entries() if is_address(e.location)) or "none"
        problem = f"{name!r} is a model of several tasks" if entries else f"{site} has no model {name!r} with an address"
        raise Permanent(problem, hint=f"say --task, or MIRROR NAME for one of a mirror's; with an address: {there}")
    (entry,) = entries
    if digest not in ("", entry.digest):
        raise Permanent(f"{name} {entry.version} has the digest {entry.digest}, not {digest}", hint="nothing was fetched")
    with _arriving() as arrived:
        fetched(entry, known.folder(entry), arrived)
    known.weights(entry.task, entry.name, beside=True)
    console.print(f"{entry.name} {entry.version} ({entry.task}): {len(entry.files)} files, {entry.digest}; here and whole")


@contextlib.contextmanager
def _arriving() -> Iterator[Callable[[str, int], None]]:
    """Show each file that arrives."""
    with Progress(*Progress.get_default_columns()[:1], DownloadColumn(), console=Console(stderr=True)) as shown:
        bars: dict[str, TaskID] = {}

        def arrived(file: str, size: int) -> None:
            if file not in bars:
                bars[file] = shown.add_task(file, total=None)
            shown.advance(bars[file], size)

        yield arrived


def _site(registry: Path | None) -> Path:
    site = registry or load().models.registry
    if site is None:
        raise Permanent(
            "there is no registry file of the site", hint="set models.registry (VIGIL_MODELS__REGISTRY), or --registry"
        )
    return site


def more_of(path: Path | None) -> dict[str, Any]:
    """Read a TOML file with more of an entry, {} where there is none. Raises `Permanent` where it is absent or is none."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8")) if path is not None else {}
    except FileNotFoundError as error:
        raise Permanent(f"no file {path}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise Permanent(f"{path} is not TOML: {error}") from error
