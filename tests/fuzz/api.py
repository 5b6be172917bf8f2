"""`python -m tests.fuzz.api [--examples N] [--seconds N] [--seed N]`: schemathesis against `vigil serve`, its FHIR endpoint.

A real process on a real broker (VIGIL_TEST_KAFKA). Requests come from infra/schemas/fhir.openapi.json: its examples, the edges of
its schemas, what fits them and what does not. Each answer is held against the document and `api_hooks`; then what was answered with
2xx is held against Kafka: each event that the body should have become is there.
"""

import argparse
import os
import signal
import subprocess
import sys
from base64 import b64decode
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from time import monotonic, sleep
from typing import Any
from urllib.parse import urlsplit

import orjson

from connectors.fhir.handling import FhirMapper, Request
from connectors.fhir.settings import FhirSettings
from connectors.identity import Identities, IdentitySettings
from processors.events import TOPICS
from tests.kafka import Kafka, choose, running
from tests.serving import Serving

ROOT = Path(__file__).resolve().parents[2]
DOCUMENT = ROOT / "infra" / "schemas" / "fhir.openapi.json"
SECRET = "fuzzing: not a secret"
# Not asked: whether all that fits the document is taken and all that does not is refused. It leaves out what only the models know
# (one choice of several) and does not forbid unknown names, since extensions are not written out.
CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
    "unsupported_method",
    "allow_header_conformance",
    "an_operation_outcome",
)


@dataclass
class Found:
    """What a run showed. `lost`: events that a 2xx promised and Kafka does not have, by (request number, event type, id)."""

    code: int
    output: str
    statuses: Counter[int] = field(default_factory=Counter)
    stored: int = 0
    silent: int = 0
    lost: list[tuple[int, str, str]] = field(default_factory=list)
    alive: bool = True

    @property
    def clean(self) -> bool:
        """Whether nothing was found."""
        return self.code == 0 and not self.lost and not self.silent and self.alive


def fuzz(
    kafka: Kafka,
    folder: Path,
    *,
    examples: int,
    seconds: int = 0,
    seed: int | None = None,
    phases: str = "",
    mode: str = "all",
    shallow: bool = False,
) -> Found:
    """Serve, run schemathesis, and hold what it was told against Kafka. `seconds`: repeat until they are spent."""
    prefix = kafka.name("api") + "."
    for topic in TOPICS:
        kafka.create(prefix + topic, 1)
    record = folder / "record.jsonl"
    with _serving(kafka, folder, prefix) as serving:
        base = "http://{}:{}".format(*serving.addresses["fhir"])
        done = _schemathesis(
            base, folder, record, examples=examples, seconds=seconds, seed=seed, phases=phases, mode=mode, shallow=shallow
        )
        found = Found(done.returncode, done.stdout + done.stderr, alive=serving.ready())
    there = {dict(one.headers).get("ce_id", b"").decode() for topic in TOPICS for one in kafka.read(prefix + topic)}
    lines = [orjson.loads(line) for line in record.read_bytes().splitlines()] if record.exists() else []
    _judge(lines, there, found)
    return found


@contextmanager
def _serving(kafka: Kafka, folder: Path, prefix: str) -> Iterator[Serving]:
    serving = Serving(
        kafka.bootstrap,
        folder,
        prefix=prefix,
        embedded=kafka.kind == "embedded",
        VIGIL_CONNECTORS__ENABLED='["fhir"]',
        VIGIL_IDENTITY__SITE_SECRET=SECRET,
        VIGIL_ENGINE__PUBLISH_TIMEOUT="15",
    )
    serving.process.start()
    try:
        deadline = monotonic() + 60
        while not serving.ready():
            if monotonic() > deadline:
                raise TimeoutError(f"vigil serve is not ready:\n{serving.process.log}")
            sleep(0.1)
        yield serving
    finally:
        serving.process.stop()


def _schemathesis(
    base: str,
    folder: Path,
    record: Path,
    *,
    examples: int,
    seconds: int,
    seed: int | None,
    phases: str,
    mode: str,
    shallow: bool,
) -> "subprocess.CompletedProcess[str]":
    command = [
        *(sys.executable, "-m", "schemathesis.cli", "run", str(DOCUMENT), "--url", base),
        *("--checks", ",".join(CHECKS), "--max-examples", str(examples), "--phases", phases or "examples,coverage,fuzzing"),
        *("--generation-database", "none", "--request-timeout", "20", "--suppress-health-check", "all", "--no-color"),
        *("--warnings", "off", "--mode", mode, "--continue-on-failure"),
        *(("--max-time", str(seconds)) if seconds else ()),
        *(("--seed", str(seed)) if seed is not None else ()),
    ]
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    env = {
        **os.environ,
        "PYTHONPATH": path,
        "SCHEMATHESIS_HOOKS": "tests.fuzz.api_hooks",
        "VIGIL_FUZZ_RECORD": str(record),
        "VIGIL_FUZZ_SHALLOW": str(int(shallow)),
    }
    within = max(300, 2 * seconds)
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=False, timeout=within)


def _judge(lines: list[dict[str, Any]], there: set[str], found: Found) -> None:
    """Map each body that was answered with 2xx as the server did, in the same order, and look for its events."""
    settings = FhirSettings()
    mapper = FhirMapper(settings, Identities(IdentitySettings.model_validate({"site_secret": SECRET})))
    for number, line in enumerate(lines):
        found.statuses[line["status"]] += 1
        if not 200 <= line["status"] < 300 or line["method"] not in ("POST", "PUT"):
            continue
        outcome = mapper.handle(b64decode(line["sent"]), mapper.sender("fhir", datetime.now(UTC)), _asked(line, settings))
        mapper.learn(outcome)
        found.stored += bool(outcome.events)
        found.silent += not outcome.events and not outcome.reason  # stored nothing, and did not say why
        found.lost += [(number, event.type, event.id) for event in outcome.events if event.id not in there]


def _asked(line: dict[str, Any], settings: FhirSettings) -> Request:
    path = urlsplit(line["url"]).path
    if path.startswith(settings.hook):
        return Request("hook", *path.removeprefix(settings.hook).strip("/").split("/")[:2])
    parts = [one for one in path.removeprefix(settings.path).split("/") if one]
    if not parts:
        return Request("bundle")
    if parts == ["$process-message"]:
        return Request("message")
    return Request("update" if line["method"] == "PUT" else "create", *parts[:2])


def main() -> int:
    """Run by hand."""
    parser = argparse.ArgumentParser("python -m tests.fuzz.api", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--examples", type=int, default=200, help="requests of each operation and phase (default: 200)")
    parser.add_argument("--seconds", type=int, default=0, help="go on with new requests for so long (default: one round)")
    parser.add_argument(
        "--phases", default="", help="of schemathesis, with commas between (default: examples,coverage,fuzzing)"
    )
    parser.add_argument("--mode", default="all", help="all, or only what fits the document (positive) or does not (negative)")
    parser.add_argument("--shallow", action="store_true", help="small bodies: many more of them in the same time")
    parser.add_argument("--seed", type=int, help="run as another run did, which told its seed")
    asked = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what was started ends, too
    with TemporaryDirectory(prefix="vigil-api-") as folder, running(choose()) as kafka:
        found = fuzz(
            kafka,
            Path(folder),
            examples=asked.examples,
            seconds=asked.seconds,
            seed=asked.seed,
            phases=asked.phases,
            mode=asked.mode,
        )
    print(found.output)
    print(f"answers by status: {dict(sorted(found.statuses.items()))}; with events: {found.stored}, all of them in Kafka: "
          f"{not found.lost}; 2xx for nothing without a word: {found.silent}; still ready: {found.alive}")  # fmt: skip
    for number, kind, key in found.lost[:20]:
        print(f"LOST: request {number}, {kind} {key}")
    return 0 if found.clean else 1


if __name__ == "__main__":
    sys.exit(main())
