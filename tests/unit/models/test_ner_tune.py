"""Tuning on from a trained state: mentions swapped where their spans say, a stopped run that ends where a whole one does."""

import random
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.errors import Permanent
from models.evaluation.ner_corpora import Document, Gold
from models.training import ner_tune
from models.training.ner import Made, Recipe, train
from models.training.ner_tune import Mentions, Tuning, tune
from tests.unit.models.test_ner_training import start, write_corpora

__all__ = ["start"]  # a fixture

TEXT = "Took aspirin for knee pain and, as noted before, a cough."
SENTENCE = Document(
    "a",
    TEXT,
    tuple(
        Gold(k, TEXT.index(w), TEXT.index(w) + len(w))
        for k, w in (("drug", "aspirin"), ("sign", "knee pain"), ("sign", "cough"))
    ),
    ((TEXT.index("as noted"), TEXT.index("as noted") + len("as noted before")),),
)
OTHER = Document("b", "Warfarin, fever", (Gold("drug", 0, 8), Gold("sign", 10, 15)))


@given(st.integers(0, 10_000), st.floats(0, 1))
def test_swapped_mentions_stand_where_their_spans_say(seed: int, share: float) -> None:
    mentions = Mentions([SENTENCE, OTHER])
    new = mentions.swapped(SENTENCE, share, random.Random(seed))
    known = {"drug": {"aspirin", "Warfarin"}, "sign": {"knee pain", "cough", "fever"}}
    assert [gold.label for gold in new.gold] == ["drug", "sign", "sign"]
    assert all(new.text[gold.start : gold.end] in known[gold.label] for gold in new.gold)
    assert [new.text[a:b] for a, b in new.unjudged] == ["as noted before"]
    between = new.text
    for gold in reversed(new.gold):
        between = between[: gold.start] + "_" + between[gold.end :]
    assert between == "Took _ for _ and, as noted before, a _."


def test_nothing_is_swapped_at_share_0_and_much_at_1() -> None:
    mentions = Mentions([SENTENCE, OTHER])
    assert mentions.swapped(SENTENCE, 0.0, random.Random(1)) == SENTENCE
    texts = {mentions.swapped(SENTENCE, 1.0, random.Random(seed)).text for seed in range(40)}
    assert any("Warfarin for fever" in text for text in texts)


@pytest.mark.torch
def test_a_stopped_run_ends_where_a_whole_one_does(tmp_path: Path, start: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    data = write_corpora(tmp_path / "data")
    recipe = Recipe(learning_rate=5e-3, tokens_per_step=256)
    train(data, tmp_path / "first", seed=3, epochs=1, recipe=recipe, start=start)
    first = tmp_path / "first"
    tuning = Tuning(learning_rate=5e-3, average=0.8, recipe=recipe)
    whole = tune(data, first, tmp_path / "whole", rounds=3, steps=8, tuning=tuning)
    assert len(whole) == 3
    assert whole[-1]["loss"] < whole[0]["loss"]
    assert whole[-1]["BC5CDR-IOB"] > 0.75  # a network of this size, 24 steps

    asked = 0

    def stops(*args: object, **kwargs: object) -> object:
        nonlocal asked
        asked += 1
        if asked > 3:  # three sets a round: it stops when the second round is measured
            raise KeyboardInterrupt
        return evaluate(*args, **kwargs)  # type: ignore[arg-type]

    evaluate = ner_tune.evaluate
    monkeypatch.setattr(ner_tune, "evaluate", stops)
    with pytest.raises(KeyboardInterrupt):
        tune(data, first, tmp_path / "stopped", rounds=3, steps=8, tuning=tuning)
    monkeypatch.setattr(ner_tune, "evaluate", evaluate)
    assert tune(data, first, tmp_path / "stopped", rounds=3, steps=8, tuning=tuning) == whole
    ends = [torch.load(tmp_path / name / "state.pt", weights_only=True)["average"] for name in ("whole", "stopped")]
    assert all(np.array_equal(ends[0][key].numpy(), ends[1][key].numpy()) for key in ends[0])
    words = "encoder.embeddings.word_embeddings.weight"
    assert torch.equal(ends[0][words], torch.load(first / "model.pt", weights_only=True)[words])  # not learnt unless asked for


@pytest.mark.torch
def test_a_state_of_another_network_is_told(tmp_path: Path, start: Path) -> None:
    import torch

    data = write_corpora(tmp_path / "data")
    train(data, tmp_path / "run", epochs=1, recipe=Recipe(tokens_per_step=256), start=start)
    torch.save({"heads.bias": torch.zeros(3)}, tmp_path / "run" / "model.pt")
    with pytest.raises(Permanent, match="does not fit the network"):
        tune(data, tmp_path / "run", tmp_path / "out")


@pytest.mark.torch
def test_a_run_says_how_it_was_made(tmp_path: Path, start: Path) -> None:
    data = write_corpora(tmp_path / "data")
    recipe = Recipe(tokens_per_step=256)
    train(data, tmp_path / "one", seed=3, epochs=1, recipe=recipe, start=start)
    tune(data, tmp_path / "one", tmp_path / "two", seed=4, rounds=1, steps=1, tuning=Tuning(recipe=recipe))
    made = Made.of(tmp_path / "two")
    assert (made.start, made.layers) == (start.name, 2)
    assert [step.split(",")[:2] for step in made.steps] == [["train", " seed 3"], ["tune", " seed 4"]]
    assert "tokens_per_step=256" in made.steps[0]
    (tmp_path / "two" / "made.json").unlink()
    with pytest.raises(Permanent, match="does not say how"):
        Made.of(tmp_path / "two")
