"""The vitals lane on a broker: scores, alerts, and the same ones whatever is killed when."""

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka.admin import AdminClient

from processors.events import TOPICS
from streams.journal import TOPIC as JOURNAL
from tests.kafka import Kafka
from tests.lanes import bodies, produce, until
from tests.vitals import LaneProcess, patient, vitals, wire

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(300)]
PARTITIONS = 2
PATIENTS, SETS = 30, 40


class Site:
    """Topics of one test under a prefix of their own, and what is on them."""

    def __init__(self, kafka: Kafka, log: Path) -> None:
        self.kafka = kafka
        self.prefix = kafka.name("v") + "."
        for topic in (*TOPICS, JOURNAL):
            kafka.create(self.prefix + topic, PARTITIONS)
        self.env = {
            "VIGIL_KAFKA__BOOTSTRAP": kafka.bootstrap,
            "VIGIL_KAFKA__TOPIC_PREFIX": self.prefix,
            "VIGIL_KAFKA__EMBEDDED": str(kafka.kind == "embedded").lower(),
            "VIGIL_ENGINE__SESSION_TIMEOUT": "6",
            "VIGIL_ENGINE__HEARTBEAT_INTERVAL": "1",
            "VIGIL_STATE__SNAPSHOT_SECONDS": "1",
            "VIGIL_STATE__TICK_SECONDS": "0.2",
            "VIGIL_WORKER__HOST": "test",
            # A score that was late in one run and not in the other could not be compared.
            "VIGIL_MODELS__VITALS_DEADLINE": "60",
            # Nor one that was minutes old in one run, and a little more in the other: nothing here is out of a sender's queue.
            "VIGIL_MONITOR__QUEUE_AGE": "1h",
        }
        self.lane = LaneProcess("vitals", self.env, log)

    async def write(self, topic: str, events: list[Any]) -> None:
        await produce(self.kafka.bootstrap, self.prefix + topic, wire(events), PARTITIONS)

    async def read(self, topic: str) -> list[dict[str, Any]]:
        return bodies(await asyncio.to_thread(self.kafka.read, self.prefix + topic))

    async def committed(self, topic: str = "clinical.vitals") -> int:
        group = f"{self.prefix}vigil.vitals"
        offsets = await asyncio.to_thread(self.kafka.committed, group, self.prefix + topic)
        return sum(offsets.values())

    async def feed(self, start: datetime) -> int:
        await self.write("clinical.patients", [patient(n, start) for n in range(PATIENTS)])
        return PATIENTS


def course(start: datetime) -> list[Any]:
    return list(vitals(PATIENTS, SETS, start, every=timedelta(seconds=30)))


def essence(alert: dict[str, Any]) -> tuple[Any, ...]:
    """What an alert says, without the moment at which this run's clock let it be said."""
    return (alert["alert_id"], alert["sequence"], alert["state"], alert["severity"], alert.get("score_id"), alert["title"])


async def run_whole(site: Site, start: datetime, kills: int, seed: int = 3) -> None:
    rng = random.Random(seed)
    await site.feed(start)
    site.lane.start()
    try:

        async def contexts() -> bool:
            return await site.committed("clinical.patients") == PATIENTS

        await until(contexts, within=60, what="the contexts are taken in")
        events = course(start)
        piece = len(events) // (kills + 1) + 1
        for i in range(0, len(events), piece):
            await site.write("clinical.vitals", events[i : i + piece])
            if i + piece < len(events):
                await asyncio.sleep(rng.uniform(0.0, 1.5))
                site.lane.kill()
                site.lane.start()

        async def done() -> bool:
            assert site.lane.running, site.lane.log[-3000:]
            return await site.committed() == len(events)

        await until(done, within=120, what="all vitals committed")
    finally:
        site.lane.stop()


async def test_scores_and_alerts_come_out(kafka: Kafka, tmp_path: Path) -> None:
    site = Site(kafka, tmp_path / "lane.log")
    start = datetime.now(UTC) - timedelta(seconds=30 * SETS)
    await run_whole(site, start, kills=0)
    scores = await site.read("clinical.scores")
    assert Counter(score["id"] for score in scores).most_common(1)[0][1] == 1
    assert len(scores) == PATIENTS * SETS
    alerts = [alert for alert in await site.read("clinical.alerts") if "alert_id" in alert]
    raised = Counter(alert["alert_id"] for alert in alerts if alert["state"] == "raised")
    assert raised, "a third of the patients gets worse"
    assert max(raised.values()) == 1
    assert not await site.read("clinical.dead-letters")


async def test_a_set_that_comes_before_its_patients_age_is_scored_anew_and_audited(kafka: Kafka, tmp_path: Path) -> None:
    site = Site(kafka, tmp_path / "lane.log")
    start = datetime.now(UTC) - timedelta(seconds=30)
    await site.write("clinical.vitals", list(vitals(PATIENTS, 1, start)))
    site.lane.start()
    try:

        async def scored(number: int) -> bool:
            assert site.lane.running, site.lane.log[-3000:]
            return len(await site.read("clinical.scores")) == number

        await until(lambda: scored(PATIENTS), within=120, what="the sets are scored")
        await site.feed(start)
        await until(lambda: scored(2 * PATIENTS), within=60, what="they are scored anew")

        async def audited() -> set[str]:
            entries = [one for body in await site.read("clinical.audit") for one in body["entries"]]
            return {one["event_id"] for one in entries}

        anew = [one for one in await site.read("clinical.scores") if one["flags"] == ["age-learned"]]
        assert len(anew) == PATIENTS and all(one["news2"] for one in anew)
        await until(lambda: _is(audited, {one["id"] for one in anew}), within=30, what="each is audited")
    finally:
        site.lane.stop()


async def _is(found: Callable[[], Awaitable[set[str]]], wanted: set[str]) -> bool:
    return wanted <= await found()


@pytest.mark.real_kafka
async def test_scores_and_alerts_after_kills_equal_those_of_an_undisturbed_run(kafka: Kafka, tmp_path: Path) -> None:
    start = datetime.now(UTC) - timedelta(seconds=30 * SETS)
    calm, storm = Site(kafka, tmp_path / "calm.log"), Site(kafka, tmp_path / "storm.log")
    await run_whole(calm, start, kills=0)
    await run_whole(storm, start, kills=6)
    want = {score["id"]: score for score in await calm.read("clinical.scores")}
    have = await storm.read("clinical.scores")
    assert {score["id"] for score in have} == set(want)
    for score in have:  # repeats too: each must say the same
        expected = want[score["id"]]
        assert {**score, "source": None} == {**expected, "source": None}
    kinds = ("news2",)
    calm_alerts = {essence(a) for a in await calm.read("clinical.alerts") if a.get("kind") in kinds}
    storm_alerts = {essence(a) for a in await storm.read("clinical.alerts") if a.get("kind") in kinds}
    assert storm_alerts == calm_alerts


@pytest.mark.real_kafka
async def test_without_its_journal_the_lane_rebuilds_what_the_topics_hold_and_says_so(kafka: Kafka, tmp_path: Path) -> None:
    site = Site(kafka, tmp_path / "lane.log")
    start = datetime.now(UTC) - timedelta(seconds=30 * SETS)
    await run_whole(site, start, kills=0)
    admin = AdminClient({"bootstrap.servers": kafka.bootstrap})
    await asyncio.to_thread(admin.delete_topics([site.prefix + JOURNAL])[site.prefix + JOURNAL].result)
    await asyncio.sleep(1)
    kafka.create(site.prefix + JOURNAL, PARTITIONS)
    await site.write("clinical.vitals", list(vitals(PATIENTS, 4, datetime.now(UTC) - timedelta(minutes=1), seed=2)))
    site.lane.start()
    try:

        async def done() -> bool:
            assert site.lane.running, site.lane.log[-3000:]
            return await site.committed() == PATIENTS * (SETS + 4)

        await until(done, within=90, what="the new sets are committed")
    finally:
        site.lane.stop()
    assert "the journal is empty" in site.lane.log
    late = [score for score in await site.read("clinical.scores") if score["source"]["offset"] >= 0][-PATIENTS:]
    assert all(score["news2"] for score in late), "the contexts are known again: NEWS2 applies"
