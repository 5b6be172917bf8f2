"""Words as sparse vectors: what counts as a word, BM25's weights, and how words and meaning are put together."""

from itertools import pairwise

import pytest

from processors.synonyms import asked
from processors.words import K1, USUAL, B, fused, of_passage, scale, words


def test_words_are_runs_of_letters_and_digits_whatever_their_form() -> None:
    assert words("SpO₂ 88 %, Ödem-li. p.o.") == ["spo2", "88", "ödem", "li", "p", "o"]
    assert words("STRASSE Straße") == ["strasse", "strasse"]
    assert words("e\u0301cho") == ["\u00e9cho"]  # composed
    assert words("snake_case – … 🫁") == ["snake", "case"]
    assert words("37,8°C 头痛") == ["37", "8", "c", "头痛"]


def test_a_passages_weights_are_bm25s_without_the_rarity() -> None:
    text = "pain pain pain none"
    found = of_passage(text)
    stretch = K1 * (1 - B + B * 4 / USUAL)
    three, one = (times * (K1 + 1) / (times + stretch) for times in (3, 1))
    assert sorted(found.values) == pytest.approx([one, three], abs=1e-6)
    assert all(0 < value < K1 + 1 for value in found.values)
    # the same words in a longer text weigh less, and no text is so long that they weigh nothing
    longer = of_passage(text + " filler" * 500)
    place = next(at for at, value in zip(found.indices, found.values, strict=True) if value == max(found.values))
    assert 0 < dict(zip(longer.indices, longer.values, strict=True))[place] < three


def test_places_ascend_and_are_the_same_in_both_and_in_every_process() -> None:
    question, passage = asked("warfarin 5 mg").words, of_passage("Warfarin, 5 mg at night")
    assert set(question.indices) < set(passage.indices)
    assert all(a < b for a, b in pairwise(passage.indices)) and all(0 <= one < 2**32 for one in passage.indices)
    assert asked("warfarin").words.indices == (2356787605,)  # kept in stores: must never change
    assert asked("pain pain").words.values == (2.0,)
    assert asked(" .,% ").words == of_passage("") and not asked("").words.indices


def test_a_question_none_of_whose_telling_words_occurs_is_no_find() -> None:
    question = asked("the swelling of the ankles")
    assert question.share("Ankles: the swelling is of no account") == 1.0
    assert question.share("the end of it") == 0.5  # of swelling, ankles, the, of
    assert asked("?").share("?") == 0.0
    assert scale(2.0, question.share("the end of it")) == 0.25
    assert scale(0.0, 0.0) == 0.0


def test_meaning_counts_more_than_words_and_a_contrary_meaning_counts_nothing() -> None:
    assert fused(1.0, 1.0) == 1.0 and fused(0.0, 0.0) == 0.0
    assert fused(0.5, 0.0) == pytest.approx(0.3) and fused(-0.4, 0.5) == pytest.approx(0.2)
    assert fused(0.8, 0.2) > fused(0.2, 0.8)
