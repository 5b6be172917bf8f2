"""The mappings that come with Vigil, on the public sets that they are for."""

from datetime import UTC, datetime

import pytest

from connectors.vitals.server import FileReplay
from connectors.vitals.settings import FileMapping, ReplaySettings
from processors.events import DeadLetterEvent, VitalsEvent
from tests.edge import DATA, identities

pytestmark = pytest.mark.skipif(not (DATA / "vitals").exists(), reason="the public sets of vital signs are not here")


def source(file: str, mapping: str) -> FileReplay:
    return FileReplay(
        DATA / "vitals" / file,
        FileMapping.load(mapping),
        ReplaySettings(order="file"),
        identities=identities(),
        now=lambda: datetime(2026, 11, 23, tzinfo=UTC),
    )


async def test_every_reading_of_the_mimic_demo_is_played() -> None:
    events = [event async for _, event in source("mimic3_demo/vitals_long.csv.gz", "mimic3_demo")]
    assert sum(len(event.observations) for event in events if isinstance(event, VitalsEvent)) == 99_194


@pytest.mark.parametrize(
    ("file", "mapping"), [("cinc2019/hourly.csv.gz", "cinc2019"), ("physionet2012/set-a.csv.gz", "physionet2012")]
)
async def test_the_challenges_fit_their_mappings(file: str, mapping: str) -> None:
    count = 0
    async for _, event in source(file, mapping):
        assert not isinstance(event, DeadLetterEvent)
        count += isinstance(event, VitalsEvent)
        if count == 2000:
            break
    assert count == 2000
