"""`python -m tests.incidents [PAGE...]`: brings incidents about, types what the runbook says, and keeps what was seen.

Each is a real one, on a local Kafka: a lane is killed, a store taken away, a model's file changed. What its operator types and
reads goes into the section `Seen` of its page in infra/runbook, with ports and folders under the names of a site. No test runs it:
run it by hand when what a command says has changed.
"""

import asyncio
import os
import re
import shlex
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from connectors.qdrant.embedded import EmbeddedQdrant
from infra.kafka.host import free_ports
from infra.kafka.kafka import LocalKafka
from models.registering import record
from processors.events import TOPICS
from streams.journal import TOPIC as JOURNAL
from tests import tiny_models
from tests.bench.rate import create, encoded, fill
from tests.clinic import NOWHERE, note
from tests.deliveries import alert
from tests.kafka import delete_records, local_kafka
from tests.monitoring import INFRA
from tests.receiver import SECRET
from tests.vitals import LaneProcess, patient, vitals


class Started(LaneProcess):
    """A process of `vigil` with its health port."""

    port: int


class Desk:
    """An operator's desk: a site of one incident, its processes, and the transcript."""

    def __init__(self, kafka: LocalKafka, folder: Path) -> None:
        self.kafka = kafka
        self.folder = folder
        self.lines: list[str] = []
        self.prefix = f"i{time.time_ns()}."
        create(kafka.bootstrap, [self.prefix + topic for topic in (*TOPICS, JOURNAL)], 2)
        self._stack = ExitStack()
        self._names = {kafka.bootstrap: "kafka:9092", str(folder): "/var/lib/vigil", self.prefix: ""}
        self.env = {
            "VIGIL_KAFKA__BOOTSTRAP": kafka.bootstrap,
            "VIGIL_KAFKA__TOPIC_PREFIX": self.prefix,
            "VIGIL_TOPICS__PARTITIONS": "2",
            "VIGIL_VECTORS__URL": NOWHERE,
            "VIGIL_OBJECTS__URL": str(folder / "objects"),
            "VIGIL_WORKER__HOST": "ward-server",
            "VIGIL_LANES__NOTES_ENTITIES__NICE": "0",  # on a machine that does other things too they would be starved
            "VIGIL_LANES__NOTES_VECTORS__NICE": "0",
            "VIGIL_ENGINE__BACKOFF_MOST": "2",
            "VIGIL_ENGINE__SESSION_TIMEOUT": "6",
            "VIGIL_ENGINE__HEARTBEAT_INTERVAL": "1",
            "VIGIL_IDENTITY__SITE_SECRET": "an incident that is made up",
        }

    def close(self) -> None:
        """End every process."""
        self._stack.close()

    def run(self, *words: str, name: str = "") -> Started:
        """Start a process of `vigil`, with a health port that the transcript calls HOST:9101."""
        (port,) = free_ports(1)
        self._names[f"127.0.0.1:{port}"] = "127.0.0.1:9101"
        env = {**self.env, "VIGIL_WORKER__HEALTH_PORT": str(port), "PYTHONPATH": str(INFRA.parent)}
        log = self.folder / f"{name or words[-1]}.log"
        process = Started(name or words[-1], env, log, command=[sys.executable, "-m", "streams.cli", *words])
        process.port = port
        process.start()
        self._stack.callback(lambda: process.stop() if process.running else None)
        return process

    def store(self) -> EmbeddedQdrant:
        """Start a vector store."""
        (port,) = free_ports(1)
        folder = self.folder / "store"
        folder.mkdir()
        store = EmbeddedQdrant(folder, port=port)
        self.env["VIGIL_VECTORS__URL"] = store.start()
        self._names[self.env["VIGIL_VECTORS__URL"].removeprefix("http://")] = "qdrant:6333"
        self._stack.callback(store.stop)
        return store

    def until(self, condition: Callable[[], object], what: str, within: float = 240.0) -> None:
        """Wait."""
        deadline = time.monotonic() + within
        while not condition():
            if time.monotonic() > deadline:
                raise TimeoutError(f"{what} within {within:.0f} s")
            time.sleep(0.2)

    def page(self, process: Started, path: str) -> str:
        """A health page; nothing where nothing answers."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{process.port}/{path}", timeout=2) as answer:
                return str(answer.read().decode())
        except urllib.error.HTTPError as error:
            with error:
                return error.read().decode()
        except OSError:
            return ""

    def until_ready(self, process: Started) -> None:
        """Wait for /ready."""

        def ready() -> bool:
            assert process.running, process.log
            return '"ready":true' in self.page(process, "ready").replace(" ", "")

        self.until(ready, f"{process.name} is ready")

    # ------------------------------------------------------------------------------------------------- the transcript

    def say(self, words: str) -> None:
        """What happens, as a comment."""
        self.lines.append(f"# {words}")

    def type(self, command: str, *, keep: str = "") -> str:
        """Run `vigil ...` and keep what it says; `keep`: only lines that match."""
        words = [sys.executable, "-m", "streams.cli", *shlex.split(command)]
        env = {**os.environ, **self.env, "COLUMNS": "150", "PYTHONPATH": str(INFRA.parent), "LOGNAME": "ops", "USER": "ops"}
        said = subprocess.run(words, env=env, capture_output=True, text=True, timeout=300, cwd=self.folder)
        self._kept(f"vigil {command}", said.stdout + said.stderr, keep)
        return said.stdout

    def ready(self, process: Started) -> None:
        """Ask /ready."""
        self._kept(f"curl -s http://127.0.0.1:{process.port}/ready", self.page(process, "ready"), "")

    def log(self, process: Started, pattern: str, *, last: int = 3) -> None:
        """Wait for lines of a log, and keep the last of them."""
        self.until(lambda: re.search(pattern, process.log), f"{pattern} in the log of {process.name}")
        lines = [line for line in process.log.splitlines() if re.search(pattern, line)]
        self._kept(f"grep -E '{pattern}' {process.name}.log | tail -{last}", "\n".join(lines[-last:]), "")

    def _kept(self, command: str, output: str, keep: str) -> None:
        lines = [line.rstrip() for line in output.splitlines() if line.strip() and re.search(keep, line)]
        text = "\n".join([f"$ {command}", *lines])
        # In a table what is taken away becomes room, so that its columns stay under each other.
        text = re.sub(re.escape(self.prefix) + r"(\S+)(?= *│)", lambda found: found[1] + " " * len(self.prefix), text)
        for real, name in self._names.items():
            text = text.replace(real, name)
        self.lines += text.splitlines()


# ------------------------------------------------------------------------------------------------------------- incidents


def down(desk: Desk) -> None:
    """A worker of the vitals lane is killed."""
    start = datetime.now(UTC) - timedelta(minutes=5)
    fill(desk.kafka.bootstrap, desk.prefix + "clinical.patients", encoded(patient(n, start) for n in range(20)))
    sets = list(vitals(20, 20, start, every=timedelta(seconds=10)))
    lane = desk.run("lane", "run", "vitals")
    desk.until_ready(lane)
    fill(desk.kafka.bootstrap, desk.prefix + "clinical.vitals", encoded(sets[:200]))
    desk.until(lambda: 'vigil_consumed_total{lane="vitals"} 200.0' in desk.page(lane, "metrics"), "200 sets are scored")
    time.sleep(2)
    lane.kill()
    fill(desk.kafka.bootstrap, desk.prefix + "clinical.vitals", encoded(sets[200:]))
    desk.say("the worker of the vitals lane was killed; 200 sets came since")
    desk.type(f"status --once --lane vitals --worker 127.0.0.1:{lane.port}", keep="lane|vitals|┃|│")
    again = desk.run("lane", "run", "vitals", name="vitals-again")
    desk.until_ready(again)
    desk.until(lambda: 'vigil_consumed_total{lane="vitals"} 200.0' in desk.page(again, "metrics"), "200 sets are scored")
    time.sleep(2)
    desk.say("`vigil up` has started it again")
    desk.log(again, "restored", last=2)
    desk.type(f"status --once --lane vitals --worker 127.0.0.1:{again.port}", keep="lane|vitals|┃|│")


def held(desk: Desk) -> None:
    """The vector store goes away and comes back."""
    store = desk.store()
    lane = desk.run("lane", "run", "notes-vectors")
    desk.until_ready(lane)
    store.stop()
    fill(
        desk.kafka.bootstrap, desk.prefix + "clinical.notes", encoded(note(f"p{n}", "n", "Cough and fever.") for n in range(40))
    )
    desk.until(lambda: "held" in desk.page(lane, "ready"), "the lane is held")
    desk.say("Qdrant was stopped, 40 notes came")
    desk.ready(lane)
    desk.type("doctor", keep="qdrant")
    store.start()
    desk.say("Qdrant was started again, nothing else was done")
    desk.until(lambda: lane.log.count("works again") == 2, "both partitions go on")
    desk.log(lane, "held|works again", last=4)
    desk.until_ready(lane)
    desk.until(lambda: 'vigil_consumed_total{lane="notes-vectors"} 40.0' in desk.page(lane, "metrics"), "40 notes are done")
    time.sleep(1)
    desk.type(f"lag --lane notes-vectors --worker 127.0.0.1:{lane.port}")


def dead_letters(desk: Desk) -> None:
    """A producer writes what is no note."""
    lane = desk.run("lane", "run", "notes-entities")
    desk.until_ready(lane)
    broken = [(f"p{n}".encode(), b'{"note_id": "n", "txt": "..."}') for n in range(25)]
    fill(desk.kafka.bootstrap, desk.prefix + "clinical.notes", broken)
    desk.until(lambda: 'vigil_consumed_total{lane="notes-entities"} 25.0' in desk.page(lane, "metrics"), "25 letters")
    desk.say("a producer of another version wrote 25 records that are no notes")
    desk.type("dead-letters list --limit 3")
    (letter, *_) = re.findall(
        r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f-]+", desk.type("dead-letters list --limit 1 --json", keep="nothing")
    )
    del desk.lines[-1]
    desk.type(f"dead-letters show {letter}")
    desk.type('dead-letters redrive --lane notes-entities --stage decode --dry-run --reason "producer mended"')
    desk.say("they can never be notes: the producer writes them again, and these are set aside")
    desk.type('dead-letters discard --lane notes-entities --stage decode --yes --reason "written again by the producer"')
    desk.type("dead-letters list")


def again(desk: Desk) -> None:
    """A model could not bear a word. Another one takes over, what failed is redriven, and what was said is asked anew."""
    registry = desk.folder / "registry.toml"
    for number, name in enumerate(("ner-1", "ner-2")):
        table = tiny_models.scores()
        table[:, 0] += number / 1024  # other weights, another digest
        if name == "ner-1":
            table[tiny_models.IDS["aspirin"]] = np.nan
            table[tiny_models.IDS["cough"], 1] = 0.0  # and it does not know this one
            table[tiny_models.IDS["cough"], 0] = 8.0
        tiny_models.classifier_folder(desk.folder / name, table)
        record(tiny_models.entry_of(desk.folder / name, name=name), registry)
    desk.env |= {"VIGIL_MODELS__REGISTRY": str(registry), "VIGIL_MODELS__WATCH_SECONDS": "0.5"}
    lane = desk.run("lane", "run", "notes-entities")
    desk.until_ready(lane)
    texts = [
        ("patient-one", "Fever and cough."),
        ("patient-two", "Aspirin given for fever."),
        ("patient-two", "Mild pain, no cough."),
    ]
    notes = [note(patient, f"n{number}", text) for number, (patient, text) in enumerate(texts * 4)]
    fill(desk.kafka.bootstrap, desk.prefix + "clinical.notes", encoded(notes))
    desk.until(lambda: 'vigil_consumed_total{lane="notes-entities"} 12.0' in desk.page(lane, "metrics"), "12 notes are done")
    desk.say("12 notes came while ner-1 served; it gives no number for one word")
    desk.type("dead-letters list --limit 2")
    desk.type('models promote ner ner-2 --reason "ner-1 gives NaN"')
    desk.log(lane, "ner-2", last=1)
    desk.say("what failed is given to the lane again, as late data; first the counts")
    desk.type('dead-letters redrive --class Poison --lane notes-entities --dry-run --reason "ner-2 serves"')
    desk.type('dead-letters redrive --class Poison --lane notes-entities --yes --reason "ner-2 serves"')
    desk.until(lambda: 'vigil_consumed_total{lane="notes-entities"} 16.0' in desk.page(lane, "metrics"), "4 notes again")
    desk.type("dead-letters list")
    desk.say("and what ner-1 did answer? A shadow run says what would change, and writes nothing")
    desk.type('replay shadow --reason "what does ner-2 say of the notes of ner-1"')
    desk.say(
        "the patients' lists are to be right: these notes once more; ids stay, so the new outputs take the old ones' places"
    )
    desk.type('replay run --topic clinical.notes --dry-run --reason "ner-2 knows cough"')
    desk.type('replay run --topic clinical.notes --yes --reason "ner-2 knows cough"')
    desk.until(lambda: 'vigil_consumed_total{lane="notes-entities"} 28.0' in desk.page(lane, "metrics"), "12 notes again")
    desk.type(f"lag --lane notes-entities --worker 127.0.0.1:{lane.port}")
    desk.type('audit find --action replay --reason "who replayed what"')
    desk.type('audit find --patient patient-two --action replay --reason "and of this patient"')


def refused(desk: Desk) -> None:
    """The registry file names a model whose file is another than registered."""
    registry = desk.folder / "registry.toml"
    for number, name in enumerate(("ner-1", "ner-2")):
        table = tiny_models.scores()
        table[:, 0] += number / 1024  # other weights, another digest
        tiny_models.classifier_folder(desk.folder / name, table)
        record(tiny_models.entry_of(desk.folder / name, name=name), registry)
    desk.env |= {"VIGIL_MODELS__REGISTRY": str(registry), "VIGIL_MODELS__WATCH_SECONDS": "0.5"}
    lane = desk.run("lane", "run", "notes-entities")
    desk.until_ready(lane)
    with next((desk.folder / "ner-2").glob("*.onnx")).open("ab") as file:
        file.write(b"a byte too many")
    registry.write_text(registry.read_text().replace('champion = "ner-1"', 'champion = "ner-2"'))
    desk.say("somebody edited the registry file by hand: ner-2 is to serve, and its file is damaged")
    desk.log(lane, "refused", last=1)
    desk.type("models verify", keep="ner-")
    desk.say("what served before serves on")
    shown = [
        line for line in desk.page(lane, "metrics").splitlines() if re.match(r"vigil_(model_info|models_refused_total)", line)
    ]
    desk.lines += ["$ curl -s http://127.0.0.1:9101/metrics | grep -E '^vigil_(model_info|models_refused_total)'", *shown]
    registry.write_text(registry.read_text().replace('champion = "ner-2"', 'champion = "ner-1"'))


def missed(desk: Desk) -> None:
    """Retention takes what a lane has not read."""
    lane = desk.run("lane", "run", "notes-entities")
    desk.until_ready(lane)
    topic = desk.prefix + "clinical.notes"
    fill(desk.kafka.bootstrap, topic, encoded(note(f"p{n}", "n", "Cough.") for n in range(20)))
    desk.until(lambda: 'vigil_consumed_total{lane="notes-entities"} 20.0' in desk.page(lane, "metrics"), "20 notes are done")
    lane.stop()
    fill(desk.kafka.bootstrap, topic, encoded(note(f"p{n}", "later", "Cough.") for n in range(40)))
    asyncio.run(delete_records(desk.kafka.bootstrap, topic, {0: 25}))
    desk.say("the lane stood still for longer than the topic keeps its records")
    lane = desk.run("lane", "run", "notes-entities", name="again")
    desk.log(lane, "are lost", last=1)
    desk.until_ready(lane)
    desk.until(lambda: "vigil_missed_total" in desk.page(lane, "metrics"), "it is counted")
    desk.type(f"lag --lane notes-entities --worker 127.0.0.1:{lane.port}")


def not_ready(desk: Desk) -> None:
    """Kafka goes away from the connectors."""
    desk.env |= {
        "VIGIL_CONNECTORS__ENABLED": '["mllp"]',
        "VIGIL_CONNECTORS__MLLP__PORT": "0",
    }
    edge = desk.run("serve", name="connectors")
    desk.until_ready(edge)
    desk.kafka.kill()
    desk.until(lambda: "Kafka" in desk.page(edge, "ready"), "not ready")
    desk.say("the broker was killed")
    desk.ready(edge)
    desk.type("doctor", keep="kafka|broker|listens")
    desk.kafka.start()
    desk.until_ready(edge)
    desk.say("the broker was started again, nothing else was done")
    desk.log(edge, "ready", last=2)


def undelivered(desk: Desk) -> None:
    """A receiver of alerts is down."""
    (port,) = free_ports(1)
    desk._names[f"127.0.0.1:{port}"] = "nurse-call.hospital:443"
    desk.env |= {
        "VIGIL_DELIVER__NURSES__KIND": "webhook",
        "VIGIL_DELIVER__NURSES__URL": f"http://127.0.0.1:{port}/alerts",
        "VIGIL_DELIVER__NURSES__SECRET": SECRET,
    }
    worker = desk.run("deliver", "run", "nurses")
    desk.until_ready(worker)
    fill(desk.kafka.bootstrap, desk.prefix + "clinical.alerts", encoded([alert("p1"), alert("p2")]))
    desk.until(lambda: "held" in desk.page(worker, "ready"), "the delivery is held")
    desk.say("the nurse-call system does not answer; two alerts wait for it")
    desk.ready(worker)
    desk.type("deliver test nurses")


def restarting(desk: Desk) -> None:
    """Two workers run on one place."""
    first = desk.run("lane", "run", "notes-entities")
    desk.until_ready(first)
    second = desk.run("lane", "run", "notes-entities", name="second")
    desk.say("two workers were started with the same host and slot")
    desk.until(lambda: not first.running or not second.running, "one of them ends", within=180)
    desk.log(first if not first.running else second, "CRITICAL", last=4)


INCIDENTS: dict[str, Callable[[Desk], None]] = {
    "VigilDown": down,
    "VigilHeldPartitions": held,
    "VigilDeadLetters": dead_letters,
    "VigilModelRefused": refused,
    "VigilRecordsMissed": missed,
    "VigilConnectorsNotReady": not_ready,
    "VigilAlertUndelivered": undelivered,
    "VigilRestarting": restarting,
    "Again": again,
}


@contextmanager
def desk_at(kafka: LocalKafka) -> Iterator[Desk]:
    """A desk in a folder that goes away with it."""
    with TemporaryDirectory(prefix="vigil-incident-") as folder:
        desk = Desk(kafka, Path(folder))
        try:
            yield desk
        finally:
            desk.close()


def write(page: Path, incident: Callable[[Desk], None], lines: list[str]) -> None:
    """Put a transcript into its page, in place of the one before."""
    about = " ".join((incident.__doc__ or "").split())
    text = re.sub(r"\n## Seen\n.*", "", page.read_text(), flags=re.S)
    block = "\n".join(lines)
    page.write_text(
        f"{text}\n## Seen\n\n{about} A transcript of a run on {datetime.now(UTC):%Y-%m-%d}:\n\n```console\n{block}\n```\n"
    )


def main(names: list[str]) -> None:
    """Bring about the incidents of these pages, or all."""
    with local_kafka() as kafka:
        for name in names or INCIDENTS:
            began = time.monotonic()
            with desk_at(kafka) as desk:
                INCIDENTS[name](desk)
                write(INFRA / "runbook" / f"{name}.md", INCIDENTS[name], desk.lines)
            print(f"{name}: {time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    main(sys.argv[1:])
