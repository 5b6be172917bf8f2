"""Alerts taken up from what was told of them, where the state that led their lives is lost.

What was published is the truth that people acted on: an alert stands, or is over, as its last published step says, was answered if
that was said, and its next step gets the next number. What a rebuild without its memory believes instead counts for nothing; whose
alert it is then is looked at anew (`Patient.unsettled`), so that nobody who is ill now goes without one.

Some of what an alert remembers is in no event and is inferred: since when it waits (its last step that calls for an answer), how
far up the chain it is (its escalations), how long a silence it told of.
"""

import re
from collections import defaultdict
from collections.abc import Iterable
from datetime import timedelta

from processors.alerts import RANK, Alert
from processors.events import AlertEvent, FeedbackEvent, PatientEvent, VitalsEvent
from processors.partition import Partition
from processors.patients import Patient, ms
from processors.rules import MonitorRules

_MS = timedelta(milliseconds=1)
_OVER = ("resolved", "declined", "withdrawn")
_PAGING = ("news2", "deterioration")
_FEED = re.compile(r"Feed (.*) silent for ")  # as `processors.outages` words it


def stands(life: list[AlertEvent]) -> bool:
    """Tell whether an alert is under way, by its steps."""
    return life[-1].state not in _OVER


def by_patient(told: Iterable[AlertEvent]) -> dict[str, list[list[AlertEvent]]]:
    """Sort steps into alerts, in the order in which they were decided last: of one step that was said again the last."""
    found: dict[str, dict[str, dict[int, AlertEvent]]] = defaultdict(lambda: defaultdict(dict))
    for event in told:
        found[event.patient_id][event.alert_id][event.sequence] = event
    lives = {
        patient: [[steps[number] for number in sorted(steps)] for steps in alerts.values()] for patient, alerts in found.items()
    }
    return {patient: sorted(some, key=lambda life: (life[-1].decided_at, life[-1].alert_id)) for patient, some in lives.items()}


def resume_patient(patient: Patient, lives: Iterable[list[AlertEvent]], rules: MonitorRules) -> None:
    """Let a patient's alerts be those that were told; `lives`: each alert's steps, as of `by_patient`."""
    believed, patient.alerts, patient.closed = patient.alerts, {}, {}
    suppressed = {"declined": rules.declined_suppression, "resolved": rules.suppression}
    for life in lives:
        last = life[-1]
        for event in life:
            if event.source.topic == FeedbackEvent.topic:  # an answer that was taken may come again
                patient.seen[event.source.event_id] = None
        if stands(life):
            patient.alerts[last.kind] = _led(life, rules)
            continue
        calm = last.state == "resolved" and last.kind in _PAGING and last.source.topic == VitalsEvent.topic
        if last.state == "declined" or calm:
            patient.closed[last.kind] = (last.severity, ms(last.decided_at + suppressed[last.state]))
    policy = rules.ceilings.get(patient.context.ceiling) if patient.context.ceiling else None
    for kind, alert in patient.alerts.items():
        patient.closed.pop(kind, None)
        if alert.quiet or (policy is not None and not policy.escalates):
            alert.waiting_since = None
        if patient.heard is None:  # no set of theirs is left: the silence, and the end of the watch, go by what was told
            patient.heard = alert.observed or alert.since
        same = believed.get(kind)
        if same is not None and same.id == alert.id:
            alert.calm_sets, alert.calm_since = same.calm_sets, same.calm_since
    patient.unsettled = patient.unsettled or believed.keys() != patient.alerts.keys()
    patient.due = 0


def resume_partition(state: Partition, lives: Iterable[list[AlertEvent]], rules: MonitorRules) -> None:
    """Let the partition's own alerts be those that were told."""
    state.alerts = {}
    for life in lives:
        last, alert = life[-1], _led(life, rules)
        alert.waiting_since = None  # they climb no chain
        key: str = last.kind
        if last.kind == "feed-stopped":
            named = _FEED.match(last.title)
            alert.about = named[1] if named else ""
            key = f"feed-stopped:{alert.about}"
        if stands(life) or last.state == "declined":  # these stand, declined or not, until their cause ends
            state.alerts[key] = alert
            if last.kind == "monitoring-blind":
                state.woke_at = alert.until


def _led(life: list[AlertEvent], rules: MonitorRules) -> Alert:
    """Lead an alert through its published steps."""
    first, last = life[0], life[-1]
    alert = Alert(first.alert_id, first.kind, first.severity)
    answered = False
    for event in life:
        waits = event is first or event.state == "raised"
        told = event.news2 if event.kind == "news2" else None
        if event.state == "updated":
            context = event.source.topic == PatientEvent.topic
            risen = told.total - alert.total if told else 0
            # A new place repeats the score of now: only a marked rise would have been told for its own sake.
            graver = risen >= rules.update_rise if context else risen > 0
            waits = waits or not answered or RANK[event.severity] > RANK[alert.severity] or graver
        if event.state == "escalated":
            chain = rules.escalation.get(event.severity, ())
            after = range(alert.step, len(chain))
            alert.step = next((i + 1 for i in after if chain[i].route == event.route), alert.step + 1)
        elif waits:
            alert.step = 0
        if event.state == "acknowledged":
            answered, alert.waiting_since = True, None
        elif waits:
            answered, alert.waiting_since = False, ms(event.decided_at)
        if told is not None and event.state in ("raised", "updated"):
            alert.total = told.total
            alert.evidence = {one.name: ms(one.observed_at) for one in told.parameters if one.points}
        alert.severity = event.severity
    alert.state, alert.sequence, alert.route, alert.routes = last.state, last.sequence, last.route, last.routes or (last.route,)
    alert.quiet = alert.kind in _PAGING and alert.route == rules.quiet_route
    alert.score_id = last.score_id
    if alert.kind in _PAGING:
        alert.observed, alert.received = ms(last.observed_at), ms(last.received_at)
        alert.text = last.title if alert.kind == "deterioration" else ""
    else:
        alert.since = ms(first.observed_at)
        alert.until = ms(first.decided_at) - (alert.since if alert.kind == "no-observations" else 0)
    return alert
