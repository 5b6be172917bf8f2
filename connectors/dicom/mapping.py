"""From the bytes of one DICOM object to what Vigil does with it: a pure function, used by the server and by `vigil check-feed`.

An object's identity is its SOP Instance UID *and* the hash of its data set (without the file's preamble and meta header, which
every hop writes anew): the same object sent again gives the same event id, the same UID with other content gives another.
"""

import logging
import re
import warnings
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from io import BytesIO
from typing import Any, Final, Literal
from zoneinfo import ZoneInfo

from pydantic import ValidationError
from pydicom import config as pydicom_config
from pydicom import dcmread
from pydicom.dataset import Dataset, FileDataset
from pydicom.errors import InvalidDicomError
from pydicom.filereader import _read_file_meta_info, read_preamble
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    KeyObjectSelectionDocumentStorage,
)

from connectors.contexts import Contexts, holder, surviving
from connectors.deadletters import dead_letter
from connectors.dicom import pixels
from connectors.dicom.acknowledgement import (
    CANNOT_UNDERSTAND,
    INVALID_INSTANCE,
    MISMATCH,
    MISSING_ATTRIBUTE,
    NOT_SUPPORTED,
    SUCCESS,
    TOO_DEEP,
    Verdict,
)
from connectors.dicom.settings import DicomPeer, DicomSettings
from connectors.identity import Identities
from connectors.publisher import NewObject
from models.errors import Poison
from processors.events import Event, Identifier, ImageEvent, ObjectReference, Origin, excess
from processors.identity import content_hash, natural_id

# pydicom warns and logs about every odd value, and quotes it: that may be patient text. What matters is in `Outcome.reason`.
pydicom_config.settings.reading_validation_mode = pydicom_config.IGNORE
logging.getLogger("pydicom").setLevel(logging.CRITICAL)
warnings.filterwarnings("ignore", module=r"pydicom\.")

DICOM_MEDIA_TYPE = "application/dicom"  # RFC 3240
PNG_MEDIA_TYPE = "image/png"
# Storage classes that may carry pixel data and are no pictures to look at (PS3.4 Table B.5-1)
NO_PICTURES = frozenset(
    {
        "SegmentationStorage", "LabelMapSegmentationStorage", "RTDoseStorage", "ParametricMapStorage", "RawDataStorage",
        "RealWorldValueMappingStorage", "SurfaceSegmentationStorage",
        "HeightMapSegmentationStorage", "MediaStorageDirectoryStorage",
    }
)  # fmt: skip
# What rejects images in IHE RAD Imaging Object Change Management: the title of a Key Object Selection document (PS3.16 CID 7010),
# in the scheme DCM. By the last one the images were right and are no longer kept.
REJECTIONS: Final[Mapping[str, tuple[Literal["entered-in-error", "cancelled"], str]]] = {
    "113001": ("entered-in-error", "Rejected for Quality Reasons"),
    "113037": ("entered-in-error", "Rejected for Patient Safety Reasons"),
    "113038": ("entered-in-error", "Incorrect Modality Worklist Entry"),
    "113039": ("cancelled", "Data Retention Policy Expired"),
}
_MOST_REJECTED: Final = 20_000  # images of one note: a study of dynamic CT has some thousand
# PS3.5 9.1 allows digits and dots only; anonymisers write hashes, and the UID serves as a name only: length and harmlessness count
_DIRECTORY: Final = "1.2.840.10008.1.3.10"  # Media Storage Directory Storage
_STANDARD = (
    "1.2.840.10008."  # the root of the standard's own UIDs: an SOP class under it is no patient's name in the wrong place
)
_UID = re.compile(r"[0-9A-Za-z._-]{1,64}\Z")
_TIME = re.compile(r"(\d{2}):?(\d{2})?:?(\d{2})?(?:\.(\d{1,6}))?\s*\Z")  # PS3.5 TM, and the old form with colons
_DATE = re.compile(r"(\d{4})[.-]?(\d{2})[.-]?(\d{2})\Z")  # PS3.5 DA, and the old form with dots
_DATETIME = re.compile(r"(\d{8})(\d{2,6}(?:\.\d{1,6})?)?([+-]\d{4})?\s*\Z")  # PS3.5 DT from the day on
# where an image's time stands, best first: date, time
_TIMES = (
    ("AcquisitionDate", "AcquisitionTime"),
    ("ContentDate", "ContentTime"),
    ("SeriesDate", "SeriesTime"),
    ("StudyDate", "StudyTime"),
)
# where what an event bounds stands in the object
_ATTRIBUTES: Final = {
    "value": "(0010,0020) Patient ID",
    "authority": "(0010,0021) Issuer of Patient ID",
    "study_uid": "(0020,000D) Study Instance UID",
    "series_uid": "(0020,000E) Series Instance UID",
    "modality": "(0008,0060) Modality",
    "body_part": "(0018,0015) Body Part Examined",
    "view": "(0018,5101) View Position",
    "message_type": "(0008,0016) SOP Class UID",
}
_LONGEST_DESCRIPTION: Final = 256  # characters; the standard allows 64 (LO)
_SEVERAL: Final = "a (0010,0020) Patient ID that several records list beside their own: held apart, not guessed"
_NOBODY: Final = "no (0010,0020) Patient ID of a known authority: held apart, not guessed"
_UNSTORED: Final = ObjectReference(uri="", sha256="0" * 64, media_type=PNG_MEDIA_TYPE, bytes=0)


@dataclass(frozen=True, slots=True)
class Subject:
    """What an object says it is; empty where it could not be read."""

    instance_uid: str = ""
    sop_class: str = ""
    transfer_syntax: str = ""
    digest: str = ""  # SHA-256 of the data set, hex


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one object. `events(references)` gives its events once the store has answered, one reference per object."""

    verdict: Verdict
    status: int
    reason: str = ""
    objects: tuple[NewObject, ...] = ()
    events: Callable[[Sequence[ObjectReference]], tuple[Event, ...]] = lambda references: ()
    subject: Subject = Subject()
    stored: pixels.Stored | None = None


@dataclass(frozen=True, slots=True)
class Command:
    """What the C-STORE command says of the object; absent for files."""

    sop_class: str
    instance_uid: str


@dataclass(frozen=True, slots=True)
class Context:
    """What `handle` must not reach for: settings, the site's identities, who sent it, when."""

    settings: DicomSettings
    identities: Identities
    peer: DicomPeer
    received_at: datetime
    study: str = ""  # the only study that is taken (STOW-RS to a study)
    contexts: Contexts | None = None  # who was merged into whom, and whose numbers are whose


def is_directory(data: bytes) -> bool:
    """Tell whether a file is a DICOMDIR, which lists files and is none. Its class stands in the file meta information alone."""
    try:
        found = dcmread(BytesIO(data), specific_tags=["SOPClassUID"], stop_before_pixels=True)
    except Exception:  # what cannot be read is no directory; its outcome stands
        return False
    return text(found.file_meta, "MediaStorageSOPClassUID") == _DIRECTORY


def named(beginning: bytes) -> Subject:
    """Say which object begins so, by its file meta information alone; an empty `Subject` where that says nothing."""
    stream = BytesIO(beginning)
    try:
        read_preamble(stream, force=False)
        meta = _read_file_meta_info(stream)
    except Exception:  # cut off, or none
        return Subject()
    uids = (text(meta, "MediaStorageSOPInstanceUID"), text(meta, "MediaStorageSOPClassUID"))
    return Subject(*uids) if all(map(_UID.match, uids)) else Subject()


def handle(data: bytes, context: Context, *, command: Command | None = None, every_frame: bool = False) -> Outcome:
    """Decide what happens with one object in the DICOM file format (PS3.10), without touching store, broker or clock.

    `every_frame` decodes all frames for `stored` (to compare with a reference); live, only the frame that is kept is decoded.
    Never raises for a bad object; memory errors and the like pass through.
    """
    try:
        dataset, digest = _read(data, inflated_limit=4 * context.settings.largest_object)
    except (RecursionError, _Bomb):
        return Outcome("refused", TOO_DEEP, "data set is nested or inflates beyond the limits")
    except MemoryError:
        raise
    except Exception as error:
        return Outcome("refused", CANNOT_UNDERSTAND, f"data set cannot be parsed ({type(error).__name__})")
    subject = Subject(
        instance_uid=text(dataset, "SOPInstanceUID"),
        sop_class=text(dataset, "SOPClassUID"),
        transfer_syntax=text(dataset.file_meta, "TransferSyntaxUID"),
        digest=digest,
    )
    described = _described(dataset) if every_frame else None
    if refusal := _refusal(subject, command):
        return Outcome("refused", *refusal, subject=subject, stored=described)
    if context.study and text(dataset, "StudyInstanceUID") != context.study:
        return Outcome("refused", MISMATCH, "(0020,000D) Study Instance UID is not the one in the URL", subject=subject)
    if title := _rejection(dataset, subject.sop_class):
        return _rejected(data, dataset, context, subject, title)
    if reason := _no_picture(dataset, subject.sop_class):
        if context.settings.unmapped == "refuse":
            return Outcome("refused", NOT_SUPPORTED, reason, subject=subject, stored=described)
        return Outcome("ignored", SUCCESS, reason, objects=(_raw(data),), subject=subject, stored=described)
    return _image(data, dataset, context, subject, described)


def _rejection(dataset: Dataset, sop_class: str) -> str:
    """Return the code by which a Key Object Selection document rejects images; empty where the object is none that does."""
    if sop_class != KeyObjectSelectionDocumentStorage:
        return ""
    titles = _sequence(dataset, "ConceptNameCodeSequence")
    codes = (text(one, "CodeValue") for one in titles if text(one, "CodingSchemeDesignator").upper() == "DCM")
    return next((code for code in codes if code in REJECTIONS), "")


def _rejected(data: bytes, dataset: Dataset, context: Context, subject: Subject, title: str) -> Outcome:
    """Take back every image that a rejection note lists; one that cannot be carried out whole is a dead letter."""
    person = ""
    try:
        person = _patient(dataset, context)
        if not person:
            raise Poison(_NOBODY, stage="identify")
        events = _words(dataset, context, subject, person, title)
    except (Poison, ValidationError) as found:
        return _held(data, found, person, context, subject)
    return Outcome("accepted", SUCCESS, events=lambda references: events, subject=subject)


def _words(dataset: Dataset, context: Context, subject: Subject, person: str, title: str) -> tuple[ImageEvent, ...]:
    """Return a word for each image in (0040,A375), the evidence, which lists all that a note names (PS3.3 C.17.6.2)."""
    status, reason = REJECTIONS[title]
    listed: dict[str, tuple[str, str]] = {}
    for study in _sequence(dataset, "CurrentRequestedProcedureEvidenceSequence"):
        for series in _sequence(study, "ReferencedSeriesSequence"):
            place = text(study, "StudyInstanceUID"), text(series, "SeriesInstanceUID")
            listed |= {text(one, "ReferencedSOPInstanceUID"): place for one in _sequence(series, "ReferencedSOPSequence")}
    if not listed or not all(map(_UID.match, listed)):
        raise Poison("a rejection note whose (0040,A375) names no image, or one by no UID", stage="identify")
    if len(listed) > _MOST_REJECTED:
        raise Poison(f"a rejection note of more than {_MOST_REJECTED} images", stage="identify")
    said = acquired_at(dataset, context)
    return tuple(
        ImageEvent(
            id=natural_id("dicom", subject.instance_uid, subject.digest, ImageEvent.type, uid),
            patient_id=person,
            encounter_id=_encounter(dataset, context),
            study_uid=study_uid,
            series_uid=series_uid,
            instance_uid=uid,
            status=status,
            reason=f"DICOM {title} {reason}",
            modality="",
            acquired_at=said,
            received_at=context.received_at,
            processing=context.peer.processing,
            origin=_origin(context, subject),
        )
        for uid, (study_uid, series_uid) in listed.items()
    )


def _image(data: bytes, dataset: Dataset, context: Context, subject: Subject, described: pixels.Stored | None) -> Outcome:
    """Decode and describe a picture; what is wrong with it makes a dead letter, since it is stored whatever it is."""
    settings, person = context.settings, ""
    try:
        person = _patient(dataset, context)
        if settings.burned_in == "dead-letter" and text(dataset, "BurnedInAnnotation").upper() == "YES":
            raise Poison("(0028,0301) says that text is burned into the pixels", stage="identify")
        if not pixels.has_pixels(dataset):
            raise Poison("an image object without pixel data", stage="decode")
        pixels.check_size(dataset, settings.largest_frame)
        frame = pixels.frame_number(dataset, settings.frame)
        one, array = pixels.stored(dataset, frame)
        png = pixels.to_png(pixels.render(dataset, array, frame))
        if not person:
            raise Poison(_NOBODY, stage="identify")
        event = _event(dataset, context, subject, person, array.shape)
    except (Poison, ValidationError) as found:
        return _held(data, found, person, context, subject, described)
    return Outcome(
        "accepted",
        SUCCESS,
        objects=(NewObject(png, PNG_MEDIA_TYPE, ".png"),),
        events=lambda references: (event.model_copy(update={"pixels": references[0]}),),
        subject=subject,
        stored=described or one,
    )


def _event(dataset: Dataset, context: Context, subject: Subject, person: str, shape: tuple[int, ...]) -> ImageEvent:
    """Return the event but for the reference to its pixels, so that what fits in none is known before anything is stored."""
    rows, columns = shape[:2]
    return ImageEvent(
        id=natural_id("dicom", subject.instance_uid, subject.digest, ImageEvent.type),
        patient_id=person,
        encounter_id=_encounter(dataset, context),
        study_uid=text(dataset, "StudyInstanceUID"),
        series_uid=text(dataset, "SeriesInstanceUID"),
        instance_uid=subject.instance_uid,
        modality=text(dataset, "Modality") or "OT",
        body_part=text(dataset, "BodyPartExamined") or _meaning(dataset, "AnatomicRegionSequence"),
        view=text(dataset, "ViewPosition") or _meaning(dataset, "ViewCodeSequence"),
        described=_described_as(dataset),
        rows=rows,
        columns=columns,
        pixels=_UNSTORED,
        acquired_at=acquired_at(dataset, context),
        received_at=context.received_at,
        processing=context.peer.processing,
        origin=_origin(context, subject),
    )


def _meaning(dataset: Dataset, keyword: str) -> str:
    """Return the meaning of the first code of a sequence, else its value; empty where there is none."""
    code = next(iter(_sequence(dataset, keyword)), Dataset())
    return text(code, "CodeMeaning") or text(code, "CodeValue")


def _described_as(dataset: Dataset) -> tuple[str, ...]:
    """Return what says in words what was taken, nearest to the image first; one without room in an event is left out."""
    found = (text(dataset, keyword) for keyword in ("SeriesDescription", "ProtocolName", "StudyDescription"))
    return tuple(said for said in found if 0 < len(said) <= _LONGEST_DESCRIPTION)


def _origin(context: Context, subject: Subject) -> Origin:
    return Origin(
        protocol="dicom",
        peer=context.peer.name or context.peer.ae_title,
        message_id=subject.instance_uid,
        message_type=subject.sop_class,
        digest=subject.digest,
    )


def _held(
    data: bytes,
    found: Poison | ValidationError,
    person: str,
    context: Context,
    subject: Subject,
    described: pixels.Stored | None = None,
) -> Outcome:
    """Keep an object whole that cannot be used, and say why in a dead letter."""
    error = found if isinstance(found, Poison) else _unfit(found)
    make = _dead_letter(error.stage, str(error), person, context, subject)
    return Outcome("dead-letter", SUCCESS, str(error), (_raw(data),), make, subject=subject, stored=described)


def _unfit(error: ValidationError) -> Poison:
    """Say which attribute no event has room for, without its value: the object is kept whole, nothing is cut."""
    if found := excess(error):
        place = _ATTRIBUTES.get(found.field.rpartition(".")[2], found.field)
        return Poison(f"{place} is longer than the {found.most} {found.things} that are taken", stage="identify")
    fields = sorted({".".join(map(str, one["loc"])) for one in error.errors(include_input=False)})
    return Poison(f"the object makes no valid image event ({', '.join(fields)})", stage="identify")


def _dead_letter(
    stage: str, message: str, person: str, context: Context, subject: Subject
) -> Callable[[Sequence[ObjectReference]], tuple[Event, ...]]:
    def make(references: Sequence[ObjectReference]) -> tuple[Event, ...]:
        return (
            dead_letter(
                references[0],
                connector="dicom",
                stage=stage,
                message=message,
                failed_at=context.received_at,
                key=person or None,
                identity=(subject.instance_uid, subject.digest),
                peer=context.peer.name or context.peer.ae_title,
                message_type=subject.sop_class if subject.sop_class.startswith(_STANDARD) else "",
            ),
        )

    return make


def acquired_at(dataset: Dataset, context: Context) -> datetime:
    """Return when the image was taken, UTC: acquisition, else content, series, study time; else when it was received.

    The zone is the object's (0008,0201), else the peer's, else the connector's setting.
    """
    zone = _zone(dataset, context)
    if match := _DATETIME.match(text(dataset, "AcquisitionDateTime")):
        day, clock, offset = match.groups()
        if when := _moment(day, clock or "00", _offset(offset or "") or zone):
            return when
    for date_keyword, time_keyword in _TIMES:
        if when := _moment(text(dataset, date_keyword), text(dataset, time_keyword) or "00", zone):
            return when
    return context.received_at


def _moment(day: str, clock: str, zone: tzinfo) -> datetime | None:
    date, time = _DATE.match(day), _TIME.match(clock)
    if date is None or time is None:
        return None
    year, month, dom = (int(part) for part in date.groups())
    hour, minute, second, fraction = time.groups()
    try:
        local = datetime(
            year,
            month,
            dom,
            int(hour),
            int(minute or 0),
            min(int(second or 0), 59),  # a leap second is allowed on the wire and not in Python
            int((fraction or "0").ljust(6, "0")),
            tzinfo=zone,
        )
        return local.astimezone(UTC)
    except (ValueError, OverflowError):
        return None


def _zone(dataset: Dataset, context: Context) -> tzinfo:
    if zone := _offset(text(dataset, "TimezoneOffsetFromUTC")):
        return zone
    return ZoneInfo(context.peer.zone or context.settings.zone)


def _offset(value: str) -> tzinfo | None:
    match = re.match(r"([+-])(\d{2})(\d{2})\Z", value.strip())
    if match is None:
        return None
    minutes = int(match[2]) * 60 + int(match[3])
    return timezone(timedelta(minutes=-minutes if match[1] == "-" else minutes)) if minutes < 24 * 60 else None


def _patient(dataset: Dataset, context: Context) -> str:
    """Return Vigil's patient id, after a merge the surviving one; empty where the object names nobody that the site vouches for.

    A number that a record lists beside its own is that record's (`contexts.holder`). Raises `Poison` for one that several list.

    Candidates: (0010,0020) Patient ID, then (0010,1002) Other Patient IDs. Authority: (0010,0021) issuer, else the universal id of
    its qualifiers (0010,0024), else the peer's or the connector's setting.
    """
    default = context.peer.authority or context.settings.authority
    found = []
    for item in (dataset, *_sequence(dataset, "OtherPatientIDsSequence")):
        if value := text(item, "PatientID"):
            names = [text(item, "IssuerOfPatientID")]
            names += [text(part, "UniversalEntityID") for part in _sequence(item, "IssuerOfPatientIDQualifiersSequence")]
            if item is dataset or any(names):
                found.append(Identifier(authority=context.identities.authority(*names, default), value=value))
    chosen = context.identities.choose(found)
    if chosen is None:
        return ""
    person = context.identities.patient(chosen)
    if context.contexts is None:
        return person
    record = holder(context.contexts, person, chosen, found)
    if record is None:
        raise Poison(_SEVERAL, stage="identify")
    return surviving(context.contexts, record)


def _encounter(dataset: Dataset, context: Context) -> str | None:
    """Return the pseudonym of (0038,0010) Admission ID; its issuer, else the same default as for patients."""
    number = text(dataset, "AdmissionID")
    if not number:
        return None
    names = [text(part, "UniversalEntityID") for part in _sequence(dataset, "IssuerOfAdmissionIDSequence")]
    return context.identities.encounter(
        context.identities.authority(*names, context.peer.authority or context.settings.authority), number
    )


def text(dataset: Dataset, keyword: str) -> str:
    """Return an attribute as stripped text, the first of several values, empty where it is absent or unreadable."""
    try:
        value: Any = dataset.get(keyword)
        if isinstance(value, (list, tuple)) or type(value).__name__ == "MultiValue":
            value = value[0] if len(value) else ""
        return "" if value is None else str(value).replace("\x00", "").strip()
    except Exception:  # reading converts lazily, and a broken value (a sequence, where none belongs) may raise anything
        return ""


def _sequence(dataset: Dataset, keyword: str) -> Sequence[Dataset]:
    try:
        return list(dataset.get(keyword) or ())
    except Exception:
        return ()


def _refusal(subject: Subject, command: Command | None) -> tuple[int, str] | None:
    if not subject.sop_class:
        return MISSING_ATTRIBUTE, "(0008,0016) SOP Class UID is missing"
    if not subject.instance_uid:
        return MISSING_ATTRIBUTE, "(0008,0018) SOP Instance UID is missing"
    if not _UID.match(subject.instance_uid):
        return INVALID_INSTANCE, "(0008,0018) SOP Instance UID is malformed"
    if command is not None and command.sop_class != subject.sop_class:
        return MISMATCH, "(0008,0016) SOP Class UID differs from the command's"
    if command is not None and command.instance_uid != subject.instance_uid:
        return INVALID_INSTANCE, "(0008,0018) SOP Instance UID differs from the command's"
    return None


def _no_picture(dataset: Dataset, sop_class: str) -> str:
    """Say why an object is no picture, or return an empty string. An image class without pixels is broken, not ignored."""
    uid = UID(sop_class)
    if uid.keyword in NO_PICTURES:
        return f"{uid.name} is no picture"
    if not pixels.has_pixels(dataset) and "Image" not in uid.keyword:
        return f"{uid.name if uid.keyword else 'an unknown SOP class'} holds no pixels"
    return ""


def _described(dataset: Dataset) -> pixels.Stored | None:
    """Decode every frame, to compare with a reference; None where that is not possible."""
    try:
        return pixels.stored(dataset)[0] if pixels.has_pixels(dataset) else None
    except Poison:
        return None


def _raw(data: bytes) -> NewObject:
    return NewObject(data, DICOM_MEDIA_TYPE, ".dcm")


class _Bomb(Exception):
    """A deflated data set that grows beyond the limit."""


def _read(data: bytes, *, inflated_limit: int) -> tuple[FileDataset, str]:
    """Parse, and hash the data set's bytes. Files without preamble or meta header are read as their bytes suggest."""
    try:
        start, syntax = _dataset_start(data)
    except (InvalidDicomError, EOFError):
        start, syntax = 0, ""
    if syntax == DeflatedExplicitVRLittleEndian:
        _check_inflated(data[start:], inflated_limit)
    try:
        dataset = dcmread(BytesIO(data))
    except InvalidDicomError:
        dataset = dcmread(BytesIO(data), force=True)
    if "TransferSyntaxUID" not in dataset.file_meta:
        dataset.file_meta.TransferSyntaxUID = _guessed_syntax(dataset)
    return dataset, content_hash(data[start:])


def _dataset_start(data: bytes) -> tuple[int, str]:
    """Return where the data set begins after preamble and meta header, and its transfer syntax. Raises `InvalidDicomError`.

    pydicom's own readers go on into the data set, and inflate it whole, before one can look at the syntax; hence the private call.
    """
    stream = BytesIO(data)
    read_preamble(stream, force=False)
    meta = _read_file_meta_info(stream)
    return stream.tell(), str(meta.get("TransferSyntaxUID") or "")


def _check_inflated(deflated: bytes, limit: int) -> None:
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    size, chunk = 0, deflated
    while chunk and not inflater.eof:
        size += len(inflater.decompress(chunk, 1 << 20))
        chunk = inflater.unconsumed_tail
        if size > limit:
            raise _Bomb


def _guessed_syntax(dataset: FileDataset) -> UID:
    """Name the syntax that the bytes were read with, where the file does not."""
    implicit, little = dataset.original_encoding
    if implicit:
        return ImplicitVRLittleEndian
    return ExplicitVRBigEndian if little is False else ExplicitVRLittleEndian
