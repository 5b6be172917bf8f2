"""What goes wrong on the way to Qdrant, as it is raised: against servers that refuse, hang, break off or answer nonsense."""

import asyncio
import traceback
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from connectors.qdrant.settings import CollectionSpec, QdrantSettings
from connectors.qdrant.store import Point, VectorStore, Where
from connectors.qdrant.troubles import Missing
from models.errors import Fatal, Permanent, Poison, Transient, VigilError

SPEC = CollectionSpec("notes", "text", 4)
SECRET = "Jane Doe"
POINT = Point(str(uuid.UUID(int=1)), np.ones(4, np.float32), {"passage": SECRET})
Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]


@asynccontextmanager
async def answering(answer: Answer, **settings: Any) -> AsyncIterator[VectorStore]:
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", answer)
    async with TestServer(app) as server, VectorStore(QdrantSettings(url=str(server.make_url("/")), **settings)) as store:
        yield store


def saying(status: int, error: str = f"something about {SECRET}", **headers: str) -> Answer:
    async def answer(_: web.Request) -> web.Response:
        return web.json_response({"status": {"error": error}, "time": 0.0}, status=status, headers=headers)

    return answer


def write(store: VectorStore) -> Awaitable[Any]:
    return store.upsert(SPEC, [POINT])


def read(store: VectorStore) -> Awaitable[Any]:
    return store.count(SPEC, Where(patient_ids=["p"]))


NO_COLLECTION = "Not found: Collection `notes` doesn't exist!"
WRONG_LENGTH = "Wrong input: Vector dimension error: expected dim: 384, got 4 for vector 'text'"


@pytest.mark.parametrize(
    ("status", "error", "writing", "reading"),
    [
        (500, "Service internal error: disk", Transient, Transient),
        (502, "bad gateway", Transient, Transient),
        (503, "unavailable", Transient, Transient),
        (507, "no space", Transient, Transient),
        (408, "timeout", Transient, Transient),
        (429, "too many", Transient, Transient),
        (404, NO_COLLECTION, Missing, Missing),
        (400, WRONG_LENGTH, Fatal, Fatal),
        (400, "Wrong input: Not existing vector name error: text", Fatal, Fatal),
        (401, "Must provide an API key", Fatal, Fatal),
        (403, "Forbidden", Fatal, Fatal),
        (501, "Not supported by Vigil's embedded vector store: this", Fatal, Fatal),
        (400, f"Format error in JSON body: {SECRET}", Poison, Permanent),
        (413, "too large", Poison, Permanent),
        (422, f"Validation error: {SECRET}", Poison, Permanent),
    ],
)
async def test_each_answer_is_named_for_what_it_asks(
    status: int, error: str, writing: type[VigilError], reading: type[VigilError]
) -> None:
    async with answering(saying(status, error)) as store:
        for attempt, kind in ((write, writing), (read, reading)):
            with pytest.raises(kind) as caught:
                await attempt(store)
            assert type(caught.value) is kind
            assert "notes" in str(caught.value)
            assert "127.0.0.1" in str(caught.value)
            if attempt is write:
                assert SECRET not in "".join(traceback.format_exception(caught.value))
                assert not isinstance(caught.value, Poison) or caught.value.stage == "store"


async def test_asked_to_wait_is_transient() -> None:
    answer = saying(429, "slow down", **{"Retry-After": "3"})
    async with answering(answer) as store:
        with pytest.raises(Transient, match="spared"):
            await write(store)


async def test_nobody_there_is_transient_and_said_plainly(unused_tcp_port: int) -> None:
    async with VectorStore(QdrantSettings(url=f"http://127.0.0.1:{unused_tcp_port}")) as store:
        for attempt in (write, read):
            with pytest.raises(
                Transient, match=rf"no connection \(vector store at http://127\.0\.0\.1:{unused_tcp_port}\)"
            ) as caught:
                await attempt(store)
            assert caught.value.hint
        with pytest.raises(Transient):
            await store.ensure([SPEC])
    async with VectorStore(QdrantSettings(url="http://127.0.0.1:1", prefer_grpc=True, grpc_port=unused_tcp_port)) as store:
        with pytest.raises(Transient):
            await read(store)


async def test_no_answer_in_time_is_transient_and_bounded() -> None:
    async def hang(_: web.Request) -> web.Response:
        await asyncio.sleep(30)
        raise AssertionError

    async with answering(hang, timeout=0.3) as store:
        began = asyncio.get_running_loop().time()
        with pytest.raises(Transient, match="no answer in time"):
            await write(store)
        assert asyncio.get_running_loop().time() - began < 3


async def test_an_answer_that_drips_is_bounded_too() -> None:
    async def drip(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        for _ in range(300):
            await response.write(b" ")
            await asyncio.sleep(0.1)
        return response

    async with answering(drip, timeout=0.5) as store:
        with pytest.raises(Transient, match="no answer in time"):
            await write(store)


async def test_a_connection_that_breaks_is_transient() -> None:
    async def hang_up(request: web.Request) -> web.StreamResponse:
        assert request.transport is not None
        request.transport.abort()
        return web.Response()

    async with answering(hang_up) as store:
        with pytest.raises(Transient, match="the connection broke"):
            await write(store)


@pytest.mark.parametrize("body", ["", "<html>welcome to the proxy</html>", "{}", '{"result": 5}', "[1, 2"])
async def test_nonsense_is_transient(body: str) -> None:
    async def answer(_: web.Request) -> web.Response:
        return web.Response(text=body, content_type="application/json")

    async with answering(answer) as store:
        with pytest.raises(Transient, match="cannot be read"):
            await write(store)


async def test_nothing_goes_through_a_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    asked = []

    async def answer(request: web.Request) -> web.Response:
        asked.append(request.path)
        return web.json_response({"result": {"count": 3}, "status": "ok", "time": 0.0})

    async with answering(answer) as store:
        assert await read(store) == 3
    assert asked == ["/collections/notes/points/count"]


async def test_a_stop_during_a_call_is_a_stop() -> None:
    async def hang(_: web.Request) -> web.Response:
        await asyncio.sleep(30)
        raise AssertionError

    async with answering(hang) as store:
        task = asyncio.ensure_future(write(store))
        await asyncio.sleep(0.1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
