"""What a consumer group's coordinator knows of it."""

from collections.abc import Iterable

from aiokafka import TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.coordinator.assignors.range import RangePartitionAssignor
from aiokafka.coordinator.protocol import ConsumerProtocolMemberAssignment, ConsumerProtocolMemberMetadata
from aiokafka.errors import for_code

from streams.kafka import aiokafka_config
from streams.settings import KafkaSettings

_STABLE = "Stable"
_NOBODY = frozenset({"Empty", "Dead"})


class RangeOnRequest(RangePartitionAssignor):  # type: ignore[misc]  # its base is Any here: aiokafka's types are not read
    """The range assignor, of one consumer (a subclass each), that can ask for another assignment by counting `requests` up.

    The coordinator takes a rejoin for a wish to be assigned anew only where it comes from the group's leader, or where what the
    member says of itself has changed. Who leads a consumer that came back as a static member is not told.
    """

    requests = 0

    @classmethod
    def metadata(cls, topics: Iterable[str]) -> ConsumerProtocolMemberMetadata:
        """Say which topics we take, and how often we have asked."""
        return ConsumerProtocolMemberMetadata(cls.version, list(topics), str(cls.requests).encode() if cls.requests else b"")


async def taken(settings: KafkaSettings, group: str) -> set[TopicPartition] | None:
    """Return the partitions that the group's members have between them, none where there are no members; None while that changes.

    Raises `KafkaError` where the coordinator does not say. Not for the embedded broker, which describes no groups.
    """
    admin = AIOKafkaAdminClient(**aiokafka_config(settings))
    try:
        await admin.start()
        [answer] = await admin.describe_consumer_groups([group])
    finally:
        await admin.close()
    [found] = answer.to_object()["groups"]
    if found["error_code"]:
        raise for_code(found["error_code"])
    if found["state"] != _STABLE:
        return set() if found["state"] in _NOBODY else None
    return {
        TopicPartition(topic, number)
        for member in found["members"]
        for topic, numbers in ConsumerProtocolMemberAssignment.decode(member["member_assignment"]).assignment
        for number in numbers
    }
