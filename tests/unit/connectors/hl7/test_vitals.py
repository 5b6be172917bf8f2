from base64 import b64decode
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectors.hl7.handling import Outcome
from connectors.hl7.mapping.codes import (
    BLOOD_PRESSURE,
    MDC_BY_CODE,
    MDC_BY_NAME,
    OBSERVATION_STATUS,
    PRESSURES,
    VITAL_SIGNS,
    known_unit,
)
from connectors.hl7.mapping.vitals import number
from processors.events import DeadLetterEvent, News2, Observation, ScoreEvent, VitalsEvent
from processors.monitor import Monitor, MonitorRules
from processors.vitals import Reading, read
from tests import bedside
from tests.hl7_messages import NOW, PID, PULSE, message, obx, reader, vitals

AT = datetime(2026, 3, 2, 9, 55, tzinfo=UTC)


def sets(outcome: Outcome) -> list[VitalsEvent]:
    return [event for event in outcome.events if isinstance(event, VitalsEvent)]


def letters(outcome: Outcome) -> list[DeadLetterEvent]:
    return [event for event in outcome.events if isinstance(event, DeadLetterEvent)]


def one(*lines: str, **peer: object) -> Observation:
    outcome = reader(**peer)(vitals(*lines))
    (event,) = sets(outcome)
    (observation,) = event.observations
    assert not letters(outcome), outcome.reason
    return observation


def trouble(*lines: str, **peer: object) -> str:
    """Return what the dead letter says of a value that cannot be read; the set says the same, and nothing of the value."""
    outcome = reader(**peer)(vitals(*lines))
    (letter,) = letters(outcome)
    said = [each for event in sets(outcome) for each in event.observations]
    assert said and {(each.value, each.unit, each.comparator) for each in said} == {(None, "", "")}
    assert {each.refused for each in said} == {letter.message.partition(": ")[2]}
    return letter.message


def test_a_set_of_vitals() -> None:
    outcome = reader()(
        vitals(
            PULSE,
            obx("9279-1^Respiratory rate^LN", "16", "/min", number=2),
            obx("59408-5^SpO2^LN", "97", "%", number=3),
            obx("8310-5^Temp^LN", "98.6", "degF", number=4),
            obx("67775-7^Responsiveness^LN", "LA9340-6^Alert^LN", kind="CWE", number=5),
        )
    )
    (event,) = sets(outcome)
    assert [(o.code, o.value, o.unit, o.status) for o in event.observations] == [
        ("8867-4", 80.0, "/min", "final"),
        ("9279-1", 16.0, "/min", "final"),
        ("59408-5", 97.0, "%", "final"),
        ("8310-5", 98.6, "[degF]", "final"),
        ("67775-7", "A", "", "final"),
    ]
    assert (event.observed_at, event.received_at, event.charted, event.processing) == (AT, NOW, True, "production")
    assert event.encounter_id
    assert "V77" not in event.model_dump_json()
    assert "4711" not in event.model_dump_json()
    assert (event.origin.peer, event.origin.message_id, event.origin.message_type) == ("bedside", "M1", "ORU^R01^ORU_R01")


def test_a_resend_has_the_same_ids_and_another_message_has_others() -> None:
    read_one = reader()
    ids = [event.id for event in read_one(vitals(PULSE)).events]
    assert [event.id for event in read_one(vitals(PULSE)).events] == ids
    assert [event.id for event in read_one(vitals(PULSE, control_id="M2")).events] != ids
    assert [event.id for event in read_one(vitals(PULSE.replace("80", "81"))).events] != ids


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("8867-4^Heart rate^LN", "8867-4"),
        ("8867-4^Heart rate", "8867-4"),  # the system left out
        ("8867-4^Heart rate^2.16.840.1.113883.6.1", "8867-4"),
        ("HR^Pulse^L^8867-4^Heart rate^LN", "8867-4"),  # LOINC as the alternate
        ("147842^MDC_ECG_HEART_RATE^MDC", "8867-4"),
        ("8867-4^Heart rate^http://loinc.org", "8867-4"),
        ("147842^^MDC", "8867-4"),
        ("^MDC_ECG_HEART_RATE^MDC", "8867-4"),
        ("149530^MDC_PULS_OXIM_PULS_RATE^MDC", "8889-8"),
        ("150456^MDC_PULS_OXIM_SAT_O2^MDC", "59408-5"),
        ("150021^MDC_PRESS_BLD_NONINV_SYS^MDC", "76534-7"),
        ("150301^MDC_PRESS_CUFF_SYS^MDC", "76534-7"),
    ],
)
def test_codes(code: str, expected: str) -> None:
    assert one(obx(code, "80")).code == expected


@pytest.mark.parametrize("flag", ["INV", "inv", "L~INV", "NAV", "OFF", "CAL", "BUSY", "TEST", "H~DEMO", "NAN"])
def test_what_the_device_marks_as_no_measurement_is_none(flag: str) -> None:
    outcome = reader()(vitals(flagged(PULSE, flag)))
    assert (outcome.verdict, outcome.code, outcome.events) == ("ignored", "AA", ())
    assert "no measurement" in outcome.reason and "OBX-8" in outcome.reason


def test_a_correction_that_says_so_takes_back_what_it_corrects() -> None:
    corrected = PULSE.replace("|F|", "|C|")
    assert one(flagged(corrected, "INV")).status == "entered-in-error"
    assert one(flagged(PULSE.replace("|F|", "|X|"), "INV")).status == "cancelled"
    none = one(flagged(obx("8867-4^HR^LN", "", "/min", status="X"), "NAV"))
    assert (none.status, none.value, none.refused) == ("cancelled", None, "")


@pytest.mark.parametrize(
    ("flag", "charted"), [("QUES", False), ("H~EARLY", False), ("HH", True), ("N", True), ("A~ALACT", True)]
)
def test_what_the_device_doubts_has_to_persist(flag: str, charted: bool) -> None:
    (event,) = sets(reader()(vitals(flagged(PULSE, flag))))
    assert (event.charted, event.observations[0].value) == (charted, 80.0)


def flagged(line: str, flags: str) -> str:
    fields = line.split("|")
    fields[8] = flags
    return "|".join(fields)


def test_a_unit_that_cannot_be_brought_to_the_one_that_is_meant_is_told_and_the_score_says_what_it_lacks() -> None:
    outcome = reader()(vitals(PULSE, obx("8310-5^T^LN", "104.2", "furlongs", number=2)))
    (event,), (letter,) = sets(outcome), letters(outcome)
    assert [(o.value, o.unit) for o in event.observations] == [(80.0, "/min"), (104.2, "furlongs")]
    assert (outcome.code, letter.message) == ("AA", "OBX[2]-6: a unit that cannot be brought to Cel (8310-5)")


def test_a_site_says_what_a_senders_unit_means() -> None:
    grads = obx("8310-5^T^LN", "104.2", "grd F")
    assert one(grads, units={"grd F": "[degF]"}).unit == "[degF]"
    assert one(obx("8310-5^T^LN", "104.2", "77^grd F^99MON"), units={"77": "[degF]"}).unit == "[degF]"
    with pytest.raises(ValueError, match="furlong is no unit of a vital sign"):
        reader(units={"grd F": "furlong"})


def test_device_codes_lead_to_what_the_lane_can_score() -> None:
    assert {*MDC_BY_NAME.values(), *MDC_BY_CODE.values()} <= VITAL_SIGNS | BLOOD_PRESSURE.keys()
    assert {code for pair in PRESSURES.values() for code in pair} <= VITAL_SIGNS


def test_code_and_reference_id_that_disagree() -> None:
    assert trouble(obx("150456^MDC_ECG_HEART_RATE^MDC", "80", "/min")) == (
        "OBX-3: MDC code and reference id name different observations"
    )


@pytest.mark.parametrize(
    ("code", "named"),
    [
        ("9279-1^Resp^LN^147842^MDC_ECG_HEART_RATE^MDC", ["9279-1", "8867-4"]),
        ("8867-4^HR^LN^9279-1^RR^LN", ["8867-4", "9279-1"]),
        ("3151-8^Flow^LN^3150-6^FiO2^LN", ["3151-8", "3150-6"]),  # 2 L/min or 2 %
        ("85354-9^BP^LN^8867-4^HR^LN", ["8480-6", "8462-4", "8867-4"]),
        ("150456^MDC_ECG_HEART_RATE^MDC", ["59408-5", "8867-4"]),
    ],
)
def test_codes_of_different_vital_signs_are_refused_whichever_is_meant(code: str, named: list[str]) -> None:
    line = obx(code, "80", "/min")
    assert trouble(line).startswith("OBX-3: ")
    assert [o.code for event in sets(reader()(vitals(line))) for o in event.observations] == named
    assert reader()(vitals(obx(code, "", "/min"))).verdict == "dead-letter"  # nothing was said of either


@pytest.mark.parametrize(
    ("code", "read_as"),
    [
        ("59408-5^SpO2^LN^2708-6^SaO2^LN", "59408-5"),  # as the vital signs profile of FHIR asks for
        ("8867-4^HR^LN^149530^MDC_PULS_OXIM_PULS_RATE^MDC", "8867-4"),
        ("8480-6^SBP^LN^150021^MDC_PRESS_BLD_NONINV_SYS^MDC", "8480-6"),
        ("8867-4^HR^LN^150388^MDC_TEMP_SKIN^MDC", "8867-4"),  # of which we know nothing
    ],
)
def test_codes_that_say_the_same_more_exactly_are_no_contradiction(code: str, read_as: str) -> None:
    assert one(obx(code, "97", "")).code == read_as


@pytest.mark.parametrize("unit", ["mm[Hg]^kPa^UCUM", "mmHg^^^kPa^^UCUM", "kPa^mmHg"])
def test_a_unit_that_contradicts_itself_is_refused(unit: str) -> None:
    assert trouble(obx("8480-6^SBP^LN", "16", unit)) == "OBX-6: its unit's code and words are different units"


def test_a_unit_that_is_said_twice_is_one() -> None:
    assert one(obx("8480-6^SBP^LN", "120", "mm[Hg]^mmHg^UCUM^266016^MDC_DIM_MMHG^MDC")).unit == "mm[Hg]"
    contradicts = obx("8480-6^SBP^LN", "16", "mm[Hg]^kPa^UCUM")
    assert one(contradicts, units={"mm[Hg]": "kPa"}).unit == "kPa"  # the site knows


def test_local_codes() -> None:
    codes = {"HR": {"loinc": "8867-4", "unit": "/min"}, "O2^99ICU": {"loinc": "3151-8", "unit": "L/min", "values": {"RA": 0}}}
    assert one(obx("HR^Pulse^L", "80"), codes=codes) == Observation(code="8867-4", value=80.0, unit="/min")
    assert one(obx("O2^Oxygen^99ICU", "RA^Room air^99ICU", kind="CWE"), codes=codes).value == 0
    assert one(obx("O2^Oxygen^99ICU", "2", "lpm"), codes=codes) == Observation(code="3151-8", value=2.0, unit="L/min")


def test_skin_temperature_is_not_body_temperature() -> None:
    outcome = reader()(vitals(obx("150388^MDC_TEMP_SKIN^MDC", "33", "268192^MDC_DIM_DEGC^MDC")))
    assert (outcome.verdict, outcome.reason) == ("ignored", "1 x observations that are neither vital signs nor text")


@pytest.mark.parametrize(
    ("kind", "value", "unit", "expected"),
    [
        ("NM", "37.2", "Cel", (37.2, "Cel")),
        ("NM", " 37.2 ", "Cel", (37.2, "Cel")),
        ("NM", "37,2", "Cel", (37.2, "Cel")),
        ("NM", "+37", "Cel", (37.0, "Cel")),
        ("ST", "37.2", "Cel", (37.2, "Cel")),
        ("ST", "37.2 C", "", (37.2, "Cel")),
        ("ST", "98.6°F", "", (98.6, "[degF]")),
        ("", "37.2", "Cel", (37.2, "Cel")),
        ("SN", "^37.2", "Cel", (37.2, "Cel")),
        ("SN", "=^37.2", "Cel", (37.2, "Cel")),
        ("TX", "37.2", "Cel", (37.2, "Cel")),
    ],
)
def test_values(kind: str, value: str, unit: str, expected: tuple[float, str]) -> None:
    observation = one(obx("8310-5^T^LN", value, unit, kind=kind))
    assert (observation.value, observation.unit) == expected


@pytest.mark.parametrize(
    ("kind", "value", "reason"),
    [
        ("NM", "hot", "not a number"),
        ("NM", "37.2.1", "not a number"),
        ("NM", "1,200", "not a number"),
        ("NM", "1e999", "not a number"),
        ("NM", "NaN", "not a number"),
        ("NM", "inf", "not a number"),
        ("NM", "３７", "not a number"),
        ("NM", "37~38", "a vital sign with several values"),
        ("NM", "37^38", "a value of several components where a number is needed"),
        ("SN", "<^40", "a comparator leaves the value open"),
        ("SN", "^36^-^38", "a range or ratio is not one value"),
        ("CWE", "H^High", "a coded value where a number is needed"),
        ("ST", "37 parsecs", "not a number"),
    ],
)
def test_values_that_cannot_be_used(kind: str, value: str, reason: str) -> None:
    assert trouble(obx("8310-5^T^LN", value, "Cel", kind=kind)) == f"OBX-5: {reason}"


def test_the_rest_of_the_message_is_used_and_the_dead_letter_holds_the_original() -> None:
    raw = vitals(PULSE, obx("8310-5^T^LN", "hot", "Cel", number=2), obx("9279-1^RR^LN", "quick", number=3))
    outcome = reader()(raw)
    assert [(o.code, o.value, o.refused) for event in sets(outcome) for o in event.observations] == [
        ("8867-4", 80.0, ""), ("8310-5", None, "not a number"), ("9279-1", None, "not a number"),
    ]  # fmt: skip
    (letter,) = letters(outcome)
    assert letter.stage == "map"
    assert letter.message == "OBX[2]-5: not a number; OBX[3]-5: not a number"
    assert letter.original_value is not None
    assert b64decode(letter.original_value) == raw


@pytest.mark.parametrize("letter", [*OBSERVATION_STATUS])
def test_status(letter: str) -> None:
    assert one(obx("8867-4^HR^LN", "80", "/min", status=letter)).status == OBSERVATION_STATUS[letter]


def test_the_statuses_that_matter_most() -> None:
    assert {k: OBSERVATION_STATUS[k] for k in "FPRCDWXU"} == {
        "F": "final", "P": "preliminary", "R": "preliminary", "C": "corrected", "D": "entered-in-error",
        "W": "entered-in-error", "X": "cancelled", "U": "final",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("letter", "status"), [("D", "entered-in-error"), ("W", "entered-in-error"), ("X", "cancelled"), ("U", "final")]
)
def test_a_status_without_a_value_is_passed_on(letter: str, status: str) -> None:
    observation = one(obx("8867-4^HR^LN", "", "/min", status=letter))
    assert (observation.value, observation.status) == (None, status)
    assert observation.refused == ("cannot be obtained" if letter == "X" else "")


@pytest.mark.parametrize("value", ["", '""', "  "])
def test_an_empty_final_value_says_nothing(value: str) -> None:
    outcome = reader()(vitals(obx("8867-4^HR^LN", value, "/min")))
    assert (outcome.verdict, outcome.reason) == ("ignored", "1 x empty value (OBX-5)")


@pytest.mark.parametrize("letter", "CAB")
def test_a_correction_to_null_deletes_what_it_corrects(letter: str) -> None:
    """HL7's null (chapter 2.5.3): not empty, which says nothing."""
    observation = one(obx("8867-4^HR^LN", '""', "/min", status=letter))
    assert (observation.value, observation.status) == (None, "entered-in-error")


def test_a_correction_without_a_value_is_not_passed_over_in_silence() -> None:
    line = obx("8867-4^HR^LN", "", "/min", status="C")
    assert trouble(line) == "OBX-5: a correction without a value"
    assert [o.status for event in sets(reader()(vitals(line))) for o in event.observations] == ["corrected"]


@pytest.mark.parametrize(
    ("letter", "value", "status"),
    [
        *(("F", "80", "cancelled"), ("", "80", "cancelled"), ("F", "", "cancelled"), ("C", "80", "cancelled")),
        *(("W", "80", "entered-in-error"), ("C", '""', "entered-in-error")),
    ],
)
def test_a_cancelled_order_takes_its_vital_signs_back(letter: str, value: str, status: str) -> None:
    outcome = reader()(vitals(obx("8867-4^HR^LN", value, "/min", status=letter), obr=CANCELLED))
    (event,) = outcome.events  # and nothing of where the patient lies: all of it is taken back
    assert isinstance(event, VitalsEvent)
    assert [(each.value, each.status) for each in event.observations] == [(float(value) if value == "80" else None, status)]
    assert event.observations[0].refused == ""  # an order is cancelled for any reason


CANCELLED = "OBR|1||F9|VS^Vitals|||20260302095500+0000" + "|" * 18 + "X"
STAYS = "OBX-14: {} without a time: which value is meant nobody can tell, and it stays"


@pytest.mark.parametrize(
    ("letter", "value", "obr"),
    [
        *(("W", "80", "OBR|1"), ("D", "", "OBR|1"), ("X", "80", "OBR|1"), ("C", '""', "OBR|1")),
        *(("F", "80", f"OBR|1{'|' * 24}X"), ("", "", f"OBR|1{'|' * 24}X")),
    ],
)
def test_what_is_taken_back_without_a_time_is_told_and_kept(letter: str, value: str, obr: str) -> None:
    """Read as of the sending it would match nothing, and be a positive answer to a retraction that took nothing back."""
    outcome = reader()(vitals(obx("8867-4^HR^LN", value, "/min", status=letter), obr=obr))
    (dead,) = outcome.events
    assert isinstance(dead, DeadLetterEvent)
    assert (outcome.code, outcome.verdict, dead.message) == ("AA", "dead-letter", STAYS.format("taken back"))
    assert b"\rERR||OBX^1^14" in outcome.answers[0][1]


def test_a_correction_without_a_time_counts_as_of_its_sending_and_says_what_it_leaves() -> None:
    outcome = reader()(vitals(obx("8867-4^HR^LN", "80", "/min", status="C"), obr="OBR|1"))
    assert [(each.value, each.status) for event in sets(outcome) for each in event.observations] == [(80.0, "corrected")]
    assert [each.message for each in letters(outcome)] == [STAYS.format("corrected")]


def test_what_cannot_be_had_now_is_no_retraction() -> None:
    outcome = reader()(vitals(obx("8867-4^HR^LN", "", "/min", status="X"), obr="OBR|1"))
    assert [(each.value, each.status) for event in sets(outcome) for each in event.observations] == [(None, "cancelled")]
    assert letters(outcome) == []


@pytest.mark.parametrize(("letter", "value", "obr"), [("C", '""', ""), ("W", "135", ""), ("F", "135", CANCELLED)])
def test_what_takes_a_vital_sign_back_withdraws_its_alert(letter: str, value: str, obr: str) -> None:
    read_one, watch = reader(), bedside.Ward(admit=False)
    watch.monitor = Monitor(MonitorRules())  # whose time is that of what comes
    line = obx("8867-4^HR^LN", "135", "/min")
    raised = [step for event in read_one(vitals(line)).events for step in bedside.steps(watch.say(event))]
    assert [state for _, state, _ in raised] == ["raised"]
    taken = vitals(line.replace("135", value).replace("|F|", f"|{letter}|"), **({"obr": obr} if obr else {}))
    ended = [step for event in read_one(taken).events for step in bedside.steps(watch.say(event))]
    assert [state for _, state, _ in ended] == ["withdrawn"]


WELL = {
    "9279-1": ("NM", "16", "/min"), "59408-5": ("NM", "97", "%"), "3151-8": ("NM", "0", "L/min"), "8480-6": ("NM", "120", "mm[Hg]"),
    "8867-4": ("NM", "70", "/min"), "67775-7": ("ST", "Alert", ""), "8310-5": ("NM", "36.8", "Cel"),
}  # fmt: skip


def score_after(code: str, kind: str, value: str, unit: str, status: str = "F", *, later: bool = True) -> News2:
    """Score a well set, and (unless it is of the same set and time) 5 minutes later another, whose reading of `code` is this."""
    read_one, watch = reader(), bedside.Ward(admit=False)
    watch.monitor = Monitor(MonitorRules())
    watch.say(bedside.context(birth_date="1950-03-21", patient=sets(read_one(vitals(PULSE)))[0].patient_id))
    scores: list[ScoreEvent] = []
    changed = {code: (kind, value, unit)}
    for minute, signs in ((50, WELL), (55, {**WELL, **changed} if later else {"8867-4": ("NM", "70", "/min"), **changed})):
        lines = [
            obx(f"{each}^x^LN", said, of, kind=how, number=n, status=status if minute == 55 and each == code else "F")
            for n, (each, (how, said, of)) in enumerate(signs.items(), 1)
        ]
        outcome = read_one(
            vitals(*lines, obr=f"OBR|1||F{minute}|VS^Vitals|||2026030209{minute}00+0000", control_id=f"M{minute}")
        )
        scores += [
            made
            for event in outcome.events
            if isinstance(event, VitalsEvent)
            for made in watch.say(event)
            if isinstance(made, ScoreEvent)
        ]
    news2 = scores[-1].news2
    assert news2 is not None
    return news2


@pytest.mark.parametrize(
    ("code", "kind", "value", "unit", "status", "missing", "reason"),
    [
        ("67775-7", "ST", "Drowsy", "", "F", "consciousness", "not a level of responsiveness that is known (ACVPU)"),
        ("67775-7", "ST", "unable to assess", "", "F", "consciousness", "not a level of responsiveness that is known (ACVPU)"),
        ("59408-5", "ST", "<85", "%", "F", "spo2", "a comparator leaves the value open"),
        ("9279-1", "ST", "?26", "/min", "F", "respiratory_rate", "not a number"),
        ("3151-8", "ST", "4 L NC weaning", "L/min", "F", "oxygen", "not a number"),
        ("59408-5", "ST", "", "%", "X", "spo2", "cannot be obtained"),
        ("67775-7", "ST", "", "", "X", "consciousness", "cannot be obtained"),
        ("8480-6", "NM", "16", "mm[Hg]^kPa^UCUM", "F", "systolic", "its unit's code and words are different units"),
        ("8480-6", "NM", "", "mm[Hg]", "C", "systolic", "a correction without a value"),
    ],
)
@pytest.mark.parametrize("later", [True, False])
def test_a_newest_reading_that_cannot_be_read_leaves_no_older_one_as_normal(
    code: str, kind: str, value: str, unit: str, status: str, missing: str, reason: str, later: bool
) -> None:
    news2 = score_after(code, kind, value, unit, status, later=later)
    assert (news2.total, news2.at_least, news2.missing) == (0, True, (missing,))
    assert [(one.name, one.reason) for one in news2.refused] == [(missing, reason)]


def test_oxygen_by_nasal_cannula_is_oxygen() -> None:
    news2 = score_after("3151-8", "ST", "4 L NC", "L/min")
    assert (news2.total, news2.at_least) == (2, False)


@pytest.mark.parametrize(("value", "status"), [("", "F"), ("70", "O"), ("", "N")])
def test_what_says_nothing_leaves_what_was_known(value: str, status: str) -> None:
    """Many senders write a row for all that a chart has room for."""
    news2 = score_after("8867-4", "NM", value, "/min", status)
    assert (news2.total, news2.at_least) == (0, False)


def test_order_detail_is_no_result() -> None:
    assert reader()(vitals(obx("8867-4^HR^LN", "80", status="O"))).verdict == "ignored"


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (obx("85354-9^BP^LN", "120/80", "mm[Hg]", kind="ST"), [("8480-6", 120.0), ("8462-4", 80.0)]),
        (obx("85354-9^BP^LN", "120 / 80 mmHg", kind="ST"), [("8480-6", 120.0), ("8462-4", 80.0)]),
        (obx("55284-4^BP^LN", "^120^/^80", "mm[Hg]", kind="SN"), [("8480-6", 120.0), ("8462-4", 80.0)]),
        (obx("85354-9^BP^LN", "", kind="ST", status="W"), [("8480-6", None), ("8462-4", None)]),
        (obx("8480-6^BP^LN", "85/40", "mm[Hg]", kind="ST"), [("8480-6", 85.0), ("8462-4", 40.0)]),
        (obx("8480-6^BP^LN", "85/40 mmHg", "mm[Hg]"), [("8480-6", 85.0), ("8462-4", 40.0)]),
        (obx("8461-6^BP lying^LN", "^85^/^40", "mm[Hg]", kind="SN"), [("8461-6", 85.0), ("8455-8", 40.0)]),
        (obx("150020^MDC_PRESS_BLD_NONINV^MDC", "85/40", "mmHg", kind="ST"), [("76534-7", 85.0), ("76535-4", 40.0)]),
        (obx("150300^^MDC", "85/40", "266016^MDC_DIM_MMHG^MDC", kind="ST"), [("76534-7", 85.0), ("76535-4", 40.0)]),
        (obx("150032^MDC_PRESS_BLD_ART^MDC", "85/40", "mmHg", kind="ST"), [("76215-3", 85.0), ("76213-8", 40.0)]),
        (obx("MDC_PRESS_BLD", "85/40", "mmHg", kind="ST", status="D"), [("8480-6", 85.0), ("8462-4", 40.0)]),
    ],
)
def test_blood_pressure_in_one_value(line: str, expected: list[tuple[str, float | None]]) -> None:
    (event,) = sets(reader()(vitals(line)))
    assert [(o.code, o.value) for o in event.observations] == expected
    if expected[0][1]:
        assert {o.unit for o in event.observations} == {"mm[Hg]"}


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (obx("85354-9^BP^LN", "85", "mm[Hg]"), "not a blood pressure as systolic/diastolic"),
        (obx("150020^MDC_PRESS_BLD_NONINV^MDC", "85", "mmHg"), "not a blood pressure as systolic/diastolic"),
        (obx("85354-9^BP^LN", "85/40/55", "mm[Hg]", kind="ST"), "not a blood pressure as systolic/diastolic"),
        (obx("85354-9^BP^LN", "85/40 mmHg", "kPa", kind="ST"), "a blood pressure with two units"),
        (obx("85354-9^BP^LN", "<^85^/^40", "mm[Hg]", kind="SN"), "a comparator leaves the value open"),
        (obx("8480-6^BP^LN", "85/", "mm[Hg]", kind="ST"), "not a number"),
        (obx("8462-4^BP^LN", "85/40", "mm[Hg]", kind="ST"), "not a number"),
        (obx("9279-1^RR^LN", "18/1", "/min", kind="ST"), "not a number"),
    ],
)
def test_what_is_no_blood_pressure(line: str, reason: str) -> None:
    assert trouble(line) == f"OBX-5: {reason}"


@pytest.mark.parametrize(
    ("line", "comparator", "value"),
    [
        (obx("59408-5^SpO2^LN", "<80", "%", kind="ST"), "<", 80.0),
        (obx("59408-5^SpO2^LN", "< 70 %"), "<", 70.0),
        (obx("59408-5^SpO2^LN", ">=^97", "%", kind="SN"), ">=", 97.0),  # on either scale, on air or oxygen
        (obx("9279-1^RR^LN", ">^40", "/min", kind="SN"), ">", 40.0),
        (obx("9279-1^RR^LN", "<=^8", "/min", kind="SN"), "<=", 8.0),
        (obx("8867-4^HR^LN", ">130.5", "/min", kind="ST"), ">", 130.5),
        (obx("8480-6^SBP^LN", "<50", "mm[Hg]", kind="ST"), "<", 50.0),
        (obx("8480-6^SBP^LN", "<10", "kPa", kind="ST"), "<", 10.0),  # 75 mmHg
        (obx("8310-5^Temp^LN", "<^95", "[degF]", kind="SN"), "<", 95.0),  # 35.0 C
        (obx("3151-8^O2^LN", ">15", "L/min", kind="ST"), ">", 15.0),
        (obx("9279-1^RR^LN", "=^40", "/min", kind="SN"), "", 40.0),
    ],
)
def test_a_bound_that_scores_as_all_that_it_may_mean(line: str, comparator: str, value: float) -> None:
    observation = one(line)
    assert (observation.comparator, observation.value) == (comparator, value)


@pytest.mark.parametrize(
    "line",
    [
        obx("59408-5^SpO2^LN", "<90", "%", kind="ST"),  # 3 points on scale 1, on scale 2 perhaps none
        obx("59408-5^SpO2^LN", "<84", "%", kind="ST"),
        obx("59408-5^SpO2^LN", ">95", "%", kind="ST"),
        obx("59408-5^SpO2^LN", ">100", "%", kind="ST"),
        obx("9279-1^RR^LN", "<20", "/min", kind="ST"),
        obx("9279-1^RR^LN", ">24", "/min", kind="ST"),  # 24.4 is charted as 24
        obx("9279-1^RR^LN", "<>^40", "/min", kind="SN"),
        obx("9279-1^RR^LN", ">40", "", kind="ST"),  # of what?
        obx("9279-1^RR^LN", ">40", "furlong", kind="ST"),
        obx("8310-5^Temp^LN", ">39", "Cel", kind="ST"),
        obx("8462-4^DBP^LN", "<30", "mm[Hg]", kind="ST"),  # not in NEWS2
        obx("3151-8^O2^LN", "<2", "L/min", kind="ST"),
        obx("3150-6^FiO2^LN", ">=21", "%", kind="ST"),
    ],
)
def test_a_bound_that_leaves_the_score_open(line: str) -> None:
    assert trouble(line) == "OBX-5: a comparator leaves the value open"


def test_a_bound_that_is_alarming_alerts_and_the_score_says_what_was_sent() -> None:
    watch = bedside.Ward(admit=False)
    watch.monitor = Monitor(MonitorRules())
    outcome = reader()(vitals(obx("59408-5^SpO2^LN", "<80", "%", kind="ST")))
    said = [made for event in outcome.events for made in watch.say(event)]
    assert [state for _, state, _ in bedside.steps(said)] == ["raised"]
    assert [made.flags for made in said if isinstance(made, ScoreEvent)] == [("bound: 59408-5 <80 %",)]


def test_a_pressure_in_one_value_alerts() -> None:
    watch = bedside.Ward(admit=False)
    watch.monitor = Monitor(MonitorRules())
    outcome = reader()(vitals(obx("8480-6^BP^LN", "85/40", "mm[Hg]", kind="ST")))
    assert [state for event in outcome.events for _, state, _ in bedside.steps(watch.say(event))] == ["raised"]


@pytest.mark.parametrize("status", ["X", "F", "D"])
def test_a_compound_of_a_device_without_a_value_says_nothing(status: str) -> None:
    """IHE PCD-01: a row of the device's tree, whose parts follow."""
    rows = (
        obx("150020^MDC_PRESS_BLD_NONINV^MDC", "", kind="", status=status),
        obx("150021^MDC_PRESS_BLD_NONINV_SYS^MDC", "85", "mmHg", number=2),
        obx("150022^MDC_PRESS_BLD_NONINV_DIA^MDC", "40", "mmHg", number=3),
    )
    outcome = reader()(vitals(*rows))
    (event,) = sets(outcome)
    assert [(o.code, o.value, o.status) for o in event.observations] == [("76534-7", 85.0, "final"), ("76535-4", 40.0, "final")]
    assert letters(outcome) == []


@pytest.mark.parametrize(
    ("value", "letter"),
    [
        ("LA9340-6^Alert^LN", "A"),
        ("LA6560-2^Confused^LN", "C"),
        ("300202002^Responds to voice^SCT", "V"),
        ("P", "P"),
        ("X^Unresponsive^L", "U"),
        ("V - Verbal", "V"),
    ],
)
@pytest.mark.parametrize(
    "code", ["67775-7^ACVPU^LN", "1104441000000107^ACVPU scale score^SCT", "LOC^ACVPU^L^1104441000000107^ACVPU^SNM"]
)
def test_responsiveness(code: str, value: str, letter: str) -> None:
    assert one(obx(code, value, kind="CWE")).value == letter


def test_a_code_of_another_system_is_no_vital_sign() -> None:
    assert reader()(vitals(obx("8867-4^?^SCT", "80", "/min"))).verdict == "ignored"
    assert reader()(vitals(obx("1104441000000107^?^LN", "A", kind="ST"))).verdict == "ignored"


@pytest.mark.parametrize("value", ["2L", "2 L", "2 litres"])
def test_a_flow_of_oxygen_as_charts_say_it(value: str) -> None:
    observation = one(obx("3151-8^O2 flow^LN", value, kind="ST"))
    assert (observation.value, observation.unit) == (2.0, "L/min")


@pytest.mark.parametrize(
    ("text", "unit", "said"),
    [
        *((text, "L/min", (4.0, "L/min")) for text in ("4 L NC", "NC 4L", "4L/min via nasal cannula", "O2 4 lpm", "NC 4")),
        ("4 L NC", "", (4.0, "L/min")),
        ("2L by mask", "", (2.0, "L/min")),
        ("2 litres of oxygen via face mask", "", (2.0, "L/min")),
        ("15 L NRB", "", (15.0, "L/min")),
        ("15L (non-rebreather mask)", "", (15.0, "L/min")),
        ("0.5 L/min, nasal prongs", "", (0.5, "L/min")),
        ("high flow nasal cannula 40 L/min", "", (40.0, "L/min")),
        ("0 L NC", "", (0.0, "L/min")),
        ("35% venturi", "", (35.0, "%")),
        ("on oxygen", "", ("oxygen", "")),
        ("O2 via NC", "L/min", ("oxygen", "")),
        ("O2: RA", "", ("air", "")),
        ("on room air", "", ("air", "")),
    ],
)
def test_oxygen_as_charts_say_how_it_is_given(text: str, unit: str, said: tuple[float | str, str]) -> None:
    code = "3150-6^FiO2^LN" if "%" in text else "3151-8^O2 flow^LN"
    for observation in (one(obx(code, text, unit, kind="ST")), one(obx(code, f"^{text}^L", unit, kind="CWE"))):
        assert (observation.value, observation.unit) == said


@pytest.mark.parametrize(
    "text",
    [
        *(
            "nasal cannula",
            "4L NC weaned off",
            "was on 4L",
            "no oxygen",
            "oxygen off",
            "O2 PRN",
            "2-4 L NC",
            "CPAP 10",
            "RA 2L NC",
        ),
        *("<1 L NC", "O2 92% on 4L", "60L/40% HFNC"),
    ],
)
def test_of_oxygen_nothing_is_guessed(text: str) -> None:
    assert trouble(obx("3151-8^O2 flow^LN", text, "L/min", kind="ST")).startswith("OBX-5: ")


@pytest.mark.parametrize("coded", ["OXYGEN^Off^L", "O2^No supplemental oxygen^L", "2L NC^4L NC^L", "NC^Nasal cannula^L"])
def test_of_a_code_and_its_text_both_are_heard(coded: str) -> None:
    assert trouble(obx("3151-8^O2 flow^LN", coded, "L/min", kind="CWE")).startswith("OBX-5: ")
    assert one(obx("3151-8^O2 flow^LN", "O2^4 L NC^L", "L/min", kind="CWE")).value == 4.0


@pytest.mark.parametrize("word", ["Drowsy", "sleepy but rousable", "unable to assess", "GCS 15"])
def test_unknown_responsiveness_is_not_assumed(word: str) -> None:
    line = obx("67775-7^ACVPU^LN", word, kind="ST")
    assert trouble(line) == "OBX-5: not a level of responsiveness that is known (ACVPU)"
    (event,) = sets(reader()(vitals(line)))
    assert word.casefold() not in event.model_dump_json().casefold()
    drowsy = {"67775-7": {"loinc": "67775-7", "values": {word: "V"}}}  # the site may say what it means
    assert one(line, codes=drowsy).value == "V"


def test_room_air_as_a_coded_value() -> None:
    assert one(obx("3151-8^O2 flow^LN", "722742002^Breathing room air^SCT", kind="CWE")).value == "air"


@pytest.mark.parametrize(
    ("unit", "expected"),
    [
        ("/min^^UCUM", "/min"),
        ("{beats}/min^^UCUM", "/min"),
        ("264864^MDC_DIM_BEAT_PER_MIN^MDC", "/min"),
        ("bpm", "/min"),
        ("BPM^beats per minute", "/min"),
        ("beats/min^^ISO", "/min"),
        ("", ""),
    ],
)
def test_units(unit: str, expected: str) -> None:
    assert one(obx("8867-4^HR^LN", "80", unit)).unit == expected


@pytest.mark.parametrize(
    ("sent", "ucum"),
    [
        *(("MM HG", "mm[Hg]"), ("mmHg", "mm[Hg]"), ("kPa", "kPa"), ("degF", "[degF]"), ("CEL", "Cel"), ("percent", "%")),
        *(("lpm", "L/min"), ("mL/min", "mL/min"), ("266016", "mm[Hg]"), ("MDC_DIM_FAHR", "[degF]"), ("K", "K"), ("m/s", "")),
    ],
)
def test_unit_spellings(sent: str, ucum: str) -> None:
    assert known_unit(sent) == ucum


def test_what_is_mapped_can_be_read_by_the_lane() -> None:
    outcome = reader()(
        vitals(
            obx("150456^MDC_PULS_OXIM_SAT_O2^MDC", "97", "262688^MDC_DIM_PERCENT^MDC"),
            obx("8310-5^T^LN", "98.6", "degF"),
            obx("67775-7^L^LN", "LA17108-4^V^LN", kind="CWE"),
            obx("3150-6^FiO2^LN", "21", "%"),
            obx("150021^MDC_PRESS_BLD_NONINV_SYS^MDC", "16", "265987^MDC_DIM_KILO_PASCAL^MDC"),
        )
    )
    readings = [read(o.code, o.value, o.unit, unitless={}) for event in sets(outcome) for o in event.observations]
    assert all(isinstance(reading, Reading) for reading in readings), readings
    assert [reading.parameter for reading in readings if isinstance(reading, Reading)] == [
        "spo2", "systolic", "temperature", "consciousness", "oxygen",
    ]  # fmt: skip


# ----------------------------------------------------------------------------------------------------------------- times


def test_observation_time_comes_before_the_orders() -> None:
    (event,) = sets(reader()(vitals(PULSE, obx("9279-1^RR^LN", "16", "/min", at="20260302095700+0000"))))
    assert event.observed_at == AT + timedelta(minutes=2)
    assert [o.observed_at for o in event.observations] == [AT, None]


def test_far_apart_or_repeated_observations_are_sets_of_their_own() -> None:
    outcome = reader()(
        vitals(
            obx("8867-4^HR^LN", "82", "/min", at="202603021005+0000"),
            obx("8867-4^HR^LN", "80", "/min", at="202603020955+0000"),
            obx("9279-1^RR^LN", "16", "/min", at="202603020956+0000"),
            obx("8867-4^HR^LN", "81", "/min", at="202603020957+0000"),
        )
    )
    found = [[(o.code, o.value) for o in event.observations] for event in sets(outcome)]
    assert found == [[("8867-4", 80.0), ("9279-1", 16.0)], [("8867-4", 81.0)], [("8867-4", 82.0)]]
    assert len({event.id for event in sets(outcome)}) == 3


def test_zone_of_the_peer_and_offset_of_the_message() -> None:
    raw = vitals(obx("8867-4^HR^LN", "80", "/min", at="20260302115500"), obr="OBR|1")
    assert sets(reader(zone="Europe/Berlin")(raw))[0].observed_at == datetime(2026, 3, 2, 10, 55, tzinfo=UTC)
    assert sets(reader()(raw))[0].observed_at == datetime(2026, 3, 2, 11, 55, tzinfo=UTC)
    west = vitals(obx("8867-4^HR^LN", "80", "/min", at="20260302115500"), obr="OBR|1", sent="20260302120000-0500")
    assert sets(reader()(west))[0].observed_at == datetime(2026, 3, 2, 16, 55, tzinfo=UTC)


def test_ambiguous_local_time_is_flagged() -> None:
    raw = vitals(obx("8867-4^HR^LN", "80", "/min", at="202610250230"), obr="OBR|1", sent="20261025003100+0000")
    outcome = reader(zone="Europe/Berlin")(raw)
    assert sets(outcome)[0].observed_at == datetime(2026, 10, 25, 0, 30, tzinfo=UTC)
    assert "ambiguous local time" in outcome.reason


def test_a_time_that_is_none_is_not_replaced_by_a_guess() -> None:
    outcome = reader()(vitals(obx("8867-4^HR^LN", "80", "/min", at="yesterday")))
    assert [each.message for each in letters(outcome)] == ["OBX-14: time of a vital sign: not an HL7 timestamp"]
    assert sets(outcome) == []


def test_a_day_alone_gives_way_to_the_orders_time() -> None:
    (event,) = sets(reader()(vitals(obx("8867-4^HR^LN", "80", "/min", at="20260302"))))
    assert event.observed_at == AT
    (event,) = sets(reader()(vitals(obx("8867-4^HR^LN", "80", "/min", at="20260301"))))
    assert event.observed_at == datetime(2026, 3, 1, 23, 59, 59, tzinfo=UTC)


@pytest.mark.parametrize(
    ("day", "observed"),
    [
        ("20260302", NOW),  # was read as midnight: history, and never alerted
        ("20260303", NOW),
        ("20260301", datetime(2026, 3, 1, 22, 59, 59, tzinfo=UTC)),
        ("202603", datetime(2026, 2, 28, 23, tzinfo=UTC)),  # says nothing of today
    ],
)
def test_a_day_alone_is_when_the_message_was_sent_and_no_later_than_its_end(day: str, observed: datetime) -> None:
    outcome = reader(zone="Europe/Berlin")(vitals(PULSE, obr=f"OBR|1||||||{day}"))
    assert sets(outcome)[0].observed_at == observed
    assert "a time without the hour" in outcome.reason


def test_without_any_time_the_message_was_sent_then() -> None:
    outcome = reader()(vitals(PULSE, obr="OBR|1"))
    assert sets(outcome)[0].observed_at == NOW
    assert "without a time" in outcome.reason


# ------------------------------------------------------------------------------------------------------------- whose it is


def test_device_data_without_a_patient_is_held_apart() -> None:
    for pid in ("PID|1", "PID|1||^^^HOSP", ""):
        outcome = reader()(vitals(PULSE, pid=pid))
        assert sets(outcome) == []
        (letter,) = letters(outcome)
        assert (letter.stage, outcome.verdict, outcome.code) == ("identify", "dead-letter", "AA")


def test_several_patients_in_one_message() -> None:
    raw = message(PID, "OBR|1", PULSE, "PID|2||4712^^^HOSP^MR", "OBR|1", PULSE)
    first, second = sets(reader()(raw))
    assert first.patient_id != second.patient_id


def test_encounter_comes_from_its_own_patient_group() -> None:
    raw = message(PID, "PV1|1|I" + "|" * 17 + "V1", "OBR|1", PULSE, "PID|2||4712^^^HOSP^MR", "OBR|1", PULSE)
    first, second = sets(reader()(raw))
    assert first.encounter_id is not None
    assert second.encounter_id is None


@pytest.mark.parametrize(
    ("letter", "processing"), [("P", "production"), ("T", "training"), ("D", "debugging"), ("", "production")]
)
def test_processing_id(letter: str, processing: str) -> None:
    (event,) = sets(reader()(vitals(PULSE, processing=letter)))
    assert event.processing == processing
    (strict,) = sets(reader(empty_processing="training")(vitals(PULSE, processing="")))
    assert strict.processing == "training"


DOUBTED = obx("8310-5^T^LN", "38.6", "Cel", number=5)
NURSES = (
    obx("9279-1^RR^LN", "28", "/min", number=1),
    obx("59408-5^SpO2^LN", "88", "%", number=2),
    obx("8480-6^SBP^LN", "85", "mm[Hg]", number=3),
    obx("8867-4^HR^LN", "135", "/min", number=4),
)


@pytest.mark.parametrize(
    "doubted",
    [
        flagged(DOUBTED, "QUES"),
        DOUBTED.replace("|F|", "|R|"),
        obx("150364^MDC_TEMP_BODY^MDC", "38.6", "268192^MDC_DIM_DEGC^MDC", number=5),
    ],
)
@pytest.mark.parametrize("place", [0, 4])
def test_one_doubtful_value_does_not_make_a_nurses_set_doubtful(doubted: str, place: int) -> None:
    lines = [*NURSES]
    lines.insert(place, doubted)
    outcome = reader()(vitals(*lines))
    assert {event.charted: [o.code for o in event.observations] for event in sets(outcome)} == {
        True: ["9279-1", "59408-5", "8480-6", "8867-4"],
        False: ["8310-5"],
    }
    watch = bedside.Ward(admit=False)
    watch.monitor = Monitor(MonitorRules())
    said = [made for event in outcome.events for made in watch.say(event)]
    assert [(state, severity) for _, state, severity in bedside.steps(said)] == [("raised", "high")]


def test_sets_of_a_stream_and_of_staff_in_one_order_are_cut_each_by_itself() -> None:
    times = ("0955", "0956", "1002", "1003")
    lines = [obx("8867-4^HR^LN", f"8{n}", "/min", at=f"20260302{at}+0000", number=n) for n, at in enumerate(times)]
    lines += [obx("147842^MDC_ECG_HEART_RATE^MDC", "90", at="202603020956+0000", number=9)]
    found = [(event.charted, [o.value for o in event.observations]) for event in sets(reader()(vitals(*lines)))]
    assert found == [(True, [80.0]), (True, [81.0]), (False, [90.0]), (True, [82.0]), (True, [83.0])]


def test_what_is_not_charted() -> None:
    device = obx(
        "147842^MDC_ECG_HEART_RATE^MDC", "80", "264864^MDC_DIM_BEAT_PER_MIN^MDC", status="R", device="MON7^^00A0^EUI-64"
    )
    (event,) = sets(reader()(vitals(device)))
    assert (event.charted, event.device) == (False, "MON7")
    assert sets(reader(charted=True)(vitals(device)))[0].charted
    assert not sets(reader(charted=False)(vitals(PULSE)))[0].charted


def test_unmapped_observations_are_counted_or_kept() -> None:
    glucose = obx("GLU^Glucose^L", "5.5", "mmol/L", number=2)
    assert reader()(vitals(PULSE, glucose)).reason == "1 x observations that are neither vital signs nor text"
    (letter,) = letters(reader(unmapped="dead-letter")(vitals(PULSE, glucose)))
    assert letter.message == "OBX[2]-3: an observation code that no table knows"


@given(st.text(max_size=20))
def test_any_text_is_a_number_or_a_value_error_that_does_not_quote_it(text: str) -> None:
    try:
        assert abs(number(text)) < float("inf")
    except ValueError as error:
        assert str(error) in ("not a number", "not a finite number")


@given(st.decimals(min_value=-1000, max_value=10000, allow_nan=False, places=2))
def test_numbers_are_read_exactly(value: object) -> None:
    assert number(str(value)) == float(str(value))


# ------------------------------------------------------------------------------------------------------- held apart

MDS = "OBX|1||69965^MDC_DEV_MON_PHYSIO_MULTI_PARAM_MDS^MDC|1.0.0.0|||||||X|||||||{}"
PRESSURE = "OBX|2|NM|150021^MDC_PRESS_BLD_NONINV_SYS^MDC|1.1.1.1|95|266016^MDC_DIM_MMHG^MDC|||||R|||20260302100030"


@pytest.mark.parametrize(
    ("segments", "reason"),
    [
        (
            ("PV1|1|I|ICU^R1^B2", "OBR|1", MDS.format("0001^^0003B1FFFE000000^EUI-64"), PRESSURE),
            "PID: nobody to file this under: device 0001^^0003B1FFFE000000^EUI-64, bed ICU^R1^B2",
        ),
        (("PID|1", "OBR|1", PULSE, "PRT|1|UC||EQUIP||||||MON7"), "PID-3: nobody to file this under: device MON7"),
        (("PID|1", "PV1|1|I|Doe, Jane^^", "OBR|1", PULSE), "PID-3: nobody to file this under"),  # no place has such a name
        (("PID|1", "PV1|1|I|Jane^^", "OBR|1", PULSE), "PID-3: nobody to file this under"),
        (("PID|1", "OBR|1", PULSE, "PRT|1|UC||EQUIP||||||4471882"), "PID-3: nobody to file this under"),  # a patient's number?
        (
            ("PID|1", "PV1|1|I|ICU^R1^B1", "OBR|1", PULSE, "OBR|2", PULSE, "PID|2", "PV1|1|I|ICU^R1^B2", "OBR|3", PULSE),
            "PID-3: nobody to file this under: bed ICU^R1^B1; PID[2]-3: nobody to file this under: bed ICU^R1^B2",
        ),
    ],
)
def test_what_is_held_apart_says_which_monitor_it_came_from(segments: tuple[str, ...], reason: str) -> None:
    outcome = reader()(message(*segments))
    (letter,) = outcome.events
    assert isinstance(letter, DeadLetterEvent)
    assert (letter.stage, letter.message) == ("identify", reason)


@pytest.mark.parametrize("word", ["Final", "In Error", "Auth (Verified)", "Z"])
def test_a_status_that_no_table_knows_is_told_and_confirms_nothing(word: str) -> None:
    outcome = reader()(vitals(obx("8867-4", "131", "/min", status=word)))
    (event,), (letter,) = sets(outcome), letters(outcome)
    assert event.observations[0].status == "unknown"
    assert letter.message.startswith("OBX-11: a status that no table knows")
    # nor may a value that is perhaps taken back pass for one of now
    outcome = reader()(vitals(obx("8867-4", "131", "/min", status=word), obr="OBR|1||F9|VS"))
    assert not sets(outcome)
    assert letters(outcome)


def test_a_senders_own_words_for_a_status() -> None:
    words = {"In Error": "D", "Auth (Verified)": "F", "A": "F"}
    for word, status in (("In Error", "entered-in-error"), ("Auth (Verified)", "final"), ("A", "final"), ("c", "corrected")):
        assert one(obx("8867-4", "131", "/min", status=word), statuses=words).status == status


def test_an_order_whose_status_no_table_knows() -> None:
    obr = "OBR|1||F9|VS^Vitals|||20260302095500+0000" + "|" * 18 + "In Error"
    outcome = reader()(vitals(PULSE, obr=obr))
    assert sets(outcome)[0].observations[0].status == "final"  # OBX-11 says so
    assert letters(outcome)[0].message.startswith("OBR-25: a status that no table knows")
    outcome = reader(statuses={"In Error": "D"})(vitals(PULSE, obr=obr))
    assert sets(outcome)[0].observations[0].status == "cancelled"
    assert not letters(outcome)
    assert not letters(reader()(vitals(obx("718-7^Hb^LN", "9"), obr=obr)))  # nothing is made of that order


@pytest.mark.parametrize(
    ("written", "span"),
    [
        ("202603020955+0000", 60),
        ("2026030209+0000", 3600),
        ("20260302095500+0000", 1),
        ("20260302095500.123+0000", 0),
        ("20260302", 1),  # OBR-7 has the time of that day
        ("20260301", 0),  # read by rule
        ("2026-03-02T09:55Z", 60),
        ("2026-03-02T09:55:00Z", 1),
        ("", 1),  # of OBR-7
    ],
)
def test_what_takes_back_or_corrects_says_how_finely_its_time_is_written(written: str, span: int) -> None:
    spans = {}
    for status in "FDWCX":
        (event,) = sets(reader()(vitals(obx("8867-4", "80", "/min", status=status, at=written))))
        spans[status] = event.observations[0].span
    assert spans == {"F": 0, **dict.fromkeys("DWCX", span)}


@pytest.mark.parametrize(
    "code",
    ["MDC_ECG_HEART_RATE^Heart rate^MDC", "MDC_ECG_HEART_RATE^Heart rate", "^MDC_ECG_HEART_RATE", "147842^Heart rate^MDC"],
)
def test_an_mdc_reference_id_counts_in_either_place(code: str) -> None:
    (event,) = sets(reader()(vitals(obx(code, "130", "/min"))))
    assert [one.code for one in event.observations] == ["8867-4"]
    assert not event.charted


def test_two_mdc_reference_ids_that_differ_are_not_used() -> None:
    outcome = reader()(vitals(obx("MDC_ECG_HEART_RATE^MDC_RESP_RATE^MDC", "30", "/min")))
    assert {one.refused for one in sets(outcome)[0].observations} == {"MDC code and reference id name different observations"}
    assert letters(outcome)
