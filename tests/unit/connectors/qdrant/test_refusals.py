"""What the embedded store refuses: what it does not have, what no client should ask, who should not ask at all."""

import io
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp.test_utils import TestClient, TestServer

from connectors.qdrant.engine import Collection, Collections
from connectors.qdrant.server import application

Client = TestClient[Any, Any]
VECTORS = {"vectors": {"text": {"size": 8, "distance": "Cosine"}}}
NUMBERS = [1.0] * 8


@pytest.fixture
async def http(tmp_path: Path) -> AsyncIterator[Client]:
    async with TestClient(TestServer(application(Collections(tmp_path / "data", sync=False)))) as client:
        yield client


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "/points/query", {"query": {"recommend": {"positive": [1]}}}),
        ("POST", "/points/query", {"query": {"fusion": "rrf"}, "prefetch": [{"query": NUMBERS}]}),
        ("POST", "/points/query", {"query": NUMBERS, "using": "text", "prefetch": {"query": [NUMBERS], "using": "text"}}),
        ("POST", "/points/query", {"query": NUMBERS, "using": "text", "prefetch": [{"lookup_from": {"collection": "x"}}]}),
        ("POST", "/points/query", {"query": {"indices": [1], "values": [1.0]}, "using": "text"}),
        ("POST", "/points/query", {"query": {"nearest": {"text": "pain", "model": "qdrant/bm25"}}, "using": "text"}),
        ("POST", "/points/query", {"query": [NUMBERS], "using": "text"}),
        ("POST", "/points/query", {"query": NUMBERS, "using": "text", "lookup_from": {"collection": "x"}}),
        ("POST", "/points/query", {"query": NUMBERS, "using": "text", "shard_key": "a"}),
        ("POST", "/points/query", {"query": NUMBERS, "using": "text", "params": {"quantization": {"ignore": True}}}),
        ("POST", "/points/query/groups", {"query": NUMBERS, "group_by": "note_id"}),
        ("POST", "/points/scroll", {"order_by": "version"}),
        ("POST", "/points/scroll", {"filter": {"must": {"key": "where", "geo_radius": {"radius": 1}}}}),
        ("PUT", "/points", {"points": [{"id": 1, "vector": {"text": [NUMBERS]}}]}),
        ("PUT", "/points", {"points": [{"id": 1, "vector": {"text": {"indices": [1], "values": [1.0]}}}]}),
        ("PUT", "/points/vectors", {"points": []}),
        ("PUT", "/index", {"field_name": "passage", "field_schema": {"type": "text", "tokenizer": "word"}}),
        ("PATCH", "", {"optimizers_config": {}}),
        ("POST", "/snapshots", None),
        ("GET", "/cluster", None),
    ],
)  # fmt: skip
async def test_what_is_not_supported_says_so(http: Client, method: str, path: str, body: Any) -> None:
    await http.put("/collections/notes", json=VECTORS)
    answer = await http.request(method, f"/collections/notes{path}", json=body)
    said = await answer.json()
    assert answer.status == 501, said
    assert "A Qdrant server has it" in said["status"]["error"]


@pytest.mark.parametrize(
    "body",
    [{}, {"vectors": {}}, {"vectors": {"text": {"size": 8}}}, {"vectors": {"text": {"size": 1e9, "distance": "Cosine"}}},
     {"vectors": {"text": {"size": 8, "distance": "Cosine", "surprise": 1}}}, {"surprise": 1},
     VECTORS | {"sparse_vectors": {"words": {"modifier": "bm25"}}}, VECTORS | {"sparse_vectors": ["words"]}],
)  # fmt: skip
async def test_a_collection_that_cannot_be_made_leaves_nothing(http: Client, body: Any) -> None:
    assert (await http.put("/collections/notes", json=body)).status == 400
    assert (await (await http.get("/collections")).json())["result"]["collections"] == []
    assert (await http.put("/collections/notes", json=VECTORS)).status == 200


async def test_numbers_beyond_32_bits_are_refused(http: Client) -> None:
    await http.put("/collections/notes", json=VECTORS)
    for number in (1e39, -1e300):
        point = {"id": 1, "vector": {"text": [number] + [0.0] * 7}}
        assert (await http.put("/collections/notes/points", json={"points": [point]})).status == 400
    counted = await (await http.post("/collections/notes/points/count", json={})).json()
    assert counted["result"] == {"count": 0}


@pytest.mark.parametrize(
    "sparse",
    [{"indices": [1, 1], "values": [1.0, 2.0]}, {"indices": [1, 2], "values": [1.0]}, {"indices": [2**32], "values": [1.0]},
     {"indices": [True], "values": [1.0]}, {"indices": [1], "values": [1e39]}, {"indices": [1]}, [1.0], None],
)  # fmt: skip
async def test_a_sparse_vector_that_is_none_is_refused(http: Client, sparse: Any) -> None:
    await http.put("/collections/notes", json=VECTORS | {"sparse_vectors": {"words": {"modifier": "idf"}}})
    point = {"id": 1, "vector": {"text": NUMBERS, "words": sparse}}
    for path, body in (
        ("", {"points": [point]}),
        ("/query", {"query": {"indices": None} if sparse is None else sparse, "using": "words"}),
    ):
        answer = await http.request("POST" if path else "PUT", f"/collections/notes/points{path}", json=body)
        assert answer.status in (400, 422), await answer.text()
    counted = await (await http.post("/collections/notes/points/count", json={})).json()
    assert counted["result"] == {"count": 0}


@pytest.mark.parametrize(
    "body",
    [{"prefetch": [{"query": NUMBERS, "using": "text"}]}, {"query": NUMBERS, "using": "text", "prefetch": "text"},
     {"query": NUMBERS, "using": "text", "prefetch": [{"query": NUMBERS, "using": "text", "with_payload": True}]},
     {"query": NUMBERS, "using": "text", "prefetch": [{"query": NUMBERS, "using": "image"}]},
     {"query": NUMBERS, "using": "text", "prefetch": [{"query": NUMBERS, "using": "text", "limit": 0}]}],
)  # fmt: skip
async def test_a_prefetch_that_is_none_is_refused(http: Client, body: Any) -> None:
    await http.put("/collections/notes", json=VECTORS)
    answer = await http.post("/collections/notes/points/query", json=body)
    assert answer.status in (400, 422), await answer.text()


async def test_a_body_over_the_limit_is_refused(http: Client) -> None:
    answer = await http.post("/collections/notes/points/count", data=io.BytesIO(b" " * (65 * 1024 * 1024)))
    assert answer.status == 413
    assert "larger than allowed" in (await answer.json())["status"]["error"]


async def test_web_pages_are_refused(http: Client) -> None:
    for origin in ("http://evil.example", "null"):
        answer = await http.put("/collections/notes", json=VECTORS, headers={"Origin": origin})
        assert answer.status == 403
    assert (await (await http.get("/collections")).json())["result"]["collections"] == []


async def test_an_engine_that_fails_is_answered_and_quotes_nothing(
    http: Client, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    await http.put("/collections/notes", json=VECTORS)

    def fail(*_: object) -> None:
        raise RuntimeError("Jane Doe fell")

    monkeypatch.setattr(Collection, "points", fail)
    answer = await http.put("/collections/notes/points", json={"points": []})
    assert answer.status == 500
    assert "Jane" not in await answer.text() + caplog.text
    assert "RuntimeError" in caplog.text


async def test_a_disk_that_does_not_sync_stops_the_writing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Collections(tmp_path / "data")
    async with TestClient(TestServer(application(store))) as http:
        await http.put("/collections/notes", json=VECTORS)
        upsert = {"points": [{"id": 1, "vector": {"text": NUMBERS}}]}

        def fail(_: Path) -> None:
            raise OSError(5, "Input/output error")

        with monkeypatch.context() as patch:
            patch.setattr("connectors.qdrant.engine.sync_folder", fail)
            assert (await http.put("/collections/notes/points?wait=true", json=upsert)).status == 500
        answer = await http.put("/collections/notes/points?wait=true", json=upsert)
        assert answer.status == 500  # after a failed fsync, one that succeeds proves nothing
        assert "could not be synced" in (await answer.json())["status"]["error"]
        assert (await http.post("/collections/notes/points/count", json={})).status == 200
