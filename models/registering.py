"""The registry file as commands change it: after training, evaluation and by whoever promotes, never by a running lane.

A change touches what it means and nothing else in the file (`models.toml_text`), is written whole or not at all, and only where the
registry that comes of it can be loaded. From reading to writing it is alone (`_alone`): two commands at once both count, one after
the other. `python -m models.registering seal|verify` puts digests in.
"""

import argparse
import contextlib
import fcntl
import secrets
import shutil
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
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
    base = base_of(path)
    changed: list[ModelEntry] = []
    with _alone(path):
        document = document_of(path)
        for raw in document.get("model", []):
            entry = ModelEntry.model_validate(raw)
            if names and entry.name not in names:
                continue
            folder = folder_of(entry, base)
            named = entry.files or files_of(folder)
            if not named:
                hint = "mend the entry's location, or put the files there"
                raise Fatal(f"model {entry.name}: no files in {folder}", hint=hint)
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


def record(entry: ModelEntry, path: Path = PACKAGED, *, serve: bool = True, in_use: bool = True) -> None:
    """Put an entry into the registry file, in the place of the one of its task and name; a task's first one serves it (`serve`).

    Training writes versions, thresholds and figures so, by code. Without `in_use`, raises `Permanent` as `own_name` does.
    """
    if not entry.beside:
        entry = entry.model_copy(update={"beside": beside_of(folder_of(entry, base_of(path)), entry.files)})
    with _changing(path) as document:
        if not in_use:
            own_name(entry, path)
        _put(document, entry)
        if serve:
            document.setdefault("tasks", {}).setdefault(entry.task, {"champion": entry.name})


def _put(document: dict[str, Any], entry: ModelEntry) -> None:
    raw = entry.model_dump(exclude_defaults=True)
    models = document.setdefault("model", [])
    for index, old in enumerate(models):
        if (old.get("task"), old.get("name")) == (entry.task, entry.name):
            models[index] = raw
            break
    else:
        models.append(raw)


def amend(entry: ModelEntry, path: Path, **fields: Any) -> None:
    """Write some fields of an entry that stands in a registry file, `quality` say; what else it says there stays."""
    with _changing(path) as document:
        for raw in document["model"]:
            if (raw.get("task"), raw.get("name")) == (entry.task, entry.name):
                raw |= fields


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


def promote(task: str, name: str, path: Path, *, seen: Stage | None = None) -> str:
    """Let a model serve a task, by the site's registry file; return who served before, whom `previous` keeps. A trial ends.

    The caller opens the model. `seen` is who served when the caller looked. Raises `Permanent` for a model that is not known, and
    where it is no longer as seen.
    """
    with _changing(path) as document:
        registry = _known(path)
        registry.entry(task, name)
        stage = as_seen(registry, task, seen)
        _serve(document, task, name, (*stage.previous, stage.champion)[-_KEPT:])
    return stage.champion


def rollback(task: str, path: Path, *, seen: Stage | None = None) -> str:
    """Let the model serve that served before, and forget who does now; return its name. Again goes back one further. A trial ends.

    The caller opens the model. Raises `Permanent` as `previous` does, and as `promote` where it is no longer as `seen`.
    """
    with _changing(path) as document:
        name = previous(task, path)
        _serve(document, task, name, as_seen(_known(path), task, seen).previous[:-1])
    return name


def as_seen(registry: Registry, task: str, seen: Stage | None) -> Stage:
    """Return who serves a task. Raises `Permanent` where that is no longer as `seen`, which a change was decided on."""
    stage = registry.stage(task)
    if seen is not None and stage != seen:
        now = f"{stage.champion}{f', {stage.challenger} on trial' if stage.challenger else ''}"
        raise Permanent(
            f"{task} was changed meanwhile, by another command: it has {now} now; nothing was changed",
            hint="`vigil models list` shows it; say it again if it still holds",
        )
    return stage


def _serve(document: dict[str, Any], task: str, name: str, before: Sequence[str]) -> None:
    table = document.setdefault("tasks", {}).setdefault(task, {})
    for key in ("previous", *_TRIAL):
        table.pop(key, None)
    table |= {"champion": name} | ({"previous": list(before)} if before else {})


def _known(path: Path) -> Registry:
    return Registry.load(path if path.is_file() else None)


def challenge(task: str, challenger: Stage | None, path: Path, *, seen: Stage | None = None) -> None:
    """Put a challenger beside a task's champion, as `challenger` says it (its champion is not read); None ends the trial.

    The caller opens the model. Raises `Permanent` for a model that is not known, or that serves the task itself, where another
    is on trial, and as `promote` where it is no longer as `seen`.
    """
    with _changing(path) as document:
        registry = _known(path)
        as_seen(registry, task, seen)
        _try_out(document, registry, task, challenger)


def _try_out(document: dict[str, Any], registry: Registry, task: str, challenger: Stage | None) -> None:
    champion = registry.champion(task)
    table = dict(document.setdefault("tasks", {}).get(task, {"champion": champion}))
    for key in _TRIAL:
        table.pop(key, None)
    if challenger is not None:
        registry.entry(task, challenger.challenger)
        free_to_try(registry.stage(task), task, challenger.challenger)
        table |= challenger.model_dump(include={"challenger", "mode", "percent"}, exclude_none=True)
    document["tasks"][task] = table


def free_to_try(stage: Stage, task: str, name: str) -> None:
    """Raise `Permanent` where a model serves the task itself, or another is on trial: its trial would end without a word."""
    if name == stage.champion:
        raise Permanent(
            f"{name} serves {task}: it cannot challenge itself, a challenger has a name of its own",
            hint="`vigil models list` shows the others",
        )
    if stage.challenger not in ("", name):
        raise Permanent(
            f"{stage.challenger} is on trial for {task} already",
            hint=f"end that first: `vigil models challenge {task} --stop`, or promote it",
        )


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
    if not entry.beside:
        entry = entry.model_copy(update={"beside": beside_of(folder_of(entry, base_of(path)), entry.files)})
    with _changing(path) as document:
        stage = _known(path).stage(entry.task)
        free_to_try(stage, entry.task, entry.name)
        _put(document, entry)
        shadow = stage.model_copy(update={"challenger": entry.name, "mode": "shadow"})
        _try_out(document, Registry.of(path, document), entry.task, shadow)
    return stage.champion


@contextlib.contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Keep every other writer of a registry file waiting. Raises `Fatal` where the file's folder cannot be written."""
    place = path.resolve()
    with contextlib.ExitStack() as held:
        try:
            lock = held.enter_context((place.parent / f".{place.name}.lock").open("a"))
            fcntl.flock(lock, fcntl.LOCK_EX)
        except OSError as error:
            raise Fatal(
                f"registry {path} cannot be changed ({error.strerror})", hint="let this account write the file and its folder"
            ) from error
        yield


@contextlib.contextmanager
def _changing(path: Path) -> Iterator[dict[str, Any]]:
    """Lend what a registry file holds, {} where there is none, to be changed; it is written when the block ends well."""
    with _alone(path):
        document = document_of(path) if path.is_file() else {}
        yield document
        _write(path, document)


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
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        temporary.write_bytes(text.encode())
        if path.is_file():
            shutil.copymode(path, temporary)
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise Fatal(
            f"registry {path} cannot be written ({error.strerror})", hint="is there room, and may this account?"
        ) from error


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
