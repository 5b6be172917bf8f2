"""`vigil models add`: a model of the site's own, by its folder, into the site's registry file."""

import tomllib
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

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
    the champion.
    """
    from models.hub_folders import add as record_folder
    from models.registry import Registry

    site = registry or load().models.registry
    if site is None:
        raise Permanent(
            "there is no registry file of the site", hint="set models.registry (VIGIL_MODELS__REGISTRY), or --registry"
        )
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
