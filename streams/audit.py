"""Audit records: of predictions, one Kafka record for a micro-batch, confirmed together with its outputs; of a model's change; of a
change of what a lane decides by.
"""

from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Literal, Protocol

from models.tasks import ModelIdentity
from processors.events import AuditEntry, AuditEvent, ModelRef, SettingChange
from processors.identity import natural_id
from streams.clock import Clock
from streams.differing import differences
from streams.outbox import Outbox


def portions(entries: Sequence[AuditEntry], largest: int) -> Iterator[list[AuditEntry]]:
    """Cut a batch's entries into as many audit records as it takes for each to fit `largest` bytes."""
    portion: list[AuditEntry] = []
    room = half = largest // 2
    for entry in entries:
        # JSON escapes a character to six bytes at most.
        size = 6 * (len(entry.event_id) + len(entry.input_id) + len(entry.patient_id) + len(entry.outcome)) + 256
        if portion and size > room:
            yield portion
            portion, room = [], half
        portion.append(entry)
        room -= size
    if portion:
        yield portion


def prediction_audit(
    entries: Sequence[AuditEntry],
    *,
    agent: str,
    subject: str,
    first_offset: int,
    last_offset: int,
    model: ModelIdentity | None,
    recorded_at: datetime,
) -> AuditEvent:
    """Make the record. A batch cut otherwise on a rerun gives other records with the same entries: readers go by the entries."""
    return AuditEvent(
        id=natural_id("audit", agent, subject, first_offset, last_offset, model.digest if model else ""),
        action="predict",
        agent=agent,
        subject=subject,
        model=ModelRef(name=model.name, version=model.version, digest=model.digest) if model else None,
        entries=tuple(entries),
        recorded_at=recorded_at,
    )


def model_change_audit(task: str, model: ModelIdentity, *, agent: str, reason: str, recorded_at: datetime) -> AuditEvent:
    """Make the record of a promotion or a rollback: `model` is what serves the task from now on."""
    request = natural_id("model-change", agent, task, model.digest, recorded_at.isoformat())
    return _of_model(request, "model-change", task, model, agent, reason, recorded_at)


def drift_audit(task: str, model: ModelIdentity, *, agent: str, reason: str, recorded_at: datetime) -> AuditEvent:
    """Make the record of a shift: what a model sees or says now is no longer what it was measured on."""
    request = natural_id("drift", agent, task, model.digest, reason, recorded_at.isoformat())
    return _of_model(request, "lifecycle", task, model, agent, reason, recorded_at)


def configuration_audits(
    request: str,
    lane: str,
    before: Mapping[str, str] | None,
    after: Mapping[str, str],
    *,
    agent: str,
    reason: str,
    recorded_at: datetime,
    largest: int,
) -> Iterator[AuditEvent]:
    """Make the record of what a lane decides by from now on, as names and values; several where one would not fit `largest` bytes.

    `before` is None where it is not known what held: then all of what holds is told.
    """
    changes = [SettingChange(name=name, before=was, after=now) for name, was, now in differences(before or {}, after)]
    part, number, room = list[SettingChange](), 0, largest // 2
    for change in [*changes, None]:
        # JSON escapes a character to six bytes at most.
        size = 0 if change is None else 6 * sum(len(one or "") for one in (change.name, change.before, change.after)) + 64
        if part and (change is None or size > room):
            yield AuditEvent(
                id=request if number == 0 else natural_id(request, number),
                action="configuration-change",
                agent=agent,
                subject=f"lane/{lane}",
                changes=tuple(part),
                reason=reason,
                recorded_at=recorded_at,
            )
            part, number, room = [], number + 1, largest // 2
        if change is not None:
            part.append(change)
            room -= size


def _of_model(
    request: str,
    action: Literal["model-change", "lifecycle"],
    task: str,
    model: ModelIdentity,
    agent: str,
    reason: str,
    recorded_at: datetime,
) -> AuditEvent:
    return AuditEvent(
        id=request,
        action=action,
        agent=agent,
        subject=f"model/{task}",
        model=ModelRef(name=model.name, version=model.version, digest=model.digest),
        reason=reason,
        recorded_at=recorded_at,
    )


class MakeAudit(Protocol):
    """Makes the record of something that happened to a task's model."""

    def __call__(self, task: str, model: ModelIdentity, *, agent: str, reason: str, recorded_at: datetime) -> AuditEvent:
        """Make it."""
        ...


def recorder(make: MakeAudit, outbox: Outbox, agent: str, clock: Clock) -> Callable[[str, ModelIdentity, str], Awaitable[None]]:
    """Return what a lane is told of its models by: it writes (task, model, words) down as `make` makes it, confirmed."""

    async def record(task: str, model: ModelIdentity, words: str) -> None:
        await outbox.audit(make(task, model, agent=agent, reason=words, recorded_at=clock()))

    return record
