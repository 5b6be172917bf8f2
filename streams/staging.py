"""Two collections held side by side: the one that serves and the one that was built anew; how far a rebuild is.

Every step may be repeated: points are written whole under their own ids.
"""

from collections.abc import AsyncIterator, Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final, Literal

import numpy as np
import orjson

from connectors.qdrant.settings import CollectionSpec
from connectors.qdrant.store import VectorStore
from models.errors import Permanent
from processors.vectors import Point
from streams.keeping import keep, try_out

_PAGE: Final = 500  # points compared at a time
_SAME: Final = 1e-6  # of a component of a vector of unit length: what a store's own rounding may change

Phase = Literal["new", "build", "switched"]
Counted = Callable[[int, int], None]


@dataclass(slots=True)
class Building:
    """How far a rebuild is, in a file that only its owner reads; without one it is kept in memory."""

    file: Path | None = None
    collection: str = ""
    digest: str = ""  # of the model
    phase: Phase = "new"
    positions: dict[str, int] = field(default_factory=dict)  # "topic/partition": the offset after the last one applied
    failed: set[tuple[int, int]] = field(default_factory=set)  # partition, offset
    passed: set[tuple[int, int]] = field(default_factory=set)  # likewise, of versions of a note that a newer one has replaced
    staged: str = ""  # the collection that is built
    before: str = ""  # the one that served before the switch

    @classmethod
    def open(cls, file: Path | None) -> "Building":
        """Go on from a file, if there is one; raises `Permanent` for one that is none of a rebuild, or that cannot be written."""
        try_out(file, "progress")
        if file is None or not file.exists():
            return cls(file)
        try:
            kept = orjson.loads(file.read_bytes())
            positions = {str(place): int(offset) for place, offset in kept["positions"].items()}
            failed, passed = ({(int(one[0]), int(one[1])) for one in ones} for ones in (kept["failed"], kept.get("passed", ())))
            names = str(kept["staged"]), str(kept["before"])
            found = cls(file, str(kept["collection"]), str(kept["digest"]), kept["phase"], positions, failed, passed, *names)
        except (orjson.JSONDecodeError, KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
            raise Permanent(f"{file} is no progress file of a rebuild", hint="name another file, or remove it") from error
        if found.phase not in ("build", "switched"):
            raise Permanent(f"{file} is no progress file of a rebuild", hint="name another file, or remove it")
        return found

    def begin(self) -> None:
        """Begin anew."""
        self.phase, self.positions, self.staged, self.before = "new", {}, "", ""
        self.failed.clear()
        self.passed.clear()

    def require(self, collection: str) -> None:
        """Raise `Permanent` where it is of another collection, whose half-built one would be taken or given up for this."""
        if self.phase != "new" and self.collection != collection:
            raise Permanent(f"{self.file} belongs to a rebuild of {self.collection}", hint="name another file")

    def belongs_to(self, collection: str, digest: str) -> None:
        """Begin with this collection and model, or make sure that these are what was begun with; raises `Permanent`."""
        if self.phase == "new":
            self.collection, self.digest, self.phase = collection, digest, "build"
            self.save()
        if self.digest and self.digest != digest:
            raise Permanent(f"{self.file} belongs to a rebuild by another model", hint="--restart begins anew")

    def enter(self, phase: Phase) -> None:
        """Note that a phase begins."""
        self.phase = phase
        self.save()

    def position(self, topic: str, partition: int) -> int:
        """Return the offset to go on from."""
        return self.positions.get(f"{topic}/{partition}", 0)

    def move(self, topic: str, partition: int, offset: int) -> None:
        """Note that all below an offset is applied, or will be by the next `save`."""
        self.positions[f"{topic}/{partition}"] = max(offset, self.position(topic, partition))

    def ends(self, topic: str) -> dict[int, int]:
        """Return the offsets to go on from, by partition."""
        places = (place.rpartition("/") for place in self.positions)
        return {int(number): self.position(name, int(number)) for name, _, number in places if name == topic}

    def save(self) -> None:
        """Keep it, whole or not at all."""
        if self.file is None:
            return
        body = {
            "collection": self.collection,
            "digest": self.digest,
            "phase": self.phase,
            "positions": self.positions,
            "failed": sorted(self.failed),
            "passed": sorted(self.passed),
            "staged": self.staged,
            "before": self.before,
        }
        keep(self.file, orjson.dumps(body), "progress")

    def remove(self) -> None:
        """Forget it: the rebuild is over."""
        if self.file is not None:
            self.file.unlink(missing_ok=True)


@dataclass(frozen=True, slots=True)
class Origins:
    """What the topics could tell of the points of a collection that serves. Offsets by partition."""

    topic: str
    begins: Mapping[int, int]  # below: retention has taken it
    ends: Mapping[int, int]  # at or past: written since, not built
    failed: Collection[tuple[int, int]]
    owners: Collection[str]  # note ids or image event ids of which everything was built

    def judge(self, point: Point) -> Literal["kept", "later", "stale"]:
        """Say what a point that was not built is: none that the topics could give, one written since, or one too many."""
        payload = point.payload
        partition, offset = payload.get("partition"), payload.get("offset")
        if payload.get("note_id") in self.owners or payload.get("version") in self.owners:
            written = isinstance(partition, int) and isinstance(offset, int) and offset >= self.ends.get(partition, 0)
            return "later" if written else "stale"
        if payload.get("topic") != self.topic or not isinstance(partition, int) or not isinstance(offset, int):
            return "kept"
        if offset < self.begins.get(partition, 0) or (partition, offset) in self.failed:
            return "kept"
        return "later" if offset >= self.ends.get(partition, 0) else "stale"


@dataclass(slots=True)
class Survey:
    """How what was built differs from what serves, in points.

    `same`: equal in id, payload and vector. `changed`: another payload or vector. `added`: only built. `removed`: too many.
    `kept`: the topics no longer tell (retention, pixels that are gone), so carried over. `lost`: the same, and of another vector
    length. `later`: written since.
    """

    there: bool = True
    fits: bool = True
    built: int = 0
    served: int = 0
    same: int = 0
    changed: int = 0
    added: int = 0
    kept: int = 0
    lost: int = 0
    later: int = 0
    stale: list[str] = field(default_factory=list)
    farthest: float = 0.0  # largest difference of a component of the vectors of one id

    @property
    def removed(self) -> int:
        """How many are too many."""
        return len(self.stale)

    @property
    def equal(self) -> bool:
        """Tell whether every point that was built is served, and no other."""
        return self.there and self.fits and not (self.changed or self.added or self.stale or self.kept or self.lost)

    @property
    def counts(self) -> dict[str, int]:
        """Return the counts by name."""
        names = ("built", "served", "same", "changed", "added", "removed", "kept", "lost", "later")
        return {name: getattr(self, name) for name in names}

    @property
    def words(self) -> str:
        """Say it in a line."""
        return ", ".join(f"{number} {name}" for name, number in self.counts.items())


async def survey(
    store: VectorStore, serving: CollectionSpec, staged: CollectionSpec, origins: Origins, tell: Counted
) -> Survey:
    """Compare the collections; what the topics no longer tell is carried over into the one that was built."""
    found = Survey(built=await store.count(staged))
    found.there = await store.exists(serving)
    if not found.there:
        found.added = found.built
        return found
    found.fits = await store.fits(serving)
    found.served = total = await store.count(serving)
    met = done = 0
    async for page in _pages(store.scan(serving, vectors=found.fits)):
        built = await store.retrieve(staged, [point.id for point in page])
        carried: list[Point] = []
        for point in page:
            twin = built.get(point.id)
            if twin is not None:
                met += 1
                _compare(found, point, twin)
                continue
            match origins.judge(point):
                case "later":
                    found.later += 1
                case "stale":
                    found.stale.append(point.id)
                case "kept" if found.fits:
                    found.kept += 1
                    carried.append(point)
                case "kept":
                    found.lost += 1
        await store.upsert(staged, carried)
        done += len(page)
        tell(done, total)
    found.added = found.built - met
    return found


def _compare(found: Survey, served: Point, built: Point) -> None:
    apart = float(np.abs(served.vector - built.vector).max()) if served.vector.shape == built.vector.shape else 2.0
    found.farthest = max(found.farthest, apart)
    if apart <= _SAME and served.payload == built.payload:
        found.same += 1
    else:
        found.changed += 1


async def copy(store: VectorStore, source: CollectionSpec, to: CollectionSpec) -> None:
    """Make `to` and store every point of `source` in it, with all that the source is made for."""
    made = await store.spec(source)
    await store.ensure([replace(made, name=to.name, served=False)])
    async for page in _pages(store.scan(made)):
        await store.upsert(replace(made, name=to.name), page)


async def _pages(points: AsyncIterator[Point]) -> AsyncIterator[list[Point]]:
    page: list[Point] = []
    async for point in points:
        page.append(point)
        if len(page) == _PAGE:
            yield page
            page = []
    if page:
        yield page
