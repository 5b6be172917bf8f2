"""The puller against a small FHIR server of the tests, over real sockets: pages, Bulk Data, notifications that only announce."""

import asyncio
import socket
from base64 import b64decode
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta

import httpx
import orjson
import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from connectors.fhir.bookmarks import Bookmark
from connectors.fhir.handling import FhirMapper
from connectors.fhir.publishing import Publishing
from connectors.fhir.pull import ORDER, Puller
from connectors.fhir.server import FhirServer
from connectors.fhir.settings import FhirPeer, FhirSettings
from connectors.serving import QuietServer
from models.errors import Permanent, Poison, Transient
from processors.events import DeadLetterEvent, ObjectReference, VitalsEvent
from tests.edge import MemoryStore, RecordingPublisher, identities
from tests.fhir_resources import document, observation
from tests.unit.connectors.fhir.test_subscriptions import history, parameters

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
START = datetime(2026, 11, 1, tzinfo=UTC)


class Ehr:
    """A FHIR server that holds observations, one a minute, in pages of five; it can be busy, unsorted, or break off."""

    def __init__(self, count=23):
        self.resources = [
            observation(id=f"o{n}", value=60 + n, meta={"versionId": "1", "lastUpdated": self.stamp(n)}) for n in range(count)
        ]
        self.asked: list[str] = []
        self.busy = 0
        self.page = 5
        self.descending = False
        self.break_off_after = 0
        self.polls = 2
        self.kinds = ORDER
        self.deleted: set[str] = set()
        self.statement = self.statement_of(*ORDER)
        self.url = ""
        self.binaries: dict[str, list[Response]] = {}  # id -> what it is answered with, the last one for good

    @staticmethod
    def stamp(n):
        return (START + timedelta(minutes=n)).isoformat().replace("+00:00", "Z")

    async def search(self, request):
        self.asked.append(str(request.url.query))
        if self.busy:
            self.busy -= 1
            return Response(status_code=503, headers={"Retry-After": "0"})
        if request.headers.get("authorization") != "Bearer secret":
            return JSONResponse({"resourceType": "OperationOutcome"}, status_code=401)
        if request.path_params["kind"] not in self.kinds:
            return JSONResponse({"resourceType": "OperationOutcome"}, status_code=404)
        found = [one for one in self.resources if one["resourceType"] == request.path_params["kind"]]
        since = request.query_params.get("_lastUpdated", "ge").removeprefix("ge")
        if since:
            limit = datetime.fromisoformat(since)
            found = [one for one in found if datetime.fromisoformat(one["meta"]["lastUpdated"]) >= limit]
        found = found[::-1] if self.descending else found
        begin = int(request.query_params.get("page", "0"))
        end = begin + self.page
        page = {"resourceType": "Bundle", "type": "searchset", "entry": [{"resource": one} for one in found[begin:end]]}
        if end < len(found):
            url = f"{self.url}/{request.path_params['kind']}?page={end}&_lastUpdated=ge{since}"
            page["link"] = [{"relation": "next", "url": url}]
        return JSONResponse(page)

    async def read(self, request):
        if answers := request.path_params["kind"] == "Binary" and self.binaries.get(request.path_params["id"]):
            self.asked.append(f"Binary/{request.path_params['id']} {request.headers.get('authorization')}")
            return answers.pop(0) if len(answers) > 1 else answers[0]
        found = [one for one in self.resources if one["id"] == request.path_params["id"]]
        gone = request.path_params["id"] in self.deleted
        return JSONResponse(found[0]) if found else Response(status_code=410 if gone else 404)

    @staticmethod
    def statement_of(*kinds):
        rest = [{"mode": "server", "resource": [{"type": kind} for kind in kinds]}]
        return {"resourceType": "CapabilityStatement", "fhirVersion": "4.0.1", "rest": rest}

    async def metadata(self, request):
        return JSONResponse(self.statement)

    async def events(self, request):
        first, last = (int(request.query_params[f"events{word}Number"]) for word in ("Since", "Until"))
        missed = [self.resources[n] for n in range(first, last + 1)]
        return JSONResponse(history(parameters("query-event", last, *range(first, last + 1)), *missed))

    async def kick_off(self, request):
        assert request.headers["prefer"] == "respond-async"
        self.asked.append("export")
        return Response(status_code=202, headers={"Content-Location": f"{self.url}/status"})

    async def status(self, request):
        if self.polls:
            self.polls -= 1
            return Response(status_code=202, headers={"Retry-After": "0"})
        output = [{"type": "Observation", "url": f"{self.url}/files/1"}, {"type": "Claim", "url": f"{self.url}/files/9"}]
        return JSONResponse({"transactionTime": self.stamp(99), "requiresAccessToken": True, "output": output, "error": []})

    async def file(self, request):
        lines = [orjson.dumps(one) + b"\n" for one in self.resources]
        if self.break_off_after:
            lines, self.break_off_after = [*lines[: self.break_off_after], b"not json\n"], 0
        return Response(b"".join(lines), media_type="application/fhir+ndjson")


@asynccontextmanager
async def running(ehr):
    app = Starlette(
        routes=[
            Route("/fhir/$export", ehr.kick_off),
            Route("/fhir/status", ehr.status),
            Route("/fhir/files/{n}", ehr.file),
            Route("/fhir/Subscription/{id}/$events", ehr.events),
            Route("/fhir/metadata", ehr.metadata),
            Route("/fhir/{kind}", ehr.search),
            Route("/fhir/{kind}/{id}", ehr.read),
        ]
    )
    listening = socket.create_server(("127.0.0.1", 0))
    ehr.url = f"http://127.0.0.1:{listening.getsockname()[1]}/fhir"
    server = QuietServer(uvicorn.Config(app, lifespan="off", log_config=None, loop="none"))
    task = asyncio.create_task(server.serve(sockets=[listening]))
    try:
        yield ehr
    finally:
        server.should_exit = True
        await task


async def no_wait(seconds):
    await asyncio.sleep(0)


@asynccontextmanager
async def pulling(ehr, publisher=None, bookmark=None, token="secret", publishing=None):
    publisher = publisher or RecordingPublisher()
    publishing = publishing or Publishing(
        FhirMapper(FhirSettings(), identities()), publisher, MemoryStore(), now=lambda: NOW, seconds=5
    )
    async with httpx.AsyncClient(headers={"Authorization": f"Bearer {token}"}) as client:
        puller = Puller(ehr.url, "fhir", client, publishing, now=lambda: NOW, bookmark=bookmark, sleep=no_wait)
        puller.publisher = publisher
        yield puller


async def test_pages_are_pulled_and_the_next_time_only_what_is_new(tmp_path):
    async with running(Ehr()) as ehr:
        async with pulling(ehr, bookmark=Bookmark(tmp_path / "mark")) as puller:
            done = await puller.pull()
            assert (done.pages, done.resources, done.events, done.refused) == (5, 23, 23, 0)
            assert len({event.id for event in puller.publisher.events}) == 23
        ehr.resources.append(observation(id="new", meta={"lastUpdated": ehr.stamp(30)}))
        async with pulling(ehr, bookmark=Bookmark(tmp_path / "mark")) as puller:
            done = await puller.pull()
            assert (
                done.resources == 7
            )  # the new one, and what was stamped in the five minutes before the last: under their old ids
        assert any("_lastUpdated=ge2026-11-01T00:17:00.000Z" in asked.replace("%3A", ":") for asked in ehr.asked)


async def test_a_stop_half_way_repeats_and_skips_nothing(tmp_path):
    class Ends(RecordingPublisher):
        async def publish(self, events, *, timeout=None):
            if len(self.calls) == 2:
                raise KeyboardInterrupt
            await super().publish(events, timeout=timeout)

    for descending in (False, True):
        async with running(Ehr()) as ehr:
            ehr.descending = descending  # a server that does not sort as it is asked
            mark = tmp_path / f"mark{descending}"
            first, second = Ends(), RecordingPublisher()
            async with pulling(ehr, first, Bookmark(mark)) as puller:
                with pytest.raises(KeyboardInterrupt):
                    await puller.pull()
            async with pulling(ehr, second, Bookmark(mark)) as puller:
                await puller.pull()
            assert len({event.id for event in first.events + second.events}) == 23


async def test_a_busy_server_and_a_broker_that_is_away_are_waited_for():
    class Shaky(RecordingPublisher):
        failures = 3

        async def publish(self, events, *, timeout=None):
            if self.failures:
                self.failures -= 1
                raise Transient("broker down")
            await super().publish(events, timeout=timeout)

    async with running(Ehr()) as ehr, pulling(ehr, Shaky()) as puller:
        ehr.busy = 4
        assert (await puller.pull()).events == 23


async def test_a_server_that_refuses_ends_the_pull_with_its_reason():
    async with running(Ehr()) as ehr, pulling(ehr, token="wrong") as puller:
        with pytest.raises(Permanent, match="answered 401") as caught:
            await puller.pull()
        assert "token" in caught.value.hint


def letters(publisher):
    return [event for event in publisher.events if isinstance(event, DeadLetterEvent)]


async def test_a_bad_resource_of_a_page_leaves_the_others_alone_and_becomes_a_dead_letter(caplog):
    async with running(Ehr()) as ehr, pulling(ehr) as puller:
        del ehr.resources[7]["status"]
        ehr.resources[8]["modifierExtension"] = [{"url": "http://example.org/not-taken", "valueBoolean": True}]
        done = await puller.pull()
        assert (done.resources, done.events, done.refused, done.kept) == (23, 21, 2, 2)
        first, second = letters(puller.publisher)
        assert (first.stage, first.original_topic) == ("decode", "connector.fhir")
        assert first.message == "Observation.status: a required element is missing"
        assert second.message.startswith("Observation.modifierExtension[0]: ")
        assert [orjson.loads(b64decode(one.original_value)) for one in (first, second)] == ehr.resources[7:9]
        await puller.pull()  # the same resources again: the same letters
        assert {letter.id for letter in letters(puller.publisher)} == {first.id, second.id}
    assert "o7" not in caplog.text  # an id may be a record number
    assert "dead letter: Observation.status" in caplog.text


async def test_the_bookmark_moves_on_only_after_the_dead_letter_is_confirmed(tmp_path):
    class Ends(RecordingPublisher):
        async def publish(self, events, *, timeout=None):
            if isinstance(events[0], DeadLetterEvent):
                raise KeyboardInterrupt
            await super().publish(events, timeout=timeout)

    async with running(Ehr()) as ehr:
        del ehr.resources[7]["status"]
        async with pulling(ehr, Ends(), Bookmark(tmp_path / "mark")) as puller:
            with pytest.raises(KeyboardInterrupt):
                await puller.pull()
        async with pulling(ehr, bookmark=Bookmark(tmp_path / "mark")) as puller:
            await puller.pull()
            assert len(letters(puller.publisher)) == 1


async def test_a_dead_letter_is_sent_until_it_is_confirmed():
    class Shaky(RecordingPublisher):
        failures = 3

        async def publish(self, events, *, timeout=None):
            if isinstance(events[0], DeadLetterEvent) and self.failures:
                self.failures -= 1
                raise Transient("broker down")
            await super().publish(events, timeout=timeout)

    async with running(Ehr()) as ehr, pulling(ehr, Shaky()) as puller:
        del ehr.resources[7]["status"]
        assert (await puller.pull()).kept == len(letters(puller.publisher)) == 1


class Small(RecordingPublisher):
    """A broker that takes no record longer than that."""

    def __init__(self, largest):
        super().__init__()
        self.largest = largest

    async def publish(self, events, *, timeout=None):
        if any(len(event.model_dump_json()) > self.largest for event in events):
            raise Poison("too large")
        await super().publish(events, timeout=timeout)


async def test_what_fits_no_record_takes_no_page_with_it():
    # a note is too large for the broker, its letter too: the resource lies in the object store
    words = "Chest pain. " * 20_000
    async with running(Ehr(count=4)) as ehr:
        ehr.resources[2:2] = [document(words, meta={"lastUpdated": ehr.stamp(2)})]
        store = MemoryStore()
        publishing = Publishing(FhirMapper(FhirSettings(), identities()), Small(100_000), store, now=lambda: NOW, seconds=5)
        async with pulling(ehr, publishing._publisher, publishing=publishing) as puller:
            await puller._take(ehr.resources, "Observation")
            assert (puller.done.resources, puller.done.events, puller.done.refused, puller.done.kept) == (5, 4, 1, 1)
            (letter,) = letters(puller.publisher)
            assert "larger than what the broker takes" in letter.message
            reference = ObjectReference.model_validate_json(b64decode(letter.original_value))
            assert orjson.loads(await store.get(reference)) == ehr.resources[2]
            store.trouble = Poison("too large for it too")
            puller.publisher.calls.clear()
            await puller._take(ehr.resources, "Observation")
            (letter,) = letters(puller.publisher)
            assert letter.cut.value_bytes == len(orjson.dumps(ehr.resources[2]))
            assert orjson.dumps(ehr.resources[2]).startswith(b64decode(letter.original_value))


async def test_what_is_not_for_us_is_no_dead_letter_by_setting_either():
    settings = FhirSettings(not_for_us="refuse")
    publisher = RecordingPublisher()
    publishing = Publishing(FhirMapper(settings, identities()), publisher, MemoryStore(), now=lambda: NOW, seconds=5)
    async with running(Ehr(count=3)) as ehr, pulling(ehr, publisher, publishing=publishing) as puller:
        ehr.resources[1]["code"] = {"text": "glucose"}
        done = await puller.pull()
        assert (done.events, done.refused, done.kept, letters(publisher)) == (2, 1, 0, [])


async def test_a_bad_resource_among_missed_events_leaves_the_others_alone():
    async with running(Ehr()) as ehr, pulling(ehr) as puller:
        del ehr.resources[3]["status"]
        await puller.missed("fhir", "Subscription/vitals", 2, 4)
        found = puller.publisher.events
        assert sorted(event.observations[0].value for event in found if isinstance(event, VitalsEvent)) == [62, 64]
        (letter,) = letters(puller.publisher)
        assert orjson.loads(b64decode(letter.original_value)) == ehr.resources[3]


async def test_a_bad_resource_that_a_notification_announced_becomes_a_dead_letter():
    async with running(Ehr()) as ehr, pulling(ehr) as puller:
        del ehr.resources[3]["status"]
        await puller.resources("fhir", ("Observation/o3", "Observation/o4"))
        assert [type(event) for event in puller.publisher.events] == [DeadLetterEvent, VitalsEvent]


async def test_pages_and_references_to_another_host_are_not_followed():
    async with running(Ehr()) as ehr, pulling(ehr) as puller:
        ehr.url = "http://127.0.0.1:1/fhir"
        with pytest.raises(Permanent, match="another host"):
            await puller.pull()
        asked = len(ehr.asked)
        await puller.resources("fhir", ("https://elsewhere.example/fhir/Observation/o1",))
        assert len(ehr.asked) == asked
        (letter,) = letters(puller.publisher)
        assert letter.message == "a notification refers to another host"


async def test_what_was_shown_late_is_fetched_and_a_stamp_of_a_time_to_come_hides_nothing(tmp_path):
    async with running(Ehr()) as ehr:
        ehr.resources.append(observation(id="ahead", meta={"lastUpdated": (NOW + timedelta(days=300)).isoformat()}))
        async with pulling(ehr, bookmark=Bookmark(tmp_path / "mark")) as puller:
            await puller.pull()
        mark = Bookmark(tmp_path / "mark")  # as an older version left it
        mark.set("Observation", (NOW + timedelta(days=300)).isoformat())
        before = (NOW - timedelta(minutes=4)).isoformat()  # of a transaction that ended after it
        ehr.resources.append(observation(id="late", meta={"lastUpdated": before}))
        async with pulling(ehr, bookmark=Bookmark(tmp_path / "mark")) as puller:
            assert (await puller.pull()).resources == 2


async def test_bulk_data_goes_on_where_it_broke_off(tmp_path):
    class Ends(RecordingPublisher):
        async def publish(self, events, *, timeout=None):
            if self.calls:
                raise KeyboardInterrupt
            await super().publish(events, timeout=timeout)

    async with running(Ehr(count=450)) as ehr:
        first, second = Ends(), RecordingPublisher()
        async with pulling(ehr, first, Bookmark(tmp_path / "mark")) as puller:
            with pytest.raises(KeyboardInterrupt):
                await puller.export()
        async with pulling(ehr, second, Bookmark(tmp_path / "mark")) as again:
            assert (await again.export()).resources == 250  # behind line 200
        assert ehr.asked.count("export") == 1
        assert len({event.id for event in first.events + second.events}) == 450


async def test_the_next_export_is_read_from_its_beginning_though_its_files_have_the_same_names(tmp_path):
    async with running(Ehr(count=9)) as ehr:
        for found in (9, 12):
            async with pulling(ehr, bookmark=Bookmark(tmp_path / "mark")) as puller:
                assert (await puller.export()).resources == found
            ehr.resources = Ehr(count=12).resources
        assert ehr.asked.count("export") == 2


async def test_a_line_that_is_no_resource_is_counted_and_kept(tmp_path):
    async with running(Ehr(count=9)) as ehr, pulling(ehr) as puller:
        ehr.break_off_after = 3
        done = await puller.export()
        assert (done.resources, done.refused, done.kept) == (3, 1, 1)
        (letter,) = letters(puller.publisher)
        assert (letter.message, b64decode(letter.original_value)) == ("line 4 of an export is no JSON object", b"not json")


async def test_a_line_ends_at_a_line_feed_and_nowhere_else(tmp_path):
    path = tmp_path / "Observation.ndjson"
    async with running(Ehr(count=3)) as ehr, pulling(ehr) as puller:
        ehr.resources[1]["note"] = [{"text": "one\u2028two\x85three"}]
        assert ((await puller.export()).events, puller.done.refused) == (3, 0)
        path.write_bytes(orjson.dumps(ehr.resources[1]) + b"\n\xff\xfe\n")
        assert ((await puller.ndjson_file(path)).events, puller.done.kept) == (4, 1)
        assert b64decode(letters(puller.publisher)[0].original_value) == b"\xff\xfe"


async def test_a_local_file(tmp_path):
    path = tmp_path / "Observation.ndjson"
    path.write_bytes(b"\n".join(orjson.dumps(observation(id=f"o{n}", value=n)) for n in range(5)))
    async with running(Ehr()) as ehr, pulling(ehr) as puller:
        assert (await puller.ndjson_file(path)).events == 5


async def test_notifications_that_only_announce(tmp_path):
    (tmp_path / "token").write_text("secret\n")
    publisher = RecordingPublisher()

    def server_for(ehr):
        peer = FhirPeer(base=ehr.url, fetch=True, fetch_token_file=tmp_path / "token")
        settings = FhirSettings(port=0, confirm_timeout=5, peers={"fhir": peer}, bookmarks=tmp_path / "marks")
        return FhirServer(settings, publisher=publisher, store=MemoryStore(), identities=identities(), now=lambda: NOW)

    async with running(Ehr()) as ehr, httpx.AsyncClient() as client:
        ehr.kinds, ehr.statement = ("Observation",), ehr.statement_of("Observation")
        async with server_for(ehr) as server:
            hook = f"http://127.0.0.1:{server.port}/hook"

            async def notify(bundle):
                bundle = orjson.loads(orjson.dumps(bundle).replace(b"https://ehr.example/fhir", ehr.url.encode()))
                return (await client.post(hook, json=bundle)).status_code

            assert await notify(history(parameters("handshake", 0))) == 200
            assert await notify(history(parameters("event-notification", 1, 1, focus=(f"{ehr.url}/Observation/o1",)))) == 200
            assert [event.observations[0].value for event in publisher.events] == [61]
            # number 4 comes, 2 and 3 were lost: they are fetched before the answer
            assert await notify(history(parameters("event-notification", 4, 4), observation(id="o4", value=64))) == 200
            assert sorted(event.observations[0].value for event in publisher.events) == [61, 62, 63, 64]
            assert server.counts.gaps == 1
            assert await notify(history(parameters("heartbeat", 4))) == 200
            assert len(publisher.events) == 4
            assert await notify(history(parameters("event-notification", 5, 5, focus=("Observation/gone",)))) == 200
            assert len(publisher.events) == 4
            # one that its server has deleted: what it said is taken back
            ehr.resources[:], ehr.deleted = [one for one in ehr.resources if one["id"] != "o2"], {"o2"}
            assert await notify(history(parameters("event-notification", 6, 6, focus=("Observation/o2",)))) == 200
            assert [(one.value, one.status) for one in publisher.events[-1].observations] == [(62, "entered-in-error")]
            # a plain R4 rest-hook: an empty POST, then a look at what has changed
            ehr.resources[:] = [observation(id="late", value=99, meta={"lastUpdated": NOW.isoformat()})]
            before = len(publisher.events)
            assert (await client.post(hook)).status_code == 200
            assert [event.observations[0].value for event in publisher.events[before:]] == [99]
        # so are numbers that were lost while nothing listened: 7 and 8
        ehr.resources[:] = [observation(id=f"n{n}", value=70 + n, meta={"lastUpdated": ehr.stamp(n)}) for n in range(10)]
        async with server_for(ehr) as server:
            before, hook = len(publisher.events), f"http://127.0.0.1:{server.port}/hook"
            assert await notify(history(parameters("event-notification", 9, 9), observation(id="n9", value=79))) == 200
            assert sorted(event.observations[0].value for event in publisher.events[before:]) == [77, 78, 79]
        # what changes while nothing listens is found by the bookmark, however long that was
        ehr.resources[:] = [observation(id="meanwhile", value=98, meta={"lastUpdated": (NOW + timedelta(hours=2)).isoformat()})]
        async with server_for(ehr) as server:
            before = len(publisher.events)
            assert (await client.post(f"http://127.0.0.1:{server.port}/hook")).status_code == 200
            assert [event.observations[0].value for event in publisher.events[before:]] == [98]


async def test_a_server_that_cannot_be_asked_is_no_confirmation():
    peer = FhirPeer(base="http://127.0.0.1:9/fhir", fetch=True)
    settings = FhirSettings(port=0, confirm_timeout=0.5, peers={"fhir": peer})
    server = FhirServer(settings, publisher=RecordingPublisher(), store=MemoryStore(), identities=identities(), now=lambda: NOW)
    async with server, httpx.AsyncClient() as client:
        answer = await client.post(f"http://127.0.0.1:{server.port}/hook")
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")


def test_who_fetches_says_where_from():
    with pytest.raises(ValueError, match="needs a `base`"):
        FhirPeer(fetch=True)
