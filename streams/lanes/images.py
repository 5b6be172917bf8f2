"""images -> findings + vectors: what happens to an image."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from connectors.objects import ObjectStore
from connectors.qdrant.settings import CollectionSpec
from connectors.qdrant.settings import images as images_collection
from connectors.qdrant.store import VectorStore
from models.batching import MicroBatcher
from models.errors import Poison
from models.tasks import Floats, ImageTextModel, ModelIdentity
from processors.events import ImageEvent
from processors.findings import findings_event, pixels
from processors.vectors import image_point
from streams.inference import batcher, open_model, raise_transient
from streams.lane import Input, Lane, Outcome
from streams.metrics import LaneMetrics
from streams.settings import LaneSettings, Settings

Pixels = NDArray[np.uint8]


class ImagesToFindings(Lane[ImageEvent]):
    """Calibrated findings on `clinical.findings`, the image's vector in Qdrant's collection `images`."""

    name = "images"
    kind = ImageEvent

    def __init__(self, settings: Settings, metrics: LaneMetrics) -> None:
        super().__init__(settings, metrics)
        self._model: ImageTextModel | None = None
        self._batcher: MicroBatcher[Pixels, Floats] | None = None
        self._store: VectorStore | None = None
        self._objects: ObjectStore | None = None
        self.beside = ""  # at the end of the collection's name, while a rebuild makes it anew beside the one that serves

    @property
    def collection(self) -> CollectionSpec:
        """The collection that the points go to, once the model is open."""
        assert self._model is not None
        spec = images_collection(self._model.dimensions)
        return replace(spec, name=spec.name + self.beside)

    @property
    def config(self) -> LaneSettings:
        """This lane's own settings."""
        return self.settings.lanes.images

    @property
    def model(self) -> ModelIdentity | None:
        """The image-text model."""
        return self._model.identity if self._model else None

    async def open(self) -> None:
        """Load the model, connect to the vector store and the object store."""
        models = self.settings.models
        if self._model is None:
            self._model = await open_model(models, "image-text")
            self._batcher = batcher(
                lambda images: list(self._model.embed_images(images)) if self._model else [],
                name="image-text",
                settings=models,
                metrics=self.metrics,
                cost=lambda image: image.size,
            )
            self._store = VectorStore(self.settings.vectors)
            self._objects = ObjectStore(self.settings.objects)
        assert self._store is not None
        await self._store.ensure([self.collection])

    async def process(self, inputs: Sequence[Input[ImageEvent]]) -> list[Outcome]:
        """Fetch the pixels by reference, check and decode them, embed all that can be decoded, classify."""
        assert self._model is not None and self._batcher is not None
        fetched = await asyncio.gather(*(self._pixels(one.event) for one in inputs))
        good = [image for image in fetched if not isinstance(image, Poison)]
        vectors = iter(await self._batcher.map(good))
        outcomes = [Outcome(error=image) if isinstance(image, Poison) else self._outcome(one, next(vectors))
                    for one, image in zip(inputs, fetched, strict=True)]  # fmt: skip
        raise_transient([outcome.error for outcome in outcomes])
        return outcomes

    async def _pixels(self, image: ImageEvent) -> Pixels | Poison:
        assert self._objects is not None
        try:
            data = await self._objects.get(image.pixels)
            return await asyncio.to_thread(pixels, data)
        except Poison as error:
            return error

    def _outcome(self, one: Input[ImageEvent], vector: object) -> Outcome:
        assert self._model is not None
        if not isinstance(vector, np.ndarray):
            return Outcome(error=vector)  # type: ignore[arg-type]
        model = self._model
        scores = model.classify(vector[np.newaxis])[0]
        findings = findings_event(one.event, one.source, scores, model.labels, model.thresholds, model.identity)
        return Outcome([findings], effect=image_point(one.event, one.source, vector, model.identity))

    async def store(self, inputs: Sequence[Input[ImageEvent]], outcomes: Sequence[Outcome]) -> None:
        """Put the vectors into the image collection."""
        assert self._store is not None
        points = [outcome.effect for outcome in outcomes if outcome.effect is not None]
        await self._store.upsert(self.collection, points)

    async def close(self) -> None:
        """End the model's thread and the connections."""
        if self._batcher:
            await self._batcher.stop()
        if self._store:
            await self._store.close()
