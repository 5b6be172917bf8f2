"""Fetches from a FHIR server what it does not push: pages by `_lastUpdated`, Bulk Data exports, missed notifications.

Everything goes through the same mapping as what is pushed, and a `Bookmark` moves on only after Kafka has confirmed: a stop
repeats at most the last page, under the same ids. Content that resources name by URL is fetched with them (`contents`). What the
mapping refuses is a dead letter by then: nobody will send it again. A server that is busy or down (408, 429, 5xx, no answer) is
asked again, with `Retry-After` or back-off, for as long as it takes; one that refuses (401, 403, 404, ...) ends the pull with its
reason.
"""

import asyncio
import logging
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final, TypeVar
from urllib.parse import urljoin, urlsplit

import httpx
import orjson

from connectors.fhir.bookmarks import Bookmark
from connectors.fhir.bundles import announced, entries_of
from connectors.fhir.capability import SUPPORTED
from connectors.fhir.client import BUSY, LONGEST_WAIT, failure, place, retry_after
from connectors.fhir.contents import Contents
from connectors.fhir.handling import Request
from connectors.fhir.mapping.reading import objects, text
from connectors.fhir.publishing import Publishing
from connectors.fhir.structure import Json, kind_of
from connectors.fhir.subscriptions import status_of
from models.errors import Permanent, Transient

log = logging.getLogger(__name__)

Taken = TypeVar("Taken")
ORDER: Final = ("Patient", "Encounter", "Observation", "DiagnosticReport", "DocumentReference", "Media", "Communication")
PAGE: Final = 200  # resources of one page, and of one publish ...
_FEW: Final = 20  # ... of types whose content may lie behind URLs: it is fetched, and held in memory, for one publish
_BY_URL: Final = frozenset({"DiagnosticReport", "DocumentReference", "Media", "Communication"})
OVERLAP: Final = timedelta(minutes=5)  # a server may show a resource that long after its stamp; repeats have the same ids
_TYPE: Final = "application/fhir+json"


@dataclass(frozen=True, slots=True)
class Pulled:
    """How far a pull is."""

    pages: int = 0
    resources: int = 0
    events: int = 0
    refused: int = 0  # resources that were not accepted; each is logged with its reason
    kept: int = 0  # of these: dead letters (the others are not for Vigil, by the setting `not_for_us`)
    kind: str = ""
    newest: str = ""  # lastUpdated


class Puller:
    """Fetches from one server, as one peer. It is a `subscriptions.Fetcher` too, for notifications that only announce."""

    def __init__(
        self,
        base: str,
        peer: str,
        client: httpx.AsyncClient,
        publishing: Publishing,
        *,
        now: Callable[[], datetime],
        bookmark: Bookmark | None = None,
        overlap: timedelta = OVERLAP,
        sleep: Callable[[float], Any] = asyncio.sleep,
        progress: Callable[[Pulled], None] = lambda pulled: None,
    ) -> None:
        """`base` is the server's base URL, `client` brings what it needs to be let in (token, certificates, time-outs).

        `overlap`: how far before its bookmark a pull begins.
        """
        self.base = base.rstrip("/")
        self.peer = peer
        self.done = Pulled()
        self._client = client
        self._publishing = publishing
        self._now = now
        self._bookmark = bookmark or Bookmark(None)
        self._overlap = overlap
        self._sleep = sleep
        self._progress = progress
        self._served: tuple[str, ...] = ()
        publishing.contents[peer] = Contents(
            self.base, peer, client, largest=publishing.mapper.settings.largest_body, sleep=sleep
        )

    async def check(self, *, searched: bool = True) -> tuple[str, ...]:
        """Return which types of `ORDER` the server has (`searched`: can be searched), by its CapabilityStatement.

        Raises `Permanent` when nothing answers, when what does is no FHIR R4 server, and when it has nothing for us.
        """
        try:
            answer = await self._client.get(f"{self.base}/metadata", headers={"Accept": _TYPE})
        except httpx.TransportError as error:
            hint = "is the base URL right, and the server up? Then the same command goes on where it ended"
            raise Permanent(f"nothing answers at {self.base}: {type(error).__name__} {error}", hint=hint) from error
        if answer.status_code in BUSY:
            return ORDER  # it is there; the pull waits for it
        statement = _json(answer)
        if kind_of(statement) != "CapabilityStatement":
            raise Permanent(f"{self.base} is no FHIR server: no CapabilityStatement at /metadata")
        if not (version := text(statement.get("fhirVersion")) or "4").startswith("4"):
            raise Permanent(
                f"{self.base} speaks FHIR {version}", hint="R4 is needed; many servers have it under another base URL"
            )
        listed = [one for rest in objects(statement, "rest") for one in objects(rest, "resource")]
        had = {text(one.get("type")) for one in listed if not searched or _is_searched(one)}
        if listed and had.isdisjoint(ORDER):
            raise Permanent(f"{self.base} has nothing to fetch", hint=f"by its own word; wanted are {', '.join(ORDER)}")
        return tuple(kind for kind in ORDER if kind in had or not listed)

    # -------------------------------------------------------------------------------------------------- by `_lastUpdated`

    async def pull(self, since: datetime | None = None, kinds: tuple[str, ...] = ORDER) -> Pulled:
        """Fetch all that changed since the bookmark, else `since`, else ever; one type after the other, oldest first."""
        for kind in kinds:
            mark = self._bookmark.get(kind)
            begin = min(datetime.fromisoformat(mark), self._now()) - self._overlap if mark else since
            first = f"{self.base}/{kind}?_sort=_lastUpdated&_count={PAGE}"
            if begin is not None:
                first += f"&_lastUpdated=ge{begin.astimezone(UTC).isoformat(timespec='milliseconds').replace('+00:00', 'Z')}"
            await self._pages(kind, first)
        return self.done

    async def _pages(self, kind: str, first: str) -> None:
        url, newest, sorted_so_far = first, "", True
        while url:
            page = await self._get(url)
            found = _resources(page)
            for begin in range(0, len(found), some := _at_once(kind)):
                part = found[begin : begin + some]
                stamps = [_updated(one) for one in part]
                await self._take([one for one in part if kind_of(one) == kind], kind)
                # a server that does not sort is trusted only at its end: else a stop half-way would skip what is older
                sorted_so_far = sorted_so_far and [newest, *stamps] == sorted([newest, *stamps])
                newest = max([newest, *stamps])
                if newest and sorted_so_far:
                    self._go_on_from(kind, newest)
            url = self._next(page)
            if newest and not url:
                self._go_on_from(kind, newest)

    def _go_on_from(self, kind: str, newest: str) -> None:
        """Set the bookmark, never to a time to come: what is stamped meanwhile would be passed over."""
        now = self._now().astimezone(UTC)
        ahead = datetime.fromisoformat(newest) - now
        if ahead > self._overlap:
            log.warning(
                "FHIR: %s stamps a %s %.0f s ahead of this host's clock: it is fetched again each time",
                self.peer, kind, ahead.total_seconds(),
            )  # fmt: skip
        self._bookmark.set(kind, now.isoformat(timespec="milliseconds") if ahead > timedelta() else newest)

    async def follow(self, every: float, since: datetime | None = None, kinds: tuple[str, ...] = ORDER) -> None:
        """Pull for ever, every so many seconds: what a plain R4 subscription needs beside it, since it may lose notices."""
        while True:
            await self.pull(since, kinds)
            await self._sleep(every)

    # ----------------------------------------------------------------------------------------------------------- bulk data

    async def export(self, since: datetime | None = None, kinds: tuple[str, ...] = ORDER, group: str = "") -> Pulled:
        """Fetch a Bulk Data export (https://hl7.org/fhir/uv/bulkdata/): ask, wait, read the NDJSON files.

        Resumable by file and line. Raises `Permanent` when the server refuses or the export failed there.
        """
        status = self._bookmark.get("export")
        if not status:
            status = await self._kick_off(since, kinds, group)
            self._bookmark.set("export", status)
        manifest = await self._until_ready(status)
        files = [one for one in objects(manifest, "output") if text(one.get("type")) in SUPPORTED]
        for number, one in enumerate(sorted(files, key=lambda each: _rank(text(each.get("type"))))):
            # by its number: some files differ only in the query, where others have a signature that changes
            name = f"output {number} {urlsplit(text(one.get('url'))).path}"
            await self.ndjson_url(text(one.get("url")), name, needs_token=manifest.get("requiresAccessToken") is not False)
        for one in objects(manifest, "error"):
            log.warning("FHIR: the export of %s has a file of errors (%s)", self.peer, text(one.get("type")))
        self._bookmark.end_export()
        return self.done

    async def ndjson_url(self, url: str, name: str, *, needs_token: bool = True) -> Pulled:
        """Fetch one NDJSON file, from the line where it was left; `name` is its own in the bookmark."""
        wait = 0.5
        headers = {"Accept": "application/fhir+ndjson"} | ({} if needs_token else {"Authorization": ""})
        while True:
            try:
                async with self._client.stream("GET", url, headers=headers) as answer:
                    if answer.status_code == httpx.codes.OK:
                        await self._lines(_lines_of(answer.aiter_bytes()), name, int(self._bookmark.get(name) or 0))
                        return self.done
                    if answer.status_code not in BUSY:
                        raise failure(answer)
            except httpx.TransportError as error:
                log.warning("FHIR: a file of %s broke off (%s), going on where it was", self.peer, type(error).__name__)
            await self._sleep(wait)
            wait = min(2 * wait, LONGEST_WAIT)

    async def ndjson_file(self, path: Path) -> Pulled:
        """Read one NDJSON file from disk, from the line where it was left."""

        async def lines() -> AsyncIterator[bytes]:
            with path.open("rb") as file:
                for line in file:
                    yield line

        name = f"file {path.name}"
        await self._lines(lines(), name, int(self._bookmark.get(name) or 0))
        return self.done

    async def _lines(self, lines: AsyncIterator[bytes], name: str, skip: int) -> None:
        count, waiting = 0, list[Json]()
        async for line in lines:
            count += 1
            if count <= skip or not line.strip():
                continue
            try:
                found = orjson.loads(line)
            except orjson.JSONDecodeError:
                found = None
            if isinstance(found, dict):
                waiting.append(found)
            else:
                await self._keep(line.strip(), f"line {count} of an export is no JSON object")
                self.done = replace(self.done, refused=self.done.refused + 1, kept=self.done.kept + 1)
            if len(waiting) >= _at_once(kind_of(waiting[0]) if waiting else ""):
                await self._take(waiting, kind_of(waiting[0]))
                self._bookmark.set(name, count)
                waiting = []
        if waiting:
            await self._take(waiting, kind_of(waiting[0]))
        self._bookmark.set(name, count)

    async def _kick_off(self, since: datetime | None, kinds: tuple[str, ...], group: str) -> str:
        url = f"{self.base}/Group/{group}/$export" if group else f"{self.base}/$export"
        asked = {"_type": ",".join(kinds), "_outputFormat": "application/fhir+ndjson"}
        if since:
            asked["_since"] = since.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
        answer = await self._request(url, params=asked, headers={"Accept": _TYPE, "Prefer": "respond-async"})
        if answer.status_code != httpx.codes.ACCEPTED or not answer.headers.get("content-location"):
            raise failure(answer)
        return urljoin(url, answer.headers["content-location"])

    async def _until_ready(self, status: str) -> Json:
        while True:
            answer = await self._request(status, headers={"Accept": "application/json"})
            if answer.status_code == httpx.codes.ACCEPTED:
                await self._sleep(retry_after(answer, 5.0))
            elif answer.status_code == httpx.codes.OK:
                return _json(answer)
            else:
                self._bookmark.end_export()  # asked anew next time
                raise failure(answer)

    # -------------------------------------------------------------------------------------------- what notifications announce

    async def latest(self, peer: str) -> None:
        """Fetch what has changed since the last time; from ten minutes ago when nothing is known."""
        if not self._served:  # asking for a type that a server does not have ends in a refusal
            self._served = await self.check()
        await self.pull(self._now() - timedelta(minutes=10), self._served)

    async def missed(self, peer: str, subscription: str, first: int, last: int) -> None:
        """Fetch events by number (`Subscription/$events`); a server without that operation is asked for what has changed."""
        url = f"{self._absolute(subscription)}/$events"
        asked = {"eventsSinceNumber": str(first), "eventsUntilNumber": str(last), "content": "full-resource"}
        answer = await self._request(url, params=asked, headers={"Accept": _TYPE})
        if answer.status_code != httpx.codes.OK:
            log.warning("FHIR: %s has no $events (%d), fetching what has changed", self.peer, answer.status_code)
            await self.latest(peer)
            return
        outcome = await self._publishing.take(answer.content, self.peer, Request("hook"), unhurried=True)
        named = outcome.announced
        if outcome.code != httpx.codes.OK:  # refused whole for one of them: nobody sends the others again either
            page = _json(answer)
            await self._take([one for one in _resources(page) if kind_of(one) in SUPPORTED], "")
            named = announced(status, [*entries_of(page)][1:]) if (status := status_of(page)) else ()
        if named:
            await self.resources(peer, named)

    def noted(self, subscription: str) -> int | None:
        """Return the number of a subscription that was confirmed last, None where none is kept."""
        known = self._bookmark.get(f"notified {subscription}")
        return known if isinstance(known, int) else None

    def note(self, subscription: str, number: int) -> None:
        """Keep the number of a subscription that was confirmed last."""
        self._bookmark.set(f"notified {subscription}", number)

    async def resources(self, peer: str, references: tuple[str, ...]) -> None:
        """Fetch resources one by one; a reference to another server is kept as a dead letter, and does not stop the others."""
        for reference in references:
            try:
                url = self._absolute(reference)
            except Permanent as error:
                log.warning("FHIR: %s announced what is not its own: %s", self.peer, error.advice)
                await self._keep(reference.encode(), str(error))
                continue
            answer = await self._request(url, headers={"Accept": _TYPE})
            if answer.status_code == httpx.codes.GONE:
                await self._gone(reference)
                continue
            if answer.status_code == httpx.codes.NOT_FOUND:
                log.warning("FHIR: %s announced a resource that is not there", self.peer)
                continue
            page = _json(answer)
            await self._take([page], kind_of(page))

    async def _gone(self, reference: str) -> None:
        """Take back what a resource said that its server has deleted (410: R4 http.html#delete)."""
        kind, name = reference.split("/_history/")[0].rstrip("/").split("/")[-2:]
        asked = Request("hook", kind, name, deletes=True)
        outcome = await self._confirmed(lambda: self._publishing.take(b"", self.peer, asked, unhurried=True))
        log.warning("FHIR: %s announced a resource that is gone: %s", self.peer, outcome.reason or "taken back")

    # ------------------------------------------------------------------------------------------------------------- details

    async def _take(self, resources: list[Json], kind: str) -> None:
        """Publish resources together; what cannot be taken becomes a dead letter, and does not stop the others.

        Returns once all of it is confirmed, the letters too: then the bookmark may move on.
        """
        if not resources:
            return
        events, refused, kept = await self._published(resources)
        newest = max((_updated(one) for one in resources), default="")
        self.done = replace(
            self.done,
            pages=self.done.pages + 1,
            resources=self.done.resources + len(resources),
            events=self.done.events + events,
            refused=self.done.refused + refused,
            kept=self.done.kept + kept,
            kind=kind,
            newest=newest or self.done.newest,
        )
        self._progress(self.done)

    async def _published(self, resources: list[Json]) -> tuple[int, int, int]:
        """Publish; return how many events were made, resources refused, and of these kept."""
        # a batch stands entry by entry, so one bad resource of a page leaves the others alone
        entries = [{"resource": one, "request": _as_update(one)} for one in resources]
        body = orjson.dumps({"resourceType": "Bundle", "type": "batch", "entry": entries})
        outcome = await self._confirmed(lambda: self._publishing.take(body, self.peer, Request("bundle"), unhurried=True))
        if outcome.code != httpx.codes.OK and len(resources) > 1:  # one that no record holds: it alone is refused, not the page
            half = len(resources) // 2
            first, second = await self._published(resources[:half]), await self._published(resources[half:])
            return first[0] + second[0], first[1] + second[1], first[2] + second[2]
        refusals = outcome.refusals if outcome.code == httpx.codes.OK else ((0, outcome.reason),)
        for n, reason in refusals:
            await self._keep(orjson.dumps(resources[n]), reason)
        answered = (text(next(objects(one, "response"), {}).get("status")) for one in objects(outcome.answer.body, "entry"))
        refused = sum(not status.startswith("2") for status in answered) if outcome.code == httpx.codes.OK else 1
        if refused > len(refusals):
            log.warning("FHIR: not taken from %s: %s", self.peer, outcome.reason)
        return len(outcome.events), refused, len(refusals)

    async def _keep(self, original: bytes, reason: str) -> None:
        await self._confirmed(lambda: self._publishing.keep(original, self.peer, reason))
        log.warning("FHIR: not taken from %s, kept as a dead letter: %s", self.peer, reason)

    async def _confirmed(self, publish: Callable[[], Awaitable[Taken]]) -> Taken:
        wait = 0.5
        while True:
            try:
                return await publish()
            except Transient as error:
                log.warning("FHIR: a page of %s is not confirmed (%s), sending it again", self.peer, error)
                await self._sleep(wait * random.uniform(0.5, 1))
                wait = min(2 * wait, LONGEST_WAIT)

    async def _get(self, url: str) -> Json:
        return _json(await self._request(url, headers={"Accept": _TYPE}))

    async def _request(self, url: str, **more: Any) -> httpx.Response:
        """Ask until the server answers with something else than "busy"."""
        wait = 0.5
        while True:
            try:
                answer = await self._client.get(url, **more)
                if answer.status_code not in BUSY:
                    return answer
                pause, words = retry_after(answer, wait), str(answer.status_code)
            except httpx.TransportError as error:
                pause, words = wait, type(error).__name__
            log.warning("FHIR: %s is busy or away (%s), asking again in %.1f s", self.peer, words, pause)
            await self._sleep(pause * random.uniform(0.75, 1.25))
            wait = min(2 * wait, LONGEST_WAIT)

    def _next(self, page: Json) -> str:
        link = next((text(one.get("url")) for one in objects(page, "link") if one.get("relation") == "next"), "")
        if not link:
            return ""
        url = urljoin(self.base + "/", link)
        if urlsplit(url)[:2] != urlsplit(self.base)[:2]:
            raise Permanent(f"{self.base} pages on to another host", hint="its own base URL is wrong, or something is between")
        return url

    def _absolute(self, reference: str) -> str:
        """Return a reference as a URL of this server; the credentials go nowhere else."""
        if "://" not in reference:
            return f"{self.base}/{reference.lstrip('/')}"
        if urlsplit(reference)[:2] != urlsplit(self.base)[:2]:
            raise Permanent("a notification refers to another host")
        return reference


async def _lines_of(chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Yield lines as NDJSON has them, ended by LF alone: `httpx` ends them at U+2028 too, which JSON may have in a string."""
    rest = b""
    async for chunk in chunks:
        *whole, rest = (rest + chunk).split(b"\n")
        for line in whole:
            yield line
    if rest:
        yield rest


def _json(answer: httpx.Response) -> Json:
    """Return the body of an answer. Raises `Permanent` for another status than 200, and for what is no JSON object."""
    if answer.status_code != httpx.codes.OK:
        raise failure(answer)
    try:
        found = orjson.loads(answer.content)
    except orjson.JSONDecodeError:
        found = None
    if not isinstance(found, dict):
        raise Permanent(f"{place(str(answer.url))} answered with something that is no JSON object")
    return found


def _at_once(kind: str) -> int:
    """Return how many resources of a type are published together."""
    return _FEW if kind in _BY_URL else PAGE


def _as_update(resource: Json) -> Json:
    """Return the request that a fetched resource stands for: its server vouches for its id, so it is the next version of that."""
    kind, own = kind_of(resource) or "x", text(resource.get("id"))
    return {"method": "PUT", "url": f"{kind}/{own}"} if own else {"method": "POST", "url": kind}


def _resources(page: Json) -> list[Json]:
    return [one for entry in objects(page, "entry") for one in objects(entry, "resource")]


def _updated(resource: Json) -> str:
    """Return lastUpdated in UTC, comparable as text; empty where it is absent or no time."""
    meta = resource.get("meta")
    try:
        return (
            datetime.fromisoformat(text(meta.get("lastUpdated"))).astimezone(UTC).isoformat() if isinstance(meta, dict) else ""
        )
    except ValueError:
        return ""


def _is_searched(resource: Json) -> bool:
    """Whether a type can be searched; where a server does not list what it does with one, it is believed to."""
    codes = {text(one.get("code")) for one in objects(resource, "interaction")}
    return not codes or "search-type" in codes


def _rank(kind: str) -> int:
    return ORDER.index(kind) if kind in ORDER else len(ORDER)
