"""Which versions of an image stand: a DICOM SOP Instance UID is one image of one patient.

A version is an event of `clinical.images`: a picture, or a word that takes pictures back. A picture withdraws what came before it
under its UID of another patient; those of one patient with other bytes (another transfer syntax, corrected attributes) stand beside
each other. A word withdraws the pictures that came before it of its own patient: a corrected copy under the same UID stands. Where
none came of that patient, those of any: the UID alone says which image, and feeds may name a patient differently. Test traffic
withdraws test traffic, and nothing that is not.

As with notes (`processors.versions`) each version counts from its first coming, so that a repeat, a redrive or a replay decides
nothing, and whichever of them is read first, all end alike. What is withdrawn stays so: its bytes again are no news.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Final

import numpy as np

from models.tasks import ModelIdentity
from processors.entities import WITHDRAWN
from processors.events import FindingsEvent, ImageEvent, ModelRef, ProcessingId, Source
from processors.findings import STAGE
from processors.identity import natural_id
from processors.vectors import Point, instant
from processors.versions import Coming

OTHER_PATIENT: Final = "the same SOP Instance UID came again under another patient"


@dataclass(frozen=True, slots=True)
class Version:
    """One version as it is remembered. `coming` is its first, `topic` with its place the record's.

    `of_any`: a word that takes back pictures of any patient. Said once, when it is first stored (`aimed`): what comes to light
    later, an earlier picture that was redriven, does not bring back what was withdrawn.
    """

    id: str  # the event's
    instance_uid: str
    study_uid: str
    patient_id: str
    encounter_id: str | None
    acquired_at: datetime
    processing: ProcessingId
    status: str
    reason: str
    topic: str
    coming: Coming
    of_any: bool = False

    @classmethod
    def of(cls, image: ImageEvent, partition: int, offset: int) -> "Version":
        """Of a record; of a redriven one partition and offset are the original's."""
        return cls(
            image.id,
            image.instance_uid,
            image.study_uid,
            image.patient_id,
            image.encounter_id,
            image.acquired_at,
            image.processing,
            image.status,
            image.reason,
            image.topic,
            Coming.of(image, partition, offset),
        )

    @classmethod
    def read(cls, payload: Mapping[str, Any]) -> "Version":
        """Of what `point` wrote, or of an image's own point (`processors.vectors.image_point`)."""
        return cls(
            payload["version"],
            payload["instance_uid"],
            payload["study_uid"],
            payload["patient_id"],
            payload["encounter_id"],
            datetime.fromisoformat(payload["time"]),
            payload.get("processing", "production"),
            payload.get("status", "final"),
            payload.get("reason", ""),
            payload["topic"],
            Coming.read(payload),
            payload.get("of_any", False),
        )

    def point(self) -> Point:
        """Return what is to be remembered: a vector that says nothing, and no picture."""
        payload = {
            "kind": "image-version",
            "version": self.id,
            "instance_uid": self.instance_uid,
            "study_uid": self.study_uid,
            "patient_id": self.patient_id,
            "encounter_id": self.encounter_id,
            "time": instant(self.acquired_at),
            "processing": self.processing,
            "status": self.status,
            "reason": self.reason,
            "of_any": self.of_any,
            "topic": self.topic,
            "received": self.coming.received,
            "partition": self.coming.partition,
            "offset": self.coming.offset,
        }
        return Point(natural_id(self.id, "version"), np.ones(1, np.float32), payload)

    @property
    def word(self) -> bool:
        """Whether it takes back, and is no picture."""
        return self.status in WITHDRAWN

    def aimed(self, known: Collection["Version"]) -> "Version":
        """Return a word that knows whose pictures it takes back, by all that came so far."""
        own = (one for one in known if self._after(one) and not one.word and one.patient_id == self.patient_id)
        return replace(self, of_any=self.word and next(own, None) is None)

    def withdraws(self, other: "Version") -> bool:
        """Tell whether this version takes the other back, which came before it."""
        same = self.patient_id == other.patient_id
        return self._after(other) and (self.of_any or same if self.word else not same)

    def _after(self, other: "Version") -> bool:
        alike = self.instance_uid == other.instance_uid and self.coming.production == other.coming.production
        return alike and self.coming > other.coming


def withdrawn_by(version: Version, known: Collection[Version]) -> Version | None:
    """Return the first of those known that took this version back; None where it stands."""
    return min((one for one in known if one.withdraws(version)), key=lambda one: one.coming, default=None)


def withdrawal(version: Version, by: Version, model: ModelIdentity) -> FindingsEvent:
    """Say that what was found in a version is withdrawn. The id derives from the version alone: it is withdrawn but once.

    `by` may be the version itself, a word that takes back: that is said of the instance under the word's own patient.
    """
    source = Source(topic=by.topic, partition=by.coming.partition, offset=by.coming.offset, event_id=by.id)
    return FindingsEvent(
        id=natural_id(version.id, STAGE, "withdrawn"),
        patient_id=version.patient_id,
        source=source,
        encounter_id=version.encounter_id,
        study_uid=version.study_uid,
        instance_uid=version.instance_uid,
        image_id=version.id,
        image_status=by.status if by.word else "entered-in-error",
        reason=by.reason if by.word else OTHER_PATIENT,
        acquired_at=version.acquired_at,
        processing=version.processing,
        findings=(),
        model=ModelRef(name=model.name, version=model.version, digest=model.digest),
    )
