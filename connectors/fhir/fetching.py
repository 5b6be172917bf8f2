"""Fetching what notifications only announce, for the peers that have `fetch`: one puller each, with a bookmark of its own."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import datetime, timedelta
from hashlib import sha256
from pathlib import Path

from connectors.fhir.bookmarks import Bookmark
from connectors.fhir.client import checked_base, client
from connectors.fhir.publishing import Publishing
from connectors.fhir.pull import Puller
from connectors.fhir.settings import FhirSettings
from connectors.fhir.subscriptions import Fetcher


class OneAtATime:
    """A peer's fetcher, one request after the other: two notifications at once would fetch the same pages twice."""

    def __init__(self, fetcher: Fetcher) -> None:
        self._fetcher = fetcher
        self._lock = asyncio.Lock()

    async def latest(self, peer: str) -> None:
        """As `Fetcher.latest`."""
        async with self._lock:
            await self._fetcher.latest(peer)

    async def missed(self, peer: str, subscription: str, first: int, last: int) -> None:
        """As `Fetcher.missed`."""
        async with self._lock:
            await self._fetcher.missed(peer, subscription, first, last)

    async def resources(self, peer: str, references: tuple[str, ...]) -> None:
        """As `Fetcher.resources`."""
        async with self._lock:
            await self._fetcher.resources(peer, references)

    def noted(self, subscription: str) -> int | None:
        """As `Fetcher.noted`."""
        return self._fetcher.noted(subscription)

    def note(self, subscription: str, number: int) -> None:
        """As `Fetcher.note`."""
        self._fetcher.note(subscription, number)


@asynccontextmanager
async def fetchers(
    settings: FhirSettings, publishing: Publishing, now: Callable[[], datetime]
) -> AsyncIterator[Mapping[str, Fetcher]]:
    """Open a fetcher for each peer that has `fetch`. Raises `Permanent` for a base or a file that cannot be used."""
    async with AsyncExitStack() as stack:
        found: dict[str, Fetcher] = {}
        for name, peer in settings.peers.items():
            if peer.fetch:
                base = checked_base(peer.base)
                http = await stack.enter_async_context(client(base, peer, now))
                overlap = timedelta(seconds=peer.fetch_overlap)
                mark = Bookmark(_mark(settings.bookmarks, base), base)
                found[name] = OneAtATime(Puller(base, name, http, publishing, now=now, bookmark=mark, overlap=overlap))
        yield found


def _mark(folder: Path | None, base: str) -> Path | None:
    if folder is None:
        return None
    folder.mkdir(parents=True, exist_ok=True)
    return folder / f"notices-{sha256(base.encode()).hexdigest()[:8]}.bookmark"
