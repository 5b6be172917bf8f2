"""Processes of our own are our own code, whatever lies in the folder that they are started in."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from connectors.child import command, environment
from connectors.qdrant.embedded import EmbeddedQdrant
from streams.broker import EmbeddedBroker
from streams.supervisor import lane_children

ROOT = Path(__file__).parents[3]


@pytest.fixture
def poisoned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with modules of our names, of a library's and of the standard library's; each says that it was run."""
    folder = tmp_path / "poisoned"
    for name in (
        "models/__init__",
        "streams/__init__",
        "connectors/__init__",
        "processors/__init__",
        "orjson",
        "nt",
        "selectors",
    ):
        file = folder / f"{name}.py"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"open({str(folder / 'was-run')!r}, 'a').write(__name__)\n")
    monkeypatch.chdir(folder)
    return folder


def test_a_lane_is_ours_in_a_folder_with_modules_of_our_names(poisoned: Path) -> None:
    (lane,) = lane_children(["nowhere"], 1)
    done = subprocess.run(lane.command, env={**environment(), **lane.env}, capture_output=True, text=True, timeout=60)
    assert "there is no lane 'nowhere'" in done.stderr
    assert done.returncode == 2
    assert not (poisoned / "was-run").exists()


def test_the_embedded_broker_and_store_are_ours_too(poisoned: Path, tmp_path: Path) -> None:
    with EmbeddedBroker() as address:
        assert address.startswith("127.0.0.1:")
    with EmbeddedQdrant(tmp_path / "data") as store:
        assert store.url.startswith("http://")
    assert not (poisoned / "was-run").exists()


@pytest.mark.parametrize("path", [None, "extra"])
def test_a_child_finds_a_source_tree_that_only_the_working_folder_showed(path: str | None, tmp_path: Path) -> None:
    (tmp_path / "extra").mkdir()
    (tmp_path / "extra" / "a_sites_own.py").write_text("")
    code = (
        "import os, subprocess; from connectors.child import *; os.chdir('/')\n"
        "print(subprocess.run(command('streams.cli', 'lane', 'list'), env=environment(), capture_output=True, text=True).stdout)\n"
        "import os; print(environment().get('PYTHONPATH'))"
    )
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    given = {} if path is None else {"PYTHONPATH": str(tmp_path / path)}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env={**clean, **given}, capture_output=True, text=True, timeout=60
    )
    assert "notes-entities" in done.stdout, done.stderr
    assert path is None or str(tmp_path / path) in done.stdout.splitlines()[-1], "what PYTHONPATH says still counts"


def test_nothing_of_ours_is_started_by_its_name_alone() -> None:
    files = [file for room in ("models", "processors", "connectors", "streams") for file in (ROOT / room).rglob("*.py")]
    bare = [str(file.relative_to(ROOT)) for file in files if re.search(r'sys\.executable,\s*"-m"', file.read_text("utf-8"))]
    assert not bare
    assert command("streams.cli")[1] == "-P"
