"""A real Prometheus for tests, on loopback: Debian's package `prometheus`, or whatever `prometheus` is on PATH."""

import shutil
import subprocess
from pathlib import Path
from typing import Any

import httpx
import yaml

from infra.kafka.host import free_ports
from tests.monitoring import INFRA

PROGRAM = shutil.which("prometheus")
WHY_NOT = "prometheus is not on PATH (apt-get install --no-install-recommends prometheus)"


class Prometheus:
    """Prometheus on the site's own configuration and rules, with these targets and a quicker pace."""

    def __init__(self, folder: Path, targets: list[str], *, interval: str = "2s") -> None:
        (self.port,) = free_ports(1)
        self._folder = folder
        config = yaml.safe_load((INFRA / "prometheus" / "prometheus.yml").read_text())
        config["global"] = {"scrape_interval": interval, "scrape_timeout": interval, "evaluation_interval": interval}
        config["rule_files"] = [str(INFRA / "prometheus" / name) for name in config["rule_files"]]
        (job,) = config["scrape_configs"]
        job["static_configs"] = [{"targets": targets}]
        (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> "Prometheus":
        assert PROGRAM is not None, WHY_NOT
        with (self._folder / "prometheus.log").open("wb") as log:
            self._process = subprocess.Popen(
                [
                    PROGRAM,
                    f"--config.file={self._folder / 'prometheus.yml'}",
                    f"--storage.tsdb.path={self._folder / 'tsdb'}",
                    f"--web.listen-address=127.0.0.1:{self.port}",
                ],
                stdout=log,
                stderr=log,
            )
        return self

    def __exit__(self, *exc: object) -> None:
        assert self._process is not None
        self._process.terminate()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(10)

    @property
    def log(self) -> str:
        return (self._folder / "prometheus.log").read_text()

    def _get(self, path: str, **parameters: str) -> Any:
        answer = httpx.get(f"http://127.0.0.1:{self.port}/api/v1/{path}", params=parameters, timeout=10)
        body = answer.json()
        assert body["status"] == "success", f"{parameters}: {body}"
        return body["data"]

    def ready(self) -> bool:
        """Whether it answers; fails with its log when it has ended."""
        assert self._process is not None and self._process.poll() is None, self.log
        try:
            return httpx.get(f"http://127.0.0.1:{self.port}/-/ready", timeout=5).status_code == 200
        except httpx.TransportError:
            return False

    def query(self, expr: str) -> list[dict[str, Any]]:
        """What a query gives now."""
        found: list[dict[str, Any]] = self._get("query", query=expr)["result"]
        return found

    def value(self, expr: str) -> float | None:
        """The one value that a query gives; None for none."""
        found = self.query(expr)
        assert len(found) <= 1, found
        return float(found[0]["value"][1]) if found else None

    def targets(self) -> dict[str, str]:
        """How each target's last scrape went: up, down or unknown, with the error."""
        return {one["scrapeUrl"]: one["health"] + one["lastError"] for one in self._get("targets")["activeTargets"]}

    def rules(self) -> list[dict[str, Any]]:
        """The rules, with their health."""
        return [rule for group in self._get("rules")["groups"] for rule in group["rules"]]

    def firing(self) -> list[dict[str, str]]:
        """The labels of each alert that fires now."""
        return [one["labels"] for one in self._get("alerts")["alerts"] if one["state"] == "firing"]
