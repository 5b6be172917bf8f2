"""From a set of vital signs as sent to what is known of the patient: the monitor's first phase.

Reads the patient's context and observations and nothing of the alerts, so a whole batch can be charted before the model runs.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from statistics import mode

from models.tasks import Floats
from processors import loinc, news2, vitals
from processors.alerts import held_severity
from processors.deterioration import HourlyWindow
from processors.events import News2, Observation, Parameter, RefusedReading, Rejected, Source, VitalsEvent, trusted
from processors.history import Entry, Put
from processors.news2 import Scale
from processors.patients import Patient, Refusal, ms, when
from processors.rules import MonitorRules

_MS = timedelta(milliseconds=1)
_EPOCH = when(0)
_UNVALIDATED = 1_000_000  # added to the rank: for one time, a validated value takes precedence over a stream's
_ALIKE = 5_000  # ms by which clocks differ that are both right
_PER_SOURCE = 10  # more than the preferences that the codes of one parameter have

# Where a value that scores nothing lies, most typically: of two that score alike for one time the one farther from it counts.
_TYPICAL = {"respiratory_rate": 16.0, "spo2": 100.0, "systolic": 120.0, "heart_rate": 70.0, "temperature": 37.0}

_MOST_TOLD = 100  # observations that were not used, in one score
_LONGEST = 200  # characters of a sender's code, and of a reason

# Statuses that end an observation (FHIR observation-status; HL7 table 0085 D, W and X), and what is said of it.
_TAKEN_BACK = {"entered-in-error": "entered in error", "cancelled": "cannot be obtained"}
_FITS_NOTHING = ", but of that time no value is known: nothing is taken back"
_UNVERIFIED = frozenset({"preliminary", "unknown"})  # HL7 P and R: a value, but nobody has validated it
_CORRECTING = frozenset({"amended", "corrected"})
_AMENDING = _CORRECTING | set(_TAKEN_BACK)
_UNUSED = _UNVERIFIED | set(_TAKEN_BACK)
# Of these 0 is impossible by itself (a probe that is off, a line that is open), and what a monitor shows of an arrest, where pulse
# and respirations are 0 too.
_ARREST = frozenset({"spo2", "systolic"})
_STANDS = frozenset({Put.NEW, Put.PAST, Put.SAME, Put.CHANGED, Put.REPLACED})  # what was put is the value of its time


@dataclass(slots=True)
class Assessment:
    """What one set came to. `window` is the model's input, or None with `window_reason` where it has nothing to go on."""

    number: int
    event: VitalsEvent
    source: Source
    patient: Patient | None  # None: test traffic, which touches nobody's record
    history: bool = False  # redriven or replayed: late data, whatever its time
    repeat: bool = False  # an event id seen before: no output
    window: Floats | None = None
    window_reason: str = ""
    news2: News2 | None = None  # for the score: now, or as of the set where it is history
    news2_reason: str = ""
    of_interest: bool = False  # NEWS2 asks for a response, or its total holds an alert: somebody may ask what drove the score
    current: News2 | None = None  # now: what alerts go by
    current_at: int = 0  # observed time of the newest value that counts
    late: bool = False
    told: bool = False  # it comes once more, and what was told of the patient's alerts rests on it, or on one after it
    outdated: bool = False  # what is known now is too old to alert (a set that only takes values back may leave that)
    held: bool = False  # waited in the backlog of an outage: may alert only when that is through
    queued: bool = False  # seems to come out of a sender's queue: may alert when nothing newer has come for a while
    changed: bool = False  # it brought something new, so it counts as a set
    observed: int = 0  # of the set, as it is used
    amends: bool = False  # it corrects or takes back what was said before
    stands: bool = False  # it changed what is known now, be it ever so late
    heard: bool = False  # it is news of the patient: a value that counts, later than all before
    unheard: bool = False  # what the patient was last heard by is taken back
    heard_at: int = 0  # observed time of the newest such value, of whichever set
    ended: str = ""  # why the patient is not watched
    corrected: tuple[tuple[str, int], ...] = ()
    unmatched: bool = False  # it takes back what nobody said, as far as is known
    rejected: tuple[Rejected, ...] = ()
    flags: tuple[str, ...] = ()
    received: int = 0

    @property
    def needs_model(self) -> bool:
        """Tell whether there is something for the model to look at."""
        return self.window is not None


@dataclass(slots=True)
class _Taken:
    """What a set's observations did to the record."""

    current: bool = False  # what is known now changed
    fresh: bool = False  # by a value, not only by taking one back
    removed: bool = False  # a value was taken back that was known
    newest: int | None = None  # of what counts: a sample that is not persistent yet is no word of the patient
    sampled: int | None = None  # of such samples
    corrected: list[tuple[str, int]] = field(default_factory=list)
    unmatched: bool = False


class Charting:
    """Charts sets into patients' records, by the rules."""

    def __init__(self, rules: MonitorRules) -> None:
        self._rules = rules
        self._read = vitals.reader(rules.unitless)
        self._ranks = {peer: place * _PER_SOURCE for place, peer in enumerate(rules.sources)}
        self._other_rank = len(rules.sources) * _PER_SOURCE
        carry = rules.carry_forward
        self._parameters = [(name, news2.UNITS[name], getattr(carry, name) // _MS) for name in news2.PARAMETERS]
        self._carry_oxygen = carry.oxygen // _MS
        self._tolerance = rules.future_tolerance // _MS
        self._staleness = rules.staleness // _MS
        self._queue_age = rules.queue_age // _MS
        self._queue_wait = rules.queue_wait // _MS
        self._samples = rules.persistence.samples
        self._spacing = max(1, rules.persistence.spacing // _MS)
        self._within = rules.persistence.within // _MS
        self._lasting = (self._samples - 1) * self._spacing

    def chart(self, made: Assessment, now: int | None) -> None:
        """Take a set into its patient's record and fill in `made`. `now` is logged time (ms), None before the first tick."""
        event, patient = made.event, made.patient
        assert patient is not None
        received, stamp = made.received, ms(event.observed_at)
        flags: list[str] = []
        if stamp > received + self._tolerance:
            flags.append("future-stamp")
        observed = min(stamp, received)  # nothing was measured later
        made.amends = any(one.status in _AMENDING for one in event.observations)
        if patient.context.undecided_scale:
            flags.append("scale-2-without-decision")
        rejected: list[Rejected] = []
        reference = received if now is None else now
        stale = made.history or reference - observed > self._staleness
        ahead = max(reference, received) + self._tolerance
        if patient.newest is not None and patient.newest > ahead and not stale:
            # Neither clock has come so far: the one that stamped it was wrong, and must not make all sets look old until then.
            patient.recall(ahead, min(reference, observed - 1))
        refused: dict[str, Refusal] = {}
        readings = self._readings(patient, event, stamp, received, rejected, refused)
        before = patient.newest
        taken = self._take(patient, event, readings, rejected)
        for name, one in refused.items():  # after what takes back: of a value that cannot be obtained any more both are told
            self._refuse(patient, name, one)
        made.late = stale or (not taken.current and before is not None and observed < before)
        if taken.fresh:
            made.queued = not stale and self._queued(patient, observed, reference)
            patient.arrival = observed, reference
        if event.encounter_id is not None and not made.late:
            patient.encounter_id = event.encounter_id
        made.changed, made.stands, made.observed = taken.fresh, taken.current, observed
        made.corrected, made.unmatched = tuple(taken.corrected), taken.unmatched
        made.unheard = taken.removed and self._unhear(patient)
        made.heard = not stale and taken.newest is not None and (patient.heard is None or taken.newest > patient.heard)
        if taken.newest is not None and (patient.heard is None or taken.newest > patient.heard):
            patient.heard = taken.newest
        elif patient.heard is None:
            patient.heard = taken.sampled  # from then on something that counts is waited for
        made.heard_at = patient.heard or 0
        if patient.newest is not None:
            made.current_at = patient.newest
        made.outdated = patient.newest is None or reference - patient.newest > self._staleness
        self._score(made, patient, readings, refused, observed, taken.current)
        made.ended = patient.ended
        if made.ended and not made.late:
            flags.append("moved" if patient.context.merged_into else "not-watched")
        made.flags = (*flags, *vitals.bounds(event.observations))
        made.rejected = _told(rejected)

    @staticmethod
    def _unhear(patient: Patient) -> bool:
        """Let silence go by what is left of a patient: what was taken back, of somebody else perhaps, was no word of this one.

        Where nothing is left, by the admission; by the set that was taken back where nobody waits for a first one.
        """
        left = patient.newest
        if patient.heard is None or (left is not None and patient.heard <= left) or (left is None and patient.awaited is None):
            return False
        patient.heard = left
        return True

    def _queued(self, patient: Patient, observed: int, now: int) -> bool:
        """Tell whether a set seems to come out of a queue that drains: it is old, and the one before was not, or they come faster
        than they were observed. Late charting and a slow clock bring old sets too, but at the pace of the day.

        What would be too old to alert after the wait does not wait.
        """
        age = now - observed
        if age <= self._queue_age or age + self._queue_wait > self._staleness:
            return False
        if patient.arrival is None:
            return True
        before, came = patient.arrival
        return came - before <= self._queue_age or observed - before > 2 * (now - came)

    def rehearse(self, made: Assessment, patient: Patient | None) -> None:
        """Score test traffic by itself: nothing is carried forward, nothing is remembered, nothing can alert."""
        event = made.event
        observed = ms(event.observed_at)
        alone = Patient(event.patient_id)
        if patient is not None:
            alone.context = patient.context
        rejected: list[Rejected] = []
        readings = self._readings(alone, event, observed, observed, rejected, alone.refused)
        for at, value, rank, status, _, parameter in readings.values():
            if status not in _TAKEN_BACK:
                alone.history.put(parameter, at, value, rank)
        alone.newest = alone.history.newest
        self._score(made, alone, readings, alone.refused, observed, current=True)
        made.current = None
        made.flags = ("test-traffic", *vitals.bounds(event.observations))
        made.rejected = _told(rejected)

    # ---------------------------------------------------------------------------------------------------------- reading

    def _readings(
        self,
        patient: Patient,
        event: VitalsEvent,
        stamped: int,
        received: int,
        rejected: list[Rejected],
        refused: dict[str, Refusal],
    ) -> "_Readings":
        """Read a set's observations, oldest first where they carry times of their own; one value per parameter and time.

        What is not used goes to `rejected`; the newest reading of a parameter among it, to `refused`.
        """
        base = self._ranks.get(event.origin.peer, self._other_rank)
        readings: _Readings = {}
        older: list[_Entry] = []
        zeros: list[tuple[_Entry, str]] = []  # refused, unless the set shows an arrest

        def refuse(code: str, parameter: str, at: int, status: str, reason: str, *, corrects: bool = False) -> None:
            if status != "cancelled":  # told where it is taken back
                rejected.append(Rejected(code=code, reason=reason))
            before = refused.get(parameter)
            if parameter in news2.UNITS and (before is None or before.at <= at):
                validated = event.charted and status not in _UNVERIFIED
                refused[parameter] = Refusal(at, reason[:_LONGEST], 0 if validated else at, corrects)

        for one in event.observations:
            status = one.status
            if status == "registered":
                rejected.append(Rejected(code=one.code, reason="registered, no result yet"))
                continue
            stamp = stamped
            if one.observed_at is not None:
                stamp = ms(one.observed_at)
            at = min(stamp, received)
            if one.refused and (sign := loinc.LOINC.get(one.code)) is not None:
                if status == "entered-in-error":  # that reading, which nobody could use: what else was said of that time stands
                    for time in (_refused_within(patient, sign.parameter, at, one.span), *patient.stamps.get(stamp, ())):
                        self._forgive(patient, sign.parameter, time)
                    rejected.append(Rejected(code=one.code, reason=_TAKEN_BACK[status]))
                    continue
                refuse(one.code, sign.parameter, at, status, one.refused, corrects=status in _CORRECTING)
                if status == "cancelled":  # nor does what others said of that time stand; what this set says does
                    meant = self._meant(patient, sign.parameter, "", status, stamp, at) if stamp in patient.stamps else at
                    older.append((meant, "", base + sign.preference, status, one.code, sign.parameter))
                continue
            reading = self._read(one.code, one.value, one.unit)
            if isinstance(reading, str):
                kept = self._without_value(patient, one, (at, *patient.stamps.get(stamp, ())))
                if kept is None:
                    meaning = loinc.LOINC.get(one.code)
                    if meaning is None or one.value is None:
                        if reading:
                            rejected.append(Rejected(code=one.code, reason=reading))
                    elif one.value == 0 and meaning.parameter in _ARREST and reading.startswith("impossible"):
                        zero: _Entry = (at, 0.0, base + meaning.preference, status, one.code, meaning.parameter)
                        zeros.append((zero, reading))
                    else:
                        refuse(one.code, meaning.parameter, at, status, reading)
                    continue
                reading = kept
            parameter, value, preference = reading
            if stamp in patient.stamps:
                at = self._meant(patient, parameter, value, status, stamp, at)
            elif status != "final" and status in _AMENDING:
                at = _written(patient, parameter, value, status, at, one.span)
            if at < stamp and at == received:
                patient.stamped(stamp, received)
            entry: _Entry = (at, value, base + preference, status, one.code, parameter)
            if parameter in readings:
                entry = _one_of(readings[parameter], entry, older, rejected, patient.context.scale)
            readings[parameter] = entry
        systolic, diastolic = readings.get("systolic"), readings.get("diastolic")
        if systolic and diastolic and _swapped(systolic, diastolic):
            for pressure in (systolic, diastolic):
                refuse(pressure[4], pressure[5], pressure[0], pressure[3], vitals.SWAPPED)
                del readings[pressure[5]]
        for zero, reason in zeros:
            signs = (readings.get("heart_rate"), readings.get("respiratory_rate"))
            if zero[5] not in readings and all(sign and sign[:2] == zero[:2] for sign in signs):
                readings[zero[5]] = zero
            else:
                refuse(zero[4], zero[5], zero[0], zero[3], reason)
        if older:
            older.sort(key=lambda entry: entry[0])
            return {f"{place}": entry for place, entry in enumerate(older)} | readings
        return readings

    def _meant(self, patient: Patient, parameter: str, value: float | str, status: str, stamp: int, at: int) -> int:
        """Return as of when a value counts whose stamp a clock that ran ahead has given before: it counts as of its receipt.

        What takes back or corrects carries the stamp of what it means. So does the same value by another feed. Any other is one of
        its own, since a clock that is right comes to the same stamp later; but where the clocks differ by seconds only.
        """
        history, times = patient.history, (at, *reversed(patient.stamps[stamp]))
        if status in _AMENDING:
            wanted = (value, None) if status in _TAKEN_BACK and value != "" else (None,)
            found = (one for like in wanted for one in times if history.stands(parameter, one, like))
            return next(found, times[1])
        for one in times[1:]:
            ahead = stamp - one
            if ahead <= _ALIKE or (ahead <= self._tolerance and history.stands(parameter, one, value)):
                return one
        return at

    @staticmethod
    def _without_value(patient: Patient, one: Observation, times: Sequence[int]) -> vitals.Reading | None:
        """Make a reading of an observation without a usable value: one that is taken back, or a sample now declared final."""
        meaning = loinc.LOINC.get(one.code)
        if meaning is None:
            return None
        if one.status in _TAKEN_BACK:
            return vitals.Reading(meaning.parameter, "", meaning.preference)
        if one.value is None and one.status not in _UNVERIFIED:
            for at in times:
                sample = patient.history.promote(meaning.parameter, at)
                if sample is not None:
                    return vitals.Reading(meaning.parameter, sample, meaning.preference)
        return None

    @staticmethod
    def _forgive(patient: Patient, parameter: str, at: int) -> None:
        """Forget a refused reading of exactly that time: it was taken back, or corrected."""
        if (refusal := patient.refused.get(parameter)) is not None and refusal.at == at:
            del patient.refused[parameter]

    @staticmethod
    def _refuse(patient: Patient, name: str, one: Refusal) -> None:
        """Remember a refused reading, if it is the newest such; those of a stream in a row are told from one by itself.

        A row ends with a usable sample; what was refused of a validated set, only with a value that counts.
        """
        before, history = patient.refused.get(name), patient.history
        if before is not None and before.at > one.at:
            return
        if before is not None and one.since:
            kept = (*history.entries.get(name, ())[-1:], *(history.samples.get(name, ())[-1:] if before.since else ()))
            if all(at < before.at for at, _, _ in kept):
                one = one._replace(since=before.since)
        patient.refused[name] = one

    # ----------------------------------------------------------------------------------------------------------- taking

    def _take(self, patient: Patient, event: VitalsEvent, readings: "_Readings", rejected: list[Rejected]) -> _Taken:
        taken = _Taken()
        history, hours = patient.history, patient.hours
        charted = event.charted
        for at, value, rank, status, code, parameter in readings.values():
            final = status == "final"  # nearly all are: spares the look-ups
            if not final and status in _TAKEN_BACK:
                means = status == "entered-in-error" or value != ""  # X alone says that none can be had
                stray = means and self._fits_nothing(patient, parameter, at)
                if self._take_back(patient, parameter, at, value or None, rank, taken):
                    patient.hours = hours = None
                taken.unmatched = taken.unmatched or stray
                rejected.append(Rejected(code=code, reason=_TAKEN_BACK[status] + (_FITS_NOTHING if stray else "")))
                continue
            validated = charted and (final or status not in _UNVERIFIED)
            if not validated:
                rank += _UNVALIDATED
                samples = history.sample(
                    parameter, at, value, rank, samples=self._samples, spacing=self._spacing, within=self._within
                )
                persistent = self._persistent(patient, parameter, samples) if samples else None
                if persistent != value:
                    rejected.append(Rejected(code=code, reason=_not_yet(value, persistent)))
                if persistent is None:
                    taken.sampled = at if taken.sampled is None else max(at, taken.sampled)
                    continue
                value = persistent
            correcting = not final and status in _CORRECTING
            if correcting and patient.refused:
                self._forgive(patient, parameter, at)
            put = history.put(parameter, at, value, rank, correcting=correcting)
            if put is not Put.TAKEN_BACK and (taken.newest is None or at > taken.newest):
                taken.newest = at
            if history.samples and validated and parameter in history.samples and put in _STANDS:
                history.vouch(parameter, at, value, rank)
            if put is Put.NEW:
                taken.current = taken.fresh = True
                if patient.newest is None or at > patient.newest:
                    patient.newest = at
                if hours is not None and not hours.put(parameter, at, value):
                    patient.hours = hours = None
            elif put is Put.CHANGED:
                patient.hours = hours = None
                taken.corrected.append((parameter, at))
                if history.entries[parameter][-1][0] == at:
                    taken.current = taken.fresh = True
            elif put is Put.PAST:
                patient.hours = hours = None
            elif put is Put.REPLACED:
                patient.hours = hours = None
                if history.entries[parameter][-1][0] == at:
                    taken.current = taken.fresh = True
            elif put is Put.RIVAL:
                if self._contest(patient, parameter, at, value, taken):
                    patient.hours = hours = None
                else:
                    rejected.append(Rejected(code=code, reason=_GRAVER))
            elif put is Put.OUTRANKED:
                rejected.append(Rejected(code=code, reason="another value, of higher precedence, stands for this time"))
            elif put is Put.TAKEN_BACK:
                rejected.append(
                    Rejected(code=code, reason="this value was taken back for this time: only a correction restores it")
                )
        return taken

    def _persistent(self, patient: Patient, parameter: str, samples: Sequence[Entry]) -> float | str:
        """Return the middle one of a stream's samples; where two are in the middle the milder, so that one alone never counts.

        Words are ordered by their points; of those with the middle one's the commonest, or the newest.
        """
        scale, at = patient.context.scale, samples[-1][0]
        low = (len(samples) - 1) // 2
        if isinstance(samples[0][1], str):
            points = [_gravity(parameter, value, scale)[0] for _, value, _ in samples]
            middle = sorted(points)[low]
            return mode(value for (_, value, _), one in zip(reversed(samples), reversed(points), strict=True) if one == middle)
        ordered = sorted(samples, key=lambda one: one[1])
        first, second = ordered[low], ordered[len(samples) // 2]
        if first[1] == second[1]:
            return first[1]
        on_oxygen = self._on_oxygen(patient, at)
        return min(first, second, key=lambda one: (*_gravity(parameter, one[1], scale, on_oxygen), one[0]))[1]

    def _on_oxygen(self, patient: Patient, at: int) -> bool | None:
        oxygen = patient.history.latest("oxygen", at)
        return oxygen[1] == "oxygen" if oxygen is not None and at - oxygen[0] <= self._carry_oxygen else None

    def _contest(self, patient: Patient, parameter: str, at: int, value: float | str, taken: _Taken) -> bool:
        """Decide which of two values for one time counts, neither being a correction: the graver. True: the new one.

        Two feeds that stamp to the minute measure twice within it. The milder value is no proof that the graver was wrong, so it
        takes nothing back; the next set shows what lasted.
        """
        history = patient.history
        place = history.latest(parameter, at)
        assert place is not None
        on_oxygen = self._on_oxygen(patient, at)
        scale = patient.context.scale
        stands, new = (_gravity(parameter, one, scale, on_oxygen) for one in (place[1], value))
        history.settle(parameter, at, value, counts=new > stands)
        if new <= stands:
            return False
        if history.entries[parameter][-1][0] == at:
            taken.current = True
            taken.fresh = taken.fresh or new[0] > stands[0]  # as grave is the same minute told twice, not a set of its own
        return True

    @staticmethod
    def _fits_nothing(patient: Patient, parameter: str, at: int) -> bool:
        """Tell whether nothing is known to have been said of that time: no value, none taken back before, none refused."""
        history, refusal = patient.history, patient.refused.get(parameter)
        known = history.stands(parameter, at, None) or history.gone_within(parameter, at, at + 1, None)
        return not (known or (refusal and refusal.at == at) or history.may_have_let_go(parameter, at))

    def _take_back(
        self, patient: Patient, parameter: str, at: int, value: float | str | None, rank: int, taken: _Taken
    ) -> bool:
        history = patient.history
        self._forgive(patient, parameter, at)
        if history.drop_rival(parameter, at, value):
            return False
        entries = history.entries.get(parameter)
        newest = entries[-1][0] if entries else None
        found = history.remove(parameter, at, value, rank)
        if found or at != newest:  # else another value outranks it for that time
            taken.corrected.append((parameter, at))
        if found:
            patient.newest, taken.removed = history.newest, True
            taken.current = taken.current or at == newest
        return found

    # ---------------------------------------------------------------------------------------------------------- scoring

    def _score(
        self,
        made: Assessment,
        patient: Patient,
        readings: "_Readings",
        refused: Mapping[str, Refusal],
        observed: int,
        current: bool,
    ) -> None:
        """Fill in NEWS2 and the window: of now, or as of the set where it changes nothing about now."""
        history = patient.history
        if not made.late or current:
            made.current, reason = self.current(patient)
            made.news2, made.news2_reason = made.current, reason
            at = patient.newest if patient.newest is not None else observed
        else:
            if made.corrected:
                made.current, _ = self.current(patient)
            at = observed

            known = {name: entry for name in history.entries if (entry := history.latest(name, at)) is not None}
            for own in readings.values():  # it may be too old to be kept in the history
                if own[0] <= at and made.event.charted and own[3] not in _UNUSED:
                    best = known.get(own[5])
                    if best is None or best[0] < own[0]:
                        known[own[5]] = own[:3]
            doubted = {name: one for some in (patient.refused, refused) for name, one in some.items() if one.at <= at}
            made.news2, made.news2_reason = self._news2(patient, known, doubted, at)
        if made.news2 is not None:
            made.of_interest = made.news2.band != "low" or held_severity(made.news2, "high", self._rules) is not None
        unfit = patient.context.not_applicable(at)
        if unfit and unfit != "age unknown":
            made.window_reason = f"the model learned from adults who were not pregnant: {unfit}"
            return
        if made.late and not current:
            hours = HourlyWindow.of(history.entries, at)
            for taken_at, value, _, status, _, parameter in readings.values():  # it may be too old to be kept in the history
                if made.event.charted and status not in _UNUSED:
                    hours.put(parameter, taken_at, value)
        elif patient.newest is not None:
            if patient.hours is None:
                patient.hours = HourlyWindow.of(history.entries, patient.newest)
            hours = patient.hours
        else:
            hours = HourlyWindow()
        made.window = hours.array()
        if made.window is None:
            made.window_reason = "no vital sign known"

    def current(self, patient: Patient) -> tuple[News2 | None, str]:
        """Score a patient as of the newest value that counts: (NEWS2, why there is none)."""
        if patient.newest is None:
            return None, "no vital sign known"
        known = {name: values[-1] for name, values in patient.history.entries.items()}
        return self._news2(patient, known, patient.refused, patient.newest)

    def recent(self, patient: Patient, now: int | None) -> bool:
        """Tell whether what is known of a patient is recent enough to alert by itself; never before logged time began."""
        return patient.newest is not None and now is not None and now - patient.newest <= self._staleness

    def _news2(
        self, patient: Patient, known: Mapping[str, Entry], refused: Mapping[str, Refusal], at: int
    ) -> tuple[News2 | None, str]:
        """Score what is known at a time.

        A parameter whose newest reading was `refused` is missing. What scored before is added all the same: that it cannot be
        measured any more shows nobody to be better. What scored nothing is not: that would be to take it for normal.
        """
        reason = patient.context.not_applicable(at)
        if reason:
            return None, reason
        scale, cache = patient.context.scale, patient.scored
        doubted: dict[str, Refusal] = {}
        for name, _, carried in self._parameters if refused else ():
            doubt = refused.get(name)
            if doubt is not None and self._counts(doubt, known.get(name)) and at - doubt.at <= carried:
                doubted[name] = doubt
        oxygen = known.get("oxygen")
        on_oxygen = None
        if oxygen is not None and at - oxygen[0] <= self._carry_oxygen:
            on_oxygen = oxygen[1] == "oxygen" or (None if "oxygen" in doubted else False)
        parameters: list[Parameter] = []
        missing: list[str] = []
        observed_at, observed = 0, _EPOCH
        for name, unit, carried in self._parameters:
            entry = known.get(name)
            if entry is None or at - entry[0] > carried:
                missing.append(name)
                continue
            if name in doubted:
                missing.append(name)
                if not news2.points(name, entry[1], scale, on_oxygen)[1]:
                    continue
            before = cache.get(name)
            if before is not None and before[0] is entry and before[1] == scale and before[2] is on_oxygen:
                parameters.append(before[3])
                continue
            if entry[0] != observed_at:
                observed_at, observed = entry[0], when(entry[0])
            if name == "spo2":
                value, points = news2.points(name, entry[1], scale, on_oxygen)
            else:
                value, points = news2.points(name, entry[1])
            one = trusted(Parameter, {"name": name, "value": value, "unit": unit, "points": points, "observed_at": observed})
            cache[name] = (entry, scale, on_oxygen, one)
            parameters.append(one)
        if not parameters:
            return None, "no parameter of NEWS2 known"
        told = [RefusedReading(name=name, reason=doubt.reason, observed_at=when(doubt.at)) for name, doubt in doubted.items()]
        return news2.total(parameters, missing, scale, told), ""

    def _counts(self, refusal: Refusal, entry: Entry | None) -> bool:
        """Tell whether nothing usable came after a refused reading; of a stream one alone is an artefact, as of its samples."""
        lasts = not refusal.since or refusal.at - refusal.since >= self._lasting
        return lasts and (entry is None or entry[0] < refusal.at or (refusal.corrects and entry[0] == refusal.at))


_Entry = tuple[int, float | str, int, str, str, str]  # observed, value, rank, status, code, parameter
_Readings = dict[str, _Entry]  # by parameter; older values of a parameter that came in the same set under other keys, first


_GRAVER = "two values for one time, neither a correction: the graver counts"


def _written(patient: Patient, parameter: str, value: float | str, status: str, at: int, span: int) -> int:
    """Return the time of what an observation takes back or corrects; its own is written no finer than `span` seconds.

    What it takes back is of that value, where it tells one; else, and of what it corrects, it is the only one of these seconds:
    of several nobody can tell which. A value may also have been written less finely than what takes it back. Where none
    fits: the time as written.
    """
    history, end = patient.history, at + 1000 * span
    like = value if status in _TAKEN_BACK and value != "" else None
    for times in (history.within(parameter, at, end, like), history.gone_within(parameter, at, end, like)):
        if times:
            return at if at in times or (like is None and len(times) > 1) else times[-1]
    if like is not None and not history.stands(parameter, at, None):
        for cut in (at - at % 1000, at - at % 60_000):
            if history.stands(parameter, cut, like) or history.gone_within(parameter, cut, cut + 1, like):
                return cut
    return _refused_within(patient, parameter, at, span)


def _refused_within(patient: Patient, parameter: str, at: int, span: int) -> int:
    """Return when a reading was refused, if that was in the `span` seconds from a time on; else that time."""
    refusal = patient.refused.get(parameter)
    return refusal.at if refusal is not None and at <= refusal.at < at + 1000 * span else at


def _gravity(parameter: str, value: float | str, scale: Scale, on_oxygen: bool | None = None) -> tuple[int, float]:
    """Return NEWS2's points and how far from the typical a value lies; (0, 0.0) for what NEWS2 does not score."""
    if parameter not in news2.UNITS:
        return 0, 0.0
    points = news2.points(parameter, value, scale, on_oxygen)[1]
    return points, 0.0 if isinstance(value, str) else abs(value - _TYPICAL[parameter])


def _one_of(first: _Entry, second: _Entry, older: list[_Entry], rejected: list[Rejected], scale: Scale) -> _Entry:
    """Choose between two values of one parameter in one set: the newer; oxygen before air; the preferred code; the graver."""
    if first[0] != second[0]:
        early, late = sorted((first, second), key=lambda entry: entry[0])
        older.append(early)
        return late
    if first[1] == second[1]:
        return first if first[2] <= second[2] else second
    if first[5] == "oxygen" and "" not in (first[1], second[1]):
        return first if first[1] == "oxygen" else second
    if second[2] > first[2]:
        rejected.append(Rejected(code=second[4], reason="another code of the same vital sign in this set takes precedence"))
        return first
    if first[2] == second[2] and first[3] == second[3] == "final":
        milder, graver = sorted((first, second), key=lambda entry: _gravity(entry[5], entry[1], scale))
        rejected.append(Rejected(code=milder[4], reason=_GRAVER))
        return graver
    return second


def _swapped(systolic: _Entry, diastolic: _Entry) -> bool:
    high, low = systolic[1], diastolic[1]
    return systolic[0] == diastolic[0] and isinstance(high, float) and isinstance(low, float) and high < low


def _not_yet(value: float | str, persistent: float | str | None) -> str:
    if persistent is None:
        return f"unvalidated and not persistent yet: {value}"
    return f"unvalidated and not persistent: {value}, the middle of the last samples is {persistent}"


def _told(rejected: Sequence[Rejected]) -> tuple[Rejected, ...]:
    """Return what the score tells of them: a set of garbage must not make a score that no broker takes."""
    if not rejected:  # nearly always
        return ()
    shown = [Rejected(code=one.code[:_LONGEST], reason=one.reason[:_LONGEST]) for one in rejected[:_MOST_TOLD]]
    if len(rejected) > _MOST_TOLD:
        shown.append(Rejected(code="", reason=f"and {len(rejected) - _MOST_TOLD:,} more observations were not used"))
    return tuple(shown)
