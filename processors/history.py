"""What was observed of one patient, bounded: the last values of each parameter, and the samples that wait to prove persistent.

Kept per parameter: the newest value, and of the last 24 hours at least the newest `KEPT` and the last one of each clock hour: what
NEWS2 (now and as of an older set), corrections and the model's window need. Times are milliseconds since 1970.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from enum import Enum
from itertools import accumulate
from typing import Any

from processors.deterioration import HOUR_MS, HOURS

Entry = tuple[int, float | str, int]  # observed, value, rank (lower takes precedence)

CORRECTED = -1  # the rank of a correction: above every source's
KEPT = 4  # a correction or two of the newest value still leaves what stood before
_WINDOW = HOURS * HOUR_MS
_RIVALS = 8  # of a parameter: they matter only as long as what they lost to may be taken back
_MOST = 32  # values of a parameter before the superfluous are let go of, all at once: rarely, since this is a hot path


class Put(Enum):
    """What became of a value."""

    NEW = "the newest of its parameter"
    PAST = "older than the newest"
    SAME = "known already: one observation, whichever feeds brought it"
    CHANGED = "another value stood for this time and was corrected"
    REPLACED = "another value, of lower precedence, stood for this time: that one is not called wrong"
    RIVAL = "another value of the same precedence stands for this time: neither corrects the other, see `settle`"
    OUTRANKED = "another value stands for this time and takes precedence"
    TAKEN_BACK = "this value was taken back for this time"


class History:
    """One patient's observations. `entries` are sorted by time, never empty lists.

    `gone` are values that were taken back: the same one for the same time is not taken in again, however late it is repeated (or if
    it comes after what takes it back). Another value is; so is the same one as a correction.

    `rivals` are the values of equal precedence that do not count for their time because another one does: two feeds that stamp to
    the minute measured differently within it. One of them stands in again when that other value is taken back.
    """

    __slots__ = ("entries", "gone", "rivals", "samples")

    def __init__(self) -> None:
        self.entries: dict[str, list[Entry]] = {}
        self.samples: dict[str, list[Entry]] = {}
        self.gone: dict[str, list[tuple[int, float | str]]] = {}  # the last few of each parameter
        self.rivals: dict[str, list[Entry]] = {}  # likewise

    @property
    def newest(self) -> int | None:
        """When the newest of all values was observed."""
        return max((entries[-1][0] for entries in self.entries.values()), default=None)

    def times(self) -> set[int]:
        """Return the times of all that is kept."""
        kept = (*self.entries.values(), *self.samples.values(), *self.rivals.values())
        return {one[0] for entries in kept for one in entries}

    def stands(self, parameter: str, at: int, value: float | str | None) -> bool:
        """Tell whether a value of that time is kept: this one, or any where it is None."""
        kept = (of.get(parameter, ()) for of in (self.entries, self.samples, self.rivals))
        return any(one[0] == at and value in (None, one[1]) for entries in kept for one in entries)

    def within(self, parameter: str, start: int, end: int, value: float | str | None) -> list[int]:
        """Return the times from `start` on and before `end` of which a value is kept: this one, or any where it is None."""
        kept = (of.get(parameter, ()) for of in (self.entries, self.samples, self.rivals))
        return sorted({one[0] for entries in kept for one in entries if start <= one[0] < end and value in (None, one[1])})

    def gone_within(self, parameter: str, start: int, end: int, value: float | str | None) -> list[int]:
        """Likewise of what was taken back."""
        gone = self.gone.get(parameter, ())
        return sorted({at for at, known in gone if start <= at < end and value in (None, known)})

    def may_have_let_go(self, parameter: str, at: int) -> bool:
        """Tell whether a value of that time may have been let go of, though nobody took it back."""
        entries, newest = self.entries.get(parameter, ()), self.newest
        return (newest is not None and newest - at >= _WINDOW) or (len(entries) > KEPT and at < entries[-KEPT][0])

    def put(self, parameter: str, at: int, value: float | str, rank: int, *, correcting: bool = False) -> Put:
        """Take a value in. `correcting` replaces what stands for that time whatever its rank, and is replaced by corrections only.

        So the original that comes again, late or repeated, does not undo its correction.
        """
        if self.gone and self._is_gone(parameter, at, value, correcting=correcting):
            return Put.TAKEN_BACK
        rank = CORRECTED if correcting else rank
        entries = self.entries.get(parameter)
        if entries is None:
            self.entries[parameter] = [(at, value, rank)]
            return Put.NEW
        if at > entries[-1][0]:
            entries.append((at, value, rank))
            if at - entries[0][0] >= _WINDOW:
                del entries[0]
            if len(entries) > _MOST:
                self.entries[parameter] = _thinned(entries)
            return Put.NEW
        return self._put_past(parameter, entries, (at, value, rank), correcting=correcting)

    def _put_past(self, parameter: str, entries: list[Entry], entry: Entry, *, correcting: bool) -> Put:
        at, value, rank = entry
        place = bisect_left(entries, at, key=_time)
        if place < len(entries) and entries[place][0] == at:
            _, known, known_rank = entries[place]
            if known == value:
                entries[place] = (at, value, min(rank, known_rank))
                return Put.SAME
            if not correcting:
                if rank == known_rank:
                    return Put.RIVAL
                if rank > known_rank:
                    return Put.OUTRANKED
            entries[place] = entry
            if not correcting:
                return Put.REPLACED
            self._without_rivals(parameter, at)
            return Put.CHANGED
        entries.insert(place, entry)
        if len(entries) > _MOST:
            self.entries[parameter] = _thinned(entries)
        return Put.PAST

    def settle(self, parameter: str, at: int, value: float | str, *, counts: bool) -> None:
        """Settle what `put` called a `RIVAL`: the value that `counts` stands for that time, the other is kept beside it."""
        entries = self.entries[parameter]
        place = bisect_left(entries, at, key=_time)
        _, known, rank = entries[place]
        if counts:
            entries[place] = (at, value, rank)
        rivals = self.rivals.setdefault(parameter, [])
        rivals[:] = [one for one in rivals if one[0] != at or one[1] not in (known, value)]
        rivals.append((at, known if counts else value, rank))
        del rivals[:-_RIVALS]

    def drop_rival(self, parameter: str, at: int, value: float | str | None) -> bool:
        """Take back a value that does not count for its time; true when it was one: what counts is not what was meant."""
        rivals = self.rivals.get(parameter, [])
        kept = [one for one in rivals if one[0] != at or one[1] != value]
        if value is None or len(kept) == len(rivals):
            return False
        self._bury(parameter, at, value)
        self._keep_rivals(parameter, kept)
        return True

    def _without_rivals(self, parameter: str, at: int) -> list[Entry]:
        """Let go of the rivals for a time; return them, oldest first."""
        if parameter not in self.rivals:
            return []
        found = [one for one in self.rivals[parameter] if one[0] == at]
        self._keep_rivals(parameter, [one for one in self.rivals[parameter] if one[0] != at])
        return found

    def _keep_rivals(self, parameter: str, kept: list[Entry]) -> None:
        if kept:
            self.rivals[parameter] = kept
        else:
            self.rivals.pop(parameter, None)

    def remove(self, parameter: str, at: int, value: float | str | None, rank: int) -> bool:
        """Take back what was entered in error; true when it was still known.

        It goes when the value is the same or not told, or when the one who takes it back has precedence. The last of its rivals
        stands in for it, if there are any and the value is told: without one, all that was said of that time is taken back.
        """
        found = False
        if value is not None:
            self._bury(parameter, at, value)
        for kept in (self.entries, self.samples):
            entries = kept.get(parameter, [])
            place = bisect_left(entries, at, key=_time)
            if place < len(entries) and entries[place][0] == at:
                _, known, known_rank = entries[place]
                if value is None or value == known or rank <= known_rank:
                    found = True
                    self._bury(parameter, at, known)
                    rivals = self._without_rivals(parameter, at) if kept is self.entries else []
                    if rivals and value is not None:
                        entries[place] = rivals.pop()
                        self.rivals.setdefault(parameter, []).extend(rivals)
                        self._keep_rivals(parameter, self.rivals[parameter])
                        continue
                    del entries[place]
                    if not entries:
                        del kept[parameter]
        return found

    def _bury(self, parameter: str, at: int, value: float | str) -> None:
        gone = self.gone.setdefault(parameter, [])
        if (at, value) not in gone:
            gone.append((at, value))
            del gone[:-_MOST]

    def _is_gone(self, parameter: str, at: int, value: float | str, *, correcting: bool) -> bool:
        gone = self.gone.get(parameter, [])
        if (at, value) not in gone:
            return False
        if correcting:
            gone.remove((at, value))
            if not gone:
                del self.gone[parameter]
        return not correcting

    def latest(self, parameter: str, until: int) -> Entry | None:
        """Return the newest value observed at `until` or before, as far as the history goes back."""
        entries = self.entries.get(parameter)
        if not entries:
            return None
        place = bisect_right(entries, until, key=_time)
        return entries[place - 1] if place else None

    def sample(
        self, parameter: str, at: int, value: float | str, rank: int, *, samples: int, spacing: int, within: int
    ) -> Sequence[Entry]:
        """Take in a sample of an unvalidated stream: return the samples that show what persists, oldest first; none so far.

        One is kept per `spacing` (the last), `samples` of them, none older than `within`. They show it when there are `samples`, or
        at least two over as long a time as so many take at the shortest: a slow stream proves a value by fewer.
        """
        kept = self.samples.setdefault(parameter, [])
        place = bisect_right(kept, at, key=_time)
        if place < len(kept):
            return ()  # out of order: says nothing about now
        if kept and kept[-1][0] // spacing == at // spacing:
            kept.pop()
        kept.append((at, value, rank))
        while len(kept) > samples or at - kept[0][0] > within:
            del kept[0]
        lasting = len(kept) > 1 and at - kept[0][0] >= (samples - 1) * spacing
        return kept if lasting or len(kept) == samples else ()

    def vouch(self, parameter: str, at: int, value: float | str, rank: int) -> None:
        """Let a validated value answer for a stream's samples up to its time: what it contradicts must not outvote what follows."""
        kept = self.samples[parameter]
        self.samples[parameter] = [(at, value, rank), *kept[bisect_right(kept, at, key=_time) :]]

    def recall(self, after: int, to: int) -> None:
        """Take back what a wrong clock stamped later than `after`: the last value of each parameter counts as of about `to`."""
        for entries in self.entries.values():
            place = bisect_right(entries, after, key=_time)
            if place < len(entries):
                at = max(to, entries[place - 1][0] + 1) if place else to
                entries[place:] = [(at, *entries[-1][1:])]
        for parameter in list(self.samples):
            self.samples[parameter] = [one for one in self.samples[parameter] if one[0] <= after]
            if not self.samples[parameter]:
                del self.samples[parameter]

    def promote(self, parameter: str, at: int) -> float | str | None:
        """Return the sample of exactly that time: its sender has declared it final without sending it again."""
        return next((value for when, value, _ in self.samples.get(parameter, ()) if when == at), None)


def packed(entries: Sequence[Entry]) -> list[Any]:
    """Return entries as a snapshot holds them: [times, each after the one before; values; ranks, or the one rank of all]."""
    times = [entry[0] for entry in entries]
    ranks = [entry[2] for entry in entries]
    steps = [at - before for before, at in zip([0, *times], times, strict=False)]
    return [steps, [entry[1] for entry in entries], ranks[0] if len(set(ranks)) == 1 else ranks]


def unpacked(raw: Sequence[Any]) -> list[Entry]:
    """Return the entries that `packed` packed."""
    steps, values, ranks = raw
    if isinstance(ranks, int):
        ranks = [ranks] * len(values)
    return list(zip(accumulate(steps), values, ranks, strict=True))


def _thinned(entries: list[Entry]) -> list[Entry]:
    newest, recent = entries[-1][0] // HOUR_MS, len(entries) - KEPT
    hours = [one[0] // HOUR_MS for one in entries]
    return [
        one
        for place, one in enumerate(entries)
        if place >= recent or (newest - hours[place] < HOURS and hours[place] != hours[place + 1])
    ]


def _time(entry: Entry) -> int:
    return entry[0]
