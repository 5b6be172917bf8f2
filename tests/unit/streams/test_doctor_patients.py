"""`vigil doctor` says in sum on whom no score can alert."""

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from prometheus_client import generate_latest

from processors.blindspots import REASONS
from streams.checks import _patients
from streams.metrics import LaneMetrics

metrics = LaneMetrics("vitals")


class Page(BaseHTTPRequestHandler):
    """A lane's metrics."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(generate_latest(metrics.registry))

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def pages() -> Iterator[list[str]]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Page) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield [f"127.0.0.1:{server.server_port}"]
        server.shutdown()


async def test_whom_nothing_can_alert_on_is_told_and_more_than_a_third_is_a_warning(pages: list[str]) -> None:
    assert await _patients(pages) == []
    metrics.patients(0, 20, {"age-unknown": 6, "not-applicable": 14}, REASONS)
    metrics.patients(1, 10, {"late": 4}, REASONS)
    (check,) = await _patients(pages)
    assert check.verdict == "ok"
    assert check.found == "of 30 whose vitals come here no score can alert on 24 (age-unknown 6, not-applicable 14, late 4)"
    metrics.patients(1, 10, {"late": 5}, REASONS)
    (check,) = await _patients(pages)
    assert check.verdict == "warning" and "VigilPatientsUnalertable" in check.mend
