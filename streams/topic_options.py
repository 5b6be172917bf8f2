"""Where a topic's configuration is not what the settings make it, what that does, and whether it loses data or state.

One table (`_RULES`) for `vigil doctor`, which says it, and `vigil topics create`, which sets it. Options are named, and behave, as
in Apache Kafka's topic configuration (https://kafka.apache.org/documentation/#topicconfigs).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

UNLIMITED: Final = "-1"  # Kafka's word for no limit, of time as of bytes


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
