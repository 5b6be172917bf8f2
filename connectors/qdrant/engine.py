"""The embedded store's collections: folders of one data folder, each with an engine (qdrant-edge) of its own.

What is promised. A write that was answered (`wait=true`) is in the collection's write-ahead log, and the log is synced to disk
(fsync; writes that wait together share one), so it is there after SIGKILL and after a power failure; `sync=False` leaves out the
fsync, and then it survives SIGKILL but not the machine. A write that was not answered is there whole or not at all, per
operation. A crash while a collection is made or dropped leaves it whole or gone. One process owns a data folder (flock).

Searches are exact (no HNSW graph is built): measured 0.4 ms over 10,000 vectors of 384 dimensions and some 8 ms over 100,000.
Building a graph would stop the process for seconds (the engine holds the interpreter while it does), so past a few hundred
thousand vectors a Qdrant server is the tool.
"""

import asyncio
import fcntl
import os
import shutil
from collections.abc import Container, Iterator, Mapping
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote, unquote

import orjson
import qdrant_edge as edge

from connectors.qdrant import bodies
from connectors.qdrant.refusals import Refusal, bad_body, not_found, unsupported, wrong_input
from models.errors import Fatal, Permanent

_NO_GRAPH_BELOW_KB: Final = 2**40  # vectors' size from which the engine would build HNSW graphs: never
_FORBIDDEN: Final = frozenset('/\\<>:"|?*\0\x1f')  # in a collection's name, as in Qdrant
_DISTANCES: Final = {name: getattr(edge.Distance, name) for name in ("Cosine", "Euclid", "Dot", "Manhattan")}
_MODIFIERS: Final = {"none": getattr(edge.Modifier, "None"), "idf": edge.Modifier.Idf}


class Collection:
    """One collection: its engine, what it was created as, and the sync of its write-ahead log."""

    def __init__(self, name: str, folder: Path, *, sync: bool) -> None:
        self.name = name
        self.folder = folder
        made = orjson.loads((folder / "collection.json").read_bytes())
        self.vectors: Mapping[str, tuple[int, str]] = {n: (size, d) for n, (size, d) in made["vectors"].items()}
        self.sparse: Mapping[str, str] = made.get("sparse", {})  # each with its modifier
        self.shard = edge.EdgeShard.load(str(folder / "shard"))
        self._sync = sync
        self._written = 0
        self._synced = 0
        self._flushed = 0
        self._syncing: asyncio.Task[None] | None = None
        self._broken = ""

    @staticmethod
    def create(folder: Path, vectors: Mapping[str, tuple[int, str]], sparse: Mapping[str, str]) -> None:
        """Write an empty collection into `folder`, which does not exist yet."""
        folder.mkdir()
        params = {name: edge.EdgeVectorParams(size, _DISTANCES[distance]) for name, (size, distance) in vectors.items()}
        config = edge.EdgeConfig(
            vectors=params[""] if set(params) == {""} else params,
            sparse_vectors={name: edge.EdgeSparseVectorParams(modifier=_MODIFIERS[one]) for name, one in sparse.items()},
            optimizers=edge.EdgeOptimizersConfig(indexing_threshold=_NO_GRAPH_BELOW_KB),
        )
        shard = edge.EdgeShard.create(str(folder / "shard"), config)
        shard.flush()
        shard.close()
        write_durably(folder / "collection.json", orjson.dumps({"vectors": vectors, "sparse": sparse}))

    # -------------------------------------------------------------------------------------------------------- writing

    def write(self, operation: Any) -> int:
        """Apply one operation and return its number. It is durable once `settled` returned."""
        if self._broken:
            raise Refusal(500, f"Service internal error: {self._broken}")
        try:
            self.shard.update(operation)
        except Exception as error:  # the engine raises bare exceptions: its words decide
            raise _refused(error) from error
        finally:
            self._written += 1
        return self._written

    async def settled(self) -> None:
        """Return once everything written so far is synced to disk (or at once, if so configured)."""
        target = self._written
        while self._sync and self._synced < target:
            if self._syncing is None or self._syncing.done():
                self._syncing = asyncio.create_task(self._sync_log())
            await asyncio.shield(self._syncing)

    async def _sync_log(self) -> None:
        written = self._written
        try:
            await asyncio.to_thread(sync_folder, self.folder / "shard" / "wal")
        except OSError as error:
            # After a failed fsync nobody knows what is on the disk, and the next fsync may say that all is well: no more writes
            # until a restart reads back what there is.
            self._broken = f"the log of {self.name} could not be synced to disk ({error}); restart the vector store"
            raise Refusal(500, f"Service internal error: {self._broken}") from error
        self._synced = written

    def flush(self) -> None:
        """Write the segments out, so that the log can be cut; nothing to do when nothing was written."""
        if self._flushed != self._written:
            written = self._written
            self.shard.flush()
            self._flushed = written

    def close(self) -> None:
        """Flush and let go."""
        self.shard.flush()
        self.shard.close()

    # --------------------------------------------------------------------------------------------------------- points

    def points(self, body: object) -> list[Any]:
        """Read the points of an upsert, {"points": [...]} or {"batch": {...}}, checked before anything is written."""
        given = bodies.only(body, "upsert", frozenset({"points", "batch"}), _UPSERT_ELSEWHERE)
        batch = given.get("batch")
        rows = list(_point_rows(given.get("points")) if batch is None else _batch_rows(batch))
        if not rows:
            raise Refusal(400, "Bad request: Empty update request")
        return [self._point(*row) for row in rows]

    def _point(self, point_id: object, vector: object, payload: object) -> Any:
        named = vector if isinstance(vector, dict) else {"": vector}
        checked: dict[str, Any] = {name: self.checked(name, one) for name, one in named.items()}
        return edge.Point(
            bodies.point_id(point_id),
            checked.get("", checked),
            bodies.payload(payload) if payload is not None else None,
        )

    def checked(self, name: str, vector: object) -> Any:
        """Return the vector if this collection has one of that name and length; raise Qdrant's refusals otherwise."""
        if name in self.sparse:
            return bodies.sparse_vector(vector)
        if name not in self.vectors:
            raise wrong_input(f"Not existing vector name error: {name}")
        if isinstance(vector, dict) or (isinstance(vector, list) and vector and isinstance(vector[0], list)):
            raise unsupported("multi- and inferred vectors")
        numbers = bodies.vector_of(vector)
        size = self.vectors[name][0]
        if len(numbers) != size:
            where = f" for vector '{name}'" if name else ""
            raise wrong_input(f"Vector dimension error: expected dim: {size}, got {len(numbers)}{where}")
        return numbers

    def require(self, ids: list[Any]) -> None:
        """Raise 404 for an id that no point has, as Qdrant does before it sets payload."""
        have = {record.id for record in self.shard.retrieve(ids, with_payload=False, with_vector=False)}
        for one in ids:
            if one not in have:
                raise not_found(f"No point with id {one} found")


class Aliases:
    """Second names of collections, in one small file; as in Qdrant an alias that is set again leads elsewhere from then on."""

    def __init__(self, file: Path, there: Container[str]) -> None:
        self._file = file
        kept: dict[str, str] = orjson.loads(file.read_bytes()) if file.exists() else {}
        self._there = there
        # A crash while a collection was dropped leaves those that led to it.
        self._all = {alias: name for alias, name in kept.items() if name in there}

    def __iter__(self) -> Iterator[tuple[str, str]]:
        return iter(sorted(self._all.items()))

    def __contains__(self, alias: object) -> bool:
        return alias in self._all

    def resolve(self, name: str) -> str:
        """Return the name of the collection that an alias leads to; any other name is its own."""
        return self._all.get(name, name)

    def change(self, body: object) -> None:
        """Apply `{"actions": [...]}` one after the other, as Qdrant does: those before a refused one stay done."""
        actions = bodies.only(body, "aliases", frozenset({"actions"})).get("actions")
        if not isinstance(actions, list):
            raise bad_body("missing field `actions`")
        before = dict(self._all)
        try:
            for action in actions:
                self._apply(bodies.only(action, "action", frozenset({"create_alias", "delete_alias", "rename_alias"})))
        finally:
            self._keep(before)

    def _apply(self, action: bodies.Body) -> None:
        if len(action) != 1:
            raise bad_body("aliases: an action has one name")
        ((what, details),) = action.items()
        if what == "create_alias":
            name, alias = _names(details, "collection_name", "alias_name")
            if name not in self._there:
                raise not_found(f"Collection `{name}` doesn't exist!")
            self._free(alias)
            self._all[alias] = name
        elif what == "delete_alias":
            (alias,) = _names(details, "alias_name")
            self._all.pop(alias, None)
        else:
            old, new = _names(details, "old_alias_name", "new_alias_name")
            if old not in self._all:
                raise not_found(f"Alias {old} does not exists!")
            self._free(new)
            self._all[new] = self._all.pop(old)

    def _free(self, alias: str) -> None:
        if alias in self._there:
            raise Refusal(409, f"Wrong input: Collection `{alias}` already exists!")
        _valid(alias, "alias_name")

    def forget(self, name: str) -> None:
        """Take away those that led to a collection that is no more."""
        before = dict(self._all)
        self._all = {alias: led for alias, led in self._all.items() if led != name}
        self._keep(before)

    def _keep(self, before: Mapping[str, str]) -> None:
        if self._all != before:
            write_durably(self._file, orjson.dumps(self._all))


def _names(details: object, *fields: str) -> tuple[str, ...]:
    given = bodies.only(details, "action", frozenset(fields))
    found = tuple(given.get(field) for field in fields)
    if not all(isinstance(one, str) for one in found):
        raise bad_body(f"aliases: expected {' and '.join(fields)}")
    return tuple(str(one) for one in found)


def _valid(name: str, where: str) -> None:
    if not 0 < len(name) <= 255 or _FORBIDDEN & set(name):
        raise Refusal(422, f"Validation error in path parameters: [{where}: not a valid name]")


class Collections:
    """All collections of one data folder, which this process owns as long as this object lives."""

    def __init__(self, folder: Path, *, sync: bool = True) -> None:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._folder = folder
        self._sync = sync
        self._lock = (folder / ".lock").open("a")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._lock.close()
            raise Permanent(
                f"another process has the vector store in {folder} open", hint="stop it, or choose another folder"
            ) from error
        for unfinished in (*folder.glob(".creating-*"), *folder.glob(".dropping-*")):
            shutil.rmtree(unfinished)
        self._all = {
            (name := unquote(path.name.removeprefix("c-"))): self._open(name, path) for path in sorted(folder.glob("c-*"))
        }
        self.aliases = Aliases(folder / "aliases.json", self._all)

    def _open(self, name: str, path: Path) -> Collection:
        try:
            collection = Collection(name, path, sync=self._sync)
            collection.shard.optimize()  # sweeps out deleted vectors when they are many; before anybody waits
        except Exception as error:
            raise Fatal(f"the collection {name} in {path} cannot be opened: {error}") from error
        return collection

    def __iter__(self) -> Iterator[Collection]:
        return iter(list(self._all.values()))

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and self.aliases.resolve(name) in self._all

    def get(self, name: str) -> Collection:
        """Return the collection of this name or alias, or raise Qdrant's 404."""
        try:
            return self._all[self.aliases.resolve(name)]
        except KeyError:
            raise not_found(f"Collection `{name}` doesn't exist!") from None

    def create(self, name: str, body: object) -> None:
        """Make a collection: in a folder of another name first, so that a crash leaves all of it or nothing."""
        _valid(name, "collection_name")
        if name in self._all:
            raise Refusal(409, f"Wrong input: Collection `{name}` already exists!")
        if name in self.aliases:
            raise wrong_input(f"Can't create collection with name {name}. Alias with the same name already exists")
        given = bodies.only(body, "collection", frozenset({"vectors", "sparse_vectors"}) | _HINTS, _CREATE_ELSEWHERE)
        vectors, sparse = bodies.vectors_config(given.get("vectors")), bodies.sparse_config(given.get("sparse_vectors"))
        slug = quote(name, safe=" ")
        if len(slug.encode()) > 200:
            raise unsupported("a collection name of that length")
        draft, final = self._folder / f".creating-{slug}", self._folder / f"c-{slug}"
        Collection.create(draft, vectors, sparse)
        draft.rename(final)
        sync_folder(self._folder)
        self._all[name] = self._open(name, final)

    def drop(self, name: str) -> bool:
        """Delete a collection and the aliases that lead to it; False when there was none (an alias alone is none)."""
        collection = self._all.pop(name, None)
        if collection is None:
            return False
        collection.shard.close()
        grave = self._folder / f".dropping-{collection.folder.name}"
        collection.folder.rename(grave)
        sync_folder(self._folder)
        self.aliases.forget(name)
        shutil.rmtree(grave)
        return True

    def flush(self) -> None:
        """Flush every collection that was written to."""
        for collection in self:
            collection.flush()

    def close(self) -> None:
        """Flush and close everything, and let go of the folder."""
        for collection in self:
            collection.close()
        self._all.clear()
        self._lock.close()


# What changes a collection's speed and not its answers is taken and left aside; what would change them is refused.
_HINTS: Final = frozenset({"hnsw_config", "optimizers_config", "wal_config", "on_disk_payload", "metadata"})
_CREATE_ELSEWHERE: Final = frozenset(
    {"shard_number", "sharding_method", "replication_factor", "write_consistency_factor", "init_from",
     "quantization_config", "strict_mode_config"}
)  # fmt: skip
_UPSERT_ELSEWHERE: Final = frozenset({"shard_key", "update_filter", "update_mode"})


def _point_rows(points: object) -> Iterator[tuple[object, object, object]]:
    if not isinstance(points, list):
        raise bad_body("expected a list of points")
    for point in points:
        row = bodies.only(point, "point", frozenset({"id", "vector", "payload"}))
        yield row.get("id"), row.get("vector"), row.get("payload")


def _batch_rows(batch: object) -> Iterator[tuple[object, object, object]]:
    body = bodies.only(batch, "batch", frozenset({"ids", "vectors", "payloads"}))
    ids, vectors = body.get("ids"), body.get("vectors")
    payloads: Any = body.get("payloads")
    if not isinstance(ids, list):
        raise bad_body("batch: expected a list of ids")
    columns: dict[str, Any] = vectors if isinstance(vectors, dict) else {"": vectors}
    for column in (*columns.values(), *([payloads] if payloads is not None else [])):
        if not isinstance(column, list) or len(column) != len(ids):
            raise bad_body("batch: ids, vectors and payloads must have the same length")
    for i, point_id in enumerate(ids):
        row = {name: column[i] for name, column in columns.items()}
        yield point_id, row.get("", row), None if payloads is None else payloads[i]


def _refused(error: Exception) -> Refusal:
    text = str(error)
    return Refusal(400, text if text.startswith("Wrong input") else f"Wrong input: {text}")


# ---------------------------------------------------------------------------------------------------------------- to disk


def sync_folder(folder: Path) -> None:
    """Sync a folder's entry and the contents of its files. A file renamed meanwhile has a new name: look again."""
    while True:
        try:
            for path in (*(path for path in folder.iterdir() if path.is_file()), folder):
                descriptor = os.open(path, os.O_RDONLY)
                try:
                    os.fsync(descriptor)
                finally:
                    os.close(descriptor)
            return
        except FileNotFoundError:
            if not folder.exists():
                return  # dropped meanwhile


def write_durably(path: Path, data: bytes) -> None:
    """Write a small file so that after a crash it is whole or absent."""
    draft = path.with_name(f".{path.name}.draft")
    with draft.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    draft.rename(path)
    sync_folder(path.parent)
