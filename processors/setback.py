"""What becomes of the times that are kept when logged time is set back: a clock had run ahead, or one runs behind now.

Nobody can tell from the inputs which of the two times was wrong. So what lies ahead of the new time is moved back with it, and
nothing waits for a moment that may never come: what was waited for counts on, no suppression lasts longer than a rule says, and
every patient's current state is looked at anew. What was charted ahead of time is `processors.charting`'s to put right, set by set.

Times are milliseconds since 1970.
"""

from processors.partition import Hour, Partition
from processors.patients import Patient

_HOUR = 3_600_000


def set_back_patient(patient: Patient, now: int, by: int, suppressed: int) -> None:
    """Move a patient's timers back to `now`, which is `by` earlier than it was. `suppressed`: the longest that a rule allows."""
    for alert in patient.alerts.values():
        if alert.waiting_since is not None and alert.waiting_since > now:
            alert.waiting_since = min(now, alert.waiting_since - by)
        alert.since, alert.asked_at = min(alert.since, now), min(alert.asked_at, now)
        alert.escalated_at = min(alert.escalated_at, now)
        if alert.acknowledged_at is not None:
            alert.acknowledged_at = min(alert.acknowledged_at, now)
    for kind, over in patient.closed.items():
        if over.until > now + suppressed:
            patient.closed[kind] = over._replace(until=min(over.until - by, now + suppressed))
    patient.raised = [min(at, now) for at in patient.raised]
    patient.threes = {name: min(at, now) for name, at in patient.threes.items()}
    if patient.ended_at is not None and patient.ended_at > now:
        patient.ended_at = min(now, patient.ended_at - by)
    if patient.awaited is not None:
        patient.awaited = min(patient.awaited, now)
    # A set of the meantime may have been taken for history, and nothing else would bring up what it said.
    patient.unsettled, patient.settle_at, patient.settle_by = patient.unsettled or not patient.ended, 0, 0
    patient.due = 0


def set_back_partition(state: Partition, now: int) -> None:
    """Let the partition go on from `now`: a heartbeat is due, no catch-up waits, no hour's counts lie ahead."""
    state.set_backs += 1
    state.heartbeat_at = None
    if state.woke_at is not None and state.woke_at > now:
        state.woke_at = None
    if state.newest is not None:
        state.newest = min(state.newest, now)
    for alert in state.alerts.values():
        if alert.kind in ("feed-stopped", "feed-late"):
            alert.since = min(alert.since, now)
            if alert.kind == "feed-stopped":
                alert.until = min(alert.until, now)
    current = now // _HOUR
    for ahead in [hour for hour in state.hours if hour > current]:
        counted = state.hours.pop(ahead)
        into = state.hours.setdefault(current, Hour())
        into.watched += counted.watched
        for ahead_of, then in ((counted.alerts, into.alerts), (counted.beyond, into.beyond)):
            for ward, alerts in ahead_of.items():
                then[ward] = then.get(ward, 0) + alerts
