"""What an alert is, how grave, and how it is worded. Its life is led by `processors.desk`.

The wording is for a nurse's small screen. It says what was measured and what the Royal College of Physicians' NEWS2 asks for; it
never names a disease and never a person.
"""

from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, field, fields
from datetime import datetime, timedelta
from typing import Any

from processors.events import AlertKind, AlertState, Deterioration, News2, Parameter, Severity
from processors.rules import MonitorRules

RANK: dict[str, int] = {"": 0, "information": 1, "low-medium": 2, "medium": 3, "high": 4}

# RCP 2017, chart 2 and 4: what each trigger asks for.
_RESPONSE: dict[str, str] = {
    "high": "Emergency threshold: RCP asks for assessment by a team with critical-care skills and continuous monitoring.",
    "medium": "Urgent threshold: RCP asks for urgent assessment by a clinician and observations at least hourly.",
    "low-medium": "Threshold of a single 3: RCP asks for assessment by the ward's clinician and observations at least hourly.",
}
# What a score says that asks for nothing, since its alert is over.
_STANDING: dict[str, str] = {
    "high": "The score stands at the emergency threshold.",
    "medium": "The score stands at the urgent threshold.",
    "low-medium": "One parameter scores 3.",
    "": "The score is below every threshold that alerts.",
}
OVER: dict[str, str] = {
    "resolved": "This alert is over.",
    "declined": "This alert is over: somebody declined it.",
    "withdrawn": "This alert is taken back.",
}
_ANSWERED = "Somebody has answered; nobody else is called unless it gets graver or goes on for long."
_AGED = timedelta(minutes=5)  # what is as old as that its title does not show as if it were now
_DAY = timedelta(days=1)
_ASSISTIVE = "Supports clinical judgement; does not replace it or the bedside monitor."
_RESPONSIVENESS = {
    "A": "alert",
    "C": "confusion taken as new",
    "V": "responds to voice",
    "P": "responds to pain",
    "U": "unresponsive",
}
NAMES: dict[str, str] = {
    "respiratory_rate": "respirations",
    "spo2": "SpO2",
    "oxygen": "air or oxygen",
    "systolic": "systolic BP",
    "heart_rate": "pulse",
    "consciousness": "consciousness",
    "temperature": "temperature",
    "diastolic": "diastolic BP",
    "mean_arterial": "mean arterial BP",
}


@dataclass(slots=True)
class Alert:
    """An alert under way. Times are milliseconds since 1970, of answers and steps in logged time.

    Snapshots of before 0.1.0 know nothing of `threes`, nor when a step was taken.
    """

    id: str
    kind: AlertKind
    severity: Severity
    state: AlertState = "raised"
    sequence: int = -1  # of the last step
    route: str = "default"
    routes: tuple[str, ...] = ()  # all that were told, in order
    quiet: bool = False  # beyond the ward's budget: on the quiet route, and nobody is waited for
    total: int = 0  # NEWS2 as last told
    evidence: dict[str, int] = field(default_factory=dict)  # parameter that scored -> when it was observed
    threes: tuple[str, ...] | None = None  # of these, told to score 3 and not left since by the margin
    score_id: str | None = None
    observed: int = 0
    received: int = 0
    since: int = 0  # no-observations, observed-after-end, feed-stopped, monitoring-blind: from when; `Patient.shut`
    # monitoring-blind: to when; feed-stopped: when it was told; no-observations: the limit; feed-late: how late (ms)
    until: int = 0
    about: str = ""  # feed-stopped, feed-late: the peer; observed-after-end: why the watch is over; `Patient.shut`: the stay
    text: str = ""  # deterioration: the last wording
    waiting_since: int | None = None  # None: answered, or not the kind that climbs
    step: int = 0  # escalation steps taken
    escalated_at: int = 0  # when the last of them was
    asked: int = 0  # sequence of the last step that had to be answered anew
    asked_at: int = 0  # when that was; 0: only the first had to be
    acknowledged_at: int | None = None  # None: nobody has answered
    calm_sets: int = 0
    calm_since: int = 0  # observed time of the first calm set

    def dump(self) -> dict[str, Any]:
        """Return what `load` takes, without what is at its default."""
        return {name: value for name, value in asdict(self).items() if value != _DEFAULTS.get(name)}

    @classmethod
    def load(cls, raw: dict[str, Any]) -> "Alert":
        """Read `dump`'s mapping; an older one knows the route of the last step alone, and not when it was answered."""
        made = cls(**raw)
        made.routes = tuple(made.routes) or (made.route,)
        made.threes = None if made.threes is None else tuple(made.threes)
        if made.state == "acknowledged" and made.acknowledged_at is None and made.severity != "information":
            made.acknowledged_at = made.received or made.since
        return made


_DEFAULTS: dict[str, object] = {
    one.name: ({} if one.name == "evidence" else one.default)
    for one in fields(Alert)
    if one.name not in ("id", "kind", "severity")
}


def severity_of(score: News2 | None, rules: MonitorRules) -> Severity | None:
    """Return how grave a score is by the site's thresholds, or None: nothing that alerts."""
    if score is None:
        return None
    found: Severity | None = None
    if score.total >= rules.high_total:
        found = "high"
    elif score.total >= rules.medium_total:
        found = "medium"
    elif score.single_three and rules.single_three:
        found = "low-medium"
    return found if RANK[found or ""] >= RANK[rules.minimum_severity] else None


def held_severity(score: News2, standing: Severity, rules: MonitorRules, threes: Collection[str] = ()) -> Severity | None:
    """Return the severity that still holds for an alert of severity `standing`, hysteresis included, or None.

    A threshold once passed counts as left only `hysteresis` points below it. So does a single 3 that was told (`threes`), where
    that is what the alert is about: of a graver one that has sunk below every threshold, what scores 2 is no reason to stand on.
    """
    low = RANK[rules.minimum_severity]
    for level, threshold in (("high", rules.high_total), ("medium", rules.medium_total)):
        if low <= RANK[level] <= RANK[standing] and score.total >= threshold - rules.hysteresis:
            return level  # type: ignore[return-value]
    if low <= RANK["low-medium"] and rules.single_three:
        held = _left_below(rules) if standing == "low-medium" else 3
        if score.single_three or any(one.points >= held and one.name in threes for one in score.parameters):
            return "low-medium"
    return None


def _left_below(rules: MonitorRules) -> int:
    return max(1, 3 - rules.hysteresis)


def threes(score: News2, told: Collection[str], rules: MonitorRules) -> tuple[str, ...]:
    """Return the parameters that score 3, and of those `told` to do so the ones that have not left it, or are not known now."""
    points, held = {one.name: one.points for one in score.parameters}, _left_below(rules)
    return tuple(name for name in NAMES if points.get(name, 0) == 3 or (name in told and points.get(name, 3) >= held))


def new_threes(score: News2, told: Collection[str], rules: MonitorRules) -> list[str]:
    """Return the parameters that score 3 and were not `told` to: another organ than the one that somebody knows of."""
    return [one.name for one in score.parameters if one.points == 3 and one.name not in told] if rules.single_three else []


def phrase(one: Parameter) -> str:
    """Word one parameter: `respirations 26/min (3)`."""
    value = one.value
    if one.name == "oxygen":
        words = "on oxygen" if value == "oxygen" else "on air"
    elif one.name == "consciousness":
        words = _RESPONSIVENESS[str(value)]
    else:
        unit = {"/min": "/min", "%": "%", "mm[Hg]": " mmHg", "Cel": " °C"}[one.unit]
        words = f"{NAMES[one.name]} {value:.1f}{unit}" if one.name == "temperature" else f"{NAMES[one.name]} {value:.0f}{unit}"
    return f"{words} ({one.points})"


def clock(at: datetime, now: datetime) -> str:
    """Word a time of day: `08:00 UTC`, with its date where that is a day ago."""
    return f"{at:%H:%M} UTC" if now - at < _DAY else f"{at:%Y-%m-%d %H:%M} UTC"


def told(alert: Alert, at: datetime, now: datetime) -> str:
    """Word what an alert was last told for, which was measured `at`: `NEWS2 3 (respirations at 3) at 08:00 UTC`."""
    by = ", ".join(NAMES[name] for name in alert.threes or ()) if alert.severity == "low-medium" else ""
    return f"NEWS2 {alert.total}{f' ({by} at 3)' if by else ''} at {clock(at, now)}"


def news2_title(score: News2, was: int | None, now: datetime, graver: str = "") -> str:
    """One line: `NEWS2 7 (was 4): respirations 26/min (3), SpO2 91% (3), on oxygen (2)`.

    With `as of 08:00 UTC` where that is not now. Where the alert stands for a `graver` score (as `told`) than this one, which may
    be a slip, with both: `NEWS2 8 at 08:00 UTC, then 1 at 08:04 UTC: pulse 95/min (1)`.
    """
    scored = sorted((one for one in score.parameters if one.points), key=lambda one: -one.points)
    least = "at least " if score.at_least else ""
    listed = ", ".join(map(phrase, scored))
    newest = _newest(score)
    if graver:
        words = f"{graver}, then {least}{score.total} at {clock(newest, now)}"
    else:
        before = f" (was {was})" if was is not None and was != score.total else ""
        aged = f" as of {clock(newest, now)}" if now - newest >= _AGED else ""
        words = f"NEWS2 {least}{score.total}{before}{aged}"
    return words + (f": {listed}" if listed else "")


def _newest(score: News2) -> datetime:
    return max(one.observed_at for one in score.parameters)


def news2_detail(
    score: News2 | None,
    state: AlertState,
    severity: Severity,
    stands: Severity | None,
    now: datetime,
    *,
    told: str,
    graver: bool = False,
    ceiling: str = "",
) -> str:
    """Say in whole sentences what was seen, what is missing or carried forward, and what RCP asks for while the alert stands.

    `severity` is the alert's, `stands` the score's, `told` what was last told, for where no score is at hand or it is `graver`.
    """
    over = state in OVER
    sentences = [outcome(state) + ("" if over else _RESPONSE[severity])]
    if score is None:
        return " ".join([sentences[0].strip(), f"Last told: {told}.", _ASSISTIVE])
    if over:
        sentences[0] += _STANDING[stands or ""]
    if graver:
        sentences.append(f"Last told: {told}.")
    newest = _newest(score)
    sentences.append(f"As of {clock(newest, now)}.")
    if not over and RANK[stands or ""] < RANK[severity]:
        sentences.append("That is below the alert's threshold; the alert stands until it has lasted.")
    others = [phrase(one) for one in score.parameters if not one.points]
    if others:
        sentences.append(f"Also: {', '.join(others)}.")
    carried = [one for one in score.parameters if one.observed_at < newest]
    if carried:
        listed = ", ".join(f"{NAMES[one.name]} from {one.observed_at:%H:%M} UTC" for one in carried)
        sentences.append(f"Carried forward: {listed}.")
    if score.missing:
        sentences.append(f"Missing, true total may be higher: {', '.join(NAMES[name] for name in score.missing)}.")
    for refused in score.refused:
        why = refused.reason.removeprefix("impossible: ")
        sentences.append(f"{NAMES[refused.name]} of {refused.observed_at:%H:%M} UTC could not be used: {why}.")
    if score.scale == 2:
        sentences.append("SpO2 scale 2 by recorded decision.")
    if ceiling:
        sentences.append(f"Ceiling of care recorded: {ceiling}.")
    return " ".join([*sentences, _ASSISTIVE])


def model_title(answer: Deterioration, threshold: float) -> str:
    """One line for an alert by the model, with the vital signs that raised the score; one that lowered it is no reason for it."""
    drivers = ", ".join(NAMES.get(one.name, one.name) for one in answer.drivers if one.effect > 0)
    listed = f": mostly {drivers}" if drivers else ""
    return f"Deterioration score {answer.probability:.2f} (threshold {threshold:.2f}){listed}"


def model_detail(answer: Deterioration) -> str:
    """Say what the model's figure is."""
    return (
        f"Model {answer.model.name} {answer.model.version}: probability {answer.probability:.2f} of deterioration within "
        f"{answer.horizon_hours} hours, from the last 24 hours of vital signs. {_ASSISTIVE}"
    )


def after_end_title(ended: str, after: int, score: News2 | None) -> str:
    """One line: `Observed 45 min after the watch ended (discharged): NEWS2 9`."""
    found = f": NEWS2 {'at least ' if score.at_least else ''}{score.total}" if score else ""
    return f"Observed {hours_and_minutes(after)} after the watch ended ({ended}){found}"


def after_end_detail(state: AlertState, ended: str, since: datetime) -> str:
    """Say what is wrong where one who is recorded as gone goes on being observed, and who can mend it."""
    return (
        f"{outcome(state)}Recorded at {since:%Y-%m-%d %H:%M} UTC: {ended}. Observations go on, and no score of them alerts. "
        "Whoever is still here must be admitted again, or the discharge or death cancelled, to be watched."
    )


def resting_detail(state: AlertState) -> str:
    """Say what an alert by the model is where its figure is not at hand."""
    return f"{outcome(state)}By the deterioration model. {_ASSISTIVE}"


def outcome(state: AlertState) -> str:
    """Say that an alert is over or answered: a sentence and a space, or nothing while it waits."""
    return f"{OVER[state]} " if state in OVER else f"{_ANSWERED} " if state == "acknowledged" else ""


def hours_and_minutes(milliseconds: int) -> str:
    """Word a span: `1 h 30 min`."""
    minutes = max(0, milliseconds) // 60_000
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min"


def retracted(why: str) -> str:
    """Word why an alert waits for an answer anew."""
    return f"the answer was taken back{': ' if why else ''}{why}"


def missing_evidence(evidence: Collection[str], score: News2) -> Sequence[str]:
    """Return what scored when the alert was told and is not known now: while there is any, nothing may resolve."""
    return [name for name in score.missing if name in evidence]
