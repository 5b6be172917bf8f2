"""The content of an Attachment: inline, in a Binary that came in the same Bundle, or in one that was fetched.

The mapping fetches nothing: what it lacks it names (`Index.wanted`), and is asked again with what was to be had of that
(`connectors.fhir.contents`).
"""

import binascii
from base64 import b64decode
from typing import Any, Final

import orjson

from connectors.fhir.mapping.reading import Index, Reading, text
from connectors.fhir.structure import Json, kind_of
from connectors.fhir.understanding import modifier_issues

_JSON: Final = frozenset({"application/fhir+json", "application/json", "application/json+fhir"})


def content(reading: Reading, attachment: Any) -> tuple[bytes, str]:
    """Return an Attachment's bytes and content type. Raises `ValueError` with the reason, not the content, for none."""
    if not isinstance(attachment, dict):
        raise ValueError("not an attachment")
    data, kind = text(attachment.get("data")), text(attachment.get("contentType"))
    if not data and (url := text(attachment.get("url"))):
        binary = reading.index.find(url, reading.resource)
        if binary is None or kind_of(binary) != "Binary":
            return _elsewhere(reading.index, url, kind)
        return _of_binary(binary, kind)
    return _decoded(data), kind


def _elsewhere(index: Index, url: str, kind: str) -> tuple[bytes, str]:
    """Return what was fetched from a URL."""
    found = index.fetched.get(url)
    if found is None:
        index.wanted.add(url)
        raise ValueError("content elsewhere (url) is not fetched")
    if isinstance(found, str):
        raise ValueError(found)
    data, given = found
    if _media_type(given) in _JSON and (binary := _parsed(data)) is not None:
        if modifier_issues(binary):
            raise ValueError("content elsewhere (url) with a modifier that is not known here")
        return _of_binary(binary, kind)
    if not data:
        raise ValueError("an attachment without data")
    return data, given if _media_type(kind) in ("", _media_type(given)) else kind  # the answer's may say the character set


def _of_binary(binary: Json, kind: str) -> tuple[bytes, str]:
    return _decoded(text(binary.get("data"))), kind or text(binary.get("contentType"))


def _parsed(data: bytes) -> Json | None:
    try:
        found = orjson.loads(data)
    except orjson.JSONDecodeError:
        return None
    return found if isinstance(found, dict) and kind_of(found) == "Binary" else None


def _media_type(kind: str) -> str:
    return kind.partition(";")[0].strip().lower()


def _decoded(data: str) -> bytes:
    if not data:
        raise ValueError("an attachment without data")
    try:
        return b64decode("".join(data.split()), validate=True)
    except (binascii.Error, ValueError):
        raise ValueError("attachment data is not base64") from None
