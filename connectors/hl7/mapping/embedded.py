"""The bytes of an ED value (encapsulated data, chapter 2A): base64, hexadecimal or plain; what they say: `connectors.texts`."""

import binascii
from base64 import b64decode

from connectors import texts
from connectors.hl7.message import Segment


def text_of(obx: Segment, codec: str) -> str:
    """Return the text of an OBX-5 of type ED. Raises `ValueError` with the reason, not the content, when there is none."""
    return texts.text_of(_data(obx), " ".join(obx.get(5, n) for n in (2, 3)), codec)


def _data(obx: Segment) -> bytes:
    encoding = obx.get(5, 4).lower()
    content = obx.get(5, 5)
    if not content:
        raise ValueError("embedded data is empty")
    try:
        if encoding == "base64":
            return b64decode("".join(content.split()), validate=True)
        if encoding == "hex":
            return bytes.fromhex(content)
    except (binascii.Error, ValueError):
        raise ValueError(f"embedded data is not {encoding}") from None
    if encoding in ("a", ""):
        return content.encode()
    raise ValueError("embedded data in an unknown encoding")
