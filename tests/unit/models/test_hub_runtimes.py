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
    ],
    ids=["BIO", "underscore", "BIOES", "BILOU", "IO-bare", "IOB1"],
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
