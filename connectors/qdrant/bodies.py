"""Qdrant's REST bodies into the engine's objects: the part of the API that Vigil uses, and a refusal for every other part.

After Qdrant's OpenAPI definition, release 1.19 (https://api.qdrant.tech). Strict on purpose: a field that is not known here is
refused, because a filter read by half would be answered wrong.
"""

from array import array
from collections.abc import Callable, Mapping
from math import isfinite
from typing import Any, Final
from uuid import UUID

import numpy as np
import qdrant_edge as edge

from connectors.qdrant.refusals import bad_body, invalid, unsupported, wrong_input

Body = Mapping[str, Any]
PointId = int | UUID

LARGEST_INTEGER_ID: Final = 2**64 - 1


def only(body: object, what: str, known: frozenset[str], elsewhere: frozenset[str] = frozenset()) -> Body:
    """Return `body` if it is an object with `known` fields only; those of Qdrant's that stand in `elsewhere` answer 501.

    A field that is null counts as left out.
    """
    if not isinstance(body, dict):
        raise bad_body(f"{what}: expected a map")
    for name, value in body.items():
        if name in known or value is None:
            continue
        if name in elsewhere:
            raise unsupported(f"`{name}` in {what}")
        raise bad_body(f"{what}: unknown field `{name}`")
    return body


def point_id(value: object) -> PointId:
    """Read a point id: an unsigned 64-bit integer or a UUID."""
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= LARGEST_INTEGER_ID:
        return value
    if isinstance(value, str):
        try:
            return UUID(value)
        except ValueError:
            pass
    raise bad_body("value is not a valid point ID, valid values are either an unsigned integer or a UUID")


def point_ids(value: object) -> list[PointId]:
    """Read a list of point ids."""
    if not isinstance(value, list):
        raise bad_body("expected a list of point ids")
    return [point_id(one) for one in value]


def payload(value: object) -> dict[str, Any]:
    """Read a payload: a map, or nothing."""
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise bad_body("payload: expected a map")
    return value


def limit(body: Body, default: int, where: str) -> int:
    """Read `limit`: 1 or more."""
    value = body.get("limit")
    if value is None:
        return default
    if not isinstance(value, int) or isinstance(value, bool):
        raise bad_body("limit: expected an unsigned integer")
    if value < 1:
        raise invalid(f"{where}.limit: value {value} invalid, must be 1 or larger")
    return value


# ------------------------------------------------------------------------------------------------------------- selectors


def with_payload(value: object, default: bool) -> Any:
    """Read `with_payload`: true, false, the names to show, or {"include": [...]} / {"exclude": [...]}."""
    if value is None:
        return default
    if isinstance(value, bool):
        return value
    if isinstance(value, list):
        return edge.PayloadSelector.Include(_names(value, "with_payload"))
    chosen = only(value, "with_payload", frozenset({"include", "exclude"}))
    if len(chosen) != 1:
        raise bad_body("with_payload: expected include or exclude")
    if "include" in chosen:
        return edge.PayloadSelector.Include(_names(chosen["include"], "include"))
    return edge.PayloadSelector.Exclude(_names(chosen["exclude"], "exclude"))


def with_vector(value: object) -> bool | list[str]:
    """Read `with_vector`: true, false (default) or the names of the vectors to show."""
    if value is None:
        return False
    return value if isinstance(value, bool) else _names(value, "with_vector")


def _names(value: object, what: str) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
        raise bad_body(f"{what}: expected a list of names")
    return value


# --------------------------------------------------------------------------------------------------------------- filters


def filter_of(value: object) -> Any:
    """Read a filter: `must`, `should`, `must_not` (one condition or a list) and `min_should`. None stays None."""
    if value is None:
        return None
    body = only(value, "filter", frozenset({"must", "should", "must_not", "min_should"}))
    arguments: dict[str, Any] = {
        clause: _conditions(body[clause]) for clause in ("must", "should", "must_not") if body.get(clause) is not None
    }
    if body.get("min_should") is not None:
        least = only(body["min_should"], "min_should", frozenset({"conditions", "min_count"}))
        count = least.get("min_count")
        if not isinstance(count, int) or isinstance(count, bool) or count < 0:
            raise bad_body("min_should: expected an unsigned `min_count`")
        arguments["min_should"] = edge.MinShould(_conditions(least.get("conditions")), count)
    return edge.Filter(**arguments)


def _conditions(value: object) -> list[Any]:
    return [_condition(one) for one in (value if isinstance(value, list) else [value])]


def _condition(value: object) -> Any:
    if not isinstance(value, dict):
        raise bad_body("filter: a condition must be a map")
    for name, read in _SPECIAL_CONDITIONS.items():
        if name in value:
            return read(only(value, "condition", frozenset({name}))[name])
    return _field_condition(value) if "key" in value else filter_of(value)


def _key(value: object, what: str) -> str:
    key = only(value, what, frozenset({"key"})).get("key")
    if not isinstance(key, str):
        raise bad_body(f"{what}: expected a `key`")
    return key


def _nested(value: object) -> Any:
    body = only(value, "nested", frozenset({"key", "filter"}))
    return edge.NestedCondition(_key({"key": body.get("key")}, "nested"), filter_of(body.get("filter") or {}))


def _has_vector(value: object) -> Any:
    if not isinstance(value, str):
        raise bad_body("has_vector: expected the name of a vector")
    return edge.HasVectorCondition(value)


_SPECIAL_CONDITIONS: Final[Mapping[str, Callable[[object], Any]]] = {
    "has_id": lambda value: edge.HasIdCondition(set(point_ids(value))),
    "is_empty": lambda value: edge.IsEmptyCondition(_key(value, "is_empty")),
    "is_null": lambda value: edge.IsNullCondition(_key(value, "is_null")),
    "has_vector": _has_vector,
    "nested": _nested,
}
_FIELD: Final = frozenset({"key", "match", "range", "values_count"})
_GEO: Final = frozenset({"geo_bounding_box", "geo_radius", "geo_polygon", "is_empty", "is_null"})


def _field_condition(value: object) -> Any:
    body = only(value, "condition", _FIELD, _GEO)
    key = body["key"]
    if not isinstance(key, str):
        raise bad_body("condition: `key` must be a string")
    arguments: dict[str, Any] = {}
    if body.get("match") is not None:
        arguments["match"] = _match(body["match"])
    if body.get("range") is not None:
        arguments["range"] = _range(body["range"])
    if body.get("values_count") is not None:
        bounds = only(body["values_count"], "values_count", frozenset({"lt", "gt", "lte", "gte"}))
        arguments["values_count"] = _build(edge.ValuesCount, **{k: v for k, v in bounds.items() if v is not None})
    if not arguments:
        raise invalid("filter: at least one field condition must be specified")
    return _build(edge.FieldCondition, key, **arguments)


def _match(value: object) -> Any:
    body = only(value, "match", frozenset(_MATCHES), frozenset({"prefix", "substring"}))
    given = {name: wanted for name, wanted in body.items() if wanted is not None}
    if len(given) != 1:
        raise bad_body("match: expected exactly one of " + ", ".join(sorted(_MATCHES)))
    ((name, wanted),) = given.items()
    build, fits = _MATCHES[name]
    if not fits(wanted):
        raise bad_body(f"match: `{name}` does not take such a value")
    # The engine's binding takes Python's True for the integer 1, which no boolean equals; numpy's it takes for what it is.
    return _build(build, np.bool_(wanted) if isinstance(wanted, bool) else wanted)


def _scalar(value: object) -> bool:
    return isinstance(value, str | int)  # bool is an int; a float never matches by equality


def _text(value: object) -> bool:
    return isinstance(value, str)


def _scalars(value: object) -> bool:
    return isinstance(value, list) and (
        all(isinstance(one, str) for one in value) or all(isinstance(one, int) and not isinstance(one, bool) for one in value)
    )


_MATCHES: Final[Mapping[str, tuple[Any, Callable[[object], bool]]]] = {
    "value": (edge.MatchValue, _scalar),
    "any": (edge.MatchAny, _scalars),
    "except": (edge.MatchExcept, _scalars),
    "text": (edge.MatchText, _text),
    "text_any": (edge.MatchTextAny, _text),
    "phrase": (edge.MatchPhrase, _text),
}


def _range(value: object) -> Any:
    body = only(value, "range", frozenset({"lt", "gt", "lte", "gte"}))
    bounds = {name: bound for name, bound in body.items() if bound is not None}
    if all(isinstance(bound, int | float) and not isinstance(bound, bool) for bound in bounds.values()):
        return _build(edge.RangeFloat, **bounds)
    if all(isinstance(bound, str) for bound in bounds.values()):
        return _build(edge.RangeDateTime, **bounds)
    raise bad_body("range: expected numbers or RFC 3339 times, not both")


def _build(kind: Any, *arguments: Any, **named: Any) -> Any:
    """Call the engine's constructor; what it refuses (a time that is none, say) is the caller's error."""
    try:
        return kind(*arguments, **named)
    except (ValueError, TypeError, OverflowError) as error:
        raise bad_body(str(error)) from error


# --------------------------------------------------------------------------------------------------------------- queries

_PREFETCH: Final = frozenset({"prefetch", "query", "using", "filter", "params", "score_threshold", "limit"})
_QUERY: Final = _PREFETCH | {"offset", "with_vector", "with_payload"}
_PREFETCH_ELSEWHERE: Final = frozenset({"lookup_from"})
_QUERY_ELSEWHERE: Final = _PREFETCH_ELSEWHERE | {"shard_key"}
_SEARCH: Final = frozenset({"vector", "filter", "params", "score_threshold", "limit", "offset", "with_vector", "with_payload"})
_PARAMS: Final = frozenset({"exact", "hnsw_ef", "indexed_only"})


def query_body(value: object) -> Body:
    """Check the fields of a /points/query body."""
    return only(value, "query", _QUERY, _QUERY_ELSEWHERE)


def prefetch_bodies(value: object) -> list[Body]:
    """Read `prefetch`, one or a list: the queries among whose points a query chooses."""
    listed = [] if value is None else value if isinstance(value, list) else [value]
    return [only(one, "prefetch", _PREFETCH, _PREFETCH_ELSEWHERE) for one in listed]


def search_body(value: object) -> Body:
    """Read a legacy /points/search body as the /points/query body that means the same."""
    body = dict(only(value, "search", _SEARCH, frozenset({"shard_key"})))
    vector = body.pop("vector", None)
    if isinstance(vector, dict):
        vector = only(vector, "vector", frozenset({"name", "vector"}))
        body["using"], vector = vector.get("name"), vector.get("vector")
    if not isinstance(vector, list) or not isinstance(body.get("limit"), int):
        raise bad_body("search: expected a `vector` and a `limit`")
    body["query"] = vector
    return body


def query_request(body: Body, vector: Any, without: PointId | None, prefetches: list[Any], largest: int) -> Any:
    """Build the engine's query. `without` leaves out the point that was asked by, as Qdrant does.

    `largest` bounds `limit` to the points there are: the engine sets memory aside for what is asked.
    """
    offset = body.get("offset") or 0
    if not isinstance(offset, int) or isinstance(offset, bool) or offset < 0:
        raise bad_body("offset: expected an unsigned integer")
    return _build(
        edge.QueryRequest,
        offset=min(offset, max(largest, 1)),
        with_payload=with_payload(body.get("with_payload"), default=False),
        with_vector=with_vector(body.get("with_vector")),
        **_scoring(body, vector, without, prefetches, largest),
    )


def prefetch_request(body: Body, vector: Any, without: PointId | None, prefetches: list[Any], largest: int) -> Any:
    """Build the engine's prefetch, as `query_request` does."""
    return _build(edge.Prefetch, **_scoring(body, vector, without, prefetches, largest))


def _scoring(body: Body, vector: Any, without: PointId | None, prefetches: list[Any], largest: int) -> dict[str, Any]:
    chosen = filter_of(body.get("filter"))
    if without is not None:
        itself = edge.HasIdCondition({without})
        chosen = edge.Filter(must_not=[itself], must=[chosen] if chosen is not None else None)
    threshold = body.get("score_threshold")
    if threshold is not None and (not isinstance(threshold, int | float) or isinstance(threshold, bool)):
        raise bad_body("score_threshold: expected a number")
    return {
        "limit": min(limit(body, 10, "internal"), max(largest, 1)),
        "query": None if vector is None else edge.Query.Nearest(vector, using=body.get("using") or ""),
        "prefetches": prefetches or None,
        "filter": chosen,
        "score_threshold": threshold,
        "params": _params(body.get("params")),
    }


def _params(value: object) -> Any:
    if value is None:
        return None
    body = only(value, "params", _PARAMS, frozenset({"quantization", "acorn", "idf"}))
    return _build(edge.SearchParams, **{name: chosen for name, chosen in body.items() if chosen is not None})


def vector_of(value: object) -> list[float]:
    """Read a dense vector: a non-empty list of numbers that 32 bits can hold."""
    if isinstance(value, list) and value:
        try:
            if isfinite(sum(array("f", value))):  # the quickest check there is: a few microseconds for 384 numbers
                return value
        except TypeError:
            pass
        else:
            raise wrong_input("a vector holds a number that 32 bits cannot hold")
    raise bad_body("data did not match any variant of a dense vector")


def sparse_vector(value: object) -> Any:
    """Read a sparse vector: {"indices": [...], "values": [...]} of one length, the indices 32 bits wide and each once."""
    body = only(value, "vector", frozenset({"indices", "values"}))
    indices, values = body.get("indices"), body.get("values")
    if not isinstance(indices, list) or not all(type(index) is int and 0 <= index < 2**32 for index in indices):
        raise bad_body("vector: `indices` are a list of unsigned 32-bit integers")
    if not isinstance(values, list) or len(values) != len(indices):
        raise invalid("values: must be the same length as indices")
    if len(set(indices)) != len(indices):
        raise invalid("indices: must be unique")
    return edge.SparseVector(indices, vector_of(values) if values else [])


def asked_by(query: object) -> tuple[Any, PointId | None]:
    """Read `query`: a vector, a point id, either in {"nearest": ...}, or null for "any points": (vector as given, id)."""
    if isinstance(query, dict) and "indices" not in query:
        if "nearest" not in query:
            raise unsupported("the query " + ", ".join(sorted(map(str, query))))
        query = only(query, "query", frozenset({"nearest"}), frozenset({"mmr"}))["nearest"]
        if query is None or (isinstance(query, dict) and "indices" not in query):
            raise unsupported("an inferred query vector")
    if isinstance(query, dict):
        return query, None
    if query is None:
        return None, None
    if isinstance(query, list):
        if query and isinstance(query[0], list):
            raise unsupported("a multivector query")
        return vector_of(query), None
    return None, point_id(query)


def field_schema(value: object) -> Any:
    """Read a payload index's schema: its type's name, or {"type": ...} with options that change speed and not answers."""
    if isinstance(value, dict):
        body = only(
            value, "field_schema", frozenset({"type", "is_tenant", "is_principal", "on_disk", "enable_hnsw", "memory"}),
            frozenset({"lookup", "range", "tokenizer", "min_token_len", "max_token_len", "lowercase", "ascii_folding",
                       "phrase_matching", "stopwords", "stemmer", "prefix", "nested", "scoring"}),
        )  # fmt: skip
        value = body.get("type")
    name = str(value).capitalize()
    if not isinstance(value, str) or value != name.lower() or not hasattr(edge.PayloadSchemaType, name):
        raise bad_body("field_schema: unknown type")
    return getattr(edge.PayloadSchemaType, name)


def vectors_config(value: object) -> dict[str, tuple[int, str]]:
    """Read a collection's `vectors`: name -> (dimensions, distance). One unnamed vector has the name ""."""
    if isinstance(value, dict) and "size" in value:
        return {"": _vector_params(value)}
    if isinstance(value, dict) and value:
        return {str(name): _vector_params(one) for name, one in value.items()}
    raise wrong_input("`vectors` must describe at least one dense vector")


def sparse_config(value: object) -> dict[str, str]:
    """Read a collection's `sparse_vectors`: name -> modifier, "none" or "idf"."""
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise bad_body("sparse_vectors: expected a map")
    return {str(name): _modifier(one) for name, one in value.items()}


def _modifier(value: object) -> str:
    body = only(value, "sparse_vectors", frozenset({"modifier", "index"}))
    if body.get("index") is not None:  # speed and memory alone, but for the numbers' width
        only(body["index"], "index", frozenset({"full_scan_threshold", "on_disk"}), frozenset({"datatype", "memory"}))
    modifier = body.get("modifier") or "none"
    if modifier not in ("none", "idf"):
        raise bad_body("sparse_vectors: `modifier` must be none or idf")
    return str(modifier)


_VECTOR: Final = frozenset({"size", "distance", "on_disk", "hnsw_config"})
_VECTOR_ELSEWHERE: Final = frozenset({"quantization_config", "multivector_config", "datatype", "memory"})


def _vector_params(value: object) -> tuple[int, str]:
    body = only(value, "vectors", _VECTOR, _VECTOR_ELSEWHERE)
    size, distance = body.get("size"), body.get("distance")
    if not isinstance(size, int) or isinstance(size, bool) or not 1 <= size <= 65536:
        raise bad_body("vectors: `size` must be 1 to 65536")
    if not isinstance(distance, str) or distance not in ("Cosine", "Euclid", "Dot", "Manhattan"):
        raise bad_body("vectors: `distance` must be Cosine, Euclid, Dot or Manhattan")
    return size, distance
