"""Everything about monitoring and alerting that a site may decide, with its default and the reason for it.

The defaults follow the Royal College of Physicians' NEWS2 (2017) where it says something, and are cautious where it does not.
"""

from datetime import timedelta
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator, model_validator

from processors import durations, ucum
from processors.events import Severity
from processors.vitals import LIMITS


def _minutes(minutes: float) -> timedelta:
    return timedelta(minutes=minutes)


def _hours(hours: float) -> timedelta:
    return timedelta(hours=hours)


class _Rules(BaseModel):
    """A group of rules. Every duration in it may be written as `processors.durations` says, and none is negative or endless."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _read(cls, value: object, info: ValidationInfo) -> object:
        return durations.seconds(value) if cls._is_duration(info) else value

    @field_validator("*", mode="after")
    @classmethod
    def _bounded(cls, value: object, info: ValidationInfo) -> object:
        return durations.bounded(value) if cls._is_duration(info) and isinstance(value, timedelta) else value

    @classmethod
    def _is_duration(cls, info: ValidationInfo) -> bool:
        return info.field_name is not None and cls.model_fields[info.field_name].annotation is timedelta


class EscalationStep(_Rules):
    """One link of the chain: whom to tell when nobody has answered for so long since the first was asked.

    An answer, or another ward, begins that anew. That an unanswered alert gets graver does not, or the worst would wait longest.
    """

    after: timedelta = Field(gt=timedelta())
    route: str


class CeilingPolicy(_Rules):
    """Where alerts of patients with a recorded ceiling of care go, and whether they climb the chain when unanswered."""

    route: str
    escalates: bool = Field(False, description="off: a ceiling usually means that the emergency team is not to be called")


class CarryForward(_Rules):
    """For how long a value stands for its parameter when newer sets lack it; then the parameter counts as missing.

    RCP asks for a full set at least every 6 hours while the total is 1-4, so what changes fast is carried for one such interval.
    Temperature, consciousness and oxygen are charted less often and change by events that are charted: 12 hours, the longest
    interval that RCP allows.
    """

    respiratory_rate: timedelta = Field(
        _hours(6), le=_hours(24), description="changes fast: for one interval of RCP's at a total of 1-4"
    )
    spo2: timedelta = Field(_hours(6), le=_hours(24), description="changes fast: for one interval of RCP's at a total of 1-4")
    systolic: timedelta = Field(
        _hours(6), le=_hours(24), description="changes fast: for one interval of RCP's at a total of 1-4"
    )
    heart_rate: timedelta = Field(
        _hours(6), le=_hours(24), description="changes fast: for one interval of RCP's at a total of 1-4"
    )
    oxygen: timedelta = Field(
        _hours(12), le=_hours(24), description="charted less often, and changes by what is charted: RCP's longest interval"
    )
    consciousness: timedelta = Field(
        _hours(12), le=_hours(24), description="charted less often, and changes by what is charted: RCP's longest interval"
    )
    temperature: timedelta = Field(
        _hours(12), le=_hours(24), description="charted less often, and changes by what is charted: RCP's longest interval"
    )


class RepeatLast(_Rules):
    """How often the last link of the chain is told again while nobody answers and no set is calm, by severity. Milder: never."""

    high: timedelta = Field(_minutes(15), description="an emergency that nobody answers stays one; 0: never")
    medium: timedelta = Field(_hours(1), description="RCP: urgent, and a set at least hourly; 0: never")


class AcknowledgedFor(_Rules):
    """How long an acknowledgement holds while the current score still calls for the alert, by severity. Milder: for good.

    Then it waits for an answer anew. Silence about a patient goes by this too; a ceiling of care that does not escalate is exempt.
    """

    high: timedelta = Field(_hours(1), description="RCP: continuous observation; more often would be fatigue. 0: for good")
    medium: timedelta = Field(_hours(4), description="RCP: a set at least hourly; four of them. 0: for good")


class Silence(_Rules):
    """How long a patient may be without any observation that counts before that is an event of its own.

    By the last NEWS2, or by the alert that stands where that is graver: one milder set may be a slip.

    RCP's intervals (total 0: 12 hours; 1-4: 4-6 hours; a single 3 or 5-6: 1 hour; 7 and more: continuous), each with half an hour
    of grace for charting; "continuous" is taken as half an hour in all.
    """

    zero: timedelta = Field(_hours(12.5), gt=timedelta(), description="total 0: RCP's 12 hours, and grace for charting")
    low: timedelta = Field(_hours(6.5), gt=timedelta(), description="total 1-4: RCP's 4-6 hours, likewise")
    low_medium: timedelta = Field(_hours(1.5), gt=timedelta(), description="a single 3: RCP's hour, likewise")
    medium: timedelta = Field(_hours(1.5), gt=timedelta(), description="total 5-6: RCP's hour, likewise")
    high: timedelta = Field(
        _minutes(30), gt=timedelta(), description="total 7 and more: RCP's continuous monitoring, with room for charting"
    )
    unscored: timedelta = Field(
        _hours(12.5),
        gt=timedelta(),
        description="NEWS2 does not apply (a child, age unknown), or nothing came yet: the longest interval",
    )


class FeedSilence(_Rules):
    """How long a peer may bring nothing to this partition before "this feed stopped" is said.

    A partition sees only a share of a peer's patients, so the limit also grows to three times the longest pause that the peer made
    lately: a ward that charts every hour is not a stopped feed. It never grows beyond `most`.
    """

    limit: timedelta = Field(_minutes(30), gt=timedelta(), description="long enough for a quiet ward, short enough to matter")
    most: timedelta = Field(_hours(6), description="whatever the pauses were, six hours without a word is worth one")
    out_of_service: timedelta = Field(
        timedelta(days=7),
        gt=timedelta(),
        description="so long after it was told, a feed that is still silent counts as renamed or taken out of service: the alert "
        "ends and says so, and the feed is new when it is heard again. A week is longer than any repair that nobody hears of",
    )
    peers: dict[str, Annotated[durations.Duration, Field(gt=timedelta())]] = Field(
        default_factory=dict, description="a peer's own limit; then no pause is learned"
    )

    @model_validator(mode="after")
    def _grows_up_to_most(self) -> "FeedSilence":
        if self.limit > self.most:
            raise ValueError(f"monitor.feed_silence.limit ({self.limit}) must not be above `most` ({self.most})")
        return self


class Persistence(_Rules):
    """When a value from an unvalidated stream counts: the middle one of the last `samples`, one kept per `spacing`.

    So one artefact never counts and a change that holds for two samples does, as of the newest, however far apart they are (up to
    `within`). Before there are `samples`, two or more do over the time that so many take at the shortest (two minutes by default);
    of two in the middle the milder counts. A charted, validated set counts at once, and answers for the samples before it. What
    does not count is no observation to `silence`: a stream too sparse even for this is told there.
    """

    samples: int = Field(3, ge=1, le=9, description="the middle of three: one outlier is outvoted")
    spacing: timedelta = Field(_minutes(1), description="a probe that slips is usually put back within a minute")
    within: timedelta = Field(
        _hours(6),
        description="older samples say nothing about now: for so long a charted value of what changes fast is carried forward too "
        "(RCP's longest interval at a total of 1-4), so a device that sends every quarter of an hour, or hourly, is scored",
    )


class MonitorRules(_Rules):
    """The rules of one monitor. Durations are of observed time where they speak of sets, else of logged time."""

    # what may alert ------------------------------------------------------------------------------------------------------
    staleness: timedelta = Field(
        _minutes(60),
        gt=timedelta(),
        description="a set older than this when it is processed is history: never alerts. An hour covers charting after a round; "
        "RCP asks for a new set hourly from a total of 5, so what is older should have been superseded",
    )
    blind_after: timedelta = Field(
        _minutes(10),
        gt=timedelta(),
        description="a gap in the lane's logged time longer than this is an outage: one notice says from when to when, and only "
        "each patient's current state may alert once the backlog is through. Shorter gaps (a restart) change nothing",
    )
    catch_up: timedelta = Field(
        _minutes(5),
        description="after an outage patients' current states alert, and silence and escalation are judged, once a set of after it "
        "comes, or no set of the backlog has come for so long: missing sets and answers may lie in it",
    )
    catch_up_most: timedelta = Field(
        _minutes(30), description="and after so long in all, whatever still comes; the notice of the outage then says so"
    )
    queue_age: timedelta = Field(
        _minutes(10),
        description="a set this old when it comes may be out of a sender's queue: it waits `queue_wait` for newer ones of the "
        "patient before it may alert. Not where a patient's sets keep coming so late, by charting or by a slow clock",
    )
    queue_wait: timedelta = Field(
        _minutes(1),
        description="a queue that drains brings a patient's next set within seconds; late charting can spare a minute",
    )
    queue_most: timedelta = Field(
        _minutes(5),
        description="and after so long in all, whatever still comes: as long as an emergency waits for its first link. "
        "A queue that drains at twice the pace of the day would hold a patient's alerts back until it is empty",
    )
    future_tolerance: timedelta = Field(
        _minutes(5),
        description="a set stamped later than it was received by more than this is flagged: a clock is wrong. Whatever is stamped "
        "later counts as of its receipt, or a clock that runs ahead would make what is charted meanwhile look old",
    )
    set_back: timedelta = Field(
        _minutes(1),
        description="logged time goes back when a clock shows this much less than was logged: a worker's clock was wrong, or is. "
        "Of less, as two hosts' clocks may differ, it stands still until it is caught up with",
    )
    minimum_severity: Literal["low-medium", "medium", "high"] = Field(
        "low-medium", description="the mildest NEWS2 trigger that alerts; RCP: a single 3 asks for a clinician's assessment"
    )
    medium_total: int = Field(5, ge=1, le=20, description="RCP chart 2: urgent response")
    high_total: int = Field(7, ge=1, le=20, description="RCP chart 2: emergency response")
    single_three: bool = Field(True, description="RCP chart 2: a single parameter with 3 points")
    carry_forward: CarryForward = CarryForward()
    persistence: Persistence = Persistence()

    # fatigue -------------------------------------------------------------------------------------------------------------
    hysteresis: int = Field(
        1,
        ge=0,
        le=5,
        description="points below a threshold before a severity counts as left; 5-4-5 is one alert. A single 3 likewise: "
        "respirations of 25, 24, 25 are one (2 points still hold it), 25, 20, 25 may be two",
    )
    resolve_sets: int = Field(2, ge=1, le=10, description="sets in a row below, before an alert resolves: one may be a slip")
    resolve_after: timedelta = Field(
        _minutes(15), description="and they must span this long: a monitor brings two sets in a minute"
    )
    update_rise: int = Field(
        2,
        ge=1,
        le=20,
        description="points above what was last told that are worth telling at the same severity. A 3 in a parameter that was not "
        "told as one is, too, whatever the total: another organ fails",
    )
    suppression: timedelta = Field(
        _minutes(15),
        description="after an alert resolved, no new one of the same or lower severity, unless `update_rise` above what was last "
        "told or by another single 3; if it still holds then, it is raised. `high` is never held back",
    )
    declined_suppression: timedelta = Field(
        _minutes(60),
        description="the same after somebody declined one, `high` too: RCP's next set is due within the hour. A decline of `high` "
        "that nobody has answered ends it only when no link of `escalation` is left: before, the next one is told at once",
    )
    ward_budget: int = Field(
        20,
        ge=1,
        description="alerts a ward gets in 24 hours through one partition; beyond it those of the mildest severity go to the quiet "
        "route, visibly, and do not escalate. A patient uses a quarter of it at most (three alerts at least): one who swings does "
        "not use up the others'. Medium and high always page, and so does a 3 that was not told of the patient in that time",
    )
    quiet_route: str = Field("worklist", description="where alerts beyond the budget go")

    # whom to tell --------------------------------------------------------------------------------------------------------
    default_route: str = Field("default", min_length=1, description="where alerts go of wards without a route of their own")
    ward_routes: dict[str, str] = Field(default_factory=dict, description="ward, or FACILITY|WARD (PV1-3.4), -> route")
    ceilings: dict[str, CeilingPolicy] = Field(
        default_factory=dict,
        description="recorded ceiling of care -> policy; one that is not listed is shown and changes no route",
    )
    escalation: dict[Severity, tuple[EscalationStep, ...]] = Field(
        default={
            "high": (
                EscalationStep(after=_minutes(5), route="nurse-in-charge"),
                EscalationStep(after=_minutes(10), route="rapid-response"),
            ),
            "medium": (
                EscalationStep(after=_minutes(15), route="nurse-in-charge"),
                EscalationStep(after=_minutes(30), route="ward-doctor"),
            ),
            "low-medium": (EscalationStep(after=_minutes(60), route="nurse-in-charge"),),
        },
        description="the chain by severity, of what a score raised or a patient's silence did; RCP: emergency at once, urgent "
        "within the hour",
    )
    repeat_last: RepeatLast = RepeatLast()
    acknowledged_for: AcknowledgedFor = AcknowledgedFor()

    # silence -------------------------------------------------------------------------------------------------------------
    silence: Silence = Silence()
    feed_silence: FeedSilence = FeedSilence()
    observed_after_end: timedelta = Field(
        _minutes(30),
        description="a set observed so much later than a discharge or death was recorded is told, once a stay: the record may be "
        "wrong, and such a patient is not watched. Until then a device may still be coming off",
    )
    heartbeat: timedelta = Field(_minutes(1), gt=timedelta(), description="how often each partition says that it is alive")

    # the model -----------------------------------------------------------------------------------------------------------
    model_pages: bool = Field(
        False, description="off until the site has validated the model on its own patients and turned it on"
    )
    model_threshold: float = Field(
        0.5, gt=0, le=1, description="probability from which it pages; a site sets its own by validation"
    )
    model_severity: Severity = Field("medium", description="of an alert by the model")
    model_hysteresis: float = Field(
        0.2, ge=0, lt=1, description="share of the threshold to fall below before it counts as left"
    )

    # what is kept --------------------------------------------------------------------------------------------------------
    sources: tuple[str, ...] = Field(
        (), description="peers in order of precedence, where two give different values for one time; others follow, equal"
    )
    unitless: dict[str, str] = Field(
        default={"heart_rate": "/min", "respiratory_rate": "/min"},
        description="unit where a sender gives none: rates have only one; a temperature or a pressure without one is refused",
    )
    remembered_ids: int = Field(
        16,
        ge=1,
        le=256,
        description="events per patient whose repeats are known by id, and sets that may still alert (`staleness`; 128 at most); "
        "others by value. Of answers to a partition's own alerts as many",
    )
    forget_after: timedelta = Field(
        _hours(24),
        description="after discharge, death or merge, and the last set, what was observed is dropped; late corrections come within "
        "a day. The context stays: who comes back is no stranger",
    )
    forget_silent: timedelta = Field(
        timedelta(days=14), description="what was observed of patients without a known encounter, of whom nothing is heard"
    )

    @model_validator(mode="after")
    def _severities_are_in_order(self) -> "MonitorRules":
        if self.medium_total >= self.high_total:
            raise ValueError(
                f"monitor.medium_total ({self.medium_total}) must be below monitor.high_total ({self.high_total}): else "
                "nothing would ever be of medium severity"
            )
        if self.hysteresis >= self.medium_total:
            raise ValueError(
                f"monitor.hysteresis ({self.hysteresis}) must be below monitor.medium_total ({self.medium_total}): else no "
                "alert would ever resolve"
            )
        return self

    @model_validator(mode="after")
    def _times_fit(self) -> "MonitorRules":
        if self.heartbeat >= self.blind_after:
            raise ValueError(
                f"monitor.heartbeat ({self.heartbeat}) must be below monitor.blind_after ({self.blind_after}): else the time that "
                "patients are watched would not be counted"
            )
        longest = max(getattr(self.silence, name) for name in type(self.silence).model_fields)
        if self.forget_silent <= longest:
            raise ValueError(
                f"monitor.forget_silent ({self.forget_silent}) must be above every monitor.silence ({longest}): else a patient "
                "would be forgotten before their silence is told"
            )
        if self.catch_up > self.catch_up_most:
            raise ValueError(
                f"monitor.catch_up ({self.catch_up}) must not be above monitor.catch_up_most ({self.catch_up_most}): else it would "
                "never be waited so long"
            )
        if self.queue_wait > self.queue_most:
            raise ValueError(
                f"monitor.queue_wait ({self.queue_wait}) must not be above monitor.queue_most ({self.queue_most}): else it would "
                "never be waited so long"
            )
        kept = self.persistence
        if kept.within < (kept.samples - 1) * kept.spacing:
            raise ValueError(
                f"monitor.persistence.within ({kept.within}) must hold `samples` ({kept.samples}) at `spacing` ({kept.spacing}): "
                "else no value of an unvalidated stream would ever count"
            )
        return self

    @field_validator("unitless")
    @classmethod
    def _units_of_what_is_measured(cls, units: dict[str, str]) -> dict[str, str]:
        for quantity, unit in units.items():
            if quantity not in LIMITS:
                raise ValueError(f"nothing that is scored is called {quantity!r}: {', '.join(LIMITS)}")
            if ucum.conversion(unit, LIMITS[quantity].unit) is None:
                raise ValueError(f"{unit!r} is no unit of {quantity}")
        return units
