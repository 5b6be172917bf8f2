"""Alerts to an Alert Manager (PCD-04) over a real MLLP socket: ORU^R40, judged by its answer."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from tests.deliveries import alert, delivering, offset_group, site, write
from tests.kafka import Kafka
from tests.lanes import bodies, until
from tests.managers import AlertManager, listening

pytestmark = pytest.mark.kafka


@pytest.fixture
async def manager() -> AsyncIterator[AlertManager]:
    async with listening(AlertManager()) as one:
        yield one


async def test_alerts_reach_the_manager_in_order_and_a_refusal_is_kept(kafka: Kafka, manager: AlertManager) -> None:
    manager.codes = ["AE", "", "CA", "CR", "CR"]
    own = {"kind": "pcd04", "host": "127.0.0.1", "port": manager.port, "timeout": 1.0, "refused_tries": 2}
    settings = site(kafka, {"nurses": own})
    sent = [alert("p"), alert("p", 1), alert("p", sequence=1, state="resolved")]
    await write(settings, sent)
    topic = settings.kafka.topic_prefix + "clinical.alerts"
    async with delivering(settings, "nurses"):

        async def done() -> bool:
            return sum((await asyncio.to_thread(kafka.committed, offset_group(settings, "nurses"), topic)).values()) == 3

        await until(done, what="everything committed")
    assert manager.seen == ["AE", "", "CA", "CR", "CR", "CA"]
    first, last = manager.taken
    assert first.header.raw(9) == "ORU^R40^ORU_R40"
    assert [segment.get(5) for segment in first.all("OBX")][2:7] == ["start", "active", "enabled", "PH", "SA"]
    assert [segment.get(5) for segment in last.all("OBX")][2:4] == ["end", "inactive"]
    assert [segment.raw(8) for segment in first.all("OBX")] == ["PH~SA"] + [""] * 7  # the profile: on the first facet only
    orders = first.first("OBR"), last.first("OBR")
    assert orders[0] is not None and orders[1] is not None
    assert orders[0].get(3) == orders[1].get(29, 2, 1) == sent[0].alert_id
    letters = bodies(await asyncio.to_thread(kafka.read, settings.kafka.topic_prefix + "clinical.dead-letters"))
    assert [letter["message"] for letter in letters] == ["nurses refuses: answered CR"]
