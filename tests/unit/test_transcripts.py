"""The runbook's transcripts show the tables that the commands print now: `python -m tests.incidents PAGE` makes one anew."""

import re
from collections.abc import Callable
from datetime import UTC, datetime

import pytest

from connectors.deadletters import dead_letter
from streams.cli import dead_letters, replay, status
from streams.lagging import Lag
from streams.letters import Found, Letter
from streams.settings import Settings
from streams.shadowing import Diff
from tests.monitoring import INFRA

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
EVENT = dead_letter(b"x", connector="hl7", stage="map", message="no", failed_at=NOON, peer="a")
LETTER = Letter(EVENT, "open", 0, 0, NOON, 1, "")
SEEN = status.Seen([Lag("images", "clinical.images", 0, 1, 2, 1)])
Printed = dict[str, list[list[str]]]


def heads(text: str) -> list[list[str]]:
    """The head rows of the tables in a text."""
    return [[cell.strip() for cell in line.strip("┃ ").split("┃")] for line in text.splitlines() if line.startswith("┃")]


@pytest.fixture
def printed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Printed:
    """What each command prints where there is something to show."""

    async def letters(*_: object) -> Found:
        return Found([LETTER], 1, [], [])

    async def look(*_: object) -> status.Seen:
        return SEEN

    for module in (dead_letters, status):
        monkeypatch.setattr(module, "load", Settings)
        monkeypatch.setattr(module, "_look", letters if module is dead_letters else look)
    commands: dict[str, Callable[[], object]] = {
        "dead-letters list": dead_letters.list_letters,
        "dead-letters redrive": lambda: dead_letters._print_counts([LETTER], ""),
        "dead-letters discard": lambda: dead_letters.discard(all_=True, dry_run=True),
        "lag": status.lag,
        "status": lambda: status.status(once=True),
        "replay run": lambda: replay._print_counts([LETTER], ""),
        "replay shadow": lambda: replay._print_diff(Diff()),
    }
    found = {}
    for name, run in commands.items():
        run()
        found[name] = heads(capsys.readouterr().out)
        assert found[name]
    return found


def test_what_a_transcript_shows_is_what_its_command_prints_now(printed: Printed) -> None:
    held = set()
    for page in sorted((INFRA / "runbook").glob("*.md")):
        for command, said in re.findall(r"^\$ (.+)\n((?:(?![$#] |```).*\n)*)", page.read_text(), flags=re.MULTILINE):
            name = next((one for one in printed if command.startswith(f"vigil {one} ") or command == f"vigil {one}"), "")
            if shown := heads(said):
                assert name, f"{page.name}: `{command}` shows a table that this test does not know"
                assert shown == printed[name], f"{page.name}: `{command}` prints another table now"
                held.add(name)
    assert held == set(printed)
