"""The terms of the ward: how they are found, how they and a model's spans are put together, what a table may say."""

from pathlib import Path

import pytest

from models.errors import Fatal
from models.registry import PACKAGED as REGISTRY
from models.registry import Registry
from models.tasks import Span
from models.vocabulary import NOTHING, PACKAGED, SILENT, Vocabulary, vocabulary

LABELS = ("condition", "symptom", "medication", "test", "procedure", "anatomy")


def table(folder: Path, text: str) -> Vocabulary:
    (folder / "terms.txt").write_text(text, encoding="utf-8")
    return Vocabulary(folder / "terms.txt")


def found(terms: Vocabulary, text: str) -> list[tuple[str, str]]:
    return [(text[one.start : one.end], one.label) for one in terms.find(text)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Hx T2DM, HTN. ?PE", [("T2DM", "condition"), ("HTN", "condition"), ("PE", "condition")]),
        ("hx t2dm, htn", [("t2dm", "condition"), ("htn", "condition")]),
        ("imp: iecopd / #NOF", [("iecopd", "condition"), ("#NOF", "condition")]),
        ("mi casa, pe class", []),  # capitals alone mean the disease
        ("ST depression in V4-V6", [("ST depression", "symptom")]),  # no low mood
        ("low mood, depression", [("low mood", "symptom"), ("depression", "condition")]),
        ("seen by the stroke team", []),
        ("multiple rib fractures", [("rib fractures", "condition")]),
        ("non-STEMI", []),
        ("post-MI", [("MI", "condition")]),
        ("Crohn’s disease", [("Crohn’s disease", "condition")]),  # as word processors write it
        ("SEPTIC SHOCK", [("SEPTIC SHOCK", "condition")]),  # the longest
        ("asepsis", []),
        ("Imp: CAP, CURB-65 = 3", [("CAP", "condition"), ("CURB-65", "test")]),
        ("CT CAP. 1 CAP PO. cap", [("CT CAP", "test")]),
        ("afebrile, asymptomatic; asymptomatic bacteriuria", [("asymptomatic bacteriuria", "condition")]),
        ("", []),
    ],
)
def test_terms_are_found_as_the_ward_writes_them(text: str, expected: list[tuple[str, str]]) -> None:
    assert found(vocabulary(), text) == expected


def test_what_is_no_value_and_no_symptom_is_left_out() -> None:
    def left(text: str, part: str, label: str = "lab_value") -> list[str]:
        at = text.index(part)
        return [text[s.start : s.end] for s in vocabulary().join(text, [Span(label, at, at + len(part), 0.9)], (label,))[0]]

    assert left("No pulse", "No") == left("Well. Nil PMH", "Nil") == left("BNO x4/7", "x4/7") == []
    assert left("Ketones nil today", "nil") == ["nil"] and left("Blood: Nil", "Nil") == ["Nil"]
    assert left("Afebrile.", "Afebrile", "symptom") == left("DNAR in place", "DNAR", "test") == []


def test_a_term_gives_way_to_a_longer_span_and_takes_the_place_of_parts_and_of_another_label() -> None:
    terms = vocabulary()

    def joined(text: str, *spans: tuple[str, str]) -> list[tuple[str, str, bool]]:
        given = [Span(label, text.index(part), text.index(part) + len(part), 0.9) for part, label in spans]
        all_of, theirs = terms.join(text, given, LABELS)
        return [(text[s.start : s.end], s.label, (s.start, s.end) in theirs) for s in all_of]

    assert joined("severe septic shock", ("severe septic shock", "condition")) == [("severe septic shock", "condition", False)]
    assert joined("T2DM", ("T2DM", "medication")) == [("T2DM", "condition", True)]
    assert joined("pulmonary embolism", ("pulmonary", "anatomy"), ("embolism", "procedure")) == [
        ("pulmonary embolism", "condition", True)
    ]
    assert joined("on warfarin", ("warfarin", "medication")) == [("warfarin", "medication", False)]
    assert joined("seizure", ("seizure", "condition")) == [("seizure", "condition", False)]  # a matter of guides
    assert joined("acute pulmonary embolism", ("acute pulmonary", "procedure")) == [("acute pulmonary", "procedure", False)]
    assert joined("right clavicle fracture", ("right clavicle", "anatomy")) == [("clavicle fracture", "condition", True)]
    assert joined("HR 118. BP 82/40 sats 96%", ("118. BP 82/40 sats 96%", "lab_value")) == [
        ("HR", "test", True),
        ("118", "lab_value", False),
        ("BP", "test", True),
        ("82/40", "lab_value", False),
        ("sats", "test", True),
        ("96%", "lab_value", False),
    ]
    assert joined("fever, then sepsis", ("fever", "symptom")) == [("fever", "symptom", False), ("sepsis", "condition", True)]


def test_headings_and_shorthand_are_nothing_whatever_the_model_says() -> None:
    text = "PMH asthma. L leg"
    spans = [Span("condition", 0, 3, 0.9), Span("anatomy", 12, 13, 0.9), Span("anatomy", 14, 17, 0.9)]
    found, _ = vocabulary().join(text, spans, LABELS)
    assert [text[one.start : one.end] for one in found] == ["asthma", "leg"]
    assert vocabulary().join("L leg", [Span("anatomy", 0, 5, 0.9)], LABELS)[0], "a longer span is another thing"


def test_a_model_with_other_labels_keeps_to_them() -> None:
    spans = [Span("PROBLEM", 0, 6, 0.8)]
    assert vocabulary().join("sepsis, on aspirin", spans, ("PROBLEM", "TREATMENT")) == (spans, frozenset())


def test_a_sites_table_lies_over_the_packaged_one(tmp_path: Path) -> None:
    own = tmp_path / "own.txt"
    own.write_text("# ours\n[condition]\nbadger lung,\n[-]\nPE\n[medication]\nsepsis\n", encoding="utf-8")
    terms = vocabulary(own)
    assert found(terms, "badger lungs; PE; sepsis") == [("badger lungs", "condition"), ("sepsis", "medication")]
    assert terms.digest != vocabulary().digest
    assert len(terms) == len(vocabulary()) + 1


@pytest.mark.parametrize(
    ("text", "words"), [("sepsis\n[condition]\n", r"terms\.txt:1: a term before the first group"), (None, "cannot be read")]
)
def test_a_table_that_is_none_is_refused_with_its_place(tmp_path: Path, text: str | None, words: str) -> None:
    with pytest.raises(Fatal, match=words):
        table(tmp_path, text) if text is not None else Vocabulary(tmp_path / "absent.txt")


def test_every_packaged_term_finds_itself_under_a_label_of_the_shipped_model_and_stands_once() -> None:
    labels = set(Registry.load(None).entry("ner", "clinical-ner").labels)
    assert REGISTRY.is_file()
    group, seen = "", dict[str, str]()
    for line in PACKAGED.read_text(encoding="utf-8").splitlines():
        if not line or line.startswith("# "):
            continue
        if line.startswith("["):
            group = line[1:-1]
            assert group in labels | {SILENT, NOTHING}
            continue
        for term in filter(None, (term.strip() for term in line.split(","))):
            assert term not in seen, f"{term}: twice, as {seen[term]} and {group}"
            seen[term] = group
            assert found(vocabulary(), term) == ([] if group in (SILENT, NOTHING) else [(term, group)]), term
    assert len(seen) > 2000
