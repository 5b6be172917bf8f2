"""The text of a PDF as reports embed it, where it has any: a scanned page has none."""

import io
import logging
from typing import Final

from pypdf import PdfReader

PAGES: Final = 200
CHARACTERS: Final = 2_000_000

logging.getLogger("pypdf").setLevel(logging.CRITICAL)  # it quotes what it stumbles over


def text_of_pdf(data: bytes) -> str:
    """Return the text of all pages. Raises `ValueError`, without content, when it cannot be read or is too long."""
    try:
        reader = PdfReader(io.BytesIO(data), strict=False)
        if reader.is_encrypted and not reader.decrypt(""):
            raise ValueError("embedded PDF is encrypted")
        if len(reader.pages) > PAGES:
            raise ValueError("embedded PDF has too many pages")
        text = ""
        for page in reader.pages:
            text += page.extract_text() + "\n"
            if len(text) > CHARACTERS:
                raise ValueError("embedded PDF is too long")
    except ValueError as error:
        if str(error).startswith("embedded PDF"):
            raise
        raise ValueError("embedded PDF that cannot be read") from None
    except Exception:  # a parser of foreign data may fail in any way; its message may quote the document
        raise ValueError("embedded PDF that cannot be read") from None
    return text
