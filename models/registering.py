"""The registry file as commands change it: after training, evaluation and by whoever promotes, never by a running lane.

A change is written whole or not at all, and read again before it is. `python -m models.registering seal|verify` puts digests in.
"""

import argparse
import math
import re
import sys
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from models.errors import Fatal, Permanent
from models.registry import (
    DRIFT,
    PACKAGED,
    WEIGHTS,
    ModelEntry,
    Registry,
    Stage,
    document_of,
    folder_of,
    read_registry,
    sha256_of,
)


def seal(path: Path = PACKAGED, names: Sequence[str] = ()) -> list[ModelEntry]:
    """Hash the files of all models (or those named) and write the digests into the registry file; return what changed.

    Raises `Fatal` where a file that an entry names is missing.
    """
    document = document_of(path)
    base = _base(path)
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
    return folder.name if folder.parent in (_base(path), _base(path).resolve()) else str(folder.resolve())


def record(entry: ModelEntry, path: Path = PACKAGED, *, serve: bool = True) -> None:
    """Put an entry into the registry file, in the place of the one of its task and name; a task's first one serves it (`serve`).

    Training and evaluation write versions, thresholds and figures so, by code. Only the head's comments are kept.
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


def _base(path: Path) -> Path:
    return WEIGHTS if path == PACKAGED else path.parent


def _write(path: Path, document: Mapping[str, Any]) -> None:
    head: list[str] = []
    if path.is_file():
        for line in path.read_text(encoding="utf-8").splitlines():
            if not line.startswith("#"):
                break
            head.append(line)
    blocks = ["\n".join(head)] if head else []
    blocks += [_table(f"tasks.{task}", table) for task, table in document.get("tasks", {}).items()]
    for model in document.get("model", []):
        plain = {key: value for key, value in model.items() if not isinstance(value, dict)}
        parts = ["[[model]]", *_pairs(plain)]
        parts += ["\n" + _table(f"model.{key}", value) for key, value in model.items() if isinstance(value, dict) and value]
        blocks.append("\n".join(parts))
    text = "\n\n".join(blocks) + "\n"
    tomllib.loads(text)  # what cannot be read again is not written
    temporary = path.with_suffix(".tmp")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)


def _table(name: str, table: Mapping[str, Any]) -> str:
    return "\n".join([f"[{name}]", *_pairs(table)])


def _pairs(table: Mapping[str, Any]) -> list[str]:
    return [f"{_key(key)} = {_value(value)}" for key, value in table.items()]


def _key(key: str) -> str:
    return key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else _value(key)


def _value(value: Any) -> str:
    """Write a value of TOML: strings, numbers, truth values, and arrays and tables of them."""
    match value:
        case bool():
            return "true" if value else "false"
        case int():
            return str(value)
        case float():
            return repr(value) if math.isfinite(value) else str(value)
        case str():
            escaped = value.replace("\\", "\\\\").replace('"', '\\"')
            return '"' + re.sub(r"[\x00-\x1f\x7f]", lambda m: f"\\u{ord(m[0]):04x}", escaped) + '"'
        case list() | tuple():
            inline = "[" + ", ".join(_value(item) for item in value) + "]"
            if len(inline) <= 110 or not value:
                return inline
            return "[\n" + "".join(f"  {_value(item)},\n" for item in value) + "]"
        case dict():
            return "{ " + ", ".join(_pairs(value)) + " }" if value else "{}"
    raise TypeError(f"no TOML for {type(value).__name__}")  # the type alone; an entry's values are facts about a model anyway


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
