"""What becomes of partitions that a static member is not given when it comes back, for nobody looked at the topics."""

import asyncio
import logging

import pytest
from confluent_kafka.admin import AdminClient, NewPartitions

from tests.kafka import Kafka
from tests.lanes import note, running, until
from tests.site import Site, numbered

pytestmark = [pytest.mark.kafka, pytest.mark.real_kafka]


def grow(kafka: Kafka, topic: str, partitions: int) -> None:
    admin = AdminClient({"bootstrap.servers": kafka.bootstrap, "log_level": 2})
    admin.create_partitions([NewPartitions(topic, partitions)])[topic].result()


async def test_partitions_that_came_while_the_worker_was_away_are_read(kafka: Kafka, caplog: pytest.LogCaptureFixture) -> None:
    """Kafka gives a static member that returns within its session what it had, without a rebalance."""
    site = Site(kafka, session_timeout=30.0)
    await site.write(*[note(i) for i in range(4)])
    async with running(site.settings()):
        await site.until_committed(4)
    await asyncio.to_thread(grow, kafka, site.notes, 3)
    site.partitions = 3
    await site.write(*[note(i) for i in range(4, 40)])
    with caplog.at_level(logging.WARNING, logger="vigil.intake"):
        async with running(site.settings()) as (_, engine, _lane):
            await site.until_committed(40)
            assert len(engine.intake.ledgers) == 3
    assert await site.echoed() == numbered(range(40))
    assert "not assigned as the topics are" in caplog.text


async def test_two_workers_with_a_backlog_share_what_came_meanwhile(kafka: Kafka) -> None:
    """Neither is told that it leads; ledgers are full when the rejoin comes, and nothing that is in flight is lost or repeated."""
    site = Site(kafka, partitions=2, session_timeout=30.0, held_records=16)
    await site.write(*[note(i) for i in range(10)])
    async with running(site.settings()) as (_, first, _lane), running(site.settings(slot=1)) as (_, second, _other):
        await until(lambda: len(first.intake.ledgers) == len(second.intake.ledgers) == 1, what="one partition each")
        await site.until_committed(10)
    await asyncio.to_thread(grow, kafka, site.notes, 4)
    site.partitions = 4
    await site.write(*[note(i) for i in range(10, 400)])
    async with running(site.settings()) as (_, first, _lane), running(site.settings(slot=1)) as (_, second, _other):
        await site.until_committed(400, within=60)
        assert sorted(tp.partition for one in (first, second) for tp in one.intake.ledgers) == [0, 1, 2, 3]
        assert not first.failure and not second.failure
    assert set(await site.echoed()) == set(numbered(range(400)))


async def test_nothing_is_asked_for_where_every_partition_is_somebodys(kafka: Kafka) -> None:
    site = Site(kafka, partitions=2)
    await site.write(*[note(i) for i in range(10)])
    async with running(site.settings()) as (_, first, _lane), running(site.settings(slot=1)) as (_, second, _other):
        await until(lambda: len(first.intake.ledgers) == len(second.intake.ledgers) == 1, what="one partition each")
        before = first.intake.rebalances, second.intake.rebalances
        await asyncio.sleep(5)
        assert (first.intake.rebalances, second.intake.rebalances) == before
