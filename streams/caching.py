"""Predictions remembered: what a model said of an input it says again without running, from memory and, by setting, from Redis.

    items --keys--> memory --what it lacks--> Redis --what both lack--> the model --what it said--> both

The key is the digest of the model's whole registry entry (files, labels, thresholds, preprocessing) and that of the input, so
nothing is ever shared between models, and a changed threshold forgets what was said under the old one. Only results are kept, no
errors. The cache may lose anything at any time: Redis that is down, slow or full, or holds what was not written there or no longer
whole, means that the model runs, and nothing else.

What lies in Redis was derived from patients' notes and images (spans without their text, and vectors): protect it as Qdrant.
The vitals lane has no cache: windows never repeat.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from hashlib import blake2b, sha256
from math import isfinite
from typing import Any, Final, Protocol

import numpy as np
import orjson
from cachetools import TTLCache
from pydantic import SecretStr

from models.errors import Fatal, Transient, VigilError
from models.registry import ModelEntry
from models.tasks import Span
from streams.metrics import LaneMetrics
from streams.settings import CacheSettings

log = logging.getLogger("vigil.cache")

_PREFIX: Final = b"vigil:prediction:"
_PAUSE: Final = 10.0  # seconds that Redis is left alone after it failed to answer
_SEAL: Final = 8  # bytes of checksum before a value

Run = Callable[[Sequence[Any]], Awaitable[list[Any]]]


class Store(Protocol):
    """Where packed predictions lie by key. It may forget; it never raises."""

    async def get(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """Return what is remembered under each key."""
        ...

    async def put(self, found: Mapping[bytes, bytes]) -> None:
        """Remember for the configured time."""
        ...

    async def close(self) -> None:
        """Let go of connections."""
        ...


class MemoryStore:
    """The least recently used goes first, at so many bytes, and everything at its age."""

    def __init__(self, size: int, seconds: float) -> None:
        self._size = size
        self._held: TTLCache[bytes, bytes] = TTLCache(size, seconds, getsizeof=lambda value: len(value) + 200)

    async def get(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """Return what is remembered under each key."""
        return [self._held.get(key) for key in keys]

    async def put(self, found: Mapping[bytes, bytes]) -> None:
        """Remember; what is larger than the whole cache is not."""
        for key, value in found.items():
            if len(value) + 200 <= self._size:
                self._held[key] = value

    async def close(self) -> None:
        """Forget."""
        self._held.clear()


class RedisStore:
    """A Redis shared by all workers. Whenever it does not answer in time, it is left alone for a while."""

    def __init__(self, address: SecretStr, settings: CacheSettings, metrics: LaneMetrics) -> None:
        self._redis, self._errors = _connect(address, settings.redis_patience)
        self._metrics = metrics
        self._seconds = max(1, round(settings.seconds))
        self._patience = settings.redis_patience
        self._rests_until = 0.0

    async def get(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """Return what Redis holds under each key; nothing while it does not answer."""
        found = await self._ask(lambda: self._redis.mget([_PREFIX + key for key in keys]))
        return [None] * len(keys) if found is None else found

    async def put(self, found: Mapping[bytes, bytes]) -> None:
        """Write all at once."""

        async def write() -> None:
            async with self._redis.pipeline(transaction=False) as pipeline:
                for key, value in found.items():
                    pipeline.set(_PREFIX + key, value, ex=self._seconds)
                await pipeline.execute()

        await self._ask(write)

    async def _ask(self, question: Callable[[], Awaitable[Any]]) -> Any:
        now = asyncio.get_running_loop().time()
        if now < self._rests_until:
            return None
        try:
            async with asyncio.timeout(2 * self._patience):
                return await question()
        except self._errors as error:
            self._metrics.event("cache-unreachable")
            log.warning("Redis does not serve as cache (%s): models run without it for %g s", type(error).__name__, _PAUSE)
            self._rests_until = now + _PAUSE
            return None

    async def close(self) -> None:
        """Close the connections."""
        await self._redis.aclose()


def _connect(address: SecretStr, patience: float) -> tuple[Any, tuple[type[Exception], ...]]:
    """Return a client, not connected yet, and what it raises. Raises `Fatal` where there can be none."""
    try:
        from redis.asyncio import Redis
        from redis.exceptions import RedisError
    except ImportError as error:
        raise Fatal("models.cache.redis is set, but there is no client", hint="pip install 'vigil-stream[redis]'") from error
    try:
        client = Redis.from_url(address.get_secret_value(), socket_timeout=patience, socket_connect_timeout=patience)
    except ValueError:  # its words quote the address, with the password in it
        raise Fatal("models.cache.redis is no address", hint="redis://host:6379/0, or rediss:// for TLS") from None
    return client, (RedisError, OSError, TimeoutError)


async def redis_version(address: SecretStr, patience: float) -> str:
    """Say which Redis answers there; raises `Transient` when none does within `patience` seconds, `Fatal` where none can."""
    client, errors = _connect(address, patience)
    try:
        found = await client.info("server")
        return f"Redis {found['redis_version']}"
    except errors as error:
        raise Transient(f"Redis does not answer ({type(error).__name__})") from error
    finally:
        await client.aclose()


class PredictionCache:
    """The stores, asked one after the other, for one task of one lane."""

    def __init__(self, stores: Sequence[Store], metrics: LaneMetrics, task: str) -> None:
        self._stores = tuple(stores)
        self._metrics = metrics
        self._task = task

    @classmethod
    def of(cls, settings: CacheSettings, metrics: LaneMetrics, task: str) -> "PredictionCache | None":
        """Make what the settings ask for; None where they ask for no cache. Raises `Fatal` for a Redis that cannot be meant."""
        stores: list[Store] = []
        if settings.megabytes:
            stores.append(MemoryStore(int(settings.megabytes * 1e6), settings.seconds))
        if settings.redis is not None:
            stores.append(RedisStore(settings.redis, settings, metrics))
        return cls(stores, metrics, task) if stores else None

    async def through(self, owner: bytes, items: Sequence[Any], run: Run) -> list[Any]:
        """Return what `run(items)` would, running only what is not remembered, and what comes more than once only once.

        `owner` is `key_of_model` of who runs.
        """
        # Off the loop: an image has megabytes to be hashed.
        keys = await asyncio.to_thread(lambda: [owner + _digest(item) for item in items])
        answers = await self._recall(dict(zip(keys, items, strict=True)))
        lacking = {key: item for key, item in zip(keys, items, strict=True) if key not in answers}
        self._metrics.cached(self._task, hits=len(items) - len(lacking), misses=len(lacking))
        if lacking:
            made = dict(zip(lacking, await run(list(lacking.values())), strict=True))
            packed = {key: pack(answer) for key, answer in made.items() if not isinstance(answer, VigilError)}
            for store in self._stores:
                await store.put(packed)
            answers |= made
        return [answers[key] for key in keys]

    async def _recall(self, items: Mapping[bytes, Any]) -> dict[bytes, Any]:
        """Return the answers that are remembered. A value that cannot be one is none; the model's takes its place."""
        answers: dict[bytes, Any] = {}
        for number, store in enumerate(self._stores):
            lacking = [key for key in items if key not in answers]
            if not lacking:
                break
            held, damaged = {}, 0
            for key, value in zip(lacking, await store.get(lacking), strict=True):
                if value is None:
                    continue
                if (answer := unpack(value)) is None or not _fits(answer, items[key]):
                    damaged += 1
                else:
                    answers[key], held[key] = answer, value
            if damaged:
                self._metrics.event("cache-damaged", damaged)
                log.warning("%d cached values for %s are damaged or no lane's: the model runs instead", damaged, self._task)
            for nearer in self._stores[:number]:
                await nearer.put(held)
        return answers

    async def close(self) -> None:
        """Let go of connections."""
        for store in self._stores:
            await store.close()


def key_of_model(entry: ModelEntry) -> bytes:
    """Return the part of a key that stands for the model, as it is configured: 32 hex digits and a colon."""
    return sha256(entry.model_dump_json().encode()).hexdigest()[:32].encode() + b":"


def _digest(item: Any) -> bytes:
    if isinstance(item, str):
        return sha256(item.encode("utf-8", "surrogatepass")).hexdigest().encode()
    digest = sha256(f"{item.dtype}{item.shape}".encode())
    digest.update(np.ascontiguousarray(item).data)
    return digest.hexdigest().encode()


def pack(answer: Any) -> bytes:
    """Return a prediction as bytes, a checksum before it: a float32 vector, or the spans of a text."""
    if isinstance(answer, np.ndarray):
        body = b"v" + answer.astype("<f4", copy=False).tobytes()
    else:
        body = b"s" + orjson.dumps([(span.label, span.start, span.end, span.score) for span in answer])
    return _seal(body) + body


def unpack(value: bytes) -> Any:
    """Return the prediction that `pack` was given, bit for bit; None for what it did not make, or no longer whole."""
    seal, body = value[:_SEAL], value[_SEAL:]
    if seal != _seal(body):
        return None
    try:
        if body[:1] == b"v":
            return np.frombuffer(body, "<f4", offset=1).copy()
        return [Span(*fields) for fields in orjson.loads(body[1:])]
    except (ValueError, TypeError):
        return None


def _seal(body: bytes) -> bytes:
    return blake2b(body, digest_size=_SEAL).digest()


def _fits(answer: Any, item: Any) -> bool:
    """Say whether an answer may be one to an input: finite, and of a text's spans none outside it."""
    if isinstance(answer, np.ndarray):
        return bool(answer.size and np.isfinite(answer).all())
    return isinstance(item, str) and all(_span_fits(span, len(item)) for span in answer)


def _span_fits(span: Any, size: int) -> bool:
    if not isinstance(span.start, int) or not isinstance(span.end, int) or not isinstance(span.score, int | float):
        return False
    return isinstance(span.label, str) and 0 <= span.start < span.end <= size and isfinite(span.score)
