"""Alerts name their patients in the hospital's own numbers: from ADT over a real socket, by way of Kafka, to PID-3 and PV1-19."""

import asyncio
import logging

import pytest

from connectors.hl7.message import Message, Segment
from connectors.hl7.sender import MllpSender
from connectors.identity import Identities
from processors.events import Identifier
from streams.delivering import DeliveryJob
from streams.edge import running
from streams.engine import Engine
from streams.settings import Settings
from tests.deliveries import alert, delivering, offset_group, site, write
from tests.hl7_messages import message
from tests.kafka import Kafka
from tests.lanes import until
from tests.managers import AlertManager, listening
from tests.receiver import SECRET, HttpReceiver

pytestmark = pytest.mark.kafka
CONNECTORS = {"enabled": ["mllp"], "mllp": {"port": 0, "peers": {"adt": {"addresses": ["127.0.0.0/8"]}}}}


def adt(trigger: str, number: str, *more: str, visit: str = "", at: str = "20260302090000+0000") -> bytes:
    stay = [f"PV1|1|I|W1^R2^B3{'|' * 16}{visit}"] if visit else []
    pid = f"PID|1||{number}^^^HOSP^MR||DOE^JANE||19500321|F"
    return message(f"EVN|{trigger}|{at}", pid, *more, *stay, kind=f"ADT^{trigger}", control_id=f"{trigger}-{number}-{at}")


def ids(settings: Settings, number: str, visit: str) -> tuple[str, str]:
    """The pseudonyms of a patient and a visit."""
    own = Identities(settings.identity)
    return own.patient(Identifier(authority="HOSP", value=number)), own.encounter("HOSP", visit)


def said(taken: Message) -> tuple[str, str]:
    """PID-3 and PV1-19."""
    pid, pv1 = taken.first("PID"), taken.first("PV1")
    assert isinstance(pid, Segment)
    assert isinstance(pv1, Segment)
    return pid.raw(3), pv1.raw(19)


def named(engine: Engine, patient: str) -> str:
    """The number by which the delivery would name a patient now."""
    assert isinstance(engine.job, DeliveryJob)
    found = engine.job.naming.find(alert(patient))
    return found.numbers[0].value if found else ""


async def test_a_context_before_the_alert_after_it_and_a_merge(kafka: Kafka, caplog: pytest.LogCaptureFixture) -> None:
    for name in ("vigil", "connectors", "streams"):
        caplog.set_level(logging.DEBUG, name)
    async with listening(AlertManager()) as manager:
        own = {"kind": "pcd04", "host": "127.0.0.1", "port": manager.port}
        settings = site(kafka, {"nurses": own}, connectors=CONNECTORS)
        first, stay = ids(settings, "MRN-1", "VISIT-1")
        second, other = ids(settings, "MRN-2", "VISIT-2")
        unknown, _ = ids(settings, "MRN-3", "VISIT-3")
        own_first, own_second = f"{first}^^^VIGIL^PI", f"{second}^^^VIGIL^PI"

        async def told(number: int) -> tuple[str, str]:
            await until(lambda: len(manager.taken) == number, what=f"{number} alerts told")
            return said(manager.taken[-1])

        async with running(settings) as addresses:
            sender = MllpSender(*addresses["mllp"], timeout=10)

            async def send(raw: bytes) -> None:
                answer = await sender.once(raw)
                assert answer is not None
                assert answer.code == "AA"

            await send(adt("A01", "MRN-1", visit="VISIT-1"))  # before the delivery starts: read to its end at the start
            await write(settings, [alert(first, encounter_id=stay)])
            async with delivering(settings, "nurses") as engine:
                assert await told(1) == (f"MRN-1^^^HOSP^MR~{own_first}", "VISIT-1^^^HOSP^VN")

                await write(settings, [alert(second, encounter_id=other)])  # nobody has said who that is
                assert await told(2) == (own_second, f"{other}^^^VIGIL^VN")

                await send(adt("A01", "MRN-2", visit="VISIT-2"))  # after it: the next step names them
                await until(lambda: named(engine, second) == "MRN-2", what="the context followed")
                await write(settings, [alert(second, sequence=1, encounter_id=other)])
                assert await told(3) == (f"MRN-2^^^HOSP^MR~{own_second}", "VISIT-2^^^HOSP^VN")

                await send(adt("A40", "MRN-1", "MRG|MRN-2^^^HOSP^MR", at="20260302100000+0000"))
                await until(lambda: named(engine, second) == "MRN-1", what="the merge followed")
                gone = alert(second, sequence=2, encounter_id=other, state="withdrawn")
                await write(settings, [gone, alert(unknown)])
                assert await told(5)
                by_patient = {said(one)[0].split("~")[-1]: said(one) for one in manager.taken[3:]}
                assert by_patient[own_second] == (f"MRN-1^^^HOSP^MR~{own_second}", "VISIT-2^^^HOSP^VN")
                assert by_patient[f"{unknown}^^^VIGIL^PI"][0] == f"{unknown}^^^VIGIL^PI"
            await sender.close()
    audit = await asyncio.to_thread(kafka.read, settings.kafka.topic_prefix + "clinical.audit")
    shown = caplog.text + repr([record.value for record in audit])
    assert "MRN-" not in shown
    assert "VISIT-" not in shown


async def test_without_the_topic_alerts_go_out_all_the_same(kafka: Kafka, caplog: pytest.LogCaptureFixture) -> None:
    async with listening(AlertManager()) as manager:
        own = {"kind": "pcd04", "host": "127.0.0.1", "port": manager.port}
        settings = site(kafka, {"nurses": own}, without=("clinical.patients",))
        await write(settings, [alert("p")])
        async with delivering(settings, "nurses"):
            await until(lambda: len(manager.taken) == 1, what="the alert told")
    assert said(manager.taken[0])[0] == "p^^^VIGIL^PI"
    assert "clinical.patients cannot be followed (not on " in caplog.text


async def test_a_fallback_is_told_no_more_than_its_own_setting_allows(kafka: Kafka) -> None:
    async with listening(AlertManager(codes=["AR"])) as manager, HttpReceiver() as chat:
        own = {"kind": "pcd04", "host": "127.0.0.1", "port": manager.port, "fallback": "chat", "refused_tries": 1}
        webhook = {"kind": "webhook", "url": chat.url, "secret": SECRET}
        settings = site(kafka, {"nurses": own, "chat": webhook}, connectors=CONNECTORS)
        patient, _ = ids(settings, "MRN-1", "VISIT-1")
        async with running(settings) as addresses:
            sender = MllpSender(*addresses["mllp"], timeout=10)
            assert await sender.once(adt("A01", "MRN-1", visit="VISIT-1")) is not None
            await sender.close()
        await write(settings, [alert(patient)])
        async with delivering(settings, "nurses"):
            await until(lambda: len(chat.alerts()) == 1, what="the fallback told")
            topic = settings.kafka.topic_prefix + "clinical.alerts"

            async def done() -> bool:
                return sum((await asyncio.to_thread(kafka.committed, offset_group(settings, "nurses"), topic)).values()) == 1

            await until(done, what="committed")
    assert "MRN-1^^^HOSP^MR" in manager.refused[0]
    assert "MRN-1" not in repr(chat.taken)


@pytest.mark.real_kafka
async def test_contexts_are_followed_over_a_restart_of_the_broker(kafka: Kafka) -> None:
    async with listening(AlertManager()) as manager:
        own = {"kind": "pcd04", "host": "127.0.0.1", "port": manager.port}
        settings = site(kafka, {"nurses": own}, connectors=CONNECTORS)
        patient, _ = ids(settings, "MRN-1", "VISIT-1")
        async with delivering(settings, "nurses") as engine:
            kafka.restart()  # not in a thread: the broker ends with the thread that started it
            async with running(settings) as addresses:
                sender = MllpSender(*addresses["mllp"], timeout=10)

                async def admitted() -> bool:
                    answer = await sender.once(adt("A01", "MRN-1", visit="VISIT-1"))
                    return answer is not None and answer.code == "AA"

                await until(admitted, within=60, what="the admission stored")
                await until(lambda: named(engine, patient) == "MRN-1", within=60, what="the context followed")
                await sender.close()
