"""images -> findings + vectors: what happens to an image."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from connectors.objects import ObjectStore
from connectors.qdrant.settings import INSTANCES, CollectionSpec
from connectors.qdrant.settings import images as images_collection
from connectors.qdrant.store import Point, VectorStore, Where
from models.drift import Figures, Reference, of_images
from models.errors import Poison
from models.tasks import ImageTextModel, ModelIdentity
from processors.comparing import labels_apart
from processors.entities import WITHDRAWN
from processors.events import Event, FindingsEvent, ImageEvent
from processors.findings import findings_event, not_judged, pixels
from processors.instances import Version, withdrawal, withdrawn_by
from processors.meant import unmeant
from processors.vectors import image_point
from streams.custody import Custody
from streams.inference import raise_transient
from streams.lane import OUTDATED, Input, Lane, Outcome
from streams.metrics import LaneMetrics
from streams.serving import Serving, infer
from streams.settings import LaneSettings, Settings
from streams.survivors import Survivors
from streams.team import Loaded
from streams.trial import Verdict

Pixels = NDArray[np.uint8]

TAKEN_BACK: Final = "withdrawn"  # what the audit says of a word that takes an image back
TAKES_BACK: Final = "withdraws"  # of what an input says of other images
JUDGED: Final = "judged"  # counted: images that the model was asked about
NOT_JUDGED: Final = "not-judged"  # of an image that the model is not meant for
# What an image's point tells of its version.
_TOLD: Final = (
    *("version", "instance_uid", "study_uid", "patient_id", "encounter_id", "time", "processing"),
    *("topic", "received", "partition", "offset"),
)


@dataclass(frozen=True, slots=True)
class _Made:
    """What a picture gives, as long as it stands; of a word that takes back nothing, of a picture not judged no point."""

    found: FindingsEvent | None = None
    point: Point | None = None


class ImagesToFindings(Lane[ImageEvent]):
    """Calibrated findings on `clinical.findings`, the image's vector in Qdrant's collection `images`."""

    name = "images"
    kind = ImageEvent

    def __init__(self, settings: Settings, metrics: LaneMetrics) -> None:
        super().__init__(settings, metrics)
        metrics.expect((JUDGED, NOT_JUDGED))
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
        self.survivors = Survivors(settings.kafka)
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
        await self._models.open()

    async def _admit(self, model: ImageTextModel) -> None:
        """Raise `Fatal` where the collection holds vectors of another length, `Missing` where it was lost."""
        assert self._store is not None
        if not self.beside:
            await self.custody.require(self._store)
        await self._store.ensure([self.collection(model.dimensions), INSTANCES])

    async def process(self, inputs: Sequence[Input[ImageEvent]]) -> list[Outcome]:
        """Fetch the pixels by reference, check and decode them, embed all that can be decoded, classify.

        A word that takes an image back has none: what it withdraws is known once it is stored. A picture that the model is not
        meant for is not looked at: its vector would be found by words for what it cannot show.
        """
        async with self._models.batch() as team:
            models, answers = await self._models.answers(team, inputs, self._ask)
            outcomes = [_outcome(*each) for each in zip(inputs, answers, models, strict=True)]
            self.metrics.event(JUDGED, sum(isinstance(answer, tuple) for answer in answers))
            self.metrics.event(NOT_JUDGED, sum(one.word == NOT_JUDGED for one in outcomes))
            if self._models.shadow is not None:
                pairs = zip(inputs, answers, strict=True)
                self._models.shadow.offer(team, ((one, *answer) for one, answer in pairs if isinstance(answer, tuple)))
        return outcomes

    async def _ask(self, inputs: Sequence[Input[ImageEvent]], models: Sequence[Loaded[ImageTextModel]]) -> list[Any]:
        """Return each image's pixels and vector, or why it is not judged, or what is wrong; None for a word that takes back."""
        fetched = await asyncio.gather(*(self._pixels(one.event, by) for one, by in zip(inputs, models, strict=True)))
        good = [(by, image) for by, image in zip(models, fetched, strict=True) if isinstance(image, np.ndarray)]
        found = await infer(good)
        raise_transient(found)
        vectors = iter(found)
        answers: list[Any] = []
        for image in fetched:
            vector = next(vectors) if isinstance(image, np.ndarray) else None
            answers.append((image, vector) if isinstance(vector, np.ndarray) else image if vector is None else vector)
        return answers

    async def _pixels(self, image: ImageEvent, by: Loaded[ImageTextModel]) -> Pixels | Poison | str | None:
        assert self._objects is not None
        if image.status in WITHDRAWN or image.pixels is None:
            return None
        if why := unmeant(image, by.entry.meant_for):
            return why
        try:
            data = await self._objects.get(image.pixels)
            return await asyncio.to_thread(pixels, data)
        except Poison as error:
            return error

    async def store(self, inputs: Sequence[Input[ImageEvent]], outcomes: Sequence[Outcome]) -> None:
        """Let the versions of an image that stand have their points, and no others; say of what is withdrawn that it is.

        Versions of another patient lie in another partition as a rule, and may be stored at this moment by another worker. So each
        writes what came, then its points, and then looks again: of two at least one sees the other. What has to be remembered is
        stored before any point is deleted: killed in between, a lane does, and says, the same again.

        Points are of the record that stands for the image's patient by now. Versions are compared by the patients that they named
        themselves: what a merge that comes later makes one was two when it was decided, and would be decided otherwise again.
        """
        assert self._store is not None
        made = [(one, outcome) for one, outcome in zip(inputs, outcomes, strict=True) if outcome.effect is not None]
        came = [Version.of(one.event, *one.place) for one, _ in made]
        uids = tuple({one.instance_uid for one in came})
        if uids:
            await self.survivors.hear()
        known: dict[str, Version] = {}
        decided: dict[str, Version] | None = None
        while uids:
            remembered, held = await self._recall(uids)
            for version in (*remembered.values(), *held.values()):
                _take(known, version)
            for version in came:  # one by one: as if each had come by itself
                new = version.id not in known
                _take(known, version)
                if new:
                    known[version.id] = version.aimed(known.values())
            await self._store.upsert(INSTANCES, [one.point() for one in known.values() if remembered.get(one.id) != one])
            if known == decided:
                break
            decided = dict(known)
            gone = {one.id for one in known.values() if withdrawn_by(one, known.values())}
            points = [out.effect.point for one, out in made if out.effect.point is not None and one.event.id not in gone]
            if points:
                filed = [self.survivors.filed(point) for point in points]
                await self._store.upsert(self.collection(len(points[0].vector)), filed)
            gone |= {one.event.id for one, out in made if out.effect.point is None}  # not judged, and once it was
            await self._store.delete_points(self.collection(0), [point for point, one in held.items() if one.id in gone])
        for one, outcome in made:
            _say(one, outcome, known)

    async def _recall(self, uids: Sequence[str]) -> tuple[dict[str, Version], dict[str, Version]]:
        """Return the versions of these instances that are remembered, by id, and those that have points, by the point's id.

        Points of earlier releases are remembered by nothing else.
        """
        assert self._store is not None
        where = Where(instance_uids=uids)
        memory = self._store.scan(INSTANCES, where, vectors=False)
        remembered = [Version.read(point.payload) async for point in memory]
        points = self._store.scan(self.collection(0), where, vectors=False, payloads=_TOLD)
        held = {point.id: Version.read(point.payload) async for point in points}
        return {one.id: one for one in remembered}, held

    async def close(self) -> None:
        """End the model's thread and the connections."""
        await self._models.close()
        await self.survivors.close()
        if self._store:
            await self._store.close()


def _outcome(one: Input[ImageEvent], answer: Any, by: Loaded[ImageTextModel]) -> Outcome:
    model = by.identity
    match answer:
        case None:
            return Outcome(effect=_Made(), model=model)
        case str():
            found = not_judged(one.event, one.source, answer, model)
            return Outcome([found], effect=_Made(found), word=NOT_JUDGED, model=model)
        case (_, vector):
            found = _findings(one, vector, by)
            return Outcome([found], effect=_Made(found, image_point(one.event, one.source, vector, model)), model=model)
    return Outcome(error=answer, model=model)


def _take(known: dict[str, Version], version: Version) -> None:
    """Keep of each version what was said of it first, and its first coming."""
    before = known.get(version.id, version)
    known[version.id] = replace(before, coming=min(before.coming, version.coming))


def _say(one: Input[ImageEvent], outcome: Outcome, known: dict[str, Version]) -> None:
    """Let the outcome say what was found, where it stands, and of what this input takes back that it is withdrawn."""
    version, versions, model = known[one.event.id], known.values(), outcome.model
    assert model is not None
    by = withdrawn_by(version, versions)
    events: list[Event] = [outcome.effect.found]
    if version.word:
        outcome.word, events = TAKEN_BACK, [withdrawal(version, version, model)]
    elif by is not None:
        outcome.word, events = OUTDATED, [withdrawal(version, by, model)]
    pictures, outcome.others = (other for other in versions if not other.word), TAKES_BACK
    outcome.events = [
        *events,
        *(withdrawal(other, version, model) for other in pictures if withdrawn_by(other, versions) == version),
    ]


def _findings(one: Input[ImageEvent], vector: Any, by: Loaded[ImageTextModel]) -> FindingsEvent:
    model = by.model
    scores = model.classify(vector[np.newaxis])[0]
    return findings_event(one.event, one.source, scores, model.labels, model.thresholds, by.identity)


def _findings_apart(
    one: Input[ImageEvent], champion: Loaded[ImageTextModel], said: Any, challenger: Loaded[ImageTextModel], answer: Any
) -> Verdict:
    if unmeant(one.event, challenger.entry.meant_for):
        return Verdict(None, {})
    theirs, mine = (_findings(one, vector, by) for vector, by in ((said, champion), (answer, challenger)))
    found = [[finding.label for finding in event.findings if finding.above_threshold] for event in (theirs, mine)]
    return Verdict(labels_apart(*found), {"findings": mine.findings})


def _figures(model: ImageTextModel, reference: Reference, images: Sequence[Pixels], vectors: Sequence[Any]) -> Figures:
    return of_images(images, model.classify(np.stack(vectors)), model.labels)
