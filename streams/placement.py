"""Whether patients' records lie where they are looked for: in the partition that their key has among those in use.

Keys are spread over as many partitions as the settings say (`TopicSettings.used`), not over those that somebody added since: by
them most patients would move, and their context and state stay behind. Settings that say another number than the one by which
the records were written do the same. That is what this finds, by the records themselves.
"""

from collections.abc import Collection
from typing import Final

from models.errors import Fatal
from streams.outbox import partition_of

_ENOUGH: Final = 8  # patients below which nothing is concluded
_ASTRAY: Final = 4  # one in so many, at least

MOST: Final = 10_000  # patients that are looked at, at most


def spread(places: Collection[tuple[bytes, int]], used: int, there: int, *, whole: bool = True) -> int:
    """Return over how many partitions records (key, partition) were spread: `used`, or another number that explains them all.

    `there`: the partitions of the topic; `whole`: the records are of all of them. `used` too where no number explains them:
    somebody wrote with a partitioner of their own.
    """
    astray = sum(partition_of(key, used) != partition for key, partition in places)
    if len(places) < _ENOUGH or astray * _ASTRAY < len(places):
        return used
    for number in range(there, 0 if whole else 1, -1):  # one partition explains whatever lies in partition 0
        if all(partition_of(key, number) == partition for key, partition in places):
            return number
    return used


def require(topic: str, places: Collection[tuple[bytes, int]], used: int, there: int, *, whole: bool = True) -> None:
    """Raise `Fatal` where records lie by another number of partitions than is used now."""
    if (number := spread(places, used, there, whole=whole)) != used:
        raise Fatal(
            f"the patients of {topic} lie in {number} partitions, and the settings spread them over {used}: most would be looked "
            "for where they are not",
            hint=f"set topics.partitions to {number} wherever Vigil runs; partitions beyond that may be there, and stay empty",
        )
