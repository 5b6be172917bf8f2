"""The command line as its user has it: real processes, a real broker; what it prints, and how it ends."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from confluent_kafka.admin import AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource, ResourceType

from connectors.qdrant.embedded import EmbeddedQdrant
from infra.kafka.host import free_ports
from models.registry import PACKAGED, WEIGHTS
from processors.events import TOPICS
from streams import topics
from streams.lanes import LANES
from streams.schemas import files
from streams.settings import TopicSettings
from tests.kafka import Kafka
from tests.vitals import LaneProcess

pytestmark = [pytest.mark.kafka, pytest.mark.slow, pytest.mark.timeout(240)]
real = pytest.mark.real_kafka

COMMAND = [sys.executable, "-m", "streams.cli"]
NOBODY = "127.0.0.1:1"
Vigil = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def env(kafka: Kafka, tmp_path: Path) -> dict[str, str]:
    """The environment of an operator on a single broker, with topics of this test's own."""
    return {
        **{name: value for name, value in os.environ.items() if not name.startswith("VIGIL_")},
        "PYTHONPATH": str(Path(__file__).parents[2]),
        "VIGIL_KAFKA__BOOTSTRAP": kafka.bootstrap,
        "VIGIL_KAFKA__TOPIC_PREFIX": kafka.name("cli") + ".",
        "VIGIL_TOPICS__PARTITIONS": "2",
        "VIGIL_TOPICS__REPLICATION": "1",
        "VIGIL_OBJECTS__URL": str(tmp_path / "objects"),
        "VIGIL_IDENTITY__SITE_SECRET": "a-secret-of-this-test",
        "VIGIL_VECTORS__URL": "http://127.0.0.1:1",
    }


@pytest.fixture
def vigil(env: dict[str, str], tmp_path: Path) -> Vigil:
    """Run `vigil ...` in an empty folder and return what it said."""

    def run(*words: str, **more: str) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [*COMMAND, *words], env={**env, **more}, cwd=tmp_path, capture_output=True, text=True, timeout=120
        )
        assert "Traceback" not in done.stderr, done.stderr
        return done

    return run


def _rows(said: str) -> dict[str, str]:
    """The first two columns of a table."""
    cells = [[cell.strip() for cell in line.split("│")[1:-1]] for line in said.splitlines() if "│" in line]
    return {row[0]: row[1] for row in cells}


def _configured(kafka: Kafka, topic: str) -> dict[str, str]:
    admin = AdminClient({"bootstrap.servers": kafka.bootstrap, "log_level": 2})
    resource = ConfigResource(ResourceType.TOPIC, topic)
    return {name: entry.value for name, entry in admin.describe_configs([resource])[resource].result().items()}


# ------------------------------------------------------------------------------------------------------------------ topics


@real
def test_topics_are_created_once_and_mended(vigil: Vigil, env: dict[str, str], kafka: Kafka) -> None:
    prefix = env["VIGIL_KAFKA__TOPIC_PREFIX"]
    names = {prefix + plan.name for plan in topics.plans(TopicSettings())}
    assert names >= {prefix + name for name in TOPICS}
    first = vigil("topics", "create")
    assert (first.returncode, _rows(first.stdout)) == (0, dict.fromkeys(names, "created"))
    again = vigil("topics", "create")
    assert (again.returncode, _rows(again.stdout)) == (0, dict.fromkeys(names, "unchanged"))

    notes = prefix + "clinical.notes"
    longer = vigil("topics", "create", VIGIL_TOPICS__RETENTION_HOURS='{"clinical.notes": 1000}')
    assert longer.returncode == 0
    assert _rows(longer.stdout)[notes] == "configuration changed"
    assert "retention.ms 14 days -> 41.67 days" in next(line for line in longer.stdout.splitlines() if notes in line)
    assert _configured(kafka, notes)["retention.ms"] == "3600000000"

    shorter = {"VIGIL_TOPICS__RETENTION_HOURS": '{"clinical.notes": 1}'}
    left = vigil("topics", "create", **shorter)
    assert (left.returncode, _rows(left.stdout)[notes]) == (0, "left as it is"), "records would be deleted"
    assert "left: retention.ms 41.67 days -> 1 h" in left.stdout
    assert "--alter" in left.stderr
    assert _configured(kafka, notes)["retention.ms"] == "3600000000"
    altered = vigil("topics", "create", "--alter", **shorter)
    assert (altered.returncode, _rows(altered.stdout)[notes]) == (0, "configuration changed")
    assert _configured(kafka, notes)["retention.ms"] == "3600000"
    assert set(_rows(vigil("topics", "create", "--alter", **shorter).stdout).values()) == {"unchanged"}

    listed = vigil("topics", "list")
    assert (listed.returncode, _rows(listed.stdout)) == (0, dict.fromkeys(names, "2"))

    differs = vigil("topics", "create", VIGIL_TOPICS__PARTITIONS="3")
    assert differs.returncode == 1
    assert _rows(differs.stdout) == dict.fromkeys(names, "differs")
    assert "has 2 partitions, the settings say 3" in differs.stdout
    assert "partitions are never added" in differs.stderr
    assert vigil("topics", "list").stdout == listed.stdout


@real
def test_topics_with_settings_of_their_own_are_made_once_too(vigil: Vigil, env: dict[str, str], kafka: Kafka) -> None:
    prefix = env["VIGIL_KAFKA__TOPIC_PREFIX"]
    own = {
        "VIGIL_TOPICS__PARTITIONS_OF": '{"clinical.audit": 3}',
        "VIGIL_TOPICS__CLEANUP_OF": '{"clinical.entities": "compact,delete"}',
    }
    assert set(_rows(vigil("topics", "create", **own).stdout).values()) == {"created"}
    assert set(_rows(vigil("topics", "create", **own).stdout).values()) == {"unchanged"}
    assert _rows(vigil("topics", "list").stdout)[prefix + "clinical.audit"] == "3"
    assert _configured(kafka, prefix + "clinical.entities")["cleanup.policy"] == "compact,delete"
    refused = vigil("topics", "create", VIGIL_TOPICS__MIN_INSYNC="3")
    assert refused.returncode == 2
    assert "topics.min_insync (3) must not be above the copies" in refused.stderr


@real
def test_a_single_broker_cannot_keep_three_copies(vigil: Vigil) -> None:
    done = vigil("topics", "create", VIGIL_TOPICS__REPLICATION="3")
    assert done.returncode == 2
    assert "cannot be created" in done.stderr
    assert "set topics.replication" in done.stderr


@pytest.mark.parametrize("words", [("topics", "create"), ("topics", "list")])
def test_without_a_broker_it_is_said_in_words(vigil: Vigil, words: tuple[str, ...]) -> None:
    began = time.monotonic()
    done = vigil(*words, VIGIL_KAFKA__BOOTSTRAP=NOBODY)
    assert done.returncode == 2
    assert done.stdout == ""
    assert f"no broker answers at {NOBODY}: nothing listens there" in done.stderr
    assert "is Kafka up" in done.stderr
    assert len(done.stderr.splitlines()) == 2
    assert time.monotonic() - began < 30


def test_the_embedded_broker_has_no_topics_to_create(vigil: Vigil) -> None:
    done = vigil("topics", "create", VIGIL_KAFKA__EMBEDDED="true")
    assert (done.returncode, done.stdout) == (2, "")
    assert "embedded broker" in done.stderr


# ------------------------------------------------------------------------------------------------- settings, schemas, names


def test_settings_show_everything_but_secrets(vigil: Vigil) -> None:
    done = vigil(
        "settings",
        VIGIL_KAFKA__SASL_PASSWORD="hunter2",
        VIGIL_VECTORS__API_KEY="hunter3",
        VIGIL_CONNECTORS__FHIR__PEERS='{"portal": {"token": "hunter4-hunter4-hunter4"}}',
    )
    assert done.returncode == 0, done.stderr
    shown = _rows(done.stdout)
    assert shown["topics.partitions"] == "2"
    assert shown["kafka.sasl_password"] == "**********"
    for secret in ("hunter", "a-secret-of-this-test"):
        assert secret not in done.stdout


def test_a_wrong_setting_is_named_and_not_shown(vigil: Vigil) -> None:
    done = vigil("settings", VIGIL_TOPICS__PARTITIONS="hunter2")
    assert done.returncode == 2
    assert "topics.partitions" in done.stderr
    assert "hunter2" not in done.stderr
    assert "VIGIL_CONFIG names /nowhere" in vigil("settings", VIGIL_CONFIG="/nowhere").stderr


def test_schemas_are_written_and_not_written_again(vigil: Vigil, tmp_path: Path) -> None:
    out = tmp_path / "schemas"
    assert f"{len(files())} changed" in vigil("schemas", "--out", str(out)).stdout
    assert "0 changed" in vigil("schemas", "--out", str(out)).stdout
    for file in out.rglob("*.json"):
        json.loads(file.read_text())


@pytest.mark.parametrize("words", [("lane", "run", "nonsense"), ("up", "--lane", "nonsense")])
def test_a_lane_that_is_not_there(vigil: Vigil, words: tuple[str, ...]) -> None:
    done = vigil(*words)
    assert done.returncode == 2
    assert "nonsense" in done.stderr
    assert "notes-entities" in done.stderr, "the hint lists those that are"


def test_lanes_and_version(vigil: Vigil) -> None:
    assert vigil("lane", "list").stdout.split() == list(LANES)
    assert re.fullmatch(r"\d+\.\d+\.\d+\S*\n", vigil("version").stdout)


# ------------------------------------------------------------------------------------------------------------------ doctor


@pytest.fixture
def store(tmp_path: Path) -> Iterator[str]:
    qdrant = EmbeddedQdrant(tmp_path / "qdrant")
    yield qdrant.start()
    qdrant.stop()


@real
def test_doctor_finds_all_well(vigil: Vigil, store: str) -> None:
    assert vigil("topics", "create").returncode == 0
    done = vigil("doctor", VIGIL_VECTORS__URL=store)
    assert done.returncode == 0, done.stdout
    assert "bad" not in done.stdout
    assert "warn" not in done.stdout
    for what in (
        "kafka: answers",
        "topics: all 1",
        "qdrant:",
        "model for ner",
        "model for deterioration",
        "disk:",
        "site secret: set",
    ):
        assert what in done.stdout


def _finding(said: str, what: str) -> tuple[str, str]:
    """The line about something that is wrong, and the line that says how to mend it."""
    lines = said.splitlines()
    at = next((i for i, line in enumerate(lines) if line.startswith(("bad", "warn")) and what in line), None)
    assert at is not None, said
    return lines[at], lines[at + 1]


@real
def test_doctor_names_what_is_wrong_and_how_to_mend_it(vigil: Vigil, tmp_path: Path) -> None:
    shutil.copytree(WEIGHTS, tmp_path / "weights")
    registry = tmp_path / "registry.toml"
    registry.write_text(re.sub(r'^location = "', f'location = "{tmp_path}/weights/', PACKAGED.read_text(), flags=re.M))
    weights = next((tmp_path / "weights").glob("deterioration/**/*.onnx"))
    weights.write_bytes(weights.read_bytes()[:-1] + b"?")
    done = vigil("doctor", VIGIL_MODELS__REGISTRY=str(registry), VIGIL_IDENTITY__SITE_SECRET="change-me: the demo's secret")
    assert done.returncode == 1
    found, mend = _finding(done.stdout, "topics")
    assert "clinical.notes" in found
    assert "vigil topics create" in mend
    found, mend = _finding(done.stdout, "qdrant")
    assert "vectors.url" in mend
    found, mend = _finding(done.stdout, "model for deterioration")
    assert weights.name in found
    assert mend.strip() != "->"
    found, mend = _finding(done.stdout, "site secret")
    assert "VIGIL_IDENTITY__SITE_SECRET" in mend
    assert "kafka: answers" in done.stdout


def test_doctor_without_a_broker_goes_on_with_the_rest(vigil: Vigil) -> None:
    done = vigil("doctor", VIGIL_KAFKA__BOOTSTRAP=NOBODY)
    assert done.returncode == 1
    found, mend = _finding(done.stdout, "kafka")
    assert f"no broker answers at {NOBODY}: nothing listens there" in found
    assert "kafka.bootstrap" in mend
    assert "model for ner" in done.stdout


@real
def test_doctor_warns_of_partitions_that_differ(vigil: Vigil, kafka: Kafka, env: dict[str, str]) -> None:
    prefix = env["VIGIL_KAFKA__TOPIC_PREFIX"]
    kafka.create(prefix + "clinical.vitals", 1)
    kafka.create(prefix + "clinical.patients", 5)
    refused = vigil("topics", "create")
    assert refused.returncode == 2 and "nothing was created" in refused.stderr
    done = vigil("doctor")
    found, _ = _finding(done.stdout, "the settings say 2")
    assert "clinical.vitals has 1" in found
    found, _ = _finding(done.stdout, "of which 2 are used")
    assert "clinical.patients has 5" in found
    _, mend = _finding(done.stdout, "differ in partitions")
    assert "topics.partitions to 1" in mend


@real
def test_doctor_names_topics_that_lose_state_and_records(vigil: Vigil, kafka: Kafka, env: dict[str, str], store: str) -> None:
    prefix, well = env["VIGIL_KAFKA__TOPIC_PREFIX"], {"VIGIL_VECTORS__URL": store}
    journal, alerts, notes = (prefix + name for name in ("vigil.vitals.journal", "clinical.alerts", "clinical.notes"))
    kafka.create(journal, 2, cleanup_policy="delete", retention_ms="60000", max_message_bytes="4000000")
    kafka.create(alerts, 2, cleanup_policy="compact", max_message_bytes="1000000")
    assert set(_rows(vigil("topics", "create").stdout).values()) == {"created", "configuration changed"}
    assert _configured(kafka, journal)["cleanup.policy"] == "compact"
    assert vigil("doctor", **well).returncode == 0

    _set(kafka, journal, **{"cleanup.policy": "delete", "retention.ms": "60000"})
    _set(kafka, alerts, **{"cleanup.policy": "compact", "retention.ms": "60000"})
    _set(kafka, notes, **{"max.message.bytes": "1000000", "retention.bytes": "5000000"})
    lost = vigil("doctor", **well)
    assert lost.returncode == 1
    for what, words in (
        ("vigil.vitals.journal: cleanup.policy is delete, should be compact", "deletes records after 1 min"),
        ("clinical.alerts: cleanup.policy is compact, should be delete", "history"),
        ("clinical.alerts: retention.ms is 1 min, should be 14 days", "deleted after 1 min"),
        ("clinical.notes: max.message.bytes is 1 MB, should be 4 MB", "refuse records over 1 MB"),
        ("clinical.notes: retention.bytes is 5 MB, should be unlimited", "oldest records"),
    ):
        found, mend = _finding(lost.stdout, what)
        assert found.startswith("bad")
        assert words in found
        assert "run `vigil topics create`" in mend
    assert vigil("topics", "create").returncode == 0
    assert vigil("doctor", **well).returncode == 0, "the command that doctor names mends it"


@real
def test_doctor_warns_of_topics_that_only_differ(vigil: Vigil, kafka: Kafka, env: dict[str, str], store: str) -> None:
    well = {"VIGIL_VECTORS__URL": store}
    assert vigil("topics", "create").returncode == 0
    vitals = env["VIGIL_KAFKA__TOPIC_PREFIX"] + "clinical.vitals"
    _set(kafka, vitals, **{"retention.ms": "-1", "message.timestamp.type": "LogAppendTime"})
    done = vigil("doctor", **well)
    assert done.returncode == 0
    found, mend = _finding(done.stdout, "clinical.vitals: retention.ms is unlimited, should be 14 days")
    assert found.startswith("warn")
    assert "topics.retention_hours" in mend
    assert "delete what is older" in mend
    found, mend = _finding(done.stdout, "clinical.vitals: message.timestamp.type is LogAppendTime, should be CreateTime")
    assert "latencies" in found
    assert "run `vigil topics create --alter`" in mend
    assert vigil("topics", "create", "--alter").returncode == 0
    assert "configured as the settings say" in vigil("doctor", **well).stdout


def _set(kafka: Kafka, topic: str, **config: str) -> None:
    admin = AdminClient({"bootstrap.servers": kafka.bootstrap, "log_level": 2})
    entries = [ConfigEntry(name, value, incremental_operation=AlterConfigOpType.SET) for name, value in config.items()]
    resource = ConfigResource(ResourceType.TOPIC, topic, incremental_configs=entries)
    admin.incremental_alter_configs([resource])[resource].result()


def test_a_lane_whose_health_port_is_taken_says_so(vigil: Vigil) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        done = vigil("lane", "run", "vitals", VIGIL_WORKER__HEALTH_PORT=str(taken.getsockname()[1]))
    assert done.returncode == 1
    assert "CRITICAL" in done.stderr and "vitals stops: its health page cannot listen on 127.0.0.1:" in done.stderr
    assert "VIGIL_WORKER__HEALTH_PORT" in done.stderr and "Traceback" not in done.stderr


# ---------------------------------------------------------------------------------------------------------------------- up


def _get(port: int, page: str) -> int:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{page}", timeout=5) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return 0


def _until(condition: Callable[[], object], up: LaneProcess, within: float = 90.0) -> None:
    deadline = time.monotonic() + within
    while not condition():
        assert up.running, up.log
        assert time.monotonic() < deadline, up.log
        time.sleep(0.1)


def _child(up: LaneProcess, word: str) -> psutil.Process | None:
    assert up._process is not None
    return next((one for one in psutil.Process(up._process.pid).children() if word in one.cmdline()), None)


@real
def test_up_restarts_what_is_killed_and_stops_everything(vigil: Vigil, env: dict[str, str], tmp_path: Path) -> None:
    assert vigil("topics", "create").returncode == 0
    port = next(port for port in free_ports(10) if _get(port + 1, "/live") == 0)
    ports = {f"VIGIL_CONNECTORS__{name}__PORT": "0" for name in ("MLLP", "FHIR", "DICOM")}
    up = LaneProcess(
        "up", {**env, **ports}, tmp_path / "up.log", command=[*COMMAND, "up", "--lane", "vitals", "--first-port", str(port)]
    )
    up.start()
    try:
        _until(lambda: _get(port, "/ready") == 200 and _get(port + 1, "/ready") == 200, up)
        lane, edge = _child(up, "vitals"), _child(up, "serve")
        assert lane is not None
        assert edge is not None
        lane.send_signal(signal.SIGKILL)
        lane.wait(10)
        _until(lambda: (again := _child(up, "vitals")) is not None and again.pid != lane.pid, up)
        assert "vitals-0 was ended by SIGKILL" in up.log
        assert _child(up, "serve") == edge, "the others are left alone"
        _until(lambda: _get(port, "/ready") == 200, up)
        left = [one for one in (_child(up, "vitals"), edge) if one is not None]
        assert up.stop() == 0, up.log
        _, alive = psutil.wait_procs(left, timeout=5)
        assert not alive
        assert "Traceback" not in up.log
    finally:
        if up.running:
            up.kill()


def _reason(port: int) -> str:
    try:
        urllib.request.urlopen(f"http://127.0.0.1:{port}/ready", timeout=5).close()
    except urllib.error.HTTPError as error:
        return str(json.loads(error.read())["reason"])
    except OSError:
        pass
    return ""


@real
@pytest.mark.parametrize(
    ("name", "missing"),
    [("notes-entities", "clinical.notes"), ("vitals", "clinical.vitals"), ("vitals", "vigil.vitals.journal")],
)
def test_a_lane_waits_for_its_topics_and_says_so_once(
    vigil: Vigil, env: dict[str, str], kafka: Kafka, tmp_path: Path, name: str, missing: str
) -> None:
    prefix, port = env["VIGIL_KAFKA__TOPIC_PREFIX"], free_ports(1)[0]
    if missing == "vigil.vitals.journal":  # all that it reads is there, and not what it writes down
        for topic in ("clinical.vitals", "clinical.patients", "clinical.feedback"):
            kafka.create(prefix + topic, 2)
    own = {
        "VIGIL_WORKER__HEALTH_PORT": str(port),
        "VIGIL_ENGINE__BACKOFF_MOST": "0.4",
        "VIGIL_LANES__NOTES_ENTITIES__NICE": "0",
    }
    lane = LaneProcess(name, {**env, **own}, tmp_path / "lane.log")
    lane.start()
    try:
        _until(lambda: "vigil topics create" in _reason(port), lane)
        assert prefix + missing in _reason(port)
        _until(lambda: _retries(port) > 8, lane)
        assert lane.log.count("vigil topics create") == 1, lane.log
        assert "not found in cluster metadata" not in lane.log
        assert vigil("topics", "create").returncode == 0
        _until(lambda: _get(port, "/ready") == 200, lane)
        assert lane.stop() == 0, lane.log
    finally:
        if lane.running:
            lane.kill()


def _retries(port: int) -> float:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
        lines = answer.read().decode().splitlines()
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith("vigil_retries_total{"))


@real
def test_a_supervisor_that_is_killed_leaves_no_lane_behind(vigil: Vigil, env: dict[str, str], tmp_path: Path) -> None:
    assert vigil("topics", "create").returncode == 0
    port = free_ports(1)[0]
    words = ["up", "--no-connectors", "--lane", "vitals", "--first-port", str(port)]
    up = LaneProcess("up", env, tmp_path / "up.log", command=[*COMMAND, *words])
    up.start()
    try:
        _until(lambda: _get(port, "/ready") == 200, up)
        lane = _child(up, "vitals")
        assert lane is not None
    finally:
        up.kill()
    lane.wait(30)
