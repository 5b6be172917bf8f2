"""The notes' and images' lanes with the shipped models, on a broker, the embedded vector store and a real Qdrant server."""

import asyncio
import uuid
from base64 import b64decode
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from connectors.objects import ObjectStore
from connectors.qdrant.embedded import EmbeddedQdrant
from connectors.qdrant.settings import NOTES, images
from connectors.qdrant.store import Point, VectorStore
from infra.kafka.host import free_ports
from models.errors import Fatal, Permanent, Transient
from models.registry import Registry
from processors.events import Coding, ImageEvent, ModelRef, ObjectReference, PatientEvent
from processors.identity import natural_id
from streams.demo import radiographs
from streams.lanes import LANES
from streams.lanes.notes import NotesToVectors
from streams.outbox import Outbox
from streams.searching import Searcher
from streams.settings import EngineSettings, KafkaSettings
from tests import clinic
from tests import lanes as test_lanes
from tests import qdrant as qdrants
from tests.clinic import ORIGIN, Clinic, Store, audited, note, note_id, points
from tests.kafka import Kafka, Record
from tests.lanes import until
from tests.vitals import LaneProcess

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(300)]

ADMISSION = (
    "HISTORY OF PRESENT ILLNESS:\r\n“Frau Müller” \U0001f600 reports chest pain since 3 a.m.\r\nShe denies fever and vomiting.\r\n"
    "\r\nPAST MEDICAL HISTORY:\r\nHistory of type 2 diabetes mellitus.\r\n\r\nFAMILY HISTORY:\r\nMother had breast cancer.\r\n\r\n"
    "PLAN:\r\nMetformin 500 mg twice daily.\r\n"
)
_DOSE = (
    "The patient slept well and was seen on the round. Family was informed about the plan of care for the coming days. "
    "Metformin 500 mg was given in dose number {}.\n"
)
LONG = "".join(map(_DOSE.format, range(200)))[:30_000]
HEART = (
    "Called to the bedside at night for crushing pain behind the breastbone with sweating. ECG shows ST elevation in the "
    "anterior leads, troponin is high: acute myocardial infarction. Aspirin given, cardiology takes him to the catheter lab."
)
LEG = "Left hip fracture after a fall in the garden. Hemiarthroplasty planned for tomorrow, nil by mouth from midnight."
COUGH = (
    "Productive cough and fever for four days, crackles at the right base. Community-acquired pneumonia, amoxicillin started."
)
CHEST = "Troponin remains raised after the heart attack. No further chest pain, the stent is patent. Walks on the ward."
DAY = datetime(2026, 5, 4, 12, tzinfo=UTC)


# --------------------------------------------------------------------------------------------------------- notes -> entities


@dataclass
class Found:
    """What a run of notes -> entities left: events by note version, audit, and the inputs as Kafka has them."""

    events: dict[str, dict[str, Any]]
    audit: list[dict[str, Any]]
    inputs: dict[str, Record]
    dead: list[dict[str, Any]]


PATIENT = "patient-a"
UNICODE, LENGTHY = note(PATIENT, "unicode", ADMISSION), note(PATIENT, "long", LONG)
WRITTEN = note(PATIENT, "cancelled", COUGH)
CANCELLED = note(PATIENT, "cancelled", COUGH, version=2, status="cancelled", relation="cancel")
BLANK = note(PATIENT, "blank", " \r\n")


@pytest.fixture(scope="module")
def found(kafka: Kafka, tmp_path_factory: pytest.TempPathFactory) -> Found:
    return asyncio.run(_find(Clinic(kafka, tmp_path_factory.mktemp("entities"))))


async def _find(site: Clinic) -> Found:
    await site.write(UNICODE, LENGTHY, WRITTEN, CANCELLED, BLANK)
    async with site.running("notes-entities") as engine:
        await site.until_done("notes-entities", "clinical.notes")
        assert engine.unready() == ""
    events = {event["source"]["event_id"]: event for event in await site.read("clinical.entities")}
    inputs = {test_lanes.bodies([record])[0]["id"]: record for record in await site.records("clinical.notes")}
    return Found(events, await site.read("clinical.audit"), inputs, await site.read("clinical.dead-letters"))


def test_entities_stand_where_the_original_text_says_with_section_and_assertion(found: Found) -> None:
    entities = found.events[UNICODE.id]["entities"]
    for one in entities:
        assert ADMISSION[one["start"] : one["end"]] == one["text"]
    said = {one["text"]: (one["section"], one["assertion"]) for one in entities}
    assert said["fever"] == ("history-of-present-illness", "negated")
    assert said["type 2 diabetes mellitus"] == ("past-medical-history", "historical")
    assert said["breast cancer"] == ("family-history", "family")
    assert said["Metformin"] == ("plan", "present")


def test_a_note_of_30000_characters_is_read_to_its_end(found: Found) -> None:
    spans = [(one["start"], one["end"], one["text"]) for one in found.events[LENGTHY.id]["entities"]]
    assert all(LONG[start:end] == text for start, end, text in spans)
    given = [start for start in range(len(LONG)) if LONG.startswith("Metformin", start)]
    assert len(given) > 180
    assert [at for at in given if not any(start <= at < end for start, end, _ in spans)] == []
    assert all(before[1] <= after[0] for before, after in pairwise(sorted(spans))), "windows overlap, entities do not"


def test_a_cancelled_note_gives_an_event_without_entities(found: Found) -> None:
    assert found.events[WRITTEN.id]["entities"]
    gone = found.events[CANCELLED.id]
    assert gone["entities"] == []
    assert (gone["note_id"], gone["note_status"]) == (WRITTEN.note_id, "cancelled")
    assert found.events[BLANK.id]["entities"] == []
    assert not found.dead


def test_every_prediction_is_found_in_the_audit_by_its_id(found: Found) -> None:
    model = Registry.load().entry("ner")
    entries = {event_id: (entry, record) for event_id, entry, record in audited(found.audit)}
    assert set(entries) == {event["id"] for event in found.events.values()}
    for event in found.events.values():
        entry, record = entries[event["id"]]
        source = event["source"]
        assert entry["input_id"] == source["event_id"]
        assert entry["input_digest"] == sha256(found.inputs[source["event_id"]].value or b"").hexdigest()
        assert entry["outcome"] == "ok"
        assert record["model"] == event["model"] == ModelRef(
            name=model.name, version=model.version, digest=model.digest
        ).model_dump()  # fmt: skip
        assert (record["action"], record["agent"]) == ("predict", "notes-entities@test-0")
        assert record["subject"] == f"clinical.notes/{source['partition']}"


# ------------------------------------------------------------------------------------------- notes -> vectors, images -> both


@dataclass
class Embedded:
    """What the vector store held: after the first versions, after the second, and after all was processed once more."""

    site: Clinic
    patients: tuple[str, str, str]
    before: dict[str, list[Point]]
    after: dict[str, list[Point]]
    again: list[Point]
    pictures: list[Point]
    findings: list[dict[str, Any]]
    audit: list[dict[str, Any]]
    dead: list[dict[str, Any]]
    events: dict[str, ImageEvent]

    def note(self, name: str) -> str:
        return note_id(self.patients[0], name)


class Again(NotesToVectors):
    """The same lane under another consumer group."""

    name = "notes-vectors-again"


@pytest.fixture(scope="module", params=["embedded", "server"])
def vectors(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    if request.param == "server":
        yield request.getfixturevalue("qdrant_server").url
        return
    with EmbeddedQdrant(tmp_path_factory.mktemp("vectors")) as store:
        yield store.url


@pytest.fixture(scope="module")
def embedded(kafka: Kafka, vectors: str, tmp_path_factory: pytest.TempPathFactory) -> Embedded:
    engine = EngineSettings(
        session_timeout=6.0, heartbeat_interval=1.0, backoff_most=0.5, commit_every=0.1, request_timeout=7.0
    )
    return asyncio.run(_embed(Clinic(kafka, tmp_path_factory.mktemp("site"), vectors=vectors, engine=engine)))


async def _embed(site: Clinic) -> Embedded:
    run = uuid.uuid4().hex[:8]
    first, second, third = patients = (f"a-{run}", f"b-{run}", f"c-{run}")
    radiology = Coding(system="http://loinc.org", code="18748-4", display="Diagnostic imaging study")
    await site.write(
        note(first, "long", LONG),
        note(first, "corrected", LONG[:4000]),
        note(first, "cancelled", LEG),
        note(first, "added-to", LEG),
        note(first, "replaced", LONG[:3000]),
        note(first, "heart", HEART, authored_at=DAY + timedelta(hours=2)),
        note(second, "leg", LEG, authored_at=DAY - timedelta(days=2)),
        note(second, "cough", COUGH, note_type=radiology),
        note(third, "chest", CHEST, authored_at=DAY + timedelta(days=1)),
    )
    events = await _pictures(site, first)
    await site.write(*events.values())
    async with site.running("notes-vectors"), site.running("images"):
        await site.until_done("notes-vectors", "clinical.notes")
        before = await _by_note(site, patients)
        await site.write(
            note(first, "corrected", "Corrected: seen on the round, no metformin given.", version=2, status="corrected"),
            note(first, "cancelled", LEG, version=2, status="cancelled", relation="cancel"),
            note(
                first, "addendum", "Addendum: the X-ray was reviewed.", relation="addendum", replaces=note_id(first, "added-to")
            ),
            note(first, "replacement", CHEST, relation="replacement", replaces=note_id(first, "replaced")),
        )
        await site.until_done("notes-vectors", "clinical.notes")
        await site.until_done("images", "clinical.images")
    after = await _by_note(site, patients)
    async with test_lanes.running(site.settings, Again):
        await site.until_done(Again.name, "clinical.notes")
    again = await points(site.settings, NOTES, patients)
    return Embedded(
        site, patients, before, after, again,
        pictures=await points(site.settings, images(_dimensions()), patients),
        findings=await site.read("clinical.findings"),
        audit=await site.read("clinical.audit"),
        dead=await site.read("clinical.dead-letters"),
        events=events,
    )  # fmt: skip


def _dimensions() -> int:
    return Registry.load().open("image-text").dimensions


async def _by_note(site: Clinic, patients: tuple[str, ...]) -> dict[str, list[Point]]:
    notes: dict[str, list[Point]] = defaultdict(list)
    for point in await points(site.settings, NOTES, patients):
        notes[str(point.payload["note_id"])].append(point)
    return {name: sorted(mine, key=lambda point: int(point.payload["chunk"] or 0)) for name, mine in notes.items()}


async def _pictures(site: Clinic, patient: str) -> dict[str, ImageEvent]:
    """Store films, and spoil some of the objects."""
    store, folder = ObjectStore(site.settings.objects), Path(site.settings.objects.url)
    stored: dict[str, ObjectReference] = {}
    for number, (name, sign) in enumerate(
        {"clear": "clear", "effusion": "effusion", "altered": "clear", "missing": "clear"}.items()
    ):
        data = radiographs.png(radiographs.draw(number, sign, 160))
        stored[name] = await store.put(data, "image/png", ".png")
    stored["garbage"] = await store.put(b"\x89PNG\r\n\x1a\nno picture", "image/png", ".png")
    altered = folder / stored["altered"].uri
    altered.chmod(0o600)
    altered.write_bytes(altered.read_bytes()[:-20] + bytes(20))
    (folder / stored["missing"].uri).unlink()
    return {name: _image(patient, name, reference) for name, reference in stored.items()}


def _image(patient: str, name: str, reference: ObjectReference) -> ImageEvent:
    return ImageEvent(
        id=natural_id(patient, "image", name),
        patient_id=patient,
        study_uid=f"2.25.1.{name}",
        series_uid=f"2.25.2.{name}",
        instance_uid=f"2.25.3.{patient}.{name}",
        modality="DX",
        body_part="CHEST",
        rows=160,
        columns=160,
        pixels=reference,
        acquired_at=DAY,
        received_at=DAY,
        origin=ORIGIN,
    )


@pytest.mark.qdrant
def test_the_chunks_of_a_long_note_hold_all_of_its_text(embedded: Embedded) -> None:
    chunks = embedded.before[embedded.note("long")]
    assert len(chunks) > 20
    held = bytearray(len(LONG))
    for index, point in enumerate(chunks):
        start, end = int(point.payload["start"] or 0), int(point.payload["end"] or 0)
        assert point.payload["chunk"] == index
        assert point.payload["passage"] == LONG[start:end]
        held[start:end] = b"\1" * (end - start)
    assert LONG.strip() and not "".join(letter for letter, seen in zip(LONG, held, strict=True) if not seen).strip()


@pytest.mark.qdrant
def test_a_point_says_whose_it_is_and_what_made_it(embedded: Embedded) -> None:
    (point,) = embedded.after[embedded.note("heart")]
    model = Registry.load().entry("embedding")
    expected = {
        "patient_id": embedded.patients[0],
        "note_id": embedded.note("heart"),
        "version": natural_id(embedded.patients[0], "heart", 1),
        "status": "final",
        "type": "11506-3",
        "time": "2026-05-04T14:00:00.000000Z",
        "model": model.name,
        "model_digest": model.digest,
        "passage": HEART,
        "topic": "clinical.notes",
    }
    assert {name: point.payload[name] for name in expected} == expected
    assert point.vector.shape == (384,)


@pytest.mark.qdrant
def test_versions_replace_withdraw_and_add(embedded: Embedded) -> None:
    before, after = embedded.before, embedded.after
    corrected, replaced = embedded.note("corrected"), embedded.note("replaced")
    assert len(before[corrected]) > 2
    (only,) = after[corrected]
    assert only.payload["passage"] == "Corrected: seen on the round, no metformin given."
    assert only.id == before[corrected][0].id, "the first chunk's id stays over the versions"
    assert before[embedded.note("cancelled")] and embedded.note("cancelled") not in after
    assert len(before[replaced]) > 1 and replaced not in after
    assert len(after[embedded.note("replacement")]) == 1
    assert [p.id for p in after[embedded.note("added-to")]] == [p.id for p in before[embedded.note("added-to")]]
    assert len(after[embedded.note("addendum")]) == 1


@pytest.mark.qdrant
def test_processing_the_same_records_once_more_changes_nothing(embedded: Embedded) -> None:
    after = [point for mine in embedded.after.values() for point in mine]
    assert sorted(point.id for point in embedded.again) == sorted(point.id for point in after)
    again = {point.id: point for point in embedded.again}
    for point in after:
        assert again[point.id].payload == point.payload
        assert float(again[point.id].vector @ point.vector) > 0.9999


@pytest.mark.qdrant
def test_findings_are_probabilities_and_every_image_has_its_vector(embedded: Embedded) -> None:
    model = Registry.load().entry("image-text")
    good = {embedded.events[name].id for name in ("clear", "effusion")}
    assert {event["source"]["event_id"] for event in embedded.findings} == good
    for event in embedded.findings:
        assert {one["label"] for one in event["findings"]} == set(model.labels)
        assert all(0 <= one["score"] <= 1 for one in event["findings"])
    assert {point.payload["version"] for point in embedded.pictures} == good
    entries = {event_id: (entry, record) for event_id, entry, record in audited(embedded.audit)}
    for event in embedded.findings:
        entry, record = entries[event["id"]]
        assert (entry["input_id"], entry["outcome"]) == (event["source"]["event_id"], "ok")
        assert record["model"]["digest"] == event["model"]["digest"] == model.digest


@pytest.mark.qdrant
def test_images_whose_pixels_cannot_be_had_are_dead_letters(embedded: Embedded) -> None:
    by_id = {event.id: name for name, event in embedded.events.items()}
    letters = {}
    for letter in embedded.dead:
        original = ImageEvent.model_validate_json(b64decode(letter["original_value"]))
        letters[by_id[original.id]] = (letter["lane"], letter["stage"])
    assert letters == {"altered": ("images", "fetch"), "missing": ("images", "fetch"), "garbage": ("images", "decode")}
    assert len(embedded.dead) == 3
    outcomes = Counter(entry["outcome"] for _, entry, record in audited(embedded.audit) if "images" in record["agent"])
    assert outcomes == {"ok": 2, "dead-letter": 3}


# ------------------------------------------------------------------------------------------------------------------ searching


@pytest.mark.qdrant
async def test_a_search_finds_the_note_with_its_passage_and_filters(embedded: Embedded) -> None:
    first, second, third = embedded.patients
    everyone = {"patient_ids": embedded.patients}
    async with Searcher(embedded.site.settings) as searcher:
        best = (await searcher.search("heart attack with ST elevation", where=everyone))[0]
        assert (best["note_id"], best["patient_id"], best["passage"]) == (embedded.note("heart"), first, HEART)
        deep = (await searcher.search("Metformin in dose number 150", where={"patient_ids": [first]}, limit=3))[0]
        assert deep["note_id"] == embedded.note("long") and deep["passage"] in LONG

        async def patients(**where: Any) -> set[str]:
            return {hit["patient_id"] for hit in await searcher.search("hospital", where={**everyone, **where}, limit=50)}

        assert await patients() == {first, second, third}
        assert await patients(patient_ids=[second]) == {second}
        assert await patients(types=["18748-4"]) == {second}
        assert await patients(since=DAY + timedelta(hours=12)) == {third}
        assert await patients(until=DAY) == {second}
        films = await searcher.search("a chest radiograph", where=everyone, images=True)
        assert {film["instance_uid"] for film in films} == {f"2.25.3.{first}.clear", f"2.25.3.{first}.effusion"}
        assert films[0]["score"] >= films[1]["score"]
        similar = await searcher.similar(third, limit=200)
        ours = [hit["patient_id"] for hit in similar if hit["patient_id"] in embedded.patients]
        assert ours == [first, second], "the other heart before hip and lung"
        assert similar[0]["passage"]


@pytest.mark.qdrant
async def test_an_access_is_audited_before_it_is_shown(embedded: Embedded) -> None:
    site, user = embedded.site, f"dr-{uuid.uuid4().hex[:6]}"
    asked = "hip fracture of Mrs. Example"
    outbox = Outbox(site.settings, source="/vigil/test/search")
    async with Searcher(site.settings, outbox=outbox, user=user) as searcher:
        shown = await searcher.search(asked, where={"patient_ids": embedded.patients})
        records = await site.records("clinical.audit")
        (access,) = [body for body in test_lanes.bodies(records) if body["agent"] == user]
        assert (access["action"], access["subject"]) == ("access", "search/notes")
        assert {entry["patient_id"] for entry in access["entries"]} == {hit["patient_id"] for hit in shown}
        assert {entry["input_digest"] for entry in access["entries"]} == {sha256(asked.encode()).hexdigest()}
        assert not any(b"Example" in (record.value or b"") for record in records), "what was asked may name a patient"
        with pytest.raises(Permanent, match="no notes of nobody are in the vector store"):
            await searcher.search(asked, where={"patient_ids": ["nobody"]})
        accesses = [body for body in await site.read("clinical.audit") if body["agent"] == user]
        assert len(accesses) == 2, "an access that found nothing is one"


@pytest.mark.qdrant
async def test_nothing_is_shown_without_a_broker_to_audit_it(embedded: Embedded) -> None:
    (port,) = free_ports(1)
    away = KafkaSettings(bootstrap=f"127.0.0.1:{port}")
    settings = embedded.site.settings.model_copy(update={"kafka": away})
    searcher = Searcher(settings, outbox=Outbox(settings, source="/vigil/test/search"), user="dr-x")
    with pytest.raises(Transient, match="no broker answers"):
        await searcher.__aenter__()
    await searcher.__aexit__()


@pytest.mark.qdrant
@pytest.mark.real_kafka
async def test_nothing_is_shown_when_the_broker_dies_before_the_audit(embedded: Embedded, kafka: Kafka) -> None:
    settings = embedded.site.settings
    async with Searcher(settings, outbox=Outbox(settings, source="/vigil/test/search"), user="dr-y") as searcher:
        await asyncio.to_thread(kafka.kill)
        with pytest.raises(Transient):
            await searcher.search("hip fracture", where={"patient_ids": embedded.patients})


# ------------------------------------------------------------------------------------------------------------------- troubles


@pytest.fixture(params=["embedded", "server"])
def own_store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    program = qdrants.binary() if request.param == "server" else None
    if request.param == "server" and program is None:
        pytest.skip("needs a real Qdrant server: VIGIL_TEST_QDRANT_BIN names no binary")
    with clinic.killable_store(tmp_path / "store", program) as store:
        yield store


@pytest.mark.qdrant
async def test_a_killed_vector_store_holds_the_lane_and_loses_nothing(kafka: Kafka, tmp_path: Path, own_store: Store) -> None:
    site = Clinic(kafka, tmp_path, vectors=own_store.url)
    patients = [f"p{number}" for number in range(5)]
    notes = [note(patients[number % 5], f"n{number}", f"Note {number}. {LEG}") for number in range(60)]
    await site.write(*notes[:40])
    async with site.running("notes-vectors") as engine:
        await until(lambda: site.committed("notes-vectors", "clinical.notes"), what="something is committed")
        await asyncio.to_thread(own_store.kill)
        await site.write(*notes[40:])
        await until(lambda: "held" in engine.unready(), what="the lane says that it holds")
        assert own_store.url in engine.unready() and "store" in engine.unready()
        await asyncio.sleep(1.0)  # several attempts long
        assert await site.committed("notes-vectors", "clinical.notes") < len(notes)
        await asyncio.to_thread(own_store.start)
        await site.until_done("notes-vectors", "clinical.notes")
        await until(lambda: engine.unready() == "", what="the lane is ready again")
    held = await points(site.settings, NOTES, patients)
    assert Counter(point.payload["version"] for point in held) == Counter(one.id for one in notes)
    assert not await site.read("clinical.dead-letters")
    entries = Counter(entry["input_id"] for _, entry, _ in audited(await site.read("clinical.audit")))
    assert set(entries) == {one.id for one in notes}


@pytest.mark.qdrant
async def test_a_collection_of_another_model_stops_the_lane_with_words(kafka: Kafka, tmp_path: Path, own_store: Store) -> None:
    site = Clinic(kafka, tmp_path, vectors=own_store.url)
    async with VectorStore(site.settings.vectors) as store:
        await store.ensure([replace(NOTES, dimensions=8)])
    await site.write(note("p", "n", LEG))
    async with site.running("notes-vectors") as engine:
        failure = await until(lambda: engine.failure, what="the lane fails")
    assert isinstance(failure, Fatal)
    assert "collection notes" in str(failure) and '"text" 8' in str(failure) and '"text" 384' in str(failure)
    assert "another model" in (failure.hint or "")
    assert await site.committed("notes-vectors", "clinical.notes") == 0


@pytest.mark.qdrant
async def test_a_merge_waits_for_the_notes_that_were_sent_before_it(kafka: Kafka, tmp_path: Path, own_store: Store) -> None:
    site = Clinic(kafka, tmp_path, vectors=own_store.url)
    merged = PatientEvent(id="merge", patient_id="old", merged_into="new", effective_at=DAY, received_at=DAY, origin=ORIGIN)
    await site.write(note("old", "n", LEG), note("other", "n", LEG), merged)
    async with site.running("merges") as merges:
        await until(lambda: "notes-vectors" in merges.unready(), what="the merge waits, and says for what")
        assert await site.committed("merges", "clinical.patients") == 0
        async with site.running("notes-vectors"):
            await site.until_done("merges", "clinical.patients")
            await until(lambda: merges.unready() == "", what="the lane is ready again")
    assert [p.payload["note_id"] for p in await points(site.settings, NOTES, ["new"])] == [note_id("old", "n")]
    assert len(await points(site.settings, NOTES, ["old", "other"])) == 1


# The vitals lane goes on with NEWS2 alone: `test_lanes_vitals.py`.
TASKS = {"notes-entities": "ner", "notes-vectors": "embedding", "images": "image-text"}


def test_every_lane_has_a_model_to_be_damaged() -> None:
    assert {*TASKS, "vitals", "merges"} == set(LANES)


@pytest.mark.parametrize("lane", TASKS)
async def test_a_damaged_model_file_keeps_its_lane_from_starting(kafka: Kafka, tmp_path: Path, lane: str) -> None:
    site = Clinic(kafka, tmp_path, models=clinic.damaged_model(tmp_path, TASKS[lane]))
    async with site.running(lane) as engine:
        failure = await until(lambda: engine.failure, what="the lane fails")
    assert isinstance(failure, Fatal)
    assert "model.onnx" in str(failure) and Registry.load().entry(TASKS[lane]).name in str(failure)


def test_a_lane_that_refuses_to_start_says_so_and_exits(kafka: Kafka, tmp_path: Path) -> None:
    models = clinic.damaged_model(tmp_path, "ner")
    env = {
        "VIGIL_KAFKA__BOOTSTRAP": kafka.bootstrap,
        "VIGIL_KAFKA__TOPIC_PREFIX": Clinic(
            kafka, tmp_path
        ).prefix,  # whose topics are there: a lane waits for them before all else
        "VIGIL_MODELS__REGISTRY": str(models.registry),
        "VIGIL_LANES__NOTES_ENTITIES__NICE": "0",  # else it waits for whatever else runs here
    }
    lane = LaneProcess("notes-entities", env, tmp_path / "log")
    lane.start()
    assert lane._process is not None
    try:
        assert lane._process.wait(100) == 1
    finally:
        lane.stop()
    assert "model.onnx" in lane.log and "Traceback" not in lane.log
