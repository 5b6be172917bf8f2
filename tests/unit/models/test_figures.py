"""Doses behind medications and values behind tests: what is read, what is not, and how it lies over what a model found."""

import re
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.figures import Line, beside, whole
from models.registry import Registry
from models.tasks import Span, TokenClassifier
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
    "part",
    [
        "1 - ",
        "1/1/",
        "1 mg/",
        "bd ",
        "two ",
        "sepsis HR 104 furosemide 40mg od. ",
        "K 3.4 > 3.5 > ",
        "1,1",
        ".5 ",
        "1-",
        "1 000 ",
    ],
)
def test_no_text_makes_it_slow(part: str) -> None:
    text = part * (250_000 // len(part))  # a square of that would take hours
    assert len([*beside(text, [Span("medication", 0, 1, 1.0)])]) < len(text)
    assert len(vocabulary().join(text, [], LABELS)[0]) < len(text)
    parts = [Span(("dose", "lab_value")[at % 4 // 2], at, at + 1, 1.0) for at in range(0, len(text), 2)]
    assert len(whole(text, parts)) <= len(parts)


def test_a_line_keeps_its_order() -> None:
    line = Line([Span("a", 5, 9, 1.0), Span("a", 0, 3, 1.0), Span("a", 12, 14, 1.0)])
    assert [one.start for one in line.touched(Span("b", 2, 6, 1.0))] == [0, 5]
    assert line.touched(Span("b", 3, 5, 1.0)) == line.touched(Span("b", 9, 12, 1.0)) == []
    line.put(Span("b", 2, 6, 1.0), Span("a", 6, 9, 1.0), Span("a", 0, 2, 1.0))
    assert [(one.start, one.end) for one in line.spans] == [(0, 2), (2, 6), (6, 9), (12, 14)]


@pytest.mark.parametrize(
    ("text", "given", "expected"),
    [
        ("digoxin .125 mg daily", "125 mg", [".125 mg"]),  # what the tokenizer cuts off
        ("colchicine ,6 mg", "6 mg", [",6 mg"]),
        ("digoxin 0.125 mg", "125 mg", ["0.125 mg"]),
        ("warfarin 1.5 mg", "1", ["1.5"]),
        ("heparin 1,000 units", "000 units", ["1,000 units"]),
        ("heparin 10 000 units", "000 units", ["10 000 units"]),
        ("glargine 1 0 units", "0 units", ["1 0 units"]),
        ("bisoprolol 1 1/2 tablets", "1/2 tablets", ["1 1/2 tablets"]),
        ("bisoprolol 1/2 tablet", "2 tablet", ["1/2 tablet"]),
        ("bisoprolol 1½ tablets", "½ tablets", ["1½ tablets"]),
        ("morphine 5-10 mg", "10 mg", ["5-10 mg"]),
        ("aspart 4-6-4 units", "4 units", ["4-6-4 units"]),
        ("paracetamol <4 g", "4 g", ["<4 g"]),
        ("ramipril 1.25 -> 10 mg", "10 mg", ["10 mg"]),  # an arrow
        ("ramipril -10 mg", "10 mg", ["10 mg"]),  # a dose has no sign
        ("give with food.5 mg", "5 mg", []),  # a point, or the end of a sentence
        ("aspirin bd,10 mg", "10 mg", []),
        ("heparin 0600", "0600", []),
        ("heparin at 22:00", "22:00", []),
        ("then 000 units", "000 units", []),
    ],
)
def test_a_dose_is_whole_or_none(text: str, given: str, expected: list[str]) -> None:
    at = text.index(given, text.index(" "))
    assert [text[one.start : one.end] for one in whole(text, [Span("dose", at, at + len(given), 0.9)])] == expected


@pytest.mark.parametrize(
    ("text", "given", "expected"),
    [
        ("BE -12.4", "12.4", "-12.4"),
        ("BE=-9.8 mmol/L", "9.8 mmol/L", "-9.8 mmol/L"),
        ("BE-12", "12", "-12"),
        ("Z-score −1.9", "1.9", "−1.9"),
        ("CRP < 5", "5", "< 5"),
        ("eGFR <=15", "15", "<=15"),
        ("troponin .04 ng/mL", "04 ng/mL", ".04 ng/mL"),
        ("troponin <.04", "04", "<.04"),
        ("WBC 12 x10^9/L", "12 x10", "12 x10^9"),
        ("BP 118/72", "118", "118/72"),
        ("Na-134", "134", "134"),  # a dash
        ("T 36 -38", "38", "38"),  # a range
        ("K 6.8 > 5.1", "5.1", "5.1"),  # an arrow
    ],
)
def test_a_value_has_its_point_and_its_sign(text: str, given: str, expected: str) -> None:
    at = text.index(given)
    (found,) = whole(text, [Span("lab_value", at, at + len(given), 0.9)])
    assert (text[found.start : found.end], found.score) == (expected, 0.9)


def test_the_shipped_model_gives_figures_whole() -> None:
    model = Registry.load(None).open("ner", expect=TokenClassifier)
    for text, label, expected in (
        ("Start digoxin .125 mg daily.", "dose", ".125 mg daily"),
        ("Troponin .04 ng/mL, INR 1.1.", "lab_value", ".04 ng/mL"),
        ("ABG: pH 7.21, BE -12.4, lactate 6.", "lab_value", "-12.4"),
    ):
        (spans,) = model.find([text])
        assert expected in [text[one.start : one.end] for one in spans if one.label == label]


def test_a_number_is_one_entitys() -> None:
    def of(text: str, *parts: tuple[str, str]) -> list[tuple[str, str]]:
        spans = [Span(label, text.index(part), text.index(part) + len(part), 0.9) for part, label in parts]
        return [(text[one.start : one.end], one.label) for one in whole(text, spans)]

    assert of("BE -12.4", ("BE -", "test"), ("12.4", "lab_value")) == [("BE", "test"), ("-12.4", "lab_value")]
    assert of("BE -12.4", ("BE -", "test")) == [("BE", "test")]
    assert of("HR 104-110", ("104", "lab_value"), ("110", "lab_value")) == [("104-110", "lab_value")]
    assert of("CA 19-9 is", ("CA 19", "test"), ("9", "lab_value")) == [("CA 19-9", "test")]
    assert of("grade 2/3 oedema", ("grade 2", "test"), ("3 oedema", "symptom")) == [
        ("grade 2/3", "test"),
        ("oedema", "symptom"),
    ]


@pytest.mark.parametrize(
    ("text", "doses"),
    [
        ("digoxin .125 mg daily", [".125 mg daily"]),
        ("warfarin .5mg then .25mg od", [".5mg", ".25mg od"]),
        ("restart .5mg bd", [".5mg bd"]),
        ("heparin 10 000 units sc", ["10 000 units sc"]),
        ("bisoprolol 1 1/2 tablets od, ½ tablet on", ["1 1/2 tablets od"]),
        ("prednisolone 30mg twice weekly", ["30mg twice weekly"]),
        ("methotrexate 7.5 mg once weekly.", ["7.5 mg once weekly"]),
        ("morphine 1mg q5min max 10mg", ["1mg q5min"]),
        ("aciclovir 800mg 5 times a day", ["800mg 5 times a day"]),
        ("insulin 0800 od", []),
        ("food.5mg bd", []),
        ("x10 000 units bd", []),
    ],
)
def test_doses_are_read_whole(text: str, doses: list[str]) -> None:
    assert of(text, "dose") == doses


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("troponin .04 ng/mL, creatinine .8, INR .9, Mg .7", [".04 ng/mL", ".8", ".9", ".7"]),
        ("lithium level .6", [".6"]),
        ("K 3.O.", ["3.O"]),
        ("BE -12.4, HCO3 14", ["-12.4", "14"]),
        ("eGFR 54 ml/min/1.73m2", ["54 ml/min/1.73m2"]),
        ("K 5.6,6.7,8.9", []),  # one number, or three
        ("lactate 0800 6.1", []),
    ],
)
def test_values_are_read_whole(text: str, values: list[str]) -> None:
    assert of(text, "lab_value") == values


def test_a_rule_shortens_nothing_that_the_model_found_whole() -> None:
    assert joined("aspirin 10mg with meals", ("10mg with meals", "dose"))[-1] == ("10mg with meals", "dose")
    assert joined("aspirin 10mg after dialysis.\nGP", ("10mg after dialysis.\nGP", "dose"))[-1] == (
        "10mg after dialysis",
        "dose",
    )
    assert joined("doxycycline 200mg stat then 100mg od", ("200mg stat then 100mg od", "dose"))[1:] == [
        ("200mg stat", "dose"),
        ("100mg od", "dose"),
    ]
    assert joined("renin 15 ng/mL/h", ("renin", "test"), ("15 ng/mL/h", "lab_value")) == [
        ("renin", "test"),
        ("15 ng/mL/h", "lab_value"),
    ]
    assert joined("BE -18, K 6.2", ("BE -18", "test"))[:2] == [("BE", "test"), ("-18", "lab_value")]


_NUMBERS = st.sampled_from(
    ["5", "10", "0.125", ".125", "1,000", "1/2", "1½", "5-10", "4-6-4", "118/72", "-12.4", "<.04", "10^9"]
)
_BESIDE = st.sampled_from(
    ["digoxin ", "K ", "BE ", "Cr", "troponin: ", " ", ", ", ". ", " -> ", " > ", "mg ", " mg bd", "%", "\n", "("]
)


@given(st.lists(st.one_of(_NUMBERS, _BESIDE), max_size=10).map("".join), st.lists(st.integers(0, 60), max_size=8, unique=True))
def test_no_figure_is_a_part_of_the_number_it_stands_in(text: str, cuts: list[int]) -> None:
    bounds = sorted(min(cut, len(text)) for cut in cuts)
    pairs = zip(bounds[::2], bounds[1::2], strict=False)
    found, _ = vocabulary().join(text, whole(text, [Span("dose", a, b, 0.9) for a, b in pairs if a < b]), LABELS)
    for one in found:
        if one.label in ("dose", "lab_value") and text[one.start].isdigit():
            before, behind = text[: one.start], text[one.end :]
            assert not re.search(r"\d[-.,/^]?\Z|[.,]\Z", before), (text, one)
            assert not (text[one.end - 1].isdigit() and re.match(r"[-.,/^]?\d|½", behind)), (text, one)
