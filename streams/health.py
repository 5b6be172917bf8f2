"""What an operator and an orchestrator ask of a lane's process: /live, /ready, /metrics, on Faust's own web server."""

from typing import Any

from prometheus_client import generate_latest

from streams.engine import Engine


def add_pages(app: Any, engine: Engine) -> None:
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
        return view.text(generate_latest(engine.metrics.registry).decode(), content_type="text/plain; version=0.0.4")
