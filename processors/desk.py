"""The life of a patient's alerts: raised, updated, acknowledged, declined, escalated, resolved, withdrawn.

    nothing -- severity reached --> raised -- graver, or +update_rise points --> updated (somebody must answer anew)
    raised/updated -- feedback --> acknowledged (no more escalation) or declined (ends; suppressed for a while)
    acknowledged -- feedback that this was in error --> updated (somebody must answer anew); what was declined is over
    raised/updated -- nobody answers --> escalated, step by step up the chain
    any -- resolve_sets sets over resolve_after below the hysteresis --> resolved, or updated to a lower severity
    any -- what it rested on was wrong, or the patient was merged away --> withdrawn
    any -- discharge, death --> resolved;  transfer, ceiling of care --> updated with the new route

While something that scored when the alert was told is missing, it neither resolves nor sinks: missing data is no recovery.
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import timedelta

from processors import alerts
from processors.alerts import RANK, Alert
from processors.events import AlertEvent, AlertKind, AlertState, Deterioration, FeedbackEvent, News2, Severity, Source
from processors.identity import natural_id
from processors.partition import Partition
from processors.patients import Patient, ms, when
from processors.rules import MonitorRules

_MS = timedelta(milliseconds=1)
Corrections = Collection[tuple[str, int]]  # (parameter, when observed) of values that were replaced or taken back


@dataclass(slots=True)
class Cause:
    """What a step follows from. `key` makes a new alert's id; `now` is logged time (ms); the rest describes the newest set."""

    key: str
    source: Source
    now: int
    score_id: str | None = None
    observed: int = 0
    received: int = 0
    is_set: bool = False  # a set of observations: only those count towards calm

    @classmethod
    def about(cls, patient: Patient, key: str, source: Source, now: int) -> "Cause":
        """Make the cause of what follows, between batches, from a patient's current state."""
        return cls(key, source, now, patient.score_id, patient.newest or 0, patient.received)


class Desk:
    """Decides the steps of patients' alerts, by the rules; `partition` counts what was raised."""

    def __init__(self, rules: MonitorRules, partition: Partition) -> None:
        self._rules = rules
        self.partition = partition
        self._resolve_after = rules.resolve_after // _MS
        self._suppression = rules.suppression // _MS
        self._declined = rules.declined_suppression // _MS

    # ------------------------------------------------------------------------------------------------------------ NEWS2

    def consider(
        self,
        patient: Patient,
        score: News2 | None,
        cause: Cause,
        *,
        corrected: Corrections = (),
        because: str = "",
        only_corrections: bool = False,
    ) -> list[AlertEvent]:
        """Hold a patient's current NEWS2 against the alert there is or is not.

        `corrected` names values that proved wrong: an alert that rests on one follows the corrected score at once. `because` (a
        changed context, such as the SpO2 scale) does so too, without calling the alert wrong. `only_corrections`: the set is
        history, it may correct what was told and nothing else.
        """
        target = alerts.severity_of(score, self._rules)
        alert = patient.alerts.get("news2")
        was = patient.total
        wrong = [name for name, at in corrected if alert and alert.evidence.get(name) == at]
        if only_corrections and not wrong:
            return []
        if score is not None:
            patient.total = score.total
        if alert is None:
            if score is None or target is None or self.suppressed(patient, "news2", target, cause.now):
                return []
            return [self._raise_news2(patient, score, target, was, cause, because)]
        if wrong:
            reason = f"corrected or taken back: {', '.join(alerts.NAMES[name] for name in wrong)}"
            if target is None or score is None:
                return [self._end(patient, alert, "withdrawn", reason, cause, score, was)]
            if target != alert.severity or score.total != alert.total:
                return [self._update(patient, alert, score, target, was, cause, reason)]
            self._rest_on(alert, score)
            return []
        if score is None:
            return []
        if RANK[target or ""] > RANK[alert.severity]:
            assert target is not None
            return [self._update(patient, alert, score, target, was, cause, because or _reason(score, target))]
        return self._sink(patient, alert, score, was, cause, because)

    def _sink(
        self, patient: Patient, alert: Alert, score: News2, was: int | None, cause: Cause, because: str
    ) -> list[AlertEvent]:
        """Same severity or less: tell a marked rise, count calm, step down or resolve once it lasts."""
        rules = self._rules
        held = alerts.held_severity(score, alert.severity, rules)
        if held == alert.severity or alerts.missing_evidence(alert.evidence, score):
            alert.calm_sets = 0
            if held == alert.severity and score.total >= alert.total + rules.update_rise:
                reason = because or f"{score.total - alert.total} points more than last told"
                return [self._update(patient, alert, score, alert.severity, was, cause, reason)]
            return []
        if cause.is_set:
            alert.calm_sets += 1
            if alert.calm_sets == 1 or cause.observed < alert.calm_since:  # or a clock was wrong then
                alert.calm_since = cause.observed
        lasting = alert.calm_sets >= rules.resolve_sets and cause.observed - alert.calm_since >= self._resolve_after
        if not (lasting or because):
            return []
        reason = because or f"below the threshold for {alert.calm_sets} sets"
        if held is None:
            patient.closed["news2"] = (alert.severity, cause.now + self._suppression)
            return [self._end(patient, alert, "resolved", reason, cause, score, was)]
        return [self._update(patient, alert, score, held, was, cause, reason)]

    def _raise_news2(
        self, patient: Patient, score: News2, severity: Severity, was: int | None, cause: Cause, because: str
    ) -> AlertEvent:
        alert = self.open(patient, "news2", severity, cause)
        self._rest_on(alert, score)
        reason = because or _reason(score, severity)
        return self.step(patient, alert, "raised", reason, cause, score=score, was=was)

    def _update(
        self, patient: Patient, alert: Alert, score: News2, severity: Severity, was: int | None, cause: Cause, reason: str
    ) -> AlertEvent:
        graver = RANK[severity] > RANK[alert.severity] or (severity == alert.severity and score.total > alert.total)
        alert.severity = severity
        self._rest_on(alert, score)
        if graver or alert.waiting_since is not None:
            self._place(patient, alert, cause.now)
        return self.step(patient, alert, "updated", reason, cause, score=score, was=was)

    @staticmethod
    def _rest_on(alert: Alert, score: News2) -> None:
        alert.total = score.total
        alert.evidence = {one.name: ms(one.observed_at) for one in score.parameters if one.points}
        alert.calm_sets = 0

    # -------------------------------------------------------------------------------------------------------- the model

    def consider_model(self, patient: Patient, answer: Deterioration, score: News2 | None, cause: Cause) -> list[AlertEvent]:
        """Let the model page, where the site has turned that on."""
        rules = self._rules
        alert = patient.alerts.get("deterioration")
        if alert is None:
            if answer.probability < rules.model_threshold:
                return []
            if self.suppressed(patient, "deterioration", rules.model_severity, cause.now):
                return []
            alert = self.open(patient, "deterioration", rules.model_severity, cause)
            alert.text = alerts.model_title(answer, rules.model_threshold)
            detail = alerts.model_detail(answer)
            reason = "the model's score reached the site's threshold"
            return [self.step(patient, alert, "raised", reason, cause, score=score, detail=detail)]
        if answer.probability >= rules.model_threshold * (1 - rules.model_hysteresis):
            alert.calm_sets = 0
            return []
        alert.calm_sets += 1
        if alert.calm_sets == 1 or cause.observed < alert.calm_since:  # or a clock was wrong then
            alert.calm_since = cause.observed
        if alert.calm_sets < rules.resolve_sets or cause.observed - alert.calm_since < self._resolve_after:
            return []
        patient.closed["deterioration"] = (alert.severity, cause.now + self._suppression)
        alert.text = alerts.model_title(answer, rules.model_threshold)
        reason = f"below the threshold for {alert.calm_sets} sets"
        return [self._end(patient, alert, "resolved", reason, cause, score, None)]

    # ----------------------------------------------------------------------------------------------------------- silence

    def silent(self, patient: Patient, severity: Severity, limit: int, cause: Cause) -> list[AlertEvent]:
        """Say that nothing is heard of a patient."""
        if "no-observations" in patient.alerts or self.suppressed(patient, "no-observations", severity, cause.now):
            return []
        alert = self.open(patient, "no-observations", severity, cause)
        alert.since, alert.until = patient.heard or 0, limit
        reason = f"nothing within {alerts.hours_and_minutes(limit)}"
        sampled = max((kept[-1][0] for kept in patient.history.samples.values()), default=0)
        if sampled > alert.since:
            reason += f" but single samples of an unvalidated stream, the last at {when(sampled):%H:%M} UTC"
        return [self.step(patient, alert, "raised", reason, cause)]

    def heard(self, patient: Patient, cause: Cause) -> list[AlertEvent]:
        """End the silence. It resolves nothing but itself."""
        alert = patient.alerts.get("no-observations")
        if alert is None:
            return []
        alert.text = f"Observed again after {alerts.hours_and_minutes(cause.now - alert.since)}"
        return [self._end(patient, alert, "resolved", "observations resumed", cause, None, None)]

    # ------------------------------------------------------------------------------------------------ people and context

    def answer(self, patient: Patient, event: FeedbackEvent, cause: Cause, score: News2 | None) -> list[AlertEvent] | None:
        """Take an answer; None when there is nothing that it could be about (never raised, over, or answered the same way)."""
        alert = next((one for one in patient.alerts.values() if one.id == event.target_id), None)
        if alert is None or (event.kind == "alert-acknowledged" and alert.state == "acknowledged"):
            return None
        if event.kind == "alert-answer-retracted":
            if alert.waiting_since is not None:  # nobody has answered, or it got graver since
                return None
            self._place(patient, alert, cause.now)
            reason = alerts.retracted(event.reason)
            return [self.step(patient, alert, "updated", reason, cause, score=score, by=event.by)]
        if event.kind == "alert-acknowledged":
            alert.waiting_since = None
            return [self.step(patient, alert, "acknowledged", event.reason, cause, score=score, by=event.by)]
        patient.closed[alert.kind] = (alert.severity, cause.now + self._declined)
        return [self._end(patient, alert, "declined", event.reason, cause, score, None, by=event.by)]

    def reroute(self, patient: Patient, reason: str, cause: Cause, score: News2 | None) -> list[AlertEvent]:
        """Tell the alerts' new place or policy; those that wait for an answer wait anew, there."""
        steps = []
        for alert in self.standing(patient):
            self._place(patient, alert, cause.now if alert.waiting_since is not None else None)
            steps.append(self.step(patient, alert, "updated", reason, cause, score=score))
        return steps

    def close(
        self,
        patient: Patient,
        state: AlertState,
        reason: str,
        cause: Cause,
        *,
        kinds: Collection[str] = (),
        score: News2 | None = None,
    ) -> list[AlertEvent]:
        """End all alerts of a patient, or those of some kinds."""
        chosen = [alert for alert in self.standing(patient) if not kinds or alert.kind in kinds]
        return [self._end(patient, alert, state, reason, cause, score, None) for alert in chosen]

    def escalate(self, patient: Patient, cause: Cause, score: News2 | None) -> list[AlertEvent]:
        """Climb the chain as far as time has passed without an answer."""
        steps = []
        for alert in self.standing(patient):
            chain = self._rules.escalation.get(alert.severity, ())
            while (
                alert.waiting_since is not None
                and alert.step < len(chain)
                and cause.now - alert.waiting_since >= chain[alert.step].after // _MS
            ):
                link = chain[alert.step]
                alert.step += 1
                alert.route = link.route
                reason = f"no answer for {alerts.hours_and_minutes(cause.now - alert.waiting_since)}"
                steps.append(self.step(patient, alert, "escalated", reason, cause, score=score))
        return steps

    def next_escalation(self, alert: Alert) -> int | None:
        """Return when an alert climbs next (logged, ms), if nobody answers."""
        chain = self._rules.escalation.get(alert.severity, ())
        if alert.waiting_since is None or alert.step >= len(chain):
            return None
        return alert.waiting_since + chain[alert.step].after // _MS

    # -------------------------------------------------------------------------------------------------------- the steps

    def suppressed(self, patient: Patient, kind: str, severity: Severity, now: int) -> bool:
        """Tell whether a like alert ended so lately that this one must wait; a graver one never waits."""
        ended = patient.closed.get(kind)
        return ended is not None and now < ended[1] and RANK[severity] <= RANK[ended[0]]

    @staticmethod
    def standing(patient: Patient) -> Iterable[Alert]:
        """Return the alerts under way, in an order that does not depend on how the state came about."""
        return [patient.alerts[kind] for kind in sorted(patient.alerts)]

    def open(self, patient: Patient, kind: AlertKind, severity: Severity, cause: Cause) -> Alert:
        """Begin an alert; the caller words and steps it."""
        alert = Alert(natural_id("alert", patient.id, kind, cause.key), kind, severity)
        patient.closed.pop(kind, None)
        patient.alerts[kind] = alert
        ward = patient.context.location.ward
        pages = kind in ("news2", "deterioration")
        alert.quiet = pages and self.partition.alerts_of(ward) >= self._rules.ward_budget
        self._place(patient, alert, cause.now)
        if pages:
            self.partition.count_alert(ward, cause.now)
        return alert

    def _place(self, patient: Patient, alert: Alert, waiting: int | None) -> None:
        """Route an alert by the patient's ceiling of care, the budget, the ward; and wait for an answer since `waiting`."""
        rules, context = self._rules, patient.context
        alert.step = 0
        alert.waiting_since = waiting
        policy = rules.ceilings.get(context.ceiling) if context.ceiling else None
        alert.quiet = alert.quiet and policy is None and RANK[alert.severity] <= RANK["low-medium"]
        if policy is not None:
            alert.route = policy.route
            if not policy.escalates:
                alert.waiting_since = None
        elif alert.quiet:
            alert.route, alert.waiting_since = rules.quiet_route, None
        else:
            alert.route = rules.ward_routes.get(context.location.ward, rules.default_route)

    def _end(
        self,
        patient: Patient,
        alert: Alert,
        state: AlertState,
        reason: str,
        cause: Cause,
        score: News2 | None,
        was: int | None,
        *,
        by: str = "",
    ) -> AlertEvent:
        del patient.alerts[alert.kind]
        return self.step(patient, alert, state, reason, cause, score=score, was=was, by=by)

    def step(
        self,
        patient: Patient,
        alert: Alert,
        state: AlertState,
        reason: str,
        cause: Cause,
        *,
        score: News2 | None = None,
        was: int | None = None,
        detail: str = "",
        by: str = "",
    ) -> AlertEvent:
        """Take the next step in an alert's life and word it."""
        alert.state = state
        alert.sequence += 1
        if alert.route not in alert.routes:
            alert.routes += (alert.route,)
        if cause.score_id:
            alert.score_id, alert.observed, alert.received = cause.score_id, cause.observed, cause.received
        context = patient.context
        if alert.kind == "news2":
            title = alerts.news2_title(score, was) if score else f"NEWS2 {alert.total}"
            now = alerts.severity_of(score, self._rules)
            detail = alerts.news2_detail(score, state, alert.severity, now, told=alert.total, ceiling=context.ceiling)
        elif alert.kind == "deterioration":
            title, detail = alert.text, detail or alerts.resting_detail(state)
        else:
            title = alert.text or f"No observations for {alerts.hours_and_minutes(cause.now - alert.since)}"
            since, limit = f"{when(alert.since):%Y-%m-%d %H:%M} UTC", alerts.hours_and_minutes(alert.until)
            detail = f"{alerts.outcome(state)}No observation that counts came within {limit} after {since}."
        if alert.quiet:
            detail = f"{detail} Sent to the quiet route: the ward's budget of alerts is used up.".strip()
        return AlertEvent(
            id=natural_id(alert.id, alert.sequence),
            patient_id=patient.id,
            source=cause.source,
            alert_id=alert.id,
            sequence=alert.sequence,
            kind=alert.kind,
            state=state,
            severity=alert.severity,
            title=title,
            detail=detail,
            reason=reason,
            encounter_id=context.encounter_id,
            location=context.location,
            route=alert.route,
            routes=alert.routes,
            score_id=alert.score_id,
            news2=score if alert.kind in ("news2", "deterioration") else None,
            observed_at=when(alert.observed or alert.since),
            received_at=when(alert.received or alert.since),
            decided_at=when(cause.now),
            by=by,
        )


def _reason(score: News2, severity: Severity) -> str:
    return "a single parameter scores 3" if severity == "low-medium" else f"total reached {score.total}"
