"""A lane that hears nothing from Kafka says so, waits where a restart cannot help, and ends itself where it can."""

import asyncio

import pytest

from models.errors import Fatal
from streams.engine import Engine
from tests.integration.test_engine import PARTITIONS, committed, site
from tests.kafka import Kafka
from tests.lanes import note, produce, running, until, wire

pytestmark = pytest.mark.kafka


def silent_seconds(engine: Engine) -> float:
    value = engine.metrics.registry.get_sample_value("vigil_kafka_silent_seconds", {"lane": "echo"})
    assert value is not None
    return value


async def test_a_lane_that_kafka_does_not_answer_is_not_ready_and_is_not_ended_for_it(kafka: Kafka) -> None:
    kafka.control()
    settings = site(kafka, silence_after=2.0, stall_after=4.0, request_timeout=7.0)
    topic = settings.kafka.topic_prefix + "clinical.notes"
    async with running(settings) as (_, engine, lane):
        await produce(kafka.bootstrap, topic, [wire(note(0))], PARTITIONS)

        async def done(number: int) -> bool:
            return await committed(kafka, settings) == number

        await until(lambda: done(1), what="the lane has written, and knows its topics")
        await asyncio.sleep(2 * settings.engine.silence_after)
        assert engine.unready() == ""  # that nothing comes is no silence: every fetch is answered
        assert silent_seconds(engine) < settings.engine.silence_after
        await produce(kafka.bootstrap, topic, [wire(note(1, text="transient"))], PARTITIONS)
        await until(lambda: "held" in engine.unready(), what="there is something in hand")
        try:
            kafka.freeze()
            await until(lambda: "Kafka has not answered for" in engine.unready(), what="the lane says that it is cut off")
            lane.healed.set()  # now a write is under way too, and its input waits unsettled
            await until(lambda: silent_seconds(engine) > 3 * settings.engine.stall_after, what="the silence is told in seconds")
            assert engine.failure is None  # nobody new would be answered either
            assert not engine.metrics.registry.get_sample_value("vigil_ready", {"lane": "echo"})
            engine.intake.silence = lambda: 0.0  # type: ignore[method-assign]  # as where another broker leads what is written
            assert engine.unready().startswith("Kafka has not confirmed a write for")
            del engine.intake.silence
        finally:
            kafka.thaw()
        await until(lambda: engine.unready() == "", what="the lane is ready again", within=60)
        await produce(kafka.bootstrap, topic, [wire(note(2))], PARTITIONS)
        await until(lambda: done(3), what="everything committed")


async def test_a_lane_that_hears_nothing_where_others_are_answered_ends_itself(
    kafka: Kafka, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = site(kafka, silence_after=1.0, stall_after=2.0)
    async with running(settings) as (_, engine, _lane):
        await until(lambda: engine.unready() == "", what="the lane is ready")
        monkeypatch.setattr(engine.intake._consumer, "last_poll_timestamp", lambda tp: 1)
        await until(lambda: engine.failure, what="the lane ends itself")
        assert isinstance(engine.failure, Fatal)
        assert "Kafka has not answered for" in str(engine.failure)


@pytest.mark.real_kafka
async def test_a_topic_that_is_gone_is_named_at_once_and_made_anew_it_is_written_again(kafka: Kafka) -> None:
    settings = site(kafka, request_timeout=7.0, session_timeout=6.0)
    notes, written = (settings.kafka.topic_prefix + topic for topic in ("clinical.notes", "clinical.entities"))
    async with running(settings) as (_, engine, _lane):
        await produce(kafka.bootstrap, notes, [wire(note(0))], PARTITIONS)

        async def done(number: int) -> bool:
            return await committed(kafka, settings) == number

        await until(lambda: done(1), what="the lane has written")
        anew = asyncio.create_task(asyncio.to_thread(kafka.make_anew, written, PARTITIONS, absent=12.0))
        await asyncio.sleep(1.0)
        await produce(kafka.bootstrap, notes, [wire(note(1))], PARTITIONS)
        gone = f"{written} not there any more: nothing is written until `vigil topics create` makes it"
        await until(lambda: engine.unready() == gone, what="it is named before a write can time out", within=5)
        await until(lambda: f"{written} is not there" in engine.unready(), what="later writes are not begun")
        await anew
        await until(lambda: done(2), what="everything committed", within=60)
        await until(lambda: engine.unready() == "", what="the lane is ready again")
