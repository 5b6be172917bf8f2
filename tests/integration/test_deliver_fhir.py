"""Alerts to a FHIR server: Communication and Flag over real HTTP; and the answer to Vigil's own endpoint."""

import asyncio

import httpx
import pytest

from connectors.deliver.fhir import communication_of
from connectors.deliver.notice import Notice
from connectors.deliver.person import Number, Person
from connectors.fhir.structure import validate
from connectors.identity import Identities
from processors.events import Identifier
from streams.clock import real_clock
from streams.edge import running
from streams.settings import Settings
from tests.deliveries import alert, delivering, offset_group, site, write
from tests.kafka import Kafka
from tests.lanes import bodies, until
from tests.receiver import HttpReceiver

pytestmark = pytest.mark.kafka


async def test_an_alert_is_a_communication_and_a_flag_and_repeated_whole_after_an_error(kafka: Kafka) -> None:
    async with HttpReceiver(statuses=[201, 503]) as server:
        own = {"kind": "fhir", "url": server.url.removesuffix("/alerts") + "/fhir"}
        settings = site(kafka, {"ehr": own})
        sent = [alert("p"), alert("p", sequence=1, state="resolved")]
        await write(settings, sent)
        topic = settings.kafka.topic_prefix + "clinical.alerts"
        async with delivering(settings, "ehr"):

            async def done() -> bool:
                return sum((await asyncio.to_thread(kafka.committed, offset_group(settings, "ehr"), topic)).values()) == 2

            await until(done, what="everything committed")
    kinds = [(status, one["path"]) for status, one in server.seen]
    both = [(204, "/fhir/Communication"), (204, "/fhir/Flag")]
    assert kinds == [(201, "/fhir/Communication"), (503, "/fhir/Flag"), *both, *both]
    flags = [one for one in server.taken if one["resourceType"] == "Flag"]
    assert [one["status"] for one in flags] == ["active", "inactive"]
    assert all(not [issue for issue in validate(_bare(one)) if issue.is_error] for one in server.taken)


def _bare(notice: dict) -> dict:
    return {name: value for name, value in notice.items() if name not in ("id", "path")}


MRN = Identifier(authority="https://hospital.example/mrn", value="4711", kind="MR")


@pytest.mark.parametrize("identify", [False, True])
async def test_an_answer_that_repeats_what_stood_in_the_alert_is_feedback_and_our_own_alert_is_none(
    kafka: Kafka, identify: bool
) -> None:
    one = alert(Identities(Settings().identity).patient(MRN))
    person = Person((Number(MRN.authority, MRN.value, MRN.kind, MRN.authority),)) if identify else None
    own = communication_of(Notice("alert", one.id, real_clock(), one, person=person))
    assert (MRN.authority in repr(own)) == identify
    answer = {
        "resourceType": "Communication",
        "status": "completed",
        "subject": own["subject"],
        "inResponseTo": [{"identifier": own["identifier"][1]}],
        "sender": {"identifier": {"value": "nurse-7"}},
        "sent": "2026-01-01T12:00:00Z",
    }
    settings = site(
        kafka, {}, connectors={"enabled": ["fhir"], "fhir": {"port": 0, "peers": {"ehr": {"answers_alerts": True}}}}
    )
    async with running(settings) as addresses, httpx.AsyncClient(base_url="http://{}:{}".format(*addresses["fhir"])) as client:
        assert (await client.post("/fhir/Communication", json=answer)).is_success
        assert (await client.post("/fhir/Communication", json=own)).is_success
    [event] = bodies(await asyncio.to_thread(kafka.read, settings.kafka.topic_prefix + "clinical.feedback"))
    assert (event["kind"], event["target_id"], event["by"]) == ("alert-acknowledged", one.alert_id, "nurse-7")
    assert event["patient_id"] == one.patient_id
