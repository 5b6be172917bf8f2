"""Another site secret than the one that patients' pseudonyms were made with is refused before anybody becomes a stranger."""

from datetime import UTC, datetime
from pathlib import Path

import pytest
from pydantic import SecretStr

from connectors.contexts import MemoryContexts
from connectors.identity import Identities, IdentitySettings
from models.errors import Fatal
from processors.events import Identifier, Origin, PatientEvent
from processors.identity import natural_id
from streams.edge import read_contexts
from tests.clinic import Clinic
from tests.kafka import Kafka

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(120)]
FIRST, OTHER = (IdentitySettings(site_secret=SecretStr(f"a secret of sixteen bytes, {which}")) for which in ("first", "other"))


def admitted(number: int) -> PatientEvent:
    own = Identifier(authority="HOSP", value=str(4000 + number), kind="MR")
    return PatientEvent(
        id=natural_id("secret", number),
        patient_id=Identities(FIRST).patient(own),
        identifiers=(own,),
        effective_at=datetime.now(UTC),
        received_at=datetime.now(UTC),
        origin=Origin(protocol="hl7v2", peer="test"),
    )


@pytest.mark.parametrize("patients", [7, 8])
async def test_it_is_known_by_eight_patients(kafka: Kafka, tmp_path: Path, patients: int) -> None:
    site = Clinic(kafka, tmp_path, identity=FIRST)
    await site.write(*[admitted(number) for number in range(patients)])
    assert await read_contexts(site.settings, MemoryContexts()) == patients
    other = site.settings.model_copy(update={"identity": OTHER})
    if patients < 8:
        assert await read_contexts(other, MemoryContexts()) == patients
        return
    with pytest.raises(Fatal, match=r"none of 8 patients .* another secret") as refused:
        await read_contexts(other, MemoryContexts())
    assert "VIGIL_IDENTITY__SITE_SECRET" in (refused.value.hint or "")
