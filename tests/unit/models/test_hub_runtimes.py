"""Folders as the hub has them, written by the libraries themselves: opened by a line in the registry, held to what they say."""

import json
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from models.errors import Fatal, Permanent, Poison
from models.evaluation import ner_report
from models.registering import record, seal
from models.registry import Registry, Weights
from tests import tiny_hub as hub
from tests import tiny_models as tiny

pytest.importorskip("torch", reason="extra: train")
pytest.importorskip("sentence_transformers", reason="extra: train")
pytestmark = [pytest.mark.torch, pytest.mark.timeout(600)]  # importing the libraries takes a cold disk minutes

CLASSIFIER, EMBEDDER = "transformers-token-classifier", "sentence-transformers"
TEXT = "Mild fever,\r\nchest pain. Aspirin 75; \U0001f600 COUGH"
SAID = [("symptom", "fever"), ("symptom", "chest pain"), ("medication", "Aspirin"), ("symptom", "COUGH")]


def classifier(folder: Path, **changes: Any) -> Any:
    from models.runtimes.transformers_token_classifier import load

    return load(Weights(hub.entry_of(folder, "ner", CLASSIFIER, **changes), folder), threads=1)


def embedder(folder: Path, **changes: Any) -> Any:
    from models.runtimes.sentence_transformers import load

    return load(Weights(hub.entry_of(folder, "embedding", EMBEDDER, **changes), folder), threads=1)


def said(model: Any, text: str) -> list[tuple[str, str]]:
    (spans,) = model.find([text])
    return [(span.label, text[span.start : span.end]) for span in spans]


def table(labels: list[str], **words: str) -> np.ndarray:
    """Scores by token: each word's own label, all else O."""
    scores = np.zeros((len(tiny.TOKENS), len(labels)), dtype=np.float32)
    scores[:, labels.index("O")] = 8.0
    for word, label in words.items():
        scores[tiny.IDS[word]] = 0.0
        scores[tiny.IDS[word], labels.index(label)] = 8.0
    return scores


# --------------------------------------------------------------------------------------------------- transformers


def test_a_folder_serves_by_one_entry_that_names_nothing_but_the_folder(tmp_path: Path) -> None:
    hub.classifier_folder(tmp_path / "bert")
    site = tmp_path / "site.toml"
    site.write_text(
        '[tasks.ner]\nchampion = "bert"\n\n[[model]]\ntask = "ner"\nname = "bert"\nversion = "1"\n'
        f'runtime = "{CLASSIFIER}"\nlocation = "bert"\nlicence = "site"\n'
    )
    (sealed,) = seal(site)
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= set(sealed.files)
    assert tomllib.loads(site.read_text())["model"][0]["files"] == sealed.files
    model = Registry.load(site).open("ner")
    assert said(model, TEXT) == SAID
    assert model.identity == sealed.identity


def test_scores_are_those_of_the_library_itself(tmp_path: Path) -> None:
    import torch
    from transformers import AutoModelForTokenClassification, AutoTokenizer

    folder = hub.classifier_folder(tmp_path / "bert")
    tokens = AutoTokenizer.from_pretrained(folder)("fever chest", return_tensors="pt")
    with torch.inference_mode():
        p = AutoModelForTokenClassification.from_pretrained(folder)(**tokens).logits[0].softmax(-1).numpy()
    (spans,) = classifier(folder).find(["fever chest"])
    begin, inside = 1, 2
    # fever [1] begins; chest [2] begins too, by its own table: fever's span ends before it
    expected = [p[1, begin] * (1 - p[2, inside]), p[2, begin]]
    assert [span.score for span in spans] == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        (["O", "B-symptom", "I-symptom", "B-medication"], {"chest": "B-symptom", "pain": "I-symptom"}),
        (["B_symptom", "I_symptom", "O", "B_medication"], {"chest": "B_symptom", "pain": "I_symptom"}),
        (["O", "B-symptom", "E-symptom", "S-symptom", "S-medication"], {"chest": "B-symptom", "pain": "E-symptom"}),
        (["O", "B-symptom", "L-symptom", "U-symptom", "U-medication"], {"chest": "B-symptom", "pain": "L-symptom"}),
        (["symptom", "medication", "O"], {"chest": "symptom", "pain": "symptom"}),
        (["O", "I-symptom", "I-medication"], {"chest": "I-symptom", "pain": "I-symptom"}),
        (["O", "I-symptom", "B-symptom", "I-medication", "B-medication"], {"chest": "I-symptom", "pain": "I-symptom"}),
    ],
    ids=["BIO", "underscore", "BIOES", "BILOU", "IO-bare", "IO", "IOB1"],
)
def test_every_kind_of_label_map_gives_the_same_entities(tmp_path: Path, labels: list[str], words: dict[str, str]) -> None:
    alone = {
        kind: next(one for one in labels if one.endswith(kind) and one[0] not in "EL") for kind in ("symptom", "medication")
    }
    for kind in alone:
        if single := [one for one in labels if one[:2] in ("S-", "U-") and one.endswith(kind)]:
            alone[kind] = single[0]
    scores = table(labels, fever=alone["symptom"], cough=alone["symptom"], aspirin=alone["medication"], **words)
    model = classifier(hub.classifier_folder(tmp_path / "bert", labels, scores))
    assert said(model, TEXT) == SAID
    assert said(model, "chest pain aspirin") == [("symptom", "chest pain"), ("medication", "aspirin")]
    (spans,) = model.find([TEXT])
    assert all(0.9 < span.score <= 1 for span in spans)


def test_an_inside_begins_an_entity_only_where_nothing_of_its_type_stands_before() -> None:
    from models.runtimes.label_map import LabelMap
    from models.runtimes.tagging import decode

    columns = LabelMap(["O", "B-x", "I-x", "B-y", "I-y"], "model x 1")

    def found(*words: dict[int, float]) -> list[tuple[str, int, int]]:
        p = np.full((len(words), 5), 1e-6, dtype=np.float32)
        for row, likely in enumerate(words):
            p[row, [*likely]] = [*likely.values()]
        return [(one.kind, one.first, one.last) for one in decode(columns.bio(np.log(p)), columns.tags)]

    assert found({2: 1.0}, {2: 1.0}, {1: 1.0}, {4: 1.0}, {0: 1.0}, {2: 1.0}) == [  # IOB1: a B parts neighbours
        ("x", 0, 1), ("x", 2, 2), ("y", 3, 3), ("x", 5, 5)
    ]  # fmt: skip
    # BIO, the first word unsure: with the second it is one entity, as before
    assert found({0: 0.55, 1: 0.45}, {0: 0.05, 2: 0.95}) == [("x", 0, 1)]


def test_capitals_that_no_text_reaches_are_counted() -> None:
    from tokenizers import Tokenizer
    from tokenizers.models import WordPiece
    from tokenizers.normalizers import BertNormalizer

    from models.runtimes.label_map import capitals_lost

    words = ["[PAD]", "[UNK]", "Sepsis", "COPD", "sepsis", "##A", "9", "##."]
    tokenizer = Tokenizer(WordPiece({word: number for number, word in enumerate(words)}, unk_token="[UNK]"))
    assert capitals_lost(tokenizer) == 0
    tokenizer.normalizer = BertNormalizer(lowercase=False)
    assert capitals_lost(tokenizer) == 0
    tokenizer.normalizer = BertNormalizer(lowercase=True)
    assert capitals_lost(tokenizer) == 3


@pytest.mark.parametrize(
    ("labels", "words", "hint"),
    [
        (["0", "B-x", "I-x"], "exactly one O", """column 0 ('0') seems to be outside: "id2label": { "0": "O", ... }"""),
        (["B-x", "I-x", "Other"], "exactly one O", "column 2 ('Other')"),
        (["x", "y", "z"], "exactly one O", "id2label"),
    ],
)
def test_a_label_map_without_an_outside_says_which_column_looks_like_it(labels: list[str], words: str, hint: str) -> None:
    from models.runtimes.label_map import LabelMap

    with pytest.raises(Fatal, match=words) as refused:
        LabelMap(labels, "model x 1")
    assert hint in str(refused.value.hint)


@pytest.mark.parametrize(
    ("labels", "types", "tags"),
    [
        (["O", "b-problem", "i-problem", "b-test"], {}, "O B-problem I-problem B-test I-test"),
        (["o", "problem-B", "problem-I", "test-B"], {}, "O B-problem I-problem B-test I-test"),
        (["O", "drug_b", "drug_i", "drug_e", "drug_s"], {}, "O B-drug I-drug"),
        (["[PAD]", "B-Disease", "I-Disease", "O", "X", "[CLS]", "[SEP]"], {}, "O B-Disease I-Disease"),
        (["B", "I", "O"], {"B": "condition"}, "O B-B I-B"),
        (["O", "B-", "I-"], {"B-": "condition"}, "O B-B- I-B-"),
        (["O", "hepatitis_B", "vitamin"], {"hepatitis_B": "condition"}, "O B-hepatitis_B I-hepatitis_B B-vitamin I-vitamin"),
        (["O", "B", "T"], {"B": "b cell", "T": "t cell"}, "O B-B I-B B-T I-T"),
        (["O", "e_coli", "s_aureus"], {}, "O B-e_coli I-e_coli B-s_aureus I-s_aureus"),
        (["O", "B-hepatitis_B", "I-hepatitis_B"], {}, "O B-hepatitis_B I-hepatitis_B"),
    ],
)
def test_a_label_map_is_read_by_what_it_means(labels: list[str], types: dict[str, str], tags: str) -> None:
    from models.runtimes.label_map import LabelMap

    assert " ".join(LabelMap(labels, "model x 1", types).tags) == tags


@pytest.mark.parametrize(
    ("labels", "types", "says"),
    [
        (["B", "I", "O"], {}, "mean nothing: 'B'"),
        (["O", "B-", "I-"], {}, "mean nothing: 'B-'"),
        (["O", "LABEL_1"], {}, "mean nothing: 'LABEL_1'"),
        (["O", "B-1", "I-1"], {}, "mean nothing: '1'"),
        (["O", "hepatitis_B", "vitamin"], {}, "mean nothing: 'hepatitis_B'"),
        (["O", "[CLS]", "X"], {}, "name no type"),
        (["O", "B-x", "I-x"], {"y": "condition"}, "types names y"),
    ],
)
def test_a_label_map_that_means_nothing_is_refused(labels: list[str], types: dict[str, str], says: str) -> None:
    from models.runtimes.label_map import LabelMap

    with pytest.raises(Fatal, match=f"model x 1: .*{says}") as refused:
        LabelMap(labels, "model x 1", types)
    assert refused.value.hint


def test_columns_of_no_word_count_as_outside(tmp_path: Path) -> None:
    labels = ["[PAD]", "B-symptom", "I-symptom", "O", "X", "[CLS]", "[SEP]"]
    scores = table(labels, fever="B-symptom", cough="X", aspirin="[CLS]", chest="B-symptom", pain="I-symptom")
    model = classifier(hub.classifier_folder(tmp_path / "bert", labels, scores))
    assert model.labels == ("symptom",)
    assert said(model, TEXT) == [("symptom", "fever"), ("symptom", "chest pain")]


def test_types_rename_and_leave_out_and_thresholds_hold(tmp_path: Path) -> None:
    folder = hub.classifier_folder(tmp_path / "bert")
    renamed = classifier(folder, preprocessing={"types": {"symptom": "condition"}})
    assert said(renamed, TEXT) == [("condition", text) for kind, text in SAID if kind == "symptom"]
    assert renamed.labels == ("condition",)
    assert said(classifier(folder, thresholds={"medication": 1.0}), TEXT) == [one for one in SAID if one[0] == "symptom"]


def test_a_words_score_comes_from_its_pieces_as_the_site_says(tmp_path: Path) -> None:
    # "xy" is two pieces, x and ##y: the first says O (just), the second says symptom (surely)
    labels = list(tiny.TAGS)
    scores = table(labels, fever="B-symptom")
    scores[tiny.IDS["x"]], scores[tiny.IDS["##y"]] = 0.0, 0.0
    scores[tiny.IDS["x"], 0], scores[tiny.IDS["##y"], 1] = 1.0, 8.0
    folder = hub.classifier_folder(tmp_path / "bert", labels, scores)
    found = {
        how: said(classifier(folder, preprocessing={"aggregation": how}), "xy fever") for how in ("first", "average", "max")
    }
    assert found["first"] == [("symptom", "fever")]
    assert found["average"] == found["max"] == [("symptom", "xy"), ("symptom", "fever")]
    with pytest.raises(Fatal, match="aggregation"):
        classifier(folder, preprocessing={"aggregation": "sum"})


def test_it_is_measured_in_its_own_types_by_its_own_label_map_and_pieces(tmp_path: Path) -> None:
    # BIOES, types named as the set's, and a word whose first piece says nothing: label map and aggregation must not be lost
    labels = ["S-Chemical", "O", "B-Disease", "E-Disease", "S-Disease"]
    scores = table(labels, fever="S-Disease", chest="B-Disease", pain="E-Disease", aspirin="S-Chemical")
    scores[tiny.IDS["x"]], scores[tiny.IDS["##y"]] = 0.0, 0.0
    scores[tiny.IDS["x"], 1], scores[tiny.IDS["##y"], 0] = 1.0, 8.0
    folder = hub.classifier_folder(tmp_path / "bert", labels, scores)
    (tmp_path / "bc").mkdir()
    text = "fever\tB-Disease\n.\tO\n\nchest\tB-Disease\npain\tI-Disease\naspirin\tB-Chemical\nxy\tB-Chemical\n"
    (tmp_path / "bc" / "test.tsv").write_text(text)
    kinds = {"Chemical": "medication", "Disease": "problem"}  # as the lane publishes: counted as what it was made of
    for types in ({}, kinds):
        model = classifier(folder, preprocessing={"aggregation": "max", "types": types})
        found = ner_report.evaluate(model, tmp_path / "bc", resamples=20)
        assert [section.name for section in found.sections] == ["test.tsv, own guide", "test.tsv, served"]
        assert all(metric.value == 1.0 for section in found.sections for metric in section.metrics), types
        assert not any("no head" in note for note in found.notes)


def test_a_text_longer_than_the_model_is_read_to_its_end(tmp_path: Path) -> None:
    text = "mild fever. " * 200
    assert said(classifier(hub.classifier_folder(tmp_path / "bert")), text) == [("symptom", "fever")] * 200


def test_what_is_no_such_model_is_refused_and_says_why(tmp_path: Path) -> None:
    whole = hub.classifier_folder(tmp_path / "whole")
    with pytest.raises(Fatal, match="exactly one O"):
        classifier(hub.classifier_folder(tmp_path / "unnamed", [f"LABEL_{i}" for i in range(5)]))
    headless = tmp_path / "headless"
    shutil.copytree(whole, headless)
    from transformers import AutoModelForTokenClassification

    AutoModelForTokenClassification.from_pretrained(whole).bert.save_pretrained(headless)
    config = json.loads((whole / "config.json").read_text())
    (headless / "config.json").write_text(json.dumps(config))
    with pytest.raises(Fatal, match="weights lack classifier"):
        classifier(headless)
    entry = hub.entry_of(whole, "ner", CLASSIFIER)
    from models.runtimes.transformers_token_classifier import load

    unlisted = entry.model_copy(update={"files": {name: sha for name, sha in entry.files.items() if "safetensors" not in name}})
    with pytest.raises(Fatal, match="cannot be read"):  # the weights lie there, but nobody sealed them
        load(Weights(unlisted, whole), threads=1)


# --------------------------------------------------------------------------------------------------- sentence-transformers


def test_a_static_embedding_is_not_told_to_use_a_fast_tokenizer(tmp_path: Path) -> None:
    from models.runtimes.hub import cutter

    weights = tiny.weights_of(tiny.classifier_folder(tmp_path / "static"))
    with pytest.raises(Fatal, match="static embeddings is not served") as refused:
        cutter(tiny.tokenizer(), weights, rows=None)  # sentence-transformers gives a StaticEmbedding's own, of tokenizers
    assert "fast" not in str(refused.value.hint)


@pytest.mark.parametrize(
    ("pooling", "normalize", "dense"),
    [("mean", True, 0), ("cls", False, 0), ("max", True, 8), ("weightedmean", False, 0), ("lasttoken", False, 6)],
)
def test_pooling_and_normalisation_are_the_folders_own(tmp_path: Path, pooling: str, normalize: bool, dense: int) -> None:
    from sentence_transformers import SentenceTransformer

    folder = hub.embedder_folder(tmp_path / "st", pooling=pooling, normalize=normalize, dense=dense)
    model = embedder(folder)
    texts = ["Mild fever.", "chest pain", "a", "aspirin 75 \U0001f600"]
    vectors = model.embed(texts)
    reference = SentenceTransformer(str(folder), device="cpu").encode(texts, normalize_embeddings=True)
    np.testing.assert_allclose(vectors, reference, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    assert vectors.shape == (4, model.dimensions) == (4, dense or hub.WIDE)
    np.testing.assert_array_equal(model.embed(texts[::-1])[::-1], vectors)  # whatever shares the call
    assert (model.limit, model.embed([]).shape) == (32, (0, model.dimensions))


def test_poolings_differ_so_the_folders_config_was_used(tmp_path: Path) -> None:
    first, second = (
        embedder(hub.embedder_folder(tmp_path / pooling, pooling=pooling, normalize=True)).embed(["chest pain"])[0]
        for pooling in ("mean", "cls")
    )
    assert float(first @ second) < 0.9


def test_a_text_over_the_limit_is_refused_and_chunks_of_it_are_not(tmp_path: Path) -> None:
    from processors.vectors import chunks

    model = embedder(hub.embedder_folder(tmp_path / "st", pooling="mean", normalize=True))
    text = "mild fever, chest pain. " * 40
    with pytest.raises(Poison, match="more than 32"):
        model.embed(["a", text])
    cut = chunks(text, model.offsets(text), model.limit)
    assert model.embed([text[one.start : one.end] for one in cut]).shape == (len(cut), model.dimensions)


def test_a_folders_prompt_goes_before_every_text_and_counts(tmp_path: Path) -> None:
    from sentence_transformers import SentenceTransformer

    folder = hub.embedder_folder(
        tmp_path / "st",
        pooling="mean",
        normalize=True,
        prompts={"passage": "mild cough: ", "document": ""},
        default_prompt_name="passage",
    )
    model = embedder(folder)
    reference = SentenceTransformer(str(folder), device="cpu").encode(["fever"], normalize_embeddings=True)
    np.testing.assert_allclose(model.embed(["fever"]), reference, atol=1e-5)
    assert model.limit == 32 - 3
    assert np.array_equal(embedder(folder, preprocessing={"prompt": "document"}).embed(["fever"]), bare(folder, "fever"))
    with pytest.raises(Permanent, match="no prompt 'clinical'"):
        embedder(folder, preprocessing={"prompt": "clinical"})


def bare(folder: Path, text: str) -> np.ndarray:
    """The vector of a text with no prompt before it."""
    settings = folder / "config_sentence_transformers.json"
    settings.write_text(json.dumps(json.loads(settings.read_text()) | {"prompts": {}, "default_prompt_name": None}))
    return embedder(folder).embed([text])


def test_code_that_a_folder_names_is_never_run(tmp_path: Path) -> None:
    folder = hub.embedder_folder(tmp_path / "st", pooling="mean", normalize=True)
    listed = json.loads((folder / "modules.json").read_text())
    listed[1]["type"] = "pooling_of_my_own.Pooling"
    (folder / "modules.json").write_text(json.dumps(listed))
    (folder / "pooling_of_my_own.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w').close()\n")
    with pytest.raises(Fatal, match="pooling_of_my_own"):
        embedder(folder)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("file", "field", "named"),
    [
        ("2_Dense/config.json", "activation_function", "activations_of_my_own.Act"),
        ("modules.json", "type", "sentence_transformers.util.misc.importlib"),
    ],
)
def test_a_module_is_the_librarys_and_an_activation_torchs(tmp_path: Path, file: str, field: str, named: str) -> None:
    folder = hub.embedder_folder(tmp_path / "st", pooling="mean", normalize=True, dense=6)
    raw = json.loads((folder / file).read_text())
    (raw[1] if isinstance(raw, list) else raw)[field] = named
    (folder / file).write_text(json.dumps(raw))
    with pytest.raises(Fatal, match=f"model st 1: .*{named} in {file}"):
        embedder(folder)


def test_weights_that_are_missing_are_never_made_up(tmp_path: Path) -> None:
    folder = hub.embedder_folder(tmp_path / "st", pooling="mean", normalize=True, dense=6)
    whole = hub.tensors(folder / "model.safetensors")
    for kept in (
        {f"other.{name}": values for name, values in whole.items()},
        {name: values for name, values in whole.items() if name != "embeddings.word_embeddings.weight"},
    ):
        hub.put_tensors(folder / "model.safetensors", kept)
        with pytest.raises(Fatal, match=r"model st 1: its weights lack embeddings\.") as refused:
            embedder(folder)
        assert "copy the folder again" in str(refused.value.hint)
    # nobody looks at BERT's pooler here: a folder without it is whole
    hub.put_tensors(folder / "model.safetensors", {name: values for name, values in whole.items() if "pooler" not in name})
    vectors = [embedder(folder).embed(["chest pain"]) for _ in range(2)]
    np.testing.assert_array_equal(*vectors)
    dense = folder / "2_Dense" / "model.safetensors"
    hub.put_tensors(dense, {name: values for name, values in hub.tensors(dense).items() if "bias" not in name})
    with pytest.raises(Fatal, match=r"model st 1: .*Dense.*linear\.bias"):
        embedder(folder)


# --------------------------------------------------------------------------------------------------- what is refused, and how


def changed(folder: Path, **values: Any) -> None:
    """Set fields of config.json; None takes one out."""
    config = json.loads((folder / "config.json").read_text()) | values
    (folder / "config.json").write_text(json.dumps({name: value for name, value in config.items() if value is not None}))


@pytest.mark.parametrize(
    ("named", "says"),
    [
        (None, r"head \(classifier\.bias\) has 5 labels, config\.json has no id2label"),
        ({"0": "O", "1": "B-symptom"}, r"head \(classifier\.bias\) has 5 labels, id2label in config\.json names 2"),
    ],
)
def test_a_label_map_that_is_missing_or_short_is_named(tmp_path: Path, named: dict[str, str] | None, says: str) -> None:
    folder = hub.classifier_folder(tmp_path / "bert")
    changed(folder, id2label=named, label2id=None)
    with pytest.raises(Fatal, match=f"model bert 1: its {says}") as refused:
        classifier(folder)
    assert "id2label" in str(refused.value.hint)


def test_a_config_that_contradicts_itself_is_refused_and_stand_ins_say_nothing(tmp_path: Path) -> None:
    folder = hub.classifier_folder(tmp_path / "bert")
    config = json.loads((folder / "config.json").read_text())
    names = [config["id2label"][str(number)] for number in range(len(config["id2label"]))]
    changed(folder, label2id={f"LABEL_{number}": number for number in range(len(names))})
    assert said(classifier(folder), TEXT) == SAID
    changed(folder, id2label=dict(enumerate(["O", *reversed(names[1:])])), label2id=config["label2id"])
    with pytest.raises(Fatal, match=r"contradicts itself: column \d is '\S+' by label2id, '\S+' by id2label"):
        classifier(folder)


def test_a_damaged_file_is_named_and_the_hint_fits(tmp_path: Path) -> None:
    folder = hub.classifier_folder(tmp_path / "bert")
    for file, kind in (("model.safetensors", "whole safetensors file"), ("config.json", "JSON"), ("tokenizer.json", "JSON")):
        kept = (folder / file).read_bytes()
        (folder / file).write_bytes(kept[:-20])
        with pytest.raises(Fatal, match=f"model bert 1: {file} is no {kind}") as refused:
            classifier(folder)
        assert "copy the folder again" in str(refused.value.hint)
        (folder / file).write_bytes(kept)
    entry = hub.entry_of(folder, "ner", CLASSIFIER)
    unlisted = entry.model_copy(update={"files": {name: sha for name, sha in entry.files.items() if name != "tokenizer.json"}})
    from models.runtimes.transformers_token_classifier import load

    with pytest.raises(Fatal, match="tokenizer is not in the folder") as refused:
        load(Weights(unlisted, folder), threads=1)
    assert "not in [model.files]: tokenizer.json" in str(refused.value.hint)


def vocabulary(folder: Path, change: Any) -> None:
    raw = json.loads((folder / "tokenizer.json").read_text())
    raw["model"]["vocab"] = change(raw["model"]["vocab"])
    (folder / "tokenizer.json").write_text(json.dumps(raw))


@pytest.mark.parametrize("kind", ["ner", "embedding"])
def test_a_tokenizer_that_is_not_the_models_is_refused(tmp_path: Path, kind: str) -> None:
    if kind == "ner":
        folder, opened = hub.classifier_folder(tmp_path / "m"), classifier
    else:
        folder, opened = hub.embedder_folder(tmp_path / "m", pooling="mean", normalize=True), embedder
    whole = (folder / "tokenizer.json").read_bytes()
    last = hub.WIDE - 1
    for change, says in (
        (
            lambda words: words | {"more": last + 1},
            f"{hub.WIDE + 1} entries .the last is {last + 1}., its embedding {hub.WIDE} rows",
        ),
        (lambda words: {**dict(list(words.items())[:4]), "fever": 4}, f"has 5 entries .*, its embedding {hub.WIDE} rows"),
        (lambda words: {w if w[0] == "[" else f"\u00a7{w}": i for w, i in words.items()}, "knows not one word"),
    ):
        vocabulary(folder, change)
        with pytest.raises(Fatal, match=f"model m 1: its tokenizer .*{says}|model m 1: its tokenizer {says}"):
            opened(folder)
        (folder / "tokenizer.json").write_bytes(whole)
    for file in ("tokenizer.json", "tokenizer_config.json"):  # the library makes one of five special tokens
        (folder / file).unlink()
        with pytest.raises(Fatal, match="model m 1: its tokenizer is not in the folder"):
            opened(folder)


# --------------------------------------------------------------------------------------------------- no code, and no noise


@pytest.mark.parametrize("file", ["config.json", "tokenizer_config.json"])
def test_code_that_auto_map_names_is_refused_before_a_library_asks(tmp_path: Path, file: str) -> None:
    folder = hub.classifier_folder(tmp_path / "bert")
    raw = json.loads((folder / file).read_text())
    (folder / file).write_text(
        json.dumps(raw | {"auto_map": {"AutoTokenizer": ["evil.Evil", None], "AutoConfig": "evil.Evil"}})
    )
    with pytest.raises(Fatal, match=f"model bert 1: {file} names code of its own") as refused:
        classifier(folder)
    assert "auto_map" in str(refused.value)


def test_a_word_of_the_vocabulary_may_be_called_so(tmp_path: Path) -> None:
    folder = hub.classifier_folder(tmp_path / "bert")
    vocabulary(folder, lambda words: {"auto_map" if word == "##9" else word: at for word, at in words.items()})
    assert said(classifier(folder), TEXT) == SAID


def test_pickled_weights_are_read_as_tensors_and_run_nothing(tmp_path: Path) -> None:
    import torch

    ran = tmp_path / "ran"

    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (ran,)

    for folder, opened in (
        (hub.classifier_folder(tmp_path / "bert"), classifier),
        (hub.embedder_folder(tmp_path / "st", pooling="mean", normalize=True), embedder),
    ):
        weights = folder / "model.safetensors"
        torch.save(hub.tensors(weights), folder / "pytorch_model.bin")
        weights.unlink()
        opened(folder)
        torch.save({"classifier.bias": Evil()}, folder / "pytorch_model.bin")
        with pytest.raises(Fatal, match=r"pytorch_model\.bin holds more than tensors") as refused:
            opened(folder)
        assert "safetensors" in str(refused.value.hint)
    assert not ran.exists()


def test_pickled_weights_that_are_cut_short_are_named(tmp_path: Path) -> None:
    import torch

    folder = hub.classifier_folder(tmp_path / "bert")
    (weights, safe), kept = (folder / "pytorch_model.bin", folder / "model.safetensors"), {}
    for old in (False, True):
        kept[old] = tmp_path / f"old-{old}"
        torch.save(hub.tensors(safe), kept[old], _use_new_zipfile_serialization=not old)
    safe.unlink()
    whole, older = kept[False].read_bytes(), kept[True].read_bytes()
    for found, says in ((whole[:-30], "is cut short"), (b"", "is empty"), (older[: len(older) // 2], "cannot be read")):
        weights.write_bytes(found)
        with pytest.raises(Fatal, match="model bert 1: .*" + says) as refused:
            classifier(folder)
        assert "pytorch_model.bin" in str(refused.value)
    weights.write_bytes(older)
    assert said(classifier(folder), "fever") == [("symptom", "fever")]


def test_what_cannot_work_is_refused_when_it_is_opened(tmp_path: Path) -> None:
    def opened(folder: Path, task: str, runtime: str, **changes: Any) -> Any:
        return Registry([(hub.entry_of(folder, task, runtime, **changes), folder)], {}).open(task, name=folder.name)

    folder = hub.classifier_folder(tmp_path / "bert")
    for preprocessing, says in (
        ({"window": 512}, "a trial run failed"),  # it has 64 positions
        ({"device": "gpu"}, "torch finds no device 'gpu' here"),
        ({"agregation": "max"}, r"preprocessing\.agregation: .* knows no such key"),
        ({"window": "big"}, r"preprocessing\.window is 'big'"),
    ):
        with pytest.raises((Fatal, Permanent), match=says):
            opened(folder, "ner", CLASSIFIER, preprocessing=preprocessing)
    tensors = hub.tensors(folder / "model.safetensors")
    hub.put_tensors(folder / "model.safetensors", tensors | {"classifier.weight": tensors["classifier.weight"] * float("nan")})
    with pytest.raises(Fatal, match=r"a trial run failed: .* not finite"):
        opened(folder, "ner", CLASSIFIER)
    vectors = hub.embedder_folder(tmp_path / "st", pooling="mean", normalize=True)
    for preprocessing in ({"limit": "x"}, {"batch": "x"}):
        with pytest.raises(Fatal, match=r"preprocessing\.(limit|batch) is 'x'"):
            opened(vectors, "embedding", EMBEDDER, preprocessing=preprocessing)
    tensors = hub.tensors(vectors / "model.safetensors")
    tensors |= {key: tensors[key] * 0 for key in tensors if "LayerNorm" in key}
    hub.put_tensors(vectors / "model.safetensors", tensors)
    with pytest.raises(Fatal, match="a vector of length 0"):
        opened(vectors, "embedding", EMBEDDER)


def test_opening_asks_nothing_runs_nothing_and_says_nothing(tmp_path: Path) -> None:
    site = tmp_path / "site.toml"
    folder = hub.embedder_folder(tmp_path / "st", pooling="mean", normalize=True)
    bare = {name: values for name, values in hub.tensors(folder / "model.safetensors").items() if "pooler" not in name}
    hub.put_tensors(folder / "model.safetensors", bare)  # of which the library makes a report
    evil = hub.classifier_folder(tmp_path / "evil")
    changed(evil, model_type="evil", auto_map={"AutoConfig": "evil.Evil", "AutoModelForTokenClassification": "evil.Evil"})
    (evil / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w').close()\nclass Evil: pass\n")
    record(hub.entry_of(folder, "embedding", EMBEDDER), site)
    record(hub.entry_of(evil, "ner", CLASSIFIER), site)
    code = (
        "from pathlib import Path\nfrom models.registry import Registry\nfrom models.errors import Fatal\n"
        f"known = Registry.load(Path({str(site)!r}))\nknown.open('embedding', name='st')\n"
        "try: known.open('ner', name='evil')\nexcept Fatal as error: print('refused')\n"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code],
        cwd=Path(__file__).parents[3],
        input="y\n" * 9,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert (ran.stdout, ran.stderr, ran.returncode) == ("refused\n", "", 0)
    assert not (tmp_path / "ran").exists()


# --------------------------------------------------------------------------------------------------- the base install


def test_without_the_extra_it_says_what_to_install(tmp_path: Path) -> None:
    folder = hub.classifier_folder(tmp_path / "bert")
    site = tmp_path / "site.toml"
    record(hub.entry_of(folder, "ner", CLASSIFIER), site)
    code = (
        "import sys\nsys.modules['torch'] = None\n"
        "from pathlib import Path\nfrom models.registry import Registry\nfrom models.errors import Permanent\n"
        f"try: Registry.load(Path({str(site)!r})).open('ner')\n"
        "except Permanent as error: print(error, '|', error.hint)\n"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code], cwd=Path(__file__).parents[3], capture_output=True, text=True, timeout=120
    )
    assert ran.returncode == 0, ran.stderr
    assert CLASSIFIER in ran.stdout and "vigil-stream[train]" in ran.stdout
