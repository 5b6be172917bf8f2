"""What of a topic a site may choose; where its configuration is not what the settings make it, and what that does or loses.

One table (`_RULES`) for `vigil doctor`, which says it, and `vigil topics create`, which sets it. Options are named, and behave, as
in Apache Kafka's topic configuration (https://kafka.apache.org/documentation/#topicconfigs).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, Literal

from processors.events import (
    AlertEvent,
    AuditEvent,
    DeadLetterEvent,
    FeedbackEvent,
    ImageEvent,
    NoteEvent,
    PatientEvent,
    ScoreEvent,
    VitalsEvent,
)

UNLIMITED: Final = "-1"  # Kafka's word for no limit, of time as of bytes
JOURNAL: Final = "vigil.vitals.journal"  # what it holds: `streams.journal`

# The vitals lane has one worker for each partition number of these: a patient's records must lie in the same one of each.
MEET: Final = (VitalsEvent.topic, PatientEvent.topic, FeedbackEvent.topic, JOURNAL)

Cleanup = Literal["delete", "compact", "compact,delete"]

# Why a topic cannot be cleaned up otherwise than it is. Keys are patients, so compaction keeps one record of each patient.
_STATE: Final = "it is state: what is deleted by age a lane no longer knows after a restart"
_INPUT: Final = "each record is an input of its own: compaction drops all but a patient's newest, read or not"
FIXED_CLEANUP: Final[Mapping[str, str]] = {
    PatientEvent.topic: _STATE,
    JOURNAL: _STATE,
    **dict.fromkeys((NoteEvent.topic, ImageEvent.topic, VitalsEvent.topic, FeedbackEvent.topic), _INPUT),
    ScoreEvent.topic: "a replay knows by the scores of then which sets are scored, and would score them anew",
    AlertEvent.topic: "each record is a step in an alert's life, to be told of",
    AuditEvent.topic: "each record is a proof of its own",
    DeadLetterEvent.topic: "each record is what could not be processed, and the only copy of it",
}
"""Topics whose clean-up policy is not the site's to choose, and why; others lose no state by compaction, but their history."""


def cleanup_of(topic: str) -> Cleanup:
    """Return how a topic is cleaned up unless a site chooses otherwise."""
    return "compact" if FIXED_CLEANUP.get(topic) == _STATE else "delete"


@dataclass(frozen=True, slots=True)
class Difference:
    """One option that differs. `loses`: as it is, data or state is lost or cannot be written; else it only differs."""

    option: str
    found: str
    wanted: str
    loses: bool
    words: str

    @property
    def short(self) -> str:
        """Return the option with what it is and what it should be, for people."""
        return f"{self.option} {show(self.option, self.found)} -> {show(self.option, self.wanted)}"


@dataclass(frozen=True, slots=True)
class _Topic:
    config: Mapping[str, str | None]
    copies: int


def differences(wanted: Mapping[str, str], found: Mapping[str, str | None], *, copies: int) -> list[Difference]:
    """Compare what a topic has with what it is to have; options that the cluster does not report are left out.

    `copies`: how many replicas its partitions have. No more of them can be asked to confirm a write.
    """
    topic, listed = _Topic(found, copies), []
    for option, value in wanted.items():
        there = found.get(option)
        if option == "min.insync.replicas":
            value = str(min(int(value), copies))
        if there is None or _same(option, there, value):
            continue
        loses, words = _RULES[option](there, value, topic)
        listed.append(Difference(option, there, value, loses, words))
    return listed


def show(option: str, value: str) -> str:
    """Return an option's value with its unit."""
    if option.endswith(".ms"):
        return span(value)
    return size(value) if option.endswith(".bytes") else value


def span(milliseconds: str) -> str:
    """Return a time in the largest unit that leaves a number above 1."""
    if milliseconds == UNLIMITED:
        return "unlimited"
    seconds = int(milliseconds) / 1000
    for unit, length in (("days", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= (2 * length if unit == "days" else length):
            return f"{seconds / length:.4g} {unit}"
    return f"{seconds:g} s"


def size(number: str) -> str:
    """Return a number of bytes in MB (10^6)."""
    return "unlimited" if number == UNLIMITED else f"{int(number) / 1e6:.4g} MB"


def _same(option: str, found: str, wanted: str) -> bool:
    if option == "cleanup.policy":  # a list, in no order
        return _policies(found) == _policies(wanted)
    return found == wanted


def _policies(value: str) -> set[str]:
    return {one.strip() for one in value.split(",") if one.strip()}


def _less(found: str, wanted: str) -> bool:
    """Compare two limits, of which -1 is the highest."""
    return found != UNLIMITED and (wanted == UNLIMITED or int(found) < int(wanted))


def _cleanup(found: str, wanted: str, topic: _Topic) -> tuple[bool, str]:
    if wanted == "compact":
        kept = topic.config.get("retention.ms") or UNLIMITED
        after = "once the partition is over its limit of bytes" if kept == UNLIMITED else f"after {span(kept)}"
        return True, (
            f"Kafka deletes records {after}, also the only one of a patient: the state that is kept here is lost, and a restart "
            "knows nothing of it"
        )
    if "compact" in _policies(wanted):
        return False, "it is not cleaned up as the settings say: more is kept than is asked for"
    return True, "Kafka keeps only the newest record of each key: the history of a patient is lost"


def _retention(found: str, wanted: str, _: _Topic) -> tuple[bool, str]:
    if _less(found, wanted):
        return True, f"records are deleted after {span(found)}: whoever is away or behind for longer loses them"
    return False, f"records are kept for longer than the settings say ({span(found)})"


def _bytes_kept(found: str, wanted: str, _: _Topic) -> tuple[bool, str]:
    return True, f"a partition over {size(found)} loses its oldest records, however young they are"


def _compaction_lag(found: str, wanted: str, _: _Topic) -> tuple[bool, str]:
    if _less(found, wanted):
        return True, f"superseded records may go after {span(found)}: a rebuild of state that goes back further misses them"
    return False, f"superseded records are kept for longer than need be ({span(found)})"


def _insync(found: str, wanted: str, topic: _Topic) -> tuple[bool, str]:
    if int(found) > topic.copies:
        return True, f"there are only {topic.copies}: brokers may refuse every write"
    if _less(found, wanted):
        return True, f"a write counts as stored when {found} of the copies have it: it is lost with them"
    return False, f"a write waits until {found} copies are up, more than the settings ask for; below that, everything waits"


def _message_size(found: str, wanted: str, _: _Topic) -> tuple[bool, str]:
    if _less(found, wanted):
        return True, f"the brokers refuse records over {size(found)}, and Vigil writes up to {size(wanted)}"
    return False, f"records may be larger than the settings say ({size(found)})"


def _timestamps(found: str, wanted: str, _: _Topic) -> tuple[bool, str]:
    return False, (
        "the brokers write their own time over the writer's: latencies come out too short, and a copy of the topic has all its "
        "records at the time of copying, by which replays choose and retention counts"
    )


_Rule = Callable[[str, str, _Topic], tuple[bool, str]]

_RULES: Final[Mapping[str, _Rule]] = {
    "cleanup.policy": _cleanup,
    "retention.ms": _retention,
    "retention.bytes": _bytes_kept,
    "min.compaction.lag.ms": _compaction_lag,
    "min.insync.replicas": _insync,
    "max.message.bytes": _message_size,
    "message.timestamp.type": _timestamps,
}
