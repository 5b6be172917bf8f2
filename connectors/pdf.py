"""The text of a PDF, read in a process of its own: a document that never ends or eats all memory must not stop a feed.

As a program (`python pdf.py < document`) it writes JSON: `{"text": ...}` or `{"error": ...}`. It imports nothing of Vigil, so that
it starts as fast as pypdf does.
"""

import contextlib
import io
import json
import logging
import subprocess
import sys
from pathlib import Path
from typing import Final

SECONDS: Final = 20
MEMORY_BYTES: Final = 1024**3
PAGES: Final = 200
CHARACTERS: Final = 2_000_000


def text_of_pdf(data: bytes, *, seconds: float = SECONDS) -> str:
    """Return the text of all pages; a scanned page has none. Blocks (0.5 s and more).

    Raises `ValueError`, without content, when it cannot be read, is too long, or takes too long.
    """
    command = [sys.executable, "-I", str(Path(__file__))]
    try:
        done = subprocess.run(command, input=data, capture_output=True, timeout=seconds, check=False)  # noqa: S603  our own
        answer = json.loads(done.stdout)
    except subprocess.TimeoutExpired:
        raise ValueError("embedded PDF takes too long to read") from None
    except ValueError:  # it died, of memory for example
        raise ValueError("embedded PDF that cannot be read") from None
    if "text" not in answer:
        raise ValueError(str(answer["error"]))
    return str(answer["text"])


def _read(data: bytes) -> dict[str, str]:
    from pypdf import PdfReader

    logging.disable(logging.CRITICAL)  # it quotes what it stumbles over
    reader = PdfReader(io.BytesIO(data), strict=False)
    if reader.is_encrypted and not reader.decrypt(""):
        return {"error": "embedded PDF is encrypted"}
    if len(reader.pages) > PAGES:
        return {"error": "embedded PDF has too many pages"}
    text = ""
    for page in reader.pages:
        text += page.extract_text() + "\n"
        if len(text) > CHARACTERS:
            return {"error": "embedded PDF is too long"}
    return {"text": text}


def _main() -> None:
    with contextlib.suppress(ImportError, OSError, ValueError):  # not everywhere; the time limit holds all the same
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
        resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
    try:
        answer = _read(sys.stdin.buffer.read())
    except Exception:  # a parser of foreign data may fail in any way; its message may quote the document
        answer = {"error": "embedded PDF that cannot be read"}
    sys.stdout.write(json.dumps(answer))


if __name__ == "__main__":
    _main()
