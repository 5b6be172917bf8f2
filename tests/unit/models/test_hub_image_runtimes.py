"""Image folders as the hub has them (open_clip, transformers CLIP and image classifiers), held to what the libraries say."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from models.errors import Fatal, Permanent, Poison
from models.registering import record
from models.registry import Registry, Weights
from models.tasks import ImageTextModel
from tests import tiny_hub as hub

pytest.importorskip("torch", reason="extra: train")
pytest.importorskip("open_clip", reason="extra: train")
pytest.importorskip("transformers", reason="extra: train")
pytestmark = [pytest.mark.torch, pytest.mark.timeout(600)]  # importing the libraries takes a cold disk minutes

LABELS = ("normal", "pneumonia", "effusion")
PROMPTS = {"normal": ["clear"], "pneumonia": ["pneumonia", "a cough"]}
IMAGES = [
    np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
    for seed, shape in enumerate([(40, 50), (64, 64, 3), (33, 90)])
]


def opened(folder: Path, runtime: str, **changes: Any) -> Any:
    from models.registry import _loader

    entry = hub.entry_of(folder, "image-text", runtime, **changes)
    model = _loader(entry)(Weights(entry, folder), threads=1)
    assert isinstance(model, ImageTextModel)
    return model


def prompted(folder: Path, runtime: str, **more: Any) -> Any:
    return opened(folder, runtime, labels=list(PROMPTS), preprocessing={"prompts": PROMPTS, **more})


def pil(image: np.ndarray, mode: str = "RGB") -> Any:
    from PIL import Image

    return Image.fromarray(image).convert(mode)


def unit(rows: Any) -> np.ndarray:
    found = rows.detach().numpy()
    return np.asarray(found / np.linalg.norm(found, axis=-1, keepdims=True))


def holds(model: Any, images: np.ndarray, texts: np.ndarray, asked: list[str], scale: float) -> None:
    """Vectors are the library's; scores are CLIP's own: softmax of scale x cosine with each label's mean prompt."""
    np.testing.assert_allclose(model.embed_images(IMAGES), images, atol=1e-5)
    np.testing.assert_allclose(model.embed_texts(asked), texts, atol=1e-5)
    np.testing.assert_array_equal(
        model.embed_images(IMAGES[::-1])[::-1], model.embed_images(IMAGES)
    )  # whatever shares the call
    labels = [model.embed_texts(wordings).mean(axis=0) for wordings in PROMPTS.values()]
    logits = scale * images @ np.stack([one / np.linalg.norm(one) for one in labels]).T
    expected = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(model.classify(model.embed_images(IMAGES)), expected, atol=1e-4)
    assert (model.labels, model.embed_images([]).shape) == (tuple(PROMPTS), (0, model.dimensions))
    with pytest.raises(Poison):
        model.embed_images([IMAGES[0].astype(np.float32)])


# --------------------------------------------------------------------------------------------------- open_clip


@pytest.mark.parametrize("hub_text", [True, False], ids=["BiomedCLIP's way", "OpenAI's way"])
def test_open_clip_gives_the_librarys_own_vectors(tmp_path: Path, hub_text: bool) -> None:
    import open_clip
    import torch

    folder = hub.open_clip_folder(tmp_path / "clip", hub_text=hub_text)
    model = prompted(folder, "open-clip")
    config = json.loads((folder / "open_clip_config.json").read_text())
    assert ("hf_model_name" in config["model_cfg"]["text_cfg"]) is hub_text
    if hub_text:  # the reference is told where its text tower lies; ours found it
        config["model_cfg"]["text_cfg"]["hf_model_name"] = str(folder / "text_model")
        (folder / "open_clip_config.json").write_text(json.dumps(config))
    reference, prepare = open_clip.create_model_from_pretrained(f"local-dir:{folder}")
    cut = open_clip.get_tokenizer(f"local-dir:{folder}")
    asked = ["mild cough", "chest pain"]
    with torch.inference_mode():
        images = unit(reference.eval().encode_image(torch.stack([prepare(pil(image)) for image in IMAGES])))
        texts = unit(reference.encode_text(cut(asked)))
    holds(model, images, texts, asked, reference.logit_scale.exp().item())
    with pytest.raises(Poison, match="tokens, more than 24"):
        model.embed_texts(["fever " * 40])


def test_an_open_clip_folder_without_its_parts_says_which(tmp_path: Path) -> None:
    folder = hub.open_clip_folder(tmp_path / "clip", hub_text=True)
    with pytest.raises(Fatal, match="prompts"):
        opened(folder, "open-clip", labels=["normal"])
    for lost, words in (("text_model/config.json", "nobody/not-on-any-hub"), ("open_clip_model.safetensors", "cannot be read")):
        kept = (folder / lost).read_bytes()
        (folder / lost).unlink()
        with pytest.raises(Fatal, match=words):
            prompted(folder, "open-clip")
        (folder / lost).write_bytes(kept)


@pytest.mark.parametrize("kind", ["open-clip", "transformers-clip"])
def test_labels_and_prompts_are_of_the_same_names_two_at_least(tmp_path: Path, kind: str) -> None:
    folder = hub.clip_folder(tmp_path / "clip") if "trans" in kind else hub.open_clip_folder(tmp_path / "clip", hub_text=False)
    with pytest.raises(Fatal, match=r"model clip 1: prompts for normal, which its labels \(pneumonia\)"):
        opened(folder, kind, labels=["pneumonia"], preprocessing={"prompts": PROMPTS})
    with pytest.raises(Fatal, match="model clip 1: pneumonia alone"):
        opened(folder, kind, labels=["pneumonia"], preprocessing={"prompts": {"pneumonia": ["pneumonia"]}})


def test_an_image_folders_own_mistakes_are_named(tmp_path: Path) -> None:
    import torch

    folder = hub.open_clip_folder(tmp_path / "open", hub_text=True)
    weights = folder / "open_clip_model.safetensors"
    whole = hub.tensors(weights)
    hub.put_tensors(weights, {name: values for name, values in whole.items() if name != "logit_scale"})
    with pytest.raises(Fatal, match=r'model open 1: .*Missing key.*"logit_scale"'):
        prompted(folder, "open-clip")
    weights.unlink()
    ran = tmp_path / "ran"

    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (ran,)

    torch.save({"logit_scale": Evil()}, folder / "open_clip_pytorch_model.bin")
    with pytest.raises(Fatal, match="holds more than tensors"):
        prompted(folder, "open-clip")
    assert not ran.exists()
    torch.save(whole, folder / "open_clip_pytorch_model.bin")
    prompted(folder, "open-clip")
    for file in ("tokenizer.json", "tokenizer_config.json"):
        (folder / file).unlink()
    with pytest.raises(Fatal, match="model open 1: its tokenizer is not in the folder"):
        prompted(folder, "open-clip")


def test_open_clip_fetches_no_tower_and_runs_no_code_of_its_text_tower(tmp_path: Path) -> None:
    folder = hub.open_clip_folder(tmp_path / "open", hub_text=True)
    text, config = folder / "text_model" / "config.json", folder / "open_clip_config.json"
    kept = text.read_text()
    text.write_text(json.dumps(json.loads(kept) | {"auto_map": {"AutoConfig": "evil.Evil"}}))
    with pytest.raises(Fatal, match=r"text_model/config\.json names code of its own"):
        prompted(folder, "open-clip")
    text.write_text(kept)
    raw = json.loads(config.read_text())
    raw["model_cfg"]["vision_cfg"]["timm_model_name"] = "hf-hub:nobody/not-on-any-hub"
    config.write_text(json.dumps(raw))
    with pytest.raises(Fatal, match="image tower from hf-hub:nobody"):
        prompted(folder, "open-clip")


# --------------------------------------------------------------------------------------------------- transformers


def test_transformers_clip_gives_the_librarys_own_vectors(tmp_path: Path) -> None:
    import torch
    from transformers import AutoImageProcessor, AutoTokenizer, CLIPModel

    folder = hub.clip_folder(tmp_path / "clip")
    asked = ["mild cough", "chest pain"]
    reference = CLIPModel.from_pretrained(folder).eval()
    with torch.inference_mode():
        tokens = AutoTokenizer.from_pretrained(folder)(asked, return_tensors="pt")
        pixels = AutoImageProcessor.from_pretrained(folder)(images=[pil(one) for one in IMAGES], return_tensors="pt")
        out = reference(input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"], **pixels)
    model = prompted(folder, "transformers-clip")
    holds(model, unit(out.image_embeds), unit(out.text_embeds), asked, reference.logit_scale.exp().item())
    with pytest.raises(Poison, match="tokens, more than 16"):
        model.embed_texts(["fever " * 40])


@pytest.mark.parametrize("many", [False, True], ids=["softmax", "sigmoid"])
@pytest.mark.parametrize("architecture", ["vit", "resnet"])
def test_an_image_classifiers_scores_are_its_own(tmp_path: Path, architecture: str, many: bool) -> None:
    import torch
    from transformers import AutoImageProcessor, AutoModelForImageClassification

    kind = {"problem_type": "multi_label_classification"} if many else {}
    folder = hub.image_classifier_folder(tmp_path / "xray", LABELS, architecture=architecture, **kind)
    with torch.inference_mode():
        pixels = AutoImageProcessor.from_pretrained(folder)(images=[pil(one) for one in IMAGES], return_tensors="pt")
        logits = AutoModelForImageClassification.from_pretrained(folder).eval()(**pixels).logits
    expected = (logits.sigmoid() if many else logits.softmax(-1)).numpy()
    assert np.ptp(expected, axis=0).max() > 1e-3, "the images differ for it, or the test would show nothing"
    model = opened(folder, "transformers-image-classifier", thresholds={"effusion": 0.7})
    vectors = model.embed_images(IMAGES)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(model.classify(vectors), expected, atol=1e-4)
    assert (model.labels, model.thresholds) == (LABELS, {"normal": 0.5, "pneumonia": 0.5, "effusion": 0.7})
    renamed = opened(folder, "transformers-image-classifier", preprocessing={"findings": {"effusion": "pleural effusion"}})
    assert renamed.labels == ("pleural effusion",)
    np.testing.assert_allclose(renamed.classify(vectors), expected[:, 2:], atol=1e-4)
    with pytest.raises(Permanent, match="cannot embed a text"):
        model.embed_texts(["fever"])


def test_a_clip_without_its_tokenizer_and_a_classifier_without_its_labels_are_refused(tmp_path: Path) -> None:
    clip = hub.clip_folder(tmp_path / "clip")
    for file in ("tokenizer.json", "tokenizer_config.json"):
        (clip / file).unlink()
    with pytest.raises(Fatal, match="model clip 1: its tokenizer is not in the folder"):
        prompted(clip, "transformers-clip")
    folder = hub.image_classifier_folder(tmp_path / "xray", LABELS)
    config = json.loads((folder / "config.json").read_text())
    del config["id2label"], config["label2id"]
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(Fatal, match=r"model xray 1: its head .* has 3 labels, config\.json has no id2label"):
        opened(folder, "transformers-image-classifier")


def test_an_image_classifier_that_says_nothing_is_refused(tmp_path: Path) -> None:
    folder = hub.image_classifier_folder(tmp_path / "xray", ["LABEL_0", "LABEL_1"])
    with pytest.raises(Fatal, match="do not name findings"):
        opened(folder, "transformers-image-classifier")
    named = opened(folder, "transformers-image-classifier", preprocessing={"findings": {"LABEL_1": "pneumonia"}})
    assert named.labels == ("pneumonia",)
    headless = hub.clip_folder(tmp_path / "clip")
    with pytest.raises(Fatal):
        opened(headless, "transformers-image-classifier")


def test_each_folder_is_known_by_itself_and_serves_by_one_entry(tmp_path: Path) -> None:
    from models.hub_folders import add, kind_of

    site = tmp_path / "site.toml"
    classifier = hub.image_classifier_folder(tmp_path / "xray", LABELS)
    assert kind_of(hub.clip_folder(tmp_path / "clip")) == ("image-text", "transformers-clip")
    assert kind_of(hub.open_clip_folder(tmp_path / "open", hub_text=False)) == ("image-text", "open-clip")
    entry = add(classifier, site, more={"thresholds": {"effusion": 0.7}})
    assert (entry.runtime, entry.thresholds) == ("transformers-image-classifier", {"effusion": 0.7})
    assert Registry.load(site).champion("image-text") == "chest-xray"
    record(entry, site)  # now it serves
    model = Registry.load(site).open("image-text")
    assert model.identity == entry.identity
    with pytest.raises(Permanent, match="thresholds"):
        add(classifier, site, more={"thresholds": {"effusion": "much"}})
