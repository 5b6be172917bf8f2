"""Alerts taken up from what was told of them, where the state that led their lives is lost, or was led by other rules.

What was published is the truth that people acted on: an alert stands, or is over, as its last published step says, was answered if
that was said, and its next step gets the next number. What a rebuild without its memory believes instead counts for nothing; and
every patient's current state is looked at anew (`Patient.unsettled`), so that nobody who is ill now goes without an alert.

How an alert stands with people its last step says by itself (`Answering`). What it rests on is the score of the last step that
was told for its own sake. In no step stand, and are inferred or begun anew: calm sets (as the vitals led to them, if the same was
told), corrections that changed nothing worth telling, since when a first observation is waited for, what an outage's backlog has
brought. Where that may be wrong, somebody is asked once more rather than once too little.

Where a state is left of `before` something was told, it is gone on from that, and only calm sets are the rebuild's.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from math import inf

from processors import alerts
from processors.alerts import Alert
from processors.desk import AFTER_END, PAGING, Desk, another_ward
from processors.events import AlertEvent, FeedbackEvent, HeartbeatEvent, Location, PatientEvent, Source, VitalsEvent
from processors.partition import Partition
from processors.patients import Closed, Patient, ms
from processors.rules import MonitorRules
from processors.setback import set_back_partition, set_back_patient
from processors.timers import band_of

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_US = timedelta(microseconds=1)
_MS = timedelta(milliseconds=1)

Life = list[AlertEvent]  # one alert's steps, by `sequence`; retention may have taken the first
Taken = Mapping[str, int]  # topic -> the offset below which its records were taken in: what lies beyond comes once more


@dataclass(frozen=True, slots=True)
class Before:
    """How patients and partition stood before the first that was told. It is used up by `resume`."""

    patients: Mapping[str, Patient] = field(default_factory=dict)
    state: Partition | None = None


def resume(
    told: Iterable[AlertEvent | HeartbeatEvent],
    taken: Taken,
    patients: dict[str, Patient],
    state: Partition,
    desk: Desk,
    rules: MonitorRules,
    before: Before,
) -> None:
    """Let alerts, logged time and budgets be as they were told, in the order of its writing.

    Whoever has an alert that stands and is not among `patients`, since nothing else is left of them, comes to be.
    """
    once = list({event.id: event for event in told}.values())  # of what was said again the last
    lives = _lives(event for event in once if isinstance(event, AlertEvent))
    over = {life[0].alert_id for some in lives.values() for life in some if not _stands(life)}
    standing = {name for name, some in lives.items() if any(map(_stands, some))}
    standing |= {name for name, one in before.patients.items() if any(alert.id not in over for alert in one.alerts.values())}
    for patient_id in sorted(standing - {state.id}):
        patients.setdefault(patient_id, Patient(patient_id))
    _count(once, patients, state, desk, rules, before)
    if once:
        told_at = (once[-1].decided_at - _EPOCH) // _US
        state.now = told_at if before.state is None or state.now is None else max(state.now, told_at)
    # What comes once more must not raise another alert under ids that were used up, if the one of then is over by that time. Of the
    # answers to an alert those up to the last that was told were taken, or changed nothing: now they might.
    all_lives = [life for some in lives.values() for life in some]
    state.raised |= {life[0].alert_id for life in all_lives if _comes_again(life[0].source, taken)}
    state.answered |= {
        event.alert_id: event.source.offset
        for life in all_lives
        for event in life
        if event.source.topic == FeedbackEvent.topic and _comes_again(event.source, taken)
    }
    sets = [event for life in all_lives for event in life if event.source.topic == VitalsEvent.topic]
    for event in sets:
        if _comes_again(event.source, taken):
            state.told[event.patient_id] = max(event.source.offset, state.told.get(event.patient_id, 0))
    _resume_partition(state, lives.get(state.id, ()), before.state)
    suppressed = max(rules.suppression, rules.declined_suppression) // _MS
    for patient in patients.values():
        _resume_patient(patient, lives.get(patient.id, ()), rules, before.patients.get(patient.id) or Patient(patient.id))
        if state.now is not None:  # it may have been set back since something was told
            set_back_patient(patient, state.now // 1000, 0, suppressed)
        patient.unsettled, patient.due = not patient.ended, 0


def _stands(life: Life) -> bool:
    return life[-1].state not in alerts.OVER


def _lives(told: Iterable[AlertEvent]) -> dict[str, list[Life]]:
    """Sort steps into alerts, by patient, in the order in which each alert's last step was written."""
    found: dict[str, dict[str, dict[int, AlertEvent]]] = defaultdict(dict)
    for event in told:
        lives = found[event.patient_id]
        lives[event.alert_id] = {**lives.pop(event.alert_id, {}), event.sequence: event}
    return {patient: [[life[number] for number in sorted(life)] for life in lives.values()] for patient, lives in found.items()}


def _count(
    told: Iterable[AlertEvent | HeartbeatEvent],
    patients: Mapping[str, Patient],
    state: Partition,
    desk: Desk,
    rules: MonitorRules,
    before: Before,
) -> None:
    """Count the alerts of the last day, and the time that patients were watched, as they were counted."""
    state.hours, state.heartbeat_at = ({}, None) if before.state is None else (before.state.hours, before.state.heartbeat_at)
    for patient in patients.values():
        patient.raised = before.patients[patient.id].raised if patient.id in before.patients else []
    strangers: dict[str, Patient] = {}  # of whom no more is left than alerts that are over
    for event in told:
        now = ms(event.decided_at)
        if isinstance(event, AlertEvent):
            if event.sequence == 0 and event.kind in PAGING:
                known = patients.get(event.patient_id) or strangers.setdefault(event.patient_id, Patient(event.patient_id))
                desk.count(known, event.location.ward_names[0], now)
            continue
        if event.set_back_seconds:
            set_back_partition(state, now)
        state.beat(event.patients, now, rules.blind_after)


def _resume_patient(patient: Patient, lives: Collection[Life], rules: MonitorRules, before: Patient) -> None:
    believed, patient.alerts, patient.closed = patient.alerts, before.alerts, before.closed
    shut, patient.shut = patient.shut, before.shut
    patient.threes, patient.after_end = before.threes, before.after_end
    begun = {alert.id: alert for alert in before.alerts.values()}
    place = before.context.location
    for life in lives:
        known = begun.get(life[0].alert_id)
        if known is not None:
            life = [event for event in life if event.sequence > known.sequence]
            if not life:
                continue
        alert, last = _led(life, patient, rules, known, place), life[-1]
        for event in _rests(life, known, place):
            assert event.news2 is not None
            patient.threes |= {one.name: ms(event.decided_at) for one in event.news2.parameters if one.points == 3}
        patient.closed.pop(alert.kind, None)
        patient.shut.pop(alert.kind, None)
        if known is not None and patient.alerts.get(alert.kind) is known:
            del patient.alerts[alert.kind]
        if _stands(life):
            patient.alerts[alert.kind] = alert
        elif (kept := shut.get(alert.kind)) is not None and kept.id == alert.id:
            patient.shut[alert.kind] = kept
        elif alert.kind == "news2" and last.source.topic == PatientEvent.topic and _is_unwatched(patient):
            Desk.shut(patient, alert, f"what ended it holds no more ({last.reason})", stay=patient.encounter_id or "")
        if not _stands(life) and last.answering is not None and last.answering.held_until is not None:
            until = ms(last.answering.held_until)
            patient.closed[alert.kind] = Closed(
                alert.severity, until, alert.total, alert.threes or (), last.state == "declined"
            )
        if alert.kind == AFTER_END:
            declined = last.state == "declined" and patient.ended_at is not None and ms(life[0].decided_at) >= patient.ended_at
            patient.after_end = alert.severity if _stands(life) or declined else None
    for kind, alert in patient.alerts.items():
        same = believed.get(kind)
        if same is not None and (same.id, same.severity, same.total) == (alert.id, alert.severity, alert.total):
            alert.calm_sets, alert.calm_since = same.calm_sets, same.calm_since
    if patient.ended:
        patient.closed.clear()
    if patient.heard is None:
        _go_by_what_was_told(patient, lives)


def _is_unwatched(patient: Patient) -> bool:
    """Tell whether a context that may be lifted lets no score of a patient alert."""
    return bool(patient.ended) or (patient.newest is not None and bool(patient.context.not_applicable(patient.newest)))


def _resume_partition(state: Partition, lives: Iterable[Life], before: Partition | None) -> None:
    """Let the partition's own alerts be those that were told. They stand, declined or not, until their cause ends."""
    state.alerts, state.woke_at = ({}, None) if before is None else (before.alerts, before.woke_at)
    for life in lives:
        last = life[-1]
        alert = _told(last)
        alert.since, alert.about = ms(last.observed_at), last.peer
        blind = alert.kind == "monitoring-blind"
        key = alert.kind if blind else f"{alert.kind}:{alert.about}"
        known = state.alerts.get(key)
        if known is not None and known.id != alert.id:
            known = None
        if not _stands(life) and last.state != "declined":
            if known is not None:
                del state.alerts[key]
                state.woke_at = None if blind else state.woke_at
            continue
        if known is not None:
            alert.until = known.until
        elif blind:
            state.woke_at = alert.until = ms(life[0].decided_at)
            state.caught_up, state.backlog_at, state.late = False, None, 0
        else:
            feed = state.feeds.get(alert.about)
            alert.until = (feed.behind if feed is not None else None) or 0
            if alert.kind == "feed-stopped":
                alert.until = ms(life[0].decided_at)
        state.alerts[key] = alert


def _comes_again(source: Source, taken: Taken) -> bool:
    return source.offset >= taken.get(source.topic, inf)


def _told(last: AlertEvent) -> Alert:
    routes = last.routes or (last.route,)
    return Alert(last.alert_id, last.kind, last.severity, last.state, last.sequence, last.route, routes)


def _led(life: Life, patient: Patient, rules: MonitorRules, known: Alert | None, place: Location) -> Alert:
    """Lead a patient's alert through its published steps, from how it is `known` to have stood before them, at that `place`."""
    last, answering = life[-1], life[-1].answering
    alert = _told(last)
    if known is not None:
        told = {name: getattr(alert, name) for name in ("severity", "state", "sequence", "route", "routes")}
        alert = replace(known, **told, calm_sets=0, calm_since=0)
    if answering is None:  # of before steps said so: it is asked anew, unless the last word is that somebody answered
        acknowledged = last.state == "acknowledged"
        alert.waiting_since = None if acknowledged else ms(last.decided_at)
        alert.acknowledged_at = ms(last.decided_at) if acknowledged else None
    else:
        alert.step, alert.asked, alert.quiet = answering.links, answering.asked, answering.quiet
        alert.waiting_since = None if answering.waiting_since is None else ms(answering.waiting_since)
        alert.acknowledged_at = None if answering.acknowledged_at is None else ms(answering.acknowledged_at)
        alert.escalated_at = 0 if answering.escalated_at is None else ms(answering.escalated_at)
        alert.asked_at = 0 if answering.asked_at is None else ms(answering.asked_at)
    if last.score_id is not None:
        alert.score_id, alert.observed, alert.received = last.score_id, ms(last.observed_at), ms(last.received_at)
    for event in _rests(life, known, place):
        assert event.news2 is not None
        alert.total = event.news2.total
        alert.evidence = {one.name: ms(one.observed_at) for one in event.news2.parameters if one.points}
        alert.threes = alerts.threes(event.news2, alert.threes or (), rules)
    if alert.kind == "no-observations":
        asked = next((event for event in life if event.sequence == alert.asked), life[0] if known is None else None)
        alert.since = ms(last.observed_at)
        if asked is not None:
            alert.until = ms(asked.decided_at) - ms(asked.observed_at)  # a little more than the limit, and as true
    elif alert.kind not in PAGING and known is None:
        alert.since = patient.ended_at or alert.observed
        alert.about = life[0].reason if life[0].state == "raised" else patient.ended
    if alert.kind in ("deterioration", AFTER_END):
        alert.text = last.title
    return alert


def _rests(life: Life, known: Alert | None, place: Location) -> list[AlertEvent]:
    """Return the steps that were told for their score's sake: a new place, a repeat or an answer only shows the one of its time.

    Before them the alert stood as it is `known`, at that `place`.
    """
    if life[0].kind != "news2":
        return []
    found: list[AlertEvent] = []
    before = None if known is None else (known.severity, place)
    for event in life:
        told = event.state in ("raised", "updated") and event.source.topic != FeedbackEvent.topic
        asks = event.answering is not None and event.answering.asked == event.sequence
        if before is not None and event.source.topic != VitalsEvent.topic:
            severity, ward = before
            asks = asks and not another_ward(ward, event.location)  # which is asked without a score of its own
            told = told and (asks or event.severity != severity)
        if told and event.news2 is not None:
            found.append(event)
        before = event.severity, event.location
    return found or [event for event in life if known is None and event.news2 is not None][-1:]


def _go_by_what_was_told(patient: Patient, lives: Collection[Life]) -> None:
    """Where no set of a patient is left, let silence, and the end of the watch, go by what the alerts under way rest on."""
    for alert in patient.alerts.values():
        if alert.observed:
            patient.heard = max(patient.heard or 0, alert.observed)
    silence = patient.alerts.get("no-observations")
    if patient.heard is None and silence is not None:
        context = patient.context
        if context.encounter_status == "in-progress" and not context.outpatient:
            patient.awaited = silence.since
        else:
            patient.heard = silence.since
    scored = next((life[-1].news2 for life in lives if _stands(life) and life[0].kind == "news2"), None)
    if scored is not None:
        patient.band = band_of(scored)
