"""A question asks for all names of what it names, and for nothing else."""

from pathlib import Path

import pytest

from models.registry import Registry
from models.tasks import TextEmbedder
from processors import retrieval_quality
from processors.synonyms import TABLE, asked
from processors.words import of_passage, words

QUESTIONS = Path(__file__).with_name("ward_questions")


@pytest.mark.parametrize(
    ("question", "text"),
    [
        ("SOB at night", "shortness of breath at night"),
        ("sob + CP, ?PE", "shortness of breath + chest pain, ?PE"),
        ("T2DM with CKD", "type 2 diabetes with chronic kidney disease"),
        ("#NOF for hemi", "#fractured neck of femur for hemi"),
        ("shortness of breath", "shortness of breath"),
        ("dyspnoea", "dyspnoea"),  # a word that the model knows stays
        ("knee pain", "knee pain"),
        ("", ""),
    ],
)
def test_the_model_reads_full_names_in_the_place_of_abbreviations(question: str, text: str) -> None:
    assert asked(question).text == text


def test_a_passage_has_what_was_asked_by_whatever_name() -> None:
    question = asked("heart attack with low potassium")
    assert question.share("NSTEMI, hypokalaemia") == pytest.approx(4 / 5)  # all but "with"
    assert question.share("heart attack with low potassium") == 1.0
    assert question.share("a low heart rate") == pytest.approx((0.5 * 2 + 0.5 * 2) / 5)
    assert asked("fever").share("afebrile") == 0.0


def test_a_kind_is_asked_for_along_with_the_whole_and_not_the_whole_for_its_kind() -> None:
    assert asked("anticoagulated").share("on apixaban") == 1.0
    assert asked("apixaban").share("on warfarin, a DOAC is refused") == 0.0
    assert asked("STEMI").share("NSTEMI") == 0.0


def test_other_names_weigh_less_than_the_words_that_were_asked_for() -> None:
    found = asked("SOB")
    weights = dict(zip(found.words.indices, found.words.values, strict=True))
    (own,) = of_passage("sob").indices
    others = {weights[place] for place in of_passage("breathlessness shortness breath dyspnoea").indices}
    assert weights[own] == 1.0
    assert max(others) <= 0.5
    assert not set(weights) & set(of_passage("fever").indices)


def test_every_line_of_the_table_names_one_thing_by_names_that_differ() -> None:
    lines = [line for line in TABLE.read_text(encoding="utf-8").splitlines() if line and not line.startswith("#")]
    assert len(lines) > 200
    firsts = [tuple(words(line.replace("<", "|").split("|")[0])) for line in lines]
    assert len(firsts) == len(set(firsts))
    for line in lines:
        names = [tuple(words(name)) for name in line.replace("<", "|").split("|")]
        assert all(names), line
        assert len(names) == len(set(names)) > 1, line


@pytest.mark.timeout(300)
def test_questions_in_other_words_find_their_notes() -> None:
    """Written by one who had not seen the table, for 80 made-up ward notes: in full words, and in shorthand unlike the note's."""
    model = Registry.load(None).open("embedding", expect=TextEmbedder)
    found = retrieval_quality.evaluate(model, QUESTIONS, rounds=20)
    figures = {section.name: {metric.name: metric for metric in section.metrics} for section in found.sections}
    for kind, first, among_ten in (("full", 0.6, 0.93), ("short", 0.42, 0.82)):
        searched = figures[f"{kind}.jsonl, by meaning and words"]
        assert searched["recall@1"].value >= first
        assert searched["recall@10"].value >= among_ten
    short = figures["short.jsonl, by meaning and words"]["recall@10"]
    assert short.value > short.baselines["meaning"].value + 0.15  # the model alone does not know the abbreviations
