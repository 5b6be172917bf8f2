"""Feeds that are fetched, and STOW-RS, as their operator has them: real processes, real sockets, a real broker."""

import asyncio
import json
import os
import signal
import sys
import tarfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.responses import Response
from typer.testing import CliRunner

from connectors.fhir.client import TokenFile
from connectors.fhir.settings import FhirPeer, FhirSettings
from models.errors import Permanent
from processors.events import TOPICS
from streams.cli.connect import app, fhir_peer
from tests.dicom_objects import encode, make
from tests.integration.test_dicom_web import TYPE, body
from tests.integration.test_fhir_pull import Ehr
from tests.integration.test_fhir_pull import running as listening
from tests.kafka import Kafka
from tests.lanes import until
from tests.serving import Serving

pytestmark = [pytest.mark.kafka, pytest.mark.slow, pytest.mark.timeout(240)]

COMMAND = [sys.executable, "-m", "streams.cli", "connect"]


@dataclass
class Said:
    """What a command printed, and its exit code."""

    code: int
    out: str
    err: str


class Site:
    """A broker's topics, a folder, and `vigil connect ...` in it."""

    def __init__(self, kafka: Kafka, folder: Path) -> None:
        self.kafka, self.folder, self.prefix = kafka, folder, kafka.name("connect") + "."
        for topic in TOPICS:
            kafka.create(self.prefix + topic, 2)
        self.env = {
            **{name: value for name, value in os.environ.items() if not name.startswith("VIGIL_")},
            "PYTHONPATH": str(Path(__file__).parents[2]),
            "VIGIL_KAFKA__BOOTSTRAP": kafka.bootstrap,
            "VIGIL_KAFKA__TOPIC_PREFIX": self.prefix,
            "VIGIL_KAFKA__EMBEDDED": str(kafka.kind == "embedded").lower(),
            "VIGIL_OBJECTS__URL": str(folder / "objects"),
            "VIGIL_CONNECTORS__DICOM__MIN_FREE_BYTES": "1000",
        }

    async def start(self, *words: str, **env: str) -> asyncio.subprocess.Process:
        pipe = asyncio.subprocess.PIPE
        environment = {**self.env, **env}
        return await asyncio.create_subprocess_exec(
            *COMMAND, *words, env=environment, cwd=self.folder, stdout=pipe, stderr=pipe
        )

    async def end(self, process: asyncio.subprocess.Process) -> Said:
        try:
            async with asyncio.timeout(60):
                out, err = await process.communicate()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        assert b"Traceback" not in err, err.decode()
        return Said(process.returncode or 0, out.decode(), err.decode())

    async def connect(self, *words: str, **env: str) -> Said:
        return await self.end(await self.start(*words, **env))

    async def ids(self, topic: str) -> list[str]:
        """The ids of a topic's records, one for each record."""
        records = await asyncio.to_thread(self.kafka.read, self.prefix + topic)
        return [json.loads(record.value)["id"] for record in records if record.value]


@pytest.fixture
def site(kafka: Kafka, tmp_path: Path) -> Site:
    return Site(kafka, tmp_path)


class Server(Ehr):
    """The tests' FHIR server, with a CapabilityStatement; `gate` lets so many pages through, the rest waits."""

    def __init__(self, count: int = 23) -> None:
        super().__init__(count)
        self.kinds = ("Patient", "Observation")
        self.statement = self.statement_of(*self.kinds)
        self.gate = 10**6
        self.waiting, self.opened = asyncio.Event(), asyncio.Event()

    async def search(self, request: Any) -> Response:
        self.gate -= 1
        if self.gate < 0:
            self.waiting.set()
            await self.opened.wait()
        return await super().search(request)


@asynccontextmanager
async def ehr(folder: Path, count: int = 23) -> AsyncIterator[tuple[Server, tuple[str, ...]]]:
    """A FHIR server, and the words to fetch from it."""
    token = folder / "token"
    token.write_text("secret\n")
    async with listening(Server(count)) as server:
        try:
            yield server, ("fhir", "--base", server.url + "/", "--token-file", str(token))
        finally:
            server.opened.set()


# --------------------------------------------------------------------------------------------------------------------- FHIR


async def test_fhir_pages_once_and_the_next_time_what_is_new(site: Site) -> None:
    async with ehr(site.folder) as (server, words):
        done = await site.connect(*words, "--since", "2026-10-01")
        missing = "the server has no Encounter, DiagnosticReport, DocumentReference, Media, Communication\n"
        assert (done.code, done.err) == (0, missing)
        assert "23 resources, 23 events published, 0 not taken" in done.out
        assert len(set(await site.ids("clinical.vitals"))) == 23
        again = await site.connect(*words, "--since", "2026-10-01")
        assert "6 resources, 6 events" in again.out  # those of the last five minutes overlap, under their old ids
        assert len(set(await site.ids("clinical.vitals"))) == 23
        assert "23 resources" in (await site.connect(*words, "--no-resume")).out
        assert "0 resources" in (await site.connect(*words, "--no-resume", "--since", "2027-01-01")).out
        assert "0 resources" in (await site.connect(*words, "--no-resume", "--type", "Patient")).out
        (mark,) = site.folder.glob("fhir-127.0.0.1-*.bookmark")
        other = await site.connect("fhir", "--base", server.url + "/other", "--bookmark", str(mark))
        assert (other.code, "another server's" in other.err) == (2, True)


async def test_fhir_interrupted_and_gone_on_with(site: Site) -> None:
    async with ehr(site.folder) as (server, words):
        server.gate = 4  # Patient, and three pages of five
        process = await site.start(*words)
        async with asyncio.timeout(60):
            await server.waiting.wait()
        process.send_signal(signal.SIGINT)
        stopped = await site.end(process)
        assert stopped.code == 130, stopped.err
        assert stopped.err.endswith("stopped; the same command goes on from here\n")
        assert len(set(await site.ids("clinical.vitals"))) == 15
        server.gate = 10**6
        assert "14 resources" in (await site.connect(*words)).out  # nine, and five once more
        assert len(set(await site.ids("clinical.vitals"))) == 23


async def test_fhir_what_is_refused_is_a_dead_letter(site: Site) -> None:
    async with ehr(site.folder) as (server, words):
        del server.resources[7]["status"]
        done = await site.connect(*words)
        assert (done.code, "22 events published, 1 not taken (1 kept: vigil dead-letters list)" in done.out) == (0, True)
        assert len(await site.ids("clinical.dead-letters")) == 1


async def test_fhir_export(site: Site) -> None:
    async with ehr(site.folder) as (_, words):
        for _ in range(2):
            done = await site.connect(*words, "--export")
            assert done.code == 0, done.err
            assert "23 resources, 23 events" in done.out
        assert len(set(await site.ids("clinical.vitals"))) == 23


async def test_fhir_every_so_often_until_it_is_stopped(site: Site) -> None:
    async with ehr(site.folder) as (server, words):
        process = await site.start(*words, "--every", "1s")
        await until(lambda: len(server.asked) > 10, what="a second look")  # six pages are one look
        process.send_signal(signal.SIGINT)
        assert (await site.end(process)).code == 130


async def test_what_is_wrong_with_a_fhir_server_is_said_in_words(site: Site) -> None:
    async def wrong(*words: str, **env: str) -> str:
        said = await site.connect(*words, **env)
        assert (said.code, said.out) == (2, "")
        return said.err.replace("\n", " ")

    assert "nothing answers at http://127.0.0.1:1/fhir" in await wrong("fhir", "--base", "http://127.0.0.1:1/fhir")
    async with ehr(site.folder) as (server, words):
        base = words[:3]
        assert "is the base URL right?" in await wrong(*base[:2], server.url + "/a/b/c")
        assert "answered 401" in await wrong(*base)
        assert "no token" in await wrong(*base, "--token-file", os.devnull)
        assert "cannot be read" in await wrong(*base, "--token-file", "nowhere")
        nobody = await wrong(*words, VIGIL_KAFKA__BOOTSTRAP="127.0.0.1:1")
        assert "no broker answers at 127.0.0.1:1" in nobody
        server.statement = {"resourceType": "CapabilityStatement", "fhirVersion": "3.0.2"}
        assert "speaks FHIR 3.0.2" in await wrong(*words)
        server.statement = {"resourceType": "Bundle"}
        assert "is no FHIR server" in await wrong(*words)


def test_the_token_is_read_anew_and_goes_only_where_it_is_wanted(tmp_path: Path) -> None:
    def shown(**headers: str) -> str | None:
        request = httpx.Request("GET", "https://ehr.example/fhir", headers=headers)
        next(TokenFile(tmp_path / "token").auth_flow(request))
        return request.headers.get("authorization")

    for token in ("first", "second"):
        (tmp_path / "token").write_text(token + "\n")
        assert shown() == f"Bearer {token}"
    assert shown(Authorization="") is None
    (tmp_path / "token").write_text("two words")
    with pytest.raises(Permanent, match="holds no token"):
        shown()


def test_ids_are_those_of_the_peer_that_a_server_is() -> None:
    base = "https://ehr.example/fhir"
    own, name = fhir_peer(FhirSettings(), base, "")
    assert (name, own.peers[name].base) == ("fhir", base)
    peers = {"east": FhirPeer(token="0123456789abcdef", base=base + "/"), "west": FhirPeer(token="fedcba9876543210")}
    site = FhirSettings(peers=peers)
    assert fhir_peer(site, base, "") == (site, "east")
    assert fhir_peer(site, "https://other.example", "west") == (site, "west")
    with pytest.raises(Permanent, match="which of connectors"):
        fhir_peer(site, "https://other.example", "")
    with pytest.raises(Permanent, match="no FHIR peer 'north'"):
        fhir_peer(site, base, "north")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--base", "ehr.example/fhir"), "no base URL"),
        (("--base", "https://ehr.example:x/fhir"), "no base URL"),
        (("--base", "https://me:hunter2@ehr.example/fhir"), "base URL with a password"),
        (("--base", "http://x", "--since", "yesterday"), "is no time"),
        (("--base", "http://x", "--type", "Claim"), "not fetched: Claim"),
        (("--base", "http://x", "--every", "often"), "is no duration"),
        (("--base", "http://x", "--every", "0s"), "not above zero"),
        (("--base", "http://x", "--every", "500ms"), "a second"),
        (("--base", "http://x", "--every", "1m", "--export"), "do not go together"),
        (("--base", "http://x", "--group", "7"), "needs --export"),
    ],
)
def test_wrong_words_are_refused_before_anything_is_done(words: tuple[str, ...], said: str) -> None:
    done = CliRunner().invoke(app, ["fhir", *words])
    assert isinstance(done.exception, Permanent)
    assert said in str(done.exception)
    assert "hunter2" not in str(done.exception)


# -------------------------------------------------------------------------------------------------------------------- DICOM


def folder(where: Path, count: int = 3) -> Path:
    """DICOM files, and one that is none."""
    source = where / "archive"
    (source / "below").mkdir(parents=True)
    for number in range(count):
        (source / "below" / f"{number}.dcm").write_bytes(encode(make()))
    (source / "notes.txt").write_text("no dicom")
    return source


async def test_dicom_folder_once(site: Site) -> None:
    source = folder(site.folder)
    done = await site.connect("dicom", "archive")
    assert done.code == 0, done.err
    assert "4 files" in done.out
    assert "3 accepted, 1 refused; 0 done earlier" in done.out
    assert len(set(await site.ids("clinical.images"))) == 3
    again = await site.connect("dicom", str(source))
    assert "0 files (0.0 MB): nothing to do; 4 done earlier" in again.out
    assert "4 files" in (await site.connect("dicom", "archive", "--no-resume")).out
    assert len(set(await site.ids("clinical.images"))) == 3


async def test_dicom_interrupted_and_gone_on_with(site: Site) -> None:
    folder(site.folder, count=150)
    journal = site.folder / "archive.journal"
    process = await site.start("dicom", "archive")
    await until(lambda: journal.exists() and len(journal.read_text().splitlines()) >= 5, what="the first files")
    process.send_signal(signal.SIGINT)
    stopped = await site.end(process)
    assert stopped.code == 130, stopped.err
    assert stopped.err.endswith("stopped; the same command goes on from here\n")
    before = len(journal.read_text().splitlines())
    assert before < 151
    done = await site.connect("dicom", "archive")
    assert done.code == 0, done.err
    assert f"{before} done earlier" in done.out
    assert len(set(await site.ids("clinical.images"))) == 150


async def test_what_is_wrong_with_a_dicom_source_is_said_in_words(site: Site) -> None:
    async def wrong(*words: str, **env: str) -> str:
        said = await site.connect("dicom", *words, **env)
        assert (said.code, said.out) == (2, "")
        return said.err.replace("\n", " ")

    source = folder(site.folder)
    assert "nowhere is not there" in await wrong("nowhere")
    with tarfile.open(site.folder / "whole.tar.gz", "w:gz") as tar:
        tar.add(source, "archive")
    data = (site.folder / "whole.tar.gz").read_bytes()
    (site.folder / "half.tar.gz").write_bytes(data[: len(data) // 2])
    assert "is the archive whole?" in await wrong("half.tar.gz")
    assert "no DICOM peer" in await wrong("archive", "--peer", "CT1")
    assert "nearly full" in await wrong("archive", VIGIL_CONNECTORS__DICOM__MIN_FREE_BYTES=str(2**60))
    assert "cannot be written" in await wrong("archive", "--journal", "/proc/nowhere/journal")
    assert "no broker answers" in await wrong("archive", VIGIL_KAFKA__BOOTSTRAP="127.0.0.1:1")
    assert "3 accepted" in (await site.connect("dicom", "whole.tar.gz")).out


# ------------------------------------------------------------------------------------------------------------------ STOW-RS


async def test_stow_is_served_where_it_is_enabled(kafka: Kafka, tmp_path: Path) -> None:
    prefix = kafka.name("stow") + "."
    for topic in TOPICS:
        kafka.create(prefix + topic, 1)
    token = "0123456789abcdef"
    serving = Serving(
        kafka.bootstrap,
        tmp_path,
        prefix=prefix,
        embedded=kafka.kind == "embedded",
        VIGIL_CONNECTORS__ENABLED='["stow"]',
        VIGIL_CONNECTORS__STOW__PORT="0",
        VIGIL_CONNECTORS__STOW__PEERS=json.dumps({"pacs": {"token": token}}),
    )
    serving.process.start()
    try:
        await until(lambda: asyncio.to_thread(serving.ready), within=60, what="ready")
        assert set(serving.addresses) == {"stow", "health"}
        host, port = serving.addresses["stow"]
        async with httpx.AsyncClient(base_url=f"http://{host}:{port}/dicom-web", timeout=30) as client:
            known = {"Content-Type": TYPE, "Authorization": f"Bearer {token}"}
            assert (await client.post("/studies", content=body(encode(make())), headers=known)).status_code == 200
            assert (await client.post("/studies", content=body(b"garbage"), headers=known)).status_code == 409
            stranger = await client.post("/studies", content=body(encode(make())), headers={"Content-Type": TYPE})
            assert stranger.status_code == 401
        found = serving.metrics()
        assert found["vigil_connector_published_total", "stow", "clinical.images"] == 1
        assert found["vigil_connector_messages_total", "stow", "", "accepted"] == 1
        for answer in ("200", "401", "409"):
            assert found["vigil_connector_answers_total", answer, "stow"] == 1
        records = await asyncio.to_thread(kafka.read, prefix + "clinical.images")
        assert [json.loads(record.value)["origin"]["peer"] for record in records if record.value] == ["pacs"]
    finally:
        code = await asyncio.to_thread(serving.process.stop)
    assert code == 0, serving.process.log


async def test_stow_says_that_its_port_is_taken(kafka: Kafka, tmp_path: Path) -> None:
    other = await asyncio.start_server(lambda reader, writer: None, "127.0.0.1", 0)
    async with other:
        port = str(other.sockets[0].getsockname()[1])
        env = {"VIGIL_CONNECTORS__ENABLED": '["stow"]', "VIGIL_CONNECTORS__STOW__PORT": port}
        serving = Serving(kafka.bootstrap, tmp_path, embedded=kafka.kind == "embedded", **env)
        serving.process.start()
        try:
            await until(lambda: not serving.process.running, within=40, what="the end")
        finally:
            if serving.process.running:
                serving.process.kill()
        assert serving.process.code == 2
        assert f"cannot listen on 127.0.0.1:{port}" in serving.process.log.replace("\n", " ")
