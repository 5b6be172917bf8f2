"""`vigil up` ends a process that hangs, so that it is started again; one that others keep from running it leaves alone."""

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import AsyncIterator

import pytest

from streams import supervisor
from streams.supervisor import Child, Supervisor
from tests.lanes import until

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="what a process does is read from /proc")

PORT = "VIGIL_WORKER__HEALTH_PORT"
ANSWERS = f"""
import http.server, os
server = http.server.HTTPServer(("127.0.0.1", int(os.environ["{PORT}"])), http.server.SimpleHTTPRequestHandler)
server.serve_forever()
"""


@pytest.fixture(autouse=True)
def _hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("_ASK", 0.1), ("_ANSWER", 0.3), ("_HUNG", 5), ("_FIRST", 0.1)):
        monkeypatch.setattr(supervisor, name, value)


@contextlib.asynccontextmanager
async def kept(script: str, env: dict[str, str]) -> AsyncIterator[Child]:
    child = Child("child", [sys.executable, "-c", script], env, wait=0.1)
    one = Supervisor([child], grace=5.0)
    await one.start()
    try:
        yield child
    finally:
        await one.stop()


async def answers(child: Child) -> bool:
    return bool(child.port) and await supervisor._answers("127.0.0.1", child.port)


async def test_a_process_that_is_frozen_is_killed_and_started_again(caplog: pytest.LogCaptureFixture) -> None:
    async with kept(ANSWERS, {PORT: "0"}) as child:
        await until(lambda: answers(child), what="it answers")
        assert child.process is not None
        pid = child.process.pid
        os.kill(pid, signal.SIGSTOP)
        await until(lambda: child.restarts == 1, what="it is started again")
        await until(lambda: answers(child), what="it answers again")
        assert child.process.pid != pid
    assert "hangs: killed" in caplog.text and "SIGKILL" in caplog.text


@pytest.mark.parametrize(
    ("script", "env"),
    [
        (ANSWERS, {PORT: "0"}),
        ("while True: pass", {PORT: "0"}),  # has yet to answer, or is kept from it
        ("import time; time.sleep(60)", {}),  # has no health port to ask
    ],
    ids=["answers", "computes", "no port"],
)
async def test_a_process_that_lives_is_left_alone(script: str, env: dict[str, str]) -> None:
    async with kept(script, env) as child:
        await until(lambda: child.running, what="it runs")
        await asyncio.sleep(10 * supervisor._ASK * supervisor._HUNG)
        assert child.running and not child.restarts
