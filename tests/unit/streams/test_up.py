"""`vigil up`: which processes it runs, and that it says which ones it leaves to others."""

import logging

import pytest

from streams.cli.run import up
from streams.supervisor import Supervisor


@pytest.mark.parametrize("lane", [None, ["vitals"]])
def test_chosen_lanes_run_without_deliveries_and_it_is_said(
    lane: list[str] | None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    started: list[str] = []

    async def run(self: Supervisor) -> None:
        started.extend(child.name for child in self.children)

    monkeypatch.setattr(Supervisor, "run", run)
    monkeypatch.setattr("streams.log.setup_logging", lambda name: None)
    for name, value in (("KIND", "webhook"), ("URL", "http://127.0.0.1:9/"), ("SECRET", "s" * 16)):
        monkeypatch.setenv(f"VIGIL_DELIVER__PAGER__{name}", value)
    caplog.set_level(logging.INFO, "vigil.up")
    up(workers=1, lane=lane, connectors=False, first_port=0, first_slot=0)
    assert ("deliver-pager" in started) == (lane is None)
    assert ("no delivery is run beside chosen lanes (pager)" in caplog.text) == (lane is not None)
