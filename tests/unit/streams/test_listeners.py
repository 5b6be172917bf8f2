"""Whose a connector's port is, as `vigil doctor` sees it."""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from streams import listeners as module
from streams.checks import Check, _pages, _ports
from streams.health import EdgePages
from streams.listeners import listeners
from streams.metrics import EdgeMetrics
from streams.settings import Settings, WorkerSettings

CODE = """
import socket, sys
with socket.create_server(("127.0.0.1", 0)) as server:
    print(server.getsockname()[1], flush=True)
    sys.stdin.read()
"""
linux = pytest.mark.skipif(not os.path.isdir("/proc/net"), reason="whose socket it is, Linux tells")


def program(*words: str) -> Iterator[int]:
    """Run a program that listens; yield its port."""
    with subprocess.Popen([sys.executable, "-c", CODE, *words], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        yield int(process.stdout.readline())
        process.communicate(timeout=30)


@pytest.fixture
def another() -> Iterator[int]:
    yield from program("serve")


@pytest.fixture
def ours() -> Iterator[int]:
    yield from program("/opt/vigil/bin/vigil", "serve")


def site(port: int, **worker: Any) -> Settings:
    made = Settings()
    mllp = made.connectors.mllp.model_copy(update={"port": port})
    connectors = made.connectors.model_copy(update={"enabled": ("mllp",), "mllp": mllp})
    return made.model_copy(update={"connectors": connectors, "worker": WorkerSettings(**worker)})


async def told(settings: Settings) -> list[Check]:
    return await _ports(settings, _pages(settings, 9101))


@linux
async def test_another_programs_port_is_wrong_and_the_program_is_named(another: int) -> None:
    (check,) = await told(site(another))
    assert check.verdict == "wrong" and check.what == "port of mllp"
    assert f"127.0.0.1:{another} is taken by another program, python" in check.found
    assert "connectors.mllp.port" in check.mend


@linux
async def test_a_serve_of_ours_is_known_by_its_command(ours: int) -> None:
    (check,) = await told(site(ours))
    assert (check.verdict, check.found) == ("ok", f"mllp 127.0.0.1:{ours} served")


async def test_a_serve_of_another_user_is_known_by_its_health_page(another: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_owners", lambda port: iter(()))
    async with EdgePages(lambda: "", EdgeMetrics(), WorkerSettings(), {"mllp": ("0.0.0.0", another)}) as pages:
        (check,) = await told(site(another, health_port=pages.address[1]))
    assert (check.verdict, check.found) == ("ok", f"mllp 127.0.0.1:{another} served")


async def test_where_nobody_can_tell_it_says_so(another: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_owners", lambda port: iter(()))
    (check,) = await told(site(another))
    assert check.verdict == "warning" and "by whom cannot be told" in check.found and "ss -ltnp" in check.mend


async def test_a_free_port_and_one_that_is_not_to_be_had() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    (check,) = await told(site(port))
    assert (check.verdict, check.found) == ("ok", f"mllp 127.0.0.1:{port} free")
    elsewhere = site(port)
    mllp = elsewhere.connectors.mllp.model_copy(update={"host": "192.0.2.1"})
    connectors = elsewhere.connectors.model_copy(update={"mllp": mllp})
    (check,) = await told(elsewhere.model_copy(update={"connectors": connectors}))
    assert check.verdict == "wrong" and "192.0.2.1" in check.found and "cannot be listened on" in check.found
    assert await listeners(site(0), []) == []
