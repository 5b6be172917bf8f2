"""From notes and images to points in the vector store: how a text is cut, how a point is named, what its payload says."""

from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

import numpy as np

from models.errors import Fatal, Poison
from models.tasks import Floats, ModelIdentity
from processors.entities import WITHDRAWN
from processors.events import ImageEvent, NoteEvent, Source
from processors.identity import natural_id
from processors.sentences import sentence_starts

TEXT: Final = "text"  # the vectors' names, one per collection
IMAGE: Final = "image"
SPECIAL_TOKENS: Final = 2  # [CLS] and [SEP]: count against a model's limit and are not in its offsets
OVERLAP: Final = (
    32  # tokens that a chunk may repeat of the one before, so that a finding across the cut is found from both sides
)

Payload = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Chunk:
    """A stretch of a text, in characters: what one vector stands for."""

    start: int
    end: int


@dataclass(frozen=True, slots=True, eq=False)
class Point:
    """One point: `id` a deterministic UUID, `vector` [dimensions] float32 of unit length, `payload` JSON values.

    The payload's keys `patient_id`, `encounter_id`, `note_id`, `instance_uid`, `type`, `time`, `processing` and `model_digest` are
    what readers filter by.
    """

    id: str
    vector: Floats
    payload: Payload


def chunks(text: str, offsets: Sequence[tuple[int, int]], limit: int, *, overlap: int = OVERLAP) -> list[Chunk]:
    """Cut a text into stretches of at most `limit` tokens (special tokens included), at sentence borders where it can.

    `offsets` are the character spans of all tokens of the text, as `TextEmbedder.offsets` gives them. Chunks come in order,
    overlap by at most `overlap` tokens and together hold every token; a text without tokens (blank) gives none. A cut goes to
    the last sentence or line border in the second half of the chunk, else to a word border, and only inside a word longer than
    half a chunk to a token border. Raises `Fatal` for a limit that leaves no room.
    """
    budget = limit - SPECIAL_TOKENS
    if budget < 1:
        raise Fatal(f"a model limit of {limit} tokens leaves no room for text")
    spans = [(start, end) for start, end in offsets if end > start]
    if not spans:
        return []
    if len(spans) <= budget:
        return [Chunk(spans[0][0], spans[-1][1])]
    cutter = _Cutter(text, spans, budget, min(overlap, budget // 4))
    return cutter.cut()


class _Cutter:
    """Where one long text may be cut. Positions are indexes of tokens; a cut before token i begins a chunk with it."""

    def __init__(self, text: str, spans: list[tuple[int, int]], budget: int, overlap: int) -> None:
        self._spans, self._budget, self._overlap = spans, budget, overlap
        starts = [start for start, _ in spans]
        self._sentences = sorted({bisect_left(starts, position) for position in sentence_starts(text)})
        # a word border lies where two tokens do not touch
        self._words = [0, *(i for i in range(1, len(spans)) if spans[i][0] > spans[i - 1][1])]
        # tokens of one character (an ideograph that a normaliser expands) must not be parted
        self._whole = [0, *(i for i in range(1, len(spans)) if spans[i][0] >= spans[i - 1][1])]

    def cut(self) -> list[Chunk]:
        made: list[Chunk] = []
        first = last = 0
        while True:
            end = self._end(first, last)
            if end <= last:  # the overlap takes all the room there is: go on without
                first, end = last, self._end(last, last)
            last = end
            made.append(Chunk(self._spans[first][0], max(stop for _, stop in self._spans[first:last])))
            if last >= len(self._spans):
                return made
            first = max(self._begin(last), first + 1)

    def _end(self, first: int, floor: int) -> int:
        """Find where a chunk from `first` ends: past `floor` where there is room for it, at the best border."""
        room = self._room(first)
        if room >= len(self._spans):
            return len(self._spans)
        half = max(first + (room - first) // 2, floor)
        for borders in (self._sentences, self._words, self._whole):
            found = borders[bisect_right(borders, room) - 1]
            if found > half:
                return found
        return max(room, first + 1)

    def _room(self, first: int) -> int:
        """Find the furthest end of a chunk from `first` that keeps it within the budget.

        What is left of a word that was cut is tokenised anew when it is embedded, and may come to more tokens than it had as a
        part of the word, at most one per character: so it is counted in characters.
        """
        at = bisect_left(self._words, first)
        word = self._words[at] if at < len(self._words) else len(self._spans)
        begin = self._spans[first][0]
        surplus = max(0, self._spans[word - 1][1] - begin - (word - first)) if word > first else 0
        if first + self._budget - surplus >= word:
            return first + self._budget - surplus
        fitting = bisect_right(self._spans, begin + self._budget, lo=first, hi=min(word, first + self._budget), key=_stop)
        return max(fitting, first + 1)

    def _begin(self, last: int) -> int:
        """Find where the chunk after one that ends at `last` begins: a little before, where that is a border."""
        for borders in (self._sentences, self._words):
            found = bisect_left(borders, last - self._overlap)
            if found < len(borders) and borders[found] <= last:
                return borders[found]
        return last


def _stop(span: tuple[int, int]) -> int:
    return span[1]


def note_points(
    note: NoteEvent,
    source: Source,
    cut: Sequence[Chunk],
    vectors: Floats,
    model: ModelIdentity,
) -> list[Point]:
    """Name and describe the vectors, [len(cut), dimensions], of a note's chunks. A withdrawn note gives none.

    Ids derive from the note, the chunk's place in it and the model, not from the version: so version 2 overwrites version 1 chunk
    by chunk, and what is left to delete are points of the same `note_id` with another `version` (a shorter text has fewer chunks).
    Which version's points a note has is not decided here (`processors.versions`).
    Raises `Fatal` where rows and chunks differ in number, `Poison` (stage "model") for a vector that is not finite.
    """
    if len(cut) != len(vectors):
        raise Fatal(f"the model {model.name} gave {len(vectors)} vectors for {len(cut)} chunks")
    if note.status in WITHDRAWN:
        return []
    _check(vectors, model)
    shared = {
        "kind": "note",
        "patient_id": note.patient_id,
        "encounter_id": note.encounter_id,
        "note_id": note.note_id,
        "version": note.id,
        "status": note.status,
        "relation": note.relation,
        "type": note.note_type.code,
        "type_display": note.note_type.display,
        "processing": note.processing,
        "time": instant(note.authored_at),
        "received": instant(note.received_at),
        "chunks": len(cut),
        **_provenance(source, model),
    }
    return [
        Point(
            id=natural_id(note.note_id, "chunk", index, model.digest),
            vector=np.asarray(row, dtype=np.float32),
            payload={
                **shared,
                "chunk": index,
                "start": part.start,
                "end": part.end,
                "passage": note.text[part.start : part.end],
            },
        )
        for index, (part, row) in enumerate(zip(cut, vectors, strict=True))
    ]


def owners(note: NoteEvent, points: Sequence[Point]) -> dict[str, Sequence[Point]]:
    """Say which notes' points these make up, by note id: this note's, and none for the document that it takes the place of.

    An addendum adds and takes the place of nothing.
    """
    owned: dict[str, Sequence[Point]] = {}
    if note.replaces and note.replaces != note.note_id and note.relation in ("replacement", "edit", "cancel"):
        owned[note.replaces] = ()
    owned[note.note_id] = points
    return owned


def image_point(image: ImageEvent, source: Source, vector: Floats, model: ModelIdentity) -> Point:
    """Name and describe an image's vector, [dimensions]. Raises `Poison` (stage "model") for one that is not finite.

    The id derives from the event, so the same SOP instance with other content keeps both points.
    """
    _check(vector, model)
    assert image.pixels is not None, "an image that is taken back has no vector"
    return Point(
        id=natural_id(image.id, IMAGE, model.digest),
        vector=np.asarray(vector, dtype=np.float32),
        payload={
            "kind": "image",
            "patient_id": image.patient_id,
            "encounter_id": image.encounter_id,
            "instance_uid": image.instance_uid,
            "study_uid": image.study_uid,
            "series_uid": image.series_uid,
            "version": image.id,
            "type": image.modality,
            "body_part": image.body_part,
            "view": image.view,
            "processing": image.processing,
            "time": instant(image.acquired_at),
            "received": instant(image.received_at),
            "uri": image.pixels.uri,
            **_provenance(source, model),
        },
    )


def instant(time: datetime) -> str:
    """Write a time in UTC, RFC 3339, always with microseconds: so that strings sort as times do and Qdrant indexes them."""
    return time.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _provenance(source: Source, model: ModelIdentity) -> dict[str, str | int]:
    return {
        "model": model.name,
        "model_version": model.version,
        "model_digest": model.digest,
        "topic": source.topic,
        "partition": source.partition,
        "offset": source.offset,
    }


def _check(vectors: Floats, model: ModelIdentity) -> None:
    if not np.isfinite(vectors).all():
        raise Poison(f"the model {model.name} gave a vector that is not finite", stage="model")
