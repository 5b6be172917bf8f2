"""What writes: Qdrant's point operations into the engine's, checked against the collection before they reach its log."""

from collections.abc import Callable, Mapping
from typing import Any, Final

import qdrant_edge as edge

from connectors.qdrant import bodies
from connectors.qdrant.bodies import Body
from connectors.qdrant.engine import Collection
from connectors.qdrant.refusals import bad_body


def _by_ids_or_filter(collection: Collection, body: Body, *, must_exist: bool) -> tuple[str, Any]:
    """Read whom an operation is for: ("", ids) or ("_by_filter", filter)."""
    if body.get("points") is not None and body.get("filter") is None:
        ids = bodies.point_ids(body["points"])
        if must_exist:
            collection.require(ids)
        return "", ids
    if body.get("filter") is not None and body.get("points") is None:
        return "_by_filter", bodies.filter_of(body["filter"])
    raise bad_body("Either list of point ids or filter must be provided")


def _upsert(collection: Collection, body: Body) -> Any:
    return edge.UpdateOperation.upsert_points(collection.points(body))


def _delete(collection: Collection, body: Body) -> Any:
    bodies.only(body, "delete", frozenset({"points", "filter"}), frozenset({"shard_key"}))
    suffix, whom = _by_ids_or_filter(collection, body, must_exist=False)
    return getattr(edge.UpdateOperation, "delete_points" + suffix)(whom)


def _set_payload(collection: Collection, body: Body, verb: str = "set") -> Any:
    bodies.only(body, "payload", frozenset({"points", "filter", "payload", "key"}), frozenset({"shard_key"}))
    if not isinstance(body.get("payload"), dict):
        raise bad_body("payload: expected a map")
    if body.get("key") is not None and not isinstance(body["key"], str):
        raise bad_body("key: expected a path")
    suffix, whom = _by_ids_or_filter(collection, body, must_exist=True)
    return getattr(edge.UpdateOperation, f"{verb}_payload{suffix}")(whom, body["payload"], body.get("key"))


def _overwrite_payload(collection: Collection, body: Body) -> Any:
    return _set_payload(collection, body, "overwrite")


def _delete_payload(collection: Collection, body: Body) -> Any:
    bodies.only(body, "payload", frozenset({"points", "filter", "keys"}), frozenset({"shard_key"}))
    keys = body.get("keys")
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
        raise bad_body("keys: expected a list of paths")
    suffix, whom = _by_ids_or_filter(collection, body, must_exist=True)
    return getattr(edge.UpdateOperation, "delete_payload" + suffix)(whom, keys)


OPERATIONS: Final[Mapping[str, Callable[[Collection, Body], Any]]] = {
    "upsert": _upsert,
    "delete": _delete,
    "set_payload": _set_payload,
    "overwrite_payload": _overwrite_payload,
    "delete_payload": _delete_payload,
}
OPERATIONS_ELSEWHERE: Final = frozenset({"clear_payload", "update_vectors", "delete_vectors"})
