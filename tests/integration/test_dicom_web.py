"""STOW-RS over sockets, and the importer over folders and archives."""

import asyncio
import contextlib
import tarfile
import zipfile
from contextlib import asynccontextmanager
from datetime import UTC, datetime

import httpx
import numpy as np
import pytest
from pydantic import SecretStr
from pydicom.dataset import Dataset

from connectors.dicom import acknowledgement as ack
from connectors.dicom.importing import Journal, bring_in
from connectors.dicom.publishing import Publishing
from connectors.dicom.settings import DicomSettings, StowPeer, StowSettings
from connectors.dicom.web import StowServer
from models.errors import Permanent, Transient
from processors.events import DeadLetterEvent, ImageEvent
from tests.dicom_objects import encode, make
from tests.edge import MemoryStore, RecordingPublisher, identities

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
TYPE = 'multipart/related; type="application/dicom"; boundary=cut'


@asynccontextmanager
async def site(under_pressure=lambda: False, objects=None, **changes):
    publisher, store = RecordingPublisher(), MemoryStore()
    server = StowServer(
        StowSettings(port=0, **changes),
        objects or DicomSettings(),
        publisher=publisher,
        store=store,
        identities=identities(),
        now=lambda: NOW,
        under_pressure=under_pressure,
    )
    server.publisher, server.store = publisher, store
    async with server:
        server.url = f"http://127.0.0.1:{server.port}/dicom-web"
        async with httpx.AsyncClient(base_url=server.url, timeout=30) as server.client:
            yield server


def body(*objects, kind="application/dicom"):
    made = b"".join(b"--cut\r\nContent-Type: " + kind.encode() + b"\r\n\r\n" + one + b"\r\n" for one in objects)
    return made + b"--cut--\r\n"


async def stow(server, *objects, path="/studies", content=None, headers=None):
    data = body(*(one if isinstance(one, bytes) else encode(one) for one in objects)) if content is None else content
    return await server.client.post(path, content=data, headers={"Content-Type": TYPE} | (headers or {}))


async def test_all_some_none():
    async with site() as server:
        one, other = make(), make()
        answer = await stow(server, one, other)
        assert answer.status_code == 200
        assert answer.headers["content-type"] == "application/dicom+json"
        stored = Dataset.from_json(answer.json()).ReferencedSOPSequence
        assert [item.ReferencedSOPInstanceUID for item in stored] == [one.SOPInstanceUID, other.SOPInstanceUID]
        assert [type(event) for event in server.publisher.events] == [ImageEvent, ImageEvent]
        assert server.publisher.events[0].origin.peer == "stow"

        some = await stow(server, make(), b"garbage")
        assert some.status_code == 202
        assert Dataset.from_json(some.json()).FailedSOPSequence[0].FailureReason in range(0xC000, 0xD000)
        assert (await stow(server, b"garbage", make(SOPInstanceUID="1 2"))).status_code == 409


async def test_what_cannot_be_decoded_is_stored_and_dead_lettered():
    async with site() as server:
        broken = make()
        broken.PixelData = broken.PixelData[:10]
        assert (await stow(server, broken)).status_code == 200
        assert isinstance(server.publisher.events[0], DeadLetterEvent)


async def test_the_study_of_the_url_is_the_only_one():
    async with site() as server:
        one, other = make(), make()
        answer = await stow(server, one, other, path=f"/studies/{one.StudyInstanceUID}")
        assert answer.status_code == 202
        assert Dataset.from_json(answer.json()).FailedSOPSequence[0].FailureReason == ack.MISMATCH


async def test_not_confirmed_is_503_and_partly_202():
    async with site() as server:
        server.publisher.trouble = Transient("broker down")
        answer = await stow(server, make())
        assert answer.status_code == 503
        assert answer.headers["retry-after"]
        assert Dataset.from_json(answer.json()).FailedSOPSequence[0].FailureReason == ack.OUT_OF_RESOURCES
        server.publisher.trouble = None
        assert (await stow(server, make())).status_code == 200


@pytest.mark.parametrize(
    ("content", "headers", "status"),
    [
        (b"", {"Content-Type": "application/dicom"}, 415),
        (b"", {"Content-Type": "multipart/related"}, 400),
        (b"", {}, 400),
        (b"--cut\r\nContent-Type: application/dicom\r\n\r\nbreaks off", {}, 400),
        (b"--cut--", {}, 400),
        (body(b"x", kind="image/jpeg"), {}, 409),
        (body(b"x" * 3000), {}, 413),
        (body(b"x" * 3000, b"garbage"), {}, 409),
        (body(b"garbage")[:-20], {}, 400),
    ],
)
async def test_what_is_no_stow(content, headers, status):
    async with site(objects=DicomSettings(largest_object=2000)) as server:
        assert (await stow(server, content=content, headers=headers)).status_code == status


async def test_what_is_behind_a_part_that_is_not_taken_is_stored():
    one, long, other = make(), make(np.zeros((400, 400), np.uint16)), make()
    async with site(objects=DicomSettings(largest_object=20_000)) as server:
        answer = await stow(server, one, long, other)
        assert answer.status_code == 202
        told = Dataset.from_json(answer.json())
        assert [item.ReferencedSOPInstanceUID for item in told.ReferencedSOPSequence] == [
            one.SOPInstanceUID,
            other.SOPInstanceUID,
        ]
        (failed,) = told.FailedSOPSequence
        named = failed.ReferencedSOPInstanceUID, failed.ReferencedSOPClassUID, failed.FailureReason
        assert named == (long.SOPInstanceUID, long.SOPClassUID, ack.TOO_LONG)
        assert [event.instance_uid for event in server.publisher.events] == [one.SOPInstanceUID, other.SOPInstanceUID]

        broken = b"--cut\r\nContent-Type: application/dicom\r\nnoend\r\n"
        answer = await stow(server, content=body(encode(make())).removesuffix(b"--cut--\r\n") + broken + body(encode(make())))
        assert answer.status_code == 202
        told = Dataset.from_json(answer.json())
        assert (len(told.ReferencedSOPSequence), told.FailedSOPSequence[0].FailureReason) == (2, ack.CANNOT_UNDERSTAND)


async def test_a_body_that_breaks_off_is_told_what_is_stored():
    async with site() as server:
        one, other = make(), make()
        answer = await stow(server, content=body(encode(one), encode(other))[:-2000])
        assert answer.status_code == 202
        told = Dataset.from_json(answer.json())
        assert [item.ReferencedSOPInstanceUID for item in told.ReferencedSOPSequence] == [one.SOPInstanceUID]
        assert [item.FailureReason for item in told.FailedSOPSequence] == [ack.CANNOT_UNDERSTAND]


async def test_tokens_and_pressure():
    full = [False]
    peers = {"pacs": StowPeer(token=SecretStr("a token for tests only"), processing="training")}
    async with site(peers=peers, under_pressure=lambda: full[0]) as server:
        assert (await stow(server, make())).status_code == 401
        headers = {"Authorization": "Bearer a token for tests only"}
        assert (await stow(server, make(), headers=headers)).status_code == 200
        assert (server.publisher.events[0].origin.peer, server.publisher.events[0].processing) == ("pacs", "training")
        full[0] = True
        assert (await stow(server, make(), headers=headers)).status_code == 503


async def test_a_sender_that_falls_silent_is_given_up():
    async with site(silence=0.3) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        head = f"POST /dicom-web/studies HTTP/1.1\r\nHost: x\r\nContent-Type: {TYPE}\r\nContent-Length: 1000\r\n\r\n--cut"
        writer.write(head.encode())
        async with asyncio.timeout(5):
            assert b" 400 " in await reader.readline()
        writer.close()
        assert (await stow(server, make())).status_code == 200


async def test_senders_that_trickle_are_given_up_and_leave_turns_to_other_addresses():
    async with site(silence=1) as server:
        head = f"POST /dicom-web/studies HTTP/1.1\r\nHost: x\r\nContent-Type: {TYPE}\r\nContent-Length: 1000\r\n\r\n--cut"
        slow = [await asyncio.open_connection("127.0.0.1", server.port) for _ in range(20)]

        async def trickle(reader, writer):
            writer.write(head.encode())
            with contextlib.suppress(ConnectionError):
                for _ in range(30):  # never silent, and never done
                    writer.write(b"x")
                    await asyncio.sleep(0.1)
            return await reader.readline()

        trickling = asyncio.gather(*(trickle(*one) for one in slow))
        await asyncio.sleep(0.3)
        elsewhere = httpx.AsyncHTTPTransport(local_address="127.0.0.2")
        async with httpx.AsyncClient(base_url=server.url, transport=elsewhere, timeout=20) as other:
            answer = await other.post("/studies", content=body(encode(make())), headers={"Content-Type": TYPE})
        assert answer.status_code == 200
        async with asyncio.timeout(15):
            ends = await trickling
        assert sorted(end.split()[1] for end in ends if end) == [b"400"] * 8 + [b"503"] * 12
        for _, writer in slow:
            writer.close()
        assert not server._in_flight


# --------------------------------------------------------------------------------------------------------------- importer


def folder(tmp_path):
    files = {
        "a/1.dcm": encode(make()),
        "a/b/2": encode(make()),
        "notes.txt": b"no dicom",
        "3.dcm": encode(make(PixelData=None)),
    }
    for name, data in files.items():
        path = tmp_path / "archive" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return tmp_path / "archive"


async def imported(*sources, publisher=None, store=None, **more):
    publisher, store = publisher or RecordingPublisher(), store or MemoryStore()
    settings = DicomSettings(largest_object=1_000_000)

    async def no_wait(seconds):
        await asyncio.sleep(0)

    publishing = Publishing(publisher, store, seconds=5)
    done = await bring_in([*sources], settings, publishing, identities=identities(), now=lambda: NOW, sleep=no_wait, **more)
    return done, publisher


async def test_a_folder(tmp_path):
    seen = []
    done, publisher = await imported(folder(tmp_path), progress=seen.append)
    assert (done.files, done.total, done.skipped) == (4, 4, 0)
    assert done.verdicts == {"accepted": 2, "refused": 1, "dead-letter": 1}
    pictures = [event for event in publisher.events if isinstance(event, ImageEvent)]
    assert [event.origin.peer for event in pictures] == ["import", "import"]
    assert [one.files for one in seen] == [1, 2, 3, 4]


async def test_archives_and_single_files_say_the_same(tmp_path):
    source = folder(tmp_path)
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for path in source.rglob("*"):
            archive.write(path, path.relative_to(source))
    with tarfile.open(tmp_path / "a.tar.gz", "w:gz") as tar:
        tar.add(source, "archive")
    _, plain = await imported(source)
    for name in ("a.zip", "a.tar.gz"):
        done, publisher = await imported(tmp_path / name)
        assert done.files == 4
        assert {event.id for event in publisher.events} == {event.id for event in plain.events}
    done, _ = await imported(source / "a" / "1.dcm", source / "a" / "b" / "2")
    assert done.verdicts == {"accepted": 2}
    with pytest.raises(Permanent, match="is not there"):
        await imported(tmp_path / "nowhere")


async def test_an_import_goes_on_where_it_stopped(tmp_path):
    source = folder(tmp_path)
    journal = tmp_path / "journal"

    class Ends(RecordingPublisher):
        async def publish(self, events, *, timeout=None):
            if self.calls:
                raise asyncio.CancelledError
            await super().publish(events, timeout=timeout)

    with pytest.raises(asyncio.CancelledError):
        await imported(source, publisher=Ends(), journal=Journal(journal))
    done, _ = await imported(source, journal=Journal(journal))
    assert done.skipped >= 1
    assert done.files + done.skipped == 4
    again, quiet = await imported(source, journal=Journal(journal))
    assert (again.files, again.skipped, quiet.events) == (0, 4, [])


async def test_a_broker_that_is_away_is_waited_for(tmp_path):
    class Shaky(RecordingPublisher):
        failures = 4

        async def publish(self, events, *, timeout=None):
            if self.failures:
                self.failures -= 1
                raise Transient("broker down")
            await super().publish(events, timeout=timeout)

    done, publisher = await imported(folder(tmp_path), publisher=Shaky())
    assert done.verdicts["accepted"] == 2
    assert len(publisher.events) == 3
