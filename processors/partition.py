"""What the monitor keeps for a whole partition: logged time, the feeds' clocks, wards' counts, alerts about no single patient.

Times are milliseconds since 1970.
"""

import re
from dataclasses import dataclass, field
from datetime import timedelta
from statistics import median
from typing import Any

import orjson

from processors.alerts import Alert
from processors.patients import snapshot
from processors.rules import FeedSilence

_MS = timedelta(milliseconds=1)
_HOUR = 3_600_000
_DAY_HOURS = 24
_PERIOD = 12 * _HOUR  # over which a feed's longest pause is remembered, twice
_LAGS = 20  # sets of a feed by which it is judged whether they come in time
_ENOUGH = 5  # of them before it is
_PAUSES = 3  # so many times the longest pause is not a pause any more
_PSEUDO = "partition-"
_NUMBER = re.compile(rf"{_PSEUDO}(\d{{1,5}})", re.ASCII)


def number_of(patient_id: str) -> int | None:
    """Return the number of the partition whose pseudo patient it is (`Partition.id`); None for a patient."""
    found = _NUMBER.fullmatch(patient_id)
    return int(found[1]) if found else None


@dataclass(slots=True)
class Feed:
    """One peer's clock, in received time. The longest pauses of this period and the one before make its own limit.

    `lags` are received - observed of its newest sets, below zero where its clock runs ahead.
    """

    last: int
    began: int  # of this period
    longest: int = 0
    before: int = 0
    lags: list[int] = field(default_factory=list)
    late_since: int | None = None  # logged time from which most of its sets come too late to alert

    def brought(self, lag: int) -> None:
        """Take note of a set that was so old (ms) when it was received."""
        self.lags.append(lag)
        del self.lags[:-_LAGS]

    @property
    def behind(self) -> int | None:
        """How old (ms) its sets are when they are received, the middle one of the last; None before there are enough."""
        return round(median(self.lags)) if len(self.lags) >= _ENOUGH else None

    def dump(self) -> list[Any]:
        """Return the fields in order; what came after 0.1.0's first snapshots only where it says something."""
        return [self.last, self.began, self.longest, self.before, *([self.lags, self.late_since] if self.lags else [])]

    def heard(self, received: int, most: int) -> None:
        """Move the clock. A pause of an outage's length teaches no more than `most` / `_PAUSES`."""
        pause = received - self.last
        if pause <= 0:
            return
        self.last = received
        if received - self.began >= _PERIOD:
            self.before, self.longest = (self.longest, 0) if received - self.began < 2 * _PERIOD else (0, 0)
            self.began = received
        self.longest = min(max(self.longest, pause), most // _PAUSES)

    def limit(self, peer: str, rules: FeedSilence) -> int:
        """Return the silence (ms) after which this feed counts as stopped."""
        if peer in rules.peers:
            return rules.peers[peer] // _MS
        learned = _PAUSES * max(self.longest, self.before)
        return max(rules.limit // _MS, min(learned, rules.most // _MS))


@dataclass(slots=True)
class Hour:
    """What happened in one hour: alerts raised, by ward, and patient time watched (ms)."""

    alerts: dict[str, int] = field(default_factory=dict)
    watched: int = 0
    beyond: dict[str, int] = field(default_factory=dict)  # of the alerts: those beyond their patient's share of the budget


@dataclass(slots=True)
class Partition:
    """One partition's state."""

    number: int
    now: int | None = None  # logged time in microseconds since 1970, so that it comes back exactly
    heartbeat_at: int | None = None
    newest: int | None = None  # observed
    woke_at: int | None = None  # catching up after an outage that ended then
    caught_up: bool = False  # a set that was received after waking has come by
    backlog_at: int | None = None  # when a set of before waking came last
    late: int = 0  # sets that went to history since waking
    set_backs: int = 0  # how often logged time was set back
    feeds: dict[str, Feed] = field(default_factory=dict)
    hours: dict[int, Hour] = field(default_factory=dict)  # hours since 1970
    # "monitoring-blind", or "feed-stopped:" or "feed-late:" and the peer
    alerts: dict[str, Alert] = field(default_factory=dict)
    seen: dict[str, None] = field(default_factory=dict)  # the newest answers to these, by event id, oldest first
    # where inputs come once more after alerts were taken up from what was told: the alerts that they raised (their ids are used
    # up); by alert the offset of the last answer that was taken; by patient that of the last set that led to a step, up to which
    # the alerts stand as if it was decided. The last until logged time goes on: then all of those sets have come
    raised: frozenset[str] = frozenset()
    answered: dict[str, int] = field(default_factory=dict)
    told: dict[str, int] = field(default_factory=dict)

    @property
    def id(self) -> str:
        """The pseudo patient whose snapshot this is, and the `patient_id` of its alerts."""
        return f"{_PSEUDO}{self.number}"

    def stamp(self, now: int) -> int | str:
        """Return what makes an id of this moment: the same time may come again after time was set back."""
        return f"{now}/{self.set_backs}" if self.set_backs else now

    def hear(self, peer: str, received: int, rules: FeedSilence) -> None:
        """Move a peer's clock."""
        feed = self.feeds.get(peer)
        if feed is None:
            self.feeds[peer] = Feed(received, received)
        elif received > feed.last:
            feed.heard(received, rules.most // _MS)

    def count_alert(self, ward: str, now: int, *, beyond: bool) -> None:
        """Count an alert as raised; `beyond` its patient's share it uses nothing of the ward's budget."""
        hour = self.hours.setdefault(now // _HOUR, Hour())
        for counted in (hour.alerts, hour.beyond) if beyond else (hour.alerts,):
            counted[ward] = counted.get(ward, 0) + 1

    def beat(self, patients: int, now: int, most: timedelta) -> None:
        """Count the time that patients were watched since the last heartbeat; longer than `most` nobody was."""
        if self.heartbeat_at is not None and now - self.heartbeat_at <= most // _MS:
            self.count_patients(patients, now - self.heartbeat_at, now)
        self.heartbeat_at = now

    def count_patients(self, patients: int, span: int, now: int) -> None:
        """Count the time that patients were watched, and let go of what lies more than a day back."""
        hour = now // _HOUR
        self.hours.setdefault(hour, Hour()).watched += patients * span
        for old in [one for one in self.hours if one <= hour - _DAY_HOURS]:
            del self.hours[old]

    def alerts_of(self, ward: str) -> int:
        """Return how much of its budget a ward used through this partition in the last 24 hours."""
        return sum(hour.alerts.get(ward, 0) - hour.beyond.get(ward, 0) for hour in self.hours.values())

    def alerts_per_100_patient_days(self) -> float | None:
        """Return the last 24 hours' rate, or None before an hour was watched in all."""
        watched = sum(hour.watched for hour in self.hours.values())
        raised = sum(sum(hour.alerts.values()) for hour in self.hours.values())
        return round(100 * raised * _DAY_HOURS * _HOUR / watched, 2) if watched >= _HOUR else None

    def dump(self) -> bytes:
        """Return a snapshot from which `load` goes on exactly alike."""
        plain = ("now", "heartbeat_at", "newest", "woke_at", "caught_up", "late", "set_backs")
        return orjson.dumps(
            {
                "v": 1,
                **{name: getattr(self, name) for name in plain},
                **({"backlog_at": self.backlog_at} if self.backlog_at is not None else {}),
                **({"raised": sorted(self.raised)} if self.raised else {}),
                **({"answered": self.answered} if self.answered else {}),
                **({"told": self.told} if self.told else {}),
                **({"seen": list(self.seen)} if self.seen else {}),
                "feeds": {peer: feed.dump() for peer, feed in self.feeds.items()},
                "hours": [
                    [hour, one.alerts, one.watched, *([one.beyond] if one.beyond else ())] for hour, one in self.hours.items()
                ],
                "alerts": {key: alert.dump() for key, alert in self.alerts.items()},
            }
        )

    def load(self, state: bytes) -> None:
        """Take over `dump`'s bytes. Raises `Fatal` for what is none."""
        raw: dict[str, Any] = snapshot(state)
        for name in ("now", "heartbeat_at", "newest", "woke_at", "caught_up", "late"):
            setattr(self, name, raw[name])
        self.set_backs = raw.get("set_backs", 0)  # snapshots of before 0.1.0 have none
        self.backlog_at = raw.get("backlog_at")
        self.raised, self.answered = frozenset(raw.get("raised", ())), raw.get("answered", {})
        self.told = raw.get("told", {})
        self.seen = dict.fromkeys(raw.get("seen", ()))  # snapshots of before lack it
        self.feeds = {peer: Feed(*clock) for peer, clock in raw["feeds"].items()}
        self.hours = {hour: Hour(*counts) for hour, *counts in raw["hours"]}
        self.alerts = {key: Alert.load(one) for key, one in raw["alerts"].items()}
