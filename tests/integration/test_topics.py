"""Topics that are not there, and topics whose configuration an account may not read."""

from pathlib import Path

import pytest
from confluent_kafka.admin import (
    AclBinding,
    AclOperation,
    AclPermissionType,
    AdminClient,
    ResourcePatternType,
    ResourceType,
)

from infra.kafka.jars import why_not
from infra.kafka.kafka import LocalKafka
from models.errors import Permanent, Transient
from streams import topics
from streams.checks import run_checks
from streams.outbox import Outbox
from streams.settings import EngineSettings, KafkaSettings, Settings, TopicSettings
from tests.kafka import Kafka
from tests.lanes import until

pytestmark = [pytest.mark.kafka, pytest.mark.slow, pytest.mark.timeout(240)]


@pytest.mark.real_kafka
async def test_an_output_whose_topic_is_missing_waits_and_names_the_command(kafka: Kafka) -> None:
    prefix = kafka.name("t") + "."
    settings = Settings(
        kafka=KafkaSettings(bootstrap=kafka.bootstrap, topic_prefix=prefix),
        engine=EngineSettings(session_timeout=1.2, heartbeat_interval=0.3, request_timeout=1.5),
    )
    outbox = Outbox(settings, source="/test")
    await outbox.start()
    try:
        with pytest.raises(Transient, match=r"clinical\.alerts is not there") as caught:
            await outbox.partitions(prefix + "clinical.alerts")
        assert "vigil topics create" in (caught.value.hint or "")
        kafka.create(prefix + "clinical.alerts", 3)
        assert await outbox.partitions(prefix + "clinical.alerts") == 3
    finally:
        await outbox.stop()


async def _refused(settings: Settings) -> bool:
    try:
        await topics.inspect(settings)
    except Permanent:
        return True
    return False


async def test_doctor_says_that_it_may_not_read_the_configuration(tmp_path: Path) -> None:
    if reason := why_not():
        pytest.skip(f"needs the local Kafka, and there is {reason}")
    acl = {
        "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
        "allow.everyone.if.no.acl.found": "true",
    }
    broker = LocalKafka(tmp_path / "kafka", brokers=1, port=0, settings=acl, die_with_parent=True)
    broker.start()
    try:
        settings = Settings(
            kafka=KafkaSettings(bootstrap=broker.bootstrap, topic_prefix="acl."),
            topics=TopicSettings(partitions=1, replication=1),
        )
        await topics.create(settings)
        assert await topics.inspect(settings)
        # Once there is a rule for a topic, only what rules allow may be done: it may be seen, and no more.
        seen = AclBinding(
            ResourceType.TOPIC,
            "acl.",
            ResourcePatternType.PREFIXED,
            "User:ANONYMOUS",
            "*",
            AclOperation.DESCRIBE,
            AclPermissionType.ALLOW,
        )
        admin = AdminClient({"bootstrap.servers": broker.bootstrap})  # held until the answer
        admin.create_acls([seen])[seen].result()
        await until(lambda: _refused(settings), what="the rule is in force")
        found = [check for check in await run_checks(settings) if check.what == "topics"]
        assert [check.verdict for check in found] == ["ok", "warning"], found
        assert "all 1" in found[0].found
        assert "configured as" not in found[0].found
        assert "cannot be read" in found[1].found
        assert "DESCRIBE_CONFIGS" in found[1].mend
    finally:
        broker.kill()
