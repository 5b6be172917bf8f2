"""What workers say of themselves, read from their metrics; no worker and no broker is asked."""

import http.server
import io
import math
import socket
import threading

import pytest
from prometheus_client import generate_latest
from rich.console import Console

from streams import lagging
from streams.cli import status
from streams.lagging import Lag, WorkerState, completed, workers
from streams.metrics import LaneMetrics


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
    console.print(status._lanes(lags, found), status._partitions(lags, asked=True))
    assert isinstance(console.file, io.StringIO)
    lane, first, second = (line for line in console.file.getvalue().splitlines() if "images" in line)
    assert "1 partitions, cut off from Kafka for 42 s" in lane
    assert [cell.strip() for cell in first.split("│")[-4:-1]] == ["3", "", ""]
    assert [cell.strip() for cell in second.split("│")[-4:-1]] == ["3", "2.5 s ago", "42.0 s"]


class _Page(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        body = b'{"lane":"vitals","ready":false,"reason":"Kafka has not answered for 42 s"}'
        self.send_response(503)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *words: object) -> None:
        pass


async def test_a_process_that_hangs_is_told_from_one_that_is_not_there_and_one_that_says_why_it_waits(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(lagging, "_LIVE", 0.5)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Page)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with socket.create_server(("127.0.0.1", 0)) as frozen, socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        waits, hangs, absent = (f"127.0.0.1:{one.getsockname()[1]}" for one in (server.socket, frozen, nobody))
        try:
            assert await lagging.hung([waits, hangs, absent]) == [hangs]
            assert await lagging.unready([waits, hangs, absent]) == {
                waits: "vitals is not ready: Kafka has not answered for 42 s"
            }
        finally:
            server.shutdown()
            server.server_close()
