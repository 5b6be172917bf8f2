"""Content that a resource names by URL: a Binary on the very server that the resource comes from, asked for as pages are.

| the URL | |
|---|---|
| `Binary/ID` (a version of it too), relative, or absolute below the server's base | fetched from there, with our credentials |
| anything else: another host, path or port, a query | never asked for: no resource decides where we send anything |

| the server | |
|---|---|
| gives it: as a FHIR Binary (JSON, base64), or raw | used |
| is busy or away (408, 425, 429, 5xx, no answer, not whole within `_WHOLE`) | asked again, with `Retry-After` or back-off |
| does not take our token (401) | `Permanent`, as for a page |
| does not give it (403, 404, 410, ...; a redirect: none is followed), or more than `largest` bytes | the reason in words |
"""

import asyncio
import logging
import random
import re
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from typing import Any, Final
from urllib.parse import SplitResult, urlsplit

import httpx

from connectors.fhir.client import BUSY, LONGEST_WAIT, failure, retry_after
from connectors.fhir.mapping.reading import Fetched
from models.errors import Poison

log = logging.getLogger(__name__)

_ID: Final = r"(?!\.{1,2}(?:/|$))[A-Za-z0-9._-]{1,128}"  # R4 datatypes.html#id has 64, some servers more; never a step up
_BINARY: Final = re.compile(rf"Binary/{_ID}(?:/_history/{_ID})?")
# Asked for FHIR, a server gives the resource (R4 binary.html#rest); one that knows better gives the content as it is.
_HEADERS: Final = {"Accept": "application/fhir+json, */*;q=0.5"}
_WHOLE: Final = 120.0  # seconds in which one content must be whole
_AT_ONCE: Final = 4  # requests to one server
_TURNS: Final = 4  # bodies whose contents are held at once
# Senders that wait for that: one more is told to come again, so that others find room at the endpoint.
_WAITING: Final = 16
_ALTOGETHER: Final = 4  # times `largest`: contents of one body
_PORTS: Final = {"http": 80, "https": 443}


class Contents:
    """Fetches what the resources of one server name by URL."""

    def __init__(
        self,
        base: str,
        peer: str,
        client: httpx.AsyncClient,
        *,
        largest: int,
        sleep: Callable[[float], Any] = asyncio.sleep,
    ) -> None:
        """`base` is the server's base URL, `client` brings what it needs to be let in; `largest`: bytes of one content."""
        self._base = base.rstrip("/")
        self._peer = peer
        self._client = client
        self._largest = largest
        self._sleep = sleep
        self._turn = asyncio.Semaphore(_TURNS)
        self._waiting = 0

    @asynccontextmanager
    async def of(self, urls: Iterable[str], seconds: float | None) -> AsyncIterator[Mapping[str, Fetched]]:
        """Give what is to be had of some URLs, by URL; others than this server's are left out.

        Raises `TimeoutError` where that took more than `seconds` (None: as long as it takes), or too many wait for it already;
        `Permanent` where the server does not let us in, `Poison` where they are too large together.
        """
        waiting = [(url, place) for url in sorted(urls) if (place := self.place_of(url))]
        if not waiting:
            yield {}
            return
        if seconds is not None and self._waiting >= _WAITING:
            raise TimeoutError
        self._waiting += 1
        try:
            async with asyncio.timeout(seconds) as limit, self._turn:
                found = await self._fetch(waiting)
                limit.reschedule(None)
                yield found
        finally:
            self._waiting -= 1

    def place_of(self, url: str) -> str | None:
        """Return where on this server the Binary is that a URL names; None for any other URL."""
        rest = url
        if ":" in url or url.startswith("/"):
            try:
                own, given = urlsplit(self._base), urlsplit(url)
                same = _origin(own) == _origin(given) and not (given.query or given.fragment or "@" in given.netloc)
            except ValueError:
                return None
            if not same or not given.path.startswith(f"{own.path}/"):
                return None
            rest = given.path.removeprefix(f"{own.path}/")
        return f"{self._base}/{rest}" if _BINARY.fullmatch(rest) else None

    async def _fetch(self, waiting: list[tuple[str, str]]) -> dict[str, Fetched]:
        found: dict[str, Fetched] = {}

        async def work() -> None:
            while waiting:
                url, place = waiting.pop()
                found[url] = await self._content(place)
                if sum(len(one[0]) for one in found.values() if isinstance(one, tuple)) > _ALTOGETHER * self._largest:
                    raise Poison("the contents that it names are too large together")

        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(min(_AT_ONCE, len(waiting))):
                    group.create_task(work())
        except ExceptionGroup as group:
            raise group.exceptions[0] from None
        return found

    async def _content(self, place: str) -> Fetched:
        """Ask until the server answers with something else than "busy"."""
        wait = 0.5
        while True:
            pause = wait
            try:
                async with asyncio.timeout(_WHOLE), self._client.stream("GET", place, headers=_HEADERS) as answer:
                    if answer.status_code not in BUSY:
                        return await self._read(answer)
                    pause, words = retry_after(answer, wait), str(answer.status_code)
            except (httpx.TransportError, TimeoutError) as error:
                words = type(error).__name__
            except httpx.DecodingError:
                return "content elsewhere (url) that is not compressed as its server says"
            log.warning("FHIR: content on %s is not to be had now (%s), asking again in %.1f s", self._peer, words, pause)
            await self._sleep(pause * random.uniform(0.75, 1.25))
            wait = min(2 * wait, LONGEST_WAIT)

    async def _read(self, answer: httpx.Response) -> Fetched:
        if answer.status_code == httpx.codes.UNAUTHORIZED:
            raise failure(answer)
        if answer.status_code != httpx.codes.OK:
            return f"content elsewhere (url) that its server does not give ({answer.status_code})"
        data = bytearray()
        async for chunk in answer.aiter_bytes():
            data += chunk
            if len(data) > self._largest:
                return f"content elsewhere (url) that is longer than {self._largest} bytes"
        return bytes(data), answer.headers.get("content-type", "")


def _origin(parts: SplitResult) -> tuple[str, str | None, int | None]:
    return parts.scheme, parts.hostname, parts.port or _PORTS.get(parts.scheme)
