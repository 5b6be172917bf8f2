"""The images' lane over a real store: an image of the wrong patient is taken back, whichever order its versions come in.

Without Kafka: the lane is given records as the engine would give them.
"""

import asyncio
import uuid
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from connectors.objects import ObjectStore
from connectors.objects.settings import ObjectSettings
from connectors.qdrant.embedded import EmbeddedQdrant
from connectors.qdrant.settings import INSTANCES, QdrantSettings, images
from connectors.qdrant.store import Point, VectorStore, Where
from models.errors import Transient
from processors.events import FindingsEvent, ImageEvent, ObjectReference, Source
from processors.identity import natural_id
from streams.deadletters import ATTEMPTS, LETTER, SOURCE
from streams.demo import radiographs
from streams.lane import Input
from streams.lanes.images import ImagesToFindings
from streams.metrics import LaneMetrics
from streams.settings import Settings
from streams.survivors import Survivors
from tests.clinic import ORIGIN, note

pytestmark = [pytest.mark.qdrant, pytest.mark.timeout(300)]

AT = note("", "", "").received_at


@pytest.fixture(scope="module", params=["embedded", "server"])
def url(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    if request.param == "server":
        server = request.getfixturevalue("qdrant_server").url
        yield server
        asyncio.run(leave(server))
        return
    with EmbeddedQdrant(tmp_path_factory.mktemp("vectors"), sync=False) as embedded:
        yield embedded.url


async def leave(url: str) -> None:
    """Leave no collection behind whose vectors are of another length than the next test's."""
    async with VectorStore(QdrantSettings(url=url)) as store:
        for collection in (images(0), INSTANCES):
            await store.drop(collection)


@dataclass
class Desk:
    """A lane, and versions of one image; what the lane said of them, by id as any reader keeps it."""

    lane: ImagesToFindings
    settings: Settings
    picture: ObjectReference
    uid: str
    offset: int = 0
    said: dict[str, FindingsEvent] = field(default_factory=dict)

    def image(self, patient: str, number: int, **fields: Any) -> ImageEvent:
        """A version of the image, received in that hour."""
        return ImageEvent(
            **{
                "id": natural_id(self.uid, patient, number),
                "patient_id": patient,
                "study_uid": "2.25.1",
                "series_uid": "2.25.2",
                "instance_uid": self.uid,
                "modality": "DX",
                "body_part": "CHEST",
                "rows": 160,
                "columns": 160,
                "pixels": self.picture,
                "acquired_at": AT,
                "received_at": AT + timedelta(hours=number),
                "origin": ORIGIN,
                **fields,
            }
        )

    def word(self, patient: str, number: int, **fields: Any) -> ImageEvent:
        """What a rejection note says of the image."""
        taken = {"status": "entered-in-error", "reason": "DICOM 113037", "modality": ""}
        return self.image(patient, number, **{**taken, **dict.fromkeys(("rows", "columns", "pixels")), **fields})

    def inputs(self, *events: ImageEvent, original: int | None = None) -> list[Input[ImageEvent]]:
        headers = []
        if original is not None:
            headers = [(LETTER, b"l"), (ATTEMPTS, b"1"), (SOURCE, f"0/{original}".encode())]
        made = []
        for event in events:
            source = Source(topic="clinical.images", partition=0, offset=self.offset, event_id=event.id)
            made.append(Input(event, source, SimpleNamespace(headers=headers, partition=0, offset=self.offset)))
            self.offset += 1
        return made

    async def come(self, *events: ImageEvent, batch: int = 1, original: int | None = None) -> list[str]:
        """Give events to the lane, in batches; return what the audit says of each. `original`: the offset of what is redriven."""
        words = []
        for start in range(0, len(events), batch):
            words += await self.pass_on(self.inputs(*events[start : start + batch], original=original))
        return words

    async def pass_on(self, inputs: Sequence[Input[ImageEvent]]) -> list[str]:
        outcomes = await self.lane.process(inputs)
        await self.lane.store(inputs, outcomes)
        for outcome in outcomes:
            self.said |= {event.id: event for event in outcome.events if isinstance(event, FindingsEvent)}
        return [outcome.word for outcome in outcomes]

    async def held(self) -> list[Point]:
        """What the store has of the image."""
        async with VectorStore(self.settings.vectors) as store:
            return [point async for point in store.scan(images(0), Where(instance_uids=[self.uid]), vectors=False)]

    async def owners(self) -> list[str]:
        """Whose the image's points are."""
        return sorted(str(point.payload["patient_id"]) for point in await self.held())

    def found(self) -> dict[str, str]:
        """What a reader of `clinical.findings` is left with: the patients of the images that have findings, by image."""
        withdrawn = {one.image_id for one in self.said.values() if one.image_status != "final"}
        return {one.image_id: one.patient_id for one in self.said.values() if one.findings and one.image_id not in withdrawn}

    def withdrawn(self) -> dict[str, str]:
        """Of which patient the lane said that an image is withdrawn, by image."""
        return {one.image_id: one.patient_id for one in self.said.values() if one.image_status != "final"}


@pytest.fixture(scope="module")
def objects(tmp_path_factory: pytest.TempPathFactory) -> ObjectSettings:
    return ObjectSettings(url=str(tmp_path_factory.mktemp("objects")))


@pytest.fixture(autouse=True)
def nobody_was_merged(monkeypatch: pytest.MonkeyPatch) -> None:
    """No broker is asked."""

    async def hear(self: Survivors) -> None:
        pass

    monkeypatch.setattr(Survivors, "hear", hear)


@pytest.fixture
async def lane(url: str, objects: ObjectSettings) -> AsyncIterator[ImagesToFindings]:
    settings = Settings(vectors=QdrantSettings(url=url, timeout=60.0), objects=objects)
    async with VectorStore(settings.vectors) as store:
        await store.ensure([images(256)])  # there, so that the lane asks no broker whether it lost them
    lane = ImagesToFindings(settings, LaneMetrics("images"))
    await lane.open()
    yield lane
    await lane.close()


@pytest.fixture
async def desk(lane: ImagesToFindings) -> Desk:
    return await at(lane)


async def at(lane: ImagesToFindings) -> Desk:
    """A desk with an image of its own."""
    picture = await ObjectStore(lane.settings.objects).put(
        radiographs.png(radiographs.draw(1, "clear", 160)), "image/png", ".png"
    )
    return Desk(lane, lane.settings, picture, f"2.25.{uuid.uuid4().int}")


def again(event: ImageEvent) -> ImageEvent:
    """The event of an object that its sender repeats: the same but for its receipt."""
    return event.model_copy(update={"received_at": event.received_at + timedelta(days=30)})


def counted(desk: Desk, kind: str) -> float:
    """How many images the lane has counted as that; it stands at zero from the start."""
    value = desk.lane.metrics.registry.get_sample_value("vigil_events_total", {"lane": "images", "kind": kind})
    assert value is not None
    return value


async def test_of_a_picture_that_the_model_is_not_meant_for_nothing_is_said_or_stored(desk: Desk) -> None:
    head = desk.image(
        "a", 1, modality="CT", body_part="HEAD", view="", pixels=desk.picture.model_copy(update={"uri": "gone.png"})
    )
    before = [counted(desk, kind) for kind in ("judged", "not-judged")]
    assert await desk.come(head) == ["not-judged"]
    assert [counted(desk, kind) for kind in ("judged", "not-judged")] == [before[0], before[1] + 1]
    (said,) = desk.said.values()
    assert said.not_judged == "another modality than the model is meant for: CR, DX, RG"
    assert (said.findings, said.modality, said.body_part, said.image_status) == ((), "CT", "HEAD", "final")
    assert await desk.owners() == []
    taken = desk.word("a", 2)
    assert await desk.come(taken) == ["withdrawn"]
    assert desk.withdrawn() == {head.id: "a", taken.id: "a"}


async def test_what_an_earlier_release_judged_loses_its_vector_when_it_is_processed_again(desk: Desk) -> None:
    film, judged = desk.image("a", 1), counted(desk, "judged")
    assert await desk.come(film) == ["ok"]
    assert counted(desk, "judged") == judged + 1
    (before,) = desk.said.values()
    assert (before.findings != (), await desk.owners()) == (True, ["a"])
    assert await desk.come(film.model_copy(update={"body_part": "HAND"})) == ["not-judged"]
    assert (desk.said[before.id].findings, await desk.owners(), desk.found()) == ((), [], {})


async def test_under_another_patient_it_takes_the_earlier_one_back(desk: Desk) -> None:
    wrong, right = desk.image("a", 1, encounter_id="e"), desk.image("b", 2)
    assert await desk.come(wrong) == ["ok"]
    assert (await desk.owners(), desk.found()) == (["a"], {wrong.id: "a"})
    assert await desk.come(right) == ["ok"]
    assert (await desk.owners(), desk.found()) == (["b"], {right.id: "b"})
    (taken,) = (one for one in desk.said.values() if one.image_status != "final")
    assert (taken.patient_id, taken.encounter_id, taken.image_id, taken.instance_uid) == ("a", "e", wrong.id, desk.uid)
    assert (taken.image_status, taken.findings, taken.source.event_id) == ("entered-in-error", (), right.id)
    assert "another patient" in taken.reason and taken.acquired_at == wrong.acquired_at
    # Repeated, redriven and replayed it is no news, also to a lane that has forgotten everything.
    other = ImagesToFindings(desk.settings, LaneMetrics("other"))
    await other.open()
    later = Desk(other, desk.settings, desk.picture, desk.uid, offset=50)
    assert await later.come(again(wrong), again(right), batch=2) == ["outdated", "ok"]
    assert await later.come(wrong, original=0) == ["outdated"]
    await other.close()
    assert (await desk.owners(), later.found(), later.withdrawn()) == (["b"], {right.id: "b"}, {wrong.id: "a"})
    assert {**desk.said, **later.said}[taken.id] == taken
    # Another object that puts it back is news.
    assert await desk.come(desk.image("a", 3)) == ["ok"]
    assert (await desk.owners(), set(desk.found().values())) == (["a"], {"a"})


async def test_a_rejected_image_stays_rejected(desk: Desk) -> None:
    image, word = desk.image("a", 1), desk.word("a", 2, status="cancelled", reason="why")
    assert await desk.come(image, word, again(image)) == ["ok", "withdrawn", "outdated"]
    assert (await desk.owners(), desk.found()) == ([], {})
    said = [
        (one.image_id, one.image_status, one.reason, one.findings) for one in desk.said.values() if one.image_status != "final"
    ]
    assert sorted(said) == sorted((one.id, "cancelled", "why", ()) for one in (image, word))
    assert await desk.come(desk.image("a", 3)) == ["ok"]  # other bytes, supplied anew
    assert await desk.owners() == ["a"]


async def test_other_content_of_the_same_patient_stands_beside(desk: Desk) -> None:
    assert await desk.come(desk.image("a", 1), desk.image("a", 2)) == ["ok", "ok"]
    assert (await desk.owners(), desk.withdrawn()) == (["a", "a"], {})
    await desk.come(desk.image("b", 3))
    assert (await desk.owners(), set(desk.withdrawn().values())) == (["b"], {"a"})


async def test_a_rejection_leaves_the_corrected_copy_alone_and_finds_an_image_under_any_patient(desk: Desk) -> None:
    wrong, right, word = desk.image("a", 1), desk.image("b", 2), desk.word("a", 3)
    await desk.come(wrong, right, word)
    assert (await desk.owners(), desk.found()) == (["b"], {right.id: "b"})
    other = await at(desk.lane)
    stranger = other.word("known-otherwise", 2)
    image = other.image("a", 1)
    await other.come(image, stranger)
    assert (await other.owners(), other.withdrawn()) == ([], {image.id: "a", stranger.id: "known-otherwise"})
    # An earlier picture under the word's own patient that comes to light brings nothing back.
    await other.come(other.image("known-otherwise", 1), image, stranger)
    assert (await other.owners(), other.found()) == ([], {})


async def test_every_order_and_every_batch_ends_alike(lane: ImagesToFindings) -> None:
    # An image, its rejection and its repeat lie in one partition, in order; the other patient's is read whenever it is.
    for order in ((0, 1, 2, 3), (0, 2, 1, 3), (1, 0, 2, 3), (0, 2, 3, 1)):
        for batch in (1, 2, 3, 4):
            desk = await at(lane)
            versions = desk.image("a", 1), desk.image("b", 2), desk.word("a", 3), again(desk.image("a", 1))
            await desk.come(*(versions[one] for one in order), batch=batch)
            assert (await desk.owners(), desk.found()) == (["b"], {versions[1].id: "b"}), (order, batch)
            assert desk.withdrawn() == {versions[0].id: "a", versions[2].id: "a"}


async def test_an_image_and_its_repeat_in_one_batch_are_one_coming(desk: Desk) -> None:
    wrong, right = desk.image("a", 1), desk.image("b", 2)
    await desk.come(right)  # another partition, read first
    assert await desk.come(wrong, again(wrong), batch=2) == ["outdated", "outdated"]
    assert (await desk.owners(), desk.found(), desk.withdrawn()) == (["b"], {right.id: "b"}, {wrong.id: "a"})


async def test_a_word_aims_at_what_was_known_when_it_came_in_one_batch_or_two(lane: ImagesToFindings) -> None:
    for batch in (1, 2):
        desk = await at(lane)
        other, redriven, word = desk.image("b", 1), desk.image("a", 2), desk.word("a", 3)
        await desk.come(other)
        await desk.come(word, redriven, batch=batch)
        assert (await desk.owners(), desk.withdrawn().get(other.id)) == ([], "b"), batch


async def test_test_traffic_takes_back_nothing_real(desk: Desk) -> None:
    real, drill = desk.image("a", 1), desk.image("b", 2, processing="training")
    assert await desk.come(real, drill, desk.word("a", 3, processing="debugging")) == ["ok", "ok", "withdrawn"]
    assert (await desk.owners(), desk.found()) == (["a"], {real.id: "a"})


async def test_points_of_an_earlier_release_are_known_by_what_they_say(desk: Desk) -> None:
    wrong = desk.image("a", 1)
    await desk.come(wrong)
    async with VectorStore(desk.settings.vectors) as store:
        await store.delete_where(INSTANCES, Where(instance_uids=[desk.uid]))
    await desk.come(desk.image("b", 2))
    assert (await desk.owners(), desk.withdrawn()) == (["b"], {wrong.id: "a"})
    assert await desk.come(again(wrong)) == ["outdated"]
    assert await desk.owners() == ["b"]


async def test_of_two_workers_at_once_either_sees_the_other(lane: ImagesToFindings, tmp_path: Path) -> None:
    for _ in range(8):
        desk = await at(lane)
        wrong, right = desk.image("a", 1), desk.image("b", 2)
        await asyncio.gather(*(desk.pass_on(inputs) for inputs in (desk.inputs(wrong), desk.inputs(right))))
        assert (await desk.owners(), desk.found()) == (["b"], {right.id: "b"})
        assert desk.withdrawn() == {wrong.id: "a"}


@pytest.mark.parametrize("step", ["upsert", "delete"])
@pytest.mark.parametrize("after", [0, 1])
async def test_killed_between_two_steps_it_does_and_says_the_same_again(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, step: str, after: int
) -> None:
    wrong, right = desk.image("a", 1), desk.image("b", 2)
    await desk.come(wrong)
    inputs, done = desk.inputs(right), 0
    assert desk.lane._store is not None
    client = desk.lane._store._client
    real = getattr(client, step)

    async def some(*arguments: Any, **named: Any) -> Any:
        nonlocal done
        done += 1
        if done <= after:
            await real(*arguments, **named)
        if done >= after:
            raise Transient("killed")

    with monkeypatch.context() as patched, pytest.raises(Transient):
        patched.setattr(client, step, some)
        await desk.pass_on(inputs)
    assert await desk.owners(), "never neither"
    await desk.pass_on(inputs)
    assert (await desk.owners(), desk.found(), desk.withdrawn()) == (["b"], {right.id: "b"}, {wrong.id: "a"})
