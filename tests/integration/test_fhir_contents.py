"""Content that a resource names by URL, from a small FHIR server of the tests: pulled, exported, and fetched for what is pushed."""

import asyncio
from base64 import b64encode
from io import BytesIO

import httpx
import orjson
import pytest
from PIL import Image
from starlette.responses import JSONResponse, Response

from connectors.fhir.bookmarks import Bookmark
from connectors.fhir.contents import Contents
from connectors.fhir.handling import FhirMapper, Request
from connectors.fhir.publishing import Publishing
from connectors.fhir.server import FhirServer
from connectors.fhir.settings import FhirPeer, FhirSettings
from models.errors import Permanent
from processors.events import ImageEvent, NoteEvent, VitalsEvent
from tests.edge import MemoryStore, RecordingPublisher, identities
from tests.fhir_resources import document, media, observation
from tests.integration.test_fhir_pull import NOW, Ehr, letters, pulling, running

WORDS = "Brought in with chest pain."


def binary(words=WORDS, kind="text/plain", **more):
    data = words if isinstance(words, bytes) else words.encode()
    made = {"resourceType": "Binary", "contentType": kind, "data": b64encode(data).decode()} | more
    return JSONResponse(made, media_type="application/fhir+json")


def named(n, *urls, kind="text/plain", **more):
    """A DocumentReference whose content lies behind URLs, its n-th minute the last that it was written."""
    content = [{"attachment": {"contentType": kind, "url": url}} for url in urls]
    number = [{"system": "https://hospital.example/document", "value": f"D{n}"}]
    return document(id=f"d{n}", identifier=number, content=content, meta={"lastUpdated": Ehr.stamp(n)}) | more


def notes(publisher):
    return [event for event in publisher.events if isinstance(event, NoteEvent)]


async def test_a_binary_of_the_server_is_fetched_as_a_resource_or_raw():
    async with running(Ehr(count=0)) as ehr, pulling(ehr) as puller:
        ehr.resources = [
            named(0, "Binary/json"),
            named(1, f"{ehr.url}/Binary/raw", kind="text/html"),
            named(2, f"{ehr.url}/Binary/json/_history/2"),  # not there
        ]
        ehr.binaries = {
            "json": [binary()],
            "raw": [Response("<p>Ödeme</p>".encode("latin-1"), media_type="text/html; charset=iso-8859-15")],
        }
        done = await puller.pull()
        assert (done.resources, done.refused) == (3, 0)
        assert [note.text for note in notes(puller.publisher)] == [WORDS, "Ödeme"]
        (letter,) = letters(puller.publisher)
        assert "content[0].attachment: content elsewhere (url) that its server does not give (404)" in letter.message
        assert {one for one in ehr.asked if one.startswith("Binary")} == {
            "Binary/json Bearer secret",
            "Binary/raw Bearer secret",
        }
        # the same resource with its content beside it is the same event
        mapper = FhirMapper(FhirSettings(), identities())
        pushed = mapper.handle(
            orjson.dumps(ehr.resources[0]),
            mapper.sender("fhir", NOW),
            Request("update", "DocumentReference", "d0", fetched={"Binary/json": (WORDS.encode(), "text/plain")}),
        )
        assert pushed.events[0].id == notes(puller.publisher)[0].id


async def test_what_the_server_cannot_give_now_is_asked_for_again_and_the_bookmark_waits(tmp_path):
    busy = [Response(status_code=status, headers={"Retry-After": "0"}) for status in (503, 429, 500)]
    mark = Bookmark(tmp_path / "mark")
    async with running(Ehr(count=0)) as ehr, pulling(ehr, bookmark=mark) as puller:
        ehr.page = 50
        ehr.resources = [named(n, f"Binary/b{n}") for n in range(45)]
        ehr.binaries = {f"b{n}": [binary(f"Note {n}.")] for n in range(45)}
        ehr.binaries["b30"] = [*busy, Response(status_code=401)]
        with pytest.raises(Permanent, match="/Binary answered 401"):  # the token ended
            await puller.pull()
        assert len(notes(puller.publisher)) == 20  # the first portion, and the next run goes on behind it
        ehr.binaries["b30"] = [*busy, binary("Note 30.")]
        await puller.pull()
        assert sorted({note.text for note in notes(puller.publisher)}) == sorted(f"Note {n}." for n in range(45))
        assert len(notes(puller.publisher)) == 20 + 31  # those of the five minutes before the bookmark again
        assert letters(puller.publisher) == []


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (Response(status_code=403), r"does not give \(403\)"),
        (Response(status_code=410), r"does not give \(410\)"),
        (Response(status_code=302, headers={"location": "/fhir/Binary/other"}), r"does not give \(302\)"),
        (Response(b"x" * 5000, media_type="text/plain"), "longer than 4096 bytes"),
        (Response(b"", media_type="text/plain"), "an attachment without data"),
        (
            Response(b"no gzip at all", headers={"Content-Encoding": "gzip"}, media_type="text/plain"),
            "not compressed as its server says",
        ),
        (binary(data="%"), "not base64"),
        (binary(implicitRules="https://example.org/rules"), "modifier that is not known"),
    ],
)
async def test_what_the_server_does_not_give_is_a_dead_letter_with_the_reason(answer, reason):
    publisher = RecordingPublisher()
    mapper = FhirMapper(FhirSettings(largest_body=4096), identities())
    publishing = Publishing(mapper, publisher, MemoryStore(), now=lambda: NOW, seconds=5)
    async with running(Ehr(count=0)) as ehr, pulling(ehr, publisher, publishing=publishing) as puller:
        ehr.resources = [named(0, "Binary/gone"), named(1, "Binary/there"), named(2, "Binary/gone", "Binary/there")]
        ehr.binaries = {"gone": [answer], "there": [binary()], "other": [binary("Somebody else's.")]}
        await puller.pull()
        assert [note.text for note in notes(publisher)] == [WORDS, WORDS]  # of two forms the one that is there
        (letter,) = letters(publisher)
        assert letter.stage == "map"
        assert letter.message.startswith("DocumentReference.content[0].attachment: ")
        assert reason.replace("\\", "") in letter.message


@pytest.mark.parametrize(
    "elsewhere",
    [
        "https://elsewhere.example/fhir/Binary/1",
        "http://ehr.example/fhir/Binary/1",
        "https://ehr.example:8443/fhir/Binary/1",
        "https://ehr.example.evil.example/fhir/Binary/1",
        "https://ehr.example@evil.example/fhir/Binary/1",
        "https://evil.example@ehr.example/fhir/Binary/1",
        "//evil.example/fhir/Binary/1",
        "https://ehr.example/fhirx/Binary/1",
        "https://ehr.example/Binary/1",
        "/Binary/1",
        "Binary/..",
        "Binary/../Patient/1",
        "Binary/1/_history/..",
        "Binary/%2e%2e",
        "Binary/1?x=http://evil.example",
        "Binary/1#x",
        "Binary/1/",
        "Binary/1\n",
        "Binary/",
        "Patient/1",
        "file:///etc/passwd",
        "https://[::1/fhir/Binary/1",
        "urn:uuid:0b0f6c1e-6f0b-4b0e-9f62-6f0f2a7b9a11",
        "",
    ],
)
async def test_nothing_but_a_binary_below_the_base_is_ever_asked_for(elsewhere):
    contents = Contents("https://ehr.example/fhir", "ehr", httpx.AsyncClient(), largest=1024)
    assert contents.place_of(elsewhere) is None
    async with contents.of([elsewhere], 1) as found:
        assert found == {}


@pytest.mark.parametrize(
    "here",
    ["Binary/1", "https://ehr.example/fhir/Binary/1", "HTTPS://EHR.example:443/fhir/Binary/1", "Binary/e.x-3_/_history/2"],
)
def test_a_binary_below_the_base(here):
    place = Contents("https://ehr.example/fhir/", "ehr", httpx.AsyncClient(), largest=1024).place_of(here)
    assert place == "https://ehr.example/fhir/Binary/" + here.split("Binary/")[1]


async def test_contents_that_are_too_large_together_are_taken_in_parts():
    publisher = RecordingPublisher()
    mapper = FhirMapper(FhirSettings(largest_body=4096), identities())
    publishing = Publishing(mapper, publisher, MemoryStore(), now=lambda: NOW, seconds=5)
    async with running(Ehr(count=0)) as ehr, pulling(ehr, publisher, publishing=publishing) as puller:
        ehr.page = 50
        ehr.resources = [named(n, f"Binary/b{n}") for n in range(10)]
        ehr.binaries = {f"b{n}": [Response(f"Note {n}. ".encode() * 400, media_type="text/plain")] for n in range(10)}
        await puller.pull()
        assert len({note.id for note in notes(publisher)}) == 10
        assert (puller.done.refused, letters(publisher)) == (0, [])


async def test_a_picture_and_the_files_of_an_export():
    out = BytesIO()
    Image.new("L", (5, 4), 200).save(out, format="PNG")
    async with running(Ehr(count=0)) as ehr, pulling(ehr) as puller:
        ehr.resources = [
            media(b"", id="m1", content={"contentType": "image/png", "url": "Binary/picture"}),
            named(1, "Binary/json"),
            observation(id="o1"),
        ]
        ehr.binaries = {"picture": [Response(out.getvalue(), media_type="application/octet-stream")], "json": [binary()]}
        await puller.export()
        (picture,) = [event for event in puller.publisher.events if isinstance(event, ImageEvent)]
        assert (picture.rows, picture.columns) == (4, 5)
        assert [note.text for note in notes(puller.publisher)] == [WORDS]
        assert letters(puller.publisher) == []


# ---------------------------------------------------------------------------------------------------------- what is pushed


def endpoint(ehr, publisher, tmp_path, *, fetch=True, **more):
    (tmp_path / "token").write_text("secret\n")
    peer = FhirPeer(base=ehr.url, fetch=fetch, fetch_token_file=tmp_path / "token")
    settings = FhirSettings(port=0, peers={"fhir": peer}, **{"confirm_timeout": 5} | more)
    return FhirServer(settings, publisher=publisher, store=MemoryStore(), identities=identities(), now=lambda: NOW)


async def test_content_of_what_is_pushed_is_fetched_before_the_answer(tmp_path):
    publisher = RecordingPublisher()
    async with running(Ehr(count=0)) as ehr, httpx.AsyncClient() as client:
        ehr.binaries = {"1": [binary()], "gone": [Response(status_code=404)]}
        async with endpoint(ehr, publisher, tmp_path) as server:
            url = f"http://127.0.0.1:{server.port}/fhir"
            answer = await client.put(f"{url}/DocumentReference/d1", json=named(1, "Binary/1"))
            assert (answer.status_code, [note.text for note in notes(publisher)]) == (200, [WORDS])
            answer = await client.put(f"{url}/DocumentReference/d2", json=named(2, "Binary/gone"))
            assert (answer.status_code, answer.json()["issue"][0]["severity"]) == (200, "warning")
            assert "does not give (404)" in letters(publisher)[0].message
            ehr.binaries["1"] = [Response(status_code=401)]  # nothing is lost for a token that ended
            before = len(publisher.events)
            answer = await client.put(f"{url}/DocumentReference/d3", json=named(3, "Binary/1"))
            assert (answer.status_code, len(publisher.events)) == (503, before)
        async with endpoint(ehr, publisher, tmp_path, fetch=False) as server:
            before = len(ehr.asked)
            await client.put(f"http://127.0.0.1:{server.port}/fhir/DocumentReference/d4", json=named(4, "Binary/1"))
            assert "is not fetched" in letters(publisher)[-1].message
            assert len(ehr.asked) == before


async def test_content_that_is_not_to_be_had_in_time_is_no_confirmation(tmp_path):
    publisher = RecordingPublisher()
    async with running(Ehr(count=0)) as ehr, httpx.AsyncClient(timeout=30) as client:
        ehr.binaries = {"1": [Response(status_code=503)]}
        async with endpoint(ehr, publisher, tmp_path, confirm_timeout=0.5) as server:
            url = f"http://127.0.0.1:{server.port}/fhir"
            made = [client.put(f"{url}/DocumentReference/d{n}", json=named(n, "Binary/1")) for n in range(20)]
            answers = await asyncio.gather(*made, client.put(f"{url}/Observation/o1", json=observation(id="o1")))
            assert [one.status_code for one in answers] == [503] * 20 + [200]
            assert [type(event) for event in publisher.events] == [VitalsEvent]
            ehr.binaries = {"1": [binary()]}
            assert (await client.put(f"{url}/DocumentReference/d1", json=named(1, "Binary/1"))).status_code == 200
            assert [note.text for note in notes(publisher)] == [WORDS]
