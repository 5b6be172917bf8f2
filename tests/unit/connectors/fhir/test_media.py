"""Pictures in Media: decoded, turned upright, stripped of their metadata, stored before they are announced."""

from base64 import b64encode
from datetime import UTC, datetime
from io import BytesIO

import numpy as np
import orjson
import pytest
from PIL import Image

from connectors.fhir.handling import FhirMapper, Request
from connectors.fhir.mapping.media import as_png
from connectors.fhir.publishing import Publishing, Unconfirmed
from connectors.fhir.settings import FhirSettings
from connectors.objects import ObjectSettings, ObjectStore
from models.errors import Transient
from processors.events import DeadLetterEvent, ImageEvent
from tests.edge import MemoryStore, RecordingPublisher, identities
from tests.fhir_resources import bundle, media

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
SECRET = "Doe^Jane 19700101"


def picture(kind: str = "PNG", mode: str = "RGB", size: tuple[int, int] = (6, 4), **more: object) -> bytes:
    """A gradient from left to right, [4, 6]."""
    levels = np.tile(np.linspace(0, 250, size[0]).astype(np.uint8), (size[1], 1))
    out = BytesIO()
    Image.fromarray(levels).convert(mode).save(out, kind, **more)
    return out.getvalue()


def pixels(png: bytes) -> np.ndarray:
    with Image.open(BytesIO(png)) as found:
        return np.asarray(found)


def handled(resource, **changes):
    mapper = FhirMapper(FhirSettings(**changes), identities())
    return mapper.handle(orjson.dumps(resource), mapper.sender("fhir", NOW), Request())


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "BMP", "WEBP"])
def test_lossless_pictures_keep_their_pixels(kind):
    data = picture(kind, **({"lossless": True} if kind == "WEBP" else {}))
    png, rows, columns = as_png(data, 1000)
    assert (rows, columns) == (4, 6)
    assert np.array_equal(pixels(png), pixels(picture()))


def test_a_16_bit_radiograph_keeps_its_upper_bits():
    levels = np.array([[0, 255, 256, 32768, 65535]], dtype=np.uint16)
    out = BytesIO()
    Image.fromarray(levels).save(out, "PNG")
    assert pixels(as_png(out.getvalue(), 1000)[0]).tolist() == [[0, 0, 1, 128, 255]]


def test_transparency_lies_on_white():
    out = BytesIO()
    Image.new("RGBA", (2, 1), (0, 0, 0, 0)).save(out, "PNG")
    assert pixels(as_png(out.getvalue(), 1000)[0]).tolist() == [[[255, 255, 255], [255, 255, 255]]]


def test_a_photograph_is_turned_upright_and_its_metadata_is_left_behind():
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, SECRET  # orientation: turn by 90 degrees; description
    data = picture("JPEG", quality=100, exif=exif)
    assert SECRET.encode() in data
    png, rows, columns = as_png(data, 1000)
    assert (rows, columns) == (6, 4)
    top, bottom = pixels(png)[0].mean(), pixels(png)[-1].mean()
    assert top < 20 < 230 < bottom  # what was left is on top
    assert SECRET.encode() not in png


@pytest.mark.parametrize(
    ("data", "limit", "reason"),
    [
        (b"\x89PNG\r\n\x1a\n garbage", 1000, "decoded|known format"),
        (b"%PDF-1.7", 1000, "not a picture of a known format"),
        (picture()[:50], 1000, "cannot be decoded"),
        (picture(), 23, "4 x 6 is outside 1..23 pixels"),
    ],
)
def test_what_is_no_picture_says_why(data, limit, reason):
    with pytest.raises(ValueError, match=reason):
        as_png(data, limit)


def test_a_media_becomes_an_image_event_with_its_pixels_apart():
    outcome = handled(media(picture("JPEG", quality=95), "image/jpeg"))
    (event,) = outcome.events
    assert isinstance(event, ImageEvent)
    assert (outcome.verdict, outcome.code) == ("accepted", 201)
    assert (event.modality, event.body_part, event.rows, event.columns) == ("XC", "Right arm", 4, 6)
    assert event.acquired_at == datetime(2026, 11, 23, 9, tzinfo=UTC)
    assert event.pixels.media_type == "image/png"
    assert outcome.pictures[event.id].data.startswith(b"\x89PNG")
    uids = {event.study_uid, event.series_uid, event.instance_uid}
    assert len(uids) == 3
    assert all(uid.startswith("2.25.") and len(uid) <= 64 for uid in uids)
    assert handled(media(picture("JPEG", quality=95), "image/jpeg")).events == outcome.events


def test_a_dicom_uid_and_a_binary_in_the_bundle():
    uid = {"identifier": [{"system": "urn:dicom:uid", "value": "urn:oid:1.2.840.99.7"}]}
    binary = {"resourceType": "Binary", "id": "b1", "contentType": "image/png", "data": b64encode(picture()).decode()}
    content = {"content": {"contentType": "image/png", "url": "Binary/b1"}}
    outcome = handled(bundle(binary, media(b"", **uid, **content), kind="batch"))
    (event,) = outcome.events
    assert event.instance_uid == "1.2.840.99.7"
    assert outcome.pictures[event.id].data == as_png(picture(), 1000)[0]


@pytest.mark.parametrize(
    ("changes", "verdict", "reason"),
    [
        ({"content": {"contentType": "image/png", "url": "https://elsewhere.example/1"}}, "dead-letter", "not fetched"),
        ({"content": {"contentType": "application/dicom", "data": "AAAA"}}, "dead-letter", "C-STORE or STOW-RS"),
        ({"content": {"contentType": "image/png", "data": "AAAA"}}, "dead-letter", "not a picture of a known format"),
        ({"status": "entered-in-error"}, "dead-letter", "cannot be taken back yet"),
        ({"subject": None}, "dead-letter", "held apart, not guessed"),
        ({"status": "preparation"}, "ignored", "not used"),
        ({"type": {"coding": [{"code": "video"}]}}, "ignored", "not used"),
        ({"status": None}, "refused", "required"),
    ],
)
def test_what_cannot_be_used_is_told(changes, verdict, reason):
    outcome = handled(media(picture(), **changes))
    assert outcome.verdict == verdict
    assert reason in outcome.reason
    assert not outcome.pictures
    assert all(isinstance(event, DeadLetterEvent) for event in outcome.events)


def test_an_imaging_study_is_checked_and_answered():
    study = {"resourceType": "ImagingStudy", "status": "available", "subject": {"reference": "Patient/1"}}
    outcome = handled(study)
    assert (outcome.verdict, outcome.code, outcome.events) == ("ignored", 200, ())
    assert "C-STORE or STOW-RS" in outcome.reason
    assert handled({**study, "series": [{"uid": 7}]}).code == 400


async def test_the_picture_is_stored_before_it_is_announced(tmp_path):
    publisher, store = RecordingPublisher(), ObjectStore(ObjectSettings(url=str(tmp_path)))
    publishing = Publishing(FhirMapper(FhirSettings(), identities()), publisher, store, now=lambda: NOW, seconds=5)
    await publishing.take(orjson.dumps(media(picture())), "fhir", Request())
    (event,) = publisher.events
    assert np.array_equal(pixels(await store.get(event.pixels)), pixels(picture()))


async def test_a_store_that_does_not_confirm_is_no_confirmation():
    publisher, store = RecordingPublisher(), MemoryStore()
    store.trouble = Transient("the disk is full")
    publishing = Publishing(FhirMapper(FhirSettings(), identities()), publisher, store, now=lambda: NOW, seconds=5)
    with pytest.raises(Unconfirmed):
        await publishing.take(orjson.dumps(media(picture())), "fhir", Request())
    assert publisher.events == []
