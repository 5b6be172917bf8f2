"""The registry file as commands change it: after training, evaluation and by whoever promotes, never by a running lane.

A change touches what it means and nothing else in the file (`models.toml_text`), is written whole or not at all, and only where the
registry that comes of it can be loaded. `python -m models.registering seal|verify` puts digests in.
"""

import argparse
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from models.errors import Fatal, Permanent
from models.registry import (
    DRIFT,
    PACKAGED,
    ModelEntry,
    Registry,
    Stage,
    base_of,
    document_of,
    folder_of,
    read_registry,
    sha256_of,
)
from models.toml_text import rewritten


def seal(path: Path = PACKAGED, names: Sequence[str] = ()) -> list[ModelEntry]:
    """Hash the files of all models (or those named) and write the digests into the registry file; return what changed.

    Raises `Fatal` where a file that an entry names is missing.
    """
    document = document_of(path)
    base = base_of(path)
    changed: list[ModelEntry] = []
    for raw in document.get("model", []):
        entry = ModelEntry.model_validate(raw)
        if names and entry.name not in names:
            continue
        folder = folder_of(entry, base)
        named = entry.files or files_of(folder)
        if not named:
            raise Fatal(f"model {entry.name}: no files in {folder}", hint="mend the entry's location, or put the files there")
        for file in named:
            if not (folder / file).is_file():
                raise Fatal(f"model {entry.name}: file missing: {folder / file}", hint="train or export it first")
        files = {file: sha256_of(folder / file) for file in sorted(named)}
        if files != entry.files:
            raw["files"] = files
            changed.append(entry.model_copy(update={"files": files}))
    if changed:
        _write(path, document)
    return changed


def files_of(folder: Path) -> list[str]:
    """Return every file under a folder, but hidden ones, *.md and drift.json: cards and references change without the model."""
    every = [path.relative_to(folder) for path in folder.rglob("*") if path.is_file()]
    found = [path for path in every if path.suffix != ".md" and path.as_posix() != DRIFT]
    return sorted(path.as_posix() for path in found if not any(part.startswith(".") for part in path.parts))


def location(folder: Path, path: Path = PACKAGED) -> str:
    """Say where a folder lies as an entry of the registry file `path` says it: by its name where it lies beside its like."""
    return folder.name if folder.parent in (base_of(path), base_of(path).resolve()) else str(folder.resolve())


def record(entry: ModelEntry, path: Path = PACKAGED, *, serve: bool = True) -> None:
    """Put an entry into the registry file, in the place of the one of its task and name; a task's first one serves it (`serve`).

    Training writes versions, thresholds and figures so, by code.
    """
    document = document_of(path) if path.is_file() else {}
    raw = entry.model_dump(exclude_defaults=True)
    models = document.setdefault("model", [])
    for index, old in enumerate(models):
        if (old.get("task"), old.get("name")) == (entry.task, entry.name):
            models[index] = raw
            break
    else:
        models.append(raw)
    if serve:
        document.setdefault("tasks", {}).setdefault(entry.task, {"champion": entry.name})
    _write(path, document)


def amend(entry: ModelEntry, path: Path, **fields: Any) -> None:
    """Write some fields of an entry that stands in a registry file, `quality` say; what else it says there stays."""
    document = document_of(path)
    for raw in document["model"]:
        if (raw.get("task"), raw.get("name")) == (entry.task, entry.name):
            raw |= fields
    _write(path, document)


def holder(entry: ModelEntry, site: Path | None) -> Path:
    """Return the registry file that an entry stands in: the site's where it has one of that task and name."""
    if site is not None and any((e.task, e.name) == (entry.task, entry.name) for e, _ in read_registry(site, site.parent)[0]):
        return site
    return PACKAGED


def promote(task: str, name: str, path: Path) -> str:
    """Let a model serve a task, by the site's registry file; return who served before, which `previous` keeps.

    The caller verifies the model's files. Raises `Permanent` for a model that is not known.
    """
    registry = Registry.load(path if path.is_file() else None)
    registry.entry(task, name)
    before = registry.champion(task)
    document = document_of(path) if path.is_file() else {}
    document.setdefault("tasks", {})[task] = {"champion": name, "previous": before}
    _write(path, document)
    return before


def challenge(task: str, challenger: Stage | None, path: Path) -> None:
    """Put a challenger beside a task's champion, as `challenger` says it (its champion is not read); None ends the trial.

    The caller verifies the model's files. Raises `Permanent` for a model that is not known, or that serves the task itself.
    """
    registry = Registry.load(path if path.is_file() else None)
    champion = registry.champion(task)
    document = document_of(path) if path.is_file() else {}
    table = dict(document.setdefault("tasks", {}).get(task, {"champion": champion}))
    for key in ("challenger", "mode", "percent"):
        table.pop(key, None)
    if challenger is not None:
        registry.entry(task, challenger.challenger)
        if challenger.challenger == champion:
            raise Permanent(
                f"{champion} serves {task}: it cannot challenge itself", hint="`vigil models list` shows the others"
            )
        table |= challenger.model_dump(include={"challenger", "mode", "percent"}, exclude_none=True)
    document["tasks"][task] = table
    _write(path, document)


def previous(task: str, path: Path) -> str:
    """Return the model that served a task before the last promotion. Raises `Permanent` where none was written down."""
    table = (document_of(path) if path.is_file() else {}).get("tasks", {}).get(task, {})
    if before := table.get("previous"):
        return str(before)
    raise Permanent(f"no earlier model of the task {task!r} is written down in {path}", hint="nothing was promoted there yet")


def propose(entry: ModelEntry, path: Path) -> str:
    """Record a model as its task's challenger, in shadow; the champion goes on serving. Return the champion's name.

    Raises `Permanent` where another model is on trial already, or the name is the champion's own: then nothing is written.
    """
    stage = Registry.load(path if path.is_file() else None).stage(entry.task)
    if entry.name == stage.champion:
        raise Permanent(f"{entry.name} serves {entry.task}: a challenger needs a name of its own")
    if stage.challenger not in ("", entry.name):
        raise Permanent(
            f"{stage.challenger} is on trial for {entry.task} already",
            hint="promote it, or take it out of the registry file, and propose again",
        )
    record(entry, path, serve=False)
    challenge(entry.task, stage.model_copy(update={"challenger": entry.name, "mode": "shadow"}), path)
    return stage.champion


def _write(path: Path, document: Mapping[str, Any]) -> None:
    before = path.read_bytes().decode() if path.is_file() else ""
    try:
        text = rewritten(before, document)
    except ValueError as error:
        raise Fatal(
            f"registry {path} is written in a way that no command can change without changing more",
            hint="write tasks as [tasks.NAME] and models as [[model]], or make the change by hand",
        ) from error
    Registry.of(path, document)  # what no lane would load is not written
    temporary = path.with_suffix(".tmp")
    temporary.write_bytes(text.encode())
    if path.is_file():
        shutil.copymode(path, temporary)
    temporary.replace(path)


def main(argv: Sequence[str] | None = None) -> int:
    """Run `python -m models.registering seal|verify [NAME ...] [--registry FILE]`: exit code 0 when all is well."""
    parser = argparse.ArgumentParser(prog="python -m models.registering", description="Seal or verify model files.")
    parser.add_argument("verb", choices=["seal", "verify"])
    parser.add_argument("names", nargs="*", help="models (default: all)")
    parser.add_argument("--registry", type=Path, default=PACKAGED)
    chosen = parser.parse_args(argv)
    try:
        if chosen.verb == "seal":
            for entry in seal(chosen.registry, chosen.names):
                sys.stdout.write(f"sealed {entry.name} {entry.version} {entry.digest}\n")
            return 0
        registry = Registry.load(None if chosen.registry == PACKAGED else chosen.registry)
        if unknown := set(chosen.names) - {entry.name for entry in registry.entries()}:
            raise Permanent(f"unknown model {', '.join(sorted(unknown))}")
        for entry in registry.entries():
            if not chosen.names or entry.name in chosen.names:
                registry.weights(entry.task, entry.name)
                sys.stdout.write(f"verified {entry.name} {entry.version} {entry.digest}\n")
    except (Fatal, Permanent) as error:
        sys.stderr.write(f"{error}\n" + (f"  {error.hint}\n" if error.hint else ""))
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
