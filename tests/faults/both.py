"""Two faults at once, or one while another lasts: what each lane stands alone it has to stand together."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from tests.faults.arena import Arena, Fault
from tests.faults.outside import broker_kill, leader_change
from tests.faults.workers import rebalance, sigkill
from tests.qdrant import QdrantServer

LANES = ("vitals", "notes-entities", "notes-vectors")


def together(*strikes: Callable[[Arena], None]) -> Callable[[Arena], None]:
    """Let several faults strike at the same time; over when the last of them is."""

    def strike(arena: Arena) -> None:
        with ThreadPoolExecutor(len(strikes)) as threads:
            for struck in [threads.submit(one, arena) for one in strikes]:
                struck.result()

    return strike


def broker_kill_without_qdrant(arena: Arena) -> None:
    """Qdrant is down; meanwhile the broker is killed and comes back; then Qdrant does."""
    qdrant = arena.get(QdrantServer)
    qdrant.kill()
    arena.sleep(2.0)
    broker_kill(arena)
    arena.sleep(2.0)
    qdrant.start()


def sigkill_without_broker(arena: Arena) -> None:
    """The broker is killed, and while it is down the worker too: it starts where there is nobody, and has to wait."""
    arena.kafka.kill()
    arena.sleep(1.0)
    arena.worker().kill()
    arena.worker().start()
    arena.sleep(3.0)
    arena.kafka.start()
    arena.worker().until_ready()


def slow_network(arena: Arena) -> None:
    """Each packet is 150 ms late, and no more than 200 kB/s pass, for 12 s."""
    arena.proxy.slow(0.15, 200_000)
    arena.sleep(12.0)
    arena.proxy.heal()


FAULTS = [
    Fault(
        "broker-kill-without-qdrant",
        "notes-vectors",
        "the broker killed and started while Qdrant is down",
        broker_kill_without_qdrant,
        seconds=20,
        seen="store",
    ),
    *(
        Fault(
            "sigkill-without-broker",
            lane,
            "the worker killed and started while the broker is down",
            sigkill_without_broker,
            seconds=18,
        )
        for lane in ("vitals", "notes-entities")
    ),
    *(
        Fault(
            "sigkill-leader-change",
            lane,
            "SIGKILL three times while each of three brokers goes in turn",
            together(leader_change, sigkill),
            brokers=3,
            seconds=24,
        )
        for lane in LANES
    ),
    *(
        Fault(
            "slow-rebalance",
            lane,
            "workers added and removed while the network is slow",
            together(slow_network, rebalance),
            seconds=24,
        )
        for lane in LANES
    ),
]
