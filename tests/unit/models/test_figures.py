"""Doses behind medications and values behind tests: what is read, what is not, and how it lies over what a model found."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.figures import Line, beside
from models.tasks import Span
from models.vocabulary import vocabulary

LABELS = ("condition", "symptom", "medication", "test", "procedure", "anatomy", "dose", "lab_value")


def joined(text: str, *spans: tuple[str, str]) -> list[tuple[str, str]]:
    given = [Span(label, text.index(part), text.index(part) + len(part), 0.9) for part, label in spans]
    return [(text[one.start : one.end], one.label) for one in vocabulary().join(text, given, LABELS)[0]]


def of(text: str, label: str) -> list[str]:
    return [part for part, found in joined(text) if found == label]


@pytest.mark.parametrize(
    ("text", "doses"),
    [
        ("furosemide 80mg IV bd, bisoprolol 2.5 od", ["80mg IV bd", "2.5 od"]),
        ("co-codamol 30/500 two qds; Rifinah 300/150 two tablets daily", ["30/500 two qds", "300/150 two tablets daily"]),
        ("insulin: 0.1u/kg/h. novomix 34u/26u", ["0.1u/kg/h", "34u/26u"]),
        ("hypertonic saline 7% 4ml neb bd pre", ["7% 4ml neb bd"]),
        ("doxycycline 200mg stat then 100mg od", ["200mg stat", "100mg od"]),
        ("gabapentin 100mg tds → 300mg tds", ["100mg tds", "300mg tds"]),
        ("paracetamol 1 g every 6 hours as required", ["1 g every 6 hours as required"]),
        ("hydrocortisone cream bd to rash", ["bd"]),
        ("amitriptyline 10mg ON.", ["10mg ON"]),
        ("madopar 125mg qds ON TIME", ["125mg qds"]),
        ("restart 750mg bd once better", ["750mg bd"]),  # of what, stands elsewhere
        ("aspirin stopped 3 days ago", []),
        ("on warfarin 5 years", []),
        ("heparin infusion running", []),  # a route alone is none
        ("paracetamol overdose 20 tablets", []),  # not directly behind it
    ],
)
def test_doses_are_read_behind_medications(text: str, doses: list[str]) -> None:
    assert of(text, "dose") == doses


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("Na 134 K 3.4 Cr 158, CRP <5", ["134", "3.4", "158", "<5"]),
        ("T 38.1 HR 104 BP 118/72 sats 92% RA RR 22", ["38.1", "104", "118/72", "92%", "22"]),
        ("vbg ph 7.14 pco2 10.2 lac 5.0", ["7.14", "10.2", "5.0"]),
        ("Hb was 82 g/L, platelets 12 x10^9/L", ["82 g/L", "12 x10^9/L"]),
        ("creatinine 88 to 134", ["88", "134"]),
        ("troponin negative, HCG neg, d-dimer +ve", ["negative", "neg", "+ve"]),
        ("urine output 400 cc/hr", ["400 cc/hr"]),
        ("CRP 3 days ago, Hb in 2/7, U&E 6 hourly", []),
        ("CT 3 cm nodule. echo 2019", []),
        ("Ca 15-3 awaited", []),  # a tumour marker
        ("K wire to digit, T 12 fracture, Na restriction", []),
        ("level 2 bed, vancomycin level 26.4", ["26.4"]),
    ],
)
def test_values_are_read_behind_tests(text: str, values: list[str]) -> None:
    assert of(text, "lab_value") == values


def test_a_name_that_only_a_figure_makes_a_test_is_found_with_it() -> None:
    assert joined("K 3.4") == [("K", "test"), ("3.4", "lab_value")]
    assert joined("K wire") == []


def test_what_the_model_marked_gives_way_to_what_is_read() -> None:
    assert joined("Hb 71, CD4 38", ("Hb 71", "test"), ("CD4 38", "test")) == [
        ("Hb", "test"),
        ("71", "lab_value"),
        ("CD4", "test"),
        ("38", "lab_value"),
    ]
    assert joined("furosemide 80mg IV bd", ("80mg IV bd", "lab_value")) == [
        ("furosemide", "medication"),
        ("80mg IV bd", "dose"),
    ]
    assert joined("ph 7.14 pco2 10.2", ("7.14 pco2", "lab_value")) == [
        ("ph", "test"),
        ("7.14", "lab_value"),
        ("pco2", "test"),
        ("10.2", "lab_value"),
    ]
    assert joined("86M fell 5/7 ago", ("86M", "lab_value"), ("5/7", "lab_value")) == []  # an age, and a span of time


def test_what_the_model_found_likewise_stays_its_own() -> None:
    text = "aspirin 75 mg"
    spans = [Span("medication", 0, 7, 0.9), Span("dose", 8, 13, 0.8)]
    assert vocabulary().join(text, spans, LABELS) == (spans, frozenset())


def test_a_model_that_knows_no_doses_publishes_none() -> None:
    spans, theirs = vocabulary().join("aspirin 75 mg od, Na 134", [], ("medication", "test"))
    assert [span.label for span in spans] == ["medication", "test"]
    assert len(theirs) == 2


@given(st.text("aT Kg0123456789.,/-–%<+\nmdo", max_size=80), st.lists(st.integers(0, 80), min_size=2, max_size=8, unique=True))
def test_spans_never_overlap_and_lie_in_the_text(text: str, cuts: list[int]) -> None:
    bounds = sorted(min(cut, len(text)) for cut in cuts)
    labels = ("medication", "test", "lab_value", "dose")
    spans = [Span(labels[n % 4], a, b, 0.9) for n, (a, b) in enumerate(zip(bounds[::2], bounds[1::2], strict=False)) if a < b]
    found, theirs = vocabulary().join(text, spans, LABELS)
    assert all(0 <= one.start < one.end <= len(text) for one in found)
    assert all(one.end <= other.start for one, other in pairwise(found))
    assert theirs <= {(one.start, one.end) for one in found}


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    "part", ["1 - ", "1/1/", "1 mg/", "bd ", "two ", "sepsis HR 104 furosemide 40mg od. ", "K 3.4 > 3.5 > ", "1,1"]
)
def test_no_text_makes_it_slow(part: str) -> None:
    text = part * (250_000 // len(part))  # a square of that would take hours
    assert len([*beside(text, [Span("medication", 0, 1, 1.0)])]) < len(text)
    assert len(vocabulary().join(text, [], LABELS)[0]) < len(text)


def test_a_line_keeps_its_order() -> None:
    line = Line([Span("a", 5, 9, 1.0), Span("a", 0, 3, 1.0), Span("a", 12, 14, 1.0)])
    assert [one.start for one in line.touched(Span("b", 2, 6, 1.0))] == [0, 5]
    assert line.touched(Span("b", 3, 5, 1.0)) == line.touched(Span("b", 9, 12, 1.0)) == []
    line.put(Span("b", 2, 6, 1.0), Span("a", 6, 9, 1.0), Span("a", 0, 2, 1.0))
    assert [(one.start, one.end) for one in line.spans] == [(0, 2), (2, 6), (6, 9), (12, 14)]
