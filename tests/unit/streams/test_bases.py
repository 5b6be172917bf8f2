"""What a rerun says of who decided then."""

from datetime import UTC, datetime, timedelta

from streams.bases import Bases
from streams.journal import Basis

START = datetime(2026, 3, 1, 8, tzinfo=UTC)
OTHERWISE = "from 2026-03-01 09:00:00 UTC until 2026-03-01 10:00:00 UTC it was decided by something else: "


def at(hours: float, offset: int | None = None) -> tuple[datetime, int | None]:
    return START + timedelta(hours=hours), offset


def basis(number: int, value: str, offset: int = 0) -> Basis:
    return Basis(number, offset, at(number)[0], {"a": value, "code": "x"})


def test_each_time_is_of_the_one_that_decided_then() -> None:
    bases = Bases([basis(1, "1"), basis(2, "2"), basis(3, "1")], {"a": "1", "b": "0"})
    assert bases.why(at(1)) == OTHERWISE + "b none then, 0 here, code x then, none here"
    assert "a 2 then, 1 here" in bases.why(at(2.5)) and "a 2" not in bases.why(at(3))
    assert bases.why(at(0.9)).endswith("nobody wrote it down") and bases.why((None, 7)) == ""


def test_what_came_in_while_nobody_worked_is_of_the_next_one_and_offsets_may_begin_anew() -> None:
    bases = Bases([basis(1, "1", 0), basis(2, "2", 100)], {"a": "2", "code": "x"})
    assert bases.why(at(1.5, 99)) == bases.why(at(1.5)) != ""
    assert bases.why(at(1.5, 100)) == bases.why(at(2.5, 3)) == ""


def test_what_decides_here_is_no_news_but_what_decided_before_it_is() -> None:
    bases = Bases([basis(1, "1" * 80), basis(2, "2", 9)], {"a": "2", "code": "x"})
    words = f"{OTHERWISE}a {'1' * 60}... then, 2 here"
    assert bases.notes([(None, None), at(3)]) == [f"what stood when this began may go by what decided before: {words}"]
    assert bases.notes([at(1), at(3)]) == [words] == [bases.why(at(1))]
    assert bases.notes([]) == bases.notes([(None, 1)]) == Bases([], {}).notes([(None, None)]) == []
