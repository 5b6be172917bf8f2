"""A hub on this machine: folders of models as `OWNER/NAME`, spoken to as huggingface.co is, as far as files are read.

What it answers is what the hub's own client asks for (`huggingface_hub` 1.x: revisions, trees, files with ranges).
"""

import hashlib
import http.server
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

SECRET = "hf_of-this-site"


class Hub:
    """Serves the folders below `root`; `asked` are the files that were asked for, `commit` what each branch stands for."""

    def __init__(self, root: Path, *, private: bool = False) -> None:
        self.root = root
        self.private = private
        self.asked: list[str] = []
        self.commit = hashlib.sha1(b"first", usedforsecurity=False).hexdigest()
        self.address = ""

    @contextmanager
    def running(self) -> Iterator["Hub"]:
        with http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(_Answer, self)) as server:
            thread = threading.Thread(target=server.serve_forever, args=(0.01,))
            thread.start()
            self.address = f"http://127.0.0.1:{server.server_address[1]}"
            try:
                yield self
            finally:
                server.shutdown()
                thread.join()


class _Answer(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def __init__(self, hub: Hub, *given: Any) -> None:
        self.hub = hub
        super().__init__(*given)

    def log_message(self, *words: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        parts = unquote(urlsplit(self.path).path).strip("/").split("/")
        if self.hub.private and self.headers.get("Authorization") != f"Bearer {SECRET}":
            return self._say(401, {"error": "who are you?"}, **{"X-Error-Code": "GatedRepo"})
        if parts[:2] == ["api", "models"]:
            owner, name, *rest = parts[2:]
            if not (folder := self.hub.root / owner / name).is_dir():
                return self._say(404, {"error": "no such model"}, **{"X-Error-Code": "RepoNotFound"})
            files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
            if rest[:1] == ["tree"]:
                return self._say(200, [self._row(path, folder) for path in files])
            siblings = [{"rfilename": path.relative_to(folder).as_posix()} for path in files]
            return self._say(200, {"id": f"{owner}/{name}", "sha": self.hub.commit, "siblings": siblings, "tags": []})
        owner, name, verb, revision, *inside = parts
        path = self.hub.root / owner / name / "/".join(inside)
        if verb != "resolve" or revision not in ("main", self.hub.commit) or not path.is_file():
            return self._say(404, {"error": "no such file"}, **{"X-Error-Code": "EntryNotFound"})
        self.hub.asked.append("/".join(inside))
        return self._send(200, path.read_bytes(), ETag='"x"', **{"X-Repo-Commit": self.hub.commit})

    def _row(self, path: Path, folder: Path) -> dict[str, Any]:
        oid = hashlib.sha1(path.read_bytes(), usedforsecurity=False).hexdigest()
        return {"type": "file", "path": path.relative_to(folder).as_posix(), "size": path.stat().st_size, "oid": oid}

    def _say(self, status: int, body: Any, **headers: str) -> None:
        self._send(status, json.dumps(body).encode(), **{"Content-Type": "application/json"}, **headers)

    def _send(self, status: int, body: bytes, **headers: str) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
