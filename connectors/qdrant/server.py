"""The part of Qdrant's REST API that Vigil uses, over one data folder: so the unmodified qdrant-client (and curl) works against it.

What stands in `ROUTES` is answered as Qdrant 1.19 answers it, held to that by tests/contract/test_vectors.py, which runs the same
requests against a real server. Everything else under /collections gets 501 and says so. Differences that remain: answers of
one node (no shards, replicas, consistency levels), searches are exact, numbers beyond 32 bits are refused, and a request
with an `Origin` header is refused, so that a web page open on this machine cannot reach the store.
"""

import asyncio
import hmac
import logging
import time
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Final

import orjson
import qdrant_edge as edge
from aiohttp import web

from connectors.qdrant import bodies
from connectors.qdrant.engine import Collection, Collections
from connectors.qdrant.operations import OPERATIONS, OPERATIONS_ELSEWHERE
from connectors.qdrant.refusals import Refusal, bad_body, not_found, unsupported, wrong_input

API_VERSION: Final = "1.19.0"  # whose answers these are; the client compares it with its own
LARGEST_BODY: Final = 64 * 1024 * 1024
FLUSH_SECONDS: Final = 10.0  # how much log a start has to read again, at most

log = logging.getLogger(__name__)

STORE: Final = web.AppKey("store", Collections)
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def application(store: Collections, *, api_key: str | None = None) -> web.Application:
    """Build the web application over `store`, which it flushes now and then and closes at the end."""

    @web.middleware
    async def guard(request: web.Request, handler: Handler) -> web.StreamResponse:
        started = time.perf_counter()
        try:
            if "Origin" in request.headers:
                raise Refusal(403, "Forbidden: this store does not serve web pages")
            if api_key and not hmac.compare_digest(request.headers.get("api-key", ""), api_key):
                raise Refusal(401, "Must provide an API key or an Authorization bearer token")
            return await handler(request)
        except Refusal as refusal:
            return _json({"status": {"error": refusal.message}, "time": _since(started)}, refusal.status)
        except (web.HTTPNotFound, web.HTTPMethodNotAllowed):
            raise
        except web.HTTPRequestEntityTooLarge:
            message = f"Payload error: JSON payload is larger than allowed (limit: {LARGEST_BODY} bytes)."
            return _json({"status": {"error": message}, "time": _since(started)}, 413)
        except (asyncio.CancelledError, KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # a panic of the engine is no `Exception`
            # Only kind and place: the message may quote a payload.
            place = traceback.extract_tb(error.__traceback__)[-1]
            what = f"{type(error).__name__} at {place.name}:{place.lineno}"
            log.error("%s %s failed: %s", request.method, request.path, what)
            return _json({"status": {"error": f"Service internal error: {what}"}, "time": _since(started)}, 500)

    app = web.Application(middlewares=[guard], client_max_size=LARGEST_BODY)
    app[STORE] = store
    for method, path, answer in ROUTES:
        app.router.add_route(method, path, _answering(answer))
    app.router.add_get("/", _root)
    for path in ("/healthz", "/livez"):
        app.router.add_get(path, _healthy)
    app.router.add_get("/readyz", _ready)
    app.router.add_route("*", "/collections/{rest:.*}", _elsewhere)
    app.cleanup_ctx.append(_upkeep)
    return app


async def _upkeep(app: web.Application) -> AsyncIterator[None]:
    async def flush_now_and_then() -> None:
        while True:
            await asyncio.sleep(FLUSH_SECONDS)
            app[STORE].flush()

    task = asyncio.create_task(flush_now_and_then())
    yield
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    app[STORE].close()


def _json(body: object, status: int = 200) -> web.Response:
    return web.Response(body=orjson.dumps(body, default=str), status=status, content_type="application/json")


def _since(started: float) -> float:
    return time.perf_counter() - started


async def _root(_: web.Request) -> web.Response:
    return _json({"title": "qdrant - vector search engine (Vigil's embedded store)", "version": API_VERSION})


async def _healthy(_: web.Request) -> web.Response:
    return web.Response(text="healthz check passed")


async def _ready(_: web.Request) -> web.Response:
    return web.Response(text="all shards are ready")


async def _elsewhere(request: web.Request) -> web.Response:
    raise unsupported(f"{request.method} {request.match_info.route.resource and request.path}")


def _answering(answer: Callable[[web.Request], Awaitable[object]]) -> Handler:
    async def handler(request: web.Request) -> web.Response:
        started = time.perf_counter()
        result = await answer(request)
        return _json({"result": result, "status": "ok", "time": _since(started)})

    return handler


async def _body(request: web.Request) -> bodies.Body:
    raw = await request.read()
    try:
        body = orjson.loads(raw or b"{}")
    except orjson.JSONDecodeError as error:
        raise bad_body(f"{error.msg} at line {error.lineno} column {error.colno}") from None
    if not isinstance(body, dict):
        raise bad_body("expected a map")
    return body


def _collection(request: web.Request) -> Collection:
    return request.app[STORE].get(request.match_info["name"])


# ------------------------------------------------------------------------------------------------------------ collections


async def _list_collections(request: web.Request) -> object:
    return {"collections": [{"name": collection.name} for collection in request.app[STORE]]}


async def _collection_exists(request: web.Request) -> object:
    return {"exists": request.match_info["name"] in request.app[STORE]}


async def _create_collection(request: web.Request) -> object:
    request.app[STORE].create(request.match_info["name"], await _body(request))
    return True


async def _drop_collection(request: web.Request) -> object:
    return request.app[STORE].drop(request.match_info["name"])


async def _describe_collection(request: web.Request) -> object:
    collection = _collection(request)
    info = collection.shard.info()
    vectors = {name: {"size": size, "distance": distance} for name, (size, distance) in collection.vectors.items()}
    sparse = {name: {"modifier": modifier} for name, modifier in collection.sparse.items()}
    return {
        "status": "green",
        "optimizer_status": "ok",
        "points_count": collection.shard.count(edge.CountRequest()),  # the shard's own figure counts old versions too
        "indexed_vectors_count": info.indexed_vectors_count,
        "segments_count": info.segments_count,
        "config": {
            "params": {"vectors": vectors.get("", vectors), "sparse_vectors": sparse or None, "shard_number": 1,
                       "replication_factor": 1, "write_consistency_factor": 1, "on_disk_payload": True},
            "hnsw_config": {"m": 0, "ef_construct": 0, "full_scan_threshold": 0, "max_indexing_threads": 0},
            "optimizer_config": {"deleted_threshold": 0.2, "vacuum_min_vector_number": 1000, "default_segment_number": 0,
                                 "flush_interval_sec": int(FLUSH_SECONDS)},
            "wal_config": {"wal_capacity_mb": 32, "wal_segments_ahead": 0},
        },
        "payload_schema": {
            field: {"data_type": _enum_name(index.data_type), "points": index.points}
            for field, index in info.payload_schema.items()
        },
    }  # fmt: skip


def _enum_name(value: object) -> str:
    return str(value).rsplit(".", 1)[-1].lower()


async def _create_index(request: web.Request) -> object:
    collection, body = _collection(request), await _body(request)
    bodies.only(body, "index", frozenset({"field_name", "field_schema"}))
    name = body.get("field_name")
    if not isinstance(name, str) or not name:
        raise bad_body("index: expected a `field_name`")
    operation = edge.UpdateOperation.create_field_index(name, bodies.field_schema(body.get("field_schema")))
    return await _write(request, collection, [operation])


async def _drop_index(request: web.Request) -> object:
    operation = edge.UpdateOperation.delete_field_index(request.match_info["field"])
    return await _write(request, _collection(request), [operation])


async def _change_aliases(request: web.Request) -> object:
    request.app[STORE].aliases.change(await _body(request))
    return True


async def _list_aliases(request: web.Request) -> object:
    only = request.match_info.get("name")
    pairs = [pair for pair in request.app[STORE].aliases if only in (None, pair[1])]
    return {"aliases": [{"alias_name": alias, "collection_name": name} for alias, name in pairs]}


# ---------------------------------------------------------------------------------------------------------------- writing


async def _write(request: web.Request, collection: Collection, operations: list[Any]) -> dict[str, Any]:
    number = 0
    for operation in operations:
        number = collection.write(operation)
    if request.query.get("wait", "false").lower() != "true":
        return {"operation_id": number, "status": "acknowledged"}
    await collection.settled()
    return {"operation_id": number, "status": "completed"}


def _writing(name: str) -> Callable[[web.Request], Awaitable[object]]:
    async def answer(request: web.Request) -> object:
        body = await _body(request)
        collection = _collection(request)
        return await _write(request, collection, [OPERATIONS[name](collection, body)])

    return answer


async def _update_batch(request: web.Request) -> object:
    """One operation after the other, as in Qdrant: those before a refused one stay done."""
    body = bodies.only(await _body(request), "batch", frozenset({"operations"}))
    collection = _collection(request)
    listed = body.get("operations")
    if not isinstance(listed, list):
        raise bad_body("batch: expected a list of `operations`")
    for operation in listed:
        bodies.only(operation, "operation", frozenset(OPERATIONS), OPERATIONS_ELSEWHERE)
        if len(operation) != 1:
            raise bad_body("batch: an operation has one name")
    results = []
    for operation in listed:
        ((name, details),) = operation.items()
        if not isinstance(details, dict):
            raise bad_body(f"{name}: expected a map")
        results.append(collection.write(OPERATIONS[name](collection, details)))
    status = "acknowledged"
    if request.query.get("wait", "false").lower() == "true":
        await collection.settled()
        status = "completed"
    return [{"operation_id": number, "status": status} for number in results]


# ---------------------------------------------------------------------------------------------------------------- reading


def _shown(point: Any, payload: object, vector: object) -> dict[str, Any]:
    """Write a point as Qdrant does: payload and vector only where they were asked for."""
    shown: dict[str, Any] = {"id": point.id}
    if payload is not False:
        shown["payload"] = point.payload or {}
    if vector is not False:
        shown["vector"] = _plain(point.vector) if point.vector is not None else {}
    return shown


def _plain(vector: Any) -> Any:
    if isinstance(vector, dict):
        return {name: _plain(one) for name, one in vector.items()}
    return {"indices": vector.indices, "values": vector.values} if isinstance(vector, edge.SparseVector) else vector


async def _retrieve(request: web.Request) -> object:
    body = bodies.only(
        await _body(request), "retrieve", frozenset({"ids", "with_payload", "with_vector"}), frozenset({"shard_key"})
    )
    collection = _collection(request)
    payload = bodies.with_payload(body.get("with_payload"), default=False)
    vector = bodies.with_vector(body.get("with_vector"))
    ids: list[Any] = list(bodies.point_ids(body.get("ids")))
    found = collection.shard.retrieve(ids, with_payload=payload, with_vector=vector)
    return [_shown(point, payload, vector) for point in found]


async def _get_point(request: web.Request) -> object:
    text = request.match_info["id"]
    try:
        point_id = bodies.point_id(int(text) if text.isdecimal() else text)
    except Refusal:
        raise wrong_input("Can not recognize the point id in the path") from None
    found = _collection(request).shard.retrieve([point_id], with_payload=True, with_vector=True)
    if not found:
        raise not_found(f"Point with id {point_id} does not exists!")
    return _shown(found[0], True, True)


async def _scroll(request: web.Request) -> object:
    known = frozenset({"offset", "limit", "filter", "with_payload", "with_vector"})
    body = bodies.only(await _body(request), "scroll", known, frozenset({"shard_key", "order_by"}))
    collection = _collection(request)
    payload = bodies.with_payload(body.get("with_payload"), default=True)
    vector = bodies.with_vector(body.get("with_vector"))
    asked = edge.ScrollRequest(
        offset=bodies.point_id(body["offset"]) if body.get("offset") is not None else None,
        limit=min(bodies.limit(body, 10, "scroll_request"), max(collection.shard.info().points_count, 1)),
        filter=bodies.filter_of(body.get("filter")),
        with_payload=payload,
        with_vector=vector,
    )
    points, next_offset = collection.shard.scroll(asked)
    return {"points": [_shown(point, payload, vector) for point in points], "next_page_offset": next_offset}


async def _count(request: web.Request) -> object:
    body = bodies.only(await _body(request), "count", frozenset({"filter", "exact"}), frozenset({"shard_key"}))
    asked = edge.CountRequest(exact=True, filter=bodies.filter_of(body.get("filter")))
    return {"count": _collection(request).shard.count(asked)}


def _hits(collection: Collection, body: bodies.Body) -> list[dict[str, Any]]:
    asked = bodies.query_request(body, *_asked(collection, body))
    payload = bodies.with_payload(body.get("with_payload"), default=False)
    wants_vector = bodies.with_vector(body.get("with_vector"))
    return [
        {**_shown(point, payload, wants_vector), "version": point.version, "score": point.score}
        for point in collection.shard.query(asked)
    ]


def _asked(collection: Collection, body: bodies.Body) -> tuple[Any, bodies.PointId | None, list[Any], int]:
    """Read what a query asks by: its vector, the point whose vector that is, its prefetches, and how many points there are."""
    vector, asked_point = bodies.asked_by(body.get("query"))
    using = body.get("using") or ""
    if not isinstance(using, str):
        raise bad_body("using: expected the name of a vector")
    if asked_point is not None:
        vector = _vector_of_point(collection, asked_point, using)
    elif vector is not None:
        vector = collection.checked(using, vector)
    inner = [bodies.prefetch_request(one, *_asked(collection, one)) for one in bodies.prefetch_bodies(body.get("prefetch"))]
    if inner and vector is None:
        raise wrong_input("A query is needed to merge the prefetches. Can't have prefetches without defining a query.")
    return vector, asked_point, inner, collection.shard.info().points_count


def _vector_of_point(collection: Collection, point_id: bodies.PointId, using: str) -> list[float]:
    if using in collection.sparse:
        raise unsupported("a query by a point's sparse vector")
    if using not in collection.vectors:
        raise wrong_input(f"Not existing vector name error: {using}")
    found = collection.shard.retrieve([point_id], with_payload=False, with_vector=True)
    if not found:
        raise not_found(f"No point with id {point_id} found")
    stored: Any = found[0].vector
    vector = stored.get(using) if isinstance(stored, dict) else stored
    if not vector:
        raise wrong_input(f"The point has no vector '{using}'")
    return [float(number) for number in vector]


async def _query(request: web.Request) -> object:
    body = bodies.query_body(await _body(request))
    return {"points": _hits(_collection(request), body)}


async def _query_batch(request: web.Request) -> object:
    return [{"points": points} for points in await _batch(request, bodies.query_body)]


async def _search(request: web.Request) -> object:
    return _hits(_collection(request), bodies.search_body(await _body(request)))


async def _search_batch(request: web.Request) -> object:
    return await _batch(request, bodies.search_body)


async def _batch(request: web.Request, read: Callable[[object], bodies.Body]) -> list[list[dict[str, Any]]]:
    searches = bodies.only(await _body(request), "batch", frozenset({"searches"})).get("searches")
    if not isinstance(searches, list):
        raise bad_body("batch: expected a list of `searches`")
    collection = _collection(request)
    return [_hits(collection, read(one)) for one in searches]


_AT: Final = "/collections/{name}"
ROUTES: Final[tuple[tuple[str, str, Callable[[web.Request], Awaitable[object]]], ...]] = (
    ("GET", "/collections", _list_collections),
    ("GET", "/aliases", _list_aliases),
    ("POST", "/collections/aliases", _change_aliases),
    ("GET", _AT, _describe_collection),
    ("PUT", _AT, _create_collection),
    ("DELETE", _AT, _drop_collection),
    ("GET", f"{_AT}/exists", _collection_exists),
    ("GET", f"{_AT}/aliases", _list_aliases),
    ("PUT", f"{_AT}/index", _create_index),
    ("DELETE", f"{_AT}/index/{{field}}", _drop_index),
    ("PUT", f"{_AT}/points", _writing("upsert")),
    ("POST", f"{_AT}/points", _retrieve),
    ("POST", f"{_AT}/points/delete", _writing("delete")),
    ("POST", f"{_AT}/points/payload", _writing("set_payload")),
    ("PUT", f"{_AT}/points/payload", _writing("overwrite_payload")),
    ("POST", f"{_AT}/points/payload/delete", _writing("delete_payload")),
    ("POST", f"{_AT}/points/batch", _update_batch),
    ("POST", f"{_AT}/points/scroll", _scroll),
    ("POST", f"{_AT}/points/count", _count),
    ("POST", f"{_AT}/points/query", _query),
    ("POST", f"{_AT}/points/query/batch", _query_batch),
    ("POST", f"{_AT}/points/search", _search),
    ("POST", f"{_AT}/points/search/batch", _search_batch),
    ("GET", f"{_AT}/points/{{id}}", _get_point),
)
