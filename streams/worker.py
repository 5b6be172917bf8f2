"""One process of one lane: `vigil lane run NAME`. Builds the lane, runs it under Faust's worker, exits non-zero on failure."""

import asyncio
import functools
import logging
import sys
from collections.abc import Callable
from typing import Any

import faust

from connectors.child import free_port
from models.errors import VigilError
from streams.engine import Engine, MakeJob, new_app
from streams.health import add_pages
from streams.leaving import leave_within
from streams.listeners import trouble
from streams.log import setup_logging
from streams.metrics import LaneMetrics
from streams.outbox import Outbox
from streams.priority import give_way
from streams.settings import LaneSettings, Settings

log = logging.getLogger("vigil.worker")

_CLOSING = 20.0  # seconds beside the grace for what is in flight, until models, stores and producer are closed
_JOINING = 5.0  # seconds that Python may wait for its threads once all is closed


class LaneWorker(faust.Worker):  # type: ignore[misc]
    """Faust's worker, without its banner, spinner and logging: a lane's log is Vigil's."""

    def __init__(self, app: Any, *, leaving: Callable[[], None], **kwargs: Any) -> None:
        super().__init__(app, override_logging=False, quiet=True, redirect_stdouts=False, **kwargs)
        self.spinner = None
        self.leaving = leaving

    async def stop(self) -> None:
        """Stop, in time."""
        self.leaving()
        await super().stop()


def build(settings: Settings, name: str, make: MakeJob, lane: LaneSettings) -> tuple[Any, Engine]:
    """Put a lane together: app, engine, pages. Nothing is connected yet."""
    metrics = LaneMetrics(name)
    outbox = Outbox(settings, source=f"/vigil/{settings.site.name}/lanes/{name}")
    job = make(settings, outbox, metrics)
    app = new_app(name, settings)
    engine = Engine(app, job, outbox, settings, metrics)
    add_pages(app, engine)

    @app.task  # type: ignore[untyped-decorator]
    async def _start() -> None:
        try:
            if not app.should_stop:
                await app.add_runtime_dependency(engine)
            if app.should_stop:  # told to stop while this began: the app did not know of the engine yet
                await engine.stop()
        except Exception as error:
            await engine.fail(error)

    return app, engine


def run(settings: Settings, name: str, make: MakeJob, lane: LaneSettings) -> int:
    """Run a lane until it is told to stop (0) or fails (1)."""
    setup_logging(name)
    if lane.nice:
        give_way(lane.nice)
    if settings.worker.health_port == 0:
        settings = settings.model_copy(update={"worker": settings.worker.model_copy(update={"health_port": free_port()})})
    host, port = settings.worker.health_host, settings.worker.health_port
    if (error := trouble(host, port)) is not None:
        hint = "another process has it? VIGIL_WORKER__HEALTH_PORT chooses another, 0 a free one"
        log.critical(
            "%s stops: its health page cannot listen on %s:%d (%s): %s", name, host, port, error.strerror or error, hint
        )
        return 1
    log.info("%s: health and metrics on http://%s:%d", name, host, port)
    # The model runs in a thread of its own: by default it waits 5 ms for the loop to let go of the interpreter, and back again.
    sys.setswitchinterval(0.0005)
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    app, engine = build(settings, name, make, lane)
    # A model or a store that never answers holds a thread for ever, and the thread this process: whoever supervises it waits.
    engine.leaving = functools.partial(leave_within, settings.engine.grace + _CLOSING, name)
    try:
        LaneWorker(app, leaving=engine.leaving, loop=loop).execute_from_commandline()
    except SystemExit as end:
        if engine.failure is None:
            return int(end.code or 0)
    except VigilError:
        pass  # said by the engine already
    finally:
        leave_within(_JOINING, name)
    sys.stderr.flush()
    return 1
