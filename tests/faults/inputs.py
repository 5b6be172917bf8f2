"""The seeded load of each lane, and the sender: what the broker confirmed is what was accepted, and nothing else is."""

import itertools
import json
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from typing import Any

from confluent_kafka import Producer

from connectors.objects import ObjectStore
from connectors.objects.settings import ObjectSettings
from processors.events import Event
from tests import load, vitals

PHI = "Quillfeather"
"""A family name that stands in every note and every spoilt record, and must stand in no log, audit or error."""
BORN = date(1950, 1, 1)  # of all patients of tests.vitals: likewise
EVERY = timedelta(seconds=1)
PATIENTS = 12
FILMS = 8
LATE = "-late"
"""How the id of a set ends that a row sends as history: it must lead to no step of an alert."""
COURSE = 24
"""Sets of a patient's whole course: a row that lasts less sees its beginning, so that all rows' sets are the same."""


def dates(day: date) -> set[str]:
    """A date as it may stand in a log: of FHIR, of HL7 v2 and DICOM, of Python."""
    return {day.isoformat(), f"{day:%Y%m%d}", f"{day.year}, {day.month}, {day.day}"}


MARKS = frozenset({PHI, *dates(BORN)})
"""What tells who somebody is, of every load."""


@dataclass(frozen=True)
class Sent:
    """One record to be written: `event_id` is what the verifier asks for, empty where the record has none that can be read."""

    topic: str
    key: bytes
    value: bytes | None
    event_id: str = ""
    headers: tuple[tuple[str, bytes], ...] = ()


@dataclass(frozen=True)
class Load:
    """What one row sends: before the clock starts, and then `rate` records a second."""

    before: list[Sent]
    paced: list[Sent]
    rate: float


def sent(event: Event) -> Sent:
    """Return the record of an event as the connectors would write it."""
    return Sent(event.topic, event.patient_id.encode(), event.model_dump_json().encode(), event.id)  # type: ignore[attr-defined]


def spoilt(event: Event, **fields: Any) -> bytes:
    """Return an event's JSON with some fields changed: `...` takes one away."""
    body = {**json.loads(event.model_dump_json()), **fields}
    return json.dumps({name: value for name, value in body.items() if value is not ...}).encode()


def beginning() -> datetime:
    """Return now, or a little earlier, so that the whole course lies in one hour: the model's windows go by hours."""
    now = datetime.now(UTC)
    over = now + (COURSE + 1) * EVERY
    hour = over.replace(minute=0, second=0, microsecond=0)
    return now - (over - hour) if now < hour else now


def of_lane(lane: str, seed: int, seconds: float, objects: str) -> Load:
    """Make a lane's load for so many seconds; the same seed gives the same ids, whenever it is asked."""
    match lane:
        case "vitals":
            start = beginning()
            sets = int(seconds / EVERY.total_seconds())
            people = [vitals.patient(number, start - timedelta(hours=1)) for number in range(PATIENTS)]
            course = vitals.vitals(PATIENTS, COURSE, start, every=EVERY, seed=seed)
            paced = [sent(one) for one in itertools.islice(course, sets * PATIENTS)]
            return Load([sent(one) for one in people], paced, PATIENTS / EVERY.total_seconds())
        case "images":
            store = ObjectStore(ObjectSettings(url=objects))
            films = [store.put_now(data, "image/png", ".png") for _, data in load.pixel_objects(seed, FILMS)]
            rate = 8.0
            return Load([], [sent(one) for one in load.images(seed, int(seconds * rate), films)], rate)
        case _:
            rate = 12.0
            return Load([], [sent(one) for one in notes(seed, int(seconds * rate))], rate)


def notes(seed: int, count: int) -> Iterable[Any]:
    """Yield short notes, each with the name that must not be told."""
    for note in load.notes(seed, count, patients=40):
        yield note.model_copy(update={"text": f"Mr {PHI}. {note.text[:160]}"})


Place = tuple[str, int, int]
"""Topic without prefix, partition, offset."""


@dataclass
class Accepted:
    """What the senders were told is stored: where each record stands, and the id that they know it by."""

    at: dict[Place, str] = field(default_factory=dict)
    unknown: set[str] = field(default_factory=set)  # sent, and neither confirmed nor refused for good
    lain: list[tuple[int, int, bytes | None]] = field(default_factory=list)
    """What lay on the input topic that was deleted: partition, place as `at` has it now, value."""

    def ids(self, topics: Iterable[str]) -> set[str]:
        """The ids of what lies on these topics."""
        wanted = set(topics)
        return {event_id for (topic, _, _), event_id in self.at.items() if topic in wanted and event_id}


@dataclass(frozen=True)
class Course:
    """What must be said of one patient whose context changes, as their sender knows it. A context's ids are the records'.

    `steps`: of alerts, in order: what led to it (an id; `moved`: a set that a merge passed on), state, severity, ward, stay.
    `sets`: by id what its score says of the patient: a flag or none, why there is no NEWS2 or nothing. Where the record was merged:
    `heir`, who survives; `rates`, heart rates and when (ms since 1970) that were known by then; `after`, sets that came later.
    """

    steps: tuple[tuple[str, str, str, str, str], ...]
    sets: dict[str, tuple[str, str]]
    heir: str | None = None
    rates: tuple[tuple[int, float], ...] = ()
    after: int = 0


class Sender:
    """Writes with `acks=all`, for as long as it takes."""

    def __init__(self, bootstrap: str, prefix: str) -> None:
        self.accepted = Accepted()
        self.names: dict[str, str] = {}  # event id -> what the sender calls it, where it did not give the id itself
        self._prefix = prefix
        self._producer = Producer(
            {
                "bootstrap.servers": bootstrap,
                "acks": "all",
                "enable.idempotence": True,
                "linger.ms": 5,
                "partitioner": "murmur2_random",
                "message.timeout.ms": 180_000,
                "message.max.bytes": 7_500_000,
                "reconnect.backoff.max.ms": 500,
                "log_level": 0,
            }
        )
        self._lock = threading.Lock()
        self._turn = threading.Lock()

    @contextmanager
    def held(self) -> Iterator[None]:
        """Send nothing within the block; all that was sent is confirmed when it begins."""
        with self._turn:
            self.flush()
            yield

    def send(self, one: Sent) -> None:
        """Hand one record over; it is accepted when the broker says so."""

        def told(error: Any, message: Any) -> None:
            with self._lock:
                if error is None:
                    self.accepted.at[one.topic, message.partition(), message.offset()] = one.event_id
                else:
                    self.accepted.unknown.add(one.event_id)

        self._producer.produce(self._prefix + one.topic, one.value, one.key, on_delivery=told, headers=list(one.headers))
        self._producer.poll(0)

    def say(self, one: Sent) -> None:
        """Hand one record over when it is a turn to."""
        with self._turn:
            self.send(one)

    def reckon(self) -> list[str]:
        """Complete `accepted` when all is over; return what is wrong with it."""
        return []

    def flush(self, within: float = 200.0) -> None:
        """Wait for the last answer."""
        if self._producer.flush(within):
            raise TimeoutError("the broker did not answer the senders")

    def pace(
        self, load: Load, over: threading.Event, *, twist: Callable[[int, Sent], list[Sent]] = lambda _, one: [one]
    ) -> None:
        """Send in time, `twist` says what goes out instead of each record; ends early when it is over."""
        began = time.monotonic()
        for number, one in zip(itertools.count(), load.paced, strict=False):
            wait = began + number / load.rate - time.monotonic()
            if wait > 0:
                self._producer.poll(0)
                over.wait(wait)
            if over.is_set():
                return
            with self._turn:
                for record in twist(number, one):
                    self.send(record)
