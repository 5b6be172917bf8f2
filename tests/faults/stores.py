"""Faults of what a lane asks beside Kafka: the vector store, the objects, the shared prediction cache."""

import json
import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path

from infra.kafka.host import free_ports
from tests.faults.arena import VECTORS, Arena, Fault, Twist
from tests.faults.inputs import Sent
from tests.faults.messages import duplicate
from tests.faults.proxy import Proxy, Refuser
from tests.faults.workers import nothing
from tests.qdrant import QdrantServer
from tests.redis import Redis, why_no_redis

SLOW = 6.0  # seconds that a slow object takes


def qdrant_down(arena: Arena) -> None:
    """SIGKILL Qdrant, 6 s later start it with its data."""
    qdrant = arena.get(QdrantServer)
    qdrant.kill()
    arena.sleep(6.0)
    qdrant.start()


def qdrant_restart(arena: Arena) -> None:
    """Stop Qdrant in good order and start it."""
    qdrant = arena.get(QdrantServer)
    qdrant.stop()
    qdrant.start()


def qdrant_hangs(arena: Arena) -> None:
    """Qdrant takes connections and answers none for 8 s, past the client's time-out."""
    arena.freeze(arena.get(QdrantServer).pid, 8.0)


def _films(arena: Arena) -> list[Path]:
    return sorted(path for path in arena.objects.rglob("*.png") if path.is_file())


def spoil_film(spoil: Callable[[Path], object]) -> Callable[[Arena], Twist]:
    """Spoil one film's file before the first image leaves: every image that refers to it is spoilt."""

    def prepare(arena: Arena) -> Twist:
        film = _films(arena)[0]
        spoil(film)

        def twist(number: int, one: Sent) -> list[Sent]:
            arena.spoilt += json.loads(one.value or b"")["pixels"]["sha256"] == film.stem
            return [one]

        return twist

    return prepare


def behind(kind: type[Proxy]) -> Callable[[Arena], None]:
    """Put a proxy of this kind between the workers and Qdrant."""

    def prepare(arena: Arena) -> None:
        [front] = free_ports(1)
        arena.keep(arena.stack.enter_context(kind(front, arena.get(QdrantServer).http_port)))
        arena.env["VIGIL_VECTORS__URL"] = f"http://127.0.0.1:{front}"

    return prepare


def qdrant_slow(arena: Arena) -> None:
    """Everything to and from Qdrant is 0.6 s late for 8 s."""
    front = arena.get(Proxy)
    front.slow(0.6, 0.0)
    arena.sleep(8.0)
    front.heal()


def qdrant_refuses(arena: Arena) -> None:
    """Qdrant refuses every other write for 8 s; half of those it has carried out all the same, and only the answer is lost."""
    front = arena.get(Refuser)
    front.refusing = True
    arena.sleep(8.0)
    front.refusing = False
    if not front.refused:
        arena.wrong.append("no write was refused")


def slow_object(arena: Arena) -> Twist:
    """The first image of one film has a file that gives nothing for 6 s: a pipe, whose other end waits as long."""
    film = _films(arena)[0]
    data, twin = film.read_bytes(), film.with_name("twin")
    laid: list[bool] = []

    def give() -> None:
        with film.open("wb") as pipe:  # waits until the lane has opened it
            twin.write_bytes(data)
            twin.replace(film)  # whoever asks again finds the file
            arena.over.wait(SLOW)
            pipe.write(data)

    def twist(number: int, one: Sent) -> list[Sent]:
        if json.loads(one.value or b"")["pixels"]["sha256"] == film.stem and not laid:
            laid.append(True)
            film.unlink()
            os.mkfifo(film)
            threading.Thread(target=give, daemon=True).start()
        return [one]

    return twist


def with_redis(arena: Arena) -> None:
    """Let the lane share its predictions over a Redis."""
    redis = arena.keep(Redis(arena.folder))
    redis.start()
    arena.stack.callback(redis.stop)
    arena.env["VIGIL_MODELS__CACHE__REDIS"] = redis.url.get_secret_value()
    arena.env["VIGIL_MODELS__CACHE__MEGABYTES"] = "0"


def redis_down(arena: Arena) -> None:
    """SIGKILL Redis for 4 s, then freeze it for 4 s."""
    redis = arena.get(Redis)
    redis.stop()
    arena.sleep(4.0)
    redis.start()
    arena.sleep(3.0)
    redis.signal(signal.SIGSTOP)
    arena.sleep(4.0)
    redis.signal(signal.SIGCONT)


FAULTS = [
    *(
        Fault(
            "qdrant-down",
            lane,
            "Qdrant killed, started 6 s later",
            qdrant_down,
            short=lane == "notes-vectors",
            seen="store",
        )
        for lane in VECTORS
    ),
    *(Fault("qdrant-restart", lane, "Qdrant restarted in good order", qdrant_restart) for lane in VECTORS),
    *(
        Fault("qdrant-hangs", lane, "Qdrant answers nothing for 8 s", qdrant_hangs, seconds=16, seen="store")
        for lane in VECTORS
    ),
    *(
        Fault("qdrant-slow", lane, "Qdrant answers 1.2 s late for 8 s", qdrant_slow, prepare=behind(Proxy), seconds=16)
        for lane in VECTORS
    ),
    *(
        Fault(
            "qdrant-refuses",
            lane,
            "Qdrant refuses every other write for 8 s, half of them after it carried them out",
            qdrant_refuses,
            prepare=behind(Refuser),
            seconds=16,
            seen="store",
        )
        for lane in VECTORS
    ),
    Fault("object-missing", "images", "a film's file is gone", nothing, twist=spoil_film(Path.unlink), seen="dead_lettered"),
    Fault(
        "object-corrupt",
        "images",
        "a film's file has other bytes",
        nothing,
        twist=spoil_film(lambda path: path.write_bytes(b"x" * 100)),
        seen="dead_lettered",
    ),
    Fault("object-slow", "images", "an object takes 6 s to be read", nothing, twist=slow_object),
    Fault(
        "redis-down",
        "notes-entities",
        "the shared prediction cache killed for 4 s, then frozen for 4 s",
        redis_down,
        twist=duplicate,
        prepare=with_redis,
        seconds=18,
        needs=why_no_redis,
        seen="Redis",
    ),
]
