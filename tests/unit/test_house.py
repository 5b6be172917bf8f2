"""The house keeps its own rules: import floors and no circles (the contracts stand in pyproject.toml)."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
FLOORS = ("models", "processors", "connectors", "streams")


def lint(where: Path) -> subprocess.CompletedProcess[str]:
    # in a process of its own: import-linter adds the folder it looks at to sys.path
    command = [
        sys.executable,
        "-c",
        "from importlinter.cli import lint_imports_command as main; main()",
        "--no-cache",
        "--no-logo",
    ]
    return subprocess.run(command, cwd=where, capture_output=True, text=True, timeout=60)


@pytest.fixture
def empty_house(tmp_path: Path) -> Path:
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    for floor in FLOORS:
        (tmp_path / floor).mkdir()
        (tmp_path / floor / "__init__.py").touch()
        (tmp_path / floor / "first.py").touch()
        (tmp_path / floor / "second.py").touch()
    return tmp_path


def test_the_import_floors_hold() -> None:
    done = lint(ROOT)
    assert done.returncode == 0, done.stdout + done.stderr


def test_an_empty_house_passes(empty_house: Path) -> None:
    done = lint(empty_house)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(("low", "high"), [(low, high) for i, low in enumerate(FLOORS) for high in FLOORS[i + 1 :]])
def test_an_import_from_a_higher_floor_would_be_found(empty_house: Path, low: str, high: str) -> None:
    (empty_house / low / "first.py").write_text(f"import {high}.second\n")
    done = lint(empty_house)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "BROKEN" in done.stdout


@pytest.mark.parametrize("floor", FLOORS)
def test_a_circle_inside_a_package_would_be_found(empty_house: Path, floor: str) -> None:
    (empty_house / floor / "first.py").write_text(f"from {floor} import second\n")
    (empty_house / floor / "second.py").write_text(f"from {floor} import first\n")
    done = lint(empty_house)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "No cycles are allowed" in done.stdout


def test_no_rooms_without_a_name() -> None:
    unnamed = {"utils", "util", "common", "core", "helpers", "misc"}
    found = [
        path for floor in FLOORS for path in (ROOT / floor).rglob("*") if path.stem in unnamed and path.suffix in ("", ".py")
    ]
    assert found == []
