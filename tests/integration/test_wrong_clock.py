"""A host whose clock is not the broker's: what it is told, and what `vigil doctor` says of it."""

import asyncio
import time
from typing import Any

import pytest

from models.errors import Permanent, Transient
from streams import brokertime
from streams.checks import _clock
from streams.outbox import Outbox
from streams.settings import KafkaSettings, Settings
from streams.wire import Message
from tests.kafka import Kafka

pytestmark = [pytest.mark.kafka, pytest.mark.real_kafka, pytest.mark.slow, pytest.mark.timeout(120)]


@pytest.fixture
def settings(kafka: Kafka) -> Settings:
    return Settings(kafka=KafkaSettings(bootstrap=kafka.bootstrap, topic_prefix=kafka.name("t") + "."))


def wrong_by(seconds: float, patch: pytest.MonkeyPatch) -> None:
    """Let this process see a wall clock that is ahead; what passes (monotonic) stays true."""
    right = time.time
    patch.setattr(time, "time", lambda: right() + seconds)


@pytest.mark.parametrize(
    ("seconds", "verdict", "words"),
    [(0, "ok", "within 5 s"), (12, "warning", "ahead of"), (7200, "wrong", "s ahead of"), (-7200, "wrong", "s behind")],
)
async def test_doctor_compares_this_hosts_clock_with_kafkas(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, seconds: float, verdict: str, words: str
) -> None:
    with monkeypatch.context() as patch:
        wrong_by(seconds, patch)
        assert (await brokertime.ahead(settings.kafka)).total_seconds() == pytest.approx(seconds, abs=3)
        [found] = await _clock(settings)
    assert found.verdict == verdict
    assert words in found.found
    assert ("InvalidTimestampError" in found.mend) == (seconds > 0)


@pytest.mark.parametrize("one_by_one", [False, True])
async def test_a_write_that_is_refused_for_its_time_names_the_clock(kafka: Kafka, settings: Settings, one_by_one: bool) -> None:
    topic = "journal"
    # What is older than no time at all is refused: the same answer as to a clock that is an hour ahead.
    kafka.create(f"{settings.kafka.topic_prefix}{topic}", 1, message_timestamp_before_max_ms="0")
    outbox = Outbox(settings, source="/test")
    await outbox.start()
    client = outbox._producer.client
    send = client.send

    async def later(*request: Any, **to: Any) -> Any:
        # So that it comes in older than it was made: a fast machine needs less than the millisecond that a broker counts in.
        await asyncio.sleep(0.05)
        return await send(*request, **to)

    client.send = later
    message = Message(topic, b"k", b"v", [], partition=0)
    try:
        with pytest.raises(Transient, match=r"\(InvalidTimestampError\): this host's clock is ahead") as caught:
            await (outbox.append(message) if one_by_one else outbox.send([message]))
        assert "vigil doctor" in (caught.value.hint or "")
    finally:
        await outbox.stop()


def test_a_cluster_that_does_not_tell_its_time_says_what_the_account_needs() -> None:
    with pytest.raises(Permanent, match="ClusterAuthorizationFailedError") as caught:
        brokertime._time_of({"error_code": 31, "topics": []})
    assert "DESCRIBE" in (caught.value.hint or "")
