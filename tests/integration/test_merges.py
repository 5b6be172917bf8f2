"""A merge of two records: the vectors follow, and so does the watch."""

import asyncio
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from connectors.hl7.sender import MllpSender
from connectors.hl7.settings import MllpSettings
from connectors.identity import Identities
from connectors.qdrant.embedded import EmbeddedQdrant
from connectors.qdrant.settings import NOTES, QdrantSettings
from connectors.qdrant.store import Point, VectorStore, Where
from processors.events import Identifier, PatientEvent
from processors.identity import natural_id
from streams.edge import running as serving
from streams.lanes.merges import PatientsToVectors
from streams.settings import ConnectorSettings, KafkaSettings, Settings, VitalsStateSettings
from tests import bedside
from tests.clinic import Clinic
from tests.hl7_messages import message, obx
from tests.kafka import Kafka
from tests.lanes import produce, running, until
from tests.vitals import patient

pytestmark = pytest.mark.kafka
NOW = datetime(2026, 1, 1, tzinfo=UTC)


def merged(old: int, new: int) -> PatientEvent:
    return patient(old, NOW).model_copy(update={"merged_into": f"patient-{new:04d}", "id": natural_id("merge", old, new)})


@pytest.mark.parametrize(
    "parts",
    [
        [(b"one", [patient(1, NOW), merged(1, 2), merged(2, 3)])],
        [(b"one", [merged(2, 3)]), (b"other", [patient(1, NOW), merged(1, 2)])],  # the last link first, from another partition
        [(b"one", [merged(1, 2)]), (b"other", [merged(2, 3)])],
        [(b"one", [merged(4, 3), patient(4, NOW + timedelta(minutes=1)), merged(2, 3), merged(1, 2)])],  # the first is undone
    ],
)
async def test_a_chain_of_merges_ends_at_the_last_and_others_stay(
    kafka: Kafka, tmp_path: Path, parts: list[tuple[bytes, list[PatientEvent]]]
) -> None:
    prefix = kafka.name("m") + "."
    for topic in ("clinical.patients", "clinical.audit", "clinical.dead-letters"):
        kafka.create(prefix + topic, 2)
    with EmbeddedQdrant(tmp_path / "vectors", sync=False) as embedded:
        vectors = QdrantSettings(url=embedded.url)
        settings = Settings(
            kafka=KafkaSettings(bootstrap=kafka.bootstrap, topic_prefix=prefix, embedded=kafka.kind == "embedded"),
            vectors=vectors,
        )
        async with VectorStore(vectors) as store:
            await store.ensure([NOTES])
            row = np.eye(1, NOTES.dimensions, dtype=np.float32)[0]
            await store.upsert(
                NOTES, [Point(natural_id("p", n), row, {"patient_id": f"patient-{n:04d}"}) for n in (1, 2, 3, 4)]
            )
            written = 0
            async with running(settings, PatientsToVectors):

                async def done() -> bool:
                    offsets = await asyncio.to_thread(kafka.committed, f"{prefix}vigil.merges", prefix + "clinical.patients")
                    return sum(offsets.values()) == written

                for key, events in parts:
                    wire = [(key, event.model_dump_json().encode()) for event in events]
                    await produce(kafka.bootstrap, prefix + "clinical.patients", wire, 2)
                    written += len(events)
                    await until(done, what="the merges are committed")
            counts = {n: await store.count(NOTES, Where(patient_ids=(f"patient-{n:04d}",))) for n in (1, 2, 3, 4)}
    assert counts == {1: 0, 2: 0, 3: 3, 4: 1}


def stamped(at: datetime) -> str:
    return f"{at:%Y%m%d%H%M%S}+0000"


def pid(number: str) -> str:
    return f"PID|1||{number}^^^HOSP^MR||DOE^JANE||19500321|F"


def adt(trigger: str, *segments: str) -> bytes:
    at = stamped(datetime.now(UTC))
    return message(f"EVN|{trigger}|{at}", *segments, kind=f"ADT^{trigger}", control_id=natural_id(trigger, *segments), sent=at)


def charted(number: str, pulse: int, *place: str) -> bytes:
    """A set that makes NEWS2 7 and more, as a device with this patient's number sends it."""
    at = stamped(datetime.now(UTC))
    lines = [
        obx("9279-1^Respirations^LN", "28", "/min^^UCUM", number=1),
        obx("59408-5^SpO2^LN", "85", "%^^UCUM", number=2),
        obx("8867-4^Heart rate^LN", str(pulse), "/min^^UCUM", number=3),
    ]
    order = f"OBR|1||F9|VS^Vitals|||{at}"
    return message(pid(number), *place, order, *lines, control_id=f"{number}-{pulse}", sent=at)


async def told(site: Clinic, patient_id: str, state: str, total: int) -> dict[str, Any]:
    """Wait for a step of an alert."""

    async def found() -> dict[str, Any] | None:
        steps = [one for one in await site.read("clinical.alerts") if one.get("patient_id") == patient_id]
        right = (one for one in steps if one.get("state") == state and (one.get("news2") or {"total": 0})["total"] == total)
        return next(right, None)

    return dict(await until(found, within=60, what=f"an alert is {state} with {total} points"))


@pytest.mark.timeout(180)
@pytest.mark.parametrize("prior", ["200^^^HOSP^MR", "200"])  # without an authority: PID's, not MSH-4's
async def test_a_patient_goes_on_being_watched_over_a_merge(kafka: Kafka, tmp_path: Path, prior: str) -> None:
    """Over MLLP: the alert goes on under the survivor, and so does what a device sends that nobody has given the new number."""
    mllp = ConnectorSettings(mllp=MllpSettings.model_validate({"port": 0}), enabled=("mllp",))
    site = Clinic(kafka, tmp_path, connectors=mllp, state=VitalsStateSettings(tick_seconds=0.2))
    ids = Identities(site.settings.identity)
    survivor, old = (ids.patient(Identifier(authority="HOSP", value=number)) for number in ("100", "200"))

    async with site.running("vitals"), serving(site.settings) as addresses, MllpSender(*addresses["mllp"]) as ehr:
        for number in ("100", "200"):
            await ehr.send(adt("A01", pid(number), f"PV1|1|I|W1^R2^B3{'|' * 16}E{number}"))
        await ehr.send(charted("200", 70))
        raised = await told(site, old, "raised", 6)
        await ehr.send(adt("A40", pid("100"), f"MRG|{prior}"))
        gone = await told(site, old, "withdrawn", 0)
        assert (gone["alert_id"], gone["reason"]) == (raised["alert_id"], f"merged into {survivor}: watched there from now on")
        again = await told(site, survivor, "raised", 6)
        assert again["observed_at"] == raised["observed_at"]
        await ehr.send(charted("200", 135))
        assert (await told(site, survivor, "updated", 9))["alert_id"] == again["alert_id"]
        # Of a process that has not heard of the merge: filed under the old id, passed on by the lane.
        now = datetime.now(UTC)
        stray = bedside.vitals(0, {**bedside.ILL, "hr": 135, "sbp": 85}, patient=old, id="stray")
        await site.write(stray.model_copy(update={"observed_at": now, "received_at": now + timedelta(seconds=1)}))
        assert (await told(site, survivor, "updated", 14))["alert_id"] == again["alert_id"]
    scores = [one for one in await site.read("clinical.scores") if one["patient_id"] == old]
    assert [one["flags"] for one in scores] == [[], ["moved"]]
    assert not await site.read("clinical.dead-letters")


@pytest.mark.timeout(180)
async def test_a_patient_of_whom_only_a_gateway_speaks_is_watched_and_registration_says_it_better(
    kafka: Kafka, tmp_path: Path
) -> None:
    """Over MLLP: age and place come with the set itself; an admission that is told later moves the alert."""
    mllp = ConnectorSettings(mllp=MllpSettings.model_validate({"port": 0}), enabled=("mllp",))
    site = Clinic(kafka, tmp_path, connectors=mllp, state=VitalsStateSettings(tick_seconds=0.2))
    person = Identities(site.settings.identity).patient(Identifier(authority="HOSP", value="300"))
    admission = adt("A01", pid("300"), f"PV1|1|I|W5^R2^B3{'|' * 16}E300")
    async with site.running("vitals"), serving(site.settings) as addresses, MllpSender(*addresses["mllp"]) as gateway:
        for _ in range(2):  # the second is a resend
            assert (await gateway.send(charted("300", 70, "PV1|1|I|W1^R1^B1"))).code == "AA"
        raised = await told(site, person, "raised", 6)
        assert raised["location"] == {"ward": "W1", "room": "R1", "bed": "B1", "facility": ""}
        await gateway.send(charted("300", 71, "PV1|1|I|W9^R9^B9"))
        await gateway.send(admission)
        moved = await told(site, person, "updated", 6)
        assert (moved["alert_id"], moved["reason"], moved["location"]["ward"]) == (raised["alert_id"], "transferred", "W5")
        await gateway.send(charted("300", 135, "PV1|1|I|W9^R9^B9"))
        assert (await told(site, person, "updated", 9))["location"]["ward"] == "W5"
    contexts = await site.read("clinical.patients")
    assert [(one["encounter_status"], one["location"]["ward"]) for one in contexts] == [
        ("unknown", "W1"),
        ("in-progress", "W5"),
    ]
    assert not await site.read("clinical.dead-letters")
