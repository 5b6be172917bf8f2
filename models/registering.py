"""The registry file as commands change it: after training, evaluation and by whoever promotes, never by a running lane.

A change touches what it means and nothing else in the file (`models.toml_text`), is written whole or not at all, and only where the
registry that comes of it can be loaded. `python -m models.registering seal|verify` puts digests in.
"""

import argparse
import shutil
import sys
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from models.errors import Fatal, Permanent
from models.registry import (
    BESIDE,
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

_TRIAL: Final = ("challenger", "mode", "percent")
_KEPT: Final = 5  # models that served before, for rollbacks


def seal(path: Path = PACKAGED, names: Sequence[str] = ()) -> list[ModelEntry]:
    """Hash the files of all models (or those named) and write the digests into the registry file; return what changed.

    What lies beside the weights (`registry.BESIDE`) is sealed too. Raises `Fatal` where a file that an entry names is missing.
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
        for file in (*named, *entry.beside):
            if not (folder / file).is_file():
                raise Fatal(f"model {entry.name}: file missing: {folder / file}", hint="train or export it first")
        files = {file: sha256_of(folder / file) for file in sorted(named)}
        sealed = {"files": files} | ({"beside": held} if (held := beside_of(folder, files)) or entry.beside else {})
        if any(getattr(entry, key) != digests for key, digests in sealed.items()):
            raw |= sealed
            changed.append(entry.model_copy(update=sealed))
    if changed:
        _write(path, document)
    return changed


def files_of(folder: Path) -> list[str]:
    """Return every file under a folder, but hidden ones, *.md and drift.json: cards and references change without the model."""
    every = [path.relative_to(folder) for path in folder.rglob("*") if path.is_file()]
    found = [path for path in every if path.suffix != ".md" and path.as_posix() != DRIFT]
    return sorted(path.as_posix() for path in found if not any(part.startswith(".") for part in path.parts))


def beside_of(folder: Path, files: Collection[str]) -> dict[str, str]:
    """Hash what lies beside a model's files and is none of them: name -> SHA-256 in hex."""
    found = {path.name: path for pattern in BESIDE for path in folder.glob(pattern)}
    return {name: sha256_of(path) for name, path in sorted(found.items()) if name not in files}


def location(folder: Path, path: Path = PACKAGED) -> str:
    """Say where a folder lies as an entry of the registry file `path` says it: by its name where it lies beside its like."""
    return folder.name if folder.parent in (base_of(path), base_of(path).resolve()) else str(folder.resolve())


def record(entry: ModelEntry, path: Path = PACKAGED, *, serve: bool = True) -> None:
    """Put an entry into the registry file, in the place of the one of its task and name; a task's first one serves it (`serve`).

    Training writes versions, thresholds and figures so, by code.
    """
    document = document_of(path) if path.is_file() else {}
    if not entry.beside:
        entry = entry.model_copy(update={"beside": beside_of(folder_of(entry, base_of(path)), entry.files)})
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


def own_name(entry: ModelEntry, path: Path) -> None:
    """Raise `Permanent` where an entry would replace a model in use: one that serves, is on trial or is a rollback's.

    Lanes would switch at once, without a promotion or its audit record. The very entry that stands in the file is no change.
    """
    role = _known(path).role(entry.task, entry.name)
    there = read_registry(path, path.parent)[0] if path.is_file() else []
    if role and entry not in [one.model_copy(update={"beside": entry.beside}) for one, _ in there]:
        raise Permanent(
            f"{entry.name} {role}: nothing was recorded", hint="give it a name of its own, then `vigil models promote` it"
        )


def promote(task: str, name: str, path: Path) -> str:
    """Let a model serve a task, by the site's registry file; return who served before, whom `previous` keeps. A trial ends.

    The caller opens the model. Raises `Permanent` for a model that is not known.
    """
    registry = _known(path)
    registry.entry(task, name)
    stage = registry.stage(task)
    _serve(path, task, name, (*stage.previous, stage.champion)[-_KEPT:])
    return stage.champion


def rollback(task: str, path: Path) -> str:
    """Let the model serve that served before, and forget who does now; return its name. Again goes back one further. A trial ends.

    The caller opens the model. Raises `Permanent` as `previous` does.
    """
    name = previous(task, path)
    _serve(path, task, name, _known(path).stage(task).previous[:-1])
    return name


def _serve(path: Path, task: str, name: str, before: Sequence[str]) -> None:
    document = document_of(path) if path.is_file() else {}
    table = document.setdefault("tasks", {}).setdefault(task, {})
    for key in ("previous", *_TRIAL):
        table.pop(key, None)
    table |= {"champion": name} | ({"previous": list(before)} if before else {})
    _write(path, document)


def _known(path: Path) -> Registry:
    return Registry.load(path if path.is_file() else None)


def challenge(task: str, challenger: Stage | None, path: Path) -> None:
    """Put a challenger beside a task's champion, as `challenger` says it (its champion is not read); None ends the trial.

    The caller opens the model. Raises `Permanent` for a model that is not known, or that serves the task itself.
    """
    registry = _known(path)
    champion = registry.champion(task)
    document = document_of(path) if path.is_file() else {}
    table = dict(document.setdefault("tasks", {}).get(task, {"champion": champion}))
    for key in _TRIAL:
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
    """Return the model that served a task before the last promotion. Raises `Permanent` where none is written down."""
    if path.is_file() and (before := _known(path).stage(task).previous):
        return before[-1]
    raise Permanent(
        f"no earlier model of the task {task!r} is written down in {path}",
        hint="nothing was promoted there yet, or all of it was rolled back: `vigil models promote` takes any model",
    )


def propose(entry: ModelEntry, path: Path) -> str:
    """Record a model as its task's challenger, in shadow; the champion goes on serving. Return the champion's name.

    Raises `Permanent` where another model is on trial already, or the name is the champion's own: then nothing is written.
    """
    stage = _known(path).stage(entry.task)
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
                registry.weights(entry.task, entry.name, beside=True)
                sys.stdout.write(f"verified {entry.name} {entry.version} {entry.digest}\n")
    except (Fatal, Permanent) as error:
        sys.stderr.write(f"{error}\n" + (f"  {error.hint}\n" if error.hint else ""))
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
