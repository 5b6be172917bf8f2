"""Whether the collection that a lane writes is still there: one that was lost is not begun anew as if nothing had been in it."""

import contextlib
import logging
from collections.abc import AsyncIterator

from connectors.qdrant.settings import CollectionSpec
from connectors.qdrant.store import VectorStore
from connectors.qdrant.troubles import Missing
from streams.metrics import LaneMetrics
from streams.progress import Progress
from streams.settings import Settings

log = logging.getLogger("vigil.vectors")


class Custody:
    """Watches over one lane's collection."""

    def __init__(self, settings: Settings, metrics: LaneMetrics, lane: str, topic: str, collection: str) -> None:
        self._progress = Progress(settings)
        self._url = settings.vectors.url
        self._metrics = metrics
        self._lane = lane
        self._topic = topic
        self._collection = collection
        self._store: VectorStore | None = None
        self._said = False

    async def require(self, store: VectorStore) -> None:
        """Raise `Missing` where the collection is not there and the lane has committed before, hence written to it."""
        self._store, collection = store, CollectionSpec(self._collection, "", 0)
        lost = not await store.exists(collection) and await self._progress.began(self._lane, self._topic)
        self._metrics.collection_missing.set(lost)
        if not lost:
            self._said = False
            return
        missing = lost_collection(self._lane, self._collection, self._url)
        if not self._said:
            log.error("%s: %s", self._lane, missing.advice)
            self._said = True
        raise missing

    @contextlib.asynccontextmanager
    async def watched(self) -> AsyncIterator[None]:
        """Let a call for a collection that has gone since it was required be told as what it is."""
        try:
            yield
        except Missing:
            if self._store is not None:
                await self.require(self._store)
            raise
        self._metrics.collection_missing.set(0)


def lost_collection(lane: str, collection: str, url: str) -> Missing:
    """Return what to say of a collection that is not there although its lane wrote to it."""
    return Missing(
        f"the collection {collection} is missing, and {lane} wrote to it before: "
        f"the vector store at {url} was emptied, or is another one",
        hint=f"give the store back what it had, or `vigil replay rebuild {collection} --reason ...` makes it anew from what its "
        "topic still holds; --empty begins without what was there",
    )
