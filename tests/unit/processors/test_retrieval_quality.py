"""Retrieval: the layout, the figures by hand, BM25 against its formula, and the whole over a real (tiny) embedder."""

import gzip
import json
import math
from pathlib import Path

import numpy as np
import pytest

from models.errors import Permanent
from models.evaluation import question_sets
from models.runtimes.text_embedder import OnnxTextEmbedder
from processors import retrieval_quality
from processors.retrieval_quality import bm25_scores, figures
from tests import tiny_models as tiny


def write(path: Path, *rows: dict[str, object]) -> None:
    with gzip.open(path, "wt") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)


def test_figures_by_hand() -> None:
    ranks = {"model": np.array([1, 2, 11, 1]), "BM25": np.array([1, 1, 1, 20])}
    at_1, at_10, ndcg = figures(ranks, rounds=50)
    assert (at_1.value, at_10.value) == (0.5, 0.75)
    assert ndcg.value == pytest.approx((1 + 1 / math.log2(3) + 0 + 1) / 4)
    assert at_1.baselines["BM25"].value == 0.75
    assert at_1.baselines["BM25"].baselines["difference"].value == pytest.approx(-0.25)
    assert at_1.low <= at_1.value <= at_1.high


def test_one_question_has_an_interval_as_wide_as_one_question_tells() -> None:
    at_1, _, ndcg = figures({"model": np.array([1])}, rounds=50)
    assert (at_1.value, at_1.low, at_1.high) == (1.0, pytest.approx(0.2065, abs=1e-3), 1.0)
    assert (ndcg.value, math.isnan(ndcg.low)) == (1.0, True)


def test_bm25_is_its_formula() -> None:
    scores = bm25_scores(["fever and fever", "cough", "pain cough"], ["Fever!", "nothing known"])
    mean = (3 + 1 + 2) / 3
    expected = math.log(1 + (3 - 1 + 0.5) / 1.5) * 2 * 2.2 / (2 + 1.2 * (0.25 + 0.75 * 3 / mean))
    assert scores[0] == pytest.approx([expected, 0, 0], rel=1e-5)
    assert not scores[1].any()


def test_a_folder_is_measured_with_its_baseline(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    write(
        data / "held.jsonl.gz",
        {"transcription": "fever " * 20, "description": "fever"},
        {"transcription": "aspirin . aspirin", "description": "aspirin"},
        {"transcription": "cough", "description": None},
    )
    write(data / "other.jsonl.gz", {"id": 1, "text": "x"})
    table = np.full((len(tiny.TOKENS), 4), 0.01, np.float32)
    for axis, word in enumerate(("fever", "aspirin", "cough")):
        table[tiny.IDS[word], axis] = 1.0
    folder = tiny.embedder_folder(tmp_path / "model", table)
    changes = {"task": "embedding", "runtime": "onnx-text-embedder", "preprocessing": {"limit": 8, "dimensions": 4}}
    model = OnnxTextEmbedder(tiny.weights_of(folder, **changes), threads=1)
    seen: list[tuple[str, int, int]] = []
    found = retrieval_quality.evaluate(model, data, rounds=20, progress=lambda *step: seen.append(step))
    recall = found.sections[0].metrics[0]
    assert (recall.name, recall.value, recall.n) == ("recall@1", 1.0, 2)
    assert recall.baselines["BM25"].value == 1.0
    assert [section.name for section in found.sections] == ["held.jsonl.gz", "held.jsonl.gz, by meaning and words"]
    both = found.sections[1].metrics[0]
    assert (both.value, list(both.baselines)) == (1.0, ["meaning", "BM25"])
    assert sorted(note.partition(":")[0] for note in found.notes) == ["held.jsonl.gz", "other.jsonl.gz"]
    assert seen[-1] == ("held.jsonl.gz", 4, 4)


def test_nothing_that_fits_says_what_was_looked_for(tmp_path: Path) -> None:
    write(tmp_path / "other.jsonl.gz", {"id": 1})
    with pytest.raises(Permanent, match="passed over") as error:
        question_sets.gather(tmp_path)
    assert "transcription" in (error.value.hint or "")


def test_words_and_meaning_together_find_what_one_alone_does_not(tmp_path: Path) -> None:
    """To this model aspirin means fever and pain means cough: a question without a word of its note, and one meant by two notes."""
    data = tmp_path / "data"
    data.mkdir()
    write(
        data / "held.jsonl.gz",
        {"transcription": "fever fever", "description": "aspirin"},
        {"transcription": "pain", "description": "pain"},
        {"transcription": "cough", "description": None},
    )
    table = np.full((len(tiny.TOKENS), 4), 0.01, np.float32)
    for axis, word in ((0, "fever"), (0, "aspirin"), (1, "cough"), (1, "pain")):
        table[tiny.IDS[word], axis] = 1.0
    folder = tiny.embedder_folder(tmp_path / "model", table)
    changes = {"task": "embedding", "runtime": "onnx-text-embedder", "preprocessing": {"limit": 8, "dimensions": 4}}
    model = OnnxTextEmbedder(tiny.weights_of(folder, **changes), threads=1)
    meaning, both = (section.metrics[0] for section in retrieval_quality.evaluate(model, data, rounds=20).sections)
    assert (meaning.value, meaning.baselines["BM25"].value, both.value) == (0.5, 0.5, 1.0)
