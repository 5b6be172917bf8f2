"""A folder as the hub has it, put into a site's registry: which runtime opens it is read from the folder, and its files are sealed.

Reads only JSON: no library of the `train` extra is needed to look.
"""

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from pydantic import ValidationError

from models.errors import Fatal, Permanent
from models.registering import files_of, location, own_name, record
from models.registry import LOADERS, ModelEntry, Registry, copy_of, labels_of, sha256_of

# What opens a folder that holds such a thing. The first that fits counts: a sentence-transformers folder has a config.json too.
_ARCHITECTURES: Final[Mapping[str, tuple[str, str]]] = {  # end of the class's name -> task, runtime
    "ForTokenClassification": ("ner", "transformers-token-classifier"),
    "ForImageClassification": ("image-text", "transformers-image-classifier"),
    "CLIPModel": ("image-text", "transformers-clip"),
}
_MARKS: Final[Mapping[str, tuple[str, str]]] = {  # file -> task, runtime
    "modules.json": ("embedding", "sentence-transformers"),
    "open_clip_config.json": ("image-text", "open-clip"),
}


def kind_of(folder: Path) -> tuple[str, str]:
    """Return the task and the runtime of a hub folder. Raises `Permanent` where it is none that is known, and says what it is."""
    if not folder.is_dir():
        raise Permanent(f"{folder} is no folder", hint="a model is a folder of files, as the hub has it")
    for mark, kind in _MARKS.items():
        if (folder / mark).is_file():
            return kind
    architectures = [str(name) for name in _json(folder / "config.json").get("architectures") or ()]
    for name in architectures:
        for end, kind in _ARCHITECTURES.items():
            if name.endswith(end):
                return kind
    what = f"its config.json says {', '.join(architectures)}" if architectures else "it has no config.json with architectures"
    known = ", ".join((*_MARKS, *(f"...{end}" for end in _ARCHITECTURES)))
    raise Permanent(f"{folder}: not known what opens it: {what}", hint=f"known: {known}; or say it by --task and --runtime")


def add(
    folder: Path,
    registry: Path,
    *,
    name: str = "",
    version: str = "1",
    licence: str = "site",
    kind: tuple[str, str] | None = None,
    more: Mapping[str, Any] | None = None,
    address: str = "",
    opened: bool = False,
    seen: Callable[[ModelEntry, Any], None] = lambda entry, model: None,
) -> ModelEntry:
    """Hash every file of a folder and record it as a model; it serves nothing until it is promoted.

    `kind` is (task, runtime) where the folder does not say it; `more` are further fields of the entry (labels, thresholds,
    preprocessing). `address` is where the folder came from, if it did: the entry names that, and the folder is put where its copy
    belongs. With `opened` it is opened first, as it stands: what does not open is not recorded, labels that the entry does not name
    are the model's own, and `seen` is shown both. An entry of the same task and name is replaced, but for one in use. Raises
    `Permanent` for a folder or runtime that is not known, or the name of a model in use, `Fatal` for a folder without files, and as
    `Registry.open`.
    """
    entry = described(folder, registry, name=name, version=version, licence=licence, kind=kind, more=more, address=address)
    task = entry.task
    own_name(entry, registry)
    if opened:
        model = Registry([(entry, folder)], {}).open(task, name=entry.name)
        if (labels := labels_of(model)) and not entry.labels:
            entry = entry.model_copy(update={"labels": labels})
        seen(entry, model)
    if address and (kept := copy_of(entry, registry.parent)).is_dir():
        shutil.rmtree(folder)  # the same, byte for byte
    elif address:
        folder.replace(kept)
    record(entry, registry, serve=False, in_use=False)
    return entry


def described(
    folder: Path,
    registry: Path,
    *,
    name: str = "",
    version: str = "1",
    licence: str = "site",
    kind: tuple[str, str] | None = None,
    more: Mapping[str, Any] | None = None,
    address: str = "",
) -> ModelEntry:
    """Return the entry of a folder, every file hashed; nothing is recorded. As `add`, which says the errors too."""
    task, runtime = kind or kind_of(folder)
    if runtime not in LOADERS:
        raise Permanent(f"unknown runtime {runtime!r}", hint=f"known: {', '.join(sorted(LOADERS))}")
    files = {file: sha256_of(folder / file) for file in files_of(folder)}
    if not files:
        raise Fatal(f"no files in {folder}", hint="put the model's files there")
    said = {"task": task, "name": name or folder.resolve().name, "version": version, "runtime": runtime, "licence": licence}
    try:
        where = address or location(folder, registry)
        return ModelEntry.model_validate({**(more or {}), **said, "location": where, "files": files})
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        raise Permanent(f"model {said['name']}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from error


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (ValueError, UnicodeDecodeError) as error:
        raise Permanent(f"{path} is not JSON", hint="the folder is damaged: copy it again") from error
    return found if isinstance(found, dict) else {}
