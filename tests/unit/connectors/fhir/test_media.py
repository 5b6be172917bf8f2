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
from processors.events import DeadLetterEvent, Identifier, ImageEvent
from processors.instances import Version, withdrawn_by
from tests.edge import MemoryStore, RecordingPublisher, identities
from tests.fhir_resources import MRN, bundle, media

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
P2 = Identifier(authority=MRN, value="P2")
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
        ({"status": "entered-in-error"}, "dead-letter", "which picture is meant nobody can tell"),
        ({"status": "entered-in-error", "id": "m1", "subject": None}, "dead-letter", "held apart, not guessed"),
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


class Server:
    """A server that sends Media, each version confirmed before the next."""

    def __init__(self, **peer):
        self.mapper = FhirMapper(FhirSettings.model_validate({"peers": {"fhir": peer}}), identities())

    def send(self, resource, door="update"):
        """Return the pictures that come of it, and what takes pictures back: instance UID and patient of each."""
        kind, name = resource["resourceType"], resource["id"]
        outcome = self.mapper.handle(orjson.dumps(resource), self.mapper.sender("fhir", NOW), Request(door, kind, name))
        self.mapper.learn(outcome)
        self.outcome = outcome
        made = [one for one in outcome.events if isinstance(one, ImageEvent)]
        assert {one.id for one in made if one.status == "final"} == outcome.pictures.keys()
        shown = [[(one.instance_uid, one.patient_id) for one in made if one.status == status] for status in STATUSES]
        return shown[0], shown[1]


STATUSES = ("final", "entered-in-error")


def of(value, **more):
    return media(picture(), id="m1", subject={"identifier": {"system": MRN, "value": value}}, **more)


def bare(**more):
    return {"resourceType": "Media", "id": "m1", "status": "entered-in-error", "content": {"title": "none"}} | more


@pytest.mark.parametrize("door", ["create", "update", "hook"])
@pytest.mark.parametrize("restart", [False, True])
def test_a_media_entered_in_error_takes_its_picture_back(door, restart):
    server = Server()
    (shown, _) = server.send(of("P1"), door)
    picture = Version.of(server.outcome.events[0], 0, 0)
    server = Server() if restart else server
    gone, words = server.send(of("P1", status="entered-in-error"))
    assert gone == []
    assert set(shown) <= set(words)
    assert len(words) == 1 + restart  # by which door it came first is forgotten
    first = next(one for one in server.outcome.events if isinstance(one, ImageEvent))
    assert (first.reason, first.pixels, first.rows) == ("FHIR Media entered in error", None, None)
    assert (server.outcome.verdict, server.outcome.code) == ("accepted", 200)
    told = [Version.of(one, 0, 1).aimed([picture]) for one in server.outcome.events]
    assert withdrawn_by(picture, told) is not None
    ids = [one.id for one in server.outcome.events]
    server.send(of("P1", status="entered-in-error"))
    assert [one.id for one in server.outcome.events] == ids


@pytest.mark.parametrize("uid", [None, [{"system": "urn:dicom:uid", "value": "urn:oid:1.2.840.99.7"}]])
def test_a_retraction_stripped_to_its_id_takes_back_what_the_id_showed(uid):
    server = Server()
    shown, _ = server.send(of("P1", identifier=uid))
    assert server.send(bare()) == ([], shown)
    assert Server().send(bare()) == ([], [])


@pytest.mark.parametrize("content", [{}, {"content": {"contentType": "image/png", "url": "https://elsewhere.example/1"}}])
@pytest.mark.parametrize("door", ["create", "update"])
def test_an_update_of_another_subject_takes_the_picture_from_the_first(door, content):
    server = Server()
    ((uid, first),), _ = server.send(of("P1"), door)
    shown, words = server.send(of("P2", **content))
    assert {person for _, person in shown} <= {identities().patient(P2)}
    if shown and door == "update":  # the same UID of another patient: the lane takes the first back (`processors.instances`)
        assert ([one for one, _ in shown], words) == ([uid], [])
    else:
        assert words == [(uid, first)]
        assert uid not in [one for one, _ in shown]
    assert server.send(of("P2", **content))[1] == []


def test_what_test_data_or_an_older_version_says_takes_nothing_back():
    server = Server()
    stamp = {"meta": {"lastUpdated": "2026-11-23T11:00:00Z"}}
    server.send(of("P1", **stamp))
    assert server.send(of("P2", meta={"lastUpdated": "2026-11-23T10:00:00Z"})) == ([], [])
    assert "older than the version that stands: not used" in server.outcome.reason
    server.send(of("P1", meta={"lastUpdated": "2027-11-23T10:00:00Z"}))  # a wrong clock
    assert server.send(of("P1"))[0]
    assert server.send(bare(meta={"tag": [{"code": "HTEST"}]})) == ([], [])
    assert server.send(bare())[1]


def test_one_id_on_every_create_is_no_correction():
    server = Server()
    (one,), (two,) = (server.send(of(value), "create")[0] for value in ("P1", "P2"))
    assert one[0] != two[0]
    for shown, value in ((one, "P1"), (two, "P2")):
        assert server.send(of(value, status="entered-in-error"), "create") == ([], [shown])
    assert server.send(bare(), "create") == ([], [])
    assert server.outcome.verdict == "dead-letter"


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
