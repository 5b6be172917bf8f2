"""Training, export and card, end to end on a network of a few thousand weights and text written here."""

import itertools
import json
import math
import random
import re
from pathlib import Path

import numpy as np
import pytest

from models.errors import Permanent
from models.evaluation.ner import PRECISE
from models.evaluation.ner_corpora import Document, Gold
from models.registry import WEIGHTS, Registry
from models.tasks import Span
from models.training.ner import HEADS, WIDTH, Corpus, Made, Recipe, _rate, corpora, train
from models.training.ner_card import command, told
from models.training.ner_export import choose_thresholds
from models.training.ner_tune import Tuning
from tests import tiny_models as tiny

DRUGS, SIGNS = ("aspirin",), ("fever", "cough", "pain")


def test_heads_lie_side_by_side_in_the_columns() -> None:
    at = 0
    for head in HEADS:
        assert head.first == at
        assert head.problem() is None
        at += len(head.tags)
    assert at == WIDTH


def test_a_folder_without_corpora_is_told(tmp_path: Path) -> None:
    with pytest.raises(Permanent, match="no entity corpus"):
        corpora(tmp_path)


def test_the_rate_warms_up_and_falls() -> None:
    recipe = Recipe(learning_rate=1.0, warm_up=0.1)
    assert [round(_rate(recipe, p), 3) for p in (0.0, 0.05, 0.1, 0.55, 1.0)] == [0.01, 0.5, 1.0, 0.5, 0.02]


def test_the_card_says_the_command_that_makes_the_weights_again() -> None:
    entry = Registry.load().entry("ner", "clinical-ner")
    tuned = f"tune, seed 7, 4 rounds of all steps, {Tuning()}"
    made = Made("bge", 12, (f"train, seed 7, 4 epochs, {Recipe(learning_rate=0.00015)}", tuned))
    words = command(entry, made).split(" --start START ")
    assert words[0] == "vigil train ner --data DIR --out OUT --registry FILE"
    assert words[1].startswith("--seed 7 --epochs 4 --rate 0.00015 --rounds 4 --rounds-rate 0.0001 --version ")
    other = Made("bge", 12, (f"train, seed 7, 4 epochs, {Recipe(shortest=8)}",))
    assert command(entry, other).startswith("(no command line has these settings: train, seed 7, 4 epochs, Recipe(")


def test_the_shipped_card_has_the_command_and_the_digests_of_the_start() -> None:
    card = (WEIGHTS / "ner" / "card.md").read_text(encoding="utf-8")
    sets = {name: Corpus(name, 0, (), ()) for name in ("BC5CDR-IOB", "NCBI-disease-IOB", "maccrobat")}
    made, _, speed = told(WEIGHTS / "ner" / "card.md", sets)
    assert f"    {command(Registry.load().entry('ner', 'clinical-ner'), made)}\n" in card
    assert {*made.digests} == {"model.onnx", "tokenizer.json"}
    assert len(speed) == 8


def ranked(*rows: tuple[str, float, bool]) -> tuple[list[Document], list[list[Span]]]:
    """One document with predictions of given label, score and truth."""
    spans = [Span(label, 10 * i, 10 * i + 5, score) for i, (label, score, _) in enumerate(rows)]
    gold = [Gold(label, 10 * i, 10 * i + 5 + (not hit)) for i, (label, _, hit) in enumerate(rows)]
    return [Document("a", "x" * 10 * (len(rows) + 1), tuple(gold))], [spans]


def test_thresholds_reach_the_precision_sought_for_the_labels_that_matter() -> None:
    rows = [("symptom", 0.9 - 0.01 * i, i < 17) for i in range(26)] + [
        ("condition", 0.95 - 0.01 * i, i % 2 == 0) for i in range(9)
    ]
    choice = choose_thresholds(*ranked(*rows, ("test", 0.2, True)))
    at = choice.thresholds
    published = [hit for label, score, hit in rows if score >= at[label]]
    assert sum(published) / len(published) >= 0.85
    assert at["symptom"] == pytest.approx(0.74, abs=0.0011)  # all that are right
    assert at["condition"] == pytest.approx(0.89, abs=0.0011)  # every second is: 4 of 7, and 21 of 24 together
    assert at["test"] == pytest.approx(0.2, abs=0.0011)
    assert "precision 0.85" in choice.how


def test_no_other_thresholds_with_the_precision_sought_find_more() -> None:
    rng = random.Random(5)
    for _ in range(20):
        rows = [(rng.choice(PRECISE), s := rng.randint(0, 20) / 20, rng.random() < 0.3 + 0.7 * s) for _ in range(60)]
        shipped = choose_thresholds(*ranked(*rows)).curve.get(0.85)
        most = 0
        for at in itertools.product([*(i / 20 for i in range(21)), 2.0], repeat=3):
            said = [hit for label, score, hit in rows if score >= at[PRECISE.index(label)]]
            if sum(said) >= 0.85 * len(said):
                most = max(most, sum(said))
        assert (shipped.hits if shipped else 0) == most
        assert shipped is None or shipped.precision >= 0.85


def test_a_precision_out_of_reach_leaves_the_best_balance() -> None:
    choice = choose_thresholds(*ranked(*[("symptom", 0.5 - 0.01 * i, bool(i % 2)) for i in range(20)]))
    assert choice.thresholds["symptom"] == choice.balanced["symptom"] < 0.5
    assert 0.85 not in choice.curve
    assert "none reaches precision 0.85" in choice.how


def test_what_thresholds_are_worth_elsewhere_is_measured_on_documents_they_did_not_see() -> None:
    one, spans = ranked(*[("symptom", 0.9, True)] * 4, *[("symptom", 0.6, False)] * 4)
    fooled, wrong = ranked(*[("symptom", 0.9, False)] * 8)
    choice = choose_thresholds(one * 9 + fooled, spans * 9 + wrong)
    assert choice.thresholds["symptom"] == 0.9
    assert (choice.elsewhere.hits, choice.elsewhere.predicted) == (36, 44)


def sentence(rng: random.Random) -> list[tuple[str, str]]:
    words = [(rng.choice("abcde"), "O") for _ in range(rng.randint(1, 4))]
    words += [(rng.choice(DRUGS), "Chemical"), ("mild", "O"), (rng.choice(SIGNS), "Disease"), (".", "O")]
    return words


def write_corpora(folder: Path) -> Path:
    rng = random.Random(1)
    for name, kinds in (("BC5CDR-IOB", {"Chemical", "Disease"}), ("NCBI-disease-IOB", {"Disease"})):
        (folder / name).mkdir(parents=True)
        for part, count in (("train.tsv", 60), ("devel.tsv", 16)):
            lines = ["\n".join(f"{w}\t{'B-' + k if k in kinds else 'O'}" for w, k in sentence(rng)) for _ in range(count)]
            (folder / name / part).write_text("\n\n".join(lines) + "\n")
    (folder / "maccrobat").mkdir()
    documents = []
    for index in range(20):
        text, entities = "", []
        for _ in range(4):
            for word, kind in sentence(rng):
                if kind != "O":
                    label = {"Chemical": "Medication", "Disease": "Sign_symptom"}[kind]
                    entities.append({"label": label, "spans": [[len(text), len(text) + len(word)]]})
                text += word + " "
            text = text.rstrip() + "\n"
        documents.append(json.dumps({"id": f"{index:02}", "text": text, "entities": entities}))
    (folder / "maccrobat" / "train.jsonl").write_text("\n".join(documents) + "\n")
    return folder


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT of two thin layers over the tiny vocabulary, in the hub's own format."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    folder = tmp_path_factory.mktemp("start")
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=len(tiny.TOKENS), hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64
    )
    transformers.BertModel(config, add_pooling_layer=False).save_pretrained(str(folder))
    tiny.tokenizer().save(str(folder / "tokenizer.json"))
    return folder


@pytest.mark.torch
def test_a_run_learns_exports_and_writes_its_card(tmp_path: Path, start: Path) -> None:
    from models.evaluation.ner_report import evaluate
    from models.registry import Registry, sha256_of
    from models.training.ner_export import export, opened, remeasured
    from models.vocabulary import vocabulary

    data = write_corpora(tmp_path / "data")
    recipe = Recipe(learning_rate=5e-3, tokens_per_step=256)
    report = train(data, tmp_path / "run", seed=3, epochs=6, recipe=recipe, start=start)
    assert len(report.history) == 6
    assert report.history[-1]["loss"] < report.history[0]["loss"]
    assert report.figures["BC5CDR-IOB"].micro.f1 > 0.9
    entry, measured = export(
        tmp_path / "run", data, version="0.0.1", out=tmp_path / "ner", registry=tmp_path / "site.toml", licence="MIT"
    )
    model = Registry.load(tmp_path / "site.toml").open("ner", name="clinical-ner")
    text = "a b aspirin mild cough ."
    found = {(s.label, text[s.start : s.end]) for s in opened(tmp_path / "ner", "0.0.1").find([text])[0]}
    assert found == {("medication", "aspirin"), ("symptom", "cough")}
    assert {(s.label, text[s.start : s.end]) for s in model.find([text])[0]} <= found  # what reaches the thresholds
    assert measured.own_head["maccrobat"].micro.f1 > 0.9
    sections = {
        section.name: {one.name: one for one in section.metrics}
        for section in evaluate(model, data, vocabulary=vocabulary()).sections
    }
    own = sections["BC5CDR-IOB/devel.tsv, own guide"]["micro F1"]
    assert own.value == pytest.approx(measured.own_head["BC5CDR-IOB"].micro.f1)
    assert own.baselines["dictionary"].n == own.n == 2  # the training part lies beside
    assert math.isnan(own.low)  # two documents tell no interval
    assert sections["maccrobat/train.jsonl, every fifth document, served"]["symptom F1"].value > 0.9
    for name in ("BC5CDR-IOB", "NCBI-disease-IOB"):  # the card's are the command's, symptoms counted as diseases by both
        for how, figures in (("served", measured.alone), ("served with the vocabulary", measured.published)):
            metric = sections[f"{name}/devel.tsv, {how}"]["micro F1"]
            assert metric.value == pytest.approx(figures[name].micro.f1)
            assert metric.value > 0.5
    assert not any("train.tsv" in name for name in sections)
    card = (tmp_path / "ner" / "card.md").read_text()
    assert entry.files["model.onnx"] in card
    assert f"({start.name}, 2 layers, uncased)" in card
    assert "- train, seed 3, 6 epochs, Recipe(learning_rate=0.005" in card
    assert "(no command line has these settings: train, seed 3" in card  # 256 tokens a step is no option
    for path in (start / "model.safetensors", start / "tokenizer.json"):
        assert f"| the start's `{path.name}` | `{sha256_of(path)}` |" in card
    assert "| BC5CDR-IOB | the model alone |" in card
    assert "| BC5CDR-IOB | as published |" in card
    again, _ = remeasured(data, registry=tmp_path / "site.toml")
    assert again == entry
    now = (tmp_path / "ner" / "card.md").read_text()
    for part in (0, 1):  # all but speed, of which the card has three digits
        assert re.split("## Speed|## How", now)[::2][part] == re.split("## Speed|## How", card)[::2][part]
    assert entry.licence == "MIT"
    assert f"**{measured.own_head['NCBI-disease-IOB'].micro.f1:.3f}**" in card
    assert entry.quality["bc5cdr_f1"] == round(measured.own_head["BC5CDR-IOB"].micro.f1, 4)


@pytest.mark.torch
def test_the_same_seed_gives_the_same_weights(tmp_path: Path, start: Path) -> None:
    import torch

    data = write_corpora(tmp_path / "data")
    states = []
    for name in ("one", "two"):
        train(data, tmp_path / name, seed=5, epochs=1, start=start)
        states.append(torch.load(tmp_path / name / "model.pt", weights_only=True))
    assert all(np.array_equal(states[0][key].numpy(), states[1][key].numpy()) for key in states[0])
