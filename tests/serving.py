"""`vigil serve` for tests: a real process, and its addresses and pages."""

import json
import sys
from pathlib import Path
from typing import Any

import httpx
from prometheus_client.parser import text_string_to_metric_families

from infra.kafka.host import free_ports
from tests.vitals import LaneProcess


class Serving:
    """`vigil serve` and its addresses."""

    def __init__(self, kafka_address: str, folder: Path, *, prefix: str = "", embedded: bool = False, **env: str) -> None:
        self.prefix = prefix
        self._file = folder / "addresses.json"
        self.port = free_ports(1)[0]
        command = [sys.executable, "-m", "streams.cli", "serve", "--addresses", str(self._file)]
        settings = {
            "VIGIL_KAFKA__BOOTSTRAP": kafka_address,
            "VIGIL_KAFKA__TOPIC_PREFIX": prefix,
            "VIGIL_KAFKA__EMBEDDED": str(embedded).lower(),
            "VIGIL_OBJECTS__URL": str(folder / "objects"),
            "VIGIL_WORKER__HEALTH_PORT": str(self.port),
            "VIGIL_ENGINE__BACKOFF_MOST": "0.5",
            "VIGIL_ENGINE__PUBLISH_TIMEOUT": "2",
            "VIGIL_CONNECTORS__MLLP__PUBLISH_SECONDS": "2",
            "VIGIL_CONNECTORS__DICOM__MIN_FREE_BYTES": "1000",
            **{f"VIGIL_CONNECTORS__{name}__PORT": "0" for name in ("MLLP", "FHIR", "DICOM")},
        }
        self.process = LaneProcess("serve", {**settings, **env}, folder / "serve.log", command=command)

    @property
    def addresses(self) -> dict[str, Any]:
        return dict(json.loads(self._file.read_text()))

    def page(self, path: str) -> httpx.Response:
        return httpx.get(f"http://127.0.0.1:{self.port}{path}", timeout=10)

    def ready(self) -> bool:
        try:
            return self.page("/ready").status_code == 200
        except httpx.TransportError:
            assert self.process.running, self.process.log
            return False

    def metrics(self) -> dict[tuple[str, ...], float]:
        """Samples by name and label values, in the labels' alphabetical order."""
        return {
            (sample.name, *(value for _, value in sorted(sample.labels.items()))): sample.value
            for family in text_string_to_metric_families(self.page("/metrics").text)
            for sample in family.samples
        }
