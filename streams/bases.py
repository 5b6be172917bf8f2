"""By what it was decided then, held against what a rerun decides by: which settings differ, in words (journal rule 9)."""

from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime

from streams.differing import differences, short
from streams.journal import Basis

Decided = tuple[datetime | None, int | None]  # at which logged time, and upon the vitals at which offset, if upon any


class Bases:
    """What decided in a partition, as its journal has it, beside what decides `here`: names and values."""

    def __init__(self, bases: Sequence[Basis], here: Mapping[str, str]) -> None:
        self._begins = [one.since for one in bases]
        self._ats = [one.at for one in bases]
        self._words = ["by which rules and version it was decided then is not known: nobody wrote it down"]
        for number, one in enumerate(bases):
            differs = [f"{name} {short(then)} then, {short(now)} here" for name, then, now in differences(one.values, here)]
            until = f" until {_time(self._begins[number + 1])}" if number + 1 < len(bases) else ""
            told = f"from {_time(one.since)}{until} it was decided by something else: {', '.join(differs)}"
            self._words.append(told if differs else "")

    def why(self, decided: Decided) -> str:
        """Say what decided otherwise then; empty where it was the same, or nothing was decided by then."""
        return "" if decided[0] is None else self._words[self._which(*decided)]

    def notes(self, decided: Iterable[Decided]) -> list[str]:
        """Say what decided otherwise at any of these times, and last before them: alerts of then may stand in them."""
        which = sorted({self._which(*one) for one in decided if one[0] is not None})
        found = [self._words[one] for one in which if self._words[one]]
        before = which[0] - 1 if which else 0
        if before > 0 and self._words[before]:
            found.insert(0, f"what stood when this began may go by what decided before: {self._words[before]}")
        return found

    def _which(self, now: datetime | None, offset: int | None) -> int:
        # What came in while a worker was away is decided as of the last time of the one before. By the time alone where the
        # vitals were made anew since: then offsets begin anew.
        by_time = 0 if now is None else bisect_right(self._begins, now)
        by_place = [number for number, at in enumerate(self._ats, 1) if offset is not None and at <= offset]
        return max([by_time, *by_place])


def _time(at: datetime) -> str:
    return f"{at:%Y-%m-%d %H:%M:%S} UTC"
