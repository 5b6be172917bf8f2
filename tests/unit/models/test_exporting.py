"""Models in the hub's own formats exported to ONNX: held to torch through the lanes' loaders, refused where too much is lost."""

import gzip
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch", reason="extra: train")
pytest.importorskip("open_clip", reason="extra: train")
pytest.importorskip("onnx", reason="extra: train")

from PIL import Image

from models.errors import Fatal, Permanent
from models.exporting import course, trials
from models.exporting.course import Target
from models.exporting.report import Compared, Made
from models.registering import record
from models.registry import ModelEntry, Registry, Weights, sha256_of
from processors import retrieval_quality
from streams.cli.model_export import Precision
from streams.cli.model_export import export as command
from tests import tiny_hub as hub
from tests import tiny_models as tiny

pytestmark = [pytest.mark.torch, pytest.mark.timeout(900)]  # importing the libraries takes a cold disk minutes

NER, EMBEDDER = "transformers-token-classifier", "sentence-transformers"
PROMPTS = {"normal": ["clear"], "pneumonia": ["pneumonia", "a cough"]}
SENTENCES = ["no fever but mild cough", "chest pain, aspirin 75", "mild cough and chest pain"]


@pytest.fixture(autouse=True)
def few_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(course, "TIMED", 1)


def reports(folder: Path, *texts: tuple[str, str]) -> Path:
    """Case reports: each a text, and what in it is a symptom."""
    folder.mkdir()
    given = texts or [(f"{text}, day {n}.", "cough") for n in range(4) for text in SENTENCES]
    lines = []
    for number, (text, word) in enumerate(given):
        at = text.find(word)
        spans = [{"label": "Sign_symptom", "spans": [[at, at + len(word)]]}] if at >= 0 else []
        lines.append(json.dumps({"id": str(number), "text": text, "entities": spans}) + "\n")
    (folder / "held.jsonl").write_text("".join(lines))
    return folder


def questions(folder: Path) -> Path:
    folder.mkdir()
    random = np.random.default_rng(1)
    with gzip.open(folder / "asked.jsonl.gz", "wt") as out:
        for number in range(30):
            words = [*random.choice(tiny.WORDS, 5), str(number)]
            out.write(json.dumps({"transcription": " ".join(words) + " .", "description": " ".join(words[3:])}) + "\n")
    return folder


def images(folder: Path) -> Path:
    """Pictures of two classes, of many sizes; half of a pneumonia is white."""
    for number in range(24):
        place = folder / ("pneumonia" if number % 2 else "normal")
        place.mkdir(parents=True, exist_ok=True)
        picture = np.random.default_rng(number).integers(0, 256, (41 + number, 77 - number), dtype=np.uint8)
        picture[: 30 * (number % 2)] = 255
        Image.fromarray(picture).save(place / f"{number}.png")
    return folder


def exported(entry: ModelEntry, folder: Path, data: Path, **target: Any) -> Made:
    site = folder.parent / "site.toml"
    name = target.pop("name", f"{entry.name}-onnx")
    makers = {
        "ner": lambda model: trials.entities(model, data),
        "embedding": lambda model: trials.texts(model, data, retrieval_quality.by_meaning),
        "image-text": lambda model: trials.pictures(model, data),
    }
    place = Target(site.parent / name, site, name, "2", **{"tolerance": 100.0, **target})
    return course.export(Weights(entry, folder), makers[entry.task], place)


def opened(made: Made, site: Path) -> Any:
    known = Registry.load(site)
    assert known.weights(made.entry.task, made.entry.name, beside=True).entry == made.entry
    assert not known.serves(made.entry)
    return known.open(made.entry.task, name=made.entry.name)


def on_torch(entry: ModelEntry, folder: Path) -> Any:
    return Registry([(entry, folder)], {}).open(entry.task, name=entry.name)


# --------------------------------------------------------------------------------------------------- token classifiers


def test_a_token_classifier_is_the_same_through_the_lanes_loader(tmp_path: Path) -> None:
    labels = ["I-SYMPTOM", "O", "B-SYMPTOM", "B-DRUG", "I-DRUG", "B-OTHER"]
    table = np.zeros((len(tiny.TOKENS), len(labels)), np.float32)
    table[:, 1] = 4.0
    for word, label in (("chest", "B-SYMPTOM"), ("pain", "I-SYMPTOM"), ("cough", "B-SYMPTOM"), ("aspirin", "B-DRUG")):
        table[tiny.IDS[word], labels.index(label)] = 9.0
    table[tiny.IDS["##7"], labels.index("B-DRUG")] = 14.0  # a later piece that is surer than its first
    folder = hub.classifier_folder(tmp_path / "ward", labels, table)
    kept = {
        "licence": "site-only",
        "trained_on": ["our own notes"],
        "labels": ["symptom", "medication"],
        "thresholds": {"symptom": 0.2},
        "thresholds_chosen": "by hand",
        "preprocessing": {
            "types": {"SYMPTOM": "symptom", "DRUG": "medication"},
            "aggregation": "max",
            "window": 16,
            "overlap": 2,
        },
    }
    entry = hub.entry_of(folder, "ner", NER, **kept)
    made = exported(entry, folder, reports(tmp_path / "data"), name="ward-int8")
    before, after = on_torch(entry, folder), opened(made, tmp_path / "site.toml")
    # "a7 x7" has what an INT8 way may lose, and which way is the fastest depends on the machine: `before` alone is asked of it.
    texts = [*SENTENCES, "mild cough " * 30 + "chest pain", "aspirin", ""]
    for one, other in zip(before.find(texts), after.find(texts), strict=True):
        assert [(s.label, s.start, s.end) for s in one] == [(s.label, s.start, s.end) for s in other]
        assert [s.score for s in one] == pytest.approx([s.score for s in other], abs=0.05)
    assert any(span.label == "medication" for span in before.find(["a7 x7"])[0])
    assert (made.entry.runtime, made.entry.version, after.labels) == ("onnx-token-classifier", "2", before.labels)
    for key, value in kept.items():
        if key != "preprocessing":
            assert getattr(made.entry, key) == (tuple(value) if isinstance(value, list) else value), key
    origin = made.entry.made_of
    assert origin and (origin.name, origin.runtime, origin.digest, origin.tolerance) == ("ward", NER, entry.digest, 100.0)
    assert origin.way == made.chosen.name != "fp32"
    assert made.entry.quality["held.jsonl, served: micro F1"] == made.entry.quality["held.jsonl, served: micro F1, on torch"]
    full, *rest = made.ways
    assert full.parity.largest < 1e-4 and full.agreement == 1.0
    assert {"dynamic", "static"} == {way.name.partition(",")[0] for way in rest if way.integers}
    report = json.loads(json.dumps(made.as_json(), allow_nan=False))
    assert {"1", "2"} == report["ways"][1]["times_torch"].keys()
    assert report["source"]["digest"] == entry.digest and "not measured on" in report["calibrated_on"]
    assert "(written)" in (tmp_path / "ward-int8" / "card.md").read_text()
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".ward")]


def test_calibration_and_measured_part_have_no_text_in_common(tmp_path: Path) -> None:
    folder = hub.classifier_folder(tmp_path / "bert")
    copies = [(text, "cough") for text in [*SENTENCES * 3, "a cough", "mild cough"]]
    trial = trials.entities(on_torch(hub.entry_of(folder, "ner", NER), folder), reports(tmp_path / "data", *copies))
    assert trial.calibration and trial.items and not {*trial.calibration} & {*trial.items}
    inner = hub.embedder_folder(tmp_path / "st", pooling="mean", normalize=True)
    model = on_torch(hub.entry_of(inner, "embedding", EMBEDDER), inner)
    asked = trials.texts(model, questions(tmp_path / "asked"), retrieval_quality.by_meaning)
    assert asked.calibration and not {*asked.calibration} & {*asked.items}
    assert "asked.jsonl.gz, 24 questions to 24 notes" in asked.measured_on


def fragile(folder: Path) -> tuple[ModelEntry, Path]:
    """A classifier whose decisions hang on a thousandth of what its scores reach; its words are no outliers that are kept apart."""
    table = tiny.scores() * 0 + np.array([8.0, 7.99, 0, 0, 0], np.float32)
    table[tiny.IDS["9"], 1] = 8.01
    model = hub.classifier_folder(folder, table=table)
    return hub.entry_of(model, "ner", NER), model


FRAGILE = [(f"fever aspirin mild cough pain chest . , - ( ) / % : a b c d e {n} 9", "9") for n in "fghijklmnopq"]


def test_a_fall_of_the_metric_is_refused_with_its_figures_and_nothing_is_left(tmp_path: Path) -> None:
    entry, folder = fragile(tmp_path / "fragile")
    data = reports(tmp_path / "data", *FRAGILE)
    there = sorted(path.name for path in tmp_path.iterdir())
    with pytest.raises(Permanent, match=r"loses more than 1 points: the best, .*F1 1\.0000 before and 0\.\d+ after") as caught:
        exported(entry, folder, data, tolerance=1.0)
    assert "nothing was written" in str(caught.value) and "--precision fp32" in str(caught.value.hint)
    assert sorted(path.name for path in tmp_path.iterdir()) == there
    made = exported(entry, folder, data, tolerance=0.0, precision="fp32")
    assert made.chosen.name == "fp32" and len(made.ways) == 1
    assert made.entry.quality["held.jsonl, served: micro F1"] == 1.0


def test_a_tolerance_is_met_by_as_much() -> None:
    before = Compared({"F1": 0.90, "other": 0.5, "none": math.nan}, {})
    lost = course.fallen(Compared({"F1": 0.89, "other": 0.6}, {}), before)
    assert (lost.metric, lost.points) == ("F1", 1.0)
    assert course.fallen(Compared({"other": 0.5}, {}), before).points == 90.0  # a figure that is none any more


# --------------------------------------------------------------------------------------------------- text embedders


@pytest.mark.parametrize(
    ("pooling", "dense", "prompts"),
    [("mean", 0, False), ("cls", 12, False), ("max", 0, True), ("weightedmean", 5, False), ("lasttoken", 0, False)],
)
def test_any_pooling_and_dense_layer_is_in_the_graph(tmp_path: Path, pooling: str, dense: int, prompts: bool) -> None:
    more = {"prompts": {"note": "mild: "}, "default_prompt_name": "note"} if prompts else {}
    folder = hub.embedder_folder(tmp_path / "st", pooling=pooling, normalize=dense > 5, dense=dense, **more)
    entry = hub.entry_of(folder, "embedding", EMBEDDER)
    made = exported(entry, folder, questions(tmp_path / "data"), precision="fp32")
    before, after = on_torch(entry, folder), opened(made, tmp_path / "site.toml")
    assert (after.dimensions, after.limit) == (before.dimensions, before.limit)
    texts = [*SENTENCES, "a", ""]
    np.testing.assert_allclose(after.embed(texts), before.embed(texts), atol=1e-5)
    longest = "cough " * (before.limit - 2)
    np.testing.assert_allclose(after.embed([longest]), before.embed([longest]), atol=1e-5)
    assert made.entry.preprocessing.get("prompt") == ("mild: " if prompts else None)
    assert {"asked.jsonl.gz: recall@1", "asked.jsonl.gz: recall@10", "asked.jsonl.gz: nDCG@10"} <= made.entry.quality.keys()


def test_a_pooling_that_leaves_its_prompt_out_is_refused(tmp_path: Path) -> None:
    folder = hub.embedder_folder(
        tmp_path / "st", pooling="mean", normalize=True, prompts={"note": "mild: "}, default_prompt_name="note"
    )
    config = next(folder.glob("*_Pooling/config.json"))
    config.write_text(json.dumps(json.loads(config.read_text()) | {"include_prompt": False}))
    with pytest.raises(Permanent, match="its pooling leaves the prompt out"):
        exported(hub.entry_of(folder, "embedding", EMBEDDER), folder, questions(tmp_path / "data"))


# --------------------------------------------------------------------------------------------------- images


PICTURES = [
    np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
    for seed, shape in enumerate([(40, 51), (64, 65, 3), (33, 90)])
]


def clip(folder: Path, runtime: str, **more: Any) -> ModelEntry:
    said = {"prompts": PROMPTS, "offsets": {"pneumonia": 0.25}, **more}
    return hub.entry_of(folder, "image-text", runtime, labels=list(PROMPTS), preprocessing=said)


@pytest.mark.parametrize("kind", ["transformers-clip", "BiomedCLIP's way", "OpenAI's way"])
def test_both_towers_of_a_clip_are_the_same_through_the_lanes_loader(tmp_path: Path, kind: str) -> None:
    if kind == "transformers-clip":
        folder = hub.clip_folder(tmp_path / "clip")
        entry = clip(folder, kind)
    else:
        folder = hub.open_clip_folder(tmp_path / "clip", hub_text="Biomed" in kind)
        entry = clip(folder, "open-clip", scale=4.0)
    made = exported(entry, folder, images(tmp_path / "data"), precision="fp32")
    before, after = on_torch(entry, folder), opened(made, tmp_path / "site.toml")
    one, other = before.embed_images(PICTURES), after.embed_images(PICTURES)
    # Pillow and torchvision resize alike but for a level here and there
    assert (one * other).sum(axis=1).min() > 0.999
    np.testing.assert_allclose(after.embed_texts(["mild cough", "a"]), before.embed_texts(["mild cough", "a"]), atol=1e-5)
    np.testing.assert_allclose(after.classify(one), before.classify(one), atol=1e-5)  # prompts, scale and offsets
    assert made.entry.runtime == "onnx-image-text" and {"model.onnx", "text.onnx", "tokenizer.json"} == made.entry.files.keys()


def test_a_clip_is_quantised_tower_by_tower(tmp_path: Path) -> None:
    folder = hub.clip_folder(tmp_path / "clip")
    made = exported(clip(folder, "transformers-clip"), folder, images(tmp_path / "data"))
    after = opened(made, tmp_path / "site.toml")
    assert made.chosen.integers and made.chosen.parity.cosine_mean > 0.98
    assert after.embed_texts(["mild cough"]).shape == (1, 8)


@pytest.mark.parametrize(("architecture", "channels"), [("vit", 3), ("resnet", 3)])
def test_an_image_classifier_is_the_same_through_the_lanes_loader(tmp_path: Path, architecture: str, channels: int) -> None:
    labels = ["LABEL_0", "opacity", "no finding"]
    folder = hub.image_classifier_folder(tmp_path / "net", labels, architecture=architecture)
    entry = hub.entry_of(
        folder,
        "image-text",
        "transformers-image-classifier",
        preprocessing={"findings": {"opacity": "pneumonia", "no finding": "no finding"}},
        thresholds={"pneumonia": 0.4},
        labels=["pneumonia", "no finding"],
        meant_for={"modalities": ["DX"]},
    )
    (folder / "learned.npy").write_bytes(b"")
    np.save(folder / "learned.npy", np.array([7], np.uint32))
    entry = entry.model_copy(
        update={
            "files": {name: sha for name, sha in entry.files.items() if name != "learned.npy"},
            "beside": {"learned.npy": sha256_of(folder / "learned.npy")},
        }
    )
    made = exported(entry, folder, images(tmp_path / "data"))
    before, after = on_torch(entry, folder), opened(made, tmp_path / "site.toml")
    one, other = before.embed_images(PICTURES), after.embed_images(PICTURES)
    assert (one * other).sum(axis=1).min() > 0.99
    np.testing.assert_allclose(after.classify(one), before.classify(one), atol=1e-6)
    assert (after.labels, after.thresholds) == (before.labels, before.thresholds)
    assert made.entry.meant_for == entry.meant_for and made.entry.beside == entry.beside
    with pytest.raises(Permanent, match="cannot embed a text"):
        after.embed_texts(["fever"])
    if architecture == "resnet":  # all its products are convolutions, which dynamic leaves
        assert made.chosen.name.startswith("static")
        assert "nothing to quantise" in str(made.table())


def test_data_that_cannot_measure_a_model_is_named(tmp_path: Path) -> None:
    folder = hub.image_classifier_folder(tmp_path / "net", ["effusion", "no finding"])
    entry = hub.entry_of(folder, "image-text", "transformers-image-classifier")
    data = images(tmp_path / "data")
    with pytest.raises(Permanent, match="does not say 'pneumonia'"):
        exported(entry, folder, data)
    bert = hub.classifier_folder(tmp_path / "bert")
    with pytest.raises(Permanent, match="no annotated text"):
        exported(hub.entry_of(bert, "ner", NER), bert, data)
    other = hub.classifier_folder(tmp_path / "other", ["O", "B-organ"], np.zeros((len(tiny.TOKENS), 2), np.float32))
    with pytest.raises(Permanent, match=r"nothing to measure other by: held\.jsonl: not measured on"):
        exported(hub.entry_of(other, "ner", NER), other, reports(tmp_path / "reports"))


def test_openais_tokenizer_cuts_as_the_librarys_own(tmp_path: Path) -> None:
    import open_clip

    from models.runtimes.open_clip import _cutter

    own = open_clip.get_tokenizer("ViT-B-32")
    folder = hub.open_clip_folder(tmp_path / "clip", hub_text=False)
    made = _cutter(own, Weights(clip(folder, "open-clip"), folder))
    for text in [
        "Chest X-ray:  patchy opacity, R lower zone; 3.5cm",
        "pt's \u0394 5\u00b0C caf\u00e9\u2014no effusion!",
        "a",
        "",
    ]:
        ids = own([text])[0]
        assert made.encode(text).ids == ids[: int(ids.argmax()) + 1].tolist(), text


# --------------------------------------------------------------------------------------------------- the command


def site_of(folder: Path, entry: ModelEntry) -> Path:
    site = folder.parent / "site.toml"
    record(entry, site, serve=False)
    return site


def test_the_command_records_a_model_that_can_be_promoted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from models.registering import promote
    from streams.cli.models import show, verify

    folder, data = hub.classifier_folder(tmp_path / "bert"), reports(tmp_path / "data")
    site = site_of(folder, hub.entry_of(folder, "ner", NER))
    command("bert", data=data, registry=site, report=tmp_path / "report.json")
    said = capsys.readouterr().out
    assert "bert-int8 1 (ner, onnx-token-classifier)" in said and "static, per channel" in said
    found = json.loads((tmp_path / "report.json").read_text())
    assert found["written"] in {way["name"] for way in found["ways"]}
    verify(["bert-int8"], registry=site)
    show("bert-int8", registry=site)
    said = " ".join(capsys.readouterr().out.replace("\u2502", " ").split())
    assert "made of bert 1 (transformers-token-classifier" in said and "Written by `vigil models export`" in said
    promote("ner", "bert-int8", site)
    assert [s.label for s in Registry.load(site).open("ner").find(["mild cough"])[0]] == ["symptom"]
    with pytest.raises(Permanent, match=r"bert-int8 is there already"):
        command("bert", data=data, registry=site)
    with pytest.raises(Permanent, match="bert-int8 is a model of the task ner already"):
        command("bert", data=data, registry=site, out=tmp_path / "elsewhere")


def test_a_folder_is_exported_as_it_lies(tmp_path: Path) -> None:
    folder, data = hub.clip_folder(tmp_path / "clip"), images(tmp_path / "data")
    more = tmp_path / "more.toml"
    more.write_text('labels = ["normal", "pneumonia"]\n[preprocessing.prompts]\nnormal = ["clear"]\npneumonia = ["a cough"]\n')
    site = tmp_path / "site.toml"
    command(str(folder), data=data, registry=site, entry=more, tolerance=100.0, precision=Precision.FP32, name="seen")
    assert [entry.name for entry in Registry.load(site).entries("image-text")][-1] == "seen"


def test_what_cannot_be_is_refused_before_anything_is_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, data = hub.classifier_folder(tmp_path / "bert"), reports(tmp_path / "data")
    site = site_of(folder, hub.entry_of(folder, "ner", NER))
    (tmp_path / "a-file").write_text("")
    there = sorted(path.name for path in tmp_path.iterdir())
    monkeypatch.setattr(course, "_on_torch", lambda *_: pytest.fail("the model was opened"))
    with pytest.raises(Permanent, match="no such folder"):
        command("bert", data=tmp_path / "nowhere", registry=site)
    with pytest.raises(Permanent, match="--data is needed"):
        command("bert", registry=site)
    with pytest.raises(Permanent, match="cannot be written into"):
        command("bert", data=data, registry=site, out=tmp_path / "a-file" / "out")
    with pytest.raises(Permanent, match="cannot be written into"):
        command("bert", data=data, registry=site, out=tmp_path / "nowhere" / "out")
    with pytest.raises(Permanent, match="is no model of the registry, and no folder"):
        command("bret", data=data, registry=site)
    with pytest.raises(Permanent, match=r"clinical-ner .* is of the runtime onnx-token-classifier, which is no torch"):
        command("clinical-ner", data=data, registry=site)
    with pytest.raises(Permanent, match="of the runtime onnx-deterioration, which is no torch"):
        command(Registry.load().champion("deterioration"), data=data, registry=site)
    with pytest.raises(Permanent, match="a tolerance of -1"):
        command("bert", data=data, registry=site, tolerance=-1.0)
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes() + b"\0")
    with pytest.raises(Fatal, match=r"digest of .*model\.safetensors differs"):
        command("bert", data=data, registry=site)
    assert sorted(path.name for path in tmp_path.iterdir()) == there
    assert [entry.name for entry in Registry.load(site).entries("ner")] == ["clinical-ner", "bert"]


def test_a_way_that_fails_is_said_and_another_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from models import quantising

    def failing(*_: Any, **__: Any) -> Path:
        raise RuntimeError("an operator that it does not know")

    monkeypatch.setattr(quantising, "to_static", failing)
    folder, data = hub.classifier_folder(tmp_path / "bert"), reports(tmp_path / "data")
    made = exported(hub.entry_of(folder, "ner", NER), folder, data)
    assert made.chosen.name.startswith("dynamic, per channel, 7-bit weights")
    assert [note for note in made.trial.notes if note == "static, per channel: of no use here (RuntimeError)"]


def test_a_registry_that_cannot_be_changed_leaves_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, data = hub.classifier_folder(tmp_path / "bert"), reports(tmp_path / "data")

    def failing(*_: Any, **__: Any) -> None:
        raise Fatal("the registry cannot be written")

    monkeypatch.setattr(course, "record", failing)
    with pytest.raises(Fatal, match="cannot be written"):
        exported(hub.entry_of(folder, "ner", NER), folder, data, precision="fp32")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bert", "data"]


def test_the_fastest_of_the_near_ways_is_taken(tmp_path: Path) -> None:
    from models.export import Parity
    from models.exporting.report import Way

    def way(name: str, cosine: float, seconds: float) -> Way:
        measured = Compared({"F1": 0.9}, dict.fromkeys(course.THREADS, seconds))
        return Way(name, tmp_path, measured, Parity(1, 0.1, cosine, cosine), None, 1.0, name != "fp32")

    def taken(*ways: Way) -> str:
        before = Compared({"F1": 0.9}, dict.fromkeys(course.THREADS, 9.0))
        target = Target(tmp_path / "out", tmp_path / "site.toml", "x", "1")
        return course._chosen([way("fp32", 1.0, 1.0), *ways], before, target, "model x 1", []).name

    assert taken(way("slow", 0.995, 4.0), way("near", 0.991, 3.0), way("far", 0.94, 2.0)) == "near"
    assert taken(way("slow", 0.95, 4.0), way("far", 0.94, 2.0)) == "far"
    assert taken(way("dynamic, per tensor", 0.999, 1.0), way("near", 0.991, 3.0)) == "near"
