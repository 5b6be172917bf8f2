"""Every delivery keeps the same contract, whatever it speaks: webhook, FHIR, PCD-04, scores too. One suite, over real sockets.

At least once across kill -9, in order per patient, back-off where the receiver cannot, a dead letter where it will not; silence and
garbage confirm nothing, TLS is believed only by authority, and no log line or record shows a secret or what an alert says.
"""

import asyncio
import logging
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from streams.settings import Settings
from tests.deliveries import delivering, offset_group, site, write
from tests.edge import certificate
from tests.kafka import Kafka
from tests.lanes import bodies, until
from tests.receiver import SECRET
from tests.scripted import KINDS, TITLES, WORDS, Fhir, Scripted

pytestmark = pytest.mark.kafka
ROOT = Path(__file__).parents[2]
TOKEN = "a-bearer-token-of-these-tests"


@pytest.fixture(params=KINDS, ids=lambda kind: kind.kind)
async def receiver(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Scripted]:
    one: Scripted = request.param()
    if isinstance(one, Fhir):
        one.token_file = tmp_path / "token"
        one.token_file.write_text(TOKEN)
    async with one:
        yield one


def steps(receiver: Scripted | type[Scripted], patients: int, each: int) -> list[Any]:
    return [receiver.event(f"p{number}", step) for step in range(each) for number in range(patients)]


def titles(sent: list[Any]) -> list[str]:
    return [TITLES[one.id] for one in sent]


def in_order(taken: list[str]) -> bool:
    """Whether each patient's steps were first taken in their order."""
    seen: dict[str, list[int]] = {}
    for title in dict.fromkeys(taken):
        _, patient, step = title.split()
        seen.setdefault(patient, []).append(int(step))
    return all(one == sorted(one) for one in seen.values())


async def committed(kafka: Kafka, settings: Settings, receiver: Scripted, records: int) -> None:
    topic = settings.kafka.topic_prefix + receiver.topic

    async def done() -> bool:
        return sum((await asyncio.to_thread(kafka.committed, offset_group(settings, "pager"), topic)).values()) == records

    await until(done, within=60, what=f"{records} committed")


async def outputs(kafka: Kafka, settings: Settings, topic: str) -> list[dict[str, Any]]:
    return bodies(await asyncio.to_thread(kafka.read, settings.kafka.topic_prefix + topic))


async def test_every_alert_is_told_in_order_per_patient_then_committed_and_audited(kafka: Kafka, receiver: Scripted) -> None:
    settings = site(kafka, {"pager": receiver.settings()})
    sent = steps(receiver, 8, 4)
    await write(settings, sent)
    async with delivering(settings, "pager") as engine:
        await committed(kafka, settings, receiver, len(sent))
        assert engine.unready() == ""
    assert sorted(receiver.taken) == sorted(titles(sent))
    assert in_order(receiver.taken)
    audit = await outputs(kafka, settings, "clinical.audit")
    assert {entry["event_id"] for one in audit for entry in one["entries"]} == {one.id for one in sent}


@pytest.mark.parametrize("answer", ["again", "silent", "garbage", "cut"])
async def test_what_is_no_confirmation_is_repeated_and_nothing_of_the_patient_passes_it(
    kafka: Kafka, receiver: Scripted, answer: str
) -> None:
    receiver.answers = [answer] * 3
    settings = site(kafka, {"pager": receiver.settings(timeout=0.5)})
    sent = steps(receiver, 1, 3)
    await write(settings, sent)
    async with delivering(settings, "pager"):
        await committed(kafka, settings, receiver, len(sent))
    assert receiver.tries == titles(sent[:1]) * 4 + titles(sent[1:])
    assert receiver.taken == titles(sent)
    assert await outputs(kafka, settings, "clinical.dead-letters") == []


async def test_a_refusal_for_good_is_a_dead_letter_and_blocks_nothing(kafka: Kafka, receiver: Scripted) -> None:
    receiver.answers = ["refuse"] * 2
    settings = site(kafka, {"pager": receiver.settings(refused_tries=2)})
    sent = steps(receiver, 1, 3)
    await write(settings, sent)
    async with delivering(settings, "pager"):
        await committed(kafka, settings, receiver, len(sent))
    assert receiver.taken == titles(sent[1:])
    [letter] = await outputs(kafka, settings, "clinical.dead-letters")
    assert letter["stage"] == "deliver"
    assert letter["message"].startswith("pager refuses: ")
    audit = await outputs(kafka, settings, "clinical.audit")
    outcomes = {entry["event_id"]: entry["outcome"] for one in audit for entry in one["entries"]}
    assert outcomes == {sent[0].id: "refused", sent[1].id: "told pager", sent[2].id: "told pager"}


async def test_a_receiver_that_goes_and_comes_back_loses_nothing(kafka: Kafka, receiver: Scripted) -> None:
    settings = site(kafka, {"pager": receiver.settings()})
    sent = steps(receiver, 6, 3)
    await receiver.stop()
    await write(settings, sent)
    async with delivering(settings, "pager") as engine:
        await until(lambda: "pager" in engine.unready(), what="unready, with the receiver's name")
        await receiver.start()
        await committed(kafka, settings, receiver, len(sent))
        assert engine.unready() == ""
    assert set(receiver.taken) == set(titles(sent))
    assert in_order(receiver.taken)


@pytest.mark.timeout(180)
async def test_killed_in_the_middle_it_tells_every_alert_at_least_once(
    kafka: Kafka, receiver: Scripted, tmp_path: Path
) -> None:
    receiver.delay = 0.03
    settings = site(kafka, {"pager": receiver.settings(concurrency=4)})
    sent = steps(receiver, 12, 6)
    await write(settings, sent)
    process = await start(settings, tmp_path, receiver)
    try:
        await until(lambda: len(receiver.taken) >= 20, within=60, what="some are told")
    finally:
        os.kill(process.pid, signal.SIGKILL)
        await process.wait()
    assert set(receiver.taken) < set(titles(sent))
    async with delivering(settings, "pager"):
        await committed(kafka, settings, receiver, len(sent))
    assert set(receiver.taken) == set(titles(sent))
    assert in_order(receiver.taken)


async def start(settings: Settings, folder: Path, receiver: Scripted) -> asyncio.subprocess.Process:
    """Run the delivery as an operator does."""
    own = receiver.settings(concurrency=4)
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "VIGIL_KAFKA__BOOTSTRAP": settings.kafka.bootstrap,
        "VIGIL_KAFKA__TOPIC_PREFIX": settings.kafka.topic_prefix,
        "VIGIL_KAFKA__EMBEDDED": str(settings.kafka.embedded).lower(),
        "VIGIL_ENGINE__SESSION_TIMEOUT": "6",
        "VIGIL_ENGINE__HEARTBEAT_INTERVAL": "1",
        **{f"VIGIL_DELIVER__PAGER__{name.upper()}": str(value) for name, value in own.items()},
    }
    with (folder / "log").open("ab") as output:
        command = (sys.executable, "-m", "streams.cli", "deliver", "run", "pager")
        return await asyncio.create_subprocess_exec(*command, env=environment, cwd=folder, stdout=output, stderr=output)


@pytest.fixture
def authorities(tmp_path: Path) -> tuple[tuple[Path, Path], Path]:
    """The receiver's certificate and key, and an authority that did not sign it."""
    return certificate(tmp_path), certificate(tmp_path, "elsewhere.example")[0]


@pytest.mark.parametrize("receiver", KINDS, ids=lambda kind: kind.kind)
async def test_over_tls_a_receiver_is_told_only_where_its_authority_is_believed(
    kafka: Kafka, receiver: type[Scripted], authorities: Any
) -> None:
    theirs, other = authorities
    sent = steps(receiver, 1, 1)
    async with receiver(tls=theirs) as one:
        believed = site(kafka, {"pager": one.settings(ca_file=str(theirs[0]))})
        stranger = site(kafka, {"pager": one.settings(ca_file=str(other))})
        await write(stranger, sent)
        async with delivering(stranger, "pager") as engine:
            await until(lambda: "pager" in engine.unready(), what="unready: it is not believed")
            assert one.bytes_in == 0
        await write(believed, sent)
        async with delivering(believed, "pager"):
            await committed(kafka, believed, one, 1)
    assert one.taken == titles(sent)


async def test_no_log_line_and_no_record_shows_a_secret_or_what_the_alert_says(
    kafka: Kafka, receiver: Scripted, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)  # more than `vigil` lets third parties say; of sockets and our own, all
    for name in ("vigil", "connectors", "streams", "httpx", "httpcore"):
        caplog.set_level(logging.DEBUG, name)
    receiver.answers = ["again", "garbage", "cut", "silent", "refuse", "refuse"]
    settings = site(kafka, {"pager": receiver.settings(timeout=0.5, refused_tries=2)})
    sent = steps(receiver, 1, 2)
    await write(settings, sent)
    async with delivering(settings, "pager"):
        await committed(kafka, settings, receiver, len(sent))
    letters = await outputs(kafka, settings, "clinical.dead-letters")
    audit = await outputs(kafka, settings, "clinical.audit")
    shown = caplog.text + repr([letter["message"] for letter in letters]) + repr(audit) + repr(settings)
    assert len(letters) == 1
    assert WORDS not in shown
    for secret in (SECRET, SECRET.removeprefix("whsec_"), TOKEN):
        assert secret not in shown
