"""images -> findings + vectors: what happens to an image."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from connectors.objects import ObjectStore
from connectors.qdrant.settings import CollectionSpec
from connectors.qdrant.settings import images as images_collection
from connectors.qdrant.store import VectorStore
from models.drift import Figures, Reference, of_images
from models.errors import Poison
from models.tasks import ImageTextModel, ModelIdentity
from processors.comparing import labels_apart
from processors.events import FindingsEvent, ImageEvent
from processors.findings import findings_event, pixels
from processors.vectors import image_point
from streams.custody import Custody
from streams.inference import raise_transient
from streams.lane import Input, Lane, Outcome
from streams.metrics import LaneMetrics
from streams.serving import Serving, infer
from streams.settings import LaneSettings, Settings
from streams.team import Loaded
from streams.trial import Verdict

Pixels = NDArray[np.uint8]


class ImagesToFindings(Lane[ImageEvent]):
    """Calibrated findings on `clinical.findings`, the image's vector in Qdrant's collection `images`."""

    name = "images"
    kind = ImageEvent

    def __init__(self, settings: Settings, metrics: LaneMetrics) -> None:
        super().__init__(settings, metrics)
        self._models: Serving[ImageTextModel] = Serving(
            settings.models,
            metrics,
            "image-text",
            lambda model: lambda images: list(model.embed_images(images)),
            cost=lambda model: lambda image: int(image.size),
            admit=self._admit,
            judge=_findings_apart,
            size=lambda image: int(image.nbytes),
            figures=_figures,
        )
        self._store: VectorStore | None = None
        self._objects: ObjectStore | None = None
        self.custody: Custody = Custody(settings, metrics, self.name, self.kind.topic, images_collection(dimensions=0).name)
        self.beside = ""  # the collection that a rebuild makes beside the one that serves; none in a lane

    def collection(self, dimensions: int) -> CollectionSpec:
        """Describe the collection that the points go to, for a model of that many dimensions."""
        spec = images_collection(dimensions)
        return replace(spec, name=self.beside or spec.name, served=not self.beside)

    @property
    def config(self) -> LaneSettings:
        """This lane's own settings."""
        return self.settings.lanes.images

    @property
    def model(self) -> ModelIdentity | None:
        """The image-text model."""
        return self._models.identity

    @property
    def serving(self) -> Serving[ImageTextModel]:
        """The image-text models."""
        return self._models

    async def open(self) -> None:
        """Load the model, connect to the vector store and the object store."""
        self._store = self._store or VectorStore(self.settings.vectors)
        self._objects = self._objects or ObjectStore(self.settings.objects)
        if not self.beside:
            await self.custody.require(self._store)  # before a model is loaded for nothing, at every try
        await self._models.open()

    async def _admit(self, model: ImageTextModel) -> None:
        """Raise `Fatal` where the collection holds vectors of another length, `Missing` where it was lost."""
        assert self._store is not None
        if not self.beside:
            await self.custody.require(self._store)
        await self._store.ensure([self.collection(model.dimensions)])

    async def process(self, inputs: Sequence[Input[ImageEvent]]) -> list[Outcome]:
        """Fetch the pixels by reference, check and decode them, embed all that can be decoded, classify."""
        fetched = await asyncio.gather(*(self._pixels(one.event) for one in inputs))
        async with self._models.batch() as team:
            models = [team.of(one.event.patient_id) for one in inputs]
            good = [(by, image) for by, image in zip(models, fetched, strict=True) if not isinstance(image, Poison)]
            found = await infer(good)
            raise_transient(found)
            vectors = iter(found)
            outcomes = [
                Outcome(error=image, model=by.identity) if isinstance(image, Poison) else _outcome(one, next(vectors), by)
                for one, image, by in zip(inputs, fetched, models, strict=True)
            ]
            if self._models.shadow is not None:
                seen = (one for one, image in zip(inputs, fetched, strict=True) if not isinstance(image, Poison))
                asked = ((one, image, vector) for one, (_, image), vector in zip(seen, good, found, strict=True))
                self._models.shadow.offer(team, asked)
        return outcomes

    async def _pixels(self, image: ImageEvent) -> Pixels | Poison:
        assert self._objects is not None
        try:
            data = await self._objects.get(image.pixels)
            return await asyncio.to_thread(pixels, data)
        except Poison as error:
            return error

    async def store(self, inputs: Sequence[Input[ImageEvent]], outcomes: Sequence[Outcome]) -> None:
        """Put the vectors into the image collection."""
        assert self._store is not None
        points = [outcome.effect for outcome in outcomes if outcome.effect is not None]
        if points:
            await self._store.upsert(self.collection(len(points[0].vector)), points)

    async def close(self) -> None:
        """End the model's thread and the connections."""
        await self._models.close()
        if self._store:
            await self._store.close()


def _outcome(one: Input[ImageEvent], vector: Any, by: Loaded[ImageTextModel]) -> Outcome:
    if not isinstance(vector, np.ndarray):
        return Outcome(error=vector, model=by.identity)
    return Outcome(
        [_findings(one, vector, by)], effect=image_point(one.event, one.source, vector, by.identity), model=by.identity
    )


def _findings(one: Input[ImageEvent], vector: Any, by: Loaded[ImageTextModel]) -> FindingsEvent:
    model = by.model
    scores = model.classify(vector[np.newaxis])[0]
    return findings_event(one.event, one.source, scores, model.labels, model.thresholds, by.identity)


def _findings_apart(
    one: Input[ImageEvent], champion: Loaded[ImageTextModel], said: Any, challenger: Loaded[ImageTextModel], answer: Any
) -> Verdict:
    theirs, mine = (_findings(one, vector, by) for vector, by in ((said, champion), (answer, challenger)))
    found = [[finding.label for finding in event.findings if finding.above_threshold] for event in (theirs, mine)]
    return Verdict(labels_apart(*found), {"findings": mine.findings})


def _figures(model: ImageTextModel, reference: Reference, images: Sequence[Pixels], vectors: Sequence[Any]) -> Figures:
    return of_images(images, model.classify(np.stack(vectors)), model.labels)
