"""What stands for an acknowledgement where the sender is a file: a bookmark, moved on only after Kafka has confirmed.

A replay that was stopped goes on behind the last confirmed set; what was sent and not confirmed is sent again under the same ids.
"""

import os
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from models.errors import Fatal, Permanent


class Mark(BaseModel):
    """How far a file was confirmed. `shift` (seconds) keeps times, and so ids, the same after a restart."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    file: str
    size: int
    sets: int
    shift: float = 0.0


@dataclass(frozen=True, slots=True)
class Bookmark:
    """A file beside the data, or wherever the user says."""

    path: Path

    def load(self, data: Path) -> Mark | None:
        """Return how far `data` was confirmed, None for a first run. Raises `Permanent` when the mark is another file's."""
        try:
            mark = Mark.model_validate_json(self.path.read_bytes())
        except FileNotFoundError:
            return None
        except (OSError, ValidationError) as error:
            raise Permanent(f"the bookmark {self.path.name} cannot be read", hint="delete it to begin anew") from error
        if (mark.file, mark.size) != (data.name, data.stat().st_size):
            raise Permanent(f"the bookmark {self.path.name} is another file's", hint="delete it to begin anew")
        return mark

    def save(self, data: Path, sets: int, shift: float) -> None:
        """Move on. Raises `Fatal` when that cannot be written: a restart would then repeat without end."""
        mark = Mark(file=data.name, size=data.stat().st_size, sets=sets, shift=shift)
        part = self.path.with_name(self.path.name + ".part")
        try:
            with part.open("wb") as file:
                file.write(mark.model_dump_json().encode())
                file.flush()
                os.fsync(file.fileno())
            part.replace(self.path)
        except OSError as error:
            raise Fatal(f"the bookmark {self.path.name} cannot be written") from error
