"""Labels for retraining, from the topics: what people said of findings, the images that it was said of, and what was passed over.

A label is a `FeedbackEvent` of the kind finding-corrected (its `label`) or finding-confirmed (its `label`, else the highest of the
findings that it confirms). Its `target_id` names an event on clinical.findings, that event's `source` the image on
clinical.images, whose pixels lie in the object store. The newest answer to a finding stands.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Collection
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from connectors.objects.store import ObjectStore
from models.errors import Poison
from processors.entities import WITHDRAWN
from processors.events import Event, FeedbackEvent, FindingsEvent, ImageEvent
from processors.findings import pixels
from streams.reader import Reader
from streams.settings import Settings
from streams.wire import decode

E = TypeVar("E", bound=Event)
_KINDS = ("finding-confirmed", "finding-corrected")


@dataclass(frozen=True, slots=True, eq=False)
class LabelledFinding:
    """One image and what a person called it. `image` is decoded, 8 bits."""

    feedback_id: str
    patient_id: str
    label: str
    image: NDArray[np.uint8]


@dataclass(slots=True)
class Labels:
    """What was found, and counts of what was passed over by the reason."""

    found: list[LabelledFinding] = field(default_factory=list)
    passed_over: Counter[str] = field(default_factory=Counter)


async def labelled_images(settings: Settings, known: Collection[str]) -> Labels:
    """Collect the labelled images; `known` are the labels that the model has.

    Raises `Transient` where the broker or the object store does not answer, `Permanent` where a topic is not there.
    """
    labels = Labels()
    async with Reader(settings.kafka) as reader:
        said = await _newest(reader, settings, labels)
        findings: dict[str, FindingsEvent] = {}
        withdrawn: set[str] = set()
        async for one in _events(reader, settings, FindingsEvent, labels):
            if one.image_status in WITHDRAWN:
                withdrawn.add(one.image_id)
            elif one.id in said:
                findings[one.id] = one
        wanted = {one.source.event_id for one in findings.values()}
        images = {one.id: one async for one in _events(reader, settings, ImageEvent, labels) if one.id in wanted}
    store = ObjectStore(settings.objects)
    for target, feedback in sorted(said.items()):
        finding = findings.get(target)
        image = images.get(finding.source.event_id) if finding else None
        if finding is None or image is None or image.pixels is None:
            labels.passed_over["its finding or image is no longer on the topics"] += 1
        elif image.id in withdrawn:
            labels.passed_over["its image was taken back"] += 1
        elif not finding.patient_id == image.patient_id == feedback.patient_id:
            labels.passed_over["it names another patient than its finding"] += 1
        elif image.processing != "production":
            labels.passed_over["it is of test traffic"] += 1
        elif (label := _label(feedback, finding)) not in known:
            labels.passed_over["the model has no such label"] += 1
        else:
            try:
                decoded = await asyncio.to_thread(pixels, await store.get(image.pixels))
            except Poison:
                labels.passed_over["its pixels are gone or cannot be decoded"] += 1
                continue
            labels.found.append(LabelledFinding(feedback.id, feedback.patient_id, label, decoded))
    return labels


async def _newest(reader: Reader, settings: Settings, labels: Labels) -> dict[str, FeedbackEvent]:
    said: dict[str, FeedbackEvent] = {}
    async for event in _events(reader, settings, FeedbackEvent, labels):
        if event.kind not in _KINDS:
            labels.passed_over["it answers an alert and labels nothing"] += 1
            continue
        before = said.get(event.target_id)
        if before is None or (event.given_at, event.id) >= (before.given_at, before.id):
            said[event.target_id] = event
        if before is not None and before.id != event.id:
            labels.passed_over["a newer answer to the same finding stands"] += 1
    return said


def _label(feedback: FeedbackEvent, finding: FindingsEvent) -> str:
    if feedback.label or feedback.kind == "finding-corrected" or not finding.findings:
        return feedback.label.strip().lower()
    return finding.findings[0].label  # highest first


async def _events(reader: Reader, settings: Settings, kind: type[E], labels: Labels) -> AsyncIterator[E]:
    async for record in reader.whole(settings.kafka.topic_prefix + kind.topic):
        try:
            event = decode(kind, record)
        except Poison:
            labels.passed_over[f"a record of {kind.topic} cannot be read"] += 1
            continue
        yield event
