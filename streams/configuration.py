"""What a lane decides by, told on `clinical.audit` once for each change: by whoever is the first to decide by something else.

    partition's last basis (its journal) is another than mine -> the lane's last one -> another too: audited -> written down

The lane's last basis stands in the journal's first partition, whoever owns that: a lane has one history of its rules, however many
partitions and workers. A change's id derives from the one before it and from what holds now, so two workers that find the same
change at the same time, or one that died half-way, make one record of it; and the same change a second time is another.

A worker tells its own only once. So a group whose workers differ for good tells at most one change for each start of one, however
often partitions go to and fro, and each record names the worker.
"""

import asyncio
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256
from typing import Final

import orjson

from models.errors import Poison
from processors.identity import natural_id
from streams.audit import configuration_audits
from streams.journal import TOPIC, stretch
from streams.outbox import Outbox
from streams.reader import Reader
from streams.settings import Settings
from streams.wire import Message

log = logging.getLogger("vigil.vitals")

_PARTITION: Final = 0  # of the journal
_UNKNOWN: Final = "not known: a first start, a version that did not write it down, or a journal that was lost"


@dataclass(frozen=True, slots=True)
class _Last:
    """What the lane's last change led to."""

    id: str
    stamp: str
    values: dict[str, str]


class Configuration:
    """A lane's basis, as one process tells it. `largest`: bytes that an audit record may have."""

    def __init__(self, lane: str, settings: Settings, outbox: Outbox, agent: str) -> None:
        self._lane = lane
        self._kafka = settings.kafka
        self._largest = settings.topics.largest_message_bytes
        self._outbox = outbox
        self._agent = agent
        self._told: Mapping[str, str] | None = None
        self._alone = asyncio.Lock()  # the partitions of a worker find the change together

    async def tell(self, values: Mapping[str, str], stamp: str, now: datetime) -> None:
        """Audit, confirmed, that the lane decides by these values from now on, unless that is the last that was told.

        May be repeated. Raises `Transient` and `Fatal` as the outbox does.
        """
        async with self._alone:
            if self._told == values:
                return
            last = await self._last()
            if last is None or last.values != values:
                await self._change(last, values, stamp, now)
            self._told = dict(values)

    async def _last(self) -> _Last | None:
        found, key = None, self._key()
        topic = self._kafka.topic_prefix + TOPIC
        async with Reader(self._kafka) as reader:
            begin, end = await reader.bounds(topic, _PARTITION)
            async for record in stretch(reader, topic, _PARTITION, begin, end):
                if record.key == key and record.value is not None:
                    body = orjson.loads(record.value)
                    found = _Last(body["id"], body["stamp"], body["values"])
        return found

    async def _change(self, last: _Last | None, values: Mapping[str, str], stamp: str, now: datetime) -> None:
        digest = sha256(orjson.dumps(dict(values), option=orjson.OPT_SORT_KEYS)).hexdigest()
        request = natural_id("configuration-change", self._lane, last.id if last else "", digest)
        reason = f"decided by {stamp} from now on; before: {last.stamp if last else _UNKNOWN}"
        for event in configuration_audits(
            request,
            self._lane,
            last.values if last else None,
            values,
            agent=self._agent,
            reason=reason,
            recorded_at=now,
            largest=self._largest,
        ):
            await self._outbox.audit(event)
        # Of no owner: to a rebuild of that partition it is void, as a zombie's is.
        body = {"kind": "lane", "epoch": -1, "id": request, "stamp": stamp, "values": dict(values)}
        try:
            await self._outbox.append(Message(TOPIC, self._key(), orjson.dumps(body), partition=_PARTITION))
        except Poison as error:
            log.error("%s: what it decides by is too large for the journal, each start tells it anew: %s", self._lane, error)

    def _key(self) -> bytes:
        return f"lane/{self._lane}".encode()
