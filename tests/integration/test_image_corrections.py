"""An image of the wrong patient, and one that its archive rejects: from the sender to what readers and searches are left with.

Connectors, a broker, the images' lane, the embedded vector store; by C-STORE, STOW-RS and the importer alike.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydicom.dataset import FileDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, KeyObjectSelectionDocumentStorage
from pynetdicom import AE

from connectors.identity import Identities
from connectors.qdrant.embedded import EmbeddedQdrant
from connectors.qdrant.settings import INSTANCES, images
from connectors.qdrant.store import VectorStore
from processors.events import Identifier
from streams import edge
from streams.cli.connect import _dicom
from streams.lanes.images import ImagesToFindings
from streams.settings import Settings
from tests import clinic, lanes
from tests.clinic import Clinic
from tests.dicom_objects import encode, make, rejection
from tests.integration.test_dicom_web import TYPE, body
from tests.kafka import Kafka

pytestmark = [pytest.mark.kafka, pytest.mark.qdrant, pytest.mark.timeout(300)]

Send = Callable[[FileDataset], Awaitable[None]]


class Again(ImagesToFindings):
    """The same lane under another consumer group: it reads the topic from its beginning."""

    name = "images-again"


class Anew(ImagesToFindings):
    """Likewise."""

    name = "images-anew"


@pytest.fixture
async def site(kafka: Kafka, tmp_path: Path) -> AsyncIterator[Clinic]:
    connectors = {"enabled": ("dicom", "stow"), "dicom": {"port": 0, "min_free_bytes": 1000}, "stow": {"port": 0}}
    with EmbeddedQdrant(tmp_path / "vectors", sync=False) as store:
        yield Clinic(kafka, tmp_path, vectors=store.url, connectors=connectors)


async def c_store(dataset: FileDataset, port: int) -> int:
    def send() -> int:
        entity = AE(ae_title="CT1")
        entity.add_requested_context(CTImageStorage, ExplicitVRLittleEndian)
        entity.add_requested_context(KeyObjectSelectionDocumentStorage, ExplicitVRLittleEndian)
        association = entity.associate("127.0.0.1", port)
        try:
            return int(association.send_c_store(dataset).Status)
        finally:
            association.release()

    return await asyncio.to_thread(send)


def ways(site: Clinic, addresses: dict[str, tuple[str, int]], folder: Path) -> dict[str, Send]:
    """The three ways in; each raises unless what it sent was stored."""

    async def by_c_store(dataset: FileDataset) -> None:
        assert await c_store(dataset, addresses["dicom"][1]) == 0

    async def by_stow(dataset: FileDataset) -> None:
        async with httpx.AsyncClient(timeout=30) as client:
            url = f"http://127.0.0.1:{addresses['stow'][1]}/dicom-web/studies"
            assert (await client.post(url, content=body(encode(dataset)), headers={"Content-Type": TYPE})).status_code == 200

    async def by_import(dataset: FileDataset) -> None:
        file = folder / "import.dcm"
        file.write_bytes(encode(dataset))
        assert (await _dicom(site.settings, file, None, None)).verdicts == {"accepted": 1}

    return {"c-store": by_c_store, "stow": by_stow, "import": by_import}


def film(patient: str) -> FileDataset:
    """A chest film: what the model is meant for."""
    return make(PatientID=patient, IssuerOfPatientID="HOSP", Modality="DX", BodyPartExamined="CHEST")


async def owners(settings: Settings) -> dict[str, list[str]]:
    """Whose vectors there are, by instance."""
    found: dict[str, list[str]] = {}
    async with VectorStore(settings.vectors) as store:
        async for point in store.scan(images(0), vectors=False):
            found.setdefault(str(point.payload["instance_uid"]), []).append(str(point.payload["patient_id"]))
    return found


def found(findings: list[dict[str, Any]]) -> dict[str, list[str]]:
    """What a reader of `clinical.findings` is left with: whose findings, by instance."""
    withdrawn = {one["image_id"] for one in findings if one["image_status"] != "final"}
    kept = {one["id"]: one for one in findings if one["image_id"] not in withdrawn}
    by_instance: dict[str, list[str]] = {}
    for one in kept.values():
        by_instance.setdefault(one["instance_uid"], []).append(one["patient_id"])
    return by_instance


async def test_a_wrong_patients_image_is_taken_back_and_a_rejected_one_too(site: Clinic, tmp_path: Path) -> None:
    identities, sent, kept, taken = Identities(site.settings.identity), 0, {}, set()

    def patient(number: str) -> str:
        return identities.patient(Identifier(authority="HOSP", value=number))

    async def done() -> None:
        site.written["clinical.images"] = sent
        await site.until_done("images", "clinical.images")

    async with edge.running(site.settings) as addresses, site.running("images"):
        for way, send in ways(site, addresses, tmp_path).items():
            wrong, right = f"{way}-1", f"{way}-2"
            image = film(wrong)
            corrected, other = deepcopy(image), film(wrong)
            corrected.PatientID = right
            uid, sent = str(image.SOPInstanceUID), sent + 2
            await send(image)
            await send(other)
            await done()
            assert (await owners(site.settings))[uid] == found(await site.read("clinical.findings"))[uid] == [patient(wrong)]
            sent += 3
            await send(corrected)
            await send(rejection(other))
            await send(image)  # the first once more
            await done()
            kept[uid] = [patient(right)]
            taken |= {(patient(wrong), uid), (patient(wrong), str(other.SOPInstanceUID))}
    assert await owners(site.settings) == found(await site.read("clinical.findings")) == kept
    assert await site.read("clinical.dead-letters") == []
    told = await check(site, taken)
    # Read once more, and by a lane and a store that have forgotten everything, it ends alike; no event is new.
    for lane in (Again, Anew):
        async with lanes.running(site.settings, lane):
            await site.until_done(lane.name, "clinical.images")
        assert await owners(site.settings) == found(await site.read("clinical.findings")) == kept
        assert await check(site, taken) == told
        async with VectorStore(site.settings.vectors) as store:
            for collection in (images(0), INSTANCES):
                await store.drop(collection)


async def check(site: Clinic, taken: set[tuple[str, str]]) -> set[str]:
    """Each image that was taken back was told of under its own patient; return the ids of all that stands on the topic."""
    findings, records = await site.read("clinical.findings"), await site.records("clinical.findings")
    withdrawn = [one for one in findings if one["image_status"] != "final"]
    assert {(one["patient_id"], one["instance_uid"]) for one in withdrawn} == taken
    assert all(one["image_status"] == "entered-in-error" and one["reason"] and not one["findings"] for one in withdrawn)
    audited = {event_id: entry for event_id, entry, _ in clinic.audited(await site.read("clinical.audit"))}
    assert all(audited[one["id"]]["patient_id"] == one["patient_id"] for one in findings), "each can be found by its id"
    assert {record.key for record in records if record.value} == {one["patient_id"].encode() for one in findings}
    return {one["id"] for one in findings}
