"""notes -> entities, notes -> vectors: what happens to a note."""

import asyncio
from collections.abc import Collection, Sequence
from dataclasses import replace
from itertools import islice
from typing import Any, Final

import numpy as np

from connectors.qdrant.settings import NOTES, VERSIONS, CollectionSpec
from connectors.qdrant.store import VectorStore, Where
from models.drift import Figures, Reference, labels_in, of_notes, of_texts
from models.tasks import Floats, ModelIdentity, Span, TextEmbedder, TokenClassifier
from models.vocabulary import Vocabulary, vocabulary
from processors.comparing import spans_apart, vectors_apart
from processors.entities import WITHDRAWN, entities_event
from processors.events import EntitiesEvent, NoteEvent
from processors.vectors import Chunk, Point, chunks, note_points, owners
from processors.versions import Coming, Versions, point_id
from streams.custody import Custody
from streams.inference import is_error, raise_transient
from streams.lane import OUTDATED, Input, Lane, Outcome
from streams.metrics import LaneMetrics
from streams.serving import Serving, infer
from streams.settings import EntitiesSettings, LaneSettings, Settings
from streams.survivors import Survivors
from streams.team import Loaded
from streams.trial import Verdict

_TOLD: Final = ("note_id", "version", "processing", "received", "partition", "offset")  # by a note's points of their version


class NotesToEntities(Lane[NoteEvent]):
    """Named entities with section and assertion, on `clinical.entities`."""

    name = "notes-entities"
    kind = NoteEvent

    def __init__(self, settings: Settings, metrics: LaneMetrics) -> None:
        super().__init__(settings, metrics)
        self._ner: Serving[TokenClassifier] = Serving(
            settings.models,
            metrics,
            "ner",
            lambda model: model.find,
            cost=lambda model: model.cost,
            judge=self._apart,
            figures=_note_figures,
        )
        self._vocabulary: Vocabulary | None = None

    @property
    def config(self) -> EntitiesSettings:
        """This lane's own settings."""
        return self.settings.lanes.notes_entities

    @property
    def model(self) -> ModelIdentity | None:
        """The named-entity model."""
        return self._ner.identity

    @property
    def serving(self) -> Serving[TokenClassifier]:
        """The named-entity models."""
        return self._ner

    async def open(self) -> None:
        """Read the vocabulary, load the model."""
        if self.config.vocabulary:
            self._vocabulary = await asyncio.to_thread(vocabulary, *self.config.own_terms)
        await self._ner.open()

    async def process(self, inputs: Sequence[Input[NoteEvent]]) -> list[Outcome]:
        """Find entities; a withdrawn note gives an event without any, so that readers drop what they had."""
        async with self._ner.batch() as team:
            chosen, found = await self._ner.answers(team, inputs, _entities)
            if self._ner.shadow is not None:
                self._ner.shadow.offer(team, zip(inputs, map(_text, inputs), found, strict=True))
        return await asyncio.to_thread(self._outcomes, inputs, chosen, found)  # of a megabyte of text it takes seconds

    def _outcomes(
        self, inputs: Sequence[Input[NoteEvent]], chosen: Sequence[Loaded[TokenClassifier]], found: Sequence[Any]
    ) -> list[Outcome]:
        outcomes = []
        for one, model, spans in zip(inputs, chosen, found, strict=True):
            by = model.identity
            if isinstance(spans, list):
                outcomes.append(Outcome([self._event(one, spans, model)], model=by))
            else:
                outcomes.append(Outcome(error=spans, model=by))
        return outcomes

    def _event(self, one: Input[NoteEvent], spans: Sequence[Span], by: Loaded[TokenClassifier]) -> EntitiesEvent:
        labels = by.model.labels if self._vocabulary else ()
        return entities_event(one.event, one.source, spans, by.identity, vocabulary=self._vocabulary, labels=labels)

    def _apart(
        self,
        one: Input[NoteEvent],
        champion: Loaded[TokenClassifier],
        said: list[Span],
        challenger: Loaded[TokenClassifier],
        answer: list[Span],
    ) -> Verdict:
        return Verdict(spans_apart(said, answer), {"entities": self._event(one, answer, challenger).entities})

    async def close(self) -> None:
        """End the model's thread."""
        await self._ner.close()


class NotesToVectors(Lane[NoteEvent]):
    """Sentence embeddings of a note's chunks, in Qdrant's collection `notes`."""

    name = "notes-vectors"
    kind = NoteEvent

    def __init__(self, settings: Settings, metrics: LaneMetrics) -> None:
        super().__init__(settings, metrics)
        self._embedding: Serving[TextEmbedder] = Serving(
            settings.models,
            metrics,
            "embedding",
            lambda model: lambda texts: list(model.embed(texts)),
            cost=lambda model: len,
            admit=self._admit,
            judge=_vectors_apart,
            figures=_text_figures,
        )
        self._store: VectorStore | None = None
        self.custody: Custody = Custody(settings, metrics, self.name, self.kind.topic, NOTES.name)
        self.survivors = Survivors(settings.kafka)
        self.beside = ""  # the collection that a rebuild makes beside the one that serves; none in a lane

    def collection(self, dimensions: int) -> CollectionSpec:
        """Describe the collection that the points go to, for a model of that many dimensions."""
        return replace(NOTES, name=self.beside or NOTES.name, dimensions=dimensions, served=not self.beside)

    @property
    def config(self) -> LaneSettings:
        """This lane's own settings."""
        return self.settings.lanes.notes_vectors

    @property
    def model(self) -> ModelIdentity | None:
        """The embedding model."""
        return self._embedding.identity

    @property
    def serving(self) -> Serving[TextEmbedder]:
        """The embedding models."""
        return self._embedding

    async def open(self) -> None:
        """Load the model, connect to the vector store."""
        self._store = self._store or VectorStore(self.settings.vectors)
        await self._embedding.open()

    async def _admit(self, model: TextEmbedder) -> None:
        """Raise `Fatal` where the collection holds vectors of another length, `Missing` where it was lost."""
        assert self._store is not None
        if not self.beside:
            await self.custody.require(self._store)
        await self._store.ensure([self.collection(model.dimensions), VERSIONS])

    async def process(self, inputs: Sequence[Input[NoteEvent]]) -> list[Outcome]:
        """Cut each note into chunks that the model can take whole, embed them all together."""
        async with self._embedding.batch() as team:
            models, answers = await self._embedding.answers(team, inputs, _vectors)
            if self._embedding.shadow is not None:
                asked = (
                    (one, _passage(one, chunk), vector)
                    for one, answer in zip(inputs, answers, strict=True)
                    if isinstance(answer, tuple)
                    for chunk, vector in zip(*answer, strict=True)
                )
                self._embedding.shadow.offer(team, asked)
        return [_outcome(*each) for each in zip(inputs, answers, models, strict=True)]

    async def store(self, inputs: Sequence[Input[NoteEvent]], outcomes: Sequence[Outcome]) -> None:
        """Let each note have the points of its newest version and no others, whichever of its versions these are.

        They are of the record that stands for the note's patient by now, whenever the note was written.

        What has to be remembered is stored before the points, and these before what an older version left is deleted: killed in
        between, a lane finds the newest version no older than it was, and does the same again.
        """
        assert self._store is not None
        made = [
            (one, outcome, owners(one.event, outcome.effect))
            for one, outcome in zip(inputs, outcomes, strict=True)
            if outcome.effect is not None
        ]
        await self.survivors.hear()
        known = await self._known({note_id for _, _, owned in made for note_id in owned})
        brought: dict[tuple[str, str], Sequence[Point]] = {}  # by note and version
        for one, outcome, owned in made:
            coming = Coming.of(one.event, *one.place)
            for note_id, points in owned.items():
                known[note_id].take(one.event.id, coming)
                brought[note_id, one.event.id] = points
            if known[one.event.note_id].newest != one.event.id:
                outcome.word = OUTDATED
        newest: dict[str, Sequence[Point]] = {}
        memory: list[Point] = []
        for note_id, versions in known.items():
            version = versions.newest
            held = version in versions.held
            if (note_id, version) in brought:
                newest[note_id] = [self.survivors.filed(one) for one in versions.placed(brought[note_id, version], version)]
                held = bool(newest[note_id])
            elif versions.held and not held:
                newest[note_id] = ()  # the newest one's text is not at hand, and an older one is not shown for it
            if versions.to_remember(held):
                memory.append(versions.point(note_id))
        await self._store.upsert(VERSIONS, memory)
        some = next((points for points in newest.values() if points), None)
        collection = self.collection(len(some[0].vector) if some else NOTES.dimensions)
        await self._store.replace_all(collection, owner_field="note_id", owners=newest)

    async def _known(self, note_ids: Collection[str]) -> dict[str, Versions]:
        """Return the versions that came of these notes so far, as far as the store tells."""
        assert self._store is not None
        known = {note_id: Versions() for note_id in note_ids}
        if not known:
            return known
        for point in (await self._store.retrieve(VERSIONS, [point_id(note_id) for note_id in known])).values():
            known[point.payload["note_id"]].recall(point.payload)
        collection, where = self.collection(NOTES.dimensions), Where(note_ids=tuple(known))
        async for point in self._store.scan(collection, where, vectors=False, payloads=_TOLD):
            known[point.payload["note_id"]].hold(point.payload)
        return known

    async def close(self) -> None:
        """End the model's thread and the connections."""
        await self._embedding.close()
        await self.survivors.close()
        if self._store:
            await self._store.close()


def _text(one: Input[NoteEvent]) -> str:
    return "" if one.event.status in WITHDRAWN else one.event.text


async def _entities(inputs: Sequence[Input[NoteEvent]], models: Sequence[Loaded[TokenClassifier]]) -> list[Any]:
    """Return each note's spans, or the error."""
    found = await infer(list(zip(models, map(_text, inputs), strict=True)))
    raise_transient(found)
    return found


async def _vectors(inputs: Sequence[Input[NoteEvent]], models: Sequence[Loaded[TextEmbedder]]) -> list[Any]:
    """Return each note's chunks with their vectors, or the first error: a note is the work of one model, whole."""
    pairs = list(zip(inputs, models, strict=True))
    cuts = [_cut(one.event, by.model) for one, by in pairs]
    found = await infer([(by, _passage(one, chunk)) for (one, by), cut in zip(pairs, cuts, strict=True) for chunk in cut])
    raise_transient(found)
    answers: list[Any] = []
    rest = iter(found)
    for cut in cuts:
        vectors = list(islice(rest, len(cut)))
        answers.append(next(filter(is_error, vectors), (cut, vectors)))
    return answers


def _passage(one: Input[NoteEvent], chunk: Chunk) -> str:
    return one.event.text[chunk.start : chunk.end]


def _cut(note: NoteEvent, model: TextEmbedder) -> list[Chunk]:
    return [] if note.status in WITHDRAWN else chunks(note.text, model.offsets(note.text), model.limit)


def _outcome(one: Input[NoteEvent], answer: Any, by: Loaded[TextEmbedder]) -> Outcome:
    if is_error(answer):
        return Outcome(error=answer, model=by.identity)
    cut, vectors = answer
    rows = np.stack(vectors) if vectors else np.empty((0, by.model.dimensions), np.float32)
    points = note_points(one.event, one.source, cut, rows, by.identity)
    return Outcome(effect=points, word="ok" if points else "no-text", model=by.identity)


def _vectors_apart(
    one: Input[NoteEvent], champion: Loaded[TextEmbedder], said: Floats, challenger: Loaded[TextEmbedder], answer: Floats
) -> Verdict:
    return Verdict(vectors_apart(said, answer), {})


def _note_figures(model: TokenClassifier, reference: Reference, texts: Sequence[str], found: Sequence[list[Span]]) -> Figures:
    return of_notes(texts, found, labels_in(reference))


def _text_figures(model: TextEmbedder, reference: Reference, texts: Sequence[str], vectors: Sequence[Floats]) -> Figures:
    return of_texts(texts, np.stack(vectors))
