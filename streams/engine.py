"""The engine of a lane: one Faust app, one consumer group, the intake before Faust agents, workers behind them.

    intake --slices--> Faust channel --> agent --> worker of the partition --> outbox, stores
       ^                                                   |
       +--------- commits <-- ledger <------- settled -----+

Faust does what it is good at: agents and their supervision, service life cycle, timers, the web server with health and metrics,
the worker that owns the process. Its Kafka consumer is off (`BootStrategy.enable_kafka`): the ledger acknowledges, Faust nothing.
"""

import asyncio
import logging
import os
import tempfile
import threading
import time
import traceback
from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol

import faust
from aiokafka import TopicPartition
from faust.app.base import BootStrategy
from mode import Service

from models.batching import describe
from models.errors import Fatal, VigilError
from streams import topics
from streams.collector import Collector
from streams.intake import Intake, task
from streams.kafka import faust_config
from streams.ledger import Ledger
from streams.metrics import LaneMetrics
from streams.outbox import Outbox
from streams.partition import Abandoned, Steps, Worker
from streams.settings import Settings

log = logging.getLogger("vigil.engine")

_ASK_EVERY = 10.0  # seconds between questions whether Kafka would answer somebody new
_NAMED = 3  # partitions that a reason names


class Boot(BootStrategy):  # type: ignore[misc]
    """Faust's own switch for an app without its Kafka consumer and producer."""

    enable_kafka = False


class LaneApp(faust.App):  # type: ignore[misc]
    """A Faust app that takes in through the intake."""

    BootStrategy = Boot


class Job(Protocol):
    """What the engine runs: a lane with its workers."""

    name: str

    @property
    def topics(self) -> tuple[str, ...]:
        """Return the topics read, without the site's prefix."""
        ...

    @property
    def needs(self) -> tuple[str, ...]:
        """Return the topics that must be there before anything is begun: those read, and what it keeps its state in."""
        ...

    @property
    def batch_records(self) -> int:
        """Return the records of one batch at most."""
        ...

    async def open(self) -> None:
        """Load models, connect stores."""
        ...

    async def close(self) -> None:
        """Undo `open`."""
        ...

    def workers(self, partitions: Iterable[TopicPartition], intake: Intake) -> dict[TopicPartition, Worker]:
        """Return the worker of each partition assigned; partitions that meet share one, and have none before all are there."""
        ...


class Engine(Service):  # type: ignore[misc]
    """Runs one job inside its Faust app; owns intake, workers and watchdog."""

    def __init__(self, app: LaneApp, job: Job, outbox: Outbox, settings: Settings, metrics: LaneMetrics, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.app = app
        self.job = job
        self.outbox = outbox
        self.settings = settings
        self.metrics = metrics
        self.failure: BaseException | None = None
        self.leaving: Callable[[], object] = lambda: None  # told that the process is to end; whoever owns it sees to that
        self.stage = "starting"
        self._starting = Steps(job.name, settings.engine, metrics)
        self._channel = app.channel()
        self._workers: dict[TopicPartition, Worker] = {}
        self._incomplete = 0  # partitions assigned without those of other topics that go with them
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._beat = time.monotonic()
        self._assigned_once = False
        self._asked: asyncio.Task[bool] | None = None  # whether Kafka answers somebody new
        self.intake = Intake(
            settings,
            group=f"{settings.kafka.topic_prefix}vigil.{job.name}",
            topics=tuple(settings.kafka.topic_prefix + topic for topic in job.topics),
            slice_records=min(settings.engine.slice_records, job.batch_records),
            put=self._channel.put,
            owner=self,
            fail=self.fail,
        )
        app.agent(self._channel, name=f"{job.name}-slices")(self._deal)

    async def _deal(self, slices: Any) -> None:
        # Never raises and never awaits: Faust would restart the agent, and the slice would lie unsettled until the watchdog
        # sees it. A slice of a dropped ledger is nobody's any more.
        async for piece in slices:
            worker = self._workers.get(piece.ledger.partition)  # none while partitions are handed over or the lane stops
            if worker is not None and not piece.ledger.dropped:
                worker.accept(piece)

    # ------------------------------------------------------------------------------------------------- life

    async def on_start(self) -> None:
        """Open the job's models and stores and the outbox, then let the intake join the group."""
        refuse_topic_agents(self.app)
        threading.Thread(target=self._watch_the_loop, name="loop-watch", daemon=True).start()
        self.app.flow_control.resume()  # a channel without a Faust consumer needs it
        try:
            await self._begin("connecting", "connect to Kafka", self.outbox.start)
            await self._begin("waiting for topics", "look for them", lambda: topics.require(self.settings, self.job.needs))
            await self._begin("loading", "open", self.job.open)
            self.stage = "joining"
            await self.add_runtime_dependency(self.intake)
        except Abandoned:
            await self._close()

    async def _begin(self, stage: str, step: str, work: Callable[[], Awaitable[None]]) -> None:
        if self._unwanted():
            raise Abandoned
        self.stage = stage
        await self._starting.persist(step, work)
        if self._unwanted():  # told to stop meanwhile: what was opened is closed again, and no group is joined
            raise Abandoned

    def _unwanted(self) -> bool:
        return bool(self.should_stop or self.app.should_stop)

    async def on_stop(self) -> None:
        """Let the intake drain while the outbox still works, then close what was opened."""
        self.stage = "stopping"
        self._starting.closing.set()
        await self.intake.stop()
        await self._close()

    async def _close(self) -> None:
        self.stage = "stopped"
        self._ask_no_more()
        await self.job.close()
        await self.outbox.stop()

    async def fail(self, error: BaseException) -> None:
        """Stop the process without settling anything more; it exits non-zero and whoever supervises it starts it again."""
        if self.failure is None:
            self.failure = error
            self.stage = "failed"
            self.leaving()
            log.critical("%s stops: %s", self.job.name, error.advice if isinstance(error, VigilError) else describe(error))
            await self.app.crash(error)

    # ------------------------------------------------------------------------------------------------- owner of partitions

    def assigned(self, partitions: Iterable[TopicPartition]) -> None:
        """Start a worker per partition (or per number, where topics meet)."""
        partitions = list(partitions)
        self._workers = self.job.workers(partitions, self.intake)
        self._incomplete = len(set(partitions) - self._workers.keys())
        for worker in {id(worker): worker for worker in self._workers.values()}.values():
            task = asyncio.create_task(worker.run(), name=worker.steps.name)
            self._tasks[id(worker)] = task
            task.add_done_callback(self._ended)
        self._assigned_once = True
        self.stage = "running"

    def _ended(self, task: "asyncio.Task[None]") -> None:
        error = None if task.cancelled() else task.exception()
        if error is not None:
            # The frames without the exception's words, which may quote the input.
            frames = "".join(traceback.format_tb(error.__traceback__))
            log.error("%s: worker of %s failed: %s\n%s", self.job.name, task.get_name(), describe(error), frames)
            self._failing = asyncio.ensure_future(self.fail(error))

    async def revoked(self, *, within: float) -> None:
        """Let batches in flight finish, `within` seconds at most; give up those that wait for transient trouble at once."""
        for worker in self._workers.values():
            worker.close()
        tasks = list(self._tasks.values())
        if tasks:
            await asyncio.wait(tasks, timeout=within)
            for task in tasks:
                task.cancel()  # what it had in flight stays unsettled and is read again
            await asyncio.wait(tasks, timeout=1)
        self._workers, self._tasks, self._incomplete = {}, {}, 0

    def missed(self, partition: TopicPartition, reason: str, records: int) -> None:
        """Count records that can never be read; the intake has said it in words."""
        self.metrics.missed(partition.topic, partition.partition, reason, records)

    # ------------------------------------------------------------------------------------------------- watchdog

    @task
    async def _watch(self) -> None:
        self.add_future(Collector().run())
        while not self.should_stop:
            await asyncio.sleep(0.5)
            self._beat = time.monotonic()
            if self._assigned_once:
                await self.intake.look()
            self._measure()
            stalled = self._stalled()
            if not stalled:
                self._ask_no_more()
            elif self._restart_helps():
                await self.fail(
                    Fatal(f"{self.job.name}: {stalled}", hint="it is restarted; if it repeats, see the log before it")
                )

    def _restart_helps(self) -> bool:
        """Tell whether somebody new would be answered where this process is not; nothing is waited for, the next look knows more.

        While Kafka itself is away, or refuses writes for want of copies, every start would end like the last one, a state restored
        for nothing each time; and the process that waits goes on by itself.
        """
        after = self.settings.engine.silence_after
        read, (_, written) = self.intake.deaf(after), self.outbox.unconfirmed(after)
        if not read and not written:
            return True  # it is not Kafka
        if self._asked is None:
            self._asked = asyncio.create_task(self._ask(read, written), name="is Kafka there")
        if not self._asked.done():
            return False
        helps = self._asked.result()
        self._ask_no_more()
        return helps

    def _ask_no_more(self) -> None:
        if self._asked is not None:
            self._asked.cancel()
            self._asked = None

    async def _ask(self, read: Sequence[TopicPartition], written: Collection[TopicPartition]) -> bool:
        if await topics.answered(self.settings, read, written):
            return True
        await asyncio.sleep(_ASK_EVERY)
        return False

    def _measure(self) -> None:
        now, m, intake = time.monotonic(), self.metrics, self.intake
        lags = intake.lag() if self._assigned_once else {}
        for tp, records in lags.items():
            m.lag(tp.topic, tp.partition, records)
        m.partitions({(tp.topic, tp.partition): self._state_of(tp, ledger, now) for tp, ledger in intake.ledgers.items()})
        m.in_flight.set(sum(ledger.records for ledger in intake.ledgers.values()))
        m.since_commit.set(now - intake.last_commit)
        oldest = min((t for ledger in intake.ledgers.values() if (t := ledger.oldest_unsettled())), default=None)
        m.oldest.set(0 if oldest is None else now - oldest)
        m.held.set(sum(worker.steps.held_since is not None for worker in self._unique_workers()))
        m.rebalances.set(intake.rebalances)
        m.silent.set(self._silence())
        m.ready.set(int(not self.unready()))

    def _state_of(self, tp: TopicPartition, ledger: Ledger, now: float) -> tuple[int, float, float]:
        worker = self._workers.get(tp)
        held = None if worker is None else worker.steps.held_since
        return ledger.records, now - ledger.since, 0.0 if held is None else now - held

    def _unique_workers(self) -> list[Worker]:
        return list({id(worker): worker for worker in self._workers.values()}.values())

    def _stalled(self) -> str:
        limit, now = self.settings.engine.stall_after, time.monotonic()
        for tp, ledger in self.intake.ledgers.items():
            worker = self._workers.get(tp)
            entered = ledger.oldest_unsettled()
            if worker is None or entered is None:
                continue
            if now - max(entered, worker.steps.progress) > limit:
                return (
                    f"{tp.topic}[{tp.partition}] has had unsettled records for {now - entered:.0f} s without progress or retry"
                )
        if (silent := self._silence()) > limit:
            return f"Kafka has not answered for {silent:.0f} s"
        stuck = self.intake.stuck(limit)
        return f"{len(stuck)} partitions have records that have not been fetched for {limit:.0f} s" if stuck else ""

    def _silence(self) -> float:
        return max(self.intake.silence(), self.outbox.unconfirmed()[0]) if self._assigned_once else 0.0

    def _watch_the_loop(self) -> None:
        # A call that blocks the event loop also blocks every task that could notice: only a thread can.
        limit = max(self.settings.engine.stall_after, 30.0)
        while not self.should_stop:
            time.sleep(1)
            if self.stage == "running" and time.monotonic() - self._beat > limit:
                log.critical("%s: the event loop has been blocked for more than %.0f s; the process ends", self.job.name, limit)
                os._exit(70)  # sysexits.h EX_SOFTWARE; nothing was settled that was not done

    def unready(self) -> str:
        """Return why the lane is not ready, in words; empty when it is."""
        if self.failure is not None:
            return f"failed: {type(self.failure).__name__}"
        if self.stage != "running":
            waits = self._starting.held_since is not None
            return f"{self.stage}: {self._starting.held_reason}" if waits else self.stage
        if silence := self._cut_off():
            return silence
        held = [worker.steps.held_reason for worker in self._unique_workers() if worker.steps.held_since is not None]
        if held:
            return f"{len(held)} of {len(self._unique_workers())} partitions held: {held[0]}"
        if self._incomplete:
            return (
                f"{self._incomplete} partitions are not worked on, for want of others that go with them or beyond those in use"
            )
        return ""

    def _cut_off(self) -> str:
        after, intake = self.settings.engine.silence_after, self.intake
        if gone := self.outbox.missing():
            return f"{', '.join(sorted(gone)[:_NAMED])} not there any more: nothing is written until `vigil topics create` makes it"
        if (seconds := intake.silence()) > after:
            some = f" on {len(deaf)} of {len(intake.ledgers)} partitions" if (deaf := intake.deaf(after)) else ""
            return f"Kafka has not answered for {seconds:.0f} s{some}: nothing that comes is seen"
        seconds, places = self.outbox.unconfirmed(after)
        names = ", ".join(sorted(f"{tp.topic}[{tp.partition}]" for tp in places)[:_NAMED])
        return f"Kafka has not confirmed a write for {seconds:.0f} s: {names}" if places else ""


def refuse_topic_agents(app: Any) -> None:
    """Refuse an agent that reads a topic through Faust: it would be acknowledged whatever becomes of its events."""
    for name, agent in app.agents.items():
        if hasattr(agent.channel, "get_topic_name") and isinstance(agent.channel, faust.topics.Topic):
            raise Fatal(f"agent {name} reads topic {agent.channel} through Faust", hint="lanes read through the intake only")


def new_app(job_name: str, settings: Settings) -> LaneApp:
    """Return the Faust app of a lane. Its own logging, tables and topics are not used."""
    return LaneApp(
        f"vigil.{job_name}",
        **faust_config(settings.kafka),
        store="memory://",
        datadir=str(Path(tempfile.gettempdir()) / "vigil-faust"),  # Faust makes the folder; nothing is ever in it
        web_bind=settings.worker.health_host,  # what Faust listens on; `web_host` is only what it calls itself
        web_host=settings.worker.health_host,
        web_port=settings.worker.health_port or 6066,
        web_enabled=settings.worker.health_port > 0,
        topic_disable_leader=True,
        worker_redirect_stdouts=False,
    )


MakeJob = Callable[[Settings, Outbox, LaneMetrics], Job]
