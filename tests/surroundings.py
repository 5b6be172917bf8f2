"""What a measurement was taken of and on: the commit, the machine, and what is installed there."""

import hashlib
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil

PACKAGES = (
    "faust-streaming",
    "aiokafka",
    "confluent-kafka",
    "quixstreams",
    "onnxruntime",
    "qdrant-client",
    "sentence-transformers",
    "torch",
)
ROOT = Path(__file__).resolve().parents[1]


def machine() -> dict[str, Any]:
    """Describe the machine, without its name."""
    return {
        "cpu": _cpu(),
        "cores": psutil.cpu_count(),
        "memory_gb": round(psutil.virtual_memory().total / 2**30),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "packages": {name: found for name in PACKAGES if (found := _version(name))},
    }


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""


def commit(root: Path = ROOT) -> str:
    """Return the commit that is measured; where files differ from it, with + and a digest of how (reports apart)."""
    try:
        head = _git(root, "rev-parse", "--short", "HEAD").strip()
        changed = _git(root, "diff", "HEAD", "--", ".", ":(exclude,glob)**/results/**")
    except (OSError, subprocess.CalledProcessError):
        return ""
    return head + ("+" + hashlib.sha256(changed.encode()).hexdigest()[:8] if changed else "")


def _git(root: Path, *arguments: str) -> str:
    return subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, check=True).stdout
