"""What a consumer group's coordinator knows of it."""

from aiokafka import TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.coordinator.protocol import ConsumerProtocolMemberAssignment

from streams.kafka import aiokafka_config
from streams.settings import KafkaSettings

_STABLE = "Stable"


async def taken(settings: KafkaSettings, group: str) -> set[TopicPartition] | None:
    """Return the partitions that the group's members have between them; None while they are being assigned.

    Raises `KafkaError` where the coordinator does not say. Not for the embedded broker, which describes no groups.
    """
    admin = AIOKafkaAdminClient(**aiokafka_config(settings))
    try:
        await admin.start()
        [answer] = await admin.describe_consumer_groups([group])
    finally:
        await admin.close()
    [found] = answer.to_object()["groups"]
    if found["state"] != _STABLE:
        return None
    return {
        TopicPartition(topic, number)
        for member in found["members"]
        for topic, numbers in ConsumerProtocolMemberAssignment.decode(member["member_assignment"]).assignment
        for number in numbers
    }
