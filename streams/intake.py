"""The intake: aiokafka takes records in, in slices, and commits what the ledger says is settled (`streams.ledger`: the algorithm).

A service inside the lane's Faust app. It never waits for the work: it enters slices in the ledger, hands them on through a Faust
channel, pauses a partition whose ledger is full and keeps polling the others, which also keeps the group membership alive.
"""

import asyncio
import logging
import random
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from math import inf
from typing import Any, Protocol

from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener, TopicPartition
from aiokafka.errors import IllegalStateError, KafkaError
from mode import Service

from models.errors import Fatal, VigilError
from streams import groups
from streams.broker import CLIENT_SETTINGS as EMBEDDED
from streams.kafka import aiokafka_config
from streams.ledger import Ledger, Slice
from streams.settings import Settings

log = logging.getLogger("vigil.intake")

task: Callable[[Callable[[Any], Awaitable[None]]], Any] = Service.task  # with the types that mode does not ship

_PATIENCE = 10.0  # seconds for questions to the broker on which nothing but an alarm depends
_ASK_AGAIN, _ASK_AGAIN_MOST = 3.0, 60.0  # seconds before another assignment is asked for
_UNTAKEN = 5.0  # seconds for a commit, and without one taken before it is worth a warning
_DESCRIBED_EVERY = 30.0  # seconds between descriptions of the cluster
_LOOK_EVERY = 60.0  # seconds between looks whether every partition is somebody's


class Owner(Protocol):
    """What the intake tells the lane's engine."""

    def assigned(self, partitions: Iterable[TopicPartition]) -> None:
        """Start work on these partitions; their ledgers are new and empty."""
        ...

    async def revoked(self, *, within: float) -> None:
        """Finish what is in flight on every partition, `within` seconds at most, then abandon it."""
        ...

    def missed(self, partition: TopicPartition, reason: str, records: int) -> None:
        """Take note that up to so many records can never be read: `retention` took them, or the log is `past-end`."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class _Commit:
    """A commit under way: of which ledgers, up to where, since when."""

    task: "asyncio.Future[None]"
    ledgers: Mapping[TopicPartition, Ledger]
    ends: Mapping[TopicPartition, int]
    began: float


class Intake(Service, ConsumerRebalanceListener):  # type: ignore[misc]
    """One consumer of one group; see the module's docstring."""

    def __init__(
        self,
        settings: Settings,
        *,
        group: str,
        topics: tuple[str, ...],
        slice_records: int,
        put: Callable[[Slice], Awaitable[Any]],
        owner: Owner,
        fail: Callable[[BaseException], Awaitable[None]],
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.group = group
        self.topics = topics
        self._slice_records = slice_records
        self.ledgers: dict[TopicPartition, Ledger] = {}
        self.rebalances = 0
        self.last_commit = self._heard = time.monotonic()
        self._described: int | None = None  # the stamp of the cluster's last description
        self.commit_failures = 0
        self._put = put
        self._owner = owner
        self._fail = fail
        self._engine = settings.engine
        self._settings = settings
        self._settled = asyncio.Event()
        self._committing = asyncio.Lock()
        self._recent_rebalances: deque[float] = deque()
        self._assignor: type[groups.RangeOnRequest] = type("RangeOnRequest", (groups.RangeOnRequest,), {})
        self._ask_again = _ASK_AGAIN
        self._next_look = inf  # for partitions that are nobody's
        self._untaken_since: float | None = None
        self._pending: _Commit | None = None
        self._consumer: AIOKafkaConsumer = None

    def _new_consumer(self) -> AIOKafkaConsumer:
        engine, worker = self._engine, self._settings.worker
        membership: dict[str, Any] = {
            # Static membership: a restart within the session time-out keeps its partitions and moves nobody else's.
            "group_instance_id": f"{self.group}-{worker.host}-{worker.slot}",
            "session_timeout_ms": int(engine.session_timeout * 1000),
            "heartbeat_interval_ms": int(engine.heartbeat_interval * 1000),
        }
        if self._settings.kafka.embedded:
            membership = dict(EMBEDDED)
        return AIOKafkaConsumer(
            **aiokafka_config(self._settings.kafka),
            **membership,
            group_id=self.group,
            enable_auto_commit=False,
            auto_offset_reset="earliest",  # `latest` loses what was written before the first join
            isolation_level="read_committed",
            max_poll_interval_ms=10**9,  # a held partition is paused, not dead: the watchdog judges progress, not the broker
            request_timeout_ms=int(engine.request_timeout * 1000),
            rebalance_timeout_ms=int(engine.rebalance_timeout * 1000),
            max_partition_fetch_bytes=512 * 1024,  # what is fetched ahead is held, too; a larger record still comes, alone
            metadata_max_age_ms=int(_DESCRIBED_EVERY * 1000),  # new partitions are seen within it
            # Range assigns the same partition numbers of all topics to one member: the vitals lane's topics must meet.
            partition_assignment_strategy=(self._assignor,),
        )

    async def on_start(self) -> None:
        """Join the group; retries while the broker cannot be reached, as every transient failure."""
        wait = self._engine.backoff_first
        while not self.should_stop:
            self._consumer = self._new_consumer()
            try:
                await self._consumer.start()
                break
            except (KafkaError, OSError) as error:
                await self._consumer.stop()
                log.warning("%s: broker not reached (%s); trying again in %.1f s", self.group, type(error).__name__, wait)
                await asyncio.sleep(wait)
                wait = min(2 * wait, self._engine.backoff_most)
        self._consumer.subscribe(self.topics, listener=self)

    # ------------------------------------------------------------------------------------------------- steps 1 and 2

    @task
    async def _pull(self) -> None:
        await self._guard(self._pull_loop())

    async def _pull_loop(self) -> None:
        size = self._slice_records
        while not self.should_stop:
            full = self._pause_full()
            found = await self._consumer.getmany(timeout_ms=20 if full else 200, max_records=4 * size)
            pieces: list[Slice] = []
            for partition, records in found.items():
                ledger = self.ledgers.get(partition)
                if ledger is None:
                    continue  # revoked while we waited: the next owner starts from the committed offset
                if 0 <= ledger.position < records[0].offset:
                    ledger.gap = min(ledger.position, ledger.gap) if ledger.gap >= 0 else ledger.position
                pieces += [ledger.enter(records[i : i + size]) for i in range(0, len(records), size)]
            # All partitions' are entered before any is handed on: a rebalance while `put` waits would enter the rest, of an
            # assignment that is over, in the new one's ledgers.
            for piece in pieces:
                await self._put(piece)  # never blocks for long: the ledger's limit is the bound

    def _pause_full(self) -> bool:
        engine = self._engine
        full = {tp for tp, ledger in self.ledgers.items() if ledger.full(engine.held_records, engine.held_bytes)}
        paused = self._consumer.paused() & set(self.ledgers)
        if full - paused:
            self._consumer.pause(*(full - paused))
        if paused - full:
            self._consumer.resume(*(paused - full))
        return bool(full)

    # ------------------------------------------------------------------------------------------------- steps 5 to 7

    @task
    async def _commit_regularly(self) -> None:
        await self._guard(self._commit_loop())

    async def _commit_loop(self) -> None:
        while not self.should_stop:
            await asyncio.sleep(self._engine.commit_every)
            await self.commit()

    async def commit(self) -> None:
        """Commit the settled prefix of every partition; what fails stays in the ledger for the next time."""
        async with self._committing:
            if self._pending is not None and not await self._end(self._pending):
                return
            ledgers = dict(self.ledgers)
            ends = {tp: end for tp, ledger in ledgers.items() if (end := ledger.settled_end()) is not None}
            if not ends:
                self._untaken_since = None
                return
            # A task of its own: aiokafka tries for ever, and one that is given up would still be under way beside the next.
            self._pending = _Commit(asyncio.ensure_future(self._consumer.commit(ends)), ledgers, ends, time.monotonic())
            await self._end(self._pending)

    async def _end(self, commit: "_Commit") -> bool:
        """Wait for a commit, though not for long; tell whether it has ended, in whatever way."""
        await asyncio.wait({commit.task}, timeout=_UNTAKEN)
        if not commit.task.done():
            self._not_taken(commit, "no answer")
            return False
        self._pending = None
        try:
            commit.task.result()
        except (KafkaError, IllegalStateError) as error:
            # Carried by the next commit, or read again by the next owner: never lost either way.
            self._not_taken(commit, type(error).__name__)
            return True
        self.last_commit = time.monotonic()
        if self._untaken_since is not None:
            log.info("%s: commits are taken again", self.group)
            self._untaken_since = None
        for tp, end in commit.ends.items():
            commit.ledgers[tp].forget(end)
        return True

    async def _give_up(self) -> None:
        """End a commit that is still under way."""
        if self._pending is not None:
            self._pending.task.cancel()
            await asyncio.gather(self._pending.task, return_exceptions=True)
            self._pending = None

    def _not_taken(self, commit: "_Commit", reason: str) -> None:
        self.commit_failures += 1
        now = time.monotonic()
        if self._untaken_since is None:
            self._untaken_since = commit.began
        if self._untaken_since > now - _UNTAKEN:  # once is nothing: a rebalance does it
            log.info("%s: commit not taken (%s); it is tried again", self.group, reason)
        elif self._untaken_since != -inf:
            log.warning(
                "%s: no commit has been taken for %.0f s (%s): work goes on, and would be repeated after a restart",
                self.group, now - self._untaken_since, reason,
            )  # fmt: skip
            self._untaken_since = -inf  # said once

    # ------------------------------------------------------------------------------------------------- step 8

    async def on_partitions_revoked(self, revoked: Iterable[TopicPartition]) -> None:
        """Wait for what is in flight, commit while still the owner (aiokafka rejoins after this returns), drop the ledgers."""
        await self._guard(self._revoke(list(revoked)))

    async def _revoke(self, revoked: list[TopicPartition]) -> None:
        if revoked:
            await self._owner.revoked(within=self._engine.drain)
            await self.commit()
            await self._give_up()  # later it would be in the next owner's way: Kafka takes any member's commit
        for ledger in self.ledgers.values():
            ledger.dropped = True
        self.ledgers = {}

    async def on_partitions_assigned(self, assigned: Iterable[TopicPartition]) -> None:
        """Start new ledgers, then the work on them."""
        await self._guard(self._assign(sorted(assigned)))

    async def _assign(self, assigned: list[TopicPartition]) -> None:
        self._count_rebalance()
        self.ledgers = {tp: Ledger(tp, self._settled) for tp in assigned}
        self._untaken_since = None
        self._owner.assigned(assigned)
        if assigned:
            self.add_future(self._compare(assigned))
        self._next_look = time.monotonic()
        log.info("%s: %d partitions assigned", self.group, len(assigned))

    def _count_rebalance(self) -> None:
        now = time.monotonic()
        self.rebalances += 1
        self._recent_rebalances.append(now)
        while self._recent_rebalances[0] < now - 60:
            self._recent_rebalances.popleft()
        if len(self._recent_rebalances) > self._engine.rebalances_per_minute:
            worker = self._settings.worker
            raise Fatal(
                f"{self.group}: {len(self._recent_rebalances)} rebalances within a minute",
                hint=f"does another process run as {worker.host} slot {worker.slot}? Each worker needs a slot of its own",
            )

    @task
    async def _watch_the_group(self) -> None:
        if not self._settings.kafka.embedded:  # which describes no groups
            await self._guard(self._group_loop())

    async def _group_loop(self) -> None:
        while not self.should_stop:
            await self.sleep(1.0)
            if time.monotonic() >= self._next_look:
                self._next_look = time.monotonic() + _LOOK_EVERY
                await self._look_for_the_rest()

    async def _look_for_the_rest(self) -> None:
        """Ask for another assignment where partitions of the topics are nobody's, or somebody's that are there no more.

        A static member that comes back within its session is given what it had, and nobody looks at the topics: one that was
        made anew meanwhile, or has more partitions now, would be nobody's for good.
        """
        ledgers = self.ledgers
        try:
            async with asyncio.timeout(_PATIENCE):
                taken = await groups.taken(self._settings.kafka, self.group)
        except (KafkaError, OSError, TimeoutError, VigilError) as error:
            log.info("%s: not known whether every partition is assigned (%s)", self.group, type(error).__name__)
            return
        if taken is None:
            return  # being assigned
        there = {topic: self._consumer.partitions_for_topic(topic) or set() for topic in self.topics}
        known = {TopicPartition(topic, number) for topic, numbers in there.items() for number in numbers}
        wrong = (known - taken) | {tp for tp in taken - known if there.get(tp.topic)}
        if not wrong:
            self._ask_again = _ASK_AGAIN
            return
        wait = self._ask_again * random.uniform(0.5, 1.5)
        log.warning(
            "%s: not assigned as the topics are: %s; was one made anew, or did it grow? Another assignment is asked for in %.0f s",
            self.group, ", ".join(f"{tp.topic}[{tp.partition}]" for tp in sorted(wrong)), wait,
        )  # fmt: skip
        await self.sleep(wait)
        self._ask_again = min(2 * self._ask_again, _ASK_AGAIN_MOST)
        if self.ledgers is ledgers and not self.should_stop:  # no other assignment has come
            self._assignor.requests += 1
            # As aiokafka does when topics change; `subscribe` would drop the assignment before what is in flight is committed.
            self._consumer._coordinator.request_rejoin()

    # ------------------------------------------------------------------------------------------------- what the log has lost

    async def _compare(self, partitions: list[TopicPartition]) -> None:
        """Hold the group's committed offsets against the log: what lies between them was never read and never will be.

        aiokafka goes on at the start of the log in either case (`auto_offset_reset`), and says so to nobody.
        """
        try:
            async with self._committing, asyncio.timeout(_PATIENCE):  # a first commit would hide what is looked for
                bounds = await self.bounds(partitions)
                for tp in partitions:
                    committed = await self.committed(tp)
                    if committed is not None:
                        self._judge(tp, committed, *bounds[tp])
        except (KafkaError, TimeoutError, IllegalStateError) as error:
            log.warning("%s: committed offsets not compared with the log (%s)", self.group, type(error).__name__)

    def _judge(self, tp: TopicPartition, committed: int, begin: int, end: int) -> None:
        if committed < begin:
            log.error(
                "%s: %s[%d]: up to %d records are lost to this group: retention removed them before they were read "
                "(committed offset %d, the log begins at %d). Lengthen the topic's retention; send them again if the sender can",
                self.group, tp.topic, tp.partition, begin - committed, committed, begin,
            )  # fmt: skip
            self._owner.missed(tp, "retention", begin - committed)
        elif committed > end:
            log.error(
                "%s: %s[%d]: the committed offset %d lies %d past the end of the log, %d: the topic was made anew, or restored "
                "from an older copy. The %d records there are read from the start; what was between may be gone",
                self.group, tp.topic, tp.partition, committed, committed - end, end, end - begin,
            )  # fmt: skip
            self._owner.missed(tp, "past-end", committed - end)

    @task
    async def _watch_the_log(self) -> None:
        await self._guard(self._watch_loop())

    async def _watch_loop(self) -> None:
        while not self.should_stop:
            await self.sleep(self._engine.log_check_every)
            await self._look_for_losses()

    async def _look_for_losses(self) -> None:
        """Notice that retention overtook a partition while it was held: its next record is no longer in the log."""
        ledgers = {tp: ledger for tp, ledger in self.ledgers.items() if ledger.position >= 0}
        if not ledgers:
            return
        try:
            async with asyncio.timeout(_PATIENCE):
                begins = await self._consumer.beginning_offsets(list(ledgers))
        except (KafkaError, TimeoutError, IllegalStateError):
            return  # while the broker is away nothing is removed either
        for tp, ledger in ledgers.items():
            next_one = ledger.gap if ledger.gap >= 0 else ledger.position
            ledger.gap = -1
            if ledger.alarmed < begins[tp] > next_one:
                self._judge(tp, max(next_one, ledger.alarmed), begins[tp], begins[tp])
                ledger.alarmed = begins[tp]

    async def look(self) -> None:
        """Learn how far every partition was read, markers and gaps included, and which of them the broker still answers."""
        now, paused, mine = time.monotonic(), self._consumer.paused(), self._consumer.assignment()
        if (described := self._consumer._client.cluster._last_successful_refresh_ms) != self._described:
            self._described, self._heard = described, now
        for tp, ledger in list(self.ledgers.items()):
            if tp in mine and (answer := self._consumer.last_poll_timestamp(tp)) != ledger.answer:
                ledger.answer, ledger.heard = answer, now
            elif tp in paused:
                ledger.heard = now  # nobody asks
            try:
                # Answers at once where a position is known, which is nearly always.
                async with asyncio.timeout(0.1):
                    read = await self._consumer.position(tp)
            except (TimeoutError, IllegalStateError, KafkaError):
                continue
            if read != ledger.read or ledger.slices:  # what it has in hand is the workers' to answer for
                ledger.read, ledger.moved = read, time.monotonic()

    def stuck(self, limit: float) -> list[TopicPartition]:
        """Return the partitions that could take records in, and have not moved for `limit` seconds with records before them.

        Goes by the position, not by the commit: a transaction's marker at the end of a log leaves a lag that never closes.
        """
        now, found = time.monotonic(), []
        for tp, ledger in self.ledgers.items():
            high = self._consumer.highwater(tp)
            behind = ledger.read < 0 or (high is not None and ledger.read < high)
            if behind and not ledger.slices and now - ledger.moved > limit:
                found.append(tp)
        return found

    def silence(self) -> float:
        """Return for how many seconds Kafka has not answered a fetch of the partition that is worst off.

        A worker without a partition goes by the cluster's description, which it asks for every half minute.
        """
        now = time.monotonic()
        if self.ledgers:
            return now - min(ledger.heard for ledger in self.ledgers.values())
        return max(0.0, now - self._heard - _DESCRIBED_EVERY)

    def deaf(self, limit: float) -> list[TopicPartition]:
        """Return the partitions that have had no answer for `limit` seconds."""
        now = time.monotonic()
        return [tp for tp, ledger in self.ledgers.items() if now - ledger.heard > limit]

    # ------------------------------------------------------------------------------------------------- what others ask

    async def committed(self, partition: TopicPartition) -> int | None:
        """Return the group's committed offset of a partition, None if nothing was committed yet."""
        offset: int | None = await self._consumer.committed(partition)
        return offset

    async def bounds(self, partitions: list[TopicPartition]) -> dict[TopicPartition, tuple[int, int]]:
        """Return, per partition, the first offset that the log still holds and the one after its last."""
        begins: Mapping[TopicPartition, int] = await self._consumer.beginning_offsets(partitions)
        ends: Mapping[TopicPartition, int] = await self._consumer.end_offsets(partitions)
        return {tp: (begins[tp], ends[tp]) for tp in partitions}

    def lag(self) -> dict[TopicPartition, int]:
        """Return, per partition, how many records lie between what was committed or settled and the end of the log."""
        lags = {}
        for tp, ledger in self.ledgers.items():
            high, read = self._consumer.highwater(tp), max(ledger.position, ledger.read)
            lags[tp] = ledger.records + (max(0, high - read) if high is not None and read >= 0 else 0)
        return lags

    async def on_stop(self) -> None:
        """Drain, commit, leave."""
        if self._consumer is None:
            return
        try:
            async with asyncio.timeout(self._engine.grace + 5):
                await self._owner.revoked(within=self._engine.grace)
            async with asyncio.timeout(5):
                await self.commit()
        except TimeoutError:
            log.warning("%s: stopped before everything in flight was committed; the next start reads it again", self.group)
        try:
            async with asyncio.timeout(10):
                await self._consumer.stop()
        except TimeoutError:
            log.warning("%s: the broker did not answer the goodbye", self.group)
        await self._give_up()

    async def _guard(self, work: Awaitable[None]) -> None:
        # aiokafka only logs what a rebalance listener raises, and mode restarts nothing: a failure here must stop the lane.
        try:
            await work
        except asyncio.CancelledError:
            raise
        except BaseException as error:
            if self.should_stop:
                return  # the consumer was stopped under a loop that still polled
            await self._fail(error)
            raise
