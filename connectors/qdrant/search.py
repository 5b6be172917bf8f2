"""Asking: notes by meaning and by words, images by meaning, patients by what their notes say.

A model of meaning finds "orthopnoea" where "breathless when lying flat" is asked for, and misses the drug, the code or the
name that is spelled out; words are the other way round. Notes are asked for by both, and a passage's scores are put together
(`processors.words`). Vectors of different models lie in different spaces, so a search compares only points of the model that
it asks with.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Final

import numpy as np

from connectors.qdrant.settings import NOTES, CollectionSpec, images
from connectors.qdrant.store import Hit, VectorStore, Where
from models.errors import Permanent, Poison
from models.tasks import Floats, ImageTextModel, ModelIdentity, TextEmbedder
from processors.synonyms import asked as put
from processors.words import fused, scale

_POINTS_PER_RESULT: Final = 4  # asked for at first: notes have several chunks and patients several notes
_POINTS_AT_MOST: Final = 4096  # one note or patient may have this many of the nearest points before others go unseen
ANYTHING: Final = Where()


@dataclass(frozen=True, slots=True)
class NoteHit:
    """A note and the passage of it that fits best: `passage` is `note.text[start:end]`.

    `score` is what it was ranked by: of a search `fused`, in [0, 1], from `meaning`, the cosine, in [-1, 1], and `words`, in
    [0, 1]; of similar patients the cosine, without words.
    """

    note_id: str
    patient_id: str
    encounter_id: str | None
    type: str  # the document type's code
    type_display: str
    status: str
    time: datetime | None
    score: float
    meaning: float
    words: float
    passage: str
    start: int
    end: int
    processing: str  # production, or which test traffic


@dataclass(frozen=True, slots=True)
class ImageHit:
    """An image; `uri` is where its pixels lie in the object store."""

    instance_uid: str
    study_uid: str
    patient_id: str
    encounter_id: str | None
    modality: str
    body_part: str
    view: str
    time: datetime | None
    score: float
    uri: str
    processing: str  # production, or which test traffic


@dataclass(frozen=True, slots=True)
class PatientHit:
    """A patient some of whose notes are near, and their nearest note as the evidence."""

    patient_id: str
    score: float
    nearest: NoteHit


async def search_notes(
    store: VectorStore,
    embedder: TextEmbedder,
    text: str,
    *,
    where: Where = ANYTHING,
    limit: int = 10,
    collection: CollectionSpec = NOTES,
) -> list[NoteHit]:
    """Find the `limit` notes that fit `text` best by meaning and words, best first, each once with its best passage.

    Raises `Permanent` for a text that is empty or longer than the model takes.
    """
    question, chosen = put(text), _of_model(where, embedder)
    vector = await _embed(embedder.embed, question.text)

    async def find(asked: int) -> tuple[list[_Found], bool]:
        hits, named = await store.search_both(collection, vector, question.words, where=chosen, limit=asked)
        best = min((hit for hit in hits if hit.id in named), key=lambda hit: (-named[hit.id], hit.id), default=None)
        by = scale(named[best.id], question.share(_text(best.payload, "passage"))) if best is not None else 0.0
        scaled = {hit.id: named.get(hit.id, 0.0) * by for hit in hits}
        found = [_Found(hit, fused(hit.score, scaled[hit.id]), scaled[hit.id]) for hit in hits]
        return sorted(found, key=lambda one: (-one.score, one.hit.id)), len(hits) < asked

    return [_note_hit(one) for one in await _best(find, limit, "note_id")]


async def search_images(
    store: VectorStore, model: ImageTextModel, text: str, *, where: Where = ANYTHING, limit: int = 10
) -> list[ImageHit]:
    """Find the `limit` images that are nearest to `text` in meaning, best first. Raises `Permanent` as `search_notes` does."""
    vector = await _embed(model.embed_texts, text)
    find = _by_meaning(store, images(model.dimensions), vector, _of_model(where, model))
    return [_image_hit(one.hit) for one in await _best(find, limit, "instance_uid")]


async def similar_patients(
    store: VectorStore,
    embedder: TextEmbedder,
    patient_id: str,
    *,
    where: Where = ANYTHING,
    limit: int = 10,
    collection: CollectionSpec = NOTES,
) -> list[PatientHit]:
    """Find the `limit` other patients with a note nearest to what this patient's notes say on the whole (their mean vector).

    `where` narrows which notes count, the patient's own and the others', and with `patient_ids` who the others are. Raises
    `Permanent` for a patient without notes in the store.
    """
    chosen = _of_model(where, embedder)
    own = replace(chosen, patient_ids=(patient_id,), not_patient_ids=())
    total, number = np.zeros(collection.dimensions, dtype=np.float64), 0
    async for point in store.scan(collection, own, payloads=False):
        total += point.vector
        number += 1
    length = float(np.linalg.norm(total))
    if not number or not length:
        raise Permanent(
            "nothing of this patient is in the vector store", hint="is it Vigil's patient id, and were notes received?"
        )
    others = replace(chosen, not_patient_ids=(*where.not_patient_ids, patient_id))
    find = _by_meaning(store, collection, (total / length).astype(np.float32), others)
    found = [_note_hit(one) for one in await _best(find, limit, "patient_id")]
    return [PatientHit(note.patient_id, note.score, note) for note in found]


async def unsearched(store: VectorStore, collection: CollectionSpec, where: Where, model: ModelIdentity) -> int:
    """Count the points that `where` names and a search with this model passes over: other models made them."""
    every = await store.count(collection, where)
    return max(0, every - await store.count(collection, replace(where, model_digests=(model.digest,))))


def _of_model(where: Where, model: TextEmbedder | ImageTextModel) -> Where:
    return where if where.model_digests else replace(where, model_digests=(model.identity.digest,))


async def _embed(embed: Callable[[Sequence[str]], Floats], text: str) -> Floats:
    if not text.strip():
        raise Permanent("there is nothing to search for")
    try:
        rows = await asyncio.to_thread(embed, [text])
    except Poison as error:
        raise Permanent(f"the question cannot be used: {error}", hint="ask with a sentence or two") from error
    vector: Floats = rows[0]
    return vector


@dataclass(frozen=True, slots=True)
class _Found:
    """A point, what it is ranked by, and its score by words."""

    hit: Hit  # its score is the cosine
    score: float
    words: float = 0.0


# Given how many points to ask for: those found, best first, and whether there are no others.
_Find = Callable[[int], Awaitable[tuple[list[_Found], bool]]]


def _by_meaning(store: VectorStore, collection: CollectionSpec, vector: Floats, where: Where) -> _Find:
    async def find(asked: int) -> tuple[list[_Found], bool]:
        hits = await store.search(collection, vector, where=where, limit=asked)
        return [_Found(hit, hit.score) for hit in hits], len(hits) < asked

    return find


async def _best(find: _Find, limit: int, group: str) -> list[_Found]:
    """Return the best find of each of the `limit` best groups, by the payload field `group`."""
    if limit < 1:
        raise Permanent("a search finds at least one")
    asked = min(max(limit, 1) * _POINTS_PER_RESULT, _POINTS_AT_MOST)
    while True:
        found, complete = await find(asked)
        best: dict[str, _Found] = {}
        for one in found:  # best first, so the first of a group is its best
            best.setdefault(str(one.hit.payload.get(group, one.hit.id)), one)
        if len(best) >= limit or complete or asked >= _POINTS_AT_MOST:
            return list(best.values())[:limit]
        asked = min(asked * 4, _POINTS_AT_MOST)


def _note_hit(found: _Found) -> NoteHit:
    payload = found.hit.payload
    return NoteHit(
        note_id=_text(payload, "note_id"),
        patient_id=_text(payload, "patient_id"),
        encounter_id=payload.get("encounter_id"),
        type=_text(payload, "type"),
        type_display=_text(payload, "type_display"),
        status=_text(payload, "status"),
        time=_time(payload),
        score=found.score,
        meaning=found.hit.score,
        words=found.words,
        passage=_text(payload, "passage"),
        start=int(payload.get("start") or 0),
        end=int(payload.get("end") or 0),
        processing=_text(payload, "processing") or "production",
    )


def _image_hit(hit: Hit) -> ImageHit:
    payload = hit.payload
    return ImageHit(
        instance_uid=_text(payload, "instance_uid"),
        study_uid=_text(payload, "study_uid"),
        patient_id=_text(payload, "patient_id"),
        encounter_id=payload.get("encounter_id"),
        modality=_text(payload, "type"),
        body_part=_text(payload, "body_part"),
        view=_text(payload, "view"),
        time=_time(payload),
        score=hit.score,
        uri=_text(payload, "uri"),
        processing=_text(payload, "processing") or "production",
    )


def _text(payload: Mapping[str, Any], name: str) -> str:
    return str(payload.get(name) or "")


def _time(payload: Mapping[str, Any]) -> datetime | None:
    try:
        return datetime.fromisoformat(payload["time"])
    except (KeyError, TypeError, ValueError):
        return None  # shown without a time rather than not at all
