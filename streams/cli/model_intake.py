"""`vigil models add` and `pull`: a model of the site's own into the site's registry file, by its folder or from a mirror."""

import tomllib
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import DownloadColumn, Progress, TaskID

from models.errors import Permanent, VigilError
from streams.settings import load


def add(
    folder: Annotated[Path, typer.Argument(help="a model's folder as the hub has it, on this machine")],
    name: Annotated[str, typer.Option(help="what it is called here; default: the folder's name")] = "",
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
    """Put a folder into the site's registry: what opens it is found out, every file is hashed, and it is opened once.

    Knows folders of transformers (token and image classification, CLIP), sentence-transformers and open_clip. Nothing is fetched
    and no code of the folder is run. It serves nothing until `vigil models promote`, or `vigil models challenge` to try it beside
    the champion: the name of a model that serves, is on trial or is a rollback's is refused.
    """
    from models.hub_folders import add as record_folder
    from models.registry import Registry

    site = _site(registry)
    if bool(task) != bool(runtime):
        raise Permanent("--task and --runtime go together", hint="leave both out where the folder says what it is")
    before = site.read_bytes() if site.is_file() else None
    kind = (task, runtime) if task else None
    made = record_folder(folder, site, name=name, version=version, licence=licence, kind=kind, more=_more(entry))
    if not unopened:
        try:
            Registry.load(site).open(made.task, name=made.name)
        except VigilError:
            _restore(site, before)  # what does not open is no model: the file is as it was
            raise
    console = Console(soft_wrap=True, highlight=False)
    opened = "recorded, not opened" if unopened else "opened and recorded"
    console.print(f"{made.name} {made.version} ({made.task}, {made.runtime}): {len(made.files)} files, {made.digest}; {opened}")
    console.print(f'let it serve:  vigil models promote {made.task} {made.name} --reason "..."', style="dim")


def pull(
    source: Annotated[
        str, typer.Argument(help="the mirror: a folder, or an http(s):// or s3:// address, with a registry.toml in it")
    ],
    name: Annotated[str, typer.Argument(help="the model, as the mirror's registry.toml calls it")],
    task: Annotated[str, typer.Option(help="its task, where the mirror has several of that name")] = "",
    called: Annotated[str, typer.Option("--as", help="what it is called here; default: as the mirror calls it")] = "",
    digest: Annotated[str, typer.Option(help="the model's digest, as somebody trusted told it: another one is refused")] = "",
    registry: Annotated[
        Path | None, typer.Option("--registry", help="a site's registry file; default: the setting models.registry")
    ] = None,
) -> None:
    """Fetch a model from the site's mirror into a folder beside the registry file, and record it there.

    Every file is hashed as it arrives, and the model is put in place whole or not at all. It serves nothing until `vigil models
    promote`: the name of a model in use is refused (--as gives it another). Lanes never fetch anything.
    """
    from models import mirror

    site = _site(registry)
    with Progress(*Progress.get_default_columns()[:1], DownloadColumn(), console=Console(stderr=True)) as shown:
        bars: dict[str, TaskID] = {}

        def arrived(file: str, size: int) -> None:
            if file not in bars:
                bars[file] = shown.add_task(file, total=None)
            shown.advance(bars[file], size)

        entry = mirror.pull(mirror.mirror(source), name, site, task=task, digest=digest, called=called, progress=arrived)
    console = Console(soft_wrap=True, highlight=False)
    console.print(
        f"{entry.name} {entry.version} ({entry.task}, {entry.runtime}): {len(entry.files)} files, {entry.digest}; recorded"
    )
    if not digest:
        console.print("its digest is the mirror's own word: compare it, or pull with --digest", style="yellow")
    console.print(f'let it serve:  vigil models promote {entry.task} {entry.name} --reason "..."', style="dim")


def _site(registry: Path | None) -> Path:
    site = registry or load().models.registry
    if site is None:
        raise Permanent(
            "there is no registry file of the site", hint="set models.registry (VIGIL_MODELS__REGISTRY), or --registry"
        )
    return site


def _more(path: Path | None) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8")) if path is not None else {}
    except FileNotFoundError as error:
        raise Permanent(f"no file {path}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise Permanent(f"{path} is not TOML: {error}") from error


def _restore(site: Path, before: bytes | None) -> None:
    if before is None:
        site.unlink()
    else:
        site.write_bytes(before)
