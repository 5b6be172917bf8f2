"""A FHIR resource that is deleted: from the EHR's DELETE to what the lanes, readers and searches are left with."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest

from connectors.fhir.settings import FhirSettings
from connectors.identity import Identities
from connectors.qdrant.embedded import EmbeddedQdrant
from connectors.qdrant.settings import NOTES, images
from processors.events import Identifier
from streams import edge
from streams.demo.radiographs import draw, png
from streams.settings import ConnectorSettings, VitalsStateSettings
from tests.clinic import Clinic, points
from tests.fhir_resources import MRN, bundle, concept, document, encounter, media, observation, patient, quantity
from tests.kafka import Kafka
from tests.lanes import until

pytestmark = [pytest.mark.kafka, pytest.mark.qdrant, pytest.mark.timeout(300)]

DICOM = "http://dicom.nema.org/resources/ontology/DCM"


@pytest.fixture
async def site(kafka: Kafka, tmp_path: Path) -> AsyncIterator[Clinic]:
    connectors = ConnectorSettings(fhir=FhirSettings(port=0), enabled=("fhir",))
    with EmbeddedQdrant(tmp_path / "vectors", sync=False) as store:
        yield Clinic(kafka, tmp_path, vectors=store.url, connectors=connectors, state=VitalsStateSettings(tick_seconds=0.2))


def sign(name: str, code: str, value: float, unit: str) -> dict[str, Any]:
    now = datetime.now(UTC).isoformat(timespec="seconds")
    return observation(code, id=name, valueQuantity=quantity(value, unit), effectiveDateTime=now)


async def test_values_notes_pictures_and_a_patient_are_deleted(site: Clinic) -> None:
    person = Identities(site.settings.identity).patient(Identifier(authority=MRN, value="P1"))

    async def step(state: str, reason: str = "") -> dict[str, Any]:
        async def found() -> dict[str, Any] | None:
            steps = (one for one in await site.read("clinical.alerts") if one.get("patient_id") == person)
            return next((one for one in steps if one["state"] == state and reason in one["reason"]), None)

        return dict(await until(found, within=120, what=f"an alert is {state}"))

    async def known(count: int) -> list[int]:
        async def there() -> list[int] | None:
            totals = [len(await points(site.settings, one, [person])) for one in (NOTES, images(0))]
            return totals if totals == [count, count] else None

        return list(await until(there, within=120, what=f"{count} notes and images of the patient can be found"))

    async with (
        edge.running(site.settings) as addresses,
        site.running("vitals"),
        site.running("notes-vectors"),
        site.running("images"),
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{addresses['fhir'][1]}/fhir", timeout=30) as ehr,
    ):

        async def put(resource: dict[str, Any]) -> None:
            answer = await ehr.put(f"/{resource['resourceType']}/{resource['id']}", json=resource)
            assert answer.status_code == 200, answer.text

        async def delete(kind: str, name: str) -> None:
            answer = await ehr.delete(f"/{kind}/{name}")
            assert answer.status_code == 200, answer.text

        await put(patient(id="7", birthDate="1950-02-03"))
        await put(encounter(id="e", subject={"identifier": {"system": MRN, "value": "P1"}}))
        wrong = sign("wrong", "9279-1", 28, "/min")
        right = sign("right", "8867-4", 70, "/min") | {"effectiveDateTime": wrong["effectiveDateTime"]}
        together = bundle(wrong, right)
        for entry in together["entry"]:
            entry["request"] = {"method": "PUT", "url": f"Observation/{entry['resource']['id']}"}
        assert (await ehr.post("/", json=together)).status_code == 200
        raised = await step("raised")
        await delete("Observation", "wrong")
        assert (await step("withdrawn"))["alert_id"] == raised["alert_id"]
        scores = [one for one in await site.read("clinical.scores") if one["patient_id"] == person and one["news2"]]
        assert [one["news2"]["total"] for one in scores][-1] == 0
        assert max(one["news2"]["total"] for one in scores) == 3

        await put(document("Shortness of breath at night.", id="d"))
        await put(
            media(png(draw(1, "clear", 160)), id="m")
            | {"modality": concept("DX", DICOM), "bodySite": concept("51185008", "http://snomed.info/sct", "Chest")}
        )
        await known(1)
        await delete("DocumentReference", "d")
        await delete("Media", "m")
        await known(0)
        withdrawn = [one for one in await site.read("clinical.findings") if one["image_status"] != "final"]
        assert {one["patient_id"] for one in withdrawn} == {person}

        await put(sign("grave", "9279-1", 30, "/min"))
        await asyncio.sleep(0)
        again = await step("raised")
        await delete("Patient", "7")
        over = await step("resolved", "record deleted by registration")
        assert over["patient_id"] == again["patient_id"] == person
        contexts = [one for one in await site.read("clinical.patients") if one["patient_id"] == person]
        assert contexts[-1]["deleted"]
        assert (await ehr.delete("/DocumentReference/never")).status_code == 404
    assert not await site.read("clinical.dead-letters")
