"""Rebuild: a collection of the vector store made anew from the topics, beside the one that serves, and then put in its place.

    build     what clinical.notes (or clinical.images) and the merges on clinical.patients hold, in the order in which they were
              written, through the lane's own process and store, into a new collection: `notes-20260131T080000`
    survey    compare it with the collection that serves, point by point; what the topics no longer tell is carried over
    switch    let the alias `notes`, by which lanes write and readers ask, lead to it: at once, for everybody
    catch up  apply to it what was written before the switch and is not in it yet

So search is never empty and never a mixture, and the collection that served before is kept: `back` switches to it again, once it
has what came since. Only the one before that is dropped.

Live lanes go on. Until the switch they write to the old collection; whatever they had read by then lies on the topics behind the
place where the build stopped, and is applied once more after it (`Reapplying.catch_up`). A crash in the middle: with a progress
file the same command goes on where it was. Without one the unfinished collection stays, and the next rebuild refuses to throw it
away unasked.

A store of the time before aliases has a collection of the alias's own name. Then the first switch copies it, drops it and sets the
alias; what is written between these two waits and is tried again, what is searched is refused for that moment.
"""

import asyncio
import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Final

from connectors.qdrant.settings import CollectionSpec
from connectors.qdrant.store import FIRST, VectorStore
from models.errors import Permanent
from models.registry import Registry
from processors.events import AuditEvent, PatientEvent
from processors.identity import natural_id
from streams.clock import Clock, real_clock
from streams.metrics import LaneMetrics
from streams.outbox import Outbox
from streams.reader import Reader
from streams.reapplying import LANES, TOGETHER, Reapplying, Tell, Writer
from streams.settings import Settings
from streams.staging import Building, Origins, Survey, copy, survey

_PASSES: Final = 5  # over what was written meanwhile, before the switch; the rest comes after it
_CLOCKS: Final = timedelta(minutes=10)  # by which a feed's clock may be behind ours
_STAMP: Final = "%Y%m%dT%H%M%S"
_FOR_EVER: Final = 1e9  # seconds
_LOOK: Final = 0.5  # seconds between looks at a store that builds its index


@dataclass(frozen=True, slots=True)
class Wish:
    """What is asked: which collection, why; `back`: to the collection that served before; `restart`: give up an unfinished one.

    `empty`: nothing is read, for a collection that is not there.
    """

    collection: str
    reason: str
    dry_run: bool = False
    back: bool = False
    restart: bool = False
    empty: bool = False

    def __post_init__(self) -> None:
        if self.collection not in LANES:
            raise Permanent(f"there is no collection {self.collection!r} to rebuild", hint=f"one of: {', '.join(LANES)}")
        if not self.reason.strip():
            raise Permanent("a reason is needed", hint='--reason "why", for the audit')
        if self.back and (self.dry_run or self.restart):
            raise Permanent("going back builds nothing", hint="--back without --dry-run and --restart")
        if self.empty and (self.back or self.dry_run):
            raise Permanent("an empty collection is made at once", hint="--empty without --back and --dry-run")


@dataclass(slots=True)
class Rebuilt:
    """What came of it. `records` and `merges` were applied; `failed` gave no point (dead letters, in the lane)."""

    model: str = ""
    records: int = 0
    merges: int = 0
    failed: int = 0
    points: int = 0  # in the collection that serves, at the end
    survey: Survey = field(default_factory=Survey)
    serves: str = ""  # since the switch; nothing where there was none
    before: str = ""  # what served before, and is kept


Agree = Callable[[Survey], bool]


class Rebuild:
    """One rebuild. `outbox` must be started: it is audited before anything is done."""

    def __init__(self, settings: Settings, outbox: Outbox, wish: Wish, *, user: str, clock: Clock = real_clock) -> None:
        # One model from beginning to end: whoever is promoted meanwhile.
        models = settings.models.model_copy(update={"watch_seconds": _FOR_EVER})
        self._settings = settings.model_copy(update={"models": models})
        self._outbox = outbox
        self._wish = wish
        self._user = user
        self._clock = clock
        self._store = VectorStore(settings.vectors)
        self._alias = CollectionSpec(wish.collection, "", 0)
        self.rebuilt = Rebuilt()

    async def run(
        self,
        building: Building,
        *,
        tell: Tell = lambda doing, done, total: None,
        agree: Agree = lambda found: True,
    ) -> Rebuilt:
        """Do it; `agree` is asked before the alias is switched.

        Raises `Permanent` for an unfinished rebuild that `building` does not go on with, `Transient` when broker or store are away
        at the start; what is away later is waited for.
        """
        building.require(self._wish.collection)
        lane = LANES[self._wish.collection](self._settings, LaneMetrics("rebuild"))
        await self._audit("back begun" if self._wish.back else "begun")
        try:
            if self._wish.back:
                building = await self._earlier()
            else:
                await self._make_room(building)
            lane.beside = building.staged
            await lane.open()
            assert lane.model is not None
            building.belongs_to(self._wish.collection, lane.model.digest)
            self.rebuilt.model = f"{lane.model.name}@{lane.model.version}"
            work = Reapplying(self._settings, self._outbox, self._clock, lane, self._store, building)
            how = self._go_back if self._wish.back else self._begin_empty if self._wish.empty else self._build
            await how(lane, work, building, tell, agree)
            self.rebuilt.records, self.rebuilt.merges, self.rebuilt.failed = work.records, work.merges, len(building.failed)
            return self.rebuilt
        finally:
            await lane.close()
            await self._store.close()

    # -------------------------------------------------------------------------------------------------- what lies there

    async def _family(self) -> tuple[str | None, list[str]]:
        """Return which collection serves, and those that were made for the alias, the oldest first."""
        form = re.compile(re.escape(self._alias.name) + rf"({re.escape(FIRST)}|-\d{{8}}T\d{{6}})")
        return await self._store.target(self._alias), [one for one in await self._store.names() if form.fullmatch(one)]

    async def _make_room(self, building: Building) -> None:
        serving, family = await self._family()
        newest = serving if serving in family else self._alias.name + FIRST
        unfinished = [one for one in family if one > newest]
        if self._wish.restart:
            for one in unfinished:
                await self._store.drop(_plain(one))
            building.begin()
        elif building.phase == "switched" or building.staged == serving:
            if building.staged != serving:
                raise Permanent(f"{building.file} goes on with {building.staged}, which serves no more", hint="remove the file")
            building.phase = "switched"
            return
        elif building.phase == "build" and building.staged not in family:
            raise Permanent(f"{building.file} goes on with a collection that is no more", hint="--restart begins anew")
        elif strange := [one for one in unfinished if one != building.staged]:
            raise Permanent(
                f"{strange[0]} is newer than what serves: an unfinished rebuild, or one that was gone back from",
                hint="--resume FILE goes on with an unfinished one; --restart drops it and begins anew",
            )
        if building.phase == "new":
            building.staged = self._name(family)

    def _name(self, family: list[str]) -> str:
        at, newest = self._clock().astimezone(UTC), max(family, default="")
        if f"{self._alias.name}-{at:{_STAMP}}" <= newest:  # their order is their names'
            at = _begun(newest) + timedelta(seconds=1)
        return f"{self._alias.name}-{at:{_STAMP}}"

    # ------------------------------------------------------------------------------------------------------- the rebuild

    async def _build(self, lane: Writer, work: Reapplying, building: Building, tell: Tell, agree: Agree) -> None:
        if building.phase == "build":
            begins = await work.recall()
            await _follow(work, tell)
            staged = lane.collection(_dimensions(lane))
            origins = Origins(lane.kind.topic, begins, building.ends(lane.kind.topic), building.failed, work.owners)
            serving = replace(staged, name=self._alias.name, served=True)
            found = self.rebuilt.survey = await survey(
                self._store, serving, staged, origins, lambda done, total: tell("compare", done, total)
            )
            if self._wish.dry_run or not agree(found):
                if self._wish.dry_run or building.file is None:
                    await self._store.drop(staged)
                    building.remove()
                return  # what was built is kept for the same command
            await work.settle()  # what was carried over is whose it was in the collection that serves
            await self._ready(lane, staged, tell)
            await self._switch(building)
        lane.beside = ""
        await work.catch_up(tell)
        await self._finish(building)

    async def _ready(self, lane: Writer, staged: CollectionSpec, tell: Tell) -> None:
        """Wait until the store has indexed what was built; raise `Permanent` where it is not the champion's any more."""
        while not await self._store.settled(staged):
            tell("index", 0, 0)
            await asyncio.sleep(_LOOK)
        registry = await asyncio.to_thread(Registry.load, self._settings.models.registry)
        task = lane.serving.task
        if lane.model is None or registry.entry(task, registry.stage(task).champion).digest != lane.model.digest:
            raise Permanent(
                f"another model was promoted while {staged.name} was built: searches would ask it in another language",
                hint="--restart builds with the new one",
            )

    async def _switch(self, building: Building) -> None:
        serving, family = await self._family()
        if serving == self._alias.name:  # from the time before aliases: no name can be both
            kept = _plain(self._alias.name + FIRST)
            if kept.name in family:
                await self._store.drop(kept)
            await copy(self._store, self._alias, kept)
            building.before = kept.name
        else:
            building.before = serving or ""
        await self._audit(f"switches from {building.before or 'nothing'} to {building.staged}")
        if serving == self._alias.name:
            await self._store.drop(self._alias)
        await self._store.switch(self._alias, building.staged)
        building.enter("switched")

    async def _finish(self, building: Building) -> None:
        _, family = await self._family()
        for one in family:
            if one < building.before:
                await self._store.drop(_plain(one))
        self.rebuilt.serves, self.rebuilt.before = building.staged, building.before
        self.rebuilt.points = await self._store.count(self._alias)
        building.remove()
        await self._audit(f"done: {building.staged} serves {self.rebuilt.points} points")

    async def _begin_empty(self, lane: Writer, work: Reapplying, building: Building, tell: Tell, agree: Agree) -> None:
        """Let an empty collection serve where none is: what is to come goes into it, from where the lane has committed."""
        serving, _ = await self._family()
        if serving is not None:
            await self._store.drop(_plain(building.staged))
            raise Permanent(f"{self._alias.name} is there ({serving})", hint="without --empty it is built anew beside that one")
        if not agree(self.rebuilt.survey):
            await self._store.drop(_plain(building.staged))
            return
        await self._switch(building)
        await self._finish(building)

    # ------------------------------------------------------------------------------------------------------------- back

    async def _earlier(self) -> Building:
        """Say what served before, and where the topics stood when the present collection was begun."""
        serving, family = await self._family()
        older = [one for one in family if serving in family and one < (serving or "")]
        if serving is None or not older:
            raise Permanent(
                f"no earlier collection of {self._alias.name} is kept",
                hint="a rebuild keeps the one that served before it, until the next has switched",
            )
        begun = _begun(serving) - _CLOCKS
        building = Building(None, self._alias.name, phase="build", staged=older[-1])
        topics = (LANES[self._wish.collection].kind.topic, PatientEvent.topic)
        async with Reader(self._settings.kafka) as reader:
            for topic in topics:
                name = self._settings.kafka.topic_prefix + topic
                for number in await reader.partitions(name):
                    building.move(topic, number, await reader.offset_at(name, number, begun) or 0)  # or all of it once more
        return building

    async def _go_back(self, lane: Writer, work: Reapplying, building: Building, tell: Tell, agree: Agree) -> None:
        staged = lane.collection(_dimensions(lane))
        async for point in self._store.scan(staged, vectors=False):
            made_by = point.payload.get("model_digest")
            if lane.model is not None and made_by != lane.model.digest:
                raise Permanent(
                    f"{staged.name} was made by another model than the champion ({str(made_by)[:12]})",
                    hint="roll that one back first: `vigil models rollback`",
                )
            break
        if not agree(self.rebuilt.survey):
            return
        await work.recall()
        await _follow(work, tell)
        await work.settle()
        await self._switch(building)
        lane.beside = ""
        await work.catch_up(tell)
        self.rebuilt.serves, self.rebuilt.before = building.staged, building.before
        self.rebuilt.points = await self._store.count(self._alias)
        await self._audit(f"back done: {building.staged} serves {self.rebuilt.points} points")

    # ------------------------------------------------------------------------------------------------------------ audit

    async def _audit(self, what: str) -> None:
        at = self._clock()
        counts = f": {self.rebuilt.survey.words}" if self.rebuilt.survey.built else ""
        event = AuditEvent(
            id=natural_id("rebuild", self._user, self._wish.collection, what, at.isoformat()),
            action="replay",
            agent=self._user,
            subject=f"vectors/{self._wish.collection}",
            reason=f"rebuild {what}{' (dry run)' if self._wish.dry_run else ''}{counts}; {self._wish.reason}",
            recorded_at=at,
        )
        await self._outbox.audit(event)


async def _follow(work: Reapplying, tell: Tell) -> None:
    """Apply what the topics hold, and what is written meanwhile, until little is left for the catching up."""
    for _ in range(_PASSES):
        read, _ = await work.run(tell)
        if read < TOGETHER:
            return


def _dimensions(lane: Writer) -> int:
    champion = lane.serving.champion
    assert champion is not None, "a lane is opened before it is asked"
    return champion.dimensions


def _begun(name: str) -> datetime:
    """Return when the rebuild of this collection was begun."""
    return datetime.strptime(name.rpartition("-")[2], _STAMP).replace(tzinfo=UTC)


def _plain(name: str) -> CollectionSpec:
    return CollectionSpec(name, "", 0, served=False)
