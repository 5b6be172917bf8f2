"""vitals -> scores, alerts, audit: sets a second on two cores, beside Faust's guide and Quix Streams' guide."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from processors.events import TOPICS
from streams.journal import TOPIC as JOURNAL
from tests.bench.rate import create, fill, measured
from tests.vitals import patient, vitals

PARTITIONS = 4
PATIENTS = 500


def run(bootstrap: str, folder: Path, *, sets: int = 100_000, peer_sets: int = 20_000, workers: int = 2) -> dict[str, Any]:
    """Return sets a second of the three, and the ratios."""
    ours = _lane(bootstrap, folder, "b.ours.", sets, workers)
    guide = _peer(bootstrap, folder, "b.guide.", "faust_vitals", "guide.scores", peer_sets, workers)
    quix = _peer(bootstrap, folder, "b.quix.", "quix_vitals", "quix.scores", peer_sets, workers)
    return {
        "vitals_sets_per_s": round(ours.per_second),
        "vitals_faust_guide_sets_per_s": round(guide.per_second),
        "vitals_quix_sets_per_s": round(quix.per_second),
        "vitals_over_faust_guide": round(ours.per_second / guide.per_second, 2),
        "vitals_over_quix": round(ours.per_second / quix.per_second, 2),
    }


def _load(bootstrap: str, prefix: str, sets: int) -> int:
    start = datetime.now(UTC) - timedelta(hours=3)
    fill(bootstrap, f"{prefix}clinical.patients", (patient(n, start) for n in range(PATIENTS)))
    steps = sets // PATIENTS
    return fill(bootstrap, f"{prefix}clinical.vitals", vitals(PATIENTS, steps, start, every=timedelta(hours=3) / steps))


def _lane(bootstrap: str, folder: Path, prefix: str, sets: int, workers: int) -> Any:
    create(bootstrap, [prefix + topic for topic in (*TOPICS, JOURNAL)], PARTITIONS)
    count = _load(bootstrap, prefix, sets)
    env = {"VIGIL_KAFKA__BOOTSTRAP": bootstrap, "VIGIL_KAFKA__TOPIC_PREFIX": prefix, "VIGIL_WORKER__HOST": "bench"}
    commands = [["-m", "streams.cli", "lane", "run", "vitals"]] * workers
    return measured(bootstrap, f"{prefix}clinical.scores", count, commands, env, within=600, log=folder / "lane.log")


def _peer(bootstrap: str, folder: Path, prefix: str, module: str, output: str, sets: int, workers: int) -> Any:
    names = [
        "clinical.vitals",
        "clinical.patients",
        output,
        output.replace("scores", "audit"),
        output.replace("scores", "alerts"),
    ]
    create(bootstrap, [prefix + name for name in names], PARTITIONS)
    count = _load(bootstrap, prefix, sets)
    env = {"BENCH_BOOTSTRAP": bootstrap, "BENCH_PREFIX": prefix, "BENCH_STATE": str(folder / "state")}
    commands = [["-m", f"tests.bench.peers.{module}"]] * workers
    return measured(bootstrap, prefix + output, count, commands, env, within=600, log=folder / f"{module}.log")
