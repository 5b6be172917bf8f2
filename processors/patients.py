"""What is known of one watched patient: context, observations, and the alerts under way. Times are milliseconds since 1970.

The record has two halves that never read each other while a batch is under way: what `observe` keeps (phase 1) and what `decide`
keeps (phase 2). So it does not matter how a stream is cut into batches.
"""

from calendar import isleap
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from hashlib import blake2b
from itertools import accumulate, pairwise
from typing import Any, Final, NamedTuple

import orjson

from models.errors import Fatal, Poison
from processors.alerts import Alert
from processors.deterioration import HourlyWindow
from processors.events import Location, Parameter, PatientEvent, Severity
from processors.history import Entry, History, packed, unpacked
from processors.news2 import Scale

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)
_FIRST, _LAST = ((datetime(year, 1, 1, tzinfo=UTC) - _EPOCH) // _MILLISECOND for year in (1800, 3000))
NOT_HERE: Final = frozenset({"finished", "cancelled", "planned"})  # statuses of a stay by which nobody lies there
_RECEIPTS = 4  # of one stamp: a clock that stands still
_LATELY = 128  # sets that may alert yet: two a minute for an hour
_STAMPS = 64  # newest times of a clock that runs ahead, whatever has become of their values
_VERSION = 1  # of the snapshots; another one is refused, not guessed at

ADULT_YEARS = 16  # NEWS2 is for 16 years and older


def ms(time: datetime) -> int:
    """Return milliseconds since 1970 (UTC), cut off.

    Raises `Poison` for a time outside the years 1800 to 2999: near its ends the calendar of Python overflows, and a placeholder
    such as 9999-12-31 is no time at which anything was observed.
    """
    at = (time - _EPOCH) // _MILLISECOND
    if not _FIRST <= at <= _LAST:
        raise Poison("a time outside the years 1800 to 2999", stage="process")
    return at


def when(at: int) -> datetime:
    """Return the UTC time of milliseconds since 1970."""
    return _EPOCH + timedelta(milliseconds=at)


def adult_from(birth_date: str | None) -> int | None:
    """Return when somebody is certainly 16, from an ISO date that may lack day or month; None when unknown or not a date.

    A year before 1800 or after 2983 is no birth year: senders write 9999-12-31 for "unknown". Of a partial date the latest day
    counts. Who was born on 29 February comes of age on 1 March where the year has no such day.
    """
    try:
        numbers = [int(part) for part in (birth_date or "").split("T")[0].split("-")]
        year, month, day = (*numbers, None, None)[:3] if len(numbers) <= 3 else (None, None, None)
        if year is None or not 1800 <= year < 3000 - ADULT_YEARS:
            return None
        month_known = 12 if month is None else month
        first = datetime(year, month_known, 1, tzinfo=UTC)
        last = (first + timedelta(days=32)).replace(day=1) - timedelta(days=1)
        born = datetime(year, month_known, last.day if day is None else day, tzinfo=UTC)
    except ValueError:
        return None
    year = born.year + ADULT_YEARS
    if (born.month, born.day) == (2, 29) and not isleap(year):
        return ms(datetime(year, 3, 1, tzinfo=UTC))
    return ms(born.replace(year=year))


class Closed(NamedTuple):
    """An alert that is over and holds like ones back for a while. A snapshot of before 0.1.0 knows severity and end alone."""

    severity: str
    until: int  # logged
    total: int = 0  # NEWS2 as last told
    threes: tuple[str, ...] = ()  # as last told
    declined: bool = False

    @classmethod
    def load(cls, severity: str, until: int, total: int = 0, threes: Sequence[str] = (), declined: bool = False) -> "Closed":
        """Read what stands in a snapshot, a list."""
        return cls(severity, until, total, tuple(threes), declined)


class Refusal(NamedTuple):
    """The newest reading of a parameter that was refused: until a later one is usable, no older value shows the patient well."""

    at: int  # observed, as used
    reason: str
    since: int  # of an unvalidated stream: the first of such in a row; 0: validated, it counts by itself
    corrects: bool = False  # it stands in the place of the value of its very time; snapshots of before lack it

    def dump(self) -> list[Any]:
        """Return what stands in a snapshot."""
        return list(self if self.corrects else self[:3])


class Context:
    """A patient's context as the monitor uses it, from the newest `PatientEvent`. Unknown is never "no"."""

    __slots__ = (
        "adult_from",
        "ceiling",
        "deceased",
        "deleted",
        "encounter_id",
        "encounter_status",
        "known",
        "location",
        "merged_into",
        "outpatient",
        "pregnant",
        "scale",
        "undecided_scale",
    )

    def __init__(self) -> None:
        self.known = False
        self.adult_from: int | None = None
        self.pregnant = False  # only a recorded pregnancy counts: unknown must not silence every woman, and it never fits a man
        self.scale: Scale = 1
        self.undecided_scale = False  # scale 2 was asked for without a recorded decision
        self.ceiling = ""
        self.encounter_id: str | None = None
        self.encounter_status = "unknown"
        self.location = Location()
        self.deceased = False
        self.merged_into: str | None = None
        self.deleted = False
        self.outpatient = False

    @classmethod
    def of(cls, event: PatientEvent) -> "Context":
        """Read an event."""
        made = cls()
        made.known = True
        made.adult_from = adult_from(event.birth_date)
        made.pregnant = event.pregnant is True
        decided = bool((event.spo2_scale_decided_by or "").strip())
        made.scale = 2 if event.spo2_scale == 2 and decided else 1
        made.undecided_scale = event.spo2_scale == 2 and not decided
        made.ceiling = (event.ceiling_of_care or "").strip()
        made.encounter_id = event.encounter_id
        made.encounter_status = event.encounter_status
        made.location = event.location
        made.deceased = event.deceased
        made.merged_into = event.merged_into if event.merged_into != event.patient_id else None
        made.deleted = event.deleted
        made.outpatient = event.encounter_class == "outpatient"
        return made

    @property
    def has_stay(self) -> bool:
        """Whether registration has spoken of a stay."""
        return self.encounter_id is not None or self.encounter_status != "unknown"

    def with_facts(self, other: "Context") -> "Context":
        """Return this context with what only the other knows of the person; stay, place and fate are this one's."""
        made = Context.load(self.dump())
        if made.adult_from is None:
            made.adult_from = other.adult_from
        made.pregnant = made.pregnant or other.pregnant
        made.ceiling = made.ceiling or other.ceiling
        if made.scale == 1 and not made.undecided_scale:
            made.scale, made.undecided_scale = other.scale, other.undecided_scale
        return made

    def not_applicable(self, at: int) -> str:
        """Say why NEWS2 does not apply to this patient at that time; empty when it does."""
        if self.adult_from is None:
            return "age unknown"
        if at < self.adult_from:
            return "under 16 years"
        return "pregnancy recorded" if self.pregnant else ""

    def dump(self) -> list[Any]:
        """Return what `load` takes."""
        place = self.location
        return [
            *(self.known, self.adult_from, self.pregnant, self.scale, self.undecided_scale, self.ceiling, self.encounter_id),
            self.encounter_status,
            [place.ward, place.room, place.bed, *([place.facility] if place.facility else ())],
            *(self.deceased, self.merged_into),
            *((self.deleted, True) if self.outpatient else (True,) if self.deleted else ()),
        ]

    @classmethod
    def load(cls, raw: Sequence[Any]) -> "Context":
        """Read `dump`'s list."""
        made = cls()
        (made.known, made.adult_from, made.pregnant, made.scale, made.undecided_scale, made.ceiling, made.encounter_id) = raw[
            :7
        ]
        (made.encounter_status, (ward, room, bed, *rest), made.deceased, made.merged_into) = raw[7:11]
        made.deleted, made.outpatient = any(raw[11:12]), any(raw[12:])  # snapshots of before lack them
        facility = rest[0] if rest else ""  # snapshots of before lack it
        made.location = Location.model_construct(ward=ward, room=room, bed=bed, facility=facility)  # as saved, however long
        return made


class Patient:
    """One patient's record."""

    __slots__ = (
        "after_end",
        "alerts",
        "arrival",
        "awaited",
        "band",
        "closed",
        "context",
        "context_at",
        "due",
        "encounter_id",
        "ended_at",
        "heard",
        "history",
        "hours",
        "id",
        "lately",
        "newest",
        "raised",
        "received",
        "refused",
        "score_id",
        "scored",
        "seen",
        "settle_at",
        "settle_by",
        "shut",
        "stamps",
        "threes",
        "total",
        "unsettled",
    )

    def __init__(self, patient_id: str) -> None:
        self.id = patient_id
        # moved by PatientEvents and ticks, which stand between batches
        self.context = Context()
        self.context_at: tuple[int, int] | None = None  # since when it holds, and its receipt; microseconds (`Monitor.patient`)
        self.ended_at: int | None = None  # logged time at which discharge, death or merge was seen
        # logged time from which a first observation was waited for: in hospital, and nothing had come
        self.awaited: int | None = None
        self.due = 0  # logged time of the next timer; 0: look. A cache, not part of the snapshot
        # phase 1
        self.history = History()
        self.seen: dict[str, None] = {}  # the newest event ids, oldest first
        self.lately: dict[int, int] = {}  # digest of a set's id -> when it was observed, in the order of their coming
        self.newest: int | None = None  # of the values that count
        self.heard: int | None = None  # of the values that count; before there is one, of the first sample
        self.encounter_id: str | None = None  # of the newest set that named one
        self.arrival: tuple[int, int] | None = None  # of the newest set: when observed, and the time when it came
        # of clocks that run ahead: time as stamped -> as used, which is the receipt
        self.stamps: dict[int, tuple[int, ...]] = {}
        self.refused: dict[str, Refusal] = {}  # by parameter, whatever came since
        self.hours: HourlyWindow | None = None  # cache of the history
        self.scored: dict[str, tuple[Entry, Scale, bool | None, Parameter]] = {}  # cache: what each parameter scored, from what
        # phase 2
        self.alerts: dict[str, Alert] = {}  # by kind
        self.closed: dict[str, Closed] = {}  # by kind
        # the last alert by NEWS2 that is over, in case what ended it proves wrong: values observed `since` or later; 0: what is
        # known to be wrong by now, or a context (of the stay `about`) that may be lifted
        self.shut: dict[str, Alert] = {}
        self.raised: list[int] = []  # when the last alerts were raised (logged), for the budget
        self.threes: dict[str, int] = {}  # parameter -> when it was last told to score 3 (logged)
        self.total: int | None = None  # the NEWS2 that was last told
        self.band = "unscored"
        self.score_id: str | None = None
        self.received: int = 0
        self.after_end: Severity | None = None  # how grave it was told that one goes on being observed whose watch is over
        self.unsettled = False  # its current state waits for the end of the catch-up,
        self.settle_at = 0  # and till then (logged) for newer sets out of a queue,
        self.settle_by = 0  # which may put that off till then

    @property
    def ended(self) -> str:
        """Say why this patient is not watched (any more); empty when watched."""
        context = self.context
        if context.merged_into:
            return f"merged into {context.merged_into}"
        if context.deleted:
            return "record deleted by registration"
        if context.deceased:
            return "recorded as deceased"
        over = context.encounter_status in ("finished", "cancelled")
        if over and (context.encounter_id is None or self.encounter_id in (None, context.encounter_id)):
            return "discharged" if context.encounter_status == "finished" else "encounter cancelled"
        return ""

    @property
    def silent_since(self) -> int | None:
        """From when on an observation is waited for: the newest one, else when a stay was learned of; None where nobody waits."""
        return self.awaited if self.heard is None else self.heard

    def came(self, known: int, since: int) -> bool:
        """Tell whether a set of that id (its digest) came before and was observed at `since` or later."""
        return self.lately.get(known, since - 1) >= since

    def remember(self, known: int, observed: int, since: int) -> None:
        """Remember a set by its id (the digest), as long as it was observed at `since` or later: so long it may alert.

        Not longer: what is redriven or scored anew on request is older than that, and no repeat.
        """
        lately = self.lately
        if observed >= since:
            lately[known] = observed
        while lately and (len(lately) > _LATELY or next(iter(lately.values())) < since):
            del lately[next(iter(lately))]

    def follow(self, after: Context) -> None:
        """Take a new context. That another stay than the watched one is over, or only planned, does not touch the watch.

        Connectors pass such a visit over (`connectors.stays`); but two of them may each miss the other's last word, and the topic
        holds what older versions wrote. Watched is the stay in progress by the context, else the one that the newest set names.
        """
        before, given = self.context, after.encounter_id
        if after.encounter_status in NOT_HERE and given is not None and not self.ended:
            here = before.encounter_status not in NOT_HERE and before.encounter_id is not None
            by_sets = self.encounter_id not in (None, before.encounter_id, given)
            if here and before.encounter_id != given:
                after.encounter_id, after.encounter_status = before.encounter_id, before.encounter_status
            if before.encounter_id != given if here else by_sets:
                after.location = before.location
                self.context = after
                return
        self.context, self.encounter_id = after, given

    def settled(self) -> None:
        """Wait for nothing any more before the current state may alert."""
        self.unsettled, self.settle_at, self.settle_by = False, 0, 0

    def stamped(self, at: int, used: int) -> None:
        """Remember as of when a value counts that was stamped ahead of its receipt, as long as it may be corrected or repeated."""
        stamps = self.stamps
        before = stamps.get(at, ())
        if used not in before:
            stamps[at] = (*before[1 - _RECEIPTS :], used)
        if len(stamps) > 2 * _STAMPS:
            known = self.history.times()
            newest = set(list(stamps)[-_STAMPS:])
            self.stamps = {one: used for one, used in stamps.items() if one in newest or not known.isdisjoint(used)}

    def recall(self, after: int, to: int) -> None:
        """Let what was stamped later than `after` count as of about `to`."""
        self.history.recall(after, to)
        for name, one in self.refused.items():
            if one.at > after:
                self.refused[name] = one._replace(at=to, since=min(one.since, to))
        self.newest = self.history.newest
        if self.heard is not None and self.heard > after:
            self.heard = to
        self.hours = None

    def dump(self) -> bytes:
        """Return a snapshot from which `load` makes a record that goes on exactly alike."""
        return orjson.dumps(
            {
                "v": _VERSION,
                "context": self.context.dump(),
                "ended_at": self.ended_at,
                **({"context_at": self.context_at} if self.context_at is not None else {}),
                **({"awaited": self.awaited} if self.awaited is not None else {}),
                "entries": {name: packed(entries) for name, entries in self.history.entries.items()},
                "samples": {name: packed(entries) for name, entries in self.history.samples.items()},
                "gone": self.history.gone,
                **({"rivals": self.history.rivals} if self.history.rivals else {}),
                **({"refused": {name: one.dump() for name, one in self.refused.items()}} if self.refused else {}),
                "seen": list(self.seen),
                **({"lately": [list(self.lately), _steps(self.lately.values())]} if self.lately else {}),
                **({"arrival": self.arrival} if self.arrival else {}),
                **({"stamps": [[at, *(at - one for one in used)] for at, used in self.stamps.items()]} if self.stamps else {}),
                "newest": self.newest,
                "heard": self.heard,
                "encounter_id": self.encounter_id,
                "alerts": {key: alert.dump() for key, alert in self.alerts.items()},
                "closed": {kind: list(one) for kind, one in self.closed.items()},
                **({"shut": {kind: alert.dump() for kind, alert in self.shut.items()}} if self.shut else {}),
                "total": self.total,
                "band": self.band,
                "score_id": self.score_id,
                "received": self.received,
                "unsettled": self.unsettled,
                **({"settle_at": self.settle_at, "settle_by": self.settle_by} if self.settle_at else {}),
                **({"after_end": self.after_end} if self.after_end else {}),
                **({"raised": self.raised} if self.raised else {}),
                **({"threes": self.threes} if self.threes else {}),
            }
        )

    @classmethod
    def load(cls, patient_id: str, state: bytes) -> "Patient":
        """Read `dump`'s bytes. Raises `Fatal` for what is none: going on with half a state would lose alerts."""
        made = cls(patient_id)
        raw = snapshot(state)
        made.context = Context.load(raw["context"])
        made.history.entries = {name: unpacked(entries) for name, entries in raw["entries"].items()}
        made.history.samples = {name: unpacked(entries) for name, entries in raw["samples"].items()}
        # snapshots of before 0.1.0 have none
        made.history.gone = {name: [(at, value) for at, value in gone] for name, gone in raw.get("gone", {}).items()}
        made.history.rivals = {
            name: [(at, value, rank) for at, value, rank in rivals] for name, rivals in raw.get("rivals", {}).items()
        }
        made.refused = {name: Refusal(*one) for name, one in raw.get("refused", {}).items()}  # snapshots of before lack it
        made.alerts = {key: Alert.load(one) for key, one in raw["alerts"].items()}
        made.closed = {kind: Closed.load(*one) for kind, one in raw["closed"].items()}
        made.shut = {kind: Alert.load(one) for kind, one in raw.get("shut", {}).items()}  # snapshots of before lack it
        made.raised, made.threes = raw.get("raised", []), raw.get("threes", {})
        made.seen = dict.fromkeys(raw["seen"])
        digests, steps = raw.get("lately", ((), ()))  # snapshots of before lack it
        made.lately = dict(zip(digests, accumulate(steps), strict=True))
        made.stamps = {at: tuple(at - one for one in ahead) for at, *ahead in raw.get("stamps", ())}
        made.arrival = tuple(raw["arrival"]) if "arrival" in raw else None
        made.settle_at, made.settle_by = raw.get("settle_at", 0), raw.get("settle_by", 0)  # snapshots of before lack the latter
        made.context_at = tuple(raw["context_at"]) if "context_at" in raw else None  # likewise
        made.awaited, made.after_end = raw.get("awaited"), raw.get("after_end")  # snapshots of before lack them
        for name in (
            *("ended_at", "newest", "heard", "encounter_id"),
            *("total", "band", "score_id", "received", "unsettled"),
        ):
            setattr(made, name, raw[name])
        return made


def _steps(times: Iterable[int]) -> list[int]:
    return [at - before for before, at in pairwise([0, *times])]


def digest(event_id: str) -> int:
    """Return six bytes of an id: few enough to keep, and enough that one set in 10^12 is taken for another's repeat."""
    return int.from_bytes(blake2b(event_id.encode(), digest_size=6).digest())


def snapshot(state: bytes) -> dict[str, Any]:
    """Decode a snapshot. Raises `Fatal` when it is none of this version."""
    try:
        raw = orjson.loads(state)
        version = raw["v"]
    except (ValueError, KeyError, TypeError) as error:
        raise Fatal(f"monitor: unusable snapshot ({type(error).__name__})") from error
    if version != _VERSION:
        raise Fatal(f"monitor: snapshot of version {version}, this is {_VERSION}", hint="drop the state topic and replay")
    return dict(raw)
