"""Reading one observation: units, limits, answers; what is refused says why."""

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from processors import loinc, ucum, vitals
from processors.deterioration import FEATURES
from processors.vitals import Reading

READ = vitals.reader({"heart_rate": "/min", "respiratory_rate": "/min"})


def value(code: str, number: Any, unit: str) -> Any:
    reading = READ(code, number, unit)
    return reading.value if isinstance(reading, Reading) else reading


@pytest.mark.parametrize(
    ("code", "sent", "unit", "expected"),
    [
        ("8310-5", 98.6, "[degF]", 37.0), ("8310-5", 98.6, "F", 37.0), ("8310-5", 98.6, "DEGF", 37.0),
        ("8310-5", 37, "CEL", 37.0),
        ("8310-5", 310.15, "K", 37.0), ("8310-5", 37.5, "°C", 37.5), ("8310-5", 37.5, "MDC_DIM_DEGC", 37.5),
        ("8310-5", 98.6, "266560", 37.0),
        ("8867-4", 70, "bpm", 70), ("8867-4", 70, "{beats}/min", 70), ("8867-4", 70, "{Beats}/min", 70),
        ("8867-4", 70, "beats/minute", 70),
        ("8867-4", 1.5, "Hz", 90), ("8867-4", 70, "MDC_DIM_BEAT_PER_MIN", 70), ("8867-4", 70, "264864", 70),
        ("8867-4", 70, "", 70),
        ("9279-1", 16, "{breaths}/min", 16), ("9279-1", 16, "br/min", 16),
        ("9279-1", 16, "MDC_DIM_RESP_PER_MIN", 16), ("9279-1", 16, "", 16),
        ("59408-5", 97, "%", 97), ("59408-5", 0.97, "1", 97), ("59408-5", 0.07, "{fraction}", 7),
        ("2708-6", 97, "%{saturation}", 97),
        ("59408-5", 97, "MDC_DIM_PERCENT", 97), ("59408-5", 97, " % ", 97),
        ("8480-6", 120, "mmHg", 120), ("8480-6", 120, "MM[HG]", 120), ("8480-6", 120, "mm Hg", 120),
        ("8480-6", 120, "266016", 120),
        ("3150-6", 21, "%", "air"), ("3150-6", 0.21, "1", "air"), ("3150-6", 20.9, "%", "air"), ("3150-6", 22, "%", "oxygen"),
        ("3150-6", 0.4, "{fraction}", "oxygen"), ("3150-6", 100, "%", "oxygen"), ("3150-6", "room air", "", "air"),
        ("3151-8", 0, "L/min", "air"), ("3151-8", 0.5, "L/min", "oxygen"), ("3151-8", 500, "mL/min", "oxygen"),
        ("3151-8", 2, "lpm", "oxygen"),
        ("8889-8", 71, "264864", 71), ("2708-6", 98, "262688", 98), ("8867-4", 71, "264672", 71),
        ("8310-5", 104, "° F", 40), ("8310-5", 104, "F°", 40), ("8310-5", 104, "Deg. F", 40), ("8310-5", 37, "deg.C", 37),
        ("8310-5", 104, "degrees Fahrenheit", 40), ("8310-5", 37, "°Cel", 37), ("8310-5", 37, "º C", 37),
        ("8480-6", 120, "mm/Hg", 120), ("8480-6", 120, "Torr", 120), ("8867-4", 71, "bpm.", 71), ("8867-4", 71, "(beats)/min", 71),
        ("9279-1", 16, "Breaths/Min.", 16), ("9279-1", 16, "x/min", 16), ("8867-4", 71, "beats per min", 71),
        ("3151-8", 2, "L/min.", "oxygen"), ("3151-8", 2, "Liters/Minute", "oxygen"), ("59408-5", 97, "prcnt", 97),
        ("3151-8", 2, "L", "oxygen"),
    ],
)  # fmt: skip
def test_units(code: str, sent: Any, unit: str, expected: Any) -> None:
    assert value(code, sent, unit) == expected


def test_kilopascal_by_ucums_definition() -> None:
    assert value("8480-6", 16.0, "kPa") == pytest.approx(120.0102, abs=1e-4)
    assert value("8480-6", 13.3322, "kPa") == 100.0


@pytest.mark.parametrize(
    ("code", "sent", "unit", "why"),
    [
        ("8310-5", 98.6, "Cel", "impossible"),  # Fahrenheit sent as Celsius
        ("8310-5", 37, "[degF]", "impossible"),  # and the other way round
        ("59408-5", 0.97, "%", "impossible"), ("59408-5", 97, "1", "impossible"), ("59408-5", 101, "%", "impossible"),
        ("59408-5", 0, "%", "impossible"), ("8480-6", 11647, "mm[Hg]", "impossible"), ("8867-4", -1, "/min", "impossible"),
        ("8867-4", 400, "/min", "impossible"), ("3150-6", 0.4, "%", "impossible"), ("3150-6", 110, "%", "impossible"),
        ("8310-5", 37, "", "no unit"), ("8480-6", 120, "", "no unit"), ("8310-5", 37, "mm[Hg]", "unknown unit"),
        ("8867-4", 70, "furlong", "unknown unit"), ("8480-6", 120, "cm[H2O]", "unknown unit"),
        ("8867-4", math.nan, "/min", "not a finite"), ("8867-4", math.inf, "/min", "not a finite"),
        ("8867-4", -math.inf, "", "not a finite"),
        ("8867-4", "70", "/min", "not a number"), ("8310-5", "hot", "Cel", "not a number"),
        ("8867-4", None, "/min", "no value"),
        ("67775-7", "sleepy", "", "ACVPU"), ("67775-7", 15.0, "", "ACVPU"),
        ("29463-7", 80, "kg", "not a vital sign"), ("", 1, "", "not a vital"),
    ],
)  # fmt: skip
def test_refused_with_the_reason(code: str, sent: Any, unit: str, why: str) -> None:
    reading = READ(code, sent, unit)
    assert isinstance(reading, str)
    assert why in reading


@pytest.mark.parametrize(
    ("code", "sent", "unit"),
    [("59408-5", 60, "%"), ("59408-5", 1, "%"), ("8867-4", 0, "/min"), ("8867-4", 280, "/min"), ("9279-1", 0, "/min"),
     ("9279-1", 80, "/min"), ("8480-6", 30, "mm[Hg]"), ("8480-6", 300, "mm[Hg]"), ("8310-5", 24, "Cel"), ("8310-5", 43, "Cel")],
)  # fmt: skip
def test_the_extreme_but_possible_is_never_refused(code: str, sent: float, unit: str) -> None:
    assert value(code, sent, unit) == sent


@pytest.mark.parametrize(
    ("answer", "letter"),
    [("A", "A"), ("alert", "A"), ("LA9340-6", "A"), ("248234008", "A"), ("C", "C"), ("New  Confusion", "C"), ("LA6560-2", "C"),
     ("130987000", "C"), ("V", "V"), ("Responds to voice", "V"), ("LA17108-4", "V"), ("300202002", "V"), ("p", "P"),
     ("LA17107-6", "P"),
     ("450847001", "P"), ("U", "U"), ("Unresponsive", "U"), ("LA9343-0", "U"), ("422768004", "U"), ("LA9340-6^Alert^LN", "A"),
     ("X1^Unresponsive^LOCAL", "U"), ("A - Alert", "A"), ("V - Verbal", "V"), ("C: New confusion", "C"), ("(P) Pain", "P"),
     ("Unresponsive (U)", "U"), ("U \u2013 Unconscious", "U"), ("C - New-onset confusion", "C"),
     ("Responds to painful stimuli", "P"), ("AVPU1^V - Responds to voice^LOCAL", "V")],
)  # fmt: skip
def test_acvpu(answer: str, letter: str) -> None:
    assert value("67775-7", answer, "") == letter


@pytest.mark.parametrize(
    "answer", ["A - Verbal", "U - Unable to assess", "V - Ventilated", "A/V", "Drowsy", "AVPU", "A -", "- A", "GCS 15"]
)
def test_what_is_not_certainly_one_level_is_none(answer: str) -> None:
    assert READ("67775-7", answer, "") == "not an answer on the ACVPU scale"


def test_panels_are_passed_over_without_a_word() -> None:
    assert READ("85354-9", None, "") == ""


def test_every_code_means_a_parameter_that_the_model_or_news2_knows() -> None:
    assert {meaning.parameter for meaning in loinc.LOINC.values()} == set(FEATURES)
    assert {meaning.quantity for meaning in loinc.LOINC.values()} - {"consciousness"} == set(vitals.LIMITS)
    assert {limits.unit for limits in vitals.LIMITS.values()} == set(ucum.UNITS)


@given(
    st.sampled_from(list(loinc.LOINC)),
    st.floats() | st.text() | st.none(),
    st.sampled_from(["", "%", "/min", "Cel", "kPa", "1"]) | st.text(),
)
def test_anything_is_read_or_refused(code: str, sent: Any, unit: str) -> None:
    reading = READ(code, sent, unit)
    if isinstance(reading, Reading):
        meaning = loinc.LOINC[code]
        if isinstance(reading.value, float) and meaning.quantity in vitals.LIMITS:
            limits = vitals.LIMITS[meaning.quantity]
            assert limits.low <= reading.value <= limits.high
        else:
            assert reading.value in ("air", "oxygen", *"ACVPU")
    else:
        assert reading == "" or len(reading) > 5


@given(st.decimals(32, 113, places=2))
def test_fahrenheit_is_exact(fahrenheit: Any) -> None:
    how = ucum.conversion("[degF]", "Cel")
    assert how is not None
    exact = (fahrenheit - 32) * 5 / 9
    assert ucum.convert(float(fahrenheit), how) == float(exact)
