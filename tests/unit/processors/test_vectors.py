from datetime import timedelta
from itertools import pairwise
from pathlib import Path
from uuid import UUID

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

import models
from models.errors import Fatal, Poison
from models.tasks import ModelIdentity
from processors.events import ImageEvent, ObjectReference, Origin, Source
from processors.vectors import Chunk, chunks, image_point, instant, note_points, owners
from tests.unit.processors.test_entities import WHEN, note

MODEL = ModelIdentity("minilm", "2", "ab" * 32)
SOURCE = Source(topic="clinical.notes", partition=1, offset=7, event_id="n1-v1")
TOKENIZER = Tokenizer.from_file(str(Path(models.__file__).parent / "weights" / "minilm" / "tokenizer.json"))
TOKENIZER.no_truncation()
TOKENIZER.no_padding()


def offsets(text: str) -> list[tuple[int, int]]:
    return list(TOKENIZER.encode(text, add_special_tokens=False).offsets)


def words(text: str) -> list[tuple[int, int]]:
    """Tokens of a model that splits at blanks."""
    found, position = [], 0
    for word in text.split(" "):
        if word:
            found.append((position, position + len(word)))
        position += len(word) + 1
    return found


def test_a_short_text_is_one_chunk_without_the_blanks_around_it() -> None:
    assert chunks("  No fever. \n", offsets("  No fever. \n"), 256) == [Chunk(2, 11)]


@pytest.mark.parametrize("text", ["", " \r\n\t ", "\u200b"])
def test_a_text_without_tokens_has_no_chunks(text: str) -> None:
    assert chunks(text, offsets(text), 256) == []


def test_cuts_stand_at_sentence_borders() -> None:
    text = "One two three four. " * 10
    cut = chunks(text, words(text), 12, overlap=0)  # ten tokens: two sentences and a half
    assert [text[c.start : c.end] for c in cut] == ["One two three four. One two three four."] * 5


def test_chunks_overlap_by_whole_sentences_where_they_are_short() -> None:
    text = "Aa bb. Cc dd. Ee ff. Gg hh. Ii jj. Kk ll."
    cut = chunks(text, words(text), 10, overlap=2)
    assert [text[c.start : c.end] for c in cut] == ["Aa bb. Cc dd. Ee ff. Gg hh.", "Gg hh. Ii jj. Kk ll."]


def test_a_sentence_longer_than_a_chunk_is_cut_between_words() -> None:
    text = "word " * 100
    cut = chunks(text, words(text), 12)
    assert all(text[c.start : c.end].replace("word", "").strip() == "" for c in cut)
    assert all(text[c.start : c.end].count("word") <= 10 for c in cut)


def test_no_room_is_fatal() -> None:
    with pytest.raises(Fatal):
        chunks("x", [(0, 1)], 2)


FRAGMENTS = (
    "fever. ",
    "SpO2 91%\r\n",
    "a" * 130 + " ",
    "supercalifragilistic",
    "漢字",
    "🫀",
    "é́́",
    "\x00",
    "...",
    "㍿",
    "x-y/z ",
)
NASTY = st.lists(
    st.sampled_from(FRAGMENTS),
    max_size=40,
).map("".join)


@given(NASTY, st.integers(16, 60))
@example("a" * 99, 16)
@example("ab1" * 33 + " " + "漢" * 50, 17)
@example("㍿" * 30, 18)
@settings(max_examples=300, deadline=None)
def test_never_over_the_limit_and_nothing_dropped(text: str, limit: int) -> None:
    cut = chunks(text, offsets(text), limit)
    for chunk in cut:
        assert len(TOKENIZER.encode(text[chunk.start : chunk.end]).ids) <= limit
    for start, end in offsets(text):
        assert any(chunk.start <= start and end <= chunk.end for chunk in cut)
    assert all(a.start < b.start and a.end < b.end for a, b in pairwise(cut))


def test_points_say_where_they_come_from() -> None:
    event = note("No fever. Cough.", authored_at=WHEN + timedelta(microseconds=5))
    rows = np.eye(2, 4, dtype=np.float32)
    points = note_points(event, SOURCE, [Chunk(0, 9), Chunk(10, 16)], rows, MODEL)
    assert [p.payload["passage"] for p in points] == ["No fever.", "Cough."]
    assert points[0].payload | {"passage": ""} == {
        "kind": "note", "patient_id": "p", "encounter_id": "e", "note_id": "n1", "version": "n1-v1", "status": "final",
        "relation": "original", "type": "11506-3", "type_display": "", "processing": "production",
        "time": "2026-11-23T08:00:00.000005Z",
        "received": "2026-11-23T08:00:00.000000Z", "chunks": 2, "chunk": 0, "start": 0, "end": 9, "passage": "", "model": "minilm",
        "model_version": "2", "model_digest": MODEL.digest, "topic": "clinical.notes", "partition": 1, "offset": 7,
    }  # fmt: skip
    assert np.array_equal(points[1].vector, rows[1])
    assert all(str(UUID(p.id)) == p.id for p in points)


def test_a_corrected_note_overwrites_its_chunks() -> None:
    rows = np.zeros((2, 4), np.float32)
    cut = [Chunk(0, 1), Chunk(2, 3)]
    first = note_points(note("a b"), SOURCE, cut, rows, MODEL)
    second = note_points(note("c d", id="n1-v2", status="corrected"), SOURCE, cut[:1], rows[:1], MODEL)
    assert second[0].id == first[0].id != first[1].id
    assert second[0].payload["version"] == "n1-v2"
    other = note_points(note("a b"), SOURCE, cut, rows, ModelIdentity("minilm", "3", "cd" * 32))
    assert other[0].id != first[0].id


def test_owners() -> None:
    replacement = note("x", note_id="n2", relation="replacement", replaces="n1")
    assert owners(replacement, []) == {"n1": (), "n2": []}
    assert owners(note("x", note_id="n2", relation="addendum", replaces="n1"), []) == {"n2": []}
    assert owners(note("x", relation="replacement", replaces="n1"), []) == {"n1": []}


def test_withdrawn_notes_and_bad_vectors() -> None:
    rows = np.full((1, 4), np.nan, np.float32)
    with pytest.raises(Poison):
        note_points(note("x"), SOURCE, [Chunk(0, 1)], rows, MODEL)
    assert note_points(note("x", status="cancelled"), SOURCE, [], rows[:0], MODEL) == []
    with pytest.raises(Fatal):
        note_points(note("x"), SOURCE, [], rows, MODEL)


def test_image_point() -> None:
    image = ImageEvent(
        id="i1", patient_id="p", study_uid="1.2", series_uid="1.2.3", instance_uid="1.2.3.4", modality="DX", rows=2, columns=2,
        pixels=ObjectReference(uri="ab/cd.png", sha256="0" * 64, media_type="image/png", bytes=9),
        acquired_at=WHEN, received_at=WHEN, origin=Origin(protocol="dicom"),
    )  # fmt: skip
    point = image_point(image, SOURCE, np.ones(3, np.float32), MODEL)
    assert (point.payload["instance_uid"], point.payload["type"], point.payload["uri"]) == ("1.2.3.4", "DX", "ab/cd.png")
    assert point.payload["processing"] == "production"
    assert point.vector.shape == (3,)
    assert point.id != image_point(image.model_copy(update={"id": "i2"}), SOURCE, np.ones(3, np.float32), MODEL).id


def test_instants_sort_as_times_do() -> None:
    assert instant(WHEN) < instant(WHEN + timedelta(microseconds=1)) < instant(WHEN + timedelta(seconds=1))
