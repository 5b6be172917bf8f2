"""The registry: which models there are, where their files lie, how far to trust them, and which one serves a task.

The packaged `registry.toml` describes the weights that ship. A site lays a file of its own over it:

    [tasks.ner]
    champion = "site-bert"              # one line changes the model that serves the task: running lanes see it in seconds
    challenger = "site-bert-2"          # optional: runs beside it (`Stage`)
    mode = "shadow"                     # shadow: compared and nothing else; split: serves `percent` of the patients

    [[model]]
    task = "ner"
    name = "site-bert"
    version = "2026.1"
    runtime = "onnx-token-classifier"
    location = "site-bert"              # a folder beside this file, or an absolute path
    licence = "site"
    [model.files]
    "model.onnx" = "<sha256>"           # filled in by `python -m models.registry seal --registry FILE`

An entry of the same task and name replaces the packaged one whole. Nothing is ever fetched: a location is a folder on
this machine. Every file that an entry names is hashed before the runtime sees it, and the runtime can open only those.
"""

import argparse
import hashlib
import importlib
import math
import re
import sys
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self, TypeVar, cast, overload

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from models.errors import Fatal, Permanent
from models.tasks import DeteriorationModel, HomeModel, ImageTextModel, Model, ModelIdentity, TextEmbedder, TokenClassifier

PACKAGED: Final = Path(__file__).with_name("registry.toml")
WEIGHTS: Final = Path(__file__).with_name("weights")
DRIFT: Final = (
    "drift.json"  # beside the weights and none of them: a reference (`models.drift`) changes where the model does not
)

# What a model of a task must be able to do: checked on the object that a loader returns.
PROTOCOLS: Final[Mapping[str, type]] = {
    "ner": TokenClassifier,
    "embedding": TextEmbedder,
    "image-text": ImageTextModel,
    "deterioration": DeteriorationModel,
    "deterioration-home": HomeModel,
}

# Runtime -> "module:function", imported when a model of it is opened and not before: the base install never needs torch.
# The function takes (weights: Weights, *, threads: int) and returns the runtime object.
LOADERS: Final[dict[str, str]] = {
    "onnx-token-classifier": "models.runtimes.token_classifier:load",
    "onnx-text-embedder": "models.runtimes.text_embedder:load",
    "onnx-image-text": "models.runtimes.image_text:load",
    "onnx-deterioration": "models.runtimes.deterioration:load",
    "onnx-home": "models.runtimes.home:load",
    # What hospitals bring as it is, a folder in the hub's own format; these need torch (extra: train).
    "transformers-token-classifier": "models.runtimes.transformers_token_classifier:load",
    "sentence-transformers": "models.runtimes.sentence_transformers:load",
    "open-clip": "models.runtimes.open_clip:load",
    "transformers-clip": "models.runtimes.transformers_clip:load",
    "transformers-image-classifier": "models.runtimes.transformers_image_classifier:load",
}

M = TypeVar("M")


class Stage(BaseModel):
    """Who serves a task: the champion, and a challenger on trial. A trial ends by promoting the challenger or taking it out."""

    model_config = ConfigDict(frozen=True, extra="ignore")  # `previous` stands beside them, for a rollback

    champion: str = Field(min_length=1)
    challenger: str = ""
    mode: Literal["shadow", "split"] = Field("shadow", description="shadow: compared only; split: it answers for some patients")
    percent: float | None = Field(
        None, ge=0, le=100, description="Of the patients, by a hash of their id. Unset: 10 in a split, all in shadow."
    )

    @property
    def share(self) -> float:
        """The percentage of the patients that the challenger sees."""
        return self.percent if self.percent is not None else (10.0 if self.mode == "split" else 100.0)


def _hex_digest(value: str) -> str:
    if value and not re.fullmatch(r"[0-9a-f]{64}", value):
        raise ValueError("not a SHA-256 in lower-case hexadecimal")
    return value


def _plain_name(value: str) -> str:
    # a file name with a folder in it could leave the model's own folder
    path = Path(value)
    if not value or path.is_absolute() or ".." in path.parts or "\n" in value:
        raise ValueError("not a file name inside the model's folder")
    return value


class ModelEntry(BaseModel):
    """One model as the registry describes it. Frozen; a changed model is a new version."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    task: str
    name: str
    version: str
    runtime: str
    location: str = Field(description="A folder: relative to the registry file's own weights, or absolute.")
    files: dict[Annotated[str, AfterValidator(_plain_name)], Annotated[str, AfterValidator(_hex_digest)]] = Field(
        default_factory=dict,
        description="File name -> SHA-256 in hex. An empty digest is an unsealed file and is refused when opened. Without any, "
        "sealing takes every file of the folder but hidden ones and *.md.",
    )
    licence: str
    trained_on: tuple[str, ...] = ()
    labels: tuple[str, ...] = Field(default=(), description="What comes out: entity types, findings.")
    thresholds: dict[str, float] = Field(default_factory=dict, description="Label -> lowest score that is published.")
    thresholds_chosen: str = Field(default="", description="How the thresholds were chosen, in words.")
    preprocessing: dict[str, Any] = Field(default_factory=dict, description="What the runtime needs to know.")
    quality: dict[str, float] = Field(default_factory=dict, description="Metric -> measured value, written by evaluation.")

    @property
    def digest(self) -> str:
        """SHA-256 (hex) over the sorted lines "name sha256" of all its files: changes when any file does."""
        lines = "".join(f"{name} {sha}\n" for name, sha in sorted(self.files.items()))
        return hashlib.sha256(lines.encode()).hexdigest()

    @property
    def identity(self) -> ModelIdentity:
        """What is stamped on every output."""
        return ModelIdentity(name=self.name, version=self.version, digest=self.digest)


@dataclass(frozen=True, slots=True)
class Weights:
    """A model's verified files, as handed to its loader."""

    entry: ModelEntry
    folder: Path

    @property
    def identity(self) -> ModelIdentity:
        """What the runtime object must show as its own identity."""
        return self.entry.identity

    def path(self, name: str) -> Path:
        """Return the path of a verified file. Raises `Fatal` for one the entry does not name: it was never hashed."""
        if name not in self.entry.files:
            raise Fatal(
                f"model {self.entry.name} {self.entry.version} lists no file {name!r}",
                hint=f"the runtime {self.entry.runtime} needs it: add it to [model.files] and seal the registry",
            )
        return self.folder / name


def sha256_of(path: Path) -> str:
    """Hash a file's content: SHA-256 in hex, read in pieces."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


class Registry:
    """The models this process may use. Immutable; to change it, load another."""

    def __init__(self, entries: Sequence[tuple[ModelEntry, Path]], stages: Mapping[str, Stage]) -> None:
        """Take entries with the folder their files lie in, and who serves each task."""
        self._entries = {(entry.task, entry.name): (entry, folder) for entry, folder in entries}
        self._stages = dict(stages)

    @classmethod
    def load(cls, path: Path | None = None) -> Self:
        """Read the packaged registry, and lay a site's file over it where one is given.

        Raises `Fatal` where a file is absent or is not a registry, naming the entry and field.
        """
        entries, stages = _read(PACKAGED, WEIGHTS)
        if path is not None:
            site_entries, site_stages = _read(path, path.parent)
            entries, stages = [*entries, *site_entries], stages | site_stages
        return cls(entries, stages)

    def entries(self, task: str | None = None) -> list[ModelEntry]:
        """Return every entry (of one task), in the order of the files."""
        return [entry for entry, _ in self._entries.values() if task in (None, entry.task)]

    def champion(self, task: str) -> str:
        """Return the name of the model that serves a task. Raises `Permanent` where none is named."""
        return self.stage(task).champion

    def stage(self, task: str) -> Stage:
        """Return who serves a task and who is on trial. Raises `Permanent` where none is named."""
        if (stage := self._stages.get(task)) is not None:
            return stage
        known = ", ".join(sorted(self._stages)) or "none"
        raise Permanent(f"no model serves the task {task!r}", hint=f"tasks with a champion: {known}")

    def serves(self, entry: ModelEntry) -> bool:
        """Say whether an entry is its task's champion."""
        stage = self._stages.get(entry.task)
        return stage is not None and stage.champion == entry.name

    def trial(self, entry: ModelEntry) -> Stage | None:
        """Return the trial that an entry is the challenger of, if it is one."""
        stage = self._stages.get(entry.task)
        return stage if stage is not None and entry.name == stage.challenger != stage.champion else None

    def folder(self, entry: ModelEntry) -> Path:
        """Return the folder an entry's files (and its card) lie in; nothing is verified."""
        return self._find(entry.task, entry.name)[1]

    def entry(self, task: str, name: str | None = None) -> ModelEntry:
        """Look up an entry without opening it. Raises `Permanent` for an unknown name or a model of another task."""
        return self._find(task, name)[0]

    def weights(self, task: str, name: str | None = None) -> Weights:
        """Verify a model's files.

        Raises `Fatal` for a missing file or a digest that differs, and `Permanent` as `entry` does.
        """
        entry, folder = self._find(task, name)
        if not entry.files:
            raise Fatal(f"model {entry.name} {entry.version} lists no files", hint="fill [model.files] and seal")
        for file, expected in sorted(entry.files.items()):
            _verify(entry, folder / file, expected)
        return Weights(entry, folder)

    @overload
    def open(self, task: Literal["ner"], *, name: str | None = None, threads: int = 1) -> TokenClassifier: ...
    @overload
    def open(self, task: Literal["embedding"], *, name: str | None = None, threads: int = 1) -> TextEmbedder: ...
    @overload
    def open(self, task: Literal["image-text"], *, name: str | None = None, threads: int = 1) -> ImageTextModel: ...
    @overload
    def open(self, task: Literal["deterioration"], *, name: str | None = None, threads: int = 1) -> DeteriorationModel: ...
    @overload
    def open(self, task: Literal["deterioration-home"], *, name: str | None = None, threads: int = 1) -> HomeModel: ...
    @overload
    def open(self, task: str, *, expect: Callable[..., M], name: str | None = None, threads: int = 1) -> M: ...
    @overload
    def open(self, task: str, *, name: str | None = None, threads: int = 1) -> Model: ...
    def open(self, task: str, *, name: str | None = None, threads: int = 1, expect: Callable[..., Any] | None = None) -> Any:
        """Verify every file of a model and return its runtime object, which fills in the task's protocol.

        `name` defaults to the task's champion; `threads` are the intra-op threads of the runtime; `expect` is a protocol
        of `models.tasks` to check against where the task is a site's own.

        Raises `Fatal` (missing file, differing digest, weights that do not load, an object that lacks the protocol's
        methods) and `Permanent` (unknown name, wrong task, unknown runtime).
        """
        if threads < 1:
            raise Permanent(f"threads must be at least 1, not {threads}")
        weights = self.weights(task, name)
        entry = weights.entry
        model = _loader(entry)(weights, threads=threads)
        protocol = expect if expect is not None else PROTOCOLS.get(task, Model)
        if not isinstance(model, cast(type, protocol)):
            raise Fatal(f"model {entry.name} {entry.version}: runtime {entry.runtime} does not fill in the task {task!r}")
        return model

    def _find(self, task: str, name: str | None) -> tuple[ModelEntry, Path]:
        chosen = self.champion(task) if name is None else name
        if (found := self._entries.get((task, chosen))) is not None:
            return found
        if others := [t for t, n in self._entries if n == chosen]:
            raise Permanent(f"model {chosen!r} is of the task {others[0]!r}, not {task!r}")
        known = ", ".join(n for t, n in self._entries if t == task) or "none"
        raise Permanent(f"unknown model {chosen!r} for the task {task!r}", hint=f"known: {known}")


def _verify(entry: ModelEntry, path: Path, expected: str) -> None:
    if not path.is_file():
        raise Fatal(
            f"model {entry.name} {entry.version}: file missing: {path}",
            hint="reinstall the package, or mend the entry's location in the registry",
        )
    found = sha256_of(path)
    if found != expected:
        raise Fatal(
            f"model {entry.name} {entry.version}: digest of {path} differs: "
            f"expected {expected or 'none (unsealed)'}, found {found}",
            hint="the file is corrupted or was replaced; restore it, or seal the registry if the change is meant",
        )


def _loader(entry: ModelEntry) -> Callable[..., Any]:
    if (target := LOADERS.get(entry.runtime)) is None:
        raise Permanent(f"model {entry.name}: unknown runtime {entry.runtime!r}", hint=f"known: {', '.join(sorted(LOADERS))}")
    module, _, function = target.partition(":")
    try:
        return cast(Callable[..., Any], getattr(importlib.import_module(module), function))
    except ImportError as error:
        raise Permanent(
            f"model {entry.name}: the runtime {entry.runtime!r} cannot be imported ({error.name})",
            hint="install the extra that brings it: pip install 'vigil-stream[train]'",
        ) from error


def _read(path: Path, base: Path) -> tuple[list[tuple[ModelEntry, Path]], dict[str, Stage]]:
    document = _document(path)
    entries: list[tuple[ModelEntry, Path]] = []
    models = document.get("model", [])
    if not isinstance(models, list):
        raise Fatal(f"registry {path}: models are described as [[model]] tables")
    for raw in models:
        try:
            entry = ModelEntry.model_validate(raw)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            where = ".".join(str(part) for part in first["loc"])
            name = raw.get("name", "?") if isinstance(raw, dict) else "?"
            raise Fatal(f"registry {path}: model {name!r}: {where}: {first['msg']}") from error
        entries.append((entry, _folder(entry, base)))
    return entries, _stages(path, document)


def _stages(path: Path, document: Mapping[str, Any]) -> dict[str, Stage]:
    stages: dict[str, Stage] = {}
    tables = document.get("tasks", {})
    for task, table in tables.items() if isinstance(tables, dict) else [("NAME", tables)]:
        try:
            stages[task] = Stage.model_validate(table)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            where = ".".join(str(part) for part in first["loc"]) or 'champion = "model name"'
            raise Fatal(f"registry {path}: [tasks.{task}] needs {where}: {first['msg']}") from error
    return stages


def _document(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise Fatal(f"registry file missing: {path}", hint="mend the setting that names it") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise Fatal(f"registry {path} is not TOML: {error}") from error


def _folder(entry: ModelEntry, base: Path) -> Path:
    if "://" in entry.location:
        raise Fatal(
            f"model {entry.name}: location {entry.location!r} is not a folder",
            hint="nothing is fetched at run time: put the files into a folder and name that",
        )
    return base / entry.location  # an absolute location stands for itself


# --- writing: after training and evaluation, never by a running lane ---


def seal(path: Path = PACKAGED, names: Sequence[str] = ()) -> list[ModelEntry]:
    """Hash the files of all models (or those named) and write the digests into the registry file; return what changed.

    Raises `Fatal` where a file that an entry names is missing.
    """
    document = _document(path)
    base = _base(path)
    changed: list[ModelEntry] = []
    for raw in document.get("model", []):
        entry = ModelEntry.model_validate(raw)
        if names and entry.name not in names:
            continue
        folder = _folder(entry, base)
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
    document = _document(path) if path.is_file() else {}
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
    if site is not None and any((e.task, e.name) == (entry.task, entry.name) for e, _ in _read(site, site.parent)[0]):
        return site
    return PACKAGED


def promote(task: str, name: str, path: Path) -> str:
    """Let a model serve a task, by the site's registry file; return who served before, which `previous` keeps.

    The caller verifies the model's files. Raises `Permanent` for a model that is not known.
    """
    registry = Registry.load(path if path.is_file() else None)
    registry.entry(task, name)
    before = registry.champion(task)
    document = _document(path) if path.is_file() else {}
    document.setdefault("tasks", {})[task] = {"champion": name, "previous": before}
    _write(path, document)
    return before


def challenge(task: str, challenger: Stage | None, path: Path) -> None:
    """Put a challenger beside a task's champion, as `challenger` says it (its champion is not read); None ends the trial.

    The caller verifies the model's files. Raises `Permanent` for a model that is not known, or that serves the task itself.
    """
    registry = Registry.load(path if path.is_file() else None)
    champion = registry.champion(task)
    document = _document(path) if path.is_file() else {}
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
    table = (_document(path) if path.is_file() else {}).get("tasks", {}).get(task, {})
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
    document = _document(path) if path.is_file() else {}
    table = document.setdefault("tasks", {}).setdefault(entry.task, {"champion": stage.champion})
    document["tasks"][entry.task] = table | {"challenger": entry.name, "mode": "shadow"}
    models = [one for one in document.get("model", []) if (one.get("task"), one.get("name")) != (entry.task, entry.name)]
    document["model"] = [*models, entry.model_dump(exclude_defaults=True)]
    _write(path, document)
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
    raise TypeError(f"no TOML for {type(value).__name__}")


def main(argv: Sequence[str] | None = None) -> int:
    """Run `python -m models.registry seal|verify [NAME ...] [--registry FILE]`: exit code 0 when all is well."""
    parser = argparse.ArgumentParser(prog="python -m models.registry", description="Seal or verify model files.")
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
