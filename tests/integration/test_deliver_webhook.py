"""Alerts to a webhook, on a broker, to a real HTTP receiver: signed, in order per patient, repeated until confirmed, never lost."""

import asyncio
import os
import signal
import sys
from base64 import b64decode
from collections import defaultdict
from collections.abc import AsyncIterator
from datetime import timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from processors.rules import MonitorRules
from streams.clock import real_clock
from streams.settings import Settings
from tests.deliveries import alert, delivering, heartbeat, offset_group, site, write
from tests.kafka import Kafka
from tests.lanes import bodies, until
from tests.receiver import SECRET, HttpReceiver

pytestmark = pytest.mark.kafka
ROOT = Path(__file__).parents[2]


@pytest.fixture
async def receiver() -> AsyncIterator[HttpReceiver]:
    async with HttpReceiver() as one:
        yield one


def webhook(receiver: HttpReceiver, **more: Any) -> dict[str, Any]:
    return {"kind": "webhook", "url": receiver.url, "secret": SECRET, **more}


async def committed(kafka: Kafka, settings: Settings, name: str = "pager") -> int:
    topic = settings.kafka.topic_prefix + "clinical.alerts"
    return sum((await asyncio.to_thread(kafka.committed, offset_group(settings, name), topic)).values())


async def all_committed(kafka: Kafka, settings: Settings, records: int, name: str = "pager") -> None:
    async def done() -> bool:
        return await committed(kafka, settings, name) == records

    await until(done, what=f"{records} committed")


async def outputs(kafka: Kafka, settings: Settings, topic: str) -> list[dict[str, Any]]:
    return bodies(await asyncio.to_thread(kafka.read, settings.kafka.topic_prefix + topic))


def in_order(receiver: HttpReceiver) -> bool:
    """Whether each patient's alerts were first taken in the order of their steps."""
    steps: dict[str, list[int]] = defaultdict(list)
    for notice in receiver.alerts():
        data = notice["data"]
        if data["sequence"] not in steps[data["patient_id"]]:
            steps[data["patient_id"]].append(data["sequence"])
    return all(one < other for sequences in steps.values() for one, other in pairwise(sequences))


async def test_every_alert_is_told_signed_and_in_order_then_committed_and_audited(kafka: Kafka, receiver: HttpReceiver) -> None:
    settings = site(kafka, {"pager": webhook(receiver)})
    sent = [alert(f"p{patient}", sequence=step) for step in range(5) for patient in range(20)]
    await write(settings, sent)
    async with delivering(settings, "pager") as engine:
        await all_committed(kafka, settings, len(sent))
        assert engine.unready() == ""
    assert sorted(notice["id"] for notice in receiver.alerts()) == sorted(one.id for one in sent)
    assert in_order(receiver)
    assert receiver.most_at_once > 1
    told = receiver.alerts()[0]["data"]
    assert told["location"] == {"ward": "W1", "room": "2", "bed": "3", "facility": ""}
    assert told["delivery"]["late"] is False
    audit = await outputs(kafka, settings, "clinical.audit")
    assert {entry["event_id"] for one in audit for entry in one["entries"]} == {one.id for one in sent}
    assert {entry["outcome"] for one in audit for entry in one["entries"]} == {"told pager"}


async def test_a_slow_answer_for_one_patient_delays_no_other(kafka: Kafka, receiver: HttpReceiver) -> None:
    receiver.slow_patients["slow"] = 4.0
    settings = site(kafka, {"pager": webhook(receiver)})
    await write(settings, [alert("slow"), *(alert(f"p{n}") for n in range(30))], partition=0)
    async with delivering(settings, "pager"):
        await until(lambda: len(receiver.alerts()) == 30, what="all the others told")
        assert "slow" not in {notice["data"]["patient_id"] for notice in receiver.alerts()}
        assert await committed(kafka, settings) == 0  # the slow one stands first in its partition: nothing may pass it
        await all_committed(kafka, settings, 31)
    assert len(receiver.alerts()) == 31


async def test_a_receiver_that_is_down_loses_nothing_and_delays_nobody_else(kafka: Kafka, receiver: HttpReceiver) -> None:
    async with HttpReceiver() as other:
        settings = site(kafka, {"pager": webhook(receiver), "app": webhook(other)})
        await receiver.stop()
        sent = [alert(f"p{patient}", sequence=step) for step in range(3) for patient in range(10)]
        async with delivering(settings, "pager") as down, delivering(settings, "app"):
            await write(settings, sent)
            await all_committed(kafka, settings, len(sent), "app")
            await until(lambda: "pager: no answer" in down.unready(), what="unready, with the reason")
            assert await committed(kafka, settings) == 0
            await receiver.start()
            await all_committed(kafka, settings, len(sent))
            assert down.unready() == ""
    assert {notice["id"] for notice in receiver.alerts()} == {one.id for one in sent}
    assert in_order(receiver)
    assert len(other.alerts()) == len(sent)


async def test_500_and_503_are_tried_again_and_retry_after_is_heeded(kafka: Kafka, receiver: HttpReceiver) -> None:
    receiver.statuses = [500, 502, 503]
    receiver.headers = {"retry-after": "2"}
    settings = site(kafka, {"pager": webhook(receiver)})
    await write(settings, [alert("p")])
    async with delivering(settings, "pager"):
        await until(lambda: len(receiver.seen) == 3, what="three refusals")
        asked = asyncio.get_running_loop().time()
        await all_committed(kafka, settings, 1)
        assert asyncio.get_running_loop().time() - asked > 1.5
    assert [status for status, _ in receiver.seen] == [500, 502, 503, 204]
    assert len({notice["id"] for _, notice in receiver.seen}) == 1
    assert await outputs(kafka, settings, "clinical.dead-letters") == []


async def test_what_is_refused_for_good_is_a_dead_letter_and_the_next_goes_on(kafka: Kafka, receiver: HttpReceiver) -> None:
    receiver.statuses = [401] * 3
    settings = site(kafka, {"pager": webhook(receiver, refused_tries=3)})
    sent = [alert("p"), alert("p", 1)]
    await write(settings, sent)
    async with delivering(settings, "pager"):
        await all_committed(kafka, settings, 2)
    [letter] = await outputs(kafka, settings, "clinical.dead-letters")
    assert letter["lane"] == "deliver-pager"
    assert letter["stage"] == "deliver"
    assert letter["message"] == "pager refuses: HTTP 401"
    assert sent[0].id.encode() in b64decode(letter["original_value"])
    assert [notice["id"] for notice in receiver.alerts()] == [sent[1].id]


async def test_a_refusal_and_a_silence_go_to_the_fallback(kafka: Kafka, receiver: HttpReceiver) -> None:
    async with HttpReceiver() as second:
        own = webhook(receiver, fallback="second", silent_after=0.5, refused_tries=2)
        settings = site(kafka, {"pager": own, "second": webhook(second)})
        receiver.status = 410
        refused, unheard = alert("refused"), alert("unheard")
        await write(settings, [refused])
        async with delivering(settings, "pager"):
            await all_committed(kafka, settings, 1)
            await receiver.stop()
            await write(settings, [unheard])
            await all_committed(kafka, settings, 2)
    assert [notice["id"] for notice in second.alerts()] == [refused.id, unheard.id]
    assert {notice["data"]["delivery"]["instead_of"] for notice in second.alerts()} == {"pager"}
    letters = await outputs(kafka, settings, "clinical.dead-letters")
    assert [letter["message"] for letter in letters] == ["pager refuses: HTTP 410"]
    audit = await outputs(kafka, settings, "clinical.audit")
    assert [entry["outcome"] for one in audit for entry in one["entries"]] == ["told second"] * 2


async def test_after_an_outage_the_state_as_it_stands_is_told_and_its_age(kafka: Kafka, receiver: HttpReceiver) -> None:
    settings = site(kafka, {"pager": webhook(receiver, late_after=60)})
    long_ago = real_clock() - timedelta(hours=2)
    old = [alert("p", sequence=step, at=long_ago + timedelta(minutes=step)) for step in range(4)]
    other = alert("p", 1, at=long_ago)
    await write(settings, [old[0], other, *old[1:], alert("p", 2)])
    async with delivering(settings, "pager"):
        await all_committed(kafka, settings, 6)
    told = [(notice["id"], notice["data"]["delivery"]) for notice in receiver.alerts()]
    named = {one for _, delivery in told for one in delivery["passed_over"]} | {key for key, _ in told}
    assert named >= {one.id for one in (*old, other)}  # told, or named by the one that stands for it
    assert [key for key, _ in told][-2:] == [old[-1].id, alert("p", 2).id]
    assert [delivery["late"] for _, delivery in told] == [True] * (len(told) - 1) + [False]
    assert 7000 < told[0][1]["age_seconds"] < 7400
    assert told[0][1]["title"].startswith("LATE by 1")


async def test_a_filter_keeps_no_alert_open_at_its_receiver(kafka: Kafka, receiver: HttpReceiver) -> None:
    settings = site(kafka, {"pager": webhook(receiver, severities=["high"], wards=["W1"])})
    risen, elsewhere, low = "risen", "elsewhere", "low"
    sent = [
        alert(risen, severity="medium"),
        alert(risen, sequence=1),
        alert(risen, sequence=2, severity="medium", location={"ward": "W9"}),
        alert(elsewhere, location={"ward": "W2"}),
        alert(low, severity="medium"),
        alert(low, sequence=1, severity="medium", state="resolved"),
    ]
    await write(settings, sent)
    async with delivering(settings, "pager"):
        await all_committed(kafka, settings, len(sent))
    assert {notice["id"] for notice in receiver.alerts()} == {sent[1].id, sent[2].id, sent[5].id}


async def test_the_receiver_is_told_when_nobody_is_watched_for_and_when_it_is_over(
    kafka: Kafka, receiver: HttpReceiver
) -> None:
    often = MonitorRules(heartbeat=timedelta(seconds=1))
    settings = site(kafka, {"pager": webhook(receiver, dead_after=3, heartbeat_every=0.5)}, monitor=often)

    def kinds() -> list[str]:
        return [notice["type"] for notice in receiver.taken]

    async with delivering(settings, "pager"):
        for partition in range(4):
            await write(settings, [heartbeat(partition)])
        await until(lambda: "vigil.heartbeat" in kinds(), what="a heartbeat")
        await until(lambda: "vigil.silence" in kinds(), what="the silence is told")
        for partition in range(4):
            await write(settings, [heartbeat(partition, age=60)])  # of long ago: proves nothing
        await asyncio.sleep(1.5)
        assert "vigil.silence-over" not in kinds()
        for partition in range(4):
            await write(settings, [heartbeat(partition)])
        await until(lambda: "vigil.silence-over" in kinds(), what="the silence is over")
    assert kinds().count("vigil.silence") == kinds().count("vigil.silence-over") == 1


async def test_garbage_is_a_dead_letter_and_delays_no_alert(kafka: Kafka, receiver: HttpReceiver) -> None:
    from tests.lanes import produce

    settings = site(kafka, {"pager": webhook(receiver)})
    await produce(kafka.bootstrap, settings.kafka.topic_prefix + "clinical.alerts", [(b"p", b"{no json, Mr. Smith")], 4)
    await write(settings, [alert("p")])
    async with delivering(settings, "pager"):
        await all_committed(kafka, settings, 2)
    [letter] = await outputs(kafka, settings, "clinical.dead-letters")
    assert letter["stage"] == "decode"
    assert "Smith" not in letter["message"]
    assert len(receiver.alerts()) == 1


@pytest.mark.timeout(240)
async def test_a_delivery_killed_again_and_again_tells_every_alert_at_least_once_and_in_order(
    kafka: Kafka, receiver: HttpReceiver, tmp_path: Path
) -> None:
    receiver.delay = 0.02
    settings = site(kafka, {"pager": webhook(receiver, concurrency=4)})
    sent = [alert(f"p{patient}", sequence=step) for step in range(12) for patient in range(16)]
    await write(settings, sent)

    def told() -> set[str]:
        return {notice["id"] for notice in receiver.alerts()}

    # Killed within moments, mostly before anything is committed: then it begins anew, so the last one is let finish.
    for _ in range(3):
        process, before = await start(settings, receiver, tmp_path), len(receiver.alerts())
        try:
            await until(lambda before=before: len(receiver.alerts()) >= before + 70, within=60, what="more are told")
        finally:
            os.kill(process.pid, signal.SIGKILL)
            await process.wait()
    assert told() < {one.id for one in sent}
    process = await start(settings, receiver, tmp_path)
    try:
        await all_committed(kafka, settings, len(sent))
    finally:
        os.kill(process.pid, signal.SIGKILL)
        await process.wait()
    assert told() == {one.id for one in sent}
    assert in_order(receiver)


async def start(settings: Settings, receiver: HttpReceiver, folder: Path) -> asyncio.subprocess.Process:
    kafka = settings.kafka
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "VIGIL_KAFKA__BOOTSTRAP": kafka.bootstrap,
        "VIGIL_KAFKA__TOPIC_PREFIX": kafka.topic_prefix,
        "VIGIL_KAFKA__EMBEDDED": str(kafka.embedded).lower(),
        "VIGIL_ENGINE__SESSION_TIMEOUT": "6",
        "VIGIL_ENGINE__HEARTBEAT_INTERVAL": "1",
        "VIGIL_DELIVER__PAGER__KIND": "webhook",
        "VIGIL_DELIVER__PAGER__URL": receiver.url,
        "VIGIL_DELIVER__PAGER__SECRET": SECRET,
        "VIGIL_DELIVER__PAGER__CONCURRENCY": "4",
    }
    with (folder / "log").open("ab") as output:
        command = (sys.executable, "-m", "streams.cli", "deliver", "run", "pager")
        return await asyncio.create_subprocess_exec(*command, env=environment, cwd=folder, stdout=output, stderr=output)
