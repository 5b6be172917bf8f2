"""Trying DICOM files before a modality is connected: reading, decoding and publishing as the SCP does, storing nothing."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from datetime import datetime
from io import BytesIO
from time import perf_counter
from typing import Any, Final

from pydicom import dcmread

from connectors.checking import (
    UNJUDGED,
    Finding,
    ModelOf,
    Nowhere,
    Row,
    Unstored,
    held_apart,
    identifier_advice,
    looks_like_code,
    made,
    of_events,
    of_picture,
    of_pictures,
)
from connectors.dicom.acknowledgement import OUT_OF_RESOURCES, SUCCESS
from connectors.dicom.mapping import Context, Outcome, handle, is_directory, text
from connectors.dicom.publishing import Publishing
from connectors.dicom.settings import DicomPeer, DicomSettings
from connectors.dicom.transport import TRANSFER_SYNTAXES
from connectors.identity import Identities
from processors.entities import WITHDRAWN
from processors.events import Event, ImageEvent

_LOOKED_AT: Final = ("PatientID", "IssuerOfPatientID", "TimezoneOffsetFromUTC", "StudyDate", "BurnedInAnnotation")


class DicomChecker:
    """Tries objects as if one peer sent them, in the order of the files."""

    def __init__(
        self,
        settings: DicomSettings,
        peer: DicomPeer,
        *,
        identities: Identities,
        listed: tuple[str, ...] = (),
        now: Callable[[], datetime],
        largest_record: int,
        largest_object: int,
        model_of: ModelOf,
        every_frame: bool = False,
    ) -> None:
        """`listed`: the site's authorities; `largest_record`, `largest_object`: bytes that a topic and the object store take.

        `model_of`: the image model that is asked about a patient's pictures. `every_frame`: decode all frames for the row's
        figures, to compare with a reference; a server decodes one.
        """
        self._settings = settings
        self._peer = peer
        self._identities = identities
        self._listed = listed
        self._now = now
        self._model_of = model_of
        self._every_frame = every_frame
        self._records = Nowhere(largest_record)
        self._store = Unstored(largest_object)
        self._publishing = Publishing(self._records, self._store, seconds=settings.confirm_timeout)
        self._seen: dict[str, tuple[str, str]] = {}  # by instance UID: digest, patient

    async def check(self, name: str, content: bytes) -> AsyncIterator[Row]:
        """Try a file: one object."""
        began = perf_counter()
        if len(content) > self._settings.largest_object:
            reason = "longer than the limit of an object: the association is aborted"
            yield Row(name, 0, "refused", _hex(OUT_OF_RESOURCES), reason, refused=True, details=self.nothing)
            return
        at = self._now()
        context = Context(self._settings, self._identities, self._peer, at)
        outcome = await asyncio.to_thread(handle, content, context, every_frame=self._every_frame)
        if is_directory(content):
            outcome = Outcome("ignored", SUCCESS, "a DICOMDIR lists files and is none", subject=outcome.subject)
        status = await self._publishing.answer(outcome)
        events = await self._events(outcome) if status == SUCCESS else ()
        seconds = perf_counter() - began
        offered = not outcome.subject.transfer_syntax or outcome.subject.transfer_syntax in TRANSFER_SYNTAXES
        verdict, reason = outcome.verdict, outcome.reason
        if status != outcome.status:
            verdict, reason = "refused", "no store or broker takes it (too large)"
        findings = tuple(self._findings(content, outcome, events, at)) if verdict != "refused" else ()
        if not offered:
            what = "a transfer syntax that is not negotiated over C-STORE; STOW-RS and the importer take the object"
            findings += (Finding("negotiation", what, "have the sender convert, or send it by STOW-RS"),)
            reason = "; ".join(filter(None, (reason, "its transfer syntax is not negotiated over C-STORE")))
        refused = status != SUCCESS or verdict == "refused" or not offered
        said = (of_picture(one, self._model_of) for one in (events if verdict != "refused" else ()))
        judged = next((one for one in said if one["judged"] is not None), UNJUDGED)
        details = {**_details(outcome), **judged}
        yield Row(name, 0, verdict, _hex(status), reason, refused, made(events), seconds, findings, details)

    @property
    def nothing(self) -> Mapping[str, Any]:
        """The details of a row whose file could not be tried."""
        return _details(Outcome("refused", 0))

    async def _events(self, outcome: Outcome) -> tuple[Event, ...]:
        if outcome.verdict == "refused":
            return ()
        return outcome.events([await self._store.put(one.data, one.media_type, one.suffix) for one in outcome.objects])

    # ---------------------------------------------------------------------------------------------------------------- advice

    def _findings(self, content: bytes, outcome: Outcome, events: tuple[Event, ...], at: datetime) -> Iterator[Finding]:
        subject = outcome.subject
        before, patient = self._seen.get(subject.instance_uid, ("", ""))
        person = next((one.patient_id for one in events if isinstance(one, ImageEvent)), patient)
        self._seen[subject.instance_uid] = subject.digest, person
        if before == subject.digest:
            yield Finding("repeat", "an object that came before: the same ids, not processed twice")
        elif before and patient and person != patient:
            yield Finding(
                "repeat", "an instance UID of before under another patient: what was found in the earlier is withdrawn"
            )
        elif before:
            yield Finding("repeat", "an instance UID with other content than before: both are kept")
        if rejected := [one.instance_uid for one in events if isinstance(one, ImageEvent) and one.status in WITHDRAWN]:
            met = sum(uid in self._seen for uid in rejected)
            yield Finding("rejection", f"takes back {len(rejected)} images, {met} of them among those before")
        if not events:
            return
        yield from of_events(events, at, {}, "", "connectors.dicom.zone")
        yield from of_pictures(events, self._model_of)
        head = _head(content)
        zone = head.get("TimezoneOffsetFromUTC") or self._peer.zone
        if head.get("StudyDate") and not zone:
            what = f"times without an offset, read in {self._settings.zone}"
            line = '# zone = "Continent/City"' if self._settings.zone == "UTC" else ""
            yield Finding(
                "time", what, "right only where the modality keeps that zone", "connectors.dicom" if line else "", line
            )
        if held_apart(events):
            yield identifier_advice([head.get("IssuerOfPatientID", "")], self._listed, "(0010,0020) must carry one")
        elif head.get("PatientID") and not (head.get("IssuerOfPatientID") or self._peer.authority or self._settings.authority):
            line = 'authority = "NAME-OF-THE-HOSPITAL"'
            mend = "HL7 and FHIR name one: without the same name here an image belongs to another patient of that number"
            yield Finding("identifier", "Patient IDs without an issuer", mend, "connectors.dicom", line)
        if head.get("BurnedInAnnotation", "").upper() == "YES" and outcome.verdict == "accepted":
            yield Finding("value", "text is burned into the pixels and is not removed", "see connectors.dicom.burned_in")


def _head(content: bytes) -> dict[str, str]:
    """Return the attributes that advice looks at; none where they cannot be read."""
    try:
        dataset = dcmread(BytesIO(content), stop_before_pixels=True, force=True)
        return {keyword: text(dataset, keyword) for keyword in _LOOKED_AT}
    except Exception:  # advice only: whether the object can be used is decided elsewhere
        return {}


def _hex(status: int) -> str:
    return f"{status:04X}"


def _details(outcome: Outcome) -> dict[str, Any]:
    subject, stored = outcome.subject, outcome.stored
    details: dict[str, Any] = {
        "sop_class": subject.sop_class if looks_like_code(subject.sop_class) else "",
        "transfer_syntax": subject.transfer_syntax if looks_like_code(subject.transfer_syntax) else "",
    }
    figures = (list(stored.shape), stored.dtype, stored.minimum, stored.maximum) if stored else (None,) * 4
    return {**UNJUDGED} | details | dict(zip(("shape", "dtype", "min", "max"), figures, strict=True))
