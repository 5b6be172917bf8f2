"""The content of an Attachment: inline, or in a Binary that came in the same Bundle. What lies elsewhere is not fetched."""

import binascii
from base64 import b64decode
from typing import Any

from connectors.fhir.mapping.reading import Reading, text
from connectors.fhir.structure import kind_of


def content(reading: Reading, attachment: Any) -> tuple[bytes, str]:
    """Return an Attachment's bytes and content type. Raises `ValueError` with the reason, not the content, for none."""
    if not isinstance(attachment, dict):
        raise ValueError("not an attachment")
    data, kind = text(attachment.get("data")), text(attachment.get("contentType"))
    if not data and (url := text(attachment.get("url"))):
        binary = reading.index.find(url, reading.resource)
        if binary is None or kind_of(binary) != "Binary":
            raise ValueError("content elsewhere (url) is not fetched")
        data, kind = text(binary.get("data")), kind or text(binary.get("contentType"))
    if not data:
        raise ValueError("an attachment without data")
    try:
        return b64decode("".join(data.split()), validate=True), kind
    except (binascii.Error, ValueError):
        raise ValueError("attachment data is not base64") from None
