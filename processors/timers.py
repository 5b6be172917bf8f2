"""What time alone brings about for one patient: silence, escalation, the end of a suppression, the end of a catch-up, forgetting.

Timers run at logged time, when a `tick` comes, between batches. Times are milliseconds since 1970.
"""

from dataclasses import dataclass, field
from datetime import timedelta
from typing import Literal

from processors.alerts import RANK
from processors.charting import Charting
from processors.desk import AFTER_END, PAGING, Cause, Desk
from processors.events import AlertEvent, News2, Severity, Source
from processors.partition import Partition
from processors.patients import Patient
from processors.rules import MonitorRules

_MS = timedelta(milliseconds=1)
_NEVER = 1 << 62

# How grave a silence is, by what was last known of the patient, or by the alert that stands: one step below, since nothing was
# measured. It climbs the chain of that severity as any other (no black holes): a patient who is to be watched continuously and is
# not heard of is somebody's task.
_GRAVITY: dict[str, Severity] = {"high": "medium", "medium": "low-medium", "low-medium": "low-medium"}


@dataclass(slots=True)
class Run:
    """What a patient's timers came to. `forget`: drop all of the record, or what was observed and keep the context."""

    steps: list[AlertEvent] = field(default_factory=list)
    changed: bool = False
    forget: Literal["", "all", "observed"] = ""


def band_of(score: News2 | None) -> str:
    """Return the key of the silence limits for a score."""
    if score is None:
        return "unscored"
    return score.band if score.total else "zero"


class Timers:
    """Runs patients' timers by the rules."""

    def __init__(self, rules: MonitorRules, partition: Partition, charting: Charting, desk: Desk) -> None:
        self._partition = partition
        self._charting = charting
        self._desk = desk
        self._tolerance = rules.future_tolerance // _MS
        self._model_pages = rules.model_pages
        self._forget_after = rules.forget_after // _MS
        self._forget_silent = rules.forget_silent // _MS
        silence = rules.silence
        self._silence = {
            "zero": silence.zero // _MS,
            "low": silence.low // _MS,
            "low-medium": silence.low_medium // _MS,
            "medium": silence.medium // _MS,
            "high": silence.high // _MS,
            "unscored": silence.unscored // _MS,
        }

    def run(self, patient: Patient, now: int, source: Source) -> Run:
        """Run what is due for a patient and work out when to look again (`patient.due`)."""
        run = Run()
        cause = Cause.about(patient, f"tick:{self._partition.number}:{self._partition.stamp(now)}", source, now)
        if ended := patient.ended:
            self._end(patient, ended, cause, run)
            return run
        if patient.ended_at is not None:
            patient.ended_at, run.changed = None, True
        if patient.after_end is not None:
            run.steps += self._desk.watched_again(patient, cause)  # where a set of another encounter took the watch up
            run.changed = True
        if not self._model_pages and "deterioration" in patient.alerts:  # no set would ever end it, and it would climb for good
            reason = "the site has turned paging by the model off"
            run.steps += self._desk.close(patient, "withdrawn", reason, cause, kinds=("deterioration",))
            run.changed = True
        self._await(patient, now, run)
        if self._partition.woke_at is not None:
            patient.due = 0  # what is missing, or answered, may lie in the backlog
            return run
        if patient.heard is not None and patient.heard > now + self._tolerance:
            patient.heard, run.changed = now, True  # a clock is wrong: the silence must not begin only then
        forget = self._silent_until(patient)
        if forget is not None and now >= forget:
            run.steps += self._desk.close(patient, "withdrawn", "watch ended: no word of this patient any more", cause)
            run.forget = "observed" if patient.context.known else "all"
            return run
        waiting = patient.unsettled and now < patient.settle_at  # something newer may lie in a queue
        if not waiting:
            # heard by a set that was history itself, or of a backlog
            if patient.heard is not None and not self._overdue(patient, now):
                run.steps += self._desk.heard(patient, cause)
            self._reconsider(patient, cause, run)
        if not waiting and self._overdue(patient, now):
            band = self._band(patient, patient.band)
            limit, severity = self._silence[band], _GRAVITY.get(band, "information")
            run.steps += self._desk.silent(patient, severity, limit, Cause(cause.key, source, now))
        if any(at <= now for alert in patient.alerts.values() if (at := self._desk.next_renewal(patient, alert)) is not None):
            score = self._charting.current(patient)[0] if self._charting.recent(patient, now) else None
            run.steps += self._desk.renew(patient, cause, score)
        self._climb(patient, cause, run)
        run.changed = run.changed or bool(run.steps)
        patient.due = self._next(patient, now)
        return run

    def _climb(self, patient: Patient, cause: Cause, run: Run) -> None:
        """Climb the chains that are due."""
        if any(at <= cause.now for at in self._links(patient)):
            score, _ = self._charting.current(patient)
            run.steps += self._desk.escalate(patient, Cause(cause.key, cause.source, cause.now), score)

    def _links(self, patient: Patient) -> list[int]:
        """Return when a patient's alerts climb next, each, if nobody answers."""
        return [at for alert in patient.alerts.values() if (at := self._desk.next_escalation(alert)) is not None]

    @staticmethod
    def _await(patient: Patient, now: int, run: Run) -> None:
        """Begin to wait for the first observation of whoever is in hospital. An outpatient's visit may be open for weeks.

        Since when is kept, though one has come: all that came may be taken back.
        """
        context = patient.context
        if context.encounter_status == "in-progress" and not context.outpatient:
            if patient.awaited is None and patient.heard is None:
                patient.awaited, run.changed = now, True
        elif patient.awaited is not None:
            patient.awaited, run.changed = None, True

    def _end(self, patient: Patient, ended: str, cause: Cause, run: Run) -> None:
        if patient.ended_at is None:
            patient.ended_at, run.changed = cause.now, True
        if patient.awaited is not None:
            patient.awaited, run.changed = None, True
        # where a set of an old encounter ended it
        run.steps += self._desk.close(patient, "resolved", ended, cause, but=AFTER_END)
        if self._partition.woke_at is None:
            self._climb(patient, cause, run)
        patient.due = max(patient.ended_at, min(patient.heard or 0, cause.now)) + self._forget_after
        if cause.now < patient.due:
            patient.due = min([patient.due, *self._links(patient)])
        elif patient.heard is None and not patient.context.deleted:
            patient.due = _NEVER  # nothing to forget but who it is
        else:
            # A device that keeps its old number for days must not become a stranger, nor whoever comes back.
            run.steps += self._desk.close(patient, "resolved", "not observed any more", cause)
            run.forget = "all" if patient.context.deleted else "observed"
        run.changed = run.changed or bool(run.steps)

    def _reconsider(self, patient: Patient, cause: Cause, run: Run) -> None:
        """Let the current state alert where the backlog is through, or a suppression has run out."""
        over = [kind for kind, one in patient.closed.items() if one.until <= cause.now]
        for kind in over:
            del patient.closed[kind]
        if not over and not patient.unsettled:
            return
        run.changed = True
        patient.settled()
        score, _ = self._charting.current(patient)
        recent = self._charting.recent(patient, cause.now)
        if recent or score is not None:
            patient.band = band_of(score)
        run.steps += self._desk.consider(patient, score, cause, only_corrections=not recent)

    def within(self, patient: Patient, band: str, heard: int, now: int) -> bool:
        """Tell whether a value observed at `heard` keeps the silence limit of a patient whose score is of that band."""
        return now - heard <= self._silence[self._band(patient, band)]

    def _band(self, patient: Patient, band: str) -> str:
        """Return by which limit a patient is silent: the score's, or that of a graver alert, which one milder set does not end."""
        standing = (patient.alerts[kind].severity for kind in PAGING if kind in patient.alerts)
        return max((band, *(one for one in standing if one in self._silence)), key=lambda one: RANK.get(one, 0))

    def _overdue(self, patient: Patient, now: int) -> bool:
        since = patient.silent_since
        return since is not None and not self.within(patient, patient.band, since, now)

    def _silent_until(self, patient: Patient) -> int | None:
        if patient.heard is None or patient.context.encounter_status == "in-progress":
            return None
        return patient.heard + self._forget_silent

    def _next(self, patient: Patient, now: int) -> int:
        times = [over.until for over in patient.closed.values()] + self._links(patient)
        renewals = [self._desk.next_renewal(patient, alert) for alert in patient.alerts.values()]
        times += [at for at in renewals if at is not None and at > now]  # one that is over waits for a set that calls for it
        if patient.unsettled:
            times.append(patient.settle_at)
        if (since := patient.silent_since) is not None and "no-observations" not in patient.alerts:
            times.append(since + self._silence[self._band(patient, patient.band)] + 1)
        forget = self._silent_until(patient)
        return min(times if forget is None else [*times, forget], default=_NEVER)
