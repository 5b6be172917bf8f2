"""What a topic's configuration does where it is not what the settings make it."""

from typing import Any

import pytest

from streams.settings import TopicSettings
from streams.topic_options import FIXED_CLEANUP, JOURNAL, MEET, cleanup_of, differences, size, span
from streams.topics import plans

_DAY = 86_400_000
PLANS = {plan.name: plan.config for plan in plans(TopicSettings())}


def _only(topic: str, copies: int = 3, **changed: str) -> tuple[bool, str]:
    config = {**PLANS[topic], **{name.replace("_", "."): value for name, value in changed.items()}}
    (found,) = differences(PLANS[topic], config, copies=copies)
    return found.loses, found.words


@pytest.mark.parametrize("topic", PLANS)
def test_a_topic_as_it_is_made_does_not_differ(topic: str) -> None:
    assert differences(PLANS[topic], PLANS[topic], copies=3) == []
    assert {"cleanup.policy", "min.insync.replicas", "max.message.bytes", "message.timestamp.type"} <= set(PLANS[topic])


@pytest.mark.parametrize("topic", [JOURNAL, "clinical.patients"])
@pytest.mark.parametrize("policy", ["delete", "compact,delete", "delete,compact"])
def test_a_journal_that_is_deleted_by_age_is_state_that_is_lost(topic: str, policy: str) -> None:
    loses, words = _only(topic, cleanup_policy=policy, retention_ms="60000")
    assert loses
    assert "deletes records after 1 min" in words
    assert "state" in words


@pytest.mark.parametrize("policy", ["compact", "compact,delete"])
def test_history_must_not_be_compacted(policy: str) -> None:
    loses, words = _only("clinical.alerts", cleanup_policy=policy)
    assert loses
    assert "history" in words


@pytest.mark.parametrize(
    ("option", "less", "more", "words"),
    [
        ("retention_ms", "60000", "-1", "deleted after 1 min"),
        ("retention_ms", str(13 * _DAY), str(15 * _DAY), "deleted after 13 days"),
        ("max_message_bytes", "1000000", "9000000", "refuse records over 1 MB"),
        ("min_insync_replicas", "1", "3", "when 1 of the copies"),
    ],
)
def test_less_than_the_settings_say_loses_and_more_only_differs(option: str, less: str, more: str, words: str) -> None:
    loses, said = _only("clinical.notes", **{option: less})
    assert loses
    assert words in said
    loses, said = _only("clinical.notes", **{option: more})
    assert not loses
    assert said


def test_a_limit_of_bytes_takes_young_records() -> None:
    loses, words = _only("clinical.notes", retention_bytes="5000000")
    assert loses
    assert "over 5 MB" in words


def test_compaction_must_not_outrun_a_rebuild() -> None:
    assert _only("clinical.patients", min_compaction_lag_ms="0")[0]
    assert not _only("clinical.patients", min_compaction_lag_ms=str(30 * _DAY))[0]


def test_the_brokers_time_over_the_writers_only_differs() -> None:
    loses, words = _only("clinical.notes", message_timestamp_type="LogAppendTime")
    assert not loses
    assert "own time" in words


def test_no_more_copies_confirm_than_there_are() -> None:
    """One copy that is to be confirmed by two takes no writes: neither asked for nor left."""
    assert PLANS["clinical.notes"]["min.insync.replicas"] == "2"
    one_of_one = {**PLANS["clinical.notes"], "min.insync.replicas": "1"}
    assert differences(PLANS["clinical.notes"], one_of_one, copies=1) == []
    loses, words = _only("clinical.notes", copies=1)
    assert loses
    assert "refuse every write" in words


@pytest.mark.parametrize("copies", [1, 2, 3])
def test_what_is_made_is_what_is_compared_with(copies: int) -> None:
    """A topic made by the settings is not mended by the next run, however many copies they ask for."""
    for insync in (None, *range(1, copies + 1)):
        for plan in plans(TopicSettings(replication=copies, min_insync=insync)):
            assert differences(plan.config, plan.config, copies=plan.replication) == []


def test_each_topic_may_have_its_own() -> None:
    own = TopicSettings(
        partitions_of={"clinical.audit": 3},
        replication_of={"clinical.shadow": 1},
        cleanup_of={"clinical.entities": "compact,delete", "clinical.patients": "compact"},
        retention_hours={"clinical.entities": 1},
    )
    made = {plan.name: plan for plan in plans(own)}
    assert (made["clinical.audit"].partitions, made["clinical.notes"].partitions) == (3, 12)
    assert (made["clinical.shadow"].replication, made["clinical.shadow"].config["min.insync.replicas"]) == (1, "1")
    assert (made["clinical.notes"].replication, made["clinical.notes"].config["min.insync.replicas"]) == (3, "2")
    entities = made["clinical.entities"].config
    assert (entities["cleanup.policy"], entities["retention.ms"]) == ("compact,delete", "3600000")
    (found,) = differences(entities, {**entities, "cleanup.policy": "delete"}, copies=3)
    assert not found.loses, "more is kept than is asked for"
    assert differences(entities, {**entities, "cleanup.policy": "delete,compact"}, copies=3) == [], "the order is nothing"


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"partitions_of": {"clinical.vitals": 24}}, "same number .*clinical.patients has 12"),
        ({"min_insync": 3, "replication": 1}, r"min_insync \(3\) must not be above"),
        ({"min_insync": 2, "replication_of": {"clinical.shadow": 1}}, "clinical.shadow"),
        ({"min_insync": 0}, "greater than or equal to 1"),
        ({"cleanup_of": {"clinical.patients": "compact,delete"}}, "must stay 'compact'.*state"),
        ({"cleanup_of": {"clinical.notes": "compact,delete"}}, "must stay 'delete'"),
        ({"cleanup_of": {"clinical.entities": "compact"}}, "for ever"),
        ({"retention_hours": {"clinical.nots": 1}}, "no topic 'clinical.nots'; did you mean clinical.notes"),
        ({"retention_hours": {"clinical.patients": 1}}, "without limit"),
        ({"retention_hours": {"clinical.notes": float("inf")}}, "finite number"),
        ({"retention_hours": {"clinical.notes": 1e9}}, "less than or equal"),
        ({"replication_of": {"clinical.audits": 1}}, "did you mean clinical.audit"),
    ],
)
def test_what_would_lose_or_stop_everything_is_refused(wrong: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        TopicSettings(**wrong)


def test_topics_that_meet_may_have_another_number_together() -> None:
    made = {plan.name: plan.partitions for plan in plans(TopicSettings(partitions_of=dict.fromkeys(MEET, 24)))}
    assert {made[name] for name in MEET} == {24}
    assert made["clinical.notes"] == 12


def test_every_topic_that_is_state_stays_compacted() -> None:
    assert {name for name in PLANS if cleanup_of(name) == "compact"} == {"clinical.patients", JOURNAL}
    assert {name for name in PLANS if name not in FIXED_CLEANUP} == {
        "clinical.entities",
        "clinical.findings",
        "clinical.shadow",
    }


def test_what_a_cluster_does_not_tell_is_not_compared() -> None:
    assert differences(PLANS["clinical.notes"], {}, copies=3) == []


@pytest.mark.parametrize(
    ("given", "shown"),
    [("60000", "1 min"), ("5400000", "1.5 h"), (str(_DAY), "24 h"), (str(14 * _DAY), "14 days"), ("5", "0.005 s")],
)
def test_times_are_shown_in_their_unit(given: str, shown: str) -> None:
    assert span(given) == shown
    assert span("-1") == size("-1") == "unlimited"
