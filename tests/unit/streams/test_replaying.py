"""What a replay keeps and says of itself; no broker is asked."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from models.errors import Permanent
from streams.cli.replay import _where
from streams.keeping import keep, try_out
from streams.replaying import Choice, Pace, Progress

CHOICE = Choice(topic="clinical.notes")


def test_who_stops_a_replay_is_told_where_it_stands(tmp_path: Path) -> None:
    kept = Progress.open(tmp_path / "progress", CHOICE)
    kept.done = 163
    assert _where(kept, 169) == (
        f"stopped: 163 of 169 are done. The same command goes on from there (--resume {tmp_path / 'progress'})"
    )
    assert _where(Progress.open(None, CHOICE), 169) == (
        "stopped: 0 of 169 are done. Without --resume FILE the position is not kept: the same command begins anew (by the same ids)"
    )


def test_what_no_replay_could_be_is_refused() -> None:
    for rate, seconds in ((float("inf"), 1.0), (float("nan"), 1.0), (0.0, float("inf"))):
        with pytest.raises(Permanent, match="finite"):
            Pace(rate, seconds)
    now = datetime.now(UTC)
    with pytest.raises(Permanent, match="nothing lies between"):
        Choice(topic="clinical.notes", since=now, until=now - timedelta(hours=1))
    with pytest.raises(Permanent, match="63 bits"):
        Choice(topic="clinical.notes", ranges=((0, 0, 10**23),))


def test_a_file_that_cannot_be_written_is_refused_beforehand_and_nothing_is_left(tmp_path: Path) -> None:
    for file in (tmp_path, Path("."), tmp_path / "none" / "file"):
        with pytest.raises(Permanent, match=r"the progress .* cannot be written"):
            Progress.open(file, CHOICE)
    there = tmp_path / "file"
    try_out(there, "report")
    assert list(tmp_path.iterdir()) == []
    keep(there, b"all", "report")
    try_out(there, "report")
    assert (there.read_bytes(), [*tmp_path.iterdir()], there.stat().st_mode & 0o077) == (b"all", [there], 0)
    with pytest.raises(Permanent, match=r"the report .* cannot be written"):
        keep(tmp_path / "none" / "file", b"", "report")


def test_trying_a_file_leaves_alone_what_another_command_is_writing_just_now(tmp_path: Path) -> None:
    part = tmp_path / "progress.part"
    part.write_bytes(b"half of it")
    Progress.open(tmp_path / "progress", CHOICE)
    assert part.read_bytes() == b"half of it"
