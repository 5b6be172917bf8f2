from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from processors.sections import HEADINGS, OTHER, Sectioner, section_at
from processors.sentences import sentence_starts

HISTORY_AND_PHYSICAL = (
    "Chief Complaint: breathless\r\n"
    "HPI: 71 year old, worse over two days.\r\n"
    "Past Medical History:\r\n"
    "COPD\r\n"
    "FHx: asthma (mother)\r\n"
    "O/E: wheeze throughout\r\n"
    "Impression and Plan:\r\n"
    "1. COPD exacerbation\r\n"
)


def names(text: str) -> list[str]:
    return [section.name for section in Sectioner().split(text)]


def at(text: str, words: str) -> str:
    return section_at(Sectioner().split(text), text.index(words))


def test_history_and_physical_with_crlf() -> None:
    assert at(HISTORY_AND_PHYSICAL, "worse over") == "history-of-present-illness"
    assert at(HISTORY_AND_PHYSICAL, "COPD\r") == "past-medical-history"
    assert at(HISTORY_AND_PHYSICAL, "asthma") == "family-history"
    assert at(HISTORY_AND_PHYSICAL, "wheeze") == "physical-examination"
    assert at(HISTORY_AND_PHYSICAL, "COPD exacerbation") == "assessment-and-plan"


def test_soap_letters_need_capitals_and_a_colon() -> None:
    assert names("S: better\nO: afebrile\nA: resolving\nP: home") == ["", "subjective", "objective", "assessment", "plan"]
    assert names("s: better\na\nP\nplan of the day") == [""]


def test_radiology_report_on_one_line() -> None:
    text = "FINDINGS: Lungs are clear. IMPRESSION: No acute disease."
    assert at(text, "clear") == "findings"
    assert at(text, "acute") == "impression"


def test_headings_inside_a_line_however_they_are_spelt() -> None:
    text = "PMH: HTN. Meds: metformin. FH: MI. Family History (per chart): stroke; Assessment: sepsis PLAN: fluids. O/E: wheeze"
    named = [("HTN", "past-medical-history"), ("metformin", "medications"), ("MI", "family-history"), ("stroke", "family-history"),
             ("sepsis", "assessment"), ("fluids", "plan"), ("wheeze", "physical-examination")]  # fmt: skip
    assert [(word, at(text, word)) for word, _ in named] == named
    assert at("PMH: no asthma Assessment: pneumonia", "pneumonia") == "assessment"
    assert names("Microbiology Advice: stop. Vitamin A: low. Seen at 10:30, ward: 4") == [""]


@pytest.mark.parametrize(
    ("heading", "name"),
    [
        ("FAMILY HX:", "family-history"),
        ("FAM HX:", "family-history"),
        ("FAMILY/SOCIAL HISTORY:", "family-history"),
        ("Family History (per chart):", "family-history"),
        ("PMH -", "past-medical-history"),
        ("Past Medical Hx:", "past-medical-history"),
        ("CT - abdomen:", ""),
        ("CT CHEST - ADDENDUM:", OTHER),
    ],
)
def test_spellings_of_a_heading(heading: str, name: str) -> None:
    assert at(f"{heading} asthma", "asthma") == name


def test_unknown_capitals_end_a_section_and_organs_do_not() -> None:
    text = "FAMILY HISTORY: stroke\nWARD ROUND: chest pain\nEXAMINATION:\nLUNGS: crackles"
    assert at(text, "stroke") == "family-history"
    assert at(text, "chest pain") == OTHER
    assert at(text, "crackles") == "physical-examination"


def test_home_medicines_do_not_stand_under_allergies() -> None:
    text = "Allergies: penicillin (anaphylaxis), trimethoprim - rash\n{}bisoprolol 2.5mg OD, warfarin"
    for heading in ("DHx: ", "DHx ", "Home meds: ", "Home meds ", "Current meds: ", "Drug Hx: "):
        assert at(text.format(heading), "trimethoprim") == "allergies"
        assert at(text.format(heading), "warfarin") == "medications", heading


@pytest.mark.parametrize(
    ("line", "name"),
    [
        ("O/E pale", "physical-examination"),
        ("On exam pale", "physical-examination"),
        ("Imp pale", "impression"),
        ("VS 98.4, pale", "vital-signs"),
        ("EKG pale", "results"),
        ("pmh pale", OTHER),
        ("PPH pale", "obstetric-history"),
        ("History of a pale stool", "family-history"),
        ("PE 2015, pale", "family-history"),
        ("plan-do, pale", "family-history"),
        ("impaired, pale", "family-history"),
    ],
)
def test_a_heading_without_a_colon_ends_what_tells_of_its_mentions(line: str, name: str) -> None:
    assert at(f"FHx: nil\n{line}", "pale") == name
    assert at(f"HPC: worse\n{line}", "pale") == "history-of-present-illness"


def test_words_in_a_sentence_are_no_header() -> None:
    assert names("The plan: was to wait. Her history is long.\nDr Plan: called") == [""]


def test_header_alone_on_its_line_and_text_before_the_first() -> None:
    text = "Seen on the ward.\nALLERGIES\npenicillin"
    assert at(text, "Seen") == ""
    assert at(text, "penicillin") == "allergies"


def test_a_site_brings_its_own_table() -> None:
    sectioner = Sectioner({**HEADINGS, "nursing": ("pflegebericht",)})
    assert [section.name for section in sectioner.split("Pflegebericht: ruhig")] == ["", "nursing"]


@given(st.text(alphabet="aA: .\n\r\tPMHS:é漢🫀-", max_size=120))
def test_sections_cover_the_text_without_overlap(text: str) -> None:
    sections = Sectioner().split(text)
    position = 0
    for section in sections:
        assert section.header == position or section.name == "" or text[position : section.header].strip() == ""
        assert section.header <= section.start <= section.end
        position = section.end
    assert position == len(text)


@given(st.text(max_size=200))
def test_sentence_starts_ascend_inside_the_text(text: str) -> None:
    starts = sentence_starts(text)
    assert starts == sorted(set(starts))
    assert not text or (starts[0] == 0 and starts[-1] < len(text))


LONG = "Obs stable overnight, tolerating diet, mobilising well, "


def test_before_a_capital_a_line_goes_on_only_where_the_text_is_wrapped() -> None:
    wrapped = (
        "The patient was seen by the neurologist this morning, who found no\n"
        "evidence of meningitis, of any kind of encephalitis, nor a trace of a\n"
        "Guillain-Barre syndrome or of any other neuropathy on examination.\n"
        "She was discharged."
    )
    assert sentence_starts(wrapped) == [0, wrapped.index("She")]
    ended = "Seen by the neurologist on the ward this morning, no signs of meningism\nGuillain-Barre syndrome\nhome tomorrow"
    assert len(sentence_starts(ended)) == 3


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("Given 2 mg p.o. daily. Slept well.", ["Given 2 mg p.o. daily. ", "Slept well."]),
        ("Seen by Dr. Rook. Temp. 38.2 today.", ["Seen by Dr. Rook. ", "Temp. 38.2 today."]),
        ("no evidence of\npneumonia", ["no evidence of\npneumonia"]),
        ("No chest pain\nCough present", ["No chest pain\n", "Cough present"]),
        ("Plan:\r\n- fluids\r\n- bloods", ["Plan:\r\n", "- fluids\r\n", "- bloods"]),
        ("1. Sepsis\n2. COPD", ["1. Sepsis\n", "2. COPD"]),
        ("1) No effusion 2) sepsis (3) COPD", ["1) No effusion ", "2) sepsis ", "(3) COPD"]),
        ("Seen (day 2) on ward 2) and 4) well", ["Seen (day 2) on ward 2) and 4) well"]),
        ("Prev. MI in May. Well", ["Prev. MI in May. ", "Well"]),
        ("1. Sepsis improving. 2. COPD", ["1. Sepsis improving. ", "2. COPD"]),
        ("Low vitamin C. He eats poorly", ["Low vitamin C. ", "He eats poorly"]),
        ("One\n\ntwo", ["One\n\n", "two"]),
        ("Better!  \rHome today?", ["Better!  \r", "Home today?"]),
        (f"{LONG}no SOB\nPneumonia on CXR", [f"{LONG}no SOB\n", "Pneumonia on CXR"]),
        (f"{LONG}no SOB\npmh AF", [f"{LONG}no SOB\n", "pmh AF"]),
        (f"{LONG}no SOB,\nDHx apixaban", [f"{LONG}no SOB,\n", "DHx apixaban"]),
        (f"{LONG}has no\nCrohn's disease", [f"{LONG}has no\nCrohn's disease"]),
        ("No fever, rash and\nCrohn's disease", ["No fever, rash and\nCrohn's disease"]),
        ("SOB: no\nPneumonia", ["SOB: no\n", "Pneumonia"]),
    ],
)
def test_sentences(text: str, sentences: list[str]) -> None:
    starts = [*sentence_starts(text), len(text)]
    assert [text[a:b] for a, b in pairwise(starts)] == sentences


@pytest.mark.parametrize(
    ("text", "named"),
    [
        (
            "DHx: apixaban. Allergic to penicillin -> rash. Ramipril. O/E: pale",
            {"penicillin": "allergies", "Ramipril": "medications"},
        ),
        ("Meds: ramipril\nPt is allergic to co-amoxiclav 1.2 g; atenolol", {"co-amox": "allergies", "atenolol": "medications"}),
        ("Allergic to latex. Cough.", {"latex": "allergies", "Cough": ""}),
        ("Meds: ramipril. Not allergic to penicillin.", {"penicillin": "medications"}),
        ("Meds: x. Intolerant of statins", {"statins": "allergies"}),
        ("Allergies: allergic to nuts. Eggs", {"nuts": "allergies", "Eggs": "allergies"}),
        ("DHx: x. Allergic to eggs PMH: asthma", {"asthma": "past-medical-history"}),
    ],
)
def test_a_sentence_of_allergies_is_a_section_of_its_own(text: str, named: dict[str, str]) -> None:
    sections = Sectioner().split(text)
    assert {word: section_at(sections, text.index(word)) for word in named} == named
    assert "".join(text[section.header : section.end] for section in sections) == text
