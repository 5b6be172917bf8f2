"""The demo clears its own folder, and nobody else's."""

from pathlib import Path

import pytest

from models.errors import Permanent
from streams.demo.stage import _make_room


def test_a_folder_with_somebodys_files_is_left_alone(tmp_path: Path) -> None:
    site = tmp_path / "site"
    (site / "objects").mkdir(parents=True)
    (site / "objects" / "patient.dcm").write_bytes(b"DICM")
    with pytest.raises(Permanent, match="holds files that no demo left"):
        _make_room(site)
    assert (site / "objects" / "patient.dcm").exists()
    with pytest.raises(Permanent, match="is no folder"):
        _make_room(site / "objects" / "patient.dcm")


def test_a_new_an_empty_and_a_demos_own_folder_are_taken(tmp_path: Path) -> None:
    for folder in (tmp_path / "new", tmp_path / "other" / "deep"):
        _make_room(folder)
        (folder / "objects").mkdir()
        _make_room(folder)
