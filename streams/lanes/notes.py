"""notes -> entities, notes -> vectors: what happens to a note."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from connectors.qdrant.settings import NOTES, CollectionSpec
from connectors.qdrant.store import VectorStore, Where
from models.batching import MicroBatcher
from models.tasks import Floats, ModelIdentity, Span, TextEmbedder, TokenClassifier
from processors.entities import WITHDRAWN, entities_event
from processors.events import NoteEvent
from processors.vectors import Chunk, Point, chunks, instant, note_points, owners
from streams.deadletters import redriven
from streams.inference import batcher, is_error, open_model, raise_transient
from streams.lane import Input, Lane, Outcome
from streams.metrics import LaneMetrics
from streams.settings import LaneSettings, Settings


class NotesToEntities(Lane[NoteEvent]):
    """Named entities with section and assertion, on `clinical.entities`."""

    name = "notes-entities"
    kind = NoteEvent

    def __init__(self, settings: Settings, metrics: LaneMetrics) -> None:
        super().__init__(settings, metrics)
        self._ner: TokenClassifier | None = None
        self._batcher: MicroBatcher[str, list[Span]] | None = None

    @property
    def config(self) -> LaneSettings:
        """This lane's own settings."""
        return self.settings.lanes.notes_entities

    @property
    def model(self) -> ModelIdentity | None:
        """The named-entity model."""
        return self._ner.identity if self._ner else None

    async def open(self) -> None:
        """Load the model."""
        models = self.settings.models
        self._ner = await open_model(models, "ner")
        self._batcher = batcher(self._ner.find, name="ner", settings=models, metrics=self.metrics, cost=self._ner.cost)

    async def process(self, inputs: Sequence[Input[NoteEvent]]) -> list[Outcome]:
        """Find entities; a withdrawn note gives an event without any, so that readers drop what they had."""
        assert self._ner is not None and self._batcher is not None
        texts = ["" if one.event.status in WITHDRAWN else one.event.text for one in inputs]
        found = await self._batcher.map(texts)
        raise_transient(found)
        outcomes = []
        for one, spans in zip(inputs, found, strict=True):
            if isinstance(spans, list):
                outcomes.append(Outcome([entities_event(one.event, one.source, spans, self._ner.identity)]))
            else:
                outcomes.append(Outcome(error=spans))
        return outcomes

    async def close(self) -> None:
        """End the model's thread."""
        if self._batcher:
            await self._batcher.stop()


class NotesToVectors(Lane[NoteEvent]):
    """Sentence embeddings of a note's chunks, in Qdrant's collection `notes`."""

    name = "notes-vectors"
    kind = NoteEvent

    def __init__(self, settings: Settings, metrics: LaneMetrics) -> None:
        super().__init__(settings, metrics)
        self._embedder: TextEmbedder | None = None
        self._batcher: MicroBatcher[str, Floats] | None = None
        self._store: VectorStore | None = None
        self.beside = ""  # at the end of the collection's name, while a rebuild makes it anew beside the one that serves

    @property
    def collection(self) -> CollectionSpec:
        """The collection that the points go to."""
        return replace(NOTES, name=NOTES.name + self.beside)

    @property
    def config(self) -> LaneSettings:
        """This lane's own settings."""
        return self.settings.lanes.notes_vectors

    @property
    def model(self) -> ModelIdentity | None:
        """The embedding model."""
        return self._embedder.identity if self._embedder else None

    async def open(self) -> None:
        """Load the model, connect to the vector store."""
        models = self.settings.models
        if self._embedder is None:
            self._embedder = await open_model(models, "embedding")
            self._batcher = batcher(
                lambda texts: list(self._embedder.embed(texts)) if self._embedder else [],
                name="embedding",
                settings=models,
                metrics=self.metrics,
                cost=len,
            )
            self._store = VectorStore(self.settings.vectors)
        assert self._store is not None
        await self._store.ensure([self.collection])

    async def process(self, inputs: Sequence[Input[NoteEvent]]) -> list[Outcome]:
        """Cut each note into chunks that the model can take whole, embed them all together."""
        assert self._embedder is not None and self._batcher is not None
        cuts = [self._cut(one.event) for one in inputs]
        passages = [one.event.text[chunk.start : chunk.end] for one, cut in zip(inputs, cuts, strict=True) for chunk in cut]
        vectors = await self._batcher.map(passages)
        raise_transient(vectors)
        outcomes, first = [], 0
        for one, cut in zip(inputs, cuts, strict=True):
            mine = vectors[first : first + len(cut)]
            first += len(cut)
            outcomes.append(self._outcome(one, cut, mine))
        return outcomes

    def _cut(self, note: NoteEvent) -> list[Chunk]:
        assert self._embedder is not None
        if note.status in WITHDRAWN:
            return []
        return chunks(note.text, self._embedder.offsets(note.text), self._embedder.limit)

    def _outcome(self, one: Input[NoteEvent], cut: list[Chunk], vectors: Sequence[object]) -> Outcome:
        assert self._embedder is not None
        for vector in vectors:
            if is_error(vector):
                return Outcome(error=vector)  # type: ignore[arg-type]
        rows = np.stack(vectors) if vectors else np.empty((0, self._embedder.dimensions), np.float32)  # type: ignore[arg-type]
        points = note_points(one.event, one.source, cut, rows, self._embedder.identity)
        return Outcome(effect=points, word="ok" if points else "no-text")

    async def store(self, inputs: Sequence[Input[NoteEvent]], outcomes: Sequence[Outcome]) -> None:
        """Replace each note's points: new ones first, then what an older version left. The newest version of a batch wins."""
        assert self._store is not None
        newest: dict[str, Sequence[Point]] = {}
        received: dict[str, str] = {}  # of the version that wins, by note id
        for one, outcome in zip(inputs, outcomes, strict=True):
            if outcome.effect is None:
                continue
            note, at = one.event, instant(one.event.received_at)
            if redriven(one.record) and at < received.get(note.note_id, await self._stored(note.note_id)):
                outcome.word = "outdated"
                continue
            newest |= owners(note, outcome.effect)
            received[note.note_id] = at
        await self._store.replace_all(self.collection, owner_field="note_id", owners=newest)

    async def _stored(self, note_id: str) -> str:
        """Return when the version that the store holds was received; nothing where it holds none."""
        assert self._store is not None
        where = Where(note_ids=(note_id,))
        stored = self._store.scan(self.collection, where, vectors=False)
        return max([str(point.payload["received"]) async for point in stored], default="")

    async def close(self) -> None:
        """End the model's thread and the connections."""
        if self._batcher:
            await self._batcher.stop()
        if self._store:
            await self._store.close()
