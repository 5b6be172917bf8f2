"""How good the assertion rules are: on annotated case reports, on notes with marks, and on the sentences written for this project.

Case reports (maccrobat layout: `*.jsonl`, one document a line with `text` and `entities` of `label`, `spans` and `attrs.POLARITY`):
a mention counts as negated where its POLARITY is NEG; `MAYBE_NEG` counts neither way. The headline is conditions and symptoms, what
negation is about (as in NegEx's own evaluation); a second figure takes in medications, tests, procedures and events.

The rules were tuned (twice) on the reports at even lines and at every fourth from the second; those at every fourth from the fourth
(`UNSEEN`) were never looked at, and have a figure of their own.

Notes with marks (`models.evaluation.ner_corpora`, "no [chest pain|symptom|negated]") are of the five assertions what is published;
a mark without one is not measured. Negation has two figures there: of conditions and symptoms, and of medications, where negated
says stopped, withheld, refused or not to be given.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final, get_args

import numpy as np
from numpy.typing import NDArray

from models.errors import Permanent
from models.evaluation.measures import Bootstrap, Metric
from models.evaluation.ner_corpora import MARK, Document, read_marked
from models.evaluation.reading import DAMAGE, damage, opened, reading
from models.evaluation.report import Confusion, Evaluation, Progress, Section, silent
from processors.assertion import Asserter
from processors.events import Assertion
from processors.sections import Sectioner
from processors.sentences import sentence_starts

SENTENCES: Final = Path(__file__).with_name("assertion_sentences.tsv")
PROBLEMS: Final = frozenset({"Sign_symptom", "Disease_disorder"})
EVENTS: Final = PROBLEMS | {"Medication", "Therapeutic_procedure", "Diagnostic_procedure", "Clinical_event"}
NOTED_PROBLEMS: Final = frozenset({"condition", "symptom"})
NOTED_MEDICATIONS: Final = frozenset({"medication"})
UNSEEN: Final = (4, 3)  # every fourth report, from the fourth
LOOKED_FOR: Final = (
    "*.jsonl of case reports: text, entities with label, spans and attrs.POLARITY; or marks: no [cough|symptom|negated]"
)
_YES: Final = (True, False)
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
    mentions = [mention for path in annotated(folder)[0] if path.suffix != ".txt" for mention in _read(path)]
    return _reports("negation", mentions, rounds, tuned=True)


def evaluate(folder: Path, *, rounds: int = 1000, progress: Progress = silent) -> Evaluation:
    """Measure negation on each file of case reports in a folder and all below it, and on the project's own sentences.

    Of a file named train the part that the rules were never tuned on has a figure of its own; any other file is new to them.
    Notes with marks have a section of their own for each file. Raises `Permanent` where nothing fits.
    """
    files, notes = annotated(folder)
    base = folder.parent if folder.is_file() else folder
    sections = []
    for path in files:
        name = path.relative_to(base).as_posix()
        if path.suffix == ".txt":
            sections.append(_notes(name, path, rounds))
            continue
        mentions = _read(path, progress, name)
        if not any(mention.label in PROBLEMS for mention in mentions):
            notes.append(f"{name}: passed over, no condition or symptom is marked in it")
            continue
        tuned = path.stem.lower() == "train"
        if tuned:
            notes.append(f"{name}: the rules were tuned on three quarters of it; negation_unseen is of the other quarter")
        problems = [mention for mention in mentions if mention.label in PROBLEMS]
        counts = np.array([[sum(m.negated == is_so and m.found == said for m in problems) for said in _YES] for is_so in _YES])
        names = ("negated", "not negated")
        chart = Confusion("negation of conditions and symptoms", names, names, counts.astype(np.int64))
        about = f"{len({m.document for m in mentions}):,} documents, {len(problems):,} conditions and symptoms"
        sections.append(Section(name, about, tuple(_reports("negation", mentions, rounds, tuned=tuned)), (chart,)))
    if not sections:
        raise Permanent(f"no marked mentions to measure on in {folder}: {'; '.join(notes)}", hint=f"looked for {LOOKED_FOR}")
    return Evaluation("assertion", None, (*sections, _own_sentences()), tuple(notes))


def annotated(folder: Path) -> tuple[list[Path], list[str]]:
    """Find the files of case reports and of marked notes in a folder and all below it (or one file), and say what was passed over.

    Raises `Permanent` where there is none.
    """
    base = folder.parent if folder.is_file() else folder
    files, notes = [], []
    for path in [folder] if folder.is_file() else sorted(p for kind in ("*.jsonl", "*.txt") for p in folder.rglob(kind)):
        if not path.is_file():
            continue
        try:
            fits = _fits(path)
        except DAMAGE as error:
            notes.append(f"{path.relative_to(base).as_posix()}: passed over, {damage(error)}")
            continue
        if fits:
            files.append(path)
        else:
            what = "no marks that say what they assert" if path.suffix == ".txt" else "not case reports"
            notes.append(f"{path.relative_to(base).as_posix()}: passed over, {what}")
    if not files:
        told = f"; {'; '.join(notes)}" if notes else ""
        raise Permanent(
            f"no case reports (*.jsonl) or notes with marks (*.txt) in {folder}{told}", hint=f"looked for {LOOKED_FOR}"
        )
    return files, notes


def _fits(path: Path) -> bool:
    """Say whether a file is a kind that can be measured on, by its first line, or by any mark that says an assertion."""
    with path.open(encoding="utf-8", errors="replace") as lines:
        if path.suffix == ".txt":
            return any(mark[3] for line in lines for mark in MARK.finditer(line))
        first = next((line for line in lines if line.strip()), "")
    return '"text"' in first and '"entities"' in first


def _read(path: Path, progress: Progress = silent, name: str = "") -> list[Mention]:
    tools = Sectioner(), Asserter()
    documents = list(_documents(path))
    mentions: list[Mention] = []
    for number, (line, raw) in enumerate(documents):
        progress(name, number, len(documents))
        try:
            mentions += _mentions(number, raw, *tools)
        except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
            raise Permanent(f"{path}:{line}: not a case report: {type(error).__name__}") from error
    progress(name, len(documents), len(documents))
    return mentions


def _reports(name: str, mentions: Sequence[Mention], rounds: int, *, tuned: bool) -> list[Metric]:
    problems = [mention for mention in mentions if mention.label in PROBLEMS]
    figures = _figures(name, problems, rounds)
    if tuned and (unseen := [mention for mention in problems if mention.document % UNSEEN[0] == UNSEEN[1]]):
        figures += _figures(f"{name}_unseen", unseen, rounds)[:1]
    return figures + _figures(f"{name}_all_types", [mention for mention in mentions if mention.label in EVENTS], rounds)[:1]


def _notes(name: str, path: Path, rounds: int) -> Section:
    """Measure on notes with marks: all five assertions together and each, and what is negated among problems and medications."""
    documents = read_marked(path)
    sectioner, asserter = Sectioner(), Asserter()
    judged = [one for number, document in enumerate(documents) for one in _judge(path, number, document, sectioner, asserter)]
    bootstrap = Bootstrap(np.unique([mention.document for mention, *_ in judged], return_inverse=True)[1], rounds=rounds)
    wanted, found = np.array([said for _, said, _ in judged]), np.array([said for *_, said in judged])
    figures = [bootstrap.metric("accuracy", lambda weights: _share(wanted == found, np.full(len(wanted), True), weights))]
    for label, of in (("negation", NOTED_PROBLEMS), ("negation_of_medications", NOTED_MEDICATIONS)):
        if chosen := [mention for mention, *_ in judged if mention.label.lower() in of]:
            figures += _figures(label, chosen, rounds)
    kinds = tuple(kind for kind in get_args(Assertion) if kind in wanted or kind in found)
    for kind in kinds:
        figures.append(bootstrap.metric(f"{kind}_f1", partial(_f1, wanted == kind, found == kind)))
    counts = np.array([[np.sum((wanted == row) & (found == column)) for column in kinds] for row in kinds], np.int64)
    about = f"{len(documents):,} notes, {len(judged):,} mentions with what they assert"
    return Section(name, about, tuple(figures), (Confusion(f"assertion, {name}", kinds, kinds, counts),))


def _judge(
    path: Path, number: int, document: Document, sectioner: Sectioner, asserter: Asserter
) -> Iterator[tuple[Mention, str, Assertion]]:
    """Yield each mention of a note that has its assertion marked: the mention, what the mark says, what the rules say."""
    spans, labels = [(gold.start, gold.end) for gold in document.gold], [gold.label for gold in document.gold]
    starts = sentence_starts(document.text)
    decided = asserter.decide(document.text, spans, sectioner.split(document.text), labels)
    for gold, assertion in zip(document.gold, decided, strict=True):
        if gold.assertion is None:
            continue
        if gold.assertion not in get_args(Assertion):
            known = ", ".join(get_args(Assertion))
            raise Permanent(f"{path}, note {number + 1}: {gold.assertion} is no assertion", hint=f"known are {known}")
        naive = _NAIVE.search(document.text, max(at for at in starts if at <= gold.start), gold.start) is not None
        yield Mention(number, gold.label, gold.assertion == "negated", assertion == "negated", naive), gold.assertion, assertion


def _own_sentences() -> Section:
    pairs = list(_judged())
    kinds = tuple(dict.fromkeys(wanted for wanted, _ in pairs))
    columns = tuple(dict.fromkeys((*kinds, *(found for _, found in pairs))))
    counts = np.array([[pairs.count((row, column)) for column in columns] for row in kinds], np.int64)
    about = f"{len(pairs)} sentences written for this project; what was wrong in them was mended, so they forecast nothing"
    chart = Confusion("assertion, the project's own sentences", kinds, columns, counts)
    return Section("own sentences", about, tuple(measure_sentences()), (chart,))


def measure_sentences() -> list[Metric]:
    """Measure on the project's own sentences: accuracy over all five assertions, and F1 of each.

    What was wrong in them was mended, so this guards against regressions and forecasts nothing; the file says how many were right
    at first.
    """
    wanted, found = zip(*_judged(), strict=True)
    bootstrap = Bootstrap(np.arange(len(wanted)))
    right = np.array([a == b for a, b in zip(wanted, found, strict=True)], dtype=np.float64)
    figures = [bootstrap.metric("sentences_accuracy", lambda weights: float((right * weights).sum() / weights.sum()))]
    for kind in dict.fromkeys(wanted):
        true = np.array([expected == kind for expected in wanted])
        said = np.array([given == kind for given in found])
        figures.append(bootstrap.metric(f"sentences_{kind}_f1", lambda weights, t=true, s=said: _f1(t, s, weights)))  # type: ignore[misc]
    return figures


def _judged() -> Iterator[tuple[Assertion, Assertion]]:
    """Yield what each of the project's own sentences should give, and what it gives."""
    sectioner, asserter = Sectioner(), Asserter()
    for expected, text, start, end in sentences():
        yield expected, asserter.decide(text, [(start, end)], sectioner.split(text))[0]


def sentences() -> Iterator[tuple[Assertion, str, int, int]]:
    """Yield the project's own sentences: assertion, text, and the mention's start and end."""
    for line in SENTENCES.read_text(encoding="utf-8").splitlines():
        if line.startswith("#"):
            continue
        expected, _, marked = line.partition("\t")
        before, _, rest = marked.replace("\\n", "\n").partition("[[")
        mention, _, after = rest.partition("]]")
        yield expected, before + mention + after, len(before), len(before) + len(mention)  # type: ignore[misc]


def _documents(path: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """Yield each document with the number of its line."""
    with reading(path), opened(path) as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                raw = json.loads(line)
                _ = raw["text"], raw["entities"]
            except (ValueError, KeyError, TypeError) as error:
                raise Permanent(f"{path}:{number}: not a case report: {type(error).__name__}") from error
            yield number, raw


def _mentions(number: int, raw: Mapping[str, Any], sectioner: Sectioner, asserter: Asserter) -> Iterator[Mention]:
    text, entities = str(raw["text"]), raw["entities"]
    spans = [(int(entity["spans"][0][0]), int(entity["spans"][-1][1])) for entity in entities]
    if any(not 0 <= start <= end <= len(text) for start, end in spans):
        raise ValueError("a span outside the text")
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
    total = float(weights[true].sum() + weights[found].sum())
    return 2 * both / total if total > 0 else float("nan")


def _share(part: NDArray[np.bool_], whole: NDArray[np.bool_], weights: NDArray[np.float64]) -> float:
    total = float(weights[whole].sum())
    return float(weights[part].sum()) / total if total > 0 else float("nan")  # of nothing there is no share
