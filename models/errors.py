"""Every error Vigil raises on purpose, named for the decision that it asks of the caller.

    VigilError
    ├── Transient    try again later, in order: nothing is wrong with the input        -> hold and back off
    ├── Permanent    this request can never work, and it is not the stream's input     -> refuse, tell the asker
    ├── Poison       this input can never be processed                                 -> dead letter, go on
    └── Fatal        going on would break a promise (lost data, wrong model, no disk)  -> stop the process, commit nothing

The hierarchy stands on the ground floor because every floor raises it. Messages carry names, places and numbers, never
patient text: they end up in logs, metrics and dead letters.
"""


class VigilError(Exception):
    """Base of all; never raised itself. `hint` says in plain words how to mend it, for the command line and `vigil doctor`."""

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint

    @property
    def advice(self) -> str:
        """The message, and behind it in brackets the hint where there is one: for a line of a log."""
        return f"{self} ({self.hint})" if self.hint else str(self)


class Transient(VigilError):
    """The world outside is in the way (broker, vector store, object store, a late model): the same input may work later."""


class Permanent(VigilError):
    """What was asked for cannot be done as asked (unknown model name, bad setting, unsupported message type)."""


class Poison(VigilError):
    """This one input cannot be processed, now or ever (undecodable bytes, missing pixels, NaN from a model).

    `stage` names where it failed (decode, fetch, model, produce, ...), as the dead letter shows it.
    """

    def __init__(self, message: str, *, stage: str = "process", hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.stage = stage


class Fatal(VigilError):
    """Going on would break a promise: a weight file whose digest differs, a dead letter that cannot be written."""
