"""What time a Kafka cluster has: its brokers refuse records whose time is an hour ahead of theirs, and stamp none themselves.

The one request that tells a broker's time and changes nothing is DescribeQuorum: the leader of the metadata quorum (KRaft, Kafka
3.3 or newer) names as its own last fetch the moment of the answer. aiokafka 0.14 has no such request, so its fields stand here
(https://kafka.apache.org/protocol, DescribeQuorum v1).
"""

import time
from datetime import timedelta
from typing import Any

from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import IncompatibleBrokerVersion, KafkaError, for_code
from aiokafka.protocol.api import Request, RequestStruct, Response
from aiokafka.protocol.types import CompactArray, CompactString, Int16, Int32, Int64, Schema, TaggedFields

from models.errors import Permanent, Transient
from streams.kafka import aiokafka_config
from streams.settings import KafkaSettings

_TOPIC, _PARTITION = "__cluster_metadata", 0
_HINT = "the account needs DESCRIBE on the cluster"
_TAGS = ("tags", TaggedFields)
_REPLICAS = CompactArray(
    ("replica_id", Int32), ("log_end_offset", Int64), ("last_fetch_ms", Int64), ("last_caught_up_ms", Int64), _TAGS
)  # fmt: skip


class _Answer(Response):  # type: ignore[misc]  # its base is Any here: aiokafka's types are not read
    API_KEY = 55
    API_VERSION = 1
    SCHEMA = Schema(
        ("error_code", Int16),
        ("topics", CompactArray(
            ("name", CompactString("utf-8")),
            ("partitions", CompactArray(
                ("partition", Int32), ("error_code", Int16), ("leader_id", Int32), ("leader_epoch", Int32),
                ("high_watermark", Int64), ("current_voters", _REPLICAS), ("observers", _REPLICAS), _TAGS,
            )),
            _TAGS,
        )),
        _TAGS,
    )  # fmt: skip


class _Question(RequestStruct):  # type: ignore[misc]  # likewise
    FLEXIBLE_VERSION = True
    API_KEY = 55
    API_VERSION = 1
    RESPONSE_TYPE = _Answer
    SCHEMA = Schema(
        ("topics", CompactArray(
            ("name", CompactString("utf-8")), ("partitions", CompactArray(("partition", Int32), _TAGS)), _TAGS,
        )),
        _TAGS,
    )  # fmt: skip


class _DescribeQuorum(Request[_Question]):  # type: ignore[misc]  # likewise
    API_KEY = 55

    def build(self, request_struct_class: type[_Question]) -> _Question:
        return request_struct_class([(_TOPIC, [(_PARTITION, {})], {})], {})


async def ahead(settings: KafkaSettings) -> timedelta:
    """Return by how much this host's clock is ahead of that of Kafka's controller; negative where it is behind.

    Exact to half the time that the answer takes. Raises `Transient` when no broker answers, `Permanent` when the cluster does not
    tell its time. Not for the embedded broker, which has this host's clock.
    """
    admin = AIOKafkaAdminClient(**aiokafka_config(settings), request_timeout_ms=10_000)
    try:
        await admin.start()
        asked = time.time()
        answer = (await admin._send_request(_DescribeQuorum())).to_object()
        here = (asked + time.time()) / 2
    except (IncompatibleBrokerVersion, NotImplementedError) as error:
        raise Permanent("Kafka tells its time since 3.3 only, without ZooKeeper") from error
    except (KafkaError, OSError, TimeoutError) as error:
        raise Transient(f"Kafka does not say what time it has ({type(error).__name__})") from error
    finally:
        await admin.close()
    return timedelta(seconds=here - _time_of(answer))


def _time_of(answer: dict[str, Any]) -> float:
    """Return the controller's time, in seconds since 1970."""
    if code := answer["error_code"]:
        raise Permanent(f"Kafka does not tell its time ({for_code(code).__name__})", hint=_HINT)
    [partition] = answer["topics"][0]["partitions"]
    if code := partition["error_code"]:  # a leader is being elected, mostly
        raise Transient(f"Kafka does not say what time it has ({for_code(code).__name__})")
    leader = next(one for one in partition["current_voters"] if one["replica_id"] == partition["leader_id"])
    return float(leader["last_fetch_ms"] / 1000)
