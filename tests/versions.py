"""Another version of Vigil, to be started beside this one: the same packages but for a line in those that decide."""

import shutil
import sys
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[1]
RULES: Final = {"VIGIL_MONITOR__STALENESS": "45m"}
"""Other rules for it to go by."""


def another_version(folder: Path) -> tuple[dict[str, str], list[str]]:
    """Make it; return the environment and the command, without the lane's name, that start a lane of it."""
    tree = folder / "another-version"
    tree.mkdir()
    for name in ("models", "connectors", "streams"):
        (tree / name).symlink_to(ROOT / name)
    shutil.copytree(ROOT / "processors", tree / "processors", ignore=shutil.ignore_patterns("__pycache__"))
    with (tree / "processors" / "news2.py").open("a") as source:
        source.write("\nREVISION = 2\n")
    # -P: else the packages in the working folder come first.
    return {"PYTHONPATH": str(tree), **RULES}, [sys.executable, "-P", "-m", "streams.cli", "lane", "run"]
