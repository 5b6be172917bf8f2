"""A real Prometheus scrapes real processes: every metric, every rule and every panel gives data, and alerts fire when they should.

One ward: a sender over MLLP, the connectors, the vitals lane, a language lane, and a delivery to a receiver, each a process.
"""

import asyncio
import os
import sys
from collections import Counter
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest

from connectors.hl7.sender import MllpSender
from connectors.qdrant.embedded import EmbeddedQdrant
from infra.kafka.host import free_ports
from processors.events import TOPICS, FeedbackEvent, Origin
from processors.identity import natural_id
from streams.clock import real_clock
from streams.journal import TOPIC as JOURNAL
from tests.hl7_messages import PID, PULSE, PV1, message, obx, vitals
from tests.kafka import Kafka
from tests.lanes import produce, until
from tests.monitoring import PANELS, RULES, selectors
from tests.prometheus import PROGRAM, WHY_NOT, Prometheus
from tests.receiver import SECRET, HttpReceiver
from tests.vitals import LaneProcess

pytestmark = [
    pytest.mark.kafka,
    pytest.mark.slow,
    pytest.mark.timeout(240),
    pytest.mark.skipif(PROGRAM is None, reason=WHY_NOT),
]
PARTITIONS = 2
PANEL_QUERIES = {f"{panel['title']}: {one['expr']}": one["expr"] for panel in PANELS for one in panel["targets"]}


class Ward:
    """The processes of a small site, their health ports, and what goes in."""

    def __init__(self, kafka: Kafka, folder: Path, receiver: HttpReceiver, vectors: str) -> None:
        self.kafka = kafka
        self.prefix = kafka.name("prom") + "."
        for topic in (*TOPICS, JOURNAL):
            kafka.create(self.prefix + topic, PARTITIONS)
        self._common = {
            "VIGIL_KAFKA__BOOTSTRAP": kafka.bootstrap,
            "VIGIL_KAFKA__TOPIC_PREFIX": self.prefix,
            "VIGIL_KAFKA__EMBEDDED": str(kafka.kind == "embedded").lower(),
            "VIGIL_OBJECTS__URL": str(folder / "objects"),
            "VIGIL_WORKER__HOST": "ward",
            "VIGIL_STATE__TICK_SECONDS": "0.5",
            "VIGIL_LANES__NOTES_ENTITIES__NICE": "0",  # beside other tests it would be starved
            "VIGIL_LANES__IMAGES__NICE": "0",
            "VIGIL_VECTORS__URL": vectors,
            "VIGIL_CONNECTORS__ENABLED": '["mllp","dicom"]',
            "VIGIL_CONNECTORS__DICOM__MIN_FREE_BYTES": "1000",
            "VIGIL_DELIVER__PAGER__KIND": "webhook",
            "VIGIL_DELIVER__PAGER__URL": receiver.url,
            "VIGIL_DELIVER__PAGER__SECRET": SECRET,
        }
        self.mllp, dicom, *self._ports = free_ports(7)
        self._common |= {"VIGIL_CONNECTORS__MLLP__PORT": str(self.mllp), "VIGIL_CONNECTORS__DICOM__PORT": str(dicom)}
        commands = {
            "vitals": ("lane", "run", "vitals"),
            "notes-entities": ("lane", "run", "notes-entities"),
            "images": ("lane", "run", "images"),
            "pager": ("deliver", "run", "pager"),
            "connectors": ("serve",),
        }
        self.processes: list[LaneProcess] = []
        for (name, words), port in zip(commands.items(), self._ports, strict=True):
            env = {**self._common, "VIGIL_WORKER__HEALTH_PORT": str(port)}
            command = [sys.executable, "-m", "streams.cli", *words]
            self.processes.append(LaneProcess(name, env, folder / f"{name}.log", command=command))
        self.targets = [f"127.0.0.1:{port}" for port in self._ports]

    async def write(self, topic: str, *values: bytes) -> None:
        await produce(self.kafka.bootstrap, self.prefix + topic, [(b"p", value) for value in values], PARTITIONS)

    async def known(self) -> bool:
        """Whether the vitals lane has taken in a patient."""
        group, topic = f"{self.prefix}vigil.vitals", f"{self.prefix}clinical.patients"
        return sum((await asyncio.to_thread(self.kafka.committed, group, topic)).values()) > 0


@pytest.fixture
async def ward(kafka: Kafka, tmp_path: Path) -> AsyncIterator[Ward]:
    assert not {name for name in os.environ if name.startswith("VIGIL_")} - {"VIGIL_TEST_KAFKA", "VIGIL_TEST_QDRANT_BIN"}
    async with HttpReceiver() as receiver:
        store = EmbeddedQdrant(tmp_path / "vectors")
        one = Ward(kafka, tmp_path, receiver, await asyncio.to_thread(store.start))
        for process in one.processes:
            process.start()
        try:
            yield one
        finally:
            await asyncio.gather(*(asyncio.to_thread(process.stop) for process in one.processes))
            await asyncio.to_thread(store.stop)


async def admit(ward: Ward) -> None:
    """Somebody comes to the ward, and a monitor that does not say whose pulse it shows."""
    now = real_clock().strftime("%Y%m%d%H%M%S+0000")
    async with MllpSender("127.0.0.1", ward.mllp, timeout=10) as sender:
        arrival = message(f"EVN|A01|{now}", PID, PV1, kind="ADT^A01^ADT_A01", control_id="A1", sent=now)
        assert (await sender.send(arrival)).code in ("AA", "CA")
        assert (await sender.send(vitals(PULSE, pid="PID|1", control_id="P1"))).code in ("AA", "CA")


async def fall_ill(ward: Ward, number: int = 1) -> None:
    """A set of vitals beyond NEWS2's emergency threshold, each later one of a moment before."""
    now = (real_clock() - timedelta(seconds=10 * number)).strftime("%Y%m%d%H%M%S+0000")
    values = [("9279-1", "28", "/min"), ("59408-5", "89", "%"), ("8480-6", "88", "mm[Hg]"), ("8867-4", "135", "/min")]
    lines = [obx(f"{code}^x^LN", value, f"{unit}^^UCUM", number=i) for i, (code, value, unit) in enumerate(values, 1)]
    async with MllpSender("127.0.0.1", ward.mllp, timeout=10) as sender:
        said = await sender.send(vitals(*lines, obr=f"OBR|1||F{number}|VS^Vitals|||{now}", control_id=f"V{number}", sent=now))
        assert said.code in ("AA", "CA")


async def take_back(ward: Ward) -> None:
    """A temperature that nobody sent, entered in error."""
    async with MllpSender("127.0.0.1", ward.mllp, timeout=10) as sender:
        line = obx("8310-5^x^LN", "39", "Cel^^UCUM", status="W", at=real_clock().strftime("%Y%m%d%H%M+0000"))
        assert (await sender.send(vitals(line, control_id="W1"))).code in ("AA", "CA")


async def test_every_rule_and_panel_gives_data_and_what_is_wrong_fires(ward: Ward, tmp_path: Path) -> None:
    with Prometheus(tmp_path, ward.targets) as prometheus:

        async def all_up() -> bool:
            for process in ward.processes:
                assert process.running, process.log
            if not await asyncio.to_thread(prometheus.ready):
                return False
            return prometheus.value("sum(vigil_ready) + sum(vigil_connectors_ready)") == len(ward.processes)

        await until(all_up, within=150, what="all processes are scraped and ready")
        assert set(prometheus.targets().values()) == {"up"}

        # Something of everything: a set that alerts, a note and a set that are none. Prometheus sees the first before more come.
        await admit(ward)
        await until(ward.known, what="the vitals lane knows the patient")
        await fall_ill(ward)
        await ward.write("clinical.notes", b"{")
        await ward.write("clinical.vitals", b"{")
        await until(lambda: prometheus.value("sum(vigil_dead_lettered_total)") == 2, what="the first dead letters are scraped")
        await until(lambda: (prometheus.value('vigil_events_total{kind="delivered"}') or 0) > 0, what="the alert is delivered")
        for query in (  # each process is scraped in its own turn
            'sum(vigil_connector_published_total{topic="clinical.vitals"})',
            'sum(vigil_events_total{kind="alert-raised"})',
        ):
            await until(lambda query=query: prometheus.value(query) == 1, what=f"{query} is 1")
        for number in range(2, 6):  # how late a feed is shows after a few sets
            await fall_ill(ward, number)
        _every_rule_is_well(prometheus)
        try:
            await until(lambda: _without_data(prometheus) == [], what="every query gives data")
        except AssertionError as error:
            raise AssertionError(f"no data: {_without_data(prometheus)}") from error  # which, not only that
        # The set that nobody could score counts, although Prometheus saw it the first time it asked.
        assert [one["alertname"] for one in prometheus.firing()] == ["VigilVitalsDeadLetters"]

        # A burst of one class, an answer that fits no alert, and a retraction that fits no value.
        stray = FeedbackEvent(
            id=natural_id("stray"), patient_id="p", kind="alert-acknowledged", target_id="no-such-alert", by="n1",
            given_at=real_clock(), received_at=real_clock(), origin=Origin(protocol="vigil", peer="pager"),
        )  # fmt: skip
        await ward.write("clinical.feedback", stray.model_dump_json().encode())
        await ward.write("clinical.notes", *[b"{"] * 60)
        await take_back(ward)
        expected = Counter(("VigilDeadLetters", "VigilUnmatchedFeedback", "VigilUnmatchedRetraction", "VigilVitalsDeadLetters"))
        await until(
            lambda: Counter(one["alertname"] for one in prometheus.firing()) == expected, what="three more fire, once each"
        )
        (burst,) = [one for one in prometheus.firing() if one["alertname"] == "VigilDeadLetters"]
        assert (burst.get("lane"), burst["stage"], burst["error"]) == (None, "decode", "Poison")  # one page, whichever lanes


def _every_rule_is_well(prometheus: Prometheus) -> None:
    rules = {rule["name"]: rule for rule in prometheus.rules()}
    assert set(rules) == {rule.get("alert") or rule["record"] for rule in RULES}
    assert {name: rule["lastError"] for name, rule in rules.items() if rule["health"] != "ok"} == {}


def _without_data(prometheus: Prometheus) -> list[str]:
    """The queries that give nothing."""
    asked = [_now(expr) for expr in PANEL_QUERIES.values()]
    for rule in RULES:
        # An alert's own query gives nothing while all is well, but each series that it compares is there.
        asked += [f"{m}{{{by}}}" for m, by in selectors(rule["expr"])] if "alert" in rule else [rule["record"]]
    return [expr for expr in dict.fromkeys(asked) if not prometheus.query(expr)]


def _now(expr: str) -> str:
    """A panel's query as Grafana would send it, at this test's pace."""
    return expr.replace("$__rate_interval", "20s").replace("$lane", ".*")
