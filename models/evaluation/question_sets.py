"""Notes for measuring: questions and the notes that answer them, and plain notes.

Layout of questions (mtsamples queries): `*.jsonl` or `*.jsonl.gz`, one object a line with `transcription` (the note) and
`description` (the question).
"""

import itertools
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from models.errors import Permanent
from models.evaluation.reading import DAMAGE, damage, opened, reading

LOOKED_FOR: Final = "*.jsonl.gz or *.jsonl with transcription and description (mtsamples queries)"


@dataclass(frozen=True, slots=True)
class Questions:
    """A file's notes, and which of them each question asks for."""

    name: str
    notes: tuple[str, ...]
    questions: tuple[str, ...]
    answers: tuple[int, ...]  # index of the note


def gather(data: Path) -> tuple[list[Questions], list[str]]:
    """Read every file of the layout in a folder and all below it (or one file), and say what was passed over.

    Raises `Permanent` where nothing fits, or a file of the layout is damaged.
    """
    base = data.parent if data.is_file() else data
    found: list[Questions] = []
    notes: list[str] = []
    for path in [data] if data.is_file() else sorted([*data.rglob("*.jsonl.gz"), *data.rglob("*.jsonl")]):
        if not path.is_file():
            continue
        name = path.relative_to(base).as_posix()
        try:
            rows = _rows(path)
        except DAMAGE as error:
            notes.append(f"{name}: passed over, {damage(error)}")
            continue
        if rows is None:
            notes.append(f"{name}: passed over, its lines have no transcription and description")
            continue
        asked = [(str(row["description"]), at) for at, row in enumerate(rows) if str(row["description"] or "").strip()]
        if missing := len(rows) - len(asked):
            notes.append(f"{name}: {missing} of {len(rows):,} notes have no description: indexed, not asked for")
        texts = tuple(str(row["transcription"] or "") for row in rows)
        if asked:
            found.append(Questions(name, texts, tuple(text for text, _ in asked), tuple(at for _, at in asked)))
    if not found:
        told = f"; {'; '.join(notes)}" if notes else ""
        raise Permanent(f"no questions to measure retrieval on in {data}{told}", hint=f"looked for {LOOKED_FOR}")
    return found, notes


def _rows(path: Path) -> list[Mapping[str, Any]] | None:
    """Read a file's rows, None where the first is none of the layout.

    Raises `Permanent` where the file is damaged behind the first, and what reading raises (`DAMAGE`) where it is before.
    """
    rows: list[Mapping[str, Any]] = []
    with opened(path) as lines:
        first = lines.readline()
        with reading(path):
            for number, line in enumerate(itertools.chain([first], lines), 1):
                if not line.strip():
                    continue
                try:
                    row = json.loads(line)
                    _ = row["transcription"], row["description"]
                except (ValueError, KeyError, TypeError, RecursionError) as error:
                    if not rows:
                        return None
                    raise Permanent(f"{path}:{number}: no transcription and description: {type(error).__name__}") from error
                rows.append(row)
    return rows or None


def notes_in(data: Path) -> list[str]:
    """Return the notes of a folder: plain ones, `*.txt`, else those of the layout. Raises `Permanent` where there are none."""
    if plain := sorted(path for path in data.rglob("*.txt") if path.is_file()):
        return [_text(path) for path in plain]
    return [note for asked in gather(data)[0] for note in asked.notes]


def _text(path: Path) -> str:
    with reading(path):
        return path.read_text(encoding="utf-8-sig")
