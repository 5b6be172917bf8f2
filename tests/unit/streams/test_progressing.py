"""How far a command is, said without a terminal: plain lines, few of them."""

import io
from collections.abc import Callable
from typing import Any, Self

import pytest
from rich.console import Console

from streams import outbox, replaying
from streams.cli import dead_letters, replay
from streams.cli.progressing import APART, Bar
from streams.redriving import Plan
from streams.replaying import Choice, Pace, Progress, Told
from streams.settings import Settings


class Watch:
    """A clock that a test moves."""

    seconds = 1000.0

    def __call__(self) -> float:
        return self.seconds


def test_without_a_terminal_each_new_reason_is_a_line_and_none_comes_within_ten_seconds_of_another(
    capsys: pytest.CaptureFixture[str],
) -> None:
    now = Watch()
    with Bar("replay", 1200, 200, console=Console(file=io.StringIO()), now=now) as bar:

        def said() -> list[str]:
            return capsys.readouterr().err.splitlines()

        bar.update(doing="replay", done=200)
        assert said() == []
        bar.update(doing="waiting: images is 90 records behind")
        assert said() == ["waiting: images is 90 records behind (200 of 1,200 done)"]
        for behind in range(80, 0, -10):
            bar.update(doing=f"waiting: images is {behind} records behind")
        bar.update(doing="replay", done=300)
        assert said() == []
        now.seconds += APART
        bar.update(doing="replay", done=400)
        assert said() == ["replay (400 of 1,200 done)"]
        now.seconds += APART
        bar.update(doing="replay", done=500)
        assert said() == []  # nothing new
        bar.update(doing="waiting: no broker answers")
        assert said() == ["waiting: no broker answers (500 of 1,200 done)"]


def test_a_terminal_has_the_bar_alone(capsys: pytest.CaptureFixture[str]) -> None:
    out = io.StringIO()
    with Bar("replay", 2, console=Console(file=out, force_terminal=True, width=120)) as bar:
        bar.update(doing="waiting: images is 90 records behind", done=1)
        with bar.away():
            pass
    assert "waiting: images is 90 records behind" in out.getvalue()
    assert capsys.readouterr().err == ""


class Slow:
    """A desk, replays and an outbox whose lanes are behind."""

    def __init__(self, *_: object, **__: object) -> None:
        pass

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        pass

    async def start(self) -> None:
        pass

    async def stop(self) -> None:
        pass

    async def redrive(
        self, letters: Any, reason: str, *, seconds: float, progress: Callable[[int], None], waits: Callable[[str], None]
    ) -> int:
        waits("images is 9 records behind")
        progress(2)
        return 2

    async def run(self, letters: Any, *_: object, tell: Callable[[Told], None], **__: object) -> int:
        tell(Told(1, "images is 9 records behind"))
        tell(Told(2))
        return 2


async def test_a_redrive_and_a_replay_say_in_a_log_what_they_wait_for(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(dead_letters, "_desk", Slow)
    assert await dead_letters._redrive(Settings(), [None, None], "why", 1.0) == 2  # type: ignore[list-item]
    assert capsys.readouterr().err == "waiting: images is 9 records behind (0 of 2 done)\n"
    monkeypatch.setattr(outbox, "Outbox", Slow)
    monkeypatch.setattr(replaying, "Replays", Slow)
    choice = Choice(topic="clinical.notes")
    plan = Plan(ready=[None, None])  # type: ignore[list-item]
    assert await replay._run(Settings(), plan, choice, "why", Pace(), Progress(None, choice.digest)) == 2
    assert capsys.readouterr().err == "waiting: images is 9 records behind (1 of 2 done)\n"
