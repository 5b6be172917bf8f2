"""Garbage in: whatever JSON arrives at whatever route, the embedded store answers in Qdrant's shape and never with a failure."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp.test_utils import TestClient, TestServer
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from connectors.qdrant import bodies
from connectors.qdrant.engine import Collections
from connectors.qdrant.refusals import Refusal
from connectors.qdrant.server import ROUTES, application

CLAUSES = ("must", "should", "must_not")
UUID_1 = "00000000-0000-0000-0000-000000000001"
NAMES = [
    "points",
    "filter",
    "must",
    "should",
    "must_not",
    "min_should",
    "conditions",
    "min_count",
    "key",
    "match",
    "value",
    "any",
]
NAMES += [
    "range",
    "gte",
    "lt",
    "has_id",
    "is_empty",
    "is_null",
    "has_vector",
    "nested",
    "include",
    "exclude",
    "query",
    "nearest",
]
NAMES += [
    "using",
    "params",
    "exact",
    "hnsw_ef",
    "score_threshold",
    "ids",
    "id",
    "vector",
    "payload",
    "batch",
    "vectors",
    "payloads",
]
NAMES += ["operations", "upsert", "delete", "searches", "field_name", "field_schema", "type", "size", "distance", "order_by"]
atoms = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**70), 2**70), st.floats(allow_nan=False, allow_infinity=False), st.text(max_size=8),
    st.sampled_from(["text", "a", "t", "tags", "tags[]", UUID_1, "2026-01-01T00:00:00Z", "2026-01-01", "", "a[].b", 1, 2, -1]),
    st.just([1.0, 0.0, 0.5, 0.0]),
)  # fmt: skip
junk = st.recursive(
    atoms, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(NAMES), inner, max_size=3), max_leaves=12
)
matches = st.fixed_dictionaries({}, optional=dict.fromkeys(("value", "any", "text", "phrase", "except", "text_any"), junk))
fields = st.fixed_dictionaries(
    {"key": st.sampled_from(["a", "t", "tags", "tags[]", "x.y", ""]) | junk},
    optional={
        "match": matches,
        "range": st.dictionaries(st.sampled_from(["gt", "gte", "lt", "lte"]), atoms),
        "values_count": junk,
    },
)
filters = st.recursive(
    st.one_of(fields, st.fixed_dictionaries({"has_id": st.lists(atoms, max_size=3)}), junk),
    lambda inner: st.fixed_dictionaries({}, optional=dict.fromkeys(CLAUSES, inner | st.lists(inner, max_size=2))),
    max_leaves=6,
)  # fmt: skip
points = st.lists(
    st.fixed_dictionaries({"id": atoms, "vector": st.just({"text": [1, 2, 3, 4]}) | junk, "payload": junk}), max_size=2
)
requests = st.fixed_dictionaries(
    {},
    optional={
        "filter": filters, "points": points | st.lists(atoms, max_size=2), "query": atoms | junk, "using": st.just("text") | atoms,
        "limit": atoms, "offset": atoms, "with_payload": junk, "with_vector": junk, "payload": junk, "ids": st.lists(atoms),
        "operations": st.lists(st.dictionaries(st.sampled_from(["upsert", "delete", "set_payload", "zz"]), junk), max_size=2),
    },
)  # fmt: skip


@given(filters)
def test_a_filter_is_read_or_refused(body: Any) -> None:
    try:
        bodies.filter_of(body)
    except Refusal as refusal:
        assert refusal.status in (400, 422, 501)


@pytest.fixture
async def http(tmp_path: Path) -> AsyncIterator[TestClient[Any, Any]]:
    store = Collections(tmp_path / "data", sync=False)
    store.create("c", {"vectors": {"text": {"size": 4, "distance": "Cosine"}}})
    async with TestClient(TestServer(application(store))) as client:
        many = [
            {"id": n, "vector": {"text": [1, n, 0, 1]}, "payload": {"a": n, "t": "2026-01-01", "x": {"y": [1]}, "tags": ["a"]}}
            for n in range(1, 20)
        ]  # fmt: skip
        answer = await client.put("/collections/c/points?wait=true", json={"points": many})
        assert answer.status == 200
        yield client


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(route=st.sampled_from([(method, path) for method, path, _ in ROUTES if method != "DELETE"]), body=requests | junk)
async def test_any_json_at_any_route(http: TestClient[Any, Any], route: tuple[str, str], body: Any) -> None:
    method, path = route
    answer = await http.request(method, path.replace("{name}", "c").replace("{id}", "7"), json=body, params={"wait": "true"})
    said = await answer.json()
    assert answer.status in (200, 400, 404, 409, 422, 501), said
    if answer.status != 200:
        assert isinstance(said["status"]["error"], str)


@pytest.mark.parametrize(
    "raw", [b"", b"{", b"[]", b"null", b"\xff\xfe", b'"' + b"x" * 100, b"{}" * 2, b'{"limit":1e999}', b"[" * 10_000]
)
async def test_bytes_that_are_no_json(http: TestClient[Any, Any], raw: bytes) -> None:
    answer = await http.post("/collections/c/points/query", data=raw)
    said = await answer.json()
    assert answer.status == (200 if raw == b"" else 400), said
