"""Readers for annotated text: IOB columns and case reports with character spans, into documents with gold spans.

Layouts, as their publishers give them:

- IOB: `*.tsv`, one token a line, a tab or spaces, tag (`B-Disease`, `I-Disease`, `O`; or BIOES, BILOU), sentences split by an
  empty line; columns between the first and the last (as CoNLL has them) and its `-DOCSTART-` lines are passed over. The original
  spacing is not in the file, so tokens are joined by one space and spans are characters of that joined text.
- maccrobat: `*.jsonl`, one document a line: `id`, `text`, `entities` with `label` and `spans` (several for one in pieces).
- marked: `*.txt`, what is written in an editor: `known [T2DM|condition]`, a line of `---` between documents; behind the label may
  stand what the mention asserts, `no [chest pain|symptom|negated]`.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from models.errors import Permanent
from models.evaluation.reading import opened, reading

# Vigil's entity types <- maccrobat's. All other types are no entity for us.
MACCROBAT_TYPES: Final[Mapping[str, str]] = {
    "Disease_disorder": "condition",
    "Sign_symptom": "symptom",
    "Medication": "medication",
    "Dosage": "dose",
    "Therapeutic_procedure": "procedure",
    "Diagnostic_procedure": "test",
    "Lab_value": "lab_value",
    "Biological_structure": "anatomy",
}
# Where the annotators' guide puts text under a heading that says nothing of its kind: "hypertension" in a history is a
# `History`, a tumour mentioned again is a `Coreference`. Teaching "no entity" there would be teaching an error.
MACCROBAT_UNJUDGED: Final = frozenset({"History", "Family_history", "Coreference", "Other_entity", "Other_event"})
# Sentences of an IOB file read together: about an abstract, of which these files lost the borders.
SENTENCES_TOGETHER: Final = 8
MARK: Final = re.compile(r"\[([^\[\]|\s](?:[^\[\]|\n]*[^\[\]|\s])?)\|(\w+)(?:\|(\w+))?\]")
_BREAK: Final = "---"
_TAG: Final = re.compile(r"O|([BIESLU])[-_](.+)")
_BEGINS: Final = "BSU"  # S (single) and U (unit) are a beginning that is also the end; E and L (last) go on, as I does


@dataclass(frozen=True, slots=True)
class Gold:
    """An annotated entity: `text[start:end]`; `assertion` where a mark says one, as it stands there."""

    label: str
    start: int
    end: int
    assertion: str | None = None


@dataclass(frozen=True, slots=True)
class Document:
    """A text with its gold spans, sorted by start, none overlapping; `unjudged` are stretches to learn nothing from."""

    id: str
    text: str
    gold: tuple[Gold, ...]
    unjudged: tuple[tuple[int, int], ...] = ()


def read_iob(path: Path, *, sentences: int = 1) -> list[Document]:
    """Read an IOB file; `sentences` consecutive ones make a document (joined by a line end).

    Raises `Permanent` where a line has no tag, naming file and line.
    """
    groups: list[list[tuple[str, str]]] = []
    current: list[tuple[str, str]] = []
    with reading(path), opened(path) as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip() or line.startswith("-DOCSTART-"):
                if current:
                    groups.append(current)
                    current = []
                continue
            if (row := token_and_tag(line)) is None:
                raise Permanent(f"{path}:{number}: not 'token<TAB>tag'", hint="tags in IOB, BIOES or BILOU: B-Disease, O")
            current.append(row)
    if current:
        groups.append(current)
    return [_joined(f"{path.stem}-{index}", groups[index : index + sentences]) for index in range(0, len(groups), sentences)]


def token_and_tag(line: str) -> tuple[str, str] | None:
    """Read a line's first and last column, by tabs where it has some, else by spaces; the tag as `B-x`, `I-x` or `O`.

    None: no IOB.
    """
    columns = line.rstrip("\r\n").split("\t") if "\t" in line else line.split()
    if len(columns) < 2 or (found := _TAG.fullmatch(columns[-1].strip())) is None:
        return None
    return columns[0].strip(), f"{'B' if found[1] in _BEGINS else 'I'}-{found[2]}" if found[1] else "O"


def _joined(name: str, groups: list[list[tuple[str, str]]]) -> Document:
    parts: list[str] = []
    gold: list[Gold] = []
    at = 0
    for group in groups:
        previous = "O"
        for position, (token, tag) in enumerate(group):
            separator = " " if position else ("\n" if parts else "")
            parts.append(separator + token)
            start, at = at + len(separator), at + len(separator) + len(token)
            kind = tag[2:]
            if tag[0] == "I" and previous == kind:
                gold[-1] = Gold(kind, gold[-1].start, at)
            elif tag != "O":  # B, or an I that follows nothing of its kind: read as a beginning
                gold.append(Gold(kind, start, at))
            previous = kind if tag != "O" else "O"
    return Document(name, "".join(parts), tuple(gold))


def read_maccrobat(path: Path) -> list[Document]:
    """Read case reports, their types mapped by `MACCROBAT_TYPES`. Where two entities overlap the longer one stands.

    An entity in pieces cannot be a span: it is left out of the gold and its stretch is unjudged.
    Raises `Permanent` where a line is not such a document, naming file and line.
    """
    documents: list[Document] = []
    with reading(path), opened(path) as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                documents.append(_case_report(json.loads(line)))
            except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
                raise Permanent(f"{path}:{number}: not a case report: {type(error).__name__}") from error
    return documents


def _case_report(raw: Mapping[str, Any]) -> Document:
    text = str(raw["text"])
    candidates: list[Gold] = []
    unjudged: list[tuple[int, int]] = []
    for entity in raw["entities"]:
        label, pieces = str(entity["label"]), [(int(a), int(b)) for a, b in entity["spans"]]
        start, end = min(a for a, _ in pieces), max(b for _, b in pieces)
        if not 0 <= start <= end <= len(text):
            raise ValueError("a span outside the text")
        kind = MACCROBAT_TYPES.get(label)
        if label in MACCROBAT_UNJUDGED or (kind and len(pieces) > 1):
            unjudged.append((start, end))
        elif kind:
            while start < end and text[start].isspace():
                start += 1
            while start < end and text[end - 1].isspace():
                end -= 1
            if start < end:
                candidates.append(Gold(kind, start, end))
    chosen: list[Gold] = []
    for gold in sorted(candidates, key=lambda g: (g.start - g.end, g.start)):
        if all(gold.end <= other.start or other.end <= gold.start for other in chosen):
            chosen.append(gold)
    return Document(str(raw["id"]), text, tuple(sorted(chosen, key=lambda g: g.start)), tuple(sorted(unjudged)))


def read_marked(path: Path) -> list[Document]:
    """Read documents with entities marked in the text, `[words|label]` or `[words|label|assertion]`, parted by lines of `---`.

    A first line that begins with "# " says what a document is and does not belong to it. Raises `Permanent` for a bracket that is
    no mark, naming file and line.
    """
    documents: list[Document] = []
    with reading(path), opened(path) as lines:
        block: list[str] = []
        for number, line in enumerate([*lines, _BREAK], 1):
            if line.strip() != _BREAK:
                if stray := set("[]|") & set(MARK.sub("", line)):
                    hint = "an entity is marked so: known [T2DM|condition]"
                    raise Permanent(f"{path}:{number}: {stray.pop()} that belongs to no mark", hint=hint)
                block.append(line)
                continue
            text = "".join(block[1:] if block and block[0].startswith("# ") else block).strip()
            if text:
                documents.append(_marked(f"{path.stem}-{len(documents) + 1}", text))
            block = []
    return documents


def _marked(name: str, marked: str) -> Document:
    text, at, gold = "", 0, list[Gold]()
    for mark in MARK.finditer(marked):
        text += marked[at : mark.start()]
        gold.append(Gold(mark[2], len(text), len(text) + len(mark[1]), mark[3]))
        text, at = text + mark[1], mark.end()
    return Document(name, text + marked[at:], tuple(gold))


def split_by_document(documents: Sequence[Document]) -> tuple[list[Document], list[Document]]:
    """Split case reports into what is learned from and dev, always alike: every fifth document, sorted by id, is dev."""
    ordered = sorted(documents, key=lambda document: document.id)
    return [d for i, d in enumerate(ordered) if i % 5], ordered[::5]


def labels_of(documents: Sequence[Document]) -> frozenset[str]:
    """Return every gold label that occurs."""
    return frozenset(gold.label for document in documents for gold in document.gold)


def sentences_of(document: Document) -> Iterator[Document]:
    """Cut a document at its line ends; a gold span across one stays with the line of its start, cut there."""
    at = 0
    for line in document.text.splitlines(keepends=True):
        end = at + len(line)
        if line.strip():
            yield Document(
                document.id,
                line.rstrip(),
                tuple(
                    Gold(gold.label, gold.start - at, min(gold.end, at + len(line.rstrip())) - at)
                    for gold in document.gold
                    if at <= gold.start < end
                ),
                tuple((max(a, at) - at, min(b, end) - at) for a, b in document.unjudged if a < end and b > at),
            )
        at = end
