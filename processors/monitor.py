"""The clinical heart: one deterministic state machine per partition, from vital signs to scores and alerts.

State is a function of the inputs in their order, and of nothing else: no clock, no chance, no I/O. Logged time moves by `tick`
only. So a rerun decides the same, and a monitor loaded from snapshots goes on exactly as the one that was dumped.

A batch of sets is handled in two phases: `observe` all of them (charts them and builds the model's windows), run the model once
for all windows, then `decide` all of them in the same order. Phase 1 never reads what phase 2 keeps, and phase 2 goes by what the
assessment captured; so it does not matter how the stream is cut into batches. `patient`, `feedback`, `tick` and `dump` stand
between batches: they refuse while a set is observed and not decided.

What comes out of a sender's queue (`charting`) waits likewise, each patient's for itself, for `rules.queue_wait` after each
set and for `rules.queue_most` in all.

What an outage means: the first `tick` after it (log and apply it before any other input) shows a gap in logged time. From then
until the backlog is through, sets that were received before that tick change the record and are scored, but only the patient's
state at the end of it may alert.
"""

from collections import Counter
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from itertools import islice

from models.batching import describe
from models.errors import Poison
from models.tasks import ModelIdentity
from processors import moving
from processors.alerts import OVER
from processors.blindspots import Blindspots
from processors.charting import Assessment, Charting
from processors.desk import AFTER_END, Cause, Desk
from processors.events import (
    UNDATED,
    AlertEvent,
    Deterioration,
    Event,
    FeedbackEvent,
    HeartbeatEvent,
    Location,
    News2,
    PatientEvent,
    ScoreEvent,
    Source,
    VitalsEvent,
    trusted,
)
from processors.identity import natural_id
from processors.outages import Outages
from processors.partition import Partition
from processors.patients import Context, Patient, digest, ms, when
from processors.resuming import Before, Taken, resume
from processors.rules import MonitorRules
from processors.setback import set_back_partition, set_back_patient
from processors.timers import Timers, band_of

__all__ = ["Assessment", "Monitor", "MonitorRules"]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_US = timedelta(microseconds=1)
_MS = timedelta(milliseconds=1)
_AGE_UNKNOWN = "age unknown"  # as `Context.not_applicable` says


class Monitor:
    """Watches the patients of one partition. `model` is who scores the windows: its digest is part of every score's id."""

    def __init__(self, rules: MonitorRules, *, partition: int = 0, model: ModelIdentity | None = None) -> None:
        self.rules = rules
        self.model = model
        self.counts: Counter[str] = Counter()  # what leaves no event: repeats, what fits nothing, ...; since the process began
        self._digest = model.digest if model else ""
        self._charting = Charting(rules)
        self._partition = Partition(partition)
        self._desk = Desk(rules, self._partition)
        self._outages = Outages(rules, self._partition)
        self._timers = Timers(rules, self._partition, self._charting, self._desk)
        self._blindspots = Blindspots(rules)
        self.observed, self.cannot_alert = 0, dict[str, int]()  # as the last heartbeat since the process began said
        self._patients: dict[str, Patient] = {}
        self._dirty: set[str] = set()
        self._unsaved: set[str] = set()  # of the snapshot that is being taken: whose state is still as it was when it began
        self._saved: dict[str, bytes | None] = {}
        self._observed = self._decided = 0
        self._remembered, self._staleness = rules.remembered_ids, rules.staleness // _MS
        self._future = rules.future_tolerance // _US
        self._queue_wait, self._queue_most = rules.queue_wait // _MS, rules.queue_most // _MS
        self._now: int | None = None  # logged time, ms

    @property
    def now(self) -> datetime | None:
        """Logged time; None before the first tick."""
        now = self._partition.now
        return None if now is None else _EPOCH + now * _US

    @property
    def id(self) -> str:
        """The pseudo patient under which the partition's own state is dumped and its own alerts are published."""
        return self._partition.id

    @property
    def behind(self) -> dict[str, float]:
        """How old (seconds) each peer's sets are when they are received: the middle one of the last, at most the newest."""
        feeds = self._partition.feeds.items()
        return {peer: min(behind, feed.lags[-1]) / 1000 for peer, feed in feeds if (behind := feed.behind) is not None}

    # ---------------------------------------------------------------------------------------------------------- phase 1

    def observe(self, event: VitalsEvent, source: Source, *, history: bool = False) -> Assessment:
        """Chart one set. Decide it with `decide`, in the same order. `history`: late data whatever its time, as of a redrive.

        Raises `Poison` for a set that cannot be charted: it is not to be decided, and the others go on.
        """
        self._observed += 1
        try:
            return self._observe(event, source, history or event.history)
        except Exception as error:
            self._observed -= 1
            self._forget(event)
            raise _unforeseen(error) from error

    def _observe(self, event: VitalsEvent, source: Source, history: bool) -> Assessment:
        patient = self._patients.get(event.patient_id)
        made = Assessment(self._observed, event, source, patient, received=ms(event.received_at), history=history)
        if event.processing != "production":
            made.patient = None
            self._charting.rehearse(made, patient)
            return made
        if patient is None:
            patient = made.patient = self._admit(event.patient_id)
        known, since = digest(event.id), (made.received if self._now is None else self._now) - self._staleness
        if event.id in patient.seen or patient.came(known, since):
            made.repeat = True
            return made
        self._remember(patient, event.id)
        state = self._partition
        if not event.moved_from:  # its feed was heard where it came in
            state.hear(event.origin.peer, made.received, self.rules.feed_silence)
        if state.woke_at is not None:
            made.held = made.received < state.woke_at
            state.caught_up = state.caught_up or not made.held
            if made.held:
                state.backlog_at = self._now
        self._charting.chart(made, self._now)
        made.told = source.offset <= state.told.get(event.patient_id, -1)
        patient.remember(known, made.observed, since)
        if not (event.moved_from or made.amends):
            state.feeds[event.origin.peer].brought(made.received - ms(event.observed_at))
        if made.late and state.woke_at is not None:
            state.late += 1
        if patient.newest is not None and (state.newest is None or patient.newest > state.newest):
            state.newest = patient.newest
        return made

    # ---------------------------------------------------------------------------------------------------------- phase 2

    def decide(self, assessment: Assessment, deterioration: Deterioration | None, reason: str = "") -> list[Event]:
        """Publish the score of one set, and what it means for the patient's alerts.

        `reason` says why there is no `deterioration` although there was a window (absent, late). Nothing for a repeated event.

        Raises:
            RuntimeError: not the next set in order.
            Poison: nothing can be said of this set. The next one may be decided.
        """
        made = assessment
        self._decided += 1
        if made.number != self._decided:
            raise RuntimeError(f"decide set {made.number}, but {self._decided} is next")
        try:
            return self._decide(made, deterioration, reason)
        except Exception as error:
            self._forget(made.event)
            raise _unforeseen(error) from error

    def _decide(self, made: Assessment, deterioration: Deterioration | None, reason: str) -> list[Event]:
        if made.repeat:
            self.counts["repeats"] += 1
            return []
        score = self._score(made, deterioration, reason)
        patient = made.patient
        if patient is None:
            return [score]
        self.counts["unmatched_retractions"] += made.unmatched and not patient.context.merged_into  # that goes to the survivor
        cause = Cause(
            made.event.id,
            made.source,
            made.received if self._now is None else self._now,
            score.id,
            made.current_at,
            made.received,
            is_set=made.changed,
        )
        if made.unheard:
            patient.closed.pop("no-observations", None)  # the silence may have ended by what was taken back
        if made.ended:
            if made.stands or not made.late:
                self._stand(patient, made, score.id)  # the watch may come back, by a cancelled discharge
            self._desk.doubt(patient, made.corrected)
            if survivor := patient.context.merged_into:
                return [score, *moving.forwarded(made.event, survivor, history=made.history)]
            current = made.changed and not (made.late or made.held or made.queued)
            told = self._desk.after_end(patient, made.ended, made.observed, made.current, cause) if current else []
            return [score, *told]
        if made.event.standing is not None and not (made.history or made.told):
            self._desk.moved(patient, made.event.standing)
        if made.late or made.held or made.queued or made.outdated or made.told:
            if not made.late:
                if made.queued:
                    patient.settle_by = patient.settle_by or cause.now + self._queue_most
                    patient.settle_at = min(cause.now + self._queue_wait, patient.settle_by)
                patient.unsettled = patient.unsettled or made.held or made.queued
            steps = self._desk.consider(patient, made.current, cause, corrected=made.corrected, only_corrections=True)
            if made.stands or not made.late:  # too old to alert, and the newest word all the same: silence goes by it
                self._stand(patient, made, score.id)
            return [score, *steps]
        back = made.heard and self._timers.within(patient, band_of(made.current), made.heard_at, cause.now)
        steps = self._desk.heard(patient, cause) if back and patient.alerts else []
        if made.changed or made.corrected:
            steps += self._desk.consider(patient, made.current, cause, corrected=made.corrected)
            if self.rules.model_pages and deterioration is not None and not made.news2_reason:
                steps += self._desk.consider_model(patient, deterioration, made.current, cause)
        self._stand(patient, made, score.id)
        return [score, *steps] if steps else [score]

    def _score(self, made: Assessment, deterioration: Deterioration | None, reason: str) -> ScoreEvent:
        event = made.event
        return trusted(
            ScoreEvent,
            {
                "id": natural_id(event.id, "score", self._digest),
                "patient_id": event.patient_id,
                "source": made.source,
                "encounter_id": event.encounter_id,
                "observed_at": event.observed_at,
                "received_at": event.received_at,
                "late": made.late,
                "news2": made.news2,
                "news2_reason": made.news2_reason,
                "deterioration": deterioration,
                "deterioration_reason": "" if deterioration is not None else made.window_reason or reason or "no model",
                "rejected": made.rejected,
                "processing": event.processing,
                "flags": made.flags + (("catching-up",) if made.held or made.queued else ()),
            },
        )

    def _stand(self, patient: Patient, made: Assessment, score_id: str) -> None:
        """Remember what the patient's current state was last told by, for the timers."""
        patient.score_id, patient.received = score_id, made.received
        patient.band = band_of(made.current)

    # ------------------------------------------------------------------------------------------------- between batches

    def patient(self, event: PatientEvent, source: Source) -> list[Event]:
        """Take a patient's new context: close, withdraw, re-route or re-score the alerts.

        A merge withdraws the old id's alerts, says where the patient went, and stops watching it. The surviving id may live in
        another partition: what is known of the patient goes there as a set (`processors.moving`), and alerts anew if it still does.

        One that is older than the last that was taken changes nothing: a copy that was replayed or redriven, or the word of a
        process that had not heard of the newer one. Connectors order contexts alike (`connectors.contexts`): by since when they
        hold, their receipt where they say that it lies in the future (`rules.future_tolerance`), then by receipt. A time of the
        last one that lies ahead of logged time counts as now: a wrong clock holds nothing up until then.

        Where the stay is moved to another record, or a merged number is given out anew, what was observed so far is another
        person's: it is forgotten here, and the alerts that rest on it are withdrawn.

        Raises `Poison` for a context that cannot be taken: the patient keeps being watched, and the others too.
        """
        self._between()
        try:
            return self._patient(event, source)
        except Exception as error:
            raise _unforeseen(error) from error

    def _patient(self, event: PatientEvent, source: Source) -> list[Event]:
        patient = self._patients.get(event.patient_id) or self._admit(event.patient_id)
        if event.id in patient.seen:
            self.counts["repeats"] += 1
            return []
        self._remember(patient, event.id)
        before, was_ended = patient.context, bool(patient.ended)
        after = Context.of(event)
        known, order = self._taken(patient), self._order(event)
        if event.effective_at == UNDATED:
            if before.has_stay or known[0] > 0:  # of a process that had not heard of the stay, or of the record, yet
                after = before.with_facts(after)
        elif order < known:
            self.counts["older_contexts"] += 1
            return []
        now = ms(event.received_at) if self._now is None else self._now
        cause = Cause.about(patient, event.id, source, now)
        gone: list[AlertEvent] = []
        if event.stay_moved_to:
            reason = f"the visit was moved to another record, {event.stay_moved_to}: watched there from now on"
            gone = self._desk.close(patient, "withdrawn", reason, cause)
        if event.stay_moved_to or _is_given_out_anew(before, after):
            patient = self._begin_anew(patient)
        patient.context_at = max(known, order)
        patient.follow(after)
        ended = patient.ended
        if ended:
            if not was_ended or patient.ended_at is None:
                patient.ended_at = now
            patient.settled()
            patient.closed.clear()
            survivor, alert = patient.context.merged_into, patient.alerts.get("news2")
            standing = None if alert is None else alert.severity
            if survivor is None:
                return [*gone, *self._desk.close(patient, "resolved", ended, cause, but=AFTER_END)]
            steps = self._desk.close(patient, "withdrawn", f"{ended}: watched there from now on", cause)
            return [
                *gone,
                *steps,
                *(moving.history_of(patient.history, event, survivor, standing) if before.merged_into != survivor else ()),
            ]
        patient.ended_at = None
        back = self._desk.watched_again(patient, cause)
        return [*gone, *back, *self._new_context(patient, before, cause, reopened=was_ended)]

    def _order(self, event: PatientEvent) -> tuple[int, int]:
        """Return what contexts are ordered by: since when one holds, its receipt (microseconds)."""
        since, received = ((at - _EPOCH) // _US for at in (event.effective_at, event.received_at))
        return received if since - received > self._future else since, received

    def _taken(self, patient: Patient) -> tuple[int, int]:
        """Return the order of the context that was taken last; nothing in it is later than now, whatever a clock said then."""
        since, received = patient.context_at or (0, 0)
        now = max(since, received) if self._partition.now is None else self._partition.now
        return min(since, now), min(received, now)

    def _new_context(self, patient: Patient, before: Context, cause: Cause, *, reopened: bool) -> list[Event]:
        after = patient.context
        score, why = self._charting.current(patient)
        steps: list[Event] = [*self._score_anew(patient, before, cause, score, why)]
        not_applicable = after.not_applicable(patient.newest) if patient.newest is not None else ""
        if not_applicable:
            kinds = ("news2", "deterioration")
            steps += self._desk.close(patient, "withdrawn", f"NEWS2 does not apply: {not_applicable}", cause, kinds=kinds)
        moved = []
        if before.known and (how := _moved(before.location, after.location)):
            moved.append(how)
        if before.ceiling != after.ceiling:
            moved.append(f"ceiling of care recorded: {after.ceiling}" if after.ceiling else "ceiling of care lifted")
        if moved:
            steps += self._desk.reroute(patient, before, "; ".join(moved), cause, score)
        if score is not None:
            patient.band = band_of(score)  # however old: silence goes by it
        rescaled = before.scale != after.scale
        if not (rescaled or reopened or before.not_applicable(patient.newest or 0)):
            return steps
        if self._partition.woke_at is not None:
            patient.unsettled = True  # with the rest of the backlog
        elif score is not None:
            because = f"SpO2 scale {after.scale} recorded" if rescaled else ""
            old = not self._charting.recent(patient, self._now)
            steps += self._desk.consider(patient, score, cause, because=because, only_corrections=old)
        return steps

    def _score_anew(self, patient: Patient, before: Context, cause: Cause, score: News2 | None, why: str) -> list[ScoreEvent]:
        """Publish NEWS2 where the newest set was scored before the age of its patient was read, as that of its own message may be.

        The two lie in different topics, so the set may come first. What follows rests on this score, not on "age unknown".
        """
        at = patient.newest
        if at is None or before.not_applicable(at) != _AGE_UNKNOWN or why == _AGE_UNKNOWN or patient.score_id is None:
            return []
        if not self._charting.recent(patient, self._now):
            return []
        patient.score_id = cause.score_id = natural_id(cause.key, "score", self._digest)
        anew = ScoreEvent(
            id=patient.score_id,
            patient_id=patient.id,
            source=cause.source,
            encounter_id=patient.encounter_id,
            observed_at=when(at),
            received_at=when(patient.received),
            news2=score,
            news2_reason=why,
            deterioration_reason="scored anew for the age: the model's answer, if any, stands on the set's own score",
            flags=("age-learned",) if self._partition.woke_at is None else ("age-learned", "catching-up"),
        )
        return [anew]

    def feedback(self, event: FeedbackEvent, source: Source) -> list[Event]:
        """Take an answer to an alert. One that fits nothing leaves no event; it is counted under `unmatched_feedback`.

        Raises `Poison` for one that cannot be taken.
        """
        self._between()
        try:
            return self._feedback(event, source)
        except Exception as error:
            raise _unforeseen(error) from error

    def _feedback(self, event: FeedbackEvent, source: Source) -> list[Event]:
        if not event.kind.startswith("alert-"):
            return []  # about a finding: for the training set, not for the monitor
        if source.offset <= self._partition.answered.get(event.target_id, -1):
            self.counts["repeats"] += 1
            return []
        now = ms(event.received_at) if self._now is None else self._now
        if event.patient_id == self.id:
            if event.id in self._partition.seen:
                self.counts["repeats"] += 1
                return []
            self._keep(self._partition.seen, event.id)
            own = self._outages.answer(event, now, source)
            self._dirty.add(self.id)
            self.counts["unmatched_feedback"] += own is None
            return list(own or ())
        patient = self._patients.get(event.patient_id)
        if patient is None or event.id in patient.seen:
            self.counts["unmatched_feedback" if patient is None else "repeats"] += 1
            return []
        self._remember(patient, event.id)
        score, _ = self._charting.current(patient)
        steps = self._desk.answer(patient, event, Cause(event.id, source, now), score)
        if steps is None:
            self.counts["unmatched_feedback"] += 1
        return list(steps or ())

    # ----------------------------------------------------------------------------------------------------------- timers

    def tick(self, now: datetime, source: Source) -> list[Event]:
        """Move logged time and run what is due: blindness, feeds, silence, escalation, suppression, forgetting, heartbeat.

        A time that is not later than the last one does nothing, or, when it is earlier by more than `rules.set_back`, sets logged
        time back: or else all timers would stand, and all sets be history, until a clock that ran ahead has been caught up with.
        """
        self._between()
        state = self._partition
        micros = (now - _EPOCH) // _US
        back = 0 if state.now is None else state.now - micros
        if state.now is not None and 0 <= back <= self.rules.set_back // _US:
            return []
        before = self._now
        state.told.clear()
        state.now = micros
        self._now = micros // 1000
        self._dirty.add(self.id)
        out: list[Event] = []
        asleep = state.woke_at is not None
        if back > 0:
            out += self._set_back(back // 1000, self._now, source)
            before = None
        out += self._outages.wake(before, self._now, source)
        if state.woke_at is None:
            out += self._outages.feeds(self._now, source)
            if asleep:  # caught up: everybody's timers stood still
                for patient in self._patients.values():
                    patient.due = 0
        due = sorted(patient.id for patient in self._patients.values() if patient.due <= self._now)
        for patient_id in due:
            out += self._run_timers(self._patients[patient_id], self._now, source)
        if state.heartbeat_at is None or self._now - state.heartbeat_at >= self.rules.heartbeat // _MS:
            out.append(self._beat(now, self._now, max(0, back)))
        return out

    def _set_back(self, by: int, now: int, source: Source) -> list[AlertEvent]:
        self.counts["set_back"] += 1
        suppressed = max(self.rules.suppression, self.rules.declined_suppression) // _MS
        for patient in self._patients.values():
            self._save(patient.id)
            set_back_patient(patient, now, by, suppressed)
            self._dirty.add(patient.id)
        steps = self._outages.set_back(now, by, source)
        set_back_partition(self._partition, now)
        return steps

    def _run_timers(self, patient: Patient, now: int, source: Source) -> list[AlertEvent]:
        self._save(patient.id)
        run = self._timers.run(patient, now, source)
        if run.changed or run.forget:
            self._dirty.add(patient.id)
        if run.forget:
            del self._patients[patient.id]
        if run.forget == "observed":
            bare = self._admit(patient.id)
            bare.context, bare.context_at, bare.ended_at = patient.context, patient.context_at, patient.ended_at
        return run.steps

    def _beat(self, logged: datetime, now: int, back: int) -> HeartbeatEvent:
        state = self._partition
        watched = sum(not patient.ended for patient in self._patients.values())
        self.observed, self.cannot_alert = self._blindspots.count(self._patients.values(), now)
        state.beat(watched, now, self.rules.blind_after)
        return HeartbeatEvent(
            id=natural_id("heartbeat", "vitals", state.number, state.stamp(state.now or 0)),
            lane="vitals",
            partition=state.number,
            decided_at=logged,
            newest_observed_at=None if state.newest is None else when(state.newest),
            patients=watched,
            observed=self.observed,
            cannot_alert=self.cannot_alert,
            active_alerts=sum(alert.state not in OVER for alert in state.alerts.values())
            + sum(len(patient.alerts) for patient in self._patients.values()),
            set_back_seconds=back / 1_000_000,
            alerts_per_100_patient_days=state.alerts_per_100_patient_days(),
        )

    # ------------------------------------------------------------------------------------------------------- snapshots

    def dirty(self) -> set[str]:
        """Return the patients (and `id`, for the partition) whose snapshot changed since `clean`."""
        return set(self._dirty)

    def clean(self) -> None:
        """Start anew with `dirty`: the snapshots are safe."""
        self._dirty.clear()

    def begin_snapshot(self) -> None:
        """Begin to dump everything that is `dirty`, as it stands now. `snapshot` goes on with it, while the monitor works on."""
        self._between()
        self._saved = {}
        self._unsaved = self._dirty
        self._dirty = set()
        own = self.id in self._unsaved
        self._unsaved.discard(self.id)
        if own:
            self._saved[self.id] = self._partition.dump()

    def snapshot(self, most: int) -> dict[str, bytes | None] | None:
        """Dump at most so many patients more; return all states of the snapshot when it is whole, as `dump` does, else None."""
        for patient_id in list(islice(self._unsaved, most)):
            self._save(patient_id)
        return None if self._unsaved else self._saved

    def not_saved(self, ids: Iterable[str]) -> None:
        """Take a snapshot back that could not be kept: whose states it held are `dirty` again."""
        self._dirty.update(ids)

    def _save(self, patient_id: str) -> None:
        """Dump a patient who is about to change, or whose turn it is, if the snapshot being taken still lacks it."""
        if patient_id in self._unsaved:
            self._unsaved.discard(patient_id)
            patient = self._patients.get(patient_id)
            self._saved[patient_id] = None if patient is None else patient.dump()

    def dump(self, patient_id: str) -> bytes | None:
        """Return one patient's whole state as JSON, or the partition's under `id`; None for one who is forgotten."""
        self._between()
        if patient_id == self.id:
            return self._partition.dump()
        patient = self._patients.get(patient_id)
        return None if patient is None else patient.dump()

    def load(self, patient_id: str, state: bytes | None) -> None:
        """Take over a snapshot; None: the patient is forgotten. Raises `Fatal` when it is none of this version."""
        self._between()
        if state is None:
            self._patients.pop(patient_id, None)
        elif patient_id == self.id:
            self._partition.load(state)
            self._now = None if self._partition.now is None else self._partition.now // 1000
        else:
            self._patients[patient_id] = Patient.load(patient_id, state)

    def resume(self, told: Iterable[AlertEvent | HeartbeatEvent], taken: Taken, before: "Monitor | None" = None) -> int:
        """Go on from what was published on `clinical.alerts`, in the order of its writing, where what led to it is lost.

        Or where other rules, or other code, led to it: `before` is a monitor as it stood when the first of it was told, and is used
        up. `taken` says by topic below which offset the inputs were taken in: what comes once more leads to no id that was used up.
        Returns how many alerts stand.
        """
        self._between()
        stood = Before() if before is None else Before(before._patients, before._partition)
        resume(told, taken, self._patients, self._partition, self._desk, self.rules, stood)
        self._now = None if self._partition.now is None else self._partition.now // 1000
        self._dirty |= {self.id, *self._patients}
        return len(self._partition.alerts) + sum(len(patient.alerts) for patient in self._patients.values())

    # ---------------------------------------------------------------------------------------------------------- within

    def _between(self) -> None:
        if self._observed != self._decided:
            raise RuntimeError(f"{self._observed - self._decided} sets are observed and not decided")

    def _admit(self, patient_id: str) -> Patient:
        patient = self._patients[patient_id] = Patient(patient_id)
        return patient

    def _begin_anew(self, patient: Patient) -> Patient:
        """Forget what is known of a patient, but for which events came: none of them is charted when it comes again."""
        fresh = self._admit(patient.id)
        fresh.seen, fresh.lately = patient.seen, patient.lately
        return fresh

    def _remember(self, patient: Patient, event_id: str) -> None:
        if self._unsaved:
            self._save(patient.id)
        self._keep(patient.seen, event_id)
        patient.due = 0
        self._dirty.add(patient.id)
        self._dirty.add(self._partition.id)

    def _forget(self, event: VitalsEvent) -> None:
        """Let a set that becomes a dead letter be none that came: redriven, it is no repeat."""
        if (patient := self._patients.get(event.patient_id)) is not None:
            patient.seen.pop(event.id, None)
            patient.lately.pop(digest(event.id), None)

    def _keep(self, seen: dict[str, None], event_id: str) -> None:
        seen[event_id] = None
        if len(seen) > self._remembered:
            del seen[next(iter(seen))]


def _moved(before: Location, after: Location) -> str:
    """Say how a patient changed places; empty where not: that a sender says the hospital, or leaves it out, moves nobody."""
    if before.ward != after.ward or before.other_hospital(after):
        return "transferred"
    return "moved" if (before.room, before.bed) != (after.room, after.bed) else ""


def _is_given_out_anew(before: Context, after: Context) -> bool:
    """Whether a number that was merged away is somebody else's now: an unlinking leaves the stay and the birth date as they are."""
    if before.merged_into is None or after.merged_into is not None:
        return False
    another_stay = after.encounter_id is not None and after.encounter_id != before.encounter_id
    return another_stay or (None not in (before.adult_from, after.adult_from) and before.adult_from != after.adult_from)


def _unforeseen(error: Exception) -> Poison:
    """Return what one event has brought about as its own trouble: it must never stop the monitoring of everybody else.

    The same event does the same again, so a rerun decides alike. Class and place only: an error's words may quote the patient.
    """
    return error if isinstance(error, Poison) else Poison(f"unforeseen {describe(error)}", stage="process")
