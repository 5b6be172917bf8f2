"""How much memory a lane takes when it falls 100,000 events behind, over what it holds when warm and idle.

Growth is the highest resident size while the backlog stands, less that after a warm-up of light, steady traffic, as before an
outage. In the warm-up every patient's history reaches its bound: what grows is what the backlog takes, not what is known of the
patients. The backlog is whole from the start. The vitals lane works all of it off; the language and image lanes would take an hour
for it, and are watched while they work on it for a minute and a half: what they hold of it (the ledger's limit, the batches in
flight) is there after a few seconds and does not depend on how much is left.
"""

import itertools
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

from connectors.objects import ObjectStore
from connectors.objects.settings import ObjectSettings
from processors.events import ObjectReference
from tests import load
from tests.bench.programs import Program, lane
from tests.bench.rate import Tail, Wire, encoded, entries, fill
from tests.bench.stage import Site, Stage
from tests.vitals import patient, vitals

LANES = {
    "vitals": ("clinical.vitals", "clinical.scores"),
    "notes-entities": ("clinical.notes", "clinical.entities"),
    "notes-vectors": ("clinical.notes", "clinical.audit"),
    "images": ("clinical.images", "clinical.findings"),
}
PATIENTS = 200
_WARM = {"vitals": 40 * PATIENTS, "notes-entities": 150, "notes-vectors": 150, "images": 100}
_TRICKLE = 500  # events of the warm-up a second
_MB = 1024 * 1024


def growth(stage: Stage) -> dict[str, dict[str, Any]]:
    """Return what each lane held: warm, most, growth in MB, events worked off meanwhile."""
    return stage.once("memory", lambda: {name: _growth(stage, name) for name in LANES})


def _growth(stage: Stage, name: str) -> dict[str, Any]:
    sizes, site = stage.sizes, stage.site(f"m-{name}")
    source, output = (site.topic(topic) for topic in LANES[name])
    warm = min(_WARM[name], max(20, sizes.behind // 5))
    events = _events(site, name, warm + sizes.behind)
    with lane(name, site.env, site.folder) as program:
        program.until_ready()
        tail = Tail(site.bootstrap, output, **({"weigh": entries} if name == "notes-vectors" else {}))
        for records in _pieces(encoded(itertools.islice(events, warm)), _TRICKLE // 4):
            fill(site.bootstrap, source, records)
            time.sleep(0.25)
        tail.until(warm, within=300, alive=[program])
        time.sleep(1)
        before = program.rss
        fill(site.bootstrap, source, encoded(events))
        most = _most(program, tail, warm + sizes.behind, sizes.memory_seconds)
        done = tail.count() - warm
        tail.close()
    grown = (most - before) / _MB
    stage.say(
        f"memory, {name}: {before / _MB:.0f} MB warm, {most / _MB:.0f} MB at most, grown {grown:.1f} MB, {done:,} worked off"
    )
    return {
        "warm_mb": round(before / _MB, 1),
        "most_mb": round(most / _MB, 1),
        "growth_mb": round(grown, 1),
        "worked_off": done,
    }


def _pieces(records: Wire, size: int) -> Iterator[Wire]:
    return (records[i : i + size] for i in range(0, len(records), size))


def _most(program: Program, tail: Tail, whole: int, seconds: float) -> int:
    """Watch until all is worked off or the time is over."""
    most, deadline = 0, time.monotonic() + seconds
    while time.monotonic() < deadline and tail.count() < whole:
        for _ in range(10):
            program.check()
            most = max(most, program.rss)
            time.sleep(0.05)
    return most


def _events(site: Site, name: str, number: int) -> Iterator[Any]:
    if name == "vitals":
        start = datetime.now(UTC) - timedelta(minutes=50)
        steps = -(-number // PATIENTS)
        fill(site.bootstrap, site.topic("clinical.patients"), encoded(patient(n, start) for n in range(PATIENTS)))
        return itertools.islice(vitals(PATIENTS, steps, start, every=timedelta(minutes=45) / steps), number)
    if name == "images":
        return load.images(400, number, keep_objects(site))
    return load.notes(400, number)


def keep_objects(site: Site, count: int = 24) -> list[ObjectReference]:
    """Put films into the site's object store; return the references."""
    store = ObjectStore(ObjectSettings(url=site.env["VIGIL_OBJECTS__URL"]))
    return [store.put_now(data, "image/png", ".png") for _, data in load.pixel_objects(500, count)]
