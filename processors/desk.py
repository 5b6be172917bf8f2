"""The life of a patient's alerts: raised, updated, acknowledged, declined, escalated, resolved, withdrawn.

    nothing -- severity reached --> raised -- graver, +update_rise points, or another single 3 --> updated (to be answered anew)
    raised/updated, unanswered -- graver --> updated; it goes on to climb where it was: getting worse puts no link of the chain off
    raised/updated -- feedback --> acknowledged (no more escalation) or declined (ends; suppressed for a while)
    acknowledged -- feedback that this was in error --> updated (somebody must answer anew); what was declined is over
    high, unanswered -- declined with links of the chain left --> escalated at once: one who declines ends no emergency
    any that a mistake ended -- what ended it proves wrong, or is lifted, and it holds --> raised anew, however old its set is
    raised/updated -- nobody answers --> escalated, step by step up the chain, its last link again and again
    acknowledged -- acknowledged_for is over and it still holds --> updated (to be answered anew)
    any -- resolve_sets sets over resolve_after below the hysteresis --> resolved, or updated to a lower severity
    any -- what it rested on was wrong, or the patient was merged away --> withdrawn
    any -- discharge, death --> resolved;  transfer, ceiling of care --> updated with the new route; another ward is asked anew

While something that scored when the alert was told is missing, it neither resolves nor sinks: missing data is no recovery.
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import get_args

from processors import alerts
from processors.alerts import RANK, Alert
from processors.events import (
    AlertEvent,
    AlertKind,
    AlertState,
    Answering,
    Deterioration,
    FeedbackEvent,
    Location,
    News2,
    Severity,
    Source,
)
from processors.identity import natural_id
from processors.partition import Partition
from processors.patients import Closed, Context, Patient, ms, when
from processors.rules import EscalationStep, MonitorRules

_MS = timedelta(milliseconds=1)
AFTER_END: AlertKind = "observed-after-end"
PAGING: tuple[AlertKind, ...] = ("news2", "deterioration")  # by what was measured: these use up a ward's budget
_DAY = timedelta(days=1) // _MS
_SHARE, _LEAST_SHARE = 4, 3  # of a ward's budget one patient uses at most a quarter, or three alerts
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
        self._grace = rules.observed_after_end // _MS
        self._share = max(_LEAST_SHARE, rules.ward_budget // _SHARE)
        self._repeat_last = {one: getattr(rules.repeat_last, one, timedelta()) // _MS for one in get_args(Severity)}
        self._acknowledged_for = {one: getattr(rules.acknowledged_for, one, timedelta()) // _MS for one in get_args(Severity)}

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
        changed context, such as the SpO2 scale) does so too, without calling the alert wrong. `only_corrections`: what is known is
        too old to alert: it may correct what was told, bring back what a mistake ended, and nothing else.
        """
        target = alerts.severity_of(score, self._rules)
        alert = patient.alerts.get("news2")
        was = patient.total
        wrong = [name for name, at in corrected if alert and alert.evidence.get(name) == at]
        again = self._stand_again(patient, score, target, corrected, cause, is_set=cause.is_set and not only_corrections)
        if again or (only_corrections and not wrong):
            return again
        if score is not None:
            patient.total = score.total
        if alert is None:
            if score is None or target is None or self.suppressed(patient, "news2", target, cause.now, score):
                return []
            return [self._raise_news2(patient, score, target, was, cause, because)]
        if wrong:
            reason = f"corrected or taken back: {', '.join(alerts.NAMES[name] for name in wrong)}"
            if target is None or score is None:
                since = min(at for name, at in corrected if name in wrong)
                self.shut(patient, alert, "what ended it was corrected or taken back", since)
                return [self._end(patient, alert, "withdrawn", reason, cause, score, was)]
            if target != alert.severity or score.total != alert.total or self._new_threes(alert, score):
                return [self._update(patient, alert, score, target, was, cause, reason)]
            self._rest_on(patient, alert, score, cause.now)
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
        """Same severity or less: tell a marked rise or another single 3, count calm, step down or resolve once it lasts."""
        rules = self._rules
        if score.total >= alert.total + rules.update_rise:
            reason = because or f"{score.total - alert.total} points more than last told"
            return [self._update(patient, alert, score, alert.severity, was, cause, reason)]
        if new := self._new_threes(alert, score):
            reason = because or f"{', '.join(alerts.NAMES[name] for name in new)} at 3, not so when last told"
            return [self._update(patient, alert, score, alert.severity, was, cause, reason)]
        if self._still_holds(alert, score):
            alert.calm_sets = 0
            return []
        if cause.is_set:
            alert.calm_sets += 1
            if alert.calm_sets == 1 or cause.observed < alert.calm_since:  # or a clock was wrong then
                alert.calm_since = cause.observed
        lasting = alert.calm_sets >= rules.resolve_sets and cause.observed - alert.calm_since >= self._resolve_after
        if not (lasting or because):
            return []
        reason = because or f"below the threshold for {alert.calm_sets} sets"
        held = self._held(alert, score)
        if held is None:
            self.shut(patient, alert, "what ended it was corrected or taken back", alert.calm_since or cause.observed)
            self._hold_back(patient, alert, cause.now + self._suppression)
            return [self._end(patient, alert, "resolved", reason, cause, score, was)]
        return [self._update(patient, alert, score, held, was, cause, reason)]

    @staticmethod
    def shut(patient: Patient, alert: Alert, text: str, since: int = 0, stay: str = "") -> None:
        """Keep what ended, for when its end proves wrong: values observed at `since` or later ended it; 0: the stay's context did.

        `text`: what is to be said of that end then.
        """
        kept = Alert(alert.id, alert.kind, alert.severity, route=alert.route, routes=alert.routes)
        kept.total, kept.evidence, kept.threes = alert.total, alert.evidence, alert.threes
        kept.since, kept.about, kept.text = since, stay, f"stands again: {text}"
        patient.shut[alert.kind] = kept

    @staticmethod
    def moved(patient: Patient, severity: Severity) -> None:
        """Take over that an alert by NEWS2 stood under a record that was merged into the patient's."""
        if "news2" not in patient.alerts:
            stood = Alert("", "news2", severity, text="stood under the record that was merged into this one")
            stood.routes = (stood.route,)
            patient.shut["news2"] = stood

    def doubt(self, patient: Patient, corrected: Corrections) -> None:
        """Take note of values that proved wrong: they may have ended an alert."""
        kept = patient.shut.get("news2")
        if kept is not None and kept.since and any(at >= kept.since for _, at in corrected):
            kept.since = 0

    def _stand_again(
        self,
        patient: Patient,
        score: News2 | None,
        target: Severity | None,
        corrected: Corrections,
        cause: Cause,
        *,
        is_set: bool,
    ) -> list[AlertEvent]:
        """Raise anew what a mistake ended, where the current score holds it: of what was told before no age is too great.

        While a backlog or a queue may bring newer sets it waits for them. A set that does not hold it (`is_set`) ends it for good.
        """
        if corrected:
            self.doubt(patient, corrected)
        kept = patient.shut.get("news2")
        if kept is None or kept.since or "news2" in patient.alerts:
            return []
        if self.partition.woke_at is not None or patient.unsettled:
            patient.unsettled = True
            return []
        if kept.about and patient.encounter_id not in (None, kept.about):  # of another stay
            del patient.shut["news2"]
            return []
        if score is None:
            return []
        found = kept.severity if self._still_holds(kept, score) else self._held(kept, score)
        if RANK[found or ""] < RANK[target or ""]:
            found = target
        if found is None:
            if is_set:
                del patient.shut["news2"]
            return []
        was, patient.total = patient.total, score.total
        return [self._raise_news2(patient, score, found, was, cause, kept.text)]

    def _raise_news2(
        self, patient: Patient, score: News2, severity: Severity, was: int | None, cause: Cause, because: str
    ) -> AlertEvent:
        alert = self.open(patient, "news2", severity, cause, score)
        self._rest_on(patient, alert, score, cause.now)
        reason = because or _reason(score, severity)
        return self.step(patient, alert, "raised", reason, cause, score=score, was=was)

    def _update(
        self, patient: Patient, alert: Alert, score: News2, severity: Severity, was: int | None, cause: Cause, reason: str
    ) -> AlertEvent:
        graver = RANK[severity] > RANK[alert.severity] or (severity == alert.severity and score.total > alert.total)
        graver = graver or bool(self._new_threes(alert, score))
        self._grade(alert, severity, cause.now)
        alert.quiet = alert.quiet and not (graver and self._unheard_of(patient, score, cause.now))
        self._rest_on(patient, alert, score, cause.now)
        if graver:
            self._ask_anew(patient, alert, cause.now)
        return self.step(patient, alert, "updated", reason, cause, score=score, was=was)

    def _rest_on(self, patient: Patient, alert: Alert, score: News2, now: int) -> None:
        alert.total = score.total
        alert.evidence = _evidence(score)
        alert.threes = alerts.threes(score, alert.threes or (), self._rules)
        alert.calm_sets = 0
        for one in score.parameters:
            if one.points == 3:
                patient.threes[one.name] = now

    def _new_threes(self, alert: Alert, score: News2) -> list[str]:
        return alerts.new_threes(score, alert.evidence if alert.threes is None else alert.threes, self._rules)

    def _unheard_of(self, patient: Patient, score: News2, now: int) -> bool:
        """Tell whether a parameter scores 3 that nobody was told of within a day: no budget is a reason not to page for that."""
        told = [name for name, at in patient.threes.items() if now - at < _DAY]
        return bool(alerts.new_threes(score, told, self._rules))

    def _ask_anew(self, patient: Patient, alert: Alert, now: int) -> None:
        """Wait for an answer to the step that follows; none of before counts.

        Where nobody had answered, the clock runs on and the step that was reached stands: whoever was told hears of this too, or
        where only the first was told, whom the settings name now.
        """
        alert.asked, alert.asked_at = alert.sequence + 1, now
        if alert.waiting_since is None:
            self._begin(patient, alert, now)
        elif not alert.escalated_at:
            alert.route, climbs = self._first(alert, patient.context)
            alert.waiting_since = alert.waiting_since if climbs else None

    def _grade(self, alert: Alert, severity: Severity, now: int) -> None:
        """Give an alert another severity: of its chain those links count as told that were, by the one before.

        Who was not waited for at all, since the severity before has no chain, is from now on.
        """
        before = self._chain(alert)
        alert.severity = severity
        chain = self._chain(alert)
        if chain == before:
            return
        told = {link.route for link in before[: alert.step]}
        alert.step = next((place for place, link in enumerate(chain) if link.route not in told), len(chain))
        if not before and alert.waiting_since is not None:
            alert.waiting_since = now

    def _held(self, alert: Alert, score: News2) -> Severity | None:
        return alerts.held_severity(score, alert.severity, self._rules, alert.threes or ())

    def _still_holds(self, alert: Alert, score: News2) -> bool:
        return self._held(alert, score) == alert.severity or bool(alerts.missing_evidence(alert.evidence, score))

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
        self._hold_back(patient, alert, cause.now + self._suppression)
        alert.text = alerts.model_title(answer, rules.model_threshold)
        reason = f"below the threshold for {alert.calm_sets} sets"
        return [self._end(patient, alert, "resolved", reason, cause, score, None)]

    # ----------------------------------------------------------------------------------------------------------- silence

    def silent(self, patient: Patient, severity: Severity, limit: int, cause: Cause) -> list[AlertEvent]:
        """Say that nothing is heard of a patient; and anew where what is known by now makes that graver."""
        alert = patient.alerts.get("no-observations")
        state: AlertState = "raised" if alert is None else "updated"
        if alert is None:
            if self.suppressed(patient, "no-observations", severity, cause.now):
                return []
            alert = self.open(patient, "no-observations", severity, cause)
        elif RANK[severity] <= RANK[alert.severity]:
            return []
        else:
            self._grade(alert, severity, cause.now)
            self._ask_anew(patient, alert, cause.now)
        alert.since, alert.until = patient.silent_since or 0, limit
        reason = f"nothing within {alerts.hours_and_minutes(limit)}{'' if patient.heard else ' of the admission'}"
        sampled = max((kept[-1][0] for kept in patient.history.samples.values()), default=0)
        if sampled > alert.since:
            reason += f" but single samples of an unvalidated stream, the last at {when(sampled):%H:%M} UTC"
        return [self.step(patient, alert, state, reason, cause)]

    def heard(self, patient: Patient, cause: Cause) -> list[AlertEvent]:
        """End the silence. It resolves nothing but itself."""
        alert = patient.alerts.get("no-observations")
        if alert is None:
            return []
        alert.text = f"Observed again after {alerts.hours_and_minutes(cause.now - alert.since)}"
        self._hold_back(patient, alert, cause.now + self._suppression)
        return [self._end(patient, alert, "resolved", "observations resumed", cause, None, None)]

    # -------------------------------------------------------------------------------------------- after the watch is over

    def after_end(self, patient: Patient, ended: str, observed: int, score: News2 | None, cause: Cause) -> list[AlertEvent]:
        """Say that a patient whose watch is over goes on being observed: once, and anew where it is graver than was told.

        No score of such a patient alerts; so where it would urgently, this climbs the chain until somebody answers.
        """
        since = patient.ended_at
        urgent = RANK[alerts.severity_of(score, self._rules) or ""] >= RANK["medium"]
        severity: Severity = "medium" if urgent else "information"
        if since is None or observed - since < self._grace or RANK[severity] <= RANK[patient.after_end or ""]:
            return []
        patient.after_end = severity
        alert = patient.alerts.get(AFTER_END)
        state: AlertState = "raised" if alert is None else "updated"
        if alert is None:
            alert = self.open(patient, AFTER_END, severity, cause)
        else:
            self._grade(alert, severity, cause.now)
            self._ask_anew(patient, alert, cause.now)
        alert.since, alert.about = since, ended
        alert.text = alerts.after_end_title(ended, observed - since, score)
        return [self.step(patient, alert, state, "graver than told" if state == "updated" else ended, cause, score=score)]

    def watched_again(self, patient: Patient, cause: Cause) -> list[AlertEvent]:
        """End what `after_end` told."""
        patient.after_end = None
        return self.close(patient, "resolved", "watched again", cause, kinds=(AFTER_END,))

    # ------------------------------------------------------------------------------------------------ people and context

    def answer(self, patient: Patient, event: FeedbackEvent, cause: Cause, score: News2 | None) -> list[AlertEvent] | None:
        """Take an answer; None when there is nothing that it could be about (never raised, over, answered so, no such step).

        One that was given before the alert had to be answered anew is about what was told before: it is noted and changes nothing.
        So is one that comes to the lane when what it asks for is over (redriven, or after an outage).
        """
        alert = next((one for one in patient.alerts.values() if one.id == event.target_id), None)
        if alert is None or (event.kind == "alert-acknowledged" and alert.state == "acknowledged"):
            return None
        if event.sequence is not None and event.sequence > alert.sequence:  # nobody was told such a step
            return None
        if event.kind == "alert-answer-retracted":
            if alert.waiting_since is not None:  # nobody has answered, or it got graver since
                return None
            self._ask_anew(patient, alert, cause.now)
            reason = alerts.retracted(event.reason)
            return [self.step(patient, alert, "updated", reason, cause, score=score, by=event.by)]
        said = f"{event.kind.removeprefix('alert-')}: {event.reason}".removesuffix(": ")
        # It holds from when it came, not from when a redrive or the end of an outage brings it to the lane.
        came = min(ms(event.received_at), cause.now)
        lasts = self._declined if event.kind == "alert-declined" else self._acknowledged_for[alert.severity]
        outdated, expired = _is_outdated(event, alert), lasts and came + lasts <= cause.now
        if outdated or expired:
            why = "answers what was told before" if outdated else f"came {alerts.hours_and_minutes(cause.now - came)} ago"
            state: AlertState = "updated" if alert.state == "raised" else alert.state  # an alert is raised once
            return [self.step(patient, alert, state, f"noted, {why}; {said}", cause, score=score, by=event.by)]
        if event.kind == "alert-acknowledged":
            alert.waiting_since, alert.acknowledged_at = None, came
            return [self.step(patient, alert, "acknowledged", event.reason, cause, score=score, by=event.by)]
        if alert.severity == "high" and alert.waiting_since is not None and alert.step < len(self._chain(alert)):
            return [self._climb(patient, alert, f"passed on; {said}", cause, score, by=event.by)]
        # From now: a set that comes again while it may alert (`staleness`) must not begin the same alert again.
        self._hold_back(patient, alert, cause.now + self._declined, declined=True)
        return [self._end(patient, alert, "declined", event.reason, cause, score, None, by=event.by)]

    def reroute(self, patient: Patient, before: Context, reason: str, cause: Cause, score: News2 | None) -> list[AlertEvent]:
        """Tell the alerts' new place or policy, other than `before`.

        Another ward is asked from its first step, whatever the one before has answered, and so is the ward where a ceiling of care
        kept it from being asked. Within a ward, or where it is not known, the clock runs on and an answer holds: a bed that flips
        must not put the emergency team off.
        """
        steps, after = [], patient.context
        elsewhere = another_ward(before.location, after.location)
        for alert in self.standing(patient):
            if elsewhere:
                alert.asked, alert.asked_at = alert.sequence + 1, cause.now
            if elsewhere or (alert.acknowledged_at is None and alert.waiting_since is None):
                self._begin(patient, alert, cause.now)
            else:
                was, (route, climbs) = self._first(alert, before), self._first(alert, after)
                if (route, climbs) != was:
                    alert.route = route
                if not climbs:
                    alert.waiting_since = None
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
        but: str = "",
        score: News2 | None = None,
    ) -> list[AlertEvent]:
        """End all alerts of a patient, or those of some kinds, or all `but` those of one."""
        chosen = [alert for alert in self.standing(patient) if alert.kind != but and (not kinds or alert.kind in kinds)]
        for alert in chosen:
            if alert.kind == "news2":
                self.shut(patient, alert, f"what ended it holds no more ({reason})", stay=patient.encounter_id or "")
        return [self._end(patient, alert, state, reason, cause, score, None) for alert in chosen]

    def escalate(self, patient: Patient, cause: Cause, score: News2 | None) -> list[AlertEvent]:
        """Climb the chain as far as time has passed without an answer."""
        steps = []
        for alert in self.standing(patient):
            while alert.waiting_since is not None and (due := self.next_escalation(alert)) is not None and due <= cause.now:
                reason = f"no answer for {alerts.hours_and_minutes(cause.now - alert.waiting_since)}"
                steps.append(self._climb(patient, alert, reason, cause, score))
        return steps

    def _climb(
        self, patient: Patient, alert: Alert, reason: str, cause: Cause, score: News2 | None, *, by: str = ""
    ) -> AlertEvent:
        """Tell the next link of the chain, or the last one again."""
        chain = self._chain(alert)
        alert.step = min(alert.step + 1, len(chain))
        alert.route, alert.escalated_at = chain[alert.step - 1].route, cause.now
        return self.step(patient, alert, "escalated", reason, cause, score=score, by=by)

    def _chain(self, alert: Alert) -> tuple[EscalationStep, ...]:
        return self._rules.escalation.get(alert.severity, ())

    def next_escalation(self, alert: Alert) -> int | None:
        """Return when an alert climbs next, or its last link is told again (logged, ms), if nobody answers; in a calm not again."""
        chain, again = self._chain(alert), self._repeat_last[alert.severity]
        if alert.waiting_since is None or not chain:
            return None
        if alert.step < len(chain):
            return alert.waiting_since + chain[alert.step].after // _MS
        if not again or alert.calm_sets:
            return None
        return (alert.escalated_at or alert.waiting_since + chain[-1].after // _MS) + again

    def renew(self, patient: Patient, cause: Cause, score: News2 | None) -> list[AlertEvent]:
        """Ask anew where an acknowledgement has run out and what it was about goes on. `score`: the current one, if recent."""
        steps = []
        for alert in self.standing(patient):
            due = self.next_renewal(patient, alert)
            if due is None or due > cause.now or alert.acknowledged_at is None:
                continue
            reason = f"acknowledged {alerts.hours_and_minutes(cause.now - alert.acknowledged_at)} ago, and it goes on"
            if alert.kind == "news2":
                if score is None or not self._still_holds(alert, score):
                    continue
                self._rest_on(patient, alert, score, cause.now)
            self._ask_anew(patient, alert, cause.now)
            steps.append(self.step(patient, alert, "updated", reason, cause, score=score))
        return steps

    def next_renewal(self, patient: Patient, alert: Alert) -> int | None:
        """Return when an alert's acknowledgement runs out (logged, ms). The model's never does: its figure is not kept."""
        lasts = self._acknowledged_for[alert.severity]
        policy = self._rules.ceilings.get(patient.context.ceiling)
        exempt = alert.kind == "deterioration" or (policy is not None and not policy.escalates)
        return None if alert.acknowledged_at is None or exempt or not lasts else alert.acknowledged_at + lasts

    # -------------------------------------------------------------------------------------------------------- the steps

    def suppressed(self, patient: Patient, kind: str, severity: Severity, now: int, score: News2 | None = None) -> bool:
        """Tell whether a like alert ended so lately that this one must wait.

        A graver one never waits: by severity, by `update_rise`, or by another single 3. Nor does an emergency that nobody declined.
        """
        over = patient.closed.get(kind)
        if over is None or now >= over.until or RANK[severity] > RANK[over.severity]:
            return False
        if severity == "high" and not over.declined:
            return False
        return score is None or not (
            score.total >= over.total + self._rules.update_rise or alerts.new_threes(score, over.threes, self._rules)
        )

    @staticmethod
    def _hold_back(patient: Patient, alert: Alert, until: int, *, declined: bool = False) -> None:
        """Let an alert that ends hold like ones back until then."""
        patient.closed[alert.kind] = Closed(alert.severity, until, alert.total, alert.threes or (), declined)

    @staticmethod
    def standing(patient: Patient) -> Iterable[Alert]:
        """Return the alerts under way, in an order that does not depend on how the state came about."""
        return [patient.alerts[kind] for kind in sorted(patient.alerts)]

    def open(self, patient: Patient, kind: AlertKind, severity: Severity, cause: Cause, score: News2 | None = None) -> Alert:
        """Begin an alert; the caller words and steps it. `score` is what it rests on, where it is NEWS2."""
        alert_id = natural_id("alert", patient.id, kind, cause.key)
        while alert_id in self.partition.raised:
            alert_id = natural_id(alert_id, "again")
        alert = Alert(alert_id, kind, severity)
        patient.closed.pop(kind, None)
        patient.shut.pop(kind, None)
        patient.alerts[kind] = alert
        if kind in PAGING:
            spent = self.count(patient, patient.context.location.ward_names[0], cause.now)
            alert.quiet = spent and not (score is not None and self._unheard_of(patient, score, cause.now))
        self._begin(patient, alert, cause.now)
        return alert

    def count(self, patient: Patient, ward: str, now: int) -> bool:
        """Count an alert as raised; tell whether the ward's budget, or the patient's share of it, was used up by those before."""
        lately = [at for at in patient.raised if now - at < _DAY]
        beyond = len(lately) >= self._share
        spent = beyond or self.partition.alerts_of(ward) >= self._rules.ward_budget
        self.partition.count_alert(ward, now, beyond=beyond)
        patient.raised = [*lately, now][-self._share :]
        return spent

    def _begin(self, patient: Patient, alert: Alert, now: int) -> None:
        """Ask from the first step, since `now`, where anybody is waited for."""
        alert.step = alert.escalated_at = 0
        alert.acknowledged_at = None
        alert.route, climbs = self._first(alert, patient.context)
        alert.waiting_since = now if climbs else None

    def _first(self, alert: Alert, context: Context) -> tuple[str, bool]:
        """Return whom the first step is for, and whether it climbs: by the ceiling of care, the budget, the ward."""
        rules = self._rules
        policy = rules.ceilings.get(context.ceiling) if context.ceiling else None
        alert.quiet = alert.quiet and policy is None and RANK[alert.severity] <= RANK["low-medium"]
        if policy is not None:
            return policy.route, policy.escalates
        if alert.quiet:
            return rules.quiet_route, False
        routes = rules.ward_routes
        return next((routes[name] for name in context.location.ward_names if name in routes), rules.default_route), True

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
        if cause.score_id and alert.kind != "no-observations":  # that one rests on nothing that was measured
            alert.score_id, alert.observed, alert.received = cause.score_id, cause.observed, cause.received
        context = patient.context
        if alert.kind == "news2":
            title, detail = self._news2_words(alert, score, was, when(cause.now), context.ceiling)
        elif alert.kind == "deterioration":
            title, detail = alert.text, detail or alerts.resting_detail(state)
        elif alert.kind == AFTER_END:
            title, detail = alert.text, alerts.after_end_detail(state, alert.about, when(alert.since))
        else:
            title = alert.text or f"No observations for {alerts.hours_and_minutes(cause.now - alert.since)}"
            since, limit = f"{when(alert.since):%Y-%m-%d %H:%M} UTC", alerts.hours_and_minutes(alert.until)
            detail = f"{alerts.outcome(state)}No observation that counts came within {limit} after {since}."
        if alert.quiet:
            detail = f"{detail} Sent to the quiet route: the ward's budget of alerts, or the patient's, is used up.".strip()
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
            news2=score if alert.kind != "no-observations" else None,
            observed_at=when(alert.observed or alert.since),
            received_at=when(alert.received or alert.since),
            decided_at=when(cause.now),
            by=by,
            answering=self._answering(patient, alert),
        )

    def _news2_words(self, alert: Alert, score: News2 | None, was: int | None, now: datetime, ceiling: str) -> tuple[str, str]:
        """Word title and detail of a step; `score` is the current one, which may be milder than what the alert stands for."""
        stands = alerts.severity_of(score, self._rules)
        told = alerts.told(alert, when(max(alert.evidence.values(), default=alert.observed)), now)
        milder = alert.state not in alerts.OVER and RANK[stands or ""] < RANK[alert.severity]
        graver = milder and score is not None and _evidence(score) != alert.evidence
        title = told if score is None else alerts.news2_title(score, was, now, told if graver else "")
        detail = alerts.news2_detail(score, alert.state, alert.severity, stands, now, told=told, graver=graver, ceiling=ceiling)
        return title, detail

    @staticmethod
    def _answering(patient: Patient, alert: Alert) -> Answering:
        over = alert.state in alerts.OVER
        held = patient.closed.get(alert.kind) if over else None
        return Answering(
            waiting_since=None if over or alert.waiting_since is None else when(alert.waiting_since),
            links=alert.step,
            escalated_at=when(alert.escalated_at) if alert.escalated_at else None,
            asked=alert.asked,
            asked_at=when(alert.asked_at) if alert.asked_at else None,
            acknowledged_at=None if alert.acknowledged_at is None else when(alert.acknowledged_at),
            quiet=alert.quiet,
            held_until=None if held is None else when(held.until),
        )


def _is_outdated(event: FeedbackEvent, alert: Alert) -> bool:
    """Tell whether an answer was given before the last step that had to be answered anew: it names an older one, or is older."""
    if not alert.asked_at:  # who knows the alert has heard of its first step
        return False
    if event.sequence is not None:
        return event.sequence < alert.asked
    return min(event.given_at, event.received_at) < when(alert.asked_at)


def another_ward(before: Location, after: Location) -> bool:
    """Whether another ward is to be asked: both are known, and differ, or are of two hospitals."""
    return bool(before.ward and after.ward) and (before.ward != after.ward or before.other_hospital(after))


def _evidence(score: News2) -> dict[str, int]:
    return {one.name: ms(one.observed_at) for one in score.parameters if one.points}


def _reason(score: News2, severity: Severity) -> str:
    return "a single parameter scores 3" if severity == "low-medium" else f"total reached {score.total}"
