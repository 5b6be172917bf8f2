"""Which alerts stand, and who patients are in the hospital's own numbers and where they lie: for people who telephone a ward.

Read from `clinical.alerts` and `clinical.patients` as any reader of them would keep them. What is told is protected health
information: whoever asks is audited first.
"""

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Self

from connectors.contexts import surviving
from connectors.deliver.person import People
from connectors.identity import Identities
from models.errors import Permanent, Poison
from processors.alerts import OVER, RANK
from processors.events import AlertEvent, AuditEntry, AuditEvent, HeartbeatEvent, Location, PatientEvent
from processors.identity import natural_id
from streams.clock import Clock
from streams.outbox import Outbox
from streams.reader import Reader
from streams.settings import Settings
from streams.wire import decode, header

_BEAT: Final = HeartbeatEvent.type.encode()
Progress = Callable[[int, int], None]  # records read, of how many


class Whereabouts:
    """Patients as `clinical.patients` has them at one reading."""

    def __init__(self, identities: Identities) -> None:
        self._people = People(identities)
        self._places: dict[str, Location] = {}

    @classmethod
    async def read(cls, settings: Settings, progress: Progress = lambda done, total: None) -> Self:
        """Read the topic whole. Raises `Transient` when no broker answers, `Permanent` when it is not there."""
        made = cls(Identities(settings.identity))
        async with Reader(settings.kafka) as reader:
            async for record in reader.whole(settings.kafka.topic_prefix + PatientEvent.topic, progress=progress):
                made.take(record)
        return made

    def take(self, record: Any) -> None:
        """Take over one record of the topic; one that cannot be read is passed over."""
        if record.value is None:
            patient = (record.key or b"").decode(errors="replace")
            self._people.forget(patient)
            self._places.pop(patient, None)
            return
        try:
            context = decode(PatientEvent, record)
        except Poison:
            return
        self._people.remember(context)
        self._places[context.patient_id] = context.location

    def numbers(self, patient_id: str) -> list[str]:
        """Return a patient's numbers as the site uses them, `4711 (HOSP)`, first the one of the pseudonym; none if unknown."""
        person = self._people.find(patient_id, None)
        return [f"{one.value} ({one.authority})" for one in person.numbers] if person else []

    def place(self, patient_id: str) -> Location:
        """Return where a patient lies, after a merge the surviving record's place; empty where that is not known."""
        return self._places.get(surviving(self._people, patient_id), self._places.get(patient_id, Location()))


@dataclass(frozen=True, slots=True)
class Standing:
    """An alert that is not over: its newest step, and when it was raised (as far back as the topic goes)."""

    alert: AlertEvent
    since: datetime


async def standing(
    settings: Settings,
    *,
    wards: Collection[str] = (),
    progress: Progress = lambda done, total: None,
) -> list[Standing]:
    """Return the alerts that stand, the gravest and then the oldest first. Raises as `Whereabouts.read`."""
    newest: dict[str, AlertEvent] = {}
    since: dict[str, datetime] = {}
    async with Reader(settings.kafka) as reader:
        async for record in reader.whole(settings.kafka.topic_prefix + AlertEvent.topic, progress=progress):
            if header(record, "ce_type") == _BEAT:
                continue
            try:
                alert = decode(AlertEvent, record)
            except Poison:
                continue
            before = newest.get(alert.alert_id)
            if before is None or alert.sequence >= before.sequence:
                newest[alert.alert_id] = alert
            since[alert.alert_id] = min(alert.decided_at, since.get(alert.alert_id, alert.decided_at))
    found = [
        Standing(alert, since[alert.alert_id])
        for alert in newest.values()
        if alert.state not in OVER and (not wards or alert.location.ward in wards)
    ]
    return sorted(found, key=lambda one: (-RANK[one.alert.severity], one.since, one.alert.alert_id))


async def account(outbox: Outbox, clock: Clock, user: str, patients: Iterable[str], reason: str) -> None:
    """Put on record who is shown which patients' alerts, and why. Raises `Permanent` without a reason."""
    if not reason.strip():
        raise Permanent("a reason is needed", hint='--reason "why", for the audit')
    now = clock()
    request = natural_id("access", user, AlertEvent.topic, now.isoformat())
    entries = tuple(AuditEntry(event_id=request, outcome="shown", patient_id=one) for one in dict.fromkeys(patients))
    await outbox.audit(
        AuditEvent(
            id=request, action="access", agent=user, subject=AlertEvent.topic, entries=entries, reason=reason, recorded_at=now
        )
    )
