"""Dead letters as they stand: read from their topic, each with its state, and chosen from.

The topic is kept by time, so nothing is overwritten there: a failure that comes later is one more record of the same letter, and
what was done about one stands beside it as a mark. Neither clocks nor which of the two was written first tell whether a mark closes
a letter, for a mark may come late, and a lane that was killed repeats itself. What was tried does: a failure is that of one record
at one offset of the original's partition (the original, or a copy of it), and a mark names the failure that it is about. What fails
at a later copy is another failure, and open. A connector's letter has no such place: there each resend is another failure.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from hashlib import sha256
from typing import Any, Final, Literal

from models.errors import Permanent, Poison
from processors.events import DeadLetterEvent, DeadLetterMarkEvent
from streams.deadletters import original
from streams.wire import decode, header

State = Literal["open", "redriven", "discarded"]
STATES: Final[tuple[State, ...]] = ("open", "redriven", "discarded")
_PLACE: Final = re.compile(r"(?<=\[)\d+(?=\])|(?<=^line )\d+|[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}|[0-9a-f]{32,}")
_FEW: Final = 3  # letters that are told of an id's beginning that many have


@dataclass(frozen=True, slots=True)
class Which:
    """Which letters: all conditions hold, lists are any-of, `since` is inclusive and `until` exclusive; empty asks nothing.

    `classes` are an error class (Poison, Permanent) or an exception's name; ids and model digests may be cut short.
    """

    ids: Sequence[str] = ()
    lanes: Sequence[str] = ()
    stages: Sequence[str] = ()
    classes: Sequence[str] = ()
    models: Sequence[str] = ()
    since: datetime | None = None
    until: datetime | None = None

    def __post_init__(self) -> None:
        if any(bound is not None and bound.tzinfo is None for bound in (self.since, self.until)):
            raise Permanent("a time without a zone cannot be compared", hint="say which: 2026-01-31T08:00:00+01:00")
        # Each letter begins with nothing: a shell's unset variable would choose them all, past the question for --all.
        for name in ("ids", "lanes", "stages", "classes", "models"):
            if not all(value.strip() for value in getattr(self, name)):
                raise Permanent(
                    f"one of the {name} is empty: it would mean every letter",
                    hint="is a variable unset? Who means all of them leaves it out",
                )

    @property
    def everything(self) -> bool:
        """Tell whether nothing is asked."""
        return self == Which()

    def takes(self, letter: DeadLetterEvent) -> bool:
        """Tell whether a letter is one of these."""
        return (
            (not self.ids or letter.id.startswith(tuple(self.ids)))
            and (not self.lanes or letter.lane in self.lanes)
            and (not self.stages or letter.stage in self.stages)
            and (not self.classes or letter.error_class in self.classes or letter.error in self.classes)
            and (not self.models or letter.model_digest.startswith(tuple(self.models)))
            and (self.since is None or letter.failed_at >= self.since)
            and (self.until is None or letter.failed_at < self.until)
        )


@dataclass(slots=True)
class Letter:
    """A dead letter as it stands: its newest failure, its state, and where on the topic that lies.

    The event's `attempts` are those of all its failures: a copy that names another lane's letter, or a replay, counts from one.
    """

    event: DeadLetterEvent
    state: State
    partition: int
    offset: int  # of its newest version
    first_failed_at: datetime
    size: int  # of the original value, bytes
    digest: str  # of the original value, SHA-256, hex
    by: str = ""  # who redrove or discarded it
    twins: list["Letter"] = field(default_factory=list)  # of other lanes about the same original, where one stands for all


@dataclass(frozen=True, slots=True)
class Found:
    """What was found: `letters`, the first of them if a limit was given, and what was asked for in vain."""

    letters: list[Letter]
    total: int  # before the limit
    otherwise: list[Letter]  # asked for by their id, but in another state
    unknown: list[str]  # a sentence for each filter that no letter of any state answers to: misspelt, most likely
    apart: dict[str, list[Letter]] = field(default_factory=dict)  # by why they are not among `letters` and not in `total`


def choose(
    letters: Collection[Letter],
    which: Which,
    states: Sequence[State],
    limit: int | None = None,
    apart: Callable[[DeadLetterEvent], str] = lambda event: "",
) -> Found:
    """Choose letters in these states, oldest failure first. Raises `Permanent` for ids that no letter of any state has.

    Those that `apart` gives a reason for are returned beside the others, and the limit does not count them.
    """
    named = {one: [letter for letter in letters if letter.event.id.startswith(one)] for one in which.ids}
    if missing := [one for one, those in named.items() if not those]:
        raise Permanent(
            f"no dead letter begins with {', '.join(missing)}", hint="`vigil dead-letters list --state any` shows the ids"
        )
    chosen = [letter for letter in letters if letter.state in states and which.takes(letter.event)]
    chosen.sort(key=lambda letter: (letter.first_failed_at, letter.event.id))
    otherwise = [letter for those in named.values() if all(one.state not in states for one in those) for letter in those[:_FEW]]
    by_reason: dict[str, list[Letter]] = defaultdict(list)
    for letter in chosen:
        by_reason[apart(letter.event)].append(letter)
    rest, unknown = by_reason.pop("", []), list(_unknown([letter.event for letter in letters], which))
    return Found(rest[:limit], len(rest), otherwise, unknown, dict(by_reason))


def _unknown(events: Sequence[DeadLetterEvent], which: Which) -> Iterator[str]:
    have = {
        "lane": {event.lane for event in events},
        "stage": {event.stage for event in events},
        "class": {event.error_class for event in events} | {event.error for event in events},
        "model": {event.model_digest for event in events} - {""},
    }
    asked = {"lane": which.lanes, "stage": which.stages, "class": which.classes, "model": which.models}
    for name, values in asked.items():
        there = ", ".join(sorted(one[:12] if name == "model" else one for one in have[name])) or "none"
        for value in values:
            if not any(one.startswith(value) if name == "model" else one == value for one in have[name]):
                yield f"no dead letter of any state has the {name} {value}; there are: {there}"


def reasons(letters: Collection[Letter]) -> list[tuple[str, str, str, str, int]]:
    """Return (lane, peer, message type, reason, how many), the most first. Which occurrence, line or id makes no other reason."""
    events = [letter.event for letter in letters]
    found = Counter((one.lane, one.peer, one.message_type, _PLACE.sub("n", one.message)) for one in events)
    return [(*kind, number) for kind, number in sorted(found.items(), key=lambda item: (-item[1], item[0]))]


def fold(letters: dict[str, Letter], record: Any) -> None:
    """Take one record of the topic into the letters' states; what does not decode is nobody's letter and left alone.

    The records of a partition must come in order, the partitions in any: one letter's records lie in two where their number grew.
    """
    try:
        if header(record, "ce_type") == DeadLetterMarkEvent.type.encode():
            mark = decode(DeadLetterMarkEvent, record)
            known = letters.get(mark.letter_id)
            if known is not None and _closes(mark, known.event):
                known.state, known.by = mark.state, mark.by
            return
        event = decode(DeadLetterEvent, record)
    except Poison:
        return
    value = original(event) or b""
    size, digest = len(value), sha256(value).hexdigest()
    event = event.model_copy(update={"original_value": None})
    known = letters.get(event.id)
    if known is None or known.event.original_timestamp != event.original_timestamp:  # the original's topic was made anew
        letters[event.id] = Letter(event, "open", record.partition, record.offset, event.failed_at, size, digest)
        return
    first, attempts = known.first_failed_at, max(event.attempts, known.event.attempts)
    if _another(event, known, record.partition):
        attempts = max(event.attempts, known.event.attempts + 1)
    elif known.state != "open" or _tried(event) < _tried(known.event):
        return  # a lane that was killed before it committed decides again at the same input: what was done about it holds
    event = event.model_copy(update={"attempts": attempts})
    letters[event.id] = Letter(event, "open", record.partition, record.offset, first, size, digest)


def _tried(event: DeadLetterEvent) -> tuple[int, int]:
    """Return what orders a letter's failures; one that was written before letters said what was tried has its attempts only."""
    return (event.original_offset, event.attempts) if event.tried_offset is None else (event.tried_offset, 0)


def _another(event: DeadLetterEvent, known: Letter, partition: int) -> bool:
    """Tell whether a failure is another than that at which a letter stands, and later."""
    if event.original_partition >= 0:
        return _tried(event) > _tried(known.event)
    if partition == known.partition:
        return event.failed_at != known.event.failed_at
    return event.failed_at > known.event.failed_at


def _closes(mark: DeadLetterMarkEvent, event: DeadLetterEvent) -> bool:
    """Tell whether a mark is about the failure at which a letter stands."""
    if mark.tried_offset is not None:
        return _tried(event)[0] <= mark.tried_offset
    if event.original_partition < 0 and mark.failed_at is not None:
        return event.failed_at == mark.failed_at
    return event.attempts <= mark.attempts  # written before marks and letters said more
