"""Time travel for vitals: what the monitor said about one patient in a stretch of time, said again, with the state as it was.

The state "as it was" is rebuilt from the beginning of what the topics still hold, not from a snapshot: the journal keeps only each
patient's newest. The whole partition is run through the pure monitor in this process (`streams.rerunning`): other patients' sets
move the feeds' clocks and the catching-up after an outage. Only the asked patient's windows go to the model.

`Other` asks what other rules or another model would have said. What retention and compaction have taken is told in `Travel.notes`,
and a score that differs names which of these may be why.

Nothing is written to a topic but the audit record of the access, before anything is shown.
"""

import asyncio
import tomllib
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from pydantic import ValidationError

from models.errors import Permanent, Poison
from models.tasks import DeteriorationModel, Floats
from processors.deterioration import HourDriver, drivers_by_hour
from processors.events import (
    AlertEvent,
    AuditEntry,
    AuditEvent,
    PatientEvent,
    ScoreEvent,
    VitalsEvent,
)
from processors.identity import natural_id
from processors.monitor import Monitor
from processors.rules import MonitorRules
from streams.clock import Clock, real_clock
from streams.inference import open_model
from streams.journal import TOPIC as JOURNAL
from streams.journal import Lapses, stretch
from streams.matching import Row, Said, Step, compared, made_of, steps
from streams.metrics import LaneMetrics
from streams.outbox import Outbox, partition_of
from streams.reader import Reader
from streams.rerunning import History, Rerun, Tell, written
from streams.scoring import Scoring
from streams.settings import Settings
from streams.wire import decode

Hours = dict[int, tuple[HourDriver, ...]]  # by the offset of the set

_NO_HURRY: Final = 600.0  # seconds for the model: here it is never late


@dataclass(frozen=True, slots=True)
class Other:
    """What is to be otherwise than it is here: files of rules (the fields of `monitor`) and of a registry; None: as it is."""

    rules: Path | None = None
    registry: Path | None = None

    @property
    def words(self) -> str:
        """Say it, for the audit."""
        named = (("rules", self.rules), ("registry", self.registry))
        return ", ".join(f"{what} {path.name}" for what, path in named if path is not None)

    def over(self, settings: Settings) -> Settings:
        """Return the settings with these laid over; raises `Permanent` that names what is wrong in a file."""
        changed: dict[str, Any] = {}
        if self.rules is not None:
            changed["monitor"] = _rules(self.rules, settings.monitor)
        if self.registry is not None:
            if not self.registry.is_file():
                raise Permanent(f"there is no registry file {self.registry}")
            changed["models"] = settings.models.model_copy(update={"registry": self.registry})
        return settings.model_copy(update=changed)


def _rules(file: Path, site: MonitorRules) -> MonitorRules:
    try:
        given = tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise Permanent(f"the rules in {file} cannot be read ({error.strerror})") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise Permanent(f"{file} is not TOML: {error}") from error
    table = given.get("monitor", given)  # a site's whole settings file will do
    try:
        return MonitorRules.model_validate(_laid_over(site.model_dump(), table))
    except ValidationError as error:
        wrong = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors(include_input=False))
        raise Permanent(f"rules in {file}: {wrong}", hint="`vigil settings` shows those of `monitor`") from None


def _laid_over(under: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    both = {
        name: _laid_over(under[name], over[name]) for name in under.keys() & over.keys() if _tables(under[name], over[name])
    }
    return {**under, **over, **both}


def _tables(one: object, other: object) -> bool:
    return isinstance(one, dict) and isinstance(other, dict)


@dataclass(frozen=True, slots=True)
class Asked:
    """Whose sets: those observed at or after `since` and before `until`; and what was said of alerts in that time. And why."""

    patient: str
    since: datetime
    until: datetime
    reason: str
    hours: bool = False  # whether to say which values, of which hours, drove the model's answers
    heard: datetime | None = None  # alerts up to here only: as far as the lane has decided

    def __post_init__(self) -> None:
        if not self.reason.strip():
            raise Permanent("a reason is needed", hint='--reason "why", for the audit')
        if self.since.tzinfo is None or self.until.tzinfo is None:
            raise Permanent("a time without a zone cannot be compared", hint="say which: 2026-01-31T08:00:00+01:00")
        if not self.patient or self.since >= self.until:
            raise Permanent("whose vitals, and from when until when?", hint="--patient ID --from TIME --until a later TIME")

    def takes(self, event: VitalsEvent | ScoreEvent) -> bool:
        """Tell whether a set, or its score, is one of these."""
        return event.patient_id == self.patient and self.since <= event.observed_at < self.until

    def hears(self, event: AlertEvent) -> bool:
        """Tell whether a step of an alert was, or would have been, decided in this time."""
        until = self.until if self.heard is None else min(self.until, self.heard)
        return event.patient_id == self.patient and self.since <= event.decided_at < until


@dataclass(slots=True)
class Travel:
    """What came of it. `notes` say in words what of the past is no longer there; `sets` were run through the monitor."""

    rows: list[Row] = field(default_factory=list)
    alerts: list[Step] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    sets: int = 0
    model: str = ""

    @property
    def copies(self) -> int:
        """Return how many of the scores are of sets that came once more."""
        return sum(row.copy_of is not None for row in self.rows)

    @property
    def equal(self) -> bool:
        """Tell whether all was said then as it is now; nothing is not."""
        return bool(self.rows) and all(row.equal for row in self.rows) and all(step.equal for step in self.alerts)


class TimeTravel:
    """Runs one patient's past again. `outbox` must be started: an access that cannot be accounted for is no access."""

    def __init__(
        self, settings: Settings, outbox: Outbox, *, user: str, clock: Clock = real_clock, other: Other | None = None
    ) -> None:
        self._other = other or Other()
        self._settings = self._other.over(settings)
        self._outbox = outbox
        self._user = user
        self._clock = clock
        self._prefix = settings.kafka.topic_prefix

    async def go(self, asked: Asked, tell: Tell = lambda done, total: None) -> Travel:
        """Return each set's score and each alert's step of that time, in the order in which they were decided.

        Raises `Transient` when no broker answers, `Permanent` for a topic that is not there, `Permanent` or `Fatal` for a model
        that was asked for and cannot be opened.
        """
        async with Reader(self._settings.kafka) as reader:
            kinds = (VitalsEvent, PatientEvent, ScoreEvent, AlertEvent)
            await reader.require(*(self._prefix + name for name in (*(kind.topic for kind in kinds), JOURNAL)))
            number = await self._partition(reader, VitalsEvent.topic, asked.patient.encode())
            await self._audit(asked)
            asked, cut = await self._decided(reader, number, asked)  # before what was said is read
            last, oldest = await self._last(reader, number, asked)
            scores, scores_cut = await self._published(reader, asked, ScoreEvent)
            alerts, alerts_cut = await self._published(reader, asked, AlertEvent)
            travel = Travel()
            rerun, hours = await self._run(reader, number, asked, last, travel, tell)
            await self._note_retention(reader, number, asked, travel, oldest)
        said = Said((one for one in scores if isinstance(one, ScoreEvent) and asked.takes(one)), rerun.copies)
        reasons = (f"asked with other {self._other.words}",) if self._other.words else tuple(travel.notes)
        travel.rows = [
            replace(compared(score, said, reasons, scores_cut), hours=hours.get(score.source.offset, ()))
            if score.deterioration is not None
            else compared(score, said, reasons, scores_cut)
            for score in rerun.scores
        ]
        travel.alerts = steps(rerun.alerts, [one for one in alerts if isinstance(one, AlertEvent) and asked.hears(one)])
        if travel.copies:
            travel.notes.append(
                f"{travel.copies} of these scores are of copies that a replay or redrive brought, with the state as it was then: "
                "of one id the newest stands on clinical.scores"
            )
        if cut:
            travel.notes.append(cut)
        if alerts_cut:
            travel.notes.append("retention has taken some of clinical.alerts: steps that are only there now may have been said")
        return travel

    async def _decided(self, reader: Reader, number: int, asked: Asked) -> tuple[Asked, str]:
        """End what is asked where the lane is now, and say so: what it has yet to say would be there only now.

        An entry is journalled before its effects are written, and the next one after them: so all that was decided before the last
        entry's time is on the topics. In a time that is over, sets that nobody scored are told all the same.
        """
        history, now = await self._history(reader, number), self._clock()
        decided = min(next((entry.now for entry in reversed(history.entries) if entry.now), now), now)
        if asked.until <= decided:
            return asked, ""
        words = f"{decided:%Y-%m-%d %H:%M:%S} UTC"
        if asked.until <= now:
            return replace(asked, heard=decided), f"the vitals lane has decided up to {words}: later alerts are not compared"
        if decided <= asked.since:
            raise Permanent("nothing of that time is decided yet", hint=f"the vitals lane has come to {words}")
        return replace(asked, until=decided), f"the vitals lane has decided up to {words}: what comes later is not compared"

    async def _history(self, reader: Reader, number: int) -> History:
        history = History()
        begin, end = await reader.bounds(self._prefix + JOURNAL, number)
        async for record in stretch(reader, self._prefix + JOURNAL, number, begin, end):
            history.take(record)
        return history

    async def _last(self, reader: Reader, number: int, asked: Asked) -> tuple[int, datetime | None]:
        """Return the offset after the last set that is asked for or was written in that time, 0 when there is none; and when the
        oldest of all was written.

        Only this patient's are decoded.
        """
        topic, key, last = self._prefix + VitalsEvent.topic, asked.patient.encode(), 0
        oldest: datetime | None = None
        begin, end = await reader.bounds(topic, number)
        async for record in stretch(reader, topic, number, begin, end):
            oldest = oldest or written(record)
            if written(record) < asked.until:
                last = record.offset + 1
            elif record.key == key:
                with suppress(Poison):
                    if asked.takes(decode(VitalsEvent, record)):
                        last = record.offset + 1
        return last, oldest

    async def _partition(self, reader: Reader, name: str, key: bytes) -> int:
        there = len(await reader.partitions(self._prefix + name))
        return partition_of(key, self._settings.topics.used(name, there))

    async def _published(
        self, reader: Reader, asked: Asked, kind: type[ScoreEvent | AlertEvent]
    ) -> tuple[list[ScoreEvent | AlertEvent], bool]:
        """Return what was said of this patient, each score, of each alert's step the newest; and whether retention took some."""
        topic, key = self._prefix + kind.topic, asked.patient.encode()
        found: dict[object, ScoreEvent | AlertEvent] = {}  # the newest last
        number = await self._partition(reader, kind.topic, key)
        begin, end = await reader.bounds(topic, number)
        async for record in stretch(reader, topic, number, begin, end):
            if record.key == key:
                with suppress(Poison):
                    event = decode(kind, record)
                    place = made_of(event) if isinstance(event, ScoreEvent) else event.id
                    found.pop(place, None)
                    found[place] = event
        return list(found.values()), begin > 0

    # -------------------------------------------------------------------------------------------------------- the machine

    async def _run(
        self, reader: Reader, number: int, asked: Asked, last: int, travel: Travel, tell: Tell
    ) -> tuple[Rerun, Hours]:
        history = await self._history(reader, number)
        begin, _ = await reader.bounds(self._prefix + VitalsEvent.topic, number)
        late = history.begins_late(begin)
        if not any(await reader.bounds(self._prefix + JOURNAL, number)):
            travel.notes.append(
                "there is no journal yet (has the vitals lane run?), or it was lost: records are taken in the order of their "
                "writing"
            )
        elif late:
            first = history.entries[0]
            since = f", {first.now:%Y-%m-%d %H:%M} UTC" if first.now else ""
            travel.notes.append(
                f"the journal begins at offset {first.at:,} of the vitals{since}: the one before was lost. What came before is "
                "taken in the order of its writing"
            )
        elif history.gaps or not history.entries:
            since = next((f" before {entry.now:%Y-%m-%d %H:%M} UTC" for entry in history.entries if entry.now), "")
            travel.notes.append(
                f"the journal no longer holds the order of what happened{since}: records are taken in the order of their writing"
            )
        models = self._settings.models.model_copy(update={"vitals_deadline": _NO_HURRY})
        try:
            model = await open_model(models, "deterioration")
        except Permanent:
            if self._other.registry is not None:
                raise
            model = None
        scoring = Scoring(model, models, LaneMetrics("replay"))
        travel.model = f"{scoring.identity.name}@{scoring.identity.version}" if scoring.identity else "none"
        monitor = Monitor(self._settings.monitor, partition=number, model=scoring.identity)
        async with AsyncExitStack() as stack:
            stack.push_async_callback(scoring.stop)
            # Another model is asked everywhere: what it would have said is the question.
            lapses = Lapses(history.lapses if self._other.registry is None else ())
            rerun = Rerun(self._settings, number, asked, monitor, scoring, last, tell, lapses)
            await rerun.open(stack)
            number_before = -1 if late else 0
            for entry in history.entries:
                if entry.at >= last and (entry.now is None or entry.now >= asked.until):
                    break
                await rerun.obey(entry, known=entry.number == number_before + 1)
                number_before = entry.number
            await rerun.advance(last, in_order=bool(history.entries))
            if not history.entries and monitor.now is not None:
                rerun.pass_time(min(asked.until, self._clock()))
        travel.sets = rerun.sets
        answered = [one.source.offset for one in rerun.scores if one.deterioration is not None]
        hours = await asyncio.to_thread(_hours, model, rerun.windows, answered) if asked.hours and model is not None else {}
        return rerun, hours

    async def _note_retention(self, reader: Reader, number: int, asked: Asked, travel: Travel, oldest: datetime | None) -> None:
        begin, _ = await reader.bounds(self._prefix + VitalsEvent.topic, number)
        if begin > 0:
            since = f" (what is left was written from {oldest:%Y-%m-%d %H:%M} UTC on)" if oldest else ""
            travel.notes.append(
                f"retention has taken the first {begin:,} vitals{since}: earlier values are not carried forward"
            )
        holes, context = await self._contexts(reader, number, asked)
        if holes:
            travel.notes.append(
                "clinical.patients is compacted: contexts that newer ones replaced are gone (age, SpO2 scale, ward)"
            )
        if not context:
            travel.notes.append(
                "clinical.patients holds no context of this patient that was written before the end of this time"
            )

    async def _contexts(self, reader: Reader, number: int, asked: Asked) -> tuple[bool, bool]:
        """Tell whether contexts are missing in the log, and whether there is one of this patient from before the end."""
        topic, key = self._prefix + PatientEvent.topic, asked.patient.encode()
        begin, end = await reader.bounds(topic, number)
        following, holes, context = 0, False, False
        async for record in stretch(reader, topic, number, begin, end):
            holes = holes or record.offset > following
            following = record.offset + 1
            context = context or (record.key == key and written(record) < asked.until)
        return holes, context

    async def _audit(self, asked: Asked) -> None:
        at = self._clock()
        request = natural_id("access", self._user, "vitals", asked.patient, at.isoformat())
        entry = AuditEntry(event_id=request, outcome="shown", patient_id=asked.patient)
        told = f"time travel {asked.since.isoformat()} to {asked.until.isoformat()}"
        event = AuditEvent(
            id=request,
            action="access",
            agent=self._user,
            subject=VitalsEvent.topic,
            entries=(entry,),
            reason="; ".join(filter(None, (told, self._other.words, asked.reason))),
            recorded_at=at,
        )
        await self._outbox.audit(event)


def _hours(model: DeteriorationModel, windows: Mapping[int, Floats], offsets: Sequence[int]) -> Hours:
    return {offset: drivers_by_hour(model, windows[offset]) for offset in offsets if offset in windows}
