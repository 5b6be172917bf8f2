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
    location = "site-bert"              # a folder beside this file; or an absolute path, package:NAME/FOLDER (an installed Python
                                        # package's), hf://OWNER/NAME@COMMIT, s3://BUCKET/FOLDER
    licence = "site"
    [model.files]
    "model.onnx" = "<sha256>"           # filled in by `python -m models.registering seal --registry FILE`

    [thresholds.clinical-ner]           # other scores to publish from, label by label, of a model whose entry stays as it is
    condition = 0.5

    [meant_for.chest-xray]              # likewise, another list of the pictures that an image model is for (`MeantFor`)
    body_parts = ["CHEST", "THORAX", "RTG KLP"]

An entry of the same task and name replaces the packaged one whole. Where a location is an address, what is opened is a copy beside
the registry file (`copy_of`), which `vigil models pull NAME` fetches, or a lane, if the site lets it (`models.fetch`). Every file
that an entry names is hashed before the runtime sees it, and the runtime can open only those. A model is tried out when it is
opened (`models.probing`).
"""

import contextlib
import difflib
import hashlib
import importlib
import importlib.util
import re
import tempfile
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self, TypeVar, cast, overload

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
    model_validator,
)

from models.errors import Fatal, Permanent, VigilError
from models.probing import failed, probe
from models.tasks import DeteriorationModel, HomeModel, ImageTextModel, Model, ModelIdentity, TextEmbedder, TokenClassifier

PACKAGED: Final = Path(__file__).with_name("registry.toml")
WEIGHTS: Final = Path(__file__).with_name("weights")
DRIFT: Final = "drift.json"
ADDRESSES: Final = ("hf://", "s3://")
PACKAGE: Final = "package:"
# Beside the weights and none of them, so no part of the model's digest: what a watch over drift and an evaluation compare with.
BESIDE: Final = (DRIFT, "learned.npy", "logistic*.json")

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
    "onnx-image-classifier": "models.runtimes.image_classifier:load",
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

    model_config = ConfigDict(frozen=True, extra="forbid")

    champion: str = Field(min_length=1)
    challenger: str = ""
    mode: Literal["shadow", "split"] = Field("shadow", description="shadow: compared only; split: it answers for some patients")
    percent: float | None = Field(
        None, ge=0, le=100, description="Of the patients, by a hash of their id. Unset: 10 in a split, all in shadow."
    )

    previous: Annotated[tuple[str, ...], BeforeValidator(lambda said: (said,) if isinstance(said, str) else said)] = Field(
        (), description="Who served before, the last one last: what a rollback goes back to. One name in files of before."
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


Score = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]


class MeantFor(BaseModel):
    """Which pictures an image model is for, in DICOM's words: any other gets neither findings nor a vector.

    An entry is a word or several, in any case, without accents and punctuation. One that is empty takes in pictures of which it is
    not said. A list that is not given asks nothing.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    modalities: tuple[str, ...] = Field((), description="(0008,0060): CR, DX, ...")
    body_parts: tuple[str, ...] = Field(
        (), description="(0018,0015), else what the series', the protocol's or the study's description names"
    )
    views: tuple[str, ...] = Field((), description="(0018,5101), else what these name: PA, AP, ...")


class Origin(BaseModel):
    """What an exported model was made of, and how."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    version: str
    runtime: str
    digest: Annotated[str, AfterValidator(_hex_digest)] = Field(description="Over all its files, as `ModelEntry.digest`.")
    way: str = Field(description="How it was quantised, or fp32.")
    calibrated_on: str = Field("", description="What scales were taken from, where the way takes any beforehand.")
    measured_on: str = Field("", description="What its quality was measured on.")
    tolerance: float = Field(ge=0, description="Points of the task's metric that it might have lost.")


class ModelEntry(BaseModel):
    """One model as the registry describes it. Frozen; a changed model is a new version."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    task: str
    name: str
    version: str
    runtime: str
    location: str = Field(
        description="A folder: relative to the registry file's own weights, absolute, or of an installed Python package "
        "(package:NAME/FOLDER). Or an address, hf:// or s3://."
    )
    files: dict[Annotated[str, AfterValidator(_plain_name)], Annotated[str, AfterValidator(_hex_digest)]] = Field(
        default_factory=dict,
        description="File name -> SHA-256 in hex. An empty digest is an unsealed file and is refused when opened. Without any, "
        "sealing takes every file of the folder but hidden ones and *.md.",
    )
    beside: dict[Annotated[str, AfterValidator(_plain_name)], Annotated[str, AfterValidator(_hex_digest)]] = Field(
        default_factory=dict,
        description="As `files`, of what drift and evaluations are held against: verified, and no part of the model's digest.",
    )
    licence: str
    trained_on: tuple[str, ...] = ()
    labels: tuple[str, ...] = Field(default=(), description="What comes out: entity types, findings.")
    thresholds: dict[str, Score] = Field(default_factory=dict, description="Label -> lowest score that is published.")
    thresholds_chosen: str = Field(default="", description="How the thresholds were chosen, in words.")
    meant_for: MeantFor | None = Field(
        default=None, description="Of an image model: the pictures that it is for. Without it every picture is judged."
    )
    preprocessing: dict[str, Any] = Field(default_factory=dict, description="What the runtime needs to know.")
    quality: dict[str, float] = Field(default_factory=dict, description="Metric -> measured value, written by evaluation.")
    made_of: Origin | None = Field(default=None, description="Of an exported model (`vigil models export`): its source.")

    @model_validator(mode="after")
    def _thresholds_of_labels(self) -> Self:
        if self.labels and (strange := sorted(self.thresholds.keys() - set(self.labels))):
            raise ValueError(f"thresholds: no label {strange[0]!r}; its labels: {', '.join(self.labels)}")
        return self

    @model_validator(mode="after")
    def _pictures_meant(self) -> Self:
        if self.meant_for is not None and self.task != "image-text":
            raise ValueError(f"meant_for: is of image models, and {self.task} is none")
        return self

    @property
    def digest(self) -> str:
        """SHA-256 (hex) over the sorted lines "name sha256" of all its files: changes when any file does.

        Not with thresholds, preprocessing (types, aggregation, prompts) or labels: whoever changes those gives another version.
        """
        lines = "".join(f"{name} {sha}\n" for name, sha in sorted(self.files.items()))
        return hashlib.sha256(lines.encode()).hexdigest()

    @property
    def identity(self) -> ModelIdentity:
        """What is stamped on every output."""
        return ModelIdentity(name=self.name, version=self.version, digest=self.digest)


Fetch = Callable[[ModelEntry, Path], None]
"""Brings an entry's files from its address into a folder."""


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

    @contextlib.contextmanager
    def view(self) -> Iterator[Path]:
        """Show the entry's files as a folder of their own while the block runs: what was never hashed is not there."""
        with tempfile.TemporaryDirectory(prefix="vigil-model-") as name:
            shown = Path(name)
            for file in self.entry.files:
                link = shown / file
                link.parent.mkdir(parents=True, exist_ok=True)
                link.symlink_to(self.path(file).resolve())
            yield shown


def sha256_of(path: Path) -> str:
    """Hash a file's content: SHA-256 in hex, read in pieces."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


class Registry:
    """The models this process may use. Immutable; to change it, load another."""

    def __init__(
        self, entries: Sequence[tuple[ModelEntry, Path]], stages: Mapping[str, Stage], *, fetch: Fetch | None = None
    ) -> None:
        """Take entries with the folder their files lie in, who serves each task, and what fetches files, if anything may."""
        self._entries = {(entry.task, entry.name): (entry, folder) for entry, folder in entries}
        self._stages = dict(stages)
        self._fetch = fetch

    @classmethod
    def load(cls, path: Path | None = None, *, fetch: Fetch | None = None) -> Self:
        """Read the packaged registry, and lay a site's file over it where one is given.

        With `fetch` (`models.mirror.fetched`) a model whose location is an address is fetched when it is opened and is not here.
        Raises `Fatal` where a file is absent or is not a registry, naming the entry and field.
        """
        path = path or PACKAGED
        return cls.of(path, document_of(path), fetch=fetch)  # once: who writes it meanwhile is seen by the next look

    @classmethod
    def of(cls, path: Path, document: Mapping[str, Any], *, fetch: Fetch | None = None) -> Self:
        """Return the registry that a file makes, from what it holds or is to hold. Raises `Fatal` as `load` does."""
        entries, stages = read_registry(PACKAGED, WEIGHTS) if path != PACKAGED else ([], {})
        entries, stages = [*entries, *_entries(path, document, base_of(path))], stages | _stages(path, document)
        known = cls(_with_pictures(path, document, _with_thresholds(path, document, entries)), stages, fetch=fetch)
        known._check(path, document)
        return known

    def _check(self, path: Path, document: Mapping[str, Any]) -> None:
        """Raise `Fatal` where a file names a model or task that is not there: nobody would serve, or another than was meant."""
        for task in document.get("tasks", {}):
            names, tasks = [e.name for e in self.entries(task)], {t for t, _ in self._entries}
            if not names:
                raise Fatal(f"registry {path}: [tasks.{task}]: no model is of this task", hint=nearest(task, tasks))
            for key, name in (("champion", self._stages[task].champion), ("challenger", self._stages[task].challenger)):
                if name and name not in names:
                    others = [t for t, n in self._entries if n == name]
                    why = f"{name!r} is of the task {others[0]!r}" if others else f"no model of this task is called {name!r}"
                    raise Fatal(f"registry {path}: [tasks.{task}] {key}: {why}", hint=nearest(name, names))
        for raw in document.get("model", []):
            if (task := raw["task"]) not in PROTOCOLS and task not in self._stages:
                raise Fatal(
                    f"registry {path}: model {raw['name']!r}: task: unknown {task!r}",
                    hint=f"{nearest(task, PROTOCOLS)}; a task of the site's own has a [tasks.{task}] with its champion",
                )

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

    def role(self, task: str, name: str) -> str:
        """Say in words what a name is in its task: who serves, is on trial, or is what a rollback goes back to; "" for another."""
        match self._stages.get(task):
            case Stage(champion=champion) if name == champion:
                return f"serves {task}"
            case Stage(challenger=challenger) if name == challenger:
                return f"is on trial for {task}"
            case Stage(previous=previous) if name in previous:
                return f"is what a rollback of {task} goes back to"
        return ""

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

    def weights(self, task: str, name: str | None = None, *, beside: bool = False) -> Weights:
        """Verify a model's files, and with `beside` what drift and evaluations are held against too.

        Raises `Fatal` for a missing file or a digest that differs, `Permanent` as `entry` does, and where it fetches the files as
        `models.mirror.fetched` does.
        """
        entry, folder = self._find(task, name)
        if not entry.files:
            raise Fatal(f"model {entry.name} {entry.version} lists no files", hint="fill [model.files] and seal")
        if is_address(entry.location) and not folder.is_dir():
            if self._fetch is None:
                raise Fatal(
                    f"model {entry.name} {entry.version}: {entry.location} is not on this machine yet",
                    hint=f"`vigil models pull {entry.name}` fetches it, or lanes by themselves where models.fetch is true",
                )
            self._fetch(entry, folder)
        for file, expected in sorted((entry.files | (entry.beside if beside else {})).items()):
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
        """Verify every file of a model, try it out, and return its runtime object, which fills in the task's protocol.

        `name` defaults to the task's champion; `threads` are the intra-op threads of the runtime; `expect` is a protocol
        of `models.tasks` to check against where the task is a site's own.

        Raises `Fatal` (missing file, differing digest, weights that do not load, an object that lacks the protocol's methods or
        answers wrongly, thresholds of labels that it has not) and `Permanent` (unknown name, wrong task, unknown runtime).
        """
        if threads < 1:
            raise Permanent(f"threads must be at least 1, not {threads}")
        weights = self.weights(task, name)
        entry = weights.entry
        load, where = _loader(entry), f"model {entry.name} {entry.version}"
        try:
            model = load(weights, threads=threads)
        except (Fatal, Permanent):
            raise
        except VigilError as error:  # a first run, within the loading
            raise failed(error, where) from error
        except Exception as error:  # whatever a library raises; there is no patient's text yet, so its words may be shown
            words = " ".join(str(error).split())[:300]
            raise Fatal(f"{where}: it does not open ({type(error).__name__}: {words})") from error
        protocol = cast(type, expect if expect is not None else PROTOCOLS.get(task, Model))
        if not isinstance(model, protocol):
            raise Fatal(f"{where}: runtime {entry.runtime} does not fill in the task {task!r}")
        probe(model, protocol, where)
        labels = labels_of(model)
        if labels and (strange := sorted(entry.thresholds.keys() - set(labels))):
            raise Fatal(f"{where}: thresholds: no label {strange[0]!r}", hint=nearest(strange[0], labels))
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
            hint="the file is corrupted or was replaced; restore it (`vigil models pull` does, of a pulled one), or seal "
            "the registry if the change is meant",
        )


def labels_of(model: object) -> tuple[str, ...]:
    """Return the labels that an open model can give, none where it gives none or does not say."""
    return tuple(getattr(model, "labels", ()))


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


def read_registry(path: Path, base: Path) -> tuple[list[tuple[ModelEntry, Path]], dict[str, Stage]]:
    """Read one registry file: its entries with their folders (below `base`), and its stages. Raises `Fatal` as `Registry.load`."""
    document = document_of(path)
    return _entries(path, document, base), _stages(path, document)


def _entries(path: Path, document: Mapping[str, Any], base: Path) -> list[tuple[ModelEntry, Path]]:
    entries: list[tuple[ModelEntry, Path]] = []
    models = document.get("model", [])
    if not isinstance(models, list):
        raise Fatal(f"registry {path}: models are described as [[model]] tables")
    for raw in models:
        entry, name = entry_of(raw, f"registry {path}"), raw.get("name")
        if entry.runtime not in LOADERS:
            hint = nearest(entry.runtime, LOADERS)
            raise Fatal(f"registry {path}: model {name!r}: runtime: unknown {entry.runtime!r}", hint=hint)
        if any((one.task, one.name) == (entry.task, entry.name) for one, _ in entries):
            raise Fatal(f"registry {path}: model {name!r} of the task {entry.task} stands there twice", hint="take one out")
        entries.append((entry, folder_of(entry, base)))
    return entries


def entry_of(raw: Any, place: str) -> ModelEntry:
    """Read one [[model]] table. Raises `Fatal` that names the entry, the field and the `place` where it stands."""
    try:
        return ModelEntry.model_validate(raw)
    except ValidationError as error:
        where, hint = _place(error, ModelEntry)
        name = raw.get("name", "?") if isinstance(raw, dict) else "?"
        raise Fatal(f"{place}: model {name!r}: {where}", hint=hint) from error


def _place(error: ValidationError, of: type[BaseModel]) -> tuple[str, str]:
    """Say where a table is wrong and how, and what key may have been meant."""
    first = error.errors(include_url=False, include_input=False)[0]
    key = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        return f"{key}: there is no such key", nearest(key, of.model_fields)
    said = first["msg"].removeprefix("Value error, ")
    return f"{key}: {said}" if key else said, ""


def nearest(name: str, known: Iterable[str]) -> str:
    """Return a hint: the name that may have been meant, and all that there are."""
    names = sorted(known)
    close = difflib.get_close_matches(name, names, 1)
    return (f"did you mean {close[0]!r}? " if close else "") + f"known: {', '.join(names) or 'none'}"


_Thresholds: Final = TypeAdapter(dict[str, dict[str, Score]])


def _with_thresholds(
    path: Path, document: Mapping[str, Any], entries: Sequence[tuple[ModelEntry, Path]]
) -> list[tuple[ModelEntry, Path]]:
    """Put a site's own thresholds into the entries they are of. Raises `Fatal` for a model or label that is not known."""
    try:
        own = _Thresholds.validate_python(document.get("thresholds", {}))
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, ("thresholds", *first["loc"])))
        raise Fatal(f"registry {path}: [{where}]: {first['msg']}", hint="[thresholds.MODEL] label = score") from error
    if unknown := sorted(own.keys() - {entry.name for entry, _ in entries}):
        hint = nearest(unknown[0], {entry.name for entry, _ in entries})
        raise Fatal(f"registry {path}: [thresholds.{unknown[0]}]: no model has this name", hint=hint)
    found: list[tuple[ModelEntry, Path]] = []
    for entry, folder in entries:
        scores = own.get(entry.name, {})
        if strange := sorted(scores.keys() - set(entry.labels)) if entry.labels else []:
            known = ", ".join(entry.labels)
            raise Fatal(f"registry {path}: [thresholds.{entry.name}]: no label {strange[0]!r}", hint=f"its labels: {known}")
        if scores:
            how = f"{', '.join(scores)}: this site's own. Else: {entry.thresholds_chosen}"
            entry = entry.model_copy(update={"thresholds": entry.thresholds | scores, "thresholds_chosen": how})
        found.append((entry, folder))
    return found


_Pictures: Final = TypeAdapter(dict[str, MeantFor])


def _with_pictures(
    path: Path, document: Mapping[str, Any], entries: Sequence[tuple[ModelEntry, Path]]
) -> list[tuple[ModelEntry, Path]]:
    """Put a site's own lists of pictures into the entries they are of. Raises `Fatal` for what is no image model."""
    try:
        own = _Pictures.validate_python(document.get("meant_for", {}))
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, ("meant_for", *first["loc"])))
        lists = ", ".join(MeantFor.model_fields)
        raise Fatal(f"registry {path}: [{where}]: {first['msg']}", hint=f"[meant_for.MODEL] with {lists}") from error
    images = {entry.name for entry, _ in entries if entry.task == "image-text"}
    if unknown := sorted(own.keys() - images):
        raise Fatal(
            f"registry {path}: [meant_for.{unknown[0]}]: no image model has this name", hint=nearest(unknown[0], images)
        )

    def changed(entry: ModelEntry) -> ModelEntry:
        if entry.name not in own or entry.task != "image-text":
            return entry
        lists = (entry.meant_for or MeantFor()).model_copy(update=own[entry.name].model_dump(exclude_unset=True))
        return entry.model_copy(update={"meant_for": lists})

    return [(changed(entry), folder) for entry, folder in entries]


def _stages(path: Path, document: Mapping[str, Any]) -> dict[str, Stage]:
    stages: dict[str, Stage] = {}
    tables = document.get("tasks", {})
    for task, table in tables.items() if isinstance(tables, dict) else [("NAME", tables)]:
        try:
            stages[task] = Stage.model_validate(table)
        except ValidationError as error:
            where, hint = _place(error, Stage)
            if not hint and where.partition(":")[0] not in Stage.model_fields.keys() - {"champion"}:
                hint = 'it needs champion = "model name"'
            raise Fatal(f"registry {path}: [tasks.{task}] {where}", hint=hint or None) from error
    return stages


_TABLES: Final = frozenset({"model", "tasks", "thresholds", "meant_for"})


def document_of(path: Path) -> dict[str, Any]:
    """Read a registry file as TOML. Raises `Fatal` where it is absent or is none."""
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise Fatal(f"registry file missing: {path}", hint="mend what names it") from error
    except OSError as error:
        raise Fatal(f"registry {path} cannot be read ({error.strerror})", hint="mend what names it") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise Fatal(f"registry {path} is not TOML: {error}") from error
    if strange := sorted(document.keys() - _TABLES):
        # Passed over in silence, the models that ship would answer for those that the file was meant to name.
        raise Fatal(f"{path} is no registry: it has {strange[0]!r}", hint=nearest(strange[0], _TABLES))
    return document


def base_of(path: Path) -> Path:
    """Return the folder that the locations of a registry file's entries are relative to."""
    return WEIGHTS if path == PACKAGED else path.parent


def is_address(location: str) -> bool:
    """Say whether an entry's location is an address and no folder."""
    return "://" in location


def folder_of(entry: ModelEntry, base: Path) -> Path:
    """Return the folder that an entry's location means, of an address the copy's. Raises `Fatal` for an address of another kind."""
    if entry.location.startswith(PACKAGE):
        name, _, inside = entry.location.removeprefix(PACKAGE).partition("/")
        found = importlib.util.find_spec(name) if name.isidentifier() else None  # looks, and imports nothing
        places = (found.submodule_search_locations if found else None) or [str(base / f"package {name} (not installed)")]
        return Path(next(iter(places))) / inside
    if not is_address(entry.location):
        return base / entry.location  # an absolute location stands for itself
    if not entry.location.startswith(ADDRESSES):
        raise Fatal(
            f"model {entry.name}: location {entry.location!r} is neither a folder nor {' nor '.join(ADDRESSES)}",
            hint="put the files into a folder and name that",
        )
    return copy_of(entry, base)


def copy_of(entry: ModelEntry, base: Path) -> Path:
    """Return the folder of the copy of a model that came from elsewhere: another digest is another folder."""
    folder = f"{entry.name}-{entry.digest[:12]}"
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", folder):
        raise Permanent(f"{entry.name!r} cannot be a folder's name")
    return base / folder
