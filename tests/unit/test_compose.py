"""infra/compose.yaml says what the code understands: its settings, its commands, the versions that the tests run."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from streams.settings import load
from tests.kafka import VERSION

ROOT = Path(__file__).parent.parent.parent
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "infra" / "compose.yaml").read_text())
OURS = {name: service for name, service in COMPOSE["services"].items() if service["image"].startswith("vigil-stream")}


def test_all_of_the_stack_is_there() -> None:
    others = {"kafka", "qdrant", "redis", "postgres", "prometheus", "grafana"}
    assert set(COMPOSE["services"]) == others | {"topics", "lanes", "connectors"}
    assert set(OURS) == {"topics", "lanes", "connectors"}


@pytest.mark.parametrize("name", OURS)
def test_our_services_settings_are_understood(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)  # no vigil.toml
    for key, value in OURS[name]["environment"].items():
        monkeypatch.setenv(key, value)
    settings = load()  # refuses what it does not know
    assert settings.kafka.bootstrap == "kafka:29092"
    assert settings.vectors.url == "http://qdrant:6333"
    assert settings.topics.replication == 1
    assert settings.identity.site_secret.get_secret_value().startswith(
        "${VIGIL_SITE_SECRET:?"
    )  # no default that all sites share


def test_every_connector_can_be_reached(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    for key, value in OURS["connectors"]["environment"].items():
        monkeypatch.setenv(key, value)
    connectors = load().connectors
    sections = {name: getattr(connectors, name) for name in connectors.enabled if hasattr(connectors, name)}
    hosts = {name: own.host for name, own in sections.items()}
    assert hosts == dict.fromkeys(sections, "0.0.0.0"), (
        "inside the container; set VIGIL_CONNECTORS__<NAME>__HOST in the compose file"
    )
    published = {port.rpartition(":")[2] for port in OURS["connectors"]["ports"]}
    assert {str(own.port) for own in sections.values()} <= published


@pytest.mark.parametrize("name", OURS)
def test_our_services_commands_are_understood(name: str) -> None:
    words = [word for word in OURS[name]["command"] if not word.startswith("$")]
    flags = {word for word in words if word.startswith("-")}
    command = [sys.executable, "-m", "streams.cli", *[word for word in words if word not in flags], "--help"]
    said = subprocess.run(command, capture_output=True, text=True, timeout=60, env={"COLUMNS": "200", "PATH": ""})
    assert said.returncode == 0, said.stderr
    assert all(flag in said.stdout for flag in flags)


def test_the_versions_are_those_that_the_tests_run() -> None:
    assert f":-apache/kafka:{VERSION}}}" in COMPOSE["services"]["kafka"]["image"]


def test_nothing_is_published_beyond_this_machine() -> None:
    published = [port for service in COMPOSE["services"].values() for port in service.get("ports", [])]
    assert len(published) >= 5
    assert [port for port in published if not port.startswith("127.0.0.1:")] == []


def test_what_keeps_data_has_a_volume() -> None:
    for name in ("kafka", "qdrant", "redis", "postgres", "lanes", "connectors", "prometheus", "grafana"):
        assert [volume.partition(":")[0] for volume in COMPOSE["services"][name]["volumes"]] != []
    named = {volume.partition(":")[0] for service in COMPOSE["services"].values() for volume in service.get("volumes", [])}
    named = {name for name in named if not name.startswith("./")}
    assert named == set(COMPOSE["volumes"])
