"""`VectorStore`: what lanes and readers do with Qdrant, over qdrant-client, with every trouble named for what it asks (`troubles`).

Writes wait until Qdrant applied them (`wait=True`): when a call returns, what it wrote is stored and found by the next search.
Every write may be repeated: point ids are deterministic, so a repeat overwrites.
"""

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Final, Self, TypeVar, get_args

import httpx
import numpy as np
from qdrant_client import AsyncQdrantClient
from qdrant_client import models as api

from connectors.qdrant.settings import NOTES, WORDS, CollectionSpec, QdrantSettings
from connectors.qdrant.troubles import TROUBLES, raise_for
from models.errors import Fatal, Permanent, Poison
from models.tasks import Floats
from processors.events import ProcessingId
from processors.vectors import Point
from processors.words import Words, of_passage

__all__ = ["Hit", "Point", "VectorStore", "Where"]

T = TypeVar("T")

_OWNERS_PER_CALL: Final = 64  # deletions that travel together when notes are replaced
FIRST: Final = "-0"  # at the end of the name of the first collection behind an alias; a rebuild's ends with its time
_TEST: Final = tuple(one for one in get_args(ProcessingId) if one != "production")
_PAGE: Final = 1000  # points a scroll reads at a time
_IDLE_SECONDS: Final = 2.0  # Qdrant closes a connection after 5 idle seconds: be sooner, or a request meets the closing


@dataclass(frozen=True, slots=True)
class Hit:
    """One point that a search found. `score` is the cosine, in [-1, 1]."""

    id: str
    score: float
    payload: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Where:
    """Which points: all conditions hold, lists are any-of, `since` is inclusive and `until` exclusive; empty asks nothing."""

    patient_ids: Sequence[str] = ()
    not_patient_ids: Sequence[str] = ()
    encounter_ids: Sequence[str] = ()
    note_ids: Sequence[str] = ()
    instance_uids: Sequence[str] = ()
    types: Sequence[str] = ()
    model_digests: Sequence[str] = ()
    since: datetime | None = None
    until: datetime | None = None
    production: bool = False  # leaves out what is marked as test traffic; a point of an earlier release is not marked

    def __post_init__(self) -> None:
        for bound in (self.since, self.until):
            if bound is not None and bound.tzinfo is None:
                raise Permanent("a time without a zone cannot be compared", hint="say which: 2026-01-31T08:00:00+01:00")

    def filter(self) -> api.Filter | None:
        """Return the same as a Qdrant filter; None when nothing is asked."""
        any_of = {
            "patient_id": self.patient_ids,
            "encounter_id": self.encounter_ids,
            "note_id": self.note_ids,
            "instance_uid": self.instance_uids,
            "type": self.types,
            "model_digest": self.model_digests,
        }
        must: list[Any] = [_any(key, wanted) for key, wanted in any_of.items() if wanted]
        must_not: list[Any] = []
        if self.patient_ids and self.not_patient_ids:
            # Said as one condition: on an indexed field Qdrant 1.19 drops a `must_not` that equals a `must`.
            must[0] = _any("patient_id", sorted(set(self.patient_ids) - set(self.not_patient_ids)))
        elif self.not_patient_ids:
            must_not = [_any("patient_id", self.not_patient_ids)]
        if self.since is not None or self.until is not None:
            must.append(api.FieldCondition(key="time", range=api.DatetimeRange(gte=self.since, lt=self.until)))
        if self.production:
            must_not.append(_any("processing", _TEST))
        return api.Filter(must=must or None, must_not=must_not or None) if must or must_not else None


def _any(key: str, wanted: Sequence[str]) -> api.FieldCondition:
    return api.FieldCondition(key=key, match=api.MatchAny(any=list(wanted)))


def _fits(collection: CollectionSpec, vectors: object) -> bool:
    found = vectors.get(collection.vector) if isinstance(vectors, dict) else None
    return isinstance(found, api.VectorParams) and found.size == collection.dimensions and found.distance == api.Distance.COSINE


def _has_words(sparse: Mapping[str, api.SparseVectorParams] | None) -> bool:
    found = (sparse or {}).get(WORDS)
    return found is not None and found.modifier == api.Modifier.IDF


async def _acknowledge_at_once(response: httpx.Response) -> None:
    """Tell the kernel to acknowledge an answer's head now, so that its body follows at once.

    Qdrant writes head and body apart and leaves Nagle's algorithm on, so over a kept connection the body waits for the head's
    acknowledgement, which Linux delays by 40 ms: a search took 44 ms and takes 1.3 ms (Qdrant 1.19, 10 hits).
    """
    if quick := getattr(socket, "TCP_QUICKACK", None):  # Linux only
        connection = response.extensions["network_stream"].get_extra_info("socket")
        if connection is not None:
            connection.setsockopt(socket.IPPROTO_TCP, quick, 1)


class VectorStore:
    """Qdrant, as Vigil uses it. Open it in the event loop that uses it; close it or use it as a context manager."""

    def __init__(self, settings: QdrantSettings) -> None:
        self._settings = settings
        self._url = settings.url
        http: dict[str, Any] = {
            "limits": httpx.Limits(max_connections=16, max_keepalive_connections=16, keepalive_expiry=_IDLE_SECONDS),
            "event_hooks": {"response": [_acknowledge_at_once]},
            "trust_env": False,  # a workstation's proxy variables must not carry patients' vectors outside
        }
        if settings.ca_file is not None:
            http["verify"] = ssl.create_default_context(cafile=str(settings.ca_file))
        key = settings.api_key.get_secret_value() if settings.api_key is not None else None
        self._client = AsyncQdrantClient(
            url=settings.url,
            timeout=max(1, round(settings.timeout)),
            prefer_grpc=settings.prefer_grpc,
            grpc_port=settings.grpc_port,
            headers={"api-key": key} if key else None,  # the client's own argument would warn about http on every start
            check_compatibility=False,  # it would warn from a thread; `version` tells
            **http,
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections."""
        await self._client.close()

    async def _call(self, doing: str, call: Awaitable[T], *, writing: bool = False) -> T:
        try:
            async with asyncio.timeout(self._settings.timeout):
                return await call
        except TROUBLES as error:
            raise_for(error, url=self._url, doing=doing, writing=writing)

    # ---------------------------------------------------------------------------------------------------- collections

    async def version(self) -> str:
        """Return what answers and its version, for `vigil doctor`."""
        info = await self._call("asking the vector store its version", self._client.info())
        return f"{info.title} {info.version}"

    async def ensure(self, collections: Sequence[CollectionSpec]) -> None:
        """Make the collections and their payload indexes, where they are not there yet.

        Raises `Fatal` when a collection is there for vectors of another name, length or distance.
        """
        for collection in collections:
            await self._ensure(collection)

    async def check(self, collection: CollectionSpec) -> None:
        """Raise `Fatal`, as `ensure` would, for a collection that is there and is made for something else; make nothing."""
        if await self.exists(collection):
            self._check(collection, (await self._info(collection)).config.params)

    async def _info(self, collection: CollectionSpec) -> api.CollectionInfo:
        return await self._call(f"looking at the collection {collection.name}", self._client.get_collection(collection.name))

    async def exists(self, collection: CollectionSpec) -> bool:
        """Tell whether the collection is there."""
        doing = f"looking for the collection {collection.name}"
        found: bool = await self._call(doing, self._client.collection_exists(collection.name))
        return found

    async def fits(self, collection: CollectionSpec) -> bool:
        """Tell whether the collection, which is there, holds vectors of this name, length and distance."""
        info = await self._info(collection)
        return _fits(collection, info.config.params.vectors)

    async def spec(self, collection: CollectionSpec) -> CollectionSpec:
        """Return what the collection of this name, which is there, was made for: its one named vector and its indexes."""
        info = await self._info(collection)
        vectors = info.config.params.vectors
        if not isinstance(vectors, dict) or len(vectors) != 1:
            raise Permanent(f"the collection {collection.name} is none of Vigil's: it has not one named vector")
        ((name, params),) = vectors.items()
        indexes: dict[str, Any] = {one: index.data_type.value for one, index in info.payload_schema.items()}
        words = NOTES.words if _has_words(info.config.params.sparse_vectors) else ""
        return replace(collection, vector=name, dimensions=params.size, indexes=indexes, words=words)

    async def drop(self, collection: CollectionSpec) -> None:
        """Delete the collection, and the alias that leads to it, with all that it holds; nothing to do where it is not there."""
        name = await self.target(collection) or collection.name
        await self._call(f"dropping the collection {name}", self._client.delete_collection(name))

    async def target(self, collection: CollectionSpec) -> str | None:
        """Return the name of the collection that answers to this name, by an alias or by itself; None where there is none."""
        doing = f"looking where {collection.name} leads"
        for one in (await self._call(doing, self._client.get_aliases())).aliases:
            if one.alias_name == collection.name:
                return one.collection_name
        return collection.name if await self.exists(collection) else None

    async def names(self) -> list[str]:
        """Return the names of all collections, in order; aliases are not among them."""
        found = await self._call("listing the collections", self._client.get_collections())
        return sorted(one.name for one in found.collections)

    async def switch(self, collection: CollectionSpec, to: str) -> None:
        """Let the alias lead to another collection: at once, for everybody. An alias that is set again is replaced whole."""
        operation = api.CreateAliasOperation(create_alias=api.CreateAlias(collection_name=to, alias_name=collection.name))
        doing = f"switching {collection.name} to {to}"
        await self._call(doing, self._client.update_collection_aliases(change_aliases_operations=[operation]))

    async def settled(self, collection: CollectionSpec) -> bool:
        """Tell whether the store has done its work on the collection: indexed what is to be indexed, so that searches are fast."""
        return (await self._info(collection)).status == api.CollectionStatus.GREEN

    async def _make(self, collection: CollectionSpec, doing: str) -> None:
        """Make it: under an alias, or under its very name. Another process may be faster with any part of it."""
        name = f"{collection.name}{FIRST}" if collection.served else collection.name
        params = api.VectorParams(size=collection.dimensions, distance=api.Distance.COSINE)
        sparse = {WORDS: api.SparseVectorParams(modifier=api.Modifier.IDF)} if collection.words else None
        try:
            await self._client.create_collection(name, vectors_config={collection.vector: params}, sparse_vectors_config=sparse)
        except TROUBLES as error:
            if not await self._call(doing, self._client.collection_exists(name)):
                raise_for(error, url=self._url, doing=doing, writing=False)
        if collection.served and not await self.exists(collection):
            await self.switch(collection, name)

    async def _ensure(self, collection: CollectionSpec) -> None:
        name, doing = collection.name, f"making the collection {collection.name}"
        if not await self.exists(collection):
            await self._make(collection, doing)
        info = await self._info(collection)
        self._check(collection, info.config.params)
        missing = {one: kind for one, kind in collection.indexes.items() if one not in info.payload_schema}
        index = self._client.create_payload_index
        await asyncio.gather(
            *(
                self._call(doing, index(name, one, field_schema=api.PayloadSchemaType(kind), wait=True))
                for one, kind in missing.items()
            )
        )

    def _check(self, collection: CollectionSpec, params: api.CollectionParams) -> None:
        vectors: object = params.vectors
        if not _fits(collection, vectors):
            there = (
                ", ".join(f'"{name}" {one.size} {one.distance.value}' for name, one in vectors.items())
                if isinstance(vectors, dict)
                else "an unnamed vector"
            )
            raise Fatal(
                f"the collection {collection.name} at {self._url} holds {there}; "
                f'this model needs "{collection.vector}" {collection.dimensions} Cosine',
                hint=f"another model was used before: `vigil replay rebuild {collection.name} --reason ...` embeds all anew, by "
                "the one that serves; or let the one serve that it holds vectors of",
            )
        if collection.words and not _has_words(params.sparse_vectors):
            raise Fatal(
                f"the collection {collection.name} at {self._url} was made before search went by words too",
                hint=f"`vigil replay rebuild {collection.name} --reason ...` makes it anew from the topics",
            )

    # -------------------------------------------------------------------------------------------------------- writing

    async def upsert(self, collection: CollectionSpec, points: Sequence[Point]) -> None:
        """Store the points, overwriting those of the same ids; returns once Qdrant applied all of them.

        Raises `Poison` for a vector that is not finite numbers, `Fatal` for one of another length than the collection's.
        """
        rows = [self._row(collection, point) for point in points]
        step = self._settings.points_per_call
        for start in range(0, len(rows), step):
            part = rows[start : start + step]
            doing = f"storing {len(part)} points in {collection.name}"
            await self._call(doing, self._client.upsert(collection.name, points=part, wait=True), writing=True)

    def _row(self, collection: CollectionSpec, point: Point) -> api.PointStruct:
        vector = np.asarray(point.vector, dtype=np.float32)
        if vector.shape != (collection.dimensions,):
            raise Fatal(
                f"a vector of shape {list(vector.shape)} for the collection {collection.name}, which holds "
                f"{collection.dimensions} numbers: the wrong collection for this model"
            )
        if not np.isfinite(vector).all():
            raise Poison(f"the vector of point {point.id} holds NaN or infinity", stage="store")
        vectors: dict[str, Any] = {collection.vector: vector.tolist()}
        if collection.words and (words := of_passage(str(point.payload.get(collection.words) or ""))).indices:
            vectors[WORDS] = _sparse(words)
        return api.PointStruct(id=point.id, vector=vectors, payload=dict(point.payload))

    async def replace(self, collection: CollectionSpec, *, owner_field: str, owner_id: str, points: Sequence[Point]) -> None:
        """Make `points` all that this owner (a note) has: as `replace_all` for one."""
        await self.replace_all(collection, owner_field=owner_field, owners={owner_id: points})

    async def replace_all(self, collection: CollectionSpec, *, owner_field: str, owners: Mapping[str, Sequence[Point]]) -> None:
        """Make the given points all that each owner has; no points: the owner's are deleted.

        The new ones are stored first and then those of the owner's that are not among them deleted, so at any moment the old, the
        new or both are there, never neither; a crash between is mended by repeating the call. (A Qdrant server looks up ids first
        and payloads later: a search under way during the whole of it can miss an owner all of whose ids changed. A note's chunks
        keep their ids over its versions.)
        """
        if not all(owners):
            raise Permanent("an empty owner id would replace the points of nobody in particular")
        await self.upsert(collection, [point for points in owners.values() for point in points])
        stale = [self._stale(owner_field, owner, points) for owner, points in owners.items()]
        for start in range(0, len(stale), _OWNERS_PER_CALL):
            part = stale[start : start + _OWNERS_PER_CALL]
            doing = f"deleting what {len(part)} owners had in {collection.name}"
            call = self._client.batch_update_points(collection.name, update_operations=part, wait=True)
            await self._call(doing, call, writing=True)

    @staticmethod
    def _stale(owner_field: str, owner: str, points: Sequence[Point]) -> api.DeleteOperation:
        theirs = api.FieldCondition(key=owner_field, match=api.MatchValue(value=owner))
        new: list[Any] = [api.HasIdCondition(has_id=[point.id for point in points])] if points else []
        return api.DeleteOperation(delete=api.FilterSelector(filter=api.Filter(must=[theirs], must_not=new or None)))

    async def delete_where(self, collection: CollectionSpec, where: Where) -> None:
        """Delete the points that `where` names; an empty `where` is refused (`Permanent`), it would delete all."""
        chosen = where.filter()
        if chosen is None:
            raise Permanent(f"refusing to delete everything in {collection.name}", hint="say which points")
        doing = f"deleting points in {collection.name}"
        selector = api.FilterSelector(filter=chosen)
        await self._call(doing, self._client.delete(collection.name, points_selector=selector, wait=True), writing=True)

    async def delete_points(self, collection: CollectionSpec, ids: Sequence[str]) -> None:
        """Delete points by their ids; those that are not there already are nothing to it."""
        for start in range(0, len(ids), _PAGE):
            part = list(ids[start : start + _PAGE])
            doing = f"deleting {len(part)} points in {collection.name}"
            selector = api.PointIdsList(points=list(part))
            await self._call(doing, self._client.delete(collection.name, points_selector=selector, wait=True), writing=True)

    async def rekey_patient(self, collections: Sequence[CollectionSpec], *, old: str, new: str) -> int:
        """Give the points of patient `old` to patient `new` (a merge); return how many there were. May be repeated."""
        if not old or not new:
            raise Permanent("a merge needs both patient ids")
        moved = 0
        for collection in collections:
            theirs = api.Filter(must=[_any("patient_id", [old])])
            moved += await self.count(collection, Where(patient_ids=(old,)))
            call = self._client.set_payload(collection.name, payload={"patient_id": new}, points=theirs, wait=True)
            await self._call(f"re-keying a patient's points in {collection.name}", call, writing=True)
        return moved

    # -------------------------------------------------------------------------------------------------------- reading

    async def search(
        self,
        collection: CollectionSpec,
        vector: Floats,
        *,
        where: Where | None = None,
        limit: int = 10,
        least_score: float | None = None,
    ) -> list[Hit]:
        """Return the nearest points, best first; equal scores in the order of their ids."""
        return await self._query(collection, collection.vector, self._dense(collection, vector), where, limit, least_score)

    async def search_both(
        self, collection: CollectionSpec, vector: Floats, words: Words, *, where: Where | None = None, limit: int = 10
    ) -> tuple[list[Hit], dict[str, float]]:
        """Return the `limit` points nearest to the vector and the `limit` that fit the words best; and BM25 by id.

        The points come best cosine first; one that has none of the words (`processors.synonyms.asked`) has no BM25. How rare a
        word is, is taken over the whole collection, whatever `where` names. It is one call: what either of two prefetches finds is
        scored by both.
        """
        query, chosen = self._dense(collection, vector), where.filter() if where is not None else None
        asked: list[tuple[str, Any]] = [(collection.vector, query), *([(WORDS, _sparse(words))] if words.indices else [])]
        found = [api.Prefetch(query=one, using=using, filter=chosen, limit=limit) for using, one in asked]
        requests = [
            api.QueryRequest(prefetch=found, query=one, using=using, limit=len(found) * limit, with_payload=using != WORDS)
            for using, one in asked
        ]
        answers = await self._call(f"searching {collection.name}", self._client.query_batch_points(collection.name, requests))
        near, *named = (_hits(answer) for answer in answers)
        return near, {hit.id: hit.score for hits in named for hit in hits if hit.score > 0}

    @staticmethod
    def _dense(collection: CollectionSpec, vector: Floats) -> list[float]:
        if vector.shape != (collection.dimensions,) or not np.isfinite(vector).all():
            raise Permanent(f"a search in {collection.name} needs {collection.dimensions} finite numbers")
        numbers: list[float] = np.asarray(vector, dtype=np.float32).tolist()
        return numbers

    async def _query(
        self, collection: CollectionSpec, using: str, query: Any, where: Where | None, limit: int, least: float | None
    ) -> list[Hit]:
        call = self._client.query_points(
            collection.name,
            query=query,
            using=using,
            query_filter=where.filter() if where is not None else None,
            limit=limit,
            score_threshold=least,
            with_payload=True,
        )
        return _hits(await self._call(f"searching {collection.name}", call))

    async def count(self, collection: CollectionSpec, where: Where | None = None) -> int:
        """Return how many points there are, exactly."""
        chosen = where.filter() if where is not None else None
        call = self._client.count(collection.name, count_filter=chosen, exact=True)
        return (await self._call(f"counting in {collection.name}", call)).count

    async def scan(
        self,
        collection: CollectionSpec,
        where: Where | None = None,
        *,
        vectors: bool = True,
        payloads: bool | Sequence[str] = True,
    ) -> AsyncIterator[Point]:
        """Yield every point that `where` names, in the order of ids; what is not asked for of them is empty.

        `payloads` may name the fields that are asked for.
        """
        offset: Any = None
        while True:
            call = self._client.scroll(
                collection.name,
                scroll_filter=where.filter() if where is not None else None,
                limit=_PAGE,
                offset=offset,
                with_payload=payloads if isinstance(payloads, bool) else list(payloads),
                with_vectors=[collection.vector] if vectors else False,
            )
            records, offset = await self._call(f"reading {collection.name}", call)
            for record in records:
                yield _point(collection, record)
            if offset is None:
                return

    async def retrieve(self, collection: CollectionSpec, ids: Sequence[str]) -> dict[str, Point]:
        """Return the points of these ids that are there, whole, by id."""
        if not ids:
            return {}
        call = self._client.retrieve(collection.name, ids=list(ids), with_payload=True, with_vectors=[collection.vector])
        records = await self._call(f"reading {len(ids)} points of {collection.name}", call)
        return {str(record.id): _point(collection, record) for record in records}


def _sparse(words: Words) -> api.SparseVector:
    return api.SparseVector(indices=list(words.indices), values=list(words.values))


def _hits(answer: api.QueryResponse) -> list[Hit]:
    hits = [Hit(str(point.id), point.score, point.payload or {}) for point in answer.points]
    return sorted(hits, key=lambda hit: (-hit.score, hit.id))


def _point(collection: CollectionSpec, record: api.Record) -> Point:
    named = record.vector if isinstance(record.vector, dict) else {}
    numbers: Any = named.get(collection.vector, [])
    return Point(str(record.id), np.asarray(numbers, dtype=np.float32), record.payload or {})
