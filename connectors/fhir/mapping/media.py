"""Media to images: a picture that came inside the resource, with its own metadata (EXIF, comments) left behind.

The picture is decoded and encoded anew as PNG, as a DICOM object's frame is, so that only pixels reach the object store. Names and
numbers burned into the pixels stay there: nothing here can see them.

| Media | becomes |
|---|---|
| `content` a PNG, JPEG, TIFF, WebP, BMP or GIF (first frame) | an image event, pixels in the object store |
| `content` DICOM | a dead letter: such objects come by C-STORE or STOW-RS, where their own patient is read |
| `type` video, audio; not done or not ready | not used |
| `status` entered-in-error | a word (`processors.instances`) takes back what its id is remembered to have shown, else its own |
| an update, of another subject than before | the picture; what its id showed of the other is taken back, also without this one |
| an update that is older than what stands, by `meta.lastUpdated` | not used |

A picture is known by a DICOM UID among its identifiers, else by the resource's id on its server. An id on a create is no promise
(R4 http.html#create), some send one for all: it names the picture together with its patient. So what takes back works after a
restart too, but for a create that an update with another subject follows, and a retraction that does not say of whom.
"""

import warnings
from collections.abc import Iterable
from hashlib import sha256
from io import BytesIO
from typing import Final, Literal
from uuid import NAMESPACE_URL, uuid5

from PIL import Image, ImageOps, UnidentifiedImageError

from connectors.contexts import in_future, surviving
from connectors.fhir.mapping.attachments import content
from connectors.fhir.mapping.reading import Reading, Shown, Subject, codings, objects, text
from connectors.publisher import NewObject
from processors.events import ImageEvent, ObjectReference
from processors.identity import natural_id

PNG: Final = "image/png"
_FORMATS: Final = ("PNG", "JPEG", "TIFF", "WEBP", "BMP", "GIF")
_DICOM: Final = "application/dicom"
_DICOM_UID: Final = "urn:dicom:uid"  # FHIR R4 Identifier.system of a DICOM UID; the value is `urn:oid:...`
_DCM: Final = "HTTP://DICOM.NEMA.ORG/RESOURCES/ONTOLOGY/DCM"  # as `codings` writes systems
_ERROR: Final[Literal["entered-in-error"]] = "entered-in-error"
_NOT_READY: Final = frozenset({"preparation", "in-progress", "not-done", "on-hold", "stopped"})  # FHIR R4 event-status


def map_media(reading: Reading, learnt: dict[str, Shown]) -> None:
    """Map a Media: its picture becomes an image event. `learnt`: what this request's Media show, by `remembered_by`."""
    resource, name, updated = reading.resource, reading.remembered_by, reading.last_updated
    if updated and in_future(updated, reading.sender.received_at):
        updated = None  # a wrong clock, which would make all that follows look old
    known = (learnt.get(name) or reading.site.shown.get(name) if name else None) or Shown(frozenset(), None)
    if reading.update and updated and known.updated and updated < known.updated:
        reading.note("meta.lastUpdated", "older than the version that stands: not used")
        return
    status, shown = text(resource.get("status")), known.pictures if reading.update else frozenset()
    if status == _ERROR:
        _take_back(reading, shown or _meant(reading), "FHIR Media entered in error")
    elif status in _NOT_READY or _kind(reading) in ("video", "audio"):
        reading.note("", "no finished picture: not used")
        return
    elif subject := reading.subject():
        event = _picture(reading, subject)
        moved = {one for one in shown if surviving(reading.site.contexts, one[1]) != subject.patient_id}
        # what comes under the same UID takes the place of the other by itself
        left = {one for one in moved if event is None or one[0] != event.instance_uid}
        _take_back(reading, left, "FHIR Media of another subject by now")
        shown = shown - moved | ({(event.instance_uid, event.patient_id)} if event else set())
    if name and (shown or known.pictures):
        learnt[name] = Shown(shown, updated or known.updated, natural_id(*reading.identity))


def delete(reading: Reading, learnt: dict[str, Shown]) -> Literal["deleted", "unknown"]:
    """Take back what a Media that was deleted is remembered to have shown."""
    known = learnt.get(reading.remembered_by) or reading.site.shown.get(reading.remembered_by)
    if known is None:
        return "unknown"
    if not known.pictures:
        reading.note("", "nothing of it stands: taken back before")
    reading.resource["meta"] = {"versionId": natural_id("deleted", known.version)}  # the same until it is known
    _take_back(reading, known.pictures, "FHIR Media deleted")
    learnt[reading.remembered_by] = Shown(frozenset(), known.updated, natural_id(*reading.identity))
    return "deleted"


def _picture(reading: Reading, subject: Subject) -> ImageEvent | None:
    """Add the event of a Media's picture and return it; None, noted as trouble, where it cannot be used."""
    resource = reading.resource
    try:
        data, kind = content(reading, resource.get("content"))
        if kind.partition(";")[0].strip().lower() == _DICOM:
            raise ValueError("a DICOM object comes by C-STORE or STOW-RS")
        png, rows, columns = as_png(data, reading.site.settings.largest_picture)
    except ValueError as error:
        reading.trouble("content", str(error))
        return None
    created = resource.get("createdPeriod")
    span = {f"createdPeriod.{name}": created.get(name) for name in ("end", "start")} if isinstance(created, dict) else {}
    taken = reading.stamp({"createdDateTime": resource.get("createdDateTime")} | span | {"issued": resource.get("issued")})
    if taken is None:
        return None
    event = ImageEvent(
        id=reading.event_id(ImageEvent),
        patient_id=subject.patient_id,
        encounter_id=reading.encounter(resource.get("encounter"), subject),
        study_uid=_made_uid(reading, "study"),
        series_uid=_made_uid(reading, "series"),
        instance_uid=_instance_uid(reading, subject, vouched=reading.update),
        modality=_modality(reading),
        body_part=_words(resource.get("bodySite")),
        view=_words(resource.get("view")),
        rows=rows,
        columns=columns,
        # where it lies is known once it is stored (`publishing`)
        pixels=ObjectReference(uri="", sha256=sha256(png).hexdigest(), media_type=PNG, bytes=len(png)),
        acquired_at=taken,
        received_at=reading.sender.received_at,
        processing=reading.processing,
        origin=reading.origin,
    )
    reading.pictures[event.id] = NewObject(png, PNG, ".png")
    reading.events.append(event)
    return event


def _meant(reading: Reading) -> set[tuple[str, str]]:
    """Return the pictures, of whom, that a retraction means by itself; none, noted as trouble, where nobody can tell."""
    if not reading.name and not any(text(one.get("value")) for one in objects(reading.resource, "identifier")):
        reading.trouble("", "withdrawn, without an id or identifier: which picture is meant nobody can tell", code="not-found")
        return set()
    subject = reading.subject()
    vouched = (True, False) if reading.update else (False,)  # it may have come by a create
    return {(_instance_uid(reading, subject, vouched=one), subject.patient_id) for one in vouched} if subject else set()


def _take_back(reading: Reading, pictures: Iterable[tuple[str, str]], reason: str) -> None:
    """Add a word for each picture (instance UID, patient) that is of no use to that patient any more."""
    for instance, patient in sorted(pictures):
        person = surviving(reading.site.contexts, patient)
        reading.events.append(
            ImageEvent(
                id=natural_id(*reading.identity, ImageEvent.type, "taken-back", instance, patient),
                patient_id=person,
                study_uid=_made_uid(reading, "study"),
                series_uid=_made_uid(reading, "series"),
                instance_uid=instance,
                status=_ERROR,
                reason=reason,
                modality="",
                acquired_at=reading.last_updated or reading.sender.received_at,
                received_at=reading.sender.received_at,
                processing=reading.processing,
                origin=reading.origin,
            )
        )


def as_png(data: bytes, largest: int) -> tuple[bytes, int, int]:
    """Decode a picture and return it as PNG, [rows, columns] grey or RGB of 8 bits, with rows and columns.

    Turned upright by its EXIF orientation; transparency lies on white; 16-bit grey keeps its upper 8 bits. Raises `ValueError` for
    what is no picture of a known format, or has more than `largest` pixels (seen before anything is decoded).
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns of odd metadata and quotes it; it is left behind anyway
            with Image.open(BytesIO(data), formats=_FORMATS) as found:
                if not 0 < found.width * found.height <= largest:
                    raise ValueError(f"a picture of {found.height} x {found.width} is outside 1..{largest} pixels")
                picture = _eight_bits(ImageOps.exif_transpose(found))
    except ValueError:
        raise
    except UnidentifiedImageError:
        raise ValueError(f"not a picture of a known format ({', '.join(_FORMATS)})") from None
    except Exception as error:  # a broken file may raise anything inside the codecs
        raise ValueError(f"the picture cannot be decoded ({type(error).__name__})") from None
    out = BytesIO()
    Image.frombytes(picture.mode, picture.size, picture.tobytes()).save(out, format="PNG", compress_level=1)
    return out.getvalue(), picture.height, picture.width


def _eight_bits(picture: Image.Image) -> Image.Image:
    if picture.mode.startswith("I"):  # 16 bits, which Pillow may hold as 32
        return picture.convert("I").point(lambda level: level / 256).convert("L")
    if picture.mode in ("1", "L"):
        return picture.convert("L")
    if picture.has_transparency_data:
        whole = picture.convert("RGBA")
        ground = Image.new("RGBA", whole.size, "white")
        return Image.alpha_composite(ground, whole).convert("RGB")
    return picture.convert("RGB")


def _kind(reading: Reading) -> str:
    coded = codings(reading.resource.get("type"))
    return coded[0][0].lower() if coded else ""


def _modality(reading: Reading) -> str:
    """Return the DICOM modality; what names none is OT, other (PS3.3 C.7.3.1.1.1)."""
    return next((code for code, _, system in codings(reading.resource.get("modality")) if system == _DCM and code), "OT")


def _words(concept: object) -> str:
    coded = codings(concept)
    return (coded[0][1] or coded[0][0]) if coded else ""


def _instance_uid(reading: Reading, subject: Subject, *, vouched: bool) -> str:
    """Return the DICOM UID that it names, else one made of its id. `vouched`: its sender gives the id to nothing else."""
    for one in objects(reading.resource, "identifier"):
        if text(one.get("system")) == _DICOM_UID and (uid := text(one.get("value")).removeprefix("urn:oid:")):
            return uid
    whose = () if vouched or not text(reading.resource.get("id")) else (subject.patient_id,)
    return _made_uid(reading, "instance", *whose)


def _made_uid(reading: Reading, level: str, *more: str) -> str:
    """Return a UID for what has none: derived from a UUID (PS3.5 B.2), the same for every version of the resource."""
    name = "\x1f".join((*reading.identity[:4], level, *more))
    return f"2.25.{uuid5(NAMESPACE_URL, name).int}"
