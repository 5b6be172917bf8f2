"""The stage of the demo: broker, vector store, every lane and the connectors, each a process, in a folder that stays."""

import asyncio
import json
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

from connectors.child import command, free_port
from connectors.qdrant.embedded import EmbeddedQdrant
from models.errors import Fatal, Permanent
from processors.events import TOPICS
from streams import topics
from streams.broker import EmbeddedBroker
from streams.demo import ward
from streams.journal import TOPIC as JOURNAL
from streams.lanes import LANES
from streams.settings import Settings, load
from streams.supervisor import Child, Supervisor, lane_children

_NEWS = 10.0  # seconds between lines about a start that takes long
_MARK = ".vigil-demo"  # a folder with this file in it is a demo's
PARTITIONS = 2  # on two cores; a site has more


@dataclass(frozen=True, slots=True)
class DemoPlan:
    """What is played. `seconds` of real time for `hours` of the ward's."""

    seconds: float = 60.0
    out: Path = Path("demo-out")
    patients: int = 24
    hours: float = 6.0
    seed: int = 7
    bootstrap: str = ""
    qdrant: str = ""

    @property
    def speed(self) -> float:
        """Seconds of the ward's clock per real second."""
        return self.hours * 3600 / self.seconds


@dataclass
class Stage:
    """Everything that runs; `env` is what an operator would export to look at it with `vigil` from another terminal."""

    plan: DemoPlan
    broker: EmbeddedBroker | None = None
    store: EmbeddedQdrant | None = None
    supervisor: Supervisor | None = None
    env: dict[str, str] = field(default_factory=dict)
    addresses: Mapping[str, tuple[str, int]] = field(default_factory=dict)

    async def build(self, epoch: datetime) -> None:
        """Start broker and store, write the folder; the ward's clock begins with the lanes."""
        out = self.plan.out
        _make_room(out)
        for part in ("logs", "objects", "qdrant"):
            shutil.rmtree(out / part, ignore_errors=True)
            (out / part).mkdir(parents=True)
        names = (*TOPICS, JOURNAL)
        if not self.plan.bootstrap:
            self.broker = EmbeddedBroker(dict.fromkeys(names, PARTITIONS))
        if not self.plan.qdrant:
            self.store = EmbeddedQdrant(out / "qdrant", log=out / "logs" / "vectors.log", sync=False)
        bootstrap = await asyncio.to_thread(self.broker.start) if self.broker else self.plan.bootstrap
        url = await asyncio.to_thread(self.store.start) if self.store else self.plan.qdrant
        self.env = {
            "VIGIL_KAFKA__BOOTSTRAP": bootstrap,
            "VIGIL_KAFKA__EMBEDDED": str(self.broker is not None).lower(),
            "VIGIL_KAFKA__TOPIC_PREFIX": "" if self.broker else f"demo-{epoch:%Y%m%d%H%M%S}.",
            "VIGIL_TOPICS__PARTITIONS": str(PARTITIONS),
            "VIGIL_TOPICS__REPLICATION": "1",
            "VIGIL_VECTORS__URL": url,
            "VIGIL_OBJECTS__URL": str((out / "objects").absolute()),
            "VIGIL_SITE__NAME": "demo-ward",
            "VIGIL_CLOCK__EPOCH": epoch.isoformat(),
            "VIGIL_CLOCK__STARTED": datetime.now(UTC).isoformat(),
            "VIGIL_CLOCK__SPEED": str(self.plan.speed),
            # The ward's clock runs hundreds of times faster, and its timers must keep up with it.
            "VIGIL_STATE__TICK_SECONDS": "0.1",
            "VIGIL_STATE__SNAPSHOT_SECONDS": "5",
            "VIGIL_ENGINE__COMMIT_EVERY": "0.1",
            # Lower than the vitals, and not the lowest: beside a busy neighbour SCHED_IDLE would hardly get to start.
            **{f"VIGIL_LANES__{lane}__NICE": "10" for lane in ("NOTES_ENTITIES", "NOTES_VECTORS", "IMAGES", "MERGES")},
            "VIGIL_CONNECTORS__MLLP__PORT": "0",
            "VIGIL_CONNECTORS__DICOM__PORT": "0",
            "VIGIL_CONNECTORS__FHIR__PORT": "0",
            "VIGIL_CONNECTORS__DICOM__MIN_FREE_BYTES": "100000000",
            **ward.SETTINGS,
        }
        (out / "environment").write_text("".join(f"export {name}='{value}'\n" for name, value in self.env.items()))
        if not self.broker:
            await topics.create(self.settings())

    def settings(self) -> Settings:
        """Return the settings that the processes see."""
        os.environ.update(self.env)
        return load()

    async def raise_curtain(self, say: Callable[[str], None], within: float = 300.0) -> None:
        """Start lanes and connectors and wait until all are ready; `say` is told for whom. Raises `Fatal` that names who is not.

        `within`: seconds; beside busy neighbours on two cores it has taken 180.
        """
        logs, ports = self.plan.out / "logs", {}
        children = []
        for child in lane_children(list(LANES), 1, env=self.env):
            ports[child.name] = free_port()
            child.env["VIGIL_WORKER__HEALTH_PORT"] = str(ports[child.name])
            child.log = logs / f"{child.name}.log"
            children.append(child)
        file = self.plan.out / "addresses.json"
        file.unlink(missing_ok=True)
        serve = command("streams.cli", "serve", "--addresses", str(file))
        children.append(Child("connectors", serve, dict(self.env), log=logs / "connectors.log"))
        self.supervisor = Supervisor(children)
        await self.supervisor.start()
        deadline = asyncio.get_running_loop().time() + within
        said = asyncio.get_running_loop().time()
        waiting = {name: f"http://127.0.0.1:{port}/ready" for name, port in ports.items()}
        while waiting or not file.exists():
            failed = next((child for child in children if child.restarts > 1), None)
            if failed is not None and failed.log is not None:
                last = failed.log.read_text(errors="replace").strip().rsplit("\n", 1)[-1]
                raise Fatal(f"{failed.name} does not start: {last}", hint=f"its log is {failed.log}")
            late = [*waiting, *([] if file.exists() else ["connectors"])]
            if asyncio.get_running_loop().time() > said + _NEWS:
                said = asyncio.get_running_loop().time()
                say(f"{len(children) - len(late)} of {len(children)} are ready, still starting: {', '.join(late)}")
            if asyncio.get_running_loop().time() > deadline:
                raise Fatal(f"not ready within {within:.0f} s: {', '.join(late)}", hint=f"their logs are in {logs}")
            for name, url in list(waiting.items()):
                if await asyncio.to_thread(_answers, url):
                    del waiting[name]
            await asyncio.sleep(0.1)
        self.addresses = {name: (host, port) for name, (host, port) in json.loads(file.read_text()).items()}

    async def strike(self) -> None:
        """Stop everything, in order: connectors and lanes, then the store and the broker under them."""
        if self.supervisor:
            await self.supervisor.stop()
        if self.store:
            await asyncio.to_thread(self.store.stop)
        if self.broker:
            await asyncio.to_thread(self.broker.stop)


def _make_room(out: Path) -> None:
    """Mark a folder as a demo's. Raises `Permanent` for one that holds anything and has no such mark: it is not ours to clear."""
    mark = out / _MARK
    if out.exists() and not out.is_dir():
        raise Permanent(f"{out} is no folder", hint="--out names a folder: one that is empty, or new, or an earlier demo's")
    if out.is_dir() and any(out.iterdir()) and not mark.exists():
        raise Permanent(
            f"{out} holds files that no demo left, and the demo would delete its logs, objects and qdrant",
            hint="--out names a folder: one that is empty, or new, or an earlier demo's",
        )
    out.mkdir(parents=True, exist_ok=True)
    mark.touch()


def _answers(url: str) -> bool:
    try:
        with urlopen(url, timeout=2) as answer:  # noqa: S310 - our own health page
            return bool(answer.status == 200)
    except (URLError, OSError):
        return False
