"""Being let in by SMART Backend Services: https://hl7.org/fhir/smart-app-launch/backend-services.html (SMART App Launch 2.2).

1. The server's `[base]/.well-known/smart-configuration` says where its token endpoint is, unless the settings do.
2. There we show an assertion (JWT, RFC 7523) that our private key has signed, RS384 or ES384, good for minutes and for one use. The
   server knows the public key; no secret leaves this machine.
3. What comes is a bearer token of some minutes: renewed before it ends, and where the server does not take it any more (401).
"""

import logging
from collections.abc import AsyncGenerator, Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from urllib.parse import urlsplit
from uuid import uuid4

import httpx
import orjson
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import ECKey, RSAKey

from connectors.fhir.settings import SmartClient, is_loopback
from models.errors import Permanent

log = logging.getLogger(__name__)

_ASSERTION: Final = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
_GOOD_FOR: Final = timedelta(minutes=4)  # an assertion: five at most, and the server's clock may be behind
_BEFORE: Final = timedelta(seconds=30)  # its end a token is renewed, where it lasts long enough
_UNSAID: Final = 300.0  # seconds that a token is taken to last whose server does not say it: what SMART asks for at most
_JSON: Final = {"Accept": "application/json"}
_KEYS: Final[Mapping[str, type[RSAKey] | type[ECKey]]] = {"RSA": RSAKey, "EC": ECKey}  # JWK `kty`
_NEVER: Final = datetime.min.replace(tzinfo=UTC)
_BUSY: Final = frozenset({408, 425, 429, 500, 502, 503, 504})
_ERRORS: Final = frozenset(  # RFC 6749 5.2; anything else may be anybody's words
    {"invalid_request", "invalid_client", "invalid_grant", "unauthorized_client", "unsupported_grant_type", "invalid_scope"}
)


class TokenEndpointBusy(httpx.TransportError):
    """No token now; the same request will do later."""


class BackendServices(httpx.Auth):
    """Asks for a token when one is needed, through the same client and its TLS. For asynchronous clients only."""

    def __init__(self, base: str, settings: SmartClient, now: Callable[[], datetime]) -> None:
        """`base` is the server's base URL; `now` gives aware times."""
        self._base = base
        self._settings = settings
        self._now = now
        self._endpoint = _checked(settings.token_endpoint) if settings.token_endpoint else ""
        self._algorithms: list[str] | None = None  # that the server says it takes
        self._token = ""
        self._renewed_at = _NEVER  # when the token is to be renewed

    async def async_auth_flow(self, request: httpx.Request) -> AsyncGenerator[httpx.Request, httpx.Response]:
        """Add the token, fetched first where there is none that lasts; an empty `Authorization` stands for a place that wants none.

        Raises `Permanent` where none is to be had, `TokenEndpointBusy` where none is now.
        """
        if request.headers.get("authorization") == "":
            del request.headers["authorization"]
            yield request
            return
        as_asked = {"timeout": request.extensions.get("timeout", {})}  # what is not built by the client has none
        for _ in range(2):
            if self._now() >= self._renewed_at:
                if not self._endpoint:
                    where = f"{self._base}/.well-known/smart-configuration"
                    answer = yield httpx.Request("GET", where, headers=_JSON, extensions=as_asked)
                    self._discovered(answer.status_code, await answer.aread())
                answer = yield httpx.Request("POST", self._endpoint, headers=_JSON, data=self._form(), extensions=as_asked)
                self._granted(answer.status_code, await answer.aread())
            request.headers["authorization"] = f"Bearer {self._token}"
            answer = yield request
            if answer.status_code != httpx.codes.UNAUTHORIZED:
                return
            self._renewed_at = _NEVER

    def _discovered(self, status: int, body: bytes) -> None:
        found = _object(status, body, "the SMART configuration")
        endpoint, algorithms = found.get("token_endpoint"), found.get("token_endpoint_auth_signing_alg_values_supported")
        if status != httpx.codes.OK or not isinstance(endpoint, str) or not endpoint:
            hint = "set `token_endpoint` of the peer's `fetch_smart`; or a token file, where somebody else fetches the token"
            raise Permanent(f"{self._base} does not say where its token endpoint is", hint=hint)
        self._endpoint = _checked(endpoint)
        self._algorithms = [*map(str, algorithms)] if isinstance(algorithms, list) else None

    def _form(self) -> dict[str, str]:
        return {
            "grant_type": "client_credentials",
            "scope": self._settings.scope,
            "client_assertion_type": _ASSERTION,
            "client_assertion": self._assertion(),
        }

    def _assertion(self) -> str:
        key, algorithm, name = self._key()
        if self._algorithms is not None and algorithm not in self._algorithms:
            hint = "RSA keys sign RS384, EC keys of P-384 ES384"
            raise Permanent(f"{self._base} takes no assertion signed with {algorithm}", hint=hint)
        now, who = self._now(), self._settings.client_id
        said = {
            "iss": who,
            "sub": who,
            "aud": self._endpoint,
            "iat": int(now.timestamp()),
            "exp": int((now + _GOOD_FOR).timestamp()),
            "jti": str(uuid4()),
        }
        return jwt.encode({"alg": algorithm, "kid": name, "typ": "JWT"}, said, key, algorithms=[algorithm])

    def _key(self) -> tuple[RSAKey | ECKey, str, str]:
        """Return our private key, what it signs with, and its name. Read anew each time: whoever changes it writes the file."""
        path = self._settings.key_file
        try:
            text = path.read_text("ascii").strip()
            given = orjson.loads(text) if text.startswith("{") else {}
            key = _KEYS[given["kty"]].import_key(given) if given else _from_pem(text)
        except (OSError, ValueError, TypeError, KeyError, JoseError, UnsupportedAlgorithm) as error:
            hint = "PEM or JWK, RSA or EC, not encrypted, and readable for this user"
            raise Permanent(f"the key file {path.name} cannot be read ({type(error).__name__})", hint=hint) from None
        algorithm = "RS384" if isinstance(key, RSAKey) else "ES384" if key.curve_name == "P-384" else ""
        if not algorithm or not key.is_private:
            raise Permanent(f"the key file {path.name} holds no private key that SMART signs with", hint="RSA, or EC on P-384")
        name = self._settings.key_id or str(given.get("kid") or "")
        if not name:
            raise Permanent("which key it is the server tells by its `kid`", hint="set `key_id` of the peer's `fetch_smart`")
        return key, algorithm, name

    def _granted(self, status: int, body: bytes) -> None:
        found = _object(status, body, "the token endpoint")
        token, kind, lasts = found.get("access_token"), found.get("token_type"), found.get("expires_in", _UNSAID)
        if status != httpx.codes.OK:
            said = found.get("error")
            words = f": {said}" if isinstance(said, str) and said in _ERRORS else ""
            hint = "does the server know this client_id, this key under its `kid`, and is the scope granted?"
            raise Permanent(f"the token endpoint refuses us with {status}{words}", hint=hint)
        usable = isinstance(token, str) and token.isascii() and token.isprintable() and token and " " not in token
        if not usable or str(kind).lower() != "bearer" or isinstance(lasts, bool) or not isinstance(lasts, int | float):
            raise Permanent("the token endpoint answered with something that is no bearer token")
        self._token = str(token)
        length = timedelta(seconds=min(max(lasts, 0.0), 86_400.0))
        self._renewed_at = self._now() + max(length - _BEFORE, length / 2)
        log.info("FHIR: a token of %s that lasts %d s", self._base, length.total_seconds())


def _from_pem(text: str) -> RSAKey | ECKey:
    """Return the private key in PEM. Raises `ValueError` or `TypeError` for none, one of another kind, and an encrypted one."""
    key = load_pem_private_key(text.encode(), None)
    if isinstance(key, RSAPrivateKey):
        return RSAKey.import_key(text)
    if isinstance(key, EllipticCurvePrivateKey):
        return ECKey.import_key(text)
    raise TypeError


def _object(status: int, body: bytes, what: str) -> dict[str, Any]:
    """Return the JSON object of an answer, empty for none. Raises `TokenEndpointBusy` for a status that will not last."""
    if status in _BUSY:
        raise TokenEndpointBusy(f"{what} answered {status}")
    try:
        found = orjson.loads(body)
    except orjson.JSONDecodeError:
        found = None
    return found if isinstance(found, dict) else {}


def _checked(endpoint: str) -> str:
    """Return a token endpoint. Raises `Permanent` for one to which a token should not be shown: no HTTPS but on this machine."""
    try:
        parts = urlsplit(endpoint)
        safe = parts.scheme == "https" or (parts.scheme == "http" and is_loopback(parts.hostname or ""))
        whole = bool(parts.hostname) and not parts.username and not parts.fragment
    except ValueError:
        safe = whole = False
    if not safe or not whole:
        raise Permanent("the token endpoint is no https URL", hint="a token that travels in the clear is anybody's")
    return endpoint
