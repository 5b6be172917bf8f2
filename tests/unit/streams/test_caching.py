"""What the prediction cache may say, and what becomes of it when Redis does not answer."""

import asyncio
import signal
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import SecretStr

from models.errors import Fatal, Poison, Transient
from models.registry import ModelEntry
from models.tasks import Span
from streams.caching import (
    MemoryStore,
    PredictionCache,
    RedisStore,
    _digest,
    _seal,
    key_of_model,
    pack,
    redis_version,
    unpack,
)
from streams.metrics import LaneMetrics
from streams.settings import CacheSettings
from tests.lanes import until
from tests.redis import Redis, why_no_redis

SPANS = [Span("condition", 3, 9, 0.1 + 0.2), Span("symptom", 12, 20, 1 / 3)]


def entry(**changes: Any) -> ModelEntry:
    given = {
        "task": "ner",
        "name": "a",
        "version": "1",
        "runtime": "none",
        "location": "nowhere",
        "files": {"model.onnx": "0" * 64},
        "licence": "none",
        "thresholds": {"condition": 0.5},
    }
    return ModelEntry(**{**given, **changes})


class Model:
    """Says how long a text is, and counts what it is asked."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    async def run(self, texts: Sequence[str]) -> list[Any]:
        self.asked += texts
        return [Poison("no", stage="infer") if text == "poison" else [Span("x", 0, len(text), 0.5)] for text in texts]


@pytest.fixture
def metrics() -> LaneMetrics:
    return LaneMetrics("notes-entities")


def memory(metrics: LaneMetrics, **settings: Any) -> PredictionCache:
    cache = PredictionCache.of(CacheSettings(**settings), metrics, "ner")
    assert cache is not None
    return cache


@pytest.mark.parametrize("answer", [SPANS, [], np.arange(5, dtype=np.float32) / 7])
def test_what_is_remembered_is_bit_for_bit_what_was_said(answer: Any) -> None:
    again = unpack(pack(answer))
    assert np.array_equal(again, answer) if isinstance(answer, np.ndarray) else again == answer
    assert not isinstance(again, np.ndarray) or again.flags.writeable


def _sealed(body: bytes) -> bytes:
    return _seal(body) + body


@pytest.mark.parametrize(
    "value",
    [
        *(b"", b"v123", b"sx", b"s[1,2]", b"s[]", pack(SPANS)[:-1], pack(SPANS)[8:], pack(np.ones(4, np.float32))[:-8]),
        *(_sealed(b""), _sealed(b"v123"), _sealed(b"v"), _sealed(b"sx"), _sealed(b"s[1,2]"), _sealed(b"s[[1,0,2,0.5]]")),
        _sealed(b"v" + np.full(4, np.nan, np.float32).tobytes()),
        *(pack([Span("x", 0, 9999, 1.0)]), pack([Span("x", -1, 2, 1.0)]), pack([Span("x", 2, 2, 1.0)])),
        *(_sealed(b's[["x",0,2,null]]'), _sealed(b's[["x",0.5,2,0.5]]')),
    ],
)
async def test_a_damaged_or_foreign_value_is_not_remembered_and_is_written_over(value: bytes, metrics: LaneMetrics) -> None:
    near, far = MemoryStore(10_000, 60), MemoryStore(10_000, 60)
    cache, model = PredictionCache([near, far], metrics, "ner"), Model()
    key = key_of_model(entry()) + _digest("pain")
    await far.put({key: value})
    answer = [Span("x", 0, 4, 0.5)]
    assert await cache.through(key_of_model(entry()), ["pain"], model.run) == [answer]
    assert await far.get([key]) == await near.get([key]) == [pack(answer)]
    assert await cache.through(key_of_model(entry()), ["pain"], model.run) == [answer]
    assert model.asked == ["pain"]
    damaged = {"lane": "notes-entities", "kind": "cache-damaged"}
    assert metrics.registry.get_sample_value("vigil_events_total", damaged) == 1


async def test_the_same_input_runs_once(metrics: LaneMetrics) -> None:
    cache, model = memory(metrics), Model()
    first = await cache.through(key_of_model(entry()), ["pain", "no pain", "pain"], model.run)
    assert model.asked == ["pain", "no pain"]
    again = await cache.through(key_of_model(entry()), ["no pain", "fever", "pain"], model.run)
    assert again == [first[1], [Span("x", 0, 5, 0.5)], first[0]]
    assert model.asked == ["pain", "no pain", "fever"]
    assert metrics.registry.get_sample_value(
        "vigil_cached_predictions_total", {"lane": "notes-entities", "task": "ner", "outcome": "hit"}
    ) == 3  # fmt: skip


async def test_models_share_nothing_and_a_new_threshold_is_another_model(metrics: LaneMetrics) -> None:
    cache, model = memory(metrics), Model()
    for one in (entry(), entry(files={"model.onnx": "1" * 64}), entry(thresholds={"condition": 0.6})):
        await cache.through(key_of_model(one), ["pain"], model.run)
    assert model.asked == ["pain"] * 3


async def test_errors_are_not_remembered(metrics: LaneMetrics) -> None:
    cache, model = memory(metrics), Model()
    for _ in range(2):
        good, bad = await cache.through(key_of_model(entry()), ["good", "poison"], model.run)
        assert isinstance(bad, Poison) and good == [Span("x", 0, 4, 0.5)]
    assert model.asked == ["good", "poison", "poison"]


async def test_images_differ_by_shape_and_pixels(metrics: LaneMetrics) -> None:
    cache, ran = memory(metrics), []

    async def run(images: Sequence[Any]) -> list[Any]:
        ran.append(len(images))
        return [np.array([image.sum()], np.float32) for image in images]

    image = np.arange(12, dtype=np.uint8).reshape(3, 4)
    await cache.through(key_of_model(entry()), [image, image.T, image.reshape(4, 3), image.copy()], run)
    assert ran == [3]


async def test_memory_is_bounded_and_old_answers_go(metrics: LaneMetrics) -> None:
    store = MemoryStore(10_000, 0.2)
    for number in range(1000):
        await store.put({str(number).encode(): bytes(50)})
    held = [value for value in await store.get([str(number).encode() for number in range(1000)]) if value]
    assert 0 < len(held) <= 40
    await store.put({b"huge": bytes(20_000)})
    assert await store.get([b"huge"]) == [None]
    await asyncio.sleep(0.25)
    assert await store.get([b"999"]) == [None]


def test_no_cache_by_setting(metrics: LaneMetrics) -> None:
    assert PredictionCache.of(CacheSettings(megabytes=0), metrics, "ner") is None


# ---------------------------------------------------------------------------------------------------------------- Redis


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[Redis]:
    if missing := why_no_redis():
        pytest.skip(f"needs {missing}")  # .ci/run installs it: only a bare machine skips
    server = Redis(tmp_path)
    server.start()
    yield server
    server.stop()


@pytest.fixture
async def shared(redis: Redis, metrics: LaneMetrics) -> AsyncIterator[PredictionCache]:
    """A cache with nothing but Redis in it."""
    cache = memory(metrics, megabytes=0, redis=redis.url, redis_patience=1.0)
    ready = RedisStore(redis.url, CacheSettings(), LaneMetrics("probe"))

    async def answers() -> bool:
        ready._rests_until = 0.0
        await ready.put({b"probe": b"s[]"})
        return await ready.get([b"probe"]) == [b"s[]"]

    await until(answers, what="Redis answers")
    yield cache
    await cache.close()
    await ready.close()


async def test_workers_share_what_redis_holds(redis: Redis, shared: PredictionCache, metrics: LaneMetrics) -> None:
    model = Model()
    said = await shared.through(key_of_model(entry()), ["pain", "fever"], model.run)
    other = memory(metrics, redis=redis.url, redis_patience=1.0)  # memory of its own before the same Redis
    assert await other.through(key_of_model(entry()), ["fever", "pain"], model.run) == said[::-1]
    redis.stop()
    assert await other.through(key_of_model(entry()), ["pain"], model.run) == said[:1]  # by now it is nearer
    assert model.asked == ["pain", "fever"]
    await other.close()


@pytest.mark.parametrize("trouble", ["killed", "frozen"])
async def test_models_run_when_redis_does_not_answer(
    redis: Redis, shared: PredictionCache, metrics: LaneMetrics, trouble: str, caplog: pytest.LogCaptureFixture
) -> None:
    model = Model()
    await shared.through(key_of_model(entry()), ["pain"], model.run)
    redis.stop() if trouble == "killed" else redis.signal(signal.SIGSTOP)
    for _ in range(50):  # left alone after the first time: fifty waits would be a minute and more
        assert await shared.through(key_of_model(entry()), ["pain"], model.run) == [[Span("x", 0, 4, 0.5)]]
    assert len(model.asked) == 51
    said = [record.getMessage() for record in caplog.records if record.name == "vigil.cache"]
    assert len(said) == 1 and "Redis does not serve" in said[0]


async def test_a_wrong_password_is_a_miss_and_shows_nowhere(
    redis: Redis, shared: PredictionCache, metrics: LaneMetrics, caplog: pytest.LogCaptureFixture
) -> None:
    wrong = SecretStr(redis.url.get_secret_value().replace("s3cret-word", "wr0ng-word"))
    cache, model = memory(metrics, megabytes=0, redis=wrong), Model()
    assert await cache.through(key_of_model(entry()), ["pain"], model.run) == [[Span("x", 0, 4, 0.5)]]
    assert "AuthenticationError" in caplog.text and "wr0ng-word" not in caplog.text
    await cache.close()


async def test_the_doctor_asks_who_answers(redis: Redis, shared: PredictionCache) -> None:
    assert (await redis_version(redis.url, 1.0)).startswith("Redis ")
    redis.stop()
    with pytest.raises(Transient):
        await redis_version(redis.url, 1.0)


def test_no_address_is_refused_without_quoting_it(metrics: LaneMetrics) -> None:
    with pytest.raises(Fatal) as raised:
        memory(metrics, redis=SecretStr("postgres://:s3cret-word@somewhere"))
    assert "s3cret-word" not in str(raised.value) and "redis://" in (raised.value.hint or "")
