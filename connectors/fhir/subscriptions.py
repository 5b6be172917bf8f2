"""Notifications of topic-based subscriptions: the Subscriptions R5 Backport guide (http://hl7.org/fhir/uv/subscriptions-backport).

A notification is a Bundle `history` whose first entry is the status of the subscription. Three shapes of it are in the field, and
all are read: Parameters (R4; guide 1.0 and 1.1), SubscriptionStatus (R4B, R5), Basic with the cross-version extension (newest
build).

| type | becomes |
|---|---|
| handshake | 200: the subscription may begin |
| heartbeat | 200; its count of events tells whether one was missed |
| event-notification, query-event | the resources behind the status; those that it only names are fetched |
| query-status | 200 |

Events are numbered from the start of the subscription. A number that does not follow the last one, or is left out, means that
notifications were lost: they are fetched (`$events`), before the notification that showed it is answered. Where nobody knows which
numbers those were (a subscription that is not remembered, ten thousand and more), what has changed meanwhile is fetched.

A count of events (`events-since-subscription-start`) may be ahead of the notification that tells it: what it counts beyond that is
still to come. A heartbeat's and a query's is of what was sent before it.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final, Protocol

from connectors.fhir.mapping.reading import objects, text
from connectors.fhir.structure import Json, kind_of

KINDS: Final = frozenset({"handshake", "heartbeat", "event-notification", "query-status", "query-event"})
EVENTS: Final = frozenset({"event-notification", "query-event"})
_NUMBERS: Final = 10_000  # events that are asked for by number


@dataclass(frozen=True, slots=True)
class Status:
    """What a notification says of its subscription. `numbers` are those of its events, `focus` what they are about."""

    kind: str
    subscription: str
    since_start: int | None = None
    numbers: tuple[int, ...] = ()
    focus: tuple[str, ...] = ()

    @property
    def newest(self) -> int | None:
        """The number of the newest event that was sent, this notification's own among them."""
        return max(self.numbers, default=self.since_start)

    @property
    def carries_events(self) -> bool:
        """Whether there are resources behind it."""
        return self.kind in EVENTS


class Fetcher(Protocol):
    """Fetches from a server what a notification only announces; returns once it is published. Raises `Transient` otherwise."""

    async def latest(self, peer: str) -> None:
        """Fetch what has changed since the last time: a notification without payload, or numbers that cannot be had."""
        ...

    async def missed(self, peer: str, subscription: str, first: int, last: int) -> None:
        """Fetch the events of a subscription with these numbers."""
        ...

    async def resources(self, peer: str, references: tuple[str, ...]) -> None:
        """Fetch these resources."""
        ...

    def noted(self, subscription: str) -> int | None:
        """Return the number of a subscription that was confirmed last, before this process too; None where none is kept."""
        ...

    def note(self, subscription: str, number: int) -> None:
        """Keep it."""
        ...


@dataclass(frozen=True, slots=True)
class Lost:
    """Numbers that were missed, the first and the last; None for both: nobody knows which."""

    first: int | None = None
    last: int | None = None

    def __str__(self) -> str:
        """Say which."""
        return "that nobody counted" if self.first is None else f"{self.first} to {self.last}"


class Counts:
    """The last number of each subscription that was confirmed: in memory, and with a peer's fetcher for the next process."""

    def __init__(self) -> None:
        self._last: dict[tuple[str, str], int] = {}
        self.gaps = 0

    def lost(self, peer: str, status: Status, fetcher: Fetcher | None = None) -> Lost | None:
        """Return what was missed up to this notification, None for nothing."""
        if status.newest is None or status.kind == "handshake":
            return None
        last = self._last.get((peer, status.subscription))
        if last is None and fetcher is not None:
            last = fetcher.noted(status.subscription)
        first = min(status.numbers, default=status.newest + 1)
        if last is None:  # unless it begins here, somebody may have been told of what came before
            return Lost() if first > 1 and fetcher is not None else None
        if status.newest - last > _NUMBERS:
            return Lost()
        missed = sorted(set(range(last + 1, status.newest + 1)) - set(status.numbers))
        return Lost(missed[0], missed[-1]) if missed else None

    def confirmed(self, peer: str, status: Status, fetcher: Fetcher | None = None) -> None:
        """Take over the numbers of a notification that was answered. A handshake, or a count that went back, begins anew."""
        if status.newest is not None:
            self._last[peer, status.subscription] = status.newest
            if fetcher is not None:
                fetcher.note(status.subscription, status.newest)


def status_of(bundle: Json) -> Status | None:
    """Return the status that a Bundle's first entry is, None where it is none."""
    first = next(objects(bundle, "entry"), {})
    resource = next(objects(first, "resource"), {})
    said = _said(resource)
    kind = text(said.get("type"))
    if kind not in KINDS:
        return None
    events = [one for one in _list(said.get("notificationevent")) if isinstance(one, dict)]
    return Status(
        kind=kind,
        subscription=text(said.get("subscription")),
        since_start=_number(said.get("eventssincesubscriptionstart")),
        numbers=tuple(sorted(n for one in events if (n := _number(one.get("eventnumber"))) is not None)),
        focus=tuple(name for one in events for each in _list(one.get("focus")) if (name := text(each))),
    )


def _said(resource: Json) -> dict[str, Any]:
    match kind_of(resource):
        case "Parameters":
            return _flat((text(one.get("name")), one, "part") for one in objects(resource, "parameter"))
        case "SubscriptionStatus":
            return _plain(resource)
        case "Basic":
            for one in objects(resource, "extension"):
                if text(one.get("url")).endswith("extension-SubscriptionStatus"):
                    return _flat((text(each.get("url")), each, "extension") for each in objects(one, "extension"))
            return _flat((text(one.get("url")), one, "extension") for one in objects(resource, "extension"))
    return {}


def _flat(named: Iterator[tuple[str, Json, str]]) -> dict[str, Any]:
    """Return named values (Parameters, extensions) as a dictionary; a name that comes twice has a list."""
    found: dict[str, Any] = {}
    for name, one, inner in named:
        key = _key(name)
        value: Any = next((_scalar(each) for label, each in one.items() if label.startswith("value")), None)
        if value is None:
            label = "name" if inner == "part" else "url"
            value = _flat((text(each.get(label)), each, inner) for each in objects(one, inner))
        found[key] = [*_list(found[key]), value] if key in found else value
    return found


def _plain(resource: Json) -> dict[str, Any]:
    found = {_key(name): _scalar(value) for name, value in resource.items()}
    found["notificationevent"] = [
        {_key(name): _scalar(value) for name, value in one.items()} for one in objects(resource, "notificationEvent")
    ]
    return found


def _key(name: str) -> str:
    """Return a name in one form: `events-since-subscription-start`, `...SubscriptionStatus.eventsSinceSubscriptionStart`."""
    return name.rsplit("/", 1)[-1].rsplit(".", 1)[-1].replace("-", "").lower()


def _scalar(value: Any) -> Any:
    return value.get("reference") if isinstance(value, dict) else value


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [] if value is None else [value]


def _number(value: Any) -> int | None:
    words = str(value) if isinstance(value, (int, str)) and not isinstance(value, bool) else ""
    return int(words) if words.isdigit() and len(words) < 16 else None
