"""How good the assertion rules are: on annotated case reports, and on the sentences written for this project.

Case reports (maccrobat layout: `*.jsonl`, one document a line with `text` and `entities` of `label`, `spans` and `attrs.POLARITY`):
a mention counts as negated where its POLARITY is NEG; `MAYBE_NEG` counts neither way. The headline is conditions and symptoms, what
negation is about (as in NegEx's own evaluation); a second figure takes in medications, tests, procedures and events.

The rules were tuned (twice) on the reports at even lines and at every fourth from the second; those at every fourth from the fourth
(`UNSEEN`) were never looked at, and have a figure of their own.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from models.errors import Permanent
from models.evaluation.measures import Bootstrap, Metric
from processors.assertion import Asserter
from processors.events import Assertion
from processors.sections import Sectioner
from processors.sentences import sentence_starts

SENTENCES: Final = Path(__file__).with_name("assertion_sentences.tsv")
PROBLEMS: Final = frozenset({"Sign_symptom", "Disease_disorder"})
EVENTS: Final = PROBLEMS | {"Medication", "Therapeutic_procedure", "Diagnostic_procedure", "Clinical_event"}
UNSEEN: Final = (4, 3)  # every fourth report, from the fourth
_NAIVE: Final = re.compile(r"\b(?:no|not|without|denies|denied|negative)\b", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Mention:
    """A marked mention: what stands there, what the rules say, and what a word list without scopes would say."""

    document: int
    label: str
    negated: bool
    found: bool
    naive: bool


def measure(folder: Path, *, rounds: int = 1000) -> list[Metric]:
    """Measure negation on the case reports in a folder: precision, recall, F1 with 95% intervals over documents.

    The baseline says negated wherever a negating word stands before the mention in its sentence. Raises `Permanent` where the
    folder holds no such reports.
    """
    files = sorted(folder.glob("*.jsonl")) or sorted(folder.glob("maccrobat/*.jsonl"))
    if not files:
        raise Permanent(f"no case reports (*.jsonl) in {folder}", hint="the folder of maccrobat, or the one above it")
    tools = Sectioner(), Asserter()
    mentions = [mention for number, raw in enumerate(_documents(files)) for mention in _mentions(number, raw, *tools)]
    problems = [mention for mention in mentions if mention.label in PROBLEMS]
    unseen = [mention for mention in problems if mention.document % UNSEEN[0] == UNSEEN[1]]
    return [
        *_figures("negation", problems, rounds),
        *_figures("negation_unseen", unseen, rounds)[:1],
        *_figures("negation_all_types", [mention for mention in mentions if mention.label in EVENTS], rounds)[:1],
    ]


def measure_sentences() -> list[Metric]:
    """Measure on the project's own sentences: accuracy over all five assertions, and F1 of each.

    What was wrong in them was mended, so this guards against regressions and forecasts nothing; the file says how many were right
    at first.
    """
    wanted, found = [], []
    sectioner, asserter = Sectioner(), Asserter()
    for expected, text, start, end in sentences():
        wanted.append(expected)
        found.append(asserter.decide(text, [(start, end)], sectioner.split(text))[0])
    bootstrap = Bootstrap(np.arange(len(wanted)))
    right = np.array([a == b for a, b in zip(wanted, found, strict=True)], dtype=np.float64)
    figures = [bootstrap.metric("sentences_accuracy", lambda weights: float((right * weights).sum() / weights.sum()))]
    for kind in dict.fromkeys(wanted):
        true = np.array([expected == kind for expected in wanted])
        said = np.array([given == kind for given in found])
        figures.append(bootstrap.metric(f"sentences_{kind}_f1", lambda weights, t=true, s=said: _f1(t, s, weights)))  # type: ignore[misc]
    return figures


def sentences() -> Iterator[tuple[Assertion, str, int, int]]:
    """Yield the project's own sentences: assertion, text, and the mention's start and end."""
    for line in SENTENCES.read_text(encoding="utf-8").splitlines():
        if line.startswith("#"):
            continue
        expected, _, marked = line.partition("\t")
        before, _, rest = marked.replace("\\n", "\n").partition("[[")
        mention, _, after = rest.partition("]]")
        yield expected, before + mention + after, len(before), len(before) + len(mention)  # type: ignore[misc]


def _documents(files: Sequence[Path]) -> Iterator[Mapping[str, Any]]:
    for path in files:
        with path.open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, 1):
                try:
                    raw = json.loads(line)
                    _ = raw["text"], raw["entities"]
                except (ValueError, KeyError, TypeError) as error:
                    raise Permanent(f"{path}:{number}: not a case report: {type(error).__name__}") from error
                yield raw


def _mentions(number: int, raw: Mapping[str, Any], sectioner: Sectioner, asserter: Asserter) -> Iterator[Mention]:
    text, entities = str(raw["text"]), raw["entities"]
    spans = [(int(entity["spans"][0][0]), int(entity["spans"][-1][1])) for entity in entities]
    labels = [str(entity["label"]) for entity in entities]
    decided = asserter.decide(text, spans, sectioner.split(text), labels)
    starts = sentence_starts(text)
    for entity, (start, _), label, assertion in zip(entities, spans, labels, decided, strict=True):
        polarity = entity.get("attrs", {}).get("POLARITY")
        if polarity == "MAYBE_NEG":
            continue
        sentence = max(begin for begin in starts if begin <= start)
        naive = _NAIVE.search(text, sentence, start) is not None
        yield Mention(number, label, polarity == "NEG", assertion == "negated", naive)


def _figures(name: str, mentions: Sequence[Mention], rounds: int) -> list[Metric]:
    numbers = {document: index for index, document in enumerate(dict.fromkeys(m.document for m in mentions))}
    bootstrap = Bootstrap(np.array([numbers[m.document] for m in mentions]), rounds=rounds)
    true = np.array([m.negated for m in mentions])
    found = np.array([m.found for m in mentions])
    naive = np.array([m.naive for m in mentions])
    baseline = bootstrap.metric(f"{name}_f1", lambda weights: _f1(true, naive, weights))
    f1 = bootstrap.metric(f"{name}_f1", lambda weights: _f1(true, found, weights))
    return [
        Metric(f1.name, f1.value, f1.low, f1.high, f1.n, {"word list": baseline}),
        bootstrap.metric(f"{name}_precision", lambda weights: _share(true & found, found, weights)),
        bootstrap.metric(f"{name}_recall", lambda weights: _share(true & found, true, weights)),
    ]


def _f1(true: NDArray[np.bool_], found: NDArray[np.bool_], weights: NDArray[np.float64]) -> float:
    both = float(weights[true & found].sum())
    return 2 * both / max(float(weights[true].sum() + weights[found].sum()), 1e-12)


def _share(part: NDArray[np.bool_], whole: NDArray[np.bool_], weights: NDArray[np.float64]) -> float:
    return float(weights[part].sum()) / max(float(weights[whole].sum()), 1e-12)
