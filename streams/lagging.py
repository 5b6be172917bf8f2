"""How far each lane is: from Kafka's offsets, whatever the workers say, and from the workers' own metrics where they answer.

Lag in records is the end of the log less what the lane's group has committed. Lag in seconds is event time: how much older the
first record not committed is than the newest of its partition, by when their events were received at the edge (`received_at`; the
record's own timestamp where that cannot be read). The age of the first record not committed is by its timestamp and the clock.
"""

import asyncio
import re
import urllib.error
import urllib.request
from collections import Counter, defaultdict
from collections.abc import Collection, Coroutine, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from typing import Any, Final

import orjson
from aiokafka import TopicPartition
from aiokafka.errors import KafkaError
from confluent_kafka import Consumer, KafkaException
from confluent_kafka import TopicPartition as Committed
from pydantic import TypeAdapter, ValidationError

from models.errors import Permanent, Transient
from processors.events import FeedbackEvent, ImageEvent, NoteEvent, PatientEvent, VitalsEvent
from streams import groups
from streams.clock import Clock, real_clock
from streams.kafka import confluent_config, require_broker
from streams.reader import Reader
from streams.settings import Settings

READS: Final[Mapping[str, tuple[str, ...]]] = {
    "vitals": (VitalsEvent.topic, PatientEvent.topic, FeedbackEvent.topic),
    "notes-entities": (NoteEvent.topic,),
    "notes-vectors": (NoteEvent.topic,),
    "images": (ImageEvent.topic,),
    "merges": (PatientEvent.topic,),
}
"""What each lane reads; a test compares it with the lanes themselves, which need their models to be asked."""

_FETCH: Final = 256 * 1024  # bytes of a partition at a time: one record is wanted
_LIVE: Final = 5.0  # seconds for /live: a busy lane may take a while to answer
_PATIENCE: Final = 5.0  # seconds of a look after which the broker is asked whether it is there at all
_TIME: Final[TypeAdapter[datetime]] = TypeAdapter(datetime)
_SAMPLE: Final = re.compile(
    r'^vigil_(in_flight|seconds_since_commit|ready|held_partitions|kafka_silent_seconds)\{lane="([^"]+)"\} (\S+)$', re.M
)
_OF_PARTITION: Final = re.compile(
    r'^vigil_partition_(in_flight|seconds_since_commit|held_seconds)\{lane="([^"]+)",partition="(\d+)",topic="([^"]+)"\} (\S+)$',
    re.M,
)

_OF_PATIENTS: Final = re.compile(
    r'^vigil_patients_(?:observed|cannot_alert)\{lane="vitals",partition="\d+"(?:,reason="([^"]+)")?\} (\S+)$', re.M
)


@dataclass(frozen=True, slots=True)
class Lag:
    """One partition of one lane. `committed` is None where no commit is known; seconds are None where nothing waits.

    Kafka forgets with a topic what a lane has committed of it. So a lane of which nothing is known may have worked long: it `runs`
    where its group has members. `anew`: what it committed is known to be of another log than the one that is there. `missing`: the
    topic is not there, and has no partition (-1).

    What stands in flight and is held only the worker knows that has it: None where none was asked or answers. So does it know to
    the moment when it committed; else that is by when the commit was seen to move, so at most so long ago, and None before.
    """

    lane: str
    topic: str  # without the site's prefix
    partition: int
    committed: int | None
    end: int
    records: int
    event_seconds: float | None = None
    oldest_unacked_seconds: float | None = None
    rate: float | None = None  # records committed per second since the look before
    in_flight: int | None = None
    seconds_since_commit: float | None = None
    held_seconds: float | None = None  # for which it waits for transient trouble to pass
    runs: bool = False  # asked only of a lane that has committed nothing
    anew: bool = False
    missing: bool = False

    def facts(self) -> dict[str, Any]:
        """Return it for a machine."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class WorkerState:
    """What the workers of one lane that answered say of themselves, added up; the longest times since a commit and an answer."""

    lane: str
    workers: int
    ready: int
    in_flight: int
    held_partitions: int
    seconds_since_commit: float
    kafka_silent_seconds: float = 0.0
    partitions: Mapping[tuple[str, int], Mapping[str, float]] = field(default_factory=dict)  # by topic, prefix and all

    def facts(self) -> dict[str, Any]:
        """Return it for a machine; the partitions' stand in their `Lag`."""
        return {name: value for name, value in asdict(self).items() if name != "partitions"}


def group_of(settings: Settings, lane: str) -> str:
    """Return a lane's consumer group."""
    return f"{settings.kafka.topic_prefix}vigil.{lane}"


async def lags(
    settings: Settings,
    lanes: Sequence[str] = (),
    *,
    topics: Sequence[str] = (),
    before: Sequence[Lag] = (),
    seconds: float = 0.0,
    times: bool = True,
    clock: Clock = real_clock,
) -> list[Lag]:
    """Return every partition of these lanes (all if none is named), of these topics only if any is named.

    `before` is what was found `seconds` ago, for the rate and the last commit. Without `times` no record is read.
    Raises `Permanent` for a lane that there is not and where none of the topics is, `Transient` when no broker answers.
    """
    for lane in lanes:
        if lane not in READS:
            raise Permanent(f"there is no lane {lane!r}", hint=f"lanes: {', '.join(READS)}")
    wanted = {lane: [topic for topic in READS[lane] if not topics or topic in topics] for lane in lanes or READS}
    gone = {settings.kafka.topic_prefix + one.topic for one in before if one.missing}
    found = await _while_there(settings, _look(settings, wanted, gone, times, clock))
    known = {(one.lane, one.topic, one.partition): one for one in before}
    return [_rated(one, known.get((one.lane, one.topic, one.partition)), seconds) for one in found]


async def _while_there(settings: Settings, look: Coroutine[Any, Any, list[Lag]]) -> list[Lag]:
    """Await a look, and give it up when no broker answers: a read that has begun would wait for its broker for ever."""
    task = asyncio.create_task(look)
    try:
        while not (await asyncio.wait({task}, timeout=_PATIENCE))[0]:
            await require_broker(settings.kafka)
        if task.cancelled():  # by aiokafka: nobody here did
            raise Transient("the look at the lanes broke off while the brokers changed")
        return task.result()
    finally:
        if not task.done():
            task.cancel()
            task.add_done_callback(lambda late: late.cancelled() or late.exception())  # heard, or asyncio says that nobody did
            await asyncio.wait({task}, timeout=_PATIENCE)


async def _look(
    settings: Settings, wanted: Mapping[str, Sequence[str]], gone: Collection[str], times: bool, clock: Clock
) -> list[Lag]:
    prefix = settings.kafka.topic_prefix
    async with Reader(settings.kafka, fetch_bytes=_FETCH) as reader:
        topics = dict.fromkeys(topic for read in wanted.values() for topic in read)
        missing = await reader.missing([prefix + topic for topic in topics], known=gone)
        there = [topic for topic in topics if prefix + topic not in missing]
        await reader.require(*(prefix + topic for topic in there or topics))  # where none is there, the prefix may be wrong
        numbers = {topic: await reader.partitions(prefix + topic) for topic in there}
        places = {lane: [(topic, n) for topic in read for n in numbers.get(topic, ())] for lane, read in wanted.items()}
        commits = await asyncio.gather(*(asyncio.to_thread(_committed, settings, lane, of) for lane, of in places.items()))
        run = await asyncio.gather(*(_runs(settings, lane, of) for lane, of in zip(places, commits, strict=True)))
        partitions = [TopicPartition(prefix + topic, number) for topic in there for number in numbers[topic]]
        bounds = await reader.all_bounds(partitions) if partitions else {}
        found: list[Lag] = []
        firsts: list[int] = []
        for (lane, of), committed, runs in zip(places.items(), commits, run, strict=True):
            for topic, number in of:
                begin, end = bounds[TopicPartition(prefix + topic, number)]
                offset = committed.get((topic, number))
                anew = offset is not None and offset > end  # the lane goes on at the beginning
                firsts.append(begin if anew else max(begin, offset or 0))
                found.append(Lag(lane, topic, number, offset, end, max(0, end - firsts[-1]), runs=runs, anew=anew))
        lost = [(lane, topic) for lane, read in wanted.items() for topic in read if topic not in there]
        found += [Lag(lane, topic, -1, None, 0, 0, missing=True) for lane, topic in lost]
        firsts += [0] * len(lost)
        return await _timed(reader, prefix, found, firsts, clock) if times else found


async def _runs(settings: Settings, lane: str, committed: Mapping[tuple[str, int], int]) -> bool:
    """Tell whether a lane that has committed nothing has workers all the same."""
    if committed or settings.kafka.embedded:
        return False
    return not await unattended(settings, lane)


async def unattended(settings: Settings, lane: str) -> bool:
    """Tell whether a lane's group has no member. Raises `Transient` when the cluster does not say."""
    if settings.kafka.embedded:
        return False  # it describes no groups
    try:
        members = await groups.taken(settings.kafka, group_of(settings, lane))
    except KafkaError as error:
        raise Transient(f"the members of {lane} cannot be asked for ({type(error).__name__})") from error
    return members is not None and not members


def _rated(lag: Lag, earlier: Lag | None, seconds: float) -> Lag:
    if earlier is None or seconds <= 0:
        return lag
    if lag.committed is None and not lag.missing and (earlier.anew or earlier.committed is not None):
        lag = replace(lag, anew=True)
    if lag.committed != earlier.committed:
        lag = replace(lag, seconds_since_commit=seconds)
    elif earlier.seconds_since_commit is not None:
        lag = replace(lag, seconds_since_commit=earlier.seconds_since_commit + seconds)
    if earlier.committed is None or lag.committed is None:
        return lag
    return replace(lag, rate=max(0, lag.committed - earlier.committed) / seconds)


def _committed(settings: Settings, lane: str, places: Iterable[tuple[str, int]]) -> dict[tuple[str, int], int]:
    """Return a group's offsets without joining it."""
    prefix = settings.kafka.topic_prefix
    wanted = [Committed(prefix + topic, number) for topic, number in places]
    if not wanted:
        return {}
    consumer = Consumer({**confluent_config(settings.kafka), "group.id": group_of(settings, lane), "enable.auto.commit": False})
    try:
        answer = consumer.committed(wanted, timeout=10)
    except KafkaException as error:
        raise Transient(f"the offsets of {lane} cannot be read ({error.args[0].name()})") from error
    finally:
        consumer.close()
    return {(one.topic.removeprefix(prefix), one.partition): one.offset for one in answer if one.offset >= 0}


async def _timed(reader: Reader, prefix: str, lags: Sequence[Lag], firsts: Sequence[int], clock: Clock) -> list[Lag]:
    """Add the times: by the oldest record that each waits for, and the newest of its partition, all looked up together."""
    behind = [(one, TopicPartition(prefix + one.topic, one.partition), first) for one, first in zip(lags, firsts, strict=True)]
    oldest: dict[tuple[TopicPartition, int], Any] = {}
    asked = {(tp, first): one.end for one, tp, first in behind if one.records}
    while asked:  # once, or more often where lanes are at different places of a partition
        part = {tp: (first, end) for (tp, first), end in asked.items()}
        # To the end: compaction may have taken the record that stood there.
        oldest |= {(tp, part[tp][0]): record for tp, record in (await reader.firsts(part)).items()}
        asked = {place: end for place, end in asked.items() if part.get(place[0], (-1, 0))[0] != place[1]}
    newest = await reader.firsts({tp: (one.end - 1, one.end) for one, tp, _ in behind if one.records})
    now = clock().timestamp()
    found = []
    for one, tp, first in behind:
        eldest = oldest.get((tp, first)) if one.records else None
        if eldest is not None:
            one = replace(
                one,
                event_seconds=max(0.0, _event_time(newest.get(tp) or eldest) - _event_time(eldest)),
                oldest_unacked_seconds=max(0.0, now - eldest.timestamp / 1000),
            )
        found.append(one)
    return found


def _event_time(record: Any) -> float:
    try:
        return _TIME.validate_python(orjson.loads(record.value or b"")["received_at"]).timestamp()
    except (orjson.JSONDecodeError, ValidationError, KeyError, TypeError):
        written: float = record.timestamp / 1000
        return written


async def workers(addresses: Sequence[str]) -> list[WorkerState]:
    """Ask `host:port` pairs for /metrics; those that do not answer, or are no lane's, are left out."""
    pages = await asyncio.gather(*(asyncio.to_thread(_page, address) for address in addresses))
    found: dict[str, list[dict[str, float]]] = {}
    places: dict[str, dict[tuple[str, int], dict[str, float]]] = defaultdict(lambda: defaultdict(dict))
    for page in pages:
        said: dict[str, dict[str, float]] = {}
        for name, lane, value in _SAMPLE.findall(page):
            said.setdefault(lane, {})[name] = float(value)
        for name, lane, number, topic, value in _OF_PARTITION.findall(page):
            if value != "NaN":
                places[lane][topic, int(number)][name] = float(value)
        for lane, values in said.items():
            found.setdefault(lane, []).append(values)
    return [
        WorkerState(
            lane,
            len(all_),
            int(sum(one.get("ready", 0) for one in all_)),
            int(sum(one.get("in_flight", 0) for one in all_)),
            int(sum(one.get("held_partitions", 0) for one in all_)),
            max(one.get("seconds_since_commit", 0) for one in all_),
            max(one.get("kafka_silent_seconds", 0) for one in all_),
            {place: dict(values) for place, values in places[lane].items()},
        )
        for lane, all_ in found.items()
    ]


async def patients(addresses: Sequence[str]) -> tuple[int, dict[str, int]]:
    """Return how many patients the workers of the vitals lane that answer observe, and how many cannot alert, by reason."""
    pages = await asyncio.gather(*(asyncio.to_thread(_page, address) for address in addresses))
    observed, blind = 0, Counter[str]()
    for reason, value in (found for page in pages for found in _OF_PATIENTS.findall(page)):
        if reason:
            blind[reason] += int(float(value))
        else:
            observed += int(float(value))
    return observed, dict(+blind)


async def hung(addresses: Sequence[str]) -> list[str]:
    """Return those addresses that take a connection and do not answer /live in time: a process that is frozen, or hangs."""
    said = await asyncio.gather(*(asyncio.to_thread(_hangs, address) for address in addresses))
    return [address for address, hangs in zip(addresses, said, strict=True) if hangs]


async def unready(addresses: Sequence[str]) -> dict[str, str]:
    """Return, of those processes that say they are not ready, why, with the lane's name; by address."""
    said = await asyncio.gather(*(asyncio.to_thread(_reason, address) for address in addresses))
    return {address: reason for address, reason in zip(addresses, said, strict=True) if reason}


def _reason(address: str) -> str:
    try:
        with urllib.request.urlopen(f"http://{address}/ready", timeout=_LIVE):
            return ""
    except urllib.error.HTTPError as error:
        with error:
            try:
                body = orjson.loads(error.read())
                return f"{body.get('lane', 'connectors')} is not ready: {body['reason']}"
            except (OSError, orjson.JSONDecodeError, AttributeError, KeyError, TypeError):
                return ""  # none of ours
    except (OSError, ValueError):
        return ""


def _hangs(address: str) -> bool:
    try:
        with urllib.request.urlopen(f"http://{address}/live", timeout=_LIVE) as answer:
            answer.read()
    except TimeoutError:  # while connecting it comes as the reason of a `URLError`: such a host is away
        return True
    except (OSError, ValueError):
        pass
    return False


def completed(found: Sequence[Lag], said: Sequence[WorkerState], *, prefix: str) -> list[Lag]:
    """Return the lags with what the workers that answered say of each partition."""
    states = {state.lane: state.partitions for state in said}
    return [_completed(lag, states.get(lag.lane, {}).get((prefix + lag.topic, lag.partition))) for lag in found]


def _completed(lag: Lag, state: Mapping[str, float] | None) -> Lag:
    if state is None:
        return lag
    in_flight, since = state.get("in_flight"), state.get("seconds_since_commit")
    return replace(
        lag,
        anew=lag.anew or (lag.committed is None and since is not None and since > _PATIENCE),  # no first commit since the look
        in_flight=None if in_flight is None else int(in_flight),
        seconds_since_commit=state.get("seconds_since_commit", lag.seconds_since_commit),  # it has committed nothing itself yet
        held_seconds=state.get("held_seconds"),
    )


def _page(address: str) -> str:
    try:
        with urllib.request.urlopen(f"http://{address}/metrics", timeout=2) as answer:
            text: str = answer.read().decode(errors="replace")
            return text
    except (OSError, ValueError, urllib.error.URLError):
        return ""
