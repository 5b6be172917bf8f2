"""The ways in which Faust loses data, tried on this engine, on real Kafka: one test for each that could come back.

Each docstring quotes the pattern and what Faust 0.15.3 does with it. Two patterns cannot come back: `memory://` as a broker (it
does not exist) and the compiled extension's absence as such (Faust's stream acknowledges nothing here; what it did wrong, counting
a stale generation's messages as done, has its test).
"""

import asyncio
import signal
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Producer

from processors.events import NoteEvent
from streams.lane import Input, Outcome
from tests import echo
from tests.hand import intake
from tests.kafka import Kafka
from tests.lanes import Echo, note, running, until
from tests.site import Site, numbered

pytestmark = [pytest.mark.kafka, pytest.mark.real_kafka]


class Faulty(Echo):
    """A bug in the lane's own code: an exception that nobody foresaw, while the sixth record is read."""

    def decode(self, record: Any) -> Input[NoteEvent]:
        one = super().decode(record)
        if one.event.text == "fault":
            raise RuntimeError("a bug")
        return one


class Swift(Echo):
    """The lane once more, mended: nothing is slow, nothing fails."""

    async def process(self, inputs: Sequence[Input[NoteEvent]]) -> list[Outcome]:
        return await super().process([Input(i.event.model_copy(update={"text": ""}), i.source, i.record) for i in inputs])


async def test_an_exception_that_leaves_the_work(kafka: Kafka) -> None:
    """Row "letting an exception leave an agent": Faust acknowledges the event in a `finally` all the same."""
    site = Site(kafka)
    await site.write(*[note(i, patient="p") for i in range(5)])
    async with running(site.settings(), Faulty) as (_, engine, _lane):
        await site.until_committed(5)
        await site.write(*[note(i, patient="p", text="fault" if i == 7 else "") for i in range(5, 10)])
        await until(lambda: engine.failure, what="the lane stops")
    assert await site.committed() == 5
    async with running(site.settings(), Swift):
        await site.until_committed(10)
    assert set(await site.echoed()) == set(numbered(range(10)))


async def test_a_batch_that_is_cancelled_or_stopped(kafka: Kafka) -> None:
    """Row "take, take_events, take_with_timestamp": every event of the batch is acked, on error, cancel and stop too."""
    site = Site(kafka, grace=0.5, drain=0.5)
    await site.write(*[note(i, patient="p", text="slow" if i == 10 else "") for i in range(20)])
    async with running(site.settings()) as (_, engine, lane):
        await until(lambda: lane.started, what="the batch is in work")
        await engine.revoked(within=0.5)  # as a rebalance does: wait a little, then cancel
        await engine.intake.commit()
        assert await site.committed() == 0
    assert await site.committed() == 0  # nor by the stop
    async with running(site.settings(), Swift):
        await site.until_committed(20)
    assert await site.echoed() == numbered(range(20))


async def test_settled_out_of_order(kafka: Kafka) -> None:
    """Row "concurrency>1, or acks out of order": 2585 in flight, 2586-2589 acked, commits 2590."""
    site = Site(kafka)
    await site.write(*[note(i, patient="p") for i in range(8)])
    async with intake(site) as (_, hand):
        await until(lambda: len(hand.slices) == 8)
        for piece in hand.slices[:3]:
            piece.settle()
        await site.until_committed(3)
        for piece in hand.slices[4:]:
            piece.settle()
        await site.stays(3)
        hand.slices[3].settle()
        await site.until_committed(8)


async def test_exactly_one_record_is_left_unsettled(kafka: Kafka) -> None:
    """Row "noack() leaving exactly one event unacked": the commit passes over it; two unacked heads stall silently instead."""
    site = Site(kafka)
    await site.write(*[note(i, patient="p", text="transient" if i == 0 else "") for i in range(1)])
    async with running(site.settings()) as (_, engine, lane):
        await until(lambda: "held" in engine.unready(), what="the first is held")
        await site.write(*[note(i, patient="p") for i in range(1, 6)])
        await until(lambda: sum(ledger.records for ledger in engine.intake.ledgers.values()) == 6)
        await site.stays(0)
        assert "held" in engine.unready()  # and it is no silent stall
        lane.healed.set()
        await site.until_committed(6)
    assert await site.echoed() == numbered(range(6))


async def test_a_new_group_whose_first_record_is_in_flight(kafka: Kafka) -> None:
    """Row "a new consumer group": 0 in flight, 1 and 2 acked, commits 3, for 0 is taken for None."""
    site = Site(kafka)
    await site.write(*[note(i, patient="p") for i in range(3)])
    async with intake(site) as (_, hand):
        await until(lambda: len(hand.slices) == 3)
        hand.slices[1].settle()
        hand.slices[2].settle()
        await asyncio.sleep(1.5)
        assert await site.offsets() == {}
    assert await site.offsets() == {}
    async with intake(site) as (_, hand):
        await until(lambda: len(hand.slices) == 3)
        assert hand.offsets == [(0, 0), (0, 1), (0, 2)]


async def test_settled_out_of_order_while_partitions_move(kafka: Kafka) -> None:
    """Row "out-of-order acks during a rebalance": the bookkeeping goes before what is in flight is waited for."""
    site = Site(kafka, partitions=2, drain=2.0)
    await site.write(*[note(i) for i in range(40)])
    async with intake(site) as (first, one):
        await until(lambda: len(one.slices) == 40)
        heads = {piece.ledger.partition: piece for piece in reversed(one.slices)}

        async def settle_all_but_the_heads(within: float) -> None:
            for piece in one.slices:
                if piece not in heads.values():
                    piece.settle()
            await asyncio.sleep(within / 2)

        one.on_revoke = settle_all_but_the_heads
        async with intake(site, slot=1) as (second, two):
            await until(lambda: len(second.ledgers) == 1 and len(first.ledgers) == 1, what="one partition each")
            one.on_revoke = None
            for head in heads.values():
                head.settle()  # too late: these are nobody's any more
            await until(lambda: len(one.slices) + len(two.slices) == 80, what="everything is read again")
            await site.stays(0)


async def test_outputs_that_are_not_confirmed(kafka: Kafka) -> None:
    """Row "`await topic.send()` without awaiting the future; agent sinks": errors of the flush are swallowed or logged."""
    site = Site(kafka)
    await site.write(note(0, patient="p"))
    async with running(site.settings()) as (_, _engine, lane):
        await site.until_committed(1)
        await site.delete("clinical.entities")
        await site.write(*[note(i, patient="p") for i in range(1, 30)])
        await until(lambda: len(lane.seen) == 30, what="all are processed")
        await site.stays(1)
        await site.create("clinical.entities")
        await site.until_committed(30)
    assert await site.echoed() == numbered(range(1, 30))


async def test_a_poison_message_is_not_acknowledged_before_its_dead_letter_is(kafka: Kafka) -> None:
    """Row "typed topics": the conductor acks first and throws the decode error into the agent; the message is lost."""
    site = Site(kafka)
    await site.write(note(0, patient="p"), (b"p", b"{first"))
    async with running(site.settings()) as (_, _engine, lane):
        await site.until_committed(2)
        await site.delete("clinical.dead-letters")
        await site.write(note(1, patient="p"), (b"p", b"{second"), note(2, patient="p"))
        await until(lambda: len(lane.seen) == 3, what="the good ones are processed")
        await site.stays(2)
        await site.create("clinical.dead-letters")
        await site.until_committed(5)
    (letter,) = await site.outputs("clinical.dead-letters")
    assert (letter["stage"], letter["original_offset"]) == ("decode", 3)
    assert set(await site.echoed()) == set(numbered(range(3)))


async def test_slices_of_an_assignment_that_is_over(kafka: Kafka) -> None:
    """Row "running without the compiled extension": messages of a stale generation are skipped and acked all the same."""
    site = Site(kafka, partitions=2, drain=0.5, held_records=4096)
    held = {site_partition(site, f"q{i}"): f"q{i}" for i in range(20)}  # a patient in each partition
    await site.write(*[note(i, patient=patient, text="transient") for i, patient in enumerate(held.values())])
    async with running(site.settings()) as (_, one, lane):
        await until(lambda: one.unready().startswith("2 of 2"), what="both partitions are held")
        await site.write(*[note(i, patient=held[i % 2]) for i in range(2, 100)])
        await until(lambda: sum(ledger.records for ledger in one.intake.ledgers.values()) == 100)
        async with running(site.settings(slot=1)) as (_, two, lane2):
            await until(lambda: len(two.intake.ledgers) == 1 and len(one.intake.ledgers) == 1, what="one partition each")
            assert await site.committed() == 0
            lane.healed.set()
            lane2.healed.set()
            await site.until_committed(100)
    assert await site.echoed() == numbered(range(100))


def site_partition(site: Site, patient: str) -> int:
    from streams.outbox import partition_of

    return partition_of(patient.encode(), site.partitions)


async def test_a_stop_that_does_not_wait(kafka: Kafka, tmp_path: Path) -> None:
    """Row "`stream_wait_empty=False`": a stop cancels, which acks, and then commits."""
    site = Site(kafka, grace=1.0)
    await site.write(*[note(i, patient="p") for i in range(10)])
    lane = echo.process(site.env(), tmp_path / "lane.log")
    lane.start()
    try:
        await site.until_committed(10, within=60)
        await site.write(*[note(i, patient="p", text="slow" if i == 12 else "") for i in range(10, 20)])
        await asyncio.sleep(2)  # it sleeps over the slow one
        assert await asyncio.to_thread(lane.stop) == 0, lane.log[-3000:]
    finally:
        await asyncio.to_thread(lane.stop)
    assert await site.committed() == 10
    async with running(site.settings(), Swift):
        await site.until_committed(20)
    assert await site.echoed() == numbered(range(20))


async def test_nothing_is_transactional(kafka: Kafka, tmp_path: Path) -> None:
    """Row "`processing_guarantee="exactly_once"`": open bugs, and a killed worker's open transaction blocks every reader."""
    site = Site(kafka)
    async with running(site.settings()) as (app, _engine, _lane):
        assert app.conf.processing_guarantee.value == "at_least_once"
    lane = echo.process(site.env(), tmp_path / "lane.log")
    lane.start()
    try:
        await site.write(*[note(i, patient="p") for i in range(300)])
        await until(site.committed, within=60, what="the lane works")
        await site.write(*[note(i, patient="p") for i in range(300, 3000)])
        await until(lambda: len_of(site), within=30, what="outputs come")
        await asyncio.to_thread(lane.kill)
    finally:
        if lane.running:
            lane.kill()
    committed = await asyncio.to_thread(kafka.read, site.prefix + "clinical.entities", timeout=10.0, committed_only=True)
    everything = await asyncio.to_thread(kafka.read, site.prefix + "clinical.entities", timeout=10.0, committed_only=False)
    assert len(committed) == len(everything) > 300


async def len_of(site: Site) -> bool:
    return len(await site.records("clinical.entities")) > 300


async def test_a_patient_has_the_same_partition_whichever_process_writes(kafka: Kafka) -> None:
    """Row "`confluent://` driver": a partitioner that differs in every process; a patient's records lie in two partitions."""
    site = Site(kafka, partitions=4)
    patients = [f"patient-{i}" for i in range(60)]
    async with running(site.settings()) as (app, _engine, _lane):
        assert [url.scheme for url in app.conf.broker] == ["kafka"]
        await site.write(*[note(i, patient=patient) for i, patient in enumerate(patients)])
        await site.until_committed(60)
    other = kafka.topic("librdkafka", 4)
    producer = Producer({"bootstrap.servers": kafka.bootstrap, "partitioner": "murmur2_random"})  # what every other client does
    for patient in patients:
        producer.produce(other, b"", patient.encode())
    assert producer.flush(30) == 0
    theirs = {record.key: record.partition for record in await asyncio.to_thread(kafka.read, other)}
    ours = {record.key: record.partition for record in await site.records("clinical.entities")}
    assert ours == theirs
    assert len(set(ours.values())) == 4


async def test_a_stop_leaves_no_committed_record_without_its_output(kafka: Kafka, tmp_path: Path) -> None:
    """Row "`producer_threaded=True`": its flush never runs at shutdown, so what was sent last is lost."""
    site = Site(kafka, partitions=2)
    lane = echo.process(site.env(), tmp_path / "lane.log")
    lane.start()
    try:
        await site.write(*[note(i) for i in range(200)])
        await until(site.committed, within=60, what="the lane works")
        await site.write(*[note(i) for i in range(200, 6000)])
        lane.signal(signal.SIGTERM)  # in the middle of them
        code = await asyncio.to_thread(lane.stop)
    finally:
        if lane.running:
            lane.kill()
    assert code == 0, lane.log[-3000:]
    offsets = await site.offsets()
    done = Counter((out["source"]["partition"], out["source"]["offset"]) for out in await site.outputs())
    missing = [(p, o) for p, end in offsets.items() for o in range(end) if (p, o) not in done]
    assert not missing
    assert sum(offsets.values()) >= 200
