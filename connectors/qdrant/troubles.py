"""What goes wrong between us and Qdrant, named for what it asks of the caller.

| what happened | raised |
|---|---|
| not reachable, connection lost, time-out, unreadable answer, HTTP 408, 429, 5xx; gRPC UNAVAILABLE and its like | `Transient` |
| a collection is missing | `Missing`, a `Transient`: points go nowhere else, and it is there again once it was made or rebuilt |
| the vector has another length or name than the collection: the wrong collection for the model | `Fatal` |
| the API key is refused; the store cannot do what is asked (501) | `Fatal` |
| a write is refused for what is in it (400, 413, 422) | `Poison`, stage "store" |
| a read is refused for what is asked | `Permanent` |

Qdrant's own words may quote a payload, so for writes they are matched and never passed on, nor is their exception chained.
"""

import json
import re
from typing import Final, NoReturn

import grpc  # type: ignore[import-untyped]
import httpx
from qdrant_client.common.client_exceptions import QdrantException
from qdrant_client.http.exceptions import ResponseHandlingException, UnexpectedResponse

from models.errors import Fatal, Permanent, Poison, Transient

TROUBLES: Final = (
    *(ResponseHandlingException, UnexpectedResponse, QdrantException, grpc.RpcError, TimeoutError),
    *(json.JSONDecodeError, UnicodeDecodeError, AssertionError),  # how the client takes an answer that is not Qdrant's
)
"""What a call of qdrant-client raises when the store or the way to it is in trouble."""


class Missing(Transient):
    """A collection is not there: nobody made it yet, the store was emptied, or it is another store."""


_WRONG_VECTOR: Final = re.compile(r"Vector dimension error: expected dim: (\d+), got (\d+)|Not existing vector name error")
_MISSING: Final = re.compile(r"Collection `[^`]*` doesn't exist")
_HTTP_OF_GRPC: Final = {
    grpc.StatusCode.INVALID_ARGUMENT: 400,
    grpc.StatusCode.OUT_OF_RANGE: 400,
    grpc.StatusCode.FAILED_PRECONDITION: 400,
    grpc.StatusCode.UNAUTHENTICATED: 401,
    grpc.StatusCode.PERMISSION_DENIED: 403,
    grpc.StatusCode.NOT_FOUND: 404,
    grpc.StatusCode.ALREADY_EXISTS: 409,
    grpc.StatusCode.RESOURCE_EXHAUSTED: 429,
    grpc.StatusCode.UNIMPLEMENTED: 501,
}  # every other code is the world's trouble, not the request's: 503


def raise_for(error: BaseException, *, url: str, doing: str, writing: bool) -> NoReturn:
    """Raise what `error`, one of `TROUBLES`, asks of the caller. `doing` says in words what was under way, without PHI."""
    if isinstance(error, UnexpectedResponse):
        _raise_for_status(error.status_code or 503, error.content.decode(errors="replace"), url, doing, writing)
    if isinstance(error, grpc.aio.AioRpcError):
        _raise_for_status(_HTTP_OF_GRPC.get(error.code(), 503), error.details() or "", url, doing, writing)
    raise Transient(f"{doing}: {_plainly(error)} (vector store at {url})", hint="is the vector store up?") from None


def _raise_for_status(status: int, text: str, url: str, doing: str, writing: bool) -> NoReturn:
    if wrong := _WRONG_VECTOR.search(text):
        lengths = (
            f": it holds vectors of {wrong[1]} numbers, the model gives {wrong[2]}" if wrong[1] else ": it has no such vector"
        )
        raise Fatal(f"{doing}: the wrong collection for this model{lengths} (vector store at {url})") from None
    if status == 404 and _MISSING.search(text):
        hint = "the first start of its lane makes it; was there one, was the vector store emptied, or is vectors.url another?"
        raise Missing(f"{doing}: the collection does not exist (vector store at {url})", hint=hint) from None
    if status in (408, 429) or (status >= 500 and status != 501):
        raise Transient(f"{doing}: the vector store at {url} answered {status}, which passes") from None
    if status in (401, 403):
        raise Fatal(
            f"{doing}: the vector store at {url} refused the API key ({status})", hint="set `vectors.api_key`"
        ) from None
    if status == 501:
        raise Fatal(f"{doing}: the vector store at {url} cannot do this: {text[:300]}") from None
    if writing:
        raise Poison(f"{doing}: the vector store at {url} refused the points ({status})", stage="store") from None
    raise Permanent(f"{doing}: the vector store at {url} refused the request ({status}): {text[:300]}") from None


def _plainly(error: BaseException) -> str:
    source = error.source if isinstance(error, ResponseHandlingException) else error
    if isinstance(source, httpx.ConnectError):
        return "no connection"
    if isinstance(source, httpx.TimeoutException | TimeoutError):
        return "no answer in time"
    if isinstance(source, httpx.TransportError):
        return f"the connection broke ({type(source).__name__})"
    if isinstance(source, QdrantException):
        return "it asks to be spared for a while"
    return f"an answer that cannot be read ({type(source).__name__})"
