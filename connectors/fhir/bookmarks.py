"""How far a pull is, kept over restarts."""

import json
from pathlib import Path
from typing import Any

from models.errors import Fatal, Permanent


class Bookmark:
    """Where to go on: a small JSON file, written whole and replaced."""

    def __init__(self, path: Path | None, server: str = "") -> None:
        """None: remembered only while the process runs. Raises `Permanent` when it cannot be read, or is another server's."""
        self._path = path
        try:
            self._known: dict[str, Any] = dict(json.loads(path.read_bytes())) if path else {}
        except FileNotFoundError:
            self._known = {}
        except (OSError, ValueError, TypeError) as error:
            raise Permanent("the bookmark cannot be read", hint="delete it to begin anew") from error
        if server and self._known.get("server", server) != server:
            raise Permanent("the bookmark is another server's", hint="name another file")
        if server:
            self.set("server", server)

    def get(self, name: str) -> Any:
        """Return what was saved under a name, None for nothing."""
        return self._known.get(name)

    def set(self, name: str, value: Any) -> None:
        """Save. Raises `Fatal` when that cannot be written: the next run would repeat everything."""
        self._known[name] = value
        self._save()

    def end_export(self) -> None:
        """Forget an export and how far its files were read: those of the next one may have the same names."""
        self._known = {
            name: value for name, value in self._known.items() if name != "export" and not name.startswith("output ")
        }
        self._save()

    def _save(self) -> None:
        if self._path:
            part = self._path.with_name(self._path.name + ".part")
            try:
                part.write_text(json.dumps(self._known))
                part.replace(self._path)
            except OSError as error:
                raise Fatal(f"the bookmark {self._path.name} cannot be written") from error
