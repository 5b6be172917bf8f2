"""A reading that cannot be used: what it makes of the score, of the alert's words, and of the alert's life."""

from typing import Any

import pytest

from processors.events import Observation, ScoreEvent
from processors.loinc import LOINC
from processors.monitor import Monitor
from processors.patients import Refusal
from tests.bedside import CODES, PATIENT, WELL, Ward, observation, steps, vitals

ARREST: dict[str, Any] = {"hr": 0, "rr": 0, "spo2": 0, "sbp": 0}


def restart(ward: Ward) -> None:
    state = ward.monitor.dump(PATIENT)
    own = ward.monitor.dump(ward.monitor.id)
    ward.monitor = Monitor(ward.monitor.rules)
    ward.monitor.load(ward.monitor.id, own)
    ward.monitor.load(PATIENT, state)


def points(score: Any) -> dict[str, int]:
    return {one.name: one.points for one in score.news2.parameters}


@pytest.mark.parametrize("restarted", [False, True])
def test_what_was_normal_before_does_not_stand_for_a_reading_that_was_refused(restarted: bool) -> None:
    ward = Ward()
    ward.chart(0, WELL)
    score, _ = ward.chart(5, {"spo2": 0, "rr": 18})
    assert score.news2.at_least and score.news2.missing == ("spo2",)
    assert "spo2" not in points(score)
    (refused,) = score.news2.refused
    assert refused.name == "spo2" and "0 % is outside" in refused.reason and refused.observed_at == score.observed_at
    if restarted:
        restart(ward)
    score, _ = ward.chart(10, {"hr": 75})
    assert score.news2.missing == ("spo2",) and score.news2.refused == (refused,)
    score, _ = ward.chart(15, {"spo2": 97})
    assert not score.news2.at_least and score.news2.refused == ()


def test_the_alert_says_what_was_not_believed() -> None:
    ward = Ward()
    ward.chart(0, WELL)
    _, (alert,) = ward.chart(5, {"hr": 140, "rr": 26, "spo2": 0})
    assert alert.title.startswith("NEWS2 at least 6")
    assert "SpO2 of 08:05 UTC could not be used: 0 % is outside 1-100" in alert.detail
    assert "Missing, true total may be higher: SpO2." in alert.detail


@pytest.mark.parametrize(
    ("values", "missing"),
    [
        ({"sbp": 60, "dbp": 62}, "systolic"),
        ({"sbp": 5}, "systolic"),
        ({"acvpu": "drowsy"}, "consciousness"),
        ({"temp": 60}, "temperature"),
        ({"flow": -1}, "oxygen"),
    ],
)
def test_whatever_cannot_be_used_makes_its_parameter_missing(values: dict[str, Any], missing: str) -> None:
    ward = Ward()
    ward.chart(0, WELL)
    score, _ = ward.chart(5, {**values, "hr": 75})
    assert score.news2.missing == (missing,) and [one.name for one in score.news2.refused] == [missing]


def test_a_unit_that_is_not_known_too() -> None:
    ward = Ward()
    ward.chart(0, WELL)
    score, _ = ward.chart(5, observations=[observation("temp", 40, unit="furlong"), observation("hr", 75)])
    assert score.news2.missing == ("temperature",)


def test_what_scored_before_is_added_and_called_missing() -> None:
    ward = Ward()
    ward.chart(0, {**WELL, "spo2": 84})
    score, (alert,) = ward.chart(5, {"spo2": 0, "rr": 24, "hr": 115})
    assert score.news2.total == 7 and score.news2.missing == ("spo2",) and points(score)["spo2"] == 3
    assert alert.severity == "high" and "Carried forward: " in alert.detail and "SpO2 from 08:00 UTC" in alert.detail


def test_a_probe_that_is_off_neither_raises_nor_resolves() -> None:
    ward = Ward()
    ward.chart(0, WELL)
    assert steps(ward.chart(1, {"spo2": 0})[1]) == []
    _, (raised,) = ward.chart(2, {"spo2": 88})
    for minute in range(5, 120, 5):
        assert ward.chart(minute, {**WELL, "spo2": 0})[1] == []
        assert not [one for one in ward.meanwhile if one.state == "resolved"]
    for minute in range(120, 140, 5):
        _, told = ward.chart(minute, WELL)
    assert steps(told) == [(raised.kind, "resolved", raised.severity)]


def test_a_set_of_nothing_but_refused_readings_is_no_observation() -> None:
    ward = Ward()
    ward.chart(0, WELL)
    score, told = ward.chart(5, ARREST | {"hr": 400, "rr": 200})
    assert told == [] and score.news2.total == 0
    assert score.news2.missing == ("respiratory_rate", "spo2", "systolic", "heart_rate")


def test_an_arrest_as_a_monitor_shows_it_is_an_emergency() -> None:
    ward = Ward()
    ward.chart(0, WELL)
    score, (alert,) = ward.chart(5, ARREST)
    assert score.rejected == () and not score.news2.at_least
    assert score.news2.total == 12 and alert.severity == "high" and "SpO2 0% (3)" in alert.title


@pytest.mark.parametrize("signs", [{"hr": 0}, {"rr": 0}, {"hr": 70, "rr": 0}, {}])
def test_without_both_signs_of_it_a_zero_is_not_believed(signs: dict[str, Any]) -> None:
    ward = Ward()
    ward.chart(0, WELL)
    score, _ = ward.chart(5, {"spo2": 0, "sbp": 0, "temp": 37, **signs})
    assert score.news2.missing == ("spo2", "systolic")


def test_a_refused_reading_that_is_taken_back_is_none() -> None:
    ward = Ward()
    ward.chart(0, WELL)
    ward.chart(5, {"spo2": 0, "hr": 75})
    score, _ = ward.chart(5, {"spo2": 0}, status="entered-in-error", received=6)
    assert not score.news2.at_least


def test_a_usable_reading_of_the_same_time_counts_whichever_comes_first() -> None:
    for first, second in ((0, 97), (97, 0)):
        ward = Ward()
        ward.chart(0, WELL)
        ward.chart(5, {"spo2": first, "hr": 75})
        score, _ = ward.chart(5, {"spo2": second, "hr": 75}, peer="gateway", received=6)
        assert not score.news2.at_least


def test_of_a_stream_one_refused_sample_is_an_artefact_and_lasting_ones_are_not() -> None:
    ward = Ward()
    ward.chart(0, WELL)
    score, _ = ward.chart(1, {"spo2": 0, "hr": 75}, charted=False)
    assert not score.news2.at_least
    ward.chart(2, {"spo2": 97, "hr": 75}, charted=False)
    for minute in (3, 4):
        score, _ = ward.chart(minute, {"spo2": 0, "hr": 75}, charted=False)
        assert not score.news2.at_least
    score, _ = ward.chart(5, {"spo2": 0, "hr": 75}, charted=False)
    assert score.news2.missing == ("spo2",)
    score, _ = ward.chart(6, {"spo2": 97}, charted=False)
    score, _ = ward.chart(8, {"spo2": 97}, charted=False)
    assert not score.news2.at_least


def test_a_single_sample_does_not_bring_back_what_a_validated_set_refused() -> None:
    ward = Ward()
    ward.chart(0, WELL)
    ward.chart(10, {"spo2": 0, "hr": 75})
    ward.chart(11, {"spo2": 97}, charted=False)
    score, _ = ward.chart(12, {"spo2": 0, "hr": 75}, charted=False)
    assert score.news2.missing == ("spo2",)


def test_a_late_set_is_scored_with_what_it_could_not_use() -> None:
    ward = Ward()
    ward.chart(0, WELL)
    ward.chart(100, WELL)
    score, _ = ward.chart(30, {"spo2": 0, "hr": 75}, received=101)
    assert score.late and score.news2.missing == ("spo2",)
    score, _ = ward.chart(102, {"hr": 75})
    assert not score.news2.at_least


def test_a_snapshot_of_before_knows_no_refused_readings() -> None:
    ward = Ward()
    ward.chart(0, WELL)
    assert b"refused" not in (ward.monitor.dump(PATIENT) or b"")
    restart(ward)
    assert ward.chart(5, {"hr": 75})[0].news2.total == 0


def test_test_traffic_says_it_too() -> None:
    ward = Ward()
    (score,) = ward.say(vitals(5, {**WELL, "spo2": 0}, processing="training"))
    assert isinstance(score, ScoreEvent) and score.news2 is not None
    assert score.news2.missing == ("spo2",) and score.news2.refused


# ---------------------------------------------------------------------------------- what a connector could not read: no value


def unread(name: str = "spo2", *, status: Any = "final", reason: str = "not a number") -> Observation:
    return Observation(code=CODES[name][0], refused=reason, status=status)


@pytest.mark.parametrize("status", ["final", "preliminary", "cancelled", "corrected", "unknown"])
@pytest.mark.parametrize("name", ["rr", "spo2", "flow", "sbp", "hr", "acvpu", "temp"])
def test_what_no_connector_could_read_makes_its_parameter_missing(name: str, status: str) -> None:
    ward = Ward()
    ward.chart(0, WELL)
    other = "hr" if name != "hr" else "rr"
    score, _ = ward.chart(5, observations=[unread(name, status=status), observation(other, 18 if other == "rr" else 75)])
    missing = LOINC[CODES[name][0]].parameter
    if status in ("preliminary", "unknown"):  # nobody has validated that: as a sample
        assert not score.news2.at_least and score.rejected[0].reason == "not a number"
        return
    assert score.news2.missing == (missing,) and [one.name for one in score.news2.refused] == [missing]
    assert [one.code for one in score.rejected] == [CODES[name][0]]  # told once
    restart(ward)
    assert ward.chart(6, {"temp" if name != "temp" else "rr": 16 if name == "temp" else 36.8})[0].news2.missing == (missing,)
    assert not ward.chart(10, WELL)[0].news2.at_least


def test_it_need_not_come_with_anything_else() -> None:
    """A FHIR server sends one Observation at a time."""
    ward = Ward()
    ward.chart(0, WELL)
    score, told = ward.chart(5, observations=[unread("acvpu", reason="not a level of responsiveness that is known (ACVPU)")])
    assert score.news2.missing == ("consciousness",) and told == []


def test_a_single_one_of_a_stream_is_an_artefact_and_lasting_ones_are_not() -> None:
    for status in ("final", "cancelled"):
        ward = Ward()
        ward.chart(0, WELL)
        for minute in (1, 2):
            score, _ = ward.chart(minute, observations=[unread(status=status), observation("hr", 75)], charted=False)
            assert not score.news2.at_least
        score, _ = ward.chart(3, observations=[unread(status=status), observation("hr", 75)], charted=False)
        assert score.news2.missing == ("spo2",)


def test_a_usable_reading_of_the_same_time_counts_beside_one_that_cannot_be_had() -> None:
    """A flow that cannot be obtained beside the share that is given: the patient is on oxygen."""
    share = observation("fio2", 40)
    for made in ([unread("flow", status="cancelled"), share], [share, unread("flow", status="cancelled")]):
        ward = Ward()
        ward.chart(0, WELL)
        score, _ = ward.chart(5, observations=made)
        assert (score.news2.total, score.news2.at_least) == (2, False)


def test_what_cannot_be_had_takes_back_what_was_said_of_that_time() -> None:
    ward = Ward()
    ward.chart(0, WELL)
    ward.chart(5, {"spo2": 94, "hr": 75})
    score, _ = ward.chart(5, observations=[unread(status="cancelled")], received=6)
    assert score.news2.missing == ("spo2",) and "spo2" not in points(score)


def test_a_correction_that_cannot_be_read_leaves_no_value_of_its_time_as_normal() -> None:
    for before, total in ((97, 0), (84, 3)):  # what scored goes on being added
        ward = Ward()
        ward.chart(0, {**WELL, "spo2": before})
        score, _ = ward.chart(0, observations=[unread(status="corrected")], received=5)
        assert (score.news2.missing, score.news2.total) == (("spo2",), total)
        restart(ward)
        score, _ = ward.chart(0, {"spo2": before}, received=6)  # the original comes again
        assert score.news2.missing == ("spo2",)
        score, _ = ward.chart(0, {"spo2": 96}, status="corrected", received=7)
        assert (score.news2.missing, score.news2.total) == ((), 0)


def test_a_reading_that_could_not_be_read_and_was_wrong_is_none() -> None:
    ward = Ward()
    ward.chart(0, WELL)
    ward.chart(5, observations=[unread("acvpu"), observation("hr", 75)])
    score, _ = ward.chart(5, observations=[unread("acvpu", status="entered-in-error")], received=6)
    assert not score.news2.at_least
    ward.chart(7, {"acvpu": "V"}, peer="gateway")
    score, _ = ward.chart(7, observations=[unread("acvpu", status="entered-in-error")], received=8)
    assert score.news2.total == 3  # what another feed said of that time stands


def test_events_of_before_say_nothing_of_it_and_score_as_they_did() -> None:
    wire = b'{"code":"59408-5","value":null,"unit":"%","comparator":"","status":"STATUS","observed_at":null}'
    for status in ("final", "cancelled", "corrected", "amended"):
        ward = Ward()
        ward.chart(0, WELL)
        old = Observation.model_validate_json(wire.replace(b"STATUS", status.encode()))
        score, _ = ward.chart(5, observations=[old, observation("hr", 75)])
        assert (score.news2.total, score.news2.at_least) == (0, False)
    refusal = Refusal(1, "an impossible value", 0)
    assert Refusal(*refusal[:3]) == refusal  # a snapshot of before
