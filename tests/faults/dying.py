"""A worker that kills itself (SIGKILL) between two steps, where a kill from outside hardly ever comes.

python -m tests.faults.dying PLACE FILE lane run NAME

FILE says, a number a line, at the how-manieth such moment each process dies in turn: none while it is not there or empty. Of
Vigil's code one method is wrapped, in this process.
"""

import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from streams.cli import main
from streams.intake import Intake
from streams.outbox import Outbox
from streams.wire import Message

PLACES = {
    "unsent": "its work is done (stored, journalled), and nothing of it is written",
    "confirmed": "its outputs are confirmed, and not committed",
    "committed": "a commit is taken, and the next batch not begun",
}


class Moments:
    """Counts the moments at which this process could die, once it is told that it is to."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._passed = 0

    def pass_one(self) -> None:
        """Die, if it is this one."""
        if not self._file.is_file() or not (deaths := self._file.read_text().split()):
            return
        self._passed += 1
        if self._passed >= int(deaths[0]):
            left = self._file.with_suffix(".left")
            left.write_text("\n".join(deaths[1:]))
            left.replace(self._file)
            os.kill(os.getpid(), signal.SIGKILL)


def outputs(messages: Sequence[Message]) -> bool:
    """Tell whether these are what came of a batch of inputs: their audit goes with them, under the topic that they came from."""
    return any(one.topic == "clinical.audit" and (one.key or b"").startswith(b"clinical.") for one in messages)


def die_around_sends(moments: Moments, *, before: bool) -> None:
    """Pass a moment before, or after, each write of a batch's outputs."""
    send = Outbox.send

    async def sends(self: Outbox, messages: Sequence[Message]) -> None:
        if before and outputs(messages):
            moments.pass_one()
        await send(self, messages)
        if not before and outputs(messages):
            moments.pass_one()

    Outbox.send = sends  # type: ignore[method-assign]  # the product has no such hook, and needs none


def die_after_commits(moments: Moments) -> None:
    """Pass a moment after each commit that the broker took."""
    commit = Intake.commit

    async def commits(self: Intake) -> None:
        last = self.last_commit
        await commit(self)
        if self.last_commit != last:
            moments.pass_one()

    Intake.commit = commits  # type: ignore[method-assign]  # likewise


if __name__ == "__main__":
    place, file, *sys.argv[1:] = sys.argv[1:]
    if place == "committed":
        die_after_commits(Moments(Path(file)))
    else:
        die_around_sends(Moments(Path(file)), before=place == "unsent")
    main()
