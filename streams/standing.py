"""Vitals whose score stands: what a copy of them would come to is worse than what was published, so a replay holds them back.

The lane knows an input again by the ids of a patient's newest sets, and of those that may still alert. A copy of an older one is
scored late, from what is still known: the values of the 24 hours before the newest, the last few and the last of each hour. The
window of the original went back further, and its own hour was whole. So the model's answer is another one, and under the same id it
would take the place of what people have seen. A set that has no score, for its record failed or was skipped, gets that late score:
it is the only one.
"""

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from processors.events import ScoreEvent, VitalsEvent
from streams.deadletters import original
from streams.journal import stretch
from streams.lagging import lags
from streams.letters import Letter
from streams.outbox import partition_of
from streams.reader import Reader
from streams.settings import Settings
from streams.wire import body_of

SCORED: Final = "its score stands, and a copy's would be worse: the lane no longer knows the state of then (--rescore)"
COMING: Final = "the vitals lane has yet to come to it, and will score it"
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_DISORDER: Final = timedelta(days=1)  # by which a score's time may be behind its set's: of another host's clock


async def standing(settings: Settings, letters: Sequence[Letter]) -> dict[str, str]:
    """Return why a copy would do harm, by the id of the letter, of those that are vitals and of which it would.

    Raises `Permanent` when a topic is not there, `Transient` when no broker answers.
    """
    topic = settings.kafka.topic_prefix + VitalsEvent.topic
    asked = [one for one in letters if one.event.original_topic == topic]
    if not asked:
        return {}
    # First how far the lane is: what it has committed is published by then.
    found = await lags(settings, ("vitals",), topics=(VitalsEvent.topic,), times=False)
    committed = {lag.partition: lag.committed or 0 for lag in found}
    sets = {one.event.id: body_of(original(one.event)) for one in asked}
    scored = await _scored(settings, sets.values(), min(_written(one) for one in asked))
    why: dict[str, str] = {}
    for one in asked:
        if one.event.original_offset >= committed.get(one.event.original_partition, 0):
            why[one.event.id] = COMING
        elif sets[one.event.id].get("id") in scored:
            why[one.event.id] = SCORED
    return why


async def _scored(settings: Settings, sets: Collection[Mapping[str, Any]], since: datetime) -> set[object]:
    """Return the ids of those sets that have a score, as far as clinical.scores goes back."""
    topic = settings.kafka.topic_prefix + ScoreEvent.topic
    ids = {one.get("id") for one in sets}
    keys: dict[int, set[bytes]] = defaultdict(set)
    scored: set[object] = set()
    async with Reader(settings.kafka) as reader:
        await reader.require(topic)
        count = settings.topics.used(ScoreEvent.topic, len(await reader.partitions(topic)))
        for key in {str(one.get("patient_id", "")).encode() for one in sets}:
            keys[partition_of(key, count)].add(key)
        for number, patients in sorted(keys.items()):
            begin, end = await reader.bounds(topic, number)
            if (at := await reader.offset_at(topic, number, since)) is not None:
                begin = max(begin, at)
            async for record in stretch(reader, topic, number, begin, end):
                if record.key in patients:
                    source = body_of(record.value).get("source")
                    scored.add(source.get("event_id") if isinstance(source, dict) else None)
    return scored & (ids - {None})


def _written(letter: Letter) -> datetime:
    """Return from when on a set's score may have been written."""
    written = letter.event.original_timestamp
    return _EPOCH if written is None else max(_EPOCH, written - _DISORDER)
