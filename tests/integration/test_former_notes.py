"""A document is corrected after the connectors were started anew: what was filed before is read back from `clinical.notes`."""

import logging
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from connectors.documents import Former
from connectors.fhir.settings import FhirSettings
from connectors.hl7.sender import MllpSender
from connectors.hl7.settings import MllpSettings
from connectors.identity import Identities
from connectors.qdrant.embedded import EmbeddedQdrant
from connectors.qdrant.settings import NOTES
from processors.events import Identifier
from streams import edge
from streams.settings import ConnectorSettings
from tests.clinic import Clinic, note, points
from tests.fhir_resources import MRN, document
from tests.hl7_messages import message
from tests.kafka import Kafka
from tests.lanes import until

pytestmark = [pytest.mark.kafka, pytest.mark.qdrant, pytest.mark.timeout(300)]


@pytest.fixture
async def site(kafka: Kafka, tmp_path: Path) -> AsyncIterator[Clinic]:
    connectors = ConnectorSettings(
        mllp=MllpSettings.model_validate({"port": 0}), fhir=FhirSettings(port=0), enabled=("mllp", "fhir")
    )
    with EmbeddedQdrant(tmp_path / "vectors", sync=False) as store:
        yield Clinic(kafka, tmp_path, vectors=store.url, connectors=connectors)


async def written(site: Clinic) -> list[dict[str, Any]]:
    """The notes on the topic, in the order in which they were received."""
    return sorted(await site.read("clinical.notes"), key=lambda one: str(one["received_at"]))


def mdm(trigger: str, patient: str, number: str, words: str) -> bytes:
    pid = f"PID|1||{patient}^^^HOSP^MR||DOE^JANE||19500321|F"
    txa = f"TXA|1|DS|TX|20260302093000+0000||20260302090000+0000||||||{number}^EPIC|||||LA"
    body = f"OBX|1|TX|18842-5^Discharge summary^LN||{words}||||||F"
    return message(pid, txa, body, kind=f"MDM^{trigger}", control_id=f"{trigger}{patient}{number}")


async def test_a_correction_takes_the_document_from_the_wrong_patient_though_all_began_anew(site: Clinic) -> None:
    ids = Identities(site.settings.identity)
    wrong, right = (ids.patient(Identifier(authority="HOSP", value=number)) for number in ("1", "2"))

    async def owners(count: int) -> list[str]:
        async def there() -> list[str] | None:
            found = sorted(str(point.payload["patient_id"]) for point in await points(site.settings, NOTES, [wrong, right]))
            return found if len(found) == count else None

        return list(await until(there, within=120, what=f"{count} notes can be found"))

    async with site.running("notes-vectors"):
        async with edge.running(site.settings) as addresses, MllpSender(*addresses["mllp"]) as ehr:
            await ehr.send(mdm("T02", "1", "D1", "Pneumonia."))
            await ehr.send(mdm("T02", "1", "D2", "Asthma."))
        assert await owners(2) == [wrong, wrong]
        async with edge.running(site.settings) as addresses, MllpSender(*addresses["mllp"]) as ehr:
            await ehr.send(mdm("T08", "2", "D1", "Pneumonia, of the other one."))
            await ehr.send(mdm("T02", "2", "D2", "Another document of that number."))  # corrects nothing

            async def moved() -> bool:
                return sorted(await owners(3)) == sorted([wrong, right, right])

            await until(moved, within=120, what="the corrected document is the right patient's")
    first, second, corrected, other = await written(site)
    assert (corrected["relation"], corrected["replaces"], corrected["patient_id"]) == ("edit", first["note_id"], right)
    assert (other["relation"], other["replaces"]) == ("original", None)
    assert second["patient_id"] == wrong


async def test_a_fhir_document_is_deleted_and_one_with_a_master_identifier_corrected_though_all_began_anew(
    site: Clinic,
) -> None:
    ids = Identities(site.settings.identity)
    first, other = (ids.patient(Identifier(authority=MRN, value=number)) for number in ("P1", "P2"))
    master = {"masterIdentifier": {"system": "urn:docs", "value": "M1"}}

    async def put(port: int, made: dict[str, Any]) -> None:
        async with httpx.AsyncClient(timeout=30) as ehr:
            assert (await ehr.put(f"http://127.0.0.1:{port}/fhir/DocumentReference/{made['id']}", json=made)).status_code == 200

    async with edge.running(site.settings) as addresses:
        await put(addresses["fhir"][1], document("By its id.", id="a"))
        await put(addresses["fhir"][1], document("By its number.", id="b", **master))
    async with edge.running(site.settings) as addresses:
        moved = document("By its number.", id="b", docStatus="amended", subject={"identifier": {"system": MRN, "value": "P2"}})
        await put(addresses["fhir"][1], moved | master)
        async with httpx.AsyncClient(timeout=30) as ehr:
            url = f"http://127.0.0.1:{addresses['fhir'][1]}/fhir/DocumentReference"
            assert (await ehr.delete(f"{url}/a")).status_code == 200
            assert (await ehr.delete(f"{url}/never")).status_code == 404
    by_id, by_number, taken, gone = await written(site)
    assert (taken["patient_id"], taken["replaces"]) == (other, by_number["note_id"])
    assert (gone["patient_id"], gone["note_id"], gone["status"]) == (first, by_id["note_id"], "entered-in-error")


async def test_as_many_are_read_back_as_are_kept_and_for_as_long_as_is_said(
    site: Clinic, caplog: pytest.LogCaptureFixture
) -> None:
    await site.write(*(note(f"p{n % 10}", f"n{n}", "Text.") for n in range(40)))  # in each partition some

    def settings(**chosen: Any) -> Any:
        return site.settings.model_copy(update={"connectors": site.settings.connectors.model_copy(update=chosen)})

    with caplog.at_level(logging.INFO, "vigil.edge"):
        whole = Former()
        assert await edge.read_notes(settings(), whole)
        assert len(whole) == 40
        few = Former(10)
        assert await edge.read_notes(settings(former_notes=10), few)
        assert len(few) <= 10
        assert await edge.read_notes(settings(former_notes=0), none := Former(0))
        assert len(none) == 0
        began = datetime.now(UTC)
        assert not await edge.read_notes(settings(former_notes_within=1e-9), Former())
        assert datetime.now(UTC) - began < timedelta(seconds=60)
    assert "40 notes that were filed before are known" in caplog.text
    assert "were read back in time" in caplog.text
