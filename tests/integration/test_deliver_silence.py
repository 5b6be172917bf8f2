"""The dead man's switch from end to end: the vitals lane speaks, a delivery listens, on topics of several partitions."""

import asyncio
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from processors.events import FeedbackEvent
from processors.identity import natural_id
from processors.rules import FeedSilence, MonitorRules
from streams.clock import real_clock
from streams.outbox import Outbox, partition_of
from streams.settings import VitalsStateSettings
from streams.topic_options import MEET
from streams.wire import body_of
from tests.clinic import ORIGIN, PARTITIONS, Clinic
from tests.deliveries import delivering
from tests.kafka import Kafka
from tests.lanes import until
from tests.receiver import SECRET, HttpReceiver
from tests.vitals import vitals

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(240)]
_MANY = 4
_DEAD = 6.0  # seconds: many heartbeats, so that a slow machine is no silence


@pytest.mark.parametrize("alerts", [PARTITIONS, 1, 3])  # partitions of clinical.alerts: as many, fewer, more than the lane has
async def test_the_lane_is_heard_on_every_partition_and_its_silence_is_told_and_over(
    kafka: Kafka, tmp_path: Path, alerts: int
) -> None:
    async with HttpReceiver() as receiver:
        pager = {"kind": "webhook", "url": receiver.url, "secret": SECRET, "dead_after": _DEAD, "heartbeat_every": 0.5}
        clinic = Clinic(
            kafka,
            tmp_path,
            partitions_of={"clinical.alerts": alerts},
            monitor=MonitorRules(heartbeat=timedelta(seconds=0.5)),
            state=VitalsStateSettings(tick_seconds=0.2),
            deliver={"pager": pager},
        )

        def kinds() -> list[str]:
            return [notice["type"] for notice in receiver.taken]

        async with delivering(clinic.settings, "pager"):
            async with clinic.running("vitals"):
                await until(lambda: "vigil.heartbeat" in kinds(), what="all is well")
                await asyncio.sleep(2 * _DEAD)
                told = kinds()
                assert set(told) == {"vigil.heartbeat"}
            await until(lambda: "vigil.silence" in kinds(), what="the silence is told")
            [silence] = [notice["data"] for notice in receiver.taken if notice["type"] == "vigil.silence"]
            assert set(silence["partitions"]) <= set(range(PARTITIONS))
            async with clinic.running("vitals"):
                await until(lambda: "vigil.silence-over" in kinds(), what="the silence is over")
                beats = kinds().count("vigil.heartbeat")
                await until(lambda: kinds().count("vigil.heartbeat") > beats, what="all is well again")
        assert kinds().count("vigil.silence") == kinds().count("vigil.silence-over") == 1
        places = {
            (beat["partition"], record.partition)
            for record in await clinic.records("clinical.alerts")
            if "lane" in (beat := body_of(record.value))
        }
        assert places == {(number, number % alerts) for number in range(PARTITIONS)}


async def test_an_answer_to_an_alert_about_a_feed_reaches_the_partition_that_raised_it(kafka: Kafka, tmp_path: Path) -> None:
    rules = MonitorRules(feed_silence=FeedSilence(limit=timedelta(seconds=2), most=timedelta(seconds=2)))
    counts = dict.fromkeys(MEET, _MANY)
    clinic = Clinic(kafka, tmp_path, partitions_of=counts, monitor=rules, state=VitalsStateSettings(tick_seconds=0.2))
    outbox = Outbox(clinic.settings, source="/test")
    await outbox.start()

    async def steps(state: str) -> list[dict[str, Any]]:
        said = await clinic.read("clinical.alerts")
        return [one for one in said if one.get("kind") == "feed-stopped" and one["state"] == state]

    async def all_raised() -> bool:
        return len({one["patient_id"] for one in await steps("raised")}) == _MANY

    async def all_answered() -> bool:
        return len({one["patient_id"] for one in await steps("acknowledged")}) == _MANY

    try:
        async with clinic.running("vitals"):
            await outbox.send([outbox.encode(one) for one in vitals(32, 1, real_clock())])
            await until(all_raised, what="each partition misses the feed")
            raised = await steps("raised")
            pseudo = {one["patient_id"] for one in raised}
            assert any(f"partition-{partition_of(one.encode(), _MANY)}" != one for one in pseudo), "keys lead them astray"
            for one in raised:
                answer = FeedbackEvent(
                    id=natural_id("answer", one["alert_id"]),
                    patient_id=one["patient_id"],
                    kind="alert-acknowledged",
                    target_id=one["alert_id"],
                    by="nurse-7",
                    given_at=real_clock(),
                    received_at=real_clock(),
                    origin=ORIGIN,
                )
                await outbox.send([outbox.encode(answer)])
            await until(all_answered, what="each is acknowledged")
    finally:
        await outbox.stop()
