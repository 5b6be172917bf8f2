"""`pip install .` into an empty environment gives a `vigil` that works, with weights and sample feeds inside the wheel."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from zipfile import ZipFile

import pytest

ROOT = Path(__file__).parents[2]
pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def _uv() -> str:
    beside = Path(sys.executable).parent / "uv"
    found = str(beside) if beside.exists() else shutil.which("uv")
    if not found:
        pytest.skip("uv is not installed")
    return found


def _run(*command: str, cwd: Path) -> str:
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("VIGIL_", "PYTHON", "VIRTUAL_ENV"))}
    done = subprocess.run(command, cwd=cwd, env=clean, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_wheel_works_alone(tmp_path: Path) -> None:
    uv = _uv()
    _run(uv, "build", "--wheel", "--out-dir", str(tmp_path), str(ROOT), cwd=tmp_path)
    (wheel,) = tmp_path.glob("*.whl")
    names = set(ZipFile(wheel).namelist())
    for name in ("minilm/model.onnx", "ner/model.onnx", "deterioration/model.onnx", "chest-xray/model.onnx"):
        assert f"models/weights/{name}" in names
    assert {"models/registry.toml", "streams/demo/pictures.toml", "streams/py.typed"} <= names
    assert not any(name.startswith(("tests/", "infra/")) for name in names)
    _run(uv, "venv", "--python", sys.executable, str(tmp_path / "env"), cwd=tmp_path)
    _run(uv, "pip", "install", "--python", str(tmp_path / "env" / "bin" / "python"), str(wheel), cwd=tmp_path)
    vigil = str(tmp_path / "env" / "bin" / "vigil")
    assert _run(vigil, "lane", "list", cwd=tmp_path).split() == [
        "vitals",
        "notes-entities",
        "notes-vectors",
        "images",
        "merges",
    ]
    installed = _run(uv, "pip", "list", "--python", str(tmp_path / "env" / "bin" / "python"), cwd=tmp_path)
    assert not any(line.startswith("torch ") for line in installed.splitlines()), "the base install must stay light"
    summary = tmp_path / "summary.json"
    _run(vigil, "demo", "--for", "20s", "--hours", "1", "--json", str(summary), cwd=tmp_path)
    assert '"lost": 0' in summary.read_text()
