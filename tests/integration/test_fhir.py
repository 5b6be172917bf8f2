"""The FHIR endpoint over real sockets: httpx and curl, and peers that misbehave."""

import asyncio
import contextlib
import csv
import gzip
import json
import logging
import resource
import shutil
import socket
import ssl
from contextlib import asynccontextmanager
from datetime import UTC, datetime

import httpx
import pytest
from pydantic import SecretStr

from connectors.contexts import MemoryContexts
from connectors.fhir.handling import FhirMapper
from connectors.fhir.server import FhirServer
from connectors.fhir.settings import FhirPeer, FhirSettings, FhirTls
from connectors.fhir.structure import validate
from models.errors import Fatal, Poison, Transient
from processors.events import NoteEvent, PatientEvent, VitalsEvent
from tests.edge import DATA, MemoryStore, RecordingPublisher, certificate, identities
from tests.fhir_resources import bundle, document, encounter, observation, patient, pressure

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
TOKEN = "a token for tests only"


@asynccontextmanager
async def site(contexts=None, client=True, **changes):
    publisher, store, observed = RecordingPublisher(), MemoryStore(), []
    server = FhirServer(
        FhirSettings(port=0, **changes),
        publisher=publisher,
        store=store,
        identities=identities(),
        now=lambda: NOW,
        contexts=contexts,
        observe=lambda peer, outcome, answer, seconds: observed.append((peer, outcome.verdict, answer.status)),
    )
    server.publisher, server.store, server.observed = publisher, store, observed
    async with server:
        scheme = "https" if server.settings.tls else "http"
        server.url = f"{scheme}://127.0.0.1:{server.port}"
        if client:
            async with httpx.AsyncClient(base_url=server.url, timeout=20) as server.client:
                yield server
        else:
            yield server


@pytest.mark.parametrize("path", ["/fhir/", "/fhir/Observation/", "/fhir/Observation/o1/", "/hook/", "/hook/Observation/o1/"])
async def test_a_slash_at_the_end_is_nothing_and_never_redirected(path):
    async with site() as server:
        made = observation(id="o1") if "o1" in path or path == "/hook/" else observation()
        sent = bundle(made) if path == "/fhir/" else made
        answer = await server.client.request("PUT" if "o1" in path else "POST", path, json=sent, follow_redirects=False)
        assert answer.status_code in (200, 201)
        assert "http:" not in answer.headers.get("location", "")
        assert [type(event) for event in server.publisher.events] == [VitalsEvent]


async def test_create_and_update():
    async with site() as server:
        created = await server.client.post("/fhir/Observation", json=pressure())
        assert created.status_code == 201
        assert created.headers["content-type"] == "application/fhir+json"
        assert created.headers["location"].startswith("/fhir/Observation/")
        updated = await server.client.put("/fhir/Patient/7", json=patient(id="7"))
        assert updated.status_code == 200
        assert {type(event) for event in server.publisher.events} == {VitalsEvent, PatientEvent}
        assert server.observed == [("fhir", "accepted", 201), ("fhir", "accepted", 200)]


async def test_a_deletion_takes_back_and_says_what_it_cannot():
    async with site() as server:
        assert (await server.client.put("/fhir/Observation/o1", json=observation(id="o1"))).status_code == 200
        gone = await server.client.delete("/fhir/Observation/o1")
        assert (gone.status_code, gone.json()["resourceType"]) == (200, "OperationOutcome")
        assert [one.status for event in server.publisher.events for one in event.observations] == ["final", "entered-in-error"]
        assert (await server.client.delete("/fhir/Observation/o1")).status_code == 200
        unknown = await server.client.delete("/fhir/Observation/o2", headers={"Accept": "application/fhir+xml"})
        assert (unknown.status_code, b"not-found" in unknown.content) == (404, True)
        refused = await server.client.delete("/fhir/Encounter/e1")
        assert (refused.status_code, refused.headers["allow"]) == (405, "PUT")
        assert {*(await server.client.get("/fhir/Observation/o1")).headers["allow"].split(", ")} == {"PUT", "DELETE"}
        assert (await server.client.put("/hook/Observation/o3", json=observation(id="o3"))).status_code in (200, 201)
        assert (await server.client.delete("/hook/Observation/o3")).status_code == 200
        assert (await server.client.delete("/hook/Observation/o4")).status_code == 200
        assert len(server.publisher.events) == 4


async def test_a_deletion_that_the_broker_does_not_confirm_is_sent_again():
    async with site() as server:
        await server.client.put("/fhir/Observation/o1", json=observation(id="o1"))
        server.publisher.trouble = Transient("down")
        assert (await server.client.delete("/fhir/Observation/o1")).status_code == 503
        server.publisher.trouble = None
        assert (
            (await server.client.delete("/fhir/Observation/o1")).json()["issue"][0]["diagnostics"].startswith("what an earlier")
        )


async def test_every_answer_is_valid_fhir_json():
    async with site() as server:
        answers = [
            await server.client.get("/fhir/metadata"),
            await server.client.get("/fhir/Observation/1"),
            await server.client.delete("/fhir/Observation/1"),
            await server.client.get("/elsewhere"),
            await server.client.post("/fhir/Observation", content=b"<Observation/>"),
            await server.client.post("/fhir", json=bundle(observation(), kind="batch")),
            await server.client.post("/fhir/", json=bundle(observation())),
            await server.client.post("/fhir/Appointment", json={"resourceType": "Appointment"}),
        ]
        assert [one.status_code for one in answers] == [200, 405, 404, 404, 400, 200, 200, 400]
        assert "the FHIR interface is at /fhir, " in answers[3].json()["issue"][0]["diagnostics"]
        for answer in answers:
            assert answer.headers["content-type"] == "application/fhir+json"
            assert validate(answer.json()) == []


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"content-type": "application/fhir+json"}, 201),
        ({"content-type": "application/json; charset=utf-8"}, 201),
        ({"content-type": "application/fhir+xml"}, 201),  # what it is counts
        ({"content-type": "text/plain"}, 415),
        ({"content-type": "application/fhir+json", "content-encoding": "gzip"}, 415),
    ],
)
async def test_content_types(headers, status):
    async with site() as server:
        answer = await server.client.post("/fhir/Observation", content=json.dumps(observation()), headers=headers)
        assert answer.status_code == status
        if status == 415:
            assert answer.json()["issue"][0]["code"] == "not-supported"


async def test_xml_in_and_out():
    words = """<Observation xmlns="http://hl7.org/fhir"><status value="final"/><code><coding><system value="http://loinc.org"/>
    <code value="8867-4"/></coding></code><subject><reference value="Patient/1"/></subject><valueQuantity><value value="72"/>
    <unit value="/min"/></valueQuantity></Observation>"""
    async with site() as server:
        answer = await server.client.post("/fhir/Observation", content=words, headers={"Content-Type": "application/fhir+xml"})
        assert answer.status_code == 201
        assert answer.headers["content-type"].startswith("application/fhir+xml")
        assert "<OperationOutcome" in answer.text
        json_back = await server.client.post("/fhir/Observation", content=words, headers={"Accept": "application/fhir+json"})
        assert json_back.json()["resourceType"] == "OperationOutcome"
        metadata = await server.client.get("/fhir/metadata", headers={"Accept": "application/fhir+xml"})
        assert "<CapabilityStatement" in metadata.text
        broken = await server.client.post("/fhir/Observation", content="<a", headers={"Content-Type": "application/fhir+xml"})
        assert (broken.status_code, "<OperationOutcome" in broken.text) == (400, True)


@pytest.mark.parametrize("trouble", [Transient("broker down"), TimeoutError(), RuntimeError("a bug")])
async def test_no_success_before_the_broker_confirmed(trouble):
    async with site() as server:
        server.publisher.trouble = trouble
        for body in (observation(), patient(), bundle(observation(), kind="batch")):
            path = "/fhir" if body["resourceType"] == "Bundle" else f"/fhir/{body['resourceType']}"
            answer = await server.client.post(path, json=body)
            assert answer.status_code == 503
            assert answer.headers["retry-after"] == "5"
        server.publisher.trouble = None
        assert (await server.client.post("/fhir/Observation", json=observation())).status_code == 201


async def test_a_slow_broker_is_answered_in_bounded_time():
    async with site(confirm_timeout=0.3) as server:
        server.publisher.delay = 30
        started = asyncio.get_running_loop().time()
        assert (await server.client.post("/fhir/Observation", json=observation())).status_code == 503
        assert asyncio.get_running_loop().time() - started < 4


async def test_an_event_that_no_broker_takes_stays_with_its_sender():
    async with site() as server:
        server.publisher.trouble = Poison("too large")
        assert (await server.client.post("/fhir/DocumentReference", json=document())).status_code == 413


async def test_what_was_not_confirmed_is_not_remembered():
    async with site() as server:
        server.publisher.trouble = Transient("broker down")
        await server.client.post("/fhir/Patient", json=patient(birthDate="1900-01-01"))
        server.publisher.trouble = None
        await server.client.post("/fhir/Encounter", json=encounter())
        assert server.publisher.events[-1].birth_date is None


async def test_contexts_are_written_one_after_the_other():
    async with site(contexts=MemoryContexts()) as server:
        server.publisher.delay = 0.02
        bodies = [patient(), encounter(), *(patient(deceasedBoolean=False, id=str(n)) for n in range(8))]
        await asyncio.gather(*(server.client.post(f"/fhir/{body['resourceType']}", json=body) for body in bodies))
        whole = [event for event in server.publisher.events if not event.merged_into][-1]
        assert (whole.birth_date, whole.encounter_status) == ("1950-02-03", "in-progress")


async def test_tokens_tell_senders_apart():
    peers = {
        "ward": FhirPeer(token=SecretStr(TOKEN)),
        "lab": FhirPeer(token=SecretStr(TOKEN[::-1]), processing="training"),
    }
    async with site(peers=peers) as server:
        for headers in ({}, {"authorization": "Bearer wrong"}, {"authorization": f"Basic {TOKEN}"}, {"authorization": TOKEN}):
            answer = await server.client.post("/fhir/Observation", json=observation(), headers=headers)
            assert answer.status_code == 401
            assert answer.headers["www-authenticate"].startswith("Bearer")
        assert (await server.client.get("/fhir/metadata")).status_code == 200
        for token in (TOKEN, TOKEN[::-1]):
            headers = {"authorization": f"Bearer {token}"}
            assert (await server.client.post("/fhir/Observation", json=observation(), headers=headers)).status_code == 201
        assert [(event.origin.peer, event.processing) for event in server.publisher.events] == [
            ("ward", "production"),
            ("lab", "training"),
        ]


async def test_rest_hooks():
    async with site() as server:
        assert (await server.client.post("/hook", json=observation())).status_code in (200, 201)
        assert (await server.client.put("/hook/Observation/o1", json=observation(id="o1"))).status_code in (200, 201)
        history = {"resourceType": "Bundle", "type": "history", "entry": [{"resource": observation()}]}
        assert (await server.client.post("/hook", json=history)).status_code == 200
        assert len(server.publisher.events) == 3
        # nobody who fetches: accepting would lose what is announced
        assert (await server.client.post("/hook")).status_code == 422


async def test_limits_of_size():
    async with site(largest_body=20_000) as server:
        big = observation(note=[{"text": "x" * 30_000}])
        assert (await server.client.post("/fhir/Observation", json=big)).status_code == 413

        async def chunks():
            for _ in range(100):
                yield b'{"resourceType":"Observation",' + b" " * 1000

        assert (await server.client.post("/fhir/Observation", content=chunks())).status_code == 413
        deep = b'{"resourceType":"Patient","extension":' + b'[{"url":"u","extension":' * 400 + b"[]" + b"}]" * 400 + b"}"
        assert (await server.client.post("/fhir/Patient", content=deep)).status_code == 400
        assert (await server.client.post("/fhir/Patient", content=b"[" * 19_000)).status_code == 400


async def test_too_many_at_once_are_asked_to_come_again():
    async with site(in_flight=2) as server:
        server.publisher.delay = 0.5
        posts = [server.client.post("/fhir/Observation", json=observation(value=n)) for n in range(6)]
        answers = [one.status_code for one in await asyncio.gather(*posts)]
        assert sorted(answers) == [201, 201, 503, 503, 503, 503]


async def test_peers_that_misbehave_disturb_nobody():
    async with site(header_timeout=1, body_timeout=1, idle_timeout=2) as server:
        silent = [await _open(server) for _ in range(50)]
        half_header = await _open(server, b"POST /fhir/Observation HTTP/1.1\r\nHost: x\r\n")
        half_body = await _open(server, b"POST /fhir/Observation HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{")
        garbage = await _open(server, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(200))
        endless = await _open(server, b"GET / HTTP/1.1\r\nX: " + b"a" * 200_000)
        assert (await server.client.post("/fhir/Observation", json=observation())).status_code == 201
        async with asyncio.timeout(5):
            assert b"408" in await half_body[0].read()
        for one in (silent[0], silent[-1], half_header, garbage, endless):
            try:
                async with asyncio.timeout(5):
                    await one[0].read()  # ends: closed by the server
            except ConnectionError:
                pass
        drip = await _open(server)
        started = asyncio.get_running_loop().time()
        with pytest.raises(ConnectionError):
            for letter in b"POST /fhir/Observation HTTP/1.1\r\nHost: x\r\n" * 10:
                drip[1].write(bytes([letter]))
                await drip[1].drain()
                await asyncio.sleep(0.05)
        assert asyncio.get_running_loop().time() - started < 5
        for _, writer in (*silent, half_header, half_body, garbage, endless, drip):
            writer.close()


async def test_slow_bodies_take_nobodys_turn():
    async with site(body_timeout=3) as server:
        head = b"POST /fhir/Observation HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n{"
        slow = [await _open(server, head) for _ in range(200)]

        async def send(n):
            # each of its own connections, as other senders would
            async with httpx.AsyncClient(base_url=server.url, timeout=20) as other:
                return [(await other.post("/fhir/Observation", json=observation(value=60 + n))).status_code for _ in range(5)]

        answers = await asyncio.gather(*(send(n) for n in range(8)))
        assert [status for each in answers for status in each] == [201] * 40
        assert (server._room.held, server._in_flight) == (200, 0)
        async with asyncio.timeout(10):
            ends = await asyncio.gather(*(reader.readline() for reader, _ in slow))
        assert {end.split()[1] for end in ends} == {b"408"}
        assert server._room.held == 0
        for _, writer in slow:
            writer.close()


async def test_a_body_that_comes_slower_than_the_least_speed_is_given_up():
    async with site(body_timeout=1, body_bytes_per_second=4_000) as server:
        head = b"POST /fhir/Observation HTTP/1.1\r\nHost: x\r\nContent-Length: 20000\r\n\r\n"
        made = json.dumps(observation()).encode().ljust(20_000)
        reader, writer = await _open(server, head)
        for n in range(0, 20_000, 2_000):  # 1.5 s, longer than `body_timeout`, and fast enough
            writer.write(made[n : n + 2_000])
            await asyncio.sleep(0.15)
        assert b" 201 " in await reader.readline()
        writer.close()
        reader, writer = await _open(server, head + made[:10_000])  # a fast start is no credit
        started = asyncio.get_running_loop().time()
        async with asyncio.timeout(5):
            assert b" 408 " in await reader.readline()
        assert asyncio.get_running_loop().time() - started < 3
        writer.close()


async def test_stalled_bodies_hold_bounded_memory_and_shut_out_no_small_ones():
    async with site(buffered_bytes=4 * 2**20, largest_body=2**20) as server:
        half = b"POST /fhir/Observation HTTP/1.1\r\nHost: x\r\nContent-Length: 400000\r\n\r\n" + b" " * 300_000
        stalled = [await _open(server, half) for _ in range(40)]  # 12 MB
        refused = 0
        for reader, _ in stalled:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0.05):
                    refused += b" 503 " in await reader.readline()
        assert 30 <= refused < 40
        assert server._room.held <= 2 * 2**20  # half of the whole, the share of one address
        assert (await server.client.post("/fhir/Observation", json=observation())).status_code == 201
        large = json.dumps(observation()).encode().ljust(300_000)
        assert (await server.client.post("/fhir/Observation", content=large)).status_code == 503
        elsewhere = httpx.AsyncHTTPTransport(local_address="127.0.0.2")
        async with httpx.AsyncClient(base_url=server.url, transport=elsewhere, timeout=20) as other:
            assert (await other.post("/fhir/Observation", content=large)).status_code == 201
        for _, writer in stalled:
            writer.close()
        async with asyncio.timeout(5):
            while server._room.held:  # noqa: ASYNC110  a server has no event for it
                await asyncio.sleep(0.01)


async def test_one_address_has_not_all_connections():
    async with site(connections=60, connections_of_one=20, client=False) as server:
        opened = [await _open(server) for _ in range(30)]
        async with asyncio.timeout(5):
            with contextlib.suppress(ConnectionResetError):
                assert await opened[-1][0].read() == b""
        elsewhere = httpx.AsyncHTTPTransport(local_address="127.0.0.2")
        async with httpx.AsyncClient(base_url=server.url, transport=elsewhere, timeout=20) as other:
            assert (await other.post("/fhir/Observation", json=observation())).status_code == 201
        for _, writer in opened:
            writer.close()


async def _open(server, data=b""):
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(data)
    await writer.drain()
    return reader, writer


async def test_a_thousand_idle_connections():
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, max(soft, 4096)), hard))
    async with site(connections=1100, connections_of_one=1100) as server:
        opened = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(1000)]
        assert (await server.client.post("/fhir/Observation", json=observation())).status_code == 201
        more = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(150)]
        more[-1].settimeout(3)
        assert await asyncio.to_thread(_closed, more[-1])
        for one in opened + more:
            one.close()


def _closed(connection):
    try:
        return connection.recv(1) == b""
    except ConnectionResetError:
        return True


async def test_stop_lets_a_request_under_way_be_answered():
    async with site() as server:
        server.publisher.delay = 0.5
        posting = asyncio.create_task(server.client.post("/fhir/Observation", json=observation()))
        while not server._in_flight:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        await server.stop()
        assert (await posting).status_code == 201


async def test_a_port_in_use_is_fatal_and_says_so():
    async with site() as server:
        again = FhirServer(
            FhirSettings(port=server.port),
            publisher=server.publisher,
            store=server.store,
            identities=identities(),
            now=lambda: NOW,
        )
        with pytest.raises(Fatal, match="cannot listen"):
            await again.start()


async def test_no_patient_data_in_logs(caplog):
    caplog.set_level(logging.DEBUG)
    async with site() as server:
        await server.client.put("/fhir/Patient/MRN4711", json=patient(id="MRN4711", name=[{"family": "Geheim"}]))
        await server.client.post("/fhir/Observation", json=observation(subject={"display": "Gerda Geheim"}))
        await server.client.post("/fhir/Observation", json=observation(status="Geheim", valueString="Geheim 4711"))
        await server.client.post("/fhir/Geheim4711", json={"resourceType": "Geheim"})
        server.publisher.trouble = RuntimeError("Geheim")
        await server.client.post("/fhir/Observation", json=observation())
    quiet = [record for record in caplog.records if not record.name.startswith(("httpx", "httpcore"))]  # the test's own client
    words = "\n".join(f"{record.getMessage()} {record.exc_text or ''}" for record in quiet)
    assert "dead-letter" in words
    for word in ("Geheim", "4711", "Gerda"):
        assert word not in words


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs the openssl command")
async def test_tls_with_client_certificates(tmp_path):
    server_files, client_files = certificate(tmp_path), certificate(tmp_path, "sender")
    tls = FhirTls(certificate_file=server_files[0], key_file=server_files[1], ca_file=client_files[0])
    async with site(tls=tls, client=False) as server:
        context = ssl.create_default_context(cafile=server_files[0])
        async with httpx.AsyncClient(base_url=server.url, verify=context) as anonymous:
            with pytest.raises(httpx.TransportError):
                await anonymous.post("/fhir/Observation", json=observation())
        context.load_cert_chain(*client_files)
        async with httpx.AsyncClient(base_url=server.url, verify=context) as known:
            assert (await known.post("/fhir/Observation", json=observation())).status_code == 201


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
async def test_curl(tmp_path):
    (tmp_path / "bundle.json").write_text(json.dumps(bundle(patient(), encounter(), observation(), document())))
    async with site() as server:
        curl = await asyncio.create_subprocess_exec(
            "curl", "-sS", "-w", "%{http_code}", "-H", "Content-Type: application/fhir+json",
            "--data-binary", f"@{tmp_path / 'bundle.json'}", f"{server.url}/fhir",
            stdout=asyncio.subprocess.PIPE,
        )  # fmt: skip
        async with asyncio.timeout(20):
            out, _ = await curl.communicate()
        assert out.endswith(b"200")
        assert {type(event) for event in server.publisher.events} == {PatientEvent, VitalsEvent, NoteEvent}


# --------------------------------------------------------------------------------------------------------------- corpora


def _corpus():
    manifest = DATA / "fhir" / "manifest.csv"
    return list(csv.DictReader(manifest.read_text().splitlines())) if manifest.exists() else []


@pytest.mark.skipif(not _corpus(), reason="the FHIR conformance files are not here")
def test_no_case_that_the_validator_accepts_is_refused(caplog):
    caplog.set_level(logging.DEBUG)
    using = FhirMapper(FhirSettings(), identities())
    refused, verdicts = set(), set()
    for row in _corpus():
        outcome = using.handle((DATA / "fhir" / row["file"]).read_bytes(), using.sender("fhir", NOW))
        verdicts.add(outcome.verdict)
        assert outcome.reason or outcome.verdict == "accepted"
        if outcome.verdict == "refused" and row["expected_errors"] == "0":
            refused.add(row["name"])
    assert verdicts == {"accepted", "ignored", "refused", "dead-letter"}
    assert refused == {"json-comments-2-yes"}  # JSON5 with comments, which the validator takes by an option, is no FHIR JSON
    assert [record for record in caplog.records if record.name.startswith("connectors")] == []


@pytest.mark.skipif(not (DATA / "fhir" / "synthea_r4").exists(), reason="the Synthea bundles are not here")
async def test_synthea_bundles_are_accepted_whole():
    async with site(contexts=MemoryContexts()) as server:
        files = sorted((DATA / "fhir" / "synthea_r4").glob("*.json.gz"))[:12]
        for file in files:
            answer = await server.client.post("/fhir", content=gzip.decompress(file.read_bytes()))
            assert answer.status_code == 200, answer.text[:500]
        assert sum(isinstance(event, PatientEvent) for event in server.publisher.events) >= len(files)
        assert sum(isinstance(event, VitalsEvent) for event in server.publisher.events) > 50
