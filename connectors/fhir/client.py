"""The HTTP client of the puller: who we are to the server that is asked, and whom we believe."""

import ssl
from collections.abc import Callable, Generator
from datetime import datetime
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import httpx

from connectors.fhir.capability import SUPPORTED
from connectors.fhir.settings import FhirPeer
from connectors.fhir.smart import BackendServices
from models.errors import Permanent

BUSY: Final = frozenset({408, 425, 429, 500, 502, 503, 504})
LONGEST_WAIT: Final = 60.0  # seconds between two tries
_TIMEOUTS = httpx.Timeout(60.0, connect=10.0)  # a page of a busy server takes its time; a host that is there answers at once


class TokenFile(httpx.Auth):
    """A bearer token, read anew at each request: whoever renews it writes the file, and a long pull goes on."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        """Add the token; an empty `Authorization` stands for a place that wants none. Raises `Permanent` without a token."""
        if request.headers.get("authorization") == "":
            del request.headers["authorization"]
        else:
            request.headers["authorization"] = f"Bearer {self._token()}"
        yield request

    def _token(self) -> str:
        try:
            token = self._path.read_text("ascii").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise Permanent(f"the token file {self._path.name} cannot be read") from error
        if not token or not token.isprintable() or " " in token:
            raise Permanent(f"the token file {self._path.name} holds no token", hint="the bearer token and nothing else")
        return token


def checked_base(base: str) -> str:
    """Return a server's base URL without the last slash. Raises `Permanent` for what is no such URL."""
    try:
        parts = urlsplit(base)
        _ = parts.port  # raises where it is no number
        whole = parts.scheme in ("http", "https") and bool(parts.hostname) and not parts.query and not parts.fragment
    except ValueError:
        whole = False
    if not whole:
        raise Permanent("that is no base URL of a FHIR server", hint="write it like https://ehr.example/fhir/r4")
    if parts.username or parts.password:
        raise Permanent("a base URL with a password in it would stand in logs", hint="put a bearer token into a file")
    return base.rstrip("/")


def client(base: str, peer: FhirPeer, now: Callable[[], datetime]) -> httpx.AsyncClient:
    """Return a client for the server at `base`, by a peer's settings `fetch_...`. `now` gives aware times. Raises `Permanent`."""
    auth: httpx.Auth | None = TokenFile(peer.fetch_token_file) if peer.fetch_token_file else None
    if peer.fetch_smart:
        auth = BackendServices(base, peer.fetch_smart, now)
    return httpx.AsyncClient(auth=auth, verify=_tls(peer), timeout=_TIMEOUTS)


def retry_after(answer: httpx.Response, otherwise: float) -> float:
    """Return the seconds that a busy server asks to wait, at most `LONGEST_WAIT`."""
    given = answer.headers.get("retry-after", "")
    return min(float(given), LONGEST_WAIT) if given.isdigit() else otherwise


def failure(answer: httpx.Response) -> Permanent:
    """Return what an answer that refuses is: the status and the place, with a hint."""
    hints = {401: "the token or certificate is not accepted", 403: "the scope does not allow it", 404: "is the base URL right?"}
    return Permanent(f"{place(str(answer.url))} answered {answer.status_code}", hint=hints.get(answer.status_code))


def place(url: str) -> str:
    """Return a URL without its query and without the id in it, which may be a record number."""
    parts = urlsplit(url)
    kept = [step for step in parts.path.split("/") if step in SUPPORTED or not any(letter.isdigit() for letter in step)]
    return f"{parts.scheme}://{parts.netloc}{'/'.join(kept)}"


def _tls(peer: FhirPeer) -> ssl.SSLContext:
    try:
        ca_file = peer.fetch_ca_file
        context = ssl.create_default_context(cafile=str(ca_file)) if ca_file else httpx.create_ssl_context()
    except (OSError, ssl.SSLError) as error:
        raise Permanent(f"{peer.fetch_ca_file} is no PEM file of authorities") from error
    if peer.fetch_certificate_file:
        try:  # a password that is wrong for any key, else OpenSSL asks the terminal for one
            context.load_cert_chain(peer.fetch_certificate_file, peer.fetch_key_file, password="")
        except (OSError, ssl.SSLError) as error:
            files = f"{peer.fetch_certificate_file} with {peer.fetch_key_file or 'itself'}"
            raise Permanent(f"{files} is no PEM certificate with its key", hint="the key must not be encrypted") from error
    return context
