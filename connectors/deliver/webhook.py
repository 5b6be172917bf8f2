"""Webhooks: one signed POST per notice (`signing` has the headers), confirmed by any 2xx.

The body, JSON, has `type`, `timestamp` and `data` as Standard Webhooks has them:

    vigil.alert         data: the AlertEvent as on clinical.alerts (infra/schemas), and `delivery`
    vigil.test          the same, about nobody: `vigil deliver test NAME`
    vigil.heartbeat     sent regularly while Vigil is alive: when it stays away, Vigil or the way is down
    vigil.silence       the lane that raises alerts is not heard of: nobody is watched
    vigil.silence-over  it is heard of again

`delivery`: title (to show), age_seconds, late, passed_over (ids of earlier steps of this alert that this one replaces), instead_of;
with `identify`, where they are known, in the hospital's own numbers: identifiers and visit (authority, value, kind; null: unknown).
"""

import asyncio
import ssl
from typing import Any

import httpx
import orjson

from connectors.deliver.acknowledgement import judge_http
from connectors.deliver.errors import Unavailable
from connectors.deliver.notice import Notice
from connectors.deliver.person import Number
from connectors.deliver.settings import WebhookSettings
from connectors.deliver.signing import sign
from models.errors import Permanent


def body_of(notice: Notice) -> bytes:
    """Return the body of a notice."""
    data: dict[str, Any] = notice.alert.model_dump(mode="json") if notice.alert else {}
    if notice.alert:
        data["delivery"] = {
            "title": notice.title,
            "age_seconds": round(notice.age),
            "late": notice.late,
            "passed_over": notice.passed_over,
            "instead_of": notice.instead_of,
        }
        if notice.person:
            visit = notice.person.visit
            data["delivery"]["identifiers"] = [_number(one) for one in notice.person.numbers]
            data["delivery"]["visit"] = _number(visit) if visit else None
    elif notice.kind != "heartbeat":
        data = {"title": notice.title, "since": notice.since, "partitions": notice.partitions}
    return orjson.dumps({"type": f"vigil.{notice.kind}", "timestamp": notice.at, "data": data})


def _number(number: Number) -> dict[str, str]:
    return {"authority": number.authority, "value": number.value, "kind": number.kind}


def http_client(timeout: float, ca_file: Any = None, auth: httpx.Auth | None = None) -> httpx.AsyncClient:
    """Return a client without redirects and proxy variables: alerts go where the settings say. Raises `Permanent`."""
    try:
        verify = ssl.create_default_context(cafile=str(ca_file)) if ca_file else True
    except (OSError, ssl.SSLError) as error:
        raise Permanent(f"{ca_file} is no PEM file of authorities") from error
    limits = httpx.Limits(max_connections=64, max_keepalive_connections=16)
    return httpx.AsyncClient(auth=auth, verify=verify, timeout=timeout, limits=limits, follow_redirects=False, trust_env=False)


class WebhookReceiver:
    """One webhook."""

    def __init__(self, settings: WebhookSettings) -> None:
        self._settings = settings
        self._keys = settings.keys
        self._client = http_client(settings.timeout, settings.ca_file)

    async def send(self, notice: Notice) -> None:
        """Post it. Raises `Unavailable` or `Refused`."""
        body = body_of(notice)
        headers = {"content-type": "application/json", "user-agent": "vigil"}
        headers |= sign(self._keys, notice.id, int(notice.at.timestamp()), body)
        await exchange(self._client, "POST", self._settings.url, body, headers, notice, self._settings.timeout)

    async def close(self) -> None:
        """Close the connections."""
        await self._client.aclose()


async def exchange(
    client: httpx.AsyncClient,
    method: str,
    url: str,
    body: bytes,
    headers: dict[str, str],
    notice: Notice,
    timeout: float,
) -> None:
    """Send one request and judge its answer by its status; the answer's body is not read further than a little.

    `timeout` holds for all of it: httpx's own start anew with every byte, and a receiver that drips would never end.
    """
    try:
        async with asyncio.timeout(timeout), client.stream(method, url, content=body, headers=headers) as answer:
            judge_http(answer.status_code, answer.headers, notice.at)
    except TimeoutError:
        raise Unavailable(f"no answer within {timeout:g} s") from None
    except (httpx.HTTPError, OSError) as error:
        raise Unavailable(f"no answer ({type(error).__name__})") from None
