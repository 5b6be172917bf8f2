"""What a run of the bench stands on: one local Kafka, one Qdrant, a folder, the sizes; and sites, each with topics of its own."""

import contextlib
import itertools
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

from connectors.qdrant.embedded import EmbeddedQdrant
from processors.events import TOPICS
from streams.journal import TOPIC as JOURNAL
from tests.bench.rate import create
from tests.kafka import local_kafka
from tests.qdrant import binary, qdrant_server

PARTITIONS = 4

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much is measured. Full runs take half an hour on two cores; quick ones show that everything works and no more."""

    rounds: int = 3  # of what is compared, in turn; the median counts
    workers: int = 2
    sets: int = 200_000  # vitals, our lane
    peer_sets: int = 30_000
    notes: int = 1_500  # notes to entities, and the bare model
    vector_notes: int = 1_000
    guide_notes: int = 400
    alert_seconds: float = 60.0
    alert_warm: float = 10.0
    alert_patients: int = 2_000
    backlog_notes: int = 20_000  # behind which the lanes beside the vitals are
    backlog_images: int = 8_000
    searched_notes: int = 10_000
    embedded_notes: int = 1_500  # of them; the others are these, moved a little
    searches: int = 1_000
    behind: int = 100_000  # events, when memory is looked at
    memory_seconds: float = 90.0
    kills: int = 20  # of a worker; the median of their recoveries counts
    replayed_notes: int = 50_000  # under live load
    live_notes_per_s: float = 5.0
    live_seconds: float = 120.0  # before and after the replay
    calm_seconds: float = 30.0  # before a rolling upgrade


QUICK = Sizes(
    rounds=1,
    sets=4_000,
    peer_sets=1_500,
    notes=48,
    vector_notes=40,
    guide_notes=16,
    alert_seconds=2.0,
    alert_warm=1.0,
    alert_patients=200,
    backlog_notes=400,
    backlog_images=200,
    searched_notes=200,
    embedded_notes=40,
    searches=40,
    behind=1_500,
    memory_seconds=3.0,
    kills=1,
    replayed_notes=300,
    live_seconds=4.0,
    calm_seconds=3.0,
)


@dataclass
class Site:
    """Topics under a prefix, and the settings that lanes and connectors need to find them."""

    bootstrap: str
    prefix: str
    folder: Path
    env: dict[str, str]

    def topic(self, name: str) -> str:
        return self.prefix + name

    def group(self, lane: str) -> str:
        """Return the consumer group of a lane."""
        return f"{self.prefix}vigil.{lane}"


@dataclass
class Stage:
    """One run. Measurements are kept by name, so that figures which share one take it once."""

    bootstrap: str
    qdrant: str
    qdrant_words: str
    folder: Path
    sizes: Sizes
    quick: bool
    say: Callable[[str], None]
    _taken: dict[str, Any] = field(default_factory=dict)
    _numbers: Iterator[int] = field(default_factory=itertools.count)

    def once(self, name: str, measure: Callable[[], T]) -> T:
        """Measure, or return what was measured under that name."""
        if name not in self._taken:
            self._taken[name] = measure()
        taken: T = self._taken[name]
        return taken

    def site(self, stem: str, more: Mapping[str, str] | None = None) -> Site:
        """Create a site with every topic."""
        name = f"{stem}{next(self._numbers)}"
        folder = self.folder / name
        folder.mkdir()
        prefix = f"{name}."
        create(self.bootstrap, [prefix + topic for topic in (*TOPICS, JOURNAL)], PARTITIONS)
        env = {
            "VIGIL_KAFKA__BOOTSTRAP": self.bootstrap,
            "VIGIL_KAFKA__TOPIC_PREFIX": prefix,
            "VIGIL_VECTORS__URL": self.qdrant,
            "VIGIL_OBJECTS__URL": str(folder / "objects"),
            "VIGIL_WORKER__HOST": "bench",
            "VIGIL_MODELS__CACHE__MEGABYTES": "0",  # every note is to be worked on
            **(more or {}),
        }
        return Site(self.bootstrap, prefix, folder, env)

    def ratios(self, ours: Sequence[float], theirs: Sequence[float]) -> list[float]:
        """Return what each round's two measurements come to."""
        return [a / b for a, b in zip(ours, theirs, strict=True)]


@contextlib.contextmanager
def running(sizes: Sizes, *, quick: bool, say: Callable[[str], None]) -> Iterator[Stage]:
    """Set the stage. A real Qdrant where VIGIL_TEST_QDRANT_BIN names its binary, else the embedded store."""
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory(prefix="vigil-bench-", ignore_cleanup_errors=True)))
        kafka = stack.enter_context(local_kafka())
        program = binary()
        if program is not None:
            url, words = stack.enter_context(qdrant_server(program)).url, "Qdrant server"
        else:
            store = stack.enter_context(EmbeddedQdrant(folder / "qdrant"))
            url, words = store.url, "embedded store"
        os.environ.pop("VIGIL_CONFIG", None)  # a site's own settings have no say here
        yield Stage(kafka.bootstrap, url, words, folder, sizes, quick, say)
