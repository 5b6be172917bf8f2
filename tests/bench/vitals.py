"""vitals -> scores, alerts, audit: sets a second on two cores, beside Faust's guide and Quix Streams' guide.

All three do the same job (decode, chart, NEWS2, LSTM, alerts, audit) over the same sets with the same number of workers. A third of
the 500 patients gets worse; all sets are of the last three quarters of an hour, so none is history. The workers run and share the
partitions before the backlog is written; see `rate` for what is counted.
"""

import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from tests.bench.programs import Program, lane, peer, until_shared
from tests.bench.rate import Rate, Tail, Wire, encoded, fill
from tests.bench.stage import Site, Stage
from tests.vitals import patient, vitals

PATIENTS = 500
_SPAN = timedelta(minutes=45)
_WARM = 4  # sets a patient, unmeasured


def throughput(stage: Stage) -> dict[str, list[Rate]]:
    """Return the rates of the lane and both peers, one a round, taken in turn."""
    return stage.once("vitals", lambda: _throughput(stage))


def _throughput(stage: Stage) -> dict[str, list[Rate]]:
    found: dict[str, list[Rate]] = {"lane": [], "faust": [], "quix": []}
    for number in range(stage.sizes.rounds):
        for name in found:
            rate = _measure(stage, name)
            found[name].append(rate)
            stage.say(
                f"vitals, round {number + 1}, {name}: {rate.per_second:,.0f} sets/s ({rate.n:,} in {rate.seconds:.1f} s), "
                f"{rate.cpu_us:.0f} us of CPU a set"
            )
    return found


def _measure(stage: Stage, name: str) -> Rate:
    sizes, site = stage.sizes, stage.site(f"v-{name}")
    steps = max(2, (sizes.sets if name == "lane" else sizes.peer_sets) // PATIENTS)
    start = datetime.now(UTC) - _SPAN
    every = (_SPAN - timedelta(minutes=1)) / (steps + _WARM)
    records = encoded(vitals(PATIENTS, steps + _WARM, start, every=every))
    warm, load = records[: _WARM * PATIENTS], records[_WARM * PATIENTS :]
    fill(site.bootstrap, site.topic("clinical.patients"), encoded(patient(n, start) for n in range(PATIENTS)))
    with ExitStack() as stack:
        workers = [stack.enter_context(_worker(name, site, slot)) for slot in range(sizes.workers)]
        group = {"lane": site.group("vitals"), "faust": f"{site.prefix}guide", "quix": f"{site.prefix}quix"}[name]
        until_shared(site.bootstrap, group, sizes.workers, workers)
        return rate_of(site, "clinical.vitals", "clinical.scores", warm, load, workers)


def _worker(name: str, site: Site, slot: int) -> Program:
    if name == "lane":
        return lane("vitals", site.env, site.folder, slot=slot)
    env = {"BENCH_BOOTSTRAP": site.bootstrap, "BENCH_PREFIX": site.prefix}
    return peer(f"{name}_vitals", env, site.folder, slot=slot)


def rate_of(site: Site, source: str, output: str, warm: Wire, load: Wire, workers: Sequence[Program], **tail: Any) -> Rate:
    """Warm the workers up, write the load, wait until all of it has come out: the steady rate."""
    out = Tail(site.bootstrap, site.topic(output), **tail)
    try:
        fill(site.bootstrap, site.topic(source), warm)
        out.until(len(warm), within=300, alive=workers)
        before = sum(worker.cpu for worker in workers)
        fill(site.bootstrap, site.topic(source), load)
        filled = time.time()
        out.until(len(warm) + len(load), within=900, alive=workers)
        cpu = sum(worker.cpu for worker in workers) - before
        rate = out.steady(len(warm) + len(load), filled, skip=len(warm))
        return replace(rate, cpu_us=1e6 * cpu / len(load))
    finally:
        out.close()
