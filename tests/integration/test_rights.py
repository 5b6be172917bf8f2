"""A Kafka that lets an account do less than is needed, or names addresses that nobody can reach: what is wrong is said."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest
from confluent_kafka.admin import (
    AclBinding,
    AclBindingFilter,
    AclOperation,
    AclPermissionType,
    AdminClient,
    ResourcePatternType,
    ResourceType,
)

from infra.kafka.host import free_ports
from infra.kafka.jars import why_not
from infra.kafka.kafka import LocalKafka
from models.errors import Fatal, Permanent, Transient
from streams import topics
from streams.outbox import Outbox
from streams.settings import KafkaSettings, Settings, TopicSettings
from streams.wire import Message

pytestmark = [pytest.mark.kafka, pytest.mark.real_kafka, pytest.mark.slow, pytest.mark.timeout(240)]
NOWHERE = "kafka-0.internal.invalid"


class Guarded:
    """A broker with a plain listener for whoever may all, one with SASL for `vigil`, and one that advertises nonsense."""

    def __init__(self, folder: Path) -> None:
        self.plain, controller, self.sasl, self.outside = free_ports(4)
        login = "org.apache.kafka.common.security.plain.PlainLoginModule"
        self.broker = LocalKafka(
            folder,
            brokers=1,
            port=self.plain,
            settings={
                "listeners": f"PLAINTEXT://127.0.0.1:{self.plain},CONTROLLER://127.0.0.1:{controller},"
                f"SASL_PLAINTEXT://127.0.0.1:{self.sasl},EXT://127.0.0.1:{self.outside}",
                "advertised.listeners": f"PLAINTEXT://127.0.0.1:{self.plain},SASL_PLAINTEXT://127.0.0.1:{self.sasl},"
                f"EXT://{NOWHERE}:{self.outside}",
                "controller.quorum.bootstrap.servers": f"127.0.0.1:{controller}",
                "controller.quorum.voters": f"1@127.0.0.1:{controller}",
                "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,SASL_PLAINTEXT:SASL_PLAINTEXT,"
                "EXT:PLAINTEXT",
                "sasl.enabled.mechanisms": "PLAIN",
                "listener.name.sasl_plaintext.plain.sasl.jaas.config": f'{login} required user_vigil="pw";',
                "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
                "super.users": "User:ANONYMOUS",
                "allow.everyone.if.no.acl.found": "false",
            },
            die_with_parent=True,
        )
        self.admin = AdminClient({"bootstrap.servers": f"127.0.0.1:{self.plain}", "log_level": 2})

    def settings(self, **kafka: object) -> Settings:
        own = {"bootstrap": f"127.0.0.1:{self.sasl}", "security_protocol": "SASL_PLAINTEXT", "sasl_mechanism": "PLAIN"}
        own |= {"sasl_username": "vigil", "sasl_password": "pw"}
        return Settings(kafka=KafkaSettings(**(kafka or own)), topics=TopicSettings(partitions=1, replication=1))

    def allow(self, topic: str, *operations: AclOperation) -> None:
        rules = [
            AclBinding(ResourceType.TOPIC, topic, ResourcePatternType.LITERAL, "User:vigil", "*", one, AclPermissionType.ALLOW)
            for one in operations
        ]
        for made in self.admin.create_acls(rules).values():
            made.result()

    def forbid_all(self) -> None:
        every = AclBindingFilter(
            ResourceType.ANY, None, ResourcePatternType.ANY, None, None, AclOperation.ANY, AclPermissionType.ANY
        )
        for gone in self.admin.delete_acls([every]).values():
            gone.result()


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    if reason := why_not():
        pytest.skip(f"needs the local Kafka, and there is {reason}")
    made = Guarded(tmp_path_factory.mktemp("kafka"))
    made.broker.start()
    try:
        yield made
    finally:
        made.broker.stop()


async def once_known(work: Callable[[], Awaitable[None]]) -> None:
    """Do what a rule allows that was given a moment ago: brokers learn of it a little later."""
    until = time.monotonic() + 30
    while True:
        try:
            return await work()
        except (Permanent, Fatal):
            if time.monotonic() > until:
                raise
            await asyncio.sleep(0.3)


async def test_an_address_that_the_broker_names_and_nobody_reaches_is_named(guarded: Guarded) -> None:
    outbox = Outbox(guarded.settings(bootstrap=f"127.0.0.1:{guarded.outside}"), source="/test")
    with pytest.raises(Transient, match=f"to be reached at {NOWHERE}:{guarded.outside}, where") as caught:
        await outbox.start()
    assert "advertised.listeners" in (caught.value.hint or "")


async def test_what_may_not_be_written_is_named_and_stays_said_until_it_may(guarded: Guarded) -> None:
    await topics.create(guarded.settings(bootstrap=f"127.0.0.1:{guarded.plain}"))
    guarded.forbid_all()
    outbox = Outbox(guarded.settings(), source="/test")
    with pytest.raises(Permanent, match="does not let this account in"):
        await outbox.start()
    guarded.allow("clinical.patients", AclOperation.WRITE, AclOperation.DESCRIBE)
    guarded.allow("clinical.vitals", AclOperation.DESCRIBE)
    outbox = Outbox(guarded.settings(), source="/test")
    await once_known(outbox.start)
    try:
        with pytest.raises(Fatal, match=r"refuses what is written to clinical\.vitals \(TopicAuth") as caught:
            await outbox.send([Message("clinical.vitals", b"p", b"{}", [])])
        assert "WRITE" in (caught.value.hint or "")
        await outbox.send([Message("clinical.patients", b"p", b"{}", [])])
        assert "clinical.vitals" in outbox.refused, "another topic's success says nothing about this one"
        guarded.allow("clinical.vitals", AclOperation.WRITE)
        await once_known(lambda: outbox.send([Message("clinical.vitals", b"p", b"{}", [])]))
        assert not outbox.refused
    finally:
        await outbox.stop()
