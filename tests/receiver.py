"""A receiver of webhooks for tests: a real HTTP server in this event loop, which can be slow, refuse, fail and be killed."""

import asyncio
from dataclasses import dataclass, field
from typing import Any

import orjson
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from connectors.deliver.signing import key_of, verified
from connectors.serving import HttpServer
from streams.clock import real_clock

SECRET = "whsec_dGhlIHRlc3RzJyBvd24gc2VjcmV0LCAzMiBieXRlcyBsb25n"


@dataclass
class HttpReceiver:
    """`statuses` are answered first, one per request; then `status`. `taken` holds what was answered with a 2xx, in order."""

    status: int = 204
    statuses: list[int] = field(default_factory=list)
    headers: dict[str, str] = field(default_factory=dict)
    delay: float = 0.0
    slow_patients: dict[str, float] = field(default_factory=dict)
    seen: list[tuple[int, dict[str, Any]]] = field(default_factory=list)
    taken: list[dict[str, Any]] = field(default_factory=list)
    port: int = 0
    most_at_once: int = 0
    _at_once: int = 0
    _server: HttpServer | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/alerts"

    async def start(self) -> None:
        app = Starlette(routes=[Route("/{rest:path}", self._answer, methods=["POST", "PUT"])])
        self._server = HttpServer(
            app, host="127.0.0.1", port=self.port, tls=None, connections=64, header_timeout=5, idle_timeout=5
        )
        _, self.port = await self._server.start()

    async def stop(self) -> None:
        if self._server is not None:
            await self._server.stop()
            self._server = None

    async def __aenter__(self) -> "HttpReceiver":
        await self.start()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.stop()

    async def _answer(self, request: Request) -> Response:
        body = await request.body()
        headers = {name.lower(): value for name, value in request.headers.items()}
        if "webhook-id" in headers:
            why = verified([key_of(SECRET)], headers, body, now=real_clock().timestamp(), tolerance=60)
            assert not why, why
        notice = {"id": headers.get("webhook-id", ""), "path": request.url.path, **orjson.loads(body)}
        self._at_once += 1
        self.most_at_once = max(self.most_at_once, self._at_once)
        try:
            await asyncio.sleep(self.slow_patients.get(notice.get("data", {}).get("patient_id", ""), self.delay))
        finally:
            self._at_once -= 1
        status = self.statuses.pop(0) if self.statuses else self.status
        self.seen.append((status, notice))
        if status < 300:
            self.taken.append(notice)
        return Response(status_code=status, headers=self.headers)

    def alerts(self) -> list[dict[str, Any]]:
        """What was taken, heartbeats and the like left out."""
        return [notice for notice in self.taken if notice["type"] == "vigil.alert"]
