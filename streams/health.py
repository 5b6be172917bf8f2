"""What an operator and an orchestrator ask of a process: /live, /ready, /metrics.

A lane answers on Faust's own web server (`add_pages`), the connectors' process on one like the connectors' own (`EdgePages`).
"""

import asyncio
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Self

from prometheus_client import generate_latest

from connectors.serving import HttpServer
from streams.metrics import EdgeMetrics
from streams.settings import WorkerSettings

if TYPE_CHECKING:
    from streams.engine import Engine

_TEXT = "text/plain; version=0.0.4"


def add_pages(app: Any, engine: "Engine") -> None:
    """Serve the pages of one lane.

    /live   200 while the process is worth keeping; 503 after a failure (it is about to exit).
    /ready  200 when partitions are assigned and nothing is held; 503 with the reason in words.
    /metrics  Prometheus text format.
    """

    @app.page("/live", name="live")  # type: ignore[untyped-decorator]
    async def live(view: Any, request: Any) -> Any:
        failed = engine.failure is not None
        return view.json({"lane": engine.job.name, "live": not failed, "stage": engine.stage}, status=503 if failed else 200)

    @app.page("/ready", name="ready")  # type: ignore[untyped-decorator]
    async def ready(view: Any, request: Any) -> Any:
        why = engine.unready()
        body = {"lane": engine.job.name, "ready": not why, "reason": why, "stage": engine.stage}
        return view.json(body, status=503 if why else 200)

    @app.page("/metrics", name="metrics")  # type: ignore[untyped-decorator]
    async def metrics(view: Any, request: Any) -> Any:
        return view.text(generate_latest(engine.metrics.registry).decode(), content_type=_TEXT)


def asked_at(host: str) -> str:
    """Return where a health page is asked for on this machine, of one that listens on `host`: on all addresses is on its own."""
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104  # nothing is bound


class EdgePages:
    """The pages of the connectors' process, up before the connectors are. Use as an async context manager.

    /live   200 while the process is worth keeping; where its connectors listen, for `streams.listeners`.
    /ready  200 when all connectors listen and Kafka answers; 503 with the reason in words.
    /metrics  Prometheus text format.
    """

    def __init__(
        self,
        unready: Callable[[], str],
        metrics: EdgeMetrics,
        worker: WorkerSettings,
        listening: Mapping[str, tuple[str, int]] = MappingProxyType({}),
    ) -> None:
        """`unready` says why the connectors are not ready, in words, or nothing; `listening` holds where they listen by now."""
        self._unready = unready
        self._listening = listening
        self._metrics = metrics
        self._server = HttpServer(
            self._app(),
            host=worker.health_host,
            port=worker.health_port,
            tls=None,
            connections=64,
            header_timeout=5.0,
            idle_timeout=30.0,
        )
        self.address = ("", 0)

    def _app(self) -> Any:
        from starlette.applications import Starlette
        from starlette.requests import Request
        from starlette.responses import JSONResponse, Response
        from starlette.routing import Route

        async def live(request: Request) -> Response:
            return JSONResponse({"live": True, "connectors": dict(self._listening)})

        async def ready(request: Request) -> Response:
            why = self._unready()
            return JSONResponse({"ready": not why, "reason": why}, status_code=503 if why else 200)

        async def metrics(request: Request) -> Response:
            self._metrics.ready.set(int(not self._unready()))
            # In a thread: it also asks the objects' disk, which may be a network's.
            return Response(await asyncio.to_thread(generate_latest, self._metrics.registry), media_type=_TEXT)

        return Starlette(routes=[Route("/live", live), Route("/ready", ready), Route("/metrics", metrics)])

    async def __aenter__(self) -> Self:
        """Listen. Raises `Fatal` when the address cannot be had."""
        self.address = await self._server.start()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._server.stop()
