"""What workers say of themselves, read from their metrics; no worker and no broker is asked."""

import asyncio
import http.server
import io
import json
import math
import socket
import threading
from collections.abc import Iterator, Sequence

import pytest
from prometheus_client import generate_latest
from rich.console import Console

from models.errors import Transient
from streams import lagging
from streams.cli import status
from streams.lagging import Lag, WorkerState, completed, workers
from streams.metrics import LaneMetrics
from streams.settings import Settings


def page(held: float, *numbers: int) -> str:
    metrics = LaneMetrics("images")
    metrics.ready.set(1)
    metrics.in_flight.set(3 * len(numbers))
    metrics.held.set(int(held > 0))
    metrics.silent.set(held)
    metrics.partitions({("s.clinical.images", 7): (9, 9.0, 0.0)})
    metrics.partitions({("s.clinical.images", number): (3, 1.5 + number if held else math.nan, held) for number in numbers})
    return generate_latest(metrics.registry).decode()


async def said(monkeypatch: pytest.MonkeyPatch) -> list[WorkerState]:
    pages = {"a:1": page(0.0, 0), "a:2": page(42.0, 1), "a:3": ""}
    monkeypatch.setattr(lagging, "_page", pages.__getitem__)
    return await workers(list(pages))


async def test_each_partition_is_what_its_worker_says(monkeypatch: pytest.MonkeyPatch) -> None:
    (state,) = found = await said(monkeypatch)
    assert (state.workers, state.ready, state.in_flight, state.held_partitions) == (2, 2, 6, 1)
    assert set(state.partitions) == {("s.clinical.images", 0), ("s.clinical.images", 1)}  # 7 was given to another
    assert "partitions" not in state.facts()
    lags = [Lag("images", "clinical.images", number, 0, 5, 5) for number in range(3)]
    told = completed(lags, found, prefix="s.")
    assert [(one.in_flight, one.seconds_since_commit, one.held_seconds) for one in told] == [
        (3, None, 0.0),  # it has committed nothing yet
        (3, 2.5, 42.0),
        (None, None, None),
    ]
    assert completed(lags, [], prefix="s.") == lags


async def test_the_table_shows_it(monkeypatch: pytest.MonkeyPatch) -> None:
    found = await said(monkeypatch)
    lags = completed([Lag("images", "clinical.images", number, 0, 5, 5) for number in range(2)], found, prefix="s.")
    console = Console(file=io.StringIO(), width=200)
    console.print(status._lanes(lags, found), status._partitions(lags))
    assert isinstance(console.file, io.StringIO)
    lane, first, second = (line for line in console.file.getvalue().splitlines() if "images" in line)
    assert "1 partitions, cut off from Kafka for 42 s" in lane
    assert [cell.strip() for cell in first.split("│")[-4:-1]] == ["3", "", ""]
    assert [cell.strip() for cell in second.split("│")[-4:-1]] == ["3", "2.5 s ago", "42.0 s"]


def test_a_rate_and_a_last_commit_come_of_what_was_seen_before() -> None:
    def at(committed: int | None, since: float | None = None) -> Lag:
        return Lag("images", "clinical.images", 0, committed, 50, 50 - (committed or 0), seconds_since_commit=since)

    moved = lagging._rated(at(30), at(10), 2.0)
    assert (moved.rate, moved.seconds_since_commit) == (10.0, 2.0)
    stands = lagging._rated(at(30), moved, 2.0)
    assert (stands.rate, stands.seconds_since_commit) == (0.0, 4.0)  # at most so long ago
    assert lagging._rated(at(30), at(30), 2.0).seconds_since_commit is None  # nobody saw it move
    assert lagging._rated(at(30), at(None), 2.0).rate is None
    # What the worker says stands; one that has not committed this partition yet says nothing.
    state = WorkerState("images", 1, 1, 0, 0, 0.1, partitions={("clinical.images", 0): {"seconds_since_commit": 0.5}})
    assert completed([moved], [state], prefix="")[0].seconds_since_commit == 0.5
    empty = WorkerState("images", 1, 1, 0, 0, 0.1, partitions={("clinical.images", 0): {"in_flight": 0.0}})
    assert completed([moved], [empty], prefix="")[0].seconds_since_commit == 2.0


def test_a_log_that_was_made_anew_is_told_from_one_that_a_lane_never_came_to() -> None:
    def at(committed: int | None, **more: bool) -> Lag:
        return Lag("images", "clinical.images", 0, committed, 50, 50, **more)

    lost = lagging._rated(at(None), at(30), 2.0)
    assert lost.anew and lagging._rated(at(None), lost, 2.0).anew and not lagging._rated(at(3), lost, 2.0).anew
    assert not lagging._rated(at(None, missing=True), at(30), 2.0).anew
    for seconds, anew in ((60.0, True), (0.1, False)):  # a lane's very first commit may fall between the looks
        state = WorkerState("images", 1, 1, 0, 0, 0.1, partitions={("clinical.images", 0): {"seconds_since_commit": seconds}})
        assert completed([at(None)], [state], prefix="")[0].anew == anew
    words = [status._committed(one) for one in (lost, at(90, anew=True), at(None, runs=True), at(None), at(None, missing=True))]
    assert words == ["log made anew", "90, log made anew", "not yet", "never", "topic missing"]
    assert status._remarks([lost]) == ["log made anew: clinical.images"]
    assert status._remarks([at(None, runs=True)]) == ["runs, nothing committed yet"]
    assert status._remarks([at(3), at(None)]) == []


async def test_a_watch_without_a_terminal_looks_again_and_again(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    looks = [0, 10, 30, 30]

    async def lags(*_: object, before: Sequence[Lag] = (), seconds: float = 0.0, **__: object) -> list[Lag]:
        if not looks:
            raise KeyboardInterrupt
        lag = Lag("images", "clinical.images", 0, looks.pop(0), 50, 5)
        return [lagging._rated(lag, before[0] if before else None, 2.0)]

    monkeypatch.setattr(lagging, "lags", lags)
    monkeypatch.setattr(status, "load", Settings)
    await asyncio.to_thread(status.lag, worker=["127.0.0.1:9"], every=0.0, watch=True, json_=True)
    told = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(one["rate"], one["seconds_since_commit"]) for one in told] == [(5.0, 2.0), (10.0, 2.0), (0.0, 4.0)]


def test_a_screen_shows_the_partitions_that_are_furthest_behind_and_how_many_it_leaves_out() -> None:
    found = [Lag("images", "clinical.images", n, 0, n, n, oldest_unacked_seconds=float(n)) for n in range(30)]
    console = Console(file=io.StringIO(), width=200, height=25)
    console.print(*status._of_partitions(status.Seen(found), console, True))
    assert isinstance(console.file, io.StringIO)
    rows = [line.split("│")[3].strip() for line in console.file.getvalue().splitlines() if "images" in line]
    assert rows == [str(n) for n in range(29, 12, -1)]
    assert "and 13 that are less behind" in console.file.getvalue()


class _Page(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        body = b'{"lane":"vitals","ready":false,"reason":"Kafka has not answered for 42 s"}'
        self.send_response(503)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *words: object) -> None:
        pass


@pytest.fixture
def waiting() -> Iterator[str]:
    """The health address of a worker that waits for Kafka."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Page)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


async def test_a_process_that_hangs_is_told_from_one_that_is_not_there_and_one_that_says_why_it_waits(
    monkeypatch: pytest.MonkeyPatch, waiting: str
) -> None:
    monkeypatch.setattr(lagging, "_LIVE", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as frozen, socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        hangs, absent = (f"127.0.0.1:{one.getsockname()[1]}" for one in (frozen, nobody))
        assert await lagging.hung([waiting, hangs, absent]) == [hangs]
        assert await lagging.unready([waiting, hangs, absent]) == {
            waiting: "vitals is not ready: Kafka has not answered for 42 s"
        }


def test_without_a_broker_what_the_workers_say_is_told_all_the_same(
    monkeypatch: pytest.MonkeyPatch, waiting: str, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(status, "_SHORT_WHILE", 0.5)
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        monkeypatch.setenv("VIGIL_KAFKA__BOOTSTRAP", f"127.0.0.1:{nobody.getsockname()[1]}")
        with pytest.raises(Transient, match="no broker answers"):
            status.status(worker=[waiting], once=True)
    assert f"{waiting}: vitals is not ready: Kafka has not answered for 42 s" in capsys.readouterr().out
