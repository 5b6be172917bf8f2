"""`vigil lag` and `vigil status` against a lane that is behind, and one that is not."""

import asyncio
import contextlib
import io
import json
import os
import re
import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Consumer, TopicPartition
from rich.console import Console

from infra.kafka.host import free_ports
from models.errors import Permanent, Transient
from streams.checks import run_checks
from streams.cli import status
from streams.lagging import READS, group_of, lags, workers
from streams.lanes import LANES
from streams.metrics import LaneMetrics
from streams.outbox import Outbox
from streams.reader import Reader
from streams.settings import WorkerSettings
from tests.clinic import PARTITIONS, Clinic, note
from tests.kafka import Kafka
from tests.lanes import until

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(240)]


def command(site: Clinic, *words: str, **more: str) -> subprocess.CompletedProcess[str]:
    env = {
        **{name: value for name, value in os.environ.items() if not name.startswith("VIGIL_")},
        "PYTHONPATH": str(Path(__file__).parents[2]),
        "VIGIL_KAFKA__BOOTSTRAP": site.kafka.bootstrap,
        "VIGIL_KAFKA__TOPIC_PREFIX": site.prefix,
        "VIGIL_KAFKA__EMBEDDED": str(site.kafka.kind == "embedded").lower(),
        **more,
    }
    called = [sys.executable, "-m", "streams.cli", *words]
    return subprocess.run(called, env=env, capture_output=True, text=True, timeout=120)


def vigil(site: Clinic, *words: str) -> list[dict[str, Any]]:
    done = command(site, *words, "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


async def test_lag_is_what_a_lane_has_not_committed(kafka: Kafka, tmp_path: Path) -> None:
    site = Clinic(kafka, tmp_path)
    first = note("p", "n0", "Cough.")
    await site.write(first)
    async with site.running("notes-entities"):
        await site.until_done("notes-entities", "clinical.notes")
        (port,) = [engine.settings.worker.health_port for engine in site._engines]
        assert port == 0  # no page of this one: its workers do not answer
    assert await workers(["127.0.0.1:9"]) == []
    done = await lags(site.settings, ["notes-entities"])
    assert sum(one.records for one in done) == 0
    assert {one.oldest_unacked_seconds for one in done} == {None}
    later = [note("p", f"n{i}", "Cough.", received_at=first.received_at + timedelta(seconds=30 * i)) for i in range(1, 4)]
    await site.write(*later)
    behind = [one for one in await lags(site.settings, ["notes-entities"]) if one.records]
    assert [(one.records, one.event_seconds) for one in behind] == [(3, 60.0)]
    assert behind[0].oldest_unacked_seconds is not None
    never = [one for one in await lags(site.settings, ["notes-vectors"]) if one.records]
    assert [(one.records, one.committed) for one in never] == [(4, None)]
    # Two lanes at two places of one partition: each has the times of what it waits for itself.
    both = [one for one in await lags(site.settings, ["notes-entities", "notes-vectors"]) if one.records]
    assert [(one.lane, one.records, one.event_seconds) for one in both] == [
        ("notes-entities", 3, 60.0),
        ("notes-vectors", 4, 90.0),
    ]
    ages = [one.oldest_unacked_seconds or 0.0 for one in both]
    assert 0 < ages[0] < ages[1]
    told = await asyncio.to_thread(vigil, site, "lag", "--every", "0.5", "--lane", "notes-entities")
    assert sum(one["records"] for one in told) == 3
    assert [one["rate"] for one in told if one["records"]] == [0.0]
    told = await asyncio.to_thread(vigil, site, "status", "--once", "--every", "0.5", "--lane", "notes-entities")
    assert [one["rate"] for one in told if one["records"]] == [0.0]


async def test_a_worker_says_what_it_has_in_hand_of_each_partition(kafka: Kafka, tmp_path: Path) -> None:
    (port,) = free_ports(1)
    site = Clinic(kafka, tmp_path, worker=WorkerSettings(host="test", slot=0, health_port=port))
    await site.write(note("p", "n0", "Cough."))
    async with site.running("notes-entities"):
        await site.until_done("notes-entities", "clinical.notes")
        words = ("--every", "1", "--lane", "notes-entities", "--worker", f"127.0.0.1:{port}")
        both = [await asyncio.to_thread(vigil, site, *command, *words) for command in (("status", "--once"), ("lag",))]
    for told in both:  # the two say the same
        *partitions, worker = told
        assert [(one["in_flight"], one["held_seconds"]) for one in partitions] == [(0, 0.0)] * PARTITIONS
        assert sorted(one["seconds_since_commit"] is None for one in partitions) == [False, True]  # one note, one partition
        assert (worker["workers_of"], worker["workers"], "partitions" in worker) == ("notes-entities", 1, False)


def test_the_table_of_what_lanes_read_is_true(kafka: Kafka, tmp_path: Path) -> None:
    settings = Clinic(kafka, tmp_path).settings
    for name, make in LANES.items():
        assert make(settings, Outbox(settings, source="/test"), LaneMetrics(name)).topics == READS[name]
    assert set(LANES) == set(READS)


@pytest.mark.parametrize("words", [("lag",), ("status", "--once"), ("lag", "--lane", "images")], ids=" ".join)
def test_topics_that_are_not_there_are_named_and_refused(kafka: Kafka, tmp_path: Path, words: tuple[str, ...]) -> None:
    site = Clinic(kafka, tmp_path)
    done = command(site, *words, VIGIL_KAFKA__TOPIC_PREFIX="elsewhere.")
    assert (done.returncode, done.stdout) == (2, "")
    said, hint = done.stderr.splitlines()  # and nothing of the client library's
    assert said.startswith(f"Permanent: not on {kafka.bootstrap}: elsewhere.clinical.")
    assert ("elsewhere.clinical.vitals" in said) == ("images" not in words)
    assert "'elsewhere.'" in hint and "vigil topics create" in hint


def test_a_missing_topic_is_its_lanes_row_and_hides_no_other(kafka: Kafka, tmp_path: Path) -> None:
    site, prefix = Clinic(kafka, tmp_path), kafka.name("m") + "."
    for topic in READS["vitals"]:
        kafka.create(prefix + topic, PARTITIONS)
    words = ("--every", "0.5", "--lane", "notes-vectors", "--lane", "vitals")
    shown = command(site, "status", "--once", *words, VIGIL_KAFKA__TOPIC_PREFIX=prefix)
    assert shown.returncode == 0, shown.stderr
    notes, vitals = (next(line for line in shown.stdout.splitlines() if lane in line) for lane in ("notes-vectors", "vitals"))
    assert "0 of 0 behind; topic missing: clinical.notes" in notes
    assert "0 of 6 behind; never committed" in vitals
    assert "topic missing" in command(site, "lag", *words, VIGIL_KAFKA__TOPIC_PREFIX=prefix).stdout


@pytest.mark.real_kafka
async def test_a_lane_of_which_kafka_has_forgotten_what_it_committed_runs_all_the_same(kafka: Kafka, tmp_path: Path) -> None:
    site = Clinic(kafka, tmp_path)

    async def joined() -> bool:
        return {(one.committed, one.runs) for one in await lags(site.settings, ["notes-entities"])} == {(None, True)}

    async with site.running("notes-entities"):
        await until(joined, within=60, what="a lane that has nothing to do is known to run")
        await site.write(note("p", "n0", "Cough."))
        await site.until_done("notes-entities", "clinical.notes")
        before = await lags(site.settings, ["notes-entities"])
        await asyncio.to_thread(kafka.make_anew, site.prefix + "clinical.notes", PARTITIONS)
        there = await lags(site.settings, ["notes-entities"], before=before, seconds=1.0)
        assert {one.committed for one in there} == {None}
        assert sorted(one.anew for one in there) == [False, True]  # one note, one partition
    async with site.running("notes-entities"):  # as its supervisor starts it: it ends where its topic goes away
        await until(joined, within=60, what="it runs again, and has nothing to commit")
    # What is committed lies past the end: the log is another one, and all of it waits.
    await site.write(note("p", "n0", "Cough."))
    (place,) = [one for one in await lags(site.settings, ["notes-vectors"]) if one.records]
    tp = TopicPartition(site.prefix + place.topic, place.partition, 500)
    consumer = Consumer({"bootstrap.servers": kafka.bootstrap, "group.id": group_of(site.settings, "notes-vectors")})
    await asyncio.to_thread(consumer.commit, offsets=[tp], asynchronous=False)
    consumer.close()
    (found,) = [one for one in await lags(site.settings, ["notes-vectors"]) if one.records]
    assert (found.committed, found.records, found.anew) == (500, 1, True)


def screen() -> tuple[Console, io.StringIO]:
    """A terminal of 200 columns, and what is written to it."""
    out = io.StringIO()
    return Console(file=out, force_terminal=True, width=200, height=60), out


@pytest.mark.real_kafka
async def test_the_live_table_outlasts_the_broker(kafka: Kafka, tmp_path: Path) -> None:
    site, (console, out) = Clinic(kafka, tmp_path), screen()
    await site.write(note("p", "n0", "Cough."))
    kafka.control()
    watch = asyncio.create_task(status._watch(site.settings, ["notes-entities"], [], 0.2, console, status._of_lanes))
    try:
        await until(lambda: "of 2 behind" in out.getvalue(), what="the table is shown")
        kafka.kill()
        await until(lambda: "No news since" in out.getvalue(), what="it says that there is no news")
        said = out.getvalue()[out.getvalue().index("No news since") :]
        assert re.match(r"No news since \d\d:\d\d:\d\d \(\d+ s\): .*[Tt]ried at \d", said, flags=re.S)
        assert "of 2 behind" in said  # what was seen last stands below
        await until(lambda: "nothing listens there" in out.getvalue(), what="it says why")
        kafka.start()  # not in a thread: the broker would end with it
        since = len(out.getvalue())
        await until(lambda: "lanes" in out.getvalue()[since:].rpartition("again until Ctrl-C")[2], what="news comes again")
        assert not watch.done()
    finally:
        kafka.mend()
        watch.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await watch


async def test_a_broker_that_goes_away_in_the_middle_makes_no_empty_table(
    kafka: Kafka, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def none(self: Reader, topic: str) -> list[int]:
        return []  # what aiokafka says then

    site = Clinic(kafka, tmp_path)
    await site.write(note("p", "n0", "Cough."))
    monkeypatch.setattr(Reader, "partitions", none)
    with pytest.raises(Transient, match=r"which partitions .*clinical\.notes has"):
        await lags(site.settings, ["notes-entities"])


@pytest.mark.real_kafka
async def test_one_look_waits_a_short_while_for_a_broker(
    kafka: Kafka, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    site = Clinic(kafka, tmp_path)
    await site.write(note("p", "n0", "Cough."))
    monkeypatch.setattr(status, "_SHORT_WHILE", 200.0)  # the broker's start is waited for by this same thread
    kafka.control().kill()
    look = asyncio.create_task(status._patiently(lambda: status._look(site.settings, ["notes-entities"], [], 0.5)))
    try:
        await asyncio.sleep(3)
        assert not look.done()
    finally:
        kafka.start()  # not in a thread: the broker would end with it
    seen = await look
    assert seen.trouble == {}
    assert sum(one.records for one in seen.found) == 1
    said = [line for line in capsys.readouterr().err.splitlines() if "trying again" in line]
    assert said == [f"no broker answers at {kafka.bootstrap}: nothing listens there; trying again for 200 s"]


async def test_what_the_workers_say_is_told_before_a_broker_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(status, "_AGAIN", 0.01)
    did: list[str] = []

    async def look() -> None:
        did.append("looked")
        if did.count("looked") < 3:
            raise Transient("no broker answers")

    async def tell() -> None:
        did.append("told")

    await status._patiently(look, tell)
    assert did == ["looked", "told", "looked", "looked"]


async def test_trouble_that_stays_is_said_in_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(status, "_SHORT_WHILE", 0.3)
    monkeypatch.setattr(status, "_AGAIN", 0.1)
    looks = []

    async def look(error: Exception) -> None:
        looks.append(error)
        raise error

    with pytest.raises(Transient, match="NOT_COORDINATOR"):
        await status._patiently(lambda: look(Transient("the offsets of vitals cannot be read (NOT_COORDINATOR)")))
    assert len(looks) in (3, 4)
    looks.clear()
    with pytest.raises(Permanent):
        await status._patiently(lambda: look(Permanent("there is no lane")))
    assert len(looks) == 1


async def test_doctor_names_a_lane_that_ran_and_that_nobody_runs_while_records_wait(kafka: Kafka, tmp_path: Path) -> None:
    if kafka.kind == "embedded":
        pytest.skip("the embedded broker describes no groups")
    site = Clinic(kafka, tmp_path)

    async def said() -> list[tuple[str, str]]:
        return [(check.what, check.found) for check in await run_checks(site.settings) if check.what.startswith("lane ")]

    await site.write(note("p", "n0", "Cough."))
    assert await said() == [], "a lane that a site has never run"
    async with site.running("notes-entities"):
        await site.until_done("notes-entities", "clinical.notes")
        assert await said() == []
    await site.write(note("p", "n1", "Fever."))
    await until(said, within=60, what="doctor names it")
    assert await said() == [("lane notes-entities", "nobody runs it; records waiting: 1")]
