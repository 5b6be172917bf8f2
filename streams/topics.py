"""The topics on a cluster: what `vigil topics create` makes and `vigil doctor` compares."""

import asyncio
import contextlib
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from aiokafka import TopicPartition
from aiokafka.errors import KafkaError
from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource, NewTopic, ResourceType

from models.errors import Permanent, Transient, VigilError
from processors.events import TOPICS, DeadLetterEvent, PatientEvent
from streams.journal import TOPIC as JOURNAL
from streams.kafka import confluent_config, no_broker, require_broker
from streams.reader import Reader
from streams.settings import Settings, TopicSettings
from streams.topic_options import MEET, UNLIMITED, Difference, cleanup_of, differences

_HOUR_MS = 3_600_000
_PATIENCE = 10.0  # seconds for a question on which only a restart depends
_LOOK_AGAIN = 0.1


@dataclass(frozen=True, slots=True)
class TopicPlan:
    """How a topic is to be."""

    name: str
    partitions: int
    replication: int
    config: dict[str, str] = field(default_factory=dict)


def plans(settings: TopicSettings, *, prefix: str = "") -> list[TopicPlan]:
    """Return how every topic is to be, the lanes' journal included."""
    return [_plan(name, settings, prefix) for name in (*TOPICS, JOURNAL)]


def _plan(name: str, settings: TopicSettings, prefix: str) -> TopicPlan:
    replication = settings.replication_of.get(name, settings.replication)
    insync = settings.min_insync or max(1, replication - 1)
    size = settings.largest_message_bytes * (2 if name == DeadLetterEvent.topic else 1)
    config = {"min.insync.replicas": str(insync), "max.message.bytes": str(size), "message.timestamp.type": "CreateTime"}
    # The policy and the limits are given even where they are Kafka's defaults: a cluster may have others.
    config["cleanup.policy"] = settings.cleanup_of.get(name, cleanup_of(name))
    if name == PatientEvent.topic:
        # A rebuild of state replays the contexts since the last snapshot one by one: compaction must not be faster than that.
        config["min.compaction.lag.ms"] = str(7 * 24 * _HOUR_MS)
    if config["cleanup.policy"] != "compact":
        hours = settings.retention_hours.get(name, settings.default_retention_hours)
        config["retention.ms"] = str(int(hours * _HOUR_MS))
        config["retention.bytes"] = UNLIMITED
    return TopicPlan(prefix + name, settings.partitions_for(name), replication, config)


@dataclass(frozen=True, slots=True)
class TopicChange:
    """What was done about one topic."""

    name: str
    done: str  # created, unchanged, configuration changed, left as it is, differs (in its partitions)
    detail: str = ""


@dataclass(frozen=True, slots=True)
class TopicFound:
    """A topic of ours that is there, by its name without the prefix. `copies`: of the partition that has fewest."""

    name: str
    partitions: int
    copies: int
    differs: tuple[Difference, ...]


def _admin(settings: Settings) -> AdminClient:
    admin = AdminClient(confluent_config(settings.kafka))
    if settings.kafka.sasl_mechanism == "OAUTHBEARER":
        admin.poll(1)  # the token is asked for only when the client is polled, and no call polls it
    return admin


async def create(settings: Settings, *, alter: bool = False) -> list[TopicChange]:
    """Create what is missing, mend what differs where that is safe; may be repeated.

    What loses data or state is mended. What only differs (a longer retention, say) somebody may have chosen, and setting it back
    may delete records: that is said, and done with `alter` only. Partitions are never added to a topic that has fewer: keys would
    move, and a patient's records would lie in two partitions.

    Raises `Transient` when no broker answers, `Permanent` when the cluster refuses.
    """
    await require_broker(settings.kafka)
    return await asyncio.to_thread(_create, settings, alter)


def _create(settings: Settings, alter: bool) -> list[TopicChange]:
    admin = _admin(settings)
    wanted = plans(settings.topics, prefix=settings.kafka.topic_prefix)
    there = _there(admin, settings)
    missing = [plan for plan in wanted if plan.name not in there]
    if missing:
        _require_meeting(settings, there)
        new = [
            NewTopic(p.name, num_partitions=p.partitions, replication_factor=p.replication, config=p.config) for p in missing
        ]
        for name, future in admin.create_topics(new, operation_timeout=30, request_timeout=30).items():
            try:
                future.result()
            except KafkaException as error:
                if error.args[0].name() != "TOPIC_ALREADY_EXISTS":  # somebody else makes them too
                    raise _refused(f"topic {name} cannot be created", error) from error
    created = {plan.name for plan in missing}
    differ = _differ(admin, [plan for plan in wanted if plan.name not in created], there)
    changes = [
        TopicChange(p.name, "created") if p.name in created else _mend(admin, p, there[p.name][0], differ[p.name], alter)
        for p in wanted
    ]
    touched = {change.name for change in changes if change.done not in ("unchanged", "left as it is")}
    _settle(admin, settings, [plan for plan in wanted if plan.name in touched], alter)
    return changes


def _require_meeting(settings: Settings, there: dict[str, tuple[int, int]]) -> None:
    """Raise `Permanent` where what is there of the topics that meet has fewer partitions than the others would be made with."""
    prefix, made = settings.kafka.topic_prefix, settings.topics.partitions_for(MEET[0])
    fewer = {name: there[prefix + name][0] for name in MEET if prefix + name in there and there[prefix + name][0] < made}
    if fewer:
        least = min(fewer.values())
        raise Permanent(
            f"nothing was created: {', '.join(f'{name} has {count} partitions' for name, count in fewer.items())}, the settings "
            f"say {made}, and topics that meet in the vitals lane ({', '.join(MEET)}) must agree",
            hint=f"set topics.partitions to {least} (of all, or of these four by partitions_of), or delete what nobody uses yet",
        )


def _settle(admin: AdminClient, settings: Settings, touched: Sequence[TopicPlan], alter: bool) -> None:
    """Wait until a broker shows what was made and changed: it learns of it a moment after the controller took it.

    What comes next, `vigil doctor` or a worker, would find a topic missing or as it was.
    """
    until = time.monotonic() + _PATIENCE
    while touched and time.monotonic() < until:
        with contextlib.suppress(VigilError):  # one of several brokers may not know the topic yet that another has shown
            there = _there(admin, settings)
            if all(plan.name in there for plan in touched):
                differ = _differ(admin, touched, there)
                touched = [plan for plan in touched if any(one.loses or alter for one in differ[plan.name])]
        time.sleep(_LOOK_AGAIN if touched else 0)


def _there(admin: AdminClient, settings: Settings) -> dict[str, tuple[int, int]]:
    """Return the partitions of every topic that is there, and the copies of the one that has fewest."""
    try:
        metadata: Any = admin.list_topics(timeout=10)
    except KafkaException as error:
        raise asyncio.run(no_broker(settings.kafka)) from error  # this is a thread without an event loop
    return {
        name: (len(topic.partitions), min((len(one.replicas) for one in topic.partitions.values()), default=0))
        for name, topic in metadata.topics.items()
    }


def _differ(
    admin: AdminClient, wanted: Sequence[TopicPlan], there: dict[str, tuple[int, int]]
) -> dict[str, tuple[Difference, ...]]:
    """Ask for the configuration of topics that are there, and compare."""
    if not wanted:
        return {}
    asked = admin.describe_configs([ConfigResource(ResourceType.TOPIC, plan.name) for plan in wanted], request_timeout=30)
    answers = {resource.name: future for resource, future in asked.items()}
    found = {}
    for plan in wanted:
        try:
            config = {name: entry.value for name, entry in answers[plan.name].result().items()}
        except KafkaException as error:
            raise _refused(f"the configuration of {plan.name} cannot be read", error) from error
        found[plan.name] = tuple(differences(plan.config, config, copies=there[plan.name][1]))
    return found


def _mend(admin: AdminClient, plan: TopicPlan, partitions: int, differs: Sequence[Difference], alter: bool) -> TopicChange:
    changes = [one for one in differs if one.loses or alter]
    if changes:
        entries = [ConfigEntry(one.option, one.wanted, incremental_operation=AlterConfigOpType.SET) for one in changes]
        changed = ConfigResource(ResourceType.TOPIC, plan.name, incremental_configs=entries)
        try:
            next(iter(admin.incremental_alter_configs([changed], request_timeout=30).values())).result()
        except KafkaException as error:
            raise _refused(f"the configuration of {plan.name} cannot be changed", error) from error
    left = [one for one in differs if one not in changes]
    details = [one.short for one in changes] + [f"left: {one.short}" for one in left]
    if partitions < plan.partitions:
        details.insert(0, f"has {partitions} partitions, the settings say {plan.partitions}")
        return TopicChange(plan.name, "differs", "; ".join(details))
    if partitions > plan.partitions:
        details.insert(0, f"has {partitions} partitions: {plan.partitions} are used, by the settings")
    done = "configuration changed" if changes else "left as it is" if left else "unchanged"
    return TopicChange(plan.name, done, "; ".join(details))


_HINTS = {
    "INVALID_REPLICATION_FACTOR": "more copies than brokers: set topics.replication (1 on a single broker)",
    "POLICY_VIOLATION": "the cluster has a policy for new topics: ask who runs it, or let them create the topics",
}


def _refused(what: str, error: KafkaException) -> Permanent | Transient:
    """Return the error of a call that the cluster did not carry out: `Transient` where it may do so later."""
    reason = error.args[0]
    words = f"{what}: {reason.str()}"
    if reason.retriable() or reason.name().startswith("_"):  # a broker that moved or went away; librdkafka's own begin with _
        return Transient(words, hint="the broker was there a moment ago: try again")
    if "AUTHORIZATION" in reason.name():
        return Permanent(words, hint="the account needs CREATE, DESCRIBE_CONFIGS and ALTER_CONFIGS on the topics")
    return Permanent(words, hint=_HINTS.get(reason.name()))


async def partition_counts(settings: Settings) -> dict[str, int]:
    """Return the partitions of every topic of ours that is there, by name without the prefix."""
    await require_broker(settings.kafka)
    there = await asyncio.to_thread(lambda: _there(_admin(settings), settings))
    prefix = settings.kafka.topic_prefix
    return {name: there[prefix + name][0] for name in (*TOPICS, JOURNAL) if prefix + name in there}


async def require(settings: Settings, names: Iterable[str]) -> None:
    """Raise `Transient` that names those of the topics (without the prefix) that are not there, and the command that makes them.

    Asks by a list of all topics: a client that asks for one that is missing has it made where the cluster makes topics by itself,
    with neither compaction nor retention as they must be; where not, it asks for ever, and says so each time. The embedded broker
    makes topics on first use, as they must be.
    """
    if settings.kafka.embedded:
        return
    there = await partition_counts(settings)
    missing = [settings.kafka.topic_prefix + name for name in names if name not in there]
    if missing:
        are = "is" if len(missing) == 1 else "are"
        raise Transient(f"{', '.join(missing)} {are} not there, or not shown to this account", hint="run `vigil topics create`")


async def answered(settings: Settings, read: Iterable[TopicPartition], written: Iterable[TopicPartition]) -> bool:
    """Tell whether a client that is new is answered by the leaders of these partitions (prefix and all), within 10 s.

    Those that are written must have the copies in sync without which the brokers refuse a write.
    """
    needed = {plan.name: int(plan.config["min.insync.replicas"]) for plan in plans(settings.topics)}
    written, prefix = list(written), settings.kafka.topic_prefix
    places = list({*read, *written})
    try:
        async with asyncio.timeout(_PATIENCE), Reader(settings.kafka) as reader:
            await reader.require(*{tp.topic for tp in places})  # to ask of one that is missing may make it
            await reader.all_bounds(places)
            for tp in written:
                in_sync, copies = reader.copies(tp)
                if in_sync < min(copies, needed.get(tp.topic.removeprefix(prefix), 1)):
                    return False
    except (VigilError, KafkaError, TimeoutError):
        return False
    return True


async def inspect(settings: Settings) -> list[TopicFound]:
    """Return every topic of ours that is there, and where its configuration is not what `create` makes it.

    Raises `Transient` when no broker answers, `Permanent` when the account may not read configurations. Not for the embedded
    broker, which has none.
    """
    await require_broker(settings.kafka)
    return await asyncio.to_thread(_inspect, settings)


def _inspect(settings: Settings) -> list[TopicFound]:
    admin, prefix = _admin(settings), settings.kafka.topic_prefix
    there = _there(admin, settings)
    wanted = [plan for plan in plans(settings.topics, prefix=prefix) if plan.name in there]
    differ = _differ(admin, wanted, there)
    return [TopicFound(plan.name.removeprefix(prefix), *there[plan.name], differ[plan.name]) for plan in wanted]
