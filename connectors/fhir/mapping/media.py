"""Media to images: a picture that came inside the resource, with its own metadata (EXIF, comments) left behind.

The picture is decoded and encoded anew as PNG, as a DICOM object's frame is, so that only pixels reach the object store. Names and
numbers burned into the pixels stay there: nothing here can see them.

| Media | becomes |
|---|---|
| `content` a PNG, JPEG, TIFF, WebP, BMP or GIF (first frame) | an image event, pixels in the object store |
| `content` DICOM | a dead letter: such objects come by C-STORE or STOW-RS, where their own patient is read |
| `type` video, audio; not done or not ready | not used |
| `status` entered-in-error | a dead letter: what was found in an image cannot be taken back yet |
"""

import warnings
from hashlib import sha256
from io import BytesIO
from typing import Final
from uuid import NAMESPACE_URL, uuid5

from PIL import Image, ImageOps, UnidentifiedImageError

from connectors.fhir.mapping.attachments import content
from connectors.fhir.mapping.reading import Reading, codings, objects, text
from connectors.publisher import NewObject
from processors.events import ImageEvent, ObjectReference

PNG: Final = "image/png"
_FORMATS: Final = ("PNG", "JPEG", "TIFF", "WEBP", "BMP", "GIF")
_DICOM: Final = "application/dicom"
_DICOM_UID: Final = "urn:dicom:uid"  # FHIR R4 Identifier.system of a DICOM UID; the value is `urn:oid:...`
_DCM: Final = "HTTP://DICOM.NEMA.ORG/RESOURCES/ONTOLOGY/DCM"  # as `codings` writes systems
_NOT_READY: Final = frozenset({"preparation", "in-progress", "not-done", "on-hold", "stopped"})  # FHIR R4 event-status


def map_media(reading: Reading) -> None:
    """Map a Media: its picture becomes an image event."""
    resource = reading.resource
    status = text(resource.get("status"))
    if status == "entered-in-error":
        reading.trouble("status", "withdrawn: what was found in an image cannot be taken back yet", code="not-supported")
        return
    if status in _NOT_READY or _kind(reading) in ("video", "audio"):
        reading.note("", "no finished picture: not used")
        return
    try:
        data, kind = content(reading, resource.get("content"))
        if kind.partition(";")[0].strip().lower() == _DICOM:
            raise ValueError("a DICOM object comes by C-STORE or STOW-RS")
        png, rows, columns = as_png(data, reading.site.settings.largest_picture)
    except ValueError as error:
        reading.trouble("content", str(error))
        return
    subject = reading.subject()
    created = resource.get("createdPeriod")
    span = {f"createdPeriod.{name}": created.get(name) for name in ("end", "start")} if isinstance(created, dict) else {}
    taken = reading.stamp({"createdDateTime": resource.get("createdDateTime")} | span | {"issued": resource.get("issued")})
    if subject is None or taken is None:
        return
    instance, event = _instance_uid(reading), reading.event_id(ImageEvent)
    reading.pictures[event] = NewObject(png, PNG, ".png")
    reading.events.append(
        ImageEvent(
            id=event,
            patient_id=subject.patient_id,
            encounter_id=reading.encounter(resource.get("encounter"), subject),
            study_uid=_made_uid(reading, "study"),
            series_uid=_made_uid(reading, "series"),
            instance_uid=instance,
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


def _instance_uid(reading: Reading) -> str:
    for one in objects(reading.resource, "identifier"):
        if text(one.get("system")) == _DICOM_UID and (uid := text(one.get("value")).removeprefix("urn:oid:")):
            return uid
    return _made_uid(reading, "instance")


def _made_uid(reading: Reading, level: str) -> str:
    """Return a UID for what has none: derived from a UUID (PS3.5 B.2), the same for every version of the resource."""
    name = "\x1f".join((*reading.identity[:4], level))
    return f"2.25.{uuid5(NAMESPACE_URL, name).int}"
